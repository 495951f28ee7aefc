/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * Metrics: counters survive the child that counted, gauges don't, what a
 * killed child had waiting is counted as lost once, and losses are kept by
 * organization. Children are real ones, made by fork().
 */
#include "unit.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "metrics.h"

static apr_pool_t *pool;

static int set_up(void **state)
{
    return apr_pool_create(&pool, NULL) == APR_SUCCESS ? 0 : -1;
}

static int tear_down(void **state)
{
    apr_pool_destroy(pool);
    return 0;
}

static ue_metrics_t *make(uint32_t seats)
{
    ue_metrics_t *metrics;

    assert_int_equal(ue_metrics_create(&metrics, seats, pool), APR_SUCCESS);
    return metrics;
}

static ue_metrics_sum_t sum_of(ue_metrics_t *metrics)
{
    ue_metrics_sum_t sum;

    memset(&sum, 0xee, sizeof(sum));
    ue_metrics_sum(metrics, &sum);
    return sum;
}

/* Wait for a child of ours to end as it should. */
static void reap(pid_t pid, int signal)
{
    int status;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (signal) {
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == signal);
    }
    else {
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
}

/* ---- the table ---- */

static void test_metrics_table_describes_every_number(void **state)
{
    for (int i = 0; i < UE_METRICS; i++) {
        const ue_metric_info_t *info = &ue_metric_info[i];
        size_t len;

        assert_non_null(info->name);
        assert_int_equal(strncmp(info->name, "usage_", 6), 0);
        assert_int_equal(strspn(info->name, "abcdefghijklmnopqrstuvwxyz_"),
                         strlen(info->name));
        len = strlen(info->name);
        /* Prometheus: counters, and only they, end in _total. */
        assert_int_equal(strcmp(info->name + len - 6, "_total") == 0,
                         info->type == UE_COUNTER);
        assert_non_null(info->help);
        assert_true(strlen(info->help) > 10);
        assert_int_equal(info->label == NULL, info->value == NULL);
        for (int k = 0; k < i; k++) {
            const ue_metric_info_t *other = &ue_metric_info[k];

            if (strcmp(info->name, other->name) != 0) {
                continue;
            }
            /* the same family: alike but for the label's value, and one row
             * beside the other, as its text form wants it */
            assert_int_equal(info->type, other->type);
            assert_string_equal(info->help, other->help);
            assert_string_equal(info->label, other->label);
            assert_string_not_equal(info->value, other->value);
            assert_string_equal(info->name, ue_metric_info[i - 1].name);
        }
    }
}

static void test_metrics_losses_are_in_the_order_of_their_causes(void **state)
{
    static const char *const names[UE_LOSSES] = {
        "overflow", "rejected", "shutdown", "expired", "torn", "unknown"};

    for (int i = 0; i < UE_LOSSES; i++) {
        const ue_metric_info_t *info =
            &ue_metric_info[UE_M_EVENTS_LOST_OVERFLOW + i];

        assert_string_equal(ue_loss_name((ue_loss_t)i), names[i]);
        assert_string_equal(info->name, "usage_events_lost_total");
        assert_string_equal(info->label, "cause");
        assert_string_equal(info->value, names[i]);
    }
}

static void test_metrics_latency_bounds_rise_and_show_as_they_are(void **state)
{
    for (int i = 0; i < UE_LATENCY_BUCKETS; i++) {
        const ue_latency_bound_t *bound = &ue_latency_bounds[i];

        if (i > 0) {
            assert_true(bound->most > bound[-1].most);
        }
        assert_true(strtod(bound->seconds, NULL) * APR_USEC_PER_SEC + 0.5
                    >= (double)bound->most);
        assert_true(strtod(bound->seconds, NULL) * APR_USEC_PER_SEC - 0.5
                    <= (double)bound->most);
    }
}

/* ---- one child ---- */

static void test_metrics_add_up_over_seats(void **state)
{
    ue_metrics_t *metrics = make(4);
    ue_seat_t *a = ue_metrics_sit(metrics);
    ue_seat_t *b = ue_metrics_sit(metrics);
    ue_metrics_sum_t sum;

    assert_ptr_not_equal(a, b);
    for (int i = 0; i < UE_METRICS; i++) {
        ue_metrics_set(a, (ue_metric_t)i, 0);
        if (ue_metric_info[i].type == UE_COUNTER) {
            ue_metrics_add(a, (ue_metric_t)i, (uint64_t)i);
            ue_metrics_add(b, (ue_metric_t)i, 1000);
            ue_metrics_add(b, (ue_metric_t)i, 1);
        }
    }
    sum = sum_of(metrics);
    assert_int_equal(sum.children, 2);
    for (int i = 0; i < UE_METRICS; i++) {
        assert_int_equal(sum.value[i],
                         ue_metric_info[i].type == UE_COUNTER ? 1001 + i : 0);
    }
}

static void test_metrics_gauges_are_set_and_marks_only_rise(void **state)
{
    ue_metrics_t *metrics = make(4);
    ue_seat_t *a = ue_metrics_sit(metrics);
    ue_seat_t *b = ue_metrics_sit(metrics);

    ue_metrics_set(a, UE_M_QUEUE_EVENTS, 7);
    ue_metrics_set(a, UE_M_QUEUE_EVENTS, 5);
    ue_metrics_set(b, UE_M_QUEUE_EVENTS, 3);
    ue_metrics_set(a, UE_M_QUEUE_EVENTS_MAX, 7);
    ue_metrics_set(a, UE_M_QUEUE_EVENTS_MAX, 5);
    ue_metrics_set(b, UE_M_QUEUE_EVENTS_MAX, 3);
    ue_metrics_add(a, UE_M_KAFKA_CONNECTED, 1);
    assert_int_equal(sum_of(metrics).value[UE_M_QUEUE_EVENTS], 8);
    /* the highest of all, not their sum: it is one queue's */
    assert_int_equal(sum_of(metrics).value[UE_M_QUEUE_EVENTS_MAX], 7);
    ue_metrics_leave(a);
    assert_int_equal(sum_of(metrics).value[UE_M_QUEUE_EVENTS], 3);
    assert_int_equal(sum_of(metrics).children, 1);
    /* nor has who comes next to do with what was so before */
    assert_ptr_equal(ue_metrics_sit(metrics), a);
    assert_int_equal(sum_of(metrics).value[UE_M_KAFKA_CONNECTED], 0);
    assert_int_equal(sum_of(metrics).value[UE_M_QUEUE_EVENTS], 3);
}

static void test_metrics_latency_falls_into_its_bucket(void **state)
{
    ue_metrics_t *metrics = make(1);
    ue_seat_t *seat = ue_metrics_sit(metrics);
    uint64_t total = 0;
    ue_metrics_sum_t sum;

    for (int i = 0; i < UE_LATENCY_BUCKETS; i++) {
        apr_time_t bound = ue_latency_bounds[i].most;

        /* Prometheus' "le": the bound itself belongs to its bucket */
        ue_metrics_latency(seat, bound);
        ue_metrics_latency(seat, bound + 1);
        total += 2 * (uint64_t)bound + 1;
    }
    ue_metrics_latency(seat, 0);
    ue_metrics_latency(seat, -5); /* a clock set back */
    ue_metrics_latency(seat, 3600 * APR_USEC_PER_SEC);
    total += 3600 * UINT64_C(1000000);
    sum = sum_of(metrics);
    assert_int_equal(sum.latency[0], 3);
    for (int i = 1; i < UE_LATENCY_BUCKETS; i++) {
        assert_int_equal(sum.latency[i], 2);
    }
    assert_int_equal(sum.latency[UE_LATENCY_BUCKETS], 2);
    assert_int_equal(sum.latency_sum, total);
}

static void test_metrics_waiting_is_what_is_neither_delivered_nor_lost(
    void **state)
{
    static const ue_uuid_t org = {{1}};
    ue_metrics_t *metrics = make(2);
    ue_seat_t *seat = ue_metrics_sit(metrics);

    ue_metrics_add(seat, UE_M_EVENTS_ADMITTED, 100);
    ue_metrics_add(seat, UE_M_EVENTS_DELIVERED, 60);
    for (int cause = 0; cause < UE_LOSSES; cause++) {
        ue_metrics_lose(metrics, seat, &org, (ue_loss_t)cause, 3);
        assert_int_equal(
            sum_of(metrics).value[UE_M_EVENTS_LOST_OVERFLOW + cause], 3);
    }
    assert_int_equal(sum_of(metrics).lost, 3 * UE_LOSSES);
    assert_int_equal(sum_of(metrics).waiting, 40 - 3 * UE_LOSSES);
    /* read in the middle of a change, it is never negative */
    ue_metrics_add(seat, UE_M_EVENTS_DELIVERED, 100);
    assert_int_equal(sum_of(metrics).waiting, 0);
}

/* ---- losses by organization ---- */

typedef struct {
    unsigned rows;
    uint64_t all;
    uint64_t nil;
    ue_uuid_t id;
    uint64_t of_id[UE_LOSSES];
} losses_t;

static void take_loss(void *baton, const ue_uuid_t *id,
                      const uint64_t lost[UE_LOSSES])
{
    static const ue_uuid_t nil;
    losses_t *losses = baton;

    losses->rows++;
    for (int i = 0; i < UE_LOSSES; i++) {
        losses->all += lost[i];
        if (ue_uuid_equal(id, &nil)) {
            losses->nil += lost[i];
        }
        if (ue_uuid_equal(id, &losses->id)) {
            losses->of_id[i] += lost[i];
        }
    }
}

static void test_metrics_losses_are_kept_by_organization(void **state)
{
    static const ue_uuid_t acme = {{1}};
    static const ue_uuid_t other = {{2}};
    ue_metrics_t *metrics = make(2);
    ue_seat_t *a = ue_metrics_sit(metrics);
    ue_seat_t *b = ue_metrics_sit(metrics);
    losses_t losses = {.id = acme};

    ue_metrics_losses(metrics, take_loss, &losses);
    assert_int_equal(losses.rows, 0);
    ue_metrics_lose(metrics, a, &acme, UE_LOST_OVERFLOW, 5);
    ue_metrics_lose(metrics, b, &acme, UE_LOST_OVERFLOW, 2);
    ue_metrics_lose(metrics, b, &acme, UE_LOST_REJECTED, 1);
    ue_metrics_lose(metrics, a, &other, UE_LOST_SHUTDOWN, 9);
    ue_metrics_losses(metrics, take_loss, &losses);
    assert_int_equal(losses.rows, 2);
    assert_int_equal(losses.all, 17);
    assert_int_equal(losses.of_id[UE_LOST_OVERFLOW], 7);
    assert_int_equal(losses.of_id[UE_LOST_REJECTED], 1);
    assert_int_equal(losses.of_id[UE_LOST_SHUTDOWN], 0);
}

/* More organizations than there is room for: none of their losses is. */
static void test_metrics_losses_without_room_are_counted_as_nil(void **state)
{
    ue_metrics_t *metrics = make(1);
    ue_seat_t *seat = ue_metrics_sit(metrics);
    const unsigned count = 3 * 4096;
    losses_t losses = {.all = 0};
    uint64_t seed = 9;

    for (unsigned i = 0; i < count; i++) {
        ue_uuid_t id;

        for (int k = 0; k < 16; k++) {
            id.b[k] = (uint8_t)unit_random(&seed);
        }
        ue_metrics_lose(metrics, seat, &id, UE_LOST_OVERFLOW, 2);
    }
    ue_metrics_losses(metrics, take_loss, &losses);
    assert_int_equal(losses.all, 2 * count);
    /* the table is well filled before the overflow begins */
    assert_in_range(losses.rows, 4000, 4097);
    assert_int_equal(losses.nil, 2 * (count - (losses.rows - 1)));
    assert_int_equal(sum_of(metrics).value[UE_M_EVENTS_LOST_OVERFLOW],
                     2 * count);
}

#define THREADS 4

typedef struct {
    ue_metrics_t *metrics;
    ue_seat_t *seat;
    unsigned rounds;
} job_t;

static void *count_and_lose(void *arg)
{
    job_t *job = arg;

    for (unsigned i = 0; i < job->rounds; i++) {
        ue_uuid_t id = {{(uint8_t)(i % 32 + 1)}};

        ue_metrics_add(job->seat, UE_M_EVENTS_ADMITTED, 1);
        ue_metrics_lose(job->metrics, job->seat, &id, UE_LOST_REJECTED, 1);
        ue_metrics_set(job->seat, UE_M_QUEUE_EVENTS_MAX, i);
        ue_metrics_latency(job->seat, 1);
    }
    return NULL;
}

static void test_metrics_lose_no_count_between_threads(void **state)
{
    ue_metrics_t *metrics = make(1);
    job_t job = {metrics, ue_metrics_sit(metrics), unit_loops(100000)};
    uint64_t want = (uint64_t)THREADS * job.rounds;
    losses_t losses = {.all = 0};
    pthread_t threads[THREADS];
    ue_metrics_sum_t sum;

    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(
            pthread_create(&threads[i], NULL, count_and_lose, &job), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    sum = sum_of(metrics);
    assert_int_equal(sum.value[UE_M_EVENTS_ADMITTED], want);
    assert_int_equal(sum.value[UE_M_EVENTS_LOST_REJECTED], want);
    assert_int_equal(sum.value[UE_M_QUEUE_EVENTS_MAX], job.rounds - 1);
    assert_int_equal(sum.latency[0], want);
    assert_int_equal(sum.waiting, 0);
    ue_metrics_losses(metrics, take_loss, &losses);
    assert_int_equal(losses.all, want);
    assert_int_equal(losses.nil, 0);
}

/* ---- children ---- */

/* In a child: sit down, count, and say so by a byte. */
static pid_t spawn(ue_metrics_t *metrics, uint64_t admitted, uint64_t delivered,
                   int linger)
{
    int ready[2];
    pid_t pid;
    char c;

    assert_int_equal(pipe(ready), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        ue_seat_t *seat = ue_metrics_sit(metrics);

        ue_metrics_add(seat, UE_M_EVENTS_ADMITTED, admitted);
        ue_metrics_add(seat, UE_M_EVENTS_DELIVERED, delivered);
        ue_metrics_set(seat, UE_M_QUEUE_EVENTS, admitted - delivered);
        if (write(ready[1], "x", 1) != 1) {
            unit_exit(1);
        }
        if (linger) {
            pause(); /* until it is killed */
        }
        ue_metrics_leave(seat);
        unit_exit(0);
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &c, 1), 1);
    close(ready[0]);
    return pid;
}

static void test_metrics_child_that_ends_leaves_its_counts(void **state)
{
    ue_metrics_t *metrics = make(2);
    ue_metrics_sum_t sum;

    for (int generation = 1; generation <= 5; generation++) {
        reap(spawn(metrics, 10, 10, 0), 0);
        sum = sum_of(metrics);
        assert_int_equal(sum.children, 0);
        assert_int_equal(sum.value[UE_M_EVENTS_ADMITTED], 10 * generation);
        assert_int_equal(sum.value[UE_M_EVENTS_DELIVERED], 10 * generation);
        assert_int_equal(sum.value[UE_M_QUEUE_EVENTS], 0);
        assert_int_equal(sum.value[UE_M_EVENTS_LOST_UNKNOWN], 0);
    }
}

static void test_metrics_living_child_loses_nothing(void **state)
{
    ue_metrics_t *metrics = make(2);
    pid_t pid = spawn(metrics, 10, 4, 1);
    ue_metrics_sum_t sum = sum_of(metrics);

    assert_int_equal(sum.children, 1);
    assert_int_equal(sum.waiting, 6);
    assert_int_equal(sum.value[UE_M_QUEUE_EVENTS], 6);
    assert_int_equal(sum.value[UE_M_EVENTS_LOST_UNKNOWN], 0);
    kill(pid, SIGKILL);
    reap(pid, SIGKILL);
}

static void test_metrics_killed_child_is_counted_by_a_reader_once(void **state)
{
    static const ue_uuid_t nil;
    ue_metrics_t *metrics = make(2);
    pid_t pid = spawn(metrics, 10, 4, 1);

    kill(pid, SIGKILL);
    reap(pid, SIGKILL);
    for (int i = 0; i < 3; i++) {
        ue_metrics_sum_t sum = sum_of(metrics);
        losses_t losses = {.id = nil};

        assert_int_equal(sum.children, 0);
        assert_int_equal(sum.waiting, 0);
        assert_int_equal(sum.value[UE_M_EVENTS_LOST_UNKNOWN], 6);
        assert_int_equal(sum.value[UE_M_QUEUE_EVENTS], 0);
        ue_metrics_losses(metrics, take_loss, &losses);
        assert_int_equal(losses.rows, 1);
        assert_int_equal(losses.of_id[UE_LOST_UNKNOWN], 6);
    }
}

static void test_metrics_killed_child_is_counted_by_the_next_once(void **state)
{
    ue_metrics_t *metrics = make(1);
    pid_t pid = spawn(metrics, 10, 4, 1);
    ue_metrics_sum_t sum;

    kill(pid, SIGKILL);
    reap(pid, SIGKILL);
    /* no reader came by; the next child takes the only seat */
    pid = spawn(metrics, 100, 90, 1);
    sum = sum_of(metrics);
    assert_int_equal(sum.children, 1);
    assert_int_equal(sum.value[UE_M_EVENTS_ADMITTED], 110);
    assert_int_equal(sum.value[UE_M_EVENTS_LOST_UNKNOWN], 6);
    assert_int_equal(sum.waiting, 10);
    kill(pid, SIGKILL);
    reap(pid, SIGKILL);
    sum = sum_of(metrics);
    assert_int_equal(sum.value[UE_M_EVENTS_LOST_UNKNOWN], 16);
    assert_int_equal(sum.waiting, 0);
}

/* A killed child that had nothing waiting lost nothing. */
static void test_metrics_killed_child_without_work_loses_nothing(void **state)
{
    ue_metrics_t *metrics = make(1);
    pid_t pid = spawn(metrics, 10, 10, 1);

    kill(pid, SIGKILL);
    reap(pid, SIGKILL);
    assert_int_equal(sum_of(metrics).value[UE_M_EVENTS_LOST_UNKNOWN], 0);
}

/* Many readers at once: the killed child is still counted once. */
static void test_metrics_killed_child_is_counted_once_by_many(void **state)
{
    enum { READERS = 8 };
    ue_metrics_t *metrics = make(4);
    pid_t readers[READERS];
    int go[2];
    pid_t pid = spawn(metrics, 1000, 1, 1);

    assert_int_equal(pipe(go), 0);
    for (int i = 0; i < READERS; i++) {
        readers[i] = fork();
        assert_true(readers[i] >= 0);
        if (readers[i] == 0) {
            ue_metrics_sum_t sum;
            char c;

            close(go[1]);
            if (read(go[0], &c, 1) != 0) { /* until it is closed */
                unit_exit(1);
            }
            ue_metrics_sum(metrics, &sum);
            unit_exit(0);
        }
    }
    kill(pid, SIGKILL);
    reap(pid, SIGKILL);
    close(go[0]);
    close(go[1]);
    for (int i = 0; i < READERS; i++) {
        reap(readers[i], 0);
    }
    assert_int_equal(sum_of(metrics).value[UE_M_EVENTS_LOST_UNKNOWN], 999);
}

static void test_metrics_more_children_than_seats_still_add_up(void **state)
{
    ue_metrics_t *metrics = make(2);
    pid_t pids[5];
    ue_metrics_sum_t sum;

    for (int i = 0; i < 5; i++) {
        pids[i] = spawn(metrics, 10, 10, 1);
    }
    sum = sum_of(metrics);
    assert_int_equal(sum.value[UE_M_EVENTS_ADMITTED], 50);
    assert_int_equal(sum.value[UE_M_EVENTS_DELIVERED], 50);
    assert_int_equal(sum.children, 2);
    for (int i = 0; i < 5; i++) {
        kill(pids[i], SIGKILL);
        reap(pids[i], SIGKILL);
    }
    assert_int_equal(sum_of(metrics).value[UE_M_EVENTS_LOST_UNKNOWN], 0);
}

/* A child that shared a seat for want of one doesn't take it from its owner
 * when it leaves. */
static void test_metrics_leaving_a_shared_seat_keeps_its_owner(void **state)
{
    ue_metrics_t *metrics = make(1);
    ue_seat_t *mine = ue_metrics_sit(metrics);

    ue_metrics_add(mine, UE_M_EVENTS_ADMITTED, 1);
    reap(spawn(metrics, 5, 5, 0), 0);
    assert_int_equal(sum_of(metrics).children, 1);
    assert_int_equal(sum_of(metrics).waiting, 1);
    ue_metrics_leave(mine);
    assert_int_equal(sum_of(metrics).children, 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

static const struct CMUnitTest tests[] = {
    TEST(test_metrics_table_describes_every_number),
    TEST(test_metrics_losses_are_in_the_order_of_their_causes),
    TEST(test_metrics_latency_bounds_rise_and_show_as_they_are),
    TEST(test_metrics_add_up_over_seats),
    TEST(test_metrics_gauges_are_set_and_marks_only_rise),
    TEST(test_metrics_latency_falls_into_its_bucket),
    TEST(test_metrics_waiting_is_what_is_neither_delivered_nor_lost),
    TEST(test_metrics_losses_are_kept_by_organization),
    TEST(test_metrics_losses_without_room_are_counted_as_nil),
    TEST(test_metrics_lose_no_count_between_threads),
    TEST(test_metrics_child_that_ends_leaves_its_counts),
    TEST(test_metrics_living_child_loses_nothing),
    TEST(test_metrics_killed_child_is_counted_by_a_reader_once),
    TEST(test_metrics_killed_child_is_counted_by_the_next_once),
    TEST(test_metrics_killed_child_without_work_loses_nothing),
    TEST(test_metrics_killed_child_is_counted_once_by_many),
    TEST(test_metrics_more_children_than_seats_still_add_up),
    TEST(test_metrics_leaving_a_shared_seat_keeps_its_owner),
};

UNIT_MAIN(tests)
