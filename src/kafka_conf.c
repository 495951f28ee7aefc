/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */

/**
 * All properties together: defaults, files, and a client for a trial.
 */
#include "kafka_conf.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <apr_file_io.h>
#include <apr_lib.h>
#include <apr_strings.h>

#include "kafka_option.h"

#define FILE_MAX 65536 /* of a private key */
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/** What we set, before what the user sets. batch.size and message.max.bytes are
 * well above UE_KAFKA_BATCH_BYTES. */
static const ue_kafka_option_t defaults[] = {
    {"client.id", "mod_usage_events"},
    {"enable.idempotence", "true"},
    {"acks", "all"},
    {"compression.codec", "snappy"},
    {"linger.ms", "5"},
    {"batch.num.messages", UE_TEXT(UE_KAFKA_BATCH_EVENTS)},
    {"batch.size", "2000000"},
    {"message.max.bytes", "2000000"},
    {"message.timeout.ms", "0"},
    {"queue.buffering.max.messages", "1000000"},
    {"queue.buffering.max.kbytes", "1048576"},
    {"reconnect.backoff.ms", "100"},
    {"reconnect.backoff.max.ms", "1000"},
    {"topic.metadata.refresh.interval.ms", "10000"},
    {"socket.keepalive.enable", "true"},
};

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
    return ue_kafka_option_unusable(name, value, said, p);
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

        if (len > 3 && memchr(text, '.', len)
            && ue_kafka_option_is_known(word)) {
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
        if (ue_kafka_option_is_secret(options[i].name) && *options[i].value
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
