/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */

/* Keys: the form of any bytes, the part that is shown, the hash's text. */
#include "fuzz.h"

#include <strings.h>

#include "apikey.h"

static void check_form(const char *key, size_t len)
{
    ue_keyform_t form = ue_apikey_form(key, len);
    char shown[UE_APIKEY_PREFIX + 1];

    if (len == 0 || len > UE_APIKEY_MAX || memchr(key, ' ', len)
        || memchr(key, '\n', len) || memchr(key, '\0', len)) {
        MUST(form == UE_KEY_MALFORMED);
    }
    if (form == UE_KEY_MISTYPED) {
        MUST(ue_apikey_is_ours(key, len));
    }
    ue_apikey_prefix(key, len, shown);
    MUST(len >= 24 || shown[0] == '\0');
}

/* Mended in its last six characters alone, a key of our shape has just one
 * checksum that is right. */
static void check_checksum(const char *key, size_t len)
{
    char changed[UE_APIKEY_LEN];

    if (ue_apikey_is_ours(key, len)
        && ue_apikey_form(key, len) == UE_KEY_LOOKUP) {
        memcpy(changed, key, len);
        changed[len - 1] = changed[len - 1] == '0' ? '1' : '0';
        MUST(ue_apikey_form(changed, len) == UE_KEY_MISTYPED);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = copy_text(data, size);
    char formatted[UE_APIKEY_HASH_TEXT + 1];
    ue_keyhash_t hash, again;

    check_form((const char *)data, size);
    check_checksum((const char *)data, size);
    ue_apikey_hash((const char *)data, size, &hash);
    ue_apikey_hash_format(&hash, formatted);
    MUST(ue_apikey_hash_parse(&again, formatted) == APR_SUCCESS);
    MUST(memcmp(&hash, &again, sizeof(hash)) == 0);
    if (ue_apikey_hash_parse(&again, text) == APR_SUCCESS) {
        ue_apikey_hash_format(&again, formatted);
        MUST(strcasecmp(formatted, text) == 0);
    }
    free(text);
    return 0;
}
