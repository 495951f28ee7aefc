# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Limits as they are configured: of virtual hosts, tried out, and where there
is no room to count. What each directive takes is in test_200_config.py."""
import re
import threading
import time

import pytest

from harness import poll
from limit_helpers import (LOCAL, counted, is_over, left, limits, over)
from trap_helpers import is_problem


def vhost(name, lines=""):
    return (f"<VirtualHost *:{{port}}>\nServerName {name}.test\n{lines}\n"
            "</VirtualHost>\n")


@pytest.fixture
def make(gateway):
    """A gateway with these lines, a key in gw.known, and gw.ask()."""
    def make(conf, **kw):
        gw = gateway(backend=None, server_conf=conf,
                     **{"children": 2, **kw})
        gw.known = gw.add_key()[0]

        def ask(host="gateway", key=gw.known, **kw):
            return gw.get(LOCAL, key=key, host=f"{host}.test", **kw)
        gw.ask = ask
        return gw
    return make


def policy(answer):
    return [(x.by, x.count, x.window) for x in limits(answer)]


# --- virtual hosts ------------------------------------------------------------

def test_virtual_hosts(make):
    """One's own limits stand in place of the main server's, all of them, and
    count apart; who has none, has the main server's, and counts with it."""
    gw = make("UsageRateLimit 2/h burst=9 by=org\n"
              "UsageRateLimit 3/h burst=9 by=ip\n"
              + vhost("gateway")
              + vhost("own", "UsageRateLimit 4/h burst=2 by=key")
              + vhost("same", "UsageRateLimit 5/h burst=5 by=org")
              + vhost("off", "UsageRateLimit off")
              + vhost("off-on", "UsageRateLimit off\nUsageRateLimit 6/h "
                      "burst=9 by=key")
              + vhost("on-off", "UsageRateLimit 7/h\nUsageRateLimit off"))
    gw.start()
    assert policy(gw.ask()) == [("org", 2, 3600), ("ip", 3, 3600)]
    assert policy(gw.ask("own")) == [("key", 4, 3600)]
    for host in ("off", "on-off"):
        a = gw.ask(host)
        assert a.status == 200 and limits(a) == []
    assert policy(gw.ask("off-on")) == [("key", 6, 3600)]
    assert gw.ask("own").status == 200
    is_over(gw.ask("own"), "key")
    assert policy(gw.ask("same")) == [("org", 5, 3600)]
    for _ in range(4):
        assert gw.ask("same").status == 200
    is_over(gw.ask("same"), "org")
    assert {x.left for x in limits(gw.ask("gateway"))} == {7}
    assert over(gw) == {"key": 1, "org": 1}


def test_virtual_hosts_count_on_in_another_order(make):
    hosts = [vhost("gateway"), vhost("one", "UsageRateLimit 1/h burst=2"),
             vhost("two", "UsageRateLimit 1/h burst=2"), vhost("same")]
    gw = make("UsageRateLimit 1/h burst=3 by=ip\n" + "".join(hosts))
    gw.start()
    assert [left(gw.ask(host)) for host in (
        "one", "two", "two", "gateway", "same")] == [1, 1, 0, 2, 1]
    gw.server_conf = "UsageRateLimit 1/h burst=3 by=ip\n" + "".join(
        hosts[::-1])
    old = set(gw.children())
    gw.graceful()
    poll(lambda: not old & set(gw.children()), 30)
    assert [left(gw.ask(host)) for host in ("one", "gateway")] == [0, 0]
    is_over(gw.ask("two"), "org")
    is_over(gw.ask("same"), "ip")
    assert gw.metrics()["usage_limit_subjects"] == 3


def test_the_main_server_inherits_nothing(make):
    gw = make(vhost("gateway") + vhost("own", "UsageRateLimit 1/h"))
    gw.start()
    assert gw.ask("own").status == 200
    for _ in range(3):
        a = gw.ask()
        assert a.status == 200 and limits(a) == []
    is_over(gw.ask("own"), "org")


def test_two_lists_are_no_duplicates(make):
    gw = make("UsageRateLimit 1/h\n" + vhost("own", "UsageRateLimit 2/h"))
    assert gw.configtest()[0] == 0
    gw.server_conf = vhost("own", "UsageRateLimit 1/h\nUsageRateLimit 2/h")
    rc, output = gw.configtest()
    assert rc and "UsageRateLimit" in output
    assert "a limit by=org in the same unit of time" in output


def test_wrong_words_are_told(make):
    gw = make("")
    for line, why in (
            ("100/s by=user", '"by=user" is none of by=key, by=org, by=ip'),
            ("100/s burst=0", '"100/s burst=0" is no rate'),
            ("100/s 200", '"200" can\'t stand there'),
            ("", '"" is no rate')):
        gw.server_conf = f"UsageRateLimit {line}\n"
        rc, output = gw.configtest()
        assert rc and "UsageRateLimit takes off, or a rate and whose" in output
        assert why in output


# --- tried out ----------------------------------------------------------------

def test_a_dry_run_turns_nobody_away(make):
    gw = make("UsageRateLimit 1/h burst=2 by=org\n"
              "UsageRateLimit 1/h burst=9 by=ip\nUsageLimitDryRun On\n"
              "LogLevel usage_events:debug\n"
              + vhost("gateway") + vhost("real", "UsageLimitDryRun Off"))
    gw.start()
    answers = [gw.ask() for _ in range(6)]
    for a in answers:
        assert a.status == 200 and limits(a) == []
        assert a.header("Retry-After") is None
    assert over(gw) == {"org": 4}
    assert gw.metrics()["usage_limit_dry_run_total"] == 4
    assert counted(gw) == {"allowed": 6}
    lines = gw.wait_log("UE0502")
    assert [re.search(r"UE0502: (\S+) is let in by UsageLimitDryRun: it is "
                      r"over a limit by=org, for \d+ s", x)[1]
            for x in lines] == [a.request_id for a in answers[2:]]
    gw.wait_events(6)
    # It was counted: the same bucket is used up where it isn't tried out, and
    # who would have been turned away took nothing of the others.
    a = gw.ask("real")
    is_over(a, "org")
    assert [x.left for x in limits(a)] == [0, 7]
    assert over(gw) == {"org": 5}
    assert gw.metrics()["usage_limit_dry_run_total"] == 4


def test_without_debug_a_dry_run_logs_nothing(make):
    gw = make("UsageRateLimit 1/h\nUsageLimitDryRun On\n")
    gw.start()
    for _ in range(5):
        assert gw.ask().status == 200
    assert gw.metrics()["usage_limit_dry_run_total"] == 4
    assert "UE0502" not in gw.error_log()


# --- no room ------------------------------------------------------------------

SIZE = 100000  # subjects, of a gateway

FULL = """
UsageKeyRequired Off
UsageRateLimit 1/h by=ip
UsageRateLimit 1/h burst=4 by=org
RemoteIPHeader X-Forwarded-For
RemoteIPInternalProxy 127.0.0.1
LogLevel usage_events:info
""" + vhost("gateway") + vhost("open", "UsageLimitFailure open") \
    + vhost("closed", "UsageLimitFailure closed") \
    + vhost("dry", "UsageLimitFailure closed\nUsageLimitDryRun On")


def come_from(gw, first, n, batch=500):
    """One request of each of so many customers, who have no key; on a
    connection that is pipelined."""
    with gw.conn() as c:
        for at in range(first, first + n, batch):
            c.send(b"".join(
                b"HEAD /local/hello.txt HTTP/1.1\r\nHost: gateway.test\r\n"
                b"X-Forwarded-For: 2001:db8:%x:%x::1\r\n\r\n"
                % (i >> 16, i & 0xffff) for i in range(at, at + batch)))
            for _ in range(batch):
                assert c.answer("HEAD").status == 200


def test_where_there_is_no_room(make):
    """Somebody with a network of his own takes all places of the table. Who is
    known in it is held to his limits all the same; of who isn't,
    UsageLimitFailure decides."""
    gw = make(FULL, modules=["remoteip"])
    gw.start()
    fields = {"X-Forwarded-For": "192.0.2.1"}
    assert {x.left for x in limits(gw.ask(headers=fields))} == {3, 0}
    begin = time.monotonic()
    threads = [threading.Thread(target=come_from, args=(gw, i * SIZE // 4,
                                                        SIZE // 4))
               for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    # Where a thread is held up with the lock, others don't wait for it, and
    # their clients are not counted.
    more = SIZE
    while gw.metrics()["usage_limit_subjects"] < SIZE:
        come_from(gw, more, 500)
        more += 500
    m = gw.metrics()
    assert m["usage_limit_subjects"] == SIZE
    before = m["usage_limit_uncounted_total"]
    assert 2 <= before <= 2 + more - SIZE
    print(f"{SIZE} subjects in {time.monotonic() - begin:.1f} s")
    for line in gw.wait_log("UE0503"):
        assert re.search(r"UE0503: a request can't be counted: \d+ of "
                         rf"{SIZE} keys", line)

    new = {"X-Forwarded-For": "198.51.100.1"}
    for host in ("gateway", "open", "dry"):
        for _ in range(3):  # nobody counts them
            a = gw.ask(host, key=None, headers=new)
            assert a.status == 200 and limits(a) == []
    a = gw.ask("closed", key=None, headers=new)
    is_problem(a, 503, "unavailable")
    assert a.header("Retry-After") == "1" and limits(a) == []
    m = gw.metrics()
    assert m["usage_limit_uncounted_total"] == before + 9 + 1
    assert m["usage_limit_dry_run_total"] == 3

    # An organization that is in the table is held to its limit wherever it
    # comes from; where it is turned away for want of room, it pays nothing.
    for _ in range(3):
        is_problem(gw.ask("closed", headers=new), 503, "unavailable")
    for n in (2, 1, 0):
        a = gw.ask(headers=new)
        assert a.status == 200 and left(a) == n
    for host in ("gateway", "open", "closed"):
        is_over(gw.ask(host, headers=new), "org")
    is_over(gw.ask(key=None, headers=fields), "ip")  # known from before
    assert counted(gw)["unavailable"] == 4
    gw.wait_events(4)
