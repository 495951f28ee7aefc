/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include <string.h>

#include "decision.h"
#include "event.h"

static ue_verdict_t judge(const ue_keyrecord_t *who, apr_time_t now)
{
    /* Revoked before expired: a revoked key learns nothing of itself. */
    if (who->revoked) {
        return UE_BAD_KEY;
    }
    return who->expires != 0 && who->expires <= now ? UE_EXPIRED_KEY : UE_ALLOW;
}

static ue_verdict_t look_up(ue_keyrecord_t *who, ue_keystore_t *store,
                            const char *key, size_t len, apr_time_t now,
                            int *how)
{
    apr_status_t rv;

    /* What was found before has passed the checks of its form. */
    if (store && len <= UE_APIKEY_MAX
        && store->vtable->recall(store, key, len, who) == APR_SUCCESS) {
        *how = UE_KEYSTORE_HIT;
        return judge(who, now);
    }
    if (ue_apikey_form(key, len) != UE_KEY_LOOKUP) {
        return UE_BAD_KEY;
    }
    if (!store) {
        return UE_BAD_KEY;
    }
    rv = store->vtable->lookup(store, key, len, who);
    if (rv == APR_SUCCESS) {
        *how = UE_KEYSTORE_MISS;
        return judge(who, now);
    }
    if (rv != APR_NOTFOUND) {
        return UE_UNAVAILABLE; /* it didn't answer */
    }
    *how = UE_KEYSTORE_UNKNOWN;
    return UE_BAD_KEY;
}

void ue_decide(ue_decision_t *decision, const ue_keyrule_t *rule,
               const char *authorization, const char *header, apr_time_t now,
               int *how)
{
    const char *key;
    size_t len;

    *how = -1;
    switch (ue_apikey_find(authorization, header, &key, &len)) {
    case UE_CRED_ONE:
        decision->verdict =
            look_up(&decision->who, rule->store, key, len, now, how);
        break;
    case UE_CRED_TWO:
        decision->verdict = UE_TWO_KEYS;
        break;
    case UE_CRED_NONE:
        decision->verdict = rule->required ? UE_NO_KEY : UE_ANONYMOUS;
        break;
    }
    if (decision->verdict != UE_ALLOW && decision->verdict != UE_EXPIRED_KEY) {
        memset(&decision->who, 0, sizeof(decision->who));
    }
}

#define PROBLEM "urn:usage-events:problem:"

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
    [UE_UNAVAILABLE] = {503, PROBLEM "unavailable", "Temporarily unavailable",
                        "The request can't be accounted for at the moment. Try "
                        "again shortly.",
                        1},
};

const ue_problem_t *ue_problem(ue_verdict_t verdict)
{
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
