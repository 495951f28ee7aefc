# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""How long an event is on its way to Kafka, with default settings.

Kafka's own clock says when: a topic with message.timestamp.type=CreateTime has
the moment at which an event left our buffer, one with LogAppendTime the moment
at which the broker wrote it. An event begins at its timestamp, and ends
response_time_ms later.

The bounds here are loose, for a machine that does other things as well;
bench/kafka-latency measures by the same functions, on its own.
"""
import bisect
import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import ORGS, when
from kafka_helpers import to_kafka
from processes import tool

KINDS = ("CreateTime", "LogAppendTime")
SECONDS = 4


def paced(gw, keys, rate, seconds):
    """Send so many requests a second, by turns of the keys as far as clocks
    go, one connection a key. Returns (how many, seconds that it took)."""
    each = rate // len(keys)
    n = each * seconds

    def one(key):
        done = subprocess.run(
            [tool("h2load"), "--h1", "-t", "1", "-c", "1", "-n", str(n),
             f"--rps={each}", "-H", f"authorization: Bearer {key[0]}",
             f"{gw.url}/local/hello.txt"],
            capture_output=True, text=True, timeout=seconds * 10 + 30)
        assert f" {n} 2xx" in done.stdout, done.stdout + done.stderr
    begin = time.monotonic()
    with ThreadPoolExecutor(len(keys)) as pool:
        list(pool.map(one, keys))
    return n * len(keys), time.monotonic() - begin


def on_the_way(records):
    """Milliseconds from each event's end to its record's timestamp, in their
    order from least to most. Both are in whole milliseconds."""
    found = []
    for r in records:
        e = json.loads(r.value)
        ended = when(e["timestamp"]) * 1000 + e["response_time_ms"]
        found.append(r.timestamp - ended)
    return sorted(found)


def percentile(sorted_values, p):
    return sorted_values[min(len(sorted_values) - 1,
                             int(len(sorted_values) * p / 100))]


def share_within(sorted_values, bound):
    return bisect.bisect_right(sorted_values, bound) / len(sorted_values)


def histogram(m):
    """usage_events_delivery_seconds: [(upper bound in seconds, how many took
    no longer)], their number and their mean in milliseconds."""
    h = m["usage_events_delivery_seconds"]
    bounds = [(float(le), n) for le, n in h["buckets"].items()
              if le != "+Inf"]
    return bounds, h["count"], h["sum"] / h["count"] * 1000


def default_gateway(make, kafka, kind, **kw):
    """A gateway with nothing set but brokers and topic. (gateway, topic, keys
    of twenty organizations), started."""
    topic = kafka.topic(12, message_timestamp_type=kind)
    gw = make(**to_kafka(kafka, topic, threads=16, **kw))
    keys = [gw.add_key(org=org) for org in ORGS[:20]]
    gw.start()
    gw.wait_log("Connected to Kafka")
    return gw, topic, keys


def measure(make, kafka, kind, rate, seconds):
    """Returns (milliseconds on the way, metrics, requests a second). Not one
    event may be missing."""
    gw, topic, keys = default_gateway(make, kafka, kind)
    n, took = paced(gw, keys, rate, seconds)
    m = gw.settled()
    assert gw.lost(m) == {}, "an event was dropped"
    assert m["usage_events_delivered_total"] == n
    assert m["usage_events_delivery_seconds"]["count"] == n
    return on_the_way(kafka.wait_records(topic, n)), m, n / took


def in_words(spent):
    return ", ".join(f"{p} % {percentile(spent, p):.0f} ms"
                     for p in (50, 95, 99, 100))


@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_a_second(gateway, kafka, kind):
    spent, m, rate = measure(gateway, kafka, kind, 1000, SECONDS)
    _, count, mean = histogram(m)
    assert percentile(spent, 95) <= 1500
    # None comes before its end: a timestamp is cut to its millisecond.
    assert spent[0] >= -2
    # The histogram speaks of a later moment of the same events: the report.
    assert mean >= sum(spent) / count - 2
    assert mean <= sum(spent) / count + 1500
    print(f"{kind} at {rate:.0f} requests a second: {in_words(spent)}; "
          f"histogram: mean {mean:.0f} ms")


def test_nothing_is_dropped_at_five_thousand(gateway, kafka):
    """Or as many as the machine gives."""
    spent, m, rate = measure(gateway, kafka, "LogAppendTime", 5000, SECONDS)
    print(f"{rate:.0f} requests a second: {in_words(spent)}; at most "
          f"{m['usage_queue_events_max']} in a queue")


def test_the_measures_can_fail(kafka):
    """Time on the way is seen."""
    topic = kafka.topic(1, message_timestamp_type="LogAppendTime")
    event = {"timestamp": "2026-01-01T00:00:00.000250Z",
             "response_time_ms": 4}
    kafka.deliver(topic, [json.dumps(event)])
    [record] = kafka.wait_records(topic, 1)
    began = when(event["timestamp"]) * 1000
    assert record.timestamp > began + 1500, "not the broker's own clock"
    values = on_the_way([record._replace(timestamp=began + 4 + ms)
                         for ms in (700, 100, 900)])
    assert [round(v) for v in values] == [100, 700, 900]
    assert percentile(values, 95) == values[2]
    assert percentile(values, 50) == values[1]
    assert share_within(values, 800) == 2 / 3
