/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_KEYCACHE_H
#define UE_KEYCACHE_H

/**
 * Keys that were found in a database, in memory that all children share.
 *
 * It is shared so that a key is looked up once for all children, and so that
 * children that begin while the database is away know what the others did: a
 * graceful restart in an outage changes nothing. The parent maps it before the
 * fork and keeps it over restarts.
 *
 * Readers take no lock: each cell has a sequence, odd while it holds a key and
 * even while it is written or free, and what was copied counts only if the
 * sequence was odd and the same before and after (a seqlock). Writers, who are
 * the children's key threads, take one robust process-shared mutex. A writer
 * that is killed leaves a cell with an even sequence and perhaps chains that
 * are wrong; who gets the mutex next empties the cache and begins anew, and
 * readers meanwhile find less than there is, never something wrong. Where the
 * mutex can't be had for half a second (its owner is stopped), what was to be
 * put in isn't, and what was to be doubted or dropped is doubted with all
 * others.
 *
 * A cell is found by 128 bits of SipHash-2-4 of the presented key, under a
 * random key that is drawn when the memory is mapped; and by the hash that is
 * stored in the database, for when the database says that it has changed. What
 * few keys have lies beside the cells, in chunks of UE_KEYCACHE_CHUNK bytes:
 * how much a key and its organization may do (rate.h), and where it may be used
 * (access.h).
 *
 * Found keys and unknown ones are two tables. When the first is full, a key
 * that was not used lately makes room (CLOCK, one bit a cell); the second is
 * small, fixed, and forgets at will, so a flood of unknown keys pushes no found
 * one out.
 *
 * Ages are in milliseconds of CLOCK_MONOTONIC, which all processes share. A key
 * is as old as the question that was asked of the database, not as its answer:
 * a change that was heard of in between may or may not be in the answer. So a
 * change (ue_keycache_doubt) is remembered for keys that aren't there, too, and
 * an answer to a question from before it stays in doubt whenever it comes.
 */
#include <stddef.h>
#include <stdint.h>

#include <apr_errno.h>
#include <apr_pools.h>

#include "access.h"
#include "apikey.h"
#include "keystore.h"

#define UE_KEYCACHE_CHUNK 64 /**< bytes */

/** Bytes of memory that a key takes beside what lies in chunks, indexes and
 * all. */
size_t ue_keycache_bytes_a_key(void);

typedef struct ue_keycache_t ue_keycache_t;

/** A key as it is looked for: by its cheap hash. */
typedef struct {
    uint64_t sip[2];
} ue_keytag_t;

/**
 * Map a cache.
 * @param size keys that it can hold, from 1
 * @param p    where the handle lives; the memory is never unmapped
 */
apr_status_t ue_keycache_create(ue_keycache_t **cache, uint32_t size,
                                apr_pool_t *p);

/** Tells one layout of the shared memory from another. */
size_t ue_keycache_layout(void);

/** @return keys that it can hold */
uint32_t ue_keycache_size(const ue_keycache_t *cache);

/** @return keys that it holds. @locality any thread, any process */
uint32_t ue_keycache_count(const ue_keycache_t *cache);

/** The tag of a presented key. @locality any thread */
void ue_keycache_tag(const ue_keycache_t *cache, const char *key, size_t len,
                     ue_keytag_t *tag);

typedef enum {
    UE_KEYCACHE_ABSENT, /**< nothing is known of it */
    UE_KEYCACHE_FOUND,  /**< record is filled */
    UE_KEYCACHE_UNKNOWN /**< it was not in the database */
} ue_keycache_state_t;

/** What may be wrong with what is known of a key, however short ago the
 * database was asked. */
typedef enum {
    UE_DOUBT_NONE,
    UE_DOUBT_ALL, /**< any key may have changed meanwhile */
    UE_DOUBT_KEY  /**< this one has */
} ue_keydoubt_t;

/** How far what is known of a key can be trusted. */
typedef struct {
    uint64_t checked;      /**< when the database was asked, ms */
    ue_keydoubt_t doubted; /**< only of FOUND; it is to be asked again */
} ue_keyage_t;

/**
 * Look a key up. @locality any thread of any process, no lock
 * @param asked  what record->access is judged by
 * @param record filled with FOUND
 * @param age    filled with FOUND and UNKNOWN
 */
ue_keycache_state_t ue_keycache_get(ue_keycache_t *cache,
                                    const ue_keytag_t *tag,
                                    const ue_asked_t *asked,
                                    ue_keyrecord_t *record, ue_keyage_t *age);

/** The same of a found key, without its record.
 * @return ABSENT or FOUND; age and hash are filled with the latter */
ue_keycache_state_t ue_keycache_peek(ue_keycache_t *cache,
                                     const ue_keytag_t *tag, ue_keyage_t *age,
                                     ue_keyhash_t *hash);

/**
 * Put what the database said of a key in: it replaces what was there, unless
 * that is from a later moment. It is in doubt from the beginning where the key
 * was doubted at the moment of the question or later. Only key threads.
 * @param tag     the presented key's, or NULL: only refresh the cell with this
 *                hash, if there is one
 * @param hash    as stored in the database
 * @param block   what restricts it; len 0: nothing
 * @param checked when the question was sent, ms
 */
void ue_keycache_put(ue_keycache_t *cache, const ue_keytag_t *tag,
                     const ue_keyhash_t *hash, const ue_keyrecord_t *record,
                     const uint8_t *block, size_t len, uint64_t checked);

/** The database has no such key: drop the found one with this hash, if there
 * is one, and remember the tag as unknown where it is given; nothing of it
 * where a later answer is there. Only key threads. */
void ue_keycache_put_unknown(ue_keycache_t *cache, const ue_keytag_t *tag,
                             const ue_keyhash_t *hash, uint64_t checked);

/**
 * The database says that a key has changed: all answers to questions that were
 * sent at this moment or before are in doubt, those that are still to come
 * among them. Where the key isn't known it may be a new one, so all unknown
 * keys are forgotten that were looked up by then. Only key threads.
 * @param hash NULL: all keys, found and unknown
 * @param when ms
 * @return     whether it is there, or may be
 */
int ue_keycache_doubt(ue_keycache_t *cache, const ue_keyhash_t *hash,
                      uint64_t when);

/**
 * Collect keys to check again: those that were last looked up before a moment,
 * and those in doubt. Each process begins at another place, so that children
 * who all do this share the work. One thread of a process.
 * @param cursor where to go on, 0 at first; receives where to go on then
 * @param before ms
 * @param hashes receives up to max of them
 * @return       how many; less than max: the end was reached
 */
uint32_t ue_keycache_older(ue_keycache_t *cache, uint32_t *cursor,
                           uint64_t before, ue_keyhash_t *hashes, uint32_t max);

/**
 * Single flight across children: say that we are about to ask for a key.
 * @param now  ms
 * @param most ms that a claim counts; one whose child died lapses so
 * @return     whether nobody else has said so lately. @locality any thread
 */
int ue_keycache_claim(ue_keycache_t *cache, const ue_keyhash_t *hash,
                      uint64_t now, uint32_t most);

/** The answer to what we claimed is there, or there will be none. */
void ue_keycache_release(ue_keycache_t *cache, const ue_keyhash_t *hash);

#endif /* UE_KEYCACHE_H */
