/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "store.h"

#include <json-c/json.h>

/* Both have attributes, but a key that is to be made has more to it (key.c). */
static int create(const ue_ctl_t *ctl, ue_ctl_kind_t kind, const char *member,
                  const char *id)
{
    struct json_object *changes, *o;
    ue_ctl_store_t *store;
    int made = 0, status = ue_ctl_changes(ctl, &changes);

    if (status) {
        return status;
    }
    o = json_object_new_object();
    json_object_object_add(o, member, json_object_new_string(id));
    if (kind == UE_CTL_ORGANIZATION) {
        json_object_object_add(o, "name", NULL);
    }
    json_object_object_add(o, "billable", json_object_new_boolean(1));
    ue_ctl_apply(o, changes);
    json_object_put(changes);
    status = ue_ctl_store_open(ctl, UE_CTL_ADD, &store);
    if (!status) {
        status = store->vtable->insert(store, kind, o, &made);
    }
    json_object_put(o);
    if (!status && !made) {
        status = ue_ctl_fail(ctl, UE_CTL_REFUSED, "%s %s is there already",
                             ue_ctl_noun(kind), id);
    }
    if (!status) {
        status = ue_ctl_store_save(store);
    }
    if (!status) {
        ue_ctl_note("%s %s is in %s", ue_ctl_noun(kind), id, store->where);
    }
    return status;
}

int ue_ctl_plan_create(ue_ctl_t *ctl)
{
    const char *name;
    int status = ue_ctl_operand(ctl, UE_CTL_PLAN, &name);

    return status ? status : create(ctl, UE_CTL_PLAN, "name", name);
}

int ue_ctl_org_create(ue_ctl_t *ctl)
{
    const char *id;
    int status = ue_ctl_uuid(ctl, "--id", ctl->option[UE_OPT_ID], &id);

    return status ? status : create(ctl, UE_CTL_ORGANIZATION, "id", id);
}

int ue_ctl_plan_delete(ue_ctl_t *ctl)
{
    struct json_object *plan;
    ue_ctl_store_t *store;
    const char *name;
    int status = ue_ctl_operand(ctl, UE_CTL_PLAN, &name);

    if (!status) {
        status = ue_ctl_store_open(ctl, UE_CTL_CHANGE, &store);
    }
    if (!status) {
        status = ue_ctl_store_need(store, UE_CTL_PLAN, name, &plan);
    }
    if (status) {
        return status;
    }
    json_object_put(plan);
    status = store->vtable->remove_plan(store, name);
    if (!status) {
        status = ue_ctl_store_save(store);
    }
    if (!status) {
        ue_ctl_note("plan %s is deleted from %s", name, store->where);
    }
    return status;
}

/* Of all three kinds alike ---------------------------------------------- */

typedef struct {
    ue_ctl_writer_t *writer;
    ue_ctl_kind_t kind;
    apr_time_t now;
} rows_t;

static int write_row(void *baton, struct json_object *found)
{
    rows_t *r = baton;
    struct json_object *row = ue_ctl_row(r->kind, found, r->now);
    int status = ue_ctl_write(r->writer, row);

    json_object_put(row);
    return status;
}

static int list(const ue_ctl_t *ctl, ue_ctl_kind_t kind)
{
    rows_t r = {NULL, kind, apr_time_now()};
    const char *organization = NULL;
    ue_ctl_store_t *store;
    int status = ue_ctl_check_format(ctl);

    if (!status && ctl->option[UE_OPT_ORG]) {
        status =
            ue_ctl_uuid(ctl, "--org", ctl->option[UE_OPT_ORG], &organization);
    }
    if (!status) {
        status = ue_ctl_store_open(ctl, UE_CTL_LOOK, &store);
    }
    if (!status) {
        status = ue_ctl_writer(ctl, ue_ctl_columns[kind], &r.writer);
    }
    if (status) {
        return status;
    }
    status = store->vtable->list(store, kind, organization, write_row, &r);
    ue_ctl_writer_end(r.writer, status);
    return status;
}

static int show(const ue_ctl_t *ctl, ue_ctl_kind_t kind)
{
    struct json_object *found, *row;
    ue_ctl_store_t *store;
    const char *id;
    int status = ue_ctl_check_format(ctl);

    if (!status) {
        status = ue_ctl_operand(ctl, kind, &id);
    }
    if (!status) {
        status = ue_ctl_store_open(ctl, UE_CTL_LOOK, &store);
    }
    if (!status) {
        status = ue_ctl_store_need(store, kind, id, &found);
    }
    if (status) {
        return status;
    }
    row = ue_ctl_whole_row(kind, found, apr_time_now());
    status = ue_ctl_show(ctl, row, ue_ctl_whole_columns[kind]);
    json_object_put(row);
    json_object_put(found);
    return status;
}

/* Longer ones that somebody wrote by hand are in nobody's way. */
static int changes_lists(struct json_object *changes)
{
    return ue_ctl_member(changes, "networks") || ue_ctl_member(changes, "paths")
           || ue_ctl_member(changes, "methods");
}

static int change(const ue_ctl_t *ctl, ue_ctl_kind_t kind, const char *id,
                  struct json_object *changes)
{
    struct json_object *found;
    ue_ctl_store_t *store;
    int status = ue_ctl_store_open(ctl, UE_CTL_CHANGE, &store);

    if (!status) {
        status = ue_ctl_store_need(store, kind, id, &found);
    }
    if (status) {
        return status;
    }
    if (changes_lists(changes)) {
        ue_ctl_apply(found, changes);
        status = ue_ctl_check_lists(ctl, found);
    }
    json_object_put(found);
    if (!status) {
        status = store->vtable->update(store, kind, id, changes);
    }
    if (!status) {
        status = ue_ctl_store_save(store);
    }
    if (!status) {
        ue_ctl_note("%s %s is changed in %s", ue_ctl_noun(kind), id,
                    store->where);
    }
    return status;
}

static int set(const ue_ctl_t *ctl, ue_ctl_kind_t kind)
{
    struct json_object *changes;
    const char *id;
    int status = ue_ctl_operand(ctl, kind, &id);

    if (!status) {
        status = ue_ctl_changes(ctl, &changes);
    }
    if (status) {
        return status;
    }
    status =
        json_object_object_length(changes)
            ? change(ctl, kind, id, changes)
            : ue_ctl_fail(ctl, UE_CTL_WRONG_USE, "there is nothing to set");
    json_object_put(changes);
    return status;
}

int ue_ctl_plan_list(ue_ctl_t *ctl)
{
    return list(ctl, UE_CTL_PLAN);
}

int ue_ctl_org_list(ue_ctl_t *ctl)
{
    return list(ctl, UE_CTL_ORGANIZATION);
}

int ue_ctl_key_list(ue_ctl_t *ctl)
{
    return list(ctl, UE_CTL_KEY);
}

int ue_ctl_plan_show(ue_ctl_t *ctl)
{
    return show(ctl, UE_CTL_PLAN);
}

int ue_ctl_org_show(ue_ctl_t *ctl)
{
    return show(ctl, UE_CTL_ORGANIZATION);
}

int ue_ctl_key_show(ue_ctl_t *ctl)
{
    return show(ctl, UE_CTL_KEY);
}

int ue_ctl_plan_set(ue_ctl_t *ctl)
{
    return set(ctl, UE_CTL_PLAN);
}

int ue_ctl_org_set(ue_ctl_t *ctl)
{
    return set(ctl, UE_CTL_ORGANIZATION);
}

int ue_ctl_key_set(ue_ctl_t *ctl)
{
    return set(ctl, UE_CTL_KEY);
}
