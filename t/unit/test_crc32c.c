/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * CRC-32C: the examples of RFC 3720, the processor's instruction against the
 * table, both against the plainest reckoning, and a sum that is made in pieces.
 */
#include "unit.h"

#include <pthread.h>

#include "crc32c.h"

/* One bit at a time. */
static uint32_t plainest(uint32_t crc, const uint8_t *s, size_t len)
{
    crc = ~crc;
    while (len-- > 0) {
        crc ^= *s++;
        for (int i = 0; i < 8; i++) {
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
        }
    }
    return ~crc;
}

static void check(const void *data, size_t len, uint32_t want)
{
    assert_int_equal(ue_crc32c(0, data, len), want);
    assert_int_equal(ue_crc32c_table(0, data, len), want);
    assert_int_equal(plainest(0, data, len), want);
}

/* RFC 3720, appendix B.4, which gives the bytes of the sum from the lowest. */
static void test_crc32c_is_that_of_rfc_3720(void **state)
{
    static const uint8_t read_command[48] = {
        0x01, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,    0, 0, 0, 0,
        0x14, 0,    0, 0, 0, 0, 4, 0, 0, 0, 0, 0x14, 0, 0, 0, 0x18,
        0x28, 0,    0, 0, 0, 0, 0, 0, 2, 0, 0, 0,    0, 0, 0, 0};
    uint8_t data[32];

    memset(data, 0, sizeof(data));
    check(data, sizeof(data), 0x8a9136aa);
    memset(data, 0xff, sizeof(data));
    check(data, sizeof(data), 0x62a8ab43);
    for (int i = 0; i < 32; i++) {
        data[i] = (uint8_t)i;
    }
    check(data, sizeof(data), 0x46dd794e);
    for (int i = 0; i < 32; i++) {
        data[i] = (uint8_t)(31 - i);
    }
    check(data, sizeof(data), 0x113fdb5c);
    check(read_command, sizeof(read_command), 0xd9963a56);
    check("123456789", 9, 0xe3069283);
    check("", 0, 0);
}

/* Every length up to 300 at every distance from a word, with memory of just
 * that size behind it. */
static void test_crc32c_is_the_same_with_and_without_the_processor(void **state)
{
    uint64_t seed = 3;

    for (size_t align = 0; align < 16; align++) {
        for (size_t len = 0; len <= 300; len++) {
            uint8_t *all = malloc(align + len + !len);
            uint32_t crc = (uint32_t)unit_random(&seed);
            uint8_t *data = all + align;

            assert_non_null(all);
            for (size_t i = 0; i < len; i++) {
                data[i] = (uint8_t)unit_random(&seed);
            }
            assert_int_equal(ue_crc32c(crc, data, len),
                             plainest(crc, data, len));
            assert_int_equal(ue_crc32c_table(crc, data, len),
                             plainest(crc, data, len));
            free(all);
        }
    }
}

static void test_crc32c_goes_on_where_it_stopped(void **state)
{
    uint8_t data[300];
    uint64_t seed = 4;
    uint32_t whole;

    for (size_t i = 0; i < sizeof(data); i++) {
        data[i] = (uint8_t)unit_random(&seed);
    }
    whole = ue_crc32c(7, data, sizeof(data));
    for (size_t at = 0; at <= sizeof(data); at++) {
        uint32_t crc = ue_crc32c(7, data, at);

        assert_int_equal(ue_crc32c(crc, data + at, sizeof(data) - at), whole);
        crc = ue_crc32c_table(7, data, at);
        assert_int_equal(ue_crc32c_table(crc, data + at, sizeof(data) - at),
                         whole);
    }
}

/* Which of the two is used is found out by the first who asks. */
static void *ask(void *baton)
{
    *(uint32_t *)baton = ue_crc32c(0, "123456789", 9);
    return NULL;
}

static void test_crc32c_may_be_asked_by_many_threads(void **state)
{
    pthread_t threads[8];
    uint32_t crc[8];

    for (int i = 0; i < 8; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, ask, &crc[i]), 0);
    }
    for (int i = 0; i < 8; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(crc[i], 0xe3069283);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crc32c_may_be_asked_by_many_threads),
        cmocka_unit_test(test_crc32c_is_that_of_rfc_3720),
        cmocka_unit_test(
            test_crc32c_is_the_same_with_and_without_the_processor),
        cmocka_unit_test(test_crc32c_goes_on_where_it_stopped),
    };

    return cmocka_run_group_tests_name("crc32c", tests, NULL, NULL);
}
