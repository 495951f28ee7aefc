/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "store.h"

#include <string.h>
#include <strings.h>

#include <json-c/json.h>

#include "keyfile.h"

typedef struct {
    ue_ctl_store_t base;
    struct json_object *doc;
    ue_keyfile_draft_t *draft;
} filestore_t;

/* Finding -------------------------------------------------------------- */

static struct json_object *organizations_of(const filestore_t *s)
{
    return ue_ctl_member(s->doc, "organizations");
}

static const char *text(struct json_object *o, const char *name)
{
    return json_object_get_string(ue_ctl_member(o, name));
}

/* The file may have it in capitals. */
static int has_id(struct json_object *o, const char *id)
{
    return !strcasecmp(text(o, "id"), id);
}

static size_t count(struct json_object *array)
{
    return array ? json_object_array_length(array) : 0;
}

static struct json_object *find_organization(const filestore_t *s,
                                             const char *id)
{
    struct json_object *orgs = organizations_of(s);
    size_t i;

    for (i = 0; i < count(orgs); i++) {
        struct json_object *org = json_object_array_get_idx(orgs, i);

        if (has_id(org, id)) {
            return org;
        }
    }
    return NULL;
}

static struct json_object *find_key(const filestore_t *s, const char *id,
                                    struct json_object **organization)
{
    struct json_object *orgs = organizations_of(s);
    size_t i, k;

    for (i = 0; i < count(orgs); i++) {
        struct json_object *keys;

        *organization = json_object_array_get_idx(orgs, i);
        keys = ue_ctl_member(*organization, "keys");
        for (k = 0; k < count(keys); k++) {
            struct json_object *key = json_object_array_get_idx(keys, k);

            if (has_id(key, id)) {
                return key;
            }
        }
    }
    return NULL;
}

static struct json_object *find_plan(const filestore_t *s, const char *name)
{
    struct json_object *plans = ue_ctl_member(s->doc, "plans");

    return plans ? ue_ctl_member(plans, name) : NULL;
}

/* One as it is in the document, to be changed there. */
static struct json_object *find_any(const filestore_t *s, ue_ctl_kind_t kind,
                                    const char *id)
{
    struct json_object *organization;

    switch (kind) {
    case UE_CTL_PLAN:
        return find_plan(s, id);
    case UE_CTL_ORGANIZATION:
        return find_organization(s, id);
    default:
        return find_key(s, id, &organization);
    }
}

/* Views ---------------------------------------------------------------- */

/* Its members but one, which is not for others, or too much. */
static struct json_object *view_without(struct json_object *o,
                                        const char *hidden)
{
    struct json_object *view = json_object_new_object();

    json_object_object_foreach(o, name, value)
    {
        if (strcmp(name, hidden) != 0) {
            json_object_object_add(view, name, json_object_get(value));
        }
    }
    return view;
}

/* A key's own plan, or its organization's. */
static void add_plan(const filestore_t *s, struct json_object *view,
                     struct json_object *key, struct json_object *org)
{
    const char *name = key ? text(key, "plan") : NULL;

    if (!name) {
        name = text(org, "plan");
    }
    if (name) {
        json_object_object_add(view, "of_plan",
                               json_object_get(find_plan(s, name)));
    }
}

static int has_plan(struct json_object *o, const char *name)
{
    const char *its = text(o, "plan");

    return its && !strcmp(its, name);
}

static struct json_object *view_plan(const filestore_t *s, const char *name,
                                     struct json_object *plan)
{
    struct json_object *view = view_without(plan, "name");
    struct json_object *orgs = organizations_of(s);
    int64_t organizations = 0, keys = 0;
    size_t i, k;

    for (i = 0; i < count(orgs); i++) {
        struct json_object *org = json_object_array_get_idx(orgs, i);
        struct json_object *its = ue_ctl_member(org, "keys");

        organizations += has_plan(org, name);
        for (k = 0; k < count(its); k++) {
            keys += has_plan(json_object_array_get_idx(its, k), name);
        }
    }
    json_object_object_add(view, "name", json_object_new_string(name));
    json_object_object_add(view, "organizations",
                           json_object_new_int64(organizations));
    json_object_object_add(view, "keys", json_object_new_int64(keys));
    return view;
}

static struct json_object *view_organization(const filestore_t *s,
                                             struct json_object *org)
{
    struct json_object *view = view_without(org, "keys");

    json_object_object_add(
        view, "keys",
        json_object_new_int64((int64_t)count(ue_ctl_member(org, "keys"))));
    add_plan(s, view, NULL, org);
    return view;
}

static struct json_object *view_key(const filestore_t *s,
                                    struct json_object *org,
                                    struct json_object *key)
{
    struct json_object *view = view_without(key, "hash");
    const char *hash = text(key, "hash");

    json_object_object_add(
        view, "hash_kind",
        json_object_new_string_len(hash, (int)strcspn(hash, ":")));
    json_object_object_add(view, "organization_id",
                           json_object_get(ue_ctl_member(org, "id")));
    json_object_object_add(view, "organization", json_object_get(org));
    add_plan(s, view, key, org);
    return view;
}

/* What was made from a key. */
static void add_replacement(struct json_object *view, struct json_object *org,
                            const char *id)
{
    struct json_object *keys = ue_ctl_member(org, "keys");
    size_t k;

    for (k = 0; k < count(keys); k++) {
        struct json_object *key = json_object_array_get_idx(keys, k);
        const char *replaces = text(key, "replaces");

        if (replaces && !strcasecmp(replaces, id)) {
            json_object_object_add(view, "replaced_by",
                                   json_object_get(ue_ctl_member(key, "id")));
            return;
        }
    }
}

static int hand_over(struct json_object *view, ue_ctl_each_t *each, void *baton)
{
    int status = each(baton, view);

    json_object_put(view);
    return status;
}

static int list_plans(const filestore_t *s, ue_ctl_each_t *each, void *baton)
{
    struct json_object *plans = ue_ctl_member(s->doc, "plans");
    int status = UE_CTL_DONE;

    if (plans) {
        json_object_object_foreach(plans, name, plan)
        {
            if (!status) {
                status = hand_over(view_plan(s, name, plan), each, baton);
            }
        }
    }
    return status;
}

static int list_keys(const filestore_t *s, struct json_object *org,
                     ue_ctl_each_t *each, void *baton)
{
    struct json_object *keys = ue_ctl_member(org, "keys");
    int status = UE_CTL_DONE;
    size_t k;

    for (k = 0; !status && k < count(keys); k++) {
        status = hand_over(view_key(s, org, json_object_array_get_idx(keys, k)),
                           each, baton);
    }
    return status;
}

static int file_list(ue_ctl_store_t *base, ue_ctl_kind_t kind,
                     const char *organization, ue_ctl_each_t *each, void *baton)
{
    const filestore_t *s = (filestore_t *)base;
    struct json_object *orgs = organizations_of(s);
    int status = UE_CTL_DONE;
    size_t i;

    if (kind == UE_CTL_PLAN) {
        return list_plans(s, each, baton);
    }
    for (i = 0; !status && i < count(orgs); i++) {
        struct json_object *org = json_object_array_get_idx(orgs, i);

        if (kind == UE_CTL_ORGANIZATION) {
            status = hand_over(view_organization(s, org), each, baton);
        }
        else if (!organization || has_id(org, organization)) {
            status = list_keys(s, org, each, baton);
        }
    }
    return status;
}

static int file_find(ue_ctl_store_t *base, ue_ctl_kind_t kind, const char *id,
                     struct json_object **found)
{
    const filestore_t *s = (filestore_t *)base;
    struct json_object *org, *o;

    *found = NULL;
    if (kind == UE_CTL_KEY) {
        o = find_key(s, id, &org);
        if (o) {
            *found = view_key(s, org, o);
            add_replacement(*found, org, id);
        }
        return UE_CTL_DONE;
    }
    o = find_any(s, kind, id);
    if (o) {
        *found =
            kind == UE_CTL_PLAN ? view_plan(s, id, o) : view_organization(s, o);
    }
    return UE_CTL_DONE;
}

static int file_changes(ue_ctl_store_t *base, const char *key,
                        const char *limit, ue_ctl_each_t *each, void *baton,
                        int *more)
{
    return ue_ctl_fail(base->ctl, UE_CTL_REFUSED,
                       "a key file keeps no history; PostgreSQL does");
}

/* Changing ------------------------------------------------------------- */

static int check_plan(const filestore_t *s, struct json_object *o)
{
    const char *name = text(o, "plan");

    return !name || find_plan(s, name)
               ? UE_CTL_DONE
               : ue_ctl_fail(s->base.ctl, UE_CTL_REFUSED, UE_CTL_NO_PLAN);
}

/* A member that is an array or object of its own, made where it lacks. */
static struct json_object *made_member(struct json_object *o, const char *name,
                                       struct json_object *(*make)(void))
{
    struct json_object *v = ue_ctl_member(o, name);

    if (!v) {
        v = make();
        json_object_object_add(o, name, v);
    }
    return v;
}

static int file_insert(ue_ctl_store_t *base, ue_ctl_kind_t kind,
                       struct json_object *what, int *made)
{
    filestore_t *s = (filestore_t *)base;
    const char *id = text(what, kind == UE_CTL_PLAN ? "name" : "id");
    struct json_object *org;
    int status = check_plan(s, what);

    *made = !find_any(s, kind, id);
    if (status || !*made) {
        return status;
    }
    switch (kind) {
    case UE_CTL_PLAN:
        json_object_object_add(
            made_member(s->doc, "plans", json_object_new_object), id,
            view_without(what, "name"));
        break;
    case UE_CTL_ORGANIZATION:
        org = view_without(what, "keys");
        json_object_object_add(org, "keys", json_object_new_array());
        json_object_array_add(organizations_of(s), org);
        break;
    case UE_CTL_KEY:
        org = find_organization(s, text(what, "organization_id"));
        json_object_array_add(made_member(org, "keys", json_object_new_array),
                              view_without(what, "organization_id"));
        break;
    }
    return UE_CTL_DONE;
}

static int file_update(ue_ctl_store_t *base, ue_ctl_kind_t kind, const char *id,
                       struct json_object *changes)
{
    filestore_t *s = (filestore_t *)base;
    int status = check_plan(s, changes);

    if (!status) {
        ue_ctl_apply(find_any(s, kind, id), changes);
    }
    return status;
}

static int file_remove_plan(ue_ctl_store_t *base, const char *name)
{
    filestore_t *s = (filestore_t *)base;
    struct json_object *view = view_plan(s, name, find_plan(s, name));
    int used = json_object_get_int64(ue_ctl_member(view, "organizations"))
               || json_object_get_int64(ue_ctl_member(view, "keys"));

    json_object_put(view);
    if (used) {
        return ue_ctl_fail(base->ctl, UE_CTL_REFUSED, UE_CTL_PLAN_USED);
    }
    json_object_object_del(ue_ctl_member(s->doc, "plans"), name);
    return UE_CTL_DONE;
}

static int file_prepare(ue_ctl_store_t *base)
{
    filestore_t *s = (filestore_t *)base;
    const ue_ctl_t *ctl = base->ctl;
    const char *why;

    if (ue_keyfile_draft(&s->draft, base->where, s->doc,
                         ctl->option[UE_OPT_GROUP], &why, ctl->p)) {
        return ue_ctl_fail(ctl, UE_CTL_REFUSED, "%s", why);
    }
    return UE_CTL_DONE;
}

static int file_commit(ue_ctl_store_t *base)
{
    const char *why;

    if (ue_keyfile_commit(((filestore_t *)base)->draft, &why)) {
        return ue_ctl_fail(base->ctl, UE_CTL_REFUSED, "%s", why);
    }
    return UE_CTL_DONE;
}

/* Opening -------------------------------------------------------------- */

static apr_status_t forget(void *data)
{
    json_object_put(((filestore_t *)data)->doc);
    return APR_SUCCESS;
}

/* Whoever is to change it has the lock from before the reading on, until the
 * process ends. */
static int file_open(ue_ctl_store_t **store, const ue_ctl_t *ctl,
                     const char *url, ue_ctl_purpose_t purpose)
{
    filestore_t *s = apr_pcalloc(ctl->p, sizeof *s);
    const char *path = url + sizeof "file:" - 1, *why;
    apr_status_t rv = purpose == UE_CTL_LOOK
                          ? APR_SUCCESS
                          : ue_keyfile_lock(path, &why, ctl->p);

    if (!rv) {
        rv = ue_keyfile_read(path, &s->doc, &why, ctl->p);
        if (purpose == UE_CTL_ADD && APR_STATUS_IS_ENOENT(rv)) {
            s->doc = ue_keyfile_new();
            rv = APR_SUCCESS;
        }
    }
    if (rv) {
        return ue_ctl_fail(ctl, UE_CTL_REFUSED, "%s", why);
    }
    apr_pool_cleanup_register(ctl->p, s, forget, apr_pool_cleanup_null);
    s->base.where = path;
    *store = &s->base;
    return UE_CTL_DONE;
}

const ue_ctl_store_vtable_t ue_ctl_store_file = {
    .open = file_open,
    .list = file_list,
    .find = file_find,
    .insert = file_insert,
    .update = file_update,
    .remove_plan = file_remove_plan,
    .changes = file_changes,
    .prepare = file_prepare,
    .commit = file_commit,
};
