/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "producer_int.h"

#define POP_AT_ONCE 64
#define WALK_AT_ONCE 65536
/* So many events in a tick fill the slots before reports come that free them,
 * unless ticks are shorter. */
#define MANY 500
#define SHORT_TICK apr_time_from_msec(1)
#define SLEEP_AFTER apr_time_from_sec(2)
#define NAP apr_time_from_sec(1)
#define NAMES_MAX 100 /* organizations that are named in the log at the end */

/**
 * Empty the queue, not longer than it was when we began.
 * @return whether the worker may go on: not if it has been replaced
 */
static int pop_all(ue_producer_t *p, apr_time_t now)
{
    int32_t left = atomic_load(&p->queued);

    if (left < 0) {
        left = 0;
    }
    /* The child's other producers add theirs to the same gauge. */
    ue_metrics_add(p->seat, UE_M_QUEUE_EVENTS,
                   (uint64_t)(int64_t)(left - p->shown));
    p->shown = left;
    ue_metrics_set(p->seat, UE_M_QUEUE_EVENTS_MAX, (uint64_t)left);
    while (left > 0 && atomic_load(&p->stage) < STAGE_CLOSING) {
        ue_slot_ref_t refs[POP_AT_ONCE];
        int at = WORKER_POPPING;
        int i, n = 0;
        void *ref;

        /* In here nothing but the queue is touched: whoever closes may take
         * our place if its mutex never comes free. */
        atomic_store(&p->worker_at, WORKER_POPPING);
        while (n < POP_AT_ONCE && n < left
               && apr_queue_trypop(p->queue, &ref) == APR_SUCCESS) {
            refs[n++] = (ue_slot_ref_t)(uintptr_t)ref;
        }
        if (!atomic_compare_exchange_strong(&p->worker_at, &at, WORKER_OUT)) {
            return 0;
        }
        if (n == 0) {
            break; /* reserved, not pushed yet */
        }
        for (i = 0; i < n; i++) {
            if (ue_journal_list(p->journal, refs[i], 1u << UE_SLOT_COMPLETE)) {
                ue_producer_list(p, refs[i], now);
            }
        }
        atomic_fetch_sub(&p->queued, n);
        left -= n;
    }
    return 1;
}

/** Sift a reference down, the latest on top. */
static void sift(const ue_producer_t *p, uint32_t at, uint32_t count)
{
    ue_slot_ref_t *heap = p->found;
    ue_slot_ref_t ref = heap[at];
    uint32_t below;

    while ((below = 2 * at + 1) < count) {
        if (below + 1 < count
            && ue_journal_began(p->journal, heap[below])
                   < ue_journal_began(p->journal, heap[below + 1])) {
            below++;
        }
        if (ue_journal_began(p->journal, heap[below])
            <= ue_journal_began(p->journal, ref)) {
            break;
        }
        heap[at] = heap[below];
        at = below;
    }
    heap[at] = ref;
}

/** Slots lie as they come off a stack: bring them in the order of time. */
static void sort_found(const ue_producer_t *p, uint32_t count)
{
    uint32_t i;

    for (i = count / 2; i > 0; i--) {
        sift(p, i - 1, count);
    }
    for (i = count; i > 1; i--) {
        ue_slot_ref_t last = p->found[0];

        p->found[0] = p->found[i - 1];
        p->found[i - 1] = last;
        sift(p, 0, i - 1);
    }
}

/** Find slots in one of some states, and list them, in their order.
 * @param first where to begin
 * @param slots how many to look at
 * @return      how many were found */
static int32_t walk(ue_producer_t *p, unsigned states, ue_slot_ref_t first,
                    uint32_t slots, apr_time_t now)
{
    uint32_t all = ue_journal_slots(p->journal);
    uint32_t count = 0;
    uint32_t i;
    ue_slot_ref_t ref;

    for (ref = first; ref <= all && ref - first < slots; ref++) {
        if (ue_journal_list(p->journal, ref, states)) {
            p->found[count++] = ref;
        }
    }
    sort_found(p, count);
    for (i = 0; i < count; i++) {
        ue_producer_list(p, p->found[i], now);
    }
    return (int32_t)count;
}

/** Look for slots that found the queue full, some more of them in each tick:
 * in a journal of millions, all would take longer than the queue lasts. */
static void find_stranded(ue_producer_t *p, apr_time_t now)
{
    if (atomic_load(&p->stranded) <= 0) {
        return;
    }
    if (p->walk_at == 0 || p->walk_at > ue_journal_slots(p->journal)) {
        p->walk_at = 1;
    }
    atomic_fetch_sub(&p->stranded, walk(p, 1u << UE_SLOT_STRANDED, p->walk_at,
                                        WALK_AT_ONCE, now));
    p->walk_at += WALK_AT_ONCE;
}

/** Wait for the next tick, or longer if there has been nothing to do. */
static void rest(ue_producer_t *p, apr_time_t now, apr_time_t *busy)
{
    if (ue_producer_unsettled(p) || atomic_load(&p->queued)
        || atomic_load(&p->stranded)
        || atomic_load(&p->stage) != STAGE_RUNNING) {
        *busy = now;
    }
    if (now - *busy < SLEEP_AFTER + 2 * p->config.flush_interval) {
        ue_sem_wait(&p->wake, p->listed < MANY ? p->tick : SHORT_TICK);
        p->listed = 0;
        return;
    }
    atomic_store(&p->asleep, 1);
    if (atomic_load(&p->queued) == 0 && atomic_load(&p->stranded) == 0) {
        ue_sem_wait(&p->wake, NAP);
    }
    atomic_store(&p->asleep, 0);
}

/** Say how many dropped events no line has spoken of yet. */
static void speak_up(ue_producer_t *p, apr_time_t now)
{
    uint32_t held = atomic_load(&p->full.held);

    if (held && now >= atomic_load(&p->full.next)) {
        held = atomic_exchange(&p->full.held, 0);
        ue_log(UE_LOG_WARNING, APR_SUCCESS,
               "[EventProducer] WARNING: Buffer full, dropped %u more events",
               held);
    }
}

/** The child's other producers add theirs to the same gauges. */
static void show_journal(ue_producer_t *p)
{
    uint32_t slots = ue_journal_slots(p->journal);
    uint32_t free_slots = ue_journal_free(p->journal);

    if (slots != p->shown_slots || free_slots != p->shown_free) {
        ue_metrics_add(p->seat, UE_M_JOURNAL_SLOTS,
                       (uint64_t)((int64_t)slots - p->shown_slots));
        ue_metrics_add(p->seat, UE_M_JOURNAL_FREE,
                       (uint64_t)((int64_t)free_slots - p->shown_free));
        p->shown_slots = slots;
        p->shown_free = free_slots;
    }
    if (p->spool && ue_producer_wants_more(p)) {
        sem_post(&p->spool_wake);
    }
}

/** Record what was admitted and never logged. */
static void interrupt_open(ue_producer_t *p, apr_time_t now)
{
    ue_slot_ref_t ref;

    for (ref = 1; ref <= ue_journal_slots(p->journal); ref++) {
        if (ue_journal_interrupt(p->journal, ref)) {
            ue_account_t *own = atomic_load(&p->own)->file.account;

            ue_metrics_add(p->seat, UE_M_EVENTS_INTERRUPTED, 1);
            atomic_fetch_add(&own->interrupted, 1);
            atomic_fetch_add(&p->recorded, 1);
            ue_producer_list(p, ref, now);
            p->pending[ref - 1] |= UE_PENDING_INTERRUPTED;
        }
    }
}

/** Will this child be killed any moment, by who waited for it to end? */
static int is_last_call(const ue_producer_t *p, apr_time_t now)
{
    apr_time_t last_call = atomic_load(&p->last_call);

    return last_call && now >= last_call;
}

void ue_producer_drain(ue_producer_t *p)
{
    const unsigned complete = 1u << UE_SLOT_COMPLETE | 1u << UE_SLOT_STRANDED;
    apr_time_t deadline = atomic_load(&p->deadline);
    apr_time_t now = ue_monotonic();

    walk(p, complete, 1, UINT32_MAX, now);
    interrupt_open(p, now);
    for (;;) {
        ue_producer_feed(p, now);
        if (ue_producer_unsettled(p) == 0
            || (now = ue_monotonic()) >= deadline) {
            break;
        }
        apr_sleep(p->tick);
        walk(p, complete, 1, UINT32_MAX, now);
        ue_producer_tend_streams(p, now);
        now = ue_monotonic();
    }
    ue_producer_close_streams(p);
    ue_producer_flush_sinks(p, deadline);
}

/** Losses of one organization, for the log. */
typedef struct {
    ue_uuid_t organization_id;
    uint32_t count;
} named_t;

static void name_loss(named_t *named, int *names, const ue_uuid_t *id)
{
    int i = 0;

    while (i < *names && !ue_uuid_equal(&named[i].organization_id, id)) {
        i++;
    }
    if (i == *names && *names < NAMES_MAX) {
        named[(*names)++].organization_id = *id;
    }
    if (i < *names) {
        named[i].count++;
    }
}

static void log_losses(const named_t *named, int names)
{
    char id[UE_UUID_LEN + 1];
    int i;

    for (i = 0; i < names; i++) {
        ue_log(UE_LOG_ERR, APR_SUCCESS,
               "UE0202: producer: lost at the child's end: %u events of "
               "organization %s",
               named[i].count, ue_uuid_format(&named[i].organization_id, id));
    }
}

static ue_loss_t cause_of(ue_slot_state_t state)
{
    switch (state) {
    case UE_SLOT_COMPLETING:
        return UE_LOST_TORN;
    case UE_SLOT_SENT:
        return UE_LOST_UNKNOWN;
    default:
        return UE_LOST_SHUTDOWN;
    }
}

uint64_t ue_producer_write_off(ue_producer_t *p, uint64_t *unknown)
{
    named_t named[NAMES_MAX] = {0};
    uint64_t lost = 0;
    ue_slot_ref_t ref;
    int names = 0;

    *unknown = 0;
    for (ref = 1; ref <= ue_journal_slots(p->journal); ref++) {
        ue_slot_state_t state = ue_journal_state(p->journal, ref);
        const ue_uuid_t *id = ue_journal_organization(p->journal, ref);

        /* A slot that its thread completed just now is that thread's to
         * count. */
        if (state == UE_SLOT_FREE || state == UE_SLOT_FURTHER
            || !ue_journal_settle(p->journal, ref, 1u << state)) {
            continue;
        }
        /* Refused by one sink, it is counted, though it waits for another. */
        if (p->pending[ref - 1] & (UE_PENDING_REFUSED | UE_PENDING_EXPIRED)) {
            continue;
        }
        ue_metrics_lose(p->metrics, p->seat, id, cause_of(state), 1);
        ue_producer_count_dropped(p, id, ue_journal_began(p->journal, ref),
                                  cause_of(state));
        name_loss(named, &names, id);
        lost++;
        *unknown += state == UE_SLOT_SENT;
    }
    log_losses(named, names);
    return lost;
}

void *ue_producer_work(void *producer)
{
    ue_producer_t *p = producer;
    apr_time_t now = ue_monotonic();
    apr_time_t busy = now;

    while (atomic_load(&p->stage) < STAGE_CLOSING) {
        if (!pop_all(p, now)) {
            return NULL;
        }
        find_stranded(p, now);
        if (is_last_call(p, now)) {
            interrupt_open(p, now);
        }
        ue_producer_tend_streams(p, now);
        ue_producer_feed(p, now);
        speak_up(p, now);
        show_journal(p);
        rest(p, now, &busy);
        now = ue_monotonic();
    }
    ue_producer_drain(p);
    atomic_store(&p->worker_done, 1);
    return NULL;
}
