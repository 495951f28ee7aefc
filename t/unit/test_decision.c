/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * Decisions: what becomes of a request, over a store of the test's own that
 * knows a few keys and notes whether it was asked; and what the client is told.
 */
#include "unit.h"

#include <json-c/json.h>

#include "decision.h"

#define NOW INT64_C(1790000000000000)

/* A store that answers by the key's name. */
typedef struct {
    ue_keystore_t base;
    int recalls; /* whether it remembers what it knows */
    int recalled;
    int asked;
    char key[UE_APIKEY_MAX + 1];
} fake_t;

static const ue_uuid_t organization = {{1, 2, 3}};
static const ue_uuid_t api_key = {{4, 5, 6}};

static const struct {
    const char *key;
    ue_keystore_result_t result; /* of a look-up */
    apr_time_t expires;
    uint8_t revoked;
    uint8_t billable;
    uint8_t access;
    ue_verdict_t verdict;
} keys[] = {
    {"good", UE_KEYSTORE_MISS, 0, 0, 1, 0, UE_ALLOW},
    {"free", UE_KEYSTORE_MISS, 0, 0, 0, 0, UE_ALLOW},
    {"lasting", UE_KEYSTORE_MISS, NOW + 1, 0, 1, 0, UE_ALLOW},
    {"ending", UE_KEYSTORE_MISS, NOW, 0, 1, 0, UE_EXPIRED_KEY},
    {"expired", UE_KEYSTORE_MISS, NOW - 1, 0, 1, 0, UE_EXPIRED_KEY},
    {"long-expired", UE_KEYSTORE_MISS, 1, 0, 1, 0, UE_EXPIRED_KEY},
    {"revoked", UE_KEYSTORE_MISS, 0, 1, 1, 0, UE_BAD_KEY},
    {"revoked-lasting", UE_KEYSTORE_MISS, NOW + 1, 1, 1, 0, UE_BAD_KEY},
    {"revoked-expired", UE_KEYSTORE_MISS, NOW - 1, 1, 1, 0, UE_BAD_KEY},
    {"not-from-here", UE_KEYSTORE_MISS, 0, 0, 1, UE_ACCESS_NETWORK,
     UE_NOT_ALLOWED},
    {"not-there", UE_KEYSTORE_MISS, 0, 0, 1, UE_ACCESS_PATH, UE_NOT_ALLOWED},
    {"not-so", UE_KEYSTORE_MISS, 0, 0, 1, UE_ACCESS_METHOD, UE_NOT_ALLOWED},
    {"expired-not-so", UE_KEYSTORE_MISS, 1, 0, 1, UE_ACCESS_METHOD,
     UE_EXPIRED_KEY},
    {"revoked-not-so", UE_KEYSTORE_MISS, 0, 1, 1, UE_ACCESS_METHOD, UE_BAD_KEY},
    {"found-meanwhile", UE_KEYSTORE_HIT, 0, 0, 1, 0, UE_ALLOW},
    {"stale", UE_KEYSTORE_STALE, 0, 0, 1, 0, UE_ALLOW},
    {"stale-revoked", UE_KEYSTORE_STALE, 0, 1, 1, 0, UE_BAD_KEY},
    {"unknown", UE_KEYSTORE_UNKNOWN, 0, 0, 0, 0, UE_BAD_KEY},
    {"negative", UE_KEYSTORE_NEGATIVE, 0, 0, 1, 0, UE_BAD_KEY},
    {"failed", UE_KEYSTORE_FAILED, 0, 0, 1, 0, UE_UNAVAILABLE},
    {"nonsense", UE_KEYSTORE_NONE, 0, 0, 1, 0, UE_UNAVAILABLE},
};

static int is_filled(ue_keystore_result_t result)
{
    return result == UE_KEYSTORE_HIT || result == UE_KEYSTORE_MISS
           || result == UE_KEYSTORE_STALE;
}

static const ue_asked_t asked = {NULL, "GET", "/v1/x", 5};

static ue_keystore_result_t find(fake_t *fake, const char *key, size_t len,
                                 const ue_asked_t *what, ue_keyrecord_t *record)
{
    assert_true(len <= UE_APIKEY_MAX);
    assert_ptr_equal(what, &asked);
    memcpy(fake->key, key, len);
    fake->key[len] = '\0';
    for (size_t i = 0; i < UNIT_COUNT(keys); i++) {
        if (strcmp(fake->key, keys[i].key) == 0) {
            record->organization_id = organization;
            record->api_key_id = api_key;
            record->expires = keys[i].expires;
            record->revoked = keys[i].revoked;
            record->billable = keys[i].billable;
            record->access = keys[i].access;
            return keys[i].result;
        }
    }
    return UE_KEYSTORE_UNKNOWN;
}

static ue_keystore_result_t fake_recall(ue_keystore_t *store, const char *key,
                                        size_t len, const ue_asked_t *what,
                                        ue_keyrecord_t *record)
{
    fake_t *fake = (fake_t *)store;

    assert_true(len <= UE_APIKEY_MAX);
    if (!fake->recalls || !is_filled(find(fake, key, len, what, record))) {
        return UE_KEYSTORE_NONE;
    }
    fake->recalled++;
    return UE_KEYSTORE_HIT;
}

static ue_keystore_result_t fake_lookup(ue_keystore_t *store, const char *key,
                                        size_t len, const ue_asked_t *what,
                                        ue_keyrecord_t *record)
{
    fake_t *fake = (fake_t *)store;

    fake->asked++;
    return find(fake, key, len, what, record);
}

static const ue_keystore_vtable_t fake_vtable = {.recall = fake_recall,
                                                 .lookup = fake_lookup};

static fake_t fake;
static ue_decision_t decision;

static ue_verdict_t decide(int required, const char *authorization,
                           const char *header)
{
    ue_keyrule_t rule = {&fake.base, required};

    fake.base.vtable = &fake_vtable;
    fake.asked = fake.recalled = 0;
    memset(&decision, 0xee, sizeof(decision));
    ue_decide(&decision, &rule, authorization, header, &asked, NOW);
    return decision.verdict;
}

static void test_decision_without_key_depends_on_the_rule(void **state)
{
    assert_int_equal(decide(1, NULL, NULL), UE_NO_KEY);
    assert_int_equal(decision.how, UE_KEYSTORE_NONE);
    assert_int_equal(decide(0, NULL, NULL), UE_ANONYMOUS);
    assert_int_equal(decision.how, UE_KEYSTORE_NONE);
    /* another scheme is no credential of ours */
    assert_int_equal(decide(1, "Basic eDp5", NULL), UE_NO_KEY);
    assert_int_equal(decide(0, "Basic eDp5", NULL), UE_ANONYMOUS);
    assert_int_equal(fake.asked, 0);
}

static void test_decision_follows_what_the_store_says(void **state)
{
    for (int required = 0; required < 2; required++) {
        for (size_t i = 0; i < UNIT_COUNT(keys); i++) {
            char bearer[64];

            snprintf(bearer, sizeof(bearer), "Bearer %s", keys[i].key);
            if (decide(required, bearer, NULL) != keys[i].verdict) {
                fail_msg("%s is %d", keys[i].key, decision.verdict);
            }
            assert_int_equal(fake.asked, 1);
            assert_string_equal(fake.key, keys[i].key);
            assert_int_equal(decide(required, NULL, keys[i].key),
                             keys[i].verdict);
            assert_int_equal(fake.asked, 1);
            assert_string_equal(fake.key, keys[i].key);
        }
    }
}

static void test_decision_says_whose_the_key_is(void **state)
{
    assert_int_equal(decide(1, "Bearer good", NULL), UE_ALLOW);
    assert_true(ue_uuid_equal(&decision.who.organization_id, &organization));
    assert_true(ue_uuid_equal(&decision.who.api_key_id, &api_key));
    assert_int_equal(decision.who.billable, 1);
    assert_int_equal(decide(1, "Bearer free", NULL), UE_ALLOW);
    assert_int_equal(decision.who.billable, 0);
    assert_int_equal(decide(1, "Bearer expired", NULL), UE_EXPIRED_KEY);
    assert_true(ue_uuid_equal(&decision.who.organization_id, &organization));
    assert_int_equal(decide(1, "Bearer not-so", NULL), UE_NOT_ALLOWED);
    assert_true(ue_uuid_equal(&decision.who.organization_id, &organization));
}

/* A caller that forgets to look at the verdict finds nobody to bill. */
static void test_decision_without_a_good_key_names_nobody(void **state)
{
    static const ue_keyrecord_t nobody;

    static const char *const bad[] = {
        "Bearer unknown", "Bearer revoked",  "Bearer nonsense",       "Bearer",
        "Bearer failed",  "Bearer negative", "Bearer revoked-not-so", "Basic x",
        "Bearer a, b"};

    for (size_t i = 0; i < UNIT_COUNT(bad); i++) {
        decide(1, bad[i], NULL);
        assert_memory_equal(&decision.who, &nobody, sizeof(nobody));
    }
}

static void test_decision_tells_how_the_store_answered(void **state)
{
    for (size_t i = 0; i < UNIT_COUNT(keys); i++) {
        decide(1, NULL, keys[i].key);
        assert_int_equal(decision.how, keys[i].result);
    }
    decide(1, "Bearer whatever", NULL);
    assert_int_equal(decision.how, UE_KEYSTORE_UNKNOWN);
}

/* What the store recalls is judged like what it looks up. */
static void test_decision_looks_up_only_what_is_not_recalled(void **state)
{
    fake.recalls = 1;
    for (size_t i = 0; i < UNIT_COUNT(keys); i++) {
        int known = is_filled(keys[i].result);

        assert_int_equal(decide(1, NULL, keys[i].key), keys[i].verdict);
        assert_int_equal(fake.recalled, known);
        assert_int_equal(fake.asked, !known);
        if (known) {
            assert_int_equal(decision.how, UE_KEYSTORE_HIT);
        }
    }
    fake.recalls = 0;
}

static void test_decision_spares_the_store_what_can_be_no_key(void **state)
{
    static char long_key[8001];
    static const char *const hopeless[] = {
        "", "a b", "a\tb", "a\x01", "a\x7f",
        /* our shape, and a wrong checksum */
        "sk_live_000000000000000000000000000000000000",
        "sk_test_zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"};

    for (int required = 0; required < 2; required++) {
        for (size_t i = 0; i < UNIT_COUNT(hopeless); i++) {
            char bearer[80];

            snprintf(bearer, sizeof(bearer), "Bearer %s", hopeless[i]);
            assert_int_equal(decide(required, bearer, NULL), UE_BAD_KEY);
            assert_int_equal(fake.asked, 0);
            assert_int_equal(decision.how, UE_KEYSTORE_NONE);
            assert_int_equal(decide(required, NULL, hopeless[i]), UE_BAD_KEY);
            assert_int_equal(fake.asked, 0);
            assert_int_equal(decision.how, UE_KEYSTORE_NONE);
        }
        memset(long_key, 'k', 8000);
        assert_int_equal(decide(required, NULL, long_key), UE_BAD_KEY);
        assert_int_equal(fake.asked, 0);
    }
    /* the right checksum is asked for */
    assert_int_equal(
        decide(1, NULL, "sk_live_0000000000000000000000000000001yMVfD"),
        UE_BAD_KEY);
    assert_int_equal(fake.asked, 1);
}

static void test_decision_refuses_two_keys_without_asking(void **state)
{
    for (int required = 0; required < 2; required++) {
        assert_int_equal(decide(required, "Bearer good", "good"), UE_TWO_KEYS);
        assert_int_equal(decide(required, "Bearer good, Bearer good", NULL),
                         UE_TWO_KEYS);
        assert_int_equal(decide(required, NULL, "good, good"), UE_TWO_KEYS);
        assert_int_equal(decide(required, "Basic x, y", NULL), UE_TWO_KEYS);
        assert_int_equal(fake.asked, 0);
        assert_int_equal(decision.how, UE_KEYSTORE_NONE);
    }
    assert_int_equal(decide(1, "Basic eDp5", "good"), UE_ALLOW);
}

static void test_decision_without_a_store_knows_no_key(void **state)
{
    ue_keyrule_t rule = {NULL, 0};

    ue_decide(&decision, &rule, "Bearer good", NULL, &asked, NOW);
    assert_int_equal(decision.verdict, UE_BAD_KEY);
    assert_int_equal(decision.how, UE_KEYSTORE_NONE);
    ue_decide(&decision, &rule, NULL, NULL, &asked, NOW);
    assert_int_equal(decision.verdict, UE_ANONYMOUS);
}

/* ---- what the client is told ---- */

static const struct {
    ue_verdict_t verdict;
    ue_keystore_result_t how;
    int which; /* ue_access_t or, over a rate, ue_limitby_t */
    int status;
    const char *type;
    int retry_after;
    const char *part; /* of the detail */
} problems[] = {
    {UE_TWO_KEYS, UE_KEYSTORE_NONE, 0, 400, "urn:usage-events:problem:two-keys",
     0, "one API key"},
    {UE_NO_KEY, UE_KEYSTORE_NONE, 0, 401, "urn:usage-events:problem:no-key", 0,
     "carries none"},
    {UE_BAD_KEY, UE_KEYSTORE_UNKNOWN, 0, 401,
     "urn:usage-events:problem:bad-key", 0, "unknown or revoked"},
    {UE_EXPIRED_KEY, UE_KEYSTORE_HIT, 0, 403,
     "urn:usage-events:problem:expired-key", 0, "expired"},
    {UE_NOT_ALLOWED, UE_KEYSTORE_HIT, UE_ACCESS_NETWORK, 403,
     "urn:usage-events:problem:not-allowed", 0, "from this address"},
    {UE_NOT_ALLOWED, UE_KEYSTORE_HIT, UE_ACCESS_PATH, 403,
     "urn:usage-events:problem:not-allowed", 0, "on this path"},
    {UE_NOT_ALLOWED, UE_KEYSTORE_HIT, UE_ACCESS_METHOD, 403,
     "urn:usage-events:problem:not-allowed", 0, "this method"},
    /* what only a fault of ours could make */
    {UE_NOT_ALLOWED, UE_KEYSTORE_HIT, 200, 403,
     "urn:usage-events:problem:not-allowed", 0, "this address"},
    {UE_UNAVAILABLE, UE_KEYSTORE_HIT, 0, 503,
     "urn:usage-events:problem:unavailable", 1, "accounted for"},
    {UE_UNAVAILABLE, UE_KEYSTORE_FAILED, 0, 503,
     "urn:usage-events:problem:unavailable", 1, "can't be checked"},
    {UE_RATE_LIMITED, UE_KEYSTORE_HIT, UE_BY_KEY, 429,
     "urn:usage-events:problem:rate-limit", 1, "The API key is"},
    {UE_RATE_LIMITED, UE_KEYSTORE_HIT, UE_BY_ORG, 429,
     "urn:usage-events:problem:rate-limit", 1, "The organization"},
    {UE_RATE_LIMITED, UE_KEYSTORE_NONE, UE_BY_IP, 429,
     "urn:usage-events:problem:rate-limit", 1, "This address"},
    /* a fault of ours again */
    {UE_RATE_LIMITED, UE_KEYSTORE_HIT, 3, 429,
     "urn:usage-events:problem:rate-limit", 1, "over its rate limit"},
};

static const ue_problem_t *problem_number(size_t i)
{
    memset(&decision, 0, sizeof(decision));
    decision.verdict = problems[i].verdict;
    decision.how = problems[i].how;
    decision.who.access = (uint8_t)problems[i].which;
    decision.over = (ue_limitby_t)problems[i].which;
    return ue_problem(&decision);
}

static void test_decision_has_a_problem_for_each_refusal(void **state)
{
    for (size_t i = 0; i < UNIT_COUNT(problems); i++) {
        const ue_problem_t *problem = problem_number(i);

        assert_non_null(problem);
        assert_int_equal(problem->status, problems[i].status);
        assert_string_equal(problem->type, problems[i].type);
        assert_int_equal(problem->retry_after, problems[i].retry_after);
        assert_non_null(strstr(problem->detail, problems[i].part));
        assert_true(strlen(problem->title) > 5);
        assert_true(strlen(problem->detail) > 20);
    }
}

static void test_decision_has_no_problem_with_what_is_let_through(void **state)
{
    static const int let_through[] = {UE_EXEMPT, UE_ANONYMOUS, UE_ALLOW,
                                      UE_VERDICTS, -1};

    for (size_t i = 0; i < UNIT_COUNT(let_through); i++) {
        memset(&decision, 0, sizeof(decision));
        decision.verdict = (ue_verdict_t)let_through[i];
        assert_null(ue_problem(&decision));
    }
}

static const char *get_string(json_object *o, const char *key)
{
    json_object *m;

    assert_true(json_object_object_get_ex(o, key, &m));
    assert_true(json_object_is_type(m, json_type_string));
    return json_object_get_string(m);
}

static void test_decision_problem_is_rfc_9457_json(void **state)
{
    static const char *const order[] = {"type", "title", "status", "detail",
                                        "instance"};
    static const ue_uuid_t id = {{0x01, 0x7f, 0x22, 0xe2, 0x79, 0xb0, 0x7c,
                                  0xc3, 0x98, 0xc4, 0xdc, 0x0c, 0x0c, 0x07,
                                  0x39, 0x8f}};

    for (size_t i = 0; i < UNIT_COUNT(problems); i++) {
        const ue_problem_t *problem = problem_number(i);
        char *json = malloc(UE_PROBLEM_JSON_MAX);
        json_object *status;
        json_object *o;
        size_t k = 0;
        size_t len;

        assert_non_null(json);
        len = ue_problem_json(problem, &id, json);
        assert_int_equal(len, strlen(json));
        o = json_tokener_parse(json);
        assert_non_null(o);
        json_object_object_foreach(o, key, value)
        {
            assert_non_null(value);
            assert_true(k < UNIT_COUNT(order));
            assert_string_equal(key, order[k++]);
        }
        assert_int_equal(k, UNIT_COUNT(order));
        assert_string_equal(get_string(o, "type"), problem->type);
        assert_string_equal(get_string(o, "title"), problem->title);
        assert_string_equal(get_string(o, "detail"), problem->detail);
        assert_string_equal(get_string(o, "instance"),
                            "urn:uuid:017f22e2-79b0-7cc3-98c4-dc0c0c07398f");
        assert_true(json_object_object_get_ex(o, "status", &status));
        assert_int_equal(json_object_get_int(status), problem->status);
        json_object_put(o);
        free(json);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_decision_without_key_depends_on_the_rule),
    cmocka_unit_test(test_decision_follows_what_the_store_says),
    cmocka_unit_test(test_decision_says_whose_the_key_is),
    cmocka_unit_test(test_decision_without_a_good_key_names_nobody),
    cmocka_unit_test(test_decision_tells_how_the_store_answered),
    cmocka_unit_test(test_decision_looks_up_only_what_is_not_recalled),
    cmocka_unit_test(test_decision_spares_the_store_what_can_be_no_key),
    cmocka_unit_test(test_decision_refuses_two_keys_without_asking),
    cmocka_unit_test(test_decision_without_a_store_knows_no_key),
    cmocka_unit_test(test_decision_has_a_problem_for_each_refusal),
    cmocka_unit_test(test_decision_has_no_problem_with_what_is_let_through),
    cmocka_unit_test(test_decision_problem_is_rfc_9457_json),
};

UNIT_MAIN(tests)
