/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_UUID_H
#define UE_UUID_H

/**
 * UUIDs (RFC 9562): 16 bytes inside, 36 lower-case characters outside.
 *
 * A request id is version 7: 48 bits of milliseconds and 12 bits that divide
 * the millisecond, so that ids sort by the time their requests were read, then
 * 62 bits made from a counter that begins at random in each process. They are
 * there to be different from all others, not to be secret: an id is told to
 * the client anyway. A generator needs no lock and makes no system call once it
 * is seeded; it must be seeded after the fork, or two children count through
 * the same ids.
 */
#include <stdatomic.h>
#include <stdint.h>

#include <apr_errno.h>
#include <apr_time.h>

#define UE_UUID_LEN 36 /**< characters of a formatted UUID, without NUL */

typedef struct {
    uint8_t b[16];
} ue_uuid_t;

typedef struct {
    uint64_t key; /**< tells processes apart, even at the same count */
    _Atomic uint64_t count;
} ue_uuidgen_t;

/**
 * Fill bytes from the system's random source.
 * @return the system's error if it has none
 */
apr_status_t ue_random(void *buf, size_t len);

/** Seed a generator. @locality once a process, before its threads use it */
apr_status_t ue_uuidgen_seed(ue_uuidgen_t *gen);

/**
 * A new version 7 UUID.
 * @param when microseconds since the epoch
 * @locality   any thread, no lock
 */
void ue_uuid_v7(ue_uuid_t *id, ue_uuidgen_t *gen, apr_time_t when);

/** A new version 4 UUID, straight from the system's random source. */
apr_status_t ue_uuid_v4(ue_uuid_t *id);

/**
 * Read the 36-character form, in either case and of any version.
 * @param len characters at s; anything but 36 is no UUID
 * @return    APR_EINVAL if it is no UUID
 */
apr_status_t ue_uuid_parse(ue_uuid_t *id, const char *s, size_t len);

/** Write 36 characters, without NUL. @return behind the last of them */
char *ue_uuid_write(const ue_uuid_t *id, char *to);

/** Write 36 characters and NUL. @return to */
char *ue_uuid_format(const ue_uuid_t *id, char to[UE_UUID_LEN + 1]);

int ue_uuid_equal(const ue_uuid_t *a, const ue_uuid_t *b);

#endif /* UE_UUID_H */
