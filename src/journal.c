/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "journal.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#define TEXT 96                     /* of a first slot */
#define TEXT_BEFORE_LINK (TEXT - 4) /* where more slots follow */
#define FURTHER_TEXT 176            /* of a further slot */
#define EVENT_TEXT_MAX (UE_ENDPOINT_MAX + UE_METHOD_MAX)

/* Where the parts lie is docs/journal.md, for the sake of slots on disk. Both
 * kinds begin alike, since whoever walks the slots can't know which it meets.
 */
typedef struct {
    uint32_t generation; /* how often the slot was taken */
    _Atomic uint8_t state;
    uint8_t method; /* index into methods, 0: spelled out before the endpoint */
    uint8_t flags;
    uint8_t method_len;
    uint16_t endpoint_len;
    uint16_t status_code;
    uint32_t response_time_ms;
    int64_t timestamp;
    ue_uuid_t request_id;
    ue_uuid_t organization_id;
    ue_uuid_t api_key_id;
    uint64_t number; /* in stream and partition */
    uint32_t partition;
    uint32_t check[3]; /* CRC-32C of admission, completion, delivery */
    char text[TEXT];
} first_t;

typedef struct {
    uint32_t generation;
    _Atomic uint8_t state;
    uint8_t reserved[3];
    uint32_t next; /* ref, 0: the last */
    uint32_t check;
    char text[FURTHER_TEXT];
} further_t;

typedef union {
    first_t first;
    further_t further;
} slot_t;

static_assert(sizeof(first_t) == UE_SLOT_SIZE, "a first slot");
static_assert(sizeof(further_t) == UE_SLOT_SIZE, "a further slot");
static_assert(offsetof(first_t, text) == 96, "the fixed half");
static_assert(offsetof(first_t, state) == offsetof(further_t, state),
              "a walker reads the state of either");

#define FLAG_BILLABLE 0x01
#define FLAG_FURTHER 0x02 /* the last four bytes of text are a ref */

struct ue_journal_t {
    slot_t *slots;
    _Atomic uint32_t *next; /* of a free slot, the ref below it */
    uint32_t count;
    /* Tag in the upper half, ref of the top in the lower. On a cache line of
     * its own, since all request threads write it. */
    _Atomic uint64_t top __attribute__((aligned(64)));
    char pad[64 - sizeof(uint64_t)];
};

static const struct {
    const char *name;
    size_t len;
} methods[] = {{"", 0},        {"GET", 3},    {"HEAD", 4},  {"POST", 4},
               {"PUT", 3},     {"DELETE", 6}, {"PATCH", 5}, {"OPTIONS", 7},
               {"CONNECT", 7}, {"TRACE", 5}};

#define METHODS (sizeof(methods) / sizeof(methods[0]))

static slot_t *slot_at(const ue_journal_t *j, ue_slot_ref_t ref)
{
    return &j->slots[ref - 1];
}

static uint8_t method_code(const char *method, size_t len)
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

apr_status_t ue_journal_create(ue_journal_t **journal, uint32_t slots,
                               apr_pool_t *p)
{
    ue_journal_t *j;
    uint32_t i;

    if (slots < UE_JOURNAL_SLOTS_MIN || slots > UE_JOURNAL_SLOTS_MAX) {
        return APR_EINVAL;
    }
    /* APR aligns to 8, the top of the stack wants a cache line. */
    j = apr_pcalloc(p, sizeof(*j) + 63);
    j = (ue_journal_t *)(((uintptr_t)j + 63) & ~(uintptr_t)63);
    j->slots = mmap(NULL, (size_t)slots * sizeof(slot_t),
                    PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (j->slots == MAP_FAILED) {
        return errno;
    }
    j->count = slots;
    j->next = apr_palloc(p, slots * sizeof(*j->next));
    for (i = 0; i < slots; i++) {
        atomic_init(&j->next[i], i + 2 <= slots ? i + 2 : 0);
    }
    atomic_init(&j->top, 1);
    *journal = j;
    return APR_SUCCESS;
}

#define TOP(tag, ref) ((uint64_t)(tag) << 32 | (ref))

static ue_slot_ref_t pop(ue_journal_t *j)
{
    uint64_t top = atomic_load_explicit(&j->top, memory_order_acquire);
    uint64_t under;

    do {
        if ((uint32_t)top == 0) {
            return 0;
        }
        /* May be stale already; then the tag has changed and the swap fails. */
        under = atomic_load_explicit(&j->next[(uint32_t)top - 1],
                                     memory_order_relaxed);
    } while (!atomic_compare_exchange_weak_explicit(
        &j->top, &top, TOP((top >> 32) + 1, under), memory_order_acquire,
        memory_order_acquire));
    return (uint32_t)top;
}

static void push(ue_journal_t *j, ue_slot_ref_t ref)
{
    uint64_t top = atomic_load_explicit(&j->top, memory_order_relaxed);

    do {
        atomic_store_explicit(&j->next[ref - 1], (uint32_t)top,
                              memory_order_relaxed);
    } while (!atomic_compare_exchange_weak_explicit(
        &j->top, &top, TOP((top >> 32) + 1, ref), memory_order_release,
        memory_order_relaxed));
}

/** Give further slots back. */
static void unchain(ue_journal_t *j, ue_slot_ref_t ref)
{
    while (ref) {
        further_t *further = &slot_at(j, ref)->further;
        ue_slot_ref_t next = further->next;

        atomic_store_explicit(&further->state, UE_SLOT_FREE,
                              memory_order_relaxed);
        push(j, ref);
        ref = next;
    }
}

/** Put text into further slots. @return the first of them, 0 if too few */
static ue_slot_ref_t chain(ue_journal_t *j, const char *text, size_t len)
{
    size_t pieces = (len + FURTHER_TEXT - 1) / FURTHER_TEXT;
    ue_slot_ref_t next = 0;

    /* From the last piece to the first, so that each knows what follows it. */
    while (pieces-- > 0) {
        size_t from = pieces * FURTHER_TEXT;
        size_t n = len - from < FURTHER_TEXT ? len - from : FURTHER_TEXT;
        ue_slot_ref_t ref = pop(j);
        further_t *further;

        if (!ref) {
            unchain(j, next);
            return 0;
        }
        further = &slot_at(j, ref)->further;
        memcpy(further->text, text + from, n);
        further->next = next;
        further->generation++;
        atomic_store_explicit(&further->state, UE_SLOT_FURTHER,
                              memory_order_relaxed);
        next = ref;
    }
    return next;
}

/**
 * The method, unless it is a known one, and the endpoint behind it.
 * @return bytes of both
 */
static size_t clean_text(char *text, const ue_admission_t *a, uint8_t code,
                         size_t *method_len)
{
    *method_len =
        code ? 0 : ue_utf8_clean(text, UE_METHOD_MAX, a->method, a->method_len);
    return *method_len
           + ue_utf8_clean(text + *method_len, UE_ENDPOINT_MAX, a->endpoint,
                           a->endpoint_len);
}

apr_status_t ue_journal_admit(ue_journal_t *j, const ue_admission_t *a,
                              ue_slot_ref_t *ref)
{
    char text[EVENT_TEXT_MAX];
    uint8_t code = method_code(a->method, a->method_len);
    size_t method_len;
    size_t len = clean_text(text, a, code, &method_len);
    ue_slot_ref_t further = 0;
    first_t *slot;

    *ref = 0;
    if (len > TEXT) {
        further = chain(j, text + TEXT_BEFORE_LINK, len - TEXT_BEFORE_LINK);
        if (!further) {
            return APR_EAGAIN;
        }
    }
    *ref = pop(j);
    if (!*ref) {
        unchain(j, further);
        return APR_EAGAIN;
    }
    slot = &slot_at(j, *ref)->first;
    slot->request_id = a->request_id;
    slot->organization_id = a->organization_id;
    slot->api_key_id = a->api_key_id;
    slot->timestamp = a->timestamp;
    slot->number = 0;
    slot->method = code;
    slot->flags = further ? FLAG_FURTHER : 0;
    slot->generation++;
    slot->endpoint_len = (uint16_t)(len - method_len);
    slot->method_len = (uint8_t)method_len;
    if (further) {
        memcpy(slot->text, text, TEXT_BEFORE_LINK);
        memcpy(slot->text + TEXT_BEFORE_LINK, &further, sizeof(further));
    }
    else {
        memcpy(slot->text, text, len);
    }
    atomic_store_explicit(&slot->state, UE_SLOT_ADMITTED, memory_order_release);
    return APR_SUCCESS;
}

static int change(first_t *slot, ue_slot_state_t from, ue_slot_state_t to)
{
    uint8_t state = (uint8_t)from;

    return atomic_compare_exchange_strong_explicit(
        &slot->state, &state, (uint8_t)to, memory_order_acq_rel,
        memory_order_relaxed);
}

apr_status_t ue_journal_complete(ue_journal_t *j, ue_slot_ref_t ref,
                                 const ue_completion_t *c)
{
    first_t *slot = &slot_at(j, ref)->first;

    if (!change(slot, UE_SLOT_ADMITTED, UE_SLOT_COMPLETING)) {
        return APR_EBUSY;
    }
    slot->response_time_ms = c->response_time_ms;
    slot->status_code = c->status_code;
    slot->flags |= c->billable ? FLAG_BILLABLE : 0;
    /* Whoever closes may have given this thread up for dead in between. */
    return change(slot, UE_SLOT_COMPLETING, UE_SLOT_COMPLETE) ? APR_SUCCESS
                                                              : APR_EBUSY;
}

void ue_journal_strand(ue_journal_t *j, ue_slot_ref_t ref)
{
    change(&slot_at(j, ref)->first, UE_SLOT_COMPLETE, UE_SLOT_STRANDED);
}

static int change_any(first_t *slot, unsigned from, ue_slot_state_t to)
{
    unsigned state = atomic_load_explicit(&slot->state, memory_order_acquire);

    return (from & 1u << state) && change(slot, (ue_slot_state_t)state, to);
}

int ue_journal_list(ue_journal_t *j, ue_slot_ref_t ref, unsigned from)
{
    return change_any(&slot_at(j, ref)->first, from, UE_SLOT_LISTED);
}

void ue_journal_send(ue_journal_t *j, ue_slot_ref_t ref, uint32_t partition,
                     uint64_t number)
{
    first_t *slot = &slot_at(j, ref)->first;

    slot->partition = partition;
    slot->number = number;
    change(slot, UE_SLOT_LISTED, UE_SLOT_SENT);
}

void ue_journal_unsend(ue_journal_t *j, ue_slot_ref_t ref)
{
    change(&slot_at(j, ref)->first, UE_SLOT_SENT, UE_SLOT_LISTED);
}

void ue_journal_forget(ue_journal_t *j, ue_slot_ref_t ref)
{
    slot_at(j, ref)->first.number = 0;
}

uint64_t ue_journal_number(const ue_journal_t *j, ue_slot_ref_t ref)
{
    return slot_at(j, ref)->first.number;
}

int ue_journal_settle(ue_journal_t *j, ue_slot_ref_t ref, unsigned from)
{
    return change_any(&slot_at(j, ref)->first, from, UE_SLOT_FREE);
}

int ue_journal_interrupt(ue_journal_t *j, ue_slot_ref_t ref)
{
    first_t *slot = &slot_at(j, ref)->first;

    if (!change(slot, UE_SLOT_ADMITTED, UE_SLOT_LISTED)) {
        return 0;
    }
    slot->response_time_ms = 0;
    slot->status_code = 0;
    slot->flags &= (uint8_t)~FLAG_BILLABLE;
    return 1;
}

void ue_journal_read(const ue_journal_t *j, ue_slot_ref_t ref,
                     ue_event_t *event, char *buf)
{
    const first_t *slot = &slot_at(j, ref)->first;
    size_t len = (size_t)slot->method_len + slot->endpoint_len;
    const char *text = slot->text;

    if (slot->flags & FLAG_FURTHER) {
        size_t have = TEXT_BEFORE_LINK;
        ue_slot_ref_t next;

        memcpy(buf, slot->text, have);
        memcpy(&next, slot->text + TEXT_BEFORE_LINK, sizeof(next));
        for (; next && have < len; next = slot_at(j, next)->further.next) {
            size_t n = len - have < FURTHER_TEXT ? len - have : FURTHER_TEXT;

            memcpy(buf + have, slot_at(j, next)->further.text, n);
            have += n;
        }
        text = buf;
    }
    event->request_id = slot->request_id;
    event->organization_id = slot->organization_id;
    event->api_key_id = slot->api_key_id;
    event->timestamp = slot->timestamp;
    event->response_time_ms = slot->response_time_ms;
    event->status_code = slot->status_code;
    event->billable = (slot->flags & FLAG_BILLABLE) != 0;
    event->method = slot->method ? methods[slot->method].name : text;
    event->method_len =
        slot->method ? methods[slot->method].len : slot->method_len;
    event->endpoint = text + slot->method_len;
    event->endpoint_len = slot->endpoint_len;
}

const ue_uuid_t *ue_journal_organization(const ue_journal_t *j,
                                         ue_slot_ref_t ref)
{
    return &slot_at(j, ref)->first.organization_id;
}

apr_time_t ue_journal_began(const ue_journal_t *j, ue_slot_ref_t ref)
{
    return slot_at(j, ref)->first.timestamp;
}

apr_time_t ue_journal_ended(const ue_journal_t *j, ue_slot_ref_t ref)
{
    const first_t *slot = &slot_at(j, ref)->first;

    return slot->timestamp + apr_time_from_msec(slot->response_time_ms);
}

void ue_journal_release(ue_journal_t *j, ue_slot_ref_t ref)
{
    first_t *slot = &slot_at(j, ref)->first;
    ue_slot_ref_t next = 0;

    if (slot->flags & FLAG_FURTHER) {
        memcpy(&next, slot->text + TEXT_BEFORE_LINK, sizeof(next));
    }
    unchain(j, next);
    atomic_store_explicit(&slot->state, UE_SLOT_FREE, memory_order_relaxed);
    push(j, ref);
}

uint32_t ue_journal_slots(const ue_journal_t *j)
{
    return j->count;
}

int ue_journal_is_full(const ue_journal_t *j)
{
    return (uint32_t)atomic_load_explicit(&j->top, memory_order_relaxed) == 0;
}

ue_slot_state_t ue_journal_state(const ue_journal_t *j, ue_slot_ref_t ref)
{
    return (ue_slot_state_t)atomic_load_explicit(&slot_at(j, ref)->first.state,
                                                 memory_order_acquire);
}
