/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */

/**
 * spool_write DIR|- THREADS RATE SECONDS
 *
 * How long request threads are held up by what is recorded: each of THREADS
 * admits and records events, RATE a second of all together, and takes the time
 * of both calls. With a directory they are recorded in a spool there, with - in
 * memory. The sink is another that takes all there is, so slots are used again
 * as they are with Kafka near by. Prints the median, 99.9 and 99.99 % and the
 * longest, in microseconds, and how many there were.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <apr_general.h>
#include <apr_strings.h>

#include "producer.h"
#include "thread.h"

#define BUCKETS 2000000 /* of 100 ns */

static ue_sink_owner_t owner;
static ue_producer_t *producer;
static double period; /* seconds between two events of a thread */
static apr_time_t ends;

static apr_status_t start(ue_sink_t *sink, const ue_sink_owner_t *o)
{
    owner = *o;
    return APR_SUCCESS;
}

static uint32_t lanes(ue_sink_t *sink)
{
    return 1;
}

static uint32_t lane_of(const ue_uuid_t *id, uint32_t count)
{
    return 0;
}

static int has_room(ue_sink_t *sink, uint32_t lane)
{
    return 1;
}

static apr_status_t submit(ue_sink_t *sink, const ue_sink_batch_t *batch,
                           size_t *taken)
{
    size_t i;

    for (i = 0; i < batch->count; i++) {
        owner.report(owner.baton, batch->lane, batch->records[i].ref,
                     UE_DELIVERED);
    }
    *taken = batch->count;
    return APR_SUCCESS;
}

static void poll_sink(ue_sink_t *sink, apr_time_t now)
{
}

static apr_status_t flush(ue_sink_t *sink, apr_time_t deadline)
{
    return APR_SUCCESS;
}

static const ue_sink_vtable_t vtable = {
    .name = "bench",
    .numbered = 1,
    .batch_events = 10000,
    .batch_bytes = 4 << 20,
    .start = start,
    .lanes = lanes,
    .lane_of = lane_of,
    .has_room = has_room,
    .submit = submit,
    .poll = poll_sink,
    .flush = flush};

static uint64_t nanoseconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *hammer(void *data)
{
    uint32_t *seen = data;
    static const char path[] = "/v1/customers/cus_8231/charges/latest";
    ue_admission_t a = {.method = "POST",
                        .method_len = 4,
                        .endpoint = path,
                        .endpoint_len = sizeof(path) - 1};
    const ue_completion_t done = {12, 200, 1};
    uint64_t next = nanoseconds();

    while (ue_monotonic() < ends) {
        ue_slot_ref_t ref;
        uint64_t begin, took;

        next += (uint64_t)(period * 1e9);
        a.timestamp = apr_time_now();
        begin = nanoseconds();
        if (ue_producer_admit(producer, &a, UE_OVERFLOW_DROP, &ref)
            == APR_SUCCESS) {
            ue_producer_record(producer, ref, &done, UE_OVERFLOW_DROP);
        }
        took = (nanoseconds() - begin) / 100;
        seen[took < BUCKETS ? took : BUCKETS - 1]++;
        begin = nanoseconds();
        if (next > begin) {
            struct timespec t = {0, (long)(next - begin)};

            nanosleep(&t, NULL);
        }
    }
    return NULL;
}

/** @return microseconds that a share of all took no longer than */
static double quantile(const uint64_t *all, uint64_t count, double share)
{
    uint64_t n = 0;
    uint32_t i;

    for (i = 0; i < BUCKETS; i++) {
        n += all[i];
        if (n && (double)n >= share * (double)count) {
            break;
        }
    }
    return i / 10.0;
}

int main(int argc, char **argv)
{
    ue_sink_t sink = {&vtable};
    ue_sink_t *sinks[] = {&sink};
    ue_target_t target;
    ue_producer_config_t config = {.batch_size = 100,
                                   .flush_interval = 500000,
                                   .buffer_size = 100000,
                                   .slots = 200000,
                                   .drain_timeout = 1000000,
                                   .spool_most = 1 << 30,
                                   .target = &target};
    static uint32_t seen[64][BUCKETS];
    static uint64_t all[BUCKETS];
    pthread_t threads[64];
    ue_metrics_t *metrics;
    apr_pool_t *p;
    uint64_t count = 0;
    int n, i, k;

    if (argc != 5 || (n = atoi(argv[2])) < 1 || n > 64) {
        fprintf(stderr, "usage: spool_write DIR|- THREADS RATE SECONDS\n");
        return 2;
    }
    memset(&target, 0, sizeof(target));
    strcpy(target.topic, "bench");
    apr_initialize();
    apr_pool_create(&p, NULL);
    config.spool = strcmp(argv[1], "-") ? argv[1] : NULL;
    period = n / atof(argv[3]);
    ends = ue_monotonic() + apr_time_from_sec(atoi(argv[4]));
    if (ue_metrics_create(&metrics, 8, p) != APR_SUCCESS
        || ue_producer_create(&producer, &config, sinks, 1, metrics,
                              ue_metrics_sit(metrics), p)
               != APR_SUCCESS) {
        fprintf(stderr, "spool_write: no producer could be made\n");
        return 1;
    }
    for (i = 0; i < n; i++) {
        pthread_create(&threads[i], NULL, hammer, seen[i]);
    }
    for (i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
        for (k = 0; k < BUCKETS; k++) {
            all[k] += seen[i][k];
            count += seen[i][k];
        }
    }
    ue_producer_close(producer);
    printf("%.1f %.1f %.1f %.1f %lu\n", quantile(all, count, 0.5),
           quantile(all, count, 0.999), quantile(all, count, 0.9999),
           quantile(all, count, 1), (unsigned long)count);
    return 0;
}
