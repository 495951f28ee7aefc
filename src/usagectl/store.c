/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <apr_lib.h>
#include <apr_strings.h>

#include <json-c/json.h>

#include "db.h"
#include "endpoint.h"
#include "event.h"
#include "uuid.h"

#define NAME_MAX_BYTES 200

int ue_ctl_store_open(const ue_ctl_t *ctl, ue_ctl_purpose_t purpose,
                      ue_ctl_store_t **store)
{
    const char *url = ctl->option[UE_OPT_STORE];
    const ue_ctl_store_vtable_t *vtable = &ue_ctl_store_file;
    int status;

    if (!url) {
        url = getenv("DATABASE_URL");
    }
    if (!url || !*url) {
        return ue_ctl_fail(ctl, UE_CTL_WRONG_USE,
                           "which key store? Give --store file:PATH or "
                           "postgresql://HOST/NAME, or set DATABASE_URL");
    }
    if (ue_ctl_is_database(url)) {
        vtable = &ue_ctl_store_pg;
    }
    else if (strncmp(url, "file:", 5) != 0 || !url[5]) {
        return ue_ctl_fail(ctl, UE_CTL_WRONG_USE,
                           "a key store is named file:PATH, like "
                           "file:/etc/apache2/usage-keys.json, or "
                           "postgresql://HOST/NAME");
    }
    status = vtable->open(store, ctl, url, purpose);
    if (!status) {
        (*store)->vtable = vtable;
        (*store)->ctl = ctl;
    }
    return status;
}

int ue_ctl_store_need(ue_ctl_store_t *store, ue_ctl_kind_t kind, const char *id,
                      struct json_object **found)
{
    int status = store->vtable->find(store, kind, id, found);

    if (status || *found) {
        return status;
    }
    /* What is no UUID may be a key that somebody took for a plan's name. */
    return kind == UE_CTL_PLAN
               ? ue_ctl_fail(store->ctl, UE_CTL_REFUSED,
                             "there is no such plan in %s", store->where)
               : ue_ctl_fail(store->ctl, UE_CTL_REFUSED,
                             "there is no %s %s in %s", ue_ctl_noun(kind), id,
                             store->where);
}

int ue_ctl_store_save(ue_ctl_store_t *store)
{
    int status = store->vtable->prepare(store);

    return status ? status : store->vtable->commit(store);
}

struct json_object *ue_ctl_member(struct json_object *o, const char *name)
{
    struct json_object *v = NULL;

    json_object_object_get_ex(o, name, &v);
    return v;
}

int ue_ctl_is_billable(struct json_object *o)
{
    struct json_object *v = ue_ctl_member(o, "billable");

    return !v || json_object_get_boolean(v);
}

const char *ue_ctl_noun(ue_ctl_kind_t kind)
{
    static const char *const nouns[] = {[UE_CTL_PLAN] = "plan",
                                        [UE_CTL_ORGANIZATION] = "organization",
                                        [UE_CTL_KEY] = "key"};

    return nouns[kind];
}

int ue_ctl_uuid(const ue_ctl_t *ctl, const char *what, const char *given,
                const char **id)
{
    char *text = apr_palloc(ctl->p, UE_UUID_LEN + 1);
    ue_uuid_t uuid;

    if (ue_uuid_parse(&uuid, given, strlen(given))) {
        return ue_ctl_fail(ctl, UE_CTL_WRONG_USE,
                           "%s must be a UUID, like "
                           "0198a6f2-5c1e-7d3a-9b40-3f2c81d7e605",
                           what);
    }
    *id = ue_uuid_format(&uuid, text);
    return UE_CTL_DONE;
}

/* A key file has to stay valid UTF-8, and a list one line a key. */
int ue_ctl_name(const ue_ctl_t *ctl, const char *option, const char *name)
{
    char clean[NAME_MAX_BYTES];
    size_t i, len = strlen(name);
    int ok = len <= sizeof clean
             && ue_utf8_clean(clean, sizeof clean, name, len) == len
             && !memcmp(clean, name, len);

    for (i = 0; ok && i < len; i++) {
        ok = (unsigned char)name[i] >= ' ' && name[i] != 0x7F;
    }
    return ok ? UE_CTL_DONE
              : ue_ctl_fail(ctl, UE_CTL_WRONG_USE,
                            "%s must be UTF-8, without control characters, of "
                            "at most %d bytes",
                            option, NAME_MAX_BYTES);
}

const char *ue_ctl_time(apr_time_t when, apr_pool_t *p)
{
    char *text = apr_palloc(p, 32);
    char *end = ue_time_write(when, text);

    if (apr_time_usec(when) == 0) {
        end = text + sizeof "2030-01-31T12:00:00" - 1;
        *end++ = 'Z';
    }
    *end = '\0';
    return text;
}

apr_status_t ue_ctl_duration(const char *s, apr_interval_time_t *time)
{
    static const struct {
        const char *name;
        apr_int64_t seconds;
    } units[] = {{"d", 86400}, {"h", 3600}, {"min", 60}, {"s", 1}};
    apr_int64_t n;
    char *end;
    size_t i;

    errno = 0;
    n = apr_strtoi64(s, &end, 10);
    if (errno || !apr_isdigit(*s)) {
        return APR_EINVAL;
    }
    for (i = 0; i < sizeof units / sizeof *units; i++) {
        if (!strcmp(end, units[i].name)
            && n <= apr_time_sec(APR_INT64_MAX) / units[i].seconds) {
            *time = apr_time_from_sec(n * units[i].seconds);
            return APR_SUCCESS;
        }
    }
    return APR_EINVAL;
}
