/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * How much a key and its organization may do, from a key file and from rows of
 * the database, to the record that a request gets.
 *
 * What PostgreSQL makes of plans, organizations and keys is the view's
 * (t/integration/test_506_schema_limits.py); here it is what a row says.
 */
#include "unit.h"

#include <sys/stat.h>

#include <apr_strings.h>

#include <json-c/json.h>

#include "keysnapshot.h"
#include "keystore_pg_int.h"
#include "log.h"

#define ORG_ID "0198a6f2-5c1e-7d3a-9b40-3f2c81d7e605"
#define KEY_ID "ee7e159c-fbfe-49ba-92e6-27b1e2785138"
#define KEY "a-key-of-any-form"

static apr_pool_t *pool;
static char last_line[1024];
static int errors;

static const ue_asked_t asked = {NULL, "GET", "/v1/x", 5};

static void take_line(void *baton, ue_log_level_t level, apr_status_t rv,
                      const char *line)
{
    errors += level == UE_LOG_ERR;
    snprintf(last_line, sizeof(last_line), "%s", line);
}

/* What must be there; NULL: none. */
typedef struct {
    const char *key_rate, *key_quota, *org_rate, *org_quota;
} want_t;

static void are_equal(const ue_allowance_t *a, const ue_allowance_t *b)
{
    assert_int_equal(a->rate.count, b->rate.count);
    assert_int_equal(a->rate.period, b->rate.period);
    assert_int_equal(a->rate.burst, b->rate.burst);
    assert_int_equal(a->quota.count, b->quota.count);
    assert_int_equal(a->quota.period, b->quota.period);
}

static void is_allowance(const ue_allowance_t *is, const char *rate,
                         const char *quota)
{
    ue_allowance_t want = {{0}, {0}};

    if (rate) {
        assert_int_equal(ue_rate_parse(&want.rate, rate), APR_SUCCESS);
    }
    if (quota) {
        assert_int_equal(ue_quota_parse(&want.quota, quota), APR_SUCCESS);
    }
    are_equal(is, &want);
}

static void is_limited(const ue_keyrecord_t *r, const want_t *want)
{
    is_allowance(&r->of_key, want->key_rate, want->key_quota);
    is_allowance(&r->of_org, want->org_rate, want->org_quota);
}

/* Key files -------------------------------------------------------------- */

/* One of everything, each with another rate and quota, or without. */
enum { OF_KEY, OF_ORG, OF_KEYS_PLAN, OF_ORGS_PLAN, ALL };

static const char *const rates[ALL] = {"1/s", "2/m burst=20", "3/h",
                                       "1000000000/s burst=4"};
static const char *const quotas[ALL] = {"5/hour", "6/day", "7/month",
                                        "1000000000/month"};

typedef struct {
    unsigned rates, quotas; /* who has one */
    int key_plan, org_plan; /* do they name theirs? */
} case_t;

static const char *text_of(const char *const *texts, unsigned have, int who)
{
    return have & 1U << who ? texts[who] : NULL;
}

/* Members of a JSON object, with a comma behind each; null is none. */
static const char *members(const case_t *c, int who)
{
    const char *rate = text_of(rates, c->rates, who);
    const char *quota = text_of(quotas, c->quotas, who);

    return apr_pstrcat(pool, "\"rate\":", rate ? "\"" : "null",
                       rate ? rate : "", rate ? "\"," : ",",
                       quota ? "\"quota\":\"" : "", quota ? quota : "",
                       quota ? "\"," : "", NULL);
}

static const char *file_of(const case_t *c)
{
    char hash[UE_APIKEY_HASH_TEXT + 1];
    ue_keyhash_t h;

    ue_apikey_hash(KEY, strlen(KEY), &h);
    ue_apikey_hash_format(&h, UE_HASH_SHA256, hash);
    return apr_psprintf(
        pool,
        "{\"version\":1,\"plans\":{\"k\":{%s\"billable\":true},"
        "\"o\":{%s\"billable\":true}},\"organizations\":[{%s%s"
        "\"id\":\"" ORG_ID "\",\"keys\":[{%s%s\"hash\":\"%s\","
        "\"id\":\"" KEY_ID "\"}]}]}\n",
        members(c, OF_KEYS_PLAN), members(c, OF_ORGS_PLAN), members(c, OF_ORG),
        c->org_plan ? "\"plan\":\"o\"," : "\"plan\":null,", members(c, OF_KEY),
        c->key_plan ? "\"plan\":\"k\"," : "", hash);
}

/* One's own, or else that of the plan that stands in. */
static const char *own_or(const char *const *texts, unsigned have, int own,
                          int stands_in, int plan)
{
    const char *text = text_of(texts, have, own);

    return text || !stands_in ? text : text_of(texts, have, plan);
}

static want_t want_of(const case_t *c)
{
    int by_org = c->org_plan && !c->key_plan;
    want_t want = {own_or(rates, c->rates, OF_KEY, c->key_plan, OF_KEYS_PLAN),
                   own_or(quotas, c->quotas, OF_KEY, c->key_plan, OF_KEYS_PLAN),
                   own_or(rates, c->rates, OF_ORG, by_org, OF_ORGS_PLAN),
                   own_or(quotas, c->quotas, OF_ORG, by_org, OF_ORGS_PLAN)};

    return want;
}

static ue_keystore_t *store_of(const char *path, const char *text)
{
    static const ue_keystore_options_t options;
    ue_keystore_t *store = NULL;
    const char *why = "";
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(ue_keystore_open(&store,
                                      apr_pstrcat(pool, "file:", path, NULL),
                                      &options, &why, pool),
                     APR_SUCCESS);
    return store;
}

/* Of each member who has it and who names a plan: all combinations, the quotas
 * in another order than the rates, since each goes by itself. */
static void test_limits_of_a_file_are_those_of_key_and_organization(
    void **state)
{
    const char *tmp = getenv("TMPDIR");
    char path[128];

    snprintf(path, sizeof(path), "%s/ue-limits-XXXXXX", tmp ? tmp : "/tmp");
    close(mkstemp(path));
    for (unsigned n = 0; n < 1U << (ALL + 2); n++) {
        case_t c = {n % 16, (n * 7 + 3) % 16, n >> ALL & 1, n >> ALL >> 1};
        ue_keystore_t *store = store_of(path, file_of(&c));
        want_t want = want_of(&c);
        ue_keyrecord_t r;

        memset(&r, 0xFF, sizeof(r));
        assert_int_equal(
            store->vtable->lookup(store, KEY, strlen(KEY), &asked, &r),
            UE_KEYSTORE_MISS);
        is_limited(&r, &want);
        memset(&r, 0xFF, sizeof(r));
        assert_int_equal(
            store->vtable->recall(store, KEY, strlen(KEY), &asked, &r),
            UE_KEYSTORE_HIT);
        is_limited(&r, &want);
        assert_int_equal(r.access, UE_ACCESS_GRANTED);
    }
    unlink(path);
}

static apr_status_t build(ue_keysnapshot_t **s, const char *text,
                          const char **why)
{
    struct json_object *doc = json_tokener_parse(text);
    apr_status_t rv;

    assert_non_null(doc);
    rv = ue_keysnapshot_build(s, "FILE", doc, 0, why, pool, pool);
    json_object_put(doc);
    return rv;
}

/* With members that key and organization have beside what they must have. */
static const char *file_with(const char *of_key, const char *of_org)
{
    return apr_psprintf(pool,
                        "{\"version\":1,\"organizations\":[{\"id\":\"" ORG_ID
                        "\"%s,\"keys\":[{\"id\":\"" KEY_ID "\",\"hash\":"
                        "\"sha256:%064d\"%s}]}]}",
                        of_org, 7, of_key);
}

/* The file looks the same, but what it says may be more or less. */
static void test_limits_of_two_snapshots_are_compared(void **state)
{
    static const char *const all[] = {"",
                                      ",\"rate\":\"1/s\"",
                                      ",\"rate\":\"2/s\"",
                                      ",\"rate\":\"1/m\"",
                                      ",\"rate\":\"1/s burst=2\"",
                                      ",\"quota\":\"1/hour\"",
                                      ",\"quota\":\"2/hour\"",
                                      ",\"quota\":\"1/day\""};
    const char *text[2 * UNIT_COUNT(all)], *why = "";
    ue_keysnapshot_t *a, *b;

    for (size_t i = 0; i < UNIT_COUNT(all); i++) {
        text[i] = file_with(all[i], "");
        text[UNIT_COUNT(all) + i] = file_with("", all[i]);
    }
    for (size_t i = 0; i < UNIT_COUNT(text); i++) {
        assert_int_equal(build(&a, text[i], &why), APR_SUCCESS);
        for (size_t j = 0; j < UNIT_COUNT(text); j++) {
            assert_int_equal(build(&b, text[j], &why), APR_SUCCESS);
            assert_int_equal(ue_keysnapshot_same(a, b),
                             strcmp(text[i], text[j]) == 0);
            ue_keysnapshot_destroy(b);
        }
        ue_keysnapshot_destroy(a);
    }
}

/* Whoever reads a document that wasn't checked makes no key without limits of
 * one that has some. */
static void test_limits_that_were_not_checked_are_refused(void **state)
{
    ue_keysnapshot_t *s;
    const char *why = "";

    assert_int_equal(build(&s, file_with(",\"rate\":\"fast\"", ""), &why),
                     APR_EINVAL);
    assert_string_equal(why, "FILE: organizations[0].keys[0]: a rate must be "
                             "like 100/s, 100/m or 100/h, or 100/s burst=200");
    assert_int_equal(build(&s, file_with("", ",\"quota\":\"0/day\""), &why),
                     APR_EINVAL);
    assert_non_null(strstr(why, "keys[0]: a quota must be like 1000/hour"));
}

/* Rows ------------------------------------------------------------------- */

static const char *const columns[] = {
    "hash",    "api_key_id", "organization_id", "expires",
    "revoked", "billable",   "access",          "limits"};

static ue_pg_child_t *child;
static ue_metrics_t *metrics;
static ue_keystore_t *pg_store;

/* A child that has asked, without a connection. */
static void make_child(void)
{
    ue_keystore_options_t options = {.ttl = apr_time_from_sec(60),
                                     .stale = apr_time_from_sec(60),
                                     .size = 16};
    const char *why = "";

    assert_int_equal(ue_keystore_open(&pg_store, "postgresql://nobody@nowhere/",
                                      &options, &why, pool),
                     APR_SUCCESS);
    assert_int_equal(ue_metrics_create(&metrics, 1, pool), APR_SUCCESS);
    child = calloc(1, sizeof(*child));
    assert_non_null(child);
    child->store = (ue_pgstore_t *)pg_store;
    child->seat = ue_metrics_sit(metrics);
    child->sent_at = ue_pg_now_ms();
    pthread_mutex_init(&child->lock, NULL);
    pthread_cond_init(&child->flights[0].done, NULL);
    child->free = &child->flights[0];
    child->store->shared->told = UE_PG_TOLD_UP;
    assert_int_equal(apr_pool_create(&child->scratch, pool), APR_SUCCESS);
}

static PGresult *row_of(const char *const *values)
{
    PGresult *rows = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);
    PGresAttDesc names[UNIT_COUNT(columns)];

    memset(names, 0, sizeof(names));
    for (size_t i = 0; i < UNIT_COUNT(columns); i++) {
        names[i].name = (char *)columns[i];
    }
    assert_true(PQsetResultAttrs(rows, UNIT_COUNT(columns), names));
    for (size_t i = 0; i < UNIT_COUNT(columns); i++) {
        assert_true(PQsetvalue(rows, 0, (int)i, (char *)values[i],
                               values[i] ? (int)strlen(values[i]) : -1));
    }
    return rows;
}

/* What a request gets: who waits for the answer, and who comes later. */
static void answer(const char *access, const char *limits, ue_keyrecord_t *r)
{
    char text[UE_APIKEY_HASH_TEXT + 1];
    const char *values[] = {text, KEY_ID, ORG_ID, NULL,
                            "f",  "t",    access, limits};
    PGresult *rows;
    ue_keyrecord_t later;
    ue_keyhash_t hash;
    ue_flight_t *f;

    ue_apikey_hash(KEY, strlen(KEY), &hash);
    ue_apikey_hash_format(&hash, UE_HASH_SHA256, text);
    f = ue_flight_begin(child, &hash);
    assert_non_null(f);
    ue_keycache_tag(child->store->cache, KEY, strlen(KEY), &f->tag);
    f->has_tag = 1;
    f->waiters = 1; /* so that it isn't given back */
    child->batch[0] = f;
    child->batch_count = 1;
    rows = row_of(values);
    ue_pg_take_answer(child, rows);
    PQclear(rows);
    assert_int_equal(f->answer, UE_ANSWER_FOUND);
    *r = f->record;
    r->access = (uint8_t)ue_access_judge(f->block, f->block_len, &asked);
    ue_flight_free(child, f);
    memset(&later, 0xFF, sizeof(later));
    assert_int_equal(
        pg_store->vtable->recall(pg_store, KEY, strlen(KEY), &asked, &later),
        UE_KEYSTORE_HIT);
    assert_int_equal(later.access, r->access);
    if (r->access == UE_ACCESS_GRANTED) {
        are_equal(&later.of_key, &r->of_key);
        are_equal(&later.of_org, &r->of_org);
    }
}

/* A member that lacks, or is null, is none. */
static const char *member_of(const char *name, const char *text, int as_null)
{
    return text ? apr_psprintf(pool, "\"%s\" : \"%s\"", name, text)
                : apr_psprintf(pool, "\"%s\" : %s", as_null ? name : "x",
                               as_null ? "null" : "[1]");
}

static void test_limits_of_a_row_are_those_of_key_and_organization(void **state)
{
    static const char lists[] = "[{\"paths\":[\"/v1/\"]}]";

    for (unsigned n = 0; n < 1U << (ALL + 2); n++) {
        int as_null = n >> ALL & 1;
        want_t want = {text_of(rates, n, 0), text_of(quotas, n, 1),
                       text_of(rates, n, 2), text_of(quotas, n, 3)};
        ue_keyrecord_t r;

        answer(n >> ALL >> 1 ? lists : NULL,
               apr_psprintf(pool, "{\"key\" : {%s, %s}, \"org\" : {%s, %s}}",
                            member_of("rate", want.key_rate, as_null),
                            member_of("quota", want.key_quota, as_null),
                            member_of("rate", want.org_rate, as_null),
                            member_of("quota", want.org_quota, as_null)),
               &r);
        is_limited(&r, &want);
        assert_int_equal(r.access, UE_ACCESS_GRANTED);
        assert_int_equal(r.billable, 1);
    }
    assert_int_equal(errors, 0);
}

static void test_limits_of_a_row_may_lack(void **state)
{
    static const char *const none[] = {NULL, "{}", "{\"key\":null}",
                                       "{\"key\":{},\"org\":{}}"};
    static const want_t nothing;
    static const want_t one = {.org_quota = "1/day"};
    ue_keyrecord_t r;

    for (size_t i = 0; i < UNIT_COUNT(none); i++) {
        answer(NULL, "{\"org\":{\"quota\":\"1/day\"}}", &r);
        is_limited(&r, &one);
        answer(NULL, none[i], &r);
        is_limited(&r, &nothing);
    }
    assert_int_equal(errors, 0);
}

/* Somebody has written to the tables by hand, past their checks: like a list
 * that can't be read, and whatever lists there are beside. */
static void test_limits_that_cannot_be_read_let_nobody_in(void **state)
{
    static const char *const wrong[] = {
        "{\"key\":{\"rate\":\"fast\"}}",
        "{\"key\":{\"rate\":\"\"}}",
        "{\"key\":{\"rate\":7}}",
        "{\"key\":{\"rate\":{\"count\":7}}}",
        "{\"key\":{\"rate\":\"1/s\",\"quota\":\"1/year\"}}",
        "{\"org\":{\"rate\":\"0/s\"}}",
        "{\"org\":{\"rate\":null,\"quota\":false}}",
        "{\"org\":\"1/s\"}",
        "{\"key\":[]}",
        "[]",
        "7",
        "null",
        "nonsense"};
    static const char *const lists[] = {NULL, "[{\"paths\":[\"/v1/\"]}]",
                                        "[{\"paths\":[\"/v2/\"]}]"};
    ue_keyrecord_t r;

    for (size_t i = 0; i < UNIT_COUNT(wrong); i++) {
        for (size_t l = 0; l < UNIT_COUNT(lists); l++) {
            answer(lists[l], wrong[i], &r);
            assert_int_not_equal(r.access, UE_ACCESS_GRANTED);
        }
    }
    /* in the words of lists, once in ten seconds */
    assert_int_equal(errors, 1);
    assert_string_equal(last_line,
                        "UE0112: key database: what key " KEY_ID
                        " may be used for can't be read, so it may be used for "
                        "nothing: limits: key.rate must be like 100/s, 100/m "
                        "or 100/h, or 100/s burst=200 (0 such lines held "
                        "back)");
    answer(NULL, NULL, &r);
    assert_int_equal(r.access, UE_ACCESS_GRANTED);
}

/* ------------------------------------------------------------------------ */

static int begin(void **state)
{
    errors = 0;
    return apr_pool_create(&pool, NULL);
}

static int begin_rows(void **state)
{
    begin(state);
    make_child();
    return 0;
}

static int end(void **state)
{
    apr_pool_destroy(pool);
    free(child);
    child = NULL;
    return 0;
}

#define FILE_TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
#define ROW_TEST(name) cmocka_unit_test_setup_teardown(name, begin_rows, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FILE_TEST(test_limits_of_a_file_are_those_of_key_and_organization),
        FILE_TEST(test_limits_of_two_snapshots_are_compared),
        FILE_TEST(test_limits_that_were_not_checked_are_refused),
        ROW_TEST(test_limits_of_a_row_are_those_of_key_and_organization),
        ROW_TEST(test_limits_of_a_row_may_lack),
        ROW_TEST(test_limits_that_cannot_be_read_let_nobody_in),
    };
    int failed;

    if (apr_initialize() != APR_SUCCESS) {
        return 1;
    }
    ue_log_set(take_line, NULL, UE_LOG_NOTICE);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    apr_terminate();
    return failed;
}
