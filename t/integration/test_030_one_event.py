# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""One request that was let through is one event, whatever httpd makes of it on
the way; and what was not let through is none."""
import asyncio
import time

import pytest

from harness import (ORG, Closed, Gateway, billable, free_port, poll, render,
                     when)

SERVER_CONF = """
AddOutputFilter INCLUDES .shtml
AddType text/html .shtml .html
DirectoryIndex index.html
RewriteEngine On
RewriteRule ^/rewritten/(.*)$ /local/$1 [PT]
RewriteRule ^/to-backend/(.*)$ /status/$1 [PT]
RewriteRule ^/moved$ http://gateway.test/elsewhere [R=302,L]
Alias /local/aliased {htdocs}/local
Redirect permanent /local/gone-to http://gateway.test/there
<Directory "{htdocs}/local">
    Options +Includes +Indexes
</Directory>
<Directory "{htdocs}/local/fallback">
    FallbackResource /local/hello.txt
</Directory>
<Location "/local/with-page">
    ErrorDocument 404 /local/page.html
</Location>
<Location "/local/with-proxied-page">
    ErrorDocument 404 /status/201/page
</Location>
<Location "/local/with-missing-page">
    ErrorDocument 404 /local/no-such-page
</Location>
<Location "/status/500/overridden">
    ProxyErrorOverride On
    ErrorDocument 500 /local/page.html
</Location>
<Location "/local/limited">
    LimitRequestBody 10
</Location>
"""


@pytest.fixture
def site(gateway):
    """A gateway with a site of its own beside the backend: (gw, key)."""
    gw = gateway(modules=["include", "autoindex", "http2"],
                 server_conf=SERVER_CONF)
    local = gw.htdocs / "local"
    (local / "dir").mkdir()
    (local / "list").mkdir()
    (local / "fallback").mkdir()
    (local / "dir" / "index.html").write_text("index\n")
    (local / "page.html").write_text("the page\n")
    (local / "ssi.shtml").write_text(
        '<!--#include virtual="/local/page.html" -->'
        '<!--#include virtual="/status/200/part" -->'
        '<!--#include virtual="/local/dir/" -->\n')
    gw.the_key = gw.key()
    gw.start()
    return gw


def one(gw, answer, method, endpoint, status):
    """Exactly one event, and it is this one."""
    [event] = gw.wait_events(1)
    key, key_id, org = gw.the_key
    assert answer is None or answer.status == status, answer
    if answer is not None and status != 101:
        assert answer.request_id == event["request_id"]
    assert (event["method"], event["endpoint"], event["status_code"]) == (
        method, endpoint, status), event
    assert (event["organization_id"], event["api_key_id"]) == (org, key_id)
    assert event["billable"] is billable(status)
    m = gw.metrics()
    assert m["usage_requests_total"]["allowed"] == 1
    assert gw.lost(m) == {}
    return event


# --- what httpd makes of a request -------------------------------------------

@pytest.mark.parametrize("target, status, text", [
    ("/local/hello.txt", 200, b"hello\n"),
    ("/local/none", 404, b"not found"),
    ("/local/dir/", 200, b"index\n"),
    ("/local/dir", 301, b"/local/dir/"),
    ("/local/list/", 200, b"Index of"),
    ("/local/fallback/x", 200, b"hello\n"),
    ("/rewritten/hello.txt", 200, b"hello\n"),
    ("/rewritten/dir/", 200, b"index\n"),
    ("/to-backend/404/x", 404, b"status 404"),
    ("/moved", 302, b"elsewhere"),
    ("/local/aliased/hello.txt", 200, b"hello\n"),
    ("/local/gone-to/x", 301, b"there/x"),
    ("/local/with-page/x", 404, b"the page\n"),
    ("/local/with-proxied-page/x", 201, b"status 201"),
    ("/local/with-missing-page/x", 404, b"not found"),
    ("/status/500/overridden/x", 500, b"the page\n"),
    ("/status/503/x?q=1", 503, b"status 503"),
    ("/v1/%E2%82%AC/a%2Db?x=/y", 200, b"ok\n"),
    ("//double//slash", 200, b"ok\n"),
])
def test_one_event_of(site, target, status, text):
    answer = site.get(target, key=site.the_key[0])
    assert text in answer.body or text in (answer.header("Location")
                                           or "").encode()
    one(site, answer, "GET", target.split("?")[0], status)


def test_one_event_of_a_page_of_parts(site, backend):
    """Subrequests are of the request that needs them, in its name, and the
    backend sees the key no more in them."""
    answer = site.get("/local/ssi.shtml", key=site.the_key[0])
    assert answer.body == b"the page\nstatus 200\nindex\n\n"
    event = one(site, answer, "GET", "/local/ssi.shtml", 200)
    [seen] = backend.wait_requests(1)
    assert seen["authorization"] == "" and seen["org"] == ORG
    assert seen["id"] == event["request_id"]


@pytest.mark.parametrize("method, target, status", [
    ("HEAD", "/status/200/x", 200), ("HEAD", "/local/hello.txt", 200),
    ("HEAD", "/status/503/x", 503), ("OPTIONS", "/status/204/x", 204),
    ("OPTIONS", "/local/hello.txt", 200), ("OPTIONS", "*", 200),
    ("BREW", "/status/200/x", 200), ("BREW", "/local/hello.txt", 501),
    ("get", "/status/200/x", 400), ("DELETE", "/status/204/x", 204),
    ("PROPFIND", "/status/200/x", 200), ("TRACE", "/local/hello.txt", 200),
    ("X" * 60, "/v1/x", 200), ("M-SEARCH", "/v1/x", 200),
])
def test_one_event_of_method(site, method, target, status):
    answer = site.request(method, target, key=site.the_key[0],
                          show_keys=method == "TRACE")
    one(site, answer, method, target, status)


def test_one_event_each_on_a_kept_connection(site, backend):
    """Ten requests, and then a long silence, which is none."""
    with site.conn() as c:
        ids = [c.request("GET", f"/status/404/{i}", {
            "X-API-Key": site.the_key[0]}).request_id for i in range(10)]
        assert len(site.wait_events(10)) == 10
        assert [r["id"] for r in backend.wait_requests(10)] == ids
    assert {e["request_id"] for e in site.wait_events(10)} == set(ids)


@pytest.mark.parametrize("keep", [False, True])
def test_one_event_of_http_1_0(site, keep):
    with site.conn() as c:
        answer = c.request(
            "GET", "/local/hello.txt", version="1.0", host=None,
            headers=[("Authorization", f"Bearer {site.the_key[0]}")]
            + [("Connection", "keep-alive")] * keep)
        one(site, answer, "GET", "/local/hello.txt", 200)
        assert c.at_end(timeout=0.3) is not keep


def test_one_event_of_an_absolute_target(site, backend):
    answer = site.get("http://gateway.test/status/404/abs?x",
                      key=site.the_key[0])
    one(site, answer, "GET", "/status/404/abs", 404)


def test_one_event_of_an_absolute_target_without_path(site):
    answer = site.get("http://gateway.test", key=site.the_key[0])
    one(site, answer, "GET", "/", 200)


# --- uploads -----------------------------------------------------------------

def test_one_event_of_an_upload(site, backend):
    answer = site.request("PUT", "/status/201/up", key=site.the_key[0],
                          body=b"x" * 3000000)
    one(site, answer, "PUT", "/status/201/up", 201)


def test_one_event_of_an_upload_that_the_backend_refuses(site):
    answer = site.request("POST", "/small/up", key=site.the_key[0],
                          body=b"x" * 100000)
    one(site, answer, "POST", "/small/up", 413)


def test_one_event_of_an_upload_refused_before_it_is_read(gateway, odd):
    gw = gateway(backend=odd)
    gw.the_key = gw.key()
    gw.start()
    with gw.conn() as c:
        # The backend closes before it has read the 20 MB, and httpd says so
        # with 413 or 502, in the middle of our sending.
        try:
            c.send(render("POST", "/refuse", {
                "Authorization": f"Bearer {gw.the_key[0]}"},
                body=b"x" * 20000000))
            answer = c.answer()
        except (Closed, ConnectionError):
            answer = None
    status = answer.status if answer else gw.wait_events(1)[0]["status_code"]
    assert status in (413, 502)
    one(gw, answer, "POST", "/refuse", status)


def test_one_event_of_an_upload_that_httpd_refuses(site):
    answer = site.request("POST", "/local/limited/x", key=site.the_key[0],
                          body=b"x" * 11)
    one(site, answer, "POST", "/local/limited/x", answer.status)
    assert 400 <= answer.status < 500


@pytest.mark.parametrize("backend_says", ["now", "never"])
def test_one_event_with_expect_continue(gateway, odd, backend_says):
    gw = gateway(backend=odd)
    gw.the_key = gw.key()
    gw.start()
    path = "/echo" if backend_says == "now" else "/refuse"
    with gw.conn() as c:
        c.send(render("POST", path, {
            "Authorization": f"Bearer {gw.the_key[0]}",
            "Expect": "100-continue", "Content-Length": 5}))
        answer = c.answer(interim=True)
        if answer.status == 100:
            assert answer.all("X-Request-Id") == []
            c.send(b"hello")
            answer = c.answer()
    if backend_says == "now":
        assert answer.json()["body"] == 5
    one(gw, answer, "POST", path,
        200 if backend_says == "now" else answer.status)
    assert backend_says == "now" or answer.status in (413, 502)


# --- backends and clients in trouble -----------------------------------------

def test_one_event_with_the_backend_down(gateway):
    gw = gateway(backend=f"http://127.0.0.1:{free_port()}")
    gw.the_key = gw.key()
    gw.start()
    one(gw, gw.get("/v1/x", key=gw.the_key[0]), "GET", "/v1/x", 503)


def test_one_event_with_the_backend_down_and_a_page_for_it(gateway):
    gw = gateway(backend=f"http://127.0.0.1:{free_port()}",
                 server_conf="ErrorDocument 503 /local/hello.txt")
    gw.the_key = gw.key()
    gw.start()
    answer = gw.get("/v1/x", key=gw.the_key[0])
    assert answer.body == b"hello\n"
    one(gw, answer, "GET", "/v1/x", 503)


@pytest.mark.parametrize("path, statuses, at_least", [
    ("/hang", (502, 504), 1000), ("/drop", (502,), 0)])
def test_one_event_with_a_broken_backend(gateway, odd, path, statuses,
                                         at_least):
    gw = gateway(backend=odd, server_conf="ProxyTimeout 1")
    gw.the_key = gw.key()
    gw.start()
    begin = time.monotonic()
    answer = gw.get(path, key=gw.the_key[0])
    took = (time.monotonic() - begin) * 1000
    assert answer.status in statuses
    event = one(gw, answer, "GET", path, answer.status)
    assert at_least <= event["response_time_ms"] <= took + 1


def test_one_event_with_half_an_answer(gateway, odd):
    gw = gateway(backend=odd)
    gw.the_key = gw.key()
    gw.start()
    with gw.conn() as c:
        c.send(render("GET", "/half", {
            "Authorization": f"Bearer {gw.the_key[0]}"}))
        answer = c.head()
        assert c.at_end() or len(c._rest()) < 1000
    one(gw, answer, "GET", "/half", 200)


def test_the_time_of_a_response(gateway, odd):
    """As long as the client waited, and not longer."""
    gw = gateway(backend=odd)
    gw.the_key = gw.key()
    gw.start()
    begin = time.time()
    answer = gw.get("/slow/300", key=gw.the_key[0])
    took = (time.time() - begin) * 1000
    event = one(gw, answer, "GET", "/slow/300", 200)
    assert 300 <= event["response_time_ms"] <= took
    assert begin - 0.001 <= when(event["timestamp"]) <= begin + took / 1000 \
        - event["response_time_ms"] / 1000 + 0.001


def test_one_event_of_a_client_that_leaves_in_the_middle(site):
    with site.conn(rcvbuf=4096) as c:
        c.send(render("GET", "/size/10m", {
            "Authorization": f"Bearer {site.the_key[0]}"}))
        answer = c.head()
        c.reset()
    one(site, answer, "GET", "/size/10m", 200)



def test_one_event_of_a_client_that_leaves_before_the_answer(gateway, odd):
    gw = gateway(backend=odd)
    gw.the_key = gw.key()
    gw.start()
    with gw.conn() as c:
        c.send(render("GET", "/slow/300", {
            "Authorization": f"Bearer {gw.the_key[0]}"}))
        odd_has_it = time.monotonic() + 0.1
        poll(lambda: time.monotonic() > odd_has_it)
        c.reset()
    one(gw, None, "GET", "/slow/300", 200)


def test_one_event_of_an_upload_that_the_client_gives_up(site):
    with site.conn() as c:
        c.send(render("POST", "/v1/up", {
            "Authorization": f"Bearer {site.the_key[0]}",
            "Content-Length": 1000000}, body=b"only this"))
        poll(lambda: site.metrics()["usage_events_admitted_total"] == 1)
        c.reset()
    [event] = site.wait_events(1)
    one(site, None, "POST", "/v1/up", event["status_code"])
    assert 400 <= event["status_code"] < 600


def test_one_event_of_a_slow_reader(site):
    with site.conn(rcvbuf=4096) as c:
        c.send(render("GET", "/size/10m", {
            "Authorization": f"Bearer {site.the_key[0]}"}))
        answer = c.head()
        until = time.monotonic() + 0.5
        poll(lambda: time.monotonic() > until)
        assert site.events() == []
        assert len(c._take(10 << 20)) == 10 << 20
    event = one(site, answer, "GET", "/size/10m", 200)
    assert event["response_time_ms"] >= 400


def memory(pid):
    """The most that a process ever had in memory, in MB."""
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        for line in f:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024


def test_one_event_of_a_gigabyte(site):
    before = {pid: memory(pid) for pid in site.children()}
    with site.conn(timeout=60) as c:
        c.send(render("GET", "/size/1g", {
            "Authorization": f"Bearer {site.the_key[0]}"}))
        answer = c.head()
        got, room = len(c.buf), bytearray(1 << 20)
        while got < 1 << 30:
            n = c.sock.recv_into(room)
            assert n > 0
            got += n
        assert got == 1 << 30
    one(site, answer, "GET", "/size/1g", 200)
    assert max(memory(pid) - before[pid] for pid in before) < 40


# --- WebSockets --------------------------------------------------------------

WS_CONF = {
    "proxy_http": "ProxyPass /ws/ http://127.0.0.1:{port}/ upgrade=websocket",
    "proxy_wstunnel": "ProxyPass /ws/ ws://127.0.0.1:{port}/"}


@pytest.mark.parametrize("how", sorted(WS_CONF))
@pytest.mark.parametrize("end", ["client", "server", "reset"])
def test_one_event_of_a_websocket(servers, how, end):
    websockets = pytest.importorskip("websockets")
    import harness
    ws = servers.add(harness.WebSockets()).start()
    gw = servers.add(Gateway(
        f"gateway-ws-{how}-{end}", modules=[how],
        server_conf=WS_CONF[how].replace("{port}", str(ws.port))))
    gw.the_key = gw.key()
    gw.start()

    async def talk():
        async with websockets.connect(
                f"ws://127.0.0.1:{gw.port}/ws/chat?room=1",
                extra_headers={"Authorization": f"Bearer {gw.the_key[0]}"}
                ) as c:
            for n in range(5):
                await c.send(f"message {n}")
                assert await c.recv() == f"message {n}"
            await asyncio.sleep(0.7)
            assert gw.events() == [], "recorded before its end"
            if end == "server":
                await c.send("bye")
                await c.wait_closed()
            elif end == "reset":
                c.transport.abort()
            return dict(c.response_headers)

    begin = time.monotonic()
    fields = asyncio.run(talk())
    took = (time.monotonic() - begin) * 1000
    assert "x-request-id" not in {n.lower() for n in fields}
    event = one(gw, None, "GET", "/ws/chat", 101)
    assert event["billable"] is True
    assert 700 <= event["response_time_ms"] <= took + 500
    [seen] = ws.requests()
    assert seen["uri"] == "/chat?room=1" and seen["org"] == ORG
    assert seen["id"] == event["request_id"] and seen["authorization"] == ""


def test_one_event_of_a_websocket_that_the_backend_refuses(site):
    answer = site.get("/status/403/ws", key=site.the_key[0], headers={
        "Connection": "Upgrade", "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="})
    one(site, answer, "GET", "/status/403/ws", 403)


# --- no event ----------------------------------------------------------------

def none(gw, backend, *verdicts, seen=0):
    """No event, and these decisions and no others."""
    m = gw.settled()
    gw.stop()
    assert gw.events() == []
    assert len(backend.requests()) == seen
    assert m["usage_events_admitted_total"] == 0
    assert m["usage_requests_total"]["allowed"] == 0
    for verdict in verdicts:
        assert m["usage_requests_total"][verdict] == 1, m


@pytest.fixture
def gate(gateway):
    gw = gateway(modules=["reqtimeout"], server_conf="""
UsageExempt /free/ /open
RequestReadTimeout header=1
LimitRequestFieldSize 1000
LimitRequestLine 1000
""")
    gw.the_key = gw.key()
    gw.start()
    return gw


@pytest.mark.parametrize("verdict, headers", [
    ("no-key", {}),
    ("no-key", {"Authorization": "Basic dXNlcjpwYXNz"}),
    ("bad-key", {"Authorization": "Bearer sk_live_" + "0" * 36}),
    ("bad-key", {"X-API-Key": "sk_test_nobody"}),
    ("bad-key", {"X-API-Key": ""}),
    ("two-keys", {"Authorization": "Bearer a, Bearer b"}),
])
def test_no_event_of_who_is_turned_away(gate, backend, verdict, headers):
    answer = gate.get("/v1/x", headers=headers)
    assert answer.status == (400 if verdict == "two-keys" else 401)
    assert answer.request_id
    none(gate, backend, verdict)


def test_no_event_of_a_revoked_or_expired_key(gateway, backend):
    gw = gateway()
    revoked = gw.key(revoked="2025-01-01T00:00:00Z")[0]
    expired = gw.key(expires="2025-01-01T00:00:00Z")[0]
    gw.start()
    assert gw.get("/v1/x", key=revoked).status == 401
    assert gw.get("/v1/x", key=expired).status == 403
    none(gw, backend, "bad-key", "expired-key")


@pytest.mark.parametrize("path", ["/free/x", "/free/", "/open"])
@pytest.mark.parametrize("with_key", [False, True])
def test_no_event_of_an_exempt_path(gate, backend, path, with_key):
    answer = gate.get(path, key=gate.the_key[0] if with_key else None)
    assert answer.status == 200 and answer.request_id
    none(gate, backend, seen=1)


@pytest.mark.parametrize("raw, status", [
    (b"GARBAGE\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    (b"GET /v1/x FTP/1.0\r\nHost: a\r\n\r\n", 400),
    (b"GET  /v1/x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /v1/x HTTP/1.1\r\n\r\n", 400),
    (b"GET /v1/x HTTP/1.1\r\nHost: a\r\nNo colon\r\n\r\n", 400),
    (b"GET /v1/x HTTP/1.1\r\nHost: a\r\nBad\x01Name: x\r\n\r\n", 400),
    (b"GET /v1/x HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2000 + b"\r\n\r\n", 400),
    (b"GET /" + b"x" * 2000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    (b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400),
])
def test_no_event_of_what_cannot_be_parsed(gate, backend, raw, status):
    """Even with a good key in it, and no X-Request-Id in the answer."""
    lines = raw.split(b"\r\n")
    if len(lines) > 3:
        lines[1:1] = [b"X-API-Key: " + gate.the_key[0].encode()]
    with gate.conn() as c:
        c.send(b"\r\n".join(lines))
        answer = c.answer()
    gate.no_key_in(answer)
    assert answer.status == status, answer
    assert answer.all("X-Request-Id") == []
    none(gate, backend)


def test_no_event_of_what_never_became_a_request(gate, backend):
    """A connection without a request, and half of one that is given up (408)
    or cut off."""
    head = (f"GET /v1/x HTTP/1.1\r\nHost: a\r\n"
            f"X-API-Key: {gate.the_key[0]}\r\n").encode()
    with gate.conn(), gate.conn() as half, gate.conn() as cut:
        half.send(head)
        cut.send(head)
        cut.reset()
        answer = half.answer()
        assert answer.status == 408 and answer.all("X-Request-Id") == []
    none(gate, backend)
