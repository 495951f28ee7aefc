/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/*
 * Keys from a file.
 *
 * The file is made into a snapshot: an immutable table of records in a pool of
 * its own, replaced as a whole when the file changes. The parent builds the
 * first one, children inherit it through the fork, and each then looks at the
 * file by itself.
 *
 * In front of the table, which is indexed by SHA-256, is a cache indexed by 128
 * bits of SipHash-2-4 under a random key, so that a key that was seen before
 * costs no SHA-256. It has four times as many cells as there are keys, and only
 * a key that was found gets one, so it never fills: nothing is ever pushed out,
 * and a flood of unknown keys leaves no trace in it. It belongs to the snapshot
 * and begins empty with it. The random key is drawn when the store is opened
 * and shared by all children: it has to be secret, not different.
 *
 * One lock guards the pointer to the snapshot and the cache. It is held for a
 * look-up and a copy, never while a file is read, and belongs to one process:
 * nobody holds it when the parent forks, and each child goes on with its own
 * copy. Nothing that runs when a child ends takes it.
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
#include "log.h"
#include "siphash.h"

/* A file that changed so shortly before it was read may change again without
 * looking different: a file system's clock has ticks of some milliseconds. */
#define UNSETTLED apr_time_from_msec(50)

typedef struct {
    ue_keyhash_t hash;
    ue_keyrecord_t record;
} entry_t;

typedef struct {
    uint64_t sip[2];
    uint32_t entry; /* its number plus one; 0: the cell is free */
} cell_t;

typedef struct {
    apr_pool_t *pool; /* below the store's */
    uint32_t organizations;
    uint32_t count;
    entry_t *entries;
    uint32_t mask;   /* of index */
    uint32_t *index; /* by SHA-256: an entry's number plus one */
    uint32_t cache_mask;
    cell_t *cache;
} snapshot_t;

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
    apr_thread_rwlock_t *lock;
    snapshot_t *snapshot; /* guarded by the lock, as is its cache */
    uint32_t generation;  /* the same; tells one snapshot from the next */

    /* of the thread that refreshes */
    state_t state;        /* when it was last read */
    apr_status_t refused; /* what came of it then */
    int again;            /* read it again although it looks the same */
} filestore_t;

/* The snapshot --------------------------------------------------------- */

static uint32_t power_of_two(uint32_t least)
{
    uint32_t n = 16;

    while (n < least) {
        n <<= 1;
    }
    return n;
}

/* The hash is SHA-256's: any part of it is as good as another. */
static uint32_t spread(const ue_keyhash_t *hash)
{
    uint32_t n;

    memcpy(&n, hash->b, sizeof n);
    return n;
}

static uint32_t find_entry(const snapshot_t *s, const ue_keyhash_t *hash)
{
    uint32_t i = spread(hash) & s->mask, e;

    while ((e = s->index[i]) != 0) {
        if (!memcmp(&s->entries[e - 1].hash, hash, sizeof *hash)) {
            break;
        }
        i = (i + 1) & s->mask;
    }
    return e;
}

static void add_entry(snapshot_t *s, const entry_t *entry)
{
    uint32_t i = spread(&entry->hash) & s->mask;

    while (s->index[i]) {
        i = (i + 1) & s->mask;
    }
    s->entries[s->count++] = *entry;
    s->index[i] = s->count;
}

/* The cell that holds a key, or the free one that could. */
static cell_t *find_cell(const snapshot_t *s, const uint64_t sip[2])
{
    uint32_t i = (uint32_t)sip[0] & s->cache_mask;

    while (s->cache[i].entry
           && (s->cache[i].sip[0] != sip[0] || s->cache[i].sip[1] != sip[1])) {
        i = (i + 1) & s->cache_mask;
    }
    return &s->cache[i];
}

/* From document to snapshot -------------------------------------------- */

static struct json_object *member(struct json_object *o, const char *name)
{
    struct json_object *v = NULL;

    json_object_object_get_ex(o, name, &v);
    return v;
}

/* What limits where a key may be used. This version doesn't hold a key to it,
 * and a key that works everywhere is not what its owner was promised. */
static const char *restriction(struct json_object *o)
{
    static const char *const names[] = {"networks", "paths", "methods"};
    size_t i;

    for (i = 0; i < sizeof names / sizeof *names; i++) {
        if (member(o, names[i])) {
            return names[i];
        }
    }
    return NULL;
}

static apr_status_t refuse(const char *path, const char *place,
                           const char *name, const char **why, apr_pool_t *p)
{
    *why = apr_psprintf(p,
                        "%s: %s.%s: this version doesn't know how to honour "
                        "it, so it doesn't let its keys in",
                        path, place, name);
    return APR_EINVAL;
}

static apr_status_t check_plans(const char *path, struct json_object *doc,
                                const char **why, apr_pool_t *p)
{
    struct json_object *plans = member(doc, "plans");
    const char *found;

    if (!json_object_is_type(plans, json_type_object)) {
        if (!plans) {
            return APR_SUCCESS;
        }
        *why = apr_psprintf(p, "%s: plans: must be an object", path);
        return APR_EINVAL;
    }
    json_object_object_foreach(plans, name, plan)
    {
        struct json_object *billable = member(plan, "billable");

        found = restriction(plan);
        if (!found && billable && !json_object_get_boolean(billable)) {
            found = "billable";
        }
        if (found) {
            return refuse(path, apr_pstrcat(p, "plans.", name, NULL), found,
                          why, p);
        }
    }
    return APR_SUCCESS;
}

/* What may be used, and how many keys there are. */
static apr_status_t survey(const char *path, struct json_object *doc,
                           uint32_t *keys, const char **why, apr_pool_t *p)
{
    struct json_object *orgs = member(doc, "organizations");
    size_t i, k, n = json_object_array_length(orgs);
    apr_status_t rv = check_plans(path, doc, why, p);

    *keys = 0;
    for (i = 0; i < n && !rv; i++) {
        struct json_object *org = json_object_array_get_idx(orgs, i);
        struct json_object *list = member(org, "keys");
        const char *found = restriction(org);

        if (found) {
            return refuse(
                path, apr_psprintf(p, "organizations[%" APR_SIZE_T_FMT "]", i),
                found, why, p);
        }
        for (k = 0; list && k < json_object_array_length(list); k++) {
            found = restriction(json_object_array_get_idx(list, k));
            if (found) {
                return refuse(path,
                              apr_psprintf(p,
                                           "organizations[%" APR_SIZE_T_FMT
                                           "].keys[%" APR_SIZE_T_FMT "]",
                                           i, k),
                              found, why, p);
            }
            ++*keys;
        }
    }
    return rv;
}

static int is_billable(struct json_object *o)
{
    struct json_object *v = member(o, "billable");

    return !v || json_object_get_boolean(v);
}

static void read_id(struct json_object *o, ue_uuid_t *id)
{
    const char *s = json_object_get_string(member(o, "id"));

    ue_uuid_parse(id, s, strlen(s));
}

/* Nothing here can fail: the document was checked. */
static void read_key(struct json_object *org, struct json_object *key,
                     entry_t *e)
{
    struct json_object *expires = member(key, "expires");

    memset(e, 0, sizeof *e);
    ue_apikey_hash_parse(&e->hash, json_object_get_string(member(key, "hash")));
    read_id(org, &e->record.organization_id);
    read_id(key, &e->record.api_key_id);
    ue_uuid_format(&e->record.organization_id, e->record.organization_text);
    ue_uuid_format(&e->record.api_key_id, e->record.api_key_text);
    if (expires) {
        ue_time_parse(&e->record.expires, json_object_get_string(expires));
        /* 0 is for never, and who writes 1970 doesn't mean it */
        if (e->record.expires <= 0) {
            e->record.expires = 1;
        }
    }
    e->record.revoked = member(key, "revoked") != NULL;
    e->record.billable = is_billable(org) && is_billable(key);
}

/* With an allocator of its own: another thread uses the pool's parent. There is
 * no cleanup of ours on it, since the module may be unloaded before the pool
 * is destroyed. */
static apr_status_t make_pool(apr_pool_t **pool, apr_pool_t *parent)
{
    apr_allocator_t *allocator;
    apr_status_t rv = apr_allocator_create(&allocator);

    if (rv) {
        return rv;
    }
    rv = apr_pool_create_ex(pool, parent, NULL, allocator);
    if (rv) {
        apr_allocator_destroy(allocator);
        return rv;
    }
    apr_allocator_owner_set(allocator, *pool);
    apr_pool_tag(*pool, "ue_keystore_file");
    return APR_SUCCESS;
}

static snapshot_t *build(struct json_object *doc, uint32_t keys,
                         apr_pool_t *parent)
{
    struct json_object *orgs = member(doc, "organizations");
    size_t i, k, n = json_object_array_length(orgs);
    apr_pool_t *pool;
    snapshot_t *s;
    entry_t e;

    if (make_pool(&pool, parent)) {
        return NULL;
    }
    s = apr_pcalloc(pool, sizeof *s);
    s->pool = pool;
    s->organizations = (uint32_t)n;
    s->mask = power_of_two(2 * keys) - 1;
    s->cache_mask = power_of_two(4 * keys) - 1;
    s->entries = apr_pcalloc(pool, (keys + 1) * sizeof *s->entries);
    s->index = apr_pcalloc(pool, (s->mask + 1) * sizeof *s->index);
    s->cache = apr_pcalloc(pool, (s->cache_mask + 1) * sizeof *s->cache);
    for (i = 0; i < n; i++) {
        struct json_object *org = json_object_array_get_idx(orgs, i);
        struct json_object *list = member(org, "keys");

        for (k = 0; list && k < json_object_array_length(list); k++) {
            read_key(org, json_object_array_get_idx(list, k), &e);
            add_entry(s, &e);
        }
    }
    return s;
}

static apr_status_t read_snapshot(const filestore_t *store,
                                  snapshot_t **snapshot, const char **why,
                                  apr_pool_t *p)
{
    const char *path = store->path;
    struct json_object *doc;
    uint32_t keys;
    apr_status_t rv = ue_keyfile_read(path, &doc, why, p);

    if (rv) {
        return rv;
    }
    rv = survey(path, doc, &keys, why, p);
    if (!rv) {
        *snapshot = build(doc, keys, store->pool);
        if (!*snapshot) {
            *why = apr_psprintf(p, "%s: no memory to read it", path);
            rv = APR_ENOMEM;
        }
    }
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

static int same_keys(const snapshot_t *a, const snapshot_t *b)
{
    return a->count == b->count && a->organizations == b->organizations
           && !memcmp(a->entries, b->entries, a->count * sizeof *a->entries);
}

static int is_unsettled(const state_t *state)
{
    apr_time_t changed = apr_time_from_sec(state->changed.tv_sec)
                         + state->changed.tv_nsec / 1000;
    apr_interval_time_t since = apr_time_now() - changed;

    return !state->error && since >= 0 && since < UNSETTLED;
}

static void swap(filestore_t *store, snapshot_t *fresh)
{
    snapshot_t *old;

    apr_thread_rwlock_wrlock(store->lock);
    old = store->snapshot;
    store->snapshot = fresh;
    store->generation++;
    apr_thread_rwlock_unlock(store->lock);
    /* Records are copied out under the lock, so nobody points into it. */
    if (old) {
        apr_pool_destroy(old->pool);
    }
}

/* Read the file in the state that it was seen in, and remember what came of it.
 * A malformed file is not read again until it changes; what may pass by itself
 * (no descriptor, no memory) is tried again. */
static apr_status_t reread(filestore_t *store, const state_t *seen,
                           snapshot_t **fresh, const char **why, apr_pool_t *p)
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
    snapshot_t *fresh = NULL;
    const char *why = "";
    apr_pool_t *scratch;
    state_t seen;
    int same;

    look(store->path, &seen);
    same = same_state(&seen, &store->state);
    if (same && !store->again) {
        return APR_EAGAIN;
    }
    if (make_pool(&scratch, store->pool)) {
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
    else if (same && !before && same_keys(fresh, store->snapshot)) {
        apr_pool_destroy(fresh->pool);
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

static apr_status_t filestore_reload(ue_keystore_t *base, const char **why,
                                     apr_pool_t *ptemp)
{
    filestore_t *store = (filestore_t *)base;
    snapshot_t *fresh = NULL;
    apr_status_t rv;
    state_t seen;

    look(store->path, &seen);
    rv = reread(store, &seen, &fresh, why, ptemp);
    if (!rv) {
        swap(store, fresh);
    }
    return rv;
}

static apr_status_t filestore_open(ue_keystore_t **result, const char *where,
                                   const char **why, apr_pool_t *p)
{
    filestore_t *store;
    apr_pool_t *pool;
    apr_status_t rv;
    state_t seen;

    if (!*where) {
        *why = "the path of the key file is missing: file:PATH";
        return APR_EINVAL;
    }
    *why = "no memory, no randomness or no lock to be had from the system";
    rv = make_pool(&pool, p);
    if (rv) {
        return rv;
    }
    store = apr_pcalloc(pool, sizeof *store);
    store->base.vtable = &ue_keystore_file;
    store->path = apr_pstrdup(pool, where);
    store->pool = pool;
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

/* Remember who a key stands for. Readers are not made to wait for it: a key
 * that finds the lock taken is hashed once more the next time. */
static void remember(filestore_t *store, uint32_t generation,
                     const uint64_t sip[2], uint32_t entry)
{
    cell_t *cell;

    if (apr_thread_rwlock_trywrlock(store->lock)) {
        return;
    }
    /* Not told by the address, which a later snapshot may have again. */
    if (store->generation == generation) {
        cell = find_cell(store->snapshot, sip);
        cell->sip[0] = sip[0];
        cell->sip[1] = sip[1];
        cell->entry = entry;
    }
    apr_thread_rwlock_unlock(store->lock);
}

static apr_status_t filestore_recall(ue_keystore_t *base, const char *key,
                                     size_t len, ue_keyrecord_t *record)
{
    filestore_t *store = (filestore_t *)base;
    const snapshot_t *s;
    uint64_t sip[2];
    uint32_t entry;

    ue_siphash128(key, len, store->sip_key, sip);
    apr_thread_rwlock_rdlock(store->lock);
    s = store->snapshot;
    entry = find_cell(s, sip)->entry;
    if (entry) {
        *record = s->entries[entry - 1].record;
    }
    apr_thread_rwlock_unlock(store->lock);
    return entry ? APR_SUCCESS : APR_NOTFOUND;
}

static apr_status_t filestore_lookup(ue_keystore_t *base, const char *key,
                                     size_t len, ue_keyrecord_t *record)
{
    filestore_t *store = (filestore_t *)base;
    const snapshot_t *s;
    ue_keyhash_t hash;
    uint64_t sip[2];
    uint32_t entry, generation;

    ue_apikey_hash(key, len, &hash);
    apr_thread_rwlock_rdlock(store->lock);
    s = store->snapshot;
    generation = store->generation;
    entry = find_entry(s, &hash);
    if (entry) {
        *record = s->entries[entry - 1].record;
    }
    apr_thread_rwlock_unlock(store->lock);
    if (!entry) {
        return APR_NOTFOUND;
    }
    ue_siphash128(key, len, store->sip_key, sip);
    remember(store, generation, sip, entry);
    return APR_SUCCESS;
}

const ue_keystore_vtable_t ue_keystore_file = {
    .scheme = "file",
    .layout =
        sizeof(filestore_t) * 31 + sizeof(snapshot_t) * 7 + sizeof(entry_t),
    .open = filestore_open,
    .reload = filestore_reload,
    .recall = filestore_recall,
    .lookup = filestore_lookup,
    .refresh = filestore_refresh,
};
