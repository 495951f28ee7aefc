# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Makes files of a spool as docs/journal.md describes them, for tests that
want to have them damaged in a certain way.

    files = SpoolFiles(directory)                 # one stream
    files.account(lanes={0: (3, 2, 0)}, admitted=4)
    slots = files.first("/v1/charge", number=3, phase=SENT)
    slots += files.first("/" + "x" * 300, ref=len(slots) + 1)
    files.segment(slots)
"""
import os
import struct
import uuid
from pathlib import Path

from spool_reader import (BILLABLE, CONTINUED, DELIVERED, FURTHER, HEAD,
                          IN_FILE, METHODS, NO_LANE, NOT_SENT, SENT, crc)

NOW = 1790000000000042
ORG = "11223344-5566-4788-99aa-bbccddeeff00"
BOOT = Path("/proc/sys/kernel/random/boot_id")


def this_boot():
    return uuid.UUID(BOOT.read_text(encoding="ascii").strip()).bytes


def text_field(text, room):
    return text.encode().ljust(room, b"\0")


class SpoolFiles:
    def __init__(self, directory, stream=b"\x5a" * 16, salt=0x12345678,
                 boot=None):
        self.dir, self.stream, self.salt = Path(directory), stream, salt
        self.boot = this_boot() if boot is None else boot
        self.maker = os.urandom(16)
        self.target = (text_field("usage-events", 256)
                       + text_field("kafka:9092", 1024)
                       + text_field("", 1024))

    @property
    def id(self):
        return self.stream.hex()

    def write(self, name, data):
        """Without holes, also where the data is zeros."""
        path = self.dir / name
        with open(path, "wb") as f:
            os.posix_fallocate(f.fileno(), 0, max(1, len(data)))
            f.write(data)
            f.truncate(len(data))
        return path

    # accounts

    def identity(self, host="gateway-1", stream=None):
        data = b"UEstream" + struct.pack("=IIII", 1, 241664, 4096, 2048)
        data += (stream or self.stream) + self.boot + b"i" * 16
        data += struct.pack("=qiI", NOW, 4711, self.salt)
        data += text_field(host, 256) + self.target + bytes(4)
        return data + struct.pack("=I", crc(0, data))

    def account_bytes(self, state=0, lanes=None, losses=(), admitted=0,
                      delivered=0, interrupted=0, lost=0, **identity):
        lanes = lanes or {}
        page = self.identity(**identity).ljust(4096, b"\0")
        numbers = struct.pack("=IIIIqqqQQQQ", state,
                              max(lanes, default=-1) + 1, 0, 0, NOW, NOW, 0,
                              admitted, delivered, interrupted, lost)
        table = b"".join(struct.pack("=QQQ", *lanes.get(i, (0, 0, 0)))
                         for i in range(4096))
        rows = b"".join(self.loss(*row) for row in losses)
        return page + page + numbers.ljust(4096, b"\0") + table \
            + rows.ljust(64 * 2048, b"\0")

    @staticmethod
    def loss(cause, hour, count, org=ORG, lane=NO_LANE, first=0, last=0):
        return struct.pack("=IIII16sQQQQ", 2, cause, hour, lane,
                           uuid.UUID(org).bytes, count, first, last, 0)

    def account(self, **kw):
        return self.write(f"{self.id}.stream", self.account_bytes(**kw))

    # slots

    def further(self, request, text, ref, last):
        following = 0 if last else ref + 1
        fixed = struct.pack("=I", following)
        check = crc(self.salt ^ 0xffffffff, request + fixed + text)
        return struct.pack("=IB3xII", 1, FURTHER, following, check) \
            + text.ljust(176, b"\0")

    def first(self, path, ref=1, method="GET", state=5, generation=1,
              complete=True, status=200, ms=12, billable=True, number=0,
              partition=0, phase=NOT_SENT, in_file=False, org=ORG):
        """The slots of an event, as a list; ref is that of the first."""
        request = os.urandom(16)
        ids = request + uuid.UUID(org).bytes + b"k" * 16
        code = METHODS.index(method) if method in METHODS else 0
        spelled = b"" if code else method.encode()
        text = spelled + path.encode()
        continued = len(text) > 96
        rest = text[92:] if continued else b""
        pieces = [rest[i:i + 176] for i in range(0, len(rest), 176)]
        here = text[:92] + struct.pack("=I", ref + 1) if continued else text
        flags = continued * CONTINUED | in_file * IN_FILE \
            | (complete and billable) * BILLABLE
        lengths = struct.pack("=BH", len(spelled), len(text) - len(spelled))
        admission = crc(self.salt ^ continued * 2, struct.pack(
            "=IB", generation, code) + lengths + struct.pack("=q", NOW) + ids
            + here)
        done = (ms, status) if complete else (0, 0)
        completion = crc(admission, struct.pack(
            "=IHH", *done, flags & BILLABLE)) if complete else 0
        delivery = crc(admission, struct.pack(
            "=QII", number, partition, 256 * phase + (flags & IN_FILE)))
        head = struct.pack("=IBBB", generation, state, code, flags) + lengths
        head += struct.pack("=HIq", done[1], done[0], NOW) + ids
        head += struct.pack("=QIIII", number, partition, admission, completion,
                            delivery)
        return [head + here.ljust(96, b"\0")] + [
            self.further(request, piece, ref + 1 + i, i == len(pieces) - 1)
            for i, piece in enumerate(pieces)]

    # segments

    def head(self, slots, first=1, target=None):
        data = struct.pack("=8sIIIIII", b"UEslots\0", 1, HEAD, 192, slots,
                           self.salt, first)
        data += self.maker + self.boot + (target or siphash128(self.target))
        data += struct.pack("=qI", NOW, 0)
        return data + struct.pack("=I", crc(0, data))

    def segment_bytes(self, slots, first=1, target=None):
        count = -(-len(slots) // 64) * 64
        head = self.head(count, first, target).ljust(2048, b"\0")
        return head + head + b"".join(slots).ljust(192 * count, b"\0")

    def segment(self, slots, n=1, **kw):
        return self.write(f"{self.id}.{n:04}.slots",
                          self.segment_bytes(slots, **kw))


# --- SipHash-2-4, 128 bits, a key of zeros -----------------------------------

MASK = (1 << 64) - 1


def _round(v):
    def turn(x, n):
        return (x << n | x >> (64 - n)) & MASK
    v[0] = (v[0] + v[1]) & MASK
    v[1] = turn(v[1], 13) ^ v[0]
    v[0] = turn(v[0], 32)
    v[2] = (v[2] + v[3]) & MASK
    v[3] = turn(v[3], 16) ^ v[2]
    v[0] = (v[0] + v[3]) & MASK
    v[3] = turn(v[3], 21) ^ v[0]
    v[2] = (v[2] + v[1]) & MASK
    v[1] = turn(v[1], 17) ^ v[2]
    v[2] = turn(v[2], 32)


def siphash128(data):
    v = [0x736f6d6570736575, 0x646f72616e646f6d ^ 0xee, 0x6c7967656e657261,
         0x7465646279746573]
    whole = len(data) - len(data) % 8
    words = [int.from_bytes(data[i:i + 8], "little")
             for i in range(0, whole, 8)]
    words.append(int.from_bytes(data[whole:], "little")
                 | (len(data) & 255) << 56)
    for word in words:
        v[3] ^= word
        _round(v)
        _round(v)
        v[0] ^= word
    result = b""
    for at, mark in ((2, 0xee), (1, 0xdd)):
        v[at] ^= mark
        for _ in range(4):
            _round(v)
        result += (v[0] ^ v[1] ^ v[2] ^ v[3]).to_bytes(8, "little")
    return result


__all__ = ["BOOT", "DELIVERED", "NOT_SENT", "NOW", "ORG", "SENT", "SpoolFiles",
           "siphash128", "this_boot"]
