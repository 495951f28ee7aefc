/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "thread.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

apr_status_t ue_thread_start(const char *name, void *(*run)(void *), void *data)
{
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t all, before;
    int rv = pthread_attr_init(&attr);

    if (rv != 0) {
        return rv;
    }
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rv = pthread_create(&thread, &attr, run, data);
    if (rv == 0) {
        pthread_setname_np(thread, name);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return rv;
}

int ue_sem_wait(sem_t *sem, apr_interval_time_t how_long)
{
    apr_time_t until = ue_monotonic() + how_long;
    struct timespec at = {apr_time_sec(until), apr_time_usec(until) * 1000};

    return sem_clockwait(sem, CLOCK_MONOTONIC, &at) == 0;
}

int ue_is_dead(pid_t pid)
{
    return pid != getpid() && kill(pid, 0) != 0 && errno == ESRCH;
}

apr_time_t ue_monotonic(void)
{
    return (apr_time_t)(ue_monotonic_ns() / 1000);
}

uint64_t ue_monotonic_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}
