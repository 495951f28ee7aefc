/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * The spool under kill -9: processes of many threads are killed at any moment,
 * also while they take over from the one before, and in the end somebody sends
 * what is left. Then each event that was admitted is in the topic, right in
 * every field, once, and the numbers of each stream are without a gap.
 */
#include "unit_spool_book.h"

#define THREADS 25

/** What a round is like. */
typedef struct {
    ue_producer_config_t config;
    int sinks;
    uint64_t seed;
} round_t;

/** A child's life, which only a signal ends. */
static void live(const round_t *round, uint64_t seed, int threads)
{
    pthread_t thread;

    atomic_store(&next_seed, seed * 100);
    producer = child_producer(&round->config, round->sinks, seed);
    for (int i = 0; i < threads; i++) {
        if (pthread_create(&thread, NULL, serve, NULL) != 0) {
            unit_exit(4);
        }
    }
    atomic_fetch_add(&book->ready, 1);
    for (;;) {
        pause();
    }
}

/** Have some live for a moment, and kill one after the other. */
static void live_and_die(round_t *round, unsigned count, int threads)
{
    int at_once = roll_of(&round->seed, 5) == 0;
    apr_time_t until = ue_monotonic() + apr_time_from_sec(20);
    pid_t pids[4];

    atomic_store(&book->ready, 0);
    for (unsigned i = 0; i < count; i++) {
        uint64_t its = unit_random(&round->seed) >> 8;

        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0) {
            live(round, its, threads);
        }
    }
    while (!at_once && atomic_load(&book->ready) < (int)count
           && ue_monotonic() < until) {
        apr_sleep(200);
    }
    for (unsigned i = 0; i < count; i++) {
        apr_sleep(roll_of(&round->seed, at_once ? 8000 : 25000));
        kill_child(pids[i]);
    }
}

/** Partitions only grow while something waits: where there are fewer, numbers
 * begin anew. */
static void grow_lanes(round_t *round)
{
    uint32_t lanes = atomic_load(&book->lanes);

    if (roll_of(&round->seed, 4) == 0 && lanes < LANES) {
        atomic_store(&book->lanes,
                     lanes + 1 + roll_of(&round->seed, LANES - lanes));
    }
}

static void begin_round(round_t *round, uint64_t seed)
{
    static const apr_off_t sizes[] = {900000, 3000000, 14000000};

    round->seed = seed;
    round->config = spool_config;
    round->config.spool_most = sizes[roll_of(&round->seed, UNIT_COUNT(sizes))];
    round->sinks =
        roll_of(&round->seed, 3) ? WITH_TOPIC : WITH_TOPIC | WITH_FILE;
    new_book();
    wipe_spool(); /* accounts that ended; they may be of another target */
    atomic_store(&book->lanes, 1 + roll_of(&round->seed, LANES));
    atomic_store(&book->faults, roll_of(&round->seed, 4) != 0);
    /* That the topic has refused one for good, a slot does not say while the
     * file has yet to take it. */
    atomic_store(&book->loyal, round->sinks & WITH_FILE);
    atomic_store(&book->away, roll_of(&round->seed, 6) == 0);
}

static void end_round(round_t *round)
{
    ue_metrics_sum_t sum;

    atomic_store(&book->faults, 0);
    atomic_store(&book->away, 0);
    adopt_all(&round->config, round->sinks, 1 + roll_of(&round->seed, 3),
              round->seed);
    check_book(round->sinks);
    ue_metrics_sum(spool_metrics, &sum);
    /* The power did not fail: whatever was written is whole. */
    assert_int_equal(sum.value[UE_M_EVENTS_LOST_TORN], 0);
}

/** Some lives, one after the other, and who cleans up behind them. @return how
 * many were killed */
static unsigned run_chain(uint64_t seed)
{
    round_t round;
    unsigned lives;

    begin_round(&round, seed);
    lives = 1 + roll_of(&round.seed, 5);
    for (unsigned i = 0; i < lives; i++) {
        /* Every third only takes over, and is killed at that. */
        live_and_die(&round, 1, i % 3 == 1 ? 0 : THREADS);
        grow_lanes(&round);
    }
    end_round(&round);
    return lives;
}

/** Several that live at a time, and take over from one another. */
static unsigned run_crowd(uint64_t seed)
{
    round_t round;
    unsigned lives;

    begin_round(&round, seed);
    lives = 2 + roll_of(&round.seed, 3);
    live_and_die(&round, lives, THREADS / 2);
    grow_lanes(&round);
    live_and_die(&round, 2, 0);
    end_round(&round);
    return lives + 2;
}

/** So many kills; or fewer, but not too few, where each takes long. */
static void run_rounds(unsigned (*run)(uint64_t seed), unsigned most)
{
    const char *wanted = getenv("UNIT_SEED");
    uint64_t seed =
        wanted ? strtoull(wanted, NULL, 0) : (uint64_t)apr_time_now();
    apr_time_t until = ue_monotonic() + apr_time_from_sec(most / 10);
    unsigned least = unit_loops(most) / 2;
    unsigned kills = 0;

    while (kills < most && (kills < least || ue_monotonic() < until)) {
        spool_seed = seed++;
        kills += run(spool_seed);
    }
    assert_true(kills >= least);
    spool_seed = 0;
}

static void test_kills_one_after_the_other_lose_nothing(void **state)
{
    run_rounds(run_chain, 200);
}

static void test_kills_among_the_living_lose_nothing(void **state)
{
    run_rounds(run_crowd, 100);
}

static const struct CMUnitTest tests[] = {
    SPOOL_TEST(test_kills_one_after_the_other_lose_nothing),
    SPOOL_TEST(test_kills_among_the_living_lose_nothing),
};

UNIT_MAIN(tests)
