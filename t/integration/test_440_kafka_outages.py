# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Kafka away, stalled, cut off, moved about, under steady load: what had room
is delivered, once and in order; what had not is counted by organization.

make test-faults has longer outages, and more of them.
"""
import collections
import os
import random
import re

import pytest

from broker import Kafka, kafka_tool
from harness import poll
from kafka_helpers import (Load, batches_sent, caught_up, check_all,
                           check_numbers, check_order, check_partitions,
                           dropped, lines, missing, parse, to_kafka)

FAULTS = bool(os.environ.get("UE_FAULTS"))

DEBUG = "LogLevel usage_events:debug\n"
LOOK_OFTEN = "UsageKafkaOption topic.metadata.refresh.interval.ms 1000\n"


def end_well(gw):
    """Nothing was left at the end, either."""
    gw.stop()
    assert "UE0201" not in gw.error_log()


# --- one broker --------------------------------------------------------------

def test_absent_at_start(servers, gateway):
    kafka = servers.add(Kafka("kafka-late"))
    gw = gateway(**to_kafka(kafka, "usage-late", conf=DEBUG))
    load = Load(gw)
    gw.start()
    with load:
        gw.wait_log("UE0401")
        load.run(20 if FAULTS else 3)
        m = gw.metrics()
        assert m["usage_events_delivered_total"] == 0
        assert m["usage_kafka_connected_producers"] == 0
        kafka.start()
        gw.wait_log("UE0402", 20)
        caught_up(gw)
        load.run(1)
    stored, m = check_all(gw, load, kafka, "usage-late")
    assert len({s.stream for s in stored}) == 4
    assert m["usage_kafka_connected_producers"] == 4
    # Four children met it, and one line says it.
    assert [len(lines(gw, n)) for n in ("UE0401", "UE0402")] == [1, 1]
    assert batches_sent(gw) == (len(stored), len(stored), 0)
    end_well(gw)


def killed(kafka, gw, topic):
    kafka.kill()
    yield 10
    kafka.start()


def frozen(kafka, gw, topic):
    kafka.pause()
    yield 30
    kafka.resume()


def by_proxy(mode, seconds=2):
    def outage(kafka, gw, topic):
        kafka.proxy(mode)
        yield seconds
        kafka.proxy("pass")
    outage.__name__ = mode
    return outage


def unconfirmed(kafka, gw, topic):
    """Written, and then the line is cut before Kafka can say so."""
    kafka.proxy("stall-back")
    yield 2
    # Counted in this order: what is delivered meanwhile can't make it true.
    assert kafka.count(topic) > gw.metrics()["usage_events_delivered_total"]
    kafka.proxy("refuse")
    yield 1
    kafka.proxy("pass")


OUTAGES = [[killed, by_proxy("refuse"), unconfirmed,
            by_proxy("cut 20000", 3)], [frozen, unconfirmed]]
if FAULTS:
    OUTAGES = [[killed, frozen, by_proxy("refuse", 20), unconfirmed,
                by_proxy("stall", 70), by_proxy("stall-back", 70),
                by_proxy("cut 5000", 20)]]


@pytest.mark.parametrize("outages", OUTAGES,
                         ids=lambda all_: all_[0].__name__)
def test_one_broker(kafka_own, gateway, outages):
    kafka = kafka_own(proxy=True)
    topic = kafka.topic()
    gw = gateway(**to_kafka(
        kafka, topic, conf=DEBUG + "UsageJournalSlots 65536\n"))
    load = Load(gw)
    gw.start()
    with load:
        load.wait(400)
        caught_up(gw)
        for outage in outages:
            for seconds in outage(kafka, gw, topic):
                load.run(seconds)
            load.run(0.5)
            caught_up(gw)
            print(outage.__name__, load.answered(), kafka.proxy_stats())
    stored, _ = check_all(gw, load, kafka, topic)
    assert len({s.stream for s in stored}) == 4, "a stream was given up"
    sent, success, failed = batches_sent(gw)
    assert success == len(stored) and sent == success + failed
    # Said for all children together, and over as often as it began.
    poll(lambda: len(lines(gw, "UE0401")) == len(lines(gw, "UE0402")), 15,
         what="as many lines of its return as of Kafka's absence")
    assert len(lines(gw, "UE0401")) <= 2 * len(outages)
    end_well(gw)


@pytest.mark.parametrize("overflow", ["drop", "refuse"])
def test_no_room(kafka_own, gateway, overflow):
    """More comes than has room while Kafka stalls."""
    kafka = kafka_own(proxy=True)
    topic = kafka.topic()
    gw = gateway(**to_kafka(kafka, topic, conf=f"""
UsageJournalSlots 100
UsageKafkaBufferSize 64
UsageOverflow {overflow}
"""))
    load = Load(gw, may_refuse=overflow == "refuse")
    gw.start()
    with load:
        load.wait(200)
        caught_up(gw)
        kafka.proxy("stall")
        if overflow == "drop":
            load.wait(1000)
        else:
            poll(lambda: sum(load.refused.values()) > 500, 20,
                 what="requests are refused")
        m = gw.metrics()
        kafka.proxy("pass")
        caught_up(gw)
        load.run(1)
    assert 0 < m["usage_events_waiting"] <= 4 * 100
    drop = overflow == "drop"
    stored, m = check_all(gw, load, kafka, topic,
                          causes=["overflow"] if drop else [])
    lost = load.answered() - len(stored)
    assert (lost > 500) == drop and bool(load.refused) != drop
    poll(lambda: dropped(gw) == lost, 5, what="all losses are in the log")
    assert m["usage_requests_total"]["unavailable"] \
        == sum(load.refused.values())
    end_well(gw)


# --- too large ---------------------------------------------------------------

def noise(n, size):
    """Text that can't be compressed."""
    return "/" + random.Random(n).randbytes(size // 2).hex()


def test_some_events_are_too_large(kafka, gateway):
    """Every tenth is larger than the topic takes; it is lost by name, and takes
    nobody with it."""
    topic = kafka.topic(max_message_bytes=1000)
    gw = gateway(**to_kafka(kafka, topic))
    load = Load(gw, pad=lambda n: noise(n, 1000) if n % 10 == 3 else "")
    gw.start()
    with load:
        load.wait(2000)
    stored, m = check_all(gw, load, kafka, topic, causes=["rejected"])
    large = sum(n % 10 == 3 for ids in load.ids.values()
                for n in range(len(ids)))
    assert len(stored) == load.answered() - large
    assert all(s.number % 10 != 3 for s in stored)
    assert m["usage_events_lost_total"]["rejected"] == large
    assert m["usage_delivery_errors_total"]["permanent"] == large
    [line] = [x for x in lines(gw, "UE0409") if topic in x][:1] or [""]
    assert "too large" in line, gw.error_log()
    end_well(gw)


def test_batches_are_too_large(kafka, gateway):
    """Each event fits, but no batch does: all come."""
    topic = kafka.topic(partitions=2, max_message_bytes=3000)
    gw = gateway(**to_kafka(kafka, topic, conf=DEBUG))
    load = Load(gw, pad=lambda n: noise(n, 600))
    gw.start()
    with load:
        load.wait(2000)
    stored, _ = check_all(gw, load, kafka, topic, partitions=[2])
    sent, success, failed = batches_sent(gw)
    assert success == len(stored) and failed > 0
    assert not lines(gw, "UE0409")
    end_well(gw)


# --- topics that change ------------------------------------------------------

def streams(kafka, topic):
    return len({s.stream for s in parse(kafka.read(topic))})


def test_more_partitions(kafka, gateway):
    """From 12 to 24: new streams, no repeat, no gap."""
    topic = kafka.topic(partitions=12)
    gw = gateway(**to_kafka(kafka, topic, conf=LOOK_OFTEN))
    load = Load(gw)
    gw.start()
    with load:
        load.wait(200)
        poll(lambda: streams(kafka, topic) == 4, 20, every=0.3,
             what="a stream of each child")
        kafka.add_partitions(topic, 24)
        poll(lambda: streams(kafka, topic) == 8, 20, every=0.3,
             what="a new stream of each child")
        load.run(1)
    stored, _ = check_all(gw, load, kafka, topic, partitions=[12, 24])
    counts = check_partitions(stored, 12, 24)
    assert len(counts) == 8
    assert {s.partition for s in stored if s.partition >= 12}
    end_well(gw)


def of_deleted_topic(kafka, topic):
    """What a deleted topic held is on the disk for a minute: the request ids by
    partition, in their order."""
    files = sorted(kafka.data.glob(f"{topic}-*-delete/*.log"))
    assert files, f"nothing in {kafka.data} of {topic}"
    found = collections.defaultdict(list)
    for line in kafka_tool(
            "tools.DumpLogSegments", "--print-data-log", "--files",
            ",".join(map(str, files))).splitlines():
        if line.startswith("Dumping "):
            partition = int(re.search(r"-(\d+)\.\w+-delete/", line)[1])
        record = re.search(r'\{"request_id":"([^"]+)"', line)
        if record:
            found[partition].append(record[1])
    return found


def all_series(kafka, topic):
    """Wait until each of four children has written to each of twelve
    partitions. Returns all that is stored."""
    def look():
        stored = parse(kafka.read(topic))
        all_there = len({(s.stream, s.partition) for s in stored}) == 4 * 12
        return all_there and stored
    return poll(look, 30, every=0.3, what="all streams in all partitions")


@pytest.mark.parametrize("partitions", [12, 5, 24] if FAULTS else [12, 5])
def test_a_topic_deleted_and_made_again(kafka_own, gateway, partitions):
    """What it held went with it; the rest is there, once. Numbers go on, where
    the topic has as many partitions as before; else there are new streams."""
    kafka = kafka_own(extra={"auto.create.topics.enable": "false"})
    topic = kafka.create_topic("usage-again")
    gw = gateway(**to_kafka(kafka, topic, conf=LOOK_OFTEN))
    load = Load(gw, connection=2)
    gw.start()
    with load:
        load.wait(400)
        before = all_series(kafka, topic) if partitions == 12 \
            else parse(kafka.read(topic))
        kafka.delete_topic(topic)
        load.run(45 if FAULTS else 3)
        kafka.create_topic(topic, partitions)
        gone = of_deleted_topic(kafka, topic)
        caught_up(gw)
        load.run(1)
        if partitions == 12:
            all_series(kafka, topic)
    m = gw.settled(30)
    stored = parse(kafka.read(topic))
    old = [i for ids in gone.values() for i in ids]
    new = {s.event["request_id"] for s in stored}
    assert len(set(old)) == len(old) >= len(before) and not new & set(old)
    assert {s.event["request_id"] for s in before} <= set(old)
    answered = {i for ids in load.ids.values() for i in ids}
    assert len(answered) == load.answered()
    assert new | set(old) == answered
    assert m["usage_events_delivered_total"] == load.answered()
    assert gw.lost(m) == {}
    assert missing(stored, load).total() == len(old)
    check_order(stored)
    # What had its number before goes on in its stream, at its partition.
    begun_before = {s.stream for s in before}
    on = [s for s in stored if s.stream in begun_before]
    begun = [s for s in stored if s.stream not in begun_before]
    numbers = check_numbers(on, goes_on=True)
    check_partitions(on, 12)
    check_numbers(begun)
    check_partitions(begun, partitions)
    if partitions == 12:
        assert not begun and numbers == len(old)
    else:
        assert len({s.stream for s in begun}) == 4 and numbers <= len(old)
    said = lines(gw, "UE0407")
    assert len(said) == 1 and topic in said[0]
    end_well(gw)


# --- three brokers -----------------------------------------------------------

def test_three_brokers(kafka_cluster, gateway):
    """One is killed and comes back, leaders move, one hangs."""
    cluster = kafka_cluster()
    topic = cluster.topic()
    gw = gateway(**to_kafka(cluster, topic, conf=DEBUG))
    load = Load(gw)
    gw.start()
    with load:
        load.wait(400)
        for n in (1, 2, 3) if FAULTS else (2,):
            cluster.kill(n)
            load.run(10 if FAULTS else 5)
            caught_up(gw)
            cluster.start(n)
            load.run(2)
            caught_up(gw)
            for partition, leader in list(cluster.leaders(topic).items())[:3]:
                cluster.move_leader(topic, partition, leader % 3 + 1)
            caught_up(gw)
            cluster.pause(n)
            load.run(10 if FAULTS else 5)
            cluster.resume(n)
            caught_up(gw)
    stored, _ = check_all(gw, load, cluster, topic)
    assert len({s.stream for s in stored}) == 4
    assert batches_sent(gw)[1] == len(stored)
    assert not lines(gw, "UE0401"), "two were always there"
    end_well(gw)
