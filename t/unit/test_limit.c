/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * Which limits bear on a request, and what becomes of it, over a real table and
 * a clock of the test's own: each request is made at the moment `now`, in
 * nanoseconds.
 */
#include "unit.h"

#include <arpa/inet.h>
#include <time.h>

#include <apr_strings.h>

#include "limit.h"

#define S UINT64_C(1000000000) /* ns */
#define LIMITS(...) set_limits((const char *const[]){__VA_ARGS__, NULL})

static apr_pool_t *pool;
static ue_subjects_t *subjects;
static ue_limit_t limits[UE_LIMITS_MAX];
static ue_limitrule_t rule;
static ue_limitverdict_t verdict;
static uint64_t now;

/* Set the server's limits; NULL: none. */
static void set_limits(const char *const texts[])
{
    rule.limits = limits;
    for (rule.count = 0; texts[rule.count]; rule.count++) {
        const char *why;
        char **words;
        int n = 0;

        assert_true(rule.count < UE_LIMITS_MAX);
        apr_tokenize_to_argv(texts[rule.count], &words, pool);
        while (words[n]) {
            n++;
        }
        if (ue_limit_parse(&limits[rule.count], n, words, &why, pool)) {
            fail_msg("%s", why);
        }
    }
}

static ue_rate_t rate_of(const char *text)
{
    ue_rate_t rate;

    assert_int_equal(ue_rate_parse(&rate, text), APR_SUCCESS);
    return rate;
}

/* Key number n of an organization. */
static ue_keyrecord_t key_of(uint8_t org, uint8_t n)
{
    ue_keyrecord_t who;

    memset(&who, 0, sizeof(who));
    memset(&who.organization_id, org, sizeof(who.organization_id));
    memset(&who.api_key_id, n, sizeof(who.api_key_id));
    who.billable = 1;
    return who;
}

static apr_sockaddr_t client_of(const char *address)
{
    apr_sockaddr_t client;

    memset(&client, 0, sizeof(client));
    client.port = 50000;
    client.sa.sin.sin_port = 50000;
    if (strchr(address, ':')) {
        client.family = APR_INET6;
        assert_int_equal(
            inet_pton(AF_INET6, address, &client.sa.sin6.sin6_addr), 1);
    }
    else {
        client.family = APR_INET;
        assert_int_equal(inet_pton(AF_INET, address, &client.sa.sin.sin_addr),
                         1);
    }
    return client;
}

static ue_limitresult_t judge(const ue_keyrecord_t *who, const char *address,
                              int charge)
{
    apr_sockaddr_t client;
    ue_limited_t request = {who, NULL};

    if (address) {
        client = client_of(address);
        request.client = &client;
    }
    memset(&verdict, 0xee, sizeof(verdict));
    ue_limit_judge(&verdict, subjects, &rule, &request, charge, now);
    return verdict.result;
}

static int is_let_in(const ue_keyrecord_t *who, const char *address)
{
    ue_limitresult_t result = judge(who, address, 1);

    assert_in_range(result, UE_LIMIT_LET_IN, UE_LIMIT_OVER);
    return result == UE_LIMIT_LET_IN;
}

/* How many are let in at this moment. */
static uint32_t drain(const ue_keyrecord_t *who, const char *address)
{
    uint32_t n = 0;

    while (is_let_in(who, address)) {
        n++;
        assert_true(n < 100000);
    }
    return n;
}

#define assert_state(n, b, c, w, left, seconds)              \
    do {                                                     \
        assert_true((n) < verdict.count);                    \
        assert_int_equal(verdict.states[n].by, b);           \
        assert_int_equal(verdict.states[n].count, c);        \
        assert_int_equal(verdict.states[n].window, w);       \
        assert_int_equal(verdict.states[n].remaining, left); \
        assert_int_equal(verdict.states[n].reset, seconds);  \
    } while (0)

#define assert_over(b, seconds)                          \
    do {                                                 \
        assert_int_equal(verdict.result, UE_LIMIT_OVER); \
        assert_int_equal(verdict.over, b);               \
        assert_int_equal(verdict.retry_after, seconds);  \
    } while (0)

/* ---- one limit ---- */

static void test_limit_lets_a_burst_in_and_then_its_rate(void **state)
{
    ue_keyrecord_t who = key_of(1, 1);

    LIMITS("2/s burst=5 by=org");
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(judge(&who, NULL, 1), UE_LIMIT_LET_IN);
        assert_int_equal(verdict.count, 1);
        assert_int_equal(verdict.retry_after, 0);
        assert_state(0, UE_BY_ORG, 2, 1, 4 - i, (i + 2) / 2);
    }
    assert_int_equal(judge(&who, NULL, 1), UE_LIMIT_OVER);
    assert_over(UE_BY_ORG, 1);
    assert_state(0, UE_BY_ORG, 2, 1, 0, 3);
    now += S / 2;
    assert_int_equal(drain(&who, NULL), 1);
    now += 2 * S;
    assert_int_equal(drain(&who, NULL), 4);
    now += 3600 * S;
    assert_int_equal(drain(&who, NULL), 5);
}

/* Two who come for the first time, of which the second read the clock first:
 * each has a bucket of its own, and it is full. */
static void test_limit_lets_each_newcomer_in(void **state)
{
    static const char *const addresses[] = {"192.0.2.1", "192.0.2.2",
                                            "192.0.2.3"};

    for (uint32_t charge = 0; charge < 2; charge++) {
        LIMITS("1/h by=ip");
        assert_int_equal(ue_subjects_create(&subjects, 8, pool), APR_SUCCESS);
        for (size_t i = 0; i < UNIT_COUNT(addresses); i++) {
            assert_int_equal(judge(NULL, addresses[i], (int)charge),
                             UE_LIMIT_LET_IN);
            assert_state(0, UE_BY_IP, 1, 3600, !charge, charge * 3600);
            now -= S / 1000;
        }
        LIMITS("1/h burst=3 by=ip");
        assert_int_equal(judge(NULL, "192.0.2.4", (int)charge),
                         UE_LIMIT_LET_IN);
        assert_state(0, UE_BY_IP, 1, 3600, 3 - charge, charge * 3600);
    }
}

static void test_limit_tells_whose_it_is(void **state)
{
    ue_keyrecord_t who = key_of(1, 1);

    LIMITS("1/m by=key");
    assert_int_equal(drain(&who, "192.0.2.1"), 1);
    assert_over(UE_BY_KEY, 60);
    LIMITS("1/m by=org");
    assert_int_equal(drain(&who, "192.0.2.1"), 1);
    assert_over(UE_BY_ORG, 60);
    LIMITS("1/m by=ip");
    assert_int_equal(drain(&who, "192.0.2.1"), 1);
    assert_over(UE_BY_IP, 60);
}

static void test_limit_by_key_is_of_each_key(void **state)
{
    ue_keyrecord_t one = key_of(1, 1), two = key_of(1, 2);

    LIMITS("3/m burst=3 by=key");
    assert_int_equal(drain(&one, NULL), 3);
    assert_int_equal(drain(&two, NULL), 3);
}

/* Each byte of an id counts. */
static void test_limit_tells_similar_ids_apart(void **state)
{
    ue_keyrecord_t who = key_of(1, 1);

    LIMITS("1/h by=key", "1/h by=org");
    assert_int_equal(drain(&who, NULL), 1);
    for (size_t i = 0; i < sizeof(who.api_key_id.b); i++) {
        ue_keyrecord_t other = who;

        other.api_key_id.b[i] ^= 0x40;
        assert_int_equal(drain(&other, NULL), 0);
        assert_over(UE_BY_ORG, 3600);
        assert_state(0, UE_BY_KEY, 1, 3600, 1, 0);
        other = who;
        other.organization_id.b[i] ^= 0x40;
        assert_int_equal(drain(&other, NULL), 0);
        assert_over(UE_BY_KEY, 3600);
        assert_state(1, UE_BY_ORG, 1, 3600, 1, 0);
    }
}

static void test_limit_by_org_is_of_all_its_keys(void **state)
{
    ue_keyrecord_t one = key_of(1, 1), two = key_of(1, 2), other = key_of(2, 3);

    LIMITS("3/m burst=3 by=org");
    assert_true(is_let_in(&one, "192.0.2.1"));
    assert_int_equal(drain(&two, "192.0.2.2"), 2);
    assert_int_equal(drain(&one, NULL), 0);
    assert_int_equal(drain(&other, "192.0.2.1"), 3);
}

static void test_limit_by_ip_is_of_each_address(void **state)
{
    ue_keyrecord_t who = key_of(1, 1);

    LIMITS("3/m burst=3 by=ip");
    assert_true(is_let_in(&who, "192.0.2.1"));
    assert_int_equal(drain(NULL, "192.0.2.1"), 2);
    assert_int_equal(drain(&who, "192.0.2.1"), 0);
    assert_int_equal(drain(&who, "192.0.2.2"), 3);
    assert_int_equal(drain(&who, "::ffff:192.0.2.1"), 0);
}

static void test_limit_of_ipv6_is_of_64_bits(void **state)
{
    LIMITS("3/m burst=3 by=ip");
    assert_true(is_let_in(NULL, "2001:db8:1:2::1"));
    assert_int_equal(drain(NULL, "2001:db8:1:2:ffff:ffff:ffff:ffff"), 2);
    assert_int_equal(drain(NULL, "2001:db8:1:2::1"), 0);
    assert_int_equal(drain(NULL, "2001:db8:1:3::1"), 3);
    assert_int_equal(drain(NULL, "2001:db8:1:1:ffff:ffff:ffff:ffff"), 3);
    /* 2001:db8:: begins with the same bytes as this one */
    assert_int_equal(drain(NULL, "32.1.13.184"), 3);
}

/* An organization and a key may have one id, and an address may look like it.
 */
static void test_limit_kinds_and_periods_do_not_mix(void **state)
{
    ue_keyrecord_t same = key_of(7, 7);

    LIMITS("1/s burst=1 by=key", "1/s burst=2 by=org", "1/m burst=3 by=key",
           "1/h burst=4 by=key", "1/h burst=5 by=org");
    assert_int_equal(drain(&same, NULL), 1);
    assert_int_equal(verdict.count, 5);
    assert_state(0, UE_BY_KEY, 1, 1, 0, 1);
    assert_state(1, UE_BY_KEY, 1, 60, 2, 60);
    assert_state(2, UE_BY_KEY, 1, 3600, 3, 3600);
    assert_state(3, UE_BY_ORG, 1, 1, 1, 1);
    assert_state(4, UE_BY_ORG, 1, 3600, 4, 3600);
    assert_int_equal(ue_subjects_count(subjects), 5);
}

/* A virtual host that has limits of its own; what a key or an organization has
 * itself is the same everywhere. */
static void test_limit_of_another_scope_counts_apart(void **state)
{
    ue_keyrecord_t who = key_of(1, 1), own = key_of(2, 2);

    own.of_org.rate = rate_of("1/h burst=5");
    for (uint16_t scope = 0; scope < 3; scope++) {
        LIMITS("1/h burst=3 by=org", "1/h burst=9 by=key", "1/h burst=9 by=ip");
        for (size_t i = 0; i < rule.count; i++) {
            assert_int_equal(limits[i].scope, 0);
            limits[i].scope = scope;
        }
        assert_int_equal(drain(&who, "192.0.2.1"), 3);
        assert_state(0, UE_BY_KEY, 1, 3600, 6, 3 * 3600);
        assert_state(2, UE_BY_IP, 1, 3600, 6, 3 * 3600);
        assert_int_equal(drain(&own, "192.0.2.2"), scope ? 0 : 5);
        assert_over(UE_BY_ORG, 3600);
    }
}

/* Servers of different rates judge the same count, each by its own. */
static void test_limit_is_counted_together_by_all_servers(void **state)
{
    ue_keyrecord_t who = key_of(1, 1);

    LIMITS("1/s burst=10 by=org");
    for (int i = 0; i < 7; i++) {
        assert_true(is_let_in(&who, NULL));
    }
    LIMITS("1/s burst=5 by=org");
    assert_int_equal(drain(&who, NULL), 0);
    assert_over(UE_BY_ORG, 3);
    LIMITS("1/s burst=8 by=org");
    assert_int_equal(drain(&who, NULL), 1);
    LIMITS("1/s burst=10 by=org");
    assert_int_equal(drain(&who, NULL), 2);
}

/* ---- several ---- */

static void test_limit_of_several_periods_holds_each(void **state)
{
    ue_keyrecord_t who = key_of(1, 1);

    LIMITS("10/s by=org", "15/m burst=15 by=org");
    assert_int_equal(drain(&who, NULL), 10);
    assert_over(UE_BY_ORG, 1);
    now += S;
    assert_int_equal(drain(&who, NULL), 5);
    /* four seconds a request of which one is over */
    assert_over(UE_BY_ORG, 3);
    assert_state(0, UE_BY_ORG, 10, 1, 5, 1);
    assert_state(1, UE_BY_ORG, 15, 60, 0, 59);
    now += 3 * S;
    assert_int_equal(drain(&who, NULL), 1);
}

static void test_limit_of_several_periods_waits_for_the_longest(void **state)
{
    ue_keyrecord_t who = key_of(1, 1);

    LIMITS("1/s by=key", "1/h by=key", "1/m by=org");
    assert_int_equal(drain(&who, NULL), 1);
    assert_over(UE_BY_KEY, 3600);
    LIMITS("1/s by=key", "1/m by=org");
    assert_int_equal(drain(&who, NULL), 0);
    assert_over(UE_BY_ORG, 60);
}

static void test_limit_needs_all_to_let_in(void **state)
{
    ue_keyrecord_t one = key_of(1, 1), two = key_of(1, 2);

    LIMITS("1/h burst=5 by=key", "1/h burst=3 by=org", "1/h burst=4 by=ip");
    assert_int_equal(drain(&one, "192.0.2.1"), 3);
    assert_over(UE_BY_ORG, 3600);
    LIMITS("1/h burst=5 by=key", "1/h burst=4 by=ip");
    assert_int_equal(drain(&one, "192.0.2.1"), 1);
    assert_over(UE_BY_IP, 3600);
    assert_int_equal(drain(&one, "192.0.2.2"), 1);
    assert_over(UE_BY_KEY, 3600);
    assert_int_equal(drain(&two, "192.0.2.2"), 3);
    assert_over(UE_BY_IP, 3600);
}

/* Whichever of them it is that refuses. */
static void test_limit_refusal_costs_the_others_nothing(void **state)
{
    static const char *const all[] = {
        "1/h burst=9 by=key", "1/h burst=9 by=org", "1/h burst=9 by=ip"};
    static const char *const tight[] = {"1/h by=key", "1/h by=org",
                                        "1/h by=ip"};

    for (size_t k = 0; k < UNIT_COUNT(all); k++) {
        const char *texts[] = {all[0], all[1], all[2], NULL};
        ue_keyrecord_t who = key_of((uint8_t)(k + 1), (uint8_t)(k + 1));
        const char *address = apr_psprintf(pool, "192.0.2.%d", (int)k);

        texts[k] = tight[k];
        set_limits(texts);
        assert_int_equal(drain(&who, address), 1);
        for (int i = 0; i < 20; i++) {
            assert_false(is_let_in(&who, address));
            assert_over((ue_limitby_t)k, 3600);
        }
        for (size_t i = 0; i < UNIT_COUNT(all); i++) {
            assert_state(i, i, 1, 3600, i == k ? 0 : 8, 3600);
        }
    }
}

/* Two limits that count in one place are as another request in between: each
 * lets in by itself, and then only one does. */
static void test_limit_refusal_in_between_spares_those_behind(void **state)
{
    ue_keyrecord_t who = key_of(1, 1);

    LIMITS("1/h burst=9 by=key", "1/h burst=1 by=org", "1/h burst=1 by=org",
           "1/h burst=9 by=ip");
    assert_int_equal(judge(&who, "192.0.2.1", 1), UE_LIMIT_OVER);
    assert_over(UE_BY_ORG, 3600);
    assert_state(0, UE_BY_KEY, 1, 3600, 8, 3600); /* in vain */
    assert_state(3, UE_BY_IP, 1, 3600, 9, 0);
    LIMITS("1/h burst=9 by=ip");
    assert_int_equal(drain(NULL, "192.0.2.1"), 9);
    /* What was charged in vain has to come back, too. */
    LIMITS("1/h by=key", "1/m burst=1 by=org", "1/m burst=1 by=org");
    who = key_of(2, 2);
    assert_int_equal(judge(&who, NULL, 1), UE_LIMIT_OVER);
    assert_over(UE_BY_ORG, 3600);
}

static void test_limit_may_be_looked_at_without_a_charge(void **state)
{
    static const char *const one[] = {"1/h burst=3 by=org", NULL};
    static const char *const two[] = {"1/h burst=3 by=org",
                                      "1/h burst=5 by=key", NULL};
    const char *const *const rules[] = {one, two};

    for (size_t k = 0; k < UNIT_COUNT(rules); k++) {
        ue_keyrecord_t who = key_of((uint8_t)(k + 1), (uint8_t)(k + 1));

        set_limits(rules[k]);
        for (int i = 0; i < 10; i++) {
            assert_int_equal(judge(&who, NULL, 0), UE_LIMIT_LET_IN);
            assert_int_equal(verdict.count, rule.count);
            assert_state(k, UE_BY_ORG, 1, 3600, 3, 0);
        }
        assert_int_equal(drain(&who, NULL), 3);
        assert_int_equal(judge(&who, NULL, 0), UE_LIMIT_OVER);
        assert_over(UE_BY_ORG, 3600);
        assert_state(k, UE_BY_ORG, 1, 3600, 0, 3 * 3600);
    }
}

/* ---- who is limited ---- */

static void assert_none(const ue_keyrecord_t *who, const char *address)
{
    for (int charge = 0; charge < 2; charge++) {
        assert_int_equal(judge(who, address, charge), UE_LIMIT_NONE);
        assert_int_equal(verdict.count, 0);
        assert_int_equal(verdict.retry_after, 0);
    }
    assert_int_equal(ue_subjects_count(subjects), 0);
}

static void test_limit_that_does_not_bear_costs_nothing(void **state)
{
    ue_keyrecord_t who = key_of(1, 1);

    LIMITS(NULL);
    assert_none(&who, "192.0.2.1");
    assert_none(NULL, "192.0.2.1");
    LIMITS("1/h by=key", "1/h by=org");
    assert_none(NULL, "192.0.2.1");
    LIMITS("1/h by=ip");
    assert_none(&who, NULL);
    assert_none(NULL, NULL);
}

/* Over a Unix socket nobody has an address. */
static void test_limit_by_ip_lets_in_who_has_no_address(void **state)
{
    ue_keyrecord_t who = key_of(1, 1);
    apr_sockaddr_t client;
    const ue_limited_t request = {&who, &client};

    memset(&client, 0, sizeof(client));
    client.family = APR_UNIX;
    strcpy(client.sa.unx.sun_path, "/run/x");
    LIMITS("1/h by=ip");
    ue_limit_judge(&verdict, subjects, &rule, &request, 1, now);
    assert_int_equal(verdict.result, UE_LIMIT_NONE);
    assert_int_equal(verdict.count, 0);
    LIMITS("1/h by=ip", "1/h burst=3 by=org");
    assert_int_equal(drain(&who, NULL), 3);
    assert_int_equal(verdict.count, 1);
    assert_state(0, UE_BY_ORG, 1, 3600, 0, 3 * 3600);
}

static void test_limit_of_a_key_stands_in_place_of_those_by_key(void **state)
{
    ue_keyrecord_t own = key_of(1, 1), usual = key_of(1, 2);

    own.of_key.rate = rate_of("2/h burst=7");
    LIMITS("1/s burst=3 by=key", "1/h burst=4 by=key", "1/h burst=99 by=org",
           "1/h burst=99 by=ip");
    assert_int_equal(drain(&own, "192.0.2.1"), 7);
    assert_over(UE_BY_KEY, 1800);
    assert_int_equal(verdict.count, 3);
    assert_state(0, UE_BY_KEY, 2, 3600, 0, 7 * 1800);
    assert_state(1, UE_BY_ORG, 1, 3600, 92, 7 * 3600);
    assert_state(2, UE_BY_IP, 1, 3600, 92, 7 * 3600);
    assert_int_equal(drain(&usual, "192.0.2.2"), 3);
    assert_int_equal(verdict.count, 4);
}

static void test_limit_of_an_org_stands_in_place_of_those_by_org(void **state)
{
    ue_keyrecord_t own = key_of(1, 1), second = key_of(1, 2), usual;

    own.of_org.rate = rate_of("2/h burst=7");
    second.of_org.rate = own.of_org.rate;
    usual = key_of(2, 3);
    LIMITS("1/s burst=3 by=org", "1/m burst=3 by=org", "1/h burst=4 by=key");
    assert_int_equal(drain(&own, NULL), 4);
    assert_over(UE_BY_KEY, 3600);
    assert_int_equal(verdict.count, 2);
    assert_int_equal(drain(&second, NULL), 3);
    assert_over(UE_BY_ORG, 1800);
    assert_state(1, UE_BY_ORG, 2, 3600, 0, 7 * 1800);
    assert_int_equal(drain(&usual, NULL), 3);
    assert_int_equal(verdict.count, 3);
}

static void test_limit_of_ones_own_needs_none_of_the_server(void **state)
{
    ue_keyrecord_t who = key_of(1, 1);

    LIMITS(NULL);
    who.of_key.rate = rate_of("1/h burst=2");
    who.of_org.rate = rate_of("1/m burst=3");
    assert_int_equal(drain(&who, "192.0.2.1"), 2);
    assert_over(UE_BY_KEY, 3600);
    assert_int_equal(verdict.count, 2);
    assert_state(1, UE_BY_ORG, 1, 60, 1, 120);
    who.of_key.rate.count = 0;
    assert_int_equal(drain(&who, "192.0.2.1"), 1);
    assert_over(UE_BY_ORG, 60);
    assert_int_equal(verdict.count, 1);
}

/* Nine at once, and each of them holds. */
static void test_limit_may_be_nine(void **state)
{
    static const char *const units[] = {"s", "m", "h"};
    static const char *const whose[] = {"key", "org", "ip"};

    for (size_t tight = 0; tight < UE_LIMITS_MAX; tight++) {
        ue_keyrecord_t who = key_of((uint8_t)(tight + 1), (uint8_t)(tight + 1));
        const char *address = apr_psprintf(pool, "192.0.2.%d", (int)tight);
        const char *texts[UE_LIMITS_MAX + 1] = {NULL};

        for (size_t i = 0; i < UE_LIMITS_MAX; i++) {
            /* as they come, mixed by kind; told by key, org, ip */
            texts[i] =
                apr_psprintf(pool, "1/%s burst=%d by=%s", units[i / 3],
                             i % 3 * 3 + i / 3 == tight ? 2 : 9, whose[i % 3]);
        }
        set_limits(texts);
        assert_int_equal(drain(&who, address), 2);
        assert_int_equal(verdict.over, tight / 3);
        assert_int_equal(verdict.count, UE_LIMITS_MAX);
        for (size_t i = 0; i < UE_LIMITS_MAX; i++) {
            assert_int_equal(verdict.states[i].by, i / 3);
            assert_int_equal(verdict.states[i].window, i % 3 == 0   ? 1
                                                       : i % 3 == 1 ? 60
                                                                    : 3600);
            assert_int_equal(verdict.states[i].remaining, i == tight ? 0 : 7);
        }
    }
}

/* ---- no room ---- */

/* A table of this size, all of it taken by keys that are limited. */
static void fill(uint32_t size)
{
    const ue_limitrule_t before = rule;

    assert_int_equal(ue_subjects_create(&subjects, size, pool), APR_SUCCESS);
    rule.count = 0;
    for (uint32_t i = 0; i < size; i++) {
        ue_keyrecord_t who = key_of(0xf0, (uint8_t)(0x80 + i));

        who.of_key.rate = rate_of("1/h");
        assert_true(is_let_in(&who, NULL));
    }
    rule = before;
}

static void test_limit_without_room_is_unknown(void **state)
{
    ue_keyrecord_t who = key_of(1, 1);

    LIMITS("1/h burst=5 by=org");
    fill(1);
    for (int charge = 0; charge < 2; charge++) {
        assert_int_equal(judge(&who, NULL, charge), UE_LIMIT_UNKNOWN);
        assert_int_equal(verdict.count, 0);
        assert_int_equal(verdict.retry_after, 0);
        assert_null(ue_limit_tightest(&verdict));
    }
    now += 3601 * S; /* the one that was there has its bucket full again */
    assert_int_equal(drain(&who, NULL), 5);
}

/* Or whoever fills the table with addresses would be rid of all limits. */
static void test_limit_that_is_known_holds_where_another_is_not(void **state)
{
    ue_keyrecord_t who = key_of(0xf0, 0x80);

    fill(1);
    who.of_key.rate = rate_of("1/h burst=3");
    LIMITS("1/h burst=5 by=org", "1/h burst=5 by=ip");
    for (uint32_t used = 1; used < 3; used++) {
        assert_int_equal(judge(&who, "192.0.2.1", 0), UE_LIMIT_UNKNOWN);
        assert_int_equal(verdict.count, 1);
        assert_state(0, UE_BY_KEY, 1, 3600, 3 - used, used * 3600);
        assert_int_equal(judge(&who, "192.0.2.1", 1), UE_LIMIT_UNKNOWN);
        assert_int_equal(verdict.count, 1);
        assert_state(0, UE_BY_KEY, 1, 3600, 2 - used, (used + 1) * 3600);
    }
    for (int charge = 0; charge < 2; charge++) {
        assert_int_equal(judge(&who, "192.0.2.1", charge), UE_LIMIT_OVER);
        assert_over(UE_BY_KEY, 3600);
        assert_int_equal(verdict.count, 1);
    }
}

static void test_limit_that_is_known_holds_behind_one_that_is_not(void **state)
{
    ue_keyrecord_t who = key_of(1, 1);

    assert_int_equal(ue_subjects_create(&subjects, 1, pool), APR_SUCCESS);
    LIMITS("1/h by=org");
    assert_true(is_let_in(&who, NULL));
    LIMITS("1/h by=org", "1/h by=key");
    for (int charge = 0; charge < 2; charge++) {
        assert_int_equal(judge(&who, NULL, charge), UE_LIMIT_OVER);
        assert_over(UE_BY_ORG, 3600);
        assert_int_equal(verdict.count, 1);
        assert_state(0, UE_BY_ORG, 1, 3600, 0, 3600);
    }
}

/* In a table of one, each takes the other's slot, until one is charged. */
static void test_limit_finds_again_whose_slot_was_taken(void **state)
{
    ue_keyrecord_t who = key_of(1, 1);

    assert_int_equal(ue_subjects_create(&subjects, 1, pool), APR_SUCCESS);
    LIMITS("1/h burst=2 by=key", "1/h burst=9 by=org");
    assert_int_equal(judge(&who, NULL, 1), UE_LIMIT_UNKNOWN);
    assert_int_equal(verdict.count, 1);
    assert_state(0, UE_BY_KEY, 1, 3600, 1, 3600);
    assert_int_equal(judge(&who, NULL, 1), UE_LIMIT_UNKNOWN);
    assert_state(0, UE_BY_KEY, 1, 3600, 0, 7200);
    assert_int_equal(judge(&who, NULL, 1), UE_LIMIT_OVER);
    assert_over(UE_BY_KEY, 3600);
}

/* Who is turned away for want of room is not charged by the others. */
static void test_limit_without_room_costs_only_who_is_let_in(void **state)
{
    static const struct {
        ue_limitfailure_t failure;
        int is_dry, charges;
    } table[] = {{UE_LIMIT_LOCAL, 0, 1},
                 {UE_LIMIT_OPEN, 0, 1},
                 {UE_LIMIT_CLOSED, 0, 0},
                 {UE_LIMIT_CLOSED, 1, 1}};

    for (size_t i = 0; i < UNIT_COUNT(table); i++) {
        ue_keyrecord_t who = key_of(0xf0, 0x80);

        rule.failure = table[i].failure;
        rule.is_dry = table[i].is_dry;
        LIMITS("1/h burst=5 by=org");
        fill(1);
        who.of_key.rate = rate_of("1/h burst=9");
        assert_int_equal(judge(&who, NULL, 1), UE_LIMIT_UNKNOWN);
        assert_int_equal(judge(&who, NULL, 1), UE_LIMIT_UNKNOWN);
        assert_int_equal(verdict.count, 1);
        assert_int_equal(verdict.states[0].remaining, table[i].charges ? 6 : 8);
    }
}

/* ---- when to come back ---- */

/* Use up what there is, at random moments, and come back when told to. */
static void come_back(const char *const texts[], uint64_t *seed)
{
    ue_keyrecord_t who =
        key_of((uint8_t)unit_random(seed), (uint8_t)unit_random(seed));

    set_limits(texts);
    assert_int_equal(ue_subjects_create(&subjects, 16, pool), APR_SUCCESS);
    for (int i = 0; i < 20; i++) {
        uint32_t after;

        while (is_let_in(&who, "192.0.2.1")) {
            /* slower than what comes back */
            now += unit_random(seed) % limits[0].gcra.emission;
        }
        after = verdict.retry_after;
        assert_true(after >= 1);
        if (after > 1) { /* and no longer than needed */
            now += (after - 1) * S;
            assert_int_equal(judge(&who, "192.0.2.1", 1), UE_LIMIT_OVER);
            assert_int_equal(verdict.retry_after, 1);
            after = 1;
        }
        now += after * S;
        assert_true(is_let_in(&who, "192.0.2.1"));
        now += unit_random(seed) % (3 * S);
    }
}

static void test_limit_retry_after_is_true(void **state)
{
    static const char *const some[] = {"1/h",
                                       "5/s burst=1",
                                       "1/m",
                                       "1/s",
                                       "100/s",
                                       "1000/s burst=1",
                                       "7/m",
                                       "59/m burst=2",
                                       "3601/h",
                                       "13/h burst=3",
                                       "999999937/s burst=1",
                                       "3/s burst=7",
                                       "1000000000/s burst=1",
                                       "61/m burst=61"};
    uint64_t seed = 1;

    for (size_t i = 0; i < UNIT_COUNT(some); i++) {
        const char *one[] = {some[i], NULL};

        come_back(one, &seed);
        for (size_t k = 0; k < UNIT_COUNT(some); k++) {
            const char *two[] = {apr_pstrcat(pool, some[i], " by=key", NULL),
                                 apr_pstrcat(pool, some[k], " by=ip", NULL),
                                 NULL};

            come_back(two, &seed);
        }
    }
}

/* What was used up by the hour doesn't keep a faster rate shut. */
static void test_limit_takes_over_what_was_used_up(void **state)
{
    ue_keyrecord_t who = key_of(1, 1);

    LIMITS("1/m burst=100 by=org");
    assert_int_equal(drain(&who, NULL), 100);
    LIMITS("1/m burst=10 by=org");
    assert_int_equal(drain(&who, NULL), 0);
    assert_over(UE_BY_ORG, 91 * 60);
    assert_state(0, UE_BY_ORG, 1, 60, 0, 100 * 60);
    who.of_org.rate = rate_of("60/m burst=120");
    assert_int_equal(drain(&who, NULL), 20);
    assert_over(UE_BY_ORG, 1);
}

static int begin(void **state)
{
    apr_status_t rv = apr_pool_create(&pool, NULL);
    struct timespec t;

    /* from where the table's own clock is */
    clock_gettime(CLOCK_MONOTONIC, &t);
    now = (uint64_t)t.tv_sec * S + (uint64_t)t.tv_nsec;
    memset(&rule, 0, sizeof(rule));
    return rv ? rv : (int)ue_subjects_create(&subjects, 1000, pool);
}

static int end(void **state)
{
    apr_pool_destroy(pool);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

static const struct CMUnitTest tests[] = {
    TEST(test_limit_lets_a_burst_in_and_then_its_rate),
    TEST(test_limit_lets_each_newcomer_in),
    TEST(test_limit_tells_whose_it_is),
    TEST(test_limit_by_key_is_of_each_key),
    TEST(test_limit_tells_similar_ids_apart),
    TEST(test_limit_by_org_is_of_all_its_keys),
    TEST(test_limit_by_ip_is_of_each_address),
    TEST(test_limit_of_ipv6_is_of_64_bits),
    TEST(test_limit_kinds_and_periods_do_not_mix),
    TEST(test_limit_of_another_scope_counts_apart),
    TEST(test_limit_is_counted_together_by_all_servers),
    TEST(test_limit_of_several_periods_holds_each),
    TEST(test_limit_of_several_periods_waits_for_the_longest),
    TEST(test_limit_needs_all_to_let_in),
    TEST(test_limit_refusal_costs_the_others_nothing),
    TEST(test_limit_refusal_in_between_spares_those_behind),
    TEST(test_limit_may_be_looked_at_without_a_charge),
    TEST(test_limit_that_does_not_bear_costs_nothing),
    TEST(test_limit_by_ip_lets_in_who_has_no_address),
    TEST(test_limit_of_a_key_stands_in_place_of_those_by_key),
    TEST(test_limit_of_an_org_stands_in_place_of_those_by_org),
    TEST(test_limit_of_ones_own_needs_none_of_the_server),
    TEST(test_limit_may_be_nine),
    TEST(test_limit_without_room_is_unknown),
    TEST(test_limit_that_is_known_holds_where_another_is_not),
    TEST(test_limit_that_is_known_holds_behind_one_that_is_not),
    TEST(test_limit_finds_again_whose_slot_was_taken),
    TEST(test_limit_without_room_costs_only_who_is_let_in),
    TEST(test_limit_retry_after_is_true),
    TEST(test_limit_takes_over_what_was_used_up),
};

UNIT_MAIN(tests)
