/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "keystore_pg_int.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <apr_strings.h>

#include "log.h"
#include "thread.h"

#define CHANNEL "usage_keys"
#define NAME "mod_usage_events"

#define TELL_EVERY apr_time_from_sec(10)
#define DEFERRED_EVERY apr_time_from_msec(3)
#define EARN_EVERY (APR_USEC_PER_SEC / UE_PG_QUERIES)

/* In its braces: two hashes a key, each with its kind and a comma. */
#define ARRAY_MAX (2 + UE_PG_BATCH * 2 * (UE_APIKEY_HASH_TEXT + 1) + 1)

static uint64_t ms(apr_time_t when)
{
    return (uint64_t)apr_time_as_msec(when);
}

static void count(const ue_pg_child_t *c, ue_metric_t metric)
{
    ue_metrics_add(c->seat, metric, 1);
}

/* ---- who listens ---- */

static void take_place(ue_pg_child_t *c)
{
    ue_pg_shared_t *s = c->store->shared;
    int i, pid;

    for (i = 0; i < UE_PG_LISTENERS; i++) {
        pid = atomic_load(&s->child[i].pid);
        if ((pid == 0 || ue_is_dead(pid))
            && atomic_compare_exchange_strong(&s->child[i].pid, &pid,
                                              (int)getpid())) {
            atomic_store(&s->child[i].is_up, 0);
            c->listener = i;
            return;
        }
    }
}

static int others_listen(const ue_pg_child_t *c)
{
    ue_pg_shared_t *s = c->store->shared;
    int i, pid;

    for (i = 0; i < UE_PG_LISTENERS; i++) {
        pid = atomic_load(&s->child[i].pid);
        if (i != c->listener && pid && atomic_load(&s->child[i].is_up)
            && !ue_is_dead(pid)) {
            return 1;
        }
    }
    return 0;
}

static void say_up(ue_pg_child_t *c, int is_up)
{
    static _Atomic int connections; /* of all stores of this child */

    if (c->listener >= 0) {
        atomic_store(&c->store->shared->child[c->listener].is_up, is_up);
    }
    if (c->is_up != is_up) {
        int was = atomic_fetch_add(&connections, is_up ? 1 : -1);

        c->is_up = is_up;
        ue_metrics_set(c->seat, UE_M_KEYSTORE_CONNECTED,
                       (uint64_t)(is_up ? was + 1 : was - 1));
    }
}

/* ---- up and down ---- */

/** Nobody can be asked: those who wait needn't wait any longer. */
static void land_all(ue_pg_child_t *c)
{
    ue_flight_t *f;

    do {
        pthread_mutex_lock(&c->lock);
        f = ue_line_pop(&c->queued);
        f = f ? f : ue_line_pop(&c->deferred);
        pthread_mutex_unlock(&c->lock);
        if (f) {
            ue_pg_land(c, f, UE_ANSWER_NONE);
        }
    } while (f);
}

/** @return whether there is something to doubt */
static int doubt(ue_pg_child_t *c, const ue_keyhash_t *hash, apr_time_t when)
{
    c->doubted_at = ms(when);
    if (!hash) {
        c->walking = 1;
        c->cursor = 0;
    }
    return ue_keycache_doubt(c->store->cache, hash, c->doubted_at);
}

static void come_up(void *baton)
{
    ue_pg_child_t *c = baton;
    /* Before we look for others: what one asks who comes up meanwhile is of
     * later. */
    apr_time_t now = ue_monotonic();

    count(c, UE_M_KEYSTORE_CONNECTS);
    if (c->was_up || !others_listen(c)) {
        doubt(c, NULL, now);
    }
    c->was_up = 1;
    say_up(c, 1);
    /* One that lets us in and then doesn't answer is as good as down. */
    if (!c->is_refused) {
        ue_pg_tell_up(c);
        pthread_mutex_lock(&c->lock);
        c->down_at = 0;
        pthread_mutex_unlock(&c->lock);
    }
}

/** A table or column isn't there: what the administrator has to do about it. */
static const char *advice(const char *refused)
{
    return refused && (!strcmp(refused, "42P01") || !strcmp(refused, "42703"))
               ? "; its tables lack, or are older than this gateway: run "
                 "usagectl init-db"
               : "";
}

/** One line for all children, and few where it comes and goes. */
static void tell_down(ue_pg_child_t *c, const char *why, const char *refused,
                      apr_time_t now)
{
    ue_pg_shared_t *s = c->store->shared;
    uint32_t held;

    if (atomic_load(&s->told) != UE_PG_TOLD_DOWN
        && ue_log_limit_pass(&s->limit, now, TELL_EVERY, &held)
        && atomic_exchange(&s->told, UE_PG_TOLD_DOWN) != UE_PG_TOLD_DOWN) {
        ue_log(UE_LOG_WARNING, 0,
               "UE0110: key database: %s%s; keys that are known go on "
               "working, the others have to wait (%u such lines held back)",
               why, advice(refused), held);
    }
}

/** What was asked and not answered is asked again, before all others. */
static void go_down(void *baton, const char *why, const char *refused)
{
    ue_pg_child_t *c = baton;
    apr_time_t now = ue_monotonic();

    say_up(c, 0);
    count(c, UE_M_KEYSTORE_QUERY_ERRORS);
    tell_down(c, why, refused, now);
    pthread_mutex_lock(&c->lock);
    c->is_refused |= c->is_asking;
    c->is_asking = 0;
    if (!c->down_at) {
        c->down_at = c->asked_at ? c->asked_at : now;
    }
    while (c->batch_count > 0) {
        ue_flight_t *f = c->batch[--c->batch_count];

        f->state = UE_FLIGHT_QUEUED;
        f->next = c->queued.first;
        if (!f->next) {
            c->queued.last = &f->next;
        }
        c->queued.first = f;
    }
    pthread_mutex_unlock(&c->lock);
}

static int read_hash(ue_keyhash_t *hash, const char *hex)
{
    char text[UE_APIKEY_HASH_TEXT + 1];
    ue_hashkind_t kind;

    return strlen(hex) == 64
           && apr_snprintf(text, sizeof(text), "sha256:%s", hex) > 0
           && ue_apikey_hash_parse(hash, &kind, text) == APR_SUCCESS;
}

/** The answer that is under way may be of before the change. */
static void overtake(ue_pg_child_t *c, const ue_keyhash_t *hash)
{
    uint32_t i;

    for (i = 0; i < c->batch_count; i++) {
        ue_flight_t *f = c->batch[i];

        f->again |=
            !memcmp(&f->hash, hash, sizeof(*hash))
            || (f->has_plain && !memcmp(&f->plain, hash, sizeof(*hash)));
    }
}

static void take_change(void *baton, const char *payload)
{
    ue_pg_child_t *c = baton;
    ue_keyhash_t hash;

    count(c, UE_M_KEYSTORE_NOTIFICATIONS);
    /* What can't be read may have been anything. */
    if (!read_hash(&hash, payload)) {
        doubt(c, NULL, ue_monotonic());
        return;
    }
    overtake(c, &hash);
    /* A key that nobody knows here is nobody's business. */
    if (doubt(c, &hash, ue_monotonic())) {
        ue_pg_ask_again(c, &hash);
    }
}

static const ue_pg_listener_t listener = {
    .up = come_up,
    .down = go_down,
    .answer = ue_pg_take_answer,
    .heard = take_change,
};

/* ---- asking ---- */

static void earn(ue_pg_child_t *c, apr_time_t now)
{
    apr_int64_t earned = (now - c->earned_at) / EARN_EVERY;

    if (earned <= 0) {
        return;
    }
    c->earned_at += earned * EARN_EVERY;
    pthread_mutex_lock(&c->lock);
    c->budget = earned > UE_PG_BURST - c->budget ? UE_PG_BURST
                                                 : c->budget + (int)earned;
    pthread_mutex_unlock(&c->lock);
}

/** Those whose claim is gone: another child has the answer, or has died. Who
 * waits looks into the cache, and asks by itself if there is nothing. */
static void look_at_deferred(ue_pg_child_t *c)
{
    ue_keycache_t *cache = c->store->cache;
    uint64_t now = ue_pg_now_ms();
    ue_line_t all = {NULL, &all.first}, done = {NULL, &done.first};
    ue_flight_t *f;

    pthread_mutex_lock(&c->lock);
    while ((f = ue_line_pop(&c->deferred)) != NULL) {
        ue_line_append(&all, f);
    }
    while ((f = ue_line_pop(&all)) != NULL) {
        ue_line_append(ue_keycache_claim(cache, &f->hash, now, UE_PG_CLAIM)
                           ? &done
                           : &c->deferred,
                       f);
    }
    pthread_mutex_unlock(&c->lock);
    while ((f = ue_line_pop(&done)) != NULL) {
        ue_pg_land(c, f, UE_ANSWER_LOOK);
    }
}

/** Take what is queued, and fill the batch up with keys in doubt.
 * @param doubted their hashes */
static void fill_batch(ue_pg_child_t *c, const ue_keyhash_t *doubted,
                       uint32_t count_of)
{
    ue_flight_t *f;
    uint32_t i;

    pthread_mutex_lock(&c->lock);
    while (c->batch_count < UE_PG_BATCH
           && (f = ue_line_pop(&c->queued)) != NULL) {
        c->batch[c->batch_count++] = f;
    }
    for (i = 0; i < count_of && c->batch_count < UE_PG_BATCH; i++) {
        if (!ue_flight_find(c, &doubted[i])
            && (f = ue_flight_begin(c, &doubted[i])) != NULL) {
            c->batch[c->batch_count++] = f;
        }
    }
    /* Under the same lock as they began: nobody sees them in another state. */
    for (i = 0; i < c->batch_count; i++) {
        c->batch[i]->state = UE_FLIGHT_SENT;
    }
    /* A walk may have found nothing; only after a refusal is nothing asked. */
    c->is_asking = c->batch_count > 0 || c->is_refused;
    c->budget -= c->is_asking;
    pthread_mutex_unlock(&c->lock);
}

/** Collect keys in doubt. Those that find no place in the batch are found in
 * doubt when they are used. */
static uint32_t walk(ue_pg_child_t *c, ue_keyhash_t *hashes, uint32_t most)
{
    uint32_t n;

    if (!c->walking) {
        return 0;
    }
    n = ue_keycache_older(c->store->cache, &c->cursor, 0, hashes, most);
    c->walking = n == most;
    return n;
}

static char *write_hash(char *to, const ue_keyhash_t *hash, ue_hashkind_t kind)
{
    if (to[-1] != '{') {
        *to++ = ',';
    }
    ue_apikey_hash_format(hash, kind, to);
    return to + strlen(to);
}

static void write_array(ue_pg_child_t *c)
{
    int has_secret = c->store->secret != NULL;
    char *to = c->array;
    uint32_t i;

    *to++ = '{';
    for (i = 0; i < c->batch_count; i++) {
        const ue_flight_t *f = c->batch[i];

        if (has_secret) {
            to = write_hash(to, &f->hash, UE_HASH_HMAC_SHA256);
        }
        if (!has_secret || !f->has_plain) {
            to = write_hash(to, &f->hash, UE_HASH_SHA256);
        }
        else {
            to = write_hash(to, &f->plain, UE_HASH_SHA256);
        }
    }
    *to++ = '}';
    *to = '\0';
}

/** After a refusal an empty question finds out whether it is over. */
static int has_work(ue_pg_child_t *c)
{
    int has;

    pthread_mutex_lock(&c->lock);
    has = c->queued.first || c->walking || c->is_refused;
    pthread_mutex_unlock(&c->lock);
    return has;
}

/** A question in the millisecond of a doubt would be in doubt itself. */
static int may_ask(const ue_pg_child_t *c, apr_time_t now)
{
    return ue_pg_is_ready(c->pg) && c->budget > 0 && ms(now) > c->doubted_at;
}

static void ask(ue_pg_child_t *c, apr_time_t now)
{
    const char *values[1] = {c->array};
    ue_keyhash_t doubted[UE_PG_WALK];

    fill_batch(c, doubted, walk(c, doubted, UE_PG_WALK));
    if (!c->is_asking) {
        return;
    }
    write_array(c);
    c->sent_at = ms(now);
    count(c, UE_M_KEYSTORE_QUERIES);
    ue_pg_ask(c->pg, ue_pg_query, 1, values, now);
}

/* ---- the thread ---- */

static void sleep_until(apr_interval_time_t *most, apr_interval_time_t other)
{
    *most = other < *most ? other : *most;
}

/** How long until there is something to do, if nothing comes. */
static apr_interval_time_t idle_for(ue_pg_child_t *c, apr_time_t now,
                                    struct pollfd *fd)
{
    apr_interval_time_t most = ue_pg_watch(c->pg, now, fd);

    if (ue_pg_is_ready(c->pg) && has_work(c)) {
        sleep_until(&most, c->budget > 0 ? apr_time_from_msec(1)
                                         : c->earned_at + EARN_EVERY - now);
    }
    pthread_mutex_lock(&c->lock);
    if (c->deferred.first) {
        sleep_until(&most, DEFERRED_EVERY);
    }
    if (c->down_at && c->queued.first) {
        sleep_until(&most, c->down_at + UE_PG_PATIENCE - now);
    }
    pthread_mutex_unlock(&c->lock);
    return most > 0 ? most : 0;
}

static void wait_for_more(ue_pg_child_t *c)
{
    struct pollfd fds[2] = {{.fd = c->wake_fd, .events = POLLIN}};
    apr_interval_time_t most = idle_for(c, ue_monotonic(), &fds[1]);
    struct timespec at = {apr_time_sec(most), apr_time_usec(most) * 1000};
    uint64_t times;

    if (ppoll(fds, 2, &at, NULL) > 0 && (fds[0].revents & POLLIN)
        && read(c->wake_fd, &times, sizeof(times)) < 0) {
        return; /* it was woken twice, and has read both */
    }
}

static void go_round(ue_pg_child_t *c)
{
    apr_time_t now;

    ue_pg_run(c->pg, ue_monotonic());
    pthread_mutex_lock(&c->lock);
    c->asked_at = ue_pg_asked(c->pg);
    pthread_mutex_unlock(&c->lock);
    look_at_deferred(c);
    now = ue_monotonic();
    earn(c, now);
    if (c->down_at && now - c->down_at >= UE_PG_PATIENCE) {
        land_all(c);
    }
    if (may_ask(c, now) && has_work(c)) {
        ask(c, now);
    }
    wait_for_more(c);
}

void *ue_pg_work(void *data)
{
    ue_pg_child_t *c = data;
    apr_pool_t *pool = NULL;

    c->array = malloc(ARRAY_MAX);
    if (c->array
        && apr_pool_create_unmanaged_ex(&pool, NULL, NULL) == APR_SUCCESS
        && apr_pool_create(&c->scratch, pool) == APR_SUCCESS) {
        take_place(c);
        c->pg = ue_pg_create(c->store->url, CHANNEL, NAME, &listener, c, pool);
        while (!atomic_load(&c->stop)) {
            go_round(c);
        }
        say_up(c, 0);
        ue_pg_close(c->pg);
    }
    atomic_store(&c->running, 0);
    return NULL;
}
