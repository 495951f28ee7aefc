/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */

/**
 * The streams of a producer: its own, those that it had before (a new one
 * begins when partitions are dealt out anew), and those that it has taken over
 * from children that are gone.
 *
 * A stream that was taken over goes on as it was: what has a number is sent
 * under it again, what has none gets the next. Where that can't be, since the
 * machine was booted in between or there are other partitions now, its numbers
 * are forgotten and its events move to our own stream. What has numbers for
 * partitions that are still there goes home first.
 *
 * An event of ours is in an own segment, or in a segment that moved; so the
 * region of a slot tells its stream.
 */
#include "producer_int.h"

#include <stdlib.h>
#include <string.h>

#define LEDGER_EVERY apr_time_from_sec(10)
#define AGAIN_AFTER 20 /* looks for streams: ten seconds */
#define CLOSE_WAITS apr_time_from_msec(500)
#define NOTE_AGAIN apr_time_from_msec(250)
#define INHERIT_EVERY apr_time_from_sec(1)
#define ACCOUNT_EVERY apr_time_from_msec(50)
#define LOOKS_AT_ONCE 32768
#define LONG_OPEN apr_time_from_sec(3600)
/* Requests are read before they are admitted; within so long, their timestamp
 * stays what it was. */
#define FLOOR_LAG apr_time_from_sec(1)

#define GET(field) atomic_load_explicit(&(field), memory_order_relaxed)
#define SET(field, value) \
    atomic_store_explicit(&(field), (value), memory_order_relaxed)

/* ---- which stream ---- */

static stream_t *owner_of(const ue_producer_t *p, ue_slot_ref_t ref)
{
    const ue_region_t *region = ue_journal_region(p->journal, ref);

    return region ? region->owner : NULL;
}

stream_t *ue_producer_stream_of(ue_producer_t *p, ue_slot_ref_t ref)
{
    stream_t *owner = owner_of(p, ref);

    return owner && !owner->has_moved ? owner : atomic_load(&p->own);
}

static void free_all(stream_t *stream)
{
    while (stream) {
        stream_t *next = stream->next;

        while (stream->segments) {
            segment_t *segment = stream->segments;

            stream->segments = segment->next;
            free(segment);
        }
        free(stream->held);
        free(stream);
        stream = next;
    }
}

/** Only where a producer ends before its process does, as in tests. */
static apr_status_t forget_streams(void *data)
{
    ue_producer_t *p = data;

    while (p->own_segments) {
        segment_t *segment = p->own_segments;

        p->own_segments = segment->next;
        free(segment);
    }
    free_all(p->streams);
    free_all(p->former);
    return APR_SUCCESS;
}

apr_status_t ue_producer_open_stream(ue_producer_t *p, apr_pool_t *pool)
{
    stream_t *own = ue_producer_new_stream(p, 1);

    if (!own) {
        return APR_ENOMEM;
    }
    apr_pool_cleanup_register(pool, p, forget_streams, apr_pool_cleanup_null);
    SET(own->file.account->watermark, apr_time_now() - FLOOR_LAG);
    own->is_due = !p->config.is_heir; /* it has nothing to tell */
    p->streams = own;
    p->ledger_at = ue_monotonic() + LEDGER_EVERY;
    atomic_store(&p->own, own);
    return APR_SUCCESS;
}

/* ---- counting ---- */

void ue_producer_count_delivered(ue_producer_t *p, ue_slot_ref_t ref)
{
    ue_account_t *account = ue_producer_stream_of(p, ref)->file.account;
    ue_lane_count_t *lane =
        &account->lane[ue_journal_partition(p->journal, ref)];

    SET(lane->delivered, GET(lane->delivered) + 1);
}

/** An event of a stream that we have adopted is delivered or lost. */
static void count_off(ue_producer_t *p, ue_slot_ref_t ref)
{
    stream_t *owner = owner_of(p, ref);

    if (owner) {
        owner->open--;
    }
}

void ue_producer_count_home(ue_producer_t *p, ue_slot_ref_t ref)
{
    stream_t *owner = owner_of(p, ref);

    if (owner && owner->held && owner->numbered) {
        owner->numbered--;
    }
}

void ue_producer_count_lost(ue_producer_t *p, ue_slot_ref_t ref,
                            ue_loss_t cause, int is_numbered)
{
    uint64_t number = is_numbered ? ue_journal_number(p->journal, ref) : 0;

    ue_ledger_lose(ue_producer_stream_of(p, ref)->file.account,
                   ue_journal_organization(p->journal, ref),
                   ue_journal_began(p->journal, ref), cause,
                   number ? ue_journal_partition(p->journal, ref) : UE_NO_LANE,
                   number);
    count_off(p, ref);
}

void ue_producer_count_settled(ue_producer_t *p, ue_slot_ref_t ref, int is_lost)
{
    ue_account_t *account = ue_producer_stream_of(p, ref)->file.account;

    ue_journal_retire(p->journal, ref);
    if (!is_lost) {
        SET(account->delivered, GET(account->delivered) + 1);
        count_off(p, ref);
    }
}

void ue_producer_count_dropped(ue_producer_t *p, const ue_uuid_t *id,
                               apr_time_t when, ue_loss_t cause)
{
    stream_t *own = atomic_load(&p->own);
    stream_t *now;

    ue_ledger_lose(own->file.account, id, when, cause, UE_NO_LANE, 0);
    now = atomic_load(&p->own);
    if (now != own) {
        /* It was counted as admitted in the one that began meanwhile. */
        atomic_fetch_add(&now->file.account->base, 1);
    }
}

/** What our own stream has admitted: all that this child has, less what
 * belongs to its earlier streams, and what has moved here. */
static void look_at_own(ue_producer_t *p)
{
    ue_account_t *account = atomic_load(&p->own)->file.account;
    uint64_t admitted = (uint64_t)((int64_t)atomic_load(&p->admitted)
                                   - atomic_load(&account->base));

    if (admitted != GET(account->admitted)) {
        SET(account->admitted, admitted);
        SET(account->updated, apr_time_now());
    }
}

/** A stream of which nothing waits any more. */
static void settle_account(stream_t *stream)
{
    ue_account_t *account = stream->file.account;

    /* Numbers that were forgotten are never to come. Said before anybody may
     * take it over once more and count them as delivered. */
    if (GET(account->state) == UE_STREAM_OPEN && ue_ledger_has_gaps(account)) {
        SET(account->state, UE_STREAM_UNCLEAN);
    }
    SET(account->admitted, GET(account->delivered) + GET(account->lost));
}

static void end_stream(stream_t *stream, ue_stream_state_t state)
{
    ue_account_t *account = stream->file.account;

    settle_account(stream);
    if (GET(account->state) == UE_STREAM_OPEN) {
        SET(account->state, (uint32_t)state);
    }
    SET(account->watermark, apr_time_now());
    stream->is_over = 1;
    stream->is_due = 1;
}

/* ---- a new stream of our own ---- */

/** What could not be renamed has no numbers, so nothing is wrong with it where
 * it is, but that who adopts it will look for an account that is gone. */
static void complain_of_names(const ue_producer_t *p, apr_status_t rv)
{
    if (rv != APR_SUCCESS) {
        ue_log(UE_LOG_ERR, rv,
               "UE0603: spool: %s: slots can't be renamed; look at its rights",
               p->config.spool);
    }
}

/** Name a stream's segments by our own one from now on. */
static apr_status_t move_segments(ue_producer_t *p, segment_t *segment,
                                  const ue_stream_t *to)
{
    apr_status_t rv = APR_SUCCESS;

    for (; segment && rv == APR_SUCCESS; segment = segment->next) {
        rv = ue_spool_segment_move(p->spool, to, segment->name);
    }
    return rv;
}

static apr_status_t move_all(ue_producer_t *p, const ue_stream_t *to)
{
    apr_status_t rv = move_segments(p, p->own_segments, to);
    stream_t *stream;

    for (stream = p->streams; stream && rv == APR_SUCCESS;
         stream = stream->next) {
        rv = move_segments(p, stream->segments, to);
    }
    return rv;
}

/** What we have adopted belongs to the new stream, and no number counts.
 * @return how many events that are */
static int64_t move_adopted(ue_producer_t *p)
{
    stream_t *stream;
    int64_t moved = 0;

    for (stream = p->streams; stream; stream = stream->next) {
        if (stream->segments && !stream->has_moved) {
            stream->has_moved = 1;
            stream->numbered = 0;
            moved += stream->open;
            settle_account(stream);
        }
    }
    return moved;
}

/** Take our own stream's place. @param moved events that come with it */
static void succeed(ue_producer_t *p, stream_t *new, int64_t moved)
{
    stream_t *old = atomic_load(&p->own);
    ue_account_t *account = old->file.account;

    SET(new->file.account->watermark, GET(account->watermark));
    atomic_store(&new->file.account->base,
                 atomic_load(&account->base)
                     + (int64_t)(GET(account->delivered) + GET(account->lost))
                     - moved);
    new->next = p->streams;
    new->is_due = 1;
    p->streams = new;
    atomic_store(&p->own, new);
    end_stream(old, UE_STREAM_CLOSED);
    look_at_own(p);
}

void ue_producer_forget_numbers(ue_producer_t *p)
{
    stream_t *stream;

    for (stream = p->streams; stream; stream = stream->next) {
        ue_account_t *account = stream->file.account;

        if (GET(account->state) == UE_STREAM_OPEN
            && ue_ledger_has_gaps(account)) {
            SET(account->state, UE_STREAM_UNCLEAN);
        }
    }
}

int ue_producer_renew_stream(ue_producer_t *p, uint32_t lanes)
{
    stream_t *own = atomic_load(&p->own);
    stream_t *new;
    apr_status_t rv = APR_SUCCESS;

    if (GET(own->file.account->lanes) == 0) {
        SET(own->file.account->lanes, lanes);
        return 1;
    }
    new = ue_producer_new_stream(p, !p->spool);
    if (!new) {
        return 0;
    }
    SET(new->file.account->lanes, lanes);
    if (p->spool) {
        pthread_mutex_lock(&p->naming);
        rv = move_all(p, &new->file.id);
    }
    complain_of_names(p, rv);
    succeed(p, new, move_adopted(p));
    if (p->spool) {
        pthread_mutex_unlock(&p->naming);
    }
    return 1;
}

/** The spool has room again: go on in a file. What we have adopted meanwhile
 * may be under way, and keeps its numbers. */
static void take_fresh(ue_producer_t *p)
{
    stream_t *fresh = atomic_exchange(&p->fresh, NULL);

    if (fresh) {
        SET(fresh->file.account->lanes,
            GET(atomic_load(&p->own)->file.account->lanes));
        succeed(p, fresh, 0);
    }
}

/* ---- taking over ---- */

/** Its numbers mean nothing any more: it becomes part of our own stream. */
static int move_in(ue_producer_t *p, stream_t *stream)
{
    stream_t *own = atomic_load(&p->own);
    apr_status_t rv;

    if (stream->has_moved) {
        return 1; /* with all others, when partitions were dealt out anew */
    }
    if (own->file.fd < 0) {
        atomic_store(&p->wants_file, 1);
        return 0; /* ours is not in a file yet */
    }
    pthread_mutex_lock(&p->naming);
    rv = move_segments(p, stream->segments, &own->file.id);
    pthread_mutex_unlock(&p->naming);
    complain_of_names(p, rv);
    stream->has_moved = 1;
    atomic_fetch_sub(&own->file.account->base, (int64_t)stream->open);
    settle_account(stream);
    return 1;
}

static void list_all(ue_producer_t *p, const ue_slot_ref_t *refs,
                     uint32_t count, apr_time_t now)
{
    uint32_t i;

    for (i = 0; i < count; i++) {
        ue_producer_list_adopted(p, refs[i], 0, now);
    }
}

/** Listed last first, so that the first is in front. */
static void list_numbered(ue_producer_t *p, const ue_slot_ref_t *refs,
                          uint32_t count, apr_time_t now)
{
    uint32_t i;

    for (i = count; i > 0; i--) {
        ue_producer_list_adopted(p, refs[i - 1], 1, now);
    }
}

/** Forget all numbers, and have all of it be ours. */
static int absorb(ue_producer_t *p, adoption_t *a)
{
    uint32_t i;

    if (a->numbered && GET(a->stream->file.account->state) == UE_STREAM_OPEN) {
        /* Before there are fewer, or they would pass for delivered. */
        SET(a->stream->file.account->state, UE_STREAM_UNCLEAN);
    }
    for (i = 0; i < a->numbered; i++) {
        ue_journal_forget(p->journal, a->refs[i]);
    }
    a->numbered = 0;
    return move_in(p, a->stream);
}

/** Do we know the number of partitions from later than the stream's child did?
 * Of two answers since it was found, one was asked for since. */
static int knows_better(const ue_producer_t *p, adoption_t *a)
{
    const ue_sink_t *sink = p->numbering->sink;
    uint32_t answers;

    if (!sink->vtable->answers) {
        return 1;
    }
    answers = sink->vtable->answers(p->numbering->sink);
    if (!a->has_asked) {
        a->has_asked = 1;
        a->answers = answers;
    }
    return answers - a->answers >= 2;
}

/** @return whether it has been taken over; else ask again */
static int take_over(ue_producer_t *p, adoption_t *a, apr_time_t now)
{
    stream_t *stream = a->stream;
    ue_account_t *account = stream->file.account;
    uint32_t lanes = p->numbering ? p->numbering->lane_count : 0;
    uint32_t theirs = GET(account->lanes);

    if (p->numbering && !lanes) {
        return 0; /* partitions are not known yet */
    }
    if (theirs > lanes && a->numbered && !knows_better(p, a)) {
        return 0;
    }
    if (a->is_unclean && GET(account->state) == UE_STREAM_OPEN) {
        SET(account->state, UE_STREAM_UNCLEAN);
    }
    if (a->is_unclean || (theirs && theirs != lanes && !a->numbered)
        || theirs > lanes) {
        if (a->count && !absorb(p, a)) {
            return 0;
        }
    }
    else if (theirs && theirs < lanes) {
        stream->held =
            malloc((a->count - a->numbered) * sizeof(*stream->held) + 1);
        if (!stream->held) {
            return 0;
        }
        stream->held_count = a->count - a->numbered;
        memcpy(stream->held, a->refs + a->numbered,
               stream->held_count * sizeof(*stream->held));
        stream->numbered = a->numbered;
        a->count = a->numbered;
    }
    else {
        SET(account->lanes, lanes);
    }
    list_numbered(p, a->refs, a->numbered, now);
    list_all(p, a->refs + a->numbered, a->count - a->numbered, now);
    return 1;
}

/** Those with numbers are home: the others follow, as ours. */
static void release_held(ue_producer_t *p, stream_t *stream, apr_time_t now)
{
    if (stream->numbered == 0 && move_in(p, stream)) {
        list_all(p, stream->held, stream->held_count, now);
        free(stream->held);
        stream->held = NULL;
        stream->held_count = 0;
    }
}

static void tell_of(const adoption_t *a)
{
    const stream_t *stream = a->stream;
    char name[UE_STREAM_HEX + 1];

    ue_log(UE_LOG_NOTICE, APR_SUCCESS,
           "UE0602: spool: stream %s of process %d is taken over: %u events "
           "to send, %" APR_UINT64_T_FMT " of them of interrupted requests, "
           "%" APR_UINT64_T_FMT " torn",
           ue_stream_format(&stream->file.id, name),
           ue_ledger_identity(stream->file.account)->pid, stream->open,
           (apr_uint64_t)a->interrupted, (apr_uint64_t)a->torn);
    if (a->is_unclean) {
        ue_log(UE_LOG_WARNING, APR_SUCCESS,
               "UE0606: spool: stream %s is unclean: the machine was booted "
               "since, or a file was cut; its events get new numbers",
               name);
    }
}

static void read_mail(ue_producer_t *p, apr_time_t now)
{
    adoption_t *a = atomic_load(&p->mail);
    stream_t *stream;

    if (!a || !take_over(p, a, now)) {
        return;
    }
    stream = a->stream;
    stream->next = p->streams;
    p->streams = stream;
    stream->is_due = 1;
    ue_metrics_add(p->seat, UE_M_STREAMS_ADOPTED, 1);
    tell_of(a);
    atomic_store(&p->mail, NULL);
    free(a->refs);
    free(a);
    sem_post(&p->spool_wake);
}

/** Tell of a child without a spool that is gone: what it did last is known,
 * what it had waiting is not. */
static void inherit(ue_producer_t *p)
{
    ue_account_t *account =
        ue_accounts_inherit(p->config.accounts, p->config.target);
    stream_t *stream = account ? calloc(1, sizeof(*stream)) : NULL;
    char name[UE_STREAM_HEX + 1];

    if (!stream) {
        return;
    }
    stream->file.account = account;
    stream->file.id = ue_ledger_identity(account)->stream;
    stream->file.fd = -1;
    stream->is_inherited = 1;
    stream->is_over = 1;
    stream->is_due = 1;
    if (GET(account->state) == UE_STREAM_OPEN) {
        SET(account->state, UE_STREAM_UNCLEAN);
        ue_log(UE_LOG_WARNING, APR_SUCCESS,
               "UE0204: producer: stream %s of process %d ends unclean: "
               "%" APR_UINT64_T_FMT " events waited when it was last seen, and "
               "are lost with it",
               ue_stream_format(&stream->file.id, name),
               ue_ledger_identity(account)->pid,
               (apr_uint64_t)(GET(account->admitted) - GET(account->delivered)
                              - GET(account->lost)));
    }
    stream->next = p->streams;
    p->streams = stream;
}

/* ---- the watermark ---- */

static void begin_watch(ue_producer_t *p)
{
    watch_t *w = &p->watch;

    w->is_on = 1;
    w->next = 1;
    w->floor = apr_time_now() - FLOOR_LAG;
    w->long_ago = w->floor - LONG_OPEN;
    w->oldest = w->floor;
    w->waits = w->floor;
    w->open_count = 0;
    ue_journal_raise_floor(p->journal, w->floor);
}

static void note_long_open(watch_t *w, const ue_uuid_t *id)
{
    int i = 0;

    while (i < w->open_count
           && !ue_uuid_equal(&w->open[i].organization_id, id)) {
        i++;
    }
    if (i == (int)(sizeof(w->open) / sizeof(w->open[0]))) {
        /* More organizations than are named: the last stands for them. */
        i--;
        memset(&w->open[i].organization_id, 0, sizeof(ue_uuid_t));
    }
    else if (i == w->open_count) {
        w->open[w->open_count++] = (ue_long_open_t){*id, 0};
    }
    w->open[i].count++;
}

/** The records are due now, with the new watermark. */
static void end_watch(ue_producer_t *p)
{
    watch_t *w = &p->watch;
    ue_account_t *account = atomic_load(&p->own)->file.account;
    stream_t *stream;

    w->is_on = 0;
    if (w->oldest > GET(account->watermark)) {
        SET(account->watermark, w->oldest);
    }
    memcpy(p->long_open, w->open, sizeof(p->long_open));
    p->long_count = w->open_count;
    w->waits = w->oldest;
    for (stream = p->streams; stream; stream = stream->next) {
        stream->is_due = stream != atomic_load(&p->own) || !p->config.is_heir
                         || stream->file.fd >= 0;
        if (stream->open && stream->oldest < w->waits) {
            w->waits = stream->oldest;
        }
    }
    ue_metrics_set(p->seat, UE_M_OLDEST_EVENT,
                   w->waits < w->floor
                       ? (uint64_t)apr_time_sec(apr_time_now() - w->waits)
                       : 0);
}

/** Look at some more slots. Who is admitted meanwhile is not earlier than the
 * floor. */
static void watch_on(ue_producer_t *p)
{
    watch_t *w = &p->watch;
    uint32_t count = ue_journal_slots(p->journal);
    int left = LOOKS_AT_ONCE;

    for (; w->next <= count && left; w->next++, left--) {
        ue_slot_look_t look;

        if (!ue_journal_look(p->journal, w->next, &look)) {
            continue;
        }
        if (look.is_open && look.began < w->long_ago) {
            note_long_open(w, ue_journal_organization(p->journal, w->next));
        }
        else if (look.began < w->oldest) {
            w->oldest = look.began;
        }
    }
    if (w->next > count) {
        end_watch(p);
    }
}

/* ---- the ledger ---- */

static const ue_sink_vtable_t *ledger(const ue_producer_t *p)
{
    return p->numbering && p->numbering->sink->vtable->note
               ? p->numbering->sink->vtable
               : NULL;
}

/** @return APR_EAGAIN if the sink takes no more now */
static apr_status_t write_note(ue_producer_t *p, const note_t *note,
                               const char *key, const char *json)
{
    const ue_sink_vtable_t *vtable = ledger(p);
    apr_status_t rv;
    uint32_t i = 0;

    while (vtable && i < NOTES_MAX && p->notes[i].stream) {
        i++;
    }
    if (!vtable || i == NOTES_MAX) {
        return APR_EAGAIN;
    }
    p->notes[i] = *note;
    note->stream->notes++;
    rv = vtable->note(p->numbering->sink, key, strlen(key), json, strlen(json),
                      i);
    if (rv != APR_SUCCESS) {
        p->notes[i].stream = NULL;
        note->stream->notes--;
    }
    if (rv != APR_SUCCESS && !APR_STATUS_IS_EAGAIN(rv)) {
        ue_metrics_add(p->seat, UE_M_LEDGER_FAILED, 1);
        return APR_SUCCESS; /* it is tried again at the next time */
    }
    return rv;
}

static apr_status_t write_losses(ue_producer_t *p, stream_t *stream)
{
    ue_loss_record_t record;
    apr_status_t rv = APR_SUCCESS;

    while (rv == APR_SUCCESS) {
        uint32_t row = stream->loss_row;
        note_t note = {stream, 0, 0, 0};

        if (ue_ledger_next_loss(stream->file.account, &stream->loss_row, 0,
                                &record)
            != APR_SUCCESS) {
            break;
        }
        note.row = record.row;
        note.count = record.count;
        rv = write_note(p, &note, record.key, record.json);
        free(record.json);
        if (rv != APR_SUCCESS) {
            stream->loss_row = row;
        }
    }
    return rv;
}

/** @return whether all of it has been taken */
static int write_stream(ue_producer_t *p, stream_t *stream)
{
    note_t note = {stream, stream->is_over, UE_LOSS_ROWS, 0};
    int is_own = stream == atomic_load(&p->own);
    char key[UE_STREAM_HEX + 1];
    apr_status_t rv;
    char *json;

    if (write_losses(p, stream) != APR_SUCCESS) {
        return 0;
    }
    SET(stream->file.account->updated, apr_time_now());
    if (stream->is_over && !stream->is_inherited) {
        settle_account(stream); /* a loss may have been counted late */
    }
    json = ue_ledger_stream_json(stream->file.account, p->long_open,
                                 is_own ? p->long_count : 0);
    if (!json) {
        return 0;
    }
    rv = write_note(p, &note, ue_stream_format(&stream->file.id, key), json);
    free(json);
    if (rv == APR_SUCCESS) {
        stream->is_due = 0;
        stream->loss_row = 0;
    }
    return rv == APR_SUCCESS;
}

void ue_producer_noted(ue_producer_t *p, uint32_t cookie, int stored)
{
    note_t *note = &p->notes[cookie];
    stream_t *stream = note->stream;

    note->stream = NULL;
    stream->notes--;
    ue_metrics_add(p->seat, stored ? UE_M_LEDGER_STORED : UE_M_LEDGER_FAILED,
                   1);
    if (!stored) {
        return; /* written again, with newer numbers, at the next time */
    }
    if (note->row < UE_LOSS_ROWS) {
        ue_ledger_loss_told(stream->file.account, note->row, note->count);
    }
    else if (note->is_last) {
        SET(stream->file.account->told, 1);
    }
}

static void write_due(ue_producer_t *p, apr_time_t now)
{
    stream_t *stream;

    if (now < p->note_at) {
        return;
    }
    for (stream = p->streams; stream; stream = stream->next) {
        if (stream->is_due && !write_stream(p, stream)) {
            p->note_at = now + NOTE_AGAIN;
            break;
        }
    }
}

/* ---- the end of a stream ---- */

static int has_untold_losses(const stream_t *stream)
{
    ue_loss_record_t record;
    uint32_t from = 0;

    if (GET(stream->file.account->lost) == 0
        || ue_ledger_next_loss(stream->file.account, &from, 0, &record)
               != APR_SUCCESS) {
        return 0;
    }
    free(record.json);
    return 1;
}

/** Is the last that the ledger says of it stored there? Where there is no
 * ledger, an account with losses stays where it is, for people to read. */
static int is_told(const ue_producer_t *p, const stream_t *stream)
{
    if (!ledger(p) || (p->config.is_heir && stream->file.fd < 0)) {
        return 1;
    }
    return GET(stream->file.account->told) && stream->notes == 0
           && !has_untold_losses(stream);
}

/** What a dead child was about to tell may still be under way, and come behind
 * what we have told: so its last record is told once more. */
static int is_told_again(const ue_producer_t *p, stream_t *stream,
                         apr_time_t now)
{
    if (!stream->was_adopted || !ledger(p)) {
        return 1;
    }
    if (!stream->again_at) {
        stream->again_at = now + ue_producer_scan_every(p) * AGAIN_AFTER;
    }
    if (now < stream->again_at) {
        return 0;
    }
    if (!stream->is_told_again) {
        stream->is_told_again = 1;
        stream->is_due = 1;
        SET(stream->file.account->told, 0);
        return 0;
    }
    return 1;
}

static void drop_empty_segments(ue_producer_t *p, stream_t *stream)
{
    segment_t *segment = stream->segments;

    while (segment) {
        segment_t *next = segment->next;

        if (segment->region.open == 0) {
            ue_producer_drop_segment(p, stream, segment);
        }
        segment = next;
    }
}

/** @return whether it is gone */
static int tend(ue_producer_t *p, stream_t *stream, apr_time_t now)
{
    ue_account_t *account = stream->file.account;
    int is_own = stream == atomic_load(&p->own);

    if (stream->held) {
        release_held(p, stream, now);
    }
    if (stream->open == 0 && !stream->held) {
        drop_empty_segments(p, stream);
        if (!is_own && !stream->is_over) {
            end_stream(stream, UE_STREAM_ADOPTED);
        }
    }
    if (is_own || !stream->is_over || stream->segments || !is_told(p, stream)
        || !is_told_again(p, stream, now)) {
        return 0;
    }
    if (stream->is_inherited) {
        ue_accounts_give(p->config.accounts, account);
    }
    if (stream->file.fd >= 0) {
        int unlink = ledger(p) || GET(account->lost) == 0;
        ue_stream_file_t file = stream->file;

        if (!stream->was_adopted) {
            file.account = NULL; /* another thread may use it yet: it stays */
        }
        ue_spool_stream_end(p->spool, &file, unlink);
    }
    return 1;
}

static void tend_all(ue_producer_t *p, apr_time_t now)
{
    stream_t **at = &p->streams;
    uint32_t untold = 0;

    while (*at) {
        stream_t *stream = *at;

        if (!tend(p, stream, now)) {
            untold += stream->is_over && stream->was_adopted;
            at = &stream->next;
            continue;
        }
        *at = stream->next;
        if (stream->was_adopted || stream->is_inherited) {
            free(stream);
        }
        else {
            stream->next = p->former; /* a request thread may hold it yet */
            p->former = stream;
        }
    }
    atomic_store(&p->untold, untold);
}

void ue_producer_tend_streams(ue_producer_t *p, apr_time_t now)
{
    take_fresh(p);
    read_mail(p, now);
    if (p->watch.is_on) {
        watch_on(p);
    }
    if (now >= p->account_at) {
        p->account_at = now + ACCOUNT_EVERY;
        look_at_own(p);
        tend_all(p, now);
    }
    if (p->config.accounts && now >= p->inherit_at) {
        p->inherit_at = now + INHERIT_EVERY;
        inherit(p);
    }
    if (now >= p->ledger_at && !p->watch.is_on) {
        p->ledger_at = now + LEDGER_EVERY;
        begin_watch(p);
    }
    if (ledger(p)) {
        write_due(p, now);
    }
}

static int is_any_due(const ue_producer_t *p)
{
    const stream_t *stream = p->streams;

    while (stream && !stream->is_due) {
        stream = stream->next;
    }
    return stream != NULL;
}

/** Nobody writes these records after us, if all of httpd ends: so wait a little
 * for a sink that takes some at a time. */
static void write_all(ue_producer_t *p)
{
    const ue_sink_vtable_t *vtable = ledger(p);
    apr_time_t deadline = atomic_load(&p->deadline);
    apr_time_t until = ue_monotonic() + CLOSE_WAITS;

    if (!vtable) {
        return;
    }
    until = until < deadline ? until : deadline;
    p->note_at = 0;
    write_due(p, 0);
    while (is_any_due(p) && ue_monotonic() < until) {
        apr_sleep(apr_time_from_msec(1));
        vtable->poll(p->numbering->sink, ue_monotonic());
        p->note_at = 0;
        write_due(p, 0);
    }
}

/** Does anything wait, in the sinks or with a request thread? */
static int is_settled(const ue_producer_t *p)
{
    ue_account_t *own = atomic_load(&p->own)->file.account;

    return ue_producer_unsettled(p) == 0
           && GET(own->admitted) == GET(own->delivered) + GET(own->lost);
}

void ue_producer_close_streams(ue_producer_t *p)
{
    stream_t *own = atomic_load(&p->own);
    stream_t *stream;

    look_at_own(p);
    tend_all(p, ue_monotonic());
    if (is_settled(p)) {
        end_stream(own, UE_STREAM_CLOSED);
    }
    for (stream = p->streams; stream; stream = stream->next) {
        stream->is_due = 1;
    }
    write_all(p);
}

void ue_producer_seal_own(ue_producer_t *p)
{
    look_at_own(p);
    end_stream(atomic_load(&p->own), UE_STREAM_CLOSED);
}
