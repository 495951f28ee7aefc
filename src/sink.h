/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_SINK_H
#define UE_SINK_H

/**
 * Where a producer's batches go.
 *
 * A sink is opened by the parent, started in each child, and from then on
 * belongs to one thread: the producer's worker, or whoever closes in its place.
 * It takes records and reports each of them once, in submit() itself or in a
 * later poll(): delivered, or refused for good. What it didn't take stays with
 * the producer, which offers it again.
 */
#include <stddef.h>

#include <apr_errno.h>
#include <apr_pools.h>
#include <apr_time.h>

#include "journal.h"

/** One event on its way out. The bytes are valid during submit() only. */
typedef struct {
    ue_slot_ref_t ref;
    const ue_uuid_t *organization_id;
    const char *json; /**< one object, followed by a line feed */
    size_t len;       /**< bytes, without the line feed */
} ue_sink_record_t;

/**
 * Told what became of a record.
 * @param rv APR_SUCCESS: delivered; else: refused, never offer it again
 * @locality worker
 */
typedef void ue_sink_report_fn(void *baton, ue_slot_ref_t ref, apr_status_t rv);

typedef struct ue_sink_t ue_sink_t;

typedef struct {
    const char *name; /**< as in metrics and log lines: "file" */

    /**
     * Begin in a child. @locality child, before the worker starts
     */
    apr_status_t (*start)(ue_sink_t *sink, ue_sink_report_fn *report,
                          void *baton);

    /**
     * Offer a batch. The records' JSON lies in one piece, in their order.
     * @param taken receives how many were taken, from the first on
     * @return      APR_SUCCESS if all were; APR_EAGAIN to be asked again soon;
     *              another error if the sink is in trouble (it has logged it)
     * @locality    worker
     */
    apr_status_t (*submit)(ue_sink_t *sink, const ue_sink_record_t *records,
                           size_t count, size_t *taken);

    /**
     * Do what is due: report, sync.
     * @param now monotonic, microseconds
     * @locality  worker
     */
    void (*poll)(ue_sink_t *sink, apr_time_t now);

    /**
     * Bring to rest all that was taken. @locality worker
     * @param deadline monotonic, microseconds
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
