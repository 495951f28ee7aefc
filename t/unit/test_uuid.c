/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * UUIDs: their text form is the one of RFC 9562, and request ids of version 7
 * sort by time and never come twice, from any number of threads and from two
 * generators that were seeded apart.
 */
#include "unit.h"

#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <sys/random.h>
#include <sys/syscall.h>

#include "uuid.h"

static int compare(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(ue_uuid_t));
}

static void test_uuid_format_knows_rfc_9562_example(void **state)
{
    /* RFC 9562, appendix A.6 */
    static const ue_uuid_t id = {{0x01, 0x7f, 0x22, 0xe2, 0x79, 0xb0, 0x7c,
                                  0xc3, 0x98, 0xc4, 0xdc, 0x0c, 0x0c, 0x07,
                                  0x39, 0x8f}};
    static const char text[] = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";
    char to[UE_UUID_LEN + 1];
    char raw[UE_UUID_LEN + 1];
    ue_uuid_t read;

    assert_ptr_equal(ue_uuid_format(&id, to), to);
    assert_string_equal(to, text);
    raw[UE_UUID_LEN] = '#';
    assert_ptr_equal(ue_uuid_write(&id, raw), raw + UE_UUID_LEN);
    assert_memory_equal(raw, text, UE_UUID_LEN);
    assert_int_equal(raw[UE_UUID_LEN], '#');
    assert_int_equal(ue_uuid_parse(&read, text, UE_UUID_LEN), APR_SUCCESS);
    assert_true(ue_uuid_equal(&read, &id));
}

static void test_uuid_writes_every_byte_as_printf_does(void **state)
{
    for (int byte = 0; byte < 256; byte++) {
        ue_uuid_t id;
        char text[UE_UUID_LEN + 1];
        char want[UE_UUID_LEN + 1];
        char *p = want;

        for (int i = 0; i < 16; i++) {
            id.b[i] = (uint8_t)(byte + i * 17);
            p += sprintf(p, "%s%02x",
                         i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
                         id.b[i]);
        }
        assert_string_equal(ue_uuid_format(&id, text), want);
    }
}

static void test_uuid_round_trips_random_bytes_in_both_cases(void **state)
{
    uint64_t seed = 1;

    for (unsigned n = unit_loops(20000); n > 0; n--) {
        ue_uuid_t id;
        ue_uuid_t read;
        char text[UE_UUID_LEN + 1];

        for (int i = 0; i < 16; i++) {
            id.b[i] = (uint8_t)unit_random(&seed);
        }
        ue_uuid_format(&id, text);
        assert_int_equal(ue_uuid_parse(&read, text, UE_UUID_LEN), APR_SUCCESS);
        assert_true(ue_uuid_equal(&read, &id));
        for (char *p = text; *p; p++) {
            *p = (char)toupper((unsigned char)*p);
        }
        memset(&read, 0, sizeof(read));
        assert_int_equal(ue_uuid_parse(&read, text, UE_UUID_LEN), APR_SUCCESS);
        assert_true(ue_uuid_equal(&read, &id));
    }
}

static void test_uuid_parse_refuses_what_is_none(void **state)
{
    static const char *const bad[] = {
        "",
        "-",
        "017f22e2-79b0-7cc3-98c4-dc0c0c07398",    /* one short */
        "017f22e2-79b0-7cc3-98c4-dc0c0c07398f0",  /* one long */
        "017f22e279b07cc398c4dc0c0c07398f",       /* no hyphens */
        "{017f22e2-79b0-7cc3-98c4-dc0c0c07398f}", /* in braces */
        "017f22e2-79b0-7cc3-98c4-dc0c0c07398g",   /* no hex digit */
        "017f22e2-79b0-7cc3-98c4-dc0c0c0739 f",   /* a space */
        "017f22e2 79b0-7cc3-98c4-dc0c0c07398f",   /* no hyphen there */
        "017f22e2-79b0-7cc3-98c40dc0c0c07398f",   /* nor there */
        "017f22e27-9b0-7cc3-98c4-dc0c0c07398f",   /* hyphen elsewhere */
        "------------------------------------",
        "+17f22e2-79b0-7cc3-98c4-dc0c0c07398f",
        "0x7f22e2-79b0-7cc3-98c4-dc0c0c07398f",
    };
    ue_uuid_t id;
    ue_uuid_t before;

    memset(&id, 0x5a, sizeof(id));
    before = id;
    for (size_t i = 0; i < UNIT_COUNT(bad); i++) {
        assert_int_equal(ue_uuid_parse(&id, bad[i], strlen(bad[i])),
                         APR_EINVAL);
        /* What isn't read isn't half written either. */
        assert_true(ue_uuid_equal(&id, &before));
    }
}

/* Each of the 36 places takes only what belongs there. */
static void test_uuid_parse_judges_every_place(void **state)
{
    for (int place = 0; place < UE_UUID_LEN; place++) {
        for (int c = 0; c < 256; c++) {
            char text[] = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";
            int hyphen = text[place] == '-';
            int good = hyphen ? c == '-' : c < 128 && isxdigit(c);
            ue_uuid_t id;

            text[place] = (char)c;
            assert_int_equal(ue_uuid_parse(&id, text, UE_UUID_LEN),
                             good ? APR_SUCCESS : APR_EINVAL);
        }
    }
}

static void test_uuid_v7_holds_time_version_and_variant(void **state)
{
    static const apr_time_t times[] = {
        0,
        1,
        999,
        1000,
        1645557742000000, /* the RFC's example */
        1790000000123456,
        INT64_C(253402300799999999), /* the end of the year 9999 */
    };
    ue_uuidgen_t gen;

    assert_int_equal(ue_uuidgen_seed(&gen), APR_SUCCESS);
    for (size_t i = 0; i < UNIT_COUNT(times); i++) {
        uint64_t msec = 0;
        unsigned fraction;
        ue_uuid_t id;

        ue_uuid_v7(&id, &gen, times[i]);
        for (int k = 0; k < 6; k++) {
            msec = msec << 8 | id.b[k];
        }
        assert_int_equal(msec, times[i] / 1000);
        assert_int_equal(id.b[6] >> 4, 7);
        assert_int_equal(id.b[8] >> 6, 2);
        fraction = (id.b[6] & 0x0fu) << 8 | id.b[7];
        assert_int_equal(fraction, (unsigned)(times[i] % 1000) * 4096 / 1000);
    }
}

static void test_uuid_v7_takes_a_time_before_1970_as_1970(void **state)
{
    static const uint8_t zero[6];
    ue_uuidgen_t gen;
    ue_uuid_t id;

    assert_int_equal(ue_uuidgen_seed(&gen), APR_SUCCESS);
    ue_uuid_v7(&id, &gen, -1);
    assert_memory_equal(id.b, zero, sizeof(zero));
}

/* Any later microsecond sorts behind, as bytes and as text. */
static void test_uuid_v7_sorts_by_microsecond(void **state)
{
    ue_uuidgen_t gen;
    ue_uuid_t before;
    char text_before[UE_UUID_LEN + 1];
    apr_time_t when = 1790000000999000;

    assert_int_equal(ue_uuidgen_seed(&gen), APR_SUCCESS);
    ue_uuid_v7(&before, &gen, when++);
    ue_uuid_format(&before, text_before);
    for (unsigned n = unit_loops(20000); n > 0; n--, when++) {
        ue_uuid_t id;
        char text[UE_UUID_LEN + 1];

        ue_uuid_v7(&id, &gen, when);
        ue_uuid_format(&id, text);
        assert_true(compare(&before, &id) < 0);
        assert_true(strcmp(text_before, text) < 0);
        before = id;
        memcpy(text_before, text, sizeof(text));
    }
}

#define THREADS 8

typedef struct {
    ue_uuidgen_t *gen;
    ue_uuid_t *ids;
    unsigned count;
} job_t;

static void *make_ids(void *arg)
{
    job_t *job = arg;

    for (unsigned i = 0; i < job->count; i++) {
        /* all at one moment: only the random part tells them apart */
        ue_uuid_v7(&job->ids[i], job->gen, 1790000000000000);
    }
    return NULL;
}

static void test_uuid_v7_is_unique_over_threads_and_generators(void **state)
{
    unsigned each = unit_loops(50000);
    ue_uuid_t *ids = calloc((size_t)THREADS * each, sizeof(*ids));
    ue_uuidgen_t gens[2];
    pthread_t threads[THREADS];
    job_t jobs[THREADS];

    assert_non_null(ids);
    assert_int_equal(ue_uuidgen_seed(&gens[0]), APR_SUCCESS);
    assert_int_equal(ue_uuidgen_seed(&gens[1]), APR_SUCCESS);
    for (int i = 0; i < THREADS; i++) {
        jobs[i] = (job_t){&gens[i % 2], ids + (size_t)i * each, each};
        assert_int_equal(pthread_create(&threads[i], NULL, make_ids, &jobs[i]),
                         0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    qsort(ids, (size_t)THREADS * each, sizeof(*ids), compare);
    for (size_t i = 1; i < (size_t)THREADS * each; i++) {
        assert_false(ue_uuid_equal(&ids[i - 1], &ids[i]));
    }
    free(ids);
}

/* Each of the 62 random bits is set in about half of the ids. */
static void test_uuid_v7_spreads_its_random_bits(void **state)
{
    const int count = 4000;
    ue_uuidgen_t gen;
    int ones[64] = {0};

    assert_int_equal(ue_uuidgen_seed(&gen), APR_SUCCESS);
    for (int n = 0; n < count; n++) {
        ue_uuid_t id;

        ue_uuid_v7(&id, &gen, 0);
        for (int bit = 0; bit < 64; bit++) {
            ones[bit] += id.b[8 + bit / 8] >> (7 - bit % 8) & 1;
        }
    }
    assert_int_equal(ones[0], count); /* the variant */
    assert_int_equal(ones[1], 0);
    for (int bit = 2; bit < 64; bit++) {
        /* ten standard deviations */
        assert_in_range(ones[bit], count / 2 - 316, count / 2 + 316);
    }
}

static void test_uuid_v4_has_version_and_variant_and_differs(void **state)
{
    ue_uuid_t before = {{0}};

    for (int i = 0; i < 100; i++) {
        ue_uuid_t id;

        assert_int_equal(ue_uuid_v4(&id), APR_SUCCESS);
        assert_int_equal(id.b[6] >> 4, 4);
        assert_int_equal(id.b[8] >> 6, 2);
        assert_false(ue_uuid_equal(&id, &before));
        before = id;
    }
}

/* The system's random source, which gives as little as it is told to. */
static size_t random_gives;
static int random_errno;

ssize_t getrandom(void *buf, size_t len, unsigned flags)
{
    if (random_errno) {
        errno = random_errno;
        if (errno == EINTR) {
            random_errno = 0; /* by one signal */
        }
        return -1;
    }
    if (random_gives && len > random_gives) {
        len = random_gives;
    }
    return syscall(SYS_getrandom, buf, len, flags);
}

static void check_filled(size_t len)
{
    uint8_t buf[4096 + 16] = {0};
    size_t zeros = 0;

    assert_true(len <= 4096);
    assert_int_equal(ue_random(buf, len), APR_SUCCESS);
    for (size_t i = 0; i < len; i++) {
        zeros += buf[i] == 0;
    }
    assert_true(zeros <= len / 256 * 5 + 3);
    for (size_t i = len; i < sizeof(buf); i++) {
        assert_int_equal(buf[i], 0);
    }
}

static void test_uuid_random_fills_all_it_is_asked_for(void **state)
{
    check_filled(0);
    check_filled(16);
    check_filled(4096);
    random_gives = 100; /* beyond 256 bytes it may be interrupted */
    check_filled(4096);
    random_gives = 1;
    check_filled(16);
    random_gives = 0;
}

static void test_uuid_random_survives_a_signal(void **state)
{
    random_errno = EINTR;
    check_filled(300);
    assert_int_equal(random_errno, 0);
}

static void test_uuid_without_a_random_source_says_so(void **state)
{
    ue_uuidgen_t gen;
    ue_uuid_t id;

    random_errno = ENOSYS;
    assert_int_equal(ue_random(&id, sizeof(id)), ENOSYS);
    assert_int_equal(ue_uuidgen_seed(&gen), ENOSYS);
    assert_int_equal(ue_uuid_v4(&id), ENOSYS);
    random_errno = 0;
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_uuid_format_knows_rfc_9562_example),
    cmocka_unit_test(test_uuid_writes_every_byte_as_printf_does),
    cmocka_unit_test(test_uuid_round_trips_random_bytes_in_both_cases),
    cmocka_unit_test(test_uuid_parse_refuses_what_is_none),
    cmocka_unit_test(test_uuid_parse_judges_every_place),
    cmocka_unit_test(test_uuid_v7_holds_time_version_and_variant),
    cmocka_unit_test(test_uuid_v7_takes_a_time_before_1970_as_1970),
    cmocka_unit_test(test_uuid_v7_sorts_by_microsecond),
    cmocka_unit_test(test_uuid_v7_is_unique_over_threads_and_generators),
    cmocka_unit_test(test_uuid_v7_spreads_its_random_bits),
    cmocka_unit_test(test_uuid_v4_has_version_and_variant_and_differs),
    cmocka_unit_test(test_uuid_random_fills_all_it_is_asked_for),
    cmocka_unit_test(test_uuid_random_survives_a_signal),
    cmocka_unit_test(test_uuid_without_a_random_source_says_so),
};

UNIT_MAIN(tests)
