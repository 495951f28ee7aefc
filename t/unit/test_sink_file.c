/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * The file sink, alone with its file: whole lines or none, also where the disk
 * is full, each event reported once, and what is written is synced in time.
 */
#include "unit_sink_file.h"

/* ---- opening ---- */

static void test_sink_file_is_made_for_owner_and_group(void **state)
{
    mode_t before = umask(0);
    const char *path = apr_pstrcat(fix.pool, fix.dir, "/new", NULL);
    struct stat st;

    open_sink(path);
    umask(before);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0640);
    unlink(path);
}

static void test_sink_file_refuses_what_is_no_file(void **state)
{
    const char *fifo = apr_pstrcat(fix.pool, fix.dir, "/fifo", NULL);
    const char *none = apr_pstrcat(fix.pool, fix.dir, "/no/where", NULL);
    ue_sink_t *sink;
    int reader;

    assert_int_not_equal(ue_sink_file_open(&sink, fix.dir, INTERVAL, fix.pool),
                         APR_SUCCESS);
    assert_int_equal(ue_sink_file_open(&sink, none, INTERVAL, fix.pool),
                     APR_ENOENT);
    assert_int_not_equal(
        ue_sink_file_open(&sink, "/dev/null", INTERVAL, fix.pool), APR_SUCCESS);
    /* a FIFO that nobody reads doesn't hang the start, nor is one a file */
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_not_equal(ue_sink_file_open(&sink, fifo, INTERVAL, fix.pool),
                         APR_SUCCESS);
    reader = open(fifo, O_RDONLY | O_NONBLOCK);
    assert_true(reader >= 0);
    assert_int_not_equal(ue_sink_file_open(&sink, fifo, INTERVAL, fix.pool),
                         APR_SUCCESS);
    close(reader);
    unlink(fifo);
}

static void test_sink_file_is_closed_with_its_pool(void **state)
{
    apr_pool_t *pool;
    ue_sink_t *sink;
    int before = dup(0);
    int after;

    assert_true(before >= 0);
    close(before);
    assert_int_equal(apr_pool_create(&pool, NULL), APR_SUCCESS);
    assert_int_equal(ue_sink_file_open(&sink, fix.path, INTERVAL, pool),
                     APR_SUCCESS);
    apr_pool_destroy(pool);
    after = dup(0);
    close(after);
    assert_int_equal(after, before);
}

/* ---- writing ---- */

static void test_sink_file_writes_lines_and_reports_each_once(void **state)
{
    found_t found[WRITERS];
    batch_t batch;

    for (unsigned n = 0; n < 10; n++) {
        make_batch(&batch, n % 3 ? RECORDS : 1, 0, told.delivered);
        submit_all(fix.sink, &batch);
    }
    assert_int_equal(told.delivered, 6 * RECORDS + 4);
    assert_int_equal(told.refused, 0);
    assert_true(told.in_order);
    read_lines(found);
    assert_int_equal(found[0].lines, told.delivered);
    assert_int_equal(found[0].wrong, 0);
}

static void test_sink_file_appends_to_what_is_there(void **state)
{
    told_t second;
    found_t found[WRITERS];
    batch_t batch;
    ue_sink_t *again;

    make_batch(&batch, 10, 0, 0);
    submit_all(fix.sink, &batch);
    again = open_sink(fix.path);
    start_sink(again, &second);
    make_batch(&batch, 10, 0, 10);
    submit_all(again, &batch);
    assert_int_equal(second.delivered, 10);
    read_lines(found);
    assert_int_equal(found[0].lines, 20);
    assert_int_equal(found[0].wrong, 0);
}

/* ---- a full disk ---- */

static void test_sink_file_takes_back_what_it_wrote_in_part(void **state)
{
    found_t found[WRITERS];
    batch_t batch;
    off_t before;
    size_t taken;
    size_t bytes;

    make_batch(&batch, 3, 0, 0);
    submit_all(fix.sink, &batch);
    before = file_size();
    make_batch(&batch, 5, 0, 3);
    bytes = batch_bytes(&batch);
    /* in the middle of a line, at its end, before its line feed, no room */
    for (size_t room = 0; room < bytes; room += room % 7 + 1) {
        assert_int_not_equal(submit_with_room(&batch, room, &taken),
                             APR_SUCCESS);
        assert_int_equal(taken, 0);
        assert_int_equal(told.delivered, 3);
        assert_int_equal(told.refused, 0);
        assert_int_equal(file_size(), before);
    }
    /* room at last: each once */
    assert_int_equal(submit_with_room(&batch, bytes, &taken), APR_SUCCESS);
    assert_int_equal(taken, 5);
    assert_int_equal(told.delivered, 8);
    assert_true(told.in_order);
    read_lines(found);
    assert_int_equal(found[0].lines, 8);
    assert_int_equal(found[0].wrong, 0);
}

static void test_sink_file_speaks_of_a_full_disk_once_and_of_its_end(
    void **state)
{
    batch_t batch;
    size_t taken;

    make_batch(&batch, 1, 0, 0);
    for (int i = 0; i < 5; i++) {
        assert_int_not_equal(submit_with_room(&batch, 3, &taken), APR_SUCCESS);
    }
    assert_int_equal(fix.log_lines[UE_LOG_ERR], 1);
    assert_int_equal(strncmp(fix.last_line, "UE0302: ", 8), 0);
    assert_non_null(strstr(fix.last_line, fix.path));
    submit_all(fix.sink, &batch);
    assert_int_equal(fix.log_lines[UE_LOG_NOTICE], 1);
    assert_int_equal(strncmp(fix.last_line, "UE0303: ", 8), 0);
    make_batch(&batch, 1, 0, 1);
    submit_all(fix.sink, &batch);
    assert_int_equal(fix.log_lines[UE_LOG_NOTICE], 1);
}

/* ---- syncing ---- */

/* Wait until so many syncs have begun, at most so long. */
static void await_syncs(int n, apr_interval_time_t at_most)
{
    apr_time_t end = ue_monotonic() + at_most;

    while (syncs < n && ue_monotonic() < end) {
        apr_sleep(apr_time_from_msec(5));
    }
    assert_int_equal(syncs, n);
}

static void test_sink_file_syncs_once_an_interval(void **state)
{
    apr_time_t begin = ue_monotonic();
    batch_t batch;

    make_batch(&batch, 3, 0, 0);
    submit_all(fix.sink, &batch);
    make_batch(&batch, 3, 0, 3);
    submit_all(fix.sink, &batch);
    await_syncs(1, 4 * INTERVAL);
    /* Not at once, and not again while there is nothing new. */
    assert_true(ue_monotonic() - begin > INTERVAL / 4);
    apr_sleep(INTERVAL + INTERVAL / 2);
    assert_int_equal(syncs, 1);
}

static void test_sink_file_writes_while_a_sync_takes_long(void **state)
{
    batch_t batch;

    sync_takes = 4 * INTERVAL;
    make_batch(&batch, 3, 0, 0);
    submit_all(fix.sink, &batch);
    await_syncs(1, 4 * INTERVAL);
    make_batch(&batch, 3, 0, 3);
    submit_all(fix.sink, &batch);
    assert_int_equal(synced, 0); /* the first sync is still under way */
    assert_int_equal(told.delivered, 6);
    sync_takes = 0;
}

static int count_lines(int fd)
{
    char c;
    off_t at = 0;
    int lines = 0;

    while (pread(fd, &c, 1, at++) == 1) {
        lines += c == '\n';
    }
    return lines;
}

static void test_sink_file_goes_on_behind_a_torn_line(void **state)
{
    static const char torn[] = "{\"request_id\":\"torn";
    char got[sizeof(torn) + 1] = "";
    batch_t batch;
    int fd = open(fix.path, O_RDWR | O_APPEND);

    assert_int_equal(write(fd, torn, sizeof(torn) - 1), sizeof(torn) - 1);
    make_batch(&batch, 2, 0, 0);
    submit_all(fix.sink, &batch);
    make_batch(&batch, 2, 0, 2);
    submit_all(fix.sink, &batch);
    assert_int_equal(pread(fd, got, sizeof(torn), 0), sizeof(torn));
    assert_int_equal(memcmp(got, torn, sizeof(torn) - 1), 0);
    assert_int_equal(got[sizeof(torn) - 1], '\n');
    /* That line and the four events, and no empty one. */
    assert_int_equal(count_lines(fd), 5);
    assert_int_equal(fix.log_lines[UE_LOG_WARNING], 1);
    assert_int_equal(strncmp(fix.last_line, "UE0305: ", 8), 0);
    close(fd);
}

static void test_sink_file_speaks_of_a_lock_that_stays(void **state)
{
    apr_time_t end = ue_monotonic() + apr_time_from_sec(15);
    int fd = open(fix.path, O_RDONLY);
    apr_status_t rv;
    size_t taken = 0;
    batch_t batch;

    assert_int_equal(flock(fd, LOCK_EX), 0);
    make_batch(&batch, 2, 0, 0);
    rv = submit(fix.sink, &batch, &taken);
    assert_true(APR_STATUS_IS_EAGAIN(rv));
    assert_int_equal(fix.log_lines[UE_LOG_ERR], 0);
    while (APR_STATUS_IS_EAGAIN(rv) && ue_monotonic() < end) {
        apr_sleep(apr_time_from_msec(50));
        rv = submit(fix.sink, &batch, &taken);
    }
    assert_int_equal(rv, APR_EBUSY);
    assert_int_equal(taken, 0);
    assert_int_equal(fix.log_lines[UE_LOG_ERR], 1);
    assert_non_null(strstr(fix.last_line, "locked"));
    close(fd);
    submit_all(fix.sink, &batch);
    assert_int_equal(told.delivered, 2);
}

static void test_sink_file_flush_syncs_at_once(void **state)
{
    batch_t batch;

    assert_int_equal(fix.sink->vtable->flush(fix.sink, ue_monotonic()),
                     APR_SUCCESS);
    make_batch(&batch, 3, 0, 0);
    submit_all(fix.sink, &batch);
    syncs = 0;
    assert_int_equal(fix.sink->vtable->flush(fix.sink, ue_monotonic()),
                     APR_SUCCESS);
    assert_int_equal(syncs, 1);
}

static void test_sink_file_says_when_it_cannot_sync(void **state)
{
    batch_t batch;

    make_batch(&batch, 3, 0, 0);
    submit_all(fix.sink, &batch);
    sync_error = EIO;
    assert_int_equal(fix.sink->vtable->flush(fix.sink, ue_monotonic()), EIO);
    assert_int_equal(fix.log_lines[UE_LOG_ERR], 1);
    assert_int_equal(strncmp(fix.last_line, "UE0304: ", 8), 0);
}

static const struct CMUnitTest tests[] = {
    TEST(test_sink_file_is_made_for_owner_and_group),
    TEST(test_sink_file_refuses_what_is_no_file),
    TEST(test_sink_file_is_closed_with_its_pool),
    TEST(test_sink_file_writes_lines_and_reports_each_once),
    TEST(test_sink_file_appends_to_what_is_there),
    TEST(test_sink_file_takes_back_what_it_wrote_in_part),
    TEST(test_sink_file_speaks_of_a_full_disk_once_and_of_its_end),
    TEST(test_sink_file_syncs_once_an_interval),
    TEST(test_sink_file_writes_while_a_sync_takes_long),
    TEST(test_sink_file_goes_on_behind_a_torn_line),
    TEST(test_sink_file_speaks_of_a_lock_that_stays),
    TEST(test_sink_file_flush_syncs_at_once),
    TEST(test_sink_file_says_when_it_cannot_sync),
};

UNIT_MAIN(tests)
