/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "endpoint.h"

static int is_alpha(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static int is_alnum(unsigned char c)
{
    return is_alpha(c) || (c >= '0' && c <= '9');
}

/* RFC 3986 section 2.3 */
static int is_unreserved(unsigned char c)
{
    return is_alnum(c) || c == '-' || c == '.' || c == '_' || c == '~';
}

/*
 * What stands behind scheme and host of an absolute form; target itself if it
 * is none. What counts as a scheme is what apr_uri_parse() takes for one, so
 * that we read the same path as httpd does.
 */
static const char *behind_host(const char *target)
{
    const char *s = target;

    if (!is_alpha((unsigned char)*s)) {
        return target;
    }
    while (is_alnum((unsigned char)*s) || *s == '+' || *s == '-' || *s == '.') {
        s++;
    }
    if (*s++ != ':') {
        return target;
    }
    if (s[0] == '/' && s[1] == '/') {
        s += 2;
        return s + strcspn(s, "/?#");
    }
    /* httpd serves "http:/path" and "http:", too. What else looks like a scheme
     * is a host and its port. */
    return strchr("/?", *s) ? s : target;
}

const char *ue_endpoint_path(const char *target, size_t *len)
{
    const char *path = behind_host(target);

    *len = strcspn(path, "?");
    if (*len == 0 || (*path == '#' && path != target)) {
        *len = 1;
        return "/"; /* RFC 9110 section 4.2.3 */
    }
    return path;
}

/*
 * Bytes of the character that a lead byte begins, and what its second byte must
 * lie between (Unicode 15, table 3-7); 0 if none begins with it.
 */
static size_t utf8_shape(unsigned char lead, unsigned char *low,
                         unsigned char *high)
{
    *low = 0x80;
    *high = 0xbf;
    if (lead < 0xc2 || lead > 0xf4) {
        return lead < 0x80 ? 1 : 0;
    }
    if (lead < 0xe0) {
        return 2;
    }
    if (lead < 0xf0) {
        if (lead == 0xe0) {
            *low = 0xa0; /* below: too long a form */
        }
        else if (lead == 0xed) {
            *high = 0x9f; /* above: surrogates */
        }
        return 3;
    }
    if (lead == 0xf0) {
        *low = 0x90; /* below: too long a form */
    }
    else if (lead == 0xf4) {
        *high = 0x8f; /* above: beyond U+10FFFF */
    }
    return 4;
}

/*
 * Bytes of the character at s, or of the longest part of one.
 * @param whole receives whether it is a whole one
 */
static size_t utf8_next(const unsigned char *s, size_t len, int *whole)
{
    unsigned char low;
    unsigned char high;
    size_t want = utf8_shape(s[0], &low, &high);
    size_t have = 1;

    while (have < want && have < len && s[have] >= low && s[have] <= high) {
        have++;
        low = 0x80;
        high = 0xbf;
    }
    *whole = have == want;
    return have;
}

/* Shorten what was written to whole characters, and say so by U+2026. */
static size_t cut(char *to, size_t written, size_t max)
{
    size_t end;

    if (max < 3) {
        return 0;
    }
    end = max - 3;
    /* What was written is valid, so a character begins wherever a byte is no
     * continuation. written >= end, since no character has over 4 bytes. */
    while (end > 0 && end < written
           && ((unsigned char)to[end] & 0xc0) == 0x80) {
        end--;
    }
    memcpy(to + end, "\xe2\x80\xa6", 3);
    return end + 3;
}

#define HIGH_BITS UINT64_C(0x8080808080808080)

size_t ue_utf8_clean(char *to, size_t max, const char *from, size_t len)
{
    const unsigned char *s = (const unsigned char *)from;
    size_t in = 0;
    size_t out = 0;

    while (in < len) {
        const char *take;
        size_t part;
        size_t n;
        int whole;
        uint64_t eight;

        /* Nearly all paths are ASCII throughout. */
        while (len - in >= sizeof(eight) && max - out >= sizeof(eight)) {
            memcpy(&eight, from + in, sizeof(eight));
            if (eight & HIGH_BITS) {
                break;
            }
            memcpy(to + out, &eight, sizeof(eight));
            in += sizeof(eight);
            out += sizeof(eight);
        }
        if (in == len) {
            break;
        }
        if (s[in] < 0x80 && out < max) {
            to[out++] = from[in++];
            continue;
        }
        take = from + in;
        part = n = utf8_next(s + in, len - in, &whole);
        if (!whole) {
            take = "\xef\xbf\xbd";
            n = 3;
        }
        if (n > max - out) {
            return cut(to, out, max);
        }
        memcpy(to + out, take, n);
        out += n;
        in += part;
    }
    return out;
}

/* Where a byte of a path came from. */
typedef enum { BYTE_NONE, BYTE_RAW, BYTE_ESCAPED, BYTE_BROKEN } byte_t;

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static byte_t next_byte(const char **p, const char *end, unsigned char *byte)
{
    const char *s = *p;

    if (s == end) {
        return BYTE_NONE;
    }
    *byte = (unsigned char)*s;
    if (*s != '%') {
        *p = s + 1;
        return BYTE_RAW;
    }
    if (end - s < 3 || hex_value(s[1]) < 0 || hex_value(s[2]) < 0) {
        return BYTE_BROKEN; /* IIS reads %u002e as a dot */
    }
    *byte = (unsigned char)(hex_value(s[1]) << 4 | hex_value(s[2]));
    *p = s + 3;
    return BYTE_ESCAPED;
}

static int ascii_is_plain(unsigned char c, byte_t how)
{
    if (c < 0x20 || c == 0x7f || c == '/' || c == '\\' || c == '%') {
        /* A raw slash ends a segment and doesn't come here. */
        return 0;
    }
    if (how == BYTE_ESCAPED) {
        return !is_unreserved(c);
    }
    return c != ' ' && c != '?' && c != '#';
}

/*
 * Characters that some server turns into a dot, slash, backslash, percent sign
 * or semicolon (by Unicode's compatibility forms, or by Windows' best fit), or
 * drops altogether.
 */
static int is_lookalike(uint32_t c)
{
    static const struct {
        uint32_t first;
        uint32_t last;
    } ranges[] = {
        {0x0080, 0x009f}, /* controls */
        {0x00a5, 0x00a5}, /* yen sign: Shift_JIS' backslash */
        {0x00ad, 0x00ad}, /* soft hyphen */
        {0x037e, 0x037e}, /* Greek question mark */
        {0x200b, 0x200f}, /* without width, and marks of direction */
        {0x2024, 0x2026}, /* one, two, three dots */
        {0x202a, 0x202e}, /* direction */
        {0x2044, 0x2044}, /* fraction slash */
        {0x2060, 0x206f}, /* word joiner and the like */
        {0x20a9, 0x20a9}, /* won sign: KS C 5601's backslash */
        {0x2215, 0x2216}, /* division slash, set minus */
        {0x29f5, 0x29f9}, /* operators like slash and backslash */
        {0xfe19, 0xfe19}, /* vertical ellipsis */
        {0xfe30, 0xfe30}, /* vertical two dots */
        {0xfe50, 0xfe6f}, /* small forms */
        {0xfeff, 0xfeff}, /* byte order mark */
        {0xff00, 0xff5e}, /* full-width forms */
    };

    for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
        if (c >= ranges[i].first && c <= ranges[i].last) {
            return 1;
        }
    }
    return 0;
}

/* Does a plain character stand at *p? Step over it. */
static int char_is_plain(const char **p, const char *end)
{
    unsigned char s[4] = {0};
    byte_t how = next_byte(p, end, &s[0]);
    size_t want;
    unsigned char low;
    unsigned char high;
    uint32_t c;

    if (how == BYTE_BROKEN) {
        return 0;
    }
    if (s[0] < 0x80) {
        return ascii_is_plain(s[0], how);
    }
    /* Servers have read too long a form of a slash as a slash. */
    want = utf8_shape(s[0], &low, &high);
    if (want == 0) {
        return 0;
    }
    c = s[0] & (0x7fu >> want);
    for (size_t i = 1; i < want; i++) {
        how = next_byte(p, end, &s[i]);
        if ((how != BYTE_RAW && how != BYTE_ESCAPED) || s[i] < low
            || s[i] > high) {
            return 0;
        }
        low = 0x80;
        high = 0xbf;
        c = c << 6 | (s[i] & 0x3fu);
    }
    return !is_lookalike(c);
}

/*
 * Is this the beginning of a name, and not of an empty or a dot segment, with
 * or without a parameter? Tomcat reads "..;x" as "..", and mod_proxy sends it
 * that where "..%3bx" came; Windows drops dots and spaces at the end. So what
 * begins with dots must go on with a letter or the like.
 */
static int name_begins(const char *p, const char *end)
{
    const char *s = p;

    while (s < end && *s == '.') {
        s++;
    }
    if (s > p) {
        return s < end && is_unreserved((unsigned char)*s);
    }
    return *s != ';'
           && !(end - s >= 3 && s[0] == '%' && s[1] == '3'
                && (s[2] | 0x20) == 'b');
}

/* One segment that is not empty, without its slashes. */
static int segment_is_plain(const char *p, const char *end)
{
    if (!name_begins(p, end)) {
        return 0;
    }
    while (p < end) {
        if (!char_is_plain(&p, end)) {
            return 0;
        }
    }
    return 1;
}

int ue_path_is_plain(const char *path, size_t len)
{
    const char *p = path;
    const char *end = path + len;
    const char *next;

    if (len == 0 || *p != '/') {
        return 0;
    }
    while (p < end) {
        p++; /* the slash */
        if (p == end) {
            return 1;
        }
        next = memchr(p, '/', (size_t)(end - p));
        next = next ? next : end;
        if (p == next || !segment_is_plain(p, next)) {
            return 0;
        }
        p = next;
    }
    return 1;
}

/* Copy a segment, escapes of unreserved characters decoded. @return its bytes,
 * no more than it had, or -1 where an escape is not whole: decoding what is
 * beside it could make another one */
static ptrdiff_t copy_segment(char *to, const char *p, const char *end)
{
    char *start = to;

    while (p < end) {
        const char *from = p;
        unsigned char c = 0;
        byte_t how = next_byte(&p, end, &c);

        if (how == BYTE_BROKEN) {
            return -1;
        }
        if (how == BYTE_RAW || is_unreserved(c)) {
            *to++ = (char)c;
            continue;
        }
        memcpy(to, from, 3);
        to += 3;
    }
    return to - start;
}

/* What is normalized so far: it begins with a slash and ends with one. */
typedef struct {
    char *to;
    size_t len;
    int merged;  /* an empty segment was left out */
    int climbed; /* a ".." took one away */
} normal_t;

/* Take in the segment that was copied behind. @return whether it can be */
static int add_segment(normal_t *path, size_t n, int is_last)
{
    char *segment = path->to + path->len;

    if (n == 0) {
        path->merged |= !is_last;
        return 1;
    }
    if (segment[0] == '.' && n == 1) {
        return 1;
    }
    if (segment[0] == '.' && segment[1] == '.' && n == 2) {
        path->climbed = 1;
        if (path->len == 1) {
            return 0;
        }
        do {
            path->len--;
        } while (path->to[path->len - 1] != '/');
        return 1;
    }
    path->len += n;
    if (!is_last) {
        path->to[path->len++] = '/';
    }
    return segment_is_plain(segment, segment + n);
}

size_t ue_path_normalize(char *to, const char *path, size_t len)
{
    const char *end = path + len;
    const char *p = path + 1;
    normal_t normal = {to, 1, 0, 0};

    if (len == 0 || len > UE_PATH_MAX || *path != '/'
        || (len > 1 && *p == '/')) {
        return 0;
    }
    to[0] = '/';
    for (;;) {
        const char *slash = memchr(p, '/', (size_t)(end - p));
        const char *next = slash ? slash : end;
        ptrdiff_t n = copy_segment(to + normal.len, p, next);

        if (n < 0 || !add_segment(&normal, (size_t)n, !slash)) {
            return 0;
        }
        if (!slash) {
            break;
        }
        p = slash + 1;
    }
    return normal.merged && normal.climbed ? 0 : normal.len;
}

int ue_path_is_exempt(const char *path, size_t len, const char *const *exempt,
                      size_t count)
{
    for (size_t i = 0; i < count; i++) {
        size_t n = strlen(exempt[i]);

        if (n == 0 || n > len || memcmp(path, exempt[i], n) != 0) {
            continue;
        }
        if (n == len || exempt[i][n - 1] == '/') {
            return ue_path_is_plain(path, len);
        }
    }
    return 0;
}
