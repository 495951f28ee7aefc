/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "unit.h"

#include "rate.h"

#define SECOND APR_USEC_PER_SEC

static void test_rate_reads_count_period_and_burst(void **state)
{
    static const struct {
        const char *text;
        ue_rate_t want;
    } good[] = {
        {"1/s", {1, SECOND, 1}},
        {"100/s", {100, SECOND, 100}},
        {"100/s burst=200", {100, SECOND, 200}},
        {"100/s burst=1", {100, SECOND, 1}},
        {"1/m", {1, 60 * SECOND, 1}},
        {"59/m", {59, 60 * SECOND, 1}},
        {"119/m", {119, 60 * SECOND, 1}},
        {"120/m", {120, 60 * SECOND, 2}},
        {"120/m burst=7", {120, 60 * SECOND, 7}},
        {"3600/h", {3600, 3600 * SECOND, 1}},
        {"7200/h", {7200, 3600 * SECOND, 2}},
        {"1000000000/s", {1000000000, SECOND, 1000000000}},
        {"1/h burst=1000000000", {1, 3600 * SECOND, 1000000000}},
    };
    ue_rate_t rate;
    size_t i;

    for (i = 0; i < UNIT_COUNT(good); i++) {
        memset(&rate, 0xFF, sizeof rate);
        if (ue_rate_parse(&rate, good[i].text)) {
            print_error("%s\n", good[i].text);
        }
        assert_int_equal(ue_rate_parse(&rate, good[i].text), APR_SUCCESS);
        assert_int_equal(rate.count, good[i].want.count);
        assert_int_equal(rate.period, good[i].want.period);
        assert_int_equal(rate.burst, good[i].want.burst);
    }
}

static void test_rate_refuses_anything_else(void **state)
{
    static const char *const bad[] = {
        "",
        "/s",
        "s",
        "100",
        "100/",
        "100s",
        "0/s",
        "01/s",
        "-1/s",
        "+1/s",
        " 1/s",
        "1/s ",
        "1 /s",
        "1.5/s",
        "1e3/s",
        "1000000001/s",
        "1999999999/s",
        "4294967297/s",
        "10000000000/s",
        "99999999999999999999/s",
        "1/S",
        "1/sec",
        "1/ms",
        "1/d",
        "1/day",
        "1/s burst",
        "1/s burst=",
        "1/s burst=0",
        "1/s burst=01",
        "1/s burst=-1",
        "1/s burst=1000000001",
        "1/s burst=1x",
        "1/s burst=1 ",
        "1/s  burst=1",
        "1/s\tburst=1",
        "1/sburst=1",
        "1/s Burst=1",
        "1/s burst=1 burst=1",
        "1/s,burst=1",
    };
    ue_rate_t rate = {7, 8, 9};
    size_t i;

    for (i = 0; i < UNIT_COUNT(bad); i++) {
        if (!ue_rate_parse(&rate, bad[i])) {
            print_error("taken: %s\n", bad[i]);
        }
        assert_int_equal(ue_rate_parse(&rate, bad[i]), APR_EINVAL);
        assert_int_equal(rate.count, 7);
        assert_int_equal(rate.period, 8);
        assert_int_equal(rate.burst, 9);
    }
}

static void test_quota_reads_count_and_period(void **state)
{
    static const struct {
        const char *text;
        ue_quota_t want;
    } good[] = {
        {"1/hour", {1, UE_QUOTA_HOUR}},
        {"10000/day", {10000, UE_QUOTA_DAY}},
        {"1000000000/month", {1000000000, UE_QUOTA_MONTH}},
    };
    ue_quota_t quota;
    size_t i;

    for (i = 0; i < UNIT_COUNT(good); i++) {
        memset(&quota, 0xFF, sizeof quota);
        assert_int_equal(ue_quota_parse(&quota, good[i].text), APR_SUCCESS);
        assert_int_equal(quota.count, good[i].want.count);
        assert_int_equal(quota.period, good[i].want.period);
    }
}

static void test_quota_refuses_anything_else(void **state)
{
    static const char *const bad[] = {
        "",          "/day",           "10",
        "10/",       "10/s",           "10/h",
        "10/hours",  "10/Day",         "10/week",
        "10/year",   "0/day",          "010/day",
        "-1/day",    "1/day ",         " 1/day",
        "1 /day",    "1000000001/day", "1.5/day",
        "1_000/day", "1,000/day",      "10/day burst=1",
    };
    ue_quota_t quota = {7, UE_QUOTA_DAY};
    size_t i;

    for (i = 0; i < UNIT_COUNT(bad); i++) {
        if (!ue_quota_parse(&quota, bad[i])) {
            print_error("taken: %s\n", bad[i]);
        }
        assert_int_equal(ue_quota_parse(&quota, bad[i]), APR_EINVAL);
        assert_int_equal(quota.count, 7);
        assert_int_equal(quota.period, UE_QUOTA_DAY);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rate_reads_count_period_and_burst),
        cmocka_unit_test(test_rate_refuses_anything_else),
        cmocka_unit_test(test_quota_reads_count_and_period),
        cmocka_unit_test(test_quota_refuses_anything_else),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
