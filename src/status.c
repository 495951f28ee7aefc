/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "status.h"

#include "http_core.h"
#include "http_protocol.h"
#include "http_request.h"

#include <apr_strings.h>

#include "process.h"
#include "version.h"

#define U64 "%" APR_UINT64_T_FMT

/* ---- Prometheus ---- */

static void head(request_rec *r, const char *name, const char *type,
                 const char *help)
{
    ap_rprintf(r, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void show_prometheus_latency(request_rec *r, const ue_metrics_sum_t *sum)
{
    uint64_t below = 0;
    int i;

    head(r, UE_LATENCY_NAME, "histogram", UE_LATENCY_HELP);
    for (i = 0; i < UE_LATENCY_BUCKETS; i++) {
        below += sum->latency[i];
        ap_rprintf(r, UE_LATENCY_NAME "_bucket{le=\"%s\"} " U64 "\n",
                   ue_latency_bounds[i].seconds, below);
    }
    below += sum->latency[UE_LATENCY_BUCKETS];
    ap_rprintf(r,
               UE_LATENCY_NAME "_bucket{le=\"+Inf\"} " U64 "\n" UE_LATENCY_NAME
                               "_sum %.6f\n" UE_LATENCY_NAME "_count " U64 "\n",
               below, (double)sum->latency_sum / APR_USEC_PER_SEC, below);
}

static void show_prometheus(request_rec *r, const ue_metrics_sum_t *sum)
{
    const char *name = "";
    int i;

    ap_set_content_type(r, "text/plain; version=0.0.4; charset=utf-8");
    for (i = 0; i < UE_METRICS; i++) {
        const ue_metric_info_t *info = &ue_metric_info[i];

        if (strcmp(name, info->name)) {
            name = info->name;
            head(r, name, info->type == UE_COUNTER ? "counter" : "gauge",
                 info->help);
        }
        if (info->label) {
            ap_rprintf(r, "%s{%s=\"%s\"} " U64 "\n", name, info->label,
                       info->value, sum->value[i]);
        }
        else {
            ap_rprintf(r, "%s " U64 "\n", name, sum->value[i]);
        }
    }
    head(r, UE_WAITING_NAME, "gauge", UE_WAITING_HELP);
    ap_rprintf(r, UE_WAITING_NAME " " U64 "\n", sum->waiting);
    head(r, UE_CHILDREN_NAME, "gauge", UE_CHILDREN_HELP);
    ap_rprintf(r, UE_CHILDREN_NAME " %u\n", sum->children);
    show_prometheus_latency(r, sum);
}

/* ---- JSON ---- */

static void show_json_metrics(request_rec *r, const ue_metrics_sum_t *sum)
{
    const char *name = "";
    int i;

    for (i = 0; i < UE_METRICS; i++) {
        const ue_metric_info_t *info = &ue_metric_info[i];
        int last = i + 1 == UE_METRICS
                   || strcmp(info->name, ue_metric_info[i + 1].name);

        if (!info->label) {
            ap_rprintf(r, "\"%s\":" U64 ",", info->name, sum->value[i]);
            continue;
        }
        if (strcmp(name, info->name)) {
            name = info->name;
            ap_rprintf(r, "\"%s\":{", name);
        }
        ap_rprintf(r, "\"%s\":" U64 "%s", info->value, sum->value[i],
                   last ? "}," : ",");
    }
    ap_rprintf(r,
               "\"" UE_WAITING_NAME "\":" U64 ",\"" UE_CHILDREN_NAME "\":%u,",
               sum->waiting, sum->children);
}

static void show_json_latency(request_rec *r, const ue_metrics_sum_t *sum)
{
    uint64_t below = 0;
    int i;

    ap_rputs("\"" UE_LATENCY_NAME "\":{\"buckets\":{", r);
    for (i = 0; i < UE_LATENCY_BUCKETS; i++) {
        below += sum->latency[i];
        ap_rprintf(r, "\"%s\":" U64 ",", ue_latency_bounds[i].seconds, below);
    }
    below += sum->latency[UE_LATENCY_BUCKETS];
    ap_rprintf(r, "\"+Inf\":" U64 "},\"sum\":%.6f,\"count\":" U64 "}", below,
               (double)sum->latency_sum / APR_USEC_PER_SEC, below);
}

typedef struct {
    request_rec *r;
    int count;
} losses_t;

static void show_json_loss(void *baton, const ue_uuid_t *organization_id,
                           const uint64_t lost[UE_LOSSES])
{
    losses_t *losses = baton;
    char id[UE_UUID_LEN + 1];
    int i;

    ap_rprintf(losses->r, "%s{\"organization_id\":\"%s\",\"lost\":{",
               losses->count++ ? "," : "", ue_uuid_format(organization_id, id));
    for (i = 0; i < UE_LOSSES; i++) {
        ap_rprintf(losses->r, "%s\"%s\":" U64, i ? "," : "",
                   ue_loss_name((ue_loss_t)i), lost[i]);
    }
    ap_rputs("}}", losses->r);
}

static void show_json(request_rec *r, const ue_metrics_sum_t *sum)
{
    losses_t losses = {r, 0};

    ap_set_content_type(r, "application/json");
    ap_rputs("{\"version\":\"" UE_VERSION "\",\"metrics\":{", r);
    show_json_metrics(r, sum);
    show_json_latency(r, sum);
    ap_rputs("},\"lost_by_organization\":[", r);
    ue_metrics_losses(ue_process.metrics, show_json_loss, &losses);
    ap_rputs("]}\n", r);
}

/* ---- HTML ---- */

static void show_html_row(request_rec *r, const char *name, const char *label,
                          const char *help, uint64_t value)
{
    ap_rprintf(r,
               "<tr><td><code>%s</code></td><td>%s</td><td class=n>" U64
               "</td><td>%s</td></tr>\n",
               name, label ? label : "", value, help);
}

static void show_html_loss(void *baton, const ue_uuid_t *organization_id,
                           const uint64_t lost[UE_LOSSES])
{
    losses_t *losses = baton;
    char id[UE_UUID_LEN + 1];
    int i;

    for (i = 0; i < UE_LOSSES; i++) {
        if (lost[i]) {
            losses->count++;
            ap_rprintf(losses->r,
                       "<tr><td><code>%s</code></td><td>%s</td><td class=n>" U64
                       "</td></tr>\n",
                       ue_uuid_format(organization_id, id),
                       ue_loss_name((ue_loss_t)i), lost[i]);
        }
    }
}

static const char html_head[] =
    "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>"
    "<title>Usage events</title><style>"
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:64em;"
    "padding:0 1em;color:#222}table{border-collapse:collapse;width:100%}"
    "td,th{text-align:left;padding:.2em .8em .2em 0;vertical-align:top;"
    "border-bottom:1px solid #ddd}.n{text-align:right;"
    "font-variant-numeric:tabular-nums}td:nth-child(2){white-space:nowrap}"
    "</style></head>\n"
    "<body><h1>Usage events</h1>\n<p>mod_usage_events " UE_VERSION
    ". Also as <a href=\"?format=json\">JSON</a> and for "
    "<a href=\"?format=prometheus\">Prometheus</a>.</p>\n";

/** What all the other numbers are about. */
static void show_html_account(request_rec *r, const ue_metrics_sum_t *sum)
{
    uint64_t admitted = sum->value[UE_M_EVENTS_ADMITTED];
    uint64_t delivered = sum->value[UE_M_EVENTS_DELIVERED];

    ap_rprintf(r,
               "<p><b>" U64 "</b> admitted = <b>" U64 "</b> delivered + <b>" U64
               "</b> lost + <b>" U64 "</b> waiting</p>\n",
               admitted, delivered, sum->lost, sum->waiting);
}

static void show_html(request_rec *r, const ue_metrics_sum_t *sum)
{
    losses_t losses = {r, 0};
    int i;

    ap_set_content_type(r, "text/html; charset=utf-8");
    ap_rputs(html_head, r);
    show_html_account(r, sum);
    ap_rputs("<table><tr><th>Number</th><th></th><th class=n>Value</th>"
             "<th>Meaning</th></tr>\n",
             r);
    for (i = 0; i < UE_METRICS; i++) {
        const ue_metric_info_t *info = &ue_metric_info[i];

        show_html_row(r, info->name, info->value, info->help, sum->value[i]);
    }
    show_html_row(r, UE_WAITING_NAME, NULL, UE_WAITING_HELP, sum->waiting);
    show_html_row(r, UE_CHILDREN_NAME, NULL, UE_CHILDREN_HELP, sum->children);
    ap_rputs(
        "</table>\n<h2>Losses by organization</h2>\n<table><tr>"
        "<th>Organization</th><th>Cause</th><th class=n>Events</th></tr>\n",
        r);
    ue_metrics_losses(ue_process.metrics, show_html_loss, &losses);
    ap_rputs(losses.count ? "</table>" : "</table>\n<p>None.</p>", r);
    ap_rputs("</body></html>\n", r);
}

/* ---- all ---- */

typedef void show_fn(request_rec *r, const ue_metrics_sum_t *sum);

/** By what a client would rather have; Prometheus asks for text/plain. */
static show_fn *choose_by_accept(const request_rec *r)
{
    const char *accept = apr_table_get(r->headers_in, "Accept");

    if (!accept || strstr(accept, "application/json")) {
        return show_json;
    }
    if (strstr(accept, "text/html")) {
        return show_html;
    }
    return strstr(accept, "text/plain") ? show_prometheus : show_json;
}

/** @return NULL for a format that we don't have */
static show_fn *choose(const request_rec *r)
{
    static const struct {
        const char *args;
        show_fn *show;
    } formats[] = {{"format=json", show_json},
                   {"format=prometheus", show_prometheus},
                   {"format=html", show_html}};
    apr_size_t i;

    if (!r->args || !*r->args) {
        return choose_by_accept(r);
    }
    for (i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        if (!strcmp(r->args, formats[i].args)) {
            return formats[i].show;
        }
    }
    return NULL;
}

int ue_status_handler(request_rec *r)
{
    ue_metrics_sum_t sum;
    show_fn *show;

    if (!r->handler || strcmp(r->handler, "usage-status")) {
        return DECLINED;
    }
    if (r->method_number != M_GET) {
        ap_allow_standard_methods(r, REPLACE_ALLOW, M_GET, -1);
        return HTTP_METHOD_NOT_ALLOWED;
    }
    if (!ue_process.metrics) {
        return HTTP_NOT_FOUND; /* UsageEvents is On nowhere */
    }
    show = choose(r);
    if (!show) {
        r->status = HTTP_BAD_REQUEST;
        ap_set_content_type(r, "text/plain; charset=utf-8");
        ap_rputs("usage-status knows ?format=json, prometheus and html\n", r);
        return OK;
    }
    apr_table_setn(r->headers_out, "Cache-Control", "no-store");
    ue_metrics_set(ue_process.seat, UE_M_LIMIT_SUBJECTS,
                   ue_subjects_count(ue_process.subjects));
    ue_metrics_sum(ue_process.metrics, &sum);
    show(r, &sum);
    return OK;
}
