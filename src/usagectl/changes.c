/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "store.h"

#include <string.h>

#include <json-c/json.h>

/* Names of the members that differ, where both are there. */
static struct json_object *changed_members(struct json_object *change)
{
    struct json_object *before = ue_ctl_member(change, "before");
    struct json_object *after = ue_ctl_member(change, "after");
    struct json_object *names = json_object_new_array();

    if (before && after) {
        json_object_object_foreach(after, name, value)
        {
            if (!json_object_equal(value, ue_ctl_member(before, name))) {
                json_object_array_add(names, json_object_new_string(name));
            }
        }
    }
    return names;
}

static int write_change(void *baton, struct json_object *change)
{
    json_object_object_add(change, "changed", changed_members(change));
    return ue_ctl_write(baton, change);
}

static int read_limit(const ue_ctl_t *ctl, const char **limit)
{
    const char *given = ctl->option[UE_OPT_LIMIT];
    size_t digits = given ? strspn(given, "0123456789") : 0;

    *limit = given ? given : "1000";
    if (given && (given[digits] || digits > 9 || *given == '0')) {
        return ue_ctl_fail(ctl, UE_CTL_WRONG_USE,
                           "--limit must be a number from 1 to 999999999");
    }
    return UE_CTL_DONE;
}

static int write_changes(const ue_ctl_t *ctl, ue_ctl_store_t *store,
                         const char *id, const char *limit)
{
    static const ue_ctl_column_t columns[] = {
        {"id", NULL},          {"at", "AT"},
        {"who", "WHO"},        {"what", "WHAT"},
        {"plan", "PLAN"},      {"organization_id", "ORGANIZATION"},
        {"api_key_id", "KEY"}, {"changed", "CHANGED"},
        {"before", NULL},      {"after", NULL},
        {NULL, NULL}};
    ue_ctl_writer_t *writer;
    int more = 0, status = ue_ctl_writer(ctl, columns, &writer);

    if (status) {
        return status;
    }
    status =
        store->vtable->changes(store, id, limit, write_change, writer, &more);
    ue_ctl_writer_end(writer, status);
    if (!status && more) {
        ue_ctl_note("note: there are older changes than these %s; --limit N "
                    "shows more",
                    limit);
    }
    return status;
}

int ue_ctl_key_changes(ue_ctl_t *ctl)
{
    const char *id = NULL, *limit;
    ue_ctl_store_t *store;
    int status = ue_ctl_check_format(ctl);

    if (!status) {
        status = read_limit(ctl, &limit);
    }
    if (!status && ctl->operand) {
        status = ue_ctl_operand(ctl, UE_CTL_KEY, &id);
    }
    if (!status) {
        status = ue_ctl_store_open(ctl, UE_CTL_LOOK, &store);
    }
    return status ? status : write_changes(ctl, store, id, limit);
}
