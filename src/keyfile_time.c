/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "keyfile.h"

#include <apr_lib.h>

/* Exactly n digits. @return behind them, or NULL */
static const char *digits(const char *s, int n, int *value)
{
    *value = 0;
    for (; n; n--, s++) {
        if (!apr_isdigit(*s)) {
            return NULL;
        }
        *value = *value * 10 + (*s - '0');
    }
    return s;
}

static const char *number(const char *s, char before, int n, int min, int max,
                          int *value)
{
    if (before && *s++ != before) {
        return NULL;
    }
    s = digits(s, n, value);
    return s && *value >= min && *value <= max ? s : NULL;
}

/* Days since 1970-01-01 in the proleptic Gregorian calendar; the year begins in
 * March here, so that the leap day comes last. */
static apr_int64_t days(int year, int month, int day)
{
    apr_int64_t y = month <= 2 ? year - 1 : year;
    int from_march = (month + 9) % 12;

    /* floor, for the year -1 that January of year 0 belongs to */
    return 365 * y + (y + 400) / 4 - 100 - ((y + 400) / 100 - 4)
           + ((y + 400) / 400 - 1) + (153 * from_march + 2) / 5 + day - 1
           - 719468;
}

static int month_days(int year, int month)
{
    static const int of[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);

    return of[month - 1] + (month == 2 && leap);
}

/* ".25" as microseconds; more digits than six are cut. */
static const char *fraction(const char *s, int *micros)
{
    int unit = 100000;

    *micros = 0;
    if (*s != '.') {
        return s;
    }
    if (!apr_isdigit(*++s)) {
        return NULL;
    }
    for (; apr_isdigit(*s); s++, unit /= 10) {
        *micros += (*s - '0') * unit;
    }
    return s;
}

static const char *zone(const char *s, int *minutes)
{
    int sign, h, m;

    *minutes = 0;
    if (*s == 'Z' || *s == 'z') {
        return s + 1;
    }
    if (*s != '+' && *s != '-') {
        return NULL;
    }
    sign = *s == '-' ? -1 : 1;
    if ((s = number(s + 1, 0, 2, 0, 23, &h))
        && (s = number(s, ':', 2, 0, 59, &m))) {
        *minutes = sign * (h * 60 + m);
    }
    return s;
}

apr_status_t ue_time_parse(apr_time_t *when, const char *s)
{
    int year, month, day, hour, minute, second, micros, east;
    apr_int64_t seconds;

    if (!(s = number(s, 0, 4, 0, 9999, &year))
        || !(s = number(s, '-', 2, 1, 12, &month))
        || !(s = number(s, '-', 2, 1, month_days(year, month), &day))
        || (*s != 'T' && *s != 't') || !(s = number(s + 1, 0, 2, 0, 23, &hour))
        || !(s = number(s, ':', 2, 0, 59, &minute))
        /* a leap second is the first of the next minute */
        || !(s = number(s, ':', 2, 0, 60, &second))
        || !(s = fraction(s, &micros)) || !(s = zone(s, &east)) || *s) {
        return APR_EINVAL;
    }
    seconds = days(year, month, day) * 86400 + hour * 3600
              + (minute - east) * 60 + second;
    /* what can't be written with four digits of year can't be kept */
    if (seconds < days(0, 1, 1) * 86400
        || seconds >= days(9999, 12, 31) * 86400 + 86400) {
        return APR_EINVAL;
    }
    *when = apr_time_from_sec(seconds) + micros;
    return APR_SUCCESS;
}
