# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""What many keys, and many wrong ones, cost the database: one query for a key
however many ask for it, and a few queries a second in a flood, in which nobody
else is held up.

make test-faults has a million keys, and floods of ten seconds.
"""
import os
import secrets
import threading
import time

import pytest

from clients.load import Paced
from harness import make_key, poll, register_secret
from pg_helpers import (Everywhere, PgProxy, Steady, at_once, key_metrics,
                        local, wait_connected, warm)

FAULTS = bool(os.environ.get("UE_FAULTS"))
CHILDREN = 4


@pytest.fixture
def proxy(keys, servers):
    return servers.add(PgProxy(keys)).start()


def by_second(queries):
    """How many there were in each second, from the first on."""
    begin = min(q.at for q in queries)
    found = [0] * (1 + int(max(q.at for q in queries) - begin))
    for q in queries:
        found[int(q.at - begin)] += 1
    return found


def flood_prefix():
    """What the unknown keys of a flood begin with."""
    prefix = "flood" + secrets.token_hex(8)
    register_secret(prefix)
    return prefix


# --- one key, many who ask ---------------------------------------------------

@pytest.mark.parametrize("mode", ["pass", "delay 300"])
@pytest.mark.parametrize("known", [True, False])
def test_one_query_for_a_thousand_requests_with_one_key(
        keys, gateway, proxy, mode, known):
    """Of a key that is there, and of one that isn't."""
    gw = gateway(**keys.to(proxy, threads=250))
    key = make_key()
    keys.insert([key] if known else 1)
    gw.start()
    keys.wait_connections(4)
    proxy.mode(mode)
    mark, before = keys.db.mark(), proxy.mark()
    answers, took = at_once(gw, key, 1000)
    assert {a.status for a in answers} == {200 if known else 401}
    assert took < 10
    [query] = proxy.queries(before)
    assert query.hashes == [gw.hash_of(key).split(":")[1]]
    poll(lambda: keys.db.queries("usage_gateway_keys", mark), 5)
    assert len(keys.db.queries("usage_gateway_keys", mark)) == 1
    found = key_metrics(gw)
    assert sum(found.values()) == 1000, found


def test_many_keys_in_few_queries(keys, gateway, proxy):
    """Look-ups that wait for the connection go together."""
    gw = gateway(**keys.to(proxy))
    made = keys.insert(400)
    gw.start()
    keys.wait_connections(4)
    proxy.mode("delay 50")
    before = proxy.mark()
    warm(gw, made)
    queries = proxy.queries(before)
    assert {h for q in queries for h in q.hashes} \
        == {gw.hash_of(k).split(":")[1] for k in made}
    assert len(queries) < 200, len(queries)


# --- many wrong keys ---------------------------------------------------------

def test_a_flood_of_unknown_keys(keys, gateway, proxy):
    """A thousand known keys are in use; a new one is made in the middle."""
    seconds, rate = (10, 5000) if FAULTS else (3, 3500)
    gw = gateway(**keys.to(proxy, threads=100))
    known = keys.insert(1000)
    gw.start()
    warm(gw, known)
    mark, before = keys.db.mark(), proxy.mark()
    with Paced(gw, known, rate=400) as used, \
            Paced(gw, new=flood_prefix(), rate=rate, connections=320,
                  seconds=seconds) as flood:
        time.sleep(seconds / 2)  # in the middle of it
        key, _, _ = gw.key()
        begin, tried = time.monotonic(), []
        while not tried or tried[-1].status != 200:
            assert time.monotonic() - begin < 5, tried[-1]
            tried.append(local(gw, key))
        took = time.monotonic() - begin
        account = flood.wait()
        during = proxy.queries(before)
        assert used.stop()["status"].keys() == {200}, used.account
    rates = by_second(during)
    print(f"new key: {took:.3f} s; flood: {account}; known: {used.account}; "
          f"queries by second: {rates}")
    assert took < 1
    assert {a.status for a in tried} <= {503, 200}
    assert account["status"].keys() <= {401, 503}
    assert sum(account["status"].values()) \
        > seconds * rate * (0.99 if FAULTS else 0.7)
    assert max(rates) <= 100, rates
    in_log = len(keys.db.queries("usage_gateway_keys", mark))
    assert len(during) <= in_log <= len(proxy.queries(before)) + 4
    # It is over at once.
    assert local(gw, make_key()).status == 401


def test_a_flood_of_new_valid_keys_is_served(keys, gateway, proxy):
    """Who gets a 503 finds his key in the cache at the next attempt."""
    gw = gateway(**keys.to(proxy, children=2, threads=16))
    made = keys.insert(600)
    gw.start()
    keys.wait_connections(2)
    proxy.mode("delay 200")
    answers, took = at_once(gw, made, len(made))
    refused = [(k, a) for k, a in zip(made, answers) if a.status != 200]
    assert {a.status for _, a in refused} <= {503}
    assert all(a.header("Retry-After") == "1" for _, a in refused)
    time.sleep(max(0, 1 - took))  # as they were told
    again, _ = at_once(gw, [k for k, _ in refused], len(refused))
    assert {a.status for a in again} <= {200}


def test_unknown_keys_push_no_known_one_out(keys, gateway, proxy):
    """The cache is full of known keys, over a flood of others."""
    gw = gateway(**keys.to(proxy, conf="UsageKeyCache size=100\n"))
    known = keys.insert(100)
    gw.start()
    # The first child to connect doubts what it finds, as does one that comes up
    # at the same time.
    wait_connected(gw)
    warm(gw, known)
    with Paced(gw, new=flood_prefix(), rate=1000, connections=64,
               seconds=2) as flood:
        account = flood.wait()
    assert sum(account["status"].values()) > 1000
    before = proxy.mark()
    assert {local(gw, key).status for key in known} == {200}
    own = {gw.hash_of(k).split(":")[1] for k in known}
    assert not own & {h for q in proxy.queries(before) for h in q.hashes}


def test_more_known_keys_than_have_room(keys, gateway):
    """They work, and cost a look-up now and then."""
    gw = gateway(**keys.to(conf="UsageKeyCache size=100\n"))
    known = keys.insert(300)
    gw.start()
    for _ in range(2):
        warm(gw, known)
    assert key_metrics(gw)["miss"] > 300


# --- deadlines ---------------------------------------------------------------

def test_nobody_waits_longer_than_a_second(keys, gateway, proxy):
    """The server takes three seconds for each answer. Most threads aren't
    waiting: who has a known key is served as ever."""
    gw = gateway(**keys.to(proxy, children=2, threads=16))
    known, fresh = keys.insert(5), keys.insert(200)
    gw.start()
    warm(gw, known)
    proxy.mode("delay 3000")
    with Steady(gw, known, rate=100) as load:
        slow = []
        ask = threading.Thread(target=lambda: slow.extend(
            at_once(gw, fresh, len(fresh))[0]))
        ask.start()
        begin = time.monotonic()
        ask.join(20)
        took = time.monotonic() - begin
    assert {a.status for a in slow} == {503}
    assert all(a.header("Retry-After") == "1" for a in slow)
    load.check(longest=0.5)
    # 32 threads: all 200 are answered in a few rounds of a second, not each.
    assert took < 3, took


# --- a great many keys -------------------------------------------------------

def test_a_great_many_keys(keys, gateway, proxy):
    """Start-up reads none of them, a look-up takes as long as ever."""
    n = 1_000_000 if FAULTS else 100_000
    prefix = "bulk" + secrets.token_hex(8)
    register_secret(prefix)
    keys.insert(1)
    keys.bulk(prefix, n)
    gw = gateway(**keys.to(proxy))
    begin = time.monotonic()
    gw.start()
    assert time.monotonic() - begin < 5
    keys.wait_connections(4)
    took = []
    for k in range(0, n, n // 50):
        begin = time.monotonic()
        assert local(gw, f"{prefix}-{k}").status == 200
        took.append(time.monotonic() - begin)
    assert sorted(took)[len(took) // 2] < 0.1, sorted(took)
    # A change of them all is one word, not a million.
    keys.sql("SET session_replication_role = replica; "
             "UPDATE api_keys SET revoked = now()", timeout=600)
    with Everywhere(gw) as all_:
        assert all_.ask(f"{prefix}-0") == {200}
        mark = proxy.mark()
        keys.sql("SELECT pg_notify('usage_keys', '*')")
        all_.until(f"{prefix}-0", 401, timeout=2)
        poll(lambda: sum(len(q.hashes) for q in proxy.queries(mark)) >= 50, 5,
             what="all that is cached is looked up again")
        asked = sum(len(q.hashes) for q in proxy.queries(mark))
    assert asked <= 4 * 60, "only what is cached is looked up again"
