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
#include "log.h"
#include "process.h"
#include "proxy.h"
#include "thread.h"

APLOG_USE_MODULE(usage_events);

#define REQUEST_ID "X-Request-Id"
#define DISCARD_MAX                                          \
    (64 * 1024) /* bytes of a body read to keep a connection \
                 */
#define DISCARD_AT_ONCE 8192
#define COMPLAIN_EVERY apr_time_from_sec(30) /* of a child */

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
    /* For what is answered without filters. */
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

/** Somebody would be turned away, were it not for UsageLimitDryRun. */
static void spare(request_rec *r, const ue_request_t *req,
                  const ue_limitverdict_t *limit)
{
    const char *why = "it can't be counted";

    ue_metrics_add(ue_process.seat, UE_M_LIMIT_DRY_RUN, 1);
    if (!APLOGrdebug(r)) {
        return;
    }
    if (limit->result == UE_LIMIT_OVER) {
        why = apr_psprintf(r->pool, "it is over a limit by=%s, for %u s",
                           ue_limitby_name(limit->over), limit->retry_after);
    }
    ap_log_rerror(APLOG_MARK, APLOG_DEBUG, 0, r,
                  "UE0502: %s is let in by UsageLimitDryRun: %s",
                  req->request_id_text, why);
}

/** For want of room, or because whoever puts a subject in was stopped. */
static void complain_uncounted(request_rec *r)
{
    static ue_log_limit_t limit;
    uint32_t held;

    if (ue_log_limit_pass(&limit, ue_monotonic(), COMPLAIN_EVERY, &held)) {
        ap_log_rerror(APLOG_MARK, APLOG_WARNING, 0, r,
                      "UE0503: a request can't be counted: %u of %u keys, "
                      "organizations and addresses are under way (%u such "
                      "lines held back)",
                      ue_subjects_count(ue_process.subjects),
                      ue_subjects_size(ue_process.subjects), held);
    }
}

static void heed(request_rec *r, ue_request_t *req,
                 const ue_limitverdict_t *limit)
{
    const ue_limitrule_t *rule = &req->server->limits;

    if (limit->result == UE_LIMIT_OVER) {
        ue_metrics_add(ue_process.seat,
                       (ue_metric_t)(UE_M_LIMIT_OVER_KEY + (int)limit->over),
                       1);
        if (rule->is_dry) {
            spare(r, req, limit);
            return;
        }
        req->decision.verdict = UE_RATE_LIMITED;
        req->decision.over = limit->over;
    }
    if (limit->result == UE_LIMIT_UNKNOWN) {
        ue_metrics_add(ue_process.seat, UE_M_LIMIT_UNCOUNTED, 1);
        complain_uncounted(r);
        if (rule->failure == UE_LIMIT_CLOSED && rule->is_dry) {
            spare(r, req, limit);
        }
        else if (rule->failure == UE_LIMIT_CLOSED) {
            req->decision.verdict = UE_UNAVAILABLE;
        }
    }
}

/** @return the one whose limits bear on a request; NULL: only its address is
 * known */
static const ue_keyrecord_t *limited_as(const ue_request_t *req)
{
    return req->decision.verdict == UE_ALLOW ? &req->decision.who : NULL;
}

static int may_be_limited(const ue_request_t *req)
{
    const ue_keyrecord_t *who = limited_as(req);

    return req->server->limits.count > 0
           || (who && (who->of_key.rate.count || who->of_org.rate.count));
}

static void judge(request_rec *r, const ue_request_t *req,
                  ue_limitverdict_t *verdict, int charge)
{
    const ue_limited_t limited = {limited_as(req), r->useragent_addr};

    ue_limit_judge(verdict, ue_process.subjects, &req->server->limits, &limited,
                   charge, ue_monotonic_ns());
}

/** Hold a request that would be let through to its limits.
 * @param charge it counts: 0 where it may come once more */
static void limit(request_rec *r, ue_request_t *req, int charge)
{
    ue_limitverdict_t *verdict;

    /* Nobody is turned away by a dry run: it need not look ahead. */
    if (!may_be_limited(req) || (!charge && req->server->limits.is_dry)) {
        return;
    }
    verdict = apr_palloc(r->pool, sizeof(*verdict));
    judge(r, req, verdict, charge);
    if (verdict->count > 0 && !req->server->limits.is_dry) {
        req->limit = verdict;
    }
    heed(r, req, verdict);
}

/** Into one of the two tables of fields, and out of the other, where a backend,
 * or CGI and its kin, or mod_cache may have put their own. */
static void set_field(apr_table_t *to, apr_table_t *from, const char *name,
                      const char *value)
{
    if (!apr_is_empty_table(from)) {
        apr_table_unset(from, name);
    }
    apr_table_setn(to, name, value);
}

static void set_limit_fields(request_rec *r, const ue_limitverdict_t *limit,
                             apr_table_t *to, apr_table_t *from)
{
    const ue_limitstate_t *least = ue_limit_tightest(limit);
    char *text = apr_palloc(r->pool, 2 * UE_LIMIT_FIELD_MAX);

    ue_limit_policy(limit, text);
    ue_limit_field(limit, text + UE_LIMIT_FIELD_MAX);
    set_field(to, from, "RateLimit-Policy", text);
    set_field(to, from, "RateLimit", text + UE_LIMIT_FIELD_MAX);
    set_field(to, from, "X-RateLimit-Limit",
              apr_ltoa(r->pool, (long)least->count));
    set_field(to, from, "X-RateLimit-Remaining",
              apr_ltoa(r->pool, (long)least->remaining));
    set_field(to, from, "X-RateLimit-Reset",
              apr_ltoa(r->pool, (long)least->reset));
}

/** What every answer says: its request, and what the limits say of it. */
static void set_fields(request_rec *r, const ue_request_t *req, apr_table_t *to,
                       apr_table_t *from)
{
    set_field(to, from, REQUEST_ID, req->request_id_text);
    if (req->limit) {
        set_limit_fields(r, req->limit, to, from);
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
                  && (int)UE_M_LIMIT_OVER_KEY + (int)UE_BY_IP
                         == (int)UE_M_LIMIT_OVER_IP
                  && (int)UE_M_KEYS_HIT + (int)UE_KEYSTORE_FAILED
                         == (int)UE_M_KEYS_FAILED,
              "so is how a look-up went, and whose limit it was, from the "
              "first on");

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

/** A request whose key is good, or that needs none: its limits, and its slot.
 * One that will come once more is charged and on record then. */
static void let_through(request_rec *r, ue_request_t *req, const char *path,
                        size_t path_len)
{
    ue_overflow_t overflow = req->server->overflow;

    if (overflow == UE_OVERFLOW_REFUSE && req->decision.verdict == UE_ALLOW
        && !ue_producer_has_room(ue_process.producers[req->server->producer])) {
        req->decision.verdict = UE_UNAVAILABLE; /* before it is charged */
        return;
    }
    req->may_switch = may_switch(r);
    limit(r, req, !req->may_switch);
    if (req->decision.verdict == UE_ALLOW && !req->may_switch) {
        admit(r, req, path, path_len, overflow);
    }
    if (ue_problem(&req->decision)) {
        req->may_switch = 0;
    }
}

/** Does httpd answer this without filters of anybody? */
static int is_without_filters(const request_rec *r)
{
    return r->method_number == M_TRACE
           || (r->method_number == M_OPTIONS && r->unparsed_uri[0] == '*');
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
    if (req->decision.verdict == UE_ALLOW
        || req->decision.verdict == UE_ANONYMOUS) {
        let_through(r, req, path, path_len);
    }
    if (!req->may_switch) {
        count_decision(req);
    }
    if (req->limit && is_without_filters(r)) {
        set_limit_fields(r, req->limit, r->headers_out, r->err_headers_out);
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

/** A limit knows it better than the table of problems. */
static int retry_after(const ue_request_t *req, const ue_problem_t *problem)
{
    return req->decision.verdict == UE_RATE_LIMITED && req->limit
               ? (int)req->limit->retry_after
               : problem->retry_after;
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
                       apr_itoa(r->pool, retry_after(req, problem)));
    }
    if (!r->header_only) {
        ap_rwrite(body, (int)len, r);
    }
    return OK;
}

static ap_filter_rec_t *filter;

static apr_status_t set_on_the_way(ap_filter_t *f, apr_bucket_brigade *bb)
{
    set_fields(f->r, f->ctx, f->r->headers_out, f->r->err_headers_out);
    ap_remove_output_filter(f);
    return ap_pass_brigade(f->next, bb);
}

void ue_hook_register_filter(void)
{
    /* Behind every filter that may set headers, before they are sent. */
    filter = ap_register_output_filter("USAGE_FIELDS", set_on_the_way, NULL,
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
        set_fields(r, req, r->err_headers_out, r->headers_out);
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
    ue_limitverdict_t charged;
    const char *path;
    size_t path_len;

    req->may_switch = 0;
    if (may_be_limited(req)) {
        judge(r, req, &charged, 1); /* too late to turn it away */
        if (req->server->limits.is_dry) {
            heed(r, req, &charged);
        }
    }
    if (req->decision.verdict == UE_ALLOW) {
        path = ue_endpoint_path(r->unparsed_uri, &path_len);
        admit(r, req, path, path_len, UE_OVERFLOW_DROP);
    }
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
