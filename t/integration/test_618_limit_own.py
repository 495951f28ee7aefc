# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Rates of keys, organizations and plans, from a key file and from PostgreSQL:
whose place they take, and when a change is there."""
import time

import pytest

from harness import ORG2
from limit_helpers import LOCAL, counted, is_over, left, limits
from pg_helpers import Everywhere

#: Until all children go by what was changed.
SECOND = 1.0

SERVER = """
UsageRateLimit 1001/h burst=100000 by=key
UsageRateLimit 1002/h burst=100000 by=org
UsageRateLimit 1003/h burst=100000 by=ip
UsageRateLimit 1002/m burst=100000 by=org
"""


@pytest.fixture(params=["file", "postgresql"])
def make(request, gateway):
    """A gateway with this configuration, on either store."""
    def make(conf=""):
        if request.param == "file":
            return gateway(backend=None, server_conf=conf)
        keys = request.getfixturevalue("keys")
        return gateway(**keys.to(conf=conf))
    return make


def policy(answer):
    return [(x.by, x.count, x.window) for x in limits(answer)]


class Watched:
    """A gateway of which all children are asked, and what they are to say."""

    def __init__(self, gw, key):
        self.gw, self.key, self.all = gw, key, Everywhere(gw)

    def __enter__(self):
        self.all.__enter__()
        return self

    def __exit__(self, *exc):
        self.all.__exit__(*exc)

    def say(self):
        return {tuple(policy(a)) for a in self.all.answers(self.key)}

    def after(self, *command, key, org):
        """Run usagectl; within a second all children say so."""
        self.gw.ctl(*command)
        begin = time.monotonic()
        want = {(*key, *org, ("ip", 1003, 3600))}
        while self.say() != want:
            assert time.monotonic() - begin < SECOND, (self.say(), want)


def test_whose_place_a_rate_takes(make):
    gw = make(SERVER)
    key, key_id, org = gw.key()
    gw.ctl("plan", "create", "gold", "--rate", "9/m burst=90000")
    gw.ctl("plan", "create", "silver", "--rate", "6/m burst=60000")
    gw.ctl("plan", "create", "plain")
    gw.start()
    of_key, of_org = [("key", 1001, 3600)], [("org", 1002, 3600),
                                             ("org", 1002, 60)]
    key_own, org_own = [("key", 7, 1)], [("org", 8, 60)]
    gold = [("org", 9, 60)]
    with Watched(gw, key) as watched:
        assert watched.say() == {(*of_key, *of_org, ("ip", 1003, 3600))}
        watched.after("key", "set", key_id, "--rate", "7/s burst=70000",
                      key=key_own, org=of_org)
        watched.after("org", "set", org, "--rate", "8/m burst=80000",
                      key=key_own, org=org_own)
        watched.after("org", "set", org, "--plan", "gold",
                      key=key_own, org=org_own)
        watched.after("org", "set", org, "--no-rate", key=key_own, org=gold)
        watched.after("key", "set", key_id, "--no-rate", key=of_key, org=gold)
        watched.after("plan", "set", "gold", "--rate", "10/h burst=90000",
                      key=of_key, org=[("org", 10, 3600)])
        # A plan of the key's own counts the key, and its organization's plan
        # no more.
        watched.after("key", "set", key_id, "--plan", "silver",
                      key=[("key", 6, 60)], org=of_org)
        watched.after("org", "set", org, "--rate", "8/m burst=80000",
                      key=[("key", 6, 60)], org=org_own)
        watched.after("key", "set", key_id, "--plan", "plain",
                      key=of_key, org=org_own)
        watched.after("key", "set", key_id, "--no-plan", "--rate",
                      "7/s burst=70000", key=key_own, org=org_own)
        watched.after("org", "set", org, "--no-rate", "--no-plan",
                      key=key_own, org=of_org)
        watched.after("key", "set", key_id, "--no-rate", key=of_key,
                      org=of_org)


def test_a_rate_of_ones_own_holds(make):
    """Without any of the server's."""
    gw = make()
    one, one_id, org = gw.key()
    two, _, _ = gw.key()
    free, _, _ = gw.key(org=ORG2)
    gw.ctl("key", "set", one_id, "--rate", "1/h burst=3")
    gw.ctl("org", "set", org, "--rate", "1/h burst=5")
    gw.start()
    assert [[x.left for x in limits(gw.get(LOCAL, key=one))]
            for _ in range(3)] == [[2, 4], [1, 3], [0, 2]]
    is_over(gw.get(LOCAL, key=one), "key")
    assert [left(gw.get(LOCAL, key=two)) for _ in range(2)] == [1, 0]
    is_over(gw.get(LOCAL, key=two), "org")
    for _ in range(6):
        a = gw.get(LOCAL, key=free)
        assert a.status == 200 and limits(a) == []
    assert counted(gw) == {"allowed": 11, "rate-limit": 2}


def test_a_plan_is_not_counted_as_one(make):
    """Each organization of a plan has its rate for itself."""
    gw = make("UsageRateLimit off\n")
    gw.ctl("plan", "create", "small", "--rate", "1/h burst=2")
    keys = [gw.key(org=org)[0] for org in (None, ORG2)]
    for org in (gw.key()[2], ORG2):
        gw.ctl("org", "set", org, "--plan", "small")
    gw.start()
    for key in keys:
        assert [left(gw.get(LOCAL, key=key)) for _ in range(2)] == [1, 0]
        is_over(gw.get(LOCAL, key=key), "org")


def test_who_is_over_may_be_let_in_by_a_larger_burst(make):
    gw = make()
    key, key_id, _ = gw.key()
    gw.ctl("key", "set", key_id, "--rate", "1/h burst=2")
    gw.start()
    with Everywhere(gw) as all_:
        answers = all_.answers(key)
        assert sum(a.status == 200 for a in answers) == 2
        gw.ctl("key", "set", key_id, "--rate", "1/h burst=12")
        begin, let_in = time.monotonic(), 0
        while let_in < 10:
            assert time.monotonic() - begin < SECOND
            let_in += sum(a.status == 200 for a in all_.answers(key))
        assert all_.ask(key) == {429}
        assert let_in == 10
        gw.ctl("key", "set", key_id, "--no-rate")
        assert all_.until(key, 200) < SECOND
