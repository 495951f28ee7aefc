/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_UNIT_READERS_H
#define UE_UNIT_READERS_H

/**
 * How servers read a path: a model of all the readings that have opened a door
 * somewhere. A path that is exempt must stay below its prefix in each of them.
 *
 * The model is on purpose another program than ue_path_is_plain(): it does not
 * look for what is suspicious, it carries out what a server would do.
 */
#include <stddef.h>
#include <string.h>

/** A server; the names say who does so. */
typedef struct {
    int decodes;    /**< 0 to 3 times: proxies in a row, frameworks */
    int parameters; /**< 1: cut ";…" before decoding (Tomcat), 2: after it */
    int backslash;  /**< is a slash, and dots and spaces at a name's end are
                         dropped (Windows) */
    int loose;      /**< reads %uXXXX (IIS), too long UTF-8 (old Tomcat),
                         compatibility forms (NFKC, best fit), drops characters
                         without width (HFS+) */
} reader_t;

#define READERS (4 * 3 * 2 * 2)
#define READER_PATH_MAX 1024

static inline reader_t reader_number(int n)
{
    reader_t r = {n % 4, n / 4 % 3, n / 12 % 2, n / 24 % 2};

    return r;
}

static inline int reader_hex(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static inline void reader_decode(const reader_t *r, char *s)
{
    char *to = s;

    while (*s) {
        if (*s == '%' && reader_hex(s[1]) >= 0 && reader_hex(s[2]) >= 0) {
            *to++ = (char)(reader_hex(s[1]) << 4 | reader_hex(s[2]));
            s += 3;
        }
        else if (r->loose && *s == '%' && (s[1] | 0x20) == 'u' && s[2] == '0'
                 && s[3] == '0' && reader_hex(s[4]) >= 0
                 && reader_hex(s[5]) >= 0) {
            *to++ = (char)(reader_hex(s[4]) << 4 | reader_hex(s[5]));
            s += 6;
        }
        else {
            *to++ = *s++;
        }
        if (to[-1] == '\0') {
            return; /* C strings end here */
        }
    }
    *to = '\0';
}

static inline void reader_loosen(char *s)
{
    static const struct {
        const char *from;
        const char *to;
    } map[] = {
        {"\xc0\xae", "."},      {"\xc0\xaf", "/"},      {"\xc1\x9c", "\\"},
        {"\xe0\x80\xae", "."},  {"\xe0\x80\xaf", "/"},  {"\xe2\x80\xa4", "."},
        {"\xe2\x80\xa5", ".."}, {"\xe2\x80\xa6", ".."}, {"\xef\xbc\x8e", "."},
        {"\xef\xbc\x8f", "/"},  {"\xef\xbc\xbc", "\\"}, {"\xef\xbc\x85", "%"},
        {"\xe2\x88\x95", "/"},  {"\xe2\x81\x84", "/"},  {"\xe2\x88\x96", "\\"},
        {"\xef\xb8\xb0", ".."}, {"\xef\xb9\x92", "."},  {"\xef\xb9\xa8", "\\"},
        {"\xcd\xbe", ";"},      {"\xc2\xa5", "\\"},     {"\xe2\x82\xa9", "\\"},
        {"\xe2\x80\x8b", ""},   {"\xe2\x80\x8d", ""},   {"\xef\xbb\xbf", ""},
        {"\xc2\xad", ""},
    };
    char *to = s;

    while (*s) {
        size_t i;

        for (i = 0; i < sizeof(map) / sizeof(map[0]); i++) {
            size_t n = strlen(map[i].from);

            if (strncmp(s, map[i].from, n) == 0) {
                memcpy(to, map[i].to, strlen(map[i].to));
                to += strlen(map[i].to);
                s += n;
                break;
            }
        }
        if (i == sizeof(map) / sizeof(map[0])) {
            *to++ = *s++;
        }
    }
    *to = '\0';
}

static inline void reader_cut_parameters(char *s)
{
    char *to = s;
    int in = 0;

    for (; *s; s++) {
        in = *s == '/' ? 0 : in || *s == ';';
        if (!in) {
            *to++ = *s;
        }
    }
    *to = '\0';
}

/* Does a name climb, stay, or go down? Windows drops dots and spaces. */
static inline int reader_step(const reader_t *r, const char *name, size_t *len)
{
    size_t dots = strspn(name, ".");
    size_t kept = *len;

    while (r->backslash && kept > 0
           && (name[kept - 1] == ' ' || name[kept - 1] == '.')) {
        kept--;
    }
    if (*len == 0 || (dots == 1 && (*len == 1 || kept == 0))) {
        return 0;
    }
    if (dots >= 2 && (*len == 2 || kept == 0)) {
        return -1;
    }
    *len = kept;
    return kept > 0;
}

/* Walk the names, and join what is left of them with one slash each. */
static inline void reader_normalize(const reader_t *r, char *path)
{
    char out[READER_PATH_MAX + 2];
    size_t n = 0;
    const char *s = path;

    for (;;) {
        size_t whole = strcspn(s, "/");
        size_t len = whole;
        int step = reader_step(r, s, &len);

        if (step > 0) {
            out[n++] = '/';
            memcpy(out + n, s, len);
            n += len;
        }
        else if (step < 0) {
            while (n > 0 && out[--n] != '/') {
            }
        }
        s += whole;
        if (*s == '\0') {
            if (step <= 0) {
                out[n++] = '/';
            }
            break;
        }
        s++;
    }
    memcpy(path, out, n);
    path[n] = '\0';
}

/**
 * What this server takes a path for.
 * @param out READER_PATH_MAX + 2 bytes; path has at most READER_PATH_MAX
 */
static inline void reader_read(const reader_t *r, const char *path, size_t len,
                               char *out)
{
    memcpy(out, path, len);
    out[len] = '\0';
    if (r->parameters == 1) {
        reader_cut_parameters(out);
    }
    for (int i = 0; i < r->decodes; i++) {
        if (r->loose) {
            reader_loosen(out);
        }
        reader_decode(r, out);
    }
    if (r->loose) {
        reader_loosen(out);
    }
    if (r->backslash) {
        for (char *s = out; *s; s++) {
            *s = *s == '\\' ? '/' : *s;
        }
    }
    if (r->parameters == 2) {
        reader_cut_parameters(out);
    }
    reader_normalize(r, out);
}

#endif /* UE_UNIT_READERS_H */
