/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_PROXY_H
#define UE_PROXY_H

/**
 * What a backend learns of a request: who calls, never the credential.
 *
 * A backend gets X-Request-Id, X-Organization-Id and X-Api-Key-Id, ours. The
 * same names from a client go first, in every spelling that a backend might
 * take for them (X_Organization_Id is the same to CGI).
 *
 * When this is done matters. Before mod_proxy has removed what Connection
 * names, a client strips our headers by naming them there; and a credential
 * removed early lets mod_cache hand one customer's answer to another. So for
 * http and ws it is done in mod_proxy's fixups hook, on the copy of the headers
 * that mod_proxy is about to send. Other schemes (h2, fcgi, ajp, scgi, uwsgi)
 * have no such hook: before them, and before local handlers such as CGI, the
 * request's headers are replaced by an edited copy, and put back before
 * anything is logged.
 */
#include "hooks.h"

/** Register our hooks into mod_proxy. */
void ue_proxy_register(apr_pool_t *p);

/** @return NULL, or why mod_proxy can't be hooked into */
const char *ue_proxy_check(void);

/** Core's last fixups hook, for local handlers. */
int ue_proxy_fixups_local(request_rec *r);

/** Put the headers back as they came. */
void ue_proxy_restore(request_rec *r, ue_request_t *req);

#endif /* UE_PROXY_H */
