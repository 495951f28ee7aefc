# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""What a spool carries over the end of httpd itself: killed with all of its
children, stopped, restarted, with another topic behind it.

make test-faults waits longer.
"""
import collections
import json
import os
import random
import re
import signal
import time

import pytest

from harness import poll
from kafka_helpers import Load, caught_up, lines
from spool_helpers import (HELD_CONF, Held, check_metrics, check_sums, emptied,
                           interrupted, kill, kill_tree, make_spool,
                           read_events, size_of, spool_ls, waiting, with_spool)

FAULTS = bool(os.environ.get("UE_FAULTS"))
OPEN_FOR = 60 if FAULTS else 10
RESTARTS = 40 if FAULTS else 10


@pytest.fixture
def spooled(kafka_far, gateway):
    """spooled(**kw): a gateway with a spool, before a Kafka that can be put out
    of reach."""
    def make(**kw):
        topic = kafka_far.topic()
        gw = gateway(**with_spool(kafka_far, topic, **kw))
        gw.topic, gw.spool = topic, make_spool(gw)
        return gw
    return make


def run_and_kill(gw, n=3000, like=None):
    """Load until the whole of httpd is killed. Returns the load."""
    load = Load(gw, rate=None, connection=50, keys=like and like.keys)
    if gw.proc is None:
        gw.start()
    with load:
        load.wait(n)
        kill_tree(gw)
    return load


def run_on(gw, like, seconds=1):
    """Further load, with another one's keys, of which nothing is cut off."""
    load = Load(gw, keys=like.keys)
    with load:
        load.run(seconds)
    return load


def all_sent(gw, kafka, loads, **kw):
    """All that ever was admitted is there, and httpd has said so. Returns what
    is stored."""
    caught_up(gw)
    emptied(gw.spool)
    stored = read_events(kafka, gw.topic, loads, **kw)
    gw.stop()
    check_sums(kafka, gw.topic, stored)
    return stored


# --- killed with all children -------------------------------------------------

def test_the_tree_killed_with_kafka_away(spooled, kafka_far):
    """Twice, and once more with a child of those that took over."""
    gw = spooled()
    kafka_far.proxy("stall")
    loads = [run_and_kill(gw)]
    left = waiting(gw.spool)
    assert left >= loads[0].answered() >= 3000
    loads.append(run_and_kill(gw, 500, loads[0]))
    assert waiting(gw.spool) > left
    gw.start()
    # Each child takes one over and waits for Kafka to tell of partitions.
    poll(lambda: gw.metrics()["usage_events_adopted_total"] > 1000, 20,
         every=0.2, what="much is taken over")
    kill(gw, 2)
    loads.append(run_on(gw, loads[0]))
    poll(lambda: len([s for s in spool_ls(gw.spool) if s["held_by"]]) >= 8, 20,
         every=0.2, what="what was taken over by the dead, too")
    kafka_far.proxy("pass")
    emptied(gw.spool)
    m = gw.settled(30)
    stored = all_sent(gw, kafka_far, loads)
    # What httpd admitted before is counted by the one that sends it.
    assert m["usage_events_admitted_total"] \
        == m["usage_events_delivered_total"] == len(stored)


def test_the_tree_killed_with_kafka_there(spooled, kafka_far):
    """Nobody knows what had arrived; it comes again under its number."""
    gw = spooled()
    loads = []
    for _ in range(6 if FAULTS else 2):
        loads.append(run_and_kill(gw, 2000, loads and loads[0]))
    gw.start()
    loads.append(run_on(gw, loads[0]))
    all_sent(gw, kafka_far, loads)


# --- generations --------------------------------------------------------------

def test_an_old_generation_is_killed(spooled, kafka_far, odd):
    """It has requests open, over a graceful restart; the new one takes over
    while more come."""
    gw = spooled(conf=HELD_CONF, backend=odd, server_limit=16)
    load, held = Load(gw), Held(gw, gw.add_key()[0], each=2)
    gw.start()
    with load, held:
        load.run(1)
        old = set(gw.children())
        gw.graceful()
        poll(lambda: len(set(gw.children()) - old) >= 4, 10, what="new ones")
        before = len(held.cut)
        assert before == 0, "none is cut short by a graceful restart"
        load.run(OPEN_FOR)
        assert not held.cut and old & set(gw.children())
        # Old and new ones at the same time.
        gw.allow_signal(signal.SIGKILL)
        there = set(gw.children())
        for pid in old & there | {random.choice(list(there - old))}:
            os.kill(pid, signal.SIGKILL)
        load.run(1)
        kill(gw)
        load.run(1)
    odd.stop()
    caught_up(gw)
    emptied(gw.spool)
    stored = read_events(kafka_far, gw.topic, [load], held)
    check_metrics(gw, stored)
    gw.stop()
    check_sums(kafka_far, gw.topic, stored)
    assert set(held.cut.values()) == set(held.PATHS)


def test_restart_storm(spooled, kafka_far):
    """Graceful restarts under load: each event once, and files go away."""
    gw = spooled(server_limit=24)
    load = Load(gw, rate=None, connection=50)
    gw.start()
    sizes = []
    with load:
        for n in range(RESTARTS):
            load.wait(300)
            gw.graceful()
            if n % 3 == 2:
                load.wait(1000)
            sizes.append(size_of(gw.spool))
        load.wait(300)
    poll(lambda: len(gw.children()) == 4, 30, what="the old ones are gone")
    caught_up(gw)
    poll(lambda: len(spool_ls(gw.spool)) == 4, 30, every=0.2,
         what=f"streams of children alone: {len(spool_ls(gw.spool))}")
    print([n >> 20 for n in sizes], size_of(gw.spool) >> 20)
    assert size_of(gw.spool) < 4 * 8 << 20
    stored = read_events(kafka_far, gw.topic, [load])
    check_metrics(gw, stored)
    assert not interrupted(stored)
    gw.stop()
    check_sums(kafka_far, gw.topic, stored)
    assert not lines(gw, "UE0601"), "there was room"


# --- another topic ------------------------------------------------------------

def of_topic(load, kafka, topic):
    """What a topic holds is what was answered while it was the one, and nothing
    else. Returns what is stored."""
    stored = read_events(kafka, topic, [load])
    known = {i for ids in load.ids.values() for i in ids}
    assert len(stored) <= len(known) + load.cut.total()
    return stored


def check_two_topics(gw, kafka, first, before, second, after):
    caught_up(gw)
    emptied(gw.spool)
    old = of_topic(before, kafka, first)
    new = of_topic(after, kafka, second)
    gw.stop()
    check_sums(kafka, first, old)
    check_sums(kafka, second, new)


def test_another_topic_after_a_kill(spooled, kafka_far):
    gw = spooled()
    first, second = gw.topic, kafka_far.topic()
    kafka_far.proxy("stall")
    before = run_and_kill(gw)
    gw.usage["UsageKafkaTopic"] = second
    gw.start()
    kafka_far.proxy("pass")
    after = run_on(gw, before)
    check_two_topics(gw, kafka_far, first, before, second, after)


def test_another_topic_after_a_graceful_restart(spooled, kafka_far):
    """The old children can't send, and leave it to the new ones."""
    gw = spooled(server_limit=16, conf="UsageKafkaDrainTimeout 500ms\n")
    first, second = gw.topic, kafka_far.topic()
    before = Load(gw)
    gw.start()
    with before:
        before.run(0.5)
        kafka_far.proxy("stall")
        before.run(1)
    old = set(gw.children())
    gw.usage["UsageKafkaTopic"] = second
    gw.graceful()
    after = Load(gw, keys=before.keys)
    with after:
        after.wait(300)
        poll(lambda: not old & set(gw.children()), 20, what="old ones end")
        kafka_far.proxy("pass")
        after.run(0.5)
    assert lines(gw, "UE0203"), "something was left"
    check_two_topics(gw, kafka_far, first, before, second, after)


def test_other_brokers(spooled, kafka_far):
    """Nobody knows where to send what waits: it is said, and stays."""
    gw = spooled(children=2)
    kafka_far.proxy("stall")
    load = run_and_kill(gw, 300)
    left = waiting(gw.spool)
    brokers = gw.usage["UsageKafkaBrokers"]
    gw.usage.update(UsageKafkaBrokers=None, UsageEventFile=gw.event_file)
    gw.start()
    said = lines(gw, "UE0008")
    assert len(said) == 2 and gw.topic in said[0] and brokers in said[0]
    run_on(gw, load, 1.5)
    gw.settled()
    gw.stop(check=False)
    assert sum(s["waiting"] for s in spool_ls(gw.spool)
               if s["topic"] == gw.topic) == left
    gw.usage.update(UsageKafkaBrokers=brokers, UsageEventFile=None)
    kafka_far.proxy("pass")
    gw.start()
    all_sent(gw, kafka_far, [load])


def test_two_topics_in_one_directory(kafka_far, gateway):
    """Of two virtual hosts. What each topic had waiting goes to it, whoever
    takes it over."""
    topics = [kafka_far.topic(), kafka_far.topic()]
    gw = gateway(**with_spool(kafka_far, topics[0]), vhost_conf=f"""
</VirtualHost>
<VirtualHost *:{{port}}>
ServerName second.test
UsageKafkaTopic {topics[1]}
AliasMatch "^/local/any/" "{{htdocs}}/local/hello.txt"
""")
    gw.spool = make_spool(gw)
    loads = [Load(gw, rate=1000)]
    loads.append(Load(gw, rate=300, keys=loads[0].keys, host="second.test"))
    gw.start()
    with loads[0], loads[1]:
        loads[0].run(0.5)
        for _ in range(3):
            kill(gw)
            loads[0].run(0.5)
        kafka_far.proxy("stall")
        loads[0].run(0.5)
        kill_tree(gw)
    gw.start()
    kafka_far.proxy("pass")
    caught_up(gw)
    emptied(gw.spool)
    stored = [of_topic(load, kafka_far, topic)
              for load, topic in zip(loads, topics)]
    gw.stop()
    for topic, its in zip(topics, stored):
        check_sums(kafka_far, topic, its)


# --- files --------------------------------------------------------------------

def file_lines(gw):
    """Events of the event file: [(event, line)]. A killed child may leave a
    piece of a line."""
    found, torn = [], 0
    for line in gw.event_file.read_bytes().split(b"\n")[:-1]:
        try:
            found.append(json.loads(line))
        except ValueError:
            torn += 1
    return found, torn


def check_file(gw, loads, kills):
    """Each event is a line. Between the write of a batch and the marks on its
    slots a kill lets that batch be written once more by who takes over: such
    lines are the same, byte for byte but for nothing."""
    events, torn = file_lines(gw)
    by_id = collections.defaultdict(list)
    for event in events:
        by_id[event["request_id"]].append(event)
    answered = {i for load in loads for ids in load.ids.values() for i in ids}
    assert not answered - set(by_id), "answered, and no line"
    cut = sum(load.cut.total() + len(load.orgs) for load in loads)
    assert len(set(by_id) - answered) <= cut
    twice = [same for same in by_id.values() if len(same) > 1]
    for same in twice:
        assert same[0] == same[1] and len(same) == 2, same
    print(f"{len(events)} lines, {len(twice)} twice, {torn} torn")
    assert torn <= kills and len(twice) <= kills * 2000
    return by_id


def test_a_file_alone(gateway):
    gw = gateway(server_conf="""
UsageSpool {dir}/spool
AliasMatch "^/local/any/" "{htdocs}/local/hello.txt"
""")
    gw.spool = make_spool(gw)
    load = Load(gw, rate=None, connection=50)
    gw.start()
    kills = 10 if FAULTS else 3
    with load:
        load.wait(300)
        for _ in range(kills):
            kill(gw)
            load.wait(300)
    caught_up(gw)
    by_id = check_file(gw, [load], kills)
    m = gw.settled()
    assert m["usage_events_delivered_total"] == len(by_id)
    assert gw.lost(m) == {} and m["usage_events_waiting"] == 0
    loads = [load, run_and_kill(gw, 500, load)]
    gw.start()
    emptied(gw.spool)
    check_file(gw, loads, kills + 4)
    gw.stop(check=False)


def test_kafka_and_a_file(spooled, kafka_far):
    gw = spooled(usage={"UsageEventFile": "{dir}/events.jsonl"})
    gw.usage["UsageEventFile"] = gw.event_file
    load = Load(gw, rate=None, connection=50)
    gw.start()
    with load:
        load.wait(300)
        for _ in range(3):
            kill(gw)
            load.wait(300)
        kafka_far.proxy("stall")
        load.wait(500)
        kill(gw)  # the file has them, Kafka doesn't
        load.wait(300)
        kafka_far.proxy("pass")
    caught_up(gw)
    emptied(gw.spool)
    stored = read_events(kafka_far, gw.topic, [load])
    check_metrics(gw, stored)
    by_id = check_file(gw, [load], 4)
    assert {s.event["request_id"] for s in stored} == set(by_id)
    for s in stored:
        assert by_id[s.event["request_id"]][0] == s.event, s
    gw.stop(check=False)
    check_sums(kafka_far, gw.topic, stored)


# --- a stop -------------------------------------------------------------------

def left_at_stop(gw):
    """What the log says stays in the spool."""
    return sum(int(n) for n in re.findall(
        r"UE0203: producer: (\d+) events stay in the spool", gw.error_log()))


@pytest.mark.parametrize("how", ["stall", "stall-back", "refuse"])
def test_a_stop_with_kafka_away(spooled, kafka_far, how):
    """Nothing is lost, and httpd ends in time; the next start sends it."""
    gw = spooled(conf="UsageKafkaDrainTimeout 1s\n")
    load = Load(gw)
    gw.start()
    with load:
        load.run(0.5)
        caught_up(gw)
        kafka_far.proxy(how)
        load.run(1)
    left = gw.metrics()["usage_events_waiting"]
    gw.quiet()
    begin = time.monotonic()
    gw.stop(quiet=False)
    assert time.monotonic() - begin < 1 + 1.3 + 1
    assert left_at_stop(gw) == waiting(gw.spool) == left > 200
    assert "UE0201" not in gw.error_log()
    kafka_far.proxy("pass")
    gw.start()
    loads = [load, run_on(gw, load, 0.5)]
    all_sent(gw, kafka_far, loads)


# --- what an earlier configuration has left -----------------------------------

def test_another_topic_beside_the_same_file(spooled, kafka_far):
    """What waits for the old topic goes there, and to the file they share."""
    gw = spooled()
    gw.usage["UsageEventFile"] = gw.event_file
    first, second = gw.topic, kafka_far.topic()
    kafka_far.proxy("stall")
    before = run_and_kill(gw, 500)
    gw.usage["UsageKafkaTopic"] = second
    gw.start()
    kafka_far.proxy("pass")
    after = run_on(gw, before)
    caught_up(gw)
    emptied(gw.spool)
    old = of_topic(before, kafka_far, first)
    new = of_topic(after, kafka_far, second)
    by_id = check_file(gw, [before, after], 4)
    assert {s.event["request_id"] for s in old + new} == set(by_id)
    gw.stop(check=False)


def test_a_file_that_nobody_names_is_not_opened(gateway):
    """Accounts can be written by httpd's children: root doesn't open what they
    say. What waits for that file waits until it is named again."""
    gw = gateway(server_conf="""
UsageSpool {dir}/spool
UsageKafkaFlushInterval 60s
UsageKafkaBatchSize 10000
AliasMatch "^/local/any/" "{htdocs}/local/hello.txt"
""")
    gw.spool = make_spool(gw)
    load = run_and_kill(gw, 50)
    there, gw.event_file = gw.event_file, gw.dir / "other.jsonl"
    assert there.read_bytes() == b"", "all of it waits"
    there.unlink()
    gw.server_conf = gw.server_conf.replace("60s", "100ms")
    gw.usage = {"UsageEventFile": gw.event_file}
    gw.start()
    assert lines(gw, "UE0008") and str(there) in lines(gw, "UE0008")[0]
    assert not there.exists()
    gw.stop()
    gw.usage, gw.event_file = {"UsageEventFile": there}, there
    gw.start()
    emptied(gw.spool)
    check_file(gw, [load], 4)
    gw.stop(check=False)
