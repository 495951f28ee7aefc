/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "keyfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <apr_hash.h>
#include <apr_lib.h>
#include <apr_strings.h>

#include <json-c/json.h>

#define NESTING_MAX 32

/* Reading -------------------------------------------------------------- */

/* The whole file, NUL-terminated. A named pipe must not hold httpd up, so
 * nothing is opened in a way that can wait. */
static apr_status_t slurp(const char *path, char **text, size_t *len,
                          const char **why, apr_pool_t *p)
{
    apr_status_t rv = APR_SUCCESS;
    struct stat st;
    char *buf = NULL;
    size_t have = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

    if (fd < 0 || fstat(fd, &st) < 0) {
        rv = APR_FROM_OS_ERROR(errno);
        *why = apr_psprintf(p, "%s: can't be read: %s", path, strerror(errno));
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        rv = S_ISDIR(st.st_mode) ? EISDIR : APR_EINVAL;
        *why = apr_psprintf(p, "%s: is %s, not a file", path,
                            S_ISDIR(st.st_mode) ? "a directory"
                                                : "a pipe or device");
        goto out;
    }
    if (st.st_size > UE_KEYFILE_MAX) {
        rv = APR_EINVAL;
        *why = apr_psprintf(p, "%s: is larger than %d MiB", path,
                            UE_KEYFILE_MAX >> 20);
        goto out;
    }
    buf = malloc((size_t)st.st_size + 1);
    if (!buf) {
        rv = APR_ENOMEM;
        *why = apr_psprintf(p, "%s: no memory to read it", path);
        goto out;
    }
    while (have < (size_t)st.st_size) {
        ssize_t n = read(fd, buf + have, (size_t)st.st_size - have);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            rv = APR_FROM_OS_ERROR(errno);
            *why =
                apr_psprintf(p, "%s: can't be read: %s", path, strerror(errno));
            goto out;
        }
        if (n == 0) {
            break;
        }
        have += (size_t)n;
    }
    buf[have] = '\0';
    *text = buf;
    *len = have;
    buf = NULL;
out:
    free(buf);
    if (fd >= 0) {
        close(fd);
    }
    return rv;
}

/* "line 3, column 7" of an offset, as editors count. */
static const char *position(const char *text, size_t at, apr_pool_t *p)
{
    size_t i, line = 1, column = 1;

    for (i = 0; i < at; i++) {
        if (text[i] == '\n') {
            line++;
            column = 1;
        }
        else if ((text[i] & 0xC0) != 0x80) {
            column++;
        }
    }
    return apr_psprintf(p, "line %" APR_SIZE_T_FMT ", column %" APR_SIZE_T_FMT,
                        line, column);
}

/* Behind the string that begins at text[at]. */
static size_t skip_string(const char *text, size_t at, size_t len)
{
    for (at++; at < len && text[at] != '"'; at++) {
        if (text[at] == '\\') {
            at++;
        }
    }
    return at + 1;
}

static size_t count_members(struct json_object *o)
{
    size_t i, n = 0;

    if (json_object_is_type(o, json_type_object)) {
        json_object_object_foreach(o, name, value)
        {
            (void)name;
            n += 1 + count_members(value);
        }
    }
    else if (json_object_is_type(o, json_type_array)) {
        for (i = 0; i < json_object_array_length(o); i++) {
            n += count_members(json_object_array_get_idx(o, i));
        }
    }
    return n;
}

/* A name as it is without escapes. */
static const char *member_name(const char *s, size_t len, apr_pool_t *p)
{
    char *quoted = apr_pstrmemdup(p, s, len);
    struct json_object *o = json_tokener_parse(quoted);
    const char *name = o ? apr_pstrdup(p, json_object_get_string(o)) : quoted;

    json_object_put(o);
    return name;
}

/* Where a member's name comes for the second time in its object. Only called
 * when there is one, on text that is known to be JSON. */
static const char *find_repeated(const char *text, size_t len, apr_pool_t *p)
{
    apr_hash_t *names[NESTING_MAX + 1];
    size_t i = 0;
    int depth = 0;

    names[0] = apr_hash_make(p);
    while (i < len) {
        if (text[i] == '"') {
            size_t start = i;
            const char *name;

            i = skip_string(text, i, len);
            name = member_name(text + start, i - start, p);
            while (apr_isspace(text[i])) {
                i++;
            }
            if (text[i] != ':') {
                continue;
            }
            if (apr_hash_get(names[depth], name, APR_HASH_KEY_STRING)) {
                return apr_psprintf(p, "%s: \"%s\" is there twice",
                                    position(text, start, p), name);
            }
            apr_hash_set(names[depth], name, APR_HASH_KEY_STRING, name);
            continue;
        }
        if (text[i] == '{' || text[i] == '[') {
            if (depth == NESTING_MAX) {
                break;
            }
            names[++depth] = apr_hash_make(p);
        }
        else if (text[i] == '}' || text[i] == ']') {
            depth--;
        }
        i++;
    }
    return "a member is there twice";
}

/* What json-c takes even when it is strict: names in single quotes, NaN and
 * Infinity, raw control characters in strings.
 * @param colons receives how many there are outside strings
 * @return       where the first of them is, or len */
static size_t find_stray(const char *text, size_t len, size_t *colons)
{
    size_t i = 0, end;

    *colons = 0;
    while (i < len) {
        if (text[i] == '"') {
            for (end = skip_string(text, i, len); i < end && i < len; i++) {
                if ((unsigned char)text[i] < ' ') {
                    return i;
                }
            }
            continue;
        }
        if (text[i] == '\'' || text[i] == 'N' || text[i] == 'I') {
            return i;
        }
        *colons += text[i] == ':';
        i++;
    }
    return len;
}

static struct json_object *parse_strictly(const char *text, size_t len,
                                          size_t *at, const char **what)
{
    struct json_tokener *tok = json_tokener_new_ex(NESTING_MAX);
    struct json_object *o;
    enum json_tokener_error e;

    if (!tok) {
        *what = "no memory";
        return NULL;
    }
    json_tokener_set_flags(tok,
                           JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    /* With the NUL behind it, so that what ends too early is an error; one
     * inside the text would end it. */
    o = json_tokener_parse_ex(tok, text, (int)len + 1);
    e = json_tokener_get_error(tok);
    *at = json_tokener_get_parse_end(tok);
    if (e == json_tokener_success && *at < len) {
        *what = "something follows the end";
    }
    else if (e == json_tokener_continue || *at >= len) {
        *what = "it ends too early";
    }
    else {
        *what = json_tokener_error_desc(e);
    }
    if (e == json_tokener_success && *at >= len) {
        *what = NULL;
    }
    else {
        json_object_put(o);
        o = NULL;
    }
    json_tokener_free(tok);
    return o;
}

/* json-c silently takes the last of two members with the same name. A key that
 * was revoked in the first and not in the last would work, so a file that says
 * two things is refused. Its tree has fewer members than its text has colons
 * outside strings. */
static apr_status_t parse(const char *path, const char *text, size_t len,
                          struct json_object **doc, const char **why,
                          apr_pool_t *p)
{
    const char *what = "unexpected character";
    struct json_object *o = NULL;
    size_t colons, at = find_stray(text, len, &colons);

    if (at == len) {
        o = parse_strictly(text, len, &at, &what);
    }
    if (what) {
        *why = apr_psprintf(p, "%s: %s: not JSON: %s", path,
                            position(text, at < len ? at : len, p), what);
        return APR_EINVAL;
    }
    if (colons != count_members(o)) {
        *why = apr_psprintf(p, "%s: %s", path, find_repeated(text, len, p));
        json_object_put(o);
        return APR_EINVAL;
    }
    *doc = o;
    return APR_SUCCESS;
}

/* Both ---------------------------------------------------------------- */

apr_status_t ue_keyfile_read(const char *path, struct json_object **doc,
                             const char **why, apr_pool_t *p)
{
    char *text = NULL;
    size_t len = 0;
    apr_pool_t *scratch;
    apr_status_t rv = slurp(path, &text, &len, why, p);

    *doc = NULL;
    if (rv) {
        return rv;
    }
    if (!len) {
        free(text);
        *why = apr_psprintf(p,
                            "%s: is empty; an empty key file is "
                            "{\"version\": 1, \"organizations\": []}",
                            path);
        return APR_EINVAL;
    }
    rv = parse(path, text, len, doc, why, p);
    free(text);
    if (rv) {
        return rv;
    }
    /* The tables for a large file would stay in p as long as p does. */
    apr_pool_create(&scratch, p);
    rv = ue_keyfile_check(path, *doc, why, scratch);
    if (rv) {
        *why = apr_pstrdup(p, *why);
        json_object_put(*doc);
        *doc = NULL;
    }
    apr_pool_destroy(scratch);
    return rv;
}
