/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_KEYSNAPSHOT_H
#define UE_KEYSNAPSHOT_H

/**
 * A key file as it is looked up: an immutable table of keys in a pool of its
 * own, made from the document and replaced as a whole when the file changes.
 *
 * In front of the table, which is indexed by the stored hashes, is a cache
 * indexed by 128 bits of SipHash-2-4 of presented keys, so that a key that was
 * seen before costs no SHA-256. It has four times as many cells as there are
 * keys, and only a key that was found gets one, so it never fills: nothing is
 * ever pushed out, and a flood of unknown keys leaves no trace in it. It
 * belongs to the snapshot and begins empty with it.
 *
 * keystore_file.c owns all snapshots and guards them by its lock; remembering a
 * key is the only change to one that is in use.
 */
#include <stddef.h>
#include <stdint.h>

#include <apr_errno.h>
#include <apr_pools.h>

#include "apikey.h"
#include "keystore.h"

struct json_object;

/** A key of the file. */
typedef struct {
    ue_keyhash_t hash;
    ue_hashkind_t kind;
    ue_keyrecord_t record; /**< without access, which is judged */
    const uint8_t *access; /**< ue_access_compile()'s block */
    size_t access_len;
} ue_keyentry_t;

/** A presented key that was found. */
typedef struct {
    uint64_t sip[2];
    uint32_t entry; /**< its number plus one; 0: the cell is free */
} ue_keyseen_t;

/** Open only so that its layout is a constant. */
typedef struct {
    apr_pool_t *pool;
    uint32_t organizations;
    uint32_t count;
    ue_keyentry_t *entries;
    uint32_t mask;   /**< of index */
    uint32_t *index; /**< by hash: an entry's number plus one */
    uint32_t cache_mask;
    ue_keyseen_t *cache;
} ue_keysnapshot_t;

/** Tells one layout of its memory from another. */
#define UE_KEYSNAPSHOT_LAYOUT                                 \
    (sizeof(ue_keysnapshot_t) * 7 + sizeof(ue_keyentry_t) * 3 \
     + sizeof(ue_keyseen_t))

/**
 * Make one from a document that ue_keyfile_read() took.
 * @param path       for the sentence
 * @param has_secret whether hmac-sha256: hashes can be honoured
 * @param why        receives, on error, a sentence with the place of the fault
 * @param parent     of the snapshot's pool, which has an allocator of its own
 * @param p          for the sentence
 */
apr_status_t ue_keysnapshot_build(ue_keysnapshot_t **snapshot, const char *path,
                                  struct json_object *doc, int has_secret,
                                  const char **why, apr_pool_t *parent,
                                  apr_pool_t *p);

void ue_keysnapshot_destroy(ue_keysnapshot_t *snapshot);

/** A pool with an allocator of its own, since another thread uses its parent.
 * No cleanup of ours is on it: the module may be unloaded before it is
 * destroyed. */
apr_status_t ue_keysnapshot_pool(apr_pool_t **pool, apr_pool_t *parent);

/** Are the same keys in both, in the same order, with all that they may? */
int ue_keysnapshot_same(const ue_keysnapshot_t *a, const ue_keysnapshot_t *b);

/** The key with this hash, or NULL. */
const ue_keyentry_t *ue_keysnapshot_find(const ue_keysnapshot_t *snapshot,
                                         const ue_keyhash_t *hash,
                                         ue_hashkind_t kind);

/** The key that was remembered under a SipHash, or NULL. */
const ue_keyentry_t *ue_keysnapshot_recall(const ue_keysnapshot_t *snapshot,
                                           const uint64_t sip[2]);

/** Remember who a presented key stands for. @param entry of this snapshot */
void ue_keysnapshot_remember(ue_keysnapshot_t *snapshot, const uint64_t sip[2],
                             const ue_keyentry_t *entry);

#endif /* UE_KEYSNAPSHOT_H */
