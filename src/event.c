/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include <string.h>

#include "event.h"

#include <assert.h>
/* Two decimal digits at a time halve the divisions. */
static const char two_digits[200 + 1] =
    "00010203040506070809101112131415161718192021222324"
    "25262728293031323334353637383940414243444546474849"
    "50515253545556575859606162636465666768697071727374"
    "75767778798081828384858687888990919293949596979899";

static char *write_two(char *to, unsigned n)
{
    memcpy(to, two_digits + 2 * n, 2);
    return to + 2;
}

static char *write_number(char *to, uint32_t n)
{
    char digits[10];
    char *s = digits + sizeof(digits);
    size_t len;

    while (n >= 100) {
        s -= 2;
        memcpy(s, two_digits + 2 * (n % 100), 2);
        n /= 100;
    }
    if (n >= 10) {
        s -= 2;
        memcpy(s, two_digits + 2 * n, 2);
    }
    else {
        *--s = (char)('0' + n);
    }
    len = (size_t)(digits + sizeof(digits) - s);
    memcpy(to, s, len);
    return to + len;
}

#define ONES UINT64_C(0x0101010101010101)
#define HIGH_BITS UINT64_C(0x8080808080808080)

/* Is a byte of x less than n (at most 128)? */
static uint64_t has_less(uint64_t x, unsigned n)
{
    return (x - ONES * n) & ~x & HIGH_BITS;
}

/* Is a byte of x equal to c? */
static uint64_t has_byte(uint64_t x, unsigned char c)
{
    return has_less(x ^ ONES * c, 1);
}

static char *write_escaped(char *to, unsigned char c)
{
    static const char hex[] = "0123456789abcdef";

    if (c == '"' || c == '\\') {
        *to++ = '\\';
        *to++ = (char)c;
    }
    else if (c < 0x20) {
        memcpy(to, "\\u00", 4);
        to[4] = hex[c >> 4];
        to[5] = hex[c & 0x0f];
        to += 6;
    }
    else {
        *to++ = (char)c;
    }
    return to;
}

char *ue_json_string(char *to, const char *s, size_t len)
{
    const char *end = s + len;
    uint64_t eight;

    *to++ = '"';
    while (s < end) {
        /* Eight bytes that need no escape: the usual case. */
        while ((size_t)(end - s) >= sizeof(eight)) {
            memcpy(&eight, s, sizeof(eight));
            if (has_less(eight, 0x20) | has_byte(eight, '"')
                | has_byte(eight, '\\')) {
                break;
            }
            memcpy(to, &eight, sizeof(eight));
            s += sizeof(eight);
            to += sizeof(eight);
        }
        if (s < end) {
            to = write_escaped(to, (unsigned char)*s++);
        }
    }
    *to++ = '"';
    return to;
}

#define SECONDS_PER_DAY 86400
#define LAST_SECOND INT64_C(253402300799) /* 9999-12-31T23:59:59Z */

typedef struct {
    unsigned year;
    unsigned month; /* from 1 */
    unsigned day;   /* from 1 */
} date_t;

/*
 * The Gregorian date of a day, counted from 1970-01-01: Howard Hinnant,
 * chrono-Compatible Low-Level Date Algorithms, civil_from_days
 * (https://howardhinnant.github.io/date_algorithms.html). libc's gmtime_r()
 * takes a lock, and reads the time zone.
 */
static date_t date_of_day(uint32_t days)
{
    uint32_t z = days + 719468;      /* from 0000-03-01 */
    uint32_t era = z / 146097;       /* of 400 years */
    uint32_t doe = z - era * 146097; /* day of the era */
    uint32_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    uint32_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100); /* from March */
    uint32_t mp = (5 * doy + 2) / 153; /* month, from March */
    date_t date;

    date.day = doy - (153 * mp + 2) / 5 + 1;
    date.month = mp < 10 ? mp + 3 : mp - 9;
    date.year = yoe + era * 400 + (date.month <= 2);
    return date;
}

char *ue_time_write(apr_time_t when, char *to)
{
    uint64_t seconds;
    uint32_t usec;
    uint32_t rest;
    date_t date;

    if (when < 0) {
        when = 0;
    }
    else if (when >= (LAST_SECOND + 1) * APR_USEC_PER_SEC) {
        when = (LAST_SECOND + 1) * APR_USEC_PER_SEC - 1;
    }
    seconds = (uint64_t)when / APR_USEC_PER_SEC;
    usec = (uint32_t)((uint64_t)when % APR_USEC_PER_SEC);
    rest = (uint32_t)(seconds % SECONDS_PER_DAY);
    date = date_of_day((uint32_t)(seconds / SECONDS_PER_DAY));

    to = write_two(to, date.year / 100);
    to = write_two(to, date.year % 100);
    *to++ = '-';
    to = write_two(to, date.month);
    *to++ = '-';
    to = write_two(to, date.day);
    *to++ = 'T';
    to = write_two(to, rest / 3600);
    *to++ = ':';
    to = write_two(to, rest / 60 % 60);
    *to++ = ':';
    to = write_two(to, rest % 60);
    *to++ = '.';
    to = write_two(to, usec / 10000);
    to = write_two(to, usec / 100 % 100);
    to = write_two(to, usec % 100);
    *to++ = 'Z';
    return to;
}

/* Append a string literal. */
#define PUT(to, literal) \
    (memcpy((to), (literal), sizeof(literal) - 1), (to) + sizeof(literal) - 1)

#define REQUEST_ID "{\"request_id\":\""
#define ORGANIZATION_ID "\",\"organization_id\":\""

static_assert(sizeof(REQUEST_ID ORGANIZATION_ID) - 1 + UE_UUID_LEN
                  == UE_EVENT_ORGANIZATION,
              "what comes before the organization has a fixed length");

size_t ue_event_json(const ue_event_t *event, char *to)
{
    char *p = to;

    p = PUT(p, REQUEST_ID);
    p = ue_uuid_write(&event->request_id, p);
    p = PUT(p, ORGANIZATION_ID);
    p = ue_uuid_write(&event->organization_id, p);
    p = PUT(p, "\",\"api_key_id\":\"");
    p = ue_uuid_write(&event->api_key_id, p);
    p = PUT(p, "\",\"endpoint\":");
    p = ue_json_string(p, event->endpoint, event->endpoint_len);
    p = PUT(p, ",\"method\":");
    p = ue_json_string(p, event->method, event->method_len);
    p = PUT(p, ",\"status_code\":");
    p = write_number(p, event->status_code);
    p = PUT(p, ",\"response_time_ms\":");
    p = write_number(p, event->response_time_ms);
    p = PUT(p, ",\"timestamp\":\"");
    p = ue_time_write(event->timestamp, p);
    p = PUT(p, "\",\"billable\":");
    p = event->billable ? PUT(p, "true}") : PUT(p, "false}");
    return (size_t)(p - to);
}

#define STATUS_MIN 100
#define STATUS_MAX 599

/* Three digits at *s, stepped over; -1 if there are not just three. */
static int read_status(const char **s)
{
    int status = 0;

    for (int i = 0; i < 3; i++) {
        if (**s < '0' || **s > '9') {
            return -1;
        }
        status = status * 10 + (*(*s)++ - '0');
    }
    return **s >= '0' && **s <= '9' ? -1 : status;
}

apr_status_t ue_statusset_parse(ue_statusset_t *set, const char *s,
                                const char **why)
{
    ue_statusset_t read = {{0}};

    for (;;) {
        int first = read_status(&s);
        int last = first;

        if (*s == '-' && first >= 0) {
            s++;
            last = read_status(&s);
        }
        if (first < 0 || last < 0 || (*s != ',' && *s != '\0')) {
            *why = "it takes codes of three digits and ranges of them, "
                   "separated by commas";
            return APR_EINVAL;
        }
        if (first < STATUS_MIN || last > STATUS_MAX || first > STATUS_MAX
            || last < STATUS_MIN) {
            *why = "codes go from 100 to 599";
            return APR_EINVAL;
        }
        if (last < first) {
            *why = "a range goes from the lower code to the higher";
            return APR_EINVAL;
        }
        for (int i = first; i <= last; i++) {
            read.bits[i / 64] |= UINT64_C(1) << (i % 64);
        }
        if (*s++ == '\0') {
            break;
        }
    }
    *set = read;
    return APR_SUCCESS;
}

int ue_statusset_has(const ue_statusset_t *set, int status)
{
    if (status < STATUS_MIN || status > STATUS_MAX) {
        return 0;
    }
    return (int)(set->bits[status / 64] >> (status % 64) & 1);
}
