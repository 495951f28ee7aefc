/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_LIMIT_H
#define UE_LIMIT_H

/**
 * Rate limits of a request: which bear on it, whether it is let in, and what
 * its answer says of them.
 *
 * A server has limits by key, by organization and by client address. A key's
 * own rate, or that of a plan of its own, stands in the place of the server's
 * limits by key; an organization's or its plan's in the place of those by
 * organization (keystore.h: of_key, of_org). A request is let in only if all
 * limits that bear on it let it in. They are looked at before the first of
 * them is charged, so that a request that one refuses costs the others nothing;
 * only if two requests meet in between, one of them may have been charged in
 * vain.
 *
 * Where the table has no room for a subject, its limit can't say. The others
 * still hold, and are charged if the request is let in all the same.
 *
 * Limits that the main server has, or a key, an organization or a plan, are
 * counted together by all servers. Those that a virtual host has of its own are
 * counted apart, in its scope: two rates that take turns on one count would
 * each be held up by the other.
 */
#include <stddef.h>
#include <stdint.h>

#include <apr_network_io.h>

#include "gcra.h"
#include "keystore.h"
#include "subjects.h"

/** Limits that may bear on one request: of each kind one a second, one a
 * minute, one an hour. */
#define UE_LIMITS_MAX 9

/** A limit as it is configured. */
typedef struct {
    ue_limitby_t by;
    uint16_t scope; /**< of the virtual host that has it of its own, or 0 */
    ue_rate_t rate;
    ue_gcra_t gcra; /**< of the rate */
} ue_limit_t;

/** What is done where it can't be said whether a request is over a limit. */
typedef enum {
    UE_LIMIT_LOCAL, /**< let it in, as far as this gateway's own count goes */
    UE_LIMIT_OPEN,  /**< let it in */
    UE_LIMIT_CLOSED /**< turn it away: 503 */
} ue_limitfailure_t;

/** How a server limits. */
typedef struct {
    const ue_limit_t *limits;
    size_t count;
    ue_limitfailure_t failure;
    int is_dry; /**< judge and count, turn nobody away */
} ue_limitrule_t;

typedef enum {
    UE_LIMIT_NONE,   /**< no limit bears on it */
    UE_LIMIT_LET_IN, /**< within all of them */
    UE_LIMIT_OVER,   /**< over one, whatever the others say */
    UE_LIMIT_UNKNOWN /**< over none, but one of them had no room to count it */
} ue_limitresult_t;

/** What a limit says of a request. */
typedef struct {
    ue_limitby_t by;
    uint32_t count;     /**< requests … */
    uint32_t window;    /**< … in so many seconds */
    uint32_t remaining; /**< that would be let in at this moment */
    uint32_t reset;     /**< seconds, rounded up, until the bucket is full */
} ue_limitstate_t;

typedef struct {
    ue_limitresult_t result;
    ue_limitby_t over;    /**< which one, with OVER */
    uint32_t retry_after; /**< seconds, rounded up, at least 1, with OVER */
    size_t count;         /**< of those that can say */
    ue_limitstate_t states[UE_LIMITS_MAX]; /**< in the order key, org, ip */
} ue_limitverdict_t;

/** Who makes a request. */
typedef struct {
    const ue_keyrecord_t *who;    /**< NULL: nobody is known */
    const apr_sockaddr_t *client; /**< the one that mod_remoteip leaves */
} ue_limited_t;

/**
 * Judge a request, and charge it if it is let in. @locality any thread
 * @param charge 0: only judge
 * @param now    nanoseconds of CLOCK_MONOTONIC
 */
void ue_limit_judge(ue_limitverdict_t *verdict, ue_subjects_t *subjects,
                    const ue_limitrule_t *rule, const ue_limited_t *request,
                    int charge, uint64_t now);

/** Bytes that each of these fields takes at most, with NUL. */
#define UE_LIMIT_FIELD_MAX (UE_LIMITS_MAX * 48)

/**
 * Write RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers):
 * "org";q=100;w=1 and "org";r=49;t=1, an item a limit.
 * @param to at least UE_LIMIT_FIELD_MAX bytes; NUL-terminated
 */
void ue_limit_policy(const ue_limitverdict_t *verdict, char *to);
void ue_limit_field(const ue_limitverdict_t *verdict, char *to);

/** The limit of which least is left, for X-RateLimit-*: the first of several.
 * @return NULL where no limit says anything */
const ue_limitstate_t *ue_limit_tightest(const ue_limitverdict_t *verdict);

#define UE_LIMIT_SYNTAX "100/s burst=200 by=org"

/**
 * Read a limit from its words: a rate, then burst=N and by=key|org|ip, each at
 * most once and in any order. by is org where it isn't given.
 * @param why receives, on error, what is wrong, in words
 * @return    APR_EINVAL
 */
apr_status_t ue_limit_parse(ue_limit_t *limit, int argc, char *const argv[],
                            const char **why, apr_pool_t *p);

#endif /* UE_LIMIT_H */
