/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_KAFKA_CTL_H
#define UE_KAFKA_CTL_H

/**
 * usagectl init-kafka in three parts: what is asked, judged and listed
 * (kafka.c), the properties of the way to Kafka (kafka_options.c), and what
 * Kafka is asked and told (kafka_client.c). Functions that return int return
 * an exit status and have said what was wrong.
 */
#include <apr_tables.h>

#include "kafka_conf.h"
#include "usagectl.h"

/** A topic: what is wanted of it, and what it is. */
typedef struct {
    const char *name;
    int is_ledger;
    int wanted;        /**< partitions, at least */
    int partitions;    /**< 0: it isn't there */
    int replication;   /**< of the partition with the fewest copies */
    int has_leaders;   /**< all partitions have one */
    const char *state; /**< NULL: it was there, and is right */
    struct json_object *differences;
    apr_table_t *config; /**< NULL: not known */
} ue_ctl_topic_t;

typedef struct {
    ue_ctl_t *ctl;
    const char *brokers;
    int partitions;
    int replication;       /**< -1: what Kafka is set to */
    apr_int64_t retention; /**< in milliseconds; -1: for ever */
    rd_kafka_t *rk;
    rd_kafka_queue_t *queue; /**< of answers */
    int broker_count;
    int broker;              /**< the id of one */
    int min_insync;          /**< for what is made; 0: what Kafka is set to */
    ue_ctl_topic_t topic[2]; /**< events, ledger */
    /* what Kafka's client told of its trouble */
    rd_kafka_resp_err_t trouble;
    char trouble_text[512];
    int all_down;
} ue_ctl_kafka_t;

/** The properties that --options and --option give, those of --option last.
 * @param found of ue_kafka_option_t */
int ue_ctl_kafka_options(const ue_ctl_t *ctl, apr_array_header_t **found);

/** Make a client; nothing is connected yet. */
int ue_ctl_kafka_client(ue_ctl_kafka_t *in,
                        const apr_array_header_t *properties);

/** What brokers and topics there are. Takes ten seconds at most. */
int ue_ctl_kafka_look(ue_ctl_kafka_t *in);

/** Settings of a topic or broker.
 * @param config receives NULL where Kafka doesn't let us see them */
int ue_ctl_kafka_describe(ue_ctl_kafka_t *in, rd_kafka_ResourceType_t type,
                          const char *name, apr_table_t **config);

/** Choose how many must have an event before it counts. */
int ue_ctl_kafka_min_insync(ue_ctl_kafka_t *in);

/** Make what isn't there. */
int ue_ctl_kafka_make(ue_ctl_kafka_t *in);

/** Add the partitions that lack, where --add-partitions asks for it. */
int ue_ctl_kafka_extend(ue_ctl_kafka_t *in);

/** Look until what was made is to be seen, ten seconds at most. */
int ue_ctl_kafka_wait(ue_ctl_kafka_t *in);

#endif /* UE_KAFKA_CTL_H */
