/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * The file sink among others that append to the same file: processes that share
 * one description, as httpd's children do, processes and threads with one of
 * their own, and those who hold a lock for too long.
 */
#include "unit_sink_file.h"

#include <pthread.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* The moment between looking for the end of the file and writing there, or
 * taking back, is short: made longer, it is met; and a test may do something
 * in it. */
static void (*in_between)(void);

off_t lseek(int fd, off_t offset, int whence)
{
    off_t at = (off_t)syscall(SYS_lseek, fd, offset, whence);

    sched_yield();
    if (in_between) {
        in_between();
    }
    return at;
}

int ftruncate(int fd, off_t length)
{
    sched_yield();
    return (int)syscall(SYS_ftruncate, fd, length);
}

/* ---- many writers ---- */

static unsigned lines_each(void)
{
    return (unit_loops(3000) + RECORDS - 1) / RECORDS * RECORDS;
}

/* Append lines, asking again for as long as another writes. */
static int write_lines(ue_sink_t *sink, int who, unsigned lines, told_t *t)
{
    apr_time_t deadline = ue_monotonic() + apr_time_from_sec(60);
    batch_t *batch = malloc(sizeof(*batch));
    unsigned written = 0;

    while (batch && written < lines && ue_monotonic() < deadline) {
        unsigned count = 1 + written % 9;
        size_t taken = 0;
        apr_status_t rv;

        count = count > lines - written ? lines - written : count;
        make_batch(batch, count, who, written);
        rv = submit(sink, batch, &taken);
        written += (unsigned)taken;
        if (APR_STATUS_IS_EAGAIN(rv)) {
            apr_sleep(20);
        }
        else if (rv != APR_SUCCESS) {
            break;
        }
    }
    free(batch);
    return written == lines && t->delivered == lines && t->refused == 0;
}

static void check_writers(int count, unsigned lines)
{
    found_t found[WRITERS];

    read_lines(found);
    for (int i = 0; i < count; i++) {
        assert_int_equal(found[i].lines, lines);
        assert_int_equal(found[i].wrong, 0);
    }
}

/* Wait for all before judging any: none may outlive the test. */
static void reap(const pid_t *pids, int count)
{
    int bad = 0;

    for (int i = 0; i < count; i++) {
        int status = -1;

        if (waitpid(pids[i], &status, 0) != pids[i] || !WIFEXITED(status)
            || WEXITSTATUS(status) != 0) {
            bad++;
        }
    }
    assert_int_equal(bad, 0);
}

/* httpd's children share the description that their parent opened; the old
 * generation has another one. */
static void test_sink_file_keeps_lines_of_many_processes_whole(void **state)
{
    enum { CHILDREN = 6 };
    unsigned lines = lines_each();
    pid_t pids[CHILDREN];

    for (int i = 0; i < CHILDREN; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0) {
            told_t *t = &told;
            ue_sink_t *sink = fix.sink;
            told_t other;

            if (i % 3 == 2) {
                sink = open_sink(fix.path);
                t = &other;
            }
            start_sink(sink, t);
            unit_exit(write_lines(sink, i, lines, t) ? 0 : 1);
        }
    }
    reap(pids, CHILDREN);
    check_writers(CHILDREN, lines);
}

typedef struct {
    pthread_t thread;
    ue_sink_t *sink;
    told_t told;
    int who;
    unsigned lines;
    int good;
} writer_t;

static void *write_in_thread(void *arg)
{
    writer_t *w = arg;

    w->good = write_lines(w->sink, w->who, w->lines, &w->told);
    return NULL;
}

/* Two virtual hosts with settings of their own have two producers in one
 * process, each with a thread and a description of the same file. */
static void test_sink_file_keeps_lines_of_threads_whole(void **state)
{
    writer_t writers[3];

    for (int i = 0; i < 3; i++) {
        writers[i] = (writer_t){.who = i, .lines = lines_each()};
        writers[i].sink = open_sink(fix.path);
        start_sink(writers[i].sink, &writers[i].told);
    }
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_create(&writers[i].thread, NULL,
                                        write_in_thread, &writers[i]),
                         0);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(writers[i].thread, NULL);
        assert_true(writers[i].good);
    }
    check_writers(3, writers[0].lines);
}

/* In a child: try in vain, with room for the beginning of a batch only. */
static void lose_lines(unsigned times)
{
    batch_t *batch = malloc(sizeof(*batch));

    start_sink(fix.sink, &told);
    make_batch(batch, RECORDS, 7, 0);
    for (unsigned n = 0; n < times; n++) {
        size_t taken;

        if (submit_with_room(batch, batch_bytes(batch) / 2, &taken)
            == APR_SUCCESS) {
            unit_exit(2);
        }
    }
    free(batch);
    unit_exit(told.delivered == 0 ? 0 : 1);
}

/* In a child: two threads append, through the parent's description and through
 * one of their own, as for two virtual hosts. */
static void write_in_two_threads(int who, unsigned lines)
{
    writer_t second = {.who = who + 1, .lines = lines};
    int good;

    second.sink = open_sink(fix.path);
    start_sink(second.sink, &second.told);
    start_sink(fix.sink, &told);
    if (pthread_create(&second.thread, NULL, write_in_thread, &second) != 0) {
        unit_exit(1);
    }
    good = write_lines(fix.sink, who, lines, &told);
    pthread_join(second.thread, NULL);
    unit_exit(good && second.good ? 0 : 1);
}

/* While one process meets a full disk again and again and takes back what it
 * wrote, nothing of the others is taken with it. */
static void test_sink_file_takes_back_nothing_of_others(void **state)
{
    unsigned lines = lines_each();
    found_t found[WRITERS];
    pid_t pids[3];

    for (int i = 0; i < 3; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0 && i < 2) {
            write_in_two_threads(2 * i, lines);
        }
        else if (pids[i] == 0) {
            lose_lines(lines / 2);
        }
    }
    reap(pids, 3);
    read_lines(found);
    assert_int_equal(found[7].lines, 0);
    check_writers(4, lines);
}

static ue_sink_t *second_sink;
static apr_status_t second_rv;
static int child_status;

/* While the first sink writes: the second, of the same process, and then a
 * child with the first one's description try, too. */
static void try_others(void)
{
    static batch_t batch;
    size_t taken;
    pid_t pid;

    in_between = NULL;
    make_batch(&batch, 1, 1, 0);
    second_rv = submit(second_sink, &batch, &taken);
    pid = fork();
    if (pid == 0) {
        unit_exit(submit(fix.sink, &batch, &taken) == APR_EAGAIN ? 0 : 1);
    }
    waitpid(pid, &child_status, 0);
}

/* Record locks belong to a process, flock()'s to a description: a second
 * thread that finds the one held must not give away the other. */
static void test_sink_file_keeps_its_locks_whoever_tries_them(void **state)
{
    found_t found[WRITERS];
    batch_t batch;
    told_t t;

    second_sink = open_sink(fix.path);
    start_sink(second_sink, &t);
    make_batch(&batch, 3, 0, 0);
    in_between = try_others;
    submit_all(fix.sink, &batch);
    assert_null(in_between);
    assert_int_equal(second_rv, APR_EAGAIN);
    assert_int_equal(child_status, 0);
    read_lines(found);
    assert_int_equal(found[0].lines, 3);
    assert_int_equal(found[1].lines, 0);
}

/* Somebody who knows of no locks: a line of their own, in the middle. */
static void write_without_lock(void)
{
    static batch_t batch;
    int fd = open(fix.path, O_WRONLY | O_APPEND);

    in_between = NULL;
    make_batch(&batch, 1, 1, 0);
    child_status = write(fd, batch.text, batch_bytes(&batch))
                   != (ssize_t)batch_bytes(&batch);
    close(fd);
}

static void test_sink_file_appends_behind_who_ignores_its_locks(void **state)
{
    found_t found[WRITERS];
    batch_t batch;

    make_batch(&batch, 3, 0, 0);
    in_between = write_without_lock;
    submit_all(fix.sink, &batch);
    assert_null(in_between);
    assert_int_equal(child_status, 0);
    read_lines(found);
    assert_int_equal(found[0].lines, 3);
    assert_int_equal(found[1].lines, 1);
}

/* Rotated by copying and truncating: no hole is left where the end was. */
static void truncate_it(void)
{
    in_between = NULL;
    child_status = truncate(fix.path, 0);
}

static void test_sink_file_leaves_no_hole_when_it_is_truncated(void **state)
{
    found_t found[WRITERS];
    batch_t batch;

    make_batch(&batch, 3, 0, 0);
    submit_all(fix.sink, &batch);
    make_batch(&batch, 2, 2, 0);
    in_between = truncate_it;
    submit_all(fix.sink, &batch);
    assert_int_equal(child_status, 0);
    assert_int_equal(file_size(), (off_t)batch_bytes(&batch));
    read_lines(found);
    assert_int_equal(found[2].lines, 2);
}

/* ---- locks ---- */

/* In a child: hold a lock of one of the two kinds until told to let go. */
static pid_t hold_lock(int record_lock, int *let_go)
{
    int ready[2];
    int end[2];
    pid_t pid;
    char c;

    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe(end), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        int fd = open(fix.path, O_RDWR);

        close(end[1]);
        if (record_lock ? fcntl(fd, F_SETLK, &all) : flock(fd, LOCK_EX)) {
            unit_exit(1);
        }
        if (write(ready[1], "x", 1) != 1 || read(end[0], &c, 1) != 0) {
            unit_exit(1);
        }
        unit_exit(0);
    }
    close(ready[1]);
    close(end[0]);
    assert_int_equal(read(ready[0], &c, 1), 1);
    close(ready[0]);
    *let_go = end[1];
    return pid;
}

/* A process that was stopped while it wrote must not stop everybody's worker,
 * which has a deadline to keep. */
static void test_sink_file_waits_for_no_lock(void **state)
{
    for (int record_lock = 0; record_lock < 2; record_lock++) {
        batch_t batch;
        size_t taken;
        int let_go;
        pid_t pid = hold_lock(record_lock, &let_go);
        apr_time_t begin = ue_monotonic();

        make_batch(&batch, 3, 0, (unsigned)(3 * record_lock));
        assert_int_equal(submit(fix.sink, &batch, &taken), APR_EAGAIN);
        assert_true(ue_monotonic() - begin < apr_time_from_msec(500));
        assert_int_equal(taken, 0);
        assert_int_equal(told.delivered, 3 * record_lock);
        close(let_go);
        reap(&pid, 1);
        submit_all(fix.sink, &batch);
    }
    assert_int_equal(told.delivered, 6);
    /* to find a lock held is nothing to write home about */
    assert_int_equal(fix.log_lines[UE_LOG_ERR], 0);
}

static void test_sink_file_leaves_no_lock_behind(void **state)
{
    batch_t batch;
    size_t taken;
    pid_t pid;

    make_batch(&batch, 3, 0, 0);
    submit_all(fix.sink, &batch);
    make_batch(&batch, 3, 0, 3);
    assert_int_not_equal(submit_with_room(&batch, 5, &taken), APR_SUCCESS);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        int fd = open(fix.path, O_RDWR);

        unit_exit(flock(fd, LOCK_EX | LOCK_NB) || fcntl(fd, F_SETLK, &all));
    }
    reap(&pid, 1);
}

/* Whose children start the sink by themselves, as httpd's do. */
#define TEST_FORKING(f) \
    cmocka_unit_test_setup_teardown(f, set_up_parent, tear_down)

static const struct CMUnitTest tests[] = {
    TEST_FORKING(test_sink_file_keeps_lines_of_many_processes_whole),
    TEST(test_sink_file_keeps_lines_of_threads_whole),
    TEST_FORKING(test_sink_file_takes_back_nothing_of_others),
    TEST(test_sink_file_keeps_its_locks_whoever_tries_them),
    TEST(test_sink_file_appends_behind_who_ignores_its_locks),
    TEST(test_sink_file_leaves_no_hole_when_it_is_truncated),
    TEST(test_sink_file_waits_for_no_lock),
    TEST(test_sink_file_leaves_no_lock_behind),
};

UNIT_MAIN(tests)
