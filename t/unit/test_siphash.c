/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */

/* SipHash with 128 bits of output: against OpenSSL's, for every length that
 * fills its last word differently, many times over. */
#include "unit.h"

#include <openssl/evp.h>
#include <openssl/params.h>

#include "siphash.h"
#include "uuid.h"

static void openssl_siphash(const void *data, size_t len, const uint8_t *key,
                            uint8_t hash[16])
{
    unsigned int size = 16;
    OSSL_PARAM params[] = {OSSL_PARAM_uint("size", &size), OSSL_PARAM_END};
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "SIPHASH", NULL);
    EVP_MAC_CTX *ctx = EVP_MAC_CTX_new(mac);
    size_t out = 0;

    assert_non_null(ctx);
    assert_int_equal(EVP_MAC_init(ctx, key, UE_SIPHASH_KEY, params), 1);
    assert_int_equal(EVP_MAC_update(ctx, data, len), 1);
    assert_int_equal(EVP_MAC_final(ctx, hash, &out, 16), 1);
    assert_int_equal(out, 16);
    EVP_MAC_CTX_free(ctx);
    EVP_MAC_free(mac);
}

static void test_siphash_is_what_openssl_says(void **state)
{
    uint8_t key[UE_SIPHASH_KEY], data[300], theirs[16], ours[16];
    uint64_t hash[2];
    size_t len;

    for (len = 0; len <= sizeof(data); len++) {
        int i, k;

        assert_int_equal(ue_random(key, sizeof(key)), APR_SUCCESS);
        assert_int_equal(ue_random(data, sizeof(data)), APR_SUCCESS);
        openssl_siphash(data, len, key, theirs);
        ue_siphash128(data, len, key, hash);
        for (i = 0; i < 2; i++) {
            for (k = 0; k < 8; k++) {
                ours[8 * i + k] = (uint8_t)(hash[i] >> (8 * k));
            }
        }
        assert_memory_equal(ours, theirs, sizeof(ours));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_siphash_is_what_openssl_says),
    };

    return cmocka_run_group_tests_name("siphash", tests, NULL, NULL);
}
