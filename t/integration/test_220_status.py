# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""The numbers: what they say is so, in every format, over graceful restarts."""
import html.parser
import json
import re
import subprocess

import pytest

import processes
from harness import ORG, ORG2, poll
from trap_helpers import is_problem

PAGE = processes.REPO / "docs" / "metrics.md"


@pytest.fixture
def gw(gateway):
    return gateway(children=2)


def samples(text):
    """Prometheus' text: {(name, labels): value}."""
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            m = re.fullmatch(r"(\w+)(\{[^}]*\})? (\S+)", line)
            assert m, line
            assert m.group(1, 2) not in found, line
            found[m.group(1, 2)] = float(m.group(3))
    return found


class Balance(html.parser.HTMLParser):
    """Does each element that is begun end, in order?"""

    VOID = {"meta", "link", "br", "hr", "img", "input", "col"}

    def __init__(self):
        super().__init__()
        self.open, self.texts = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}>"

    def handle_data(self, data):
        self.texts.append(data.strip())


def balanced(page):
    """The page's texts."""
    parser = Balance()
    parser.feed(page)
    parser.close()
    assert parser.open == [] and page.lstrip().lower().startswith("<!doctype")
    return parser.texts


def some_traffic(gw):
    key = gw.add_key()[0]
    gw.start()
    for _ in range(5):
        gw.get("/x", key=key)
    gw.get("/x")
    gw.get("/x", key="sk_test_x")
    gw.settled()
    return key


def test_the_page_says_what_json_says(gw):
    some_traffic(gw)
    page = gw.get("/usage-status?format=html")
    assert page.header("Content-Type") == "text/html; charset=utf-8"
    texts = " ".join(balanced(page.body.decode()))
    for number in ("5", "1"):
        assert number in texts.split()
    assert b"<script" not in page.body and b"http://" not in page.body


def test_promtool_has_nothing_to_say(gw):
    some_traffic(gw)
    done = subprocess.run([processes.tool("promtool"), "check", "metrics"],
                          input=gw.prometheus(), capture_output=True,
                          text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_prometheus_says_what_json_says(gw):
    some_traffic(gw)
    metrics = gw.metrics()
    text = gw.prometheus()
    found = samples(text)
    # Each look is a request on an exempt path.
    metrics["usage_requests_total"]["exempt"] += 1
    latency = metrics.pop("usage_events_delivery_seconds")
    for name, value in metrics.items():
        if isinstance(value, dict):
            assert {k for k in found if k[0] == name}
            for label, n in value.items():
                [got] = [v for (m, labels), v in found.items()
                         if m == name and f'="{label}"' in labels]
                assert got == n, (name, label)
        else:
            assert found[name, None] == value, name
    buckets = [v for (name, _), v in found.items()
               if name == "usage_events_delivery_seconds_bucket"]
    assert buckets == sorted(buckets) == list(latency["buckets"].values())
    assert buckets[-1] == latency["count"] == 5
    assert found["usage_events_delivery_seconds_count", None] == 5
    assert 0 < found["usage_events_delivery_seconds_sum", None] < 60
    assert text.endswith("\n")


def test_the_documentation_names_every_number(gw):
    some_traffic(gw)
    text = gw.prometheus()
    shown = set(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M))
    page = set(re.findall(r"^\| `(usage_\w+)` \| (\w+) \|", PAGE.read_text(),
                          re.M))
    assert shown == page
    assert {n for n, _ in shown} == set(re.findall(r"^# HELP (\w+) \S", text,
                                                   re.M))


def test_they_add_up(gw):
    key = some_traffic(gw)
    m = gw.metrics()
    total = m["usage_requests_total"]
    assert total["allowed"] == m["usage_events_admitted_total"] == 5
    assert total["no-key"] == 1 and total["bad-key"] == 1
    assert m["usage_events_delivered_total"] == 5
    assert m["usage_events_waiting"] == 0 and m["usage_children"] == 2
    assert m["usage_batch_events_total"] == 5
    assert 1 <= m["usage_batches_total"] <= 5
    assert m["usage_sink_errors_total"] == 0
    assert m["usage_queue_events"] == 0
    assert 1 <= m["usage_queue_events_max"] <= 5
    assert gw.status()["lost_by_organization"] == []
    gw.get("/x", key=key)
    gw.wait_events(6)


def test_losses_are_named_by_organization(gateway):
    gw = gateway(children=1, server_conf="""
UsageKafkaBufferSize 2
UsageJournalSlots 64
UsageKafkaBatchSize 10000
UsageKafkaFlushInterval 60s
""")
    one, two = gw.add_key(org=ORG)[0], gw.add_key(org=ORG2)[0]
    gw.start()
    for _ in range(100):
        gw.get("/x", key=one)
    for _ in range(50):
        gw.get("/x", key=two)
    status = gw.status()
    m = status["metrics"]
    lost = {o["organization_id"]: o["lost"]
            for o in status["lost_by_organization"]}
    total = m["usage_events_lost_total"]["overflow"]
    assert total > 0
    assert sum(o["overflow"] for o in lost.values()) == total
    assert lost[ORG2]["overflow"] == 50
    assert m["usage_events_admitted_total"] == 150
    assert m["usage_events_waiting"] == 150 - total
    assert gw.get("/x", key=one).status == 200  # dropped, yet served
    line = gw.wait_log("Buffer full, dropping event for org: ")[0]
    assert ORG in line or ORG2 in line
    gw.stop()
    assert len(gw.events()) == 150 - total


def test_graceful_restarts_keep_the_counters(gw):
    key = some_traffic(gw)
    before = gw.metrics()
    for n in range(3):
        gw.graceful()
        poll(lambda: gw.get("/x", key=key).status == 200)
    m = gw.settled()
    assert m["usage_events_admitted_total"] == 8
    assert m["usage_events_delivered_total"] == 8
    for name in ("usage_requests_total", "usage_key_lookups_total"):
        assert all(m[name][k] >= n for k, n in before[name].items())
    assert m["usage_events_delivery_seconds"]["count"] == 8
    poll(lambda: gw.metrics()["usage_children"] == len(gw.children()))
    gw.wait_events(8)


def test_a_stop_and_a_start_begin_at_zero(gw):
    some_traffic(gw)
    gw.stop()
    gw.start()
    m = gw.metrics()
    assert m["usage_events_admitted_total"] == 0
    assert m["usage_requests_total"]["no-key"] == 0


# --- formats ------------------------------------------------------------------

@pytest.mark.parametrize("accept, kind", [
    (None, "application/json"), ("*/*", "application/json"),
    ("application/json", "application/json"),
    ("application/json, text/html", "application/json"),
    # What Firefox sends.
    ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
     "text/html"),
    ("text/plain", "text/plain"), ("text/plain;version=0.0.4", "text/plain"),
    # What Prometheus 2.42 sends.
    ("application/openmetrics-text;version=1.0.0,application/openmetrics-text;"
     "version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
     "text/plain")])
def test_accept(gw, accept, kind):
    gw.start()
    a = gw.get("/usage-status",
               headers=[("Accept", accept)] if accept else [])
    assert a.status == 200
    assert a.header("Content-Type").split(";")[0] == kind
    assert a.header("Cache-Control") == "no-store"
    if kind == "application/json":
        json.loads(a.body)
    elif kind == "text/html":
        assert balanced(a.body.decode())
    else:
        assert samples(a.body.decode())
        assert "version=0.0.4" in a.header("Content-Type")


def test_format_goes_before_accept(gw):
    gw.start()
    a = gw.get("/usage-status?format=prometheus",
               headers=[("Accept", "application/json")])
    assert a.header("Content-Type").startswith("text/plain")
    a = gw.get("/usage-status?format=json", headers=[("Accept", "text/plain")])
    assert a.header("Content-Type") == "application/json"


@pytest.mark.parametrize("query", ["format=xml", "format=", "x",
                                   "format=jsonx", "format=JSON"])
def test_another_format_is_400(gw, query):
    gw.start()
    a = gw.get(f"/usage-status?{query}")
    assert a.status == 400
    assert b"format=json" in a.body and b"prometheus" in a.body
    assert b"xml" not in a.body and b"jsonx" not in a.body


def test_methods(gw):
    gw.start()
    a = gw.request("HEAD", "/usage-status")
    assert (a.status, a.body) == (200, b"")
    for method in ("POST", "PUT", "DELETE"):
        a = gw.request(method, "/usage-status", body=b"x")
        assert a.status == 405 and "GET" in a.header("Allow")


def test_without_an_exemption_it_needs_a_key(gateway):
    gw = gateway(children=1, usage={"UsageExempt": None})
    key = gw.add_key()[0]
    gw.start()
    is_problem(gw.get("/usage-status"), 401, "no-key")
    assert gw.get("/usage-status", key=key).status == 200
    poll(lambda: len(gw.events()) == 1)


def test_where_nothing_is_metered_there_is_nothing_to_show(gateway):
    gw = gateway(children=1, usage=False, backend=None, server_conf="""
<Location /usage-status>
SetHandler usage-status
</Location>""")
    gw.start()
    assert gw.get("/usage-status").status == 404


def test_no_key_anywhere(gw):
    """Neither good nor bad ones, in any format."""
    key = some_traffic(gw)
    bad = "sk_live_" + "B" * 36
    processes.register_secret(bad)
    gw.get("/x", key=bad)
    gw.get("/x", headers=[("Authorization", f"Bearer {key}, {bad}")])
    page = gw.get("/usage-status?format=html").body.decode()
    for text in (json.dumps(gw.status()), gw.prometheus(), page,
                 gw.error_log()):
        assert key[12:] not in text and "B" * 8 not in text
