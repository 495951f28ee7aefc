/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_METRICS_H
#define UE_METRICS_H

/**
 * Counters in shared memory, read by the status handler.
 *
 * The parent maps the memory once and keeps it over graceful restarts, so a
 * counter never falls while httpd runs. Each child takes a seat in it, writes
 * there only, with relaxed atomic adds, and leaves it with its counts when it
 * ends; the next child that takes the seat goes on counting. A reader adds all
 * seats up. Gauges count only in seats whose child lives.
 *
 * On a seat, admitted = delivered + lost + waiting. If a child without a spool
 * was killed, what it had waiting is gone; whoever finds its seat (the next
 * child, or a reader) counts it as lost with cause "unknown". So the sum of all
 * seats always says how much is missing.
 *
 * Losses are counted by organization too, in a table with room for 4,096 of
 * them; those beyond are counted under the nil UUID.
 */
#include <stdatomic.h>
#include <stdint.h>

#include <apr_errno.h>
#include <apr_pools.h>
#include <apr_time.h>

#include "uuid.h"

typedef enum {
    /* requests, by decision: in the order of ue_verdict_t */
    UE_M_REQUESTS_EXEMPT,
    UE_M_REQUESTS_ANONYMOUS,
    UE_M_REQUESTS_ALLOWED,
    UE_M_REQUESTS_TWO_KEYS,
    UE_M_REQUESTS_NO_KEY,
    UE_M_REQUESTS_BAD_KEY,
    UE_M_REQUESTS_EXPIRED_KEY,
    UE_M_REQUESTS_NOT_ALLOWED,
    UE_M_REQUESTS_RATE_LIMIT,
    UE_M_REQUESTS_UNAVAILABLE,
    /* events */
    UE_M_EVENTS_ADMITTED,
    UE_M_EVENTS_DELIVERED,
    UE_M_EVENTS_LOST_OVERFLOW, /* in the order of ue_loss_t */
    UE_M_EVENTS_LOST_REJECTED,
    UE_M_EVENTS_LOST_SHUTDOWN,
    UE_M_EVENTS_LOST_EXPIRED,
    UE_M_EVENTS_LOST_TORN,
    UE_M_EVENTS_LOST_UNKNOWN,
    UE_M_EVENTS_INTERRUPTED,
    UE_M_BATCHES,
    UE_M_BATCH_EVENTS,
    UE_M_SINK_ERRORS,
    UE_M_DELIVERY_RETRIABLE,
    UE_M_DELIVERY_PERMANENT,
    /* spool and ledger */
    UE_M_STREAMS_ADOPTED,
    UE_M_EVENTS_ADOPTED,
    UE_M_SPOOL_ERRORS,
    UE_M_LEDGER_STORED,
    UE_M_LEDGER_FAILED,
    /* keys */
    UE_M_KEYS_HIT, /* in the order of ue_keystore_result_t */
    UE_M_KEYS_MISS,
    UE_M_KEYS_UNKNOWN,
    UE_M_KEYS_NEGATIVE,
    UE_M_KEYS_STALE,
    UE_M_KEYS_FAILED,
    UE_M_KEYSTORE_RELOADS,
    UE_M_KEYSTORE_REFUSALS,
    UE_M_KEYSTORE_QUERIES,
    UE_M_KEYSTORE_QUERY_ERRORS,
    UE_M_KEYSTORE_NOTIFICATIONS,
    UE_M_KEYSTORE_CONNECTS,
    /* limits */
    UE_M_LIMIT_OVER_KEY, /* in the order of ue_limitby_t */
    UE_M_LIMIT_OVER_ORG,
    UE_M_LIMIT_OVER_IP,
    UE_M_LIMIT_DRY_RUN,
    UE_M_LIMIT_UNCOUNTED,
    /* gauges */
    UE_M_QUEUE_EVENTS,
    UE_M_QUEUE_EVENTS_MAX,
    UE_M_KAFKA_CONNECTED,
    UE_M_JOURNAL_SLOTS,
    UE_M_JOURNAL_FREE,
    UE_M_SPOOL_BYTES,
    UE_M_SPOOL_MOST,
    UE_M_OLDEST_EVENT,
    UE_M_KEYSTORE_CONNECTED,
    UE_M_KEY_CACHE_KEYS,
    UE_M_LIMIT_SUBJECTS,
    UE_METRICS
} ue_metric_t;

/** Why an event was lost (docs/formats.md). */
typedef enum {
    UE_LOST_OVERFLOW, /**< no slot was free, or the queue was full */
    UE_LOST_REJECTED, /**< the sink refused it for good */
    UE_LOST_SHUTDOWN, /**< the child ended before it could be delivered */
    UE_LOST_EXPIRED,  /**< the user's own limit of time was over */
    UE_LOST_TORN,     /**< its thread died while it was written */
    UE_LOST_UNKNOWN,  /**< its child was killed, or nobody knows whether it
                         was stored when its child ended */
    UE_LOSSES
} ue_loss_t;

/** How the seats' values make one: their sum, the sum of those whose child
 * lives, the highest of these, the highest there has ever been. */
typedef enum {
    UE_COUNTER,
    UE_GAUGE,
    UE_GAUGE_HIGHEST,
    UE_GAUGE_MAX
} ue_metric_type_t;

/** How a number is shown; several rows may share a name and differ in label. */
typedef struct {
    const char *name; /**< Prometheus', e.g. usage_events_lost_total */
    ue_metric_type_t type;
    const char *label; /**< "cause" or NULL */
    const char *value; /**< the label's value */
    const char *help;
} ue_metric_info_t;

/** The table of all numbers, indexed by ue_metric_t. */
extern const ue_metric_info_t ue_metric_info[UE_METRICS];

/** Delivery latency: from response to delivery. */
#define UE_LATENCY_BUCKETS 12
typedef struct {
    apr_interval_time_t most; /**< microseconds */
    const char *seconds;      /**< the same, as it is shown */
} ue_latency_bound_t;
extern const ue_latency_bound_t ue_latency_bounds[UE_LATENCY_BUCKETS];
#define UE_LATENCY_NAME "usage_events_delivery_seconds"
#define UE_LATENCY_HELP \
    "Time from the end of a response until its event was delivered."

/** What is worked out when it is read. */
#define UE_WAITING_NAME "usage_events_waiting"
#define UE_WAITING_HELP "Events admitted, neither delivered nor lost yet."
#define UE_CHILDREN_NAME "usage_children"
#define UE_CHILDREN_HELP "Children that record events."

typedef struct ue_metrics_t ue_metrics_t;
typedef struct ue_seat_t ue_seat_t;

/** All numbers at a moment. */
typedef struct {
    uint64_t value[UE_METRICS];
    uint64_t latency[UE_LATENCY_BUCKETS + 1]; /**< not cumulative */
    uint64_t latency_sum;                     /**< microseconds */
    uint64_t lost;     /**< events lost, by whatever cause */
    uint64_t waiting;  /**< events admitted, not delivered, not lost */
    uint32_t children; /**< seats with a living child */
} ue_metrics_sum_t;

/**
 * Map the shared memory.
 * @param seats how many children may live at a time, two generations of them
 * @param p     must live as long as httpd
 */
apr_status_t ue_metrics_create(ue_metrics_t **metrics, uint32_t seats,
                               apr_pool_t *p);

/** Tells one layout of the shared memory from another: a build that has another
 * one can't go on counting in it. */
size_t ue_metrics_layout(void);

/** Tells this memory from that of another run of httpd: 16 random bytes. */
const uint8_t *ue_metrics_instance(const ue_metrics_t *metrics);

/** What this child has waiting outlives it, in a spool: if it is killed, who
 * takes that over counts it. @locality child, at its start */
void ue_metrics_spooled(ue_seat_t *seat);

/** Take a seat for this process. @locality child, at its start */
ue_seat_t *ue_metrics_sit(ue_metrics_t *metrics);

/** Leave it, gauges at zero. @locality child, at its end */
void ue_metrics_leave(ue_seat_t *seat);

/** Add to a counter. @locality any thread */
void ue_metrics_add(ue_seat_t *seat, ue_metric_t metric, uint64_t n);

/** Set a gauge, or raise a UE_GAUGE_MAX. @locality any thread */
void ue_metrics_set(ue_seat_t *seat, ue_metric_t metric, uint64_t n);

/** Count one delivery's latency, in microseconds. @locality any thread */
void ue_metrics_latency(ue_seat_t *seat, apr_interval_time_t latency);

/** Count lost events of an organization. @locality any thread */
void ue_metrics_lose(ue_metrics_t *metrics, ue_seat_t *seat,
                     const ue_uuid_t *organization_id, ue_loss_t cause,
                     uint64_t n);

/** Add up all seats. @locality any process */
void ue_metrics_sum(ue_metrics_t *metrics, ue_metrics_sum_t *sum);

/** Name of a cause, as in ledger, metrics and log. */
const char *ue_loss_name(ue_loss_t cause);

/** Called for each organization that lost events. */
typedef void ue_metrics_loss_fn(void *baton, const ue_uuid_t *organization_id,
                                const uint64_t lost[UE_LOSSES]);

void ue_metrics_losses(ue_metrics_t *metrics, ue_metrics_loss_fn *fn,
                       void *baton);

#endif /* UE_METRICS_H */
