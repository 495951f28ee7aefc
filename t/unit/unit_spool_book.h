/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_UNIT_SPOOL_BOOK_H
#define UE_UNIT_SPOOL_BOOK_H

/**
 * What must be true of the book (unit_spool.h) once nothing waits: each event
 * is in the topic as it was said to be, once; and the ledger says what the
 * topic has.
 */
#include "unit_spool.h"

/* ---- the topic, as whoever reads it sees it ---- */

static inline int by_identity(const void *a, const void *b)
{
    const stored_t *x = &book->stored[*(const uint32_t *)a];
    const stored_t *y = &book->stored[*(const uint32_t *)b];
    int order = memcmp(&x->stream, &y->stream, sizeof(x->stream));

    if (order || x->lane != y->lane) {
        return order ? order : x->lane < y->lane ? -1 : 1;
    }
    return x->number < y->number ? -1 : x->number > y->number;
}

/** What the topic has, in order. @return malloc()ed */
static inline uint32_t *sorted_topic(uint32_t *count)
{
    uint32_t all = atomic_load(&book->stored_count);
    uint32_t *order = malloc((all + 1) * sizeof(*order));
    uint32_t i;

    assert_non_null(order);
    assert_true(all <= BOOK_STORED);
    for (i = *count = 0; i < all; i++) {
        if (atomic_load(&book->stored[i].good) && !book->stored[i].is_file) {
            order[(*count)++] = i;
        }
    }
    qsort(order, *count, sizeof(*order), by_identity);
    return order;
}

/** One lane of a stream, as the topic has it. */
typedef struct {
    ue_stream_t stream;
    uint32_t lane;
    uint64_t last;    /* number */
    uint64_t stored;  /* of these */
    uint64_t refused; /* of these */
} lane_seen_t;

static inline int same_lane(const stored_t *a, const stored_t *b)
{
    return a->lane == b->lane
           && memcmp(&a->stream, &b->stream, sizeof(a->stream)) == 0;
}

/**
 * Read the topic: numbers run from 1 without a gap, a repeat is the same event,
 * no event has two numbers, each was meant and is right.
 * @param lanes  receives what each lane of each stream has; malloc()ed
 * @param status receives by event which_event(), 3: refused; malloc()ed
 */
static inline uint32_t read_topic(lane_seen_t **lanes, uint8_t **status)
{
    uint32_t count;
    uint32_t *order = sorted_topic(&count);
    const stored_t *last = NULL;
    uint32_t n = 0;

    *lanes = calloc(count + 1, sizeof(**lanes));
    *status = calloc(BOOK_EVENTS, 1);
    assert_non_null(*lanes);
    assert_non_null(*status);
    for (uint32_t i = 0; i < count; i++) {
        const stored_t *s = &book->stored[order[i]];
        int is = s->refused ? 3 : which_event(s);

        if (!last || !same_lane(last, s)) {
            (*lanes)[n++] = (lane_seen_t){s->stream, s->lane, 0, 0, 0};
        }
        if (s->event >= BOOK_EVENTS || !book->said[s->event].meant || !is) {
            fail_msg("event %u is not what it was meant to be", s->event);
        }
        if (last && same_lane(last, s) && last->number == s->number) {
            if (last->event != s->event || last->refused != s->refused
                || (*status)[s->event] != is) {
                fail_msg("number %u of lane %u has two meanings",
                         (unsigned)s->number, s->lane);
            }
            continue;
        }
        if ((*status)[s->event]) {
            fail_msg("event %u has two numbers", s->event);
        }
        (*status)[s->event] = (uint8_t)is;
        if (++(*lanes)[n - 1].last != s->number) {
            fail_msg("number %u of lane %u is missing",
                     (unsigned)(*lanes)[n - 1].last, s->lane);
        }
        (*lanes)[n - 1].stored += !s->refused;
        (*lanes)[n - 1].refused += s->refused;
        last = s;
    }
    free(order);
    return n;
}

/** What was said of each event is true of the topic. */
static inline void check_said(const uint8_t *status)
{
    uint32_t all = atomic_load(&book->event_count);

    for (uint32_t i = 0; i < all && i < BOOK_EVENTS; i++) {
        const said_t *said = &book->said[i];

        if (said->complete && status[i] != 1 && status[i] != 3) {
            fail_msg("event %u was complete, and is %s", i,
                     status[i] ? "interrupted" : "missing");
        }
        if (said->admitted && !status[i]) {
            fail_msg("event %u was admitted, and is missing", i);
        }
        if (said->dropped && status[i]) {
            fail_msg("event %u was dropped, and is there", i);
        }
    }
}

/* ---- the ledger, as whoever reads it sees it ---- */

static inline uint64_t json_number(const char *json, const char *name)
{
    const char *at = strstr(json, name);

    return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}

/** The last record of a key; NULL: there is none. */
static inline const noted_t *last_note(const char *key)
{
    for (uint32_t i = atomic_load(&book->note_count); i > 0; i--) {
        if (book->notes[i - 1].good && !strcmp(book->notes[i - 1].key, key)) {
            return &book->notes[i - 1];
        }
    }
    return NULL;
}

/** Sum of the losses of a stream by one cause. */
static inline uint64_t losses_told(const char *stream, const char *cause)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < atomic_load(&book->note_count); i++) {
        const noted_t *note = &book->notes[i];
        const char *end = strrchr(note->key, '/');

        if (end && !strcmp(end + 1, cause)
            && strncmp(note->key, stream, UE_STREAM_HEX) == 0
            && last_note(note->key) == note) {
            n += json_number(note->json, "\"count\":");
        }
    }
    return n;
}

/**
 * A stream's last record says what the topic has. What the topic had of an
 * event that waited for the file when its stream ended, the file gets under
 * another stream: then only the sums of all are the same.
 */
static inline void check_account(const lane_seen_t *lanes, uint32_t count,
                                 int sinks, uint64_t *in_all)
{
    char key[UE_STREAM_HEX + 1], name[64];
    uint64_t refused = 0, stored = 0, delivered;
    const noted_t *note = last_note(ue_stream_format(&lanes[0].stream, key));
    const char *json = note ? note->json : "";

    if (!strstr(json, "\"waiting\":0,") || strstr(json, "\"state\":\"open\"")) {
        fail_msg("stream %s has not ended: %s", key, json);
    }
    for (uint32_t i = 0; i < count; i++) {
        snprintf(name, sizeof(name), "\"%u\":{\"sent\":%u,\"delivered\":%u}",
                 lanes[i].lane, (unsigned)lanes[i].last,
                 (unsigned)lanes[i].stored);
        if (!strstr(json, name)) {
            fail_msg("not %s in %s", name, json);
        }
        refused += lanes[i].refused;
        stored += lanes[i].stored;
    }
    delivered = json_number(json, "},\"delivered\":");
    *in_all += stored;
    if ((delivered != stored && !(sinks & WITH_FILE))
        || losses_told(key, "rejected") + losses_told(key, "expired") != refused
        || json_number(json, "\"admitted\":")
               != delivered + json_number(json, "\"lost\":")) {
        fail_msg("%u stored, %u refused, %u refusals told: %s",
                 (unsigned)stored, (unsigned)refused,
                 (unsigned)losses_told(key, "rejected"), json);
    }
}

/** The file has each event that was admitted, at least once; or nearly: who
 * takes over doesn't care for one that the topic has refused. */
static inline void check_file(void)
{
    uint8_t *there = calloc(BOOK_EVENTS, 1);
    uint32_t all = atomic_load(&book->event_count);

    assert_non_null(there);
    for (uint32_t i = 0; i < atomic_load(&book->stored_count); i++) {
        const stored_t *s = &book->stored[i];

        if (!s->good || !s->is_file) {
            continue;
        }
        if (s->event >= BOOK_EVENTS || !which_event(s)) {
            fail_msg("event %u in the file is not what it was", s->event);
        }
        there[s->event] = 1;
    }
    for (uint32_t i = 0; i < all && i < BOOK_EVENTS; i++) {
        if (book->said[i].admitted && !there[i]
            && !(book->said[i].done & DONE_LOST)) {
            fail_msg("event %u is missing in the file", i);
        }
    }
    free(there);
}

/** What the last records of all streams say. */
static inline uint64_t delivered_by_all(void)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < atomic_load(&book->note_count); i++) {
        const noted_t *note = &book->notes[i];

        if (!strchr(note->key, '/') && last_note(note->key) == note) {
            n += json_number(note->json, "},\"delivered\":");
        }
    }
    return n;
}

/** All that is promised once nothing waits. */
static inline void check_book(int sinks)
{
    lane_seen_t *lanes;
    uint8_t *status;
    uint32_t count = read_topic(&lanes, &status);
    uint64_t in_all = 0;
    uint32_t from = 0;

    check_said(status);
    for (uint32_t i = 1; i <= count; i++) {
        if (i == count
            || memcmp(&lanes[i].stream, &lanes[from].stream,
                      sizeof(lanes[i].stream))
                   != 0) {
            check_account(&lanes[from], i - from, sinks, &in_all);
            from = i;
        }
    }
    free(lanes);
    free(status);
    assert_int_equal(delivered_by_all(), in_all);
    if (sinks & WITH_FILE) {
        check_file();
    }
}

#endif /* UE_UNIT_SPOOL_BOOK_H */
