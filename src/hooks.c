/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "hooks.h"

#include <assert.h>

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
    if (ue_process.caches && req->decision.verdict == UE_ALLOW) {
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
    /* For what is answered before there are filters: TRACE, OPTIONS *. */
    apr_table_setn(r->headers_out, REQUEST_ID, text);
}

static void decide(request_rec *r, ue_request_t *req, const char *path,
                   size_t path_len)
{
    const ue_server_t *server = req->server;
    const ue_keyheader_t *names = &server->key_header;
    /* The client's address is the one that mod_remoteip has left. */
    const ue_asked_t asked = {r->useragent_addr, r->method, path, path_len};

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
        &asked, r->request_time);
    if (req->decision.how != UE_KEYSTORE_NONE) {
        ue_metrics_add(ue_process.seat,
                       (ue_metric_t)(UE_M_KEYS_HIT + (int)req->decision.how),
                       1);
    }
}

static void admit(request_rec *r, ue_request_t *req, const char *path,
                  size_t path_len, ue_overflow_t overflow)
{
    ue_admission_t a;

    a.request_id = req->request_id;
    a.organization_id = req->decision.who.organization_id;
    a.api_key_id = req->decision.who.api_key_id;
    a.timestamp = r->request_time;
    a.method = r->method;
    a.method_len = strlen(r->method);
    a.endpoint = path;
    a.endpoint_len = path_len;
    if (ue_producer_admit(ue_process.producers[req->server->producer], &a,
                          overflow, &req->ref)
            != APR_SUCCESS
        && overflow == UE_OVERFLOW_REFUSE) {
        req->decision.verdict = UE_UNAVAILABLE;
    }
}

static_assert((int)UE_M_REQUESTS_EXEMPT == (int)UE_EXEMPT
                  && (int)UE_M_REQUESTS_UNAVAILABLE == (int)UE_UNAVAILABLE,
              "a verdict is the number of its counter");
static_assert((int)UE_M_REQUESTS_NOT_ALLOWED == (int)UE_NOT_ALLOWED
                  && (int)UE_M_KEYS_HIT + (int)UE_KEYSTORE_FAILED
                         == (int)UE_M_KEYS_FAILED,
              "so is how a look-up went, from the first on");

static void count_decision(const ue_request_t *req)
{
    ue_metrics_add(ue_process.seat, (ue_metric_t)req->decision.verdict, 1);
}

/**
 * Will httpd answer this request by switching to HTTP/2 (Upgrade: h2c)? Then
 * it comes once more, as the first stream of the new connection, and owes one
 * event, not two. Asked in the same way as core's own handler will ask
 * (core_upgrade_handler).
 */
static int may_switch(request_rec *r)
{
    const char *upgrade = apr_table_get(r->headers_in, "Upgrade");
    apr_array_header_t *offers = NULL;
    const char *protocol;

    if (!upgrade || r->connection->master
        || !ap_find_token(r->pool, apr_table_get(r->headers_in, "Connection"),
                          "upgrade")
        || ap_parse_token_list_strict(r->pool, upgrade, &offers, 0) || !offers
        || !offers->nelts) {
        return 0;
    }
    protocol = ap_select_protocol(r->connection, r, NULL, offers);
    return protocol && strcmp(protocol, ap_get_protocol(r->connection));
}

static int has_switched(const request_rec *r)
{
    return strcmp(ap_get_protocol(r->connection), AP_PROTOCOL_HTTP1) != 0;
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
            apr_table_setn(r->headers_out, REQUEST_ID, req->request_id_text);
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
        req->may_switch = may_switch(r);
        if (!req->may_switch) {
            admit(r, req, path, path_len, server->overflow);
        }
        else if (server->overflow == UE_OVERFLOW_REFUSE
                 && !ue_producer_has_room(
                     ue_process.producers[server->producer])) {
            req->decision.verdict = UE_UNAVAILABLE;
            req->may_switch = 0;
        }
    }
    if (!req->may_switch) {
        count_decision(req);
    }
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
    problem = req ? ue_problem(&req->decision) : NULL;
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
    /* Our own, and for Header always (HSTS, CORS): the filters of a usual
     * answer are put in by what comes after quick handlers. */
    ap_run_insert_error_filter(r);
    if (problem->status == HTTP_UNAUTHORIZED) {
        apr_table_setn(r->headers_out, "WWW-Authenticate", "Bearer");
    }
    if (problem->retry_after) {
        apr_table_setn(r->headers_out, "Retry-After",
                       apr_itoa(r->pool, problem->retry_after));
    }
    if (!r->header_only) {
        ap_rwrite(body, (int)len, r);
    }
    return OK;
}

static ap_filter_rec_t *filter;

/** In place of a backend's own X-Request-Id, or of one that mod_cache kept. CGI
 * and its kin put theirs among the fields that go with errors, too. */
static apr_status_t set_request_id(ap_filter_t *f, apr_bucket_brigade *bb)
{
    const ue_request_t *req = f->ctx;

    if (!apr_is_empty_table(f->r->err_headers_out)) {
        apr_table_unset(f->r->err_headers_out, REQUEST_ID);
    }
    apr_table_setn(f->r->headers_out, REQUEST_ID, req->request_id_text);
    ap_remove_output_filter(f);
    return ap_pass_brigade(f->next, bb);
}

void ue_hook_register_filter(void)
{
    /* Behind every filter that may set headers, before they are sent. */
    filter = ap_register_output_filter("USAGE_REQUEST_ID", set_request_id, NULL,
                                       AP_FTYPE_PROTOCOL - 1);
}

void ue_hook_insert_filter(request_rec *r)
{
    ue_request_t *req = r->main ? NULL : ue_request_of(r);

    if (req) {
        ap_add_output_filter_handle(filter, req, r, r->connection);
    }
}

void ue_hook_insert_error_filter(request_rec *r)
{
    const ue_request_t *req = r->main ? NULL : ue_request_of(r);

    /* httpd is about to answer by itself, with these fields alone. */
    if (req) {
        apr_table_unset(r->headers_out, REQUEST_ID);
        apr_table_setn(r->err_headers_out, REQUEST_ID, req->request_id_text);
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

/** A request that was expected to switch protocols and was answered instead. */
static void admit_late(request_rec *r, ue_request_t *req)
{
    const char *path;
    size_t path_len;

    req->may_switch = 0;
    path = ue_endpoint_path(r->unparsed_uri, &path_len);
    admit(r, req, path, path_len, UE_OVERFLOW_DROP);
    count_decision(req);
}

static void record(request_rec *r, const ue_request_t *req, ue_slot_ref_t ref)
{
    const request_rec *last = r;
    ue_completion_t done;

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
}

int ue_hook_log_transaction(request_rec *r)
{
    ue_request_t *req =
        ap_get_module_config(r->request_config, &usage_events_module);
    ue_slot_ref_t ref;

    if (!req) {
        return DECLINED;
    }
    ue_proxy_restore(r, req);
    if (req->may_switch && !has_switched(r)) {
        admit_late(r, req);
    }
    ref = req->ref;
    req->ref = 0;
    if (ref) {
        record(r, req, ref);
    }
    return DECLINED;
}
