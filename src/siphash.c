/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "siphash.h"

#include <string.h>

#include <apr.h>

typedef struct {
    uint64_t v0, v1, v2, v3;
} state_t;

static uint64_t load(const void *from)
{
    uint64_t x;

    memcpy(&x, from, sizeof(x));
#if APR_IS_BIGENDIAN
    x = __builtin_bswap64(x);
#endif
    return x;
}

static uint64_t rotate(uint64_t x, int by)
{
    return x << by | x >> (64 - by);
}

/* One after the other, without loops: so the state stays in registers. */
static inline void one_round(state_t *s)
{
    s->v0 += s->v1;
    s->v2 += s->v3;
    s->v1 = rotate(s->v1, 13) ^ s->v0;
    s->v3 = rotate(s->v3, 16) ^ s->v2;
    s->v0 = rotate(s->v0, 32);
    s->v2 += s->v1;
    s->v0 += s->v3;
    s->v1 = rotate(s->v1, 17) ^ s->v2;
    s->v3 = rotate(s->v3, 21) ^ s->v0;
    s->v2 = rotate(s->v2, 32);
}

static inline void four_rounds(state_t *s)
{
    one_round(s);
    one_round(s);
    one_round(s);
    one_round(s);
}

static inline void take(state_t *s, uint64_t word)
{
    s->v3 ^= word;
    one_round(s);
    one_round(s);
    s->v0 ^= word;
}

void ue_siphash128(const void *data, size_t len,
                   const uint8_t key[UE_SIPHASH_KEY], uint64_t hash[2])
{
    const uint8_t *at = data;
    const uint8_t *end = at + len / 8 * 8;
    uint64_t k0 = load(key), k1 = load(key + 8);
    state_t s = {k0 ^ UINT64_C(0x736f6d6570736575),
                 k1 ^ UINT64_C(0x646f72616e646f6d) ^ 0xee,
                 k0 ^ UINT64_C(0x6c7967656e657261),
                 k1 ^ UINT64_C(0x7465646279746573)};
    uint64_t last = (uint64_t)len << 56;
    size_t i;

    for (; at < end; at += 8) {
        take(&s, load(at));
    }
    if (len % 8 && len >= 8) { /* without a loop: the end of the last 8 */
        last |= load(end + len % 8 - 8) >> 8 * (8 - len % 8);
    }
    else {
        for (i = 0; i < len % 8; i++) {
            last |= (uint64_t)at[i] << (8 * i);
        }
    }
    take(&s, last);
    s.v2 ^= 0xee;
    four_rounds(&s);
    hash[0] = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
    s.v1 ^= 0xdd;
    four_rounds(&s);
    hash[1] = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}
