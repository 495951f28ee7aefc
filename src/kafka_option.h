/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_KAFKA_OPTION_H
#define UE_KAFKA_OPTION_H

/**
 * Inside the configuration: what kafka_conf.c asks about single properties.
 */
#include "kafka_conf.h"

#define UE_TEXT_OF(number) #number
#define UE_TEXT(number) UE_TEXT_OF(number)

/** Does librdkafka have a property of this name? */
int ue_kafka_option_is_known(const char *name);

/** Is its value to be shown to nobody? */
int ue_kafka_option_is_secret(const char *name);

/**
 * A sentence about a value that librdkafka doesn't take.
 * @param said what librdkafka says about it
 */
const char *ue_kafka_option_unusable(const char *name, const char *value,
                                     const char *said, apr_pool_t *p);

#endif /* UE_KAFKA_OPTION_H */
