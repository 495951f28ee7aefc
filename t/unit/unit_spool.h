/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_UNIT_SPOOL_H
#define UE_UNIT_SPOOL_H

/**
 * What the tests of the spool share. They kill processes, so the test itself
 * has no threads: what works is always a child, and what must outlive it is
 * the book, memory that all of them share:
 *
 * - what request threads say of each event: meant, admitted, complete, dropped;
 * - what the topic has stored, under stream, lane and number;
 * - what the ledger has been told.
 *
 * All fields of an event follow from its place in the book, so each process can
 * make it, and the test can say what its JSON must be.
 */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "event.h"
#include "log.h"
#include "producer.h"
#include "producer_int.h"
#include "siphash.h"
#include "spool.h"

#define BOOK_EVENTS 200000
#define BOOK_STORED 600000
#define BOOK_NOTES 4000
#define LANES 8  /* most that the sink has */
#define HELD 256 /* events of a batch */

/** What is said of an event. */
typedef struct {
    apr_time_t began;
    _Atomic uint8_t meant, admitted, complete, dropped;
    _Atomic uint8_t done; /* what sinks have reported for good, as bits */
} said_t;

enum { DONE_TOPIC = 1, DONE_FILE = 2, DONE_LOST = 4 };

/** A record that the topic has; or a number that was refused for good. */
typedef struct {
    _Atomic uint8_t good;
    uint8_t refused;
    uint8_t is_file; /* the other sink has it */
    uint32_t lane;
    uint32_t event;
    uint64_t number;
    ue_stream_t stream;
    uint64_t hash[2]; /* of its JSON */
} stored_t;

/** A record of the ledger. */
typedef struct {
    _Atomic uint8_t good;
    char key[160];
    char json[2200];
} noted_t;

typedef struct {
    /* told by the test */
    _Atomic uint32_t lanes;
    _Atomic uint32_t most_lanes; /* that there have been */
    _Atomic int faults;          /* the sink has them */
    _Atomic int away;            /* the sink takes nothing */
    _Atomic uint32_t stuck;      /* lanes, as bits, that have no room */
    _Atomic int loyal;           /* the sink refuses nothing for good */
    _Atomic int ready, stop;
    char wrong[300]; /* what a child has to say */
    /* seen */
    _Atomic uint32_t event_count;
    _Atomic uint32_t stored_count;
    _Atomic uint32_t note_count;
    said_t said[BOOK_EVENTS];
    stored_t stored[BOOK_STORED];
    noted_t notes[BOOK_NOTES];
} book_t;

static book_t *book;
static char spool_dir[128];
static uint64_t
    spool_seed; /* of the schedule that runs, to be told where it fails */
static ue_metrics_t *spool_metrics;
static apr_pool_t *spool_pool;

static inline unsigned roll_of(uint64_t *seed, unsigned sides)
{
    return (unsigned)(unit_random(seed) % sides);
}

/* ---- events ---- */

#define TEXT_ROOM 4096

/** Most are short; some need a second slot, some a dozen. */
static inline size_t endpoint_len(uint64_t *seed)
{
    switch (roll_of(seed, 8)) {
    case 0:
        return 90 + roll_of(seed, 300);
    case 1:
        return roll_of(seed, UE_ENDPOINT_MAX + 1);
    default:
        return 1 + roll_of(seed, 60);
    }
}

/** The event at a place of the book, as if its request had been answered. */
static inline ue_event_t event_at(uint32_t place, char text[TEXT_ROOM])
{
    static const char *const methods[] = {"GET",      "POST",         "PUT",
                                          "PROPFIND", "X-\"quoted\"", "DELETE"};
    uint64_t seed = place * UINT64_C(0x2545f4914f6cdd1d) + 1;
    ue_event_t e = {.timestamp = book->said[place].began};
    size_t i;

    for (i = 0; i < sizeof(e.request_id.b); i++) {
        e.request_id.b[i] = (uint8_t)roll_of(&seed, 256);
        e.api_key_id.b[i] = (uint8_t)roll_of(&seed, 256);
    }
    memcpy(e.request_id.b, &place, sizeof(place));
    e.organization_id.b[0] = 0xac;
    e.organization_id.b[15] = (uint8_t)roll_of(&seed, 12);
    e.method = methods[roll_of(&seed, UNIT_COUNT(methods))];
    e.method_len = strlen(e.method);
    e.endpoint_len = endpoint_len(&seed);
    for (i = 0; i < e.endpoint_len; i++) {
        text[i] = (char)(' ' + roll_of(&seed, 94));
    }
    e.endpoint = text;
    e.response_time_ms = roll_of(&seed, 100000);
    e.status_code = (uint16_t)(200 + roll_of(&seed, 300));
    e.billable = (uint8_t)roll_of(&seed, 2);
    return e;
}

static inline ue_admission_t admission_of(const ue_event_t *e)
{
    ue_admission_t a = {.request_id = e->request_id,
                        .organization_id = e->organization_id,
                        .api_key_id = e->api_key_id,
                        .timestamp = e->timestamp,
                        .method = e->method,
                        .method_len = e->method_len,
                        .endpoint = e->endpoint,
                        .endpoint_len = e->endpoint_len};

    return a;
}

static inline ue_completion_t completion_of(const ue_event_t *e)
{
    return (ue_completion_t){e->response_time_ms, e->status_code, e->billable};
}

static inline void hash_of(const char *json, size_t len, uint64_t hash[2])
{
    static const uint8_t key[UE_SIPHASH_KEY];

    ue_siphash128(json, len, key, hash);
}

/** Is what was stored the event at its place? @return 0: no; 1: as it was
 * answered; 2: as interrupted */
static inline int which_event(const stored_t *s)
{
    char text[TEXT_ROOM], json[UE_EVENT_JSON_MAX];
    ue_event_t e = event_at(s->event, text);
    uint64_t hash[2];

    hash_of(json, ue_event_json(&e, json), hash);
    if (memcmp(hash, s->hash, sizeof(hash)) == 0) {
        return 1;
    }
    e.response_time_ms = 0;
    e.status_code = 0;
    e.billable = 0;
    hash_of(json, ue_event_json(&e, json), hash);
    return memcmp(hash, s->hash, sizeof(hash)) == 0 ? 2 : 0;
}

/** Such are refused by a sink that isn't loyal, each time. */
static inline int is_refusable(uint32_t place)
{
    return place % 29 == 3;
}

/* ---- the sink ---- */

typedef struct {
    ue_slot_ref_t ref;
    uint8_t outcome;
    uint32_t place;
} in_sink_t;

typedef struct {
    ue_sink_t base;
    ue_sink_vtable_t vtable;
    ue_sink_owner_t owner;
    uint64_t seed;
    in_sink_t held[LANES][HELD];
    unsigned held_count[LANES];
    uint32_t notes[64];
    unsigned note_count;
} spool_sink_t;

static inline apr_status_t spool_sink_start(ue_sink_t *sink,
                                            const ue_sink_owner_t *owner)
{
    ((spool_sink_t *)sink)->owner = *owner;
    return APR_SUCCESS;
}

static inline uint32_t spool_sink_lanes(ue_sink_t *sink)
{
    return sink->vtable->numbered ? atomic_load(&book->lanes) : 1;
}

static inline uint32_t spool_sink_lane_of(const ue_uuid_t *id, uint32_t lanes)
{
    return id->b[15] % lanes;
}

static inline int spool_sink_has_room(ue_sink_t *sink, uint32_t lane)
{
    spool_sink_t *s = (spool_sink_t *)sink;

    if (atomic_load(&book->stuck) >> lane & 1) {
        return 0;
    }
    return !atomic_load(&book->faults) || roll_of(&s->seed, 4);
}

static inline uint32_t place_in(const ue_sink_record_t *record)
{
    ue_uuid_t id = {{0}};
    uint32_t place;

    ue_uuid_parse(&id, record->json + 15, UE_UUID_LEN);
    memcpy(&place, id.b, sizeof(place));
    return place;
}

static inline void keep(const spool_sink_t *s, const ue_sink_record_t *record,
                        uint32_t lane, int refused)
{
    uint32_t at = atomic_fetch_add(&book->stored_count, 1);
    stored_t *to = &book->stored[at % BOOK_STORED];

    to->event = place_in(record);
    to->refused = (uint8_t)refused;
    to->is_file = !s->vtable.numbered;
    to->lane = lane;
    to->number = record->number;
    memset(&to->stream, 0, sizeof(to->stream));
    if (record->stream) {
        to->stream = *record->stream;
    }
    hash_of(record->json, record->len, to->hash);
    atomic_store(&to->good, 1);
}

/** What becomes of a record; it is stored at once, and reported later. */
static inline uint8_t fate_of(spool_sink_t *s, const ue_sink_record_t *record,
                              uint32_t lane, uint32_t place)
{
    unsigned dice = atomic_load(&book->faults) ? roll_of(&s->seed, 16) : 15;

    if (dice == 0 || (dice == 1 && !s->vtable.numbered)) {
        return UE_UNSENT;
    }
    if (is_refusable(place) && s->vtable.numbered
        && !atomic_load(&book->loyal)) {
        if (dice == 1) {
            return UE_UNKNOWN;
        }
        keep(s, record, lane, 1);
        return place % 2 ? UE_REFUSED : UE_EXPIRED;
    }
    if (dice == 1 && roll_of(&s->seed, 2)) {
        return UE_UNKNOWN;
    }
    keep(s, record, lane, 0);
    return dice == 1 ? UE_UNKNOWN : UE_DELIVERED;
}

static inline apr_status_t spool_sink_submit(ue_sink_t *sink,
                                             const ue_sink_batch_t *batch,
                                             size_t *taken)
{
    spool_sink_t *s = (spool_sink_t *)sink;
    unsigned dice = atomic_load(&book->faults) ? roll_of(&s->seed, 12) : 11;
    size_t take = batch->count;
    int too_large = dice == 3 && s->vtable.numbered;

    if (atomic_load(&book->away)) {
        *taken = 0;
        return APR_FROM_OS_ERROR(EIO);
    }
    if (dice < 2) {
        take = roll_of(&s->seed, (unsigned)take + 1);
    }
    for (size_t i = 0; i < take; i++) {
        uint32_t place = place_in(&batch->records[i]);

        s->held[batch->lane][i].ref = batch->records[i].ref;
        s->held[batch->lane][i].place = place;
        s->held[batch->lane][i].outcome =
            too_large && batch->count > 1
                ? (uint8_t)UE_TOO_LARGE
                : fate_of(s, &batch->records[i], batch->lane, place);
    }
    s->held_count[batch->lane] = (unsigned)take;
    *taken = take;
    return take < batch->count ? APR_EAGAIN : APR_SUCCESS;
}

static inline void note_done(const spool_sink_t *s, const in_sink_t *in)
{
    int bit = s->vtable.numbered ? DONE_TOPIC : DONE_FILE;

    if (in->outcome == UE_REFUSED || in->outcome == UE_EXPIRED) {
        bit |= DONE_LOST;
    }
    else if (in->outcome != UE_DELIVERED) {
        return;
    }
    atomic_fetch_or(&book->said[in->place % BOOK_EVENTS].done, (uint8_t)bit);
}

/** Report what a lane has, some of it first. */
static inline void spool_sink_report(spool_sink_t *s, uint32_t lane)
{
    unsigned count = s->held_count[lane];
    unsigned from = roll_of(&s->seed, count);

    s->held_count[lane] = 0;
    for (unsigned i = 0; i < count; i++) {
        const in_sink_t *in = &s->held[lane][(from + i) % count];

        note_done(s, in);
        s->owner.report(s->owner.baton, lane, in->ref,
                        (ue_outcome_t)in->outcome);
    }
}

static inline void spool_sink_poll(ue_sink_t *sink, apr_time_t now)
{
    spool_sink_t *s = (spool_sink_t *)sink;

    for (uint32_t lane = 0; lane < LANES; lane++) {
        if (s->held_count[lane]
            && (!atomic_load(&book->faults) || roll_of(&s->seed, 3) == 0)) {
            spool_sink_report(s, lane);
        }
    }
    while (s->note_count) {
        s->owner.noted(s->owner.baton, s->notes[--s->note_count],
                       !atomic_load(&book->faults) || roll_of(&s->seed, 2));
    }
}

static inline apr_status_t spool_sink_note(ue_sink_t *sink, const char *key,
                                           size_t key_len, const char *value,
                                           size_t value_len, uint32_t cookie)
{
    spool_sink_t *s = (spool_sink_t *)sink;
    noted_t *to;

    if (s->note_count == UNIT_COUNT(s->notes) || atomic_load(&book->away)) {
        return APR_EAGAIN;
    }
    to = &book->notes[atomic_fetch_add(&book->note_count, 1) % BOOK_NOTES];
    snprintf(to->key, sizeof(to->key), "%.*s", (int)key_len, key);
    snprintf(to->json, sizeof(to->json), "%.*s", (int)value_len, value);
    atomic_store(&to->good, 1);
    s->notes[s->note_count++] = cookie;
    return APR_SUCCESS;
}

static inline apr_status_t spool_sink_flush(ue_sink_t *sink,
                                            apr_time_t deadline)
{
    for (int i = 0; i < 100; i++) {
        spool_sink_poll(sink, deadline);
    }
    return APR_SUCCESS;
}

static const ue_sink_vtable_t spool_vtable = {.name = "topic",
                                              .numbered = 1,
                                              .batch_events = HELD,
                                              .batch_bytes = 512 * 1024,
                                              .event_overhead = 70,
                                              .start = spool_sink_start,
                                              .lanes = spool_sink_lanes,
                                              .lane_of = spool_sink_lane_of,
                                              .has_room = spool_sink_has_room,
                                              .submit = spool_sink_submit,
                                              .poll = spool_sink_poll,
                                              .note = spool_sink_note,
                                              .flush = spool_sink_flush};

/** A topic; and a file beside it, or alone. */
static spool_sink_t topic_sink, file_sink;

static ue_target_t spool_target = {.topic = "usage", .brokers = "here:9092"};

enum { WITH_TOPIC = 1, WITH_FILE = 2 };

/** @return how many sinks there are in the list */
static inline int make_sinks(ue_sink_t *list[UE_PRODUCER_SINKS], int which,
                             uint64_t seed)
{
    int n = 0;

    memset(&topic_sink, 0, sizeof(topic_sink));
    memset(&file_sink, 0, sizeof(file_sink));
    topic_sink.vtable = spool_vtable;
    topic_sink.seed = seed;
    file_sink.vtable = spool_vtable;
    file_sink.vtable.name = "file";
    file_sink.vtable.numbered = 0;
    file_sink.vtable.note = NULL;
    file_sink.seed = ~seed;
    topic_sink.base.vtable = &topic_sink.vtable;
    file_sink.base.vtable = &file_sink.vtable;
    snprintf(spool_target.event_file, sizeof(spool_target.event_file), "%s",
             which & WITH_FILE ? "events" : "");
    if (which & WITH_FILE) {
        list[n++] = &file_sink.base;
    }
    if (which & WITH_TOPIC) {
        list[n++] = &topic_sink.base;
    }
    return n;
}

/* ---- processes ---- */

/** A child ends with its parent; and what would end it must, while cmocka's
 * handlers would have it go on with the next test. */
static inline void begin_child(void)
{
    static const int fatal[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (unsigned i = 0; i < UNIT_COUNT(fatal); i++) {
        signal(fatal[i], SIG_DFL);
    }
}

static const ue_producer_config_t spool_config = {
    .batch_size = 20,
    .flush_interval = apr_time_from_msec(4),
    .buffer_size = 500,
    .slots = 1024,
    .drain_timeout = apr_time_from_sec(20),
    .spool = spool_dir,
    .spool_most = 12000000,
    .target = &spool_target,
    .scan_interval = apr_time_from_msec(2)};

static inline void spool_log(void *baton, ue_log_level_t level, apr_status_t rv,
                             const char *line)
{
    fprintf(stderr, "%d: %s (%d)\n", (int)getpid(), line, (int)rv);
}

/** In a child: its producer. It ends with its parent. */
static inline ue_producer_t *child_producer(const ue_producer_config_t *config,
                                            int sinks, uint64_t seed)
{
    ue_sink_t *list[UE_PRODUCER_SINKS];
    int count = make_sinks(list, sinks, seed);
    ue_seat_t *seat = ue_metrics_sit(spool_metrics);
    ue_producer_t *producer = NULL;
    apr_pool_t *pool;

    begin_child();
    if (getenv("UNIT_LOG")) {
        ue_log_set(spool_log, NULL, (ue_log_level_t)atoi(getenv("UNIT_LOG")));
    }
    ue_metrics_spooled(seat);
    if (apr_pool_create_unmanaged_ex(&pool, NULL, NULL) != APR_SUCCESS
        || ue_producer_create(&producer, config, list, count, spool_metrics,
                              seat, pool)
               != APR_SUCCESS) {
        unit_exit(3);
    }
    return producer;
}

/** Wait for a child to end. @return its exit status; -1: killed */
static inline int ended(pid_t pid)
{
    int status;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL) {
        fail_msg("a child died of signal %d", WTERMSIG(status));
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static inline void kill_child(pid_t pid)
{
    assert_int_equal(kill(pid, SIGKILL), 0);
    /* Whether it had ended by itself, its status says. */
    assert_int_equal(ended(pid), -1);
}

/** A child's whole life, which is to send what others have left. */
static inline void adopt_until_told(const ue_producer_config_t *config,
                                    int sinks, uint64_t seed)
{
    ue_producer_t *p = child_producer(config, sinks, seed);

    atomic_fetch_add(&book->ready, 1);
    while (!atomic_load(&book->stop)) {
        apr_sleep(500);
    }
    ue_producer_close(p);
    unit_exit(ue_producer_unsettled(p) != 0);
}

static inline pid_t start_adopter(const ue_producer_config_t *config, int sinks,
                                  uint64_t seed)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        adopt_until_told(config, sinks, seed);
    }
    return pid;
}

/* ---- request threads ---- */

static ue_producer_t *producer;
static _Atomic uint64_t next_seed;

/** Say that an event is meant, and let its request through. @return its slot,
 * 0: none */
static inline ue_slot_ref_t admit_one(uint32_t place, ue_event_t *e, char *text)
{
    said_t *said = &book->said[place];
    ue_admission_t a;
    ue_slot_ref_t ref;

    /* Ahead of the watermark, however long it takes. */
    said->began = apr_time_now() + apr_time_from_sec(60);
    *e = event_at(place, text);
    a = admission_of(e);
    atomic_store(&said->meant, 1);
    if (ue_producer_admit(producer, &a,
                          place % 2 ? UE_OVERFLOW_DROP : UE_OVERFLOW_REFUSE,
                          &ref)
        == APR_SUCCESS) {
        atomic_store(&said->admitted, 1);
        return ref;
    }
    atomic_store(&said->dropped, 1);
    return 0;
}

static inline void *serve(void *arg)
{
    uint64_t seed = atomic_fetch_add(&next_seed, 1);
    char text[TEXT_ROOM];

    for (;;) {
        uint32_t place = atomic_fetch_add(&book->event_count, 1);
        ue_completion_t c;
        ue_slot_ref_t ref;
        ue_event_t e;

        if (place >= BOOK_EVENTS) {
            pause();
        }
        ref = admit_one(place, &e, text);
        if (!ref) {
            apr_sleep(500);
            continue;
        }
        if (roll_of(&seed, 50) == 0) {
            continue; /* open for ever, as a WebSocket is */
        }
        if (roll_of(&seed, 4) == 0) {
            apr_sleep(roll_of(&seed, 300));
        }
        c = completion_of(&e);
        if (ue_producer_record(producer, ref, &c, UE_OVERFLOW_DROP)
            == APR_SUCCESS) {
            atomic_store(&book->said[place].complete, 1);
        }
    }
    return NULL;
}

/* ---- the directory ---- */

static inline apr_array_header_t *list_spool(void)
{
    apr_array_header_t *entries;

    assert_int_equal(ue_spool_list_dir(spool_dir, &entries, spool_pool),
                     APR_SUCCESS);
    return entries;
}

/** Is a file still there that was there before? */
static inline int is_left(const apr_array_header_t *before)
{
    char path[300];
    int i;

    for (i = 0; i < before->nelts; i++) {
        snprintf(path, sizeof(path), "%s/%s", spool_dir,
                 APR_ARRAY_IDX(before, i, ue_spool_entry_t).name);
        if (access(path, F_OK) == 0) {
            return 1;
        }
    }
    return 0;
}

static inline void wipe_spool(void)
{
    char command[200];

    snprintf(command, sizeof(command), "rm -rf %s/*", spool_dir);
    assert_int_equal(system(command), 0);
}

static inline int make_spool(void **state)
{
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";

    snprintf(spool_dir, sizeof(spool_dir), "%s/usage-spool-XXXXXX", base);
    book = mmap(NULL, sizeof(*book), PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!mkdtemp(spool_dir) || book == MAP_FAILED
        || apr_pool_create(&spool_pool, NULL) != APR_SUCCESS) {
        return -1;
    }
    atomic_store(&book->lanes, 4);
    return ue_metrics_create(&spool_metrics, 8, spool_pool);
}

static inline int remove_spool(void **state)
{
    if (spool_seed) {
        print_message("the last seed was UNIT_SEED=%llu\n",
                      (unsigned long long)spool_seed);
    }
    wipe_spool();
    rmdir(spool_dir);
    munmap(book, sizeof(*book));
    apr_pool_destroy(spool_pool);
    return 0;
}

/** Begin a new book. */
static inline void new_book(void)
{
    uint32_t stored = atomic_load(&book->stored_count);
    uint32_t noted = atomic_load(&book->note_count);

    assert_true(stored < BOOK_STORED);
    assert_true(noted < BOOK_NOTES);
    memset((void *)book->said, 0,
           atomic_load(&book->event_count) * sizeof(said_t));
    memset((void *)book->stored, 0, stored * sizeof(stored_t));
    memset((void *)book->notes, 0, noted * sizeof(noted_t));
    book->event_count = 0;
    book->stored_count = 0;
    book->note_count = 0;
    book->ready = 0;
    book->stop = 0;
}

#define SPOOL_TEST(f) \
    cmocka_unit_test_setup_teardown(f, make_spool, remove_spool)

/** Have adopters send all that dead processes have left, and end. */
static inline void adopt_all(const ue_producer_config_t *config, int sinks,
                             unsigned adopters, uint64_t seed)
{
    const apr_array_header_t *before = list_spool();
    apr_time_t until = ue_monotonic() + apr_time_from_sec(60);
    pid_t pids[8];
    unsigned i;

    atomic_store(&book->stop, 0);
    for (i = 0; i < adopters; i++) {
        pids[i] = start_adopter(config, sinks, seed + i);
    }
    while (is_left(before) && ue_monotonic() < until) {
        apr_sleep(1000);
    }
    if (is_left(before)) {
        fail_msg("something is left in %s", spool_dir);
    }
    atomic_store(&book->stop, 1);
    for (i = 0; i < adopters; i++) {
        assert_int_equal(ended(pids[i]), 0);
    }
}

#endif /* UE_UNIT_SPOOL_H */
