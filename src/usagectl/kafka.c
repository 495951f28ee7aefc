/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "kafka_ctl.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <apr_lib.h>
#include <apr_strings.h>

#include <json-c/json.h>

#define PARTITIONS 12
#define RETENTION "7d"
#define UNLIMITED (-1)

/* What is asked --------------------------------------------------------- */

static int read_number(const ue_ctl_kafka_t *in, ue_ctl_option_t option,
                       const char *name, int most, int *number)
{
    const char *given = in->ctl->option[option];
    char *end;
    long n;

    if (!given) {
        return UE_CTL_DONE;
    }
    errno = 0;
    n = strtol(given, &end, 10);
    if (errno || *end || !apr_isdigit(*given) || n < 1 || n > most) {
        return ue_ctl_fail(in->ctl, UE_CTL_WRONG_USE,
                           "%s must be a whole number from 1 to %d", name,
                           most);
    }
    *number = (int)n;
    return UE_CTL_DONE;
}

/* In milliseconds. */
static int read_retention(ue_ctl_kafka_t *in)
{
    static const struct {
        const char *name;
        apr_int64_t ms;
    } units[] = {{"d", 86400000}, {"h", 3600000}, {"min", 60000},
                 {"s", 1000},     {"ms", 1},      {NULL, 0}};
    const char *given = in->ctl->option[UE_OPT_RETENTION];
    apr_int64_t n;
    char *end;
    int i;

    given = given ? given : RETENTION;
    if (!strcmp(given, "unlimited")) {
        in->retention = UNLIMITED;
        return UE_CTL_DONE;
    }
    errno = 0;
    n = apr_strtoi64(given, &end, 10);
    for (i = 0; units[i].name && strcmp(end, units[i].name) != 0; i++) {
    }
    if (errno || !apr_isdigit(*given) || !units[i].name || n < 1
        || n > APR_INT64_MAX / units[i].ms) {
        return ue_ctl_fail(in->ctl, UE_CTL_WRONG_USE,
                           "--retention must be a time with a unit (d, h, min, "
                           "s or ms), like 7d, or unlimited");
    }
    in->retention = n * units[i].ms;
    return UE_CTL_DONE;
}

static const char *given_or_environment(const ue_ctl_kafka_t *in,
                                        ue_ctl_option_t option,
                                        const char *name)
{
    const char *value = in->ctl->option[option];

    if (!value) {
        value = getenv(name);
    }
    return value && *value ? value : NULL;
}

/* @param takes what would be right; NULL: it is */
static int judge_name(const ue_ctl_kafka_t *in, ue_ctl_option_t option,
                      const char *name, const char *variable, const char *takes)
{
    return takes ? ue_ctl_fail(in->ctl, UE_CTL_WRONG_USE, "%s %s",
                               in->ctl->option[option] ? name : variable, takes)
                 : UE_CTL_DONE;
}

static int read_where(ue_ctl_kafka_t *in)
{
    const char *topic = given_or_environment(in, UE_OPT_TOPIC, "KAFKA_TOPIC");
    apr_pool_t *p = in->ctl->p;
    int status;

    in->brokers = given_or_environment(in, UE_OPT_BROKERS, "KAFKA_BROKERS");
    if (!in->brokers) {
        return ue_ctl_fail(in->ctl, UE_CTL_WRONG_USE,
                           "where is Kafka? --brokers HOST:PORT or "
                           "KAFKA_BROKERS says it");
    }
    topic = topic ? topic : "usage-events";
    status = judge_name(in, UE_OPT_BROKERS, "--brokers", "KAFKA_BROKERS",
                        ue_kafka_brokers_check(in->brokers, p));
    if (!status) {
        status = judge_name(in, UE_OPT_TOPIC, "--topic", "KAFKA_TOPIC",
                            ue_kafka_topic_check(topic, p));
    }
    in->topic[0].name = topic;
    in->topic[1].name = apr_pstrcat(p, topic, UE_LEDGER_SUFFIX, NULL);
    return status;
}

/* Is it as asked? ------------------------------------------------------- */

static void differs(ue_ctl_topic_t *t, const ue_ctl_t *ctl, const char *fmt,
                    ...) __attribute__((format(printf, 3, 4)));

static void differs(ue_ctl_topic_t *t, const ue_ctl_t *ctl, const char *fmt,
                    ...)
{
    va_list args;
    char *text;

    va_start(args, fmt);
    text = apr_pvsprintf(ctl->p, fmt, args);
    va_end(args);
    ue_ctl_fail(ctl, UE_CTL_REFUSED, "%s: %s", t->name, text);
    json_object_array_add(t->differences, json_object_new_string(text));
    t->state = "differs";
}

static const char *setting(const ue_ctl_topic_t *t, const char *name)
{
    const char *value = apr_table_get(t->config, name);

    return value ? value : "";
}

static const char *time_text(apr_int64_t ms, apr_pool_t *p)
{
    if (ms < 0) {
        return "unlimited";
    }
    if (ms % 86400000 == 0) {
        return apr_psprintf(p, "%" APR_INT64_T_FMT "d", ms / 86400000);
    }
    if (ms % 3600000 == 0) {
        return apr_psprintf(p, "%" APR_INT64_T_FMT "h", ms / 3600000);
    }
    return apr_psprintf(p, "%" APR_INT64_T_FMT "ms", ms);
}

static void compare_copies(ue_ctl_kafka_t *in, ue_ctl_topic_t *t)
{
    int needed = atoi(setting(t, "min.insync.replicas"));

    if (t->replication < in->replication) {
        differs(t, in->ctl,
                "replication is %d, %d was asked for; Kafka's "
                "kafka-reassign-partitions changes it",
                t->replication, in->replication);
    }
    if (needed > t->replication) {
        differs(t, in->ctl,
                "min.insync.replicas is %d with %d copies: nothing can be "
                "written to it",
                needed, t->replication);
    }
    else if (needed < 2 && t->replication >= UE_KAFKA_SAFE_COPIES
             && in->broker_count >= UE_KAFKA_SAFE_COPIES) {
        differs(t, in->ctl,
                "min.insync.replicas is %d: what one broker alone has can be "
                "lost with it; 2 would be right",
                needed);
    }
}

static void compare_events(ue_ctl_kafka_t *in, ue_ctl_topic_t *t)
{
    const char *bytes = setting(t, "retention.bytes");
    const char *type = setting(t, "compression.type");
    apr_int64_t kept = apr_atoi64(setting(t, "retention.ms"));

    if (strcmp(setting(t, "cleanup.policy"), "delete") != 0) {
        differs(t, in->ctl,
                "cleanup.policy is %s: of an organization only the last event "
                "is kept; delete would be right",
                setting(t, "cleanup.policy"));
    }
    if (kept >= 0 && (in->retention < 0 || kept < in->retention)) {
        differs(t, in->ctl, "events are kept for %s, %s was asked for",
                time_text(kept, in->ctl->p),
                time_text(in->retention, in->ctl->p));
    }
    if (*bytes && strcmp(bytes, "-1") != 0) {
        ue_ctl_note("note: %s: retention.bytes is %s: events go before their "
                    "time where a partition gets larger",
                    t->name, bytes);
    }
    if (*type && strcmp(type, "producer") != 0 && strcmp(type, "snappy") != 0) {
        ue_ctl_note("note: %s: compression.type is %s, so Kafka compresses "
                    "again what comes compressed; producer would spare it that",
                    t->name, type);
    }
}

static void compare(ue_ctl_kafka_t *in, ue_ctl_topic_t *t)
{
    if (!t->has_leaders) {
        differs(t, in->ctl, "not all of its partitions have a leader");
    }
    if (t->partitions < t->wanted) {
        differs(t, in->ctl,
                "%d partitions, %d were asked for; --add-partitions adds them, "
                "and moves most organizations to another one",
                t->partitions, t->wanted);
    }
    if (!t->config) {
        differs(t, in->ctl, "Kafka doesn't tell its settings");
        return;
    }
    compare_copies(in, t);
    if (!t->is_ledger) {
        compare_events(in, t);
    }
    else if (strcmp(setting(t, "cleanup.policy"), "compact") != 0) {
        differs(t, in->ctl,
                "cleanup.policy is %s: the ledger would forget; compact would "
                "be right",
                setting(t, "cleanup.policy"));
    }
}

/* A broker that isn't the one that made the topic may not know of it yet. */
static int describe(ue_ctl_kafka_t *in, ue_ctl_topic_t *t)
{
    int tries = 50;
    int status;

    do {
        status = ue_ctl_kafka_describe(in, RD_KAFKA_RESOURCE_TOPIC, t->name,
                                       &t->config);
        if (status || t->config) {
            return status;
        }
        apr_sleep(apr_time_from_msec(100));
    } while (--tries);
    return UE_CTL_DONE;
}

static int judge(ue_ctl_kafka_t *in)
{
    int i, status = UE_CTL_DONE;

    for (i = 0; i < 2 && !status; i++) {
        ue_ctl_topic_t *t = &in->topic[i];

        if (!t->partitions) {
            status = ue_ctl_fail(in->ctl, UE_CTL_REFUSED,
                                 "%s was made, but isn't to be seen", t->name);
            break;
        }
        status = describe(in, t);
        if (!status) {
            compare(in, t);
        }
    }
    return status;
}

/* The list -------------------------------------------------------------- */

static struct json_object *number(apr_table_t *config, const char *name)
{
    const char *value = config ? apr_table_get(config, name) : NULL;

    return value && *value ? json_object_new_int64(apr_atoi64(value)) : NULL;
}

static struct json_object *text(apr_table_t *config, const char *name)
{
    const char *value = config ? apr_table_get(config, name) : NULL;

    return value ? json_object_new_string(value) : NULL;
}

static struct json_object *row_of(const ue_ctl_topic_t *t)
{
    struct json_object *row = json_object_new_object();

    json_object_object_add(row, "topic", json_object_new_string(t->name));
    json_object_object_add(
        row, "state", json_object_new_string(t->state ? t->state : "right"));
    json_object_object_add(row, "partitions",
                           json_object_new_int(t->partitions));
    json_object_object_add(row, "replication",
                           json_object_new_int(t->replication));
    json_object_object_add(row, "min_insync_replicas",
                           number(t->config, "min.insync.replicas"));
    json_object_object_add(row, "cleanup_policy",
                           text(t->config, "cleanup.policy"));
    json_object_object_add(row, "retention_ms",
                           t->is_ledger ? NULL
                                        : number(t->config, "retention.ms"));
    json_object_object_add(row, "compression_type",
                           text(t->config, "compression.type"));
    json_object_object_add(row, "differences", json_object_get(t->differences));
    return row;
}

static int list(ue_ctl_kafka_t *in)
{
    static const ue_ctl_column_t columns[] = {
        {"topic", "TOPIC"},
        {"state", "STATE"},
        {"partitions", "PARTITIONS"},
        {"replication", "REPLICATION"},
        {"min_insync_replicas", "MIN INSYNC"},
        {"cleanup_policy", "CLEANUP"},
        {"retention_ms", "RETENTION MS"},
        {"compression_type", NULL},
        {"differences", NULL},
        {NULL, NULL}};
    struct json_object *rows = json_object_new_array();
    int i, status;

    for (i = 0; i < 2; i++) {
        json_object_array_add(rows, row_of(&in->topic[i]));
    }
    status = ue_ctl_list(in->ctl, rows, columns);
    json_object_put(rows);
    for (i = 0; i < 2 && !status; i++) {
        if (json_object_array_length(in->topic[i].differences)) {
            status = UE_CTL_REFUSED;
        }
    }
    return status;
}

/* The command ----------------------------------------------------------- */

static int init_topics(ue_ctl_kafka_t *in)
{
    int status = ue_ctl_kafka_look(in);

    if (!status) {
        status = ue_ctl_kafka_min_insync(in);
    }
    if (!status) {
        status = ue_ctl_kafka_make(in);
    }
    if (!status) {
        status = ue_ctl_kafka_extend(in);
    }
    if (!status) {
        status = ue_ctl_kafka_wait(in);
    }
    if (!status) {
        status = judge(in);
    }
    return status ? status : list(in);
}

static int read_all(ue_ctl_kafka_t *in, apr_array_header_t **properties)
{
    const char *format = in->ctl->option[UE_OPT_FORMAT];
    int status = read_where(in);

    if (!status) {
        status = read_number(in, UE_OPT_PARTITIONS, "--partitions", 100000,
                             &in->partitions);
    }
    if (!status) {
        status = read_number(in, UE_OPT_REPLICATION, "--replication", 32767,
                             &in->replication);
    }
    if (!status) {
        status = read_retention(in);
    }
    if (!status) {
        status = ue_ctl_kafka_options(in->ctl, properties);
    }
    if (!status && format && strcmp(format, "table") != 0
        && strcmp(format, "json") != 0 && strcmp(format, "csv") != 0) {
        status = ue_ctl_fail(in->ctl, UE_CTL_WRONG_USE,
                             "--format must be table, json or csv");
    }
    return status;
}

int ue_ctl_init_kafka(ue_ctl_t *ctl)
{
    ue_ctl_kafka_t in;
    apr_array_header_t *properties;
    int i, status;

    memset(&in, 0, sizeof in);
    in.ctl = ctl;
    in.partitions = PARTITIONS;
    in.replication = -1;
    status = read_all(&in, &properties);
    if (!status) {
        status = ue_ctl_kafka_client(&in, properties);
    }
    if (status) {
        return status;
    }
    for (i = 0; i < 2; i++) {
        in.topic[i].is_ledger = i;
        in.topic[i].wanted = i ? 1 : in.partitions;
        in.topic[i].differences = json_object_new_array();
    }
    status = init_topics(&in);
    if (status == UE_CTL_OUT_OF_REACH) {
        /* librdkafka's end would wait for what its threads are stuck in (a
         * resolver), and exit() would take OpenSSL away from under them. */
        fflush(stdout);
        _exit(status);
    }
    for (i = 0; i < 2; i++) {
        json_object_put(in.topic[i].differences);
    }
    rd_kafka_queue_destroy(in.queue);
    rd_kafka_destroy(in.rk);
    return status;
}
