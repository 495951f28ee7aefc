/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * The journal: a slot goes through its states in their order and no other, what
 * was written comes back whole from one slot or several, and an event takes all
 * the slots that it needs or none.
 */
#include "unit_journal.h"

/* ---- a slot's life ---- */

static void test_journal_refuses_a_size_it_cannot_have(void **state)
{
    ue_journal_t *j;

    assert_int_equal(ue_journal_create(&j, 0, pool), APR_EINVAL);
    assert_int_equal(ue_journal_create(&j, UE_JOURNAL_SLOTS_MIN - 1, pool),
                     APR_EINVAL);
    assert_int_equal(ue_journal_create(&j, UE_JOURNAL_SLOTS_MAX + 1, pool),
                     APR_EINVAL);
    assert_int_equal(ue_journal_create(&j, UINT32_MAX, pool), APR_EINVAL);
    assert_int_equal(ue_journal_slots(journal), SLOTS);
}

static void test_journal_slot_goes_through_its_states(void **state)
{
    ue_slot_ref_t ref = admit("GET", "/");

    assert_int_equal(ue_journal_complete(journal, ref, &completion),
                     APR_SUCCESS);
    assert_int_equal(ue_journal_state(journal, ref), UE_SLOT_COMPLETE);
    assert_true(ue_journal_list(journal, ref, BIT(UE_SLOT_COMPLETE)));
    assert_int_equal(ue_journal_state(journal, ref), UE_SLOT_LISTED);
    ue_journal_release(journal, ref);
    assert_int_equal(ue_journal_state(journal, ref), UE_SLOT_FREE);
    check_all_free();
}

static void test_journal_slot_may_be_stranded_before_it_is_listed(void **state)
{
    ue_slot_ref_t ref = admit("GET", "/");

    assert_int_equal(ue_journal_complete(journal, ref, &completion),
                     APR_SUCCESS);
    ue_journal_strand(journal, ref);
    assert_int_equal(ue_journal_state(journal, ref), UE_SLOT_STRANDED);
    assert_false(ue_journal_list(journal, ref, BIT(UE_SLOT_COMPLETE)));
    assert_true(ue_journal_list(journal, ref,
                                BIT(UE_SLOT_COMPLETE) | BIT(UE_SLOT_STRANDED)));
    ue_journal_release(journal, ref);
    check_all_free();
}

static void test_journal_strands_only_what_is_complete(void **state)
{
    ue_slot_ref_t ref = admit("GET", "/");

    ue_journal_strand(journal, ref);
    assert_int_equal(ue_journal_state(journal, ref), UE_SLOT_ADMITTED);
    assert_int_equal(ue_journal_complete(journal, ref, &completion),
                     APR_SUCCESS);
    assert_true(ue_journal_list(journal, ref, BIT(UE_SLOT_COMPLETE)));
    ue_journal_strand(journal, ref);
    assert_int_equal(ue_journal_state(journal, ref), UE_SLOT_LISTED);
}

static void test_journal_lists_a_slot_once(void **state)
{
    ue_slot_ref_t ref = admit("GET", "/");

    assert_false(ue_journal_list(journal, ref, BIT(UE_SLOT_COMPLETE)));
    assert_int_equal(ue_journal_state(journal, ref), UE_SLOT_ADMITTED);
    assert_int_equal(ue_journal_complete(journal, ref, &completion),
                     APR_SUCCESS);
    assert_false(ue_journal_list(journal, ref, BIT(UE_SLOT_STRANDED)));
    assert_true(ue_journal_list(journal, ref, BIT(UE_SLOT_COMPLETE)));
    assert_false(ue_journal_list(journal, ref, BIT(UE_SLOT_COMPLETE)));
}

static void test_journal_completes_a_slot_once(void **state)
{
    static const ue_completion_t other = {1, 500, 0};
    char buf[UE_ENDPOINT_MAX + UE_METHOD_MAX];
    ue_slot_ref_t ref = admit("GET", "/");
    ue_event_t event;

    assert_int_equal(ue_journal_complete(journal, ref, &completion),
                     APR_SUCCESS);
    assert_int_equal(ue_journal_complete(journal, ref, &other), APR_EBUSY);
    assert_false(ue_journal_interrupt(journal, ref));
    assert_true(ue_journal_list(journal, ref, BIT(UE_SLOT_COMPLETE)));
    assert_int_equal(ue_journal_complete(journal, ref, &other), APR_EBUSY);
    ue_journal_read(journal, ref, &event, buf);
    assert_int_equal(event.status_code, 201);
    ue_journal_release(journal, ref);
    assert_int_equal(ue_journal_complete(journal, ref, &other), APR_EBUSY);
    assert_int_equal(ue_journal_state(journal, ref), UE_SLOT_FREE);
}

static void test_journal_interrupted_request_has_status_0(void **state)
{
    char buf[UE_ENDPOINT_MAX + UE_METHOD_MAX];
    ue_slot_ref_t ref = admit("GET", "/slow");
    ue_slot_ref_t again;
    ue_event_t event;

    /* The slot held another event before. */
    finish(ref);
    again = admit("GET", "/slow");
    assert_int_equal(again, ref);
    assert_true(ue_journal_interrupt(journal, ref));
    assert_int_equal(ue_journal_state(journal, ref), UE_SLOT_LISTED);
    ue_journal_read(journal, ref, &event, buf);
    assert_int_equal(event.status_code, 0);
    assert_int_equal(event.response_time_ms, 0);
    assert_int_equal(event.billable, 0);
    assert_int_equal(event.timestamp, 1790000000123456);
    assert_memory_equal(event.endpoint, "/slow", 5);
    assert_false(ue_journal_interrupt(journal, ref));
    assert_int_equal(ue_journal_complete(journal, ref, &completion), APR_EBUSY);
}

/* ---- numbers ---- */

static ue_slot_ref_t listed(void)
{
    ue_slot_ref_t ref = admit("GET", "/");

    assert_int_equal(ue_journal_complete(journal, ref, &completion),
                     APR_SUCCESS);
    assert_true(ue_journal_list(journal, ref, BIT(UE_SLOT_COMPLETE)));
    return ref;
}

static void test_journal_keeps_the_number_of_what_is_sent(void **state)
{
    const uint64_t largest = UINT64_C(0xfedcba9876543210);
    ue_slot_ref_t ref = listed();

    assert_int_equal(ue_journal_number(journal, ref), 0);
    ue_journal_send(journal, ref, 7, largest);
    assert_int_equal(ue_journal_state(journal, ref), UE_SLOT_SENT);
    assert_true(ue_journal_number(journal, ref) == largest);
    /* it comes back, and goes again */
    ue_journal_unsend(journal, ref);
    assert_int_equal(ue_journal_state(journal, ref), UE_SLOT_LISTED);
    assert_true(ue_journal_number(journal, ref) == largest);
    ue_journal_unsend(journal, ref);
    assert_int_equal(ue_journal_state(journal, ref), UE_SLOT_LISTED);
    ue_journal_send(journal, ref, 7, largest);
    ue_journal_send(journal, ref, 7, largest);
    assert_int_equal(ue_journal_state(journal, ref), UE_SLOT_SENT);
    assert_true(ue_journal_number(journal, ref) == largest);
    ue_journal_release(journal, ref);
    check_all_free();
}

static void test_journal_forgets_a_number(void **state)
{
    ue_slot_ref_t ref = listed();
    ue_slot_ref_t other = listed();

    ue_journal_send(journal, ref, 7, 41);
    ue_journal_send(journal, other, 7, 42);
    ue_journal_unsend(journal, ref);
    ue_journal_forget(journal, ref);
    assert_int_equal(ue_journal_number(journal, ref), 0);
    assert_int_equal(ue_journal_state(journal, ref), UE_SLOT_LISTED);
    assert_int_equal(ue_journal_number(journal, other), 42);
    ue_journal_release(journal, ref);
    ue_journal_release(journal, other);
    /* nor has the next in a slot the last one's number */
    assert_int_equal(admit("GET", "/"), other);
    assert_int_equal(ue_journal_number(journal, other), 0);
}

/* What is sent is the worker's and the closing thread's: nobody lists it again,
 * completes it or takes it for interrupted. */
static void test_journal_sent_slot_is_nobody_elses(void **state)
{
    ue_slot_ref_t ref = listed();

    ue_journal_send(journal, ref, 0, 1);
    assert_false(ue_journal_list(
        journal, ref, BIT(UE_SLOT_COMPLETE) | BIT(UE_SLOT_STRANDED)));
    assert_false(ue_journal_interrupt(journal, ref));
    assert_int_equal(ue_journal_complete(journal, ref, &completion), APR_EBUSY);
    ue_journal_strand(journal, ref);
    assert_int_equal(ue_journal_state(journal, ref), UE_SLOT_SENT);
    assert_false(ue_journal_settle(journal, ref, BIT(UE_SLOT_LISTED)));
    assert_true(ue_journal_settle(journal, ref, BIT(UE_SLOT_SENT)));
    assert_false(ue_journal_settle(journal, ref,
                                   BIT(UE_SLOT_LISTED) | BIT(UE_SLOT_SENT)));
    assert_int_equal(ue_journal_state(journal, ref), UE_SLOT_FREE);
}

/* Once it was written off, a worker that comes too late changes nothing. */
static void test_journal_written_off_slot_stays_so(void **state)
{
    static const unsigned from[] = {BIT(UE_SLOT_LISTED), BIT(UE_SLOT_SENT)};

    for (size_t i = 0; i < UNIT_COUNT(from); i++) {
        ue_slot_ref_t ref = listed();

        if (i == 1) {
            ue_journal_send(journal, ref, 3, 5);
        }
        assert_true(ue_journal_settle(journal, ref, from[i]));
        ue_journal_send(journal, ref, 3, 5);
        assert_int_equal(ue_journal_state(journal, ref), UE_SLOT_FREE);
        ue_journal_unsend(journal, ref);
        ue_journal_forget(journal, ref);
        assert_int_equal(ue_journal_state(journal, ref), UE_SLOT_FREE);
        assert_false(ue_journal_settle(
            journal, ref, BIT(UE_SLOT_LISTED) | BIT(UE_SLOT_SENT)));
    }
}

/* ---- what is in it ---- */

static void check_event(ue_slot_ref_t ref, const ue_admission_t *a,
                        uint8_t billable)
{
    char *buf = malloc(UE_ENDPOINT_MAX + UE_METHOD_MAX);
    char *text = malloc(UE_ENDPOINT_MAX);
    ue_event_t event;
    size_t len;

    assert_non_null(buf);
    assert_non_null(text);
    memset(&event, 0xee, sizeof(event));
    ue_journal_read(journal, ref, &event, buf);
    assert_true(ue_uuid_equal(&event.request_id, &a->request_id));
    assert_true(ue_uuid_equal(&event.organization_id, &a->organization_id));
    assert_true(ue_uuid_equal(&event.api_key_id, &a->api_key_id));
    assert_true(ue_uuid_equal(ue_journal_organization(journal, ref),
                              &a->organization_id));
    assert_int_equal(event.timestamp, a->timestamp);
    assert_int_equal(event.response_time_ms, completion.response_time_ms);
    assert_int_equal(event.status_code, completion.status_code);
    assert_int_equal(event.billable, billable);
    len = ue_utf8_clean(text, UE_METHOD_MAX, a->method, a->method_len);
    assert_int_equal(event.method_len, len);
    assert_memory_equal(event.method, text, len);
    len = ue_utf8_clean(text, UE_ENDPOINT_MAX, a->endpoint, a->endpoint_len);
    assert_int_equal(event.endpoint_len, len);
    assert_memory_equal(event.endpoint, text, len);
    free(text);
    free(buf);
}

/* Admit, complete, list, read, release; nothing is left behind. */
static void check_round(const ue_admission_t *a, uint8_t billable)
{
    ue_completion_t c = completion;
    ue_slot_ref_t ref;

    c.billable = billable;
    assert_int_equal(ue_journal_admit(journal, a, &ref), APR_SUCCESS);
    assert_int_equal(ue_journal_complete(journal, ref, &c), APR_SUCCESS);
    assert_true(ue_journal_list(journal, ref, BIT(UE_SLOT_COMPLETE)));
    check_event(ref, a, billable);
    ue_journal_release(journal, ref);
}

static void test_journal_gives_back_every_method(void **state)
{
    static const char *const methods[] = {
        "GET",      "HEAD",     "POST",
        "PUT",      "DELETE",   "PATCH",
        "OPTIONS",  "CONNECT",  "TRACE",
        "PROPFIND", "get",      "GETX",
        "GE",       "",         "M-SEARCH",
        "BREW\xff", "\x01\"\\", "VERSION-CONTROL"};
    char longest[201];

    for (size_t i = 0; i < UNIT_COUNT(methods); i++) {
        ue_admission_t a = admission(methods[i], "/v1", 3);

        check_round(&a, 1);
        /* an unknown one shares its place with the endpoint */
        a = admission(methods[i], longest, sizeof(longest) - 1);
        memset(longest, 'e', sizeof(longest));
        check_round(&a, 0);
    }
    for (size_t len = 0; len < sizeof(longest); len++) {
        ue_admission_t a;

        memset(longest, 'M', len);
        longest[len] = '\0';
        a = admission(longest, "/v1/charge", 10);
        check_round(&a, 1);
    }
    check_all_free();
}

static void test_journal_gives_back_endpoints_of_all_lengths(void **state)
{
    static char endpoint[2200];
    size_t step = RUNNING_ON_VALGRIND ? 29 : 1;

    for (size_t i = 0; i < sizeof(endpoint); i++) {
        endpoint[i] = (char)('!' + i % 90);
    }
    for (size_t len = 0; len <= sizeof(endpoint); len += len < 300 ? 1 : step) {
        ue_admission_t a = admission("GET", endpoint, len);

        check_round(&a, 1);
        a = admission("UNKNOWN", endpoint, len);
        check_round(&a, 0);
    }
    check_all_free();
}

static void test_journal_cuts_an_endpoint_of_8000_bytes(void **state)
{
    static char endpoint[8000];
    ue_admission_t a = admission("GET", endpoint, sizeof(endpoint));
    char buf[UE_ENDPOINT_MAX + UE_METHOD_MAX];
    ue_slot_ref_t ref;
    ue_event_t event;

    for (size_t i = 0; i < sizeof(endpoint); i++) {
        endpoint[i] = (char)('a' + i % 26);
    }
    assert_int_equal(ue_journal_admit(journal, &a, &ref), APR_SUCCESS);
    assert_true(ue_journal_interrupt(journal, ref));
    ue_journal_read(journal, ref, &event, buf);
    assert_int_equal(event.endpoint_len, 2048);
    assert_memory_equal(event.endpoint, endpoint, 2045);
    assert_memory_equal(event.endpoint + 2045, "\xe2\x80\xa6", 3);
    ue_journal_release(journal, ref);
    check_all_free();
}

static void test_journal_makes_hostile_text_valid(void **state)
{
    uint64_t seed = 10;

    for (unsigned n = unit_loops(3000); n > 0; n--) {
        char endpoint[600];
        char method[100];
        size_t len = unit_random(&seed) % sizeof(endpoint);
        size_t method_len = unit_random(&seed) % sizeof(method);
        ue_admission_t a = admission("", endpoint, len);

        for (size_t i = 0; i < len; i++) {
            endpoint[i] = (char)unit_random(&seed);
        }
        for (size_t i = 0; i < method_len; i++) {
            method[i] = (char)unit_random(&seed);
        }
        a.method = method;
        a.method_len = method_len;
        check_round(&a, n & 1);
    }
    check_all_free();
}

static void test_journal_knows_when_a_response_ended(void **state)
{
    ue_slot_ref_t ref = admit("GET", "/");

    assert_int_equal(ue_journal_complete(journal, ref, &completion),
                     APR_SUCCESS);
    assert_true(ue_journal_list(journal, ref, BIT(UE_SLOT_COMPLETE)));
    assert_int_equal(ue_journal_ended(journal, ref),
                     1790000000123456 + 4711000);
}

/* ---- room ---- */

static void test_journal_says_when_it_is_full(void **state)
{
    ue_admission_t a = admission("GET", "/", 1);
    ue_slot_ref_t refs[SLOTS];
    ue_slot_ref_t ref;

    for (int i = 0; i < SLOTS; i++) {
        assert_false(ue_journal_is_full(journal));
        refs[i] = admit("GET", "/");
    }
    assert_true(ue_journal_is_full(journal));
    assert_int_equal(ue_journal_admit(journal, &a, &ref), APR_EAGAIN);
    assert_int_equal(ref, 0);
    finish(refs[17]);
    assert_false(ue_journal_is_full(journal));
    assert_int_equal(admit("GET", "/"), refs[17]);
    for (int i = 0; i < SLOTS; i++) {
        finish(refs[i]);
    }
    check_all_free();
}

/* A long endpoint that finds some room, but not enough, takes none. */
static void test_journal_takes_all_slots_of_an_event_or_none(void **state)
{
    static char endpoint[2048];
    ue_admission_t a = admission("GET", endpoint, sizeof(endpoint));
    ue_slot_ref_t taken[SLOTS];
    ue_slot_ref_t ref;
    uint32_t needs;

    memset(endpoint, 'e', sizeof(endpoint));
    assert_int_equal(ue_journal_admit(journal, &a, &ref), APR_SUCCESS);
    needs = SLOTS - count_free(journal, SLOTS);
    assert_in_range(needs, 12, 13); /* 2048 in pieces of 176 */
    finish(ref);

    for (int n = 0; n < SLOTS; n++) {
        taken[n] = admit("GET", "/");
    }
    for (uint32_t room = 0; room <= needs; room++) {
        int enough = room == needs;

        assert_int_equal(ue_journal_admit(journal, &a, &ref),
                         enough ? APR_SUCCESS : APR_EAGAIN);
        if (enough) {
            finish(ref);
        }
        else {
            assert_int_equal(ref, 0);
        }
        /* what it had taken for a moment is free in name, too */
        for (ue_slot_ref_t r = 1; r <= SLOTS; r++) {
            assert_int_not_equal(ue_journal_state(journal, r), UE_SLOT_FURTHER);
        }
        assert_int_equal(count_free(journal, SLOTS), room);
        finish(taken[room]);
    }
    for (uint32_t i = needs + 1; i < SLOTS; i++) {
        finish(taken[i]);
    }
    check_all_free();
}

static void test_journal_names_the_slots_that_hold_more_text(void **state)
{
    static char endpoint[500];
    ue_admission_t a = admission("GET", endpoint, sizeof(endpoint));
    int further = 0;
    ue_slot_ref_t ref;

    memset(endpoint, 'e', sizeof(endpoint));
    assert_int_equal(ue_journal_admit(journal, &a, &ref), APR_SUCCESS);
    for (ue_slot_ref_t r = 1; r <= SLOTS; r++) {
        ue_slot_state_t s = ue_journal_state(journal, r);

        assert_int_equal(s == UE_SLOT_ADMITTED, r == ref);
        further += s == UE_SLOT_FURTHER;
        if (s == UE_SLOT_FURTHER) {
            /* whoever walks the slots leaves them alone */
            assert_false(ue_journal_interrupt(journal, r));
            assert_false(ue_journal_list(
                journal, r, BIT(UE_SLOT_COMPLETE) | BIT(UE_SLOT_STRANDED)));
        }
    }
    assert_int_equal(further, 3); /* 92 bytes in the first, 408 in 3 of 176 */
    finish(ref);
    check_all_free();
}

static const struct CMUnitTest tests[] = {
    TEST(test_journal_refuses_a_size_it_cannot_have),
    TEST(test_journal_slot_goes_through_its_states),
    TEST(test_journal_slot_may_be_stranded_before_it_is_listed),
    TEST(test_journal_strands_only_what_is_complete),
    TEST(test_journal_lists_a_slot_once),
    TEST(test_journal_completes_a_slot_once),
    TEST(test_journal_interrupted_request_has_status_0),
    TEST(test_journal_keeps_the_number_of_what_is_sent),
    TEST(test_journal_forgets_a_number),
    TEST(test_journal_sent_slot_is_nobody_elses),
    TEST(test_journal_written_off_slot_stays_so),
    TEST(test_journal_gives_back_every_method),
    TEST(test_journal_gives_back_endpoints_of_all_lengths),
    TEST(test_journal_cuts_an_endpoint_of_8000_bytes),
    TEST(test_journal_makes_hostile_text_valid),
    TEST(test_journal_knows_when_a_response_ended),
    TEST(test_journal_says_when_it_is_full),
    TEST(test_journal_takes_all_slots_of_an_event_or_none),
    TEST(test_journal_names_the_slots_that_hold_more_text),
};

UNIT_MAIN(tests)
