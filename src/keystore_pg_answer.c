/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/*
 * What the database says of keys: from rows to the cache, and to those who
 * wait.
 */
#include "keystore_pg_int.h"

#include <stdlib.h>
#include <string.h>

#include <apr_strings.h>

#include <json-c/json.h>

#include "log.h"
#include "rate.h"
#include "thread.h"

#define COMPLAIN_EVERY apr_time_from_sec(10)

/* The index of a batch by hash: at most half full. */
#define INDEX_SIZE (4 * UE_PG_BATCH + 96)

const char ue_pg_query[] =
    "SELECT hash, api_key_id, organization_id, expires, revoked, billable, "
    "access, limits FROM usage_gateway_keys WHERE hash = ANY ($1::text[])";
enum {
    HASH,
    API_KEY_ID,
    ORGANIZATION_ID,
    EXPIRES,
    REVOKED,
    BILLABLE,
    ACCESS,
    LIMITS
};

void ue_pg_land(ue_pg_child_t *c, ue_flight_t *f, ue_answer_t answer)
{
    ue_keycache_release(c->store->cache, &f->hash);
    pthread_mutex_lock(&c->lock);
    ue_flight_land(c, f, answer);
    pthread_mutex_unlock(&c->lock);
}

/** @return 0 where it is neither a list nor missing */
static int read_list(const char *const **list, struct json_object *lists,
                     const char *name, apr_pool_t *p)
{
    struct json_object *array = NULL;
    const char **entries;
    size_t i, n;

    *list = NULL;
    if (!json_object_object_get_ex(lists, name, &array) || !array) {
        return 1;
    }
    if (!json_object_is_type(array, json_type_array)) {
        return 0;
    }
    n = json_object_array_length(array);
    entries = apr_pcalloc(p, (n + 1) * sizeof(*entries));
    for (i = 0; i < n; i++) {
        struct json_object *one = json_object_array_get_idx(array, i);

        entries[i] = one ? json_object_get_string(one) : "";
    }
    *list = entries;
    return n > 0;
}

static int read_three(ue_access_lists_t *to, struct json_object *lists,
                      apr_pool_t *p)
{
    return json_object_is_type(lists, json_type_object)
           && read_list(&to->networks, lists, "networks", p)
           && read_list(&to->paths, lists, "paths", p)
           && read_list(&to->methods, lists, "methods", p);
}

/** Compile what restricts a key, from plan, organization and key. */
static apr_status_t read_lists(ue_flight_t *f, const char *text,
                               const char **why, apr_pool_t *p)
{
    struct json_object *all = json_tokener_parse(text);
    ue_access_lists_t lists[3];
    uint8_t block[UE_ACCESS_MAX];
    apr_status_t rv = APR_EINVAL;
    size_t n = 0;

    *why = "what the view gives for access are no lists";
    if (json_object_is_type(all, json_type_array)
        && json_object_array_length(all) <= 3) {
        while (n < json_object_array_length(all)
               && read_three(&lists[n], json_object_array_get_idx(all, n), p)) {
            n++;
        }
    }
    if (n > 0 && n == json_object_array_length(all)) {
        rv = ue_access_compile(lists, n, block, &f->block_len, why, p);
    }
    if (rv == APR_SUCCESS && f->block_len > 0) {
        f->block = malloc(f->block_len);
        if (f->block) {
            memcpy(f->block, block, f->block_len);
        }
        else {
            *why = "no memory";
            rv = APR_ENOMEM;
        }
    }
    json_object_put(all);
    return rv;
}

/** A member as text; NULL: it lacks, or is null. What is no text is told by
 * whoever reads it. */
static const char *member_text(struct json_object *o, const char *name)
{
    struct json_object *v = NULL;

    return json_object_object_get_ex(o, name, &v) && v
               ? json_object_get_string(v)
               : NULL;
}

/** @return NULL, or why it can't be read */
static const char *read_allowance(ue_allowance_t *to,
                                  struct json_object *limits, const char *whose,
                                  apr_pool_t *p)
{
    struct json_object *of = NULL;
    const char *rate, *quota;

    if (!json_object_object_get_ex(limits, whose, &of) || !of) {
        return NULL;
    }
    if (!json_object_is_type(of, json_type_object)) {
        return apr_psprintf(p, "limits: %s is no object", whose);
    }
    rate = member_text(of, "rate");
    quota = member_text(of, "quota");
    if (rate && ue_rate_parse(&to->rate, rate) != APR_SUCCESS) {
        return apr_psprintf(p, "limits: %s.rate must be " UE_RATE_SYNTAX,
                            whose);
    }
    return !quota || ue_quota_parse(&to->quota, quota) == APR_SUCCESS
               ? NULL
               : apr_psprintf(p, "limits: %s.quota must be " UE_QUOTA_SYNTAX,
                              whose);
}

/** Read how much a key and its organization may do. */
static apr_status_t read_limits(ue_keyrecord_t *r, const char *text,
                                const char **why, apr_pool_t *p)
{
    struct json_object *limits = json_tokener_parse(text);

    *why = "what the view gives for limits is no object";
    if (json_object_is_type(limits, json_type_object)) {
        *why = read_allowance(&r->of_key, limits, "key", p);
        *why = *why ? *why : read_allowance(&r->of_org, limits, "org", p);
    }
    json_object_put(limits);
    return *why ? APR_EINVAL : APR_SUCCESS;
}

/** A key that nobody can tell what it may be used for may be used for nothing.
 */
static void shut(ue_flight_t *f)
{
    free(f->block);
    f->block = malloc(1);
    f->block_len = 1;
    if (f->block) {
        f->block[0] = 0xFF;
    }
    f->record.revoked |= !f->block;
}

/** Read what few keys have; NULL: this one hasn't. */
static void read_bearing(ue_pg_child_t *c, ue_flight_t *f, const char *access,
                         const char *limits)
{
    static ue_log_limit_t limit;
    const char *why = NULL;
    uint32_t held;

    if (!access && !limits) {
        return;
    }
    apr_pool_clear(c->scratch);
    if ((!access || read_lists(f, access, &why, c->scratch) == APR_SUCCESS)
        && (!limits
            || read_limits(&f->record, limits, &why, c->scratch)
                   == APR_SUCCESS)) {
        return;
    }
    shut(f);
    ue_metrics_add(c->seat, UE_M_KEYSTORE_QUERY_ERRORS, 1);
    if (ue_log_limit_pass(&limit, ue_monotonic(), COMPLAIN_EVERY, &held)) {
        ue_log(UE_LOG_ERR, 0,
               "UE0112: key database: what key %s may be used for can't be "
               "read, so it may be used for nothing: %s (%u such lines held "
               "back)",
               f->record.api_key_text, why, held);
    }
}

static int read_id(ue_uuid_t *id, char text[UE_UUID_LEN + 1], const char *s)
{
    if (ue_uuid_parse(id, s, strlen(s)) != APR_SUCCESS) {
        return 0;
    }
    ue_uuid_format(id, text);
    return 1;
}

static const char *value_of(const PGresult *rows, int row, int column)
{
    return PQgetisnull(rows, row, column) ? NULL
                                          : PQgetvalue(rows, row, column);
}

/** @return whether it is a row of the view's kind */
static int read_row(ue_pg_child_t *c, ue_flight_t *f, const PGresult *rows,
                    int row)
{
    ue_keyrecord_t *r = &f->record;

    memset(r, 0, sizeof(*r));
    if (!read_id(&r->api_key_id, r->api_key_text,
                 PQgetvalue(rows, row, API_KEY_ID))
        || !read_id(&r->organization_id, r->organization_text,
                    PQgetvalue(rows, row, ORGANIZATION_ID))) {
        return 0;
    }
    if (!PQgetisnull(rows, row, EXPIRES)) {
        r->expires = apr_atoi64(PQgetvalue(rows, row, EXPIRES));
        /* 0 is for never, and who writes 1970 doesn't mean it */
        r->expires = r->expires > 0 ? r->expires : 1;
    }
    r->revoked = *PQgetvalue(rows, row, REVOKED) != 'f';
    r->billable = *PQgetvalue(rows, row, BILLABLE) == 't';
    read_bearing(c, f, value_of(rows, row, ACCESS),
                 value_of(rows, row, LIMITS));
    return 1;
}

/** Where a batch's hashes are. One may be there several times: presented, and
 * from the cache. */
typedef struct {
    uint16_t at[INDEX_SIZE]; /* place in the batch plus one, 0: free */
} index_t;

static uint32_t first_place(const ue_keyhash_t *hash)
{
    uint32_t i;

    memcpy(&i, hash->b, sizeof(i));
    return i % INDEX_SIZE;
}

static void put_in(index_t *index, const ue_keyhash_t *hash, uint32_t number)
{
    uint32_t i = first_place(hash);

    while (index->at[i]) {
        i = (i + 1) % INDEX_SIZE;
    }
    index->at[i] = (uint16_t)(number + 1);
}

static void index_batch(index_t *index, const ue_pg_child_t *c)
{
    uint32_t i;

    memset(index, 0, sizeof(*index));
    for (i = 0; i < c->batch_count; i++) {
        put_in(index, &c->batch[i]->hash, i);
        if (c->batch[i]->has_plain) {
            put_in(index, &c->batch[i]->plain, i);
        }
    }
}

static int is_hash(const ue_keyhash_t *a, const ue_keyhash_t *b)
{
    return memcmp(a, b, sizeof(*a)) == 0;
}

/** Somebody may present a key while it is being looked up again. */
static const ue_keytag_t *tag_of(ue_pg_child_t *c, const ue_flight_t *f,
                                 ue_keytag_t *tag)
{
    int has_tag;

    pthread_mutex_lock(&c->lock);
    has_tag = f->has_tag;
    *tag = f->tag;
    pthread_mutex_unlock(&c->lock);
    return has_tag ? tag : NULL;
}

/** A flight's key is known from here on. Of two rows, for both its hashes, that
 * under the secret counts. */
static void take_key(ue_pg_child_t *c, ue_flight_t *f, const ue_keyhash_t *hash,
                     const PGresult *rows, int row)
{
    int is_own = is_hash(&f->hash, hash);
    ue_keytag_t tag;

    if (f->is_own || (!is_own && f->answer == UE_ANSWER_FOUND)) {
        return;
    }
    free(f->block);
    f->block = NULL;
    f->block_len = 0;
    if (!read_row(c, f, rows, row)) {
        return;
    }
    f->answer = UE_ANSWER_FOUND;
    f->is_own = (uint8_t)is_own;
    ue_keycache_put(c->store->cache, tag_of(c, f, &tag), hash, &f->record,
                    f->block, f->block_len, c->sent_at);
}

static void take_row(ue_pg_child_t *c, const index_t *index,
                     const PGresult *rows, int row)
{
    ue_keyhash_t hash;
    ue_hashkind_t kind;
    uint32_t i;

    if (ue_apikey_hash_parse(&hash, &kind, PQgetvalue(rows, row, HASH))
        != APR_SUCCESS) {
        return;
    }
    for (i = first_place(&hash); index->at[i]; i = (i + 1) % INDEX_SIZE) {
        ue_flight_t *f = c->batch[index->at[i] - 1];

        if (is_hash(&f->hash, &hash)
            || (f->has_plain && is_hash(&f->plain, &hash))) {
            take_key(c, f, &hash, rows, row);
        }
    }
}

/** Was it looked for by the one hash alone, when it may have another? It was
 * presented while it was on its way for its hash in the cache. */
static int is_half(ue_pg_child_t *c, const ue_flight_t *f)
{
    ue_keytag_t tag;

    return c->store->secret && !f->has_plain && tag_of(c, f, &tag);
}

static void is_unknown(ue_pg_child_t *c, ue_flight_t *f)
{
    ue_keytag_t tag;

    ue_keycache_put_unknown(c->store->cache,
                            is_half(c, f) ? NULL : tag_of(c, f, &tag), &f->hash,
                            c->sent_at);
    if (f->has_plain) {
        ue_keycache_put_unknown(c->store->cache, NULL, &f->plain, c->sent_at);
    }
}

void ue_pg_tell_up(ue_pg_child_t *c)
{
    if (atomic_load(&c->store->shared->told) != UE_PG_TOLD_UP
        && atomic_exchange(&c->store->shared->told, UE_PG_TOLD_UP)
               != UE_PG_TOLD_UP) {
        ue_log(UE_LOG_NOTICE, 0, "UE0111: key database: connected to %s",
               ue_pg_name(c->pg));
    }
}

void ue_pg_ask_again(ue_pg_child_t *c, const ue_keyhash_t *hash)
{
    ue_flight_t *f;

    pthread_mutex_lock(&c->lock);
    f = ue_flight_find(c, hash);
    if (!f && (f = ue_flight_begin(c, hash)) != NULL) {
        ue_flight_queue(c, f);
    }
    pthread_mutex_unlock(&c->lock);
}

/** @return how many were found */
static uint32_t land_batch(ue_pg_child_t *c)
{
    uint32_t i, found = 0;

    for (i = 0; i < c->batch_count; i++) {
        ue_flight_t *f = c->batch[i];
        int is_found = f->answer == UE_ANSWER_FOUND;
        int ask_again = f->again && !f->has_plain;
        /* Who waits looks anew, and boards the next one. */
        int look = f->again || (!is_found && is_half(c, f));
        ue_keyhash_t hash = f->hash;

        found += is_found;
        if (!is_found) {
            is_unknown(c, f);
        }
        ue_pg_land(c, f, look ? UE_ANSWER_LOOK : f->answer);
        if (ask_again) {
            ue_pg_ask_again(c, &hash);
        }
    }
    return found;
}

void ue_pg_take_answer(void *baton, const PGresult *rows)
{
    ue_pg_child_t *c = baton;
    index_t index;
    uint32_t i, found;
    int row;

    for (i = 0; i < c->batch_count; i++) {
        c->batch[i]->answer = UE_ANSWER_UNKNOWN;
    }
    index_batch(&index, c);
    for (row = 0; row < PQntuples(rows); row++) {
        take_row(c, &index, rows, row);
    }
    found = land_batch(c);
    pthread_mutex_lock(&c->lock);
    c->down_at = 0;
    c->budget += 2 * found >= c->batch_count && c->budget < UE_PG_BURST;
    pthread_mutex_unlock(&c->lock);
    c->batch_count = 0;
    c->is_asking = c->is_refused = 0;
    ue_pg_tell_up(c);
    ue_metrics_set(c->seat, UE_M_KEY_CACHE_KEYS,
                   ue_keycache_count(c->store->cache));
}
