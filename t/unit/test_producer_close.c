/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * The producer's end: what was recorded is delivered within the deadline, what
 * was admitted and never logged is recorded as interrupted, what can't be
 * delivered is lost by name, once, and nobody waits for ever for a stuck sink.
 * (The end in a signal handler is test_producer_signal.c.)
 */
#include "unit_producer.h"

/* Nothing goes out before the end but full batches, which never fill. */
static ue_producer_config_t patient_config(apr_interval_time_t drain_timeout)
{
    ue_producer_config_t config = unit_config;

    config.batch_size = 10000;
    config.flush_interval = apr_time_from_sec(60);
    config.drain_timeout = drain_timeout;
    return config;
}

static void test_producer_close_delivers_what_waits(void **state)
{
    ue_producer_config_t config = patient_config(apr_time_from_sec(5));
    apr_time_t begin;

    make_producer(&config, 1);
    send_all(0, 700);
    begin = ue_monotonic();
    assert_int_equal(close_producer(), APR_SUCCESS);
    assert_true(RUNNING_ON_VALGRIND
                || ue_monotonic() - begin < apr_time_from_sec(2));
    check_seen(&fakes[0], 0, 700);
    check_account();
    assert_int_equal(lost_in_all(), 0);
    assert_int_equal(sum_now().waiting, 0);
    assert_true(fakes[0].flushes >= 1);
    assert_int_equal(lines_with("[EventProducer] Flushing pending events..."),
                     1);
    assert_int_equal(lines_with("[EventProducer] Flush complete"), 1);
    assert_int_equal(lines_with("[EventProducer] Closed"), 1);
    assert_string_equal(fix.lines[fix.line_count - 1],
                        "[EventProducer] Closed");
}

static void test_producer_close_records_what_was_never_logged(void **state)
{
    ue_producer_config_t config = patient_config(apr_time_from_sec(5));
    ue_slot_ref_t slow;

    make_producer(&config, 1);
    send_all(0, 10);
    slow = admit(10);
    admit(11);
    assert_int_equal(close_producer(), APR_SUCCESS);
    check_seen(&fakes[0], 0, 12);
    assert_int_equal(fakes[0].interrupted, 2);
    assert_int_equal(metric(UE_M_EVENTS_INTERRUPTED), 2);
    assert_int_equal(metric(UE_M_EVENTS_DELIVERED), 12);
    check_account();
    /* its thread comes at last; the event is fixed already */
    assert_int_equal(ue_producer_record(fix.producer, slow, &unit_completion,
                                        UE_OVERFLOW_DROP),
                     APR_EBUSY);
    check_account();
}

static void test_producer_close_waits_for_a_sink_to_recover(void **state)
{
    ue_producer_config_t config = patient_config(apr_time_from_sec(20));

    make_producer(&config, 2);
    fakes[0].mode = SINK_TAKES_THREE;
    fakes[1].mode = SINK_REPORTS_LATE;
    send_all(0, 20);
    assert_int_equal(close_producer(), APR_SUCCESS);
    check_seen(&fakes[0], 0, 20);
    check_seen(&fakes[1], 0, 20);
    check_account();
}

/* What a sink has taken and not reported yet is waited for. */
static void test_producer_close_waits_for_late_reports(void **state)
{
    ue_producer_config_t config = patient_config(apr_time_from_sec(20));
    apr_time_t begin = ue_monotonic();

    make_producer(&config, 1);
    fakes[0].mode = SINK_REPORTS_LATE;
    fakes[0].late_until = begin + apr_time_from_msec(300);
    send_all(0, 50);
    assert_int_equal(close_producer(), APR_SUCCESS);
    assert_true(ue_monotonic() >= fakes[0].late_until);
    assert_int_equal(metric(UE_M_EVENTS_DELIVERED), 50);
    check_account();
}

static void *close_in_thread(void *said)
{
    *(apr_status_t *)said = close_producer();
    return NULL;
}

/* While the close waits for a sink, requests end and are recorded. Nobody reads
 * the queue any more, but that it is full is no reason to drop them. */
static void test_producer_close_takes_what_is_recorded_meanwhile(void **state)
{
    ue_producer_config_t config = unit_config;
    ue_slot_ref_t open[20];
    apr_status_t said = -1;
    pthread_t thread;

    config.batch_size = 1;
    config.buffer_size = 4;
    config.slots = 64;
    config.drain_timeout = SOON;
    make_producer(&config, 1);
    fakes[0].stuck = 1;
    send_all(0, 1);
    EVENTUALLY(fakes[0].in_submit);
    for (unsigned i = 0; i < 20; i++) {
        open[i] = admit(1 + i);
    }
    assert_int_equal(pthread_create(&thread, NULL, close_in_thread, &said), 0);
    EVENTUALLY(atomic_load(&fix.producer->stage) == STAGE_CLOSING);
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(ue_producer_record(fix.producer, open[i],
                                            &unit_completion, UE_OVERFLOW_DROP),
                         APR_SUCCESS);
    }
    fakes[0].stuck = 0;
    pthread_join(thread, NULL);
    assert_int_equal(said, APR_SUCCESS);
    check_seen(&fakes[0], 0, 21);
    assert_int_equal(fakes[0].interrupted, 0);
    assert_int_equal(lost_in_all(), 0);
    check_account();
}

static void test_producer_close_counts_what_a_failing_sink_leaves(void **state)
{
    ue_producer_config_t config = patient_config(apr_time_from_msec(300));
    apr_time_t begin;
    apr_interval_time_t took;

    make_producer(&config, 1);
    fakes[0].mode = SINK_FAILS;
    send_all(0, 20);
    admit(20);
    begin = ue_monotonic();
    assert_int_equal(close_producer(), APR_TIMEUP);
    took = ue_monotonic() - begin;
    assert_true(took >= apr_time_from_msec(290));
    assert_true(RUNNING_ON_VALGRIND || took < apr_time_from_sec(2));
    assert_int_equal(metric(UE_M_EVENTS_LOST_SHUTDOWN), 21);
    assert_int_equal(fakes[0].delivered, 0);
    check_account();
    assert_int_equal(lines_with("UE0201: producer: 21 events"), 1);
    assert_int_equal(lines_with("[EventProducer] Flush complete"), 0);
    assert_int_equal(lines_with("[EventProducer] Closed"), 1);
}

/* One of two sinks has the event, the other never will: it is lost, once. */
static void test_producer_close_counts_what_one_sink_leaves(void **state)
{
    ue_producer_config_t config = patient_config(apr_time_from_msec(200));

    make_producer(&config, 2);
    fakes[1].mode = SINK_FAILS;
    send_all(0, 20);
    assert_int_equal(close_producer(), APR_TIMEUP);
    assert_int_equal(fakes[0].delivered, 20);
    assert_int_equal(metric(UE_M_EVENTS_DELIVERED), 0);
    assert_int_equal(metric(UE_M_EVENTS_LOST_SHUTDOWN), 20);
    check_account();
}

/* A sink that never returns: the end comes all the same, and what comes of it
 * afterwards is not counted a second time. */
static void test_producer_close_ends_with_a_stuck_sink(void **state)
{
    ue_producer_config_t config = patient_config(apr_time_from_msec(300));
    apr_time_t begin;

    config.batch_size = 1;
    make_producer(&config, 1);
    fakes[0].stuck = 1;
    send_all(0, 1);
    EVENTUALLY(fakes[0].in_submit);
    send_all(1, 30);
    admit(30);
    begin = ue_monotonic();
    assert_int_equal(close_producer(), APR_TIMEUP);
    assert_true(RUNNING_ON_VALGRIND
                || ue_monotonic() - begin < apr_time_from_sec(3));
    assert_int_equal(metric(UE_M_EVENTS_LOST_SHUTDOWN), 31);
    check_account();
    fakes[0].stuck = 0;
    EVENTUALLY(unit_workers() == 0);
    assert_int_equal(metric(UE_M_EVENTS_LOST_SHUTDOWN), 31);
    assert_int_equal(metric(UE_M_EVENTS_DELIVERED), 0);
    check_account();
}

static void test_producer_close_counts_what_comes_after_it(void **state)
{
    ue_slot_ref_t ref;
    ue_admission_t a = numbered(1);

    make_producer(&unit_config, 1);
    assert_int_equal(close_producer(), APR_SUCCESS);
    /* A straggler: a thread that the end didn't wait for. */
    if (ue_producer_admit(fix.producer, &a, UE_OVERFLOW_DROP, &ref)
        == APR_SUCCESS) {
        assert_int_equal(ue_producer_record(fix.producer, ref, &unit_completion,
                                            UE_OVERFLOW_DROP),
                         APR_EAGAIN);
    }
    assert_int_equal(metric(UE_M_EVENTS_ADMITTED), 1);
    assert_int_equal(metric(UE_M_EVENTS_LOST_SHUTDOWN), 1);
    check_account();
}

/* ---- stopping ---- */

static void test_producer_stopping_waits_for_no_batch(void **state)
{
    ue_producer_config_t config = patient_config(apr_time_from_sec(5));

    make_producer(&config, 1);
    send_all(0, 10);
    ue_producer_stopping(fix.producer, 0);
    EVENTUALLY(fakes[0].delivered == 10);
    /* recording goes on, and calling it again does no harm */
    ue_producer_stopping(fix.producer, 0);
    send_all(10, 20);
    EVENTUALLY(fakes[0].delivered == 20);
    assert_int_equal(close_producer(), APR_SUCCESS);
    check_seen(&fakes[0], 0, 20);
    check_account();
}

/* At a graceful end requests may go on for long: the deadline runs from the
 * close. At an urgent one, from the first word of it. */
static void test_producer_deadline_runs_from_the_urgent_stop(void **state)
{
    for (int urgent = 0; urgent < 2; urgent++) {
        ue_producer_config_t config = patient_config(apr_time_from_msec(600));
        apr_time_t begin;
        apr_interval_time_t took;

        if (urgent) {
            tear_down(state);
            assert_int_equal(set_up(state), 0);
        }
        make_producer(&config, 1);
        fakes[0].mode = SINK_FAILS;
        send_all(0, 3);
        ue_producer_stopping(fix.producer, urgent);
        apr_sleep(apr_time_from_msec(400));
        ue_producer_stopping(fix.producer, urgent);
        begin = ue_monotonic();
        assert_int_equal(close_producer(), APR_TIMEUP);
        took = ue_monotonic() - begin;
        if (urgent) {
            assert_true(RUNNING_ON_VALGRIND || took < apr_time_from_msec(500));
        }
        else {
            assert_true(took >= apr_time_from_msec(590));
        }
        assert_int_equal(metric(UE_M_EVENTS_LOST_SHUTDOWN), 3);
        check_account();
    }
}

/* Before httpd kills a child that doesn't end, what is still open is recorded
 * as interrupted, although nobody has closed the producer. */
static void test_producer_last_call_records_what_is_open(void **state)
{
    ue_slot_ref_t slow;

    make_producer(&unit_config, 1);
    slow = admit(0);
    ue_producer_stopping(fix.producer, 1);
    atomic_store(&fix.producer->last_call, ue_monotonic());
    EVENTUALLY(metric(UE_M_EVENTS_DELIVERED) == 1);
    assert_int_equal(fakes[0].interrupted, 1);
    assert_int_equal(metric(UE_M_EVENTS_INTERRUPTED), 1);
    assert_int_equal(ue_producer_record(fix.producer, slow, &unit_completion,
                                        UE_OVERFLOW_DROP),
                     APR_EBUSY);
    check_account();
}

static void test_producer_graceful_stop_interrupts_nothing(void **state)
{
    ue_slot_ref_t slow;

    make_producer(&unit_config, 1);
    slow = admit(0);
    ue_producer_stopping(fix.producer, 0);
    assert_int_equal(atomic_load(&fix.producer->last_call), 0);
    send_all(1, 10);
    EVENTUALLY(fakes[0].delivered == 9);
    assert_int_equal(ue_producer_record(fix.producer, slow, &unit_completion,
                                        UE_OVERFLOW_DROP),
                     APR_SUCCESS);
    EVENTUALLY(fakes[0].delivered == 10);
    assert_int_equal(fakes[0].interrupted, 0);
}

/* ---- stragglers ---- */

#define THREADS 4

typedef struct {
    pthread_t thread;
    unsigned first;
    _Atomic int *stop;
    _Atomic unsigned sent;
} job_t;

static void *straggle(void *arg)
{
    job_t *job = arg;

    while (!*job->stop && job->sent < EVENTS_MAX / THREADS) {
        ue_admission_t a = numbered(job->first + job->sent);
        ue_overflow_t overflow =
            job->sent % 2 ? UE_OVERFLOW_DROP : UE_OVERFLOW_REFUSE;
        ue_slot_ref_t ref;

        if (ue_producer_admit(fix.producer, &a, overflow, &ref)
            == APR_SUCCESS) {
            ue_producer_record(fix.producer, ref, &unit_completion, overflow);
        }
        job->sent++;
    }
    return NULL;
}

/* Threads that go on as if nothing were: whatever they admit, before, during
 * and after the end, is delivered or lost, and counted once. */
static void test_producer_close_accounts_for_stragglers(void **state)
{
    unsigned rounds = RUNNING_ON_VALGRIND ? 2 : 10;

    for (unsigned round = 0; round < rounds; round++) {
        ue_producer_config_t config = unit_config;
        _Atomic int stop = 0;
        job_t jobs[THREADS];

        if (round > 0) {
            tear_down(state);
            assert_int_equal(set_up(state), 0);
        }
        /* sometimes too small, sometimes with a sink in trouble */
        config.buffer_size = round % 2 ? 16 : 1000;
        config.drain_timeout = apr_time_from_msec(20 * round);
        make_producer(&config, 1 + (int)round % 2);
        fakes[1].mode = round % 4 == 3 ? SINK_FAILS : SINK_REPORTS_LATE;
        fakes[0].refuse_every = 100;
        for (unsigned i = 0; i < THREADS; i++) {
            jobs[i].first = i * (EVENTS_MAX / THREADS);
            jobs[i].stop = &stop;
            jobs[i].sent = 0;
            assert_int_equal(
                pthread_create(&jobs[i].thread, NULL, straggle, &jobs[i]), 0);
        }
        EVENTUALLY(jobs[0].sent > 100);
        close_producer();
        EVENTUALLY(jobs[THREADS - 1].sent > 200);
        stop = 1;
        for (int i = 0; i < THREADS; i++) {
            pthread_join(jobs[i].thread, NULL);
        }
        check_account();
    }
}

static const struct CMUnitTest tests[] = {
    TEST(test_producer_close_delivers_what_waits),
    TEST(test_producer_close_records_what_was_never_logged),
    TEST(test_producer_close_waits_for_a_sink_to_recover),
    TEST(test_producer_close_waits_for_late_reports),
    TEST(test_producer_close_takes_what_is_recorded_meanwhile),
    TEST(test_producer_close_counts_what_a_failing_sink_leaves),
    TEST(test_producer_close_counts_what_one_sink_leaves),
    TEST(test_producer_close_ends_with_a_stuck_sink),
    TEST(test_producer_close_counts_what_comes_after_it),
    TEST(test_producer_stopping_waits_for_no_batch),
    TEST(test_producer_deadline_runs_from_the_urgent_stop),
    TEST(test_producer_last_call_records_what_is_open),
    TEST(test_producer_graceful_stop_interrupts_nothing),
    TEST(test_producer_close_accounts_for_stragglers),
};

UNIT_MAIN(tests)
