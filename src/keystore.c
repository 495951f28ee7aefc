/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "keystore.h"

#include <string.h>

#include <apr_lib.h>
#include <apr_strings.h>

#include "pg.h"

/* libpq knows two names of its own scheme. */
static const struct {
    const char *scheme;
    const ue_keystore_vtable_t *vtable;
} stores[] = {{"file", &ue_keystore_file},
              {"postgresql", &ue_keystore_pg},
              {"postgres", &ue_keystore_pg}};

static const ue_keystore_vtable_t *find(const char *url)
{
    size_t i, len = strcspn(url, ":");

    for (i = 0; url[len] && i < sizeof stores / sizeof *stores; i++) {
        if (!strncmp(url, stores[i].scheme, len) && !stores[i].scheme[len]) {
            return stores[i].vtable;
        }
    }
    return NULL;
}

/* What is refused is not repeated: it may hold a password. */
const char *ue_keystore_check(const char *url)
{
    const ue_keystore_vtable_t *vtable = find(url);

    if (!vtable) {
        return "a key store is named file:PATH or postgresql://..., like "
               "file:/etc/apache2/usage-keys.json or "
               "postgresql://gateway@db.example.com/usage";
    }
    if (vtable == &ue_keystore_file) {
        return url[strlen("file:")]
                   ? NULL
                   : "the path of the key file is missing: file:PATH";
    }
    return ue_pg_check(url);
}

apr_status_t ue_keystore_open(ue_keystore_t **store, const char *url,
                              const ue_keystore_options_t *options,
                              const char **why, apr_pool_t *p)
{
    const ue_keystore_vtable_t *vtable = find(url);

    *store = NULL;
    *why = ue_keystore_check(url);
    return *why || !vtable ? APR_EINVAL
                           : vtable->open(store, url, options, why, p);
}

apr_status_t ue_keystore_reopen(ue_keystore_t *store, const char *url,
                                const ue_keystore_options_t *options,
                                const char **why, apr_pool_t *ptemp)
{
    const ue_keystore_vtable_t *vtable = find(url);

    if (!vtable) {
        *why = "no store of this kind";
        return APR_ENOTIMPL;
    }
    store->vtable = vtable;
    return vtable->reload(store, options, why, ptemp);
}

/* Names, and lists of them: nothing that could hold more than it seems to. */
static int is_showable(const char *s)
{
    while (apr_isalnum(*s) || (*s && strchr("._-,", *s))) {
        s++;
    }
    return !*s;
}

static const char *option(const PQconninfoOption *options, const char *name)
{
    while (options->keyword && strcmp(options->keyword, name) != 0) {
        options++;
    }
    return options->keyword && options->val ? options->val : "";
}

const char *ue_keystore_name(const char *url, apr_pool_t *p)
{
    PQconninfoOption *options;
    const char *host, *port, *database, *name = "postgresql:";

    if (find(url) == &ue_keystore_file) {
        return apr_pstrdup(p, url);
    }
    options = PQconninfoParse(url, NULL);
    if (find(url) != &ue_keystore_pg || !options) {
        PQconninfoFree(options);
        return find(url) ? name : "(no store)";
    }
    host = option(options, "host");
    port = option(options, "port");
    database = option(options, "dbname");
    if (*host && is_showable(host) && is_showable(port)
        && is_showable(database)) {
        name = apr_pstrcat(p, "postgresql://", host, *port ? ":" : "", port,
                           "/", database, NULL);
    }
    PQconninfoFree(options);
    return name;
}
