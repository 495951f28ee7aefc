/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "spool_ctl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <apr_hash.h>
#include <apr_strings.h>

/* Seconds after which nobody works at a temporary any more. */
#define STALE 60
/* A slot has its number before the account counts it as given, one by one. */
#define AHEAD 1

/* A number that an undelivered slot has. */
typedef struct {
    uint64_t number;
    uint32_t lane;
    uint32_t slot;
    const char *name;
} number_t;

typedef struct {
    const ue_ctl_t *ctl;
    ue_reader_t *reader;
    const ue_read_stream_t *stream;
    number_t *numbers; /* of the stream */
    size_t count, room;
    uint64_t faults;
    uint64_t slots; /* that are not free */
} verify_t;

static void fault(verify_t *v, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void fault(verify_t *v, const char *name, const char *fmt, ...)
{
    va_list args;

    printf("%s: ", ue_ctl_harmless(name, v->ctl->p));
    va_start(args, fmt);
    vprintf(fmt, args);
    va_end(args);
    putchar('\n');
    v->faults++;
}

static void judge_copies(verify_t *v, const char *name, const char *what,
                         unsigned copies)
{
    if (copies & UE_READ_DIFFER) {
        fault(v, name, "the two copies of its %s differ", what);
    }
    else if (!copies) {
        fault(v, name, "both copies of its %s are damaged", what);
    }
    else if (!(copies & UE_READ_FIRST)) {
        fault(v, name, "the first copy of its %s is damaged", what);
    }
    else if (!(copies & UE_READ_SECOND)) {
        fault(v, name, "the second copy of its %s is damaged", what);
    }
}

/* Writing to a hole on a full disk ends the process that has it mapped. */
static void judge_size(verify_t *v, const char *name, uint64_t size,
                       uint64_t wanted, uint64_t allocated)
{
    if (size != wanted) {
        fault(v, name,
              "it has %" APR_UINT64_T_FMT " bytes, %" APR_UINT64_T_FMT
              " would be right",
              (apr_uint64_t)size, (apr_uint64_t)wanted);
    }
    else if (allocated < size) {
        fault(v, name,
              "it has holes: %" APR_UINT64_T_FMT " of %" APR_UINT64_T_FMT
              " bytes are allocated",
              (apr_uint64_t)allocated, (apr_uint64_t)size);
    }
}

static void unreadable(verify_t *v, const char *name, apr_status_t rv)
{
    if (!ue_ctl_spool_is_gone(rv)) {
        fault(v, name, "it can't be read: %s",
              ue_ctl_spool_error(rv, v->ctl->p));
    }
}

/* Slots ------------------------------------------------------------------ */

static int keep_number(verify_t *v, const ue_read_segment_t *segment,
                       const ue_read_slot_t *slot)
{
    if (v->count == v->room) {
        size_t room = v->room ? 2 * v->room : 1024;
        number_t *more = realloc(v->numbers, room * sizeof(*more));

        if (!more) {
            return 0;
        }
        v->numbers = more;
        v->room = room;
    }
    v->numbers[v->count++] =
        (number_t){slot->slot.first.number, slot->slot.first.partition,
                   slot->index + 1, segment->name};
    return 1;
}

static int judge_slot(void *baton, const ue_read_segment_t *segment,
                      const ue_read_slot_t *slot)
{
    verify_t *v = baton;
    unsigned long number = (unsigned long)slot->index + 1;

    v->slots += ue_read_is_waiting(slot);
    if (slot->proof == UE_PROOF_TORN) {
        fault(v, segment->name, "slot %lu is torn", number);
    }
    else if (slot->broken && ue_read_is_waiting(slot)) {
        fault(v, segment->name,
              "slot %lu is torn: the rest of its text is not behind its link",
              number);
    }
    if (!slot->sent || !ue_read_is_waiting(slot)) {
        return 0;
    }
    if (slot->slot.first.partition >= UE_LANES_MAX) {
        fault(v, segment->name, "slot %lu was sent to partition %lu", number,
              (unsigned long)slot->slot.first.partition);
        return 0;
    }
    if (slot->slot.first.number == 0) {
        fault(v, segment->name, "slot %lu was sent without a number", number);
    }
    return !keep_number(v, segment, slot);
}

static void judge_segment(verify_t *v, const ue_read_segment_t *segment)
{
    apr_status_t rv = segment->rv;

    if (rv == APR_SUCCESS) {
        judge_copies(v, segment->name, "head", segment->copies);
    }
    if (rv == APR_SUCCESS && segment->copies) {
        judge_size(v, segment->name, segment->size,
                   UE_SEGMENT_HEAD
                       + (uint64_t)segment->head.slots * UE_SLOT_SIZE,
                   segment->allocated);
        rv = ue_reader_walk(v->reader, segment, judge_slot, v);
    }
    if (rv == APR_INCOMPLETE) {
        fault(v, segment->name, "there is no memory to judge it");
    }
    else if (rv != APR_SUCCESS) {
        unreadable(v, segment->name, rv);
    }
}

/* A link must lead to one slot. */
static void judge_refs(verify_t *v)
{
    int i;

    for (i = 1; i < v->reader->good; i++) {
        const ue_read_segment_t *before = v->reader->by_ref[i - 1];
        const ue_read_segment_t *segment = v->reader->by_ref[i];

        if (!memcmp(&before->head.maker, &segment->head.maker,
                    sizeof(segment->head.maker))
            && segment->head.first - before->head.first < before->head.slots) {
            fault(v, segment->name, "its slots have the refs of those of %s",
                  before->name);
        }
    }
}

/* Numbers ---------------------------------------------------------------- */

static int by_number(const void *a, const void *b)
{
    const number_t *one = a, *other = b;

    if (one->lane != other->lane) {
        return one->lane < other->lane ? -1 : 1;
    }
    return (one->number > other->number) - (one->number < other->number);
}

static void judge_repeats(verify_t *v)
{
    size_t i;

    if (v->count) {
        qsort(v->numbers, v->count, sizeof(*v->numbers), by_number);
    }
    for (i = 1; i < v->count; i++) {
        const number_t *one = &v->numbers[i - 1], *other = &v->numbers[i];

        if (one->number && !by_number(one, other)) {
            fault(v, other->name,
                  "slot %lu has number %" APR_UINT64_T_FMT
                  " of partition %lu, as slot %lu of %s has",
                  (unsigned long)other->slot, (apr_uint64_t)other->number,
                  (unsigned long)other->lane, (unsigned long)one->slot,
                  one->name);
        }
    }
}

static int is_of_this_boot(const ue_identity_t *id)
{
    ue_stream_t boot;

    ue_ledger_boot(&boot);
    return memcmp(&boot, &id->boot, sizeof(boot)) == 0;
}

/* After a power cut the account may be older than its slots. */
static void judge_highest(verify_t *v, const ue_read_account_t *account)
{
    size_t i;

    if (!is_of_this_boot(account->identity)
        || account->account->state == UE_STREAM_UNCLEAN) {
        return;
    }
    for (i = 0; i < v->count; i++) {
        const number_t *one = &v->numbers[i];
        uint64_t sent = account->account->lane[one->lane].sent;

        if (one->number > sent && one->number - sent > AHEAD) {
            fault(v, one->name,
                  "slot %lu has number %" APR_UINT64_T_FMT
                  " of partition %lu, of which the account has given "
                  "%" APR_UINT64_T_FMT,
                  (unsigned long)one->slot, (apr_uint64_t)one->number,
                  (unsigned long)one->lane, (apr_uint64_t)sent);
        }
    }
}

/* Accounts --------------------------------------------------------------- */

static void judge_targets(verify_t *v, const ue_identity_t *id)
{
    uint8_t hash[sizeof(v->stream->segments->head.target)];
    int i;

    ue_spool_target_hash(&id->target, hash);
    for (i = 0; i < v->stream->count; i++) {
        const ue_read_segment_t *segment = &v->stream->segments[i];

        if (segment->copies
            && memcmp(segment->head.target, hash, sizeof(hash)) != 0) {
            fault(v, segment->name,
                  "its events go elsewhere than those of its "
                  "stream");
        }
    }
}

static void judge_account(verify_t *v, const char *name)
{
    ue_read_account_t account;
    apr_status_t rv = ue_reader_account(v->reader, name, &account);

    if (rv != APR_SUCCESS) {
        unreadable(v, name, rv);
        return;
    }
    judge_size(v, name, account.size, sizeof(ue_account_t), account.allocated);
    judge_copies(v, name, "identity", account.copies);
    if (account.identity) {
        if (memcmp(&account.identity->stream, &v->stream->id,
                   sizeof(v->stream->id))
            != 0) {
            fault(v, name, "it is another stream than its name says");
        }
        if (account.account->state > UE_STREAM_UNCLEAN) {
            fault(v, name, "there is no state %lu",
                  (unsigned long)account.account->state);
        }
        judge_targets(v, account.identity);
        judge_highest(v, &account);
    }
    ue_read_account_free(&account);
}

static int is_there(const verify_t *v, const char *name)
{
    struct stat st;

    return fstatat(v->reader->dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Segments without an account. Not those that have one by now, or that went
 * away while we looked. */
static void judge_orphans(verify_t *v)
{
    char name[UE_SPOOL_NAME], id[UE_STREAM_HEX + 1];
    int i;

    snprintf(name, sizeof(name), "%s.stream",
             ue_stream_format(&v->stream->id, id));
    for (i = 0; i < v->stream->count && !is_there(v, name); i++) {
        if (is_there(v, v->stream->segments[i].name)) {
            fault(v, v->stream->segments[i].name, "its stream has no account");
        }
    }
}

/* Slots first: then the account has the numbers that were found in them. */
static void judge_stream(verify_t *v, const ue_read_stream_t *stream)
{
    int i;

    v->stream = stream;
    v->count = 0;
    for (i = 0; i < stream->count; i++) {
        judge_segment(v, &stream->segments[i]);
    }
    judge_repeats(v);
    if (stream->account) {
        judge_account(v, stream->account);
    }
    else {
        judge_orphans(v);
    }
}

/* Other files ------------------------------------------------------------ */

static apr_hash_t *known_names(const verify_t *v)
{
    apr_hash_t *known = apr_hash_make(v->ctl->p);
    int i;

    apr_hash_set(known, "httpd.lock", APR_HASH_KEY_STRING, "");
    for (i = 0; i < v->reader->count; i++) {
        apr_hash_set(known, v->reader->segments[i].name, APR_HASH_KEY_STRING,
                     "");
    }
    for (i = 0; i < v->reader->stream_count; i++) {
        if (v->reader->streams[i].account) {
            apr_hash_set(known, v->reader->streams[i].account,
                         APR_HASH_KEY_STRING, "");
        }
    }
    return known;
}

static void judge_other(verify_t *v, const char *name)
{
    size_t len = strlen(name);
    struct stat st;

    if (fstatat(v->reader->dirfd, name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
        return; /* gone */
    }
    if (!S_ISREG(st.st_mode) || len <= 4 || strcmp(name + len - 4, ".tmp")) {
        fault(v, name, "it is none of a spool's files");
    }
    else if (time(NULL) - st.st_mtime > STALE) {
        fault(v, name,
              "it was never finished; the next child that starts "
              "removes it");
    }
}

/* Names are read before the spool is, so that what is ours and still there is
 * known when it is asked for. */
static int names_in(const ue_ctl_t *ctl, apr_array_header_t **names)
{
    apr_array_header_t *found = apr_array_make(ctl->p, 64, sizeof(char *));
    DIR *dir = opendir(ctl->operand);
    struct dirent *at;

    if (!dir) {
        return ue_ctl_fail(ctl, UE_CTL_REFUSED, "%s can't be read: %s",
                           ue_ctl_harmless(ctl->operand, ctl->p),
                           strerror(errno));
    }
    while ((at = readdir(dir)) != NULL) {
        if (strcmp(at->d_name, ".") != 0 && strcmp(at->d_name, "..") != 0) {
            APR_ARRAY_PUSH(found, const char *) =
                apr_pstrdup(ctl->p, at->d_name);
        }
    }
    closedir(dir);
    *names = found;
    return UE_CTL_DONE;
}

static void judge_others(verify_t *v, const apr_array_header_t *names)
{
    apr_hash_t *known = known_names(v);
    int i;

    for (i = 0; i < names->nelts; i++) {
        const char *name = APR_ARRAY_IDX(names, i, const char *);

        if (!apr_hash_get(known, name, APR_HASH_KEY_STRING)) {
            judge_other(v, name);
        }
    }
}

int ue_ctl_spool_verify(ue_ctl_t *ctl)
{
    apr_array_header_t *names = NULL;
    ue_reader_t reader;
    verify_t v = {.ctl = ctl, .reader = &reader};
    int i, status = names_in(ctl, &names);

    if (!status) {
        status = ue_ctl_spool_open(ctl, ctl->operand, &reader);
    }
    if (status) {
        return status;
    }
    for (i = 0; i < reader.stream_count; i++) {
        judge_stream(&v, &reader.streams[i]);
    }
    judge_refs(&v);
    judge_others(&v, names);
    free(v.numbers);
    ue_reader_close(&reader);
    ue_ctl_note("%d streams, %d segments, %" APR_UINT64_T_FMT
                " slots in use: %" APR_UINT64_T_FMT " faults",
                reader.stream_count, reader.count, (apr_uint64_t)v.slots,
                (apr_uint64_t)v.faults);
    return v.faults ? UE_CTL_REFUSED : UE_CTL_DONE;
}
