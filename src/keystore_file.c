/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/*
 * Keys from a file.
 *
 * The parent makes the first snapshot of it (keysnapshot.h), children inherit
 * that through the fork, and each then looks at the file by itself. The random
 * key of their caches is drawn when the store is opened and shared by all
 * children: it has to be secret, not different.
 *
 * One lock guards the pointer to the snapshot and its cache. It is held for a
 * look-up, a judgement and a copy, never while a file is read, and belongs to
 * one process: nobody holds it when the parent forks, and each child goes on
 * with its own copy. Nothing that runs when a child ends takes it.
 */
#include "keystore.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include <apr_strings.h>
#include <apr_thread_rwlock.h>

#include <json-c/json.h>

#include "apikey.h"
#include "keyfile.h"
#include "keysnapshot.h"
#include "log.h"
#include "siphash.h"

/* A file that changed so shortly before it was read may change again without
 * looking different: a file system's clock has ticks of some milliseconds. */
#define UNSETTLED apr_time_from_msec(50)

/* All that tells one state of a file from another. */
typedef struct {
    int error;
    dev_t device;
    ino_t inode;
    off_t size;
    struct timespec modified;
    struct timespec changed;
} state_t;

typedef struct {
    ue_keystore_t base;
    const char *path;
    apr_pool_t *pool; /* of the thread that refreshes */
    uint8_t sip_key[UE_SIPHASH_KEY];
    /* Of the configuration, which each restart replaces, and this with it. */
    const ue_keysecret_t *secret;
    apr_thread_rwlock_t *lock;
    ue_keysnapshot_t *snapshot; /* guarded by the lock, as is its cache */
    uint32_t generation;        /* the same; tells one snapshot from the next */

    /* of the thread that refreshes */
    state_t state;        /* when it was last read */
    apr_status_t refused; /* what came of it then */
    int again;            /* read it again although it looks the same */
} filestore_t;

static apr_status_t read_snapshot(const filestore_t *store,
                                  ue_keysnapshot_t **snapshot, const char **why,
                                  apr_pool_t *p)
{
    struct json_object *doc;
    apr_status_t rv = ue_keyfile_read(store->path, &doc, why, p);

    if (rv) {
        return rv;
    }
    rv = ue_keysnapshot_build(snapshot, store->path, doc, store->secret != NULL,
                              why, store->pool, p);
    json_object_put(doc);
    return rv;
}

/* Changes -------------------------------------------------------------- */

static void look(const char *path, state_t *state)
{
    struct stat st;

    memset(state, 0, sizeof *state);
    if (stat(path, &st)) {
        state->error = errno;
        return;
    }
    state->device = st.st_dev;
    state->inode = st.st_ino;
    state->size = st.st_size;
    state->modified = st.st_mtim;
    state->changed = st.st_ctim;
}

static int same_moment(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static int same_state(const state_t *a, const state_t *b)
{
    return a->error == b->error && a->device == b->device
           && a->inode == b->inode && a->size == b->size
           && same_moment(&a->modified, &b->modified)
           && same_moment(&a->changed, &b->changed);
}

static int is_unsettled(const state_t *state)
{
    apr_time_t changed = apr_time_from_sec(state->changed.tv_sec)
                         + state->changed.tv_nsec / 1000;
    apr_interval_time_t since = apr_time_now() - changed;

    return !state->error && since >= 0 && since < UNSETTLED;
}

static void swap(filestore_t *store, ue_keysnapshot_t *fresh)
{
    ue_keysnapshot_t *old;

    apr_thread_rwlock_wrlock(store->lock);
    old = store->snapshot;
    store->snapshot = fresh;
    store->generation++;
    apr_thread_rwlock_unlock(store->lock);
    /* Records are copied out under the lock, so nobody points into it. */
    if (old) {
        ue_keysnapshot_destroy(old);
    }
}

/* Read the file in the state that it was seen in, and remember what came of it.
 * A malformed file is not read again until it changes; what may pass by itself
 * (no descriptor, no memory) is tried again. */
static apr_status_t reread(filestore_t *store, const state_t *seen,
                           ue_keysnapshot_t **fresh, const char **why,
                           apr_pool_t *p)
{
    int unsettled = is_unsettled(seen);
    apr_status_t rv = read_snapshot(store, fresh, why, p);

    store->state = *seen;
    store->refused = rv;
    store->again = unsettled || (rv && rv != APR_EINVAL);
    return rv;
}

static apr_status_t filestore_refresh(ue_keystore_t *base)
{
    filestore_t *store = (filestore_t *)base;
    apr_status_t before = store->refused, rv;
    ue_keysnapshot_t *fresh = NULL;
    const char *why = "";
    apr_pool_t *scratch;
    state_t seen;
    int same;

    look(store->path, &seen);
    same = same_state(&seen, &store->state);
    if (same && !store->again) {
        return APR_EAGAIN;
    }
    if (ue_keysnapshot_pool(&scratch, store->pool)) {
        return APR_EAGAIN;
    }
    rv = reread(store, &seen, &fresh, &why, scratch);
    if (rv) {
        if (same && rv == before) {
            rv = APR_EAGAIN;
        }
        else {
            ue_log(UE_LOG_ERR, rv,
                   "UE0101: key file: %s; the keys read before stay in use",
                   why);
        }
    }
    else if (same && !before && ue_keysnapshot_same(fresh, store->snapshot)) {
        ue_keysnapshot_destroy(fresh);
        rv = APR_EAGAIN;
    }
    else {
        ue_log(UE_LOG_NOTICE, 0,
               "UE0100: key file: %s: taken up: %u organizations, %u keys",
               store->path, fresh->organizations, fresh->count);
        swap(store, fresh);
    }
    apr_pool_destroy(scratch);
    return rv;
}

static apr_status_t filestore_reload(ue_keystore_t *base,
                                     const ue_keystore_options_t *options,
                                     const char **why, apr_pool_t *ptemp)
{
    filestore_t *store = (filestore_t *)base;
    ue_keysnapshot_t *fresh = NULL;
    apr_status_t rv;
    state_t seen;

    store->secret = options->secret;
    look(store->path, &seen);
    rv = reread(store, &seen, &fresh, why, ptemp);
    if (!rv) {
        swap(store, fresh);
    }
    return rv;
}

static apr_status_t filestore_open(ue_keystore_t **result, const char *url,
                                   const ue_keystore_options_t *options,
                                   const char **why, apr_pool_t *p)
{
    const char *where = url + strlen("file:");
    filestore_t *store;
    apr_pool_t *pool;
    apr_status_t rv;
    state_t seen;

    *why = "no memory, no randomness or no lock to be had from the system";
    rv = ue_keysnapshot_pool(&pool, p);
    if (rv) {
        return rv;
    }
    store = apr_pcalloc(pool, sizeof *store);
    store->base.vtable = &ue_keystore_file;
    store->path = apr_pstrdup(pool, where);
    store->pool = pool;
    store->secret = options->secret;
    rv = ue_random(store->sip_key, sizeof store->sip_key);
    if (!rv) {
        rv = apr_thread_rwlock_create(&store->lock, pool);
    }
    if (!rv) {
        look(store->path, &seen);
        rv = reread(store, &seen, &store->snapshot, why, p);
    }
    if (rv) {
        apr_pool_destroy(pool);
        return rv;
    }
    ue_log(UE_LOG_INFO, 0, "UE0102: key file: %s: %u organizations, %u keys",
           store->path, store->snapshot->organizations, store->snapshot->count);
    *result = &store->base;
    return APR_SUCCESS;
}

/* Look-up -------------------------------------------------------------- */

/* Both while the lock is held. */
static void take(const ue_keyentry_t *entry, const ue_asked_t *asked,
                 ue_keyrecord_t *record)
{
    *record = entry->record;
    record->access =
        (uint8_t)ue_access_judge(entry->access, entry->access_len, asked);
}

/* A presented key as it would be stored. */
typedef struct {
    ue_keyhash_t plain;
    ue_keyhash_t hmac; /* where there is a secret */
} hashes_t;

static const ue_keyentry_t *find(const filestore_t *store,
                                 const hashes_t *hashes)
{
    const ue_keyentry_t *entry = NULL;

    if (store->secret) {
        entry = ue_keysnapshot_find(store->snapshot, &hashes->hmac,
                                    UE_HASH_HMAC_SHA256);
    }
    return entry ? entry
                 : ue_keysnapshot_find(store->snapshot, &hashes->plain,
                                       UE_HASH_SHA256);
}

/* Remember who a key stands for. Readers are not made to wait for it: a key
 * that finds the lock taken is hashed once more the next time. */
static void remember(filestore_t *store, uint32_t generation, const char *key,
                     size_t len, const ue_keyentry_t *entry)
{
    uint64_t sip[2];

    ue_siphash128(key, len, store->sip_key, sip);
    if (apr_thread_rwlock_trywrlock(store->lock)) {
        return;
    }
    /* Not told by the address, which a later snapshot may have again. */
    if (store->generation == generation) {
        ue_keysnapshot_remember(store->snapshot, sip, entry);
    }
    apr_thread_rwlock_unlock(store->lock);
}

static ue_keystore_result_t filestore_recall(ue_keystore_t *base,
                                             const char *key, size_t len,
                                             const ue_asked_t *asked,
                                             ue_keyrecord_t *record)
{
    filestore_t *store = (filestore_t *)base;
    const ue_keyentry_t *entry;
    uint64_t sip[2];

    ue_siphash128(key, len, store->sip_key, sip);
    apr_thread_rwlock_rdlock(store->lock);
    entry = ue_keysnapshot_recall(store->snapshot, sip);
    if (entry) {
        take(entry, asked, record);
    }
    apr_thread_rwlock_unlock(store->lock);
    return entry ? UE_KEYSTORE_HIT : UE_KEYSTORE_NONE;
}

static ue_keystore_result_t filestore_lookup(ue_keystore_t *base,
                                             const char *key, size_t len,
                                             const ue_asked_t *asked,
                                             ue_keyrecord_t *record)
{
    filestore_t *store = (filestore_t *)base;
    const ue_keyentry_t *entry;
    uint32_t generation;
    hashes_t hashes;

    /* Before the lock is taken: who waits to replace the snapshot would wait
     * for ever behind readers that take their time. */
    ue_apikey_hash(key, len, &hashes.plain);
    if (store->secret) {
        ue_apikey_hmac(key, len, store->secret, &hashes.hmac);
    }
    apr_thread_rwlock_rdlock(store->lock);
    generation = store->generation;
    entry = find(store, &hashes);
    if (entry) {
        take(entry, asked, record);
    }
    apr_thread_rwlock_unlock(store->lock);
    if (!entry) {
        return UE_KEYSTORE_UNKNOWN;
    }
    remember(store, generation, key, len, entry);
    return UE_KEYSTORE_MISS;
}

const ue_keystore_vtable_t ue_keystore_file = {
    .layout = sizeof(filestore_t) * 31 + UE_KEYSNAPSHOT_LAYOUT,
    .open = filestore_open,
    .reload = filestore_reload,
    .recall = filestore_recall,
    .lookup = filestore_lookup,
    .refresh = filestore_refresh,
};
