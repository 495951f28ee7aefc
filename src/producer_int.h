/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_PRODUCER_INT_H
#define UE_PRODUCER_INT_H

/**
 * Inside the producer: what its two halves share. producer.c is called by
 * request threads and by whoever closes; producer_worker.c is the worker, and
 * the drain that the closing thread runs where the worker can't.
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

/** An event that waits for a sink. */
typedef struct {
    ue_slot_ref_t ref;
    uint32_t since; /* monotonic milliseconds */
} waiting_t;

/** What waits for one sink, oldest first. Only the worker touches it. */
typedef struct {
    ue_sink_t *sink;
    ue_producer_t *producer;
    uint8_t bit;
    waiting_t *ring; /* as many as there are slots */
    uint32_t head, count;
    apr_time_t retry_at;         /* monotonic */
    uint32_t delivered, refused; /* of the batch under way */
} lane_t;

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

    lane_t lanes[UE_PRODUCER_SINKS];
    int lane_count;
    uint8_t *pending; /* by slot: bits of the lanes it waits in */
    ue_sink_record_t *records;
    char *batch;
    apr_interval_time_t tick;
    apr_time_t wall; /* the time of day, read once a batch */
};

#define UE_BATCH_EVENTS 10000
#define UE_BATCH_BYTES (512 * 1024)
#define UE_PENDING_REFUSED 0x80     /* a sink refused it */
#define UE_PENDING_INTERRUPTED 0x40 /* its request was never logged */

/** Make the lanes and start their sinks. @locality child, before the worker */
apr_status_t ue_producer_start_lanes(ue_producer_t *p, ue_sink_t *const *sinks,
                                     int count, apr_pool_t *pool);

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
 * @return how many there were
 * @locality closing thread
 */
uint64_t ue_producer_write_off(ue_producer_t *p);

/** Wake the worker if it sleeps. @locality any thread, and signal handlers */
void ue_producer_wake(ue_producer_t *p);

#endif /* UE_PRODUCER_INT_H */
