/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "kafka_ctl.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include <apr_strings.h>

#define CONNECT_TIME apr_time_from_sec(10)
#define VISIBLE_TIME apr_time_from_sec(10)
#define LOOK_MS 500
#define OPERATION_MS 10000
#define REQUEST_MS 15000

/* Reaching it ----------------------------------------------------------- */

/* Is it that the servers can't be reached, or do they say no? */
static int status_of(rd_kafka_resp_err_t err)
{
    switch (err) {
    case RD_KAFKA_RESP_ERR__TRANSPORT:
    case RD_KAFKA_RESP_ERR__RESOLVE:
    case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
    case RD_KAFKA_RESP_ERR__TIMED_OUT:
    case RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE:
    case RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT:
    case RD_KAFKA_RESP_ERR_NO_ERROR:
        return UE_CTL_OUT_OF_REACH;
    default:
        return UE_CTL_REFUSED;
    }
}

static int is_refusal(rd_kafka_resp_err_t err)
{
    return err == RD_KAFKA_RESP_ERR__AUTHENTICATION
           || err == RD_KAFKA_RESP_ERR__SSL
           || err == RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED
           || err == RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM
           || err == RD_KAFKA_RESP_ERR_ILLEGAL_SASL_STATE;
}

static void on_error(rd_kafka_t *rk, int err, const char *reason, void *opaque)
{
    ue_ctl_kafka_t *in = opaque;

    if (err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN) {
        in->all_down = 1;
    }
    else if (!is_refusal(in->trouble)) {
        in->trouble = err;
        apr_cpystrn(in->trouble_text, reason, sizeof in->trouble_text);
    }
}

/* What is worth telling comes by on_error() too. */
static void on_log(const rd_kafka_t *rk, int level, const char *facility,
                   const char *text)
{
}

int ue_ctl_kafka_client(ue_ctl_kafka_t *in,
                        const apr_array_header_t *properties)
{
    apr_pool_t *p = in->ctl->p;
    rd_kafka_conf_t *conf, *own;
    char text[512];
    const char *why;

    if (ue_kafka_conf_make(&conf, in->brokers,
                           (const ue_kafka_option_t *)properties->elts,
                           properties->nelts, NULL, &why, p)) {
        return ue_ctl_fail(in->ctl, UE_CTL_WRONG_USE, "%s", why);
    }
    own = rd_kafka_conf_dup(conf);
    /* An idempotent producer begins by asking for an id, which it may not be
     * allowed to have, and which nobody needs here. */
    if (rd_kafka_conf_set(own, "enable.idempotence", "false", text,
                          sizeof text)) {
        rd_kafka_conf_destroy(own);
        return ue_ctl_fail(in->ctl, UE_CTL_REFUSED, "%s", text);
    }
    rd_kafka_conf_set_opaque(own, in);
    rd_kafka_conf_set_error_cb(own, on_error);
    rd_kafka_conf_set_log_cb(own, on_log);
    in->rk = rd_kafka_new(RD_KAFKA_PRODUCER, own, text, sizeof text);
    if (!in->rk) {
        rd_kafka_conf_destroy(own);
        return ue_ctl_fail(in->ctl, UE_CTL_REFUSED,
                           "a client for Kafka can't be made: %s", text);
    }
    in->queue = rd_kafka_queue_new(in->rk);
    return UE_CTL_DONE;
}

static int say_unreachable(const ue_ctl_kafka_t *in)
{
    int refused = is_refusal(in->trouble);

    return ue_ctl_fail(in->ctl, refused ? UE_CTL_REFUSED : UE_CTL_OUT_OF_REACH,
                       "Kafka at %s %s%s%s", in->brokers,
                       refused ? "can't be used" : "is out of reach",
                       *in->trouble_text ? ": " : "", in->trouble_text);
}

/* All topics are asked for: asking for one that isn't there makes it, where
 * Kafka is set to do so. */
static int connect_to(ue_ctl_kafka_t *in, const rd_kafka_metadata_t **metadata)
{
    apr_time_t end = apr_time_now() + CONNECT_TIME;
    rd_kafka_resp_err_t err;

    do {
        err = rd_kafka_metadata(in->rk, 1, NULL, metadata, LOOK_MS);
        rd_kafka_poll(in->rk, 0);
        if (!err && (*metadata)->broker_cnt > 0) {
            return UE_CTL_DONE;
        }
        if (!err) {
            rd_kafka_metadata_destroy(*metadata);
        }
        else if (status_of(err) == UE_CTL_REFUSED) {
            return ue_ctl_fail(in->ctl, UE_CTL_REFUSED,
                               "Kafka doesn't list its topics: %s",
                               rd_kafka_err2str(err));
        }
        if (err == RD_KAFKA_RESP_ERR__TRANSPORT) {
            apr_sleep(apr_time_from_msec(50));
        }
    } while (apr_time_now() < end
             && !(in->all_down && is_refusal(in->trouble)));
    return say_unreachable(in);
}

/* What there is --------------------------------------------------------- */

static void read_topic(ue_ctl_topic_t *t, const rd_kafka_metadata_t *metadata)
{
    const rd_kafka_metadata_topic_t *found = NULL;
    int i;

    for (i = 0; i < metadata->topic_cnt && !found; i++) {
        if (!strcmp(metadata->topics[i].topic, t->name)) {
            found = &metadata->topics[i];
        }
    }
    t->partitions = 0;
    if (!found) {
        return;
    }
    t->partitions = found->partition_cnt;
    t->replication = INT_MAX;
    t->has_leaders = 1;
    for (i = 0; i < found->partition_cnt; i++) {
        if (found->partitions[i].replica_cnt < t->replication) {
            t->replication = found->partitions[i].replica_cnt;
        }
        if (found->partitions[i].leader < 0) {
            t->has_leaders = 0;
        }
    }
}

int ue_ctl_kafka_look(ue_ctl_kafka_t *in)
{
    const rd_kafka_metadata_t *metadata;
    int status = connect_to(in, &metadata), i;

    if (status) {
        return status;
    }
    in->broker_count = metadata->broker_cnt;
    in->broker = metadata->brokers[0].id;
    for (i = 0; i < 2; i++) {
        read_topic(&in->topic[i], metadata);
    }
    rd_kafka_metadata_destroy(metadata);
    return UE_CTL_DONE;
}

static rd_kafka_AdminOptions_t *admin_options(const ue_ctl_kafka_t *in,
                                              rd_kafka_admin_op_t operation)
{
    rd_kafka_AdminOptions_t *o = rd_kafka_AdminOptions_new(in->rk, operation);
    char text[64];

    rd_kafka_AdminOptions_set_request_timeout(o, REQUEST_MS, text, sizeof text);
    if (operation != RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS) {
        rd_kafka_AdminOptions_set_operation_timeout(o, OPERATION_MS, text,
                                                    sizeof text);
    }
    return o;
}

/* The answer to a request of the Admin API.
 * @param what it was, for messages */
static int await(ue_ctl_kafka_t *in, const char *what,
                 rd_kafka_event_t **answer)
{
    rd_kafka_event_t *ev = rd_kafka_queue_poll(in->queue, REQUEST_MS + 5000);
    rd_kafka_resp_err_t err =
        ev ? rd_kafka_event_error(ev) : RD_KAFKA_RESP_ERR__TIMED_OUT;
    int status = UE_CTL_DONE;

    if (err) {
        status = ue_ctl_fail(in->ctl, status_of(err), "%s: %s", what,
                             ev ? rd_kafka_event_error_string(ev)
                                : rd_kafka_err2str(err));
        if (ev) {
            rd_kafka_event_destroy(ev);
        }
        return status;
    }
    *answer = ev;
    return UE_CTL_DONE;
}

/* @param config receives NULL where Kafka doesn't let us see it */
int ue_ctl_kafka_describe(ue_ctl_kafka_t *in, rd_kafka_ResourceType_t type,
                          const char *name, apr_table_t **config)
{
    rd_kafka_ConfigResource_t *resource =
        rd_kafka_ConfigResource_new(type, name);
    rd_kafka_AdminOptions_t *o =
        admin_options(in, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
    const rd_kafka_ConfigResource_t **found;
    const rd_kafka_ConfigEntry_t **entries;
    rd_kafka_event_t *ev;
    size_t n, i;
    int status;

    rd_kafka_DescribeConfigs(in->rk, &resource, 1, o, in->queue);
    rd_kafka_AdminOptions_destroy(o);
    rd_kafka_ConfigResource_destroy(resource);
    *config = NULL;
    status = await(in, "Kafka doesn't tell its settings", &ev);
    if (status) {
        return status;
    }
    found = rd_kafka_DescribeConfigs_result_resources(
        rd_kafka_event_DescribeConfigs_result(ev), &n);
    if (n == 1 && !rd_kafka_ConfigResource_error(found[0])) {
        entries = rd_kafka_ConfigResource_configs(found[0], &n);
        *config = apr_table_make(in->ctl->p, 40);
        for (i = 0; i < n; i++) {
            const char *value = rd_kafka_ConfigEntry_value(entries[i]);

            apr_table_set(*config, rd_kafka_ConfigEntry_name(entries[i]),
                          value ? value : "");
        }
    }
    rd_kafka_event_destroy(ev);
    return UE_CTL_DONE;
}

/* What to make ---------------------------------------------------------- */

/* How many must have an event before it counts. Where Kafka's own number of
 * copies is to be taken and isn't told, its own min.insync.replicas stays. */
int ue_ctl_kafka_min_insync(ue_ctl_kafka_t *in)
{
    int copies = in->replication, status;
    apr_table_t *config;
    const char *own;

    in->min_insync = 0;
    if (in->broker_count < UE_KAFKA_SAFE_COPIES) {
        return UE_CTL_DONE;
    }
    if (copies < 0) {
        status =
            ue_ctl_kafka_describe(in, RD_KAFKA_RESOURCE_BROKER,
                                  apr_itoa(in->ctl->p, in->broker), &config);
        if (status) {
            return status;
        }
        own =
            config ? apr_table_get(config, "default.replication.factor") : NULL;
        if (!own) {
            ue_ctl_note("note: Kafka doesn't tell how many copies it makes; "
                        "--replication 3 would set it, and "
                        "min.insync.replicas=2");
        }
        copies = own ? atoi(own) : 0;
    }
    in->min_insync = copies >= UE_KAFKA_SAFE_COPIES ? 2 : 0;
    return UE_CTL_DONE;
}

static rd_kafka_NewTopic_t *new_topic(const ue_ctl_kafka_t *in,
                                      const ue_ctl_topic_t *t)
{
    char text[256];
    rd_kafka_NewTopic_t *topic = rd_kafka_NewTopic_new(
        t->name, t->wanted, in->replication, text, sizeof text);

    if (!topic) {
        ue_ctl_note("%s: %s", t->name, text);
        return NULL;
    }
    rd_kafka_NewTopic_set_config(topic, "compression.type", "producer");
    if (t->is_ledger) {
        rd_kafka_NewTopic_set_config(topic, "cleanup.policy", "compact");
    }
    else {
        rd_kafka_NewTopic_set_config(topic, "cleanup.policy", "delete");
        rd_kafka_NewTopic_set_config(
            topic, "retention.ms",
            apr_psprintf(in->ctl->p, "%" APR_INT64_T_FMT, in->retention));
    }
    if (in->min_insync) {
        rd_kafka_NewTopic_set_config(topic, "min.insync.replicas",
                                     apr_itoa(in->ctl->p, in->min_insync));
    }
    return topic;
}

/* Of several results the worst counts. */
static int tell_results(ue_ctl_kafka_t *in,
                        const rd_kafka_topic_result_t **results, size_t n,
                        const char *done)
{
    int status = UE_CTL_DONE, k;
    size_t i;

    for (i = 0; i < n; i++) {
        const char *name = rd_kafka_topic_result_name(results[i]);
        rd_kafka_resp_err_t err = rd_kafka_topic_result_error(results[i]);

        k = strcmp(name, in->topic[0].name) != 0;
        if (!err) {
            in->topic[k].state = done;
        }
        /* somebody else was quicker: it is looked at as any that is there */
        else if (err != RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS) {
            const char *why = rd_kafka_topic_result_error_string(results[i]);
            int as = ue_ctl_fail(in->ctl, status_of(err), "%s: %s", name,
                                 why ? why : rd_kafka_err2str(err));

            status = as > status ? as : status;
        }
    }
    return status;
}

int ue_ctl_kafka_make(ue_ctl_kafka_t *in)
{
    rd_kafka_NewTopic_t *topics[2];
    rd_kafka_AdminOptions_t *o;
    rd_kafka_event_t *ev;
    size_t n = 0, results;
    int i, status;

    for (i = 0; i < 2; i++) {
        if (!in->topic[i].partitions) {
            topics[n] = new_topic(in, &in->topic[i]);
            n += topics[n] != NULL;
        }
    }
    if (!n) {
        return UE_CTL_DONE;
    }
    o = admin_options(in, RD_KAFKA_ADMIN_OP_CREATETOPICS);
    rd_kafka_CreateTopics(in->rk, topics, n, o, in->queue);
    rd_kafka_AdminOptions_destroy(o);
    rd_kafka_NewTopic_destroy_array(topics, n);
    status = await(in, "the topics were not made", &ev);
    if (!status) {
        const rd_kafka_topic_result_t **made =
            rd_kafka_CreateTopics_result_topics(
                rd_kafka_event_CreateTopics_result(ev), &results);

        status = tell_results(in, made, results, "made");
        rd_kafka_event_destroy(ev);
    }
    return status;
}

int ue_ctl_kafka_extend(ue_ctl_kafka_t *in)
{
    ue_ctl_topic_t *t = &in->topic[0];
    rd_kafka_NewPartitions_t *more;
    rd_kafka_AdminOptions_t *o;
    rd_kafka_event_t *ev;
    char text[256];
    size_t n;
    int status;

    if (!in->ctl->option[UE_OPT_ADD_PARTITIONS] || !t->partitions
        || t->partitions >= t->wanted) {
        return UE_CTL_DONE;
    }
    more = rd_kafka_NewPartitions_new(t->name, (size_t)t->wanted, text,
                                      sizeof text);
    if (!more) {
        return ue_ctl_fail(in->ctl, UE_CTL_REFUSED, "%s: %s", t->name, text);
    }
    o = admin_options(in, RD_KAFKA_ADMIN_OP_CREATEPARTITIONS);
    rd_kafka_CreatePartitions(in->rk, &more, 1, o, in->queue);
    rd_kafka_AdminOptions_destroy(o);
    rd_kafka_NewPartitions_destroy(more);
    status = await(in, "no partitions were added", &ev);
    if (!status) {
        const rd_kafka_topic_result_t **results =
            rd_kafka_CreatePartitions_result_topics(
                rd_kafka_event_CreatePartitions_result(ev), &n);

        status = tell_results(in, results, n, "extended");
        rd_kafka_event_destroy(ev);
    }
    return status;
}

/* What was made is seen by and by. */
static int is_seen(const ue_ctl_topic_t *t)
{
    return t->partitions && t->has_leaders
           && (!t->state || t->partitions >= t->wanted);
}

int ue_ctl_kafka_wait(ue_ctl_kafka_t *in)
{
    apr_time_t end = apr_time_now() + VISIBLE_TIME;
    int status = ue_ctl_kafka_look(in);

    while (!status && !(is_seen(&in->topic[0]) && is_seen(&in->topic[1]))
           && apr_time_now() < end) {
        apr_sleep(apr_time_from_msec(100));
        status = ue_ctl_kafka_look(in);
    }
    return status;
}
