/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_UNIT_PRODUCER_H
#define UE_UNIT_PRODUCER_H

/**
 * What the tests of the producer share: a producer over sinks of the test's own
 * that do as they are told and note what they were given; numbered events, so
 * that each can be looked for; and the log's lines. Each test ends with the
 * account: what was admitted is what was delivered and what was lost.
 */
#include "unit.h"

#include <dirent.h>
#include <pthread.h>

#include "log.h"
#include "producer.h"
#include "producer_int.h"

#define EVENTS_MAX 100000
#define LINES_MAX 64

/** What a sink does with a batch. */
typedef enum {
    SINK_TAKES,
    SINK_FAILS,       /**< takes nothing, and says EIO */
    SINK_ASKS_AGAIN,  /**< takes nothing, and says EAGAIN */
    SINK_TAKES_THREE, /**< takes three, and says EIO */
    SINK_REPORTS_LATE /**< takes all, reports when it is polled */
} sink_mode_t;

typedef struct {
    ue_sink_t base;
    ue_sink_owner_t owner;
    /* told by the test */
    _Atomic int mode;
    _Atomic int stuck;             /* submit() doesn't return */
    _Atomic unsigned refuse_every; /* of so many numbers, refuse one for good */
    _Atomic apr_time_t late_until; /* monotonic: no report before */
    /* seen by the sink */
    _Atomic int in_submit;
    _Atomic unsigned calls;
    _Atomic unsigned batches; /* of which it took something */
    _Atomic unsigned largest;
    _Atomic unsigned delivered;
    _Atomic unsigned refused;
    _Atomic unsigned interrupted; /* delivered with status 0 */
    _Atomic unsigned flushes;
    _Atomic uint8_t seen[EVENTS_MAX]; /* by number, how often delivered */
    ue_slot_ref_t late[4096];
    unsigned late_count;
    char json[UE_EVENT_JSON_MAX]; /* the last one */
} fake_sink_t;

static struct {
    apr_pool_t *pool;
    ue_metrics_t *metrics;
    ue_seat_t *seat;
    ue_producer_t *producer;
    int closed;
    pthread_mutex_t log_mutex;
    unsigned line_count;
    char lines[LINES_MAX][256];
    ue_log_level_t levels[LINES_MAX];
} fix = {.log_mutex = PTHREAD_MUTEX_INITIALIZER};

static fake_sink_t fakes[UE_PRODUCER_SINKS];

static const ue_uuid_t unit_organization = {
    {0xac, 0x3e, 0, 0, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, 1}};
#define UNIT_ORGANIZATION "ac3e0000-0000-4000-8000-000000000001"

/* ---- waiting, always within a bound ---- */

#define SOON apr_time_from_sec(20)

/** Wait until something is so; fail where it doesn't come to be. */
#define EVENTUALLY(what)                                  \
    do {                                                  \
        apr_time_t eventually_ = ue_monotonic() + SOON;   \
        while (!(what) && ue_monotonic() < eventually_) { \
            apr_sleep(500);                               \
        }                                                 \
        assert_true(what);                                \
    } while (0)

/** Workers that live, by the name of their threads. */
static inline int unit_workers(void)
{
    DIR *dir = opendir("/proc/self/task");
    struct dirent *task;
    int n = 0;

    while (dir && (task = readdir(dir)) != NULL) {
        char name[300];
        FILE *f;

        snprintf(name, sizeof(name), "/proc/self/task/%s/comm", task->d_name);
        f = fopen(name, "r");
        if (f) {
            n += fgets(name, sizeof(name), f)
                 && strcmp(name, "usage-producer\n") == 0;
            fclose(f);
        }
    }
    if (dir) {
        closedir(dir);
    }
    return n;
}

/* ---- the sink ---- */

static inline apr_status_t fake_start(ue_sink_t *sink,
                                      const ue_sink_owner_t *owner)
{
    ((fake_sink_t *)sink)->owner = *owner;
    return APR_SUCCESS;
}

static inline uint32_t fake_lanes(ue_sink_t *sink)
{
    return 1;
}

static inline uint32_t fake_lane_of(const ue_uuid_t *id, uint32_t lanes)
{
    return 0;
}

static inline int fake_has_room(ue_sink_t *sink, uint32_t lane)
{
    return 1;
}

static inline void fake_report(fake_sink_t *fake, ue_slot_ref_t ref,
                               ue_outcome_t outcome)
{
    fake->owner.report(fake->owner.baton, 0, ref, outcome);
}

/* The number of an event is in the first bytes of its request id. */
static inline unsigned number_of(const char *json)
{
    ue_uuid_t id;

    if (strncmp(json, "{\"request_id\":\"", 15) != 0
        || ue_uuid_parse(&id, json + 15, UE_UUID_LEN) != APR_SUCCESS) {
        return EVENTS_MAX - 1;
    }
    return ((unsigned)id.b[0] << 16 | (unsigned)id.b[1] << 8 | id.b[2])
           % EVENTS_MAX;
}

static inline void fake_take(fake_sink_t *fake, const ue_sink_record_t *record)
{
    unsigned number = number_of(record->json);
    unsigned every = fake->refuse_every;

    if (every && number % every == 0) {
        fake->refused++;
        fake_report(fake, record->ref, UE_REFUSED);
        return;
    }
    memcpy(fake->json, record->json, record->len);
    fake->json[record->len] = '\0';
    fake->seen[number]++;
    fake->interrupted += strstr(fake->json, "\"status_code\":0,") != NULL;
    fake->delivered++;
    if (fake->mode == SINK_REPORTS_LATE) {
        fake->late[fake->late_count++] = record->ref;
    }
    else {
        fake_report(fake, record->ref, UE_DELIVERED);
    }
}

static inline apr_status_t fake_submit(ue_sink_t *sink,
                                       const ue_sink_batch_t *batch,
                                       size_t *taken)
{
    fake_sink_t *fake = (fake_sink_t *)sink;
    size_t count = batch->count;
    size_t take = count;
    apr_status_t rv = APR_SUCCESS;

    fake->in_submit = 1;
    fake->calls++;
    while (fake->stuck) {
        apr_sleep(1000);
    }
    switch (fake->mode) {
    case SINK_FAILS:
        take = 0;
        rv = APR_FROM_OS_ERROR(EIO);
        break;
    case SINK_ASKS_AGAIN:
        take = 0;
        rv = APR_EAGAIN;
        break;
    case SINK_TAKES_THREE:
        take = count < 3 ? count : 3;
        rv = take < count ? APR_FROM_OS_ERROR(EIO) : APR_SUCCESS;
        break;
    }
    for (size_t i = 0; i < take; i++) {
        fake_take(fake, &batch->records[i]);
    }
    fake->batches += take > 0;
    if (take > fake->largest) {
        fake->largest = (unsigned)take;
    }
    *taken = take;
    fake->in_submit = 0;
    return rv;
}

static inline void fake_poll(ue_sink_t *sink, apr_time_t now)
{
    fake_sink_t *fake = (fake_sink_t *)sink;

    if (fake->stuck || ue_monotonic() < fake->late_until) {
        return;
    }
    while (fake->late_count > 0) {
        fake_report(fake, fake->late[--fake->late_count], UE_DELIVERED);
    }
}

static inline apr_status_t fake_flush(ue_sink_t *sink, apr_time_t deadline)
{
    ((fake_sink_t *)sink)->flushes++;
    return APR_SUCCESS;
}

static const ue_sink_vtable_t fake_vtable = {.name = "fake",
                                             .batch_events = 10000,
                                             .batch_bytes = 512 * 1024,
                                             .start = fake_start,
                                             .lanes = fake_lanes,
                                             .lane_of = fake_lane_of,
                                             .has_room = fake_has_room,
                                             .submit = fake_submit,
                                             .poll = fake_poll,
                                             .flush = fake_flush};

/* ---- the log ---- */

static inline void unit_log(void *baton, ue_log_level_t level, apr_status_t rv,
                            const char *line)
{
    pthread_mutex_lock(&fix.log_mutex);
    if (fix.line_count < LINES_MAX) {
        fix.levels[fix.line_count] = level;
        snprintf(fix.lines[fix.line_count++], sizeof(fix.lines[0]), "%s", line);
    }
    pthread_mutex_unlock(&fix.log_mutex);
}

/** How many lines begin so? */
static inline unsigned lines_with(const char *beginning)
{
    unsigned n = 0;

    pthread_mutex_lock(&fix.log_mutex);
    for (unsigned i = 0; i < fix.line_count; i++) {
        n += strncmp(fix.lines[i], beginning, strlen(beginning)) == 0;
    }
    pthread_mutex_unlock(&fix.log_mutex);
    return n;
}

/* ---- a producer ---- */

static const ue_producer_config_t unit_config = {
    .batch_size = 100,
    .flush_interval = apr_time_from_msec(20),
    .buffer_size = 1000,
    .slots = 1024,
    .drain_timeout = apr_time_from_sec(5)};

static inline void make_producer(const ue_producer_config_t *config, int sinks)
{
    ue_sink_t *list[UE_PRODUCER_SINKS];

    for (int i = 0; i < sinks; i++) {
        list[i] = &fakes[i].base;
    }
    assert_int_equal(ue_producer_create(&fix.producer, config, list, sinks,
                                        fix.metrics, fix.seat, fix.pool),
                     APR_SUCCESS);
}

static inline int set_up(void **state)
{
    memset((void *)fakes, 0, sizeof(fakes));
    for (int i = 0; i < UE_PRODUCER_SINKS; i++) {
        fakes[i].base.vtable = &fake_vtable;
    }
    fix.producer = NULL;
    fix.closed = 0;
    fix.line_count = 0;
    if (apr_pool_create(&fix.pool, NULL) != APR_SUCCESS
        || ue_metrics_create(&fix.metrics, 2, fix.pool) != APR_SUCCESS) {
        return -1;
    }
    fix.seat = ue_metrics_sit(fix.metrics);
    ue_log_set(unit_log, NULL, UE_LOG_DEBUG);
    return 0;
}

static inline ue_metrics_sum_t sum_now(void)
{
    ue_metrics_sum_t sum;

    ue_metrics_sum(fix.metrics, &sum);
    return sum;
}

static inline uint64_t metric(ue_metric_t m)
{
    return sum_now().value[m];
}

static inline uint64_t lost_in_all(void)
{
    return sum_now().lost;
}

static inline apr_status_t close_producer(void)
{
    fix.closed = 1;
    return ue_producer_close(fix.producer);
}

/** Nothing waits, and no number was delivered twice. */
static inline void check_account(void)
{
    ue_metrics_sum_t sum = sum_now();

    assert_int_equal(sum.value[UE_M_EVENTS_ADMITTED],
                     sum.value[UE_M_EVENTS_DELIVERED] + sum.lost);
    for (int s = 0; s < UE_PRODUCER_SINKS; s++) {
        for (unsigned i = 0; i < EVENTS_MAX; i++) {
            assert_true(fakes[s].seen[i] <= 1);
        }
    }
}

/* The worker is never joined. Before its memory goes, it must have: what was
 * stuck is let go, and we wait for it to be seen off. */
static inline int tear_down(void **state)
{
    apr_time_t until = ue_monotonic() + SOON;

    for (int i = 0; i < UE_PRODUCER_SINKS; i++) {
        fakes[i].stuck = 0;
        fakes[i].mode = SINK_TAKES;
    }
    if (fix.producer && !fix.closed) {
        close_producer();
    }
    /* Once it says so itself, all that it wrote is seen; one that was replaced
     * says nothing any more. */
    while (unit_workers() > 0
           || (fix.producer && !atomic_load(&fix.producer->worker_done)
               && atomic_load(&fix.producer->worker_at) != WORKER_REPLACED)) {
        if (ue_monotonic() > until) {
            return -1;
        }
        apr_sleep(1000);
    }
    /* One that was replaced touched the queue last. */
    if (fix.producer) {
        void *ref;

        apr_queue_trypop(fix.producer->queue, &ref);
        for (int i = 0; i < fix.producer->outlet_count; i++) {
            free(fix.producer->outlets[i].lanes);
        }
    }
    ue_log_set(NULL, NULL, UE_LOG_CRIT);
    apr_pool_destroy(fix.pool);
    return 0;
}

static inline ue_admission_t numbered(unsigned number)
{
    ue_admission_t a = {
        .request_id = {{(uint8_t)(number >> 16), (uint8_t)(number >> 8),
                        (uint8_t)number}},
        .organization_id = unit_organization,
        .timestamp = apr_time_now(),
        .method = "GET",
        .method_len = 3,
        .endpoint = "/v1/charge",
        .endpoint_len = 10};

    return a;
}

static const ue_completion_t unit_completion = {3, 200, 1};

/** Admit and record one event. @return what recording it said */
static inline apr_status_t send_one(unsigned number, ue_overflow_t overflow)
{
    ue_admission_t a = numbered(number);
    ue_slot_ref_t ref;

    assert_int_equal(ue_producer_admit(fix.producer, &a, overflow, &ref),
                     APR_SUCCESS);
    return ue_producer_record(fix.producer, ref, &unit_completion, overflow);
}

static inline void send_all(unsigned from, unsigned to)
{
    for (unsigned n = from; n < to; n++) {
        assert_int_equal(send_one(n, UE_OVERFLOW_DROP), APR_SUCCESS);
    }
}

/** Each of these was delivered once. */
static inline void check_seen(const fake_sink_t *fake, unsigned from,
                              unsigned to)
{
    for (unsigned n = from; n < to; n++) {
        if (fake->seen[n] != 1) {
            fail_msg("event %u was delivered %u times", n, fake->seen[n]);
        }
    }
}

/** Let a request through that is not logged yet. */
static inline ue_slot_ref_t admit(unsigned number)
{
    ue_admission_t a = numbered(number);
    ue_slot_ref_t ref;

    assert_int_equal(
        ue_producer_admit(fix.producer, &a, UE_OVERFLOW_DROP, &ref),
        APR_SUCCESS);
    return ref;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

#endif /* UE_UNIT_PRODUCER_H */
