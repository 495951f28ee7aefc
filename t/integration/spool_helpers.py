# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Gateways with a spool, and the account of what came through it.

    gw = gateway(**with_spool(kafka, topic))
    make_spool(gw)
    load, held = Load(gw, rate=None), Held(gw, gw.add_key()[0])
    gw.start()
    with load, held:
        load.wait(500)
        kill(gw, 1)
        load.wait(500)
    stored = check_events(kafka, topic, [load], held)
    check_metrics(gw, stored)
    gw.stop()
    check_sums(kafka, topic, stored)

What a killed child has answered is an event; what was open when it died is an
event with status 0, or, where its answer was on its way, either.
"""
import collections
import itertools
import json
import os
import random
import select
import shutil
import signal
import subprocess
import threading
import time
import uuid
from pathlib import Path

from clients.http1 import Closed, Conn, poll, render
from harness import USAGECTL
from kafka_helpers import parse, to_kafka
from processes import session_members


def with_spool(kafka, topic, children=4, most=None, conf="", name="spool",
               **kw):
    """Arguments for gateway(): as to_kafka(), with UsageSpool {dir}/spool."""
    bound = f" max={most}" if most else ""
    return to_kafka(kafka, topic, children=children,
                    conf=f"UsageSpool {{dir}}/{name}{bound}\n{conf}", **kw)


def give_away(path, make=False):
    """To the user of httpd's children."""
    if make:
        path.mkdir(mode=0o700)
    if os.geteuid() == 0:
        shutil.chown(path, "www-data", "www-data")
    return path


def make_spool(gw, name="spool"):
    """The directory, as an administrator makes it."""
    return give_away(gw.dir / name, make=True)


def spool_ls(spool):
    """What usagectl spool ls says, as JSON."""
    done = subprocess.run([USAGECTL, "spool", "ls", str(spool), "--format",
                           "json"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def waiting(spool):
    """How many events wait in a spool."""
    return sum(s["waiting"] for s in spool_ls(spool))


def emptied(spool, timeout=60):
    """Wait until nothing in a spool waits any more, and somebody has each
    stream that goes on: an empty one is taken over too, to be ended in the
    ledger."""
    def left():
        return [s for s in spool_ls(spool) if s["waiting"]
                or (s["state"] == "open" and not s["held_by"])]
    poll(lambda: not left(), timeout, every=0.2,
         what="nothing waits in the spool")


def size_of(spool, suffix=""):
    """Bytes of its files, or of those of a kind."""
    total = 0
    for path in list(spool.iterdir()):
        if not path.name.endswith(suffix):
            continue
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            pass
    return total


# --- killing -----------------------------------------------------------------

def kill(gw, n=1, dead=None):
    """Kill children, at random or these, and wait until there are others (with
    prefork, httpd makes some when it wants some). Returns the processes."""
    gw.allow_signal(signal.SIGKILL)
    dead = dead or random.sample(gw.children(), n)
    for pid in dead:
        os.kill(pid, signal.SIGKILL)
    poll(lambda: not set(dead) & set(gw.children())
         and (gw.mpm == "prefork" or len(gw.children()) >= gw.count), 20,
         what="new children")
    return dead


def kill_tree(gw):
    """Kill httpd and all its children at once."""
    gw.allow_signal(signal.SIGKILL)
    for pid in session_members(gw.sid):
        os.kill(pid, signal.SIGKILL)
    gw.proc.wait(10)
    gw.proc = None
    poll(lambda: not session_members(gw.sid), 10, what="all are dead")


def child_of(gw, port):
    """The child that has a connection, by its client's port; None: nobody."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        at, to, inode = line.split()[1], line.split()[2], line.split()[9]
        if int(at.split(":")[1], 16) == gw.port \
                and int(to.split(":")[1], 16) == port:
            break
    else:
        return None
    for pid in gw.children():
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if os.readlink(fd) == f"socket:[{inode}]":
                    return pid
            except FileNotFoundError:
                pass
    return None


class Held:
    """Requests that stay open until their child dies, some of each kind:

        slow    the backend takes ten minutes (backend "odd")
        trickle the answer is on its way, byte by byte (likewise)
        reader  the client reads a large file slowly

    The gateway needs HELD_CONF. After the end: .cut, {id: kind} of those whose
    child died; .left, the ids of the others, which ended with the test. Of a
    request that died young nobody knows whether httpd had seen it: .young.
    """

    PATHS = {"slow": "/slow/600000", "trickle": "/trickle/100000/20",
             "reader": "/local/big"}

    def __init__(self, gw, key, kinds=("slow", "trickle", "reader"), each=3):
        self.gw, self.key = gw, key
        self.cut, self.left, self.young = {}, set(), set()
        self.ended, self.wrong = threading.Event(), []
        self.open = {}  # request id: (kind, port of the client)
        self.threads = [threading.Thread(target=self._client, args=(kind,))
                        for kind in kinds for _ in range(each)]
        big = gw.htdocs / "local" / "big"
        if not big.exists():
            with open(big, "wb") as f:
                f.truncate(1 << 30)  # a hole: takes no disk

    def _client(self, kind):
        try:
            while not self.ended.is_set():
                request_id = str(uuid.uuid4())
                try:
                    conn = Conn(self.gw.port, timeout=30, rcvbuf=8192)
                except OSError:
                    return  # httpd is gone
                with conn:
                    self._hold(kind, request_id, conn)
        except Exception as e:
            self.wrong.append(e)

    def _hold(self, kind, request_id, conn):
        began = time.monotonic()
        has_begun = False
        try:
            conn.send(render("GET", self.PATHS[kind], {
                "X-API-Key": self.key, "X-Request-Id": request_id}))
            if kind != "slow":
                answer = conn.head()
                assert answer.status == 200, answer
                assert answer.request_id == request_id
                has_begun = True
            self.open[request_id] = kind, conn.sock.getsockname()[1]
            while not self.ended.is_set():
                if select.select([conn.sock], [], [], 0.05)[0]:
                    if not conn.sock.recv(4096):
                        raise Closed
                    self.ended.wait(0.02)
                has_begun = has_begun or time.monotonic() - began > 1
            self.left.add(request_id)
        except (Closed, OSError):
            if has_begun:
                self.cut[request_id] = kind
            else:
                self.young.add(request_id)
                self.ended.wait(0.05)
        self.open.pop(request_id, None)

    def child(self, kind):
        """A child that has an open request of a kind."""
        for its, port in list(self.open.values()):
            if its == kind and child_of(self.gw, port):
                return child_of(self.gw, port)
        raise AssertionError(f"no {kind} is open")

    def start(self):
        for thread in self.threads:
            thread.start()
        poll(lambda: len(self.open) == len(self.threads) or self.wrong, 20,
             what="all are open")
        return self

    def stop(self):
        self.ended.set()
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive(), "a client hangs"
        assert not self.wrong, self.wrong[0]

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        self.stop()


#: Ids are the client's, and a slow reader's answer isn't all in the system's
#: buffers.
HELD_CONF = """
UsageRequestId trust
SendBufferSize 16384
ProxyTimeout 900
"""


# --- events ------------------------------------------------------------------

def without_repeats(stored):
    """What a consumer keeps: the first of each stream, partition, number. A
    repeat must be the same event."""
    kept = {}
    for s in stored:
        at = (s.stream, s.partition, s.seq)
        if at in kept:
            assert kept[at].event == s.event, f"{at} has two meanings"
        else:
            kept[at] = s
    return list(kept.values())


def check_complete(stored, gaps=0):
    """Each stream counts from 1 in each partition, without a gap; or all
    together have as many as there are losses with a number. Returns {(stream,
    partition): events}."""
    series = collections.defaultdict(list)
    for s in stored:
        series[s.stream, s.partition].append(s.seq)
    missed = 0
    for at, seqs in series.items():
        seqs.sort()
        assert seqs[0] >= 1 and len(set(seqs)) == len(seqs), at
        missed += seqs[-1] - len(seqs)
        assert gaps or seqs[-1] == len(seqs), \
            (at, sorted(set(range(1, seqs[-1])) - set(seqs))[:5])
    assert missed <= gaps, f"{missed} numbers are missing"
    return {at: len(seqs) for at, seqs in series.items()}


def check_first_in_order(stored):
    """A consumer meets the numbers of a stream and partition in their order,
    repeats aside: none comes before the one below it."""
    highest = collections.Counter()
    for s in stored:
        at = (s.stream, s.partition)
        assert s.seq <= highest[at] + 1, f"{s} after {highest[at]}"
        highest[at] = max(highest[at], s.seq)


def check_interrupted(s):
    event = s.event
    assert event["status_code"] == 0 and event["billable"] is False, s
    assert event["response_time_ms"] == 0, s


def check_answers(by_id, loads, lost=0):
    """Each request answered is an event. Returns how many of them were still
    open, for httpd, when their child died: their last byte was sent, and they
    were not logged."""
    missing, cut = [], 0
    for load in loads:
        for org, ids in load.ids.items():
            for n, i in enumerate(ids):
                if i not in by_id:
                    missing.append((org, n, i))
                    continue
                s = by_id[i]
                assert s.event["organization_id"] == org, s
                assert s.number == n, s
                cut += s.event["status_code"] == 0
                assert s.event["status_code"] in (0, 200), s
    assert len(missing) == lost, \
        f"{len(missing)} answered and not stored: {missing[:5]}"
    return cut


def once_each(stored):
    """{request id: event}; no event is stored under two numbers."""
    by_id, twice = {}, []
    for s in stored:
        if by_id.setdefault(s.event["request_id"], s) is not s:
            twice.append((by_id[s.event["request_id"]], s))
    assert not twice, f"{len(twice)} under two numbers: {twice[:3]}"
    return by_id


def check_events(stored, loads, held=None, lost=0, gaps=0, unknown=0):
    """The whole account of events after children were killed. Takes what is in
    Kafka, returns it without repeats. unknown: so many are of requests that
    none of these tells of."""
    if not gaps:
        check_first_in_order(stored)
    stored = without_repeats(stored)
    check_complete(stored, gaps)
    by_id = once_each(stored)
    for s in stored:
        if s.event["status_code"] == 0:
            check_interrupted(s)
    tails = check_answers(by_id, loads, lost)
    known = {i for load in loads for ids in load.ids.values() for i in ids}
    young, most, unknown = 0, unknown, 0
    if held:
        for i, kind in held.cut.items():
            assert i in by_id, f"{kind} {i} was open, and is no event"
            assert by_id[i].event["status_code"] == 0, by_id[i]
        assert held.left <= set(by_id), "an open one is no event"
        young = len(held.young & set(by_id))
        known |= held.left | held.young | set(held.cut)
    for i in set(by_id) - known:  # answered to nobody
        unknown += 1
        assert by_id[i].event["status_code"] in (0, 200), by_id[i]
    clients = sum(len(load.orgs) for load in loads)
    cut = sum(load.cut.total() for load in loads)
    assert unknown <= cut + most, f"{unknown} events of no request"
    assert tails <= cut + clients, f"{tails} answered ones interrupted"
    print(f"{len(stored)} events; {tails} answered but open, {unknown} of no "
          f"answer, {young} young")
    return stored


def read_events(kafka, topic, *args, **kw):
    """check_events() of what is in a topic now."""
    return check_events(parse(kafka.read(topic)), *args, **kw)


def interrupted(stored):
    return sum(s.event["status_code"] == 0 for s in stored)


def check_metrics(gw, stored, lost=0, interrupted_too=True):
    """admitted = delivered + lost + waiting, and nothing waits."""
    m = gw.settled(30)
    assert m["usage_events_waiting"] == 0, m
    assert sum(gw.lost(m).values()) == lost, m
    assert m["usage_events_delivered_total"] == len(stored), m
    assert m["usage_events_admitted_total"] == len(stored) + lost, m
    if interrupted_too:
        assert m["usage_events_interrupted_total"] == interrupted(stored), m
    return m


# --- the ledger --------------------------------------------------------------

STREAM = ["kind", "stream", "topic", "host", "pid", "opened", "updated",
          "state", "admitted", "waiting", "partitions", "delivered", "lost",
          "interrupted", "watermark", "long"]
LOSS = ["kind", "stream", "hour", "organization_id", "cause", "count",
        "sequences"]


def ledger(kafka, topic):
    """All records of a topic's ledger, in their order: [(key, value)]. Those of
    a key are all in one partition."""
    return [(r.key.decode(), json.loads(r.value))
            for r in kafka.read(f"{topic}-ledger")]


def last_of(records):
    """The last record of each key, as compaction leaves it."""
    return dict(records)


def check_stream_record(value, before):
    assert list(value) == STREAM, value
    assert value["admitted"] == value["waiting"] + value["delivered"] \
        + value["lost"], value
    assert value["waiting"] >= 0, value
    for n in value["partitions"].values():
        assert 0 <= n["delivered"] <= n["sent"], value
    # What is admitted falls when events move to another stream.
    for name in ("watermark", "updated", "delivered", "lost",
                 "interrupted") if before else ():
        assert value[name] >= before[name], (name, before, value)
    for p, n in (before or value)["partitions"].items():
        assert value["partitions"][p]["sent"] >= n["sent"], (before, value)


def check_ledger(records):
    """The equation holds at each record, and nothing is taken back. Returns
    {stream: its last record}, {stream: [its last records of losses]}."""
    seen, losses = {}, collections.defaultdict(list)
    for key, value in records:
        if value["kind"] == "stream":
            assert key == value["stream"]
            check_stream_record(value, seen.get(key))
            seen[key] = value
    for key, value in last_of(records).items():
        if value["kind"] == "loss":
            assert list(value) == LOSS, value
            assert key == "/".join((value["stream"], value["hour"],
                                    value["organization_id"], value["cause"]))
            losses[value["stream"]].append(value)
    for stream, rows in losses.items():
        assert sum(r["count"] for r in rows) == seen[stream]["lost"], stream
    return seen, losses


def all_of(kafka, topic, going_on):
    """Text: how it came that streams are not over."""
    keys = {r["stream"] for r in going_on}
    return "\n".join(f"{r.partition}/{r.offset} {r.timestamp} {r.value}"
                     for r in kafka.read(f"{topic}-ledger")
                     if r.key.decode()[:32] in keys)


def check_sums(kafka, topic, stored, lost=0, states=("closed", "adopted"),
               timeout=20):
    """At the end, the ledger says what is in Kafka: of each stream and
    partition, and in all. Returns check_ledger()'s."""
    def going_on():
        return [r for r in check_ledger(ledger(kafka, topic))[0].values()
                if r["state"] not in states or r["waiting"]]
    end = time.monotonic() + timeout
    while going_on():
        assert time.monotonic() < end, all_of(kafka, topic, going_on())
        time.sleep(0.3)
    seen, losses = check_ledger(ledger(kafka, topic))
    there = collections.Counter((s.stream, s.partition) for s in stored)
    said = collections.Counter()
    for stream, record in seen.items():
        for partition, n in record["partitions"].items():
            said[stream, int(partition)] = n["delivered"]
            assert lost or n["sent"] == n["delivered"], record
        assert record["delivered"] == sum(
            n["delivered"] for n in record["partitions"].values()), record
    assert said == there, (said - there, there - said)
    assert sum(r["admitted"] for r in seen.values()) == len(stored) + lost
    assert sum(r["lost"] for r in seen.values()) == lost
    assert sum(r["interrupted"] for r in seen.values()) == interrupted(stored)
    return seen, losses


def lost_in_ledger(losses):
    """{organization: n} of all records of losses."""
    found = collections.Counter()
    for row in itertools.chain.from_iterable(losses.values()):
        found[row["organization_id"]] += row["count"]
    return found
