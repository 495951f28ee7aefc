/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_UNIT_JOURNAL_H
#define UE_UNIT_JOURNAL_H

/**
 * What the tests of the journal share: a journal of the smallest size for each
 * test, and the ways to use a slot and to count the free ones.
 */
#include "unit.h"

#include "journal.h"

#define SLOTS UE_JOURNAL_SLOTS_MIN
#define BIT(state) (1u << (state))

static apr_pool_t *pool;
static ue_journal_t *journal;

static inline int set_up(void **state)
{
    if (apr_pool_create(&pool, NULL) != APR_SUCCESS) {
        return -1;
    }
    return ue_journal_create(&journal, SLOTS, pool) == APR_SUCCESS ? 0 : -1;
}

static inline int tear_down(void **state)
{
    apr_pool_destroy(pool);
    return 0;
}

static inline ue_admission_t admission(const char *method, const char *endpoint,
                                       size_t endpoint_len)
{
    ue_admission_t a = {.request_id = {{1, 2, 3}},
                        .organization_id = {{4, 5, 6}},
                        .api_key_id = {{7, 8, 9}},
                        .timestamp = 1790000000123456,
                        .method = method,
                        .method_len = strlen(method),
                        .endpoint = endpoint,
                        .endpoint_len = endpoint_len};

    return a;
}

static const ue_completion_t completion = {
    .response_time_ms = 4711, .status_code = 201, .billable = 1};

static inline ue_slot_ref_t admit(const char *method, const char *endpoint)
{
    ue_admission_t a = admission(method, endpoint, strlen(endpoint));
    ue_slot_ref_t ref = 0;

    assert_int_equal(ue_journal_admit(journal, &a, &ref), APR_SUCCESS);
    assert_in_range(ref, 1, SLOTS);
    assert_int_equal(ue_journal_state(journal, ref), UE_SLOT_ADMITTED);
    return ref;
}

static inline void finish(ue_slot_ref_t ref)
{
    assert_int_equal(ue_journal_complete(journal, ref, &completion),
                     APR_SUCCESS);
    assert_true(ue_journal_list(journal, ref, BIT(UE_SLOT_COMPLETE)));
    ue_journal_release(journal, ref);
}

/* Take every free slot, see that none comes twice, and give them back.
 * @return how many there were */
static inline uint32_t count_free(ue_journal_t *j, uint32_t slots)
{
    ue_slot_ref_t *refs = calloc(slots + 1, sizeof(*refs));
    char *seen = calloc(slots + 1, 1);
    uint32_t n = 0;
    ue_admission_t a = admission("GET", "/", 1);

    assert_non_null(refs);
    assert_non_null(seen);
    while (ue_journal_admit(j, &a, &refs[n]) == APR_SUCCESS) {
        assert_in_range(refs[n], 1, slots);
        assert_false(seen[refs[n]]);
        seen[refs[n++]] = 1;
    }
    assert_true(ue_journal_is_full(j));
    for (uint32_t i = 0; i < n; i++) {
        assert_true(ue_journal_interrupt(j, refs[i]));
        ue_journal_release(j, refs[i]);
    }
    free(refs);
    free(seen);
    return n;
}

static inline void check_all_free(void)
{
    for (ue_slot_ref_t ref = 1; ref <= SLOTS; ref++) {
        assert_int_equal(ue_journal_state(journal, ref), UE_SLOT_FREE);
    }
    assert_int_equal(count_free(journal, SLOTS), SLOTS);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

#endif /* UE_UNIT_JOURNAL_H */
