/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/*
 * The key cache as it is read: without a lock, so all that is found is checked
 * before it counts. What can't be made sense of, because it changes just now or
 * because its writer was killed, is not there.
 */
#include "keycache_int.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SIZE_MAX_KEYS (UINT32_C(1) << 26)
/* Enough for the most that one key may need, and its successor beside it,
 * however few keys there are. */
#define CHUNKS_MIN (2 * (UE_KEYCACHE_BLOCK_MAX / UE_CHUNK_BYTES + 1))
/* How often what changes meanwhile is read again. A writer is in a cell for
 * some thirty stores, unless it is held up or dead. */
#define TRIES 32

size_t ue_keycache_bytes_a_key(void)
{
    return sizeof(ue_keycell_t) + UE_KEYCACHE_INDEX;
}

size_t ue_keycache_layout(void)
{
    return sizeof(ue_keycache_t) * 31 + sizeof(ue_keyshared_t) * 7
           + sizeof(ue_keycell_t) + sizeof(ue_keyset_t) * 5 + UE_KEYCACHE_CLAIMS
           + UE_KEYCACHE_DOUBTS + UE_LIMITS_BYTES * 3 + UE_CELL_LEN_SHIFT;
}

uint32_t ue_keycache_size(const ue_keycache_t *c)
{
    return c->size;
}

uint32_t ue_keycache_count(const ue_keycache_t *c)
{
    return UE_LOAD(c->shared->count);
}

/* Memory --------------------------------------------------------------- */

/* Place the parts one after the other, on cache lines. Without memory it only
 * counts the bytes. */
static size_t place(ue_keycache_t *c, char *memory)
{
    size_t at = 0;

#define PLACE(part, n)                                             \
    do {                                                           \
        c->part = memory ? (void *)(memory + at) : NULL;           \
        at += ((size_t)(n) * sizeof(*c->part) + 63) & ~(size_t)63; \
    } while (0)
    PLACE(shared, 1);
    PLACE(doubts, UE_KEYCACHE_DOUBTS);
    PLACE(claims, UE_KEYCACHE_CLAIMS);
    PLACE(sets, UE_KEYCACHE_SETS);
    PLACE(used, (c->size + 63) / 64);
    PLACE(by_tag, c->size);
    PLACE(by_hash, UE_KEYCACHE_BY_HASH(c->size));
    PLACE(cells, c->size);
    PLACE(chunks, c->chunk_count);
#undef PLACE
    return at;
}

apr_status_t ue_keycache_create(ue_keycache_t **cache, uint32_t size,
                                apr_pool_t *p)
{
    ue_keycache_t *c;
    apr_status_t rv;
    void *memory;

    if (size < 1 || size > SIZE_MAX_KEYS) {
        return APR_EINVAL;
    }
    c = apr_pcalloc(p, sizeof(*c));
    c->size = size;
    c->chunk_count = size * UE_KEYCACHE_CHUNKS;
    if (c->chunk_count < CHUNKS_MIN) {
        c->chunk_count = CHUNKS_MIN;
    }
    rv = ue_random(c->secret, sizeof(c->secret));
    if (rv) {
        return rv;
    }
    rv = ue_shared_map(&memory, place(c, NULL));
    if (rv) {
        return rv;
    }
    place(c, memory);
    rv = ue_shared_mutex(&c->shared->mutex);
    if (rv) {
        munmap(memory, place(c, NULL));
        return rv;
    }
    *cache = c;
    return APR_SUCCESS;
}

/* Look-up -------------------------------------------------------------- */

void ue_keycache_tag(const ue_keycache_t *c, const char *key, size_t len,
                     ue_keytag_t *tag)
{
    ue_siphash128(key, len, c->secret, tag->sip);
}

/* Find a key's cell.
 * @param seq receives the sequence that it was seen with, which is even where
 *            it is being written */
static inline ue_keycell_t *find(const ue_keycache_t *c, const uint64_t sip[2],
                                 uint32_t *seq)
{
    uint32_t number = UE_LOAD(*ue_keycache_tag_bucket(c, sip));
    ue_keycell_t *cell;
    int steps;

    for (steps = 0; steps < UE_KEYCACHE_STEPS; steps++) {
        cell = ue_keycache_cell(c, number);
        if (!cell) {
            break;
        }
        *seq = UE_LOAD(cell->seq);
        if (ue_keycell_is(cell, sip)) {
            return cell;
        }
        number = UE_LOAD(cell->next_tag);
    }
    return NULL;
}

/* Is what was read of a cell, since it had this odd sequence, whole? */
static inline int is_whole(const ue_keycell_t *cell, uint32_t seq)
{
    return atomic_load_explicit(&cell->seq, memory_order_relaxed) == seq;
}

static inline void copy_words(void *to, const _Atomic uint64_t *from, size_t n)
{
    size_t i;

#pragma GCC unroll 4
    for (i = 0; i < n; i++) {
        uint64_t word = UE_LOAD(from[i]);

        memcpy((char *)to + i * sizeof(word), &word, sizeof(word));
    }
}

/* The two texts lie in nine words, of which the fifth has the end of the one
 * and the beginning of the other. */
static inline void copy_record(const ue_keycell_t *cell, uint32_t bits,
                               ue_keyrecord_t *r)
{
    uint64_t word = UE_LOAD(cell->words[UE_CELL_TEXTS + 4]);

    static_assert(UE_UUID_LEN == 36, "nine words");
    copy_words(&r->organization_id, &cell->words[UE_CELL_IDS], 2);
    copy_words(&r->api_key_id, &cell->words[UE_CELL_IDS + 2], 2);
    copy_words(r->organization_text, &cell->words[UE_CELL_TEXTS], 4);
    memcpy(r->organization_text + 32, &word, 4);
    memcpy(r->api_key_text, (const char *)&word + 4, 4);
    copy_words(r->api_key_text + 4, &cell->words[UE_CELL_TEXTS + 5], 4);
    r->organization_text[UE_UUID_LEN] = '\0';
    r->api_key_text[UE_UUID_LEN] = '\0';
    r->expires = (apr_time_t)UE_LOAD(cell->words[UE_CELL_EXPIRES]);
    r->revoked = !!(bits & UE_CELL_REVOKED);
    r->billable = !!(bits & UE_CELL_BILLABLE);
    r->access = UE_ACCESS_GRANTED;
    memset(&r->of_key, 0, sizeof(r->of_key));
    memset(&r->of_org, 0, sizeof(r->of_org));
}

static void unpack_rate(uint64_t word, ue_rate_t *rate)
{
    static const uint32_t seconds[] = {1, 60, 3600, 3600};

    rate->count = (uint32_t)(word & UE_LIMITS_COUNT_MASK);
    rate->burst =
        (uint32_t)(word >> UE_LIMITS_COUNT_BITS & UE_LIMITS_COUNT_MASK);
    rate->period =
        rate->count
            ? apr_time_from_sec(seconds[word >> 2 * UE_LIMITS_COUNT_BITS & 3])
            : 0;
}

static void unpack_quota(uint32_t word, ue_quota_t *quota)
{
    uint32_t period = word >> UE_LIMITS_COUNT_BITS;

    quota->count = (uint32_t)(word & UE_LIMITS_COUNT_MASK);
    quota->period =
        period < UE_QUOTA_MONTH ? (ue_quotaperiod_t)period : UE_QUOTA_MONTH;
}

static void unpack_limits(const uint8_t *from, ue_keyrecord_t *r)
{
    uint64_t words[UE_LIMITS_WORDS];

    memcpy(words, from, sizeof(words));
    unpack_rate(words[UE_LIMITS_KEY_RATE], &r->of_key.rate);
    unpack_rate(words[UE_LIMITS_ORG_RATE], &r->of_org.rate);
    unpack_quota((uint32_t)words[UE_LIMITS_QUOTAS], &r->of_key.quota);
    unpack_quota((uint32_t)(words[UE_LIMITS_QUOTAS] >> 32), &r->of_org.quota);
}

/* Read what is in its chunks, and judge by it, from a copy: the original may be
 * another key's by now. @return 0 where it changed meanwhile */
static __attribute__((noinline)) int read_chunks(const ue_keycache_t *c,
                                                 const ue_keycell_t *cell,
                                                 uint32_t seq, uint32_t bits,
                                                 const ue_asked_t *asked,
                                                 ue_keyrecord_t *r)
{
    uint8_t block[UE_KEYCACHE_BLOCK_MAX + UE_CHUNK_BYTES];
    size_t limits = bits & UE_CELL_LIMITED ? UE_LIMITS_BYTES : 0;
    size_t len = bits >> UE_CELL_LEN_SHIFT, at;
    uint64_t number = UE_LOAD(cell->words[UE_CELL_CHUNK]);

    if (len < limits || len - limits > UE_ACCESS_MAX) {
        return 0;
    }
    for (at = 0; at < len; at += UE_CHUNK_BYTES) {
        if (number - 1 >= c->chunk_count) {
            return 0;
        }
        copy_words(block + at, c->chunks[number - 1].words, UE_CHUNK_WORDS);
        number = UE_LOAD(c->chunks[number - 1].next);
    }
    if (!is_whole(cell, seq)) {
        return 0;
    }
    if (limits) {
        unpack_limits(block, r);
    }
    r->access = (uint8_t)ue_access_judge(block + limits, len - limits, asked);
    return 1;
}

static inline void read_age(const ue_keycache_t *c, const ue_keycell_t *cell,
                            uint32_t bits, ue_keyage_t *age)
{
    age->checked = UE_LOAD(cell->words[UE_CELL_CHECKED]);
    age->doubted = bits & UE_CELL_DOUBTED                       ? UE_DOUBT_KEY
                   : age->checked < UE_LOAD(c->shared->doubted) ? UE_DOUBT_ALL
                                                                : UE_DOUBT_NONE;
}

/* So that it is kept: for others a write to this line is a cache miss, so not
 * where it isn't needed. */
static inline void mark_used(ue_keycache_t *c, const ue_keycell_t *cell)
{
    size_t i = (size_t)(cell - c->cells);
    uint64_t bit = UINT64_C(1) << i % 64;

    if (!(atomic_load_explicit(&c->used[i / 64], memory_order_relaxed) & bit)) {
        atomic_fetch_or_explicit(&c->used[i / 64], bit, memory_order_relaxed);
    }
}

/* @return 0 where it changed meanwhile */
static inline int read_cell(ue_keycache_t *c, const ue_keycell_t *cell,
                            uint32_t seq, const ue_asked_t *asked,
                            ue_keyrecord_t *record, ue_keyage_t *age)
{
    uint32_t bits = UE_LOAD(cell->bits);

    copy_record(cell, bits, record);
    read_age(c, cell, bits, age);
    return bits >> UE_CELL_LEN_SHIFT
               ? read_chunks(c, cell, seq, bits, asked, record)
               : is_whole(cell, seq);
}

/* @return 0 where it changed meanwhile */
static int find_unknown(const ue_keycache_t *c, const uint64_t sip[2],
                        uint64_t *checked)
{
    const ue_keyset_t *set = ue_keycache_set(c, sip);
    uint64_t seq = UE_LOAD(set->seq);
    int i;

    *checked = 0;
    for (i = 0; i < UE_KEYCACHE_WAYS && seq % 2; i++) {
        if (UE_LOAD(set->ways[i].sip[0]) == sip[0]
            && UE_LOAD(set->ways[i].sip[1]) == sip[1]) {
            *checked = UE_LOAD(set->ways[i].checked);
            break;
        }
    }
    return atomic_load_explicit(&set->seq, memory_order_relaxed) == seq;
}

static __attribute__((noinline)) ue_keycache_state_t get_unknown(
    const ue_keycache_t *c, const uint64_t sip[2], ue_keyage_t *age)
{
    uint64_t checked;
    int tries;

    for (tries = 0; tries < TRIES; tries++) {
        if (find_unknown(c, sip, &checked)) {
            if (!checked || checked <= UE_LOAD(c->shared->unknown_doubted)) {
                return UE_KEYCACHE_ABSENT;
            }
            age->checked = checked - 1;
            age->doubted = UE_DOUBT_NONE;
            return UE_KEYCACHE_UNKNOWN;
        }
    }
    return UE_KEYCACHE_ABSENT;
}

ue_keycache_state_t ue_keycache_get(ue_keycache_t *c, const ue_keytag_t *tag,
                                    const ue_asked_t *asked,
                                    ue_keyrecord_t *record, ue_keyage_t *age)
{
    const ue_keycell_t *cell;
    uint32_t seq;
    int tries;

    for (tries = 0; tries < TRIES; tries++) {
        cell = find(c, tag->sip, &seq);
        if (!cell) {
            break;
        }
        if (seq % 2 && read_cell(c, cell, seq, asked, record, age)) {
            mark_used(c, cell);
            return UE_KEYCACHE_FOUND;
        }
    }
    return get_unknown(c, tag->sip, age);
}

ue_keycache_state_t ue_keycache_peek(ue_keycache_t *c, const ue_keytag_t *tag,
                                     ue_keyage_t *age, ue_keyhash_t *hash)
{
    const ue_keycell_t *cell;
    uint32_t seq;
    int tries;

    for (tries = 0; tries < TRIES; tries++) {
        cell = find(c, tag->sip, &seq);
        if (!cell) {
            break;
        }
        read_age(c, cell, UE_LOAD(cell->bits), age);
        copy_words(hash, &cell->words[UE_CELL_HASH], 4);
        if (seq % 2 && is_whole(cell, seq)) {
            return UE_KEYCACHE_FOUND;
        }
    }
    return UE_KEYCACHE_ABSENT;
}

/* Is it old, and what is its hash? */
static int is_older(const ue_keycache_t *c, const ue_keycell_t *cell,
                    uint64_t before, ue_keyhash_t *hash)
{
    uint32_t seq = UE_LOAD(cell->seq);
    ue_keyage_t age;

    if (seq % 2 == 0) {
        return 0;
    }
    read_age(c, cell, UE_LOAD(cell->bits), &age);
    if (!age.doubted && age.checked >= before) {
        return 0;
    }
    copy_words(hash, &cell->words[UE_CELL_HASH], 4);
    return is_whole(cell, seq);
}

uint32_t ue_keycache_older(ue_keycache_t *c, uint32_t *cursor, uint64_t before,
                           ue_keyhash_t *hashes, uint32_t max)
{
    uint32_t found = 0;

    if (*cursor == 0) {
        c->older_of = UE_LOAD(c->shared->high);
        c->older_of = c->older_of < c->size ? c->older_of : c->size;
        /* Processes that were forked one after the other begin far apart
         * (Knuth's multiplicative hash). */
        c->older_from = ue_shared_scale(
            (uint32_t)getpid() * UINT32_C(2654435769), c->older_of);
    }
    while (*cursor < c->older_of && found < max) {
        uint64_t at = (uint64_t)c->older_from + (*cursor)++;

        found += (uint32_t)is_older(c, &c->cells[at % c->older_of], before,
                                    &hashes[found]);
    }
    return found;
}

/* Single flight -------------------------------------------------------- */

/* A claim is 24 bits of the hash and 40 of the moment, 35 years. Two keys that
 * meet in one place don't wait for each other: the second just isn't claimed.
 * One place a key, so that two children can't both claim it. */
#define CLAIM_MOMENT ((UINT64_C(1) << 40) - 1)

static _Atomic uint64_t *claim_of(const ue_keycache_t *c,
                                  const ue_keyhash_t *hash, uint64_t *name)
{
    uint64_t word;

    memcpy(&word, hash->b + 8, sizeof(word));
    *name = word & ~CLAIM_MOMENT;
    return &c->claims[word % UE_KEYCACHE_CLAIMS];
}

int ue_keycache_claim(ue_keycache_t *c, const ue_keyhash_t *hash, uint64_t now,
                      uint32_t most)
{
    uint64_t name, is;
    _Atomic uint64_t *claim = claim_of(c, hash, &name);

    now &= CLAIM_MOMENT;
    is = UE_LOAD(*claim);
    do {
        uint64_t then = is & CLAIM_MOMENT;

        /* another child may have read the clock a moment after us */
        if (is && (then > now ? then - now : now - then) < most) {
            return (is & ~CLAIM_MOMENT) != name;
        }
    } while (!atomic_compare_exchange_weak_explicit(
        claim, &is, name | now, memory_order_acq_rel, memory_order_acquire));
    return 1;
}

void ue_keycache_release(ue_keycache_t *c, const ue_keyhash_t *hash)
{
    uint64_t name;
    _Atomic uint64_t *claim = claim_of(c, hash, &name);
    uint64_t is = UE_LOAD(*claim);

    while (is && (is & ~CLAIM_MOMENT) == name
           && !atomic_compare_exchange_weak_explicit(
               claim, &is, 0, memory_order_acq_rel, memory_order_acquire)) {
    }
}
