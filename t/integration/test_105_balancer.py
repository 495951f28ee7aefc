# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""A balancer that fails over: each member that is tried is told who calls, and
there is one event for all attempts."""
import socket

import pytest

from backends.trap_base import Seen, Trap, take
from trap_helpers import EVIL, TrapFcgi, TrapH2c, TrapHttp, our_id, spoofs

BALANCER = ("proxy_balancer", "lbmethod_byrequests", "slotmem_shm")


class TrapMute(Trap):
    """Takes a request's head and never answers. A worker with ping= sends a
    body only after 100 Continue, gives that up, and tries the next member."""

    def serve(self, sock):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += take(sock, 1)
        first, *lines = head.decode("latin-1")[:-4].split("\r\n")
        method, target, _ = first.split(" ", 2)
        self.seen.append(Seen(method, target, [
            (n, v.strip()) for n, _, v in (x.partition(":") for x in lines)]))
        take(sock, 1)


def closed_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def balancer(members):
    lines = "".join(f"BalancerMember {m}\n" for m in members)
    return f"""
<Proxy "balancer://b">
{lines}
</Proxy>
ProxyPass /usage-status !
ProxyPass / balancer://b/
"""


@pytest.fixture
def good(servers):
    return servers.add(TrapHttp()).start()


def test_each_attempt_is_told_who_calls(gateway, servers, good):
    mute = servers.add(TrapMute()).start()
    gw = gateway(backend=None, modules=BALANCER, children=1,
                 server_conf=balancer([
        f"{mute.url} ping=200ms loadfactor=100",
        f"{good.url} ping=5 loadfactor=1"]))
    key, key_id, org = gw.add_key()
    gw.start()
    a = gw.request("POST", "/v1", key=key, body=b"x", headers=spoofs() + [
        ("Connection", "X-Organization-Id, X-Api-Key-Id, X-Request-Id")])
    assert a.status == 200
    for seen in (mute.seen[0], good.seen[0]):
        assert seen.values("X-Organization-Id") == [org]
        assert seen.values("X-Api-Key-Id") == [key_id]
        assert seen.values("X-Request-Id") == [our_id(a)]
        assert not seen.holds(EVIL) and not seen.holds(key[12:])
    [event] = gw.wait_events(1)
    assert event["status_code"] == 200
    assert event["request_id"] == our_id(a)
    assert event["response_time_ms"] >= 200


def test_a_closed_port_is_passed_over(gateway, good):
    gw = gateway(backend=None, modules=BALANCER, children=1,
                 server_conf=balancer([
        f"http://127.0.0.1:{closed_port()} loadfactor=100",
        f"{good.url} loadfactor=1"]))
    key, key_id, org = gw.add_key()
    gw.start()
    for _ in range(5):
        a = gw.get("/v1", key=key)
        assert a.status == 200
        assert good.seen[-1].one("X-Request-Id") == our_id(a)
    assert len(good.seen) == 5
    gw.wait_events(5)


@pytest.mark.parametrize("trap, modules", [
    (TrapFcgi, ["proxy_fcgi"]), (TrapH2c, ["http2", "proxy_http2"])])
def test_schemes_without_fixups(gateway, servers, trap, modules):
    backend = servers.add(trap()).start()
    dead = f"{backend.scheme}://127.0.0.1:{closed_port()}"
    gw = gateway(backend=None, modules=[*BALANCER, *modules], children=1,
                 server_conf=balancer([f"{dead} loadfactor=100",
                                       f"{backend.url} loadfactor=1"]))
    key, key_id, org = gw.add_key()
    gw.start()
    for _ in range(3):
        a = gw.get("/v1", key=key, headers=spoofs())
        assert a.status == 200
        seen = backend.seen[-1]
        assert seen.values("X-Organization-Id") == [org]
        assert seen.values("X-Api-Key-Id") == [key_id]
        assert seen.values("X-Request-Id") == [our_id(a)]
        assert not seen.holds(EVIL) and not seen.holds(key[12:])
    gw.wait_events(3)


def test_members_of_different_schemes(gateway, servers, good):
    """From one without the fixups hook to one with it and back."""
    fcgi = servers.add(TrapFcgi()).start()
    gw = gateway(backend=None, modules=[*BALANCER, "proxy_fcgi"], children=1,
                 server_conf=balancer([fcgi.url, good.url]))
    key, key_id, org = gw.add_key()
    gw.start()
    for _ in range(6):
        gw.get("/v1", key=key, headers=spoofs())
    assert fcgi.seen and good.seen and len(fcgi.seen + good.seen) == 6
    for seen in fcgi.seen + good.seen:
        assert seen.values("X-Organization-Id") == [org]
        assert not seen.holds(EVIL) and not seen.holds(key[12:])
    gw.wait_events(6)


def test_all_members_down(gateway):
    dead = [f"http://127.0.0.1:{closed_port()}" for _ in range(2)]
    gw = gateway(backend=None, modules=BALANCER, children=1,
                 server_conf=balancer(dead))
    key, _, _ = gw.add_key()
    gw.start()
    a = gw.get("/v1", key=key)
    assert a.status == 503
    [event] = gw.wait_events(1)
    assert (event["status_code"], event["billable"]) == (503, False)
    assert event["request_id"] == our_id(a)
