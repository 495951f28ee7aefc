/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "log.h"

#include <stdarg.h>
#include <stdio.h>

#define LINE_MAX_BYTES 1024

static struct {
    ue_log_fn *fn;
    void *baton;
    ue_log_level_t least;
} out;

void ue_log_set(ue_log_fn *fn, void *baton, ue_log_level_t least)
{
    out.fn = fn;
    out.baton = baton;
    out.least = least;
}

int ue_log_wanted(ue_log_level_t level)
{
    return out.fn && level <= out.least;
}

void ue_log(ue_log_level_t level, apr_status_t rv, const char *fmt, ...)
{
    char line[LINE_MAX_BYTES];
    va_list args;

    if (!ue_log_wanted(level)) {
        return;
    }
    va_start(args, fmt);
    vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    out.fn(out.baton, level, rv, line);
}

int ue_log_limit_pass(ue_log_limit_t *limit, apr_time_t now,
                      apr_interval_time_t every, uint32_t *held)
{
    apr_time_t next = atomic_load_explicit(&limit->next, memory_order_relaxed);

    /* A clock set back must not silence a line for as long as it was set. */
    if ((now < next && next - now <= every)
        || !atomic_compare_exchange_strong(&limit->next, &next, now + every)) {
        atomic_fetch_add_explicit(&limit->held, 1, memory_order_relaxed);
        return 0;
    }
    *held = atomic_exchange_explicit(&limit->held, 0, memory_order_relaxed);
    return 1;
}
