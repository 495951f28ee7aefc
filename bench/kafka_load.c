/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */

/**
 * kafka_load ours|bare NAME=VALUE...
 *
 * Sends events to Kafka and says what that took: through our producer, as
 * request threads feed it, or through bare librdkafka with the same messages,
 * headers and settings. One line for each figure, NAME VALUE.
 *
 * CPU is counted by thread (/proc/self/task), since the generator's is not the
 * producer's. Bytes and requests are counted where librdkafka calls sendmsg().
 */
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#include <apr_general.h>
#include <apr_strings.h>
#include <apr_time.h>

#include "kafka.h"
#include "log.h"
#include "producer.h"
#include "thread.h"

#define SAMPLES 32768
#define PARTITIONS_MAX 1024
#define FDS_MAX 1024
#define TASKS_MAX 256
#define LATE_AT_MOST apr_time_from_msec(10)
#define PATIENCE apr_time_from_sec(180)

static struct {
    int bare;
    const char *brokers, *topic;
    long rate;    /* events a second, 0: as many as there is room for */
    long seconds; /* of them */
    long events;  /* in place of rate and seconds */
    long threads; /* that generate */
    long organizations;
    long batch, flush, buffer, slots; /* as the directives set them */
    long single;                      /* bare: one event a request, as it is */
    long stall;                       /* process that is stopped meanwhile */
} opt = {.brokers = "localhost:9092",
         .topic = "usage-events",
         .threads = 1,
         .organizations = 1000,
         .batch = 100,
         .flush = 500,
         .buffer = 1000,
         .slots = 16384};

static apr_pool_t *pool;

static void die(const char *what)
{
    fprintf(stderr, "kafka_load: %s\n", what);
    exit(1);
}

/* ---- what goes over the wire, as librdkafka sends it ---- */

typedef struct {
    uint32_t left; /* bytes of the request that is being sent */
    uint32_t have; /* of its head: length and API key */
    uint8_t head[6];
} wire_t;

static wire_t wires[FDS_MAX];
static _Atomic uint64_t produce_requests, produce_bytes;

static void count_bytes(wire_t *wire, const uint8_t *data, size_t len)
{
    while (len) {
        size_t n = 1;

        if (wire->have < sizeof(wire->head)) {
            const uint8_t *h = wire->head;

            wire->head[wire->have++] = *data;
            if (wire->have == sizeof(wire->head)) {
                uint32_t size = (uint32_t)h[0] << 24 | (uint32_t)h[1] << 16
                                | (uint32_t)h[2] << 8 | h[3];

                wire->left = size - 2;
                if (h[4] == 0 && h[5] == 0) {
                    produce_requests++;
                    produce_bytes += size + 4;
                }
            }
        }
        else {
            n = len < wire->left ? len : wire->left;
            wire->left -= (uint32_t)n;
            if (wire->left == 0) {
                wire->have = 0;
            }
        }
        data += n;
        len -= n;
    }
}

/* These take the place of libc's. */
ssize_t sendmsg(int fd, const struct msghdr *msg, int flags)
{
    ssize_t sent = syscall(SYS_sendmsg, fd, msg, flags);
    size_t left = sent > 0 ? (size_t)sent : 0;
    size_t i;

    for (i = 0; left && i < msg->msg_iovlen && fd < FDS_MAX; i++) {
        size_t n = msg->msg_iov[i].iov_len;

        n = n < left ? n : left;
        count_bytes(&wires[fd], msg->msg_iov[i].iov_base, n);
        left -= n;
    }
    return sent;
}

int connect(int fd, const struct sockaddr *addr, socklen_t len)
{
    if (fd < FDS_MAX) {
        wires[fd] = (wire_t){0};
    }
    return (int)syscall(SYS_connect, fd, addr, len);
}

/* ---- CPU, by thread ---- */

typedef struct {
    long tid;
    char name[16];
    uint64_t cpu; /* nanoseconds */
    uint64_t runs;
} task_t;

typedef struct {
    task_t tasks[TASKS_MAX];
    int count;
} cpu_t;

/** @return whether it is still there */
static int read_task(task_t *task, const char *tid)
{
    char path[64];
    int found;
    FILE *f;

    task->tid = atol(tid);
    snprintf(path, sizeof(path), "/proc/self/task/%ld/comm", task->tid);
    f = fopen(path, "r");
    if (!f) {
        return 0;
    }
    found = fscanf(f, "%15[^\n]", task->name);
    fclose(f);
    snprintf(path, sizeof(path), "/proc/self/task/%ld/schedstat", task->tid);
    f = fopen(path, "r");
    if (!f) {
        return 0;
    }
    found += fscanf(f, "%lu %*u %lu", &task->cpu, &task->runs);
    fclose(f);
    return found == 3;
}

static void read_cpu(cpu_t *cpu)
{
    DIR *dir = opendir("/proc/self/task");
    struct dirent *entry;

    cpu->count = 0;
    while (dir && (entry = readdir(dir)) != NULL && cpu->count < TASKS_MAX) {
        if (entry->d_name[0] != '.') {
            cpu->count += read_task(&cpu->tasks[cpu->count], entry->d_name);
        }
    }
    closedir(dir);
}

static int is_producers(const task_t *task)
{
    return strcmp(task->name, "generator") != 0 && task->tid != getpid();
}

/** Say what each thread took, but for those of the load itself. */
static void show_cpu(const cpu_t *before, const cpu_t *after)
{
    double all = 0;
    int i, j;

    for (i = 0; i < after->count; i++) {
        const task_t *task = &after->tasks[i];
        uint64_t cpu = task->cpu;
        uint64_t runs = task->runs;

        for (j = 0; j < before->count; j++) {
            if (before->tasks[j].tid == task->tid) {
                cpu -= before->tasks[j].cpu;
                runs -= before->tasks[j].runs;
            }
        }
        printf("thread:%s %.0f\n", task->name, (double)cpu / 1e3);
        printf("runs:%s %lu\n", task->name, runs);
        if (is_producers(task)) {
            all += (double)cpu / 1e3;
        }
    }
    printf("cpu_us %.0f\n", all);
}

/* ---- the events ---- */

typedef struct {
    ue_admission_t admission;
    ue_completion_t completion;
    char endpoint[96];
    char key[UE_UUID_LEN];
    uint32_t hash;
    uint32_t json_len;
    char *json;
} sample_t;

static sample_t *samples;
static ue_uuidgen_t ids;
static uint64_t dice_state = 88172645463325252u;

/** Numbers that are the same in each run. */
static uint32_t dice(uint32_t sides)
{
    dice_state ^= dice_state << 13;
    dice_state ^= dice_state >> 7;
    dice_state ^= dice_state << 17;
    return (uint32_t)(dice_state >> 33) % sides;
}

static void roll_uuid(ue_uuid_t *id)
{
    for (int i = 0; i < 16; i++) {
        id->b[i] = (uint8_t)dice(256);
    }
    id->b[6] = (id->b[6] & 0x0f) | 0x40;
    id->b[8] = (id->b[8] & 0x3f) | 0x80;
}

/** A path; in most there is the id of something. */
static void roll_endpoint(sample_t *s)
{
    static const char *const forms[] = {"/v1/charges",
                                        "/v1/charges/ch_%08x%08x",
                                        "/v1/customers/%08x",
                                        "/v1/customers/%08x/invoices",
                                        "/v1/search",
                                        "/v1/payments/%u",
                                        "/v2/reports/monthly",
                                        "/v1/users/%u/sessions/%08x",
                                        "/v1/models/large/chat",
                                        "/v1/webhooks/%u"};

    snprintf(s->endpoint, sizeof(s->endpoint), forms[dice(10)], dice(1u << 30),
             dice(1u << 30));
    s->admission.endpoint = s->endpoint;
    s->admission.endpoint_len = strlen(s->endpoint);
}

static void roll_outcome(sample_t *s)
{
    static const char *const methods[] = {"GET",  "GET",  "GET", "GET",
                                          "POST", "POST", "PUT", "DELETE"};
    static const uint16_t statuses[] = {200, 200, 200, 200, 200, 200, 200, 200,
                                        200, 200, 201, 201, 204, 404, 400, 500};

    s->admission.method = methods[dice(8)];
    s->admission.method_len = strlen(s->admission.method);
    s->completion.status_code = statuses[dice(16)];
    s->completion.billable = s->completion.status_code != 500;
    s->completion.response_time_ms = 1 + dice(1u << dice(10));
}

static void write_json(sample_t *s)
{
    char json[UE_EVENT_JSON_MAX];
    ue_event_t event = {.request_id = s->admission.request_id,
                        .organization_id = s->admission.organization_id,
                        .api_key_id = s->admission.api_key_id,
                        .timestamp = s->admission.timestamp,
                        .response_time_ms = s->completion.response_time_ms,
                        .status_code = s->completion.status_code,
                        .billable = s->completion.billable,
                        .method = s->admission.method,
                        .method_len = s->admission.method_len,
                        .endpoint = s->admission.endpoint,
                        .endpoint_len = s->admission.endpoint_len};

    s->json_len = (uint32_t)ue_event_json(&event, json);
    s->json = apr_pmemdup(pool, json, s->json_len);
}

/** Two keys an organization, all equally busy; fifty microseconds apart. */
static void make_samples(void)
{
    ue_uuid_t *all = calloc((size_t)opt.organizations * 3, sizeof(*all));
    apr_time_t when = apr_time_now();
    long i;

    samples = calloc(SAMPLES, sizeof(*samples));
    for (i = 0; i < opt.organizations * 3; i++) {
        roll_uuid(&all[i]);
    }
    for (i = 0; i < SAMPLES; i++) {
        sample_t *s = &samples[i];
        const ue_uuid_t *own = all + 3 * dice((uint32_t)opt.organizations);

        s->admission.organization_id = own[0];
        s->admission.api_key_id = own[1 + dice(2)];
        s->admission.timestamp = when + i * 50 + dice(50);
        ue_uuid_v7(&s->admission.request_id, &ids, s->admission.timestamp);
        roll_endpoint(s);
        roll_outcome(s);
        ue_uuid_write(&own[0], s->key);
        s->hash = (uint32_t)crc32(0, (const Bytef *)s->key, UE_UUID_LEN);
        write_json(s);
    }
    free(all);
}

/* ---- through our producer ---- */

static ue_producer_t *producer;
static ue_metrics_t *metrics;
static _Atomic uint64_t tried, value_bytes;

static void start_ours(void)
{
    ue_producer_config_t config = {
        (uint32_t)opt.batch, apr_time_from_msec(opt.flush),
        (uint32_t)opt.buffer, (uint32_t)opt.slots, apr_time_from_sec(4)};
    ue_seat_t *seat;
    const char *why = "";
    ue_kafka_t *kafka;
    ue_sink_t *sink;

    if (ue_metrics_create(&metrics, 1, pool) != APR_SUCCESS
        || !(seat = ue_metrics_sit(metrics))
        || ue_kafka_create(&kafka, opt.brokers, NULL, 0, NULL, &why, pool)
               != APR_SUCCESS
        || ue_sink_kafka_open(&sink, kafka, opt.topic, pool) != APR_SUCCESS
        || ue_producer_create(&producer, &config, &sink, 1, metrics, seat, pool)
               != APR_SUCCESS) {
        die(*why ? why : "no producer");
    }
}

/** @return whether there was room */
static int send_ours(const sample_t *s)
{
    ue_overflow_t overflow = opt.rate ? UE_OVERFLOW_DROP : UE_OVERFLOW_REFUSE;
    ue_admission_t a = s->admission;
    ue_slot_ref_t ref;

    a.timestamp = apr_time_now();
    ue_uuid_v7(&a.request_id, &ids, a.timestamp);
    if (ue_producer_admit(producer, &a, overflow, &ref) == APR_SUCCESS) {
        ue_producer_record(producer, ref, &s->completion, overflow);
        return 1;
    }
    return overflow == UE_OVERFLOW_DROP;
}

/* ---- through bare librdkafka ---- */

static rd_kafka_t *rk;
static rd_kafka_topic_t *rkt;
static uint32_t partitions;
static uint64_t numbers[PARTITIONS_MAX];
static _Atomic uint64_t delivered, failed;
static uint64_t produced;

static void on_delivery(rd_kafka_t *handle, const rd_kafka_message_t *message,
                        void *opaque)
{
    (message->err ? &failed : &delivered)[0]++;
}

static void start_bare(void)
{
    static const ue_kafka_option_t none[] = {{"linger.ms", "0"}};
    const struct rd_kafka_metadata *md = NULL;
    rd_kafka_conf_t *conf, *own;
    const char *why = "";
    char text[256];
    int i;

    if (ue_kafka_conf_make(&conf, opt.brokers, none, opt.single ? 1 : 0, NULL,
                           &why, pool)
        != APR_SUCCESS) {
        die(why);
    }
    own = rd_kafka_conf_dup(conf);
    if (opt.single) {
        rd_kafka_conf_set(own, "batch.num.messages", "1", NULL, 0);
        rd_kafka_conf_set(own, "compression.codec", "none", NULL, 0);
    }
    rd_kafka_conf_set_dr_msg_cb(own, on_delivery);
    rk = rd_kafka_new(RD_KAFKA_PRODUCER, own, text, sizeof(text));
    rkt = rk ? rd_kafka_topic_new(rk, opt.topic, NULL) : NULL;
    for (i = 0; rkt && i < 20 && !partitions; i++) {
        if (!rd_kafka_metadata(rk, 0, rkt, &md, 5000)) {
            partitions = (uint32_t)md->topics[0].partition_cnt;
            rd_kafka_metadata_destroy(md);
        }
        apr_sleep(apr_time_from_msec(partitions ? 0 : 250));
    }
    if (!partitions || partitions > PARTITIONS_MAX) {
        die("bare: no topic");
    }
}

static int send_bare(const sample_t *s)
{
    static const uint8_t stream[16] = "a life's random";
    uint32_t partition = s->hash % partitions;
    uint64_t number = numbers[partition] + 1;
    uint8_t bytes[8];
    int i;

    if (produced++ % 64 == 0) {
        rd_kafka_poll(rk, 0);
    }
    if (tried - delivered - failed >= (uint64_t)opt.slots) {
        return 0;
    }
    for (i = 0; i < 8; i++) {
        bytes[i] = (uint8_t)(number >> (56 - 8 * i));
    }
    if (rd_kafka_producev(
            rk, RD_KAFKA_V_RKT(rkt), RD_KAFKA_V_PARTITION((int32_t)partition),
            RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
            RD_KAFKA_V_KEY((void *)(uintptr_t)s->key, UE_UUID_LEN),
            RD_KAFKA_V_VALUE(s->json, s->json_len),
            RD_KAFKA_V_OPAQUE((void *)(uintptr_t)number),
            RD_KAFKA_V_HEADER("usage-stream", stream, sizeof(stream)),
            RD_KAFKA_V_HEADER("usage-seq", bytes, sizeof(bytes)),
            RD_KAFKA_V_HEADER("usage-schema", "1", 1),
            RD_KAFKA_V_HEADER("content-type", "application/json", 16),
            RD_KAFKA_V_END)) {
        return 0;
    }
    numbers[partition] = number;
    return 1;
}

/* ---- the load ---- */

static _Atomic int stop, generators;
static _Atomic uint64_t waits, generator_cpu; /* nanoseconds */

typedef struct {
    long events; /* 0: until it is told to stop */
} share_t;

static void wait_for_room(void)
{
    waits++;
    if (opt.bare) {
        rd_kafka_poll(rk, 1);
    }
    else {
        apr_sleep(200);
    }
}

/** Who was kept from the processor doesn't make up for it by a burst, as no
 * crowd of clients would. */
static void pace(apr_time_t *begin, uint64_t sent)
{
    double rate = (double)opt.rate / (double)opt.threads;

    while (opt.rate && !stop) {
        apr_time_t now = ue_monotonic();
        apr_time_t due = *begin + (apr_time_t)((double)sent * 1e6 / rate);

        if (due <= now) {
            if (now - due > LATE_AT_MOST) {
                *begin += now - due - LATE_AT_MOST;
            }
            return;
        }
        apr_sleep(apr_time_from_msec(1));
        if (opt.bare) {
            rd_kafka_poll(rk, 0);
        }
    }
}

/** Wait until there is room for an event. @return whether it was sent */
static int send_one(const sample_t *s)
{
    while (!(opt.bare ? send_bare(s) : send_ours(s))) {
        if (stop) {
            return 0;
        }
        wait_for_room();
    }
    return 1;
}

static void *generate(void *data)
{
    const share_t *share = data;
    static _Atomic uint32_t places;
    uint32_t place = atomic_fetch_add(&places, 1) * 7919;
    apr_time_t begin = ue_monotonic();
    struct timespec cpu;
    uint64_t sent = 0;

    while (!stop && (!share->events || sent < (uint64_t)share->events)) {
        const sample_t *s = &samples[place++ % SAMPLES];

        pace(&begin, sent);
        if (!send_one(s)) {
            break;
        }
        sent++;
        tried++;
        value_bytes += s->json_len;
    }
    while (opt.bare && delivered + failed < tried) {
        rd_kafka_poll(rk, 10);
    }
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
    generator_cpu += (uint64_t)cpu.tv_sec * 1000000000 + (uint64_t)cpu.tv_nsec;
    generators--;
    return NULL;
}

/** Numbers of events: delivered, and lost. */
static void account(uint64_t *good, uint64_t *lost)
{
    ue_metrics_sum_t sum;

    if (opt.bare) {
        *good = delivered;
        *lost = failed;
        return;
    }
    ue_metrics_sum(metrics, &sum);
    *good = sum.value[UE_M_EVENTS_DELIVERED];
    *lost = sum.lost;
}

static void settle(void)
{
    apr_time_t until = ue_monotonic() + PATIENCE;
    uint64_t good, lost;

    do {
        apr_sleep(apr_time_from_msec(1));
        account(&good, &lost);
        if (ue_monotonic() > until) {
            fprintf(stderr, "kafka_load: of %lu, %lu delivered, %lu lost\n",
                    tried, good, lost);
            exit(1);
        }
    } while (generators || good + lost < tried);
}

static void begin_load(share_t *share)
{
    long i;

    stop = 0;
    generators = (int)opt.threads;
    for (i = 0; i < opt.threads; i++) {
        if (ue_thread_start("generator", generate, share) != APR_SUCCESS) {
            die("no thread");
        }
    }
}

/** Bytes and requests of what has been delivered, before the last batches,
 * which are no full ones. */
static struct {
    uint64_t delivered, requests, bytes;
} steady;

static void note_steady(void)
{
    uint64_t lost;

    account(&steady.delivered, &lost);
    steady.requests = produce_requests;
    steady.bytes = produce_bytes;
}

/** The load without a stop in between. @return microseconds of its measure */
static double run(cpu_t *before, cpu_t *after)
{
    share_t share = {opt.events / opt.threads};
    apr_time_t begin;

    read_cpu(before);
    begin = ue_monotonic();
    begin_load(&share);
    if (!opt.events) {
        apr_sleep(apr_time_from_sec(opt.seconds));
        note_steady();
        stop = 1;
    }
    settle();
    read_cpu(after);
    return (double)(ue_monotonic() - begin);
}

/** The load goes on while the broker is stopped. */
static double run_stalled(cpu_t *before, cpu_t *after)
{
    share_t share = {0};
    double took;

    begin_load(&share);
    apr_sleep(apr_time_from_msec(500));
    kill((pid_t)opt.stall, SIGSTOP);
    read_cpu(before);
    took = -(double)ue_monotonic();
    apr_sleep(apr_time_from_sec(opt.seconds));
    read_cpu(after);
    took += (double)ue_monotonic();
    kill((pid_t)opt.stall, SIGCONT);
    stop = 1;
    settle();
    return took;
}

/** So that connections are made, and caches full. */
static void warm_up(void)
{
    share_t share = {2000};

    begin_load(&share);
    settle();
}

static void set_option(char *arg)
{
    static const struct {
        const char *name;
        long *value;
    } numbers_of[] = {{"rate", &opt.rate},
                      {"seconds", &opt.seconds},
                      {"events", &opt.events},
                      {"threads", &opt.threads},
                      {"batch", &opt.batch},
                      {"flush", &opt.flush},
                      {"buffer", &opt.buffer},
                      {"slots", &opt.slots},
                      {"single", &opt.single},
                      {"stall", &opt.stall},
                      {"organizations", &opt.organizations}};
    char *value = strchr(arg, '=');
    size_t i;

    if (value) {
        *value++ = '\0';
        for (i = 0; i < sizeof(numbers_of) / sizeof(*numbers_of); i++) {
            if (!strcmp(numbers_of[i].name, arg)) {
                *numbers_of[i].value = atol(value);
                return;
            }
        }
        if (!strcmp(arg, "brokers")) {
            opt.brokers = value;
            return;
        }
        if (!strcmp(arg, "topic")) {
            opt.topic = value;
            return;
        }
    }
    fprintf(stderr, "kafka_load: what is %s?\n", arg);
    exit(2);
}

static void log_line(void *baton, ue_log_level_t level, apr_status_t rv,
                     const char *line)
{
    fprintf(stderr, "kafka_load: %s\n", line);
}

static void measure(void)
{
    static cpu_t before, after;
    uint64_t good, lost, good_before, lost_before, base[5];
    double took;

    warm_up();
    account(&good_before, &lost_before);
    base[0] = tried;
    base[1] = value_bytes;
    base[2] = produce_requests;
    base[3] = produce_bytes;
    base[4] = generator_cpu;
    took = opt.stall ? run_stalled(&before, &after) : run(&before, &after);
    account(&good, &lost);
    if (!steady.requests) {
        note_steady();
    }
    printf("steady_events %lu\nsteady_requests %lu\nsteady_bytes %lu\n",
           steady.delivered - good_before, steady.requests - base[2],
           steady.bytes - base[3]);
    printf("seconds %.6f\n", took / 1e6);
    printf("tried %lu\ndelivered %lu\nlost %lu\nwaits %lu\n", tried - base[0],
           good - good_before, lost - lost_before, waits);
    printf("before %lu\n", good_before);
    printf("value_bytes %lu\n", value_bytes - base[1]);
    printf("generator_us %lu\n", (generator_cpu - base[4]) / 1000);
    show_cpu(&before, &after);
}

int main(int argc, char **argv)
{
    int i;

    if (argc < 2 || (strcmp(argv[1], "ours") && strcmp(argv[1], "bare"))) {
        fprintf(stderr, "usage: kafka_load ours|bare NAME=VALUE...\n");
        return 2;
    }
    opt.bare = !strcmp(argv[1], "bare");
    for (i = 2; i < argc; i++) {
        set_option(argv[i]);
    }
    if (opt.bare) {
        opt.threads = 1; /* who produces polls, and counts by partition */
    }
    if (apr_initialize() != APR_SUCCESS
        || apr_pool_create(&pool, NULL) != APR_SUCCESS
        || ue_uuidgen_seed(&ids) != APR_SUCCESS) {
        die("no APR");
    }
    ue_log_set(log_line, NULL, UE_LOG_WARNING);
    make_samples();
    if (opt.bare) {
        start_bare();
    }
    else {
        start_ours();
    }
    measure();
    fflush(stdout);
    _exit(0); /* librdkafka's own way of ending could wait */
}
