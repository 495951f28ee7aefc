/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include <string.h>

#include "decision.h"
#include "event.h"

/* Revoked first: a revoked key learns nothing of itself. */
static ue_verdict_t judge(const ue_keyrecord_t *who, apr_time_t now)
{
    if (who->revoked) {
        return UE_BAD_KEY;
    }
    if (who->expires != 0 && who->expires <= now) {
        return UE_EXPIRED_KEY;
    }
    return who->access == UE_ACCESS_GRANTED ? UE_ALLOW : UE_NOT_ALLOWED;
}

static ue_verdict_t look_up(ue_decision_t *decision, ue_keystore_t *store,
                            const char *key, size_t len,
                            const ue_asked_t *asked, apr_time_t now)
{
    ue_keyrecord_t *who = &decision->who;

    /* What was found before has passed the checks of its form. */
    if (store && len <= UE_APIKEY_MAX) {
        decision->how = store->vtable->recall(store, key, len, asked, who);
        if (decision->how == UE_KEYSTORE_HIT) {
            return judge(who, now);
        }
    }
    if (ue_apikey_form(key, len) != UE_KEY_LOOKUP || !store) {
        return UE_BAD_KEY;
    }
    decision->how = store->vtable->lookup(store, key, len, asked, who);
    switch (decision->how) {
    case UE_KEYSTORE_HIT:
    case UE_KEYSTORE_MISS:
    case UE_KEYSTORE_STALE:
        return judge(who, now);
    case UE_KEYSTORE_UNKNOWN:
    case UE_KEYSTORE_NEGATIVE:
        return UE_BAD_KEY;
    default:
        return UE_UNAVAILABLE;
    }
}

void ue_decide(ue_decision_t *decision, const ue_keyrule_t *rule,
               const char *authorization, const char *header,
               const ue_asked_t *asked, apr_time_t now)
{
    const char *key;
    size_t len;

    decision->how = UE_KEYSTORE_NONE;
    switch (ue_apikey_find(authorization, header, &key, &len)) {
    case UE_CRED_ONE:
        decision->verdict =
            look_up(decision, rule->store, key, len, asked, now);
        break;
    case UE_CRED_TWO:
        decision->verdict = UE_TWO_KEYS;
        break;
    case UE_CRED_NONE:
        decision->verdict = rule->required ? UE_NO_KEY : UE_ANONYMOUS;
        break;
    }
    if (decision->verdict != UE_ALLOW && decision->verdict != UE_EXPIRED_KEY
        && decision->verdict != UE_NOT_ALLOWED) {
        memset(&decision->who, 0, sizeof(decision->who));
    }
}

#define PROBLEM "urn:usage-events:problem:"
#define NOT_ALLOWED PROBLEM "not-allowed", "Not allowed with this API key"
#define UNAVAILABLE PROBLEM "unavailable", "Temporarily unavailable"

static const ue_problem_t problems[UE_VERDICTS] = {
    [UE_TWO_KEYS] = {400, PROBLEM "two-keys", "Two API keys",
                     "The request carries more than one credential, or one "
                     "that can be read as two. Send one API key.",
                     0},
    [UE_NO_KEY] = {401, PROBLEM "no-key", "No API key",
                   "This API is open to holders of an API key, and the request "
                   "carries none.",
                   0},
    [UE_BAD_KEY] = {401, PROBLEM "bad-key", "Invalid API key",
                    "The API key is mistyped, unknown or revoked.", 0},
    [UE_EXPIRED_KEY] = {403, PROBLEM "expired-key", "Expired API key",
                        "The API key was valid once, and has expired.", 0},
    [UE_UNAVAILABLE] = {503, UNAVAILABLE,
                        "The request can't be accounted for at the moment. Try "
                        "again shortly.",
                        1},
};

#define RATE_LIMIT PROBLEM "rate-limit", "Too many requests"

/* Whose requests are too many. How long to wait is in Retry-After. */
static const ue_problem_t over_limit[] = {
    [UE_BY_KEY] = {429, RATE_LIMIT,
                   "The API key is over its rate limit. Try again later, as "
                   "Retry-After says.",
                   1},
    [UE_BY_ORG] = {429, RATE_LIMIT,
                   "The organization is over its rate limit. Try again later, "
                   "as Retry-After says.",
                   1},
    [UE_BY_IP] = {429, RATE_LIMIT,
                  "This address is over its rate limit. Try again later, as "
                  "Retry-After says.",
                  1},
};

/* What isn't allowed, by ue_access_t. It is the key's owner who asks. */
static const ue_problem_t not_allowed[] = {
    [UE_ACCESS_NETWORK] = {403, NOT_ALLOWED,
                           "The API key may not be used from this address.", 0},
    [UE_ACCESS_PATH] = {403, NOT_ALLOWED,
                        "The API key may not be used on this path.", 0},
    [UE_ACCESS_METHOD] = {403, NOT_ALLOWED,
                          "The API key may not be used with this method.", 0},
};

static const ue_problem_t store_failed = {
    503, UNAVAILABLE,
    "The API key can't be checked at the moment. Try again shortly.", 1};

const ue_problem_t *ue_problem(const ue_decision_t *decision)
{
    ue_verdict_t verdict = decision->verdict;

    if (verdict == UE_NOT_ALLOWED) {
        return &not_allowed[decision->who.access <= UE_ACCESS_METHOD
                                ? decision->who.access
                                : UE_ACCESS_NETWORK];
    }
    if (verdict == UE_RATE_LIMITED) {
        return &over_limit[decision->over <= UE_BY_IP ? decision->over
                                                      : UE_BY_ORG];
    }
    if (verdict == UE_UNAVAILABLE && decision->how == UE_KEYSTORE_FAILED) {
        return &store_failed;
    }
    if ((unsigned)verdict >= UE_VERDICTS || problems[verdict].status == 0) {
        return NULL;
    }
    return &problems[verdict];
}

/* Append a string literal. */
#define PUT(to, literal) \
    (memcpy((to), (literal), sizeof(literal) - 1), (to) + sizeof(literal) - 1)

size_t ue_problem_json(const ue_problem_t *problem, const ue_uuid_t *request_id,
                       char *to)
{
    char *p = to;

    p = PUT(p, "{\"type\":");
    p = ue_json_string(p, problem->type, strlen(problem->type));
    p = PUT(p, ",\"title\":");
    p = ue_json_string(p, problem->title, strlen(problem->title));
    *p++ = ',';
    p = PUT(p, "\"status\":");
    /* The statuses of the table have three digits. */
    *p++ = (char)('0' + problem->status / 100);
    *p++ = (char)('0' + problem->status / 10 % 10);
    *p++ = (char)('0' + problem->status % 10);
    p = PUT(p, ",\"detail\":");
    p = ue_json_string(p, problem->detail, strlen(problem->detail));
    p = PUT(p, ",\"instance\":\"urn:uuid:");
    p = ue_uuid_write(request_id, p);
    p = PUT(p, "\"}");
    *p = '\0';
    return (size_t)(p - to);
}
