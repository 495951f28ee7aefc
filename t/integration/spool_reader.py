# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""A second reader of spools, written from docs/journal.md alone.

    import spool_reader
    lines = spool_reader.dump(directory)      # as usagectl spool dump has them
    account = spool_reader.account(directory / f"{stream}.stream")

It is slow and plain, and shares nothing with the C code but the page."""
import datetime
import re
import struct
import uuid
from pathlib import Path

HEAD, AGAIN, SLOT = 4096, 2048, 192
ACCOUNT = 241664
METHODS = (None, "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS",
           "CONNECT", "TRACE")
BILLABLE, CONTINUED, IN_FILE = 1, 2, 4
FREE, FURTHER = 0, 7
NOT_SENT, SENT, DELIVERED, STORED, REFUSED = range(5)
CAUSES = ("overflow", "rejected", "shutdown", "expired", "torn", "unknown")
STATES = ("open", "closed", "adopted", "unclean")
NO_LANE = 0xffffffff


def _table():
    table = []
    for i in range(256):
        for _ in range(8):
            i = i >> 1 ^ (0x82f63b78 if i & 1 else 0)
        table.append(i)
    return table


TABLE = _table()


def crc(start, data):
    """CRC-32C (RFC 3720, B.4), going on from start."""
    n = start ^ 0xffffffff
    for byte in data:
        n = n >> 8 ^ TABLE[(n ^ byte) & 255]
    return n ^ 0xffffffff


def time_text(us):
    when = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=us)
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# --- segments ----------------------------------------------------------------

class Segment:
    """A segment's bytes; None for head where neither copy is good."""

    def __init__(self, name, data):
        self.name, self.data = name, data
        self.head = next((h for h in (self._head(0), self._head(AGAIN)) if h),
                         None)
        self.slots = 0
        if self.head:
            there = max(0, len(data) - HEAD) // SLOT
            self.slots = min(self.head["slots"], there)

    def _head(self, at):
        data = self.data[at:at + 96]
        if len(data) < 96 or crc(0, data[:92]) != struct.unpack_from(
                "=I", data, 92)[0]:
            return None
        names = ("magic", "version", "head_size", "slot_size", "slots", "salt",
                 "first", "maker", "boot", "target", "made")
        head = dict(zip(names, struct.unpack_from("=8sIIIIII16s16s16sq",
                                                  data)))
        good = (head["magic"] == b"UEslots\0" and head["version"] == 1
                and head["head_size"] == HEAD and head["slot_size"] == SLOT)
        return head if good else None

    def slot(self, index):
        at = HEAD + index * SLOT
        return self.data[at:at + SLOT]


class First:
    """A slot, read as a first one."""

    def __init__(self, data):
        (self.generation, self.state, self.method, self.flags, self.method_len,
         self.endpoint_len, self.status, self.ms, self.timestamp) = \
            struct.unpack_from("=IBBBBHHIq", data)
        self.ids = data[24:72]
        (self.number, self.partition, self.admission, self.completion,
         self.delivery) = struct.unpack_from("=QIIII", data, 72)
        self.text = data[96:]
        self.length = self.method_len + self.endpoint_len
        self.continued = bool(self.flags & CONTINUED)
        self._head = data

    def is_possible(self):
        return (self.method <= 9 and self.method_len <= 64
                and self.endpoint_len <= 2048
                and (self.method == 0 or self.method_len == 0)
                and (self.length > 96) == self.continued)

    def is_admitted(self, salt):
        used = 96 if self.continued else self.length
        fixed = self._head[0:4] + self._head[5:6] + self._head[7:10] \
            + self._head[16:24]
        return self.is_possible() and self.admission == crc(
            salt ^ (2 if self.continued else 0),
            fixed + self.ids + self.text[:used])

    def is_complete(self):
        return self.completion == crc(self.admission, struct.pack(
            "=IHH", self.ms, self.status, self.flags & BILLABLE))

    def is_in_phase(self, phase, in_file=None):
        """With the event file's flag or without, unless it says which."""
        tried = (0, IN_FILE) if in_file is None else (in_file * IN_FILE,)
        return any(self.delivery == crc(self.admission, struct.pack(
            "=QII", self.number, self.partition, 256 * phase + flag))
            for flag in tried)


class Spool:
    def __init__(self, segments):
        self.segments = segments

    def resolve(self, maker, ref):
        """(segment, slot's bytes) behind a link."""
        for segment in self.segments:
            head = segment.head
            if head and head["maker"] == maker and \
                    head["first"] <= ref < head["first"] + segment.slots:
                return segment, segment.slot(ref - head["first"])
        return None, None

    def text(self, segment, slot):
        """All of a slot's text; None: it isn't whole."""
        if not slot.continued:
            return slot.text[:slot.length]
        text = slot.text[:92]
        ref, = struct.unpack("=I", slot.text[92:])
        while len(text) < slot.length:
            found, data = self.resolve(segment.head["maker"], ref)
            if not found:
                return None
            ref, check = struct.unpack_from("=II", data, 8)
            piece = data[16:16 + min(176, slot.length - len(text))]
            if check != crc(found.head["salt"] ^ 0xffffffff,
                            slot.ids[:16] + struct.pack("=I", ref) + piece):
                return None
            text += piece
        return text

    def event(self, slot, text, complete):
        request, org, key = (str(uuid.UUID(bytes=slot.ids[i:i + 16]))
                             for i in (0, 16, 32))
        cut = slot.method_len
        return {"request_id": request, "organization_id": org,
                "api_key_id": key,
                "endpoint": text[cut:].decode(),
                "method": METHODS[slot.method] or text[:cut].decode(),
                "status_code": slot.status if complete else 0,
                "response_time_ms": slot.ms if complete else 0,
                "timestamp": time_text(slot.timestamp),
                "billable": complete and bool(slot.flags & BILLABLE)}

    def judge(self, segment, index):
        """The line of one slot, or None if it is free or a further one."""
        slot = First(segment.slot(index))
        line = {"file": segment.name, "slot": index + 1,
                "generation": slot.generation, "state": "torn", "sent": False,
                "number": None, "partition": None, "in_file": False,
                "in_topic": False, "refused": False, "event": None}
        if not slot.is_admitted(segment.head["salt"]):
            return None if slot.state in (FREE, FURTHER) else line
        complete, text = slot.is_complete(), self.text(segment, slot)
        line["state"] = "complete" if complete else "admitted"
        if slot.is_in_phase(DELIVERED):
            line["state"] = "delivered"
        line["sent"] = slot.is_in_phase(SENT)
        line["in_topic"] = slot.is_in_phase(STORED)
        line["in_file"] = any(
            slot.is_in_phase(phase, True) for phase in (NOT_SENT, SENT))
        line["refused"] = slot.is_in_phase(REFUSED)
        if line["sent"] or line["state"] == "delivered":
            line["number"], line["partition"] = slot.number, slot.partition
        if text is not None:
            line["event"] = self.event(slot, text, complete)
        else:
            line["organization_id"] = str(uuid.UUID(bytes=slot.ids[16:32]))
            if line["state"] != "delivered":
                line["state"] = "torn"
        return line


def segments(directory):
    return [Segment(path.name, path.read_bytes())
            for path in sorted(Path(directory).iterdir())
            if re.fullmatch(r"[0-9a-f]{32}\.\d+\.slots", path.name)]


def dump(directory, all=False):
    """What usagectl spool dump writes, parsed."""
    spool = Spool(segments(directory))
    lines = [spool.judge(segment, i) for segment in spool.segments
             for i in range(segment.slots)]
    return [line for line in lines
            if line and (all or line["state"] != "delivered")]


# --- accounts ----------------------------------------------------------------

def _identity(data):
    if len(data) < 2656 or crc(0, data[:2652]) != struct.unpack_from(
            "=I", data, 2652)[0]:
        return None
    names = ("magic", "version", "size", "lanes_max", "loss_rows", "stream",
             "boot", "instance", "opened", "pid", "salt")
    found = dict(zip(names, struct.unpack_from("=8sIIII16s16s16sqiI", data)))
    if found["magic"] != b"UEstream" or found["size"] != ACCOUNT:
        return None
    for name, at, room in (("host", 88, 256), ("topic", 344, 256),
                           ("brokers", 600, 1024), ("event_file", 1624, 1024)):
        found[name] = data[at:at + room].split(b"\0")[0].decode()
    return found


def account(path):
    """An account as a dict; None: neither copy of its identity is good."""
    data = Path(path).read_bytes()
    found = _identity(data) or _identity(data[4096:])
    if not found:
        return None
    data = data.ljust(ACCOUNT, b"\0")
    names = ("state", "lanes", "told", "reserved", "updated", "watermark",
             "base", "admitted", "delivered", "interrupted", "lost")
    found.update(zip(names, struct.unpack_from("=IIIIqqqQQQQ", data, 8192)))
    found["partitions"] = {}
    for i in range(4096):
        sent, delivered, lost = struct.unpack_from("=QQQ", data,
                                                   12288 + 24 * i)
        if sent:
            found["partitions"][i] = {"sent": sent, "delivered": delivered,
                                      "lost": lost}
    found["losses"] = []
    for i in range(2048):
        at = 110592 + 64 * i
        state, cause, hour, lane = struct.unpack_from("=IIII", data, at)
        if state == 2:
            org = uuid.UUID(bytes=data[at + 16:at + 32])
            count, first, last = struct.unpack_from("=QQQ", data, at + 32)
            found["losses"].append(
                {"organization_id": str(org), "cause": CAUSES[cause],
                 "hour": time_text(hour * 3600 * 10**6)[:19] + "Z",
                 "count": count, "partition": lane,
                 "numbers": None if lane == NO_LANE else (first, last)})
    return found
