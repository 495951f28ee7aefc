/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * The spool in random schedules: lives of processes, one after the other, in
 * which events come, sinks fail, refuse and don't answer, partitions come and
 * go, the queue and the spool are full; and which end by a kill or with time
 * too short. Whoever comes next takes over. After each step the metrics and
 * the accounts must add up to what the sinks have said; in the end each event
 * is in the topic, or a loss that was counted.
 *
 * The worker is the test itself, on a clock that it sets, so a schedule is the
 * same each time, but for when the spool's own thread has had its turn.
 */
#include "unit_spool_book.h"

#define OPEN_MAX_ 300

typedef struct {
    uint64_t seed;
    ue_producer_config_t config;
    int sinks;
    int shrinks; /* partitions may become fewer, where numbers are forgotten */
} schedule_t;

static schedule_t plan;
static ue_producer_t *p;
static apr_time_t clock_now;
static struct {
    ue_slot_ref_t ref;
    uint32_t place;
} opened[OPEN_MAX_];
static unsigned open_count;
static ue_metrics_sum_t begun; /* what the metrics said before the schedule */

/** In a child: say what is wrong, and end. */
#define WRONG(...)                                               \
    do {                                                         \
        snprintf(book->wrong, sizeof(book->wrong), __VA_ARGS__); \
        unit_exit(5);                                            \
    } while (0)

static unsigned roll(unsigned sides)
{
    return roll_of(&plan.seed, sides);
}

/* ---- a producer whose worker is the test ---- */

static void make_direct(void)
{
    ue_sink_t *list[UE_PRODUCER_SINKS];
    int count = make_sinks(list, plan.sinks, unit_random(&plan.seed));
    apr_pool_t *pool;

    begin_child();
    if (getenv("UNIT_LOG")) {
        ue_log_set(spool_log, NULL, (ue_log_level_t)atoi(getenv("UNIT_LOG")));
    }
    apr_pool_create_unmanaged_ex(&pool, NULL, NULL);
    p = apr_pcalloc(pool, sizeof(*p));
    p->config = plan.config;
    p->metrics = spool_metrics;
    p->seat = ue_metrics_sit(spool_metrics);
    ue_metrics_spooled(p->seat);
    p->tick = apr_time_from_msec(1);
    sem_init(&p->wake, 0, 0);
    if (ue_random(&p->id, sizeof(p->id)) != APR_SUCCESS
        || ue_journal_create_spooled(&p->journal, 65536, &p->id, pool)
               != APR_SUCCESS
        || ue_producer_open_spool(p, pool) != APR_SUCCESS
        || apr_queue_create(&p->queue, plan.config.buffer_size, pool)
               != APR_SUCCESS
        || ue_producer_start_sinks(p, list, count, pool) != APR_SUCCESS
        || ue_producer_open_stream(p, pool) != APR_SUCCESS
        || ue_thread_start("usage-spool", ue_producer_keep_spool, p)
               != APR_SUCCESS) {
        WRONG("there is no producer");
    }
    clock_now = ue_monotonic();
}

/** What the worker does in a tick. */
static void tick(apr_interval_time_t later)
{
    void *ref;
    ue_slot_ref_t n;

    clock_now += later;
    while (apr_queue_trypop(p->queue, &ref) == APR_SUCCESS) {
        n = (ue_slot_ref_t)(uintptr_t)ref;
        atomic_fetch_sub(&p->queued, 1);
        if (ue_journal_list(p->journal, n, 1u << UE_SLOT_COMPLETE)) {
            ue_producer_list(p, n, clock_now);
        }
    }
    for (n = 1; atomic_load(&p->stranded) && n <= ue_journal_slots(p->journal);
         n++) {
        if (ue_journal_list(p->journal, n, 1u << UE_SLOT_STRANDED)) {
            ue_producer_list(p, n, clock_now);
            atomic_fetch_sub(&p->stranded, 1);
        }
    }
    ue_producer_tend_streams(p, clock_now);
    ue_producer_feed(p, clock_now);
}

/* ---- what must add up ---- */

typedef struct {
    uint64_t admitted, delivered, lost;
    uint64_t lost_of[12]; /* by organization */
} books_t;

static uint8_t all_sinks(void)
{
    return (uint8_t)((plan.sinks & WITH_TOPIC ? DONE_TOPIC : 0)
                     | (plan.sinks & WITH_FILE ? DONE_FILE : 0));
}

static books_t add_up(void)
{
    uint32_t all = atomic_load(&book->event_count);
    uint8_t both = all_sinks();
    books_t books = {.admitted = 0};

    for (uint32_t i = 0; i < all; i++) {
        const said_t *said = &book->said[i];
        int is_over = (said->done & both) == both;
        int is_lost = said->dropped || said->done & DONE_LOST;

        books.admitted += said->admitted || said->dropped;
        books.delivered += is_over && !is_lost;
        books.lost += is_lost;
        if (is_lost) {
            char text[TEXT_ROOM];

            books.lost_of[event_at(i, text).organization_id.b[15]]++;
        }
    }
    return books;
}

/** @return what the metrics say wrong, or NULL */
static const char *check_metrics(const books_t *books)
{
    static char wrong[200];
    ue_metrics_sum_t now;

    ue_metrics_sum(spool_metrics, &now);
    for (int i = 0; i < UE_METRICS; i++) {
        now.value[i] -= begun.value[i];
    }
    now.lost -= begun.lost;
    if (now.value[UE_M_EVENTS_ADMITTED] == books->admitted
        && now.value[UE_M_EVENTS_DELIVERED] == books->delivered
        && now.lost == books->lost) {
        return NULL;
    }
    snprintf(wrong, sizeof(wrong),
             "metrics: %u admitted, %u delivered, %u lost; books: %u, %u, %u",
             (unsigned)now.value[UE_M_EVENTS_ADMITTED],
             (unsigned)now.value[UE_M_EVENTS_DELIVERED], (unsigned)now.lost,
             (unsigned)books->admitted, (unsigned)books->delivered,
             (unsigned)books->lost);
    return wrong;
}

static uint64_t in_own_slots(void)
{
    uint64_t n = 0;

    for (ue_slot_ref_t ref = 1; ref <= ue_journal_slots(p->journal); ref++) {
        ue_slot_look_t slot;

        /* What the topic has refused is a loss, though the file has yet to
         * take it. */
        n += ue_journal_look(p->journal, ref, &slot)
             && !(p->pending[ref - 1]
                  & (UE_PENDING_REFUSED | UE_PENDING_EXPIRED));
    }
    return n;
}

static uint64_t waiting_in(const ue_account_t *account)
{
    return account->admitted - account->delivered - account->lost;
}

/** Each account says how many events of its stream wait. */
static void check_accounts(void)
{
    const stream_t *own = atomic_load(&p->own);
    uint64_t waiting = in_own_slots();

    for (const stream_t *s = p->streams; s; s = s->next) {
        if (s == own) {
            continue;
        }
        if (s->has_moved) {
            waiting += s->open;
        }
        else if (s->was_adopted && waiting_in(s->file.account) != s->open) {
            WRONG("adopted: %u wait, account %u admitted, %u delivered, %u "
                  "lost",
                  s->open, (unsigned)s->file.account->admitted,
                  (unsigned)s->file.account->delivered,
                  (unsigned)s->file.account->lost);
        }
    }
    /* What it has admitted, it looks up every so often. */
    if (atomic_load(&p->admitted) - (uint64_t)own->file.account->base
            - own->file.account->delivered - own->file.account->lost
        != waiting) {
        WRONG("own: %u wait, account %u admitted, %u delivered, %u lost",
              (unsigned)waiting, (unsigned)own->file.account->admitted,
              (unsigned)own->file.account->delivered,
              (unsigned)own->file.account->lost);
    }
}

static void check_now(void)
{
    books_t books = add_up();
    const char *wrong = check_metrics(&books);

    if (wrong) {
        WRONG("%s", wrong);
    }
    /* Accounts are looked at every so often. */
    tick(apr_time_from_msec(60));
    tick(0);
    check_accounts();
}

/* ---- steps ---- */

static void admit_some(unsigned count)
{
    while (count-- > 0 && open_count < OPEN_MAX_) {
        uint32_t place = atomic_fetch_add(&book->event_count, 1);
        ue_overflow_t overflow =
            roll(2) ? UE_OVERFLOW_DROP : UE_OVERFLOW_REFUSE;
        said_t *said = &book->said[place];
        char text[TEXT_ROOM];
        ue_slot_ref_t ref;
        ue_admission_t a;
        ue_event_t e;

        said->began = apr_time_now() + apr_time_from_sec(60);
        e = event_at(place, text);
        a = admission_of(&e);
        said->meant = 1;
        if (ue_producer_admit(p, &a, overflow, &ref) == APR_SUCCESS) {
            said->admitted = 1;
            opened[open_count].ref = ref;
            opened[open_count++].place = place;
        }
        else {
            said->dropped = overflow == UE_OVERFLOW_DROP;
        }
    }
}

static void complete_some(unsigned count)
{
    while (count-- > 0 && open_count > 0) {
        unsigned i = roll(open_count);
        char text[TEXT_ROOM];
        ue_event_t e = event_at(opened[i].place, text);
        ue_completion_t c = completion_of(&e);

        if (ue_producer_record(p, opened[i].ref, &c, UE_OVERFLOW_DROP)
            != APR_SUCCESS) {
            WRONG("event %u was dropped", opened[i].place);
        }
        book->said[opened[i].place].complete = 1;
        opened[i] = opened[--open_count];
    }
}

static void change_lanes(void)
{
    uint32_t most = atomic_load(&book->most_lanes);
    uint32_t lanes = 1 + roll(LANES);

    if (roll(5) == 0) {
        atomic_store(&book->lanes, 0); /* for a while, nobody knows */
    }
    else {
        lanes = plan.shrinks || lanes > most ? lanes : most;
        /* A slot does not say that the topic has its event, while the file has
         * it not; so it may go there again under another stream's number. */
        lanes = plan.sinks & WITH_FILE ? most : lanes;
        atomic_store(&book->lanes, lanes);
        atomic_store(&book->most_lanes, lanes > most ? lanes : most);
    }
}

static void step(void)
{
    static const int waits[] = {0, 1, 10, 60, 300, 3000};

    switch (roll(16)) {
    case 0:
        atomic_store(&book->away, roll(3) == 0);
        break;
    case 1:
        atomic_store(&book->faults, (int)roll(2));
        break;
    case 2:
        change_lanes();
        break;
    case 3:
        apr_sleep(3000); /* the spool's thread has a turn */
        break;
    case 4:
        admit_some(roll(200));
        break;
    case 5:
        complete_some(roll(200));
        break;
    case 6:
    case 7:
    case 8:
        admit_some(roll(20));
        break;
    case 9:
    case 10:
        complete_some(roll(30));
        break;
    default:
        tick(apr_time_from_msec(waits[roll(UNIT_COUNT(waits))]));
        check_now();
    }
}

/** The end of a life, with things left or not. */
static void close_in_time(apr_interval_time_t time)
{
    atomic_store(&p->spool_ending, 1);
    atomic_store(&p->deadline, ue_monotonic() + time);
    atomic_store(&p->stage, STAGE_CLOSING);
    ue_producer_drain(p);
    atomic_store(&p->worker_done, 1);
    ue_producer_close(p);
}

static void live(void)
{
    make_direct();
    open_count = 0;
    tick(0);
    for (unsigned n = 20 + roll(60); n > 0; n--) {
        step();
    }
    if (roll(3)) {
        raise(SIGKILL);
    }
    close_in_time(apr_time_from_msec(roll(4)));
    unit_exit(0);
}

/** Is a file one that somebody must take over? Where there is no ledger, what
 * was lost stays on record in the spool. */
static int is_other(const ue_spool_entry_t *entry)
{
    ue_account_t *account;
    char path[300];
    int fd, is;

    if (memcmp(&entry->stream, &atomic_load(&p->own)->file.id,
               sizeof(entry->stream))
        == 0) {
        return 0;
    }
    if (entry->is_segment || plan.sinks & WITH_TOPIC
        || ue_spool_is_ours(&entry->stream)) {
        return 1;
    }
    snprintf(path, sizeof(path), "%s/%s", spool_dir, entry->name);
    fd = open(path, O_RDONLY);
    if (fd < 0) {
        return 1;
    }
    account = mmap(NULL, sizeof(*account), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (account == MAP_FAILED) {
        WRONG("no memory");
    }
    is = account->state == UE_STREAM_OPEN || account->lost == 0;
    munmap(account, sizeof(*account));
    return is;
}

/** The last life of a schedule: no faults, and nothing may stay. */
static void live_to_the_end(void)
{
    apr_array_header_t *entries;
    apr_time_t until = ue_monotonic() + apr_time_from_sec(30);
    apr_pool_t *pool;
    int others = 1;

    make_direct();
    apr_pool_create(&pool, NULL);
    while ((others || ue_producer_unsettled(p) || p->mail)
           && ue_monotonic() < until) {
        tick(apr_time_from_sec(1));
        check_now();
        ue_spool_list_dir(spool_dir, &entries, pool);
        for (int i = others = 0; i < entries->nelts; i++) {
            others += is_other(&APR_ARRAY_IDX(entries, i, ue_spool_entry_t));
        }
        apr_pool_clear(pool);
        apr_sleep(300);
    }
    if (others) {
        WRONG("%d files are left", others);
    }
    close_in_time(apr_time_from_sec(5));
    if (ue_producer_unsettled(p)) {
        WRONG("%u events are left", ue_producer_unsettled(p));
    }
    unit_exit(0);
}

static void run_life(void (*life)(void))
{
    pid_t pid = fork();
    int status;

    assert_true(pid >= 0);
    if (pid == 0) {
        life();
    }
    status = ended(pid);
    if (status > 0) {
        fail_msg("%d: %s", status, book->wrong);
    }
}

/* ---- schedules ---- */

typedef struct {
    uint64_t of[12];
} lost_t;

static void add_lost(void *baton, const ue_uuid_t *id,
                     const uint64_t lost[UE_LOSSES])
{
    lost_t *to = baton;

    for (int i = 0; i < UE_LOSSES && id->b[15] < UNIT_COUNT(to->of); i++) {
        to->of[id->b[15]] += lost[i];
    }
}

/** Where numbers may be forgotten: still each has one meaning, and each event
 * is there. */
static void check_loosely(void)
{
    uint8_t *there = calloc(BOOK_EVENTS, 1);
    uint32_t count;
    uint32_t *order = sorted_topic(&count);

    assert_non_null(there);
    for (uint32_t i = 0; i < count; i++) {
        const stored_t *s = &book->stored[order[i]];
        const stored_t *last = i ? &book->stored[order[i - 1]] : NULL;

        if (last && same_lane(s, last) && s->number == last->number
            && s->event != last->event) {
            fail_msg("number %u has two meanings", (unsigned)s->number);
        }
        if (!s->refused && !which_event(s)) {
            fail_msg("event %u is wrong", s->event);
        }
        there[s->event] = 1;
    }
    for (uint32_t i = 0; i < atomic_load(&book->event_count); i++) {
        if (book->said[i].admitted && !there[i]) {
            fail_msg("event %u is missing", i);
        }
    }
    free(there);
    free(order);
}

static void check_schedule(const lost_t *before)
{
    books_t books = add_up();
    const char *wrong = check_metrics(&books);
    lost_t lost = {{0}};

    if (wrong) {
        fail_msg("%s", wrong);
    }
    assert_int_equal(books.admitted, books.delivered + books.lost);
    ue_metrics_losses(spool_metrics, add_lost, &lost);
    for (unsigned i = 0; i < UNIT_COUNT(lost.of); i++) {
        assert_int_equal(lost.of[i] - before->of[i], books.lost_of[i]);
    }
    if (plan.sinks & WITH_TOPIC && !plan.shrinks) {
        check_book(plan.sinks);
    }
    else if (plan.sinks & WITH_TOPIC) {
        check_loosely();
    }
    if (plan.sinks & WITH_FILE) {
        check_file();
    }
}

static void plan_schedule(uint64_t seed, int sinks)
{
    static const apr_off_t sizes[] = {250000, 420000, 1200000, 4000000};

    plan.seed = seed;
    plan.config = spool_config;
    plan.config.spool_most = sizes[roll(UNIT_COUNT(sizes))];
    plan.config.buffer_size = roll(2) ? 20 : 500;
    plan.config.batch_size = 1 + roll(40);
    plan.config.scan_interval = apr_time_from_msec(1);
    plan.sinks = sinks;
    plan.shrinks = roll(3) == 0;
}

static void run_schedule(uint64_t seed, int sinks)
{
    lost_t before = {{0}};
    unsigned lives;

    wipe_spool();
    new_book();
    plan_schedule(seed, sinks);
    ue_metrics_sum(spool_metrics, &begun);
    ue_metrics_losses(spool_metrics, add_lost, &before);
    atomic_store(&book->lanes, 1 + roll(4));
    atomic_store(&book->most_lanes, atomic_load(&book->lanes));
    for (lives = 1 + roll(4); lives > 0; lives--) {
        plan.seed = unit_random(&plan.seed);
        run_life(live);
    }
    atomic_store(&book->faults, 0);
    atomic_store(&book->away, 0);
    if (atomic_load(&book->lanes) == 0) {
        atomic_store(&book->lanes, LANES);
    }
    run_life(live_to_the_end);
    check_schedule(&before);
}

static void run_schedules(int sinks)
{
    const char *wanted = getenv("UNIT_SEED");
    apr_time_t until = ue_monotonic() + apr_time_from_sec(5);
    unsigned least = unit_loops(20), done = 0;

    while (done < least || ue_monotonic() < until) {
        spool_seed = wanted ? strtoull(wanted, NULL, 0)
                            : (uint64_t)sinks * 1000000 + done;
        run_schedule(spool_seed, sinks);
        done++;
    }
    spool_seed = 0;
    if (getenv("UNIT_LOG")) {
        print_message("%u schedules\n", done);
    }
}

static void test_model_of_a_topic(void **state)
{
    run_schedules(WITH_TOPIC);
}

static void test_model_of_a_topic_beside_a_file(void **state)
{
    run_schedules(WITH_TOPIC | WITH_FILE);
}

static void test_model_of_a_file(void **state)
{
    run_schedules(WITH_FILE);
}

static const struct CMUnitTest tests[] = {
    SPOOL_TEST(test_model_of_a_topic),
    SPOOL_TEST(test_model_of_a_topic_beside_a_file),
    SPOOL_TEST(test_model_of_a_file),
};

UNIT_MAIN(tests)
