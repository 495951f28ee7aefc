/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "keystore.h"

#include <string.h>

#include <apr_strings.h>

static const ue_keystore_vtable_t *const stores[] = {&ue_keystore_file, NULL};

/* What is refused is not repeated: it may hold a password. */
apr_status_t ue_keystore_open(ue_keystore_t **store, const char *url,
                              const char **why, apr_pool_t *p)
{
    size_t i, len = strcspn(url, ":");

    *store = NULL;
    for (i = 0; stores[i]; i++) {
        if (url[len] && !strncmp(url, stores[i]->scheme, len)
            && !stores[i]->scheme[len]) {
            return stores[i]->open(store, url + len + 1, why, p);
        }
    }
    if (url[len]
        && (!strncmp(url, "postgresql", len) || !strncmp(url, "postgres", len))
        && len >= 8) {
        *why = "this version reads keys from a file, not from PostgreSQL: "
               "name it as file:PATH";
        return APR_ENOTIMPL;
    }
    *why = "a key store is named file:PATH, like "
           "file:/etc/apache2/usage-keys.json";
    return APR_EINVAL;
}

apr_status_t ue_keystore_reopen(ue_keystore_t *store, const char *url,
                                const char **why, apr_pool_t *ptemp)
{
    size_t i, len = strcspn(url, ":");

    for (i = 0; stores[i]; i++) {
        if (!strncmp(url, stores[i]->scheme, len) && !stores[i]->scheme[len]) {
            store->vtable = stores[i];
            return store->vtable->reload(store, why, ptemp);
        }
    }
    *why = "no store of this kind";
    return APR_ENOTIMPL;
}
