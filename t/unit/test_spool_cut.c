/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * Files that are shorter than they were: a disk that was full, a copy that
 * broke off, a file system that was repaired. What is left whole is sent, and
 * nobody dies of SIGBUS; what its numbers were nobody knows, so it goes under
 * the numbers of who takes over, and the stream is unclean.
 */
#include "unit_spool_image.h"

#define COPIES 20

static const ue_producer_config_t *small_config(void)
{
    static ue_producer_config_t config;

    config = spool_config;
    config.spool_most = 420000;
    return &config;
}

/** A process's life: some events are stored, some wait, some are open. */
static void leave_some(void)
{
    ue_producer_t *p = child_producer(small_config(), WITH_TOPIC, 1);

    await_slots(p);
    put_events(p, 100, 0);
    await_settled(p);
    atomic_store(&book->away, 1);
    put_events(p, 150, 8);
    raise(SIGKILL);
}

static void make_image(image_t *image)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        leave_some();
    }
    assert_int_equal(ended(pid), -1);
    atomic_store(&book->away, 0);
    take_image(image);
    assert_true(image->segments > 1);
    wipe_spool();
    forget_stored();
}

/** How the copies were cut, and what must come of it. */
typedef struct {
    size_t length[SEGMENTS_MAX]; /* of each segment */
    uint16_t expected[1000];     /* by event, in how many copies it is whole */
    uint16_t maybe[1000];        /* or so, but for what it doesn't use */
    unsigned all;
} cut_t;

/** Count an event whose slots are all there. */
static void expect_whole(void *baton, const image_t *image,
                         const ue_first_t *slot, ue_slot_proof_t proof,
                         ue_slot_ref_t ref)
{
    cut_t *cut = baton;
    ue_slot_ref_t link = ue_slot_link(slot);
    uint32_t place = place_of(slot);
    int is_maybe = 0;

    assert_true(place < UNIT_COUNT(cut->expected));
    while (ref) {
        size_t offset = 0;
        int i = find_slot(image, ref, &offset);
        const ue_further_t *further;

        /* A head that is cut off takes all of its segment with it. */
        if (i < 0 || cut->length[i] < UE_SEGMENT_HEAD
            || offset >= cut->length[i]) {
            return;
        }
        is_maybe |= offset + UE_SLOT_SIZE > cut->length[i];
        ref = link;
        if (link) {
            i = find_slot(image, link, &offset);
            further = (const void *)(image->segment[i].bytes + offset);
            link = further->next;
        }
    }
    cut->expected[place] += !is_maybe;
    cut->maybe[place] += is_maybe;
    cut->all++;
}

/** Write one more copy, and cut one of its segments. */
static void write_cut(const image_t *image, unsigned n, cut_t *cut,
                      size_t length, int holes)
{
    ue_stream_t id;
    image_t copy;
    char path[300], end[30];
    unsigned which = n % image->segments;

    memset(&id, (int)(n + 1), sizeof(id));
    copy_image(&copy, image);
    rename_image(&copy, &id, NULL);
    write_image(&copy, &id);
    for (unsigned i = 0; i < image->segments; i++) {
        cut->length[i] = image->segment[i].size;
    }
    length %= image->segment[which].size;
    cut->length[which] = length;
    snprintf(end, sizeof(end), ".%04u.slots", which + 1);
    name_of(path, sizeof(path), &id, end);
    assert_int_equal(truncate(path, (off_t)length), 0);
    if (holes) {
        assert_int_equal(truncate(path, (off_t)image->segment[which].size), 0);
    }
    each_slot(&copy, expect_whole, cut);
    free_image(&copy);
}

/** Each event is stored as often as it was left whole, and right. */
static void check_counts(const cut_t *cut)
{
    uint16_t there[1000] = {0};
    uint32_t count;
    uint32_t *order = sorted_topic(&count);

    for (uint32_t i = 0; i < count; i++) {
        const stored_t *s = &book->stored[order[i]];
        int is = which_event(s);

        if (i && same_lane(s, &book->stored[order[i - 1]])
            && s->number == book->stored[order[i - 1]].number) {
            fail_msg("a number was given twice");
        }
        assert_true(s->event < UNIT_COUNT(there));
        assert_int_equal(is, book->said[s->event].complete ? 1 : 2);
        there[s->event]++;
    }
    for (unsigned i = 0; i < UNIT_COUNT(there); i++) {
        if (there[i] < cut->expected[i]
            || there[i] > cut->expected[i] + cut->maybe[i]) {
            fail_msg("event %u: left whole in %u copies, stored %u times", i,
                     cut->expected[i], there[i]);
        }
    }
    free(order);
}

/** @param holes as long as before, but empty from there on */
static void cut_segments(int holes)
{
    image_t image;
    uint64_t seed = 4711;
    unsigned page = 0;

    make_image(&image);
    for (unsigned round = 0; round < unit_loops(12) / 2 + 1; round++) {
        static cut_t cut;

        memset(&cut, 0, sizeof(cut));
        for (unsigned n = 0; n < COPIES; n++) {
            write_cut(&image, n, &cut,
                      n % 2 ? (size_t)roll_of(&seed, 1 << 30)
                            : (size_t)page++ * 4096,
                      holes);
        }
        assert_true(cut.all > 100);
        adopt_copies(COPIES);
        check_counts(&cut);
        if (!holes) {
            check_unclean(COPIES, "\"state\":\"unclean\"");
        }
        forget_stored();
        wipe_spool();
    }
    free_image(&image);
}

static void test_cut_segments_give_what_is_whole(void **state)
{
    cut_segments(0);
}

static void test_holes_in_segments_give_what_is_whole(void **state)
{
    cut_segments(1);
}

/** Cut the account, at a length that leaves one copy of its identity. */
static void cut_account(const image_t *image, unsigned n, size_t length)
{
    ue_stream_t id;
    image_t copy;
    char path[300];

    memset(&id, (int)(n + 1), sizeof(id));
    copy_image(&copy, image);
    rename_image(&copy, &id, NULL);
    write_image(&copy, &id);
    name_of(path, sizeof(path), &id, ".stream");
    assert_int_equal(truncate(path, (off_t)length), 0);
    free_image(&copy);
}

static void test_cut_accounts_give_all_events(void **state)
{
    static cut_t cut;
    image_t image;
    uint64_t seed = 815;

    make_image(&image);
    for (unsigned round = 0; round < unit_loops(6) / 2 + 1; round++) {
        memset(&cut, 0, sizeof(cut));
        for (unsigned n = 0; n < COPIES; n++) {
            size_t least = sizeof(ue_identity_t);
            size_t length =
                n ? least
                        + roll_of(&seed, sizeof(ue_account_t) - (unsigned)least)
                  : least;

            cut_account(&image, n, n % 4 == 1 ? (n + 3) / 4 * 4096 : length);
            for (unsigned i = 0; i < image.segments; i++) {
                cut.length[i] = image.segment[i].size;
            }
            each_slot(&image, expect_whole, &cut);
        }
        adopt_copies(COPIES);
        check_counts(&cut);
        check_unclean(COPIES, "\"state\":\"unclean\"");
        forget_stored();
        wipe_spool();
    }
    free_image(&image);
}

/* Whose it was, nobody can tell: it stays, for people to look at. */
static void test_account_without_identity_stays(void **state)
{
    const apr_array_header_t *before;
    image_t image;
    pid_t pid;

    make_image(&image);
    cut_account(&image, 0, sizeof(ue_identity_t) - 1);
    cut_account(&image, 1, 0);
    before = list_spool();
    atomic_store(&book->stop, 0);
    pid = start_adopter(&spool_config, WITH_TOPIC, 1);
    apr_sleep(apr_time_from_msec(300));
    atomic_store(&book->stop, 1);
    assert_int_equal(ended(pid), 0);
    for (int i = 0; i < before->nelts; i++) {
        char path[300];

        snprintf(path, sizeof(path), "%s/%s", spool_dir,
                 APR_ARRAY_IDX(before, i, ue_spool_entry_t).name);
        assert_int_equal(access(path, F_OK), 0);
    }
    assert_int_equal(book->stored_count, 0);
    free_image(&image);
}

static const struct CMUnitTest tests[] = {
    SPOOL_TEST(test_cut_segments_give_what_is_whole),
    SPOOL_TEST(test_holes_in_segments_give_what_is_whole),
    SPOOL_TEST(test_cut_accounts_give_all_events),
    SPOOL_TEST(test_account_without_identity_stays),
};

UNIT_MAIN(tests)
