/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_KEYFILE_H
#define UE_KEYFILE_H

/**
 * The key file as a document: read, checked, changed and written whole.
 *
 * httpd only reads it; usagectl changes it. Both go through ue_keyfile_read(),
 * so that what one accepts the other does. The document is json-c's own tree:
 * members that we don't know are kept when it is written back. A writer holds
 * the lock from reading to writing, so that two of them lose nothing, and
 * replaces the file by renaming, so that a reader never sees half of one.
 */
#include <apr_errno.h>
#include <apr_pools.h>
#include <apr_time.h>

#include "access.h"

struct json_object;

/** The largest file that is read or written, in bytes. */
#define UE_KEYFILE_MAX (64 << 20)

/**
 * A changed document on its way into its place. It comes in two steps for
 * usagectl's sake: a new key is shown after all that can go wrong with the file
 * has gone right, and before the key works, so that no key ever works that
 * nobody has.
 */
typedef struct ue_keyfile_draft_t ue_keyfile_draft_t;

/**
 * Read and check a key file. What is checked is all that we know: nobody who
 * uses the document has to expect a rate that is none, or a plan that isn't
 * there. Both kinds of hashes are right here; whether hmac-sha256: can be used
 * is for who has the secret, or lacks it, to judge.
 * @param doc receives the document; json_object_put() it
 * @param why receives, on error, a sentence with the place of the fault
 * @param p   where the sentence lives
 * @return    the system's error, or APR_EINVAL for a malformed file
 */
apr_status_t ue_keyfile_read(const char *path, struct json_object **doc,
                             const char **why, apr_pool_t *p);

/**
 * Check a document that is to be written. ue_keyfile_read() has done so.
 * @param path for the sentence
 * @param p    where the sentence and what it takes to check live
 */
apr_status_t ue_keyfile_check(const char *path, struct json_object *doc,
                              const char **why, apr_pool_t *p);

/** A plan's name: a letter or digit, then these and . _ -, 64 at most. */
#define UE_PLAN_NAME_SYNTAX                                                   \
    "letters, digits, \".\", \"_\" and \"-\", 64 at most, a letter or digit " \
    "first"
int ue_keyfile_is_plan_name(const char *s);

/**
 * The lists of a plan, organization or key of a checked document.
 * @param o     NULL: there is none, and so are its lists
 * @param lists receives them; the document keeps the strings, p the arrays
 * @return      whether there is any
 */
int ue_keyfile_lists(struct json_object *o, ue_access_lists_t *lists,
                     apr_pool_t *p);

/** An empty document, as written into a new file. */
struct json_object *ue_keyfile_new(void);

/**
 * Take the lock that writers share (PATH.lock beside the file), waiting at most
 * five seconds. It ends with the pool.
 * @return APR_TIMEUP if another writer keeps it
 */
apr_status_t ue_keyfile_lock(const char *path, const char **why, apr_pool_t *p);

/**
 * Write a document to a temporary file beside it (PATH.new), and sync it. An
 * old file's owner, group and mode are kept; a new one is 0640, with the group
 * that is named, else, made by root, www-data where there is such a group. The
 * caller holds the lock.
 * @param group NULL for the default
 * @param p     ends the draft, if it wasn't committed
 */
apr_status_t ue_keyfile_draft(ue_keyfile_draft_t **draft, const char *path,
                              struct json_object *doc, const char *group,
                              const char **why, apr_pool_t *p);

/** Rename it into its place, and sync the directory. */
apr_status_t ue_keyfile_commit(ue_keyfile_draft_t *draft, const char **why);

/** Both in one. */
apr_status_t ue_keyfile_write(const char *path, struct json_object *doc,
                              const char *group, const char **why,
                              apr_pool_t *p);

/**
 * Read an RFC 3339 time with a zone.
 * @return APR_EINVAL for anything else
 */
apr_status_t ue_time_parse(apr_time_t *when, const char *s);

#endif /* UE_KEYFILE_H */
