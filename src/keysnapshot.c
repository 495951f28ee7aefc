/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "keysnapshot.h"

#include <string.h>

#include <apr_hash.h>
#include <apr_strings.h>

#include <json-c/json.h>

#include <openssl/crypto.h>

#include "keyfile.h"
#include "rate.h"

/* The table ------------------------------------------------------------ */

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

/* Which cells are looked at, and for how long, depends on the presented key's
 * hash alone. Nobody can make keys whose hashes come ever nearer to a stored
 * one, so time tells nothing of it; the last compare takes the same time all
 * the same. */
const ue_keyentry_t *ue_keysnapshot_find(const ue_keysnapshot_t *s,
                                         const ue_keyhash_t *hash,
                                         ue_hashkind_t kind)
{
    uint32_t i = spread(hash) & s->mask, e;

    while ((e = s->index[i]) != 0) {
        const ue_keyentry_t *entry = &s->entries[e - 1];

        if (entry->kind == kind
            && !CRYPTO_memcmp(&entry->hash, hash, sizeof *hash)) {
            return entry;
        }
        i = (i + 1) & s->mask;
    }
    return NULL;
}

static void add_entry(ue_keysnapshot_t *s, const ue_keyentry_t *entry)
{
    uint32_t i = spread(&entry->hash) & s->mask;

    while (s->index[i]) {
        i = (i + 1) & s->mask;
    }
    s->entries[s->count++] = *entry;
    s->index[i] = s->count;
}

/* The cell that holds a key, or the free one that could. */
static ue_keyseen_t *find_cell(const ue_keysnapshot_t *s, const uint64_t sip[2])
{
    uint32_t i = (uint32_t)sip[0] & s->cache_mask;

    while (s->cache[i].entry
           && (s->cache[i].sip[0] != sip[0] || s->cache[i].sip[1] != sip[1])) {
        i = (i + 1) & s->cache_mask;
    }
    return &s->cache[i];
}

const ue_keyentry_t *ue_keysnapshot_recall(const ue_keysnapshot_t *s,
                                           const uint64_t sip[2])
{
    uint32_t e = find_cell(s, sip)->entry;

    return e ? &s->entries[e - 1] : NULL;
}

void ue_keysnapshot_remember(ue_keysnapshot_t *s, const uint64_t sip[2],
                             const ue_keyentry_t *entry)
{
    ue_keyseen_t *cell = find_cell(s, sip);

    cell->sip[0] = sip[0];
    cell->sip[1] = sip[1];
    cell->entry = (uint32_t)(entry - s->entries) + 1;
}

/* From document to table ----------------------------------------------- */

/* What goes along while a snapshot is made. */
typedef struct {
    const char *path;
    const char **why;
    apr_pool_t *p;       /* for the sentence */
    apr_pool_t *scratch; /* for what is gone when it is made */
    ue_keysnapshot_t *snapshot;
    struct json_object *plans;
    apr_hash_t *blocks; /* those there are, by what is in them */
    int has_secret;
} build_t;

/* Where in the document. */
typedef struct {
    struct json_object *org, *key, *plan;
    size_t o, k;
} place_t;

static struct json_object *member(struct json_object *o, const char *name)
{
    struct json_object *v = NULL;

    json_object_object_get_ex(o, name, &v);
    return v;
}

static apr_status_t fault(const build_t *b, const place_t *at,
                          const char *sentence)
{
    *b->why = apr_psprintf(b->p,
                           "%s: organizations[%" APR_SIZE_T_FMT
                           "].keys[%" APR_SIZE_T_FMT "]%s",
                           b->path, at->o, at->k, sentence);
    return APR_EINVAL;
}

static int is_billable(struct json_object *o)
{
    struct json_object *v = o ? member(o, "billable") : NULL;

    return !v || json_object_get_boolean(v);
}

/* A key's plan, or else its organization's, or NULL. */
static struct json_object *find_plan(const build_t *b, const place_t *at)
{
    struct json_object *name = member(at->key, "plan");

    name = name ? name : member(at->org, "plan");
    return name ? member(b->plans, json_object_get_string(name)) : NULL;
}

/* Most keys of a plan have the same block: it is kept once. */
static const uint8_t *keep_block(const build_t *b, const uint8_t *block,
                                 size_t len)
{
    const uint8_t *kept = apr_hash_get(b->blocks, block, (apr_ssize_t)len);

    if (!kept) {
        kept = apr_pmemdup(b->snapshot->pool, block, len);
        apr_hash_set(b->blocks, kept, (apr_ssize_t)len, kept);
    }
    return kept;
}

/* Whether lists fit was checked with the document; who changes the one and not
 * the other must not make keys that work everywhere. */
static apr_status_t read_access(const build_t *b, const place_t *at,
                                ue_keyentry_t *e)
{
    ue_access_lists_t lists[3];
    uint8_t block[UE_ACCESS_MAX];
    const char *why = "";

    ue_keyfile_lists(at->plan, &lists[0], b->scratch);
    ue_keyfile_lists(at->org, &lists[1], b->scratch);
    ue_keyfile_lists(at->key, &lists[2], b->scratch);
    if (ue_access_compile(lists, 3, block, &e->access_len, &why, b->p)) {
        return fault(b, at, apr_pstrcat(b->p, ": ", why, NULL));
    }
    if (e->access_len) {
        e->access = keep_block(b, block, e->access_len);
    }
    return APR_SUCCESS;
}

/* One's own, or else its plan's, each by itself.
 * @param plan NULL: it has none that counts for it */
static apr_status_t read_allowance(const build_t *b, const place_t *at,
                                   struct json_object *own,
                                   struct json_object *plan, ue_allowance_t *to)
{
    struct json_object *rate = member(own, "rate");
    struct json_object *quota = member(own, "quota");

    rate = rate || !plan ? rate : member(plan, "rate");
    quota = quota || !plan ? quota : member(plan, "quota");
    if (rate && ue_rate_parse(&to->rate, json_object_get_string(rate))) {
        return fault(b, at, ": a rate must be " UE_RATE_SYNTAX);
    }
    if (quota && ue_quota_parse(&to->quota, json_object_get_string(quota))) {
        return fault(b, at, ": a quota must be " UE_QUOTA_SYNTAX);
    }
    return APR_SUCCESS;
}

/* A plan that the key itself has counts its requests, any other those of its
 * whole organization. */
static apr_status_t read_limits(const build_t *b, const place_t *at,
                                ue_keyrecord_t *r)
{
    int is_own = member(at->key, "plan") != NULL;
    apr_status_t rv =
        read_allowance(b, at, at->key, is_own ? at->plan : NULL, &r->of_key);

    return rv ? rv
              : read_allowance(b, at, at->org, is_own ? NULL : at->plan,
                               &r->of_org);
}

static void read_id(struct json_object *o, ue_uuid_t *id, char *text)
{
    const char *s = json_object_get_string(member(o, "id"));

    ue_uuid_parse(id, s, strlen(s));
    ue_uuid_format(id, text);
}

static apr_status_t read_key(const build_t *b, place_t *at, ue_keyentry_t *e)
{
    struct json_object *expires = member(at->key, "expires");
    ue_keyrecord_t *r = &e->record;
    apr_status_t rv;

    at->plan = find_plan(b, at);
    memset(e, 0, sizeof *e);
    ue_apikey_hash_parse(&e->hash, &e->kind,
                         json_object_get_string(member(at->key, "hash")));
    if (e->kind == UE_HASH_HMAC_SHA256 && !b->has_secret) {
        return fault(b, at,
                     ".hash: was made under a secret, and there is none: name "
                     "it, such as UsageKeySecret "
                     "file:/etc/apache2/usage-keys.secret");
    }
    read_id(at->org, &r->organization_id, r->organization_text);
    read_id(at->key, &r->api_key_id, r->api_key_text);
    if (expires) {
        ue_time_parse(&r->expires, json_object_get_string(expires));
        /* 0 is for never, and who writes 1970 doesn't mean it */
        if (r->expires <= 0) {
            r->expires = 1;
        }
    }
    r->revoked = member(at->key, "revoked") != NULL;
    r->billable =
        is_billable(at->org) && is_billable(at->key) && is_billable(at->plan);
    rv = read_limits(b, at, r);
    return rv ? rv : read_access(b, at, e);
}

static uint32_t count_keys(struct json_object *orgs)
{
    size_t i, n = 0;

    for (i = 0; i < json_object_array_length(orgs); i++) {
        struct json_object *list =
            member(json_object_array_get_idx(orgs, i), "keys");

        n += list ? json_object_array_length(list) : 0;
    }
    return (uint32_t)n;
}

static ue_keysnapshot_t *make_empty(struct json_object *orgs,
                                    apr_pool_t *parent)
{
    uint32_t keys = count_keys(orgs);
    ue_keysnapshot_t *s;
    apr_pool_t *pool;

    if (ue_keysnapshot_pool(&pool, parent)) {
        return NULL;
    }
    s = apr_pcalloc(pool, sizeof *s);
    s->pool = pool;
    s->organizations = (uint32_t)json_object_array_length(orgs);
    s->mask = power_of_two(2 * keys) - 1;
    s->cache_mask = power_of_two(4 * keys) - 1;
    s->entries = apr_pcalloc(pool, (keys + 1) * sizeof *s->entries);
    s->index = apr_pcalloc(pool, (s->mask + 1) * sizeof *s->index);
    s->cache = apr_pcalloc(pool, (s->cache_mask + 1) * sizeof *s->cache);
    return s;
}

static apr_status_t fill(const build_t *b, struct json_object *orgs)
{
    place_t at = {NULL, NULL, NULL, 0, 0};
    ue_keyentry_t e;
    apr_status_t rv;

    for (; at.o < json_object_array_length(orgs); at.o++) {
        struct json_object *list;

        at.org = json_object_array_get_idx(orgs, at.o);
        list = member(at.org, "keys");
        for (at.k = 0; list && at.k < json_object_array_length(list); at.k++) {
            at.key = json_object_array_get_idx(list, at.k);
            rv = read_key(b, &at, &e);
            if (rv) {
                return rv;
            }
            add_entry(b->snapshot, &e);
        }
    }
    return APR_SUCCESS;
}

apr_status_t ue_keysnapshot_build(ue_keysnapshot_t **snapshot, const char *path,
                                  struct json_object *doc, int has_secret,
                                  const char **why, apr_pool_t *parent,
                                  apr_pool_t *p)
{
    struct json_object *orgs = member(doc, "organizations");
    build_t b = {path, why,       p, NULL, NULL, member(doc, "plans"),
                 NULL, has_secret};
    apr_status_t rv = ue_keysnapshot_pool(&b.scratch, parent);

    *snapshot = NULL;
    b.snapshot = rv ? NULL : make_empty(orgs, parent);
    if (!b.snapshot) {
        if (!rv) {
            apr_pool_destroy(b.scratch);
        }
        *why = apr_psprintf(p, "%s: no memory to read it", path);
        return APR_ENOMEM;
    }
    b.blocks = apr_hash_make(b.scratch);
    rv = fill(&b, orgs);
    apr_pool_destroy(b.scratch);
    if (rv) {
        ue_keysnapshot_destroy(b.snapshot);
        return rv;
    }
    *snapshot = b.snapshot;
    return APR_SUCCESS;
}

/* As a whole ----------------------------------------------------------- */

apr_status_t ue_keysnapshot_pool(apr_pool_t **pool, apr_pool_t *parent)
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

void ue_keysnapshot_destroy(ue_keysnapshot_t *s)
{
    apr_pool_destroy(s->pool);
}

static int same_allowance(const ue_allowance_t *a, const ue_allowance_t *b)
{
    return a->rate.count == b->rate.count && a->rate.period == b->rate.period
           && a->rate.burst == b->rate.burst && a->quota.count == b->quota.count
           && a->quota.period == b->quota.period;
}

static int same_record(const ue_keyrecord_t *a, const ue_keyrecord_t *b)
{
    return ue_uuid_equal(&a->organization_id, &b->organization_id)
           && ue_uuid_equal(&a->api_key_id, &b->api_key_id)
           && a->expires == b->expires && a->revoked == b->revoked
           && a->billable == b->billable
           && same_allowance(&a->of_key, &b->of_key)
           && same_allowance(&a->of_org, &b->of_org);
}

static int same_entry(const ue_keyentry_t *a, const ue_keyentry_t *b)
{
    return a->kind == b->kind && a->access_len == b->access_len
           && !memcmp(&a->hash, &b->hash, sizeof a->hash)
           && same_record(&a->record, &b->record)
           && (!a->access_len || !memcmp(a->access, b->access, a->access_len));
}

int ue_keysnapshot_same(const ue_keysnapshot_t *a, const ue_keysnapshot_t *b)
{
    uint32_t i;

    if (a->count != b->count || a->organizations != b->organizations) {
        return 0;
    }
    for (i = 0; i < a->count; i++) {
        if (!same_entry(&a->entries[i], &b->entries[i])) {
            return 0;
        }
    }
    return 1;
}
