/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * The key cache between threads and processes: nothing that is found is torn or
 * another key's, whoever writes at the same time, and whoever of them is killed
 * while writing.
 */
#include "unit_keycache.h"

#include <sys/prctl.h>
#include <time.h>

#define SIZE 64
#define KEYS 96 /* more than there is room for */
#define WRITERS 4

typedef struct {
    pthread_t thread;
    ue_keycache_t *c;
    uint64_t seed;
    unsigned rounds;
    const _Atomic int *stop; /* or until then */
    int collects;            /* one thread of a process does */
    /* what it saw */
    unsigned wrong, found, unknown, absent;
} job_t;

static apr_pool_t *pool;
static ue_keycache_t *cache;

static int begin(void **state)
{
    apr_pool_create(&pool, NULL);
    unit_make_blocks(12, pool);
    cache = unit_keycache(SIZE, pool);
    return 0;
}

static int end(void **state)
{
    unit_unmap(cache);
    apr_pool_destroy(pool);
    return 0;
}

static uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static int goes_on(const job_t *job, unsigned round)
{
    return job->stop ? !*job->stop : round < job->rounds;
}

static void write_one(job_t *job)
{
    uint64_t what = unit_random(&job->seed), key = what % KEYS;
    ue_keyhash_t hash = unit_hash(key), hashes[8];
    ue_keytag_t tag = unit_tag(key);
    uint32_t cursor = 0;
    ue_keyage_t age;

    switch (what >> 32 & 15) {
    case 0:
        ue_keycache_put_unknown(job->c, &tag, &hash, now_ms());
        break;
    case 1:
        /* not all that are unknown at once */
        ue_keycache_doubt(job->c, &hash, now_ms() - 5);
        break;
    case 2:
        if (job->collects) {
            ue_keycache_older(job->c, &cursor, now_ms(), hashes, 8);
        }
        break;
    case 3:
        if (ue_keycache_peek(job->c, &tag, &age, &hash) == UE_KEYCACHE_FOUND) {
            ue_keyhash_t right = unit_hash(key);

            job->wrong += !!memcmp(&hash, &right, sizeof(hash));
        }
        break;
    default:
        unit_put(job->c, key, (uint32_t)(what >> 40), now_ms());
    }
}

static void *write_keys(void *arg)
{
    job_t *job = arg;

    for (unsigned i = 0; goes_on(job, i); i++) {
        write_one(job);
    }
    return NULL;
}

static void *read_keys(void *arg)
{
    job_t *job = arg;
    ue_keyage_t age;
    uint32_t version;

    for (unsigned i = 0; goes_on(job, i); i++) {
        int state =
            unit_find(job->c, unit_random(&job->seed) % KEYS, &age, &version);

        job->wrong += state == -1;
        job->found += state == UE_KEYCACHE_FOUND;
        job->unknown += state == UE_KEYCACHE_UNKNOWN;
    }
    return NULL;
}

/* All that is there at the end is right, and there is room for all again. */
static void assert_usable(ue_keycache_t *c)
{
    uint64_t later = now_ms() + 10;
    uint32_t n = 0;
    ue_keyage_t age;

    for (uint64_t key = 0; key < KEYS; key++) {
        n += unit_state(c, key) == UE_KEYCACHE_FOUND;
    }
    assert_int_equal(n, ue_keycache_count(c));
    for (uint64_t key = 0; key < KEYS; key++) {
        uint32_t version;

        unit_put(c, key, 16 - (uint32_t)(key % 16), later);
        assert_int_equal(unit_find(c, key, &age, &version), UE_KEYCACHE_FOUND);
    }
    assert_int_equal(ue_keycache_count(c), SIZE);
}

/* Threads of one process, so that ThreadSanitizer sees them. Of a process one
 * thread writes, so each writer has a handle of its own, as a child has. */
static void test_keycache_between_threads(void **state)
{
    _Atomic int stop = 0;
    ue_keycache_t handles[2] = {*cache, *cache};
    job_t writers[2], readers[2];
    unsigned found = 0, unknown = 0;

    for (unsigned i = 0; i < 2; i++) {
        writers[i] = (job_t){.c = &handles[i], .seed = i, .collects = i == 0};
        writers[i].rounds = unit_loops(100000);
        readers[i] = (job_t){.c = cache, .seed = 10 + i, .stop = &stop};
        pthread_create(&writers[i].thread, NULL, write_keys, &writers[i]);
        pthread_create(&readers[i].thread, NULL, read_keys, &readers[i]);
    }
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(writers[i].thread, NULL);
    }
    stop = 1;
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(readers[i].thread, NULL);
        assert_int_equal(readers[i].wrong + writers[i].wrong, 0);
        found += readers[i].found;
        unknown += readers[i].unknown;
    }
    assert_in_range(found, 1, UINT32_MAX);
    assert_in_range(unknown, RUNNING_ON_VALGRIND ? 0 : 1, UINT32_MAX);
    assert_usable(cache);
}

static void *read_one(void *arg)
{
    job_t *job = arg;
    int state = 0, before;
    ue_keyage_t age;
    uint32_t version;

    while (!*job->stop) {
        before = state;
        state = unit_find(job->c, 5, &age, &version);
        job->wrong += state == -1;
        job->found += state == UE_KEYCACHE_FOUND;
        job->absent += state == UE_KEYCACHE_ABSENT && state != before;
    }
    return NULL;
}

/* A key that is written all the time is found almost always: readers read again
 * what changed meanwhile, and give up only where a writer is held up (which
 * counts once, however often they come by). */
static void test_keycache_finds_what_is_being_written(void **state)
{
    _Atomic int stop = 0;
    job_t reader = {.c = cache, .stop = &stop};
    unsigned i = 0;

    unit_put(cache, 5, 1, 1000);
    pthread_create(&reader.thread, NULL, read_one, &reader);
    for (; i < unit_loops(300000); i++) {
        unit_put(cache, 5, i, 1000 + i);
    }
    stop = 1;
    pthread_join(reader.thread, NULL);
    assert_int_equal(reader.wrong, 0);
    assert_true(reader.absent <= reader.found / 10);
}

static pid_t fork_job(void *(*run)(void *), uint64_t seed, unsigned rounds,
                      const _Atomic int *stop)
{
    pid_t pid = fork();

    if (pid == 0) {
        job_t job = {.c = cache, .seed = seed, .rounds = rounds, .stop = stop};

        job.collects = 1;
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* also where the test fails */
        run(&job);
        unit_exit(job.wrong != 0);
    }
    assert_true(pid > 0);
    return pid;
}

static _Atomic int *shared_flag(void)
{
    void *at = mmap(NULL, sizeof(_Atomic int), PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_ptr_not_equal(at, MAP_FAILED);
    return at;
}

static void test_keycache_between_processes(void **state)
{
    _Atomic int *stop = shared_flag();
    pid_t writers[WRITERS], readers[2];

    for (unsigned i = 0; i < 2; i++) {
        readers[i] = fork_job(read_keys, 20 + i, 0, stop);
    }
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = fork_job(write_keys, i, unit_loops(100000), NULL);
    }
    for (unsigned i = 0; i < WRITERS; i++) {
        unit_reap(writers[i], 0);
    }
    *stop = 1;
    for (unsigned i = 0; i < 2; i++) {
        unit_reap(readers[i], 0);
    }
    assert_usable(cache);
    munmap((void *)stop, sizeof(*stop));
}

/* Writers are killed at any moment, most of them while they have the lock;
 * readers find nothing that is torn, and others go on writing. */
static void test_keycache_survives_killed_writers(void **state)
{
    _Atomic int *stop = shared_flag();
    pid_t reader = fork_job(read_keys, 1, 0, stop), writers[WRITERS];
    unsigned kills = unit_loops(200);
    uint64_t seed = 5;

    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = fork_job(write_keys, i, 0, stop);
    }
    for (unsigned i = 0; i < kills; i++) {
        struct timespec t = {0, (long)(unit_random(&seed) % 4000000)};
        unsigned victim = (unsigned)unit_random(&seed) % WRITERS;

        nanosleep(&t, NULL);
        unit_reap(writers[victim], SIGKILL);
        unit_put(cache, i % KEYS, 1, now_ms());
        unit_state(cache, i % KEYS);
        writers[victim] = fork_job(write_keys, 100 + i, 0, stop);
    }
    *stop = 1;
    for (unsigned i = 0; i < WRITERS; i++) {
        unit_reap(writers[i], 0);
    }
    unit_reap(reader, 0);
    /* some had the lock */
    assert_in_range(cache->shared->emptied, kills > 50, kills + WRITERS);
    assert_usable(cache);
    munmap((void *)stop, sizeof(*stop));
}

/* The one that is killed surely has the lock, in the middle of a cell. */
static void test_keycache_is_emptied_after_a_kill(void **state)
{
    ue_keyhash_t hash = unit_hash(3);

    for (unsigned i = 0; i < 20; i++) {
        pid_t pid;

        for (uint64_t key = 0; key < SIZE; key++) {
            unit_put(cache, key, 16 - (uint32_t)(key % 16), 1000 + i);
        }
        ue_keycache_doubt(cache, &hash, 5000);
        pid = fork();
        if (pid == 0) {
            pthread_mutex_lock(&cache->shared->mutex);
            cache->cells[i].seq++;
            cache->cells[i].bits = UINT32_MAX;
            cache->cells[i].words[UE_CELL_CHUNK] = UINT64_MAX;
            cache->shared->free_chunk = UINT32_MAX;
            cache->shared->free_cell = UINT32_MAX;
            raise(SIGKILL);
        }
        assert_true(pid > 0);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        assert_int_equal(ue_keycache_count(cache), SIZE);
        unit_put(cache, SIZE, 1, 2000);
        assert_int_equal(ue_keycache_count(cache), 1);
        assert_int_equal(unit_state(cache, SIZE), UE_KEYCACHE_FOUND);
        /* whoever is reading one just now must see that it has gone */
        for (unsigned n = 0; n < SIZE; n++) {
            assert_int_equal(cache->cells[n].seq % 2, n == 0);
        }
        for (uint64_t key = 0; key < SIZE; key++) {
            assert_int_equal(unit_state(cache, key), UE_KEYCACHE_ABSENT);
        }
    }
    unit_put(cache, 3, 1, 5000);
    {
        uint32_t version;
        ue_keyage_t age;

        /* what was doubted before the kill still is */
        assert_int_equal(unit_find(cache, 3, &age, &version),
                         UE_KEYCACHE_FOUND);
        assert_int_equal(age.doubted, UE_DOUBT_KEY);
    }
    assert_usable(cache);
}

/* A child that is stopped while it has the lock holds nobody up for long, and
 * no news is lost. */
static void test_keycache_goes_on_beside_a_stopped_writer(void **state)
{
    ue_keyhash_t hash = unit_hash(2);
    ue_keytag_t tag = unit_tag(2);
    uint64_t began = now_ms();
    uint32_t version;
    ue_keyage_t age;
    int status;
    pid_t pid;

    unit_put(cache, 1, 1, 1000);
    pid = fork();
    if (pid == 0) {
        pthread_mutex_lock(&cache->shared->mutex);
        raise(SIGSTOP);
        pthread_mutex_unlock(&cache->shared->mutex);
        unit_exit(0);
    }
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status));
    unit_put(cache, 1, 2, 2000);
    assert_int_equal(unit_find(cache, 1, &age, &version), UE_KEYCACHE_FOUND);
    assert_int_equal(age.checked, 1000);
    assert_int_equal(age.doubted, 0);
    ue_keycache_put_unknown(cache, &tag, &hash, 999);
    unit_find(cache, 1, &age, &version);
    assert_int_equal(age.doubted, 0);
    ue_keycache_doubt(cache, &hash, 1000);
    assert_int_equal(unit_find(cache, 1, &age, &version), UE_KEYCACHE_FOUND);
    assert_int_equal(age.doubted, UE_DOUBT_ALL);
    /* and only the first of the three waits for it */
    assert_in_range(now_ms() - began, 400, 1400);
    kill(pid, SIGCONT);
    unit_reap(pid, 0);
    assert_usable(cache);
}

/* Of children that all want to ask for a key at once, one does. */
static void test_keycache_one_child_claims(void **state)
{
    typedef struct {
        pthread_barrier_t barrier;
        _Atomic unsigned won[2000];
    } round_t;
    round_t *r = mmap(NULL, sizeof(*r), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned rounds = unit_loops(UNIT_COUNT(r->won));
    ue_keyhash_t hash = unit_hash(1);
    pthread_barrierattr_t attr;
    pid_t pids[WRITERS];

    pthread_barrierattr_init(&attr);
    pthread_barrierattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&r->barrier, &attr, WRITERS);
    for (unsigned i = 0; i < WRITERS; i++) {
        pids[i] = fork();
        for (unsigned n = 0; pids[i] == 0 && n < rounds; n++) {
            pthread_barrier_wait(&r->barrier);
            r->won[n] +=
                (unsigned)ue_keycache_claim(cache, &hash, 1000 + n * 10, 10);
        }
        if (pids[i] == 0) {
            unit_exit(0);
        }
    }
    for (unsigned i = 0; i < WRITERS; i++) {
        unit_reap(pids[i], 0);
    }
    for (unsigned n = 0; n < rounds; n++) {
        assert_int_equal(r->won[n], 1);
    }
    munmap(r, sizeof(*r));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
    /* Processes before threads, whose memory would be a leak to a child. */
    const struct CMUnitTest tests[] = {
        TEST(test_keycache_between_processes),
        TEST(test_keycache_survives_killed_writers),
        TEST(test_keycache_is_emptied_after_a_kill),
        TEST(test_keycache_goes_on_beside_a_stopped_writer),
        TEST(test_keycache_one_child_claims),
        TEST(test_keycache_between_threads),
        TEST(test_keycache_finds_what_is_being_written),
    };
    int failed;

    if (apr_initialize() != APR_SUCCESS) {
        return 1;
    }
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    apr_terminate();
    return failed;
}
