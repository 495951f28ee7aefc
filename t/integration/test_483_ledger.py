# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""The ledger: its records byte for byte, its topic, its watermark, and what it
says when the number of partitions changes.

That requests open for more than an hour are listed and don't hold the watermark
back is for unit tests: nobody waits here for an hour.
"""
import collections
import json
import os
import re
import socket
import threading
import time

import pytest

from harness import ORGS, Conn, poll, when
from kafka_helpers import Load, caught_up, check_partitions, parse
from spool_helpers import (LOSS, STREAM, check_ledger, check_metrics,
                           check_sums, emptied, kill, kill_tree, ledger,
                           make_spool, read_events, spool_ls, waiting,
                           with_spool)

FAULTS = bool(os.environ.get("UE_FAULTS"))
LOOK_OFTEN = "UsageKafkaOption topic.metadata.refresh.interval.ms 1000\n"


@pytest.fixture
def spooled(kafka_far, gateway):
    def make(partitions=12, topic_config=None, **kw):
        topic = kafka_far.topic(partitions, **(topic_config or {}))
        gw = gateway(**with_spool(kafka_far, topic, **kw))
        gw.topic, gw.spool = topic, make_spool(gw)
        return gw
    return make


# --- bytes --------------------------------------------------------------------

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


def stream_pattern(topic, pid):
    """A record of a stream, as docs/formats.md has it."""
    lanes = r'("\d+":\{"sent":\d+,"delivered":\d+\},?)*'
    return (r'\{"kind":"stream","stream":"[0-9a-f]{32}","topic":"%s",'
            r'"host":"%s","pid":%d,"opened":"%s","updated":"%s",'
            r'"state":"(open|closed)","admitted":\d+,"waiting":\d+,'
            r'"partitions":\{%s\},"delivered":\d+,"lost":\d+,"interrupted":\d+,'
            r'"watermark":"%s","long":\[\]\}') % (
                re.escape(topic), re.escape(socket.gethostname()), pid, TIME,
                TIME, lanes, TIME)


LOSS_RECORD = (
    r'\{"kind":"loss","stream":"[0-9a-f]{32}",'
    r'"hour":"\d{4}-\d\d-\d\dT\d\d:00:00Z","organization_id":"%s",'
    r'"cause":"(overflow|rejected)","count":\d+,"sequences":\{%s\}\}') % (
        UUID, r'("\d+":\[(\[\d+,\d+\],?)+\],?)*')


def check_bytes(record, topic, pid):
    key, text = record.key.decode(), record.value.decode()
    value = json.loads(text)
    assert json.dumps(value, separators=(",", ":")) == text
    if value["kind"] == "stream":
        assert re.fullmatch(stream_pattern(topic, pid), text), text
        assert list(value) == STREAM and key == value["stream"]
        lanes = [int(p) for p in value["partitions"]]
        assert lanes == sorted(lanes)
    else:
        assert re.fullmatch(LOSS_RECORD, text), text
        assert list(value) == LOSS
        assert key == f"{value['stream']}/{value['hour']}/" \
            f"{value['organization_id']}/{value['cause']}"
    return value


def rejected_numbers(losses):
    """{(partition, number)} that records of losses name."""
    found = set()
    for value in losses:
        named = {(int(p), n) for p, runs in value["sequences"].items()
                 for a, b in runs for n in range(a, b + 1)}
        assert len(named) == value["count"], value
        found |= named
    return found


def test_records(spooled, kafka_far):
    """Those of a stream that delivers, and loses some events under their
    numbers and others without."""
    gw = spooled(partitions=3, topic_config={"max_message_bytes": 1500},
                 children=1, most="1m")
    load = Load(gw, organizations=6, rate=600, pad=lambda n: "/" + os.urandom(
        900).hex() if n % 50 == 3 else "")
    gw.start()
    [pid] = gw.children()
    with load:
        load.wait(200)
        kafka_far.proxy("stall")
        poll(lambda: gw.lost().get("overflow", 0) > 20, 20,
             what="events find no slot")
        kafka_far.proxy("pass")
        load.run(0.5)
    caught_up(gw)
    lost = gw.lost()
    stored = parse(kafka_far.read(gw.topic))
    gw.stop()
    seen, losses = check_sums(kafka_far, gw.topic, stored,
                              lost=sum(lost.values()))
    values = [check_bytes(r, gw.topic, pid)
              for r in kafka_far.read(f"{gw.topic}-ledger")]
    assert {v["kind"] for v in values} == {"stream", "loss"}
    [record], [rows] = seen.values(), losses.values()
    assert record["state"] == "closed" and record["waiting"] == 0
    by_cause = collections.Counter()
    for row in rows:
        by_cause[row["cause"]] += row["count"]
    assert by_cause == lost and set(lost) == {"overflow", "rejected"}
    assert all(row["sequences"] == {} for row in rows
               if row["cause"] == "overflow")
    # What was rejected is just what the numbers in Kafka leave out.
    gone = rejected_numbers(r for r in rows if r["cause"] == "rejected")
    there = {(s.partition, s.seq) for s in stored}
    assert not gone & there
    assert gone | there == {
        (int(p), k) for p, n in record["partitions"].items()
        for k in range(1, n["sent"] + 1)}
    assert {row["organization_id"] for row in rows} <= set(ORGS[:6])
    first = min(when(s.event["timestamp"]) for s in stored)
    assert when(record["opened"]) <= first <= when(record["updated"])


def test_the_topic(spooled, kafka_far):
    """The module makes it, compacted, before its first record; who has made it
    before is not asked for more."""
    gw = spooled(children=2)
    gw.start()
    poll(lambda: f"{gw.topic}-ledger" in kafka_far.topics(), 20, every=0.2,
         what="the ledger's topic")
    poll(lambda: len(ledger(kafka_far, gw.topic)) >= 2, 20, every=0.2,
         what="a first record of each child")
    config = kafka_far.topic_config(f"{gw.topic}-ledger")
    assert config["cleanup.policy"] == "compact", config
    gw.stop()
    assert {v["state"] for v in check_ledger(
        ledger(kafka_far, gw.topic))[0].values()} == {"closed"}


# --- the watermark ------------------------------------------------------------

class SlowHeaders:
    """Clients that send a request line, wait three seconds, and send the
    rest."""

    def __init__(self, gw, key, clients=6):
        self.gw, self.key = gw, key
        self.ended, self.wrong, self.answers = threading.Event(), [], 0
        self.threads = [threading.Thread(target=self._client, args=(n,))
                        for n in range(clients)]

    def _client(self, n):
        try:
            self.ended.wait(n * 0.5)
            while not self.ended.is_set():
                with Conn(self.gw.port) as conn:
                    conn.send(b"GET /local/any/0 HTTP/1.1\r\n")
                    self.ended.wait(3)
                    conn.send(b"Host: gateway.test\r\nX-API-Key: %s\r\n"
                              b"Connection: close\r\n\r\n" % self.key.encode())
                    assert conn.answer().status == 200
                    self.answers += 1
        except Exception as e:
            self.wrong.append(e)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self.ended.set()
        for thread in self.threads:
            thread.join(30)
        assert not self.wrong, self.wrong[0]


def check_watermarks(kafka, topic):
    """No event of a stream that was handed to Kafka after a record of the
    ledger is earlier than its watermark. Returns how many comparisons meant
    something: events that came after a record."""
    events = collections.defaultdict(list)
    for r in kafka.read(topic):
        event = json.loads(r.value)
        events[dict(r.headers)["usage-stream"].hex()].append(
            (r.timestamp, when(event["timestamp"])))
    compared = 0
    for r in kafka.read(f"{topic}-ledger"):
        value = json.loads(r.value)
        if value["kind"] != "stream":
            continue
        mark = when(value["watermark"])
        assert mark <= r.timestamp / 1000 + 0.01, value
        for sent, began in events[value["stream"]]:
            if sent > r.timestamp:
                compared += 1
                assert began >= mark, (value, sent, began)
    return compared


def test_watermark(spooled, kafka_far):
    """With clients that are slow to send their headers, and an outage in which
    it stands still."""
    gw = spooled(children=2)
    load = Load(gw, rate=200)
    key = gw.add_key(org=ORGS[50])[0]
    gw.start()

    def mark():
        return max(when(v["watermark"]) for v in check_ledger(
            ledger(kafka_far, gw.topic))[0].values())
    with load, SlowHeaders(gw, key) as slow:
        load.run(8)
        kafka_far.proxy("stall")
        begin = time.time()
        load.run(4 if not FAULTS else 40)
        kafka_far.proxy("pass")
        poll(lambda: mark() > begin, 25, every=0.5, what="it goes on")
        load.run(0.5)
    assert slow.answers > 20
    caught_up(gw)
    stored = read_events(kafka_far, gw.topic, [], unknown=load.answered()
                         + slow.answers)
    check_metrics(gw, stored)
    gw.stop()
    assert check_watermarks(kafka_far, gw.topic) > 500
    check_sums(kafka_far, gw.topic, stored)


# --- partitions ---------------------------------------------------------------

def test_more_partitions_under_load(spooled, kafka_far):
    """From 12 to 24: each child closes its stream and begins another."""
    gw = spooled(conf=LOOK_OFTEN)
    load = Load(gw)
    gw.start()
    with load:
        load.run(1.5)
        poll(lambda: len({s.stream for s in parse(kafka_far.read(gw.topic))})
             == 4, 20, every=0.3, what="a stream of each child")
        kafka_far.add_partitions(gw.topic, 24)
        poll(lambda: len({s.stream for s in parse(kafka_far.read(gw.topic))})
             == 8, 20, every=0.3, what="a new stream of each child")
        load.run(1)
    caught_up(gw)
    poll(lambda: len(spool_ls(gw.spool)) == 4, 10, every=0.2,
         what="the old streams' files go away")
    stored = read_events(kafka_far, gw.topic, [load])
    check_partitions(stored, 12, 24)
    check_metrics(gw, stored)
    states = [v["state"] for v in check_ledger(
        ledger(kafka_far, gw.topic))[0].values()]
    assert collections.Counter(states) == {"closed": 4, "open": 4}
    gw.stop()
    check_sums(kafka_far, gw.topic, stored, states=["closed"])


def test_kills_while_partitions_change(spooled, kafka_far):
    """Streams are handed on while their children's own begin anew."""
    gw = spooled(partitions=3, conf=LOOK_OFTEN)
    load = Load(gw, rate=None, connection=50)
    counts = [3 + 2 * n for n in range(16 if FAULTS else 4)]
    gw.start()
    with load:
        load.wait(300)
        for count in counts[1:]:
            kafka_far.add_partitions(gw.topic, count)
            for _ in range(2):
                kill(gw)
                load.wait(100)
    caught_up(gw)
    emptied(gw.spool)
    stored = read_events(kafka_far, gw.topic, [load])
    check_partitions(stored, *counts)
    check_metrics(gw, stored)
    gw.stop()
    check_sums(kafka_far, gw.topic, stored)


def test_more_partitions_between_a_kill_and_a_start(spooled, kafka_far):
    """What has a number goes to its old partition under it; the rest is dealt
    out anew, under the streams of those who took it over."""
    gw = spooled(conf=LOOK_OFTEN)
    load = Load(gw, rate=1000)
    gw.start()
    with load:
        load.run(1)
        kafka_far.proxy("stall-back")
        load.run(1.5)
        kill_tree(gw)
    assert waiting(gw.spool) > 500
    kafka_far.proxy("pass")
    kafka_far.add_partitions(gw.topic, 24)
    gw.start()
    after = Load(gw, keys=load.keys)
    with after:
        after.run(1)
    caught_up(gw)
    emptied(gw.spool)
    stored = read_events(kafka_far, gw.topic, [load, after])
    may = check_partitions(stored, 12, 24)
    assert {n for counts in may.values() for n in counts} == {12, 24}
    gw.stop()
    check_sums(kafka_far, gw.topic, stored)


def fewer_partitions(spooled, kafka_far, partitions):
    """The topic was deleted and made again: all that waited comes, under new
    numbers, once it is sure that there are no more partitions."""
    gw = spooled(conf=LOOK_OFTEN)
    load = Load(gw, rate=1000)
    gw.start()
    with load:
        load.run(1)
        caught_up(gw)
        kafka_far.proxy("refuse")
        load.run(1)
        kill_tree(gw)
    before = {s.event["request_id"] for s in parse(kafka_far.read(gw.topic))}
    left = waiting(gw.spool)
    assert left > 500
    kafka_far.delete_topic(gw.topic)
    kafka_far.create_topic(gw.topic, partitions)
    kafka_far.proxy("pass")
    gw.start()
    caught_up(gw)
    emptied(gw.spool)
    stored = parse(kafka_far.read(gw.topic))
    new = {s.event["request_id"] for s in stored}
    assert len(new) == len(stored) == left
    answered = {i for ids in load.ids.values() for i in ids}
    assert answered <= before | new and not before & new
    check_partitions(stored, partitions)
    gw.stop()


if FAULTS:  # it takes half a minute
    def test_fewer_partitions_between_a_kill_and_a_start(spooled, kafka_far):
        fewer_partitions(spooled, kafka_far, 5)
