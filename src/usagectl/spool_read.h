/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_SPOOL_READ_H
#define UE_SPOOL_READ_H

/**
 * Reading a spool that belongs to somebody else: beside a running httpd, or
 * after it, with whatever is left of the files (spool.h, docs/journal.md).
 *
 * Nothing is written, locked or mapped. (Mapped, a file that somebody cuts is a
 * SIGBUS.) Bytes are copied, and the copies are judged; nothing in them is
 * trusted before a check holds. A file that goes away meanwhile was there or
 * wasn't, both are right. A slot that seems torn is read again, since its owner
 * may have been writing it.
 *
 * Segments may also lie in memory, for fuzzers. One thread.
 */
#include <stdint.h>
#include <sys/types.h>

#include <apr_errno.h>
#include <apr_pools.h>
#include <apr_tables.h>

#include "event.h"
#include "ledger.h"
#include "slot.h"
#include "spool.h"

/** Which of the two copies of a head or identity are good. */
enum { UE_READ_FIRST = 1, UE_READ_SECOND = 2, UE_READ_DIFFER = 4 };

typedef struct {
    const char *name;
    const uint8_t *memory; /**< all its bytes; NULL: in the file of that name */
    uint64_t size;         /**< when it was looked at */
    uint64_t allocated;    /**< bytes that it has on the disk */
    apr_status_t rv;       /**< why it can't be read */
    unsigned copies;       /**< 0: it has no good head */
    ue_segment_head_t head;
    uint32_t slots; /**< that are there: fewer than the head says if it was cut
                     */
} ue_read_segment_t;

/** The files of a stream. */
typedef struct {
    ue_stream_t id;
    const char *account; /**< name of its file; NULL: there is none */
    ue_read_segment_t *segments;
    int count;
} ue_read_stream_t;

#define UE_READ_OPEN 4

typedef struct {
    int dirfd;
    ue_read_segment_t *segments; /**< in the order of names */
    int count;
    ue_read_stream_t *streams;
    int stream_count;
    ue_read_segment_t **by_ref; /**< good ones by maker and first ref */
    int good;
    struct {
        const ue_read_segment_t *whose;
        int fd;
    } open[UE_READ_OPEN]; /**< those that were read last */
    unsigned next;
} ue_reader_t;

/** A slot, judged. */
typedef struct {
    uint32_t index; /**< in its segment, from 0 */
    ue_slot_t slot;
    ue_proof_t proof;
    int completed; /**< its completion is proved, whatever came after */
    int sent, in_file, in_topic, refused;
    int broken;       /**< admission is proved, but its text isn't whole */
    ue_event_t event; /**< where admission is proved; what isn't proved of it is
                           as of an interrupted request */
    char text[UE_ENDPOINT_MAX + UE_METHOD_MAX];
} ue_read_slot_t;

/** What the slots of a stream say together. */
typedef struct {
    uint64_t highest[UE_LANES_MAX]; /**< as ue_ledger_reconcile() wants it */
    uint64_t open[UE_LANES_MAX];
    uint64_t waiting; /**< not delivered; the torn ones among them */
    uint64_t torn;
} ue_read_sums_t;

/** An account, copied. */
typedef struct {
    ue_account_t *account; /**< malloc()ed; zeros where the file was cut */
    uint64_t size;
    uint64_t allocated;
    unsigned copies;               /**< of its identity; 0: neither is good */
    const ue_identity_t *identity; /**< NULL: neither is */
    int is_held;                   /**< by a process that is alive */
    pid_t holder;                  /**< 0: it can't be seen from here */
} ue_read_account_t;

/**
 * Look into a directory.
 * @return the system's error if it can't be listed
 */
apr_status_t ue_reader_open(ue_reader_t *reader, const char *dir,
                            apr_pool_t *p);

/** Read segments that are there already, in memory or not. */
void ue_reader_begin(ue_reader_t *reader, ue_read_segment_t *segments,
                     int count, apr_pool_t *p);

void ue_reader_close(ue_reader_t *reader);

/** Look at one more file of the directory, whatever its name is.
 * @return what is left of it in segment->rv */
apr_status_t ue_reader_look(ue_reader_t *reader, ue_read_segment_t *segment);

/**
 * Read and judge a slot.
 * @param index from 0, below segment->slots
 * @return      APR_EOF if it isn't there any more; the system's error
 */
apr_status_t ue_reader_slot(ue_reader_t *reader,
                            const ue_read_segment_t *segment, uint32_t index,
                            ue_read_slot_t *slot);

/** @return not 0 to go no further */
typedef int ue_read_fn(void *baton, const ue_read_segment_t *segment,
                       const ue_read_slot_t *slot);

/**
 * Read and judge all slots of a segment.
 * @return as ue_reader_slot(); APR_INCOMPLETE if fn went no further
 */
apr_status_t ue_reader_walk(ue_reader_t *reader,
                            const ue_read_segment_t *segment, ue_read_fn *fn,
                            void *baton);

/** Add a slot to what its stream has. */
void ue_read_sum(ue_read_sums_t *sums, const ue_read_slot_t *slot);

/** Is an event still to be delivered from this slot? */
int ue_read_is_waiting(const ue_read_slot_t *slot);

/**
 * Copy an account and judge it. ue_read_account_free() gives it back.
 * @return the system's error
 */
apr_status_t ue_reader_account(ue_reader_t *reader, const char *name,
                               ue_read_account_t *account);

/** Judge account->account. @param size bytes of it that are real */
void ue_read_account_judge(ue_read_account_t *account, uint64_t size);

void ue_read_account_free(ue_read_account_t *account);

#endif /* UE_SPOOL_READ_H */
