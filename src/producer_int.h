/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_PRODUCER_INT_H
#define UE_PRODUCER_INT_H

/**
 * Inside the producer: what its parts share. producer.c is called by
 * request threads and by whoever closes; producer_worker.c is the worker, and
 * the drain that the closing thread runs where the worker can't;
 * producer_lanes.c is what waits for the sinks.
 */
#include <semaphore.h>
#include <stdatomic.h>

#include <apr_queue.h>

#include "log.h"
#include "producer.h"

/** How far the producer's life has come; it only grows. */
typedef enum {
    STAGE_RUNNING,
    STAGE_STOPPING, /* don't wait for full batches */
    STAGE_CLOSING,  /* nobody touches the queue any more */
    STAGE_CLOSED    /* nobody delivers any more */
} stage_t;

/** Where the worker is, for a closing thread that may have to replace it. */
typedef enum {
    WORKER_OUT,     /* not in the queue: it will see STAGE_CLOSING */
    WORKER_POPPING, /* in the queue, maybe hanging on its mutex */
    WORKER_REPLACED /* must touch nothing any more */
} worker_at_t;

/** Events one behind the other; next[] of an outlet links them. */
typedef struct {
    ue_slot_ref_t first, last;
    uint32_t count;
} list_t;

/** Events of one lane of a sink. Only the worker touches it. */
typedef struct {
    list_t waiting;
    list_t returned;     /* by number: what the sink gave back, until all of
                            its batch is reported */
    uint32_t numbered;   /* of the waiting, the first so many were handed
                            over before and have their numbers */
    uint32_t under_way;  /* handed over, not reported */
    uint32_t batch;      /* events of the batch under way */
    uint32_t delivered;  /* of these */
    uint32_t most;       /* events in the next batch, 0: no bound */
    uint8_t too_large;   /* something of the batch was */
    uint8_t failures;    /* batches in a row of which nothing was stored */
    uint64_t number;     /* the last that was given */
    apr_time_t retry_at; /* monotonic */
} lane_t;

/** A sink, and what waits for it. Only the worker touches it. */
typedef struct {
    ue_sink_t *sink;
    ue_producer_t *producer;
    uint8_t bit;
    int connected;
    ue_slot_ref_t *next; /* by slot */
    list_t unsorted;     /* while the lanes are not known */
    lane_t *lanes;
    uint32_t lane_count;
    uint32_t turn;     /* the lane that is asked first: behind the last that
                          was handed over */
    uint32_t waiting;  /* in all lists */
    uint32_t numbered; /* of these, with a number */
    uint32_t under_way;
    ue_stream_t stream;
    apr_time_t retry_at; /* monotonic */
} outlet_t;

struct ue_producer_t {
    ue_producer_config_t config;
    ue_journal_t *journal;
    ue_metrics_t *metrics;
    ue_seat_t *seat;

    apr_queue_t *queue;
    _Atomic int32_t queued;    /* references in the queue, or about to be */
    _Atomic int32_t stranded;  /* slots that found it full */
    _Atomic uint64_t recorded; /* slots completed */
    _Atomic uint64_t settled;  /* of these, delivered or lost */
    _Atomic int asleep;        /* the worker waits until it is woken */
    _Atomic int flushing;      /* threads in ue_producer_flush() */
    sem_t wake;
    _Atomic int stage;
    _Atomic int worker_at;
    _Atomic int worker_done;
    _Atomic apr_time_t deadline;  /* monotonic, 0: not set yet */
    _Atomic apr_time_t last_call; /* monotonic, 0: nobody will kill us */
    int32_t shown;                /* our part of the gauge of queued events */
    ue_log_limit_t full;

    outlet_t outlets[UE_PRODUCER_SINKS];
    int outlet_count;
    uint8_t *pending; /* by slot: bits of the outlets that have it, and marks */
    ue_slot_ref_t *found; /* for a walk over the slots */
    uint32_t *since; /* by slot: when it was listed, monotonic milliseconds */
    ue_sink_record_t *records;
    char *batch;
    apr_interval_time_t tick;
    uint32_t listed; /* since the worker last rested */
    apr_time_t wall; /* the time of day, read once a batch */
};

#define UE_PENDING_REFUSED 0x80     /* a sink refused it */
#define UE_PENDING_INTERRUPTED 0x40 /* its request was never logged */
#define UE_PENDING_EXPIRED 0x20     /* it got too old for a sink */
#define UE_PENDING_UNKNOWN 0x10 /* it may be stored, by what was said once */

/* ---- producer_lanes.c: what waits for the sinks ---- */

/** Start the sinks. @locality child, before the worker */
apr_status_t ue_producer_start_sinks(ue_producer_t *p, ue_sink_t *const *sinks,
                                     int count, apr_pool_t *pool);

/** Have an event wait for all sinks. @locality worker */
void ue_producer_list(ue_producer_t *p, ue_slot_ref_t ref, apr_time_t now);

/** Hand over what is due, and take reports. @locality worker */
void ue_producer_feed(ue_producer_t *p, apr_time_t now);

/** Events that are in no sink yet, or in one that has not reported them.
 * @locality worker */
uint32_t ue_producer_unsettled(const ue_producer_t *p);

/** Bring the sinks to rest. @locality worker */
void ue_producer_flush_sinks(ue_producer_t *p, apr_time_t deadline);

/* ---- producer_worker.c ---- */

/** The worker's main function. */
void *ue_producer_work(void *producer);

/**
 * Record what was admitted and never logged, and deliver all that is left,
 * until the deadline.
 * @locality the worker, or the closing thread in its place
 */
void ue_producer_drain(ue_producer_t *p);

/**
 * Count every slot that is not free as lost.
 * @param unknown receives how many of them may have been stored all the same
 * @return        how many there were
 * @locality closing thread
 */
uint64_t ue_producer_write_off(ue_producer_t *p, uint64_t *unknown);

/** Wake the worker if it sleeps. @locality any thread, and signal handlers */
void ue_producer_wake(ue_producer_t *p);

#endif /* UE_PRODUCER_INT_H */
