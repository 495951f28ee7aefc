/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */

/**
 * What is said of one property, of a list of brokers, and of a topic's name.
 */
#include "kafka_option.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <apr_lib.h>
#include <apr_strings.h>
#include <apr_tables.h>

#define HOST_MAX 253
#define VALUE_MAX 256 /* of what is compared */
#define NAME_SHOWN 63 /* of an unknown name */

/** Both names of a property; librdkafka keeps the second. */
static const char *const aliases[][2] = {
    {"bootstrap.servers", "metadata.broker.list"},
    {"max.in.flight", "max.in.flight.requests.per.connection"},
    {"sasl.mechanism", "sasl.mechanisms"},
    {"linger.ms", "queue.buffering.max.ms"},
    {"retries", "message.send.max.retries"},
    {"compression.type", "compression.codec"},
    {"acks", "request.required.acks"},
    {"delivery.timeout.ms", "message.timeout.ms"},
};

typedef enum { NEVER, EQUAL, AT_MOST, AT_LEAST } bound_t;

/** What a property can't be, for the design's sake. */
typedef struct {
    const char *name; /* librdkafka's own of the two */
    bound_t bound;
    const char *value;
    const char *why;
} rule_t;

static const rule_t rules[] = {
    {"metadata.broker.list", NEVER, NULL,
     "the brokers are named by UsageKafkaBrokers, such as localhost:9092"},
    {"transactional.id", NEVER, NULL,
     "idempotence is what is needed, and transactions would only add waiting"},
    {"plugin.library.paths", NEVER, NULL,
     "a plugin could change or drop events unseen"},
    {"enabled_events", NEVER, NULL, "what librdkafka tells is read otherwise"},
    {"log.queue", NEVER, NULL, "librdkafka's log lines go to the error log"},
    {"enable_sasl_queue", NEVER, NULL, "nothing would read that queue"},
    {"internal.termination.signal", NEVER, NULL, "signals belong to httpd"},
    {"test.mock.num.brokers", NEVER, NULL,
     "events would go to brokers in memory that end with the process"},
    {"enable.idempotence", EQUAL, "true",
     "without it, events could come twice and out of order"},
    {"request.required.acks", EQUAL, "all",
     "with less, an acknowledged event could be lost"},
    {"enable.gapless.guarantee", EQUAL, "false",
     "with it, one refused event would stop all others"},
    {"batch.num.messages", EQUAL, UE_TEXT(UE_KAFKA_BATCH_EVENTS),
     "batches are cut by UsageKafkaBatchSize, and each goes as one request"},
    {"batch.size", EQUAL, "2000000",
     "batches are cut by UsageKafkaBatchSize, and each goes as one request"},
    {"message.max.bytes", EQUAL, "2000000",
     "batches are cut by UsageKafkaBatchSize, and each goes as one request"},
    {"message.send.max.retries", EQUAL, "2147483647",
     "with less, events would be lost after that many tries"},
    {"delivery.report.only.error", EQUAL, "false",
     "an event leaves its slot when Kafka has acknowledged it"},
    {"queuing.strategy", EQUAL, "fifo",
     "otherwise, an organization's events would lose their order"},
    {"partitioner", EQUAL, "consistent_random",
     "the partition is chosen as that one does, by CRC-32 of the organization"},
    {"api.version.request", EQUAL, "true",
     "headers and idempotence depend on it"},
    {"queue.buffering.max.ms", AT_MOST, "100",
     "batches are collected before librdkafka gets them, see "
     "UsageKafkaFlushInterval"},
    {"max.in.flight.requests.per.connection", AT_MOST, "5",
     "more would break idempotence"},
    {"queue.buffering.max.messages", AT_LEAST, UE_TEXT(UE_KAFKA_BATCH_EVENTS),
     "otherwise, a batch would not fit"},
    {"queue.buffering.max.kbytes", AT_LEAST, "4096",
     "otherwise, a batch would not fit"},
};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const char *own_name(const char *name)
{
    size_t i;

    for (i = 0; i < COUNT(aliases); i++) {
        if (!strcmp(aliases[i][0], name)) {
            return aliases[i][1];
        }
    }
    return name;
}

int ue_kafka_option_same(const char *a, const char *b)
{
    return !strcmp(own_name(a), own_name(b));
}

/** Is what it is set to to be shown to nobody? */
int ue_kafka_option_is_secret(const char *name)
{
    static const char *const marks[] = {
        "password",           "secret",     ".pem",     "jaas", "token",
        "oauthbearer.config", "extensions", "kinit.cmd"};
    size_t i;

    for (i = 0; i < COUNT(marks); i++) {
        if (strstr(name, marks[i])
            && strcmp(name, "sasl.oauthbearer.token.endpoint.url")) {
            return 1;
        }
    }
    return 0;
}

/* ---- what librdkafka knows ---- */

typedef struct {
    const char *name;
    const char *range;
} property_t;

/** Cut a column off a line, up to a bar. */
static char *column(char **rest, apr_pool_t *p)
{
    char *end = strstr(*rest, " | ");
    char *text = apr_pstrmemdup(
        p, *rest, end ? (apr_size_t)(end - *rest) : strlen(*rest));

    *rest += end ? (size_t)(end - *rest) + 3 : strlen(*rest);
    while (apr_isspace(*text)) {
        text++;
    }
    while (*text && apr_isspace(text[strlen(text) - 1])) {
        text[strlen(text) - 1] = '\0';
    }
    return text;
}

/** librdkafka's list of its properties, which it has only as a page. */
static apr_array_header_t *known_properties(apr_pool_t *p)
{
    apr_array_header_t *all = apr_array_make(p, 200, sizeof(property_t));
    char *page = NULL;
    size_t size;
    FILE *f = open_memstream(&page, &size);
    char *state, *line;

    if (!f) {
        return all;
    }
    rd_kafka_conf_properties_show(f);
    if (fclose(f) == 0) {
        for (line = apr_strtok(page, "\n", &state); line;
             line = apr_strtok(NULL, "\n", &state)) {
            if (apr_islower(line[0]) && strstr(line, " | ")) {
                property_t *property = apr_array_push(all);

                property->name = column(&line, p);
                column(&line, p); /* whether for consumers or producers */
                property->range = column(&line, p);
            }
        }
    }
    free(page);
    return all;
}

static const char *range_of(const char *name, apr_pool_t *p)
{
    const apr_array_header_t *all = known_properties(p);
    int i;

    for (i = 0; i < all->nelts; i++) {
        const property_t *property = &APR_ARRAY_IDX(all, i, property_t);

        if (!strcmp(property->name, name)) {
            return property->range;
        }
    }
    return "";
}

int ue_kafka_option_is_known(const char *name)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    char why[512];
    rd_kafka_conf_res_t result =
        rd_kafka_conf_set(conf, name, NULL, why, sizeof(why));

    rd_kafka_conf_destroy(conf);
    return result != RD_KAFKA_CONF_UNKNOWN;
}

/** How many characters must be put in, left out or changed (Levenshtein). */
static size_t distance(const char *a, const char *b)
{
    size_t row[NAME_SHOWN + 2];
    size_t i, j, len = strlen(b);

    if (len > NAME_SHOWN || strlen(a) > NAME_SHOWN) {
        return NAME_SHOWN;
    }
    for (j = 0; j <= len; j++) {
        row[j] = j;
    }
    for (i = 1; *a; i++, a++) {
        size_t corner = row[0];

        row[0] = i;
        for (j = 1; j <= len; j++) {
            size_t best = corner + (b[j - 1] != *a);

            corner = row[j];
            best = best < corner + 1 ? best : corner + 1;
            row[j] = best < row[j - 1] + 1 ? best : row[j - 1] + 1;
        }
    }
    return row[len];
}

static const char *nearest(const char *name, apr_pool_t *p)
{
    const apr_array_header_t *all = known_properties(p);
    size_t less_than = strlen(name) / 4 + 2;
    const char *found = NULL;
    int i;

    for (i = 0; i < all->nelts; i++) {
        const char *other = APR_ARRAY_IDX(all, i, property_t).name;
        size_t d = distance(name, other);

        if (d < less_than) {
            found = other;
            less_than = d;
        }
    }
    return found;
}

/* ---- one property ---- */

/** Of an unknown name. Who mixed name and value up gave us a secret as a name:
 * what doesn't look like one is not repeated. */
static const char *unknown(const char *name, const char *value, apr_pool_t *p)
{
    size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyz_.");
    char *start = apr_pstrmemdup(p, name, len);
    const char *near = len && len <= NAME_SHOWN ? nearest(start, p) : NULL;

    if (*value && ue_kafka_option_is_known(value)) {
        return apr_psprintf(p, "%s: the name comes first, then its value",
                            value);
    }
    if (near && name[len] == '=') {
        return apr_psprintf(p, "%s: a space comes between name and value",
                            near);
    }
    if (!near && (!strchr(start, '.') || name[len])) {
        start = "NAME VALUE: NAME";
    }
    return apr_psprintf(p, "%s is no property of librdkafka %s; %s is one",
                        start, rd_kafka_version_str(),
                        near ? near : "linger.ms, with 5 as its value,");
}

/** A value that librdkafka doesn't take. */
const char *ue_kafka_option_unusable(const char *name, const char *value,
                                     const char *said, apr_pool_t *p)
{
    const char *range = range_of(name, p);

    if (strstr(said, "dedicated") || strstr(said, "Internal property")) {
        return apr_psprintf(p,
                            "%s is a program's own, and nothing to be set in a "
                            "configuration",
                            name);
    }
    if (ue_kafka_option_is_secret(name)) {
        return apr_psprintf(p, "%s has a value that librdkafka doesn't take",
                            name);
    }
    if (!*range || strstr(said, "not supported")) {
        return apr_psprintf(p, "%s: %s", name, said);
    }
    return apr_psprintf(p, "%s takes %s; \"%s\" is none", name, range, value);
}

/** What librdkafka makes of a value. */
static const char *read_back(rd_kafka_conf_t *conf, const char *name,
                             const char *value, char *text, size_t size)
{
    char why[512];

    text[0] = '\0';
    if (rd_kafka_conf_set(conf, name, value, why, sizeof(why))
        == RD_KAFKA_CONF_OK) {
        rd_kafka_conf_get(conf, name, text, &size);
    }
    return text;
}

static const char *break_rule(const rule_t *rule, const char *name,
                              const char *value, apr_pool_t *p)
{
    static const char *const words[] = {"", "", "at most ", "at least "};
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    char theirs[VALUE_MAX], ours[VALUE_MAX];
    double n;
    int fits;

    read_back(conf, rule->name, value, theirs, sizeof(theirs));
    read_back(conf, rule->name, rule->value, ours, sizeof(ours));
    rd_kafka_conf_destroy(conf);
    n = strtod(theirs, NULL) - strtod(ours, NULL);
    switch (rule->bound) {
    case AT_MOST:
        fits = n <= 0;
        break;
    case AT_LEAST:
        fits = n >= 0 || !strcmp(theirs, "0"); /* 0: no limit */
        break;
    default:
        fits = !strcmp(theirs, ours);
    }
    return fits ? NULL
                : apr_psprintf(p, "%s must be %s%s: %s", name,
                               words[rule->bound], rule->value, rule->why);
}

static const rule_t *rule_of(const char *name)
{
    size_t i;

    for (i = 0; i < COUNT(rules); i++) {
        if (!strcmp(rules[i].name, own_name(name))) {
            return &rules[i];
        }
    }
    return NULL;
}

const char *ue_kafka_option_check(const char *name, const char *value,
                                  apr_pool_t *p)
{
    const rule_t *rule = rule_of(name);
    rd_kafka_conf_t *conf;
    rd_kafka_conf_res_t result;
    char said[512] = "";

    if (rule && rule->bound == NEVER) {
        return apr_psprintf(p, "%s can't be set: %s", name, rule->why);
    }
    conf = rd_kafka_conf_new();
    result = rd_kafka_conf_set(conf, name, value, said, sizeof(said));
    rd_kafka_conf_destroy(conf);
    if (result == RD_KAFKA_CONF_UNKNOWN) {
        return unknown(name, value, p);
    }
    if (result != RD_KAFKA_CONF_OK) {
        return ue_kafka_option_unusable(name, value, said, p);
    }
    return rule ? break_rule(rule, name, value, p) : NULL;
}

/* ---- brokers and topics ---- */

static int is_port(const char *text)
{
    size_t len = strspn(text, "0123456789");

    return len > 0 && len <= 5 && !text[len] && atoi(text) > 0
           && atoi(text) <= 65535;
}

/** host, host:port, [address] or [address]:port. */
static int is_broker(const char *text)
{
    size_t len;

    if (*text == '[') {
        len = strspn(text + 1, "0123456789abcdefABCDEF:.");
        if (len < 2 || text[len + 1] != ']') {
            return 0;
        }
        len += 2;
    }
    else {
        len = strspn(text, "0123456789-._abcdefghijklmnopqrstuvwxyz"
                           "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
    }
    return len > 0 && len <= HOST_MAX
           && (!text[len] || (text[len] == ':' && is_port(text + len + 1)));
}

const char *ue_kafka_brokers_check(const char *brokers, apr_pool_t *p)
{
    const char *at = brokers;

    for (;;) {
        size_t len = strcspn(at, ",");
        size_t end = len;
        char *one;

        while (len && *at == ' ') {
            at++;
            end = --len;
        }
        while (end && at[end - 1] == ' ') {
            end--;
        }
        one = apr_pstrmemdup(p, at, end);
        if (!is_broker(one)) {
            /* What follows an @ could be shown, but not what precedes it. */
            return apr_psprintf(
                p,
                "takes HOST[:PORT], and more of them after commas, such as "
                "kafka-1:9092,kafka-2:9092; %s%s%s is none%s",
                strchr(one, '@') ? "what has an @" : "\"",
                strchr(one, '@') ? "" : one, strchr(one, '@') ? "" : "\"",
                strstr(one, "//") ? " (the protocol is UsageKafkaOption "
                                    "security.protocol)"
                                  : "");
        }
        if (!at[len]) {
            return NULL;
        }
        at += len + 1;
    }
}

const char *ue_kafka_topic_check(const char *topic, apr_pool_t *p)
{
    size_t len = strspn(topic, "0123456789-._abcdefghijklmnopqrstuvwxyz"
                               "ABCDEFGHIJKLMNOPQRSTUVWXYZ");

    if (len > 0 && len <= UE_TOPIC_MAX && !topic[len] && strcmp(topic, ".")
        && strcmp(topic, "..")) {
        return NULL;
    }
    return apr_psprintf(
        p,
        "takes the name of a topic, such as usage-events: at "
        "most " UE_TEXT(
            UE_TOPIC_MAX) " of a-z, A-Z, 0-9, \".\", "
                          "\"_\" and \"-\", with room for " UE_LEDGER_SUFFIX
                          " behind them; \"%.80s\" is none",
        topic);
}
