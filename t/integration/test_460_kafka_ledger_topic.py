# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""The topic of the ledger: made compacted by the module, before a broker makes
it with a policy of its own; left as it is where it is there; and events go on
where it can't be made."""
import secrets
import time

import pytest

import test_450_kafka_security as security
from harness import poll
from kafka_helpers import lines, to_kafka
from test_435_kafka_vhosts import vhost
from test_450_kafka_security import (acl, arrived, ask, grant, make, page,
                                     sasl)

CHILDREN = 4

# Its fixtures.
certs, registered = security.certs, security.registered
secure, watch = security.secure, security.watch


@pytest.fixture
def start(gateway):
    """start(kafka, topic, **to_kafka's): a gateway that has recorded
    something."""
    def begin(kafka, topic, **kw):
        gw = gateway(**to_kafka(kafka, topic, children=CHILDREN, **kw))
        gw.secret, gw.sent = gw.add_key()[0], set()
        gw.start()
        ask(gw, 40)
        return gw
    return begin


def made(kafka, topic, timeout=20):
    """Wait until it is there. Returns its settings."""
    poll(lambda: topic in kafka.topics(), timeout, every=0.1,
         what=f"{topic} is made")
    assert len(kafka.leaders(topic)) == 1
    return kafka.topic_config(topic)


def is_right(config):
    return (config["cleanup.policy"], config["compression.type"]) \
        == ("compact", "producer")


def quiet(gw):
    """Long enough for all children to have had their answers."""
    time.sleep(3)
    log = gw.error_log()
    return not any(number in log for number in ("UE0411", "UE0412", "UE0413"))


def test_made_compacted_before_the_broker_makes_it(kafka, start):
    """This one makes each topic that is named. All children begin at once, and
    one of them makes it."""
    topic = kafka.topic()
    gw = start(kafka, topic)
    kafka.made.append(f"{topic}-ledger")
    assert is_right(made(kafka, f"{topic}-ledger"))
    assert quiet(gw), gw.error_log()
    assert len(lines(gw, "UE0414")) == 1
    arrived(kafka, gw, topic=topic)


def test_made_where_the_broker_makes_none(kafka_own, start):
    kafka = kafka_own(extra={"auto.create.topics.enable": "false"})
    topic = kafka.topic()
    gw = start(kafka, topic)
    assert is_right(made(kafka, f"{topic}-ledger"))
    assert quiet(gw), gw.error_log()
    arrived(kafka, gw, topic=topic)


def test_two_must_have_a_record_where_three_do(kafka_cluster, start):
    """As with init-kafka."""
    cluster = kafka_cluster()
    topic = cluster.topic()
    gw = start(cluster, topic)
    config = made(cluster, f"{topic}-ledger")
    assert is_right(config)
    assert config["min.insync.replicas"] == "2"
    assert len(cluster.replicas(f"{topic}-ledger")[0]) == 3
    arrived(cluster, gw, topic=topic)


def test_each_topic_has_its_own(kafka, start):
    one, two = kafka.topic(), kafka.topic()
    gw = start(kafka, one, conf=vhost("two.test", UsageKafkaTopic=two))
    for topic in (one, two):
        kafka.made.append(f"{topic}-ledger")
        assert is_right(made(kafka, f"{topic}-ledger"))
    assert quiet(gw), gw.error_log()
    assert len(lines(gw, "UE0414")) == 2


def test_one_that_is_right_is_left_alone(kafka, start):
    topic = kafka.topic()
    kafka.made.append(kafka.create_topic(f"{topic}-ledger", 2,
                                         cleanup_policy="compact"))
    gw = start(kafka, topic)
    assert quiet(gw), gw.error_log()
    assert not lines(gw, "UE0414")
    assert len(kafka.leaders(f"{topic}-ledger")) == 2
    arrived(kafka, gw, topic=topic)


def test_one_that_forgets_is_said_to(kafka, start):
    topic = kafka.topic()
    kafka.made.append(kafka.create_topic(f"{topic}-ledger", 1))
    gw = start(kafka, topic)
    [line] = gw.wait_log("UE0413: kafka: ")
    assert f"{topic}-ledger has cleanup.policy=delete" in line
    time.sleep(2)
    assert len(lines(gw, "UE0413")) == 1, "once for all children"
    assert not lines(gw, "UE0412")
    assert kafka.topic_config(f"{topic}-ledger")["cleanup.policy"] == "delete"
    arrived(kafka, gw, topic=topic)


def test_events_go_on_without_the_right_to_make_it(secure, servers, watch):
    """And it is made once the right is given."""
    watch(secure)
    topic = secure.topic()
    grant(secure, 0, **{"usage-events": topic})
    gw = servers.add(make("ledger", sasl(secure, topic=topic))).start()
    ask(gw, 40)
    [line] = gw.wait_log("UE0412: kafka: ", 20)
    holds = "Authorization failed"
    assert f"ledger topic {topic}-ledger can't be made: {holds}" in line
    assert f"| UE0412 | `{holds}` |" in page("kafka-acls")
    arrived(secure, gw, topic=topic)
    assert f"{topic}-ledger" not in secure.topics()
    # What the page says, for a topic of another name.
    grant(secure, 1, **{"usage-events-ledger": f"{topic}-ledger"})
    assert is_right(made(secure, f"{topic}-ledger", timeout=40))
    ask(gw, 40)
    arrived(secure, gw, topic=topic)
    assert len(lines(gw, "UE0412")) == 1


def test_write_is_enough_where_it_is_there(secure, servers, watch):
    """Nobody may see how it is kept, or make it."""
    watch(secure)
    topic = secure.topic()
    secure.create_topic(f"{topic}-ledger", 1, cleanup_policy="compact")
    for one in (topic, f"{topic}-ledger"):
        acl(secure, "--bootstrap-server", secure.direct, "--add",
            "--operation", "Write", "--topic", one,
            "--allow-principal", "User:gateway")
    gw = servers.add(make("writes", sasl(secure, topic=topic))).start()
    ask(gw, 40)
    arrived(secure, gw, topic=topic)
    assert quiet(gw), gw.error_log()


def test_without_a_topic_for_events_none_is_made(kafka_own, start):
    """The name may be wrong."""
    kafka = kafka_own(extra={"auto.create.topics.enable": "false"})
    topic = "usage-" + secrets.token_hex(4)
    gw = start(kafka, topic)
    gw.wait_log("UE0407: kafka: ")
    time.sleep(2)
    assert kafka.topics() == []
    kafka.create_topic(topic)
    assert is_right(made(kafka, f"{topic}-ledger"))
    arrived(kafka, gw, topic=topic)
