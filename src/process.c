/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "process.h"

#include <errno.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "ap_mpm.h"
#include "http_core.h"
#include "http_log.h"
#include "http_main.h"
#include "mpm_common.h"

#include <apr_strings.h>

#include "keycache.h"
#include "log.h"
#include "proxy.h"
#include "spool.h"
#include "version.h"

APLOG_USE_MODULE(usage_events);

#define LIMIT_SUBJECTS 100000 /* 8 MB, where they are all there */
#define SEATS_MAX 2048
#define HEIRS_END 64 /* plans beyond are not for what others have left */
#define WATCH_EVERY apr_time_from_msec(250)
#define WATCH_ENDS_WITHIN 2000 /* milliseconds */

ue_process_t ue_process;

typedef struct {
    const char *url;
    ue_keystore_t *store;
} kept_store_t;

/** A spool that is ours as long as the parent lives. */
typedef struct {
    const char *dir;
    int fd;
} kept_spool_t;

/** What outlives a graceful restart. */
typedef struct {
    ue_metrics_t *metrics;
    ue_accounts_t *accounts;
    ue_subjects_t *subjects;
    apr_pool_t *pool;
    apr_array_header_t *stores; /* kept_store_t */
    apr_array_header_t *spools; /* kept_spool_t */
} retained_t;

static void log_line(void *baton, ue_log_level_t level, apr_status_t rv,
                     const char *line)
{
    ap_log_error(APLOG_MARK, (int)level, rv, (server_rec *)baton, "%s", line);
}

static void log_to(server_rec *s)
{
    int level = ap_get_server_module_loglevel(s, APLOG_MODULE_INDEX);

    ue_log_set(log_line, s,
               level > UE_LOG_DEBUG ? UE_LOG_DEBUG : (ue_log_level_t)level);
}

static void refuse(server_rec *s, const char *why)
{
    ap_log_error(APLOG_MARK, APLOG_CRIT | APLOG_STARTUP, 0, s, "UE0001: %s",
                 why);
}

/** A first look at a store, so that configtest finds what the start would. */
static const char *try_stores(const ue_setup_t *setup, apr_pool_t *ptemp)
{
    int i;

    for (i = 0; i < setup->stores->nelts; i++) {
        const ue_store_plan_t *plan =
            &APR_ARRAY_IDX(setup->stores, i, ue_store_plan_t);
        ue_keystore_t *store;
        const char *why;

        if (ue_keystore_open(&store, plan->url, &plan->options, &why, ptemp)
            != APR_SUCCESS) {
            return apr_psprintf(ptemp, "UsageKeyStore %s: %s",
                                ue_keystore_name(plan->url, ptemp), why);
        }
    }
    return NULL;
}

int ue_process_check_config(apr_pool_t *pconf, apr_pool_t *plog,
                            apr_pool_t *ptemp, server_rec *s)
{
    ue_setup_t *setup = NULL;
    const char *why;

    memset(&ue_process, 0, sizeof(ue_process));
    why = ue_config_resolve(&setup, pconf, ptemp, s);
    if (!why && setup->enabled) {
        why = ue_proxy_check();
    }
    if (!why && ap_state_query(AP_SQ_RUN_MODE) == AP_SQ_RM_CONFIG_TEST) {
        why = try_stores(setup, ptemp);
    }
    if (why) {
        refuse(s, why);
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    ue_process.setup = setup;
    return OK;
}

/** A pool that is never destroyed, with an allocator of its own. */
static apr_pool_t *lasting_pool(void)
{
    apr_allocator_t *allocator;
    apr_pool_t *pool = NULL;

    if (apr_allocator_create(&allocator) == APR_SUCCESS
        && apr_pool_create_unmanaged_ex(&pool, NULL, allocator)
               == APR_SUCCESS) {
        apr_allocator_owner_set(allocator, pool);
    }
    return pool;
}

/** The name under which our memory is kept: another build of the module, taken
 * up by a graceful restart, must not read it as its own. */
static const char *retained_key(apr_pool_t *p)
{
    return apr_psprintf(
        p,
        "mod_usage_events " UE_VERSION " %" APR_SIZE_T_FMT " %" APR_SIZE_T_FMT
        " %" APR_SIZE_T_FMT,
        ue_metrics_layout(),
        ue_keystore_file.layout + ue_keystore_pg.layout + ue_keycache_layout(),
        sizeof(retained_t) + sizeof(ue_account_t) + ue_subjects_layout());
}

static retained_t *retained(apr_pool_t *ptemp)
{
    const char *key = retained_key(ptemp);
    retained_t *kept = ap_retained_data_get(key);

    if (!kept) {
        kept = ap_retained_data_create(key, sizeof(*kept));
        /* Never destroyed: a cleanup would be called at an address where the
         * module is no longer loaded. */
        kept->pool = lasting_pool();
        kept->stores = apr_array_make(kept->pool, 2, sizeof(kept_store_t));
        kept->spools = apr_array_make(kept->pool, 2, sizeof(kept_spool_t));
    }
    return kept;
}

static apr_status_t make_shared(retained_t *kept)
{
    int daemons = 0;
    apr_status_t rv;

    if (kept->metrics) {
        return APR_SUCCESS;
    }
    ap_mpm_query(AP_MPMQ_HARD_LIMIT_DAEMONS, &daemons);
    daemons = 2 * daemons + 8; /* two generations side by side */
    daemons = daemons < SEATS_MAX ? daemons : SEATS_MAX;
    rv = ue_accounts_create(&kept->accounts, (uint32_t)daemons, kept->pool);
    if (rv == APR_SUCCESS) {
        rv = ue_subjects_create(&kept->subjects, LIMIT_SUBJECTS, kept->pool);
    }
    return rv == APR_SUCCESS ? ue_metrics_create(&kept->metrics,
                                                 (uint32_t)daemons, kept->pool)
                             : rv;
}

/** Open a store, or read one again that was open before the restart. */
static ue_keystore_t *keep_store(retained_t *kept, const ue_store_plan_t *plan,
                                 server_rec *s, apr_pool_t *ptemp)
{
    const char *name = ue_keystore_name(plan->url, ptemp);
    const char *why = NULL;
    kept_store_t new = {NULL, NULL};
    int i;

    for (i = 0; i < kept->stores->nelts; i++) {
        kept_store_t *old = &APR_ARRAY_IDX(kept->stores, i, kept_store_t);

        if (strcmp(old->url, plan->url)) {
            continue;
        }
        if (ue_keystore_reopen(old->store, plan->url, &plan->options, &why,
                               ptemp)
            != APR_SUCCESS) {
            ap_log_error(APLOG_MARK, APLOG_ERR, 0, s,
                         "UE0002: UsageKeyStore %s: %s; the keys from before "
                         "the restart stay",
                         name, why);
        }
        return old->store;
    }
    if (ue_keystore_open(&new.store, plan->url, &plan->options, &why,
                         kept->pool)
        != APR_SUCCESS) {
        refuse(s, apr_psprintf(ptemp, "UsageKeyStore %s: %s", name, why));
        return NULL;
    }
    new.url = apr_pstrdup(kept->pool, plan->url);
    APR_ARRAY_PUSH(kept->stores, kept_store_t) = new;
    return new.store;
}

/** Open what is configured. Others that were kept may be from a module that is
 * no longer loaded, and nobody calls them. */
static int bind_stores(retained_t *kept, server_rec *main_server,
                       apr_pool_t *pconf, apr_pool_t *ptemp)
{
    apr_array_header_t *plans = ue_process.setup->stores;
    server_rec *s;
    int i;

    ue_process.stores = apr_array_make(pconf, 2, sizeof(ue_keystore_t *));
    for (i = 0; i < plans->nelts; i++) {
        ue_keystore_t *store =
            keep_store(kept, &APR_ARRAY_IDX(plans, i, ue_store_plan_t),
                       main_server, ptemp);

        if (!store) {
            return HTTP_INTERNAL_SERVER_ERROR;
        }
        APR_ARRAY_PUSH(ue_process.stores, ue_keystore_t *) = store;
    }
    for (s = main_server; s; s = s->next) {
        ue_conf_t *conf =
            ap_get_module_config(s->module_config, &usage_events_module);

        if (conf->server->store >= 0) {
            conf->server->rule.store = APR_ARRAY_IDX(
                ue_process.stores, conf->server->store, ue_keystore_t *);
        }
    }
    return OK;
}

static int open_file_sink(ue_producer_plan_t *plan, server_rec *s,
                          apr_pool_t *pconf)
{
    apr_status_t rv =
        ue_sink_file_open(&plan->sinks[plan->sink_count], plan->event_file,
                          plan->config.flush_interval, pconf);

    if (rv != APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_CRIT | APLOG_STARTUP, rv, s,
                     "UE0003: UsageEventFile %s cannot be opened for "
                     "appending: it must be a regular file, in a "
                     "directory that is there",
                     plan->event_file);
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    plan->sink_count++;
    return OK;
}

static int open_kafka_sink(ue_producer_plan_t *plan, server_rec *s,
                           apr_pool_t *pconf)
{
    if (ue_sink_kafka_open(&plan->sinks[plan->sink_count], plan->kafka,
                           plan->topic, pconf)
        != APR_SUCCESS) {
        refuse(s, apr_psprintf(pconf,
                               "UsageKafkaTopic %s: too many topics, or "
                               "settings for one, go to the same brokers",
                               plan->topic));
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    plan->sink_count++;
    return OK;
}

static int open_sinks(ue_setup_t *setup, server_rec *s, apr_pool_t *pconf)
{
    int result = OK;
    int i;

    for (i = 0; i < setup->plans->nelts && result == OK; i++) {
        ue_producer_plan_t *plan =
            &APR_ARRAY_IDX(setup->plans, i, ue_producer_plan_t);

        if (plan->config.is_heir && i >= HEIRS_END) {
            setup->plans->nelts = i; /* heirs come last; the rest must wait */
            break;
        }
        if (plan->event_file) {
            result = open_file_sink(plan, s, pconf);
        }
        if (plan->kafka && result == OK) {
            result = open_kafka_sink(plan, s, pconf);
        }
    }
    return result;
}

/** Have a spool for us alone. It stays ours over restarts: closing its lock's
 * file would drop the lock. */
static int claim_spool(retained_t *kept, const char *dir, server_rec *s)
{
    kept_spool_t new = {NULL, -1};
    apr_status_t rv;
    pid_t who = 0;
    int i;

    for (i = 0; i < kept->spools->nelts; i++) {
        if (!strcmp(APR_ARRAY_IDX(kept->spools, i, kept_spool_t).dir, dir)) {
            return OK;
        }
    }
    rv = ue_spool_claim(dir, &new.fd, &who);
    if (rv == APR_EBUSY) {
        ap_log_error(APLOG_MARK, APLOG_CRIT | APLOG_STARTUP, 0, s,
                     "UE0006: UsageSpool %s belongs to another httpd, whose "
                     "process is %d; give each a directory of its own",
                     dir, (int)who);
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    if (rv != APR_SUCCESS) {
        /* Full or read-only: children see to it, by UsageOverflow. */
        ap_log_error(APLOG_MARK, APLOG_ERR, rv, s,
                     "UE0007: UsageSpool %s can't be locked", dir);
        return OK;
    }
    new.dir = apr_pstrdup(kept->pool, dir);
    APR_ARRAY_PUSH(kept->spools, kept_spool_t) = new;
    return OK;
}

static int is_planned(const ue_setup_t *setup, const ue_producer_config_t *like,
                      const ue_target_t *target)
{
    int i;

    for (i = 0; i < setup->plans->nelts; i++) {
        const ue_producer_plan_t *plan =
            &APR_ARRAY_IDX(setup->plans, i, ue_producer_plan_t);

        if (plan->config.spool && !strcmp(plan->config.spool, like->spool)
            && memcmp(&plan->target, target, sizeof(*target)) == 0) {
            return 1;
        }
    }
    return 0;
}

/** Plan for streams in a spool that an earlier configuration has left. */
static void find_heirs(ue_setup_t *setup, const ue_producer_config_t *like,
                       server_rec *s, apr_pool_t *pconf, apr_pool_t *ptemp)
{
    apr_array_header_t *entries;
    int i;

    if (ue_spool_list_dir(like->spool, &entries, ptemp) != APR_SUCCESS) {
        return;
    }
    for (i = 0; i < entries->nelts; i++) {
        const ue_spool_entry_t *entry =
            &APR_ARRAY_IDX(entries, i, ue_spool_entry_t);
        ue_identity_t identity;
        ue_stream_state_t state;
        const char *why;

        if (entry->is_segment
            || ue_spool_read_identity(like->spool, entry->name, &identity,
                                      &state)
                   != APR_SUCCESS
            || is_planned(setup, like, &identity.target)) {
            continue;
        }
        why = ue_config_add_heir(setup, like, &identity.target, pconf);
        if (why && state == UE_STREAM_OPEN) {
            ap_log_error(APLOG_MARK, APLOG_ERR, 0, s,
                         "UE0008: UsageSpool %s: events of stream %.32s wait "
                         "and can't be sent: %s",
                         like->spool, entry->name, why);
        }
    }
}

static int bind_spools(retained_t *kept, ue_setup_t *setup, server_rec *s,
                       apr_pool_t *pconf, apr_pool_t *ptemp)
{
    int count = setup->plans->nelts;
    int result = OK;
    int i;

    for (i = 0; i < count && result == OK; i++) {
        /* A copy: the array may move while heirs are added. */
        ue_producer_config_t config =
            APR_ARRAY_IDX(setup->plans, i, ue_producer_plan_t).config;

        if (config.spool) {
            result = claim_spool(kept, config.spool, s);
            find_heirs(setup, &config, s, pconf, ptemp);
        }
    }
    return result;
}

int ue_process_post_config(apr_pool_t *pconf, apr_pool_t *plog,
                           apr_pool_t *ptemp, server_rec *s)
{
    retained_t *kept;
    apr_status_t rv;
    int result;

    /* The first of two runs at the start only tells whether all is well. */
    if (ap_state_query(AP_SQ_MAIN_STATE) == AP_SQ_MS_CREATE_PRE_CONFIG
        || !ue_process.setup->enabled) {
        return OK;
    }
    log_to(s);
    kept = retained(ptemp);
    rv = make_shared(kept);
    if (rv != APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, rv, s,
                     "UE0004: no shared memory for the counters");
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    ue_process.metrics = kept->metrics;
    ue_process.accounts = kept->accounts;
    ue_process.subjects = kept->subjects;
    ue_process.caches = ap_find_linked_module("mod_cache.c") != NULL;
    result = bind_stores(kept, s, pconf, ptemp);
    if (result == OK) {
        result = bind_spools(kept, ue_process.setup, s, pconf, ptemp);
    }
    return result == OK ? open_sinks(ue_process.setup, s, pconf) : result;
}

/** The thread that watches the key stores. */
static struct {
    sem_t end;
    _Atomic int running;
} watch;

static void look_at(ue_keystore_t *store)
{
    apr_status_t rv =
        store->vtable->refresh ? store->vtable->refresh(store) : APR_EAGAIN;

    if (!APR_STATUS_IS_EAGAIN(rv)) {
        ue_metrics_add(ue_process.seat,
                       rv == APR_SUCCESS ? UE_M_KEYSTORE_RELOADS
                                         : UE_M_KEYSTORE_REFUSALS,
                       1);
    }
}

static void *watch_stores(void *data)
{
    const apr_array_header_t *stores = data;

    do {
        int i;

        for (i = 0; i < stores->nelts; i++) {
            look_at(APR_ARRAY_IDX(stores, i, ue_keystore_t *));
        }
    } while (!ue_sem_wait(&watch.end, WATCH_EVERY));
    atomic_store(&watch.running, 0);
    return NULL;
}

static apr_status_t start_watch(void)
{
    apr_status_t rv;

    if (sem_init(&watch.end, 0, 0) != 0) {
        return errno;
    }
    atomic_store(&watch.running, 1);
    rv = ue_thread_start("usage-keys", watch_stores, ue_process.stores);
    if (rv != APR_SUCCESS) {
        atomic_store(&watch.running, 0);
    }
    return rv;
}

/** Have the stores' threads end. @return how many haven't yet */
static int stop_stores(void)
{
    int i, running = 0;

    for (i = 0; i < ue_process.stores->nelts; i++) {
        ue_keystore_t *store =
            APR_ARRAY_IDX(ue_process.stores, i, ue_keystore_t *);

        running += store->vtable->stop && store->vtable->stop(store);
    }
    return running;
}

static apr_status_t start_stores(void)
{
    apr_status_t rv = APR_SUCCESS;
    int threads = 0;
    int i;

    ap_mpm_query(AP_MPMQ_MAX_THREADS, &threads);
    for (i = 0; i < ue_process.stores->nelts && rv == APR_SUCCESS; i++) {
        ue_keystore_t *store =
            APR_ARRAY_IDX(ue_process.stores, i, ue_keystore_t *);

        if (store->vtable->start) {
            rv = store->vtable->start(store, ue_process.seat,
                                      threads > 0 ? threads : 1);
        }
    }
    return rv;
}

/** The end of a child: all producers close, within the deadline they share. */
static apr_status_t child_exit(void *unused)
{
    int i;

    sem_post(&watch.end);
    stop_stores();
    for (i = 0; i < ue_process.producer_count; i++) {
        ue_producer_stopping(ue_process.producers[i], 1);
    }
    for (i = 0; i < ue_process.producer_count; i++) {
        ue_producer_closing(ue_process.producers[i]);
    }
    for (i = 0; i < ue_process.producer_count; i++) {
        ue_producer_close(ue_process.producers[i]);
    }
    ue_metrics_leave(ue_process.seat);
    /* It may be reading a large file just now, or a name may be looked up. */
    for (i = 0; i < WATCH_ENDS_WITHIN
                && atomic_load(&watch.running) + stop_stores() > 0;
         i++) {
        apr_sleep(apr_time_from_msec(1));
    }
    return APR_SUCCESS;
}

/** Does all that waits in a child outlive it? */
static int all_spooled(const ue_setup_t *setup)
{
    int i;

    for (i = 0; i < setup->plans->nelts; i++) {
        if (!APR_ARRAY_IDX(setup->plans, i, ue_producer_plan_t).config.spool) {
            return 0;
        }
    }
    return 1;
}

static apr_status_t start_child(apr_pool_t *pool)
{
    const ue_setup_t *setup = ue_process.setup;
    apr_status_t rv = ue_uuidgen_seed(&ue_process.request_ids);
    int i;

    ue_process.seat = ue_metrics_sit(ue_process.metrics);
    if (all_spooled(setup)) {
        ue_metrics_spooled(ue_process.seat);
    }
    ue_process.producers = apr_pcalloc(
        pool, (size_t)setup->plans->nelts * sizeof(*ue_process.producers));
    for (i = 0; i < setup->plans->nelts && rv == APR_SUCCESS; i++) {
        ue_producer_plan_t *plan =
            &APR_ARRAY_IDX(setup->plans, i, ue_producer_plan_t);

        plan->config.target = &plan->target;
        plan->config.accounts = ue_process.accounts;
        rv = ue_producer_create(&ue_process.producers[i], &plan->config,
                                plan->sinks, plan->sink_count,
                                ue_process.metrics, ue_process.seat, pool);
        ue_process.producer_count += rv == APR_SUCCESS;
    }
    return rv;
}

static int has_threads_of_stores(void)
{
    int i;

    for (i = 0; i < ue_process.stores->nelts; i++) {
        if (APR_ARRAY_IDX(ue_process.stores, i, ue_keystore_t *)
                ->vtable->start) {
            return 1;
        }
    }
    return 0;
}

/**
 * The last that a child does. What would come next is OpenSSL's cleanup, which
 * takes away the locks that threads use who go on until the process is gone
 * (librdkafka's, libpq's in ours): in the middle of a handshake, they crashed.
 */
static void leave(int status, void *data)
{
    _exit(status);
}

void ue_process_child_init(apr_pool_t *pchild, server_rec *s)
{
    apr_pool_t *pool;
    apr_status_t rv;

    if (!ue_process.setup || !ue_process.setup->enabled) {
        return;
    }
    log_to(s);
    if (ue_process.setup->clusters->nelts > 0 || has_threads_of_stores()) {
        /* Registered after OpenSSL's, so called before it. */
        on_exit(leave, NULL);
    }
    pool = lasting_pool();
    rv = pool ? start_child(pool) : APR_ENOMEM;
    if (rv == APR_SUCCESS) {
        /* A plain cleanup: mod_http2 joins its threads in a pre-cleanup. */
        apr_pool_cleanup_register(pchild, NULL, child_exit,
                                  apr_pool_cleanup_null);
        rv = start_watch();
    }
    if (rv == APR_SUCCESS) {
        rv = start_stores();
    }
    if (rv != APR_SUCCESS) {
        /* A child that can't meter must not serve. */
        ap_log_error(APLOG_MARK, APLOG_CRIT, rv, s,
                     "UE0005: a child cannot start recording, and ends");
        exit(APEXIT_CHILDSICK);
    }
}

void ue_process_child_stopping(apr_pool_t *pchild, int graceful)
{
    int i;

    /* A graceful stop may take as long as its longest request; nobody kills
     * the child, so its deadline begins with the cleanup. */
    for (i = 0; i < ue_process.producer_count; i++) {
        ue_producer_stopping(ue_process.producers[i], !graceful);
    }
}
