/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "slot.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

#include "crc32c.h"

static_assert(sizeof(ue_first_t) == UE_SLOT_SIZE, "a first slot");
static_assert(sizeof(ue_further_t) == UE_SLOT_SIZE, "a further slot");
static_assert(offsetof(ue_first_t, text) == 96, "the fixed half");
static_assert(offsetof(ue_first_t, state) == offsetof(ue_further_t, state),
              "a walker reads the state of either");
static_assert(sizeof(((ue_first_t *)0)->check) == UE_CHECKS * sizeof(uint32_t),
              "one each");

static const struct {
    const char *name;
    size_t len;
} methods[] = {{"", 0},        {"GET", 3},    {"HEAD", 4},  {"POST", 4},
               {"PUT", 3},     {"DELETE", 6}, {"PATCH", 5}, {"OPTIONS", 7},
               {"CONNECT", 7}, {"TRACE", 5}};

#define METHODS (sizeof(methods) / sizeof(methods[0]))

uint8_t ue_slot_method_code(const char *method, size_t len)
{
    size_t i;

    for (i = 1; i < METHODS; i++) {
        if (len == methods[i].len
            && memcmp(method, methods[i].name, len) == 0) {
            return (uint8_t)i;
        }
    }
    return 0;
}

/* ---- checks ---- */

/** Bytes of a first slot's text that are in use. */
static size_t text_used(const ue_first_t *slot)
{
    size_t len = (size_t)slot->method_len + slot->endpoint_len;

    return slot->flags & UE_SLOT_CONTINUED || len > UE_SLOT_TEXT ? UE_SLOT_TEXT
                                                                 : len;
}

/* Timestamp and ids lie behind each other. */
static_assert(offsetof(ue_first_t, api_key_id) + sizeof(ue_uuid_t)
                      - offsetof(ue_first_t, timestamp)
                  == 56,
              "without a hole");

static uint32_t admission(const ue_first_t *slot, uint32_t salt)
{
    struct {
        uint32_t generation;
        uint8_t method, method_len;
        uint16_t endpoint_len;
    } head = {slot->generation, slot->method, slot->method_len,
              slot->endpoint_len};
    uint32_t crc = salt ^ (slot->flags & UE_SLOT_CONTINUED);

    crc = ue_crc32c(crc, &head, sizeof(head));
    crc = ue_crc32c(crc, (const void *)&slot->timestamp, 56);
    return ue_crc32c(crc, slot->text, text_used(slot));
}

static uint32_t completion(const ue_first_t *slot)
{
    struct {
        uint32_t response_time_ms;
        uint16_t status_code;
        uint16_t billable;
    } rest = {slot->response_time_ms, slot->status_code,
              slot->flags & UE_SLOT_BILLABLE};

    return ue_crc32c(slot->check[UE_CHECK_ADMISSION], &rest, sizeof(rest));
}

/** @param in_file UE_SLOT_IN_FILE or 0 */
static uint32_t delivery(const ue_first_t *slot, ue_phase_t phase, int in_file)
{
    struct {
        uint64_t number;
        uint32_t partition;
        uint32_t phase;
    } out = {slot->number, slot->partition,
             (uint32_t)phase << 8 | (uint32_t)in_file};

    return ue_crc32c(slot->check[UE_CHECK_ADMISSION], &out, sizeof(out));
}

static uint32_t further(const ue_further_t *slot, uint32_t salt,
                        const ue_uuid_t *request_id, size_t len)
{
    /* Another beginning than a first slot's. */
    uint32_t crc = ue_crc32c(~salt, request_id, sizeof(*request_id));

    crc = ue_crc32c(crc, &slot->next, sizeof(slot->next));
    return ue_crc32c(crc, slot->text, len);
}

void ue_slot_check_admission(ue_first_t *slot, uint32_t salt)
{
    slot->check[UE_CHECK_ADMISSION] = admission(slot, salt);
}

void ue_slot_check_completion(ue_first_t *slot)
{
    slot->check[UE_CHECK_COMPLETION] = completion(slot);
}

void ue_slot_check_delivery(ue_first_t *slot, ue_phase_t phase)
{
    slot->check[UE_CHECK_DELIVERY] =
        delivery(slot, phase, slot->flags & UE_SLOT_IN_FILE);
}

void ue_slot_check_further(ue_further_t *slot, uint32_t salt,
                           const ue_uuid_t *request_id, size_t len)
{
    slot->check = further(slot, salt, request_id, len);
}

/* ---- proofs ---- */

/** Could this have been written by an admission at all? */
static int is_sane(const ue_first_t *slot)
{
    size_t len = (size_t)slot->method_len + slot->endpoint_len;

    return slot->generation != 0 && slot->method < METHODS
           && slot->method_len <= UE_METHOD_MAX
           && slot->endpoint_len <= UE_ENDPOINT_MAX
           && (slot->method == 0 || slot->method_len == 0)
           && (len > UE_SLOT_TEXT) == !!(slot->flags & UE_SLOT_CONTINUED);
}

static int is_admitted(const ue_first_t *slot, uint32_t salt)
{
    return is_sane(slot)
           && slot->check[UE_CHECK_ADMISSION] == admission(slot, salt);
}

static ue_proof_t prove_nothing(const ue_first_t *slot)
{
    switch (atomic_load_explicit(&slot->state, memory_order_acquire)) {
    case UE_SLOT_FREE:
        return UE_PROOF_FREE;
    case UE_SLOT_FURTHER:
        return UE_PROOF_FURTHER;
    default:
        return UE_PROOF_TORN;
    }
}

/** What the check of delivery proves, with the event file's flag or without: it
 * is the check that says which. */
static void prove_delivery(const ue_first_t *slot, int in_file,
                           ue_slot_proof_t *result)
{
    uint32_t check = slot->check[UE_CHECK_DELIVERY];

    if (check == delivery(slot, UE_PHASE_DELIVERED, in_file)) {
        result->proof = UE_PROOF_DELIVERED;
    }
    else if (check == delivery(slot, UE_PHASE_SENT, in_file)) {
        result->sent = 1;
        result->in_file = in_file != 0;
    }
    else if (check == delivery(slot, UE_PHASE_STORED, in_file)) {
        result->in_topic = 1;
    }
    else if (check == delivery(slot, UE_PHASE_REFUSED, in_file)) {
        result->refused = 1;
    }
    else if (check == delivery(slot, UE_PHASE_NONE, in_file)) {
        result->in_file = in_file != 0;
    }
}

ue_slot_proof_t ue_slot_prove(const ue_first_t *slot, uint32_t salt)
{
    ue_slot_proof_t result = {UE_PROOF_ADMITTED, 0, 0, 0, 0};

    if (!is_admitted(slot, salt)) {
        result.proof = prove_nothing(slot);
        return result;
    }
    if (slot->check[UE_CHECK_COMPLETION] == completion(slot)) {
        result.proof = UE_PROOF_COMPLETE;
    }
    prove_delivery(slot, 0, &result);
    if (!result.sent) {
        prove_delivery(slot, UE_SLOT_IN_FILE, &result);
    }
    return result;
}

ue_slot_ref_t ue_slot_link(const ue_first_t *slot)
{
    ue_slot_ref_t link = 0;

    if (slot->flags & UE_SLOT_CONTINUED) {
        memcpy(&link, slot->text + UE_SLOT_TEXT_BEFORE_LINK, sizeof(link));
    }
    return link;
}

/** Put the text of several slots together. */
static apr_status_t gather(const ue_first_t *slot, size_t len, int checked,
                           ue_slot_find_fn *find, void *baton, char *buf)
{
    size_t have = UE_SLOT_TEXT_BEFORE_LINK;
    ue_slot_ref_t link = ue_slot_link(slot);

    memset(buf, '?', len); /* where something is missing */
    memcpy(buf, slot->text, have);
    while (have < len) {
        size_t n = len - have < UE_SLOT_FURTHER_TEXT ? len - have
                                                     : UE_SLOT_FURTHER_TEXT;
        uint32_t salt = 0;
        const ue_slot_t *next = link ? find(baton, link, &salt) : NULL;

        if (!next
            || (checked
                && next->further.check
                       != further(&next->further, salt, &slot->request_id,
                                  n))) {
            return APR_EINVAL;
        }
        memcpy(buf + have, next->further.text, n);
        have += n;
        link = next->further.next;
    }
    return APR_SUCCESS;
}

apr_status_t ue_slot_view(const ue_first_t *slot, int checked,
                          ue_slot_find_fn *find, void *baton, ue_event_t *event,
                          char *buf)
{
    size_t len = (size_t)slot->method_len + slot->endpoint_len;
    const char *text = slot->text;
    apr_status_t rv = APR_SUCCESS;

    if (slot->flags & UE_SLOT_CONTINUED) {
        rv = find ? gather(slot, len, checked, find, baton, buf) : APR_EINVAL;
        text = buf;
    }
    event->request_id = slot->request_id;
    event->organization_id = slot->organization_id;
    event->api_key_id = slot->api_key_id;
    event->timestamp =
        atomic_load_explicit(&slot->timestamp, memory_order_relaxed);
    event->response_time_ms = slot->response_time_ms;
    event->status_code = slot->status_code;
    event->billable = (slot->flags & UE_SLOT_BILLABLE) != 0;
    event->method = slot->method ? methods[slot->method].name : text;
    event->method_len =
        slot->method ? methods[slot->method].len : slot->method_len;
    event->endpoint = text + slot->method_len;
    event->endpoint_len = slot->endpoint_len;
    return rv;
}
