# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Rate limits as clients meet them: who is turned away and how, and what each
answer says of its limits."""
import time

import pytest

from harness import ORG2
from limit_helpers import (FIELDS, LOCAL, Limit, counted, is_over, left,
                           limits, over)
from pg_helpers import Everywhere
from trap_helpers import TrapHttp, is_problem, http2


@pytest.fixture
def trap(servers):
    return servers.add(TrapHttp()).start()


def limited(gateway, trap, *rates, conf="", **kw):
    """A gateway with these limits, in front of a trap."""
    lines = "".join(f"UsageRateLimit {rate}\n" for rate in rates)
    return gateway(backend=trap, server_conf=lines + conf,
                   **{"children": 2, **kw})


def drain(gw, n, key=None, target="/v1", by="org", **kw):
    """n are let in, and no more. Returns Retry-After."""
    with gw.conn(**kw) as c:
        headers = [("X-API-Key", key)] if key else []
        for _ in range(n):
            assert c.request("GET", target, headers).status == 200
        return is_over(c.request("GET", target, headers), by)


# --- whose --------------------------------------------------------------------

def test_by_organization(gateway, trap):
    gw = limited(gateway, trap, "2/h burst=5 by=org")
    one, two, other = gw.add_key(), gw.add_key(), gw.add_key(org=ORG2)
    gw.start()
    assert gw.get("/v1", key=two[0]).status == 200
    assert 1798 <= drain(gw, 4, one[0]) <= 1800
    is_over(gw.get("/v1", key=two[0]), "org")
    assert drain(gw, 5, other[0], source="127.0.0.2") <= 1800
    assert over(gw) == {"org": 3}


def test_by_organization_is_what_it_is_by_itself(gateway, trap):
    gw = limited(gateway, trap, "1/m")
    key = gw.add_key()[0]
    gw.start()
    assert 55 <= drain(gw, 1, key) <= 60


def test_by_key(gateway, trap):
    gw = limited(gateway, trap, "1/h burst=3 by=key")
    one, two = gw.add_key(), gw.add_key()
    gw.start()
    drain(gw, 3, one[0], by="key")
    drain(gw, 3, two[0], by="key", source="127.0.0.2")
    assert over(gw) == {"key": 2}


def test_by_address(gateway, trap):
    """Of the connection, since no proxy in front of us is known."""
    gw = limited(gateway, trap, "1/h burst=3 by=ip")
    one, two = gw.add_key(), gw.add_key(org=ORG2)
    gw.start()
    for address in ("127.0.0.1", "127.0.0.2", "127.1.2.3"):
        with gw.conn(source=address) as c:
            a = c.request("GET", "/v1", [("X-API-Key", two[0]),
                                         ("X-Forwarded-For", "192.0.2.1"),
                                         ("Forwarded", "for=192.0.2.1")])
            assert limits(a) == [Limit("ip", 1, 3600, 2, 3600)]
        drain(gw, 2, one[0], by="ip", source=address)
    assert over(gw) == {"ip": 3}
    assert gw.metrics()["usage_limit_subjects"] == 3


def test_all_of_several_must_let_in(gateway, trap):
    gw = limited(gateway, trap, "1/h burst=5 by=ip", "1/h burst=3 by=key",
                 "1/h burst=9 by=org", "1/m burst=8 by=org")
    one, two = gw.add_key(), gw.add_key()
    gw.start()
    drain(gw, 3, one[0], by="key")
    drain(gw, 2, two[0], by="ip")  # 3 + 2
    with gw.conn(source="127.0.0.2") as c:
        a = c.request("GET", "/v1", [("X-API-Key", two[0])])
        assert [(x.by, x.window, x.left) for x in limits(a)] == [
            ("key", 3600, 0), ("org", 3600, 3), ("org", 60, 2),
            ("ip", 3600, 4)]
        is_over(c.request("GET", "/v1", [("X-API-Key", two[0])]), "key")
    assert over(gw) == {"key": 2, "ip": 1}
    assert gw.metrics()["usage_limit_subjects"] == 2 + 2 + 2


@pytest.mark.parametrize("tight", ["key", "org", "ip"])
def test_a_refusal_costs_the_others_nothing(gateway, trap, tight):
    gw = limited(gateway, trap, *(
        f"1/h burst={1 if by == tight else 9} by={by}"
        for by in ("ip", "org", "key")))
    key = gw.add_key()[0]
    gw.start()
    drain(gw, 1, key, by=tight)
    for _ in range(30):
        a = gw.get("/v1", key=key)
        is_over(a, tight)
        assert {x.by: x.left for x in limits(a)} == {
            "key": 8, "org": 8, "ip": 8, tight: 0}
    assert over(gw) == {tight: 31}


@pytest.mark.mpms("event", "worker")
def test_children_count_together(gateway, trap, mpm):
    gw = limited(gateway, trap, "1/h burst=13 by=org", children=4, mpm=mpm)
    key = gw.add_key()[0]
    gw.start()
    with Everywhere(gw) as all_:
        first = all_.answers(key)  # of two connections to each child
        assert [a.status for a in first] == [200] * 8
        second = all_.answers(key)
        told = [left(a) for a in first + second if a.status == 200]
        assert len(told) == 13
        # Of two at the same moment, who read the clock before and is counted
        # after the other is told one less.
        assert all(0 <= n - is_told <= 1 for n, is_told in zip(
            range(12, -1, -1), sorted(told, reverse=True)))
        for a in all_.answers(key):
            is_over(a, "org")
    assert counted(gw)["rate-limit"] == 3 + 8


def test_children_of_one_thread_count_together(gateway, trap):
    gw = limited(gateway, trap, "1/h burst=13 by=org", children=4,
                 mpm="prefork")
    key = gw.add_key()[0]
    gw.start()
    with gw.conn() as a, gw.conn() as b, gw.conn() as c:  # each has a child
        seen = [left(one.request("GET", LOCAL, [("X-API-Key", key)]))
                for _ in range(5) for one in (a, b, c)]
    assert seen == [*range(12, -1, -1), 0, 0]
    assert counted(gw) == {"allowed": 13, "rate-limit": 2}


# --- what is said -------------------------------------------------------------

def test_fields_byte_for_byte(gateway, trap):
    gw = limited(gateway, trap, "100/h burst=50 by=org", "1/m by=ip",
                 "7/s burst=3 by=key")
    key = gw.add_key()[0]
    gw.start()
    a = gw.get("/v1", key=key)
    assert {name: a.header(name) for name in FIELDS} == {
        "RateLimit-Policy": '"key";q=7;w=1, "org";q=100;w=3600, "ip";q=1;w=60',
        "RateLimit": '"key";r=2;t=1, "org";r=49;t=36, "ip";r=0;t=60',
        "X-RateLimit-Limit": "1", "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": "60"}
    a = gw.get("/v1", key=key)
    assert 50 <= is_over(a, "ip") <= 60
    assert '"org";r=49;t=' in a.header("RateLimit")


def test_what_is_left_counts_down_and_comes_back(gateway, trap):
    gw = limited(gateway, trap, "4/s burst=4")
    key = gw.add_key()[0]
    gw.start()
    begin = time.monotonic()
    answers = [gw.get("/v1", key=key) for _ in range(4)]
    if time.monotonic() - begin < 0.25:
        assert [left(a) for a in answers] == [3, 2, 1, 0]
    assert [a.status for a in answers] == [200] * 4
    time.sleep(1)
    assert left(gw.get("/v1", key=key)) == 3


def test_retry_after_is_true_for_who_is_alone(gateway, trap):
    gw = limited(gateway, trap, "5/s burst=1", "50/m burst=3")
    key = gw.add_key()[0]
    gw.start()
    for _ in range(2):
        with gw.conn() as c:
            a = c.request("GET", "/v1", [("X-API-Key", key)])
            while a.status == 200:
                a = c.request("GET", "/v1", [("X-API-Key", key)])
            time.sleep(is_over(a, "org"))
            a = c.request("GET", "/v1", [("X-API-Key", key)])
            assert a.status == 200, a


def test_no_limit_says_nothing(gateway, trap):
    gw = limited(gateway, trap)
    key = gw.add_key()[0]
    gw.start()
    for target in ("/v1", LOCAL, "/local/none"):
        assert limits(gw.get(target, key=key)) == []
    assert gw.metrics()["usage_limit_subjects"] == 0


def test_who_is_turned_away_for_the_key_hears_nothing_of_limits(gateway,
                                                                trap):
    """And is not counted: 401 and the like cost no token of the address."""
    gw = limited(gateway, trap, "1/h burst=3 by=ip", "1/h burst=3 by=key",
                 "1/h burst=3 by=org")
    good = gw.add_key()[0]
    expired = gw.add_key(expires="2025-06-01T00:00:00Z")[0]
    elsewhere = gw.add_key(networks=["192.0.2.0/24"])[0]
    gw.start()
    for _ in range(5):
        for a, status in ((gw.get("/v1"), 401),
                          (gw.get("/v1", key="sk_test_x"), 401),
                          (gw.get("/v1", key=expired), 403),
                          (gw.get("/v1", key=elsewhere), 403)):
            assert a.status == status and limits(a) == []
    assert gw.metrics()["usage_limit_subjects"] == 0
    assert {x.left for x in limits(gw.get("/v1", key=good))} == {2}


class Boasting(TrapHttp):
    """Has limits of its own, and tells of them in all its answers."""

    def answer(self, seen):
        head, mark, rest = super().answer(seen).partition(b"\r\n")
        own = b"".join(f"{spelled(name)}: own\r\n".encode()
                       for name in FIELDS for spelled in (str, str.lower))
        return head + mark + own + b"Retry-After: 77\r\n" + rest


def test_the_fields_of_a_backend_give_way(gateway, servers):
    gw = limited(gateway, servers.add(Boasting()).start(),
                 "1/h burst=99 by=org", conf="""
<Location "/status/500">
    ProxyErrorOverride On
    ErrorDocument 500 /local/hello.txt
</Location>
""")
    key = gw.add_key()[0]
    gw.start()
    for n, path in enumerate(("/v1", "/status/404", "/status/429",
                              "/status/500", "/status/304", "/status/204")):
        a = gw.get(path, key=key)
        assert left(a) == 98 - n
        assert b"own" not in a.head
        if path not in ("/v1", "/status/500"):
            assert a.header("Retry-After") == "77"  # that is the backend's


def test_the_fields_of_a_script_give_way(gateway):
    """It puts them among the fields that go with errors, too."""
    gw = gateway(backend=None, modules=["cgid"], children=1, server_conf="""
UsageRateLimit 1/h burst=99 by=org
ScriptSock {dir}/cgisock
ScriptAlias /ask {htdocs}/ask.py
""")
    script = gw.htdocs / "ask.py"
    script.write_text("#!/usr/bin/python3\nprint('''Status: 201 Created\n"
                      + "".join(f"{name}: own\n" for name in FIELDS)
                      + "Content-Type: text/plain\n\nhello''')\n")
    script.chmod(0o755)
    key = gw.add_key()[0]
    gw.start()
    a = gw.get("/ask", key=key)
    assert a.status == 201 and a.body == b"hello\n"
    assert left(a) == 98 and b"own" not in a.head


def test_where_no_limit_bears_a_backend_says_what_it_likes(gateway, servers):
    gw = limited(gateway, servers.add(Boasting()).start())
    key = gw.add_key()[0]
    gw.start()
    a = gw.get("/v1", key=key)
    assert a.all("RateLimit") == ["own", "own"]


# --- who is turned away -------------------------------------------------------

def test_who_is_turned_away_costs_and_does_nothing(gateway, trap):
    """No event, no request of the backend's, and one of each number."""
    gw = limited(gateway, trap, "1/h burst=4 by=org")
    key, key_id, org = gw.add_key()
    gw.start()
    drain(gw, 4, key)
    for _ in range(9):
        is_over(gw.get(LOCAL, key=key), "org")
        is_over(gw.get("/local/none", key=key), "org")
    assert len(trap.seen) == 4
    m = gw.settled()
    assert counted(gw) == {"allowed": 4, "rate-limit": 19}
    assert over(gw) == {"org": 19}
    assert m["usage_events_admitted_total"] == 4
    assert m["usage_limit_subjects"] == 1
    assert m["usage_limit_dry_run_total"] == 0
    assert m["usage_limit_uncounted_total"] == 0
    assert {e["api_key_id"] for e in gw.wait_events(4)} == {key_id}
    text = gw.prometheus()
    assert 'usage_requests_total{decision="rate-limit"} 19' in text
    assert 'usage_limit_over_total{by="org"} 19' in text
    assert "usage_limit_subjects 1" in text


def test_the_connection_stays_open(gateway, trap):
    gw = limited(gateway, trap, "1/h burst=1 by=key")
    one, two = gw.add_key()[0], gw.add_key()[0]
    gw.start()
    drain(gw, 1, one, by="key")
    with gw.conn() as c:
        for method, body in (("GET", None), ("POST", b"x"),
                             ("PUT", b"y" * 50000), ("POST", b""),
                             ("DELETE", None), ("GET", None)):
            a = c.request(method, "/v1", [("X-API-Key", one)], body=body)
            is_over(a, "key")
            assert a.header("Connection") is None
        c.send(f"POST /v1 HTTP/1.1\r\nHost: x\r\nX-API-Key: {one}\r\n"
               "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
               .encode())
        is_over(c.answer(), "key")
        is_over(c.request("HEAD", "/v1", [("X-API-Key", one)]), "key", True)
        assert c.request("GET", "/v1", [("X-API-Key", two)]).status == 200
        c.send(f"GET /v1 HTTP/1.1\r\nHost: x\r\nX-API-Key: {one}\r\n\r\n"
               .encode() * 20)
        for _ in range(20):
            is_over(c.answer(), "key")
    assert over(gw) == {"key": 29}


def test_nobody_is_told_to_go_on(gateway, trap):
    gw = limited(gateway, trap, "1/h burst=1")
    key = gw.add_key()[0]
    gw.start()
    drain(gw, 1, key)
    with gw.conn() as c:
        c.send(f"POST /v1 HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n"
               "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n".encode())
        is_over(c.answer(interim=True), "org")
        assert c.at_end()


def test_over_http2(gateway, trap):
    gw = limited(gateway, trap, "1/h burst=5 by=org", modules=["http2"],
                 conf="Protocols h2c http/1.1\n"
                 "Header always set Strict-Transport-Security max-age=1\n")
    key = gw.add_key()[0]
    gw.start()
    with http2(gw) as client:
        for n, path in enumerate(("/v1", LOCAL, "/local/none", "/status/503",
                                  "/status/204")):
            a = client.request("GET", path, [("x-api-key", key)])
            assert limits(a) == [Limit("org", 1, 3600, 4 - n,
                                       limits(a)[0].reset)]
        for body in (b"", b"x" * 50000):
            a = client.request("POST" if body else "GET", "/v1",
                               [("x-api-key", key)], body=body)
            assert 4 * 3600 >= is_over(a, "org") >= 3590
            assert a.header("Strict-Transport-Security") == "max-age=1"
        is_problem(client.request("GET", "/v1"), 401, "no-key")
    gw.wait_events(5)
    assert len(trap.seen) == 3


def test_nobody_is_let_in_by_an_error_document(gateway, trap):
    gw = limited(gateway, trap, "1/h", conf="ErrorDocument 429 " + LOCAL
                 + "\nProxyErrorOverride On\n")
    key = gw.add_key()[0]
    gw.start()
    drain(gw, 1, key)
