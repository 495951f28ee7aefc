/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * The producer before a sink with lanes and numbers, as Kafka is one: what
 * waits for a lane, when a batch goes, under which numbers, and what becomes of
 * it when it comes back. (Random schedules of all that are
 * test_producer_lanes_model.c.)
 */
#include "unit_lanes.h"

/* ---- lanes ---- */

static void test_lanes_wait_until_they_are_known(void **state)
{
    make_lanes(0);
    for (unsigned i = 0; i < 200; i++) {
        put(i % 5);
    }
    for (int i = 0; i < 5; i++) {
        feed_after(LONG);
    }
    assert_int_equal(sink->batch_count, 0);
    assert_int_equal(ue_producer_unsettled(direct), 200);
    sink->lanes = 4;
    feed_out();
    assert_int_equal(metric(UE_M_EVENTS_DELIVERED), 200);
    assert_int_equal(sink->batch_count, 4);
    check_end();
}

/* They are known already when the lanes are forgotten for a while. */
static void test_lanes_go_on_while_they_are_unknown_again(void **state)
{
    make_lanes(4);
    put_some(1, 5);
    feed_out();
    sink->lanes = 0;
    put_some(1, 5);
    feed_out();
    sink->lanes = 4;
    put_some(1, 5);
    feed_out();
    assert_int_equal(sink->streams, 1);
    assert_int_equal(sink->given[1], 15);
    check_end();
}

static void test_lanes_unknown_at_the_end_are_a_loss(void **state)
{
    make_lanes(0);
    put_some(1, 20);
    feed_after(LONG);
    close_direct();
    assert_int_equal(metric(UE_M_EVENTS_LOST_SHUTDOWN), 20);
    assert_int_equal(lines_with("UE0201: producer: 20 events were not "
                                "delivered when the child ended, and are lost "
                                "(of these, 0 were"),
                     1);
}

static void test_lane_has_one_batch_under_way(void **state)
{
    make_lanes(2);
    sink->choose = choose_hold;
    put_some(0, 10);
    feed_after(A_WHILE);
    assert_int_equal(sink->batch_count, 1);
    put_some(0, 10);
    put_some(1, 10);
    feed_after(LONG);
    feed_after(LONG);
    /* the other lane's, and no other of the first */
    assert_int_equal(sink->batch_count, 2);
    check_offer(1, 1, 10);
    /* all but one reported */
    while (sink->held_count[0] > 1) {
        sink_report(sink, 0, 0, UE_DELIVERED);
    }
    feed_after(LONG);
    assert_int_equal(sink->batch_count, 2);
    sink_report(sink, 0, 0, UE_DELIVERED);
    feed_after(LONG);
    assert_int_equal(sink->batch_count, 3);
    check_offer(2, 0, 10);
    sink->choose = choose_delivered;
    feed_out();
    check_end();
}

static void test_lane_waits_for_room(void **state)
{
    make_lanes(4);
    sink->no_room[2] = 1;
    for (unsigned i = 0; i < 40; i++) {
        put(i % 4);
    }
    feed_after(A_WHILE);
    feed_after(LONG);
    feed_after(LONG);
    assert_int_equal(metric(UE_M_EVENTS_DELIVERED), 30);
    assert_int_equal(sink->batch_count, 3);
    sink->no_room[2] = 0;
    feed_out();
    check_offer(3, 2, 10);
    check_end();
}

/* However long a batch takes, counted in the worker's rounds: where there is
 * room for one batch or two, each lane comes to its turn. */
static void test_lanes_take_turns_at_little_room(void **state)
{
    const unsigned lanes = 6;

    for (unsigned every = 1; every <= 2 * lanes; every++) {
        for (unsigned credit = 1; credit <= 2; credit++) {
            if (direct) {
                tear_down_lanes(state);
                assert_int_equal(set_up_lanes(state), 0);
            }
            make_lanes(lanes);
            report_every = every;
            sink->choose = choose_at_times;
            sink->credit = credit;
            sink->vtable.batch_events = 2;
            for (unsigned i = 0; i < 900; i++) {
                put(i % lanes);
            }
            feed_after(LONG);
            for (unsigned i = 0; i < every * lanes * 2; i++) {
                feed_after(apr_time_from_msec(1));
            }
            for (unsigned i = 0; i < lanes; i++) {
                if (sink->given[i] == 0) {
                    fail_msg("lane %u never came to its turn (a batch takes "
                             "%u rounds, room for %u)",
                             i, every, credit);
                }
            }
            sink->choose = choose_delivered;
            feed_out();
            check_end();
        }
    }
}

/* A sink that asks to be asked again soon breaks a round off. */
static void test_lanes_take_turns_at_a_busy_sink(void **state)
{
    const unsigned lanes = 6;

    make_lanes(lanes);
    sink->vtable.batch_events = 2;
    sink->says = APR_EAGAIN; /* takes one batch a round */
    for (unsigned i = 0; i < 900; i++) {
        put(i % lanes);
    }
    for (unsigned i = 0; i < 3 * lanes; i++) {
        feed_after(LONG);
    }
    for (unsigned i = 0; i < lanes; i++) {
        assert_true(sink->given[i] >= 2);
    }
    feed_out();
    check_end();
}

/* ---- when a batch is due, and how much it holds ---- */

static void test_lane_is_due_when_it_has_a_batch(void **state)
{
    ue_producer_config_t config = lanes_config();

    config.batch_size = 10;
    config.flush_interval = apr_time_from_sec(60);
    sink->lanes = 2;
    make_direct(&config, 1);
    put_some(0, 9);
    put_some(1, 9);
    feed_after(apr_time_from_msec(1));
    assert_int_equal(sink->batch_count, 0);
    put(1);
    feed_after(apr_time_from_msec(1));
    assert_int_equal(sink->batch_count, 1);
    check_offer(0, 1, 10);
    feed_out();
    check_end();
}

static void test_lane_is_due_when_its_first_event_has_waited(void **state)
{
    ue_producer_config_t config = lanes_config();

    config.flush_interval = apr_time_from_msec(500);
    sink->lanes = 2;
    make_direct(&config, 1);
    put(0);
    feed_after(apr_time_from_msec(300));
    put(0);
    put(1);
    feed_after(apr_time_from_msec(190));
    assert_int_equal(sink->batch_count, 0);
    feed_after(apr_time_from_msec(10));
    assert_int_equal(sink->batch_count, 1);
    check_offer(0, 0, 2);
    feed_after(apr_time_from_msec(290));
    assert_int_equal(sink->batch_count, 1);
    feed_after(apr_time_from_msec(10));
    assert_int_equal(sink->batch_count, 2);
    check_offer(1, 1, 1);
    feed_out();
    check_end();
}

/* What waited while the lanes were not known has waited. */
static void test_lane_counts_the_time_before_it_was_known(void **state)
{
    make_lanes(0);
    put(3);
    feed_after(apr_time_from_msec(90));
    sink->lanes = 2;
    feed_after(apr_time_from_msec(4));
    assert_int_equal(sink->batch_count, 0);
    feed_after(apr_time_from_msec(6));
    assert_int_equal(sink->batch_count, 1);
    feed_out();
    check_end();
}

static void test_batch_holds_so_many_events(void **state)
{
    sink->vtable.batch_events = 25;
    make_lanes(2);
    put_some(1, 60);
    feed_out();
    assert_int_equal(sink->batch_count, 3);
    check_offer(0, 1, 25);
    check_offer(1, 1, 25);
    check_offer(2, 1, 10);
    check_end();
}

/* Bytes are the JSON, a line feed, and the overhead. A batch ends when the
 * largest event might not fit. */
static void test_batch_holds_so_many_bytes(void **state)
{
    const size_t overhead = 2000;
    const size_t most = 5 * UE_EVENT_JSON_MAX;

    sink->vtable.event_overhead = overhead;
    sink->vtable.batch_bytes = most;
    make_lanes(1);
    put_some(1, 100);
    feed_out();
    assert_true(sink->batch_count > 2);
    for (unsigned i = 0; i + 1 < sink->batch_count; i++) {
        assert_true(sink->batches[i].bytes <= most);
        assert_true(sink->batches[i].bytes + UE_EVENT_JSON_MAX + overhead
                    >= most);
        assert_true(sink->batches[i].bytes
                    >= sink->batches[i].count * (overhead + 200));
    }
    check_end();
}

/* Slots that hold their events' texts in pieces, as long as they may be. */
static void test_batch_holds_events_of_any_length(void **state)
{
    static char endpoint[UE_ENDPOINT_MAX];

    sink->vtable.batch_bytes = 3 * UE_EVENT_JSON_MAX;
    make_lanes(2);
    memset(endpoint, 1, sizeof(endpoint)); /* each becomes six bytes */
    for (unsigned i = 0; i < 20; i++) {
        ue_admission_t a = event_for(i % 3, ++events);
        ue_slot_ref_t ref;

        a.endpoint = endpoint;
        a.endpoint_len = i % 2 ? sizeof(endpoint) : i;
        ue_metrics_add(fix.seat, UE_M_EVENTS_ADMITTED, 1);
        assert_int_equal(ue_journal_admit(direct->journal, &a, &ref),
                         APR_SUCCESS);
        assert_int_equal(
            ue_journal_complete(direct->journal, ref, &unit_completion),
            APR_SUCCESS);
        assert_true(
            ue_journal_list(direct->journal, ref, 1u << UE_SLOT_COMPLETE));
        ue_producer_list(direct, ref, clock_now);
    }
    feed_out();
    assert_int_equal(metric(UE_M_EVENTS_DELIVERED), 20);
    check_end();
}

/* ---- numbers ---- */

static int event_outcome[IDS_MAX]; /* for the next time it is reported */

static int choose_by_event(lane_sink_t *s, uint32_t lane, const held_t *held)
{
    int outcome = event_outcome[held->event];

    event_outcome[held->event] = UE_DELIVERED;
    return outcome;
}

static void test_numbers_are_kept_by_what_is_sent_again(void **state)
{
    make_lanes(2);
    sink->orderly = 0;
    sink->choose = choose_by_event;
    memset(event_outcome, 0, sizeof(event_outcome));
    event_outcome[2] = UE_UNSENT;
    event_outcome[4] = UE_UNKNOWN;
    event_outcome[5] = UE_UNSENT;
    put_some(1, 6);
    feed_after(A_WHILE); /* offered */
    put_some(1, 2);
    feed_after(0); /* reported, and offered again: something was delivered */
    assert_int_equal(sink->batch_count, 2);
    check_offer(1, 1, 5);
    check_handed(6, 2, 1, 2, 1);
    check_handed(7, 4, 1, 4, 1);
    check_handed(8, 5, 1, 5, 1);
    check_handed(9, 7, 1, 7, 1);
    check_handed(10, 8, 1, 8, 1);
    feed_out();
    assert_int_equal(metric(UE_M_DELIVERY_RETRIABLE), 3);
    assert_int_equal(metric(UE_M_DELIVERY_PERMANENT), 0);
    check_end();
}

/* In whatever order they come back, they go in the order of their numbers. */
static void test_numbers_order_what_comes_back(void **state)
{
    static const unsigned places[][5] = {{0, 0, 0, 0, 0}, {4, 3, 2, 1, 0},
                                         {2, 2, 0, 1, 0}, {1, 3, 1, 0, 0},
                                         {3, 0, 2, 0, 0}, {0, 3, 1, 1, 0}};

    for (size_t n = 0; n < UNIT_COUNT(places); n++) {
        if (direct) {
            tear_down_lanes(state);
            assert_int_equal(set_up_lanes(state), 0);
        }
        make_lanes(1);
        sink->choose = choose_hold;
        put_some(0, 5);
        feed_after(A_WHILE);
        put(0);
        for (int i = 0; i < 5; i++) {
            assert_int_equal(sink->batch_count, 1);
            sink_report(sink, 0, places[n][i], i % 2 ? UE_UNSENT : UE_UNKNOWN);
        }
        feed_after(LONG);
        check_offer(1, 0, 6);
        for (unsigned i = 0; i < 6; i++) {
            check_handed(5 + i, 1 + i, 0, 1 + i, 1);
        }
        sink->choose = choose_delivered;
        feed_out();
        check_end();
    }
}

/* What was not taken keeps its number, and the next one gets the next. */
static void test_numbers_have_no_gap_after_a_part_was_taken(void **state)
{
    make_lanes(1);
    sink->takes = 3;
    sink->says = APR_EAGAIN;
    put_some(0, 10);
    feed_after(A_WHILE);
    check_offer(0, 0, 10);
    assert_int_equal(sink->batches[0].taken, 3);
    put(0);
    feed_after(0);
    check_offer(1, 0, 8);
    check_handed(10, 4, 0, 4, 1);
    check_handed(17, 11, 0, 11, 1);
    sink->takes = 0;
    feed_after(0);
    check_offer(2, 0, 5);
    feed_after(0);
    check_offer(3, 0, 5);
    sink->takes = SIZE_MAX;
    sink->says = APR_SUCCESS;
    feed_out();
    assert_int_equal(sink->given[0], 11);
    assert_int_equal(metric(UE_M_SINK_ERRORS), 0);
    assert_int_equal(metric(UE_M_BATCH_EVENTS), 11);
    assert_int_equal(metric(UE_M_BATCHES), 3);
    check_end();
}

/* A sink in trouble is left alone for a while, all its lanes. */
static void test_part_taken_with_an_error(void **state)
{
    make_lanes(2);
    sink->takes = 3;
    sink->says = APR_FROM_OS_ERROR(EIO);
    put_some(0, 10);
    put_some(1, 10);
    feed_after(A_WHILE);
    assert_int_equal(sink->batch_count, 1);
    assert_int_equal(metric(UE_M_SINK_ERRORS), 1);
    sink->takes = SIZE_MAX;
    sink->says = APR_SUCCESS;
    feed_after(apr_time_from_msec(249));
    assert_int_equal(sink->batch_count, 1);
    feed_after(apr_time_from_msec(1));
    assert_int_equal(sink->batch_count, 3);
    feed_out();
    check_end();
}

/* ---- what comes back ---- */

/* Offered again, once the time is over that follows the report. */
static void check_break(unsigned msec)
{
    unsigned before = sink->batch_count;
    apr_time_t begin, end;

    assert_int_equal(sink->held_count[0] > 0, 1);
    begin = ue_monotonic();
    sink_report_all(sink, 0, before % 2 ? UE_UNSENT : UE_UNKNOWN);
    end = ue_monotonic();
    ue_producer_feed(direct, begin + apr_time_from_msec(msec) - 1);
    assert_int_equal(sink->batch_count, before);
    ue_producer_feed(direct, end + apr_time_from_msec(msec));
    assert_int_equal(sink->batch_count, before + 1);
}

static void test_lane_is_given_a_break_that_grows(void **state)
{
    make_lanes(1);
    sink->choose = choose_hold;
    put_some(0, 5);
    feed_after(A_WHILE);
    check_break(250);
    check_break(500);
    check_break(1000);
    check_break(2000);
    check_break(2000);
    /* a part is progress: the next is short again */
    sink_report(sink, 0, 0, UE_DELIVERED);
    sink_report_all(sink, 0, UE_UNSENT);
    ue_producer_feed(direct, ue_monotonic() + apr_time_from_sec(2));
    check_break(250);
    check_break(500);
    sink->choose = choose_delivered;
    feed_out();
    assert_int_equal(sink->given[0], 5);
    check_end();
}

/* One lane's trouble is not the other's. */
static void test_break_is_for_one_lane(void **state)
{
    make_lanes(2);
    sink->choose = choose_hold;
    put_some(0, 5);
    put_some(1, 5);
    clock_now = ue_monotonic();
    ue_producer_feed(direct, clock_now + A_WHILE);
    assert_int_equal(sink->batch_count, 2);
    sink_report_all(sink, 0, UE_UNSENT);
    sink_report_all(sink, 1, UE_DELIVERED);
    put_some(1, 5);
    atomic_fetch_add(&direct->flushing, 1);
    ue_producer_feed(direct, clock_now + A_WHILE);
    assert_int_equal(sink->batch_count, 3);
    check_offer(2, 1, 5);
    sink->choose = choose_delivered;
    feed_out();
    check_end();
}

static void test_expired_is_a_loss_of_its_own(void **state)
{
    make_lanes(2);
    sink->choose = choose_expired;
    put_some(1, 3);
    put_some(2, 4);
    feed_out();
    assert_int_equal(metric(UE_M_EVENTS_LOST_EXPIRED), 4);
    assert_int_equal(metric(UE_M_EVENTS_DELIVERED), 3);
    assert_int_equal(lost_of(1, UE_LOST_EXPIRED), 2);
    assert_int_equal(lost_of(2, UE_LOST_EXPIRED), 2);
    assert_int_equal(metric(UE_M_DELIVERY_PERMANENT), 4);
    assert_int_equal(metric(UE_M_DELIVERY_RETRIABLE), 0);
    check_end();
}

static unsigned poison;

/* As Kafka does: one event that is too large, and none of its batch is stored.
 */
static int choose_poison(lane_sink_t *s, uint32_t lane, const held_t *held)
{
    static int is_poisoned;

    if (held == &s->held[lane][0]) {
        is_poisoned = 0;
        for (unsigned i = 0; i < s->held_count[lane]; i++) {
            is_poisoned |= s->held[lane][i].event == poison;
        }
    }
    return is_poisoned ? UE_TOO_LARGE : UE_DELIVERED;
}

static void test_too_large_is_halved_until_one_is_left(void **state)
{
    static const size_t sizes[] = {8, 4, 8, 4, 2,  1,  2, 1,
                                   1, 2, 4, 8, 16, 16, 16};

    make_lanes(2);
    sink->vtable.batch_events = 16;
    sink->choose = choose_poison;
    poison = 6;
    put_some(1, 8);
    feed_after(A_WHILE);
    put_some(1, 61);
    feed_out();
    assert_int_equal(sink->batch_count, UNIT_COUNT(sizes));
    for (unsigned i = 0; i < UNIT_COUNT(sizes); i++) {
        check_offer(i, 1, sizes[i]);
    }
    assert_int_equal(metric(UE_M_EVENTS_DELIVERED), 68);
    assert_int_equal(metric(UE_M_EVENTS_LOST_REJECTED), 1);
    assert_int_equal(sink->fate[poison], UE_TOO_LARGE + 1);
    assert_int_equal(lost_of(1, UE_LOST_REJECTED), 1);
    assert_int_equal(metric(UE_M_DELIVERY_PERMANENT), 1);
    assert_int_equal(metric(UE_M_DELIVERY_RETRIABLE), 8 + 8 + 4 + 2 + 2);
    check_end();
}

/* The same where the sink says so at once: the first round does it all. */
static void test_too_large_is_halved_inside_submit(void **state)
{
    make_lanes(2);
    sink->choose = choose_poison;
    sink->in_submit = 1;
    poison = 77;
    put_some(1, 99);
    feed_after(A_WHILE);
    feed_after(A_WHILE);
    assert_int_equal(ue_producer_unsettled(direct), 0);
    assert_int_equal(metric(UE_M_EVENTS_DELIVERED), 98);
    assert_int_equal(lost_of(1, UE_LOST_REJECTED), 1);
    assert_int_equal(sink->fate[poison], UE_TOO_LARGE + 1);
    check_end();
}

static void test_reports_inside_submit(void **state)
{
    make_lanes(2);
    sink->orderly = 0;
    sink->in_submit = 1;
    sink->choose = choose_by_event;
    sink->takes = 4;
    memset(event_outcome, 0, sizeof(event_outcome));
    event_outcome[1] = UE_UNSENT;
    event_outcome[3] = UE_UNKNOWN;
    event_outcome[4] = UE_REFUSED;
    put_some(1, 6);
    feed_after(A_WHILE);
    check_offer(0, 1, 6);
    assert_int_equal(metric(UE_M_EVENTS_DELIVERED), 1);
    feed_after(0);
    check_offer(1, 1, 4);
    check_handed(6, 1, 1, 1, 1);
    check_handed(7, 3, 1, 3, 1);
    check_handed(8, 5, 1, 5, 1);
    check_handed(9, 6, 1, 6, 1);
    assert_int_equal(ue_producer_unsettled(direct), 0);
    assert_int_equal(lines_with("[EventProducer] Batch sent: 4 events "
                                "(success=1, failed=3)"),
                     1);
    assert_int_equal(lines_with("[EventProducer] Batch sent: 4 events "
                                "(success=4, failed=0)"),
                     1);
    check_end();
}

/* ---- the number of lanes changes ---- */

static void test_lanes_grow_while_some_are_under_way(void **state)
{
    make_lanes(2);
    sink->choose = choose_hold;
    put_some(0, 2); /* 1, 2 */
    put_some(3, 2); /* 3, 4 */
    feed_after(A_WHILE);
    put_some(2, 1); /* 5 */
    put_some(3, 1); /* 6 */
    sink->lanes = 4;
    feed_after(LONG);
    assert_int_equal(sink->batch_count, 2);
    sink_report_all(sink, 0, UE_UNSENT);
    sink_report_all(sink, 1, UE_UNKNOWN);
    feed_after(LONG);
    /* home, as they were, and nothing with them */
    assert_int_equal(sink->batch_count, 4);
    check_offer(2, 0, 2);
    check_offer(3, 1, 2);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(sink->handed[4 + i].stream, 1);
        assert_int_equal(sink->handed[4 + i].number, 1 + i % 2);
    }
    put_some(3, 1); /* 7 */
    feed_after(LONG);
    sink_report_all(sink, 0, UE_DELIVERED);
    feed_after(LONG);
    assert_int_equal(sink->batch_count, 4);
    sink_report_all(sink, 1, UE_DELIVERED);
    /* and then the others, in a stream that begins */
    feed_after(LONG);
    assert_int_equal(sink->streams, 2);
    assert_int_equal(sink->batch_count, 6);
    check_handed(8, 5, 2, 1, 2);
    check_handed(9, 6, 3, 1, 2);
    check_handed(10, 7, 3, 2, 2);
    sink->choose = choose_delivered;
    feed_out();
    check_end();
}

/* What was numbered and not taken goes home, too. */
static void test_lanes_grow_while_a_part_was_taken(void **state)
{
    make_lanes(1);
    sink->takes = 2;
    put_some(1, 5);
    feed_after(A_WHILE);
    sink->lanes = 3;
    put_some(1, 1);
    sink->takes = SIZE_MAX;
    feed_out();
    check_offer(1, 0, 3);
    check_offer(2, 1, 1);
    check_handed(5, 3, 0, 3, 1);
    check_handed(8, 6, 1, 1, 2);
    check_end();
}

static void test_lanes_grow_and_the_old_number_returns(void **state)
{
    make_lanes(2);
    sink->choose = choose_hold;
    put_some(1, 2);
    feed_after(A_WHILE);
    sink->lanes = 4;
    put_some(1, 2);
    feed_after(LONG);
    sink->lanes = 2;
    sink_report_all(sink, 1, UE_UNSENT);
    sink->choose = choose_delivered;
    feed_out();
    assert_int_equal(sink->streams, 1);
    assert_int_equal(sink->given[1], 4);
    check_end();
}

/* Lanes that are no more get nothing, not even what was meant for them. */
static void test_lanes_shrink_while_some_are_under_way(void **state)
{
    make_lanes(24);
    sink->choose = choose_hold;
    sink->expired = 1;
    put_some(2, 3);  /* 1, 2, 3 */
    put_some(20, 3); /* 4, 5, 6 */
    feed_after(A_WHILE);
    assert_int_equal(sink->batch_count, 2);
    put_some(20, 1); /* 7 */
    sink->lanes = 6;
    sink_report_all(sink, 20, UE_UNSENT);
    feed_after(LONG);
    feed_after(LONG);
    check_sinks();
    sink_report_all(sink, 2, UE_UNKNOWN);
    sink->choose = choose_delivered;
    feed_out();
    check_sinks();
    /* lane 2 has two organizations now, each in its order */
    assert_int_equal(sink->streams, 2);
    assert_int_equal(sink->given[2], 7);
    assert_int_equal(metric(UE_M_EVENTS_DELIVERED), 7);
    check_end();
}

static void test_lanes_change_while_nothing_waits(void **state)
{
    static const uint32_t counts[] = {12, 24, 6, 1, 32};

    make_lanes(4);
    for (unsigned i = 0; i < UNIT_COUNT(counts); i++) {
        sink->lanes = counts[i];
        feed_after(LONG);
        for (unsigned n = 0; n < 64; n++) {
            put(n % 32);
        }
        feed_out();
        assert_int_equal(sink->streams, i + 1);
        for (unsigned n = 0; n < counts[i]; n++) {
            /* organizations 0 to 31, two events each */
            unsigned share = (31 - n) / counts[i] + 1;

            assert_int_equal(sink->given[n], 2 * share);
        }
    }
    check_end();
}

static const struct CMUnitTest tests[] = {
    LANES_TEST(test_lanes_wait_until_they_are_known),
    LANES_TEST(test_lanes_go_on_while_they_are_unknown_again),
    LANES_TEST(test_lanes_unknown_at_the_end_are_a_loss),
    LANES_TEST(test_lane_has_one_batch_under_way),
    LANES_TEST(test_lane_waits_for_room),
    LANES_TEST(test_lanes_take_turns_at_little_room),
    LANES_TEST(test_lanes_take_turns_at_a_busy_sink),
    LANES_TEST(test_lane_is_due_when_it_has_a_batch),
    LANES_TEST(test_lane_is_due_when_its_first_event_has_waited),
    LANES_TEST(test_lane_counts_the_time_before_it_was_known),
    LANES_TEST(test_batch_holds_so_many_events),
    LANES_TEST(test_batch_holds_so_many_bytes),
    LANES_TEST(test_batch_holds_events_of_any_length),
    LANES_TEST(test_numbers_are_kept_by_what_is_sent_again),
    LANES_TEST(test_numbers_order_what_comes_back),
    LANES_TEST(test_numbers_have_no_gap_after_a_part_was_taken),
    LANES_TEST(test_part_taken_with_an_error),
    LANES_TEST(test_lane_is_given_a_break_that_grows),
    LANES_TEST(test_break_is_for_one_lane),
    LANES_TEST(test_expired_is_a_loss_of_its_own),
    LANES_TEST(test_too_large_is_halved_until_one_is_left),
    LANES_TEST(test_too_large_is_halved_inside_submit),
    LANES_TEST(test_reports_inside_submit),
    LANES_TEST(test_lanes_grow_while_some_are_under_way),
    LANES_TEST(test_lanes_grow_while_a_part_was_taken),
    LANES_TEST(test_lanes_grow_and_the_old_number_returns),
    LANES_TEST(test_lanes_shrink_while_some_are_under_way),
    LANES_TEST(test_lanes_change_while_nothing_waits),
};

UNIT_MAIN(tests)
