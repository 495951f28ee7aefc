/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "store.h"

#include <json-c/json.h>

#include "keyfile.h"

/* clang-format off */
#define ATTRIBUTE_COLUMNS                                                 \
    {"rate", NULL}, {"quota", NULL}, {"networks", NULL}, {"paths", NULL}, \
    {"methods", NULL}

#define KEY_COLUMNS                                                         \
    {"id", "ID"}, {"organization_id", "ORGANIZATION"}, {"name", "NAME"},    \
    {"prefix", "PREFIX"}, {"created", "CREATED"}, {"expires", "EXPIRES"},   \
    {"revoked", NULL}, {"billable", "BILLABLE"}, {"state", "STATE"},        \
    {"organization_name", NULL}, {"plan", NULL}, ATTRIBUTE_COLUMNS,         \
    {"replaces", NULL}

static const ue_ctl_column_t plan_columns[] = {
    {"id", NULL}, {"name", "NAME"}, {"rate", "RATE"}, {"quota", "QUOTA"},
    {"networks", NULL}, {"paths", NULL}, {"methods", NULL},
    {"billable", "BILLABLE"}, {"organizations", "ORGANIZATIONS"},
    {"keys", "KEYS"}, {"created", NULL}, {NULL, NULL}};

static const ue_ctl_column_t organization_columns[] = {
    {"id", "ID"}, {"name", "NAME"}, {"billable", "BILLABLE"}, {"keys", "KEYS"},
    {"plan", "PLAN"}, ATTRIBUTE_COLUMNS, {"created", NULL}, {NULL, NULL}};

static const ue_ctl_column_t key_columns[] = {KEY_COLUMNS, {NULL, NULL}};

static const ue_ctl_column_t whole_key_columns[] = {
    KEY_COLUMNS, {"replaced_by", NULL}, {"hash_kind", NULL},
    {"not_billable_by", NULL}, {"effective_plan", NULL},
    {"effective_key_rate", NULL}, {"effective_key_quota", NULL},
    {"effective_org_rate", NULL}, {"effective_org_quota", NULL},
    {"effective_networks", NULL}, {"effective_paths", NULL},
    {"effective_methods", NULL}, {NULL, NULL}};
/* clang-format on */

const ue_ctl_column_t *const ue_ctl_columns[] = {[UE_CTL_PLAN] = plan_columns,
                                                 [UE_CTL_ORGANIZATION] =
                                                     organization_columns,
                                                 [UE_CTL_KEY] = key_columns};

const ue_ctl_column_t *const ue_ctl_whole_columns[] = {
    [UE_CTL_PLAN] = plan_columns,
    [UE_CTL_ORGANIZATION] = organization_columns,
    [UE_CTL_KEY] = whole_key_columns};

/* Members, with null for one that lacks. */
static void copy(struct json_object *row, struct json_object *from,
                 const char *const *names)
{
    for (; *names; names++) {
        json_object_object_add(row, *names,
                               json_object_get(ue_ctl_member(from, *names)));
    }
}

/* Members that say something. */
static void copy_set(struct json_object *row, struct json_object *from,
                     const char *const *names)
{
    for (; *names; names++) {
        struct json_object *v = ue_ctl_member(from, *names);

        if (v) {
            json_object_object_add(row, *names, json_object_get(v));
        }
    }
}

static void add_flag(struct json_object *row, int billable)
{
    json_object_object_add(row, "billable", json_object_new_boolean(billable));
}

static void add_attributes(struct json_object *row, struct json_object *from)
{
    static const char *const names[] = {"plan",  "rate",    "quota", "networks",
                                        "paths", "methods", NULL};

    copy_set(row, from, names);
}

static struct json_object *plan_row(struct json_object *plan)
{
    static const char *const names[] = {"name", NULL};
    static const char *const counts[] = {"organizations", "keys", NULL};
    static const char *const late[] = {"created", NULL};
    struct json_object *row = json_object_new_object();

    json_object_object_add(row, "id",
                           json_object_get(ue_ctl_member(plan, "name")));
    copy(row, plan, names);
    add_attributes(row, plan);
    add_flag(row, ue_ctl_is_billable(plan));
    copy(row, plan, counts);
    copy_set(row, plan, late);
    return row;
}

static struct json_object *organization_row(struct json_object *org)
{
    static const char *const names[] = {"id", "name", NULL};
    static const char *const counts[] = {"keys", NULL};
    static const char *const late[] = {"created", NULL};
    struct json_object *row = json_object_new_object();

    copy(row, org, names);
    add_flag(row, ue_ctl_is_billable(org));
    copy(row, org, counts);
    add_attributes(row, org);
    copy_set(row, org, late);
    return row;
}

const char *ue_ctl_key_state(struct json_object *key, apr_time_t now)
{
    struct json_object *expires = ue_ctl_member(key, "expires");
    apr_time_t when;

    if (ue_ctl_member(key, "revoked")) {
        return "revoked";
    }
    if (expires && !ue_time_parse(&when, json_object_get_string(expires))
        && when <= now) {
        return "expired";
    }
    return "active";
}

/* Who says that its requests aren't billed. */
static struct json_object *not_billable_by(struct json_object *key)
{
    struct json_object *by = json_object_new_array();

    if (!ue_ctl_is_billable(ue_ctl_member(key, "of_plan"))) {
        json_object_array_add(by, json_object_new_string("plan"));
    }
    if (!ue_ctl_is_billable(ue_ctl_member(key, "organization"))) {
        json_object_array_add(by, json_object_new_string("organization"));
    }
    if (!ue_ctl_is_billable(key)) {
        json_object_array_add(by, json_object_new_string("key"));
    }
    return by;
}

static struct json_object *key_row(struct json_object *key, apr_time_t now)
{
    static const char *const names[] = {"id", "organization_id", NULL};
    static const char *const more[] = {"name",    "prefix",  "created",
                                       "expires", "revoked", NULL};
    static const char *const late[] = {"replaces", NULL};
    struct json_object *row = json_object_new_object();
    struct json_object *org = ue_ctl_member(key, "organization");
    struct json_object *by = not_billable_by(key);

    copy(row, key, names);
    json_object_object_add(row, "organization_name",
                           json_object_get(ue_ctl_member(org, "name")));
    copy(row, key, more);
    /* as its requests are billed, so by all of them */
    add_flag(row, json_object_array_length(by) == 0);
    json_object_put(by);
    json_object_object_add(row, "state",
                           json_object_new_string(ue_ctl_key_state(key, now)));
    add_attributes(row, key);
    copy_set(row, key, late);
    return row;
}

struct json_object *ue_ctl_row(ue_ctl_kind_t kind, struct json_object *found,
                               apr_time_t now)
{
    switch (kind) {
    case UE_CTL_PLAN:
        return plan_row(found);
    case UE_CTL_ORGANIZATION:
        return organization_row(found);
    default:
        return key_row(found, now);
    }
}

/* The first that has it. */
static void add_first(struct json_object *row, const char *as,
                      struct json_object *first, struct json_object *second,
                      const char *name)
{
    struct json_object *v = ue_ctl_member(first, name);

    v = v ? v : ue_ctl_member(second, name);
    if (v) {
        json_object_object_add(row, as, json_object_get(v));
    }
}

/* A plan that the key itself has limits the key. Any other limits its whole
 * organization, as gateways have it (ue_keyrecord_t). */
static void add_limits(struct json_object *row, struct json_object *key)
{
    struct json_object *org = ue_ctl_member(key, "organization");
    struct json_object *plan = ue_ctl_member(key, "of_plan");
    int is_own = ue_ctl_member(key, "plan") != NULL;
    struct json_object *of_key = is_own ? plan : NULL;
    struct json_object *of_org = is_own ? NULL : plan;

    add_first(row, "effective_key_rate", key, of_key, "rate");
    add_first(row, "effective_key_quota", key, of_key, "quota");
    add_first(row, "effective_org_rate", org, of_org, "rate");
    add_first(row, "effective_org_quota", org, of_org, "quota");
}

/* A list of lists, all of which must let a request in. */
static void add_all(struct json_object *row, const char *as,
                    struct json_object *key, const char *name)
{
    struct json_object *of[] = {ue_ctl_member(key, "of_plan"),
                                ue_ctl_member(key, "organization"), key};
    struct json_object *lists = json_object_new_array();
    size_t i;

    for (i = 0; i < sizeof of / sizeof *of; i++) {
        struct json_object *list = ue_ctl_member(of[i], name);

        if (list) {
            json_object_array_add(lists, json_object_get(list));
        }
    }
    if (json_object_array_length(lists)) {
        json_object_object_add(row, as, lists);
    }
    else {
        json_object_put(lists);
    }
}

struct json_object *ue_ctl_whole_row(ue_ctl_kind_t kind,
                                     struct json_object *found, apr_time_t now)
{
    static const char *const late[] = {"replaced_by", "hash_kind", NULL};
    struct json_object *row = ue_ctl_row(kind, found, now), *by;

    if (kind != UE_CTL_KEY) {
        return row;
    }
    copy_set(row, found, late);
    by = not_billable_by(found);
    if (json_object_array_length(by)) {
        json_object_object_add(row, "not_billable_by", json_object_get(by));
    }
    json_object_put(by);
    add_first(row, "effective_plan", found,
              ue_ctl_member(found, "organization"), "plan");
    add_limits(row, found);
    add_all(row, "effective_networks", found, "networks");
    add_all(row, "effective_paths", found, "paths");
    add_all(row, "effective_methods", found, "methods");
    return row;
}
