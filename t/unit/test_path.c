/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * Exemptions: no path is exempt that some server on the way could read as
 * another. Tables say what is plain and what is not; then random paths are
 * read as servers have read them (readers.h), and none that is exempt may
 * leave its prefix in any reading.
 */
#include "unit.h"

#include "endpoint.h"
#include "readers.h"

static const char *const plain[] = {
    "/",
    "/docs",
    "/docs/",
    "/docs/index.html",
    "/docs/v1.2/",
    "/.well-known/acme-challenge/x",
    "/docs/..a/b",
    "/docs/...a",
    "/docs/.hidden",
    "/docs/a..b/c..",
    "/docs/a./b",
    "/docs/~user/_x-y",
    "/docs/a;v=1/b", /* a parameter of a name moves nothing */
    "/docs/a:b@c!d$e&f'g(h)i*j+k,l=m",
    "/docs/my%20file",
    "/docs/100%C2%B0",
    "/docs/%C3%BCber",
    "/docs/%c3%bcber",
    "/docs/\xc3\xbc"
    "ber",
    "/docs/%E2%82%AC",
    "/docs/%F0%9F%98%80",
    "/docs/a%3Ab%40c",
    "/docs/what%3F",
    "/docs/a%7Cb",
};

static const char *const not_plain[] = {
    "",
    "*",
    "docs",
    "host:443",
    /* empty and dot segments */
    "//",
    "//docs",
    "/docs//v1",
    "/docs//",
    "/.",
    "/..",
    "/./",
    "/../",
    "/docs/.",
    "/docs/..",
    "/docs/./v1",
    "/docs/../v1",
    "/docs/...",
    "/docs/..../v1",
    /* escapes of what needs none */
    "/docs/%2e%2e/v1",
    "/docs/%2E%2E/v1",
    "/docs/.%2e/v1",
    "/docs/%2e./v1",
    "/docs/%61",
    "/docs/%7e",
    "/docs/%2d",
    "/docs/%5f",
    "/docs/%30",
    "/docs/%5A",
    /* slashes and what is taken for one */
    "/docs/%2f",
    "/docs/..%2fv1",
    "/docs/a%2Fb",
    "/docs/a\\b",
    "/docs/..\\v1",
    "/docs/%5c",
    "/docs/..%5cv1",
    "/docs/a%5Cb",
    /* escapes twice */
    "/docs/%252e%252e/v1",
    "/docs/a%25b",
    "/docs/%25",
    /* parameters behind dots, or without a name */
    "/docs/..;/v1",
    "/docs/..;x=y/v1",
    "/docs/.;/v1",
    "/docs/..%3b/v1",
    "/docs/..%3B/v1",
    "/docs/;/v1",
    "/docs/;..",
    "/docs/%3bx/v1",
    /* dots and spaces that Windows drops, and other company for dots */
    "/docs/..%20/v1",
    "/docs/.. /v1",
    "/docs/..%00/v1",
    "/docs/..,/v1",
    "/docs/..:/v1",
    "/docs/..*/v1",
    /* controls, raw and escaped */
    "/docs/%00",
    "/docs/%0a",
    "/docs/%0D%0A",
    "/docs/%1f",
    "/docs/%7f",
    "/docs/a\tb",
    "/docs/a b",
    "/docs/a\x7f",
    "/docs/a\x01",
    "/docs/%C2%85",
    /* what ends a path elsewhere */
    "/docs/a?b",
    "/docs/a#b",
    "/docs/a#/../../v1",
    /* escapes that are none */
    "/docs/%",
    "/docs/%2",
    "/docs/%zz",
    "/docs/%2g",
    "/docs/%u002e%u002e/v1",
    "/docs/a%",
    /* no UTF-8, and too long a form of dot, slash and backslash */
    "/docs/%c0%ae%c0%ae/v1",
    "/docs/..%c0%af"
    "v1",
    "/docs/%e0%80%af",
    "/docs/%f0%80%80%af",
    "/docs/..%c1%9c"
    "v1",
    "/docs/\xc0\xaf",
    "/docs/%ff",
    "/docs/\xff",
    "/docs/%e2%82",
    "/docs/%e2%82/x",
    "/docs/%C3",
    "/docs/%C3%2f",
    "/docs/%C3%",
    "/docs/%ed%a0%80",
    "/docs/%f4%90%80%80",
    "/docs/caf%E9",
    /* what Unicode's compatibility forms or a best fit turn into them */
    "/docs/%EF%BC%8E%EF%BC%8E/v1",
    "/docs/..%EF%BC%8Fv1",
    "/docs/a%EF%BC%8F..%EF%BC%8Fv1",
    "/docs/\xef\xbc\x8e\xef\xbc\x8e/v1",
    "/docs/%E2%80%A5/v1",
    "/docs/%E2%80%A4%E2%80%A4/v1",
    "/docs/a%EF%BC%BC..%EF%BC%BCv1",
    "/docs/%EF%BC%852e%EF%BC%852e/v1",
    "/docs/a%E2%88%95..%E2%88%95v1",
    "/docs/a%C2%A5..%C2%A5v1",
    /* characters without width between dots */
    "/docs/.%E2%80%8B./v1",
    "/docs/%E2%80%8B../v1",
    "/docs/%EF%BB%BF../v1",
};

static void test_path_is_plain(void **state)
{
    for (size_t i = 0; i < UNIT_COUNT(plain); i++) {
        if (!ue_path_is_plain(plain[i], strlen(plain[i]))) {
            fail_msg("not plain: %s", plain[i]);
        }
    }
}

static void test_path_is_not_plain(void **state)
{
    for (size_t i = 0; i < UNIT_COUNT(not_plain); i++) {
        size_t len = strlen(not_plain[i]);
        char *exact = malloc(len ? len : 1);

        assert_non_null(exact);
        memcpy(exact, not_plain[i], len);
        if (ue_path_is_plain(exact, len)) {
            fail_msg("plain: %s", not_plain[i]);
        }
        free(exact);
    }
}

static void test_path_with_nul_is_not_plain(void **state)
{
    assert_false(ue_path_is_plain("/docs/\0a", 8));
    assert_false(ue_path_is_plain("\0", 1));
}

/* All 256 escapes, alone in a name: plain are only those that mean the same
 * to everybody. */
static void test_path_escape_is_plain_if_all_read_it_alike(void **state)
{
    for (unsigned c = 0; c < 256; c++) {
        char upper[16];
        char lower[16];
        /* reserved and other printable ASCII, but slash, backslash, percent,
         * and the semicolon that begins a name */
        int want = c >= 0x20 && c < 0x7f && !strchr("/\\%;-._~", (int)c)
                   && !(c >= '0' && c <= '9') && !(c >= 'A' && c <= 'Z')
                   && !(c >= 'a' && c <= 'z');

        snprintf(upper, sizeof(upper), "/%%%02X", c);
        snprintf(lower, sizeof(lower), "/%%%02x", c);
        assert_int_equal(ue_path_is_plain(upper, 4), want);
        assert_int_equal(ue_path_is_plain(lower, 4), want);
    }
}

/* ---- exemptions ---- */

static const char *const exempt[] = {"/health", "/docs/", "/"};

static int is_exempt(const char *path, size_t count)
{
    return ue_path_is_exempt(path, strlen(path), exempt, count);
}

static void test_path_exempts_the_same_path_or_one_below(void **state)
{
    assert_true(is_exempt("/health", 2));
    assert_true(is_exempt("/docs/", 2));
    assert_true(is_exempt("/docs/a/b", 2));
    assert_false(is_exempt("/docs", 2));
    assert_false(is_exempt("/docs2/", 2));
    assert_false(is_exempt("/health/", 2));
    assert_false(is_exempt("/healthy", 2));
    assert_false(is_exempt("/health;x", 2));
    assert_false(is_exempt("/Health", 2));
    assert_false(is_exempt("/DOCS/", 2));
    assert_false(is_exempt("/", 2));
    assert_false(is_exempt("", 2));
    assert_false(is_exempt("/v1/docs/", 2));
    assert_false(is_exempt("/docs/a", 0));
    /* the root exempts all that is plain */
    assert_true(is_exempt("/v1", 3));
    assert_false(is_exempt("/v1/..", 3));
}

static void test_path_exempts_no_path_that_is_not_plain(void **state)
{
    unsigned below = 0;

    for (size_t i = 0; i < UNIT_COUNT(not_plain); i++) {
        below += strncmp(not_plain[i], "/docs/", 6) == 0;
        assert_false(is_exempt(not_plain[i], UNIT_COUNT(exempt)));
    }
    assert_true(below > 70);
}

static void test_path_reads_no_more_of_a_path_than_its_length(void **state)
{
    char *path = malloc(5);

    assert_non_null(path);
    memcpy(path, "/docs", 5);
    assert_false(ue_path_is_exempt(path, 5, exempt, 2));
    free(path);
}

/* The models of readers.h do what they are there for: each trap that is known
 * opens the door in one of them. */
static void test_path_readers_know_the_traps(void **state)
{
    static const char *const traps[] = {
        "/docs/../v1",
        "/docs/%2e%2e/v1",
        "/docs/..%2fv1",
        "/docs/..\\v1",
        "/docs/..%5cv1",
        "/docs/%252e%252e/v1",
        "/docs/..;/v1",
        "/docs/..;x=y/v1",
        "/docs/..%3b/v1",
        "/docs/..%20/v1",
        "/docs/..%00/v1",
        "/docs/%u002e%u002e/v1",
        "/docs/%c0%ae%c0%ae/v1",
        "/docs/..%c0%af"
        "v1",
        "/docs/%EF%BC%8E%EF%BC%8E/v1",
        "/docs/%E2%80%A5/v1",
        "/docs/.%E2%80%8B./v1",
        "/docs/%EF%BC%852e%EF%BC%852e/v1",
        "/docs/.../v1",
    };

    for (size_t i = 0; i < UNIT_COUNT(traps); i++) {
        int left = 0;

        for (int n = 0; n < READERS; n++) {
            char out[READER_PATH_MAX + 2];
            reader_t r = reader_number(n);

            reader_read(&r, traps[i], strlen(traps[i]), out);
            left += strncmp(out, "/docs/", 6) != 0;
        }
        if (!left) {
            fail_msg("no reader climbs on %s", traps[i]);
        }
    }
}

static void test_path_exempt_path_stays_below_for_every_reader(void **state)
{
    static const char *const pieces[] = {
        "/",         "/",         ".",         "..",           "...",
        "a",         "v1",        "%2e",       "%2E",          "%2f",
        "%5c",       "\\",        ";",         "%3b",          "%3B",
        "%25",       "%",         "2e",        "%20",          " ",
        "%00",       "%c0%ae",    "%c0%af",    "%C3%A9",       "\xc3\xa9",
        "%u002e",    "%e2%80%a5", "%EF%BC%8F", "\xef\xbc\x8f", "%E2%80%8B",
        "%ef%bc%85", "x=y",       ",",         "%23",          "%3f",
        "%C2%A5",    "~",         "-",         "%C3",          ":"};
    uint64_t seed = 4;
    unsigned exempted = 0;

    for (unsigned n = unit_loops(40000); n > 0; n--) {
        char path[256] = "/docs/";

        for (int k = (int)(unit_random(&seed) % 7); k >= 0; k--) {
            strcat(path, pieces[unit_random(&seed) % UNIT_COUNT(pieces)]);
        }
        if (!is_exempt(path, 2)) {
            continue;
        }
        exempted++;
        for (int i = 0; i < READERS; i++) {
            char out[READER_PATH_MAX + 2];
            reader_t r = reader_number(i);

            reader_read(&r, path, strlen(path), out);
            if (strncmp(out, "/docs/", 6) != 0) {
                fail_msg("%s is exempt, and reader %d goes to %s", path, i,
                         out);
            }
        }
    }
    assert_true(exempted > unit_loops(40000) / 50);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_path_is_plain),
    cmocka_unit_test(test_path_is_not_plain),
    cmocka_unit_test(test_path_with_nul_is_not_plain),
    cmocka_unit_test(test_path_escape_is_plain_if_all_read_it_alike),
    cmocka_unit_test(test_path_exempts_the_same_path_or_one_below),
    cmocka_unit_test(test_path_exempts_no_path_that_is_not_plain),
    cmocka_unit_test(test_path_reads_no_more_of_a_path_than_its_length),
    cmocka_unit_test(test_path_readers_know_the_traps),
    cmocka_unit_test(test_path_exempt_path_stays_below_for_every_reader),
};

UNIT_MAIN(tests)
