/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * API keys: their form and checksum, their hash, and how a request presents
 * one. The known keys and hashes were computed by another program, Python:
 *
 *     import hashlib, zlib
 *     A = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
 *     def key(body):                      # "sk_live_" and 30 characters
 *         n, s = zlib.crc32(body.encode()), ""
 *         for _ in range(6):
 *             n, digit = divmod(n, 62)
 *             s = A[digit] + s
 *         return body + s
 *     hashlib.sha256(key(body).encode()).hexdigest()
 */
#include "unit.h"

#include <ctype.h>
#include <sys/stat.h>

#include "apikey.h"

static const struct {
    const char *key;
    const char *hash;
} known[] = {
    {"sk_live_0000000000000000000000000000001yMVfD",
     "sha256:"
     "b9dbfd28548c2213eb3758926635528d28ffe3a567c9b238bc3fc27d1e5e779b"},
    {"sk_test_0123456789ABCDEFGHIJKLMNOPQRST06ImRt",
     "sha256:"
     "c9969e808ddacb4a305005e919327ba9c17d580c222cd07e4e51efe264479c8c"},
    {"sk_live_WXYZabcdefghijklmnopqrstuvwxyz4CEQe9",
     "sha256:"
     "a3a700ffa4e584a4f65809606e58789d34a6eaecdc353c5e0eb5fad823a35c6c"},
    {"sk_test_zzzzzzzzzzzzzzzzzzzzzzzzzzzzzz0a27Ex",
     "sha256:"
     "c436d24832131813f2acbc10adf182ec5bd5f87922cf2879d7fc064170aad20c"},
    {"sk_live_00000000000000000000000000014800mS1u",
     "sha256:"
     "f453c144076a93c80bfa7fba41f82a7fd16826052c59f7a466ae006f4176f09c"},
    {"sk_live_8aspm4G7VmSUfOoD6V1vrORcmn0iSH1nacLQ",
     "sha256:"
     "fc54b7293489030ed28fa47871d3e389de269b285cc3c42081f4f5e5b9d6b824"},
    {"sk_live_kpEby6vK111fY0yuOhDRk1XEmSyVZE4flRjz",
     "sha256:"
     "68a6168ce48337fe1ff02e7c5d7932b20a76af2d398392b190655dfaad1ea10f"},
    {"sk_live_MEhEmTyIx1QrwZxf6BektI7lLvkjWx3wuMiJ",
     "sha256:"
     "55c84644280d9797b403c1014f2a2e236b99daeaf8f82900032b1e58e91062a7"},
};

static void test_apikey_knows_keys_made_elsewhere(void **state)
{
    for (size_t i = 0; i < UNIT_COUNT(known); i++) {
        char text[UE_APIKEY_HASH_TEXT + 1];
        ue_keyhash_t hash;

        assert_int_equal(strlen(known[i].key), UE_APIKEY_LEN);
        assert_int_equal(ue_apikey_form(known[i].key, UE_APIKEY_LEN),
                         UE_KEY_LOOKUP);
        assert_true(ue_apikey_is_ours(known[i].key, UE_APIKEY_LEN));
        ue_apikey_hash(known[i].key, UE_APIKEY_LEN, &hash);
        ue_apikey_hash_format(&hash, UE_HASH_SHA256, text);
        assert_string_equal(text, known[i].hash);
    }
}

/* CRC-32 finds every error of one character, and every two neighbours that
 * changed places. */
static void test_apikey_mistyped_by_one_character_is_found(void **state)
{
    static const char alphabet[] =
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

    for (size_t k = 0; k < UNIT_COUNT(known); k++) {
        for (int at = 8; at < UE_APIKEY_LEN; at++) {
            for (const char *c = alphabet; *c; c++) {
                char key[UE_APIKEY_LEN + 1];

                memcpy(key, known[k].key, sizeof(key));
                if (key[at] == *c) {
                    continue;
                }
                key[at] = *c;
                assert_int_equal(ue_apikey_form(key, UE_APIKEY_LEN),
                                 UE_KEY_MISTYPED);
                assert_true(ue_apikey_is_ours(key, UE_APIKEY_LEN));
            }
        }
    }
}

static void test_apikey_with_neighbours_exchanged_is_found(void **state)
{
    for (size_t k = 0; k < UNIT_COUNT(known); k++) {
        for (int at = 8; at + 1 < UE_APIKEY_LEN; at++) {
            char key[UE_APIKEY_LEN + 1];
            char c;

            memcpy(key, known[k].key, sizeof(key));
            c = key[at];
            key[at] = key[at + 1];
            key[at + 1] = c;
            assert_int_equal(ue_apikey_form(key, UE_APIKEY_LEN),
                             key[at] == c ? UE_KEY_LOOKUP : UE_KEY_MISTYPED);
        }
    }
}

/* The environment is part of what the checksum covers. */
static void test_apikey_of_another_environment_is_mistyped(void **state)
{
    char key[UE_APIKEY_LEN + 1];

    memcpy(key, known[0].key, sizeof(key));
    memcpy(key, "sk_test_", 8);
    assert_int_equal(ue_apikey_form(key, UE_APIKEY_LEN), UE_KEY_MISTYPED);
}

/* Allocated to the byte, so that a tool sees what is read beside it. */
static ue_keyform_t form(const char *key, size_t len)
{
    char *exact = malloc(len ? len : 1);
    ue_keyform_t is;

    assert_non_null(exact);
    memcpy(exact, key, len);
    is = ue_apikey_form(exact, len);
    if (is == UE_KEY_MISTYPED) {
        assert_true(ue_apikey_is_ours(exact, len));
    }
    free(exact);
    return is;
}

static void test_apikey_of_another_shape_is_looked_up(void **state)
{
    static const char *const others[] = {
        "a",
        "sk_test_123",
        "sk_live_",
        "sk_",
        "sk_live_0000000000000000000000000000000000000", /* 45 */
        "sk_live_00000000000000000000000000000000000",   /* 43 */
        "sk_LIVE_000000000000000000000000000000000000",
        "sk_prod_000000000000000000000000000000000000",
        "pk_live_000000000000000000000000000000000000",
        "sk_live_00000000000000000000000000000000000-",
        "sk_live_-00000000000000000000000000000000000",
        "sk_live_00000000000000000_000000000000000000",
        "sk_live_\xc3\xa9"
        "0000000000000000000000000000000000",
        "eyJhbGciOiJub25lIn0.e30.",
        "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~",
        "caf\xc3\xa9\xff",
    };

    for (size_t i = 0; i < UNIT_COUNT(others); i++) {
        size_t len = strlen(others[i]);

        assert_int_equal(form(others[i], len), UE_KEY_LOOKUP);
        assert_false(ue_apikey_is_ours(others[i], len));
    }
}

static void test_apikey_of_hostile_length_is_malformed(void **state)
{
    char key[8000];

    memset(key, 'a', sizeof(key));
    assert_int_equal(form(key, 0), UE_KEY_MALFORMED);
    assert_int_equal(form(key, 1), UE_KEY_LOOKUP);
    assert_int_equal(form(key, UE_APIKEY_MAX), UE_KEY_LOOKUP);
    assert_int_equal(form(key, UE_APIKEY_MAX + 1), UE_KEY_MALFORMED);
    assert_int_equal(form(key, sizeof(key)), UE_KEY_MALFORMED);
}

/* Every byte: malformed are space, controls and DEL, and nothing else. */
static void test_apikey_with_space_or_control_is_malformed(void **state)
{
    static const size_t lens[] = {1, 2, 24, UE_APIKEY_LEN, UE_APIKEY_MAX};

    for (int c = 0; c < 256; c++) {
        for (size_t k = 0; k < UNIT_COUNT(lens); k++) {
            for (size_t at = 0; at < lens[k]; at += lens[k] / 2 + 1) {
                char key[UE_APIKEY_MAX];

                memset(key, 'x', sizeof(key));
                key[at] = (char)c;
                assert_int_equal(form(key, lens[k]), c <= ' ' || c == 0x7f
                                                         ? UE_KEY_MALFORMED
                                                         : UE_KEY_LOOKUP);
            }
        }
    }
}

/* ---- making keys ---- */

static void test_apikey_generates_keys_that_are_ours(void **state)
{
    static const char *const envs[] = {"live", "test"};

    for (size_t e = 0; e < UNIT_COUNT(envs); e++) {
        char before[UE_APIKEY_LEN + 1] = "";

        for (int n = 0; n < 100; n++) {
            char key[UE_APIKEY_LEN + 2];

            key[UE_APIKEY_LEN + 1] = '#';
            assert_int_equal(ue_apikey_generate(envs[e], key), APR_SUCCESS);
            assert_int_equal(strlen(key), UE_APIKEY_LEN);
            assert_int_equal(key[UE_APIKEY_LEN + 1], '#');
            assert_memory_equal(key, "sk_", 3);
            assert_memory_equal(key + 3, envs[e], 4);
            assert_true(ue_apikey_is_ours(key, UE_APIKEY_LEN));
            assert_int_equal(ue_apikey_form(key, UE_APIKEY_LEN), UE_KEY_LOOKUP);
            assert_string_not_equal(key, before);
            memcpy(before, key, sizeof(before));
        }
    }
}

static void test_apikey_refuses_another_environment(void **state)
{
    static const char *const bad[] = {"",    "prod",  "LIVE",
                                      "liv", "live_", "tes"};
    char key[UE_APIKEY_LEN + 1];

    for (size_t i = 0; i < UNIT_COUNT(bad); i++) {
        assert_int_equal(ue_apikey_generate(bad[i], key), APR_EINVAL);
    }
}

/* 62 characters do not divide 256: taken modulo, eight of them would come 25 %
 * more often than the others. */
static void test_apikey_characters_are_equally_likely(void **state)
{
    unsigned keys = unit_loops(20000);
    double expected = keys * 30 / 62.0;
    double chi2 = 0;
    unsigned seen[128] = {0};

    for (unsigned n = 0; n < keys; n++) {
        char key[UE_APIKEY_LEN + 1];

        assert_int_equal(ue_apikey_generate("live", key), APR_SUCCESS);
        for (int i = 8; i < 38; i++) {
            seen[(unsigned char)key[i] & 0x7f]++;
        }
    }
    for (int c = 0; c < 128; c++) {
        if (isalnum(c)) {
            chi2 += (seen[c] - expected) * (seen[c] - expected) / expected;
        }
        else {
            assert_int_equal(seen[c], 0);
        }
    }
    /* 61 degrees of freedom: over 140 once in ten million runs; the modulo
     * gives some 4,000 with 20,000 keys. */
    if (chi2 > 140) {
        fail_msg("chi squared is %f", chi2);
    }
}

/* ---- hashes ---- */

static void test_apikey_hash_knows_fips_180_examples(void **state)
{
    static const struct {
        const char *text;
        const char *hash;
    } cases[] = {
        {"", "sha256:e3b0c44298fc1c149afbf4c8996fb924"
             "27ae41e4649b934ca495991b7852b855"},
        {"abc", "sha256:ba7816bf8f01cfea414140de5dae2223"
                "b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "sha256:248d6a61d20638b8e5c026930c3e6039"
         "a33ce45964ff2167f6ecedd419db06c1"},
    };

    for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
        char text[UE_APIKEY_HASH_TEXT + 1];
        ue_keyhash_t hash;

        ue_apikey_hash(cases[i].text, strlen(cases[i].text), &hash);
        ue_apikey_hash_format(&hash, UE_HASH_SHA256, text);
        assert_string_equal(text, cases[i].hash);
    }
}

static void test_apikey_hash_is_of_all_bytes(void **state)
{
    ue_keyhash_t a;
    ue_keyhash_t b;

    ue_apikey_hash("a\0b", 3, &a);
    ue_apikey_hash("a\0c", 3, &b);
    assert_memory_not_equal(&a, &b, sizeof(a));
}

static void test_apikey_hash_round_trips(void **state)
{
    uint64_t seed = 8;

    for (unsigned n = unit_loops(5000); n > 0; n--) {
        char text[UE_APIKEY_HASH_TEXT + 1];
        ue_hashkind_t kind = n % 2 ? UE_HASH_SHA256 : UE_HASH_HMAC_SHA256;
        ue_hashkind_t read_kind;
        ue_keyhash_t hash;
        ue_keyhash_t read;

        for (size_t i = 0; i < sizeof(hash.b); i++) {
            hash.b[i] = (uint8_t)unit_random(&seed);
        }
        ue_apikey_hash_format(&hash, kind, text);
        assert_int_equal(strlen(text),
                         n % 2 ? strlen("sha256:") + 64 : UE_APIKEY_HASH_TEXT);
        assert_int_equal(ue_apikey_hash_parse(&read, &read_kind, text),
                         APR_SUCCESS);
        assert_memory_equal(&read, &hash, sizeof(hash));
        assert_int_equal(read_kind, kind);
        for (char *p = strchr(text, ':'); *p; p++) {
            *p = (char)toupper((unsigned char)*p);
        }
        memset(&read, 0, sizeof(read));
        assert_int_equal(ue_apikey_hash_parse(&read, &read_kind, text),
                         APR_SUCCESS);
        assert_memory_equal(&read, &hash, sizeof(hash));
    }
}

static void test_apikey_hash_parse_refuses_what_is_none(void **state)
{
#define HEX62 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd"
    static const char *const bad[] = {
        "",
        "sha256:",
        HEX62 "ef",
        "sha256:" HEX62 "e",
        "sha256:" HEX62 "eff",
        "sha256:" HEX62 "eg",
        "sha256:" HEX62 "e ",
        "SHA256:" HEX62 "ef",
        "sha512:" HEX62 "ef",
        "sha256 " HEX62 "ef",
        " sha256:" HEX62 "e",
        "hmac-sha256:" HEX62 "e",
        "hmac-sha256:" HEX62 "eff",
        "hmac-sha256:" HEX62 "eg",
        "hmac-sha256:",
        "HMAC-sha256:" HEX62 "ef",
        "hmac-sha512:" HEX62 "ef",
        "hmac-" HEX62 "ef",
        "hmac-hmac-sha256:" HEX62 "ef",
        "sha256:0x" HEX62,
        "sha256:-1" HEX62,
        "sha256:" HEX62 "\xc3\xa9",
        "sha256:" HEX62 "\x10\x10", /* a digit but for one bit */
        "sha256:" HEX62 "AZ",
    };
    ue_hashkind_t kind;
    ue_keyhash_t hash;
    ue_keyhash_t before;

    memset(&hash, 0x5a, sizeof(hash));
    before = hash;
    for (size_t i = 0; i < UNIT_COUNT(bad); i++) {
        assert_int_equal(ue_apikey_hash_parse(&hash, &kind, bad[i]),
                         APR_EINVAL);
        assert_memory_equal(&hash, &before, sizeof(hash));
    }
}

/* Every byte as one of the digits. */
static void test_apikey_hash_parse_judges_every_byte(void **state)
{
    for (int c = 1; c < 256; c++) {
        char text[] = "sha256:" HEX62 "ef";
        ue_hashkind_t kind;
        ue_keyhash_t hash;

        text[70] = (char)c;
        assert_int_equal(ue_apikey_hash_parse(&hash, &kind, text),
                         c < 128 && isxdigit(c) ? APR_SUCCESS : APR_EINVAL);
        if (c < 128 && isxdigit(c)) {
            assert_int_equal(hash.b[31], 0xe0 | strtol(text + 70, NULL, 16));
        }
    }
}

/* ---- under a secret ---- */

static apr_pool_t *pool;
static char secret_path[64];

static int begin(void **state)
{
    const char *tmp = getenv("TMPDIR");

    snprintf(secret_path, sizeof(secret_path), "%.40s/ue-secret-%d",
             tmp ? tmp : "/tmp", (int)getpid());
    return apr_pool_create(&pool, NULL) != APR_SUCCESS;
}

static int end(void **state)
{
    unlink(secret_path);
    apr_pool_destroy(pool);
    return 0;
}

#define SECRET_TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

static int is_same_secret(const ue_keysecret_t *a, const ue_keysecret_t *b)
{
    ue_keyhash_t of_a, of_b;

    if (!a || !b) {
        return a == b;
    }
    ue_apikey_hmac("text", 4, a, &of_a);
    ue_apikey_hmac("text", 4, b, &of_b);
    return memcmp(&of_a, &of_b, sizeof(of_a)) == 0;
}

static const ue_keysecret_t *read_secret(const void *bytes, size_t len,
                                         mode_t mode, const char **why)
{
    const ue_keysecret_t *secret = NULL;
    FILE *f = fopen(secret_path, "w");

    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(chmod(secret_path, mode), 0);
    *why = "";
    if (ue_keysecret_read(&secret, secret_path, why, pool) != APR_SUCCESS) {
        assert_null(secret);
        assert_non_null(strstr(*why, secret_path));
        return NULL;
    }
    return secret;
}

/* RFC 4231's secrets are shorter than ours but for this one (test case 6),
 * which is longer than SHA-256's block; the others are Python's hmac. */
static void test_apikey_hmac_known_answers(void **state)
{
    static const struct {
        int byte; /* -1: 0, 1, 2, … */
        size_t len;
        const char *text;
        const char *hash;
    } cases[] = {
        {0xaa, 131, "Test Using Larger Than Block-Size Key - Hash Key First",
         "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"},
        {-1, 32, "sk_live_8aspm4G7VmSUfOoD6V1vrORcmn0iSH1nacLQ",
         "29321ae21ebba13ac66ef8c7c7ed5164ca3a6021573adc07748f1d4fcd22908d"},
        {-1, 64, "",
         "3499f163f48604c0b15ac89e4e7c66f314fb3b203b8ac2f564828e62f6be9d9d"},
        {-1, 65, "a",
         "0c757378459f03de805a31fc7969c29c12c83e63202f49d83daf71d57d1b6144"},
    };
    uint8_t bytes[131];

    for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
        char text[UE_APIKEY_HASH_TEXT + 1];
        const ue_keysecret_t *secret;
        const char *why;
        ue_keyhash_t hash;

        for (size_t b = 0; b < cases[i].len; b++) {
            bytes[b] = (uint8_t)(cases[i].byte < 0 ? (int)b : cases[i].byte);
        }
        secret = read_secret(bytes, cases[i].len, 0600, &why);
        assert_non_null(secret);
        ue_apikey_hmac(cases[i].text, strlen(cases[i].text), secret, &hash);
        ue_apikey_hash_format(&hash, UE_HASH_HMAC_SHA256, text);
        assert_memory_equal(text, "hmac-sha256:", 12);
        assert_string_equal(text + 12, cases[i].hash);
    }
}

static void test_apikey_secret_is_a_file_of_32_to_4096_bytes(void **state)
{
    static const size_t lens[] = {0,  1,    31,   32,   33,   63,
                                  64, 4095, 4096, 4097, 4098, 9000};
    char bytes[9001];
    const char *why;

    memset(bytes, 'S', sizeof(bytes));
    for (size_t i = 0; i < UNIT_COUNT(lens); i++) {
        int right = lens[i] >= 32 && lens[i] <= 4096;
        const ue_keysecret_t *plain, *ended;

        plain = read_secret(bytes, lens[i], 0600, &why);
        assert_int_equal(plain != NULL, right);
        /* no sentence shows a byte of it */
        assert_null(strstr(why, "SS"));
        assert_int_equal(strstr(why, "32 to 4096 bytes") != NULL, !right);
        bytes[lens[i]] = '\n';
        ended = read_secret(bytes, lens[i] + 1, 0640, &why);
        bytes[lens[i]] = 'S';
        assert_int_equal(ended != NULL, right);
        assert_true(is_same_secret(plain, ended));
    }
    /* one line feed, and nothing else */
    memset(bytes, '\n', 33);
    assert_non_null(read_secret(bytes, 33, 0600, &why));
    assert_null(read_secret(bytes, 32, 0600, &why));
}

static void test_apikey_secret_is_no_secret_if_all_can_read_it(void **state)
{
    char bytes[32];
    const ue_keysecret_t *secret;
    const char *why;

    memset(bytes, 'S', sizeof(bytes));
    for (mode_t mode = 0400; mode < 01000; mode++) {
        if ((mode & 0600) == 0400 || (mode & 0600) == 0600) {
            int open_to_all = (mode & 06) != 0;

            unlink(secret_path);
            secret = read_secret(bytes, sizeof(bytes), mode, &why);
            assert_int_equal(secret == NULL, open_to_all);
            assert_int_equal(strstr(why, "0640") != NULL, open_to_all);
        }
    }
    unlink(secret_path);
    assert_int_equal(ue_keysecret_read(&secret, secret_path, &why, pool),
                     ENOENT);
    assert_non_null(strstr(why, "can't be read: No such file"));
    assert_int_equal(mkfifo(secret_path, 0600), 0);
    assert_int_equal(ue_keysecret_read(&secret, secret_path, &why, pool),
                     APR_EINVAL);
    assert_non_null(strstr(why, "not a regular file"));
    unlink(secret_path);
    assert_int_equal(ue_keysecret_read(&secret, "/", &why, pool), APR_EINVAL);
}

static void test_apikey_hashes_differ_by_secret(void **state)
{
    char bytes[64];
    const ue_keysecret_t *a, *b, *other, *longer;
    const char *why;

    memset(bytes, 'S', sizeof(bytes));
    a = read_secret(bytes, 40, 0600, &why);
    b = read_secret(bytes, 40, 0600, &why);
    longer = read_secret(bytes, 41, 0600, &why);
    bytes[39] ^= 1;
    other = read_secret(bytes, 40, 0600, &why);
    assert_true(is_same_secret(a, b));
    assert_false(is_same_secret(a, longer));
    assert_false(is_same_secret(a, other));
}

/* ---- what may be shown ---- */

static void test_apikey_prefix_shows_twelve_characters_of_long_keys(
    void **state)
{
    char to[UE_APIKEY_PREFIX + 1];

    ue_apikey_prefix(known[0].key, UE_APIKEY_LEN, to);
    assert_int_equal(strlen(to), 12);
    assert_memory_equal(to, known[0].key, 12);
    ue_apikey_prefix("123456789012345678901234", 24, to);
    assert_string_equal(to, "123456789012");
}

static void test_apikey_prefix_shows_nothing_of_short_keys(void **state)
{
    for (size_t len = 0; len < 24; len++) {
        char to[UE_APIKEY_PREFIX + 1] = "############";

        ue_apikey_prefix("123456789012345678901234", len, to);
        assert_string_equal(to, "");
    }
}

/* ---- how a request presents a key ---- */

#define NONE UE_CRED_NONE
#define ONE UE_CRED_ONE
#define TWO UE_CRED_TWO

static const struct {
    const char *authorization;
    const char *header;
    ue_cred_t found;
    const char *key;
} requests[] = {
    {NULL, NULL, NONE, ""},
    /* Bearer */
    {"Bearer abc", NULL, ONE, "abc"},
    {"bearer abc", NULL, ONE, "abc"},
    {"BEARER abc", NULL, ONE, "abc"},
    {"bEaReR abc", NULL, ONE, "abc"},
    {"Bearer    abc", NULL, ONE, "abc"},
    {"Bearer abc   ", NULL, ONE, "abc"},
    {"  Bearer abc", NULL, ONE, "abc"},
    {"Bearer\tabc\t", NULL, ONE, "abc"},
    {"Bearer a b", NULL, ONE, "a b"}, /* malformed, so refused later */
    {"Bearer Bearer abc", NULL, ONE, "Bearer abc"},
    {"Bearer", NULL, ONE, ""},
    {"Bearer ", NULL, ONE, ""},
    {"Bearer    ", NULL, ONE, ""},
    /* other schemes */
    {"", NULL, NONE, ""},
    {" ", NULL, NONE, ""},
    {"abc", NULL, NONE, ""},
    {"Basic dXNlcjpwYXNz", NULL, NONE, ""},
    {"Bearerabc", NULL, NONE, ""},
    {"Bearer=abc", NULL, NONE, ""},
    {"Bearer:abc", NULL, NONE, ""},
    {"Beare abc", NULL, NONE, ""},
    {"XBearer abc", NULL, NONE, ""},
    {"Token Bearer abc", NULL, NONE, ""},
    /* a comma anywhere: two headers, or one that can be read so */
    {"Bearer abc, Bearer def", NULL, TWO, NULL},
    {"Bearer abc,Bearer def", NULL, TWO, NULL},
    {"Bearer abc,", NULL, TWO, NULL},
    {",Bearer abc", NULL, TWO, NULL},
    {"Bearer a,b", NULL, TWO, NULL},
    {"Bearer,", NULL, TWO, NULL},
    {"Basic x, Bearer abc", NULL, TWO, NULL},
    {"Basic x, Basic y", NULL, TWO, NULL},
    {"Digest username=\"a\", realm=\"b\"", NULL, TWO, NULL},
    {", ", NULL, TWO, NULL},
    /* the header that holds a bare key */
    {NULL, "abc", ONE, "abc"},
    {NULL, "  abc\t", ONE, "abc"},
    {NULL, "", ONE, ""},
    {NULL, "   ", ONE, ""},
    {NULL, "a,b", ONE, "a,b"},
    {NULL, "abc,", ONE, "abc,"},
    {NULL, "Bearer abc", ONE, "Bearer abc"},
    {NULL, "abc, def", TWO, NULL},
    {NULL, "abc, ", TWO, NULL},
    {NULL, ", abc", TWO, NULL},
    {NULL, ", ", TWO, NULL},
    /* both */
    {"Bearer abc", "abc", TWO, NULL},
    {"Bearer abc", "", TWO, NULL},
    {"Bearer", "abc", TWO, NULL},
    {"Bearer", "", TWO, NULL},
    {"Bearer a, b", "abc", TWO, NULL},
    {"Basic x, y", "abc", TWO, NULL},
    {"Basic dXNlcjpwYXNz", "abc", ONE, "abc"},
    {"", "abc", ONE, "abc"},
    {"Basic dXNlcjpwYXNz", "a, b", TWO, NULL},
};

static void test_apikey_is_found_in_a_request(void **state)
{
    for (size_t i = 0; i < UNIT_COUNT(requests); i++) {
        char *a = requests[i].authorization ? strdup(requests[i].authorization)
                                            : NULL;
        char *h = requests[i].header ? strdup(requests[i].header) : NULL;
        const char *key = NULL;
        size_t len = 99;

        if (ue_apikey_find(a, h, &key, &len) != requests[i].found) {
            fail_msg("%s | %s", a ? a : "-", h ? h : "-");
        }
        if (requests[i].key) {
            assert_int_equal(len, strlen(requests[i].key));
            assert_non_null(key);
            assert_memory_equal(key, requests[i].key, len);
        }
        free(a);
        free(h);
    }
}

static void test_apikey_of_8000_bytes_is_found_whole(void **state)
{
    static char authorization[7 + 8000 + 1] = "Bearer ";
    const char *key;
    size_t len;

    memset(authorization + 7, 'k', 8000);
    assert_int_equal(ue_apikey_find(authorization, NULL, &key, &len), ONE);
    assert_ptr_equal(key, authorization + 7);
    assert_int_equal(len, 8000);
    assert_int_equal(ue_apikey_find(NULL, authorization + 7, &key, &len), ONE);
    assert_int_equal(len, 8000);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_apikey_knows_keys_made_elsewhere),
    cmocka_unit_test(test_apikey_mistyped_by_one_character_is_found),
    cmocka_unit_test(test_apikey_with_neighbours_exchanged_is_found),
    cmocka_unit_test(test_apikey_of_another_environment_is_mistyped),
    cmocka_unit_test(test_apikey_of_another_shape_is_looked_up),
    cmocka_unit_test(test_apikey_of_hostile_length_is_malformed),
    cmocka_unit_test(test_apikey_with_space_or_control_is_malformed),
    cmocka_unit_test(test_apikey_generates_keys_that_are_ours),
    cmocka_unit_test(test_apikey_refuses_another_environment),
    cmocka_unit_test(test_apikey_characters_are_equally_likely),
    cmocka_unit_test(test_apikey_hash_knows_fips_180_examples),
    cmocka_unit_test(test_apikey_hash_is_of_all_bytes),
    cmocka_unit_test(test_apikey_hash_round_trips),
    cmocka_unit_test(test_apikey_hash_parse_refuses_what_is_none),
    cmocka_unit_test(test_apikey_hash_parse_judges_every_byte),
    SECRET_TEST(test_apikey_hmac_known_answers),
    SECRET_TEST(test_apikey_secret_is_a_file_of_32_to_4096_bytes),
    SECRET_TEST(test_apikey_secret_is_no_secret_if_all_can_read_it),
    SECRET_TEST(test_apikey_hashes_differ_by_secret),
    cmocka_unit_test(test_apikey_prefix_shows_twelve_characters_of_long_keys),
    cmocka_unit_test(test_apikey_prefix_shows_nothing_of_short_keys),
    cmocka_unit_test(test_apikey_is_found_in_a_request),
    cmocka_unit_test(test_apikey_of_8000_bytes_is_found_whole),
};

UNIT_MAIN(tests)
