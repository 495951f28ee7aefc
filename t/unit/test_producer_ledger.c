/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * What a producer writes to the ledger, and when: before a sink with numbers
 * that keeps the records, and a worker that is the test.
 */
#include "unit_lanes.h"

#include <sys/wait.h>

#include <json-c/json.h>

#define NOTES 256
#define HOUR apr_time_from_sec(3600)
#define TICK apr_time_from_sec(11) /* a record is due after it */

typedef struct {
    char key[160];
    json_object *value;
    uint32_t cookie;
    int is_told;
} written_t;

static written_t written[NOTES];
static int written_count;
static apr_status_t note_result;
static int is_stored; /* what a record's fate is */

static apr_status_t note(ue_sink_t *s, const char *key, size_t key_len,
                         const char *value, size_t value_len, uint32_t cookie)
{
    written_t *w = &written[written_count];
    char *text;

    if (note_result != APR_SUCCESS) {
        return note_result;
    }
    assert_true(written_count < NOTES && key_len < sizeof(w->key));
    memcpy(w->key, key, key_len);
    w->key[key_len] = '\0';
    text = strndup(value, value_len);
    w->value = json_tokener_parse(text);
    assert_non_null(w->value);
    free(text);
    w->cookie = cookie;
    w->is_told = 0;
    written_count++;
    return APR_SUCCESS;
}

static int choose_refused(lane_sink_t *s, uint32_t lane, const held_t *held)
{
    return UE_REFUSED;
}

static void forget_written(void)
{
    while (written_count > 0) {
        json_object_put(written[--written_count].value);
    }
}

/** All that was written gets its fate. */
static void tell(void)
{
    for (int i = 0; i < written_count; i++) {
        if (!written[i].is_told) {
            written[i].is_told = 1;
            ue_producer_noted(direct, written[i].cookie, is_stored);
        }
    }
}

static void make_ledger(uint32_t lanes, ue_accounts_t *accounts)
{
    ue_producer_config_t config = lanes_config();
    static ue_target_t target;

    strcpy(target.topic, "events");
    config.target = &target;
    config.accounts = accounts;
    sink->vtable.note = note;
    sink->lanes = lanes;
    make_direct(&config, 1);
}

/** What the worker does in a tick, so long after the last. */
static void tick(apr_interval_time_t time)
{
    clock_now += time;
    for (int i = 0; i < 3; i++) {
        ue_producer_tend_streams(direct, clock_now);
        ue_producer_feed(direct, clock_now);
        tell();
    }
}

static int64_t number(const written_t *w, const char *name)
{
    json_object *o;

    assert_true(json_object_object_get_ex(w->value, name, &o));
    return json_object_get_int64(o);
}

static const char *text(const written_t *w, const char *name)
{
    json_object *o;

    assert_true(json_object_object_get_ex(w->value, name, &o));
    return json_object_get_string(o);
}

/** The last record of a kind. */
static const written_t *last(const char *kind)
{
    for (int i = written_count; i > 0; i--) {
        if (!strcmp(text(&written[i - 1], "kind"), kind)) {
            return &written[i - 1];
        }
    }
    fail_msg("there is no %s in the ledger", kind);
    return NULL;
}

static void check_record_of(int64_t admitted, int64_t waiting,
                            int64_t delivered, int64_t lost)
{
    const written_t *w = last("stream");

    assert_int_equal(number(w, "admitted"), admitted);
    assert_int_equal(number(w, "waiting"), waiting);
    assert_int_equal(number(w, "delivered"), delivered);
    assert_int_equal(number(w, "lost"), lost);
}

/** A request that was read then. @return its slot */
static ue_slot_ref_t admit_at(unsigned organization, apr_time_t when)
{
    ue_admission_t a = event_for(organization, ++events);
    ue_slot_ref_t ref;

    a.timestamp = when;
    assert_int_equal(ue_producer_admit(direct, &a, UE_OVERFLOW_DROP, &ref),
                     APR_SUCCESS);
    return ref;
}

static void finish(ue_slot_ref_t ref)
{
    assert_int_equal(
        ue_journal_complete(direct->journal, ref, &unit_completion),
        APR_SUCCESS);
    assert_true(ue_journal_list(direct->journal, ref, 1u << UE_SLOT_COMPLETE));
    ue_producer_list(direct, ref, clock_now);
}

static void put_now(unsigned organization)
{
    finish(admit_at(organization, apr_time_now()));
}

static const char *time_of(apr_time_t when)
{
    static char at[32];

    *ue_time_write(when, at) = '\0';
    return at;
}

/* ---- records ---- */

static void test_ledger_is_written_every_ten_seconds(void **state)
{
    make_ledger(2, NULL);
    tick(0); /* that it is there */
    assert_int_equal(written_count, 1);
    check_record_of(0, 0, 0, 0);
    tick(apr_time_from_sec(5));
    assert_int_equal(written_count, 1);
    for (unsigned i = 0; i < 10; i++) {
        put_now(i % 3);
    }
    tick(apr_time_from_sec(6));
    assert_int_equal(written_count, 2);
    tick(TICK);
    check_record_of(10, 0, 10, 0);
    assert_string_equal(text(last("stream"), "state"), "open");
    assert_string_equal(text(last("stream"), "partitions"),
                        "{ \"0\": { \"sent\": 7, \"delivered\": 7 }, "
                        "\"1\": { \"sent\": 3, \"delivered\": 3 } }");
}

static void test_ledger_says_what_waits(void **state)
{
    make_ledger(2, NULL);
    tick(0);
    sink->takes = 0;
    for (unsigned i = 0; i < 10; i++) {
        put_now(0);
    }
    admit_at(1, apr_time_now());
    tick(TICK);
    tick(TICK);
    check_record_of(11, 11, 0, 0);
}

static void test_ledger_full_is_asked_again(void **state)
{
    make_ledger(2, NULL);
    note_result = APR_EAGAIN;
    tick(0);
    assert_int_equal(written_count, 0);
    note_result = APR_SUCCESS;
    tick(apr_time_from_sec(1));
    assert_int_equal(written_count, 1);
}

/* One record that Kafka will never take doesn't hold the others up. */
static void test_ledger_goes_on_without_what_is_refused(void **state)
{
    make_ledger(2, NULL);
    note_result = APR_EGENERAL;
    tick(0);
    assert_int_equal(metric(UE_M_LEDGER_FAILED), 1);
    note_result = APR_SUCCESS;
    tick(apr_time_from_sec(5));
    assert_int_equal(written_count, 0);
    tick(TICK);
    assert_int_equal(written_count, 1);
    assert_int_equal(metric(UE_M_LEDGER_STORED), 1);
}

static void test_ledger_tells_a_loss_until_it_is_stored(void **state)
{
    make_ledger(1, NULL);
    tick(0);
    sink->choose = choose_refused;
    put_now(1);
    put_now(1);
    is_stored = 0;
    tick(TICK);
    tick(TICK);
    assert_int_equal(number(last("loss"), "count"), 2);
    assert_string_equal(text(last("loss"), "cause"), "rejected");
    assert_string_equal(text(last("loss"), "sequences"),
                        "{ \"0\": [ [ 1, 2 ] ] }");
    check_record_of(2, 0, 0, 2);
    is_stored = 1;
    tick(TICK);
    forget_written();
    tick(TICK);
    assert_int_equal(written_count, 1); /* not the losses again */
    put_now(1);
    tick(TICK);
    tick(TICK);
    assert_int_equal(number(last("loss"), "count"), 3);
}

static void test_ledger_names_what_was_dropped(void **state)
{
    ue_admission_t a = event_for(7, 1);
    ue_slot_ref_t ref;

    make_ledger(1, NULL);
    for (unsigned i = 0; i < direct->config.slots; i++) {
        admit_at(1, apr_time_now());
    }
    a.timestamp = apr_time_now();
    assert_int_equal(ue_producer_admit(direct, &a, UE_OVERFLOW_DROP, &ref),
                     APR_EAGAIN);
    tick(TICK);
    assert_int_equal(number(last("loss"), "count"), 1);
    assert_string_equal(text(last("loss"), "cause"), "overflow");
    check_record_of(direct->config.slots + 1, direct->config.slots, 0, 1);
}

/* ---- the watermark ---- */

static void test_watermark_stops_at_what_waits(void **state)
{
    apr_time_t old = apr_time_now() - apr_time_from_sec(30);
    ue_slot_ref_t ref;

    make_ledger(1, NULL);
    /* Opened an hour ago, or its own watermark would be higher. */
    atomic_store(&direct->own->file.account->watermark, old - HOUR);
    ref = admit_at(1, old);
    tick(TICK);
    tick(TICK);
    assert_string_equal(text(last("stream"), "watermark"), time_of(old));
    finish(ref);
    tick(TICK);
    tick(TICK);
    assert_true(strcmp(text(last("stream"), "watermark"),
                       time_of(apr_time_now() - apr_time_from_sec(2)))
                > 0);
}

/* Read before it and admitted after it: the event gets it as its time. */
static void test_watermark_is_no_event_s_future(void **state)
{
    apr_time_t before = apr_time_now() - apr_time_from_sec(60);
    char watermark[40];
    ue_slot_ref_t ref;

    make_ledger(1, NULL);
    tick(TICK);
    tick(TICK);
    strcpy(watermark, text(last("stream"), "watermark"));
    ref = admit_at(1, before);
    assert_true(
        strcmp(time_of(ue_journal_began(direct->journal, ref)), watermark)
        >= 0);
}

static void test_watermark_leaves_out_what_is_open_for_long(void **state)
{
    apr_time_t long_ago = apr_time_now() - 2 * HOUR;
    ue_uuid_t id = event_for(7, 1).organization_id;
    char want[128], org[UE_UUID_LEN + 1];

    make_ledger(1, NULL);
    atomic_store(&direct->own->file.account->watermark, long_ago - HOUR);
    admit_at(7, long_ago);
    admit_at(7, long_ago + 1);
    admit_at(8, apr_time_now() - apr_time_from_sec(60));
    tick(TICK);
    tick(TICK);
    snprintf(want, sizeof(want),
             "[ { \"organization_id\": \"%s\", \"count\": 2 } ]",
             ue_uuid_format(&id, org));
    assert_string_equal(text(last("stream"), "long"), want);
    assert_true(strcmp(text(last("stream"), "watermark"),
                       time_of(apr_time_now() - apr_time_from_sec(90)))
                > 0);
}

/* ---- the end of a stream ---- */

static void test_stream_ends_when_partitions_change(void **state)
{
    char first[160];

    make_ledger(2, NULL);
    tick(0);
    put_now(0);
    put_now(1);
    tick(TICK);
    tick(TICK);
    strcpy(first, last("stream")->key);
    sink->lanes = 4;
    admit_at(5, apr_time_now());
    tick(TICK);
    forget_written();
    tick(TICK);
    tick(TICK);
    for (int i = 0; i < written_count; i++) {
        int is_old = !strcmp(written[i].key, first);

        assert_string_equal(text(&written[i], "state"),
                            is_old ? "closed" : "open");
        assert_int_equal(number(&written[i], "admitted"), is_old ? 2 : 1);
        assert_int_equal(number(&written[i], "waiting"), is_old ? 0 : 1);
    }
    /* Told once, it is not told again. */
    assert_string_not_equal(last("stream")->key, first);
    check_record_of(1, 1, 0, 0);
}

static void test_stream_ends_at_the_close(void **state)
{
    make_ledger(2, NULL);
    tick(0);
    put_now(0);
    tick(TICK);
    close_direct();
    check_record_of(1, 0, 1, 0);
    assert_string_equal(text(last("stream"), "state"), "closed");
}

/* A child that is killed without a spool leaves an account that others tell. */
static void test_stream_of_a_killed_child_is_unclean(void **state)
{
    ue_accounts_t *accounts;
    const written_t *w;
    int status;
    pid_t pid;

    assert_int_equal(ue_accounts_create(&accounts, 4, fix.pool), APR_SUCCESS);
    pid = fork();
    if (pid == 0) {
        make_ledger(2, accounts);
        tick(0);
        put_now(0);
        tick(TICK);
        admit_at(1, apr_time_now());
        tick(TICK);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    make_ledger(2, accounts);
    tick(TICK);
    tick(TICK);
    w = &written[0];
    for (int i = 0; i < written_count; i++) {
        w = number(&written[i], "pid") == pid ? &written[i] : w;
    }
    assert_int_equal(number(w, "pid"), pid);
    assert_string_equal(text(w, "state"), "unclean");
    assert_int_equal(number(w, "admitted"), 2);
    assert_int_equal(number(w, "waiting"), 1);
    assert_int_equal(lines_with("UE0204: producer: stream "), 1);
    /* It was told, and its place is free again. */
    forget_written();
    tick(TICK);
    tick(TICK);
    assert_int_not_equal(number(last("stream"), "pid"), pid);
    for (int i = 0; i < 3; i++) {
        assert_non_null(ue_accounts_take(accounts));
    }
    assert_null(ue_accounts_take(accounts));
}

static int set_up_ledger(void **state)
{
    note_result = APR_SUCCESS;
    is_stored = 1;
    return set_up_lanes(state);
}

static int tear_down_ledger(void **state)
{
    forget_written();
    return tear_down_lanes(state);
}

#define LEDGER_TEST(f) \
    cmocka_unit_test_setup_teardown(f, set_up_ledger, tear_down_ledger)

static const struct CMUnitTest tests[] = {
    LEDGER_TEST(test_ledger_is_written_every_ten_seconds),
    LEDGER_TEST(test_ledger_says_what_waits),
    LEDGER_TEST(test_ledger_full_is_asked_again),
    LEDGER_TEST(test_ledger_goes_on_without_what_is_refused),
    LEDGER_TEST(test_ledger_tells_a_loss_until_it_is_stored),
    LEDGER_TEST(test_ledger_names_what_was_dropped),
    LEDGER_TEST(test_watermark_stops_at_what_waits),
    LEDGER_TEST(test_watermark_is_no_event_s_future),
    LEDGER_TEST(test_watermark_leaves_out_what_is_open_for_long),
    LEDGER_TEST(test_stream_ends_when_partitions_change),
    LEDGER_TEST(test_stream_ends_at_the_close),
    LEDGER_TEST(test_stream_of_a_killed_child_is_unclean),
};

UNIT_MAIN(tests)
