# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Makes t/fuzz/corpus/spool: small inputs for fuzz_spool.c, which says what
they are made of. Run it when the layout of slots or accounts changes."""
import struct
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus" / "spool"

ADMISSION, COMPLETION, SENT, DELIVERED, FURTHER, LINK = 1, 2, 4, 8, 16, 32
NOW = 1790000000000042


def first(text, method=1, state=3, flags=1, method_len=0, number=0,
          endpoint_len=None, fix=ADMISSION | COMPLETION):
    """A first slot, with the byte that says what to repair."""
    if endpoint_len is None:
        endpoint_len = len(text) - method_len
    fixed = struct.pack("<IBBBBHHIq", 7, state, method, flags, method_len,
                        endpoint_len, 200, 12, NOW)
    ids = b"r" * 16 + b"o" * 16 + b"k" * 16
    out = struct.pack("<QI12x", number, 3)
    slot = fixed + ids + out + text[:96].ljust(96, b"\0")
    assert len(slot) == 192
    return bytes([fix]) + slot


def further(text, last=False):
    reserved = bytes([len(text), 0, 0])
    slot = struct.pack("<IB", 2, 7) + reserved + struct.pack("<II", 0, 0)
    slot += text.ljust(176, b"\0")
    assert len(slot) == 192
    return bytes([FURTHER | (0 if last else LINK)]) + slot


def segments(*slots, salt=0x01020304):
    return b"\1" + struct.pack(">I", salt) + b"".join(slots)


def chain(text, **kw):
    """A slot and those behind it."""
    head = first(text[:92] + b"\0\0\0\0", flags=3, endpoint_len=len(text),
                 fix=kw.pop("fix", ADMISSION | COMPLETION | LINK), **kw)
    rest = text[92:]
    parts = [rest[i:i + 176] for i in range(0, len(rest), 176)]
    return [head] + [further(p, p is parts[-1]) for p in parts]


def account(fix, state=0, rows=(), lanes=()):
    identity = b"UEstream" + struct.pack("<IIII", 1, 241664, 4096, 2048)
    identity += b"s" * 16 + b"b" * 16 + b"i" * 16
    identity += struct.pack("<qiI", NOW, 4711, 99)
    identity += b"gateway-1".ljust(256, b"\0")
    identity += b"usage-events".ljust(256, b"\0")
    identity += b"kafka:9092".ljust(1024, b"\0") + bytes(1024) + bytes(8)
    assert len(identity) == 2656
    numbers = struct.pack("<IIIIqqqQQQQ", state, 12, 0, 0, NOW, NOW, 0,
                          100, 90, 2, 7)
    tables = b"".join(struct.pack(">H", 2 * row) + data for row, data in rows)
    tables += b"".join(struct.pack(">H", 2 * lane + 1)
                       + struct.pack("<QQQ", sent, delivered, 0)
                       for lane, sent, delivered in lanes)
    return b"\0" + bytes([fix]) + identity + numbers.ljust(72, b"\0") + tables


def loss(cause, hour=497222, lane=0xffffffff, count=3, begin=0, end=0):
    return struct.pack("<IIII", 2, cause, hour, lane) + b"o" * 16 \
        + struct.pack("<QQQQ", count, begin, end, 0)


SEEDS = {
    "get": segments(first(b"/v1/charge"), first(b"/", state=1, fix=ADMISSION)),
    "sent": segments(first(b"/a", number=1, fix=7),
                     first(b"/b", number=2, flags=5, fix=7),
                     first(b"/c", number=3, state=0, fix=11)),
    "torn": segments(first(b"/v1/charge", fix=0), first(b"/x", fix=COMPLETION),
                     first(b"/y", state=0, fix=0), further(b"alone")),
    "method": segments(first(b"PROPFIND/dav", method=0, method_len=8)),
    "utf8": segments(first("/é€😀".encode()), first(b"/\xff\xfe", fix=3),
                     first(b'/"\\\x01')),
    "full": segments(first(b"/" + b"x" * 95), first(b"/" + b"x" * 96)),
    "chain": segments(*chain(b"/" + b"c" * 300), first(b"/z")),
    "chain_long": segments(*chain(b"/" + b"c" * 2047)),
    "chain_broken": segments(*chain(b"/" + b"c" * 300)[:2]),
    "link": segments(*chain(b"/" + b"c" * 300, fix=ADMISSION)),
    "account": account(7, lanes=[(0, 50, 49), (11, 50, 41), (4095, 1, 1)]),
    "account_second": account(6, state=3),
    "account_forged": account(3, state=77),
    "losses": account(7, state=2, rows=[
        (5, loss(0)), (6, loss(1, lane=2, count=2, begin=4, end=5)),
        (7, loss(1, lane=2, count=1, begin=9, end=9)),
        (9, loss(1, lane=4095, count=1, begin=1, end=1)),
        (2047, loss(5, hour=0xffffffff)), (0, loss(99))]),
    "garbage": b"\2" + b"UEslots\0" + bytes(200),
    "empty": b"",
}


def main():
    CORPUS.mkdir(parents=True, exist_ok=True)
    for name, seed in SEEDS.items():
        assert len(seed) < 10000, name
        (CORPUS / name).write_bytes(seed)


if __name__ == "__main__":
    main()
