/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */

/* Credential headers: two values, split at the first line feed, decided with a
 * store that knows one key and never has what it is asked for recalled. */
#include "fuzz.h"

#include "decision.h"

#define KNOWN "sk_test_123"

static int asked;

static apr_status_t recall(ue_keystore_t *store, const char *key, size_t len,
                           ue_keyrecord_t *record)
{
    MUST(len <= UE_APIKEY_MAX);
    return APR_NOTFOUND;
}

static apr_status_t lookup(ue_keystore_t *store, const char *key, size_t len,
                           ue_keyrecord_t *record)
{
    asked++;
    MUST(len > 0 && len <= UE_APIKEY_MAX && !memchr(key, ' ', len));
    memset(record, 0, sizeof(*record));
    return len == strlen(KNOWN) && !memcmp(key, KNOWN, len) ? APR_SUCCESS
                                                            : APR_NOTFOUND;
}

static const ue_keystore_vtable_t vtable = {
    .scheme = "fuzz", .recall = recall, .lookup = lookup};

static void check(const char *authorization, const char *header, int required)
{
    ue_keystore_t store = {&vtable};
    ue_keyrule_t rule = {&store, required};
    ue_decision_t decision;
    const ue_problem_t *problem;
    const char *key;
    size_t len;
    int how;

    asked = 0;
    ue_decide(&decision, &rule, authorization, header, 1, &how);
    problem = ue_problem(decision.verdict);
    switch (ue_apikey_find(authorization, header, &key, &len)) {
    case UE_CRED_NONE:
        MUST(decision.verdict == (required ? UE_NO_KEY : UE_ANONYMOUS));
        break;
    case UE_CRED_TWO:
        MUST(decision.verdict == UE_TWO_KEYS);
        break;
    case UE_CRED_ONE:
        /* The key lies in one of the values. */
        MUST((header && key >= header && key + len <= header + strlen(header))
             || (authorization && key >= authorization
                 && key + len <= authorization + strlen(authorization)));
        MUST((decision.verdict == UE_ALLOW)
             == (len == strlen(KNOWN) && !memcmp(key, KNOWN, len)));
        break;
    }
    if (authorization && strchr(authorization, ',')) {
        MUST(decision.verdict == UE_TWO_KEYS);
    }
    MUST((decision.verdict == UE_ALLOW) <= asked);
    MUST((problem == NULL)
         == (decision.verdict == UE_ALLOW || decision.verdict == UE_ANONYMOUS));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = copy_text(data, size);
    char *second = strchr(text, '\n');

    if (second) {
        *second++ = '\0';
    }
    check(text, second, 1);
    check(text, NULL, 0);
    check(NULL, text, 1);
    free(text);
    return 0;
}
