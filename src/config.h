/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_CONFIG_H
#define UE_CONFIG_H

/**
 * Configuration, from directive to what a request reads.
 *
 * A ue_conf_t is what was written for one server: each field unset (-1 or NULL)
 * or set. Merging makes a new one and edits neither. Once all is read,
 * ue_config_resolve() applies environment variables and defaults, in that one
 * place, checks what fits together, and leaves a ue_server_t for each server:
 * read-only from then on, in pconf. Servers with the same sinks and the same
 * settings for them share a producer.
 *
 * All of it happens in the parent, before the fork.
 */
#include "httpd.h"
#include "http_config.h"

#include "decision.h"
#include "event.h"
#include "kafka.h"
#include "limit.h"
#include "metrics.h"
#include "producer.h"

#define UE_UNSET (-1)

/** How a credential is presented. */
typedef struct {
    int authorization;  /**< Authorization: Bearer counts */
    const char *header; /**< name of a header with a bare key, or NULL */
} ue_keyheader_t;

/** A Kafka cluster, as one or more servers name it. */
typedef struct {
    const char *brokers;
    const apr_array_header_t *options; /**< ue_kafka_option_t, each once */
    ue_kafka_t *kafka;
} ue_cluster_t;

/** One producer a child, described. */
typedef struct {
    ue_producer_config_t config;
    const char *event_file; /**< or NULL */
    ue_kafka_t *kafka;      /**< or NULL */
    const char *topic;
    ue_target_t target; /**< the same, as files in the spool name it */
    ue_sink_t *sinks[UE_PRODUCER_SINKS];
    int sink_count;
} ue_producer_plan_t;

/** A key store, as one or more servers name it. */
typedef struct {
    const char *url;
    const char *secret_file; /**< or NULL */
    ue_keystore_options_t options;
} ue_store_plan_t;

/** What a server does, complete. */
typedef struct {
    int enabled;
    const char *const *exempt;
    size_t exempt_count;
    int exempt_preflight;
    int trust_request_id;
    ue_statusset_t billable;
    ue_keyrule_t rule;
    int store; /**< index into stores; -1: none */
    ue_limitrule_t limits;
    ue_keyheader_t key_header;
    int key_hide;
    ue_overflow_t overflow;
    int producer; /**< index into plans */
} ue_server_t;

/** What UsageKeyCache says. */
typedef struct {
    apr_interval_time_t ttl;
    apr_interval_time_t negative;
    apr_interval_time_t stale;
    int size;
} ue_keycache_conf_t;

/** What UsageKeySecret says. */
typedef struct {
    const char *file;
    const ue_keysecret_t *secret;
} ue_keysecret_conf_t;

/** What was written for a server. */
typedef struct {
    int enabled;
    apr_array_header_t *exempt; /**< const char *; NULL: unset */
    int exempt_preflight;
    int trust_request_id;
    const ue_statusset_t *billable;
    int key_required;
    const char *keystore_url;
    const ue_keycache_conf_t *key_cache;
    const ue_keysecret_conf_t *key_secret;
    const ue_keyheader_t *key_header;
    int key_hide;
    apr_array_header_t *rate_limits; /**< ue_limit_t; NULL: unset */
    int has_own_limits;              /**< they aren't the main server's */
    int limit_failure;
    int limit_dry_run;
    int overflow;
    int batch_size;
    int buffer_size;
    int slots;
    apr_interval_time_t flush_interval;
    apr_interval_time_t drain_timeout;
    const char *event_file;
    const char *spool; /**< directory */
    apr_off_t spool_most;
    int kafka;
    const char *kafka_brokers;
    const char *kafka_topic;
    apr_array_header_t *kafka_options; /**< ue_kafka_option_t; NULL: unset */
    ue_server_t *server;               /**< set by ue_config_resolve() */
} ue_conf_t;

/** All that is configured, for the hooks of the process's life. */
typedef struct {
    apr_array_header_t *plans;    /**< ue_producer_plan_t */
    apr_array_header_t *clusters; /**< ue_cluster_t */
    apr_array_header_t *stores;   /**< ue_store_plan_t */
    int enabled;                  /**< on some server */
} ue_setup_t;

extern module AP_MODULE_DECLARE_DATA usage_events_module;

/** The directives; directives.c. */
extern const command_rec ue_directives[];

void *ue_config_create(apr_pool_t *p, server_rec *s);
void *ue_config_merge(apr_pool_t *p, void *base, void *add);

/**
 * Complete the configuration of all servers. What Kafka needs is made here, so
 * that configtest finds what the start would.
 * @return NULL, or a sentence that names the directive and what would be right
 */
const char *ue_config_resolve(ue_setup_t **setup, apr_pool_t *p,
                              apr_pool_t *ptemp, server_rec *main_server);

/**
 * Add a producer to what is planned, for events in the spool that no server
 * writes any more.
 * @return NULL, or why it can't be
 */
const char *ue_config_add_heir(ue_setup_t *setup,
                               const ue_producer_config_t *like,
                               const ue_target_t *target, apr_pool_t *p);

/** What a server does; NULL where nothing was resolved. */
const ue_server_t *ue_config_server(const server_rec *s);

/** A directive that takes a whole number, and the variable behind it. */
typedef struct {
    const char *directive;
    const char *variable; /**< environment; NULL: none */
    int min, max;
    const char *example;
} ue_number_rule_t;

/** A directive that takes a time with its unit. */
typedef struct {
    const char *directive;
    const char *variable;
    apr_interval_time_t min, max;
    const char *range; /**< the same in words */
    const char *example;
} ue_time_rule_t;

extern const ue_number_rule_t ue_rule_batch_size, ue_rule_buffer_size,
    ue_rule_slots;
extern const ue_time_rule_t ue_rule_flush_interval, ue_rule_drain_timeout;

/**
 * Read a value.
 * @param name what a message calls it: the directive, or the variable
 * @return     NULL, or a sentence that says what would be right
 */
const char *ue_number_parse(int *value, const ue_number_rule_t *rule,
                            const char *name, const char *text, apr_pool_t *p);
const char *ue_time_span_parse(apr_interval_time_t *value,
                               const ue_time_rule_t *rule, const char *name,
                               const char *text, apr_pool_t *p);

/** Check the URL of a key store; a relative path becomes ServerRoot's. */
const char *ue_keystore_url_parse(const char **url, const char *name,
                                  const char *text, apr_pool_t *p);

#endif /* UE_CONFIG_H */
