/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_SUBJECTS_INT_H
#define UE_SUBJECTS_INT_H

/**
 * The memory of the table of subjects.
 *
 * The upper 12 bits of `tat`, of `who`, and of each other word that changes by
 * compare-and-swap are the slot's generation. Who gives a slot away stores a
 * new one in `tat` first, by a swap that fails where a request was let in
 * meanwhile, then in the others, and only then touches anything else. `who`
 * gets it last, when the next subject is there: a slot is in use where its
 * `who` is not 0 and has the generation of `tat`. That is all that must be
 * known of it after a writer was killed.
 *
 * So a reader who saw part of the one subject and part of the other has the old
 * generation, and what it does with it fails. A generation comes again after
 * 4,096 subjects in one slot: a thread that was stopped for just so many takes
 * a request off a wrong bucket.
 *
 * Slots are named by their number plus one, so that the 0 of fresh memory is
 * none. Where `free` and the chains end, or which number they hold, is never
 * relied on: walks have a bound, and numbers are compared with the size.
 */
#include <assert.h>

#include "shared.h"
#include "siphash.h"
#include "subjects.h"

#define UE_SUBJECT_GENERATIONS 4096
#define UE_SUBJECT_SHIFT UE_GCRA_BITS
#define UE_SUBJECTS_WALK 128 /**< slots of a chain at most */

/* `who`: in use 1 bit, by 2 bits, period 2 bits, scope 16 bits; above them,
 * which aren't part of the name, the rate's count, 30 bits. */
#define UE_SUBJECT_IN_USE 1
#define UE_SUBJECT_BY_SHIFT 1
#define UE_SUBJECT_PERIOD_SHIFT 3
#define UE_SUBJECT_SCOPE_SHIFT 5
#define UE_SUBJECT_COUNT_SHIFT 21
#define UE_SUBJECT_NAME ((UINT64_C(1) << UE_SUBJECT_COUNT_SHIFT) - 1)

/* `burst`: 30 bits, and above them which quarter of a minute it was, counted to
 * four, when the rate was set: for a quarter at least, and for two at most,
 * that tells a rate that was just changed. */
#define UE_SUBJECT_BURST ((UINT32_C(1) << 30) - 1)
#define UE_SUBJECT_SET_SHIFT 30
#define UE_SUBJECT_QUARTER (UINT64_C(16000000000) / UE_GCRA_TICK)

/* What finding and counting needs comes first: often it is one cache line. */
typedef struct {
    _Atomic uint64_t tat; /* generation, and the TAT or end of a pause */
    _Atomic uint64_t who;
    _Atomic uint64_t id[2];
    _Atomic uint32_t next;     /* in its chain, or of the free ones */
    _Atomic uint32_t burst;    /* of its rate, and when that was changed */
    _Atomic uint64_t lease[2]; /* see lease.h; 0 where there is none */
    _Atomic uint64_t demand;
    _Atomic uint64_t ask;
} ue_subjectslot_t;

static_assert(sizeof(ue_subjectslot_t) == 72, "subjects.h says so");

/** The beginning. What is not atomic is the mutex holder's. */
typedef struct {
    _Atomic uint32_t count;
    _Atomic uint32_t rebuilt; /* times, since a writer was killed */
    pthread_mutex_t mutex __attribute__((aligned(64)));
    uint32_t high; /* slots that were used so far */
    uint32_t free;
    uint32_t hand;   /* who is asked next to make room */
    uint64_t latest; /* moment at which somebody was put in */
} ue_subjectsshared_t;

/** The handle, of which each process has a copy. */
struct ue_subjects_t {
    uint8_t secret[UE_SIPHASH_KEY];
    uint32_t size;
    ue_subjectsshared_t *shared;
    _Atomic uint32_t *buckets; /* size */
    ue_subjectslot_t *slots;
};

/** The slot with a number that came from shared memory. @return NULL: none */
static inline ue_subjectslot_t *ue_subjects_slot(const ue_subjects_t *t,
                                                 uint32_t number)
{
    return number - 1 < t->size ? &t->slots[number - 1] : NULL;
}

static inline uint64_t ue_subject_generation(uint64_t word)
{
    return word >> UE_SUBJECT_SHIFT;
}

/** Has it a lease, so that it must stay? Until lease.h can tell a live one,
 * each counts. */
static inline int ue_subjectslot_is_leased(const ue_subjectslot_t *slot,
                                           uint64_t now)
{
    (void)now;
    return ((UE_LOAD(slot->lease[0]) | UE_LOAD(slot->lease[1])) & UE_GCRA_MASK)
           != 0;
}

#endif /* UE_SUBJECTS_INT_H */
