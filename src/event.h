/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_EVENT_H
#define UE_EVENT_H

/**
 * A UsageEvent: the record of one request that was let through.
 *
 * This is the event while it is being made into JSON. Between admission and
 * delivery it lives packed in a journal slot (journal.h), and this struct is a
 * view into that slot or into a caller's buffer: it owns nothing. All functions
 * are pure; any thread may call them.
 */
#include <stddef.h>
#include <stdint.h>

#include <apr_errno.h>
#include <apr_time.h>

#include "endpoint.h"
#include "uuid.h"

typedef struct {
    ue_uuid_t request_id;
    ue_uuid_t organization_id;
    ue_uuid_t api_key_id;
    apr_time_t timestamp;      /**< when the request was read, microseconds */
    uint32_t response_time_ms; /**< until the response was handed over */
    uint16_t status_code;      /**< what the client got; 0: interrupted */
    uint8_t billable;
    const char *method; /**< valid UTF-8, not NUL-terminated */
    size_t method_len;
    const char *endpoint; /**< valid UTF-8, not NUL-terminated */
    size_t endpoint_len;
} ue_event_t;

/**
 * Room enough for any event as JSON: every byte of a text escaped to six, and
 * the rest of the nine fields.
 */
#define UE_EVENT_JSON_MAX ((UE_ENDPOINT_MAX + UE_METHOD_MAX) * 6 + 512)

/** Where the organization begins in it, UE_UUID_LEN characters. */
#define UE_EVENT_ORGANIZATION 72

/**
 * Write the nine-key JSON object: no spaces, no line feed (RFC 8259, RFC 3339;
 * docs/formats.md has the bytes).
 * @param to at least UE_EVENT_JSON_MAX bytes; no NUL is written
 * @return   bytes written
 */
size_t ue_event_json(const ue_event_t *event, char *to);

/**
 * Append one JSON string, with its quotes, to a buffer.
 * @param to at least 6 * len + 2 bytes
 * @param s  valid UTF-8
 * @return   behind the last byte written
 */
char *ue_json_string(char *to, const char *s, size_t len);

/** Write a time as RFC 3339, UTC, six decimals. @return behind it; no NUL */
char *ue_time_write(apr_time_t when, char *to);

/** A set of status codes, 0 to 999. */
typedef struct {
    uint64_t bits[16];
} ue_statusset_t;

#define UE_BILLABLE_STATUS_DEFAULT "101,200-499"

/**
 * Read "101,200-499": codes and inclusive ranges from 100 to 599, separated by
 * commas. 0, an interrupted request, is never in the set.
 * @param why receives, on error, what is wrong, as a static string
 * @return    APR_EINVAL
 */
apr_status_t ue_statusset_parse(ue_statusset_t *set, const char *s,
                                const char **why);

int ue_statusset_has(const ue_statusset_t *set, int status);

#endif /* UE_EVENT_H */
