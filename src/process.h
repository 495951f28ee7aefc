/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_PROCESS_H
#define UE_PROCESS_H

/**
 * The life of httpd's processes: what is made when, and by whom.
 *
 * The parent maps the counters once and keeps them, and the key stores, over
 * graceful restarts (ap_retained_data_*: the module itself is unloaded in
 * between, so what is kept holds no pointer into it, and another build of the
 * module begins anew). It opens event files anew
 * each time. Each child takes a seat among the counters, seeds its request ids,
 * and starts its producers and a thread that watches the key stores.
 *
 * A child's pool for these is never destroyed: request threads may still log
 * while the child's own pool is being cleaned up.
 */
#include "config.h"

typedef struct {
    ue_setup_t *setup;
    apr_array_header_t *stores; /**< ue_keystore_t *, those in use */
    ue_metrics_t *metrics;      /**< NULL where UsageEvents is On nowhere */
    ue_accounts_t *accounts;    /**< of children without a spool */
    ue_subjects_t *subjects;    /**< whose rate is counted */
    int caches;                 /**< mod_cache is there, and to be kept off */
    /* of this child; NULL and none in the parent */
    ue_seat_t *seat;
    ue_uuidgen_t request_ids;
    ue_producer_t **producers; /**< by index of the plan */
    int producer_count;
} ue_process_t;

/** This process's. Written before threads start, read-only then. */
extern ue_process_t ue_process;

/** Hooks of the same names. */
int ue_process_check_config(apr_pool_t *pconf, apr_pool_t *plog,
                            apr_pool_t *ptemp, server_rec *s);
int ue_process_post_config(apr_pool_t *pconf, apr_pool_t *plog,
                           apr_pool_t *ptemp, server_rec *s);
void ue_process_child_init(apr_pool_t *pchild, server_rec *s);
void ue_process_child_stopping(apr_pool_t *pchild, int graceful);

#endif /* UE_PROCESS_H */
