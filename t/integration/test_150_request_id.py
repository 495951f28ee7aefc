# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""X-Request-Id: ours, once, in every answer, whatever the backend says."""
import pytest

from backends.trap_base import OWN_ID
from trap_helpers import EVIL, TrapHttp, UUID7, http2, our_id

CONF = """
UsageExempt /free/
Protocols h2c http/1.1
ErrorDocument 404 /local/hello.txt
<Location /status/418>
    ProxyErrorOverride On
</Location>
RewriteEngine On
RewriteRule ^/rewritten/(.*) /status/$1 [PT]
RewriteRule ^/redirect http://elsewhere.test/ [R=302]
RewriteRule ^/forbidden - [F]
ProxyPass /down/ http://127.0.0.1:1/
"""


@pytest.fixture
def trap(servers):
    return servers.add(TrapHttp()).start()


@pytest.fixture
def gw(gateway, trap):
    gw = gateway(backend=trap, children=1, modules=["http2"], server_conf=CONF)
    gw.known = gw.add_key()[0]
    gw.start()
    return gw


TARGETS = [
    ("/status/200", 200), ("/status/201", 201), ("/status/204", 204),
    ("/status/304", 304), ("/status/301", 301), ("/status/400", 400),
    ("/status/404", 404), ("/status/418", 418), ("/status/500", 500),
    ("/status/503", 503), ("/down/", 503), ("/local/hello.txt", 200),
    ("/local/none", 404), ("/free/x", 200), ("/rewritten/202", 202),
    ("/redirect", 302), ("/forbidden", 403), ("/usage-status", 200)]


@pytest.mark.parametrize("target, status", TARGETS)
def test_in_every_answer_once(gw, trap, target, status):
    a = gw.get(target, key=gw.known, headers=[("X-Request-Id", EVIL)])
    assert a.status == status, a
    assert our_id(a) not in (EVIL, OWN_ID)
    assert OWN_ID.encode() not in a.head
    if trap.seen:
        assert trap.seen[0].values("X-Request-Id") == [our_id(a)]


def test_in_every_answer_once_over_http2(gw, trap):
    ids = set()
    with http2(gw) as client:
        for target, status in TARGETS + [("/status/401", 401)]:
            fields = [] if status == 401 else [("x-api-key", gw.known)]
            a = client.request("GET", target, fields)
            assert a.status == status, target
            ids.add(our_id(a))
            assert OWN_ID not in ids
    assert len(ids) == len(TARGETS) + 1


def test_head_and_options_and_unknown_methods(gw):
    for method in ("HEAD", "OPTIONS", "BREW", "POST"):
        body = b"" if method == "POST" else None
        our_id(gw.request(method, "/x", key=gw.known, body=body))
        our_id(gw.request(method, "/local/hello.txt", key=gw.known,
                          body=body))
        our_id(gw.request(method, "/x", body=body))


def test_without_a_key(gw):
    our_id(gw.get("/v1"))


def test_in_the_event_and_each_its_own(gw, trap):
    ids = [our_id(gw.get(f"/x{n}", key=gw.known)) for n in range(20)]
    events = {e["endpoint"]: e["request_id"] for e in gw.wait_events(20)}
    assert [events[f"/x{n}"] for n in range(20)] == ids
    assert len(set(ids)) == 20 and sorted(ids) == ids  # sorted by time
    assert [s.one("X-Request-Id") for s in trap.seen] == ids


def test_unparsed_requests_have_none(gw):
    for raw in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
                b"GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n"):
        with gw.conn() as c:
            c.send(raw)
            a = c.answer()
            assert a.status >= 400
            assert a.all("X-Request-Id") == []
    assert gw.settled()["usage_events_admitted_total"] == 0


# --- UsageRequestId -----------------------------------------------------------

THEIRS = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
NO_UUID = ["", "x", THEIRS[:-1], THEIRS + "0", "{" + THEIRS + "}",
           THEIRS.replace("-", ""), THEIRS.replace("f", "g"),
           THEIRS + ", " + THEIRS, " " * 36, "'" * 36, "\xe9" * 36,
           "urn:uuid:" + THEIRS]


@pytest.fixture
def trusting(gateway, trap):
    gw = gateway(backend=trap, children=1, server_conf="UsageRequestId trust")
    gw.known = gw.add_key()[0]
    gw.start()
    return gw


def test_trust_takes_a_uuid(trusting, trap):
    gw = trusting
    for sent in (THEIRS, THEIRS.upper(), EVIL):
        a = gw.get("/x", key=gw.known, headers=[("X-Request-Id", sent)])
        assert a.request_id == sent.lower()
        assert trap.seen[-1].values("X-Request-Id") == [sent.lower()]
    assert [e["request_id"] for e in gw.wait_events(3)] == [
        THEIRS, THEIRS, EVIL]


def test_trust_takes_nothing_else(trusting, trap):
    gw = trusting
    for sent in NO_UUID:
        a = gw.get("/x", key=gw.known, headers=[("X-Request-Id", sent)])
        assert trap.seen[-1].values("X-Request-Id") == [our_id(a)]
    a = gw.get("/x", key=gw.known, headers=[("X-Request-Id", THEIRS),
                                            ("X-Request-Id", EVIL)])
    assert our_id(a)
    a = gw.get("/x", key=gw.known, headers=[("X_Request_Id", THEIRS)])
    assert our_id(a)
    gw.wait_events(len(NO_UUID) + 2)


def test_trust_in_denials_and_for_the_exempt(trusting):
    a = trusting.get("/x", headers=[("X-Request-Id", THEIRS)])
    assert a.status == 401 and a.request_id == THEIRS
    assert a.json()["instance"] == f"urn:uuid:{THEIRS}"


def test_new_takes_none(gateway, trap):
    gw = gateway(backend=trap, children=1, server_conf="UsageRequestId new")
    key = gw.add_key()[0]
    gw.start()
    a = gw.get("/x", key=key, headers=[("X-Request-Id", THEIRS)])
    assert UUID7.fullmatch(a.request_id) and a.request_id != THEIRS
    assert trap.seen[0].values("X-Request-Id") == [a.request_id]
