# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Fifty thousand requests are fifty thousand events, each of them right in all
nine fields against what client and backend saw.

Every request is planned: its method, path, key and the status that must come
of it. wrk's paths are each used once, so that its requests can be told apart
by them; h2load's lists are used by two connections each. An event is held
against the backend's record of the same request id, against the plan, and
against what the clients measured.
"""
import collections
import time
import uuid

import pytest

from clients.load import Planned, h2load_all, wrk
from harness import ORGS, STATUSES, billable, when

# Answers with these close the connection (ap_status_drops_connection), and
# what was pipelined behind them would have to be sent again.
CLOSING = (400, 500, 501, 503)

# nginx sends 422 without a reason, which h2load reads as 0.
NAMED = [s for s in STATUSES if s != 422]

SERVER_CONF = """
UsageKafkaBufferSize 20000
UsageJournalSlots 65536
AliasMatch "^/local/any/" "{htdocs}/local/hello.txt"
"""

METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")


def planned(n, phase, keys, statuses, unique=True):
    """n requests, by turns of all keys, statuses and methods, and every ninth
    answered by httpd itself."""
    plan = []
    for i in range(n):
        key, key_id, org = keys[i % len(keys)]
        status = statuses[(i // len(keys)) % len(statuses)]
        method = METHODS[(i // 7) % len(METHODS)]
        tail = f"{phase}/{i}" if unique else f"{phase}/{i % 40}"
        if i % 9 == 8:
            found = i % 2
            path = f"/local/{'any' if found else 'none'}/{tail}"
            plan.append(Planned("GET", path, key, key_id, org,
                                200 if found else 404, local=True))
        else:
            body = "x" * (i % 50 + 1) if method in ("POST", "PUT") else ""
            plan.append(Planned(method, f"/status/{status}/{tail}", key,
                                key_id, org, status, body))
    return plan


def by_organization(n, phase, keys, method, body, statuses):
    """For h2load: a plan for each key, of one method, in pairs of the same
    path, one for each connection."""
    plans = []
    for key, key_id, org in keys:
        half = []
        for i in range(n // len(keys) // 2):
            status = statuses[i % len(statuses)]
            local = i % 9 == 8 and method == "GET"
            path = (f"/local/none/{phase}/{i}" if local
                    else f"/status/{status}/{phase}/{i}")
            half.append(Planned(method, path, key, key_id, org,
                                404 if local else status, body, local))
        plans.append(half + half)
    return plans


class Run:
    """What was sent, and what clients saw of it."""

    def __init__(self):
        self.sent, self.statuses, self.timed = [], {}, []
        self.begin = time.time()

    def wrk(self, gw, plan, **kw):
        self.sent += plan
        for status, request_id in wrk(gw, plan, **kw):
            assert request_id not in self.statuses
            self.statuses[request_id] = status

    def h2load(self, gw, plans, **kw):
        for plan, run in zip(plans, h2load_all(gw, plans, **kw)):
            self.sent += run.planned()
            self.timed.append((plan, run.seen))
            got = collections.Counter(s for _, s, _ in run.seen)
            assert got == collections.Counter(p.status for p in plan)


def check_plan(events, run):
    """As many of each kind as were sent: endpoint, method, status, key."""
    def what(p):
        return (p.method, p.path, p.org, p.key_id, p.status)
    sent = collections.Counter(what(p) for p in run.sent)
    got = collections.Counter(
        (e["method"], e["endpoint"], e["organization_id"], e["api_key_id"],
         e["status_code"]) for e in events)
    assert got == sent, (list((got - sent).items())[:5],
                         list((sent - got).items())[:5])


def check_backend(events, seen, run):
    """The backend saw the same requests under the same ids, and earlier than
    the events say that they ended."""
    records = {r["id"]: r for r in seen}
    assert len(records) == len(seen), "the backend saw an id twice"
    local = {p.path for p in run.sent if p.local}
    assert {e["request_id"] for e in events if e["endpoint"] not in local} \
        == set(records)
    for e in events:
        if e["endpoint"] in local:
            continue
        r = records[e["request_id"]]
        assert (r["org"], r["key_id"], r["method"], r["uri"], r["status"]) == (
            e["organization_id"], e["api_key_id"], e["method"], e["endpoint"],
            e["status_code"]), (e, r)
        assert r["authorization"] == "" and r["x_api_key"] == "", e
        began = when(e["timestamp"])
        # nginx keeps its time in whole milliseconds, taken when a round of
        # its loop begins.
        assert began <= r["msec"] + 0.002, (e, r)
        assert e["response_time_ms"] / 1000 >= r["time"] - 0.004, (e, r)


def check_clients(events, run):
    """Ids and statuses as the clients got them; and no event began before its
    client sent, or took longer than its client waited."""
    by_id = {e["request_id"]: e for e in events}
    for request_id, status in run.statuses.items():
        assert by_id[request_id]["status_code"] == status
    groups = collections.defaultdict(list)
    for e in events:
        groups[e["organization_id"], e["endpoint"].split("/")[3]].append(e)
    for plan, seen in run.timed:
        mine = groups[plan[0].org, plan[0].path.split("/")[3]]
        assert len(mine) == len(seen)
        # Which of them is which isn't known; sorted, each is in its bound.
        starts = sorted(s for s, _, _ in seen)
        for began, start in zip(sorted(when(e["timestamp"]) for e in mine),
                                starts):
            assert began >= start - 0.001
        # Written to the socket is a moment before it is logged: a thread may
        # have to wait for a processor in between. On average it doesn't.
        spent = sorted(t * 1000 for _, _, t in seen)
        logged = sorted(e["response_time_ms"] for e in mine)
        assert sum(logged) <= sum(spent) + 1.5 * len(spent)
        for ms, bound in zip(logged, spent):
            assert ms <= bound + 100


def check_events(events, run):
    ids = {e["request_id"] for e in events}
    assert len(ids) == len(events), "a request id came twice"
    end = time.time()
    for e in events:
        assert e["billable"] is billable(e["status_code"]), e
        began = when(e["timestamp"])
        assert run.begin - 0.001 <= began <= end
        assert 0 <= e["response_time_ms"] <= (end - began) * 1000
        u = uuid.UUID(e["request_id"])
        assert u.version == 7 and str(u) == e["request_id"]
        # Version 7 begins with the milliseconds of the same moment.
        assert u.int >> 80 == int(began * 1000 + 0.0005), e


@pytest.mark.parametrize("total", [50000])
def test_fifty_thousand_requests(gateway, backend, mpm, total):
    h2 = mpm != "prefork"  # mod_http2 doesn't do it there
    gw = gateway(mpm=mpm, modules=["http2"] if h2 else [],
                 server_conf=SERVER_CONF
                 + ("Protocols h2c http/1.1" if h2 else ""))
    keys = [gw.key(org, name=f"key of {org[-2:]}") for org in ORGS[:20]]
    open_ = [s for s in STATUSES if s not in CLOSING]
    gw.start()
    run, part = Run(), total // 4
    run.wrk(gw, planned(part, "kept", keys, STATUSES))
    run.wrk(gw, planned(part, "piped", keys, open_), depth=10)
    run.h2load(gw, by_organization(part // 40 * 40, "one", keys, "GET", "",
                                   NAMED), h1=True)
    rest = total - len(run.sent)
    if h2:
        run.h2load(gw, by_organization(rest // 80 * 40, "two", keys, "POST",
                                       "posted", STATUSES))
        run.h2load(gw, by_organization(rest // 80 * 40, "head", keys, "HEAD",
                                       "", STATUSES))
    rest = total - len(run.sent)
    run.wrk(gw, planned(rest, "rest", keys, STATUSES, unique=False))
    assert len(run.sent) == total

    events = gw.wait_events(total, timeout=60)
    m = gw.metrics()
    assert m["usage_events_admitted_total"] == total
    assert m["usage_events_delivered_total"] == total
    assert set(m["usage_events_lost_total"].values()) == {0}
    assert m["usage_requests_total"]["allowed"] == total
    check_events(events, run)
    check_plan(events, run)
    check_backend(events, backend.requests(), run)
    check_clients(events, run)
    gw.stop()
    assert len(gw.events()) == total, "an event came after the last"


def test_the_checks_can_fail():
    """A wrong field anywhere is seen."""
    org, key_id, request_id = ORGS[0], ORGS[1], str(uuid.UUID(
        int=(int(1.5e12) << 80) | (7 << 76) | (2 << 62)))
    event = {"request_id": request_id, "organization_id": org,
             "api_key_id": key_id, "endpoint": "/status/404/kept/1",
             "method": "GET", "status_code": 404, "response_time_ms": 9,
             "timestamp": "2017-07-14T02:40:00.000250Z", "billable": True}
    record = {"id": request_id, "org": org, "key_id": key_id, "method": "GET",
              "uri": "/status/404/kept/1", "status": 404, "time": 0.008,
              "msec": 1.5e9 + 0.008, "authorization": "", "x_api_key": ""}
    run = Run()
    run.begin = 1.5e9
    plan = [Planned("GET", "/status/404/kept/1", "k", key_id, org, 404)]
    run.sent, run.statuses = plan, {request_id: 404}
    run.timed = [(plan, [(1.5e9, 404, 0.010)])]

    def check(e):
        check_events([e], run)
        check_plan([e], run)
        check_backend([e], [record], run)
        check_clients([e], run)
    check(event)
    for field, value in (
            ("request_id", ORGS[5]), ("organization_id", ORGS[5]),
            ("api_key_id", ORGS[5]), ("endpoint", "/status/404/kept/2"),
            ("method", "HEAD"), ("status_code", 405), ("billable", False),
            ("response_time_ms", 12), ("response_time_ms", 3),
            ("response_time_ms", -1),
            ("timestamp", "2017-07-14T02:39:59.000250Z"),
            ("timestamp", "2017-07-14T02:40:00.010250Z"),
            ("timestamp", "2017-07-14T02:40:00Z")):
        with pytest.raises((AssertionError, KeyError)):
            check({**event, field: value})
