/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "config.h"

#include <errno.h>
#include <grp.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "http_main.h"
#include "unixd.h"

#include <apr_strings.h>

#include "crc32c.h"
#include "spool.h"

#define BATCH_SIZE 100
#define BUFFER_SIZE 1000
#define SLOTS 16384
#define FLUSH_INTERVAL (APR_USEC_PER_SEC / 2)
#define DRAIN_TIMEOUT (4 * APR_USEC_PER_SEC)
#define TOPIC "usage-events"
#define KEY_TTL (60 * APR_USEC_PER_SEC)
#define KEY_NEGATIVE (5 * APR_USEC_PER_SEC)
#define KEY_STALE (600 * APR_USEC_PER_SEC)
#define KEY_CACHE_SIZE 100000

static const ue_keyheader_t default_key_header = {1, "X-API-Key"};

void *ue_config_create(apr_pool_t *p, server_rec *s)
{
    ue_conf_t *conf = apr_pcalloc(p, sizeof(*conf));

    conf->enabled = UE_UNSET;
    conf->exempt_preflight = UE_UNSET;
    conf->trust_request_id = UE_UNSET;
    conf->key_required = UE_UNSET;
    conf->key_hide = UE_UNSET;
    conf->limit_failure = UE_UNSET;
    conf->limit_dry_run = UE_UNSET;
    conf->overflow = UE_UNSET;
    conf->batch_size = UE_UNSET;
    conf->buffer_size = UE_UNSET;
    conf->slots = UE_UNSET;
    conf->flush_interval = UE_UNSET;
    conf->drain_timeout = UE_UNSET;
    conf->kafka = UE_UNSET;
    return conf;
}

#define PICK(field) \
    conf->field = add->field != UE_UNSET ? add->field : base->field
#define PICK_POINTER(field) conf->field = add->field ? add->field : base->field

void *ue_config_merge(apr_pool_t *p, void *base_conf, void *add_conf)
{
    const ue_conf_t *base = base_conf;
    const ue_conf_t *add = add_conf;
    ue_conf_t *conf = apr_pcalloc(p, sizeof(*conf));

    PICK(enabled);
    PICK(exempt_preflight);
    PICK(trust_request_id);
    PICK(key_required);
    PICK(key_hide);
    PICK(limit_failure);
    PICK(limit_dry_run);
    PICK(overflow);
    PICK(batch_size);
    PICK(buffer_size);
    PICK(slots);
    PICK(flush_interval);
    PICK(drain_timeout);
    PICK(kafka);
    PICK_POINTER(billable);
    PICK_POINTER(keystore_url);
    PICK_POINTER(key_cache);
    PICK_POINTER(key_secret);
    PICK_POINTER(key_header);
    /* A server's own limits stand in the place of the main server's. */
    PICK_POINTER(rate_limits);
    conf->has_own_limits = add->rate_limits != NULL;
    PICK_POINTER(event_file);
    PICK_POINTER(spool);
    conf->spool_most = add->spool ? add->spool_most : base->spool_most;
    PICK_POINTER(kafka_brokers);
    PICK_POINTER(kafka_topic);
    /* The main server's options hold everywhere; of two for one property,
     * the later counts. */
    PICK_POINTER(kafka_options);
    if (base->kafka_options && add->kafka_options) {
        conf->kafka_options =
            apr_array_append(p, base->kafka_options, add->kafka_options);
    }
    /* What the main server exempts is exempt everywhere. */
    PICK_POINTER(exempt);
    if (base->exempt && add->exempt) {
        conf->exempt = apr_array_append(p, base->exempt, add->exempt);
    }
    return conf;
}

/** An empty variable counts as unset. */
static const char *variable(const char *name)
{
    const char *value = name ? getenv(name) : NULL;

    return value && *value ? value : NULL;
}

static const char *number(uint32_t *to, int set, const ue_number_rule_t *rule,
                          int otherwise, apr_pool_t *p)
{
    const char *text = variable(rule->variable);
    const char *error = NULL;

    if (set == UE_UNSET && text) {
        error = ue_number_parse(
            &set, rule,
            apr_pstrcat(p, rule->directive, " (", rule->variable, ")", NULL),
            text, p);
    }
    *to = (uint32_t)(set == UE_UNSET ? otherwise : set);
    return error;
}

static const char *span(apr_interval_time_t *to, apr_interval_time_t set,
                        const ue_time_rule_t *rule,
                        apr_interval_time_t otherwise, apr_pool_t *p)
{
    const char *text = variable(rule->variable);
    const char *error = NULL;

    if (set == UE_UNSET && text) {
        error = ue_time_span_parse(
            &set, rule,
            apr_pstrcat(p, rule->directive, " (", rule->variable, ")", NULL),
            text, p);
    }
    *to = set == UE_UNSET ? otherwise : set;
    return error;
}

static const char *plan_settings(ue_producer_config_t *config,
                                 const ue_conf_t *conf, apr_pool_t *p)
{
    const char *error = number(&config->batch_size, conf->batch_size,
                               &ue_rule_batch_size, BATCH_SIZE, p);

    if (!error) {
        error = number(&config->buffer_size, conf->buffer_size,
                       &ue_rule_buffer_size, BUFFER_SIZE, p);
    }
    if (!error) {
        /* Left alone, slots grow with the buffer: each event in it has one. */
        error = number(&config->slots, conf->slots, &ue_rule_slots,
                       (int)config->buffer_size > SLOTS / 2
                           ? (int)config->buffer_size * 2
                           : SLOTS,
                       p);
    }
    if (!error) {
        error = span(&config->flush_interval, conf->flush_interval,
                     &ue_rule_flush_interval, FLUSH_INTERVAL, p);
    }
    if (!error) {
        error = span(&config->drain_timeout, conf->drain_timeout,
                     &ue_rule_drain_timeout, DRAIN_TIMEOUT, p);
    }
    config->spool = conf->spool;
    config->spool_most = conf->spool_most;
    if (!error && !config->spool && config->slots < config->buffer_size) {
        error = apr_psprintf(p,
                             "UsageJournalSlots is %u and UsageKafkaBufferSize "
                             "%u: each event in the buffer has a slot, so make "
                             "it UsageJournalSlots %u or more",
                             config->slots, config->buffer_size,
                             config->buffer_size);
    }
    return error;
}

static int same_settings(const ue_producer_config_t *a,
                         const ue_producer_config_t *b)
{
    return a->batch_size == b->batch_size && a->buffer_size == b->buffer_size
           && a->slots == b->slots && a->flush_interval == b->flush_interval
           && a->drain_timeout == b->drain_timeout && !a->spool == !b->spool
           && (!a->spool || !strcmp(a->spool, b->spool));
}

/** Is Kafka wanted? Where nobody says so, if brokers are named. */
static const char *kafka_wanted(int *on, const ue_conf_t *conf, apr_pool_t *p)
{
    static const char *const words[][2] = {
        {"false", "true"}, {"off", "on"}, {"no", "yes"}, {"0", "1"}};
    const char *text = variable("KAFKA_ENABLED");
    size_t i;

    *on = conf->kafka;
    if (*on != UE_UNSET) {
        return NULL;
    }
    if (!text) {
        *on = conf->kafka_brokers || variable("KAFKA_BROKERS");
        return NULL;
    }
    for (i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (!strcasecmp(text, words[i][0]) || !strcasecmp(text, words[i][1])) {
            *on = !strcasecmp(text, words[i][1]);
            return NULL;
        }
    }
    return apr_psprintf(p,
                        "UsageKafka (KAFKA_ENABLED) takes true, on, yes or 1, "
                        "or false, off, no or 0; \"%s\" is none",
                        text);
}

/** A word from a directive, which has judged it, or from a variable. */
static const char *word(const char **to, const char *set, const char *directive,
                        const char *name,
                        const char *(*check)(const char *, apr_pool_t *),
                        apr_pool_t *p)
{
    const char *text = variable(name);
    const char *why;

    *to = set;
    if (set || !text) {
        return NULL;
    }
    *to = text;
    why = check(text, p);
    return why ? apr_psprintf(p, "%s (%s) %s", directive, name, why) : NULL;
}

/** Each option once, a later one in the place of an earlier one. */
static apr_array_header_t *each_once(const apr_array_header_t *options,
                                     apr_pool_t *p)
{
    apr_array_header_t *all = apr_array_make(p, 8, sizeof(ue_kafka_option_t));
    int i, j;

    for (i = 0; options && i < options->nelts; i++) {
        const ue_kafka_option_t *one =
            &APR_ARRAY_IDX(options, i, ue_kafka_option_t);

        for (j = 0; j < all->nelts; j++) {
            if (ue_kafka_option_same(
                    APR_ARRAY_IDX(all, j, ue_kafka_option_t).name, one->name)) {
                break;
            }
        }
        if (j == all->nelts) {
            apr_array_push(all);
        }
        APR_ARRAY_IDX(all, j, ue_kafka_option_t) = *one;
    }
    return all;
}

static int has_option(const apr_array_header_t *options,
                      const ue_kafka_option_t *wanted)
{
    int i;

    for (i = 0; i < options->nelts; i++) {
        const ue_kafka_option_t *one =
            &APR_ARRAY_IDX(options, i, ue_kafka_option_t);

        if (ue_kafka_option_same(one->name, wanted->name)) {
            return !strcmp(one->value, wanted->value);
        }
    }
    return 0;
}

static int same_options(const apr_array_header_t *a,
                        const apr_array_header_t *b)
{
    int i;

    for (i = 0; i < a->nelts && a->nelts == b->nelts; i++) {
        if (!has_option(b, &APR_ARRAY_IDX(a, i, ue_kafka_option_t))) {
            break;
        }
    }
    return a->nelts == b->nelts && i == a->nelts;
}

/** The first thing that somebody else can't do. */
typedef int (*try_fn)(const void *what, apr_pool_t *p);

/** Children run as another user than the one who judges here.
 * @return what the attempt returns there, from 0 on; -1: all is well */
static int try_as_child(try_fn attempt, const void *what, apr_pool_t *p)
{
    int status;
    pid_t pid;

    if (geteuid() != 0 || ap_unixd_config.user_id == 0) {
        return attempt(what, p);
    }
    pid = fork();
    if (pid == 0) {
        if (initgroups(ap_unixd_config.user_name, ap_unixd_config.group_id) != 0
            || setgid(ap_unixd_config.group_id) != 0
            || setuid(ap_unixd_config.user_id) != 0) {
            _exit(0);
        }
        _exit(attempt(what, p) + 1);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status)) {
        return -1;
    }
    return WEXITSTATUS(status) - 1;
}

static int names_files(const apr_array_header_t *options)
{
    int i;

    for (i = 0; i < options->nelts; i++) {
        if (ue_kafka_option_is_file(
                &APR_ARRAY_IDX(options, i, ue_kafka_option_t))) {
            return 1;
        }
    }
    return 0;
}

/** Which of the options' files can't be read? */
static int unreadable(const void *what, apr_pool_t *p)
{
    const apr_array_header_t *options = what;
    int i;

    for (i = 0; i < options->nelts; i++) {
        const ue_kafka_option_t *one =
            &APR_ARRAY_IDX(options, i, ue_kafka_option_t);

        if (ue_kafka_option_is_file(one)
            && access(ap_server_root_relative(p, one->value), R_OK) != 0) {
            return i;
        }
    }
    return -1;
}

/** A child that can't make its client ends. */
static const char *try_files(const apr_array_header_t *options, apr_pool_t *p)
{
    const ue_kafka_option_t *one;
    int i;

    if (geteuid() != 0 || !names_files(options)) {
        return NULL;
    }
    i = try_as_child(unreadable, options, p);
    if (i < 0) {
        return NULL;
    }
    one = &APR_ARRAY_IDX(options, i, ue_kafka_option_t);
    return apr_psprintf(p,
                        "UsageKafkaOption %s: %s can't be read by %s, whom "
                        "httpd's children run as",
                        one->name, ap_server_root_relative(p, one->value),
                        ap_unixd_config.user_name);
}

static int unwritable(const void *dir, apr_pool_t *p)
{
    return access(dir, R_OK | W_OK | X_OK) == 0 || errno == EROFS ? -1 : 0;
}

/** A directory that is full or read-only may get better; one that isn't there,
 * or belongs to somebody else, won't. */
static const char *judge_spool(const ue_setup_t *setup,
                               const ue_producer_config_t *config,
                               apr_pool_t *p)
{
    const char *why;
    int i;

    if (!config->spool) {
        return NULL;
    }
    for (i = 0; i < setup->plans->nelts; i++) {
        const ue_producer_config_t *other =
            &APR_ARRAY_IDX(setup->plans, i, ue_producer_plan_t).config;

        if (other->spool && !strcmp(other->spool, config->spool)
            && other->spool_most != config->spool_most) {
            return apr_psprintf(p,
                                "UsageSpool %s is named twice, with different "
                                "max=; it is one bound for the whole "
                                "directory, so give both the same, or name "
                                "two directories",
                                config->spool);
        }
    }
    why = ue_spool_check(config->spool, p);
    if (why) {
        return apr_psprintf(p,
                            "UsageSpool: %s; right would be such as "
                            "UsageSpool /var/spool/apache2/usage max=1g",
                            why);
    }
    if (try_as_child(unwritable, config->spool, p) >= 0) {
        return apr_psprintf(p,
                            "UsageSpool %s can't be written to by %s, whom "
                            "httpd's children run as: chown it to that user",
                            config->spool, ap_unixd_config.user_name);
    }
    return NULL;
}

/** Find the cluster with these brokers and options, or make it. */
static const char *find_cluster(ue_kafka_t **kafka, ue_setup_t *setup,
                                const char *brokers,
                                const apr_array_header_t *options,
                                apr_pool_t *p)
{
    ue_cluster_t new = {brokers, each_once(options, p), NULL};
    const char *why = NULL;
    int i;

    for (i = 0; i < setup->clusters->nelts; i++) {
        const ue_cluster_t *old =
            &APR_ARRAY_IDX(setup->clusters, i, ue_cluster_t);

        if (!strcmp(old->brokers, brokers)
            && same_options(old->options, new.options)) {
            *kafka = old->kafka;
            return NULL;
        }
    }
    if (ue_kafka_create(&new.kafka, brokers,
                        (const ue_kafka_option_t *)new.options->elts,
                        new.options->nelts, ap_server_root, &why, p)
        != APR_SUCCESS) {
        return apr_psprintf(p, "UsageKafkaOption %s", why);
    }
    APR_ARRAY_PUSH(setup->clusters, ue_cluster_t) = new;
    *kafka = new.kafka;
    return try_files(new.options, p);
}

static const char *plan_kafka(ue_setup_t *setup, ue_producer_plan_t *plan,
                              const ue_conf_t *conf, apr_pool_t *p)
{
    const char *brokers;
    const char *error;
    char *list;
    int on;

    error = kafka_wanted(&on, conf, p);
    if (error || !on) {
        return error;
    }
    error = word(&brokers, conf->kafka_brokers, "UsageKafkaBrokers",
                 "KAFKA_BROKERS", ue_kafka_brokers_check, p);
    if (!error && !brokers) {
        error = "UsageKafka On needs UsageKafkaBrokers, such as "
                "UsageKafkaBrokers localhost:9092 (or KAFKA_BROKERS)";
    }
    if (!error) {
        error = word(&plan->topic, conf->kafka_topic, "UsageKafkaTopic",
                     "KAFKA_TOPIC", ue_kafka_topic_check, p);
    }
    if (error) {
        return error;
    }
    plan->topic = plan->topic ? plan->topic : TOPIC;
    list = apr_pstrdup(p, brokers);
    apr_collapse_spaces(list, list);
    return find_cluster(&plan->kafka, setup, list, conf->kafka_options, p);
}

/** Name where a plan's events go as files in the spool do. */
static void name_target(const ue_setup_t *setup, ue_producer_plan_t *plan)
{
    ue_target_t *target = &plan->target;
    int i;

    memset(target, 0, sizeof(*target));
    for (i = 0; plan->kafka && i < setup->clusters->nelts; i++) {
        const ue_cluster_t *cluster =
            &APR_ARRAY_IDX(setup->clusters, i, ue_cluster_t);

        if (cluster->kafka == plan->kafka) {
            apr_cpystrn(target->brokers, cluster->brokers,
                        sizeof(target->brokers));
            apr_cpystrn(target->topic, plan->topic, sizeof(target->topic));
        }
    }
    if (plan->event_file) {
        apr_cpystrn(target->event_file, plan->event_file,
                    sizeof(target->event_file));
    }
}

const char *ue_config_add_heir(ue_setup_t *setup,
                               const ue_producer_config_t *like,
                               const ue_target_t *target, apr_pool_t *p)
{
    ue_producer_plan_t plan;
    int i;

    memset(&plan, 0, sizeof(plan));
    plan.config = *like;
    plan.config.is_heir = 1;
    plan.target = *target;
    if (target->topic[0] && ue_kafka_topic_check(target->topic, p)) {
        return "their topic has no name that Kafka would take";
    }
    for (i = 0; target->topic[0] && i < setup->clusters->nelts; i++) {
        const ue_cluster_t *cluster =
            &APR_ARRAY_IDX(setup->clusters, i, ue_cluster_t);

        if (!strncmp(cluster->brokers, target->brokers,
                     sizeof(target->brokers) - 1)) {
            plan.kafka = cluster->kafka;
            plan.topic = apr_pstrdup(p, target->topic);
            break;
        }
    }
    if (target->topic[0] && !plan.kafka) {
        return apr_psprintf(p,
                            "they are for topic %s of %s, and no server has "
                            "these UsageKafkaBrokers",
                            target->topic, target->brokers);
    }
    /* The name is from a file that httpd's children can write to, and the
     * parent may be root: it opens only what the configuration names. */
    for (i = 0; target->event_file[0] && i < setup->plans->nelts; i++) {
        const char *file =
            APR_ARRAY_IDX(setup->plans, i, ue_producer_plan_t).event_file;

        if (file && !strcmp(file, target->event_file)) {
            plan.event_file = file;
        }
    }
    if (target->event_file[0] && !plan.event_file) {
        return apr_psprintf(p,
                            "they are for %s, and no server has this "
                            "UsageEventFile",
                            target->event_file);
    }
    APR_ARRAY_PUSH(setup->plans, ue_producer_plan_t) = plan;
    return NULL;
}

static int same_sinks(const ue_producer_plan_t *a, const ue_producer_plan_t *b)
{
    return a->kafka == b->kafka && !a->event_file == !b->event_file
           && (!a->kafka || !strcmp(a->topic, b->topic))
           && (!a->event_file || !strcmp(a->event_file, b->event_file));
}

/** Find the plan with these sinks and settings, or make it. */
static const char *plan_producer(ue_setup_t *setup, ue_server_t *server,
                                 const ue_conf_t *conf, apr_pool_t *p)
{
    ue_producer_plan_t plan;
    const char *error;
    int i;

    memset(&plan, 0, sizeof(plan));
    error = plan_settings(&plan.config, conf, p);
    if (!error) {
        error = plan_kafka(setup, &plan, conf, p);
    }
    if (error) {
        return error;
    }
    error = judge_spool(setup, &plan.config, p);
    if (error) {
        return error;
    }
    plan.event_file = conf->event_file;
    name_target(setup, &plan);
    if (!plan.event_file && !plan.kafka) {
        return "UsageEvents On needs a place for the events: "
               "UsageKafkaBrokers, such as UsageKafkaBrokers localhost:9092 "
               "(unless UsageKafka or KAFKA_ENABLED turns Kafka off), or "
               "UsageEventFile, such as UsageEventFile "
               "logs/usage-events.jsonl";
    }
    for (i = 0; i < setup->plans->nelts; i++) {
        const ue_producer_plan_t *old =
            &APR_ARRAY_IDX(setup->plans, i, ue_producer_plan_t);

        if (same_sinks(old, &plan)
            && same_settings(&old->config, &plan.config)) {
            server->producer = i;
            return NULL;
        }
        if (old->event_file && plan.event_file
            && !strcmp(old->event_file, plan.event_file)) {
            return apr_psprintf(
                p,
                "UsageEventFile %s is named by two servers "
                "with different UsageKafka..., "
                "UsageSpool or UsageJournalSlots; give both the same, or "
                "each a file of its own, such as %s.2",
                plan.event_file, plan.event_file);
        }
    }
    server->producer = setup->plans->nelts;
    APR_ARRAY_PUSH(setup->plans, ue_producer_plan_t) = plan;
    return NULL;
}

#define OR(value, otherwise) ((value) != UE_UNSET ? (value) : (otherwise))

static void plan_store(ue_store_plan_t *plan, const ue_conf_t *conf)
{
    static const ue_keycache_conf_t unset = {UE_UNSET, UE_UNSET, UE_UNSET,
                                             UE_UNSET};
    const ue_keycache_conf_t *cache =
        conf->key_cache ? conf->key_cache : &unset;

    plan->options.ttl = OR(cache->ttl, KEY_TTL);
    plan->options.negative = OR(cache->negative, KEY_NEGATIVE);
    plan->options.stale = OR(cache->stale, KEY_STALE);
    plan->options.size = (uint32_t)OR(cache->size, KEY_CACHE_SIZE);
    if (conf->key_secret) {
        plan->secret_file = conf->key_secret->file;
        plan->options.secret = conf->key_secret->secret;
    }
}

static int same_store(const ue_store_plan_t *a, const ue_store_plan_t *b)
{
    return a->options.ttl == b->options.ttl
           && a->options.negative == b->options.negative
           && a->options.stale == b->options.stale
           && a->options.size == b->options.size
           && !a->secret_file == !b->secret_file
           && (!a->secret_file || !strcmp(a->secret_file, b->secret_file));
}

/** A store is known by its URL, also over a restart, which may change all else:
 * what it has cached stays. So two servers must mean the same by it. */
static const char *find_store(ue_setup_t *setup, ue_server_t *server,
                              const ue_conf_t *conf, apr_pool_t *p)
{
    const char *text = variable("DATABASE_URL");
    ue_store_plan_t plan = {conf->keystore_url, NULL, {0}};
    const char *error = NULL;

    if (!plan.url && text) {
        error = ue_keystore_url_parse(&plan.url, "UsageKeyStore (DATABASE_URL)",
                                      text, p);
    }
    server->store = -1;
    if (error || !plan.url) {
        return error || !server->rule.required
                   ? error
                   : "UsageKeyRequired On needs UsageKeyStore, such as "
                     "file:conf/keys.json (made by usagectl key create), or "
                     "UsageKeyRequired Off";
    }
    plan_store(&plan, conf);
    for (server->store = 0; server->store < setup->stores->nelts;
         server->store++) {
        const ue_store_plan_t *old =
            &APR_ARRAY_IDX(setup->stores, server->store, ue_store_plan_t);

        if (!strcmp(old->url, plan.url)) {
            return same_store(old, &plan)
                       ? NULL
                       : apr_psprintf(p,
                                      "UsageKeyStore %s is named by two "
                                      "servers with different UsageKeyCache "
                                      "or UsageKeySecret; give both the same",
                                      ue_keystore_name(plan.url, p));
        }
    }
    APR_ARRAY_PUSH(setup->stores, ue_store_plan_t) = plan;
    return NULL;
}

/** A virtual host's own limits count apart, under its name, which is the same
 * on all gateways. */
static uint16_t limit_scope(const server_rec *s, apr_pool_t *p)
{
    const char *name = apr_psprintf(
        p, "%s:%u", s->server_hostname ? s->server_hostname : "", s->port);

    return (uint16_t)(1 + ue_crc32c(0, name, strlen(name)) % UINT16_MAX);
}

static void resolve_limits(ue_server_t *server, const ue_conf_t *conf,
                           const server_rec *s, apr_pool_t *p)
{
    int i;

    server->limits.failure =
        (ue_limitfailure_t)OR(conf->limit_failure, UE_LIMIT_LOCAL);
    server->limits.is_dry = OR(conf->limit_dry_run, 0);
    if (!conf->rate_limits) {
        return;
    }
    server->limits.limits = (const ue_limit_t *)conf->rate_limits->elts;
    server->limits.count = (size_t)conf->rate_limits->nelts;
    for (i = 0;
         s->is_virtual && conf->has_own_limits && i < conf->rate_limits->nelts;
         i++) {
        APR_ARRAY_IDX(conf->rate_limits, i, ue_limit_t).scope =
            limit_scope(s, p);
    }
}

static const char *resolve_server(ue_setup_t *setup, ue_conf_t *conf,
                                  const server_rec *s, apr_pool_t *p)
{
    ue_server_t *server = apr_pcalloc(p, sizeof(*server));
    const char *why;
    const char *error;

    conf->server = server;
    server->store = -1;
    server->enabled = OR(conf->enabled, 0);
    if (!server->enabled) {
        return NULL;
    }
    setup->enabled = 1;
    if (conf->exempt) {
        server->exempt = (const char *const *)conf->exempt->elts;
        server->exempt_count = (size_t)conf->exempt->nelts;
    }
    server->exempt_preflight = OR(conf->exempt_preflight, 0);
    server->trust_request_id = OR(conf->trust_request_id, 0);
    server->rule.required = OR(conf->key_required, 1);
    server->key_hide = OR(conf->key_hide, 1);
    server->key_header =
        conf->key_header ? *conf->key_header : default_key_header;
    server->overflow = (ue_overflow_t)OR(conf->overflow, UE_OVERFLOW_DROP);
    resolve_limits(server, conf, s, p);
    if (conf->billable) {
        server->billable = *conf->billable;
    }
    else {
        ue_statusset_parse(&server->billable, UE_BILLABLE_STATUS_DEFAULT, &why);
    }
    error = find_store(setup, server, conf, p);
    return error ? error : plan_producer(setup, server, conf, p);
}

const char *ue_config_resolve(ue_setup_t **result, apr_pool_t *p,
                              apr_pool_t *ptemp, server_rec *main_server)
{
    ue_setup_t *setup = apr_pcalloc(p, sizeof(*setup));
    server_rec *s;

    setup->plans = apr_array_make(p, 2, sizeof(ue_producer_plan_t));
    setup->clusters = apr_array_make(p, 2, sizeof(ue_cluster_t));
    setup->stores = apr_array_make(p, 2, sizeof(ue_store_plan_t));
    for (s = main_server; s; s = s->next) {
        ue_conf_t *conf =
            ap_get_module_config(s->module_config, &usage_events_module);
        const char *error = resolve_server(setup, conf, s, p);

        if (error) {
            return s->is_virtual
                       ? apr_psprintf(p, "%s (virtual host at %s:%u)", error,
                                      s->defn_name ? s->defn_name : "?",
                                      s->defn_line_number)
                       : error;
        }
    }
    *result = setup;
    return NULL;
}

const ue_server_t *ue_config_server(const server_rec *s)
{
    const ue_conf_t *conf =
        ap_get_module_config(s->module_config, &usage_events_module);

    return conf->server;
}
