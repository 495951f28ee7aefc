/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "rate.h"

#include <string.h>

#include <apr_lib.h>

/* From 1 to UE_RATE_MAX. @return behind it, or NULL */
static const char *read_count(const char *s, uint32_t *count)
{
    uint32_t n = 0;

    if (*s == '0') {
        return NULL;
    }
    for (; apr_isdigit(*s); s++) {
        /* n is at most UE_RATE_MAX here, and ten times that has no room */
        if (n > UE_RATE_MAX / 10) {
            return NULL;
        }
        n = n * 10 + (uint32_t)(*s - '0');
    }
    *count = n;
    return n && n <= UE_RATE_MAX ? s : NULL;
}

apr_status_t ue_rate_parse(ue_rate_t *rate, const char *s)
{
    static const char burst[] = " burst=";
    ue_rate_t r;

    s = read_count(s, &r.count);
    if (!s || *s++ != '/') {
        return APR_EINVAL;
    }
    switch (*s++) {
    case 's':
        r.period = APR_USEC_PER_SEC;
        break;
    case 'm':
        r.period = APR_USEC_PER_SEC * 60;
        break;
    case 'h':
        r.period = APR_USEC_PER_SEC * 3600;
        break;
    default:
        return APR_EINVAL;
    }
    r.burst = (uint32_t)(r.count / apr_time_sec(r.period));
    if (!r.burst) {
        r.burst = 1;
    }
    if (!strncmp(s, burst, sizeof burst - 1)) {
        s = read_count(s + sizeof burst - 1, &r.burst);
    }
    if (!s || *s) {
        return APR_EINVAL;
    }
    *rate = r;
    return APR_SUCCESS;
}

apr_status_t ue_quota_parse(ue_quota_t *quota, const char *s)
{
    static const char *const periods[] = {[UE_QUOTA_HOUR] = "/hour",
                                          [UE_QUOTA_DAY] = "/day",
                                          [UE_QUOTA_MONTH] = "/month"};
    uint32_t count;
    size_t i;

    s = read_count(s, &count);
    for (i = 0; s && i < sizeof periods / sizeof *periods; i++) {
        if (!strcmp(s, periods[i])) {
            quota->count = count;
            quota->period = (ue_quotaperiod_t)i;
            return APR_SUCCESS;
        }
    }
    return APR_EINVAL;
}
