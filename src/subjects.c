/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/*
 * The table of subjects. Finding and counting take no lock; putting in does,
 * and whoever has it may be killed at any instruction. So the order of stores
 * matters everywhere: a slot's `who`, with its generation, is what makes it a
 * subject's, and chains, free list and count follow from that.
 */
#include "subjects_int.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "thread.h"
#include "uuid.h"

/* Another number for each change of what the words of a slot mean. */
#define UE_SUBJECTS_FORMAT 1

#define SIZE_MAX_SUBJECTS (UINT32_C(1) << 26)

/** A subject as it is looked for. */
typedef struct {
    uint64_t id[2];
    uint64_t who; /* of generation 0, with the count */
    uint32_t burst;
} name_t;

const char *ue_limitby_name(ue_limitby_t by)
{
    static const char *const names[] = {
        [UE_BY_KEY] = "key", [UE_BY_ORG] = "org", [UE_BY_IP] = "ip"};

    return names[by];
}

size_t ue_subjects_layout(void)
{
    /* Sizes don't tell what the words mean. */
    return UE_SUBJECTS_FORMAT * 1009 + UE_GCRA_TICK * 61 + UE_GCRA_BITS * 53
           + sizeof(ue_subjects_t) * 31 + sizeof(ue_subjectsshared_t) * 7
           + sizeof(ue_subjectslot_t);
}

uint32_t ue_subjects_size(const ue_subjects_t *t)
{
    return t->size;
}

uint32_t ue_subjects_count(const ue_subjects_t *t)
{
    return UE_LOAD(t->shared->count);
}

/* Memory ---------------------------------------------------------------- */

/* Place the parts one after the other, on cache lines. Without memory it only
 * counts the bytes. */
static size_t place(ue_subjects_t *t, char *memory)
{
    size_t at = 0;

#define PLACE(part, n)                                             \
    do {                                                           \
        t->part = memory ? (void *)(memory + at) : NULL;           \
        at += ((size_t)(n) * sizeof(*t->part) + 63) & ~(size_t)63; \
    } while (0)
    PLACE(shared, 1);
    PLACE(buckets, t->size);
    PLACE(slots, t->size);
#undef PLACE
    return at;
}

size_t ue_subjects_bytes(uint32_t size)
{
    ue_subjects_t t = {.size = size};

    return place(&t, NULL);
}

apr_status_t ue_subjects_create(ue_subjects_t **subjects, uint32_t size,
                                apr_pool_t *p)
{
    ue_subjects_t *t;
    apr_status_t rv;
    void *memory;

    if (size < 1 || size > SIZE_MAX_SUBJECTS) {
        return APR_EINVAL;
    }
    t = apr_pcalloc(p, sizeof(*t));
    t->size = size;
    rv = ue_random(t->secret, sizeof(t->secret));
    if (rv) {
        return rv;
    }
    rv = ue_shared_map(&memory, ue_subjects_bytes(size));
    if (rv) {
        return rv;
    }
    place(t, memory);
    rv = ue_shared_mutex(&t->shared->mutex);
    if (rv) {
        munmap(memory, ue_subjects_bytes(size));
        return rv;
    }
    *subjects = t;
    return APR_SUCCESS;
}

/* Names ----------------------------------------------------------------- */

int ue_subject_of_address(ue_subject_t *subject, const apr_sockaddr_t *client)
{
    const uint8_t *bytes = NULL;
    size_t len = 0;

    if (client && client->family == APR_INET) {
        bytes = (const uint8_t *)&client->sa.sin.sin_addr;
        len = 4;
    }
#if APR_HAVE_IPV6
    else if (client && client->family == APR_INET6) {
        const struct in6_addr *in6 = &client->sa.sin6.sin6_addr;
        int is_mapped = IN6_IS_ADDR_V4MAPPED(in6);

        bytes = in6->s6_addr + (is_mapped ? 12 : 0);
        len = is_mapped ? 4 : 8;
    }
#endif
    if (!bytes) {
        return 0;
    }
    subject->by = UE_BY_IP;
    subject->id[0] = 0;
    memcpy(&subject->id[0], bytes, len);
    subject->id[1] = len; /* 192.0.2.1 is not c000:201::/64 */
    return 1;
}

/* @return 0 for one that can't be */
static int name_subject(name_t *name, const ue_subject_t *subject)
{
    uint64_t period;

    switch (apr_time_sec(subject->rate.period)) {
    case 1:
        period = 0;
        break;
    case 60:
        period = 1;
        break;
    case 3600:
        period = 2;
        break;
    default:
        return 0;
    }
    name->id[0] = subject->id[0];
    name->id[1] = subject->id[1];
    name->who = UE_SUBJECT_IN_USE | (uint64_t)subject->by << UE_SUBJECT_BY_SHIFT
                | period << UE_SUBJECT_PERIOD_SHIFT
                | (uint64_t)subject->scope << UE_SUBJECT_SCOPE_SHIFT
                | (uint64_t)subject->rate.count << UE_SUBJECT_COUNT_SHIFT;
    name->burst = subject->rate.burst;
    return 1;
}

static void name_slot(name_t *name, const ue_subjectslot_t *slot)
{
    name->id[0] = UE_LOAD(slot->id[0]);
    name->id[1] = UE_LOAD(slot->id[1]);
    name->who = UE_LOAD(slot->who) & UE_GCRA_MASK;
    name->burst = UE_LOAD(slot->burst) & UE_SUBJECT_BURST;
}

static void prepare(ue_gcra_t *gcra, const name_t *name)
{
    static const int seconds[] = {1, 60, 3600, 3600};
    ue_rate_t rate;

    rate.count = (uint32_t)(name->who >> UE_SUBJECT_COUNT_SHIFT);
    rate.period =
        apr_time_from_sec(seconds[name->who >> UE_SUBJECT_PERIOD_SHIFT & 3]);
    rate.burst = name->burst;
    /* Of a slot that is given away just now it may be anything. */
    rate.count = rate.count ? rate.count : 1;
    ue_gcra_prepare(gcra, &rate);
}

static _Atomic uint32_t *bucket_of(const ue_subjects_t *t, const name_t *name)
{
    const uint64_t words[] = {name->id[0], name->id[1],
                              name->who & UE_SUBJECT_NAME};
    uint64_t hash[2];

    ue_siphash128(words, sizeof(words), t->secret, hash);
    return &t->buckets[ue_shared_scale((uint32_t)(hash[0] >> 32), t->size)];
}

/* Finding --------------------------------------------------------------- */

static inline uint64_t with_generation(uint64_t generation, uint64_t word)
{
    return generation << UE_SUBJECT_SHIFT | (word & UE_GCRA_MASK);
}

/* Is it this subject's, whatever its rate is? */
static inline int is_named(const ue_subjectslot_t *slot, const name_t *name,
                           uint64_t generation)
{
    uint64_t who = UE_LOAD(slot->who);

    return ue_subject_generation(who) == generation
           && (who & UE_SUBJECT_NAME) == (name->who & UE_SUBJECT_NAME)
           && UE_LOAD(slot->id[0]) == name->id[0]
           && UE_LOAD(slot->id[1]) == name->id[1];
}

static inline int has_rate(const ue_subjectslot_t *slot, const name_t *name)
{
    return (UE_LOAD(slot->who) & UE_GCRA_MASK) == name->who
           && (UE_LOAD(slot->burst) & UE_SUBJECT_BURST) == name->burst;
}

typedef enum { ABSENT, FOUND, OTHER_RATE, ENDLESS } found_t;

static inline found_t look_up(const ue_subjects_t *t,
                              const _Atomic uint32_t *bucket,
                              const name_t *name, ue_subjectref_t *ref)
{
    uint32_t number = UE_LOAD(*bucket);
    const ue_subjectslot_t *slot;
    uint64_t generation;
    int steps;

    for (steps = 0; steps < UE_SUBJECTS_WALK; steps++) {
        slot = ue_subjects_slot(t, number);
        if (!slot) {
            return ABSENT;
        }
        generation = ue_subject_generation(UE_LOAD(slot->tat));
        if (is_named(slot, name, generation)) {
            ref->slot = number;
            ref->generation = (uint32_t)generation;
            ref->ahead = 0;
            return has_rate(slot, name) ? FOUND : OTHER_RATE;
        }
        number = UE_LOAD(slot->next);
    }
    return ENDLESS;
}

/* Counting -------------------------------------------------------------- */

static uint64_t clock_now(void)
{
    return ue_gcra_time(ue_monotonic_ns());
}

static uint32_t quarter_of(uint64_t now)
{
    return (uint32_t)(now / UE_SUBJECT_QUARTER) & 3;
}

static void set_burst(ue_subjectslot_t *slot, uint32_t burst, uint64_t now)
{
    UE_STORE(slot->burst, quarter_of(now) << UE_SUBJECT_SET_SHIFT | burst);
}

/* How far a slot's TAT may lie ahead. While children may still take turns with
 * an old rate and a new one, all that was used up counts. */
static uint64_t longest_of(const ue_subjectslot_t *slot, uint64_t now)
{
    uint32_t set = UE_LOAD(slot->burst) >> UE_SUBJECT_SET_SHIFT;
    ue_gcra_t gcra;
    name_t name;

    if (((quarter_of(now) - set) & 3) < 2) {
        return UE_GCRA_MOST;
    }
    name_slot(&name, slot);
    prepare(&gcra, &name);
    return gcra.tolerance + UE_GCRA_EXCESS;
}

/* Put a TAT right that is from a larger bucket, or from before the clock went
 * back. A thread that was
 * held up since it read the clock sees such a TAT, too, so it is read again:
 * it can't be behind a TAT that is there already.
 * @param is  the word, as it was loaded before
 * @param now receives the clock, if it matters
 * @return    whether there was something to put right */
static __attribute__((noinline)) int mend(ue_subjectslot_t *slot, uint64_t is,
                                          uint64_t *now)
{
    uint64_t longest = longest_of(slot, *now);
    uint64_t was = is & UE_GCRA_MASK, tat;

    if (ue_gcra_mend(was, *now, longest) == was) {
        return 0;
    }
    *now = clock_now();
    longest = longest_of(slot, *now);
    tat = ue_gcra_mend(was, *now, longest);
    if (tat == was) {
        return 0;
    }
    atomic_compare_exchange_strong_explicit(
        &slot->tat, &is, with_generation(ue_subject_generation(is), tat),
        memory_order_acq_rel, memory_order_acquire);
    return 1;
}

/* The new TAT goes in by a swap, so whoever comes in between is counted. */
static inline int let_in(ue_subjectslot_t *slot, uint64_t is, uint64_t tat)
{
    return atomic_compare_exchange_strong_explicit(
        &slot->tat, &is, with_generation(ue_subject_generation(is), tat),
        memory_order_acq_rel, memory_order_acquire);
}

apr_status_t ue_subjects_take(ue_subjects_t *t, ue_subjectref_t ref,
                              const ue_gcra_t *gcra, uint64_t now,
                              ue_gcra_state_t *state)
{
    ue_subjectslot_t *slot = ue_subjects_slot(t, ref.slot);
    uint64_t is, tat;

    now = (now + ref.ahead) & UE_GCRA_MASK;
    for (;;) {
        is = slot ? UE_LOAD(slot->tat) : 0;
        if (!slot || ue_subject_generation(is) != ref.generation) {
            return APR_EGENERAL;
        }
        tat = ue_gcra_take(gcra, is & UE_GCRA_MASK, now, state);
        if (state->full > gcra->tolerance && mend(slot, is, &now)) {
            continue;
        }
        if (!state->is_let_in || let_in(slot, is, tat)) {
            return APR_SUCCESS;
        }
    }
}

apr_status_t ue_subjects_look(ue_subjects_t *t, ue_subjectref_t ref,
                              const ue_gcra_t *gcra, uint64_t now,
                              ue_gcra_state_t *state)
{
    ue_subjectslot_t *slot = ue_subjects_slot(t, ref.slot);
    uint64_t is;

    now = (now + ref.ahead) & UE_GCRA_MASK;
    do {
        is = slot ? UE_LOAD(slot->tat) : 0;
        if (!slot || ue_subject_generation(is) != ref.generation) {
            return APR_EGENERAL;
        }
        ue_gcra_look(gcra, is & UE_GCRA_MASK, now, state);
    } while (state->full > gcra->tolerance && mend(slot, is, &now));
    return APR_SUCCESS;
}

/* Slots, under the lock ------------------------------------------------- */

static int is_in_use(const ue_subjectslot_t *slot)
{
    uint64_t who = UE_LOAD(slot->who);

    return who
           && ue_subject_generation(who)
                  == ue_subject_generation(UE_LOAD(slot->tat));
}

static void link_slot(ue_subjects_t *t, ue_subjectslot_t *slot,
                      _Atomic uint32_t *bucket)
{
    UE_STORE(slot->next, UE_LOAD(*bucket));
    UE_STORE(*bucket, (uint32_t)(slot - t->slots) + 1);
}

/* Give all words but `who` the generation that the TAT has. */
static void clear(ue_subjectslot_t *slot)
{
    uint64_t none =
        with_generation(ue_subject_generation(UE_LOAD(slot->tat)), 0);

    UE_STORE(slot->lease[0], none);
    UE_STORE(slot->lease[1], none);
    UE_STORE(slot->demand, none);
    UE_STORE(slot->ask, none);
}

/* Free a slot that is in no chain, and whose TAT has a new generation. */
static void free_slot(ue_subjects_t *t, ue_subjectslot_t *slot)
{
    clear(slot);
    UE_STORE(slot->next, t->shared->free);
    t->shared->free = (uint32_t)(slot - t->slots) + 1;
}

/* Begin anew with all that follows from the slots. Readers find less meanwhile,
 * and wait for the lock. */
static void rebuild(ue_subjects_t *t)
{
    ue_subjectsshared_t *s = t->shared;
    uint32_t i, count = 0;
    name_t name;

    for (i = 0; i < t->size; i++) {
        UE_STORE(t->buckets[i], 0);
    }
    s->free = 0;
    for (i = 0; i < s->high && i < t->size; i++) {
        if (is_in_use(&t->slots[i])) {
            name_slot(&name, &t->slots[i]);
            link_slot(t, &t->slots[i], bucket_of(t, &name));
            count++;
        }
        else {
            free_slot(t, &t->slots[i]);
        }
    }
    UE_STORE(s->count, count);
    UE_STORE(s->rebuilt, UE_LOAD(s->rebuilt) + 1);
}

/* @return 0 where it is not in its chain */
static int unlink_slot(ue_subjects_t *t, const ue_subjectslot_t *slot)
{
    uint32_t number = (uint32_t)(slot - t->slots) + 1;
    _Atomic uint32_t *at;
    ue_subjectslot_t *before;
    name_t name;
    int steps;

    name_slot(&name, slot);
    at = bucket_of(t, &name);
    for (steps = 0; steps < UE_SUBJECTS_WALK; steps++) {
        if (UE_LOAD(*at) == number) {
            UE_STORE(*at, UE_LOAD(slot->next));
            return 1;
        }
        before = ue_subjects_slot(t, UE_LOAD(*at));
        if (!before) {
            break;
        }
        at = &before->next;
    }
    return 0;
}

/* Make a subject give its slot up, unless it is under way. From the swap on the
 * slot isn't in use. */
static int give_up(ue_subjectslot_t *slot, uint64_t now)
{
    uint64_t is = UE_LOAD(slot->tat);
    uint64_t next = ue_subject_generation(is) + 1;

    if (ue_gcra_ahead(is & UE_GCRA_MASK, now)) {
        mend(slot, is, &now);
        return 0;
    }
    return !ue_subjectslot_is_leased(slot, now)
           && atomic_compare_exchange_strong_explicit(
               &slot->tat, &is, with_generation(next, now),
               memory_order_acq_rel, memory_order_acquire);
}

static void evict(ue_subjects_t *t, uint64_t now)
{
    ue_subjectsshared_t *s = t->shared;
    ue_subjectslot_t *slot;
    uint32_t steps, i;

    for (steps = 0; steps < UE_SUBJECTS_STEPS; steps++) {
        i = s->hand < t->size ? s->hand : 0;
        s->hand = i + 1;
        slot = &t->slots[i];
        if (!give_up(slot, now)) {
            continue;
        }
        if (unlink_slot(t, slot)) {
            free_slot(t, slot);
            UE_STORE(s->count, UE_LOAD(s->count) - 1);
        }
        else {
            rebuild(t);
        }
        return;
    }
}

/* @return a free slot, that nobody holds a reference to, or NULL */
static ue_subjectslot_t *take_slot(ue_subjects_t *t, uint64_t now)
{
    ue_subjectsshared_t *s = t->shared;
    ue_subjectslot_t *slot;

    if (!s->free && s->high < t->size) {
        return &t->slots[s->high++];
    }
    if (!s->free) {
        evict(t, now);
    }
    slot = ue_subjects_slot(t, s->free);
    if (slot) {
        s->free = UE_LOAD(slot->next);
    }
    return slot;
}

/* Putting in ------------------------------------------------------------ */

/* @return 0 where there is no lock to be had */
static int lock(ue_subjects_t *t)
{
    pthread_mutex_t *mutex = &t->shared->mutex;
    int rv = pthread_mutex_trylock(mutex);

    if (rv == EBUSY) {
        rv = ue_shared_lock(mutex, UE_SUBJECTS_PATIENCE, 1);
    }
    if (rv == EOWNERDEAD) {
        rebuild(t);
        rv = pthread_mutex_consistent(mutex);
    }
    return !rv;
}

/* A thread that was held up since it read the clock may put in again who was
 * given up meanwhile, and would count from before that: then some of what the
 * subject used up would be filled up twice. So nobody begins before the last
 * one did, unless the clock has gone back since. */
static uint64_t latest(ue_subjects_t *t, uint64_t now)
{
    ue_subjectsshared_t *s = t->shared;

    if (s->high == 0 || !ue_gcra_ahead(s->latest, now)
        || ue_gcra_ahead(s->latest, clock_now())) {
        s->latest = now;
    }
    return s->latest;
}

/* Give a subject a slot, and a full bucket. Its `who` makes it the subject's,
 * and is stored last of all words. */
static int put_in(ue_subjects_t *t, _Atomic uint32_t *bucket,
                  const name_t *name, uint64_t now, ue_subjectref_t *ref)
{
    uint64_t begins = latest(t, now), generation;
    ue_subjectslot_t *slot = take_slot(t, begins);

    if (!slot) {
        return 0;
    }
    generation = ue_subject_generation(UE_LOAD(slot->tat));
    UE_STORE(slot->tat, with_generation(generation, begins));
    set_burst(slot, name->burst, begins);
    UE_STORE(slot->id[0], name->id[0]);
    UE_STORE(slot->id[1], name->id[1]);
    UE_STORE(slot->who, with_generation(generation, name->who));
    link_slot(t, slot, bucket);
    UE_STORE(t->shared->count, UE_LOAD(t->shared->count) + 1);
    ref->slot = (uint32_t)(slot - t->slots) + 1;
    ref->generation = (uint32_t)generation;
    ref->ahead = ue_gcra_ahead(begins, now);
    return 1;
}

/* Give a subject another rate. It stays in its chain; until `who` is stored,
 * nobody finds it, and looks again when he has the lock. */
static void change_rate(ue_subjectslot_t *slot, const name_t *name,
                        uint64_t now, ue_subjectref_t *ref)
{
    uint64_t is = UE_LOAD(slot->tat), next, tat;
    ue_gcra_t from, to;
    name_t was;

    name_slot(&was, slot);
    prepare(&from, &was);
    prepare(&to, name);
    do {
        next = with_generation(ue_subject_generation(is) + 1, 0);
        tat = ue_gcra_convert(&from, &to, is & UE_GCRA_MASK, now);
    } while (!atomic_compare_exchange_strong_explicit(
        &slot->tat, &is, next | tat, memory_order_acq_rel,
        memory_order_acquire));
    clear(slot);
    set_burst(slot, name->burst, now);
    UE_STORE(slot->who, next | name->who);
    ref->generation = (uint32_t)ue_subject_generation(next);
}

static __attribute__((noinline)) apr_status_t find_or_put_in(
    ue_subjects_t *t, _Atomic uint32_t *bucket, const name_t *name,
    uint64_t now, ue_subjectref_t *ref)
{
    found_t found;
    int is_there;

    if (!lock(t)) {
        return APR_EAGAIN;
    }
    found = look_up(t, bucket, name, ref);
    if (found == ENDLESS) {
        rebuild(t);
        found = look_up(t, bucket, name, ref);
    }
    if (found == OTHER_RATE) {
        change_rate(ue_subjects_slot(t, ref->slot), name, now, ref);
    }
    is_there = found == FOUND || found == OTHER_RATE
               || put_in(t, bucket, name, now, ref);
    pthread_mutex_unlock(&t->shared->mutex);
    return is_there ? APR_SUCCESS : APR_EAGAIN;
}

apr_status_t ue_subjects_find(ue_subjects_t *t, const ue_subject_t *subject,
                              uint64_t now, ue_subjectref_t *ref)
{
    _Atomic uint32_t *bucket;
    name_t name;

    if (!name_subject(&name, subject)) {
        return APR_EINVAL;
    }
    bucket = bucket_of(t, &name);
    if (look_up(t, bucket, &name, ref) == FOUND) {
        return APR_SUCCESS;
    }
    return find_or_put_in(t, bucket, &name, now, ref);
}
