/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_SHARED_H
#define UE_SHARED_H

/**
 * What all tables have in common that the children share: memory that the
 * parent maps before the fork, words that are read without a lock, and a lock
 * for those who write.
 *
 * The memory is anonymous, so nothing of it is left when the last process has
 * gone, and it is never unmapped: it outlives the module that mapped it, which
 * a graceful restart may replace.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <apr_errno.h>

/** Words of shared memory. What was stored before a word is seen by whoever has
 * loaded that word. */
#define UE_LOAD(from) atomic_load_explicit(&(from), memory_order_acquire)
#define UE_STORE(to, x) atomic_store_explicit(&(to), x, memory_order_release)

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2,
               "a lock of the atomics would belong to one process");

/** Map memory that children share. A page of it is there once it is used. */
apr_status_t ue_shared_map(void **memory, size_t size);

/** Make a mutex in it that a killed owner doesn't keep: the next one who asks
 * for it gets EOWNERDEAD. */
apr_status_t ue_shared_mutex(pthread_mutex_t *mutex);

/**
 * Wait for such a mutex, for a bounded time: its owner may be stopped. In
 * steps, since a waiter that is killed when it was just woken takes the wake-up
 * with it, and the next one would sleep on beside a free lock.
 * @param most milliseconds, a multiple of step
 * @return     as pthread_mutex_timedlock()
 */
int ue_shared_lock(pthread_mutex_t *mutex, unsigned most, unsigned step);

/** A bucket of n for 32 bits of a hash (Lemire, "A fast alternative to the
 * modulo reduction", 2016). */
static inline uint32_t ue_shared_scale(uint32_t x, uint32_t n)
{
    return (uint32_t)((uint64_t)x * n >> 32);
}

#endif /* UE_SHARED_H */
