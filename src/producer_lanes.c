/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */

/**
 * What waits for the sinks: a list for each lane, handed over in batches.
 *
 * A lane's next batch goes when the last has been reported in full. That is
 * what librdkafka wants (docs/design.md, section 8), and it keeps the order:
 * what a sink gives back is put in front again before anything else goes.
 *
 * A batch that was too large is halved until it fits; one event that is too
 * large alone is refused. Afterwards batches grow again.
 */
#include "producer_int.h"

#include <stdlib.h>
#include <string.h>

#define RETRY_AFTER apr_time_from_msec(250)
#define RETRY_DOUBLINGS 3 /* up to two seconds */
#define COMPLAIN_EVERY apr_time_from_sec(30)
#define OUTLET_BITS ((1 << UE_PRODUCER_SINKS) - 1)

static uint32_t as_ms(apr_time_t monotonic)
{
    return (uint32_t)apr_time_as_msec(monotonic);
}

/* ---- lists ---- */

static void append(outlet_t *outlet, list_t *list, ue_slot_ref_t ref)
{
    outlet->next[ref - 1] = 0;
    if (list->last) {
        outlet->next[list->last - 1] = ref;
    }
    else {
        list->first = ref;
    }
    list->last = ref;
    list->count++;
}

static ue_slot_ref_t shift(const outlet_t *outlet, list_t *list)
{
    ue_slot_ref_t ref = list->first;

    list->first = outlet->next[ref - 1];
    if (!list->first) {
        list->last = 0;
    }
    list->count--;
    return ref;
}

/** Move all of from to the end of to. */
static void join(outlet_t *outlet, list_t *to, list_t *from)
{
    if (!from->first) {
        return;
    }
    if (to->last) {
        outlet->next[to->last - 1] = from->first;
    }
    else {
        to->first = from->first;
    }
    to->last = from->last;
    to->count += from->count;
    *from = (list_t){0, 0, 0};
}

/** Put what was given back where its number belongs, nearly always the end. */
static void insert(outlet_t *outlet, list_t *list, ue_slot_ref_t ref)
{
    const ue_journal_t *journal = outlet->producer->journal;
    uint64_t number = ue_journal_number(journal, ref);
    ue_slot_ref_t before;

    /* Where there are no numbers, the slot has the other sink's. */
    if (!outlet->sink->vtable->numbered || !list->last
        || ue_journal_number(journal, list->last) < number) {
        append(outlet, list, ref);
        return;
    }
    list->count++;
    if (ue_journal_number(journal, list->first) >= number) {
        outlet->next[ref - 1] = list->first;
        list->first = ref;
        return;
    }
    before = list->first;
    while (ue_journal_number(journal, outlet->next[before - 1]) < number) {
        before = outlet->next[before - 1];
    }
    outlet->next[ref - 1] = outlet->next[before - 1];
    outlet->next[before - 1] = ref;
}

/* ---- reports ---- */

/** A sink has refused an event: a loss, whatever the others do with it. */
static void count_lost(ue_producer_t *p, ue_slot_ref_t ref, uint8_t mark,
                       int is_numbered)
{
    ue_loss_t cause =
        mark == UE_PENDING_REFUSED ? UE_LOST_REJECTED : UE_LOST_EXPIRED;

    if (!(p->pending[ref - 1] & (UE_PENDING_REFUSED | UE_PENDING_EXPIRED))) {
        ue_metrics_lose(p->metrics, p->seat,
                        ue_journal_organization(p->journal, ref), cause, 1);
        ue_producer_count_lost(p, ref, cause, is_numbered);
    }
}

/** An event has left all sinks: count it, and give its slot back. */
static void count_settled(ue_producer_t *p, ue_slot_ref_t ref, uint8_t marks)
{
    int is_lost = marks & (UE_PENDING_REFUSED | UE_PENDING_EXPIRED);

    ue_producer_count_settled(p, ref, is_lost);
    if (!is_lost) {
        ue_metrics_add(p->seat, UE_M_EVENTS_DELIVERED, 1);
    }
    if (!(marks & (uint8_t)~UE_PENDING_UNKNOWN)) {
        ue_metrics_latency(p->seat,
                           p->wall - ue_journal_ended(p->journal, ref));
    }
    /* The thread of an interrupted request may still come to complete its slot.
     * It must not find another request's there. The child ends soon. */
    if (!(marks & UE_PENDING_INTERRUPTED)) {
        ue_journal_release(p->journal, ref);
    }
    atomic_fetch_add(&p->settled, 1);
}

/** An event is back: not stored now, and if never before, it can't be. */
static void unsend(const outlet_t *outlet, ue_slot_ref_t ref)
{
    const ue_producer_t *p = outlet->producer;

    if (outlet->sink->vtable->numbered
        && !(p->pending[ref - 1] & UE_PENDING_UNKNOWN)) {
        ue_journal_unsend(p->journal, ref);
    }
}

/** A sink is done with an event. */
static void leave(outlet_t *outlet, ue_slot_ref_t ref, uint8_t mark)
{
    ue_producer_t *p = outlet->producer;
    uint8_t *pending = &p->pending[ref - 1];

    if (mark) {
        /* While it is in the stream that its number is of. */
        count_lost(p, ref, mark, outlet->sink->vtable->numbered);
    }
    *pending |= mark;
    *pending &= (uint8_t)~outlet->bit;
    if (outlet->sink->vtable->numbered) {
        ue_producer_count_home(p, ref);
    }
    if (!mark && outlet->sink->vtable->numbered) {
        ue_producer_count_delivered(p, ref);
    }
    if (*pending & OUTLET_BITS) {
        if (outlet->sink->vtable->numbered) {
            /* What happens to it now is about the other sink. */
            *pending &= (uint8_t)~UE_PENDING_UNKNOWN;
            ue_journal_leave_topic(p->journal, ref, mark != 0);
        }
        else {
            ue_journal_mark_in_file(p->journal, ref);
        }
    }
    /* Who closes may have written it off, if we hung for too long. */
    else if (ue_journal_settle(p->journal, ref,
                               1u << UE_SLOT_LISTED | 1u << UE_SLOT_SENT)) {
        count_settled(p, ref, *pending);
        *pending = 0;
    }
}

/** All of a batch has been reported. */
static void end_batch(outlet_t *outlet, lane_t *lane)
{
    uint32_t back = lane->returned.count;

    ue_log(UE_LOG_DEBUG, APR_SUCCESS,
           "[EventProducer] Batch sent: %u events (success=%u, failed=%u)",
           lane->batch, lane->delivered, lane->batch - lane->delivered);
    if (lane->too_large) {
        lane->most = lane->batch > 1 ? lane->batch / 2 : 1;
    }
    else if (lane->most && lane->delivered) {
        lane->most *= 2;
        if (lane->most >= outlet->sink->vtable->batch_events) {
            lane->most = 0;
        }
    }
    if (back && !lane->too_large && !lane->delivered) {
        lane->retry_at = ue_monotonic() + (RETRY_AFTER << lane->failures);
        lane->failures += lane->failures < RETRY_DOUBLINGS;
    }
    else {
        lane->failures = 0;
    }
    lane->too_large = 0;
    join(outlet, &lane->returned, &lane->waiting);
    lane->waiting = lane->returned;
    lane->returned = (list_t){0, 0, 0};
    lane->numbered += back;
    outlet->numbered += back;
    outlet->waiting += back;
}

/** A sink says what became of a record. @locality worker */
static void report(void *baton, uint32_t n, ue_slot_ref_t ref,
                   ue_outcome_t outcome)
{
    outlet_t *outlet = baton;
    ue_producer_t *p = outlet->producer;
    lane_t *lane = &outlet->lanes[n];

    if (outcome == UE_TOO_LARGE && lane->batch == 1) {
        outcome = UE_REFUSED;
    }
    lane->under_way--;
    outlet->under_way--;
    switch (outcome) {
    case UE_DELIVERED:
        lane->delivered++;
        leave(outlet, ref, 0);
        break;
    case UE_REFUSED:
    case UE_EXPIRED:
        ue_metrics_add(p->seat, UE_M_DELIVERY_PERMANENT, 1);
        leave(outlet, ref,
              outcome == UE_REFUSED ? UE_PENDING_REFUSED : UE_PENDING_EXPIRED);
        break;
    case UE_UNSENT:
    case UE_UNKNOWN:
    case UE_TOO_LARGE:
        ue_metrics_add(p->seat, UE_M_DELIVERY_RETRIABLE, 1);
        if (outcome == UE_UNKNOWN && outlet->sink->vtable->numbered) {
            p->pending[ref - 1] |= UE_PENDING_UNKNOWN;
        }
        unsend(outlet, ref);
        lane->too_large |= outcome == UE_TOO_LARGE;
        insert(outlet, &lane->returned, ref);
        break;
    }
    if (lane->under_way == 0) {
        end_batch(outlet, lane);
    }
}

/** A sink says whether it reaches what it writes to. @locality worker */
static void note_connected(void *baton, int connected)
{
    outlet_t *outlet = baton;

    if (connected != outlet->connected) {
        outlet->connected = connected;
        ue_metrics_add(outlet->producer->seat, UE_M_KAFKA_CONNECTED,
                       connected ? 1 : (uint64_t)-1);
    }
}

static void note_stored(void *baton, uint32_t cookie, int stored)
{
    outlet_t *outlet = baton;

    ue_producer_noted(outlet->producer, cookie, stored);
}

/* ---- lanes ---- */

apr_status_t ue_producer_start_sinks(ue_producer_t *p, ue_sink_t *const *sinks,
                                     int count, apr_pool_t *pool)
{
    size_t refs = ue_journal_refs_max(p->journal);
    size_t events = 0;
    size_t bytes = 0;
    int i;

    p->pending = ue_producer_reserve(refs);
    p->found = ue_producer_reserve(refs * sizeof(*p->found));
    p->since = ue_producer_reserve(refs * sizeof(*p->since));
    if (!p->pending || !p->found || !p->since) {
        return APR_ENOMEM;
    }
    for (i = 0; i < count; i++) {
        const ue_sink_vtable_t *vtable = sinks[i]->vtable;

        events = vtable->batch_events > events ? vtable->batch_events : events;
        bytes = vtable->batch_bytes > bytes ? vtable->batch_bytes : bytes;
    }
    p->records = apr_palloc(pool, events * sizeof(*p->records));
    p->batch = apr_palloc(pool, bytes);
    p->outlet_count = count;
    for (i = 0; i < count; i++) {
        outlet_t *outlet = &p->outlets[i];
        ue_sink_owner_t owner = {report, note_connected, note_stored, outlet};
        apr_status_t rv;

        outlet->sink = sinks[i];
        outlet->producer = p;
        outlet->bit = (uint8_t)(1 << i);
        outlet->next = ue_producer_reserve(refs * sizeof(*outlet->next));
        if (!outlet->next) {
            return APR_ENOMEM;
        }
        if (outlet->sink->vtable->numbered) {
            p->numbering = outlet;
        }
        rv = outlet->sink->vtable->start(outlet->sink, &owner);
        if (rv != APR_SUCCESS) {
            return rv;
        }
    }
    return APR_SUCCESS;
}

static list_t *list_of(outlet_t *outlet, ue_slot_ref_t ref)
{
    const ue_sink_vtable_t *vtable = outlet->sink->vtable;

    if (outlet->lane_count == 0) {
        return &outlet->unsorted;
    }
    return &outlet
                ->lanes[vtable->lane_of(
                    ue_journal_organization(outlet->producer->journal, ref),
                    outlet->lane_count)]
                .waiting;
}

void ue_producer_list(ue_producer_t *p, ue_slot_ref_t ref, apr_time_t now)
{
    int i;

    p->since[ref - 1] = as_ms(now);
    p->listed++;
    for (i = 0; i < p->outlet_count; i++) {
        outlet_t *outlet = &p->outlets[i];

        append(outlet, list_of(outlet, ref), ref);
        outlet->waiting++;
        p->pending[ref - 1] |= outlet->bit;
    }
}

static void prepend(outlet_t *outlet, list_t *list, ue_slot_ref_t ref)
{
    outlet->next[ref - 1] = list->first;
    list->first = ref;
    if (!list->last) {
        list->last = ref;
    }
    list->count++;
}

void ue_producer_list_adopted(ue_producer_t *p, ue_slot_ref_t ref, int numbered,
                              apr_time_t now)
{
    uint8_t *pending = &p->pending[ref - 1];
    int i;

    p->since[ref - 1] = as_ms(now);
    *pending = numbered ? UE_PENDING_UNKNOWN : 0;
    *pending |=
        ue_journal_was_refused(p->journal, ref) ? UE_PENDING_REFUSED : 0;
    for (i = 0; i < p->outlet_count; i++) {
        outlet_t *outlet = &p->outlets[i];

        if (outlet == p->numbering ? ue_journal_left_topic(p->journal, ref)
                                   : ue_journal_is_in_file(p->journal, ref)) {
            continue;
        }
        if (outlet == p->numbering && numbered) {
            lane_t *lane =
                &outlet->lanes[ue_journal_partition(p->journal, ref)];

            prepend(outlet, &lane->waiting, ref);
            lane->numbered++;
            outlet->numbered++;
        }
        else {
            append(outlet, list_of(outlet, ref), ref);
        }
        outlet->waiting++;
        *pending |= outlet->bit;
    }
    /* Its child was killed between the last report and the end of its slot. */
    if (!(*pending & OUTLET_BITS)
        && ue_journal_settle(p->journal, ref, 1u << UE_SLOT_LISTED)) {
        count_settled(p, ref, *pending);
    }
}

/** Bring together what waits in the lanes, as if they were not known. */
static void gather(outlet_t *outlet)
{
    uint32_t i;

    for (i = 0; i < outlet->lane_count; i++) {
        join(outlet, &outlet->unsorted, &outlet->lanes[i].waiting);
    }
    outlet->lane_count = 0;
    outlet->numbered = 0;
    outlet->turn = 0;
}

/** Deal out anew what waits, numbered anew. Nothing is under way. */
static void deal(outlet_t *outlet, uint32_t lanes)
{
    ue_producer_t *p = outlet->producer;
    int numbered = outlet->sink->vtable->numbered;
    lane_t *room;
    list_t all;

    gather(outlet);
    room = realloc(outlet->lanes, lanes * sizeof(*room));
    if (room) {
        outlet->lanes = room;
    }
    if (numbered) {
        ue_producer_forget_numbers(p);
    }
    for (ue_slot_ref_t ref = numbered ? outlet->unsorted.first : 0; ref;
         ref = outlet->next[ref - 1]) {
        ue_journal_forget(p->journal, ref);
    }
    if (!room || (numbered && !ue_producer_renew_stream(p, lanes))) {
        return; /* asked again at the next tick */
    }
    memset(room, 0, lanes * sizeof(*room));
    outlet->lane_count = lanes;
    all = outlet->unsorted;
    outlet->unsorted = (list_t){0, 0, 0};
    while (all.count) {
        ue_slot_ref_t ref = shift(outlet, &all);

        append(outlet, list_of(outlet, ref), ref);
    }
}

/** What may be handed over. */
typedef enum {
    FEED_NOTHING,
    FEED_NUMBERED, /* what has its number */
    FEED_ALL
} feed_t;

static void complain_of_lanes(outlet_t *outlet, uint32_t lanes)
{
    uint32_t held;

    if (ue_log_limit_pass(&outlet->producer->lanes_limit, ue_monotonic(),
                          COMPLAIN_EVERY, &held)) {
        ue_log(UE_LOG_ERR, APR_SUCCESS,
               "UE0205: producer: the topic has %u partitions, and events are "
               "numbered for %u at most; they wait",
               lanes, UE_LANES_MAX);
    }
}

/**
 * Follow the number of the sink's lanes. What has a number goes home first, to
 * the lane that it was meant for, unless that may be no more.
 * @return what may go now
 */
static feed_t follow_lanes(outlet_t *outlet)
{
    uint32_t lanes = outlet->sink->vtable->lanes(outlet->sink);

    if (lanes == 0 || lanes == outlet->lane_count) {
        return FEED_ALL;
    }
    if (lanes > UE_LANES_MAX && outlet->sink->vtable->numbered) {
        complain_of_lanes(outlet, lanes);
        return FEED_NOTHING;
    }
    if (outlet->under_way || (outlet->numbered && lanes > outlet->lane_count)) {
        return lanes > outlet->lane_count ? FEED_NUMBERED : FEED_NOTHING;
    }
    deal(outlet, lanes);
    return FEED_ALL;
}

/* ---- feeding ---- */

/** Give an event its number, unless it has one. It is in the slot before it
 * counts as given: what is counted was in a slot. */
static void number(ue_producer_t *p, const outlet_t *outlet, const lane_t *lane,
                   ue_sink_record_t *record)
{
    stream_t *stream = ue_producer_stream_of(p, record->ref);
    uint32_t n = (uint32_t)(lane - outlet->lanes);
    _Atomic uint64_t *sent = &stream->file.account->lane[n].sent;
    uint64_t last = atomic_load_explicit(sent, memory_order_relaxed);

    record->stream = &stream->file.id;
    record->number = ue_journal_number(p->journal, record->ref);
    if (record->number) {
        ue_journal_send(p->journal, record->ref, n, record->number);
        return;
    }
    record->number = last + 1;
    ue_journal_send(p->journal, record->ref, n, record->number);
    atomic_store_explicit(sent, last + 1, memory_order_release);
}

/**
 * Take the next batch off its lane and encode it.
 * @return how many events
 */
static uint32_t encode(ue_producer_t *p, outlet_t *outlet, lane_t *lane,
                       uint32_t most)
{
    const ue_sink_vtable_t *vtable = outlet->sink->vtable;
    char text[UE_ENDPOINT_MAX + UE_METHOD_MAX];
    char *to = p->batch;
    size_t room = vtable->batch_bytes;
    uint32_t n = 0;

    while (lane->waiting.count && n < most
           && room > UE_EVENT_JSON_MAX + vtable->event_overhead) {
        ue_slot_ref_t ref = shift(outlet, &lane->waiting);
        ue_sink_record_t *record = &p->records[n++];
        ue_event_t event;

        ue_journal_read(p->journal, ref, &event, text);
        record->ref = ref;
        record->organization = to + UE_EVENT_ORGANIZATION;
        record->json = to;
        record->len = ue_event_json(&event, to);
        record->stream = NULL;
        record->number = 0;
        if (vtable->numbered) {
            number(p, outlet, lane, record);
        }
        to += record->len;
        *to++ = '\n';
        room -= record->len + 1 + vtable->event_overhead;
    }
    return n;
}

/** Put back in front what the sink didn't take. */
static void put_back(ue_producer_t *p, outlet_t *outlet, lane_t *lane,
                     uint32_t from, uint32_t to)
{
    list_t back = {0, 0, 0};
    uint32_t i;

    for (i = from; i < to; i++) {
        append(outlet, &back, p->records[i].ref);
        unsend(outlet, p->records[i].ref);
    }
    join(outlet, &back, &lane->waiting);
    lane->waiting = back;
    outlet->waiting += to - from;
    if (outlet->sink->vtable->numbered) {
        lane->numbered += to - from;
        outlet->numbered += to - from;
    }
}

/** Hand one batch over. @return whether another may follow at once */
static int hand_over(ue_producer_t *p, outlet_t *outlet, lane_t *lane,
                     uint32_t most, apr_time_t now)
{
    const ue_sink_vtable_t *vtable = outlet->sink->vtable;
    uint32_t n = encode(p, outlet, lane, most);
    uint32_t again = n < lane->numbered ? n : lane->numbered;
    ue_sink_batch_t batch = {(uint32_t)(lane - outlet->lanes), p->records, n};
    size_t taken = 0;
    apr_status_t rv;

    lane->numbered -= again;
    outlet->numbered -= again;
    outlet->waiting -= n;
    lane->delivered = 0;
    lane->batch = n;
    /* It may report while it takes; one more keeps the batch from ending. */
    lane->under_way = n + 1;
    outlet->under_way += n + 1;
    /* Who had a turn is last at the next: by the clock alone, a lane might find
     * room each time that it is first, and the others never. */
    outlet->turn = (batch.lane + 1) % outlet->lane_count;
    rv = vtable->submit(outlet->sink, &batch, &taken);
    put_back(p, outlet, lane, (uint32_t)taken, n);
    lane->batch = (uint32_t)taken;
    lane->under_way -= n + 1 - (uint32_t)taken;
    outlet->under_way -= n + 1 - (uint32_t)taken;
    if (taken) {
        ue_metrics_add(p->seat, UE_M_BATCHES, 1);
        ue_metrics_add(p->seat, UE_M_BATCH_EVENTS, taken);
        if (lane->under_way == 0) {
            end_batch(outlet, lane);
        }
    }
    if (rv != APR_SUCCESS && !APR_STATUS_IS_EAGAIN(rv)) {
        ue_metrics_add(p->seat, UE_M_SINK_ERRORS, 1);
        outlet->retry_at = now + RETRY_AFTER;
    }
    return rv == APR_SUCCESS;
}

static int is_due(const ue_producer_t *p, const lane_t *lane, apr_time_t now)
{
    uint32_t age;

    if (lane->waiting.count == 0 || lane->under_way || now < lane->retry_at) {
        return 0;
    }
    if (lane->numbered || lane->waiting.count >= p->config.batch_size
        || atomic_load(&p->stage) >= STAGE_STOPPING
        || atomic_load(&p->flushing)) {
        return 1;
    }
    /* A tick early rather than a tick late; it may have waited another in the
     * queue. */
    age = as_ms(now) - p->since[lane->waiting.first - 1];
    return apr_time_from_msec(age) + 2 * p->tick >= p->config.flush_interval;
}

/** Hand over what is due in one lane. @return whether to go on with others */
static int feed_lane(ue_producer_t *p, outlet_t *outlet, lane_t *lane,
                     int only_numbered, apr_time_t now)
{
    uint32_t bound = (uint32_t)outlet->sink->vtable->batch_events;

    while (is_due(p, lane, now)) {
        uint32_t most = lane->most ? lane->most : bound;

        if (only_numbered && most > lane->numbered) {
            most = lane->numbered;
        }
        if (most == 0
            || !outlet->sink->vtable->has_room(
                outlet->sink, (uint32_t)(lane - outlet->lanes))) {
            return 1;
        }
        if (!hand_over(p, outlet, lane, most, now)) {
            return 0;
        }
    }
    return 1;
}

static void feed_outlet(ue_producer_t *p, outlet_t *outlet, apr_time_t now)
{
    feed_t what;
    uint32_t first, i;

    outlet->sink->vtable->poll(outlet->sink, now);
    what = follow_lanes(outlet);
    if (now < outlet->retry_at || outlet->waiting == 0
        || what == FEED_NOTHING) {
        return;
    }
    first = outlet->turn;
    for (i = 0; i < outlet->lane_count; i++) {
        lane_t *lane = &outlet->lanes[(first + i) % outlet->lane_count];

        if (!feed_lane(p, outlet, lane, what == FEED_NUMBERED, now)) {
            break;
        }
    }
}

void ue_producer_feed(ue_producer_t *p, apr_time_t now)
{
    int i;

    p->wall = apr_time_now();
    for (i = 0; i < p->outlet_count; i++) {
        feed_outlet(p, &p->outlets[i], now);
    }
}

uint32_t ue_producer_unsettled(const ue_producer_t *p)
{
    uint32_t n = 0;
    int i;

    for (i = 0; i < p->outlet_count; i++) {
        n += p->outlets[i].waiting + p->outlets[i].under_way;
    }
    return n;
}

void ue_producer_flush_sinks(ue_producer_t *p, apr_time_t deadline)
{
    int i;

    p->wall = apr_time_now();
    for (i = 0; i < p->outlet_count; i++) {
        p->outlets[i].sink->vtable->flush(p->outlets[i].sink, deadline);
    }
}
