/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * Any block, judged for any path: none is read beside, and one that is not
 * whole lets nobody in. Any path: its normal form is plain, is its own normal
 * form, and what it lets in below a prefix is below it for all servers
 * (t/unit/readers.h). Any entries: what is taken as one compiles, and a path or
 * method that is taken lets itself in.
 */
#include "fuzz.h"

#include <apr_general.h>
#include <apr_strings.h>

#include "../unit/readers.h"
#include "access.h"
#include "endpoint.h"

static apr_pool_t *pool;

int LLVMFuzzerInitialize(int *argc, char ***argv);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    CHECK(apr_initialize() == APR_SUCCESS);
    CHECK(apr_pool_create(&pool, NULL) == APR_SUCCESS);
    return 0;
}

static void check_normal(const char *path, size_t len)
{
    char *once = malloc(UE_PATH_MAX);
    char *twice = malloc(UE_PATH_MAX);
    size_t n;

    CHECK(once && twice);
    n = ue_path_normalize(once, path, len);
    CHECK(n <= len);
    if (n > 0) {
        CHECK(ue_path_is_plain(once, n));
        CHECK(ue_path_normalize(twice, once, n) == n);
        CHECK(memcmp(once, twice, n) == 0);
    }
    if (len <= UE_PATH_MAX && ue_path_is_plain(path, len)) {
        CHECK(n == len && memcmp(once, path, n) == 0);
    }
    free(once);
    free(twice);
}

static void check_readings(const char *path, size_t len)
{
    static const char *const v1[] = {"/v1/", NULL};
    const ue_access_lists_t lists = {.paths = v1};
    const ue_asked_t asked = {NULL, "GET", path, len};
    uint8_t block[UE_ACCESS_MAX];
    const char *why;
    size_t n;

    CHECK(ue_access_compile(&lists, 1, block, &n, &why, pool) == APR_SUCCESS);
    if (ue_access_judge(block, n, &asked) != UE_ACCESS_GRANTED) {
        return;
    }
    for (int i = 0; len <= READER_PATH_MAX && i < READERS; i++) {
        char out[READER_PATH_MAX + 2];
        reader_t r = reader_number(i);

        reader_read(&r, path, len, out);
        CHECK(strncmp(out, "/v1/", 4) == 0
              || (!r.decodes && memchr(path, '%', len)));
    }
}

static void check_block(const char *bytes, size_t size, const char *path)
{
    static apr_sockaddr_t client = {.family = APR_INET};
    const ue_asked_t asked = {&client, "GET", path, strlen(path)};
    const uint8_t *block = (const uint8_t *)bytes;
    int granted = ue_access_judge(block, size, &asked) == UE_ACCESS_GRANTED;

    if (size > 0 && granted) {
        CHECK(size > 2 && (size_t)(block[0] << 8 | block[1]) == size);
    }
}

static void check_entry(const char *kind, const char *entry)
{
    const char *list[] = {entry, NULL};
    ue_access_lists_t lists = {NULL, NULL, NULL};
    ue_asked_t asked = {NULL, entry, entry, strlen(entry)};
    const char *fault = ue_access_check(kind, entry, pool);
    uint8_t block[UE_ACCESS_MAX];
    const char *why = NULL;
    apr_status_t rv;
    size_t n;

    if (*kind == 'n') {
        lists.networks = list;
    }
    else if (*kind == 'p') {
        lists.paths = list;
    }
    else {
        lists.methods = list;
    }
    rv = ue_access_compile(&lists, 1, block, &n, &why, pool);
    CHECK((rv == APR_EINVAL) == (fault != NULL));
    CHECK((rv != APR_SUCCESS) == (why != NULL));
    if (rv == APR_SUCCESS) {
        ue_access_t result = ue_access_judge(block, n, &asked);

        CHECK(result == (*kind == 'n' ? UE_ACCESS_NETWORK : UE_ACCESS_GRANTED));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t split = fuzz_number(&data, &size, 1);
    char *raw, *text, *block;

    split = split < size ? split : size;
    block = fuzz_copy(data, split);
    raw = fuzz_copy(data + split, size - split);
    text = fuzz_string(data + split, size - split);
    apr_pool_clear(pool);
    check_block(block, split, text);
    check_normal(raw, size - split);
    check_normal(text, strlen(text));
    check_readings(text, strlen(text));
    check_entry("networks", text);
    check_entry("paths", text);
    check_entry("methods", text);
    free(block);
    free(raw);
    free(text);
    return 0;
}
