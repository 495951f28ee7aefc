/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * The table of subjects between threads and processes: in no window a subject
 * is let in more often than its burst and its rate say, however many of them
 * there are for however few slots, and whoever is killed while it writes.
 *
 * What is let in is written down after it was, so a killed child can only have
 * written down too little.
 */
#include "unit_subjects.h"

#include <linux/futex.h>
#include <sys/ptrace.h>

#define SIZE 24
#define MANY 128 /* subjects, far more than slots */
#define FEW 3
#define WORKERS 4
#define HELD 16 /* subjects that are used up for an hour */
#define HELD_AT 1000000

#define LINES 1000000

/* What all workers share. */
typedef struct {
    _Atomic int stop;
    _Atomic uint32_t full, moved; /* no room; given away after it was found */
    _Atomic uint32_t lines;
    struct {
        uint64_t n; /* plus one */
        uint64_t when;
    } let_in[LINES];
} book_t;

static apr_pool_t *pool;
static ue_subjects_t *table;
static book_t *book;
static ue_gcra_t fast, hourly;

static int begin(void **state)
{
    apr_pool_create(&pool, NULL);
    table = unit_subjects(SIZE, pool);
    book = unit_map(sizeof(*book));
    fast = unit_rate(2000, 1, 2);
    hourly = unit_rate(1, 3600, 2);
    return 0;
}

static int end(void **state)
{
    munmap(book, sizeof(*book));
    unit_unmap(table);
    apr_pool_destroy(pool);
    return 0;
}

static void nap(long ns)
{
    struct timespec t = {0, ns};

    nanosleep(&t, NULL);
}

/* Hammering ------------------------------------------------------------- */

typedef struct {
    pthread_t thread;
    uint64_t seed;
    unsigned subjects;
} job_t;

static void write_down(uint64_t n, uint64_t when)
{
    uint32_t line = book->lines++;

    if (line < LINES) {
        book->let_in[line].when = when;
        book->let_in[line].n = n + 1;
    }
}

/* Now and then, for longer than a bucket takes to be full again. */
static void hold_up(uint64_t r)
{
    if (r % 256 == 0) {
        nap(2000000);
    }
    else if (r % 16 == 0) {
        sched_yield();
    }
}

static void ask_once(job_t *job)
{
    uint64_t r = unit_random(&job->seed), n = (r >> 32) % job->subjects;
    uint64_t now = unit_now();
    ue_subject_t subject = unit_subject(n);
    ue_subjectref_t ref;
    ue_gcra_state_t s;

    hold_up(r);
    if (ue_subjects_find(table, &subject, now, &ref)) {
        book->full++;
        return;
    }
    hold_up(r >> 8);
    if (ue_subjects_take(table, ref, &fast, now, &s)) {
        book->moved++;
    }
    else if (s.is_let_in) {
        write_down(n, now + ref.ahead);
    }
}

static void *hammer(void *arg)
{
    while (!book->stop) {
        ask_once(arg);
    }
    return NULL;
}

static pid_t fork_hammer(uint64_t seed, unsigned subjects)
{
    pid_t pid = unit_fork();

    if (pid == 0) {
        job_t job = {.seed = seed, .subjects = subjects};

        hammer(&job);
        unit_exit(0);
    }
    return pid;
}

static int by_time(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* Of the windows that end with the i-th, the fullest is that from the one with
 * the least j * E - when(j). */
static void assert_no_window_over(const uint64_t *when, uint32_t count)
{
    int64_t least = INT64_MAX;

    for (uint32_t i = 0; i < count; i++) {
        int64_t at = (int64_t)(i * fast.emission) - (int64_t)when[i];

        least = at < least ? at : least;
        assert_true(at - least + (int64_t)fast.emission
                    <= (int64_t)fast.tolerance);
    }
}

static void assert_within_limits(unsigned subjects)
{
    uint64_t *when = malloc(LINES * sizeof(*when));

    assert_non_null(when);
    assert_in_range(book->lines, 2, LINES);
    for (uint64_t n = 0; n < subjects; n++) {
        uint32_t count = 0;

        for (uint32_t i = 0; i < book->lines; i++) {
            if (book->let_in[i].n == n + 1) {
                when[count++] = book->let_in[i].when;
            }
        }
        qsort(when, count, sizeof(*when), by_time);
        assert_no_window_over(when, count);
    }
    free(when);
}

static void assert_usable(void)
{
    uint64_t later = unit_now() + 10 * UNIT_MS;

    /* a bucket takes a millisecond */
    nap(20000000);
    for (uint64_t n = 0; n < 10 * SIZE; n++) {
        unit_find(table, 2000000 + n, later);
    }
    assert_int_equal(ue_subjects_count(table), SIZE);
    unit_assert_whole(table);
}

static void between_threads(unsigned subjects)
{
    job_t jobs[WORKERS];

    for (unsigned i = 0; i < WORKERS; i++) {
        jobs[i] = (job_t){.seed = i, .subjects = subjects};
        pthread_create(&jobs[i].thread, NULL, hammer, &jobs[i]);
    }
    nap(400000000);
    book->stop = 1;
    for (unsigned i = 0; i < WORKERS; i++) {
        pthread_join(jobs[i].thread, NULL);
    }
    assert_within_limits(subjects);
}

static void between_processes(unsigned subjects)
{
    pid_t pids[WORKERS];

    for (unsigned i = 0; i < WORKERS; i++) {
        pids[i] = fork_hammer(i, subjects);
    }
    nap(400000000);
    book->stop = 1;
    for (unsigned i = 0; i < WORKERS; i++) {
        unit_reap(pids[i], 0);
    }
    assert_within_limits(subjects);
}

static void test_subjects_few_between_threads(void **state)
{
    between_threads(FEW);
    assert_int_equal(book->moved, 0);
    assert_int_equal(ue_subjects_count(table), FEW);
    assert_usable();
}

static void test_subjects_few_between_processes(void **state)
{
    between_processes(FEW);
    assert_int_equal(book->moved, 0);
    assert_int_equal(ue_subjects_count(table), FEW);
    assert_usable();
}

static void test_subjects_many_between_threads(void **state)
{
    between_threads(MANY);
    assert_in_range(book->full, 1, UINT32_MAX);
    assert_usable();
}

static void test_subjects_many_between_processes(void **state)
{
    between_processes(MANY);
    assert_in_range(book->full, 1, UINT32_MAX);
    assert_in_range(book->moved, RUNNING_ON_VALGRIND ? 0 : 1, UINT32_MAX);
    assert_usable();
}

/* Who meets a subject first at the same time as others, finds it with them. */
typedef struct {
    pthread_t thread;
    pthread_barrier_t *barrier;
    unsigned rounds;
    uint32_t wrong;
} meeting_t;

static void *meet(void *arg)
{
    meeting_t *m = arg;

    for (unsigned i = 0; i < m->rounds; i++) {
        ue_subject_t subject = unit_subject(i);
        ue_subjectref_t ref;
        ue_gcra_state_t s;

        pthread_barrier_wait(m->barrier);
        while (ue_subjects_find(table, &subject, 1, &ref) == APR_EAGAIN) {
            /* whoever has the lock isn't run just now */
        }
        m->wrong += ue_subjects_take(table, ref, &hourly, 1, &s)
                    || ref.slot != i % SIZE + 1;
        if (pthread_barrier_wait(m->barrier) && i % SIZE == SIZE - 1) {
            for (unsigned n = 0; n < SIZE; n++) {
                table->slots[n].tat &= ~UE_GCRA_MASK; /* all idle again */
            }
        }
    }
    return NULL;
}

static void test_subjects_put_in_once(void **state)
{
    meeting_t meetings[WORKERS];
    pthread_barrier_t barrier;

    pthread_barrier_init(&barrier, NULL, WORKERS);
    for (unsigned i = 0; i < WORKERS; i++) {
        meetings[i] = (meeting_t){.barrier = &barrier};
        meetings[i].rounds = unit_loops(3000);
        pthread_create(&meetings[i].thread, NULL, meet, &meetings[i]);
    }
    for (unsigned i = 0; i < WORKERS; i++) {
        pthread_join(meetings[i].thread, NULL);
        assert_int_equal(meetings[i].wrong, 0);
    }
    pthread_barrier_destroy(&barrier);
    unit_assert_whole(table);
}

/* Killing --------------------------------------------------------------- */

static void hold(uint64_t now)
{
    for (uint64_t n = 0; n < HELD; n++) {
        assert_int_equal(unit_use_up(table, HELD_AT + n, &hourly, now), 2);
    }
}

/* Whoever has the lock may be building the chains anew just now, which is
 * waited for, but not for long. */
static ue_subjectref_t find_in_time(uint64_t n)
{
    ue_subject_t subject = unit_subject(n);
    ue_subjectref_t ref = {0, 0, 0};
    unsigned tries = 0;

    while (ue_subjects_find(table, &subject, unit_now(), &ref)) {
        assert_in_range(tries++, 0, 1000);
        nap(1000000);
    }
    return ref;
}

static void assert_all_held(void)
{
    ue_gcra_state_t s;

    for (uint64_t n = 0; n < HELD; n++) {
        assert_int_equal(ue_subjects_take(table, find_in_time(HELD_AT + n),
                                          &hourly, unit_now(), &s),
                         APR_SUCCESS);
        assert_false(s.is_let_in);
        assert_in_range(s.full, UNIT_HOUR + 1, 2 * UNIT_HOUR);
    }
}

/* Stop a child. @return whether it has the lock; if not, it goes on */
static int stop_with_lock(pid_t pid)
{
    int status;

    kill(pid, SIGSTOP);
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status));
    if (table->shared->mutex.__data.__owner == pid) {
        return 1;
    }
    kill(pid, SIGCONT);
    return 0;
}

/* Of two, one that has the lock, if that can be had, and one that may not. */
static unsigned choose_victim(const pid_t pids[WORKERS], uint64_t r)
{
    unsigned tries = 0, victim = r % WORKERS;

    while (r & 256 && !stop_with_lock(pids[victim]) && tries++ < 100) {
        victim = (victim + 1) % WORKERS;
        nap(20000);
    }
    return victim;
}

/* Children are killed at any moment, many of them while they have the lock;
 * whose bucket was used up stays refused, and nobody gets more than it may. */
static void test_subjects_survive_killed_children(void **state)
{
    uint64_t seed = 5;
    unsigned kills = unit_loops(200);
    pid_t pids[WORKERS];

    hold(unit_now());
    for (unsigned i = 0; i < WORKERS; i++) {
        pids[i] = fork_hammer(i, MANY);
    }
    for (unsigned i = 0; i < kills; i++) {
        uint64_t r = unit_random(&seed);
        unsigned victim;

        nap((long)(r % 4000000));
        victim = choose_victim(pids, r >> 32);
        unit_reap(pids[victim], SIGKILL);
        assert_all_held();
        pids[victim] = fork_hammer(100 + i, MANY);
    }
    book->stop = 1;
    for (unsigned i = 0; i < WORKERS; i++) {
        unit_reap(pids[i], 0);
    }
    assert_in_range(table->shared->rebuilt, kills / 20, kills + WORKERS);
    assert_within_limits(MANY);
    assert_all_held();
    nap(20000000);
    unit_find(table, 3000000, unit_now());
    unit_assert_whole(table);
}

/* The one that is killed surely has the lock, and all that isn't in the slots
 * is wrong. */
static void test_subjects_are_counted_after_a_kill(void **state)
{
    uint64_t now = unit_now();
    pid_t pid;

    hold(now);
    for (unsigned i = 0; i < 20; i++) {
        pid = unit_fork();
        if (pid == 0) {
            pthread_mutex_lock(&table->shared->mutex);
            for (unsigned b = 0; b < SIZE; b++) {
                table->buckets[b] = i % 2 ? b : UINT32_MAX;
                table->slots[b].next = i % 3 ? 0 : b + 1;
            }
            table->shared->free = 1 + i;
            table->shared->hand = UINT32_MAX;
            table->shared->count = 77;
            raise(SIGKILL);
        }
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        unit_find(table, i, now);
        assert_int_equal(table->shared->rebuilt, i + 1);
        assert_all_held();
        unit_assert_whole(table);
    }
    assert_int_equal(ue_subjects_count(table), SIZE);
}

/* A child that is stopped while it has the lock holds up nobody whose subject
 * is there, and others for a moment. */
static void test_subjects_go_on_beside_a_stopped_child(void **state)
{
    uint64_t now = unit_now(), took;
    int status;
    pid_t pid;

    hold(now);
    pid = unit_fork();
    if (pid == 0) {
        pthread_mutex_lock(&table->shared->mutex);
        raise(SIGSTOP);
        pthread_mutex_unlock(&table->shared->mutex);
        unit_exit(0);
    }
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status));
    now = unit_now();
    assert_true(unit_is_full(table, 1, now));
    took = unit_now() - now;
    /* each step ends by the wall clock, which may be adjusted meanwhile */
    assert_in_range(took, (UE_SUBJECTS_PATIENCE - 1) * UNIT_MS, 1000 * UNIT_MS);
    for (uint64_t n = 0; n < HELD; n++) {
        assert_false(unit_take(table, HELD_AT + n, &hourly, now));
    }
    kill(pid, SIGCONT);
    unit_reap(pid, 0);
    unit_find(table, 1, now);
    assert_int_equal(table->shared->rebuilt, 0);
}

/* A kill at each instruction -------------------------------------------- */

/*
 * A child puts a subject in, one instruction after the other. After each of
 * them the memory is copied, as a kill would have left it, and the copy is
 * taken up by another process, which is this one.
 */
typedef struct {
    ue_subjects_t copy;
    void *memory;
    ue_subjectref_t refs[8]; /* all by which the idle one was found */
    unsigned found, steps, with_lock;
} trace_t;

/* Two subjects that are used up, and between them one that is idle. */
enum { USED, IDLE, ALSO_USED, COMES = 13 };

static void fill_small_table(void)
{
    unit_unmap(table);
    table = unit_subjects(3, pool);
    assert_int_equal(unit_use_up(table, USED, &hourly, 1), 2);
    unit_find(table, IDLE, 1);
    assert_int_equal(unit_use_up(table, ALSO_USED, &hourly, 1), 2);
}

static void begin_trace(trace_t *trace)
{
    fill_small_table();
    memset(trace, 0, sizeof(*trace));
    trace->memory = unit_map(ue_subjects_bytes(3));
}

static void *moved(const trace_t *trace, void *part)
{
    return (char *)trace->memory + ((char *)part - (char *)table->shared);
}

/* The kernel marks the lock of a thread that has ended (futex(2), "robust"). */
static void copy_table(trace_t *trace)
{
    ue_subjects_t *c = &trace->copy;

    *c = *table;
    memcpy(trace->memory, table->shared, ue_subjects_bytes(3));
    c->shared = moved(trace, table->shared);
    c->buckets = moved(trace, table->buckets);
    c->slots = moved(trace, table->slots);
    if (c->shared->mutex.__data.__lock) {
        c->shared->mutex.__data.__lock = FUTEX_OWNER_DIED;
        trace->with_lock++;
    }
}

/* Whoever has a slot is somebody, not part of one and part of another. */
static void assert_not_torn(const ue_subjectslot_t *slot)
{
    static const uint64_t all[] = {USED, IDLE, ALSO_USED, COMES};
    unsigned found = 0;

    for (size_t i = 0; i < UNIT_COUNT(all); i++) {
        ue_subject_t s = unit_subject(all[i]);
        uint64_t kind = all[i] % 9;

        found += slot->id[0] == s.id[0] && slot->id[1] == s.id[1]
                 && (slot->who & UE_SUBJECT_NAME)
                        == (UE_SUBJECT_IN_USE | kind % 3 << UE_SUBJECT_BY_SHIFT
                            | kind / 3 << UE_SUBJECT_PERIOD_SHIFT);
    }
    assert_int_equal(found, 1);
}

static void assert_nothing_lost(trace_t *trace)
{
    ue_subjects_t *c = &trace->copy;

    copy_table(trace);
    for (unsigned i = 0; i < 3; i++) {
        if (unit_is_in_use(&c->slots[i])) {
            assert_not_torn(&c->slots[i]);
        }
    }
    assert_int_equal(unit_use_up(c, USED, &hourly, 1), 0);
    assert_int_equal(unit_use_up(c, ALSO_USED, &hourly, 1), 0);
    assert_int_equal(unit_use_up(c, COMES, &hourly, 1), 2);
    assert_true(unit_is_full(c, IDLE, 1));
    assert_int_equal(ue_subjects_count(c), 3);
    unit_assert_whole(c);
}

/* By whatever the idle one is found while it gives up its slot; once it is not,
 * it never is again. */
static void find_the_leaving(trace_t *trace)
{
    ue_subject_t subject = unit_subject(IDLE);
    ue_subjectref_t ref;

    if (trace->found == UNIT_COUNT(trace->refs)) {
        return;
    }
    if (ue_subjects_find(table, &subject, 1, &ref)) {
        trace->found = UNIT_COUNT(trace->refs);
    }
    else if (!trace->found
             || !unit_is_same(ref, trace->refs[trace->found - 1])) {
        trace->refs[trace->found++] = ref;
    }
}

/* A child that will put a subject in, stopped before and after. */
static pid_t fork_stepwise(void)
{
    ue_subject_t subject = unit_subject(COMES);
    pid_t pid = unit_fork();
    ue_subjectref_t ref;
    int status;

    if (pid == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        ue_subjects_find(table, &subject, 1, &ref);
        raise(SIGSTOP);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    return pid;
}

/* One instruction, or all. @return whether there are more */
static int step(pid_t pid, int how)
{
    int status;

    assert_int_equal(ptrace(how, pid, NULL, NULL), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSTOPPED(status));
    return WSTOPSIG(status) != SIGSTOP;
}

static void put_in_by_steps(trace_t *trace, int finds)
{
    pid_t pid = fork_stepwise();

    while (step(pid, PTRACE_SINGLESTEP)) {
        assert_in_range(trace->steps++, 0, 100000);
        assert_nothing_lost(trace);
        if (finds) {
            find_the_leaving(trace);
        }
    }
    unit_reap(pid, SIGKILL);
    print_message("%u instructions, %u with the lock\n", trace->steps,
                  trace->with_lock);
}

/* Tools single-step other instructions than those that are run, and elsewhere a
 * compare-and-swap may be several, which never succeed one by one. */
static int can_step(void)
{
#if !defined(__x86_64__) || defined(__SANITIZE_THREAD__) \
    || defined(__SANITIZE_ADDRESS__)
    return 0;
#else
    return !RUNNING_ON_VALGRIND;
#endif
}

static void test_subjects_survive_a_kill_at_each_instruction(void **state)
{
    trace_t trace;

    if (!can_step()) {
        skip();
    }
    begin_trace(&trace);
    put_in_by_steps(&trace, 0);
    assert_in_range(trace.with_lock, 200, trace.steps - 200);
    munmap(trace.memory, ue_subjects_bytes(3));
}

/* Also where it had to clear up after another one. */
static void test_subjects_survive_a_kill_after_a_kill(void **state)
{
    trace_t trace;
    pid_t pid;

    if (!can_step()) {
        skip();
    }
    begin_trace(&trace);
    pid = unit_fork();
    if (pid == 0) {
        pthread_mutex_lock(&table->shared->mutex);
        table->buckets[0] = table->buckets[1] = table->buckets[2] = 3;
        table->slots[2].next = 3;
        raise(SIGKILL);
    }
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    put_in_by_steps(&trace, 0);
    assert_in_range(trace.with_lock, 500, trace.steps);
    munmap(trace.memory, ue_subjects_bytes(3));
}

/* Whoever found a subject at any instruction of its leaving can't reach the one
 * that has its slot then. */
static void test_subjects_leave_no_reference_behind(void **state)
{
    ue_gcra_state_t s;
    trace_t trace;

    if (!can_step()) {
        skip();
    }
    begin_trace(&trace);
    put_in_by_steps(&trace, 1);
    assert_int_equal(trace.refs[0].slot, unit_find(table, COMES, 1).slot);
    for (unsigned i = 0; i < UNIT_COUNT(trace.refs); i++) {
        assert_int_equal(ue_subjects_take(table, trace.refs[i], &hourly, 1, &s),
                         APR_EGENERAL);
    }
    assert_int_equal(unit_use_up(table, COMES, &hourly, 1), 2);
    munmap(trace.memory, ue_subjects_bytes(3));
}

/* A request of the idle one comes after so many instructions of the other's.
 * @return whether it was let in */
static int take_between(unsigned instructions)
{
    ue_subjectref_t ref = unit_find(table, IDLE, 1);
    pid_t pid = fork_stepwise();
    ue_gcra_state_t s;
    int is_let_in;

    while (instructions--) {
        step(pid, PTRACE_SINGLESTEP);
    }
    is_let_in = !ue_subjects_take(table, ref, &hourly, 1, &s);
    assert_int_equal(step(pid, PTRACE_CONT), 0);
    unit_reap(pid, SIGKILL);
    return is_let_in;
}

/* Either the request was counted, and there is no room for the other subject,
 * or the slot is the other's. */
static void test_subjects_give_up_or_let_in(void **state)
{
    unsigned first = 0, n, let_in = 0, late = 0;
    trace_t trace;
    pid_t pid;

    if (!can_step()) {
        skip();
    }
    begin_trace(&trace);
    for (pid = fork_stepwise(); !trace.with_lock; first++) {
        step(pid, PTRACE_SINGLESTEP);
        copy_table(&trace);
    }
    unit_reap(pid, SIGKILL);
    munmap(trace.memory, ue_subjects_bytes(3));
    for (n = 0; late < 5; n += 3) {
        fill_small_table();
        if (take_between(first + n)) {
            assert_int_equal(unit_use_up(table, IDLE, &hourly, 1), 1);
            assert_true(unit_is_full(table, COMES, 1));
            let_in++;
        }
        else {
            assert_int_equal(unit_use_up(table, COMES, &hourly, 1), 2);
            assert_true(unit_is_full(table, IDLE, 1));
            late++;
        }
    }
    assert_in_range(let_in, 5, UINT32_MAX);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

/* Processes before threads, whose memory would be a leak to a child. */
static const struct CMUnitTest tests[] = {
    TEST(test_subjects_few_between_processes),
    TEST(test_subjects_many_between_processes),
    TEST(test_subjects_survive_killed_children),
    TEST(test_subjects_are_counted_after_a_kill),
    TEST(test_subjects_go_on_beside_a_stopped_child),
    TEST(test_subjects_survive_a_kill_at_each_instruction),
    TEST(test_subjects_survive_a_kill_after_a_kill),
    TEST(test_subjects_leave_no_reference_behind),
    TEST(test_subjects_give_up_or_let_in),
    TEST(test_subjects_few_between_threads),
    TEST(test_subjects_many_between_threads),
    TEST(test_subjects_put_in_once),
};

UNIT_MAIN(tests)
