# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Key stores over graceful restarts: the parent keeps them, the module itself
is unloaded in between and may come back at another address."""


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
