/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */

/* The JSON encoder: any bytes as method and endpoint, cleaned as they are at
 * admission, must come back from json-c as they went in. */
#include "fuzz.h"

#include <json-c/json.h>

#include "event.h"

#define METHOD_PART 8 /* of the input's bytes, one in so many */

static void check_text(struct json_object *object, const char *name,
                       const char *text, size_t len)
{
    struct json_object *value;

    MUST(json_object_object_get_ex(object, name, &value));
    MUST(json_object_get_type(value) == json_type_string);
    MUST((size_t)json_object_get_string_len(value) == len);
    MUST(!memcmp(json_object_get_string(value), text, len));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char method[UE_METHOD_MAX], endpoint[UE_ENDPOINT_MAX];
    static char json[UE_EVENT_JSON_MAX];
    size_t of_method = size / METHOD_PART;
    struct json_tokener *parser;
    struct json_object *object;
    ue_event_t event = {0};
    size_t len;

    if (size >= sizeof(event.timestamp)) {
        memcpy(&event.timestamp, data, sizeof(event.timestamp));
    }
    event.method = method;
    event.method_len =
        ue_utf8_clean(method, sizeof(method), (const char *)data, of_method);
    event.endpoint = endpoint;
    event.endpoint_len =
        ue_utf8_clean(endpoint, sizeof(endpoint),
                      (const char *)data + of_method, size - of_method);
    len = ue_event_json(&event, json);
    MUST(len <= sizeof(json) && is_utf8(json, len));
    MUST(!memchr(json, '\n', len));

    parser = json_tokener_new();
    json_tokener_set_flags(parser,
                           JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    object = json_tokener_parse_ex(parser, json, (int)len);
    MUST(object && json_tokener_get_error(parser) == json_tokener_success);
    MUST(json_object_object_length(object) == 9);
    check_text(object, "method", method, event.method_len);
    check_text(object, "endpoint", endpoint, event.endpoint_len);
    json_object_put(object);
    json_tokener_free(parser);
    return 0;
}
