# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Full load into Kafka for as long as one likes: memory, threads and files stay
as they are, and at the end every answer is an event, once. Connections end
after a thousand requests, so that all children have some at most times.

Ten seconds here, ten minutes with make test-faults.
"""
import collections
import os
import time
import uuid
from pathlib import Path

import pytest
from kafka import KafkaConsumer, TopicPartition

from clients.load import Recorder
from harness import FIELDS, ORGS
from kafka_helpers import to_kafka

FAULTS = bool(os.environ.get("UE_FAULTS"))
SECONDS = 600 if FAULTS else 10
CONNECTIONS = 16

ROOM = """
UsageKafkaBufferSize 20000
UsageJournalSlots 65536
MaxKeepAliveRequests 1000
"""

#: How much a child may grow from the second third to the last, in kB: about a
#: byte an event in ten minutes, if one child had them all.
MAY_GROW = 4096

Sample = collections.namedtuple("Sample", "at rss threads fds")


def sample(pid, at):
    status = dict(line.split(":", 1) for line in Path(
        f"/proc/{pid}/status").read_text().splitlines())
    return Sample(at, int(status["VmRSS"].split()[0]),
                  int(status["Threads"]), len(os.listdir(f"/proc/{pid}/fd")))


def check_flat(samples):
    """Of one child: what it has in the last third of the time is what it had in
    the second."""
    third = len(samples) // 3
    middle, last = samples[third:2 * third], samples[2 * third:]

    def most(of, what):
        return max(getattr(s, what) for s in of)
    assert most(last, "rss") <= most(middle, "rss") + MAY_GROW, samples
    assert most(last, "threads") <= most(middle, "threads"), samples
    # All clients may be at one child, and then at another; in ten minutes there
    # are thousands of connections.
    assert most(last, "fds") <= most(middle, "fds") + CONNECTIONS + 2, samples


def low_half(request_id):
    """62 random bits: to keep millions of ids in little room."""
    return uuid.UUID(request_id).int & (1 << 64) - 1


def check_ids(stored, answered):
    """None twice, none missing; those that are stored only are of answers that
    were on their way when the clients ended."""
    once = set(stored)
    assert len(once) == len(stored), "a request id came twice"
    missing = sum(1 for i in answered if i not in once)
    assert not missing, f"{missing} answers without an event"
    assert len(set(answered)) == len(answered)
    assert len(stored) - len(answered) <= CONNECTIONS


class Counted:
    """Each stream's numbers in each partition follow each other from 1."""

    def __init__(self):
        self.last = collections.Counter()

    def take(self, record):
        (_, stream), (_, seq) = record.headers[:2]
        at = stream, record.partition
        assert int.from_bytes(seq, "big") == self.last[at] + 1, record
        self.last[at] += 1


def records_of(kafka, topic):
    """All of a topic, one by one: it may be larger than memory."""
    consumer = KafkaConsumer(bootstrap_servers=kafka.direct,
                             api_version=(2, 5, 0), group_id=None,
                             enable_auto_commit=False)
    try:
        for partition, end in kafka.topic_offsets(topic).items():
            at = TopicPartition(topic, partition)
            consumer.assign([at])
            consumer.seek_to_beginning(at)
            limit = time.monotonic() + 300
            while consumer.position(at) < end:
                assert time.monotonic() < limit, "Kafka stopped answering"
                for got in consumer.poll(500, max_records=5000).values():
                    yield from got
    finally:
        consumer.close()


def all_ids(kafka, topic, each):
    """Shows each record to each(). Returns the request ids."""
    start = len('{"%s":"' % FIELDS[0])
    found = []
    for record in records_of(kafka, topic):
        each(record)
        found.append(low_half(record.value[start:start + 36].decode()))
    return found


@pytest.mark.parametrize("seconds", [SECONDS])
def test_soak(gateway, kafka, seconds):
    topic = kafka.topic(12)
    gw = gateway(**to_kafka(kafka, topic, conf=ROOM))
    targets = [("/local/hello.txt", gw.add_key(org=org)[0])
               for org in ORGS[:20]]
    gw.start()
    children = gw.children()
    samples = {pid: [] for pid in children}
    with Recorder(gw, targets, connections=CONNECTIONS) as wrk:
        begin = time.monotonic()
        while (at := time.monotonic() - begin) < seconds:
            for pid in children:
                samples[pid].append(sample(pid, at))
            time.sleep(seconds / 60)
    assert gw.children() == children, "a child came or went"
    m = gw.settled(60)
    n = m["usage_events_admitted_total"]
    for pid, row in samples.items():
        shown = row[::max(1, len(row) // 10)]
        print(f"child {pid}: RSS kB "
              + " ".join(f"{s.at:.0f}s:{s.rss}" for s in shown)
              + f"; threads {sorted({s.threads for s in row})}, "
                f"files {sorted({s.fds for s in row})}")
    print(f"{n} events in {seconds} s, {n / seconds:.0f} a second, lost: "
          f"{gw.lost(m)}; most in a queue: {m['usage_queue_events_max']}")
    assert gw.lost(m) == {} and m["usage_events_delivered_total"] == n
    assert kafka.count(topic) == n
    for row in samples.values():
        check_flat(row)
    counted = Counted()
    check_ids(all_ids(kafka, topic, counted.take),
              [low_half(i) for _, i in wrk.answered()])
    assert len({stream for stream, _ in counted.last}) == gw.count, \
        "a child had nothing to do"
    gw.stop()
    assert kafka.count(topic) == n, "an event came after the last"


def test_the_checks_can_fail():
    flat = [Sample(i, 20000 + i % 7, 30, 40) for i in range(60)]
    check_flat(flat)
    for change in ({"rss": 20000 + MAY_GROW * 2}, {"threads": 31},
                   {"fds": 43 + CONNECTIONS}):
        with pytest.raises(AssertionError):
            check_flat(flat[:-1] + [flat[-1]._replace(**change)])
    check_ids([1, 2, 5, 9], [1, 5, 9])
    for stored, answered in (([1, 1], [1]), ([1, 2], [1, 3]), ([2], [1, 2]),
                             ([], [1]), (list(range(CONNECTIONS + 2)), [1])):
        with pytest.raises(AssertionError):
            check_ids(stored, answered)
    Row = collections.namedtuple("Row", "partition headers")

    def row(seq, partition=0):
        return Row(partition, [("s", b"x"), ("n", seq.to_bytes(8, "big"))])
    counted = Counted()
    for r in (row(1), row(2), row(1, 1)):
        counted.take(r)
    for wrong in (row(2), row(4), row(1)):
        with pytest.raises(AssertionError):
            counted.take(wrong)
