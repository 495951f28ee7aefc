/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_JOURNAL_H
#define UE_JOURNAL_H

/**
 * The slots: where an event lives from admission until it is delivered.
 *
 * A request is on record from the moment it is let through, not from the moment
 * it is logged, because not every request that is served is logged: a child can
 * be killed, and a stopping event MPM gives up on slow readers. So the room for
 * an event is taken at admission, and what is queued afterwards is only a
 * reference to it.
 *
 * A slot goes FREE → ADMITTED → COMPLETE → LISTED (→ SENT) → FREE. The request
 * thread owns it until it has completed it, then the producer's worker does;
 * the closing thread may seal a slot that was never completed. Each hand-over
 * is one atomic change of the slot's state, so whoever loses a race knows it.
 *
 *   state      owner           what it means
 *   FREE       free list
 *   ADMITTED   request thread  the request was let through
 *   COMPLETING request thread  being completed; left so by a thread that died
 *   COMPLETE   queue           its reference is in the queue
 *   STRANDED   nobody          complete, but the queue was full: walk to find
 *   LISTED     worker          the worker waits for it to be delivered
 *   SENT       worker          handed over under a number; maybe stored
 *   FURTHER    first slot      holds more text of a slot in front of it
 *
 * Free slots form a stack: a slot is used again while it is still in a cache,
 * and a request that lasts for hours (a WebSocket) holds its slot and nothing
 * else. The head of the stack carries a tag that changes with each operation,
 * so that a thread can't swing it to a slot that came back in between (the ABA
 * problem). Nothing here takes a lock, allocates or makes a system call after
 * ue_journal_create(), and the memory is never given back: a straggler may
 * still log after everything was closed.
 *
 * A slot has 192 bytes, laid out as docs/journal.md says, with room for what a
 * spool on disk needs (the checks): these fields are zero here.
 */
#include <stdatomic.h>
#include <stdint.h>

#include <apr_errno.h>
#include <apr_pools.h>
#include <apr_time.h>

#include "event.h"
#include "uuid.h"

typedef struct ue_journal_t ue_journal_t;

/** Refers to a slot; 0 to none. */
typedef uint32_t ue_slot_ref_t;

#define UE_SLOT_SIZE 192
#define UE_JOURNAL_SLOTS_MIN 64
#define UE_JOURNAL_SLOTS_MAX (1u << 24)

typedef enum {
    UE_SLOT_FREE,
    UE_SLOT_ADMITTED,
    UE_SLOT_COMPLETING,
    UE_SLOT_COMPLETE,
    UE_SLOT_STRANDED,
    UE_SLOT_LISTED,
    UE_SLOT_SENT,
    UE_SLOT_FURTHER
} ue_slot_state_t;

/** What is known when a request is let through. */
typedef struct {
    ue_uuid_t request_id;
    ue_uuid_t organization_id;
    ue_uuid_t api_key_id;
    apr_time_t timestamp; /**< microseconds */
    const char *method;
    size_t method_len;
    const char *endpoint; /**< as it came, not yet valid UTF-8 */
    size_t endpoint_len;
} ue_admission_t;

/** What is known when its response was handed over. */
typedef struct {
    uint32_t response_time_ms;
    uint16_t status_code;
    uint8_t billable;
} ue_completion_t;

/**
 * Map the slots.
 * @param slots how many, UE_JOURNAL_SLOTS_MIN to UE_JOURNAL_SLOTS_MAX
 * @param p     where the handle lives
 * @return      the system's error if there is no memory
 * @locality    each child, before its threads use it
 */
apr_status_t ue_journal_create(ue_journal_t **journal, uint32_t slots,
                               apr_pool_t *p);

/**
 * Take a slot (or, for a long endpoint, several) and write what is known.
 * @return   APR_EAGAIN if there are not enough free slots
 * @locality request threads
 */
apr_status_t ue_journal_admit(ue_journal_t *journal, const ue_admission_t *a,
                              ue_slot_ref_t *ref);

/**
 * Write the rest; the slot becomes COMPLETE.
 * @return   APR_EBUSY if the slot was sealed or completed before
 * @locality request threads
 */
apr_status_t ue_journal_complete(ue_journal_t *journal, ue_slot_ref_t ref,
                                 const ue_completion_t *c);

/** COMPLETE → STRANDED: the queue had no room. @locality request threads */
void ue_journal_strand(ue_journal_t *journal, ue_slot_ref_t ref);

/**
 * Take a slot over for delivery: one of the states in from becomes LISTED.
 * @param from bits 1 << ue_slot_state_t
 * @return     whether it was in one of them
 * @locality   worker, or who closes
 */
int ue_journal_list(ue_journal_t *journal, ue_slot_ref_t ref, unsigned from);

/**
 * Complete a slot whose request never was: ADMITTED becomes LISTED, with status
 * 0, no duration, not billable.
 * @return   whether it was admitted still
 * @locality who closes
 */
int ue_journal_interrupt(ue_journal_t *journal, ue_slot_ref_t ref);

/**
 * Take a slot out of the account: one of the states in from becomes FREE. Of
 * those who want to count it, as delivered or as lost, one gets it, and then
 * releases it.
 * @param from bits 1 << ue_slot_state_t
 * @return     whether it was in one of them
 * @locality   any thread
 */
int ue_journal_settle(ue_journal_t *journal, ue_slot_ref_t ref, unsigned from);

/**
 * View a slot's event. Texts point into the slot, or into buf where they lie
 * in several.
 * @param buf UE_ENDPOINT_MAX + UE_METHOD_MAX bytes
 * @locality  the slot's owner
 */
void ue_journal_read(const ue_journal_t *journal, ue_slot_ref_t ref,
                     ue_event_t *event, char *buf);

/**
 * LISTED → SENT: the event goes out under this number, and may be stored from
 * now on. One that was sent before keeps its number.
 * @param number in its stream and partition, from 1
 * @locality     worker, before it hands the event over
 */
void ue_journal_send(ue_journal_t *journal, ue_slot_ref_t ref,
                     uint32_t partition, uint64_t number);

/** SENT → LISTED: it is known not to be stored. @locality worker */
void ue_journal_unsend(ue_journal_t *journal, ue_slot_ref_t ref);

/** Forget the number, since its stream has ended. What is SENT stays so: it may
 * be stored under it. @locality worker */
void ue_journal_forget(ue_journal_t *journal, ue_slot_ref_t ref);

/** The number it was sent under, 0: never. @locality worker */
uint64_t ue_journal_number(const ue_journal_t *journal, ue_slot_ref_t ref);

/** The slot's organization. @locality the slot's owner */
const ue_uuid_t *ue_journal_organization(const ue_journal_t *journal,
                                         ue_slot_ref_t ref);

/** When the slot's response was handed over. @locality the slot's owner */
apr_time_t ue_journal_ended(const ue_journal_t *journal, ue_slot_ref_t ref);

/** @return when a slot's request began, microseconds since 1970 */
apr_time_t ue_journal_began(const ue_journal_t *journal, ue_slot_ref_t ref);

/** Give a slot back, with those behind it. @locality the slot's owner */
void ue_journal_release(ue_journal_t *journal, ue_slot_ref_t ref);

uint32_t ue_journal_slots(const ue_journal_t *journal);

/** Are all slots taken? A moment's truth. @locality any thread */
int ue_journal_is_full(const ue_journal_t *journal);

ue_slot_state_t ue_journal_state(const ue_journal_t *journal,
                                 ue_slot_ref_t ref);

#endif /* UE_JOURNAL_H */
