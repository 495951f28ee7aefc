/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * The table of subjects, by one thread: who is found, who makes room, what it
 * takes of memory. What several do at once is in test_subjects_races.c.
 *
 * Moments are those of a clock of the test's own where nothing else is said. It
 * never goes back, so that the table doesn't ask for the real one.
 */
#include "unit_subjects.h"

#include <apr_network_io.h>

static apr_pool_t *pool;

static int begin(void **state)
{
    apr_pool_create(&pool, NULL);
    return 0;
}

static int end(void **state)
{
    apr_pool_destroy(pool);
    return 0;
}

/* Finding --------------------------------------------------------------- */

static void test_subjects_finds_what_it_put_in(void **state)
{
    ue_subjects_t *t = unit_subjects(1000, pool);
    ue_subjectref_t refs[1000];

    for (uint32_t n = 0; n < 1000; n++) {
        assert_int_equal(ue_subjects_count(t), n);
        refs[n] = unit_find(t, n, 1);
    }
    for (uint32_t n = 0; n < 1000; n++) {
        assert_true(unit_is_same(unit_find(t, n, 2), refs[n]));
        for (uint32_t other = 0; other < n; other++) {
            assert_int_not_equal(refs[n].slot, refs[other].slot);
        }
    }
    assert_int_equal(ue_subjects_count(t), 1000);
    assert_int_equal(ue_subjects_size(t), 1000);
    unit_assert_whole(t);
    unit_unmap(t);
}

static void test_subjects_differ_in_each_of_their_parts(void **state)
{
    ue_subjects_t *t = unit_subjects(10, pool);
    ue_subject_t subjects[6];
    ue_subjectref_t refs[6];

    for (unsigned i = 0; i < 6; i++) {
        subjects[i] = (ue_subject_t){
            {1, 2}, UE_BY_KEY, 0, unit_any_rate(APR_USEC_PER_SEC)};
    }
    subjects[1].id[0]++;
    subjects[2].id[1]++;
    subjects[3].by = UE_BY_ORG;
    subjects[4].rate.period *= 60;
    subjects[5].scope = 1;
    for (unsigned i = 0; i < 6; i++) {
        assert_int_equal(ue_subjects_find(t, &subjects[i], 1, &refs[i]),
                         APR_SUCCESS);
        assert_int_equal(refs[i].slot, i + 1);
    }
    unit_unmap(t);
}

static void test_subjects_refuses_what_no_rate_has(void **state)
{
    ue_subjects_t *t = unit_subjects(10, pool);
    ue_subject_t s = {
        {1, 2}, UE_BY_KEY, 0, unit_any_rate(2 * APR_USEC_PER_SEC)};
    ue_subjectref_t ref;

    assert_int_equal(ue_subjects_find(t, &s, 1, &ref), APR_EINVAL);
    s.rate.period = 0;
    assert_int_equal(ue_subjects_find(t, &s, 1, &ref), APR_EINVAL);
    assert_int_equal(ue_subjects_count(t), 0);
    unit_unmap(t);
    assert_int_equal(ue_subjects_create(&t, 0, pool), APR_EINVAL);
    assert_int_equal(ue_subjects_create(&t, UINT32_MAX, pool), APR_EINVAL);
}

static void test_subjects_counts_each_by_itself(void **state)
{
    ue_subjects_t *t = unit_subjects(100, pool);
    ue_gcra_t gcra = unit_rate(10, 1, 5);
    ue_gcra_state_t s;
    ue_subjectref_t ref;

    for (uint64_t n = 0; n < 100; n++) {
        assert_int_equal(unit_use_up(t, n, &gcra, 1000), 5);
    }
    for (uint64_t n = 0; n < 100; n++) {
        ref = unit_find(t, n, 1000);
        assert_int_equal(ue_subjects_look(t, ref, &gcra, 1000, &s),
                         APR_SUCCESS);
        assert_false(s.is_let_in);
        assert_int_equal(s.full, 500 * UNIT_MS);
        assert_int_equal(s.wait, 100 * UNIT_MS);
        assert_int_equal(
            ue_subjects_look(t, ref, &gcra, 1000 + 200 * UNIT_MS, &s),
            APR_SUCCESS);
        assert_int_equal(s.remaining, 2);
        assert_int_equal(unit_use_up(t, n, &gcra, 1000 + 200 * UNIT_MS), 2);
    }
    unit_unmap(t);
}

/* Nobody can know which subjects meet in a chain: the key is another one each
 * time. And the chains are short. */
static void test_subjects_chooses_chains_by_a_random_key(void **state)
{
    ue_subjects_t *t = unit_subjects(4096, pool);
    ue_subjects_t *u = unit_subjects(4096, pool);
    unsigned longest = 0, same = 0;

    for (uint64_t n = 0; n < 4096; n++) {
        unit_find(t, n, 1);
        unit_find(u, n, 1);
    }
    for (uint32_t b = 0; b < 4096; b++) {
        unsigned length = 0;

        for (uint32_t i = t->buckets[b]; i; i = t->slots[i - 1].next) {
            length++;
        }
        longest = length > longest ? length : longest;
        same += t->buckets[b] && t->buckets[b] == u->buckets[b];
    }
    assert_in_range(longest, 3, 12);
    assert_in_range(same, 0, 20);
    unit_unmap(t);
    unit_unmap(u);
}

/* Memory ---------------------------------------------------------------- */

/* Bytes of this process that are in memory and shared. */
static size_t resident(void)
{
    FILE *f = fopen("/proc/self/status", "r");
    unsigned long kb = 0;
    char line[256];

    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        if (!strncmp(line, "RssShmem:", 9)) {
            kb = strtoul(line + 9, NULL, 10);
        }
    }
    fclose(f);
    return kb * 1024;
}

static void test_subjects_takes_80_bytes_for_each(void **state)
{
    ue_gcra_t gcra = unit_rate(1, 1, 1);
    ue_subjects_t *t;
    size_t before;

    assert_true(ue_subjects_bytes(100000) <= 8000000);
    assert_true(ue_subjects_bytes(1) <= 4096);
    t = unit_subjects(100000, pool);
    before = resident();
    for (uint64_t n = 0; n < 100000; n++) {
        assert_true(unit_take(t, n, &gcra, 1));
    }
    assert_int_equal(ue_subjects_count(t), 100000);
    assert_in_range(resident() - before, 7000000, 8000000);
    for (uint64_t n = 0; n < 100000; n++) {
        assert_false(unit_take(t, n, &gcra, 1));
    }
    /* and all are under way: no room, until they are not */
    assert_true(unit_is_full(t, 100000, 1));
    unit_find(t, 100000, 1 + 1000 * UNIT_MS);
    assert_int_equal(ue_subjects_count(t), 100000);
    unit_assert_whole(t);
    unit_unmap(t);
}

/* Making room ----------------------------------------------------------- */

static void test_subjects_keeps_those_under_way(void **state)
{
    ue_subjects_t *t = unit_subjects(8, pool);
    ue_gcra_t gcra = unit_rate(1, 3600, 2);
    ue_subjectref_t refs[8];

    for (uint64_t n = 0; n < 8; n++) {
        refs[n] = unit_find(t, n, 1);
        assert_int_equal(n == 5 ? 0 : unit_use_up(t, n, &gcra, 1),
                         n == 5 ? 0 : 2);
    }
    /* 5 makes room, and each new one for the next, as long as it is idle */
    for (uint64_t n = 8; n < 100; n++) {
        assert_int_equal(unit_find(t, n, 1).slot, refs[5].slot);
    }
    assert_true(unit_take(t, 99, &gcra, 1));
    assert_true(unit_is_full(t, 100, 1));
    assert_int_equal(ue_subjects_count(t), 8);
    for (uint64_t n = 0; n < 8; n++) {
        if (n != 5) {
            assert_true(unit_is_same(unit_find(t, n, 1), refs[n]));
            assert_int_equal(unit_use_up(t, n, &gcra, 1), 0);
        }
    }
    /* to the tick when the bucket is full again */
    assert_true(unit_is_full(t, 100, UNIT_HOUR));
    unit_find(t, 100, 1 + UNIT_HOUR);
    unit_assert_whole(t);
    unit_unmap(t);
}

static void test_subjects_keeps_those_with_a_lease(void **state)
{
    ue_subjects_t *t = unit_subjects(3, pool);
    ue_subjectref_t refs[3];

    for (uint64_t n = 0; n < 3; n++) {
        refs[n] = unit_find(t, n, 1);
    }
    t->slots[0].lease[0] = 1;
    t->slots[1].lease[1] = UINT64_C(1) << 51;
    assert_int_equal(unit_find(t, 3, 1).slot, refs[2].slot);
    t->slots[2].lease[1] += 1;
    assert_true(unit_is_full(t, 4, 1));
    t->slots[2].lease[1] -= 1;
    assert_int_equal(unit_find(t, 4, 1).slot, refs[2].slot);
    unit_unmap(t);
}

/* As many are tried as is said, and the next one goes on from there. */
static void test_subjects_tries_a_bounded_number(void **state)
{
    ue_subjects_t *t = unit_subjects(200, pool);
    ue_gcra_t gcra = unit_rate(1, 3600, 2);

    for (uint64_t n = 0; n < 200; n++) {
        unit_find(t, n, 1);
        if (n < UE_SUBJECTS_STEPS) {
            unit_use_up(t, n, &gcra, 1);
        }
    }
    assert_true(unit_is_full(t, 1000, 1));
    assert_int_equal(unit_find(t, 1000, 1).slot, UE_SUBJECTS_STEPS + 1);
    unit_unmap(t);
}

/* Any schedule in a table that is too small, beside a model that forgets
 * nobody: whoever is let in or refused, is so with as many left as if there was
 * room for all. And there is room as long as one is idle. */
static void test_subjects_forgets_nothing_that_matters(void **state)
{
    enum { SIZE = 16, MANY = 64 };
    ue_subjects_t *t = unit_subjects(SIZE, pool);
    uint64_t tats[MANY] = {0}, seed = 7, now = 1, full = 0, let_in = 0;
    unsigned rounds = unit_loops(1000000);
    ue_gcra_t gcra = unit_rate(1000, 1, 3);

    for (unsigned i = 0; i < rounds; i++) {
        uint64_t r = unit_random(&seed), n = (r >> 32) % MANY;
        ue_gcra_state_t s, model;
        unsigned under_way = 0;

        now += (r >> 16) % (UNIT_MS / 8);
        for (unsigned k = 0; k < MANY; k++) {
            under_way += tats[k] > now;
        }
        if (unit_is_full(t, n, now)) {
            assert_int_equal(under_way, SIZE);
            assert_true(tats[n] <= now);
            full++;
            continue;
        }
        tats[n] = ue_gcra_take(&gcra, tats[n], now, &model);
        assert_int_equal(
            ue_subjects_take(t, unit_find(t, n, now), &gcra, now, &s),
            APR_SUCCESS);
        assert_memory_equal(&s, &model, sizeof(s));
        let_in += (unsigned)s.is_let_in;
    }
    assert_in_range(full, rounds / 50, rounds / 2);
    assert_in_range(let_in, rounds / 50, rounds - 1);
    unit_assert_whole(t);
    unit_unmap(t);
}

/* Generations ----------------------------------------------------------- */

static void test_subjects_refuses_an_old_reference(void **state)
{
    ue_subjects_t *t = unit_subjects(1, pool);
    ue_gcra_t gcra = unit_rate(1, 3600, 1);
    ue_subjectref_t old = unit_find(t, 1, 1), none = {0, 0, 0},
                    over = {2, 0, 0}, ref;
    ue_subjectslot_t *slot = &t->slots[0];
    ue_gcra_state_t s;
    uint64_t tat;

    ref = unit_find(t, 2, 1);
    assert_int_equal(ref.slot, old.slot);
    tat = slot->tat;
    assert_int_equal(ue_subjects_take(t, old, &gcra, 1, &s), APR_EGENERAL);
    assert_int_equal(ue_subjects_look(t, old, &gcra, 1, &s), APR_EGENERAL);
    assert_int_equal(slot->tat, tat);
    assert_int_equal(ue_subjects_take(t, none, &gcra, 1, &s), APR_EGENERAL);
    assert_int_equal(ue_subjects_take(t, over, &gcra, 1, &s), APR_EGENERAL);
    assert_int_equal(ue_subjects_look(t, none, &gcra, 1, &s), APR_EGENERAL);
    assert_int_equal(ue_subjects_look(t, over, &gcra, 1, &s), APR_EGENERAL);
    assert_int_equal(ue_subjects_take(t, ref, &gcra, 1, &s), APR_SUCCESS);
    assert_true(s.is_let_in);
    unit_unmap(t);
}

/* Each word has the slot's generation, and nothing of the one before. */
static void test_subjects_gives_each_a_generation(void **state)
{
    ue_subjects_t *t = unit_subjects(1, pool);
    ue_subjectslot_t *slot = &t->slots[0];
    ue_gcra_t gcra = unit_rate(1000, 1, 7);
    uint64_t now = 1;

    for (uint32_t n = 0; n < 2 * UE_SUBJECT_GENERATIONS; n++) {
        uint64_t generation = n % UE_SUBJECT_GENERATIONS;
        ue_subjectref_t ref = unit_find(t, n, now);

        assert_int_equal(ref.generation, generation);
        assert_int_equal(ue_subject_generation(slot->tat), generation);
        assert_int_equal(ue_subject_generation(slot->who), generation);
        assert_int_equal(slot->tat & UE_GCRA_MASK, now);
        assert_int_equal(slot->burst & UE_SUBJECT_BURST, UE_RATE_MAX);
        assert_int_equal(slot->lease[0], generation << UE_SUBJECT_SHIFT);
        assert_int_equal(slot->lease[1], generation << UE_SUBJECT_SHIFT);
        assert_int_equal(slot->demand, generation << UE_SUBJECT_SHIFT);
        assert_int_equal(slot->ask, generation << UE_SUBJECT_SHIFT);
        slot->demand += 1;
        slot->ask += 1;
        assert_int_equal(unit_use_up(t, n, &gcra, now), 7);
        now += 7 * UNIT_MS;
    }
    unit_assert_whole(t);
    unit_unmap(t);
}

/* Clocks: here the real one matters ------------------------------------- */

static void test_subjects_ignores_a_thread_that_was_held_up(void **state)
{
    ue_subjects_t *t = unit_subjects(4, pool);
    ue_gcra_t gcra = unit_rate(100, 1, 2);
    uint64_t now = unit_now(), tat;
    ue_gcra_state_t s;

    assert_int_equal(unit_use_up(t, 1, &gcra, now), 2);
    tat = t->slots[0].tat;
    /* it read the clock an hour ago */
    assert_false(unit_take(t, 1, &gcra, now - UNIT_HOUR));
    ue_subjects_look(t, unit_find(t, 1, now), &gcra, now - UNIT_HOUR, &s);
    assert_int_equal(t->slots[0].tat, tat);
    unit_unmap(t);
}

/* Nor does it bring back who was given up meanwhile, as of then. */
static void test_subjects_begin_no_earlier_than_others(void **state)
{
    ue_subjects_t *t = unit_subjects(2, pool);
    ue_gcra_t gcra = unit_rate(1000, 1, 5);
    uint64_t now = unit_now(), before = now - 10 * UNIT_MS;

    assert_int_equal(unit_use_up(t, 1, &gcra, before), 5);
    unit_find(t, 2, before);
    unit_find(t, 3, now);
    /* its bucket is full as of now, and not of before: who comes first has a
     * request of it, and the second is too early for more */
    assert_int_equal(unit_use_up(t, 1, &gcra, before + UNIT_MS), 1);
    assert_int_equal(unit_use_up(t, 1, &gcra, now), 4);
    unit_unmap(t);
}

/* To another half of a minute, so that it looks as if a rate had been in use
 * for longer. */
#define TWO_DAYS (48 * UNIT_HOUR + 2 * UE_SUBJECT_QUARTER)

/* What was counted by a clock that was two days ahead locks nobody out. */
static void test_subjects_survives_a_clock_that_goes_back(void **state)
{
    ue_gcra_t gcra = unit_rate(1, 1, 3);
    ue_gcra_state_t s;

    unit_burst = 3;
    for (int by_look = 0; by_look < 2; by_look++) {
        ue_subjects_t *t = unit_subjects(4, pool);
        uint64_t now = unit_now(), ahead = now + TWO_DAYS, after;

        assert_int_equal(unit_use_up(t, 1, &gcra, ahead), 3);
        if (by_look) {
            ue_subjects_look(t, unit_find(t, 1, now), &gcra, now, &s);
        }
        else {
            ue_subjects_take(t, unit_find(t, 1, now), &gcra, now, &s);
        }
        assert_false(s.is_let_in);
        assert_int_equal(s.remaining, 0);
        after = unit_now() - now;
        /* it is as far ahead as it may be, and no further */
        assert_in_range((t->slots[0].tat & UE_GCRA_MASK) - now,
                        3000 * UNIT_MS + UE_GCRA_EXCESS,
                        3000 * UNIT_MS + UE_GCRA_EXCESS + after);
        assert_true(unit_take(t, 1, &gcra,
                              now + after + 1000 * UNIT_MS + UE_GCRA_EXCESS));
        unit_unmap(t);
    }
    unit_burst = UE_RATE_MAX;
}

/* Nor does it keep its slot until the clock is there again. */
static void test_subjects_gives_up_what_a_clock_left_behind(void **state)
{
    ue_subjects_t *t = unit_subjects(2, pool);
    ue_gcra_t gcra = unit_rate(1, 1, 3);
    uint64_t now = unit_now();

    unit_burst = 3;
    unit_use_up(t, 1, &gcra, now + TWO_DAYS);
    unit_use_up(t, 2, &gcra, now + TWO_DAYS);
    assert_true(unit_is_full(t, 3, now));
    /* it was put right, so it waits as long as a bucket takes */
    assert_true(unit_is_full(t, 3, now + 2999 * UNIT_MS + UE_GCRA_EXCESS));
    now = unit_now() + 3000 * UNIT_MS + UE_GCRA_EXCESS;
    assert_false(unit_is_full(t, 3, now));
    unit_burst = UE_RATE_MAX;
    unit_unmap(t);
}

/* Rates that change ----------------------------------------------------- */

static void test_subjects_keep_what_they_used_up(void **state)
{
    ue_subjects_t *t = unit_subjects(2, pool);
    ue_subject_t s = {{1, 2}, UE_BY_KEY, 0, {10, 3600 * APR_USEC_PER_SEC, 10}};
    ue_subjectref_t slow, fast, again;
    uint64_t now = unit_now();
    ue_gcra_state_t state_of;
    ue_gcra_t gcra;

    assert_int_equal(ue_subjects_find(t, &s, now, &slow), APR_SUCCESS);
    ue_gcra_prepare(&gcra, &s.rate);
    do {
        ue_subjects_take(t, slow, &gcra, now, &state_of);
    } while (state_of.is_let_in);
    s.rate.count = 3600;
    s.rate.burst = 100;
    assert_int_equal(ue_subjects_find(t, &s, now, &fast), APR_SUCCESS);
    assert_int_equal(fast.slot, slow.slot);
    assert_int_equal(fast.generation, slow.generation + 1);
    assert_int_equal(ue_subjects_count(t), 1);
    /* who held on to the old rate finds it again */
    assert_int_equal(ue_subjects_take(t, slow, &gcra, now, &state_of),
                     APR_EGENERAL);
    ue_gcra_prepare(&gcra, &s.rate);
    assert_int_equal(ue_subjects_look(t, fast, &gcra, now, &state_of),
                     APR_SUCCESS);
    assert_int_equal(state_of.remaining, 90);
    /* the same rate again is no change, another burst is one */
    assert_int_equal(ue_subjects_find(t, &s, now, &again), APR_SUCCESS);
    assert_true(unit_is_same(again, fast));
    s.rate.burst = 5;
    assert_int_equal(ue_subjects_find(t, &s, now, &again), APR_SUCCESS);
    assert_int_equal(again.generation, fast.generation + 1);
    ue_gcra_prepare(&gcra, &s.rate);
    ue_subjects_look(t, again, &gcra, now, &state_of);
    assert_int_equal(state_of.full, 10 * gcra.emission);
    unit_assert_whole(t);
    unit_unmap(t);
}

/* What a smaller bucket has no room for is cut when the old rate is out of use,
 * and not before. */
static void test_subjects_are_not_shut_by_a_smaller_bucket(void **state)
{
    ue_subjects_t *t = unit_subjects(2, pool);
    ue_subject_t s = {{1, 2}, UE_BY_KEY, 0, {1, 3600 * APR_USEC_PER_SEC, 99}};
    ue_gcra_state_t state_of;
    uint64_t now = unit_now();
    ue_subjectref_t ref;
    ue_gcra_t gcra;

    assert_int_equal(ue_subjects_find(t, &s, now, &ref), APR_SUCCESS);
    ue_gcra_prepare(&gcra, &s.rate);
    do {
        ue_subjects_take(t, ref, &gcra, now, &state_of);
    } while (state_of.is_let_in);
    s.rate.burst = 3;
    assert_int_equal(ue_subjects_find(t, &s, now, &ref), APR_SUCCESS);
    ue_gcra_prepare(&gcra, &s.rate);
    for (uint32_t quarter = 0; quarter < 4; quarter++) {
        uint32_t set = t->slots[0].burst >> UE_SUBJECT_SET_SHIFT;

        ue_subjects_look(t, ref, &gcra, now, &state_of);
        assert_false(state_of.is_let_in);
        if (quarter < 2) {
            assert_int_equal(state_of.full, 99 * gcra.emission);
        }
        else {
            assert_in_range(state_of.full, gcra.tolerance,
                            gcra.tolerance + UE_GCRA_EXCESS + 1000 * UNIT_MS);
        }
        /* as if it were a quarter later */
        t->slots[0].burst =
            s.rate.burst | ((set - 1) & 3) << UE_SUBJECT_SET_SHIFT;
    }
    unit_unmap(t);
}

/* Damage ---------------------------------------------------------------- */

/* A chain that bites its tail, or leads nowhere, ends a walk, and is built anew
 * by whoever has the lock. */
static void test_subjects_survives_damaged_chains(void **state)
{
    ue_gcra_t gcra = unit_rate(1, 3600, 1);

    for (unsigned damage = 0; damage < 2; damage++) {
        ue_subjects_t *t = unit_subjects(32, pool);

        for (uint64_t n = 0; n < 30; n++) {
            assert_int_equal(unit_use_up(t, n, &gcra, 1), 1);
        }
        for (uint32_t b = 0; b < 32; b++) {
            t->buckets[b] = damage ? 3 : t->buckets[b];
        }
        for (uint32_t i = 0; i < 32; i++) {
            t->slots[i].next = i + 1;
        }
        unit_find(t, 100, 1);
        unit_find(t, 101, 1);
        for (uint64_t n = 0; n < 30; n++) {
            assert_false(unit_take(t, n, &gcra, 1));
        }
        assert_int_equal(ue_subjects_count(t), 32);
        unit_assert_whole(t);
        unit_unmap(t);
    }
}

/* A subject that has to give up its slot but isn't in its chain, which leads
 * nowhere, or round about; that of the one that needs the slot may be whole. */
static void test_subjects_evicts_what_is_in_no_chain(void **state)
{
    ue_gcra_t gcra = unit_rate(1, 3600, 1);

    for (unsigned i = 0; i < 40; i++) {
        ue_subjects_t *t = unit_subjects(2, pool);
        uint32_t bucket, damage = i % 2 ? 2 : UINT32_MAX;

        unit_find(t, 1, 1);
        bucket = t->buckets[0] ? 0 : 1;
        assert_true(unit_take(t, 2, &gcra, 1));
        t->buckets[bucket] = damage;
        t->buckets[!bucket] = 0;
        t->slots[1].next = 2;
        assert_int_equal(unit_find(t, 3, 1).slot, 1);
        assert_false(unit_take(t, 2, &gcra, 1));
        unit_assert_whole(t);
        unit_unmap(t);
    }
}

/* Addresses ------------------------------------------------------------- */

static int subject_of(ue_subject_t *s, const char *text, int before)
{
    apr_sockaddr_t *a;

    assert_int_equal(apr_sockaddr_info_get(&a, text, APR_UNSPEC, 1, 0, pool),
                     APR_SUCCESS);
    memset(s, before, sizeof(*s));
    return ue_subject_of_address(s, a);
}

static void test_subjects_name_clients(void **state)
{
    static const struct {
        const char *a, *b;
        int is_same;
    } pairs[] = {
        {"192.0.2.1", "192.0.2.1", 1},
        {"192.0.2.1", "192.0.2.2", 0},
        {"192.0.2.1", "193.0.2.1", 0},
        {"192.0.2.1", "::ffff:192.0.2.1", 1},
        {"::ffff:192.0.2.2", "::ffff:192.0.2.1", 0},
        {"192.0.2.1", "c000:201::", 0},
        {"2001:db8::1", "2001:db8::2", 1},
        {"2001:db8:0:1::", "2001:db8:0:1:ffff:ffff:ffff:ffff", 1},
        {"2001:db8:0:1::1", "2001:db8:0:2::1", 0},
        {"2001:db8::1", "2002:db8::1", 0},
        {"::", "0.0.0.0", 0},
        {"::1", "::ffff:0.0.0.1", 0},
    };
    apr_sockaddr_t unix_socket = {.family = APR_UNSPEC};
    ue_subject_t a, b;

    for (size_t i = 0; i < UNIT_COUNT(pairs); i++) {
        assert_int_equal(subject_of(&a, pairs[i].a, 0xff), 1);
        assert_int_equal(subject_of(&b, pairs[i].b, 0x55), 1);
        assert_int_equal(a.by, UE_BY_IP);
        assert_int_equal(!memcmp(a.id, b.id, sizeof(a.id)), pairs[i].is_same);
    }
    assert_int_equal(ue_subject_of_address(&a, NULL), 0);
#if APR_HAVE_SOCKADDR_UN
    unix_socket.family = APR_UNIX;
#endif
    assert_int_equal(ue_subject_of_address(&a, &unix_socket), 0);
    assert_string_equal(ue_limitby_name(UE_BY_KEY), "key");
    assert_string_equal(ue_limitby_name(UE_BY_ORG), "org");
    assert_string_equal(ue_limitby_name(UE_BY_IP), "ip");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

static const struct CMUnitTest tests[] = {
    TEST(test_subjects_finds_what_it_put_in),
    TEST(test_subjects_differ_in_each_of_their_parts),
    TEST(test_subjects_refuses_what_no_rate_has),
    TEST(test_subjects_counts_each_by_itself),
    TEST(test_subjects_chooses_chains_by_a_random_key),
    TEST(test_subjects_takes_80_bytes_for_each),
    TEST(test_subjects_keeps_those_under_way),
    TEST(test_subjects_keeps_those_with_a_lease),
    TEST(test_subjects_tries_a_bounded_number),
    TEST(test_subjects_forgets_nothing_that_matters),
    TEST(test_subjects_refuses_an_old_reference),
    TEST(test_subjects_gives_each_a_generation),
    TEST(test_subjects_ignores_a_thread_that_was_held_up),
    TEST(test_subjects_begin_no_earlier_than_others),
    TEST(test_subjects_survives_a_clock_that_goes_back),
    TEST(test_subjects_gives_up_what_a_clock_left_behind),
    TEST(test_subjects_keep_what_they_used_up),
    TEST(test_subjects_are_not_shut_by_a_smaller_bucket),
    TEST(test_subjects_survives_damaged_chains),
    TEST(test_subjects_evicts_what_is_in_no_chain),
    TEST(test_subjects_name_clients),
};

UNIT_MAIN(tests)
