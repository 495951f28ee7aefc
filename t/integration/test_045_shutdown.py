# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""A stop that can't deliver names the loss, before httpd's patience ends."""
import fcntl
import re
import time

from harness import ORG, ORG2


def test_a_drain_timeout_beyond_httpds_patience_still_names_the_loss(gateway):
    """httpd kills a child nine seconds after it was told to end. One that hoped
    for thirty could name nothing."""
    gw = gateway(server_conf="UsageKafkaDrainTimeout 30s\n", children=1)
    keys = [gw.key(org=ORG), gw.key(org=ORG2)]
    gw.start()
    with open(gw.event_file, "rb") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        for n in range(5):
            assert gw.get("/status/200", key=keys[n % 2][0]).status == 200
        begin = time.monotonic()
        gw.stop()
        assert time.monotonic() - begin < 9.9
    log = gw.error_log()
    assert "UE0201: producer: 5 events were not delivered" in log
    named = dict(re.findall(r"UE0202: .*: (\d+) events of organization (\S+)",
                            log))
    assert named == {"3": ORG, "2": ORG2}
    assert "SIGKILL" not in log


def test_the_drain_timeout_bounds_a_stop(gateway):
    gw = gateway(server_conf="UsageKafkaDrainTimeout 1s\n", children=2)
    key, key_id, org = gw.key()
    gw.start()
    with open(gw.event_file, "rb") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        for _ in range(8):
            assert gw.get("/status/200", key=key).status == 200
        begin = time.monotonic()
        gw.stop()
        assert time.monotonic() - begin < 3  # the timeout, a second, httpd
    lost = re.findall(r"UE0202: .*: (\d+) events of organization (\S+)",
                      gw.error_log())
    assert sum(int(n) for n, _ in lost) == 8
    assert {who for _, who in lost} == {org}
