/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * Any request target: its path is the one that httpd serves, becomes UTF-8 of a
 * bounded length, and is exempt only if no server reads it as another
 * (t/unit/readers.h).
 */
#include "fuzz.h"

#include <apr_general.h>
#include <apr_pools.h>
#include <apr_uri.h>

#include "../unit/readers.h"
#include "endpoint.h"

static apr_pool_t *pool;

int LLVMFuzzerInitialize(int *argc, char ***argv);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    CHECK(apr_initialize() == APR_SUCCESS);
    CHECK(apr_pool_create(&pool, NULL) == APR_SUCCESS);
    return 0;
}

/* What httpd serves, as apr_uri_parse() has it. */
static void check_path(const char *target, const char *path, size_t len)
{
    size_t fragment = strcspn(target, "#");
    apr_uri_t uri;

    CHECK(len > 0);
    CHECK((path >= target && path + len <= target + strlen(target))
          || (len == 1 && *path == '/'));
    CHECK(!memchr(path, '?', len));
    apr_pool_clear(pool);
    /* httpd refuses fragments; and it takes leading slashes away, where we keep
     * the path as it came, which then is never exempt. */
    if (target[fragment] || (target[0] == '/' && target[1] == '/')
        || apr_uri_parse(pool, target, &uri) != APR_SUCCESS) {
        return;
    }
    if (!uri.path) {
        CHECK(len == 1 && *path == '/');
    }
    else if (*uri.path == '/') {
        CHECK(len == strlen(uri.path) && memcmp(path, uri.path, len) == 0);
    }
    else {
        CHECK(*path != '/');
    }
}

/* Made valid, and cut where it is too long: to whole characters, no shorter
 * than it must be. */
static void check_clean(const char *from, size_t len, size_t max)
{
    size_t room = 3 * len + 1;
    char *whole = malloc(room);
    char *once = malloc(max ? max : 1);
    char *twice = malloc(max ? max : 1);
    size_t all;
    size_t n;

    CHECK(whole && once && twice);
    all = ue_utf8_clean(whole, room, from, len);
    CHECK(fuzz_is_utf8(whole, all));
    if (fuzz_is_utf8(from, len)) {
        CHECK(all == len && memcmp(whole, from, len) == 0);
    }
    n = ue_utf8_clean(once, max, from, len);
    CHECK(n <= max);
    CHECK(fuzz_is_utf8(once, n));
    if (all <= max) {
        CHECK(n == all && memcmp(once, whole, n) == 0);
    }
    else if (max >= 3) {
        CHECK(n >= 3 && n + 3 >= max);
        CHECK(memcmp(once + n - 3, "\xe2\x80\xa6", 3) == 0);
        CHECK(memcmp(once, whole, n - 3) == 0);
    }
    CHECK(ue_utf8_clean(twice, max, once, n) == n);
    CHECK(memcmp(once, twice, n) == 0);
    free(whole);
    free(once);
    free(twice);
}

/* Decoded as often as anybody might, a plain path holds no step upwards, and
 * nothing that ends a name or a string. */
static void check_plain(const char *path, size_t len)
{
    char *s = malloc(len + 1);
    reader_t plainly = {0};

    CHECK(s);
    CHECK(len > 0 && path[0] == '/');
    CHECK(!memchr(path, '\0', len));
    memcpy(s, path, len);
    s[len] = '\0';
    for (int decodes = 0; decodes < 4; decodes++) {
        for (const char *p = s; *p; p++) {
            CHECK((unsigned char)*p >= 0x20 && *p != 0x7f && *p != '\\');
        }
        for (const char *p = s; *p;) {
            size_t n = strcspn(++p, "/");

            CHECK(n > 0 || p[n] == '\0');
            CHECK(n == 0 || n != strspn(p, "."));
            CHECK(n == 0 || strspn(p, ".") == 0 || p[strspn(p, ".")] != ';');
            p += n;
        }
        reader_decode(&plainly, s);
    }
    free(s);
}

static void check_exempt(const char *path, size_t len)
{
    static const char *const docs[] = {"/docs/"};
    int plain = ue_path_is_plain(path, len);
    int exempt = ue_path_is_exempt(path, len, docs, 1);

    CHECK(exempt == (plain && len >= 6 && memcmp(path, docs[0], 6) == 0));
    if (plain) {
        check_plain(path, len);
    }
    for (int i = 0; exempt && len <= READER_PATH_MAX && i < READERS; i++) {
        char out[READER_PATH_MAX + 2];
        reader_t r = reader_number(i);

        reader_read(&r, path, len, out);
        CHECK(strncmp(out, docs[0], 6) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *raw = fuzz_copy(data, size);
    char *target = fuzz_string(data, size);
    size_t len;
    const char *path = ue_endpoint_path(target, &len);

    check_path(target, path, len);
    check_exempt(path, len);
    check_exempt(raw, size);
    check_clean(path, len, UE_ENDPOINT_MAX);
    check_clean(raw, size, UE_ENDPOINT_MAX);
    check_clean(raw, size, UE_METHOD_MAX);
    check_clean(raw, size, size % 24);
    free(target);
    free(raw);
    return 0;
}
