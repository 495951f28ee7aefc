# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Keys from a file while httpd runs: a change is taken up within a second by
every child, a broken file is refused and the old keys stay."""
import json
import os
import time

import pytest

import harness
from harness import ORG, ORG2, poll, run
from trap_helpers import TrapHttp, is_problem

SECOND = 1.0


@pytest.fixture
def gw(gateway, servers):
    return gateway(backend=servers.add(TrapHttp()).start(), children=3,
                   threads=4)


def until(gw, key, status, n=24):
    """How long until n requests in a row, over all children, get a status."""
    begin = time.monotonic()

    def look():
        return all(gw.get("/x", key=key).status == status for _ in range(n))
    poll(look, 5, every=0, what=f"{status} for a key")
    return time.monotonic() - begin


def test_a_new_key_is_taken_up_within_a_second(gw):
    gw.start()
    took = []
    for n in range(4):
        key = gw.add_key(org=harness.ORGS[n])[0]
        took.append(until(gw, key, 200))
        key = gw.key(org=harness.ORGS[n], name="by usagectl")[0]
        took.append(until(gw, key, 200))
    # A quarter of a second between looks, and what 24 requests take.
    assert max(took) < SECOND + 0.5, took
    assert sorted(took)[len(took) // 2] < SECOND, took


def test_a_revoked_key_stops_within_a_second(gw):
    key, key_id, _ = gw.key()
    gw.start()
    assert gw.get("/x", key=key).status == 200
    run([harness.USAGECTL, "key", "revoke", key_id, "--store",
         f"file:{gw.keyfile}"])
    assert until(gw, key, 401) < SECOND + 0.5
    is_problem(gw.get("/x", key=key), 401, "bad-key")


def test_a_removed_key_stops(gw):
    key = gw.add_key()[0]
    gw.start()
    assert gw.get("/x", key=key).status == 200
    gw.edit_keys(lambda doc: doc["organizations"].clear())
    assert until(gw, key, 401) < SECOND + 0.5


def test_expiry_needs_no_change_of_the_file(gw):
    soon = time.time() + 2
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(soon)) \
        + f".{int(soon % 1 * 1000):03d}Z"
    key = gw.add_key(expires=text)[0]
    gw.start()
    assert gw.get("/x", key=key).status == 200
    until(gw, key, 403)
    assert -0.1 < time.time() - soon < SECOND
    is_problem(gw.get("/x", key=key), 403, "expired-key")


def test_a_key_in_an_own_form_is_looked_up(gw):
    old = gw.add_key("legacy-key")[0]
    gw.start()
    assert gw.get("/x", key=old).status == 200
    assert gw.get("/x", headers=[("X-API-Key", old)]).status == 200


@pytest.mark.parametrize("change, status, billable", [
    ({}, 200, True), ({"billable": False}, 200, False),
    ({"org_billable": False}, 200, False),
    ({"billable": False, "org_billable": False}, 200, False),
    ({}, 500, False), ({}, 404, True), ({"billable": False}, 404, False)])
def test_billable(gw, change, status, billable):
    key = gw.add_key(**change)[0]
    gw.start()
    assert gw.get(f"/status/{status}", key=key).status == status
    [event] = gw.wait_events(1)
    assert event["billable"] is billable


BROKEN = {
    "empty": "", "cut": None, "no json": "nonsense", "array": "[]",
    "version": '{"version": 2, "organizations": []}',
    "no organizations": '{"version": 1}',
    "organization": '{"version": 1, "organizations": [{"name": "x"}]}',
    "key": '{"version": 1, "organizations": [{"id": "%s", "name": "x", '
           '"keys": [{"id": "x"}]}]}' % ORG,
    "twice": '{"version": 1, "organizations": [{"id": "%s", "name": "x", '
             '"keys": []}, {"id": "%s", "name": "y", "keys": []}]}' % (
                 ORG, ORG),
    "bytes": "\xff\xfe",
}


@pytest.mark.parametrize("how", list(BROKEN))
def test_a_broken_file_is_refused_and_the_old_keys_stay(gw, how):
    key = gw.add_key()[0]
    gw.start()
    good = gw.keyfile.read_text()
    text = BROKEN[how]
    text = good[:len(good) // 2] if text is None else text
    new = gw.keyfile.with_suffix(".broken")
    new.write_bytes(text.encode("latin-1"))
    new.rename(gw.keyfile)
    line = gw.wait_log("UE0101")[0]
    assert str(gw.keyfile) in line and "usage_events:error" in line
    poll(lambda: len([x for x in gw.error_log().splitlines()
                      if "UE0101" in x]) >= 3, what="all children say so")
    for _ in range(20):
        assert gw.get("/x", key=key).status == 200
    changes = gw.metrics()["usage_keystore_changes_total"]
    # By each child once for each state of the file, not at each look. (One may
    # have seen it before the rename had set its ctime.)
    assert changes["taken-up"] == 0 and 3 <= changes["refused"] <= 6
    time.sleep(0.6)
    assert gw.metrics()["usage_keystore_changes_total"] == changes
    assert gw.error_log().count("UE0101") == changes["refused"]
    # Mended, it is taken up again.
    gw.keyfile.write_text(good)
    other = gw.add_key(org=ORG2)[0]
    until(gw, other, 200)
    assert gw.get("/x", key=key).status == 200


def test_a_file_that_goes_away_leaves_the_old_keys(gw):
    key = gw.add_key()[0]
    gw.start()
    gone = gw.keyfile.with_suffix(".gone")
    gw.keyfile.rename(gone)
    gw.wait_log("UE0101")
    for _ in range(20):
        assert gw.get("/x", key=key).status == 200
    gone.rename(gw.keyfile)
    other = gw.add_key(org=ORG2)[0]
    until(gw, other, 200)


def test_a_graceful_restart_with_a_broken_file_keeps_the_keys(gw):
    key = gw.add_key()[0]
    gw.start()
    good = gw.keyfile.read_text()
    gw.keyfile.write_text('{"version": 1, "organi')
    for _ in range(2):
        gw.graceful()
        for _ in range(20):
            assert gw.get("/x", key=key).status == 200
    assert "keys from before the restart stay" in gw.wait_log("UE0002")[0]
    gw.keyfile.write_text(good)
    other = gw.add_key(org=ORG2)[0]
    until(gw, other, 200)
    gw.graceful()
    assert gw.get("/x", key=other).status == 200


def test_a_graceful_restart_takes_a_change_up_at_once(gw):
    gw.start()
    key = gw.add_key()[0]
    gw.graceful()
    poll(lambda: gw.get("/x", key=key).status == 200, 3)


def test_a_graceful_restart_may_name_another_store(gw):
    key = gw.add_key()[0]
    gw.start()
    gw.keyfile = gw.dir / "second.json"
    gw._write_keys({"version": 1, "organizations": []})
    other = gw.add_key(org=ORG2)[0]
    gw.graceful()
    poll(lambda: gw.get("/x", key=other).status == 200, 3)
    until(gw, key, 401)


def test_httpd_reads_what_roots_usagectl_wrote(gw):
    """A new file is not for everybody; made by root, www-data reads it."""
    gw.keyfile.unlink()
    key, _, org = gw.key(name="first")
    st = gw.keyfile.stat()
    assert st.st_mode & 0o777 == 0o640
    assert st.st_uid == os.geteuid()
    gw.start()
    assert gw.get("/x", key=key).status == 200
    # And again while it runs: the children read it by themselves.
    second = gw.key(name="second")[0]
    assert gw.keyfile.stat().st_mode & 0o777 == 0o640
    until(gw, second, 200)
    assert "UE0101" not in gw.error_log()


def test_no_half_file_is_ever_read(gw):
    """usagectl replaces the file while it is read: nothing is refused."""
    first = gw.key()[0]
    gw.start()
    for n in range(15):
        gw.key(org=harness.ORGS[n], name=f"n{n}")
        assert gw.get("/x", key=first).status == 200
    time.sleep(0.5)
    assert "UE0101" not in gw.error_log()
    assert gw.metrics()["usage_keystore_changes_total"]["refused"] == 0


def test_a_large_file(gw):
    """20,000 keys of 100 organizations: start, look-up, change."""
    def fill(doc):
        for o in range(100):
            doc["organizations"].append({
                "id": harness.ORGS[o], "name": f"Org {o}", "billable": True,
                "keys": [{"id": f"{o:08x}-0000-4000-8000-{k:012x}",
                          "name": "k", "prefix": "", "expires": None,
                          "hash": gw.hash_of(f"key-{o}-{k}"),
                          "created": "2025-01-01T00:00:00Z",
                          "revoked": None, "billable": True}
                         for k in range(200)]})
    gw.edit_keys(fill)
    gw.start()
    for o, k in ((0, 0), (99, 199), (50, 100)):
        assert gw.get("/x", key=f"key-{o}-{k}").status == 200
    assert gw.get("/x", key="key-100-0").status == 401
    key = gw.add_key()[0]
    assert until(gw, key, 200) < SECOND + 1
    gw.settled()
    organizations = {e["organization_id"] for e in gw.events()}
    assert organizations == {harness.ORGS[i] for i in (0, 50, 99)}


def test_lookups_are_counted(gw):
    key = gw.add_key()[0]
    gw.start()
    for _ in range(30):
        gw.get("/x", key=key)
    for _ in range(5):
        gw.get("/x", key="sk_test_unknown")
    gw.get("/x", key=harness.make_key()[:-6] + "000000")  # mistyped: not asked
    lookups = gw.settled()["usage_key_lookups_total"]
    assert lookups["unknown"] == 5
    assert lookups["hit"] + lookups["miss"] == 30
    assert 1 <= lookups["miss"] <= 3  # once a child


@pytest.mark.parametrize("member, value", [
    ("networks", ["192.0.2.1/24"]), ("paths", ["/v1/../"]),
    ("methods", ["get"]), ("plan", "no such plan")])
@pytest.mark.parametrize("where", ["organization", "key"])
def test_a_restriction_that_cannot_be_kept_is_refused(gw, member, value,
                                                      where):
    """A file that can't be held to lets nobody in by mistake."""
    gw.add_key()

    def restrict(doc):
        o = doc["organizations"][0]
        (o if where == "organization" else o["keys"][0])[member] = value
    gw.edit_keys(restrict)
    rc, output = gw.configtest()
    assert rc and member in output and str(gw.keyfile) in output


def test_unknown_members_of_the_file_do_not_disturb(gw):
    key = gw.add_key()[0]

    def more(doc):
        doc["plans"] = {"free": {"rate": "10/s"}}
        doc["x"] = [1, {"y": None}]
        doc["organizations"][0]["plan"] = "free"
        doc["organizations"][0]["keys"][0]["note"] = "\u00e9"
    gw.edit_keys(more)
    gw.start()
    assert gw.get("/x", key=key).status == 200
    gw.key(name="another")  # written back whole
    doc = json.loads(gw.keyfile.read_text())
    assert doc["x"] == [1, {"y": None}] and "free" in doc["plans"]
    assert doc["organizations"][0]["plan"] == "free"
