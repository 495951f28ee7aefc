/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */

/**
 * The topic of a ledger: finding it, making it, and how long it remembers.
 *
 * It must be compacted. Where a client names a topic that isn't there while it
 * asks for metadata, a broker with auto.create.topics.enable makes it, with
 * cleanup.policy=delete, and the ledger would forget after seven days. So
 * nothing names it in such a request, or writes to it, before it was seen:
 *
 * - Its settings are asked for, which makes nothing. They tell how it is kept,
 *   too.
 * - Where they can't be had, it is made. That it is there already is as good an
 *   answer: other children make it at the same time.
 * - Where that fails, it is looked for in the list of all topics, which has
 *   those that we may write to. That list may be long, so it comes last.
 *
 * The thread usage-kafka does it, a step at a time, and waits for none of the
 * answers but the list: events need what it learns about their own topics. It
 * begins when the events' topic can be written to, and goes on until the
 * ledger's is there; then it looks at times whether it still is.
 */
#include "kafka_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <apr_strings.h>

#define SAY_EVERY apr_time_from_sec(600)
#define LOOK_EVERY apr_time_from_sec(600)
#define PAUSE apr_time_from_sec(10) /* behind a failure; later up to: */
#define PAUSE_MAX apr_time_from_sec(60)
#define PASSING 3        /* failures that go by without a line */
#define REQUEST_MS 15000 /* until an answer is given up */
#define MAKE_MS 10000    /* that Kafka takes to tell its brokers */
#define LIST_MS 5000

/* ---- what comes of it ---- */

static void say_not_made(kafka_topic_t *topic)
{
    ue_kafka_t *kafka = topic->kafka;
    char text[REASON_MAX + 700];

    snprintf(text, sizeof(text),
             "ledger topic %s can't be made: %s; run usagectl init-kafka, and "
             "grant Write on it, or grant Create; events go on, but nothing "
             "proves that none is missing",
             topic->ledger.name, topic->ledger.why);
    ue_kafka_say(kafka, &kafka->limits->no_ledger[topic->index], SAY_EVERY,
                 UE_LOG_ERR, "UE0412", text);
}

static void say_forgetful(kafka_topic_t *topic, const char *policy)
{
    ue_kafka_t *kafka = topic->kafka;
    char text[REASON_MAX];

    snprintf(text, sizeof(text),
             "ledger topic %s has cleanup.policy=%s and forgets; compact would "
             "be right",
             topic->ledger.name, policy);
    ue_kafka_say(kafka, &kafka->limits->forgetful[topic->index], SAY_EVERY,
                 UE_LOG_WARNING, "UE0413", text);
}

/** It may be named from now on. librdkafka learns its leaders before the first
 * record comes, which might be a child's last. */
static void is_there(kafka_topic_t *topic)
{
    rd_kafka_topic_t *rkt =
        rd_kafka_topic_new(topic->kafka->rk, topic->ledger.name, NULL);

    if (rkt) {
        rd_kafka_topic_destroy(rkt);
    }
    topic->ledger.step = LEDGER_LOOK;
    topic->ledger.failures = 0;
    atomic_store(&topic->ledger.is_there, 1);
}

/** Is it likely to go by itself? */
static int is_passing(rd_kafka_resp_err_t error)
{
    switch (error) {
    case RD_KAFKA_RESP_ERR__TRANSPORT:
    case RD_KAFKA_RESP_ERR__TIMED_OUT:
    case RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE:
    case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
    case RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT:
    case RD_KAFKA_RESP_ERR_NOT_CONTROLLER:
        return 1;
    default:
        return 0;
    }
}

/** It can't be seen or made so. The list of all topics may have it. */
static void fail(kafka_topic_t *topic, rd_kafka_resp_err_t error,
                 const char *text)
{
    topic->ledger.step = LEDGER_LIST;
    topic->ledger.error = error;
    apr_cpystrn(topic->ledger.why, text ? text : rd_kafka_err2str(error),
                sizeof(topic->ledger.why));
}

/** It isn't in the list either: begin anew after a while. */
static void retry(kafka_topic_t *topic)
{
    topic->ledger.step = LEDGER_LOOK;
    topic->ledger.failures++;
    if (!is_passing(topic->ledger.error) || topic->ledger.failures > PASSING) {
        say_not_made(topic);
    }
}

/* ---- questions ---- */

static rd_kafka_AdminOptions_t *options(kafka_topic_t *topic,
                                        rd_kafka_admin_op_t operation)
{
    rd_kafka_AdminOptions_t *o =
        rd_kafka_AdminOptions_new(topic->kafka->rk, operation);
    char why[64];

    rd_kafka_AdminOptions_set_request_timeout(o, REQUEST_MS, why, sizeof(why));
    if (operation == RD_KAFKA_ADMIN_OP_CREATETOPICS) {
        rd_kafka_AdminOptions_set_operation_timeout(o, MAKE_MS, why,
                                                    sizeof(why));
    }
    rd_kafka_AdminOptions_set_opaque(o, topic);
    topic->ledger.is_asked = 1;
    return o;
}

static void ask_settings(kafka_topic_t *topic, rd_kafka_ResourceType_t type,
                         const char *name)
{
    rd_kafka_AdminOptions_t *o =
        options(topic, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
    rd_kafka_ConfigResource_t *resource =
        rd_kafka_ConfigResource_new(type, name);

    rd_kafka_DescribeConfigs(topic->kafka->rk, &resource, 1, o,
                             topic->kafka->answers);
    rd_kafka_ConfigResource_destroy(resource);
    rd_kafka_AdminOptions_destroy(o);
}

/** As usagectl init-kafka makes it: one partition, so many copies as Kafka is
 * set to. */
static void ask_to_make(kafka_topic_t *topic)
{
    rd_kafka_AdminOptions_t *o;
    rd_kafka_NewTopic_t *new;
    char why[256];

    new = rd_kafka_NewTopic_new(topic->ledger.name, 1, -1, why, sizeof(why));
    if (!new) {
        fail(topic, RD_KAFKA_RESP_ERR__INVALID_ARG, why);
        return;
    }
    rd_kafka_NewTopic_set_config(new, "cleanup.policy", "compact");
    rd_kafka_NewTopic_set_config(new, "compression.type", "producer");
    if (topic->ledger.min_insync) {
        rd_kafka_NewTopic_set_config(new, "min.insync.replicas", "2");
    }
    o = options(topic, RD_KAFKA_ADMIN_OP_CREATETOPICS);
    rd_kafka_CreateTopics(topic->kafka->rk, &new, 1, o, topic->kafka->answers);
    rd_kafka_AdminOptions_destroy(o);
    rd_kafka_NewTopic_destroy(new);
}

/* ---- answers ---- */

/** @param value receives a copy of a setting; "": it wasn't told
 * @return       what is wrong with it all */
static rd_kafka_resp_err_t read_setting(rd_kafka_event_t *answer,
                                        const char *name, char *value,
                                        size_t size)
{
    rd_kafka_resp_err_t error = rd_kafka_event_error(answer);
    const rd_kafka_ConfigResource_t **found;
    const rd_kafka_ConfigEntry_t **entries;
    size_t n, i;

    *value = '\0';
    if (error != RD_KAFKA_RESP_ERR_NO_ERROR) {
        return error;
    }
    found = rd_kafka_DescribeConfigs_result_resources(
        rd_kafka_event_DescribeConfigs_result(answer), &n);
    if (n != 1) {
        return RD_KAFKA_RESP_ERR__BAD_MSG;
    }
    entries = rd_kafka_ConfigResource_configs(found[0], &n);
    for (i = 0; i < n; i++) {
        const char *text = rd_kafka_ConfigEntry_value(entries[i]);

        if (text && !strcmp(rd_kafka_ConfigEntry_name(entries[i]), name)) {
            apr_cpystrn(value, text, size);
        }
    }
    return rd_kafka_ConfigResource_error(found[0]);
}

static void hear_settings(kafka_topic_t *topic, rd_kafka_event_t *answer)
{
    kafka_ledger_t *ledger = &topic->ledger;
    char policy[64];
    rd_kafka_resp_err_t error =
        read_setting(answer, "cleanup.policy", policy, sizeof(policy));

    if (error == RD_KAFKA_RESP_ERR_NO_ERROR) {
        is_there(topic);
        if (*policy && strcmp(policy, "compact") != 0) {
            say_forgetful(topic, policy);
        }
    }
    else if (error == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) {
        atomic_store(&ledger->is_there, 0);
        ledger->step = topic->kafka->broker_count < UE_KAFKA_SAFE_COPIES
                           ? LEDGER_MAKE
                           : LEDGER_COPIES;
    }
    else if (atomic_load(&ledger->is_there)) {
        return;
    }
    else if (is_passing(error)) {
        fail(topic, error, NULL);
    }
    else {
        ledger->step = LEDGER_MAKE;
    }
}

/** How many must have a record before it counts. Where Kafka doesn't tell how
 * many copies it makes, its own min.insync.replicas stays. */
static void hear_copies(kafka_topic_t *topic, rd_kafka_event_t *answer)
{
    char copies[32];

    read_setting(answer, "default.replication.factor", copies, sizeof(copies));
    topic->ledger.min_insync = atoi(copies) >= UE_KAFKA_SAFE_COPIES ? 2 : 0;
    topic->ledger.step = LEDGER_MAKE;
}

static void hear_made(kafka_topic_t *topic, rd_kafka_event_t *answer)
{
    rd_kafka_resp_err_t error = rd_kafka_event_error(answer);
    const char *text = rd_kafka_event_error_string(answer);
    const rd_kafka_topic_result_t **results;
    size_t n;

    if (error == RD_KAFKA_RESP_ERR_NO_ERROR) {
        results = rd_kafka_CreateTopics_result_topics(
            rd_kafka_event_CreateTopics_result(answer), &n);
        error = n == 1 ? rd_kafka_topic_result_error(results[0])
                       : RD_KAFKA_RESP_ERR__BAD_MSG;
        text = n == 1 ? rd_kafka_topic_result_error_string(results[0]) : NULL;
    }
    if (error == RD_KAFKA_RESP_ERR_NO_ERROR) {
        ue_log(UE_LOG_NOTICE, APR_SUCCESS,
               "UE0414: kafka: ledger topic %s made", topic->ledger.name);
        is_there(topic);
    }
    else if (error == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS) {
        is_there(topic);
    }
    else {
        fail(topic, error, text);
    }
}

static void hear(rd_kafka_event_t *answer)
{
    kafka_topic_t *topic = rd_kafka_event_opaque(answer);

    if (!topic) {
        return;
    }
    topic->ledger.is_asked = 0;
    switch (topic->ledger.step) {
    case LEDGER_LOOK:
        hear_settings(topic, answer);
        break;
    case LEDGER_COPIES:
        hear_copies(topic, answer);
        break;
    case LEDGER_MAKE:
        hear_made(topic, answer);
        break;
    case LEDGER_LIST:
        break;
    }
}

/* ---- the list of all topics ---- */

static int has_topic(const struct rd_kafka_metadata *md, const char *name)
{
    int i;

    for (i = 0; i < md->topic_cnt; i++) {
        if (!strcmp(md->topics[i].topic, name)) {
            return md->topics[i].err == RD_KAFKA_RESP_ERR_NO_ERROR
                   || md->topics[i].err
                          == RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;
        }
    }
    return 0;
}

/** For all topics that want it. */
static void look_at_list(ue_kafka_t *kafka)
{
    const struct rd_kafka_metadata *md = NULL;
    uint32_t i;

    if (rd_kafka_metadata(kafka->rk, 1, NULL, &md, LIST_MS)
        != RD_KAFKA_RESP_ERR_NO_ERROR) {
        md = NULL;
    }
    for (i = 0; i < kafka->topic_count; i++) {
        kafka_topic_t *topic = kafka->topics[i];

        if (topic->ledger.step != LEDGER_LIST) {
            continue;
        }
        if (md && has_topic(md, topic->ledger.name)) {
            is_there(topic);
        }
        else {
            retry(topic);
        }
    }
    if (md) {
        rd_kafka_metadata_destroy(md);
    }
}

/* ---- a step ---- */

static apr_interval_time_t pause_of(const kafka_ledger_t *ledger)
{
    apr_interval_time_t pause = PAUSE;
    uint32_t i;

    if (atomic_load(&ledger->is_there)) {
        return LOOK_EVERY;
    }
    for (i = 1; i < ledger->failures && pause < PAUSE_MAX; i++) {
        pause *= 2;
    }
    return pause < PAUSE_MAX ? pause : PAUSE_MAX;
}

static int is_due(const kafka_topic_t *topic, apr_time_t now)
{
    const kafka_ledger_t *ledger = &topic->ledger;

    if (ledger->is_asked || !topic->usable) {
        return 0;
    }
    return ledger->step != LEDGER_LOOK || ledger->looked_at == 0
           || now - ledger->looked_at >= pause_of(ledger);
}

static void go_on(kafka_topic_t *topic, apr_time_t now)
{
    ue_kafka_t *kafka = topic->kafka;
    char broker[16];

    switch (topic->ledger.step) {
    case LEDGER_LOOK:
        topic->ledger.looked_at = now;
        topic->ledger.min_insync = 0;
        ask_settings(topic, RD_KAFKA_RESOURCE_TOPIC, topic->ledger.name);
        break;
    case LEDGER_COPIES:
        snprintf(broker, sizeof(broker), "%d", (int)kafka->some_broker);
        ask_settings(topic, RD_KAFKA_RESOURCE_BROKER, broker);
        break;
    case LEDGER_MAKE:
        ask_to_make(topic);
        break;
    case LEDGER_LIST:
        look_at_list(kafka);
        break;
    }
}

void ue_kafka_ledger_tend(ue_kafka_t *kafka)
{
    apr_time_t now = ue_monotonic();
    rd_kafka_event_t *answer;
    uint32_t i;

    if (!atomic_load(&kafka->connected) || atomic_load(&kafka->broken)
        || pthread_rwlock_tryrdlock(&kafka->lock) != 0) {
        return;
    }
    if (!kafka->answers) {
        kafka->answers = rd_kafka_queue_new(kafka->rk);
    }
    while ((answer = rd_kafka_queue_poll(kafka->answers, 0)) != NULL) {
        hear(answer);
        rd_kafka_event_destroy(answer);
    }
    for (i = 0; i < kafka->topic_count; i++) {
        if (is_due(kafka->topics[i], now)) {
            go_on(kafka->topics[i], now);
        }
    }
    pthread_rwlock_unlock(&kafka->lock);
}

void ue_kafka_ledger_forget(ue_kafka_t *kafka)
{
    uint32_t i;

    if (kafka->answers) {
        rd_kafka_queue_destroy(kafka->answers);
        kafka->answers = NULL;
    }
    for (i = 0; i < kafka->topic_count; i++) {
        kafka->topics[i]->ledger.is_asked = 0;
        kafka->topics[i]->ledger.step = LEDGER_LOOK;
    }
}
