/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_KEYSTORE_H
#define UE_KEYSTORE_H

/**
 * Where keys are looked up.
 *
 * A store is opened by the parent, before the fork: a key file that is broken
 * stops the start there, and children begin with the keys that the parent
 * read. A database that can't be reached stops nothing, since it may be back at
 * any moment. Each child then starts its own share of the work: a key file is
 * watched, a database has a thread and a connection a child.
 *
 * What is looked up is a presented key, not its hash: a store keeps a cache by
 * a cheaper hash in front of SHA-256. Records are copied out, because the store
 * may replace its own at any moment; what restricts a key (access.h) is judged
 * where it lies, and only the result is copied.
 */
#include <stddef.h>
#include <stdint.h>

#include <apr_errno.h>
#include <apr_pools.h>
#include <apr_time.h>

#include "access.h"
#include "apikey.h"
#include "metrics.h"
#include "rate.h"
#include "uuid.h"

/** Who a key stands for: what a decision needs, and no more. */
typedef struct {
    ue_uuid_t organization_id;
    ue_uuid_t api_key_id;
    char organization_text[UE_UUID_LEN + 1]; /**< as backends are told them */
    char api_key_text[UE_UUID_LEN + 1];
    apr_time_t expires; /**< microseconds; 0: never */
    uint8_t revoked;
    uint8_t billable; /**< key, organization and plan all are */
    uint8_t access;   /**< ue_access_t: may it be used for what was asked? */
    /** The key's own rate and quota, else those of a plan that the key itself
     * has. They count this key's requests. */
    ue_allowance_t of_key;
    /** The organization's own, else those of its plan, unless the key has a
     * plan itself, which then stands in its place. They count the requests of
     * all keys of the organization. */
    ue_allowance_t of_org;
} ue_keyrecord_t;

/** How a look-up went. */
typedef enum {
    UE_KEYSTORE_HIT,      /**< known from before */
    UE_KEYSTORE_MISS,     /**< looked up, and found */
    UE_KEYSTORE_UNKNOWN,  /**< looked up, and not found */
    UE_KEYSTORE_NEGATIVE, /**< known from before not to be there */
    UE_KEYSTORE_STALE,    /**< known from before, for longer than it should be,
                               since the store can't be asked */
    UE_KEYSTORE_FAILED,   /**< not known, and the store can't be asked */
    UE_KEYSTORE_RESULTS,
    UE_KEYSTORE_NONE = UE_KEYSTORE_RESULTS /**< nothing was looked up */
} ue_keystore_result_t;

/** What a store is opened with: UsageKeyCache and UsageKeySecret. */
typedef struct {
    apr_interval_time_t ttl;      /**< how long a found key is not looked up */
    apr_interval_time_t negative; /**< the same of one that wasn't there */
    apr_interval_time_t stale;    /**< how long beyond ttl, if it must be */
    uint32_t size;                /**< keys in the cache */
    /** NULL: hashes are plain SHA-256. It belongs to the configuration, and is
     * gone with it: a reload brings the next. */
    const ue_keysecret_t *secret;
} ue_keystore_options_t;

typedef struct ue_keystore_t ue_keystore_t;

typedef struct {
    size_t layout; /**< tells one layout of its memory from another */

    /**
     * Open a store. @locality parent, before the fork
     * @param url  the whole, as ue_keystore_open() got it
     * @param why  receives, on error, a sentence for the administrator, which
     *             repeats nothing of a URL that may hold a password
     * @param p    the store lives as long as this pool
     */
    apr_status_t (*open)(ue_keystore_t **store, const char *url,
                         const ue_keystore_options_t *options, const char **why,
                         apr_pool_t *p);

    /**
     * Take it up again, as at a graceful restart, with options that may have
     * changed. If it can't be read, the keys that it had are kept.
     */
    apr_status_t (*reload)(ue_keystore_t *store,
                           const ue_keystore_options_t *options,
                           const char **why, apr_pool_t *ptemp);

    /**
     * Begin a child's share of the work. NULL: there is none.
     * @locality child, at its start
     * @param seat    for the child's numbers
     * @param threads how many request threads the child has
     */
    apr_status_t (*start)(ue_keystore_t *store, ue_seat_t *seat, int threads);

    /** End it, without waiting. NULL: there is nothing to end.
     * @return   whether it is still ending
     * @locality child, at its end; also in a signal handler (prefork) */
    int (*stop)(ue_keystore_t *store);

    /**
     * Look a presented key up where it was found before: cheap enough to come
     * before any other check. @locality any thread
     * @param asked what record->access is judged by
     * @return      UE_KEYSTORE_HIT, or UE_KEYSTORE_NONE: ask lookup
     */
    ue_keystore_result_t (*recall)(ue_keystore_t *store, const char *key,
                                   size_t len, const ue_asked_t *asked,
                                   ue_keyrecord_t *record);

    /**
     * Look a presented key up, waiting for the store if it must, but never
     * longer than a second. @locality any thread
     * @param record filled with HIT, MISS and STALE
     */
    ue_keystore_result_t (*lookup)(ue_keystore_t *store, const char *key,
                                   size_t len, const ue_asked_t *asked,
                                   ue_keyrecord_t *record);

    /**
     * Take up a change if there is one. Called about four times a second. NULL
     * for a store that hears of changes by itself.
     * @locality one thread of each child
     * @return APR_SUCCESS where something changed and was taken up, APR_EAGAIN
     *         where nothing changed, else why the change was refused (logged,
     *         once for each state of the store)
     */
    apr_status_t (*refresh)(ue_keystore_t *store);
} ue_keystore_vtable_t;

/** The part that all stores begin with. */
struct ue_keystore_t {
    const ue_keystore_vtable_t *vtable;
};

extern const ue_keystore_vtable_t ue_keystore_file;
extern const ue_keystore_vtable_t ue_keystore_pg;

/**
 * Check what names a store, without a look at it.
 * @return NULL, or a sentence that says what is right and repeats nothing
 */
const char *ue_keystore_check(const char *url);

/**
 * Open the store that a directive names.
 * @param url "file:PATH" or "postgresql://…"
 * @param why receives, on error, a sentence that says what is right
 */
apr_status_t ue_keystore_open(ue_keystore_t **store, const char *url,
                              const ue_keystore_options_t *options,
                              const char **why, apr_pool_t *p);

/**
 * Take up a store that was open before a graceful restart, when the module may
 * have been loaded to another address, and read it again. If it can't be read,
 * the keys that it had are kept.
 * @param url the one it was opened by
 */
apr_status_t ue_keystore_reopen(ue_keystore_t *store, const char *url,
                                const ue_keystore_options_t *options,
                                const char **why, apr_pool_t *ptemp);

/**
 * What may be shown of a URL: "file:PATH" whole, of a database its host, port
 * and name; "postgresql:" where it isn't sure which part is what.
 */
const char *ue_keystore_name(const char *url, apr_pool_t *p);

#endif /* UE_KEYSTORE_H */
