/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_KEYCACHE_INT_H
#define UE_KEYCACHE_INT_H

/**
 * The memory of the key cache: what keycache.c reads without a lock and
 * keycache_write.c writes under one.
 *
 * All that readers see is made of atomic words, the chains too: nothing is ever
 * read that isn't whole. A seqlock needs that the sequence is read after what
 * it guards, and made even before that is written. Here the words themselves
 * see to it, loaded with acquire and stored with release, without fences
 * (Boehm, "Can seqlocks get along with programming language memory models?",
 * 2012): on x86 that is free, and ThreadSanitizer, which knows no fences,
 * agrees.
 *
 * Cells and chunks are named by their number plus one, so that the 0 of fresh
 * memory is none. A page is only there once something in it is used.
 *
 * In a cell's chunks are, one behind the other, its limits, packed, and what
 * ue_access_compile() made; either may lack. A count, or a burst, is at most
 * UE_RATE_MAX and takes 30 bits; the name of a period takes two:
 *
 *   UE_LIMITS_KEY_RATE  of_key's rate: count, burst above it, period above that
 *   UE_LIMITS_ORG_RATE  of_org's
 *   UE_LIMITS_QUOTAS    of_key's quota: count, period above it; of_org's in the
 *                       upper half of the word
 */
#include <assert.h>

#include "keycache.h"
#include "shared.h"
#include "siphash.h"

#define UE_KEYCACHE_SETS 4096 /**< of unknown keys */
#define UE_KEYCACHE_WAYS 5    /**< unknown keys in one */
#define UE_KEYCACHE_CLAIMS 16384
#define UE_KEYCACHE_DOUBTS 4096 /**< moments of changes, by stored hash */
#define UE_KEYCACHE_CHUNKS 8    /**< reserved for a key, used by few */
#define UE_KEYCACHE_STEPS 128   /**< that a reader walks at most */

/* The words of a cell. */
enum {
    UE_CELL_SIP,
    UE_CELL_CHECKED = UE_CELL_SIP + 2,
    UE_CELL_EXPIRES,
    UE_CELL_IDS,
    UE_CELL_TEXTS = UE_CELL_IDS + 4,
    UE_CELL_CHUNK = UE_CELL_TEXTS + 9, /**< first of the block, plus one */
    UE_CELL_HASH,
    UE_CELL_WORDS = UE_CELL_HASH + 4
};

/* The bits of a cell; above them the length of what is in its chunks. */
#define UE_CELL_REVOKED 1
#define UE_CELL_BILLABLE 2
#define UE_CELL_DOUBTED 4
#define UE_CELL_LIMITED 8 /* the limits are there */
#define UE_CELL_LEN_SHIFT 4

/* The words of the limits. */
enum {
    UE_LIMITS_KEY_RATE,
    UE_LIMITS_ORG_RATE,
    UE_LIMITS_QUOTAS,
    UE_LIMITS_WORDS
};

#define UE_LIMITS_COUNT_BITS 30
#define UE_LIMITS_COUNT_MASK ((UINT64_C(1) << UE_LIMITS_COUNT_BITS) - 1)
#define UE_LIMITS_BYTES (UE_LIMITS_WORDS * sizeof(uint64_t))
static_assert(UE_RATE_MAX <= UE_LIMITS_COUNT_MASK, "a count has no room");

/* The most that a cell's chunks hold. */
#define UE_KEYCACHE_BLOCK_MAX (UE_LIMITS_BYTES + UE_ACCESS_MAX)

typedef struct {
    _Atomic uint32_t seq; /* odd: holds a key */
    _Atomic uint32_t next_tag;
    _Atomic uint32_t next_hash; /* also of a free cell, to the next one */
    _Atomic uint32_t bits;
    _Atomic uint64_t words[UE_CELL_WORDS];
} ue_keycell_t;

/* What finds a cell: a bucket by tag, half a one by hash (which only writers
 * look for), and the bit of CLOCK. */
#define UE_KEYCACHE_BY_HASH(size) ((size) / 2 + 1)
#define UE_KEYCACHE_INDEX (sizeof(uint32_t) + sizeof(uint32_t) / 2 + 1)

static_assert(sizeof(ue_keycell_t) == 192, "three cache lines");
static_assert(sizeof(ue_keycell_t) + UE_KEYCACHE_INDEX <= 200, "too large");

#define UE_CHUNK_WORDS (UE_KEYCACHE_CHUNK / sizeof(uint64_t) - 1)
#define UE_CHUNK_BYTES (UE_CHUNK_WORDS * sizeof(uint64_t))

/** A part of what few keys have. */
typedef struct {
    _Atomic uint64_t next; /* plus one; also of a free one */
    _Atomic uint64_t words[UE_CHUNK_WORDS];
} ue_keychunk_t;

/** Unknown keys, with one sequence for all of them. */
typedef struct {
    _Atomic uint64_t seq; /* odd: holds some */
    struct {
        _Atomic uint64_t sip[2];
        _Atomic uint64_t checked; /* plus one; 0: free */
    } ways[UE_KEYCACHE_WAYS];
} ue_keyset_t;

/** The beginning. What is not atomic is the mutex holder's. */
typedef struct {
    _Atomic uint64_t doubted; /* plus one: all keys, at this moment or before */
    _Atomic uint64_t unknown_doubted; /* the same of unknown ones alone */
    _Atomic uint32_t high;            /* cells that were used so far */
    _Atomic uint32_t count;
    _Atomic uint32_t emptied; /* times, since a writer was killed */
    pthread_mutex_t mutex __attribute__((aligned(64)));
    uint32_t free_cell;
    uint32_t free_chunk;
    uint32_t chunks_high;
    uint32_t chunks_free; /* in the list */
    uint32_t hand;        /* of CLOCK */
} ue_keyshared_t;

/** The handle, of which each process has a copy. */
struct ue_keycache_t {
    uint8_t secret[UE_SIPHASH_KEY];
    uint32_t size;
    uint32_t chunk_count;
    _Atomic uint32_t *by_tag;  /* size */
    _Atomic uint32_t *by_hash; /* UE_KEYCACHE_BY_HASH(size) */
    ue_keycell_t *cells;
    _Atomic uint64_t *used; /* bits of CLOCK */
    ue_keychunk_t *chunks;
    ue_keyset_t *sets;
    _Atomic uint64_t *claims;
    _Atomic uint64_t *doubts;
    ue_keyshared_t *shared;
    uint32_t older_from; /* where ue_keycache_older() began, and of how many */
    uint32_t older_of;
    int is_impatient; /* the lock wasn't to be had; of the key thread */
};

static inline _Atomic uint32_t *ue_keycache_tag_bucket(const ue_keycache_t *c,
                                                       const uint64_t sip[2])
{
    return &c->by_tag[ue_shared_scale((uint32_t)(sip[0] >> 32), c->size)];
}

static inline ue_keyset_t *ue_keycache_set(const ue_keycache_t *c,
                                           const uint64_t sip[2])
{
    return &c->sets[sip[1] % UE_KEYCACHE_SETS];
}

/** The cell with a number that came from shared memory. @return NULL: none */
static inline ue_keycell_t *ue_keycache_cell(const ue_keycache_t *c,
                                             uint32_t number)
{
    return number - 1 < c->size ? &c->cells[number - 1] : NULL;
}

static inline int ue_keycell_is(const ue_keycell_t *cell, const uint64_t sip[2])
{
    return UE_LOAD(cell->words[UE_CELL_SIP]) == sip[0]
           && UE_LOAD(cell->words[UE_CELL_SIP + 1]) == sip[1];
}

#endif /* UE_KEYCACHE_INT_H */
