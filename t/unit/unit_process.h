/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_UNIT_PROCESS_H
#define UE_UNIT_PROCESS_H

/**
 * Processes in tests: memory that they share, and how they end.
 */
#include "unit.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

/** Memory that children share, all 0. */
static inline void *unit_map(size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_ptr_not_equal(at, MAP_FAILED);
    return at;
}

/** Fork a child that ends when the test does, however that ends. */
static inline pid_t unit_fork(void)
{
    pid_t pid = fork();

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    }
    assert_true(pid >= 0);
    return pid;
}

/** End a child by a signal, or see that it ended well. */
static inline void unit_reap(pid_t pid, int signal_or_0)
{
    int status;

    assert_true(pid > 0);
    if (signal_or_0) {
        kill(pid, signal_or_0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!signal_or_0) {
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
}

#endif /* UE_UNIT_PROCESS_H */
