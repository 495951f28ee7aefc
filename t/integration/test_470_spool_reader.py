# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""A spool of a real gateway, read by usagectl and by the second reader, which
was written from docs/journal.md: both see the same, and just what was asked of
the gateway. Kafka is out of reach, so that all of it waits."""
import json
import subprocess

import spool_reader
from harness import USAGECTL, free_port, poll
from spool_helpers import kill_tree, make_spool, spool_ls, waiting

PATHS = ["/", "/v1/charge", "/" + "x" * 94, "/" + "x" * 95, "/" + "x" * 96,
         "/" + "y" * 266, "/" + "y" * 267, "/" + "z" * 2046, "/" + "z" * 3000,
         "/%C3%A9/%22"]


def both(spool):
    """What both readers say of a spool that nothing changes in."""
    done = subprocess.run([USAGECTL, "spool", "dump", str(spool)],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines == spool_reader.dump(spool)
    return lines


def start(gateway, backend):
    gw = gateway(server_conf="UsageSpool {dir}/spool\n"
                             f"UsageKafkaBrokers 127.0.0.1:{free_port()}\n"
                             "UsageKafkaDrainTimeout 1s",
                 usage={"UsageEventFile": None}, backend=backend, children=2)
    spool = make_spool(gw)
    key, key_id, org = gw.key()
    gw.start()
    return gw, spool, key, key_id, org


def ask(gw, key):
    """Each path by each method. Returns {request id: (path, method)}."""
    asked = {}
    for path in PATHS:
        for method in ("GET", "POST", "PROPFIND"):
            answer = gw.request(method, path, key=key)
            asked[answer.request_id] = (path, method, answer.status)
    return asked


def check(lines, asked, key_id, org):
    events = {line["event"]["request_id"]: line["event"] for line in lines}
    assert set(events) == set(asked) and len(lines) == len(asked)
    for request_id, (path, method, status) in asked.items():
        event = events[request_id]
        cut = path if len(path) <= 2048 else path[:2045] + "…"
        assert (event["endpoint"], event["method"]) == (cut, method)
        assert event["status_code"] == status
        assert (event["organization_id"], event["api_key_id"]) == (org, key_id)


def test_second_reader_reads_what_a_gateway_writes(gateway, backend):
    gw, spool, key, key_id, org = start(gateway, backend)
    asked = ask(gw, key)
    poll(lambda: waiting(spool) == len(asked), 10, what="all is on record")
    check(both(spool), asked, key_id, org)
    rows = spool_ls(spool)
    assert {row["held_by"] for row in rows} == {row["pid"] for row in rows}
    kill_tree(gw)
    check(both(spool), asked, key_id, org)
    rows = spool_ls(spool)
    assert {row["held_by"] for row in rows} == {None}
    for row in rows:
        account = spool_reader.account(spool / f"{row['id']}.stream")
        assert account["stream"].hex() == row["id"]
        for name in ("pid", "host", "topic", "brokers"):
            assert account[name] == row[name]
        assert account["lost"] == row["lost"] == 0
    done = subprocess.run([USAGECTL, "spool", "verify", str(spool)],
                          capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
