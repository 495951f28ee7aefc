/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * Where a key may be used. Tables say what lists are taken, and what they let
 * in; random lists are judged a second time from their texts, by a judge that
 * knows no blocks; paths are read as servers have read them (readers.h), and
 * none that is let in may leave its prefix in any reading; and a block that is
 * not whole lets nobody in and is never read beside.
 */
#include "unit.h"

#include <arpa/inet.h>

#include <apr_strings.h>

#include "access.h"
#include "endpoint.h"
#include "readers.h"

static apr_pool_t *pool;

#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})

static apr_sockaddr_t *client_of(const char *address)
{
    static apr_sockaddr_t client;

    memset(&client, 0, sizeof(client));
    if (strchr(address, ':')) {
        client.family = APR_INET6;
        assert_int_equal(
            inet_pton(AF_INET6, address, &client.sa.sin6.sin6_addr), 1);
    }
    else {
        client.family = APR_INET;
        assert_int_equal(inet_pton(AF_INET, address, &client.sa.sin.sin_addr),
                         1);
    }
    return &client;
}

static uint8_t block[UE_ACCESS_MAX];
static size_t block_len;

static void compile(const ue_access_lists_t *lists, size_t count)
{
    const char *why = "";
    apr_status_t rv =
        ue_access_compile(lists, count, block, &block_len, &why, pool);

    if (rv != APR_SUCCESS) {
        fail_msg("%s", why);
    }
}

/* From memory of just its size, so that what is read beside it shows. */
static ue_access_t judge_bytes(const uint8_t *bytes, size_t len,
                               const ue_asked_t *asked)
{
    uint8_t *copy = malloc(len ? len : 1);
    ue_access_t result;

    assert_non_null(copy);
    memcpy(copy, bytes, len);
    result = ue_access_judge(copy, len, asked);
    free(copy);
    return result;
}

static ue_access_t judge(const char *address, const char *method,
                         const char *path)
{
    ue_asked_t asked = {address ? client_of(address) : NULL, method, path,
                        strlen(path)};

    return judge_bytes(block, block_len, &asked);
}

/* ---- networks ---- */

static ue_access_t from(const char *address)
{
    return judge(address, "GET", "/");
}

static void test_access_networks(void **state)
{
    ue_access_lists_t lists = {.networks = LIST("192.0.2.0/24", "198.51.100.7",
                                                "10.32.0.0/11", "2001:db8::/32",
                                                "2001:db9::1", "fe80::/10",
                                                "203.0.113.8/31")};
    static const char *const in[] = {"192.0.2.0",
                                     "192.0.2.255",
                                     "198.51.100.7",
                                     "10.32.0.1",
                                     "10.63.255.255",
                                     "2001:db8::",
                                     "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
                                     "2001:db9::1",
                                     "fe80::1",
                                     "febf::",
                                     "203.0.113.8",
                                     "203.0.113.9",
                                     "::ffff:192.0.2.5"};
    static const char *const out[] = {"192.0.1.255",
                                      "192.0.3.0",
                                      "198.51.100.6",
                                      "198.51.100.8",
                                      "10.31.255.255",
                                      "10.64.0.0",
                                      "2001:db7:ffff::",
                                      "2001:db9::",
                                      "2001:db9::2",
                                      "fe7f::",
                                      "fec0::",
                                      "203.0.113.7",
                                      "203.0.113.10",
                                      "::ffff:192.0.3.5",
                                      "::192.0.2.5",
                                      "::1",
                                      "64:ff9b::192.0.2.5",
                                      "127.0.0.1"};

    compile(&lists, 1);
    for (size_t i = 0; i < UNIT_COUNT(in); i++) {
        if (from(in[i]) != UE_ACCESS_GRANTED) {
            fail_msg("%s is kept out", in[i]);
        }
    }
    for (size_t i = 0; i < UNIT_COUNT(out); i++) {
        if (from(out[i]) != UE_ACCESS_NETWORK) {
            fail_msg("%s is let in", out[i]);
        }
    }
    assert_int_equal(from(NULL), UE_ACCESS_NETWORK);
}

static void test_access_whole_families(void **state)
{
    ue_access_lists_t four = {.networks = LIST("0.0.0.0/0")};
    ue_access_lists_t six = {.networks = LIST("::/0")};

    compile(&four, 1);
    assert_int_equal(from("255.255.255.255"), UE_ACCESS_GRANTED);
    assert_int_equal(from("::ffff:1.2.3.4"), UE_ACCESS_GRANTED);
    assert_int_equal(from("::1"), UE_ACCESS_NETWORK);
    compile(&six, 1);
    assert_int_equal(from("ffff::1"), UE_ACCESS_GRANTED);
    assert_int_equal(from("1.2.3.4"), UE_ACCESS_NETWORK);
    assert_int_equal(from("::ffff:1.2.3.4"), UE_ACCESS_NETWORK);
}

static void test_access_refuses_what_is_no_network(void **state)
{
    static const struct {
        const char *entry;
        const char *part;
    } bad[] = {
        {"", "is no network, such as 192.0.2.0/24"},
        {"/", "is no network"},
        {"/24", "is no network"},
        {"192.0.2.0/", "is no network"},
        {"192.0.2.0/33", "\"192.0.2.0/33\" is no network"},
        {"192.0.2.0/-1", "is no network"},
        {"192.0.2.0/+8", "is no network"},
        {"192.0.2.0/08", "is no network"},
        {"192.0.2.0/00", "is no network"},
        {"192.0.2.0/024", "is no network"},
        {"192.0.2.0/ 8", "is no network"},
        {"192.0.2.0/8 ", "is no network"},
        {"192.0.2.0/8/8", "is no network"},
        {"192.0.2.0/255.255.255.0", "is no network"},
        {"192.0.2.0/4294967304", "is no network"},
        {"192.0.2/24", "is no network"},
        {"192.0.2.256/32", "is no network"},
        {"192.0.02.0/24", "is no network"},
        {" 192.0.2.0/24", "is no network"},
        {"192.0.2.0-192.0.2.9", "is no network"},
        {"192.0.2.0/24,10.0.0.0/8", "is no network"},
        {"*", "is no network"},
        {"all", "is no network"},
        {"localhost", "is no network"},
        {"2001:db8::/129", "is no network"},
        {"2001:db8::g/64", "is no network"},
        {"2001:db8:/32", "is no network"},
        {"[2001:db8::]/32", "is no network"},
        {"fe80::1%eth0", "is no network"},
        {"1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb:cccc/32",
         "is no network"},
        {"192.0.2.7/24", "\"192.0.2.7/24\" has bits set behind its prefix: "
                         "write 192.0.2.0/24, or the address alone"},
        {"192.0.2.1/0", "write 0.0.0.0/0"},
        {"10.33.0.0/11", "write 10.32.0.0/11"},
        {"10.32.0.1/31", "write 10.32.0.0/31"},
        {"2001:db8::1/64", "write 2001:db8::/64"},
        {"2001:db8:8000::/32", "write 2001:db8::/32"},
        {"fe81::/9", "write fe80::/9"},
        {"::ffff:192.0.2.1", "names IPv4 addresses: write 192.0.2.1/32"},
        {"::ffff:192.0.2.0/120", "names IPv4 addresses: write 192.0.2.0/24"},
        {"::ffff:0:0/96", "names IPv4 addresses: write 0.0.0.0/0"},
    };

    for (size_t i = 0; i < UNIT_COUNT(bad); i++) {
        ue_access_lists_t lists = {.networks =
                                       LIST("192.0.2.0/24", bad[i].entry)};
        const char *alone = ue_access_check("networks", bad[i].entry, pool);
        const char *why = NULL;

        if (!alone || !strstr(alone, bad[i].part)) {
            fail_msg("%s: %s", bad[i].entry, alone ? alone : "taken");
        }
        assert_int_equal(
            ue_access_compile(&lists, 1, block, &block_len, &why, pool),
            APR_EINVAL);
        assert_int_equal(block_len, 0);
        assert_string_equal(why, apr_pstrcat(pool, "networks: ", alone, NULL));
    }
}

/* ---- methods ---- */

static void test_access_methods(void **state)
{
    ue_access_lists_t reads = {.methods = LIST("GET", "PROPFIND", "X-!#$.9")};
    ue_access_lists_t heads = {.methods = LIST("HEAD", "POST")};

    compile(&reads, 1);
    assert_int_equal(judge("::1", "GET", "/"), UE_ACCESS_GRANTED);
    assert_int_equal(judge("::1", "HEAD", "/"), UE_ACCESS_GRANTED);
    assert_int_equal(judge("::1", "PROPFIND", "/"), UE_ACCESS_GRANTED);
    assert_int_equal(judge("::1", "X-!#$.9", "/"), UE_ACCESS_GRANTED);
    assert_int_equal(judge("::1", "get", "/"), UE_ACCESS_METHOD);
    assert_int_equal(judge("::1", "GE", "/"), UE_ACCESS_METHOD);
    assert_int_equal(judge("::1", "GETS", "/"), UE_ACCESS_METHOD);
    assert_int_equal(judge("::1", "POST", "/"), UE_ACCESS_METHOD);
    assert_int_equal(judge("::1", "", "/"), UE_ACCESS_METHOD);
    compile(&heads, 1);
    assert_int_equal(judge("::1", "HEAD", "/"), UE_ACCESS_GRANTED);
    assert_int_equal(judge("::1", "POST", "/"), UE_ACCESS_GRANTED);
    assert_int_equal(judge("::1", "GET", "/"), UE_ACCESS_METHOD);
}

static void test_access_refuses_what_is_no_method(void **state)
{
    static const struct {
        const char *entry;
        const char *part;
    } bad[] = {
        {"", "is no method, such as GET or POST"},
        {"GET ", "is no method"},
        {" GET", "is no method"},
        {"GET,POST", "is no method"},
        {"GET/", "is no method"},
        {"G\xc3\x89T", "is no method"},
        {"A\x01", "is no method"},
        {"A2345678901234567890123456789012345678901234567890123456789012345",
         "is no method"},
        {"get", "\"get\" is not GET, since methods are told apart by case: "
                "write GET"},
        {"Post", "write POST"},
        {"OpTiOnS", "write OPTIONS"},
    };

    for (size_t i = 0; i < UNIT_COUNT(bad); i++) {
        ue_access_lists_t lists = {.methods = LIST(bad[i].entry)};
        const char *alone = ue_access_check("methods", bad[i].entry, pool);
        const char *why = NULL;

        if (!alone || !strstr(alone, bad[i].part)) {
            fail_msg("%s: %s", bad[i].entry, alone ? alone : "taken");
        }
        assert_int_equal(
            ue_access_compile(&lists, 1, block, &block_len, &why, pool),
            APR_EINVAL);
        assert_string_equal(why, apr_pstrcat(pool, "methods: ", alone, NULL));
    }
    assert_null(ue_access_check("methods", "version-control", pool));
}

/* ---- paths ---- */

static const struct {
    const char *path;
    const char *normal; /* NULL: there is none */
} normals[] = {
    {"/", "/"},
    {"/v1", "/v1"},
    {"/v1/", "/v1/"},
    {"/v1/charge", "/v1/charge"},
    {"/v1//charge", "/v1/charge"},
    {"/v1///", "/v1/"},
    {"/v1/./charge", "/v1/charge"},
    {"/v1/.", "/v1/"},
    {"/v1/..", "/"},
    {"/v1/../", "/"},
    {"/v1/../admin", "/admin"},
    {"/docs/../v1/charge", "/v1/charge"},
    {"/v1/a/b/../../../admin", "/admin"},
    {"/v1/a/..", "/v1/"},
    {"/v1/a/.", "/v1/a/"},
    {"/%76%31/charge", "/v1/charge"},
    {"/v1/%2e%2e/admin", "/admin"},
    {"/v1/.%2E/admin", "/admin"},
    {"/v1/%2e/charge", "/v1/charge"},
    {"/v1/%7euser", "/v1/~user"},
    {"/v1/a%20b", "/v1/a%20b"},
    {"/v1/a%3ab", "/v1/a%3ab"},
    {"/v1/\xc3\xbc", "/v1/\xc3\xbc"},
    {"/v1/a;x=1/b", "/v1/a;x=1/b"},
    {"/..a", "/..a"},
    {"/%2e%2ea", "/..a"},
    /* above the root */
    {"/..", NULL},
    {"/../v1/charge", NULL},
    {"/v1/../../v1/charge", NULL},
    {"/%2e%2e/v1/charge", NULL},
    /* no path */
    {"", NULL},
    {"*", NULL},
    {"v1/charge", NULL},
    {"host:443", NULL},
    /* a host, or not */
    {"//", NULL},
    {"//admin", NULL},
    {"//v1/admin", NULL},
    {"///v1/admin", NULL},
    /* what ".." takes away depends on who merges */
    {"/v1//../admin", NULL},
    {"/v1//x/../../admin", NULL},
    {"/admin/..//v1/charge", NULL},
    {"/v1/../admin//", NULL}, /* nor where the order would not matter */
    /* not plain, and also where it is taken away again */
    {"/v1/..%2fadmin", NULL},
    {"/v1/%2e%2e%2fadmin", NULL},
    {"/v1/..%5cadmin", NULL},
    {"/v1/..\\admin", NULL},
    {"/v1\\..\\admin", NULL},
    {"/v1/..;/admin", NULL},
    {"/v1/..;x=1/admin", NULL},
    {"/v1/%2e%2e;/admin", NULL},
    {"/v1/..%3b/admin", NULL},
    {"/v1/.;/admin", NULL},
    {"/v1/;/../admin", NULL},
    {"/v1/%252e%252e/", NULL},
    {"/v1/%25", NULL},
    {"/v1/a%2fb/../../x", NULL},
    {"/v1/a%5cb/../x", NULL},
    {"/v1/..;/../x", NULL},
    {"/v1/\xc0\xae\xc0\xae/admin", NULL},
    {"/v1/%c0%ae%c0%ae/admin", NULL},
    {"/v1/%e0%80%ae./admin", NULL},
    {"/v1/%c0%af../admin", NULL},
    {"/v1/\xe2\x80\xa5/admin", NULL},
    {"/v1/\xef\xbc\x8e\xef\xbc\x8e/admin", NULL},
    {"/v1/%ef%bc%8f..", NULL},
    {"/v1/%u002e%u002e/admin", NULL},
    {"/v1/%%32e%%32e/admin", NULL},
    {"/v1/%2%65%2%65/admin", NULL},
    {"/v1/%", NULL},
    {"/v1/%2", NULL},
    {"/v1/%zz", NULL},
    {"/v1/.../admin", NULL},
    {"/v1/.. /admin", NULL},
    {"/v1/..%20/admin", NULL},
    {"/v1/..%00/admin", NULL},
    {"/v1/a%00", NULL},
    {"/v1/a%0a", NULL},
    {"/v1/a\tb", NULL},
    {"/v1/a b", NULL},
    {"/v1/a#b", NULL},
    {"/v1/a?b", NULL},
    {"/v1/%09../admin", NULL},
    {"/v1/\xff", NULL},
    {"/v1/\xc3", NULL},
    {"/v1/\xc3/\xbc", NULL},
    {"/v1/%c3/%bc", NULL},
};

static void test_access_path_is_normalized(void **state)
{
    for (size_t i = 0; i < UNIT_COUNT(normals); i++) {
        char *to = malloc(UE_PATH_MAX);
        const char *path = normals[i].path;
        const char *want = normals[i].normal;
        size_t len;

        assert_non_null(to);
        len = ue_path_normalize(to, path, strlen(path));
        if (len != (want ? strlen(want) : 0)
            || (want && memcmp(to, want, len) != 0)) {
            fail_msg("%s became %.*s", path, (int)len, to);
        }
        if (len) {
            char *again = malloc(UE_PATH_MAX);

            assert_true(ue_path_is_plain(to, len));
            assert_int_equal(ue_path_normalize(again, to, len), len);
            assert_memory_equal(again, to, len);
            free(again);
        }
        free(to);
    }
}

static void test_access_paths(void **state)
{
    ue_access_lists_t lists = {.paths = LIST("/v1/", "/exact", "/v2/a%20b/")};
    static const char *const in[] = {
        "/v1/",           "/v1/charge", "/v1//charge", "/docs/../v1/charge",
        "/%76%31/charge", "/v1/x/..",   "/v1/%2e",     "/exact",
        "/x/../exact",    "/%65xact",   "/v2/a%20b/c"};
    static const char *const out[] = {
        "/",        "/v1",      "/v1x",         "/v10/charge", "/V1/charge",
        "/exact/",  "/exact/x", "/exact//",     "/exac",       "/v2/a b/c",
        "/v2/a+b/", "/x/v1/",   "/v1%2fcharge", "*",           "v1/charge",
        "host:80"};

    compile(&lists, 1);
    for (size_t i = 0; i < UNIT_COUNT(in); i++) {
        if (judge("::1", "GET", in[i]) != UE_ACCESS_GRANTED) {
            fail_msg("%s is kept out", in[i]);
        }
    }
    for (size_t i = 0; i < UNIT_COUNT(out); i++) {
        if (judge("::1", "GET", out[i]) != UE_ACCESS_PATH) {
            fail_msg("%s is let in", out[i]);
        }
    }
    for (size_t i = 0; i < UNIT_COUNT(normals); i++) {
        if (!normals[i].normal
            && judge("::1", "GET", normals[i].path) != UE_ACCESS_PATH) {
            fail_msg("%s is let in", normals[i].path);
        }
    }
}

/* The root lets in what has a path that all servers agree on, and no more. */
static void test_access_path_of_all(void **state)
{
    ue_access_lists_t lists = {.paths = LIST("/")};

    compile(&lists, 1);
    assert_int_equal(judge("::1", "GET", "/any/thing"), UE_ACCESS_GRANTED);
    assert_int_equal(judge("::1", "GET", "/a/../b"), UE_ACCESS_GRANTED);
    assert_int_equal(judge("::1", "OPTIONS", "*"), UE_ACCESS_PATH);
    assert_int_equal(judge("::1", "GET", "/a%2fb"), UE_ACCESS_PATH);
}

static void test_access_path_of_any_length(void **state)
{
    static char path[3 * UE_PATH_MAX];
    ue_access_lists_t lists = {.paths = LIST("/v1/")};

    compile(&lists, 1);
    for (size_t len = UE_PATH_MAX - 3; len <= UE_PATH_MAX + 3; len++) {
        memset(path, 'a', sizeof(path));
        path[len] = '\0';
        memcpy(path, "/v1/", 4);
        /* read by all alike as it stands */
        assert_int_equal(judge("::1", "GET", path), UE_ACCESS_GRANTED);
        memcpy(path, "/./v1/", 6);
        assert_int_equal(judge("::1", "GET", path), len <= UE_PATH_MAX
                                                        ? UE_ACCESS_GRANTED
                                                        : UE_ACCESS_PATH);
        memset(path, '/', len);
        memcpy(path, "/v1/", 4);
        assert_int_equal(judge("::1", "GET", path), len <= UE_PATH_MAX
                                                        ? UE_ACCESS_GRANTED
                                                        : UE_ACCESS_PATH);
    }
}

static void test_access_refuses_what_is_no_path(void **state)
{
    static const char *const bad[] = {
        "",          "v1/",     "*",        "//",           "/v1//",
        "/v1/../",   "/v1/.",   "/v1/%2e/", "/v1/%41",      "/v1/a%2f",
        "/v1/?x=1",  "/v1/#x",  "/v1/a b",  "http://h/v1/", "/v1/\xff",
        "/v1/..;/x", "/v1/\\x", "/v1/%zz"};
    char *longest = apr_palloc(pool, UE_ENDPOINT_MAX + 2);
    const char *why;

    for (size_t i = 0; i < UNIT_COUNT(bad); i++) {
        ue_access_lists_t lists = {.paths = LIST("/v1/", bad[i])};
        const char *alone = ue_access_check("paths", bad[i], pool);

        if (!alone || !strstr(alone, "is no path such as /v1/charge")) {
            fail_msg("%s: %s", bad[i], alone ? alone : "taken");
        }
        assert_int_equal(
            ue_access_compile(&lists, 1, block, &block_len, &why, pool),
            APR_EINVAL);
        assert_string_equal(why, apr_pstrcat(pool, "paths: ", alone, NULL));
    }
    memset(longest, 'a', UE_ENDPOINT_MAX + 1);
    longest[0] = '/';
    longest[UE_ENDPOINT_MAX + 1] = '\0';
    why = ue_access_check("paths", longest, pool);
    assert_non_null(why);
    assert_non_null(strstr(why, "longer than 2048 bytes"));
    assert_true(strlen(why) < 200);
    longest[UE_ENDPOINT_MAX] = '\0';
    assert_null(ue_access_check("paths", longest, pool));
}

/* Random paths out of what is nasty: if one is let in below /v1/, every server
 * reads it as being there. */
static void test_access_no_reading_leaves_its_prefix(void **state)
{
    static const char *const parts[] = {"/",
                                        "/",
                                        "/",
                                        "..",
                                        ".",
                                        "v1",
                                        "/v1/",
                                        "admin",
                                        "%2e",
                                        "%2E%2e",
                                        "%2f",
                                        "%5c",
                                        "\\",
                                        ";",
                                        "%3b",
                                        "%25",
                                        "%252e",
                                        "%",
                                        "2",
                                        "e",
                                        "a",
                                        "%76",
                                        "%31",
                                        "%00",
                                        "..;",
                                        "//",
                                        " ",
                                        "%20",
                                        "\xc0\xae",
                                        "%c0%af",
                                        "\xef\xbc\x8e",
                                        "%u002e",
                                        "\xe2\x80\xa5",
                                        "\xc3\xbc",
                                        "%c3%bc",
                                        "%ff",
                                        "x=1",
                                        "~"};
    ue_access_lists_t lists = {.paths = LIST("/v1/")};
    uint64_t seed = 6;
    unsigned granted = 0;

    compile(&lists, 1);
    for (unsigned n = unit_loops(300000); n > 0; n--) {
        char path[READER_PATH_MAX + 1] = "/";
        size_t count = unit_random(&seed) % 9;

        if (unit_random(&seed) % 2) {
            strcpy(path, "/v1/");
        }
        for (size_t i = 0; i < count; i++) {
            strcat(path, parts[unit_random(&seed) % UNIT_COUNT(parts)]);
        }
        if (judge("::1", "GET", path) != UE_ACCESS_GRANTED) {
            continue;
        }
        granted++;
        for (int i = 0; i < READERS; i++) {
            char out[READER_PATH_MAX + 2];
            reader_t r = reader_number(i);

            /* Who decodes nothing knows the prefix by what is written. */
            reader_read(&r, path, strlen(path), out);
            if (strncmp(out, "/v1/", 4) != 0
                && (r.decodes || !strchr(path, '%'))) {
                fail_msg("%s is read as %s by %d", path, out, i);
            }
        }
    }
    assert_true(granted > unit_loops(300000) / 200);
}

/* ---- all together ---- */

static void test_access_nothing_restricts_nothing(void **state)
{
    static const char *const empty[] = {NULL};
    ue_access_lists_t lists[3] = {
        {NULL, NULL, NULL}, {empty, empty, empty}, {NULL, empty, NULL}};

    block_len = 77;
    compile(lists, 3);
    assert_int_equal(block_len, 0);
    assert_int_equal(judge(NULL, "X", "*"), UE_ACCESS_GRANTED);
    assert_int_equal(ue_access_judge(NULL, 0, &(ue_asked_t){NULL, "X", "*", 1}),
                     UE_ACCESS_GRANTED);
    compile(NULL, 0);
    assert_int_equal(block_len, 0);
}

/* Plan, organization and key must each let it in, and what is told first is the
 * address. */
static void test_access_all_must_let_in(void **state)
{
    ue_access_lists_t lists[3] = {
        {.networks = LIST("10.0.0.0/8"), .methods = LIST("GET", "POST")},
        {.paths = LIST("/v1/", "/v2/")},
        {LIST("10.1.0.0/16", "192.0.2.0/24"), LIST("/v2/", "/v3/"),
         LIST("GET", "PUT")}};

    compile(lists, 3);
    assert_int_equal(judge("10.1.2.3", "GET", "/v2/x"), UE_ACCESS_GRANTED);
    assert_int_equal(judge("10.2.2.3", "GET", "/v2/x"), UE_ACCESS_NETWORK);
    assert_int_equal(judge("192.0.2.3", "GET", "/v2/x"), UE_ACCESS_NETWORK);
    assert_int_equal(judge("10.1.2.3", "GET", "/v1/x"), UE_ACCESS_PATH);
    assert_int_equal(judge("10.1.2.3", "GET", "/v3/x"), UE_ACCESS_PATH);
    assert_int_equal(judge("10.1.2.3", "POST", "/v2/x"), UE_ACCESS_METHOD);
    assert_int_equal(judge("10.1.2.3", "PUT", "/v2/x"), UE_ACCESS_METHOD);
    assert_int_equal(judge("10.2.2.3", "PUT", "/v1/x"), UE_ACCESS_NETWORK);
    assert_int_equal(judge("10.1.2.3", "PUT", "/v1/x"), UE_ACCESS_PATH);
}

/* Just as many as there is room for, of each kind, and one more. */
static void test_access_has_a_bound(void **state)
{
    static const struct {
        size_t offset;
        const char *format;
        size_t bytes;
    } cases[] = {
        {offsetof(ue_access_lists_t, networks), "10.%u.%u.0/24", 6},
        {offsetof(ue_access_lists_t, networks), "2001:%x:%x::/64", 18},
        {offsetof(ue_access_lists_t, paths), "/%03u/%03u/", 11},
        {offsetof(ue_access_lists_t, methods), "M%03u.%03u", 9},
    };
    const char *entries[UE_ACCESS_MAX];

    for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
        size_t most = (UE_ACCESS_MAX - 5) / cases[i].bytes;
        ue_access_lists_t lists = {NULL, NULL, NULL};
        uint8_t *to = malloc(UE_ACCESS_MAX);
        const char *why = NULL;
        size_t len;

        assert_non_null(to);
        *(const char *const **)((char *)&lists + cases[i].offset) = entries;
        for (unsigned n = 0; n <= most; n++) {
            entries[n] = apr_psprintf(pool, cases[i].format, n / 250, n % 250);
        }
        entries[most + 1] = NULL;
        assert_int_equal(ue_access_compile(&lists, 1, to, &len, &why, pool),
                         APR_ENOSPC);
        assert_int_equal(len, 0);
        assert_non_null(strstr(why, "more than 4096 bytes"));
        entries[most] = NULL;
        assert_int_equal(ue_access_compile(&lists, 1, to, &len, &why, pool),
                         APR_SUCCESS);
        assert_int_equal(len, 5 + most * cases[i].bytes);
        free(to);
    }
}

/* ---- against a judge that knows no blocks ---- */

static const char *const some_networks[] = {
    "10.0.0.0/8",  "10.128.0.0/9",  "10.1.0.0/16", "10.1.2.3",
    "0.0.0.0/0",   "2001:db8::/32", "::/0",        "2001:db8::1",
    "10.1.2.2/31", "128.0.0.0/1"};
static const char *const some_clients[] = {
    "10.1.2.3", "10.200.0.1",  "::ffff:10.1.2.3", "192.0.2.1",
    "::1",      "2001:db8::1", "2001:db8::2",     "10.1.2.4"};
static const char *const some_paths[] = {"/",    "/v1/",   "/v1/a",
                                         "/v2/", "/v1/a/", "/x"};
static const char *const some_asked[] = {"/",      "/v1/a", "/v1/a/b", "/v1",
                                         "/v2/x/", "/x",    "/x/",     "/v1/"};
static const char *const some_methods[] = {"GET", "HEAD", "POST", "PUT",
                                           "PATCH"};

static int naive_network(const char *network, const char *client)
{
    unsigned char n[16], c[16];
    char text[64], *slash;
    int six, bits;

    if (strncmp(client, "::ffff:", 7) == 0) {
        client += 7;
    }
    six = strchr(client, ':') != NULL;
    strcpy(text, network);
    slash = strchr(text, '/');
    bits = slash ? atoi(slash + 1) : 128;
    if (slash) {
        *slash = '\0';
    }
    if (six != (strchr(text, ':') != NULL)) {
        return 0;
    }
    inet_pton(six ? AF_INET6 : AF_INET, text, n);
    inet_pton(six ? AF_INET6 : AF_INET, client, c);
    for (int i = 0; i < bits && i < (six ? 128 : 32); i++) {
        if (((n[i / 8] ^ c[i / 8]) >> (7 - i % 8)) & 1) {
            return 0;
        }
    }
    return 1;
}

static int naive_entry(int kind, const char *entry, const char *client,
                       const char *path, const char *method)
{
    size_t len = strlen(entry);

    if (kind == 0) {
        return naive_network(entry, client);
    }
    if (kind == 1) {
        return strcmp(entry, path) == 0
               || (entry[len - 1] == '/' && strncmp(entry, path, len) == 0);
    }
    return strcmp(entry, method) == 0
           || (strcmp(entry, "GET") == 0 && strcmp(method, "HEAD") == 0);
}

static int naive_list(int kind, const char *const *list, const char *client,
                      const char *path, const char *method)
{
    if (!list || !list[0]) {
        return 1;
    }
    for (; *list; list++) {
        if (naive_entry(kind, *list, client, path, method)) {
            return 1;
        }
    }
    return 0;
}

static ue_access_t naive(const ue_access_lists_t *lists, size_t count,
                         const char *client, const char *path,
                         const char *method)
{
    for (int kind = 0; kind < 3; kind++) {
        for (size_t i = 0; i < count; i++) {
            const char *const *list = kind == 0   ? lists[i].networks
                                      : kind == 1 ? lists[i].paths
                                                  : lists[i].methods;

            if (!naive_list(kind, list, client, path, method)) {
                return kind == 0   ? UE_ACCESS_NETWORK
                       : kind == 1 ? UE_ACCESS_PATH
                                   : UE_ACCESS_METHOD;
            }
        }
    }
    return UE_ACCESS_GRANTED;
}

/* NULL, or up to four of these, in a place of the caller's. */
static const char *const *draw(uint64_t *seed, const char *const *from_all,
                               size_t count, const char **to)
{
    size_t n = unit_random(seed) % 6;

    if (n == 5) {
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        to[i] = from_all[unit_random(seed) % count];
    }
    to[n] = NULL;
    return to;
}

#define DRAW(array, to) draw(&seed, (array), UNIT_COUNT(array), (to))
#define ONE(array) (array)[unit_random(&seed) % UNIT_COUNT(array)]

static void test_access_model(void **state)
{
    uint64_t seed = 66;
    unsigned seen[4] = {0};

    for (unsigned n = unit_loops(100000); n > 0; n--) {
        const char *room[9][5];
        ue_access_lists_t lists[3];
        size_t count = unit_random(&seed) % 4;
        const char *client = ONE(some_clients);
        const char *path = ONE(some_asked);
        const char *method = ONE(some_methods);
        ue_access_t want;

        for (size_t i = 0; i < count; i++) {
            lists[i].networks = DRAW(some_networks, room[3 * i]);
            lists[i].paths = DRAW(some_paths, room[3 * i + 1]);
            lists[i].methods = DRAW(some_methods, room[3 * i + 2]);
        }
        compile(lists, count);
        want = naive(lists, count, client, path, method);
        assert_int_equal(judge(client, method, path), want);
        seen[want]++;
    }
    for (size_t i = 0; i < UNIT_COUNT(seen); i++) {
        assert_true(seen[i] > unit_loops(100000) / 50);
    }
}

/* ---- damaged ---- */

static void test_access_part_of_a_block_lets_nobody_in(void **state)
{
    ue_access_lists_t lists[2] = {
        {LIST("10.0.0.0/8"), LIST("/"), LIST("GET")},
        {LIST("10.0.0.0/8", "::/0"), LIST("/v1/", "/"), LIST("GET", "PUT")}};
    ue_asked_t asked = {client_of("10.0.0.1"), "GET", "/v1/x", 5};
    uint8_t longer[UE_ACCESS_MAX + 1];

    compile(lists, 2);
    assert_int_equal(judge_bytes(block, block_len, &asked), UE_ACCESS_GRANTED);
    for (size_t len = 1; len < block_len; len++) {
        assert_int_not_equal(judge_bytes(block, len, &asked),
                             UE_ACCESS_GRANTED);
    }
    memcpy(longer, block, block_len);
    longer[block_len] = 0;
    assert_int_not_equal(judge_bytes(longer, block_len + 1, &asked),
                         UE_ACCESS_GRANTED);
}

/* Under AddressSanitizer or valgrind this shows what is read beside. */
static void test_access_flipped_bytes_are_never_read_beyond(void **state)
{
    ue_access_lists_t lists = {LIST("10.0.0.0/8", "2001:db8::/32"),
                               LIST("/v1/", "/v2"), LIST("GET", "PUT")};
    ue_asked_t asked = {client_of("10.0.0.1"), "GET", "/v1/x", 5};
    uint64_t seed = 4;

    compile(&lists, 1);
    for (size_t at = 0; at < block_len; at++) {
        uint8_t was = block[at];

        for (int value = 0; value < 256; value++) {
            block[at] = (uint8_t)value;
            judge_bytes(block, block_len, &asked);
        }
        block[at] = was;
    }
    for (unsigned n = unit_loops(20000); n > 0; n--) {
        uint8_t noise[64];
        size_t len = 3 + unit_random(&seed) % 61;

        for (size_t i = 0; i < len; i++) {
            noise[i] = (uint8_t)(unit_random(&seed) % 8);
        }
        noise[0] = 0;
        noise[1] = (uint8_t)len;
        judge_bytes(noise, len, &asked);
    }
}

static int begin(void **state)
{
    return apr_pool_create(&pool, NULL) != APR_SUCCESS;
}

static int end(void **state)
{
    apr_pool_destroy(pool);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

static const struct CMUnitTest tests[] = {
    TEST(test_access_networks),
    TEST(test_access_whole_families),
    TEST(test_access_refuses_what_is_no_network),
    TEST(test_access_methods),
    TEST(test_access_refuses_what_is_no_method),
    TEST(test_access_path_is_normalized),
    TEST(test_access_paths),
    TEST(test_access_path_of_all),
    TEST(test_access_path_of_any_length),
    TEST(test_access_refuses_what_is_no_path),
    TEST(test_access_no_reading_leaves_its_prefix),
    TEST(test_access_nothing_restricts_nothing),
    TEST(test_access_all_must_let_in),
    TEST(test_access_has_a_bound),
    TEST(test_access_model),
    TEST(test_access_part_of_a_block_lets_nobody_in),
    TEST(test_access_flipped_bytes_are_never_read_beyond),
};

UNIT_MAIN(tests)
