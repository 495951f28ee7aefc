/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_UNIT_KAFKA_H
#define UE_UNIT_KAFKA_H

/**
 * What the tests of Kafka share: librdkafka's mock cluster, a feeder that does
 * a producer's part (lanes, numbers, offering again) and keeps count of what it
 * is told, and a reader that looks at each message in the mock cluster.
 *
 * A test begins with begin() and ends, whatever happens, in tear_down(): a
 * child ends without destroying anything, a test can't.
 */
#include "unit.h"

#include <dirent.h>
#include <dlfcn.h>

#include <apr_strings.h>
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

#include "kafka_int.h"
#include "unit_c11_threads.h"

/* The number of the request that writes. */
#define PRODUCE 0

#define LANES_MAX 64
#define NOTES_MAX 256
#define EVENT_MAX 256
#define KAFKAS_MAX 4
#define LINES_MAX 1024

/* The mock cluster has no controller that could be asked for a topic's settings
 * or to make one, which is tried with a real one. Here both are refused at
 * once: two brokers are more than librdkafka asks. */
void rd_kafka_DescribeConfigs(rd_kafka_t *rk, rd_kafka_ConfigResource_t **what,
                              size_t count,
                              const rd_kafka_AdminOptions_t *options,
                              rd_kafka_queue_t *queue)
{
    void (*real)(rd_kafka_t *, rd_kafka_ConfigResource_t **, size_t,
                 const rd_kafka_AdminOptions_t *, rd_kafka_queue_t *);
    rd_kafka_ConfigResource_t *brokers[] = {
        rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_BROKER, "1"),
        rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_BROKER, "2")};

    *(void **)&real = dlsym(RTLD_NEXT, "rd_kafka_DescribeConfigs");
    real(rk, brokers, 2, options, queue);
    rd_kafka_ConfigResource_destroy(brokers[0]);
    rd_kafka_ConfigResource_destroy(brokers[1]);
}

void rd_kafka_CreateTopics(rd_kafka_t *rk, rd_kafka_NewTopic_t **topics,
                           size_t count, const rd_kafka_AdminOptions_t *options,
                           rd_kafka_queue_t *queue)
{
    rd_kafka_DescribeConfigs(rk, NULL, 0, options, queue);
}

#ifdef __SANITIZE_THREAD__
/* Threads that have ended. Reading it after one is known to have ended puts
 * what it did before what the reader does: nobody joins detached threads. */
static _Atomic int unit_ended;

typedef struct {
    void *(*run)(void *);
    void *data;
} unit_start_t;

static void *unit_begin(void *data)
{
    unit_start_t start = *(unit_start_t *)data;
    void *result;

    free(data);
    result = start.run(start.data);
    atomic_fetch_add(&unit_ended, 1);
    return result;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attr,
                   void *(*run)(void *), void *data)
{
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    unit_start_t *start = malloc(sizeof(*start));

    *start = (unit_start_t){run, data};
    *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    return real(thread, attr, unit_begin, start);
}
#define SEE_ENDED() ((void)atomic_load(&unit_ended))
#else
#define SEE_ENDED() ((void)0)
#endif

static struct {
    apr_pool_t *pool;
    rd_kafka_t *mock_rk;
    rd_kafka_mock_cluster_t *mock;
    const char *brokers;
    ue_kafka_t *kafkas[KAFKAS_MAX];
    int count;
} fix;

/* Lines come from many threads. */
static struct {
    pthread_mutex_t mutex;
    char lines[LINES_MAX][256];
    int count;
} said = {PTHREAD_MUTEX_INITIALIZER, {""}, 0};

static inline void on_line(void *baton, ue_log_level_t level, apr_status_t rv,
                           const char *line)
{
    if (level == UE_LOG_DEBUG) {
        return;
    }
    pthread_mutex_lock(&said.mutex);
    if (said.count < LINES_MAX) {
        snprintf(said.lines[said.count++], sizeof(said.lines[0]), "%s", line);
    }
    pthread_mutex_unlock(&said.mutex);
}

/* How many lines begin so. */
static inline int count_said(const char *start)
{
    int n = 0;

    pthread_mutex_lock(&said.mutex);
    for (int i = 0; i < said.count; i++) {
        n += !strncmp(said.lines[i], start, strlen(start));
    }
    pthread_mutex_unlock(&said.mutex);
    return n;
}

/* Does the first line that begins so hold this? */
static inline int has_said(const char *start, const char *part)
{
    int found = 0;

    pthread_mutex_lock(&said.mutex);
    for (int i = 0; i < said.count; i++) {
        if (!strncmp(said.lines[i], start, strlen(start))) {
            found = strstr(said.lines[i], part) != NULL;
            break;
        }
    }
    pthread_mutex_unlock(&said.mutex);
    return found;
}

/* How many threads of this process have this name. */
static inline int count_threads(const char *name)
{
    DIR *dir = opendir("/proc/self/task");
    const struct dirent *entry;
    int n = 0;

    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        char path[300], comm[32] = "";
        FILE *f;

        snprintf(path, sizeof(path), "/proc/self/task/%s/comm", entry->d_name);
        f = fopen(path, "r");
        if (f) {
            if (fgets(comm, sizeof(comm), f)) {
                comm[strcspn(comm, "\n")] = '\0';
            }
            fclose(f);
        }
        n += !strcmp(comm, name);
    }
    closedir(dir);
    return n;
}

/* ---- the mock cluster ---- */

static inline void be_silent(const rd_kafka_t *rk, int level,
                             const char *facility, const char *text)
{
}

/* A cluster of so many brokers, numbered from 1. */
static inline void begin(int brokers)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    char why[256];

    rd_kafka_conf_set_log_cb(conf, be_silent);
    fix.mock_rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof(why));
    assert_non_null(fix.mock_rk);
    fix.mock = rd_kafka_mock_cluster_new(fix.mock_rk, brokers);
    assert_non_null(fix.mock);
    fix.brokers =
        apr_pstrdup(fix.pool, rd_kafka_mock_cluster_bootstraps(fix.mock));
}

static inline void make_one_topic(const char *name, int partitions)
{
    assert_int_equal(rd_kafka_mock_topic_create(fix.mock, name, partitions, 1),
                     RD_KAFKA_RESP_ERR_NO_ERROR);
}

/* With its ledger. */
static inline void make_topic(const char *name, int partitions)
{
    make_one_topic(name, partitions);
    make_one_topic(apr_pstrcat(fix.pool, name, "-ledger", NULL), 1);
}

/* -1: all brokers */
static inline void set_down(int broker)
{
    assert_int_equal(rd_kafka_mock_broker_set_down(fix.mock, broker), 0);
}

static inline void set_up(int broker)
{
    assert_int_equal(rd_kafka_mock_broker_set_up(fix.mock, broker), 0);
}

static inline void lead(const char *topic, int partition, int broker)
{
    assert_int_equal(
        rd_kafka_mock_partition_set_leader(fix.mock, topic, partition, broker),
        0);
}

/* Let a broker count Produce requests, and answer the first ones late: as many
 * as may be under way. */
#define COUNTED 20
static inline void count_requests(int broker, int late)
{
    for (int i = 0; i < COUNTED; i++) {
        assert_int_equal(rd_kafka_mock_broker_push_request_error_rtts(
                             fix.mock, broker, PRODUCE, 1,
                             RD_KAFKA_RESP_ERR_NO_ERROR,
                             i < UE_KAFKA_CREDIT ? late : 0),
                         0);
    }
}

static inline int requests(int broker)
{
    size_t left = 0;

    assert_int_equal(
        rd_kafka_mock_broker_error_stack_cnt(fix.mock, broker, PRODUCE, &left),
        0);
    return COUNTED - (int)left;
}

/* ---- clusters of ours ---- */

/* For tests that count requests: librdkafka waits for the whole of a batch,
 * however slow the machine is. */
#define WHOLE "linger.ms", "100"

/* Metadata is asked for every second here, and not every ten. An option of
 * the test's own may be added. */
static inline ue_kafka_t *open_kafka(const char *brokers, const char *name,
                                     const char *value)
{
    const ue_kafka_option_t options[] = {
        {"topic.metadata.refresh.interval.ms", "1000"}, {name, value}};
    const char *why = NULL;
    ue_kafka_t *kafka = NULL;
    apr_status_t rv = ue_kafka_create(&kafka, brokers, options, name ? 2 : 1,
                                      NULL, &why, fix.pool);

    if (rv != APR_SUCCESS) {
        fail_msg("%s", why);
    }
    assert_true(fix.count < KAFKAS_MAX);
    fix.kafkas[fix.count++] = kafka;
    return kafka;
}

static inline int set_up_pool(void **state)
{
    memset(&fix, 0, sizeof(fix));
    said.count = 0;
    ue_log_set(on_line, NULL, UE_LOG_DEBUG);
    return apr_pool_create(&fix.pool, NULL) == APR_SUCCESS ? 0 : -1;
}

/* Wait for threads of ours to end, bounded. */
static inline int threads_end(const char *name)
{
    for (int i = 0; i < 2000; i++) {
        if (count_threads(name) == 0) {
            SEE_ENDED();
            return 1;
        }
        apr_sleep(apr_time_from_msec(10));
    }
    return 0;
}

static inline void destroy_kafka(ue_kafka_t *kafka)
{
    for (uint32_t i = 0; i < kafka->topic_count; i++) {
        kafka_topic_t *topic = kafka->topics[i];

        if (topic->rkt) {
            rd_kafka_topic_destroy(topic->rkt);
        }
        pthread_mutex_destroy(&topic->mutex);
        free(topic->leaders);
        free(topic->inbox);
        free(topic->partitions);
    }
    if (kafka->answers) {
        rd_kafka_queue_destroy(kafka->answers);
    }
    if (kafka->rk) {
        /* Reports that nobody fetched would be waited for. */
        rd_kafka_purge(kafka->rk, RD_KAFKA_PURGE_F_QUEUE
                                      | RD_KAFKA_PURGE_F_INFLIGHT
                                      | RD_KAFKA_PURGE_F_NON_BLOCKING);
        rd_kafka_destroy(kafka->rk);
        pthread_rwlock_destroy(&kafka->lock);
    }
}

static inline int tear_down(void **state)
{
    for (int i = 0; i < fix.count; i++) {
        atomic_store(&fix.kafkas[i]->ending, 1);
    }
    if (fix.mock) {
        rd_kafka_mock_broker_set_up(fix.mock, -1);
    }
    if (!threads_end("usage-kafka") || !threads_end("usage-kafka-end")) {
        return -1;
    }
    for (int i = 0; i < fix.count; i++) {
        destroy_kafka(fix.kafkas[i]);
    }
    if (fix.mock) {
        rd_kafka_mock_cluster_destroy(fix.mock);
    }
    if (fix.mock_rk) {
        rd_kafka_destroy(fix.mock_rk);
    }
    apr_pool_destroy(fix.pool);
    ue_log_set(NULL, NULL, UE_LOG_CRIT);
    return 0;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up_pool, tear_down)

/* ---- the feeder ---- */

typedef enum { WAITING, UNDER_WAY, SETTLED } state_t;

typedef struct {
    ue_uuid_t organization;
    uint32_t lane;
    uint64_t number; /* 0: none yet */
    state_t state;
    uint32_t stored; /* how often the reader found it */
} event_t;

typedef struct {
    ue_sink_t *sink;
    kafka_topic_t *topic;
    ue_stream_t stream;
    event_t *events; /* the reference of one is its index + 1 */
    uint32_t count;
    uint32_t most;   /* events in a batch */
    int gives_up;    /* offers nothing again */
    uint64_t before; /* the last number that was given, in each lane */
    uint64_t next[LANES_MAX];
    uint32_t in_lane[LANES_MAX]; /* under way */
    uint32_t waiting, under_way;
    uint32_t told[UE_TOO_LARGE + 1];
    uint32_t wrong;     /* reports that nobody waited for */
    uint32_t overtaken; /* messages that came out of order */
    uint32_t troubles;  /* errors of submit() */
    int connected;
    uint32_t notes; /* taken; their cookies count from COOKIE */
    uint32_t notes_stored, notes_failed;
    uint8_t noted[NOTES_MAX]; /* how often */
} feeder_t;

static inline void on_report(void *baton, uint32_t lane, ue_slot_ref_t ref,
                             ue_outcome_t outcome)
{
    feeder_t *f = baton;
    event_t *event;

    if (ref < 1 || ref > f->count) {
        f->wrong++;
        return;
    }
    event = &f->events[ref - 1];
    f->wrong += event->state != UNDER_WAY || event->lane != lane;
    f->told[outcome]++;
    f->in_lane[lane]--;
    f->under_way--;
    event->state = SETTLED;
    if (!f->gives_up && (outcome == UE_UNSENT || outcome == UE_UNKNOWN)) {
        event->state = WAITING;
        f->waiting++;
    }
}

static inline void on_connected(void *baton, int connected)
{
    feeder_t *f = baton;

    f->wrong += f->connected == connected;
    f->connected = connected;
}

#define COOKIE 0xfffff000u

static inline void on_noted(void *baton, uint32_t cookie, int stored)
{
    feeder_t *f = baton;
    uint32_t i = cookie - COOKIE;

    if (i >= f->notes || f->noted[i]++) {
        f->wrong++;
    }
    f->notes_stored += stored == 1;
    f->notes_failed += stored == 0;
}

/* Offer the next note, from memory that is gone after that. */
static inline apr_status_t take_note(feeder_t *f)
{
    char key[32], value[64];
    int key_len = snprintf(key, sizeof(key), "key %u", f->notes);
    int len = snprintf(value, sizeof(value), "{\"topic\":\"%s\",\"n\":%u}",
                       f->topic->name, f->notes);
    apr_status_t rv = f->sink->vtable->note(
        f->sink, key, (size_t)key_len, value, (size_t)len, COOKIE + f->notes);

    memset(key, 'z', sizeof(key));
    memset(value, 'z', sizeof(value));
    f->notes += rv == APR_SUCCESS;
    return rv;
}

/* A feeder of count events of 97 organizations. */
static inline void open_feeder(feeder_t *f, ue_kafka_t *kafka,
                               const char *topic, uint32_t count)
{
    uint64_t seed = kafka->topic_count + 1;

    memset(f, 0, sizeof(*f));
    assert_int_equal(ue_sink_kafka_open(&f->sink, kafka, topic, fix.pool),
                     APR_SUCCESS);
    f->topic = (kafka_topic_t *)f->sink;
    f->events = apr_pcalloc(fix.pool, count * sizeof(*f->events));
    f->count = f->waiting = count;
    f->most = 100;
    for (size_t i = 0; i < sizeof(f->stream.b); i++) {
        f->stream.b[i] = (uint8_t)unit_random(&seed);
    }
    for (uint32_t i = 0; i < count; i++) {
        uint64_t organization = i % 97;

        for (int j = 0; j < 16; j++) {
            f->events[i].organization.b[j] =
                (uint8_t)unit_random(&organization);
        }
    }
}

static inline void start_feeder(feeder_t *f)
{
    ue_sink_owner_t owner = {on_report, on_connected, on_noted, f};

    assert_int_equal(f->sink->vtable->start(f->sink, &owner), APR_SUCCESS);
}

/* {"n":17,"topic":"a","pad":"xxxx"} of many lengths, and a line feed. */
static inline int write_event(char *to, const feeder_t *f, uint32_t i)
{
    return snprintf(to, EVENT_MAX,
                    "{\"n\":%u,\"topic\":\"%s\",\"pad\":\"%.*s"
                    "\"}\n",
                    i, f->topic->name, (int)(i * 7 % 60),
                    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
                    "xxxxxxxxxx");
}

/* Offer a lane its next batch. What was offered is gone after that. */
static inline void offer(feeder_t *f, uint32_t lane)
{
    ue_sink_record_t records[128];
    char keys[128][UE_UUID_LEN], *text = malloc(128 * EVENT_MAX), *to = text;
    ue_sink_batch_t batch = {lane, records, 0};
    size_t taken = 99;

    for (uint32_t i = 0; i < f->count && batch.count < f->most; i++) {
        event_t *event = &f->events[i];
        int len;

        if (event->state != WAITING || event->lane != lane) {
            continue;
        }
        len = write_event(to, f, i);
        ue_uuid_write(&event->organization, keys[batch.count]);
        records[batch.count] = (ue_sink_record_t){i + 1,      keys[batch.count],
                                                  to,         (size_t)len - 1,
                                                  &f->stream, event->number};
        batch.count++;
        to += len;
    }
    if (batch.count) {
        apr_status_t rv = f->sink->vtable->submit(f->sink, &batch, &taken);

        f->wrong += (rv == APR_SUCCESS) != (taken == batch.count);
        f->troubles += rv != APR_SUCCESS && !APR_STATUS_IS_EAGAIN(rv);
        for (size_t i = 0; i < taken; i++) {
            f->events[records[i].ref - 1].state = UNDER_WAY;
        }
        f->in_lane[lane] += (uint32_t)taken;
        f->under_way += (uint32_t)taken;
        f->waiting -= (uint32_t)taken;
    }
    memset(text, 'z', 128 * EVENT_MAX);
    memset(keys, 'z', sizeof(keys));
    free(text);
}

/* Give lanes and numbers to those that have none. */
static inline void number_all(feeder_t *f, uint32_t lanes)
{
    if (f->events[f->count - 1].number) {
        return;
    }
    for (uint32_t i = 0; i < f->count; i++) {
        event_t *event = &f->events[i];

        event->lane = f->sink->vtable->lane_of(&event->organization, lanes);
        event->number = f->before + ++f->next[event->lane];
    }
}

/* Offer nothing yet, and now. */
static inline void hold(feeder_t *f)
{
    f->waiting = 0;
}

static inline void let_go(feeder_t *f)
{
    f->waiting = f->count;
}

/* Do once what a producer's worker does in each round. */
static inline void feed(feeder_t *f)
{
    const ue_sink_vtable_t *vtable = f->sink->vtable;
    uint32_t lanes;

    vtable->poll(f->sink, ue_monotonic());
    lanes = vtable->lanes(f->sink);
    if (lanes == 0 || f->waiting == 0) {
        return;
    }
    number_all(f, lanes);
    for (uint32_t lane = 0; lane < lanes; lane++) {
        if (f->in_lane[lane] == 0 && vtable->has_room(f->sink, lane)) {
            offer(f, lane);
        }
    }
}

/* Feed one or two until something is so; it is an error if that takes long. */
#define UNTIL_BOTH(f, g, what)                                      \
    do {                                                            \
        apr_time_t _until = ue_monotonic() + apr_time_from_sec(30); \
                                                                    \
        while (!(what)) {                                           \
            if (ue_monotonic() > _until) {                          \
                fail_msg("never: %s", #what);                       \
            }                                                       \
            feed(f);                                                \
            if ((g) != (f)) {                                       \
                feed(g);                                            \
            }                                                       \
            apr_sleep(apr_time_from_msec(1));                       \
        }                                                           \
    } while (0)
#define UNTIL(f, what) UNTIL_BOTH(f, f, what)

#define IS_DONE(f) ((f)->waiting == 0 && (f)->under_way == 0)

/* Feed for so long. */
static inline void feed_for(feeder_t *f, int ms)
{
    apr_time_t until = ue_monotonic() + apr_time_from_msec(ms);

    while (ue_monotonic() < until) {
        feed(f);
        apr_sleep(apr_time_from_msec(1));
    }
}

static inline int credits_in_use(ue_kafka_t *kafka)
{
    int n = 0;

    for (int i = 0; i < UE_KAFKA_BROKERS; i++) {
        n += abs(atomic_load(&kafka->credits[i]));
    }
    return n;
}

/* ---- the reader ---- */

static inline void check_headers(const feeder_t *f, const event_t *event,
                                 const rd_kafka_message_t *message)
{
    uint8_t number[8];
    const struct {
        const char *name;
        const void *value;
        size_t size;
    } want[] = {{"usage-stream", f->stream.b, 16},
                {"usage-seq", number, 8},
                {"usage-schema", "1", 1},
                {"content-type", "application/json", 16}};
    rd_kafka_headers_t *headers = NULL;

    for (int i = 0; i < 8; i++) {
        number[i] = (uint8_t)(event->number >> (8 * (7 - i)));
    }
    assert_int_equal(rd_kafka_message_headers(message, &headers), 0);
    assert_int_equal(rd_kafka_header_cnt(headers), UNIT_COUNT(want));
    for (size_t i = 0; i < UNIT_COUNT(want); i++) {
        const char *name;
        const void *value;
        size_t size;

        assert_int_equal(
            rd_kafka_header_get_all(headers, i, &name, &value, &size), 0);
        assert_string_equal(name, want[i].name);
        assert_int_equal(size, want[i].size);
        assert_memory_equal(value, want[i].value, size);
    }
}

static inline void check_message(feeder_t *f, uint64_t *last,
                                 const rd_kafka_message_t *message)
{
    char key[UE_UUID_LEN], text[EVENT_MAX];
    event_t *event;
    uint32_t i;
    int len;

    assert_true(message->len < sizeof(text));
    memcpy(text, message->payload, message->len);
    text[message->len] = '\0';
    assert_int_equal(sscanf(text, "{\"n\":%u,", &i), 1);
    assert_true(i < f->count);
    event = &f->events[i];
    ue_uuid_write(&event->organization, key);
    len = write_event(text, f, i) - 1;
    assert_int_equal(message->key_len, UE_UUID_LEN);
    assert_memory_equal(message->key, key, UE_UUID_LEN);
    assert_int_equal(message->len, len);
    assert_memory_equal(message->payload, text, (size_t)len);
    assert_int_equal(message->partition, event->lane);
    check_headers(f, event, message);
    /* A repeat is no newcomer. */
    f->overtaken += event->stored == 0 && event->number <= *last;
    *last = event->number > *last ? event->number : *last;
    event->stored++;
}

static inline void check_note(const feeder_t *f,
                              const rd_kafka_message_t *message)
{
    rd_kafka_headers_t *headers = NULL;
    char key[32], value[64];
    const char *name;
    const void *content;
    size_t size;
    unsigned i;

    snprintf(key, sizeof(key), "%.*s", (int)message->key_len,
             (const char *)message->key);
    assert_int_equal(sscanf(key, "key %u", &i), 1);
    snprintf(value, sizeof(value), "{\"topic\":\"%s\",\"n\":%u}",
             f->topic->name, i);
    assert_int_equal(message->len, strlen(value));
    assert_memory_equal(message->payload, value, message->len);
    assert_int_equal(rd_kafka_message_headers(message, &headers), 0);
    assert_int_equal(rd_kafka_header_cnt(headers), 1);
    assert_int_equal(
        rd_kafka_header_get_all(headers, 0, &name, &content, &size), 0);
    assert_string_equal(name, "content-type");
    assert_int_equal(size, strlen("application/json"));
    assert_memory_equal(content, "application/json", size);
}

static inline rd_kafka_t *make_reader(void)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    char why[256];
    rd_kafka_t *rk;

    rd_kafka_conf_set_log_cb(conf, be_silent);
    rd_kafka_conf_set(conf, "bootstrap.servers", fix.brokers, NULL, 0);
    rd_kafka_conf_set(conf, "enable.partition.eof", "true", NULL, 0);
    rd_kafka_conf_set(conf, "fetch.wait.max.ms", "10", NULL, 0);
    rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof(why));
    assert_non_null(rk);
    return rk;
}

/* Read a whole topic, and hold each message against the feeder's event. */
static inline void read_topic(feeder_t *f, int partitions)
{
    rd_kafka_t *rk = make_reader();
    rd_kafka_topic_t *rkt = rd_kafka_topic_new(rk, f->topic->name, NULL);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    uint64_t last[LANES_MAX] = {0};
    apr_time_t until = ue_monotonic() + apr_time_from_sec(30);
    int ends = 0;

    for (int i = 0; i < partitions; i++) {
        rd_kafka_consume_start_queue(rkt, i, 0, queue);
    }
    while (ends < partitions) {
        rd_kafka_message_t *message = rd_kafka_consume_queue(queue, 100);

        assert_true(ue_monotonic() < until);
        if (message && message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
            ends++;
        }
        else if (message && message->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
            check_message(f, &last[message->partition], message);
        }
        if (message) {
            rd_kafka_message_destroy(message);
        }
    }
    for (int i = 0; i < partitions; i++) {
        rd_kafka_consume_stop(rkt, i);
    }
    rd_kafka_queue_destroy(queue);
    rd_kafka_topic_destroy(rkt);
    rd_kafka_destroy(rk);
}

/* How many notes are in a feeder's ledger: each as it was offered, with one
 * header. */
static inline uint32_t count_notes(const feeder_t *f)
{
    rd_kafka_t *rk = make_reader();
    rd_kafka_topic_t *rkt = rd_kafka_topic_new(
        rk, apr_pstrcat(fix.pool, f->topic->name, "-ledger", NULL), NULL);
    apr_time_t until = ue_monotonic() + apr_time_from_sec(30);
    rd_kafka_message_t *messages[NOTES_MAX];
    uint32_t n = 0;
    int is_end = 0;

    rd_kafka_consume_start(rkt, 0, 0);
    while (!is_end) {
        rd_kafka_message_t *message = rd_kafka_consume(rkt, 0, 100);

        assert_true(ue_monotonic() < until && n < NOTES_MAX);
        is_end = message && message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF;
        if (message && message->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
            check_note(f, message);
            messages[n++] = message;
        }
        else if (message) {
            rd_kafka_message_destroy(message);
        }
    }
    /* Only now has the thread that read them let go of their memory: it counts
     * who uses it by operations that ThreadSanitizer doesn't see. */
    for (uint32_t i = 0; i < n; i++) {
        rd_kafka_message_destroy(messages[i]);
    }
    rd_kafka_consume_stop(rkt, 0);
    rd_kafka_topic_destroy(rkt);
    rd_kafka_destroy(rk);
    return n;
}

/* How many events are in the topic between so often and so often. */
static inline uint32_t count_stored(const feeder_t *f, uint32_t least,
                                    uint32_t most)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < f->count; i++) {
        n += f->events[i].stored >= least && f->events[i].stored <= most;
    }
    return n;
}

/* Everything was delivered, is there once and in order, and holds nothing. */
static inline void assert_each_once(feeder_t *f, int partitions)
{
    assert_int_equal(f->wrong, 0);
    assert_int_equal(f->told[UE_DELIVERED], f->count);
    read_topic(f, partitions);
    assert_int_equal(count_stored(f, 1, 1), f->count);
    assert_int_equal(f->overtaken, 0);
    assert_int_equal(credits_in_use(f->topic->kafka), 0);
}

#endif /* UE_UNIT_KAFKA_H */
