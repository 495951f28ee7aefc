/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "keystore_pg_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <apr_strings.h>

#include "log.h"
#include "thread.h"

#define LOOKS_MOST 8 /* how often a request looks anew */

uint64_t ue_pg_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- flights ---- */

static ue_flight_t **bucket_of(ue_pg_child_t *c, const ue_keyhash_t *hash)
{
    uint32_t n;

    memcpy(&n, hash->b, sizeof(n));
    return &c->bucket[n % UE_PG_BUCKETS];
}

ue_flight_t *ue_flight_find(const ue_pg_child_t *c, const ue_keyhash_t *hash)
{
    ue_flight_t *f = *bucket_of((ue_pg_child_t *)c, hash);

    /* Whose key it is can't be learned from how long this takes: it is the
     * hash of something that nobody can choose to resemble another. */
    while (f && memcmp(&f->hash, hash, sizeof(*hash)) != 0) {
        f = f->chain;
    }
    return f;
}

ue_flight_t *ue_flight_begin(ue_pg_child_t *c, const ue_keyhash_t *hash)
{
    ue_flight_t **bucket = bucket_of(c, hash);
    ue_flight_t *f = c->free;

    if (!f) {
        return NULL;
    }
    c->free = f->chain;
    f->hash = *hash;
    f->has_tag = f->has_plain = f->again = f->is_own = 0;
    f->state = UE_FLIGHT_QUEUED;
    f->answer = UE_ANSWER_NONE;
    memset(&f->record, 0, sizeof(f->record));
    f->waiters = 0;
    f->block = NULL;
    f->block_len = 0;
    f->next = NULL;
    f->chain = *bucket;
    *bucket = f;
    return f;
}

void ue_line_append(ue_line_t *line, ue_flight_t *f)
{
    f->next = NULL;
    *line->last = f;
    line->last = &f->next;
}

ue_flight_t *ue_line_pop(ue_line_t *line)
{
    ue_flight_t *f = line->first;

    if (f) {
        line->first = f->next;
        if (!line->first) {
            line->last = &line->first;
        }
    }
    return f;
}

void ue_flight_queue(ue_pg_child_t *c, ue_flight_t *f)
{
    f->state = UE_FLIGHT_QUEUED;
    ue_line_append(&c->queued, f);
}

void ue_flight_land(ue_pg_child_t *c, ue_flight_t *f, ue_answer_t answer)
{
    ue_flight_t **at = bucket_of(c, &f->hash);

    while (*at != f) {
        at = &(*at)->chain;
    }
    *at = f->chain;
    f->state = UE_FLIGHT_LANDED;
    f->answer = (uint8_t)answer;
    if (f->waiters > 0) {
        pthread_cond_broadcast(&f->done); /* the last of them frees it */
    }
    else {
        ue_flight_free(c, f);
    }
}

void ue_flight_free(ue_pg_child_t *c, ue_flight_t *f)
{
    free(f->block);
    f->block = NULL;
    f->chain = c->free;
    c->free = f;
}

void ue_pg_wake(const ue_pg_child_t *c)
{
    static const uint64_t one = 1;
    /* Full: then it is awake. */
    ssize_t n = write(c->wake_fd, &one, sizeof(one));

    (void)n;
}

/* ---- what a request waits for ---- */

/** A presented key, on its way. */
typedef struct {
    const char *key;
    size_t len;
    ue_keytag_t tag;
    uint64_t since;      /* ms; when it came */
    int may_serve_stale; /* what the cache says, if nobody says more */
} presented_t;

/** Milliseconds since the database was asked. The clock here may be some behind
 * the one by which that was written down. */
static uint64_t elapsed(const ue_keyage_t *age)
{
    uint64_t now = ue_pg_now_ms();

    return now > age->checked ? now - age->checked : 0;
}

static int is_fresh(const ue_pgstore_t *store, const ue_keyage_t *age)
{
    return !age->doubted && elapsed(age) < store->ttl;
}

static void hash_presented(const ue_pgstore_t *store, const presented_t *k,
                           ue_keyhash_t *hash, ue_keyhash_t *plain)
{
    if (store->secret) {
        ue_apikey_hmac(k->key, k->len, store->secret, hash);
        ue_apikey_hash(k->key, k->len, plain);
    }
    else {
        ue_apikey_hash(k->key, k->len, hash);
    }
}

/** Wake the thread for a flight in a line. Behind others it is known to have
 * work, and a flood would wake it thousands of times in vain. */
static void wake_for(const ue_pg_child_t *c, const ue_flight_t *f)
{
    if (f == c->queued.first || f == c->deferred.first) {
        ue_pg_wake(c);
    }
}

/** Find the flight of a presented key, or begin it. @locks lock is held */
static ue_flight_t *board(ue_pg_child_t *c, const presented_t *k,
                          const ue_keyhash_t *hash, const ue_keyhash_t *plain)
{
    ue_flight_t *f = ue_flight_find(c, hash);
    int is_new = !f;

    if (is_new) {
        f = ue_flight_begin(c, hash);
        if (!f) {
            return NULL;
        }
    }
    /* One that was begun without, to look again at what is in the cache. */
    if (!f->has_tag) {
        f->tag = k->tag;
        f->has_tag = 1;
    }
    if (c->store->secret && f->state != UE_FLIGHT_SENT) {
        f->plain = *plain;
        f->has_plain = 1;
    }
    if (!is_new) {
        return f;
    }
    if (ue_keycache_claim(c->store->cache, hash, ue_pg_now_ms(), UE_PG_CLAIM)) {
        ue_flight_queue(c, f);
    }
    else {
        f->state = UE_FLIGHT_DEFERRED;
        ue_line_append(&c->deferred, f);
    }
    wake_for(c, f);
    return f;
}

static int is_down(const ue_pg_child_t *c, apr_time_t now)
{
    return c->down_at && now - c->down_at >= UE_PG_PATIENCE;
}

/** May another thread wait for this? @locks lock is held */
static int may_wait(const ue_pg_child_t *c, const ue_flight_t *f,
                    apr_time_t now)
{
    int most = c->threads * (c->budget > 0 ? 3 : 1) / 4;

    if (c->asked_at && now - c->asked_at >= UE_PG_STALLED) {
        return 0;
    }
    return f->waiters > 0 || c->keys_waited_for < (most > 1 ? most : 1);
}

static void wait_for(ue_pg_child_t *c, ue_flight_t *f, apr_time_t until)
{
    struct timespec at = {apr_time_sec(until), apr_time_usec(until) * 1000};

    if (f->waiters++ == 0) {
        c->keys_waited_for++;
    }
    while (f->state != UE_FLIGHT_LANDED
           && pthread_cond_clockwait(&f->done, &c->lock, CLOCK_MONOTONIC, &at)
                  == 0) {
    }
    if (--f->waiters == 0) {
        c->keys_waited_for--;
    }
}

/** Take what a flight has brought. @locks lock is held
 * @return UE_KEYSTORE_NONE: it is in the cache */
static ue_keystore_result_t disembark(ue_pg_child_t *c, ue_flight_t *f,
                                      const ue_asked_t *asked,
                                      ue_keyrecord_t *record)
{
    ue_keystore_result_t result = UE_KEYSTORE_FAILED;

    if (f->state != UE_FLIGHT_LANDED) {
        return result; /* it is late */
    }
    switch (f->answer) {
    case UE_ANSWER_FOUND:
        *record = f->record;
        record->access =
            (uint8_t)ue_access_judge(f->block, f->block_len, asked);
        result = UE_KEYSTORE_MISS;
        break;
    case UE_ANSWER_UNKNOWN:
        result = UE_KEYSTORE_UNKNOWN;
        break;
    case UE_ANSWER_LOOK:
        result = UE_KEYSTORE_NONE;
        break;
    default:
        break;
    }
    if (f->waiters == 0) {
        ue_flight_free(c, f);
    }
    return result;
}

/** Ask the database, and wait for its answer. */
static ue_keystore_result_t fly(ue_pg_child_t *c, const presented_t *k,
                                apr_time_t until, const ue_asked_t *asked,
                                ue_keyrecord_t *record)
{
    ue_keystore_result_t result = UE_KEYSTORE_FAILED;
    apr_time_t now = ue_monotonic();
    ue_keyhash_t hash, plain;
    ue_flight_t *f;

    hash_presented(c->store, k, &hash, &plain);
    pthread_mutex_lock(&c->lock);
    f = is_down(c, now) ? NULL : board(c, k, &hash, &plain);
    if (f && may_wait(c, f, now)) {
        wait_for(c, f, until);
        result = disembark(c, f, asked, record);
    }
    pthread_mutex_unlock(&c->lock);
    return result;
}

/* ---- the store, for requests ---- */

/** Look a key up in the cache.
 * @return UE_KEYSTORE_NONE where it doesn't say enough */
static ue_keystore_result_t look(ue_pgstore_t *store, presented_t *k,
                                 const ue_asked_t *asked,
                                 ue_keyrecord_t *record)
{
    ue_keyage_t age;

    k->may_serve_stale = 0;
    switch (ue_keycache_get(store->cache, &k->tag, asked, record, &age)) {
    case UE_KEYCACHE_FOUND:
        if (is_fresh(store, &age)) {
            return UE_KEYSTORE_HIT;
        }
        k->may_serve_stale = age.doubted != UE_DOUBT_KEY
                             && elapsed(&age) < store->ttl + store->stale;
        return UE_KEYSTORE_NONE;
    case UE_KEYCACHE_UNKNOWN:
        /* Where unknown keys aren't remembered, that of another child still
         * counts for those who waited for it. */
        return age.checked >= k->since || elapsed(&age) < store->negative
                   ? UE_KEYSTORE_NEGATIVE
                   : UE_KEYSTORE_NONE;
    default:
        return UE_KEYSTORE_NONE;
    }
}

static ue_keystore_result_t pg_lookup(ue_keystore_t *base, const char *key,
                                      size_t len, const ue_asked_t *asked,
                                      ue_keyrecord_t *record)
{
    ue_pgstore_t *store = (ue_pgstore_t *)base;
    apr_time_t began = ue_monotonic(), until;
    ue_keystore_result_t result = UE_KEYSTORE_NONE;
    presented_t k = {.key = key, .len = len, .since = ue_pg_now_ms()};
    ue_keyrecord_t fresh;
    int looks;

    ue_keycache_tag(store->cache, key, len, &k.tag);
    for (looks = 0; looks < LOOKS_MOST; looks++) {
        result = look(store, &k, asked, record);
        if (result != UE_KEYSTORE_NONE) {
            /* Another child has found it while we waited. */
            return looks && result == UE_KEYSTORE_HIT ? UE_KEYSTORE_MISS
                                                      : result;
        }
        until = began + (k.may_serve_stale ? UE_PG_STALLED : UE_PG_PATIENCE);
        result = store->child ? fly(store->child, &k, until, asked, &fresh)
                              : UE_KEYSTORE_FAILED;
        if (result != UE_KEYSTORE_NONE) {
            break;
        }
    }
    if (result == UE_KEYSTORE_MISS) {
        *record = fresh;
    }
    else if (result != UE_KEYSTORE_UNKNOWN) {
        result = k.may_serve_stale ? UE_KEYSTORE_STALE : UE_KEYSTORE_FAILED;
    }
    return result;
}

/** Have a key looked up again before it is too old. At different times for
 * different keys, so that those that came together don't stay together. */
static void refresh_ahead(ue_pgstore_t *store, const ue_keytag_t *tag,
                          uint64_t age)
{
    uint64_t early = store->ttl * (75 + tag->sip[1] % 16) / 100;
    ue_pg_child_t *c = store->child;
    ue_keyhash_t hash;
    ue_keyage_t now_is;
    ue_flight_t *f;

    if (age < early || !c
        || ue_keycache_peek(store->cache, tag, &now_is, &hash)
               != UE_KEYCACHE_FOUND) {
        return;
    }
    pthread_mutex_lock(&c->lock);
    if (!c->down_at && !ue_flight_find(c, &hash)
        && (f = ue_flight_begin(c, &hash)) != NULL) {
        /* The claim last: who can't ask must not keep others from it. */
        if (ue_keycache_claim(store->cache, &hash, ue_pg_now_ms(),
                              UE_PG_CLAIM)) {
            ue_flight_queue(c, f);
            wake_for(c, f);
        }
        else {
            ue_flight_land(c, f, UE_ANSWER_NONE);
        }
    }
    pthread_mutex_unlock(&c->lock);
}

static ue_keystore_result_t pg_recall(ue_keystore_t *base, const char *key,
                                      size_t len, const ue_asked_t *asked,
                                      ue_keyrecord_t *record)
{
    ue_pgstore_t *store = (ue_pgstore_t *)base;
    ue_keytag_t tag;
    ue_keyage_t age;
    uint64_t old;

    ue_keycache_tag(store->cache, key, len, &tag);
    if (ue_keycache_get(store->cache, &tag, asked, record, &age)
            != UE_KEYCACHE_FOUND
        || age.doubted) {
        return UE_KEYSTORE_NONE;
    }
    old = elapsed(&age);
    if (old >= store->ttl / 4 * 3) {
        refresh_ahead(store, &tag, old);
    }
    return old < store->ttl ? UE_KEYSTORE_HIT : UE_KEYSTORE_NONE;
}

/* ---- the store, for processes ---- */

static void mark_secret(const ue_keysecret_t *secret, ue_keyhash_t *mark)
{
    static const char text[] = "usage-events: which secret is this";

    memset(mark, 0, sizeof(*mark));
    if (secret) {
        ue_apikey_hmac(text, sizeof(text) - 1, secret, mark);
    }
}

/** Map a cache, and with it a list of those who listen for it. */
static apr_status_t map_cache(ue_pgstore_t *store, uint32_t size)
{
    ue_pg_shared_t *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
                                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    apr_status_t rv;

    if (shared == MAP_FAILED) {
        return APR_FROM_OS_ERROR(errno);
    }
    rv = ue_keycache_create(&store->cache, size, store->pool);
    if (rv != APR_SUCCESS) {
        munmap(shared, sizeof(*shared));
        return rv;
    }
    atomic_store(&shared->told, UE_PG_UNTOLD);
    store->shared = shared;
    return APR_SUCCESS;
}

/** Take options up. A cache of another size, or of keys that were hashed under
 * another secret, is of no use any more. It stays mapped, since children of
 * before the restart have it. */
static apr_status_t set_options(ue_pgstore_t *store,
                                const ue_keystore_options_t *options)
{
    ue_keyhash_t mark;
    apr_status_t rv;

    store->ttl = (uint64_t)apr_time_as_msec(options->ttl);
    store->negative = (uint64_t)apr_time_as_msec(options->negative);
    store->stale = (uint64_t)apr_time_as_msec(options->stale);
    store->secret = options->secret;
    mark_secret(options->secret, &mark);
    if (store->cache && ue_keycache_size(store->cache) == options->size
        && !memcmp(&mark, &store->secret_mark, sizeof(mark))) {
        return APR_SUCCESS;
    }
    rv = map_cache(store, options->size);
    if (rv == APR_SUCCESS) {
        store->secret_mark = mark;
    }
    return rv;
}

static apr_status_t pg_open(ue_keystore_t **result, const char *url,
                            const ue_keystore_options_t *options,
                            const char **why, apr_pool_t *p)
{
    ue_pgstore_t *store = apr_pcalloc(p, sizeof(*store));
    apr_status_t rv;

    *why = ue_pg_check(url);
    if (*why) {
        return APR_EINVAL;
    }
    store->base.vtable = &ue_keystore_pg;
    store->url = apr_pstrdup(p, url);
    store->pool = p;
    *why = "no shared memory for the cache of keys; a smaller size= of "
           "UsageKeyCache takes less";
    rv = set_options(store, options);
    if (rv != APR_SUCCESS) {
        return rv;
    }
    *result = &store->base;
    return APR_SUCCESS;
}

static apr_status_t pg_reload(ue_keystore_t *base,
                              const ue_keystore_options_t *options,
                              const char **why, apr_pool_t *ptemp)
{
    *why = "no shared memory for another cache of keys";
    return set_options((ue_pgstore_t *)base, options);
}

static ue_pg_child_t *make_child(ue_pgstore_t *store, ue_seat_t *seat,
                                 int threads)
{
    ue_pg_child_t *c = calloc(1, sizeof(*c));
    uint32_t i;

    if (!c) {
        return NULL;
    }
    c->store = store;
    c->seat = seat;
    c->threads = threads;
    c->listener = -1;
    c->queued.last = &c->queued.first;
    c->deferred.last = &c->deferred.first;
    c->budget = UE_PG_BURST;
    c->down_at = c->earned_at = ue_monotonic();
    if (atomic_load(&store->shared->told) == UE_PG_TOLD_DOWN) {
        c->down_at -= UE_PG_PATIENCE; /* others have waited for it already */
    }
    pthread_mutex_init(&c->lock, NULL);
    for (i = 0; i < UE_PG_FLIGHTS; i++) {
        pthread_cond_init(&c->flights[i].done, NULL);
        c->flights[i].chain = c->free;
        c->free = &c->flights[i];
    }
    return c;
}

static apr_status_t pg_start(ue_keystore_t *base, ue_seat_t *seat, int threads)
{
    ue_pgstore_t *store = (ue_pgstore_t *)base;
    ue_pg_child_t *c = make_child(store, seat, threads);
    apr_status_t rv;

    if (!c) {
        return APR_ENOMEM;
    }
    c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (c->wake_fd < 0) {
        return APR_FROM_OS_ERROR(errno);
    }
    store->child = c;
    atomic_store(&c->running, 1);
    rv = ue_thread_start("usage-keys-pg", ue_pg_work, c);
    if (rv != APR_SUCCESS) {
        atomic_store(&c->running, 0);
    }
    return rv;
}

static int pg_stop(ue_keystore_t *base)
{
    const ue_pg_child_t *c = ((ue_pgstore_t *)base)->child;

    if (!c) {
        return 0;
    }
    atomic_store(&((ue_pgstore_t *)base)->child->stop, 1);
    ue_pg_wake(c);
    return atomic_load(&c->running);
}

const ue_keystore_vtable_t ue_keystore_pg = {
    .layout = sizeof(ue_pgstore_t) * 31 + sizeof(ue_pg_shared_t),
    .open = pg_open,
    .reload = pg_reload,
    .start = pg_start,
    .stop = pg_stop,
    .recall = pg_recall,
    .lookup = pg_lookup,
};
