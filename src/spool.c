/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "spool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <apr_strings.h>
#include <apr_tables.h>

#include "crc32c.h"
#include "siphash.h"

#define STREAM ".stream"
#define SLOTS ".slots"
#define TEMPORARY ".tmp"
#define LOCK "httpd.lock"
#define MODE 0600
#define LOCK_TRIES 50
#define LOCK_PAUSE 2000 /* microseconds */
#define STALE 60        /* seconds after which nobody works at a temporary */

struct ue_spool_t {
    const char *dir;
    apr_off_t most;
    _Atomic apr_off_t bytes;
    _Atomic int has_new; /* names that are not on the disk yet */
    _Atomic int fd;      /* the directory; -1: it could not be opened yet */
};

/* ---- what this process holds ---- */

static pthread_mutex_t held_mutex = PTHREAD_MUTEX_INITIALIZER;
static ue_stream_t *held;
static size_t held_count, held_room;

int ue_spool_is_ours(const ue_stream_t *stream)
{
    int found = 0;
    size_t i;

    pthread_mutex_lock(&held_mutex);
    for (i = 0; i < held_count && !found; i++) {
        found = memcmp(&held[i], stream, sizeof(*stream)) == 0;
    }
    pthread_mutex_unlock(&held_mutex);
    return found;
}

/** @return whether it was not there yet */
static int hold(const ue_stream_t *stream)
{
    int is_new = 1;
    size_t i;

    pthread_mutex_lock(&held_mutex);
    for (i = 0; i < held_count && is_new; i++) {
        is_new = memcmp(&held[i], stream, sizeof(*stream)) != 0;
    }
    if (is_new && held_count == held_room) {
        held_room = held_room ? held_room * 2 : 16;
        held = realloc(held, held_room * sizeof(*held));
        if (!held) {
            abort(); /* as APR and httpd do */
        }
    }
    if (is_new) {
        held[held_count++] = *stream;
    }
    pthread_mutex_unlock(&held_mutex);
    return is_new;
}

static void let_go(const ue_stream_t *stream)
{
    size_t i;

    pthread_mutex_lock(&held_mutex);
    for (i = 0; i < held_count; i++) {
        if (memcmp(&held[i], stream, sizeof(*stream)) == 0) {
            held[i] = held[--held_count];
            break;
        }
    }
    pthread_mutex_unlock(&held_mutex);
}

/* ---- locks ---- */

static int lock_record(int fd, short type)
{
    struct flock all = {.l_type = type, .l_whence = SEEK_SET};

    return fcntl(fd, F_SETLK, &all);
}

/** @return the process that has the lock, 0: nobody */
static pid_t who_locks(int fd)
{
    struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

    return fcntl(fd, F_GETLK, &all) == 0 && all.l_type != F_UNLCK ? all.l_pid
                                                                  : 0;
}

/* ---- the directory ---- */

/** File systems on which another machine may write, or memory and file are not
 * one: neither our locks nor our mappings hold there. */
static const char *unfit(const char *dir)
{
    static const struct {
        long type;
        const char *name;
    } types[] = {{0x6969, "NFS"},           {0x517b, "SMB"},
                 {0xff534d42, "CIFS"},      {0xfe534d42, "SMB2"},
                 {0x00c36400, "Ceph"},      {0x0bd00bd0, "Lustre"},
                 {0x5346414f, "AFS"},       {0x73757245, "Coda"},
                 {0x564c, "NCP"},           {0x01021997, "9P"},
                 {0x7461636f, "OCFS2"},     {0x01161970, "GFS2"},
                 {0x65735546, "FUSE"},      {0x19830326, "FhGFS"},
                 {0x47504653, "GPFS"},      {0xaad7aaea, "PanFS"},
                 {0x013111a8, "IBRIX"},     {0x6b414653, "kAFS"},
                 {0x786f4256, "VirtualBox"}};
    struct statfs at;
    size_t i;

    if (statfs(dir, &at) != 0) {
        return NULL;
    }
    for (i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        if ((uint32_t)at.f_type == (uint32_t)types[i].type) {
            return types[i].name;
        }
    }
    return NULL;
}

const char *ue_spool_check(const char *dir, apr_pool_t *p)
{
    struct stat st;
    const char *type;

    if (stat(dir, &st) != 0) {
        return apr_psprintf(p,
                            "there is no directory %s; make it, for httpd's "
                            "user alone (mode 0700), on a local disk",
                            dir);
    }
    if (!S_ISDIR(st.st_mode)) {
        return apr_psprintf(p,
                            "%s is no directory; name one on a local disk, "
                            "such as /var/spool/apache2/usage",
                            dir);
    }
    if (st.st_mode & S_IWOTH) {
        return apr_psprintf(p,
                            "%s can be written to by everybody, who could "
                            "forge events: chmod 700 %s",
                            dir, dir);
    }
    type = unfit(dir);
    return type ? apr_psprintf(p,
                               "%s is on a network file system (%s), where "
                               "locks and mappings can't be relied on; name "
                               "a directory on a local disk",
                               dir, type)
                : NULL;
}

apr_status_t ue_spool_claim(const char *dir, int *fd, pid_t *who)
{
    char path[4096];
    apr_status_t rv;

    if ((size_t)snprintf(path, sizeof(path), "%s/" LOCK, dir) >= sizeof(path)) {
        return ENAMETOOLONG;
    }
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, MODE);
    if (*fd < 0) {
        return errno;
    }
    if (lock_record(*fd, F_WRLCK) == 0) {
        return APR_SUCCESS;
    }
    rv = errno == EACCES || errno == EAGAIN ? APR_EBUSY : errno;
    *who = who_locks(*fd);
    close(*fd);
    *fd = -1;
    return rv;
}

/** Have the directory that has the name now: somebody may have removed the one
 * that we knew, and made another. */
static apr_status_t reach(ue_spool_t *spool)
{
    struct stat named, known;

    if (spool->fd >= 0) {
        if (stat(spool->dir, &named) == 0 && fstat(spool->fd, &known) == 0
            && named.st_dev == known.st_dev && named.st_ino == known.st_ino) {
            return APR_SUCCESS;
        }
        /* Another thread may use it: it stays open. Nobody does this often. */
    }
    spool->fd = open(spool->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return spool->fd < 0 ? errno : APR_SUCCESS;
}

apr_status_t ue_spool_open(ue_spool_t **result, const char *dir, apr_off_t most,
                           apr_pool_t *p)
{
    ue_spool_t *spool = apr_pcalloc(p, sizeof(*spool));

    spool->dir = apr_pstrdup(p, dir);
    spool->most = most;
    spool->fd = -1;
    *result = spool;
    return reach(spool);
}

apr_off_t ue_spool_bytes(const ue_spool_t *spool)
{
    return atomic_load(&spool->bytes);
}

apr_off_t ue_spool_most(const ue_spool_t *spool)
{
    return spool->most;
}

/* ---- names ---- */

/** Read a name. @return whether it is one of ours, and no temporary one */
static int parse_name(const char *name, ue_spool_entry_t *entry)
{
    size_t len = strlen(name);
    const char *rest = name + UE_STREAM_HEX;
    char *end;

    if (len >= UE_SPOOL_NAME || len < UE_STREAM_HEX
        || ue_stream_parse(&entry->stream, name, UE_STREAM_HEX)
               != APR_SUCCESS) {
        return 0;
    }
    memcpy(entry->name, name, len + 1);
    entry->is_segment = strcmp(rest, STREAM) != 0;
    if (!entry->is_segment) {
        return 1;
    }
    if (*rest != '.' || rest[1] < '0' || rest[1] > '9') {
        return 0;
    }
    entry->number = (uint32_t)strtoul(rest + 1, &end, 10);
    return strcmp(end, SLOTS) == 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const ue_spool_entry_t *)a)->name,
                  ((const ue_spool_entry_t *)b)->name);
}

/** @param all receives the size of all files, or NULL */
static apr_status_t list(int dirfd, apr_array_header_t **entries,
                         apr_off_t *all, apr_pool_t *p)
{
    int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *at;

    if (!dir) {
        apr_status_t rv = errno;

        if (fd >= 0) {
            close(fd);
        }
        return rv;
    }
    *entries = apr_array_make(p, 16, sizeof(ue_spool_entry_t));
    while ((at = readdir(dir)) != NULL) {
        ue_spool_entry_t entry = {.number = 0};
        struct stat st;

        if (fstatat(dirfd, at->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0
            || !S_ISREG(st.st_mode)) {
            continue;
        }
        if (all) {
            *all += st.st_size;
        }
        if (parse_name(at->d_name, &entry)) {
            entry.size = st.st_size;
            APR_ARRAY_PUSH(*entries, ue_spool_entry_t) = entry;
        }
    }
    closedir(dir);
    qsort((*entries)->elts, (size_t)(*entries)->nelts, sizeof(ue_spool_entry_t),
          by_name);
    return APR_SUCCESS;
}

apr_status_t ue_spool_list(ue_spool_t *spool, apr_array_header_t **entries,
                           apr_pool_t *p)
{
    apr_status_t rv = reach(spool);
    apr_off_t all = 0;

    if (rv == APR_SUCCESS) {
        rv = list(spool->fd, entries, &all, p);
    }
    if (rv == APR_SUCCESS) {
        atomic_store(&spool->bytes, all);
    }
    return rv;
}

apr_status_t ue_spool_list_dir(const char *dir, apr_array_header_t **entries,
                               apr_pool_t *p)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    apr_status_t rv;

    if (fd < 0) {
        return errno;
    }
    rv = list(fd, entries, NULL, p);
    close(fd);
    return rv;
}

static apr_status_t read_identity(int fd, ue_identity_t *identity,
                                  ue_stream_state_t *state)
{
    ue_account_t *account = calloc(1, sizeof(*account));
    const ue_identity_t *found;
    apr_status_t rv = APR_EGENERAL;

    if (account && pread(fd, account, offsetof(ue_account_t, lane), 0) > 0
        && (found = ue_ledger_identity(account)) != NULL) {
        *identity = *found;
        *state = (ue_stream_state_t)account->state;
        rv = APR_SUCCESS;
    }
    free(account);
    return rv;
}

apr_status_t ue_spool_read_identity(const char *dir, const char *name,
                                    ue_identity_t *identity,
                                    ue_stream_state_t *state)
{
    char path[4096];
    apr_status_t rv;
    int fd;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) {
        rv = errno;
    }
    else {
        rv = read_identity(fd, identity, state);
        close(fd);
    }
    return rv;
}

void ue_spool_tidy(ue_spool_t *spool)
{
    int fd = openat(spool->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *at;
    struct stat st;

    while (dir && (at = readdir(dir)) != NULL) {
        size_t len = strlen(at->d_name);

        if (len > UE_STREAM_HEX + sizeof(TEMPORARY)
            && !strcmp(at->d_name + len + 1 - sizeof(TEMPORARY), TEMPORARY)
            && fstatat(spool->fd, at->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0
            && S_ISREG(st.st_mode)
            && apr_time_sec(apr_time_now()) - st.st_mtime > STALE) {
            unlinkat(spool->fd, at->d_name, 0);
        }
    }
    if (dir) {
        closedir(dir);
    }
    else if (fd >= 0) {
        close(fd);
    }
}

/* ---- making files ---- */

/** Growing is for one process at a time, so that together they keep the bound.
 * A stopped one must not stop the others for ever. */
static apr_status_t lock_growth(const ue_spool_t *spool)
{
    int tries = LOCK_TRIES;

    while (flock(spool->fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK) {
            return errno;
        }
        if (--tries == 0) {
            return APR_EBUSY;
        }
        apr_sleep(LOCK_PAUSE);
    }
    return APR_SUCCESS;
}

static apr_status_t has_room(ue_spool_t *spool, apr_off_t size)
{
    apr_array_header_t *entries;
    apr_pool_t *p;
    apr_off_t all = 0;
    apr_status_t rv = apr_pool_create_unmanaged_ex(&p, NULL, NULL);
    int i;

    if (rv != APR_SUCCESS) {
        return rv;
    }
    rv = list(spool->fd, &entries, NULL, p);
    for (i = 0; rv == APR_SUCCESS && i < entries->nelts; i++) {
        const ue_spool_entry_t *entry =
            &APR_ARRAY_IDX(entries, i, ue_spool_entry_t);

        all += entry->is_segment ? entry->size : 0;
    }
    apr_pool_destroy(p);
    if (rv == APR_SUCCESS && all + size > spool->most) {
        rv = APR_ENOSPC;
    }
    return rv;
}

/** Make a temporary file of a size.
 * @param is_bound keep the bound */
static apr_status_t make_alone(ue_spool_t *spool, const char *name,
                               apr_off_t size, int is_bound, int *fd)
{
    apr_status_t rv = reach(spool);

    if (rv != APR_SUCCESS || (rv = lock_growth(spool)) != APR_SUCCESS) {
        return rv;
    }
    rv = is_bound ? has_room(spool, size) : APR_SUCCESS;
    if (rv == APR_SUCCESS) {
        *fd = openat(spool->fd, name,
                     O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, MODE);
        rv = *fd < 0 ? errno : posix_fallocate(*fd, 0, size);
        if (rv != APR_SUCCESS && *fd >= 0) {
            unlinkat(spool->fd, name, 0);
            close(*fd);
        }
    }
    if (rv == APR_SUCCESS) {
        atomic_fetch_add(&spool->bytes, size);
    }
    flock(spool->fd, LOCK_UN);
    return rv;
}

/** The lock is the process's: its threads need one more. */
static apr_status_t make(ue_spool_t *spool, const char *name, apr_off_t size,
                         int is_bound, int *fd)
{
    static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;
    apr_status_t rv;

    pthread_mutex_lock(&making);
    rv = make_alone(spool, name, size, is_bound, fd);
    pthread_mutex_unlock(&making);
    return rv;
}

/** Give a file its own name, under which it is whole. Nothing waits for a disk
 * here: what a power cut takes of it, it takes of what is in it, too. */
static apr_status_t finish(ue_spool_t *spool, const char *temporary,
                           const char *name)
{
    if (renameat(spool->fd, temporary, spool->fd, name) != 0) {
        apr_status_t rv = errno;

        unlinkat(spool->fd, temporary, 0);
        return rv;
    }
    atomic_store(&spool->has_new, 1);
    return APR_SUCCESS;
}

apr_status_t ue_spool_sync_names(ue_spool_t *spool)
{
    if (!atomic_exchange(&spool->has_new, 0) || fsync(spool->fd) == 0) {
        return APR_SUCCESS;
    }
    atomic_store(&spool->has_new, 1);
    return errno;
}

/* ---- accounts ---- */

static ue_account_t *map_account(int fd, int flags)
{
    void *at =
        mmap(NULL, sizeof(ue_account_t), PROT_READ | PROT_WRITE, flags, fd, 0);

    return at == MAP_FAILED ? NULL : at;
}

apr_status_t ue_stream_in_memory(ue_stream_file_t *file,
                                 const ue_identity_t *identity,
                                 ue_accounts_t *shared)
{
    file->account = shared ? ue_accounts_take(shared) : NULL;
    if (!file->account) {
        file->account = map_account(-1, MAP_PRIVATE | MAP_ANONYMOUS);
    }
    file->cut = 0;
    if (!file->account) {
        return errno;
    }
    ue_ledger_identify(file->account, identity);
    file->id = identity->stream;
    file->fd = -1;
    return APR_SUCCESS;
}

apr_status_t ue_spool_stream_create(ue_spool_t *spool, ue_stream_file_t *file,
                                    const ue_identity_t *identity)
{
    char name[UE_SPOOL_NAME], temporary[UE_SPOOL_NAME];
    char hex[UE_STREAM_HEX + 1];
    apr_status_t rv;

    ue_stream_format(&identity->stream, hex);
    snprintf(name, sizeof(name), "%s" STREAM, hex);
    snprintf(temporary, sizeof(temporary), "%s" STREAM TEMPORARY, hex);
    /* What a full spool has left may have to become part of a new stream: if
     * that found no room, there would never be any again. */
    rv = make(spool, temporary, (apr_off_t)sizeof(ue_account_t), 0, &file->fd);
    if (rv != APR_SUCCESS) {
        return rv;
    }
    file->id = identity->stream;
    hold(&file->id);
    file->account = map_account(file->fd, MAP_SHARED);
    if (!file->account || lock_record(file->fd, F_WRLCK) != 0) {
        rv = errno;
        unlinkat(spool->fd, temporary, 0);
    }
    else {
        ue_ledger_identify(file->account, identity);
        rv = finish(spool, temporary, name);
    }
    if (rv != APR_SUCCESS) {
        ue_spool_stream_end(spool, file, 0);
    }
    return rv;
}

/** Is what we have locked still the file of that name? */
static int is_named(const ue_spool_t *spool, int fd, const char *name)
{
    struct stat named, ours;

    return fstat(fd, &ours) == 0 && ours.st_nlink > 0
           && fstatat(spool->fd, name, &named, AT_SYMLINK_NOFOLLOW) == 0
           && named.st_dev == ours.st_dev && named.st_ino == ours.st_ino;
}

static apr_status_t take_account(ue_spool_t *spool, const char *name,
                                 ue_stream_file_t *file)
{
    ue_identity_t identity;
    ue_stream_state_t state;
    struct stat st;
    apr_status_t rv;

    if (lock_record(file->fd, F_WRLCK) != 0) {
        return errno == EACCES || errno == EAGAIN ? APR_EBUSY : errno;
    }
    if (!is_named(spool, file->fd, name)) {
        return APR_ENOENT;
    }
    if (fstat(file->fd, &st) != 0) {
        return errno;
    }
    /* What is no account stays as it is. */
    rv = read_identity(file->fd, &identity, &state);
    if (rv != APR_SUCCESS) {
        return rv;
    }
    file->cut = st.st_size < (off_t)sizeof(ue_account_t);
    /* What is missing would be SIGBUS. */
    rv = posix_fallocate(file->fd, 0, (off_t)sizeof(ue_account_t));
    if (rv != APR_SUCCESS) {
        return rv;
    }
    file->account = map_account(file->fd, MAP_SHARED);
    if (!file->account) {
        return errno;
    }
    return ue_ledger_identity(file->account) ? APR_SUCCESS : APR_EGENERAL;
}

apr_status_t ue_spool_stream_adopt(ue_spool_t *spool, const ue_stream_t *id,
                                   ue_stream_file_t *file)
{
    char name[UE_SPOOL_NAME];
    char hex[UE_STREAM_HEX + 1];
    apr_status_t rv;

    if (!hold(id)) {
        return APR_EBUSY;
    }
    file->id = *id;
    file->account = NULL;
    file->cut = 0;
    snprintf(name, sizeof(name), "%s" STREAM, ue_stream_format(id, hex));
    file->fd = openat(spool->fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    rv = file->fd < 0 ? errno : take_account(spool, name, file);
    if (rv != APR_SUCCESS) {
        ue_spool_stream_end(spool, file, 0);
    }
    return rv;
}

void ue_spool_stream_end(ue_spool_t *spool, ue_stream_file_t *file, int unlink)
{
    char name[UE_SPOOL_NAME];
    char hex[UE_STREAM_HEX + 1];

    if (unlink) {
        snprintf(name, sizeof(name), "%s" STREAM,
                 ue_stream_format(&file->id, hex));
        unlinkat(spool->fd, name, 0);
    }
    if (file->account) {
        munmap(file->account, sizeof(*file->account));
        file->account = NULL;
    }
    if (file->fd >= 0) {
        close(file->fd); /* the lock goes with it */
        file->fd = -1;
    }
    let_go(&file->id);
}

/* ---- segments ---- */

static uint32_t check_of(const ue_segment_head_t *head)
{
    return ue_crc32c(0, head, offsetof(ue_segment_head_t, check));
}

static int is_good(const ue_segment_head_t *head)
{
    return memcmp(head->magic, UE_SEGMENT_MAGIC, sizeof(head->magic)) == 0
           && head->version == UE_SEGMENT_VERSION
           && head->head_size == UE_SEGMENT_HEAD
           && head->slot_size == UE_SLOT_SIZE && head->slots > 0
           && head->slots % UE_SEGMENT_UNIT == 0 && head->first > 0
           && head->slots <= UINT32_MAX - head->first
           && head->check == check_of(head);
}

const ue_segment_head_t *ue_segment_head(const void *page)
{
    const ue_segment_head_t *head = page;
    const ue_segment_head_t *again =
        (const void *)((const char *)page + UE_SEGMENT_AGAIN);

    if (is_good(head)) {
        return head;
    }
    return is_good(again) ? again : NULL;
}

static apr_status_t write_head(int fd, const ue_segment_head_t *given)
{
    ue_segment_head_t head = *given;

    memcpy(head.magic, UE_SEGMENT_MAGIC, sizeof(head.magic));
    head.version = UE_SEGMENT_VERSION;
    head.head_size = UE_SEGMENT_HEAD;
    head.slot_size = UE_SLOT_SIZE;
    head.made = apr_time_now();
    head.check = check_of(&head);
    if (pwrite(fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head)
        || pwrite(fd, &head, sizeof(head), UE_SEGMENT_AGAIN)
               != (ssize_t)sizeof(head)) {
        return errno ? errno : APR_ENOSPC;
    }
    return APR_SUCCESS;
}

/** The first name for a segment of a stream that nobody has yet. */
static apr_status_t new_name(const ue_spool_t *spool, const ue_stream_t *stream,
                             char name[UE_SPOOL_NAME])
{
    char hex[UE_STREAM_HEX + 1];
    unsigned n;

    ue_stream_format(stream, hex);
    for (n = 1; n < 100000; n++) {
        snprintf(name, UE_SPOOL_NAME, "%s.%04u" SLOTS, hex, n);
        if (faccessat(spool->fd, name, F_OK, AT_SYMLINK_NOFOLLOW) != 0) {
            return errno == ENOENT ? APR_SUCCESS : errno;
        }
    }
    return APR_EEXIST;
}

apr_status_t ue_spool_segment_create(ue_spool_t *spool,
                                     const ue_stream_t *stream,
                                     const ue_segment_head_t *head, int *fd,
                                     char name[UE_SPOOL_NAME])
{
    char temporary[UE_SPOOL_NAME + sizeof(TEMPORARY)];
    apr_status_t rv = reach(spool);

    if (rv == APR_SUCCESS) {
        rv = new_name(spool, stream, name);
    }
    if (rv != APR_SUCCESS) {
        return rv;
    }
    snprintf(temporary, sizeof(temporary), "%s" TEMPORARY, name);
    rv = make(spool, temporary,
              UE_SEGMENT_HEAD + (apr_off_t)head->slots * UE_SLOT_SIZE, 1, fd);
    if (rv != APR_SUCCESS) {
        return rv;
    }
    rv = write_head(*fd, head);
    if (rv == APR_SUCCESS) {
        rv = finish(spool, temporary, name);
    }
    else {
        unlinkat(spool->fd, temporary, 0);
    }
    if (rv != APR_SUCCESS) {
        close(*fd);
    }
    return rv;
}

apr_status_t ue_spool_segment_open(ue_spool_t *spool, const char *name,
                                   ue_segment_head_t *result, int *cut, int *fd)
{
    char page[UE_SEGMENT_HEAD] __attribute__((aligned(8)));
    const ue_segment_head_t *head;
    struct stat st;
    apr_status_t rv = APR_EGENERAL;

    *fd = openat(spool->fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (*fd < 0) {
        return errno;
    }
    if (pread(*fd, page, sizeof(page), 0) == (ssize_t)sizeof(page)
        && fstat(*fd, &st) == 0 && (head = ue_segment_head(page)) != NULL) {
        off_t size = UE_SEGMENT_HEAD + (off_t)head->slots * UE_SLOT_SIZE;

        *result = *head;
        *cut = st.st_size < size;
        rv = posix_fallocate(*fd, 0, size);
    }
    if (rv != APR_SUCCESS) {
        close(*fd);
    }
    return rv;
}

apr_status_t ue_spool_segment_move(ue_spool_t *spool, const ue_stream_t *stream,
                                   char name[UE_SPOOL_NAME])
{
    char new[UE_SPOOL_NAME];
    apr_status_t rv = new_name(spool, stream, new);

    if (rv != APR_SUCCESS) {
        return rv;
    }
    if (renameat(spool->fd, name, spool->fd, new) != 0) {
        return errno;
    }
    memcpy(name, new, UE_SPOOL_NAME);
    return APR_SUCCESS;
}

apr_status_t ue_spool_segment_remove(ue_spool_t *spool, const char *name)
{
    return unlinkat(spool->fd, name, 0) == 0 ? APR_SUCCESS : errno;
}

void ue_spool_target_hash(const ue_target_t *target, uint8_t hash[16])
{
    static const uint8_t key[UE_SIPHASH_KEY];
    uint64_t both[2];

    ue_siphash128(target, sizeof(*target), key, both);
    memcpy(hash, both, sizeof(both));
}
