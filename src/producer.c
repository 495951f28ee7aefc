/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "producer_int.h"

#include <errno.h>
#include <stdio.h>

#define WARN_EVERY apr_time_from_sec(1)
#define LOOK_EVERY apr_time_from_msec(1)
#define HANGS_AFTER apr_time_from_msec(100)
/* httpd kills a child that has not ended nine seconds after it was told to
 * (ap_reclaim_child_processes), and no cleanup runs then. */
#define LAST_CALL_AFTER apr_time_from_sec(8)

void ue_producer_wake(ue_producer_t *p)
{
    if (atomic_exchange(&p->asleep, 0)) {
        sem_post(&p->wake);
    }
}

/** How many slots a spool may ever have room for; and there may be more in it,
 * from when it had a higher bound. */
static uint32_t most_slots(const ue_producer_config_t *config, apr_pool_t *pool)
{
    apr_off_t most = 0;
    apr_array_header_t *there;
    int i;

    if (ue_spool_list_dir(config->spool, &there, pool) == APR_SUCCESS) {
        for (i = 0; i < there->nelts; i++) {
            most += APR_ARRAY_IDX(there, i, ue_spool_entry_t).size;
        }
    }
    most = most > config->spool_most ? most : config->spool_most;
    most = most / UE_SLOT_SIZE + UE_SEGMENT_UNIT;

    return most < UE_JOURNAL_REFS_MAX / 2 ? (uint32_t)most
                                          : UE_JOURNAL_REFS_MAX / 2;
}

static apr_status_t make_journal(ue_producer_t *p, apr_pool_t *pool)
{
    apr_status_t rv;

    if (!p->config.spool) {
        return ue_journal_create(&p->journal, p->config.slots, pool);
    }
    rv = ue_random(&p->id, sizeof(p->id));
    if (rv == APR_SUCCESS) {
        rv = ue_journal_create_spooled(
            &p->journal, most_slots(&p->config, pool), &p->id, pool);
    }
    return rv == APR_SUCCESS ? ue_producer_open_spool(p, pool) : rv;
}

apr_status_t ue_producer_create(ue_producer_t **producer,
                                const ue_producer_config_t *config,
                                ue_sink_t *const *sinks, int count,
                                ue_metrics_t *metrics, ue_seat_t *seat,
                                apr_pool_t *pool)
{
    ue_producer_t *p = apr_pcalloc(pool, sizeof(*p));
    apr_status_t rv;

    p->config = *config;
    p->metrics = metrics;
    p->seat = seat;
    p->tick = config->flush_interval / 4;
    if (p->tick > apr_time_from_msec(10)) {
        p->tick = apr_time_from_msec(10);
    }
    if (p->tick < apr_time_from_msec(1)) {
        p->tick = apr_time_from_msec(1);
    }
    if (sem_init(&p->wake, 0, 0) != 0) {
        return errno;
    }
    rv = make_journal(p, pool);
    if (rv == APR_SUCCESS) {
        rv = apr_queue_create(&p->queue, config->buffer_size, pool);
    }
    if (rv == APR_SUCCESS) {
        rv = ue_producer_start_sinks(p, sinks, count, pool);
    }
    if (rv == APR_SUCCESS) {
        rv = ue_producer_open_stream(p, pool);
    }
    if (rv == APR_SUCCESS && p->spool) {
        ue_producer_make_room(p);
    }
    if (rv == APR_SUCCESS) {
        rv = ue_thread_start("usage-producer", ue_producer_work, p);
    }
    if (rv == APR_SUCCESS && p->spool) {
        rv = ue_thread_start("usage-spool", ue_producer_keep_spool, p);
    }
    if (rv == APR_SUCCESS) {
        ue_log(UE_LOG_INFO, APR_SUCCESS,
               "[EventProducer] Started (batch_size=%u, flush_interval=%dms, "
               "buffer=%u)",
               config->batch_size,
               (int)apr_time_as_msec(config->flush_interval),
               config->buffer_size);
        *producer = p;
    }
    return rv;
}

/** Count an event that had no room, and say so, not for each of them. */
static void drop(ue_producer_t *p, const ue_uuid_t *organization_id,
                 apr_time_t when)
{
    char id[UE_UUID_LEN + 1];
    char more[64] = "";
    uint32_t held;

    ue_metrics_lose(p->metrics, p->seat, organization_id, UE_LOST_OVERFLOW, 1);
    ue_producer_count_dropped(p, organization_id, when, UE_LOST_OVERFLOW);
    if (!ue_log_limit_pass(&p->full, ue_monotonic(), WARN_EVERY, &held)) {
        return;
    }
    if (held) {
        snprintf(more, sizeof(more), " (and %u more since the last such line)",
                 held);
    }
    ue_log(UE_LOG_WARNING, APR_SUCCESS,
           "[EventProducer] WARNING: Buffer full, dropping event for org: %s%s",
           ue_uuid_format(organization_id, id), more);
}

static int queue_is_full(const ue_producer_t *p)
{
    return atomic_load_explicit(&p->queued, memory_order_relaxed)
           >= (int32_t)p->config.buffer_size;
}

int ue_producer_has_room(const ue_producer_t *p)
{
    /* With a spool, what the queue has no room for waits in its slot. */
    return (p->spool || !queue_is_full(p)) && !ue_journal_is_full(p->journal);
}

apr_status_t ue_producer_admit(ue_producer_t *p, const ue_admission_t *a,
                               ue_overflow_t overflow, ue_slot_ref_t *ref)
{
    apr_status_t rv;

    *ref = 0;
    if (overflow == UE_OVERFLOW_REFUSE && !ue_producer_has_room(p)) {
        return APR_EAGAIN;
    }
    /* Counted before there is a slot that somebody else could deliver. */
    ue_metrics_add(p->seat, UE_M_EVENTS_ADMITTED, 1);
    rv = ue_journal_admit(p->journal, a, ref);
    if (rv == APR_SUCCESS || overflow == UE_OVERFLOW_DROP) {
        atomic_fetch_add(&p->admitted, 1);
    }
    if (rv != APR_SUCCESS && overflow == UE_OVERFLOW_DROP) {
        drop(p, &a->organization_id, a->timestamp);
    }
    else if (rv != APR_SUCCESS) {
        /* The last slot went in between. */
        ue_metrics_add(p->seat, UE_M_EVENTS_ADMITTED, (uint64_t)-1);
    }
    if (p->spool && rv != APR_SUCCESS) {
        sem_post(&p->spool_wake);
    }
    return rv;
}

/** Take a completed slot back from a queue that will not be read or had no
 * room. Whoever closes may take it too; one of the two counts it. */
static apr_status_t lose_slot(ue_producer_t *p, ue_slot_ref_t ref,
                              ue_loss_t cause)
{
    if (!ue_journal_settle(p->journal, ref,
                           1u << UE_SLOT_COMPLETE | 1u << UE_SLOT_STRANDED)) {
        return APR_SUCCESS;
    }
    if (cause == UE_LOST_OVERFLOW) {
        drop(p, ue_journal_organization(p->journal, ref),
             ue_journal_began(p->journal, ref));
    }
    else {
        ue_producer_count_dropped(p, ue_journal_organization(p->journal, ref),
                                  ue_journal_began(p->journal, ref), cause);
        ue_metrics_lose(p->metrics, p->seat,
                        ue_journal_organization(p->journal, ref), cause, 1);
    }
    ue_journal_release(p->journal, ref);
    atomic_fetch_add(&p->settled, 1);
    return APR_EAGAIN;
}

static apr_status_t enqueue(ue_producer_t *p, ue_slot_ref_t ref,
                            ue_overflow_t overflow)
{
    int32_t n = atomic_fetch_add(&p->queued, 1) + 1;

    /* Room is reserved before the push, so the queue itself is never full. */
    if (n > (int32_t)p->config.buffer_size
        || apr_queue_trypush(p->queue, (void *)(uintptr_t)ref) != APR_SUCCESS) {
        atomic_fetch_sub(&p->queued, 1);
        if (overflow == UE_OVERFLOW_DROP && !p->spool) {
            return lose_slot(p, ref, UE_LOST_OVERFLOW);
        }
        ue_journal_strand(p->journal, ref);
        atomic_fetch_add(&p->stranded, 1);
    }
    else if (n == ((int32_t)p->config.buffer_size + 1) / 2) {
        sem_post(&p->wake); /* sooner than the next tick */
    }
    if (atomic_load(&p->asleep)) {
        ue_producer_wake(p);
    }
    return APR_SUCCESS;
}

apr_status_t ue_producer_record(ue_producer_t *p, ue_slot_ref_t ref,
                                const ue_completion_t *c,
                                ue_overflow_t overflow)
{
    apr_status_t rv = ue_journal_complete(p->journal, ref, c);

    if (rv != APR_SUCCESS) {
        return rv;
    }
    atomic_fetch_add(&p->recorded, 1);
    if (atomic_load(&p->stage) < STAGE_CLOSING) {
        rv = enqueue(p, ref, overflow);
    }
    /* From CLOSING on, the drain walks the slots; from CLOSED on, nobody does.
     * Asked last, so that one of us sees the other. */
    if (atomic_load(&p->stage) == STAGE_CLOSED && !p->spool) {
        rv = lose_slot(p, ref, UE_LOST_SHUTDOWN);
    }
    return rv;
}

static void raise_stage(ue_producer_t *p, stage_t to)
{
    int stage = atomic_load(&p->stage);

    while (stage < (int)to
           && !atomic_compare_exchange_weak(&p->stage, &stage, (int)to)) {
    }
    atomic_store(&p->asleep, 0);
    sem_post(&p->wake);
}

static void set_deadline(ue_producer_t *p, apr_interval_time_t how_long)
{
    apr_time_t none = 0;

    atomic_compare_exchange_strong(&p->deadline, &none,
                                   ue_monotonic() + how_long);
}

void ue_producer_stopping(ue_producer_t *p, int urgent)
{
    if (urgent) {
        apr_interval_time_t how_long = p->config.drain_timeout;
        apr_time_t none = 0;

        /* Killed while it still hopes, a child could name no loss. */
        set_deadline(p,
                     how_long < LAST_CALL_AFTER ? how_long : LAST_CALL_AFTER);
        atomic_compare_exchange_strong(&p->last_call, &none,
                                       ue_monotonic() + LAST_CALL_AFTER);
    }
    raise_stage(p, STAGE_STOPPING);
}

apr_status_t ue_producer_flush(ue_producer_t *p, apr_time_t deadline)
{
    uint64_t until = atomic_load(&p->recorded);
    apr_status_t rv = APR_SUCCESS;

    atomic_fetch_add(&p->flushing, 1);
    atomic_store(&p->asleep, 0);
    sem_post(&p->wake);
    while (atomic_load(&p->settled) < until) {
        if (ue_monotonic() >= deadline) {
            rv = APR_TIMEUP;
            break;
        }
        apr_sleep(LOOK_EVERY);
    }
    atomic_fetch_sub(&p->flushing, 1);
    return rv;
}

/**
 * Wait for the worker to drain. If it has hung in the queue since before the
 * close, whose mutex may never be released, the caller takes its place.
 */
static void await_worker(ue_producer_t *p, apr_time_t deadline)
{
    apr_time_t hangs_at = ue_monotonic() + HANGS_AFTER;

    while (!atomic_load(&p->worker_done)) {
        apr_time_t now = ue_monotonic();
        int at = WORKER_POPPING;

        if (now >= hangs_at
            && atomic_compare_exchange_strong(&p->worker_at, &at,
                                              WORKER_REPLACED)) {
            ue_producer_drain(p);
            return;
        }
        /* The worker keeps the deadline too, and needs a moment behind it. */
        if (now >= deadline + APR_USEC_PER_SEC / 2) {
            return;
        }
        apr_sleep(LOOK_EVERY);
    }
}

void ue_producer_closing(ue_producer_t *p)
{
    if (atomic_load(&p->stage) < STAGE_CLOSING) {
        ue_log(UE_LOG_INFO, APR_SUCCESS,
               "[EventProducer] Flushing pending events...");
        set_deadline(p, p->config.drain_timeout);
        raise_stage(p, STAGE_CLOSING);
    }
}

/** What stays in the spool is nobody's loss. */
static void say_what_stays(const ue_producer_t *p)
{
    uint64_t left = ue_producer_unsettled(p);

    if (left == 0) {
        ue_log(UE_LOG_INFO, APR_SUCCESS, "[EventProducer] Flush complete");
    }
    else {
        ue_log(UE_LOG_NOTICE, APR_SUCCESS,
               "UE0203: producer: %" APR_UINT64_T_FMT
               " events stay in the spool %s, for another child to send",
               left, p->config.spool);
    }
    ue_log(UE_LOG_INFO, APR_SUCCESS, "[EventProducer] Closed");
}

apr_status_t ue_producer_close(ue_producer_t *p)
{
    uint64_t left, unknown;

    atomic_store(&p->spool_ending, 1);
    ue_producer_closing(p);
    await_worker(p, atomic_load(&p->deadline));
    atomic_store(&p->stage, STAGE_CLOSED);
    if (p->spool) {
        say_what_stays(p);
        return APR_SUCCESS;
    }
    left = ue_producer_write_off(p, &unknown);
    ue_producer_seal_own(p);
    if (left == 0) {
        ue_log(UE_LOG_INFO, APR_SUCCESS, "[EventProducer] Flush complete");
    }
    else {
        ue_log(UE_LOG_ERR, APR_TIMEUP,
               "UE0201: producer: %" APR_UINT64_T_FMT " events were not "
               "delivered when the child ended, and are lost (of these, "
               "%" APR_UINT64_T_FMT " were on their way, and may have arrived)",
               left, unknown);
    }
    ue_log(UE_LOG_INFO, APR_SUCCESS, "[EventProducer] Closed");
    return left ? APR_TIMEUP : APR_SUCCESS;
}
