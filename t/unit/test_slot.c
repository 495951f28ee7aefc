/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * Slots as another process finds them: whatever became of their bytes, what
 * they prove was once so. Each bit is turned over, each end is lost, and what
 * two uses of the same slots left is mixed as a disk may mix it.
 */
#include "unit.h"

#include "slot.h"

#define SALT 0x5eed1234u
#define SLOTS 16
#define TEXT_MAX (UE_ENDPOINT_MAX + UE_METHOD_MAX)

/* A use of slots: an event, and how far it got. */
typedef struct {
    const char *method;
    size_t endpoint_len;
    uint32_t generation;
    ue_proof_t proof; /* ADMITTED, COMPLETE or DELIVERED */
    ue_phase_t phase; /* of what is not delivered */
    int in_file;
    uint8_t id; /* all ids are made of it */
    uint64_t number;
    uint32_t partition;
    uint16_t status;
    uint32_t ms;
    int billable;
} use_t;

/* What was found. */
typedef struct {
    ue_slot_proof_t is;
    apr_status_t rv;
    ue_event_t event;
    char text[TEXT_MAX];
    uint64_t number;
    uint32_t partition;
} found_t;

/* ---- writing, as the journal does ---- */

static char endpoint_at(const use_t *use, size_t i)
{
    return i ? (char)('a' + (i * 7 + use->id) % 26) : '/';
}

static size_t text_of(const use_t *use, char *text, size_t *method_len)
{
    size_t i;

    *method_len = ue_slot_method_code(use->method, strlen(use->method))
                      ? 0
                      : strlen(use->method);
    memcpy(text, use->method, *method_len);
    for (i = 0; i < use->endpoint_len; i++) {
        text[*method_len + i] = endpoint_at(use, i);
    }
    return *method_len + use->endpoint_len;
}

static void write_further(ue_further_t *slot, const use_t *use,
                          const ue_uuid_t *request, const char *text, size_t n,
                          uint32_t next)
{
    slot->generation = use->generation;
    memcpy(slot->text, text, n);
    slot->next = next;
    ue_slot_check_further(slot, SALT, request, n);
    slot->state = UE_SLOT_FURTHER;
}

/* The rest of a text, in the slots from 2 on. */
static void write_rest(ue_slot_t *slots, const use_t *use, const char *text,
                       size_t len)
{
    uint32_t ref = 2;

    while (len > 0) {
        size_t n = len < UE_SLOT_FURTHER_TEXT ? len : UE_SLOT_FURTHER_TEXT;

        assert_true(ref <= SLOTS);
        write_further(&slots[ref - 1].further, use, &slots[0].first.request_id,
                      text, n, len > n ? ref + 1 : 0);
        text += n;
        len -= n;
        ref++;
    }
}

static void write_out(ue_first_t *slot, const use_t *use)
{
    if (use->proof != UE_PROOF_ADMITTED) {
        slot->response_time_ms = use->ms;
        slot->status_code = use->status;
        slot->flags |= use->billable ? UE_SLOT_BILLABLE : 0;
        ue_slot_check_completion(slot);
        slot->state = UE_SLOT_LISTED;
    }
    slot->flags |= use->in_file ? UE_SLOT_IN_FILE : 0;
    slot->number = use->number;
    slot->partition = use->partition;
    if (use->proof == UE_PROOF_DELIVERED) {
        ue_slot_check_delivery(slot, UE_PHASE_DELIVERED);
        slot->state = UE_SLOT_FREE;
    }
    else if (use->phase != UE_PHASE_NONE || use->in_file) {
        ue_slot_check_delivery(slot, use->phase);
    }
}

static void write_use(ue_slot_t *slots, const use_t *use)
{
    ue_first_t *slot = &slots[0].first;
    char text[TEXT_MAX];
    size_t method_len;
    size_t len = text_of(use, text, &method_len);
    size_t here = len > UE_SLOT_TEXT ? UE_SLOT_TEXT_BEFORE_LINK : len;
    uint32_t link = 2;

    memset(&slot->request_id, use->id, 3 * sizeof(ue_uuid_t));
    slot->organization_id.b[0] ^= 0x55;
    slot->api_key_id.b[0] ^= 0xaa;
    slot->generation = use->generation;
    slot->method = ue_slot_method_code(use->method, strlen(use->method));
    slot->method_len = (uint8_t)method_len;
    slot->endpoint_len = (uint16_t)use->endpoint_len;
    slot->flags = len > here ? UE_SLOT_CONTINUED : 0;
    slot->timestamp = 1790000000000000 + use->generation;
    memcpy(slot->text, text, here);
    if (len > here) {
        memcpy(slot->text + here, &link, sizeof(link));
        write_rest(slots, use, text + here, len - here);
    }
    ue_slot_check_admission(slot, SALT);
    slot->state = UE_SLOT_ADMITTED;
    write_out(slot, use);
}

/* ---- reading ---- */

static const ue_slot_t *find(void *baton, ue_slot_ref_t link, uint32_t *salt)
{
    *salt = SALT;
    return link >= 1 && link <= SLOTS ? (const ue_slot_t *)baton + link - 1
                                      : NULL;
}

static void read_first(ue_slot_t *slots, found_t *found)
{
    memset(found, 0, sizeof(*found));
    found->is = ue_slot_prove(&slots[0].first, SALT);
    found->number = slots[0].first.number;
    found->partition = slots[0].first.partition;
    if (found->is.proof >= UE_PROOF_ADMITTED) {
        found->rv = ue_slot_view(&slots[0].first, 1, find, slots, &found->event,
                                 found->text);
    }
}

static int is_text_of(const found_t *found, const use_t *use)
{
    const ue_event_t *event = &found->event;
    size_t i;

    if (event->method_len != strlen(use->method)
        || memcmp(event->method, use->method, event->method_len) != 0
        || event->endpoint_len != use->endpoint_len) {
        return 0;
    }
    for (i = 0; i < use->endpoint_len; i++) {
        if (event->endpoint[i] != endpoint_at(use, i)) {
            return 0;
        }
    }
    return 1;
}

/* Is all that was proved true of this use? Texts that aren't whole are said to
 * be so. */
static int is_true_of(const found_t *found, const use_t *use)
{
    const ue_event_t *event = &found->event;
    ue_uuid_t ids[3];

    memset(ids, use->id, sizeof(ids));
    ids[1].b[0] ^= 0x55;
    ids[2].b[0] ^= 0xaa;
    if (found->is.proof > use->proof
        || !ue_uuid_equal(&event->request_id, &ids[0])
        || !ue_uuid_equal(&event->organization_id, &ids[1])
        || !ue_uuid_equal(&event->api_key_id, &ids[2])
        || event->timestamp != 1790000000000000 + use->generation) {
        return 0;
    }
    if (found->rv == APR_SUCCESS && !is_text_of(found, use)) {
        return 0;
    }
    if (found->is.proof == UE_PROOF_COMPLETE
        && (event->status_code != use->status
            || event->response_time_ms != use->ms
            || event->billable != use->billable)) {
        return 0;
    }
    if (found->is.sent
        && (use->phase != UE_PHASE_SENT || found->number != use->number
            || found->partition != use->partition)) {
        return 0;
    }
    return !found->is.in_file || use->in_file;
}

/* ---- uses ---- */

static const use_t uses[] = {
    {"GET", 11, 7, UE_PROOF_ADMITTED, UE_PHASE_NONE, 0, 1, 0, 0, 0, 0, 0},
    {"GET", 11, 7, UE_PROOF_COMPLETE, UE_PHASE_NONE, 0, 2, 0, 0, 200, 12, 1},
    {"POST", 60, 8, UE_PROOF_COMPLETE, UE_PHASE_SENT, 0, 3, 41, 5, 404, 1, 1},
    {"PUT", 96, 9, UE_PROOF_COMPLETE, UE_PHASE_SENT, 1, 4, 42, 5, 500, 7, 0},
    {"PUT", 97, 10, UE_PROOF_COMPLETE, UE_PHASE_NONE, 1, 5, 0, 0, 201, 9, 1},
    {"PROPFIND", 20, 11, UE_PROOF_COMPLETE, UE_PHASE_SENT, 0, 6, 1, 0, 207, 3,
     1},
    {"PROPFIND", 300, 12, UE_PROOF_COMPLETE, UE_PHASE_SENT, 0, 7, 9, 1, 207, 3,
     1},
    {"GET", 2048, 13, UE_PROOF_COMPLETE, UE_PHASE_SENT, 0, 8, 10, 1, 200, 70000,
     1},
    {"GET", 300, 14, UE_PROOF_ADMITTED, UE_PHASE_NONE, 0, 9, 0, 0, 0, 0, 0},
    {"GET", 10, 15, UE_PROOF_DELIVERED, UE_PHASE_NONE, 0, 10, 11, 1, 200, 4, 1},
    {"GET", 10, 16, UE_PROOF_DELIVERED, UE_PHASE_NONE, 1, 11, 12, 1, 200, 4, 1},
    {"HEAD", 400, 17, UE_PROOF_DELIVERED, UE_PHASE_NONE, 0, 12, 13, 1, 200, 4,
     1},
};

static void start(ue_slot_t *slots, const use_t *use)
{
    memset(slots, 0, SLOTS * sizeof(*slots));
    write_use(slots, use);
}

static void test_slot_proves_what_was_written(void **state)
{
    static ue_slot_t slots[SLOTS];
    static found_t found;

    for (size_t i = 0; i < UNIT_COUNT(uses); i++) {
        start(slots, &uses[i]);
        read_first(slots, &found);
        assert_int_equal(found.is.proof, uses[i].proof);
        assert_int_equal(found.rv, APR_SUCCESS);
        assert_true(is_true_of(&found, &uses[i]));
        assert_int_equal(!!found.is.sent, uses[i].phase == UE_PHASE_SENT);
        assert_int_equal(!!found.is.in_file,
                         uses[i].in_file
                             && uses[i].proof != UE_PROOF_DELIVERED);
        if (uses[i].proof == UE_PROOF_ADMITTED) {
            assert_int_equal(found.event.status_code, 0);
            assert_false(found.event.billable);
        }
    }
}

static void test_slot_that_was_never_used_proves_nothing(void **state)
{
    ue_slot_t slot;

    memset(&slot, 0, sizeof(slot));
    assert_int_equal(ue_slot_prove(&slot.first, SALT).proof, UE_PROOF_FREE);
    slot.further.state = UE_SLOT_FURTHER;
    assert_int_equal(ue_slot_prove(&slot.first, SALT).proof, UE_PROOF_FURTHER);
    for (int i = UE_SLOT_ADMITTED; i < 256; i++) {
        if (i != UE_SLOT_FURTHER) {
            slot.first.state = (uint8_t)i;
            assert_int_equal(ue_slot_prove(&slot.first, SALT).proof,
                             UE_PROOF_TORN);
        }
    }
}

/* A client can send a slot as its path, but doesn't know the salt. */
static void test_slot_of_another_file_proves_nothing(void **state)
{
    static ue_slot_t slots[SLOTS];

    for (size_t i = 0; i < UNIT_COUNT(uses); i++) {
        start(slots, &uses[i]);
        for (int bit = 0; bit < 32; bit++) {
            assert_true(ue_slot_prove(&slots[0].first, SALT ^ 1u << bit).proof
                        < UE_PROOF_ADMITTED);
        }
        assert_true(ue_slot_prove(&slots[0].first, ~SALT).proof
                    < UE_PROOF_ADMITTED);
    }
}

/* A further slot's text, read as a first slot or the other way round. */
static void test_slot_of_one_kind_is_none_of_the_other(void **state)
{
    static ue_slot_t slots[SLOTS];

    start(slots, &uses[7]);
    for (int i = 1; i < SLOTS; i++) {
        assert_int_equal(ue_slot_prove(&slots[i].first, SALT).proof,
                         i < 13 ? UE_PROOF_FURTHER : UE_PROOF_FREE);
    }
    for (int i = 1; i < 13; i++) {
        slots[i].further.state = UE_SLOT_LISTED;
        assert_int_equal(ue_slot_prove(&slots[i].first, SALT).proof,
                         UE_PROOF_TORN);
    }
}

/* ---- a bit is turned over ---- */

typedef enum { NOTHING, ADMISSION, COMPLETION, DELIVERY } part_t;

static part_t part_of_flags(int bit)
{
    return bit == 0 ? COMPLETION : bit == 1 ? ADMISSION : NOTHING;
}

/* Whose check holds for a byte of a first slot. */
static part_t part_of(const ue_first_t *slot, size_t byte, int bit)
{
    size_t text = slot->flags & UE_SLOT_CONTINUED
                      ? UE_SLOT_TEXT
                      : (size_t)slot->method_len + slot->endpoint_len;

    if (byte == offsetof(ue_first_t, state)) {
        return NOTHING;
    }
    if (byte == offsetof(ue_first_t, flags)) {
        return part_of_flags(bit);
    }
    if (byte >= offsetof(ue_first_t, text)) {
        return byte - offsetof(ue_first_t, text) < text ? ADMISSION : NOTHING;
    }
    if (byte >= offsetof(ue_first_t, check)) {
        static const part_t checks[] = {ADMISSION, COMPLETION, DELIVERY};

        return checks[(byte - offsetof(ue_first_t, check)) / 4];
    }
    if (byte >= offsetof(ue_first_t, number)) {
        return DELIVERY;
    }
    return byte >= offsetof(ue_first_t, status_code)
                   && byte < offsetof(ue_first_t, timestamp)
               ? COMPLETION
               : ADMISSION;
}

static ue_proof_t proof_without(const use_t *use, part_t part, uint8_t state)
{
    switch (part) {
    case ADMISSION:
        return state == UE_SLOT_FREE ? UE_PROOF_FREE : UE_PROOF_TORN;
    case COMPLETION:
        return use->proof == UE_PROOF_COMPLETE ? UE_PROOF_ADMITTED : use->proof;
    case DELIVERY:
        return use->proof == UE_PROOF_DELIVERED ? UE_PROOF_COMPLETE
                                                : use->proof;
    default:
        return use->proof;
    }
}

static void check_flip(ue_slot_t *slots, const use_t *use, size_t byte, int bit)
{
    uint8_t *bytes = (uint8_t *)slots;
    part_t part = part_of(&slots[0].first, byte, bit);
    uint8_t st = slots[0].first.state;
    static found_t found;

    bytes[byte] ^= (uint8_t)(1u << bit);
    read_first(slots, &found);
    bytes[byte] ^= (uint8_t)(1u << bit);
    assert_int_equal(found.is.proof, proof_without(use, part, st));
    if (part == ADMISSION) {
        return;
    }
    assert_int_equal(found.rv, APR_SUCCESS);
    assert_int_equal(!!found.is.sent,
                     use->phase == UE_PHASE_SENT && part != DELIVERY);
    if (part != COMPLETION) {
        /* With its delivery unproved it is what it was before. */
        use_t before = *use;

        before.proof = found.is.proof;
        assert_true(is_true_of(&found, &before));
    }
}

static void test_slot_loses_only_what_a_bit_belonged_to(void **state)
{
    static ue_slot_t slots[SLOTS];

    for (size_t i = 0; i < UNIT_COUNT(uses); i++) {
        start(slots, &uses[i]);
        for (size_t byte = 0; byte < UE_SLOT_SIZE; byte++) {
            for (int bit = 0; bit < 8; bit++) {
                check_flip(slots, &uses[i], byte, bit);
            }
        }
    }
}

/* How many slots a use takes. */
static size_t slots_of(const use_t *use)
{
    char text[TEXT_MAX];
    size_t method_len;
    size_t len = text_of(use, text, &method_len);

    return len <= UE_SLOT_TEXT ? 1
                               : 1
                                     + (len - UE_SLOT_TEXT_BEFORE_LINK
                                        + UE_SLOT_FURTHER_TEXT - 1)
                                           / UE_SLOT_FURTHER_TEXT;
}

/* In a further slot. The rest of the event stays proved, and its text is said
 * not to be whole, unless the bit means nothing. */
static void check_further_flip(ue_slot_t *slots, const use_t *use, size_t at,
                               size_t byte, int bit)
{
    uint8_t *bytes = (uint8_t *)&slots[at];
    size_t last = slots_of(use) - 1;
    char text[TEXT_MAX];
    size_t method_len;
    size_t len = text_of(use, text, &method_len) - UE_SLOT_TEXT_BEFORE_LINK;
    size_t n = at < last ? UE_SLOT_FURTHER_TEXT
                         : len - (last - 1) * UE_SLOT_FURTHER_TEXT;
    int means = byte >= offsetof(ue_further_t, text)
                    ? byte - offsetof(ue_further_t, text) < n
                    : byte >= offsetof(ue_further_t, next);
    static found_t found;

    bytes[byte] ^= (uint8_t)(1u << bit);
    read_first(slots, &found);
    bytes[byte] ^= (uint8_t)(1u << bit);
    assert_int_equal(found.is.proof, use->proof);
    assert_int_equal(found.rv, means ? APR_EINVAL : APR_SUCCESS);
    assert_true(is_true_of(&found, use));
}

static void test_slot_tells_a_text_that_is_not_whole(void **state)
{
    static ue_slot_t slots[SLOTS];

    for (size_t i = 0; i < UNIT_COUNT(uses); i++) {
        size_t count = slots_of(&uses[i]);

        start(slots, &uses[i]);
        for (size_t at = 1; at < count; at++) {
            for (size_t byte = 0; byte < UE_SLOT_SIZE; byte++) {
                for (int bit = 0; bit < 8; bit++) {
                    if (RUNNING_ON_VALGRIND && (byte + (size_t)bit) % 13) {
                        continue;
                    }
                    check_further_flip(slots, &uses[i], at, byte, bit);
                }
            }
        }
    }
}

/* ---- an end is lost ---- */

static void check_lost(ue_slot_t *slots, const use_t *use, size_t from,
                       size_t to)
{
    static ue_slot_t damaged[SLOTS];
    static found_t found;

    memcpy(damaged, slots, sizeof(damaged));
    memset((char *)damaged + from, 0, to - from);
    read_first(damaged, &found);
    if (found.is.proof >= UE_PROOF_ADMITTED) {
        use_t before = *use;

        /* What was delivered may seem to be waiting still. */
        if (use->proof == UE_PROOF_DELIVERED
            && found.is.proof != UE_PROOF_DELIVERED) {
            before.proof = UE_PROOF_COMPLETE;
        }
        assert_true(is_true_of(&found, &before));
    }
}

static void test_slot_with_an_end_lost_never_lies(void **state)
{
    static ue_slot_t slots[SLOTS];

    for (size_t i = 0; i < UNIT_COUNT(uses); i++) {
        size_t size = slots_of(&uses[i]) * UE_SLOT_SIZE;
        size_t step = RUNNING_ON_VALGRIND ? 7 : 1;

        start(slots, &uses[i]);
        for (size_t at = 0; at <= size; at += step) {
            check_lost(slots, &uses[i], at, SLOTS * UE_SLOT_SIZE);
            check_lost(slots, &uses[i], 0, at);
            if (at < UE_SLOT_SIZE) {
                check_lost(slots, &uses[i], at, UE_SLOT_SIZE);
            }
        }
    }
}

/* ---- two uses are mixed ---- */

static void check_mixed(ue_slot_t *mixed, const use_t *a, const use_t *b)
{
    static found_t found;
    use_t as[2] = {*a, *b};

    read_first(mixed, &found);
    if (found.is.proof < UE_PROOF_ADMITTED) {
        return;
    }
    for (int i = 0; i < 2; i++) {
        if (as[i].proof == UE_PROOF_DELIVERED
            && found.is.proof != UE_PROOF_DELIVERED) {
            as[i].proof = UE_PROOF_COMPLETE;
        }
    }
    assert_true(is_true_of(&found, &as[0]) || is_true_of(&found, &as[1]));
}

/* One use, and another over what the first has left. */
static void start_two(ue_slot_t *one, ue_slot_t *two, const use_t *a,
                      const use_t *b)
{
    use_t later = *b;

    later.generation = a->generation + 1;
    start(one, a);
    memcpy(two, one, SLOTS * sizeof(*one));
    write_use(two, &later);
}

static void check_splits(const use_t *a, const use_t *b)
{
    static ue_slot_t one[SLOTS], two[SLOTS], mixed[SLOTS];
    size_t size = 4 * UE_SLOT_SIZE;
    use_t later = *b;

    later.generation = a->generation + 1;
    start_two(one, two, a, b);
    for (size_t at = 0; at <= size; at += RUNNING_ON_VALGRIND ? 16 : 1) {
        memcpy(mixed, two, sizeof(mixed));
        memcpy(mixed, one, at);
        check_mixed(mixed, a, &later);
        memcpy(mixed, one, sizeof(mixed));
        memcpy(mixed, two, at);
        check_mixed(mixed, a, &later);
    }
}

/* At any byte, and so at the borders of sectors and pages too. */
static void test_slot_split_between_two_uses_is_one_of_them(void **state)
{
    for (size_t i = 0; i < UNIT_COUNT(uses); i++) {
        for (size_t k = 0; k < UNIT_COUNT(uses); k++) {
            check_splits(&uses[i], &uses[k]);
        }
    }
}

/* Each sector may be old or new; slots begin anywhere in one that is a multiple
 * of 64. */
static void test_slot_mixed_by_sectors_is_one_of_two_uses(void **state)
{
    static ue_slot_t one[SLOTS], two[SLOTS], mixed[SLOTS];
    uint64_t seed = 8;

    for (unsigned n = unit_loops(20000); n > 0; n--) {
        const use_t *a = &uses[unit_random(&seed) % UNIT_COUNT(uses)];
        use_t b = uses[unit_random(&seed) % UNIT_COUNT(uses)];
        size_t border = 64 * (unit_random(&seed) % 8);

        b.generation = a->generation + 1;
        start_two(one, two, a, &b);
        for (size_t at = 0, n_bytes; at < sizeof(mixed); at += n_bytes) {
            const void *from = unit_random(&seed) & 1 ? one : two;

            n_bytes = 512 - (at + border) % 512;
            n_bytes =
                n_bytes < sizeof(mixed) - at ? n_bytes : sizeof(mixed) - at;
            memcpy((char *)mixed + at, (const char *)from + at, n_bytes);
        }
        check_mixed(mixed, a, &b);
    }
}

/* The same event twice, the second time under another generation: numbers of
 * the first must not pass for those of the second. */
static void test_slot_used_again_forgets_its_number(void **state)
{
    static ue_slot_t slots[SLOTS];
    ue_first_t *slot = &slots[0].first;
    ue_slot_proof_t is;

    start(slots, &uses[2]);
    slot->generation++;
    ue_slot_check_admission(slot, SALT);
    is = ue_slot_prove(slot, SALT);
    assert_int_equal(is.proof, UE_PROOF_ADMITTED);
    assert_false(is.sent);
    start(slots, &uses[9]);
    slot->generation++;
    ue_slot_check_admission(slot, SALT);
    assert_int_equal(ue_slot_prove(slot, SALT).proof, UE_PROOF_ADMITTED);
}

/* ---- links ---- */

static void test_slot_text_of_another_request_is_not_taken(void **state)
{
    static ue_slot_t slots[SLOTS];
    static found_t found;
    ue_uuid_t other = {{9}};

    start(slots, &uses[6]);
    ue_slot_check_further(&slots[1].further, SALT, &other,
                          UE_SLOT_FURTHER_TEXT);
    read_first(slots, &found);
    assert_int_equal(found.is.proof, UE_PROOF_COMPLETE);
    assert_int_equal(found.rv, APR_EINVAL);
    assert_true(is_true_of(&found, &uses[6]));
}

static const ue_slot_t *find_nothing(void *baton, ue_slot_ref_t link,
                                     uint32_t *salt)
{
    ++*(int *)baton;
    return NULL;
}

static const ue_slot_t *find_itself(void *baton, ue_slot_ref_t link,
                                    uint32_t *salt)
{
    ++*(int *)baton;
    *salt = SALT;
    return (const ue_slot_t *)(void *)((int *)baton + 2);
}

static void test_slot_links_end_whatever_they_lead_to(void **state)
{
    static ue_slot_t slots[SLOTS];
    static found_t found;
    struct {
        int calls;
        int pad;
        ue_slot_t slot;
    } baton = {0, 0, {{0}}};

    start(slots, &uses[7]);
    assert_int_equal(
        ue_slot_view(&slots[0].first, 1, NULL, NULL, &found.event, found.text),
        APR_EINVAL);
    assert_int_equal(ue_slot_view(&slots[0].first, 1, find_nothing, &baton,
                                  &found.event, found.text),
                     APR_EINVAL);
    assert_int_equal(baton.calls, 1);
    /* A circle, which only garbage could be: after as many as the text needs.
     */
    baton.calls = 0;
    baton.slot.further.next = 2;
    assert_int_equal(ue_slot_view(&slots[0].first, 0, find_itself, &baton,
                                  &found.event, found.text),
                     APR_SUCCESS);
    assert_int_equal(baton.calls, 12);
    /* Link 0 leads nowhere. */
    memset(slots[0].first.text + UE_SLOT_TEXT_BEFORE_LINK, 0, 4);
    baton.calls = 0;
    assert_int_equal(ue_slot_view(&slots[0].first, 0, find_itself, &baton,
                                  &found.event, found.text),
                     APR_EINVAL);
    assert_int_equal(baton.calls, 0);
}

static void test_slot_lengths_that_no_event_has_are_torn(void **state)
{
    static ue_slot_t slots[SLOTS];
    ue_first_t *slot = &slots[0].first;

    for (int i = 0; i < 6; i++) {
        start(slots, &uses[1]);
        slot->method = i == 0 ? 10 : slot->method;
        slot->method_len = i == 1 ? 5 : i == 2 ? 65 : slot->method_len;
        slot->method = i == 2 ? 0 : slot->method;
        slot->endpoint_len = i == 3 ? 2049 : i == 4 ? 97 : slot->endpoint_len;
        slot->flags |= i == 3 || i == 5 ? UE_SLOT_CONTINUED : 0;
        ue_slot_check_admission(slot, SALT);
        assert_int_equal(ue_slot_prove(slot, SALT).proof, UE_PROOF_TORN);
    }
}

static void test_slot_has_codes_for_known_methods(void **state)
{
    static const char *const names[] = {"",        "GET",    "HEAD",  "POST",
                                        "PUT",     "DELETE", "PATCH", "OPTIONS",
                                        "CONNECT", "TRACE"};

    for (size_t i = 0; i < UNIT_COUNT(names); i++) {
        assert_int_equal(ue_slot_method_code(names[i], strlen(names[i])), i);
    }
    assert_int_equal(ue_slot_method_code("get", 3), 0);
    assert_int_equal(ue_slot_method_code("GETS", 4), 0);
    assert_int_equal(ue_slot_method_code("GETS", 3), 1);
    assert_int_equal(ue_slot_method_code("PROPFIND", 8), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slot_proves_what_was_written),
        cmocka_unit_test(test_slot_that_was_never_used_proves_nothing),
        cmocka_unit_test(test_slot_of_another_file_proves_nothing),
        cmocka_unit_test(test_slot_of_one_kind_is_none_of_the_other),
        cmocka_unit_test(test_slot_loses_only_what_a_bit_belonged_to),
        cmocka_unit_test(test_slot_tells_a_text_that_is_not_whole),
        cmocka_unit_test(test_slot_with_an_end_lost_never_lies),
        cmocka_unit_test(test_slot_split_between_two_uses_is_one_of_them),
        cmocka_unit_test(test_slot_mixed_by_sectors_is_one_of_two_uses),
        cmocka_unit_test(test_slot_used_again_forgets_its_number),
        cmocka_unit_test(test_slot_text_of_another_request_is_not_taken),
        cmocka_unit_test(test_slot_links_end_whatever_they_lead_to),
        cmocka_unit_test(test_slot_lengths_that_no_event_has_are_torn),
        cmocka_unit_test(test_slot_has_codes_for_known_methods),
    };

    return cmocka_run_group_tests_name("slot", tests, NULL, NULL);
}
