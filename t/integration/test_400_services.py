# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""The real Kafka that other tests rely on: what it says of itself is so."""
import json
import socket
import subprocess
import time
import zlib
from collections import Counter

import pytest

from broker import (SERVICES, Kafka, _python_client, install, kafka_tool,
                    make_certs, run, tool)
from harness import ORGS, answers, poll

#: Any byte may be in a header, a key, and a value.
BYTES = bytes(range(256))


def send(broker, topic, records, **settings):
    """(partition, key, value, headers) by kafka-python: bytes that kcat's
    command line can't take."""
    producer = _python_client().KafkaProducer(
        bootstrap_servers=broker.direct, api_version=(2, 5, 0), acks="all",
        **settings)
    sent = [producer.send(topic, value, key, list(headers), partition)
            for partition, key, value, headers in records]
    producer.flush(20)
    for one in sent:
        one.get(1)
    producer.close()


def kcat_fails(broker, *options, at=None):
    """Ask for metadata in vain; what kcat said."""
    done = subprocess.run(
        [tool("kcat"), "-L", "-m", "2", "-b", at or broker.bootstrap]
        + [x for o in options for x in ("-X", o)],
        capture_output=True, text=True, timeout=30)
    assert done.returncode, done.stdout
    return done.stderr


# --- topics and readers ------------------------------------------------------

def test_three_readers_agree_byte_by_byte(kafka):
    topic = kafka.topic(partitions=3)
    heads = [("usage-stream", BYTES[:16]), ("usage-seq", bytes(7) + b"\1"),
             ("all", BYTES)]
    sent = [(2, ORGS[0].encode(), b'{"a":1}', heads),
            (2, None, BYTES, []),
            (0, BYTES, b"", [("x", b""), ("x", b"\n@@:,=")]),
            (0, b"k", None, [])]
    send(kafka, topic, sent, compression_type="snappy")
    found = kafka.read(topic, 4)
    assert [(r.partition, r.offset) for r in found] == \
        [(0, 0), (0, 1), (2, 0), (2, 1)]
    assert [(r.key, r.value) for r in found] == \
        [(BYTES, b""), (b"k", None), (ORGS[0].encode(), b'{"a":1}'),
         (None, BYTES)]
    assert [r.headers for r in found] == [sent[2][3], [], heads, []]
    assert kafka.read_java(topic) == found
    assert kafka.read_kcat(topic) == [r._replace(headers=None) for r in found]
    assert kafka.topic_offsets(topic) == {0: 2, 1: 0, 2: 2}
    assert kafka.count(topic) == 4


def test_many_records_by_kcat(kafka):
    """Each once, each in the partition that librdkafka picks by itself."""
    topic = kafka.topic(compression_type="producer")
    for org in ORGS[:3]:
        kafka.deliver(topic, (f'{{"n":{n}}}' for n in range(2000)), key=org,
                      headers={"content-type": "application/json"},
                      compression_codec="snappy", enable_idempotence="true",
                      partitioner="consistent_random")
    found = kafka.wait_records(topic, 6000)
    assert Counter(r.key.decode() for r in found) == \
        Counter({org: 2000 for org in ORGS[:3]})
    for org in ORGS[:3]:
        mine = [r for r in found if r.key == org.encode()]
        assert {r.partition for r in mine} == {zlib.crc32(org.encode()) % 12}
        assert [json.loads(r.value)["n"] for r in mine] == list(range(2000))
    assert {tuple(r.headers) for r in found} == \
        {(("content-type", b"application/json"),)}
    assert kafka.read_kcat(topic) == [r._replace(headers=None) for r in found]

    batches = kafka.batches(topic)
    assert sum(b["count"] for b in batches) == 6000
    assert {b["compresscodec"].lower() for b in batches} == {"snappy"}
    assert len({b["producerId"] for b in batches}) == 3
    assert Counter(b["partition"] for b in batches).keys() == \
        {r.partition for r in found}


def test_fewer_records_than_wanted_fail(kafka):
    topic = kafka.topic(partitions=1)
    kafka.deliver(topic, ["a", "b"])
    with pytest.raises(AssertionError, match="2 of 3"):
        kafka.read(topic, 3, timeout=1)
    with pytest.raises(AssertionError, match="2 records, not 1"):
        kafka.wait_records(topic, 1)


def test_topics_grow_and_go(kafka):
    topic = kafka.topic(partitions=2, retention_ms=1234567)
    assert kafka.topic_config(topic)["retention.ms"] == "1234567"
    kafka.deliver(topic, ["a"])
    kafka.add_partitions(topic, 4)
    assert kafka.leaders(topic) == {0: 1, 1: 1, 2: 1, 3: 1}
    assert kafka.count(topic) == 1
    kafka.delete_topic(topic)
    assert topic not in kafka.topics()
    kafka.create_topic(topic, 1)
    assert kafka.topic_offsets(topic) == {0: 0} and kafka.read(topic) == []
    assert kafka.read_java(topic) == kafka.read_kcat(topic) == []


# --- a broker's life ---------------------------------------------------------

def test_what_was_there_is_there_after_a_crash(kafka_own):
    broker = kafka_own(extra={"message.max.bytes": 4321})
    assert broker.broker_config()["message.max.bytes"] == "4321"
    topic = broker.topic(partitions=2)
    broker.deliver(topic, ["a", "b", "c"], key="k")
    before = broker.wait_records(topic, 3)
    old = broker.pid
    broker.kill()
    assert broker.pid is None and not answers(broker.port)
    broker.start()
    assert broker.pid != old and broker.read(topic) == before
    broker.restart()
    assert broker.read(topic) == before

    broker.pause()
    assert kcat_fails(broker)
    broker.resume()
    assert broker.read(topic, 3) == before
    broker.stop()
    broker.stop()
    assert not list(broker.dir.rglob("*.index")), "data among the logs"


def test_start_says_why_not(kafka_own):
    broker = Kafka("kafka-wrong", extra={"log.dirs": "/proc/nowhere"})
    with pytest.raises(AssertionError, match="kafka-start.sh"):
        broker.start()


# --- the proxy ---------------------------------------------------------------

def seconds(do):
    begin = time.monotonic()
    do()
    return time.monotonic() - begin


def test_proxy_modes(kafka_own):
    broker = kafka_own(proxy=True)
    topic = broker.topic(partitions=1)

    def produce(lines, timeout=20, check=True, **options):
        args = [tool("kcat"), "-P", "-b", broker.bootstrap, "-t", topic]
        for k, v in options.items():
            args += ["-X", f"{k.replace('_', '.')}={v}"]
        return run(args, timeout, check, input="\n".join(lines))

    produce(["a"])
    stats = broker.proxy_stats()
    assert stats["connections"] >= 1 and stats["mode"] == "pass"
    produced = poll(lambda: broker.proxy_stats()["requests"].get("0"), 5,
                    what="a Produce request")
    assert produced["count"] == 1 and 0 < produced["bytes"] < 1000
    stats = broker.proxy_stats()
    assert stats["bytes_out"] == sum(r["bytes"] for r in
                                     stats["requests"].values())
    assert stats["bytes_back"] > 0

    quick = seconds(lambda: produce(["b"]))
    broker.proxy("rtt 400")  # connecting takes some requests, one by one
    assert seconds(lambda: produce(["c"])) > max(quick, 0.8)
    broker.proxy("delay 200")
    assert seconds(lambda: produce(["d"])) > max(quick, 0.8)

    broker.proxy("stall")
    short = dict(check=False, message_timeout_ms=700, socket_timeout_ms=600)
    assert produce(["lost"], **short).returncode
    broker.proxy("stall-back")
    assert produce(["lost too"], **short).returncode
    broker.proxy("refuse")
    with socket.create_connection(("127.0.0.1", broker.port)) as s:
        s.settimeout(5)
        with pytest.raises(ConnectionResetError):
            if s.recv(1) == b"":
                raise ConnectionResetError
    assert produce(["lost"], **short).returncode
    broker.proxy("cut 10")
    assert produce(["lost"], **short).returncode
    broker.proxy("pass")
    produce(["e"])
    assert [r.value for r in broker.read(topic)] == \
        [b"a", b"b", b"c", b"d", b"e"]
    assert broker.direct != broker.bootstrap


def test_proxy_keeps_the_throughput_of_a_long_line(kafka_own):
    """With 50 ms each way and a rate, what takes long is the rate alone."""
    broker = kafka_own(proxy=True)
    topic = broker.topic(partitions=1)
    lines = ["x" * 1000] * 4000
    for mode in ("delay 50", "rate 2000000"):
        before = broker.proxy_stats()["bytes_out"]
        broker.proxy(mode)
        took = seconds(lambda: run(
            [tool("kcat"), "-P", "-b", broker.bootstrap, "-t", topic],
            input="\n".join(lines)))
        poll(lambda: broker.proxy_stats()["bytes_out"] - before > 4e6, 5,
             what="four megabytes went through")
        # One chunk after the other would take 60 × 50 ms; the rate, 2 s.
        assert took < 2.5 if mode.startswith("delay") else took > 1.8
    assert broker.count(topic) == 8000


# --- three nodes -------------------------------------------------------------

def test_cluster(kafka_cluster):
    cluster = kafka_cluster()
    topic = cluster.topic(partitions=3)
    assert sorted(set(cluster.leaders(topic).values())) == [1, 2, 3]
    assert all(sorted(r) == [1, 2, 3] for r in cluster.replicas(topic).values())
    cluster.deliver(topic, ["a", "b"], acks="all")
    leader = cluster.leaders(topic)[0]
    other = leader % 3 + 1
    cluster.move_leader(topic, 0, other)
    assert cluster.leaders(topic)[0] == other

    cluster.kill(other)
    poll(lambda: cluster.leaders(topic)[0] not in (-1, other), 20, every=0.2,
         what="another leader")
    cluster.deliver(topic, ["c"], acks="all")
    assert cluster.count(topic) == 3
    cluster.start(other)
    cluster.wait_in_sync(topic)
    cluster.pause(leader)
    poll(lambda: leader not in cluster.leaders(topic).values(), 20, every=0.2,
         what="leaders that are not paused")
    cluster.deliver(topic, ["d"], acks="all")
    cluster.resume(leader)
    assert {r.value for r in cluster.read(topic, 4)} == set(map(
        str.encode, "abcd"))


# --- TLS and SASL ------------------------------------------------------------

@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    return make_certs(tmp_path_factory.mktemp("certs"))


def sasl(broker, user, password, mechanism="PLAIN", ca="ca.pem"):
    return ["security.protocol=SASL_SSL", f"sasl.mechanisms={mechanism}",
            f"sasl.username={user}", f"sasl.password={password}",
            f"ssl.ca.location={broker.certs / ca}"]


def metadata(at, options):
    return run([tool("kcat"), "-L", "-b", at]
               + [x for o in options for x in ("-X", o)], timeout=30).stdout


def test_tls_and_plain(kafka_own, certs):
    broker = kafka_own(template="server-sasl.properties", certs=certs)
    topic = broker.topic(partitions=1)
    assert topic in metadata(broker.bootstrap,
                             sasl(broker, "alice", "alice-secret"))
    assert topic not in metadata(broker.bootstrap,
                                 sasl(broker, "bob", "bob-secret"))
    assert "uthentication" in kcat_fails(broker, *sasl(broker, "alice", "no"))
    said = kcat_fails(broker, *sasl(broker, "alice", "alice-secret",
                                    ca="other-ca.pem"))
    assert "certificate verify failed" in said
    tls = ["security.protocol=SSL", f"ssl.ca.location={certs / 'ca.pem'}"]
    assert topic in metadata(broker.ssl_bootstrap, tls + [
        f"ssl.certificate.location={certs / 'client.crt'}",
        f"ssl.key.location={certs / 'client.key'}"])
    kcat_fails(broker, *tls, at=broker.ssl_bootstrap)


def test_expired_certificate(kafka_own, certs):
    broker = kafka_own(template="server-sasl.properties", certs=certs,
                       cert="expired")
    said = kcat_fails(broker, *sasl(broker, "alice", "alice-secret"))
    assert "certificate has expired" in said \
        or "certificate verify failed" in said


def test_scram_on_kafka_3(kafka_own, certs):
    """Debian 12's librdkafka can do SCRAM with brokers before 4 only."""
    broker = kafka_own(template="server-sasl.properties", certs=certs,
                       version="3.9.2", scram={"alice": "alice-secret"})
    topic = broker.topic(partitions=1)
    broker.deliver(topic, ["a"])
    for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
        assert topic in metadata(broker.bootstrap, sasl(
            broker, "alice", "alice-secret", mechanism))
    assert "uthentication" in kcat_fails(broker, *sasl(
        broker, "alice", "wrong", "SCRAM-SHA-512"))
    assert broker.read_java(topic) == broker.wait_records(topic, 1)


# --- the scripts by hand -----------------------------------------------------

def test_scripts_by_hand(tmp_path):
    """As t/services/README.md says."""
    install()
    broker = Kafka("kafka-ports")  # its ports only
    where = tmp_path / "node"
    run([SERVICES / "kafka-start.sh", where, broker.first])
    try:
        done = run([SERVICES / "kafka-start.sh", where, broker.first],
                   check=False)
        assert done.returncode == 1 and "runs there already" in done.stderr
        at = f"127.0.0.1:{broker.first}"
        run([tool("kcat"), "-P", "-b", at, "-t", "auto"], input="a\nb\n")
        assert "auto" in kafka_tool("tools.TopicCommand",
                                    "--bootstrap-server", at, "--list")
    finally:
        run([SERVICES / "kafka-stop.sh", where])
    run([SERVICES / "kafka-stop.sh", where])
    done = run([SERVICES / "kafka-start.sh"], check=False)
    assert done.returncode == 1 and "usage" in done.stderr
