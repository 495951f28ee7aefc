/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_THREAD_H
#define UE_THREAD_H

/**
 * Threads of our own, and how they wait.
 *
 * They take no signals: those are for httpd's threads, and prefork's handler,
 * run in one of ours, would end the child from inside and wait for that very
 * thread. Nobody joins them, since no end of a child may wait without a bound:
 * they are detached, and say by a flag that they are done.
 */
#include <semaphore.h>
#include <stdint.h>
#include <sys/types.h>

#include <apr_errno.h>
#include <apr_time.h>

/**
 * Start a thread.
 * @param name at most 15 characters, as ps and gdb show it
 * @return     the system's error
 */
apr_status_t ue_thread_start(const char *name, void *(*run)(void *),
                             void *data);

/**
 * Wait for a semaphore, on a clock that never steps.
 * @param how_long microseconds
 * @return         whether it was posted
 */
int ue_sem_wait(sem_t *sem, apr_interval_time_t how_long);

/** Is there no process of this id any more? Not our own. */
int ue_is_dead(pid_t pid);

/** Microseconds of a clock that never steps. */
apr_time_t ue_monotonic(void);

/** Nanoseconds of the same clock. */
uint64_t ue_monotonic_ns(void);

#endif /* UE_THREAD_H */
