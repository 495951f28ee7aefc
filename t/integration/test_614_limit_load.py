# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Limits under load, of several children at once: never more than a limit
allows, in any window of time, and nearly all of it; through restarts and kills,
too."""
import os
import random
import signal
import time

import pytest

from clients.http1 import poll
from clients.load import Paced
from limit_helpers import (LOCAL, LOG, counted, exactly, is_over, left, limits,
                           logged, never_over)

ROOM = "UsageKafkaBufferSize 20000\nUsageJournalSlots 65536\n"


@pytest.fixture
def make(gateway):
    """A gateway of four children with this limit, and a key in gw.known."""
    def make(rate, conf="", **kw):
        gw = gateway(backend=None, children=4,
                     server_conf=f"{ROOM}UsageRateLimit {rate}\n{conf}", **kw)
        gw.known = gw.add_key()[0]
        return gw
    return make


def ask(c, gw):
    return c.request("GET", LOCAL, [("X-API-Key", gw.known)])


def let_in_of(seen):
    return sum(status == 200 for *_, status in seen)


# --- ten times the rate -------------------------------------------------------

@pytest.mark.parametrize("rate, burst", [(100, 50), (1000, 200), (5, 1)])
def test_ten_times_the_rate(make, rate, burst):
    gw = make(f"{rate}/s burst={burst} by=org", LOG)
    gw.start()
    with Paced(gw, [gw.known], rate=10 * rate, connections=16) as load:
        time.sleep(3)
        account = load.stop()
    assert set(account["status"]) == {200, 429}
    gw.settled()
    poll(lambda: let_in_of(logged(gw)) == counted(gw)["allowed"])
    seen = logged(gw)
    never_over(seen, rate, burst)
    let_in = let_in_of(seen)
    exact = exactly(seen, rate, burst)
    print(f"{rate}/s burst={burst}: {let_in} of {len(seen)}, exact: {exact}")
    assert let_in >= 0.97 * exact
    assert len(seen) > 3 * let_in
    assert let_in == len(gw.events())


def test_each_request_of_a_bucket_of_one(make):
    """5/s burst=1, asked all the time: whoever must be let in is, and nobody
    else."""
    gw = make("5/s burst=1 by=org")
    gw.start()
    last, let_in, end = None, 0, time.monotonic() + 3
    with gw.conn() as a, gw.conn() as b, gw.conn() as c, gw.conn() as d:
        while time.monotonic() < end:
            for one in (a, b, c, d):
                sent = time.monotonic()
                answer = ask(one, gw)
                got = time.monotonic()
                if answer.status == 200:
                    assert last is None or got - last[0] >= 0.2
                    last = sent, got
                    let_in += 1
                else:
                    is_over(answer, "org")
                    assert sent - last[1] < 0.2
    assert 3 < let_in <= 1 + 5 * (got - end + 3)
    print(f"5/s burst=1: {let_in} in 3 s")


# --- half the rate ------------------------------------------------------------

@pytest.mark.parametrize("rate, burst", [(100, 50), (1000, 200), (5, 1)])
def test_half_the_rate_is_never_refused(make, rate, burst):
    """By a client who keeps his pace, and doesn't catch up where he was held
    up. With a bucket of one he counts from the answer on, or his own delays
    would be held against him."""
    gw = make(f"{rate}/s burst={burst} by=org")
    gw.start()
    begin = due = time.monotonic()
    sent = 0
    with gw.conn() as a, gw.conn() as b, gw.conn() as c, gw.conn() as d:
        while due < begin + 2:
            assert ask((a, b, c, d)[sent % 4], gw).status == 200
            sent += 1
            now = time.monotonic()
            due = now + 2 / rate if burst == 1 else max(due + 2 / rate, now)
            time.sleep(max(0, due - time.monotonic()))
    assert counted(gw) == {"allowed": sent}
    assert sent >= rate * 2 / 4
    gw.wait_events(sent)


# --- restarts and kills -------------------------------------------------------

def kill_one(gw):
    """kill -9 a child: which, is chance."""
    gw.allow_signal(signal.SIGKILL)
    os.kill(random.choice(gw.children()), signal.SIGKILL)


def reload(gw):
    old = set(gw.children())
    gw.graceful()
    poll(lambda: not old & set(gw.children()), 30,
         what="the old generation is gone")


EVENTS = {"graceful": reload, "restart": lambda gw: gw.restart(),
          "kill": kill_one}


@pytest.mark.parametrize("what", sorted(EVENTS))
def test_what_is_used_up_stays_used_up(make, what):
    gw = make("1/h burst=3 by=org", "UsageRateLimit 1/h burst=5 by=ip\n",
              server_limit=8)
    gw.start()
    for n in range(2):
        assert [x.left for x in limits(gw.get(LOCAL, key=gw.known))] == [
            2 - n, 4 - n]
    for _ in range(2):
        EVENTS[what](gw)
    a = gw.get(LOCAL, key=gw.known)
    assert [x.left for x in limits(a)] == [0, 2]
    EVENTS[what](gw)
    for _ in range(8):  # whichever child it comes to
        assert 3500 < is_over(gw.get(LOCAL, key=gw.known), "org") <= 3600
    assert gw.metrics()["usage_limit_subjects"] == 2
    assert counted(gw) == {"allowed": 3, "rate-limit": 8}


def test_another_burst_counts_on(make):
    """What was used is used: of three more there are three, and two fewer have
    to wait for."""
    gw = make("1/h burst=3 by=org")
    gw.start()
    for rate, let_in, wait in (("1/h burst=3", 3, 1), ("1/h burst=6", 3, 1),
                               ("1/h burst=4", 0, 3), ("1/h burst=7", 1, 1)):
        gw.server_conf = f"UsageRateLimit {rate} by=org\n"
        reload(gw)
        for n in range(let_in, 0, -1):
            assert left(gw.get(LOCAL, key=gw.known)) == n - 1
        after = is_over(gw.get(LOCAL, key=gw.known), "org")
        assert wait * 3600 - 60 < after <= wait * 3600


def test_another_rate_counts_on(make):
    """A request that was let in is one at a new rate, too, and no hour."""
    gw = make("1/h by=org")
    gw.start()
    assert gw.get(LOCAL, key=gw.known).status == 200
    gw.server_conf = "UsageRateLimit 10/h burst=3 by=org\n"
    reload(gw)
    assert [left(gw.get(LOCAL, key=gw.known)) for _ in range(2)] == [1, 0]
    assert 300 < is_over(gw.get(LOCAL, key=gw.known), "org") <= 360
    # No limit for a while, and the old one again.
    gw.server_conf = ""
    reload(gw)
    assert limits(gw.get(LOCAL, key=gw.known)) == []
    gw.server_conf = "UsageRateLimit 10/h burst=3 by=org\n"
    reload(gw)
    is_over(gw.get(LOCAL, key=gw.known), "org")


def test_never_over_through_restarts_and_kills(make):
    """At ten times the rate: what was let in is counted in memory that outlives
    all children, and so is what they took."""
    rate, burst = 200, 100
    gw = make(f"{rate}/s burst={burst} by=org", LOG, server_limit=16)
    gw.start()
    begin = time.monotonic()
    with Paced(gw, [gw.known], rate=10 * rate, connections=16) as load:
        for n in range(3):
            time.sleep(0.3)
            kill_one(gw)
            time.sleep(0.3)
            gw.graceful()
        time.sleep(0.5)
        account = load.stop()
    # A killed child may have counted a request and not answered it, so that
    # the gateway's own number is the one that is no smaller.
    allowed = counted(gw)["allowed"]
    most = burst + rate * (time.monotonic() - begin)
    seen = logged(gw)
    exact = exactly(seen, rate, burst)
    print(f"{allowed} let in, of {most:.0f}; exact: {exact}; answered: "
          f"{account['status']}")
    assert account["status"][200] <= allowed <= most
    assert 0.9 * exact <= allowed
    never_over(seen, rate, burst)
