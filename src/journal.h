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
 * problem). Request threads take no lock, allocate nothing and make no system
 * call, and memory that they may write to is never given back: a straggler may
 * still log after everything was closed.
 *
 * With a spool (spool.h), slots lie in mapped files and each writer leaves a
 * check (slot.h). Then a journal is an address space of its own, of which only
 * a part is mapped: own slots grow from its beginning, a segment at a time; and
 * regions of slots that another process has left behind are mapped above them,
 * where they have refs like any other until they are empty.
 *
 *   ref 1 … limit      own segments        taken from and given back to the
 *                                          stack
 *   … own_most         room for more
 *   … own_most + most  adopted regions     unmapped when they are empty
 *
 * Without one, all slots are anonymous memory, there from the start, and checks
 * are not computed.
 *
 * Times. What the watermark says (ledger.h) must hold: no event with an earlier
 * timestamp is still to come. A request may have been read before it but be
 * admitted after it, so a journal has a floor, and no slot has an earlier
 * timestamp. Who raises the floor looks at the slots afterwards, who admits
 * looks at the floor after its slot can be seen: one of the two sees the other.
 */
#include <stdatomic.h>
#include <stdint.h>

#include <apr_errno.h>
#include <apr_pools.h>
#include <apr_time.h>

#include "event.h"
#include "slot.h"
#include "uuid.h"

typedef struct ue_journal_t ue_journal_t;

#define UE_JOURNAL_SLOTS_MIN 64
#define UE_JOURNAL_SLOTS_MAX (1u << 24)
/** Of a journal with a spool, own and adopted ones together. */
#define UE_JOURNAL_REFS_MAX (1u << 31)

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

/** What tells the links of a journal's slots from another's, and where its
 * checks begin. */
typedef struct {
    uint8_t maker[16];
    uint32_t salt;
} ue_journal_id_t;

/**
 * Make a journal for slots in files; it has none yet.
 * @param most how many own slots there may ever be, and how many adopted ones
 */
apr_status_t ue_journal_create_spooled(ue_journal_t **journal, uint32_t most,
                                       const ue_journal_id_t *id,
                                       apr_pool_t *p);

/**
 * Map a segment of own slots, all of them zero, and have them taken.
 * @param offset in the file, whole pages
 * @param slots  a multiple of 64
 * @return       APR_ENOSPC if there would be too many; the system's error
 * @locality     one thread at a time
 */
apr_status_t ue_journal_extend(ue_journal_t *journal, int fd, apr_off_t offset,
                               uint32_t slots);

/** Slots of another process. */
typedef struct {
    ue_slot_ref_t first;
    uint32_t slots;
    uint32_t salt;
    uint8_t maker[16];
    uint32_t maker_first; /**< the ref of the first in its maker's links */
    uint32_t open;        /**< slots, first and further ones, not free yet; the
                               worker's once the region is listed */
    void *owner;          /**< whoever adopted it */
} ue_region_t;

/**
 * Map slots of another process, whose fields but first and open are filled.
 * @return   APR_ENOSPC if there is no room in the address space
 * @locality one thread at a time, not the worker
 */
apr_status_t ue_journal_map(ue_journal_t *journal, int fd, apr_off_t offset,
                            ue_region_t *region);

/** Give an empty region's place free. @locality worker */
void ue_journal_unmap(ue_journal_t *journal, ue_region_t *region);

/** The adopted region of a slot; NULL: it is our own. @locality worker */
ue_region_t *ue_journal_region(const ue_journal_t *journal, ue_slot_ref_t ref);

/** A slot, to be judged. @locality who adopts */
ue_slot_t *ue_journal_slot(const ue_journal_t *journal, ue_slot_ref_t ref);

/** Find the slot behind a link, in regions that are being adopted.
 * @return 0: there is none */
ue_slot_ref_t ue_journal_resolve(const ue_journal_t *journal,
                                 const ue_region_t *from, ue_slot_ref_t link);

/** Write what is in files to the disk, and wait for it. @locality any thread */
apr_status_t ue_journal_sync(const ue_journal_t *journal);

/** No event may be earlier from now on. Only grows. @locality worker */
void ue_journal_raise_floor(ue_journal_t *journal, apr_time_t floor);

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
 * retires and releases it.
 * @param from bits 1 << ue_slot_state_t
 * @return     whether it was in one of them
 * @locality   any thread
 */
int ue_journal_settle(ue_journal_t *journal, ue_slot_ref_t ref, unsigned from);

/** Leave the proof that a settled slot's event needs no more care: of a loss,
 * once it is counted, or nobody would ever count it. @locality who settled it
 */
void ue_journal_retire(ue_journal_t *journal, ue_slot_ref_t ref);

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

/** The event file has it. @locality worker */
void ue_journal_mark_in_file(ue_journal_t *journal, ue_slot_ref_t ref);

/** The topic has it or has refused it, and only the event file is still to
 * come: SENT becomes LISTED. @locality worker */
void ue_journal_leave_topic(ue_journal_t *journal, ue_slot_ref_t ref,
                            int refused);

/** Of a slot that was taken over: has the topic refused it?
 * @locality worker */
int ue_journal_was_refused(const ue_journal_t *journal, ue_slot_ref_t ref);

/** Of a slot that was taken over: is the topic done with it?
 * @locality worker */
int ue_journal_left_topic(const ue_journal_t *journal, ue_slot_ref_t ref);

int ue_journal_is_in_file(const ue_journal_t *journal, ue_slot_ref_t ref);

/** The partition it was sent to. @locality worker */
uint32_t ue_journal_partition(const ue_journal_t *journal, ue_slot_ref_t ref);

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

/** What the watermark needs to know of a slot. */
typedef struct {
    apr_time_t began;
    int is_open; /**< its request is still being served */
} ue_slot_look_t;

/**
 * @return   whether the slot holds an event
 * @locality worker
 */
int ue_journal_look(const ue_journal_t *journal, ue_slot_ref_t ref,
                    ue_slot_look_t *look);

/** Give a slot back, with those behind it. @locality the slot's owner */
void ue_journal_release(ue_journal_t *journal, ue_slot_ref_t ref);

/** How many own slots there are. @locality any thread */
uint32_t ue_journal_slots(const ue_journal_t *journal);

/** The highest ref that there can ever be. */
uint32_t ue_journal_refs_max(const ue_journal_t *journal);

/** How many own slots are free. A moment's truth. @locality any thread */
uint32_t ue_journal_free(const ue_journal_t *journal);

/** Are all slots taken? A moment's truth. @locality any thread */
int ue_journal_is_full(const ue_journal_t *journal);

ue_slot_state_t ue_journal_state(const ue_journal_t *journal,
                                 ue_slot_ref_t ref);

#endif /* UE_JOURNAL_H */
