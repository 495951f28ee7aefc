/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include <apr_strings.h>

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>
#include <zlib.h>

#include "apikey.h"
#include "uuid.h"

#define ENV_LEN 8 /* "sk_live_" */
#define RANDOM_LEN 30
#define CHECK_LEN 6
#define BASE 62
#define SHOWN_MIN 24 /* shorter keys show no prefix */
#define SECRET_MIN 32
#define SECRET_MAX 4096

_Static_assert(ENV_LEN + RANDOM_LEN + CHECK_LEN == UE_APIKEY_LEN,
               "the parts make a key");

static const char alphabet[BASE + 1] =
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

static int is_alnum(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z')
           || (c >= 'a' && c <= 'z');
}

/* 62^6 is more than 2^32, so six digits always do. */
static void write_checksum(const char *key, char to[CHECK_LEN])
{
    uint32_t crc =
        (uint32_t)crc32(0, (const Bytef *)key, UE_APIKEY_LEN - CHECK_LEN);

    for (int i = CHECK_LEN - 1; i >= 0; i--) {
        to[i] = alphabet[crc % BASE];
        crc /= BASE;
    }
}

int ue_apikey_is_ours(const char *key, size_t len)
{
    if (len != UE_APIKEY_LEN
        || (memcmp(key, "sk_live_", ENV_LEN) != 0
            && memcmp(key, "sk_test_", ENV_LEN) != 0)) {
        return 0;
    }
    for (size_t i = ENV_LEN; i < len; i++) {
        if (!is_alnum((unsigned char)key[i])) {
            return 0;
        }
    }
    return 1;
}

ue_keyform_t ue_apikey_form(const char *key, size_t len)
{
    if (len == 0 || len > UE_APIKEY_MAX) {
        return UE_KEY_MALFORMED;
    }
    if (ue_apikey_is_ours(key, len)) {
        char check[CHECK_LEN];

        write_checksum(key, check);
        return memcmp(key + len - CHECK_LEN, check, CHECK_LEN) == 0
                   ? UE_KEY_LOOKUP
                   : UE_KEY_MISTYPED;
    }
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)key[i];

        if (c <= ' ' || c == 0x7f) {
            return UE_KEY_MALFORMED;
        }
    }
    return UE_KEY_LOOKUP;
}

apr_status_t ue_apikey_generate(const char *env, char key[UE_APIKEY_LEN + 1])
{
    uint8_t pool[2 * RANDOM_LEN];
    size_t left = 0;
    apr_status_t rv = APR_SUCCESS;

    if (strcmp(env, "live") != 0 && strcmp(env, "test") != 0) {
        return APR_EINVAL;
    }
    memcpy(key, "sk_", 3);
    memcpy(key + 3, env, 4);
    key[7] = '_';
    for (size_t i = ENV_LEN; i < ENV_LEN + RANDOM_LEN;) {
        if (left == 0) {
            rv = ue_random(pool, sizeof(pool));
            if (rv != APR_SUCCESS) {
                goto done;
            }
            left = sizeof(pool);
        }
        /* 248 = 4 * 62: taken modulo 62, the bytes above would make the first
         * eight characters of the alphabet more frequent. */
        if (pool[--left] < 4 * BASE) {
            key[i++] = alphabet[pool[left] % BASE];
        }
    }
    write_checksum(key, key + ENV_LEN + RANDOM_LEN);
    key[UE_APIKEY_LEN] = '\0';

done:
    explicit_bzero(pool, sizeof(pool));
    return rv;
}

struct ue_keysecret_t {
    size_t len;
    uint8_t b[SECRET_MAX];
};

/* Up to max bytes; a named pipe must not hold httpd up. */
static apr_status_t read_up_to(const char *path, uint8_t *to, size_t max,
                               size_t *len, struct stat *st)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    apr_status_t rv = APR_SUCCESS;
    ssize_t n = 1;

    *len = 0;
    if (fd < 0) {
        return APR_FROM_OS_ERROR(errno);
    }
    if (fstat(fd, st) != 0) {
        rv = APR_FROM_OS_ERROR(errno);
        goto out;
    }
    while (S_ISREG(st->st_mode) && n > 0 && *len < max) {
        n = read(fd, to + *len, max - *len);
        if (n < 0 && errno == EINTR) {
            n = 1;
            continue;
        }
        if (n < 0) {
            rv = APR_FROM_OS_ERROR(errno);
            goto out;
        }
        *len += (size_t)n;
    }
out:
    close(fd);
    return rv;
}

/* What is wrong with a file that was read, or NULL. */
static const char *judge_secret(const struct stat *st, size_t len)
{
    if (!S_ISREG(st->st_mode)) {
        return "is not a regular file";
    }
    if (st->st_mode & (S_IROTH | S_IWOTH)) {
        return "can be read or written by everybody: make it mode 0640 or less";
    }
    if (len < SECRET_MIN || len > SECRET_MAX) {
        return "must hold 32 to 4096 bytes, such as openssl rand -hex 32 makes";
    }
    return NULL;
}

apr_status_t ue_keysecret_read(const ue_keysecret_t **secret, const char *path,
                               const char **why, apr_pool_t *p)
{
    /* One for a line feed, one to tell that it is longer. */
    uint8_t room[SECRET_MAX + 2];
    const char *fault;
    ue_keysecret_t *s;
    struct stat st;
    size_t len;
    apr_status_t rv = read_up_to(path, room, sizeof(room), &len, &st);

    *secret = NULL;
    if (rv != APR_SUCCESS) {
        char reason[120];

        *why = apr_psprintf(p, "%s: can't be read: %s", path,
                            apr_strerror(rv, reason, sizeof(reason)));
        goto out;
    }
    if (len > 0 && room[len - 1] == '\n') {
        len--;
    }
    fault = judge_secret(&st, len);
    if (fault) {
        *why = apr_psprintf(p, "%s: %s", path, fault);
        rv = APR_EINVAL;
        goto out;
    }
    s = apr_pcalloc(p, sizeof(*s));
    s->len = len;
    memcpy(s->b, room, len);
    *secret = s;
out:
    explicit_bzero(room, sizeof(room));
    return rv;
}

void ue_apikey_hash(const char *key, size_t len, ue_keyhash_t *hash)
{
    /* It fails only where OpenSSL is configured without SHA-256, or there is
     * no memory. Any hash that we made up instead would be the same for all
     * keys: one stored so would let everybody in. */
    if (!SHA256((const unsigned char *)key, len, hash->b)) {
        abort();
    }
}

void ue_apikey_hmac(const char *key, size_t len, const ue_keysecret_t *secret,
                    ue_keyhash_t *hash)
{
    unsigned n = sizeof(hash->b);

    if (!HMAC(EVP_sha256(), secret->b, (int)secret->len,
              (const unsigned char *)key, len, hash->b, &n)) {
        abort(); /* as above */
    }
}

/* How a stored hash begins, by ue_hashkind_t. */
static const char *const hash_names[] = {
    [UE_HASH_SHA256] = "sha256:", [UE_HASH_HMAC_SHA256] = "hmac-sha256:"};

#define HASH_KINDS (sizeof(hash_names) / sizeof(hash_names[0]))

void ue_apikey_hash_format(const ue_keyhash_t *hash, ue_hashkind_t kind,
                           char to[UE_APIKEY_HASH_TEXT + 1])
{
    static const char hex[] = "0123456789abcdef";
    size_t n = strlen(hash_names[kind]);
    char *p = to + n;

    memcpy(to, hash_names[kind], n);
    for (size_t i = 0; i < sizeof(hash->b); i++) {
        *p++ = hex[hash->b[i] >> 4];
        *p++ = hex[hash->b[i] & 0x0f];
    }
    *p = '\0';
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

apr_status_t ue_apikey_hash_parse(ue_keyhash_t *hash, ue_hashkind_t *kind,
                                  const char *s)
{
    ue_keyhash_t read;
    size_t k = 0;
    size_t n;

    while (k < HASH_KINDS
           && strncmp(s, hash_names[k], strlen(hash_names[k])) != 0) {
        k++;
    }
    n = k < HASH_KINDS ? strlen(hash_names[k]) : 0;
    if (n == 0 || strlen(s) != n + 2 * sizeof(read.b)) {
        return APR_EINVAL;
    }
    s += n;
    for (size_t i = 0; i < sizeof(read.b); i++, s += 2) {
        int high = hex_value(s[0]);
        int low = hex_value(s[1]);

        if (high < 0 || low < 0) {
            return APR_EINVAL;
        }
        read.b[i] = (uint8_t)(high << 4 | low);
    }
    *hash = read;
    *kind = (ue_hashkind_t)k;
    return APR_SUCCESS;
}

void ue_apikey_prefix(const char *key, size_t len,
                      char to[UE_APIKEY_PREFIX + 1])
{
    size_t n = len < SHOWN_MIN ? 0 : UE_APIKEY_PREFIX;

    memcpy(to, key, n);
    to[n] = '\0';
}

static int is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* Narrow text to what lies between blanks. */
static void trim(const char **s, size_t *len)
{
    while (*len > 0 && is_blank(**s)) {
        (*s)++;
        (*len)--;
    }
    while (*len > 0 && is_blank((*s)[*len - 1])) {
        (*len)--;
    }
}

/* Does a trimmed Authorization value have the Bearer scheme? Step behind it. */
static int take_bearer(const char **s, size_t *len)
{
    if (*len < 6 || strncasecmp(*s, "Bearer", 6) != 0
        || (*len > 6 && !is_blank((*s)[6]))) {
        return 0;
    }
    *s += 6;
    *len -= 6;
    trim(s, len);
    return 1;
}

ue_cred_t ue_apikey_find(const char *authorization, const char *header,
                         const char **key, size_t *len)
{
    int found = 0;

    *key = "";
    *len = 0;
    if (authorization) {
        const char *s = authorization;
        size_t n = strlen(s);

        if (memchr(s, ',', n)) {
            return UE_CRED_TWO;
        }
        trim(&s, &n);
        if (take_bearer(&s, &n)) {
            *key = s;
            *len = n;
            found = 1;
        }
    }
    if (header) {
        *key = header;
        *len = strlen(header);
        if (found || (memchr(header, ',', *len) && strstr(header, ", "))) {
            return UE_CRED_TWO;
        }
        trim(key, len);
        found = 1;
    }
    return found ? UE_CRED_ONE : UE_CRED_NONE;
}
