# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Beside other modules: whichever comes first, and those that are not there."""
import fcntl
import re

import pytest

import harness
from harness import ORG, ORG2
from trap_helpers import EVIL, TrapHttp, is_problem, our_id


@pytest.fixture
def trap(servers):
    return servers.add(TrapHttp()).start()


def load_first(gw):
    """Have our LoadModule ahead of all others."""
    lines = gw._load().split("\n")
    gw._load = lambda: "\n".join(sorted(
        lines, key=lambda line: "usage_events_module" not in line))


# --- mod_remoteip -------------------------------------------------------------

REMOTEIP = """
RemoteIPHeader X-Forwarded-For
RemoteIPInternalProxy 127.0.0.1
LogFormat "%a %>s" who
CustomLog {dir}/who.log who
<Location /v1>
    Require ip 203.0.113.7
</Location>
"""


@pytest.mark.parametrize("first", [True, False])
def test_mod_remoteip(gateway, trap, first):
    """It sets the client's address in the hook where keys are checked."""
    gw = gateway(backend=trap, children=1, modules=["authz_host", "remoteip"],
                 server_conf=REMOTEIP)
    lines = gw._load().split("\n")
    remoteip = [line for line in lines if "remoteip" in line]
    rest = [line for line in lines if "remoteip" not in line]
    gw._load = lambda: "\n".join(remoteip + rest if first
                                 else rest + remoteip)
    key = gw.add_key()[0]
    gw.start()
    good = [("X-Forwarded-For", "203.0.113.7")]
    assert gw.get("/v1", key=key, headers=good).status == 200
    bad = [("X-Forwarded-For", "203.0.113.8")]
    assert gw.get("/v1", key=key, headers=bad).status == 403
    is_problem(gw.get("/v1", headers=bad), 401, "no-key")
    events = gw.wait_events(2)
    assert sorted(e["status_code"] for e in events) == [200, 403]
    log = gw.dir / "who.log"

    def theirs():
        return [x for x in log.read_text().splitlines() if x[:3] != "127"]
    harness.poll(lambda: len(theirs()) >= 3)
    assert sorted(theirs()) == [
        "203.0.113.7 200", "203.0.113.8 401", "203.0.113.8 403"]


def test_remoteip_proxy_list_and_spoofs(gateway, trap):
    """A client that is no proxy of ours gives itself no address."""
    gw = gateway(backend=trap, children=1, modules=["authz_host", "remoteip"],
                 server_conf=REMOTEIP.replace("127.0.0.1", "192.0.2.1"))
    key = gw.add_key()[0]
    gw.start()
    a = gw.get("/v1", key=key, headers=[("X-Forwarded-For", "203.0.113.7")])
    assert a.status == 403
    gw.wait_events(1)


def test_others_in_post_read_request(gateway, trap):
    """mod_setenvif and mod_headers early work there, too: what they do to a
    request is done before keys are read, or it doesn't count."""
    gw = gateway(backend=trap, children=1, server_conf="""
RequestHeader set X-Organization-Id "%s" early
RequestHeader set X-Late "late"
SetEnvIf X-Organization-Id . SEEN=1
""" % EVIL)
    key, key_id, org = gw.add_key()
    gw.start()
    a = gw.get("/v1", key=key)
    assert a.status == 200
    assert trap.seen[0].values("X-Organization-Id") == [org]
    assert trap.seen[0].values("X-Late") == ["late"]
    is_problem(gw.get("/v1"), 401, "no-key")


# --- load order ---------------------------------------------------------------

def test_loaded_before_mod_proxy_is_refused(gateway, trap):
    gw = gateway(backend=trap)
    load_first(gw)
    rc, output = gw.configtest()
    assert rc != 0
    assert "usage_events_module" in output and "proxy_module" in output
    assert "after" in output


def test_loaded_before_mod_proxy_and_off_is_fine(gateway, trap):
    gw = gateway(backend=trap, usage=False)
    load_first(gw)
    assert gw.configtest()[0] == 0


@pytest.mark.parametrize("modules", [
    ["http2", "proxy_http2"], ["proxy_fcgi"],
    ["cache", "cache_disk"], ["remoteip"], ["cgid"], ["status"]])
def test_loaded_before_these_it_works(gateway, modules):
    """Only mod_proxy itself must come first."""
    gw = gateway(modules=modules, server_conf="ScriptSock {dir}/s"
                 if "cgid" in modules else "")
    lines = gw._load().split("\n")
    ours = [line for line in lines if "usage_events_module" in line]
    proxy = [line for line in lines if " proxy_module" in line]
    rest = [line for line in lines if line not in ours + proxy]
    gw._load = lambda: "\n".join(proxy + ours + rest)
    key, key_id, org = gw.add_key()
    gw.start()
    a = gw.get("/x", key=key)
    assert a.status == 200
    is_problem(gw.get("/x"), 401, "no-key")
    assert gw.wait_events(1)[0]["request_id"] == our_id(a)


def test_without_mod_proxy(gateway):
    gw = gateway(backend=None)
    lines = [line for line in gw._load().split("\n") if "proxy" not in line]
    gw._load = lambda: "\n".join(lines)
    gw._proxy = lambda: ""
    write = gw.write_conf

    def without_its_log_level():
        write()
        text = gw.conf_file.read_text()
        gw.conf_file.write_text(text.replace(" proxy:error", ""))
    gw.write_conf = without_its_log_level
    key = gw.add_key()[0]
    gw.start()
    a = gw.get("/local/hello.txt", key=key)
    assert (a.status, a.body) == (200, b"hello\n")
    is_problem(gw.get("/local/hello.txt"), 401, "no-key")
    [event] = gw.wait_events(1)
    assert event["endpoint"] == "/local/hello.txt"


def test_loaded_and_not_configured_it_does_nothing(gateway, trap):
    """A request passes through as through bare httpd, byte for byte."""
    answers = []
    for module in (True, False):
        gw = gateway(backend=trap, children=1, module=module, usage=False)
        gw.start()
        a = gw.get("/status/404", headers=[
            ("X-Organization-Id", EVIL), ("Authorization", "Bearer x, y"),
            ("X-API-Key", "z")])
        fields = [f for f in trap.seen[-1].fields if f[0] != "Host"]
        answers.append((re.sub(rb"Date: [^\r]*", b"", a.head), a.body,
                        [(n, v) for n, v in fields]))
        gw.stop()
    ours, bare = answers
    ours, bare = ([re.sub(r":\d+", "", str(x)) for x in answer]
                  for answer in (ours, bare))
    assert ours == bare


# --- virtual hosts ------------------------------------------------------------

VHOSTS = """
UsageExempt /free
UsageExemptPreflight On
UsageOverflow refuse
<VirtualHost *:{port}>
    ServerName metered.test
</VirtualHost>
<VirtualHost *:{port}>
    ServerName open.test
    UsageEvents Off
</VirtualHost>
<VirtualHost *:{port}>
    ServerName other.test
    UsageKeyStore file:{dir}/other.json
    UsageEventFile {dir}/other.jsonl
    UsageBillableStatus 500-599
    UsageExempt /other-free
    UsageKeyHeader X-Other-Key
    UsageRequestId trust
    UsageKeyHide Off
    UsageExemptPreflight Off
</VirtualHost>
<VirtualHost *:{port}>
    ServerName lax.test
    UsageKeyRequired Off
</VirtualHost>
"""


@pytest.fixture
def hosts(gateway, trap):
    gw = gateway(backend=None, children=2, server_conf=VHOSTS.replace(
        "</VirtualHost>",
        f"    ProxyPass /usage-status !\n    ProxyPass / {trap.url}/\n"
        "</VirtualHost>"))
    main = gw.add_key()
    store, gw.keyfile = gw.keyfile, gw.dir / "other.json"
    gw._write_keys({"version": 1, "organizations": []})
    other = gw.add_key(org=ORG2)
    gw.keyfile = store
    gw.start()
    return gw, main, other


def test_virtual_hosts_are_merged(hosts, trap):
    gw, (key, _, _), (other, _, _) = hosts
    assert gw.get("/x", key=key, host="metered.test").status == 200
    assert gw.get("/x", key=other, host="metered.test").status == 401
    assert gw.get("/x", host="metered.test").status == 401
    assert gw.get("/free", host="metered.test").status == 200
    assert gw.get("/other-free", host="metered.test").status == 401
    assert [e["organization_id"] for e in gw.wait_events(1)] == [ORG]


PREFLIGHT = [("Origin", "https://a.example"),
             ("Access-Control-Request-Method", "GET")]


def test_preflight_is_merged(hosts):
    gw, _, _ = hosts
    for host, status in (("metered.test", 200), ("other.test", 401)):
        a = gw.request("OPTIONS", "/x", headers=PREFLIGHT, host=host)
        assert a.status == status, host


def test_overflow_is_merged(gateway):
    """The server refuses where there is no room, and so does a virtual host
    that says nothing; another drops."""
    gw = gateway(children=1, usage={"UsageJournalSlots": 64,
                                    "UsageKafkaBufferSize": 64},
                 server_conf="""
UsageOverflow refuse
<VirtualHost *:{port}>
    ServerName refuse.test
    Alias / {htdocs}/
</VirtualHost>
<VirtualHost *:{port}>
    ServerName drop.test
    UsageOverflow drop
    Alias / {htdocs}/
</VirtualHost>
""")
    key, _, _ = gw.add_key()
    gw.start()
    with open(gw.event_file, "rb") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        for _ in range(70):
            gw.get("/local/hello.txt", key=key, host="refuse.test")
        assert gw.get("/local/hello.txt", key=key,
                      host="refuse.test").status == 503
        assert gw.get("/local/hello.txt", key=key,
                      host="drop.test").status == 200
    assert gw.settled()["usage_events_lost_total"]["overflow"] == 1


def test_a_virtual_host_may_be_off(hosts, trap):
    gw, (key, _, _), _ = hosts
    a = gw.get("/x", host="open.test")
    assert a.status == 200
    # Nothing of ours: the backend's own id stays.
    assert len(a.all("X-Request-Id")) == 3
    gw.get("/x", key="sk_test_x", host="open.test",
           headers=[("X-Organization-Id", EVIL)])
    assert trap.seen[-1].values("X-Organization-Id") == [EVIL]
    assert gw.settled()["usage_events_admitted_total"] == 0


def test_a_virtual_host_of_its_own(hosts, trap):
    gw, (key, _, _), (other, other_id, _) = hosts
    use = {"host": "other.test"}
    assert gw.get("/x", headers=[("X-Other-Key", key)], **use).status == 401
    assert gw.get("/x", key=other, **use).status == 401
    a = gw.get("/status/500", headers=[("X-Other-Key", other),
                                       ("X-Request-Id", EVIL)], **use)
    assert (a.status, a.request_id) == (500, EVIL)
    assert trap.seen[-1].values("X-Other-Key") == [other]
    assert gw.get("/x", headers=[("X-Other-Key", other)], **use).status == 200
    assert gw.get("/other-free", **use).status == 200
    assert gw.get("/free", **use).status == 200  # exempt paths add up
    gw.settled()
    events = gw.events(gw.dir / "other.jsonl")
    assert {(e["status_code"], e["billable"]) for e in events} == {
        (500, True), (200, False)}
    assert len(events) == 2 and gw.events() == []
    assert {e["organization_id"] for e in events} == {ORG2}


def test_keys_are_not_required_here(hosts, trap):
    gw, (key, _, _), _ = hosts
    a = gw.get("/x", host="lax.test", headers=[("X-Organization-Id", EVIL)])
    assert a.status == 200 and our_id(a)
    assert trap.seen[-1].values("X-Organization-Id") == []
    is_problem(gw.get("/x", host="lax.test", key="sk_test_x"), 401, "bad-key")
    is_problem(gw.get("/x", host="lax.test", headers=[
        ("Authorization", "Bearer a,b")]), 400, "two-keys")
    assert gw.get("/x", host="lax.test", key=key).status == 200
    gw.wait_events(1)
    total = gw.metrics()["usage_requests_total"]
    assert (total["anonymous"], total["allowed"]) == (1, 1)


# --- UsageKeyHeader -----------------------------------------------------------

def test_key_header_replaces_both(gateway, trap):
    gw = gateway(backend=trap, children=1,
                 server_conf="UsageKeyHeader X-Acme-Key")
    key, _, org = gw.add_key()
    gw.start()
    is_problem(gw.get("/x", key=key), 401, "no-key")
    is_problem(gw.get("/x", headers=[("X-API-Key", key)]), 401, "no-key")
    a = gw.get("/x", headers=[("x-acme-key", key),
                              ("Authorization", "Bearer their-own, token")])
    assert a.status == 200
    seen = trap.seen[-1]
    assert seen.values("X-Acme-Key") == []
    assert seen.values("Authorization") == ["Bearer their-own, token"]
    assert seen.values("X-Organization-Id") == [org]


def test_key_header_authorization_alone(gateway, trap):
    gw = gateway(backend=trap, children=1,
                 server_conf="UsageKeyHeader Authorization")
    key, _, org = gw.add_key()
    gw.start()
    is_problem(gw.get("/x", headers=[("X-API-Key", key)]), 401, "no-key")
    assert gw.get("/x", key=key, headers=[("X-API-Key", "theirs")]) \
        .status == 200
    assert trap.seen[-1].values("X-API-Key") == ["theirs"]
    assert trap.seen[-1].values("Authorization") == []
