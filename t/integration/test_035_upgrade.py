# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Upgrade: h2c makes one request come twice: over HTTP/1.1, answered with 101,
and as the first stream of the HTTP/2 connection. It owes one event."""
import fcntl
import subprocess

H2C = {"modules": ["http2"]}
CONF = "Protocols h2c http/1.1\n"


def curl(*args):
    done = subprocess.run(["curl", "-s", "-o", "/dev/null", "--max-time", "10",
                           "-w", "%{http_version} %{http_code}", *args],
                          capture_output=True, text=True, check=True)
    return done.stdout


def test_upgrade_to_h2c_makes_one_event(gateway, backend):
    gw = gateway(server_conf=CONF, **H2C)
    key, key_id, org = gw.key()
    gw.start()
    assert curl("--http2", "-H", f"X-API-Key: {key}",
                gw.url + "/status/201") == "2 201"
    gw.get("/status/200", key=key)  # so that one event too many would be seen
    events = gw.wait_events(2)
    assert sorted(e["status_code"] for e in events) == [200, 201]
    assert backend.wait_requests(2)
    assert gw.status()["metrics"]["usage_requests_total"]["allowed"] == 2


def test_upgrade_that_does_not_happen_makes_one_event(gateway, backend):
    gw = gateway(server_conf=CONF + """
        <Location "/status/200">
            Require all denied
        </Location>""", **H2C)
    key, key_id, org = gw.key()
    gw.start()
    assert curl("--http2", "-H", f"X-API-Key: {key}",
                gw.url + "/status/200") == "1.1 403"
    [event] = gw.wait_events(1)
    assert event["status_code"] == 403
    assert event["organization_id"] == org


def test_upgrade_without_a_key_is_turned_away(gateway, backend):
    gw = gateway(server_conf=CONF, **H2C)
    gw.start()
    assert curl("--http2", gw.url + "/status/200") in ("1.1 401", "2 401")
    gw.wait_events(0)
    assert backend.requests() == []


def test_upgrade_that_httpd_will_not_do_is_refused_without_room(gateway,
                                                                backend):
    """Without "upgrade" in Connection httpd does not switch, so the request is
    like any other: where there is no room for its event, it isn't served."""
    gw = gateway(server_conf=CONF + "UsageOverflow refuse\n"
                 "UsageJournalSlots 64\nUsageKafkaBufferSize 64\n",
                 children=1, **H2C)
    key, key_id, org = gw.key()
    gw.start()
    with open(gw.event_file, "rb") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        served = sum(gw.get("/status/200", key=key).status == 200
                     for _ in range(80))
        answer = gw.get("/status/200", key=key, headers=[
            ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA"),
            ("Connection", "HTTP2-Settings")])
        assert answer.status == 503
        assert served <= 64
    gw.wait_events(served)
    assert len(backend.wait_requests(served)) == served
    assert gw.lost() == {}
