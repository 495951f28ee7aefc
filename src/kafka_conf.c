/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "kafka_conf.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <apr_file_io.h>
#include <apr_lib.h>
#include <apr_strings.h>

#define HOST_MAX 253
#define VALUE_MAX 256  /* of what is compared */
#define NAME_SHOWN 63  /* of an unknown name */
#define FILE_MAX 65536 /* of a private key */

#define TEXT_OF(number) #number
#define TEXT(number) TEXT_OF(number)

/** What we set, before what the user sets. batch.size and message.max.bytes are
 * well above UE_KAFKA_BATCH_BYTES. */
static const ue_kafka_option_t defaults[] = {
    {"client.id", "mod_usage_events"},
    {"enable.idempotence", "true"},
    {"acks", "all"},
    {"compression.codec", "snappy"},
    {"linger.ms", "5"},
    {"batch.num.messages", TEXT(UE_KAFKA_BATCH_EVENTS)},
    {"batch.size", "2000000"},
    {"message.max.bytes", "2000000"},
    {"message.timeout.ms", "0"},
    {"queue.buffering.max.messages", "1000000"},
    {"queue.buffering.max.kbytes", "1048576"},
    {"reconnect.backoff.ms", "100"},
    {"reconnect.backoff.max.ms", "1000"},
    {"topic.metadata.refresh.interval.ms", "10000"},
    {"log.connection.close", "false"},
    {"socket.keepalive.enable", "true"},
};

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
    {"batch.num.messages", EQUAL, TEXT(UE_KAFKA_BATCH_EVENTS),
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
    {"queue.buffering.max.messages", AT_LEAST, TEXT(UE_KAFKA_BATCH_EVENTS),
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
static int is_secret(const char *name)
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

static int is_known(const char *name)
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

    if (*value && is_known(value)) {
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
static const char *unusable(const char *name, const char *value,
                            const char *said, apr_pool_t *p)
{
    const char *range = range_of(name, p);

    if (strstr(said, "dedicated") || strstr(said, "Internal property")) {
        return apr_psprintf(p,
                            "%s is a program's own, and nothing to be set in a "
                            "configuration",
                            name);
    }
    if (is_secret(name)) {
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
        return unusable(name, value, said, p);
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
        "most " TEXT(UE_TOPIC_MAX) " of a-z, A-Z, 0-9, \".\", "
                                   "\"_\" and \"-\"; \"%.80s\" is none",
        topic);
}

/* ---- all together ---- */

/**
 * Keep librdkafka where it is loaded. httpd unloads the module at each restart,
 * and with it what only the module needs; but what librdkafka, OpenSSL and
 * Cyrus SASL have set up stays behind (8 kB a restart), with functions of
 * theirs to be called at the end of a thread or of the process.
 */
static void pin_library(void)
{
    Dl_info info;

    /* Linked into the module itself, it can't stay without it. */
    if (dladdr((void *)(uintptr_t)rd_kafka_version, &info) && info.dli_fname
        && strstr(info.dli_fname, "librdkafka")) {
        dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
    }
}

static apr_status_t destroy_conf(void *conf)
{
    rd_kafka_conf_destroy(conf);
    return APR_SUCCESS;
}

static int is_superseded(const ue_kafka_option_t *options, int count, int i)
{
    int j;

    for (j = i + 1; j < count; j++) {
        if (ue_kafka_option_same(options[i].name, options[j].name)) {
            return 1;
        }
    }
    return 0;
}

static const char *value_of(const ue_kafka_option_t *options, int count,
                            const char *name)
{
    const char *value = NULL;
    int i;

    for (i = 0; i < count; i++) {
        if (ue_kafka_option_same(options[i].name, name)) {
            value = options[i].value;
        }
    }
    return value;
}

static const char *set_one(rd_kafka_conf_t *conf, const char *name,
                           const char *value, apr_pool_t *p)
{
    char said[512] = "";

    if (rd_kafka_conf_set(conf, name, value, said, sizeof(said))
        == RD_KAFKA_CONF_OK) {
        return NULL;
    }
    return unusable(name, value, said, p);
}

static int names_file(const char *name, const char *value)
{
    size_t len = strlen(name);

    return (len > 9 && !strcmp(name + len - 9, ".location")
            && (strcmp(name, "ssl.ca.location") || strcmp(value, "probe")))
           || !strcmp(name, "sasl.kerberos.keytab");
}

int ue_kafka_option_is_file(const ue_kafka_option_t *option)
{
    return *option->value && names_file(option->name, option->value)
           && strcmp(option->name, "ssl.key.location");
}

/** Open a file that an option names, so that it is seen to be there. */
static const char *open_file(apr_file_t **file, const char *name,
                             const char *path, apr_pool_t *p)
{
    apr_status_t rv =
        apr_file_open(file, path, APR_FOPEN_READ | APR_FOPEN_BINARY, 0, p);
    char why[128];
    apr_finfo_t at;

    if (rv == APR_SUCCESS) {
        rv = apr_file_info_get(&at, APR_FINFO_TYPE, *file);
        if (rv == APR_SUCCESS && at.filetype == APR_DIR
            && strcmp(name, "ssl.ca.location")) {
            rv = APR_FROM_OS_ERROR(EISDIR);
        }
    }
    return rv == APR_SUCCESS
               ? NULL
               : apr_psprintf(p, "%s: %s can't be read: %s", name, path,
                              apr_strerror(rv, why, sizeof(why)));
}

/** The private key itself, where the user names a file. */
static const char *set_key(rd_kafka_conf_t *conf, apr_file_t *file,
                           const char *path, apr_pool_t *p)
{
    char *pem = apr_palloc(p, FILE_MAX);
    apr_size_t len;
    apr_status_t rv = apr_file_read_full(file, pem, FILE_MAX, &len);

    if (!APR_STATUS_IS_EOF(rv) || memchr(pem, 0, len) || !len) {
        return apr_psprintf(p, "ssl.key.location: %s is no key in PEM form",
                            path);
    }
    pem[len] = '\0';
    return set_one(conf, "ssl.key.pem", pem, p);
}

static const char *set_file(rd_kafka_conf_t *conf, const char *name,
                            const char *value, const char *root, apr_pool_t *p)
{
    char *path;
    apr_file_t *file = NULL;
    const char *why;

    if (apr_filepath_merge(&path, root, value, 0, p) != APR_SUCCESS) {
        return apr_psprintf(p, "%s: \"%s\" is no path", name, value);
    }
    why = open_file(&file, name, path, p);
    if (!why) {
        why = strcmp(name, "ssl.key.location") ? set_one(conf, name, path, p)
                                               : set_key(conf, file, path, p);
    }
    if (file) {
        apr_file_close(file);
    }
    return why;
}

static const char *set_all(rd_kafka_conf_t *conf,
                           const ue_kafka_option_t *options, int count,
                           const char *root, apr_pool_t *p)
{
    const char *protocol = value_of(options, count, "security.protocol");
    const char *why = NULL;
    size_t d;
    int i;

    for (d = 0; d < COUNT(defaults) && !why; d++) {
        why = set_one(conf, defaults[d].name, defaults[d].value, p);
    }
    if (!why && protocol && strlen(protocol) >= 3
        && !strcasecmp(protocol + strlen(protocol) - 3, "ssl")) {
        /* Else TLS's records wait for one another: 42 µs an event, not 2. */
        why = set_one(conf, "socket.nagle.disable", "true", p);
    }
    for (i = 0; i < count && !why; i++) {
        const char *name = options[i].name;
        const char *value = options[i].value;

        if (is_superseded(options, count, i)) {
            continue;
        }
        why = *value && names_file(name, value)
                  ? set_file(conf, name, value, root, p)
                  : set_one(conf, name, value, p);
    }
    return why;
}

/** The name of a property that a text has in it. */
static const char *name_in(const char *text, apr_pool_t *p)
{
    while (*text) {
        size_t len = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789._");
        const char *word = apr_pstrmemdup(p, text, len);

        if (len > 3 && memchr(text, '.', len) && is_known(word)) {
            return word;
        }
        text += len ? len : 1;
    }
    return NULL;
}

/** The property behind what librdkafka says without naming one. */
static const char *name_behind(const char *said)
{
    static const char *const marks[][2] = {
        {"SASL mechanism", "sasl.mechanism"},
        {"rivate key", "ssl.certificate.location"},
        {"OpenSSL provider", "ssl.providers"},
        {"OpenSSL engine", "ssl.engine.location"},
        {"SASL", "sasl.mechanism"},
        {"acks", "acks"},
    };
    size_t i;

    for (i = 0; i < COUNT(marks); i++) {
        if (strstr(said, marks[i][0])) {
            return marks[i][1];
        }
    }
    return "security.protocol";
}

static int holds_secret(const char *text, const ue_kafka_option_t *options,
                        int count)
{
    int i;

    for (i = 0; i < count; i++) {
        if (is_secret(options[i].name) && *options[i].value
            && strstr(text, options[i].value)) {
            return 1;
        }
    }
    return 0;
}

/** Turn what rd_kafka_new() said into a sentence of ours. */
static const char *explain(const char *said, const ue_kafka_option_t *options,
                           int count, apr_pool_t *p)
{
    char *text = apr_pcalloc(p, strlen(said) + 1);
    const char *name;
    char *to = text;

    for (; *said; said++) {
        if (*said != '`') {
            *to++ = apr_iscntrl(*said) ? ' ' : *said;
        }
    }
    name = name_in(text, p);
    if (strstr(text, "kerberos")
        && !value_of(options, count, "sasl.mechanism")) {
        return "sasl.mechanism must be given beside security.protocol, such as "
               "PLAIN or SCRAM-SHA-512 (GSSAPI needs sasl.kerberos.keytab)";
    }
    if (name && !strcmp(name, "ssl.key.pem")
        && value_of(options, count, "ssl.key.location")) {
        if (strstr(text, "password read")) {
            return "ssl.key.password must be given: the key of "
                   "ssl.key.location is encrypted";
        }
        return apr_pstrcat(p, "ssl.key.location", strchr(text, ' '), NULL);
    }
    name = name ? name : name_behind(text);
    if (holds_secret(text, options, count)) {
        return apr_psprintf(p, "%s has a value that librdkafka doesn't take",
                            name);
    }
    return strncmp(text, name, strlen(name))
               ? apr_psprintf(p, "%s: %s", name, text)
               : text;
}

static void be_silent(const rd_kafka_t *rk, int level, const char *facility,
                      const char *text)
{
}

/** Let librdkafka look at the command that asks for a Kerberos ticket, but not
 * ask for one. */
static void hold_kinit(rd_kafka_conf_t *conf, apr_pool_t *p)
{
    static const char name[] = "sasl.kerberos.kinit.cmd";
    char why[128];
    size_t size = 0;
    char *command;

    if (rd_kafka_conf_get(conf, name, NULL, &size) == RD_KAFKA_CONF_OK) {
        command = apr_palloc(p, size);
        rd_kafka_conf_get(conf, name, command, &size);
        rd_kafka_conf_set(conf, name, apr_pstrcat(p, "exit 0; ", command, NULL),
                          why, sizeof(why));
    }
}

/** Make a client and end it. Without brokers it has no connection to wait for:
 * 2 ms, and 30 where it reads the system's authorities. */
static const char *try_client(const rd_kafka_conf_t *conf,
                              const ue_kafka_option_t *options, int count,
                              apr_pool_t *p)
{
    rd_kafka_conf_t *copy = rd_kafka_conf_dup(conf);
    char said[512] = "";
    rd_kafka_t *rk;

    rd_kafka_conf_set_log_cb(copy, be_silent);
    hold_kinit(copy, p);
    rk = rd_kafka_new(RD_KAFKA_PRODUCER, copy, said, sizeof(said));
    if (!rk) {
        rd_kafka_conf_destroy(copy);
        return explain(said, options, count, p);
    }
    rd_kafka_destroy(rk);
    return NULL;
}

apr_status_t ue_kafka_conf_make(rd_kafka_conf_t **result, const char *brokers,
                                const ue_kafka_option_t *options, int count,
                                const char *root, const char **why,
                                apr_pool_t *p)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    char *plain = apr_pstrdup(p, brokers);

    apr_pool_cleanup_register(p, conf, destroy_conf, apr_pool_cleanup_null);
    pin_library();
    *why = set_all(conf, options, count, root, p);
    if (!*why) {
        *why = try_client(conf, options, count, p);
    }
    if (!*why) {
        apr_collapse_spaces(plain, plain);
        *why = set_one(conf, "bootstrap.servers", plain, p);
    }
    *result = conf;
    return *why ? APR_EINVAL : APR_SUCCESS;
}
