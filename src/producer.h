/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_PRODUCER_H
#define UE_PRODUCER_H

/**
 * The producer: brings each event from the thread that served the request to
 * the sinks, without that thread ever waiting for one.
 *
 * Each child has one for each set of sinks and settings: a journal of slots, an
 * APR queue of references to them, and one background thread, the worker. A
 * request thread admits (takes a slot) and records (completes it and queues its
 * reference). The worker pops references, keeps a list for each sink, and hands
 * a batch over when a hundred wait or the oldest has waited half a second. A
 * slot is free again when every sink has delivered it.
 *
 *   request thread                     worker
 *   ue_producer_admit()  ── slot
 *   ue_producer_record() ── reference ─▶ pop ─▶ list ─▶ batch ─▶ sink
 *                                                        ▲         │
 *                                            slot freed ◀┴─ report ┘
 *
 * The worker looks every ten milliseconds while there is work, so that request
 * threads need not wake it; when it has found nothing for a while it sleeps,
 * and the next recorded event wakes it, once.
 *
 * Nothing is lost without a name. An event that has no place is a loss of its
 * organization, counted in the metrics and logged; what was admitted but never
 * logged is recorded with status 0 at the close. So at every moment
 * admitted = delivered + lost + waiting, and at the end nothing waits.
 *
 * With a spool the slots are in files (spool.h). Then what the queue has no
 * room for stays in its slot; what is not delivered at the close stays there
 * too, and another child's worker takes it over, as it does from a child that
 * was killed. One more thread, usage-spool, does all that may wait for a disk:
 * it makes the journal longer while it fills, syncs it, and looks for what
 * others have left (producer_spool.c).
 *
 * What each stream did is written to the ledger every ten seconds
 * (producer_streams.c, ledger.h).
 *
 * Closing. prefork runs the child's cleanup inside a signal handler, which may
 * have interrupted a request thread that holds the queue's mutex. So from
 * ue_producer_close() on nobody touches the queue: what is left is found by
 * walking the slots. If the worker hangs on that mutex, the closing thread
 * takes its place. No join is without a bound, and no memory is given back,
 * since stragglers may still record.
 */
#include <apr_errno.h>
#include <apr_pools.h>
#include <apr_time.h>

#include "journal.h"
#include "ledger.h"
#include "metrics.h"
#include "sink.h"
#include "thread.h"

#define UE_PRODUCER_SINKS 2 /**< a file and Kafka */

typedef struct ue_producer_t ue_producer_t;

typedef struct {
    uint32_t batch_size;                /**< events that make a batch due */
    apr_interval_time_t flush_interval; /**< how long an event may wait */
    uint32_t buffer_size;               /**< references in the queue */
    uint32_t slots;                     /**< at least buffer_size */
    apr_interval_time_t drain_timeout;  /**< for all of closing */
    const char *spool;                 /**< directory; NULL: slots are memory */
    apr_off_t spool_most;              /**< bytes of all files in it */
    const ue_target_t *target;         /**< what the sinks are */
    apr_interval_time_t scan_interval; /**< between looks into it for streams
                                            that nobody holds; 0: 500 ms */
    ue_accounts_t *accounts;           /**< for who has no spool; NULL: none */
    int is_heir; /**< admits nothing: sends what an earlier configuration has
                      left in the spool */
} ue_producer_config_t;

/** What happens when there is no room for an event. */
typedef enum {
    UE_OVERFLOW_DROP,  /**< serve the request, count its event as lost */
    UE_OVERFLOW_REFUSE /**< don't admit the request */
} ue_overflow_t;

/**
 * Make a producer and start its worker.
 * @param sinks 1 to UE_PRODUCER_SINKS of them, opened before the fork
 * @param seat  where this child counts
 * @param p     must outlive every thread that may record: never destroy it
 * @locality    child, at its start
 */
apr_status_t ue_producer_create(ue_producer_t **producer,
                                const ue_producer_config_t *config,
                                ue_sink_t *const *sinks, int count,
                                ue_metrics_t *metrics, ue_seat_t *seat,
                                apr_pool_t *p);

/**
 * Put a request on record.
 * @param ref receives its slot, 0 where there is none
 * @return    APR_SUCCESS; APR_EAGAIN if there is no room: with DROP the loss
 *            has been counted and the request may be served, with REFUSE it
 *            must not be
 * @locality  request threads; takes no lock
 */
apr_status_t ue_producer_admit(ue_producer_t *producer, const ue_admission_t *a,
                               ue_overflow_t overflow, ue_slot_ref_t *ref);

/**
 * Would a request be admitted with UE_OVERFLOW_REFUSE? A moment's truth.
 * @locality request threads; takes no lock
 */
int ue_producer_has_room(const ue_producer_t *producer);

/**
 * Complete the record of a request and send it on its way.
 * @return   APR_SUCCESS; APR_EAGAIN if it was dropped for want of room, which
 *           has been counted; APR_EBUSY if it was recorded before
 * @locality request threads; @locks the queue's mutex, shortly
 */
apr_status_t ue_producer_record(ue_producer_t *producer, ue_slot_ref_t ref,
                                const ue_completion_t *c,
                                ue_overflow_t overflow);

/**
 * The child begins to stop: send what waits, without waiting for full batches.
 * Recording goes on. May be called twice, and inside a signal handler.
 * @param urgent the child will be killed if it takes long: the drain timeout
 *               runs from now, not from ue_producer_close(), and what is still
 *               open just before the kill is recorded as interrupted
 */
void ue_producer_stopping(ue_producer_t *producer, int urgent);

/**
 * Wait until what was recorded so far is delivered.
 * @param deadline monotonic (ue_monotonic()), microseconds
 * @return  APR_TIMEUP if something still waits
 * @locality any thread but the worker
 */
apr_status_t ue_producer_flush(ue_producer_t *producer, apr_time_t deadline);

/**
 * Have the worker record what was admitted and never logged, and deliver all.
 * A child with several producers tells each before it closes the first, or one
 * whose sink is away would use up the time of the others. Takes no lock.
 * @locality as ue_producer_close()
 */
void ue_producer_closing(ue_producer_t *producer);

/**
 * Record what was admitted and never logged, deliver all, end the worker; what
 * is left at the deadline is counted as lost. Takes no lock.
 * @return   APR_TIMEUP if events were lost, which has been logged
 * @locality one thread, once; also inside prefork's signal handler
 */
apr_status_t ue_producer_close(ue_producer_t *producer);

#endif /* UE_PRODUCER_H */
