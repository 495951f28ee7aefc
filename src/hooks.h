/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_HOOKS_H
#define UE_HOOKS_H

/**
 * A request's way through httpd, and where we meet it.
 *
 *   post_read_request    decide by key and limits, take a slot: the request is
 *                        on record
 *   quick_handler        answer who was turned away (before mod_cache's)
 *   insert_filter,       see to it that X-Request-Id and what limits say of the
 *   insert_error_filter  request go out once, ours
 *   log_transaction      complete the slot
 *
 * What we know of a request is made at its first post_read_request and found
 * from its internal redirects and subrequests by walking back to it.
 */
#include "config.h"

typedef struct {
    const ue_server_t *server;
    ue_decision_t decision;
    ue_uuid_t request_id;
    const char *request_id_text;
    const ue_limitverdict_t *limit; /**< for the answer; NULL: none */
    ue_slot_ref_t ref;              /**< 0: there is no event to complete */
    int may_switch;            /**< to another protocol: it may come once more,
                                  and counts then, or when it is logged */
    apr_table_t *headers_in;   /**< as they came, while they are replaced */
    apr_table_t *headers_edit; /**< what replaces them, see proxy.h */
} ue_request_t;

/** @return NULL where we have nothing to do with a request */
ue_request_t *ue_request_of(const request_rec *r);

int ue_hook_post_read_request(request_rec *r);
int ue_hook_quick_handler(request_rec *r, int lookup);
void ue_hook_insert_filter(request_rec *r);
void ue_hook_insert_error_filter(request_rec *r);
int ue_hook_log_transaction(request_rec *r);

/** Register the output filter that ue_hook_insert_filter() adds. */
void ue_hook_register_filter(void);

#endif /* UE_HOOKS_H */
