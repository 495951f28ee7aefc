# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""PostgreSQL away, hanging, slow, full or closed to us, under steady load: keys
that are cached work throughout, others get 503 in time, and all is as before
once it is back: what changed meanwhile is known, no thread hangs, and each
child has its one connection.

make test-faults has outages of a minute.
"""
import os
import threading
import time

import pytest

from harness import poll, register_secret
from pg_helpers import (Everywhere, Keys, PgProxy, Steady, at_once, local,
                        pgpass, warm)

FAULTS = bool(os.environ.get("UE_FAULTS"))
SECONDS = 60 if FAULTS else 3
CHILDREN, THREADS = 4, 8
#: The wait of a second, and what a busy machine adds.
DEADLINE = 1.2
#: Of trying again, at most, and the answer to the first try.
BACK = 8
#: So the ttl ends in each outage, and what is served is stale.
CACHE = "UsageKeyCache ttl=1s stale=10m\n"


class Scene:
    """A server of the test's own behind a proxy, and a gateway on it."""

    def __init__(self, keys, proxy, gw):
        self.keys, self.db, self.server = keys, keys.db, keys.db.server
        self.proxy, self.gw = proxy, gw
        self.cached, self.fresh = keys.insert(40), keys.insert(400)

    def admin(self, sql):
        """As somebody who gets in whatever the rest can't."""
        return self.server.database("postgres").psql(sql)

    def quietly(self, sql):
        """The same of what the log must not have."""
        self.admin("SET log_statement = none; "
                   f"SET log_min_error_statement = panic; {sql}")

    def cut_connections(self):
        self.admin("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                   "WHERE usename = 'gateway'")

    def next_fresh(self, n=1):
        taken, self.fresh = self.fresh[:n], self.fresh[n:]
        assert len(taken) == n
        return taken


@pytest.fixture
def scene(postgres_own, servers, gateway):
    def make(extra=None, **kw):
        keys = Keys(postgres_own(extra=extra or {}).new_database())
        proxy = servers.add(PgProxy(keys)).start()
        return Scene(keys, proxy, gateway(**keys.to(
            proxy, **{"conf": CACHE, "children": CHILDREN,
                      "threads": THREADS, **kw})))
    return make


# --- what can happen ---------------------------------------------------------
# Each begins, yields while it lasts, and ends. What comes after is the same for
# all.

def stopped(s):
    s.server.stop()
    yield
    s.server.start()


def crashed(s):
    s.server.kill()
    yield
    s.server.start()


def frozen(s):
    s.server.pause()
    yield
    s.server.resume()


def refused(s):
    s.proxy.mode("refuse")
    yield
    s.proxy.mode("pass")


def stalled(s):
    """Connections can be made, and nothing comes of them."""
    s.proxy.mode("stall")
    yield
    s.proxy.mode("pass")


def unanswered(s):
    s.proxy.mode("stall-back")
    yield
    s.proxy.mode("pass")


def wrong_password(s):
    """It was changed on the server."""
    password = "changed-" + s.server.passwords["gateway"]
    register_secret(password)
    s.quietly(f"ALTER ROLE gateway PASSWORD '{password}'")
    s.cut_connections()
    yield
    s.quietly("ALTER ROLE gateway PASSWORD "
              f"'{s.server.passwords['gateway']}'")


def too_many_connections(s):
    """Others have taken what the server allows (max_connections)."""
    taken = []
    s.admin("SELECT 1")
    s.proxy.mode("refuse")
    try:
        while True:
            taken.append(s.db.listener("owner"))
            if len(taken) > 20:
                raise RuntimeError("there is no limit")
    except (AssertionError, BrokenPipeError):
        pass
    s.proxy.mode("pass")
    yield
    for one in taken:
        one.close()


def no_rights(s):
    s.admin("REVOKE usage_gateway FROM gateway")
    yield
    s.admin("GRANT usage_gateway TO gateway")


def no_schema(s):
    s.db.psql("ALTER VIEW usage_gateway_keys RENAME TO elsewhere")
    yield
    s.db.psql("ALTER VIEW elsewhere RENAME TO usage_gateway_keys")


def no_database(s):
    s.admin(f"ALTER DATABASE {s.db} RENAME TO elsewhere")
    yield
    s.admin(f"ALTER DATABASE elsewhere RENAME TO {s.db}")


def gone_database(s):
    s.proxy.mode("refuse")
    s.keys.wait_connections(0)
    for _ in no_database(s):
        s.proxy.mode("pass")
        yield


OUTAGES = [stopped, crashed, frozen, refused, stalled, unanswered,
           wrong_password, too_many_connections, no_rights, no_schema,
           gone_database]


# --- what must be so ---------------------------------------------------------

class Asking:
    """One client that asks for keys that aren't cached, one after the other, as
    long as an outage lasts."""

    def __init__(self, scene):
        self.scene, self.seen = scene, []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._work)

    def _work(self):
        n = 0
        keys = self.scene.next_fresh(20) + ["unknown-key-of-another-form"]
        while not self.ended.is_set():
            begin = time.monotonic()
            answer = local(self.scene.gw, keys[n % len(keys)])
            self.seen.append((answer.status, time.monotonic() - begin,
                              answer.header("Retry-After")))
            n += 1
            self.ended.wait(0.05)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.ended.set()
        self.thread.join(30)
        assert not self.thread.is_alive()

    def check(self, statuses=frozenset([503])):
        assert self.seen and {s for s, _, _ in self.seen} <= statuses, self.seen
        longest = max(took for _, took, _ in self.seen)
        assert longest < DEADLINE, f"{longest:.3f} s"
        assert {after for s, _, after in self.seen if s == 503} <= {"1"}


def is_back(s, within=BACK):
    """Fresh keys are let in, by each child, and each has its connection."""
    begin = time.monotonic()
    [key] = s.next_fresh()
    poll(lambda: local(s.gw, key).status == 200, within, every=0.05,
         what="recovery")
    print(f"back after {time.monotonic() - begin:.2f} s")
    s.keys.wait_connections(CHILDREN, timeout=within)


def no_thread_hangs(s):
    answers, took = at_once(s.gw, s.cached[-1], CHILDREN * THREADS)
    assert {a.status for a in answers} == {200} and took < DEADLINE
    keys = s.next_fresh(CHILDREN * THREADS)
    warm(s.gw, keys, timeout=5)


def ends_well(s):
    begin = time.monotonic()
    s.gw.stop()
    assert time.monotonic() - begin < 10
    s.keys.wait_connections(0, timeout=5)


# --- outages -----------------------------------------------------------------

@pytest.mark.parametrize("outage", OUTAGES, ids=lambda f: f.__name__)
def test_an_outage(scene, outage):
    s = scene(extra={"max_connections": 14,
                     "superuser_reserved_connections": 5})
    s.gw.start()
    warm(s.gw, s.cached)
    s.keys.wait_connections(CHILDREN)
    children = set(s.gw.children())
    with Steady(s.gw, s.cached[5:]) as load, Everywhere(s.gw) as all_:
        begun = outage(s)
        next(begun)
        # An answer under way may still have come; and there is a second in
        # which a connection may be thought to be slow.
        poll(lambda: local(s.gw, s.next_fresh()[0]).status == 503, 5,
             what="a key that isn't known is refused")
        with Asking(s) as asking:
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                assert all_.ask(s.cached[0]) == {200}, "served from the cache"
                time.sleep(0.25)
        asking.check()
        # What changes before the gateway is back is not told by NOTIFY.
        if s.proxy.stats()["mode"] == "pass":
            s.proxy.mode("refuse")
            next(begun, None)
            s.keys.revoke(s.cached[0])
            s.proxy.mode("pass")
        else:
            s.keys.revoke(s.cached[0])
            next(begun, None)
        is_back(s)
        took = all_.until(s.cached[0], 401, timeout=2)
        print(f"revoked {took:.2f} s after")
    load.check(longest=DEADLINE, least=100 * SECONDS)
    assert not load.cut
    assert set(s.gw.children()) == children
    no_thread_hangs(s)
    ends_well(s)


def test_restarted(scene):
    """Again and again: there is hardly a moment without keys."""
    s = scene()
    s.gw.start()
    warm(s.gw, s.cached)
    with Steady(s.gw, s.cached) as load:
        for mode in ("fast", "immediate") * (5 if FAULTS else 1):
            s.server.restart(mode)
            is_back(s)
    load.check(longest=DEADLINE)
    no_thread_hangs(s)
    ends_well(s)


def test_slow_by_two_seconds(scene):
    """An answer comes too late for who waits, and in time for who comes
    again."""
    s = scene()
    s.gw.start()
    warm(s.gw, s.cached)
    s.keys.wait_connections(CHILDREN)
    s.proxy.mode("delay 2000")
    with Steady(s.gw, s.cached) as load:
        with Asking(s) as asking:
            for _ in range(3 if FAULTS else 1):
                [key] = s.next_fresh()
                begin = time.monotonic()
                tried = []
                while not tried or tried[-1] != 200:
                    tried.append(local(s.gw, key).status)
                    assert time.monotonic() - begin < 10, tried
                assert set(tried) == {503, 200}
                assert time.monotonic() - begin < 6
        asking.check({503, 200, 401})
        assert s.keys.connections() == CHILDREN, "slow is not broken"
        s.proxy.mode("pass")
        is_back(s)
    load.check(longest=DEADLINE)
    no_thread_hangs(s)
    ends_well(s)


def test_cut_all_the_time(scene):
    """Connections live for a fifth of a second."""
    s = scene()
    s.gw.start()
    warm(s.gw, s.cached)
    with Steady(s.gw, s.cached) as load:
        s.proxy.mode("cut 200")
        before = s.proxy.stats()["connections"]
        with Asking(s) as asking:
            time.sleep(SECONDS)
        asking.check({503, 200, 401})
        tried = s.proxy.stats()["connections"] - before
        # With backoff, not as fast as it can.
        assert CHILDREN <= tried < CHILDREN * (10 + 5 * SECONDS), tried
        s.proxy.mode("pass")
        is_back(s)
    load.check(longest=DEADLINE)
    no_thread_hangs(s)
    ends_well(s)


@pytest.mark.parametrize("restart", [False, True])
def test_what_was_missed_is_made_up_for(scene, restart):
    """All that is cached is looked up again after a reconnect, long before its
    ttl ends; in a new child, too, if no other one was connected."""
    s = scene(conf="UsageKeyCache ttl=10m\n", server_limit=CHILDREN * 4)
    s.gw.start()
    warm(s.gw, s.cached)
    s.keys.wait_connections(CHILDREN)
    s.proxy.mode("refuse")
    if restart:
        old = set(s.gw.children())
        s.gw.graceful()
        poll(lambda: len(s.gw.children()) == CHILDREN
             and not old & set(s.gw.children()), 20, what="new children")
    with Everywhere(s.gw) as all_:
        for key in s.cached[:20]:
            s.keys.revoke(key)
            assert all_.ask(key) == {200}
        s.proxy.mode("pass")
        begin = time.monotonic()
        poll(s.keys.connections, BACK, every=0.005)
        for key in s.cached[:20]:
            all_.until(key, 401, timeout=2)
        print(f"{time.monotonic() - begin:.2f} s")
        assert all_.ask(s.cached[30]) == {200}
    is_back(s, 15)
    ends_well(s)


def test_stale_ends(scene):
    """Beyond ttl and stale a cached key is unavailable, not unknown."""
    s = scene(conf="UsageKeyCache ttl=1s stale=2s\n")
    s.gw.start()
    warm(s.gw, s.cached)
    s.proxy.mode("refuse")
    begin = time.monotonic()

    def ask():
        """A 503 ends its connection."""
        return {a.status for a in at_once(s.gw, s.cached[0], 16)[0]}
    while time.monotonic() < begin + 1.5:
        assert ask() == {200}
    poll(lambda: ask() == {503}, 3.5, what="it is too old")
    s.proxy.mode("pass")
    poll(lambda: ask() == {200}, BACK, what="it is looked up again")
    ends_well(s)


# --- httpd's own life in an outage -------------------------------------------

def test_started_without_a_database(scene):
    """The start waits for nothing."""
    s = scene()
    s.proxy.mode("stall")
    begin = time.monotonic()
    s.gw.start()
    assert time.monotonic() - begin < 5
    with Asking(s) as asking:
        time.sleep(2)
    asking.check()
    s.proxy.mode("pass")
    is_back(s, 15)
    no_thread_hangs(s)
    ends_well(s)


@pytest.mark.parametrize("mode", ["refuse", "stall"])
def test_graceful_restarts_in_an_outage(scene, mode):
    """What the old children knew the new ones know."""
    s = scene(server_limit=CHILDREN * 4)
    s.gw.start()
    warm(s.gw, s.cached)
    with Steady(s.gw, s.cached) as load:
        s.proxy.mode(mode)
        time.sleep(SECONDS / 2)
        for _ in range(3):
            s.gw.graceful()
            time.sleep(0.5)
        with Asking(s) as asking:
            time.sleep(1)
        asking.check()
        s.proxy.mode("pass")
        is_back(s, 15)
    # A new child waits once until it believes it, and httpd takes its time.
    load.check(longest=2 * DEADLINE)
    no_thread_hangs(s)
    ends_well(s)


@pytest.mark.parametrize("mode, kind", [
    ("refuse", "event"), ("stall", "event"), ("stall-back", "event"),
    ("delay 3000", "event"), ("stall", "worker"), ("stall", "prefork")])
def test_stopped_in_an_outage(scene, mode, kind):
    """Whatever its thread waits for, and whoever waits for that."""
    s = scene(mpm=kind, server_limit=CHILDREN * 2)
    s.gw.start()
    warm(s.gw, s.cached)
    s.proxy.mode(mode)
    with Asking(s):
        time.sleep(1.5)
    begin = time.monotonic()
    s.gw.stop()
    assert time.monotonic() - begin < 5
    s.proxy.mode("pass")
    s.keys.wait_connections(0)


# --- another server takes over -----------------------------------------------

def test_a_replica_takes_over(postgres_own, gateway):
    first = postgres_own()
    second = postgres_own(replica_of=first)
    keys = Keys(first.new_database())
    known, doomed, fresh = (keys.insert(n) for n in (20, 1, 20))
    url = keys.url(target_session_attrs="read-write").replace(
        f":{first.port}/", f":{first.port},127.0.0.1:{second.port}/")
    gw = gateway(**keys.to(conf=CACHE, threads=THREADS))
    gw.env["DATABASE_URL"] = url
    gw.start()
    warm(gw, known + doomed)
    after = Keys(second.database(keys.db))
    with Steady(gw, known) as load, Everywhere(gw) as all_:
        assert all_.ask(doomed[0]) == {200}
        second.wait_caught_up()
        first.kill()
        second.promote()
        after.revoke(doomed[0])
        poll(lambda: local(gw, fresh[0]).status == 200, BACK)
        all_.until(doomed[0], 401, timeout=BACK)
        after.wait_connections(CHILDREN)
        # And there it hears of what happens.
        after.revoke(fresh[0])
        assert all_.until(fresh[0], 401) < 1
    load.check(longest=DEADLINE)
    gw.stop()
    after.wait_connections(0, timeout=5)


def test_a_password_file_that_is_put_right(scene):
    """It is read at each connection, so no restart is needed."""
    s = scene()
    password = s.server.passwords["gateway"]
    wrong = "wrong-" + password
    register_secret(wrong)
    path = pgpass(f"*:*:*:gateway:{wrong}")
    s.gw.env.update(DATABASE_URL=s.keys.url(s.proxy, password=False),
                    PGPASSFILE=str(path))
    s.gw.start()
    with Asking(s) as asking:
        time.sleep(1)
    asking.check()
    path.write_text(f"*:*:*:gateway:{password}\n")
    is_back(s)
    ends_well(s)


def test_questions_that_wait_for_a_lock(keys, gateway):
    """A key is revoked, and what is asked of it then waits for a lock: it is
    refused all the same, since it is known to have changed. Others go on, and
    questions that were given up don't pile up in the database."""
    gw = gateway(**keys.to(conf="UsageKeyCache ttl=1m stale=10m\n",
                           children=CHILDREN, threads=THREADS))
    known = keys.insert(20)
    gw.start()
    warm(gw, known)
    with keys.db.listener("postgres", "BEGIN") as one, \
            keys.db.listener("postgres", "BEGIN") as other:
        one.run("UPDATE api_keys SET revoked = now() "
                f"WHERE prefix = '{known[0][:12]}'")
        # It gets the lock when the other commits, before anybody is told.
        lock = threading.Thread(target=other.run, args=(
            "LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE",))
        lock.start()
        poll(lambda: keys.db.psql("SELECT count(*) FROM pg_locks "
                                  "WHERE NOT granted").strip() == "1", 5)
        one.run("COMMIT")
        lock.join(5)
        begin, statuses, most = time.monotonic(), set(), 0
        poll(lambda: local(gw, known[0]).status != 200, 1)
        while time.monotonic() - begin < (60 if FAULTS else 13):
            asked = time.monotonic()
            statuses.add(local(gw, known[0]).status)
            assert time.monotonic() - asked < DEADLINE
            assert local(gw, known[1]).status == 200
            most = max(most, keys.connections())
            time.sleep(0.1)
        assert statuses == {503}
        assert most <= CHILDREN + 1  # one that has just been given up
        other.run("ROLLBACK")
    poll(lambda: local(gw, known[0]).status == 401, BACK)
    assert all(local(gw, key).status == 200 for key in known[1:])
    keys.wait_connections(CHILDREN)


def test_frozen_while_nothing_is_asked(scene):
    """It is found out without a request that waits for it: a connection that
    has been idle for ten seconds is tried."""
    s = scene(children=1)
    s.gw.start()
    warm(s.gw, s.cached[:1])
    s.server.pause()
    try:
        time.sleep(10.8)
        for key in s.next_fresh(4):
            begin = time.monotonic()
            assert local(s.gw, key).status == 503
            assert time.monotonic() - begin < 0.6
    finally:
        s.server.resume()
    [key] = s.next_fresh()
    poll(lambda: local(s.gw, key).status == 200, BACK)
