/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */

/**
 * The directives: each takes its words, checks them as far as they can be
 * checked alone, and stores them in the server's ue_conf_t. Every message names
 * the directive and a value that would be right.
 */
#include "config.h"

#include "http_core.h"

#include <apr_lib.h>
#include <apr_strings.h>

#include "endpoint.h"
#include "log.h"

static ue_conf_t *conf_of(const cmd_parms *cmd)
{
    return ap_get_module_config(cmd->server->module_config,
                                &usage_events_module);
}

#define AT(field) ((void *)APR_OFFSETOF(ue_conf_t, field))
#define FIELD(type, conf, cmd) \
    (*(type *)((char *)(conf) + (apr_size_t)(cmd)->info))

static const char *set_flag(cmd_parms *cmd, void *unused, int on)
{
    FIELD(int, conf_of(cmd), cmd) = on != 0;
    return NULL;
}

static int is_digits(const char *s, apr_size_t len)
{
    apr_size_t i;

    for (i = 0; i < len; i++) {
        if (!apr_isdigit(s[i])) {
            return 0;
        }
    }
    return len > 0;
}

const ue_number_rule_t ue_rule_batch_size = {
    "UsageKafkaBatchSize", "KAFKA_BATCH_SIZE", 1, 10000, "100"};
const ue_number_rule_t ue_rule_buffer_size = {
    "UsageKafkaBufferSize", "KAFKA_BUFFER_SIZE", 1, 1000000, "1000"};
const ue_number_rule_t ue_rule_slots = {"UsageJournalSlots", NULL,
                                        UE_JOURNAL_SLOTS_MIN,
                                        UE_JOURNAL_SLOTS_MAX, "16384"};

const ue_time_rule_t ue_rule_flush_interval = {
    "UsageKafkaFlushInterval", "KAFKA_FLUSH_INTERVAL", APR_USEC_PER_SEC / 1000,
    60 * APR_USEC_PER_SEC,     "1ms to 60s",           "500ms"};
const ue_time_rule_t ue_rule_drain_timeout = {
    "UsageKafkaDrainTimeout", NULL,         0,
    60 * APR_USEC_PER_SEC,    "0ms to 60s", "4s"};

const char *ue_number_parse(int *value, const ue_number_rule_t *rule,
                            const char *name, const char *text, apr_pool_t *p)
{
    apr_int64_t n = 0;

    if (is_digits(text, strlen(text)) && strlen(text) < 10) {
        n = apr_atoi64(text);
        if (n >= rule->min && n <= rule->max) {
            *value = (int)n;
            return NULL;
        }
    }
    return apr_psprintf(p,
                        "%s takes a whole number from %d to %d, such as %s; "
                        "\"%s\" is none",
                        name, rule->min, rule->max, rule->example, text);
}

/** httpd's own parser takes "500msec" and "500", and no "10m". */
static const struct {
    const char *name;
    apr_interval_time_t length;
} units[] = {{"ms", APR_USEC_PER_SEC / 1000}, {"s", APR_USEC_PER_SEC},
             {"m", 60 * APR_USEC_PER_SEC},    {"min", 60 * APR_USEC_PER_SEC},
             {"h", 3600 * APR_USEC_PER_SEC},  {"d", 86400 * APR_USEC_PER_SEC}};

const char *ue_time_span_parse(apr_interval_time_t *value,
                               const ue_time_rule_t *rule, const char *name,
                               const char *text, apr_pool_t *p)
{
    apr_size_t digits = strspn(text, "0123456789");
    apr_size_t i;

    for (i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (digits > 0 && digits < 10
            && !strcmp(text + digits, units[i].name)) {
            apr_interval_time_t t = apr_atoi64(text) * units[i].length;

            if (t >= rule->min && t <= rule->max) {
                *value = t;
                return NULL;
            }
        }
    }
    return apr_psprintf(p,
                        "%s takes a time with its unit (ms, s, min, h or d), "
                        "%s, such as %s; \"%s\" is none",
                        name, rule->range, rule->example, text);
}

#define NUMBER_DIRECTIVE(function, field)                                      \
    static const char *function(cmd_parms *cmd, void *unused, const char *arg) \
    {                                                                          \
        return ue_number_parse(&conf_of(cmd)->field, cmd->info,                \
                               cmd->cmd->name, arg, cmd->pool);                \
    }

#define TIME_DIRECTIVE(function, field)                                        \
    static const char *function(cmd_parms *cmd, void *unused, const char *arg) \
    {                                                                          \
        return ue_time_span_parse(&conf_of(cmd)->field, cmd->info,             \
                                  cmd->cmd->name, arg, cmd->pool);             \
    }

NUMBER_DIRECTIVE(set_batch_size, batch_size)
NUMBER_DIRECTIVE(set_buffer_size, buffer_size)
NUMBER_DIRECTIVE(set_slots, slots)
TIME_DIRECTIVE(set_flush_interval, flush_interval)
TIME_DIRECTIVE(set_drain_timeout, drain_timeout)

static const char *add_exempt(cmd_parms *cmd, void *unused, const char *path)
{
    ue_conf_t *conf = conf_of(cmd);

    if (path[0] != '/' || !ue_path_is_plain(path, strlen(path))) {
        return apr_psprintf(cmd->pool,
                            "UsageExempt takes a path such as /healthz, or a "
                            "prefix that ends in a slash such as /docs/, "
                            "written as a server reads it (no \"..\", \"//\" "
                            "or escapes); \"%s\" is none",
                            path);
    }
    if (strpbrk(path, "?#")) {
        return apr_psprintf(cmd->pool,
                            "UsageExempt takes a path such as /healthz, "
                            "without a query; \"%s\" has one",
                            path);
    }
    if (!conf->exempt) {
        conf->exempt = apr_array_make(cmd->pool, 4, sizeof(const char *));
    }
    APR_ARRAY_PUSH(conf->exempt, const char *) = path;
    return NULL;
}

static const char *set_request_id(cmd_parms *cmd, void *unused, const char *arg)
{
    if (strcasecmp(arg, "new") && strcasecmp(arg, "trust")) {
        return apr_psprintf(cmd->pool,
                            "UsageRequestId is new or trust; \"%s\" is neither",
                            arg);
    }
    conf_of(cmd)->trust_request_id = !strcasecmp(arg, "trust");
    return NULL;
}

static const char *set_overflow(cmd_parms *cmd, void *unused, const char *arg)
{
    if (strcasecmp(arg, "drop") && strcasecmp(arg, "refuse")) {
        return apr_psprintf(cmd->pool,
                            "UsageOverflow is drop or refuse; \"%s\" is "
                            "neither",
                            arg);
    }
    conf_of(cmd)->overflow =
        strcasecmp(arg, "drop") ? UE_OVERFLOW_REFUSE : UE_OVERFLOW_DROP;
    return NULL;
}

static const char *set_billable(cmd_parms *cmd, void *unused, const char *arg)
{
    ue_statusset_t *set = apr_pcalloc(cmd->pool, sizeof(*set));
    const char *why;

    if (ue_statusset_parse(set, arg, &why) != APR_SUCCESS) {
        return apr_psprintf(cmd->pool,
                            "UsageBillableStatus takes status codes and ranges "
                            "of them, separated by commas, such as %s; "
                            "\"%s\": %s",
                            UE_BILLABLE_STATUS_DEFAULT, arg, why);
    }
    conf_of(cmd)->billable = set;
    return NULL;
}

static int is_token(const char *s)
{
    const char *c = s;

    while (apr_isalnum(*c) || (*c && strchr("!#$%&'*+-.^_`|~", *c))) {
        c++;
    }
    return c > s && !*c;
}

/** Headers that carry something else, so that no key can be read from them. */
static int is_taken(const char *name)
{
    static const char *const taken[] = {"X-Request-Id",
                                        "X-Organization-Id",
                                        "X-Api-Key-Id",
                                        "Connection",
                                        "Content-Length",
                                        "Content-Type",
                                        "Cookie",
                                        "Expect",
                                        "Host",
                                        "TE",
                                        "Transfer-Encoding",
                                        "Upgrade"};
    apr_size_t i;

    for (i = 0; i < sizeof(taken) / sizeof(taken[0]); i++) {
        if (!strcasecmp(name, taken[i])) {
            return 1;
        }
    }
    return 0;
}

static const char *set_key_header(cmd_parms *cmd, void *unused,
                                  const char *name)
{
    ue_keyheader_t *header = apr_pcalloc(cmd->pool, sizeof(*header));

    if (!is_token(name) || is_taken(name)) {
        return apr_psprintf(cmd->pool,
                            "UsageKeyHeader takes Authorization, or the name "
                            "of a header of your own such as X-API-Key; "
                            "\"%s\" can't be used",
                            name);
    }
    header->authorization = !strcasecmp(name, "Authorization");
    header->header = header->authorization ? NULL : name;
    conf_of(cmd)->key_header = header;
    return NULL;
}

const char *ue_keystore_url_parse(const char **url, const char *name,
                                  const char *text, apr_pool_t *p)
{
    const char *why = ue_keystore_check(text);
    const char *path;

    *url = text;
    if (why) {
        return apr_psprintf(p, "%s: %s", name, why);
    }
    if (strncmp(text, "file:", 5) != 0) {
        return NULL;
    }
    path = ap_server_root_relative(p, text + 5);
    if (!path) {
        return apr_psprintf(p, "%s: \"%s\" is no path", name, text + 5);
    }
    *url = apr_pstrcat(p, "file:", path, NULL);
    return NULL;
}

static const char *set_keystore(cmd_parms *cmd, void *unused, const char *arg)
{
    return ue_keystore_url_parse(&conf_of(cmd)->keystore_url, "UsageKeyStore",
                                 arg, cmd->pool);
}

#define DAY (86400 * APR_USEC_PER_SEC)

/** The times of UsageKeyCache. */
static const struct {
    const char *name;
    apr_size_t offset;
    ue_time_rule_t rule;
} cache_times[] = {
    {"ttl=",
     APR_OFFSETOF(ue_keycache_conf_t, ttl),
     {"UsageKeyCache ttl=", NULL, APR_USEC_PER_SEC, DAY, "1s to 1d",
      "ttl=60s"}},
    {"negative=",
     APR_OFFSETOF(ue_keycache_conf_t, negative),
     {"UsageKeyCache negative=", NULL, 0, DAY / 24, "0s to 1h", "negative=5s"}},
    {"stale=",
     APR_OFFSETOF(ue_keycache_conf_t, stale),
     {"UsageKeyCache stale=", NULL, 0, 7 * DAY, "0s to 7d", "stale=10min"}}};

static const ue_number_rule_t cache_size = {"UsageKeyCache size=", NULL, 100,
                                            10000000, "size=100000"};

#define CACHE_RIGHT "UsageKeyCache ttl=60s negative=5s stale=10min size=100000"

static const char *set_cache_word(ue_keycache_conf_t *cache, const char *word,
                                  apr_pool_t *p)
{
    apr_size_t i;

    for (i = 0; i < sizeof(cache_times) / sizeof(cache_times[0]); i++) {
        const char *name = cache_times[i].name;
        apr_interval_time_t *to =
            (void *)((char *)cache + cache_times[i].offset);

        if (!strncasecmp(word, name, strlen(name)) && *to == UE_UNSET) {
            return ue_time_span_parse(to, &cache_times[i].rule,
                                      cache_times[i].rule.directive,
                                      word + strlen(name), p);
        }
    }
    if (!strncasecmp(word, "size=", 5) && cache->size == UE_UNSET) {
        return ue_number_parse(&cache->size, &cache_size, cache_size.directive,
                               word + 5, p);
    }
    return apr_psprintf(p,
                        "UsageKeyCache takes ttl=, negative=, stale= and "
                        "size=, each once, such as " CACHE_RIGHT
                        "; \"%s\" can't stand there",
                        word);
}

static const char *set_key_cache(cmd_parms *cmd, void *unused, int argc,
                                 char *const argv[])
{
    ue_keycache_conf_t *cache = apr_palloc(cmd->pool, sizeof(*cache));
    const char *error =
        argc ? NULL
             : "UsageKeyCache takes what it changes, such as " CACHE_RIGHT;
    int i;

    cache->ttl = cache->negative = cache->stale = UE_UNSET;
    cache->size = UE_UNSET;
    for (i = 0; i < argc && !error; i++) {
        error = set_cache_word(cache, argv[i], cmd->pool);
    }
    conf_of(cmd)->key_cache = cache;
    return error;
}

static const char *set_key_secret(cmd_parms *cmd, void *unused, const char *arg)
{
    ue_keysecret_conf_t *conf = apr_palloc(cmd->pool, sizeof(*conf));
    const char *why;

    /* What stands there instead may be the secret itself. */
    conf->file = !strncmp(arg, "file:", 5) && arg[5]
                     ? ap_server_root_relative(cmd->pool, arg + 5)
                     : NULL;
    if (!conf->file) {
        return "UsageKeySecret takes file:PATH, such as "
               "file:/etc/apache2/usage-keys.secret, whose bytes are the "
               "secret";
    }
    if (ue_keysecret_read(&conf->secret, conf->file, &why, cmd->pool)
        != APR_SUCCESS) {
        return apr_psprintf(cmd->pool,
                            "UsageKeySecret: %s; right would be such as "
                            "file:/etc/apache2/usage-keys.secret",
                            why);
    }
    conf_of(cmd)->key_secret = conf;
    return NULL;
}

#define LIMIT_RIGHT "UsageRateLimit " UE_LIMIT_SYNTAX

static const char *add_rate_limit(cmd_parms *cmd, void *unused, int argc,
                                  char *const argv[])
{
    ue_conf_t *conf = conf_of(cmd);
    ue_limit_t limit;
    const char *why;
    int i;

    if (!conf->rate_limits) {
        conf->rate_limits = apr_array_make(cmd->pool, 4, sizeof(limit));
    }
    if (argc == 1 && !strcasecmp(argv[0], "off")) {
        apr_array_clear(conf->rate_limits);
        return NULL;
    }
    if (ue_limit_parse(&limit, argc, argv, &why, cmd->pool) != APR_SUCCESS) {
        return apr_psprintf(cmd->pool,
                            "UsageRateLimit takes off, or a rate and whose, "
                            "such as " LIMIT_RIGHT "; %s",
                            why);
    }
    for (i = 0; i < conf->rate_limits->nelts; i++) {
        const ue_limit_t *old =
            &APR_ARRAY_IDX(conf->rate_limits, i, ue_limit_t);

        if (old->by == limit.by && old->rate.period == limit.rate.period) {
            return apr_psprintf(cmd->pool,
                                "UsageRateLimit: there is a limit by=%s in "
                                "the same unit of time already; make it one, "
                                "such as " LIMIT_RIGHT,
                                ue_limitby_name(limit.by));
        }
    }
    APR_ARRAY_PUSH(conf->rate_limits, ue_limit_t) = limit;
    return NULL;
}

static const char *set_limit_failure(cmd_parms *cmd, void *unused,
                                     const char *arg)
{
    static const char *const words[] = {[UE_LIMIT_LOCAL] = "local",
                                        [UE_LIMIT_OPEN] = "open",
                                        [UE_LIMIT_CLOSED] = "closed"};
    int i;

    for (i = UE_LIMIT_LOCAL; i <= UE_LIMIT_CLOSED; i++) {
        if (!strcasecmp(arg, words[i])) {
            conf_of(cmd)->limit_failure = i;
            return NULL;
        }
    }
    return apr_psprintf(cmd->pool,
                        "UsageLimitFailure is local, open or closed; \"%s\" "
                        "is none of them",
                        arg);
}

static const char *set_event_file(cmd_parms *cmd, void *unused, const char *arg)
{
    const char *path =
        *arg && *arg != '|' ? ap_server_root_relative(cmd->pool, arg) : NULL;
    const char *dir;
    apr_finfo_t at;

    if (!path) {
        return apr_psprintf(cmd->pool,
                            "UsageEventFile takes the path of a file, such as "
                            "logs/usage-events.jsonl; \"%s\" is none",
                            arg);
    }
    if (apr_stat(&at, path, APR_FINFO_TYPE, cmd->temp_pool) == APR_SUCCESS
        && at.filetype != APR_REG) {
        return apr_psprintf(cmd->pool,
                            "UsageEventFile takes the path of a file, such as "
                            "logs/usage-events.jsonl; %s is no regular file",
                            path);
    }
    dir = ap_make_dirstr_parent(cmd->temp_pool, path);
    if (apr_stat(&at, dir, APR_FINFO_TYPE, cmd->temp_pool) != APR_SUCCESS
        || at.filetype != APR_DIR) {
        return apr_psprintf(cmd->pool,
                            "UsageEventFile: there is no directory %s; make "
                            "it, or name one that is there, as in "
                            "logs/usage-events.jsonl",
                            dir);
    }
    conf_of(cmd)->event_file = path;
    return NULL;
}

#define SPOOL_MOST "max=1g"
#define SPOOL_LEAST (APR_INT64_C(1) << 20)
#define SPOOL_LARGEST (APR_INT64_C(200) << 30)

/** Read "max=1g". */
static int read_most(apr_off_t *most, const char *arg)
{
    apr_size_t digits;
    apr_int64_t n;

    if (strncmp(arg, "max=", 4)) {
        return 0;
    }
    arg += 4;
    digits = strspn(arg, "0123456789");
    if (digits == 0 || digits > 12) {
        return 0;
    }
    n = apr_atoi64(arg);
    switch (arg[digits]) {
    case 'm':
        n <<= 20;
        break;
    case 'g':
        n = n < 1000 ? n << 30 : SPOOL_LARGEST + 1;
        break;
    default:
        return 0;
    }
    *most = (apr_off_t)n;
    return !arg[digits + 1] && n >= SPOOL_LEAST && n <= SPOOL_LARGEST;
}

/** Paths are compared as texts. */
static const char *without_slash(const char *path, apr_pool_t *p)
{
    size_t len = strlen(path);

    while (len > 1 && path[len - 1] == '/') {
        len--;
    }
    return apr_pstrmemdup(p, path, len);
}

static const char *set_spool(cmd_parms *cmd, void *unused, const char *dir,
                             const char *most)
{
    ue_conf_t *conf = conf_of(cmd);
    const char *path = *dir ? ap_server_root_relative(cmd->pool, dir) : NULL;

    if (!path) {
        return apr_psprintf(cmd->pool,
                            "UsageSpool takes a directory on a local disk, "
                            "such as /var/spool/apache2/usage; \"%s\" is none",
                            dir);
    }
    if (!read_most(&conf->spool_most, most ? most : SPOOL_MOST)) {
        return apr_psprintf(cmd->pool,
                            "UsageSpool takes, behind its directory, the "
                            "bytes that all its files may have, from max=1m "
                            "to max=200g, such as " SPOOL_MOST
                            "; \"%s\" is none",
                            most);
    }
    conf->spool = without_slash(path, cmd->pool);
    return NULL;
}

static const char *set_brokers(cmd_parms *cmd, void *unused, const char *arg)
{
    const char *why = ue_kafka_brokers_check(arg, cmd->pool);

    conf_of(cmd)->kafka_brokers = arg;
    return why ? apr_psprintf(cmd->pool, "UsageKafkaBrokers %s", why) : NULL;
}

static const char *set_topic(cmd_parms *cmd, void *unused, const char *arg)
{
    const char *why = ue_kafka_topic_check(arg, cmd->pool);

    conf_of(cmd)->kafka_topic = arg;
    return why ? apr_psprintf(cmd->pool, "UsageKafkaTopic %s", why) : NULL;
}

static const char *add_kafka_option(cmd_parms *cmd, void *unused,
                                    const char *name, const char *value)
{
    const ue_kafka_option_t option = {name, value};
    const char *why = ue_kafka_option_check(name, value, cmd->pool);
    ue_conf_t *conf = conf_of(cmd);

    if (why) {
        return apr_psprintf(cmd->pool, "UsageKafkaOption %s", why);
    }
    if (!conf->kafka_options) {
        conf->kafka_options =
            apr_array_make(cmd->pool, 8, sizeof(ue_kafka_option_t));
    }
    APR_ARRAY_PUSH(conf->kafka_options, ue_kafka_option_t) = option;
    return NULL;
}

const command_rec ue_directives[] = {
    AP_INIT_FLAG("UsageEvents", set_flag, AT(enabled), RSRC_CONF,
                 "On: requests need a key and are recorded as UsageEvents"),
    AP_INIT_ITERATE("UsageExempt", add_exempt, NULL, RSRC_CONF,
                    "paths such as /healthz, or prefixes such as /docs/, that "
                    "need no key and are not recorded"),
    AP_INIT_FLAG("UsageExemptPreflight", set_flag, AT(exempt_preflight),
                 RSRC_CONF,
                 "On: CORS preflight requests need no key and are not "
                 "recorded"),
    AP_INIT_TAKE1("UsageRequestId", set_request_id, NULL, RSRC_CONF,
                  "new, or trust: take a client's X-Request-Id if it is a "
                  "UUID"),
    AP_INIT_TAKE1("UsageBillableStatus", set_billable, NULL, RSRC_CONF,
                  "status codes that are billed, such as 101,200-499"),
    AP_INIT_FLAG("UsageKeyRequired", set_flag, AT(key_required), RSRC_CONF,
                 "Off: a request without a key passes and is not recorded"),
    AP_INIT_TAKE1("UsageKeyHeader", set_key_header, NULL, RSRC_CONF,
                  "the one header that may hold a key: Authorization, or a "
                  "name such as X-API-Key"),
    AP_INIT_FLAG("UsageKeyHide", set_flag, AT(key_hide), RSRC_CONF,
                 "Off: backends see the key"),
    AP_INIT_TAKE1("UsageKeyStore", set_keystore, NULL, RSRC_CONF,
                  "where keys are looked up: file:PATH, or postgresql://..."),
    AP_INIT_TAKE_ARGV("UsageKeyCache", set_key_cache, NULL, RSRC_CONF,
                      "how long keys from a database are kept, and how many, "
                      "such as ttl=60s negative=5s stale=10min size=100000"),
    AP_INIT_TAKE1("UsageKeySecret", set_key_secret, NULL, RSRC_CONF,
                  "the secret under which keys are hashed, such as "
                  "file:/etc/apache2/usage-keys.secret"),
    AP_INIT_TAKE_ARGV("UsageRateLimit", add_rate_limit, NULL, RSRC_CONF,
                      "how many requests a key, an organization or a client "
                      "may make, such as " UE_LIMIT_SYNTAX),
    AP_INIT_TAKE1("UsageLimitFailure", set_limit_failure, NULL, RSRC_CONF,
                  "local, open or closed: what becomes of a request that "
                  "can't be counted"),
    AP_INIT_FLAG("UsageLimitDryRun", set_flag, AT(limit_dry_run), RSRC_CONF,
                 "On: who is over a limit is counted, and let in"),
    AP_INIT_FLAG("UsageKafka", set_flag, AT(kafka), RSRC_CONF,
                 "Off: no events to Kafka although brokers are named"),
    AP_INIT_TAKE1("UsageKafkaBrokers", set_brokers, NULL, RSRC_CONF,
                  "Kafka's brokers, such as kafka-1:9092,kafka-2:9092"),
    AP_INIT_TAKE1("UsageKafkaTopic", set_topic, NULL, RSRC_CONF,
                  "the topic that events go to, such as usage-events"),
    AP_INIT_TAKE2("UsageKafkaOption", add_kafka_option, NULL, RSRC_CONF,
                  "a property of librdkafka and its value, such as "
                  "compression.codec zstd"),
    AP_INIT_TAKE1("UsageKafkaBatchSize", set_batch_size,
                  (void *)&ue_rule_batch_size, RSRC_CONF,
                  "events that make a batch, such as 100"),
    AP_INIT_TAKE1("UsageKafkaFlushInterval", set_flush_interval,
                  (void *)&ue_rule_flush_interval, RSRC_CONF,
                  "how long an event may wait for its batch, such as 500ms"),
    AP_INIT_TAKE1("UsageKafkaBufferSize", set_buffer_size,
                  (void *)&ue_rule_buffer_size, RSRC_CONF,
                  "events that may wait for a child's background thread, such "
                  "as 1000"),
    AP_INIT_TAKE1("UsageKafkaDrainTimeout", set_drain_timeout,
                  (void *)&ue_rule_drain_timeout, RSRC_CONF,
                  "how long a stopping child may take to deliver, such as 4s"),
    AP_INIT_TAKE1("UsageEventFile", set_event_file, NULL, RSRC_CONF,
                  "a file that gets each event as a line of JSON, such as "
                  "logs/usage-events.jsonl"),
    AP_INIT_TAKE12("UsageSpool", set_spool, NULL, RSRC_CONF,
                   "a directory in which events wait on disk until they are "
                   "delivered, and the bytes it may have, such as max=1g"),
    AP_INIT_TAKE1("UsageOverflow", set_overflow, NULL, RSRC_CONF,
                  "drop or refuse: what happens when there is no room for an "
                  "event"),
    AP_INIT_TAKE1("UsageJournalSlots", set_slots, (void *)&ue_rule_slots,
                  RSRC_CONF,
                  "events that a child without UsageSpool can hold until they "
                  "are delivered, such as 16384"),
    {NULL}};
