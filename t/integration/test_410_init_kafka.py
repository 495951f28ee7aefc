# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""usagectl init-kafka on real Kafka: what it makes, what it says of what is
there, how it fails."""
import json
import os
import re
import subprocess
import time
import uuid

import pytest

from broker import make_certs
from harness import USAGECTL
from processes import free_port, new_dir

DAY = 86400000
#: Over ten seconds of trying; librdkafka and the machine take theirs, too.
BOUND = 20


def ctl(*args, env=None, **kw):
    """Run usagectl init-kafka, with nothing of the caller's environment."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("KAFKA_")}
    return subprocess.run([USAGECTL, "init-kafka", *map(str, args)],
                          env={**clean, **(env or {})}, capture_output=True,
                          encoding="utf-8", timeout=60, **kw)


def rows(done):
    return {r["topic"]: r for r in json.loads(done.stdout)}


class Topic:
    """A name for a topic of the test's own, and init-kafka for it."""

    def __init__(self, broker):
        self.broker, self.name = broker, f"usage-{uuid.uuid4().hex[:12]}"
        self.ledger = self.name + "-ledger"
        broker.made += [self.name, self.ledger]

    def init(self, *args, **kw):
        return ctl("--brokers", self.broker.bootstrap, "--topic", self.name,
                   "--format", "json", *args, **kw)

    def states(self, *args, status=0):
        """Of events and ledger."""
        done = self.init(*args)
        assert done.returncode == status, done.stderr
        found = rows(done)
        return found[self.name]["state"], found[self.ledger]["state"]

    def partitions(self):
        return len(self.broker.leaders(self.name))


@pytest.fixture
def topic(kafka):
    return Topic(kafka)


# --- what it makes -----------------------------------------------------------

def test_it_makes_two_topics(topic, kafka):
    done = topic.init()
    assert (done.returncode, done.stderr) == (0, "")
    assert rows(done)[topic.name] == {
        "topic": topic.name, "state": "made", "partitions": 12,
        "replication": 1, "min_insync_replicas": 1,
        "cleanup_policy": "delete", "retention_ms": 7 * DAY,
        "compression_type": "producer", "differences": []}
    assert rows(done)[topic.ledger]["cleanup_policy"] == "compact"
    # and so says Kafka itself
    config = kafka.topic_config(topic.name)
    assert (config["cleanup.policy"], config["retention.ms"],
            config["compression.type"]) == ("delete", str(7 * DAY), "producer")
    assert kafka.topic_config(topic.ledger)["cleanup.policy"] == "compact"
    assert topic.partitions() == 12
    kafka.deliver(topic.name, ["a"])
    assert kafka.count(topic.name) == 1


def test_again_and_again_without_harm(topic, kafka):
    assert topic.states() == ("made", "made")
    kafka.deliver(topic.name, ["a", "b"])
    before = kafka.topic_config(topic.name)
    for _ in range(3):
        done = topic.init()
        assert (done.returncode, done.stderr) == (0, "")
        assert {r["state"] for r in rows(done).values()} == {"right"}
    assert kafka.topic_config(topic.name) == before
    assert kafka.count(topic.name) == 2


def test_what_is_asked_for(topic, kafka):
    assert topic.states("--partitions", 3, "--replication", 1, "--retention",
                        "36h") == ("made", "made")
    assert topic.partitions() == 3
    assert kafka.topic_config(topic.name)["retention.ms"] == str(36 * 3600000)


@pytest.mark.parametrize("given, ms", [("90min", 5400000), ("5s", 5000),
                                       ("1500ms", 1500), ("unlimited", -1)])
def test_retention(topic, kafka, given, ms):
    assert topic.states("--retention", given) == ("made", "made")
    assert kafka.topic_config(topic.name)["retention.ms"] == str(ms)
    assert topic.states("--retention", given) == ("right", "right")


def test_only_what_lacks_is_made(topic, kafka):
    kafka.create_topic(topic.name, 12)
    done = topic.init()
    assert done.returncode == 0, done.stderr
    assert rows(done)[topic.name]["state"] == "right"
    assert rows(done)[topic.ledger]["state"] == "made"


def test_several_at_once(topic, kafka):
    """Of those that come at the same moment one is first; all end well."""
    running = [subprocess.Popen(
        [USAGECTL, "init-kafka", "--brokers", kafka.bootstrap, "--topic",
         topic.name], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)]
    for one in running:
        said = one.communicate(timeout=60)
        assert one.returncode == 0, said
    assert topic.partitions() == 12


def test_environment_and_table(topic, kafka):
    done = ctl(env={"KAFKA_BROKERS": kafka.bootstrap,
                    "KAFKA_TOPIC": topic.name})
    assert done.returncode == 0, done.stderr
    head, *lines = done.stdout.splitlines()
    assert head.split()[:3] == ["TOPIC", "STATE", "PARTITIONS"]
    assert [x.split()[:4] for x in lines] == [
        [topic.name, "made", "12", "1"], [topic.ledger, "made", "1", "1"]]


def test_three_brokers(kafka_cluster):
    """Kafka's own setting would have one copy do."""
    cluster = kafka_cluster(extra={"min.insync.replicas": "1"})
    topic = Topic(cluster)
    assert topic.states() == ("made", "made")
    for name in (topic.name, topic.ledger):
        config = cluster.topic_config(name)
        assert config["min.insync.replicas"] == "2", name
        assert all(len(r) == 3 for r in cluster.replicas(name).values())
    assert topic.states() == ("right", "right")
    # two copies: one of them is enough, or a broker's absence stops all
    two = Topic(cluster)
    done = two.init("--replication", 2)
    assert done.returncode == 0, done.stderr
    assert rows(done)[two.name]["replication"] == 2
    weak = Topic(cluster)
    cluster.create_topic(weak.name, 12)
    done = weak.init()
    assert done.returncode == 1
    assert f"{weak.name}: min.insync.replicas is 1" in done.stderr
    # one of three is away
    cluster.kill(3)
    assert topic.states() == ("right", "right")


# --- what it says of what is there -------------------------------------------

def test_fewer_partitions_stay(topic, kafka):
    kafka.create_topic(topic.name, 6)
    assert topic.states(status=1) == ("differs", "made")
    done = topic.init()
    assert done.returncode == 1
    assert "6 partitions, 12 were asked for" in done.stderr
    assert "--add-partitions" in done.stderr
    [said] = rows(done)[topic.name]["differences"]
    assert said in done.stderr
    assert topic.partitions() == 6


def test_add_partitions(topic, kafka):
    kafka.create_topic(topic.name, 6, compression_type="producer")
    done = topic.init("--add-partitions", "--partitions", 9)
    assert (done.returncode, done.stderr) == (0, "")
    assert rows(done)[topic.name]["state"] == "extended"
    assert rows(done)[topic.name]["partitions"] == topic.partitions() == 9
    # more than asked for is right, and stays
    assert topic.states("--add-partitions", "--partitions", 3) == (
        "right", "right")
    assert topic.partitions() == 9


@pytest.mark.parametrize("config, args, said", [
    ({"retention_ms": DAY}, [], "events are kept for 1d, 7d was asked for"),
    ({}, ["--retention", "unlimited"], "unlimited was asked for"),
    ({"cleanup_policy": "compact"}, [], "cleanup.policy is compact"),
    ({"min_insync_replicas": 2}, [], "nothing can be written"),
    ({}, ["--replication", "2"], "replication is 1, 2 was asked for")])
def test_what_is_not_as_asked(topic, kafka, config, args, said):
    kafka.create_topic(topic.name, 12, **config)
    kafka.create_topic(topic.ledger, 1, cleanup_policy="compact")
    before = kafka.topic_config(topic.name)
    done = topic.init(*args)
    assert done.returncode == 1
    assert said in done.stderr
    row = rows(done)[topic.name]
    assert row["state"] == "differs"
    assert any(said in x for x in row["differences"])
    assert kafka.topic_config(topic.name) == before


def test_a_ledger_that_would_forget(topic, kafka):
    assert topic.states() == ("made", "made")
    kafka.delete_topic(topic.ledger)
    kafka.create_topic(topic.ledger, 1)
    assert topic.states(status=1) == ("right", "differs")


def test_harmless_differences_are_only_said(topic, kafka):
    kafka.create_topic(topic.name, 12, compression_type="gzip",
                       retention_bytes=1000000, retention_ms=30 * DAY)
    done = topic.init()
    assert done.returncode == 0
    assert "compression.type is gzip" in done.stderr
    assert "retention.bytes is 1000000" in done.stderr
    assert rows(done)[topic.name]["state"] == "right"


def test_what_kafka_refuses(topic, kafka):
    done = topic.init("--replication", 3)
    assert (done.returncode, done.stdout) == (1, "")
    assert topic.name in done.stderr
    assert topic.name not in kafka.topics()


def test_looking_makes_nothing(topic, kafka):
    """Asking Kafka for a topic that isn't there would make it, with Kafka's
    own number of partitions."""
    assert kafka.broker_config()["num.partitions"] != "7"
    assert topic.states("--partitions", 7) == ("made", "made")
    assert topic.partitions() == 7


# --- out of reach, refused, wrong --------------------------------------------

@pytest.mark.parametrize("host", ["127.0.0.1:{port}",
                                  "no-such-host.invalid:9092"])
def test_out_of_reach(host):
    began = time.monotonic()
    done = ctl("--brokers", host.format(port=free_port()))
    assert (done.returncode, done.stdout) == (3, "")
    assert re.search(r"Kafka at \S+ is out of reach: ", done.stderr)
    assert len(done.stderr.splitlines()) == 1
    assert time.monotonic() - began < BOUND


def test_a_broker_that_is_stuck(kafka_own):
    broker = kafka_own()
    broker.pause()
    try:
        began = time.monotonic()
        done = ctl("--brokers", broker.bootstrap)
        assert (done.returncode, done.stdout) == (3, "")
        assert "is out of reach" in done.stderr
        assert time.monotonic() - began < BOUND
    finally:
        broker.resume()


def test_a_broker_that_comes_late(kafka_own):
    broker = kafka_own()
    broker.kill()
    running = subprocess.Popen(
        [USAGECTL, "init-kafka", "--brokers", broker.bootstrap],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    broker.start()
    said = running.communicate(timeout=60)
    assert running.returncode == 0, said


def test_tls_passwords_and_rights(kafka_own):
    certs = make_certs(new_dir("certs"))
    broker = kafka_own(template="server-sasl.properties", certs=certs)
    topic = Topic(broker)
    options = broker.dir / "options"

    def init(user, password, ca="ca.pem"):
        options.write_text(
            "# how to get there\n\n"
            "security.protocol = sasl_ssl\r\n"
            "UsageKafkaOption sasl.mechanisms PLAIN\n"
            f'  usagekafkaoption sasl.username "{user}"\n'
            f"UsageKafkaOption ssl.ca.location '{certs / ca}'\n"
            f"sasl.password={password}\n")
        done = topic.init("--options", options)
        assert password not in done.stdout + done.stderr
        options.unlink()
        return done

    done = init("alice", "alice-secret")
    assert (done.returncode, done.stderr) == (0, "")
    assert rows(done)[topic.name]["state"] == "made"
    for user, password, ca, said in (
            ("alice", "wrong-secret", "ca.pem", "uthentication"),
            ("alice", "alice-secret", "other-ca.pem", "certificate verify"),
            ("bob", "bob-secret", "ca.pem", "uthoriz")):
        done = init(user, password, ca)
        assert (done.returncode, done.stdout) == (1, ""), (user, ca)
        assert said in done.stderr, done.stderr


def test_options_of_the_command_line_go_before_the_file(topic):
    options = new_dir("options") / "options"
    options.write_text("security.protocol=ssl\n")
    assert topic.init("--options", options).returncode == 1
    done = topic.init("--options", options, "--option",
                      "security.protocol=plaintext", "--option", "linger.ms=3")
    assert done.returncode == 0, done.stderr


def test_a_password_on_the_command_line_is_frowned_upon(topic):
    done = topic.init("--option", "sasl.password=dont-show-this")
    assert done.returncode == 0
    assert "--options" in done.stderr
    assert "dont-show-this" not in done.stderr


HOST = ["--brokers", "127.0.0.1:1"]


@pytest.mark.parametrize("args, said", [
    ([], "KAFKA_BROKERS"),
    (["--brokers", "http://kafka:9092"], "--brokers takes HOST"),
    (HOST + ["--topic", "a b"], "--topic takes the name"),
    (HOST + ["--topic", "x" * 243], "room for -ledger"),
    (HOST + ["--partitions", "0"], "--partitions must be"),
    (HOST + ["--partitions", "12x"], "--partitions must be"),
    (HOST + ["--replication", "-1"], "--replication must be"),
    (HOST + ["--retention", "7"], "--retention must be"),
    (HOST + ["--retention", "0d"], "--retention must be"),
    (HOST + ["--retention", "99999999999999d"], "--retention must be"),
    (HOST + ["--format", "xml"], "--format must be"),
    (HOST + ["--option", "a-secret-word"], "NAME=VALUE"),
    (HOST + ["--option", "no.such=a-secret-word"], "--option: "),
    (HOST + ["--option", "enable.idempotence=false"], "enable.idempotence"),
    (HOST + ["--options", "no-such-file"], "no-such-file can't be read"),
    (HOST + ["--topic", "a", "--topic", "b"], "--topic is there twice"),
    (HOST + ["--add-partitions=1"], "takes no value")])
def test_wrong_use(args, said):
    done = ctl(*args)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert said in done.stderr
    assert "a-secret-word" not in done.stderr


@pytest.mark.parametrize("line, said", [
    ("UsageKafkaOption linger.ms", "linger.ms"),
    ("UsageKafkaOption linger.ms 5 6", "takes a name and a value"),
    ("UsageKafkaTopic x", "NAME=VALUE"),
    ("linger.ms=many", "linger.ms")])
def test_wrong_lines(line, said):
    options = new_dir("options") / "options"
    options.write_text(f"# first\nlinger.ms=5\n{line}\n")
    done = ctl(*HOST, "--options", options)
    assert done.returncode == 2, done.stderr
    assert f"{options}, line 3: " in done.stderr and said in done.stderr


def test_help():
    done = subprocess.run([USAGECTL, "--help"], capture_output=True, text=True)
    assert "\n  usagectl init-kafka  " in done.stdout
    done = ctl("--help")
    assert done.returncode == 0
    for option in ("--brokers LIST", "--topic NAME", "--partitions N",
                   "--replication N", "--retention TIME", "--add-partitions",
                   "--option NAME=VALUE", "--options FILE"):
        assert option in done.stdout
