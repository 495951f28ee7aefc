# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""How people are turned away: decided before anything is read, answered as
RFC 9457 has it, with the connection kept open wherever that can be."""
import pytest

import harness
from harness import poll
from trap_helpers import TrapHttp, http2, is_problem, our_id

LIMIT = 64 * 1024  # bytes of a body that are read and thrown away


@pytest.fixture
def trap(servers):
    return servers.add(TrapHttp()).start()


@pytest.fixture
def gw(gateway, trap):
    return gateway(backend=trap, children=2)


def test_no_key(gw, trap):
    gw.start()
    a = gw.get("/v1")
    is_problem(a, 401, "no-key")
    assert a.all("WWW-Authenticate") == ["Bearer"]
    assert a.header("Connection") is None
    assert trap.seen == []
    assert gw.metrics()["usage_requests_total"]["no-key"] == 1


@pytest.mark.parametrize("make", [
    lambda key: key[:-1] + ("0" if key[-1] != "0" else "1"),  # mistyped
    lambda key: harness.make_key(),  # of our form, but unknown
    lambda key: "sk_test_123", lambda key: "x", lambda key: "k" * 256,
    lambda key: "k" * 257, lambda key: "a b", lambda key: key + " x",
    lambda key: key + "\t", lambda key: "\xff\xfe", lambda key: key.lower()])
def test_bad_key(gw, trap, make):
    key, _, _ = gw.add_key()
    gw.start()
    bad = make(key)
    harness.register_secret(bad)
    for field in (("Authorization", f"Bearer {bad}"), ("X-API-Key", bad)):
        if bad.strip() == key:  # httpd removes space around a value
            continue
        a = gw.get("/v1", headers=[field])
        is_problem(a, 401, "bad-key")
        assert a.header("WWW-Authenticate").startswith("Bearer")
    assert trap.seen == []


@pytest.mark.parametrize("field", [
    ("Authorization", "Bearer "), ("Authorization", "Bearer"),
    ("X-API-Key", "")])
def test_an_empty_key_is_no_good_key(gw, trap, field):
    gw.start()
    a = gw.get("/v1", headers=[field])
    assert a.status == 401 and a.json()["type"].endswith(("bad-key", "no-key"))
    assert trap.seen == []


def test_revoked_and_expired(gw, trap):
    revoked, *_ = gw.add_key(revoked="2025-06-01T00:00:00Z")
    expired, *_ = gw.add_key(expires="2025-06-01T00:00:00Z")
    later, *_ = gw.add_key(expires="2125-06-01T00:00:00Z")
    gw.start()
    is_problem(gw.get("/v1", key=revoked), 401, "bad-key")
    a = gw.get("/v1", key=expired)
    is_problem(a, 403, "expired-key")
    assert a.header("WWW-Authenticate") is None
    assert gw.get("/v1", key=later).status == 200
    assert len(trap.seen) == 1
    gw.wait_events(1)


TWO = [
    lambda a, b: [("Authorization", f"Bearer {a}"),
                  ("Authorization", f"Bearer {b}")],
    lambda a, b: [("Authorization", f"Bearer {a}"),
                  ("Authorization", f"Bearer {a}")],
    lambda a, b: [("Authorization", f"Bearer {a}, Bearer {b}")],
    lambda a, b: [("Authorization", f"Bearer {a},Bearer {b}")],
    lambda a, b: [("Authorization", f"Bearer {a},")],
    lambda a, b: [("Authorization", f"Bearer {a}"), ("X-API-Key", b)],
    lambda a, b: [("Authorization", f"Bearer {a}"), ("X-API-Key", a)],
    lambda a, b: [("X-API-Key", a), ("X-API-Key", b)],
    lambda a, b: [("x-api-key", a), ("Authorization", f"bearer {b}")],
    lambda a, b: [("Authorization", "Basic dXNlcjpwYXNz"),
                  ("Authorization", f"Bearer {a}")],
    lambda a, b: [("Authorization", f"Bearer {a}"),
                  ("Authorization", "Basic dXNlcjpwYXNz")],
]


@pytest.mark.parametrize("fields", TWO)
def test_two_credentials(gw, trap, fields):
    one, two = gw.add_key(), gw.add_key(org=harness.ORG2)
    gw.start()
    a = gw.get("/v1", headers=fields(one[0], two[0]))
    is_problem(a, 400, "two-keys")
    assert trap.seen == []
    assert gw.settled()["usage_events_admitted_total"] == 0


def test_the_scheme_is_read_as_rfc_9110_has_it(gw):
    key, _, _ = gw.add_key()
    gw.start()
    for value in (f"bearer {key}", f"BEARER {key}", f"Bearer   {key}"):
        assert gw.get("/v1", headers=[("Authorization", value)]).status == 200
    for value in (f"Bearer{key}", f"Token {key}", key, f"Basic {key}"):
        assert gw.get("/v1", headers=[("Authorization", value)]).status == 401


# --- the connection -----------------------------------------------------------

def test_connection_is_kept_open(gw):
    key, _, _ = gw.add_key()
    gw.start()
    with gw.conn() as c:
        for _ in range(3):
            is_problem(c.request("GET", "/v1"), 401, "no-key")
            good = c.request("GET", "/v1",
                             [("Authorization", f"Bearer {key}")])
            assert good.status == 200
    gw.wait_events(3)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "BREW"])
@pytest.mark.parametrize("size", [1, 1000, LIMIT])
def test_a_small_body_is_read_and_thrown_away(gw, method, size):
    gw.start()
    body = b"GET /v1 HTTP/1.1\r\nHost: x\r\n\r\n" * (size // 20 + 1)
    with gw.conn() as c:
        is_problem(c.request(method, "/v1", body=body[:size]), 401, "no-key")
        is_problem(c.request("GET", "/v1"), 401, "no-key")


def test_a_small_chunked_body_is_read_and_thrown_away(gw):
    gw.start()
    with gw.conn() as c:
        chunked = b"3e8\r\n" + b"x" * 1000 + b"\r\n0\r\nX-Trailer: 1\r\n\r\n"
        for _ in range(2):
            c.send(b"POST /v1 HTTP/1.1\r\nHost: gateway.test\r\n"
                   b"Transfer-Encoding: chunked\r\n\r\n" + chunked)
            is_problem(c.answer(), 401, "no-key")


@pytest.mark.parametrize("size", [LIMIT + 1, 10 << 20, 1 << 40])
def test_a_large_body_closes_the_connection(gw, size):
    """And isn't waited for."""
    gw.start()
    with gw.conn() as c:
        c.send(b"POST /v1 HTTP/1.1\r\nHost: gateway.test\r\n"
               b"Content-Length: %d\r\n\r\n" % size)
        a = c.answer()
        is_problem(a, 401, "no-key")
        assert a.header("Connection") == "close"
        assert c.at_end()


def test_a_large_chunked_body_closes_the_connection(gw):
    gw.start()
    with gw.conn() as c:
        c.send(b"POST /v1 HTTP/1.1\r\nHost: gateway.test\r\n"
               b"Transfer-Encoding: chunked\r\n\r\n")
        piece = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
        try:
            for _ in range(8):
                c.send(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
        a = c.answer()
        is_problem(a, 401, "no-key")
        assert a.header("Connection") == "close"


def test_a_slow_body_holds_nothing_up(gw):
    """A client that announces a body and doesn't send it has no thread of ours
    for longer than httpd's own Timeout, and no other client waits."""
    gw.start()
    with gw.conn() as c:
        c.send(b"POST /v1 HTTP/1.1\r\nHost: gateway.test\r\n"
               b"Content-Length: 1000\r\n\r\n")
        is_problem(gw.get("/v1"), 401, "no-key")


@pytest.mark.parametrize("size", [0, 5, 1000, LIMIT * 2])
def test_expect_gets_no_100_continue(gw, size):
    gw.start()
    with gw.conn() as c:
        c.send(b"POST /v1 HTTP/1.1\r\nHost: gateway.test\r\n"
               b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % size)
        a = c.answer(interim=True)  # would show a 1xx
        is_problem(a, 401, "no-key")
        if size:
            assert a.header("Connection") == "close"
            assert c.at_end()


def test_a_good_key_gets_its_100_continue(gw, trap):
    key, _, _ = gw.add_key()
    gw.start()
    with gw.conn() as c:
        c.send(b"POST /v1 HTTP/1.1\r\nHost: gateway.test\r\n"
               b"Authorization: Bearer %s\r\nExpect: 100-continue\r\n"
               b"Content-Length: 5\r\n\r\n" % key.encode())
        assert c.answer(interim=True).status == 100
        c.send(b"hello")
        assert c.answer().status == 200
    gw.wait_events(1)


def test_http_1_0(gw):
    gw.start()
    with gw.conn() as c:
        a = c.request("GET", "/v1", version="1.0")
        is_problem(a, 401, "no-key")
        assert c.at_end()
    with gw.conn() as c:
        for _ in range(2):
            a = c.request("GET", "/v1", [("Connection", "keep-alive")],
                          version="1.0")
            is_problem(a, 401, "no-key")


def test_pipelined_denials(gw):
    gw.start()
    with gw.conn() as c:
        c.send(b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
               * 20)
        ids = set()
        for _ in range(20):
            a = c.answer()
            is_problem(a, 401, "no-key")
            ids.add(our_id(a))
    assert len(ids) == 20


# --- the answer ---------------------------------------------------------------

def test_head_has_no_body(gw):
    gw.start()
    with gw.conn() as c:
        a = c.request("HEAD", "/v1")
        assert a.status == 401
        assert a.header("Content-Type") == "application/problem+json"
        our_id(a)
        is_problem(c.request("GET", "/v1"), 401, "no-key")  # in step


def test_header_always_is_there(gateway, trap):
    gw = gateway(backend=trap, children=1, server_conf="""
Header always set Strict-Transport-Security "max-age=63072000"
Header always set Access-Control-Allow-Origin "*"
Header set X-Only-Success 1
""")
    key, *_ = gw.add_key()
    expired, *_ = gw.add_key(expires="2025-06-01T00:00:00Z")
    gw.start()
    for a in (gw.get("/v1"), gw.get("/v1", key="sk_test_x"),
              gw.get("/v1", key=expired),
              gw.get("/v1", headers=[("Authorization", "Bearer a, b")]),
              gw.get("/v1", key=key)):
        assert a.header("Strict-Transport-Security") == "max-age=63072000"
        assert a.header("Access-Control-Allow-Origin") == "*"
        assert (a.header("X-Only-Success") is None) == (a.status != 200)


def test_error_documents_do_not_replace_it(gateway, trap):
    gw = gateway(backend=trap, children=1, server_conf="""
ErrorDocument 400 /local/hello.txt
ErrorDocument 401 /local/hello.txt
ErrorDocument 403 "no"
ErrorDocument 503 http://elsewhere.test/
ProxyErrorOverride On
""")
    expired, *_ = gw.add_key(expires="2025-06-01T00:00:00Z")
    gw.start()
    is_problem(gw.get("/v1"), 401, "no-key")
    is_problem(gw.get("/v1", key=expired), 403, "expired-key")
    is_problem(gw.get("/v1", headers=[("Authorization", "Bearer a,b")]), 400,
               "two-keys")
    assert trap.seen == []


def test_local_files_are_denied_too(gw):
    gw.start()
    is_problem(gw.get("/local/hello.txt"), 401, "no-key")
    is_problem(gw.get("/local/none"), 401, "no-key")


def test_http2(gateway, trap):
    gw = gateway(backend=trap, modules=["http2"], children=1,
                 server_conf="Protocols h2c http/1.1\n"
                 "Header always set Strict-Transport-Security max-age=1")
    key, *_ = gw.add_key()
    gw.start()
    ids = set()
    with http2(gw) as client:
        for body in (b"", b"x" * 1000, b"x" * 60000):
            a = client.request("POST" if body else "GET", "/v1", body=body)
            is_problem(a, 401, "no-key")
            assert a.header("WWW-Authenticate").startswith("Bearer")
            assert a.header("Strict-Transport-Security") == "max-age=1"
            ids.add(our_id(a))
        a = client.request("GET", "/v1", [("x-api-key", key)])
        assert a.status == 200
        ids.add(our_id(a))
        a = client.request("HEAD", "/v1")
        assert (a.status, a.body) == (401, b"")
        # One of 200 KB that isn't sent holds up neither answer nor others.
        a = client.request("POST", "/v1", [("content-length", "200000")],
                           body=b"x", end=False)
        is_problem(a, 401, "no-key")
        a = client.request("GET", "/v1", [("x-api-key", key)])
        assert a.status == 200
    assert len(ids) == 4
    gw.wait_events(2)


def test_denials_are_counted_and_not_recorded(gw, trap):
    key, *_ = gw.add_key()
    expired, *_ = gw.add_key(expires="2025-06-01T00:00:00Z")
    gw.start()
    for _ in range(3):
        gw.get("/v1")
    for _ in range(2):
        gw.get("/v1", key="sk_test_x")
    gw.get("/v1", key=expired)
    gw.get("/v1", headers=[("Authorization", "Bearer a,b")])
    gw.get("/v1", key=key)
    total = gw.settled()["usage_requests_total"]
    assert {k: n for k, n in total.items() if n and k != "exempt"} == {
        "no-key": 3, "bad-key": 2, "expired-key": 1, "two-keys": 1,
        "allowed": 1}
    gw.wait_events(1)


def test_unavailable_asks_to_come_back(gateway, trap):
    """No room to meter a request, and UsageOverflow refuse: 503."""
    gw = gateway(backend="http://127.0.0.1:1", children=1, threads=8,
                 server_conf="UsageOverflow refuse\nUsageKafkaBufferSize 4\n"
                 "UsageJournalSlots 64\nUsageKafkaFlushInterval 60s\n"
                 "UsageKafkaBatchSize 10000\n")
    key, *_ = gw.add_key()
    gw.start()

    def refused():
        a = gw.get("/v1", key=key)
        return a if a.header("Content-Type") == "application/problem+json" \
            else None
    a = poll(refused, 20, every=0, what="a refusal")
    is_problem(a, 503, "unavailable")
    assert int(a.header("Retry-After")) > 0
    assert gw.metrics()["usage_requests_total"]["unavailable"] == 1
    m = gw.metrics()
    assert sum(m["usage_events_lost_total"].values()) == 0
