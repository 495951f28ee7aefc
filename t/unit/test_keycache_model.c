/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * The key cache against a model that is simple and exact: a row for each stored
 * hash and one for each tag that is unknown. Random operations on few keys, in
 * caches that are too small for them, with tags and hashes that share buckets,
 * sets and places; answers come late, and tags change their hash.
 *
 * Which key is pushed out is not in the model. It looks which ones are gone,
 * and judges whether they had to be.
 */
#include "unit_keycache.h"

#define KEYS 24
#define STEP (UINT64_C(1) << 20) /* of the model's clock, per operation */

typedef struct {
    int there;
    int tag;
    uint32_t version;
    uint64_t checked;
    int doubted;
} found_t;

static struct {
    ue_keycache_t *c;
    found_t found[KEYS];    /* by hash */
    uint64_t unknown[KEYS]; /* by tag: moment plus one, or 0 */
    uint64_t doubts[KEYS];  /* by hash: moment plus one */
    uint64_t doubted, unknown_doubted;
    ue_keytag_t tags[KEYS];
    ue_keyhash_t hashes[KEYS];
    uint64_t random;
} m;

static uint64_t below(uint64_t n)
{
    return unit_random(&m.random) % n;
}

/* Three buckets by tag, two sets of unknown keys, four buckets by hash, and
 * eight places of doubts. */
static void make_keys(void)
{
    for (uint64_t i = 0; i < KEYS; i++) {
        uint64_t word = (i % 4) << 62 | i << 40 | i % 8;

        m.tags[i].sip[0] = (i % 3) << 62 | i / 2;
        m.tags[i].sip[1] = i << 32 | i % 2;
        m.hashes[i] = unit_hash(i);
        memcpy(m.hashes[i].b, &word, sizeof(word));
    }
}

/* Without what the cache does: what is there is what the tag's key is. */
static int tag_of(int tag)
{
    for (int h = 0; h < KEYS; h++) {
        if (m.found[h].there && m.found[h].tag == tag) {
            return h;
        }
    }
    return -1;
}

static uint32_t model_count(void)
{
    uint32_t n = 0;

    for (int h = 0; h < KEYS; h++) {
        n += (uint32_t)m.found[h].there;
    }
    return n;
}

static uint32_t chunks(int h)
{
    size_t len = unit_len((uint64_t)h, m.found[h].version);

    return (uint32_t)((len + UE_CHUNK_BYTES - 1) / UE_CHUNK_BYTES);
}

static uint32_t model_chunks(void)
{
    uint32_t n = 0;

    for (int h = 0; h < KEYS; h++) {
        n += m.found[h].there ? chunks(h) : 0;
    }
    return n;
}

/* What was pushed out to make room for a key? One for its cell, and as many as
 * it needs for its chunks, but none of these that could have stayed.
 * @param old chunks of its last block, beside which the new one is written */
static void sync_found(int put, uint32_t old)
{
    uint32_t before = model_count(), most = 0, gone = 0;
    ue_keyhash_t hash;
    ue_keyage_t age;

    for (int h = 0; h < KEYS; h++) {
        if (!m.found[h].there || h == put
            || ue_keycache_peek(m.c, &m.tags[m.found[h].tag], &age, &hash)
                   == UE_KEYCACHE_FOUND) {
            continue;
        }
        assert_true(chunks(h) || before > m.c->size);
        most = chunks(h) > most ? chunks(h) : most;
        m.found[h].there = 0;
        gone++;
    }
    assert_true(model_count() <= m.c->size);
    assert_true(model_chunks() <= m.c->chunk_count);
    if (before > m.c->size) {
        assert_in_range(gone, 1, KEYS);
    }
    else if (gone) {
        assert_true(model_chunks() + old + most > m.c->chunk_count);
    }
    assert_int_equal(model_chunks(),
                     m.c->shared->chunks_high - m.c->shared->chunks_free);
}

/* Who had to leave a set: the oldest one. */
static void limit_unknown(int tag)
{
    int in_set = 0, oldest = -1;

    for (int t = tag % 2; t < KEYS; t += 2) {
        in_set += m.unknown[t] != 0;
        if (m.unknown[t] && t != tag
            && (oldest < 0 || m.unknown[t] < m.unknown[oldest])) {
            oldest = t;
        }
    }
    if (in_set > UE_KEYCACHE_WAYS) {
        m.unknown[oldest] = 0;
    }
}

static int is_later(int h, uint64_t checked)
{
    return h >= 0 && m.found[h].there && m.found[h].checked > checked;
}

static void model_put(int tag, int h, uint32_t version, uint64_t checked)
{
    int tagged = tag < 0 ? h : tag_of(tag);

    if (is_later(h, checked) || is_later(tagged, checked)
        || (tag < 0 && !m.found[h].there)
        || (tag >= 0 && m.unknown[tag] > checked + 1)) {
        return;
    }
    if (tag >= 0) {
        m.unknown[tag] = 0;
        m.found[h].tag = tag;
        if (tagged >= 0) {
            m.found[tagged].there = 0;
        }
    }
    m.found[h].there = 1;
    m.found[h].version = version;
    m.found[h].checked = checked;
    m.found[h].doubted = checked < m.doubts[h % 8];
}

static void put(int tag, int h, uint64_t checked)
{
    uint32_t version = (uint32_t)below(1000);
    const unit_block_t *block = unit_block((uint64_t)h, version);
    uint32_t old = m.found[h].there ? chunks(h) : 0;
    ue_keyrecord_t r;

    unit_record(&r, (uint64_t)h, version);
    ue_keycache_put(m.c, tag < 0 ? NULL : &m.tags[tag], &m.hashes[h], &r,
                    block->bytes, block->len, checked);
    model_put(tag, h, version, checked);
    sync_found(h, old);
}

static void put_unknown(int tag, int h, uint64_t checked)
{
    int tagged = tag < 0 ? h : tag_of(tag);

    ue_keycache_put_unknown(m.c, tag < 0 ? NULL : &m.tags[tag], &m.hashes[h],
                            checked);
    if (is_later(h, checked) || is_later(tagged, checked)) {
        return;
    }
    m.found[h].there = 0;
    if (tagged >= 0) {
        m.found[tagged].there = 0;
    }
    if (tag >= 0 && checked >= m.doubts[h % 8]
        && m.unknown[tag] <= checked + 1) {
        m.unknown[tag] = checked + 1;
        limit_unknown(tag);
    }
}

static void raise_to(uint64_t *moment, uint64_t to)
{
    *moment = *moment < to ? to : *moment;
}

static void doubt(int h, uint64_t when)
{
    ue_keycache_doubt(m.c, h < 0 ? NULL : &m.hashes[h], when);
    if (h < 0) {
        raise_to(&m.doubted, when + 1);
        raise_to(&m.unknown_doubted, when + 1);
        return;
    }
    raise_to(&m.doubts[h % 8], when + 1);
    if (!m.found[h].there) {
        raise_to(&m.unknown_doubted, when + 1);
    }
    else if (m.found[h].checked <= when) {
        m.found[h].doubted = 1;
    }
}

static int is_doubted(int h)
{
    return m.found[h].doubted || m.found[h].checked < m.doubted;
}

static void check_tag(int tag)
{
    int h = tag_of(tag), state;
    uint32_t version;
    ue_keyage_t age;

    state =
        unit_get(m.c, &m.tags[tag], (uint64_t)(h < 0 ? 0 : h), &age, &version);
    if (h >= 0) {
        assert_int_equal(state, UE_KEYCACHE_FOUND);
        assert_int_equal(version, m.found[h].version);
        assert_int_equal(age.checked, m.found[h].checked);
        assert_int_equal(age.doubted, m.found[h].doubted ? UE_DOUBT_KEY
                                      : is_doubted(h)    ? UE_DOUBT_ALL
                                                         : UE_DOUBT_NONE);
    }
    else if (m.unknown[tag] > m.unknown_doubted) {
        assert_int_equal(state, UE_KEYCACHE_UNKNOWN);
        assert_int_equal(age.checked, m.unknown[tag] - 1);
    }
    else {
        assert_int_equal(state, UE_KEYCACHE_ABSENT);
    }
}

static void check_older(uint64_t before)
{
    uint32_t cursor = 0, n, max = 1 + (uint32_t)below(KEYS);
    ue_keyhash_t hashes[KEYS];
    int seen[KEYS] = {0};

    do {
        n = ue_keycache_older(m.c, &cursor, before, hashes, max);
        for (uint32_t i = 0; i < n; i++) {
            for (int h = 0; h < KEYS; h++) {
                seen[h] += !memcmp(&hashes[i], &m.hashes[h], sizeof(*hashes));
            }
        }
    } while (n == max);
    for (int h = 0; h < KEYS; h++) {
        assert_int_equal(seen[h],
                         m.found[h].there
                             && (is_doubted(h) || m.found[h].checked < before));
    }
}

static void operate(uint64_t now)
{
    int h = (int)below(KEYS);
    int tag = below(16) ? h : (int)below(KEYS); /* or another one's */
    uint64_t then = now - below(below(8) ? 3 : 100) * STEP;

    tag = below(8) ? tag : -1;
    switch (below(16)) {
    case 0:
    case 1:
    case 2:
        put_unknown(tag, h, then);
        break;
    case 3:
        doubt(h, then - below(2));
        break;
    case 4:
        doubt(below(8) ? h : -1, then);
        break;
    case 5:
        check_older(then);
        break;
    case 6:
    case 7:
    case 8:
        check_tag((int)below(KEYS));
        break;
    default:
        put(tag, h, then);
    }
}

static void run(uint32_t size, unsigned operations, apr_pool_t *pool)
{
    uint64_t seed = m.random;

    memset(&m, 0, sizeof(m));
    m.random = seed;
    m.c = unit_keycache(size, pool);
    make_keys();
    for (uint64_t i = 1; i <= operations; i++) {
        /* no two answers are of the same moment, but for one and its doubt */
        operate((i + 200) * STEP + i);
        assert_int_equal(ue_keycache_count(m.c), model_count());
        if (i % 16 == 0) {
            for (int tag = 0; tag < KEYS; tag++) {
                check_tag(tag);
            }
        }
    }
    unit_unmap(m.c);
}

static void test_keycache_is_as_the_model(void **state)
{
    static const uint32_t sizes[] = {1, 2, 3, 7, 16, 23, 100};
    apr_pool_t *pool;

    apr_pool_create(&pool, NULL);
    unit_make_blocks(*state ? 12 : 3, pool);
    m.random = *state ? 7 : 1;
    for (size_t i = 0; i < UNIT_COUNT(sizes); i++) {
        run(sizes[i], unit_loops(250000), pool);
    }
    apr_pool_destroy(pool);
}

int main(void)
{
    static int with_long_blocks = 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keycache_is_as_the_model),
        cmocka_unit_test_prestate(test_keycache_is_as_the_model,
                                  &with_long_blocks),
    };
    int failed;

    if (apr_initialize() != APR_SUCCESS) {
        return 1;
    }
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    apr_terminate();
    return failed;
}
