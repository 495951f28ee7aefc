/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "kafka_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <apr_strings.h>
#include <openssl/x509_vfy.h>

#define LOG_EVERY apr_time_from_sec(30)
#define REACH_EVERY apr_time_from_sec(10)
#define METADATA_WAIT 5000 /* milliseconds */
#define ASK_SOON apr_time_from_msec(250)
#define REPLACE_EVERY apr_time_from_sec(5)
#define SILENT_TWICE 2 /* answers in a row that did not come */

/* ---- lines about the cluster ---- */

void ue_kafka_say(const ue_kafka_t *kafka, ue_log_limit_t *limit,
                  apr_interval_time_t every, ue_log_level_t level,
                  const char *number, const char *reason)
{
    char more[64] = "";
    uint32_t held;

    if (!ue_log_limit_pass(limit, ue_monotonic(), every, &held)) {
        return;
    }
    if (held) {
        snprintf(more, sizeof(more), " (%u such lines held back)", held);
    }
    ue_log(level, APR_SUCCESS, "%s: kafka: %s: %s%s", number, kafka->brokers,
           reason, more);
}

static void say(const ue_kafka_t *kafka, ue_log_limit_t *limit,
                ue_log_level_t level, const char *number, const char *reason)
{
    ue_kafka_say(kafka, limit, LOG_EVERY, level, number, reason);
}

/** No broker is within reach: said once, until one is again. */
static void note_down(ue_kafka_t *kafka, const char *reason)
{
    uint32_t held;

    atomic_store(&kafka->connected, 0);
    atomic_store(&kafka->hurry, 1);
    if (!atomic_load(&kafka->limits->down)
        && ue_log_limit_pass(&kafka->limits->reach, ue_monotonic(), REACH_EVERY,
                             &held)) {
        atomic_store(&kafka->limits->down, 1);
        ue_log(UE_LOG_ERR, APR_SUCCESS,
               "UE0401: kafka: %s cannot be reached: %s; events wait in their "
               "slots",
               kafka->brokers, reason);
    }
}

static void note_up(ue_kafka_t *kafka)
{
    if (!atomic_exchange(&kafka->connected, 1)) {
        ue_log(UE_LOG_INFO, APR_SUCCESS,
               "Connected to Kafka for usage tracking");
    }
    if (atomic_exchange(&kafka->limits->down, 0)) {
        ue_log(UE_LOG_NOTICE, APR_SUCCESS,
               "UE0402: kafka: %s can be reached again", kafka->brokers);
    }
}

/* ---- what librdkafka tells ---- */

/** How much of what librdkafka says can be shown. Of a wrong
 * sasl.oauthbearer.config it repeats the rest. */
static size_t shown(const char *text)
{
    const char *secret = strstr(text, "beginning at:");

    return secret ? (size_t)(secret - text) : strlen(text);
}

static void on_log(const rd_kafka_t *rk, int level, const char *facility,
                   const char *text)
{
    ue_log(UE_LOG_DEBUG, APR_SUCCESS, "librdkafka: %s: %.*s", facility,
           (int)shown(text), text);
}

/** What OpenSSL's numbers for a certificate mean to who set us up. */
static const char *certificate_trouble(int error)
{
    switch (error) {
    case X509_V_ERR_CERT_NOT_YET_VALID:
        return "it is not valid yet";
    case X509_V_ERR_CERT_HAS_EXPIRED:
        return "it has expired";
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
        return "it is from no authority in ssl.ca.location";
    case X509_V_ERR_CERT_REVOKED:
        return "it was revoked";
    case X509_V_ERR_INVALID_PURPOSE:
        return "it is not made for servers";
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        return "it is for another host";
    default:
        return "see X509_STORE_CTX_get_error(3)";
    }
}

/** librdkafka doesn't say why it takes no certificate.
 * @locality a thread of librdkafka */
static int on_certificate(rd_kafka_t *rk, const char *broker, int32_t id,
                          int *error, int depth, const char *der, size_t size,
                          char *why, size_t why_size, void *opaque)
{
    ue_kafka_t *kafka = opaque;

    if (*error) {
        atomic_store(&kafka->certificate, *error);
        snprintf(why, why_size, "%s", certificate_trouble(*error));
    }
    return !*error;
}

static void on_fatal(ue_kafka_t *kafka, rd_kafka_t *rk)
{
    char why[256], text[REASON_MAX];
    rd_kafka_resp_err_t error = rd_kafka_fatal_error(rk, why, sizeof(why));

    if (!atomic_exchange(&kafka->broken, 1)) {
        snprintf(text, sizeof(text),
                 "%s: %s; a new producer takes over, and sends again what was "
                 "not acknowledged%s",
                 rd_kafka_err2name(error), why,
                 error == RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED
                     ? ": grant Write on the topic (before Kafka 2.8 "
                       "IdempotentWrite on the cluster, too)"
                     : "");
        say(kafka, &kafka->limits->fatal, UE_LOG_ERR, "UE0406", text);
    }
}

static void on_tls(ue_kafka_t *kafka, const char *reason)
{
    static const char refused[] = "certificate verify failed";
    const char *at = strstr(reason, refused);

    if (at) {
        snprintf(kafka->reason, sizeof(kafka->reason), "%.*s: %s",
                 (int)(at - reason + sizeof(refused) - 1), reason,
                 certificate_trouble(atomic_load(&kafka->certificate)));
    }
    else {
        snprintf(kafka->reason, sizeof(kafka->reason), "%s%s", reason,
                 strstr(reason, "unexpected eof")
                     ? ": maybe no listener for TLS"
                     : "");
    }
    say(kafka, &kafka->limits->tls, UE_LOG_ERR, "UE0404", kafka->reason);
}

static void on_error(rd_kafka_t *rk, int error, const char *text, void *opaque)
{
    ue_kafka_t *kafka = opaque;
    char reason[REASON_MAX];

    apr_cpystrn(reason, text,
                shown(text) < sizeof(reason) ? shown(text) + 1
                                             : sizeof(reason));
    ue_log(UE_LOG_DEBUG, APR_SUCCESS, "kafka: %s: %s", kafka->brokers, reason);
    switch (error) {
    case RD_KAFKA_RESP_ERR__FATAL:
        on_fatal(kafka, rk);
        break;
    case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
        note_down(kafka, kafka->reason[0] ? kafka->reason : reason);
        break;
    case RD_KAFKA_RESP_ERR__AUTHENTICATION:
        apr_cpystrn(kafka->reason, reason, sizeof(kafka->reason));
        say(kafka, &kafka->limits->authentication, UE_LOG_ERR, "UE0403",
            reason);
        break;
    case RD_KAFKA_RESP_ERR__SSL:
        on_tls(kafka, reason);
        break;
    case RD_KAFKA_RESP_ERR__TRANSPORT:
        /* TLS 1.3 refuses a client's certificate after its handshake. */
        if (strstr(reason, "SSL routines")) {
            on_tls(kafka, reason);
            break;
        }
        /* fallthrough */
    case RD_KAFKA_RESP_ERR__RESOLVE:
    case RD_KAFKA_RESP_ERR__TIMED_OUT:
        /* One broker's; all together are another error. */
        apr_cpystrn(kafka->reason, reason, sizeof(kafka->reason));
        break;
    default:
        say(kafka, &kafka->limits->other, UE_LOG_WARNING, "UE0405", reason);
    }
}

/** Leave a report for the worker of another topic. */
static void post(kafka_topic_t *topic, const kafka_report_t *report)
{
    pthread_mutex_lock(&topic->mutex);
    if (topic->inbox_count == topic->inbox_room) {
        topic->inbox_room = topic->inbox_room ? topic->inbox_room * 2 : 256;
        topic->inbox =
            realloc(topic->inbox, topic->inbox_room * sizeof(*topic->inbox));
        if (!topic->inbox) {
            abort(); /* as APR and httpd do */
        }
    }
    topic->inbox[topic->inbox_count++] = *report;
    atomic_store(&topic->has_mail, 1);
    pthread_mutex_unlock(&topic->mutex);
}

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message,
                        void *opaque)
{
    ue_kafka_t *kafka = opaque;
    uint64_t whose = (uint64_t)(uintptr_t)message->_private;
    kafka_topic_t *topic = kafka->topics[UE_WHOSE_TOPIC(whose)];
    kafka_report_t report = {UE_WHOSE_SLOT(whose), UE_WHOSE_LANE(whose),
                             message->err, rd_kafka_message_status(message)};

    if (topic == kafka->poller) {
        ue_kafka_settle(topic, &report);
    }
    else {
        post(topic, &report);
    }
}

/* ---- the librdkafka producer ---- */

static int property_is(const rd_kafka_conf_t *conf, const char *name,
                       const char *wanted)
{
    char value[32];
    size_t size = sizeof(value);

    return rd_kafka_conf_get(conf, name, value, &size) == RD_KAFKA_CONF_OK
           && strcmp(value, wanted) == 0;
}

/** @return NULL where none could be made, which has been logged */
static rd_kafka_t *make_rk(ue_kafka_t *kafka)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_dup(kafka->conf);
    char why[256];
    rd_kafka_t *rk;

    rd_kafka_conf_set_opaque(conf, kafka);
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    rd_kafka_conf_set_error_cb(conf, on_error);
    rd_kafka_conf_set_log_cb(conf, on_log);
    if (!property_is(conf, "enable.ssl.certificate.verification", "false")) {
        rd_kafka_conf_set_ssl_cert_verify_cb(conf, on_certificate);
    }
    rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof(why));
    if (!rk) {
        rd_kafka_conf_destroy(conf);
        ue_log(UE_LOG_CRIT, APR_SUCCESS,
               "UE0400: kafka: %s: no producer could be made: %s",
               kafka->brokers, why);
    }
    kafka->made_at = ue_monotonic();
    return rk;
}

static int make_topics(ue_kafka_t *kafka)
{
    uint32_t i;

    for (i = 0; i < kafka->topic_count; i++) {
        kafka_topic_t *topic = kafka->topics[i];

        topic->rkt = rd_kafka_topic_new(kafka->rk, topic->name, NULL);
        if (!topic->rkt) {
            ue_log(UE_LOG_CRIT, APR_SUCCESS,
                   "UE0410: kafka: topic %s cannot be used: %s", topic->name,
                   rd_kafka_err2str(rd_kafka_last_error()));
            return 0;
        }
    }
    return 1;
}

static void *destroy(void *rk)
{
    rd_kafka_destroy(rk);
    return NULL;
}

/**
 * After a fatal error: call home what the old producer holds, and when all of
 * it has been reported, put a new one in its place. Polled until it is done.
 */
static void replace(ue_kafka_t *kafka)
{
    rd_kafka_t *old = kafka->rk;
    rd_kafka_t *new;
    uint32_t i;

    if (rd_kafka_outq_len(old) > 0) {
        ue_kafka_purge(kafka);
        return;
    }
    if (ue_monotonic() - kafka->made_at < REPLACE_EVERY
        || pthread_rwlock_trywrlock(&kafka->lock) != 0) {
        return;
    }
    new = make_rk(kafka);
    if (new) {
        for (i = 0; i < kafka->topic_count; i++) {
            rd_kafka_topic_destroy(kafka->topics[i]->rkt);
        }
        ue_kafka_ledger_forget(kafka);
        kafka->rk = new;
        if (!make_topics(kafka)) {
            abort(); /* it could be made before */
        }
        atomic_store(&kafka->hurry, 1);
        atomic_store(&kafka->broken, 0);
        ue_thread_start("usage-kafka-end", destroy, old);
    }
    pthread_rwlock_unlock(&kafka->lock);
}

void ue_kafka_poll(ue_kafka_t *kafka, kafka_topic_t *topic)
{
    if (atomic_flag_test_and_set(&kafka->polling)) {
        return;
    }
    kafka->poller = topic;
    if (pthread_rwlock_tryrdlock(&kafka->lock) == 0) {
        rd_kafka_poll(kafka->rk, 0);
        pthread_rwlock_unlock(&kafka->lock);
        if (atomic_load(&kafka->broken) && !atomic_load(&kafka->ending)) {
            replace(kafka);
        }
    }
    atomic_flag_clear(&kafka->polling);
}

int ue_kafka_end(ue_kafka_t *kafka)
{
    if (atomic_fetch_add(&kafka->ended, 1) + 1 < kafka->topic_count) {
        return 0;
    }
    atomic_store(&kafka->ending, 1);
    return 1;
}

void ue_kafka_purge(ue_kafka_t *kafka)
{
    if (pthread_rwlock_tryrdlock(&kafka->lock) == 0) {
        rd_kafka_purge(kafka->rk, RD_KAFKA_PURGE_F_QUEUE
                                      | RD_KAFKA_PURGE_F_INFLIGHT
                                      | RD_KAFKA_PURGE_F_NON_BLOCKING);
        pthread_rwlock_unlock(&kafka->lock);
    }
}

/* ---- metadata: how many partitions, who leads them ---- */

static void make_room(kafka_topic_t *topic, uint32_t count)
{
    topic->leaders = realloc(topic->leaders, count * sizeof(*topic->leaders));
    if (!topic->leaders) {
        abort();
    }
    topic->leader_count = count;
    memset(topic->leaders, -1, count * sizeof(*topic->leaders));
}

/** Tell the topic's worker what an answer says of it. */
static void publish(kafka_topic_t *topic, const rd_kafka_metadata_topic_t *md)
{
    uint32_t count = (uint32_t)md->partition_cnt;
    uint32_t i;

    pthread_mutex_lock(&topic->mutex);
    topic->usable = md->err == RD_KAFKA_RESP_ERR_NO_ERROR && count > 0;
    if (topic->usable) {
        make_room(topic, count);
        for (i = 0; i < count; i++) {
            const rd_kafka_metadata_partition_t *one = &md->partitions[i];

            if (one->id >= 0 && (uint32_t)one->id < count) {
                topic->leaders[one->id] = one->leader;
            }
        }
    }
    atomic_fetch_add(&topic->version, 1);
    pthread_mutex_unlock(&topic->mutex);
}

static void note_topic(kafka_topic_t *topic, rd_kafka_resp_err_t error)
{
    ue_kafka_t *kafka = topic->kafka;
    char why[400];

    /* A topic that was made a moment ago has no leaders yet. */
    if (error == RD_KAFKA_RESP_ERR_NO_ERROR
        || error == RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE) {
        return;
    }
    snprintf(why, sizeof(why), "topic %s: %s; events wait in their slots",
             topic->name, rd_kafka_err2str(error));
    say(kafka, &kafka->limits->topic, UE_LOG_ERR, "UE0407", why);
}

/**
 * Ask about one topic.
 * @param usable set where it can be written to
 * @return       whether there was an answer
 */
static rd_kafka_resp_err_t ask_about(kafka_topic_t *topic, int *usable)
{
    ue_kafka_t *kafka = topic->kafka;
    const struct rd_kafka_metadata *md;
    rd_kafka_resp_err_t error;

    if (pthread_rwlock_tryrdlock(&kafka->lock) != 0) {
        return RD_KAFKA_RESP_ERR__IN_PROGRESS;
    }
    error = rd_kafka_metadata(kafka->rk, 0, topic->rkt, &md, METADATA_WAIT);
    if (error == RD_KAFKA_RESP_ERR_NO_ERROR) {
        if (md->topic_cnt == 1) {
            *usable = md->topics[0].err == RD_KAFKA_RESP_ERR_NO_ERROR
                      && md->topics[0].partition_cnt > 0;
            note_topic(topic, md->topics[0].err);
            publish(topic, &md->topics[0]);
        }
        if (md->broker_cnt > 0) {
            kafka->broker_count = md->broker_cnt;
            kafka->some_broker = md->brokers[0].id;
        }
        rd_kafka_metadata_destroy(md);
    }
    pthread_rwlock_unlock(&kafka->lock);
    return error;
}

/** Ask about all topics. @return whether all can be written to */
static int ask(ue_kafka_t *kafka, int *silent)
{
    int all = 1;
    uint32_t i;

    for (i = 0; i < kafka->topic_count; i++) {
        int usable = 0;
        rd_kafka_resp_err_t error = ask_about(kafka->topics[i], &usable);

        if (error == RD_KAFKA_RESP_ERR_NO_ERROR) {
            note_up(kafka);
            *silent = 0;
        }
        else if (error != RD_KAFKA_RESP_ERR__IN_PROGRESS
                 && ++*silent == SILENT_TWICE) {
            note_down(kafka, rd_kafka_err2str(error));
        }
        all &= usable;
    }
    return all;
}

static void *watch_cluster(void *data)
{
    ue_kafka_t *kafka = data;
    int silent = 0;

    while (!atomic_load(&kafka->ending)) {
        apr_time_t next;

        atomic_store(&kafka->hurry, 0);
        next = ask(kafka, &silent) ? ue_monotonic() + kafka->refresh : 0;
        do {
            apr_sleep(ASK_SOON);
            ue_kafka_ledger_tend(kafka);
        } while (ue_monotonic() < next && !atomic_load(&kafka->hurry)
                 && !atomic_load(&kafka->ending));
    }
    return NULL;
}

/* ---- the beginning ---- */

apr_status_t ue_kafka_start(ue_kafka_t *kafka)
{
    apr_status_t rv;

    if (kafka->rk) {
        return APR_SUCCESS;
    }
    rv = pthread_rwlock_init(&kafka->lock, NULL);
    if (rv != APR_SUCCESS) {
        return rv;
    }
    kafka->rk = make_rk(kafka);
    if (!kafka->rk || !make_topics(kafka)) {
        return APR_EGENERAL;
    }
    return ue_thread_start("usage-kafka", watch_cluster, kafka);
}

static apr_status_t unmap(void *limits)
{
    munmap(limits, sizeof(kafka_limits_t));
    return APR_SUCCESS;
}

static long property(const rd_kafka_conf_t *conf, const char *name)
{
    char value[32];
    size_t size = sizeof(value);

    return rd_kafka_conf_get(conf, name, value, &size) == RD_KAFKA_CONF_OK
               ? atol(value)
               : 0;
}

apr_status_t ue_kafka_create(ue_kafka_t **result, const char *brokers,
                             const ue_kafka_option_t *options, int count,
                             const char *root, const char **why, apr_pool_t *p)
{
    ue_kafka_t *kafka = apr_pcalloc(p, sizeof(*kafka));
    apr_status_t rv =
        ue_kafka_conf_make(&kafka->conf, brokers, options, count, root, why, p);

    if (rv != APR_SUCCESS) {
        return rv;
    }
    kafka->brokers = apr_pstrdup(p, brokers);
    kafka->expires = property(kafka->conf, "message.timeout.ms") != 0;
    kafka->refresh = apr_time_from_msec(
        property(kafka->conf, "topic.metadata.refresh.interval.ms"));
    if (kafka->refresh < ASK_SOON) {
        kafka->refresh = apr_time_from_sec(10); /* -1: librdkafka's own off */
    }
    kafka->limits = mmap(NULL, sizeof(*kafka->limits), PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (kafka->limits == MAP_FAILED) {
        *why = "there is no shared memory";
        return errno;
    }
    apr_pool_cleanup_register(p, kafka->limits, unmap, apr_pool_cleanup_null);
    atomic_flag_clear(&kafka->polling);
    *result = kafka;
    return APR_SUCCESS;
}
