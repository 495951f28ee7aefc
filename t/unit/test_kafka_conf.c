/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "unit.h"

#include <dirent.h>
#include <sys/stat.h>

#include <apr_strings.h>

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "kafka_conf.h"
#include "unit_c11_threads.h"

static apr_pool_t *pool;
static char dir[64];

static int set_up(void **state)
{
    snprintf(dir, sizeof dir, "/tmp/ue-kafka-conf-XXXXXX");
    assert_non_null(mkdtemp(dir));
    return apr_pool_create(&pool, NULL);
}

static int tear_down(void **state)
{
    DIR *d = opendir(dir);
    struct dirent *one;

    while (d && (one = readdir(d))) {
        if (one->d_name[0] != '.') {
            unlink(apr_pstrcat(pool, dir, "/", one->d_name, NULL));
        }
    }
    closedir(d);
    rmdir(dir);
    apr_pool_destroy(pool);
    return 0;
}

static const char *check(const char *name, const char *value)
{
    return ue_kafka_option_check(name, value, pool);
}

/** A property as it is in a configuration; "" where it isn't set. */
static const char *get(rd_kafka_conf_t *conf, const char *name)
{
    char *value;
    size_t size = 0;

    if (rd_kafka_conf_get(conf, name, NULL, &size) != RD_KAFKA_CONF_OK) {
        return "";
    }
    value = apr_pcalloc(pool, size + 1);
    assert_int_equal(rd_kafka_conf_get(conf, name, value, &size),
                     RD_KAFKA_CONF_OK);
    return value;
}

static rd_kafka_conf_t *make(const ue_kafka_option_t *options, int count)
{
    rd_kafka_conf_t *conf;
    const char *why;
    apr_status_t rv = ue_kafka_conf_make(&conf, "one:1, two:2", options, count,
                                         dir, &why, pool);

    if (rv != APR_SUCCESS) {
        print_error("%s\n", why);
    }
    assert_int_equal(rv, APR_SUCCESS);
    assert_null(why);
    return conf;
}

static const char *refused(const ue_kafka_option_t *options, int count)
{
    rd_kafka_conf_t *conf;
    const char *why = NULL;

    assert_int_not_equal(
        ue_kafka_conf_make(&conf, "one", options, count, dir, &why, pool),
        APR_SUCCESS);
    assert_non_null(why);
    return why;
}

#define MAKE(options) make(options, UNIT_COUNT(options))
#define FAIL(options) refused(options, UNIT_COUNT(options))

static void assert_in(const char *part, const char *text)
{
    if (!text || !strstr(text, part)) {
        fail_msg("\"%s\" is not in: %s", part, text ? text : "(nothing)");
    }
}

/* One property ---------------------------------------------------------- */

static void test_conf_takes_what_librdkafka_takes(void **state)
{
    assert_null(check("linger.ms", "5"));
    assert_null(check("compression.codec", "zstd"));
    assert_null(check("message.timeout.ms", "1000"));
    assert_null(check("sasl.password", "x"));
    assert_in("linger.ms takes 0 .. 900000", check("linger.ms", "x"));
    assert_in("is no property", check("no.such", "x"));
    assert_in("; linger.ms is one", check("linger.m", "x"));
    assert_in("program's own", check("dr_msg_cb", "x"));
}

static void test_conf_judges_both_names_alike(void **state)
{
    static const char *const wrong[][3] = {
        {"acks", "request.required.acks", "1"},
        {"linger.ms", "queue.buffering.max.ms", "200"},
        {"retries", "message.send.max.retries", "3"},
        {"max.in.flight", "max.in.flight.requests.per.connection", "6"},
        {"bootstrap.servers", "metadata.broker.list", "a:1"},
    };
    size_t i;

    for (i = 0; i < UNIT_COUNT(wrong); i++) {
        const char *first = check(wrong[i][0], wrong[i][2]);
        const char *second = check(wrong[i][1], wrong[i][2]);

        assert_non_null(first);
        assert_non_null(second);
        /* but for the name that was given */
        assert_int_equal(strncmp(first, wrong[i][0], strlen(wrong[i][0])), 0);
        assert_string_equal(first + strlen(wrong[i][0]),
                            second + strlen(wrong[i][1]));
    }
}

/** librdkafka's own list of aliases, for what a producer can have. */
static void test_conf_knows_all_aliases(void **state)
{
    char *page = NULL;
    size_t size;
    FILE *f = open_memstream(&page, &size);
    char *line, *state_of;
    int found = 0;

    rd_kafka_conf_properties_show(f);
    fclose(f);
    for (line = strtok_r(page, "\n", &state_of); line;
         line = strtok_r(NULL, "\n", &state_of)) {
        const char *at = strstr(line, "Alias for `");
        char name[64], other[64];

        if (at && !strstr(line, "|  C  |")) {
            assert_int_equal(sscanf(line, "%63s", name), 1);
            assert_int_equal(sscanf(at, "Alias for `%63[^`]", other), 1);
            if (!ue_kafka_option_same(name, other)) {
                fail_msg("%s is another name for %s", name, other);
            }
            found++;
        }
    }
    free(page);
    assert_true(found >= 8);
    assert_false(ue_kafka_option_same("acks", "retries"));
    assert_true(ue_kafka_option_same("acks", "acks"));
}

static void test_conf_takes_our_values_in_any_spelling(void **state)
{
    static const char *const right[][2] = {
        {"enable.idempotence", "true"},
        {"enable.idempotence", "TRUE"},
        {"enable.idempotence", "1"},
        {"acks", "all"},
        {"acks", "-1"},
        {"request.required.acks", "all"},
        {"batch.size", "2000000"},
        {"max.in.flight", "5"},
        {"max.in.flight", "1"},
        {"linger.ms", "100"},
        {"queue.buffering.max.messages", "0"},
        {"partitioner", "consistent_random"},
    };
    size_t i;

    for (i = 0; i < UNIT_COUNT(right); i++) {
        assert_null(check(right[i][0], right[i][1]));
    }
}

static void test_conf_repeats_no_secret(void **state)
{
    static const char *const wrong[][2] = {
        {"geheim99", "sasl.password"},  {"geheim99", "x"},
        {"sasl.password=geheim99", ""}, {"Geheim99.geheim99", "x"},
        {"sasl.pasword", "geheim99"},   {"sasl.jaas.config", "geheim99"},
        {"ssl_key", "geheim99"},        {"transactional.id", "geheim99"},
    };
    size_t i;

    for (i = 0; i < UNIT_COUNT(wrong); i++) {
        const char *why = check(wrong[i][0], wrong[i][1]);

        assert_non_null(why);
        assert_null(strstr(why, "eheim99"));
    }
    assert_null(strstr(ue_kafka_brokers_check("ssl://u:geheim99@host:1", pool),
                       "geheim99"));
}

/** Long and odd input, for the sanitizers. */
static void test_conf_bears_anything(void **state)
{
    uint64_t seed = 4;
    unsigned n;

    for (n = 0; n < unit_loops(2000); n++) {
        char name[300], value[300];
        size_t len = unit_random(&seed) % (sizeof name - 1);
        size_t i;

        for (i = 0; i < len; i++) {
            name[i] = n % 2 ? (char)(unit_random(&seed) % 255 + 1)
                            : "abcdefghij._-="[unit_random(&seed) % 14];
            value[i] = (char)(unit_random(&seed) % 255 + 1);
        }
        name[len] = value[len] = '\0';
        assert_non_null(check(name, value));
        check("client.id", value);
        check("linger.ms", value);
        ue_kafka_brokers_check(value, pool);
        ue_kafka_topic_check(value, pool);
        if (n % 100 == 0) {
            apr_pool_clear(pool);
        }
    }
}

/* Brokers and topics ---------------------------------------------------- */

static void test_conf_brokers(void **state)
{
    static const char *const right[] = {
        "a",         "a:1",           "a:65535,b",     "[::1]:9092,[fe80::1]",
        "a_b-c.d:1", "a:1, b:2 ,c:3", "127.0.0.1:9092"};
    static const char *const wrong[] = {
        "",    ",",       "a,",    ",a",       "a,,b",      "a:",
        "a:0", "a:65536", "a b",   "a:1:2",    "ssl://a:1", "::1",
        "[]",  "[::1",    "[g]:1", "a:999999", "a@b",       "a;b"};
    size_t i;

    for (i = 0; i < UNIT_COUNT(right); i++) {
        assert_null(ue_kafka_brokers_check(right[i], pool));
    }
    for (i = 0; i < UNIT_COUNT(wrong); i++) {
        assert_in("takes HOST[:PORT]", ue_kafka_brokers_check(wrong[i], pool));
    }
}

static void test_conf_topics(void **state)
{
    char name[UE_TOPIC_MAX + 2];

    memset(name, 'a', sizeof name);
    name[UE_TOPIC_MAX + 1] = '\0';
    assert_in("usage-events", ue_kafka_topic_check(name, pool));
    name[UE_TOPIC_MAX] = '\0';
    assert_null(ue_kafka_topic_check(name, pool));
    assert_int_equal(strlen(name) + strlen(UE_LEDGER_SUFFIX), 249);
    assert_null(ue_kafka_topic_check("A.b_c-9", pool));
    assert_null(ue_kafka_topic_check("...", pool));
    assert_non_null(ue_kafka_topic_check("", pool));
    assert_non_null(ue_kafka_topic_check(".", pool));
    assert_non_null(ue_kafka_topic_check("..", pool));
    assert_non_null(ue_kafka_topic_check("a/b", pool));
}

/* All together ---------------------------------------------------------- */

static void test_conf_defaults(void **state)
{
    rd_kafka_conf_t *conf = make(NULL, 0);

    assert_string_equal(get(conf, "bootstrap.servers"), "one:1,two:2");
    assert_string_equal(get(conf, "enable.idempotence"), "true");
    assert_string_equal(get(conf, "acks"), "-1");
    assert_string_equal(get(conf, "compression.codec"), "snappy");
    assert_string_equal(get(conf, "batch.size"), "2000000");
    assert_string_equal(get(conf, "message.max.bytes"), "2000000");
    assert_string_equal(get(conf, "message.timeout.ms"), "0");
    assert_string_equal(get(conf, "socket.nagle.disable"), "false");
    assert_true(UE_KAFKA_BATCH_BYTES < atol(get(conf, "batch.size")));
    assert_int_equal(UE_KAFKA_BATCH_EVENTS,
                     atol(get(conf, "batch.num.messages")));
}

/** All that the rules demand holds of what is set when nobody says anything. */
static void test_conf_defaults_are_allowed(void **state)
{
    static const char *const names[] = {"enable.idempotence",
                                        "acks",
                                        "retries",
                                        "max.in.flight",
                                        "linger.ms",
                                        "queuing.strategy",
                                        "partitioner",
                                        "batch.num.messages",
                                        "batch.size",
                                        "message.max.bytes",
                                        "delivery.report.only.error",
                                        "enable.gapless.guarantee",
                                        "api.version.request",
                                        "queue.buffering.max.messages",
                                        "queue.buffering.max.kbytes"};
    rd_kafka_conf_t *conf = make(NULL, 0);
    size_t i;

    for (i = 0; i < UNIT_COUNT(names); i++) {
        const char *value = get(conf, names[i]);

        /* librdkafka itself lowers it to 5 */
        if (strcmp(names[i], "max.in.flight")) {
            assert_null(check(names[i], value));
        }
    }
}

static void test_conf_options_go_first(void **state)
{
    static const ue_kafka_option_t options[] = {
        {"compression.type", "gzip"},    {"compression.codec", "lz4"},
        {"delivery.timeout.ms", "9000"}, {"linger.ms", "1"},
        {"queue.buffering.max.ms", "2"}, {"client.id", "mine"},
    };
    rd_kafka_conf_t *conf = MAKE(options);

    assert_string_equal(get(conf, "compression.codec"), "lz4");
    assert_string_equal(get(conf, "message.timeout.ms"), "9000");
    assert_string_equal(get(conf, "linger.ms"), "2");
    assert_string_equal(get(conf, "client.id"), "mine");
}

static void test_conf_nagle_is_off_for_tls(void **state)
{
    static const ue_kafka_option_t tls[] = {{"security.protocol", "SSL"}};
    static const ue_kafka_option_t sasl[] = {{"sasl.mechanism", "PLAIN"},
                                             {"sasl.username", "x"},
                                             {"sasl.password", "x"},
                                             {"security.protocol", "sasl_ssl"}};
    static const ue_kafka_option_t users[] = {{"socket.nagle.disable", "false"},
                                              {"security.protocol", "ssl"}};
    static const ue_kafka_option_t plain[] = {
        {"security.protocol", "ssl"}, {"security.protocol", "plaintext"}};

    assert_string_equal(get(MAKE(tls), "socket.nagle.disable"), "true");
    assert_string_equal(get(MAKE(sasl), "socket.nagle.disable"), "true");
    assert_string_equal(get(MAKE(users), "socket.nagle.disable"), "false");
    assert_string_equal(get(MAKE(plain), "socket.nagle.disable"), "false");
}

static void write_pki(void)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    FILE *f = fopen(apr_pstrcat(pool, dir, "/key.pem", NULL), "w");

    PEM_write_PrivateKey(f, key, EVP_aes_256_cbc(),
                         (const unsigned char *)"geheim99", 8, NULL, NULL);
    fclose(f);
    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
    X509_gmtime_adj(X509_getm_notBefore(cert), 0);
    X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    X509_set_pubkey(cert, key);
    X509_sign(cert, key, EVP_sha256());
    f = fopen(apr_pstrcat(pool, dir, "/cert.pem", NULL), "w");
    PEM_write_X509(f, cert);
    fclose(f);
    X509_free(cert);
    EVP_PKEY_free(key);
}

static void test_conf_reads_the_key(void **state)
{
    ue_kafka_option_t options[] = {{"security.protocol", "ssl"},
                                   {"ssl.ca.location", "cert.pem"},
                                   {"ssl.certificate.location", "cert.pem"},
                                   {"ssl.key.location", "key.pem"},
                                   {"ssl.key.password", "geheim99"}};
    rd_kafka_conf_t *conf;

    write_pki();
    conf = MAKE(options);
    assert_string_equal(get(conf, "ssl.key.location"), "");
    assert_in("-----BEGIN ENCRYPTED PRIVATE KEY", get(conf, "ssl.key.pem"));
    /* a path of its own, since children's directory is another */
    assert_string_equal(get(conf, "ssl.ca.location"),
                        apr_pstrcat(pool, dir, "/cert.pem", NULL));

    options[4].value = "falsch99";
    assert_in("ssl.key.location failed", FAIL(options));
    assert_null(strstr(FAIL(options), "falsch99"));
    assert_in("ssl.key.password must be given", refused(options, 4));
    options[1].value = "nowhere.pem";
    assert_in("ssl.ca.location: ", FAIL(options));
}

static void test_conf_says_what_does_not_fit(void **state)
{
    static const ue_kafka_option_t sasl[] = {
        {"security.protocol", "sasl_plaintext"},
        {"sasl.mechanism", "PLAIN"},
        {"sasl.username", "x"}};
    static const ue_kafka_option_t magic[] = {
        {"security.protocol", "sasl_plaintext"},
        {"sasl.mechanism", "MAGIC99"},
        {"sasl.password", "MAGIC99"}};

    assert_in("sasl.mechanism must be given", refused(sasl, 1));
    assert_in("sasl.username", FAIL(sasl));
    assert_in("sasl.mechanism: Unsupported", refused(magic, 2));
    assert_null(strstr(FAIL(magic), "MAGIC99"));
}

static int threads(void)
{
    DIR *d = opendir("/proc/self/task");
    int n = 0;

    while (readdir(d)) {
        n++;
    }
    closedir(d);
    return n - 2; /* . and .. */
}

static void test_conf_leaves_no_thread(void **state)
{
    static const ue_kafka_option_t options[] = {{"security.protocol", "ssl"}};
    int before = threads();
    unsigned n;

    for (n = 0; n < 5; n++) {
        MAKE(options);
        make(NULL, 0);
    }
    /* One that was joined may be in /proc for a moment longer. */
    for (n = 0; n < 2000 && threads() != before; n++) {
        apr_sleep(apr_time_from_msec(1));
    }
    assert_int_equal(threads(), before);
}

/** A ticket may take long, and is asked for by a command of the user's. */
static void test_conf_asks_for_no_ticket(void **state)
{
    const char *mark = apr_pstrcat(pool, dir, "/asked", NULL);
    const ue_kafka_option_t options[] = {
        {"security.protocol", "sasl_plaintext"},
        {"sasl.mechanism", "GSSAPI"},
        {"sasl.kerberos.kinit.cmd", apr_pstrcat(pool, "touch ", mark, NULL)}};
    struct stat at;
    rd_kafka_conf_t *conf = MAKE(options);

    assert_int_not_equal(stat(mark, &at), 0);
    assert_string_equal(get(conf, "sasl.kerberos.kinit.cmd"), options[2].value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conf_takes_what_librdkafka_takes),
        cmocka_unit_test(test_conf_judges_both_names_alike),
        cmocka_unit_test(test_conf_knows_all_aliases),
        cmocka_unit_test(test_conf_takes_our_values_in_any_spelling),
        cmocka_unit_test(test_conf_repeats_no_secret),
        cmocka_unit_test(test_conf_bears_anything),
        cmocka_unit_test(test_conf_brokers),
        cmocka_unit_test(test_conf_topics),
        cmocka_unit_test(test_conf_defaults),
        cmocka_unit_test(test_conf_defaults_are_allowed),
        cmocka_unit_test(test_conf_options_go_first),
        cmocka_unit_test(test_conf_nagle_is_off_for_tls),
        cmocka_unit_test(test_conf_reads_the_key),
        cmocka_unit_test(test_conf_says_what_does_not_fit),
        cmocka_unit_test(test_conf_leaves_no_thread),
        cmocka_unit_test(test_conf_asks_for_no_ticket),
    };
    int failed;

    if (apr_initialize() != APR_SUCCESS) {
        return 1;
    }
    failed = cmocka_run_group_tests(tests, set_up, tear_down);
    apr_terminate();
    return failed;
}
