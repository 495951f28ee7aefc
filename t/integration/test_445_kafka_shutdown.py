# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""httpd's end while Kafka is out of reach: in time, and with every loss named
in the log. And while it is within reach: nothing is lost."""
import collections
import os
import re
import signal
import time

import pytest

from broker import Kafka
from harness import ORGS, poll
from kafka_helpers import (Load, caught_up, check_numbers, check_order, lines,
                           missing, parse, to_kafka)
from processes import new_dir, run, tool

#: Seconds. httpd looks for its children once a second at a graceful stop, else
#: after 0.3, 1.3, 2.3 s.
DRAIN = {signal.SIGTERM: 2, signal.SIGWINCH: 1.5}

FAULTS = bool(os.environ.get("UE_FAULTS"))
RESTARTS = 40 if FAULTS else 6
STOPS = [("event", signal.SIGTERM), ("event", signal.SIGWINCH),
         ("prefork", signal.SIGTERM)]
if FAULTS:
    STOPS += [("prefork", signal.SIGWINCH), ("worker", signal.SIGTERM),
              ("worker", signal.SIGWINCH)]

#: Nobody answers for this name, ever: what a dead name server does for most of
#: a minute.
STUCK_RESOLVER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

int getaddrinfo(const char *host, const char *service,
                const struct addrinfo *hints, struct addrinfo **result)
{
    int (*real)(const char *, const char *, const struct addrinfo *,
                struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");

    while (host && !strcmp(host, "stuck.invalid")) {
        sleep(1000);
    }
    return real(host, service, hints, result);
}
"""


@pytest.fixture(scope="module")
def shared():
    """A broker behind a proxy, for all tests here."""
    kafka = Kafka("kafka-stop", proxy=True)
    try:
        yield kafka.start()
    finally:
        kafka.stop()


@pytest.fixture
def broker(shared, servers):
    yield shared
    shared.proxy("pass")


@pytest.fixture(scope="module")
def stuck_resolver():
    at = new_dir("resolver")
    (at / "stuck.c").write_text(STUCK_RESOLVER)
    run([tool("gcc"), "-shared", "-fPIC", "-o", at / "stuck.so", at / "stuck.c",
         "-ldl"])
    return at / "stuck.so"


class Sent:
    """Requests one after the other, each on a connection of its own."""

    def __init__(self, gw, organizations=5):
        self.gw, self.n = gw, 0
        self.orgs = ORGS[:organizations]
        self.keys = [gw.add_key(org=org)[0] for org in self.orgs]
        self.ids = {org: [] for org in self.orgs}
        self.cut = collections.Counter()

    def send(self, n):
        for _ in range(n):
            which = self.n % len(self.orgs)
            org, self.n = self.orgs[which], self.n + 1
            a = self.gw.get(f"/local/any/{len(self.ids[org])}",
                            headers={"X-API-Key": self.keys[which]})
            assert a.status == 200
            self.ids[org].append(a.request_id)

    def answered(self):
        return self.n


def drain(sig):
    return f"UsageKafkaDrainTimeout {DRAIN[sig] * 1000:.0f}ms\n"


def timed_stop(gw, sig):
    """Returns how long it took from the signal on."""
    gw.quiet()
    begin = time.monotonic()
    gw.stop(sig, quiet=False)
    return time.monotonic() - begin


def named(gw):
    """What the log says is lost: (total, of these maybe arrived, by
    organization)."""
    log = gw.error_log()
    total = re.findall(r"UE0201: producer: (\d+) events .*of these, (\d+) were"
                       r" on their way, and may have arrived", log)
    assert len(total) == len(lines(gw, "UE0201"))
    by = collections.Counter()
    for n, org in re.findall(r"UE0202: .*: (\d+) events of organization (\S+)",
                             log):
        by[org] += int(n)
    lost, unknown = (sum(int(one[k]) for one in total) for k in range(2))
    assert by.total() == lost
    return lost, unknown, by


def account(gw, sent, stored):
    """What is not in Kafka is named, and what is named is not in Kafka, except
    for what was on its way. Returns (lost, on their way, of these arrived)."""
    lost, unknown, by = named(gw)
    none = missing(stored, sent)
    assert none <= by, f"missing: {none}, named: {by}"
    arrived = lost - none.total()
    assert 0 <= arrived <= unknown + sent.cut.total()
    check_numbers(stored, lost=bool(unknown))
    return lost, unknown, arrived


def quiet_proxy(broker):
    """Open the proxy and wait until nothing more comes out of it."""
    broker.proxy("pass")
    seen = [None]

    def still():
        before, seen[0] = seen[0], broker.proxy_stats()
        return before == seen[0]
    poll(still, 10, every=0.3, what="the proxy is quiet")


OUTAGES = {"stalled": "stall", "unconfirmed": "stall-back", "refused": "refuse"}


@pytest.mark.parametrize("kind", STOPS, ids=lambda k: f"{k[0]}-{k[1].name}")
@pytest.mark.parametrize("how", OUTAGES)
def test_stop_in_an_outage(broker, gateway, how, kind):
    mpm, sig = kind
    topic = broker.topic()
    gw = gateway(mpm=mpm, **to_kafka(
        broker, topic, conf=drain(sig)))
    sent = Sent(gw)
    gw.start()
    sent.send(40)
    caught_up(gw)
    broker.proxy(OUTAGES[how])
    sent.send(40)
    time.sleep(0.7)  # these are on their way, as far as they get
    sent.send(40)
    assert gw.metrics()["usage_events_delivered_total"] == 40
    assert timed_stop(gw, sig) < DRAIN[sig] + 1
    quiet_proxy(broker)
    stored = parse(broker.read(topic))
    lost, unknown, arrived = account(gw, sent, stored)
    print(f"{lost} lost, {unknown} of them on their way, {arrived} arrived")
    assert lost == 80
    if how != "refused":
        assert 0 < unknown < 80, "the two kinds are told apart"
    if how == "unconfirmed":
        assert arrived == unknown


@pytest.mark.parametrize("kind", STOPS, ids=lambda k: f"{k[0]}-{k[1].name}")
@pytest.mark.parametrize("name", ["no-such-host.invalid", "stuck.invalid"])
def test_stop_without_a_resolvable_name(gateway, stuck_resolver, name, kind):
    """Also where the resolver hangs, and with it a thread of librdkafka."""
    mpm, sig = kind
    gw = gateway(mpm=mpm, **to_kafka(
        f"{name}:9092", "usage-nowhere",
        conf=drain(sig)))
    if name == "stuck.invalid" and gw.preload:
        gw.preload += f":{stuck_resolver}"
    elif name == "stuck.invalid":
        gw.env["LD_PRELOAD"] = str(stuck_resolver)
    sent = Sent(gw)
    gw.start()
    sent.send(60)
    time.sleep(0.7)
    assert gw.metrics()["usage_events_waiting"] == 60
    assert timed_stop(gw, sig) < DRAIN[sig] + 1
    assert account(gw, sent, []) == (60, 0, 0)


@pytest.mark.mpms("event")
def test_graceful_stop_under_load_in_an_outage(broker, gateway, mpm):
    topic = broker.topic()
    gw = gateway(mpm=mpm, **to_kafka(
        broker, topic, conf=drain(signal.SIGWINCH)))
    load = Load(gw, rate=600)
    gw.start()
    with load:
        load.wait(600)
        caught_up(gw)
        broker.proxy("stall")
        load.wait(600)
        gw.stop(signal.SIGWINCH)
    quiet_proxy(broker)
    stored = parse(broker.read(topic))
    lost, unknown, arrived = account(gw, load, stored)
    print(f"{lost} lost, {unknown} of them on their way, {arrived} arrived")
    assert lost >= 600 and 0 < unknown < lost
    check_order(stored)


@pytest.mark.mpms("event", "prefork")
def test_graceful_restarts_and_stop_under_load(broker, gateway, mpm):
    """With Kafka there, nothing is lost, nothing comes twice, and the last
    events of a child, which its end may overtake, keep their order."""
    topic = broker.topic()
    # Slots that have been used come back in any order.
    gw = gateway(mpm=mpm, server_limit=16, **to_kafka(
        broker, topic, conf="UsageKafkaFlushInterval 50ms\n"))
    load = Load(gw, organizations=4, rate=None)
    gw.start()
    with load:
        for _ in range(RESTARTS):
            load.wait(600)
            gw.graceful()
        load.wait(600)
        gw.stop(signal.SIGWINCH)
    assert named(gw)[0] == 0
    stored = parse(broker.read(topic))
    assert not missing(stored, load)
    check_numbers(stored)
    check_order(stored)
    streams = {s.stream for s in stored}
    assert len(streams) > 4 and len(stored) >= 600 * RESTARTS
