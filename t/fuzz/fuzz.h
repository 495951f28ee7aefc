/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef FUZZ_H
#define FUZZ_H

/* What the fuzzers share. A fuzzer looks for more than crashes: it says what
 * must hold for any input, and MUST() ends it where that doesn't. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(condition)                                                   \
    do {                                                                  \
        if (!(condition)) {                                               \
            fprintf(stderr, "%s:%d: must hold: %s\n", __FILE__, __LINE__, \
                    #condition);                                          \
            abort();                                                      \
        }                                                                 \
    } while (0)

/** A NUL-terminated copy, as a header's value arrives. free() it. */
static inline char *copy_text(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);

    MUST(text);
    if (size) {
        memcpy(text, data, size);
    }
    text[size] = '\0';
    return text;
}

/** Is this valid UTF-8? Said by an automaton of its own, byte by byte. */
static inline int is_utf8(const char *s, size_t len)
{
    const unsigned char *p = (const unsigned char *)s;
    const unsigned char *end = p + len;

    while (p < end) {
        uint32_t c = *p++;
        int more = c < 0x80 ? 0 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
        uint32_t least[] = {0, 0x80, 0x800, 0x10000};
        int i;

        if ((c >= 0x80 && c < 0xc0) || c > 0xf7) {
            return 0;
        }
        c &= more == 0 ? 0x7f : 0x3fu >> more;
        for (i = 0; i < more; i++) {
            if (p == end || (*p & 0xc0) != 0x80) {
                return 0;
            }
            c = c << 6 | (*p++ & 0x3f);
        }
        if (c < least[more] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) {
            return 0;
        }
    }
    return 1;
}

#endif /* FUZZ_H */
