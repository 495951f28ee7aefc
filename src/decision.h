/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_DECISION_H
#define UE_DECISION_H

/**
 * What becomes of a request: let through, and in whose name, or turned away,
 * and why.
 *
 * The decision is a small struct that an identity provider fills; key stores do
 * today. Making it knows no httpd: it gets two header values and a store. What
 * a client is told about it is the table behind ue_problem(), which holds every
 * answer of ours (RFC 9457).
 */
#include <stddef.h>

#include "apikey.h"
#include "keystore.h"
#include "subjects.h"

typedef enum {
    UE_EXEMPT,       /**< let through, not metered: an exempt path */
    UE_ANONYMOUS,    /**< let through, not metered: no key, and none required */
    UE_ALLOW,        /**< let through and metered */
    UE_TWO_KEYS,     /**< 400 */
    UE_NO_KEY,       /**< 401 */
    UE_BAD_KEY,      /**< 401: mistyped, malformed, unknown or revoked */
    UE_EXPIRED_KEY,  /**< 403 */
    UE_NOT_ALLOWED,  /**< 403: not from there, or not on that path, or not by
                          that method */
    UE_RATE_LIMITED, /**< 429 */
    UE_UNAVAILABLE   /**< 503: no room to meter it, or the store can't say */
} ue_verdict_t;

#define UE_VERDICTS (UE_UNAVAILABLE + 1)

typedef struct {
    ue_verdict_t verdict;
    ue_keystore_result_t how; /**< what the store said, if it was asked */
    ue_keyrecord_t who;       /**< valid with UE_ALLOW, UE_EXPIRED_KEY,
                                   UE_NOT_ALLOWED and UE_RATE_LIMITED */
    ue_limitby_t over;        /**< valid with UE_RATE_LIMITED */
} ue_decision_t;

/** How a request's key is found and judged. */
typedef struct {
    ue_keystore_t *store; /**< NULL: there are no keys, all are unknown */
    int required;         /**< turn away who has no key */
} ue_keyrule_t;

/**
 * Decide by the key, and by where it may be used.
 * @param authorization,header as ue_apikey_find() takes them
 * @param asked what is to be done with it
 * @param now   microseconds, to tell what has expired
 * @locality    any thread
 */
void ue_decide(ue_decision_t *decision, const ue_keyrule_t *rule,
               const char *authorization, const char *header,
               const ue_asked_t *asked, apr_time_t now);

/** An answer to a request that was turned away. */
typedef struct {
    int status;       /**< HTTP */
    const char *type; /**< URI */
    const char *title;
    const char *detail;
    int retry_after; /**< seconds; 0: no Retry-After */
} ue_problem_t;

/** @return NULL for decisions that let a request through */
const ue_problem_t *ue_problem(const ue_decision_t *decision);

#define UE_PROBLEM_JSON_MAX 512

/**
 * Write a problem as JSON.
 * @param request_id its value becomes "instance", as urn:uuid:
 * @param to         at least UE_PROBLEM_JSON_MAX bytes; NUL-terminated
 * @return           bytes written, without NUL
 */
size_t ue_problem_json(const ue_problem_t *problem, const ue_uuid_t *request_id,
                       char *to);

#endif /* UE_DECISION_H */
