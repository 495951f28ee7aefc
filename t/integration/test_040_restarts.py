# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Restarts, stops and kills under load: what was let through is an event, or a
loss that is counted.

What counts as let through is what the backend saw; an event that no backend
saw is of a request that httpd answered itself.
"""
import os
import signal

import pytest

from clients.load import H2Loop, Planned, Recorder
from harness import ORGS, Conn, poll, render

LOCAL = "/local/hello.txt"
ROOM = """
UsageKafkaBufferSize 20000
UsageJournalSlots 65536
"""

# make test-faults asks for more of the same.
FAULTS = bool(os.environ.get("UE_FAULTS"))
RESTARTS, KILLS = (200, 30) if FAULTS else (20, 3)


@pytest.fixture
def make_loaded(gateway, mpm):
    """Makes a gateway with keys of five organizations, and targets for wrk."""
    def make(**kw):
        gw = gateway(mpm=mpm, threads=8, server_limit=16,
                     **{"server_conf": ROOM, **kw})
        keys = [gw.key(org)[0] for org in ORGS[:5]]
        gw.targets = [(LOCAL if i % 10 == 9 else f"/status/{s}/{i}",
                       keys[i % len(keys)])
                      for i, s in enumerate((200, 404, 503, 201, 301) * 4)]
        gw.connections = 4 if mpm == "prefork" else 16
        return gw
    return make


@pytest.fixture
def loaded(make_loaded):
    return make_loaded()


def by_id(events):
    ids = {e["request_id"]: e for e in events}
    assert len(ids) == len(events), "a request id came twice"
    return ids


def through(events, backend):
    """Ids that the backend saw and that are no event, which nobody may be;
    and events of a backend's path that it never saw."""
    ids = by_id(events)
    seen = {r["id"] for r in backend.requests()}
    assert "" not in seen
    proxied = {i for i, e in ids.items() if e["endpoint"] != LOCAL}
    return seen - set(ids), proxied - seen


def restarts_lose_nothing(gw, backend, restarts, load, answered):
    """Restart under this load, and account for all that came through."""
    gw.start()
    with load() as running:
        for _ in range(restarts):
            gw.graceful()
            before = answered(running)
            poll(lambda: answered(running) >= before + 200, 30, every=0.05,
                 what="200 answers more")
    poll(lambda: len(gw.children()) <= gw.count, 30,
         what="the old generations are gone")
    m = gw.settled(30)
    events = gw.events()
    missing, unseen = through(events, backend)
    assert not missing, f"{len(missing)} requests without an event"
    # Nothing was lost, and counters went on over all restarts.
    assert gw.lost(m) == {}
    assert len(events) == m["usage_events_admitted_total"] \
        == m["usage_events_delivered_total"]
    # A request that was let through may meet a backend connection that is
    # being closed, or find that its client has gone.
    ids = by_id(events)
    assert all(ids[i]["status_code"] == 0 or ids[i]["status_code"] >= 400
               for i in unseen), [ids[i] for i in unseen][:3]
    assert len(events) > restarts * 200
    assert gw.resumed() == restarts + 1
    print(f"{restarts} graceful restarts: {len(events)} events, none lost")
    return running, ids


@pytest.mark.parametrize("restarts", [RESTARTS])
def test_graceful_restarts_under_load(loaded, backend, restarts):
    gw = loaded
    wrk, ids = restarts_lose_nothing(
        gw, backend, restarts,
        lambda: Recorder(gw, gw.targets, connections=gw.connections),
        lambda running: len(running.answered()))
    for status, request_id in wrk.answered():
        assert ids[request_id]["status_code"] == status
    assert len({e["organization_id"] for e in ids.values()}) == 5


@pytest.mark.mpms("event", "worker")
@pytest.mark.parametrize("restarts", [RESTARTS])
def test_graceful_restarts_under_http2(make_loaded, backend, restarts):
    gw = make_loaded(modules=["http2"],
                     server_conf=ROOM + "Protocols h2c http/1.1")
    key, key_id, org = gw.key()
    plan = [Planned("GET", f"/status/404/{i}", key, key_id, org, 404)
            for i in range(2000)]
    h2, ids = restarts_lose_nothing(
        gw, backend, restarts, lambda: H2Loop(gw, plan),
        lambda running: running.answered())
    # h2load doesn't tell ids; as many as it was answered must be there.
    assert sum(1 for e in ids.values() if e["status_code"] == 404) \
        >= h2.answered()


def stopped_under_load(gw):
    """SIGTERM in the middle. What wrk was answered; or None where a child
    crashed, as httpd itself does now and then (see Gateway.quiet): with the
    child its events are gone, and nothing can be told."""
    gw.start()
    with Recorder(gw, gw.targets, connections=gw.connections) as wrk:
        wrk.wait(3000)
        gw.allow_signal(signal.SIGSEGV)
        gw.stop(quiet=False)
    return None if "exit signal" in gw.error_log() else wrk.answered()


def test_stop_under_load(make_loaded, backend):
    """Every request that reached the backend is an event; what was under way
    has status 0."""
    for _ in range(3):
        backend.forget()
        gw = make_loaded()
        answered = stopped_under_load(gw)
        if answered is not None:
            break
    else:
        pytest.fail("a child crashed at each of three stops")
    events = gw.events()
    missing, _ = through(events, backend)
    assert not missing, f"{len(missing)} requests without an event"
    ids = by_id(events)
    # Between the last byte of an answer and its log there is room for a signal:
    # at most one a connection.
    cut = [i for s, i in answered if ids[i]["status_code"] != s]
    assert {ids[i]["status_code"] for i in cut} <= {0}
    assert len(cut) <= gw.connections
    for e in events:
        if e["status_code"] == 0:
            assert not e["billable"] and e["response_time_ms"] == 0
    assert "UE02" not in gw.error_log(), "something was lost"


@pytest.mark.mpms("event")
def test_slow_readers_at_a_stop(gateway):
    """Event MPM abandons connections that no thread is needed for, of which
    there may be more than threads: none of these requests is ever logged, and
    each is an event of status 0."""
    gw = gateway(threads=4, server_conf="EnableSendfile On")
    key, key_id, org = gw.key()
    with open(gw.htdocs / "local" / "big", "wb") as f:
        f.truncate(10 << 20)
    gw.start()
    readers = [gw.conn(rcvbuf=4096) for _ in range(40)]
    ids = set()
    for c in readers:
        c.send(render("GET", "/local/big", {"X-API-Key": key}))
    for c in readers:
        ids.add(c.head().request_id)
    gw.stop()
    for c in readers:
        c.close()
    events = gw.events()
    assert {e["request_id"] for e in events} == ids and len(events) == 40
    for e in events:
        assert (e["status_code"], e["billable"], e["response_time_ms"]) == (
            0, False, 0)
        assert (e["organization_id"], e["api_key_id"], e["endpoint"]) == (
            org, key_id, "/local/big")


def test_a_hanging_backend_at_a_stop(gateway, odd, mpm):
    """A child that waits for its backend is killed in the end, and its clean-up
    never runs. What it had let through is an event all the same."""
    gw = gateway(mpm=mpm, backend=odd, children=1, threads=8)
    key = gw.key()[0]
    gw.start()
    n = 1 if mpm == "prefork" else 5
    with_answer = gw.get("/v1/x", key=key)
    hanging = [Conn(gw.port) for _ in range(n)]
    for i, c in enumerate(hanging):
        c.send(render("GET", f"/hang/{i}", {"X-API-Key": key}))
    odd.wait_requests(n + 1)
    gw.allow_signal(signal.SIGKILL)
    gw.stop(quiet=False)
    for c in hanging:
        c.close()
    ids = by_id(gw.events())
    assert ids.pop(with_answer.request_id)["status_code"] == 200
    assert sorted(e["endpoint"] for e in ids.values()) == [
        f"/hang/{i}" for i in range(n)]
    for e in ids.values():
        # 502 where the stop broke the connection and httpd could say so.
        assert e["status_code"] in (0, 502), e
        assert e["billable"] is False


def test_kill_of_a_child_under_load(loaded, backend):
    """What a killed child had is lost, since there is no journal on disk yet;
    and that is said, to the unit."""
    gw = loaded
    gw.allow_signal(signal.SIGKILL)
    gw.start()
    with Recorder(gw, gw.targets, connections=gw.connections) as wrk:
        wrk.wait(1000)
        for _ in range(KILLS):
            os.kill(gw.children()[0], signal.SIGKILL)
            wrk.wait(500)
    # Nobody need take the seat: who reads the counters finds it empty.
    m = gw.settled()
    events = gw.events()
    missing, _ = through(events, backend)
    lost = gw.lost(m)
    assert set(lost) <= {"unknown"}, lost
    # Killed between writing a batch and counting it, events are there that are
    # counted as lost: at most a batch a kill.
    assert 0 <= len(events) + lost.get("unknown", 0) \
        - m["usage_events_admitted_total"] <= KILLS * 100
    # Killed before the backend was asked, or answered by httpd.
    assert len(missing) <= lost.get("unknown", 0)
    assert missing, "nothing was lost: was there load?"
    print(f"{KILLS} kills: {lost['unknown']} of {len(events)} events lost")


def test_the_search_for_what_is_missing_can_fail(tmp_path):
    class Seen:
        def requests(self):
            return [{"id": "a"}, {"id": "b"}]
    assert through([{"request_id": "a", "endpoint": "/x"},
                    {"request_id": "c", "endpoint": LOCAL},
                    {"request_id": "d", "endpoint": "/y"}], Seen()) == (
        {"b"}, {"d"})
    with pytest.raises(AssertionError, match="twice"):
        by_id([{"request_id": "a"}, {"request_id": "a"}])
