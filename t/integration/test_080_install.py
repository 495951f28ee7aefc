# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""make install, and a child that can't begin to record."""
import os
import resource
import subprocess

import pytest

import harness
from harness import REPO, poll


def test_make_install(tmp_path):
    env = {k: v for k, v in os.environ.items()
           if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    subprocess.run(["make", "install", f"DESTDIR={tmp_path}", "prefix=/opt/ue"],
                   cwd=REPO, env=env, check=True, capture_output=True,
                   timeout=120)
    usagectl = tmp_path / "opt/ue/bin/usagectl"
    said = subprocess.run([usagectl, "--version"], check=True, text=True,
                          capture_output=True).stdout
    assert said.startswith("usagectl ")
    page = tmp_path / "opt/ue/share/man/man1/usagectl.1"
    assert page.read_bytes() == (REPO / "docs/usagectl.1").read_bytes()
    [module] = tmp_path.rglob("mod_usage_events.so")
    assert module.read_bytes() == (
        REPO / ".libs/mod_usage_events.so").read_bytes()


def test_an_event_file_that_cannot_be_opened_stops_the_start(gateway):
    """configtest can't see it: the file is to be made."""
    gw = gateway()
    gw.usage = {"UsageEventFile": gw.dir / "dangling"}
    (gw.dir / "dangling").symlink_to(gw.dir / "nowhere/events.jsonl")
    with pytest.raises(AssertionError):
        gw.start()
    said = gw.error_log() + gw.logs()
    assert "UE0003: UsageEventFile" in said


def test_a_child_that_cannot_record_does_not_serve(gateway, backend,
                                                   monkeypatch):
    """Sixteen million slots don't fit into the address space that is allowed:
    whatever httpd does then, nothing is served unmetered."""
    # A sanitizer takes more address space than any limit.
    monkeypatch.setattr(harness, "MODULE",
                        str(REPO / ".libs/mod_usage_events.so"))
    gw = gateway(children=1, preload=False)
    key, key_id, org = gw.key()
    gw.start()
    assert gw.get("/status/200", key=key).status == 200
    gw.wait_events(1)
    before = len(backend.requests())
    httpd, none = gw.proc.pid, resource.RLIM_INFINITY
    resource.prlimit(httpd, resource.RLIMIT_AS, (2 << 30, none))
    gw.usage = {"UsageJournalSlots": 1 << 24}
    gw.graceful()
    poll(lambda: "UE0005" in gw.error_log(), 20, what="UE0005 in the log")
    for _ in range(3):
        with pytest.raises((harness.Closed, OSError)):
            with harness.Conn(gw.port, timeout=1) as conn:
                conn.request("GET", "/status/200", {"X-API-Key": key})
    assert len(backend.requests()) == before
    resource.prlimit(httpd, resource.RLIMIT_AS, (none, none))
