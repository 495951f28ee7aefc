/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * The producer before a sink with lanes, in random schedules: events come,
 * batches are taken in part or not at all, come back stored or not or nobody
 * knows, in any order, and lanes grow and shrink meanwhile. The sink looks
 * after numbers, order and limits (unit_lanes.h); at the end each event must be
 * where the sink's books have it, once.
 */
#include "unit_lanes.h"

static uint64_t seed;
static int faults;           /* this schedule has them, still */
static int plan[IDS_MAX];    /* what becomes of an event under way */
static unsigned in[IDS_MAX]; /* the stream in which it was stored */

static unsigned roll(unsigned sides)
{
    return (unsigned)(unit_random(&seed) % sides);
}

/* Who reads the topic leaves out what it has under the same number. */
static void store(lane_sink_t *s, const held_t *held)
{
    if (s->stored[held->event]) {
        if (in[held->event] != s->streams && !s->expired) {
            BLAME(s, "event %u is stored in a second stream", held->event);
        }
        return;
    }
    in[held->event] = s->streams;
    sink_store(s, held->event);
}

/* So many are stored and known to be, so many are unknown, of which some are
 * stored; the rest is not. */
static void plan_parts(lane_sink_t *s, uint32_t lane, unsigned sure,
                       unsigned maybe, unsigned of_these)
{
    for (unsigned i = 0; i < s->held_count[lane]; i++) {
        held_t *held = &s->held[lane][i];

        plan[held->event] = i < sure           ? UE_DELIVERED
                            : i < sure + maybe ? UE_UNKNOWN
                                               : UE_UNSENT;
        if (i < sure + of_these) {
            store(s, held);
        }
    }
}

static void plan_losses(lane_sink_t *s, uint32_t lane)
{
    for (unsigned i = 0; i < s->held_count[lane]; i++) {
        held_t *held = &s->held[lane][i];

        switch (roll(6)) {
        case 0:
            plan[held->event] = UE_REFUSED;
            break;
        case 1:
            plan[held->event] = UE_EXPIRED;
            break;
        default:
            plan[held->event] = UE_DELIVERED;
            store(s, held);
        }
    }
}

/* A batch was taken: what becomes of it is known here, and told later. */
static void decide(lane_sink_t *s, uint32_t lane)
{
    unsigned count = s->held_count[lane];
    unsigned sure = roll(count + 1);
    unsigned maybe = roll(count - sure + 1);

    switch (faults ? roll(12) : 11) {
    case 0:
    case 1:
        plan_parts(s, lane, sure, maybe, roll(maybe + 1));
        break;
    case 2:
        plan_parts(s, lane, 0, count, roll(count + 1));
        break;
    case 3:
        plan_parts(s, lane, 0, 0, 0);
        break;
    case 4:
        for (unsigned i = 0; i < count; i++) {
            plan[s->held[lane][i].event] = UE_TOO_LARGE;
        }
        break;
    case 5:
        plan_losses(s, lane);
        break;
    default:
        plan_parts(s, lane, count, 0, 0);
    }
}

static int choose_planned(lane_sink_t *s, uint32_t lane, const held_t *held)
{
    return faults && roll(3) ? HOLD : plan[held->event];
}

/* A file: no numbers, one lane, and it may be in trouble, too. */
static int choose_file(lane_sink_t *s, uint32_t lane, const held_t *held)
{
    return faults && roll(4) == 0   ? HOLD
           : faults && roll(8) == 0 ? UE_UNSENT
                                    : UE_DELIVERED;
}

static void trouble(lane_sink_t *s)
{
    static const apr_status_t says[] = {APR_SUCCESS, APR_SUCCESS, APR_EAGAIN,
                                        APR_FROM_OS_ERROR(EIO)};

    s->takes = roll(3) ? SIZE_MAX : roll(5);
    s->says = s->takes < SIZE_MAX ? says[roll(UNIT_COUNT(says))] : APR_SUCCESS;
    s->no_room[roll(LANES_MAX)] ^= 1;
    s->credit = roll(5) ? LANES_MAX : roll(4);
    s->in_submit = roll(4) == 0;
}

static void calm(lane_sink_t *s, uint32_t lanes)
{
    s->takes = SIZE_MAX;
    s->says = APR_SUCCESS;
    memset(s->no_room, 0, sizeof(s->no_room));
    s->credit = LANES_MAX;
    s->lanes = lanes;
}

/* Where lanes only grow, what has its number is brought home. */
static void change_lanes(lane_sink_t *s, int growing, uint32_t *most)
{
    static const uint32_t counts[] = {0, 4, 12, 24, 6, 1, 32};
    uint32_t lanes = counts[roll(UNIT_COUNT(counts))];

    if (!growing || lanes >= *most) {
        s->lanes = *most = lanes;
    }
    else if (lanes == 0) {
        s->lanes = 0; /* for a while, nobody knows */
    }
}

static void step(lane_sink_t *s, lane_sink_t *file, int growing, uint32_t *most)
{
    for (unsigned n = roll(12); n > 0 && !ue_journal_is_full(direct->journal);
         n--) {
        put(roll(20));
    }
    if (roll(4) == 0) {
        trouble(s);
    }
    if (roll(8) == 0) {
        trouble(file);
        file->credit = LANES_MAX;
    }
    if (roll(25) == 0) {
        change_lanes(s, growing, most);
    }
    atomic_store(&direct->flushing, roll(4) == 0);
    feed_after(roll(10) ? apr_time_from_msec(roll(8)) : LONG);
}

/* ---- the books ---- */

typedef struct {
    uint64_t delivered, rejected, expired, unknown, shutdown, single;
} books_t;

static books_t add_up(const lane_sink_t *s, const lane_sink_t *file, int sinks)
{
    uint8_t under_way[IDS_MAX] = {0};
    books_t books = {0};

    for (unsigned lane = 0; lane < LANES_MAX; lane++) {
        for (unsigned n = 0; n < s->held_count[lane]; n++) {
            under_way[s->held[lane][n].event] = 1;
        }
    }
    for (unsigned i = 1; i <= events; i++) {
        int arrived = under_way[i] || s->maybe[i];

        books.single += s->fate[i] == UE_TOO_LARGE + 1;
        if (!s->fate[i]) {
            books.unknown += arrived;
            books.shutdown += !arrived;
        }
        else if (s->fate[i] == UE_DELIVERED + 1) {
            books.delivered += sinks == 1 || file->fate[i];
            books.shutdown += sinks > 1 && !file->fate[i];
        }
        else { /* a loss, whatever becomes of it in the file */
            books.expired += s->fate[i] == UE_EXPIRED + 1;
            books.rejected += s->fate[i] != UE_EXPIRED + 1;
        }
    }
    return books;
}

static void check_books(const lane_sink_t *s, const lane_sink_t *file,
                        int sinks)
{
    books_t books = add_up(s, file, sinks);
    ue_metrics_sum_t sum = sum_now();

    assert_int_equal(sum.value[UE_M_EVENTS_ADMITTED], events);
    assert_int_equal(sum.value[UE_M_EVENTS_DELIVERED], books.delivered);
    assert_int_equal(sum.value[UE_M_EVENTS_LOST_REJECTED], books.rejected);
    assert_int_equal(sum.value[UE_M_EVENTS_LOST_EXPIRED], books.expired);
    assert_int_equal(sum.value[UE_M_EVENTS_LOST_SHUTDOWN], books.shutdown);
    assert_int_equal(sum.value[UE_M_EVENTS_LOST_UNKNOWN], books.unknown);
    assert_int_equal(sum.waiting, 0);
    assert_int_equal(sum.value[UE_M_DELIVERY_PERMANENT],
                     s->outcomes[UE_REFUSED] + s->outcomes[UE_EXPIRED]
                         + books.single);
    assert_int_equal(sum.value[UE_M_DELIVERY_RETRIABLE],
                     s->outcomes[UE_UNSENT] + s->outcomes[UE_UNKNOWN]
                         + s->outcomes[UE_TOO_LARGE] - books.single
                         + file->outcomes[UE_UNSENT]);
}

/** One schedule, to its end: all is brought home, or the time is over. */
static void run_schedule(int sinks, int growing, int cut)
{
    ue_producer_config_t config = unit_config;
    lane_sink_t *s = &lane_sinks[sinks > 1 ? roll(2) : 0];
    lane_sink_t *file = s == &lane_sinks[0] ? &lane_sinks[1] : &lane_sinks[0];
    uint32_t most = 4;

    config.slots = 256;
    config.batch_size = 1 + roll(40);
    s->vtable.batch_events = 1 + roll(30);
    s->lanes = roll(2) ? 4 : 0;
    s->choose = choose_planned;
    s->took = decide;
    s->expired = !growing;
    file->vtable.numbered = 0;
    file->lanes = 1;
    file->choose = choose_file;
    file->orderly = 0;
    faults = 1;
    make_direct(&config, sinks);
    for (unsigned i = 0; i < 150; i++) {
        step(s, file, growing, &most);
    }
    check_sinks();
    if (cut) {
        close_direct();
    }
    else {
        faults = 0;
        calm(s, most ? most : 4);
        calm(file, 1);
        feed_out();
        check_end();
    }
    check_sinks();
    check_books(s, file, sinks);
}

static void run_schedules(void **state, int sinks, int growing)
{
    for (unsigned n = unit_loops(500); n > 0; n--) {
        uint64_t begin =
            1000000 * (uint64_t)sinks + 1000 * (uint64_t)growing + n;

        if (direct) {
            tear_down_lanes(state);
            assert_int_equal(set_up_lanes(state), 0);
        }
        seed = begin;
        run_schedule(sinks, growing, n % 3 == 0);
    }
}

static void test_model_of_lanes_that_grow(void **state)
{
    run_schedules(state, 1, 1);
}

static void test_model_of_lanes_that_come_and_go(void **state)
{
    run_schedules(state, 1, 0);
}

static void test_model_of_growing_lanes_beside_a_file(void **state)
{
    run_schedules(state, 2, 1);
}

static void test_model_of_lanes_that_come_and_go_beside_a_file(void **state)
{
    run_schedules(state, 2, 0);
}

static const struct CMUnitTest tests[] = {
    LANES_TEST(test_model_of_lanes_that_grow),
    LANES_TEST(test_model_of_lanes_that_come_and_go),
    LANES_TEST(test_model_of_growing_lanes_beside_a_file),
    LANES_TEST(test_model_of_lanes_that_come_and_go_beside_a_file),
};

UNIT_MAIN(tests)
