/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */

/**
 * kafka_mock PARTITIONS RTT TOPIC
 *
 * librdkafka's mock broker in a process of its own, so that its CPU is not
 * counted with the producer's. One broker, one topic; answers come RTT
 * milliseconds late, and what is under way is not held up by that. Prints
 * where it listens; when its standard input ends, how many messages it has
 * been given, and ends, too.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

static void nothing(const rd_kafka_t *rk, int level, const char *facility,
                    const char *text)
{
}

/** @return the sum of the partitions' ends, -1 where one isn't known */
static long stored(const char *brokers, const char *topic, int count)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_t *rk;
    char why[256];
    long sum = 0;
    int i;

    rd_kafka_conf_set(conf, "bootstrap.servers", brokers, why, sizeof(why));
    rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof(why));
    for (i = 0; rk && i < count; i++) {
        int64_t low, high;

        if (rd_kafka_query_watermark_offsets(rk, topic, i, &low, &high, 5000)) {
            return -1;
        }
        sum += (long)high;
    }
    return rk ? sum : -1;
}

int main(int argc, char **argv)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_mock_cluster_t *cluster;
    rd_kafka_t *rk;
    char why[256], c;

    if (argc != 4) {
        fprintf(stderr, "usage: kafka_mock PARTITIONS RTT TOPIC\n");
        return 2;
    }
    rd_kafka_conf_set_log_cb(conf, nothing);
    rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof(why));
    if (!rk) {
        fprintf(stderr, "kafka_mock: %s\n", why);
        return 1;
    }
    cluster = rd_kafka_mock_cluster_new(rk, 1);
    if (!cluster
        || rd_kafka_mock_topic_create(cluster, argv[3], atoi(argv[1]), 1)
        || rd_kafka_mock_broker_set_rtt(cluster, 1, atoi(argv[2]))) {
        fprintf(stderr, "kafka_mock: no cluster\n");
        return 1;
    }
    printf("%s\n", rd_kafka_mock_cluster_bootstraps(cluster));
    fflush(stdout);
    while (read(STDIN_FILENO, &c, 1) > 0) {
    }
    printf("%ld\n", stored(rd_kafka_mock_cluster_bootstraps(cluster), argv[3],
                           atoi(argv[1])));
    fflush(stdout);
    _exit(0);
}
