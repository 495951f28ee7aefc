/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * Limits as texts: the words of UsageRateLimit, in every combination, and the
 * fields of an answer, byte for byte.
 */
#include "unit.h"

#include <apr_strings.h>

#include "limit.h"

#define SECOND APR_USEC_PER_SEC

static apr_pool_t *pool;

static int count_words(char *const words[])
{
    int n = 0;

    while (words[n]) {
        n++;
    }
    return n;
}

static apr_status_t parse(ue_limit_t *limit, char *const words[],
                          const char **why)
{
    memset(limit, 0xee, sizeof(*limit));
    *why = NULL;
    return ue_limit_parse(limit, count_words(words), words, why, pool);
}

static void assert_is(const ue_limit_t *limit, ue_limitby_t by,
                      const ue_rate_t *rate)
{
    ue_gcra_t gcra;

    assert_int_equal(limit->by, by);
    assert_int_equal(limit->scope, 0);
    assert_int_equal(limit->rate.count, rate->count);
    assert_int_equal(limit->rate.period, rate->period);
    assert_int_equal(limit->rate.burst, rate->burst);
    ue_gcra_prepare(&gcra, rate);
    assert_int_equal(limit->gcra.emission, gcra.emission);
    assert_int_equal(limit->gcra.tolerance, gcra.tolerance);
}

/* ---- words ---- */

static const struct {
    char *word;
    ue_rate_t rate;
} rates[] = {
    {"100/s", {100, SECOND, 100}},
    {"90/m", {90, 60 * SECOND, 1}},
    {"7200/h", {7200, 3600 * SECOND, 2}},
    {"1/h", {1, 3600 * SECOND, 1}},
    {"1000000000/s", {1000000000, SECOND, 1000000000}},
};

static const struct {
    char *word; /* NULL: none */
    ue_limitby_t by;
} whose[] = {{NULL, UE_BY_ORG},
             {"by=key", UE_BY_KEY},
             {"by=org", UE_BY_ORG},
             {"by=ip", UE_BY_IP}};

static const struct {
    char *word;
    uint32_t burst;
} bursts[] = {{NULL, 0},
              {"burst=1", 1},
              {"burst=200", 200},
              {"burst=1000000000", 1000000000}};

static void check_combination(size_t r, size_t w, size_t b, int burst_first)
{
    char *words[4] = {rates[r].word, NULL, NULL, NULL};
    ue_rate_t rate = rates[r].rate;
    const char *why;
    ue_limit_t limit;
    int n = 1;

    if (bursts[b].word) {
        rate.burst = bursts[b].burst;
    }
    if (bursts[b].word && burst_first) {
        words[n++] = bursts[b].word;
    }
    if (whose[w].word) {
        words[n++] = whose[w].word;
    }
    if (bursts[b].word && !burst_first) {
        words[n++] = bursts[b].word;
    }
    if (parse(&limit, words, &why) != APR_SUCCESS) {
        fail_msg("%s %s %s: %s", words[0], words[1], words[2], why);
    }
    assert_is(&limit, whose[w].by, &rate);
}

static void test_limit_reads_each_combination_of_words(void **state)
{
    for (size_t r = 0; r < UNIT_COUNT(rates); r++) {
        for (size_t w = 0; w < UNIT_COUNT(whose); w++) {
            for (size_t b = 0; b < UNIT_COUNT(bursts); b++) {
                check_combination(r, w, b, 0);
                check_combination(r, w, b, 1);
            }
        }
    }
}

static void test_limit_reads_what_is_shown_as_right(void **state)
{
    static const ue_rate_t rate = {100, SECOND, 200};
    const char *why;
    ue_limit_t limit;
    char **words;

    assert_int_equal(apr_tokenize_to_argv(UE_LIMIT_SYNTAX, &words, pool),
                     APR_SUCCESS);
    assert_int_equal(parse(&limit, words, &why), APR_SUCCESS);
    assert_is(&limit, UE_BY_ORG, &rate);
}

static const struct {
    char *words[5];
    const char *part; /* of what it says */
} wrong[] = {
    {{NULL}, "\"\" is no rate, like 100/s"},
    {{""}, "\"\" is no rate"},
    {{"100"}, "\"100\" is no rate"},
    {{"0/s"}, "\"0/s\" is no rate"},
    {{"1.5/s"}, "\"1.5/s\" is no rate"},
    {{"-1/s"}, "\"-1/s\" is no rate"},
    {{"1/d"}, "\"1/d\" is no rate"},
    {{"1/S"}, "\"1/S\" is no rate"},
    {{"1000000001/s"}, "\"1000000001/s\" is no rate"},
    {{"off"}, "\"off\" is no rate"},
    {{"by=org"}, "\"by=org\" is no rate"},
    {{"burst=5"}, "\"burst=5\" is no rate"},
    {{"by=org", "100/s"}, "\"100/s\" can't stand there"},
    {{"burst=5", "100/s"}, "\"100/s\" can't stand there"},
    {{"100/s", "5"}, "\"5\" can't stand there"},
    {{"100/s", "100/s"}, "\"100/s\" can't stand there"},
    {{"100/s", ""}, "\"\" can't stand there"},
    {{"100/s", "org"}, "\"org\" can't stand there"},
    {{"100/s", "by"}, "\"by\" can't stand there"},
    {{"100/s", "by:org"}, "\"by:org\" can't stand there"},
    {{"100/s", "burst"}, "\"burst\" can't stand there"},
    {{"100/s", "burst:5"}, "\"burst:5\" can't stand there"},
    {{"100/s", "BY=org"}, "\"BY=org\" can't stand there"},
    {{"100/s", "Burst=5"}, "\"Burst=5\" can't stand there"},
    {{"100/s", "by=org", "off"}, "\"off\" can't stand there"},
    {{"100/s", "by=org", "by=org"}, "\"by=org\" can't stand there"},
    {{"100/s", "by=org", "burst=5", "by=ip"}, "\"by=ip\" can't stand there"},
    {{"100/s", "burst=5", "burst=6"}, "\"burst=6\" can't stand there"},
    {{"100/s", "by="}, "\"by=\" is none of by=key, by=org, by=ip"},
    {{"100/s", "by=Org"}, "\"by=Org\" is none of by=key, by=org, by=ip"},
    {{"100/s", "by=orgs"}, "\"by=orgs\" is none of"},
    {{"100/s", "by=or"}, "\"by=or\" is none of"},
    {{"100/s", "by=key,org"}, "\"by=key,org\" is none of"},
    {{"100/s", "by=quota"}, "\"by=quota\" is none of"},
    {{"100/s", "burst="}, "\"100/s burst=\" is no rate"},
    {{"100/s", "burst=0"}, "\"100/s burst=0\" is no rate"},
    {{"100/s", "burst=05"}, "\"100/s burst=05\" is no rate"},
    {{"100/s", "burst=x"}, "\"100/s burst=x\" is no rate"},
    {{"100/s", "burst=5 "}, "\"100/s burst=5 \" is no rate"},
    {{"100/s", "burst=1000000001", "by=ip"},
     "\"100/s burst=1000000001\" is no rate"},
    {{"100/s burst=5", "burst=6"}, "\"100/s burst=5 burst=6\" is no rate"},
    {{"100/s by=org"}, "\"100/s by=org\" is no rate"},
};

static void test_limit_refuses_other_words_and_names_them(void **state)
{
    for (size_t i = 0; i < UNIT_COUNT(wrong); i++) {
        const char *why;
        ue_limit_t limit;

        if (parse(&limit, wrong[i].words, &why) != APR_EINVAL) {
            fail_msg("taken: %s", wrong[i].words[0]);
        }
        assert_non_null(why);
        if (!strstr(why, wrong[i].part)) {
            fail_msg("%s: %s", wrong[i].part, why);
        }
    }
}

/* ---- what an answer says ---- */

static ue_limitverdict_t verdict;

static void add(ue_limitby_t by, uint32_t count, uint32_t window,
                uint32_t remaining, uint32_t reset)
{
    const ue_limitstate_t s = {by, count, window, remaining, reset};

    verdict.states[verdict.count++] = s;
}

/* Into memory of just the promised size, so that what is beyond shows. */
static void assert_fields(const char *policy, const char *field)
{
    char *to = malloc(UE_LIMIT_FIELD_MAX);

    assert_non_null(to);
    memset(to, 0xee, UE_LIMIT_FIELD_MAX);
    ue_limit_policy(&verdict, to);
    assert_string_equal(to, policy);
    memset(to, 0xee, UE_LIMIT_FIELD_MAX);
    ue_limit_field(&verdict, to);
    assert_string_equal(to, field);
    free(to);
}

static void test_limit_fields_are_as_promised(void **state)
{
    assert_fields("", "");
    add(UE_BY_ORG, 100, 1, 49, 1);
    assert_fields("\"org\";q=100;w=1", "\"org\";r=49;t=1");
    verdict.count = 0;
    add(UE_BY_KEY, 1, 3600, 0, 3600);
    add(UE_BY_ORG, 90, 60, 10, 7);
    add(UE_BY_IP, 1000000000, 1, 999999999, 0);
    assert_fields("\"key\";q=1;w=3600, \"org\";q=90;w=60, "
                  "\"ip\";q=1000000000;w=1",
                  "\"key\";r=0;t=3600, \"org\";r=10;t=7, "
                  "\"ip\";r=999999999;t=0");
}

static void test_limit_fields_have_room_for_the_longest(void **state)
{
    char policy[UE_LIMIT_FIELD_MAX] = "", field[UE_LIMIT_FIELD_MAX] = "";

    for (int i = 0; i < UE_LIMITS_MAX; i++) {
        add(UE_BY_ORG, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX);
        strcat(policy, i ? ", " : "");
        strcat(policy, "\"org\";q=4294967295;w=4294967295");
        strcat(field, i ? ", " : "");
        strcat(field, "\"org\";r=4294967295;t=4294967295");
    }
    assert_fields(policy, field);
}

static void test_limit_tightest_is_the_first_with_least(void **state)
{
    assert_null(ue_limit_tightest(&verdict));
    add(UE_BY_KEY, 1, 1, 7, 1);
    assert_ptr_equal(ue_limit_tightest(&verdict), &verdict.states[0]);
    add(UE_BY_ORG, 2, 1, 7, 1);
    assert_ptr_equal(ue_limit_tightest(&verdict), &verdict.states[0]);
    add(UE_BY_ORG, 3, 60, 6, 1);
    add(UE_BY_IP, 4, 1, 6, 9);
    assert_ptr_equal(ue_limit_tightest(&verdict), &verdict.states[2]);
    add(UE_BY_IP, 5, 60, 0, 1);
    assert_ptr_equal(ue_limit_tightest(&verdict), &verdict.states[4]);
}

static int begin(void **state)
{
    verdict.count = 0;
    return apr_pool_create(&pool, NULL);
}

static int end(void **state)
{
    apr_pool_destroy(pool);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

static const struct CMUnitTest tests[] = {
    TEST(test_limit_reads_each_combination_of_words),
    TEST(test_limit_reads_what_is_shown_as_right),
    TEST(test_limit_refuses_other_words_and_names_them),
    TEST(test_limit_fields_are_as_promised),
    TEST(test_limit_fields_have_room_for_the_longest),
    TEST(test_limit_tightest_is_the_first_with_least),
};

UNIT_MAIN(tests)
