/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "usagectl.h"

#include <stdio.h>
#include <string.h>

#include <json-c/json.h>

int ue_ctl_org_create(ue_ctl_t *ctl)
{
    const char *name = ctl->option[UE_OPT_NAME];
    const char *path, *id;
    struct json_object *doc;
    int status = ue_ctl_uuid(ctl, "--id", ctl->option[UE_OPT_ID], &id);

    if (!status) {
        status = ue_ctl_name(ctl, "--name", name);
    }
    if (!status) {
        status = ue_ctl_edit(ctl, 1, &path, &doc);
    }
    if (status) {
        return status;
    }
    if (ue_ctl_find_organization(doc, id)) {
        status = ue_ctl_fail(ctl, UE_CTL_REFUSED,
                             "organization %s is there already", id);
    }
    else {
        ue_ctl_add_organization(doc, id, name,
                                !ctl->option[UE_OPT_NOT_BILLABLE]);
        status = ue_ctl_save(ctl, path, doc);
    }
    json_object_put(doc);
    if (!status) {
        ue_ctl_note("organization %s is in %s", id, path);
    }
    return status;
}

static struct json_object *row_of(struct json_object *org)
{
    struct json_object *row = json_object_new_object();
    struct json_object *keys = ue_ctl_member(org, "keys");

    json_object_object_add(row, "id",
                           json_object_get(ue_ctl_member(org, "id")));
    json_object_object_add(row, "name",
                           json_object_get(ue_ctl_member(org, "name")));
    json_object_object_add(row, "billable",
                           json_object_new_boolean(ue_ctl_is_billable(org)));
    json_object_object_add(
        row, "keys",
        json_object_new_int64(keys ? (int64_t)json_object_array_length(keys)
                                   : 0));
    return row;
}

int ue_ctl_org_list(ue_ctl_t *ctl)
{
    static const ue_ctl_column_t columns[] = {{"id", "ID"},
                                              {"name", "NAME"},
                                              {"billable", "BILLABLE"},
                                              {"keys", "KEYS"},
                                              {NULL, NULL}};
    struct json_object *doc, *orgs, *rows;
    size_t i;
    int status = ue_ctl_read(ctl, &doc);

    if (status) {
        return status;
    }
    rows = json_object_new_array();
    orgs = ue_ctl_member(doc, "organizations");
    for (i = 0; i < json_object_array_length(orgs); i++) {
        json_object_array_add(rows, row_of(json_object_array_get_idx(orgs, i)));
    }
    status = ue_ctl_list(ctl, rows, columns);
    json_object_put(rows);
    json_object_put(doc);
    return status;
}
