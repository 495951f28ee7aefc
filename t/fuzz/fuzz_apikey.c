/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * Any bytes as a key, as a stored hash, and as the random part of a key.
 */
#include "fuzz.h"

#include <zlib.h>

#include "apikey.h"

static const char alphabet[] =
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/* The number that six digits of base 62 stand for. */
static uint64_t checksum_of(const char *digits)
{
    uint64_t n = 0;

    for (int i = 0; i < 6; i++) {
        n = n * 62 + (uint64_t)(strchr(alphabet, digits[i]) - alphabet);
    }
    return n;
}

static void check_form(const char *key, size_t len)
{
    ue_keyform_t form = ue_apikey_form(key, len);
    int ours = ue_apikey_is_ours(key, len);
    int clean = len > 0 && len <= UE_APIKEY_MAX;

    for (size_t i = 0; i < len && clean; i++) {
        clean = (unsigned char)key[i] > ' ' && key[i] != 0x7f;
    }
    CHECK((form == UE_KEY_MALFORMED) == !clean);
    CHECK(form != UE_KEY_MISTYPED || ours);
    if (ours) {
        CHECK(len == UE_APIKEY_LEN);
        CHECK(memcmp(key, "sk_live_", 8) == 0
              || memcmp(key, "sk_test_", 8) == 0);
        for (size_t i = 8; i < len; i++) {
            CHECK(key[i] != '\0' && strchr(alphabet, key[i]));
        }
        CHECK((form == UE_KEY_LOOKUP)
              == (checksum_of(key + 38) == crc32(0, (const Bytef *)key, 38)));
    }
}

static void check_shown(const char *key, size_t len)
{
    char prefix[UE_APIKEY_PREFIX + 1];
    char text[UE_APIKEY_HASH_TEXT + 1];
    ue_hashkind_t kind;
    ue_keyhash_t hash;
    ue_keyhash_t read;

    memset(prefix, 'x', sizeof(prefix));
    ue_apikey_prefix(key, len, prefix);
    CHECK(prefix[len < 24 ? 0 : UE_APIKEY_PREFIX] == '\0');
    CHECK(len < 24 || memcmp(prefix, key, UE_APIKEY_PREFIX) == 0);

    ue_apikey_hash(key, len, &hash);
    for (int k = UE_HASH_SHA256; k <= UE_HASH_HMAC_SHA256; k++) {
        ue_apikey_hash_format(&hash, (ue_hashkind_t)k, text);
        CHECK(strlen(text) <= UE_APIKEY_HASH_TEXT);
        CHECK(ue_apikey_hash_parse(&read, &kind, text) == APR_SUCCESS);
        CHECK(memcmp(&read, &hash, sizeof(hash)) == 0);
        CHECK((int)kind == k);
    }
}

static void check_hash(const char *s)
{
    char text[UE_APIKEY_HASH_TEXT + 1];
    ue_hashkind_t kind;
    ue_keyhash_t hash;

    if (ue_apikey_hash_parse(&hash, &kind, s) != APR_SUCCESS) {
        return;
    }
    /* what is read is what is written, but for the case of its digits */
    ue_apikey_hash_format(&hash, kind, text);
    CHECK(strlen(s) == strlen(text));
    CHECK(strncmp(s, "sha256:", 7) == 0 || strncmp(s, "hmac-sha256:", 12) == 0);
    for (size_t i = strcspn(s, ":"); i < strlen(s); i++) {
        CHECK(text[i] == (s[i] >= 'A' && s[i] <= 'F' ? s[i] | 0x20 : s[i]));
    }
}

/* A key made of these bytes, good and mistyped in one place. */
static void check_made(const uint8_t *data, size_t size)
{
    char key[UE_APIKEY_LEN + 1] = "sk_test_";
    size_t at = size > 30 ? 8 + data[30] % 36 : 8;
    uint64_t n;
    char was;

    for (size_t i = 0; i < 30; i++) {
        key[8 + i] = alphabet[(i < size ? data[i] : 0) % 62];
    }
    n = crc32(0, (const Bytef *)key, 38);
    for (int i = 43; i >= 38; i--) {
        key[i] = alphabet[n % 62];
        n /= 62;
    }
    CHECK(ue_apikey_form(key, UE_APIKEY_LEN) == UE_KEY_LOOKUP);
    was = key[at];
    key[at] = was == 'z' ? 'a' : 'z';
    CHECK(ue_apikey_form(key, UE_APIKEY_LEN) == UE_KEY_MISTYPED);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *key = fuzz_copy(data, size);
    char *s = fuzz_string(data, size);

    check_form(key, size);
    check_shown(key, size);
    check_hash(s);
    check_made(data, size);
    free(s);
    free(key);
    return 0;
}
