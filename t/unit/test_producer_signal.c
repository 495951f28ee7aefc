/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * The producer's end inside a signal handler, as prefork makes it: wherever the
 * signal came, at any instruction of the request thread, and also where that
 * thread holds the queue's mutex. That last case is made by an
 * apr_thread_mutex_unlock() of the test's own, which raises the signal just
 * before the mutex is released.
 *
 * The test that forks comes first, while there is no other thread.
 */
#include "unit_producer.h"

#include <dlfcn.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <apr_thread_mutex.h>

/* In a child: a single thread that serves requests, until a signal comes, at
 * any instruction, and the end is made in its handler. */
static _Atomic unsigned served;
static _Atomic uint8_t was_dropped[EVENTS_MAX];

static void end_child(int signal)
{
    unsigned last = served;
    apr_status_t rv = ue_producer_close(fix.producer);
    ue_metrics_sum_t sum = sum_now();
    int64_t left = (int64_t)sum.value[UE_M_EVENTS_ADMITTED]
                   - (int64_t)sum.value[UE_M_EVENTS_DELIVERED]
                   - (int64_t)sum.lost;

    /* All that was served and not dropped was delivered, once. */
    for (unsigned i = 0; i < last; i++) {
        if (fakes[0].seen[i] + was_dropped[i] != 1) {
            unit_exit(2);
        }
    }
    /* The account may miss the event whose counting was interrupted between
     * two instructions, and no other. */
    if (left < -1 || left > 1) {
        unit_exit(3);
    }
    if (rv != APR_SUCCESS
        && sum.value[UE_M_EVENTS_LOST_TORN]
                   + sum.value[UE_M_EVENTS_LOST_SHUTDOWN]
               != 1) {
        unit_exit(4);
    }
    unit_exit(0);
}

static void serve_until_signal(unsigned usec)
{
    ue_producer_config_t config = unit_config;
    struct itimerval timer = {.it_value = {.tv_usec = usec}};

    config.buffer_size = usec % 3 ? 1000 : 4;
    config.slots = usec % 3 ? 1024 : 64;
    make_producer(&config, 1);
    signal(SIGALRM, end_child);
    setitimer(ITIMER_REAL, &timer, NULL);
    while (served < EVENTS_MAX) {
        ue_admission_t a = numbered(served);
        ue_slot_ref_t ref;
        apr_status_t rv =
            ue_producer_admit(fix.producer, &a, UE_OVERFLOW_DROP, &ref);

        if (rv == APR_SUCCESS) {
            rv = ue_producer_record(fix.producer, ref, &unit_completion,
                                    UE_OVERFLOW_DROP);
        }
        was_dropped[served] = rv != APR_SUCCESS;
        served++;
    }
    pause();
    unit_exit(6);
}

static void test_producer_close_may_interrupt_anything(void **state)
{
    unsigned children = unit_loops(300);
    unsigned bad = 0;
    uint64_t seed = 11;

    for (unsigned i = 0; i < children; i++) {
        unsigned usec = 1000 + (unsigned)(unit_random(&seed) % 4000);
        int status = -1;
        pid_t pid;

        ue_metrics_create(&fix.metrics, 2, fix.pool);
        fix.seat = ue_metrics_sit(fix.metrics);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            serve_until_signal(usec);
        }
        waitpid(pid, &status, 0);
        if (status != 0) {
            print_message("child %u after %u us: status %#x\n", i, usec,
                          status);
            bad++;
        }
    }
    assert_int_equal(bad, 0);
}

/* ---- with the queue's mutex held ---- */

static pthread_t interrupted_thread;
static _Atomic int armed;
static apr_status_t handler_said;
static apr_interval_time_t handler_took;

/* The queue is the only one who takes APR's mutexes here. */
apr_status_t apr_thread_mutex_unlock(apr_thread_mutex_t *mutex)
{
    static apr_status_t (*real)(apr_thread_mutex_t *);

    if (!real) {
        *(void **)&real = dlsym(RTLD_NEXT, "apr_thread_mutex_unlock");
    }
    if (armed && pthread_equal(pthread_self(), interrupted_thread)) {
        armed = 0;
        raise(SIGUSR1);
    }
    return real(mutex);
}

static void close_in_handler(int signal)
{
    apr_time_t begin = ue_monotonic();

    handler_said = close_producer();
    handler_took = ue_monotonic() - begin;
}

static void test_producer_close_needs_no_mutex_of_the_queue(void **state)
{
    ue_producer_config_t config = unit_config;

    make_producer(&config, 1);
    send_all(0, 100);
    admit(101);
    interrupted_thread = pthread_self();
    handler_said = -1;
    assert_true(signal(SIGUSR1, close_in_handler) != SIG_ERR);
    armed = 1;
    send_one(100, UE_OVERFLOW_DROP); /* the close happens in here */
    assert_int_equal(armed, 0);
    signal(SIGUSR1, SIG_DFL);
    assert_int_equal(handler_said, APR_SUCCESS);
    assert_true(RUNNING_ON_VALGRIND || handler_took < apr_time_from_sec(2));
    /* the event that was just being queued, too */
    check_seen(&fakes[0], 0, 102);
    assert_int_equal(fakes[0].interrupted, 1);
    assert_int_equal(metric(UE_M_EVENTS_DELIVERED), 102);
    check_account();
    /* the worker, if it hung, comes free and touches nothing more */
    EVENTUALLY(unit_workers() == 0);
    check_account();
}

/* The same, and the worker hangs for certain: it goes for the queue while the
 * handler runs. */
static void close_while_worker_hangs(int signal)
{
    apr_time_t until = ue_monotonic() + SOON;

    while (atomic_load(&fix.producer->worker_at) != WORKER_POPPING
           && ue_monotonic() < until) {
        apr_sleep(500);
    }
    close_in_handler(signal);
}

static void test_producer_close_takes_the_place_of_a_hung_worker(void **state)
{
    make_producer(&unit_config, 1);
    send_all(0, 20);
    interrupted_thread = pthread_self();
    handler_said = -1;
    assert_true(signal(SIGUSR1, close_while_worker_hangs) != SIG_ERR);
    armed = 1;
    send_one(20, UE_OVERFLOW_DROP);
    signal(SIGUSR1, SIG_DFL);
    assert_int_equal(handler_said, APR_SUCCESS);
    assert_int_equal(atomic_load(&fix.producer->worker_at), WORKER_REPLACED);
    assert_int_equal(atomic_load(&fix.producer->worker_done), 0);
    check_seen(&fakes[0], 0, 21);
    check_account();
    EVENTUALLY(unit_workers() == 0);
    check_seen(&fakes[0], 0, 21);
    check_account();
}

static const struct CMUnitTest tests[] = {
    TEST(test_producer_close_may_interrupt_anything),
    TEST(test_producer_close_needs_no_mutex_of_the_queue),
    TEST(test_producer_close_takes_the_place_of_a_hung_worker),
};

UNIT_MAIN(tests)
