/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * The journal between threads: no slot is lost or given twice however many take
 * and give back, what is in a slot is its owner's, and of two who want to end a
 * slot exactly one does.
 */
#include "unit_journal.h"

#include <pthread.h>
#include <sched.h>

#define THREADS 6

typedef struct {
    pthread_t thread;
    ue_journal_t *j;
    _Atomic uint32_t *owner; /* by slot: which thread holds it */
    uint32_t self;
    unsigned rounds;
    /* what it saw */
    unsigned wrong;
    unsigned full;
    unsigned done;
} job_t;

#define HOLD 16

/* Does a slot still hold what this thread wrote into it? */
static int is_mine(const job_t *job, ue_slot_ref_t ref, uint32_t number,
                   size_t endpoint_len)
{
    char buf[UE_ENDPOINT_MAX + UE_METHOD_MAX];
    ue_event_t event;

    ue_journal_read(job->j, ref, &event, buf);
    if (event.timestamp != number || event.request_id.b[0] != job->self
        || event.endpoint_len != endpoint_len) {
        return 0;
    }
    for (size_t i = 0; i < endpoint_len; i++) {
        if (event.endpoint[i] != (char)('a' + (job->self + number) % 26)) {
            return 0;
        }
    }
    return 1;
}

static ue_slot_ref_t take_one(job_t *job, uint32_t number, size_t len)
{
    char endpoint[700];
    ue_admission_t a = admission("GET", endpoint, len);
    uint32_t nobody = 0;
    ue_slot_ref_t ref;

    memset(endpoint, 'a' + (int)((job->self + number) % 26), len);
    a.request_id.b[0] = (uint8_t)job->self;
    a.timestamp = number;
    if (ue_journal_admit(job->j, &a, &ref) != APR_SUCCESS) {
        job->full++;
        return 0;
    }
    if (!atomic_compare_exchange_strong(&job->owner[ref], &nobody, job->self)) {
        job->wrong++; /* somebody else has it */
    }
    return ref;
}

static void give_one(job_t *job, ue_slot_ref_t ref, uint32_t number, size_t len)
{
    uint32_t me = job->self;

    if (ue_journal_complete(job->j, ref, &completion) != APR_SUCCESS
        || !ue_journal_list(job->j, ref, BIT(UE_SLOT_COMPLETE))
        || !is_mine(job, ref, number, len)
        || !atomic_compare_exchange_strong(&job->owner[ref], &me, 0)) {
        job->wrong++;
    }
    ue_journal_release(job->j, ref);
    job->done++;
}

static void *hammer(void *arg)
{
    job_t *job = arg;
    uint64_t seed = job->self;
    ue_slot_ref_t held[HOLD] = {0};
    uint32_t numbers[HOLD];
    size_t lens[HOLD];

    for (unsigned i = 0; i < job->rounds; i++) {
        unsigned k = unit_random(&seed) % HOLD;

        if (held[k]) {
            give_one(job, held[k], numbers[k], lens[k]);
            held[k] = 0;
            continue;
        }
        numbers[k] = i;
        lens[k] = unit_random(&seed) % (i % 4 ? 90 : 700);
        held[k] = take_one(job, i, lens[k]);
        if (!held[k]) {
            sched_yield();
        }
    }
    for (unsigned k = 0; k < HOLD; k++) {
        if (held[k]) {
            give_one(job, held[k], numbers[k], lens[k]);
        }
    }
    return NULL;
}

static void test_journal_loses_no_slot_between_threads(void **state)
{
    _Atomic uint32_t owner[SLOTS + 1];
    job_t jobs[THREADS];
    unsigned done = 0;
    unsigned full = 0;

    for (int i = 0; i <= SLOTS; i++) {
        atomic_init(&owner[i], 0);
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        jobs[i] = (job_t){.j = journal,
                          .owner = owner,
                          .self = i + 1,
                          .rounds = unit_loops(200000)};
        assert_int_equal(
            pthread_create(&jobs[i].thread, NULL, hammer, &jobs[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(jobs[i].thread, NULL);
        assert_int_equal(jobs[i].wrong, 0);
        done += jobs[i].done;
        full += jobs[i].full;
    }
    assert_true(done > 0);
    /* with up to 96 events in 64 slots, room ran out, too */
    assert_true(RUNNING_ON_VALGRIND || full > 0);
    check_all_free();
}

/* A walker looks at all slots while threads use them: it sees states, and
 * never one that there isn't. */
static void *walk(void *arg)
{
    job_t *job = arg;

    for (unsigned i = 0; i < job->rounds; i++) {
        ue_slot_ref_t ref = i % ue_journal_slots(job->j) + 1;

        if ((unsigned)ue_journal_state(job->j, ref) > UE_SLOT_FURTHER) {
            job->wrong++;
        }
        job->full += ue_journal_is_full(job->j) != 0;
        if (ue_journal_list(job->j, ref, BIT(UE_SLOT_STRANDED))) {
            job->wrong++; /* nobody strands any */
        }
    }
    return NULL;
}

static void test_journal_may_be_walked_while_it_is_used(void **state)
{
    _Atomic uint32_t owner[SLOTS + 1];
    job_t jobs[3];

    for (int i = 0; i <= SLOTS; i++) {
        atomic_init(&owner[i], 0);
    }
    for (uint32_t i = 0; i < 3; i++) {
        jobs[i] = (job_t){.j = journal,
                          .owner = owner,
                          .self = i + 1,
                          .rounds = unit_loops(100000)};
        assert_int_equal(
            pthread_create(&jobs[i].thread, NULL, i ? hammer : walk, &jobs[i]),
            0);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(jobs[i].thread, NULL);
        assert_int_equal(jobs[i].wrong, 0);
    }
    check_all_free();
}

/* ---- races ---- */

/* Two threads do something to the same slot at the same moment. */
typedef struct {
    _Atomic unsigned here; /* how often a thread came to a meeting */
    unsigned rounds;
    ue_slot_ref_t ref;
    int won; /* the other thread's luck */
} race_t;

/* Wait, spinning, until the other thread is here too: what wakes from sleep
 * comes too late to race. */
static void meet(race_t *race)
{
    unsigned number = atomic_fetch_add(&race->here, 1);

    for (unsigned spins = 0; atomic_load(&race->here) < (number | 1) + 1;) {
        if (++spins % 256 == 0) {
            sched_yield();
        }
    }
}

static void run_race(race_t *race, void *(*other)(void *),
                     void (*round)(race_t *, unsigned))
{
    pthread_t thread;

    race->rounds = unit_loops(20000);
    assert_int_equal(pthread_create(&thread, NULL, other, race), 0);
    for (unsigned i = 0; i < race->rounds; i++) {
        race->ref = admit("GET", "/race");
        round(race, i);
    }
    pthread_join(thread, NULL);
    check_all_free();
}

static void *complete_each(void *arg)
{
    race_t *race = arg;

    for (unsigned i = 0; i < race->rounds; i++) {
        meet(race);
        race->won =
            ue_journal_complete(journal, race->ref, &completion) == APR_SUCCESS;
        meet(race);
    }
    return NULL;
}

static void interrupt_one(race_t *race, unsigned i)
{
    char buf[UE_ENDPOINT_MAX + UE_METHOD_MAX];
    ue_event_t event;
    int interrupted;

    meet(race);
    for (unsigned spin = i % 64; spin > 0; spin--) {
        atomic_signal_fence(memory_order_seq_cst);
    }
    interrupted = ue_journal_interrupt(journal, race->ref);
    meet(race);
    assert_int_equal(interrupted + race->won, 1);
    if (race->won) {
        assert_true(ue_journal_list(journal, race->ref, BIT(UE_SLOT_COMPLETE)));
    }
    ue_journal_read(journal, race->ref, &event, buf);
    assert_int_equal(event.status_code, race->won ? 201 : 0);
    assert_int_equal(event.billable, race->won);
    ue_journal_release(journal, race->ref);
}

/* A straggler completes a slot at the moment at which the close seals it. */
static void test_journal_slot_is_completed_or_interrupted(void **state)
{
    race_t race = {.won = 0};

    run_race(&race, complete_each, interrupt_one);
}

static void give_up_one(race_t *race, unsigned i)
{
    const unsigned any = BIT(UE_SLOT_ADMITTED) | BIT(UE_SLOT_COMPLETING);
    int taken;

    meet(race);
    for (unsigned spin = i % 64; spin > 0; spin--) {
        atomic_signal_fence(memory_order_seq_cst);
    }
    taken = ue_journal_list(journal, race->ref, any);
    meet(race);
    assert_int_equal(taken + race->won, 1);
    if (race->won) {
        assert_true(ue_journal_list(journal, race->ref, BIT(UE_SLOT_COMPLETE)));
    }
    ue_journal_release(journal, race->ref);
}

/* The close takes a thread for dead that is only slow: one of the two counts
 * the event. */
static void test_journal_slot_is_completed_or_given_up(void **state)
{
    race_t race = {.won = 0};

    run_race(&race, complete_each, give_up_one);
}

static void *list_each(void *arg)
{
    race_t *race = arg;

    for (unsigned i = 0; i < race->rounds; i++) {
        meet(race);
        race->won = ue_journal_list(
            journal, race->ref, BIT(UE_SLOT_COMPLETE) | BIT(UE_SLOT_STRANDED));
        meet(race);
    }
    return NULL;
}

static void strand_and_list_one(race_t *race, unsigned i)
{
    int listed;

    assert_int_equal(ue_journal_complete(journal, race->ref, &completion),
                     APR_SUCCESS);
    meet(race);
    if (i % 2) {
        ue_journal_strand(journal, race->ref);
    }
    listed = ue_journal_list(journal, race->ref,
                             BIT(UE_SLOT_COMPLETE) | BIT(UE_SLOT_STRANDED));
    meet(race);
    assert_int_equal(listed + race->won, 1);
    ue_journal_release(journal, race->ref);
}

/* Two want to deliver a slot, one of which may have stranded it just now. */
static void test_journal_slot_is_listed_by_one(void **state)
{
    race_t race = {.won = 0};

    run_race(&race, list_each, strand_and_list_one);
}

static const struct CMUnitTest tests[] = {
    TEST(test_journal_loses_no_slot_between_threads),
    TEST(test_journal_may_be_walked_while_it_is_used),
    TEST(test_journal_slot_is_completed_or_interrupted),
    TEST(test_journal_slot_is_completed_or_given_up),
    TEST(test_journal_slot_is_listed_by_one),
};

UNIT_MAIN(tests)
