/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * Threads of our own: they bear their name, take no signals, need not be
 * joined, and wait no longer than they are told.
 */
#include "unit.h"

#include <pthread.h>
#include <signal.h>

#include "thread.h"

typedef struct {
    sem_t go;
    char name[16];
    int blocked; /* of the signals that a process is ended by */
    _Atomic int done;
} seen_t;

static const int signals[] = {SIGTERM, SIGHUP,  SIGINT,   SIGUSR1, SIGUSR2,
                              SIGALRM, SIGPIPE, SIGWINCH, SIGCHLD};

static void *look(void *arg)
{
    seen_t *seen = arg;
    sigset_t mask;

    /* The name is given by who starts the thread, once it runs. */
    while (sem_wait(&seen->go) != 0) {
    }
    pthread_getname_np(pthread_self(), seen->name, sizeof(seen->name));
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    for (size_t i = 0; i < UNIT_COUNT(signals); i++) {
        seen->blocked += sigismember(&mask, signals[i]) == 1;
    }
    seen->done = 1;
    return NULL;
}

static void test_thread_bears_its_name_and_takes_no_signals(void **state)
{
    static seen_t seen; /* the thread is not joined */
    apr_time_t until = ue_monotonic() + apr_time_from_sec(20);
    sigset_t before;
    sigset_t after;

    assert_int_equal(sem_init(&seen.go, 0, 0), 0);
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    assert_int_equal(ue_thread_start("usage-test", look, &seen), APR_SUCCESS);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    sem_post(&seen.go);
    while (!seen.done && ue_monotonic() < until) {
        apr_sleep(1000);
    }
    assert_true(seen.done);
    assert_string_equal(seen.name, "usage-test");
    assert_int_equal(seen.blocked, UNIT_COUNT(signals));
    /* who started it takes the signals that it took before */
    for (int i = 1; i < NSIG; i++) {
        assert_int_equal(sigismember(&before, i), sigismember(&after, i));
    }
}

static void test_thread_clock_never_goes_back(void **state)
{
    apr_time_t last = ue_monotonic();
    apr_time_t begin = last;

    for (unsigned n = unit_loops(100000); n > 0; n--) {
        apr_time_t now = ue_monotonic();

        assert_true(now >= last);
        last = now;
    }
    apr_sleep(apr_time_from_msec(20));
    assert_true(ue_monotonic() - begin >= apr_time_from_msec(20));
}

static void test_thread_waits_no_longer_than_it_is_told(void **state)
{
    static const apr_interval_time_t times[] = {0, 1, 999, 20000, 1100000};
    sem_t sem;

    assert_int_equal(sem_init(&sem, 0, 0), 0);
    for (size_t i = 0; i < UNIT_COUNT(times); i++) {
        apr_time_t begin = ue_monotonic();

        assert_false(ue_sem_wait(&sem, times[i]));
        assert_true(ue_monotonic() - begin >= times[i]);
        assert_true(RUNNING_ON_VALGRIND
                    || ue_monotonic() - begin
                           < times[i] + apr_time_from_msec(500));
    }
    sem_destroy(&sem);
}

static void test_thread_waiting_ends_when_it_is_woken(void **state)
{
    apr_time_t begin = ue_monotonic();
    sem_t sem;

    assert_int_equal(sem_init(&sem, 0, 2), 0);
    assert_true(ue_sem_wait(&sem, apr_time_from_sec(30)));
    assert_true(ue_sem_wait(&sem, apr_time_from_sec(30)));
    assert_true(ue_monotonic() - begin < apr_time_from_sec(10));
    assert_false(ue_sem_wait(&sem, 1000));
    sem_destroy(&sem);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_thread_bears_its_name_and_takes_no_signals),
    cmocka_unit_test(test_thread_clock_never_goes_back),
    cmocka_unit_test(test_thread_waits_no_longer_than_it_is_told),
    cmocka_unit_test(test_thread_waiting_ends_when_it_is_woken),
};

UNIT_MAIN(tests)
