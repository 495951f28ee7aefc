/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * Any event, through a journal's slots into JSON: json-c must accept it under
 * its strictest flags and give back what was put in. The rest of the input is
 * read as a set of billable statuses, too.
 */
#include "fuzz.h"

#include <time.h>

#include <apr_general.h>
#include <apr_pools.h>
#include <json-c/json.h>

#include "journal.h"

static ue_journal_t *journal;

int LLVMFuzzerInitialize(int *argc, char ***argv);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static apr_pool_t *pool;

    CHECK(apr_initialize() == APR_SUCCESS);
    CHECK(apr_pool_create(&pool, NULL) == APR_SUCCESS);
    CHECK(ue_journal_create(&journal, UE_JOURNAL_SLOTS_MIN, pool)
          == APR_SUCCESS);
    return 0;
}

static void check_text(json_object *o, const char *key, const char *raw,
                       size_t len, size_t max)
{
    char *want = malloc(max);
    json_object *value;
    size_t n;

    CHECK(want);
    n = ue_utf8_clean(want, max, raw, len);
    CHECK(json_object_object_get_ex(o, key, &value));
    CHECK(json_object_is_type(value, json_type_string));
    CHECK((size_t)json_object_get_string_len(value) == n);
    CHECK(memcmp(json_object_get_string(value), want, n) == 0);
    free(want);
}

static void check_uuid(json_object *o, const char *key, const ue_uuid_t *id)
{
    json_object *value;
    ue_uuid_t read;

    CHECK(json_object_object_get_ex(o, key, &value));
    CHECK(ue_uuid_parse(&read, json_object_get_string(value),
                        (size_t)json_object_get_string_len(value))
          == APR_SUCCESS);
    CHECK(ue_uuid_equal(&read, id));
}

static void check_time(json_object *o, apr_time_t when)
{
    apr_time_t last = INT64_C(253402300799999999);
    json_object *value;
    struct tm tm = {0};
    const char *s;
    char z;
    int usec;

    CHECK(json_object_object_get_ex(o, "timestamp", &value));
    s = json_object_get_string(value);
    CHECK(json_object_get_string_len(value) == 27);
    CHECK(sscanf(s, "%4d-%2d-%2dT%2d:%2d:%2d.%6d%c", &tm.tm_year, &tm.tm_mon,
                 &tm.tm_mday, &tm.tm_hour, &tm.tm_min, &tm.tm_sec, &usec, &z)
          == 8);
    CHECK(z == 'Z');
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    when = when < 0 ? 0 : when > last ? last : when;
    CHECK((apr_time_t)timegm(&tm) * APR_USEC_PER_SEC + usec == when);
}

static void check_number(json_object *o, const char *key, int64_t want)
{
    json_object *value;

    CHECK(json_object_object_get_ex(o, key, &value));
    CHECK(json_object_is_type(value, json_type_int));
    CHECK(json_object_get_int64(value) == want);
}

static json_object *parse(const char *json, size_t len)
{
    json_tokener *tok = json_tokener_new();
    json_object *o;

    CHECK(tok);
    json_tokener_set_flags(tok,
                           JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    o = json_tokener_parse_ex(tok, json, (int)len);
    CHECK(json_tokener_get_error(tok) == json_tokener_success);
    CHECK(json_tokener_get_parse_end(tok) == len);
    CHECK(json_object_is_type(o, json_type_object));
    CHECK(json_object_object_length(o) == 9);
    json_tokener_free(tok);
    return o;
}

static void check_json(const ue_event_t *event, const ue_admission_t *a,
                       const ue_completion_t *c)
{
    char *json = malloc(UE_EVENT_JSON_MAX);
    json_object *billable;
    json_object *o;
    size_t n;

    CHECK(json);
    n = ue_event_json(event, json);
    CHECK(n <= UE_EVENT_JSON_MAX);
    for (size_t i = 0; i < n; i++) {
        CHECK((unsigned char)json[i] >= 0x20); /* one line, no controls */
    }
    o = parse(json, n);
    check_uuid(o, "request_id", &a->request_id);
    check_uuid(o, "organization_id", &a->organization_id);
    check_uuid(o, "api_key_id", &a->api_key_id);
    check_text(o, "endpoint", a->endpoint, a->endpoint_len, UE_ENDPOINT_MAX);
    check_text(o, "method", a->method, a->method_len, UE_METHOD_MAX);
    check_number(o, "status_code", c->status_code);
    check_number(o, "response_time_ms", c->response_time_ms);
    check_time(o, a->timestamp);
    CHECK(json_object_object_get_ex(o, "billable", &billable));
    CHECK(json_object_get_boolean(billable) == (c->billable != 0));
    json_object_put(o);
    free(json);
}

static void check_event(const ue_admission_t *a, const ue_completion_t *c)
{
    char *text = malloc(UE_ENDPOINT_MAX + UE_METHOD_MAX);
    ue_slot_ref_t ref;
    ue_event_t event;

    CHECK(text);
    CHECK(ue_journal_admit(journal, a, &ref) == APR_SUCCESS);
    CHECK(ue_journal_complete(journal, ref, c) == APR_SUCCESS);
    CHECK(ue_journal_list(journal, ref, 1u << UE_SLOT_COMPLETE));
    ue_journal_read(journal, ref, &event, text);
    check_json(&event, a, c);
    ue_journal_release(journal, ref);
    for (ue_slot_ref_t r = 1; r <= UE_JOURNAL_SLOTS_MIN; r++) {
        CHECK(ue_journal_state(journal, r) == UE_SLOT_FREE);
    }
    free(text);
}

/* A set that is taken is one of codes and ranges, and holds just these. */
static void check_statuses(char *s)
{
    ue_statusset_t set;
    const char *why = NULL;
    char want[1024] = {0};
    char *rest = NULL;

    if (ue_statusset_parse(&set, s, &why) != APR_SUCCESS) {
        CHECK(why != NULL);
        return;
    }
    CHECK(strspn(s, "0123456789,-") == strlen(s));
    for (char *part = strtok_r(s, ",", &rest); part;
         part = strtok_r(NULL, ",", &rest)) {
        int first;
        int last;
        int n = sscanf(part, "%3d-%3d", &first, &last);

        last = n == 1 ? first : last;
        CHECK(n >= 1 && strlen(part) == (n == 1 ? 3 : 7));
        CHECK(first >= 100 && first <= last && last <= 599);
        memset(want + first, 1, (size_t)(last - first + 1));
    }
    for (int status = -5; status < 1100; status++) {
        CHECK(!!ue_statusset_has(&set, status)
              == (status >= 0 && status < 1024 && want[status]));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ue_admission_t a = {0};
    ue_completion_t c = {0};
    size_t method_len;
    char *endpoint;
    char *statuses;
    char *method;

    a.timestamp = (apr_time_t)fuzz_number(&data, &size, 8);
    for (int i = 0; i < 16; i++) {
        a.request_id.b[i] = (uint8_t)fuzz_number(&data, &size, 1);
        a.organization_id.b[i] = (uint8_t)(a.request_id.b[i] * 7 + 1);
        a.api_key_id.b[i] = (uint8_t)(a.request_id.b[i] * 11 + 3);
    }
    c.response_time_ms = (uint32_t)fuzz_number(&data, &size, 4);
    c.status_code = (uint16_t)fuzz_number(&data, &size, 2);
    c.billable = (uint8_t)fuzz_number(&data, &size, 1) & 1;
    method_len = fuzz_number(&data, &size, 1);
    if (method_len > size) {
        method_len = size;
    }
    a.method = method = fuzz_copy(data, method_len);
    a.method_len = method_len;
    a.endpoint = endpoint = fuzz_copy(data + method_len, size - method_len);
    a.endpoint_len = size - method_len;
    check_event(&a, &c);
    statuses = fuzz_string(data + method_len, size - method_len);
    check_statuses(statuses);
    free(statuses);
    free(endpoint);
    free(method);
    return 0;
}
