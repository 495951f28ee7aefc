# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Fifty thousand requests are fifty thousand events in Kafka, each once, each
right, each in the partition that librdkafka's own partitioner picks.

Kafka's records are read by three clients that are not ours: kcat (librdkafka),
Kafka's own consumer (Java) and kafka-python. They are held against the plan,
the clients' answers and the backend's record, as those of a file are.
"""
import collections
import json
import os
import signal
import zlib

import pytest

from clients.load import Recorder
from harness import FIELDS, ORGS, STATUSES, poll
from kafka_helpers import (Stored, check_numbers, check_partitions, lines,
                           to_kafka)
from test_020_exact import (NAMED, SERVER_CONF, Run, by_organization,
                            check_backend, check_events, check_plan, planned)
from test_040_restarts import LOCAL, through

ROOM = """
UsageKafkaBufferSize 20000
UsageJournalSlots 65536
"""

FAULTS = bool(os.environ.get("UE_FAULTS"))
RESTARTS, KILLS = (100, 30) if FAULTS else (10, 3)


# --- what every record must be -----------------------------------------------

def stored_of(records):
    """Each record's key, value and headers; parsed, by partition and offset."""
    found = []
    for r in records:
        assert [name for name, _ in r.headers] == [
            "usage-stream", "usage-seq", "usage-schema", "content-type"], r
        stream, seq, schema, kind = (value for _, value in r.headers)
        assert (len(stream), len(seq)) == (16, 8), r
        assert (schema, kind) == (b"1", b"application/json"), r
        event = json.loads(r.value.decode("utf-8"))
        assert list(event) == FIELDS, r
        # No space, and nothing but what is in it.
        assert json.dumps(event, separators=(",", ":"), ensure_ascii=False) \
            == r.value.decode("utf-8"), r
        assert r.key == event["organization_id"].encode(), r
        found.append(Stored(r.partition, r.offset, stream.hex(),
                            int.from_bytes(seq, "big"), event, None))
    return found


def check_records(records, streams, partitions=12):
    """All of a topic: offsets, streams and their numbers, partitions. Returns
    the events."""
    stored = stored_of(records)
    offsets = collections.defaultdict(list)
    for s in stored:
        offsets[s.partition].append(s.offset)
    for partition, there in offsets.items():
        assert there == list(range(len(there))), f"partition {partition}"
    check_numbers(stored)
    check_partitions(stored, partitions)
    found = {s.stream for s in stored}
    assert 1 <= len(found) <= streams, found
    ids = {s.event["request_id"] for s in stored}
    assert len(ids) == len(stored), "a request id came twice"
    return [s.event for s in stored]


def check_readers(kafka, topic, records):
    """What two other clients read is the same, byte for byte."""
    plain = [r._replace(headers=None) for r in records]
    assert kafka.read_kcat(topic) == plain
    assert kafka.read_java(topic) == records


def picked_by_librdkafka(kafka, orgs, partitions=12):
    """{organization: partition}: where kcat puts a message with that key."""
    topic = kafka.topic(partitions)
    for org in orgs:
        kafka.deliver(topic, [org], key=org)
    return {r.value.decode(): r.partition
            for r in kafka.wait_records(topic, len(orgs))}


def check_picked(kafka, records):
    """Each organization is in one partition: librdkafka's choice, and zlib's.
    """
    where = collections.defaultdict(set)
    for r in records:
        where[r.key.decode()].add(r.partition)
    picked = picked_by_librdkafka(kafka, sorted(where))
    assert {org: {p} for org, p in picked.items()} == where
    assert {org: zlib.crc32(org.encode()) % 12 for org in where} == picked
    return picked


def check_batches(kafka, topic, n, producers):
    """On the broker's disk: idempotent producers, whose batches follow each
    other without a gap, compressed by them with snappy."""
    batches = kafka.batches(topic)
    assert sum(b["count"] for b in batches) == n
    assert {b["compresscodec"].lower() for b in batches} == {"snappy"}
    following = collections.Counter()
    for b in batches:
        at = b["partition"], b["producerId"]
        assert b["producerId"] >= 0 and b["producerEpoch"] == 0, b
        assert b["baseSequence"] == following[at], b
        following[at] += b["count"]
    assert 1 <= len({b["producerId"] for b in batches}) <= producers
    return batches


def all_delivered(gw, total, timeout=60):
    m = gw.settled(timeout)
    assert m["usage_events_admitted_total"] == total
    assert m["usage_events_delivered_total"] == total
    assert gw.lost(m) == {}
    assert m["usage_requests_total"]["allowed"] == total
    assert sum(m["usage_delivery_errors_total"].values()) == 0
    assert m["usage_sink_errors_total"] == 0
    return m


# --- each request an event, once ---------------------------------------------

def with_keys(gateway, kafka, topic, backend, mpm="event", conf=SERVER_CONF,
              orgs=20, **kw):
    """A gateway into a topic, and keys of as many organizations."""
    gw = gateway(**to_kafka(kafka, topic, mpm=mpm, backend=backend,
                            threads=16, **kw))
    gw.server_conf = conf
    return gw, [gw.add_key(org=org) for org in ORGS[:orgs]]


def check_run(gw, run, backend, kafka, topic, total):
    """The whole account of a run. Returns the records."""
    assert len(run.sent) == total
    all_delivered(gw, total)
    records = kafka.wait_records(topic, total)
    events = check_records(records, streams=gw.count)
    assert {e["organization_id"] for e in events} == set(ORGS[:20])
    check_events(events, run)
    check_plan(events, run)
    check_backend(events, backend.requests(), run)
    by_id = {e["request_id"]: e for e in events}
    for request_id, status in run.statuses.items():
        assert by_id[request_id]["status_code"] == status
    return records


@pytest.mark.mpms("event")
@pytest.mark.parametrize("total", [50000])
def test_fifty_thousand_requests(gateway, backend, kafka, mpm, total):
    topic = kafka.topic(partitions=12, compression_type="producer")
    gw, keys = with_keys(gateway, kafka, topic, backend, mpm)
    gw.start()
    run = Run()
    run.wrk(gw, planned(total, "kept", keys, STATUSES), connections=16)
    records = check_run(gw, run, backend, kafka, topic, total)
    check_readers(kafka, topic, records)
    picked = check_picked(kafka, records)
    gw.stop()
    assert kafka.count(topic) == total, "an event came after the last"
    batches = check_batches(kafka, topic, total, producers=gw.count)
    streams = len({r.headers[0] for r in records})
    plain = sum(len(r.value) for r in records)
    print(f"{total} events, each once: {len(picked)} organizations in "
          f"{len(set(picked.values()))} of 12 partitions, {streams} streams, "
          f"{len(batches)} batches, {sum(b['size'] for b in batches)} bytes "
          f"of {plain} of JSON")


@pytest.mark.mpms("worker", "prefork")
@pytest.mark.parametrize("total", [4000])
def test_other_mpms(gateway, backend, kafka, mpm, total):
    topic = kafka.topic(partitions=12, compression_type="producer")
    gw, keys = with_keys(gateway, kafka, topic, backend, mpm)
    gw.start()
    run = Run()
    run.wrk(gw, planned(total // 2, "kept", keys, STATUSES))
    run.h2load(gw, by_organization(total // 2, "one", keys, "GET", "", NAMED),
               h1=True)
    records = check_run(gw, run, backend, kafka, topic, total)
    check_readers(kafka, topic, records)
    gw.stop()
    check_batches(kafka, topic, total, producers=gw.count)


@pytest.mark.mpms("event", "worker")
@pytest.mark.parametrize("total", [4000])
def test_http2(gateway, backend, kafka, mpm, total):
    topic = kafka.topic(partitions=12)
    gw, keys = with_keys(gateway, kafka, topic, backend, mpm,
                         SERVER_CONF + "Protocols h2c http/1.1",
                         modules=["http2"])
    gw.start()
    run = Run()
    run.h2load(gw, by_organization(total // 2, "two", keys, "POST", "posted",
                                   STATUSES))
    run.h2load(gw, by_organization(total // 2, "head", keys, "HEAD", "",
                                   STATUSES))
    check_run(gw, run, backend, kafka, topic, total)
    gw.stop()
    assert kafka.count(topic) == total, "an event came after the last"


# --- restarts and kills under load -------------------------------------------

@pytest.fixture
def loaded(gateway, backend, kafka):
    """A gateway with keys of twenty organizations, and targets for wrk."""
    gw, keys = with_keys(gateway, kafka, kafka.topic(12), backend, conf=ROOM,
                         server_limit=16)
    gw.topic = gw.usage["UsageKafkaTopic"]
    gw.targets = [(LOCAL if i % 10 == 9 else f"/status/{s}/{i}", keys[i][0])
                  for i, s in enumerate((200, 404, 503, 201, 301) * 4)]
    return gw


def test_graceful_restarts_under_load(loaded, backend, kafka):
    """No answered request is without its event, none has two, and the numbers
    of each child's stream have no gap."""
    gw = loaded
    gw.start()
    with Recorder(gw, gw.targets) as wrk:
        for _ in range(RESTARTS):
            gw.graceful()
            wrk.wait(300)
    poll(lambda: len(gw.children()) <= gw.count, 30,
         what="the old generations are gone")
    m = gw.settled(30)
    assert gw.lost(m) == {}
    n = m["usage_events_admitted_total"]
    assert m["usage_events_delivered_total"] == n
    records = kafka.wait_records(gw.topic, n)
    events = check_records(records, streams=gw.count * (RESTARTS + 1))
    streams = {r.headers[0] for r in records}
    assert len(streams) > RESTARTS, "each generation has streams of its own"
    missing, unseen = through(events, backend)
    assert not missing, f"{len(missing)} requests without an event"
    ids = {e["request_id"]: e for e in events}
    # Let through, but the backend connection was just being closed.
    assert all(ids[i]["status_code"] == 0 or ids[i]["status_code"] >= 400
               for i in unseen)
    for status, request_id in wrk.answered():
        assert ids[request_id]["status_code"] == status
    assert gw.resumed() == RESTARTS + 1
    gw.stop()
    # The last requests' connections end with wrk; nothing else comes.
    assert kafka.count(gw.topic) == n, "an event came after the last"
    assert not lines(gw, "UE0201") and not lines(gw, "UE0202")
    print(f"{RESTARTS} graceful restarts: {n} events of {len(streams)} streams,"
          " each once")


def test_kill_of_a_child_under_load(loaded, backend, kafka):
    """What a killed child had is lost, to the unit that usage-status names as
    unknown: some of it may have reached Kafka. All else is there, once."""
    gw = loaded
    gw.allow_signal(signal.SIGKILL)
    gw.start()
    with Recorder(gw, gw.targets) as wrk:
        wrk.wait(1000)
        for _ in range(KILLS):
            os.kill(gw.children()[0], signal.SIGKILL)
            wrk.wait(500)
    m = gw.settled()
    unknown = gw.lost(m).get("unknown", 0)
    assert set(gw.lost(m)) == {"unknown"}, m
    admitted = m["usage_events_admitted_total"]
    delivered = m["usage_events_delivered_total"]
    assert delivered == admitted - unknown
    records = kafka.read(gw.topic)
    # A killed child's numbers end early, and have no gap either.
    events = check_records(records, streams=gw.count + KILLS)
    assert delivered <= len(events) <= admitted
    missing, _ = through(events, backend)
    missing |= {i for _, i in wrk.answered()} - {
        e["request_id"] for e in events}
    assert missing, "nothing was lost: was there load?"
    assert len(missing) <= admitted - len(events) <= unknown
    gw.stop()
    assert kafka.count(gw.topic) == len(events), "an event came afterwards"
    print(f"{KILLS} kills: {admitted} admitted, {len(events)} in Kafka, "
          f"{unknown} unknown, {admitted - len(events)} of them lost")


# --- can the checks fail? ----------------------------------------------------

def test_the_checks_can_fail(kafka):
    """On real records, made by kcat: a wrong one anywhere is seen."""
    event = dict(zip(FIELDS, ("i", ORGS[0], "k", "/é", "GET", 200, 1, "t",
                              True)))
    value = json.dumps(event, separators=(",", ":"), ensure_ascii=False)
    headers = {"usage-stream": "s" * 16, "usage-seq": "12345678",
               "usage-schema": "1", "content-type": "application/json"}

    def made(value=value, key=ORGS[0], **change):
        topic = kafka.topic(12)
        kafka.deliver(topic, [value], key=key, headers={
            k: v for k, v in {**headers, **change}.items() if v})
        [record] = kafka.wait_records(topic, 1)
        return record

    def numbered(record, n=1):
        at = ("usage-seq", n.to_bytes(8, "big"))
        return record._replace(headers=[
            record.headers[0], at, *record.headers[2:]])

    good = made()
    assert check_records([numbered(good)], streams=1) == [event]
    again = numbered(good, 2)._replace(offset=1, value=value.replace(
        '"i"', '"j"').encode())
    check_records([numbered(good), again], streams=1)
    for wrong in ([good], [numbered(good, 2)], [numbered(good), again,
                  again._replace(offset=2)],
                  [numbered(good), again._replace(offset=2)],
                  [numbered(good), numbered(again, 3)],
                  [numbered(good), again._replace(value=good.value)],
                  [numbered(good)._replace(partition=good.partition ^ 1)],
                  [numbered(made(value=value.replace(":", ": ")))],
                  [numbered(made(value=value.replace("billable", "bill")))],
                  [numbered(made(key=ORGS[1]))],
                  [numbered(made(**{"usage-stream": "short"}))],
                  [numbered(made(**{"usage-schema": "2"}))],
                  [numbered(made(**{"content-type": "text/plain"}))]):
        with pytest.raises(AssertionError):
            check_records(wrong, streams=1)
    with pytest.raises(AssertionError):
        stored_of([made(**{"content-type": None})])
    with pytest.raises(AssertionError):
        check_records([numbered(good)], streams=0)
    with pytest.raises(AssertionError):
        check_picked(kafka, [good._replace(partition=good.partition ^ 1)])
    with pytest.raises(AssertionError):
        check_batches(kafka, good.topic, 1, 1)  # kcat is not idempotent
