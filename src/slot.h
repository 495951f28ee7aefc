/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_SLOT_H
#define UE_SLOT_H

/**
 * A slot's bytes, and what they prove.
 *
 * journal.h says how a living child uses slots. This is about slots that a
 * process has left behind in a file: docs/journal.md has the layout, a guard
 * holds it to the structs below.
 *
 * Who reads them trusts only checks. Each of the three who write to a slot
 * leaves a CRC-32C: admission over what is known when a request is let through,
 * completion over the rest, delivery over the number that the event was sent
 * under and how far it got. Each begins with the one before, so a slot that was
 * used again proves nothing of its earlier use. A slot's state is the last that
 * is proved; the state byte only tells a slot that was never admitted (free,
 * or a further one) from a torn one. The first check begins with the salt of
 * the file, so that no text that a client sends can pass for a slot.
 */
#include <stdatomic.h>
#include <stdint.h>

#include <apr_errno.h>
#include <apr_time.h>

#include "event.h"
#include "uuid.h"

/** Refers to a slot; 0 to none. */
typedef uint32_t ue_slot_ref_t;

#define UE_SLOT_SIZE 192
#define UE_SLOT_TEXT 96          /* of a first slot */
#define UE_SLOT_FURTHER_TEXT 176 /* of a further slot */
/** Of a first slot's text, where more slots follow. */
#define UE_SLOT_TEXT_BEFORE_LINK (UE_SLOT_TEXT - 4)

typedef enum {
    UE_SLOT_FREE,
    UE_SLOT_ADMITTED,
    UE_SLOT_COMPLETING,
    UE_SLOT_COMPLETE,
    UE_SLOT_STRANDED,
    UE_SLOT_LISTED,
    UE_SLOT_SENT,
    UE_SLOT_FURTHER,
    UE_SLOT_STATES
} ue_slot_state_t;

#define UE_SLOT_BILLABLE 0x01  /* completion's */
#define UE_SLOT_CONTINUED 0x02 /* admission's: the text ends in a ref */
#define UE_SLOT_IN_FILE 0x04   /* delivery's: the event file has it */
/* Who takes over has seen UE_PHASE_STORED or _REFUSED; they prove nothing. */
#define UE_SLOT_IN_TOPIC 0x08
#define UE_SLOT_REFUSED 0x10

/** check[] of a first slot. */
enum { UE_CHECK_ADMISSION, UE_CHECK_COMPLETION, UE_CHECK_DELIVERY, UE_CHECKS };

typedef struct {
    uint32_t generation; /* how often the slot was taken */
    _Atomic uint8_t state;
    uint8_t method; /* index into methods, 0: spelled out before the endpoint */
    uint8_t flags;
    uint8_t method_len;
    uint16_t endpoint_len;
    uint16_t status_code;
    uint32_t response_time_ms;
    _Atomic int64_t timestamp;
    ue_uuid_t request_id;
    ue_uuid_t organization_id;
    ue_uuid_t api_key_id;
    uint64_t number; /* in stream and partition */
    uint32_t partition;
    uint32_t check[3]; /* CRC-32C of admission, completion, delivery */
    char text[UE_SLOT_TEXT];
} ue_first_t;

typedef struct {
    uint32_t generation;
    _Atomic uint8_t state;
    uint8_t reserved[3];
    uint32_t next; /* ref, 0: the last */
    uint32_t check;
    char text[UE_SLOT_FURTHER_TEXT];
} ue_further_t;

typedef union {
    ue_first_t first;
    ue_further_t further;
} ue_slot_t;

/** How far an event got, as its delivery check says. */
typedef enum {
    UE_PHASE_NONE,      /**< maybe in the event file, not under a number */
    UE_PHASE_SENT,      /**< handed over under its number: maybe stored */
    UE_PHASE_DELIVERED, /**< stored everywhere, or a loss that was counted */
    UE_PHASE_STORED,    /**< in the topic; the event file is still to come */
    UE_PHASE_REFUSED /**< by the topic, which was counted as a loss; the event
                          file is still to come */
} ue_phase_t;

/* ---- writing ---- */

/** @param salt of the slots' file */
void ue_slot_check_admission(ue_first_t *slot, uint32_t salt);
void ue_slot_check_completion(ue_first_t *slot);
void ue_slot_check_delivery(ue_first_t *slot, ue_phase_t phase);

/**
 * @param request_id of the first slot, which binds the further one to it
 * @param len        bytes of text in use
 */
void ue_slot_check_further(ue_further_t *slot, uint32_t salt,
                           const ue_uuid_t *request_id, size_t len);

/* ---- reading ---- */

/** What a slot's bytes prove. */
typedef enum {
    UE_PROOF_FREE,     /**< of nothing: never used, or not yet admitted */
    UE_PROOF_FURTHER,  /**< of nothing alone: part of another slot, if at all */
    UE_PROOF_TORN,     /**< of a request, of whose event too little is left */
    UE_PROOF_ADMITTED, /**< a request was let through */
    UE_PROOF_COMPLETE, /**< and answered */
    UE_PROOF_DELIVERED /**< and its event needs no more care */
} ue_proof_t;

typedef struct {
    ue_proof_t proof;
    int sent;     /**< maybe stored, under the slot's number */
    int in_file;  /**< the event file has it */
    int in_topic; /**< the topic has it */
    int refused; /**< the topic has refused it, which is a loss that was counted
                  */
} ue_slot_proof_t;

/** Judge one slot, as a first one. Its further ones are judged when it is
 * viewed. */
ue_slot_proof_t ue_slot_prove(const ue_first_t *slot, uint32_t salt);

/** Finds the slot behind a link; NULL: there is none.
 * @param salt receives its file's */
typedef const ue_slot_t *ue_slot_find_fn(void *baton, ue_slot_ref_t link,
                                         uint32_t *salt);

/**
 * View the event of a slot whose admission is proved, or not to be doubted.
 * @param find NULL where the slot is not continued, or texts are not wanted
 * @param checked judge the further slots
 * @param buf  UE_ENDPOINT_MAX + UE_METHOD_MAX bytes, for texts in several slots
 * @return     APR_EINVAL if the further slots are not what they were: all but
 *             the texts is good
 */
apr_status_t ue_slot_view(const ue_first_t *slot, int checked,
                          ue_slot_find_fn *find, void *baton, ue_event_t *event,
                          char *buf);

/** The first further slot of one that is continued, else 0. */
ue_slot_ref_t ue_slot_link(const ue_first_t *slot);

/* ---- methods ---- */

/** The code of a method; 0: it has none. */
uint8_t ue_slot_method_code(const char *method, size_t len);

#endif /* UE_SLOT_H */
