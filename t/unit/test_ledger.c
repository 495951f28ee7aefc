/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * The ledger: records are those of docs/formats.md, byte for byte where they
 * are keys; losses are counted to the unit by many threads and in a full table;
 * what a dead child had no time to count is worked out.
 */
#include "unit.h"

#include <pthread.h>

#include <json-c/json.h>

#include "ledger.h"

#define HOUR 497222 /* 2026-09-21T14 */
#define STREAM_TEXT "000102030405060708090a0b0c0d0e0f"
#define ORG_TEXT "11223344-5566-4788-99aa-bbccddeeff00"
#define NIL_TEXT "00000000-0000-0000-0000-000000000000"

static const ue_uuid_t organization = {{0x11, 0x22, 0x33, 0x44, 0x55, 0x66,
                                        0x47, 0x88, 0x99, 0xaa, 0xbb, 0xcc,
                                        0xdd, 0xee, 0xff, 0x00}};
static ue_account_t *account;

static apr_time_t at_hour(uint32_t hour)
{
    return apr_time_from_sec((apr_time_t)hour * 3600);
}

static ue_identity_t identity_of_test(void)
{
    ue_target_t target = {"usage-events", "kafka:9092", ""};
    ue_stream_t instance = {{1}};
    ue_identity_t id;

    assert_int_equal(ue_ledger_new_identity(&id, &target, &instance),
                     APR_SUCCESS);
    for (uint8_t i = 0; i < sizeof(id.stream.b); i++) {
        id.stream.b[i] = i;
    }
    return id;
}

static int set_up(void **state)
{
    ue_identity_t id = identity_of_test();

    account = calloc(1, sizeof(*account));
    assert_non_null(account);
    ue_ledger_identify(account, &id);
    return 0;
}

static int tear_down(void **state)
{
    free(account);
    return 0;
}

static void lose(const ue_uuid_t *id, uint32_t hour, ue_loss_t cause)
{
    ue_ledger_lose(account, id, at_hour(hour) + 5, cause, UE_NO_LANE, 0);
}

static void lose_number(uint32_t lane, uint64_t number)
{
    ue_ledger_lose(account, &organization, at_hour(HOUR), UE_LOST_REJECTED,
                   lane, number);
}

/* ---- JSON ---- */

static json_object *parse(const char *json)
{
    json_tokener *tok = json_tokener_new();
    json_object *o;

    assert_non_null(tok);
    json_tokener_set_flags(tok,
                           JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    o = json_tokener_parse_ex(tok, json, (int)strlen(json));
    if (json_tokener_get_error(tok) != json_tokener_success) {
        fail_msg("json-c refuses %s", json);
    }
    json_tokener_free(tok);
    return o;
}

static json_object *member(json_object *o, const char *name)
{
    json_object *m = NULL;

    if (!json_object_object_get_ex(o, name, &m)) {
        fail_msg("no %s in %s", name, json_object_to_json_string(o));
    }
    return m;
}

static void check_text(json_object *o, const char *name, const char *want)
{
    assert_true(json_object_is_type(member(o, name), json_type_string));
    assert_string_equal(json_object_get_string(member(o, name)), want);
}

static void check_number(json_object *o, const char *name, uint64_t want)
{
    assert_true(json_object_is_type(member(o, name), json_type_int));
    assert_int_equal(json_object_get_uint64(member(o, name)), want);
}

static void check_json(json_object *o, const char *name, const char *want)
{
    assert_string_equal(json_object_to_json_string_ext(member(o, name), 0),
                        want);
}

static json_object *stream_record(const ue_long_open_t *open, int count)
{
    char *json = ue_ledger_stream_json(account, open, count);
    json_object *o;

    assert_non_null(json);
    assert_null(strchr(json, '\n'));
    o = parse(json);
    free(json);
    return o;
}

static void test_ledger_stream_record_has_the_members_of_its_page(void **state)
{
    static const char *const names[] = {
        "kind",     "stream",      "topic",      "host",
        "pid",      "opened",      "updated",    "state",
        "admitted", "waiting",     "partitions", "delivered",
        "lost",     "interrupted", "watermark",  "long"};
    json_object *o = stream_record(NULL, 0);
    size_t i;

    assert_int_equal(json_object_object_length(o), UNIT_COUNT(names));
    for (i = 0; i < UNIT_COUNT(names); i++) {
        member(o, names[i]);
    }
    json_object_put(o);
}

static void test_ledger_stream_record_says_what_is_counted(void **state)
{
    ue_long_open_t open[] = {{organization, 2}, {{{0}}, 1}};
    char host[256] = "";
    json_object *o;

    account->updated = 1790000000000042;
    account->watermark = 1789999999000000;
    account->state = UE_STREAM_ADOPTED;
    account->admitted = 100;
    account->delivered = 90;
    account->lost = 3;
    account->interrupted = 4;
    account->lanes = UE_LANES_MAX;
    account->lane[0].sent = 60;
    account->lane[0].delivered = 58;
    account->lane[4095].sent = UINT64_C(1) << 60;
    o = stream_record(open, 2);
    assert_int_equal(gethostname(host, sizeof(host) - 1), 0);
    check_text(o, "kind", "stream");
    check_text(o, "stream", STREAM_TEXT);
    check_text(o, "topic", "usage-events");
    check_text(o, "host", host);
    check_number(o, "pid", (uint64_t)getpid());
    check_text(o, "updated", "2026-09-21T14:13:20.000042Z");
    check_text(o, "watermark", "2026-09-21T14:13:19.000000Z");
    check_text(o, "state", "adopted");
    check_number(o, "admitted", 100);
    check_number(o, "waiting", 7);
    check_number(o, "delivered", 90);
    check_number(o, "lost", 3);
    check_number(o, "interrupted", 4);
    check_json(o, "partitions",
               "{\"0\":{\"sent\":60,\"delivered\":58},"
               "\"4095\":{\"sent\":1152921504606846976,\"delivered\":0}}");
    check_json(o, "long",
               "[{\"organization_id\":\"" ORG_TEXT "\",\"count\":2},"
               "{\"organization_id\":\"" NIL_TEXT "\",\"count\":1}]");
    json_object_put(o);
}

/* A request that was counted as lost before it was counted as admitted. */
static void test_ledger_stream_record_always_adds_up(void **state)
{
    json_object *o;

    account->admitted = 10;
    account->delivered = 9;
    account->lost = 3;
    o = stream_record(NULL, 0);
    check_number(o, "admitted", 12);
    check_number(o, "waiting", 0);
    json_object_put(o);
}

/* All partitions: the text grows. */
static void test_ledger_stream_record_holds_every_partition(void **state)
{
    json_object *o, *lanes;

    account->lanes = UE_LANES_MAX;
    for (uint32_t i = 0; i < UE_LANES_MAX; i++) {
        account->lane[i].sent = UINT64_MAX - i;
        account->lane[i].delivered = UINT64_MAX - i;
    }
    o = stream_record(NULL, 0);
    lanes = member(o, "partitions");
    assert_int_equal(json_object_object_length(lanes), UE_LANES_MAX);
    for (uint32_t i = 0; i < UE_LANES_MAX; i++) {
        char name[16];

        snprintf(name, sizeof(name), "%u", i);
        check_number(member(lanes, name), "sent", UINT64_MAX - i);
    }
    json_object_put(o);
}

static void test_ledger_stream_record_quotes_its_texts(void **state)
{
    ue_identity_t id = identity_of_test();
    json_object *o;

    strcpy(id.target.topic, "a\"b\\c\x01");
    memset(id.host, 1, sizeof(id.host) - 1);
    ue_ledger_identify(account, &id);
    o = stream_record(NULL, 0);
    check_text(o, "topic", "a\"b\\c\x01");
    assert_int_equal(json_object_get_string_len(member(o, "host")), 255);
    json_object_put(o);
}

static void test_ledger_states_have_the_words_of_the_page(void **state)
{
    assert_string_equal(ue_stream_state_name(UE_STREAM_OPEN), "open");
    assert_string_equal(ue_stream_state_name(UE_STREAM_CLOSED), "closed");
    assert_string_equal(ue_stream_state_name(UE_STREAM_ADOPTED), "adopted");
    assert_string_equal(ue_stream_state_name(UE_STREAM_UNCLEAN), "unclean");
    assert_string_equal(ue_stream_state_name((ue_stream_state_t)99), "unclean");
}

/* ---- identity ---- */

static void test_ledger_identity_stands_twice(void **state)
{
    char *first = (char *)&account->identity;
    char *again = (char *)&account->again;

    for (size_t byte = 0; byte < sizeof(ue_identity_t); byte++) {
        char bit = (char)(1u << byte % 8);

        assert_ptr_equal(ue_ledger_identity(account), &account->identity);
        first[byte] ^= bit;
        assert_ptr_equal(ue_ledger_identity(account), &account->again);
        again[byte] ^= bit;
        assert_null(ue_ledger_identity(account));
        assert_null(ue_ledger_stream_json(account, NULL, 0));
        first[byte] ^= bit;
        assert_ptr_equal(ue_ledger_identity(account), &account->identity);
        again[byte] ^= bit;
    }
}

/* With a good check: a forger's. */
static void test_ledger_identity_needs_texts_that_end(void **state)
{
    ue_identity_t id;
    char *texts[] = {id.host, id.target.topic, id.target.brokers,
                     id.target.event_file};
    size_t rooms[] = {sizeof(id.host), sizeof(id.target.topic),
                      sizeof(id.target.brokers), sizeof(id.target.event_file)};

    for (size_t i = 0; i < UNIT_COUNT(texts); i++) {
        id = identity_of_test();
        memset(texts[i], 1, rooms[i]);
        ue_ledger_identify(account, &id);
        assert_null(ue_ledger_identity(account));
        texts[i][rooms[i] - 1] = '\0';
        ue_ledger_identify(account, &id);
        assert_non_null(ue_ledger_identity(account));
    }
}

/* A host's name may be any bytes. */
static void test_ledger_stream_record_is_utf8(void **state)
{
    ue_identity_t id = identity_of_test();
    json_object *o;

    memset(id.host, 0xff, sizeof(id.host) - 1);
    ue_ledger_identify(account, &id);
    o = stream_record(NULL, 0);
    assert_in_range(json_object_get_string_len(member(o, "host")), 200, 256);
    json_object_put(o);
}

/* Numbers that were found only in slots are told, too. */
static void test_ledger_reconcile_tells_of_partitions_it_found(void **state)
{
    static uint64_t highest[UE_LANES_MAX], open[UE_LANES_MAX];
    json_object *o;

    highest[9] = 3;
    ue_ledger_reconcile(account, highest, open, 0);
    o = stream_record(NULL, 0);
    check_json(o, "partitions", "{\"9\":{\"sent\":3,\"delivered\":3}}");
    json_object_put(o);
}

static void test_ledger_zeros_are_no_identity(void **state)
{
    ue_loss_record_t record;
    uint32_t from = 0;

    memset(account, 0, sizeof(*account));
    assert_null(ue_ledger_identity(account));
    assert_int_equal(ue_ledger_next_loss(account, &from, 1, &record),
                     APR_NOTFOUND);
}

static void test_ledger_streams_differ(void **state)
{
    ue_target_t target = {"t", "b", "f"};
    ue_stream_t instance = {{1}};
    ue_identity_t a, b;

    assert_int_equal(ue_ledger_new_identity(&a, &target, &instance),
                     APR_SUCCESS);
    assert_int_equal(ue_ledger_new_identity(&b, &target, &instance),
                     APR_SUCCESS);
    assert_memory_not_equal(&a.stream, &b.stream, sizeof(a.stream));
    assert_memory_equal(&a.boot, &b.boot, sizeof(a.boot));
    assert_true(a.salt != b.salt);
    assert_int_equal(a.pid, getpid());
    assert_true(b.opened >= a.opened);
}

static void test_ledger_stream_is_written_and_read_as_hex(void **state)
{
    ue_stream_t stream = {{0}}, read;
    char text[UE_STREAM_HEX + 1];

    for (int i = 0; i < 256; i++) {
        memset(stream.b, i, sizeof(stream.b));
        stream.b[3] = (uint8_t)(255 - i);
        ue_stream_format(&stream, text);
        assert_int_equal(strlen(text), UE_STREAM_HEX);
        assert_int_equal(ue_stream_parse(&read, text, UE_STREAM_HEX),
                         APR_SUCCESS);
        assert_memory_equal(&read, &stream, sizeof(stream));
    }
    assert_int_equal(ue_stream_parse(&read, text, 31), APR_EINVAL);
    assert_int_equal(ue_stream_parse(&read, text, 33), APR_EINVAL);
    for (size_t i = 0; i < UE_STREAM_HEX; i++) {
        static const char bad[] = {'A', 'F', 'g', '/', ':', '`', '@', ' ', 0};

        for (size_t k = 0; k < sizeof(bad); k++) {
            strcpy(text, STREAM_TEXT);
            text[i] = bad[k];
            assert_int_equal(ue_stream_parse(&read, text, UE_STREAM_HEX),
                             APR_EINVAL);
        }
    }
}

/* ---- losses ---- */

static json_object *next_loss(uint32_t *from, int all, char key[160])
{
    ue_loss_record_t record;
    json_object *o;

    if (ue_ledger_next_loss(account, from, all, &record) != APR_SUCCESS) {
        return NULL;
    }
    o = parse(record.json);
    check_number(o, "count", record.count);
    if (key) {
        strcpy(key, record.key);
    }
    free(record.json);
    return o;
}

static uint64_t sum_of_records(uint32_t *records)
{
    uint32_t from = 0;
    uint64_t sum = 0;
    json_object *o;

    *records = 0;
    while ((o = next_loss(&from, 1, NULL)) != NULL) {
        sum += json_object_get_uint64(member(o, "count"));
        ++*records;
        json_object_put(o);
    }
    return sum;
}

static void test_ledger_loss_record_is_that_of_its_page(void **state)
{
    ue_loss_record_t record;
    uint32_t from = 0;

    lose(&organization, HOUR, UE_LOST_OVERFLOW);
    lose(&organization, HOUR, UE_LOST_OVERFLOW);
    assert_int_equal(ue_ledger_next_loss(account, &from, 0, &record),
                     APR_SUCCESS);
    assert_string_equal(record.key, STREAM_TEXT
                        "/2026-09-21T14:00:00Z/" ORG_TEXT "/overflow");
    assert_string_equal(
        record.json,
        "{\"kind\":\"loss\",\"stream\":\"" STREAM_TEXT
        "\",\"hour\":\"2026-09-21T14:00:00Z\",\"organization_id\":\"" ORG_TEXT
        "\",\"cause\":\"overflow\",\"count\":2,\"sequences\":{}}");
    free(record.json);
    assert_int_equal(ue_ledger_next_loss(account, &from, 0, &record),
                     APR_NOTFOUND);
    assert_int_equal(account->lost, 2);
}

static void test_ledger_losses_have_the_causes_of_the_page(void **state)
{
    static const char *const causes[] = {"overflow", "rejected", "shutdown",
                                         "expired",  "torn",     "unknown"};
    char key[160];
    uint32_t records;

    assert_int_equal(UNIT_COUNT(causes), UE_LOSSES);
    for (int i = 0; i < UE_LOSSES; i++) {
        uint32_t from = 0;
        json_object *o;

        memset(account->losses, 0, sizeof(account->losses));
        lose(&organization, HOUR, (ue_loss_t)i);
        o = next_loss(&from, 1, key);
        check_text(o, "cause", causes[i]);
        assert_string_equal(strrchr(key, '/') + 1, causes[i]);
        json_object_put(o);
    }
    assert_int_equal(sum_of_records(&records), 1);
}

static void check_hour(apr_time_t when, const char *want)
{
    uint32_t from = 0;
    json_object *o;

    memset(account->losses, 0, sizeof(account->losses));
    ue_ledger_lose(account, &organization, when, UE_LOST_TORN, UE_NO_LANE, 0);
    o = next_loss(&from, 1, NULL);
    assert_non_null(o);
    check_text(o, "hour", want);
    json_object_put(o);
}

static void test_ledger_hour_is_the_event_s(void **state)
{
    apr_time_t last = INT64_C(253402300799999999); /* of the year 9999 */

    check_hour(0, "1970-01-01T00:00:00Z");
    check_hour(at_hour(HOUR), "2026-09-21T14:00:00Z");
    check_hour(at_hour(HOUR) - 1, "2026-09-21T13:00:00Z");
    check_hour(at_hour(HOUR + 1) - 1, "2026-09-21T14:00:00Z");
    check_hour(last, "9999-12-31T23:00:00Z");
    check_hour(last + 1, "9999-12-31T23:00:00Z");
    check_hour(INT64_MAX, "9999-12-31T23:00:00Z");
    check_hour(-1, "1970-01-01T00:00:00Z");
    check_hour(INT64_MIN, "1970-01-01T00:00:00Z");
}

/* What garbage may say: something, and no more than that. */
static void test_ledger_hour_of_garbage_is_an_hour(void **state)
{
    uint32_t hours[] = {UINT32_MAX, UINT32_MAX - 1, 70389528, 0x80000000};

    for (size_t i = 0; i < UNIT_COUNT(hours); i++) {
        uint32_t from = 0;
        json_object *o;

        memset(account->losses, 0, sizeof(account->losses));
        lose(&organization, HOUR, UE_LOST_TORN);
        for (size_t k = 0; k < UE_LOSS_ROWS; k++) {
            account->losses[k].hour = hours[i];
        }
        o = next_loss(&from, 1, NULL);
        assert_int_equal(json_object_get_string_len(member(o, "hour")), 20);
        json_object_put(o);
    }
}

static void test_ledger_runs_of_numbers_are_told_by_partition(void **state)
{
    uint32_t from = 0, records;
    json_object *o;

    lose_number(7, 5);
    lose_number(7, 6);
    lose_number(7, 7);
    lose_number(2, 1);
    lose_number(7, 10);
    lose_number(11, 3);
    lose_number(7, 11);
    o = next_loss(&from, 1, NULL);
    check_number(o, "count", 7);
    check_json(o, "sequences",
               "{\"2\":[[1,1]],\"7\":[[5,7],[10,11]],\"11\":[[3,3]]}");
    json_object_put(o);
    assert_int_equal(sum_of_records(&records), 7);
    assert_int_equal(records, 1);
    assert_int_equal(ue_ledger_lost_of(account, 7), 5);
    assert_int_equal(ue_ledger_lost_of(account, 2), 1);
    assert_int_equal(ue_ledger_lost_of(account, 0), 0);
    for (uint64_t n = 0; n < 15; n++) {
        assert_int_equal(ue_ledger_has_lost(account, 7, n),
                         (n >= 5 && n <= 7) || n == 10 || n == 11);
        assert_int_equal(ue_ledger_has_lost(account, 2, n), n == 1);
        assert_false(ue_ledger_has_lost(account, 3, n));
    }
}

/* Those without a number are in the same record, and in none of its runs. */
static void test_ledger_losses_without_numbers_are_none_of_a_run(void **state)
{
    uint32_t from = 0;
    json_object *o;

    lose_number(1, 4);
    lose(&organization, HOUR, UE_LOST_REJECTED);
    lose(&organization, HOUR, UE_LOST_REJECTED);
    o = next_loss(&from, 1, NULL);
    check_number(o, "count", 3);
    check_json(o, "sequences", "{\"1\":[[4,4]]}");
    json_object_put(o);
    assert_null(next_loss(&from, 1, NULL));
    assert_int_equal(ue_ledger_lost_of(account, 1), 1);
}

static void test_ledger_tells_a_loss_again_when_it_grows(void **state)
{
    ue_loss_record_t record;
    uint32_t from = 0;

    lose(&organization, HOUR, UE_LOST_TORN);
    assert_int_equal(ue_ledger_next_loss(account, &from, 0, &record),
                     APR_SUCCESS);
    free(record.json);
    /* One more, while the record is on its way. */
    lose(&organization, HOUR, UE_LOST_TORN);
    ue_ledger_loss_told(account, record.row, record.count);
    from = 0;
    assert_int_equal(ue_ledger_next_loss(account, &from, 0, &record),
                     APR_SUCCESS);
    assert_int_equal(record.count, 2);
    free(record.json);
    ue_ledger_loss_told(account, record.row, record.count);
    from = 0;
    assert_int_equal(ue_ledger_next_loss(account, &from, 0, &record),
                     APR_NOTFOUND);
    from = 0;
    assert_int_equal(ue_ledger_next_loss(account, &from, 1, &record),
                     APR_SUCCESS);
    free(record.json);
}

/* ---- a full table ---- */

static ue_uuid_t organization_number(uint32_t n)
{
    ue_uuid_t id = {{1}};

    memcpy(id.b + 4, &n, sizeof(n));
    return id;
}

/* Far more organizations than rows: those without a row of their own are
 * counted under nobody's name. */
static void test_ledger_full_of_losses_still_adds_up(void **state)
{
    uint32_t count = 3 * UE_LOSS_ROWS, from = 0, records;
    uint64_t nobody = 0;
    json_object *o;

    for (uint32_t i = 0; i < count; i++) {
        ue_uuid_t id = organization_number(i);

        lose(&id, HOUR, UE_LOST_OVERFLOW);
    }
    assert_int_equal(account->lost, count);
    while ((o = next_loss(&from, 1, NULL)) != NULL) {
        const char *id = json_object_get_string(member(o, "organization_id"));

        if (!strcmp(id, NIL_TEXT)) {
            nobody += json_object_get_uint64(member(o, "count"));
        }
        else {
            check_number(o, "count", 1);
        }
        json_object_put(o);
    }
    assert_int_equal(sum_of_records(&records), count);
    assert_true(records > UE_LOSS_ROWS / 2);
    assert_int_equal(nobody, count - (records - 1));
}

/* The same with numbers: what was delivered is worked out of them, so one that
 * is lost must not pass for delivered. */
static void test_ledger_full_of_numbers_forgets_none(void **state)
{
    static uint64_t highest[UE_LANES_MAX], open[UE_LANES_MAX];
    uint32_t count = 2 * UE_LOSS_ROWS;

    for (uint32_t i = 0; i < count; i++) {
        lose_number(3, 2 * i + 1); /* no two in a row */
    }
    account->lane[3].sent = 2 * count;
    ue_ledger_reconcile(account, highest, open, 0);
    assert_int_equal(account->lost, count);
    assert_int_equal(account->delivered, count);
    assert_int_equal(account->admitted, 2 * count);
}

/* ---- many threads ---- */

#define THREADS 8

static void *lose_many(void *baton)
{
    uint64_t seed = (uintptr_t)baton;

    for (unsigned n = unit_loops(20000); n > 0; n--) {
        ue_uuid_t id = organization_number((uint32_t)(unit_random(&seed) % 20));

        lose(&id, HOUR + (uint32_t)(unit_random(&seed) % 3),
             (ue_loss_t)(unit_random(&seed) % UE_LOSSES));
    }
    return NULL;
}

static void test_ledger_counts_every_loss_of_many_threads(void **state)
{
    pthread_t threads[THREADS];
    uint64_t want = (uint64_t)THREADS * unit_loops(20000);
    uint32_t records;

    for (uintptr_t i = 0; i < THREADS; i++) {
        assert_int_equal(
            pthread_create(&threads[i], NULL, lose_many, (void *)i), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    assert_int_equal(account->lost, want);
    assert_int_equal(sum_of_records(&records), want);
    assert_true(records <= 20 * 3 * UE_LOSSES);
}

/* ---- after a dead child ---- */

static void test_ledger_reconcile_finds_what_was_not_counted(void **state)
{
    static uint64_t highest[UE_LANES_MAX], open[UE_LANES_MAX];

    memset(highest, 0, sizeof(highest));
    memset(open, 0, sizeof(open));
    account->lane[0].sent = 10;
    account->lane[0].delivered = 4;
    account->lane[5].sent = 3;
    account->lane[5].delivered = 3;
    lose_number(0, 2);
    lose(&organization, HOUR, UE_LOST_OVERFLOW);
    /* It gave out 11 and 12, and had no time to say so; three are in slots. */
    highest[0] = 12;
    open[0] = 3;
    ue_ledger_reconcile(account, highest, open, 8);
    assert_int_equal(account->lane[0].sent, 12);
    assert_int_equal(account->lane[0].delivered, 12 - 3 - 1);
    assert_int_equal(account->lane[5].sent, 3);
    assert_int_equal(account->lane[5].delivered, 3);
    assert_int_equal(account->delivered, 8 + 3);
    assert_int_equal(account->lost, 2);
    assert_int_equal(account->admitted, 11 + 2 + 8);
    /* Once more changes nothing. */
    ue_ledger_reconcile(account, highest, open, 8);
    assert_int_equal(account->admitted, 11 + 2 + 8);
}

static void test_ledger_reconcile_without_numbers_keeps_the_count(void **state)
{
    static uint64_t highest[UE_LANES_MAX], open[UE_LANES_MAX];

    account->delivered = 40;
    ue_ledger_reconcile(account, highest, open, 2);
    assert_int_equal(account->delivered, 40);
    assert_int_equal(account->admitted, 42);
}

static void test_ledger_reconcile_never_counts_below_nothing(void **state)
{
    static uint64_t highest[UE_LANES_MAX], open[UE_LANES_MAX];

    account->lane[1].sent = 2;
    open[1] = 5;
    ue_ledger_reconcile(account, highest, open, 5);
    assert_int_equal(account->lane[1].delivered, 0);
    assert_int_equal(account->admitted, 5);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_ledger_stream_record_has_the_members_of_its_page),
        TEST(test_ledger_stream_record_says_what_is_counted),
        TEST(test_ledger_stream_record_always_adds_up),
        TEST(test_ledger_stream_record_holds_every_partition),
        TEST(test_ledger_stream_record_quotes_its_texts),
        TEST(test_ledger_states_have_the_words_of_the_page),
        TEST(test_ledger_identity_stands_twice),
        TEST(test_ledger_identity_needs_texts_that_end),
        TEST(test_ledger_stream_record_is_utf8),
        TEST(test_ledger_reconcile_tells_of_partitions_it_found),
        TEST(test_ledger_zeros_are_no_identity),
        TEST(test_ledger_streams_differ),
        TEST(test_ledger_stream_is_written_and_read_as_hex),
        TEST(test_ledger_loss_record_is_that_of_its_page),
        TEST(test_ledger_losses_have_the_causes_of_the_page),
        TEST(test_ledger_hour_is_the_event_s),
        TEST(test_ledger_hour_of_garbage_is_an_hour),
        TEST(test_ledger_runs_of_numbers_are_told_by_partition),
        TEST(test_ledger_losses_without_numbers_are_none_of_a_run),
        TEST(test_ledger_tells_a_loss_again_when_it_grows),
        TEST(test_ledger_full_of_losses_still_adds_up),
        TEST(test_ledger_full_of_numbers_forgets_none),
        TEST(test_ledger_counts_every_loss_of_many_threads),
        TEST(test_ledger_reconcile_finds_what_was_not_counted),
        TEST(test_ledger_reconcile_without_numbers_keeps_the_count),
        TEST(test_ledger_reconcile_never_counts_below_nothing),
    };

    return cmocka_run_group_tests_name("ledger", tests, NULL, NULL);
}
