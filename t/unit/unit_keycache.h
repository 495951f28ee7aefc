/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_UNIT_KEYCACHE_H
#define UE_UNIT_KEYCACHE_H

/**
 * What the tests of the key cache share: keys by number, and records of which
 * each byte follows from the key and a version, so that one that is torn or of
 * another key is seen.
 *
 * What restricts a key is one of UNIT_BLOCKS blocks, of all lengths: the first
 * is empty, block n is for paths below /n/. From version UNIT_LIMITED on it may
 * have limits, any of the four.
 */
#include "unit_process.h"

#include "keycache_int.h"

#define UNIT_BLOCKS 16
#define UNIT_LIMITED 32

typedef struct {
    uint8_t bytes[UE_ACCESS_MAX];
    size_t len;
} unit_block_t;

static unit_block_t unit_blocks[UNIT_BLOCKS];

static inline ue_keycache_t *unit_keycache(uint32_t size, apr_pool_t *p)
{
    ue_keycache_t *c = NULL;

    assert_int_equal(ue_keycache_create(&c, size, p), APR_SUCCESS);
    return c;
}

static inline void unit_unmap(ue_keycache_t *c)
{
    char *end = (char *)(c->chunks + c->chunk_count);

    munmap(c->shared, (size_t)(end - (char *)c->shared));
}

/** @param step paths that a block has more than the one before: with 3 they
 * are shorter on average than the chunks that there are for a key, with 12
 * longer */
static inline void unit_make_blocks(unsigned step, apr_pool_t *p)
{
    char paths[UNIT_BLOCKS * 12][16];
    const char *list[UNIT_BLOCKS * 12 + 1];
    ue_access_lists_t lists = {NULL, list, NULL};
    const char *why = NULL;

    for (unsigned b = 1; b < UNIT_BLOCKS; b++) {
        unsigned n = 1 + (b - 1) * step;

        for (unsigned i = 0; i < n; i++) {
            snprintf(paths[i], sizeof(paths[i]), i ? "/filler/%u" : "/%u/",
                     i ? i : b);
            list[i] = paths[i];
        }
        list[n] = NULL;
        assert_int_equal(ue_access_compile(&lists, 1, unit_blocks[b].bytes,
                                           &unit_blocks[b].len, &why, p),
                         APR_SUCCESS);
    }
}

static inline void unit_fill(void *to, size_t len, uint64_t seed)
{
    uint8_t *at = to;

    for (size_t i = 0; i < len; i++) {
        at[i] = (uint8_t)unit_random(&seed);
    }
}

static inline ue_keytag_t unit_tag(uint64_t key)
{
    uint64_t state = key * 2 + 1;
    uint64_t a = unit_random(&state);
    ue_keytag_t tag = {{a, unit_random(&state)}};

    return tag;
}

static inline ue_keyhash_t unit_hash(uint64_t key)
{
    uint64_t state = ~(key * 2 + 1), word;
    ue_keyhash_t hash;

    for (int i = 0; i < 4; i++) {
        word = unit_random(&state);
        memcpy(hash.b + 8 * i, &word, sizeof(word));
    }
    return hash;
}

static inline void unit_text(char text[UE_UUID_LEN + 1], uint64_t seed)
{
    for (int i = 0; i < UE_UUID_LEN; i++) {
        text[i] = (char)('a' + (seed >> i % 48 & 15));
    }
    text[UE_UUID_LEN] = '\0';
}

/** The largest of all now and then, to see that they have room. */
static inline uint32_t unit_count(uint64_t any)
{
    return any % 8 ? 1 + (uint32_t)(any >> 3) % UE_RATE_MAX : UE_RATE_MAX;
}

static inline void unit_allowance(ue_allowance_t *a, uint64_t *seed)
{
    static const int seconds[] = {1, 60, 3600};
    uint64_t which = unit_random(seed);

    if (which & 1) {
        a->rate.count = unit_count(unit_random(seed));
        a->rate.burst = unit_count(unit_random(seed));
        a->rate.period = apr_time_from_sec(seconds[unit_random(seed) % 3]);
    }
    if (which & 2) {
        a->quota.count = unit_count(unit_random(seed));
        a->quota.period = (ue_quotaperiod_t)(unit_random(seed) % 3);
    }
}

static inline int unit_is_limited(const ue_keyrecord_t *r)
{
    return r->of_key.rate.count || r->of_key.quota.count || r->of_org.rate.count
           || r->of_org.quota.count;
}

/** All bytes, those between the members too, so that memcmp() compares. */
static inline void unit_record(ue_keyrecord_t *r, uint64_t key,
                               uint32_t version)
{
    uint64_t seed = key << 32 ^ version, id[4];

    memset(r, 0, sizeof(*r));
    for (int i = 0; i < 4; i++) {
        id[i] = unit_random(&seed);
    }
    memcpy(&r->organization_id, &id[0], 16);
    memcpy(&r->api_key_id, &id[2], 16);
    unit_text(r->organization_text, id[0] ^ id[1]);
    unit_text(r->api_key_text, id[2] ^ id[3]);
    r->expires = version;
    r->revoked = version & 1;
    r->billable = version >> 1 & 1;
    if (version >= UNIT_LIMITED) {
        unit_allowance(&r->of_key, &seed);
        unit_allowance(&r->of_org, &seed);
    }
}

static inline const unit_block_t *unit_block(uint64_t key, uint32_t version)
{
    return &unit_blocks[(key + version) % UNIT_BLOCKS];
}

/** Bytes that are in the chunks of a key. */
static inline size_t unit_len(uint64_t key, uint32_t version)
{
    ue_keyrecord_t r;

    unit_record(&r, key, version);
    return unit_block(key, version)->len
           + (unit_is_limited(&r) ? UE_LIMITS_BYTES : 0);
}

static inline void unit_put(ue_keycache_t *c, uint64_t key, uint32_t version,
                            uint64_t checked)
{
    const unit_block_t *block = unit_block(key, version);
    ue_keytag_t tag = unit_tag(key);
    ue_keyhash_t hash = unit_hash(key);
    ue_keyrecord_t r;

    unit_record(&r, key, version);
    ue_keycache_put(c, &tag, &hash, &r, block->bytes, block->len, checked);
}

/** Asks as block b grants it. */
static inline void unit_ask(ue_asked_t *asked, char path[8], unsigned b)
{
    memset(asked, 0, sizeof(*asked));
    asked->method = "GET";
    asked->path = path;
    asked->path_len = (size_t)snprintf(path, 8, "/%u/x", b);
}

/** Look a key up.
 * @return -1: what was found is another key's, or of two versions */
static inline int unit_get(ue_keycache_t *c, const ue_keytag_t *tag,
                           uint64_t key, ue_keyage_t *age, uint32_t *version)
{
    ue_keyrecord_t r, right;
    ue_keycache_state_t state;
    ue_asked_t asked;
    char path[8];
    unsigned granted;
    uint32_t b;

    memset(&r, 0, sizeof(r));
    unit_ask(&asked, path, (unsigned)(key % UNIT_BLOCKS));
    state = ue_keycache_get(c, tag, &asked, &r, age);
    if (state != UE_KEYCACHE_FOUND) {
        return (int)state;
    }
    *version = (uint32_t)r.expires;
    unit_record(&right, key, *version);
    b = (uint32_t)((key + *version) % UNIT_BLOCKS);
    granted = b == 0 || b == key % UNIT_BLOCKS;
    right.access = granted ? UE_ACCESS_GRANTED : UE_ACCESS_PATH;
    return memcmp(&r, &right, sizeof(r)) ? -1 : (int)state;
}

static inline int unit_find(ue_keycache_t *c, uint64_t key, ue_keyage_t *age,
                            uint32_t *version)
{
    ue_keytag_t tag = unit_tag(key);

    return unit_get(c, &tag, key, age, version);
}

/** Look a key up that must be whole. */
static inline ue_keycache_state_t unit_state(ue_keycache_t *c, uint64_t key)
{
    ue_keyage_t age;
    uint32_t version;
    int state = unit_find(c, key, &age, &version);

    assert_int_not_equal(state, -1);
    return (ue_keycache_state_t)state;
}

#endif /* UE_UNIT_KEYCACHE_H */
