/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "unit.h"

#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <apr_strings.h>
#include <apr_thread_proc.h>

#include "apikey.h"
#include "keystore.h"
#include "log.h"

#define ORG "0198a6f2-5c1e-7d3a-9b40-3f2c81d7e605"

static apr_pool_t *pool;
static char dir[64];

/* Lines that were logged. */
static _Atomic int notices, errors;
static char last_line[1024];

static void take_line(void *baton, ue_log_level_t level, apr_status_t rv,
                      const char *line)
{
    notices += level == UE_LOG_NOTICE;
    errors += level == UE_LOG_ERR;
    snprintf(last_line, sizeof last_line, "%s", line);
}

/* Files ----------------------------------------------------------------- */

static const char *file_in(const char *name)
{
    return apr_pstrcat(pool, dir, "/", name, NULL);
}

static void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    assert_int_equal(fputs(text, f) < 0, 0);
    assert_int_equal(fclose(f), 0);
}

/* As usagectl does it. */
static void replace(const char *path, const char *text)
{
    const char *fresh = apr_pstrcat(pool, path, ".new", NULL);

    put(fresh, text);
    assert_int_equal(rename(fresh, path), 0);
}

static const char *entry_of(const char *id, const char *hash, const char *more)
{
    return apr_psprintf(pool, "{\"id\":\"%s\",\"hash\":\"%s\"%s%s}", id, hash,
                        *more ? "," : "", more);
}

static const char *entry(const char *id, const char *key, const char *more)
{
    char text[UE_APIKEY_HASH_TEXT + 1];
    ue_keyhash_t hash;

    ue_apikey_hash(key, strlen(key), &hash);
    ue_apikey_hash_format(&hash, UE_HASH_SHA256, text);
    return entry_of(id, text, more);
}

static const char *hmac_entry(const char *id, const char *key,
                              const ue_keysecret_t *secret, const char *more)
{
    char text[UE_APIKEY_HASH_TEXT + 1];
    ue_keyhash_t hash;

    ue_apikey_hmac(key, strlen(key), secret, &hash);
    ue_apikey_hash_format(&hash, UE_HASH_HMAC_SHA256, text);
    return entry_of(id, text, more);
}

static const char *id_of(int n)
{
    return apr_psprintf(pool, "ee7e159c-fbfe-49ba-92e6-%012x", n);
}

static const char *file_with(const char *top, const char *org,
                             const char *entries)
{
    return apr_psprintf(pool,
                        "{\"version\":1%s,\"organizations\":[{\"id\":\"" ORG
                        "\"%s,\"keys\":[%s]}]}\n",
                        top, org, entries);
}

static const char *file_of(const char *entries)
{
    return file_with("", "", entries);
}

/* A file that holds one key. */
static const char *only(const char *key)
{
    return file_of(entry(id_of(1), key, ""));
}

/* Stores ---------------------------------------------------------------- */

static ue_keystore_options_t options; /* for all that is opened */

static ue_keystore_t *open_store(const char *path)
{
    ue_keystore_t *store = NULL;
    const char *why = "";
    apr_status_t rv = ue_keystore_open(
        &store, apr_pstrcat(pool, "file:", path, NULL), &options, &why, pool);

    if (rv) {
        print_error("%s\n", why);
    }
    assert_int_equal(rv, APR_SUCCESS);
    assert_non_null(store);
    return store;
}

static void refuses(const char *url, apr_status_t status, const char *part)
{
    ue_keystore_t *store = (void *)&pool;
    const char *why = NULL;
    apr_status_t rv = ue_keystore_open(&store, url, &options, &why, pool);

    if (rv != status || !why || !strstr(why, part)) {
        print_error("%s\nwant: %d %s\nhave: %d %s\n", url, status, part, rv,
                    why ? why : "(nothing)");
    }
    assert_int_equal(rv, status);
    assert_non_null(strstr(why, part));
    assert_null(store);
}

/* What is asked for, where nothing is said about it. */
static ue_asked_t asked = {NULL, "GET", "/v1/x", 5};

/* As a decision does it: recall, and look up what can't be recalled. */
static apr_status_t look_up(ue_keystore_t *store, const char *key,
                            ue_keyrecord_t *record, ue_keystore_result_t *how)
{
    *how = store->vtable->recall(store, key, strlen(key), &asked, record);
    if (*how == UE_KEYSTORE_NONE) {
        *how = store->vtable->lookup(store, key, strlen(key), &asked, record);
    }
    return *how == UE_KEYSTORE_UNKNOWN ? APR_NOTFOUND : APR_SUCCESS;
}

static void finds(ue_keystore_t *store, const char *key,
                  ue_keystore_result_t want)
{
    ue_keyrecord_t record;
    ue_keystore_result_t how;

    assert_int_equal(look_up(store, key, &record, &how),
                     want == UE_KEYSTORE_UNKNOWN ? APR_NOTFOUND : APR_SUCCESS);
    assert_int_equal(how, want);
}

static int knows(ue_keystore_t *store, const char *key)
{
    ue_keyrecord_t record;
    ue_keystore_result_t how;

    return look_up(store, key, &record, &how) == APR_SUCCESS;
}

static apr_status_t refresh(ue_keystore_t *store)
{
    return store->vtable->refresh(store);
}

/* Until the file is old enough to be believed when it looks the same. */
static void settle(ue_keystore_t *store)
{
    int i;

    for (i = 0; i < 15; i++) {
        apr_sleep(apr_time_from_msec(10));
        assert_int_equal(refresh(store), APR_EAGAIN);
    }
    notices = errors = 0;
}

/* Opening --------------------------------------------------------------- */

static void test_keystore_says_what_is_right(void **state)
{
    refuses("postgresql://me:secret@db:nonsense:1/%zz", APR_EINVAL,
            "as libpq has it");
    refuses("postgres://[db", APR_EINVAL, "as libpq has it");
    refuses("redis://x", APR_EINVAL, "file:PATH or postgresql://..., like ");
    refuses("/etc/keys.json", APR_EINVAL, "file:PATH");
    refuses("file", APR_EINVAL, "file:PATH");
    refuses("f:/x", APR_EINVAL, "file:PATH");
    refuses("", APR_EINVAL, "file:PATH");
    refuses("file:", APR_EINVAL, "the path of the key file is missing");
}

static void test_keystore_refuses_a_missing_or_broken_file(void **state)
{
    const char *path = file_in("broken");
    const char *url = apr_pstrcat(pool, "file:", path, NULL);

    refuses(url, ENOENT, "broken: can't be read: No such file");
    put(path, "{");
    refuses(url, APR_EINVAL, "broken: line 1, column 2: not JSON");
    put(path, file_of("{}"));
    refuses(url, APR_EINVAL, "organizations[0].keys[0].id: is missing");
}

/* What may be shown of a URL. */
static void test_keystore_name_holds_no_password(void **state)
{
    static const char *const cases[][2] = {
        {"file:/etc/x y.json", "file:/etc/x y.json"},
        {"postgresql://me:hunter2@db.example.com:5433/usage?sslmode=require",
         "postgresql://db.example.com:5433/usage"},
        {"postgres://me:hunter2@db/usage", "postgresql://db/usage"},
        {"postgresql://me:hunter2@db", "postgresql://db/"},
        {"postgresql://me@a,b:1/usage?password=hunter2",
         "postgresql://a,b:,1/usage"},
        {"postgresql://?host=db&password=hunter2", "postgresql://db/"},
        {"postgresql://", "postgresql:"},
        {"postgresql:///usage", "postgresql:"},
        {"postgresql://%2frun%2fhunter2/usage", "postgresql:"},
        {"postgresql://db/a%40hunter2", "postgresql:"},
        {"postgresql://db/usage?nonsense=hunter2", "postgresql:"},
        {"postgresql:hunter2", "postgresql:"},
        {"hunter2", "(no store)"},
        {"", "(no store)"},
    };
    size_t i;

    for (i = 0; i < UNIT_COUNT(cases); i++) {
        assert_string_equal(ue_keystore_name(cases[i][0], pool), cases[i][1]);
    }
}

/* Where a key may be used: what a look-up of it says, twice, so that it is told
 * from the cache, too. */
static ue_access_t access_of(ue_keystore_t *store, const char *key,
                             const char *method, const char *path)
{
    ue_asked_t before = asked;
    ue_keystore_result_t how;
    ue_keyrecord_t first, second;

    asked.method = method;
    asked.path = path;
    asked.path_len = strlen(path);
    assert_int_equal(look_up(store, key, &first, &how), APR_SUCCESS);
    assert_int_equal(look_up(store, key, &second, &how), APR_SUCCESS);
    assert_int_equal(how, UE_KEYSTORE_HIT);
    assert_int_equal(first.access, second.access);
    asked = before;
    return (ue_access_t)first.access;
}

static void test_keystore_judges_by_plan_organization_and_key(void **state)
{
    const char *path = file_in("limited");
    ue_keystore_t *store;

    put(path,
        file_with(
            ",\"plans\":{\"reader\":{\"methods\":[\"GET\"]},"
            "\"writer\":{\"methods\":[\"PUT\"]}}",
            ",\"plan\":\"reader\",\"paths\":[\"/v1/\",\"/v2/\"]",
            apr_pstrcat(pool, entry(id_of(1), "k1", ""), ",",
                        entry(id_of(2), "k2", "\"plan\":\"writer\""), ",",
                        entry(id_of(3), "k3", "\"paths\":[\"/v1/a\"]"), ",",
                        entry(id_of(4), "k4", "\"networks\":[\"10.0.0.0/8\"]"),
                        ",", entry(id_of(5), "k5", "\"plan\":null"), NULL)));
    store = open_store(path);
    assert_int_equal(access_of(store, "k1", "GET", "/v1/b"), UE_ACCESS_GRANTED);
    assert_int_equal(access_of(store, "k1", "GET", "/v3/b"), UE_ACCESS_PATH);
    assert_int_equal(access_of(store, "k1", "PUT", "/v1/b"), UE_ACCESS_METHOD);
    /* its own plan, instead of its organization's */
    assert_int_equal(access_of(store, "k2", "PUT", "/v1/b"), UE_ACCESS_GRANTED);
    assert_int_equal(access_of(store, "k2", "GET", "/v1/b"), UE_ACCESS_METHOD);
    assert_int_equal(access_of(store, "k3", "GET", "/v1/a"), UE_ACCESS_GRANTED);
    assert_int_equal(access_of(store, "k3", "GET", "/v1/b"), UE_ACCESS_PATH);
    assert_int_equal(access_of(store, "k4", "GET", "/v1/a"), UE_ACCESS_NETWORK);
    assert_int_equal(access_of(store, "k5", "PUT", "/v1/a"), UE_ACCESS_METHOD);
}

/* A change of nothing but a list, within a moment of the file's clock. */
static void test_keystore_takes_up_a_changed_list(void **state)
{
    const char *path = file_in("lists");
    ue_keystore_t *store;
    int i;

    put(path, file_of(entry(id_of(1), "k1", "\"methods\":[\"GET\"]")));
    store = open_store(path);
    for (i = 0; i < 20; i++) {
        put(path, file_of(entry(id_of(1), "k1",
                                i % 2 ? "\"methods\":[\"GET\"]"
                                      : "\"methods\":[\"PUT\"]")));
        refresh(store);
        assert_int_equal(access_of(store, "k1", "GET", "/"),
                         i % 2 ? UE_ACCESS_GRANTED : UE_ACCESS_METHOD);
    }
}

static void test_keystore_bills_by_the_plan_too(void **state)
{
    const char *path = file_in("free");
    ue_keystore_result_t how;
    ue_keystore_t *store;
    ue_keyrecord_t r;

    put(path, file_with(",\"plans\":{\"free\":{\"billable\":false},"
                        "\"paid\":{}}",
                        ",\"plan\":\"free\"",
                        apr_pstrcat(pool, entry(id_of(1), "k1", ""), ",",
                                    entry(id_of(2), "k2", "\"plan\":\"paid\""),
                                    NULL)));
    store = open_store(path);
    assert_int_equal(look_up(store, "k1", &r, &how), APR_SUCCESS);
    assert_int_equal(r.billable, 0);
    assert_int_equal(look_up(store, "k2", &r, &how), APR_SUCCESS);
    assert_int_equal(r.billable, 1);
}

/* Secrets --------------------------------------------------------------- */

static const ue_keysecret_t *secret_of(char c)
{
    const char *path = file_in("secret"), *why = "";
    const ue_keysecret_t *secret = NULL;
    char text[41];

    memset(text, c, 40);
    text[40] = '\0';
    put(path, text);
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(ue_keysecret_read(&secret, path, &why, pool), APR_SUCCESS);
    return secret;
}

static void test_keystore_takes_both_kinds_with_a_secret(void **state)
{
    const char *path = file_in("kinds");
    const ue_keysecret_t *secret = secret_of('s');
    ue_keystore_t *store;

    put(path, file_of(apr_pstrcat(
                  pool, hmac_entry(id_of(1), "new", secret, ""), ",",
                  entry(id_of(2), "old", ""), ",",
                  hmac_entry(id_of(3), "other", secret_of('o'), ""), NULL)));
    options.secret = secret;
    store = open_store(path);
    finds(store, "new", UE_KEYSTORE_MISS);
    finds(store, "new", UE_KEYSTORE_HIT);
    finds(store, "old", UE_KEYSTORE_MISS);
    finds(store, "old", UE_KEYSTORE_HIT);
    finds(store, "other", UE_KEYSTORE_UNKNOWN);
}

/* A hash of one kind is none of the other, though the bytes are the same. */
static void test_keystore_tells_kinds_apart(void **state)
{
    const char *path = file_in("apart");
    const ue_keysecret_t *secret = secret_of('s');
    const char *hmac = hmac_entry(id_of(1), "k1", secret, "");

    options.secret = secret;
    put(path,
        file_of(apr_pstrcat(pool, "{\"id\":\"", id_of(1), "\",\"hash\":\"",
                            strstr(hmac, "sha256:"), NULL)));
    finds(open_store(path), "k1", UE_KEYSTORE_UNKNOWN);
}

static void test_keystore_refuses_secret_hashes_without_a_secret(void **state)
{
    const char *path = file_in("secretless");
    const char *url = apr_pstrcat(pool, "file:", path, NULL);
    const char *hmac = hmac_entry(id_of(1), "k1", secret_of('s'), "");
    ue_keystore_t *store;

    put(path, file_of(hmac));
    refuses(url, APR_EINVAL,
            "secretless: organizations[0].keys[0].hash: was made under a "
            "secret, and there is none: name it, such as UsageKeySecret file:");
    /* also where it comes later, and then what was there before stays */
    replace(path, only("k2"));
    store = open_store(path);
    replace(path, file_of(hmac));
    assert_int_equal(refresh(store), APR_EINVAL);
    assert_non_null(strstr(last_line, "UsageKeySecret"));
    assert_true(knows(store, "k2"));
}

static void test_keystore_reload_brings_another_secret(void **state)
{
    const char *path = file_in("changed"), *why = "";
    const ue_keysecret_t *a = secret_of('a'), *b = secret_of('b');
    ue_keystore_t *store;

    put(path, file_of(apr_pstrcat(pool, hmac_entry(id_of(1), "k1", a, ""), ",",
                                  hmac_entry(id_of(2), "k2", b, ""), NULL)));
    options.secret = a;
    store = open_store(path);
    assert_true(knows(store, "k1"));
    assert_false(knows(store, "k2"));
    options.secret = b;
    assert_int_equal(store->vtable->reload(store, &options, &why, pool),
                     APR_SUCCESS);
    assert_false(knows(store, "k1"));
    assert_true(knows(store, "k2"));
    options.secret = NULL;
    assert_int_equal(store->vtable->reload(store, &options, &why, pool),
                     APR_EINVAL);
    assert_non_null(strstr(why, "UsageKeySecret"));
}

static void test_keystore_takes_what_limits_nobody(void **state)
{
    const char *path = file_in("plain");
    const char *more = "\"rate\":\"1/s\",\"quota\":\"1/day\",\"plan\":\"p\","
                       "\"paths\":null,\"x\":[1]";

    put(path, file_with(",\"plans\":{\"p\":{\"rate\":\"1/s\","
                        "\"billable\":true}}",
                        apr_pstrcat(pool, ",", more, NULL),
                        entry(id_of(1), "k1", more)));
    finds(open_store(path), "k1", UE_KEYSTORE_MISS);
}

/* Looking up ------------------------------------------------------------ */

static void test_keystore_gives_the_record(void **state)
{
    const char *path = file_in("records");
    ue_keystore_t *store;
    ue_keystore_result_t how;
    ue_keyrecord_t r;
    char text[UE_UUID_LEN + 1];

    put(path,
        file_of(apr_pstrcat(
            pool, entry(id_of(1), "plain", ""), ",",
            entry(id_of(2), "late", "\"expires\":\"2030-01-31T12:00:00Z\""),
            ",",
            entry(id_of(3), "ended", "\"revoked\":\"2020-01-01T00:00:00Z\""),
            ",", entry(id_of(4), "free", "\"billable\":false"), ",",
            entry(id_of(5), "old", "\"expires\":\"1969-01-01T00:00:00Z\""), ",",
            entry(id_of(7), "epoch", "\"expires\":\"1970-01-01T00:00:00Z\""),
            ",", entry(id_of(6), "null", "\"expires\":null,\"revoked\":null"),
            NULL)));
    store = open_store(path);
    assert_int_equal(look_up(store, "plain", &r, &how), APR_SUCCESS);
    assert_string_equal(ue_uuid_format(&r.organization_id, text), ORG);
    assert_string_equal(ue_uuid_format(&r.api_key_id, text), id_of(1));
    assert_int_equal(r.expires, 0);
    assert_int_equal(r.revoked, 0);
    assert_int_equal(r.billable, 1);
    assert_int_equal(look_up(store, "late", &r, &how), APR_SUCCESS);
    assert_string_equal(ue_uuid_format(&r.api_key_id, text), id_of(2));
    assert_int_equal(r.expires, 1896091200000000);
    assert_int_equal(look_up(store, "ended", &r, &how), APR_SUCCESS);
    assert_int_equal(r.revoked, 1);
    assert_int_equal(look_up(store, "free", &r, &how), APR_SUCCESS);
    assert_int_equal(r.billable, 0);
    /* 0 would be never */
    assert_int_equal(look_up(store, "old", &r, &how), APR_SUCCESS);
    assert_true(r.expires != 0 && r.expires < apr_time_now());
    assert_int_equal(look_up(store, "epoch", &r, &how), APR_SUCCESS);
    assert_true(r.expires != 0 && r.expires < apr_time_now());
    assert_int_equal(look_up(store, "null", &r, &how), APR_SUCCESS);
    assert_int_equal(r.expires, 0);
    assert_int_equal(r.revoked, 0);
    /* the same from the cache */
    assert_int_equal(look_up(store, "late", &r, &how), APR_SUCCESS);
    assert_int_equal(how, UE_KEYSTORE_HIT);
    assert_string_equal(ue_uuid_format(&r.api_key_id, text), id_of(2));
    assert_int_equal(r.expires, 1896091200000000);
}

static void test_keystore_organization_that_is_not_billed(void **state)
{
    const char *path = file_in("unbilled");
    ue_keystore_t *store;
    ue_keystore_result_t how;
    ue_keyrecord_t r;

    put(path, file_with("", ",\"billable\":false",
                        entry(id_of(1), "k1", "\"billable\":true")));
    store = open_store(path);
    assert_int_equal(look_up(store, "k1", &r, &how), APR_SUCCESS);
    assert_int_equal(r.billable, 0);
}

static void test_keystore_without_keys_knows_none(void **state)
{
    const char *path = file_in("empty");
    ue_keystore_t *store;

    put(path, "{\"version\":1,\"organizations\":[]}");
    store = open_store(path);
    finds(store, "k1", UE_KEYSTORE_UNKNOWN);
    finds(store, "", UE_KEYSTORE_UNKNOWN);
}

static void test_keystore_hits_the_cache_after_a_miss(void **state)
{
    const char *path = file_in("cached");
    ue_keystore_t *store;

    put(path, only("k1"));
    store = open_store(path);
    finds(store, "k1", UE_KEYSTORE_MISS);
    finds(store, "k1", UE_KEYSTORE_HIT);
    finds(store, "k1", UE_KEYSTORE_HIT);
}

/* Neither other keys nor a flood of unknown ones push a key out. */
static void test_keystore_cache_never_forgets(void **state)
{
    int keys = (int)unit_loops(1000), flood = (int)unit_loops(20000);
    const char *path = file_in("many"), *entries = "";
    ue_keystore_t *store;
    ue_keyrecord_t r;
    ue_keystore_result_t how;
    char key[32], text[UE_UUID_LEN + 1];
    int i, round;
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    fprintf(f,
            "{\"version\":1,\"organizations\":[{\"id\":\"" ORG "\",\"keys\":[");
    for (i = 0; i < keys; i++) {
        apr_snprintf(key, sizeof key, "key-%d", i);
        fprintf(f, "%s%s", entries, entry(id_of(i), key, ""));
        entries = ",\n";
    }
    fprintf(f, "]}]}");
    assert_int_equal(fclose(f), 0);
    store = open_store(path);
    for (round = 0; round < 3; round++) {
        for (i = 0; i < keys; i++) {
            apr_snprintf(key, sizeof key, "key-%d", i);
            assert_int_equal(look_up(store, key, &r, &how), APR_SUCCESS);
            assert_int_equal(how, round ? UE_KEYSTORE_HIT : UE_KEYSTORE_MISS);
            assert_string_equal(ue_uuid_format(&r.api_key_id, text), id_of(i));
        }
        for (i = 0; i < flood; i++) {
            apr_snprintf(key, sizeof key, "no-key-%d", i);
            assert_int_equal(look_up(store, key, &r, &how), APR_NOTFOUND);
            assert_int_equal(how, UE_KEYSTORE_UNKNOWN);
        }
    }
}

/* What was unknown is asked for anew each time, so a new key works at once. */
static void test_keystore_unknown_is_never_cached(void **state)
{
    const char *path = file_in("unknown");
    ue_keystore_t *store;

    put(path, only("k1"));
    store = open_store(path);
    finds(store, "k2", UE_KEYSTORE_UNKNOWN);
    finds(store, "k2", UE_KEYSTORE_UNKNOWN);
    replace(path, only("k2"));
    assert_int_equal(refresh(store), APR_SUCCESS);
    finds(store, "k2", UE_KEYSTORE_MISS);
    finds(store, "k1", UE_KEYSTORE_UNKNOWN);
}

/* Changing -------------------------------------------------------------- */

static void test_keystore_unchanged_is_not_read(void **state)
{
    const char *path = file_in("unchanged");
    ue_keystore_t *store;

    put(path, only("k1"));
    store = open_store(path);
    finds(store, "k1", UE_KEYSTORE_MISS);
    settle(store);
    assert_int_equal(refresh(store), APR_EAGAIN);
    /* reading it again would have emptied the cache */
    finds(store, "k1", UE_KEYSTORE_HIT);
}

static void test_keystore_takes_up_a_change_and_says_so(void **state)
{
    const char *path = file_in("changed");
    ue_keystore_t *store;

    put(path, only("k1"));
    store = open_store(path);
    finds(store, "k1", UE_KEYSTORE_MISS);
    settle(store);
    replace(path, file_of(apr_pstrcat(pool, entry(id_of(1), "k2", ""), ",",
                                      entry(id_of(2), "k3", ""), NULL)));
    assert_int_equal(refresh(store), APR_SUCCESS);
    assert_int_equal(notices, 1);
    assert_int_equal(errors, 0);
    assert_string_equal(last_line,
                        apr_psprintf(pool,
                                     "UE0100: key file: %s: taken up: 1 "
                                     "organizations, 2 keys",
                                     path));
    finds(store, "k1", UE_KEYSTORE_UNKNOWN);
    finds(store, "k2", UE_KEYSTORE_MISS);
    finds(store, "k3", UE_KEYSTORE_MISS);
    settle(store);
    assert_int_equal(notices, 0);
}

static void test_keystore_revoking_ends_a_cached_key(void **state)
{
    const char *path = file_in("revoked");
    ue_keystore_t *store;
    ue_keystore_result_t how;
    ue_keyrecord_t r;

    put(path, only("k1"));
    store = open_store(path);
    finds(store, "k1", UE_KEYSTORE_MISS);
    finds(store, "k1", UE_KEYSTORE_HIT);
    replace(path, file_of(entry(id_of(1), "k1",
                                "\"revoked\":\"2020-01-01T00:00:00Z\"")));
    assert_int_equal(refresh(store), APR_SUCCESS);
    assert_int_equal(look_up(store, "k1", &r, &how), APR_SUCCESS);
    assert_int_equal(r.revoked, 1);
}

/* Many changes of the same size, faster than a file system's clock may tell
 * apart: replaced, and written in place. Two looks may be needed for the last.
 */
static void test_keystore_notices_changes_within_a_moment(void **state)
{
    const char *path = file_in("quick");
    char key[] = "key-000";
    ue_keystore_t *store;
    int i;

    put(path, only(key));
    store = open_store(path);
    for (i = 1; i < 100; i++) {
        apr_snprintf(key, sizeof key, "key-%03d", i);
        replace(path, only(key));
        refresh(store);
        assert_true(knows(store, key));
    }
    for (; i < 200; i++) {
        apr_snprintf(key, sizeof key, "key-%03d", i);
        put(path, only(key));
        refresh(store);
        assert_true(knows(store, key));
    }
}

static void broken_by(ue_keystore_t *store, const char *path,
                      const char *broken, const char *part)
{
    int before = errors, i;

    replace(path, broken);
    assert_int_equal(refresh(store), APR_EINVAL);
    assert_non_null(strstr(last_line, "UE0101: key file: "));
    assert_non_null(strstr(last_line, part));
    assert_non_null(strstr(last_line, "; the keys read before stay in use"));
    for (i = 0; i < 20; i++) {
        assert_int_equal(refresh(store), APR_EAGAIN);
        apr_sleep(apr_time_from_msec(5));
    }
    assert_int_equal(errors, before + 1);
    assert_true(knows(store, "k1"));
}

static void test_keystore_broken_file_keeps_the_old_keys(void **state)
{
    const char *path = file_in("breaks");
    ue_keystore_t *store;

    put(path, only("k1"));
    store = open_store(path);
    settle(store);
    broken_by(store, path, "{", "line 1, column 2: not JSON");
    broken_by(store, path, "", "is empty");
    broken_by(store, path, file_of("{}"), "keys[0].id: is missing");
    broken_by(store, path,
              file_of(entry(id_of(1), "k9", "\"networks\":[\"10.0.0.1/8\"]")),
              "keys[0].networks[0]: \"10.0.0.1/8\" has bits set");
    assert_int_equal(notices, 0);
    replace(path, only("k2"));
    assert_int_equal(refresh(store), APR_SUCCESS);
    assert_int_equal(notices, 1);
    finds(store, "k1", UE_KEYSTORE_UNKNOWN);
    finds(store, "k2", UE_KEYSTORE_MISS);
}

static void test_keystore_vanished_file_keeps_the_old_keys(void **state)
{
    const char *path = file_in("vanishes"), *away = file_in("away");
    ue_keystore_t *store;
    int i;

    put(path, only("k1"));
    store = open_store(path);
    settle(store);
    assert_int_equal(rename(path, away), 0);
    assert_int_equal(refresh(store), ENOENT);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(refresh(store), EISDIR);
    for (i = 0; i < 20; i++) {
        assert_int_equal(refresh(store), APR_EAGAIN);
    }
    assert_int_equal(errors, 2);
    assert_true(knows(store, "k1"));
    assert_int_equal(rmdir(path), 0);
    /* the very file that was there before */
    assert_int_equal(rename(away, path), 0);
    assert_int_equal(refresh(store), APR_SUCCESS);
    assert_int_equal(notices, 1);
    assert_true(knows(store, "k1"));
}

/* A change must not be missed because there was no descriptor to read it. */
static void test_keystore_tries_again_what_may_pass(void **state)
{
    const char *path = file_in("passing");
    struct rlimit before, none;
    ue_keystore_t *store;
    int i;

    put(path, only("k1"));
    store = open_store(path);
    settle(store);
    replace(path, only("k2"));
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = 0;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_int_equal(refresh(store), EMFILE);
    for (i = 0; i < 15; i++) {
        assert_int_equal(refresh(store), APR_EAGAIN);
        apr_sleep(apr_time_from_msec(10));
    }
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(errors, 1);
    assert_int_equal(refresh(store), APR_SUCCESS);
    assert_true(knows(store, "k2"));
}

static void test_keystore_reload_keeps_keys_if_it_fails(void **state)
{
    const char *path = file_in("reloaded"), *why = NULL;
    ue_keystore_t *store;

    put(path, only("k1"));
    store = open_store(path);
    settle(store);
    replace(path, "{");
    assert_int_equal(store->vtable->reload(store, &options, &why, pool),
                     APR_EINVAL);
    assert_non_null(strstr(why, "not JSON"));
    assert_true(knows(store, "k1"));
    /* whoever reloads has been told, so it isn't logged too */
    assert_int_equal(refresh(store), APR_EAGAIN);
    assert_int_equal(errors, 0);
    replace(path, only("k2"));
    assert_int_equal(store->vtable->reload(store, &options, &why, pool),
                     APR_SUCCESS);
    assert_false(knows(store, "k1"));
    assert_true(knows(store, "k2"));
}

/* As after a graceful restart, when the module lies somewhere else. */
static void test_keystore_is_reopened_at_another_address(void **state)
{
    static const ue_keystore_vtable_t gone;
    const char *path = file_in("reopened"), *why = NULL;
    const char *url = apr_pstrcat(pool, "file:", path, NULL);
    ue_keystore_t *store;

    put(path, only("k1"));
    store = open_store(path);
    finds(store, "k1", UE_KEYSTORE_MISS);
    store->vtable = &gone;
    replace(path, only("k2"));
    assert_int_equal(ue_keystore_reopen(store, url, &options, &why, pool),
                     APR_SUCCESS);
    finds(store, "k2", UE_KEYSTORE_MISS);
    store->vtable = &gone;
    replace(path, "{");
    assert_int_equal(ue_keystore_reopen(store, url, &options, &why, pool),
                     APR_EINVAL);
    assert_non_null(strstr(why, "not JSON"));
    finds(store, "k2", UE_KEYSTORE_HIT);
}

/* Processes and threads ------------------------------------------------- */

static void test_keystore_works_in_a_forked_child(void **state)
{
    const char *path = file_in("forked");
    ue_keystore_t *store;
    int status;
    pid_t pid;

    put(path, only("k1"));
    store = open_store(path);
    settle(store);
    pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        int ok = knows(store, "k1");

        replace(path, only("k2"));
        ok = ok && refresh(store) == APR_SUCCESS && knows(store, "k2")
             && !knows(store, "k1");
        _exit(!ok);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    /* the child's look is not ours */
    assert_true(knows(store, "k1"));
    assert_int_equal(refresh(store), APR_SUCCESS);
    assert_true(knows(store, "k2"));
}

enum { THREADS = 4 };

typedef struct {
    ue_keystore_t *store;
    _Atomic int stop;
    _Atomic int wrong;
    _Atomic long lookups;
} race_t;

static void check_one(race_t *race, const char *key, const char *id, int sure)
{
    char text[UE_UUID_LEN + 1];
    ue_keyrecord_t r;
    ue_keystore_result_t how;
    apr_status_t rv = look_up(race->store, key, &r, &how);

    if (rv) {
        race->wrong += sure || rv != APR_NOTFOUND;
    }
    else {
        race->wrong += strcmp(ue_uuid_format(&r.api_key_id, text), id) != 0;
    }
    race->lookups++;
}

/* "steady" is in every file, "here" and "there" in every other, at the same
 * place: an entry of one snapshot taken for another's would show. */
static void *APR_THREAD_FUNC look_up_all(apr_thread_t *thread, void *data)
{
    race_t *race = data;

    while (!race->stop) {
        check_one(race, "steady", "ee7e159c-fbfe-49ba-92e6-00000000000a", 1);
        check_one(race, "here", "ee7e159c-fbfe-49ba-92e6-00000000000b", 0);
        check_one(race, "there", "ee7e159c-fbfe-49ba-92e6-00000000000c", 0);
        check_one(race, "never", "", 0);
    }
    return NULL;
}

static void test_keystore_lookups_while_it_changes(void **state)
{
    const char *path = file_in("raced");
    const char *steady = entry(id_of(10), "steady", "");
    const char *here = entry(id_of(11), "here", "");
    const char *there = entry(id_of(12), "there", "");
    const char *files[2] = {
        file_of(apr_pstrcat(pool, here, ",", steady, NULL)),
        file_of(apr_pstrcat(pool, there, ",", steady, NULL))};
    apr_thread_t *threads[THREADS];
    apr_status_t rv;
    race_t race = {NULL, 0, 0, 0};
    long seen = 0;
    int swaps = (int)unit_loops(2000), i, tries;

    put(path, files[0]);
    race.store = open_store(path);
    for (i = 0; i < THREADS; i++) {
        assert_int_equal(
            apr_thread_create(&threads[i], NULL, look_up_all, &race, pool),
            APR_SUCCESS);
    }
    for (i = 1; i <= swaps; i++) {
        replace(path, files[i % 2]);
        assert_int_equal(refresh(race.store), APR_SUCCESS);
        assert_int_equal(knows(race.store, "there"), i % 2);
        /* now one after the other, now with time to look at each */
        for (tries = 0; i % 8 == 0 && race.lookups < seen + 16; tries++) {
            assert_true(tries < 100000);
            apr_sleep(100);
        }
        seen = race.lookups;
    }
    race.stop = 1;
    for (i = 0; i < THREADS; i++) {
        apr_thread_join(&rv, threads[i]);
    }
    assert_int_equal(race.wrong, 0);
    assert_int_equal(errors, 0);
}

/* ----------------------------------------------------------------------- */

static int begin(void **state)
{
    const char *tmp = getenv("TMPDIR");

    notices = errors = 0;
    memset(&options, 0, sizeof options);
    snprintf(dir, sizeof dir, "%s/ue-keystore-XXXXXX", tmp ? tmp : "/tmp");
    if (apr_pool_create(&pool, NULL) || !mkdtemp(dir)) {
        return -1;
    }
    return 0;
}

static int end(void **state)
{
    char command[128];

    apr_pool_destroy(pool);
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_keystore_says_what_is_right),
        TEST(test_keystore_refuses_a_missing_or_broken_file),
        TEST(test_keystore_name_holds_no_password),
        TEST(test_keystore_judges_by_plan_organization_and_key),
        TEST(test_keystore_takes_up_a_changed_list),
        TEST(test_keystore_bills_by_the_plan_too),
        TEST(test_keystore_takes_both_kinds_with_a_secret),
        TEST(test_keystore_tells_kinds_apart),
        TEST(test_keystore_refuses_secret_hashes_without_a_secret),
        TEST(test_keystore_reload_brings_another_secret),
        TEST(test_keystore_takes_what_limits_nobody),
        TEST(test_keystore_gives_the_record),
        TEST(test_keystore_organization_that_is_not_billed),
        TEST(test_keystore_without_keys_knows_none),
        TEST(test_keystore_hits_the_cache_after_a_miss),
        TEST(test_keystore_cache_never_forgets),
        TEST(test_keystore_unknown_is_never_cached),
        TEST(test_keystore_unchanged_is_not_read),
        TEST(test_keystore_takes_up_a_change_and_says_so),
        TEST(test_keystore_revoking_ends_a_cached_key),
        TEST(test_keystore_notices_changes_within_a_moment),
        TEST(test_keystore_broken_file_keeps_the_old_keys),
        TEST(test_keystore_vanished_file_keeps_the_old_keys),
        TEST(test_keystore_tries_again_what_may_pass),
        TEST(test_keystore_reload_keeps_keys_if_it_fails),
        TEST(test_keystore_is_reopened_at_another_address),
        TEST(test_keystore_works_in_a_forked_child),
        TEST(test_keystore_lookups_while_it_changes),
    };
    int failed;

    if (apr_initialize()) {
        return 1;
    }
    ue_log_set(take_line, NULL, UE_LOG_DEBUG);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    apr_terminate();
    return failed;
}
