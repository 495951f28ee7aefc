/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_SIPHASH_H
#define UE_SIPHASH_H

/**
 * SipHash-2-4 with 128 bits of output (Aumasson and Bernstein, "SipHash: a fast
 * short-input PRF", 2012, and their reference code for the longer output).
 *
 * It is on every request's way, which is why it is here: apr-util has only 64
 * bits, so 128 cost two runs, and OpenSSL's costs an allocation. A pure
 * function; any thread may call it.
 */
#include <stddef.h>
#include <stdint.h>

#define UE_SIPHASH_KEY 16 /**< bytes */

/**
 * @param key  random and secret
 * @param hash receives 128 bits, which are the same on any machine
 */
void ue_siphash128(const void *data, size_t len,
                   const uint8_t key[UE_SIPHASH_KEY], uint64_t hash[2]);

#endif /* UE_SIPHASH_H */
