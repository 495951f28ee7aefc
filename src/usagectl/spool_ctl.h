/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_SPOOL_CTL_H
#define UE_SPOOL_CTL_H

/**
 * What the commands of usagectl for spools share. They know nothing of Kafka:
 * this is the ledger for those who can't, or needn't, read it there.
 */
#include "spool_read.h"
#include "usagectl.h"

/** Look into the directory. @return an exit status */
int ue_ctl_spool_open(const ue_ctl_t *ctl, const char *dir,
                      ue_reader_t *reader);

/** What is wrong with reading a file, for messages. */
const char *ue_ctl_spool_error(apr_status_t rv, apr_pool_t *p);

/** Is a file only no longer there? A living httpd removes and renames some. */
int ue_ctl_spool_is_gone(apr_status_t rv);

#endif /* UE_SPOOL_CTL_H */
