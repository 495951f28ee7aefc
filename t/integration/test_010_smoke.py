# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""The harness itself, before anything is believed that it says; and that a
gateway starts, serves and stops."""
import os
import signal
import socket

import pytest

import harness
import processes
from harness import ORG, poll


def test_bare_httpd_serves_and_stops(gateway, backend, mpm):
    gw = gateway(mpm=mpm, module=False)
    gw.start()
    assert gw.get("/status/404/x").status == 404
    assert gw.get("/local/hello.txt").body == b"hello\n"
    assert backend.wait_requests(1)[0]["uri"] == "/status/404/x"
    poll(lambda: len(gw.children()) == 4, what="four children")
    pids, port = gw.children() + [gw.proc.pid], gw.port
    gw.stop()
    assert not any(os.path.exists(f"/proc/{p}") for p in pids)
    assert not harness.answers(port)


def test_a_child_that_dies_fails_the_test(gateway):
    gw = gateway(module=False)
    gw.start()
    os.kill(gw.children()[0], signal.SIGSEGV)
    gw.wait_log("exit signal")
    with pytest.raises(AssertionError, match="exit signal Segm"):
        gw.stop()
    assert harness.session_members(gw.sid) == []


def test_a_sanitizer_report_fails_the_test(gateway):
    gw = gateway(module=False)
    gw.start()
    (gw.dir / "san" / "report.1").write_text("ERROR: AddressSanitizer: x")
    with pytest.raises(AssertionError, match="AddressSanitizer"):
        gw.stop()


def test_the_sanitizer_is_where_it_is_asked_for(gateway):
    gw = gateway()
    gw.start()
    with open(f"/proc/{gw.children()[0]}/maps", encoding="utf-8") as maps:
        assert ("libasan" in maps.read()) is bool(harness.PRELOAD)


@pytest.mark.parametrize("line", [
    '{"request_id": "x"}\n', '{"torn', "\n"])
def test_a_bad_event_line_fails_the_test(gateway, line):
    gw = gateway(module=False)
    gw.start()
    gw.event_file.write_text(line)
    with pytest.raises((AssertionError, ValueError)):
        gw.stop()


def test_start_fails_loudly(gateway):
    gw = gateway(module=False, server_conf="NoSuchDirective On")
    with pytest.raises(AssertionError, match="NoSuchDirective"):
        gw.start()
    rc, output = gw.configtest()
    assert rc != 0 and "NoSuchDirective" in output


def test_a_taken_port_is_not_mistaken_for_httpd(gateway):
    gw = gateway(module=False)
    with socket.create_server(("127.0.0.1", gw.port)) as taken:
        gw.start()
        assert gw.port != taken.getsockname()[1]
        assert gw.get("/").status == 200


def test_the_search_finds_a_planted_key(tmp_path):
    """The check at the end of the session is able to fail."""
    (tmp_path / "secret").mkdir()
    log = tmp_path / "runs" / "gateway-x" / "error.log"
    log.parent.mkdir(parents=True)
    seen = tmp_path / "runs" / "backend-x" / "requests.jsonl"
    seen.parent.mkdir()
    key, other, shown = (harness.make_key() for _ in range(3))
    (tmp_path / "secret" / "keys").write_text(
        f"0 {key}\n0 {other}\n1 {shown}\n0 sk_test_123\n")

    def found():
        return processes.find_secrets(tmp_path)

    log.write_text(f"client denied: {key[:12]}… and {other[:12]}\n")
    seen.write_text(f"Bearer {shown}\n")
    assert found() == []
    log.write_bytes(b"\0binary\xff" + key.encode() + b"\0")
    assert len(found()) == 1 and "gateway-x/error.log" in found()[0]
    assert key[12:] not in found()[0]
    log.write_text(f"x {shown}\n")
    assert len(found()) == 1
    log.write_text("key: sk_test_123\n")
    assert len(found()) == 1
    seen.write_text(f"Bearer {other}\n")
    assert len(found()) == 2


def test_one_request_one_event(gateway, backend, mpm):
    gw = gateway(mpm=mpm)
    key, key_id, org = gw.key()
    gw.start()
    a = gw.get("/status/404/users/1?page=2", key=key)
    assert (a.status, org) == (404, ORG)
    [event] = gw.wait_events(1)
    seen = backend.wait_requests(1)[0]
    assert event["request_id"] == a.request_id == seen["id"]
    assert event["organization_id"] == ORG == seen["org"]
    assert event["api_key_id"] == key_id == seen["key_id"]
    assert seen["authorization"] == "" and seen["x_api_key"] == ""
    assert (event["endpoint"], event["method"], event["status_code"],
            event["billable"]) == ("/status/404/users/1", "GET", 404, True)


def test_status_answers_in_both_formats(gateway):
    gw = gateway()
    gw.start()
    assert gw.metrics()["usage_events_admitted_total"] == 0
    assert "\nusage_events_admitted_total 0\n" in gw.prometheus()
