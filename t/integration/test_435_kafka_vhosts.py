# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Virtual hosts with topics, clusters and settings of their own, and a file
beside Kafka: each event where it belongs, once, and nowhere else."""
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness import ORGS, Conn, render
from kafka_helpers import check_numbers, to_kafka
from test_430_kafka_exact import stored_of

#: Requests to each host, and those of one connection.
EACH, AT_ONCE = 400, 20
HOSTS = ("one.test", "two.test", "three.test")
ALIAS = 'AliasMatch "^/local/any/" "{htdocs}/local/hello.txt"\n'


def vhost(name, **directives):
    lines = "".join(f"{k} {v}\n" for k, v in directives.items())
    return f"<VirtualHost *:{{port}}>\nServerName {name}\n{lines}" \
           "</VirtualHost>\n"


def ask(gw, host, key, numbers):
    """Requests on one connection. Returns [(request id, path)]."""
    seen = []
    with Conn(gw.port) as conn:
        for i in numbers:
            path = f"/local/any/{host}/{i}"
            conn.send(render("GET", path, {"Host": host, "X-API-Key": key}))
            answer = conn.answer()
            assert answer.status == 200, answer
            seen.append((answer.request_id, path))
    return seen


def ask_all(gw, hosts, keys):
    """EACH requests to each host by turns of the keys, from several clients at
    the same time. Returns {host: {request id: (organization, path)}}."""
    jobs = [(host, keys[i // AT_ONCE % len(keys)], range(i, i + AT_ONCE))
            for i in range(0, EACH, AT_ONCE) for host in hosts]
    sent = {host: {} for host in hosts}
    with ThreadPoolExecutor(8) as pool:
        done = pool.map(lambda j: ask(gw, j[0], j[1][0], j[2]), jobs)
        for (host, key, _), seen in zip(jobs, done):
            sent[host].update({i: (key[2], path) for i, path in seen})
    assert all(len(s) == EACH for s in sent.values())
    return sent


def check_topic(records, sent, streams):
    """These events, each once, no others."""
    stored = stored_of(records)
    check_numbers(stored)
    assert len({s.stream for s in stored}) <= streams
    got = {s.event["request_id"]: (s.event["organization_id"],
                                   s.event["endpoint"]) for s in stored}
    assert len(got) == len(stored), "a request id came twice"
    assert got == sent
    return stored


def clients(gw):
    """How many librdkafka producers each child has: a set."""
    return {sum((task / "comm").read_text() == "rdk:main\n"
                for task in Path(f"/proc/{pid}/task").iterdir())
            for pid in gw.children()}


def started(gateway, kafka, topic, hosts, **kw):
    """A gateway with these virtual hosts, started, and keys of ten
    organizations. The server itself has the first topic."""
    gw = gateway(**to_kafka(kafka, topic, **kw))
    gw.server_conf = ALIAS + "".join(hosts)
    keys = [gw.add_key(org=org) for org in ORGS[:10]]
    return gw.start(), keys


def ended(gw, n):
    """All is delivered, to all its sinks."""
    m = gw.settled()
    assert gw.lost(m) == {}
    assert m["usage_events_admitted_total"] == n
    assert m["usage_events_delivered_total"] == n
    return m


def test_two_topics_and_two_clusters(gateway, kafka, kafka_own):
    """Hosts one and two have a topic each on one cluster and share its
    producer; host three's is on another. Names tell nothing: the second
    cluster has topics of the first one's names."""
    other = kafka_own("kafka-other")
    one, two = kafka.topic(12), kafka.topic(5)
    three = other.create_topic(one, 3)
    other.create_topic(two, 12)
    gw, keys = started(gateway, kafka, one, [
        vhost(HOSTS[0]),
        vhost(HOSTS[1], UsageKafkaTopic=two),
        vhost(HOSTS[2], UsageKafkaBrokers=other.bootstrap)])
    sent = ask_all(gw, HOSTS, keys)
    m = ended(gw, 3 * EACH)
    assert clients(gw) == {2}
    assert m["usage_kafka_connected_producers"] == 3 * gw.count
    for cluster, topic, host, partitions in (
            (kafka, one, HOSTS[0], 12), (kafka, two, HOSTS[1], 5),
            (other, three, HOSTS[2], 3)):
        stored = check_topic(cluster.wait_records(topic, EACH), sent[host],
                             gw.count)
        assert {s.partition for s in stored} <= set(range(partitions))
    assert other.count(two) == 0
    gw.stop()
    assert [kafka.count(one), kafka.count(two), other.count(three)] \
        == [EACH] * 3


def test_two_topics_of_one_cluster(gateway, kafka):
    """One producer of librdkafka a child, whose reports find their way to
    their own topic's worker."""
    one, two = kafka.topic(12), kafka.topic(12)
    gw, keys = started(gateway, kafka, one, [
        vhost(HOSTS[0]), vhost(HOSTS[1], UsageKafkaTopic=two)])
    sent = ask_all(gw, HOSTS[:2], keys)
    m = ended(gw, 2 * EACH)
    assert clients(gw) == {1}
    assert m["usage_kafka_connected_producers"] == 2 * gw.count
    streams = [
        {s.stream for s in check_topic(kafka.wait_records(topic, EACH),
                                       sent[host], gw.count)}
        for topic, host in ((one, HOSTS[0]), (two, HOSTS[1]))]
    assert not streams[0] & streams[1], "a stream is of one topic"
    # The same in the broker's eyes: a producer writes to both topics.
    producers = [{b["producerId"] for b in kafka.batches(topic)}
                 for topic in (one, two)]
    assert producers[0] & producers[1]
    assert len(producers[0] | producers[1]) <= gw.count


def test_other_options_are_another_producer(gateway, kafka):
    one, two = kafka.topic(12), kafka.topic(12)
    gw, keys = started(gateway, kafka, one, [
        vhost(HOSTS[0]),
        vhost(HOSTS[1], UsageKafkaTopic=two,
              UsageKafkaOption="client.id another")])
    sent = ask_all(gw, HOSTS[:2], keys)
    ended(gw, 2 * EACH)
    assert clients(gw) == {2}
    for topic, host in ((one, HOSTS[0]), (two, HOSTS[1])):
        check_topic(kafka.wait_records(topic, EACH), sent[host], gw.count)


def test_one_topic_with_two_settings(gateway, kafka):
    """A worker, and so a stream, for each set of settings; librdkafka's
    producer is the same."""
    topic = kafka.topic(12)
    gw, keys = started(gateway, kafka, topic, [
        vhost(HOSTS[0]),
        vhost(HOSTS[1], UsageKafkaBatchSize=1, UsageKafkaFlushInterval="50ms")])
    sent = ask_all(gw, HOSTS[:2], keys)
    ended(gw, 2 * EACH)
    assert clients(gw) == {1}
    stored = check_topic(kafka.wait_records(topic, 2 * EACH),
                         {**sent[HOSTS[0]], **sent[HOSTS[1]]}, 2 * gw.count)
    streams = [{s.stream for s in stored if s.event["request_id"] in sent[host]}
               for host in HOSTS[:2]]
    assert not streams[0] & streams[1], "a stream is of one worker"
    assert all(streams)
    for text in ("batch_size=100, flush_interval=500ms",
                 "batch_size=1, flush_interval=50ms"):
        assert gw.error_log().count(f"Started ({text}") == gw.count


@pytest.mark.parametrize("own", [False, True])
def test_file_and_kafka(gateway, kafka, own):
    """Side by side, each event goes to both, once, in the same bytes. A host
    may have a file and a topic of its own."""
    topics = [kafka.topic(12), kafka.topic(12)]
    hosts = HOSTS[:2] if own else HOSTS[:1]
    gw = gateway(**to_kafka(kafka, topics[0]))
    files = [gw.dir / f"{host}.jsonl" for host in hosts]
    gw.usage["UsageEventFile"] = files[0]
    gw.server_conf = ALIAS + vhost(HOSTS[0])
    if own:
        gw.server_conf += vhost(HOSTS[1], UsageKafkaTopic=topics[1],
                                UsageEventFile=files[1])
    keys = [gw.add_key(org=org) for org in ORGS[:10]]
    gw.start()
    sent = ask_all(gw, hosts, keys)
    m = ended(gw, len(hosts) * EACH)
    assert m["usage_batch_events_total"] == 2 * len(hosts) * EACH
    for topic, host, file in zip(topics, hosts, files):
        records = kafka.wait_records(topic, EACH)
        check_topic(records, sent[host], gw.count)
        assert len(gw.events(file)) == EACH
        assert sorted(r.value for r in records) \
            == sorted(file.read_bytes().splitlines())
    gw.stop()
    assert [kafka.count(t) for t in topics] == [EACH, EACH if own else 0]


def test_the_checks_can_fail(kafka):
    """An event too many, too few, or in the wrong topic."""
    event = ('{"request_id":"%s","organization_id":"' + ORGS[0] + '",'
             '"api_key_id":"k","endpoint":"/x","method":"GET",'
             '"status_code":200,"response_time_ms":1,"timestamp":"t",'
             '"billable":true}')
    topic = kafka.topic(1)
    kafka.deliver(topic, [event % "a", event % "b"], key=ORGS[0], headers={
        "usage-stream": "s" * 16, "usage-seq": "12345678",
        "usage-schema": "1", "content-type": "application/json"})
    records = [
        r._replace(headers=[r.headers[0],
                            ("usage-seq", (n + 1).to_bytes(8, "big")),
                            *r.headers[2:]])
        for n, r in enumerate(kafka.wait_records(topic, 2))]
    sent = {"a": (ORGS[0], "/x"), "b": (ORGS[0], "/x")}
    check_topic(records, sent, 1)
    for wrong in ((records[:1], sent, 1), (records, {"a": sent["a"]}, 1),
                  (records, {"a": sent["a"], "c": sent["b"]}, 1),
                  (records, {**sent, "b": (ORGS[1], "/x")}, 1),
                  (records, sent, 0), (records[::-1], sent, 1),
                  (records + records, sent, 1)):
        with pytest.raises(AssertionError):
            check_topic(*wrong)
