/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_UNIT_LANES_H
#define UE_UNIT_LANES_H

/**
 * What the tests of the producer's lanes share: a sink with lanes that takes
 * and reports what it is told to, and looks after the promises that hold in
 * every test (one batch a lane, room, limits, numbers, order); and a producer
 * without a thread, whose worker is the test itself, on a clock of the test's.
 *
 * Events are numbered in the order in which they are recorded. Organization n
 * goes to lane n modulo the number of lanes.
 */
#include "unit_producer.h"

#define LANES_MAX 32
#define IDS_MAX 8000  /* events that one test may record */
#define HELD_MAX 1024 /* events of a batch */
#define LOG_MAX 4096

/** A record that the sink has taken and not reported. */
typedef struct {
    ue_slot_ref_t ref;
    unsigned event;
    uint64_t number;
} held_t;

/** What was offered, in its order. */
typedef struct {
    unsigned event;
    uint64_t number;
    uint32_t lane;
    unsigned stream; /* from 1 */
} handed_t;

typedef struct {
    uint32_t lane;
    size_t count, taken, bytes;
} batch_seen_t;

#define HOLD (-1)

typedef struct lane_sink_t lane_sink_t;
struct lane_sink_t {
    ue_sink_t base;
    ue_sink_vtable_t vtable;
    ue_sink_owner_t owner;
    pthread_mutex_t mutex;
    /* told by the test */
    uint32_t lanes;
    uint8_t no_room[LANES_MAX];
    unsigned credit; /* batches under way in all lanes */
    size_t takes;    /* of a batch, at most */
    apr_status_t says;
    int in_submit; /* reports before submit() returns */
    int orderly;   /* what is stored is stored in its order */
    int expired;   /* a stream may have ended with events that were stored */
    /** What becomes of a record when the sink is polled; or HOLD. */
    int (*choose)(lane_sink_t *sink, uint32_t lane, const held_t *held);
    void (*took)(lane_sink_t *sink, uint32_t lane);
    /* seen by the sink */
    char wrong[200]; /* the first promise that was broken */
    held_t held[LANES_MAX][HELD_MAX];
    unsigned held_count[LANES_MAX];
    size_t taken[LANES_MAX]; /* of the batch under way */
    unsigned polls, under_way;
    unsigned outcomes[UE_TOO_LARGE + 1];
    handed_t handed[LOG_MAX];
    batch_seen_t batches[LOG_MAX];
    unsigned handed_count, batch_count;
    /* the stream */
    ue_stream_t stream;
    unsigned streams;
    uint32_t told;             /* the last number of lanes that was told */
    uint32_t stream_lanes;     /* of the stream */
    uint64_t given[LANES_MAX]; /* the highest number */
    unsigned meaning[LANES_MAX][IDS_MAX];
    uint64_t lowest[LANES_MAX]; /* numbers below have left */
    /* by event */
    uint64_t number[IDS_MAX]; /* in the stream, 0: none */
    uint8_t fate[IDS_MAX];    /* outcome + 1, once it is final */
    uint8_t maybe[IDS_MAX];   /* was once reported as unknown */
    uint8_t offered[IDS_MAX];
    uint8_t stored[IDS_MAX];
    uint16_t organization[IDS_MAX];
    /* by organization: the last event */
    unsigned last_offered[256], last_stored[256];
};

static lane_sink_t lane_sinks[UE_PRODUCER_SINKS];

/** Note the first promise that was broken; any thread. */
#define BLAME(sink, ...)                                                 \
    do {                                                                 \
        if (!(sink)->wrong[0]) {                                         \
            snprintf((sink)->wrong, sizeof((sink)->wrong), __VA_ARGS__); \
        }                                                                \
    } while (0)

static inline void check_sinks(void)
{
    for (int i = 0; i < UE_PRODUCER_SINKS; i++) {
        if (lane_sinks[i].wrong[0]) {
            fail_msg("sink %d: %s", i, lane_sinks[i].wrong);
        }
    }
}

/* ---- what the sink does ---- */

static inline void sink_store(lane_sink_t *s, unsigned event)
{
    unsigned *last = &s->last_stored[s->organization[event]];

    if (s->stored[event]) {
        if (!s->expired) {
            BLAME(s, "event %u is stored twice", event);
        }
        return;
    }
    s->stored[event] = 1;
    if (s->orderly && event <= *last) {
        BLAME(s, "event %u is stored behind %u", event, *last);
    }
    *last = event;
}

/** Report the record at an index of a lane. */
static inline void sink_report(lane_sink_t *s, uint32_t lane, unsigned i,
                               ue_outcome_t outcome)
{
    held_t held = s->held[lane][i];

    s->outcomes[outcome]++;
    if (outcome == UE_DELIVERED || outcome == UE_REFUSED
        || outcome == UE_EXPIRED
        || (outcome == UE_TOO_LARGE && s->taken[lane] == 1)) {
        s->fate[held.event] = (uint8_t)(outcome + 1);
    }
    if (outcome == UE_DELIVERED && !s->stored[held.event]) {
        sink_store(s, held.event);
    }
    s->maybe[held.event] |= outcome == UE_UNKNOWN;
    memmove(&s->held[lane][i], &s->held[lane][i + 1],
            (s->held_count[lane] - i - 1) * sizeof(held));
    if (--s->held_count[lane] == 0) {
        s->under_way--;
    }
    s->owner.report(s->owner.baton, lane, held.ref, outcome);
}

static inline void sink_report_all(lane_sink_t *s, uint32_t lane,
                                   ue_outcome_t outcome)
{
    while (s->held_count[lane]) {
        sink_report(s, lane, 0, outcome);
    }
}

static inline apr_status_t sink_start(ue_sink_t *sink,
                                      const ue_sink_owner_t *owner)
{
    ((lane_sink_t *)sink)->owner = *owner;
    return APR_SUCCESS;
}

static inline uint32_t sink_lanes(ue_sink_t *sink)
{
    lane_sink_t *s = (lane_sink_t *)sink;
    uint32_t lanes;

    pthread_mutex_lock(&s->mutex);
    lanes = s->lanes;
    s->told = lanes ? lanes : s->told;
    pthread_mutex_unlock(&s->mutex);
    return lanes;
}

static inline uint32_t sink_lane_of(const ue_uuid_t *id, uint32_t lanes)
{
    return id->b[15] % lanes;
}

static inline int room_for(const lane_sink_t *s, uint32_t lane)
{
    return !s->no_room[lane] && s->under_way < s->credit;
}

static inline int sink_has_room(ue_sink_t *sink, uint32_t lane)
{
    lane_sink_t *s = (lane_sink_t *)sink;
    int room;

    pthread_mutex_lock(&s->mutex);
    room = room_for(s, lane);
    pthread_mutex_unlock(&s->mutex);
    return room;
}

/** A stream that was not seen before: numbers begin anew. */
static inline void begin_stream(lane_sink_t *s, const ue_stream_t *stream)
{
    if (s->under_way) {
        BLAME(s, "a stream begins while a batch of the last is under way");
    }
    s->stream = *stream;
    s->streams++;
    s->stream_lanes = s->told;
    memset(s->given, 0, sizeof(s->given));
    memset(s->number, 0, sizeof(s->number));
    for (int i = 0; i < LANES_MAX; i++) {
        s->lowest[i] = 1;
    }
}

/** Numbers: from 1 without a gap, each with one meaning, in their order. */
static inline void check_number(lane_sink_t *s, uint32_t lane, unsigned event,
                                uint64_t number, uint64_t *next)
{
    while (*next <= s->given[lane] && s->fate[s->meaning[lane][*next]]) {
        ++*next;
    }
    if (number == 0 || number >= IDS_MAX) {
        BLAME(s, "a number that can't be");
        return;
    }
    if (number != *next) {
        BLAME(s, "lane %u has number %u where %u is next", lane,
              (unsigned)number, (unsigned)*next);
    }
    ++*next;
    if (s->number[event] && s->number[event] != number) {
        BLAME(s, "event %u had another number", event);
    }
    s->number[event] = number;
    if (number > s->given[lane]) {
        s->given[lane] = number;
        s->meaning[lane][number] = event;
    }
    else if (s->meaning[lane][number] != event) {
        BLAME(s, "number %u has a second meaning", (unsigned)number);
    }
}

static inline unsigned event_of(const ue_sink_record_t *record)
{
    return number_of(record->json) % IDS_MAX;
}

static inline void check_record(lane_sink_t *s, const ue_sink_batch_t *batch,
                                size_t i, uint64_t *next)
{
    const ue_sink_record_t *record = &batch->records[i];
    unsigned event = event_of(record);
    unsigned *last;
    ue_uuid_t id;

    if (s->vtable.numbered
            ? memcmp(&s->stream, record->stream, sizeof(s->stream)) != 0
            : record->stream != NULL) {
        BLAME(s, "event %u is of another stream than its batch", event);
    }
    if (ue_uuid_parse(&id, record->organization, UE_UUID_LEN) != APR_SUCCESS
        || id.b[15] % s->stream_lanes != batch->lane) {
        BLAME(s, "event %u is in lane %u", event, batch->lane);
    }
    if (record->json[record->len] != '\n'
        || (i > 0 && record->json != record[-1].json + record[-1].len + 1)) {
        BLAME(s, "event %u does not lie behind the last", event);
    }
    s->organization[event] = id.b[15];
    last = &s->last_offered[id.b[15]];
    if (s->fate[event]) {
        BLAME(s, "event %u is offered after its end", event);
    }
    if (!s->offered[event] && event <= *last) {
        BLAME(s, "event %u is offered behind %u", event, *last);
    }
    *last = s->offered[event] ? *last : event;
    s->offered[event] = 1;
    if (s->vtable.numbered) {
        check_number(s, batch->lane, event, record->number, next);
    }
    else if (record->number) {
        BLAME(s, "a number where there are none");
    }
    if (s->handed_count < LOG_MAX) {
        s->handed[s->handed_count++] =
            (handed_t){event, record->number, batch->lane, s->streams};
    }
}

static inline void check_batch(lane_sink_t *s, const ue_sink_batch_t *batch)
{
    static const ue_stream_t none; /* without numbers there is no stream */
    const ue_stream_t *stream =
        s->vtable.numbered ? batch->records[0].stream : &none;
    uint64_t *lowest = &s->lowest[batch->lane];
    size_t bytes = 0;
    uint64_t next;

    if (!s->streams || memcmp(&s->stream, stream, sizeof(s->stream)) != 0) {
        begin_stream(s, stream);
    }
    if (batch->lane >= s->lanes && s->lanes) {
        BLAME(s, "lane %u of %u", batch->lane, s->lanes);
    }
    if (s->held_count[batch->lane]) {
        BLAME(s, "lane %u has a batch already", batch->lane);
    }
    if (!room_for(s, batch->lane)) {
        BLAME(s, "lane %u has no room", batch->lane);
    }
    while (*lowest <= s->given[batch->lane]
           && s->fate[s->meaning[batch->lane][*lowest]]) {
        ++*lowest;
    }
    next = *lowest;
    for (size_t i = 0; i < batch->count; i++) {
        check_record(s, batch, i, &next);
        bytes += batch->records[i].len + 1 + s->vtable.event_overhead;
    }
    if (batch->count == 0 || batch->count > s->vtable.batch_events
        || bytes > s->vtable.batch_bytes) {
        BLAME(s, "a batch of %u events, %u bytes", (unsigned)batch->count,
              (unsigned)bytes);
    }
    if (s->batch_count < LOG_MAX) {
        s->batches[s->batch_count++] =
            (batch_seen_t){batch->lane, batch->count, 0, bytes};
    }
}

/** Report what the test wants to be reported now, the last ones first. */
static inline void answer(lane_sink_t *s, uint32_t lane)
{
    int outcomes[HELD_MAX];
    unsigned count = s->held_count[lane];

    for (unsigned i = 0; i < count; i++) {
        outcomes[i] = s->choose(s, lane, &s->held[lane][i]);
        if (outcomes[i] == UE_DELIVERED && !s->stored[s->held[lane][i].event]) {
            sink_store(s, s->held[lane][i].event);
        }
    }
    for (unsigned i = count; i > 0; i--) {
        if (outcomes[i - 1] != HOLD) {
            sink_report(s, lane, i - 1, (ue_outcome_t)outcomes[i - 1]);
        }
    }
}

static inline apr_status_t sink_submit(ue_sink_t *sink,
                                       const ue_sink_batch_t *batch,
                                       size_t *taken)
{
    lane_sink_t *s = (lane_sink_t *)sink;
    size_t take = batch->count;
    apr_status_t rv = s->says;

    pthread_mutex_lock(&s->mutex);
    check_batch(s, batch);
    if (take > s->takes) {
        take = s->takes;
    }
    for (size_t i = 0; i < take; i++) {
        s->held[batch->lane][i] =
            (held_t){batch->records[i].ref, event_of(&batch->records[i]),
                     batch->records[i].number};
    }
    s->held_count[batch->lane] = (unsigned)take;
    /* What it takes in all, the producer learns at the end only. */
    s->taken[batch->lane] = batch->count;
    s->under_way += take > 0;
    s->batches[s->batch_count - 1].taken = take;
    if (take && s->took) {
        s->took(s, batch->lane);
    }
    if (take && s->in_submit) {
        answer(s, batch->lane);
    }
    s->taken[batch->lane] = *taken = take;
    if (take < batch->count && rv == APR_SUCCESS) {
        rv = APR_EAGAIN;
    }
    pthread_mutex_unlock(&s->mutex);
    return rv;
}

static inline void sink_poll(ue_sink_t *sink, apr_time_t now)
{
    lane_sink_t *s = (lane_sink_t *)sink;

    pthread_mutex_lock(&s->mutex);
    s->polls++;
    for (uint32_t lane = 0; lane < LANES_MAX; lane++) {
        answer(s, lane);
    }
    pthread_mutex_unlock(&s->mutex);
}

static inline apr_status_t sink_flush(ue_sink_t *sink, apr_time_t deadline)
{
    sink_poll(sink, deadline);
    return APR_SUCCESS;
}

/* ---- what is chosen ---- */

static inline int choose_hold(lane_sink_t *s, uint32_t lane, const held_t *held)
{
    return HOLD;
}

static inline int choose_delivered(lane_sink_t *s, uint32_t lane,
                                   const held_t *held)
{
    return UE_DELIVERED;
}

static unsigned report_every;

static inline int choose_at_times(lane_sink_t *s, uint32_t lane,
                                  const held_t *held)
{
    return s->polls % report_every == 0 ? UE_DELIVERED : HOLD;
}

/** Half of them. */
static inline int choose_expired(lane_sink_t *s, uint32_t lane,
                                 const held_t *held)
{
    return held->event % 2 ? UE_EXPIRED : UE_DELIVERED;
}

static const ue_sink_vtable_t lane_vtable = {.name = "lanes",
                                             .numbered = 1,
                                             .batch_events = 1000,
                                             .batch_bytes = 512 * 1024,
                                             .event_overhead = 70,
                                             .start = sink_start,
                                             .lanes = sink_lanes,
                                             .lane_of = sink_lane_of,
                                             .has_room = sink_has_room,
                                             .submit = sink_submit,
                                             .poll = sink_poll,
                                             .flush = sink_flush};

/* ---- a producer whose worker is the test ---- */

static ue_producer_t *direct; /* NULL where there is a thread */
static apr_time_t clock_now;  /* monotonic; ahead of the real one */
static unsigned events;       /* recorded so far; they count from 1 */

static inline int set_up_lanes(void **state)
{
    for (int i = 0; i < UE_PRODUCER_SINKS; i++) {
        lane_sink_t *s = &lane_sinks[i];

        memset(s, 0, sizeof(*s));
        s->vtable = lane_vtable;
        s->base.vtable = &s->vtable;
        s->lanes = 4;
        s->credit = LANES_MAX;
        s->takes = SIZE_MAX;
        s->choose = choose_delivered;
        s->orderly = 1;
        pthread_mutex_init(&s->mutex, NULL);
    }
    direct = NULL;
    events = 0;
    clock_now = ue_monotonic();
    return set_up(state);
}

static inline int tear_down_lanes(void **state)
{
    if (direct) {
        /* A test that failed may have left the mutex locked: not touched. */
        for (int i = 0; i < direct->outlet_count; i++) {
            free(direct->outlets[i].lanes);
        }
        return tear_down(state);
    }
    for (int i = 0; i < UE_PRODUCER_SINKS; i++) {
        pthread_mutex_lock(&lane_sinks[i].mutex);
        lane_sinks[i].choose = choose_delivered;
        pthread_mutex_unlock(&lane_sinks[i].mutex);
    }
    return tear_down(state);
}

#define LANES_TEST(f) \
    cmocka_unit_test_setup_teardown(f, set_up_lanes, tear_down_lanes)

/** As many as in fakes: sinks, from the first on. */
static inline void lane_sink_list(ue_sink_t *list[UE_PRODUCER_SINKS])
{
    for (int i = 0; i < UE_PRODUCER_SINKS; i++) {
        list[i] = &lane_sinks[i].base;
    }
}

static inline void make_direct(const ue_producer_config_t *config, int sinks)
{
    ue_sink_t *list[UE_PRODUCER_SINKS];

    lane_sink_list(list);
    direct = apr_pcalloc(fix.pool, sizeof(*direct));
    direct->config = *config;
    direct->metrics = fix.metrics;
    direct->seat = fix.seat;
    direct->tick = apr_time_from_msec(1);
    assert_int_equal(sem_init(&direct->wake, 0, 0), 0);
    assert_int_equal(
        ue_journal_create(&direct->journal, config->slots, fix.pool),
        APR_SUCCESS);
    assert_int_equal(ue_producer_start_sinks(direct, list, sinks, fix.pool),
                     APR_SUCCESS);
    assert_int_equal(ue_producer_open_stream(direct, fix.pool), APR_SUCCESS);
}

static inline void make_threaded(const ue_producer_config_t *config, int sinks)
{
    ue_sink_t *list[UE_PRODUCER_SINKS];

    lane_sink_list(list);
    assert_int_equal(ue_producer_create(&fix.producer, config, list, sinks,
                                        fix.metrics, fix.seat, fix.pool),
                     APR_SUCCESS);
}

static inline ue_admission_t event_for(unsigned organization, unsigned event)
{
    ue_admission_t a = numbered(event);

    a.organization_id.b[15] = (uint8_t)organization;
    return a;
}

/** Record an event of an organization. @return its slot */
static inline ue_slot_ref_t put(unsigned organization)
{
    ue_admission_t a = event_for(organization, ++events);
    ue_slot_ref_t ref;

    assert_true(events < IDS_MAX);
    ue_metrics_add(fix.seat, UE_M_EVENTS_ADMITTED, 1);
    assert_int_equal(ue_journal_admit(direct->journal, &a, &ref), APR_SUCCESS);
    assert_int_equal(
        ue_journal_complete(direct->journal, ref, &unit_completion),
        APR_SUCCESS);
    assert_true(ue_journal_list(direct->journal, ref, 1u << UE_SLOT_COMPLETE));
    ue_producer_list(direct, ref, clock_now);
    return ref;
}

static inline void put_some(unsigned organization, unsigned count)
{
    while (count-- > 0) {
        put(organization);
    }
}

/** Let time pass, and do what the worker does then. */
static inline void feed_after(apr_interval_time_t time)
{
    clock_now += time;
    ue_producer_feed(direct, clock_now);
}

/** By now everything is due that waits for its interval. */
#define A_WHILE apr_time_from_msec(100)
/** By now everything is due that has failed. */
#define LONG apr_time_from_sec(10)

/** Feed until nothing waits. */
static inline void feed_out(void)
{
    for (int i = 0; i < 3000 && ue_producer_unsettled(direct); i++) {
        feed_after(LONG);
    }
    assert_int_equal(ue_producer_unsettled(direct), 0);
}

/** The end of a producer without a thread, whose deadline is over. */
static inline void close_direct(void)
{
    atomic_store(&direct->deadline, ue_monotonic());
    atomic_store(&direct->stage, STAGE_CLOSING);
    ue_producer_drain(direct);
    atomic_store(&direct->worker_done, 1);
    ue_producer_close(direct);
}

/** Nothing waits any more, and no promise was broken. */
static inline void check_end(void)
{
    ue_metrics_sum_t sum = sum_now();

    check_sinks();
    assert_int_equal(sum.value[UE_M_EVENTS_ADMITTED],
                     sum.value[UE_M_EVENTS_DELIVERED] + sum.lost);
    assert_int_equal(sum.waiting, 0);
    if (direct) {
        assert_int_equal(ue_producer_unsettled(direct), 0);
        for (ue_slot_ref_t ref = 1; ref <= direct->config.slots; ref++) {
            assert_int_equal(ue_journal_state(direct->journal, ref),
                             UE_SLOT_FREE);
        }
    }
}

/** Losses of one organization by one cause. */
typedef struct {
    unsigned organization;
    ue_loss_t cause;
    uint64_t count;
} lost_t;

static inline void add_lost(void *baton, const ue_uuid_t *id,
                            const uint64_t lost[UE_LOSSES])
{
    lost_t *l = baton;

    l->count += id->b[15] == l->organization ? lost[l->cause] : 0;
}

static inline uint64_t lost_of(unsigned organization, ue_loss_t cause)
{
    lost_t l = {organization, cause, 0};

    ue_metrics_losses(fix.metrics, add_lost, &l);
    return l.count;
}

/** Each test says what is due. */
static inline ue_producer_config_t lanes_config(void)
{
    ue_producer_config_t config = unit_config;

    config.slots = 1024;
    config.flush_interval = A_WHILE;
    config.drain_timeout = apr_time_from_msec(300);
    return config;
}

static lane_sink_t *const sink = &lane_sinks[0];

static inline void make_lanes(uint32_t lanes)
{
    ue_producer_config_t config = lanes_config();

    sink->lanes = lanes;
    make_direct(&config, 1);
}

/** The n-th record that was offered. */
static inline void check_handed(unsigned n, unsigned event, uint32_t lane,
                                uint64_t number, unsigned stream)
{
    assert_true(n < sink->handed_count);
    assert_int_equal(sink->handed[n].event, event);
    assert_int_equal(sink->handed[n].lane, lane);
    assert_int_equal(sink->handed[n].number, number);
    assert_int_equal(sink->handed[n].stream, stream);
}

/** The n-th batch that was offered. */
static inline void check_offer(unsigned n, uint32_t lane, size_t count)
{
    assert_true(n < sink->batch_count);
    assert_int_equal(sink->batches[n].lane, lane);
    assert_int_equal(sink->batches[n].count, count);
}

#endif /* UE_UNIT_LANES_H */
