/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * What a process has left behind in a spool: an account, or segments. Input is
 * put into files in memory, and some of its checks are made good, so that what
 * lies behind them is reached too.
 *
 * An account is a byte 0, bits of what to repair, and what its identity and
 * numbers are; then rows and lanes. Segments are a byte 1, a salt, and slots:
 * each a byte that says which checks to repair, and 192 bytes. Half of the
 * slots lie in a second segment of the same maker.
 */
#include "fuzz.h"

#include <apr_general.h>
#include <json-c/json.h>

#include "crc32c.h"

/* Not in the library: only usagectl needs it. */
#include "usagectl/spool_read.c"

#define SLOTS_MOST 32

static apr_pool_t *pool;

int LLVMFuzzerInitialize(int *argc, char ***argv);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    CHECK(apr_initialize() == APR_SUCCESS);
    CHECK(apr_pool_create(&pool, NULL) == APR_SUCCESS);
    return 0;
}

static size_t take(const uint8_t **data, size_t *size, void *to, size_t len)
{
    size_t n = *size < len ? *size : len;

    memcpy(to, *data, n);
    *data += n;
    *size -= n;
    return n;
}

static json_object *parse(const char *json, size_t len)
{
    json_tokener *tok = json_tokener_new();
    json_object *o;

    CHECK(tok);
    json_tokener_set_flags(tok,
                           JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    o = json_tokener_parse_ex(tok, json, (int)len);
    CHECK(json_tokener_get_error(tok) == json_tokener_success);
    CHECK(json_tokener_get_parse_end(tok) == len);
    CHECK(json_object_is_type(o, json_type_object));
    json_tokener_free(tok);
    return o;
}

/* ---- accounts ---- */

enum { REPAIR_FIRST = 1, REPAIR_SECOND = 2, REPAIR_TEXTS = 4 };

static void repair_identity(ue_identity_t *id, unsigned how)
{
    memcpy(id->magic, UE_STREAM_MAGIC, sizeof(id->magic));
    id->version = UE_STREAM_VERSION;
    id->size = sizeof(ue_account_t);
    if (how & REPAIR_TEXTS) {
        id->host[sizeof(id->host) - 1] = '\0';
        id->target.topic[sizeof(id->target.topic) - 1] = '\0';
        id->target.brokers[sizeof(id->target.brokers) - 1] = '\0';
        id->target.event_file[sizeof(id->target.event_file) - 1] = '\0';
    }
    id->check = ue_crc32c(0, id, offsetof(ue_identity_t, check));
}

/* Few rows where all could be: their places are input as well. */
static void fill_tables(ue_account_t *account, const uint8_t *data, size_t size)
{
    while (size > 0) {
        uint64_t where = fuzz_number(&data, &size, 2);

        if (where & 1) {
            take(&data, &size, &account->lane[(where >> 1) % UE_LANES_MAX],
                 sizeof(ue_lane_count_t));
        }
        else {
            take(&data, &size, &account->losses[(where >> 1) % UE_LOSS_ROWS],
                 sizeof(ue_loss_row_t));
        }
    }
}

static void check_losses(const ue_account_t *account)
{
    ue_loss_record_t record;
    uint32_t from = 0, records = 0;

    while (ue_ledger_next_loss(account, &from, 1, &record) == APR_SUCCESS) {
        CHECK(++records <= UE_LOSS_ROWS);
        CHECK(record.row < UE_LOSS_ROWS);
        CHECK(strlen(record.key) < sizeof(record.key) - 1);
        json_object_put(parse(record.json, strlen(record.json)));
        free(record.json);
    }
    CHECK(from == UE_LOSS_ROWS || account->lost == 0);
}

static void check_record(const ue_account_t *account)
{
    char *json = ue_ledger_stream_json(account, NULL, 0);

    CHECK(json);
    json_object_put(parse(json, strlen(json)));
    free(json);
}

static void check_reconciled(ue_account_t *account)
{
    ue_read_sums_t *sums = calloc(1, sizeof(*sums));

    CHECK(sums);
    sums->highest[3] = account->lane[3].delivered;
    sums->open[3] = account->lane[4].sent;
    sums->waiting = account->lane[5].sent;
    ue_ledger_reconcile(account, sums->highest, sums->open, sums->waiting);
    CHECK(account->admitted
          == account->delivered + account->lost + sums->waiting);
    check_record(account);
    free(sums);
}

static void check_account(const uint8_t *data, size_t size)
{
    unsigned how = (unsigned)fuzz_number(&data, &size, 1);
    ue_read_account_t read = {.account = calloc(1, sizeof(ue_account_t))};
    ue_account_t *account = read.account;

    CHECK(account);
    take(&data, &size, &account->identity, sizeof(ue_identity_t));
    take(&data, &size, &account->state, 72);
    account->again = account->identity;
    if (how & REPAIR_FIRST) {
        repair_identity(&account->identity, how);
    }
    if (how & REPAIR_SECOND) {
        repair_identity(&account->again, how);
    }
    fill_tables(account, data, size);
    ue_read_account_judge(&read, sizeof(ue_account_t));
    CHECK(!read.identity == !(read.copies & 3));
    if (read.identity) {
        CHECK(ue_ledger_identity(account) == read.identity);
        check_record(account);
        check_losses(account);
        ue_ledger_has_lost(account, 3, 7);
        check_reconciled(account);
    }
    ue_read_account_free(&read);
}

/* ---- segments ---- */

enum {
    REPAIR_ADMISSION = 1,
    REPAIR_COMPLETION = 2,
    REPAIR_SENT = 4,
    REPAIR_DELIVERED = 8,
    REPAIR_FURTHER = 16, /* as part of the first slot; its length is input */
    REPAIR_LINK = 32     /* so that a chain is likely: to the next slot */
};

typedef struct {
    uint8_t *bytes[2];
    ue_read_segment_t segments[2];
    ue_reader_t reader;
    uint32_t salt;
} spool_t;

static void repair_slot(ue_slot_t *slot, const ue_slot_t *before, unsigned how,
                        uint32_t ref, uint32_t salt)
{
    ue_first_t *first = &slot->first;
    uint32_t next = ref + 1;

    if (how & REPAIR_FURTHER) {
        size_t len = slot->further.reserved[0];

        slot->further.next = how & REPAIR_LINK ? next : slot->further.next;
        ue_slot_check_further(
            &slot->further, salt, &before->first.request_id,
            len < UE_SLOT_FURTHER_TEXT ? len : UE_SLOT_FURTHER_TEXT);
        return;
    }
    if (how & REPAIR_LINK) {
        memcpy(first->text + UE_SLOT_TEXT_BEFORE_LINK, &next, sizeof(next));
    }
    if (how & REPAIR_ADMISSION) {
        ue_slot_check_admission(first, salt);
    }
    if (how & REPAIR_COMPLETION) {
        ue_slot_check_completion(first);
    }
    if (how & (REPAIR_SENT | REPAIR_DELIVERED)) {
        ue_slot_check_delivery(first, how & REPAIR_SENT ? UE_PHASE_SENT
                                                        : UE_PHASE_DELIVERED);
    }
}

/* A segment's file with as many slots as there are, cut behind them. */
static uint8_t *make_segment(ue_read_segment_t *segment, uint32_t slots,
                             uint32_t first, uint32_t salt)
{
    ue_segment_head_t head = {.magic = UE_SEGMENT_MAGIC,
                              .version = UE_SEGMENT_VERSION,
                              .head_size = UE_SEGMENT_HEAD,
                              .slot_size = UE_SLOT_SIZE,
                              .slots = UE_SEGMENT_UNIT,
                              .salt = salt,
                              .first = first};
    size_t size = UE_SEGMENT_HEAD + (size_t)slots * UE_SLOT_SIZE;
    uint8_t *bytes = malloc(size);

    CHECK(bytes);
    memset(bytes, 0, UE_SEGMENT_HEAD);
    head.check = ue_crc32c(0, &head, offsetof(ue_segment_head_t, check));
    memcpy(bytes, &head, sizeof(head));
    memcpy(bytes + UE_SEGMENT_AGAIN, &head, sizeof(head));
    segment->name = "in memory";
    segment->memory = bytes;
    segment->size = size;
    return bytes;
}

static ue_slot_t *slot_at(const spool_t *spool, uint32_t n, uint32_t half)
{
    return (ue_slot_t *)(void *)(n < half
                                     ? spool->bytes[0] + UE_SEGMENT_HEAD
                                           + (size_t)n * UE_SLOT_SIZE
                                     : spool->bytes[1] + UE_SEGMENT_HEAD
                                           + (size_t)(n - half) * UE_SLOT_SIZE);
}

static int is_same_text(const ue_event_t *a, const ue_event_t *b)
{
    return a->method_len == b->method_len && a->endpoint_len == b->endpoint_len
           && !memcmp(a->method, b->method, a->method_len)
           && !memcmp(a->endpoint, b->endpoint, a->endpoint_len);
}

static int is_same_admission(const ue_event_t *a, const ue_event_t *b)
{
    return ue_uuid_equal(&a->request_id, &b->request_id)
           && ue_uuid_equal(&a->organization_id, &b->organization_id)
           && ue_uuid_equal(&a->api_key_id, &b->api_key_id)
           && a->timestamp == b->timestamp;
}

static int is_same_completion(const ue_event_t *a, const ue_event_t *b)
{
    return a->response_time_ms == b->response_time_ms
           && a->status_code == b->status_code && a->billable == b->billable;
}

static int is_delivery_proved(const ue_read_slot_t *slot)
{
    return slot->sent || slot->in_file || slot->in_topic || slot->refused
           || slot->proof == UE_PROOF_DELIVERED;
}

/* What was proved is proved still or isn't any more, but nothing else is. (What
 * was not proved may be a bit away from it.) */
static void compare(const ue_read_slot_t *is, const ue_read_slot_t *was)
{
    CHECK(is_same_admission(&is->event, &was->event));
    CHECK(is->broken || was->broken || is_same_text(&is->event, &was->event));
    if (was->completed && is->completed) {
        CHECK(is_same_completion(&is->event, &was->event));
    }
    if (!is_delivery_proved(was)) {
        return;
    }
    CHECK(is->proof <= was->proof
          || (is->proof == UE_PROOF_COMPLETE && !was->completed));
    CHECK(!is->in_file || was->in_file);
    CHECK(!is->sent
          || (was->sent && is->slot.first.number == was->slot.first.number
              && is->slot.first.partition == was->slot.first.partition));
}

static void check_flip(spool_t *spool, const ue_read_segment_t *segment,
                       const ue_read_slot_t *was, unsigned bit)
{
    size_t at = UE_SEGMENT_HEAD + (size_t)was->index * UE_SLOT_SIZE + bit / 8;
    uint8_t *byte = (uint8_t *)(uintptr_t)segment->memory + at;
    static ue_read_slot_t is;

    *byte ^= (uint8_t)(1u << bit % 8);
    CHECK(ue_reader_slot(&spool->reader, segment, was->index, &is)
          == APR_SUCCESS);
    *byte ^= (uint8_t)(1u << bit % 8);
    if (is.proof >= UE_PROOF_ADMITTED) {
        compare(&is, was);
    }
}

static void check_event(const ue_event_t *event)
{
    char *json = malloc(UE_EVENT_JSON_MAX);
    size_t len;
    json_object *o;

    CHECK(json);
    len = ue_event_json(event, json);
    CHECK(len <= UE_EVENT_JSON_MAX);
    o = parse(json, len);
    CHECK(json_object_object_length(o) == 9);
    json_object_put(o);
    free(json);
}

static int check_slot(void *baton, const ue_read_segment_t *segment,
                      const ue_read_slot_t *slot)
{
    spool_t *spool = baton;
    uint32_t bit = spool->salt + slot->index;
    int i;

    CHECK(slot->proof != UE_PROOF_COMPLETE || slot->completed);
    if (slot->proof < UE_PROOF_ADMITTED) {
        return 0;
    }
    if (!slot->broken) {
        check_event(&slot->event);
    }
    for (i = 0; i < 16; i++) {
        bit = bit * 1664525u + 1013904223u;
        check_flip(spool, segment, slot, (bit >> 8) % (8 * UE_SLOT_SIZE));
    }
    return 0;
}

static void check_sums(spool_t *spool)
{
    ue_read_sums_t *sums = calloc(1, sizeof(*sums));
    static ue_read_slot_t slot;
    uint32_t i, n = 0;

    CHECK(sums);
    for (i = 0; i < spool->segments[0].slots; i++) {
        CHECK(ue_reader_slot(&spool->reader, &spool->segments[0], i, &slot)
              == APR_SUCCESS);
        ue_read_sum(sums, &slot);
        n += (uint32_t)ue_read_is_waiting(&slot);
    }
    CHECK(sums->waiting == n && sums->torn <= n);
    CHECK(ue_reader_slot(&spool->reader, &spool->segments[0], i, &slot)
          == APR_EOF);
    free(sums);
}

static void check_segments(const uint8_t *data, size_t size)
{
    spool_t spool = {.salt = (uint32_t)fuzz_number(&data, &size, 4)};
    uint32_t slots = (uint32_t)(size / (1 + UE_SLOT_SIZE));
    uint32_t half, i;

    slots = slots < SLOTS_MOST ? slots : SLOTS_MOST;
    half = slots / 2;
    spool.bytes[0] = make_segment(&spool.segments[0], half, 1, spool.salt);
    spool.bytes[1] =
        make_segment(&spool.segments[1], slots - half, half + 1, spool.salt);
    for (i = 0; i < slots; i++) {
        unsigned how = (unsigned)fuzz_number(&data, &size, 1);
        ue_slot_t *slot = slot_at(&spool, i, half);

        take(&data, &size, slot, UE_SLOT_SIZE);
        repair_slot(slot, slot_at(&spool, 0, half), how, i + 1, spool.salt);
    }
    /* Where the halves' refs overlap, links must stay in the right one. */
    ue_reader_begin(&spool.reader, spool.segments, 2, pool);
    for (i = 0; i < 2; i++) {
        CHECK(spool.segments[i].copies == (UE_READ_FIRST | UE_READ_SECOND));
        CHECK(ue_reader_walk(&spool.reader, &spool.segments[i], check_slot,
                             &spool)
              == APR_SUCCESS);
    }
    check_sums(&spool);
    free(spool.bytes[0]);
    free(spool.bytes[1]);
    apr_pool_clear(pool);
}

/* ---- anything at all ---- */

static int ignore(void *baton, const ue_read_segment_t *segment,
                  const ue_read_slot_t *slot)
{
    return 0;
}

static void check_garbage(const uint8_t *data, size_t size)
{
    char *copy = fuzz_copy(data, size);
    ue_read_segment_t segment = {
        .name = "garbage", .memory = (const uint8_t *)copy, .size = size};
    ue_reader_t reader = {.dirfd = -1};

    ue_reader_begin(&reader, &segment, 1, pool);
    ue_reader_walk(&reader, &segment, ignore, NULL);
    apr_pool_clear(pool);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    switch (fuzz_number(&data, &size, 1)) {
    case 0:
        check_account(data, size);
        break;
    case 1:
        check_segments(data, size);
        break;
    default:
        check_garbage(data, size);
    }
    return 0;
}
