/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "shared.h"

#include <errno.h>
#include <sys/mman.h>
#include <time.h>

apr_status_t ue_shared_map(void **memory, size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (at == MAP_FAILED) {
        return APR_FROM_OS_ERROR(apr_get_os_error());
    }
    *memory = at;
    return APR_SUCCESS;
}

apr_status_t ue_shared_mutex(pthread_mutex_t *mutex)
{
    pthread_mutexattr_t attr;
    int rv = pthread_mutexattr_init(&attr);

    if (rv) {
        return rv;
    }
    rv = pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    rv = rv ? rv : pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    rv = rv ? rv : pthread_mutex_init(mutex, &attr);
    pthread_mutexattr_destroy(&attr);
    return rv;
}

int ue_shared_lock(pthread_mutex_t *mutex, unsigned most, unsigned step)
{
    int rv = EBUSY;
    struct timespec until;

    for (; most >= step; most -= step) {
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += step * 1000000L;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        rv = pthread_mutex_timedlock(mutex, &until);
        if (rv != ETIMEDOUT) {
            break;
        }
    }
    return rv;
}
