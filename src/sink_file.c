/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */

/**
 * The file sink: JSON lines, whole or not at all.
 *
 * All children append through the one description that the parent opened, and
 * flock() doesn't keep them from each other: its locks belong to the
 * description that they share. So a write happens under three locks: a
 * flag, among the threads of this process (virtual hosts with settings of their
 * own have workers of their own); fcntl()'s, which belong to the process, among
 * the children; and flock()'s, for everyone outside. None is waited for: a
 * stopped process must not stop the others' workers, which have a deadline at
 * the end.
 */
#include "sink.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <apr_strings.h>

#include "log.h"
#include "producer.h"

#define LOCK_TRIES 5
#define LOCK_PAUSE 200 /* microseconds */
#define LOG_EVERY apr_time_from_sec(30)

typedef struct {
    ue_sink_t base;
    const char *path;
    int fd;
    apr_interval_time_t interval;
    ue_sink_report_fn *report;
    void *baton;
    apr_time_t sync_at; /* monotonic; 0: nothing to sync */
    int broken;         /* the last write failed */
    ue_log_limit_t failing;
} file_t;

static apr_status_t start(ue_sink_t *sink, ue_sink_report_fn *report,
                          void *baton)
{
    file_t *file = (file_t *)sink;

    file->report = report;
    file->baton = baton;
    return APR_SUCCESS;
}

/* Among the threads of this process; its record locks are one. */
static atomic_flag writing = ATOMIC_FLAG_INIT;

static void unlock(const file_t *file)
{
    struct flock all = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

    flock(file->fd, LOCK_UN);
    fcntl(file->fd, F_SETLK, &all);
    atomic_flag_clear(&writing);
}

/** @return APR_EAGAIN if another process writes just now */
static apr_status_t lock_against_others(const file_t *file)
{
    struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int tries = LOCK_TRIES;

    while (fcntl(file->fd, F_SETLK, &all) != 0) {
        if (errno != EAGAIN && errno != EACCES) {
            return errno;
        }
        if (--tries == 0) {
            return APR_EAGAIN;
        }
        apr_sleep(LOCK_PAUSE);
    }
    if (flock(file->fd, LOCK_EX | LOCK_NB) != 0) {
        apr_status_t rv = errno == EWOULDBLOCK ? APR_EAGAIN : errno;

        all.l_type = F_UNLCK;
        fcntl(file->fd, F_SETLK, &all);
        return rv;
    }
    return APR_SUCCESS;
}

/** @return APR_EAGAIN if somebody else writes just now */
static apr_status_t lock(const file_t *file)
{
    apr_status_t rv;

    if (atomic_flag_test_and_set(&writing)) {
        return APR_EAGAIN;
    }
    rv = lock_against_others(file);
    if (rv != APR_SUCCESS) {
        atomic_flag_clear(&writing);
    }
    return rv;
}

/** Append all of it, or leave the file as it was. */
static apr_status_t append(const file_t *file, const char *buf, size_t len)
{
    apr_status_t rv = lock(file);
    off_t before;
    ssize_t n;

    if (rv != APR_SUCCESS) {
        return rv;
    }
    before = lseek(file->fd, 0, SEEK_END);
    n = before < 0 ? -1 : write(file->fd, buf, len);
    if (n < 0) {
        rv = errno;
    }
    else if ((size_t)n < len) {
        rv = APR_ENOSPC; /* what a short write to a file means */
        if (ftruncate(file->fd, before) != 0) {
            ue_log(UE_LOG_ERR, errno,
                   "UE0301: event file: %s: a torn line is left in it",
                   file->path);
        }
    }
    unlock(file);
    return rv;
}

static void note_result(file_t *file, apr_status_t rv, size_t count)
{
    uint32_t held;

    if (rv == APR_SUCCESS && file->broken) {
        ue_log(UE_LOG_NOTICE, APR_SUCCESS,
               "UE0303: event file: %s: can be written again", file->path);
    }
    else if (rv != APR_SUCCESS
             && ue_log_limit_pass(&file->failing, ue_monotonic(), LOG_EVERY,
                                  &held)) {
        ue_log(UE_LOG_ERR, rv,
               "UE0302: event file: %s: cannot be written; a batch of %u "
               "events waits and is tried again",
               file->path, (unsigned)count);
    }
    file->broken = rv != APR_SUCCESS;
}

static apr_status_t submit(ue_sink_t *sink, const ue_sink_record_t *records,
                           size_t count, size_t *taken)
{
    file_t *file = (file_t *)sink;
    const char *from = records[0].json;
    const char *to = records[count - 1].json + records[count - 1].len + 1;
    apr_status_t rv = append(file, from, (size_t)(to - from));
    size_t i;

    *taken = 0;
    if (APR_STATUS_IS_EAGAIN(rv)) {
        return rv;
    }
    note_result(file, rv, count);
    if (rv != APR_SUCCESS) {
        return rv;
    }
    *taken = count;
    if (!file->sync_at) {
        file->sync_at = ue_monotonic() + file->interval;
    }
    for (i = 0; i < count; i++) {
        file->report(file->baton, records[i].ref, APR_SUCCESS);
    }
    return APR_SUCCESS;
}

static apr_status_t sync_now(file_t *file)
{
    file->sync_at = 0;
    if (fdatasync(file->fd) != 0) {
        apr_status_t rv = errno;

        ue_log(UE_LOG_ERR, rv,
               "UE0304: event file: %s: cannot be synced; events written "
               "since the last sync may not outlive a power failure",
               file->path);
        return rv;
    }
    return APR_SUCCESS;
}

static void poll_file(ue_sink_t *sink, apr_time_t now)
{
    file_t *file = (file_t *)sink;

    if (file->sync_at && now >= file->sync_at) {
        sync_now(file);
    }
}

static apr_status_t flush(ue_sink_t *sink, apr_time_t deadline)
{
    file_t *file = (file_t *)sink;

    return file->sync_at ? sync_now(file) : APR_SUCCESS;
}

static const ue_sink_vtable_t file_vtable = {"file", start, submit, poll_file,
                                             flush};

static apr_status_t close_file(void *data)
{
    close(((file_t *)data)->fd);
    return APR_SUCCESS;
}

apr_status_t ue_sink_file_open(ue_sink_t **sink, const char *path,
                               apr_interval_time_t interval, apr_pool_t *p)
{
    file_t *file = apr_pcalloc(p, sizeof(*file));
    struct stat st;

    file->base.vtable = &file_vtable;
    file->path = apr_pstrdup(p, path);
    file->interval = interval;
    /* Non-blocking for the open alone: a FIFO without a reader would hang. */
    file->fd = open(
        path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0640);
    if (file->fd < 0) {
        return errno;
    }
    apr_pool_cleanup_register(p, file, close_file, apr_pool_cleanup_null);
    if (fstat(file->fd, &st) != 0) {
        return errno;
    }
    if (!S_ISREG(st.st_mode)) {
        return APR_EINVAL;
    }
    *sink = &file->base;
    return APR_SUCCESS;
}
