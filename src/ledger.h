/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_LEDGER_H
#define UE_LEDGER_H

/**
 * The ledger: what each stream did, so that anybody can prove that nothing is
 * missing.
 *
 * A stream is a child's life on one topic. Its events are numbered by
 * partition, from 1, without a gap: whoever reads the topic needs one counter
 * for each stream and partition. The stream's account says how many requests
 * were admitted, how many of their events were delivered, how many are lost (by
 * hour, organization and cause, with their numbers), and up to which time
 * nothing more is to come (the watermark). The worker writes it to a compacted
 * topic beside the events (docs/formats.md).
 *
 * The account is one piece of memory. With a spool it is a file, so whoever
 * takes over from a child that was killed goes on counting where it stopped.
 * It has an identity, which never changes and stands there twice, each with a
 * check; and numbers. Of these, the numbers given out and the losses are the
 * ones that count: what was delivered can be worked out from them and from the
 * slots (ue_ledger_reconcile()).
 *
 * Losses may be counted by any thread. All else is the worker's, or his who
 * takes over.
 */
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <apr_errno.h>
#include <apr_pools.h>
#include <apr_time.h>

#include "metrics.h"
#include "uuid.h"

#define UE_LANES_MAX 4096 /**< partitions that a stream can number */
#define UE_LOSS_ROWS 2048
/** Of these, the last so many are for what finds no other: without its
 * organization, and without its numbers. */
#define UE_LOSS_ROWS_NAMELESS 128
#define UE_STREAM_MAGIC "UEstream"
#define UE_STREAM_VERSION 1
#define UE_STREAM_HEX 32 /**< characters of a stream's name */

/** 16 random bytes: a stream, a boot, a run of httpd. */
typedef struct {
    uint8_t b[16];
} ue_stream_t;

/** Where a stream's events go. Texts end in NUL; "" is none. */
typedef struct {
    char topic[256];
    char brokers[1024];
    char event_file[1024];
} ue_target_t;

/** What a stream is. */
typedef struct {
    char magic[8];
    uint32_t version;
    uint32_t size; /**< of the whole account, in bytes */
    uint32_t lanes_max, loss_rows;
    ue_stream_t stream;
    ue_stream_t boot;     /**< the machine's boot id */
    ue_stream_t instance; /**< of the counters in shared memory */
    int64_t opened;
    int32_t pid;
    uint32_t salt; /**< of the slots that its child makes */
    char host[256];
    ue_target_t target;
    uint32_t reserved;
    uint32_t check; /**< CRC-32C of all before it */
} ue_identity_t;

typedef enum {
    UE_STREAM_OPEN,
    UE_STREAM_CLOSED,  /**< its child ended it */
    UE_STREAM_ADOPTED, /**< another child ended it */
    UE_STREAM_UNCLEAN  /**< nobody knows what its last events were */
} ue_stream_state_t;

/** What a partition was given. */
typedef struct {
    _Atomic uint64_t sent;      /**< the highest number given */
    _Atomic uint64_t delivered; /**< how many of them are stored */
    _Atomic uint64_t lost;      /**< how many are lost */
} ue_lane_count_t;

#define UE_NO_LANE 0xffffffffu

/** Losses of one hour, organization and cause; of one run of numbers where the
 * events had any. */
typedef struct {
    _Atomic uint32_t state; /**< 0: empty, 1: being written, 2: good */
    uint32_t cause;
    uint32_t hour; /**< since 1970 */
    uint32_t lane; /**< UE_NO_LANE: without numbers */
    ue_uuid_t organization_id;
    _Atomic uint64_t count;
    uint64_t first;
    _Atomic uint64_t last;
    _Atomic uint64_t told; /**< the count that is in the ledger */
} ue_loss_row_t;

typedef struct {
    ue_identity_t identity;
    char pad[4096 - sizeof(ue_identity_t)];
    ue_identity_t again;
    char pad_again[4096 - sizeof(ue_identity_t)];

    _Atomic uint32_t state; /**< ue_stream_state_t */
    _Atomic uint32_t lanes; /**< partitions when numbers were given; 0: none */
    _Atomic uint32_t told;  /**< the last record is in the ledger */
    uint32_t reserved;
    _Atomic int64_t updated; /**< when the next numbers were looked at */
    _Atomic int64_t watermark;
    _Atomic int64_t base;      /**< of the child's count of admissions, what
                                  belongs to other streams */
    _Atomic uint64_t admitted; /**< as the worker last saw it */
    _Atomic uint64_t delivered;
    _Atomic uint64_t interrupted;
    _Atomic uint64_t lost; /**< the sum of all rows, whether they had room */
    ue_stream_t counted;   /**< another run of httpd, in whose counters what
                              waited when it took over is admitted */
    char pad_numbers[4096 - 88];
    ue_lane_count_t lane[UE_LANES_MAX];
    ue_loss_row_t losses[UE_LOSS_ROWS];
} ue_account_t;

/** Requests of an organization that are open for more than an hour. */
typedef struct {
    ue_uuid_t organization_id;
    uint64_t count;
} ue_long_open_t;

/** Write both copies of a new account's identity. */
void ue_ledger_identify(ue_account_t *account, const ue_identity_t *identity);

/** A fresh identity: this host, process and boot, a new stream.
 * @param target NULL: none */
apr_status_t ue_ledger_new_identity(ue_identity_t *identity,
                                    const ue_target_t *target,
                                    const ue_stream_t *instance);

/** The identity, from whichever copy is good; NULL: neither is. */
const ue_identity_t *ue_ledger_identity(const ue_account_t *account);

/** This machine's boot. All zero where the system doesn't tell. */
void ue_ledger_boot(ue_stream_t *boot);

/** Write 32 characters and NUL. @return to */
char *ue_stream_format(const ue_stream_t *stream, char to[UE_STREAM_HEX + 1]);

/** @return APR_EINVAL if it isn't 32 lower-case hex digits */
apr_status_t ue_stream_parse(ue_stream_t *stream, const char *s, size_t len);

/**
 * Count a lost event.
 * @param when      the event's time
 * @param lane      UE_NO_LANE if it had no number
 * @locality        any thread; with a number, the worker
 */
void ue_ledger_lose(ue_account_t *account, const ue_uuid_t *organization_id,
                    apr_time_t when, ue_loss_t cause, uint32_t lane,
                    uint64_t number);

/** Was this number counted as lost? Not known of one that found no row. */
int ue_ledger_has_lost(const ue_account_t *account, uint32_t lane,
                       uint64_t number);

/** How many numbers of a lane were counted as lost. */
uint64_t ue_ledger_lost_of(const ue_account_t *account, uint32_t lane);

/**
 * Work out what a dead child may have had no time to count.
 * @param highest   by lane, the highest number found in a slot
 * @param open      by lane, numbers found in slots that are not delivered
 * @param waiting   slots that are not delivered
 */
void ue_ledger_reconcile(ue_account_t *account, const uint64_t *highest,
                         const uint64_t *open, uint64_t waiting);

/** Were numbers given of which nobody knows what became? */
int ue_ledger_has_gaps(const ue_account_t *account);

/**
 * The stream's record as JSON (docs/formats.md).
 * @return malloc()ed, NUL-terminated; NULL: no memory
 */
char *ue_ledger_stream_json(const ue_account_t *account,
                            const ue_long_open_t *open, int open_count);

/** A record of losses, for the ledger. */
typedef struct {
    char key[160];
    char *json;   /**< malloc()ed */
    uint32_t row; /**< the first of its rows */
    uint64_t count;
} ue_loss_record_t;

/**
 * The next record of losses that is not in the ledger yet, or of all.
 * @param from where to begin; receives where to go on
 * @param all  also those that are
 * @return     APR_NOTFOUND: there is none
 */
apr_status_t ue_ledger_next_loss(const ue_account_t *account, uint32_t *from,
                                 int all, ue_loss_record_t *record);

/** A record of losses is in the ledger. */
void ue_ledger_loss_told(ue_account_t *account, uint32_t row, uint64_t count);

/* ---- accounts of children without a spool ---- */

/**
 * Accounts in memory that all children share, so that what a killed one did
 * last can still be told: as an unclean stream.
 */
typedef struct ue_accounts_t ue_accounts_t;

/**
 * @param count how many children may have one at a time
 * @param p     must live as long as httpd
 */
apr_status_t ue_accounts_create(ue_accounts_t **accounts, uint32_t count,
                                apr_pool_t *p);

/** Take an empty one. @return NULL: there is none left. @locality child */
ue_account_t *ue_accounts_take(ue_accounts_t *accounts);

/**
 * Take the account of a child that is gone.
 * @param target whose events go where ours do
 * @return       NULL: there is none
 */
ue_account_t *ue_accounts_inherit(ue_accounts_t *accounts,
                                  const ue_target_t *target);

/** Empty one, and give it back. */
void ue_accounts_give(ue_accounts_t *accounts, ue_account_t *account);

/** The word for a state. */
const char *ue_stream_state_name(ue_stream_state_t state);

#endif /* UE_LEDGER_H */
