/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */

/**
 * The Kafka sink: one topic, a lane for each partition.
 */
#include "kafka_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include <apr_strings.h>

#include "uuid.h"

#define SCHEMA "1"
#define CONTENT_TYPE "application/json"
#define LOG_EVERY apr_time_from_sec(30)
#define PURGE_GRACE apr_time_from_msec(200) /* behind a deadline */

/* Notes within this time go together, in one request or two. More would wait
 * behind these: of a partition that has five requests unanswered, what waits
 * costs librdkafka a core. */
#define NOTES_TOGETHER apr_time_from_msec(5)

/* The key, the four headers with their names and lengths, and the 70 bytes
 * that librdkafka counts for a message of its own. */
#define OVERHEAD                                                           \
    (UE_UUID_LEN + sizeof("usage-stream") + 16 + sizeof("usage-seq") + 8   \
     + sizeof("usage-schema" SCHEMA) + sizeof("content-type" CONTENT_TYPE) \
     + 16 + 70)

/* ---- what the metadata says ---- */

/** Take over what was published since we last looked. */
static void look(kafka_topic_t *topic)
{
    uint32_t i;

    if (atomic_load(&topic->version) == topic->seen
        || pthread_mutex_trylock(&topic->mutex) != 0) {
        return;
    }
    topic->seen = atomic_load(&topic->version);
    topic->is_usable = topic->usable;
    topic->lane_count = topic->leader_count;
    /* Never fewer: a batch may be under way in those that are gone. */
    if (topic->leader_count > topic->partition_count) {
        topic->partitions =
            realloc(topic->partitions,
                    topic->leader_count * sizeof(*topic->partitions));
        if (!topic->partitions) {
            abort();
        }
        for (i = topic->partition_count; i < topic->leader_count; i++) {
            topic->partitions[i] = (kafka_partition_t){-1, 0, 0, 0, NULL};
        }
        topic->partition_count = topic->leader_count;
    }
    for (i = 0; i < topic->leader_count; i++) {
        topic->partitions[i].leader = topic->leaders[i];
    }
    pthread_mutex_unlock(&topic->mutex);
}

static uint32_t lanes(ue_sink_t *sink)
{
    return ((kafka_topic_t *)sink)->lane_count;
}

static uint32_t answers(ue_sink_t *sink)
{
    kafka_topic_t *topic = (kafka_topic_t *)sink;

    atomic_store(&topic->kafka->hurry, 1);
    return topic->seen;
}

static uint32_t lane_of(const ue_uuid_t *organization_id, uint32_t count)
{
    char key[UE_UUID_LEN];

    ue_uuid_write(organization_id, key);
    return (uint32_t)crc32(0, (const Bytef *)key, UE_UUID_LEN) % count;
}

static uint32_t credit_of(const kafka_topic_t *topic, uint32_t lane)
{
    return (uint32_t)(topic->partitions[lane].leader + 1) % UE_KAFKA_BROKERS;
}

static int has_room(ue_sink_t *sink, uint32_t lane)
{
    const kafka_topic_t *topic = (kafka_topic_t *)sink;
    const ue_kafka_t *kafka = topic->kafka;

    return topic->is_usable && !atomic_load(&kafka->broken)
           && atomic_load(&kafka->credits[credit_of(topic, lane)])
                  < UE_KAFKA_CREDIT;
}

/* ---- out ---- */

/** @param json the record's, which stays where it is until it is reported */
static rd_kafka_resp_err_t produce(const kafka_topic_t *topic,
                                   const ue_sink_batch_t *batch,
                                   const ue_sink_record_t *record, char *json)
{
    uint64_t whose = UE_WHOSE(topic->index, batch->lane, record->ref);
    uint8_t number[8];
    int i;

    for (i = 0; i < 8; i++) {
        number[i] = (uint8_t)(record->number >> (56 - 8 * i));
    }
    return rd_kafka_producev(
        topic->kafka->rk, RD_KAFKA_V_RKT(topic->rkt),
        RD_KAFKA_V_PARTITION((int32_t)batch->lane), RD_KAFKA_V_MSGFLAGS(0),
        RD_KAFKA_V_KEY((void *)(uintptr_t)record->organization, UE_UUID_LEN),
        RD_KAFKA_V_VALUE(json, record->len),
        RD_KAFKA_V_OPAQUE((void *)(uintptr_t)whose),
        RD_KAFKA_V_HEADER("usage-stream", record->stream->b,
                          sizeof(record->stream->b)),
        RD_KAFKA_V_HEADER("usage-seq", number, sizeof(number)),
        RD_KAFKA_V_HEADER("usage-schema", SCHEMA, sizeof(SCHEMA) - 1),
        RD_KAFKA_V_HEADER("content-type", CONTENT_TYPE,
                          sizeof(CONTENT_TYPE) - 1),
        RD_KAFKA_V_END);
}

/** Something is to be sent again; maybe the metadata says why. */
static void note_failed(kafka_topic_t *topic, rd_kafka_resp_err_t error)
{
    topic->failed++;
    topic->why_failed = error;
    atomic_store(&topic->kafka->hurry, 1);
}

/** librdkafka did not take an event. @return what the producer is told */
static apr_status_t not_taken(kafka_topic_t *topic, rd_kafka_resp_err_t error)
{
    ue_kafka_t *kafka = topic->kafka;

    switch (error) {
    case RD_KAFKA_RESP_ERR__QUEUE_FULL:
    case RD_KAFKA_RESP_ERR__FATAL: /* the next poll tells why */
        return APR_EAGAIN;
    case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
    case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
        topic->is_usable = 0;
        atomic_store(&kafka->hurry, 1);
        return APR_EAGAIN;
    default:
        note_failed(topic, error);
        return APR_EGENERAL;
    }
}

/** The batch's JSON in memory of its own. librdkafka could copy it event by
 * event; in one piece it costs a fifth less, since what librdkafka allocates
 * for each is small then (bench/kafka). */
static char *copy_json(const ue_sink_batch_t *batch)
{
    const ue_sink_record_t *last = &batch->records[batch->count - 1];
    size_t len = (size_t)(last->json + last->len - batch->records[0].json);
    char *json = malloc(len);

    return json ? memcpy(json, batch->records[0].json, len) : NULL;
}

static apr_status_t submit(ue_sink_t *sink, const ue_sink_batch_t *batch,
                           size_t *taken)
{
    kafka_topic_t *topic = (kafka_topic_t *)sink;
    kafka_partition_t *partition = &topic->partitions[batch->lane];
    char *json = copy_json(batch);
    apr_status_t rv = APR_SUCCESS;
    size_t n = 0;

    *taken = 0;
    if (!json || pthread_rwlock_tryrdlock(&topic->kafka->lock) != 0) {
        free(json);
        return APR_EAGAIN;
    }
    while (n < batch->count && rv == APR_SUCCESS) {
        const ue_sink_record_t *record = &batch->records[n];
        rd_kafka_resp_err_t error =
            produce(topic, batch, record,
                    json + (record->json - batch->records[0].json));

        if (error == RD_KAFKA_RESP_ERR_NO_ERROR) {
            n++;
        }
        else {
            rv = not_taken(topic, error);
        }
    }
    pthread_rwlock_unlock(&topic->kafka->lock);
    if (n) {
        partition->json = json;
        partition->size = (uint32_t)n;
        partition->left = (uint32_t)n;
        partition->credit = credit_of(topic, batch->lane);
        atomic_fetch_add(&topic->kafka->credits[partition->credit], 1);
        topic->under_way += (uint32_t)n;
    }
    else {
        free(json);
    }
    *taken = n;
    return rv;
}

/* ---- the ledger ---- */

static int has_room_for_note(const kafka_topic_t *topic, apr_time_t now)
{
    const kafka_ledger_t *ledger = &topic->ledger;

    return atomic_load(&ledger->is_there) && !atomic_load(&topic->kafka->broken)
           && ledger->under_way < UE_NOTES_MAX
           && (ledger->under_way == 0 || now - ledger->since < NOTES_TOGETHER);
}

static void note_not_stored(kafka_ledger_t *ledger, rd_kafka_resp_err_t error)
{
    ledger->failed++;
    ledger->why_failed = error;
}

/** librdkafka did not take a note. @return what the producer is told */
static apr_status_t note_not_taken(kafka_ledger_t *ledger,
                                   rd_kafka_resp_err_t error)
{
    switch (error) {
    case RD_KAFKA_RESP_ERR__QUEUE_FULL:
    case RD_KAFKA_RESP_ERR__FATAL:
        return APR_EAGAIN;
    case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
    case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
        atomic_store(&ledger->is_there, 0);
        return APR_EAGAIN;
    default:
        note_not_stored(ledger, error);
        return APR_EGENERAL;
    }
}

static apr_status_t note(ue_sink_t *sink, const char *key, size_t key_len,
                         const char *value, size_t value_len, uint32_t cookie)
{
    kafka_topic_t *topic = (kafka_topic_t *)sink;
    kafka_ledger_t *ledger = &topic->ledger;
    uint64_t whose = UE_WHOSE(topic->index, UE_NOTE_LANE, cookie);
    apr_time_t now = ue_monotonic();
    rd_kafka_resp_err_t error;

    if (!has_room_for_note(topic, now)
        || pthread_rwlock_tryrdlock(&topic->kafka->lock) != 0) {
        return APR_EAGAIN;
    }
    error =
        rd_kafka_producev(topic->kafka->rk, RD_KAFKA_V_TOPIC(ledger->name),
                          RD_KAFKA_V_PARTITION(RD_KAFKA_PARTITION_UA),
                          RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
                          RD_KAFKA_V_KEY((void *)(uintptr_t)key, key_len),
                          RD_KAFKA_V_VALUE((void *)(uintptr_t)value, value_len),
                          RD_KAFKA_V_OPAQUE((void *)(uintptr_t)whose),
                          RD_KAFKA_V_HEADER("content-type", CONTENT_TYPE,
                                            sizeof(CONTENT_TYPE) - 1),
                          RD_KAFKA_V_END);
    pthread_rwlock_unlock(&topic->kafka->lock);
    if (error != RD_KAFKA_RESP_ERR_NO_ERROR) {
        return note_not_taken(ledger, error);
    }
    if (ledger->under_way++ == 0) {
        ledger->since = now;
    }
    return APR_SUCCESS;
}

static void settle_note(kafka_topic_t *topic, const kafka_report_t *report)
{
    kafka_ledger_t *ledger = &topic->ledger;
    int is_stored = report->error == RD_KAFKA_RESP_ERR_NO_ERROR;

    ledger->under_way--;
    if (!is_stored) {
        note_not_stored(ledger, report->error);
    }
    if (report->error == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC
        || report->error == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION
        || report->error == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) {
        atomic_store(&ledger->is_there, 0);
    }
    topic->owner.noted(topic->owner.baton, report->ref, is_stored);
}

/* ---- back ---- */

static ue_outcome_t outcome_of(const ue_kafka_t *kafka,
                               const kafka_report_t *report)
{
    switch (report->error) {
    case RD_KAFKA_RESP_ERR_NO_ERROR:
        return UE_DELIVERED;
    case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
    case RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE:
    case RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE:
    case RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP:
    case RD_KAFKA_RESP_ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT:
    case RD_KAFKA_RESP_ERR_POLICY_VIOLATION:
    case RD_KAFKA_RESP_ERR_INVALID_RECORD:
        /* Kafka refuses a whole batch for one event in it. */
        return UE_TOO_LARGE;
    case RD_KAFKA_RESP_ERR__MSG_TIMED_OUT:
        if (kafka->expires) {
            return UE_EXPIRED;
        }
        break;
    default:
        break;
    }
    return report->status == RD_KAFKA_MSG_STATUS_NOT_PERSISTED ? UE_UNSENT
                                                               : UE_UNKNOWN;
}

void ue_kafka_settle(kafka_topic_t *topic, const kafka_report_t *report)
{
    ue_kafka_t *kafka = topic->kafka;
    kafka_partition_t *partition;
    ue_outcome_t outcome;

    if (report->partition == UE_NOTE_LANE) {
        settle_note(topic, report);
        return;
    }
    partition = &topic->partitions[report->partition];
    outcome = outcome_of(kafka, report);
    if (outcome == UE_TOO_LARGE && partition->size == 1) {
        outcome = UE_REFUSED;
    }
    if (--partition->left == 0) {
        free(partition->json);
        partition->json = NULL;
        atomic_fetch_sub(&kafka->credits[partition->credit], 1);
    }
    topic->under_way--;
    switch (outcome) {
    case UE_DELIVERED:
        break;
    case UE_REFUSED:
    case UE_EXPIRED:
        topic->lost++;
        topic->why_lost = report->error;
        break;
    default:
        note_failed(topic, report->error);
    }
    topic->owner.report(topic->owner.baton, report->partition, report->ref,
                        outcome);
}

/** Take what another worker has polled for us. */
static void open_mail(kafka_topic_t *topic)
{
    kafka_report_t *reports;
    uint32_t count, i;

    if (!atomic_load(&topic->has_mail)
        || pthread_mutex_trylock(&topic->mutex) != 0) {
        return;
    }
    reports = topic->inbox;
    count = topic->inbox_count;
    topic->inbox = NULL;
    topic->inbox_count = topic->inbox_room = 0;
    atomic_store(&topic->has_mail, 0);
    pthread_mutex_unlock(&topic->mutex);
    for (i = 0; i < count; i++) {
        ue_kafka_settle(topic, &reports[i]);
    }
    free(reports);
}

/** Say what failed since the last line about it, if that was long ago. What is
 * not said now is counted in the next line. */
static void say_failed(kafka_topic_t *topic)
{
    kafka_limits_t *limits = topic->kafka->limits;
    apr_time_t now = ue_monotonic();
    uint32_t held;

    /* At the end the producer says what is left. */
    if (topic->failed && !topic->has_ended
        && ue_log_limit_pass(&limits->retried, now, LOG_EVERY, &held)) {
        ue_log(UE_LOG_WARNING, APR_SUCCESS,
               "UE0408: kafka: delivery failed: topic=%s events=%u: %s; they "
               "are sent again",
               topic->name, topic->failed, rd_kafka_err2str(topic->why_failed));
        topic->failed = 0;
    }
    if (topic->lost
        && ue_log_limit_pass(&limits->refused, now, LOG_EVERY, &held)) {
        ue_log(UE_LOG_ERR, APR_SUCCESS,
               "UE0409: kafka: events lost: topic=%s events=%u: %s",
               topic->name, topic->lost, rd_kafka_err2str(topic->why_lost));
        topic->lost = 0;
    }
    if (topic->ledger.failed
        && ue_log_limit_pass(&limits->notes, now, LOG_EVERY, &held)) {
        ue_log(UE_LOG_WARNING, APR_SUCCESS,
               "UE0411: kafka: not written to the ledger: topic=%s records=%u: "
               "%s",
               topic->ledger.name, topic->ledger.failed,
               rd_kafka_err2str(topic->ledger.why_failed));
        topic->ledger.failed = 0;
    }
}

static void poll_topic(ue_sink_t *sink, apr_time_t now)
{
    kafka_topic_t *topic = (kafka_topic_t *)sink;
    int connected;

    ue_kafka_poll(topic->kafka, topic);
    open_mail(topic);
    look(topic);
    say_failed(topic);
    connected = atomic_load(&topic->kafka->connected);
    if (connected != topic->was_connected) {
        topic->was_connected = connected;
        topic->owner.connected(topic->owner.baton, connected);
    }
}

static int is_under_way(const kafka_topic_t *topic)
{
    return topic->under_way || topic->ledger.under_way;
}

/** Poll until all is reported. */
static void bring_home(kafka_topic_t *topic, apr_time_t until)
{
    while (is_under_way(topic) && ue_monotonic() < until) {
        poll_topic(&topic->base, ue_monotonic());
        apr_sleep(apr_time_from_msec(1));
    }
}

static apr_status_t flush(ue_sink_t *sink, apr_time_t deadline)
{
    kafka_topic_t *topic = (kafka_topic_t *)sink;

    bring_home(topic, deadline);
    if (!topic->has_ended) {
        topic->has_ended = 1;
        topic->is_last = ue_kafka_end(topic->kafka);
    }
    if (is_under_way(topic)) {
        /* What was not sent yet is told from what is on its way. But a purge is
         * the whole cluster's: another topic that still delivers would send
         * again what had arrived. */
        if (topic->is_last) {
            ue_kafka_purge(topic->kafka);
        }
        bring_home(topic, ue_monotonic() + PURGE_GRACE);
    }
    return is_under_way(topic) ? APR_TIMEUP : APR_SUCCESS;
}

static apr_status_t start(ue_sink_t *sink, const ue_sink_owner_t *owner)
{
    kafka_topic_t *topic = (kafka_topic_t *)sink;

    topic->owner = *owner;
    return ue_kafka_start(topic->kafka);
}

static const ue_sink_vtable_t kafka_vtable = {
    .name = "kafka",
    .numbered = 1,
    .batch_events = UE_KAFKA_BATCH_EVENTS,
    .batch_bytes = UE_KAFKA_BATCH_BYTES,
    .event_overhead = OVERHEAD,
    .start = start,
    .lanes = lanes,
    .answers = answers,
    .lane_of = lane_of,
    .has_room = has_room,
    .submit = submit,
    .poll = poll_topic,
    .note = note,
    .flush = flush};

apr_status_t ue_sink_kafka_open(ue_sink_t **sink, ue_kafka_t *kafka,
                                const char *name, apr_pool_t *p)
{
    kafka_topic_t *topic = apr_pcalloc(p, sizeof(*topic));

    if (kafka->topic_count == UE_KAFKA_TOPICS_MAX) {
        return APR_ENOSPC;
    }
    topic->base.vtable = &kafka_vtable;
    topic->kafka = kafka;
    topic->name = apr_pstrdup(p, name);
    topic->ledger.name = apr_pstrcat(p, name, UE_LEDGER_SUFFIX, NULL);
    topic->index = kafka->topic_count;
    pthread_mutex_init(&topic->mutex, NULL);
    kafka->topics[kafka->topic_count++] = topic;
    *sink = &topic->base;
    return APR_SUCCESS;
}
