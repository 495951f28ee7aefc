/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_GCRA_H
#define UE_GCRA_H

/**
 * The generic cell rate algorithm (ATM Forum TM 4.0, 4.4.2), in whole numbers.
 *
 * Of what came so far a single number is kept, the theoretical arrival time
 * (TAT): when the bucket will be full again if nothing more comes. Each request
 * that is let in moves it on by the emission interval E = period / count, from
 * where it is or from now, whichever is later; and it is let in only if it does
 * not move it further than B = burst * E beyond now. With "100/s burst=50", E
 * is 10 ms and B 500 ms: 50 requests at once move the TAT to now + 500 ms, and
 * the next one is let in when 10 ms are over. So in no window [a, b] more than
 * burst + (b - a) / E are let in: the first leaves the TAT at a + E or later,
 * each adds E, and the last leaves it at b + B or earlier.
 *
 * When a rate changes, what counts is how many requests were taken out of the
 * bucket and not filled up yet: (TAT - now) / E. Left as it was, a TAT of
 * "10/h" whose ten are used up would keep "3600/h" shut for an hour. So
 * ue_gcra_convert() makes it that number times the new E. The number falls by
 * the faster of the two rates at most, and rises only where a bucket has room
 * for it: so however often two rates take turns, no window holds more than the
 * larger burst and the faster rate allow. When nobody uses the old rate any
 * more, ue_gcra_mend() cuts what the new bucket has no room for, or a rate by
 * the hour whose burst is made smaller would shut for days.
 *
 * Times are counts of UE_GCRA_TICK nanoseconds of a clock that never goes back,
 * modulo 2^UE_GCRA_BITS, which leaves room in a 64-bit word for the generation
 * of the slot that it is in. They wrap after 834 days; a TAT that lies further
 * ahead than any B is one that has long passed. So a bucket holds no more than
 * 400 days of its rate, and a larger burst is cut to that (of 1/h, to 9,600). E
 * is rounded up, never down: 100,000/s is exact, of 1,000,000/s 992,063 are
 * left. Should the clock go back after all, ue_gcra_mend() puts a TAT right
 * that would lock a subject out until the clock is where it was.
 *
 * All functions are pure; any thread may call them.
 */
#include <stdint.h>

#include "rate.h"

#define UE_GCRA_TICK 16 /**< ns */
#define UE_GCRA_BITS 52 /**< of a time */
#define UE_GCRA_MASK ((UINT64_C(1) << UE_GCRA_BITS) - 1)

/** What ue_gcra_mend() is to leave of what a bucket has no room for: a minute,
 * in ticks. */
#define UE_GCRA_EXCESS (UINT64_C(60000000000) / UE_GCRA_TICK)

/** The longest B, in ticks: 400 days. */
#define UE_GCRA_MOST (UINT64_C(400) * 86400 * 1000000000 / UE_GCRA_TICK)

/** A rate, as the algorithm needs it. */
typedef struct {
    uint64_t emission;  /**< E, in ticks */
    uint64_t tolerance; /**< B, in ticks */
} ue_gcra_t;

/** What became of a request. */
typedef struct {
    int is_let_in;
    uint32_t remaining; /**< that would be let in now */
    uint64_t wait;      /**< ticks until one is let in; 0: now */
    uint64_t full;      /**< ticks until the bucket is full */
} ue_gcra_state_t;

/** Prepare a rate. @param rate with a count and a burst from 1 */
void ue_gcra_prepare(ue_gcra_t *gcra, const ue_rate_t *rate);

/** A moment in ticks. @param ns of CLOCK_MONOTONIC */
static inline uint64_t ue_gcra_time(uint64_t ns)
{
    return ns / UE_GCRA_TICK & UE_GCRA_MASK;
}

/** Ticks until the bucket is full: how far the TAT lies ahead; 0 where it has
 * passed. */
static inline uint64_t ue_gcra_ahead(uint64_t tat, uint64_t now)
{
    uint64_t d = (tat - now) & UE_GCRA_MASK;

    return d <= UE_GCRA_MOST ? d : 0;
}

/**
 * Let one request in, if there is room.
 * @param tat   as it was
 * @param now   ue_gcra_time()
 * @param state receives what became of it
 * @return      the TAT to keep; the old one where it is not let in
 */
uint64_t ue_gcra_take(const ue_gcra_t *gcra, uint64_t tat, uint64_t now,
                      ue_gcra_state_t *state);

/** The same without letting it in: would it be? */
void ue_gcra_look(const ue_gcra_t *gcra, uint64_t tat, uint64_t now,
                  ue_gcra_state_t *state);

/**
 * Take a TAT over from one rate to another.
 * @param from the rate that has moved it
 * @return     the TAT to go on with
 */
uint64_t ue_gcra_convert(const ue_gcra_t *from, const ue_gcra_t *to,
                         uint64_t tat, uint64_t now);

/**
 * Put a TAT right that lies further ahead than it may, since it is from a
 * larger bucket, or the clock went back.
 * @param now     read after the TAT was: one from before it may be behind it
 * @param longest how far ahead it may lie
 * @return        the TAT to keep: so far ahead, or the old one
 */
uint64_t ue_gcra_mend(uint64_t tat, uint64_t now, uint64_t longest);

#endif /* UE_GCRA_H */
