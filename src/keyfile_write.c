/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "keyfile.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <apr_strings.h>
#include <apr_user.h>

#include <json-c/json.h>

#define LOCK_TRIES 100
#define LOCK_PAUSE apr_time_from_msec(50)

struct json_object *ue_keyfile_new(void)
{
    struct json_object *doc = json_object_new_object();

    json_object_object_add(doc, "version", json_object_new_int(1));
    json_object_object_add(doc, "organizations", json_object_new_array());
    return doc;
}

/* Where the file really is: a symbolic link stays one, and its target is what
 * is locked and replaced. */
static const char *resolve(const char *path, apr_pool_t *p)
{
    char real[PATH_MAX];

    return realpath(path, real) ? apr_pstrdup(p, real) : path;
}

static apr_status_t close_fd(void *data)
{
    close((int)(intptr_t)data);
    return APR_SUCCESS;
}

/* The lock file stays: who removes it takes it from under somebody who waits
 * for it. Reading rights are enough to lock, so that a group can share it. */
apr_status_t ue_keyfile_lock(const char *path, const char **why, apr_pool_t *p)
{
    const char *lock = apr_pstrcat(p, resolve(path, p), ".lock", NULL);
    int flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
    int fd = open(lock, flags);
    int i;

    if (fd < 0 && errno == ENOENT) {
        fd = open(lock, flags | O_CREAT, 0640);
    }
    if (fd < 0) {
        *why = apr_psprintf(p, "%s: can't be made: %s", lock, strerror(errno));
        return APR_FROM_OS_ERROR(errno);
    }
    apr_pool_cleanup_register(p, (void *)(intptr_t)fd, close_fd, close_fd);
    for (i = 0; i < LOCK_TRIES; i++) {
        if (!flock(fd, LOCK_EX | LOCK_NB)) {
            return APR_SUCCESS;
        }
        if (errno != EWOULDBLOCK && errno != EINTR) {
            *why = apr_psprintf(p, "%s: can't be locked: %s", lock,
                                strerror(errno));
            return APR_FROM_OS_ERROR(errno);
        }
        apr_sleep(LOCK_PAUSE);
    }
    *why = apr_psprintf(p, "%s: somebody else is changing the key file", lock);
    return APR_TIMEUP;
}

struct ue_keyfile_draft_t {
    const char *path;
    const char *temporary;
    apr_pool_t *p;
    int fd;
};

static apr_status_t trouble(const char *path, const char *what,
                            const char **why, apr_pool_t *p)
{
    apr_status_t rv = APR_FROM_OS_ERROR(errno);

    *why = apr_psprintf(p, "%s: %s: %s", path, what, strerror(errno));
    return rv;
}

/* Owner, group and mode: those of the file that is replaced, or a new one's. */
static apr_status_t dress(const ue_keyfile_draft_t *d, const char *group,
                          const char **why)
{
    uid_t uid = (uid_t)-1;
    gid_t gid = (gid_t)-1;
    mode_t mode = 0640;
    struct stat old;

    if (!stat(d->path, &old)) {
        uid = old.st_uid;
        gid = old.st_gid;
        mode = old.st_mode & 07777;
    }
    else if (errno != ENOENT) {
        return trouble(d->path, "can't be looked at", why, d->p);
    }
    else if (group && apr_gid_get(&gid, group, d->p)) {
        *why = apr_psprintf(d->p, "there is no group %s", group);
        return APR_EINVAL;
    }
    else if (!group && !geteuid()
             && apr_gid_get(&gid, "www-data", d->p) != APR_SUCCESS) {
        gid = (gid_t)-1;
    }
    if (fchown(d->fd, uid, gid) || fchmod(d->fd, mode)) {
        return trouble(d->temporary,
                       "can't be given the key file's owner, group and mode",
                       why, d->p);
    }
    return APR_SUCCESS;
}

static apr_status_t discard(void *data)
{
    ue_keyfile_draft_t *d = data;

    if (d->fd >= 0) {
        close(d->fd);
        unlink(d->temporary);
        d->fd = -1;
    }
    return APR_SUCCESS;
}

static int write_all(int fd, const char *s, size_t len)
{
    while (len) {
        ssize_t n = write(fd, s, len);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return -1;
        }
        s += n;
        len -= (size_t)n;
    }
    return 0;
}

apr_status_t ue_keyfile_draft(ue_keyfile_draft_t **draft, const char *path,
                              struct json_object *doc, const char *group,
                              const char **why, apr_pool_t *p)
{
    ue_keyfile_draft_t *d = apr_palloc(p, sizeof *d);
    apr_status_t rv = ue_keyfile_check(path, doc, why, p);
    const char *text;
    size_t len;

    if (rv) {
        return rv;
    }
    text = json_object_to_json_string_length(
        doc,
        JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED
            | JSON_C_TO_STRING_NOSLASHESCAPE,
        &len);
    if (!text || len >= UE_KEYFILE_MAX) {
        *why = apr_psprintf(p, "%s: would be larger than %d MiB", path,
                            UE_KEYFILE_MAX >> 20);
        return APR_ENOSPC;
    }
    d->p = p;
    d->path = resolve(path, p);
    d->temporary = apr_pstrcat(p, d->path, ".new", NULL);
    /* What a killed writer left; the lock says that nobody writes it now. */
    unlink(d->temporary);
    d->fd = open(d->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (d->fd < 0) {
        return trouble(d->temporary, "can't be made", why, p);
    }
    apr_pool_cleanup_register(p, d, discard, apr_pool_cleanup_null);
    rv = dress(d, group, why);
    if (!rv
        && (write_all(d->fd, text, len) || write_all(d->fd, "\n", 1)
            || fsync(d->fd))) {
        rv = trouble(d->temporary, "can't be written", why, p);
    }
    if (rv) {
        apr_pool_cleanup_run(p, d, discard);
        return rv;
    }
    *draft = d;
    return APR_SUCCESS;
}

apr_status_t ue_keyfile_commit(ue_keyfile_draft_t *d, const char **why)
{
    char *dir = apr_pstrdup(d->p, d->path);
    char *slash = strrchr(dir, '/');
    apr_status_t rv = APR_SUCCESS;
    int fd;

    if (rename(d->temporary, d->path)) {
        rv = trouble(d->path, "can't be replaced", why, d->p);
        apr_pool_cleanup_run(d->p, d, discard);
        return rv;
    }
    apr_pool_cleanup_kill(d->p, d, discard);
    close(d->fd);
    if (slash) {
        slash[slash == dir] = '\0';
    }
    fd = open(slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* Not every file system can sync a directory. */
    if (fd < 0 || (fsync(fd) && errno != EINVAL)) {
        rv = trouble(d->path, "is written, but may not survive a power cut",
                     why, d->p);
    }
    if (fd >= 0) {
        close(fd);
    }
    return rv;
}

apr_status_t ue_keyfile_write(const char *path, struct json_object *doc,
                              const char *group, const char **why,
                              apr_pool_t *p)
{
    ue_keyfile_draft_t *draft;
    apr_status_t rv = ue_keyfile_draft(&draft, path, doc, group, why, p);

    return rv ? rv : ue_keyfile_commit(draft, why);
}
