/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * The producer without room: what is dropped is counted by organization and
 * spoken of at the original's words, but not too often; what is refused isn't
 * counted, since it wasn't served; and what was admitted before the queue was
 * full is delivered all the same. The queue fills because the sink is stuck.
 */
#include "unit_producer.h"

#define BUFFER 50
#define SLOTS 64

#define WARNING                                                 \
    "[EventProducer] WARNING: Buffer full, dropping event for " \
    "org: " UNIT_ORGANIZATION

/* A worker that hangs in its sink with one event, so that what follows stays in
 * the queue. */
static void make_stuck_producer(void)
{
    ue_producer_config_t config = unit_config;

    config.batch_size = 1;
    config.buffer_size = BUFFER;
    config.slots = SLOTS;
    make_producer(&config, 1);
    fakes[0].stuck = 1;
    send_all(0, 1);
    EVENTUALLY(fakes[0].in_submit);
}

static void take_loss(void *baton, const ue_uuid_t *id,
                      const uint64_t lost[UE_LOSSES])
{
    if (ue_uuid_equal(id, &unit_organization)) {
        *(uint64_t *)baton += lost[UE_LOST_OVERFLOW];
    }
}

static uint64_t lost_of_organization(void)
{
    uint64_t n = 0;

    ue_metrics_losses(fix.metrics, take_loss, &n);
    return n;
}

/* The whole line, not its beginning. */
static unsigned lines_like(const char *line)
{
    unsigned n = 0;

    pthread_mutex_lock(&fix.log_mutex);
    for (unsigned i = 0; i < fix.line_count; i++) {
        n += strcmp(fix.lines[i], line) == 0;
    }
    pthread_mutex_unlock(&fix.log_mutex);
    return n;
}

static void test_producer_drops_what_the_queue_has_no_room_for(void **state)
{
    make_stuck_producer();
    send_all(1, 1 + BUFFER);
    assert_int_equal(lost_in_all(), 0);
    assert_int_equal(send_one(1 + BUFFER, UE_OVERFLOW_DROP), APR_EAGAIN);
    assert_int_equal(metric(UE_M_EVENTS_ADMITTED), BUFFER + 2);
    assert_int_equal(metric(UE_M_EVENTS_LOST_OVERFLOW), 1);
    assert_int_equal(lost_of_organization(), 1);
    assert_int_equal(lines_like(WARNING), 1);
    fakes[0].stuck = 0;
    EVENTUALLY(metric(UE_M_EVENTS_DELIVERED) == BUFFER + 1);
    check_seen(&fakes[0], 0, 1 + BUFFER);
    assert_int_equal(fakes[0].seen[1 + BUFFER], 0);
    check_account();
    /* and there is room again */
    assert_int_equal(send_one(2 + BUFFER, UE_OVERFLOW_DROP), APR_SUCCESS);
    EVENTUALLY(fakes[0].seen[2 + BUFFER] == 1);
}

/* Every drop is counted; lines come once a second, and say how many they speak
 * for. All lines together speak for every drop. */
static void test_producer_speaks_of_drops_once_a_second(void **state)
{
    unsigned spoken = 0;
    unsigned lines = 0;
    apr_time_t begin;

    make_stuck_producer();
    send_all(1, 1 + BUFFER);
    begin = ue_monotonic();
    for (unsigned n = 0; n < 500; n++) {
        assert_int_equal(send_one(1000 + n, UE_OVERFLOW_DROP), APR_EAGAIN);
    }
    assert_int_equal(lost_of_organization(), 500);
    assert_true(lines_with(WARNING)
                <= 1 + (ue_monotonic() - begin) / APR_USEC_PER_SEC);
    fakes[0].stuck = 0;
    /* the worker speaks for those that no later line would */
    EVENTUALLY(lines_with("[EventProducer] WARNING: Buffer full, dropped ")
               == 1);
    pthread_mutex_lock(&fix.log_mutex);
    for (unsigned i = 0; i < fix.line_count; i++) {
        unsigned more = 0;

        if (fix.levels[i] != UE_LOG_WARNING) {
            continue;
        }
        lines++;
        if (sscanf(fix.lines[i], WARNING " (and %u more", &more) == 1
            || strcmp(fix.lines[i], WARNING) == 0) {
            spoken += 1 + more;
        }
        else if (sscanf(fix.lines[i],
                        "[EventProducer] WARNING: Buffer full, dropped %u",
                        &more)
                 == 1) {
            spoken += more;
        }
    }
    pthread_mutex_unlock(&fix.log_mutex);
    assert_int_equal(spoken, 500);
    assert_in_range(lines, 2, 4);
}

static void test_producer_drops_what_no_slot_is_free_for(void **state)
{
    ue_admission_t a = numbered(5000);
    ue_slot_ref_t refs[SLOTS];
    ue_slot_ref_t ref = 99;
    unsigned taken = 0;

    make_stuck_producer();
    while (taken < SLOTS - 1) {
        assert_int_equal(ue_producer_admit(fix.producer, &a, UE_OVERFLOW_DROP,
                                           &refs[taken++]),
                         APR_SUCCESS);
    }
    assert_int_equal(
        ue_producer_admit(fix.producer, &a, UE_OVERFLOW_DROP, &ref),
        APR_EAGAIN);
    assert_int_equal(ref, 0);
    assert_int_equal(metric(UE_M_EVENTS_ADMITTED), SLOTS + 1);
    assert_int_equal(metric(UE_M_EVENTS_LOST_OVERFLOW), 1);
    assert_int_equal(lost_of_organization(), 1);
    assert_int_equal(lines_like(WARNING), 1);
    /* refused, it was not served, and is no loss */
    assert_int_equal(
        ue_producer_admit(fix.producer, &a, UE_OVERFLOW_REFUSE, &ref),
        APR_EAGAIN);
    assert_int_equal(ref, 0);
    assert_int_equal(metric(UE_M_EVENTS_ADMITTED), SLOTS + 1);
    assert_int_equal(lost_of_organization(), 1);
    assert_int_equal(sum_now().waiting, SLOTS);
}

typedef struct {
    _Atomic int stop;
    _Atomic unsigned refused;
    unsigned wrong;
} vain_t;

static void *admit_in_vain(void *arg)
{
    ue_admission_t a = numbered(3000);
    vain_t *vain = arg;

    while (!vain->stop) {
        ue_slot_ref_t ref;
        apr_status_t rv =
            ue_producer_admit(fix.producer, &a, UE_OVERFLOW_REFUSE, &ref);

        vain->refused++;
        vain->wrong += rv != APR_EAGAIN;
    }
    return NULL;
}

/* A counter that falls is one that began anew, to Prometheus. What is refused
 * for want of room is not even counted for a moment. */
static void test_producer_counts_nothing_that_it_refuses(void **state)
{
    vain_t vain = {.wrong = 0};
    unsigned fell = 0;
    pthread_t thread;

    make_stuck_producer();
    assert_true(ue_producer_has_room(fix.producer));
    send_all(1, 1 + BUFFER);
    assert_false(ue_producer_has_room(fix.producer));
    assert_int_equal(pthread_create(&thread, NULL, admit_in_vain, &vain), 0);
    EVENTUALLY(vain.refused > 0);
    for (unsigned n = unit_loops(300000); n > 0; n--) {
        fell += metric(UE_M_EVENTS_ADMITTED) != 1 + BUFFER;
    }
    vain.stop = 1;
    pthread_join(thread, NULL);
    assert_int_equal(vain.wrong, 0);
    assert_int_equal(fell, 0);
    assert_int_equal(lost_in_all(), 0);
    fakes[0].stuck = 0;
    EVENTUALLY(ue_producer_has_room(fix.producer));
}

/* Nor is there room where the queue has some, but no slot is free. */
static void test_producer_has_no_room_without_a_slot(void **state)
{
    unsigned taken = 0;

    make_stuck_producer();
    while (taken++ < SLOTS - 1) {
        assert_true(ue_producer_has_room(fix.producer));
        admit(100 + taken);
    }
    assert_false(ue_producer_has_room(fix.producer));
}

/* A request that was let through before the queue was full is not dropped:
 * it stays in its slot, and is found there. */
static void test_producer_refusing_strands_what_was_admitted(void **state)
{
    ue_admission_t a = numbered(2000);
    ue_slot_ref_t early[3];
    ue_slot_ref_t ref = 99;

    make_stuck_producer();
    for (unsigned i = 0; i < 3; i++) {
        a = numbered(2000 + i);
        assert_int_equal(
            ue_producer_admit(fix.producer, &a, UE_OVERFLOW_REFUSE, &early[i]),
            APR_SUCCESS);
    }
    for (unsigned n = 1; n < 1 + BUFFER; n++) {
        assert_int_equal(send_one(n, UE_OVERFLOW_REFUSE), APR_SUCCESS);
    }
    assert_int_equal(
        ue_producer_admit(fix.producer, &a, UE_OVERFLOW_REFUSE, &ref),
        APR_EAGAIN);
    assert_int_equal(ref, 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(ue_producer_record(fix.producer, early[i],
                                            &unit_completion,
                                            UE_OVERFLOW_REFUSE),
                         APR_SUCCESS);
        assert_int_equal(ue_journal_state(fix.producer->journal, early[i]),
                         UE_SLOT_STRANDED);
    }
    assert_int_equal(metric(UE_M_EVENTS_ADMITTED), BUFFER + 4);
    assert_int_equal(lost_in_all(), 0);
    fakes[0].stuck = 0;
    EVENTUALLY(metric(UE_M_EVENTS_DELIVERED) == BUFFER + 4);
    check_seen(&fakes[0], 0, 1 + BUFFER);
    check_seen(&fakes[0], 2000, 2003);
    assert_int_equal(lost_in_all(), 0);
    assert_int_equal(lines_with("[EventProducer] WARNING"), 0);
    check_account();
}

/* A flush waits for what is stranded, too. */
static void test_producer_flush_finds_what_is_stranded(void **state)
{
    ue_admission_t a = numbered(2000);
    ue_slot_ref_t ref;

    make_stuck_producer();
    assert_int_equal(
        ue_producer_admit(fix.producer, &a, UE_OVERFLOW_REFUSE, &ref),
        APR_SUCCESS);
    send_all(1, 1 + BUFFER);
    assert_int_equal(ue_producer_record(fix.producer, ref, &unit_completion,
                                        UE_OVERFLOW_REFUSE),
                     APR_SUCCESS);
    assert_int_equal(ue_producer_flush(fix.producer, ue_monotonic() + 10000),
                     APR_TIMEUP);
    fakes[0].stuck = 0;
    assert_int_equal(ue_producer_flush(fix.producer, ue_monotonic() + SOON),
                     APR_SUCCESS);
    check_seen(&fakes[0], 2000, 2001);
    check_account();
}

/* The queue's depth, and its high-water mark. */
static void test_producer_shows_how_full_its_queue_was(void **state)
{
    make_stuck_producer();
    send_all(1, 41);
    fakes[0].stuck = 0;
    EVENTUALLY(metric(UE_M_EVENTS_DELIVERED) == 41);
    EVENTUALLY(metric(UE_M_QUEUE_EVENTS) == 0);
    assert_int_equal(metric(UE_M_QUEUE_EVENTS_MAX), 40);
}

/* A long endpoint takes several slots; it finds room or is dropped whole. */
static void test_producer_drops_a_long_endpoint_without_leaking(void **state)
{
    static char endpoint[2048];
    ue_admission_t a = numbered(3000);
    unsigned admitted = 0;
    ue_slot_ref_t ref;

    make_stuck_producer();
    memset(endpoint, 'e', sizeof(endpoint));
    a.endpoint = endpoint;
    a.endpoint_len = sizeof(endpoint);
    for (unsigned i = 0; i < 10; i++) {
        a.request_id.b[2] = (uint8_t)i;
        if (ue_producer_admit(fix.producer, &a, UE_OVERFLOW_DROP, &ref)
            == APR_SUCCESS) {
            admitted++;
            assert_int_equal(ue_producer_record(fix.producer, ref,
                                                &unit_completion,
                                                UE_OVERFLOW_DROP),
                             APR_SUCCESS);
        }
    }
    assert_in_range(admitted, 4, 5); /* of 12 or 13 slots each, in 63 */
    assert_int_equal(metric(UE_M_EVENTS_LOST_OVERFLOW), 10 - admitted);
    fakes[0].stuck = 0;
    EVENTUALLY(metric(UE_M_EVENTS_DELIVERED) == admitted + 1);
    check_account();
    /* all slots are free again */
    for (unsigned round = 0; round < 3; round++) {
        send_all(100 + 50 * round, 150 + 50 * round);
        assert_int_equal(ue_producer_flush(fix.producer, ue_monotonic() + SOON),
                         APR_SUCCESS);
    }
    assert_int_equal(metric(UE_M_EVENTS_LOST_OVERFLOW), 10 - admitted);
    check_account();
}

/* ---- threads ---- */

#define THREADS 6

typedef struct {
    pthread_t thread;
    unsigned first;
    unsigned count;
    ue_overflow_t overflow;
    unsigned refused;
    unsigned dropped;
    unsigned wrong;
} job_t;

static void *send_many(void *arg)
{
    job_t *job = arg;

    for (unsigned i = 0; i < job->count; i++) {
        ue_admission_t a = numbered(job->first + i);
        ue_slot_ref_t ref;
        apr_status_t rv =
            ue_producer_admit(fix.producer, &a, job->overflow, &ref);

        if (rv != APR_SUCCESS) {
            job->refused += job->overflow == UE_OVERFLOW_REFUSE;
            job->dropped += job->overflow == UE_OVERFLOW_DROP;
            apr_sleep(50);
            continue;
        }
        rv = ue_producer_record(fix.producer, ref, &unit_completion,
                                job->overflow);
        job->dropped += rv == APR_EAGAIN;
        job->wrong +=
            rv != APR_SUCCESS
            && (rv != APR_EAGAIN || job->overflow == UE_OVERFLOW_REFUSE);
    }
    return NULL;
}

/* Two virtual hosts of either kind share the queue, which is far too small:
 * nothing that was refused is recorded, nothing that was admitted with refuse
 * is dropped, and everything is accounted for. */
static void test_producer_accounts_for_overflow_of_many_threads(void **state)
{
    ue_producer_config_t config = unit_config;
    unsigned count = unit_loops(5000);
    unsigned refused = 0;
    unsigned dropped = 0;
    job_t jobs[THREADS];

    config.batch_size = 1;
    config.buffer_size = 8;
    config.slots = SLOTS;
    make_producer(&config, 1);
    for (unsigned i = 0; i < THREADS; i++) {
        jobs[i] = (job_t){.first = i * count, .count = count};
        jobs[i].overflow = i % 2 ? UE_OVERFLOW_DROP : UE_OVERFLOW_REFUSE;
        assert_int_equal(
            pthread_create(&jobs[i].thread, NULL, send_many, &jobs[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(jobs[i].thread, NULL);
        assert_int_equal(jobs[i].wrong, 0);
        refused += jobs[i].refused;
        dropped += jobs[i].dropped;
    }
    assert_true(refused > 0 && dropped > 0);
    assert_int_equal(ue_producer_flush(fix.producer, ue_monotonic() + SOON),
                     APR_SUCCESS);
    assert_int_equal(metric(UE_M_EVENTS_ADMITTED), THREADS * count - refused);
    assert_int_equal(metric(UE_M_EVENTS_LOST_OVERFLOW), dropped);
    assert_int_equal(fakes[0].delivered, THREADS * count - refused - dropped);
    check_account();
    assert_int_equal(close_producer(), APR_SUCCESS);
    check_account();
}

static const struct CMUnitTest tests[] = {
    TEST(test_producer_drops_what_the_queue_has_no_room_for),
    TEST(test_producer_speaks_of_drops_once_a_second),
    TEST(test_producer_drops_what_no_slot_is_free_for),
    TEST(test_producer_counts_nothing_that_it_refuses),
    TEST(test_producer_has_no_room_without_a_slot),
    TEST(test_producer_refusing_strands_what_was_admitted),
    TEST(test_producer_flush_finds_what_is_stranded),
    TEST(test_producer_shows_how_full_its_queue_was),
    TEST(test_producer_drops_a_long_endpoint_without_leaking),
    TEST(test_producer_accounts_for_overflow_of_many_threads),
};

UNIT_MAIN(tests)
