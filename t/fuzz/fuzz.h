/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_FUZZ_H
#define UE_FUZZ_H

/**
 * What the fuzzers share. A fuzzer looks for broken promises, not only for
 * crashes: CHECK() names the one that was broken and aborts, also where
 * assert() is switched off. Input is copied into memory of just its size, so
 * that AddressSanitizer sees each byte read beside it.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(promise)                                                 \
    do {                                                               \
        if (!(promise)) {                                              \
            fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, \
                    #promise);                                         \
            abort();                                                   \
        }                                                              \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/** Exactly these bytes. The caller frees them. */
static inline char *fuzz_copy(const uint8_t *data, size_t size)
{
    char *copy = malloc(size ? size : 1);

    CHECK(copy);
    memcpy(copy, data, size);
    return copy;
}

/** These bytes up to the first NUL, as a string. The caller frees it. */
static inline char *fuzz_string(const uint8_t *data, size_t size)
{
    size_t len = strnlen((const char *)data, size);
    char *copy = malloc(len + 1);

    CHECK(copy);
    memcpy(copy, data, len);
    copy[len] = '\0';
    return copy;
}

/** Take bytes off the input for a number; zeros where there are too few. */
static inline uint64_t fuzz_number(const uint8_t **data, size_t *size,
                                   size_t bytes)
{
    uint64_t n = 0;

    while (bytes-- > 0) {
        n = n << 8;
        if (*size > 0) {
            n |= *(*data)++;
            (*size)--;
        }
    }
    return n;
}

/** Is this UTF-8? By arithmetic on code points, not by tables. */
static inline int fuzz_is_utf8(const char *text, size_t len)
{
    const unsigned char *s = (const unsigned char *)text;
    const unsigned char *end = s + len;

    while (s < end) {
        static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
        unsigned n = *s < 0x80             ? 1
                     : (*s & 0xe0) == 0xc0 ? 2
                     : (*s & 0xf0) == 0xe0 ? 3
                     : (*s & 0xf8) == 0xf0 ? 4
                                           : 0;
        uint32_t c = n == 1 ? *s : *s & (0x7fu >> n);

        if (n == 0 || (size_t)(end - s) < n) {
            return 0;
        }
        for (unsigned i = 1; i < n; i++) {
            if ((s[i] & 0xc0) != 0x80) {
                return 0;
            }
            c = c << 6 | (s[i] & 0x3fu);
        }
        if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) {
            return 0;
        }
        s += n;
    }
    return 1;
}

#endif /* UE_FUZZ_H */
