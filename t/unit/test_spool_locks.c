/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * Whose a stream is: the locks of the spool, its bound, and files that are not
 * what they were when their process died.
 */
#include "unit_spool.h"

#include <sys/file.h>

static ue_spool_t *spool;

static void open_spool(apr_off_t most)
{
    assert_int_equal(ue_spool_open(&spool, spool_dir, most, spool_pool),
                     APR_SUCCESS);
}

static void path_of(char *path, size_t size, const ue_stream_t *id,
                    const char *end)
{
    char hex[UE_STREAM_HEX + 1];

    snprintf(path, size, "%s/%s%s", spool_dir, ue_stream_format(id, hex), end);
}

static void make_stream(ue_stream_file_t *file)
{
    static const ue_stream_t instance;
    ue_identity_t identity;

    assert_int_equal(
        ue_ledger_new_identity(&identity, &spool_target, &instance),
        APR_SUCCESS);
    assert_int_equal(ue_spool_stream_create(spool, file, &identity),
                     APR_SUCCESS);
}

/** What a process of its own says when it tries to take a stream over. */
static apr_status_t try_elsewhere(const ue_stream_t *id)
{
    pid_t pid = fork();
    int status;

    assert_true(pid >= 0);
    if (pid == 0) {
        ue_stream_file_t file;
        apr_status_t rv;

        /* The list of what is held came along, the locks did not. */
        rv = ue_spool_open(&spool, spool_dir, 1000000, spool_pool);
        if (rv == APR_SUCCESS) {
            ue_stream_file_t ours = {.id = *id, .fd = -1};

            ue_spool_stream_end(spool, &ours, 0);
            rv = ue_spool_stream_adopt(spool, id, &file);
        }
        unit_exit(rv == APR_SUCCESS ? 1 : APR_STATUS_IS_EBUSY(rv) ? 2 : 3);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status) == 1   ? APR_SUCCESS
           : WEXITSTATUS(status) == 2 ? APR_EBUSY
                                      : APR_EGENERAL;
}

/** Have a process make a stream, and do something with it.
 * @param then what it does; it never comes back
 * @return the process, once the stream is there */
static pid_t process_with_stream(void (*then)(ue_stream_file_t *),
                                 ue_stream_t *id)
{
    int ends[2];
    pid_t pid;

    assert_int_equal(pipe(ends), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        ue_stream_file_t file;

        begin_child();
        open_spool(10000000);
        make_stream(&file);
        if (write(ends[1], &file.id, sizeof(file.id)) < 0) {
            unit_exit(3);
        }
        then(&file);
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], id, sizeof(*id)), sizeof(*id));
    close(ends[0]);
    return pid;
}

static void wait_for_kill(ue_stream_file_t *file)
{
    for (;;) {
        pause();
    }
}

static void test_living_keeps_its_stream_and_dead_does_not(void **state)
{
    ue_stream_file_t file;
    ue_stream_t id;
    pid_t pid = process_with_stream(wait_for_kill, &id);

    open_spool(10000000);
    assert_int_equal(ue_spool_stream_adopt(spool, &id, &file), APR_EBUSY);
    assert_false(ue_spool_is_ours(&id));
    kill_child(pid);
    assert_int_equal(ue_spool_stream_adopt(spool, &id, &file), APR_SUCCESS);
    assert_true(ue_spool_is_ours(&id));
    assert_int_equal(try_elsewhere(&id), APR_EBUSY);
    ue_spool_stream_end(spool, &file, 1);
    assert_false(ue_spool_is_ours(&id));
    assert_int_equal(ue_spool_stream_adopt(spool, &id, &file), ENOENT);
}

/* A program that httpd has started has all that is open, and lives on. */
static void test_heir_of_a_descriptor_holds_nothing(void **state)
{
    ue_stream_file_t file;
    ue_stream_t id;
    pid_t heir;
    int ends[2];
    pid_t pid;

    assert_int_equal(pipe(ends), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        open_spool(10000000);
        make_stream(&file);
        heir = fork();
        if (heir == 0) {
            wait_for_kill(&file);
        }
        if (write(ends[1], &file.id, sizeof(file.id)) < 0
            || write(ends[1], &heir, sizeof(heir)) < 0) {
            unit_exit(3);
        }
        wait_for_kill(&file);
    }
    assert_int_equal(read(ends[0], &id, sizeof(id)), sizeof(id));
    assert_int_equal(read(ends[0], &heir, sizeof(heir)), sizeof(heir));
    close(ends[0]);
    close(ends[1]);
    kill_child(pid);
    open_spool(10000000);
    assert_int_equal(ue_spool_stream_adopt(spool, &id, &file), APR_SUCCESS);
    assert_int_equal(kill(heir, SIGKILL), 0);
    ue_spool_stream_end(spool, &file, 1);
}

/* Closing any descriptor of a file drops a process's lock of it. */
static void test_owner_does_not_drop_its_own_lock(void **state)
{
    ue_stream_file_t file, again;
    apr_array_header_t *entries;

    open_spool(10000000);
    make_stream(&file);
    assert_int_equal(try_elsewhere(&file.id), APR_EBUSY);
    assert_int_equal(ue_spool_stream_adopt(spool, &file.id, &again), APR_EBUSY);
    assert_int_equal(try_elsewhere(&file.id), APR_EBUSY);
    assert_int_equal(ue_spool_list(spool, &entries, spool_pool), APR_SUCCESS);
    assert_int_equal(entries->nelts, 1);
    assert_int_equal(ue_spool_list_dir(spool_dir, &entries, spool_pool),
                     APR_SUCCESS);
    ue_spool_tidy(spool);
    assert_int_equal(try_elsewhere(&file.id), APR_EBUSY);
    ue_spool_stream_end(spool, &file, 0);
    assert_int_equal(try_elsewhere(&file.id), APR_SUCCESS);
}

/* ---- threads of one process ---- */

typedef struct {
    ue_stream_t id;
    ue_stream_file_t file; /* the winner's */
    _Atomic int won, lost, go;
} contest_t;

static void *contend(void *arg)
{
    contest_t *contest = arg;
    ue_stream_file_t file;

    while (!atomic_load(&contest->go)) {
    }
    if (ue_spool_stream_adopt(spool, &contest->id, &file) == APR_SUCCESS) {
        contest->file = file;
        atomic_fetch_add(&contest->won, 1);
    }
    else {
        atomic_fetch_add(&contest->lost, 1);
    }
    return NULL;
}

/** A process's life, in which several threads want the same stream. */
static void contend_all(unsigned rounds)
{
    for (unsigned i = 0; i < rounds; i++) {
        contest_t contest = {.won = 0};
        pthread_t threads[3];
        ue_stream_file_t file;

        make_stream(&file);
        contest.id = file.id;
        ue_spool_stream_end(spool, &file, 0);
        for (int t = 0; t < 3; t++) {
            pthread_create(&threads[t], NULL, contend, &contest);
        }
        atomic_store(&contest.go, 1);
        for (int t = 0; t < 3; t++) {
            pthread_join(threads[t], NULL);
        }
        if (contest.won != 1 || contest.lost != 2) {
            unit_exit(1);
        }
        ue_spool_stream_end(spool, &contest.file, 1);
    }
    unit_exit(0);
}

/* Two virtual hosts look into one directory. */
static void test_of_threads_one_takes_a_stream(void **state)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        open_spool(1 << 30);
        contend_all(unit_loops(300));
    }
    assert_int_equal(ended(pid), 0);
}

/* ---- names ---- */

static void test_replaced_account_is_not_trusted(void **state)
{
    char path[300], other[300];
    ue_stream_file_t file;
    ue_stream_t id;
    int fd;

    open_spool(10000000);
    make_stream(&file);
    id = file.id;
    ue_spool_stream_end(spool, &file, 0);
    path_of(path, sizeof(path), &id, ".stream");
    path_of(other, sizeof(other), &id, ".other");
    /* Not a file of its own, not a name of its own. */
    assert_int_equal(rename(path, other), 0);
    assert_int_equal(symlink(other, path), 0);
    assert_int_equal(ue_spool_stream_adopt(spool, &id, &file), ELOOP);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_true(ue_spool_stream_adopt(spool, &id, &file) != APR_SUCCESS);
    assert_int_equal(rmdir(path), 0);
    fd = open(path, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(ue_spool_stream_adopt(spool, &id, &file), APR_EGENERAL);
    assert_false(ue_spool_is_ours(&id));
    assert_int_equal(rename(other, path), 0);
    assert_int_equal(ue_spool_stream_adopt(spool, &id, &file), APR_SUCCESS);
    ue_spool_stream_end(spool, &file, 1);
}

/** A process that takes streams over and removes them, as fast as it can. */
static void take_and_remove(unsigned seed)
{
    uint64_t dice = seed;

    open_spool(1 << 30);
    while (!atomic_load(&book->stop)) {
        unsigned which = roll_of(&dice, 4);
        _Atomic uint8_t *holders = &book->said[which].admitted;
        ue_stream_file_t file;
        ue_stream_t id = book->stored[which].stream;

        if (ue_spool_stream_adopt(spool, &id, &file) == APR_SUCCESS) {
            /* Whoever has the lock has the file of that name, alone. */
            if (atomic_fetch_add(holders, 1) != 0) {
                atomic_fetch_add(&book->stored_count, 1);
            }
            apr_sleep(roll_of(&dice, 100));
            atomic_fetch_sub(holders, 1);
            /* Under the same name there is another one soon. */
            ue_spool_stream_end(spool, &file, (int)roll_of(&dice, 2));
            atomic_fetch_add(&book->note_count, 1);
        }
    }
    unit_exit(0);
}

/** Make an account under a name, where there is none. */
static void put_account(const ue_account_t *account, unsigned i)
{
    char path[300], temporary[300];
    ue_stream_t id;
    int fd;

    memcpy(&id, (const void *)&book->stored[i].stream, sizeof(id));
    path_of(path, sizeof(path), &id, ".stream");
    if (access(path, F_OK) == 0) {
        return;
    }
    path_of(temporary, sizeof(temporary), &id, ".new");
    fd = open(temporary, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    assert_int_equal(write(fd, account, sizeof(*account)), sizeof(*account));
    close(fd);
    rename(temporary, path);
}

/* One opens a file, the other removes it, a third makes a new one: between
 * opening and locking all of it can happen. */
static void test_lock_is_of_the_file_that_has_the_name(void **state)
{
    static ue_account_t account;
    static const ue_stream_t instance;
    apr_time_t until = ue_monotonic() + apr_time_from_msec(1500);
    ue_identity_t identity;
    pid_t pids[3];

    assert_int_equal(
        ue_ledger_new_identity(&identity, &spool_target, &instance),
        APR_SUCCESS);
    ue_ledger_identify(&account, &identity);
    for (uint8_t i = 0; i < 4; i++) {
        memset(&book->stored[i].stream, i + 1, sizeof(ue_stream_t));
    }
    for (unsigned i = 0; i < 3; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0) {
            begin_child();
            take_and_remove(i);
        }
    }
    while ((ue_monotonic() < until || book->note_count <= 20)
           && book->stored_count == 0) {
        for (unsigned i = 0; i < 4; i++) {
            put_account(&account, i);
        }
    }
    atomic_store(&book->stop, 1);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(ended(pids[i]), 0);
    }
    assert_int_equal(book->stored_count, 0);
}

static void test_directory_belongs_to_one_httpd(void **state)
{
    int status, fd = -1, again = -1;
    pid_t who = 0, pid;

    assert_int_equal(ue_spool_claim(spool_dir, &fd, &who), APR_SUCCESS);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        apr_status_t rv = ue_spool_claim(spool_dir, &again, &who);

        unit_exit(rv == APR_EBUSY && who == getppid() && again < 0 ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(WEXITSTATUS(status), 0);
    close(fd);
    pid = fork();
    if (pid == 0) {
        unit_exit(ue_spool_claim(spool_dir, &again, &who) == APR_SUCCESS ? 0
                                                                         : 1);
    }
    assert_int_equal(ended(pid), 0);
    assert_int_equal(ue_spool_claim("/nowhere/at/all", &fd, &who), ENOENT);
}

/* ---- temporaries ---- */

static void put_file(const char *name, apr_interval_time_t age)
{
    struct timespec times[2] = {{.tv_sec = time(NULL) - apr_time_sec(age)},
                                {.tv_sec = time(NULL) - apr_time_sec(age)}};
    char path[300];
    int fd;

    snprintf(path, sizeof(path), "%s/%s", spool_dir, name);
    fd = open(path, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    assert_int_equal(futimens(fd, times), 0);
    close(fd);
}

static int is_there(const char *name)
{
    char path[300];

    snprintf(path, sizeof(path), "%s/%s", spool_dir, name);
    return access(path, F_OK) == 0;
}

#define NAME "0123456789abcdef0123456789abcdef"

static void test_tidying_removes_old_temporaries_only(void **state)
{
    apr_array_header_t *entries;

    open_spool(10000000);
    put_file(NAME ".stream.tmp", apr_time_from_sec(100));
    put_file(NAME ".0001.slots.tmp", apr_time_from_sec(100));
    put_file(NAME ".0002.slots.tmp", apr_time_from_sec(5));
    put_file(NAME ".0003.slots", apr_time_from_sec(1000));
    put_file(NAME ".stream", apr_time_from_sec(1000));
    put_file("httpd.lock", apr_time_from_sec(1000));
    put_file("notes.tmp", apr_time_from_sec(1000));
    ue_spool_tidy(spool);
    assert_false(is_there(NAME ".stream.tmp"));
    assert_false(is_there(NAME ".0001.slots.tmp"));
    assert_true(is_there(NAME ".0002.slots.tmp"));
    assert_true(is_there(NAME ".0003.slots"));
    assert_true(is_there(NAME ".stream"));
    assert_true(is_there("httpd.lock"));
    assert_true(is_there("notes.tmp"));
    assert_int_equal(ue_spool_list(spool, &entries, spool_pool), APR_SUCCESS);
    assert_int_equal(entries->nelts, 2);
}

static void test_check_says_what_is_wrong(void **state)
{
    char path[300];

    assert_null(ue_spool_check(spool_dir, spool_pool));
    put_file("file", 0);
    snprintf(path, sizeof(path), "%s/file", spool_dir);
    assert_non_null(
        strstr(ue_spool_check(path, spool_pool), "is no directory"));
    snprintf(path, sizeof(path), "%s/nothing", spool_dir);
    assert_non_null(
        strstr(ue_spool_check(path, spool_pool), "there is no directory"));
    snprintf(path, sizeof(path), "%s/file/below", spool_dir);
    assert_non_null(ue_spool_check(path, spool_pool));
}

/* ---- the bound ---- */

#define BOUND 3000000

static apr_off_t bytes_of(const char *end)
{
    const apr_array_header_t *entries = list_spool();
    apr_off_t all = 0;
    int i;

    for (i = 0; i < entries->nelts; i++) {
        const ue_spool_entry_t *entry =
            &APR_ARRAY_IDX(entries, i, ue_spool_entry_t);

        all += strstr(entry->name, end) ? entry->size : 0;
    }
    return all;
}

/** A process's life: make segments until there is no room for any. */
static void grow_until_full(uint64_t seed)
{
    ue_segment_head_t head = {.first = 1};
    ue_stream_file_t file;

    open_spool(BOUND);
    make_stream(&file);
    atomic_fetch_add(&book->ready, 1);
    while (atomic_load(&book->ready) < 4) {
    }
    for (head.slots = 4096; head.slots >= 64;) {
        char name[UE_SPOOL_NAME];
        apr_status_t rv;
        int fd;

        rv = ue_spool_segment_create(spool, &file.id, &head, &fd, name);
        if (APR_STATUS_IS_ENOSPC(rv)) {
            head.slots = head.slots / 2;
        }
        else if (rv == APR_SUCCESS) {
            close(fd);
        }
        else if (rv != APR_EBUSY) {
            unit_exit(2);
        }
    }
    unit_exit(0);
}

static void test_bound_holds_for_all_together(void **state)
{
    for (unsigned round = 0; round < unit_loops(40) / 2 + 1; round++) {
        pid_t pids[4];

        atomic_store(&book->ready, 0);
        for (unsigned i = 0; i < 4; i++) {
            pids[i] = fork();
            assert_true(pids[i] >= 0);
            if (pids[i] == 0) {
                grow_until_full(round * 10 + i);
            }
        }
        for (unsigned i = 0; i < 4; i++) {
            assert_int_equal(ended(pids[i]), 0);
        }
        assert_int_equal(bytes_of(".stream"), 4 * sizeof(ue_account_t));
        /* Kept, and used: not even the smallest segment has room. */
        assert_true(bytes_of(".slots") <= BOUND);
        assert_true(bytes_of(".s") > BOUND - UE_SEGMENT_HEAD - 64 * 192);
        wipe_spool();
    }
}

/* A full spool must be left in the end, and that may take a new stream. */
static void test_full_spool_has_room_for_accounts(void **state)
{
    ue_segment_head_t head = {.first = 1, .slots = 8192};
    ue_stream_file_t file, other;
    char name[UE_SPOOL_NAME];
    int fd;

    open_spool(UE_SEGMENT_HEAD + 8192 * 192);
    make_stream(&file);
    assert_int_equal(ue_spool_segment_create(spool, &file.id, &head, &fd, name),
                     APR_SUCCESS);
    close(fd);
    make_stream(&other);
    head.slots = 64;
    assert_int_equal(
        ue_spool_segment_create(spool, &other.id, &head, &fd, name),
        APR_ENOSPC);
    ue_spool_stream_end(spool, &file, 1);
    ue_spool_stream_end(spool, &other, 1);
}

/* ---- files that are not what they were ---- */

static void test_sparse_segment_is_filled(void **state)
{
    ue_segment_head_t head = {.first = 1, .slots = 8192}, found;
    ue_stream_file_t file;
    char name[UE_SPOOL_NAME], path[300];
    struct stat st;
    int fd, cut = 0;

    open_spool(10000000);
    make_stream(&file);
    assert_int_equal(ue_spool_segment_create(spool, &file.id, &head, &fd, name),
                     APR_SUCCESS);
    assert_int_equal(fstat(fd, &st), 0);
    assert_true((off_t)st.st_blocks * 512 >= st.st_size);
    assert_int_equal(st.st_mode & 0777, 0600);
    close(fd);
    snprintf(path, sizeof(path), "%s/%s", spool_dir, name);
    assert_int_equal(truncate(path, UE_SEGMENT_HEAD + 100), 0);
    assert_int_equal(truncate(path, st.st_size), 0);
    assert_int_equal(ue_spool_segment_open(spool, name, &found, &cut, &fd),
                     APR_SUCCESS);
    assert_int_equal(fstat(fd, &st), 0);
    assert_true((off_t)st.st_blocks * 512 >= st.st_size);
    assert_int_equal(found.slots, 8192);
    assert_false(cut);
    close(fd);
    assert_int_equal(truncate(path, UE_SEGMENT_HEAD + 100), 0);
    assert_int_equal(ue_spool_segment_open(spool, name, &found, &cut, &fd),
                     APR_SUCCESS);
    assert_true(cut);
    assert_int_equal(fstat(fd, &st), 0);
    assert_true((off_t)st.st_blocks * 512 >= st.st_size);
    close(fd);
    assert_int_equal(truncate(path, 100), 0);
    assert_int_equal(ue_spool_segment_open(spool, name, &found, &cut, &fd),
                     APR_EGENERAL);
    ue_spool_stream_end(spool, &file, 1);
}

static const struct CMUnitTest tests[] = {
    SPOOL_TEST(test_living_keeps_its_stream_and_dead_does_not),
    SPOOL_TEST(test_heir_of_a_descriptor_holds_nothing),
    SPOOL_TEST(test_owner_does_not_drop_its_own_lock),
    SPOOL_TEST(test_of_threads_one_takes_a_stream),
    SPOOL_TEST(test_replaced_account_is_not_trusted),
    SPOOL_TEST(test_lock_is_of_the_file_that_has_the_name),
    SPOOL_TEST(test_directory_belongs_to_one_httpd),
    SPOOL_TEST(test_tidying_removes_old_temporaries_only),
    SPOOL_TEST(test_check_says_what_is_wrong),
    SPOOL_TEST(test_bound_holds_for_all_together),
    SPOOL_TEST(test_full_spool_has_room_for_accounts),
    SPOOL_TEST(test_sparse_segment_is_filled),
};

UNIT_MAIN(tests)
