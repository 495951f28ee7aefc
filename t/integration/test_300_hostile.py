# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Hostile input: whatever arrives, the answer is what bare httpd alone would
give (but for what is decided by keys), nothing crashes, and every event is
valid JSON with the endpoint that the rule in docs/formats.md gives.

Each test sends the same bytes to a gateway and to bare httpd, before the same
backend. Random ones are drawn from fixed seeds, so that a failure comes again.
"""
import random
import re
import socket

import pytest

from clients.http1 import render
from harness import Gateway
from trap_helpers import H2Client, is_problem

ENDPOINT_MAX, METHOD_MAX = 2048, 64


def clean(raw, most):
    """Python's own replacement, and the cut."""
    text = raw.decode("utf-8", "replace")
    if len(text.encode()) <= most:
        return text
    while len(text.encode()) > most - 3:
        text = text[:-1]
    return text + "\u2026"


def endpoint(target):
    absolute = re.match(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*", target)
    path = target[absolute.end():] if absolute else target
    path = path.partition(b"?")[0]
    if not path or (absolute and path[:1] == b"#"):
        path = b"/"
    return clean(path, ENDPOINT_MAX)


def talk(port, data, timeout=20):
    """Send bytes, end sending, and read to the end: what came."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as s:
        received = b""
        try:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            while piece := s.recv(65536):
                received += piece
        except (BrokenPipeError, ConnectionResetError):
            pass
        return received


def statuses(received):
    """Of the answers in a stream of bytes; interim ones are left out."""
    return [int(s) for s in re.findall(rb"^HTTP/\d\.\d (\d{3})\b", received,
                                       re.M) if not s.startswith(b"1")]


@pytest.fixture
def pair(gateway, backend, servers):
    """The gateway with a key, and bare httpd."""
    gw = gateway(backend=backend, children=2,
                 server_conf="UsageKafkaBufferSize 8000")
    bare = servers.add(Gateway("gateway-bare", backend=backend, children=2,
                               module=False))
    gw.good = gw.add_key()[0]
    gw.start()
    bare.start()
    return gw, bare


def talk_to_both(pair, data):
    """What each of them answers. Bare httpd, which would show it to the
    backend, doesn't get the key, but something of its length."""
    gw, bare = pair
    secret = gw.good[12:].encode()
    return talk(gw.port, data), talk(
        bare.port, data.replace(secret, b"k" * len(secret)))


def same(pair, data):
    """Send to both; the statuses must be the same. Returns them."""
    ours, theirs = map(statuses, talk_to_both(pair, data))
    assert ours == theirs, data[:300]
    return ours


def with_key(gw, method, target, headers=(), **kw):
    return render(method, target, [("Authorization", f"Bearer {gw.good}"),
                                   ("Connection", "close"), *headers], **kw)


NASTY = [
    b"/" + b"a" * 2046, b"/" + b"a" * 2047, b"/" + b"a" * 2048,
    b"/" + b"a" * 8100, b"/" + b"a" * 8190, b"/" + b"a" * 9000,
    b"/" + b"a/" * 3000, b"/" + b"%41" * 2700, b"/?" + b"q" * 8000,
    "/é".encode() * 700, b"/" + "é".encode() * 1023,
    b"/a" + "é".encode() * 1023,
    b"/" + "\u20ac".encode() * 682, b"/ab" + "\u20ac".encode() * 682,
    b"/" + "\U0001f4b6".encode() * 512, b"/abc" + b"\xf0\x9f\x92\xb6" * 511,
    b"/" + b"\xff" * 300, b"/" + b"\xff" * 682, b"/" + b"\xff" * 683,
    b"/" + b"\xe2\x82" * 400, b"/\xc0\xaf\xc0\xae", b"/\xed\xa0\x80",
    b"/\xf4\x90\x80\x80", b"/\xf8\x88\x80\x80\x80", b"/\xe2\x82", b"/\xf0",
    b"/\x80", b"/a\xc3", b"/\xc3(", b"/\xe2\x28\xa1", b"/\xef\xbf\xbf",
    b"/\xef\xbb\xbf", b"/\xe2\x80\xa8\xe2\x80\xa9", b"/\x7f", b"/\x01",
    b"/\x1b[31m",
    b"/\t", b"/a\x0bb", b"/\"quote\"", b"/\\back\\slash", b"/<script>",
    b"/'", b"/%", b"/%%", b"/%2", b"/%zz", b"/%00", b"/a%00b", b"/%0d%0aX:%20y",
    b"/%0a", b"/%ff%fe", b"/%c0%af", b"/%u0041", b"/%25%32%66", b"/%2f%2e%2e",
    b"/..", b"/../..", b"/./.", b"/a/../../b", b"//", b"///a", b"/a//b", b"/#",
    b"/a#b?c", b"/?", b"/??", b"/a?b#c", b"/;", b"/;a=b", b"/a;b/c", b"/{}",
    b"/[]", b"/|", b"/^", b"/`", b"/~", b"/$(id)", b"/${IFS}", b"/{{7*7}}",
    b"http://gateway.test", b"http://gateway.test/", b"http://gateway.test?q",
    b"http://gateway.test/a?b", b"HTTP://GATEWAY.TEST/a", b"http:///a",
    b"http://user:pass@gateway.test/a", b"http://[::1]/a", b"http://x:y/a",
    b"https://elsewhere.test/a", b"ftp://x/a", b"http://gateway.test#f",
    b"*", b"a", b"", b"gateway.test:443", b"?", b":", b"/a b", b"/a HTTP/1.1",
    b"//elsewhere.test/x", b"/\xc2\xa0", b"/\xc2\x85", b"/\xe2\x80\xae",
]


def test_nasty_targets(pair):
    gw, bare = pair
    admitted = []
    for target in NASTY:
        data = b"GET " + target + b" HTTP/1.1" \
            + with_key(gw, "GET", "/").partition(b"/ HTTP/1.1")[2]
        before = gw.metrics()["usage_events_admitted_total"]
        same(pair, data)
        after = gw.metrics()["usage_events_admitted_total"]
        assert after - before in (0, 1)
        if after > before:
            admitted.append((target, before))
    events = gw.wait_events(len(admitted), timeout=30)
    assert len(admitted) > 70
    by_time = sorted(events, key=lambda e: e["timestamp"])
    for event, (target, _) in zip(by_time, admitted):
        if b" " not in target:
            assert event["endpoint"] == endpoint(target), target
        assert 200 <= event["status_code"] <= 499, target


def test_nasty_targets_without_a_key(pair):
    """Nobody gets anything out of httpd that bare httpd refuses, or past us."""
    gw, bare = pair
    for target in NASTY:
        data = b"GET " + target + b" HTTP/1.1\r\nHost: gateway.test\r\n" \
            b"Connection: close\r\n\r\n"
        ours, theirs = statuses(talk(gw.port, data)), statuses(
            talk(bare.port, data))
        assert len(ours) == len(theirs) == 1, target
        assert ours == [401] or (ours == theirs and ours[0] >= 400), target
    m = gw.settled()
    assert m["usage_events_admitted_total"] == 0


def random_target(rng):
    alphabet = [bytes([b]) for b in range(33, 127)] \
        + [b"%2e", b"%2F", b"%00", b"..", b"//", b"\xff", b"\xc3\xa9", b";",
           b"\xe2\x82\xac", b"\xf0\x9f\x92\xb6", b"%", b"\x80"] * 4
    length = rng.choice([1, 5, 20, 100, 700, 2040, 2050])
    return b"/" + b"".join(rng.choice(alphabet) for _ in range(length))


def test_random_targets(pair):
    gw, bare = pair
    rng = random.Random(3)
    expected = {}
    for n in range(600):
        mark = b"m%03d" % n
        target = b"/" + mark + random_target(rng)
        data = with_key(gw, "GET", target)
        [status] = same(pair, data)
        assert 200 <= status < 500
        expected[mark.decode()] = endpoint(target)
    n = gw.settled()["usage_events_admitted_total"]
    events = gw.wait_events(n)
    assert n > 200  # what httpd refuses by itself makes none
    for event in events:
        mark = event["endpoint"][1:5]
        assert event["endpoint"] == expected.pop(mark)


METHODS = ["G", "get", "BREW", "A" * 63, "A" * 64, "A" * 65, "A" * 1000,
           "A" * 8000, "M-SEARCH", "!#$%&'*+-.^_`|~", "PROPFIND", "TRACE",
           "CONNECT", "PRI", "OPTIONS", "HEAD", "PATCH", "G\xc9T", "G(T",
           "\"Q\"", "G\x01T", "G\xff"]


def test_methods(pair):
    gw, bare = pair
    admitted = 0
    for method in METHODS:
        data = with_key(gw, method, "/m")
        before = gw.metrics()["usage_events_admitted_total"]
        same(pair, data)
        more = gw.metrics()["usage_events_admitted_total"] - before
        admitted += more
        if more:
            event = sorted(gw.wait_events(admitted),
                           key=lambda e: e["timestamp"])[-1]
            assert event["method"] == clean(method.encode("latin-1"),
                                            METHOD_MAX)
    assert admitted >= 10


# --- keys ---------------------------------------------------------------------

BYTES = bytes(b for b in range(1, 256) if b not in b"\r\n")
KEYS = [b"", b"x", b" ", b"\t", b"x" * 255, b"x" * 256, b"x" * 257,
        b"x" * 8000, b"sk_live_", b"sk_live_" + b"A" * 35,
        b"sk_live_" + b"A" * 37, b"sk_live_" + b"\xff" * 36, b"\xff" * 100,
        BYTES, b"\x80", b"%00", b"sk_test_" + b"%41" * 12, b"'--", b"\"",
        b"sk_live_" + b"A" * 30 + b"______", b"Bearer", b"Bearer x", b",",
        b",,,", b"a,b", b"a, b", b"\xef\xbb\xbfsk_live_x", b"null", b"{}"]


@pytest.mark.parametrize("field", [b"Authorization: Bearer ", b"X-API-Key: ",
                                   b"Authorization: ", b"X-API-Key:",
                                   b"Authorization: Bearer\t"])
def test_keys_of_any_size_and_bytes(pair, field):
    gw, bare = pair
    for key in KEYS:
        data = b"GET /x HTTP/1.1\r\nHost: gateway.test\r\n" \
            b"Connection: close\r\n" + field + key + b"\r\n\r\n"
        received = talk(gw.port, data)
        theirs = statuses(talk(bare.port, data))
        ours = statuses(received)
        assert len(ours) == 1
        if theirs == [400]:
            assert ours == [400], key
        else:
            assert ours in ([400], [401]), key
            assert b"application/problem+json" in received, key
        if len(key) > 8:
            assert key.strip() not in received
    assert gw.settled()["usage_events_admitted_total"] == 0


def test_the_longest_key_there_is(gateway):
    gw = gateway(children=1)
    longest = gw.add_key("k" * 256)[0]
    odd = gw.add_key("k\xe9y;\"'\\%00")[0]
    gw.start()
    for key in (longest, odd):
        assert gw.get("/x", key=key).status == 200
        assert gw.get("/x", headers=[("X-API-Key", key)]).status == 200
    is_problem(gw.get("/x", key=longest + "k"), 401, "bad-key")
    gw.wait_events(4)


# --- headers ------------------------------------------------------------------

def floods():
    yield [(f"X-{n}", "v") for n in range(90)]
    yield [(f"X-{n}", "v") for n in range(97)]
    yield [(f"X-{n}", "v") for n in range(150)]
    yield [("X-Same", "v")] * 90
    yield [("X-Request-Id", "v")] * 90
    yield [("X-Organization-Id", "v")] * 45 + [("X_Organization_Id", "w")] * 45
    yield [("X-Long", "v" * 8000)]
    yield [("X-Long", "v" * 8190)]
    yield [("X-Long", "v" * 20000)]
    yield [("X-" + "n" * 8000, "v")]
    yield [("X-Empty", "")]
    yield [("X-Bytes", "\xff\xfe\x80")]
    yield [("X-Control", "a\x01b")]
    yield [("X-Nul", "a\x00b")]
    yield [("X Space", "v")]
    yield [("X-Colon:", "v")]
    yield [("", "v")]
    yield [("\xff", "v")]
    yield [("X-Fold", "a\r\n b")]
    yield [("Connection", ", ".join(f"X-{n}" for n in range(500)))]
    yield [("Connection", ",,,, ,")]
    yield [("Content-Length", "-1")]
    yield [("Content-Length", "99999999999999999999999")]
    yield [("Content-Length", "0x5")]
    yield [("Content-Length", "0, 0")]
    yield [("Content-Length", "0"), ("Content-Length", "0")]
    yield [("Content-Length", "0"), ("Content-Length", "5")]
    yield [("Transfer-Encoding", "chunked"), ("Content-Length", "5")]
    yield [("Transfer-Encoding", "gzip")]
    yield [("Transfer-Encoding", "chunked, chunked")]
    yield [("Expect", "100-continue")]
    yield [("Expect", "nonsense")]
    yield [("Upgrade", "h2c, websocket"), ("HTTP2-Settings", "x")]
    yield [("Host", "a"), ("Host", "b")]
    yield [("Host", "\xff")]
    yield [("Host", "gateway.test:99999")]
    yield [("Range", "bytes=" + ",".join(f"{n}-{n}" for n in range(300)))]
    yield [("Cookie", "x" * 8000)]
    yield [("TE", "trailers"), ("Trailer", "X-Organization-Id")]


def test_header_floods(pair):
    gw, bare = pair
    for fields in floods():
        if fields == [("Expect", "100-continue")]:
            continue  # without a body there is nothing to expect
        same(pair, with_key(gw, "GET", "/x", fields))
    n = gw.settled()["usage_events_admitted_total"]
    assert n > 15
    gw.wait_events(n)


@pytest.mark.parametrize("size", [0, 1, 1000, 100000])
def test_bodies_that_are_not_as_announced(pair, size):
    gw, bare = pair
    for body in (b"", b"x" * size, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
        for fields in ([("Content-Length", str(size + 10))],
                       [("Content-Length", str(size // 2))],
                       [("Transfer-Encoding", "chunked")]):
            for key in (True, False):
                data = (with_key(gw, "POST", "/x", fields, body=body) if key
                        else render("POST", "/x", fields, body=body))
                received = talk(gw.port, data)
                assert len(received) < 1 << 20
                for status in statuses(received):
                    assert status < 500 or key, received[:300]
    m = gw.settled()
    gw.wait_events(m["usage_events_admitted_total"])


# --- bytes --------------------------------------------------------------------

def mutate(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5, 20])):
        how = rng.randrange(6)
        at = rng.randrange(len(data)) if data else 0
        if how == 0 and data:
            data[at] = rng.randrange(256)
        elif how == 1:
            data[at:at] = bytes([rng.randrange(256)])
        elif how == 2 and data:
            del data[at:at + rng.choice([1, 1, 4, 20])]
        elif how == 3:
            data[at:at] = data[at:at + rng.choice([1, 10, 100])] \
                * rng.choice([1, 2, 50])
        elif how == 4:
            data[at:at] = rng.choice([b"\r\n", b"\n", b"\0", b":", b" ", b",",
                                      b"\r\n\r\n", b"%2e%2e/", b"\xff" * 9])
        else:
            del data[at:]
    return bytes(data)


def seeds(key):
    bearer = f"Authorization: Bearer {key}\r\n".encode()
    return [
        b"GET /status/200/x?y HTTP/1.1\r\nHost: gateway.test\r\n" + bearer
        + b"X-Organization-Id: x\r\nConnection: close\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: gateway.test\r\n" + bearer
        + b"Content-Length: 11\r\nConnection: close\r\n\r\nhello world",
        b"POST /x HTTP/1.1\r\nHost: gateway.test\r\nX-API-Key: "
        + key.encode() + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n0\r\nX-Trailer: y\r\n\r\n",
        (b"GET /x HTTP/1.1\r\nHost: gateway.test\r\n" + bearer + b"\r\n") * 3,
        b"GET http://gateway.test/x HTTP/1.0\r\n" + bearer + b"\r\n",
        b"GET /docs/x HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    ]


@pytest.mark.parametrize("seed", range(4))
def test_random_bytes(pair, seed):
    """500 times four mutated or random requests."""
    gw, bare = pair
    rng = random.Random(seed)
    base = seeds(gw.good)
    decided = compared = 0
    for n in range(500):
        data = mutate(rng, rng.choice(base)) if n % 10 else \
            bytes(rng.randrange(256) for _ in range(rng.randrange(300)))
        received, theirs = talk_to_both(pair, data)
        if b"urn:usage-events:problem:" in received:
            decided += 1  # by a key that is none any more
            assert not {s for s in statuses(received) if s >= 500}, data
            continue
        compared += 1
        assert statuses(received) == statuses(theirs), data
    assert decided > 30 and compared > 200
    m = gw.settled()
    gw.wait_events(m["usage_events_admitted_total"])
    assert m["usage_events_admitted_total"] > 50
    assert sum(m["usage_events_lost_total"].values()) == 0


def test_connections_that_say_nothing_make_no_event(pair):
    gw, bare = pair
    for data in (b"", b"\r\n", b"\r\n\r\n", b"G", b"GET /x HTTP/1.1\r\n",
                 with_key(gw, "GET", "/x")[:-2], b"\x16\x03\x01\x02\0\1\0"):
        same(pair, data)
    m = gw.settled()
    # A head that ends without its empty line is none.
    assert m["usage_events_admitted_total"] == 0


# --- HTTP/2 -------------------------------------------------------------------

class Unchecked(H2Client):
    """Sends what RFC 9113 forbids."""

    def __init__(self, port):
        super().__init__(port)
        config = self.conn.config
        config.validate_outbound_headers = False
        config.normalize_outbound_headers = False


def h2_status(port, path, fields):
    client = Unchecked(port)
    try:
        return client.request("GET", path, fields).status
    except (AssertionError, OSError):
        return "refused"
    finally:
        client.close()


def test_http2(gateway, backend, servers):
    conf = "Protocols h2c http/1.1"
    gw = gateway(backend=backend, children=2, modules=["http2"],
                 server_conf=conf)
    bare = servers.add(Gateway("gateway-bare", backend=backend, children=2,
                               module=False, modules=["http2"],
                               server_conf=conf))
    key = gw.add_key()[0]
    gw.start()
    bare.start()
    good = [("authorization", f"Bearer {key}")]
    cases = [(t.decode("latin-1"), []) for t in NASTY if len(t) < 9000]
    cases += [("/x", fields) for fields in floods()
              if fields[0][0].isascii() and len(fields[0][1]) < 9000]
    wrong = []
    for path, fields in cases:
        ours = h2_status(gw.port, path, good + fields)
        theirs = h2_status(bare.port, path, [
            ("authorization", "Bearer " + "k" * len(key))] + fields)
        if ours != theirs:
            wrong.append((path[:60], fields[:1], ours, theirs))
    assert not wrong
    n = gw.settled()["usage_events_admitted_total"]
    assert n > 60
    gw.wait_events(n)
