/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "proxy.h"

#include "mod_proxy.h"

#include <apr_lib.h>
#include <apr_optional_hooks.h>

/* mod_proxy may be absent. Where it is loaded after us the symbol is missing
 * all the same, which ue_proxy_check() tells apart. */
#pragma weak proxy_hook_scheme_handler

#define REQUEST_ID "X-Request-Id"
#define ORGANIZATION_ID "X-Organization-Id"
#define API_KEY_ID "X-Api-Key-Id"

/** Is a header's name a spelling of ours? Whatever is neither letter nor digit
 * counts as a hyphen, since CGI makes all of them underscores. */
static int is_spelling(const char *key, const char *name)
{
    for (; *key && *name; key++, name++) {
        char c = apr_isalnum(*key) ? (char)apr_tolower(*key) : '-';

        if (c != (char)apr_tolower(*name)) {
            return 0;
        }
    }
    return *key == *name;
}

static const char *bearer(const char *authorization, size_t *len)
{
    const char *key;

    return ue_apikey_find(authorization, NULL, &key, len) == UE_CRED_ONE ? key
                                                                         : NULL;
}

/**
 * Is this header a credential to hide? Of a request that was let through by its
 * key, any that may hold one; of another, whatever looks like a key of ours.
 */
static int is_credential(const ue_request_t *req, const char *name,
                         const char *value)
{
    const ue_keyheader_t *names = &req->server->key_header;
    int used = req->decision.verdict == UE_ALLOW;
    size_t len;

    if (!req->server->key_hide) {
        return 0;
    }
    if (names->header && is_spelling(name, names->header)) {
        return used || ue_apikey_is_ours(value, strlen(value));
    }
    if (names->authorization && is_spelling(name, "Authorization")) {
        const char *key = bearer(value, &len);

        return key && (used || ue_apikey_is_ours(key, len));
    }
    return 0;
}

static int is_identity(const char *name)
{
    return (*name == 'x' || *name == 'X')
           && (is_spelling(name, REQUEST_ID)
               || is_spelling(name, ORGANIZATION_ID)
               || is_spelling(name, API_KEY_ID));
}

static const char *uuid_text(apr_pool_t *p, const ue_uuid_t *id)
{
    return ue_uuid_format(id, apr_palloc(p, UE_UUID_LEN + 1));
}

/** Edit a copy of a request's headers in place. */
static void edit(const ue_request_t *req, apr_table_t *headers, apr_pool_t *p)
{
    const apr_array_header_t *all = apr_table_elts(headers);
    int i = 0;

    while (i < all->nelts) {
        const apr_table_entry_t *e = &APR_ARRAY_IDX(all, i, apr_table_entry_t);

        if (is_identity(e->key) || is_credential(req, e->key, e->val)) {
            apr_table_unset(headers, e->key);
            i = 0; /* what is behind it has moved */
        }
        else {
            i++;
        }
    }
    apr_table_setn(headers, REQUEST_ID, req->request_id_text);
    if (req->decision.verdict == UE_ALLOW) {
        apr_table_setn(headers, ORGANIZATION_ID,
                       uuid_text(p, &req->decision.who.organization_id));
        apr_table_setn(headers, API_KEY_ID,
                       uuid_text(p, &req->decision.who.api_key_id));
    }
}

/** mod_proxy's own hook: r->headers_in is its copy, for http and ws. */
static int fixups_proxied(request_rec *r)
{
    const ue_request_t *req = ue_request_of(r);

    if (req) {
        edit(req, r->headers_in, r->pool);
    }
    return OK;
}

/** Give whoever handles this request an edited copy. */
static void replace(request_rec *r)
{
    ue_request_t *req = ue_request_of(r);
    apr_table_t *copy;

    if (!req || (req->headers_edit && r->headers_in == req->headers_edit)) {
        return;
    }
    copy = apr_table_copy(r->pool, r->headers_in);
    edit(req, copy, r->pool);
    if (!r->main) {
        if (!req->headers_in) {
            req->headers_in = r->headers_in;
        }
        req->headers_edit = copy;
    }
    r->headers_in = copy;
}

/** Does a scheme run mod_proxy's fixups hook? */
static int has_fixups(const char *url)
{
    return !ap_cstr_casecmpn(url, "http:", 5)
           || !ap_cstr_casecmpn(url, "https:", 6)
           || !ap_cstr_casecmpn(url, "ws:", 3)
           || !ap_cstr_casecmpn(url, "wss:", 4);
}

static int before_scheme(request_rec *r, proxy_worker *worker,
                         proxy_server_conf *conf, char *url,
                         const char *proxyhost, apr_port_t proxyport)
{
    if (!has_fixups(url)) {
        replace(r);
    }
    return DECLINED;
}

int ue_proxy_fixups_local(request_rec *r)
{
    if (!r->proxyreq && !(r->handler && !strncmp(r->handler, "proxy:", 6))) {
        replace(r);
    }
    return DECLINED;
}

void ue_proxy_restore(request_rec *r, ue_request_t *req)
{
    if (!req->headers_in) {
        return;
    }
    for (; r; r = r->next) {
        if (r->headers_in == req->headers_edit) {
            r->headers_in = req->headers_in;
        }
    }
    req->headers_edit = NULL;
}

const char *ue_proxy_check(void)
{
    if (ap_find_linked_module("mod_proxy.c") && !proxy_hook_scheme_handler) {
        return "LoadModule usage_events_module must come after LoadModule "
               "proxy_module: loaded before it, backends over h2, fcgi and "
               "the like would be shown the key";
    }
    return NULL;
}

void ue_proxy_register(apr_pool_t *p)
{
    APR_OPTIONAL_HOOK(proxy, fixups, fixups_proxied, NULL, NULL,
                      APR_HOOK_REALLY_LAST);
    if (proxy_hook_scheme_handler) {
        proxy_hook_scheme_handler(before_scheme, NULL, NULL,
                                  APR_HOOK_REALLY_FIRST);
    }
}
