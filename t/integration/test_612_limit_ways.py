# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""One request takes one token, whatever httpd makes of it on the way, and who
is not limited takes none."""
import asyncio
import fcntl
import subprocess

import pytest

from harness import WebSockets, free_port, poll
from limit_helpers import LOCAL, Limit, counted, is_over, left, limits, over
from trap_helpers import ROUTES, TrapHttp, http2, is_problem

MANY = "UsageRateLimit 1/h burst=1000 by=org\n"

SITE = MANY + """
AddOutputFilter INCLUDES .shtml
AddType text/html .shtml .html
DirectoryIndex index.html
RewriteEngine On
RewriteRule ^/rewritten/(.*)$ /local/$1 [PT]
RewriteRule ^/to-backend/(.*)$ /status/$1 [PT]
RewriteRule ^/moved$ http://gateway.test/elsewhere [R=302,L]
RewriteRule ^/forbidden$ - [F]
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
<Location "/local/with-page-elsewhere">
    ErrorDocument 404 http://elsewhere.test/
</Location>
<Location "/status/500/overridden">
    ProxyErrorOverride On
    ErrorDocument 500 /local/page.html
</Location>
<Location "/local/small">
    LimitRequestBody 10
</Location>
"""

TARGETS = [
    (LOCAL, 200), ("/local/none", 404), ("/local/dir/", 200),
    ("/local/dir", 301), ("/local/list/", 200), ("/local/fallback/x", 200),
    ("/rewritten/hello.txt", 200), ("/rewritten/dir/", 200),
    ("/to-backend/404/x", 404), ("/moved", 302), ("/forbidden", 403),
    ("/local/with-page/x", 404), ("/local/with-proxied-page/x", 201),
    ("/local/with-missing-page/x", 404), ("/local/with-page-elsewhere/x", 302),
    ("/local/ssi.shtml", 200), ("/status/500/overridden/x", 500),
    ("/status/200/x", 200), ("/status/204/x", 204), ("/status/304/x", 304),
    ("/status/403/x", 403), ("/status/429/x", 429), ("/status/503/x", 503),
    ("/down/x", 503), ("/v1/%E2%82%AC/a%2Db?x=/y", 200), ("//double", 200)]


@pytest.fixture
def site(gateway):
    """A gateway with a site of its own beside the backend."""
    gw = gateway(modules=["include", "autoindex", "http2"], children=2,
                 server_conf="Protocols h2c http/1.1\n"
                 f"ProxyPass /down/ http://127.0.0.1:{free_port()}/\n" + SITE)
    local = gw.htdocs / "local"
    for name in ("dir", "list", "fallback"):
        (local / name).mkdir()
    (local / "dir" / "index.html").write_text("index\n")
    (local / "page.html").write_text("the page\n")
    (local / "ssi.shtml").write_text(
        '<!--#include virtual="/local/page.html" -->'
        '<!--#include virtual="/status/200/part" -->'
        '<!--#include virtual="/local/dir/" -->\n')
    gw.known = gw.add_key()[0]
    gw.start()
    return gw


def test_one_token_of_each(site):
    """Of redirects within httpd and subrequests, too; and each answer tells
    once what is left."""
    for n, (target, status) in enumerate(TARGETS):
        a = site.get(target, key=site.known)
        assert (a.status, left(a)) == (status, 999 - n), (target, a)
        if target.endswith(".shtml"):
            assert a.body == b"the page\nstatus 200\nindex\n\n"
    site.wait_events(len(TARGETS))
    assert counted(site) == {"allowed": len(TARGETS)}


def test_one_token_of_each_over_http2(site):
    with http2(site) as client:
        for n, (target, status) in enumerate(TARGETS):
            a = client.request("GET", target, [("x-api-key", site.known)])
            assert (a.status, left(a)) == (status, 999 - n), (target, a)
    site.wait_events(len(TARGETS))


@pytest.mark.parametrize("target", ["/status/200/x", LOCAL, "/small/x"])
def test_one_token_of_each_method(site, target):
    n = 1000
    for method in ("HEAD", "OPTIONS", "POST", "PUT", "DELETE", "BREW",
                   "PROPFIND", "TRACE"):
        body = b"x" * 3000 if method in ("POST", "PUT") else None
        a = site.request(method, target, key=site.known, body=body,
                         show_keys=True)
        n -= 1
        assert left(a) == n, (method, a)
    a = site.request("OPTIONS", "*", key=site.known)
    assert left(a) == n - 1
    site.wait_events(9)


def test_one_token_of_a_request_that_httpd_refuses(site):
    a = site.request("POST", "/local/small/x", key=site.known, body=b"x" * 11)
    assert 400 <= a.status < 500 and left(a) == 999
    assert left(site.get(LOCAL, key=site.known)) == 998


def test_one_token_of_each_on_a_connection(site):
    with site.conn() as c:
        c.send(b"GET %s HTTP/1.1\r\nHost: x\r\nX-API-Key: %s\r\n\r\n"
               % (LOCAL.encode(), site.known.encode()) * 50)
        assert [left(c.answer()) for _ in range(50)] == [*range(999, 949, -1)]


def test_no_token_of_what_cannot_be_parsed(site):
    with site.conn() as c:
        c.send(b"GET / HTTP/1.1\r\nX-API-Key: %s\r\n\r\n"
               % site.known.encode())
        a = c.answer()
        assert a.status == 400 and limits(a) == []
    assert left(site.get(LOCAL, key=site.known)) == 999


def test_no_token_of_what_cannot_be_recorded(gateway):
    """UsageOverflow refuse: for want of room for its event a request is turned
    away before it is charged."""
    gw = gateway(backend=None, children=1, server_conf=MANY
                 + "UsageOverflow refuse\nUsageJournalSlots 64\n"
                 "UsageKafkaBufferSize 64\n")
    key = gw.add_key()[0]
    gw.start()
    with open(gw.event_file, "rb") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        answers = [gw.get(LOCAL, key=key) for _ in range(90)]
    served = [left(a) for a in answers if a.status == 200]
    assert served == [*range(999, 999 - len(served), -1)]
    for a in answers[len(served):]:
        is_problem(a, 503, "unavailable")
        assert limits(a) == []
    assert 0 < len(served) <= 64
    gw.wait_events(len(served))
    assert left(gw.get(LOCAL, key=key)) == 999 - len(served)


# --- other protocols ----------------------------------------------------------

def test_one_token_of_a_websocket(gateway, servers):
    route = ROUTES["ws"](gateway, servers, "UsageRateLimit 1/h burst=2\n",
                         children=1)
    gw = route.gw
    key = gw.add_key()[0]
    gw.start()
    a, _ = route.ask(key=key)
    assert a.status == 101 and limits(a) == []
    assert left(gw.get(LOCAL, key=key)) == 0
    a = gw.get("/ws/ask", key=key, headers={
        "Connection": "Upgrade", "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="})
    is_over(a, "org")
    gw.wait_events(2)


def test_a_websocket_takes_no_token_while_it_lasts(servers, gateway):
    websockets = pytest.importorskip("websockets")
    ws = servers.add(WebSockets()).start()
    gw = gateway(backend=None, children=1, server_conf=MANY
                 + f"ProxyPass /ws/ http://127.0.0.1:{ws.port}/ "
                 "upgrade=websocket\n")
    key = gw.add_key()[0]
    gw.start()

    async def talk():
        async with websockets.connect(
                f"ws://127.0.0.1:{gw.port}/ws/chat",
                extra_headers={"Authorization": f"Bearer {key}"}) as c:
            for n in range(20):
                await c.send(f"message {n}")
                assert await c.recv() == f"message {n}"

    asyncio.run(talk())
    assert left(gw.get(LOCAL, key=key)) == 998
    gw.wait_events(2)


def curl(gw, target, *args):
    """Asks for Upgrade: h2c. Returns protocol and status."""
    done = subprocess.run(
        ["curl", "-s", "-o", "/dev/null", "--max-time", "10", "--http2", "-w",
         "%{http_version} %{http_code}", *args, gw.url + target],
        capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def upgrading(gateway):
    """Makes a gateway that takes Upgrade: h2c; its /denied comes before."""
    def make(*rates, conf=""):
        gw = gateway(modules=["http2"], children=1, server_conf=conf
                     + "".join(f"UsageRateLimit {r}\n" for r in rates)
                     + "Protocols h2c http/1.1\n"
                     '<Location "/denied">\nRequire all denied\n</Location>\n')
        gw.known = gw.add_key()[0]
        gw.start()
        return gw
    return make


def test_one_token_of_an_upgrade_to_http2(upgrading):
    """The request comes twice: over HTTP/1.1, answered by 101, and as the first
    stream."""
    gw = upgrading("1/h burst=3")
    key = f"X-API-Key: {gw.known}"
    assert curl(gw, "/v1", "-H", key) == "2 200"
    assert curl(gw, "/v1", "-H", key) == "2 200"
    assert left(gw.get("/v1", key=gw.known)) == 0
    assert curl(gw, "/v1", "-H", key) == "1.1 429"
    gw.wait_events(3)
    assert counted(gw) == {"allowed": 3, "rate-limit": 1}
    assert over(gw) == {"org": 1}


def charged(gw, **n):
    """A request that may switch and didn't is charged when it is logged, and
    then counted: wait for these decisions."""
    poll(lambda: counted(gw) == n, what=f"{n}")


def test_one_token_of_an_upgrade_that_does_not_happen(upgrading):
    gw = upgrading("1/h burst=3", "1/h burst=9 by=ip")
    key = f"X-API-Key: {gw.known}"
    for n in (1, 2):
        assert curl(gw, "/denied", "-H", key) == "1.1 403"
        charged(gw, allowed=n)
    assert [x.left for x in limits(gw.get("/v1", key=gw.known))] == [0, 6]
    for _ in range(3):
        assert curl(gw, "/denied", "-H", key) == "1.1 429"
    gw.wait_events(3)
    assert [x.left for x in limits(gw.get("/v1", key=gw.known))] == [0, 6]
    assert counted(gw) == {"allowed": 3, "rate-limit": 4}
    assert over(gw) == {"org": 4}


def test_one_token_of_an_upgrade_without_a_key(upgrading):
    gw = upgrading("1/h burst=3 by=ip", conf="UsageKeyRequired Off\n")
    assert curl(gw, "/denied") == "1.1 403"
    charged(gw, anonymous=1)
    assert curl(gw, "/v1") == "2 200"
    assert left(gw.get("/v1")) == 0
    assert curl(gw, "/denied") == "1.1 429"
    assert curl(gw, "/v1") == "1.1 429"
    assert counted(gw) == {"anonymous": 3, "rate-limit": 2}


def test_a_dry_run_counts_an_upgrade_once(upgrading):
    gw = upgrading("1/h", conf="UsageLimitDryRun On\n")
    key = f"X-API-Key: {gw.known}"
    for target, answer in (("/v1", "2 200"), ("/v1", "2 200"),
                           ("/denied", "1.1 403")):
        assert curl(gw, target, "-H", key) == answer
    gw.wait_events(3)
    assert over(gw) == {"org": 2}
    assert gw.metrics()["usage_limit_dry_run_total"] == 2


# --- who takes none -----------------------------------------------------------

ALL = """
UsageRateLimit 1/h burst=2 by=ip
UsageRateLimit 1/h burst=2 by=key
UsageRateLimit 1/h burst=2 by=org
"""


def test_exempt_paths_take_no_token(gateway):
    gw = gateway(children=1, server_conf=ALL + "UsageExempt /free/ /open\n")
    key = gw.add_key()[0]
    gw.start()
    for _ in range(5):
        for target in ("/free/x", "/open", "/usage-status"):
            for one in (None, key):
                a = gw.get(target, key=one)
                assert a.status == 200 and limits(a) == []
    assert gw.metrics()["usage_limit_subjects"] == 0
    assert {x.left for x in limits(gw.get("/v1", key=key))} == {1}


def test_preflights_take_no_token(gateway):
    gw = gateway(children=1, server_conf=ALL + "UsageExemptPreflight On\n")
    key = gw.add_key()[0]
    gw.start()
    fields = {"Origin": "https://app.test",
              "Access-Control-Request-Method": "PUT"}
    for _ in range(5):
        a = gw.request("OPTIONS", "/v1", headers=fields)
        assert a.status == 200 and limits(a) == []
    assert gw.metrics()["usage_limit_subjects"] == 0
    a = gw.request("OPTIONS", "/v1", key=key)  # no preflight
    assert {x.left for x in limits(a)} == {1}


def test_where_events_are_off_nobody_is_limited(gateway):
    gw = gateway(children=1, server_conf=ALL,
                 vhost_conf="UsageEvents Off\n")
    gw.start()
    for _ in range(5):
        a = gw.get(LOCAL)
        assert a.status == 200 and limits(a) == []


def test_who_needs_no_key_is_held_by_the_address_alone(gateway):
    gw = gateway(children=2, server_conf="UsageKeyRequired Off\n"
                 "UsageRateLimit 1/h burst=5 by=ip\n"
                 "UsageRateLimit 1/h burst=2 by=key\n"
                 "UsageRateLimit 1/h burst=2 by=org\n")
    key = gw.add_key()[0]
    gw.start()
    for n in range(3):
        a = gw.get("/v1")
        assert limits(a) == [Limit("ip", 1, 3600, 4 - n,
                                   limits(a)[0].reset)]
    # One with a key is held by all three, and comes from the same address.
    a = gw.get("/v1", key=key)
    assert [(x.by, x.left) for x in limits(a)] == [
        ("key", 1), ("org", 1), ("ip", 1)]
    assert gw.get("/v1").status == 200
    is_over(gw.get("/v1"), "ip")
    is_over(gw.get("/v1", key=key), "ip")
    with gw.conn(source="127.0.0.2") as c:
        assert left(c.request("GET", "/v1")) == 4
    assert counted(gw) == {"anonymous": 5, "allowed": 1, "rate-limit": 2}
    gw.wait_events(1)


def test_what_a_cache_answers_takes_a_token_too(gateway, servers):
    """And has the fields of its own request, not those of the one that was
    kept."""
    trap = servers.add(TrapHttp()).start()
    gw = gateway(backend=trap, children=1, modules=["cache", "cache_disk"],
                 server_conf="""
UsageKeyRequired Off
UsageRateLimit 1/h burst=4 by=ip
CacheRoot {dir}/cache
CacheEnable disk /
CacheIgnoreNoLastMod On
""")
    (gw.dir / "cache").mkdir()
    (gw.dir / "cache").chmod(0o777)
    gw.start()
    assert [left(gw.get("/cached")) for _ in range(4)] == [3, 2, 1, 0]
    assert len(trap.seen) == 1
    is_over(gw.get("/cached"), "ip")


# --- whose address ------------------------------------------------------------

REMOTEIP = """
UsageRateLimit 1/h burst=2 by=ip
RemoteIPHeader X-Forwarded-For
RemoteIPInternalProxy 127.0.0.1
"""


@pytest.mark.parametrize("first", [True, False])
def test_the_address_that_mod_remoteip_leaves(gateway, first):
    gw = gateway(children=1, modules=["remoteip"], server_conf=REMOTEIP)
    lines = gw._load().split("\n")
    remoteip = [line for line in lines if "remoteip" in line]
    rest = [line for line in lines if "remoteip" not in line]
    gw._load = lambda: "\n".join(remoteip + rest if first
                                 else rest + remoteip)
    key = gw.add_key()[0]
    gw.start()

    def ask(address, **kw):
        with gw.conn(**kw) as c:
            return c.request("GET", "/v1", [("X-API-Key", key)] + (
                [("X-Forwarded-For", address)] if address else []))

    def drain(n, address, **kw):
        assert [ask(address, **kw).status for _ in range(n)] == [200] * n
        is_over(ask(address, **kw), "ip")

    drain(2, "203.0.113.7")
    drain(2, "203.0.113.8")
    drain(2, "192.0.2.9, 203.0.113.9")  # the last one that is no proxy
    drain(0, "192.0.2.1, 203.0.113.9")
    drain(2, "2001:db8:0:1::7")
    drain(0, "2001:db8:0:1:ffff::8")  # of the same customer
    drain(2, "2001:db8:0:2::7")
    drain(0, "::ffff:203.0.113.7")
    drain(2, None)
    # Whoever is no proxy gives himself no address.
    drain(2, "203.0.113.10", source="127.0.0.2")
    drain(0, "203.0.113.11", source="127.0.0.2")
