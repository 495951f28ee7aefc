/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "ledger.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "crc32c.h"
#include "event.h"
#include "thread.h"

#define SECONDS_PER_HOUR 3600
#define PROBES 64
#define LAST_HOUR 70389527 /* of the year 9999 */

static_assert(sizeof(ue_loss_row_t) == 64, "a row of losses");
static_assert(offsetof(ue_account_t, lane) == 3 * 4096,
              "identity, its copy, numbers: a page each");

enum { ROW_EMPTY, ROW_WRITING, ROW_GOOD };

#define GET(field) atomic_load_explicit(&(field), memory_order_relaxed)
#define SET(field, value) \
    atomic_store_explicit(&(field), (value), memory_order_relaxed)
#define ADD(field, n) \
    atomic_fetch_add_explicit(&(field), (n), memory_order_relaxed)

/* ---- identity ---- */

static uint32_t check_of(const ue_identity_t *identity)
{
    return ue_crc32c(0, identity, offsetof(ue_identity_t, check));
}

void ue_ledger_identify(ue_account_t *account, const ue_identity_t *identity)
{
    account->identity = *identity;
    account->identity.check = check_of(identity);
    account->again = account->identity;
}

static int is_ended(const char *s, size_t room)
{
    return memchr(s, '\0', room) != NULL;
}

/** A check says that nothing has changed since, not who wrote it. */
static int is_sane(const ue_identity_t *identity)
{
    const ue_target_t *target = &identity->target;

    return is_ended(identity->host, sizeof(identity->host))
           && is_ended(target->topic, sizeof(target->topic))
           && is_ended(target->brokers, sizeof(target->brokers))
           && is_ended(target->event_file, sizeof(target->event_file));
}

static int is_good(const ue_identity_t *identity)
{
    return memcmp(identity->magic, UE_STREAM_MAGIC, sizeof(identity->magic))
               == 0
           && identity->version == UE_STREAM_VERSION
           && identity->size == sizeof(ue_account_t)
           && identity->check == check_of(identity) && is_sane(identity);
}

const ue_identity_t *ue_ledger_identity(const ue_account_t *account)
{
    if (is_good(&account->identity)) {
        return &account->identity;
    }
    return is_good(&account->again) ? &account->again : NULL;
}

void ue_ledger_boot(ue_stream_t *boot)
{
    char text[UE_UUID_LEN];
    ue_uuid_t id;
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

    memset(boot, 0, sizeof(*boot));
    if (fd < 0) {
        return;
    }
    if (read(fd, text, sizeof(text)) == (ssize_t)sizeof(text)
        && ue_uuid_parse(&id, text, sizeof(text)) == APR_SUCCESS) {
        memcpy(boot->b, id.b, sizeof(boot->b));
    }
    close(fd);
}

apr_status_t ue_ledger_new_identity(ue_identity_t *identity,
                                    const ue_target_t *target,
                                    const ue_stream_t *instance)
{
    apr_status_t rv;

    memset(identity, 0, sizeof(*identity));
    memcpy(identity->magic, UE_STREAM_MAGIC, sizeof(identity->magic));
    identity->version = UE_STREAM_VERSION;
    identity->size = sizeof(ue_account_t);
    identity->lanes_max = UE_LANES_MAX;
    identity->loss_rows = UE_LOSS_ROWS;
    identity->pid = getpid();
    identity->opened = apr_time_now();
    identity->instance = *instance;
    if (target) {
        identity->target = *target;
    }
    ue_ledger_boot(&identity->boot);
    if (gethostname(identity->host, sizeof(identity->host) - 1) != 0) {
        return errno;
    }
    rv = ue_random(&identity->stream, sizeof(identity->stream));
    return rv == APR_SUCCESS
               ? ue_random(&identity->salt, sizeof(identity->salt))
               : rv;
}

char *ue_stream_format(const ue_stream_t *stream, char to[UE_STREAM_HEX + 1])
{
    static const char hex[] = "0123456789abcdef";
    size_t i;

    for (i = 0; i < sizeof(stream->b); i++) {
        to[2 * i] = hex[stream->b[i] >> 4];
        to[2 * i + 1] = hex[stream->b[i] & 15];
    }
    to[UE_STREAM_HEX] = '\0';
    return to;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

apr_status_t ue_stream_parse(ue_stream_t *stream, const char *s, size_t len)
{
    size_t i;

    if (len != UE_STREAM_HEX) {
        return APR_EINVAL;
    }
    for (i = 0; i < sizeof(stream->b); i++) {
        int high = hex_digit(s[2 * i]);
        int low = hex_digit(s[2 * i + 1]);

        if (high < 0 || low < 0) {
            return APR_EINVAL;
        }
        stream->b[i] = (uint8_t)(high << 4 | low);
    }
    return APR_SUCCESS;
}

const char *ue_stream_state_name(ue_stream_state_t state)
{
    static const char *const names[] = {"open", "closed", "adopted", "unclean"};

    return state <= UE_STREAM_UNCLEAN ? names[state] : "unclean";
}

/* ---- losses ---- */

static int same_loss(const ue_loss_row_t *row, const ue_uuid_t *id,
                     uint32_t hour, uint32_t cause)
{
    return row->hour == hour && row->cause == cause
           && ue_uuid_equal(&row->organization_id, id);
}

/** Can a row take one more? A run of numbers takes only its neighbours. */
static int takes(const ue_loss_row_t *row, uint32_t lane, uint64_t number)
{
    return row->lane == lane
           && (lane == UE_NO_LANE || GET(row->last) + 1 == number
               || number + 1 == row->first);
}

/** What is to be counted in a row. */
typedef struct {
    ue_uuid_t organization_id;
    uint32_t hour, cause, lane;
    uint64_t number;
} loss_t;

/** Have a row, if it is that loss's or empty. */
static int claim(ue_loss_row_t *row, const loss_t *loss)
{
    uint32_t state = atomic_load_explicit(&row->state, memory_order_acquire);

    if (state == ROW_EMPTY
        && atomic_compare_exchange_strong(&row->state, &state, ROW_WRITING)) {
        row->cause = loss->cause;
        row->hour = loss->hour;
        row->lane = loss->lane;
        row->organization_id = loss->organization_id;
        row->first = loss->number;
        SET(row->last, loss->number);
        atomic_store_explicit(&row->state, ROW_GOOD, memory_order_release);
        return 1;
    }
    return state == ROW_GOOD
           && same_loss(row, &loss->organization_id, loss->hour, loss->cause)
           && takes(row, loss->lane, loss->number);
}

/** @return NULL if all places where it could stand are taken */
static ue_loss_row_t *row_for(ue_account_t *account, const loss_t *loss)
{
    uint32_t at = ue_crc32c(loss->hour ^ loss->cause << 24,
                            &loss->organization_id, sizeof(ue_uuid_t));
    int i;

    /* What has numbers must be told with them: somebody looks for them. */
    int probes = loss->lane == UE_NO_LANE
                     ? PROBES
                     : UE_LOSS_ROWS - UE_LOSS_ROWS_NAMELESS;

    for (i = 0; i < probes; i++, at++) {
        ue_loss_row_t *row =
            &account->losses[at % (UE_LOSS_ROWS - UE_LOSS_ROWS_NAMELESS)];

        if (claim(row, loss)) {
            return row;
        }
    }
    return NULL;
}

/** Whose it was is no longer told, but that it was; in the end, not even the
 * hour is right. */
static ue_loss_row_t *nameless_row(ue_account_t *account, const loss_t *of)
{
    loss_t loss = {{{0}}, of->hour, of->cause, UE_NO_LANE, 0};
    uint32_t i;

    for (i = UE_LOSS_ROWS - UE_LOSS_ROWS_NAMELESS; i < UE_LOSS_ROWS; i++) {
        if (claim(&account->losses[i], &loss)) {
            return &account->losses[i];
        }
    }
    for (i = UE_LOSS_ROWS - UE_LOSS_ROWS_NAMELESS; i < UE_LOSS_ROWS; i++) {
        if (GET(account->losses[i].state) == ROW_GOOD
            && account->losses[i].cause == of->cause) {
            return &account->losses[i];
        }
    }
    return &account->losses[UE_LOSS_ROWS - 1];
}

void ue_ledger_lose(ue_account_t *account, const ue_uuid_t *id, apr_time_t when,
                    ue_loss_t cause, uint32_t lane, uint64_t number)
{
    apr_time_t hour = when < 0 ? 0 : apr_time_sec(when) / SECONDS_PER_HOUR;
    const loss_t loss = {*id, hour < LAST_HOUR ? (uint32_t)hour : LAST_HOUR,
                         cause, lane, number};
    ue_loss_row_t *row = row_for(account, &loss);

    if (!row) {
        row = nameless_row(account, &loss);
    }
    if (row->lane != UE_NO_LANE && number < row->first) {
        row->first = number;
    }
    else if (row->lane != UE_NO_LANE) {
        SET(row->last, number);
    }
    ADD(row->count, 1);
    if (lane != UE_NO_LANE) {
        ADD(account->lane[lane].lost, 1);
    }
    ADD(account->lost, 1);
}

int ue_ledger_has_lost(const ue_account_t *account, uint32_t lane,
                       uint64_t number)
{
    uint32_t i;

    for (i = 0; i < UE_LOSS_ROWS; i++) {
        const ue_loss_row_t *row = &account->losses[i];

        if (GET(row->state) == ROW_GOOD && row->lane == lane
            && row->first <= number && number <= GET(row->last)) {
            return 1;
        }
    }
    return 0;
}

uint64_t ue_ledger_lost_of(const ue_account_t *account, uint32_t lane)
{
    return GET(account->lane[lane].lost);
}

/** A child that is killed while it counts a loss leaves sums that lag behind
 * its row; a power cut, rows that are newer than the sums. */
static void mend_losses(ue_account_t *account)
{
    uint64_t *of_lane = calloc(UE_LANES_MAX, sizeof(*of_lane));
    uint64_t all = 0;
    uint32_t i;

    for (i = 0; i < UE_LOSS_ROWS; i++) {
        ue_loss_row_t *row = &account->losses[i];
        uint64_t count = GET(row->count);

        if (GET(row->state) != ROW_GOOD) {
            continue;
        }
        if (row->lane < UE_LANES_MAX && GET(row->last) >= row->first) {
            count = GET(row->last) - row->first + 1;
            SET(row->count, count);
            if (of_lane) {
                of_lane[row->lane] += count;
            }
        }
        all += count;
    }
    for (i = 0; of_lane && i < UE_LANES_MAX; i++) {
        if (GET(account->lane[i].lost) < of_lane[i]) {
            SET(account->lane[i].lost, of_lane[i]);
        }
    }
    free(of_lane);
    if (GET(account->lost) < all) {
        SET(account->lost, all);
    }
}

void ue_ledger_reconcile(ue_account_t *account, const uint64_t *highest,
                         const uint64_t *open, uint64_t waiting)
{
    const ue_identity_t *id = ue_ledger_identity(account);
    uint64_t delivered = 0;
    uint32_t numbered = 0;
    uint32_t i;

    mend_losses(account);
    /* Once numbers were forgotten, or all was settled, there is nothing to be
     * worked out of them. */
    for (i = 0; i < UE_LANES_MAX && GET(account->state) == UE_STREAM_OPEN;
         i++) {
        ue_lane_count_t *lane = &account->lane[i];
        uint64_t gone;

        if (highest[i] > GET(lane->sent)) {
            SET(lane->sent, highest[i]);
        }
        if (!GET(lane->sent)) {
            continue;
        }
        numbered = 1;
        if (i >= GET(account->lanes)) {
            SET(account->lanes, i + 1);
        }
        gone = open[i] + ue_ledger_lost_of(account, i);
        SET(lane->delivered,
            GET(lane->sent) > gone ? GET(lane->sent) - gone : 0);
        delivered += GET(lane->delivered);
    }
    /* With an event file, too, what the topic has may not be delivered yet. */
    if (numbered && id && !id->target.event_file[0]) {
        SET(account->delivered, delivered);
    }
    SET(account->admitted,
        GET(account->delivered) + GET(account->lost) + waiting);
}

int ue_ledger_has_gaps(const ue_account_t *account)
{
    uint32_t i;

    for (i = 0; i < GET(account->lanes) && i < UE_LANES_MAX; i++) {
        const ue_lane_count_t *lane = &account->lane[i];

        if (GET(lane->sent) > GET(lane->delivered) + GET(lane->lost)) {
            return 1;
        }
    }
    return 0;
}

/* ---- JSON ---- */

typedef struct {
    char *text;
    size_t len, room;
} text_t;

static void put(text_t *t, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

static void put(text_t *t, const char *fmt, ...)
{
    va_list args;
    size_t left = t->room - t->len;
    int n;

    if (!t->text) {
        return;
    }
    va_start(args, fmt);
    n = vsnprintf(t->text + t->len, left, fmt, args);
    va_end(args);
    if ((size_t)n < left) {
        t->len += (size_t)n;
        return;
    }
    t->room = t->room * 2 + (size_t)n;
    t->text = realloc(t->text, t->room);
    if (t->text) {
        va_start(args, fmt);
        t->len +=
            (size_t)vsnprintf(t->text + t->len, t->room - t->len, fmt, args);
        va_end(args);
    }
}

static text_t new_text(void)
{
    text_t t = {malloc(1024), 0, 1024};

    return t;
}

static const char *quoted(const char *s, char *to)
{
    char clean[256];
    size_t len = ue_utf8_clean(clean, sizeof(clean), s, strlen(s));

    *ue_json_string(to, clean, len) = '\0';
    return to;
}

static const char *time_text(apr_time_t when, char to[32])
{
    *ue_time_write(when, to) = '\0';
    return to;
}

#define U64 "%" APR_UINT64_T_FMT

static void put_lanes(text_t *t, const ue_account_t *account)
{
    const char *between = "";
    uint32_t lanes = GET(account->lanes);
    uint32_t i;

    for (i = 0; i < lanes && i < UE_LANES_MAX; i++) {
        uint64_t sent = GET(account->lane[i].sent);

        if (sent) {
            put(t, "%s\"%u\":{\"sent\":" U64 ",\"delivered\":" U64 "}", between,
                i, (apr_uint64_t)sent,
                (apr_uint64_t)GET(account->lane[i].delivered));
            between = ",";
        }
    }
}

static void put_long(text_t *t, const ue_long_open_t *open, int count)
{
    char id[UE_UUID_LEN + 1];
    int i;

    for (i = 0; i < count; i++) {
        put(t, "%s{\"organization_id\":\"%s\",\"count\":" U64 "}", i ? "," : "",
            ue_uuid_format(&open[i].organization_id, id),
            (apr_uint64_t)open[i].count);
    }
}

char *ue_ledger_stream_json(const ue_account_t *account,
                            const ue_long_open_t *open, int open_count)
{
    const ue_identity_t *id = ue_ledger_identity(account);
    uint64_t admitted = GET(account->admitted);
    uint64_t out = GET(account->delivered) + GET(account->lost);
    char name[UE_STREAM_HEX + 1];
    char when[32];
    char word[6 * sizeof(id->host) + 2 + 1];
    char topic[6 * sizeof(id->target.topic) + 2 + 1];
    text_t t = new_text();

    if (!id || !t.text) {
        free(t.text);
        return NULL;
    }
    /* A request that was counted between the two looks. */
    if (out > admitted) {
        admitted = out;
    }
    put(&t, "{\"kind\":\"stream\",\"stream\":\"%s\",\"topic\":%s,\"host\":%s,",
        ue_stream_format(&id->stream, name), quoted(id->target.topic, topic),
        quoted(id->host, word));
    put(&t, "\"pid\":%d,\"opened\":\"%s\",", id->pid,
        time_text(id->opened, when));
    put(&t, "\"updated\":\"%s\",\"state\":\"%s\",",
        time_text(GET(account->updated), when),
        ue_stream_state_name((ue_stream_state_t)GET(account->state)));
    put(&t, "\"admitted\":" U64 ",\"waiting\":" U64 ",\"partitions\":{",
        (apr_uint64_t)admitted, (apr_uint64_t)(admitted - out));
    put_lanes(&t, account);
    put(&t, "},\"delivered\":" U64 ",\"lost\":" U64 ",\"interrupted\":" U64,
        (apr_uint64_t)GET(account->delivered), (apr_uint64_t)GET(account->lost),
        (apr_uint64_t)GET(account->interrupted));
    put(&t, ",\"watermark\":\"%s\",\"long\":[",
        time_text(GET(account->watermark), when));
    put_long(&t, open, open_count);
    put(&t, "]}");
    return t.text;
}

static int is_same_record(const ue_loss_row_t *a, const ue_loss_row_t *b)
{
    return a->hour == b->hour && a->cause == b->cause
           && ue_uuid_equal(&a->organization_id, &b->organization_id);
}

static int is_good_row(const ue_loss_row_t *row)
{
    return atomic_load_explicit(&row->state, memory_order_acquire) == ROW_GOOD
           && row->cause < UE_LOSSES && GET(row->count);
}

/** Is it the first of the rows of its record? */
static int is_first(const ue_account_t *account, uint32_t row)
{
    uint32_t i;

    for (i = 0; i < row; i++) {
        if (is_good_row(&account->losses[i])
            && is_same_record(&account->losses[i], &account->losses[row])) {
            return 0;
        }
    }
    return 1;
}

static uint64_t sum_of(const ue_account_t *account, uint32_t row)
{
    uint64_t n = 0;
    uint32_t i;

    for (i = row; i < UE_LOSS_ROWS; i++) {
        if (is_good_row(&account->losses[i])
            && is_same_record(&account->losses[i], &account->losses[row])) {
            n += GET(account->losses[i].count);
        }
    }
    return n;
}

/** The lowest lane above one that a record has numbers in. */
static uint32_t next_lane(const ue_account_t *account, uint32_t row,
                          int64_t above)
{
    uint32_t lane = UE_NO_LANE;
    uint32_t i;

    for (i = row; i < UE_LOSS_ROWS; i++) {
        const ue_loss_row_t *one = &account->losses[i];

        if (is_good_row(one) && is_same_record(one, &account->losses[row])
            && (int64_t)one->lane > above && one->lane < lane) {
            lane = one->lane;
        }
    }
    return lane;
}

static void put_sequences(text_t *t, const ue_account_t *account, uint32_t row)
{
    uint32_t lane = next_lane(account, row, -1);
    const char *between = "";

    for (; lane != UE_NO_LANE; lane = next_lane(account, row, lane)) {
        const char *comma = "";
        uint32_t i;

        put(t, "%s\"%u\":[", between, lane);
        for (i = row; i < UE_LOSS_ROWS; i++) {
            const ue_loss_row_t *one = &account->losses[i];

            if (is_good_row(one) && one->lane == lane
                && is_same_record(one, &account->losses[row])) {
                put(t, "%s[" U64 "," U64 "]", comma, (apr_uint64_t)one->first,
                    (apr_uint64_t)GET(one->last));
                comma = ",";
            }
        }
        put(t, "]");
        between = ",";
    }
}

static void write_loss(const ue_account_t *account, const ue_identity_t *id,
                       uint32_t row, ue_loss_record_t *record)
{
    const ue_loss_row_t *first = &account->losses[row];
    char name[UE_STREAM_HEX + 1];
    char organization[UE_UUID_LEN + 1];
    char hour[32];
    const char *cause = ue_loss_name((ue_loss_t)first->cause);
    uint32_t at = first->hour < LAST_HOUR ? first->hour : LAST_HOUR;
    text_t t = new_text();

    ue_stream_format(&id->stream, name);
    ue_uuid_format(&first->organization_id, organization);
    time_text(apr_time_from_sec((apr_time_t)at * SECONDS_PER_HOUR), hour);
    memcpy(hour + 19, "Z", 2); /* whole seconds */
    snprintf(record->key, sizeof(record->key), "%s/%s/%s/%s", name, hour,
             organization, cause);
    put(&t,
        "{\"kind\":\"loss\",\"stream\":\"%s\",\"hour\":\"%s\","
        "\"organization_id\":\"%s\",\"cause\":\"%s\",\"count\":" U64
        ",\"sequences\":{",
        name, hour, organization, cause, (apr_uint64_t)record->count);
    put_sequences(&t, account, row);
    put(&t, "}}");
    record->json = t.text;
}

apr_status_t ue_ledger_next_loss(const ue_account_t *account, uint32_t *from,
                                 int all, ue_loss_record_t *record)
{
    const ue_identity_t *id = ue_ledger_identity(account);

    if (GET(account->lost) == 0) {
        return APR_NOTFOUND; /* and its rows need not be touched */
    }
    for (; id && *from < UE_LOSS_ROWS; ++*from) {
        const ue_loss_row_t *row = &account->losses[*from];

        if (!is_good_row(row) || !is_first(account, *from)) {
            continue;
        }
        record->count = sum_of(account, *from);
        if (!all && record->count == GET(row->told)) {
            continue;
        }
        record->row = (*from)++;
        write_loss(account, id, record->row, record);
        return record->json ? APR_SUCCESS : APR_ENOMEM;
    }
    return APR_NOTFOUND;
}

void ue_ledger_loss_told(ue_account_t *account, uint32_t row, uint64_t count)
{
    SET(account->losses[row].told, count);
}

/* ---- accounts of children without a spool ---- */

struct ue_accounts_t {
    ue_account_t *accounts;
    _Atomic pid_t *holders;
    uint32_t count;
};

static void *share(size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return at == MAP_FAILED ? NULL : at;
}

apr_status_t ue_accounts_create(ue_accounts_t **result, uint32_t count,
                                apr_pool_t *p)
{
    ue_accounts_t *all = apr_pcalloc(p, sizeof(*all));

    all->count = count;
    all->accounts = share(count * sizeof(*all->accounts));
    all->holders = share(count * sizeof(*all->holders));
    *result = all;
    return all->accounts && all->holders ? APR_SUCCESS : APR_ENOMEM;
}

ue_account_t *ue_accounts_take(ue_accounts_t *all)
{
    uint32_t i;

    for (i = 0; i < all->count; i++) {
        pid_t nobody = 0;

        if (atomic_compare_exchange_strong(&all->holders[i], &nobody,
                                           getpid())) {
            return &all->accounts[i];
        }
    }
    return NULL;
}

ue_account_t *ue_accounts_inherit(ue_accounts_t *all, const ue_target_t *target)
{
    uint32_t i;

    for (i = 0; i < all->count; i++) {
        pid_t pid = atomic_load(&all->holders[i]);
        const ue_identity_t *id;

        if (pid <= 0 || !ue_is_dead(pid)) {
            continue;
        }
        id = ue_ledger_identity(&all->accounts[i]);
        if (!id) { /* killed before it had begun */
            if (atomic_compare_exchange_strong(&all->holders[i], &pid, -1)) {
                ue_accounts_give(all, &all->accounts[i]);
            }
            continue;
        }
        if (memcmp(&id->target, target, sizeof(*target)) == 0
            && atomic_compare_exchange_strong(&all->holders[i], &pid,
                                              getpid())) {
            return &all->accounts[i];
        }
    }
    return NULL;
}

void ue_accounts_give(ue_accounts_t *all, ue_account_t *account)
{
    /* Where that can't be had, it is only longer in memory. */
    if (madvise(account, sizeof(*account), MADV_REMOVE) != 0) {
        memset(account, 0, sizeof(*account));
    }
    atomic_store(&all->holders[account - all->accounts], 0);
}
