/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "metrics.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "thread.h"

/* Rows for organizations that lost events: a power of two. */
#ifndef UE_ORGANIZATIONS
#define UE_ORGANIZATIONS 4096
#endif
#define PROBES 16

#define REQUESTS "usage_requests_total", UE_COUNTER, "decision"
#define REQUESTS_HELP "Requests by what was decided about them."
#define LOST "usage_events_lost_total", UE_COUNTER, "cause"
#define LOST_HELP "Events that were admitted and will never be delivered."
#define DELIVERY "usage_delivery_errors_total", UE_COUNTER, "kind"
#define DELIVERY_HELP \
    "Events that a sink reported as not delivered; retriable: offered again."
#define LEDGER "usage_ledger_records_total", UE_COUNTER, "result"
#define LEDGER_HELP "Records written to the ledger; failed: written again."
#define LOOKUPS "usage_key_lookups_total", UE_COUNTER, "result"
#define LOOKUPS_HELP "Keys looked up in the store."
#define OVER "usage_limit_over_total", UE_COUNTER, "by"
#define OVER_HELP "Requests over a rate limit, by what it counts."
#define STORE "usage_keystore_changes_total", UE_COUNTER, "result"
#define STORE_HELP "Changes of the key store that a child saw."

const ue_metric_info_t ue_metric_info[UE_METRICS] = {
    [UE_M_REQUESTS_EXEMPT] = {REQUESTS, "exempt", REQUESTS_HELP},
    [UE_M_REQUESTS_ANONYMOUS] = {REQUESTS, "anonymous", REQUESTS_HELP},
    [UE_M_REQUESTS_ALLOWED] = {REQUESTS, "allowed", REQUESTS_HELP},
    [UE_M_REQUESTS_TWO_KEYS] = {REQUESTS, "two-keys", REQUESTS_HELP},
    [UE_M_REQUESTS_NO_KEY] = {REQUESTS, "no-key", REQUESTS_HELP},
    [UE_M_REQUESTS_BAD_KEY] = {REQUESTS, "bad-key", REQUESTS_HELP},
    [UE_M_REQUESTS_EXPIRED_KEY] = {REQUESTS, "expired-key", REQUESTS_HELP},
    [UE_M_REQUESTS_NOT_ALLOWED] = {REQUESTS, "not-allowed", REQUESTS_HELP},
    [UE_M_REQUESTS_RATE_LIMIT] = {REQUESTS, "rate-limit", REQUESTS_HELP},
    [UE_M_REQUESTS_UNAVAILABLE] = {REQUESTS, "unavailable", REQUESTS_HELP},
    [UE_M_EVENTS_ADMITTED] = {"usage_events_admitted_total", UE_COUNTER, NULL,
                              NULL,
                              "Requests let through, each of which owes an "
                              "event."},
    [UE_M_EVENTS_DELIVERED] = {"usage_events_delivered_total", UE_COUNTER, NULL,
                               NULL, "Events that every sink has stored."},
    [UE_M_EVENTS_LOST_OVERFLOW] = {LOST, "overflow", LOST_HELP},
    [UE_M_EVENTS_LOST_REJECTED] = {LOST, "rejected", LOST_HELP},
    [UE_M_EVENTS_LOST_SHUTDOWN] = {LOST, "shutdown", LOST_HELP},
    [UE_M_EVENTS_LOST_EXPIRED] = {LOST, "expired", LOST_HELP},
    [UE_M_EVENTS_LOST_TORN] = {LOST, "torn", LOST_HELP},
    [UE_M_EVENTS_LOST_UNKNOWN] = {LOST, "unknown", LOST_HELP},
    [UE_M_EVENTS_INTERRUPTED] = {"usage_events_interrupted_total", UE_COUNTER,
                                 NULL, NULL,
                                 "Events of requests that a child's end cut "
                                 "short, recorded with status 0."},
    [UE_M_BATCHES] = {"usage_batches_total", UE_COUNTER, NULL, NULL,
                      "Batches that a sink took."},
    [UE_M_BATCH_EVENTS] = {"usage_batch_events_total", UE_COUNTER, NULL, NULL,
                           "Events in these batches."},
    [UE_M_SINK_ERRORS] = {"usage_sink_errors_total", UE_COUNTER, NULL, NULL,
                          "Batches that a sink could not take."},
    [UE_M_DELIVERY_RETRIABLE] = {DELIVERY, "retriable", DELIVERY_HELP},
    [UE_M_DELIVERY_PERMANENT] = {DELIVERY, "permanent", DELIVERY_HELP},
    [UE_M_STREAMS_ADOPTED] = {"usage_streams_adopted_total", UE_COUNTER, NULL,
                              NULL,
                              "Streams taken over from children that are "
                              "gone."},
    [UE_M_EVENTS_ADOPTED] = {"usage_events_adopted_total", UE_COUNTER, NULL,
                             NULL,
                             "Events that were taken over with them, to be "
                             "sent."},
    [UE_M_SPOOL_ERRORS] = {"usage_spool_errors_total", UE_COUNTER, NULL, NULL,
                           "Files of the spool that could not be made, synced "
                           "or read."},
    [UE_M_LEDGER_STORED] = {LEDGER, "stored", LEDGER_HELP},
    [UE_M_LEDGER_FAILED] = {LEDGER, "failed", LEDGER_HELP},
    [UE_M_KEYS_HIT] = {LOOKUPS, "hit", LOOKUPS_HELP},
    [UE_M_KEYS_MISS] = {LOOKUPS, "miss", LOOKUPS_HELP},
    [UE_M_KEYS_UNKNOWN] = {LOOKUPS, "unknown", LOOKUPS_HELP},
    [UE_M_KEYS_NEGATIVE] = {LOOKUPS, "negative", LOOKUPS_HELP},
    [UE_M_KEYS_STALE] = {LOOKUPS, "stale", LOOKUPS_HELP},
    [UE_M_KEYS_FAILED] = {LOOKUPS, "failed", LOOKUPS_HELP},
    [UE_M_KEYSTORE_RELOADS] = {STORE, "taken-up", STORE_HELP},
    [UE_M_KEYSTORE_REFUSALS] = {STORE, "refused", STORE_HELP},
    [UE_M_KEYSTORE_QUERIES] = {"usage_keystore_queries_total", UE_COUNTER, NULL,
                               NULL, "Queries to the key database."},
    [UE_M_KEYSTORE_QUERY_ERRORS] = {"usage_keystore_query_errors_total",
                                    UE_COUNTER, NULL, NULL,
                                    "Connections to it that were lost or "
                                    "not made, queries that failed."},
    [UE_M_KEYSTORE_NOTIFICATIONS] = {"usage_keystore_notifications_total",
                                     UE_COUNTER, NULL, NULL,
                                     "Changes of keys that it told of."},
    [UE_M_KEYSTORE_CONNECTS] = {"usage_keystore_connects_total", UE_COUNTER,
                                NULL, NULL, "Connections made to it."},
    [UE_M_LIMIT_OVER_KEY] = {OVER, "key", OVER_HELP},
    [UE_M_LIMIT_OVER_ORG] = {OVER, "org", OVER_HELP},
    [UE_M_LIMIT_OVER_IP] = {OVER, "ip", OVER_HELP},
    [UE_M_LIMIT_DRY_RUN] = {"usage_limit_dry_run_total", UE_COUNTER, NULL, NULL,
                            "Requests of these that were let in all the same, "
                            "by UsageLimitDryRun."},
    [UE_M_LIMIT_UNCOUNTED] = {"usage_limit_uncounted_total", UE_COUNTER, NULL,
                              NULL,
                              "Requests that could not be counted, to which "
                              "UsageLimitFailure applied."},
    [UE_M_QUEUE_EVENTS] = {"usage_queue_events", UE_GAUGE, NULL, NULL,
                           "Events in the queues to the background threads."},
    [UE_M_QUEUE_EVENTS_MAX] = {"usage_queue_events_max", UE_GAUGE_MAX, NULL,
                               NULL, "Most events seen in one such queue."},
    [UE_M_KAFKA_CONNECTED] = {"usage_kafka_connected_producers", UE_GAUGE, NULL,
                              NULL,
                              "Producers that reach their Kafka cluster."},
    [UE_M_JOURNAL_SLOTS] = {"usage_journal_slots", UE_GAUGE, NULL, NULL,
                            "Slots that children have for events."},
    [UE_M_JOURNAL_FREE] = {"usage_journal_free_slots", UE_GAUGE, NULL, NULL,
                           "Slots of these that are free."},
    [UE_M_SPOOL_BYTES] = {"usage_spool_bytes", UE_GAUGE_HIGHEST, NULL, NULL,
                          "Bytes of all files in the spool."},
    [UE_M_SPOOL_MOST] = {"usage_spool_max_bytes", UE_GAUGE_HIGHEST, NULL, NULL,
                         "Bytes that they may have together."},
    [UE_M_OLDEST_EVENT] = {"usage_oldest_event_seconds", UE_GAUGE_HIGHEST, NULL,
                           NULL,
                           "Age of the oldest event that waits, but for "
                           "requests that are open for more than an hour."},
    [UE_M_KEYSTORE_CONNECTED] = {"usage_keystore_connected", UE_GAUGE, NULL,
                                 NULL,
                                 "Children whose connection to the key "
                                 "database is up."},
    [UE_M_KEY_CACHE_KEYS] = {"usage_key_cache_keys", UE_GAUGE_HIGHEST, NULL,
                             NULL,
                             "Keys in the cache that all children share."},
    [UE_M_LIMIT_SUBJECTS] = {"usage_limit_subjects", UE_GAUGE_HIGHEST, NULL,
                             NULL,
                             "Keys, organizations and addresses whose rate is "
                             "counted."},
};

const ue_latency_bound_t ue_latency_bounds[UE_LATENCY_BUCKETS] = {
    {5000, "0.005"}, {10000, "0.01"},  {25000, "0.025"}, {50000, "0.05"},
    {100000, "0.1"}, {250000, "0.25"}, {500000, "0.5"},  {600000, "0.6"},
    {1000000, "1"},  {2500000, "2.5"}, {10000000, "10"}, {60000000, "60"}};

static const char *const loss_names[UE_LOSSES] = {
    "overflow", "rejected", "shutdown", "expired", "torn", "unknown"};

static_assert((int)UE_M_EVENTS_LOST_OVERFLOW + (int)UE_LOST_UNKNOWN
                  == (int)UE_M_EVENTS_LOST_UNKNOWN,
              "a cause is the number of its counter, from the first on");

struct ue_seat_t {
    _Atomic pid_t pid; /* 0: free */
    _Atomic int spooled;
    _Atomic uint64_t value[UE_METRICS];
    _Atomic uint64_t latency[UE_LATENCY_BUCKETS + 1];
    _Atomic uint64_t latency_sum;
} __attribute__((aligned(64)));

enum { ORG_EMPTY, ORG_WRITING, ORG_READY };

typedef struct {
    _Atomic int state;
    ue_uuid_t id;
    _Atomic uint64_t lost[UE_LOSSES];
} org_t;

typedef struct {
    uint8_t instance[16];
    org_t others; /* organizations that found no room, as the nil UUID */
    org_t orgs[UE_ORGANIZATIONS];
    ue_seat_t seats[];
} shared_t;

struct ue_metrics_t {
    shared_t *shared;
    uint32_t seats;
};

static uint64_t get(const _Atomic uint64_t *v)
{
    return atomic_load_explicit(v, memory_order_relaxed);
}

static void add(_Atomic uint64_t *v, uint64_t n)
{
    atomic_fetch_add_explicit(v, n, memory_order_relaxed);
}

apr_status_t ue_metrics_create(ue_metrics_t **metrics, uint32_t seats,
                               apr_pool_t *p)
{
    ue_metrics_t *m = apr_pcalloc(p, sizeof(*m));
    size_t size = sizeof(shared_t) + seats * sizeof(ue_seat_t);

    m->shared = mmap(NULL, size, PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (m->shared == MAP_FAILED) {
        return errno;
    }
    if (ue_random(m->shared->instance, sizeof(m->shared->instance))
        != APR_SUCCESS) {
        return APR_EGENERAL;
    }
    m->seats = seats;
    atomic_store(&m->shared->others.state, ORG_READY);
    *metrics = m;
    return APR_SUCCESS;
}

const uint8_t *ue_metrics_instance(const ue_metrics_t *m)
{
    return m->shared->instance;
}

void ue_metrics_spooled(ue_seat_t *seat)
{
    atomic_store(&seat->spooled, 1);
}

size_t ue_metrics_layout(void)
{
    return sizeof(shared_t) * 31 + sizeof(ue_seat_t) * 7 + UE_METRICS;
}

static uint64_t lost_of(const ue_seat_t *seat)
{
    uint64_t n = 0;
    int i;

    for (i = UE_M_EVENTS_LOST_OVERFLOW; i <= UE_M_EVENTS_LOST_UNKNOWN; i++) {
        n += get(&seat->value[i]);
    }
    return n;
}

/** What is true of a child ends with it. */
static void clear_gauges(ue_seat_t *seat)
{
    int i;

    for (i = 0; i < UE_METRICS; i++) {
        if (ue_metric_info[i].type == UE_GAUGE
            || ue_metric_info[i].type == UE_GAUGE_HIGHEST) {
            atomic_store(&seat->value[i], 0);
        }
    }
}

/**
 * Settle a seat whose child was killed: what it had waiting is gone. Only one
 * process may do so, whoever takes the dead child's pid off the seat.
 * @return whether it was this one; the seat is its own then
 */
static int bury(ue_metrics_t *m, ue_seat_t *seat, pid_t dead, pid_t heir)
{
    uint64_t out, in;

    if (!atomic_compare_exchange_strong(&seat->pid, &dead, -1)) {
        return 0;
    }
    in = get(&seat->value[UE_M_EVENTS_ADMITTED]);
    out = get(&seat->value[UE_M_EVENTS_DELIVERED]) + lost_of(seat);
    if (in > out && !atomic_load(&seat->spooled)) {
        add(&seat->value[UE_M_EVENTS_LOST_UNKNOWN], in - out);
        add(&m->shared->others.lost[UE_LOST_UNKNOWN], in - out);
    }
    clear_gauges(seat);
    atomic_store(&seat->spooled, 0);
    atomic_store(&seat->pid, heir);
    return 1;
}

ue_seat_t *ue_metrics_sit(ue_metrics_t *m)
{
    pid_t self = getpid();
    uint32_t i;

    for (i = 0; i < m->seats; i++) {
        ue_seat_t *seat = &m->shared->seats[i];
        pid_t pid = atomic_load(&seat->pid);

        if (pid == 0
            && atomic_compare_exchange_strong(&seat->pid, &pid, self)) {
            return seat;
        }
        if (pid > 0 && ue_is_dead(pid) && bury(m, seat, pid, self)) {
            return seat;
        }
    }
    /* More children than were announced: they share, and counters still add
     * up; only what a killed one of them loses stays unnoticed. */
    return &m->shared->seats[(uint32_t)self % m->seats];
}

void ue_metrics_leave(ue_seat_t *seat)
{
    pid_t self = getpid();

    clear_gauges(seat);
    atomic_store(&seat->spooled, 0);
    atomic_compare_exchange_strong(&seat->pid, &self, 0);
}

void ue_metrics_add(ue_seat_t *seat, ue_metric_t metric, uint64_t n)
{
    add(&seat->value[metric], n);
}

void ue_metrics_set(ue_seat_t *seat, ue_metric_t metric, uint64_t n)
{
    _Atomic uint64_t *v = &seat->value[metric];
    uint64_t old = get(v);

    if (ue_metric_info[metric].type != UE_GAUGE_MAX) {
        atomic_store_explicit(v, n, memory_order_relaxed);
        return;
    }
    while (old < n && !atomic_compare_exchange_weak(v, &old, n)) {
    }
}

void ue_metrics_latency(ue_seat_t *seat, apr_interval_time_t latency)
{
    int i = 0;

    if (latency < 0) {
        latency = 0; /* the clock was set back in between */
    }
    while (i < UE_LATENCY_BUCKETS && latency > ue_latency_bounds[i].most) {
        i++;
    }
    add(&seat->latency[i], 1);
    add(&seat->latency_sum, (uint64_t)latency);
}

static uint32_t org_hash(const ue_uuid_t *id)
{
    uint32_t h = 2166136261u; /* FNV-1a */
    size_t i;

    for (i = 0; i < sizeof(id->b); i++) {
        h = (h ^ id->b[i]) * 16777619u;
    }
    return h;
}

/** The row of an organization, made where there is none. */
static org_t *org_row(shared_t *shared, const ue_uuid_t *id)
{
    uint32_t h = org_hash(id);
    int i;

    for (i = 0; i < PROBES; i++) {
        org_t *org = &shared->orgs[(h + i) & (UE_ORGANIZATIONS - 1)];
        int state = atomic_load_explicit(&org->state, memory_order_acquire);

        if (state == ORG_EMPTY
            && atomic_compare_exchange_strong(&org->state, &state,
                                              ORG_WRITING)) {
            org->id = *id;
            atomic_store_explicit(&org->state, ORG_READY, memory_order_release);
            return org;
        }
        /* One that is being written may be this one; then it gets a second
         * row, and readers see both. Waiting could last for ever: its writer
         * may have been killed. */
        if (state == ORG_READY && ue_uuid_equal(&org->id, id)) {
            return org;
        }
    }
    return &shared->others;
}

void ue_metrics_lose(ue_metrics_t *m, ue_seat_t *seat, const ue_uuid_t *id,
                     ue_loss_t cause, uint64_t n)
{
    add(&org_row(m->shared, id)->lost[cause], n);
    add(&seat->value[UE_M_EVENTS_LOST_OVERFLOW + (int)cause], n);
}

static void sum_seat(ue_metrics_sum_t *sum, const ue_seat_t *seat)
{
    int i;

    for (i = 0; i < UE_METRICS; i++) {
        uint64_t v = get(&seat->value[i]);

        if (ue_metric_info[i].type < UE_GAUGE_HIGHEST) {
            sum->value[i] += v;
        }
        else if (v > sum->value[i]) {
            sum->value[i] = v;
        }
    }
    for (i = 0; i <= UE_LATENCY_BUCKETS; i++) {
        sum->latency[i] += get(&seat->latency[i]);
    }
    sum->latency_sum += get(&seat->latency_sum);
}

void ue_metrics_sum(ue_metrics_t *m, ue_metrics_sum_t *sum)
{
    uint64_t out;
    uint32_t i;
    int k;

    memset(sum, 0, sizeof(*sum));
    for (i = 0; i < m->seats; i++) {
        ue_seat_t *seat = &m->shared->seats[i];
        pid_t pid = atomic_load(&seat->pid);

        if (pid > 0 && ue_is_dead(pid)) {
            bury(m, seat, pid, 0);
            pid = 0;
        }
        sum->children += pid > 0;
        sum_seat(sum, seat);
    }
    for (k = UE_M_EVENTS_LOST_OVERFLOW; k <= UE_M_EVENTS_LOST_UNKNOWN; k++) {
        sum->lost += sum->value[k];
    }
    out = sum->value[UE_M_EVENTS_DELIVERED] + sum->lost;
    /* Seats are read one number after the other while they change. */
    if (sum->value[UE_M_EVENTS_ADMITTED] > out) {
        sum->waiting = sum->value[UE_M_EVENTS_ADMITTED] - out;
    }
}

const char *ue_loss_name(ue_loss_t cause)
{
    return loss_names[cause];
}

static void show_org(const org_t *org, ue_metrics_loss_fn *fn, void *baton)
{
    uint64_t lost[UE_LOSSES];
    uint64_t all = 0;
    int i;

    for (i = 0; i < UE_LOSSES; i++) {
        lost[i] = get(&org->lost[i]);
        all += lost[i];
    }
    if (all) {
        fn(baton, &org->id, lost);
    }
}

void ue_metrics_losses(ue_metrics_t *m, ue_metrics_loss_fn *fn, void *baton)
{
    int i;

    show_org(&m->shared->others, fn, baton);
    for (i = 0; i < UE_ORGANIZATIONS; i++) {
        const org_t *org = &m->shared->orgs[i];

        if (atomic_load_explicit(&org->state, memory_order_acquire)
            == ORG_READY) {
            show_org(org, fn, baton);
        }
    }
}
