/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "store.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <apr_strings.h>

#include <json-c/json.h>
#include <openssl/crypto.h>

#include "apikey.h"
#include "keyfile.h"
#include "uuid.h"

/* A new key ------------------------------------------------------------ */

typedef struct {
    const char *organization;
    const ue_keysecret_t *secret; /* NULL: none */
    struct json_object *entry;    /* all about it but itself */
    char id[UE_UUID_LEN + 1];
    char key[UE_APIKEY_LEN + 2]; /* with room for a line feed */
} new_key_t;

static int read_secret(const ue_ctl_t *ctl, new_key_t *k)
{
    const char *path = ctl->option[UE_OPT_SECRET], *why;

    if (!path) {
        return UE_CTL_DONE;
    }
    /* as UsageKeySecret names it */
    if (!strncmp(path, "file:", 5)) {
        path += 5;
    }
    if (ue_keysecret_read(&k->secret, path, &why, ctl->p)) {
        return ue_ctl_fail(ctl, UE_CTL_REFUSED, "%s", why);
    }
    return UE_CTL_DONE;
}

static const char *now_text(const ue_ctl_t *ctl, apr_time_t now)
{
    return ue_ctl_time(now - apr_time_usec(now), ctl->p);
}

static void add_text(struct json_object *o, const char *name, const char *s)
{
    json_object_object_add(o, name, json_object_new_string(s));
}

/* Make the key, and an entry for it that has no attributes yet. */
static int generate(const ue_ctl_t *ctl, const char *env, new_key_t *k)
{
    char prefix[UE_APIKEY_PREFIX + 1], hash[UE_APIKEY_HASH_TEXT + 1];
    ue_keyhash_t digest;
    ue_uuid_t id;

    if (ue_apikey_generate(env, k->key) || ue_uuid_v4(&id)) {
        return ue_ctl_fail(ctl, UE_CTL_REFUSED,
                           "the system has no randomness to give");
    }
    ue_uuid_format(&id, k->id);
    ue_apikey_prefix(k->key, UE_APIKEY_LEN, prefix);
    if (k->secret) {
        ue_apikey_hmac(k->key, UE_APIKEY_LEN, k->secret, &digest);
    }
    else {
        ue_apikey_hash(k->key, UE_APIKEY_LEN, &digest);
    }
    ue_apikey_hash_format(
        &digest, k->secret ? UE_HASH_HMAC_SHA256 : UE_HASH_SHA256, hash);
    k->entry = json_object_new_object();
    add_text(k->entry, "id", k->id);
    add_text(k->entry, "name", "");
    add_text(k->entry, "prefix", prefix);
    add_text(k->entry, "hash", hash);
    add_text(k->entry, "created", now_text(ctl, apr_time_now()));
    json_object_object_add(k->entry, "expires", NULL);
    json_object_object_add(k->entry, "revoked", NULL);
    json_object_object_add(k->entry, "billable", json_object_new_boolean(1));
    add_text(k->entry, "organization_id", k->organization);
    return UE_CTL_DONE;
}

static void forget(new_key_t *k)
{
    OPENSSL_cleanse(k->key, sizeof k->key);
    json_object_put(k->entry);
}

static int insert(ue_ctl_store_t *store, const new_key_t *k)
{
    int made = 0;
    int status = store->vtable->insert(store, UE_CTL_KEY, k->entry, &made);

    return status || made
               ? status
               : ue_ctl_fail(store->ctl, UE_CTL_REFUSED,
                             "a key like the new one is there already");
}

/* A key that works must be in somebody's hands, and a key in somebody's hands
 * should work. So first everything is done that can fail, then the key is
 * shown, and then it begins to work, by a rename or COMMIT. If it can't be
 * shown, or we are killed before that, it never does. */
static int show_and_save(ue_ctl_store_t *store, new_key_t *k)
{
    const ue_ctl_t *ctl = store->ctl;
    int status = store->vtable->prepare(store);

    if (status) {
        return status;
    }
    k->key[UE_APIKEY_LEN] = '\n';
    status = ue_ctl_put(ctl, k->key, UE_APIKEY_LEN + 1);
    if (status) {
        ue_ctl_note("so no key was made");
        return status;
    }
    status = store->vtable->commit(store);
    if (status) {
        ue_ctl_note("don't rely on the key that was shown");
    }
    return status;
}

/* create --------------------------------------------------------------- */

static int check_create(const ue_ctl_t *ctl, new_key_t *k)
{
    const char *env = ctl->option[UE_OPT_ENV];
    const char *org_name = ctl->option[UE_OPT_ORG_NAME];
    int status =
        ue_ctl_uuid(ctl, "--org", ctl->option[UE_OPT_ORG], &k->organization);

    if (!status && env && strcmp(env, "live") != 0
        && strcmp(env, "test") != 0) {
        status =
            ue_ctl_fail(ctl, UE_CTL_WRONG_USE, "--env must be live or test");
    }
    if (!status && org_name) {
        status = ue_ctl_name(ctl, "--org-name", org_name);
    }
    return status ? status : read_secret(ctl, k);
}

/* Where it isn't there yet. */
static int add_organization(ue_ctl_store_t *store, const new_key_t *k,
                            int *made)
{
    const char *name = store->ctl->option[UE_OPT_ORG_NAME];
    struct json_object *org = json_object_new_object();
    int status;

    add_text(org, "id", k->organization);
    add_text(org, "name", name ? name : "");
    json_object_object_add(org, "billable", json_object_new_boolean(1));
    status = store->vtable->insert(store, UE_CTL_ORGANIZATION, org, made);
    json_object_put(org);
    if (!status && !*made && name) {
        ue_ctl_note("note: that organization is there already and keeps its "
                    "name");
    }
    return status;
}

static int create(const ue_ctl_t *ctl, new_key_t *k)
{
    ue_ctl_store_t *store;
    int is_new = 0, status = ue_ctl_store_open(ctl, UE_CTL_ADD, &store);

    if (!status) {
        status = add_organization(store, k, &is_new);
    }
    if (!status) {
        status = insert(store, k);
    }
    if (!status) {
        status = show_and_save(store, k);
    }
    if (!status) {
        ue_ctl_note("key %s of organization %s is in %s; it is not shown again",
                    k->id, k->organization, store->where);
    }
    /* whoever mistyped its id has made one that is billed */
    if (!status && is_new) {
        ue_ctl_note("note: organization %s is new", k->organization);
    }
    return status;
}

int ue_ctl_key_create(ue_ctl_t *ctl)
{
    const char *env = ctl->option[UE_OPT_ENV];
    struct json_object *changes;
    new_key_t k;
    int status;

    memset(&k, 0, sizeof k);
    status = check_create(ctl, &k);
    if (!status) {
        status = ue_ctl_changes(ctl, &changes);
    }
    if (status) {
        return status;
    }
    status = generate(ctl, env ? env : "live", &k);
    if (!status) {
        ue_ctl_apply(k.entry, changes);
        status = create(ctl, &k);
    }
    json_object_put(changes);
    forget(&k);
    return status;
}

/* rotate --------------------------------------------------------------- */

#define GRACE "24h"
#define CHAIN_MAX 100 /* in a file that somebody wrote it may have no end */
#define GRACE_MAX apr_time_from_sec(INT64_C(3650) * 86400)

static int read_grace(const ue_ctl_t *ctl, apr_interval_time_t *grace)
{
    const char *given = ctl->option[UE_OPT_GRACE];

    if (ue_ctl_duration(given ? given : GRACE, grace) || *grace > GRACE_MAX) {
        return ue_ctl_fail(ctl, UE_CTL_WRONG_USE,
                           "--grace must be a time with a unit (d, h, min or "
                           "s) of at most 3650d, like 24h; 0s ends the old key "
                           "at once");
    }
    return UE_CTL_DONE;
}

/* The end of a chain of keys, each of which replaces the one before it.
 * @param next in: the second; out: the last
 * @param state receives its */
static int find_last(ue_ctl_store_t *store, const char **next,
                     const char **state, apr_time_t now)
{
    struct json_object *found, *later;
    int status, n = 0;

    do {
        status = store->vtable->find(store, UE_CTL_KEY, *next, &found);
        if (status) {
            return status;
        }
        *state = found ? ue_ctl_key_state(found, now) : "gone";
        later = ue_ctl_member(found, "replaced_by");
        if (later) {
            *next = apr_pstrdup(store->ctl->p, json_object_get_string(later));
        }
        json_object_put(found);
    } while (later && ++n < CHAIN_MAX);
    return UE_CTL_DONE;
}

static int refuse_again(ue_ctl_store_t *store, const char *id, const char *next,
                        apr_time_t now)
{
    const char *state;
    int status = find_last(store, &next, &state, now);

    if (status) {
        return status;
    }
    return strcmp(state, "active") != 0
               ? ue_ctl_fail(store->ctl, UE_CTL_REFUSED,
                             "key %s was rotated before to key %s, which "
                             "replaces it and is %s: make a new one by "
                             "usagectl key create",
                             id, next, state)
               : ue_ctl_fail(store->ctl, UE_CTL_REFUSED,
                             "key %s was rotated before: rotate key %s, which "
                             "replaces it",
                             id, next);
}

/* One that doesn't work has no successor. One that was rotated has one already,
 * and its own attributes aren't what they were: it ends after its grace, and so
 * would what is made from it now. */
static int check_rotatable(ue_ctl_store_t *store, const new_key_t *k,
                           const char *id, struct json_object *old,
                           apr_time_t now)
{
    const ue_ctl_t *ctl = store->ctl;
    const char *state = ue_ctl_key_state(old, now);
    struct json_object *next = ue_ctl_member(old, "replaced_by");

    if (strcmp(state, "active") != 0) {
        return ue_ctl_fail(ctl, UE_CTL_REFUSED,
                           "key %s is %s; usagectl key create makes a new one",
                           id, state);
    }
    if (next) {
        return refuse_again(store, id, json_object_get_string(next), now);
    }
    if (!k->secret
        && strcmp(json_object_get_string(ue_ctl_member(old, "hash_kind")),
                  "sha256")
               != 0) {
        return ue_ctl_fail(ctl, UE_CTL_REFUSED,
                           "key %s is stored under a secret (UsageKeySecret): "
                           "--secret FILE is needed",
                           id);
    }
    return UE_CTL_DONE;
}

/* The same attributes, and what it replaces. */
static void inherit(const new_key_t *k, struct json_object *old)
{
    static const char *const names[] = {"name",     "expires", "billable",
                                        "plan",     "rate",    "quota",
                                        "networks", "paths",   "methods"};
    size_t i;

    for (i = 0; i < sizeof names / sizeof *names; i++) {
        struct json_object *v = ue_ctl_member(old, names[i]);

        if (v) {
            json_object_object_add(k->entry, names[i], json_object_get(v));
        }
    }
    json_object_object_add(k->entry, "replaces",
                           json_object_get(ue_ctl_member(old, "id")));
}

/* How the old key ends. @param ends receives when, for the message */
static int end_old(ue_ctl_store_t *store, const char *id,
                   struct json_object *old, apr_time_t now,
                   apr_interval_time_t grace, const char **ends)
{
    struct json_object *expires = ue_ctl_member(old, "expires"), *changes;
    apr_time_t when = now + grace, before;
    int status;

    /* Seconds are whole: rather a longer grace than a shorter one. */
    *ends = now_text(store->ctl, when + APR_USEC_PER_SEC - 1);
    if (grace && expires
        && !ue_time_parse(&before, json_object_get_string(expires))
        && before <= when) {
        *ends = json_object_get_string(expires);
        return UE_CTL_DONE;
    }
    changes = json_object_new_object();
    add_text(changes, grace ? "expires" : "revoked", *ends);
    status = store->vtable->update(store, UE_CTL_KEY, id, changes);
    json_object_put(changes);
    return status;
}

static int rotate(ue_ctl_store_t *store, const char *id, new_key_t *k,
                  struct json_object *old, apr_interval_time_t grace)
{
    const ue_ctl_t *ctl = store->ctl;
    const char *prefix = json_object_get_string(ue_ctl_member(old, "prefix"));
    apr_time_t now = apr_time_now();
    const char *ends;
    int status = check_rotatable(store, k, id, old, now);

    if (status) {
        return status;
    }
    k->organization =
        json_object_get_string(ue_ctl_member(old, "organization_id"));
    status = generate(
        ctl, prefix && !strncmp(prefix, "sk_test_", 8) ? "test" : "live", k);
    if (!status) {
        inherit(k, old);
        status = insert(store, k);
    }
    if (!status) {
        status = end_old(store, id, old, now, grace, &ends);
    }
    if (!status) {
        status = show_and_save(store, k);
    }
    if (!status) {
        ue_ctl_note("key %s replaces key %s, which ends at %s, in %s; it is "
                    "not shown again",
                    k->id, id, ends, store->where);
    }
    return status;
}

int ue_ctl_key_rotate(ue_ctl_t *ctl)
{
    apr_interval_time_t grace;
    struct json_object *old;
    ue_ctl_store_t *store;
    const char *id;
    new_key_t k;
    int status = ue_ctl_operand(ctl, UE_CTL_KEY, &id);

    memset(&k, 0, sizeof k);
    if (!status) {
        status = read_grace(ctl, &grace);
    }
    if (!status) {
        status = read_secret(ctl, &k);
    }
    if (!status) {
        status = ue_ctl_store_open(ctl, UE_CTL_CHANGE, &store);
    }
    if (!status) {
        status = ue_ctl_store_need(store, UE_CTL_KEY, id, &old);
    }
    if (!status) {
        status = rotate(store, id, &k, old, grace);
        json_object_put(old);
    }
    forget(&k);
    return status;
}

/* revoke --------------------------------------------------------------- */

static int end_key(ue_ctl_store_t *store, const char *id)
{
    const char *when = now_text(store->ctl, apr_time_now());
    struct json_object *changes = json_object_new_object();
    int status;

    add_text(changes, "revoked", when);
    status = store->vtable->update(store, UE_CTL_KEY, id, changes);
    json_object_put(changes);
    if (!status) {
        status = ue_ctl_store_save(store);
    }
    if (!status) {
        ue_ctl_note("key %s is revoked as of %s", id, when);
    }
    return status;
}

int ue_ctl_key_revoke(ue_ctl_t *ctl)
{
    struct json_object *key, *revoked;
    ue_ctl_store_t *store;
    const char *id;
    int status = ue_ctl_operand(ctl, UE_CTL_KEY, &id);

    if (!status) {
        status = ue_ctl_store_open(ctl, UE_CTL_CHANGE, &store);
    }
    if (!status) {
        status = ue_ctl_store_need(store, UE_CTL_KEY, id, &key);
    }
    if (status) {
        return status;
    }
    revoked = ue_ctl_member(key, "revoked");
    if (revoked) {
        ue_ctl_note("key %s was revoked before, at %s", id,
                    json_object_get_string(revoked));
    }
    else {
        status = end_key(store, id);
    }
    json_object_put(key);
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
