# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""What recording costs a request thread in system calls: nothing.

The same load goes through bare httpd and through ours, each with one child
under strace. Per request, our request threads may make 0.02 futex calls more,
for a wake of the background thread now and then, and no other call. Our own
threads are named usage-…, and left out; what they do has a bound of its own.

Some of httpd's calls depend on the pace of others: a read that finds nothing
(EAGAIN) and the poll that follows come in pairs and are left out in pairs, so
that a poll without such a read is still seen. httpd's own locks are such, too:
the pool of connections to a backend, which worker threads share, and event
MPM's queue. So futex calls are compared where httpd itself makes next to none:
behind prefork's single thread with a backend, and on worker MPM's threads, all
at once, with a file. The other calls are compared everywhere.
"""
import collections
import re
import signal
import subprocess
from pathlib import Path

import pytest

from clients.load import H2load, Planned
from harness import need, poll, tool

CALL = re.compile(r"^(\d+)\s+(\w+)\(")
EAGAIN = re.compile(r"^(\d+)\s+(?:<\.\.\. )?(\w+)[( ].*= -1 EAGAIN")
REQUESTS = 6000
BEFORE = 400  # so that connections to the backend are there

# What event MPM's listener does between the requests of a connection.
QUEUE = {"futex", "epoll_ctl", "epoll_wait"}


def without_waits(calls, empty):
    """Leave out reads that found nothing, and the polls that belong to them."""
    calls = collections.Counter(calls)
    calls["read"] -= empty["read"]
    calls["poll"] -= min(empty["read"], calls["poll"])
    return calls


class Strace:
    """Counts a process' system calls: calls[thread][name]."""

    def __init__(self, pid, out):
        self.pid, self.out = pid, out
        self.calls = collections.defaultdict(collections.Counter)
        self.empty = collections.defaultdict(collections.Counter)

    def __enter__(self):
        self.proc = subprocess.Popen(
            [tool("strace"), "-f", "-e", "signal=none", "-o", self.out, "-p",
             str(self.pid)], stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True)
        line = self.proc.stderr.readline()
        need("attached" in line, f"strace can't attach: {line}")
        poll(self.has_all, what="strace has all threads")
        return self

    def has_all(self):
        return all("TracerPid:\t0\n" not in (t / "status").read_text()
                   for t in Path(f"/proc/{self.pid}/task").iterdir())

    def __exit__(self, *exc):
        self.proc.send_signal(signal.SIGINT)
        self.proc.communicate(timeout=30)
        with open(self.out, encoding="utf-8", errors="replace") as f:
            for line in f:
                if call := CALL.match(line):
                    self.calls[int(call[1])][call[2]] += 1
                if call := EAGAIN.match(line):
                    self.empty[int(call[1])][call[2]] += 1
        self.out.unlink()

    def of(self, threads):
        found = collections.Counter()
        for t in threads:
            found.update(without_waits(self.calls[t], self.empty[t]))
        return found


def measure(gw, key, path, status, connections):
    """({call: calls a request of httpd's threads}, {call: calls of ours})"""
    gw.start()
    plan = [Planned("GET", path, key, "", "", status)] * REQUESTS
    H2load(gw, plan[:BEFORE], h1=True, connections=connections)
    [child] = gw.children()
    our = set(gw.our_threads(child)) if gw.module else set()
    # The producer's, the event file's, and the one that watches the keys.
    assert len(our) == (3 if gw.module else 0), our
    with Strace(child, gw.dir / "strace.out") as traced:
        H2load(gw, plan, h1=True, connections=connections)
        if gw.module:  # without asking httpd, which would be traced
            poll(lambda: len(gw.events()) == REQUESTS + BEFORE, 20, every=0.1,
                 what="all events")
    gw.stop()
    httpd = traced.of(set(traced.calls) - our)
    assert sum(httpd.values()) > 4 * REQUESTS, "not traced"
    return {c: n / REQUESTS for c, n in httpd.items()}, traced.of(our)


def more_calls(before, after):
    """What is made more often: {call: times a request}, noise left out."""
    more = {c: round(after.get(c, 0) - before.get(c, 0), 4)
            for c in set(before) | set(after)}
    return {c: n for c, n in more.items()
            if n > (0.02 if c == "futex" else 0.01)}


WAYS = {"prefork-backend": ("prefork", "/status/404/x", 404, 1, set()),
        "worker-file": ("worker", "/local/hello.txt", 200, 4, set()),
        "worker-backend": ("worker", "/status/404/x", 404, 4, {"futex"}),
        "event-file": ("event", "/local/hello.txt", 200, 4, QUEUE),
        "event-backend": ("event", "/status/404/x", 404, 4, QUEUE)}


@pytest.mark.parametrize("way", sorted(WAYS))
def test_no_system_call_more(gateway, way):
    mpm, path, status, connections, but = WAYS[way]
    how = {"mpm": mpm, "children": 1, "threads": 8}
    before, _ = measure(gateway(module=False, **how), "", path, status,
                        connections)
    gw = gateway(server_conf="UsageKafkaBufferSize 20000", **how)
    key = gw.key()[0]
    after, ours = measure(gw, key, path, status, connections)
    more = more_calls(before, after)
    assert {c: n for c, n in more.items() if c not in but} == {}
    # The background threads: a round each 10 ms, a batch each hundred events.
    assert 0 < ours["writev"] <= (REQUESTS + BEFORE) / 100 + 20
    assert sum(ours.values()) < REQUESTS / 2, ours


def test_one_call_more_is_seen(gateway):
    """What a CustomLog line costs, by the same measure."""
    how = {"mpm": "prefork", "children": 1, "module": False}
    before, _ = measure(gateway(**how), "", "/local/hello.txt", 200, 1)
    after, _ = measure(gateway(server_conf="CustomLog access.log %h", **how),
                       "", "/local/hello.txt", 200, 1)
    more = more_calls(before, after)
    assert set(more) == {"write"}
    assert 0.99 < more["write"] < 1.01


def test_waits_are_left_out_in_pairs():
    calls = collections.Counter(read=10, poll=4)
    assert without_waits(calls, collections.Counter(read=3)) == {
        "read": 7, "poll": 1}
    assert more_calls({"read": 1.0}, {"read": 1.0, "poll": 0.011}) == {
        "poll": 0.011}
    assert more_calls({"futex": 0.1}, {"futex": 0.119, "read": 0.01}) == {}
    assert EAGAIN.match("12 read(5, 0x7f, 8000) = -1 EAGAIN (Resource…)")
    assert EAGAIN.match("12 <... read resumed>0x7f, 8) = -1 EAGAIN (…)")[2] \
        == "read"
    assert not CALL.match("12 <... read resumed>0x7f, 8) = -1 EAGAIN (…)")
