/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */

/**
 * The Kafka sink: what is on the wire, which partition, how many batches at a
 * time, and what is told of each event.
 */
#include "unit_kafka.h"

/* ---- what is stored ---- */

static void test_each_event_once_with_key_and_headers(void **state)
{
    feeder_t f;

    begin(2);
    make_topic("usage-events", 12);
    open_feeder(&f, open_kafka(fix.brokers, NULL, NULL), "usage-events", 1500);
    f.before = UINT64_C(0xf1f2f3f4f5f60700);
    start_feeder(&f);
    UNTIL(&f, IS_DONE(&f));
    assert_each_once(&f, 12);
    assert_int_equal(count_said("UE04"), 0);
}

static void test_partition_is_librdkafkas_own(void **state)
{
    static const uint32_t counts[] = {1, 2, 3, 7, 12, 24, 48, 1000};
    unsigned keys = unit_loops(20000);
    uint64_t seed = 1;
    feeder_t f;

    begin(1);
    open_feeder(&f, open_kafka(fix.brokers, NULL, NULL), "t", 1);
    for (unsigned i = 0; i < keys; i++) {
        char key[UE_UUID_LEN];
        ue_uuid_t id;

        for (int j = 0; j < 16; j++) {
            id.b[j] = (uint8_t)unit_random(&seed);
        }
        ue_uuid_write(&id, key);
        for (size_t j = 0; j < UNIT_COUNT(counts); j++) {
            assert_int_equal(
                f.sink->vtable->lane_of(&id, counts[j]),
                rd_kafka_msg_partitioner_consistent_random(
                    NULL, key, UE_UUID_LEN, (int32_t)counts[j], NULL, NULL));
        }
    }
}

/* A full batch goes in one request, whatever its events compress to. */
static void test_full_batch_is_one_request(void **state)
{
    feeder_t f;

    begin(1);
    make_topic("t", 1);
    open_feeder(&f, open_kafka(fix.brokers, WHOLE), "t", 128);
    f.most = 128;
    start_feeder(&f);
    count_requests(1, 1);
    UNTIL(&f, IS_DONE(&f));
    assert_int_equal(requests(1), 1);
    assert_each_once(&f, 1);
}

/* ---- credit ---- */

/* How many lanes have a batch under way. */
static int lanes_under_way(const feeder_t *f)
{
    int n = 0;

    for (int i = 0; i < LANES_MAX; i++) {
        n += f->in_lane[i] > 0;
    }
    return n;
}

static void test_one_broker_has_five_batches_under_way(void **state)
{
    feeder_t f;

    begin(1);
    make_topic("t", 12);
    open_feeder(&f, open_kafka(fix.brokers, WHOLE), "t", 400);
    count_requests(1, 1500);
    start_feeder(&f);
    UNTIL(&f, requests(1) == UE_KAFKA_CREDIT);
    feed_for(&f, 150);
    assert_int_equal(lanes_under_way(&f), UE_KAFKA_CREDIT);
    assert_int_equal(requests(1), UE_KAFKA_CREDIT);
    for (uint32_t lane = 0; lane < 12; lane++) {
        assert_false(f.sink->vtable->has_room(f.sink, lane));
    }
    UNTIL(&f, IS_DONE(&f));
    assert_each_once(&f, 12);
}

/* Partitions 0 to 6 are led by 1, 7 to 11 by 2, the rest by 3. */
static void lead_three(int partitions)
{
    for (int i = 0; i < partitions; i++) {
        lead("t", i, i < 7 ? 1 : i < 12 ? 2 : 3);
    }
}

static void test_each_broker_has_a_credit_of_its_own(void **state)
{
    feeder_t f;

    begin(3);
    make_topic("t", 14);
    lead_three(14);
    open_feeder(&f, open_kafka(fix.brokers, WHOLE), "t", 400);
    for (int i = 1; i <= 3; i++) {
        count_requests(i, 1500);
    }
    start_feeder(&f);
    UNTIL(&f, requests(1) == 5 && requests(2) == 5 && requests(3) == 2);
    feed_for(&f, 150);
    assert_int_equal(requests(1), 5);
    assert_int_equal(requests(2), 5);
    assert_int_equal(requests(3), 2);
    assert_int_equal(lanes_under_way(&f), 12);
    UNTIL(&f, IS_DONE(&f));
    assert_each_once(&f, 14);
}

/* What the thread that asks for metadata does when a leader has moved. */
static void say_leader(kafka_topic_t *topic, int32_t leader)
{
    pthread_mutex_lock(&topic->mutex);
    for (uint32_t i = 0; i < topic->leader_count; i++) {
        topic->leaders[i] = leader;
    }
    atomic_fetch_add(&topic->version, 1);
    pthread_mutex_unlock(&topic->mutex);
}

/* Credit goes back to whom it was taken from, wherever the leader is then. */
static void test_credit_survives_a_change_of_leader(void **state)
{
    feeder_t f;

    begin(1);
    make_topic("t", 4);
    open_feeder(&f, open_kafka(fix.brokers, WHOLE), "t", 40);
    count_requests(1, 1000);
    start_feeder(&f);
    UNTIL(&f, requests(1) == 4);
    assert_int_equal(atomic_load(&f.topic->kafka->credits[2]), 4);
    say_leader(f.topic, 2);
    feed(&f);
    assert_int_equal(f.topic->partitions[0].leader, 2);
    assert_int_equal(f.under_way, 40);
    UNTIL(&f, IS_DONE(&f));
    assert_each_once(&f, 4);
}

static void test_topics_share_a_brokers_credit(void **state)
{
    ue_kafka_t *kafka;
    feeder_t f, g;

    begin(1);
    make_topic("t", 4);
    make_topic("u", 4);
    kafka = open_kafka(fix.brokers, WHOLE);
    open_feeder(&f, kafka, "t", 40);
    open_feeder(&g, kafka, "u", 40);
    count_requests(1, 1500);
    start_feeder(&f);
    start_feeder(&g);
    UNTIL_BOTH(&f, &g, requests(1) == UE_KAFKA_CREDIT);
    for (int i = 0; i < 100; i++) {
        feed(&f);
        feed(&g);
        apr_sleep(1000);
    }
    assert_int_equal(lanes_under_way(&f) + lanes_under_way(&g),
                     UE_KAFKA_CREDIT);
    assert_int_equal(requests(1), UE_KAFKA_CREDIT);
    UNTIL_BOTH(&f, &g, IS_DONE(&f) && IS_DONE(&g));
    assert_each_once(&f, 4);
    assert_each_once(&g, 4);
}

/* ---- what Kafka says ---- */

/* The next Produce requests fail so. */
static void fail_produce(rd_kafka_resp_err_t error, size_t times)
{
    for (size_t i = 0; i < times; i++) {
        rd_kafka_mock_push_request_errors(fix.mock, PRODUCE, 1, error);
    }
}

static void open_one(feeder_t *f, uint32_t events, int partitions)
{
    begin(1);
    make_topic("t", partitions);
    open_feeder(f, open_kafka(fix.brokers, NULL, NULL), "t", events);
}

/* A batch that is refused for what is in it is to be offered in pieces. */
static void test_refused_batch_is_to_be_offered_smaller(void **state)
{
    static const rd_kafka_resp_err_t errors[] = {
        RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
        RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE,
        RD_KAFKA_RESP_ERR_INVALID_RECORD,
        RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP,
        RD_KAFKA_RESP_ERR_POLICY_VIOLATION,
    };
    feeder_t f;

    open_one(&f, 70, 1);
    f.most = 10;
    for (size_t i = 0; i < UNIT_COUNT(errors); i++) {
        fail_produce(errors[i], 1);
    }
    start_feeder(&f);
    UNTIL(&f, IS_DONE(&f));
    assert_int_equal(f.wrong, 0);
    assert_int_equal(f.told[UE_TOO_LARGE], 50);
    assert_int_equal(f.told[UE_DELIVERED], 20);
    read_topic(&f, 1);
    assert_int_equal(count_stored(&f, 1, 1), 20);
    assert_int_equal(count_stored(&f, 0, 0), 50);
    assert_int_equal(credits_in_use(f.topic->kafka), 0);
}

static void test_forbidden_topic_is_tried_again_with_one_line(void **state)
{
    feeder_t f;

    open_one(&f, 40, 1);
    fail_produce(RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, 3);
    start_feeder(&f);
    UNTIL(&f, IS_DONE(&f));
    assert_int_equal(f.told[UE_UNSENT] + f.told[UE_UNKNOWN], 120);
    assert_int_equal(count_said("UE0408"), 1);
    assert_true(has_said("UE0408", "topic=t events=40: "
                                   "Broker: Topic authorization failed"));
    assert_int_equal(count_said("UE0409"), 0);
    assert_each_once(&f, 1);
}

/* What passes by itself is librdkafka's to try again: we hear nothing. */
static void test_passing_errors_are_not_told(void **state)
{
    static const rd_kafka_resp_err_t errors[] = {
        RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        RD_KAFKA_RESP_ERR__TRANSPORT,
        RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
    };
    feeder_t f;

    open_one(&f, 400, 4);
    for (size_t i = 0; i < UNIT_COUNT(errors); i++) {
        fail_produce(errors[i], 1);
    }
    start_feeder(&f);
    UNTIL(&f, IS_DONE(&f));
    assert_int_equal(f.told[UE_UNSENT] + f.told[UE_UNKNOWN], 0);
    assert_int_equal(count_said("UE0408"), 0);
    assert_each_once(&f, 4);
}

static void test_users_own_limit_of_time(void **state)
{
    feeder_t f;

    begin(1);
    make_topic("t", 2);
    open_feeder(&f, open_kafka(fix.brokers, "message.timeout.ms", "600"), "t",
                60);
    hold(&f);
    start_feeder(&f);
    UNTIL(&f, f.sink->vtable->lanes(f.sink) == 2);
    set_down(1);
    let_go(&f);
    UNTIL(&f, f.told[UE_EXPIRED] == 60);
    assert_true(IS_DONE(&f));
    assert_int_equal(f.wrong, 0);
    assert_int_equal(credits_in_use(f.topic->kafka), 0);
    assert_int_equal(count_said("UE0409"), 1);
    assert_true(has_said("UE0409", "topic=t events="));
    assert_int_equal(count_said("UE0408"), 0);
}

/* ---- the ledger ---- */

/* Note until so many were taken. */
static void take_notes(feeder_t *f, uint32_t count)
{
    UNTIL(f, take_note(f) == APR_SUCCESS && f->notes == count);
}

static void test_each_note_goes_to_its_topics_own_ledger(void **state)
{
    ue_kafka_t *kafka;
    feeder_t f, g;

    begin(2);
    make_topic("t", 4);
    make_topic("u", 4);
    kafka = open_kafka(fix.brokers, NULL, NULL);
    open_feeder(&f, kafka, "t", 60);
    open_feeder(&g, kafka, "u", 60);
    start_feeder(&f);
    start_feeder(&g);
    UNTIL_BOTH(&f, &g,
               take_note(&f) == APR_SUCCESS && take_note(&g) == APR_SUCCESS);
    UNTIL_BOTH(&f, &g, f.notes_stored == f.notes && g.notes_stored == g.notes);
    UNTIL_BOTH(&f, &g, IS_DONE(&f) && IS_DONE(&g));
    /* One hears through the other's mail. */
    take_notes(&f, f.notes + 1);
    for (int i = 0; i < 5000 && !atomic_load(&f.topic->has_mail); i++) {
        feed(&g);
        apr_sleep(1000);
    }
    assert_int_equal(f.notes_stored, f.notes - 1);
    UNTIL(&f, f.notes_stored == f.notes);
    assert_int_equal(f.notes_failed + g.notes_failed, 0);
    assert_int_equal(count_notes(&f), f.notes);
    assert_int_equal(count_notes(&g), g.notes);
    assert_each_once(&f, 4);
    assert_each_once(&g, 4);
    assert_int_equal(count_said("UE04"), 0);
}

/* Too many would wait in librdkafka; so would those behind others that were
 * not answered yet. */
static void test_notes_under_way_are_bounded(void **state)
{
    feeder_t f;

    open_one(&f, 1, 1);
    start_feeder(&f);
    UNTIL(&f, IS_DONE(&f));
    take_notes(&f, 1);
    UNTIL(&f, f.notes_stored == 1);
    count_requests(1, 300);
    for (int i = 0; i < 2000 && f.topic->ledger.under_way < UE_NOTES_MAX; i++) {
        f.topic->ledger.since = ue_monotonic();
        take_note(&f);
    }
    assert_int_equal(f.notes, 1 + UE_NOTES_MAX);
    f.topic->ledger.since = ue_monotonic();
    assert_true(APR_STATUS_IS_EAGAIN(take_note(&f)));
    UNTIL(&f, f.notes_stored == f.notes);
    count_requests(1, 300);
    assert_int_equal(take_note(&f), APR_SUCCESS);
    apr_sleep(apr_time_from_msec(20));
    assert_true(APR_STATUS_IS_EAGAIN(take_note(&f)));
    UNTIL(&f, f.notes_stored == f.notes);
    assert_int_equal(take_note(&f), APR_SUCCESS);
    UNTIL(&f, f.notes_stored == f.notes);
    assert_int_equal(f.wrong, 0);
    assert_int_equal(count_notes(&f), f.notes);
}

/* While the broker of the ledger says nothing, events go on. */
static void test_notes_hold_up_no_events(void **state)
{
    feeder_t f;

    begin(2);
    make_topic("t", 4);
    for (int i = 0; i < 4; i++) {
        lead("t", i, 1);
    }
    lead("t-ledger", 0, 2);
    open_feeder(&f, open_kafka(fix.brokers, NULL, NULL), "t", 300);
    hold(&f);
    start_feeder(&f);
    take_notes(&f, 1);
    UNTIL(&f, f.notes_stored == 1);
    count_requests(2, 60000);
    take_notes(&f, 2);
    UNTIL(&f, requests(2) == 1);
    assert_int_equal(credits_in_use(f.topic->kafka), 0);
    assert_int_equal(f.topic->under_way, 0);
    let_go(&f);
    UNTIL(&f, IS_DONE(&f));
    assert_int_equal(f.notes_stored, 1);
    assert_each_once(&f, 4);
    set_down(2);
}

static void test_failed_note_is_told_with_one_line(void **state)
{
    feeder_t f;

    open_one(&f, 40, 1);
    start_feeder(&f);
    UNTIL(&f, IS_DONE(&f));
    fail_produce(RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, 3);
    for (uint32_t i = 1; i <= 3; i++) {
        take_notes(&f, i);
        UNTIL(&f, f.notes_failed == i);
    }
    take_notes(&f, 4);
    UNTIL(&f, f.notes_stored == 1);
    assert_int_equal(f.wrong, 0);
    assert_int_equal(f.told[UE_DELIVERED], 40);
    assert_int_equal(count_said("UE0411"), 1);
    assert_true(has_said("UE0411", "topic=t-ledger records=1: "
                                   "Broker: Topic authorization failed"));
    assert_int_equal(count_said("UE0408"), 0);
    assert_int_equal(count_notes(&f), 1);
    assert_each_once(&f, 1);
}

/* One that librdkafka takes in no case is no reason to ask again. */
static void test_note_that_is_too_large(void **state)
{
    static char value[2100000];
    feeder_t f;

    open_one(&f, 1, 1);
    start_feeder(&f);
    UNTIL(&f, IS_DONE(&f));
    take_notes(&f, 1);
    UNTIL(&f, f.notes_stored == 1);
    assert_int_equal(
        f.sink->vtable->note(f.sink, "k", 1, value, sizeof(value), COOKIE + 1),
        APR_EGENERAL);
    UNTIL(&f, count_said("UE0411") == 1);
    assert_int_equal(f.topic->ledger.under_way, 0);
    assert_int_equal(f.wrong, 0);
}

/* ---- two workers ---- */

typedef struct {
    feeder_t f;
    _Atomic int *go;
} worker_t;

static void *work(void *data)
{
    worker_t *worker = data;
    apr_time_t until = ue_monotonic() + apr_time_from_sec(30);

    while (!atomic_load(worker->go)) {
        apr_sleep(100);
    }
    while (!IS_DONE(&worker->f) && ue_monotonic() < until) {
        feed(&worker->f);
        apr_sleep(200);
    }
    return NULL;
}

static void test_each_of_three_workers_hears_of_his_own_events(void **state)
{
    static const char *const names[] = {"a", "b", "c"};
    static worker_t workers[3];
    pthread_t threads[3];
    _Atomic int go = 0;
    ue_kafka_t *kafka;

    begin(2);
    kafka = open_kafka(fix.brokers, NULL, NULL);
    for (int i = 0; i < 3; i++) {
        make_topic(names[i], 6);
        open_feeder(&workers[i].f, kafka, names[i], unit_loops(6000));
        workers[i].f.most = 20;
        workers[i].go = &go;
    }
    fail_produce(RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, 3);
    for (int i = 0; i < 3; i++) {
        start_feeder(&workers[i].f);
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]),
                         0);
    }
    atomic_store(&go, 1);
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
    }
    for (int i = 0; i < 3; i++) {
        assert_true(IS_DONE(&workers[i].f));
        assert_each_once(&workers[i].f, 6);
    }
}

static const struct CMUnitTest tests[] = {
    TEST(test_each_event_once_with_key_and_headers),
    TEST(test_partition_is_librdkafkas_own),
    TEST(test_full_batch_is_one_request),
    TEST(test_one_broker_has_five_batches_under_way),
    TEST(test_each_broker_has_a_credit_of_its_own),
    TEST(test_credit_survives_a_change_of_leader),
    TEST(test_topics_share_a_brokers_credit),
    TEST(test_refused_batch_is_to_be_offered_smaller),
    TEST(test_forbidden_topic_is_tried_again_with_one_line),
    TEST(test_passing_errors_are_not_told),
    TEST(test_users_own_limit_of_time),
    TEST(test_each_note_goes_to_its_topics_own_ledger),
    TEST(test_notes_under_way_are_bounded),
    TEST(test_notes_hold_up_no_events),
    TEST(test_failed_note_is_told_with_one_line),
    TEST(test_note_that_is_too_large),
    TEST(test_each_of_three_workers_hears_of_his_own_events),
};

UNIT_MAIN(tests)
