/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_STATUS_H
#define UE_STATUS_H

/**
 * SetHandler usage-status: the counters of all children, as JSON, in
 * Prometheus' text format (version 0.0.4) or as a page, all made from the one
 * table in metrics.c. ?format=json|prometheus|html chooses, else the Accept
 * header; JSON where neither says. No key, password or connection string is in
 * it.
 */
#include "httpd.h"

int ue_status_handler(request_rec *r);

#endif /* UE_STATUS_H */
