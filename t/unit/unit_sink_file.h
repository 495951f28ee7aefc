/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_UNIT_SINK_FILE_H
#define UE_UNIT_SINK_FILE_H

/**
 * What the tests of the file sink share: a sink on a file of its own for each
 * test, batches of lines that can be told apart, and a reader that finds each
 * torn one. "Full" is a file size limit, which makes write() come out short,
 * and then fail, as a full disk does. fdatasync() is the test's own, which
 * counts.
 */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <apr_strings.h>

#include "log.h"
#include "producer.h"
#include "sink.h"

#define INTERVAL apr_time_from_msec(500)
#define RECORDS 64

static struct {
    apr_pool_t *pool;
    char dir[64];
    const char *path;
    ue_sink_t *sink;
    int log_lines[UE_LOG_DEBUG + 1];
    char last_line[256];
} fix;

/* What the sink said of each record. */
typedef struct {
    unsigned delivered;
    unsigned refused;
    ue_slot_ref_t last;
    int in_order;
} told_t;

static told_t told;

static _Atomic int syncs;  /* begun */
static _Atomic int synced; /* done */
static int sync_error;
static _Atomic apr_interval_time_t sync_takes;

int fdatasync(int fd)
{
    apr_time_t end = ue_monotonic() + sync_takes;

    syncs++;
    while (sync_takes && ue_monotonic() < end) {
        apr_sleep(apr_time_from_msec(1));
    }
    synced++;
    errno = sync_error;
    return sync_error ? -1 : 0;
}

static inline void on_report(void *baton, uint32_t lane, ue_slot_ref_t ref,
                             ue_outcome_t outcome)
{
    told_t *t = baton;

    t->delivered += outcome == UE_DELIVERED;
    t->refused += outcome != UE_DELIVERED;
    t->in_order &= ref > t->last;
    t->last = ref;
}

static inline void on_log(void *baton, ue_log_level_t level, apr_status_t rv,
                          const char *line)
{
    fix.log_lines[level]++;
    snprintf(fix.last_line, sizeof(fix.last_line), "%s", line);
}

static inline ue_sink_t *open_sink(const char *path)
{
    ue_sink_t *sink = NULL;

    assert_int_equal(ue_sink_file_open(&sink, path, INTERVAL, fix.pool),
                     APR_SUCCESS);
    assert_string_equal(sink->vtable->name, "file");
    return sink;
}

/** Begin, as each child does. */
static inline void start_sink(ue_sink_t *sink, told_t *t)
{
    ue_sink_owner_t owner = {.report = on_report, .baton = t};

    memset(t, 0, sizeof(*t));
    t->in_order = 1;
    assert_int_equal(sink->vtable->start(sink, &owner), APR_SUCCESS);
}

/** Before the fork. */
static inline int set_up_parent(void **state)
{
    const char *tmp = getenv("TMPDIR");

    memset(&fix, 0, sizeof(fix));
    snprintf(fix.dir, sizeof(fix.dir), "%s/ue-sink-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(fix.dir) || apr_pool_create(&fix.pool, NULL) != APR_SUCCESS) {
        return -1;
    }
    signal(SIGXFSZ, SIG_IGN); /* as httpd does */
    fix.path = apr_pstrcat(fix.pool, fix.dir, "/events", NULL);
    syncs = 0;
    synced = 0;
    sync_error = 0;
    sync_takes = 0;
    ue_log_set(on_log, NULL, UE_LOG_DEBUG);
    fix.sink = open_sink(fix.path);
    return 0;
}

/** In a child. */
static inline int set_up(void **state)
{
    int rv = set_up_parent(state);

    if (rv == 0) {
        start_sink(fix.sink, &told);
    }
    return rv;
}

static inline int tear_down(void **state)
{
    sync_takes = 0;
    unlink(fix.path);
    rmdir(fix.dir);
    apr_pool_destroy(fix.pool);
    ue_log_set(NULL, NULL, UE_LOG_CRIT);
    return 0;
}

/* ---- batches ---- */

typedef struct {
    ue_sink_record_t records[RECORDS];
    size_t count;
    char text[RECORDS * 256];
} batch_t;

/* Lines like {"who":3,"n":17,"pad":"xxx…"}, of many lengths. */
static inline void make_batch(batch_t *batch, size_t count, int who,
                              unsigned first)
{
    static const char organization[] = "00000000-0000-4000-8000-000000000001";
    char *to = batch->text;

    assert_true(count <= RECORDS);
    batch->count = count;
    for (size_t i = 0; i < count; i++) {
        unsigned n = first + (unsigned)i;
        int len = sprintf(to, "{\"who\":%d,\"n\":%u,\"pad\":\"%.*s\"}\n", who,
                          n, (int)(n * 7 % 100),
                          "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
                          "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");

        batch->records[i] = (ue_sink_record_t){
            (ue_slot_ref_t)(n + 1), organization, to, (size_t)len - 1, NULL, 0};
        to += len;
    }
}

static inline size_t batch_bytes(const batch_t *batch)
{
    const ue_sink_record_t *last = &batch->records[batch->count - 1];

    return (size_t)(last->json + last->len + 1 - batch->text);
}

static inline apr_status_t submit(ue_sink_t *sink, const batch_t *batch,
                                  size_t *taken)
{
    ue_sink_batch_t offer = {0, batch->records, batch->count};

    *taken = 99;
    return sink->vtable->submit(sink, &offer, taken);
}

static inline void submit_all(ue_sink_t *sink, const batch_t *batch)
{
    size_t taken;

    assert_int_equal(submit(sink, batch, &taken), APR_SUCCESS);
    assert_int_equal(taken, batch->count);
}

/* What one who writes found in the file. */
typedef struct {
    unsigned lines;
    unsigned next; /* lines of one come in their order */
    unsigned wrong;
} found_t;

#define WRITERS 8

/* Read the file: each line whole, and each writer's in order. */
static inline void read_lines(found_t found[WRITERS])
{
    FILE *f = fopen(fix.path, "r");
    char line[512];

    assert_non_null(f);
    memset(found, 0, WRITERS * sizeof(*found));
    while (fgets(line, sizeof(line), f)) {
        unsigned n;
        int who;
        int pad = 0;
        int end = 0;

        if (sscanf(line, "{\"who\":%d,\"n\":%u,\"pad\":\"%n", &who, &n, &pad)
                != 2
            || who < 0 || who >= WRITERS) {
            fail_msg("torn: %s", line);
        }
        end = pad + (int)strspn(line + pad, "x");
        if ((unsigned)(end - pad) != n * 7 % 100
            || strcmp(line + end, "\"}\n") != 0) {
            fail_msg("torn: %s", line);
        }
        found[who].wrong += n != found[who].next;
        found[who].next = n + 1;
        found[who].lines++;
    }
    fclose(f);
}

static inline off_t file_size(void)
{
    struct stat st;

    assert_int_equal(stat(fix.path, &st), 0);
    return st.st_size;
}

static inline void limit_size(rlim_t bytes)
{
    struct rlimit limit;

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* Submit with room for so many bytes more, and lift the limit again: whatever
 * the test itself prints may go to a file, too. */
static inline apr_status_t submit_with_room(const batch_t *batch, size_t room,
                                            size_t *taken)
{
    rlim_t limit = (rlim_t)file_size() + room;
    apr_status_t rv;

    limit_size(limit);
    rv = submit(fix.sink, batch, taken);
    limit_size(RLIM_INFINITY);
    return rv;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

#endif /* UE_UNIT_SINK_FILE_H */
