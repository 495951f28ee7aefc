/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_RATE_H
#define UE_RATE_H

/**
 * How much a key may do: rates and quotas, as plans, organizations and keys
 * have them.
 *
 *   rate   "100/s burst=200": COUNT/s, /m or /h, and the bucket's size. It says
 *          how fast, in the long run, and how much at once: of a bucket of 200
 *          that 100 a second refill, 200 may be taken in one instant, and 100
 *          more in the second after. Without a burst it is one second's share
 *          of the count, at least 1: 100 of "100/s", 1 of "100/h".
 *   quota  "10000/month": COUNT/hour, /day or /month. It says how much in a
 *          period of the calendar, however fast. A month has no length in
 *          seconds, so that the period is a name here and no time.
 *
 * Counts are from 1 to 1,000,000,000. There is one way to write each: lower
 * case, no leading zeros, one space before the burst. So what is stored needs
 * no second form.
 *
 * GCRA (ATM Forum TM 4.0, as nginx and others have it) needs of a rate the time
 * that one request takes, period / count, and how far ahead of it a request may
 * come, burst times that. For 1,000,000,000/s that time is a thousandth of a
 * microsecond, so the two are given apart, and who divides chooses the unit.
 *
 * All functions are pure; any thread may call them.
 */
#include <stdint.h>

#include <apr_errno.h>
#include <apr_time.h>

/** The largest count, and the largest burst. */
#define UE_RATE_MAX 1000000000

typedef struct {
    uint32_t count;             /**< so many … */
    apr_interval_time_t period; /**< … in so many microseconds */
    uint32_t burst;             /**< the bucket's size */
} ue_rate_t;

typedef enum { UE_QUOTA_HOUR, UE_QUOTA_DAY, UE_QUOTA_MONTH } ue_quotaperiod_t;

typedef struct {
    uint32_t count;
    ue_quotaperiod_t period;
} ue_quota_t;

/** What a key or an organization has of its own; count 0 is none. */
typedef struct {
    ue_rate_t rate;
    ue_quota_t quota;
} ue_allowance_t;

/** What is right, for the messages of those who ask for it. */
#define UE_RATE_SYNTAX "like 100/s, 100/m or 100/h, or 100/s burst=200"
#define UE_QUOTA_SYNTAX "like 1000/hour, 10000/day or 1000000/month"

/** Read a rate. @return APR_EINVAL for anything else */
apr_status_t ue_rate_parse(ue_rate_t *rate, const char *s);

/** Read a quota. @return APR_EINVAL for anything else */
apr_status_t ue_quota_parse(ue_quota_t *quota, const char *s);

#endif /* UE_RATE_H */
