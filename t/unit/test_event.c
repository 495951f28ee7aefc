/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * Events as JSON. The bytes are those of docs/formats.md; beyond a few that are
 * written down here, our encoder is held against json-c, which must accept
 * under its strictest flags whatever we write and give back every value, and
 * against a second encoder written in the plainest way. Times are held against
 * libc's gmtime_r().
 */
#include "unit.h"

#include <time.h>

#include <json-c/json.h>

#include "event.h"

/* ---- strings ---- */

/* RFC 8259 as docs/formats.md has it, a byte at a time. */
static size_t plainest_string(char *to, const char *s, size_t len)
{
    char *p = to;

    *p++ = '"';
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)s[i];

        if (c < 0x20) {
            p += sprintf(p, "\\u%04x", c);
        }
        else if (c == '"' || c == '\\') {
            p += sprintf(p, "\\%c", c);
        }
        else {
            *p++ = (char)c;
        }
    }
    *p++ = '"';
    return (size_t)(p - to);
}

/* Encode into as much room as is promised to be enough, and not a byte more. */
static size_t encode(const char *s, size_t len, char **out)
{
    char *exact = malloc(len ? len : 1);
    size_t n;

    *out = malloc(6 * len + 2);
    assert_non_null(exact);
    assert_non_null(*out);
    memcpy(exact, s, len);
    n = (size_t)(ue_json_string(*out, exact, len) - *out);
    free(exact);
    return n;
}

static void check_string(const char *s, size_t len)
{
    char *want = malloc(6 * len + 3);
    char *out;
    size_t n = encode(s, len, &out);
    size_t m;

    assert_non_null(want);
    m = plainest_string(want, s, len);
    assert_int_equal(n, m);
    assert_memory_equal(out, want, m);
    free(out);
    free(want);
}

static void test_event_string_is_what_formats_say(void **state)
{
    static const struct {
        const char *s;
        const char *json;
    } cases[] = {
        {"", "\"\""},
        {"/v1/charge", "\"/v1/charge\""}, /* a slash is not escaped */
        {"a\"b\\c", "\"a\\\"b\\\\c\""},
        {"\n", "\"\\u000a\""},
        {"\r\t\b\f\x1f", "\"\\u000d\\u0009\\u0008\\u000c\\u001f\""},
        {"\x7f", "\"\x7f\""},
        {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80",
         "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\""},
        {"\xe2\x80\xa8<script>&'", "\"\xe2\x80\xa8<script>&'\""},
    };

    for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
        char *out;
        size_t n = encode(cases[i].s, strlen(cases[i].s), &out);

        assert_int_equal(n, strlen(cases[i].json));
        assert_memory_equal(out, cases[i].json, n);
        free(out);
    }
}

/* Every byte, at every distance from the steps of eight bytes. */
static void test_event_string_escapes_every_byte_at_any_offset(void **state)
{
    for (int c = 0; c < 256; c++) {
        for (size_t at = 0; at < 17; at++) {
            char s[17];

            memset(s, 'a', sizeof(s));
            s[at] = (char)c;
            check_string(s, sizeof(s));
            /* beside bytes that a sloppy test of eight would mix it up with */
            memset(s, c, sizeof(s));
            s[at] = '!';
            check_string(s, sizeof(s));
        }
    }
}

static void test_event_string_survives_random_bytes(void **state)
{
    static const char nasty[] = "\"\\\0\1\x1f\x20\x21\x22\x23\x5b\x5d\x7f\x80"
                                "\x9c\xa2\xdc\xff";
    uint64_t seed = 5;

    for (unsigned n = unit_loops(50000); n > 0; n--) {
        char s[64];
        size_t len = unit_random(&seed) % sizeof(s);

        for (size_t i = 0; i < len; i++) {
            uint64_t r = unit_random(&seed);

            s[i] = n % 2 ? (char)r : nasty[r % (sizeof(nasty) - 1)];
        }
        check_string(s, len);
    }
}

/* ---- whole events ---- */

static const ue_uuid_t request = {{0x01, 0x90, 0xa1, 0xb2, 0xc3, 0xd4, 0x7e,
                                   0xf5, 0x86, 0x97, 0xa8, 0xb9, 0xca, 0xdb,
                                   0xec, 0xfd}};
static const ue_uuid_t organization = {{0x11, 0x22, 0x33, 0x44, 0x55, 0x66,
                                        0x47, 0x88, 0x99, 0xaa, 0xbb, 0xcc,
                                        0xdd, 0xee, 0xff, 0x00}};
static const ue_uuid_t api_key = {{0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x49,
                                   0x88, 0x87, 0x76, 0x65, 0x54, 0x43, 0x32,
                                   0x21, 0x10}};

static ue_event_t make_event(const char *endpoint, size_t endpoint_len,
                             const char *method, size_t method_len)
{
    ue_event_t event = {.request_id = request,
                        .organization_id = organization,
                        .api_key_id = api_key,
                        .timestamp = 1790000000000042,
                        .response_time_ms = 12,
                        .status_code = 200,
                        .billable = 1,
                        .method = method,
                        .method_len = method_len,
                        .endpoint = endpoint,
                        .endpoint_len = endpoint_len};

    return event;
}

static void test_event_json_has_nine_keys_in_order_and_no_spaces(void **state)
{
    static const char want[] =
        "{\"request_id\":\"0190a1b2-c3d4-7ef5-8697-a8b9cadbecfd\","
        "\"organization_id\":\"11223344-5566-4788-99aa-bbccddeeff00\","
        "\"api_key_id\":\"ffeeddcc-bbaa-4988-8776-655443322110\","
        "\"endpoint\":\"/v1/charge\",\"method\":\"POST\",\"status_code\":200,"
        "\"response_time_ms\":12,\"timestamp\":\"2026-09-21T14:13:20.000042Z\","
        "\"billable\":true}";
    ue_event_t event = make_event("/v1/charge", 10, "POST", 4);
    char json[UE_EVENT_JSON_MAX];
    size_t n = ue_event_json(&event, json);

    assert_int_equal(n, sizeof(want) - 1);
    assert_memory_equal(json, want, n);
}

static void test_event_json_of_an_interrupted_request(void **state)
{
    static const char tail[] =
        "\"status_code\":0,\"response_time_ms\":0,"
        "\"timestamp\":\"1970-01-01T00:00:00.000000Z\",\"billable\":false}";
    ue_event_t event = make_event("/", 1, "GET", 3);
    char json[UE_EVENT_JSON_MAX];
    size_t n;

    event.status_code = 0;
    event.response_time_ms = 0;
    event.billable = 0;
    event.timestamp = 0;
    n = ue_event_json(&event, json);
    assert_true(n > sizeof(tail));
    assert_memory_equal(json + n - (sizeof(tail) - 1), tail, sizeof(tail) - 1);
}

/* Parse as strictly as json-c can, all of it. */
static json_object *parse(const char *json, size_t len)
{
    json_tokener *tok = json_tokener_new();
    json_object *o;

    assert_non_null(tok);
    json_tokener_set_flags(tok,
                           JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    o = json_tokener_parse_ex(tok, json, (int)len);
    if (json_tokener_get_error(tok) != json_tokener_success
        || json_tokener_get_parse_end(tok) != len) {
        fail_msg("json-c refuses %.*s", (int)len, json);
    }
    json_tokener_free(tok);
    return o;
}

static void check_member(json_object *o, const char *key, const char *value,
                         size_t len)
{
    json_object *m;

    assert_true(json_object_object_get_ex(o, key, &m));
    assert_true(json_object_is_type(m, json_type_string));
    assert_int_equal(json_object_get_string_len(m), len);
    assert_memory_equal(json_object_get_string(m), value, len);
}

static void check_uuid(json_object *o, const char *key, const ue_uuid_t *id)
{
    char text[UE_UUID_LEN + 1];

    check_member(o, key, ue_uuid_format(id, text), UE_UUID_LEN);
}

static int64_t get_int(json_object *o, const char *key)
{
    json_object *m;

    assert_true(json_object_object_get_ex(o, key, &m));
    assert_true(json_object_is_type(m, json_type_int));
    return json_object_get_int64(m);
}

static void check_event(const ue_event_t *event)
{
    static const char *const keys[] = {
        "request_id",  "organization_id",  "api_key_id", "endpoint", "method",
        "status_code", "response_time_ms", "timestamp",  "billable"};
    char *json = malloc(UE_EVENT_JSON_MAX);
    char when[64];
    json_object *billable;
    size_t i = 0;
    size_t n;

    assert_non_null(json);
    n = ue_event_json(event, json);
    assert_true(n <= UE_EVENT_JSON_MAX);
    assert_null(memchr(json, '\n', n));
    json_object *o = parse(json, n);

    json_object_object_foreach(o, key, value)
    {
        assert_true(i < UNIT_COUNT(keys));
        assert_string_equal(key, keys[i]);
        assert_non_null(value);
        i++;
    }
    assert_int_equal(i, UNIT_COUNT(keys));
    check_uuid(o, "request_id", &event->request_id);
    check_uuid(o, "organization_id", &event->organization_id);
    check_uuid(o, "api_key_id", &event->api_key_id);
    check_member(o, "endpoint", event->endpoint, event->endpoint_len);
    check_member(o, "method", event->method, event->method_len);
    assert_int_equal(get_int(o, "status_code"), event->status_code);
    assert_int_equal(get_int(o, "response_time_ms"), event->response_time_ms);
    check_member(o, "timestamp", when,
                 (size_t)(ue_time_write(event->timestamp, when) - when));
    assert_true(json_object_object_get_ex(o, "billable", &billable));
    assert_true(json_object_is_type(billable, json_type_boolean));
    assert_int_equal(json_object_get_boolean(billable), event->billable);
    json_object_put(o);
    free(json);
}

/* Bytes as they may come in a request, made valid as the module makes them. */
static size_t random_text(uint64_t *seed, char *to, size_t max)
{
    char raw[4 * UE_METHOD_MAX];
    size_t len = unit_random(seed) % sizeof(raw);

    for (size_t i = 0; i < len; i++) {
        uint64_t r = unit_random(seed);

        raw[i] = (char)(r % 3 == 0 ? r >> 8 : r >> 8 & 0x7f);
    }
    return ue_utf8_clean(to, max, raw, len);
}

static void test_event_json_is_read_back_by_json_c(void **state)
{
    uint64_t seed = 6;

    for (unsigned n = unit_loops(10000); n > 0; n--) {
        char endpoint[UE_ENDPOINT_MAX];
        char method[UE_METHOD_MAX];
        ue_event_t event =
            make_event(endpoint, random_text(&seed, endpoint, sizeof(endpoint)),
                       method, random_text(&seed, method, sizeof(method)));

        event.timestamp = (apr_time_t)(unit_random(&seed) >> 12);
        event.response_time_ms =
            (uint32_t)(unit_random(&seed) >> (32 + n % 32));
        event.status_code = (uint16_t)(unit_random(&seed) >> (48 + n % 16));
        event.billable = n % 2;
        check_event(&event);
    }
}

static void test_event_json_of_the_longest_event_fits(void **state)
{
    static char endpoint[UE_ENDPOINT_MAX];
    static char method[UE_METHOD_MAX];
    ue_event_t event =
        make_event(endpoint, sizeof(endpoint), method, sizeof(method));

    /* Control characters take six bytes each; json-c takes NUL, too. */
    memset(endpoint, 1, sizeof(endpoint));
    memset(method, 0x1f, sizeof(method));
    event.response_time_ms = UINT32_MAX;
    event.status_code = UINT16_MAX;
    event.timestamp = INT64_MAX;
    event.billable = 0;
    check_event(&event);
    memset(endpoint, 0, sizeof(endpoint));
    check_event(&event);
}

static void test_event_json_writes_numbers_of_all_lengths(void **state)
{
    ue_event_t event = make_event("/", 1, "GET", 3);

    for (uint64_t n = 1; n <= UINT32_MAX; n *= 10) {
        for (int delta = -1; delta <= 1; delta++) {
            event.response_time_ms = (uint32_t)(n + (uint64_t)delta);
            event.status_code = (uint16_t)event.response_time_ms;
            check_event(&event);
        }
    }
    event.response_time_ms = UINT32_MAX;
    event.status_code = UINT16_MAX;
    check_event(&event);
    for (unsigned i = 0; i < 1000; i++) {
        event.response_time_ms = i;
        event.status_code = (uint16_t)i;
        check_event(&event);
    }
}

/* ---- times ---- */

static void check_time(apr_time_t when)
{
    char want[64];
    char out[28] = "###########################";
    time_t seconds = (time_t)(when / APR_USEC_PER_SEC);
    struct tm tm;

    assert_non_null(gmtime_r(&seconds, &tm));
    snprintf(want, sizeof(want), "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ",
             tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour,
             tm.tm_min, tm.tm_sec, (int)(when % APR_USEC_PER_SEC));
    assert_ptr_equal(ue_time_write(when, out), out + 27);
    assert_memory_equal(out, want, 27);
    assert_int_equal(out[27], '\0');
}

#define DAY (APR_USEC_PER_SEC * 86400)

/* Every day of the 400 years after which the calendar repeats, and some of
 * every month until the year 9999. */
static void test_event_time_agrees_with_gmtime_on_every_day(void **state)
{
    apr_time_t last = INT64_C(253402300799) * APR_USEC_PER_SEC;
    apr_time_t all = RUNNING_ON_VALGRIND ? 0 : 401 * 366 * DAY;
    int step = RUNNING_ON_VALGRIND ? 101 : 13;

    for (apr_time_t when = 0; when <= last;
         when += when <= all ? DAY : step * DAY) {
        check_time(when);
        check_time(when + DAY - 1);
    }
}

static void test_event_time_agrees_with_gmtime_at_random(void **state)
{
    uint64_t seed = 7;

    for (unsigned n = unit_loops(100000); n > 0; n--) {
        check_time((apr_time_t)(unit_random(&seed)
                                % (INT64_C(253402300800) * APR_USEC_PER_SEC)));
    }
}

static void test_event_time_is_clamped_to_1970_and_9999(void **state)
{
    static const struct {
        apr_time_t when;
        const char *text;
    } cases[] = {
        {-1, "1970-01-01T00:00:00.000000Z"},
        {INT64_MIN, "1970-01-01T00:00:00.000000Z"},
        {INT64_C(253402300799999999), "9999-12-31T23:59:59.999999Z"},
        {INT64_C(253402300800000000), "9999-12-31T23:59:59.999999Z"},
        {INT64_MAX, "9999-12-31T23:59:59.999999Z"},
    };

    for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
        char out[32];

        assert_int_equal(ue_time_write(cases[i].when, out) - out, 27);
        assert_memory_equal(out, cases[i].text, 27);
    }
}

/* ---- billable statuses ---- */

static ue_statusset_t parse_set(const char *s)
{
    ue_statusset_t set;
    const char *why = NULL;

    memset(&set, 0xff, sizeof(set));
    if (ue_statusset_parse(&set, s, &why) != APR_SUCCESS) {
        fail_msg("%s: %s", s, why);
    }
    return set;
}

static void test_event_default_bills_2xx_to_4xx_and_websockets(void **state)
{
    ue_statusset_t set = parse_set(UE_BILLABLE_STATUS_DEFAULT);

    for (int status = -10; status < 1100; status++) {
        assert_int_equal(ue_statusset_has(&set, status),
                         status == 101 || (status >= 200 && status <= 499));
    }
}

static void test_event_statusset_takes_codes_and_ranges(void **state)
{
    ue_statusset_t set = parse_set("100,599,200-200,404-410,300-301");

    for (int status = 0; status < 1024; status++) {
        assert_int_equal(ue_statusset_has(&set, status),
                         status == 100 || status == 599 || status == 200
                             || (status >= 404 && status <= 410)
                             || status == 300 || status == 301);
    }
    set = parse_set("100-599");
    for (int status = 0; status < 1024; status++) {
        assert_int_equal(ue_statusset_has(&set, status),
                         status >= 100 && status <= 599);
    }
}

static void test_event_statusset_refuses_nonsense_and_says_why(void **state)
{
    static const char *const bad[] = {
        "",         ",",       "200,",        ",200",
        "200,,300", "20",      "2000",        "abc",
        "200-",     "-200",    "200-300-400", "2xx",
        "200 ",     " 200",    "200, 300",    "200;300",
        "099",      "000",     "0",           "600",
        "99",       "100-600", "000-200",     "300-200",
        "200--300", "+200",    "200-+300",    "2e2",
        "0x1",      "200\n",   "200-3000",    "1000-2000",
        "999",      "200-abc", "-",
    };

    for (size_t i = 0; i < UNIT_COUNT(bad); i++) {
        ue_statusset_t set;
        ue_statusset_t before;
        const char *why = NULL;

        memset(&set, 0x5a, sizeof(set));
        before = set;
        if (ue_statusset_parse(&set, bad[i], &why) != APR_EINVAL) {
            fail_msg("taken: \"%s\"", bad[i]);
        }
        assert_non_null(why);
        assert_true(strlen(why) > 10);
        assert_memory_equal(&set, &before, sizeof(set));
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_event_string_is_what_formats_say),
    cmocka_unit_test(test_event_string_escapes_every_byte_at_any_offset),
    cmocka_unit_test(test_event_string_survives_random_bytes),
    cmocka_unit_test(test_event_json_has_nine_keys_in_order_and_no_spaces),
    cmocka_unit_test(test_event_json_of_an_interrupted_request),
    cmocka_unit_test(test_event_json_is_read_back_by_json_c),
    cmocka_unit_test(test_event_json_of_the_longest_event_fits),
    cmocka_unit_test(test_event_json_writes_numbers_of_all_lengths),
    cmocka_unit_test(test_event_time_agrees_with_gmtime_on_every_day),
    cmocka_unit_test(test_event_time_agrees_with_gmtime_at_random),
    cmocka_unit_test(test_event_time_is_clamped_to_1970_and_9999),
    cmocka_unit_test(test_event_default_bills_2xx_to_4xx_and_websockets),
    cmocka_unit_test(test_event_statusset_takes_codes_and_ranges),
    cmocka_unit_test(test_event_statusset_refuses_nonsense_and_says_why),
};

UNIT_MAIN(tests)
