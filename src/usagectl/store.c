/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "usagectl.h"

#include <stdlib.h>
#include <string.h>

#include <apr_strings.h>

#include <json-c/json.h>

#include "endpoint.h"
#include "event.h"
#include "keyfile.h"
#include "uuid.h"

#define NAME_MAX_BYTES 200

int ue_ctl_store_path(const ue_ctl_t *ctl, const char **path)
{
    const char *url = ctl->option[UE_OPT_STORE];

    if (!url) {
        url = getenv("DATABASE_URL");
    }
    if (!url || !*url) {
        return ue_ctl_fail(ctl, UE_CTL_WRONG_USE,
                           "which key store? Give --store file:PATH, or set "
                           "DATABASE_URL");
    }
    if (!strncmp(url, "postgres", 8)) {
        return ue_ctl_fail(ctl, UE_CTL_WRONG_USE,
                           "this version keeps keys in a file, not in "
                           "PostgreSQL: --store file:PATH");
    }
    if (strncmp(url, "file:", 5) != 0 || !url[5]) {
        return ue_ctl_fail(ctl, UE_CTL_WRONG_USE,
                           "a key store is named file:PATH, like "
                           "file:/etc/apache2/usage-keys.json");
    }
    *path = url + 5;
    return UE_CTL_DONE;
}

int ue_ctl_read(const ue_ctl_t *ctl, struct json_object **doc)
{
    const char *path, *why;
    int status = ue_ctl_store_path(ctl, &path);

    if (!status && ue_keyfile_read(path, doc, &why, ctl->p)) {
        status = ue_ctl_fail(ctl, UE_CTL_REFUSED, "%s", why);
    }
    return status;
}

int ue_ctl_edit(const ue_ctl_t *ctl, int may_be_new, const char **path,
                struct json_object **doc)
{
    const char *why;
    apr_status_t rv;
    int status = ue_ctl_store_path(ctl, path);

    if (status) {
        return status;
    }
    rv = ue_keyfile_lock(*path, &why, ctl->p);
    if (!rv) {
        rv = ue_keyfile_read(*path, doc, &why, ctl->p);
        if (may_be_new && APR_STATUS_IS_ENOENT(rv)) {
            *doc = ue_keyfile_new();
            rv = APR_SUCCESS;
        }
    }
    return rv ? ue_ctl_fail(ctl, UE_CTL_REFUSED, "%s", why) : UE_CTL_DONE;
}

int ue_ctl_save(const ue_ctl_t *ctl, const char *path, struct json_object *doc)
{
    const char *why;

    if (ue_keyfile_write(path, doc, ctl->option[UE_OPT_GROUP], &why, ctl->p)) {
        return ue_ctl_fail(ctl, UE_CTL_REFUSED, "%s", why);
    }
    return UE_CTL_DONE;
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

struct json_object *ue_ctl_find_organization(struct json_object *doc,
                                             const char *id)
{
    struct json_object *orgs = ue_ctl_member(doc, "organizations");
    size_t i;

    for (i = 0; i < json_object_array_length(orgs); i++) {
        struct json_object *org = json_object_array_get_idx(orgs, i);

        /* the file may have it in capitals */
        if (!strcasecmp(json_object_get_string(ue_ctl_member(org, "id")), id)) {
            return org;
        }
    }
    return NULL;
}

struct json_object *ue_ctl_add_organization(struct json_object *doc,
                                            const char *id, const char *name,
                                            int billable)
{
    struct json_object *org = json_object_new_object();

    json_object_object_add(org, "id", json_object_new_string(id));
    json_object_object_add(org, "name", json_object_new_string(name));
    json_object_object_add(org, "billable", json_object_new_boolean(billable));
    json_object_object_add(org, "keys", json_object_new_array());
    json_object_array_add(ue_ctl_member(doc, "organizations"), org);
    return org;
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
