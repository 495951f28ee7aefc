/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * The producer while it runs: batches go out when they are full or when their
 * oldest event has waited, a sink in trouble is asked again until it takes what
 * it was offered, and every event is delivered once. (What happens when there
 * is no room is test_producer_overflow.c, the end is test_producer_close.c.)
 */
#include "unit_producer.h"

static ue_producer_config_t slow_config(uint32_t batch_size)
{
    ue_producer_config_t config = unit_config;

    config.batch_size = batch_size;
    config.flush_interval = apr_time_from_sec(60);
    return config;
}

static void test_producer_says_how_it_started(void **state)
{
    ue_producer_config_t config = unit_config;

    config.flush_interval = apr_time_from_msec(500);
    make_producer(&config, 1);
    assert_int_equal(lines_with("[EventProducer] Started (batch_size=100, "
                                "flush_interval=500ms, buffer=1000)"),
                     1);
    assert_int_equal(fix.levels[0], UE_LOG_INFO);
}

static void test_producer_sends_a_full_batch_at_once(void **state)
{
    ue_producer_config_t config = slow_config(10);

    make_producer(&config, 1);
    send_all(0, 9);
    /* Nothing may come, so there is nothing to wait for but time. */
    apr_sleep(apr_time_from_msec(60));
    assert_int_equal(fakes[0].calls, 0);
    send_all(9, 10);
    EVENTUALLY(fakes[0].delivered == 10);
    assert_int_equal(fakes[0].batches, 1);
    check_seen(&fakes[0], 0, 10);
}

static void test_producer_sends_what_has_waited(void **state)
{
    ue_producer_config_t config = unit_config;
    apr_time_t begin;
    apr_interval_time_t took;

    config.flush_interval = apr_time_from_msec(500);
    make_producer(&config, 1);
    begin = ue_monotonic();
    send_all(0, 3);
    EVENTUALLY(fakes[0].delivered == 3);
    took = ue_monotonic() - begin;
    /* two ticks of ten milliseconds early at most */
    assert_true(took >= apr_time_from_msec(470));
    assert_true(RUNNING_ON_VALGRIND || took < apr_time_from_sec(3));
    assert_int_equal(fakes[0].batches, 1);
}

static void test_producer_sends_the_event_that_was_recorded(void **state)
{
    static const ue_completion_t c = {4711, 404, 1};
    ue_admission_t a = numbered(7);
    char want[UE_EVENT_JSON_MAX];
    ue_slot_ref_t ref;
    ue_event_t event;

    a.api_key_id.b[15] = 9;
    a.timestamp = 1790000000123456;
    make_producer(&unit_config, 1);
    assert_int_equal(
        ue_producer_admit(fix.producer, &a, UE_OVERFLOW_DROP, &ref),
        APR_SUCCESS);
    assert_int_not_equal(ref, 0);
    assert_int_equal(
        ue_producer_record(fix.producer, ref, &c, UE_OVERFLOW_DROP),
        APR_SUCCESS);
    EVENTUALLY(fakes[0].delivered == 1);
    event = (ue_event_t){.request_id = a.request_id,
                         .organization_id = a.organization_id,
                         .api_key_id = a.api_key_id,
                         .timestamp = a.timestamp,
                         .response_time_ms = 4711,
                         .status_code = 404,
                         .billable = 1,
                         .method = "GET",
                         .method_len = 3,
                         .endpoint = "/v1/charge",
                         .endpoint_len = 10};
    want[ue_event_json(&event, want)] = '\0';
    assert_string_equal(fakes[0].json, want);
}

static void test_producer_records_a_request_once(void **state)
{
    ue_producer_config_t config = slow_config(100);
    ue_admission_t a = numbered(1);
    ue_slot_ref_t ref;

    make_producer(&config, 1);
    assert_int_equal(
        ue_producer_admit(fix.producer, &a, UE_OVERFLOW_DROP, &ref),
        APR_SUCCESS);
    assert_int_equal(ue_producer_record(fix.producer, ref, &unit_completion,
                                        UE_OVERFLOW_DROP),
                     APR_SUCCESS);
    assert_int_equal(ue_producer_record(fix.producer, ref, &unit_completion,
                                        UE_OVERFLOW_DROP),
                     APR_EBUSY);
    assert_int_equal(close_producer(), APR_SUCCESS);
    check_seen(&fakes[0], 1, 2);
    check_account();
}

/* As many events as there are slots, many times over: each slot is free again
 * when its event was delivered. */
static void test_producer_uses_its_slots_again(void **state)
{
    unsigned rounds = unit_loops(30);

    make_producer(&unit_config, 1);
    for (unsigned i = 0; i < rounds; i++) {
        send_all(i * 1000, (i + 1) * 1000);
        assert_int_equal(ue_producer_flush(fix.producer, ue_monotonic() + SOON),
                         APR_SUCCESS);
    }
    assert_int_equal(fakes[0].delivered, rounds * 1000);
    check_seen(&fakes[0], 0, rounds * 1000);
    check_account();
}

static void test_producer_counts_batches_and_latency(void **state)
{
    ue_producer_config_t config = slow_config(50);
    ue_metrics_sum_t sum;
    uint64_t latencies = 0;

    make_producer(&config, 1);
    send_all(0, 50);
    EVENTUALLY(metric(UE_M_EVENTS_DELIVERED) == 50);
    EVENTUALLY(lines_with("[EventProducer] Batch sent: ") > 0);
    sum = sum_now();
    assert_int_equal(sum.value[UE_M_EVENTS_ADMITTED], 50);
    assert_int_equal(sum.value[UE_M_BATCHES], fakes[0].batches);
    assert_int_equal(sum.value[UE_M_BATCH_EVENTS], 50);
    assert_int_equal(sum.value[UE_M_SINK_ERRORS], 0);
    for (int i = 0; i <= UE_LATENCY_BUCKETS; i++) {
        latencies += sum.latency[i];
    }
    assert_int_equal(latencies, 50);
    assert_int_equal(lines_with("[EventProducer] Batch sent: 50 events "
                                "(success=50, failed=0)"),
                     1);
}

/* ---- sinks in trouble ---- */

static void test_producer_asks_a_failing_sink_again(void **state)
{
    make_producer(&unit_config, 1);
    fakes[0].mode = SINK_FAILS;
    send_all(0, 20);
    EVENTUALLY(metric(UE_M_SINK_ERRORS) >= 2);
    send_all(20, 40);
    assert_int_equal(fakes[0].delivered, 0);
    fakes[0].mode = SINK_TAKES;
    EVENTUALLY(metric(UE_M_EVENTS_DELIVERED) == 40);
    check_seen(&fakes[0], 0, 40);
    check_account();
    assert_int_equal(lost_in_all(), 0);
}

/* Not at each tick: a sink in trouble may do much before it says so. */
static void test_producer_gives_a_failing_sink_a_break(void **state)
{
    unsigned before;

    make_producer(&unit_config, 1);
    fakes[0].mode = SINK_FAILS;
    send_all(0, 200);
    EVENTUALLY(fakes[0].calls > 0);
    before = fakes[0].calls;
    apr_sleep(apr_time_from_msec(600));
    assert_in_range(fakes[0].calls - before, 0, 6);
    fakes[0].mode = SINK_TAKES;
    EVENTUALLY(metric(UE_M_EVENTS_DELIVERED) == 200);
    check_account();
}

/* A sink that is only busy is no error, and asked again sooner. */
static void test_producer_asks_a_busy_sink_again_soon(void **state)
{
    make_producer(&unit_config, 1);
    fakes[0].mode = SINK_ASKS_AGAIN;
    send_all(0, 20);
    EVENTUALLY(fakes[0].calls >= 5);
    assert_int_equal(metric(UE_M_SINK_ERRORS), 0);
    fakes[0].mode = SINK_TAKES;
    EVENTUALLY(metric(UE_M_EVENTS_DELIVERED) == 20);
    check_seen(&fakes[0], 0, 20);
    check_account();
}

static void test_producer_offers_again_what_was_not_taken(void **state)
{
    make_producer(&unit_config, 1);
    fakes[0].mode = SINK_TAKES_THREE;
    send_all(0, 10);
    EVENTUALLY(metric(UE_M_EVENTS_DELIVERED) == 10);
    assert_int_equal(fakes[0].largest, 3);
    check_seen(&fakes[0], 0, 10);
    check_account();
}

static void test_producer_counts_what_a_sink_refuses(void **state)
{
    ue_producer_config_t config = slow_config(30);

    make_producer(&config, 1);
    fakes[0].refuse_every = 10; /* 0, 10 and 20 */
    send_all(0, 30);
    EVENTUALLY(metric(UE_M_EVENTS_LOST_REJECTED) == 3);
    EVENTUALLY(metric(UE_M_EVENTS_DELIVERED) == 27);
    EVENTUALLY(lines_with("[EventProducer] Batch sent: 30 events "
                          "(success=27, failed=3)")
               == 1);
    assert_int_equal(fakes[0].seen[10], 0);
    check_seen(&fakes[0], 11, 20);
    check_account();
    /* their slots are free again: they aren't offered any more */
    assert_int_equal(close_producer(), APR_SUCCESS);
    assert_int_equal(fakes[0].refused, 3);
    check_account();
}

static void test_producer_waits_for_late_reports(void **state)
{
    make_producer(&unit_config, 1);
    fakes[0].mode = SINK_REPORTS_LATE;
    fakes[0].stuck = 0;
    send_all(0, 500);
    EVENTUALLY(metric(UE_M_EVENTS_DELIVERED) == 500);
    check_seen(&fakes[0], 0, 500);
    check_account();
}

/* ---- two sinks ---- */

static void test_producer_delivers_to_both_sinks(void **state)
{
    make_producer(&unit_config, 2);
    send_all(0, 300);
    EVENTUALLY(metric(UE_M_EVENTS_DELIVERED) == 300);
    check_seen(&fakes[0], 0, 300);
    check_seen(&fakes[1], 0, 300);
    check_account();
}

static void test_producer_counts_delivered_what_both_sinks_have(void **state)
{
    make_producer(&unit_config, 2);
    fakes[1].mode = SINK_FAILS;
    send_all(0, 50);
    /* one sink's trouble doesn't hold the other up */
    EVENTUALLY(fakes[0].delivered == 50);
    EVENTUALLY(fakes[1].calls >= 2);
    assert_int_equal(metric(UE_M_EVENTS_DELIVERED), 0);
    assert_int_equal(sum_now().waiting, 50);
    fakes[1].mode = SINK_TAKES;
    EVENTUALLY(metric(UE_M_EVENTS_DELIVERED) == 50);
    check_seen(&fakes[0], 0, 50);
    check_seen(&fakes[1], 0, 50);
    check_account();
}

/* Refused by one sink, delivered to the other: lost once, not delivered. */
static void test_producer_counts_rejected_what_one_sink_refuses(void **state)
{
    for (int refuser = 0; refuser < 2; refuser++) {
        fakes[refuser].refuse_every = 5;
    }
    fakes[1].refuse_every = 10;
    make_producer(&unit_config, 2);
    send_all(0, 50);
    EVENTUALLY(metric(UE_M_EVENTS_DELIVERED) + lost_in_all() == 50);
    /* 0, 5, 10, … are refused by the first, 0, 10, … by the second, too */
    assert_int_equal(metric(UE_M_EVENTS_LOST_REJECTED), 10);
    assert_int_equal(fakes[1].delivered, 45);
    check_account();
}

/* ---- flushing, sleeping ---- */

static void test_producer_flush_sends_before_the_interval(void **state)
{
    ue_producer_config_t config = slow_config(1000);

    make_producer(&config, 1);
    assert_int_equal(ue_producer_flush(fix.producer, ue_monotonic() + SOON),
                     APR_SUCCESS);
    send_all(0, 42);
    assert_int_equal(ue_producer_flush(fix.producer, ue_monotonic() + SOON),
                     APR_SUCCESS);
    assert_int_equal(metric(UE_M_EVENTS_DELIVERED), 42);
    check_seen(&fakes[0], 0, 42);
    /* and after it, batches are waited for again */
    send_all(42, 43);
    apr_sleep(apr_time_from_msec(60));
    assert_int_equal(fakes[0].delivered, 42);
}

static void test_producer_flush_ends_at_its_deadline(void **state)
{
    apr_time_t begin = ue_monotonic();

    make_producer(&unit_config, 1);
    fakes[0].mode = SINK_FAILS;
    send_all(0, 5);
    assert_int_equal(
        ue_producer_flush(fix.producer, begin + apr_time_from_msec(300)),
        APR_TIMEUP);
    assert_true(ue_monotonic() - begin >= apr_time_from_msec(300));
    assert_true(RUNNING_ON_VALGRIND
                || ue_monotonic() - begin < apr_time_from_sec(3));
}

/* After two seconds without work the worker sleeps a second at a time. An event
 * wakes it, and the end does. */
static void test_producer_sleeping_is_woken(void **state)
{
    ue_producer_config_t config = unit_config;
    apr_time_t begin;

    config.batch_size = 1;
    make_producer(&config, 1);
    EVENTUALLY(atomic_load(&fix.producer->asleep));
    begin = ue_monotonic();
    send_all(0, 1);
    EVENTUALLY(fakes[0].delivered == 1);
    assert_true(RUNNING_ON_VALGRIND
                || ue_monotonic() - begin < apr_time_from_msec(500));
    EVENTUALLY(atomic_load(&fix.producer->asleep));
    begin = ue_monotonic();
    assert_int_equal(close_producer(), APR_SUCCESS);
    assert_true(RUNNING_ON_VALGRIND
                || ue_monotonic() - begin < apr_time_from_msec(500));
}

/* ---- many threads ---- */

#define THREADS 8

typedef struct {
    pthread_t thread;
    unsigned first;
    unsigned count;
    unsigned dropped;
    unsigned wrong;
} job_t;

static void *send_many(void *arg)
{
    job_t *job = arg;
    uint64_t seed = job->first;

    for (unsigned i = 0; i < job->count; i++) {
        ue_admission_t a = numbered(job->first + i);
        char path[300];
        ue_slot_ref_t ref;
        apr_status_t rv;

        memset(path, 'p', sizeof(path));
        a.endpoint = path;
        a.endpoint_len = unit_random(&seed) % sizeof(path);
        rv = ue_producer_admit(fix.producer, &a, UE_OVERFLOW_DROP, &ref);
        if (rv == APR_SUCCESS) {
            rv = ue_producer_record(fix.producer, ref, &unit_completion,
                                    UE_OVERFLOW_DROP);
        }
        job->dropped += APR_STATUS_IS_EAGAIN(rv) != 0;
        job->wrong += rv != APR_SUCCESS && !APR_STATUS_IS_EAGAIN(rv);
        if (i % 64 == 0) {
            apr_sleep(100);
        }
    }
    return NULL;
}

/* More than the buffer takes, to two sinks of which one has troubles of all
 * kinds: in the end each event was delivered or dropped, and counted so. */
static void test_producer_accounts_for_every_event_of_many_threads(void **state)
{
    unsigned count = unit_loops(8000);
    unsigned dropped = 0;
    job_t jobs[THREADS];

    make_producer(&unit_config, 2);
    fakes[1].refuse_every = 97;
    for (unsigned i = 0; i < THREADS; i++) {
        jobs[i] = (job_t){.first = i * count, .count = count};
        assert_int_equal(
            pthread_create(&jobs[i].thread, NULL, send_many, &jobs[i]), 0);
    }
    for (int i = 0; i < 40; i++) {
        fakes[i % 2].mode = i % 5;
        apr_sleep(apr_time_from_msec(2));
    }
    fakes[0].mode = SINK_TAKES;
    fakes[1].mode = SINK_TAKES;
    for (int i = 0; i < THREADS; i++) {
        pthread_join(jobs[i].thread, NULL);
        assert_int_equal(jobs[i].wrong, 0);
        dropped += jobs[i].dropped;
    }
    assert_int_equal(close_producer(), APR_SUCCESS);
    assert_int_equal(metric(UE_M_EVENTS_ADMITTED), THREADS * count);
    assert_int_equal(metric(UE_M_EVENTS_LOST_OVERFLOW), dropped);
    assert_int_equal(fakes[0].delivered, THREADS * count - dropped);
    assert_int_equal(metric(UE_M_EVENTS_LOST_REJECTED), fakes[1].refused);
    check_account();
}

static const struct CMUnitTest tests[] = {
    TEST(test_producer_says_how_it_started),
    TEST(test_producer_sends_a_full_batch_at_once),
    TEST(test_producer_sends_what_has_waited),
    TEST(test_producer_sends_the_event_that_was_recorded),
    TEST(test_producer_records_a_request_once),
    TEST(test_producer_uses_its_slots_again),
    TEST(test_producer_counts_batches_and_latency),
    TEST(test_producer_asks_a_failing_sink_again),
    TEST(test_producer_gives_a_failing_sink_a_break),
    TEST(test_producer_asks_a_busy_sink_again_soon),
    TEST(test_producer_offers_again_what_was_not_taken),
    TEST(test_producer_counts_what_a_sink_refuses),
    TEST(test_producer_waits_for_late_reports),
    TEST(test_producer_delivers_to_both_sinks),
    TEST(test_producer_counts_delivered_what_both_sinks_have),
    TEST(test_producer_counts_rejected_what_one_sink_refuses),
    TEST(test_producer_flush_sends_before_the_interval),
    TEST(test_producer_flush_ends_at_its_deadline),
    TEST(test_producer_sleeping_is_woken),
    TEST(test_producer_accounts_for_every_event_of_many_threads),
};

UNIT_MAIN(tests)
