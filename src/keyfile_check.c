/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "keyfile.h"

#include <string.h>

#include <apr_hash.h>
#include <apr_lib.h>
#include <apr_strings.h>

#include <json-c/json.h>

#include "access.h"
#include "apikey.h"
#include "rate.h"
#include "uuid.h"

#define PLAN_NAME_MAX 64

typedef struct {
    const char *path;
    const char **why;
    apr_pool_t *p;
    apr_hash_t *organizations; /* by id */
    apr_hash_t *ids;           /* keys by id */
    apr_hash_t *hashes;        /* keys by hash */
    struct json_object *plans; /* by name; NULL: none */
    const char *place;         /* "organizations[1].keys[0]", or "" */
} check_t;

static apr_status_t fault(const check_t *c, const char *member,
                          const char *sentence)
{
    *c->why = apr_psprintf(c->p, "%s: %s%s%s: %s", c->path, c->place,
                           *c->place && *member ? "." : "", member, sentence);
    return APR_EINVAL;
}

/* A string without NUL inside, or NULL. */
static const char *text_of(struct json_object *o)
{
    const char *s;

    if (!json_object_is_type(o, json_type_string)) {
        return NULL;
    }
    s = json_object_get_string(o);
    return strlen(s) == (size_t)json_object_get_string_len(o) ? s : NULL;
}

/* Optional members that are of one type. */
static apr_status_t check_texts(const check_t *c, struct json_object *o,
                                const char *const *names)
{
    struct json_object *v;

    for (; *names; names++) {
        if (json_object_object_get_ex(o, *names, &v) && v && !text_of(v)) {
            return fault(c, *names, "must be a string or null");
        }
    }
    return APR_SUCCESS;
}

static apr_status_t check_times(const check_t *c, struct json_object *o,
                                const char *const *names)
{
    struct json_object *v;
    apr_time_t when;

    for (; *names; names++) {
        if (json_object_object_get_ex(o, *names, &v) && v
            && (!text_of(v) || ue_time_parse(&when, text_of(v)))) {
            return fault(c, *names,
                         "must be a time like 2030-01-31T12:00:00Z, or null");
        }
    }
    return APR_SUCCESS;
}

static apr_status_t check_billable(const check_t *c, struct json_object *o)
{
    struct json_object *v;

    if (json_object_object_get_ex(o, "billable", &v)
        && !json_object_is_type(v, json_type_boolean)) {
        return fault(c, "billable", "must be true or false");
    }
    return APR_SUCCESS;
}

/* That nothing else of its kind has the same. */
static apr_status_t check_unique(const check_t *c, apr_hash_t *seen,
                                 const char *member, const void *what,
                                 apr_ssize_t len)
{
    const char *other = apr_hash_get(seen, what, len);

    if (other) {
        return fault(c, member,
                     apr_pstrcat(c->p, "is that of ", other, " too", NULL));
    }
    apr_hash_set(seen, apr_pmemdup(c->p, what, (apr_size_t)len), len, c->place);
    return APR_SUCCESS;
}

static apr_status_t check_id(const check_t *c, struct json_object *o,
                             apr_hash_t *seen)
{
    struct json_object *v;
    const char *s;
    ue_uuid_t id;

    if (!json_object_object_get_ex(o, "id", &v)) {
        return fault(c, "id", "is missing");
    }
    s = text_of(v);
    if (!s || ue_uuid_parse(&id, s, strlen(s))) {
        return fault(c, "id",
                     "must be a UUID, like "
                     "0198a6f2-5c1e-7d3a-9b40-3f2c81d7e605");
    }
    return check_unique(c, seen, "id", id.b, sizeof id.b);
}

/* The key that this one was made from. It may be gone from the file. */
static apr_status_t check_replaces(const check_t *c, struct json_object *key)
{
    struct json_object *v;
    ue_uuid_t id;

    if (json_object_object_get_ex(key, "replaces", &v) && v
        && (!text_of(v)
            || ue_uuid_parse(&id, text_of(v), strlen(text_of(v))))) {
        return fault(c, "replaces", "must be a key's id, or null");
    }
    return APR_SUCCESS;
}

static apr_status_t check_hash(const check_t *c, struct json_object *o)
{
    struct json_object *v;
    const char *s;
    ue_keyhash_t hash;
    ue_hashkind_t kind;

    if (!json_object_object_get_ex(o, "hash", &v)) {
        return fault(c, "hash", "is missing");
    }
    s = text_of(v);
    if (!s || ue_apikey_hash_parse(&hash, &kind, s)) {
        return fault(c, "hash",
                     "must be sha256: or hmac-sha256: and 64 hexadecimal "
                     "digits");
    }
    return check_unique(c, c->hashes, "hash", hash.b, sizeof hash.b);
}

/* Attributes ----------------------------------------------------------- */

int ue_keyfile_is_plan_name(const char *s)
{
    size_t i;

    for (i = 0; s[i]; i++) {
        if (!apr_isascii(s[i])
            || !(apr_isalnum(s[i]) || (i && strchr("._-", s[i])))) {
            return 0;
        }
    }
    return i > 0 && i <= PLAN_NAME_MAX;
}

/* A list as the compiler of lists wants it; NULL: there is none. The document
 * keeps the strings. */
static const char *const *strings_of(struct json_object *o, const char *name,
                                     apr_pool_t *p)
{
    struct json_object *list;
    const char **strings;
    size_t i, n;

    if (!json_object_object_get_ex(o, name, &list) || !list) {
        return NULL;
    }
    n = json_object_array_length(list);
    strings = apr_pcalloc(p, (n + 1) * sizeof *strings);
    for (i = 0; i < n; i++) {
        strings[i] = json_object_get_string(json_object_array_get_idx(list, i));
    }
    return strings;
}

int ue_keyfile_lists(struct json_object *o, ue_access_lists_t *lists,
                     apr_pool_t *p)
{
    lists->networks = strings_of(o, "networks", p);
    lists->paths = strings_of(o, "paths", p);
    lists->methods = strings_of(o, "methods", p);
    return lists->networks || lists->paths || lists->methods;
}

/* null is as good as no list. An empty one would let nothing in, which isn't
 * what somebody meant who took the last entry out. */
static apr_status_t check_list(const check_t *c, struct json_object *o,
                               const char *name)
{
    struct json_object *list;
    size_t i;

    if (!json_object_object_get_ex(o, name, &list) || !list) {
        return APR_SUCCESS;
    }
    if (!json_object_is_type(list, json_type_array)
        || !json_object_array_length(list)) {
        return fault(c, name,
                     "must be an array of at least one string, or null");
    }
    for (i = 0; i < json_object_array_length(list); i++) {
        const char *s = text_of(json_object_array_get_idx(list, i));
        const char *wrong =
            s ? ue_access_check(name, s, c->p) : "must be a string";

        if (wrong) {
            return fault(c,
                         apr_psprintf(c->p, "%s[%" APR_SIZE_T_FMT "]", name, i),
                         wrong);
        }
    }
    return APR_SUCCESS;
}

/* What plans, organizations and keys may have alike. */
static apr_status_t check_attributes(const check_t *c, struct json_object *o)
{
    static const char *const texts[] = {"rate", "quota", NULL};
    struct json_object *v;
    ue_rate_t rate;
    ue_quota_t quota;
    apr_status_t rv = check_texts(c, o, texts);

    if (rv || (rv = check_list(c, o, "networks"))
        || (rv = check_list(c, o, "paths"))
        || (rv = check_list(c, o, "methods")) || (rv = check_billable(c, o))) {
        return rv;
    }
    if (json_object_object_get_ex(o, "rate", &v) && v
        && ue_rate_parse(&rate, text_of(v))) {
        return fault(c, "rate", "must be " UE_RATE_SYNTAX ", or null");
    }
    if (json_object_object_get_ex(o, "quota", &v) && v
        && ue_quota_parse(&quota, text_of(v))) {
        return fault(c, "quota", "must be " UE_QUOTA_SYNTAX ", or null");
    }
    return APR_SUCCESS;
}

/* Of an organization or key. */
static apr_status_t check_plan(const check_t *c, struct json_object *o)
{
    struct json_object *v;

    if (!json_object_object_get_ex(o, "plan", &v) || !v) {
        return APR_SUCCESS;
    }
    if (!text_of(v)) {
        return fault(c, "plan", "must be a string or null");
    }
    if (!json_object_object_get_ex(c->plans, text_of(v), NULL)) {
        return fault(c, "plan",
                     apr_pstrcat(c->p, "there is no plan \"", text_of(v),
                                 "\" in plans", NULL));
    }
    return APR_SUCCESS;
}

static struct json_object *plan_of(const check_t *c, struct json_object *org,
                                   struct json_object *key)
{
    struct json_object *name = NULL, *plan = NULL;

    if ((json_object_object_get_ex(key, "plan", &name) && name)
        || (json_object_object_get_ex(org, "plan", &name) && name)) {
        json_object_object_get_ex(c->plans, json_object_get_string(name),
                                  &plan);
    }
    return plan;
}

/* Each list may be right and all of them too much for a key. httpd would find
 * that out when it is too late to say so. */
static apr_status_t check_compiled(const check_t *c, struct json_object *org,
                                   struct json_object *key)
{
    uint8_t block[UE_ACCESS_MAX];
    ue_access_lists_t lists[3];
    const char *why;
    apr_pool_t *scratch;
    apr_status_t rv = APR_SUCCESS;
    size_t len;

    apr_pool_create(&scratch, c->p);
    if (ue_keyfile_lists(plan_of(c, org, key), &lists[0], scratch)
        | ue_keyfile_lists(org, &lists[1], scratch)
        | ue_keyfile_lists(key, &lists[2], scratch)) {
        rv = ue_access_compile(lists, 3, block, &len, &why, scratch);
        if (rv) {
            fault(c, "", apr_pstrdup(c->p, why));
        }
    }
    apr_pool_destroy(scratch);
    return rv ? APR_EINVAL : APR_SUCCESS;
}

/* The whole ------------------------------------------------------------ */

static apr_status_t check_key(const check_t *c, struct json_object *org,
                              struct json_object *key)
{
    static const char *const texts[] = {"name", "prefix", NULL};
    static const char *const times[] = {"created", "expires", "revoked", NULL};
    apr_status_t rv;

    if (!json_object_is_type(key, json_type_object)) {
        return fault(c, "", "must be an object");
    }
    if ((rv = check_id(c, key, c->ids)) || (rv = check_hash(c, key))
        || (rv = check_texts(c, key, texts))
        || (rv = check_times(c, key, times)) || (rv = check_replaces(c, key))
        || (rv = check_attributes(c, key)) || (rv = check_plan(c, key))) {
        return rv;
    }
    return check_compiled(c, org, key);
}

static apr_status_t check_organization(check_t *c, struct json_object *org)
{
    static const char *const texts[] = {"name", NULL};
    const char *place = c->place;
    struct json_object *keys;
    apr_status_t rv;
    size_t i;

    if (!json_object_is_type(org, json_type_object)) {
        return fault(c, "", "must be an object");
    }
    if ((rv = check_id(c, org, c->organizations))
        || (rv = check_texts(c, org, texts)) || (rv = check_attributes(c, org))
        || (rv = check_plan(c, org))) {
        return rv;
    }
    if (!json_object_object_get_ex(org, "keys", &keys)) {
        return APR_SUCCESS;
    }
    if (!json_object_is_type(keys, json_type_array)) {
        return fault(c, "keys", "must be an array");
    }
    for (i = 0; i < json_object_array_length(keys); i++) {
        c->place = apr_psprintf(c->p, "%s.keys[%" APR_SIZE_T_FMT "]", place, i);
        rv = check_key(c, org, json_object_array_get_idx(keys, i));
        if (rv) {
            return rv;
        }
    }
    c->place = place;
    return APR_SUCCESS;
}

static apr_status_t check_plans(check_t *c, struct json_object *doc)
{
    apr_status_t rv;

    if (!json_object_object_get_ex(doc, "plans", &c->plans) || !c->plans) {
        return APR_SUCCESS;
    }
    if (!json_object_is_type(c->plans, json_type_object)) {
        return fault(c, "plans", "must be an object");
    }
    json_object_object_foreach(c->plans, name, plan)
    {
        c->place = "plans";
        if (!ue_keyfile_is_plan_name(name)) {
            return fault(
                c, "",
                apr_psprintf(
                    c->p, "\"%s\" is no name of a plan: " UE_PLAN_NAME_SYNTAX,
                    name));
        }
        c->place = apr_pstrcat(c->p, "plans.", name, NULL);
        if (!json_object_is_type(plan, json_type_object)) {
            return fault(c, "", "must be an object");
        }
        rv = check_attributes(c, plan);
        if (rv) {
            return rv;
        }
    }
    c->place = "";
    return APR_SUCCESS;
}

apr_status_t ue_keyfile_check(const char *path, struct json_object *doc,
                              const char **why, apr_pool_t *p)
{
    check_t c = {
        path, why, p, apr_hash_make(p), apr_hash_make(p), apr_hash_make(p),
        NULL, ""};
    struct json_object *version, *orgs;
    apr_status_t rv;
    size_t i;

    if (!json_object_is_type(doc, json_type_object)) {
        *why = apr_psprintf(p, "%s: must hold a JSON object", path);
        return APR_EINVAL;
    }
    if (!json_object_object_get_ex(doc, "version", &version)
        || !json_object_is_type(version, json_type_int)
        || json_object_get_int64(version) != 1) {
        return fault(&c, "version", "must be 1");
    }
    if (!json_object_object_get_ex(doc, "organizations", &orgs)
        || !json_object_is_type(orgs, json_type_array)) {
        return fault(&c, "organizations", "must be an array");
    }
    rv = check_plans(&c, doc);
    if (rv) {
        return rv;
    }
    for (i = 0; i < json_object_array_length(orgs); i++) {
        c.place = apr_psprintf(p, "organizations[%" APR_SIZE_T_FMT "]", i);
        rv = check_organization(&c, json_object_array_get_idx(orgs, i));
        if (rv) {
            return rv;
        }
    }
    return APR_SUCCESS;
}
