/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_SUBJECTS_H
#define UE_SUBJECTS_H

/**
 * What is limited (keys, organizations, client addresses), and how much each
 * has used, in memory that all children share.
 *
 * The parent maps it before the fork and keeps it over graceful restarts, so
 * that children of both generations count in the same place. A subject has a
 * slot: who it is, and words that change by compare-and-swap. Each such word
 * carries the generation of its slot. A slot that is given to another subject
 * gets another generation first, so a thread that held on to the old subject
 * can't change the new one: its swap fails.
 *
 * Finding a subject takes no lock. One that isn't there is put in under a
 * robust process-shared mutex, by the request thread that met it. If whoever
 * holds it is killed, the next one builds the chains anew from the slots, which
 * say by themselves whether they are in use: no subject loses its count. If
 * its holder is stopped, nobody waits for it longer than UE_SUBJECTS_PATIENCE.
 *
 * A subject whose rate is another than before keeps what it has used up
 * (ue_gcra_convert()), under a new generation, since its TAT counts in another
 * measure then: who held on to the old rate finds it again. (If whoever does it
 * is killed at that very moment, the subject begins anew.) So a rate may change
 * at any time, while children who haven't heard of it yet take turns with
 * others. What a smaller bucket has no room for is cut to a minute's worth,
 * half a minute later. Two configured rates that would take turns for good are
 * told apart by their scope.
 *
 * When all slots are in use, one that is not limited makes room: whose bucket
 * is full (its TAT has passed) has nothing to lose, since it would begin with a
 * full bucket again. Only if UE_SUBJECTS_STEPS in a row are all under way there
 * is no room, and UsageLimitFailure decides.
 *
 * Nobody can choose subjects that meet in one chain: a bucket is chosen by
 * SipHash under a random key, which is drawn when the memory is mapped.
 *
 * A slot takes 72 bytes and its place in the index 4: 100,000 subjects take
 * less than 8 MB.
 */
#include <stddef.h>
#include <stdint.h>

#include <apr_errno.h>
#include <apr_network_io.h>
#include <apr_pools.h>

#include "gcra.h"

#define UE_SUBJECTS_PATIENCE 20 /**< ms */
#define UE_SUBJECTS_STEPS 64    /**< slots that are tried to make room */

/** What a limit counts. */
typedef enum { UE_BY_KEY, UE_BY_ORG, UE_BY_IP } ue_limitby_t;

/** The name in directives and answers: "key", "org", "ip". */
const char *ue_limitby_name(ue_limitby_t by);

/** A subject. It has one limit of each unit of time, /s, /m and /h. */
typedef struct {
    uint64_t id[2]; /**< the bytes of a UUID, or of an address */
    ue_limitby_t by;
    uint16_t scope; /**< counts apart from other scopes */
    /** Its unit of time is part of the name; count and burst aren't, so that
     * what was used up counts on when they change. */
    ue_rate_t rate;
} ue_subject_t;

typedef struct ue_subjects_t ue_subjects_t;

/** A subject's slot, as found: valid while the generation is the same. Slots
 * are named from 1, so one of zeros is none. */
typedef struct {
    uint32_t slot;
    uint32_t generation;
    /** Ticks after now at which it begins, where it was put in just now. It is
     * counted from there, or it would find its full bucket used up. */
    uint64_t ahead;
} ue_subjectref_t;

/**
 * Map a table.
 * @param size subjects that it can hold, from 1
 * @param p    where the handle lives; the memory is never unmapped
 */
apr_status_t ue_subjects_create(ue_subjects_t **subjects, uint32_t size,
                                apr_pool_t *p);

/** Tells one layout of the shared memory from another. */
size_t ue_subjects_layout(void);

/** @return bytes that a table of this size maps */
size_t ue_subjects_bytes(uint32_t size);

/** @return subjects that it can hold */
uint32_t ue_subjects_size(const ue_subjects_t *subjects);

/** @return subjects that it holds. @locality any thread, any process */
uint32_t ue_subjects_count(const ue_subjects_t *subjects);

/**
 * Name a client by its address: an IPv4 one whole, of an IPv6 one the first 64
 * bits, which is what one customer has. ::ffff:192.0.2.1 is IPv4.
 * @param subject receives id and by; the period is the caller's
 * @return        0 where it has none (a client over a Unix socket)
 */
int ue_subject_of_address(ue_subject_t *subject, const apr_sockaddr_t *client);

/**
 * Find a subject, or put it in, with a full bucket; where it has another rate
 * than it had, give it that one. @locality any thread
 * @param now  ue_gcra_time()
 * @param ref  receives where it is
 * @return     APR_EAGAIN where there is no room, or no lock in time; APR_EINVAL
 *             for a period that rates don't have
 */
apr_status_t ue_subjects_find(ue_subjects_t *subjects,
                              const ue_subject_t *subject, uint64_t now,
                              ue_subjectref_t *ref);

/**
 * Let one request of a subject in, if there is room.
 * @locality any thread
 * @param now ue_gcra_time(). Where it makes no sense of the TAT, the clock is
 *            read again: either now is from long ago or the clock has gone back
 * @return    APR_EGENERAL where the slot has been given to another meanwhile:
 *            find it again
 */
apr_status_t ue_subjects_take(ue_subjects_t *subjects, ue_subjectref_t ref,
                              const ue_gcra_t *gcra, uint64_t now,
                              ue_gcra_state_t *state);

/** The same without letting it in. */
apr_status_t ue_subjects_look(ue_subjects_t *subjects, ue_subjectref_t ref,
                              const ue_gcra_t *gcra, uint64_t now,
                              ue_gcra_state_t *state);

#endif /* UE_SUBJECTS_H */
