/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "unit.h"

#include <errno.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <apr_strings.h>
#include <json-c/json.h>

#include "keyfile.h"

#define ORG_A "0198a6f2-5c1e-7d3a-9b40-3f2c81d7e605"
#define ORG_B "0198a6f2-5c1e-7d3a-9b40-3f2c81d7e606"
#define KEY_A "ee7e159c-fbfe-49ba-92e6-27b1e2785138"
#define KEY_B "ee7e159c-fbfe-49ba-92e6-27b1e2785139"
#define HEX64_A \
    "ae1e52b4e5f858ea66b289f7aea00f645881ceacb31627548307c2c4d6cb079d"
#define HEX64_B \
    "be1e52b4e5f858ea66b289f7aea00f645881ceacb31627548307c2c4d6cb079d"
#define HASH_A "sha256:" HEX64_A
#define HASH_B "sha256:" HEX64_B

#define ORGS(text) "{\"version\":1,\"organizations\":[" text "]}"
#define ORG(id, keys) "{\"id\":\"" id "\",\"keys\":[" keys "]}"
#define KEY(id, hash) "{\"id\":\"" id "\",\"hash\":\"" hash "\"}"
#define MORE(id, hash, more) \
    "{\"id\":\"" id "\",\"hash\":\"" hash "\"," more "}"
#define ONE_KEY(more) ORGS(ORG(ORG_A, MORE(KEY_A, HASH_A, more)))

#define HMAC_A "hmac-sha256:" HEX64_A
#define PLANS(plans, orgs) \
    "{\"version\":1,\"plans\":" plans ",\"organizations\":[" orgs "]}"
#define ATTRIBUTES                                                          \
    "\"rate\":\"100/s burst=200\",\"quota\":\"10000/month\","               \
    "\"networks\":[\"192.0.2.0/24\",\"2001:db8::1\"],\"paths\":[\"/v1/\"]," \
    "\"methods\":[\"GET\"]"
#define NAME_64 \
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

static apr_pool_t *pool;
static char dir[64];

static const char *file_in(const char *name)
{
    return apr_pstrcat(pool, dir, "/", name, NULL);
}

static const char *put_bytes(const char *name, const char *text, size_t len)
{
    const char *path = file_in(name);
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
    return path;
}

static const char *put(const char *name, const char *text)
{
    return put_bytes(name, text, strlen(text));
}

static struct json_object *must_read(const char *path)
{
    struct json_object *doc = NULL;
    const char *why = "";
    apr_status_t rv = ue_keyfile_read(path, &doc, &why, pool);

    if (rv) {
        print_error("%s\n", why);
    }
    assert_int_equal(rv, APR_SUCCESS);
    return doc;
}

static void refuses(const char *path, apr_status_t status, const char *part)
{
    struct json_object *doc = (void *)&pool;
    const char *why = NULL;
    apr_status_t rv = ue_keyfile_read(path, &doc, &why, pool);

    if (rv != status || !why || !strstr(why, part)
        || strncmp(why, path, strlen(path))) {
        print_error("want: %d %s\nhave: %d %s\n", status, part, rv,
                    why ? why : "(nothing)");
    }
    assert_int_equal(rv, status);
    assert_non_null(why);
    assert_non_null(strstr(why, part));
    assert_int_equal(strncmp(why, path, strlen(path)), 0);
    assert_null(doc);
}

/* Reading --------------------------------------------------------------- */

static void test_keyfile_takes_what_the_format_allows(void **state)
{
    static const char *const good[] = {
        ORGS(""),
        ORGS("") "\n\n",
        "\n" ORGS(ORG(ORG_A, "")),
        ORGS("{\"id\":\"" ORG_A "\"}"),
        ORGS(ORG(ORG_A, KEY(KEY_A, HASH_A))),
        ORGS(ORG(ORG_A, KEY(KEY_A, HASH_A) "," KEY(KEY_B, HASH_B))),
        ORGS(ORG(ORG_A, KEY(KEY_A, HASH_A)) "," ORG(ORG_B, KEY(KEY_B, HASH_B))),
        ONE_KEY("\"name\":null,\"prefix\":null,\"expires\":null,"
                "\"revoked\":null,\"created\":null"),
        ONE_KEY("\"expires\":\"2030-01-31T12:00:00+01:00\","
                "\"billable\":false,\"name\":\"Zoë\""),
        ONE_KEY("\"mine\":{\"x\":{\"x\":1}}"),
        ONE_KEY(ATTRIBUTES),
        ONE_KEY("\"plan\":null,\"rate\":null,\"quota\":null,\"networks\":null,"
                "\"paths\":null,\"methods\":null,\"replaces\":null"),
        ONE_KEY("\"replaces\":\"" KEY_B "\""),
        ORGS(ORG(ORG_A, KEY(KEY_A, HMAC_A))),
        ORGS("{\"id\":\"" ORG_A "\"," ATTRIBUTES "}"),
        PLANS("{}", ""),
        "{\"version\":1,\"organizations\":[],\"plans\":null}",
        PLANS("{\"a\":{},\"0.B_c-9\":{" ATTRIBUTES ",\"billable\":false}}", ""),
        PLANS("{\"" NAME_64 "\":{}}", ""),
        PLANS("{\"p\":{\"mine\":[{}]}}",
              "{\"id\":\"" ORG_A "\",\"plan\":\"p\",\"keys\":[" MORE(
                  KEY_A, HASH_A, "\"plan\":\"p\"") "]}"),
        ONE_KEY("\"a\":\"x:\\\"y\\\\\",\"b\":\"\\\\\",\"c\":\":\""),
        "{\"plans\":{\"p\":{\"rate\":\"1/s\"}},\"version\":1,"
        "\"organizations\":[],\"other\":[[{}]]}",
    };
    size_t i;

    for (i = 0; i < sizeof good / sizeof *good; i++) {
        json_object_put(must_read(put("good", good[i])));
    }
}

/* What is wrong, and what has to be said of it. */
static const struct {
    const char *text;
    const char *part;
} faults[] = {
    {"", ": is empty"},
    {" ", ": line 1, column 2: not JSON: it ends too early"},
    {"{\"version\":1,\n \"organizations\":[}", "line 2, column 19: not"},
    {"{\"version\":1,\n \"organizations\":[", "line 2, column 19: not"},
    {ORGS("") "x", "column 33: not JSON: "},
    {ORGS("") ORGS(""), "not JSON: "},
    {"{\"version\":1,\"organizations\":[],}", "not JSON: "},
    {"{'version':1,'organizations':[]}", "line 1, column 2: not JSON: "},
    {"{\"version\":1,\"organizations\":[],\"x\":NaN}", "column 37: not"},
    {"{\"version\":1,\"organizations\":[],\"x\":-Infinity}", "not JSON"},
    {"{\"version\":1,\"organizations\":[],\"x\":\"a\nb\"}", "not JSON"},
    {"/* no */" ORGS(""), "not JSON: "},
    {"\xEF\xBB\xBF" ORGS(""), "line 1, column 1: not JSON"},
    {"{\"\xFF\":1}", "not JSON: invalid utf-8"},
    {"[]", ": must hold a JSON object"},
    {"null", ": must hold a JSON object"},
    {"{}", ": version: must be 1"},
    {"{\"version\":2,\"organizations\":[]}", ": version: must be 1"},
    {"{\"version\":\"1\",\"organizations\":[]}", ": version: must be 1"},
    {"{\"version\":1.5,\"organizations\":[]}", ": version: must be 1"},
    {"{\"version\":1}", ": organizations: must be an array"},
    {"{\"version\":1,\"organizations\":{}}", "must be an array"},
    {ORGS("1"), ": organizations[0]: must be an object"},
    {ORGS("null"), ": organizations[0]: must be an object"},
    {ORGS("{}"), ": organizations[0].id: is missing"},
    {ORGS("{\"id\":null}"), "organizations[0].id: must be a UUID, like"},
    {ORGS("{\"id\":\"acme\"}"), "organizations[0].id: must be a UUID"},
    {ORGS("{\"id\":\"" ORG_A "\\u0000\"}"), "id: must be a UUID"},
    {ORGS(ORG(ORG_A, "") "," ORG(ORG_A, "")),
     "organizations[1].id: is that of organizations[0] too"},
    {ORGS(ORG("0198a6f2-5c1e-7d3a-9b40-3f2c81d7e605",
              "") "," ORG("0198A6F2-5C1E-7D3A-9B40-3F2C81D7E605", "")),
     "organizations[1].id: is that of organizations[0] too"},
    {ORGS("{\"id\":\"" ORG_A "\",\"name\":5}"),
     "organizations[0].name: must be a string or null"},
    {ORGS("{\"id\":\"" ORG_A "\",\"billable\":\"no\"}"),
     "organizations[0].billable: must be true or false"},
    {ORGS("{\"id\":\"" ORG_A "\",\"billable\":null}"),
     "organizations[0].billable: must be true or false"},
    {ORGS("{\"id\":\"" ORG_A "\",\"keys\":{}}"),
     "organizations[0].keys: must be an array"},
    {ORGS(ORG(ORG_A, "[]")), "organizations[0].keys[0]: must be an obj"},
    {ORGS(ORG(ORG_A, "{\"id\":\"" KEY_A "\"}")),
     "organizations[0].keys[0].hash: is missing"},
    {ORGS(ORG(ORG_A, "{\"hash\":\"" HASH_A "\"}")),
     "organizations[0].keys[0].id: is missing"},
    {ORGS(ORG(ORG_A, KEY(KEY_A, "sha256:abc"))),
     "keys[0].hash: must be sha256: or hmac-sha256: and 64 hexadecimal "
     "digits"},
    {ORGS(ORG(ORG_A, KEY(KEY_A, HASH_A "0"))), "keys[0].hash: must be"},
    {ORGS(ORG(ORG_A, KEY(KEY_A, "md5:" HEX64_A))), "keys[0].hash: must"},
    {ORGS(ORG(ORG_A, KEY(KEY_A, HEX64_A))), "keys[0].hash: must be"},
    {ORGS(ORG(ORG_A, KEY(KEY_A, "hmac-sha256:abc"))), "keys[0].hash: must"},
    {ORGS(ORG(ORG_A, KEY(KEY_A, HMAC_A) "," KEY(KEY_B, HMAC_A))),
     "keys[1].hash: is that of organizations[0].keys[0] too"},
    {ONE_KEY("\"replaces\":\"it\""), "keys[0].replaces: must be a key's id"},
    {ONE_KEY("\"replaces\":7"), "keys[0].replaces: must be a key's id"},
    {ONE_KEY("\"rate\":5"), "keys[0].rate: must be a string or null"},
    {ONE_KEY("\"rate\":\"5\""), "keys[0].rate: must be like 100/s"},
    {ONE_KEY("\"rate\":\"5/s\\u0000\""), "rate: must be a string or null"},
    {ONE_KEY("\"quota\":{\"a\":1}"), "keys[0].quota: must be a string"},
    {ONE_KEY("\"quota\":\"5/s\""), "keys[0].quota: must be like 1000/hour"},
    {ONE_KEY("\"networks\":\"10.0.0.0/8\""),
     "keys[0].networks: must be an array of at least one string, or null"},
    {ONE_KEY("\"networks\":[]"), "keys[0].networks: must be an array of at"},
    {ONE_KEY("\"networks\":[null]"), "keys[0].networks[0]: must be a string"},
    {ONE_KEY("\"networks\":[\"10.0.0.0/8\",\"10.0.0.0/33\"]"),
     "keys[0].networks[1]: \"10.0.0.0/33\" is no network"},
    {ONE_KEY("\"paths\":{}"), "keys[0].paths: must be an array"},
    {ONE_KEY("\"paths\":[\"v1\"]"), "keys[0].paths[0]: "},
    {ONE_KEY("\"methods\":[]"), "keys[0].methods: must be an array"},
    {ONE_KEY("\"methods\":[\"GET\",\"A B\"]"), "keys[0].methods[1]: "},
    {ONE_KEY("\"plan\":1"), "keys[0].plan: must be a string or null"},
    {ONE_KEY("\"plan\":\"p\""), "keys[0].plan: there is no plan \"p\" in"},
    {ORGS("{\"id\":\"" ORG_A "\",\"plan\":\"p\"}"),
     "organizations[0].plan: there is no plan \"p\" in plans"},
    {PLANS("{\"q\":{}}", "{\"id\":\"" ORG_A "\",\"plan\":\"p\"}"),
     "organizations[0].plan: there is no plan \"p\" in plans"},
    {ORGS("{\"id\":\"" ORG_A "\",\"rate\":\"x\"}"),
     "organizations[0].rate: must be like"},
    {ORGS("{\"id\":\"" ORG_A "\",\"methods\":[1]}"),
     "organizations[0].methods[0]: must be a string"},
    {PLANS("[]", ""), ": plans: must be an object"},
    {PLANS("{\"p\":null}", ""), ": plans.p: must be an object"},
    {PLANS("{\"p\":{\"rate\":\"x\"}}", ""), ": plans.p.rate: must be like"},
    {PLANS("{\"p\":{\"paths\":[]}}", ""), ": plans.p.paths: must be an"},
    {PLANS("{\"p\":{\"billable\":1}}", ""), ": plans.p.billable: must be"},
    {PLANS("{\"\":{}}", ""), ": plans: \"\" is no name of a plan: letters"},
    {PLANS("{\"a b\":{}}", ""), ": plans: \"a b\" is no name of a plan"},
    {PLANS("{\".a\":{}}", ""), ": plans: \".a\" is no name of a plan"},
    {PLANS("{\"é\":{}}", ""), ": plans: \"é\" is no name of a plan"},
    {PLANS("{\"" NAME_64 "a\":{}}", ""), "is no name of a plan"},
    {ORGS(ORG(ORG_A, KEY(KEY_A, HASH_A)) "," ORG(
         ORG_B, KEY(KEY_B, HASH_B) "," KEY(KEY_A, HASH_B))),
     "organizations[1].keys[1].id: is that of organizations[0].keys[0]"},
    {ORGS(ORG(ORG_A, KEY(KEY_A, HASH_A)) "," ORG(ORG_B, KEY(KEY_B, HASH_A))),
     "organizations[1].keys[0].hash: is that of organizations[0].keys[0]"},
    {ONE_KEY("\"expires\":1893456000"),
     "keys[0].expires: must be a time like 2030-01-31T12:00:00Z, or null"},
    {ONE_KEY("\"expires\":\"\""), "keys[0].expires: must be a time"},
    {ONE_KEY("\"revoked\":true"), "keys[0].revoked: must be a time"},
    {ONE_KEY("\"revoked\":\"yesterday\""), "keys[0].revoked: must be"},
    {ONE_KEY("\"created\":\"2030-01-31\""), "keys[0].created: must be"},
    {ONE_KEY("\"prefix\":1"), "keys[0].prefix: must be a string or null"},
    {ONE_KEY("\"billable\":0"), "keys[0].billable: must be true or false"},
    {"{\"version\":1,\n\"organizations\":[{\"id\":\"" ORG_A "\",\n"
     "\"keys\":[{\"id\":\"" KEY_A "\",\"hash\":\"" HASH_A "\",\n"
     "  \"revoked\":\"2020-01-01T00:00:00Z\",\"revoked\":null}]}]}",
     ": line 4, column 36: \"revoked\" is there twice"},
    {ONE_KEY("\"revoked\":\"2020-01-01T00:00:00Z\","
             "\"rev\\u006fked\":null"),
     "\"revoked\" is there twice"},
    {"{\"version\":1,\"organizations\":[],\"organizations\":[]}",
     "column 33: \"organizations\" is there twice"},
};

static void test_keyfile_names_the_place_of_a_fault(void **state)
{
    size_t i;

    for (i = 0; i < sizeof faults / sizeof *faults; i++) {
        refuses(put("bad", faults[i].text), APR_EINVAL, faults[i].part);
    }
}

static void test_keyfile_refuses_a_nul_and_what_follows_it(void **state)
{
    static const char text[] = ORGS("") "\0x";

    refuses(put_bytes("nul", text, sizeof text - 1), APR_EINVAL,
            "something follows the end");
    refuses(put_bytes("nul", text, sizeof text - 2), APR_EINVAL,
            "something follows the end");
    refuses(put_bytes("nul", "\0", 1), APR_EINVAL, "not JSON");
}

static void test_keyfile_bounds_depth_and_size(void **state)
{
    enum { LEVELS = 100000 };
    char *deep = malloc(2 * LEVELS + 1);
    const char *path;
    size_t i;

    for (i = 0; i < LEVELS; i++) {
        deep[i] = '[';
        deep[LEVELS + i] = ']';
    }
    deep[2 * LEVELS] = '\0';
    refuses(put("deep", deep), APR_EINVAL, "nesting too deep");
    free(deep);
    path = put("large", "{");
    assert_int_equal(truncate(path, (off_t)UE_KEYFILE_MAX + 1), 0);
    refuses(path, APR_EINVAL, "is larger than 64 MiB");
}

static void test_keyfile_refuses_what_is_no_file(void **state)
{
    const char *fifo = file_in("fifo");

    refuses(dir, EISDIR, "is a directory, not a file");
    refuses(file_in("none"), ENOENT, "can't be read: No such file");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    refuses(fifo, APR_EINVAL, "is a pipe or device, not a file");
    refuses("/dev/zero", APR_EINVAL, "is a pipe or device, not a file");
}

/* A list of so many paths of 400 bytes each. */
static struct json_object *long_list(int n)
{
    struct json_object *list = json_object_new_array();
    char path[401];
    int i;

    for (i = 0; i < n; i++) {
        memset(path, 'a' + i, sizeof path - 1);
        path[0] = '/';
        path[sizeof path - 1] = '\0';
        json_object_array_add(list, json_object_new_string(path));
    }
    return list;
}

/* What no list is too long for alone, plan, organization and key are together,
 * where they meet in a key. */
static void test_keyfile_bounds_the_lists_of_a_key(void **state)
{
    struct json_object *doc = must_read(put(
        "lists",
        PLANS("{\"own\":{},\"of-org\":{}}",
              "{\"id\":\"" ORG_A
              "\",\"plan\":\"of-org\",\"keys\":[" KEY(KEY_A, HASH_A) "," MORE(
                  KEY_B, HASH_B, "\"plan\":\"own\"") "]}")));
    struct json_object *plans, *orgs, *org, *keys, *key, *plan;
    const char *why = NULL;

    json_object_object_get_ex(doc, "plans", &plans);
    json_object_object_get_ex(doc, "organizations", &orgs);
    org = json_object_array_get_idx(orgs, 0);
    json_object_object_get_ex(org, "keys", &keys);
    key = json_object_array_get_idx(keys, 1);
    json_object_object_get_ex(plans, "own", &plan);
    json_object_object_add(plan, "paths", long_list(4));
    json_object_object_add(org, "paths", long_list(3));
    json_object_object_add(key, "paths", long_list(2));
    assert_int_equal(ue_keyfile_check("f", doc, &why, pool), APR_SUCCESS);
    json_object_object_add(key, "paths", long_list(4));
    assert_int_equal(ue_keyfile_check("f", doc, &why, pool), APR_EINVAL);
    assert_int_equal(strncmp(why, "f: organizations[0].keys[1]: ", 29), 0);
    /* the other's plan is the organization's */
    json_object_object_del(key, "plan");
    assert_int_equal(ue_keyfile_check("f", doc, &why, pool), APR_SUCCESS);
    json_object_object_get_ex(plans, "of-org", &plan);
    json_object_object_add(plan, "paths", long_list(8));
    assert_int_equal(ue_keyfile_check("f", doc, &why, pool), APR_EINVAL);
    assert_int_equal(strncmp(why, "f: organizations[0].keys[0]: ", 29), 0);
    json_object_put(doc);
}

static void test_keyfile_hands_lists_out(void **state)
{
    struct json_object *o =
        json_tokener_parse("{\"networks\":null,\"paths\":[\"/a\",\"/b/\"]}");
    ue_access_lists_t lists;

    assert_true(ue_keyfile_lists(o, &lists, pool));
    assert_null(lists.networks);
    assert_null(lists.methods);
    assert_string_equal(lists.paths[0], "/a");
    assert_string_equal(lists.paths[1], "/b/");
    assert_null(lists.paths[2]);
    json_object_object_del(o, "paths");
    assert_false(ue_keyfile_lists(o, &lists, pool));
    assert_false(ue_keyfile_lists(NULL, &lists, pool));
    assert_null(lists.paths);
    json_object_put(o);
}

/* Writing --------------------------------------------------------------- */

static void must_write(const char *path, struct json_object *doc)
{
    const char *why = "";
    apr_status_t rv = ue_keyfile_write(path, doc, NULL, &why, pool);

    if (rv) {
        print_error("%s\n", why);
    }
    assert_int_equal(rv, APR_SUCCESS);
}

static mode_t mode_of(const char *path)
{
    struct stat st;

    assert_int_equal(lstat(path, &st), 0);
    return st.st_mode;
}

static void test_keyfile_keeps_unknown_members(void **state)
{
    const char *path =
        put("unknown", "{\"zzz\":[1,2.50,\"/\\u0001é\",null],"
                       "\"version\":1,\"plans\":{\"p\":{}},"
                       "\"organizations\":[{\"id\":\"" ORG_A
                       "\",\"rate\":\"5/s\",\"keys\":[" MORE(
                           KEY_A, HASH_A, "\"mine\":{\"deep\":true}") "]}]}");
    struct json_object *before = must_read(path), *after;

    must_write(path, before);
    after = must_read(path);
    assert_string_equal(json_object_to_json_string(before),
                        json_object_to_json_string(after));
    assert_non_null(strstr(json_object_to_json_string(after), "2.50"));
    assert_non_null(strstr(json_object_to_json_string(after), "\"deep\": t"));
    json_object_put(before);
    json_object_put(after);
}

static void test_keyfile_new_file_is_for_owner_and_group(void **state)
{
    const char *path = file_in("new");
    struct json_object *doc = ue_keyfile_new();
    mode_t old = umask(0);

    must_write(path, doc);
    umask(old);
    assert_int_equal(mode_of(path), S_IFREG | 0640);
    json_object_put(doc);
    doc = must_read(path);
    json_object_put(doc);
    assert_int_equal(access(file_in("new.new"), F_OK), -1);
}

static void test_keyfile_refuses_an_unknown_group(void **state)
{
    const char *path = file_in("grouped"), *why = NULL;
    struct json_object *doc = ue_keyfile_new();

    assert_int_not_equal(
        ue_keyfile_write(path, doc, "no-such-group", &why, pool), APR_SUCCESS);
    assert_string_equal(why, "there is no group no-such-group");
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(access(file_in("grouped.new"), F_OK), -1);
    json_object_put(doc);
}

static void test_keyfile_keeps_owner_group_and_mode(void **state)
{
    const char *path = put("kept", ORGS(""));
    struct json_object *doc = must_read(path);
    struct stat before, after;

    assert_int_equal(chmod(path, 0604), 0);
    if (!geteuid()) {
        assert_int_equal(chown(path, 12345, 54321), 0);
    }
    assert_int_equal(stat(path, &before), 0);
    must_write(path, doc);
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(after.st_mode, S_IFREG | 0604);
    assert_int_equal(after.st_uid, before.st_uid);
    assert_int_equal(after.st_gid, before.st_gid);
    assert_int_not_equal(after.st_ino, before.st_ino);
    json_object_put(doc);
}

static void test_keyfile_replaces_what_a_link_names(void **state)
{
    const char *target = put("target", ORGS("")), *link = file_in("link");
    struct json_object *doc = must_read(target);
    struct stat before, after;

    assert_int_equal(symlink("target", link), 0);
    assert_int_equal(stat(target, &before), 0);
    must_write(link, doc);
    assert_true(S_ISLNK(mode_of(link)));
    assert_int_equal(stat(target, &after), 0);
    assert_int_not_equal(after.st_ino, before.st_ino);
    json_object_put(doc);
}

static void test_keyfile_draft_changes_nothing_until_committed(void **state)
{
    const char *path = put("drafted", ORGS("")), *why;
    struct json_object *doc = must_read(path), *seen;
    ue_keyfile_draft_t *draft;
    apr_pool_t *sub;

    json_object_object_add(doc, "note", json_object_new_int(7));
    apr_pool_create(&sub, pool);
    assert_int_equal(ue_keyfile_draft(&draft, path, doc, NULL, &why, sub), 0);
    seen = must_read(path);
    assert_false(json_object_object_get_ex(seen, "note", NULL));
    json_object_put(seen);
    apr_pool_destroy(sub);
    assert_int_equal(access(file_in("drafted.new"), F_OK), -1);

    /* what a killed writer left is in nobody's way */
    put("drafted.new", "half");
    assert_int_equal(ue_keyfile_draft(&draft, path, doc, NULL, &why, pool), 0);
    assert_int_equal(ue_keyfile_commit(draft, &why), 0);
    seen = must_read(path);
    assert_true(json_object_object_get_ex(seen, "note", NULL));
    json_object_put(seen);
    json_object_put(doc);
}

static void test_keyfile_does_not_write_what_it_would_not_read(void **state)
{
    const char *path = put("faulty", ORGS("")), *why = NULL;
    struct json_object *doc = must_read(path);

    json_object_object_add(doc, "version", json_object_new_int(2));
    assert_int_equal(ue_keyfile_write(path, doc, NULL, &why, pool), APR_EINVAL);
    assert_non_null(strstr(why, "version: must be 1"));
    json_object_put(doc);
    json_object_put(must_read(path));
}

static void test_keyfile_says_when_it_cannot_write(void **state)
{
    const char *why = NULL;
    struct json_object *doc = ue_keyfile_new();
    const char *path = file_in("nowhere/keys.json");

    assert_int_equal(ue_keyfile_write(path, doc, NULL, &why, pool), ENOENT);
    assert_non_null(strstr(why, "nowhere/keys.json.new: can't be made: No "));
    json_object_put(doc);
}

/* The lock -------------------------------------------------------------- */

/* Somebody else, who writes a byte when the lock is theirs. */
static pid_t start_waiter(const char *path, apr_pool_t *holder, int fds[2])
{
    pid_t pid;

    assert_int_equal(pipe(fds), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        const char *why;
        char said;

        /* what is inherited holds the lock too */
        apr_pool_destroy(holder);
        said = ue_keyfile_lock(path, &why, pool) ? 'n' : 'y';

        _exit(write(fds[1], &said, 1) != 1);
    }
    close(fds[1]);
    return pid;
}

static void test_keyfile_lock_lets_one_writer_in(void **state)
{
    const char *path = put("locked", ORGS("")), *why;
    struct pollfd ready = {0, POLLIN, 0};
    apr_pool_t *holder;
    int fds[2], status;
    char said = 0;
    pid_t pid;

    apr_pool_create(&holder, pool);
    assert_int_equal(ue_keyfile_lock(path, &why, holder), APR_SUCCESS);
    pid = start_waiter(path, holder, fds);
    ready.fd = fds[0];
    assert_int_equal(poll(&ready, 1, 300), 0);
    apr_pool_destroy(holder);
    assert_int_equal(poll(&ready, 1, 4000), 1);
    assert_int_equal(read(fds[0], &said, 1), 1);
    assert_int_equal(said, 'y');
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    close(fds[0]);
}

static void test_keyfile_lock_gives_up(void **state)
{
    const char *path = put("held", ORGS("")), *why = NULL;
    apr_time_t began = apr_time_now();
    apr_pool_t *holder;

    apr_pool_create(&holder, pool);
    assert_int_equal(ue_keyfile_lock(path, &why, holder), APR_SUCCESS);
    assert_int_equal(ue_keyfile_lock(path, &why, pool), APR_TIMEUP);
    assert_non_null(strstr(why, "somebody else is changing the key file"));
    assert_true(apr_time_now() - began >= apr_time_from_sec(4));
    apr_pool_destroy(holder);
}

/* Times ----------------------------------------------------------------- */

static void test_time_parse_reads_rfc_3339(void **state)
{
    static const struct {
        const char *text;
        apr_time_t want;
    } good[] = {
        {"1970-01-01T00:00:00Z", 0},
        {"1970-01-01T00:00:00.000001Z", 1},
        {"2030-01-31T12:00:00Z", 1896091200000000},
        {"2030-01-31t12:00:00z", 1896091200000000},
        {"2030-01-31T13:30:00+01:30", 1896091200000000},
        {"2030-01-31T00:00:00-12:00", 1896091200000000},
        {"2030-01-31T12:00:00.25Z", 1896091200250000},
        {"2030-01-31T12:00:00.1234569Z", 1896091200123456},
        {"2024-02-29T00:00:00Z", 1709164800000000},
        {"2000-02-29T23:59:59Z", 951868799000000},
        {"2016-12-31T23:59:60Z", 1483228800000000},
        {"1969-12-31T23:59:59Z", -1000000},
        {"1900-03-01T00:00:00Z", -2203891200000000},
        {"0000-01-01T00:00:00Z", -62167219200000000},
        {"9999-12-31T23:59:59Z", 253402300799000000},
    };
    static const char *const bad[] = {
        "",
        "2030-01-31",
        "2030-01-31T12:00:00",
        "2030-01-31 12:00:00Z",
        "2030-1-31T12:00:00Z",
        "2030-13-01T12:00:00Z",
        "2030-00-01T12:00:00Z",
        "2030-01-32T12:00:00Z",
        "2030-01-00T12:00:00Z",
        "2023-02-29T12:00:00Z",
        "1900-02-29T12:00:00Z",
        "2030-01-31T24:00:00Z",
        "2030-01-31T12:60:00Z",
        "2030-01-31T12:00:61Z",
        "2030-01-31T12:00Z",
        "2030-01-31T12:00:00.Z",
        "2030-01-31T12:00:00,5Z",
        "2030-01-31T12:00:00+0100",
        "2030-01-31T12:00:00+24:00",
        "2030-01-31T12:00:00+01",
        "2030-01-31T12:00:00Zx",
        "2030-01-31T12:00:00 Z",
        "+2030-01-31T12:00:00Z",
        "-030-01-31T12:00:00Z",
        "1896091200",
        "9999-12-31T23:59:59-23:59",
        "0000-01-01T00:00:00+00:01",
    };
    apr_time_t when;
    size_t i;

    for (i = 0; i < sizeof good / sizeof *good; i++) {
        when = 1;
        if (ue_time_parse(&when, good[i].text) || when != good[i].want) {
            print_error("%s: %" APR_INT64_T_FMT "\n", good[i].text, when);
        }
        assert_int_equal(ue_time_parse(&when, good[i].text), APR_SUCCESS);
        assert_int_equal(when, good[i].want);
    }
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (!ue_time_parse(&when, bad[i])) {
            print_error("taken: %s\n", bad[i]);
        }
        assert_int_equal(ue_time_parse(&when, bad[i]), APR_EINVAL);
    }
}

/* Against the calendar of the C library, over four centuries. */
static void test_time_parse_knows_every_day(void **state)
{
    apr_time_exp_t e;
    apr_time_t when;
    apr_int64_t day;
    char text[32];

    for (day = -146097; day <= 146097; day += 17) {
        assert_int_equal(apr_time_exp_gmt(&e, apr_time_from_sec(day * 86400)),
                         APR_SUCCESS);
        apr_snprintf(text, sizeof text, "%04d-%02d-%02dT00:00:00Z",
                     e.tm_year + 1900, e.tm_mon + 1, e.tm_mday);
        assert_int_equal(ue_time_parse(&when, text), APR_SUCCESS);
        assert_int_equal(when, apr_time_from_sec(day * 86400));
    }
}

/* ----------------------------------------------------------------------- */

static int begin(void **state)
{
    const char *tmp = getenv("TMPDIR");

    snprintf(dir, sizeof dir, "%s/ue-keyfile-XXXXXX", tmp ? tmp : "/tmp");
    if (apr_initialize() || apr_pool_create(&pool, NULL)) {
        return -1;
    }
    return mkdtemp(dir) ? 0 : -1;
}

static int end(void **state)
{
    char command[128];

    apr_pool_destroy(pool);
    apr_terminate();
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keyfile_takes_what_the_format_allows),
        cmocka_unit_test(test_keyfile_names_the_place_of_a_fault),
        cmocka_unit_test(test_keyfile_refuses_a_nul_and_what_follows_it),
        cmocka_unit_test(test_keyfile_bounds_depth_and_size),
        cmocka_unit_test(test_keyfile_refuses_what_is_no_file),
        cmocka_unit_test(test_keyfile_bounds_the_lists_of_a_key),
        cmocka_unit_test(test_keyfile_hands_lists_out),
        cmocka_unit_test(test_keyfile_keeps_unknown_members),
        cmocka_unit_test(test_keyfile_new_file_is_for_owner_and_group),
        cmocka_unit_test(test_keyfile_refuses_an_unknown_group),
        cmocka_unit_test(test_keyfile_keeps_owner_group_and_mode),
        cmocka_unit_test(test_keyfile_replaces_what_a_link_names),
        cmocka_unit_test(test_keyfile_draft_changes_nothing_until_committed),
        cmocka_unit_test(test_keyfile_does_not_write_what_it_would_not_read),
        cmocka_unit_test(test_keyfile_says_when_it_cannot_write),
        cmocka_unit_test(test_keyfile_lock_lets_one_writer_in),
        cmocka_unit_test(test_keyfile_lock_gives_up),
        cmocka_unit_test(test_time_parse_reads_rfc_3339),
        cmocka_unit_test(test_time_parse_knows_every_day),
    };

    return cmocka_run_group_tests(tests, begin, end);
}
