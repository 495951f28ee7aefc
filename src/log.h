/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_LOG_H
#define UE_LOG_H

/**
 * Logging for everything that is not httpd.
 *
 * The library knows no server_rec and no file: it hands finished lines to one
 * callback, which the module points at httpd's error log, usagectl at standard
 * error, and a test at a buffer. The callback is set before any thread starts
 * and never changed afterwards, so reading it needs no lock.
 *
 * Our lines carry numbers of their own ("UE0001: key file: …"), never reused.
 * No key, password or connection string may reach these functions.
 */
#include <stdatomic.h>
#include <stdint.h>

#include <apr_errno.h>
#include <apr_time.h>

/** Severities, numbered as syslog and httpd number theirs. */
typedef enum {
    UE_LOG_CRIT = 2,    /**< refuses to start */
    UE_LOG_ERR = 3,     /**< data were lost */
    UE_LOG_WARNING = 4, /**< degraded */
    UE_LOG_NOTICE = 5,  /**< a change of state */
    UE_LOG_INFO = 6,    /**< facts at the start */
    UE_LOG_DEBUG = 7    /**< each batch */
} ue_log_level_t;

/**
 * Takes one finished line, without a line feed.
 * @param baton what ue_log_set() was given
 * @param level severity
 * @param rv    the status behind the line, APR_SUCCESS for none
 * @locality    any thread
 */
typedef void ue_log_fn(void *baton, ue_log_level_t level, apr_status_t rv,
                       const char *line);

/**
 * Name who takes the lines, and down to which level.
 * @param fn    NULL throws lines away, which is also the default
 * @locality    before threads start
 */
void ue_log_set(ue_log_fn *fn, void *baton, ue_log_level_t least);

/**
 * Write a line, cut at 1,023 bytes. A caller with work to do for a line asks
 * ue_log_wanted() first.
 * @locality    any thread
 */
void ue_log(ue_log_level_t level, apr_status_t rv, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/** Would a line of this level be written? */
int ue_log_wanted(ue_log_level_t level);

/**
 * A limiter for one kind of line: one passes in each interval, and it is told
 * how many were held back since the last (the idea is varnishkafka's). Zeroed
 * memory is a limiter that has let nothing through yet.
 */
typedef struct {
    _Atomic apr_time_t next;
    _Atomic uint32_t held;
} ue_log_limit_t;

/**
 * @param now   the time, in microseconds
 * @param every length of an interval, in microseconds
 * @param held  receives the number held back since a line last passed
 * @return      whether the line may be written now
 * @locality    any thread, no lock
 */
int ue_log_limit_pass(ue_log_limit_t *limit, apr_time_t now,
                      apr_interval_time_t every, uint32_t *held);

#endif /* UE_LOG_H */
