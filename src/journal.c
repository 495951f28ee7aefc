/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "journal.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#define EVENT_TEXT_MAX (UE_ENDPOINT_MAX + UE_METHOD_MAX)
#define REGIONS_MAX 4096
#define UNIT 64 /* slots that fill whole pages */

struct ue_journal_t {
    ue_slot_t *slots;
    _Atomic uint64_t *below; /* of a free slot: how many are free with it, in
                                the upper half; the ref below it */
    _Atomic uint32_t count;  /* own slots */
    uint32_t own_most;
    uint32_t refs_max;
    int checked;
    ue_journal_id_t id;
    _Atomic apr_time_t floor;

    pthread_mutex_t mutex; /* for who adds and removes regions */
    ue_region_t *_Atomic regions[REGIONS_MAX];
    _Atomic int region_count; /* up to where there may be some */
    ue_region_t *last;        /* that the worker found */

    /* Tag in the upper half, ref of the top in the lower. On a cache line of
     * its own, since all request threads write it. */
    _Atomic uint64_t top __attribute__((aligned(64)));
    char pad[64 - sizeof(uint64_t)];
};

static ue_slot_t *slot_at(const ue_journal_t *j, ue_slot_ref_t ref)
{
    return &j->slots[ref - 1];
}

/* ---- free slots ---- */

#define PAIR(upper, ref) ((uint64_t)(upper) << 32 | (ref))
#define REF(pair) ((ue_slot_ref_t)(pair))

static ue_slot_ref_t pop(ue_journal_t *j)
{
    uint64_t top = atomic_load_explicit(&j->top, memory_order_acquire);
    uint64_t under;

    do {
        if (REF(top) == 0) {
            return 0;
        }
        /* May be stale already; then the tag has changed and the swap fails. */
        under =
            atomic_load_explicit(&j->below[REF(top) - 1], memory_order_relaxed);
    } while (!atomic_compare_exchange_weak_explicit(
        &j->top, &top, PAIR((top >> 32) + 1, REF(under)), memory_order_acquire,
        memory_order_acquire));
    return REF(top);
}

static uint32_t free_from(const ue_journal_t *j, ue_slot_ref_t ref)
{
    return ref ? (uint32_t)(atomic_load_explicit(&j->below[ref - 1],
                                                 memory_order_relaxed)
                            >> 32)
               : 0;
}

static void push(ue_journal_t *j, ue_slot_ref_t ref)
{
    uint64_t top = atomic_load_explicit(&j->top, memory_order_acquire);

    do {
        atomic_store_explicit(&j->below[ref - 1],
                              PAIR(free_from(j, REF(top)) + 1, REF(top)),
                              memory_order_relaxed);
    } while (!atomic_compare_exchange_weak_explicit(
        &j->top, &top, PAIR((top >> 32) + 1, ref), memory_order_acq_rel,
        memory_order_acquire));
}

uint32_t ue_journal_free(const ue_journal_t *j)
{
    return free_from(j,
                     REF(atomic_load_explicit(&j->top, memory_order_acquire)));
}

int ue_journal_is_full(const ue_journal_t *j)
{
    return REF(atomic_load_explicit(&j->top, memory_order_relaxed)) == 0;
}

/* ---- memory ---- */

static void *reserve(size_t size, int protection)
{
    void *at = mmap(NULL, size, protection,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return at == MAP_FAILED ? NULL : at;
}

static ue_journal_t *new_journal(uint32_t own_most, uint32_t refs_max,
                                 int protection, apr_pool_t *p)
{
    /* APR aligns to 8, the top of the stack wants a cache line. */
    ue_journal_t *j = apr_pcalloc(p, sizeof(*j) + 63);

    j = (ue_journal_t *)(((uintptr_t)j + 63) & ~(uintptr_t)63);
    j->own_most = own_most;
    j->refs_max = refs_max;
    pthread_mutex_init(&j->mutex, NULL);
    j->slots = reserve((size_t)refs_max * sizeof(ue_slot_t), protection);
    j->below =
        reserve((size_t)own_most * sizeof(*j->below), PROT_READ | PROT_WRITE);
    return j->slots && j->below ? j : NULL;
}

/** Have slots taken, the lowest first. */
static void add_free(ue_journal_t *j, ue_slot_ref_t first, uint32_t slots)
{
    uint32_t i;

    for (i = slots; i > 0; i--) {
        push(j, first + i - 1);
    }
}

apr_status_t ue_journal_create(ue_journal_t **journal, uint32_t slots,
                               apr_pool_t *p)
{
    ue_journal_t *j;

    if (slots < UE_JOURNAL_SLOTS_MIN || slots > UE_JOURNAL_SLOTS_MAX) {
        return APR_EINVAL;
    }
    j = new_journal(slots, slots, PROT_READ | PROT_WRITE, p);
    if (!j) {
        return APR_ENOMEM;
    }
    atomic_store(&j->count, slots);
    add_free(j, 1, slots);
    *journal = j;
    return APR_SUCCESS;
}

apr_status_t ue_journal_create_spooled(ue_journal_t **journal, uint32_t most,
                                       const ue_journal_id_t *id, apr_pool_t *p)
{
    ue_journal_t *j;

    most -= most % UNIT;
    if (most < UNIT || most > UE_JOURNAL_REFS_MAX / 2) {
        return APR_EINVAL;
    }
    j = new_journal(most, 2 * most, PROT_NONE, p);
    if (!j) {
        return APR_ENOMEM;
    }
    j->checked = 1;
    j->id = *id;
    *journal = j;
    return APR_SUCCESS;
}

static apr_status_t map(const ue_journal_t *j, int fd, apr_off_t offset,
                        ue_slot_ref_t first, uint32_t slots)
{
    void *at = mmap(slot_at(j, first), (size_t)slots * sizeof(ue_slot_t),
                    PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, offset);

    return at == MAP_FAILED ? errno : APR_SUCCESS;
}

apr_status_t ue_journal_extend(ue_journal_t *j, int fd, apr_off_t offset,
                               uint32_t slots)
{
    uint32_t count = atomic_load(&j->count);
    apr_status_t rv;

    if (slots % UNIT || slots > j->own_most - count) {
        return APR_ENOSPC;
    }
    rv = map(j, fd, offset, count + 1, slots);
    if (rv == APR_SUCCESS) {
        atomic_store(&j->count, count + slots);
        add_free(j, count + 1, slots);
    }
    return rv;
}

/* ---- regions ---- */

static ue_region_t *region_at(const ue_journal_t *j, int i)
{
    return atomic_load_explicit(&j->regions[i], memory_order_acquire);
}

/** The region that has one of these refs. */
static ue_region_t *region_between(const ue_journal_t *j, ue_slot_ref_t first,
                                   uint32_t slots)
{
    int n = atomic_load(&j->region_count);
    int i;

    for (i = 0; i < n; i++) {
        ue_region_t *region = region_at(j, i);

        if (region && first < region->first + region->slots
            && region->first < first + slots) {
            return region;
        }
    }
    return NULL;
}

apr_status_t ue_journal_map(ue_journal_t *j, int fd, apr_off_t offset,
                            ue_region_t *region)
{
    apr_status_t rv = APR_ENOSPC;
    ue_slot_ref_t first = j->own_most + 1;
    const ue_region_t *other;
    int i = 0;

    pthread_mutex_lock(&j->mutex);
    while ((other = region_between(j, first, region->slots)) != NULL) {
        first = other->first + other->slots;
    }
    while (i < REGIONS_MAX && region_at(j, i)) {
        i++;
    }
    if (i < REGIONS_MAX && region->slots <= j->refs_max - (first - 1)) {
        rv = map(j, fd, offset, first, region->slots);
    }
    if (rv == APR_SUCCESS) {
        region->first = first;
        region->open = 0;
        atomic_store_explicit(&j->regions[i], region, memory_order_release);
        if (i >= atomic_load(&j->region_count)) {
            atomic_store(&j->region_count, i + 1);
        }
    }
    pthread_mutex_unlock(&j->mutex);
    return rv;
}

void ue_journal_unmap(ue_journal_t *j, ue_region_t *region)
{
    int i = 0;

    pthread_mutex_lock(&j->mutex);
    while (i < REGIONS_MAX && region_at(j, i) != region) {
        i++;
    }
    if (i < REGIONS_MAX) {
        /* Where even that fails the slots stay, and nobody refers to them. */
        (void)mmap(slot_at(j, region->first),
                   (size_t)region->slots * sizeof(ue_slot_t), PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
                   0);
        atomic_store(&j->regions[i], NULL);
    }
    pthread_mutex_unlock(&j->mutex);
    if (j->last == region) {
        j->last = NULL;
    }
}

ue_region_t *ue_journal_region(const ue_journal_t *journal, ue_slot_ref_t ref)
{
    ue_journal_t *j = (ue_journal_t *)(uintptr_t)journal;

    if (ref <= j->own_most) {
        return NULL;
    }
    if (!j->last || ref < j->last->first
        || ref >= j->last->first + j->last->slots) {
        pthread_mutex_lock(&j->mutex);
        j->last = region_between(j, ref, 1);
        pthread_mutex_unlock(&j->mutex);
    }
    return j->last;
}

ue_slot_t *ue_journal_slot(const ue_journal_t *j, ue_slot_ref_t ref)
{
    return slot_at(j, ref);
}

ue_slot_ref_t ue_journal_resolve(const ue_journal_t *journal,
                                 const ue_region_t *from, ue_slot_ref_t link)
{
    ue_journal_t *j = (ue_journal_t *)(uintptr_t)journal;
    ue_slot_ref_t found = 0;
    int n = atomic_load(&j->region_count);
    int i;

    /* The other thread may be giving one free. */
    pthread_mutex_lock(&j->mutex);
    for (i = 0; i < n && !found; i++) {
        const ue_region_t *region = region_at(j, i);

        if (region && link >= region->maker_first
            && link - region->maker_first < region->slots
            && memcmp(region->maker, from->maker, sizeof(from->maker)) == 0) {
            found = region->first + (link - region->maker_first);
        }
    }
    pthread_mutex_unlock(&j->mutex);
    return found;
}

/** Where a region lies. @return 0: there is none at this place */
static size_t bytes_of_region(const ue_journal_t *journal, int i,
                              ue_slot_ref_t *first)
{
    ue_journal_t *j = (ue_journal_t *)(uintptr_t)journal;
    const ue_region_t *region;
    size_t bytes = 0;

    pthread_mutex_lock(&j->mutex);
    region = region_at(j, i);
    if (region) {
        *first = region->first;
        bytes = (size_t)region->slots * sizeof(ue_slot_t);
    }
    pthread_mutex_unlock(&j->mutex);
    return bytes;
}

apr_status_t ue_journal_sync(const ue_journal_t *j)
{
    size_t own = (size_t)atomic_load(&j->count) * sizeof(ue_slot_t);
    apr_status_t rv = APR_SUCCESS;
    int n = atomic_load(&j->region_count);
    int i;

    if (own && msync(j->slots, own, MS_SYNC) != 0) {
        rv = errno;
    }
    for (i = 0; i < n; i++) {
        ue_slot_ref_t first = 0;
        size_t bytes = bytes_of_region(j, i, &first);

        /* Given free meanwhile, there is nothing to be synced. */
        if (bytes && msync(slot_at(j, first), bytes, MS_SYNC) != 0) {
            rv = errno;
        }
    }
    return rv;
}

/* ---- admission ---- */

/** The slot behind a link of another, in our own numbering. */
static ue_slot_ref_t behind(const ue_journal_t *j, ue_slot_ref_t ref,
                            ue_slot_ref_t link)
{
    const ue_region_t *region = ue_journal_region(j, ref);

    return region && link ? ue_journal_resolve(j, region, link) : link;
}

/** Give one slot back, if it is ours, or count it off its region. */
static void give_back(ue_journal_t *j, ue_slot_ref_t ref)
{
    ue_region_t *region = ue_journal_region(j, ref);

    if (!region) {
        push(j, ref);
    }
    else {
        region->open--;
    }
}

/** Give further slots back. */
static void unchain(ue_journal_t *j, ue_slot_ref_t ref)
{
    while (ref) {
        ue_further_t *further = &slot_at(j, ref)->further;
        ue_slot_ref_t next = behind(j, ref, further->next);

        if (atomic_exchange_explicit(&further->state, UE_SLOT_FREE,
                                     memory_order_relaxed)
            != UE_SLOT_FURTHER) {
            break; /* an adopted one, whose links nobody can trust */
        }
        give_back(j, ref);
        ref = next;
    }
}

/** Put text into further slots. @return the first of them, 0 if too few */
static ue_slot_ref_t chain(ue_journal_t *j, const ue_uuid_t *request_id,
                           const char *text, size_t len)
{
    size_t pieces = (len + UE_SLOT_FURTHER_TEXT - 1) / UE_SLOT_FURTHER_TEXT;
    ue_slot_ref_t next = 0;

    /* From the last piece to the first, so that each knows what follows it. */
    while (pieces-- > 0) {
        size_t from = pieces * UE_SLOT_FURTHER_TEXT;
        size_t n = len - from < UE_SLOT_FURTHER_TEXT ? len - from
                                                     : UE_SLOT_FURTHER_TEXT;
        ue_slot_ref_t ref = pop(j);
        ue_further_t *further;

        if (!ref) {
            unchain(j, next);
            return 0;
        }
        further = &slot_at(j, ref)->further;
        memcpy(further->text, text + from, n);
        further->next = next;
        further->generation++;
        if (j->checked) {
            ue_slot_check_further(further, j->id.salt, request_id, n);
        }
        atomic_store_explicit(&further->state, UE_SLOT_FURTHER,
                              memory_order_relaxed);
        next = ref;
    }
    return next;
}

/**
 * The method, unless it is a known one, and the endpoint behind it.
 * @return bytes of both
 */
static size_t clean_text(char *text, const ue_admission_t *a, uint8_t code,
                         size_t *method_len)
{
    *method_len =
        code ? 0 : ue_utf8_clean(text, UE_METHOD_MAX, a->method, a->method_len);
    return *method_len
           + ue_utf8_clean(text + *method_len, UE_ENDPOINT_MAX, a->endpoint,
                           a->endpoint_len);
}

static int change(ue_first_t *slot, ue_slot_state_t from, ue_slot_state_t to)
{
    uint8_t state = (uint8_t)from;

    return atomic_compare_exchange_strong_explicit(
        &slot->state, &state, (uint8_t)to, memory_order_acq_rel,
        memory_order_relaxed);
}

static void stamp(const ue_journal_t *j, ue_first_t *slot, apr_time_t when)
{
    atomic_store_explicit(&slot->timestamp, when, memory_order_relaxed);
    if (j->checked) {
        ue_slot_check_admission(slot, j->id.salt);
    }
}

static void write_admission(const ue_journal_t *j, ue_first_t *slot,
                            const ue_admission_t *a)
{
    apr_time_t floor = atomic_load(&j->floor);
    apr_time_t when = a->timestamp > floor ? a->timestamp : floor;

    slot->request_id = a->request_id;
    slot->organization_id = a->organization_id;
    slot->api_key_id = a->api_key_id;
    slot->number = 0;
    stamp(j, slot, when);
    atomic_store(&slot->state, UE_SLOT_ADMITTED);
    floor = atomic_load(&j->floor);
    /* Raised just now; nobody may seal the slot meanwhile. */
    if (when < floor && change(slot, UE_SLOT_ADMITTED, UE_SLOT_COMPLETING)) {
        stamp(j, slot, floor);
        change(slot, UE_SLOT_COMPLETING, UE_SLOT_ADMITTED);
    }
}

apr_status_t ue_journal_admit(ue_journal_t *j, const ue_admission_t *a,
                              ue_slot_ref_t *ref)
{
    char text[EVENT_TEXT_MAX];
    uint8_t code = ue_slot_method_code(a->method, a->method_len);
    size_t method_len;
    size_t len = clean_text(text, a, code, &method_len);
    ue_slot_ref_t further = 0;
    ue_first_t *slot;

    *ref = 0;
    if (len > UE_SLOT_TEXT) {
        further = chain(j, &a->request_id, text + UE_SLOT_TEXT_BEFORE_LINK,
                        len - UE_SLOT_TEXT_BEFORE_LINK);
        if (!further) {
            return APR_EAGAIN;
        }
    }
    *ref = pop(j);
    if (!*ref) {
        unchain(j, further);
        return APR_EAGAIN;
    }
    slot = &slot_at(j, *ref)->first;
    /* First of all, so that a thread that is killed in here leaves nothing
     * proved of the slot's earlier use. */
    slot->generation++;
    atomic_signal_fence(memory_order_seq_cst);
    slot->method = code;
    slot->flags = further ? UE_SLOT_CONTINUED : 0;
    slot->endpoint_len = (uint16_t)(len - method_len);
    slot->method_len = (uint8_t)method_len;
    if (further) {
        memcpy(slot->text, text, UE_SLOT_TEXT_BEFORE_LINK);
        memcpy(slot->text + UE_SLOT_TEXT_BEFORE_LINK, &further,
               sizeof(further));
    }
    else {
        memcpy(slot->text, text, len);
    }
    write_admission(j, slot, a);
    return APR_SUCCESS;
}

void ue_journal_raise_floor(ue_journal_t *j, apr_time_t floor)
{
    if (floor > atomic_load(&j->floor)) {
        atomic_store(&j->floor, floor);
    }
}

/* ---- from state to state ---- */

apr_status_t ue_journal_complete(ue_journal_t *j, ue_slot_ref_t ref,
                                 const ue_completion_t *c)
{
    ue_first_t *slot = &slot_at(j, ref)->first;

    if (!change(slot, UE_SLOT_ADMITTED, UE_SLOT_COMPLETING)) {
        return APR_EBUSY;
    }
    slot->response_time_ms = c->response_time_ms;
    slot->status_code = c->status_code;
    slot->flags |= c->billable ? UE_SLOT_BILLABLE : 0;
    if (j->checked) {
        ue_slot_check_completion(slot);
    }
    /* Whoever closes may have given this thread up for dead in between. */
    return change(slot, UE_SLOT_COMPLETING, UE_SLOT_COMPLETE) ? APR_SUCCESS
                                                              : APR_EBUSY;
}

void ue_journal_strand(ue_journal_t *j, ue_slot_ref_t ref)
{
    change(&slot_at(j, ref)->first, UE_SLOT_COMPLETE, UE_SLOT_STRANDED);
}

static int change_any(ue_first_t *slot, unsigned from, ue_slot_state_t to)
{
    unsigned state = atomic_load_explicit(&slot->state, memory_order_acquire);

    return (from & 1u << state) && change(slot, (ue_slot_state_t)state, to);
}

int ue_journal_list(ue_journal_t *j, ue_slot_ref_t ref, unsigned from)
{
    return change_any(&slot_at(j, ref)->first, from, UE_SLOT_LISTED);
}

void ue_journal_send(ue_journal_t *j, ue_slot_ref_t ref, uint32_t partition,
                     uint64_t number)
{
    ue_first_t *slot = &slot_at(j, ref)->first;

    slot->partition = partition;
    slot->number = number;
    if (j->checked) {
        ue_slot_check_delivery(slot, UE_PHASE_SENT);
    }
    change(slot, UE_SLOT_LISTED, UE_SLOT_SENT);
}

void ue_journal_unsend(ue_journal_t *j, ue_slot_ref_t ref)
{
    /* Its check goes on saying that it was sent, since it keeps its number. */
    change(&slot_at(j, ref)->first, UE_SLOT_SENT, UE_SLOT_LISTED);
}

void ue_journal_forget(ue_journal_t *j, ue_slot_ref_t ref)
{
    ue_first_t *slot = &slot_at(j, ref)->first;

    slot->number = 0;
    if (j->checked) {
        ue_slot_check_delivery(slot, UE_PHASE_NONE);
    }
}

void ue_journal_mark_in_file(ue_journal_t *j, ue_slot_ref_t ref)
{
    ue_first_t *slot = &slot_at(j, ref)->first;

    slot->flags |= UE_SLOT_IN_FILE;
    if (j->checked) {
        ue_slot_check_delivery(slot,
                               slot->number ? UE_PHASE_SENT : UE_PHASE_NONE);
    }
}

void ue_journal_leave_topic(ue_journal_t *j, ue_slot_ref_t ref, int refused)
{
    ue_first_t *slot = &slot_at(j, ref)->first;

    if (j->checked) {
        ue_slot_check_delivery(slot,
                               refused ? UE_PHASE_REFUSED : UE_PHASE_STORED);
    }
    change(slot, UE_SLOT_SENT, UE_SLOT_LISTED);
}

int ue_journal_was_refused(const ue_journal_t *j, ue_slot_ref_t ref)
{
    return (slot_at(j, ref)->first.flags & UE_SLOT_REFUSED) != 0;
}

int ue_journal_left_topic(const ue_journal_t *j, ue_slot_ref_t ref)
{
    return (slot_at(j, ref)->first.flags & (UE_SLOT_IN_TOPIC | UE_SLOT_REFUSED))
           != 0;
}

int ue_journal_is_in_file(const ue_journal_t *j, ue_slot_ref_t ref)
{
    return (slot_at(j, ref)->first.flags & UE_SLOT_IN_FILE) != 0;
}

uint64_t ue_journal_number(const ue_journal_t *j, ue_slot_ref_t ref)
{
    return slot_at(j, ref)->first.number;
}

uint32_t ue_journal_partition(const ue_journal_t *j, ue_slot_ref_t ref)
{
    return slot_at(j, ref)->first.partition;
}

int ue_journal_settle(ue_journal_t *j, ue_slot_ref_t ref, unsigned from)
{
    ue_first_t *slot = &slot_at(j, ref)->first;

    return change_any(slot, from, UE_SLOT_FREE);
}

void ue_journal_retire(ue_journal_t *j, ue_slot_ref_t ref)
{
    if (j->checked) {
        ue_slot_check_delivery(&slot_at(j, ref)->first, UE_PHASE_DELIVERED);
    }
}

int ue_journal_interrupt(ue_journal_t *j, ue_slot_ref_t ref)
{
    ue_first_t *slot = &slot_at(j, ref)->first;

    if (!change(slot, UE_SLOT_ADMITTED, UE_SLOT_LISTED)) {
        return 0;
    }
    slot->response_time_ms = 0;
    slot->status_code = 0;
    slot->flags &= (uint8_t)~UE_SLOT_BILLABLE;
    if (j->checked) {
        ue_slot_check_completion(slot);
    }
    return 1;
}

/* ---- reading ---- */

typedef struct {
    const ue_journal_t *journal;
    ue_slot_ref_t ref; /* the slot that the link is in */
} finder_t;

static const ue_slot_t *find(void *baton, ue_slot_ref_t link, uint32_t *salt)
{
    finder_t *finder = baton;

    finder->ref = behind(finder->journal, finder->ref, link);
    return finder->ref ? slot_at(finder->journal, finder->ref) : NULL;
}

void ue_journal_read(const ue_journal_t *j, ue_slot_ref_t ref,
                     ue_event_t *event, char *buf)
{
    finder_t finder = {j, ref};

    ue_slot_view(&slot_at(j, ref)->first, 0, find, &finder, event, buf);
}

const ue_uuid_t *ue_journal_organization(const ue_journal_t *j,
                                         ue_slot_ref_t ref)
{
    return &slot_at(j, ref)->first.organization_id;
}

apr_time_t ue_journal_began(const ue_journal_t *j, ue_slot_ref_t ref)
{
    return atomic_load_explicit(&slot_at(j, ref)->first.timestamp,
                                memory_order_relaxed);
}

apr_time_t ue_journal_ended(const ue_journal_t *j, ue_slot_ref_t ref)
{
    return ue_journal_began(j, ref)
           + apr_time_from_msec(slot_at(j, ref)->first.response_time_ms);
}

int ue_journal_look(const ue_journal_t *j, ue_slot_ref_t ref,
                    ue_slot_look_t *look)
{
    ue_slot_state_t state = ue_journal_state(j, ref);

    look->is_open = state == UE_SLOT_ADMITTED;
    look->began = ue_journal_began(j, ref);
    return state != UE_SLOT_FREE && state != UE_SLOT_FURTHER;
}

void ue_journal_release(ue_journal_t *j, ue_slot_ref_t ref)
{
    ue_first_t *slot = &slot_at(j, ref)->first;

    unchain(j, behind(j, ref, ue_slot_link(slot)));
    atomic_store_explicit(&slot->state, UE_SLOT_FREE, memory_order_relaxed);
    give_back(j, ref);
}

uint32_t ue_journal_slots(const ue_journal_t *j)
{
    return atomic_load(&j->count);
}

uint32_t ue_journal_refs_max(const ue_journal_t *j)
{
    return j->refs_max;
}

ue_slot_state_t ue_journal_state(const ue_journal_t *j, ue_slot_ref_t ref)
{
    return (ue_slot_state_t)atomic_load(&slot_at(j, ref)->first.state);
}
