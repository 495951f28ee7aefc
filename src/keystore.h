/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_KEYSTORE_H
#define UE_KEYSTORE_H

/**
 * Where keys are looked up.
 *
 * A store is opened by the parent, before the fork, so that a broken one stops
 * the start and children begin with the keys that the parent read. Each child
 * then starts watching it by itself, since a store changes while it runs. A
 * look-up never waits for a disk or a network longer than the store says.
 *
 * What is looked up is a presented key, not its hash: a store may keep a cache
 * by a cheaper hash in front of SHA-256. Records are copied out, because the
 * store may replace its own at any moment.
 */
#include <stddef.h>
#include <stdint.h>

#include <apr_errno.h>
#include <apr_pools.h>
#include <apr_time.h>

#include "uuid.h"

/** Who a key stands for: what a decision needs, and no more. */
typedef struct {
    ue_uuid_t organization_id;
    ue_uuid_t api_key_id;
    char organization_text[UE_UUID_LEN + 1]; /**< as backends are told them */
    char api_key_text[UE_UUID_LEN + 1];
    apr_time_t expires; /**< microseconds; 0: never */
    uint8_t revoked;
    uint8_t billable; /**< both the key and its organization are */
} ue_keyrecord_t;

/** How a look-up went. */
typedef enum {
    UE_KEYSTORE_HIT,    /**< recalled */
    UE_KEYSTORE_MISS,   /**< not recalled, but found */
    UE_KEYSTORE_UNKNOWN /**< not found */
} ue_keystore_result_t;

typedef struct ue_keystore_t ue_keystore_t;

typedef struct {
    const char *scheme; /**< as in "file:PATH" */
    size_t layout;      /**< tells one layout of its memory from another */

    /**
     * Read a store. @locality parent, before the fork
     * @param where what follows the scheme and its colon
     * @param why   receives, on error, a sentence for the administrator
     * @param p     the store lives as long as this pool
     */
    apr_status_t (*open)(ue_keystore_t **store, const char *where,
                         const char **why, apr_pool_t *p);

    /**
     * Read it again, as at a graceful restart. If it can't be read, the keys
     * that it had are kept.
     */
    apr_status_t (*reload)(ue_keystore_t *store, const char **why,
                           apr_pool_t *ptemp);

    /**
     * Look a presented key up where it was found before: cheap enough to come
     * before any other check. @locality any thread
     * @return APR_SUCCESS or APR_NOTFOUND
     */
    apr_status_t (*recall)(ue_keystore_t *store, const char *key, size_t len,
                           ue_keyrecord_t *record);

    /**
     * Look a presented key up. @locality any thread
     * @return APR_SUCCESS, APR_NOTFOUND, or why the store can't say
     */
    apr_status_t (*lookup)(ue_keystore_t *store, const char *key, size_t len,
                           ue_keyrecord_t *record);

    /**
     * Take up a change if there is one. Called about four times a second.
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

/**
 * Open the store that a directive names.
 * @param url "file:PATH"
 * @param why receives, on error, a sentence that says what is right
 */
apr_status_t ue_keystore_open(ue_keystore_t **store, const char *url,
                              const char **why, apr_pool_t *p);

/**
 * Take up a store that was open before a graceful restart, when the module may
 * have been loaded to another address, and read it again. If it can't be read,
 * the keys that it had are kept.
 * @param url the one it was opened by
 */
apr_status_t ue_keystore_reopen(ue_keystore_t *store, const char *url,
                                const char **why, apr_pool_t *ptemp);

#endif /* UE_KEYSTORE_H */
