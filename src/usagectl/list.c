/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "usagectl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <apr_lib.h>
#include <apr_strings.h>

#include <json-c/json.h>

#define COLUMNS_MAX 24

int ue_ctl_put(const ue_ctl_t *ctl, const char *s, size_t len)
{
    while (len) {
        ssize_t n = write(STDOUT_FILENO, s, len);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return ue_ctl_fail(ctl, UE_CTL_REFUSED,
                               "standard output can't be written: %s",
                               strerror(errno));
        }
        s += n;
        len -= (size_t)n;
    }
    return UE_CTL_DONE;
}

static const char *cell(struct json_object *row, const char *name)
{
    struct json_object *v = ue_ctl_member(row, name);

    return v ? json_object_get_string(v) : "";
}

/* What somebody wrote into a name must not move the cursor. U+0080 to U+009F
 * are control characters too. */
const char *ue_ctl_harmless(const char *s, apr_pool_t *p)
{
    char *copy = apr_pstrdup(p, s), *c;

    for (c = copy; *c; c++) {
        if (apr_iscntrl(*c)) {
            *c = '?';
        }
        else if (c[0] == '\xC2' && (unsigned char)c[1] < 0xA0 && c[1]) {
            c[0] = c[1] = '?';
        }
    }
    return copy;
}

static int width(const char *s)
{
    int n = 0;

    for (; *s; s++) {
        n += (*s & 0xC0) != 0x80;
    }
    return n;
}

static void put_cell(const char *s, int to, int last)
{
    if (last) {
        puts(s);
    }
    else {
        printf("%s%*s", s, to - width(s) + 2, "");
    }
}

static void list_table(struct json_object *rows, const ue_ctl_column_t *columns,
                       apr_pool_t *p)
{
    const ue_ctl_column_t *shown[COLUMNS_MAX];
    int widths[COLUMNS_MAX], n = 0, i;
    size_t r;

    for (; columns->name && n < COLUMNS_MAX; columns++) {
        if (columns->head) {
            shown[n] = columns;
            widths[n++] = width(columns->head);
        }
    }
    for (r = 0; r < json_object_array_length(rows); r++) {
        for (i = 0; i < n; i++) {
            int w =
                width(cell(json_object_array_get_idx(rows, r), shown[i]->name));

            widths[i] = w > widths[i] ? w : widths[i];
        }
    }
    for (i = 0; i < n; i++) {
        put_cell(shown[i]->head, widths[i], i == n - 1);
    }
    for (r = 0; r < json_object_array_length(rows); r++) {
        for (i = 0; i < n; i++) {
            const char *s =
                cell(json_object_array_get_idx(rows, r), shown[i]->name);

            put_cell(ue_ctl_harmless(s, p), widths[i], i == n - 1);
        }
    }
}

/* RFC 4180, with a plain line feed. */
static void put_csv(const char *s, int last)
{
    if (s[strcspn(s, ",\"\r\n")]) {
        putchar('"');
        for (; *s; s++) {
            if (*s == '"') {
                putchar('"');
            }
            putchar(*s);
        }
        putchar('"');
    }
    else {
        fputs(s, stdout);
    }
    putchar(last ? '\n' : ',');
}

static void list_csv(struct json_object *rows, const ue_ctl_column_t *columns)
{
    const ue_ctl_column_t *c;
    size_t r;

    for (c = columns; c->name; c++) {
        put_csv(c->name, !c[1].name);
    }
    for (r = 0; r < json_object_array_length(rows); r++) {
        for (c = columns; c->name; c++) {
            put_csv(cell(json_object_array_get_idx(rows, r), c->name),
                    !c[1].name);
        }
    }
}

int ue_ctl_list(const ue_ctl_t *ctl, struct json_object *rows,
                const ue_ctl_column_t *columns)
{
    const char *format = ctl->option[UE_OPT_FORMAT];

    if (!format || !strcmp(format, "table")) {
        list_table(rows, columns, ctl->p);
    }
    else if (!strcmp(format, "json")) {
        puts(json_object_to_json_string_ext(
            rows, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED
                      | JSON_C_TO_STRING_NOSLASHESCAPE));
    }
    else if (!strcmp(format, "csv")) {
        list_csv(rows, columns);
    }
    else {
        return ue_ctl_fail(ctl, UE_CTL_WRONG_USE,
                           "--format must be table, json or csv");
    }
    return UE_CTL_DONE;
}
