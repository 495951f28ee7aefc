/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * Endpoints: the path that is billed is the one httpd serves, comes out as the
 * UTF-8 that Python would make of it, and is cut at whole characters.
 */
#include "unit.h"

#include <apr_uri.h>

#include "endpoint.h"

/* ---- the path of a target ---- */

static const struct {
    const char *target;
    const char *path;
} targets[] = {
    {"/", "/"},
    {"/v1/charge", "/v1/charge"},
    {"/v1/charge?amount=1", "/v1/charge"},
    {"/v1/charge?", "/v1/charge"},
    {"/?/v1", "/"},
    {"/a?b?c", "/a"},
    {"/a%3Fb?c", "/a%3Fb"},
    {"/docs/../v1", "/docs/../v1"}, /* as it came */
    {"/docs/%2e%2e/v1", "/docs/%2e%2e/v1"},
    {"//host/x", "//host/x"},
    {"/http://host/x", "/http://host/x"},
    {"*", "*"},
    {"http://host/x", "/x"},
    {"http://host/x?y", "/x"},
    {"HTTP://HOST/x", "/x"},
    {"http://host", "/"},
    {"http://host/", "/"},
    {"http://host?x/y", "/"},
    {"http://host:8080/x", "/x"},
    {"http://user:pw@host/x", "/x"},
    {"http://[::1]:80/x", "/x"},
    {"http:///x", "/x"},
    {"http://", "/"},
    {"http:/x", "/x"},
    {"a+b.c-d://host/x", "/x"},
    {"host:443", "host:443"}, /* CONNECT */
    {"example.com", "example.com"},
    {"http:", "/"},
    {"http:?x", "/"},
    {"http://host#/x", "/"},
    {"", "/"},
    {"?x", "/"},
};

static void test_endpoint_is_the_path_as_it_came(void **state)
{
    for (size_t i = 0; i < UNIT_COUNT(targets); i++) {
        size_t len = 99;
        const char *path = ue_endpoint_path(targets[i].target, &len);

        assert_int_equal(len, strlen(targets[i].path));
        assert_memory_equal(path, targets[i].path, len);
    }
}

/* httpd takes a target apart with apr_uri_parse(). Where it finds a path that
 * begins with a slash, we must find the same one, or we would exempt one path
 * and let it serve another. */
static void test_endpoint_is_the_path_that_httpd_serves(void **state)
{
    static const char *const pieces[] = {"http", ":",  "/", "//", "a",   "host",
                                         "?",    "@",  "1", "..", "%2f", ";",
                                         "+",    "-.", "8", "[",  "]"};
    uint64_t seed = 2;
    unsigned same = 0;
    apr_pool_t *pool;

    assert_int_equal(apr_pool_create(&pool, NULL), APR_SUCCESS);
    for (unsigned n = unit_loops(200000); n > 0; n--) {
        char target[128] = "";
        apr_uri_t uri;
        const char *path;
        const char *want;
        size_t len;

        for (int k = (int)(unit_random(&seed) % 9); k >= 0; k--) {
            strcat(target, pieces[unit_random(&seed) % UNIT_COUNT(pieces)]);
        }
        apr_pool_clear(pool);
        /* ap_parse_uri() takes leading slashes away from "//", which we leave
         * as it came; such a path is never exempt. */
        if ((target[0] == '/' && target[1] == '/')
            || apr_uri_parse(pool, target, &uri) != APR_SUCCESS) {
            continue;
        }
        want = uri.path ? uri.path : "/";
        path = ue_endpoint_path(target, &len);
        if (*want != '/') {
            /* httpd answers 400; then it must not look like a path either. */
            assert_true(*path != '/');
            continue;
        }
        assert_int_equal(len, strlen(want));
        assert_memory_equal(path, want, len);
        same++;
    }
    assert_true(same > unit_loops(200000) / 10);
    apr_pool_destroy(pool);
}

/* ---- UTF-8 ---- */

/* Clean text in buffers of just the right size, so that a tool sees each byte
 * read or written beside them. */
static size_t clean(const char *from, size_t len, size_t max, char **out)
{
    char *exact = malloc(len ? len : 1);
    size_t n;

    *out = malloc(max ? max : 1);
    assert_non_null(exact);
    assert_non_null(*out);
    memcpy(exact, from, len);
    n = ue_utf8_clean(*out, max, exact, len);
    free(exact);
    return n;
}

static void check_clean(const char *from, size_t len, size_t max,
                        const char *want, size_t want_len)
{
    char *out;
    size_t n = clean(from, len, max, &out);

    assert_int_equal(n, want_len);
    assert_memory_equal(out, want, want_len);
    free(out);
}

#define R "\xef\xbf\xbd" /* U+FFFD */

static const struct {
    const char *from;
    const char *to;
} broken[] = {
    /* Unicode 15, tables 3-8 to 3-11 */
    {"\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", R R R R R R R R "A"},
    {"\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", R R R R R R R R "A"},
    {"\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", R R R R R "A" R R "B"},
    {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", R R R R "A"},
    /* table 3-8 of older editions, as section 3.9 tells it */
    {"\x61\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64",
     "a" R R R "b" R "c" R R "d"},
    /* the first and the last of each length */
    {"\xc2\x80\xdf\xbf", "\xc2\x80\xdf\xbf"},
    {"\xe0\xa0\x80\xef\xbf\xbf", "\xe0\xa0\x80\xef\xbf\xbf"},
    {"\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"},
    {"\xed\x9f\xbf\xee\x80\x80", "\xed\x9f\xbf\xee\x80\x80"},
    /* too long forms */
    {"\xc0\x80", R R},
    {"\xc1\xbf", R R},
    {"\xe0\x9f\xbf", R R R},
    {"\xf0\x8f\xbf\xbf", R R R R},
    {"\xf8\x88\x80\x80\x80", R R R R R},
    {"\xfc\x84\x80\x80\x80\x80", R R R R R R},
    /* surrogates, alone and in pairs */
    {"\xed\xa0\x80", R R R},
    {"\xed\xbf\xbf", R R R},
    {"\xed\xa0\xbd\xed\xb8\x80", R R R R R R},
    /* beyond U+10FFFF */
    {"\xf4\x90\x80\x80", R R R R},
    {"\xf5\x80\x80\x80", R R R R},
    {"\xfe\xff", R R},
    /* cut off at the end */
    {"\xc3", R},
    {"\xe2\x82", R},
    {"\xe2", R},
    {"\xf0\x9f\x98", R},
    {"\xf0\x9f", R},
    {"\xf0", R},
    {"a\xf0\x9f", "a" R},
    /* the next character ends a broken one */
    {"\xe2\x82x", R "x"},
    {"\xe2\xe2\x82\xac", R "\xe2\x82\xac"},
    {"\xf0\x9f\xc3\xa9", R "\xc3\xa9"},
    /* continuations alone, old encodings */
    {"\x80", R},
    {"caf\xe9", "caf" R},
    {"\xff\xfe/\x01", R R "/\x01"},
    /* what is valid stays, whatever it is */
    {"\x01\x1f\x7f", "\x01\x1f\x7f"},
    {"\xef\xbb\xbf"
     "a",
     "\xef\xbb\xbf"
     "a"},
    {R, R},
    {"", ""},
};

static void test_endpoint_replaces_each_maximal_part(void **state)
{
    for (size_t i = 0; i < UNIT_COUNT(broken); i++) {
        check_clean(broken[i].from, strlen(broken[i].from), UE_ENDPOINT_MAX,
                    broken[i].to, strlen(broken[i].to));
    }
}

/* The same at each distance from the steps of eight bytes. */
static void test_endpoint_replaces_at_any_offset(void **state)
{
    for (size_t i = 0; i < UNIT_COUNT(broken); i++) {
        for (size_t before = 0; before < 18; before++) {
            for (size_t behind = 0; behind < 18; behind++) {
                char from[128];
                char want[128];
                int n = snprintf(from, sizeof(from), "%.*s%s%.*s", (int)before,
                                 "/abcdefghijklmnop/", broken[i].from,
                                 (int)behind, "/abcdefghijklmnop/");
                int m = snprintf(want, sizeof(want), "%.*s%s%.*s", (int)before,
                                 "/abcdefghijklmnop/", broken[i].to,
                                 (int)behind, "/abcdefghijklmnop/");

                check_clean(from, (size_t)n, UE_ENDPOINT_MAX, want, (size_t)m);
            }
        }
    }
}

static void test_endpoint_keeps_nul_bytes(void **state)
{
    check_clean("a\0b\0", 4, 16, "a\0b\0", 4);
    check_clean("\xe2\0", 2, 16, R "\0", 4);
}

static const struct {
    const char *raw;
    unsigned max;
    const char *out;
} vectors[] = {
#include "utf8_vectors.h"
};

static size_t from_hex(const char *hex, char *to)
{
    size_t n = 0;

    for (; *hex; hex += 2) {
        unsigned byte;

        assert_int_equal(sscanf(hex, "%2x", &byte), 1);
        to[n++] = (char)byte;
    }
    return n;
}

static void test_endpoint_agrees_with_python(void **state)
{
    assert_int_equal(UNIT_COUNT(vectors), 2000);
    for (size_t i = 0; i < UNIT_COUNT(vectors); i++) {
        char raw[256];
        char out[256];
        size_t n = from_hex(vectors[i].raw, raw);
        size_t m = from_hex(vectors[i].out, out);

        check_clean(raw, n, vectors[i].max, out, m);
    }
}

static void test_endpoint_of_2048_bytes_stays_whole(void **state)
{
    char path[UE_ENDPOINT_MAX + 1];

    memset(path, 'a', sizeof(path));
    check_clean(path, UE_ENDPOINT_MAX, UE_ENDPOINT_MAX, path, UE_ENDPOINT_MAX);
    /* the last character has four bytes, and ends just there */
    memcpy(path + UE_ENDPOINT_MAX - 4, "\xf0\x9f\x98\x80", 4);
    check_clean(path, UE_ENDPOINT_MAX, UE_ENDPOINT_MAX, path, UE_ENDPOINT_MAX);
}

static void test_endpoint_of_2049_bytes_is_cut_to_2045_and_dots(void **state)
{
    char path[UE_ENDPOINT_MAX + 1];
    char want[UE_ENDPOINT_MAX];

    memset(path, 'a', sizeof(path));
    memset(want, 'a', sizeof(want));
    memcpy(want + UE_ENDPOINT_MAX - 3, "\xe2\x80\xa6", 3);
    check_clean(path, sizeof(path), UE_ENDPOINT_MAX, want, sizeof(want));
}

/* A character of each length lies over the cut at each of its bytes. */
static void test_endpoint_cuts_at_whole_characters(void **state)
{
    static const char *const chars[] = {"\xc3\xa9", "\xe2\x82\xac",
                                        "\xf0\x9f\x98\x80"};

    for (size_t c = 0; c < UNIT_COUNT(chars); c++) {
        size_t len = strlen(chars[c]);

        for (size_t begin = 13 - len + 1; begin < 13; begin++) {
            char path[64];
            char want[64];

            memset(path, 'a', sizeof(path));
            memcpy(path + begin, chars[c], len);
            memcpy(want, path, begin);
            memcpy(want + begin, "\xe2\x80\xa6", 3);
            check_clean(path, sizeof(path), 16, want, begin + 3);
        }
        /* one that ends at the cut stays */
        char path[64];
        char want[64];

        memset(path, 'a', sizeof(path));
        memcpy(path + 13 - len, chars[c], len);
        memcpy(want, path, 13);
        memcpy(want + 13, "\xe2\x80\xa6", 3);
        check_clean(path, sizeof(path), 16, want, 16);
    }
}

/* What counts is the length after replacement: 700 bytes become 2,100. */
static void test_endpoint_is_cut_by_its_length_after_replacement(void **state)
{
    char path[700];
    char want[UE_ENDPOINT_MAX];
    size_t n = 0;

    memset(path, '\xff', sizeof(path));
    while (n + 3 <= UE_ENDPOINT_MAX - 3) {
        memcpy(want + n, R, 3);
        n += 3;
    }
    memcpy(want + n, "\xe2\x80\xa6", 3);
    check_clean(path, sizeof(path), UE_ENDPOINT_MAX, want, n + 3);
}

static void test_endpoint_of_hostile_length_is_cut(void **state)
{
    static char path[100000];

    for (int byte = 0; byte < 256; byte += 5) {
        char *out;
        size_t n;

        memset(path, byte, sizeof(path));
        n = clean(path, sizeof(path), UE_ENDPOINT_MAX, &out);
        assert_in_range(n, UE_ENDPOINT_MAX - 6, UE_ENDPOINT_MAX);
        assert_memory_equal(out + n - 3, "\xe2\x80\xa6", 3);
        free(out);
    }
}

/* Nonsense asked of it writes nothing beside what it was given. */
static void test_endpoint_fits_into_any_room(void **state)
{
    for (size_t max = 0; max < 12; max++) {
        for (size_t len = 0; len < 14; len++) {
            char *out;
            size_t n = clean("ab\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80zz", len,
                             max, &out);

            assert_true(n <= max);
            free(out);
        }
    }
}

static void test_endpoint_cleaned_twice_is_the_same(void **state)
{
    uint64_t seed = 3;

    for (unsigned n = unit_loops(20000); n > 0; n--) {
        char raw[48];
        char *once;
        char *twice;
        size_t len = unit_random(&seed) % sizeof(raw);
        size_t max = 3 + unit_random(&seed) % 40;
        size_t a;
        size_t b;

        for (size_t i = 0; i < len; i++) {
            raw[i] = (char)(unit_random(&seed) >> (i % 3 ? 0 : 57));
        }
        a = clean(raw, len, max, &once);
        b = clean(once, a, max, &twice);
        assert_int_equal(a, b);
        assert_memory_equal(once, twice, a);
        free(once);
        free(twice);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_endpoint_is_the_path_as_it_came),
    cmocka_unit_test(test_endpoint_is_the_path_that_httpd_serves),
    cmocka_unit_test(test_endpoint_replaces_each_maximal_part),
    cmocka_unit_test(test_endpoint_replaces_at_any_offset),
    cmocka_unit_test(test_endpoint_keeps_nul_bytes),
    cmocka_unit_test(test_endpoint_agrees_with_python),
    cmocka_unit_test(test_endpoint_of_2048_bytes_stays_whole),
    cmocka_unit_test(test_endpoint_of_2049_bytes_is_cut_to_2045_and_dots),
    cmocka_unit_test(test_endpoint_cuts_at_whole_characters),
    cmocka_unit_test(test_endpoint_is_cut_by_its_length_after_replacement),
    cmocka_unit_test(test_endpoint_of_hostile_length_is_cut),
    cmocka_unit_test(test_endpoint_fits_into_any_room),
    cmocka_unit_test(test_endpoint_cleaned_twice_is_the_same),
};

UNIT_MAIN(tests)
