# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Key stores over graceful restarts: the parent keeps them, the module itself
is unloaded in between and may come back at another address, or as another
build."""
import os
import shutil
import subprocess

import harness
from harness import REPO


def test_a_restart_that_drops_a_store(gateway):
    """Nobody may call into the store that is no longer named."""
    gw = gateway(children=2)
    key, key_id, org = gw.key()
    gw.start()
    assert gw.get("/status/200", key=key).status == 200
    # Another store, and more modules ahead of ours, so that it is loaded
    # elsewhere; graceful() writes the configuration anew.
    other = gw.keyfile.with_name("other-keys.json")
    other.write_bytes(gw.keyfile.read_bytes())
    other.chmod(0o644)
    gw.usage = {"UsageKeyStore": f"file:{other}"}
    gw.modules = ("dav", "expires", "include", "session")
    for _ in range(3):
        gw.graceful()
        assert gw.get("/status/200", key=key).status == 200
    gw.wait_events(4)
    assert "exit signal" not in gw.error_log()


def other_build(where):
    """Our module with another layout of its shared memory."""
    shutil.copytree(REPO / "src", where / "src",
                    ignore=shutil.ignore_patterns("*.o", "*.lo", "*.slo",
                                                  ".libs"))
    (where / "t").mkdir()
    for name in ("Makefile", "t/tests.mk", "mod_usage_events.c"):
        shutil.copy(REPO / name, where / name)
    env = {k: v for k, v in os.environ.items()
           if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    subprocess.run(["make", "module", "FLAVOUR=-DUE_ORGANIZATIONS=65536"],
                   cwd=where, env=env, check=True, capture_output=True,
                   timeout=300)
    return where / ".libs/mod_usage_events.so"


def test_a_restart_that_brings_another_build(gateway, tmp_path, monkeypatch):
    """As a package's upgrade and a reload do: what the old module has kept is
    not the new one's to read."""
    monkeypatch.setattr(harness, "PRELOAD", None)
    module = tmp_path / "mod_usage_events.so"
    tmp_path.chmod(0o755)
    shutil.copy(REPO / ".libs/mod_usage_events.so", module)
    monkeypatch.setattr(harness, "MODULE", str(module))
    gw = gateway(children=2)
    key, key_id, org = gw.key()
    gw.start()
    assert gw.get("/status/200", key=key).status == 200
    gw.wait_events(1)
    built = other_build(tmp_path / "other")
    module.unlink()  # the old one stays mapped
    shutil.copy(built, module)
    gw.graceful()
    for _ in range(4):
        assert gw.get("/status/200", key=key).status == 200
    gw.wait_events(5)
    # The counters begin anew, and go on over the next restart.
    assert gw.metrics()["usage_events_admitted_total"] == 4
    gw.graceful()
    assert gw.get("/status/200", key=key).status == 200
    gw.wait_events(6)
    assert gw.metrics()["usage_events_admitted_total"] == 5
    assert "exit signal" not in gw.error_log()
