/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_KAFKA_H
#define UE_KAFKA_H

/**
 * A Kafka cluster, and the sinks that write to its topics.
 *
 * The parent makes one ue_kafka_t for each set of brokers and options, and a
 * sink for each topic. In a child, the first sink that starts makes the
 * cluster's librdkafka producer, which all of them share: its connections and
 * threads are the dear part. Each sink belongs to the worker of one producer
 * of ours; what the workers share of a cluster is said in kafka_int.h.
 *
 * A sink chooses the partition (zlib's CRC-32 of the organization, as
 * librdkafka's own partitioner does), is handed one batch a partition at a
 * time, and takes no sixth batch of one broker (docs/design.md, section 8).
 * What Kafka says of each event is reported when the sink is polled.
 *
 * Beside each topic is that of its ledger, named <topic>-ledger, which the
 * module makes where it isn't there (kafka_ledger.c).
 *
 * Nothing is destroyed at a child's end: librdkafka's own way of ending waits
 * for whatever its threads are stuck in.
 */
#include <apr_errno.h>
#include <apr_pools.h>

#include "kafka_conf.h"
#include "sink.h"

typedef struct ue_kafka_t ue_kafka_t;

/**
 * Describe a cluster; nothing is connected yet.
 * @param brokers, options, count, root  as for ue_kafka_conf_make()
 * @param why receives a sentence where the result is not APR_SUCCESS
 * @locality  parent, before the fork
 */
apr_status_t ue_kafka_create(ue_kafka_t **kafka, const char *brokers,
                             const ue_kafka_option_t *options, int count,
                             const char *root, const char **why, apr_pool_t *p);

/**
 * A sink that writes to one topic.
 * @param topic judged by ue_kafka_topic_check()
 * @locality    parent, before the fork
 */
apr_status_t ue_sink_kafka_open(ue_sink_t **sink, ue_kafka_t *kafka,
                                const char *topic, apr_pool_t *p);

#endif /* UE_KAFKA_H */
