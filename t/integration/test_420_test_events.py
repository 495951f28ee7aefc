# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""scripts/test-events.sh against a real gateway and a real broker: it passes
where all is well, and says so where it isn't. And the demo with Kafka."""
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from broker import install
from harness import FIELDS, ORG, ORGS, poll
from processes import REPO, free_port, new_dir, session_members

SCRIPT = REPO / "scripts/test-events.sh"
OTHER = REPO / "scripts/test-events.ps1"
STEPS = ["1. health of Kafka", "2. health of the gateway", "3. one request",
         "4. burst of 10", "5. batch of 100",
         "6. messages before and after", "7. size of the topic",
         "8. sample events"]


class Result:
    """What the script said, step by step."""

    def __init__(self, done, key):
        self.status, self.text = done.returncode, done.stdout + done.stderr
        assert not key or key not in self.text
        found = re.findall(r"^(PASSED|FAILED)  (\d\. [^:]+): (.*)$",
                           done.stdout, re.M)
        assert [name for _, name, _ in found] == STEPS, self.text
        self.passed = [n for n, (word, _, _) in enumerate(found, 1)
                       if word == "PASSED"]
        self.said = {n: text for n, (_, _, text) in enumerate(found, 1)}
        assert done.stdout.splitlines()[-1] == \
            f"{len(self.passed)} passed, {8 - len(self.passed)} failed"
        assert self.status == (0 if len(self.passed) == 8 else 1), self.text
        self.samples = [json.loads(line) for line in done.stdout.splitlines()
                        if line.startswith("  {")]


def run_script(**env):
    tmp = new_dir("test-events")
    clean = {k: v for k, v in os.environ.items()
             if not re.match(r"KAFKA_|GATEWAY_|TEST_|API_KEY|.*_proxy$", k)}
    done = subprocess.run(
        ["sh", SCRIPT], env={**clean, "TMPDIR": str(tmp),
                             **{k: str(v) for k, v in env.items()}},
        capture_output=True, text=True, timeout=300)
    assert list(tmp.iterdir()) == []
    return done


class Site:
    """A gateway that sends its events to a topic."""

    def __init__(self, kafka, gateway, topic=None, **kw):
        self.kafka, self.topic = kafka, topic or kafka.topic(partitions=6)
        self.gw = gateway(
            children=2, usage={"UsageEventFile": None},
            server_conf=f"UsageKafkaBrokers {kafka.bootstrap}\n"
                        f"UsageKafkaTopic {self.topic}\n", **kw)
        self.key = self.gw.add_key()[0]
        self.gw.start()

    def test(self, **env):
        key = env.setdefault("API_KEY", self.key)
        env.setdefault("GATEWAY_URL", self.gw.url)
        env.setdefault("KAFKA_BROKERS", self.kafka.bootstrap)
        env.setdefault("KAFKA_TOPIC", self.topic)
        env.setdefault("TEST_WAIT", 10)
        return Result(run_script(**env), key)


@pytest.fixture
def site(kafka, gateway):
    return lambda **kw: Site(kafka, gateway, **kw)


# --- all is well -------------------------------------------------------------

def test_all_steps_pass(site, kafka):
    here = site()
    kafka.deliver(here.topic, ["before"])
    result = here.test(TEST_PATH="/status/404?x=1", HEALTH_PATH="/usage-status")
    assert result.status == 0, result.text
    assert "(404: 100); events: 100" in result.said[5]
    assert result.said[2] == "/usage-status is answered with 200"
    assert "1, then 112; requests: 111, events: 111, repeated: 0" \
        in result.said[6]
    assert "messages: 112, partitions: 6" in result.said[7]
    records = kafka.wait_records(here.topic, 112)
    values = [json.loads(r.value) for r in records if r.key == ORG.encode()]
    assert len({v["request_id"] for v in values}) == 111
    assert len(result.samples) == 3
    for sample in result.samples:
        assert list(sample) == FIELDS and sample in values


def test_other_traffic_is_no_trouble(site):
    here = site()
    keys = [here.gw.add_key(org=org)[0] for org in ORGS[1:4]]
    here.gw.wait_log("taken up")
    over = threading.Event()

    def others(key):
        with here.gw.conn() as conn:
            while not over.wait(0.005):
                conn.request("GET", "/", [("X-API-Key", key)])
    threads = [threading.Thread(target=others, args=(k,))
               for k in [*keys, here.key]]
    for thread in threads:
        thread.start()
    try:
        result = here.test()
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert result.status == 0, result.text
    before, after = re.match(r"(\d+), then (\d+);", result.said[6]).groups()
    assert int(after) - int(before) > 111


def test_no_secret_on_a_command_line(site):
    """Neither the key nor what is in KAFKA_OPTIONS."""
    here = site()
    tools = new_dir("tools")
    log = tools / "log"
    for name in ("curl", "kcat"):
        (tools / name).write_text(
            f'#!/bin/sh\necho "{name} $*" >>"{log}"\n'
            f'exec {shutil.which(name)} "$@"\n')
        (tools / name).chmod(0o755)
    result = here.test(PATH=f"{tools}:{os.environ['PATH']}",
                       KAFKA_OPTIONS="-X client.id=one -Xclient.rack=two "
                                     "sasl.password=three")
    assert result.status == 0, result.text
    said = log.read_text()
    assert "curl " in said and "kcat " in said
    for word in (here.key, "one", "two", "three"):
        assert f"={word}" not in said and here.key not in said


# --- something isn't ---------------------------------------------------------

def test_no_kafka(site):
    result = site().test(KAFKA_BROKERS=f"127.0.0.1:{free_port()}")
    assert result.passed == [2], result.text
    assert "it doesn't answer; " in result.said[1]
    assert "(200: 1), but Kafka can't be looked into" in result.said[3]
    assert "not tried" in result.said[4] and "not tried" in result.said[5]


def test_kafka_that_goes_away(kafka_own, gateway, servers):
    """Behind the first look, so that nothing hangs in the middle."""
    here = Site(kafka_own(), gateway)
    here.gw.allow_signal(9)  # what can't be delivered holds httpd up
    tools = new_dir("tools")
    stop = tools / "curl"
    stop.write_text(f'#!/bin/sh\nkill -9 {here.kafka.pid}\n'
                    f'exec {shutil.which("curl")} "$@"\n')
    stop.chmod(0o755)
    result = here.test(PATH=f"{tools}:{os.environ['PATH']}", TEST_WAIT=2)
    assert result.passed == [1, 2], result.text
    assert "events: 0 within 2 s" in result.said[3]
    here.kafka.start()
    here.gw.settled()


def test_no_topic(site, kafka):
    here = site()
    result = here.test(KAFKA_TOPIC=here.topic + "-other")
    assert result.passed == [2]
    assert "there is no topic" in result.said[1]
    assert here.topic + "-other" not in kafka.topics()


def test_wrong_key(site):
    result = site().test(API_KEY="sk_live_no-such-key")
    assert result.passed == [1, 2, 7], result.text
    assert "turned away (401)" in result.said[3]


def test_no_gateway(site):
    result = site().test(GATEWAY_URL=f"http://127.0.0.1:{free_port()}")
    assert result.passed == [1, 7], result.text
    assert "it doesn't answer; curl: " in result.said[2]
    assert "not tried" in result.said[3]


def test_backend_that_is_away(site):
    result = site(backend=f"http://127.0.0.1:{free_port()}").test()
    assert 3 not in result.passed, result.text
    assert "(503: 1); events: 1" in result.said[3]


def test_events_that_are_missing(site, kafka):
    """The gateway writes to another topic."""
    result = site().test(KAFKA_TOPIC=kafka.topic(), TEST_WAIT=2)
    assert result.passed == [1, 2, 7], result.text
    assert result.said[3].endswith("(200: 1); events: 0 within 2 s")
    assert "requests: 1, events: 0" in result.said[6]


def test_events_that_are_repeated(site, kafka):
    here = site()
    over = threading.Event()
    copied = []

    def copy():
        while not over.wait(0.05):
            if not copied and kafka.count(here.topic) > 10:
                copied.extend(kafka.read(here.topic)[:1])
                kafka.deliver(here.topic, [copied[0].value.decode()],
                              key=copied[0].key.decode(),
                              partitioner="consistent_random")
    thread = threading.Thread(target=copy)
    thread.start()
    try:
        result = here.test()
    finally:
        over.set()
        thread.join()
    assert copied and 6 not in result.passed, result.text
    assert "events: 111, repeated: 1" in result.said[6]


# --- wrong use ---------------------------------------------------------------

@pytest.mark.parametrize("env, said", [
    ({}, "API_KEY must be"), ({"API_KEY": "a b"}, "API_KEY has a space"),
    ({"API_KEY": "k", "TEST_WAIT": "soon"}, "TEST_WAIT=soon"),
    ({"API_KEY": "k", "TEST_PATH": "/a b"}, "TEST_PATH"),
    ({"API_KEY": "k", "PATH": "{empty}"}, "curl is not installed")])
def test_wrong_use(env, said):
    empty = new_dir("tools")
    for name in ("sh", "sed", "cat"):
        (empty / name).symlink_to(shutil.which(name))
    done = run_script(**{k: v.format(empty=empty) for k, v in env.items()})
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert said in done.stderr


def words(path):
    """A script's steps, and the variables that its head describes."""
    text = path.read_text()
    return ({s.strip() for s in re.findall(r"\b[1-8]\. [a-z][A-Za-z0-9 ]+",
                                           text)},
            re.findall(r"^# ([A-Z]+_[A-Z]+) {2,}(.*(?:\n#  +.*)*)", text, re.M))


def test_both_scripts_say_the_same():
    assert words(SCRIPT) == words(OTHER)
    assert words(SCRIPT)[0] == set(STEPS)
    for said in ("it doesn't answer; ", "there is no topic ",
                 "the topic can't be read;", "usagectl init-kafka makes it",
                 "without a leader:", "is answered with ",
                 "no answer with an X-Request-Id; ",
                 "answers with an X-Request-Id: ", "; events: ",
                 "turned away (401); is API_KEY right?",
                 ", but Kafka can't be looked into", "; repeated: ",
                 ": not tried, the gateway doesn't answer",
                 ": not tried, since one request failed",
                 "Kafka doesn't answer any more", "messages: ",
                 ", partitions: ", "all of ours have the nine fields",
                 "with the nine fields: ", " passed, "):
        for script in (SCRIPT, OTHER):
            assert said in script.read_text(), (script.name, said)


# --- make demo KAFKA=1 -------------------------------------------------------

def start_demo(tmp, **env):
    install()
    return subprocess.Popen(
        [REPO / "scripts/demo"], text=True, start_new_session=True,
        env={**os.environ, "KAFKA": "1", "TMPDIR": str(tmp), **env},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)


def running_below(path):
    """Processes that have it on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                said = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(path).encode() in said:
                found.append(said)
    return found


def test_demo_ends_well_and_leaves_nothing():
    tmp = new_dir("demo")
    demo = start_demo(tmp)
    shown = demo.communicate(timeout=240)[0]
    assert demo.returncode == 0, shown
    assert list(tmp.iterdir()) == []
    assert not session_members(demo.pid) and not running_below(tmp)
    answers = re.findall(r"^HTTP/1.1 (\d+).*(?:\n.+)*?\nX-Request-Id: (\S+)",
                         shown, re.M)
    events = [json.loads(x) for x in re.findall(r"^\d+ \S{36} ({.*})$", shown,
                                                re.M)]
    # children don't wait for each other, so the order is any
    admitted = [a for a in answers if a[0] != "401"]
    assert sorted((str(e["status_code"]), e["request_id"]) for e in events) \
        == sorted(admitted[:3])
    # the fourth is that of the process that is killed, after they were shown
    assert len(events) == 3 and len(admitted) == 4
    assert "another process has sent it" in shown


def test_demo_misses_an_event():
    """kcat shows one event less than there is: nothing else is wrong."""
    tmp, tools = new_dir("demo"), new_dir("tools")
    kcat = tools / "kcat"
    kcat.write_text(f"#!/bin/sh\n{shutil.which('kcat')} \"$@\" | tail -n +2\n")
    kcat.chmod(0o755)
    demo = start_demo(tmp, PATH=f"{tools}:{os.environ['PATH']}")
    shown = demo.communicate(timeout=240)[0]
    assert demo.returncode == 1, shown
    assert "three events: not within ten seconds" in shown
    assert not session_members(demo.pid) and not running_below(tmp)


def test_demo_can_be_interrupted():
    tmp = new_dir("demo")
    demo = start_demo(tmp)
    for line in demo.stdout:
        if "proxies to an API" in line:
            break
    assert running_below(tmp)
    demo.send_signal(signal.SIGTERM)
    demo.stdout.read()
    assert demo.wait(60) == 130
    poll(lambda: not running_below(tmp), 10, what="Kafka's end")
    assert session_members(demo.pid) == []
