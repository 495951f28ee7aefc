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

/* Whatever is neither letter nor digit counts as a hyphen, since CGI makes all
 * of them underscores. Made once: this is asked of every header of a request.
 */
static char folded[256];

static void make_folded(void)
{
    int c;

    for (c = 1; c < 256; c++) {
        folded[c] = apr_isalnum(c) ? (char)apr_tolower(c) : '-';
    }
}

/** Is a header's name a spelling of one of ours? */
static int is_spelling(const char *key, const char *name)
{
    const unsigned char *k = (const unsigned char *)key;
    const unsigned char *n = (const unsigned char *)name;

    while (*n && folded[*k] == folded[*n]) {
        k++;
        n++;
    }
    return *n == *k;
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

    if (names->header && is_spelling(name, names->header)) {
        return used || ue_apikey_is_ours(value, strlen(value));
    }
    if (names->authorization && is_spelling(name, "Authorization")) {
        const char *key = bearer(value, &len);

        return key && (used || ue_apikey_is_ours(key, len));
    }
    return 0;
}

/** Told by the third character: X-Forwarded-For and its like, which mod_proxy
 * adds, need no comparison. */
static int is_identity(const char *name)
{
    const unsigned char *n = (const unsigned char *)name;

    if (folded[n[0]] != 'x' || folded[n[1]] != '-') {
        return 0;
    }
    switch (folded[n[2]]) {
    case 'r':
        return is_spelling(name, REQUEST_ID);
    case 'o':
        return is_spelling(name, ORGANIZATION_ID);
    case 'a':
        return is_spelling(name, API_KEY_ID);
    default:
        return 0;
    }
}

/** Edit a copy of a request's headers in place. */
static void edit(const ue_request_t *req, apr_table_t *headers)
{
    const apr_array_header_t *all = apr_table_elts(headers);
    int hide = req->server->key_hide;
    int i = 0;

    while (i < all->nelts) {
        const apr_table_entry_t *e = &APR_ARRAY_IDX(all, i, apr_table_entry_t);

        if (is_identity(e->key)
            || (hide && is_credential(req, e->key, e->val))) {
            apr_table_unset(headers, e->key); /* the next one moves here */
        }
        else {
            i++;
        }
    }
    apr_table_setn(headers, REQUEST_ID, req->request_id_text);
    if (req->decision.verdict == UE_ALLOW) {
        apr_table_setn(headers, ORGANIZATION_ID,
                       req->decision.who.organization_text);
        apr_table_setn(headers, API_KEY_ID, req->decision.who.api_key_text);
    }
}

/** mod_proxy's own hook: r->headers_in is its copy, for http and ws. */
static int fixups_proxied(request_rec *r)
{
    const ue_request_t *req = ue_request_of(r);

    if (req) {
        edit(req, r->headers_in);
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
    edit(req, copy);
    if (!r->main) {
        if (!req->headers_in) {
            req->headers_in = r->headers_in;
        }
        req->headers_edit = copy;
    }
    r->headers_in = copy;
}

/** Does a scheme run mod_proxy's fixups hook? One in capitals is taken for one
 * that doesn't, which costs a copy and hides the same. */
static int has_fixups(const char *url)
{
    return !strncmp(url, "http:", 5) || !strncmp(url, "https:", 6)
           || !strncmp(url, "ws:", 3) || !strncmp(url, "wss:", 4);
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
    make_folded();
    APR_OPTIONAL_HOOK(proxy, fixups, fixups_proxied, NULL, NULL,
                      APR_HOOK_REALLY_LAST);
    if (proxy_hook_scheme_handler) {
        proxy_hook_scheme_handler(before_scheme, NULL, NULL,
                                  APR_HOOK_REALLY_FIRST);
    }
}
