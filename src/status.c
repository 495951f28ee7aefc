/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "status.h"

#include "http_core.h"
#include "http_protocol.h"

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

/* ---- both ---- */

typedef void show_fn(request_rec *r, const ue_metrics_sum_t *sum);

/** @return NULL for a format that we don't have */
static show_fn *choose(const request_rec *r)
{
    const char *accept = apr_table_get(r->headers_in, "Accept");

    if (!r->args || !*r->args) {
        /* What Prometheus asks for, by either name. */
        return accept && !strstr(accept, "application/json")
                       && (strstr(accept, "text/plain")
                           || strstr(accept, "openmetrics"))
                   ? show_prometheus
                   : show_json;
    }
    if (!strcmp(r->args, "format=json")) {
        return show_json;
    }
    return strcmp(r->args, "format=prometheus") ? NULL : show_prometheus;
}

int ue_status_handler(request_rec *r)
{
    ue_metrics_sum_t sum;
    show_fn *show;

    if (!r->handler || strcmp(r->handler, "usage-status")) {
        return DECLINED;
    }
    if (r->method_number != M_GET) {
        r->allowed |= AP_METHOD_BIT << M_GET;
        return HTTP_METHOD_NOT_ALLOWED;
    }
    if (!ue_process.metrics) {
        return HTTP_NOT_FOUND; /* UsageEvents is On nowhere */
    }
    show = choose(r);
    if (!show) {
        r->status = HTTP_BAD_REQUEST;
        ap_set_content_type(r, "text/plain; charset=utf-8");
        ap_rputs("usage-status knows ?format=json and ?format=prometheus\n", r);
        return OK;
    }
    apr_table_setn(r->headers_out, "Cache-Control", "no-store");
    ue_metrics_sum(ue_process.metrics, &sum);
    show(r, &sum);
    return OK;
}
