/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */

/**
 * mod_usage_events: the module record and its hooks. src/hooks.h tells what
 * becomes of a request, src/process.h of a process.
 */
#include "httpd.h"
#include "http_config.h"
#include "http_protocol.h"
#include "http_request.h"
#include "mpm_common.h"

#include "config.h"
#include "hooks.h"
#include "process.h"
#include "proxy.h"
#include "status.h"

static void register_hooks(apr_pool_t *p)
{
    /* Our slot is taken last, when nobody else can turn the request down; so
     * also after mod_remoteip has set the client's address. */
    static const char *const after[] = {"mod_remoteip.c", "mod_http2.c", NULL};

    ap_hook_check_config(ue_process_check_config, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_post_config(ue_process_post_config, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_child_init(ue_process_child_init, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_child_stopping(ue_process_child_stopping, NULL, NULL,
                           APR_HOOK_MIDDLE);

    ap_hook_post_read_request(ue_hook_post_read_request, after, NULL,
                              APR_HOOK_LAST);
    ap_hook_quick_handler(ue_hook_quick_handler, NULL, NULL,
                          APR_HOOK_REALLY_FIRST);
    ap_hook_fixups(ue_proxy_fixups_local, NULL, NULL, APR_HOOK_REALLY_LAST);
    ap_hook_insert_filter(ue_hook_insert_filter, NULL, NULL, APR_HOOK_LAST);
    ap_hook_insert_error_filter(ue_hook_insert_error_filter, NULL, NULL,
                                APR_HOOK_LAST);
    ap_hook_handler(ue_status_handler, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_log_transaction(ue_hook_log_transaction, NULL, NULL,
                            APR_HOOK_REALLY_FIRST);

    ue_hook_register_filter();
    ue_proxy_register(p);
}

AP_DECLARE_MODULE(usage_events) = {
    STANDARD20_MODULE_STUFF,
    NULL,             /* per-directory: keys are checked before there is any */
    NULL,             /* merge per-directory */
    ue_config_create, /* per-server */
    ue_config_merge,  /* merge per-server */
    ue_directives,    /* directives.c */
    register_hooks,
    AP_MODULE_FLAG_NONE,
};
