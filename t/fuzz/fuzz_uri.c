/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */

/* Request targets: the path that is billed, and the path that is exempt. */
#include "fuzz.h"

#include "endpoint.h"

static int hex(char c)
{
    c = (char)(c | 0x20);
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

/** Decode once, as a backend would. @return the length */
static size_t decode(char *s, size_t len)
{
    size_t in = 0, out = 0;

    while (in < len) {
        if (s[in] == '%' && in + 2 < len && hex(s[in + 1]) >= 0
            && hex(s[in + 2]) >= 0) {
            s[out++] = (char)(hex(s[in + 1]) << 4 | hex(s[in + 2]));
            in += 3;
        }
        else {
            s[out++] = s[in++];
        }
    }
    return out;
}

/** A plain path has no empty and no dot segment, however often it is decoded
 * and whatever a backend takes for a slash. */
static void check_plain(const char *path, size_t len)
{
    char *s = copy_text((const uint8_t *)path, len);
    int times;

    for (times = 0; times < 3; times++) {
        size_t i;

        MUST(!strstr(s, "//") && !strchr(s, '\\'));
        for (i = 0; s[i]; i++) {
            if (s[i] == '/' && s[i + 1] == '.') {
                size_t dots = strspn(s + i + 1, ".");

                MUST(s[i + 1 + dots] && !strchr("/;", s[i + 1 + dots]));
            }
        }
        len = decode(s, len);
        MUST(!memchr(s, '\0', len));
        s[len] = '\0';
    }
    free(s);
}

static void check_clean(const char *from, size_t len, size_t max)
{
    static char to[UE_ENDPOINT_MAX], again[UE_ENDPOINT_MAX];
    size_t n = ue_utf8_clean(to, max, from, len);

    MUST(n <= max);
    MUST(is_utf8(to, n));
    if (len <= max && is_utf8(from, len)) {
        MUST(n == len && !memcmp(to, from, n));
    }
    MUST(ue_utf8_clean(again, max, to, n) == n && !memcmp(to, again, n));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const exempt[] = {"/docs/", "/healthz"};
    char *target = copy_text(data, size);
    const char *path;
    size_t len;

    path = ue_endpoint_path(target, &len);
    MUST(len > 0 && !memchr(path, '?', len));
    MUST((path >= target && path + len <= target + size) || !strcmp(path, "/"));
    check_clean(path, len, UE_ENDPOINT_MAX);
    check_clean((const char *)data, size, UE_METHOD_MAX);
    if (ue_path_is_plain(path, len)) {
        check_plain(path, len);
    }
    if (ue_path_is_exempt(path, len, exempt, 2)) {
        MUST(ue_path_is_plain(path, len));
        MUST(!strncmp(path, "/docs/", 6)
             || (len == 8 && !strncmp(path, "/healthz", 8)));
    }
    free(target);
    return 0;
}
