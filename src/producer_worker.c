/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "producer_int.h"

#define POP_AT_ONCE 64
#define SLEEP_AFTER apr_time_from_sec(2)
#define NAP apr_time_from_sec(1)
#define RETRY_AFTER apr_time_from_msec(250)
#define NAMES_MAX 100 /* organizations that are named in the log at the end */
#define LANE_BITS ((1 << UE_PRODUCER_SINKS) - 1)

static uint32_t as_ms(apr_time_t monotonic)
{
    return (uint32_t)apr_time_as_msec(monotonic);
}

/** An event has left all sinks: count it, and give its slot back. */
static void count_settled(ue_producer_t *p, ue_slot_ref_t ref, uint8_t marks)
{
    if (marks & UE_PENDING_REFUSED) {
        ue_metrics_lose(p->metrics, p->seat,
                        ue_journal_organization(p->journal, ref),
                        UE_LOST_REJECTED, 1);
    }
    else {
        ue_metrics_add(p->seat, UE_M_EVENTS_DELIVERED, 1);
    }
    if (!marks) {
        ue_metrics_latency(p->seat,
                           p->wall - ue_journal_ended(p->journal, ref));
    }
    /* The thread of an interrupted request may still come to complete its slot.
     * It must not find another request's there. The child ends soon. */
    if (!(marks & UE_PENDING_INTERRUPTED)) {
        ue_journal_release(p->journal, ref);
    }
    atomic_fetch_add(&p->settled, 1);
}

/** A sink says what became of a record. @locality worker */
static void report(void *baton, ue_slot_ref_t ref, apr_status_t rv)
{
    lane_t *lane = baton;
    ue_producer_t *p = lane->producer;
    uint8_t *pending = &p->pending[ref - 1];

    if (rv == APR_SUCCESS) {
        lane->delivered++;
    }
    else {
        lane->refused++;
        *pending |= UE_PENDING_REFUSED;
    }
    *pending &= (uint8_t)~lane->bit;
    /* Who closes may have written it off, if we hung for too long. */
    if (!(*pending & LANE_BITS)
        && ue_journal_settle(p->journal, ref, 1u << UE_SLOT_LISTED)) {
        count_settled(p, ref, *pending);
        *pending = 0;
    }
}

apr_status_t ue_producer_start_lanes(ue_producer_t *p, ue_sink_t *const *sinks,
                                     int count, apr_pool_t *pool)
{
    apr_status_t rv = APR_SUCCESS;
    int i;

    p->pending = apr_pcalloc(pool, p->config.slots);
    for (i = 0; i < count && rv == APR_SUCCESS; i++) {
        lane_t *lane = &p->lanes[i];

        lane->sink = sinks[i];
        lane->producer = p;
        lane->bit = (uint8_t)(1 << i);
        lane->ring = apr_palloc(pool, p->config.slots * sizeof(*lane->ring));
        rv = lane->sink->vtable->start(lane->sink, report, lane);
    }
    p->lane_count = count;
    return rv;
}

static void list(ue_producer_t *p, ue_slot_ref_t ref, apr_time_t now)
{
    int i;

    for (i = 0; i < p->lane_count; i++) {
        lane_t *lane = &p->lanes[i];
        uint32_t tail = (lane->head + lane->count++) % p->config.slots;

        lane->ring[tail].ref = ref;
        lane->ring[tail].since = as_ms(now);
        p->pending[ref - 1] |= lane->bit;
    }
}

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
                list(p, refs[i], now);
            }
        }
        atomic_fetch_sub(&p->queued, n);
        left -= n;
    }
    return 1;
}

/** Find slots in one of some states, and list them. @return how many */
static int32_t walk(ue_producer_t *p, unsigned states, apr_time_t now)
{
    ue_slot_ref_t ref;
    int32_t found = 0;

    for (ref = 1; ref <= p->config.slots; ref++) {
        if (ue_journal_list(p->journal, ref, states)) {
            list(p, ref, now);
            found++;
        }
    }
    return found;
}

/** Encode what waits longest. @return how many events */
static size_t encode(ue_producer_t *p, const lane_t *lane)
{
    char text[UE_ENDPOINT_MAX + UE_METHOD_MAX];
    char *to = p->batch;
    size_t n = 0;

    while (n < lane->count && n < UE_BATCH_EVENTS
           && (size_t)(p->batch + UE_BATCH_BYTES - to) > UE_EVENT_JSON_MAX) {
        ue_slot_ref_t ref = lane->ring[(lane->head + n) % p->config.slots].ref;
        ue_sink_record_t *record = &p->records[n++];
        ue_event_t event;

        ue_journal_read(p->journal, ref, &event, text);
        record->ref = ref;
        record->organization_id = ue_journal_organization(p->journal, ref);
        record->json = to;
        record->len = ue_event_json(&event, to);
        to += record->len;
        *to++ = '\n';
    }
    return n;
}

/** Hand one batch over. @return whether another may follow at once */
static int hand_over(ue_producer_t *p, lane_t *lane, apr_time_t now)
{
    size_t n = encode(p, lane);
    size_t taken = 0;
    apr_status_t rv;

    lane->delivered = lane->refused = 0;
    p->wall = apr_time_now();
    rv = lane->sink->vtable->submit(lane->sink, p->records, n, &taken);
    lane->head = (uint32_t)((lane->head + taken) % p->config.slots);
    lane->count -= (uint32_t)taken;
    if (taken) {
        ue_metrics_add(p->seat, UE_M_BATCHES, 1);
        ue_metrics_add(p->seat, UE_M_BATCH_EVENTS, taken);
        ue_log(UE_LOG_DEBUG, APR_SUCCESS,
               "[EventProducer] Batch sent: %u events (success=%u, failed=%u)",
               (unsigned)taken, lane->delivered, lane->refused);
    }
    if (rv != APR_SUCCESS && !APR_STATUS_IS_EAGAIN(rv)) {
        ue_metrics_add(p->seat, UE_M_SINK_ERRORS, 1);
        lane->retry_at = now + RETRY_AFTER;
    }
    return rv == APR_SUCCESS;
}

static int is_due(const ue_producer_t *p, const lane_t *lane, apr_time_t now)
{
    uint32_t age;

    if (lane->count == 0 || now < lane->retry_at) {
        return 0;
    }
    if (lane->count >= p->config.batch_size
        || atomic_load(&p->stage) >= STAGE_STOPPING
        || atomic_load(&p->flushing)) {
        return 1;
    }
    /* A tick early rather than a tick late; it may have waited another in the
     * queue. */
    age = as_ms(now) - lane->ring[lane->head].since;
    return apr_time_from_msec(age) + 2 * p->tick >= p->config.flush_interval;
}

static void feed(ue_producer_t *p, apr_time_t now)
{
    int i;

    for (i = 0; i < p->lane_count; i++) {
        lane_t *lane = &p->lanes[i];

        while (is_due(p, lane, now) && hand_over(p, lane, now)) {
        }
        lane->sink->vtable->poll(lane->sink, now);
    }
}

static uint32_t waiting(const ue_producer_t *p)
{
    uint32_t n = 0;
    int i;

    for (i = 0; i < p->lane_count; i++) {
        n += p->lanes[i].count;
    }
    return n;
}

/** Wait for the next tick, or longer if there has been nothing to do. */
static void rest(ue_producer_t *p, apr_time_t now, apr_time_t *busy)
{
    if (waiting(p) || atomic_load(&p->queued) || atomic_load(&p->stranded)
        || atomic_load(&p->stage) != STAGE_RUNNING) {
        *busy = now;
    }
    if (now - *busy < SLEEP_AFTER + 2 * p->config.flush_interval) {
        ue_sem_wait(&p->wake, p->tick);
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

static int in_flight(const ue_producer_t *p)
{
    uint32_t i;

    for (i = 0; i < p->config.slots; i++) {
        if (p->pending[i]) {
            return 1;
        }
    }
    return 0;
}

/** Record what was admitted and never logged. */
static void interrupt_open(ue_producer_t *p, apr_time_t now)
{
    ue_slot_ref_t ref;

    for (ref = 1; ref <= p->config.slots; ref++) {
        if (ue_journal_interrupt(p->journal, ref)) {
            ue_metrics_add(p->seat, UE_M_EVENTS_INTERRUPTED, 1);
            atomic_fetch_add(&p->recorded, 1);
            list(p, ref, now);
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
    int i;

    interrupt_open(p, now);
    walk(p, complete, now);
    for (;;) {
        feed(p, now);
        if ((waiting(p) == 0 && !in_flight(p))
            || (now = ue_monotonic()) >= deadline) {
            break;
        }
        apr_sleep(p->tick);
        walk(p, complete, now);
        now = ue_monotonic();
    }
    for (i = 0; i < p->lane_count; i++) {
        p->lanes[i].sink->vtable->flush(p->lanes[i].sink, deadline);
    }
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

uint64_t ue_producer_write_off(ue_producer_t *p)
{
    named_t named[NAMES_MAX] = {0};
    uint64_t lost = 0;
    ue_slot_ref_t ref;
    int names = 0;

    for (ref = 1; ref <= p->config.slots; ref++) {
        ue_slot_state_t state = ue_journal_state(p->journal, ref);
        const ue_uuid_t *id = ue_journal_organization(p->journal, ref);

        /* A slot that its thread completed just now is that thread's to
         * count. */
        if (state == UE_SLOT_FREE || state == UE_SLOT_FURTHER
            || !ue_journal_settle(p->journal, ref, 1u << state)) {
            continue;
        }
        ue_metrics_lose(
            p->metrics, p->seat, id,
            state == UE_SLOT_COMPLETING ? UE_LOST_TORN : UE_LOST_SHUTDOWN, 1);
        name_loss(named, &names, id);
        lost++;
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
        if (atomic_load(&p->stranded) > 0) {
            atomic_fetch_sub(&p->stranded,
                             walk(p, 1u << UE_SLOT_STRANDED, now));
        }
        if (is_last_call(p, now)) {
            interrupt_open(p, now);
        }
        feed(p, now);
        speak_up(p, now);
        rest(p, now, &busy);
        now = ue_monotonic();
    }
    ue_producer_drain(p);
    atomic_store(&p->worker_done, 1);
    return NULL;
}
