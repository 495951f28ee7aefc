/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * A file and Kafka beside each other, and the end: an event leaves when both
 * are done with it, neither is mistaken for the other, and what is left is told
 * apart by whether it may have arrived.
 */
#include "unit_lanes.h"

/* ---- two sinks ---- */

static lane_sink_t *const file = &lane_sinks[0];
static lane_sink_t *const kafka = &lane_sinks[1];

/* A file and Kafka; either may come first. */
static void make_two(int kafka_first, lane_sink_t **f, lane_sink_t **k)
{
    ue_producer_config_t config = lanes_config();

    *f = kafka_first ? kafka : file;
    *k = kafka_first ? file : kafka;
    (*f)->vtable.numbered = 0;
    (*f)->vtable.name = "file";
    (*f)->lanes = 1;
    (*k)->lanes = 4;
    make_direct(&config, 2);
}

/** Run a test with both orders of the sinks. */
#define BOTH_WAYS(f, k)                                                        \
    for (int way_ = 0; way_ < 2; way_++)                                       \
        if ((direct ? (tear_down_lanes(state), set_up_lanes(state)) : 0) == 0) \
            for (int once_ = (make_two(way_, &(f), &(k)), 1); once_; once_ = 0)

static void check_states(const ue_slot_ref_t *refs, int count,
                         ue_slot_state_t is)
{
    for (int i = 0; i < count; i++) {
        assert_int_equal(ue_journal_state(direct->journal, refs[i]), is);
    }
}

static void test_slot_settles_when_both_sinks_are_done(void **state)
{
    lane_sink_t *f, *k;

    BOTH_WAYS(f, k)
    {
        ue_slot_ref_t refs[5];

        k->choose = choose_hold;
        for (unsigned i = 0; i < 5; i++) {
            refs[i] = put(i);
        }
        feed_after(A_WHILE);
        feed_after(A_WHILE);
        assert_int_equal(f->outcomes[UE_DELIVERED], 5);
        assert_int_equal(metric(UE_M_EVENTS_DELIVERED), 0);
        check_states(refs, 5, UE_SLOT_SENT);
        k->choose = choose_delivered;
        feed_after(A_WHILE);
        assert_int_equal(metric(UE_M_EVENTS_DELIVERED), 5);

        f->choose = choose_hold;
        for (unsigned i = 0; i < 5; i++) {
            refs[i] = put(i);
        }
        feed_after(A_WHILE);
        feed_after(A_WHILE);
        assert_int_equal(k->outcomes[UE_DELIVERED], 10);
        assert_int_equal(metric(UE_M_EVENTS_DELIVERED), 5);
        /* Kafka has it for certain; what is missing is the file. */
        check_states(refs, 5, UE_SLOT_LISTED);
        f->choose = choose_delivered;
        feed_after(A_WHILE);
        assert_int_equal(metric(UE_M_EVENTS_DELIVERED), 10);
        check_end();
    }
}

/* A loss in one is the event's, whatever the other says, and when. */
static void test_refused_by_one_sink_of_two(void **state)
{
    lane_sink_t *f, *k;

    BOTH_WAYS(f, k)
    {
        k->choose = choose_expired;
        f->choose = choose_hold;
        put_some(1, 4);
        feed_after(A_WHILE);
        feed_after(A_WHILE);
        /* Counted when it is said, under the number that it had then; its
         * slot waits for the other. */
        assert_int_equal(metric(UE_M_EVENTS_LOST_EXPIRED), 2);
        assert_int_equal(ue_producer_unsettled(direct), 4);
        f->choose = choose_delivered;
        feed_out();
        assert_int_equal(metric(UE_M_EVENTS_LOST_EXPIRED), 2);
        assert_int_equal(metric(UE_M_EVENTS_DELIVERED), 2);
        check_end();
    }
}

/* Nor is it counted again at the end, if the other never had it. */
static void test_refused_by_one_sink_is_lost_once(void **state)
{
    lane_sink_t *f, *k;

    BOTH_WAYS(f, k)
    {
        k->choose = choose_expired;
        f->choose = choose_hold;
        put_some(1, 4);
        feed_after(A_WHILE);
        feed_after(A_WHILE);
        close_direct();
        assert_int_equal(metric(UE_M_EVENTS_LOST_EXPIRED), 2);
        assert_int_equal(lost_in_all(), 4);
    }
}

/* What the file does says nothing of what Kafka has. */
static void test_file_in_trouble_while_kafka_holds(void **state)
{
    static const int outcomes[] = {HOLD, UE_UNSENT};
    lane_sink_t *f, *k;

    for (size_t n = 0; n < UNIT_COUNT(outcomes); n++) {
        BOTH_WAYS(f, k)
        {
            ue_slot_ref_t refs[5];

            k->choose = choose_hold;
            f->choose = choose_hold;
            f->takes = outcomes[n] == HOLD ? 0 : SIZE_MAX;
            f->says =
                outcomes[n] == HOLD ? APR_FROM_OS_ERROR(EIO) : APR_SUCCESS;
            for (unsigned i = 0; i < 5; i++) {
                refs[i] = put(i);
            }
            feed_after(A_WHILE);
            if (outcomes[n] != HOLD) {
                sink_report_all(f, 0, UE_UNSENT);
            }
            feed_after(LONG);
            feed_after(LONG);
            check_states(refs, 5, UE_SLOT_SENT);
            close_direct();
            assert_int_equal(metric(UE_M_EVENTS_LOST_UNKNOWN), 5);
            assert_int_equal(metric(UE_M_EVENTS_LOST_SHUTDOWN), 0);
            check_sinks();
        }
    }
}

/* A sink without numbers may give back, too; the numbers that its events have
 * are the other sink's. */
static void test_file_gives_back(void **state)
{
    lane_sink_t *f, *k;

    BOTH_WAYS(f, k)
    {
        f->choose = choose_hold;
        k->choose = choose_hold;
        for (unsigned i = 0; i < 12; i++) {
            put(12 - i); /* in Kafka's lanes in another order */
        }
        feed_after(A_WHILE);
        assert_int_equal(f->held_count[0], 12);
        sink_report_all(f, 0, UE_UNSENT);
        f->choose = choose_delivered;
        k->choose = choose_delivered;
        feed_out();
        assert_int_equal(metric(UE_M_EVENTS_DELIVERED), 12);
        check_end();
    }
}

static void test_file_alone_gives_back(void **state)
{
    file->vtable.numbered = 0;
    make_lanes(1);
    sink->choose = choose_hold;
    put_some(1, 5);
    feed_after(A_WHILE);
    put_some(1, 2);
    sink_report_all(sink, 0, UE_UNSENT);
    sink->choose = choose_delivered;
    feed_out();
    for (unsigned i = 0; i < 7; i++) {
        check_handed(5 + i, 1 + i, 0, 0, 1);
    }
    check_end();
}

/* ---- the end ---- */

static void test_close_tells_what_may_have_arrived(void **state)
{
    lane_sink_t *f, *k;

    BOTH_WAYS(f, k)
    {
        k->choose = choose_hold;
        k->no_room[1] = 1;
        put_some(0, 5); /* under way */
        put_some(1, 7); /* numbered never */
        feed_after(A_WHILE);
        feed_after(A_WHILE);
        assert_int_equal(f->outcomes[UE_DELIVERED], 12);
        close_direct();
        assert_int_equal(metric(UE_M_EVENTS_LOST_UNKNOWN), 5);
        assert_int_equal(metric(UE_M_EVENTS_LOST_SHUTDOWN), 7);
        assert_int_equal(metric(UE_M_EVENTS_DELIVERED), 0);
        assert_int_equal(lost_of(0, UE_LOST_UNKNOWN), 5);
        assert_int_equal(lost_of(1, UE_LOST_SHUTDOWN), 7);
        assert_int_equal(
            lines_with("UE0201: producer: 12 events were not delivered when "
                       "the child ended, and are lost (of these, 5 were on "
                       "their way, and may have arrived)"),
            1);
        check_sinks();
        assert_int_equal(sum_now().waiting, 0);
    }
}

/* What came back as unsent did not arrive; what is unknown may have, even if it
 * is not under way any more. */
static void test_close_knows_unsent_from_unknown(void **state)
{
    make_lanes(4);
    sink->choose = choose_hold;
    put_some(1, 3);
    put_some(2, 4);
    feed_after(A_WHILE);
    sink_report_all(sink, 1, UE_UNSENT);
    sink_report_all(sink, 2, UE_UNKNOWN);
    sink->no_room[1] = sink->no_room[2] = 1;
    close_direct();
    assert_int_equal(metric(UE_M_EVENTS_LOST_SHUTDOWN), 3);
    assert_int_equal(metric(UE_M_EVENTS_LOST_UNKNOWN), 4);
    check_sinks();
}

/* That nobody took it the next time is no word about the first. */
static void test_close_knows_unknown_that_was_offered_again(void **state)
{
    for (int way = 0; way < 3; way++) {
        if (direct) {
            tear_down_lanes(state);
            assert_int_equal(set_up_lanes(state), 0);
        }
        make_lanes(4);
        sink->choose = choose_hold;
        put_some(2, 4);
        feed_after(A_WHILE);
        sink_report_all(sink, 2, UE_UNKNOWN);
        switch (way) {
        case 0: /* not taken */
            sink->takes = 0;
            feed_after(LONG);
            assert_int_equal(sink->batch_count, 2);
            break;
        case 1: /* taken, and given back */
            feed_after(LONG);
            sink_report_all(sink, 2, UE_UNSENT);
            break;
        default: /* its lane is no more, and it has no number */
            memset(sink->no_room, 1, sizeof(sink->no_room));
            sink->lanes = 2;
            feed_after(LONG);
            break;
        }
        sink->takes = 0;
        close_direct();
        if (metric(UE_M_EVENTS_LOST_UNKNOWN) != 4) {
            fail_msg("way %d: %u of 4 unknown", way,
                     (unsigned)metric(UE_M_EVENTS_LOST_UNKNOWN));
        }
        check_sinks();
    }
}

/* Reports that come with the flush count, and then nothing is lost. */
static void test_close_takes_what_the_flush_reports(void **state)
{
    ue_producer_config_t config = lanes_config();

    sink->choose = choose_at_times;
    report_every = 1000000;
    make_direct(&config, 1);
    put_some(1, 5);
    feed_after(A_WHILE);
    sink->polls = report_every - 2; /* the feed, and then the flush */
    close_direct();
    assert_int_equal(metric(UE_M_EVENTS_DELIVERED), 5);
    assert_int_equal(lines_with("[EventProducer] Flush complete"), 1);
    check_end();
}

/* ---- with the worker's thread ---- */

static unsigned seen_batches(lane_sink_t *s)
{
    unsigned n;

    pthread_mutex_lock(&s->mutex);
    n = s->batch_count;
    pthread_mutex_unlock(&s->mutex);
    return n;
}

static void record(unsigned organization, unsigned event)
{
    ue_admission_t a = event_for(organization, event);
    ue_slot_ref_t ref;

    while (ue_producer_admit(fix.producer, &a, UE_OVERFLOW_REFUSE, &ref)
           != APR_SUCCESS) {
        apr_sleep(500);
    }
    ue_producer_record(fix.producer, ref, &unit_completion, UE_OVERFLOW_REFUSE);
}

static void test_worker_closes_with_kafka_stuck(void **state)
{
    ue_producer_config_t config = lanes_config();

    file->vtable.numbered = 0;
    file->lanes = 1;
    kafka->choose = choose_hold;
    kafka->no_room[3] = 1;
    make_threaded(&config, 2);
    for (unsigned i = 1; i <= 40; i++) {
        record(i % 4, i);
    }
    /* lanes 0, 1, 2 of Kafka */
    EVENTUALLY(seen_batches(kafka) == 3);
    assert_int_equal(close_producer(), APR_TIMEUP);
    check_end();
    assert_int_equal(metric(UE_M_EVENTS_LOST_UNKNOWN), 30);
    assert_int_equal(metric(UE_M_EVENTS_LOST_SHUTDOWN), 10);
    assert_int_equal(
        lines_with("UE0201: producer: 40 events were not delivered when the "
                   "child ended, and are lost (of these, 30 were on their "
                   "way"),
        1);
}

#define THREADS 4
#define EACH 1500

static void *record_many(void *arg)
{
    unsigned thread = *(unsigned *)arg;
    unsigned count = RUNNING_ON_VALGRIND ? EACH / 10 : EACH;

    for (unsigned i = 1; i <= count; i++) {
        record(THREADS * (i % 5) + thread, thread * EACH + i);
    }
    return NULL;
}

static int choose_roughly(lane_sink_t *s, uint32_t lane, const held_t *held)
{
    static uint64_t seed = 4;

    switch (unit_random(&seed) % 24) {
    case 0:
        return UE_UNKNOWN;
    case 1:
        return UE_UNSENT;
    case 2:
        return UE_REFUSED;
    case 3:
    case 4:
        return HOLD;
    default:
        return UE_DELIVERED;
    }
}

/* Threads record while batches come back, and the lanes are more each time. */
static void test_worker_brings_all_home(void **state)
{
    static const uint32_t lanes[] = {0, 4, 12, 24};
    unsigned numbers[THREADS];
    pthread_t threads[THREADS];
    ue_producer_config_t config = lanes_config();
    uint64_t count = THREADS * (RUNNING_ON_VALGRIND ? EACH / 10 : EACH);

    config.flush_interval = apr_time_from_msec(5);
    config.drain_timeout = SOON;
    file->vtable.numbered = 0;
    file->lanes = 1;
    kafka->choose = choose_roughly;
    kafka->orderly = 0;
    kafka->vtable.batch_events = 50;
    make_threaded(&config, 2);
    for (unsigned i = 0; i < THREADS; i++) {
        numbers[i] = i;
        assert_int_equal(
            pthread_create(&threads[i], NULL, record_many, &numbers[i]), 0);
    }
    for (unsigned i = 0; i < UNIT_COUNT(lanes); i++) {
        unsigned before = seen_batches(kafka);

        pthread_mutex_lock(&kafka->mutex);
        kafka->lanes = lanes[i];
        pthread_mutex_unlock(&kafka->mutex);
        EVENTUALLY(seen_batches(kafka) > before + 5 || lanes[i] == 0
                   || metric(UE_M_EVENTS_DELIVERED) + lost_in_all() == count);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(ue_producer_flush(fix.producer, ue_monotonic() + SOON),
                     APR_SUCCESS);
    assert_int_equal(close_producer(), APR_SUCCESS);
    check_end();
    assert_int_equal(metric(UE_M_EVENTS_ADMITTED), count);
    assert_int_equal(metric(UE_M_EVENTS_LOST_REJECTED), lost_in_all());
    assert_int_equal(metric(UE_M_EVENTS_LOST_REJECTED),
                     kafka->outcomes[UE_REFUSED]);
}

/* ---- the rest ---- */

static void test_gauge_follows_the_connection(void **state)
{
    static const int told[] = {0, 1, 1, 1, 0, 0, 1, 0};
    lane_sink_t *f, *k;

    BOTH_WAYS(f, k)
    {
        for (size_t i = 0; i < UNIT_COUNT(told); i++) {
            k->owner.connected(k->owner.baton, told[i]);
            assert_int_equal(metric(UE_M_KAFKA_CONNECTED), told[i]);
        }
        k->owner.connected(k->owner.baton, 7);
        assert_int_equal(metric(UE_M_KAFKA_CONNECTED), 1);
        /* each topic counts */
        f->owner.connected(f->owner.baton, 1);
        assert_int_equal(metric(UE_M_KAFKA_CONNECTED), 2);
        k->owner.connected(k->owner.baton, 0);
        assert_int_equal(metric(UE_M_KAFKA_CONNECTED), 1);
    }
}

static void test_gauge_has_its_name(void **state)
{
    assert_string_equal(ue_metric_info[UE_M_KAFKA_CONNECTED].name,
                        "usage_kafka_connected_producers");
    assert_int_equal(ue_metric_info[UE_M_KAFKA_CONNECTED].type, UE_GAUGE);
    assert_string_equal(ue_metric_info[UE_M_DELIVERY_RETRIABLE].name,
                        "usage_delivery_errors_total");
    assert_string_equal(ue_metric_info[UE_M_DELIVERY_RETRIABLE].value,
                        "retriable");
    assert_string_equal(ue_metric_info[UE_M_DELIVERY_PERMANENT].name,
                        "usage_delivery_errors_total");
    assert_string_equal(ue_metric_info[UE_M_DELIVERY_PERMANENT].value,
                        "permanent");
}

static const struct CMUnitTest tests[] = {
    LANES_TEST(test_slot_settles_when_both_sinks_are_done),
    LANES_TEST(test_refused_by_one_sink_of_two),
    LANES_TEST(test_refused_by_one_sink_is_lost_once),
    LANES_TEST(test_file_in_trouble_while_kafka_holds),
    LANES_TEST(test_file_gives_back),
    LANES_TEST(test_file_alone_gives_back),
    LANES_TEST(test_close_tells_what_may_have_arrived),
    LANES_TEST(test_close_knows_unsent_from_unknown),
    LANES_TEST(test_close_knows_unknown_that_was_offered_again),
    LANES_TEST(test_close_takes_what_the_flush_reports),
    LANES_TEST(test_worker_closes_with_kafka_stuck),
    LANES_TEST(test_worker_brings_all_home),
    LANES_TEST(test_gauge_follows_the_connection),
    LANES_TEST(test_gauge_has_its_name),
};

UNIT_MAIN(tests)
