/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */

/**
 * The thread that waits for disks, so that no other need.
 *
 * It makes the journal longer before it is full, syncs what has changed every
 * flush interval, and looks for streams that nobody holds: of children that
 * were killed or had no time to send all, and of another run of httpd. What it
 * finds it locks, maps, judges slot by slot, puts in order, and leaves for the
 * worker, one stream at a time.
 *
 * How often it looks depends on how many streams there are, so that many
 * children together don't look more often than a few.
 */
#include "producer_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <apr_strings.h>
#include <apr_tables.h>

#define FIRST_SEGMENT 16384
#define CHILDREN 32 /* that a spool has room for at least */
#define UNTOLD_MOST 64
#define GROWS_BY 4 /* a quarter of what there is */
#define SCAN_EVERY apr_time_from_msec(500)
#define SCAN_STREAMS 16 /* so many are looked at so often */
#define RETRY_AFTER apr_time_from_sec(1)
#define LOG_EVERY apr_time_from_sec(30)
#define TIDY_EVERY apr_time_from_sec(60)

void *ue_producer_reserve(size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return at == MAP_FAILED ? NULL : at;
}

/** Say that something is wrong with the spool, not each time. */
static void complain(ue_producer_t *p, ue_log_limit_t *limit, apr_status_t rv,
                     const char *number, const char *what)
{
    char more[64] = "";
    uint32_t held;

    ue_metrics_add(p->seat, UE_M_SPOOL_ERRORS, 1);
    if (!ue_log_limit_pass(limit, ue_monotonic(), LOG_EVERY, &held)) {
        return;
    }
    if (held) {
        apr_snprintf(more, sizeof(more), " (%u such lines held back)", held);
    }
    ue_log(UE_LOG_ERR, rv, "%s: spool: %s: %s%s", number, p->config.spool, what,
           more);
}

static void complain_of_room(ue_producer_t *p, apr_status_t rv)
{
    complain(p, &p->short_of_room, rv, "UE0601",
             APR_STATUS_IS_ENOSPC(rv)
                 ? "there is no room for more slots: the disk is full, or "
                   "max= of UsageSpool is reached; UsageOverflow decides what "
                   "becomes of requests that find none"
                 : "no file can be made; UsageOverflow decides what becomes "
                   "of requests that find no slot");
}

static void complain_of_file(ue_producer_t *p, apr_status_t rv,
                             const char *what)
{
    complain(p, &p->unreadable, rv, "UE0605", what);
}

/* ---- making ---- */

stream_t *ue_producer_new_stream(ue_producer_t *p, int may_be_memory)
{
    stream_t *stream = calloc(1, sizeof(*stream));
    ue_identity_t identity;
    ue_stream_t instance;
    apr_status_t rv;

    memcpy(instance.b, ue_metrics_instance(p->metrics), sizeof(instance.b));
    if (!stream
        || ue_ledger_new_identity(&identity, p->config.target, &instance)
               != APR_SUCCESS) {
        free(stream);
        return NULL;
    }
    if (p->spool && (!p->config.is_heir || atomic_load(&p->wants_file))) {
        identity.salt = p->id.salt;
        rv = ue_spool_stream_create(p->spool, &stream->file, &identity);
        if (rv == APR_SUCCESS) {
            return stream;
        }
        complain_of_room(p, rv);
    }
    if (may_be_memory
        && ue_stream_in_memory(&stream->file, &identity,
                               p->spool ? NULL : p->config.accounts)
               == APR_SUCCESS) {
        return stream;
    }
    free(stream);
    return NULL;
}

/** Have the journal's next segment. @locality before the worker, or under the
 * mutex */
static apr_status_t add_segment(ue_producer_t *p)
{
    uint32_t count = ue_journal_slots(p->journal);
    ue_segment_head_t head = {
        .slots = p->next_segment, .salt = p->id.salt, .first = count + 1};
    segment_t *segment = calloc(1, sizeof(*segment));
    stream_t *own = atomic_load(&p->own);
    apr_status_t rv;
    int fd;

    if (!segment) {
        return APR_ENOMEM;
    }
    memcpy(head.maker.b, p->id.maker, sizeof(head.maker.b));
    ue_ledger_boot(&head.boot);
    ue_spool_target_hash(p->config.target, head.target);
    rv = ue_spool_segment_create(p->spool, &own->file.id, &head, &fd,
                                 segment->name);
    if (rv == APR_SUCCESS) {
        rv = ue_journal_extend(p->journal, fd, UE_SEGMENT_HEAD, head.slots);
        close(fd);
        if (rv != APR_SUCCESS) {
            ue_spool_segment_remove(p->spool, segment->name);
        }
    }
    if (rv != APR_SUCCESS) {
        free(segment);
        return rv;
    }
    segment->region.slots = head.slots;
    segment->next = p->own_segments;
    p->own_segments = segment;
    return APR_SUCCESS;
}

/** A bigger journal gets bigger segments, so that there are never many; but
 * what doesn't fit any more may fit when it is smaller. */
static apr_status_t grow(ue_producer_t *p)
{
    uint32_t count = ue_journal_slots(p->journal);
    uint32_t wanted = count / GROWS_BY;
    apr_status_t rv = APR_ENOSPC;

    wanted = wanted > p->first_segment ? wanted : p->first_segment;
    wanted -= wanted % UE_SEGMENT_UNIT;
    for (; wanted >= UE_SEGMENT_UNIT && APR_STATUS_IS_ENOSPC(rv);
         wanted = wanted / 2 - wanted / 2 % UE_SEGMENT_UNIT) {
        p->next_segment = wanted;
        rv = add_segment(p);
    }
    return rv;
}

/** A small spool is not for the first child alone. */
static uint32_t first_segment(apr_off_t most)
{
    apr_off_t slots = most / UE_SLOT_SIZE / CHILDREN;

    if (slots > FIRST_SEGMENT) {
        return FIRST_SEGMENT;
    }
    slots -= slots % UE_SEGMENT_UNIT;
    return slots > UE_SEGMENT_UNIT ? (uint32_t)slots : UE_SEGMENT_UNIT;
}

apr_status_t ue_producer_open_spool(ue_producer_t *p, apr_pool_t *pool)
{
    apr_status_t rv =
        ue_spool_open(&p->spool, p->config.spool, p->config.spool_most, pool);

    pthread_mutex_init(&p->naming, NULL);
    p->first_segment = first_segment(p->config.spool_most);
    if (rv != APR_SUCCESS) {
        complain_of_room(p, rv);
    }
    return sem_init(&p->spool_wake, 0, 0) == 0 ? APR_SUCCESS : errno;
}

int ue_producer_wants_more(const ue_producer_t *p)
{
    return !p->config.is_heir
           && ue_journal_free(p->journal) < p->first_segment / 2;
}

/** Our own account is in memory, since there was no room: make it a file, so
 * that there can be slots. */
static void leave_memory(ue_producer_t *p)
{
    if (p->config.is_heir && !atomic_load(&p->wants_file)) {
        return;
    }
    if (atomic_load(&p->own)->file.fd < 0 && !atomic_load(&p->fresh)) {
        stream_t *fresh = ue_producer_new_stream(p, 0);

        if (fresh) {
            atomic_store(&p->fresh, fresh);
            ue_producer_wake(p);
        }
    }
}

/** @return when to try again, where it could not be done */
static apr_time_t keep_room(ue_producer_t *p, apr_time_t now)
{
    apr_status_t rv = APR_SUCCESS;

    leave_memory(p);
    while (ue_producer_wants_more(p) && rv == APR_SUCCESS
           && !atomic_load(&p->spool_ending)) {
        pthread_mutex_lock(&p->naming);
        rv = atomic_load(&p->own)->file.fd < 0 ? APR_EAGAIN : grow(p);
        pthread_mutex_unlock(&p->naming);
    }
    if (rv != APR_SUCCESS && !APR_STATUS_IS_EAGAIN(rv)
        && !APR_STATUS_IS_EBUSY(rv)) {
        complain_of_room(p, rv);
    }
    return rv == APR_SUCCESS ? 0 : now + RETRY_AFTER;
}

void ue_producer_make_room(ue_producer_t *p)
{
    keep_room(p, ue_monotonic());
}

void ue_producer_drop_segment(ue_producer_t *p, stream_t *stream,
                              segment_t *segment)
{
    segment_t **at = &stream->segments;

    while (*at != segment) {
        at = &(*at)->next;
    }
    *at = segment->next;
    ue_spool_segment_remove(p->spool, segment->name);
    ue_journal_unmap(p->journal, &segment->region);
    free(segment);
}

/* ---- syncing ---- */

static void sync_now(ue_producer_t *p, uint64_t *synced)
{
    uint64_t changes = atomic_load(&p->admitted) + atomic_load(&p->recorded)
                       + atomic_load(&p->settled);
    stream_t *own = atomic_load(&p->own);
    apr_status_t rv;

    if (changes == *synced) {
        return;
    }
    rv = ue_journal_sync(p->journal);
    if (rv == APR_SUCCESS) {
        rv = ue_spool_sync_names(p->spool);
    }
    if (rv == APR_SUCCESS && own->file.fd >= 0
        && msync(own->file.account, sizeof(*own->file.account), MS_SYNC) != 0) {
        rv = errno;
    }
    if (rv != APR_SUCCESS) {
        complain(p, &p->unsynced, rv, "UE0604",
                 "can't be synced; what was recorded since may not outlive a "
                 "power failure");
        return;
    }
    *synced = changes;
}

/* ---- taking over: what the slots prove ---- */

/** A stream while it is being judged. */
typedef struct {
    ue_producer_t *p;
    adoption_t *a;
    uint64_t *highest, *open; /* by lane */
    uint32_t room;
    apr_time_t now;
} judging_t;

typedef struct {
    const ue_journal_t *journal;
    const ue_region_t *region;
} finder_t;

static const ue_slot_t *find(void *baton, ue_slot_ref_t link, uint32_t *salt)
{
    finder_t *finder = baton;
    ue_slot_ref_t ref =
        ue_journal_resolve(finder->journal, finder->region, link);

    if (!ref) {
        return NULL;
    }
    *salt = finder->region->salt;
    return ue_journal_slot(finder->journal, ref);
}

/** The region among the stream's segments that has a slot. */
static ue_region_t *region_of(const stream_t *stream, ue_slot_ref_t ref)
{
    segment_t *segment = stream->segments;

    while (segment
           && (ref < segment->region.first
               || ref >= segment->region.first + segment->region.slots)) {
        segment = segment->next;
    }
    return segment ? &segment->region : NULL;
}

/** Count the slots of an event in their regions. */
static void occupy(const judging_t *j, ue_region_t *region, ue_slot_ref_t ref)
{
    const ue_journal_t *journal = j->p->journal;
    ue_slot_ref_t link = ue_slot_link(&ue_journal_slot(journal, ref)->first);

    region->open++;
    while (link) {
        ue_region_t *other;

        ref = ue_journal_resolve(journal, region, link);
        other = ref ? region_of(j->a->stream, ref) : NULL;
        if (!other) {
            break;
        }
        other->open++;
        atomic_store(&ue_journal_slot(journal, ref)->further.state,
                     UE_SLOT_FURTHER);
        link = ue_journal_slot(journal, ref)->further.next;
    }
}

/** Take a slot out of the account for good. */
static void retire(ue_first_t *slot)
{
    ue_slot_check_delivery(slot, UE_PHASE_DELIVERED);
    atomic_store(&slot->state, UE_SLOT_FREE);
}

static void note_torn(judging_t *j, ue_first_t *slot, int is_admitted,
                      uint64_t number)
{
    static const ue_uuid_t nobody;
    const ue_uuid_t *id = is_admitted ? &slot->organization_id : &nobody;

    ue_ledger_lose(j->a->stream->file.account, id,
                   is_admitted ? atomic_load(&slot->timestamp) : j->now,
                   UE_LOST_TORN, number ? slot->partition : UE_NO_LANE, number);
    ue_metrics_lose(j->p->metrics, j->p->seat, id, UE_LOST_TORN, 1);
    j->a->torn++;
    if (is_admitted) {
        retire(slot);
    }
    else {
        memset(slot->check, 0, sizeof(slot->check));
        atomic_store(&slot->state, UE_SLOT_FREE);
    }
}

/** Is the text of an event whole? */
static int is_whole(const judging_t *j, const ue_region_t *region,
                    const ue_first_t *slot)
{
    char text[UE_ENDPOINT_MAX + UE_METHOD_MAX];
    finder_t finder = {j->p->journal, region};
    ue_event_t event;

    return ue_slot_view(slot, 1, find, &finder, &event, text) == APR_SUCCESS;
}

static int collect(judging_t *j, ue_slot_ref_t ref, int has_number)
{
    adoption_t *a = j->a;

    if (a->count == j->room) {
        uint32_t room = j->room ? j->room * 2 : 1024;
        ue_slot_ref_t *refs = realloc(a->refs, room * sizeof(*refs));

        if (!refs) {
            return 0;
        }
        a->refs = refs;
        j->room = room;
    }
    a->refs[a->count++] = ref;
    a->numbered += (uint32_t)has_number;
    return 1;
}

/** The number that an event is to be sent under again, 0: none. */
static uint64_t number_of(const judging_t *j, const ue_first_t *slot,
                          ue_slot_proof_t proof)
{
    uint32_t lanes = atomic_load(&j->a->stream->file.account->lanes);

    return proof.sent && slot->partition < lanes && lanes <= UE_LANES_MAX
               ? slot->number
               : 0;
}

/** Have the slot say of its sinks just what was proved. */
static void note_sinks(const judging_t *j, ue_slot_ref_t ref, uint64_t number,
                       ue_slot_proof_t proof)
{
    ue_first_t *slot = &ue_journal_slot(j->p->journal, ref)->first;

    slot->flags &=
        (uint8_t) ~(UE_SLOT_IN_FILE | UE_SLOT_IN_TOPIC | UE_SLOT_REFUSED);
    slot->flags |= proof.in_file ? UE_SLOT_IN_FILE : 0;
    slot->flags |= proof.in_topic ? UE_SLOT_IN_TOPIC : 0;
    slot->flags |= proof.refused ? UE_SLOT_REFUSED : 0;
    if (!number && !proof.in_topic && !proof.refused) {
        ue_journal_forget(j->p->journal, ref);
    }
}

/** Bring an event of which a request or more is proved into the state that a
 * worker expects. @return whether there was memory */
static int revive(judging_t *j, ue_region_t *region, ue_slot_ref_t ref,
                  ue_slot_proof_t proof)
{
    const ue_journal_t *journal = j->p->journal;
    ue_first_t *slot = &ue_journal_slot(journal, ref)->first;
    uint64_t number = number_of(j, slot, proof);

    if (number) {
        uint64_t *highest = &j->highest[slot->partition];

        *highest = number > *highest ? number : *highest;
        if (ue_ledger_has_lost(j->a->stream->file.account, slot->partition,
                               number)) {
            retire(slot); /* it was counted, just before its child died */
            return 1;
        }
    }
    if (slot->flags & UE_SLOT_CONTINUED && !is_whole(j, region, slot)) {
        note_torn(j, slot, 1, number);
        return 1;
    }
    note_sinks(j, ref, number, proof);
    j->a->refused += (uint32_t)proof.refused;
    if (proof.proof == UE_PROOF_ADMITTED) {
        atomic_store(&slot->state, UE_SLOT_ADMITTED);
        ue_journal_interrupt(j->p->journal, ref);
        atomic_fetch_add(&j->a->stream->file.account->interrupted, 1);
        ue_metrics_add(j->p->seat, UE_M_EVENTS_INTERRUPTED, 1);
        j->a->interrupted++;
    }
    if (number) {
        j->open[slot->partition]++;
    }
    atomic_store(&slot->state, UE_SLOT_LISTED);
    occupy(j, region, ref);
    return collect(j, ref, number != 0);
}

static int judge_slot(judging_t *j, ue_region_t *region, ue_slot_ref_t ref)
{
    ue_first_t *slot = &ue_journal_slot(j->p->journal, ref)->first;
    ue_slot_proof_t proof = ue_slot_prove(slot, region->salt);

    switch (proof.proof) {
    case UE_PROOF_FREE:
    case UE_PROOF_FURTHER:
        return 1;
    case UE_PROOF_DELIVERED:
        /* Its number may be of another stream, whose segment this was once;
         * and the account had it before the event was handed over. */
        atomic_store(&slot->state, UE_SLOT_FREE);
        return 1;
    case UE_PROOF_TORN:
        note_torn(j, slot, 0, 0);
        return 1;
    default:
        return revive(j, region, ref, proof);
    }
}

static int judge_all(judging_t *j)
{
    segment_t *segment;
    uint32_t i;

    for (segment = j->a->stream->segments; segment; segment = segment->next) {
        for (i = 0; i < segment->region.slots; i++) {
            if (!judge_slot(j, &segment->region, segment->region.first + i)) {
                return 0;
            }
        }
    }
    return 1;
}

static uint64_t number_to_send(const ue_journal_t *journal, ue_slot_ref_t ref)
{
    return ue_journal_left_topic(journal, ref)
               ? 0
               : ue_journal_number(journal, ref);
}

static int by_order(const void *a, const void *b, void *baton)
{
    const ue_journal_t *journal = baton;
    ue_slot_ref_t x = *(const ue_slot_ref_t *)a;
    ue_slot_ref_t y = *(const ue_slot_ref_t *)b;
    uint64_t nx = number_to_send(journal, x);
    uint64_t ny = number_to_send(journal, y);

    /* What has no number comes after all that have. */
    if (nx != ny) {
        return nx - 1 < ny - 1 ? -1 : 1;
    }
    if (ue_journal_began(journal, x) != ue_journal_began(journal, y)) {
        return ue_journal_began(journal, x) < ue_journal_began(journal, y) ? -1
                                                                           : 1;
    }
    return x < y ? -1 : x > y;
}

/** What has moved into it from elsewhere may be older than it. */
static void note_oldest(const ue_producer_t *p, adoption_t *a)
{
    ue_account_t *account = a->stream->file.account;
    apr_time_t oldest = apr_time_now();
    uint32_t i;

    for (i = 0; i < a->count; i++) {
        apr_time_t began = ue_journal_began(p->journal, a->refs[i]);

        oldest = began < oldest ? began : oldest;
    }
    a->stream->oldest = oldest;
    if (atomic_load(&account->watermark) > oldest) {
        atomic_store(&account->watermark, oldest);
    }
}

/** Find what a stream has left. @return whether there was memory */
static int judge(ue_producer_t *p, adoption_t *a)
{
    judging_t j = {p,
                   a,
                   calloc(UE_LANES_MAX, sizeof(*j.highest)),
                   calloc(UE_LANES_MAX, sizeof(*j.open)),
                   0,
                   apr_time_now()};
    int done = j.highest && j.open && judge_all(&j);

    if (done) {
        ue_ledger_reconcile(a->stream->file.account, j.highest, j.open,
                            a->count - a->refused);
        note_oldest(p, a);
        a->stream->open = a->count - a->refused;
        if (a->count) {
            qsort_r(a->refs, a->count, sizeof(*a->refs), by_order, p->journal);
        }
    }
    free(j.highest);
    free(j.open);
    return done;
}

/* ---- taking over: files ---- */

/** A file was too short, and is not any more: let the account remember. */
static void note_cut(stream_t *stream)
{
    uint32_t state = UE_STREAM_OPEN;

    atomic_compare_exchange_strong(&stream->file.account->state, &state,
                                   UE_STREAM_UNCLEAN);
}

/** Map one segment of a stream that we have the lock of. */
static apr_status_t map_segment(ue_producer_t *p, adoption_t *a,
                                const char *name)
{
    segment_t *segment = calloc(1, sizeof(*segment));
    ue_segment_head_t head;
    apr_status_t rv;
    int fd, cut;

    if (!segment) {
        return APR_ENOMEM;
    }
    rv = ue_spool_segment_open(p->spool, name, &head, &cut, &fd);
    if (rv == APR_SUCCESS) {
        segment->region.slots = head.slots;
        segment->region.salt = head.salt;
        segment->region.maker_first = head.first;
        segment->region.owner = a->stream;
        memcpy(segment->region.maker, head.maker.b, sizeof(head.maker.b));
        apr_cpystrn(segment->name, name, sizeof(segment->name));
        rv = ue_journal_map(p->journal, fd, UE_SEGMENT_HEAD, &segment->region);
        close(fd);
        a->is_unclean |= cut;
        if (cut) {
            note_cut(a->stream);
        }
    }
    if (rv != APR_SUCCESS) {
        free(segment);
        return rv;
    }
    segment->next = a->stream->segments;
    a->stream->segments = segment;
    return APR_SUCCESS;
}

static apr_status_t map_segments(ue_producer_t *p, adoption_t *a,
                                 const apr_array_header_t *entries)
{
    apr_status_t rv = APR_SUCCESS;
    int i;

    for (i = 0; i < entries->nelts && rv == APR_SUCCESS; i++) {
        const ue_spool_entry_t *entry =
            &APR_ARRAY_IDX(entries, i, ue_spool_entry_t);

        if (!entry->is_segment
            || memcmp(&entry->stream, &a->stream->file.id,
                      sizeof(entry->stream))
                   != 0) {
            continue;
        }
        rv = map_segment(p, a, entry->name);
        if (rv == APR_EGENERAL) {
            complain_of_file(p, APR_SUCCESS,
                             apr_pstrcat(entries->pool, entry->name,
                                         " is no file of slots, or its head is "
                                         "damaged; it is left where it is",
                                         NULL));
            a->is_unclean = 1;
            rv = APR_SUCCESS;
        }
    }
    return rv;
}

/** Give all of it back, as if we had never seen it. */
static void let_be(ue_producer_t *p, adoption_t *a)
{
    segment_t *segment = a->stream->segments;

    while (segment) {
        segment_t *next = segment->next;

        ue_journal_unmap(p->journal, &segment->region);
        free(segment);
        segment = next;
    }
    ue_spool_stream_end(p->spool, &a->stream->file, 0);
    free(a->stream);
    free(a->refs);
    free(a);
}

static int is_our_target(const ue_producer_t *p, const ue_identity_t *identity)
{
    return memcmp(&identity->target, p->config.target, sizeof(identity->target))
           == 0;
}

static int is_all_zero(const ue_stream_t *id)
{
    static const ue_stream_t zero;

    return memcmp(id, &zero, sizeof(zero)) == 0;
}

/** Were its numbers given out by this boot of the machine? Where the system
 * doesn't tell, nobody knows. */
static int is_this_boot(const ue_identity_t *identity)
{
    ue_stream_t boot;

    ue_ledger_boot(&boot);
    return !is_all_zero(&boot)
           && memcmp(&boot, &identity->boot, sizeof(boot)) == 0;
}

static int is_this_run(const ue_producer_t *p, const ue_stream_t *instance)
{
    return memcmp(instance->b, ue_metrics_instance(p->metrics),
                  sizeof(instance->b))
           == 0;
}

/** What another run of httpd has admitted, whose counters are gone. A child of
 * ours may have counted it already, and then was killed too. */
static void count_admitted(ue_producer_t *p, const adoption_t *a)
{
    ue_account_t *account = a->stream->file.account;

    if (!is_this_run(p, &ue_ledger_identity(account)->instance)
        && !is_this_run(p, &account->counted)) {
        memcpy(account->counted.b, ue_metrics_instance(p->metrics),
               sizeof(account->counted.b));
        ue_metrics_add(p->seat, UE_M_EVENTS_ADMITTED,
                       a->count - a->refused + a->torn);
    }
}

/** A stream that we have the lock of: hand it to the worker. */
static apr_status_t take(ue_producer_t *p, adoption_t *a,
                         const apr_array_header_t *entries)
{
    const ue_identity_t *identity = ue_ledger_identity(a->stream->file.account);
    apr_status_t rv;

    a->is_unclean =
        !is_this_boot(identity) || a->stream->file.cut
        || atomic_load(&a->stream->file.account->state) == UE_STREAM_UNCLEAN;
    rv = map_segments(p, a, entries);
    if (rv == APR_SUCCESS && !judge(p, a)) {
        rv = APR_ENOMEM;
    }
    if (rv != APR_SUCCESS) {
        return rv;
    }
    ue_metrics_add(p->seat, UE_M_EVENTS_ADOPTED, a->count);
    count_admitted(p, a);
    atomic_store(&p->mail, a);
    return APR_SUCCESS;
}

/** Is it but the account of losses, of a stream that has ended, which stays for
 * people to read where there is no ledger? */
static int is_keepsake(const ue_producer_t *p, const ue_account_t *account,
                       const ue_stream_t *id, const apr_array_header_t *entries)
{
    int i;

    if ((p->numbering && p->numbering->sink->vtable->note)
        || atomic_load(&account->state) == UE_STREAM_OPEN
        || atomic_load(&account->lost) == 0) {
        return 0;
    }
    for (i = 0; i < entries->nelts; i++) {
        const ue_spool_entry_t *entry =
            &APR_ARRAY_IDX(entries, i, ue_spool_entry_t);

        if (entry->is_segment && memcmp(&entry->stream, id, sizeof(*id)) == 0) {
            return 0;
        }
    }
    return 1;
}

/** Only its last record is due, and so are many others', which the ledger
 * doesn't take: each would cost us a descriptor. */
static int is_no_hurry(const ue_producer_t *p, const ue_account_t *account)
{
    return atomic_load(&account->state) != UE_STREAM_OPEN
           && atomic_load(&p->untold) >= UNTOLD_MOST;
}

/** @return whether there was something to take over */
static int adopt(ue_producer_t *p, const ue_stream_t *id,
                 const apr_array_header_t *entries)
{
    adoption_t *a = calloc(1, sizeof(*a));
    stream_t *stream = calloc(1, sizeof(*stream));
    apr_status_t rv = a && stream
                          ? ue_spool_stream_adopt(p->spool, id, &stream->file)
                          : APR_ENOMEM;
    char name[UE_STREAM_HEX + 1];

    if (rv != APR_SUCCESS) {
        free(a);
        free(stream);
        if (rv == APR_EGENERAL) {
            complain_of_file(
                p, APR_SUCCESS,
                apr_pstrcat(entries->pool, ue_stream_format(id, name),
                            ".stream is damaged; it is left where it is, "
                            "with its slots",
                            NULL));
        }
        else if (!APR_STATUS_IS_EBUSY(rv) && !APR_STATUS_IS_ENOENT(rv)
                 && rv != EROFS) { /* whether it is held, can't be told */
            complain_of_file(
                p, rv,
                "a stream that nobody holds can't be taken over; it is "
                "tried again");
        }
        return 0;
    }
    stream->was_adopted = 1;
    a->stream = stream;
    if (stream->file.cut) {
        note_cut(stream);
    }
    if (!is_our_target(p, ue_ledger_identity(stream->file.account))
        || is_keepsake(p, stream->file.account, id, entries)
        || is_no_hurry(p, stream->file.account)) {
        let_be(p, a);
        return 0;
    }
    rv = take(p, a, entries);
    if (rv != APR_SUCCESS) {
        complain_of_file(
            p, rv,
            "a stream that nobody holds can't be taken over; it is tried "
            "again");
        let_be(p, a);
        return 0;
    }
    return 1;
}

/** Look for streams that nobody holds. @return how many there are, but ours */
static uint32_t scan(ue_producer_t *p, int *found, apr_pool_t *pool)
{
    apr_array_header_t *entries;
    uint32_t others = 0;
    int i;

    if (ue_spool_list(p->spool, &entries, pool) != APR_SUCCESS) {
        return 0;
    }
    ue_metrics_set(p->seat, UE_M_SPOOL_BYTES,
                   (uint64_t)ue_spool_bytes(p->spool));
    for (i = 0; i < entries->nelts; i++) {
        const ue_spool_entry_t *entry =
            &APR_ARRAY_IDX(entries, i, ue_spool_entry_t);

        if (entry->is_segment || ue_spool_is_ours(&entry->stream)) {
            continue;
        }
        others++;
        if (!atomic_load(&p->mail) && !atomic_load(&p->spool_ending)
            && adopt(p, &entry->stream, entries)) {
            *found = 1;
            ue_producer_wake(p);
        }
    }
    return others;
}

apr_interval_time_t ue_producer_scan_every(const ue_producer_t *p)
{
    return p->config.scan_interval ? p->config.scan_interval : SCAN_EVERY;
}

static apr_interval_time_t next_scan(const ue_producer_t *p, uint32_t others,
                                     uint32_t *seed)
{
    apr_interval_time_t every =
        ue_producer_scan_every(p) * (1 + others / SCAN_STREAMS);

    /* Children that were forked at once don't look at once. */
    *seed = *seed * 1103515245u + 12345u;
    return every / 2 + (apr_interval_time_t)(*seed >> 8) % every;
}

void *ue_producer_keep_spool(void *producer)
{
    ue_producer_t *p = producer;
    apr_interval_time_t tick = p->config.flush_interval;
    apr_time_t scan_at = 0, grow_at = 0, sync_at = 0, tidy_at = 0;
    uint32_t seed = p->id.salt;
    uint64_t synced = 0;
    apr_pool_t *pool;

    if (apr_pool_create_unmanaged_ex(&pool, NULL, NULL) != APR_SUCCESS) {
        return NULL;
    }
    tick = tick < ue_producer_scan_every(p) ? tick : ue_producer_scan_every(p);
    ue_metrics_set(p->seat, UE_M_SPOOL_MOST, (uint64_t)ue_spool_most(p->spool));
    while (!atomic_load(&p->spool_ending)) {
        apr_time_t now = ue_monotonic();

        if (now >= grow_at) {
            grow_at = keep_room(p, now);
        }
        if (now >= sync_at) {
            sync_now(p, &synced);
            sync_at = now + p->config.flush_interval;
        }
        /* Where there was one, there are others, as soon as the worker has
         * taken that. */
        if (now >= scan_at && !atomic_load(&p->mail)) {
            int found = 0;
            uint32_t others = scan(p, &found, pool);

            scan_at = found ? now : now + next_scan(p, others, &seed);
            apr_pool_clear(pool);
        }
        if (now >= tidy_at) {
            ue_spool_tidy(p->spool);
            tidy_at = now + TIDY_EVERY;
        }
        ue_sem_wait(&p->spool_wake, tick);
    }
    return NULL;
}
