# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Steady load whose order is known, and the account of events in Kafka.

    gw = gateway(**to_kafka(kafka, topic))
    load = Load(gw)           # 20 organizations, 400 requests a second
    gw.start()
    with load:
        load.wait(1000)       # answers more
    stored, metrics = check_all(gw, load, kafka, topic)

Each organization has one client, whose next request starts when the last was
logged: on a connection, httpd logs a request before it reads the next, and a
connection's last request is logged before httpd closes it, for which the client
waits. So each child logs an organization's requests in the order of their
numbers, which are in their paths.
"""
import collections
import itertools
import json
import re
import threading
import time
import zlib

from clients.http1 import Closed, Conn, poll, render
from harness import FIELDS, ORGS

Stored = collections.namedtuple(
    "Stored", "partition offset stream seq event number")


def to_kafka(kafka, topic, children=4, conf="", usage=None, **kw):
    """Arguments for gateway(): events go to a topic, and to no file. kafka is
    one of broker.py's, or what UsageKafkaBrokers says."""
    return {
        "children": children, "threads": 32, "backend": None,
        "usage": {"UsageEventFile": None, "UsageKafkaTopic": topic,
                  "UsageKafkaBrokers": getattr(kafka, "bootstrap", kafka),
                  **(usage or {})},
        "server_conf":
            'AliasMatch "^/local/any/" "{htdocs}/local/hello.txt"\n' + conf,
        **kw}


class Load:
    """A sequential client for each organization, together at a steady rate
    (requests a second; None: as they come). pad(n) is what the path of an
    organization's n-th request has in addition. A 503 is counted, and may be
    where may_refuse says so. Another load's keys are known to a gateway that
    has been started. host: a virtual host's name."""

    def __init__(self, gw, organizations=20, rate=400, pad=lambda n: "",
                 connection=16, may_refuse=False, keys=None,
                 host="gateway.test"):
        self.gw, self.pad, self.may_refuse = gw, pad, may_refuse
        self.connection, self.host = connection, host
        self.orgs = ORGS[:organizations]
        self.keys = keys or {org: gw.add_key(org=org)[0] for org in self.orgs}
        self.period = organizations / rate if rate else 0
        self.ended, self.wrong = threading.Event(), []
        #: {organization: [request ids in their order]}
        self.ids = {org: [] for org in self.orgs}
        #: Requests that httpd closed the connection on: it stopped, or wanted
        #: the thread for another. They are sent again.
        self.cut = collections.Counter()
        self.refused = collections.Counter()
        self.threads = [threading.Thread(target=self._client, args=(org,))
                        for org in self.orgs]

    def _client(self, org):
        try:
            start = time.monotonic() + self.period * self.orgs.index(org) \
                / len(self.orgs)
            while not self.ended.is_set():
                if not self._connection(org, start):
                    return
        except Exception as e:
            self.wrong.append(e)

    def _connection(self, org, start):
        """One connection's requests. False where httpd is gone."""
        try:
            conn = Conn(self.gw.port)
        except OSError:
            return False
        with conn:
            for left in reversed(range(self.connection)):
                n = len(self.ids[org])
                self.ended.wait(start + self.period * (n + self.refused[org])
                                - time.monotonic())
                last = left == 0 or self.ended.is_set()
                headers = {"X-API-Key": self.keys[org],
                           "Connection": "close" if last else "keep-alive"}
                try:
                    conn.send(render("GET", f"/local/any/{n}{self.pad(n)}",
                                     headers, host=self.host))
                    answer = conn.answer()
                except (Closed, OSError):
                    self.cut[org] += 1
                    return True
                if self._take(org, answer) or last:
                    assert conn.at_end(timeout=20), "not closed"
                    return True
        return True

    def _take(self, org, answer):
        """Returns whether httpd closes the connection."""
        if answer.status == 503 and self.may_refuse:
            self.refused[org] += 1
        else:
            assert answer.status == 200, answer
            self.ids[org].append(answer.request_id)
        return answer.header("Connection") == "close"

    def start(self):
        for thread in self.threads:
            thread.start()
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

    def answered(self):
        return sum(len(ids) for ids in self.ids.values())

    def wait(self, n, timeout=60):
        """Until n more answers have come."""
        assert not self.wrong, self.wrong[0]
        n += self.answered()
        poll(lambda: self.answered() >= n or self.wrong, timeout, every=0.02,
             what=f"{n} answers")
        assert not self.wrong, self.wrong[0]

    def run(self, seconds):
        """Go on for so long; there must be answers in it."""
        before = self.answered()
        self.ended.wait(seconds)
        assert not self.wrong, self.wrong[0]
        assert self.answered() > before, "no answers"


def caught_up(gw, timeout=60):
    """Wait until all that was admitted so far is delivered or lost."""
    admitted = gw.metrics()["usage_events_admitted_total"]

    def done():
        m = gw.metrics()
        return m["usage_events_delivered_total"] \
            + sum(m["usage_events_lost_total"].values()) >= admitted
    poll(done, timeout, every=0.1, what="what waited is delivered")


# --- what is in Kafka --------------------------------------------------------

def parse(records):
    """Each record's form is checked. Returns Stored, by partition and offset.
    """
    found = []
    for r in records:
        names = [name for name, _ in r.headers]
        assert names == ["usage-stream", "usage-seq", "usage-schema",
                         "content-type"], r
        stream, seq, schema, kind = (value for _, value in r.headers)
        assert (len(stream), len(seq)) == (16, 8), r
        assert (schema, kind) == (b"1", b"application/json"), r
        event = json.loads(r.value)
        assert list(event) == FIELDS, r
        assert r.key.decode() == event["organization_id"], r
        number = re.match(r"/local/any/(\d+)", event["endpoint"])
        found.append(Stored(r.partition, r.offset, stream.hex(),
                            int.from_bytes(seq, "big"), event,
                            int(number[1]) if number else None))
    return sorted(found, key=lambda s: s[:2])


def check_numbers(stored, lost=False, goes_on=False):
    """Each stream counts from 1 in each partition, in the order of offsets,
    without a repeat; without a gap too, unless events were lost by name; from
    1, unless the topic was made again. Returns how many are missing between 1
    and the last."""
    series = collections.defaultdict(list)
    for s in stored:
        series[s.stream, s.partition].append(s.seq)
    missed = 0
    for (stream, partition), seqs in series.items():
        at = f"stream {stream} partition {partition}"
        steps = list(itertools.pairwise([0] + seqs))
        wrong = [(a, b) for a, b in steps if b <= a]
        assert not wrong, f"{at}: out of order: {wrong[:5]}"
        gaps = [(a, b) for a, b in steps[1 if goes_on else 0:] if b != a + 1]
        assert lost or not gaps, f"{at}: {gaps[:5]}"
        missed += seqs[-1] - len(seqs)
    return missed


def check_order(stored):
    """Of each stream, an organization's requests are in their order."""
    series = collections.defaultdict(list)
    for s in stored:
        series[s.stream, s.event["organization_id"]].append(s)
    for (stream, org), row in series.items():
        for a, b in itertools.pairwise(row):
            assert a.partition == b.partition, (stream, a, b)
            assert a.number < b.number, \
                f"stream {stream} organization {org}: {a} came before {b}"


def check_partitions(stored, *counts):
    """Each stream has one number of partitions, by which its events are laid
    out. Returns {stream: set of those that it may be}."""
    may = {}
    for s in stored:
        crc = zlib.crc32(s.event["organization_id"].encode())
        may.setdefault(s.stream, set(counts)).intersection_update(
            n for n in counts if crc % n == s.partition)
    for stream, counts in may.items():
        assert counts, f"stream {stream} is in no such number of partitions"
    return may


def missing(stored, load):
    """Each event is one of an answer, none twice; as many of each organization
    as have none are returned."""
    ids = {}
    for org, answers in load.ids.items():
        ids.update({i: (org, n) for n, i in enumerate(answers)})
    assert len(ids) == load.answered(), "a request id came twice"
    seen, unknown = {}, collections.Counter()
    for s in stored:
        i, org = s.event["request_id"], s.event["organization_id"]
        assert i not in seen, f"twice: {seen[i]} and {s}"
        seen[i] = s
        if i not in ids:  # of an answer that did not come
            unknown[org] += 1
            continue
        assert ids[i] == (org, s.number), s
        assert s.event["status_code"] == 200, s
    # A client's one request that httpd did not answer, at a stop.
    assert not unknown - load.cut, f"events of no request: {unknown}"
    return collections.Counter(
        org for i, (org, _) in ids.items() if i not in seen)


def lost_by_organization(status):
    """{organization: n} of all causes, from usage-status."""
    return collections.Counter({
        o["organization_id"]: sum(o["lost"].values())
        for o in status["lost_by_organization"] if sum(o["lost"].values())})


def check_all(gw, load, kafka, topic, partitions=(12,), causes=()):
    """The whole account, once nothing waits any more. Lost may be what has one
    of these causes. A loss that had a number leaves a gap. Returns what is
    stored, and the numbers."""
    gw.settled(30)
    status = gw.status()
    m = status["metrics"]
    stored = parse(kafka.read(topic))
    lost = {k: n for k, n in m["usage_events_lost_total"].items() if n}
    assert set(lost) <= set(causes), lost
    none = missing(stored, load)
    assert none == lost_by_organization(status), \
        f"missing: {none}; said to be lost: {lost}"
    assert m["usage_events_admitted_total"] == load.answered()
    assert m["usage_events_delivered_total"] == len(stored)
    numbered = sum(n for cause, n in lost.items() if cause != "overflow")
    assert check_numbers(stored, lost=bool(numbered)) <= numbered
    check_order(stored)
    check_partitions(stored, *partitions)
    return stored, m


def lines(gw, number):
    return [x for x in gw.error_log().splitlines() if f"{number}: " in x]


def batches_sent(gw):
    """(events, success, failed) of all lines about batches, which come at
    LogLevel usage_events:debug."""
    found = re.findall(r"\[EventProducer\] Batch sent: (\d+) events "
                       r"\(success=(\d+), failed=(\d+)\)", gw.error_log())
    return tuple(sum(int(one[k]) for one in found) for k in range(3))


def dropped(gw):
    """How many events the log says found no room."""
    log = gw.error_log()
    more = re.findall(r"\(and (\d+) more since|dropped (\d+) more", log)
    return log.count("Buffer full, dropping event for org: ") \
        + sum(int(a or b) for a, b in more)
