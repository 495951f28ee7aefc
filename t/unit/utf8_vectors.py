#!/usr/bin/env python3
# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Make utf8_vectors.h: what Python makes of broken UTF-8.

docs/formats.md promises that invalid UTF-8 is replaced as Python's
errors="replace" does, so Python is asked. The cut is written here a second
time, in the plainest way, from the words of that document.

    ./utf8_vectors.py > utf8_vectors.h
"""
import random

CASES = 2000
INTERESTING = (
    b"\x00\x1f az\x7f"                   # ASCII and its edges
    b"\x80\x81\x8f\x90\x9f\xa0\xbe\xbf"  # continuations, edges of the seconds
    b"\xc0\xc1\xc2\xc3\xdf"              # leads of two
    b"\xe0\xe1\xe2\xec\xed\xee\xef"      # of three
    b"\xf0\xf1\xf3\xf4\xf5\xf8\xfc\xfe\xff"
)
CHARACTERS = (
    "a\u00e9\u07ff\u0800\ud55c\ud7ff\ue000\ufffd\uffff"
    "\U00010000\U0001f600\U0010ffff\u2026"
)


def cut(text, most):
    if len(text.encode()) <= most:
        return text
    while len(text.encode()) > most - 3:
        text = text[:-1]
    return text + "\u2026"


def piece(rng):
    kind = rng.randrange(6)
    if kind == 0:
        return bytes([rng.randrange(256)])
    if kind <= 2:
        return bytes([rng.choice(INTERESTING)])
    whole = rng.choice(CHARACTERS).encode()
    if kind == 3:                        # the beginning of a character
        return whole[:rng.randrange(1, len(whole) + 1)]
    if kind == 4:
        return whole
    return b"/path/of/ascii"[:rng.randrange(1, 15)]


def main():
    rng = random.Random(20260101)
    print("/* Licence: MIT, see LICENSE. © 2026 mod_usage_events "
          "contributors. */")
    print("/* Made by utf8_vectors.py: bytes, the most that may come out, and "
          "what does. */")
    print("/* clang-format off */")
    for _ in range(CASES):
        raw = b"".join(piece(rng) for _ in range(rng.randrange(1, 7)))
        most = rng.choice((4, 5, 6, 7, 8, 9, 11, 16, 2048, 2048))
        out = cut(raw.decode("utf-8", "replace"), most).encode()
        print(f'{{"{raw.hex()}", {most}, "{out.hex()}"}},')


if __name__ == "__main__":
    main()
