/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * Logging: lines reach the one who takes them, whole or cut at 1,023 bytes,
 * none below the level asked for; and a limiter lets one line pass in each
 * interval and forgets none of those that it held back.
 */
#include "unit.h"

#include <pthread.h>

#include "log.h"

static struct {
    int lines;
    ue_log_level_t level;
    apr_status_t rv;
    char line[4096];
} got;

static int baton;

static void take(void *who, ue_log_level_t level, apr_status_t rv,
                 const char *line)
{
    assert_ptr_equal(who, &baton);
    got.lines++;
    got.level = level;
    got.rv = rv;
    snprintf(got.line, sizeof(got.line), "%s", line);
}

static int listen_from(ue_log_level_t least)
{
    memset(&got, 0, sizeof(got));
    ue_log_set(take, &baton, least);
    return 0;
}

static int tear_down(void **state)
{
    ue_log_set(NULL, NULL, UE_LOG_CRIT);
    return 0;
}

static void test_log_hands_over_line_level_and_status(void **state)
{
    listen_from(UE_LOG_INFO);
    ue_log(UE_LOG_WARNING, APR_ENOENT, "UE0999: %s: %d of %d", "a", 1, 2);
    assert_int_equal(got.lines, 1);
    assert_int_equal(got.level, UE_LOG_WARNING);
    assert_int_equal(got.rv, APR_ENOENT);
    assert_string_equal(got.line, "UE0999: a: 1 of 2");
}

static void test_log_leaves_out_what_was_not_asked_for(void **state)
{
    static const ue_log_level_t levels[] = {UE_LOG_CRIT,    UE_LOG_ERR,
                                            UE_LOG_WARNING, UE_LOG_NOTICE,
                                            UE_LOG_INFO,    UE_LOG_DEBUG};

    for (size_t least = 0; least < UNIT_COUNT(levels); least++) {
        listen_from(levels[least]);
        for (size_t i = 0; i < UNIT_COUNT(levels); i++) {
            int before = got.lines;

            ue_log(levels[i], APR_SUCCESS, "line");
            assert_int_equal(got.lines - before, i <= least);
            assert_int_equal(!!ue_log_wanted(levels[i]), i <= least);
        }
    }
}

static void test_log_without_taker_is_silent(void **state)
{
    memset(&got, 0, sizeof(got));
    ue_log_set(NULL, &baton, UE_LOG_DEBUG);
    assert_false(ue_log_wanted(UE_LOG_CRIT));
    ue_log(UE_LOG_CRIT, APR_SUCCESS, "nobody hears this");
    assert_int_equal(got.lines, 0);
}

static void test_log_cuts_a_line_at_1023_bytes(void **state)
{
    static char text[3000];

    memset(text, 'x', sizeof(text) - 1);
    listen_from(UE_LOG_DEBUG);
    ue_log(UE_LOG_ERR, APR_SUCCESS, "%.1023s", text);
    assert_int_equal(strlen(got.line), 1023);
    ue_log(UE_LOG_ERR, APR_SUCCESS, "%.1024s", text);
    assert_int_equal(strlen(got.line), 1023);
    ue_log(UE_LOG_ERR, APR_SUCCESS, "%s", text);
    assert_int_equal(strlen(got.line), 1023);
    assert_memory_equal(got.line, text, 1023);
}

/* ---- the limiter ---- */

#define SECOND APR_USEC_PER_SEC

static void test_log_limit_lets_one_line_pass_in_each_interval(void **state)
{
    ue_log_limit_t limit = {0};
    apr_time_t now = 1790000000 * SECOND;
    uint32_t held = 99;

    assert_true(ue_log_limit_pass(&limit, now, SECOND, &held));
    assert_int_equal(held, 0);
    assert_false(ue_log_limit_pass(&limit, now, SECOND, &held));
    assert_false(ue_log_limit_pass(&limit, now + SECOND - 1, SECOND, &held));
    assert_true(ue_log_limit_pass(&limit, now + SECOND, SECOND, &held));
    assert_int_equal(held, 2);
    /* told once */
    assert_true(ue_log_limit_pass(&limit, now + 5 * SECOND, SECOND, &held));
    assert_int_equal(held, 0);
}

static void test_log_limit_begins_with_a_line(void **state)
{
    ue_log_limit_t limit = {0};
    uint32_t held;

    /* a monotonic clock may stand near zero */
    assert_true(ue_log_limit_pass(&limit, 0, SECOND, &held));
    assert_false(ue_log_limit_pass(&limit, 1, SECOND, &held));
}

static void test_log_limit_survives_a_clock_set_back(void **state)
{
    ue_log_limit_t limit = {0};
    apr_time_t now = 1790000000 * SECOND;
    uint32_t held;

    assert_true(ue_log_limit_pass(&limit, now, SECOND, &held));
    now -= 3600 * SECOND;
    /* not silent for an hour, and limited from here on */
    assert_true(ue_log_limit_pass(&limit, now, SECOND, &held));
    assert_false(ue_log_limit_pass(&limit, now + 1, SECOND, &held));
    assert_true(ue_log_limit_pass(&limit, now + SECOND, SECOND, &held));
    assert_int_equal(held, 1);
}

#define THREADS 4

typedef struct {
    ue_log_limit_t *limit;
    unsigned calls;
    unsigned passed;
    uint64_t held;
} job_t;

static void *hammer(void *arg)
{
    job_t *job = arg;

    for (unsigned i = 0; i < job->calls; i++) {
        uint32_t held;

        /* all threads walk through the same intervals of a hundred calls */
        if (ue_log_limit_pass(job->limit, 1000000 + i, 100, &held)) {
            job->passed++;
            job->held += held;
        }
    }
    return NULL;
}

/* Passed and held back are all that were called, whoever raced whom. */
static void test_log_limit_forgets_no_line_between_threads(void **state)
{
    ue_log_limit_t limit = {0};
    unsigned calls = unit_loops(100000);
    pthread_t threads[THREADS];
    job_t jobs[THREADS];
    uint64_t accounted = 0;
    uint32_t held;

    for (int i = 0; i < THREADS; i++) {
        jobs[i] = (job_t){&limit, calls, 0, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, hammer, &jobs[i]),
                         0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        accounted += jobs[i].passed + jobs[i].held;
    }
    assert_true(ue_log_limit_pass(&limit, 1000000 + 2 * (apr_time_t)calls + 100,
                                  100, &held));
    accounted += held;
    assert_int_equal(accounted, (uint64_t)THREADS * calls);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_teardown(test_log_hands_over_line_level_and_status,
                              tear_down),
    cmocka_unit_test_teardown(test_log_leaves_out_what_was_not_asked_for,
                              tear_down),
    cmocka_unit_test_teardown(test_log_without_taker_is_silent, tear_down),
    cmocka_unit_test_teardown(test_log_cuts_a_line_at_1023_bytes, tear_down),
    cmocka_unit_test(test_log_limit_lets_one_line_pass_in_each_interval),
    cmocka_unit_test(test_log_limit_begins_with_a_line),
    cmocka_unit_test(test_log_limit_survives_a_clock_set_back),
    cmocka_unit_test(test_log_limit_forgets_no_line_between_threads),
};

UNIT_MAIN(tests)
