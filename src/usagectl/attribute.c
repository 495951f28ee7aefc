/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "store.h"

#include <string.h>

#include <json-c/json.h>

#include "apikey.h"
#include "keyfile.h"
#include "rate.h"

#define NONE UE_OPTS /* no such option */

static const struct {
    const char *name; /* as a member and as a column */
    ue_ctl_option_t set;
    ue_ctl_option_t unset;
} attributes[] = {
    {"name", UE_OPT_NAME, NONE},
    {"expires", UE_OPT_EXPIRES, UE_OPT_NO_EXPIRES},
    {"plan", UE_OPT_PLAN, UE_OPT_NO_PLAN},
    {"rate", UE_OPT_RATE, UE_OPT_NO_RATE},
    {"quota", UE_OPT_QUOTA, UE_OPT_NO_QUOTA},
    {"networks", UE_OPT_NETWORK, UE_OPT_NO_NETWORKS},
    {"paths", UE_OPT_PATH, UE_OPT_NO_PATHS},
    {"methods", UE_OPT_METHOD, UE_OPT_NO_METHODS},
};

static int read_expires(const ue_ctl_t *ctl, const char *given,
                        const char **clean)
{
    apr_time_t when;

    /* 0 is for never, in httpd; who writes 1970 doesn't mean it */
    if (ue_time_parse(&when, given) || when <= 0) {
        return ue_ctl_fail(ctl, UE_CTL_WRONG_USE,
                           "--expires must be a time with a zone, after 1970, "
                           "like 2030-01-31T12:00:00Z");
    }
    if (when <= apr_time_now()) {
        ue_ctl_note("note: that key has expired already");
    }
    *clean = ue_ctl_time(when, ctl->p);
    return UE_CTL_DONE;
}

/* One value, checked, in the form in which it is stored. */
static int read_value(const ue_ctl_t *ctl, ue_ctl_option_t option,
                      const char **value)
{
    const char *given = ctl->option[option];
    ue_rate_t rate;
    ue_quota_t quota;

    *value = given;
    switch (option) {
    case UE_OPT_NAME:
        return ue_ctl_name(ctl, "--name", given);
    case UE_OPT_EXPIRES:
        return read_expires(ctl, given, value);
    case UE_OPT_PLAN:
        return ue_ctl_plan_name(ctl, "--plan", given);
    case UE_OPT_RATE:
        return ue_rate_parse(&rate, given) ? ue_ctl_fail(
                   ctl, UE_CTL_WRONG_USE, "--rate must be " UE_RATE_SYNTAX)
                                           : UE_CTL_DONE;
    default: /* UE_OPT_QUOTA */
        return ue_quota_parse(&quota, given) ? ue_ctl_fail(
                   ctl, UE_CTL_WRONG_USE, "--quota must be " UE_QUOTA_SYNTAX)
                                             : UE_CTL_DONE;
    }
}

/* The same entry twice is one. */
static int read_list(const ue_ctl_t *ctl, size_t a, struct json_object *list)
{
    const apr_array_header_t *given = ctl->many[attributes[a].set];
    const char *wrong;
    size_t k;
    int i;

    for (i = 0; i < given->nelts; i++) {
        const char *entry = APR_ARRAY_IDX(given, i, const char *);

        wrong = ue_apikey_is_ours(entry, strlen(entry))
                    ? "that is a key"
                    : ue_access_check(attributes[a].name, entry, ctl->p);
        if (wrong) {
            return ue_ctl_fail(ctl, UE_CTL_WRONG_USE, "%s: %s",
                               attributes[a].name,
                               ue_ctl_harmless(wrong, ctl->p));
        }
        for (k = 0; k < json_object_array_length(list); k++) {
            if (!strcmp(
                    json_object_get_string(json_object_array_get_idx(list, k)),
                    entry)) {
                break;
            }
        }
        if (k == json_object_array_length(list)) {
            json_object_array_add(list, json_object_new_string(entry));
        }
    }
    return UE_CTL_DONE;
}

static int read_attribute(const ue_ctl_t *ctl, size_t a,
                          struct json_object *changes)
{
    ue_ctl_option_t set = attributes[a].set, unset = attributes[a].unset;
    struct json_object *list;
    const char *value;
    int status = UE_CTL_DONE;

    if (unset != NONE && ctl->option[unset]) {
        if (ctl->option[set]) {
            return ue_ctl_fail(ctl, UE_CTL_WRONG_USE,
                               "%s can't be set and taken away at once",
                               attributes[a].name);
        }
        json_object_object_add(changes, attributes[a].name, NULL);
    }
    else if (ctl->option[set] && ctl->many[set]) {
        list = json_object_new_array();
        json_object_object_add(changes, attributes[a].name, list);
        status = read_list(ctl, a, list);
    }
    else if (ctl->option[set]) {
        status = read_value(ctl, set, &value);
        json_object_object_add(changes, attributes[a].name,
                               json_object_new_string(value));
    }
    return status;
}

int ue_ctl_changes(const ue_ctl_t *ctl, struct json_object **changes)
{
    int billable = ctl->option[UE_OPT_BILLABLE] != NULL;
    int not_billable = ctl->option[UE_OPT_NOT_BILLABLE] != NULL;
    int status = UE_CTL_DONE;
    size_t a;

    *changes = json_object_new_object();
    for (a = 0; !status && a < sizeof attributes / sizeof *attributes; a++) {
        status = read_attribute(ctl, a, *changes);
    }
    if (!status && billable && not_billable) {
        status = ue_ctl_fail(ctl, UE_CTL_WRONG_USE,
                             "it is --billable or --not-billable, not both");
    }
    if (billable || not_billable) {
        json_object_object_add(*changes, "billable",
                               json_object_new_boolean(billable));
    }
    if (!status) {
        status = ue_ctl_check_lists(ctl, *changes);
    }
    if (status) {
        json_object_put(*changes);
    }
    return status;
}

void ue_ctl_apply(struct json_object *to, struct json_object *changes)
{
    json_object_object_foreach(changes, name, value)
    {
        /* A key's entry in a file has these always, other attributes only where
         * they say something. */
        if (value || !strcmp(name, "expires") || !strcmp(name, "revoked")) {
            json_object_object_add(to, name, json_object_get(value));
        }
        else {
            json_object_object_del(to, name);
        }
    }
}

/* A key is bound by the lists of its plan and organization, too. Who gives each
 * a third of what a key may have needs to look at no other. */
int ue_ctl_check_lists(const ue_ctl_t *ctl, struct json_object *o)
{
    uint8_t block[UE_ACCESS_MAX];
    ue_access_lists_t lists;
    const char *why;
    size_t len = 0;

    if (ue_keyfile_lists(o, &lists, ctl->p)
        && (ue_access_compile(&lists, 1, block, &len, &why, ctl->p)
            || len > UE_ACCESS_MAX / 3)) {
        return ue_ctl_fail(ctl, UE_CTL_REFUSED,
                           "networks, paths and methods are too many, or too "
                           "long, for one plan, organization or key");
    }
    return UE_CTL_DONE;
}

int ue_ctl_plan_name(const ue_ctl_t *ctl, const char *what, const char *name)
{
    if (!ue_keyfile_is_plan_name(name)
        || ue_apikey_is_ours(name, strlen(name))) {
        return ue_ctl_fail(ctl, UE_CTL_WRONG_USE,
                           "%s must be a plan's name: " UE_PLAN_NAME_SYNTAX,
                           what);
    }
    return UE_CTL_DONE;
}

int ue_ctl_operand(const ue_ctl_t *ctl, ue_ctl_kind_t kind, const char **id)
{
    switch (kind) {
    case UE_CTL_PLAN:
        *id = ctl->operand;
        return ue_ctl_plan_name(ctl, "NAME", ctl->operand);
    case UE_CTL_ORGANIZATION:
        return ue_ctl_uuid(ctl, "ID (see org list)", ctl->operand, id);
    default:
        return ue_ctl_uuid(ctl, "ID (see key list)", ctl->operand, id);
    }
}
