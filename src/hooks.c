/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "hooks.h"

#include "http_core.h"
#include "http_log.h"
#include "http_protocol.h"
#include "http_request.h"
#include "util_filter.h"

#include <apr_strings.h>

#include "endpoint.h"
#include "process.h"
#include "proxy.h"

APLOG_USE_MODULE(usage_events);

#define REQUEST_ID "X-Request-Id"
#define DISCARD_MAX                                          \
    (64 * 1024) /* bytes of a body read to keep a connection \
                 */
#define DISCARD_AT_ONCE 8192

ue_request_t *ue_request_of(const request_rec *r)
{
    while (r->main || r->prev) {
        r = r->main ? r->main : r->prev;
    }
    return ap_get_module_config(r->request_config, &usage_events_module);
}

/** mod_cache stores an answer for all who ask the same, whoever they are. The
 * other way, r->no_cache, would add Expires to every answer. */
static void forbid_caching(request_rec *r, const ue_request_t *req)
{
    if (req->decision.verdict == UE_ALLOW) {
        apr_table_setn(r->subprocess_env, "no-cache", "1");
    }
}

static int is_preflight(const request_rec *r)
{
    return r->method_number == M_OPTIONS
           && apr_table_get(r->headers_in, "Origin")
           && apr_table_get(r->headers_in, "Access-Control-Request-Method");
}

static void identify(request_rec *r, ue_request_t *req)
{
    char *text = apr_palloc(r->pool, UE_UUID_LEN + 1);
    const char *theirs = req->server->trust_request_id
                             ? apr_table_get(r->headers_in, REQUEST_ID)
                             : NULL;

    if (!theirs
        || ue_uuid_parse(&req->request_id, theirs, strlen(theirs))
               != APR_SUCCESS) {
        ue_uuid_v7(&req->request_id, &ue_process.request_ids, r->request_time);
    }
    req->request_id_text = ue_uuid_format(&req->request_id, text);
    apr_table_setn(r->err_headers_out, REQUEST_ID, text);
}

static void decide(request_rec *r, ue_request_t *req, const char *path,
                   size_t path_len)
{
    const ue_server_t *server = req->server;
    const ue_keyheader_t *names = &server->key_header;
    int how;

    if ((server->exempt_count
         && ue_path_is_exempt(path, path_len, server->exempt,
                              server->exempt_count))
        || (server->exempt_preflight && is_preflight(r))) {
        req->decision.verdict = UE_EXEMPT;
        return;
    }
    ue_decide(
        &req->decision, &server->rule,
        names->authorization ? apr_table_get(r->headers_in, "Authorization")
                             : NULL,
        names->header ? apr_table_get(r->headers_in, names->header) : NULL,
        r->request_time, &how);
    if (how >= 0) {
        ue_metrics_add(ue_process.seat, UE_M_KEYS_HIT + how, 1);
    }
}

static void admit(request_rec *r, ue_request_t *req, const char *path,
                  size_t path_len)
{
    const ue_server_t *server = req->server;
    ue_admission_t a;

    a.request_id = req->request_id;
    a.organization_id = req->decision.who.organization_id;
    a.api_key_id = req->decision.who.api_key_id;
    a.timestamp = r->request_time;
    a.method = r->method;
    a.method_len = strlen(r->method);
    a.endpoint = path;
    a.endpoint_len = path_len;
    if (ue_producer_admit(ue_process.producers[server->producer], &a,
                          server->overflow, &req->ref)
            != APR_SUCCESS
        && server->overflow == UE_OVERFLOW_REFUSE) {
        req->decision.verdict = UE_UNAVAILABLE;
    }
}

int ue_hook_post_read_request(request_rec *r)
{
    const ue_server_t *server = ue_config_server(r->server);
    ue_request_t *req;
    const char *path;
    size_t path_len;

    if (r->main || !server || !server->enabled) {
        return DECLINED;
    }
    if (r->prev) { /* an internal redirect: decided, and on record */
        req = ue_request_of(r);
        if (req) {
            forbid_caching(r, req);
        }
        return DECLINED;
    }
    req = apr_pcalloc(r->pool, sizeof(*req));
    req->server = server;
    ap_set_module_config(r->request_config, &usage_events_module, req);
    path = ue_endpoint_path(r->unparsed_uri, &path_len);
    identify(r, req);
    decide(r, req, path, path_len);
    if (req->decision.verdict == UE_ALLOW) {
        admit(r, req, path, path_len);
    }
    ue_metrics_add(ue_process.seat, (ue_metric_t)req->decision.verdict, 1);
    forbid_caching(r, req);
    return DECLINED;
}

/**
 * Read what is left of a body, so that the connection can be used again. Where
 * it is longer than we care to read, or its sender waits for 100 Continue, the
 * connection ends with the answer.
 */
static void discard_body(request_rec *r)
{
    const char *length = apr_table_get(r->headers_in, "Content-Length");
    apr_bucket_brigade *bb;
    apr_off_t all = 0;
    int eos = 0;

    if (r->expecting_100 || (length && apr_atoi64(length) > DISCARD_MAX)) {
        r->connection->keepalive = AP_CONN_CLOSE;
        return;
    }
    if (!length && !apr_table_get(r->headers_in, "Transfer-Encoding")) {
        return;
    }
    bb = apr_brigade_create(r->pool, r->connection->bucket_alloc);
    while (!eos && all <= DISCARD_MAX) {
        apr_off_t n = 0;

        if (ap_get_brigade(r->input_filters, bb, AP_MODE_READBYTES,
                           APR_BLOCK_READ, DISCARD_AT_ONCE)
                != APR_SUCCESS
            || apr_brigade_length(bb, 1, &n) != APR_SUCCESS) {
            break;
        }
        eos = !APR_BRIGADE_EMPTY(bb) && APR_BUCKET_IS_EOS(APR_BRIGADE_LAST(bb));
        all += n;
        apr_brigade_cleanup(bb);
    }
    if (!eos) {
        r->connection->keepalive = AP_CONN_CLOSE;
    }
}

int ue_hook_quick_handler(request_rec *r, int lookup)
{
    const ue_request_t *req;
    const ue_problem_t *problem;
    char *body;
    size_t len;

    if (lookup || r->main || r->prev) {
        return DECLINED;
    }
    req = ap_get_module_config(r->request_config, &usage_events_module);
    problem = req ? ue_problem(req->decision.verdict) : NULL;
    if (!problem) {
        return DECLINED;
    }
    ap_log_rerror(APLOG_MARK, APLOG_DEBUG, 0, r, "UE0501: %s turned away: %s",
                  req->request_id_text, problem->title);
    /* Before the body is read, so that nobody is told to go on sending it; not
     * sooner, or httpd takes the request for one that it couldn't read. */
    r->status = problem->status;
    discard_body(r);
    body = apr_palloc(r->pool, UE_PROBLEM_JSON_MAX);
    len = ue_problem_json(problem, &req->request_id, body);
    ap_set_content_type(r, "application/problem+json");
    ap_set_content_length(r, (apr_off_t)len);
    apr_table_setn(r->headers_out, "Cache-Control", "no-store");
    if (problem->status == HTTP_UNAUTHORIZED) {
        apr_table_setn(r->headers_out, "WWW-Authenticate", "Bearer");
    }
    if (problem->retry_after) {
        apr_table_setn(r->headers_out, "Retry-After",
                       apr_itoa(r->pool, problem->retry_after));
    }
    /* For Header always (HSTS, CORS): the filters of a usual answer are put in
     * by what comes after quick handlers. */
    ap_run_insert_error_filter(r);
    if (!r->header_only) {
        ap_rwrite(body, (int)len, r);
    }
    return OK;
}

/** A backend's own X-Request-Id, or one that mod_cache kept. */
apr_status_t ue_filter_request_id(ap_filter_t *f, apr_bucket_brigade *bb)
{
    apr_table_unset(f->r->headers_out, REQUEST_ID);
    ap_remove_output_filter(f);
    return ap_pass_brigade(f->next, bb);
}

void ue_hook_insert_filter(request_rec *r)
{
    if (!r->main && ue_request_of(r)) {
        ap_add_output_filter(UE_FILTER_NAME, NULL, r, r->connection);
    }
}

static uint32_t duration_ms(const request_rec *r)
{
    apr_interval_time_t t = apr_time_now() - r->request_time;

    if (t < 0) {
        return 0; /* the clock was set back in between */
    }
    t = apr_time_as_msec(t);
    return t > UINT32_MAX ? UINT32_MAX : (uint32_t)t;
}

int ue_hook_log_transaction(request_rec *r)
{
    ue_request_t *req =
        ap_get_module_config(r->request_config, &usage_events_module);
    const request_rec *last = r;
    ue_completion_t done;
    ue_slot_ref_t ref;

    if (!req) {
        return DECLINED;
    }
    ue_proxy_restore(r, req);
    ref = req->ref;
    if (!ref) {
        return DECLINED;
    }
    req->ref = 0;
    while (last->next) {
        last = last->next;
    }
    done.status_code =
        (uint16_t)(last->status > 0 && last->status < 1000 ? last->status : 0);
    done.response_time_ms = duration_ms(r);
    done.billable = (uint8_t)(req->decision.who.billable
                              && ue_statusset_has(&req->server->billable,
                                                  done.status_code));
    ue_producer_record(ue_process.producers[req->server->producer], ref, &done,
                       req->server->overflow);
    return DECLINED;
}
