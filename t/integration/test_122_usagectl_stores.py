# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""usagectl's commands on plans, organizations and keys, each on a key file and
on PostgreSQL: what they say, and what they leave in the store."""
import csv
import datetime
import hashlib
import hmac
import io
import re

import pytest

from processes import register_secret
from usagectl_stores import (ALL, ATTRIBUTES, KINDS, NOBODY, ORG, OTHER, STORES,
                             WANT, makers, near, new_store, sha256, when)


@pytest.fixture(params=STORES)
def store(request):
    return new_store(request)


@pytest.fixture
def three(store):
    return makers(store)


# --- attributes --------------------------------------------------------------

@pytest.mark.parametrize("kind", KINDS)
def test_create_takes_all_attributes(store, three, kind):
    name = three[kind](*ALL, "--not-billable")
    stored = store.of(kind, name)
    assert {k: stored[k] for k in WANT} == WANT
    assert stored["billable"] is False
    shown = store.json(kind, "show", name)
    assert {k: shown[k] for k in WANT} == WANT
    assert (shown["id"], shown["billable"]) == (name, False)
    [row] = [r for r in store.json(kind, "list") if r["id"] == name]
    assert row == {k: v for k, v in shown.items() if k in row}


@pytest.mark.parametrize("kind", KINDS)
def test_create_without_attributes_has_none(store, three, kind):
    name = three[kind]()
    assert not set(store.of(kind, name)) & set(WANT)
    assert store.of(kind, name)["billable"] is True
    assert not set(store.json(kind, "show", name)) & set(WANT)


@pytest.mark.parametrize("kind", KINDS)
def test_set_changes_what_it_names_and_nothing_else(store, three, kind):
    name = three[kind]()
    want = dict(store.of(kind, name))
    for attribute, (options, value, _) in ATTRIBUTES.items():
        store.ok(kind, "set", name, *options)
        want[attribute] = value
        assert store.of(kind, name) == want
    for option, value in (("--not-billable", False), ("--billable", True)):
        store.ok(kind, "set", name, option)
        want["billable"] = value
        assert store.of(kind, name) == want
    for attribute, (_, _, no) in ATTRIBUTES.items():
        store.ok(kind, "set", name, no)
        del want[attribute]
        assert store.of(kind, name) == want
        store.ok(kind, "set", name, no)     # none to take away: as good
        assert store.of(kind, name) == want


@pytest.mark.parametrize("kind", KINDS)
def test_set_takes_many_at_once_and_replaces_lists(store, three, kind):
    name = three[kind](*ALL)
    done = store.ok(kind, "set", name, "--path", "/v3/", "--path", "/v3/",
                    "--no-rate", "--quota", "5/day", "--not-billable")
    assert done.stdout == ""
    got = store.of(kind, name)
    assert (got["paths"], got["quota"], got["billable"]) == \
        (["/v3/"], "5/day", False)
    assert "rate" not in got
    assert (got["networks"], got["methods"]) == \
        (WANT["networks"], WANT["methods"])


def test_plan_of_organization_and_key(store, three):
    for plan in ("gold", "silver"):
        store.ok("plan", "create", plan)
    org = three["org"]("--plan", "gold")
    key = store.create("--plan", "silver", org=org)[1]["id"]
    assert store.of("org", org)["plan"] == "gold"
    assert store.of("key", key)["plan"] == "silver"
    store.ok("org", "set", org, "--plan", "silver")
    store.ok("key", "set", key, "--no-plan")
    assert store.of("org", org)["plan"] == "silver"
    assert "plan" not in store.of("key", key)
    store.ok("key", "set", key, "--plan", "gold")
    rows = {r["id"]: r for r in store.json("plan", "list")}
    assert (rows["gold"]["organizations"], rows["gold"]["keys"]) == (0, 1)
    assert (rows["silver"]["organizations"], rows["silver"]["keys"]) == (1, 0)


def test_key_name_and_expires(store):
    key = store.create("--name", "a", "--expires",
                       "2030-01-31T13:30:00+01:30")[1]["id"]
    assert store.of("key", key)["expires"] == "2030-01-31T12:00:00Z"
    store.ok("key", "set", key, "--name", "Zoë's", "--expires",
             "2031-01-31T12:00:00.25Z")
    shown = store.json("key", "show", key)
    assert (shown["name"], when(shown["expires"])) == \
        ("Zoë's", when("2031-01-31T12:00:00.250000+00:00"))
    store.ok("key", "set", key, "--no-expires")
    got = store.key(key)
    assert (got["expires"], got["name"]) == (None, "Zoë's")
    done = store.ok("key", "set", key, "--expires", "2020-01-01T00:00:00Z")
    assert "expired already" in done.stderr
    assert store.json("key", "show", key)["state"] == "expired"


def test_expires_is_after_1970(store):
    key = store.create()[1]["id"]
    for text in ("1970-01-01T00:00:00Z", "1969-12-31T23:59:59Z"):
        store.refused("key", "set", key, "--expires", text, status=2,
                      says="--expires must be a time with a zone, after 1970")
    store.ok("key", "set", key, "--expires", "9999-12-31T23:59:59Z")
    assert store.json("key", "show", key)["expires"] == "9999-12-31T23:59:59Z"


def test_org_name(store, three):
    org = three["org"]()
    store.ok("org", "set", org.upper(), "--name", "Acme Łtd")
    assert store.of("org", org)["name"] == "Acme Łtd"
    assert store.json("org", "show", org)["name"] == "Acme Łtd"


def test_a_new_organization_of_a_key_is_told(store):
    """Whoever mistyped its id would bill somebody new."""
    for org, new in ((ORG, True), (ORG, False), (OTHER, True)):
        done = store.ok("key", "create", "--org", org)
        register_secret(done.stdout.strip())
        assert (f"note: organization {org} is new\n" in done.stderr) == new
    org = NOBODY
    store.ok("org", "create", "--id", org, "--name", "Acme")
    done = store.ok("key", "create", "--org", org)
    register_secret(done.stdout.strip())
    assert "is new" not in done.stderr


def test_a_new_organization_of_a_key_has_a_name(store):
    store.create("--org-name", "Acme")
    store.create(org=OTHER)
    names = {o["id"]: o["name"] for o in store.json("org", "list")}
    assert names == {ORG: "Acme",
                     OTHER: "" if store.kind == "file" else OTHER}
    done = store.ok("key", "create", "--org", ORG, "--org-name", "Other")
    register_secret(done.stdout.strip())
    assert "keeps its name" in done.stderr
    assert store.organizations()[ORG]["name"] == "Acme"


def test_key_show_has_all_that_bears_on_it(store):
    store.ok("plan", "create", "gold", "--rate", "1/s", "--quota", "1/day",
             "--network", "10.0.0.0/8", "--not-billable")
    store.ok("org", "create", "--id", ORG, "--name", "Acme", "--plan", "gold",
             "--rate", "2/s", "--path", "/v1/", "--not-billable")
    key = store.create("--network", "10.1.0.0/16", "--method", "GET",
                       "--not-billable", "--name", "ci")[1]["id"]
    shown = store.json("key", "show", key)
    assert shown["organization_name"] == "Acme"
    assert (shown["hash_kind"], shown["state"]) == ("sha256", "active")
    assert shown["billable"] is False
    assert shown["not_billable_by"] == ["plan", "organization", "key"]
    assert "plan" not in shown and "rate" not in shown
    assert {k: v for k, v in shown.items() if k.startswith("effective_")} == {
        "effective_plan": "gold", "effective_org_rate": "2/s",
        "effective_org_quota": "1/day",
        "effective_networks": [["10.0.0.0/8"], ["10.1.0.0/16"]],
        "effective_paths": [["/v1/"]], "effective_methods": [["GET"]]}
    store.ok("key", "set", key, "--rate", "3/s")
    shown = store.json("key", "show", key)
    assert (shown["effective_key_rate"], shown["effective_org_rate"]) == (
        "3/s", "2/s")
    # its own plan instead of its organization's
    store.ok("plan", "create", "own", "--network", "10.2.0.0/16")
    store.ok("key", "set", key, "--plan", "own", "--billable")
    shown = store.json("key", "show", key)
    assert shown["effective_plan"] == "own"
    assert "effective_org_quota" not in shown
    assert shown["not_billable_by"] == ["organization"]
    assert shown["effective_networks"] == [["10.2.0.0/16"], ["10.1.0.0/16"]]
    table = store.ok("key", "show", key).stdout
    assert re.search(r"^effective_networks +10\.2\.0\.0/16 and 10\.1\.0\.0/16$",
                     table, re.M)
    # in a list it is billed as its requests are
    [row] = store.json("key", "list")
    assert row["billable"] is False


# --- lists -------------------------------------------------------------------

HEADS = {
    "plan": "NAME RATE QUOTA BILLABLE ORGANIZATIONS KEYS",
    "org": "ID NAME BILLABLE KEYS PLAN",
    "key": "ID ORGANIZATION NAME PREFIX CREATED EXPIRES BILLABLE STATE",
}


@pytest.mark.parametrize("kind", KINDS)
def test_lists_in_three_formats(store, three, kind):
    name = three[kind](*ALL)
    [row] = [r for r in store.json(kind, "list") if r["id"] == name]
    lines = store.ok(kind, "list").stdout.splitlines()
    assert lines[0].split() == HEADS[kind].split()
    assert len(lines) == 2 and name in lines[1]
    assert store.ok(kind, "list", "--format", "table").stdout.splitlines() \
        == lines
    [got] = csv.DictReader(io.StringIO(
        store.ok(kind, "list", "--format", "csv").stdout))
    assert set(row) <= set(got)
    assert got["networks"] == "192.0.2.0/24 2001:db8::/32"
    assert (got["rate"], got["billable"]) == ("100/s burst=200", "true")


@pytest.mark.parametrize("kind", KINDS)
def test_show_in_three_formats(store, three, kind):
    name = three[kind](*ALL)
    shown = store.json(kind, "show", name)
    table = dict(line.split(None, 1) for line in store.ok(
        kind, "show", name).stdout.splitlines() if " " in line.strip())
    for attribute in ("rate", "quota"):
        assert table[attribute] == shown[attribute]
    assert table["paths"] == "/v1/ /v2/charge"
    [got] = csv.DictReader(io.StringIO(
        store.ok(kind, "show", name, "--format", "csv").stdout))
    assert set(shown) <= set(got)
    assert got["methods"] == "GET POST"
    for part in (table, got, shown):
        assert "hash" not in part


def test_empty_lists(store):
    for kind in KINDS:
        assert store.json(kind, "list") == []
        assert len(store.ok(kind, "list").stdout.splitlines()) == 1
        text = store.ok(kind, "list", "--format", "csv").stdout
        assert len(text.splitlines()) == 1


def test_key_list_of_one_organization(store):
    first = store.create()[1]["id"]
    second = store.create(org=OTHER)[1]["id"]
    for org, want in ((ORG.upper(), [first]), (OTHER, [second]),
                      (NOBODY, [])):
        rows = store.json("key", "list", "--org", org)
        assert [r["id"] for r in rows] == want
    assert {r["id"] for r in store.json("key", "list")} == {first, second}


def test_lists_say_when_they_cannot_be_written(store, three):
    for kind in KINDS:
        name = three[kind]()
        for args in ([kind, "list"], [kind, "show", name]):
            with open("/dev/full", "w", encoding="utf-8") as full:
                done = store.ctl(*args, stdout=full)
            assert done.returncode == 1
            assert "standard output can't be written" in done.stderr


# --- plans -------------------------------------------------------------------

def test_a_plan_is_deleted_when_nobody_has_it(store):
    store.ok("plan", "create", "gold")
    store.ok("org", "create", "--id", ORG, "--name", "Acme", "--plan", "gold")
    key = store.create("--plan", "gold")[1]["id"]
    used = "the plan is that of organizations or keys"
    store.refused("plan", "delete", "gold", says=used)
    store.ok("org", "set", ORG, "--no-plan")
    store.refused("plan", "delete", "gold", says=used)
    store.ok("key", "set", key, "--no-plan")
    store.ok("plan", "delete", "gold")
    assert store.plans() == {}
    store.refused("plan", "delete", "gold", says="there is no such plan")


def test_what_is_there_is_not_made_again(store, three):
    three["plan"]("--rate", "1/s")
    three["org"]()
    store.refused("plan", "create", "gold", "--rate", "2/s",
                  says="plan gold is there already")
    store.refused("org", "create", "--id", OTHER.upper(), "--name", "Again",
                  says=f"organization {OTHER} is there already")


def test_a_plan_has_to_be_there(store, three):
    org, key = three["org"](), three["key"]()
    for args in (["org", "create", "--id", NOBODY, "--name", "x"],
                 ["org", "set", org], ["key", "create", "--org", OTHER],
                 ["key", "create", "--org", NOBODY], ["key", "set", key]):
        store.refused(*args, "--plan", "platinum",
                      says="there is no such plan")


# --- what isn't there --------------------------------------------------------

@pytest.mark.parametrize("command, says", [
    (["plan", "show", "gold"], "there is no such plan in"),
    (["plan", "set", "gold", "--rate", "1/s"], "there is no such plan in"),
    (["plan", "delete", "gold"], "there is no such plan in"),
    (["org", "show", NOBODY], f"there is no organization {NOBODY} in"),
    (["org", "set", NOBODY, "--name", "x"],
     f"there is no organization {NOBODY} in"),
    (["key", "show", NOBODY], f"there is no key {NOBODY} in"),
    (["key", "set", NOBODY, "--name", "x"], f"there is no key {NOBODY} in"),
    (["key", "revoke", NOBODY], f"there is no key {NOBODY} in"),
    (["key", "rotate", NOBODY], f"there is no key {NOBODY} in"),
], ids=lambda v: "-".join(v[:2]) if isinstance(v, list) else "")
def test_what_is_not_there(store, command, says):
    store.create()
    store.refused(*command, says=says)


# --- revoke ------------------------------------------------------------------

def test_revoke(store):
    first, second = (store.create()[1] for _ in range(2))
    store.ok("key", "revoke", first["id"].upper())
    revoked = store.key(first["id"])["revoked"]
    assert near(revoked)
    assert store.keys() == [{**first, "revoked": revoked}, second]
    states = {r["id"]: r["state"] for r in store.json("key", "list")}
    assert states == {first["id"]: "revoked", second["id"]: "active"}
    store.edit(first["id"], revoked="2021-02-03T04:05:06Z")
    done = store.ok("key", "revoke", first["id"])
    assert "revoked before, at 2021-02-03T04:05:06Z" in done.stderr
    assert store.key(first["id"])["revoked"] == "2021-02-03T04:05:06Z"


# --- rotate ------------------------------------------------------------------

def test_rotate_makes_a_key_with_the_same_attributes(store):
    store.ok("plan", "create", "gold")
    key, old = store.create("--env", "test", "--name", "ci", "--plan", "gold",
                            "--expires", "2040-01-31T12:00:00Z", *ALL,
                            "--not-billable")
    done = store.ok("key", "rotate", old["id"].upper())
    new_key = done.stdout.rstrip("\n")
    register_secret(new_key)
    assert done.stdout == new_key + "\n" and new_key != key
    assert re.fullmatch(r"sk_test_[0-9A-Za-z]{36}", new_key)
    [new] = [k for k in store.keys() if k["id"] != old["id"]]
    assert new["hash"] == sha256(new_key)
    assert new["prefix"] == new_key[:12]
    assert new["replaces"] == old["id"]
    assert near(new["created"])
    same = ["organization_id", "name", "plan", "expires", "revoked",
            "billable", *WANT]
    assert {k: new[k] for k in same} == {k: old[k] for k in same}
    # a day, and nothing else of it changes
    ended = store.key(old["id"])
    assert near(ended["expires"], days=1)
    assert {**ended, "expires": old["expires"]} == old
    assert new["id"] in done.stderr and old["id"] in done.stderr
    assert store.json("key", "show", old["id"])["replaced_by"] == new["id"]
    assert store.json("key", "show", new["id"])["replaces"] == old["id"]
    rows = {r["id"]: r for r in store.json("key", "list")}
    assert rows[new["id"]]["replaces"] == old["id"]


@pytest.mark.parametrize("grace, delta", [
    ("30s", {"seconds": 30}), ("90min", {"minutes": 90}), ("2h", {"hours": 2}),
    ("7d", {"days": 7}), ("3650d", {"days": 3650})])
def test_rotate_grace(store, grace, delta):
    old = store.create()[1]
    store.new_key("key", "rotate", old["id"], "--grace", grace)
    assert near(store.key(old["id"])["expires"], **delta)
    assert store.key(old["id"])["revoked"] is None


@pytest.mark.parametrize("zero", ["0s", "0d"])
def test_rotate_without_grace_ends_the_old_key_at_once(store, zero):
    old = store.create()[1]
    store.new_key("key", "rotate", old["id"], "--grace", zero)
    ended = store.key(old["id"])
    assert near(ended["revoked"])
    assert {**ended, "revoked": None} == old


def test_rotate_never_lengthens_a_life(store):
    soon = (datetime.datetime.now(datetime.timezone.utc)
            + datetime.timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    old = store.create("--expires", soon)[1]
    _, new = store.new_key("key", "rotate", old["id"])
    assert store.key(old["id"]) == old
    assert new["expires"] == old["expires"] == soon


def test_rotate_of_a_key_that_does_not_work(store):
    old = store.create("--expires", "2020-01-01T00:00:00Z")[1]
    store.refused("key", "rotate", old["id"], says="is expired")
    store.ok("key", "revoke", old["id"])
    store.refused("key", "rotate", old["id"], says="is revoked")


def test_rotate_twice(store):
    """A key that was rotated ends soon, and so would one made from it."""
    old = store.create("--expires", "2040-01-31T12:00:00Z")[1]
    first = store.new_key("key", "rotate", old["id"])[1]
    says = f"rotate key {first['id']}, which replaces it"
    store.refused("key", "rotate", old["id"], says=says)
    # who lost the new key goes on from it
    second = store.new_key("key", "rotate", first["id"], "--grace", "0s")[1]
    assert second["replaces"] == first["id"]
    assert second["expires"] == "2040-01-31T12:00:00Z"
    store.refused("key", "rotate", old["id"],
                  says=f"rotate key {second['id']}, which replaces it")


def test_rotate_twice_where_the_new_key_does_not_work(store):
    """There is none to rotate."""
    for option, value, state in (("--name", "x", None),
                                 ("--expires", "2020-01-01T00:00:00Z",
                                  "expired")):
        old = store.create()[1]["id"]
        new = store.new_key("key", "rotate", old)[1]["id"]
        store.ok("key", "set", new, option, value)
        if not state:
            store.ok("key", "revoke", new)
        store.refused(
            "key", "rotate", old,
            says=f"key {old} was rotated before to key {new}, which replaces "
                 f"it and is {state or 'revoked'}: make a new one by usagectl "
                 "key create\n")


# --- secrets -----------------------------------------------------------------

SECRET = b"a secret of 32 bytes, and so of enough"


@pytest.fixture
def secret(store):
    path = store.dir / "secret"
    path.write_bytes(SECRET + b"\n")
    path.chmod(0o600)
    return path


def hmac_of(key):
    return "hmac-sha256:" + hmac.new(SECRET, key.encode(),
                                     hashlib.sha256).hexdigest()


def test_the_hash_is_the_keys(store, secret):
    key, entry = store.create()
    assert entry["hash"] == sha256(key)
    key, entry = store.create("--secret", str(secret))
    assert entry["hash"] == hmac_of(key)
    assert store.json("key", "show", entry["id"])["hash_kind"] == \
        "hmac-sha256"
    store.refused("key", "rotate", entry["id"],
                  says="--secret FILE is needed")
    key, entry = store.new_key("key", "rotate", entry["id"], "--secret",
                               f"file:{secret}")
    assert entry["hash"] == hmac_of(key)


def test_from_a_plain_hash_to_one_under_a_secret(store, secret):
    _, old = store.create()
    key, new = store.new_key("key", "rotate", old["id"], "--secret",
                             str(secret))
    assert new["hash"] == hmac_of(key)


def test_a_secret_that_cannot_be_used(store, secret):
    old = store.create()[1]["id"]
    short = store.dir / "short"
    short.write_text("short")
    short.chmod(0o600)
    secret.chmod(0o644)
    reasons = {short: "must hold 32 to 4096 bytes",
               secret: "can be read or written by everybody",
               store.dir / "none": "can't be read: No such file or directory",
               store.dir: "is not a regular file"}
    for path, why in reasons.items():
        for command in (["key", "create", "--org", ORG],
                        ["key", "rotate", old]):
            done = store.refused(*command, "--secret", str(path),
                                 says=f"{path}: {why}")
            assert SECRET.decode() not in done.stderr
