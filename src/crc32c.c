/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "crc32c.h"

#include <stdatomic.h>
#include <string.h>

#define POLYNOMIAL 0x82f63b78u /* 0x1edc6f41, bits in reverse */

uint32_t ue_crc32c_table(uint32_t crc, const void *data, size_t len)
{
    /* Four bits at a time: a table that needs no start, for processors that
     * are rare. */
    static const uint32_t table[16] = {
        0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
        0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
        0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75};
    const uint8_t *at = data;

    crc = ~crc;
    while (len--) {
        crc ^= *at++;
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

#if defined(__x86_64__)

__attribute__((target("sse4.2"))) static uint32_t with_instruction(
    uint32_t crc, const void *data, size_t len)
{
    const char *at = data;
    uint64_t sum = (uint32_t)~crc;

    for (; len >= 8; len -= 8, at += 8) {
        uint64_t eight;

        memcpy(&eight, at, sizeof(eight));
        sum = __builtin_ia32_crc32di(sum, eight);
    }
    if (len & 4) {
        uint32_t four;

        memcpy(&four, at, sizeof(four));
        sum = __builtin_ia32_crc32si((uint32_t)sum, four);
        at += sizeof(four);
    }
    if (len & 2) {
        uint16_t two;

        memcpy(&two, at, sizeof(two));
        sum = __builtin_ia32_crc32hi((uint32_t)sum, two);
        at += sizeof(two);
    }
    if (len & 1) {
        sum = __builtin_ia32_crc32qi((uint32_t)sum, (uint8_t)*at);
    }
    return ~(uint32_t)sum;
}

static int has_instruction(void)
{
    return __builtin_cpu_supports("sse4.2");
}

#elif defined(__aarch64__)

#include <sys/auxv.h>

#define CRC32 (1ul << 7) /* HWCAP_CRC32 */

__attribute__((target("+crc"))) static uint32_t with_instruction(
    uint32_t crc, const void *data, size_t len)
{
    const char *at = data;
    uint32_t sum = ~crc;

    for (; len >= 8; len -= 8, at += 8) {
        uint64_t eight;

        memcpy(&eight, at, sizeof(eight));
        sum = __builtin_aarch64_crc32cx(sum, eight);
    }
    while (len--) {
        sum = __builtin_aarch64_crc32cb(sum, (uint8_t)*at++);
    }
    return ~sum;
}

static int has_instruction(void)
{
    return (getauxval(AT_HWCAP) & CRC32) != 0;
}

#else

#define with_instruction ue_crc32c_table

static int has_instruction(void)
{
    return 0;
}

#endif

typedef uint32_t crc_fn(uint32_t crc, const void *data, size_t len);

static uint32_t choose(uint32_t crc, const void *data, size_t len);

static crc_fn *_Atomic chosen = choose;

/** The first call asks the processor. */
static uint32_t choose(uint32_t crc, const void *data, size_t len)
{
    crc_fn *fn = has_instruction() ? with_instruction : ue_crc32c_table;

    atomic_store_explicit(&chosen, fn, memory_order_relaxed);
    return fn(crc, data, len);
}

uint32_t ue_crc32c(uint32_t crc, const void *data, size_t len)
{
    return atomic_load_explicit(&chosen, memory_order_relaxed)(crc, data, len);
}
