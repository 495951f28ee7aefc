/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "usagectl.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <apr_strings.h>

#include <json-c/json.h>
#include <openssl/crypto.h>

#include "apikey.h"
#include "keyfile.h"
#include "uuid.h"

/* create --------------------------------------------------------------- */

typedef struct {
    const char *organization;
    const char *expires; /* NULL: never */
    char id[UE_UUID_LEN + 1];
    char key[UE_APIKEY_LEN + 2]; /* with room for a line feed */
} new_key_t;

static int check_expires(const ue_ctl_t *ctl, new_key_t *k)
{
    apr_time_t when;

    if (!ctl->option[UE_OPT_EXPIRES]) {
        return UE_CTL_DONE;
    }
    if (ue_time_parse(&when, ctl->option[UE_OPT_EXPIRES])) {
        return ue_ctl_fail(ctl, UE_CTL_WRONG_USE,
                           "--expires must be a time with a zone, like "
                           "2030-01-31T12:00:00Z");
    }
    if (when <= apr_time_now()) {
        ue_ctl_note("note: that key has expired already");
    }
    k->expires = ue_ctl_time(when, ctl->p);
    return UE_CTL_DONE;
}

static int check_options(const ue_ctl_t *ctl, new_key_t *k)
{
    const char *env = ctl->option[UE_OPT_ENV];
    const char *name = ctl->option[UE_OPT_NAME];
    const char *org_name = ctl->option[UE_OPT_ORG_NAME];
    int status =
        ue_ctl_uuid(ctl, "--org", ctl->option[UE_OPT_ORG], &k->organization);

    if (!status && env && strcmp(env, "live") != 0
        && strcmp(env, "test") != 0) {
        status =
            ue_ctl_fail(ctl, UE_CTL_WRONG_USE, "--env must be live or test");
    }
    if (!status && name) {
        status = ue_ctl_name(ctl, "--name", name);
    }
    if (!status && org_name) {
        status = ue_ctl_name(ctl, "--org-name", org_name);
    }
    return status ? status : check_expires(ctl, k);
}

static struct json_object *text_or_null(const char *s)
{
    return s ? json_object_new_string(s) : NULL;
}

/* The key's entry in the file: all about it but itself. */
static struct json_object *entry_of(const ue_ctl_t *ctl, const new_key_t *k)
{
    const char *name = ctl->option[UE_OPT_NAME];
    char prefix[UE_APIKEY_PREFIX + 1], hash[UE_APIKEY_HASH_TEXT + 1];
    struct json_object *entry = json_object_new_object();
    apr_time_t now = apr_time_now();
    ue_keyhash_t digest;

    ue_apikey_prefix(k->key, UE_APIKEY_LEN, prefix);
    ue_apikey_hash(k->key, UE_APIKEY_LEN, &digest);
    ue_apikey_hash_format(&digest, hash);
    json_object_object_add(entry, "id", json_object_new_string(k->id));
    json_object_object_add(entry, "name",
                           json_object_new_string(name ? name : ""));
    json_object_object_add(entry, "prefix", json_object_new_string(prefix));
    json_object_object_add(entry, "hash", json_object_new_string(hash));
    json_object_object_add(
        entry, "created",
        json_object_new_string(ue_ctl_time(now - apr_time_usec(now), ctl->p)));
    json_object_object_add(entry, "expires", text_or_null(k->expires));
    json_object_object_add(entry, "revoked", NULL);
    json_object_object_add(
        entry, "billable",
        json_object_new_boolean(!ctl->option[UE_OPT_NOT_BILLABLE]));
    return entry;
}

static void add_entry(const ue_ctl_t *ctl, const new_key_t *k,
                      struct json_object *doc)
{
    const char *name = ctl->option[UE_OPT_ORG_NAME];
    struct json_object *org = ue_ctl_find_organization(doc, k->organization);
    struct json_object *keys;

    if (!org) {
        org =
            ue_ctl_add_organization(doc, k->organization, name ? name : "", 1);
    }
    else if (name) {
        ue_ctl_note("note: that organization is there already and keeps its "
                    "name");
    }
    keys = ue_ctl_member(org, "keys");
    if (!keys) {
        keys = json_object_new_array();
        json_object_object_add(org, "keys", keys);
    }
    json_object_array_add(keys, entry_of(ctl, k));
}

static int generate(const ue_ctl_t *ctl, new_key_t *k)
{
    const char *env = ctl->option[UE_OPT_ENV];
    ue_uuid_t id;

    if (ue_apikey_generate(env ? env : "live", k->key) || ue_uuid_v4(&id)) {
        return ue_ctl_fail(ctl, UE_CTL_REFUSED,
                           "the system has no randomness to give");
    }
    ue_uuid_format(&id, k->id);
    return UE_CTL_DONE;
}

/* A key that works must be in somebody's hands, and a key in somebody's hands
 * should work. So first everything is done that can fail, then the key is
 * shown, and then it begins to work, by a rename. If it can't be shown, or we
 * are killed before the rename, it never does. */
static int show_and_save(const ue_ctl_t *ctl, new_key_t *k, const char *path,
                         struct json_object *doc)
{
    ue_keyfile_draft_t *draft;
    const char *why;
    int status;

    if (ue_keyfile_draft(&draft, path, doc, ctl->option[UE_OPT_GROUP], &why,
                         ctl->p)) {
        return ue_ctl_fail(ctl, UE_CTL_REFUSED, "%s", why);
    }
    k->key[UE_APIKEY_LEN] = '\n';
    status = ue_ctl_put(ctl, k->key, UE_APIKEY_LEN + 1);
    if (status) {
        ue_ctl_note("so no key was made");
    }
    else if (ue_keyfile_commit(draft, &why)) {
        status = ue_ctl_fail(ctl, UE_CTL_REFUSED,
                             "%s; don't rely on the key that was shown", why);
    }
    return status;
}

int ue_ctl_key_create(ue_ctl_t *ctl)
{
    new_key_t k;
    const char *path;
    struct json_object *doc;
    int status;

    memset(&k, 0, sizeof k);
    status = check_options(ctl, &k);
    if (!status) {
        status = ue_ctl_edit(ctl, 1, &path, &doc);
    }
    if (status) {
        return status;
    }
    status = generate(ctl, &k);
    if (!status) {
        add_entry(ctl, &k, doc);
        status = show_and_save(ctl, &k, path, doc);
    }
    OPENSSL_cleanse(k.key, sizeof k.key);
    json_object_put(doc);
    if (!status) {
        ue_ctl_note("key %s of organization %s is in %s; it is not shown again",
                    k.id, k.organization, path);
    }
    return status;
}

/* list ----------------------------------------------------------------- */

static const char *state_of(struct json_object *key, apr_time_t now)
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

static void copy(struct json_object *to, const char *as,
                 struct json_object *from, const char *name)
{
    json_object_object_add(to, as, json_object_get(ue_ctl_member(from, name)));
}

static struct json_object *row_of(struct json_object *org,
                                  struct json_object *key, apr_time_t now)
{
    struct json_object *row = json_object_new_object();

    copy(row, "id", key, "id");
    copy(row, "organization_id", org, "id");
    copy(row, "organization_name", org, "name");
    copy(row, "name", key, "name");
    copy(row, "prefix", key, "prefix");
    copy(row, "created", key, "created");
    copy(row, "expires", key, "expires");
    copy(row, "revoked", key, "revoked");
    /* as its requests are billed, so of both */
    json_object_object_add(row, "billable",
                           json_object_new_boolean(ue_ctl_is_billable(org)
                                                   && ue_ctl_is_billable(key)));
    json_object_object_add(row, "state",
                           json_object_new_string(state_of(key, now)));
    return row;
}

static void add_rows(struct json_object *rows, struct json_object *org,
                     apr_time_t now)
{
    struct json_object *keys = ue_ctl_member(org, "keys");
    size_t i;

    for (i = 0; keys && i < json_object_array_length(keys); i++) {
        json_object_array_add(
            rows, row_of(org, json_object_array_get_idx(keys, i), now));
    }
}

int ue_ctl_key_list(ue_ctl_t *ctl)
{
    static const ue_ctl_column_t columns[] = {
        {"id", "ID"},
        {"organization_id", "ORGANIZATION"},
        {"name", "NAME"},
        {"prefix", "PREFIX"},
        {"created", "CREATED"},
        {"expires", "EXPIRES"},
        {"revoked", NULL},
        {"billable", "BILLABLE"},
        {"state", "STATE"},
        {"organization_name", NULL},
        {NULL, NULL}};
    const char *wanted = NULL;
    struct json_object *doc, *orgs, *rows;
    apr_time_t now = apr_time_now();
    size_t i;
    int status =
        ctl->option[UE_OPT_ORG]
            ? ue_ctl_uuid(ctl, "--org", ctl->option[UE_OPT_ORG], &wanted)
            : UE_CTL_DONE;

    if (!status) {
        status = ue_ctl_read(ctl, &doc);
    }
    if (status) {
        return status;
    }
    rows = json_object_new_array();
    orgs = ue_ctl_member(doc, "organizations");
    for (i = 0; i < json_object_array_length(orgs); i++) {
        struct json_object *org = json_object_array_get_idx(orgs, i);

        if (!wanted || org == ue_ctl_find_organization(doc, wanted)) {
            add_rows(rows, org, now);
        }
    }
    status = ue_ctl_list(ctl, rows, columns);
    json_object_put(rows);
    json_object_put(doc);
    return status;
}

/* revoke --------------------------------------------------------------- */

static struct json_object *find_key(struct json_object *doc, const char *id)
{
    struct json_object *orgs = ue_ctl_member(doc, "organizations");
    size_t i, k;

    for (i = 0; i < json_object_array_length(orgs); i++) {
        struct json_object *keys =
            ue_ctl_member(json_object_array_get_idx(orgs, i), "keys");

        for (k = 0; keys && k < json_object_array_length(keys); k++) {
            struct json_object *key = json_object_array_get_idx(keys, k);

            if (!strcasecmp(json_object_get_string(ue_ctl_member(key, "id")),
                            id)) {
                return key;
            }
        }
    }
    return NULL;
}

int ue_ctl_key_revoke(ue_ctl_t *ctl)
{
    const char *path, *id, *when;
    struct json_object *doc, *key, *revoked;
    apr_time_t now = apr_time_now();
    int status = ue_ctl_uuid(ctl, "ID (see key list)", ctl->operand, &id);

    if (!status) {
        status = ue_ctl_edit(ctl, 0, &path, &doc);
    }
    if (status) {
        return status;
    }
    key = find_key(doc, id);
    revoked = key ? ue_ctl_member(key, "revoked") : NULL;
    if (!key) {
        status = ue_ctl_fail(ctl, UE_CTL_REFUSED, "there is no key %s in %s",
                             id, path);
    }
    else if (revoked) {
        ue_ctl_note("key %s was revoked before, at %s", id,
                    json_object_get_string(revoked));
    }
    else {
        when = ue_ctl_time(now - apr_time_usec(now), ctl->p);
        json_object_object_add(key, "revoked", json_object_new_string(when));
        status = ue_ctl_save(ctl, path, doc);
        if (!status) {
            ue_ctl_note("key %s is revoked as of %s", id, when);
        }
    }
    json_object_put(doc);
    return status;
}

/* check ---------------------------------------------------------------- */

static ssize_t read_all(char *buf, size_t size)
{
    size_t len = 0;
    ssize_t n;

    while (len < size && (n = read(STDIN_FILENO, buf + len, size - len)) != 0) {
        if (n < 0) {
            return -1;
        }
        len += (size_t)n;
    }
    return (ssize_t)len;
}

int ue_ctl_key_check(ue_ctl_t *ctl)
{
    char key[UE_APIKEY_MAX + 3];
    ssize_t len = read_all(key, sizeof key);
    const char *says;
    int status = UE_CTL_REFUSED;

    if (len < 0) {
        return ue_ctl_fail(ctl, UE_CTL_REFUSED, "standard input can't be read");
    }
    if (len && key[len - 1] == '\n') {
        len--;
    }
    if (len && key[len - 1] == '\r') {
        len--;
    }
    switch (ue_apikey_form(key, (size_t)len)) {
    case UE_KEY_MISTYPED:
        says = "the form is right, the checksum is not: it is mistyped";
        break;
    case UE_KEY_MALFORMED:
        says = "it can't be a key: empty, longer than 256 bytes, or with a "
               "space or control character in it";
        break;
    default:
        if (ue_apikey_is_ours(key, (size_t)len)) {
            says = "form and checksum are right";
            status = UE_CTL_DONE;
        }
        else {
            says = "it hasn't the form of our keys; the gateway would look it "
                   "up as it is";
        }
    }
    OPENSSL_cleanse(key, sizeof key);
    puts(says);
    return status;
}
