/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_KAFKA_CONF_H
#define UE_KAFKA_CONF_H

/**
 * librdkafka's configuration: our defaults, then what the user wants.
 *
 * Any of its properties may be set, but not to a value that would undo what
 * the rest is built on: each event once and in order, in batches that we cut
 * ourselves. Everything is judged in the parent, before a child is made, so
 * that a wrong word stops configtest and not a gateway at night: names and
 * values one by one, then all together by making a client that is told of no
 * broker.
 *
 * Sentences that say what is wrong begin with the property's name. They never
 * hold the value of one that could be a secret.
 *
 * Used by the module and by usagectl.
 */
#include <apr_errno.h>
#include <apr_pools.h>

#include <librdkafka/rdkafka.h>

/** A property of librdkafka, as UsageKafkaOption gives it. */
typedef struct {
    const char *name;
    const char *value;
} ue_kafka_option_t;

/** What the topic of a ledger has behind the name of its events' topic. */
#define UE_LEDGER_SUFFIX "-ledger"

/** The longest name of a topic: Kafka takes 249, the ledger's too. */
#define UE_TOPIC_MAX 242

/** Copies, and brokers, from which on two must have what is written. */
#define UE_KAFKA_SAFE_COPIES 3

/** What one batch may hold at most: events, and bytes on the wire before they
 * are compressed. batch.num.messages is the first, batch.size and
 * message.max.bytes leave room above the second, so that librdkafka sends a
 * batch in one request (docs/design.md, section 8). */
#define UE_KAFKA_BATCH_EVENTS 10000
#define UE_KAFKA_BATCH_BYTES 1500000

/**
 * Judge one property, without the others.
 * @param p where a sentence is put together
 * @return  NULL, or a sentence that says what is wrong and what would be right
 */
const char *ue_kafka_option_check(const char *name, const char *value,
                                  apr_pool_t *p);

/** Are these two names of one property (linger.ms, queue.buffering.max.ms)? */
int ue_kafka_option_same(const char *a, const char *b);

/** Does it name a file that children read? ue_kafka_conf_make() sees to it that
 * the parent can. */
int ue_kafka_option_is_file(const ue_kafka_option_t *option);

/**
 * Judge a list of brokers, host[:port] with commas between.
 * @return NULL, or what follows the name of the directive: "takes ..."
 */
const char *ue_kafka_brokers_check(const char *brokers, apr_pool_t *p);

/** Judge the name of a topic: 1 to 242 of a-z, A-Z, 0-9, ".", "_" and "-".
 * @return as ue_kafka_brokers_check() */
const char *ue_kafka_topic_check(const char *topic, apr_pool_t *p);

/**
 * Put a configuration together, and see whether a client can be made of it.
 * Files that it names ("…location") are looked for below root where they don't
 * begin with a slash; a private key is read now, so that children need no
 * rights to it.
 *
 * @param options each judged by ue_kafka_option_check(); a later one replaces
 *                an earlier one of the same property
 * @param root    a directory, NULL: the current one
 * @param why     receives a sentence where the result is not APR_SUCCESS
 * @param p       destroys the configuration
 * @locality      parent, before the fork; makes threads and ends them
 */
apr_status_t ue_kafka_conf_make(rd_kafka_conf_t **conf, const char *brokers,
                                const ue_kafka_option_t *options, int count,
                                const char *root, const char **why,
                                apr_pool_t *p);

#endif /* UE_KAFKA_CONF_H */
