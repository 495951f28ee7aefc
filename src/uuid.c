/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include <apr.h>

#include "uuid.h"

#define USEC_PER_MSEC 1000

apr_status_t ue_random(void *buf, size_t len)
{
    uint8_t *at = buf;

    while (len > 0) {
        ssize_t n = getrandom(at, len, 0);

        if (n < 0) {
            if (errno == EINTR) {
                continue;
            }
            return errno;
        }
        at += n;
        len -= (size_t)n;
    }
    return APR_SUCCESS;
}

apr_status_t ue_uuidgen_seed(ue_uuidgen_t *gen)
{
    uint64_t begin = 0;
    apr_status_t rv = ue_random(&begin, sizeof(begin));

    atomic_store_explicit(&gen->count, begin, memory_order_relaxed);
    return rv == APR_SUCCESS ? ue_random(&gen->key, sizeof(gen->key)) : rv;
}

/*
 * Every bit of the count into every bit of the result, one to one, so that no
 * two counts give the same: the finalizer of SplitMix64 (Steele, Lea and Flood,
 * "Fast splittable pseudorandom number generators", 2014; Stafford's variant
 * 13).
 */
static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* Version and variant (RFC 9562 sections 4.1 and 4.2). */
static void set_version(ue_uuid_t *id, uint8_t version)
{
    id->b[6] = (uint8_t)(version << 4 | (id->b[6] & 0x0f));
    id->b[8] = (uint8_t)(0x80 | (id->b[8] & 0x3f));
}

void ue_uuid_v7(ue_uuid_t *id, ue_uuidgen_t *gen, apr_time_t when)
{
    uint64_t usec = when > 0 ? (uint64_t)when : 0;
    uint64_t msec = usec / USEC_PER_MSEC;
    /* RFC 9562 section 6.2, method 3: a fraction of the millisecond in the 12
     * bits behind it. 4096 steps for 1000 microseconds: none is lost. */
    unsigned fraction =
        (unsigned)((usec % USEC_PER_MSEC) * 4096 / USEC_PER_MSEC);
    /* Only that no number comes twice is asked of the counter, no order. */
    uint64_t n =
        atomic_fetch_add_explicit(&gen->count, 1, memory_order_relaxed);
    uint64_t random = mix(n ^ gen->key);

    for (int i = 5; i >= 0; i--) {
        id->b[i] = (uint8_t)msec;
        msec >>= 8;
    }
    id->b[6] = (uint8_t)(fraction >> 8);
    id->b[7] = (uint8_t)fraction;
    memcpy(id->b + 8, &random, sizeof(random));
    set_version(id, 7);
}

apr_status_t ue_uuid_v4(ue_uuid_t *id)
{
    apr_status_t rv = ue_random(id->b, sizeof(id->b));

    if (rv == APR_SUCCESS) {
        set_version(id, 4);
    }
    return rv;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    if (c >= 'A' && c <= 'F') {
        return c - 'A' + 10;
    }
    return -1;
}

apr_status_t ue_uuid_parse(ue_uuid_t *id, const char *s, size_t len)
{
    ue_uuid_t read;
    size_t at = 0;

    if (len != UE_UUID_LEN) {
        return APR_EINVAL;
    }
    for (size_t i = 0; i < sizeof(read.b); i++) {
        int high;
        int low;

        if ((i == 4 || i == 6 || i == 8 || i == 10) && s[at++] != '-') {
            return APR_EINVAL;
        }
        high = hex_value(s[at++]);
        low = hex_value(s[at++]);
        if (high < 0 || low < 0) {
            return APR_EINVAL;
        }
        read.b[i] = (uint8_t)(high << 4 | low);
    }
    *id = read;
    return APR_SUCCESS;
}

/*
 * Four bytes as eight hex digits, all at once: ids are written several times
 * for each request, and a loop over nibbles costs twice as much. The four bytes
 * are spread over the even bytes of a word, split into nibbles, and a nibble v
 * becomes v + '0', and 39 more ('a' - '0' - 10) where v + 6 carries out of four
 * bits. No step carries from one byte into the next.
 */
static void write_hex(const uint8_t *from, char *to)
{
    uint64_t x = (uint64_t)from[0] | (uint64_t)from[1] << 16
                 | (uint64_t)from[2] << 32 | (uint64_t)from[3] << 48;
    uint64_t letters;

    x = (x >> 4 & 0x000f000f000f000fu) | (x & 0x000f000f000f000fu) << 8;
    letters = (x + 0x0606060606060606u) >> 4 & 0x0101010101010101u;
    x += 0x3030303030303030u + letters * ('a' - '0' - 10);
#if APR_IS_BIGENDIAN
    x = __builtin_bswap64(x);
#endif
    memcpy(to, &x, sizeof(x));
}

char *ue_uuid_write(const ue_uuid_t *id, char *to)
{
    char hex[32];

    for (int i = 0; i < 4; i++) {
        write_hex(id->b + 4 * i, hex + 8 * i);
    }
    memcpy(to, hex, 8);
    to[8] = '-';
    memcpy(to + 9, hex + 8, 4);
    to[13] = '-';
    memcpy(to + 14, hex + 12, 4);
    to[18] = '-';
    memcpy(to + 19, hex + 16, 4);
    to[23] = '-';
    memcpy(to + 24, hex + 20, 12);
    return to + UE_UUID_LEN;
}

char *ue_uuid_format(const ue_uuid_t *id, char to[UE_UUID_LEN + 1])
{
    *ue_uuid_write(id, to) = '\0';
    return to;
}

int ue_uuid_equal(const ue_uuid_t *a, const ue_uuid_t *b)
{
    return memcmp(a->b, b->b, sizeof(a->b)) == 0;
}
