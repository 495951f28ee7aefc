/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_APIKEY_H
#define UE_APIKEY_H

/**
 * API keys: how they look, how they are hashed, how a request presents one.
 *
 * A key is sk_<live|test>_<30 random characters><6 of checksum>. The checksum
 * is there so that a mistyped key costs no look-up. A key of another shape (one
 * from before, say) is looked up as it is. Only a key's hash is ever stored.
 *
 * All functions but ue_apikey_generate() are pure; any thread may call them.
 */
#include <stddef.h>
#include <stdint.h>

#include <apr_errno.h>
#include <apr_pools.h>

#define UE_APIKEY_LEN 44       /**< characters of a key of our own shape */
#define UE_APIKEY_MAX 256      /**< the longest key that is looked up */
#define UE_APIKEY_PREFIX 12    /**< characters that lists and logs may show */
#define UE_APIKEY_HASH_TEXT 76 /**< "hmac-sha256:" and 64 hex digits */

typedef struct {
    uint8_t b[32];
} ue_keyhash_t;

typedef enum {
    UE_KEY_LOOKUP,   /**< may be a key: look it up */
    UE_KEY_MISTYPED, /**< our shape, wrong checksum: refuse it */
    UE_KEY_MALFORMED /**< empty, too long, or holds a space or control */
} ue_keyform_t;

/** Judge a key by its looks alone. */
ue_keyform_t ue_apikey_form(const char *key, size_t len);

/**
 * Does this look like a key of ours, whole or mistyped? (What must not reach a
 * backend even where no key was asked for.)
 */
int ue_apikey_is_ours(const char *key, size_t len);

/**
 * Make a new key.
 * @param env "live" or "test"
 * @param key receives UE_APIKEY_LEN characters and NUL
 * @return    APR_EINVAL for another env, or the random source's error
 */
apr_status_t ue_apikey_generate(const char *env, char key[UE_APIKEY_LEN + 1]);

/** How a stored hash was made. */
typedef enum {
    UE_HASH_SHA256,     /**< "sha256:" */
    UE_HASH_HMAC_SHA256 /**< "hmac-sha256:", under a secret */
} ue_hashkind_t;

/** What UsageKeySecret names: the key of HMAC-SHA-256 (RFC 2104), ready for
 * use. Read-only once it is made; any thread may use it. */
typedef struct ue_keysecret_t ue_keysecret_t;

/**
 * Read a secret from a file: its bytes without one line feed at the end, 32 to
 * 4,096 of them. A file that others than its owner and group can read is
 * refused.
 * @param why receives, on error, a sentence; never a byte of the file
 */
apr_status_t ue_keysecret_read(const ue_keysecret_t **secret, const char *path,
                               const char **why, apr_pool_t *p);

/** SHA-256 of the whole key. */
void ue_apikey_hash(const char *key, size_t len, ue_keyhash_t *hash);

/** HMAC-SHA-256 of the whole key. */
void ue_apikey_hmac(const char *key, size_t len, const ue_keysecret_t *secret,
                    ue_keyhash_t *hash);

/** Write "sha256:<64 hex>" or "hmac-sha256:<64 hex>", and NUL. */
void ue_apikey_hash_format(const ue_keyhash_t *hash, ue_hashkind_t kind,
                           char to[UE_APIKEY_HASH_TEXT + 1]);

/** Read one of these. @return APR_EINVAL for anything else */
apr_status_t ue_apikey_hash_parse(ue_keyhash_t *hash, ue_hashkind_t *kind,
                                  const char *s);

/**
 * The part of a key that may be shown.
 * @param to receives it, NUL-terminated; empty for keys under 24 characters
 */
void ue_apikey_prefix(const char *key, size_t len,
                      char to[UE_APIKEY_PREFIX + 1]);

/** What the credential headers of a request hold. */
typedef enum {
    UE_CRED_NONE, /**< nothing of ours */
    UE_CRED_ONE,  /**< one key, which may be empty or malformed */
    UE_CRED_TWO   /**< two credentials, or one that can be read as two */
} ue_cred_t;

/**
 * Find the key that a request presents.
 *
 * @param authorization value of Authorization (of two headers, joined by a
 *                      comma as RFC 9110 section 5.3 allows), or NULL. Only
 *                      the Bearer scheme (RFC 6750) is a credential of ours;
 *                      a comma makes it two.
 * @param header        value of the header that holds a bare key, or NULL;
 *                      a comma followed by a space makes it two
 * @param key           receives where the key begins, in one of the two
 * @param len           receives its bytes
 */
ue_cred_t ue_apikey_find(const char *authorization, const char *header,
                         const char **key, size_t *len);

#endif /* UE_APIKEY_H */
