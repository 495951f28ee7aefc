/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_SPOOL_H
#define UE_SPOOL_H

/**
 * The spool: a directory of files in which slots and accounts outlive their
 * process.
 *
 *   <stream>.stream         the account of a stream (ledger.h)
 *   <stream>.<n>.slots      slots of it: a segment (slot.h)
 *   ….tmp                   one that is being made
 *   httpd.lock              held by the httpd that the directory belongs to
 *
 * A stream is one thing: whoever holds the lock of its account may write to it
 * and to its segments, nobody else. It is a record lock (fcntl), since that
 * dies with the process, and a program that was forked and has the descriptor
 * doesn't keep it. The price is that no process may open and close an account
 * that it holds, which would drop the lock: so this file keeps a list of those
 * that the process holds, and never opens one of them again.
 *
 * A file is made under a temporary name, allocated in full (writing to a hole
 * on a full disk would be SIGBUS), locked, and then renamed, so under its own
 * name it is always whole. Whoever locks an account looks whether it is still
 * the file of that name, before he trusts it.
 *
 * docs/journal.md describes the files for other programs.
 */
#include <stdint.h>
#include <sys/types.h>

#include <apr_errno.h>
#include <apr_pools.h>
#include <apr_tables.h>

#include "ledger.h"
#include "slot.h"

#define UE_SEGMENT_MAGIC "UEslots"
#define UE_SEGMENT_VERSION 1
#define UE_SEGMENT_HEAD 4096  /**< bytes before the slots */
#define UE_SEGMENT_AGAIN 2048 /**< where the head stands a second time */
/** Slots come in sixty-fours, which fill whole pages. */
#define UE_SEGMENT_UNIT 64

/** The beginning of a segment's file. */
typedef struct {
    char magic[8];
    uint32_t version;
    uint32_t head_size;
    uint32_t slot_size;
    uint32_t slots;
    uint32_t salt;  /**< of the slots' checks */
    uint32_t first; /**< the ref of the first slot, in the links of its maker */
    ue_stream_t maker; /**< random, one for all segments whose links go
                            together */
    ue_stream_t boot;
    uint8_t target[16]; /**< ue_spool_target_hash() */
    int64_t made;
    uint32_t reserved;
    uint32_t check; /**< CRC-32C of all before it */
} ue_segment_head_t;

#define UE_SPOOL_NAME 64 /**< bytes of the longest name, with NUL */

typedef struct ue_spool_t ue_spool_t;

/** An account in a file, or in memory only. */
typedef struct {
    ue_account_t *account;
    ue_stream_t id;
    int fd;  /**< holds the lock; -1: in memory */
    int cut; /**< its file was too short: its numbers can't be trusted */
} ue_stream_file_t;

/** A file that a look into the directory has found. */
typedef struct {
    char name[UE_SPOOL_NAME];
    ue_stream_t stream;
    int is_segment;
    uint32_t number; /**< of a segment */
    apr_off_t size;
} ue_spool_entry_t;

/* ---- parent ---- */

/**
 * Can a directory be a spool? It must be there, and not be on a network.
 * @return NULL, or what is wrong with it and what would be right
 */
const char *ue_spool_check(const char *dir, apr_pool_t *p);

/**
 * Have the directory for this httpd alone, as long as the process lives.
 * @param fd  receives what must stay open
 * @param who receives, with APR_EBUSY, the process that has it
 * @return    APR_EBUSY if another one has it
 * @locality  parent
 */
apr_status_t ue_spool_claim(const char *dir, int *fd, pid_t *who);

/* ---- children ---- */

/**
 * @param most bytes that all files together may have; accounts are counted, but
 *             are made all the same
 */
apr_status_t ue_spool_open(ue_spool_t **spool, const char *dir, apr_off_t most,
                           apr_pool_t *p);

/** Make an account in memory, with an identity. It lives as long as the
 * process.
 * @param shared where others will find it; NULL: nowhere */
apr_status_t ue_stream_in_memory(ue_stream_file_t *file,
                                 const ue_identity_t *identity,
                                 ue_accounts_t *shared);

/**
 * Make an account's file, and hold it.
 * @return APR_ENOSPC if the disk is full; the system's error
 */
apr_status_t ue_spool_stream_create(ue_spool_t *spool, ue_stream_file_t *file,
                                    const ue_identity_t *identity);

/**
 * Take over an account that nobody holds.
 * @return APR_EBUSY if somebody does; APR_ENOENT if it is gone; APR_ENOSPC if
 *         it can't be allocated in full; APR_EGENERAL if it is none
 */
apr_status_t ue_spool_stream_adopt(ue_spool_t *spool, const ue_stream_t *id,
                                   ue_stream_file_t *file);

/** Let go of an account, and of its file too if it is done with. */
void ue_spool_stream_end(ue_spool_t *spool, ue_stream_file_t *file, int unlink);

/**
 * Make a segment of a stream, allocated in full.
 * @param head  all but what this function knows: magic, sizes, check
 * @param fd    receives it
 * @param name  receives its name
 * @return      APR_ENOSPC if the spool is full; the system's error
 */
apr_status_t ue_spool_segment_create(ue_spool_t *spool,
                                     const ue_stream_t *stream,
                                     const ue_segment_head_t *head, int *fd,
                                     char name[UE_SPOOL_NAME]);

/**
 * Open a segment, allocated in full.
 * @param head receives what it says of itself
 * @param cut  receives whether the file was too short; what was missing is
 *             filled with zeros, which prove nothing
 * @return     APR_EGENERAL if it is none; APR_ENOSPC
 */
apr_status_t ue_spool_segment_open(ue_spool_t *spool, const char *name,
                                   ue_segment_head_t *head, int *cut, int *fd);

/** Make a segment another stream's. @param name is changed */
apr_status_t ue_spool_segment_move(ue_spool_t *spool, const ue_stream_t *stream,
                                   char name[UE_SPOOL_NAME]);

apr_status_t ue_spool_segment_remove(ue_spool_t *spool, const char *name);

/**
 * What is in the directory, in the order of names.
 * @param p where the array of ue_spool_entry_t is made
 */
apr_status_t ue_spool_list(ue_spool_t *spool, apr_array_header_t **entries,
                           apr_pool_t *p);

/** The same of a directory that isn't ours to write to. */
apr_status_t ue_spool_list_dir(const char *dir, apr_array_header_t **entries,
                               apr_pool_t *p);

/** Read who a stream of a directory is, without touching it.
 * @return APR_EGENERAL if its account is damaged */
apr_status_t ue_spool_read_identity(const char *dir, const char *name,
                                    ue_identity_t *identity,
                                    ue_stream_state_t *state);

/** Remove what dead processes were about to make. */
void ue_spool_tidy(ue_spool_t *spool);

/** Write to the disk which files there are, if some were made since.
 * @return the system's error */
apr_status_t ue_spool_sync_names(ue_spool_t *spool);

/** Does this process hold the stream? */
int ue_spool_is_ours(const ue_stream_t *stream);

/** Bytes that all files have, as last counted. @locality any thread */
apr_off_t ue_spool_bytes(const ue_spool_t *spool);
apr_off_t ue_spool_most(const ue_spool_t *spool);

/* ---- both, and usagectl ---- */

/** Judge a segment's head, of whose two copies one must be good.
 * @param page the first UE_SEGMENT_HEAD bytes of the file
 * @return     NULL if it is none */
const ue_segment_head_t *ue_segment_head(const void *page);

void ue_spool_target_hash(const ue_target_t *target, uint8_t hash[16]);

#endif /* UE_SPOOL_H */
