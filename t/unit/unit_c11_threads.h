/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_UNIT_C11_THREADS_H
#define UE_UNIT_C11_THREADS_H

/**
 * For ThreadSanitizer: librdkafka uses the threads of C11, which gcc 12's
 * doesn't know, and it crashes in a thread whose making it hasn't seen. These
 * take their place in the whole program, and are POSIX's, which it knows.
 * glibc's own are no more than that: mtx_t holds a pthread_mutex_t, and cnd_t a
 * pthread_cond_t. To be included by the one source file of a test.
 */
#ifdef __SANITIZE_THREAD__
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <threads.h>

typedef struct {
    thrd_start_t run;
    void *data;
} unit_thrd_t;

_Static_assert(sizeof(mtx_t) == sizeof(pthread_mutex_t), "glibc's mtx_t");
_Static_assert(sizeof(cnd_t) == sizeof(pthread_cond_t), "glibc's cnd_t");

static int unit_thrd_result(int rv)
{
    return rv == 0           ? thrd_success
           : rv == ETIMEDOUT ? thrd_timedout
           : rv == EBUSY     ? thrd_busy
                             : thrd_error;
}

static void *unit_thrd_run(void *data)
{
    unit_thrd_t what = *(unit_thrd_t *)data;

    free(data);
    return (void *)(intptr_t)what.run(what.data);
}

int thrd_create(thrd_t *thread, thrd_start_t run, void *data)
{
    unit_thrd_t *what = malloc(sizeof(*what));

    what->run = run;
    what->data = data;
    return unit_thrd_result(pthread_create(thread, NULL, unit_thrd_run, what));
}

int thrd_join(thrd_t thread, int *result)
{
    void *value = NULL;
    int rv = pthread_join(thread, &value);

    if (result) {
        *result = (int)(intptr_t)value;
    }
    return unit_thrd_result(rv);
}

int thrd_detach(thrd_t thread)
{
    return unit_thrd_result(pthread_detach(thread));
}

int mtx_init(mtx_t *mutex, int type)
{
    pthread_mutexattr_t attr;
    int rv;

    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, type & mtx_recursive
                                         ? PTHREAD_MUTEX_RECURSIVE
                                         : PTHREAD_MUTEX_NORMAL);
    rv = pthread_mutex_init((pthread_mutex_t *)mutex, &attr);
    pthread_mutexattr_destroy(&attr);
    return unit_thrd_result(rv);
}

int mtx_lock(mtx_t *mutex)
{
    return unit_thrd_result(pthread_mutex_lock((pthread_mutex_t *)mutex));
}

int mtx_trylock(mtx_t *mutex)
{
    return unit_thrd_result(pthread_mutex_trylock((pthread_mutex_t *)mutex));
}

int mtx_unlock(mtx_t *mutex)
{
    return unit_thrd_result(pthread_mutex_unlock((pthread_mutex_t *)mutex));
}

void mtx_destroy(mtx_t *mutex)
{
    pthread_mutex_destroy((pthread_mutex_t *)mutex);
}

int cnd_init(cnd_t *cond)
{
    return unit_thrd_result(pthread_cond_init((pthread_cond_t *)cond, NULL));
}

int cnd_signal(cnd_t *cond)
{
    return unit_thrd_result(pthread_cond_signal((pthread_cond_t *)cond));
}

int cnd_broadcast(cnd_t *cond)
{
    return unit_thrd_result(pthread_cond_broadcast((pthread_cond_t *)cond));
}

int cnd_wait(cnd_t *cond, mtx_t *mutex)
{
    return unit_thrd_result(
        pthread_cond_wait((pthread_cond_t *)cond, (pthread_mutex_t *)mutex));
}

int cnd_timedwait(cnd_t *restrict cond, mtx_t *restrict mutex,
                  const struct timespec *restrict until)
{
    return unit_thrd_result(pthread_cond_timedwait(
        (pthread_cond_t *)cond, (pthread_mutex_t *)mutex, until));
}

void cnd_destroy(cnd_t *cond)
{
    pthread_cond_destroy((pthread_cond_t *)cond);
}
#endif /* __SANITIZE_THREAD__ */

#endif /* UE_UNIT_C11_THREADS_H */
