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

/* A list in a cell: its entries with spaces between; of lists of lists, " and "
 * between. */
static const char *join(struct json_object *list, apr_pool_t *p)
{
    const char *all = "";
    size_t i;

    for (i = 0; i < json_object_array_length(list); i++) {
        struct json_object *v = json_object_array_get_idx(list, i);
        int nested = json_object_is_type(v, json_type_array);

        all =
            apr_pstrcat(p, all, i ? nested ? " and " : " " : "",
                        nested ? join(v, p) : json_object_get_string(v), NULL);
    }
    return all;
}

static const char *cell(struct json_object *row, const char *name,
                        apr_pool_t *p)
{
    struct json_object *v = ue_ctl_member(row, name);

    if (json_object_is_type(v, json_type_array)) {
        return join(v, p);
    }
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
    int w = width(s);

    if (last) {
        puts(s);
    }
    else {
        printf("%s%*s", s, w < to ? to - w + 2 : 2, "");
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

static const char *pretty(struct json_object *o)
{
    return json_object_to_json_string_ext(
        o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED
               | JSON_C_TO_STRING_NOSLASHESCAPE);
}

enum { TABLE, JSON, CSV };

static int read_format(const ue_ctl_t *ctl, int *format)
{
    static const char *const names[] = {
        [TABLE] = "table", [JSON] = "json", [CSV] = "csv"};
    const char *given = ctl->option[UE_OPT_FORMAT];

    for (*format = TABLE; given && *format <= CSV; ++*format) {
        if (!strcmp(given, names[*format])) {
            break;
        }
    }
    return *format <= CSV ? UE_CTL_DONE
                          : ue_ctl_fail(ctl, UE_CTL_WRONG_USE,
                                        "--format must be table, json or csv");
}

int ue_ctl_check_format(const ue_ctl_t *ctl)
{
    int format;

    return read_format(ctl, &format);
}

/* Row by row ----------------------------------------------------------- */

/* A table's widths are those of so many rows at its beginning. One that is
 * wider later on moves what follows it in its line, and no other line. */
#define WIDTH_ROWS 1000

struct ue_ctl_writer_t {
    const ue_ctl_column_t *columns;
    int format;
    size_t rows;
    int widths[COLUMNS_MAX];
    struct json_object *first; /* of a table: rows that wait for its widths */
    apr_pool_t *p;             /* of the row that is written */
};

static void widen(ue_ctl_writer_t *w, struct json_object *row)
{
    const ue_ctl_column_t *c;
    int n = 0;

    for (c = w->columns; c->name; c++, n++) {
        int cells =
            c->head ? width(row ? cell(row, c->name, w->p) : c->head) : 0;

        w->widths[n] = cells > w->widths[n] ? cells : w->widths[n];
    }
}

/* @param row NULL: the heads */
static void put_line(const ue_ctl_writer_t *w, struct json_object *row)
{
    const ue_ctl_column_t *c, *next;

    for (c = w->columns; c->name; c = next) {
        for (next = c + 1; next->name && !next->head; next++) {
        }
        if (c->head) {
            put_cell(row ? ue_ctl_harmless(cell(row, c->name, w->p), w->p)
                         : c->head,
                     w->widths[c - w->columns], !next->name);
        }
    }
}

/* The heads, and the rows that waited. */
static void put_first(ue_ctl_writer_t *w)
{
    size_t r;

    for (r = 0; r < json_object_array_length(w->first); r++) {
        widen(w, json_object_array_get_idx(w->first, r));
    }
    put_line(w, NULL);
    for (r = 0; r < json_object_array_length(w->first); r++) {
        put_line(w, json_object_array_get_idx(w->first, r));
    }
    json_object_put(w->first);
    w->first = NULL;
}

static void put_table_row(ue_ctl_writer_t *w, struct json_object *row)
{
    if (!w->first) {
        put_line(w, row);
        return;
    }
    json_object_array_add(w->first, json_object_get(row));
    if (w->rows == WIDTH_ROWS) {
        put_first(w);
    }
}

static void put_csv_row(const ue_ctl_writer_t *w, struct json_object *row)
{
    const ue_ctl_column_t *c;

    for (c = w->columns; c->name; c++) {
        put_csv(row ? cell(row, c->name, w->p) : c->name, !c[1].name);
    }
}

/* As json-c writes one in an array. */
static void put_json_row(const ue_ctl_writer_t *w, struct json_object *row)
{
    const char *s = pretty(row);
    size_t len;

    fputs(w->rows > 1 ? ",\n" : "[\n", stdout);
    for (; *s; s += len) {
        len = strcspn(s, "\n");
        len += s[len] == '\n';
        fputs("  ", stdout);
        fwrite(s, 1, len, stdout);
    }
}

int ue_ctl_writer(const ue_ctl_t *ctl, const ue_ctl_column_t *columns,
                  ue_ctl_writer_t **writer)
{
    ue_ctl_writer_t *w = apr_pcalloc(ctl->p, sizeof *w);
    int status = read_format(ctl, &w->format);

    *writer = w;
    w->columns = columns;
    if (status || apr_pool_create(&w->p, ctl->p)) {
        return status ? status : UE_CTL_REFUSED;
    }
    if (w->format == TABLE) {
        w->first = json_object_new_array();
        widen(w, NULL);
    }
    return UE_CTL_DONE;
}

int ue_ctl_write(ue_ctl_writer_t *w, struct json_object *row)
{
    w->rows++;
    switch (w->format) {
    case TABLE:
        put_table_row(w, row);
        break;
    case JSON:
        put_json_row(w, row);
        break;
    default:
        if (w->rows == 1) {
            put_csv_row(w, NULL);
        }
        put_csv_row(w, row);
    }
    apr_pool_clear(w->p);
    return ferror(stdout) ? UE_CTL_REFUSED : UE_CTL_DONE; /* main tells it */
}

void ue_ctl_writer_end(ue_ctl_writer_t *w, int status)
{
    if (w->first && (w->rows || !status)) {
        put_first(w);
    }
    if (w->format == CSV && !w->rows && !status) {
        put_csv_row(w, NULL);
    }
    if (w->format == JSON && !status) {
        puts(w->rows ? "\n]" : "[]");
    }
}

int ue_ctl_list(const ue_ctl_t *ctl, struct json_object *rows,
                const ue_ctl_column_t *columns)
{
    ue_ctl_writer_t *w;
    int status = ue_ctl_writer(ctl, columns, &w);
    size_t r;

    for (r = 0; !status && r < json_object_array_length(rows); r++) {
        status = ue_ctl_write(w, json_object_array_get_idx(rows, r));
    }
    if (!status) {
        ue_ctl_writer_end(w, status);
    }
    return status;
}

/* One alone ------------------------------------------------------------ */

static void show_table(struct json_object *row, const ue_ctl_column_t *columns,
                       apr_pool_t *p)
{
    const ue_ctl_column_t *c;
    int w = 0;

    for (c = columns; c->name; c++) {
        if (ue_ctl_member(row, c->name)) {
            w = width(c->name) > w ? width(c->name) : w;
        }
    }
    for (c = columns; c->name; c++) {
        if (ue_ctl_member(row, c->name)) {
            put_cell(c->name, w, 0);
            put_cell(ue_ctl_harmless(cell(row, c->name, p), p), 0, 1);
        }
    }
}

int ue_ctl_show(const ue_ctl_t *ctl, struct json_object *row,
                const ue_ctl_column_t *columns)
{
    struct json_object *rows;
    int format, status = read_format(ctl, &format);

    if (status) {
        return status;
    }
    switch (format) {
    case TABLE:
        show_table(row, columns, ctl->p);
        break;
    case JSON:
        puts(pretty(row));
        break;
    default:
        rows = json_object_new_array();
        json_object_array_add(rows, json_object_get(row));
        status = ue_ctl_list(ctl, rows, columns);
        json_object_put(rows);
    }
    return status;
}
