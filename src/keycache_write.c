/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/*
 * The key cache as it is written: by one process at a time, beside readers who
 * don't wait. A cell is written while its sequence is even; it is in the chains
 * only while it holds a key.
 */
#include "keycache_int.h"

#include <errno.h>
#include <string.h>
#define PATIENCE 500 /* ms that are waited for the lock */

/* The lock -------------------------------------------------------------- */

/* From here to end_write() readers take nothing from it. */
static void begin_write(ue_keycell_t *cell)
{
    UE_STORE(cell->seq, (UE_LOAD(cell->seq) & ~UINT32_C(1)) + 2);
}

static void end_write(ue_keycell_t *cell)
{
    UE_STORE(cell->seq, UE_LOAD(cell->seq) + 1);
}

static void begin_set(ue_keyset_t *set)
{
    UE_STORE(set->seq, (UE_LOAD(set->seq) & ~UINT64_C(1)) + 2);
}

static void end_set(ue_keyset_t *set)
{
    UE_STORE(set->seq, UE_LOAD(set->seq) + 1);
}

/* Begin anew. What was doubted stays so: an answer may still be on its way. */
static void empty(ue_keycache_t *c)
{
    ue_keyshared_t *s = c->shared;
    uint32_t i, high = UE_LOAD(s->high);
    size_t n;

    for (i = 0; i < c->size; i++) {
        UE_STORE(c->by_tag[i], 0);
    }
    for (i = 0; i < UE_KEYCACHE_BY_HASH(c->size); i++) {
        UE_STORE(c->by_hash[i], 0);
    }
    for (i = 0; i < high && i < c->size; i++) {
        begin_write(&c->cells[i]);
    }
    for (n = 0; n < (c->size + 63) / 64; n++) {
        UE_STORE(c->used[n], 0);
    }
    for (i = 0; i < UE_KEYCACHE_SETS; i++) {
        begin_set(&c->sets[i]);
        for (n = 0; n < UE_KEYCACHE_WAYS; n++) {
            UE_STORE(c->sets[i].ways[n].checked, 0);
        }
    }
    UE_STORE(s->high, 0);
    UE_STORE(s->count, 0);
    UE_STORE(s->emptied, UE_LOAD(s->emptied) + 1);
    s->free_cell = s->free_chunk = s->chunks_high = s->chunks_free = 0;
    s->hand = 0;
}

/* @return 0 where there is no lock to be had */
static int lock(ue_keycache_t *c)
{
    pthread_mutex_t *mutex = &c->shared->mutex;
    int rv = pthread_mutex_trylock(mutex);

    /* Who didn't get it in half a second doesn't wait as long for each key of a
     * batch. */
    if (rv == EBUSY && !c->is_impatient) {
        rv = ue_shared_lock(mutex, PATIENCE, PATIENCE / 10);
    }
    c->is_impatient = rv == EBUSY || rv == ETIMEDOUT;
    if (rv == EOWNERDEAD) {
        empty(c);
        rv = pthread_mutex_consistent(mutex);
    }
    return !rv;
}

static void unlock(ue_keycache_t *c)
{
    pthread_mutex_unlock(&c->shared->mutex);
}

/* Chains ---------------------------------------------------------------- */

static uint32_t number_of(const ue_keycache_t *c, const ue_keycell_t *cell)
{
    return (uint32_t)(cell - c->cells) + 1;
}

static _Atomic uint32_t *hash_bucket(const ue_keycache_t *c,
                                     const uint64_t hash[4])
{
    return &c->by_hash[ue_shared_scale((uint32_t)(hash[0] >> 32),
                                       UE_KEYCACHE_BY_HASH(c->size))];
}

static void hash_words(uint64_t to[4], const ue_keyhash_t *hash)
{
    memcpy(to, hash->b, sizeof(hash->b));
}

static int has_words(const ue_keycell_t *cell, size_t first,
                     const uint64_t *words, size_t n)
{
    size_t i;

    for (i = 0; i < n; i++) {
        if (UE_LOAD(cell->words[first + i]) != words[i]) {
            return 0;
        }
    }
    return 1;
}

static ue_keycell_t *find_tag(const ue_keycache_t *c, const uint64_t sip[2])
{
    ue_keycell_t *cell =
        ue_keycache_cell(c, UE_LOAD(*ue_keycache_tag_bucket(c, sip)));

    while (cell && !ue_keycell_is(cell, sip)) {
        cell = ue_keycache_cell(c, UE_LOAD(cell->next_tag));
    }
    return cell;
}

static ue_keycell_t *find_hash(const ue_keycache_t *c, const uint64_t hash[4])
{
    ue_keycell_t *cell = ue_keycache_cell(c, UE_LOAD(*hash_bucket(c, hash)));

    while (cell && !has_words(cell, UE_CELL_HASH, hash, 4)) {
        cell = ue_keycache_cell(c, UE_LOAD(cell->next_hash));
    }
    return cell;
}

static void link_cell(ue_keycache_t *c, ue_keycell_t *cell,
                      const uint64_t sip[2], const uint64_t hash[4])
{
    _Atomic uint32_t *by_tag = ue_keycache_tag_bucket(c, sip);
    _Atomic uint32_t *by_hash = hash_bucket(c, hash);

    UE_STORE(cell->next_tag, UE_LOAD(*by_tag));
    UE_STORE(cell->next_hash, UE_LOAD(*by_hash));
    UE_STORE(*by_tag, number_of(c, cell));
    UE_STORE(*by_hash, number_of(c, cell));
}

static void unlink_cell(ue_keycache_t *c, ue_keycell_t *cell)
{
    uint32_t number = number_of(c, cell);
    uint64_t sip[2] = {UE_LOAD(cell->words[UE_CELL_SIP]),
                       UE_LOAD(cell->words[UE_CELL_SIP + 1])};
    uint64_t hash[4];
    _Atomic uint32_t *at = ue_keycache_tag_bucket(c, sip);
    int i;

    while (UE_LOAD(*at) != number) {
        at = &ue_keycache_cell(c, UE_LOAD(*at))->next_tag;
    }
    UE_STORE(*at, UE_LOAD(cell->next_tag));
    for (i = 0; i < 4; i++) {
        hash[i] = UE_LOAD(cell->words[UE_CELL_HASH + i]);
    }
    at = hash_bucket(c, hash);
    while (UE_LOAD(*at) != number) {
        at = &ue_keycache_cell(c, UE_LOAD(*at))->next_hash;
    }
    UE_STORE(*at, UE_LOAD(cell->next_hash));
}

/* Chunks ---------------------------------------------------------------- */

static uint32_t chunks_for(size_t len)
{
    return (uint32_t)((len + UE_CHUNK_BYTES - 1) / UE_CHUNK_BYTES);
}

static uint32_t chunks_of(const ue_keycell_t *cell)
{
    return chunks_for(UE_LOAD(cell->bits) >> UE_CELL_LEN_SHIFT);
}

static uint32_t chunks_left(const ue_keycache_t *c)
{
    return c->shared->chunks_free + c->chunk_count - c->shared->chunks_high;
}

/* The cell that they were of must have been written since, so that nobody takes
 * what will be in them for its own. */
static void free_chunks(ue_keycache_t *c, uint64_t number, uint32_t n)
{
    uint64_t next;

    for (; n > 0; n--) {
        next = UE_LOAD(c->chunks[number - 1].next);
        UE_STORE(c->chunks[number - 1].next, c->shared->free_chunk);
        c->shared->free_chunk = (uint32_t)number;
        c->shared->chunks_free++;
        number = next;
    }
}

static uint32_t take_chunk(ue_keycache_t *c)
{
    ue_keyshared_t *s = c->shared;
    uint32_t number = s->free_chunk;

    if (!number) {
        return ++s->chunks_high;
    }
    s->free_chunk = (uint32_t)UE_LOAD(c->chunks[number - 1].next);
    s->chunks_free--;
    return number;
}

/* Write a block, for which there are chunks. @return its first one */
static uint32_t write_block(ue_keycache_t *c, const uint8_t *block, size_t len)
{
    uint32_t first = 0, number;
    _Atomic uint64_t *before = NULL;
    size_t at, i, n;

    for (at = 0; at < len; at += UE_CHUNK_BYTES) {
        uint64_t words[UE_CHUNK_WORDS] = {0};

        n = len - at < UE_CHUNK_BYTES ? len - at : UE_CHUNK_BYTES;
        memcpy(words, block + at, n);
        number = take_chunk(c);
        for (i = 0; i < UE_CHUNK_WORDS; i++) {
            UE_STORE(c->chunks[number - 1].words[i], words[i]);
        }
        if (before) {
            UE_STORE(*before, number);
        }
        else {
            first = number;
        }
        before = &c->chunks[number - 1].next;
    }
    return first;
}

/* Cells ----------------------------------------------------------------- */

static void drop(ue_keycache_t *c, ue_keycell_t *cell)
{
    ue_keyshared_t *s = c->shared;

    unlink_cell(c, cell);
    begin_write(cell);
    free_chunks(c, UE_LOAD(cell->words[UE_CELL_CHUNK]), chunks_of(cell));
    UE_STORE(cell->bits, 0);
    UE_STORE(cell->next_hash, s->free_cell);
    s->free_cell = number_of(c, cell);
    UE_STORE(s->count, UE_LOAD(s->count) - 1);
}

/* Was it used since the hand came by last? */
static int was_used(ue_keycache_t *c, uint32_t i)
{
    uint64_t bit = UINT64_C(1) << i % 64;

    return UE_LOAD(c->used[i / 64]) & bit
           && atomic_fetch_and(&c->used[i / 64], ~bit) & bit;
}

/* Where all of 64 keys were used, the hand passes them at once: others wait for
 * it. */
static int were_used(ue_keycache_t *c, uint32_t i, uint32_t high)
{
    if (i % 64 || high - i < 64 || ~UE_LOAD(c->used[i / 64])) {
        return 0;
    }
    UE_STORE(c->used[i / 64], 0);
    return 1;
}

/* Drop a key that was not used lately (CLOCK). Twice around is enough, if no
 * reader is faster than the hand; then it is whom the hand meets.
 * @param keep another than this one, with a block: for its chunks; there must
 *             be one. NULL: any */
static void evict(ue_keycache_t *c, const ue_keycell_t *keep)
{
    uint32_t high = UE_LOAD(c->shared->high), i;
    uint64_t steps = 0, most = 2 * (uint64_t)high;
    ue_keycell_t *cell;

    for (;;) {
        i = c->shared->hand < high ? c->shared->hand : 0;
        if (steps < most && were_used(c, i, high)) {
            c->shared->hand = i + 64;
            steps += 64;
            continue;
        }
        c->shared->hand = i + 1;
        if (was_used(c, i) && steps++ < most) {
            continue;
        }
        steps++;
        cell = &c->cells[i];
        if (UE_LOAD(cell->seq) % 2
            && (!keep || (cell != keep && chunks_of(cell)))) {
            drop(c, cell);
            return;
        }
    }
}

/* A cell that is in no chain and in writing. */
static ue_keycell_t *take_cell(ue_keycache_t *c)
{
    ue_keyshared_t *s = c->shared;
    uint32_t high = UE_LOAD(s->high);
    ue_keycell_t *cell;

    if (!s->free_cell && high < c->size) {
        cell = &c->cells[high];
        UE_STORE(s->high, high + 1);
    }
    else {
        if (!s->free_cell) {
            evict(c, NULL);
        }
        cell = ue_keycache_cell(c, s->free_cell);
        s->free_cell = UE_LOAD(cell->next_hash);
    }
    begin_write(cell);
    /* from before the cache was emptied, perhaps */
    UE_STORE(cell->bits, 0);
    was_used(c, number_of(c, cell) - 1);
    return cell;
}

/* Doubts ---------------------------------------------------------------- */

static _Atomic uint64_t *doubt_of(const ue_keycache_t *c,
                                  const uint64_t hash[4])
{
    return &c->doubts[hash[0] % UE_KEYCACHE_DOUBTS];
}

/* Was a key with this hash doubted at this moment or later? Or one that shares
 * its place with it: then it is asked for once more. */
static int is_doubted(const ue_keycache_t *c, const uint64_t hash[4],
                      uint64_t checked)
{
    return checked < UE_LOAD(*doubt_of(c, hash));
}

static void raise_to(_Atomic uint64_t *moment, uint64_t to)
{
    uint64_t is = UE_LOAD(*moment);

    while (is < to
           && !atomic_compare_exchange_weak_explicit(
               moment, &is, to, memory_order_acq_rel, memory_order_acquire)) {
    }
}

int ue_keycache_doubt(ue_keycache_t *c, const ue_keyhash_t *hash, uint64_t when)
{
    uint64_t words[4];
    ue_keycell_t *cell;

    if (!hash) {
        raise_to(&c->shared->doubted, when + 1);
        raise_to(&c->shared->unknown_doubted, when + 1);
        return 1;
    }
    hash_words(words, hash);
    /* Before the lock: whoever puts an answer in finds either this, or the cell
     * is there when we get the lock. */
    raise_to(doubt_of(c, words), when + 1);
    if (!lock(c)) {
        raise_to(&c->shared->doubted, when + 1);
        raise_to(&c->shared->unknown_doubted, when + 1);
        return 1;
    }
    cell = find_hash(c, words);
    if (!cell) {
        raise_to(&c->shared->unknown_doubted, when + 1);
    }
    else if (UE_LOAD(cell->words[UE_CELL_CHECKED]) <= when) {
        UE_STORE(cell->bits, UE_LOAD(cell->bits) | UE_CELL_DOUBTED);
    }
    unlock(c);
    return cell != NULL;
}

/* Unknown keys ---------------------------------------------------------- */

/* @return its way, or that of the oldest, which is free if one is */
static int find_way(const ue_keyset_t *set, const uint64_t sip[2], int *is)
{
    int i, oldest = 0;

    for (i = 0; i < UE_KEYCACHE_WAYS; i++) {
        uint64_t checked = UE_LOAD(set->ways[i].checked);

        *is = checked && UE_LOAD(set->ways[i].sip[0]) == sip[0]
              && UE_LOAD(set->ways[i].sip[1]) == sip[1];
        if (*is) {
            return i;
        }
        if (checked < UE_LOAD(set->ways[oldest].checked)) {
            oldest = i;
        }
    }
    return oldest;
}

static void remember_unknown(ue_keycache_t *c, const uint64_t sip[2],
                             uint64_t checked)
{
    ue_keyset_t *set = ue_keycache_set(c, sip);
    int is, way = find_way(set, sip, &is);

    if (is && UE_LOAD(set->ways[way].checked) > checked + 1) {
        return;
    }
    begin_set(set);
    UE_STORE(set->ways[way].sip[0], sip[0]);
    UE_STORE(set->ways[way].sip[1], sip[1]);
    UE_STORE(set->ways[way].checked, checked + 1);
    end_set(set);
}

/* @return 0 where it is known to be unknown since a later moment */
static int forget_unknown(ue_keycache_t *c, const uint64_t sip[2],
                          uint64_t checked)
{
    ue_keyset_t *set = ue_keycache_set(c, sip);
    int is, way = find_way(set, sip, &is);

    if (!is) {
        return 1;
    }
    if (UE_LOAD(set->ways[way].checked) > checked + 1) {
        return 0;
    }
    begin_set(set);
    UE_STORE(set->ways[way].checked, 0);
    end_set(set);
    return 1;
}

/* Answers --------------------------------------------------------------- */

static int is_later(const ue_keycell_t *cell, uint64_t checked)
{
    return cell && UE_LOAD(cell->words[UE_CELL_CHECKED]) > checked;
}

static void store_words(ue_keycell_t *cell, size_t first, const void *from,
                        size_t n)
{
    size_t i;

    for (i = 0; i < n; i++) {
        uint64_t word;

        memcpy(&word, (const char *)from + i * sizeof(word), sizeof(word));
        UE_STORE(cell->words[first + i], word);
    }
}

static void write_record(ue_keycell_t *cell, const ue_keyrecord_t *r)
{
    char texts[2 * UE_UUID_LEN];

    memcpy(texts, r->organization_text, UE_UUID_LEN);
    memcpy(texts + UE_UUID_LEN, r->api_key_text, UE_UUID_LEN);
    store_words(cell, UE_CELL_EXPIRES, &r->expires, 1);
    store_words(cell, UE_CELL_IDS, &r->organization_id, 2);
    store_words(cell, UE_CELL_IDS + 2, &r->api_key_id, 2);
    store_words(cell, UE_CELL_TEXTS, texts, sizeof(texts) / sizeof(uint64_t));
}

static uint64_t pack_rate(const ue_rate_t *rate)
{
    uint64_t period = rate->period > apr_time_from_sec(60)  ? 2
                      : rate->period > apr_time_from_sec(1) ? 1
                                                            : 0;

    return rate->count | (uint64_t)rate->burst << UE_LIMITS_COUNT_BITS
           | period << 2 * UE_LIMITS_COUNT_BITS;
}

static uint64_t pack_quota(const ue_quota_t *quota)
{
    return quota->count | (uint64_t)quota->period << UE_LIMITS_COUNT_BITS;
}

/* @return bytes; 0 where neither key nor organization is limited */
static size_t pack_limits(const ue_keyrecord_t *r, uint8_t *to)
{
    const ue_allowance_t *key = &r->of_key, *org = &r->of_org;
    uint64_t words[UE_LIMITS_WORDS];

    if (!(key->rate.count | key->quota.count | org->rate.count
          | org->quota.count)) {
        return 0;
    }
    words[UE_LIMITS_KEY_RATE] = pack_rate(&key->rate);
    words[UE_LIMITS_ORG_RATE] = pack_rate(&org->rate);
    words[UE_LIMITS_QUOTAS] =
        pack_quota(&key->quota) | pack_quota(&org->quota) << 32;
    memcpy(to, words, sizeof(words));
    return sizeof(words);
}

/* What is the same for each answer of a key. Nobody can read the cell while it
 * is written, so its chunks are there before, and the old ones go afterwards.
 */
static void write_answer(ue_keycache_t *c, ue_keycell_t *cell,
                         const ue_keyrecord_t *r, const uint8_t *access,
                         size_t len, uint64_t checked, int doubted)
{
    uint64_t old = UE_LOAD(cell->words[UE_CELL_CHUNK]), first;
    uint32_t old_chunks = chunks_of(cell);
    uint8_t block[UE_KEYCACHE_BLOCK_MAX];
    size_t limits = pack_limits(r, block);

    if (len > 0) {
        memcpy(block + limits, access, len);
    }
    len += limits;
    while (chunks_left(c) < chunks_for(len)) {
        evict(c, cell);
    }
    first = write_block(c, block, len);
    begin_write(cell);
    write_record(cell, r);
    UE_STORE(cell->words[UE_CELL_CHECKED], checked);
    UE_STORE(cell->words[UE_CELL_CHUNK], first);
    UE_STORE(cell->bits, (uint32_t)len << UE_CELL_LEN_SHIFT
                             | (r->revoked ? UE_CELL_REVOKED : 0)
                             | (r->billable ? UE_CELL_BILLABLE : 0)
                             | (limits ? UE_CELL_LIMITED : 0)
                             | (doubted ? UE_CELL_DOUBTED : 0));
    end_write(cell);
    free_chunks(c, old, old_chunks);
}

/* A cell for a tag and a hash that have none. */
static ue_keycell_t *add_cell(ue_keycache_t *c, const uint64_t sip[2],
                              const uint64_t hash[4])
{
    ue_keycell_t *cell = take_cell(c);

    store_words(cell, UE_CELL_SIP, sip, 2);
    store_words(cell, UE_CELL_HASH, hash, 4);
    link_cell(c, cell, sip, hash);
    UE_STORE(c->shared->count, UE_LOAD(c->shared->count) + 1);
    return cell;
}

/* The cell for an answer, in writing if it is new. A key has one hash and one
 * tag: another cell with either is of a secret or a key from before.
 * @return NULL where the answer is not wanted */
static ue_keycell_t *cell_for(ue_keycache_t *c, const uint64_t *sip,
                              const uint64_t hash[4], uint64_t checked)
{
    ue_keycell_t *cell = find_hash(c, hash);
    ue_keycell_t *tagged = sip ? find_tag(c, sip) : cell;

    if (is_later(cell, checked) || is_later(tagged, checked) || (!sip && !cell)
        || (sip && !forget_unknown(c, sip, checked))) {
        return NULL;
    }
    if (cell && cell == tagged) {
        return cell;
    }
    if (cell) {
        drop(c, cell);
    }
    if (tagged) {
        drop(c, tagged);
    }
    return add_cell(c, sip, hash);
}

void ue_keycache_put(ue_keycache_t *c, const ue_keytag_t *tag,
                     const ue_keyhash_t *hash, const ue_keyrecord_t *record,
                     const uint8_t *block, size_t len, uint64_t checked)
{
    uint64_t words[4];
    ue_keycell_t *cell;

    hash_words(words, hash);
    if (len > UE_ACCESS_MAX || !lock(c)) {
        return;
    }
    cell = cell_for(c, tag ? tag->sip : NULL, words, checked);
    if (cell) {
        write_answer(c, cell, record, block, len, checked,
                     is_doubted(c, words, checked));
    }
    unlock(c);
}

void ue_keycache_put_unknown(ue_keycache_t *c, const ue_keytag_t *tag,
                             const ue_keyhash_t *hash, uint64_t checked)
{
    uint64_t words[4];
    ue_keycell_t *cell, *tagged;

    hash_words(words, hash);
    if (!lock(c)) {
        /* it can't be dropped, so it is to be asked for again */
        raise_to(&c->shared->doubted, checked + 1);
        return;
    }
    cell = find_hash(c, words);
    tagged = tag ? find_tag(c, tag->sip) : cell;
    if (!is_later(cell, checked) && !is_later(tagged, checked)) {
        if (cell) {
            drop(c, cell);
        }
        if (tagged && tagged != cell) {
            drop(c, tagged);
        }
        if (tag && !is_doubted(c, words, checked)) {
            remember_unknown(c, tag->sip, checked);
        }
    }
    unlock(c);
}
