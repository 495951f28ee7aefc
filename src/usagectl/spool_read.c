/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "spool_read.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <apr_strings.h>

#define TRIES 3
#define PAUSE 1000 /* microseconds */
#define CHUNK 64   /* slots */

/* Bytes ------------------------------------------------------------------ */

/* Only a regular file: opening another kind may wait, or do something. */
static apr_status_t open_file(const ue_reader_t *reader, const char *name,
                              int *fd, struct stat *st)
{
    *fd = openat(reader->dirfd, name,
                 O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (*fd < 0) {
        return errno;
    }
    if (fstat(*fd, st) == 0 && S_ISREG(st->st_mode)) {
        return APR_SUCCESS;
    }
    close(*fd);
    *fd = -1;
    return APR_EGENERAL;
}

/* As many bytes as there are. */
static apr_status_t read_at(int fd, void *to, size_t len, uint64_t at,
                            size_t *got)
{
    *got = 0;
    while (*got < len) {
        ssize_t n =
            pread(fd, (char *)to + *got, len - *got, (off_t)(at + *got));

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return errno;
        }
        if (n == 0) {
            break;
        }
        *got += (size_t)n;
    }
    return APR_SUCCESS;
}

/* Segments stay open while they are read; there may be more of them than a
 * process may have files. */
static apr_status_t descriptor(ue_reader_t *reader,
                               const ue_read_segment_t *segment, int *fd)
{
    struct stat st;
    apr_status_t rv;
    unsigned i;

    for (i = 0; i < UE_READ_OPEN; i++) {
        if (reader->open[i].whose == segment) {
            *fd = reader->open[i].fd;
            return APR_SUCCESS;
        }
    }
    rv = open_file(reader, segment->name, fd, &st);
    if (rv == APR_SUCCESS) {
        i = reader->next++ % UE_READ_OPEN;
        if (reader->open[i].whose) {
            close(reader->open[i].fd);
        }
        reader->open[i].whose = segment;
        reader->open[i].fd = *fd;
    }
    return rv;
}

static apr_status_t read_segment(ue_reader_t *reader,
                                 const ue_read_segment_t *segment, void *to,
                                 size_t len, uint64_t at, size_t *got)
{
    apr_status_t rv;
    int fd;

    *got = 0;
    if (segment->memory) {
        if (at < segment->size) {
            *got =
                segment->size - at < len ? (size_t)(segment->size - at) : len;
            memcpy(to, segment->memory + at, *got);
        }
        return APR_SUCCESS;
    }
    rv = descriptor(reader, segment, &fd);
    return rv == APR_SUCCESS ? read_at(fd, to, len, at, got) : rv;
}

/* Heads ------------------------------------------------------------------ */

static const ue_segment_head_t *head_alone(const char *page, size_t at)
{
    static _Alignas(8) char alone[UE_SEGMENT_HEAD];

    memset(alone, 0, sizeof(alone));
    memcpy(alone + at, page + at, sizeof(ue_segment_head_t));
    return ue_segment_head(alone);
}

static void judge_head(ue_read_segment_t *segment, const char *page)
{
    const ue_segment_head_t *head = head_alone(page, UE_SEGMENT_AGAIN);
    uint64_t slots;

    if (head) {
        segment->head = *head;
        segment->copies = UE_READ_SECOND;
    }
    head = head_alone(page, 0);
    if (head) {
        if (segment->copies
            && memcmp(head, &segment->head, sizeof(*head)) != 0) {
            segment->copies |= UE_READ_DIFFER;
        }
        segment->head = *head;
        segment->copies |= UE_READ_FIRST;
    }
    if (!segment->copies || segment->size < UE_SEGMENT_HEAD) {
        return;
    }
    slots = (segment->size - UE_SEGMENT_HEAD) / UE_SLOT_SIZE;
    segment->slots =
        slots < segment->head.slots ? (uint32_t)slots : segment->head.slots;
}

/* Not through descriptor(): there may be a great many to look at. */
apr_status_t ue_reader_look(ue_reader_t *reader, ue_read_segment_t *segment)
{
    _Alignas(8) char page[UE_SEGMENT_HEAD] = {0};
    struct stat st;
    size_t got = 0;
    int fd = -1;

    if (segment->memory) {
        segment->rv =
            read_segment(reader, segment, page, sizeof(page), 0, &got);
    }
    else {
        segment->rv = open_file(reader, segment->name, &fd, &st);
        if (segment->rv == APR_SUCCESS) {
            segment->size = (uint64_t)st.st_size;
            segment->allocated = (uint64_t)st.st_blocks * 512;
            segment->rv = read_at(fd, page, sizeof(page), 0, &got);
            close(fd);
        }
    }
    if (segment->rv == APR_SUCCESS) {
        judge_head(segment, page);
    }
    return segment->rv;
}

/* The directory ---------------------------------------------------------- */

static int by_ref(const void *a, const void *b)
{
    const ue_read_segment_t *one = *(ue_read_segment_t *const *)a;
    const ue_read_segment_t *other = *(ue_read_segment_t *const *)b;
    int order =
        memcmp(&one->head.maker, &other->head.maker, sizeof(one->head.maker));

    if (order) {
        return order;
    }
    return (one->head.first > other->head.first)
           - (one->head.first < other->head.first);
}

void ue_reader_begin(ue_reader_t *reader, ue_read_segment_t *segments,
                     int count, apr_pool_t *p)
{
    int i;

    reader->segments = segments;
    reader->count = count;
    reader->good = 0;
    reader->by_ref =
        apr_pcalloc(p, ((size_t)count + 1) * sizeof(ue_read_segment_t *));
    for (i = 0; i < count; i++) {
        ue_reader_look(reader, &segments[i]);
        if (segments[i].copies) {
            reader->by_ref[reader->good++] = &segments[i];
        }
    }
    qsort(reader->by_ref, (size_t)reader->good, sizeof(ue_read_segment_t *),
          by_ref);
}

/* Files of a stream are together in a list by name. */
static void deal_out(ue_reader_t *reader, const apr_array_header_t *entries,
                     ue_read_segment_t *segments)
{
    ue_read_stream_t *stream = NULL;
    int i;

    for (i = 0; i < entries->nelts; i++) {
        ue_spool_entry_t *entry = &APR_ARRAY_IDX(entries, i, ue_spool_entry_t);

        if (!stream
            || memcmp(&stream->id, &entry->stream, sizeof(stream->id)) != 0) {
            stream = &reader->streams[reader->stream_count++];
            stream->id = entry->stream;
            stream->segments = segments;
        }
        if (entry->is_segment) {
            segments++->name = entry->name;
            stream->count++;
        }
        else {
            stream->account = entry->name;
        }
    }
}

apr_status_t ue_reader_open(ue_reader_t *reader, const char *dir, apr_pool_t *p)
{
    apr_array_header_t *entries;
    ue_read_segment_t *segments;
    apr_status_t rv;
    int i, count = 0;

    memset(reader, 0, sizeof(*reader));
    reader->dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (reader->dirfd < 0) {
        return errno;
    }
    rv = ue_spool_list_dir(dir, &entries, p);
    if (rv != APR_SUCCESS) {
        ue_reader_close(reader);
        return rv;
    }
    for (i = 0; i < entries->nelts; i++) {
        count += APR_ARRAY_IDX(entries, i, ue_spool_entry_t).is_segment;
    }
    segments = apr_pcalloc(p, ((size_t)count + 1) * sizeof(*segments));
    reader->streams =
        apr_pcalloc(p, ((size_t)entries->nelts + 1) * sizeof(ue_read_stream_t));
    deal_out(reader, entries, segments);
    ue_reader_begin(reader, segments, count, p);
    return APR_SUCCESS;
}

void ue_reader_close(ue_reader_t *reader)
{
    unsigned i;

    for (i = 0; i < UE_READ_OPEN; i++) {
        if (reader->open[i].whose) {
            close(reader->open[i].fd);
            reader->open[i].whose = NULL;
        }
    }
    if (reader->dirfd >= 0) {
        close(reader->dirfd);
        reader->dirfd = -1;
    }
}

/* Slots ------------------------------------------------------------------ */

typedef struct {
    ue_reader_t *reader;
    const ue_read_segment_t *segment; /* where the chain begins */
    ue_slot_t slot;
} chain_t;

/* The segment that has a ref, among those of a maker. */
static const ue_read_segment_t *segment_of(const ue_reader_t *reader,
                                           const ue_stream_t *maker,
                                           ue_slot_ref_t ref)
{
    int low = 0, high = reader->good;

    /* The last that begins at the ref or before it. */
    while (low < high) {
        int middle = low + (high - low) / 2;
        const ue_segment_head_t *head = &reader->by_ref[middle]->head;
        int order = memcmp(&head->maker, maker, sizeof(*maker));

        if (order < 0 || (order == 0 && head->first <= ref)) {
            low = middle + 1;
        }
        else {
            high = middle;
        }
    }
    return low ? reader->by_ref[low - 1] : NULL;
}

static int has_ref(const ue_read_segment_t *segment, const ue_stream_t *maker,
                   ue_slot_ref_t ref)
{
    return segment && segment->copies
           && memcmp(&segment->head.maker, maker, sizeof(*maker)) == 0
           && ref >= segment->head.first
           && ref - segment->head.first < segment->slots;
}

static const ue_slot_t *find(void *baton, ue_slot_ref_t link, uint32_t *salt)
{
    chain_t *chain = baton;
    const ue_stream_t *maker = &chain->segment->head.maker;
    const ue_read_segment_t *segment = chain->segment;
    size_t got;

    if (!has_ref(segment, maker, link)) {
        segment = segment_of(chain->reader, maker, link);
        if (!has_ref(segment, maker, link)) {
            return NULL;
        }
    }
    if (read_segment(chain->reader, segment, &chain->slot, UE_SLOT_SIZE,
                     UE_SEGMENT_HEAD
                         + (uint64_t)(link - segment->head.first)
                               * UE_SLOT_SIZE,
                     &got)
            != APR_SUCCESS
        || got < UE_SLOT_SIZE) {
        return NULL;
    }
    *salt = segment->head.salt;
    return &chain->slot;
}

static int is_utf8(const char *s, size_t len)
{
    char clean[UE_ENDPOINT_MAX];

    return ue_utf8_clean(clean, sizeof(clean), s, len) == len
           && memcmp(clean, s, len) == 0;
}

/* What a slot proved before it was delivered. */
static ue_proof_t prove_undelivered(ue_first_t slot, uint32_t salt)
{
    slot.check[UE_CHECK_DELIVERY] = ~slot.check[UE_CHECK_DELIVERY];
    return ue_slot_prove(&slot, salt).proof;
}

static void judge(ue_reader_t *reader, const ue_read_segment_t *segment,
                  ue_read_slot_t *slot)
{
    const ue_first_t *first = &slot->slot.first;
    uint32_t salt = segment->head.salt;
    ue_slot_proof_t proof = ue_slot_prove(first, salt);
    chain_t chain = {.reader = reader, .segment = segment};
    ue_event_t *event = &slot->event;
    apr_status_t rv;

    slot->proof = proof.proof;
    slot->sent = proof.sent != 0;
    slot->in_file = proof.in_file != 0;
    slot->in_topic = proof.in_topic != 0;
    slot->refused = proof.refused != 0;
    slot->completed = slot->broken = 0;
    memset(event, 0, sizeof(*event));
    if (proof.proof < UE_PROOF_ADMITTED) {
        return;
    }
    slot->completed = prove_undelivered(*first, salt) == UE_PROOF_COMPLETE;
    rv = ue_slot_view(first, 1, find, &chain, event, slot->text);
    if (!slot->completed) {
        event->response_time_ms = 0;
        event->status_code = 0;
        event->billable = 0;
    }
    /* Admission makes texts UTF-8; others are a forger's. */
    slot->broken = rv != APR_SUCCESS
                   || !is_utf8(event->method, event->method_len)
                   || !is_utf8(event->endpoint, event->endpoint_len);
}

static int seems_torn(const ue_read_slot_t *slot)
{
    return slot->proof == UE_PROOF_TORN
           || (slot->broken && slot->proof != UE_PROOF_DELIVERED);
}

static apr_status_t read_slot(ue_reader_t *reader,
                              const ue_read_segment_t *segment,
                              ue_read_slot_t *slot)
{
    size_t got;
    apr_status_t rv = read_segment(
        reader, segment, &slot->slot, UE_SLOT_SIZE,
        UE_SEGMENT_HEAD + (uint64_t)slot->index * UE_SLOT_SIZE, &got);

    return rv != APR_SUCCESS || got == UE_SLOT_SIZE ? rv : APR_EOF;
}

/* Judge a slot that was read. What its owner was writing meanwhile is another
 * when it is read again; what is torn stays the same. */
static apr_status_t settle(ue_reader_t *reader,
                           const ue_read_segment_t *segment,
                           ue_read_slot_t *slot)
{
    int tries;

    judge(reader, segment, slot);
    for (tries = 0; tries < TRIES && seems_torn(slot) && !segment->memory;
         tries++) {
        char before[UE_SLOT_SIZE], now[UE_SLOT_SIZE];
        apr_status_t rv;

        memcpy(before, &slot->slot, sizeof(before));
        rv = read_slot(reader, segment, slot);
        if (rv != APR_SUCCESS) {
            return rv;
        }
        judge(reader, segment, slot);
        memcpy(now, &slot->slot, sizeof(now));
        if (memcmp(before, now, sizeof(before)) == 0) {
            break;
        }
        apr_sleep(PAUSE);
    }
    return APR_SUCCESS;
}

apr_status_t ue_reader_slot(ue_reader_t *reader,
                            const ue_read_segment_t *segment, uint32_t index,
                            ue_read_slot_t *slot)
{
    apr_status_t rv;

    slot->index = index;
    rv = read_slot(reader, segment, slot);
    return rv == APR_SUCCESS ? settle(reader, segment, slot) : rv;
}

apr_status_t ue_reader_walk(ue_reader_t *reader,
                            const ue_read_segment_t *segment, ue_read_fn *fn,
                            void *baton)
{
    char chunk[CHUNK * UE_SLOT_SIZE];
    ue_read_slot_t slot;
    uint32_t i;

    for (i = 0; i < segment->slots; i++) {
        size_t at = (size_t)(i % CHUNK) * UE_SLOT_SIZE;
        size_t got = sizeof(chunk);
        apr_status_t rv = APR_SUCCESS;

        if (at == 0) {
            memset(chunk, 0, sizeof(chunk));
            rv = read_segment(reader, segment, chunk, sizeof(chunk),
                              UE_SEGMENT_HEAD + (uint64_t)i * UE_SLOT_SIZE,
                              &got);
        }
        if (rv != APR_SUCCESS || got == 0) {
            return rv != APR_SUCCESS ? rv : APR_EOF;
        }
        slot.index = i;
        memcpy(&slot.slot, chunk + at, UE_SLOT_SIZE);
        rv = settle(reader, segment, &slot);
        if (rv != APR_SUCCESS) {
            return rv;
        }
        if (fn(baton, segment, &slot)) {
            return APR_INCOMPLETE;
        }
    }
    return APR_SUCCESS;
}

int ue_read_is_waiting(const ue_read_slot_t *slot)
{
    return slot->proof == UE_PROOF_TORN || slot->proof == UE_PROOF_ADMITTED
           || slot->proof == UE_PROOF_COMPLETE;
}

void ue_read_sum(ue_read_sums_t *sums, const ue_read_slot_t *slot)
{
    const ue_first_t *first = &slot->slot.first;

    if (!ue_read_is_waiting(slot)) {
        return;
    }
    sums->waiting++;
    sums->torn += slot->proof == UE_PROOF_TORN || slot->broken;
    if (slot->sent && first->partition < UE_LANES_MAX) {
        sums->open[first->partition]++;
        if (first->number > sums->highest[first->partition]) {
            sums->highest[first->partition] = first->number;
        }
    }
}

/* Accounts --------------------------------------------------------------- */

static int is_ended(const char *s, size_t room)
{
    return strnlen(s, room) < room;
}

static int is_text(const char *s, size_t room)
{
    return is_ended(s, room) && is_utf8(s, strlen(s));
}

/* A check says that nothing changed since it was written, not who wrote it. */
static int is_sane(const ue_identity_t *id)
{
    return is_text(id->host, sizeof(id->host))
           && is_text(id->target.topic, sizeof(id->target.topic))
           && is_ended(id->target.brokers, sizeof(id->target.brokers))
           && is_ended(id->target.event_file, sizeof(id->target.event_file));
}

/* Is a copy good by itself? The other one is hidden while that is asked. */
static int is_good(ue_account_t *account, const ue_identity_t *which,
                   ue_identity_t *other)
{
    char first = other->magic[0];
    int good;

    other->magic[0] = '\0';
    good = ue_ledger_identity(account) == which && is_sane(which);
    other->magic[0] = first;
    return good;
}

void ue_read_account_judge(ue_read_account_t *read, uint64_t size)
{
    ue_account_t *account = read->account;

    read->size = size;
    read->copies = 0;
    if (is_good(account, &account->identity, &account->again)) {
        read->copies |= UE_READ_FIRST;
    }
    if (is_good(account, &account->again, &account->identity)) {
        read->copies |= UE_READ_SECOND;
    }
    if (read->copies == (UE_READ_FIRST | UE_READ_SECOND)
        && memcmp(&account->identity, &account->again,
                  sizeof(account->identity))
               != 0) {
        read->copies |= UE_READ_DIFFER;
    }
    read->identity = read->copies & UE_READ_FIRST    ? &account->identity
                     : read->copies & UE_READ_SECOND ? &account->again
                                                     : NULL;
    /* What follows is asked of the ledger, which takes the first good one. */
    if (read->copies == UE_READ_SECOND) {
        account->identity.magic[0] = '\0';
    }
}

apr_status_t ue_reader_account(ue_reader_t *reader, const char *name,
                               ue_read_account_t *read)
{
    struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    struct stat st;
    size_t got = 0;
    int fd;
    apr_status_t rv = open_file(reader, name, &fd, &st);

    memset(read, 0, sizeof(*read));
    if (rv != APR_SUCCESS) {
        return rv;
    }
    read->account = calloc(1, sizeof(ue_account_t));
    rv = read->account
             ? read_at(fd, read->account, sizeof(ue_account_t), 0, &got)
             : APR_ENOMEM;
    if (fcntl(fd, F_GETLK, &all) == 0 && all.l_type != F_UNLCK) {
        read->is_held = 1;
        read->holder = all.l_pid > 0 ? all.l_pid : 0;
    }
    close(fd);
    if (rv != APR_SUCCESS) {
        ue_read_account_free(read);
        return rv;
    }
    read->allocated = (uint64_t)st.st_blocks * 512;
    ue_read_account_judge(read, (uint64_t)st.st_size);
    return APR_SUCCESS;
}

void ue_read_account_free(ue_read_account_t *read)
{
    free(read->account);
    read->account = NULL;
    read->identity = NULL;
}
