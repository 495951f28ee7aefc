# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Whoever answers a request sees who calls, by our headers alone, and never the
credential: over every protocol of mod_proxy, and in local handlers."""
import pytest

import harness
from backends.trap_base import OWN_ID
from harness import ORG, ORG2
from trap_helpers import EVIL, ROUTES, http2, our_id, spoofs

NAMES = ("X-Organization-Id", "X-Api-Key-Id", "X-Request-Id")


@pytest.fixture(params=list(ROUTES))
def route(request, gateway, servers):
    def make(server_conf="", **kw):
        return ROUTES[request.param](gateway, servers, server_conf, **kw)
    make.name = request.param
    make.tunnel = request.param.startswith("ws")
    return make


def assert_told(seen, key_id, org):
    assert seen.values("X-Organization-Id") == [org]
    assert seen.values("X-Api-Key-Id") == [key_id]
    assert len(seen.values("X-Request-Id")) == 1
    return seen.one("X-Request-Id")


def test_backend_is_told_who_calls_and_never_the_key(route):
    r = route()
    key, key_id, org = r.gw.add_key()
    r.gw.start()
    bare = [("X-API-Key", key)]
    asked = [r.ask(key=key), r.ask(headers=bare)]
    events = {e["request_id"]: e for e in r.gw.wait_events(2)}
    for a, seen in asked:
        assert a.status == (101 if route.tunnel else 200)
        told = assert_told(seen, key_id, org)
        event = events.pop(told)
        assert not seen.holds(key) and not seen.holds(key[12:])
        assert seen.values("X-API-Key") == []
        assert event["organization_id"] == org
        assert event["api_key_id"] == key_id
        assert event["status_code"] == a.status
        if not route.tunnel:  # mod_proxy hands a 101 through as it is
            assert our_id(a) == told


def test_spoofed_identity_never_arrives(route):
    """In every spelling, more than once, and together with a good key."""
    r = route()
    key, key_id, org = r.gw.add_key()
    r.gw.start()
    _, seen = r.ask(key=key, headers=spoofs() + spoofs())
    assert not seen.holds(EVIL), seen.fields
    told = assert_told(seen, key_id, org)
    assert r.gw.wait_events(1)[0]["request_id"] == told


def test_spoofed_identity_never_arrives_without_a_key(route):
    r = route("UsageKeyRequired Off\nUsageExempt /ask/free /ws/ask/free")
    key, _, _ = r.gw.add_key()
    r.gw.start()
    for path in ("/ask", "/ask/free"):
        a, seen = r.ask(path, headers=spoofs())
        assert not seen.holds(EVIL), seen.fields
        assert seen.values("X-Organization-Id") == []
        assert seen.values("X-Api-Key-Id") == []
        if not route.tunnel:
            assert seen.one("X-Request-Id") == our_id(a)
    # An exempt request may carry a key; it is of no use to the backend.
    _, seen = r.ask("/ask/free", key=key, headers=spoofs())
    assert not seen.holds(EVIL) and not seen.holds(key[12:])
    assert r.gw.settled()["usage_events_admitted_total"] == 0


def test_connection_header_strips_nothing_of_ours(route):
    r = route()
    key, key_id, org = r.gw.add_key()
    r.gw.start()
    named = ", ".join(NAMES)
    for value in (named, named.lower(), "close, " + named.upper(),
                  "X-Organization-Id", "x-api-key-id , X-Request-Id"):
        a, seen = r.ask(key=key, headers=[("Connection", value)] + spoofs())
        assert_told(seen, key_id, org)
        assert not seen.holds(EVIL)
    r.gw.wait_events(5)


def test_other_fields_pass_unchanged(route):
    """The edited copy of the fields lacks and adds nothing else."""
    sent = [("Cookie", "a=1"), ("X-Custom", "one"), ("X-Custom", "two"),
            ("Accept", "text/plain"), ("User-Agent", "trap/1"),
            ("X-Organization", "mine"), ("X-Request-Identity", "mine"),
            ("X-Api-Key-Identity", "mine")]
    r = route()
    key, _, _ = r.gw.add_key()
    r.gw.start()
    _, seen = r.ask(key=key, headers=sent)
    for name in dict(sent):
        values = ", ".join(v for n, v in sent if n == name)
        assert ", ".join(seen.values(name)) == values, name


def test_basic_authorization_passes(route):
    """Another scheme than Bearer is no credential of ours."""
    r = route()
    key, key_id, org = r.gw.add_key()
    r.gw.start()
    basic = "Basic dXNlcjpwYXNzd29yZA=="
    _, seen = r.ask(headers=[("Authorization", basic), ("X-API-Key", key)])
    assert seen.values("Authorization") == [basic]
    assert not seen.holds(key[12:])
    assert_told(seen, key_id, org)


def test_key_hide_off_shows_the_key(route):
    r = route("UsageKeyHide Off")
    key, key_id, org = r.gw.add_key()
    r.gw.start()
    _, seen = r.ask(key=key, show_keys=True)
    assert seen.values("Authorization") == [f"Bearer {key}"]
    assert_told(seen, key_id, org)
    _, seen = r.ask(headers=[("X-API-Key", key)], show_keys=True)
    assert seen.values("X-API-Key") == [key]


def test_access_log_sees_what_the_client_sent(route):
    """headers_in is whole again when a request is logged."""
    log = harness.secret_file("access-log")  # it holds a key, as it should
    r = route(f'LogFormat "%{{Authorization}}i|%{{X-Organization-Id}}i|'
              f'%{{X-Custom}}i" seen\nCustomLog {log} seen\n')
    key, _, _ = r.gw.add_key()
    r.gw.start()
    r.ask(key=key, headers=[("X-Organization-Id", EVIL), ("X-Custom", "c")])
    want = f"Bearer {key}|{EVIL}|c\n"
    harness.poll(lambda: log.read_text() == want,
                 what=f"the log line, not {log.read_text()!r}")


def test_two_customers_on_one_connection(route):
    """Nothing of one request is left for the next."""
    r = route()
    one, two = r.gw.add_key(org=ORG), r.gw.add_key(org=ORG2)
    r.gw.start()
    for key, key_id, org in (one, two, one, two):
        _, seen = r.ask(key=key)
        assert_told(seen, key_id, org)
    assert sorted(e["organization_id"] for e in r.gw.wait_events(4)) == \
        [ORG, ORG, ORG2, ORG2]


def test_backends_own_request_id_never_goes_out(route):
    if route.tunnel:
        route = Untunneled(route)
    r = route()
    key, _, _ = r.gw.add_key()
    r.gw.start()
    a, _ = r.ask(key=key)
    assert our_id(a) != OWN_ID  # and there is only one of them
    assert OWN_ID.encode() not in a.head


class Untunneled:
    """An answer of a WebSocket's backend that is no 101."""

    def __init__(self, make):
        self.make = make

    def __call__(self):
        r = self.make()
        r.backend.websocket = lambda sock: sock.sendall(
            f"HTTP/1.1 403 No\r\nX-Request-Id: {OWN_ID}\r\n"
            "Content-Length: 0\r\n\r\n".encode())
        return r


@pytest.mark.parametrize("name", ["http", "h2c", "fcgi", "cgi", "ajp"])
def test_requests_over_http2(gateway, servers, name):
    """A stream is a connection of its own to httpd's hooks."""
    r = ROUTES[name](gateway, servers, "Protocols h2c http/1.1")
    r.gw.modules += ("http2",)
    key, key_id, org = r.gw.add_key()
    r.gw.start()
    with http2(r.gw) as client:
        r.gw.get = lambda path, key=None, headers=(): client.request(
            "GET", path, [("authorization", f"Bearer {key}"), *headers])
        for _ in range(3):
            a, seen = r.ask(key=key, headers=spoofs())
            assert assert_told(seen, key_id, org) == our_id(a)
            assert not seen.holds(EVIL) and not seen.holds(key[12:])
    del r.gw.get
    r.gw.wait_events(3)


def test_prefork_and_worker_do_the_same(gateway, servers, mpm):
    for name in ("http", "fcgi"):
        r = ROUTES[name](gateway, servers, mpm=mpm)
        key, key_id, org = r.gw.add_key()
        r.gw.start()
        _, seen = r.ask(key=key, headers=spoofs())
        assert_told(seen, key_id, org)
        assert not seen.holds(EVIL)


def test_mod_cgi_under_prefork(gateway, servers):
    class ForkedCgi(ROUTES["cgi"]):
        modules = ("cgi",)
        conf = ROUTES["cgi"].conf.replace("ScriptSock {dir}/cgisock\n", "")

    r = ForkedCgi(gateway, servers, mpm="prefork")
    key, key_id, org = r.gw.add_key()
    r.gw.start()
    a, seen = r.ask(key=key, headers=spoofs())
    assert assert_told(seen, key_id, org) == our_id(a)
    assert not seen.holds(EVIL) and not seen.holds(key[12:])
