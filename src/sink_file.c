/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */

/**
 * The file sink: JSON lines, whole or not at all.
 *
 * All children append through the one description that the parent opened, and
 * flock() doesn't keep them from each other: its locks belong to the
 * description that they share. So a write happens under three locks: a flag,
 * among the threads of this process (virtual hosts with settings of their own
 * have workers of their own); fcntl()'s, which belong to the process, among the
 * children; and flock()'s, for everyone outside. None is waited for longer than
 * a millisecond: a stopped process must not stop the others' workers, which
 * have a deadline at the end.
 *
 * A disk may take half a second to sync, in which nobody would empty the queue,
 * so a thread beside the worker does that.
 */
#include "sink.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <apr_strings.h>

#include "log.h"
#include "thread.h"

#define BATCH_EVENTS 10000
#define BATCH_BYTES (512 * 1024)
#define LOCK_TRIES 5
#define LOCK_PAUSE 200                     /* microseconds */
#define SYNC_GRACE apr_time_from_msec(100) /* to end, beyond a deadline */
#define LOCKED_OUT_AFTER apr_time_from_sec(5)
#define LOG_EVERY apr_time_from_sec(30)

typedef struct {
    ue_sink_t base;
    const char *path;
    int fd;
    apr_interval_time_t interval;
    /* the worker's */
    ue_sink_owner_t owner;
    int broken;              /* the last write failed */
    apr_time_t locked_since; /* monotonic; 0: the last lock was to be had */
    ue_log_limit_t failing;
    ue_log_limit_t tearing;
    /* the syncing thread's */
    _Atomic int dirty;
    _Atomic int ending;
    _Atomic int running;
    ue_log_limit_t unsynced;
    sem_t wake;
} file_t;

/* Among the threads of this process; its record locks are one. */
static atomic_flag writing = ATOMIC_FLAG_INIT;

static apr_status_t sync_now(file_t *file)
{
    apr_status_t rv;
    uint32_t held;

    if (!atomic_exchange(&file->dirty, 0) || fdatasync(file->fd) == 0) {
        return APR_SUCCESS;
    }
    rv = errno;
    if (ue_log_limit_pass(&file->unsynced, ue_monotonic(), LOG_EVERY, &held)) {
        ue_log(UE_LOG_ERR, rv,
               "UE0304: event file: %s: cannot be synced; events written "
               "since the last sync may not outlive a power failure "
               "(%u such lines held back)",
               file->path, held);
    }
    return rv;
}

static void *keep_synced(void *data)
{
    file_t *file = data;

    while (!atomic_load(&file->ending)) {
        ue_sem_wait(&file->wake, file->interval);
        sync_now(file);
    }
    atomic_store(&file->running, 0);
    return NULL;
}

/** @return APR_TIMEUP if it is still in a sync */
static apr_status_t end_syncing(file_t *file, apr_time_t deadline)
{
    if (!atomic_load(&file->running)) {
        return APR_SUCCESS;
    }
    atomic_store(&file->ending, 1);
    sem_post(&file->wake);
    while (atomic_load(&file->running)) {
        apr_sleep(LOCK_PAUSE);
        if (ue_monotonic() >= deadline + SYNC_GRACE) {
            return APR_TIMEUP;
        }
    }
    return APR_SUCCESS;
}

static apr_status_t start(ue_sink_t *sink, const ue_sink_owner_t *owner)
{
    file_t *file = (file_t *)sink;
    apr_status_t rv;

    file->owner = *owner;
    atomic_store(&file->ending, 0);
    if (sem_init(&file->wake, 0, 0) != 0) {
        return errno;
    }
    atomic_store(&file->running, 1);
    rv = ue_thread_start("usage-sync", keep_synced, file);
    if (rv != APR_SUCCESS) {
        atomic_store(&file->running, 0);
    }
    return rv;
}

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

/** Does the file end inside a line, which a killed writer or a power failure
 * has left? Whatever followed would be part of that line. */
static int ends_torn(const file_t *file, off_t size)
{
    char last;

    return size > 0 && pread(file->fd, &last, 1, size - 1) == 1 && last != '\n';
}

/** Append all of it, or leave the file as it was. The file is locked. */
static apr_status_t append(file_t *file, const char *buf, size_t len)
{
    off_t before = lseek(file->fd, 0, SEEK_END);
    struct iovec parts[2] = {{(void *)(uintptr_t) "\n", 0},
                             {(void *)(uintptr_t)buf, len}};
    uint32_t held;
    ssize_t n;

    if (before < 0) {
        return errno;
    }
    if (ends_torn(file, before)) {
        parts[0].iov_len = 1;
        ue_log(UE_LOG_WARNING, APR_SUCCESS,
               "UE0305: event file: %s: ended inside a line, which is left "
               "as it is; events go on behind it",
               file->path);
    }
    n = writev(file->fd, parts, 2);
    if (n < 0) {
        return errno;
    }
    if ((size_t)n == parts[0].iov_len + len) {
        return APR_SUCCESS;
    }
    if (ftruncate(file->fd, before) != 0
        && ue_log_limit_pass(&file->tearing, ue_monotonic(), LOG_EVERY,
                             &held)) {
        ue_log(UE_LOG_ERR, errno,
               "UE0301: event file: %s: a torn line is left in it; its "
               "events are written again (%u such lines held back)",
               file->path, held);
    }
    return APR_ENOSPC; /* what a short write to a file means */
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
               "UE0302: event file: %s: cannot be written%s; a batch of %u "
               "events waits and is tried again (%u such lines held back)",
               file->path,
               rv == APR_EBUSY ? ", since somebody keeps it locked" : "",
               (unsigned)count, held);
    }
    file->broken = rv != APR_SUCCESS;
}

/** Is the file locked for longer than any of us would? */
static apr_status_t locked_out(file_t *file)
{
    apr_time_t now = ue_monotonic();

    if (!file->locked_since) {
        file->locked_since = now;
    }
    return now - file->locked_since < LOCKED_OUT_AFTER ? APR_EAGAIN : APR_EBUSY;
}

static uint32_t lanes(ue_sink_t *sink)
{
    return 1;
}

static uint32_t lane_of(const ue_uuid_t *organization_id, uint32_t count)
{
    return 0;
}

static int has_room(ue_sink_t *sink, uint32_t lane)
{
    return 1;
}

static apr_status_t submit(ue_sink_t *sink, const ue_sink_batch_t *batch,
                           size_t *taken)
{
    file_t *file = (file_t *)sink;
    const ue_sink_record_t *records = batch->records;
    size_t count = batch->count;
    const char *from = records[0].json;
    const char *to = records[count - 1].json + records[count - 1].len + 1;
    apr_status_t rv = lock(file);
    size_t i;

    *taken = 0;
    if (APR_STATUS_IS_EAGAIN(rv)) {
        rv = locked_out(file);
        if (APR_STATUS_IS_EAGAIN(rv)) {
            return rv;
        }
    }
    else if (rv == APR_SUCCESS) {
        file->locked_since = 0;
        rv = append(file, from, (size_t)(to - from));
        unlock(file);
    }
    note_result(file, rv, count);
    if (rv != APR_SUCCESS) {
        return rv;
    }
    *taken = count;
    atomic_store(&file->dirty, 1);
    for (i = 0; i < count; i++) {
        file->owner.report(file->owner.baton, 0, records[i].ref, UE_DELIVERED);
    }
    return APR_SUCCESS;
}

static void poll_file(ue_sink_t *sink, apr_time_t now)
{
    /* Everything was reported when it was written. */
}

static apr_status_t flush(ue_sink_t *sink, apr_time_t deadline)
{
    file_t *file = (file_t *)sink;
    apr_status_t rv = sync_now(file);
    apr_status_t ended = end_syncing(file, deadline);

    return rv != APR_SUCCESS ? rv : ended;
}

static const ue_sink_vtable_t file_vtable = {.name = "file",
                                             .batch_events = BATCH_EVENTS,
                                             .batch_bytes = BATCH_BYTES,
                                             .start = start,
                                             .lanes = lanes,
                                             .lane_of = lane_of,
                                             .has_room = has_room,
                                             .submit = submit,
                                             .poll = poll_file,
                                             .flush = flush};

static apr_status_t close_file(void *data)
{
    file_t *file = data;

    end_syncing(file, ue_monotonic());
    close(file->fd);
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
    /* Read is for how it ends. Non-blocking is for the open alone: a FIFO
     * without a reader would hang. */
    file->fd =
        open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0640);
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
