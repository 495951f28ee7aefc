/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * GCRA against two models that know no TAT, in 128 bits and without a wrap: a
 * bucket of tokens that is filled up as time goes by, and the definition of a
 * limit, that no window holds more than the burst and what the rate gives in
 * its length. The second takes the rate as it was written, unrounded.
 */
#include "unit.h"

#include "gcra.h"

typedef __int128 wide_t;

#define SECOND APR_USEC_PER_SEC
#define WRAP ((wide_t)1 << UE_GCRA_BITS)
#define DAY ((uint64_t)86400 * 1000000000 / UE_GCRA_TICK)
#define PERIODS                            \
    {                                      \
        SECOND, 60 * SECOND, 3600 * SECOND \
    }

/* What one rate let in; time never wraps here. */
typedef struct {
    wide_t period; /* ticks */
    wide_t count;
    wide_t burst;
    wide_t n, least;
} window_t;

static void open_window(window_t *w, const ue_rate_t *rate)
{
    memset(w, 0, sizeof(*w));
    w->period = (wide_t)rate->period * 1000 / UE_GCRA_TICK;
    w->count = rate->count;
    w->burst = rate->burst;
}

/* One more was let in at t. Of the windows that end here the fullest is that
 * from the request i with the least i * period - t(i) * count.
 * @return whether it holds no more than burst + length * rate */
static int is_within(window_t *w, wide_t t)
{
    wide_t at = w->n * w->period - t * w->count;

    w->least = w->n++ && w->least < at ? w->least : at;
    return at - w->least + w->period <= w->burst * w->period;
}

/* A bucket of tokens, of which each is worth E ticks. */
typedef struct {
    wide_t emission, most, has;
} bucket_t;

static void refill(bucket_t *b, wide_t ticks)
{
    b->has = b->has + ticks < b->most ? b->has + ticks : b->most;
}

static int take_token(bucket_t *b)
{
    int is_let_in = b->has >= b->emission;

    b->has -= is_let_in ? b->emission : 0;
    return is_let_in;
}

static int is_as_modelled(const bucket_t *b, const ue_gcra_state_t *s)
{
    return s->remaining == b->has / b->emission
           && s->wait == (b->has < b->emission ? b->emission - b->has : 0)
           && s->full == b->most - b->has;
}

/* From 1 to most, small ones as often as large ones. */
static uint32_t any_size(uint64_t *seed, uint32_t most)
{
    uint64_t r = unit_random(seed);

    return (uint32_t)(r >> 8 & ((UINT64_C(1) << r % 30) - 1)) % most + 1;
}

static ue_rate_t any_rate(uint64_t *seed)
{
    static const apr_interval_time_t periods[] = PERIODS;
    ue_rate_t rate = {.count = any_size(seed, UE_RATE_MAX)};

    rate.period = periods[unit_random(seed) % 3];
    rate.burst = any_size(seed, UE_RATE_MAX);
    return rate;
}

/* How long until the next request: none at all, about as long as one takes, to
 * the tick when one is let in again, until the bucket is full, or for so long
 * that the time has almost wrapped. */
static uint64_t any_gap(uint64_t *seed, const ue_gcra_t *g,
                        const ue_gcra_state_t *s)
{
    uint64_t r = unit_random(seed);

    switch (r % 16) {
    case 0:
        return s->full + (r >> 8) % (430 * DAY);
    case 1:
        return (r >> 8) % (s->full + 1);
    case 2:
    case 3:
        return s->wait;
    case 4:
        return s->wait - (s->wait > 0);
    case 5:
    case 6:
    case 7:
        return (r >> 8) % (2 * g->emission);
    case 8:
        return 1;
    default:
        return 0;
    }
}

static uint64_t at(wide_t t)
{
    return (uint64_t)t & UE_GCRA_MASK;
}

/* Look, take, look again. @return whether all three are as they should be */
static int agrees(const ue_gcra_t *g, uint64_t *tat, wide_t t, bucket_t *b,
                  ue_gcra_state_t *s)
{
    ue_gcra_state_t before, after;
    int is_right;

    ue_gcra_look(g, *tat, at(t), &before);
    is_right = is_as_modelled(b, &before);
    *tat = ue_gcra_take(g, *tat, at(t), s);
    is_right = is_right && s->is_let_in == before.is_let_in
               && s->is_let_in == take_token(b) && is_as_modelled(b, s);
    ue_gcra_look(g, *tat, at(t), &after);
    return is_right && *tat <= UE_GCRA_MASK && after.is_let_in == (s->wait == 0)
           && is_as_modelled(b, &after);
}

/* Any rate, any schedule, from shortly before the time wraps. */
static void test_gcra_is_a_bucket_of_tokens(void **state)
{
    uint64_t seed = 1, refused = 0, wrapped = 0, full = 0;
    unsigned rounds = unit_loops(20000);

    for (unsigned i = 0; i < rounds; i++) {
        ue_rate_t rate = any_rate(&seed);
        ue_gcra_state_t s = {0};
        window_t window;
        bucket_t bucket;
        ue_gcra_t g;
        wide_t t = WRAP - unit_random(&seed) % (1000 * DAY);
        uint64_t tat;

        ue_gcra_prepare(&g, &rate);
        bucket = (bucket_t){g.emission, g.tolerance, 0};
        bucket.has = g.tolerance - unit_random(&seed) % (g.tolerance + 1);
        tat = at(t + bucket.most - bucket.has);
        open_window(&window, &rate);
        for (unsigned n = 0; n < 1000; n++) {
            uint64_t gap = n ? any_gap(&seed, &g, &s) : 0;

            t += gap;
            refill(&bucket, gap);
            assert_true(agrees(&g, &tat, t, &bucket, &s));
            assert_true(!s.is_let_in || is_within(&window, t));
            refused += !s.is_let_in;
            full += s.full == g.emission;
        }
        wrapped += t >= WRAP;
    }
    assert_in_range(refused, rounds * 20, rounds * 980);
    assert_in_range(full, rounds * 20, rounds * 980);
    assert_in_range(wrapped, rounds / 2, rounds);
}

/* A bucket's burst comes at once, and then as many as it says, no fewer. */
static void test_gcra_lets_in_what_is_promised(void **state)
{
    uint64_t seed = 2;

    for (unsigned i = 0; i < unit_loops(10000); i++) {
        ue_rate_t rate = any_rate(&seed);
        uint64_t now = unit_random(&seed) & UE_GCRA_MASK, tat = now;
        ue_gcra_state_t s;
        ue_gcra_t g;
        uint32_t n;

        rate.burst = any_size(&seed, 1000);
        ue_gcra_prepare(&g, &rate);
        for (n = 0; n < rate.burst; n++) {
            tat = ue_gcra_take(&g, tat, now, &s);
            assert_true(s.is_let_in);
            assert_int_equal(s.remaining, rate.burst - n - 1);
        }
        assert_int_equal(s.full, rate.burst * g.emission);
        assert_int_equal(s.wait, g.emission);
        assert_int_equal(ue_gcra_take(&g, tat, now, &s), tat);
        assert_false(s.is_let_in);
        now = (now + s.wait - 1) & UE_GCRA_MASK;
        ue_gcra_look(&g, tat, now, &s);
        assert_false(s.is_let_in);
        assert_int_equal(s.wait, 1);
        ue_gcra_look(&g, tat, (now + 1) & UE_GCRA_MASK, &s);
        assert_true(s.is_let_in);
    }
}

static void test_gcra_rounds_a_rate_down(void **state)
{
    static const struct {
        ue_rate_t rate;
        uint64_t emission, burst;
    } rates[] = {
        {{100, SECOND, 50}, 625000, 50},
        {{100000, SECOND, 7}, 625, 7},
        {{1000000, SECOND, 1}, 63, 1},
        {{UE_RATE_MAX, SECOND, UE_RATE_MAX}, 1, UE_RATE_MAX},
        {{UE_RATE_MAX, 3600 * SECOND, 2}, 225, 2},
        {{7, 60 * SECOND, 3}, 535714286, 3},
        {{1, 3600 * SECOND, 9600}, UINT64_C(225000000000), 9600},
        {{1, 3600 * SECOND, 9601}, UINT64_C(225000000000), 9600},
        {{1, SECOND, UE_RATE_MAX}, 62500000, 34560000},
    };

    for (size_t i = 0; i < UNIT_COUNT(rates); i++) {
        ue_gcra_t g;

        ue_gcra_prepare(&g, &rates[i].rate);
        assert_int_equal(g.emission, rates[i].emission);
        assert_int_equal(g.tolerance, rates[i].burst * g.emission);
    }
    assert_int_equal(ue_gcra_time(1600000), 100000);
    assert_int_equal(ue_gcra_time((UINT64_C(5) << 56) + 31), 1);
}

/* What was used up of one bucket is used up of the next. */
static void test_gcra_converts_what_was_used_up(void **state)
{
    static const struct {
        ue_rate_t from, to;
        uint32_t used, then; /* let in at once */
        uint64_t wait;       /* ms, when it is empty */
    } changes[] = {
        {{10, 3600 * SECOND, 10}, {3600, 3600 * SECOND, 100}, 10, 90, 1000},
        {{10, 3600 * SECOND, 10}, {10, 3600 * SECOND, 20}, 10, 10, 360000},
        {{100, SECOND, 50}, {200, SECOND, 25}, 50, 0, 130},
        {{100, SECOND, 50}, {200, SECOND, 25}, 20, 5, 5},
        {{1000, SECOND, 1000}, {100, SECOND, 100}, 1000, 0, 9010},
        {{1, 60 * SECOND, 100}, {1, 60 * SECOND, 10}, 100, 0, 91 * 60000},
        {{1000, SECOND, 1000},
         {1, 3600 * SECOND, 1},
         1000,
         0,
         1000 * UINT64_C(3600000)},
        {{1, 3600 * SECOND, 9600}, {1, 3600 * SECOND, 9600}, 9600, 0, 3600000},
        {{1, SECOND, 1}, {1, 3600 * SECOND, 3}, 0, 3, 3600000},
    };

    for (size_t i = 0; i < UNIT_COUNT(changes); i++) {
        uint64_t now = UE_GCRA_MASK - 5, tat = now;
        ue_gcra_state_t s;
        ue_gcra_t from, to;
        uint32_t n;

        ue_gcra_prepare(&from, &changes[i].from);
        ue_gcra_prepare(&to, &changes[i].to);
        for (n = 0; n < changes[i].used; n++) {
            tat = ue_gcra_take(&from, tat, now, &s);
            assert_true(s.is_let_in);
        }
        tat = ue_gcra_convert(&from, &to, tat, now);
        for (n = 0; n <= changes[i].then; n++) {
            tat = ue_gcra_take(&to, tat, now, &s);
            assert_int_equal(s.is_let_in, n < changes[i].then);
        }
        assert_in_range(s.wait, changes[i].wait * 62500,
                        changes[i].wait * 62500 + to.emission / 1000);
    }
}

/* Two rates take turns: never more than the larger burst and the faster rate
 * allow, and nobody waits longer than it takes to fill what he used up. */
static void test_gcra_of_two_rates_that_take_turns(void **state)
{
    uint64_t seed = 3, let_in = 0;
    unsigned rounds = unit_loops(10000);

    for (unsigned i = 0; i < rounds; i++) {
        ue_rate_t rates[2], larger = {0, SECOND, 0};
        ue_gcra_state_t s = {0};
        window_t window;
        ue_gcra_t g[2];
        uint64_t tat = 0;
        unsigned k, was = 0;
        wide_t t = 0;

        for (k = 0; k < 2; k++) {
            rates[k] = (ue_rate_t){any_size(&seed, 100000), SECOND, 0};
            rates[k].burst = any_size(&seed, 200);
            larger.count =
                rates[k].count > larger.count ? rates[k].count : larger.count;
            larger.burst =
                rates[k].burst > larger.burst ? rates[k].burst : larger.burst;
            ue_gcra_prepare(&g[k], &rates[k]);
        }
        open_window(&window, &larger);
        for (unsigned n = 0; n < 500; n++) {
            k = unit_random(&seed) >> 32 & 1;
            t += any_gap(&seed, &g[k], &s);
            if (k != was) {
                tat = ue_gcra_convert(&g[was], &g[k], tat, at(t));
            }
            was = k;
            tat = ue_gcra_take(&g[k], tat, at(t), &s);
            assert_true(!s.is_let_in || is_within(&window, t));
            assert_true(s.wait <= (larger.burst + 1) * g[k].emission);
            let_in += (unsigned)s.is_let_in;
        }
    }
    assert_in_range(let_in, rounds * 50, rounds * 490);
}

/* The clock stands still, jumps ahead, jumps back: nobody waits longer than one
 * takes once a TAT from later is put right, and no more are let in than by the
 * way that the clock has gone forward. */
static void test_gcra_survives_a_clock_that_jumps(void **state)
{
    uint64_t seed = 5, mended = 0;

    for (unsigned i = 0; i < unit_loops(20000); i++) {
        ue_rate_t rate = any_rate(&seed);
        uint64_t now = unit_random(&seed) & UE_GCRA_MASK, tat = now, back;
        ue_gcra_state_t s = {0};
        window_t window;
        ue_gcra_t g;
        wide_t gone = 0;

        rate.burst = any_size(&seed, 100);
        ue_gcra_prepare(&g, &rate);
        open_window(&window, &rate);
        for (unsigned n = 0; n < 500; n++) {
            uint64_t r = unit_random(&seed), gap = any_gap(&seed, &g, &s);

            back = r % 8   ? 0
                   : r & 8 ? (r >> 8) % (g.tolerance + 1)
                           : (r >> 8) % (UE_GCRA_MOST - g.tolerance);
            gap = gap < DAY ? gap : DAY;
            gone += gap;
            now = (now + gap - back) & UE_GCRA_MASK;
            ue_gcra_look(&g, tat, now, &s);
            if (s.full > g.tolerance) {
                tat = ue_gcra_mend(tat, now, g.tolerance);
                mended++;
            }
            assert_int_equal(tat, ue_gcra_mend(tat, now, g.tolerance));
            assert_true(tat <= UE_GCRA_MASK);
            tat = ue_gcra_take(&g, tat, now, &s);
            assert_true(!s.is_let_in || is_within(&window, gone));
            assert_true(s.wait <= g.emission);
        }
    }
    assert_in_range(mended, 100, UINT32_MAX);
}

/* One that idled for as long as a TAT can be told from one that is ahead has a
 * full bucket; not one tick longer, which is why it is documented. */
static void test_gcra_idles_longer_than_the_longest_bucket(void **state)
{
    ue_rate_t rate = {1, 3600 * SECOND, UE_RATE_MAX};
    uint64_t idle = (UINT64_C(1) << UE_GCRA_BITS) - UE_GCRA_MOST - 1;
    ue_gcra_state_t s;
    ue_gcra_t g;

    ue_gcra_prepare(&g, &rate);
    assert_int_equal(g.tolerance, UE_GCRA_MOST);
    ue_gcra_look(&g, 5, 5 + idle, &s);
    assert_int_equal(s.full, 0);
    assert_int_equal(s.remaining, 9600);
    ue_gcra_look(&g, 5, 6 + idle, &s);
    assert_int_equal(s.full, UE_GCRA_MOST);
    assert_true(idle > 433 * DAY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gcra_is_a_bucket_of_tokens),
        cmocka_unit_test(test_gcra_lets_in_what_is_promised),
        cmocka_unit_test(test_gcra_rounds_a_rate_down),
        cmocka_unit_test(test_gcra_converts_what_was_used_up),
        cmocka_unit_test(test_gcra_of_two_rates_that_take_turns),
        cmocka_unit_test(test_gcra_survives_a_clock_that_jumps),
        cmocka_unit_test(test_gcra_idles_longer_than_the_longest_bucket),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
