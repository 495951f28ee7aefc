# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""When there is no room: in the queue, in the slots, on the disk. What is lost
is counted to the unit and by organization; what is refused is not served; what
waits comes later, once.

A sink is kept from writing by taking flock() on its file, as anybody may.
"""
import collections
import contextlib
import fcntl
import os
import subprocess

import pytest

from clients.load import Planned, wrk
from harness import ORGS, need, poll

TIGHT = """
UsageJournalSlots 64
UsageKafkaBufferSize 64
"""


@contextlib.contextmanager
def held(path):
    """Nobody else may write to this file."""
    with open(path, "a", encoding="ascii") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def by_organization(gw):
    """{organization: {cause: n}} of usage-status, without the zeros."""
    return {o["organization_id"]: {c: n for c, n in o["lost"].items() if n}
            for o in gw.status()["lost_by_organization"]}


def count(events):
    return collections.Counter(e["organization_id"] for e in events)


def overflow_lines(gw):
    words = "[EventProducer] WARNING: Buffer full, dropping event for org: "
    return [x.split(words)[1] for x in gw.error_log().splitlines()
            if words in x]


def test_drop_when_no_slot_is_free(gateway, backend):
    gw = gateway(children=1, server_conf=TIGHT)
    keys = [gw.key(org)[0] for org in ORGS[:3]]
    gw.start()
    with held(gw.event_file), gw.conn() as c:
        for i in range(90):
            a = c.request("GET", f"/v1/{i}", {"X-API-Key": keys[i % 3]})
            assert a.status == 200, "a dropped event is no reason to refuse"
        m = gw.metrics()
        assert m["usage_events_admitted_total"] == 90
        assert m["usage_events_waiting"] == 64
        assert gw.lost(m) == {"overflow": 26}
        assert gw.events() == []
    # The first 64 waited, the last 26 found no room.
    events = gw.wait_events(64)
    assert [e["endpoint"] for e in events] == [f"/v1/{i}" for i in range(64)]
    sent = collections.Counter({org: 30 for org in ORGS[:3]})
    assert by_organization(gw) == {
        org: {"overflow": n} for org, n in (sent - count(events)).items()}
    assert overflow_lines(gw)[0].split()[0] == ORGS[64 % 3]
    backend.wait_requests(90)
    # And when there is room again, it is used.
    assert gw.get("/v1/after", key=keys[0]).status == 200
    assert gw.wait_events(65)[-1]["endpoint"] == "/v1/after"
    gw.stop()
    # Limited in rate, but all of them are in the log in the end.
    log = gw.error_log()
    assert len(overflow_lines(gw)) < 26
    held_back = [int(x.split("dropped ")[1].split()[0])
                 for x in log.splitlines() if "Buffer full, dropped" in x]
    assert len(overflow_lines(gw)) + sum(held_back) == 26, log


@pytest.mark.parametrize("overflow", ["drop", "refuse"])
def test_a_full_queue_under_load(gateway, backend, overflow):
    """More requests in a tick of the worker than the queue has places."""
    gw = gateway(server_conf=f"""
UsageKafkaBufferSize 2
UsageOverflow {overflow}
""")
    keys = [gw.key(org) for org in ORGS[:5]]
    gw.start()
    plan = [Planned("GET", f"/v1/{i}", *keys[i % 5], 200) for i in range(6000)]
    answers = wrk(gw, plan, depth=1, connections=8)
    m = gw.settled()
    events = gw.events()
    assert len({e["request_id"] for e in events}) == len(events)
    seen = {r["id"] for r in backend.requests()}
    if overflow == "drop":
        assert [s for s, _ in answers if s != 200] == []
        lost = collections.Counter({org: 1200 for _, _, org in keys})
        lost.subtract(count(events))
        lost = {org: n for org, n in lost.items() if n}
        assert lost, "the queue was never full: nothing was shown"
        assert by_organization(gw) == {
            org: {"overflow": n} for org, n in lost.items()}
        assert m["usage_events_admitted_total"] == 6000
        assert gw.lost(m) == {"overflow": sum(lost.values())}
        assert {line.split()[0] for line in overflow_lines(gw)} <= set(lost)
        assert overflow_lines(gw)
    else:
        refused = [i for s, i in answers if s == 503]
        served = {i for s, i in answers if s == 200}
        assert refused and len(refused) + len(served) == 6000
        assert not seen & set(refused), "served, and refused"
        # Nothing was served unmetered, and nothing lost.
        assert {e["request_id"] for e in events} == served == seen
        assert gw.lost(m) == {} and by_organization(gw) == {}
        assert m["usage_requests_total"]["unavailable"] == len(refused)
        assert m["usage_requests_total"]["allowed"] == len(served)
        assert overflow_lines(gw) == []


def test_refuse_when_no_slot_is_free(gateway, backend):
    gw = gateway(children=1, server_conf=TIGHT + "UsageOverflow refuse")
    key = gw.key()[0]
    gw.start()
    with held(gw.event_file):
        got = [gw.get(f"/v1/{i}", key=key) for i in range(100)]
    statuses = [a.status for a in got]
    assert statuses == [200] * 64 + [503] * 36
    for a in got[64:]:
        assert a.header("Content-Type") == "application/problem+json"
        assert int(a.header("Retry-After")) > 0 and a.request_id
        problem = a.json()
        assert problem["type"] == "urn:usage-events:problem:unavailable"
        assert problem["status"] == 503
        assert problem["instance"] == f"urn:uuid:{a.request_id}"
    assert len(gw.wait_events(64)) == len(backend.wait_requests(64))
    assert gw.lost() == {}
    assert gw.metrics()["usage_requests_total"]["unavailable"] == 36
    assert gw.get("/v1/after", key=key).status == 200
    gw.wait_events(65)
    backend.wait_requests(65)


def test_refuse_and_drop_side_by_side(gateway):
    """UsageOverflow is a virtual host's; both share the file."""
    gw = gateway(children=1, server_conf=TIGHT, vhost_conf="""
UsageOverflow refuse
</VirtualHost>
<VirtualHost *:{port}>
ServerName drop.test
UsageOverflow drop
""")
    key = gw.key()[0]
    gw.start()
    with held(gw.event_file):
        for i in range(64):
            assert gw.get(f"/v1/{i}", key=key).status == 200
        assert gw.get("/v1/x", key=key).status == 503
        assert gw.get("/v1/x", key=key, host="drop.test").status == 200
        assert gw.get("/v1/x", key=key).status == 503
    gw.wait_events(64)
    assert gw.lost() == {"overflow": 1}


def test_a_long_path_takes_more_slots(gateway):
    gw = gateway(children=1, server_conf=TIGHT + "UsageOverflow refuse")
    key = gw.key()[0]
    gw.start()
    path = "/v1/" + "x" * 2000
    with held(gw.event_file):
        statuses = [gw.get(path, key=key).status for _ in range(8)]
    assert 503 in statuses and 200 in statuses
    events = gw.wait_events(statuses.count(200))
    assert {e["endpoint"] for e in events} == {path}
    gw.get("/v1/" + "y" * 90, key=key)
    gw.wait_events(len(events) + 1)


# --- the disk ----------------------------------------------------------------

@pytest.fixture
def small_disk():
    """Makes a directory a file system of 256 kB of its own."""
    mounted = []

    def mount(path):
        path.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k,mode=755", "ue-test",
             str(path)], capture_output=True, text=True)
        need(done.returncode == 0, f"mount: {done.stderr}")
        mounted.append(path)
        return path
    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk, leave):
    with open(disk / "filler", "wb") as f:
        f.write(b"x" * (256 * 1024 - leave))


@pytest.fixture
def on_small_disk(servers, gateway, small_disk):
    """A gateway whose event file is on a disk with 32 kB left."""
    gw = gateway(children=2)
    gw.disk = small_disk(gw.dir / "disk")
    gw.event_file = gw.disk / "events.jsonl"
    fill(gw.disk, 32 * 1024)
    gw.the_key = gw.key()[0]
    gw.start()
    yield gw
    gw.stop(check=False)  # before the disk is taken away


def send(gw, first, n):
    ids = []
    for i in range(first, first + n):
        a = gw.get(f"/v1/{i}", key=gw.the_key)
        assert a.status == 200
        ids.append(a.request_id)
    return ids


def test_a_full_disk(on_small_disk):
    gw = on_small_disk
    ids = send(gw, 0, 400)  # 120 kB
    lines = gw.wait_log("UE0302")
    assert str(gw.event_file) in lines[0] and "No space" in lines[0]
    m = gw.metrics()
    assert m["usage_sink_errors_total"] > 0
    assert m["usage_events_waiting"] > 0 and gw.lost(m) == {}
    waited = gw.events()  # whole lines, as far as they go
    assert len(waited) == m["usage_events_delivered_total"] < 400
    raw = gw.event_file.read_bytes()
    assert raw == b"" or raw.endswith(b"\n"), "a torn line"
    (gw.disk / "filler").unlink()
    events = gw.wait_events(400)
    assert {e["request_id"] for e in events} == set(ids)
    assert events[:len(waited)] == waited
    gw.wait_log("UE0303")
    ids += send(gw, 400, 10)
    assert {e["request_id"] for e in gw.wait_events(410)} == set(ids)
    assert gw.lost() == {}
    gw.stop()


def test_a_disk_that_stays_full(on_small_disk):
    """At the stop, what can't be written is lost, and said to be."""
    gw = on_small_disk
    send(gw, 0, 400)
    gw.wait_log("UE0302")
    gw.stop()
    events = gw.events()
    lost = [int(x.split("UE0201: producer: ")[1].split()[0])
            for x in gw.error_log().splitlines() if "UE0201" in x]
    assert lost and len(events) + sum(lost) == 400


def test_a_full_disk_and_a_graceful_restart(on_small_disk):
    """The old children can't write what they have; it is counted as lost in
    counters that go on."""
    gw = on_small_disk
    ids = send(gw, 0, 400)
    gw.wait_log("UE0302")
    old = set(gw.children())
    gw.graceful()
    poll(lambda: not old & set(gw.children()), 20, what="old children end")
    m = gw.settled()
    lost = gw.lost(m)
    events = gw.events()
    assert set(lost) == {"shutdown"} and len(events) + lost["shutdown"] == 400
    assert by_organization(gw) == {ORGS[0]: lost}
    (gw.disk / "filler").unlink()
    ids += send(gw, 400, 5)
    events = gw.wait_events(len(events) + 5)
    assert {e["request_id"] for e in events} <= set(ids)
    gw.stop()


# --- rotation ----------------------------------------------------------------

def test_rotation(gateway, mpm):
    """Renamed, the file is written on until a graceful restart opens a new one;
    each event is in one of the two."""
    gw = gateway(mpm=mpm, server_limit=8)
    gw.the_key = gw.key()[0]
    gw.start()
    ids = send(gw, 0, 20)
    gw.wait_events(20)
    rotated = gw.event_file.with_name("events.jsonl.1")
    gw.event_file.rename(rotated)
    ids += send(gw, 20, 20)
    gw.settled()
    assert not gw.event_file.exists() and len(gw.events(rotated)) == 40
    gw.graceful()
    ids += send(gw, 40, 20)
    gw.settled()
    first, second = gw.events(rotated), gw.events()
    assert len(second) >= 1 and len(first) + len(second) == 60
    assert {e["request_id"] for e in first[:40]} == set(ids[:40])
    assert {e["request_id"] for e in first + second} == set(ids)
    assert gw.event_file.stat().st_mode & 0o777 == 0o640
    assert gw.lost() == {}


def test_the_file_is_opened_by_the_parent(gateway):
    """Its children need no right to it."""
    need(os.geteuid() == 0, "httpd's children are of another user only as root")
    gw = gateway()
    secret = gw.dir / "private"
    secret.mkdir(mode=0o700)
    gw.event_file = secret / "events.jsonl"
    gw.the_key = gw.key()[0]
    gw.start()
    send(gw, 0, 3)
    gw.wait_events(3)
    st = gw.event_file.stat()
    assert (st.st_uid, st.st_mode & 0o777) == (0, 0o640)


def test_somebody_else_writes(gateway):
    """A lock that is held for a moment costs a moment."""
    gw = gateway()
    gw.the_key = gw.key()[0]
    gw.start()
    with held(gw.event_file):
        ids = send(gw, 0, 300)
        assert gw.events() == []
    assert {e["request_id"] for e in gw.wait_events(300)} == set(ids)
    assert gw.lost() == {} and gw.metrics()["usage_sink_errors_total"] == 0
