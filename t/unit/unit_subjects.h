/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_UNIT_SUBJECTS_H
#define UE_UNIT_SUBJECTS_H

/**
 * What the tests of the table of subjects share: subjects by number, rates,
 * the clock, and a look at whether a table is whole.
 */
#include "unit_process.h"

#include "subjects_int.h"

#include <time.h>

#define UNIT_TICKS(ns) ((uint64_t)(ns) / UE_GCRA_TICK)
#define UNIT_MS UNIT_TICKS(1000000)
#define UNIT_HOUR (3600000 * UNIT_MS)

static inline ue_subjects_t *unit_subjects(uint32_t size, apr_pool_t *p)
{
    ue_subjects_t *t = NULL;

    assert_int_equal(ue_subjects_create(&t, size, p), APR_SUCCESS);
    return t;
}

static inline void unit_unmap(ue_subjects_t *t)
{
    munmap(t->shared, ue_subjects_bytes(t->size));
}

/** As what a subject is found: the largest burst there is, for tests that count
 * by another rate. */
static uint32_t unit_burst = UE_RATE_MAX;

static inline ue_rate_t unit_any_rate(apr_interval_time_t period)
{
    return (ue_rate_t){1, period, unit_burst};
}

/** Subjects of all kinds and units; nine of them have one id. */
static inline ue_subject_t unit_subject(uint64_t n)
{
    static const apr_interval_time_t periods[] = {
        APR_USEC_PER_SEC, 60 * APR_USEC_PER_SEC, 3600 * APR_USEC_PER_SEC};
    ue_subject_t s = {{n / 9, 7},
                      (ue_limitby_t)(n % 3),
                      0,
                      unit_any_rate(periods[n / 3 % 3])};

    return s;
}

static inline ue_gcra_t unit_rate(uint32_t count, apr_interval_time_t seconds,
                                  uint32_t burst)
{
    ue_rate_t rate = {count, seconds * APR_USEC_PER_SEC, burst};
    ue_gcra_t gcra;

    ue_gcra_prepare(&gcra, &rate);
    return gcra;
}

static inline uint64_t unit_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return ue_gcra_time((uint64_t)now.tv_sec * 1000000000
                        + (uint64_t)now.tv_nsec);
}

/** Find a subject, which must be possible. */
static inline ue_subjectref_t unit_find(ue_subjects_t *t, uint64_t n,
                                        uint64_t now)
{
    ue_subject_t s = unit_subject(n);
    ue_subjectref_t ref = {0, 0, 0};

    assert_int_equal(ue_subjects_find(t, &s, now, &ref), APR_SUCCESS);
    return ref;
}

/** Is there no room for it? */
static inline int unit_is_full(ue_subjects_t *t, uint64_t n, uint64_t now)
{
    ue_subject_t s = unit_subject(n);
    ue_subjectref_t ref;
    apr_status_t rv = ue_subjects_find(t, &s, now, &ref);

    assert_true(rv == APR_SUCCESS || rv == APR_EAGAIN);
    return rv == APR_EAGAIN;
}

/** Find and take. @return whether it was let in */
static inline int unit_take(ue_subjects_t *t, uint64_t n, const ue_gcra_t *gcra,
                            uint64_t now)
{
    ue_subjectref_t ref = unit_find(t, n, now);
    ue_gcra_state_t state;

    assert_int_equal(ue_subjects_take(t, ref, gcra, now, &state), APR_SUCCESS);
    return state.is_let_in;
}

/** Take all that there is at once. @return how many that were */
static inline uint32_t unit_use_up(ue_subjects_t *t, uint64_t n,
                                   const ue_gcra_t *gcra, uint64_t now)
{
    uint32_t taken = 0;

    while (unit_take(t, n, gcra, now)) {
        taken++;
    }
    return taken;
}

static inline int unit_is_same(ue_subjectref_t a, ue_subjectref_t b)
{
    return a.slot == b.slot && a.generation == b.generation;
}

static inline int unit_is_in_use(const ue_subjectslot_t *slot)
{
    return slot->who
           && ue_subject_generation(slot->who)
                  == ue_subject_generation(slot->tat);
}

/** Each slot that was ever used is either in use, and in one chain, or free,
 * and those in use are as many as are counted. */
static inline void unit_assert_whole(const ue_subjects_t *t)
{
    uint32_t high = t->shared->high, number, in_use = 0, unused = 0;
    uint8_t *seen = calloc(high + 1, 1);

    assert_non_null(seen);
    assert_true(high <= t->size);
    for (uint32_t b = 0; b < t->size; b++) {
        for (number = t->buckets[b]; number;
             number = t->slots[number - 1].next) {
            assert_in_range(number, 1, high);
            assert_int_equal(seen[number]++, 0);
            assert_true(unit_is_in_use(&t->slots[number - 1]));
            in_use++;
        }
    }
    for (number = t->shared->free; number; number = t->slots[number - 1].next) {
        assert_in_range(number, 1, high);
        assert_int_equal(seen[number]++, 0);
        assert_false(unit_is_in_use(&t->slots[number - 1]));
        unused++;
    }
    assert_int_equal(in_use + unused, high);
    assert_int_equal(in_use, t->shared->count);
    free(seen);
}

#endif /* UE_UNIT_SUBJECTS_H */
