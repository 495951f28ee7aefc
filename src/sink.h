/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_SINK_H
#define UE_SINK_H

/**
 * Where a producer's batches go.
 *
 * A sink is opened by the parent, started in each child, and from then on
 * belongs to one thread: the producer's worker, or whoever closes in its place.
 * It has lanes, in each of which order is kept: one for a file, one for each
 * partition of a Kafka topic. All events of an organization are in one lane.
 *
 * A batch is of one lane. What the sink takes of it, it reports, each record
 * once: in submit() itself or in a later poll() or flush(). What it didn't take
 * stays with the producer, which offers it again; the same becomes of what it
 * reports as not delivered. A lane is offered its next batch when the last has
 * been reported in full, so a sink never holds two of one lane.
 */
#include <stddef.h>

#include <apr_errno.h>
#include <apr_pools.h>
#include <apr_time.h>

#include "journal.h"
#include "ledger.h"

/** What became of a record. */
typedef enum {
    UE_DELIVERED, /**< stored */
    UE_REFUSED,   /**< never will be: a loss */
    UE_EXPIRED,   /**< the user's own limit of time is over: a loss */
    UE_UNSENT,    /**< not stored: offer it again */
    UE_UNKNOWN,   /**< maybe stored: offer it again, under the same number */
    UE_TOO_LARGE  /**< not stored, its batch was: offer it in smaller ones */
} ue_outcome_t;

/** One event on its way out. The bytes are valid during submit() only. */
typedef struct {
    ue_slot_ref_t ref;
    const char *organization;  /**< UE_UUID_LEN characters */
    const char *json;          /**< one object, followed by a line feed */
    size_t len;                /**< bytes, without the line feed */
    const ue_stream_t *stream; /**< NULL without numbers */
    uint64_t number; /**< in stream and lane, from 1; 0 without numbers */
} ue_sink_record_t;

/** The records' JSON lies in one piece, in their order. */
typedef struct {
    uint32_t lane;
    const ue_sink_record_t *records;
    size_t count;
} ue_sink_batch_t;

/** Who started a sink, and hears from it. */
typedef struct {
    /**
     * @param lane of the batch that the record was in
     * @locality   worker
     */
    void (*report)(void *baton, uint32_t lane, ue_slot_ref_t ref,
                   ue_outcome_t outcome);

    /** Is what the sink writes to within reach? Told when it changes, by sinks
     * that write to a server. @locality worker */
    void (*connected)(void *baton, int connected);

    /** What became of a record of the ledger. @locality worker */
    void (*noted)(void *baton, uint32_t cookie, int stored);
    void *baton;
} ue_sink_owner_t;

typedef struct ue_sink_t ue_sink_t;

typedef struct {
    const char *name;      /**< as in metrics and log lines: "file" */
    int numbered;          /**< its records carry numbers */
    size_t batch_events;   /**< most that one batch may hold */
    size_t batch_bytes;    /**< JSON, line feeds, and overhead for each event */
    size_t event_overhead; /**< bytes */

    /**
     * Begin in a child. @locality child, before the worker starts
     */
    apr_status_t (*start)(ue_sink_t *sink, const ue_sink_owner_t *owner);

    /**
     * How many lanes there are; 0: not known yet. When the number changes, what
     * is under way is brought home first, and dealt out anew.
     * @locality worker
     */
    uint32_t (*lanes)(ue_sink_t *sink);

    /**
     * How often it was told how many there are; asks for it to be told soon.
     * NULL: the number never changes. @locality worker
     */
    uint32_t (*answers)(ue_sink_t *sink);

    /** Which lane an organization's events go to, of so many. */
    uint32_t (*lane_of)(const ue_uuid_t *organization_id, uint32_t lanes);

    /** Has the sink room for a batch of this lane? @locality worker */
    int (*has_room)(ue_sink_t *sink, uint32_t lane);

    /**
     * Offer a batch.
     * @param taken receives how many were taken, from the first on
     * @return      APR_SUCCESS if all were; APR_EAGAIN to be asked again soon;
     *              another error if the sink is in trouble (it has logged it)
     * @locality    worker
     */
    apr_status_t (*submit)(ue_sink_t *sink, const ue_sink_batch_t *batch,
                           size_t *taken);

    /**
     * Do what is due: report, sync.
     * @param now monotonic, microseconds
     * @locality  worker
     */
    void (*poll)(ue_sink_t *sink, apr_time_t now);

    /**
     * Write a record to the ledger beside the events; NULL where the sink has
     * none. What became of it is told by the owner's noted(), once, with the
     * cookie. Key and value are copied.
     * @return   APR_EAGAIN if it can't be taken now; another error if it never
     *           will be, and noted() is not called
     * @locality worker
     */
    apr_status_t (*note)(ue_sink_t *sink, const char *key, size_t key_len,
                         const char *value, size_t value_len, uint32_t cookie);

    /**
     * The end: bring to rest all that was taken, or report what is known of it.
     * @param deadline monotonic, microseconds; may have passed
     * @locality  worker
     */
    apr_status_t (*flush)(ue_sink_t *sink, apr_time_t deadline);
} ue_sink_vtable_t;

/** The part that all sinks begin with. */
struct ue_sink_t {
    const ue_sink_vtable_t *vtable;
};

/**
 * A file of JSON lines (docs/formats.md).
 *
 * @param path     opened for appending, 0640, by the parent, so that children
 *                 need no rights to it and a graceful restart opens it anew
 * @param interval how often it is synced, microseconds
 * @param p        closes it
 */
apr_status_t ue_sink_file_open(ue_sink_t **sink, const char *path,
                               apr_interval_time_t interval, apr_pool_t *p);

#endif /* UE_SINK_H */
