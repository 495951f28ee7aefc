/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "spool_ctl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <apr_strings.h>

#include <json-c/json.h>

/* Both commands ---------------------------------------------------------- */

int ue_ctl_spool_open(const ue_ctl_t *ctl, const char *dir, ue_reader_t *reader)
{
    apr_status_t rv = ue_reader_open(reader, dir, ctl->p);

    return rv == APR_SUCCESS
               ? UE_CTL_DONE
               : ue_ctl_fail(ctl, UE_CTL_REFUSED, "%s can't be read: %s",
                             ue_ctl_harmless(dir, ctl->p),
                             ue_ctl_spool_error(rv, ctl->p));
}

const char *ue_ctl_spool_error(apr_status_t rv, apr_pool_t *p)
{
    char text[200];

    if (rv == APR_EGENERAL || rv == ELOOP) {
        return "it is no regular file";
    }
    if (rv == APR_EOF) {
        return "it was cut while it was read";
    }
    return apr_pstrdup(p, apr_strerror(rv, text, sizeof text));
}

int ue_ctl_spool_is_gone(apr_status_t rv)
{
    return APR_STATUS_IS_ENOENT(rv);
}

/* A file that can't be read: the rest is told all the same. */
static int unread(const ue_ctl_t *ctl, const char *name, apr_status_t rv,
                  int status)
{
    if (rv == APR_SUCCESS || ue_ctl_spool_is_gone(rv)) {
        return status;
    }
    return ue_ctl_fail(ctl, UE_CTL_REFUSED, "%s can't be read: %s",
                       ue_ctl_harmless(name, ctl->p),
                       ue_ctl_spool_error(rv, ctl->p));
}

/* spool ls --------------------------------------------------------------- */

/* What there is to say of a stream. */
typedef struct {
    const ue_ctl_t *ctl;
    const ue_read_stream_t *stream;
    ue_read_account_t account; /* account.account is NULL: there is none */
    ue_read_sums_t sums;
    uint64_t files, slots, bytes;
    const char *note;
} stream_t;

static void note(stream_t *s, const char *text)
{
    s->note =
        s->note ? apr_pstrcat(s->ctl->p, s->note, ", ", text, NULL) : text;
}

static int add_slot(void *baton, const ue_read_segment_t *segment,
                    const ue_read_slot_t *slot)
{
    ue_read_sum(&((stream_t *)baton)->sums, slot);
    return 0;
}

static int sum_segments(ue_reader_t *reader, stream_t *s, int status)
{
    int i, damaged = 0, cut = 0;

    for (i = 0; i < s->stream->count; i++) {
        const ue_read_segment_t *segment = &s->stream->segments[i];
        apr_status_t rv = segment->rv;

        if (rv == APR_SUCCESS) {
            rv = ue_reader_walk(reader, segment, add_slot, s);
        }
        if (ue_ctl_spool_is_gone(rv)) {
            continue;
        }
        status = unread(s->ctl, segment->name, rv, status);
        s->files++;
        s->bytes += segment->size;
        s->slots += segment->slots;
        damaged += rv == APR_SUCCESS && !segment->copies;
        cut += segment->copies && segment->slots < segment->head.slots;
    }
    if (damaged) {
        note(s, apr_psprintf(s->ctl->p, "%d damaged segments", damaged));
    }
    if (cut) {
        note(s, apr_psprintf(s->ctl->p, "%d cut segments", cut));
    }
    if (s->sums.torn) {
        note(s, apr_psprintf(s->ctl->p, "%" APR_UINT64_T_FMT " torn",
                             (apr_uint64_t)s->sums.torn));
    }
    return status;
}

static int read_account(ue_reader_t *reader, stream_t *s, int status)
{
    ue_stream_t boot;
    apr_status_t rv;

    s->account.account = NULL;
    if (!s->stream->account) {
        note(s, "no account");
        return status;
    }
    rv = ue_reader_account(reader, s->stream->account, &s->account);
    if (rv != APR_SUCCESS) {
        note(s, "no account");
        return unread(s->ctl, s->stream->account, rv, status);
    }
    s->files++;
    s->bytes += s->account.size;
    if (!s->account.identity) {
        note(s, "damaged account");
        return status;
    }
    if (s->account.size < sizeof(ue_account_t)) {
        note(s, "cut account");
    }
    ue_ledger_boot(&boot);
    if (memcmp(&boot, &s->account.identity->boot, sizeof(boot)) != 0) {
        note(s, "another boot");
    }
    if (s->account.account->state == UE_STREAM_OPEN && !s->account.is_held) {
        note(s, "nobody holds it");
    }
    return status;
}

static void put_text(struct json_object *row, const char *name,
                     const char *value)
{
    json_object_object_add(
        row, name, value && *value ? json_object_new_string(value) : NULL);
}

static void put_number(struct json_object *row, const char *name,
                       uint64_t value)
{
    json_object_object_add(row, name, json_object_new_uint64(value));
}

static void put_time(struct json_object *row, const char *name, apr_time_t when,
                     apr_pool_t *p)
{
    put_text(row, name, when > 0 ? ue_ctl_time(when, p) : NULL);
}

static struct json_object *losses_of(const ue_account_t *account)
{
    struct json_object *losses = json_object_new_array();
    ue_loss_record_t record;
    uint32_t from = 0;

    while (ue_ledger_next_loss(account, &from, 1, &record) == APR_SUCCESS) {
        json_object_array_add(losses, json_tokener_parse(record.json));
        free(record.json);
    }
    return losses;
}

static void put_account(struct json_object *row, stream_t *s)
{
    ue_account_t *account = s->account.account;
    char *record;
    uint32_t i;

    ue_ledger_reconcile(account, s->sums.highest, s->sums.open,
                        s->sums.waiting);
    for (i = account->lanes; i < UE_LANES_MAX; i++) {
        if (account->lane[i].sent) {
            account->lanes = i + 1;
        }
    }
    put_number(row, "admitted", account->admitted);
    put_number(row, "waiting", s->sums.waiting);
    put_number(row, "delivered", account->delivered);
    put_number(row, "lost", account->lost);
    put_number(row, "interrupted", account->interrupted);
    put_time(row, "watermark", account->watermark, s->ctl->p);
    json_object_object_add(row, "losses", losses_of(account));
    record = ue_ledger_stream_json(account, NULL, 0);
    json_object_object_add(row, "record",
                           record ? json_tokener_parse(record) : NULL);
    free(record);
}

static const char *clean(const char *s, apr_pool_t *p)
{
    char *to = apr_palloc(p, UE_ENDPOINT_MAX + 1);

    to[ue_utf8_clean(to, UE_ENDPOINT_MAX, s, strlen(s))] = '\0';
    return to;
}

static void put_identity(struct json_object *row, const stream_t *s)
{
    const ue_identity_t *id = s->account.identity;
    apr_pool_t *p = s->ctl->p;

    put_text(row, "topic", id ? id->target.topic : NULL);
    put_text(row, "brokers", id ? clean(id->target.brokers, p) : NULL);
    put_text(row, "event_file", id ? clean(id->target.event_file, p) : NULL);
    put_text(row, "host", id ? id->host : NULL);
    json_object_object_add(row, "pid",
                           id ? json_object_new_int64(id->pid) : NULL);
    put_time(row, "opened", id ? id->opened : 0, p);
    put_text(
        row, "state",
        id ? ue_stream_state_name((ue_stream_state_t)s->account.account->state)
        : s->account.account ? "damaged"
                             : "orphaned");
    json_object_object_add(row, "held_by",
                           s->account.account && s->account.is_held
                               ? json_object_new_int64(s->account.holder)
                               : NULL);
}

static struct json_object *row_of(stream_t *s)
{
    struct json_object *row = json_object_new_object();
    char id[UE_STREAM_HEX + 1];

    put_text(row, "id", ue_stream_format(&s->stream->id, id));
    put_identity(row, s);
    put_number(row, "files", s->files);
    put_number(row, "slots", s->slots);
    put_number(row, "bytes", s->bytes);
    if (s->account.identity) {
        put_account(row, s);
    }
    else {
        put_number(row, "waiting", s->sums.waiting);
        json_object_object_add(row, "losses", json_object_new_array());
        json_object_object_add(row, "record", NULL);
    }
    put_number(row, "torn", s->sums.torn);
    put_text(row, "note", s->note);
    return row;
}

static int add_row(const ue_ctl_t *ctl, ue_reader_t *reader,
                   const ue_read_stream_t *stream, struct json_object *rows,
                   int status)
{
    stream_t *s = calloc(1, sizeof(*s));

    if (!s) {
        return ue_ctl_fail(ctl, UE_CTL_REFUSED, "no memory");
    }
    s->ctl = ctl;
    s->stream = stream;
    /* Numbers of the account first: what is given out meanwhile is then found
     * in slots. */
    status = read_account(reader, s, status);
    status = sum_segments(reader, s, status);
    if (s->files) {
        json_object_array_add(rows, row_of(s));
    }
    ue_read_account_free(&s->account);
    free(s);
    return status;
}

/* By hour, organization and cause, over all streams. */
static void list_losses(const ue_ctl_t *ctl, struct json_object *rows)
{
    static const ue_ctl_column_t columns[] = {
        {"stream", "STREAM"},
        {"hour", "HOUR"},
        {"organization_id", "ORGANIZATION"},
        {"cause", "CAUSE"},
        {"count", "LOST"},
        {NULL, NULL}};
    struct json_object *all = json_object_new_array();
    size_t i, k;

    for (i = 0; i < json_object_array_length(rows); i++) {
        struct json_object *losses =
            ue_ctl_member(json_object_array_get_idx(rows, i), "losses");

        for (k = 0; k < json_object_array_length(losses); k++) {
            json_object_array_add(
                all, json_object_get(json_object_array_get_idx(losses, k)));
        }
    }
    if (json_object_array_length(all)) {
        putchar('\n');
        ue_ctl_list(ctl, all, columns);
    }
    json_object_put(all);
}

int ue_ctl_spool_ls(ue_ctl_t *ctl)
{
    static const ue_ctl_column_t columns[] = {{"id", "STREAM"},
                                              {"topic", "TOPIC"},
                                              {"brokers", NULL},
                                              {"event_file", NULL},
                                              {"host", "HOST"},
                                              {"pid", "PID"},
                                              {"opened", "OPENED"},
                                              {"state", "STATE"},
                                              {"held_by", "HELD BY"},
                                              {"files", "FILES"},
                                              {"slots", "SLOTS"},
                                              {"bytes", "BYTES"},
                                              {"admitted", "ADMITTED"},
                                              {"waiting", "WAITING"},
                                              {"delivered", "DELIVERED"},
                                              {"lost", "LOST"},
                                              {"interrupted", "INTERRUPTED"},
                                              {"watermark", "WATERMARK"},
                                              {"torn", NULL},
                                              {"note", "NOTE"},
                                              {NULL, NULL}};
    const char *format = ctl->option[UE_OPT_FORMAT];
    struct json_object *rows;
    ue_reader_t reader;
    int i, listed, status = ue_ctl_spool_open(ctl, ctl->operand, &reader);

    if (status) {
        return status;
    }
    rows = json_object_new_array();
    for (i = 0; i < reader.stream_count; i++) {
        status = add_row(ctl, &reader, &reader.streams[i], rows, status);
    }
    listed = ue_ctl_list(ctl, rows, columns);
    if (!listed && (!format || !strcmp(format, "table"))) {
        list_losses(ctl, rows);
    }
    json_object_put(rows);
    ue_reader_close(&reader);
    return listed ? listed : status;
}

/* spool dump ------------------------------------------------------------- */

typedef struct {
    const ue_ctl_t *ctl;
    const char *file; /* its name as a JSON string */
} dump_t;

static const char *quoted(const char *s, apr_pool_t *p)
{
    const char *text = clean(s, p);
    size_t len = strlen(text);
    char *to = apr_palloc(p, 6 * len + 3);

    *ue_json_string(to, text, len) = '\0';
    return to;
}

static const char *state_of(const ue_read_slot_t *slot)
{
    if (slot->proof == UE_PROOF_DELIVERED) {
        return "delivered";
    }
    if (slot->proof == UE_PROOF_TORN || slot->broken) {
        return "torn";
    }
    return slot->proof == UE_PROOF_COMPLETE ? "complete" : "admitted";
}

static void put_event(const ue_read_slot_t *slot)
{
    static char json[UE_EVENT_JSON_MAX];
    char id[UE_UUID_LEN + 1];

    if (slot->proof != UE_PROOF_TORN && !slot->broken) {
        printf("%.*s", (int)ue_event_json(&slot->event, json), json);
    }
    else if (slot->proof == UE_PROOF_TORN) {
        fputs("null", stdout);
    }
    else {
        printf("null,\"organization_id\":\"%s\"",
               ue_uuid_format(&slot->event.organization_id, id));
    }
}

/* What a check does not hold for is not told: a number that was not given. */
static int dump_slot(void *baton, const ue_read_segment_t *segment,
                     const ue_read_slot_t *slot)
{
    const dump_t *dump = baton;
    const ue_first_t *first = &slot->slot.first;

    if (!ue_read_is_waiting(slot)
        && (slot->proof != UE_PROOF_DELIVERED
            || !dump->ctl->option[UE_OPT_ALL])) {
        return 0;
    }
    printf("{\"file\":%s,\"slot\":%lu,\"generation\":%lu,\"state\":\"%s\","
           "\"sent\":%s,",
           dump->file, (unsigned long)slot->index + 1,
           (unsigned long)first->generation, state_of(slot),
           slot->sent ? "true" : "false");
    if (slot->sent || slot->proof == UE_PROOF_DELIVERED) {
        printf("\"number\":%" APR_UINT64_T_FMT ",\"partition\":%lu,",
               (apr_uint64_t)first->number, (unsigned long)first->partition);
    }
    else {
        fputs("\"number\":null,\"partition\":null,", stdout);
    }
    printf("\"in_file\":%s,\"in_topic\":%s,\"refused\":%s,\"event\":",
           slot->in_file ? "true" : "false", slot->in_topic ? "true" : "false",
           slot->refused ? "true" : "false");
    put_event(slot);
    fputs("}\n", stdout);
    return ferror(stdout);
}

static int dump_segment(const ue_ctl_t *ctl, ue_reader_t *reader,
                        const ue_read_segment_t *segment, int status)
{
    dump_t dump = {ctl, quoted(segment->name, ctl->p)};
    apr_status_t rv = segment->rv;

    if (rv == APR_SUCCESS && !segment->copies) {
        return ue_ctl_fail(ctl, UE_CTL_REFUSED,
                           "%s is no segment, or its head is damaged",
                           ue_ctl_harmless(segment->name, ctl->p));
    }
    if (rv == APR_SUCCESS) {
        rv = ue_reader_walk(reader, segment, dump_slot, &dump);
    }
    if (rv == APR_INCOMPLETE) {
        return UE_CTL_REFUSED; /* main() says that it can't be written */
    }
    return unread(ctl, segment->name, rv, status);
}

static int ends_in(const char *s, const char *end)
{
    size_t len = strlen(s), n = strlen(end);

    return len >= n && !strcmp(s + len - n, end);
}

/* One file. Text of its events may be in others beside it. */
static int dump_file(const ue_ctl_t *ctl, const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    const char *dir =
        !slash          ? "."
        : slash == path ? "/"
                        : apr_pstrmemdup(ctl->p, path, (size_t)(slash - path));
    ue_read_segment_t segment = {.name = name};
    ue_reader_t reader;
    int status;

    if (ends_in(name, ".stream")) {
        return ue_ctl_fail(ctl, UE_CTL_WRONG_USE,
                           "%s is an account, which has no slots; usagectl "
                           "spool ls shows it",
                           ue_ctl_harmless(path, ctl->p));
    }
    status = ue_ctl_spool_open(ctl, dir, &reader);
    if (!status) {
        ue_reader_look(&reader, &segment);
        status = segment.rv == APR_SUCCESS
                     ? dump_segment(ctl, &reader, &segment, UE_CTL_DONE)
                     : ue_ctl_fail(ctl, UE_CTL_REFUSED, "%s can't be read: %s",
                                   ue_ctl_harmless(path, ctl->p),
                                   ue_ctl_spool_error(segment.rv, ctl->p));
        ue_reader_close(&reader);
    }
    return status;
}

int ue_ctl_spool_dump(ue_ctl_t *ctl)
{
    ue_reader_t reader;
    struct stat st;
    int i, status;

    if (stat(ctl->operand, &st) == 0 && !S_ISDIR(st.st_mode)) {
        return dump_file(ctl, ctl->operand);
    }
    status = ue_ctl_spool_open(ctl, ctl->operand, &reader);
    if (status) {
        return status;
    }
    for (i = 0; i < reader.count && !ferror(stdout); i++) {
        status = dump_segment(ctl, &reader, &reader.segments[i], status);
    }
    ue_reader_close(&reader);
    return status;
}
