/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "unit_keycache.h"

static apr_pool_t *pool;
static ue_keycache_t *cache;

static int begin(void **state)
{
    apr_pool_create(&pool, NULL);
    unit_make_blocks(3, pool);
    cache = unit_keycache(100, pool);
    return 0;
}

static int end(void **state)
{
    unit_unmap(cache);
    apr_pool_destroy(pool);
    return 0;
}

static void assert_age(uint64_t key, uint64_t checked, ue_keydoubt_t doubted,
                       uint32_t version)
{
    ue_keyage_t age, peeked;
    ue_keytag_t tag = unit_tag(key);
    ue_keyhash_t hash, right = unit_hash(key);
    uint32_t is;

    assert_int_equal(unit_find(cache, key, &age, &is), UE_KEYCACHE_FOUND);
    assert_int_equal(is, version);
    assert_int_equal(age.checked, checked);
    assert_int_equal(age.doubted, doubted);
    assert_int_equal(ue_keycache_peek(cache, &tag, &peeked, &hash),
                     UE_KEYCACHE_FOUND);
    assert_int_equal(peeked.checked, checked);
    assert_int_equal(peeked.doubted, doubted);
    assert_memory_equal(&hash, &right, sizeof(hash));
}

static void put_unknown(uint64_t key, uint64_t checked)
{
    ue_keytag_t tag = unit_tag(key);
    ue_keyhash_t hash = unit_hash(key);

    ue_keycache_put_unknown(cache, &tag, &hash, checked);
}

static void doubt(uint64_t key, uint64_t when)
{
    ue_keyhash_t hash = unit_hash(key);

    ue_keycache_doubt(cache, &hash, when);
}

/* Sizes ------------------------------------------------------------------ */

static void test_keycache_refuses_sizes_that_cannot_be(void **state)
{
    ue_keycache_t *c;

    assert_int_equal(ue_keycache_create(&c, 0, pool), APR_EINVAL);
    assert_int_equal(ue_keycache_create(&c, UINT32_MAX, pool), APR_EINVAL);
    assert_int_equal(ue_keycache_size(cache), 100);
}

static void test_keycache_of_one_key_works(void **state)
{
    ue_keycache_t *c = unit_keycache(1, pool);

    for (uint64_t key = 0; key < 100; key++) {
        unit_put(c, key, 5, 1000);
        assert_int_equal(unit_state(c, key), UE_KEYCACHE_FOUND);
        assert_int_equal(ue_keycache_count(c), 1);
    }
    assert_int_equal(unit_state(c, 98), UE_KEYCACHE_ABSENT);
    unit_unmap(c);
}

/* Tags are random for who doesn't know the secret, and the same in a child. */
static void test_keycache_tags_are_secret(void **state)
{
    ue_keycache_t *other = unit_keycache(1, pool);
    ue_keytag_t a, b, again;

    ue_keycache_tag(cache, "key", 3, &a);
    ue_keycache_tag(cache, "key", 3, &again);
    ue_keycache_tag(other, "key", 3, &b);
    assert_memory_equal(&a, &again, sizeof(a));
    assert_memory_not_equal(&a, &b, sizeof(a));
    unit_unmap(other);
}

/* Found ------------------------------------------------------------------ */

static void test_keycache_gives_what_was_put(void **state)
{
    assert_int_equal(unit_state(cache, 1), UE_KEYCACHE_ABSENT);
    for (uint32_t version = 0; version < 400; version++) {
        unit_put(cache, 1, version, 1000 + version);
        assert_age(1, 1000 + version, 0, version);
        assert_int_equal(ue_keycache_count(cache), 1);
    }
}

static void test_keycache_ignores_an_older_answer(void **state)
{
    unit_put(cache, 1, 7, 1000);
    unit_put(cache, 1, 8, 999);
    assert_age(1, 1000, 0, 7);
    unit_put(cache, 1, 9, 1000);
    assert_age(1, 1000, 0, 9);
    put_unknown(1, 999);
    assert_age(1, 1000, 0, 9);
}

static void test_keycache_refreshes_by_hash_alone(void **state)
{
    ue_keyhash_t one = unit_hash(1), two = unit_hash(2);
    ue_keyrecord_t r;

    unit_record(&r, 1, 16);
    ue_keycache_put(cache, NULL, &one, &r, NULL, 0, 500);
    assert_int_equal(ue_keycache_count(cache), 0);
    unit_put(cache, 1, 0, 1000);
    ue_keycache_put(cache, NULL, &one, &r, unit_block(1, 16)->bytes,
                    unit_block(1, 16)->len, 2000);
    ue_keycache_put(cache, NULL, &two, &r, NULL, 0, 2000);
    assert_age(1, 2000, 0, 16);
    assert_int_equal(ue_keycache_count(cache), 1);
}

/* Where the secret of the hashes was changed, a key has another hash. */
static void test_keycache_replaces_the_hash_of_a_tag(void **state)
{
    ue_keytag_t tag = unit_tag(1);
    ue_keyhash_t hash = unit_hash(2), is;
    ue_keyrecord_t r;
    ue_keyage_t age;

    unit_put(cache, 1, 1, 1000);
    unit_put(cache, 2, 1, 1000);
    unit_record(&r, 1, 2);
    ue_keycache_put(cache, &tag, &hash, &r, NULL, 0, 2000);
    assert_int_equal(ue_keycache_count(cache), 1);
    assert_int_equal(unit_state(cache, 2), UE_KEYCACHE_ABSENT);
    assert_int_equal(ue_keycache_peek(cache, &tag, &age, &is),
                     UE_KEYCACHE_FOUND);
    assert_memory_equal(&is, &hash, sizeof(is));
    hash = unit_hash(1);
    ue_keycache_doubt(cache, &hash, 3000); /* has no cell any more */
    ue_keycache_peek(cache, &tag, &age, &is);
    assert_int_equal(age.doubted, 0);
}

/* Blocks ----------------------------------------------------------------- */

/* Version by version a key's block is shorter or longer; in the end all chunks
 * are free again. */
static void test_keycache_loses_no_chunk(void **state)
{
    uint64_t seed = 1;

    for (unsigned i = 0; i < unit_loops(100000); i++) {
        uint64_t key = unit_random(&seed) % 150;

        if (unit_random(&seed) % 4) {
            unit_put(cache, key, (uint32_t)unit_random(&seed), i);
            assert_int_equal(unit_state(cache, key), UE_KEYCACHE_FOUND);
        }
        else {
            put_unknown(key, i);
        }
    }
    for (uint64_t key = 0; key < 150; key++) {
        put_unknown(key, UINT32_MAX);
        assert_int_equal(unit_state(cache, key), UE_KEYCACHE_UNKNOWN);
    }
    assert_int_equal(ue_keycache_count(cache), 0);
    assert_int_equal(cache->shared->chunks_high, cache->shared->chunks_free);
    assert_in_range(cache->shared->chunks_high, 1, cache->chunk_count);
}

/* Keys with the longest blocks: as many as there are chunks for, and those
 * without a block stay. */
static void test_keycache_makes_room_for_blocks(void **state)
{
    ue_keyhash_t hash;
    ue_keyrecord_t r;
    ue_keyage_t age;
    ue_keytag_t tag;
    uint8_t block[UE_ACCESS_MAX];
    uint32_t found = 0, version;

    memset(block, 0, sizeof(block));
    memcpy(block, unit_blocks[1].bytes, unit_blocks[1].len);
    for (uint64_t key = 0; key < 50; key++) {
        unit_put(cache, key * UNIT_BLOCKS, 0, 1000);
    }
    for (uint64_t key = 1000; key < 1050; key++) {
        tag = unit_tag(key);
        hash = unit_hash(key);
        unit_record(&r, key, 0);
        ue_keycache_put(cache, &tag, &hash, &r, block, sizeof(block), 1000);
        assert_int_not_equal(unit_find(cache, key, &age, &version),
                             UE_KEYCACHE_ABSENT);
    }
    for (uint64_t key = 0; key < 50; key++) {
        assert_int_equal(unit_state(cache, key * UNIT_BLOCKS),
                         UE_KEYCACHE_FOUND);
    }
    for (uint64_t key = 1000; key < 1050; key++) {
        found += unit_find(cache, key, &age, &version) != UE_KEYCACHE_ABSENT;
    }
    assert_int_equal(found, cache->chunk_count
                                / ((UE_ACCESS_MAX - 1) / UE_CHUNK_BYTES + 1));
    assert_int_equal(ue_keycache_count(cache), 50 + found);
}

static void put_limited(uint64_t key, const ue_keyrecord_t *r,
                        const unit_block_t *block, uint64_t checked)
{
    ue_keytag_t tag = unit_tag(key);
    ue_keyhash_t hash = unit_hash(key);

    ue_keycache_put(cache, &tag, &hash, r, block->bytes, block->len, checked);
}

/* Any of the four limits, the smallest and the largest, with and without what
 * restricts the key, one instead of the other. */
static void test_keycache_keeps_the_limits_of_key_and_organization(void **state)
{
    static const ue_allowance_t all[] = {
        {{0}, {0}},
        {{1, apr_time_from_sec(1), 1}, {0}},
        {{UE_RATE_MAX, apr_time_from_sec(60), UE_RATE_MAX}, {0}},
        {{0}, {1, UE_QUOTA_HOUR}},
        {{0}, {UE_RATE_MAX, UE_QUOTA_MONTH}},
        {{100, apr_time_from_sec(3600), UE_RATE_MAX}, {7, UE_QUOTA_DAY}}};
    ue_keytag_t tag = unit_tag(1);
    ue_keyage_t age;
    uint64_t now = 1000;

    for (unsigned i = 0; i < UNIT_COUNT(all) * UNIT_COUNT(all); i++) {
        for (unsigned b = 0; b < UNIT_BLOCKS; b++) {
            ue_keyrecord_t r, is;
            ue_asked_t asked;
            char path[8];

            unit_record(&r, 1, i % UNIT_LIMITED);
            r.of_key = all[i / UNIT_COUNT(all)];
            r.of_org = all[i % UNIT_COUNT(all)];
            put_limited(1, &r, &unit_blocks[b], now++);
            unit_ask(&asked, path, 0);
            r.access = b ? UE_ACCESS_PATH : UE_ACCESS_GRANTED;
            memset(&is, 0xFF, sizeof(is));
            assert_int_equal(ue_keycache_get(cache, &tag, &asked, &is, &age),
                             UE_KEYCACHE_FOUND);
            assert_memory_equal(&is.of_key, &r.of_key, sizeof(is.of_key));
            assert_memory_equal(&is.of_org, &r.of_org, sizeof(is.of_org));
            assert_int_equal(is.access, r.access);
            assert_int_equal(is.expires, r.expires);
        }
    }
}

/* As long as a block may be, with limits in front of it. */
static void test_keycache_limits_leave_the_longest_block_its_room(void **state)
{
    unit_block_t longest = unit_blocks[1];
    ue_keytag_t tag = unit_tag(1);
    ue_keyrecord_t r, is;
    ue_asked_t asked;
    ue_keyage_t age;
    char path[8];

    longest.len = UE_ACCESS_MAX;
    unit_record(&r, 1, 0);
    r.of_key.rate = (ue_rate_t){7, apr_time_from_sec(1), 8};
    put_limited(1, &r, &longest, 1000);
    unit_ask(&asked, path, 1);
    assert_int_equal(ue_keycache_get(cache, &tag, &asked, &is, &age),
                     UE_KEYCACHE_FOUND);
    assert_int_equal(is.of_key.rate.count, 7);
    cache->cells[0].bits += 1 << UE_CELL_LEN_SHIFT;
    assert_int_equal(ue_keycache_get(cache, &tag, &asked, &is, &age),
                     UE_KEYCACHE_ABSENT);
}

/* Whatever is there, a period is one of three. */
static void test_keycache_takes_no_nonsense_for_limits(void **state)
{
    ue_keytag_t tag = unit_tag(1);
    ue_keyrecord_t r, is;
    ue_asked_t asked;
    ue_keyage_t age;
    char path[8];

    unit_record(&r, 1, 0);
    r.of_key.rate = (ue_rate_t){7, apr_time_from_sec(1), 8};
    put_limited(1, &r, &unit_blocks[0], 1000);
    for (int i = 0; i < UE_LIMITS_WORDS; i++) {
        cache->chunks[0].words[i] = UINT64_MAX;
    }
    unit_ask(&asked, path, 1);
    assert_int_equal(ue_keycache_get(cache, &tag, &asked, &is, &age),
                     UE_KEYCACHE_FOUND);
    assert_int_equal(is.of_key.rate.period, apr_time_from_sec(3600));
    assert_int_equal(is.of_org.quota.period, UE_QUOTA_MONTH);
}

/* A faulty length is no reason to read beyond anything, nor to let in. */
static void test_keycache_mistrusts_what_it_reads(void **state)
{
    ue_keycell_t *cell = &cache->cells[0];
    uint32_t bits;
    uint64_t next;

    unit_put(cache, 1, 4, 1000);
    bits = cell->bits;
    next = cache->chunks[0].next;
    cell->bits = (UE_ACCESS_MAX + 1) << UE_CELL_LEN_SHIFT;
    assert_int_equal(unit_state(cache, 1), UE_KEYCACHE_ABSENT);
    cell->bits = UE_ACCESS_MAX << UE_CELL_LEN_SHIFT; /* a chain too short */
    cache->chunks[0].next = cache->chunk_count + 1;
    assert_int_equal(unit_state(cache, 1), UE_KEYCACHE_ABSENT);
    /* a length that has no room for limits */
    cell->bits = (UE_LIMITS_BYTES - 1) << UE_CELL_LEN_SHIFT | UE_CELL_LIMITED;
    assert_int_equal(unit_state(cache, 1), UE_KEYCACHE_ABSENT);
    cell->bits = bits;
    cache->chunks[0].next = next;
    cell->words[UE_CELL_CHUNK] = UINT64_MAX;
    assert_int_equal(unit_state(cache, 1), UE_KEYCACHE_ABSENT);
    cell->words[UE_CELL_CHUNK] = 1;
    assert_int_equal(unit_state(cache, 1), UE_KEYCACHE_FOUND);
}

/* What a writer that was killed may leave behind, before somebody empties the
 * cache: cells in writing, chains in circles or to nowhere. */
static void test_keycache_survives_wrong_chains(void **state)
{
    ue_keytag_t tag = unit_tag(1);
    _Atomic uint32_t *bucket = ue_keycache_tag_bucket(cache, tag.sip);

    unit_put(cache, 1, 4, 1000);
    unit_put(cache, 2, 4, 1000);
    cache->cells[0].seq++;
    assert_int_equal(unit_state(cache, 1), UE_KEYCACHE_ABSENT);
    *bucket = 2;
    cache->cells[1].next_tag = 2;
    assert_int_equal(unit_state(cache, 1), UE_KEYCACHE_ABSENT);
    *bucket = UINT32_MAX;
    assert_int_equal(unit_state(cache, 1), UE_KEYCACHE_ABSENT);
    *bucket = cache->size + 1;
    assert_int_equal(unit_state(cache, 1), UE_KEYCACHE_ABSENT);
}

/* Unknown ---------------------------------------------------------------- */

static void test_keycache_remembers_unknown_keys(void **state)
{
    ue_keyhash_t hash = unit_hash(1);
    ue_keyage_t age;
    uint32_t version;

    put_unknown(1, 1000);
    assert_int_equal(unit_find(cache, 1, &age, &version), UE_KEYCACHE_UNKNOWN);
    assert_int_equal(age.checked, 1000);
    assert_int_equal(age.doubted, 0);
    put_unknown(1, 900);
    unit_find(cache, 1, &age, &version);
    assert_int_equal(age.checked, 1000);
    unit_put(cache, 1, 3, 999); /* the answer to an older question */
    assert_int_equal(unit_state(cache, 1), UE_KEYCACHE_UNKNOWN);
    unit_put(cache, 1, 3, 1000);
    assert_int_equal(unit_state(cache, 1), UE_KEYCACHE_FOUND);
    put_unknown(1, 1000);
    assert_int_equal(unit_state(cache, 1), UE_KEYCACHE_UNKNOWN);
    assert_int_equal(ue_keycache_count(cache), 0);
    unit_put(cache, 1, 3, 2000);
    ue_keycache_put_unknown(cache, NULL, &hash, 3000);
    assert_int_equal(unit_state(cache, 1), UE_KEYCACHE_ABSENT);
}

static void test_keycache_unknown_keys_at_moment_0(void **state)
{
    put_unknown(1, 0);
    assert_int_equal(unit_state(cache, 1), UE_KEYCACHE_UNKNOWN);
    ue_keycache_doubt(cache, NULL, 0);
    assert_int_equal(unit_state(cache, 1), UE_KEYCACHE_ABSENT);
}

/* A flood of unknown keys pushes no found one out, though none is used. */
static void test_keycache_flood_pushes_nothing_out(void **state)
{
    uint64_t flood = unit_loops(1000000);

    for (uint64_t key = 0; key < 100; key++) {
        unit_put(cache, key, 1, 1000);
    }
    for (uint64_t key = 100; key < 100 + flood; key++) {
        put_unknown(key, 1000 + key);
        assert_int_equal(unit_state(cache, key), UE_KEYCACHE_UNKNOWN);
    }
    assert_int_equal(ue_keycache_count(cache), 100);
    for (uint64_t key = 0; key < 100; key++) {
        assert_int_equal(unit_state(cache, key), UE_KEYCACHE_FOUND);
    }
}

/* Doubt ------------------------------------------------------------------ */

/* Whichever comes first, the answer or the news: if the question was sent
 * before, the key is to be asked for again. */
static void test_keycache_answer_never_undoes_a_doubt(void **state)
{
    unit_put(cache, 1, 1, 1000);
    doubt(1, 999);
    assert_age(1, 1000, 0, 1);
    doubt(1, 1000);
    assert_age(1, 1000, UE_DOUBT_KEY, 1);
    doubt(1, 2000);
    unit_put(cache, 1, 2, 1500); /* sent before the news */
    assert_age(1, 1500, UE_DOUBT_KEY, 2);
    unit_put(cache, 1, 3, 2000);
    assert_age(1, 2000, UE_DOUBT_KEY, 3);
    unit_put(cache, 1, 4, 2001);
    assert_age(1, 2001, 0, 4);
    doubt(1, 1999);
    assert_age(1, 2001, 0, 4);
}

static void test_keycache_doubts_what_it_does_not_have_yet(void **state)
{
    doubt(1, 1000);
    unit_put(cache, 1, 1, 1000);
    assert_age(1, 1000, UE_DOUBT_KEY, 1);
    doubt(2, 1000);
    put_unknown(2, 1000);
    assert_int_equal(unit_state(cache, 2), UE_KEYCACHE_ABSENT);
    put_unknown(2, 1001);
    assert_int_equal(unit_state(cache, 2), UE_KEYCACHE_UNKNOWN);
}

/* Also where the key was pushed out meanwhile. */
static void test_keycache_doubt_outlives_eviction(void **state)
{
    unit_put(cache, 1, 1, 900);
    doubt(1, 1000);
    for (uint64_t key = 1000; key < 1500; key++) {
        unit_put(cache, key, 1, 1000);
    }
    assert_int_equal(unit_state(cache, 1), UE_KEYCACHE_ABSENT);
    put_unknown(1, 950);
    assert_int_equal(unit_state(cache, 1), UE_KEYCACHE_ABSENT);
    unit_put(cache, 1, 2, 950);
    assert_age(1, 950, UE_DOUBT_KEY, 2);
}

static void test_keycache_new_key_ends_unknown_ones(void **state)
{
    unit_put(cache, 1, 1, 1000);
    put_unknown(2, 1000);
    put_unknown(3, 1001);
    doubt(1, 1000); /* is known: says nothing of others */
    assert_int_equal(unit_state(cache, 2), UE_KEYCACHE_UNKNOWN);
    doubt(2, 1000);
    assert_int_equal(unit_state(cache, 2), UE_KEYCACHE_ABSENT);
    assert_int_equal(unit_state(cache, 3), UE_KEYCACHE_UNKNOWN);
}

static void test_keycache_doubts_all(void **state)
{
    unit_put(cache, 1, 1, 1000);
    unit_put(cache, 2, 1, 1001);
    put_unknown(3, 1000);
    ue_keycache_doubt(cache, NULL, 1000);
    assert_age(1, 1000, UE_DOUBT_ALL, 1);
    assert_age(2, 1001, 0, 1);
    assert_int_equal(unit_state(cache, 3), UE_KEYCACHE_ABSENT);
    unit_put(cache, 4, 1, 1000);
    assert_age(4, 1000, UE_DOUBT_ALL, 1);
    put_unknown(5, 1000);
    assert_int_equal(unit_state(cache, 5), UE_KEYCACHE_ABSENT);
    ue_keycache_doubt(cache, NULL, 500); /* takes nothing back */
    assert_age(1, 1000, UE_DOUBT_ALL, 1);
    unit_put(cache, 1, 2, 1001);
    assert_age(1, 1001, 0, 2);
}

/* Eviction --------------------------------------------------------------- */

static void test_keycache_evicts_keys_that_are_not_used(void **state)
{
    for (uint64_t key = 0; key < 100; key++) {
        unit_put(cache, key, 1, 1000);
    }
    for (uint64_t key = 0; key < 100; key += 2) {
        assert_int_equal(unit_state(cache, key), UE_KEYCACHE_FOUND);
    }
    for (uint64_t key = 1000; key < 1050; key++) {
        unit_put(cache, key, 1, 1000);
        assert_int_equal(ue_keycache_count(cache), 100);
    }
    for (uint64_t key = 0; key < 100; key++) {
        assert_int_equal(unit_state(cache, key),
                         key % 2 ? UE_KEYCACHE_ABSENT : UE_KEYCACHE_FOUND);
    }
}

/* Keys in use stay however many others come by once. */
static void test_keycache_keeps_what_is_in_use(void **state)
{
    for (uint64_t key = 0; key < 2000; key++) {
        unit_put(cache, 1000 + key, 1, 1000);
        for (uint64_t used = 0; used < 50 && key % 20 == 0; used++) {
            if (key == 0) {
                unit_put(cache, used, 1, 1000);
            }
            assert_int_equal(unit_state(cache, used), UE_KEYCACHE_FOUND);
        }
    }
}

static void test_keycache_evicts_where_all_are_used(void **state)
{
    ue_keycache_t *c = unit_keycache(1000, pool);

    for (uint64_t key = 0; key < 5000; key++) {
        unit_put(c, key, 1, 1000);
        assert_int_equal(unit_state(c, key), UE_KEYCACHE_FOUND);
    }
    assert_int_equal(ue_keycache_count(c), 1000);
    unit_unmap(c);
}

/* Older ------------------------------------------------------------------ */

static uint32_t collect(uint64_t before, uint32_t max, unsigned seen[100])
{
    ue_keyhash_t hashes[100], hash;
    uint32_t cursor = 0, n, all = 0;

    memset(seen, 0, 100 * sizeof(*seen));
    do {
        n = ue_keycache_older(cache, &cursor, before, hashes, max);
        assert_in_range(n, 0, max);
        for (uint32_t i = 0; i < n; i++, all++) {
            for (uint64_t key = 0; key < 100; key++) {
                hash = unit_hash(key);
                seen[key] += !memcmp(&hash, &hashes[i], sizeof(hash));
            }
        }
    } while (n == max);
    return all;
}

static void test_keycache_older_gives_each_once(void **state)
{
    unsigned seen[100];

    assert_int_equal(collect(1000, 10, seen), 0);
    for (uint64_t key = 0; key < 90; key++) {
        unit_put(cache, key, 1, 1000 + key);
    }
    put_unknown(95, 1);
    put_unknown(50, 5000);
    doubt(80, 2000);
    for (uint32_t max = 1; max <= 100; max += 33) {
        assert_int_equal(collect(1040, max, seen), 41);
        for (unsigned key = 0; key < 100; key++) {
            assert_int_equal(seen[key], key < 40 || key == 80);
        }
    }
    ue_keycache_doubt(cache, NULL, 1060);
    assert_int_equal(collect(1, 7, seen), 61 - 1 + 1);
}

/* Children begin at different places. */
static void test_keycache_older_shares_the_work(void **state)
{
    int fds[2], different = 0;
    ue_keyhash_t first[8];

    for (uint64_t key = 0; key < 100; key++) {
        unit_put(cache, key, 1, 1000);
    }
    assert_int_equal(pipe(fds), 0);
    for (int i = 0; i < 8; i++) {
        pid_t pid = fork();

        if (pid == 0) {
            uint32_t cursor = 0;

            ue_keycache_older(cache, &cursor, 2000, first, 1);
            unit_exit(write(fds[1], first, sizeof(*first)) < 0);
        }
        unit_reap(pid, 0);
        assert_int_equal(read(fds[0], &first[i], sizeof(*first)),
                         sizeof(*first));
        different += i && memcmp(&first[i], &first[i - 1], sizeof(*first));
    }
    assert_in_range(different, 4, 8);
    close(fds[0]);
    close(fds[1]);
}

/* Claims ----------------------------------------------------------------- */

static void test_keycache_claims(void **state)
{
    ue_keyhash_t one = unit_hash(1), two = unit_hash(2), meets = one;

    assert_true(ue_keycache_claim(cache, &one, 1000, 100));
    assert_false(ue_keycache_claim(cache, &one, 1000, 100));
    assert_false(ue_keycache_claim(cache, &one, 999, 100));
    assert_false(ue_keycache_claim(cache, &one, 1099, 100));
    assert_true(ue_keycache_claim(cache, &two, 1000, 100));
    assert_true(ue_keycache_claim(cache, &one, 1100, 100)); /* lapsed */
    assert_false(ue_keycache_claim(cache, &one, 1199, 100));
    ue_keycache_release(cache, &one);
    assert_true(ue_keycache_claim(cache, &one, 1100, 100));
    /* another key in the same place neither waits nor ends the claim */
    meets.b[15] ^= 1;
    assert_true(ue_keycache_claim(cache, &meets, 1100, 100));
    ue_keycache_release(cache, &meets);
    assert_false(ue_keycache_claim(cache, &one, 1100, 100));
    ue_keycache_release(cache, &one);
    ue_keycache_release(cache, &one);
    assert_true(ue_keycache_claim(cache, &meets, 1100, 100));
}

/* Memory ----------------------------------------------------------------- */

/* Bytes of the cache that are in memory. */
static size_t resident(const ue_keycache_t *c)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    unsigned long from, to, kb = 0;
    char line[512];
    int in = 0;

    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2) {
            in = from <= (uintptr_t)c->shared && (uintptr_t)c->shared < to;
        }
        else if (in && sscanf(line, "Rss: %lu kB", &kb) == 1) {
            break;
        }
    }
    fclose(f);
    return (size_t)kb * 1024;
}

static void test_keycache_takes_200_bytes_a_key(void **state)
{
    uint32_t size = 100000;
    ue_keycache_t *c = unit_keycache(size, pool);
    ue_keytag_t tag;
    ue_keyhash_t hash;
    size_t before = resident(c);

    assert_in_range(ue_keycache_bytes_a_key(), 1, 200);
    assert_in_range(before, 1, 16384);
    /* the tables that are as large whatever there is of keys */
    for (uint64_t key = size; key < 2 * size; key++) {
        tag = unit_tag(key);
        hash = unit_hash(key);
        ue_keycache_put_unknown(c, &tag, &hash, 1000);
        ue_keycache_claim(c, &hash, 1000, 100);
    }
    before = resident(c) - (size_t)size * 6; /* less both indexes */
    assert_in_range(before, 1, 1 << 20);
    for (uint64_t key = 0; key < size; key++) {
        /* the version that has no block, and no limits: they are beside */
        unit_put(c, key, 16 - (uint32_t)(key % 16), 1000);
    }
    assert_int_equal(c->shared->chunks_high, 0);
    assert_int_equal(ue_keycache_count(c), size);
    assert_in_range(resident(c) - before, size * 190, size * 200);
    unit_unmap(c);
}

static void test_keycache_holds_a_million(void **state)
{
    uint32_t size = 1000000, n = unit_loops(size);
    ue_keycache_t *c = unit_keycache(size, pool);
    uint32_t longest = 0;

    for (uint64_t key = 0; key < n; key++) {
        unit_put(c, key, 0, 1000);
    }
    assert_int_equal(ue_keycache_count(c), n);
    for (uint64_t key = 0; key < n; key++) {
        uint32_t steps = 0, number;
        ue_keytag_t tag = unit_tag(key);

        assert_int_equal(unit_state(c, key), UE_KEYCACHE_FOUND);
        number = *ue_keycache_tag_bucket(c, tag.sip);
        for (; number; number = c->cells[number - 1].next_tag) {
            steps++;
        }
        longest = steps > longest ? steps : longest;
    }
    assert_in_range(longest, 1, 20);
    unit_unmap(c);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_keycache_refuses_sizes_that_cannot_be),
        TEST(test_keycache_of_one_key_works),
        TEST(test_keycache_tags_are_secret),
        TEST(test_keycache_gives_what_was_put),
        TEST(test_keycache_ignores_an_older_answer),
        TEST(test_keycache_refreshes_by_hash_alone),
        TEST(test_keycache_replaces_the_hash_of_a_tag),
        TEST(test_keycache_loses_no_chunk),
        TEST(test_keycache_makes_room_for_blocks),
        TEST(test_keycache_keeps_the_limits_of_key_and_organization),
        TEST(test_keycache_limits_leave_the_longest_block_its_room),
        TEST(test_keycache_takes_no_nonsense_for_limits),
        TEST(test_keycache_mistrusts_what_it_reads),
        TEST(test_keycache_survives_wrong_chains),
        TEST(test_keycache_remembers_unknown_keys),
        TEST(test_keycache_unknown_keys_at_moment_0),
        TEST(test_keycache_flood_pushes_nothing_out),
        TEST(test_keycache_answer_never_undoes_a_doubt),
        TEST(test_keycache_doubts_what_it_does_not_have_yet),
        TEST(test_keycache_doubt_outlives_eviction),
        TEST(test_keycache_new_key_ends_unknown_ones),
        TEST(test_keycache_doubts_all),
        TEST(test_keycache_evicts_keys_that_are_not_used),
        TEST(test_keycache_keeps_what_is_in_use),
        TEST(test_keycache_evicts_where_all_are_used),
        TEST(test_keycache_older_gives_each_once),
        TEST(test_keycache_older_shares_the_work),
        TEST(test_keycache_claims),
        TEST(test_keycache_takes_200_bytes_a_key),
        TEST(test_keycache_holds_a_million),
    };
    int failed;

    if (apr_initialize() != APR_SUCCESS) {
        return 1;
    }
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    apr_terminate();
    return failed;
}
