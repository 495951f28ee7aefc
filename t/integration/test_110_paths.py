# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Exempt paths: no path that a server on the way reads as another gets past
without a key. post_read_request sees a path as it came, the backend gets it
normalized: /docs/../v1/charge is /v1/charge there."""
import pytest

from trap_helpers import TrapHttp, is_problem, our_id

EXEMPT = "UsageExempt /docs/ /healthz /a%20b/ /caf\xc3\xa9/"

FREE = ["/docs/", "/docs/x", "/docs/x/y?z=/../v1", "/docs/x;v=1/y", "/healthz",
        "/healthz?x", "/docs/.well-known/x", "/docs/a..b/c",
        "/docs/x%20y", "/docs/%E2%82%AC", "/docs/x?y=%2e%2e/",
        "http://gateway.test/docs/x", "/a%20b/c"]

# Whatever httpd makes of these: without a key they are no exempt paths.
METERED = [
    "/docs", "/docs/...", "/doc/", "/docsx", "/Docs/x",
    "/healthz/", "/healthz/x",
    "/docs/../v1/charge", "/docs/x/../../v1/charge", "/docs/..",
    "/docs/../docs/x", "/docs/./x", "/docs/.", "/docs/x/.", "/docs/x/..",
    "/docs/%2e%2e/v1/charge", "/docs/%2E%2E/v1/charge", "/docs/.%2e/v1/charge",
    "/docs/%2e./v1/charge", "/docs/%2e/x", "/docs/x%2e", "/docs/%64ocs",
    "/docs/%252e%252e/v1/charge",
    "/docs/..;/v1/charge", "/docs/..;x=y/v1/charge", "/docs/.;/x",
    "/docs/%2e%2e;/v1", "/docs/..%3b/v1", "/docs/..%3B/v1",
    "//docs/x", "/docs//x", "/docs//../v1", "/docs/x//", "//v1/docs/",
    "/docs%2fx", "/docs/%2f", "/docs/x%2fy", "/docs%2F..%2Fv1",
    "/docs/..%2fv1/charge", "/docs/%2e%2e%2fv1", "/docs/..%5cv1",
    "/docs/\\..\\v1", "/docs\\..\\v1", "/docs/..\\v1", "/docs/%5c",
    "/docs/%00", "/docs/x%00y", "/docs/%0a", "/docs/%7f", "/docs/%7E",
    "/docs/%", "/docs/%2", "/docs/%zz", "/docs/%u002e", "/docs/%c0%ae%c0%ae/",
    "/docs/%C0%AF..", "/%64ocs/x", "/doc%73/x",
    "http://gateway.test/docs/../v1", "http://gateway.test//docs/x",
    "/v1/charge?/docs/", "/v1/charge#/docs/", "/v1;/docs/",
]


@pytest.fixture
def gw(gateway, servers):
    backend = servers.add(TrapHttp()).start()
    gw = gateway(backend=backend, children=1,
                 server_conf=EXEMPT + "\nAllowEncodedSlashes NoDecode")
    gw.trap = backend
    return gw


def test_exempt_paths_pass_and_are_not_recorded(gw):
    gw.start()
    for path in FREE:
        a = gw.get(path)
        assert a.status == 200, path
        our_id(a)
    assert len(gw.trap.seen) == len(FREE)
    m = gw.settled()
    assert m["usage_events_admitted_total"] == 0
    # The status handler's own path is exempt in the harness, too.
    assert m["usage_requests_total"]["exempt"] >= len(FREE)
    assert m["usage_requests_total"]["no-key"] == 0


def test_no_other_reading_of_an_exempt_path_passes(gw):
    gw.start()
    for path in METERED:
        a = gw.get(path)
        # 400: httpd doesn't take the target at all.
        assert a.status in (400, 401), (path, a)
        if a.status == 401:
            is_problem(a, 401, "no-key")
    assert gw.trap.seen == []
    assert gw.settled()["usage_events_admitted_total"] == 0


def test_with_a_key_the_same_paths_are_recorded(gw):
    """What reaches the backend without being exempt makes an event."""
    key, _, _ = gw.add_key()
    gw.start()
    reached, sent = 0, 0
    for path in METERED:
        before = len(gw.trap.seen)
        a = gw.get(path, key=key)
        reached += len(gw.trap.seen) - before
        sent += a.status != 400
    events = gw.wait_events(gw.metrics()["usage_events_admitted_total"])
    assert len(events) >= reached > 30
    ids = {e["request_id"] for e in events}
    assert all(s.one("X-Request-Id") in ids for s in gw.trap.seen)
    # The endpoint is the path as it came, not as it was read.
    endpoints = {e["endpoint"] for e in events}
    assert {"/docs/../v1/charge", "/docs/%2e%2e/v1/charge", "//docs/x",
            "/docs/..;/v1/charge"} <= endpoints


@pytest.mark.parametrize("slashes", ["On", "Off", "NoDecode"])
@pytest.mark.parametrize("merge", ["On", "Off"])
def test_settings_that_change_how_httpd_reads_paths(gateway, servers, slashes,
                                                    merge):
    backend = servers.add(TrapHttp()).start()
    gw = gateway(backend=backend, children=1, server_conf=f"""{EXEMPT}
AllowEncodedSlashes {slashes}
MergeSlashes {merge}""")
    gw.start()
    for path in METERED:
        assert gw.get(path).status in (400, 401), path
    assert backend.seen == []
    assert gw.get("/docs/x").status == 200


def test_rewriting_an_exempt_path_does_not_meter_it(gateway, servers):
    """The path that counts is the one that came; an administrator may map an
    exempt one to anything."""
    backend = servers.add(TrapHttp()).start()
    gw = gateway(backend=backend, children=1, server_conf="""
UsageExempt /free/
RewriteEngine On
RewriteRule ^/free/(.*) /v1/$1 [PT]
RewriteRule ^/paid/(.*) /free/$1 [PT]
""")
    gw.start()
    assert gw.get("/free/x").status == 200
    assert backend.seen[-1].target == "/v1/x"
    is_problem(gw.get("/paid/x"), 401, "no-key")


def test_asterisk_and_connect_are_not_exempt(gateway, servers):
    gw = gateway(backend=None, children=1, server_conf="UsageExempt /")
    gw.start()
    assert gw.request("OPTIONS", "*").status == 401
    assert gw.get("/local/hello.txt").status == 200


def test_preflight(gateway, servers):
    backend = servers.add(TrapHttp()).start()
    gw = gateway(backend=backend, children=1,
                 server_conf="UsageExemptPreflight On")
    gw.start()
    cors = [("Origin", "https://app.example"),
            ("Access-Control-Request-Method", "POST")]
    assert gw.request("OPTIONS", "/v1", headers=cors).status == 200
    assert gw.request("OPTIONS", "/v1", headers=cors[:1]).status == 401
    assert gw.request("OPTIONS", "/v1", headers=cors[1:]).status == 401
    assert gw.request("GET", "/v1", headers=cors).status == 401
    assert gw.request("POST", "/v1", headers=cors, body=b"").status == 401
    assert len(backend.seen) == 1
    m = gw.settled()
    assert m["usage_events_admitted_total"] == 0
    assert m["usage_requests_total"]["no-key"] == 4


def test_preflight_needs_a_key_by_default(gateway):
    gw = gateway(children=1)
    gw.start()
    a = gw.request("OPTIONS", "/v1", headers=[
        ("Origin", "https://app.example"),
        ("Access-Control-Request-Method", "POST")])
    is_problem(a, 401, "no-key")
