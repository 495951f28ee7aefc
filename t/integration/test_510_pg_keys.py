# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Keys in PostgreSQL, at work: who is let in, and that what changes in the
database is so on every child of every gateway within a second.

make test-faults revokes a hundred keys.
"""
import datetime
import os
import time

import pytest

from harness import ORG, make_key, poll, register_secret
from pg_helpers import (Everywhere, Keys, PgProxy, Secret, key_metrics,
                        local, warm)
from trap_helpers import is_problem

FAULTS = bool(os.environ.get("UE_FAULTS"))
SECOND = 1.0


@pytest.fixture
def gw(keys, gateway):
    return gateway(**keys.to())


@pytest.fixture
def two(keys, gateway):
    """Two gateways on one database, started."""
    return [gateway(**keys.to()).start() for _ in range(2)]


# --- one key, end to end -----------------------------------------------------

def test_a_key_end_to_end(keys, gateway, backend, mpm):
    gw = gateway(mpm=mpm, **keys.to(backend=backend))
    key, key_id, org = gw.key(name="first")
    gw.start()
    a = gw.get("/status/404", key=key)
    assert a.status == 404
    [event] = gw.wait_events(1)
    assert event["organization_id"] == org and event["api_key_id"] == key_id
    assert event["request_id"] == a.request_id and event["billable"] is True
    [seen] = backend.wait_requests(1)
    assert seen["id"] == a.request_id
    assert gw.get("/status/200", key=key).status == 200
    is_problem(gw.get("/status/200", key=make_key()), 401, "bad-key")
    is_problem(gw.get("/status/200", key="legacy-unknown-key"), 401, "bad-key")
    gw.ctl("key", "revoke", key_id)
    poll(lambda: gw.get("/", key=key).status == 401, SECOND, every=0.01)
    is_problem(gw.get("/status/200", key=key), 401, "bad-key")
    gw.wait_events(2)
    keys.wait_connections(4)
    gw.stop()
    keys.wait_connections(0, timeout=5)


def test_a_key_is_looked_up_once_for_all_children(keys, gateway, servers):
    proxy = servers.add(PgProxy(keys)).start()
    gw = gateway(**keys.to(proxy))
    key, _, _ = gw.key()
    gw.start()
    with Everywhere(gw) as all_:
        before = proxy.mark()
        for _ in range(5):
            assert all_.ask(key) == {200}
            assert all_.ask("legacy-unknown-key") == {401}
        asked = [h for q in proxy.queries(before) for h in q.hashes]
    assert sorted(asked) == sorted(gw.hash_of(k).split(":")[1] for k in (
        key, "legacy-unknown-key"))
    found = key_metrics(gw)
    assert found["hit"] + found["miss"] == 5 * len(all_.conns)
    assert found["unknown"] + found["negative"] == 5 * len(all_.conns)


# --- attributes --------------------------------------------------------------

def until(gw, key, status, target="/local/hello.txt", **kw):
    """A change is there, within a second, for every child."""
    with Everywhere(gw) as all_:
        assert all_.until(key, status, target=target, **kw) < SECOND


def test_expires(keys, gw):
    key, key_id, _ = gw.key()
    gw.start()
    with Everywhere(gw) as all_:
        assert all_.ask(key) == {200}
        soon = time.time() + 1.5
        keys.set_key(key_id, expires=datetime.datetime.fromtimestamp(
            soon, datetime.timezone.utc).isoformat())
        assert all_.ask(key) == {200}
        all_.until(key, 403)
        assert -0.1 < time.time() - soon < SECOND
    is_problem(gw.get("/local/hello.txt", key=key), 403, "expired-key")


@pytest.mark.parametrize("attribute, good, bad", [
    ("networks", "{127.0.0.0/8}", "{192.0.2.0/24,2001:db8::/32}"),
    ("paths", "{/x,/local/}", "{/local}"),
    ("methods", "{POST,GET}", "{POST}")])
@pytest.mark.parametrize("whose", ["plan", "organization", "key"])
def test_where_a_key_may_be_used(keys, gw, attribute, good, bad, whose):
    keys.sql("INSERT INTO plans (name) VALUES ('basic')")
    key, key_id, org = gw.key()
    keys.set_org(org, plan="basic")
    change = {"plan": lambda v: keys.set_plan("basic", **{attribute: v}),
              "organization": lambda v: keys.set_org(org, **{attribute: v}),
              "key": lambda v: keys.set_key(key_id, **{attribute: v})}[whose]
    gw.start()
    until(gw, key, 200)
    change(bad)
    until(gw, key, 403)
    is_problem(gw.get("/local/hello.txt", key=key), 403, "not-allowed")
    change(good)
    until(gw, key, 200)
    until(gw, key, 200, method="HEAD")
    change(None)
    until(gw, key, 200)
    until(gw, key, 405, method="PUT")  # httpd's own answer


def test_a_key_of_all_three_must_be_let_in_by_all(keys, gw):
    keys.sql("INSERT INTO plans (name, paths) VALUES ('p', '{/local/,/v1/}')")
    key, key_id, org = gw.key()
    keys.set_org(org, plan="p", methods="{GET}", paths="{/v1/,/local/}")
    keys.set_key(key_id, networks="{127.0.0.1}", paths="{/local/hello.txt}")
    gw.start()
    assert gw.get("/local/hello.txt", key=key).status == 200
    assert gw.get("/local/%68ello.txt", key=key).status == 200
    for path in ("/local/other.txt", "/v1/x", "/v1/../local/hello.txt/x"):
        assert gw.get(path, key=key).status == 403, path
    assert gw.request("POST", "/local/hello.txt", key=key).status == 403


def test_lists_that_cannot_be_read_let_nobody_in(keys, gw):
    """Somebody has written to the table by hand."""
    key, key_id, _ = gw.key()
    gw.start()
    keys.sql("UPDATE api_keys SET networks = '{everywhere}' "
             f"WHERE id = '{key_id}'")
    for _ in range(2):
        is_problem(local(gw, key), 403, "not-allowed")
    [line] = [s for s in gw.error_log().splitlines() if "UE0112" in s]
    assert key_id in line and "everywhere" in line
    keys.sql(f"UPDATE api_keys SET networks = NULL WHERE id = '{key_id}'")
    poll(lambda: local(gw, key).status == 200, SECOND)


def test_a_schema_of_its_own(postgres, gateway):
    keys = Keys(postgres.new_database(schema=False))
    keys.db.psql("CREATE SCHEMA metering AUTHORIZATION owner")
    path = {"options": "-csearch_path=metering"}
    gw = gateway(**{**keys.to(), "key_store": keys.url(**path),
                    "ctl_store": keys.db.url("owner", **path)})
    gw.ctl("init-db")
    key, key_id, _ = gw.key()
    gw.start()
    assert local(gw, key).status == 200
    gw.ctl("key", "revoke", key_id)
    poll(lambda: local(gw, key).status == 401, SECOND)


@pytest.mark.parametrize("whose", ["plan", "organization", "key"])
def test_not_billable(keys, gw, whose):
    keys.sql("INSERT INTO plans (name) VALUES ('trial')")
    key, key_id, org = gw.key()
    keys.set_org(org, plan="trial")
    gw.start()
    assert gw.get("/local/hello.txt", key=key).status == 200
    {"plan": lambda: keys.set_plan("trial", billable=False),
     "organization": lambda: keys.set_org(org, billable=False),
     "key": lambda: keys.set_key(key_id, billable=False)}[whose]()

    def unbilled():
        gw.get("/local/hello.txt", key=key)
        gw.settled()
        return gw.events()[-1]["billable"] is False
    poll(unbilled, SECOND, every=0)
    gw.settled()
    assert gw.events()[0]["billable"] is True


def test_another_plan(keys, two):
    """Of the organization, or of the key."""
    keys.sql("INSERT INTO plans (name, methods) VALUES "
             "('all', NULL), ('writers', '{POST}')")
    key, key_id, org = two[0].key()
    with Everywhere(*two) as all_:
        assert all_.ask(key) == {200}
        keys.set_org(org, plan="writers")
        assert all_.until(key, 403) < SECOND
        keys.set_key(key_id, plan="all")
        assert all_.until(key, 200) < SECOND
        keys.set_key(key_id, plan=None)
        assert all_.until(key, 403) < SECOND


# --- within a second ---------------------------------------------------------

def test_revoked_keys_are_refused_everywhere_within_a_second(two):
    """On two gateways with four children each, all of which know the key."""
    took = []
    with Everywhere(*two) as all_:
        assert len(all_.conns) == 2 * 4 * 2
        for _ in range(100 if FAULTS else 10):
            key, key_id, _ = two[0].key()
            all_.until(key, 200)
            begin = time.monotonic()
            two[0].ctl("key", "revoke", key_id)
            all_.until(key, 401)
            took.append(time.monotonic() - begin)
            assert all_.ask(key) == {401}
    print(f"median {sorted(took)[len(took) // 2]:.3f} s, max {max(took):.3f}")
    assert max(took) < SECOND, sorted(took)[-10:]


def test_a_new_key_works_within_a_second_although_it_was_tried_before(
        keys, two):
    took = []
    with Everywhere(*two) as all_:
        for _ in range(20 if FAULTS else 3):
            key = make_key()
            register_secret(key)
            assert all_.ask(key) == {401}
            keys.insert([key])
            took.append(all_.until(key, 200))
    assert max(took) < SECOND, took


def test_a_deleted_key_stops_and_all_keys_may_be_cleared(keys, two):
    key, key_id, _ = two[0].key()
    other, _, _ = two[0].key()
    with Everywhere(*two) as all_:
        assert all_.ask(key) == all_.ask(other) == {200}
        keys.sql(f"DELETE FROM api_keys WHERE id = '{key_id}'")
        assert all_.until(key, 401) < SECOND
        assert all_.ask(other) == {200}
        keys.sql("TRUNCATE api_keys")
        assert all_.until(other, 401) < SECOND


def test_rotated(keys, two):
    """The old one works for its grace, the new one at once."""
    old, key_id, _ = two[0].key()
    with Everywhere(*two) as all_:
        assert all_.ask(old) == {200}
        begin = time.monotonic()
        new = two[0].ctl("key", "rotate", key_id,
                         "--grace", "3s").stdout.split()[0]
        register_secret(new)
        after = time.monotonic()
        assert all_.until(new, 200) < SECOND
        while time.monotonic() < begin + 2.5:
            assert all_.ask(new) == {200}
            if time.monotonic() < begin + 2.5:
                assert all_.ask(old) == {200} or \
                    time.monotonic() > begin + 3, "its grace was cut short"
        all_.until(old, 403)
        # Times in the database are whole seconds.
        assert 2.9 < time.monotonic() - begin
        assert time.monotonic() - after < 4 + SECOND
        assert all_.ask(new) == {200}


def test_many_changes_at_once(keys, two):
    """More than have a NOTIFY each: '*' stands for all."""
    made = keys.insert(1500)
    watched = made[::100]
    with Everywhere(*two) as all_:
        for key in watched:
            all_.until(key, 200)
        begin = time.monotonic()
        keys.sql("UPDATE api_keys SET revoked = now()")
        for key in watched:
            all_.until(key, 401)
        assert time.monotonic() - begin < SECOND + 0.5


# --- without the NOTIFY ------------------------------------------------------

def test_without_notify_a_revoked_key_lives_for_the_ttl(
        keys, gateway, servers):
    proxy = servers.add(PgProxy(keys)).start()
    gw = gateway(**keys.to(proxy, conf="UsageKeyCache ttl=2s\n"))
    busy, busy_id, _ = gw.key()
    idle, idle_id, _ = gw.key()
    gw.start()
    with Everywhere(gw) as all_:
        assert all_.ask(busy) == all_.ask(idle) == {200}
        proxy.mode("deaf")
        gw.ctl("key", "revoke", busy_id)
        gw.ctl("key", "revoke", idle_id)
        begin = time.monotonic()
        assert all_.until(busy, 401) < 2 + 0.5
        assert all_.ask(idle) == {401} or time.monotonic() - begin < 2
        all_.until(idle, 401, timeout=2)
        assert time.monotonic() - begin < 2 + 0.5
    assert proxy.stats()["dropped"] >= 8, "each child was told of both"


def test_busy_keys_are_refreshed_without_a_wait(keys, gateway, servers):
    """While they are asked for all the time, their ttl ends with no miss."""
    proxy = servers.add(PgProxy(keys)).start()
    gw = gateway(**keys.to(proxy, conf="UsageKeyCache ttl=2s\n"))
    key, _, _ = gw.key()
    gw.start()
    with Everywhere(gw) as all_:
        assert all_.ask(key) == {200}
        before, misses = proxy.mark(), key_metrics(gw)["miss"]
        proxy.mode("delay 100")
        end = time.monotonic() + 6
        while time.monotonic() < end:
            assert all_.ask(key) == {200}
            time.sleep(0.01)
        asked = len(proxy.queries(before))
    assert key_metrics(gw)["miss"] == misses, "somebody waited"
    assert 2 <= asked <= 12, asked


# --- other ways to say it ----------------------------------------------------

OTHER = """
<VirtualHost *:{port}>
    ServerName other.test
    UsageKeyStore ${SECOND_STORE}
</VirtualHost>
"""


def test_two_virtual_hosts_on_two_databases(keys, postgres, gateway):
    """Each child has a connection to each."""
    keys2 = Keys(postgres.new_database())
    gw = gateway(**keys.to(vhost_conf="", conf=OTHER))
    gw.env["SECOND_STORE"] = keys2.url()
    [key], [key2] = keys.insert(1), keys2.insert(1)
    gw.start()
    for one, host, status in ((key, "gateway.test", 200),
                              (key, "other.test", 401),
                              (key2, "gateway.test", 401),
                              (key2, "other.test", 200)):
        assert local(gw, one, host=host).status == status, host
    keys.wait_connections(4)
    keys2.wait_connections(4)


def test_hashes_under_a_secret(keys, gateway):
    secret = Secret()
    gw = gateway(**keys.to(conf=f"UsageKeySecret file:{secret.path}\n"))
    [plain], [hashed] = keys.insert(1), keys.insert(1, hash_of=secret.hash_of)
    gw.start()
    assert local(gw, hashed).status == 200
    # Made before there was a secret: it goes on working.
    assert local(gw, plain).status == 200
    [stranger] = keys.insert(1, hash_of=Secret().hash_of)
    assert local(gw, stranger).status == 401


def test_over_graceful_restarts(keys, gateway):
    """Connections are as many as children again, and they hear. (That the cache
    stays is seen in outages.)"""
    gw = gateway(**keys.to(server_limit=16))
    key, key_id, _ = gw.key()
    gw.start()
    assert local(gw, key).status == 200
    for _ in range(3):
        gw.graceful()
        assert local(gw, key).status == 200
    keys.wait_connections(4)
    with Everywhere(gw) as all_:
        gw.ctl("key", "revoke", key_id)
        assert all_.until(key, 401) < SECOND
    gw.stop()
    keys.wait_connections(0, timeout=5)


@pytest.mark.mpms("event", "prefork")
def test_children_that_come_and_go(keys, gateway, mpm):
    """Each leaves with its connection, and the next knows what it knew."""
    gw = gateway(**keys.to(mpm=mpm, conf="MaxConnectionsPerChild 10\n"))
    known = keys.insert(20)
    gw.start()
    warm(gw, known)
    first, before = set(gw.children()), key_metrics(gw)["miss"]
    for n in range(200):
        assert local(gw, known[n % 20]).status == 200
    assert not first & set(gw.children())
    # Who begins while nobody else is connected looks all up again.
    assert key_metrics(gw)["miss"] < before + 100
    poll(lambda: keys.connections() == len(gw.children()), 10,
         what=f"{len(gw.children())} connections, {keys.connections()} are")


def test_where_organizations_come_from(keys, gw):
    """org of a key that moved: events are of the new one."""
    key, key_id, org = gw.key()
    other = "0f000000-0000-7000-8000-0000000000ff"
    keys.sql(f"INSERT INTO organizations (id, name) VALUES ('{other}', 'o')")
    gw.start()
    assert org == ORG and local(gw, key).status == 200
    keys.set_key(key_id, organization_id=other)

    def moved():
        local(gw, key)
        gw.settled()
        return gw.events()[-1]["organization_id"] == other
    poll(moved, SECOND, every=0)
