/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */

/**
 * The Kafka cluster: within reach or not, topics that can't be written to,
 * fatal errors, and the end.
 */
#include "unit_kafka.h"

#include <dlfcn.h>
#include <netdb.h>
#include <sys/wait.h>

/* A resolver that hangs when the test wants it to. */
static _Atomic int resolver_hangs;
static _Atomic int hanging; /* threads in it */

int getaddrinfo(const char *node, const char *service,
                const struct addrinfo *hints, struct addrinfo **result)
{
    int (*real)(const char *, const char *, const struct addrinfo *,
                struct addrinfo **);

    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    atomic_fetch_add(&hanging, 1);
    while (atomic_load(&resolver_hangs)) {
        apr_sleep(apr_time_from_msec(1));
    }
    atomic_fetch_sub(&hanging, 1);
    return real(node, service, hints, result);
}

/* ---- without a broker ---- */

#define LATE                                                        \
    apr_time_from_msec(500) /* behind a deadline, on a slow machine \
                             */

/* Flush. @return whether it kept its deadline */
static int flush_in_time(feeder_t *f, apr_interval_time_t within)
{
    apr_time_t deadline = ue_monotonic() + within;

    f->gives_up = 1;
    f->sink->vtable->flush(f->sink, deadline);
    return ue_monotonic() - deadline < LATE;
}

/* Hand over what a lane would take, although no metadata are there. */
static void know_lanes(kafka_topic_t *topic, uint32_t count)
{
    pthread_mutex_lock(&topic->mutex);
    topic->leaders = realloc(topic->leaders, count * sizeof(*topic->leaders));
    topic->leader_count = count;
    for (uint32_t i = 0; i < count; i++) {
        topic->leaders[i] = -1;
    }
    topic->usable = 1;
    atomic_fetch_add(&topic->version, 1);
    pthread_mutex_unlock(&topic->mutex);
}

/* In a child, since whoever destroys would wait for the resolver. */
static int end_with_unknown_name(void)
{
    apr_time_t until = ue_monotonic() + apr_time_from_sec(10);
    feeder_t f;

    open_feeder(&f, open_kafka("no-such-host.invalid:9092", NULL, NULL), "t",
                50);
    start_feeder(&f);
    know_lanes(f.topic, 3);
    while ((f.under_way < 50 || count_said("UE0401") == 0)
           && ue_monotonic() < until) {
        feed(&f);
        apr_sleep(apr_time_from_msec(1));
    }
    return flush_in_time(&f, 0) && f.told[UE_UNSENT] == 50 && !f.wrong
           && f.under_way == 0 && credits_in_use(f.topic->kafka) == 0
           && count_said("UE0401") == 1
           && has_said("UE0401", "no-such-host.invalid:9092");
}

static void test_end_with_a_name_that_cannot_be_resolved(void **state)
{
    pid_t child = fork();
    int status = -1;

    if (child == 0) {
        unit_exit(!end_with_unknown_name());
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

/* Two children of one parent; here both are in one process. */
static void test_no_broker_is_said_once_for_all_children(void **state)
{
    ue_kafka_t *one, *two;
    feeder_t f, g;

    begin(1);
    make_topic("t", 2);
    set_down(-1);
    one = open_kafka(fix.brokers, NULL, NULL);
    two = open_kafka(fix.brokers, NULL, NULL);
    two->limits = one->limits;
    open_feeder(&f, one, "t", 30);
    open_feeder(&g, two, "t", 30);
    g.stream.b[0] = 0;
    start_feeder(&f);
    start_feeder(&g);
    UNTIL_BOTH(&f, &g, count_said("UE0401") > 0);
    feed_for(&f, 200);
    feed_for(&g, 200);
    assert_int_equal(count_said("UE0401"), 1);
    assert_int_equal(count_said("Connected to Kafka"), 0);
    assert_int_equal(f.waiting + g.waiting, 60);
    assert_int_equal(f.sink->vtable->lanes(f.sink), 0);
    assert_false(f.connected || g.connected);
    set_up(-1);
    UNTIL_BOTH(&f, &g, IS_DONE(&f) && IS_DONE(&g));
    UNTIL_BOTH(&f, &g, f.connected && g.connected);
    assert_int_equal(f.told[UE_DELIVERED] + g.told[UE_DELIVERED], 60);
    assert_int_equal(f.wrong + g.wrong, 0);
    assert_int_equal(count_said("UE0401"), 1);
    assert_int_equal(count_said("UE0402"), 1);
    assert_int_equal(count_said("Connected to Kafka for usage tracking"), 2);
}

/* What a child notes, the others see. */
static void test_limits_are_shared_by_children(void **state)
{
    ue_kafka_t *kafka = open_kafka("localhost:1", NULL, NULL);
    pid_t child = fork();
    int status = -1;

    if (child == 0) {
        atomic_store(&kafka->limits->down, 77);
        unit_exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(atomic_load(&kafka->limits->down), 77);
}

static void test_broker_that_comes_back(void **state)
{
    feeder_t f;

    begin(1);
    make_topic("t", 2);
    open_feeder(&f, open_kafka(fix.brokers, NULL, NULL), "t", 60);
    f.most = 10;
    hold(&f);
    start_feeder(&f);
    UNTIL(&f, f.sink->vtable->lanes(f.sink) == 2);
    UNTIL(&f, f.connected);
    set_down(-1);
    UNTIL(&f, count_said("UE0401") == 1 && !f.connected);
    let_go(&f);
    set_up(-1);
    UNTIL(&f, IS_DONE(&f) && f.connected);
    assert_int_equal(count_said("UE0402"), 1);
    assert_each_once(&f, 2);
}

/* ---- topics ---- */

static void refuse_topic(rd_kafka_resp_err_t error, const char *text)
{
    ue_kafka_t *kafka;
    feeder_t f;

    begin(1);
    make_topic("t", 4);
    rd_kafka_mock_topic_set_error(fix.mock, "t", error);
    kafka = open_kafka(fix.brokers, NULL, NULL);
    open_feeder(&f, kafka, "t", 50);
    start_feeder(&f);
    UNTIL(&f, count_said("UE0407") == 1);
    feed_for(&f, 700); /* asked about twice more */
    assert_int_equal(count_said("UE0407"), 1);
    assert_true(has_said("UE0407", "topic t: "));
    assert_true(has_said("UE0407", text));
    assert_int_equal(f.sink->vtable->lanes(f.sink), 0);
    assert_int_equal(f.waiting, 50);
    rd_kafka_mock_topic_set_error(fix.mock, "t", RD_KAFKA_RESP_ERR_NO_ERROR);
    UNTIL(&f, IS_DONE(&f));
    assert_each_once(&f, 4);
}

static void test_topic_that_is_not_there(void **state)
{
    refuse_topic(RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
                 "Unknown topic or partition");
}

static void test_topic_that_we_may_not_see(void **state)
{
    refuse_topic(RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
                 "Topic authorization failed");
}

/* One that goes is given no more; what is offered waits for it. */
static void test_topic_that_goes_and_comes(void **state)
{
    feeder_t f;

    begin(1);
    make_topic("t", 4);
    open_feeder(&f, open_kafka(fix.brokers, NULL, NULL), "t", 50);
    hold(&f);
    start_feeder(&f);
    UNTIL(&f, f.sink->vtable->lanes(f.sink) == 4);
    assert_true(f.sink->vtable->has_room(f.sink, 0));
    rd_kafka_mock_topic_set_error(fix.mock, "t",
                                  RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    UNTIL(&f, !f.sink->vtable->has_room(f.sink, 0));
    assert_int_equal(f.sink->vtable->lanes(f.sink), 4);
    rd_kafka_mock_topic_set_error(fix.mock, "t", RD_KAFKA_RESP_ERR_NO_ERROR);
    let_go(&f);
    UNTIL(&f, IS_DONE(&f));
    assert_each_once(&f, 4);
}

/* ---- the topic of the ledger ---- */

/* Have it looked for at once. */
static void look_again(kafka_topic_t *topic)
{
    pthread_rwlock_wrlock(&topic->kafka->lock);
    topic->ledger.looked_at = 0;
    pthread_rwlock_unlock(&topic->kafka->lock);
}

/* Is there such a topic? Asking for one by its name would make it. */
static int is_made(const char *name)
{
    rd_kafka_t *rk = make_reader();
    const struct rd_kafka_metadata *md;
    int found = 0;

    assert_int_equal(rd_kafka_metadata(rk, 1, NULL, &md, 5000), 0);
    for (int i = 0; i < md->topic_cnt; i++) {
        found |= !strcmp(md->topics[i].topic, name);
    }
    rd_kafka_metadata_destroy(md);
    rd_kafka_destroy(rk);
    return found;
}

/* Where nothing is known of it, and it can't be made, nobody names it: brokers
 * make a topic that is named, as this one does. Events go on. */
static void test_ledger_topic_is_not_named_before_it_is_there(void **state)
{
    feeder_t f;

    begin(1);
    make_one_topic("t", 2);
    open_feeder(&f, open_kafka(fix.brokers, NULL, NULL), "t", 200);
    f.most = 10;
    start_feeder(&f);
    assert_true(APR_STATUS_IS_EAGAIN(take_note(&f)));
    UNTIL(&f, count_said("UE0412") == 1);
    UNTIL(&f, IS_DONE(&f));
    assert_true(has_said("UE0412", "ledger topic t-ledger can't be made"));
    feed_for(&f, 1500); /* metadata is asked for, by us and by librdkafka */
    assert_true(APR_STATUS_IS_EAGAIN(take_note(&f)));
    assert_false(is_made("t-ledger"));
    look_again(f.topic);
    feed_for(&f, 1200);
    assert_int_equal(count_said("UE0412"), 1); /* limited in rate */
    assert_false(is_made("t-ledger"));
    assert_true(is_made("t"));
    make_one_topic("t-ledger", 1);
    look_again(f.topic);
    UNTIL(&f, take_note(&f) == APR_SUCCESS);
    UNTIL(&f, f.notes_stored == 1);
    assert_int_equal(count_notes(&f), 1);
    assert_each_once(&f, 2);
}

/* It isn't made beside a topic that isn't there: its name may be wrong. */
static void test_ledger_topic_waits_for_that_of_events(void **state)
{
    feeder_t f;

    begin(1);
    make_topic("t", 2);
    rd_kafka_mock_topic_set_error(fix.mock, "t",
                                  RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    open_feeder(&f, open_kafka(fix.brokers, NULL, NULL), "t", 20);
    start_feeder(&f);
    UNTIL(&f, count_said("UE0407") == 1);
    feed_for(&f, 1200);
    assert_true(APR_STATUS_IS_EAGAIN(take_note(&f)));
    rd_kafka_mock_topic_set_error(fix.mock, "t", RD_KAFKA_RESP_ERR_NO_ERROR);
    UNTIL(&f, take_note(&f) == APR_SUCCESS);
    UNTIL(&f, f.notes_stored == 1 && IS_DONE(&f));
    assert_each_once(&f, 2);
}

/* One that is deleted is looked for again, and made. */
static void test_ledger_topic_that_goes_and_comes(void **state)
{
    feeder_t f;

    begin(1);
    make_topic("t", 2);
    open_feeder(&f, open_kafka(fix.brokers, NULL, NULL), "t", 20);
    start_feeder(&f);
    UNTIL(&f, take_note(&f) == APR_SUCCESS);
    UNTIL(&f, f.notes_stored == 1 && IS_DONE(&f));
    rd_kafka_mock_topic_set_error(fix.mock, "t-ledger",
                                  RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    UNTIL(&f, take_note(&f) && !atomic_load(&f.topic->ledger.is_there));
    look_again(f.topic);
    UNTIL(&f, count_said("UE0412") == 1);
    assert_true(APR_STATUS_IS_EAGAIN(take_note(&f)));
    rd_kafka_mock_topic_set_error(fix.mock, "t-ledger",
                                  RD_KAFKA_RESP_ERR_NO_ERROR);
    look_again(f.topic);
    UNTIL(&f, atomic_load(&f.topic->ledger.is_there));
    UNTIL(&f, take_note(&f) == APR_SUCCESS && f.notes_stored > 2);
    UNTIL(&f, f.notes_stored + f.notes_failed == f.notes);
    assert_int_equal(count_notes(&f), f.notes_stored);
    assert_each_once(&f, 2);
}

/* ---- fatal errors ---- */

static void break_down(ue_kafka_t *kafka)
{
    rd_kafka_test_fatal_error(
        kafka->rk, RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, "a test");
}

static void test_producer_is_replaced_after_a_fatal_error(void **state)
{
    ue_kafka_t *kafka;
    const rd_kafka_t *old;
    feeder_t f, g;

    begin(1);
    make_topic("t", 3);
    make_topic("u", 3);
    kafka = open_kafka(fix.brokers, NULL, NULL);
    open_feeder(&f, kafka, "t", 300);
    open_feeder(&g, kafka, "u", 300);
    f.most = g.most = 20;
    count_requests(1, 60000); /* in flight, and never answered */
    start_feeder(&f);
    start_feeder(&g);
    UNTIL_BOTH(&f, &g, requests(1) >= UE_KAFKA_CREDIT);
    UNTIL_BOTH(&f, &g, f.under_way && g.under_way);
    old = kafka->rk;
    break_down(kafka);
    UNTIL_BOTH(&f, &g, !f.under_way && !g.under_way);
    /* One that breaks soon is not replaced at once. */
    feed_for(&f, 100);
    assert_ptr_equal(kafka->rk, old);
    assert_false(f.sink->vtable->has_room(f.sink, 0));
    assert_int_equal(credits_in_use(kafka), 0);
    kafka->made_at -= apr_time_from_sec(5);
    UNTIL_BOTH(&f, &g, kafka->rk != old);
    UNTIL_BOTH(&f, &g, IS_DONE(&f) && IS_DONE(&g));
    assert_int_equal(count_said("UE0406"), 1);
    assert_true(has_said("UE0406", "a test"));
    assert_int_equal(f.wrong + g.wrong, 0);
    read_topic(&f, 3);
    read_topic(&g, 3);
    /* What was in flight may be there twice, under the same number. */
    assert_int_equal(count_stored(&f, 1, 2), 300);
    assert_int_equal(count_stored(&g, 1, 2), 300);
    assert_int_equal(f.overtaken + g.overtaken, 0);
    assert_int_equal(credits_in_use(kafka), 0);
    assert_true(threads_end("usage-kafka-end"));
}

/* What was noted is told, as not stored; and noted again with the new one. */
static void test_notes_survive_a_fatal_error(void **state)
{
    ue_kafka_t *kafka;
    const rd_kafka_t *old;
    feeder_t f;

    begin(1);
    make_topic("t", 2);
    kafka = open_kafka(fix.brokers, NULL, NULL);
    open_feeder(&f, kafka, "t", 20);
    start_feeder(&f);
    UNTIL(&f, take_note(&f) == APR_SUCCESS);
    UNTIL(&f, f.notes_stored == 1 && IS_DONE(&f));
    /* one request, which is never answered */
    rd_kafka_mock_broker_push_request_error_rtts(
        fix.mock, 1, PRODUCE, 1, RD_KAFKA_RESP_ERR_NO_ERROR, 60000);
    assert_int_equal(take_note(&f), APR_SUCCESS);
    UNTIL(&f, requests(1) == COUNTED);
    old = kafka->rk;
    break_down(kafka);
    UNTIL(&f, f.notes_failed == 1);
    UNTIL(&f, atomic_load(&kafka->broken));
    assert_true(APR_STATUS_IS_EAGAIN(take_note(&f)));
    kafka->made_at -= apr_time_from_sec(5);
    UNTIL(&f, kafka->rk != old);
    UNTIL(&f, take_note(&f) == APR_SUCCESS);
    UNTIL(&f, f.notes_stored == 2);
    look_again(f.topic); /* the new one answers */
    pthread_rwlock_wrlock(&kafka->lock);
    atomic_store(&f.topic->ledger.is_there, 0);
    pthread_rwlock_unlock(&kafka->lock);
    UNTIL(&f, atomic_load(&f.topic->ledger.is_there));
    assert_int_equal(f.wrong, 0);
    assert_true(threads_end("usage-kafka-end"));
}

/* One of the mock cluster's handle, one of ours: none is left over. */
static void test_broken_producers_leave_no_threads(void **state)
{
    ue_kafka_t *kafka;
    feeder_t f;

    begin(1);
    make_topic("t", 3);
    kafka = open_kafka(fix.brokers, NULL, NULL);
    open_feeder(&f, kafka, "t", 30);
    start_feeder(&f);
    UNTIL(&f, IS_DONE(&f));
    for (int i = 0; i < 3; i++) {
        const rd_kafka_t *old = kafka->rk;

        break_down(kafka);
        kafka->made_at -= apr_time_from_sec(5);
        UNTIL(&f, kafka->rk != old);
    }
    UNTIL(&f, count_threads("usage-kafka-end") == 0);
    UNTIL(&f, count_threads("rdk:main") == 2);
    assert_int_equal(count_threads("usage-kafka"), 1);
    assert_int_equal(count_said("UE0406"), 1); /* limited in rate */
    assert_each_once(&f, 3);
}

/* ---- the end ---- */

static void open_one(feeder_t *f, uint32_t events)
{
    begin(1);
    make_topic("t", 2);
    open_feeder(f, open_kafka(fix.brokers, NULL, NULL), "t", events);
}

static void test_end_with_nothing_under_way(void **state)
{
    feeder_t f;

    open_one(&f, 40);
    start_feeder(&f);
    UNTIL(&f, IS_DONE(&f));
    assert_int_equal(f.sink->vtable->flush(f.sink, ue_monotonic()),
                     APR_SUCCESS);
    assert_each_once(&f, 2);
}

static void test_end_waits_for_answers_until_its_deadline(void **state)
{
    feeder_t f;

    open_one(&f, 40);
    count_requests(1, 300);
    start_feeder(&f);
    UNTIL(&f, requests(1) >= 2);
    assert_true(flush_in_time(&f, apr_time_from_sec(10)));
    assert_each_once(&f, 2);
}

static void test_end_with_brokers_gone(void **state)
{
    feeder_t f;

    open_one(&f, 40);
    hold(&f); /* until no broker is there */
    start_feeder(&f);
    UNTIL(&f, f.sink->vtable->lanes(f.sink) == 2);
    set_down(-1);
    UNTIL(&f, !f.connected && count_said("UE0401") == 1);
    let_go(&f);
    UNTIL(&f, f.under_way == 40);
    assert_true(flush_in_time(&f, apr_time_from_msec(100)));
    assert_int_equal(f.told[UE_UNSENT], 40);
    assert_int_equal(f.wrong, 0);
    assert_int_equal(credits_in_use(f.topic->kafka), 0);
    /* The producer says what was lost. */
    assert_int_equal(count_said("UE0408"), 0);
}

/* A broker that has it all, and says nothing. */
static void test_end_with_a_stalled_broker(void **state)
{
    feeder_t f;

    open_one(&f, 40);
    hold(&f);
    start_feeder(&f);
    UNTIL(&f, f.connected && f.sink->vtable->lanes(f.sink) == 2);
    count_requests(1, 60000);
    let_go(&f);
    UNTIL(&f, requests(1) >= 2);
    assert_true(flush_in_time(&f, apr_time_from_msec(100)));
    assert_int_equal(f.told[UE_UNKNOWN], 40);
    assert_int_equal(f.wrong, 0);
    assert_int_equal(credits_in_use(f.topic->kafka), 0);
    assert_int_equal(count_said("UE0408"), 0);
    set_down(-1); /* its other answers wait behind that one */
}

static void test_end_waits_for_notes(void **state)
{
    feeder_t f;

    open_one(&f, 40);
    start_feeder(&f);
    UNTIL(&f, IS_DONE(&f) && take_note(&f) == APR_SUCCESS);
    UNTIL(&f, f.notes_stored == f.notes);
    count_requests(1, 300);
    assert_int_equal(take_note(&f), APR_SUCCESS);
    assert_true(flush_in_time(&f, apr_time_from_sec(10)));
    assert_int_equal(f.notes_stored, f.notes);
    /* What is noted at the very end, too. */
    assert_int_equal(take_note(&f), APR_SUCCESS);
    assert_true(flush_in_time(&f, apr_time_from_sec(10)));
    assert_int_equal(f.notes_stored, f.notes);
    assert_int_equal(count_notes(&f), f.notes);
}

static void test_end_leaves_no_note_untold(void **state)
{
    feeder_t f;

    open_one(&f, 40);
    start_feeder(&f);
    UNTIL(&f, IS_DONE(&f) && take_note(&f) == APR_SUCCESS);
    UNTIL(&f, f.notes_stored == f.notes);
    count_requests(1, 60000);
    assert_int_equal(take_note(&f), APR_SUCCESS);
    UNTIL(&f, requests(1) == 1);
    assert_true(flush_in_time(&f, apr_time_from_msec(100)));
    assert_int_equal(f.notes_failed, 1);
    assert_int_equal(f.topic->ledger.under_way, 0);
    assert_int_equal(f.wrong, 0);
    set_down(-1);
}

static void test_end_does_not_wait_for_a_report_that_never_comes(void **state)
{
    apr_time_t begin_at;
    feeder_t f;

    open_one(&f, 40);
    start_feeder(&f);
    UNTIL(&f, IS_DONE(&f));
    f.topic->under_way++;
    begin_at = ue_monotonic();
    assert_int_equal(f.sink->vtable->flush(f.sink, begin_at), APR_TIMEUP);
    assert_true(ue_monotonic() - begin_at < LATE);
    f.topic->under_way--;
}

/* The thread that would send is stuck, and can't even say that it is. */
static void test_end_with_a_resolver_that_hangs(void **state)
{
    feeder_t f;

    open_one(&f, 40);
    hold(&f);
    start_feeder(&f);
    UNTIL(&f, f.connected && f.sink->vtable->lanes(f.sink) == 2);
    atomic_store(&resolver_hangs, 1);
    set_down(-1);
    UNTIL(&f, atomic_load(&hanging) > 0);
    let_go(&f);
    UNTIL(&f, f.under_way == 40);
    assert_true(flush_in_time(&f, apr_time_from_msec(100)));
    assert_true(atomic_load(&hanging) > 0);
    assert_int_equal(f.told[UE_DELIVERED] + f.told[UE_REFUSED]
                         + f.told[UE_EXPIRED] + f.told[UE_TOO_LARGE],
                     0);
    assert_int_equal(f.told[UE_UNSENT] + f.told[UE_UNKNOWN] + f.under_way, 40);
    assert_int_equal(f.wrong, 0);
    atomic_store(&resolver_hangs, 0);
}

/* Nobody who starts or polls waits for the resolver either. */
static void test_resolver_that_hangs_holds_up_nobody(void **state)
{
    apr_time_t longest = 0;
    feeder_t f;

    begin(1);
    make_topic("t", 2);
    open_feeder(&f, open_kafka(fix.brokers, NULL, NULL), "t", 40);
    atomic_store(&resolver_hangs, 1);
    start_feeder(&f);
    UNTIL(&f, atomic_load(&hanging) > 0);
    for (int i = 0; i < 50; i++) {
        apr_time_t before = ue_monotonic(), took;

        feed(&f);
        took = ue_monotonic() - before;
        longest = took > longest ? took : longest;
        apr_sleep(apr_time_from_msec(1));
    }
    assert_true(longest < LATE);
    assert_int_equal(f.waiting, 40);
    atomic_store(&resolver_hangs, 0);
    UNTIL(&f, IS_DONE(&f));
    assert_each_once(&f, 2);
}

/* One topic's worker is done; another's goes on, whatever happens to it. */
static void test_end_of_one_topic_is_not_that_of_another(void **state)
{
    ue_kafka_t *kafka;
    feeder_t f, g;

    begin(1);
    make_topic("t", 2);
    make_topic("u", 2);
    rd_kafka_mock_topic_set_error(fix.mock, "u",
                                  RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    kafka = open_kafka(fix.brokers, NULL, NULL);
    open_feeder(&f, kafka, "t", 20);
    open_feeder(&g, kafka, "u", 20);
    start_feeder(&f);
    start_feeder(&g);
    UNTIL_BOTH(&f, &g, IS_DONE(&f) && count_said("UE0407") == 1);
    assert_int_equal(f.sink->vtable->flush(f.sink, ue_monotonic()),
                     APR_SUCCESS);
    feed_for(&g, 700);
    rd_kafka_mock_topic_set_error(fix.mock, "u", RD_KAFKA_RESP_ERR_NO_ERROR);
    UNTIL(&g, IS_DONE(&g));
    assert_each_once(&g, 2);
}

/* The first test forks, and there is no other thread yet. */
static const struct CMUnitTest tests[] = {
    TEST(test_end_with_a_name_that_cannot_be_resolved),
    TEST(test_limits_are_shared_by_children),
    TEST(test_no_broker_is_said_once_for_all_children),
    TEST(test_broker_that_comes_back),
    TEST(test_topic_that_is_not_there),
    TEST(test_topic_that_we_may_not_see),
    TEST(test_topic_that_goes_and_comes),
    TEST(test_ledger_topic_is_not_named_before_it_is_there),
    TEST(test_ledger_topic_waits_for_that_of_events),
    TEST(test_ledger_topic_that_goes_and_comes),
    TEST(test_producer_is_replaced_after_a_fatal_error),
    TEST(test_notes_survive_a_fatal_error),
    TEST(test_broken_producers_leave_no_threads),
    TEST(test_end_with_nothing_under_way),
    TEST(test_end_waits_for_answers_until_its_deadline),
    TEST(test_end_with_brokers_gone),
    TEST(test_end_with_a_stalled_broker),
    TEST(test_end_waits_for_notes),
    TEST(test_end_leaves_no_note_untold),
    TEST(test_end_does_not_wait_for_a_report_that_never_comes),
    TEST(test_end_with_a_resolver_that_hangs),
    TEST(test_resolver_that_hangs_holds_up_nobody),
    TEST(test_end_of_one_topic_is_not_that_of_another),
};

UNIT_MAIN(tests)
