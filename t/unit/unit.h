/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_UNIT_H
#define UE_UNIT_H

/**
 * What all unit tests share: cmocka's headers in the order it wants, random
 * numbers that are the same in each run, and loops that are shorter where each
 * instruction is slow (valgrind, ThreadSanitizer).
 *
 * cmocka's assertions leave the test by longjmp(), so they belong to the main
 * thread: other threads count what they saw, and the main thread asserts.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <apr_general.h>
#include <apr_pools.h>

#if defined(__has_include)
#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#endif
#endif
#ifndef RUNNING_ON_VALGRIND
#define RUNNING_ON_VALGRIND 0
#endif

/** How often to do something that is cheap, but not under a tool. */
static inline unsigned unit_loops(unsigned n)
{
    if (RUNNING_ON_VALGRIND) {
        return n / 50 + 1;
    }
#ifdef __SANITIZE_THREAD__
    return n / 10 + 1;
#else
    return n;
#endif
}

/** splitmix64 (Steele, Lea, Flood 2014): the same numbers in each run. */
static inline uint64_t unit_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

#define UNIT_COUNT(a) (sizeof(a) / sizeof((a)[0]))

/**
 * End a child. Its parent's threads are not in it, and what they held would be
 * leaks to valgrind, which follows children but not what they execute.
 */
static inline void unit_exit(int status)
{
    if (RUNNING_ON_VALGRIND) {
        char command[] = "exit 0";

        command[5] = (char)('0' + (status & 7));
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    }
    _exit(status & 7);
}

/** Run a group of tests with APR around it. */
#define UNIT_MAIN(tests)                                    \
    int main(void)                                          \
    {                                                       \
        int failed;                                         \
                                                            \
        if (apr_initialize() != APR_SUCCESS) {              \
            return 1;                                       \
        }                                                   \
        failed = cmocka_run_group_tests(tests, NULL, NULL); \
        apr_terminate();                                    \
        return failed;                                      \
    }

#endif /* UE_UNIT_H */
