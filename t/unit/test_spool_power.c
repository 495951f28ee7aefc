/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * The spool after a power cut: each page of its files is as it was at the last
 * sync, or as it was at some moment since, and the machine has another boot id.
 * No event that was complete at the sync is missing in the topic then; what is
 * stored is right; and numbers begin anew, under another stream.
 *
 * A process is stopped twice and more, and its files are read each time. From
 * that come many machines that the power might have left.
 */
#include "unit_spool_image.h"

#define COPIES 20
#define LOOKS 4 /* the first is the sync */

/** A process's life. */
static void live_small(uint64_t seed)
{
    ue_producer_config_t config = spool_config;
    pthread_t thread;

    config.spool_most = 420000;
    producer = child_producer(&config, WITH_TOPIC, seed);
    atomic_store(&next_seed, seed);
    await_slots(producer);
    for (int i = 0; i < 4; i++) {
        if (pthread_create(&thread, NULL, serve, NULL) != 0) {
            unit_exit(4);
        }
    }
    atomic_store(&book->ready, 1);
    for (;;) {
        pause();
    }
}

/** What was read of a process. */
typedef struct {
    image_t image[LOOKS];
    uint8_t complete[BOOK_EVENTS]; /* at the sync */
    uint8_t stored[BOOK_EVENTS];   /* before the power went */
    unsigned at_stake;             /* complete, and not stored */
} looks_t;

static looks_t looks;

static void look(pid_t pid, unsigned n)
{
    int status;

    assert_int_equal(kill(pid, SIGSTOP), 0);
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status));
    take_image(&looks.image[n]);
    for (uint32_t i = 0; n == 0 && i < BOOK_EVENTS; i++) {
        looks.complete[i] = atomic_load(&book->said[i].complete);
    }
    assert_int_equal(kill(pid, n + 1 < LOOKS ? SIGCONT : SIGKILL), 0);
}

/** Note what the topic has when the power goes. */
static void note_stored(void)
{
    memset(looks.stored, 0, sizeof(looks.stored));
    for (uint32_t i = 0; i < book->stored_count; i++) {
        if (book->stored[i].good) {
            looks.stored[book->stored[i].event % BOOK_EVENTS] = 1;
        }
    }
    for (uint32_t i = looks.at_stake = 0; i < BOOK_EVENTS; i++) {
        looks.at_stake += looks.complete[i] && !looks.stored[i];
    }
}

/** Have a process live, and look at its files meanwhile. */
static void live_and_look(uint64_t *seed)
{
    apr_time_t until = ue_monotonic() + apr_time_from_sec(20);
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        live_small(unit_random(seed) >> 8);
    }
    while (!atomic_load(&book->ready) && ue_monotonic() < until) {
        apr_sleep(200);
    }
    assert_int_equal(atomic_load(&book->ready), 1);
    apr_sleep(3000 + roll_of(seed, 20000));
    for (unsigned n = 0; n < LOOKS; n++) {
        look(pid, n);
        apr_sleep(roll_of(seed, n % 2 ? 10000 : 1000));
    }
    assert_int_equal(ended(pid), -1);
    note_stored();
}

/** Choose for each page the moment that it is of. */
static void mix_file(image_file_t *to, uint64_t *seed, size_t unit,
                     unsigned bias, const image_file_t *from[LOOKS])
{
    for (size_t at = 0; at < to->size; at += unit) {
        unsigned which =
            roll_of(seed, 100) < bias ? 0 : 1 + roll_of(seed, LOOKS - 1);
        size_t n = to->size - at < unit ? to->size - at : unit;

        memcpy(to->bytes + at, from[which]->bytes + at, n);
    }
}

/** A machine that the power might have left. */
static void write_machine(unsigned n, uint64_t *seed)
{
    static const ue_stream_t other_boot = {{1, 2, 3}};
    size_t unit = roll_of(seed, 2) ? 4096 : 512;
    unsigned bias = roll_of(seed, 101);
    const image_file_t *from[LOOKS];
    ue_stream_t id;
    image_t copy;

    copy_image(&copy, &looks.image[0]);
    for (unsigned k = 0; k < LOOKS; k++) {
        from[k] = &looks.image[k].account;
    }
    mix_file(&copy.account, seed, unit, bias, from);
    for (unsigned i = 0; i < copy.segments; i++) {
        for (unsigned k = 0; k < LOOKS; k++) {
            from[k] = &looks.image[k].segment[i];
        }
        mix_file(&copy.segment[i], seed, unit, bias, from);
    }
    memset(&id, (int)(n + 1), sizeof(id));
    rename_image(&copy, &id, &other_boot);
    write_image(&copy, &id);
    free_image(&copy);
}

/** Whoever removes repeats by request id and time has all, and right. */
static void check_topic(void)
{
    uint16_t *there = calloc(BOOK_EVENTS, sizeof(*there));
    uint32_t count;
    uint32_t *order = sorted_topic(&count);

    assert_non_null(there);
    for (uint32_t i = 0; i < count; i++) {
        const stored_t *s = &book->stored[order[i]];
        int is = s->event < BOOK_EVENTS ? which_event(s) : 0;

        if (!is || (is == 2 && looks.complete[s->event])) {
            fail_msg("event %u is wrong: %d", s->event, is);
        }
        if (i && same_lane(s, &book->stored[order[i - 1]])
            && s->number == book->stored[order[i - 1]].number) {
            fail_msg("a number was given twice");
        }
        /* The copies' ids are one byte, again and again. */
        assert_true(memcmp(s->stream.b, s->stream.b + 1, 15) != 0);
        there[s->event]++;
    }
    for (uint32_t i = 0; i < BOOK_EVENTS; i++) {
        if ((looks.complete[i] && !looks.stored[i] && there[i] != COPIES)
            || there[i] > COPIES) {
            fail_msg("event %u: stored %u times, by %d machines", i, there[i],
                     COPIES);
        }
    }
    free(there);
    free(order);
}

static void check_states(void)
{
    for (unsigned n = 0; n < COPIES; n++) {
        char key[UE_STREAM_HEX + 1];
        const noted_t *note;
        ue_stream_t id;

        memset(&id, (int)(n + 1), sizeof(id));
        note = last_note(ue_stream_format(&id, key));
        if (!note || !strstr(note->json, "\"state\":\"unclean\"")
            || !strstr(note->json, "\"waiting\":0,")) {
            fail_msg("stream %s: %s", key, note ? note->json : "nothing");
        }
    }
}

/** One process, and what the power makes of it. @return events that were at
 * stake */
static unsigned run_cuts(uint64_t seed)
{
    new_book();
    atomic_store(&book->lanes, 4);
    atomic_store(&book->loyal, 1);
    /* Some organizations' events wait, the others' slots are used again. */
    atomic_store(&book->stuck, 1u << roll_of(&seed, 5));
    atomic_store(&book->faults, (int)roll_of(&seed, 2));
    live_and_look(&seed);
    atomic_store(&book->stuck, 0);
    atomic_store(&book->faults, 0);
    wipe_spool();
    forget_stored();
    for (unsigned n = 0; n < COPIES; n++) {
        write_machine(n, &seed);
    }
    adopt_copies(COPIES);
    check_topic();
    check_states();
    for (unsigned k = 0; k < LOOKS; k++) {
        free_image(&looks.image[k]);
    }
    return looks.at_stake;
}

static void test_power_cut_loses_nothing_that_was_synced(void **state)
{
    const char *wanted = getenv("UNIT_SEED");
    unsigned runs = unit_loops(14) / 2 + 4;
    unsigned at_stake = 0;

    for (uint64_t i = 0; i < runs; i++) {
        spool_seed = wanted ? strtoull(wanted, NULL, 0) : 1000 + i;
        at_stake += run_cuts(spool_seed);
        wipe_spool();
    }
    /* It was no idle test. */
    assert_true(at_stake > runs);
    spool_seed = 0;
}

static const struct CMUnitTest tests[] = {
    SPOOL_TEST(test_power_cut_loses_nothing_that_was_synced),
};

UNIT_MAIN(tests)
