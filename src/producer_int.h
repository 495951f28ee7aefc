/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_PRODUCER_INT_H
#define UE_PRODUCER_INT_H

/**
 * Inside the producer: what its parts share. producer.c is called by
 * request threads and by whoever closes; producer_worker.c is the worker, and
 * the drain that the closing thread runs where the worker can't;
 * producer_lanes.c is what waits for the sinks; producer_streams.c keeps the
 * streams' accounts and takes over what producer_spool.c, a thread of its own,
 * has found in the spool.
 */
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include <apr_queue.h>

#include "log.h"
#include "producer.h"
#include "spool.h"

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
    apr_time_t retry_at; /* monotonic */
} outlet_t;

/** A file of slots of ours, and which stream it belongs to by its name. */
typedef struct segment_t segment_t;
struct segment_t {
    ue_region_t region; /* of an adopted one; of an own one only its size */
    char name[UE_SPOOL_NAME];
    segment_t *next;
};

/** A stream: our own, one that we had before, or one that we have taken over.
 * The worker's, once it is in the producer's list. */
typedef struct stream_t stream_t;
struct stream_t {
    ue_stream_file_t file;
    stream_t *next;
    segment_t *segments; /* that were adopted with it */
    uint32_t open;       /* events of these that are not settled */
    uint32_t numbered;   /* of the open ones, while some are held back */
    ue_slot_ref_t *held; /* what must wait until those are home */
    uint32_t held_count;
    int was_adopted;
    int is_inherited;    /* of a child without a spool: only to be told of */
    int has_moved;       /* its events belong to our own stream now */
    apr_time_t oldest;   /* of what was adopted */
    apr_time_t again_at; /* monotonic: tell the last record once more */
    int is_told_again;
    int is_over;       /* nothing of it is to come; its last record is due */
    int is_due;        /* a record is to be written */
    uint64_t noted;    /* its losses, when that was last done */
    uint32_t notes;    /* records under way */
    uint32_t loss_row; /* where to go on */
};

/** What the other thread has found, on its way to the worker. */
typedef struct {
    stream_t *stream;
    ue_slot_ref_t *refs; /* malloc()ed; by number, then by time */
    uint32_t count;
    uint32_t numbered; /* so many come first */
    int has_asked;     /* how many partitions there are, since it was found */
    uint32_t answers;  /* that there had been then */
    uint32_t refused;  /* of all, counted as lost, for the event file to have */
    uint64_t interrupted, torn;
    int is_unclean; /* from another boot, or cut: its numbers count no more */
} adoption_t;

#define NOTES_MAX 32

/** A record on its way to the ledger. */
typedef struct {
    stream_t *stream; /* NULL: free */
    int is_last;      /* the stream's last record */
    uint32_t row;     /* UE_LOSS_ROWS: not one of losses */
    uint64_t count;
} note_t;

/** The look over the slots that the watermark needs. */
typedef struct {
    int is_on;
    ue_slot_ref_t next;
    apr_time_t floor, oldest, long_ago;
    apr_time_t waits; /* the oldest with what was adopted */
    ue_long_open_t open[32];
    int open_count;
} watch_t;

struct ue_producer_t {
    ue_producer_config_t config;
    ue_journal_t *journal;
    ue_metrics_t *metrics;
    ue_seat_t *seat;

    apr_queue_t *queue;
    _Atomic int32_t queued;    /* references in the queue, or about to be */
    _Atomic int32_t stranded;  /* slots that found it full */
    _Atomic uint64_t admitted; /* with a slot, or lost for want of one */
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
    uint32_t shown_slots, shown_free;
    ue_slot_ref_t walk_at; /* where the next look for stranded slots begins */
    int32_t shown;         /* our part of the gauge of queued events */
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

    /* the streams: the worker's */
    outlet_t *numbering;   /* the outlet whose events are numbered, or NULL */
    stream_t *streams;     /* all, our own too */
    stream_t *former;      /* our own ones that are told and done with */
    stream_t *_Atomic own; /* request threads count losses in it */
    note_t notes[NOTES_MAX];
    watch_t watch;
    ue_long_open_t long_open[32]; /* as last looked */
    int long_count;
    apr_time_t ledger_at; /* monotonic, as the next three */
    apr_time_t note_at;   /* the sink takes no more before */
    apr_time_t account_at;
    apr_time_t inherit_at;

    /* the spool: its thread's, or under the mutex */
    ue_spool_t *spool; /* NULL: slots are memory */
    ue_journal_id_t id;
    pthread_mutex_t naming; /* whoever names segments by the own stream */
    segment_t *own_segments;
    uint32_t next_segment;   /* slots of the next one */
    uint32_t first_segment;  /* slots that the first one has */
    _Atomic int wants_file;  /* an heir needs a stream of its own */
    _Atomic uint32_t untold; /* ended streams that are not told yet */
    sem_t spool_wake;
    _Atomic int spool_ending;
    adoption_t *_Atomic mail; /* to the worker */
    stream_t *_Atomic fresh;  /* to the worker: a file for the own stream */
    ue_log_limit_t short_of_room, unreadable, unsynced, lanes_limit;
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

/** Have an adopted event wait for the sinks that don't have it yet.
 * @param numbered it was sent before, and goes first */
void ue_producer_list_adopted(ue_producer_t *p, ue_slot_ref_t ref, int numbered,
                              apr_time_t now);

/** Bring the sinks to rest. @locality worker */
void ue_producer_flush_sinks(ue_producer_t *p, apr_time_t deadline);

/* ---- producer_streams.c: what each stream did ---- */

/** Begin our own stream. @locality child, before the worker */
apr_status_t ue_producer_open_stream(ue_producer_t *p, apr_pool_t *pool);

/** The stream that an event counts in. @locality worker */
stream_t *ue_producer_stream_of(ue_producer_t *p, ue_slot_ref_t ref);

/**
 * Partitions are dealt out: have a stream whose numbers begin anew, unless none
 * was given yet.
 * @return whether there is one; else try again
 */
int ue_producer_renew_stream(ue_producer_t *p, uint32_t lanes);

/** Numbers that were given are about to be forgotten: streams that have such
 * are unclean. @locality worker */
void ue_producer_forget_numbers(ue_producer_t *p);

/** An event is stored by the sink with numbers. @locality worker */
void ue_producer_count_delivered(ue_producer_t *p, ue_slot_ref_t ref);

/** The sink with numbers is done with an event. @locality worker */
void ue_producer_count_home(ue_producer_t *p, ue_slot_ref_t ref);

/** An event is lost, by what a sink says.
 * @param is_numbered that sink has the numbers @locality worker */
void ue_producer_count_lost(ue_producer_t *p, ue_slot_ref_t ref,
                            ue_loss_t cause, int is_numbered);

/** An event is settled, delivered or lost, which was counted. Before its slot
 * is released. @locality worker */
void ue_producer_count_settled(ue_producer_t *p, ue_slot_ref_t ref,
                               int is_lost);

/** An event that has no slot, or will have none, is lost. @locality any */
void ue_producer_count_dropped(ue_producer_t *p, const ue_uuid_t *id,
                               apr_time_t when, ue_loss_t cause);

/** Do what is due: take over, account, write to the ledger. @locality worker */
void ue_producer_tend_streams(ue_producer_t *p, apr_time_t now);

/** Write all accounts to the ledger, our own for the last time. @locality
 * worker, or who closes */
void ue_producer_close_streams(ue_producer_t *p);

/** All that was left was written off: our own stream is complete.
 * @locality who closes */
void ue_producer_seal_own(ue_producer_t *p);

/** A record's fate. @locality worker */
void ue_producer_noted(ue_producer_t *p, uint32_t cookie, int stored);

/* ---- producer_spool.c: the thread that waits for disks ---- */

/** Open the spool. What can't be had is tried again later. @locality child,
 * before the worker */
apr_status_t ue_producer_open_spool(ue_producer_t *p, apr_pool_t *pool);

/** Have the first slots, or the first requests would find none. @locality
 * child, before the worker */
void ue_producer_make_room(ue_producer_t *p);

/** How often to look for streams that nobody holds. */
apr_interval_time_t ue_producer_scan_every(const ue_producer_t *p);

/** Will the journal be full soon? */
int ue_producer_wants_more(const ue_producer_t *p);

/** Its main function. */
void *ue_producer_keep_spool(void *producer);

/** Make a stream's account: in the spool, or else, where that may be, in memory
 * @return NULL: neither, which has been logged */
stream_t *ue_producer_new_stream(ue_producer_t *p, int may_be_memory);

/** Let go of an adopted segment that is empty. @locality worker */
void ue_producer_drop_segment(ue_producer_t *p, stream_t *stream,
                              segment_t *segment);

/** Memory that is there when it is touched. @return NULL: there is none */
void *ue_producer_reserve(size_t size);

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
