# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""usagectl on both stores when something comes between: nobody reads what it
writes, it is killed, others change the same, the database is away. And what is
written down of changes."""
import csv
import io
import itertools
import json
import os
import re
import resource
import socket

import pytest

from clients.http1 import poll
from processes import register_secret
from usagectl_stores import (ATTRIBUTES, FileStore, KINDS, NOBODY, ORG, OTHER,
                             PgStore, STORES, Store, WANT, finish, full_pipe,
                             makers, near, new_store, open_files, sha256,
                             start, wait_for_write)


#: It needs memory of its own.
ASAN = "asan" in os.environ.get("USAGECTL", "")


@pytest.fixture(params=STORES)
def store(request):
    return new_store(request)


@pytest.fixture
def three(store):
    return makers(store)


# --- a key that nobody has must not work -------------------------------------

def closed_out(command, store):
    return store.ctl(*command, stdout=None, preexec_fn=lambda: os.close(1))


def full_out(command, store):
    with open("/dev/full", "w", encoding="utf-8") as full:
        return store.ctl(*command, stdout=full)


def gone_reader(command, store):
    read, write = os.pipe()
    os.close(read)
    try:
        return store.ctl(*command, stdout=write)
    finally:
        os.close(write)


@pytest.mark.parametrize("how", [closed_out, full_out, gone_reader])
def test_a_key_that_cannot_be_shown_is_not_made(store, how):
    old = store.create()[1]["id"]
    before = store.everything()
    for command in (["key", "create", "--org", ORG],
                    ["key", "create", "--org", OTHER],
                    ["key", "rotate", old], ["key", "rotate", old,
                                             "--grace", "0s"]):
        done = how(command, store)
        assert done.returncode == 1
        assert "standard output can't be written" in done.stderr
        assert "no key was made" in done.stderr
        assert store.everything() == before


@pytest.mark.parametrize("command", ["create", "rotate"])
def test_a_key_that_is_shown_by_one_who_is_killed_is_not_made(store, command):
    """It is shown before it works, and not the other way round."""
    old = store.create()[1]["id"]
    before = store.everything()
    read, write = full_pipe()
    args = ["--org", ORG] if command == "create" else [old]
    proc = start(store, "key", command, *args, stdout=write)
    try:
        wait_for_write(proc)
        if store.kind == "postgresql":
            assert store.everything() == before
        proc.kill()
        proc.wait(timeout=20)
    finally:
        os.close(write)
        os.close(read)
        proc.stderr.close()
    after = store.everything()
    if store.kind == "file":
        # the draft, which the next one replaces
        assert after == (before[0], ["keys.json", "keys.json.new"])
    else:
        assert after == before
    # and it keeps nobody out
    store.new_key("key", "rotate", old)


# --- many at once ------------------------------------------------------------

def test_twenty_at_once_lose_nothing(store):
    """Of one key each attribute by another, and keys that are made, revoked
    and rotated meanwhile."""
    store.ok("plan", "create", "gold")
    old = [store.create()[1]["id"] for _ in range(6)]
    running = [start(store, "key", "set", old[0], *options)
               for options, _, _ in ATTRIBUTES.values()]
    running += [start(store, "key", "set", old[0], "--name", "many"),
                start(store, "key", "set", old[0], "--plan", "gold"),
                start(store, "plan", "set", "gold", "--rate", "7/s"),
                start(store, "org", "set", ORG, "--quota", "7/day")]
    running += [start(store, "key", "revoke", k) for k in old[1:3]]
    makers = [start(store, "key", "create", "--org", org)
              for org in (ORG, OTHER) for _ in range(3)]
    makers += [start(store, "key", "rotate", k) for k in old[3:6]]
    assert len(running) + len(makers) == 20
    for status, out, err in finish(running):
        assert (status, out) == (0, ""), err
    shown = []
    for status, out, err in finish(makers):
        assert status == 0, err
        register_secret(out.strip())
        shown.append(sha256(out.strip()))
    got = store.of("key", old[0])
    assert {k: got[k] for k in WANT} == WANT
    assert (got["name"], got["plan"]) == ("many", "gold")
    assert store.of("plan", "gold")["rate"] == "7/s"
    assert store.of("org", ORG)["quota"] == "7/day"
    keys = {k["id"]: k for k in store.keys()}
    assert all(keys[k]["revoked"] for k in old[1:3])
    assert all(keys[k]["expires"] for k in old[3:6])
    new = [k for i, k in keys.items() if i not in old]
    assert sorted(k["hash"] for k in new) == sorted(shown)
    assert sorted(k["replaces"] for k in new if k.get("replaces")) == \
        sorted(old[3:6])


def test_of_two_rotations_at_once_one_is_refused(store):
    """The second waits for the first, which waits for who reads its key."""
    old = store.create()[1]["id"]
    read, write = full_pipe()
    first = start(store, "key", "rotate", old, stdout=write)
    os.close(write)
    wait_for_write(first)
    second = start(store, "key", "rotate", old)
    if store.kind == "file":
        poll(lambda: f"{store.path}.lock" in open_files(second), 20,
             every=0.01, what="the second waits for the lock")
    else:
        poll(lambda: store.db.psql(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = "
            f"'Lock' AND datname = '{store.db}'") == "1", 20,
            what="the second waits for the row")
    with os.fdopen(read) as f:
        shown = f.read().lstrip("x").rstrip("\n")
    register_secret(shown)
    [(status, _, err)] = finish([first])
    assert status == 0, err
    [(status, out, err)] = finish([second])
    assert (status, out) == (1, "") and "was rotated before" in err
    [new] = [k for k in store.keys() if k["id"] != old]
    assert new["hash"] == sha256(shown)


def test_a_plan_is_not_deleted_under_who_takes_it(store):
    for n in range(3):
        plan = f"p{n}"
        store.ok("plan", "create", plan)
        makers = [start(store, "key", "create", "--org", ORG, "--plan", plan)
                  for _ in range(2)]
        [deleted] = finish([start(store, "plan", "delete", plan)])
        made = finish(makers)
        for status, out, _ in made:
            register_secret(out.strip() or "sk_none")
        have = [k for k in store.keys() if k.get("plan") == plan]
        assert len(have) == sum(status == 0 for status, _, _ in made)
        assert (deleted[0] == 0) == (plan not in store.plans())
        assert not have or plan in store.plans()


# --- how much ----------------------------------------------------------------

def test_lists_of_all_three_always_fit_together(store, three):
    def networks(n, second):
        return itertools.chain(*(
            ("--network", f"2001:db8:{second:x}:{i:x}::/64")
            for i in range(n)))
    for n, kind in enumerate(KINDS):
        name = three[kind]()
        store.ok(kind, "set", name, *networks(70, n))
        store.refused(kind, "set", name, *networks(80, n), says="too many")
        long = "/" + "x" * 1300
        store.refused(kind, "set", name, "--path", long + "/",
                      says="too many")
    store.ok("org", "set", OTHER, "--plan", "gold")
    store.create(*networks(70, 9), org=OTHER)
    store.refused("key", "create", "--org", ORG, *networks(80, 9),
                  says="too many")


# --- history -----------------------------------------------------------------

def test_a_key_file_keeps_no_history():
    store = FileStore()
    key = store.create()[1]["id"]
    for args in ([], [key]):
        store.refused("key", "changes", *args, says="keeps no history")


def test_changes(postgres):
    store = PgStore(postgres)
    store.ok("plan", "create", "gold", "--rate", "1/s")
    first, second = (store.create("--plan", "gold")[1]["id"]
                     for _ in range(2))
    store.ok("key", "set", first, "--name", "x", "--rate", "5/s")
    store.ok("key", "revoke", first)
    rows = store.json("key", "changes", first)
    assert [(r["what"], r["changed"]) for r in rows] == [
        ("insert api_keys", []), ("update api_keys", ["name", "rate"]),
        ("update api_keys", ["revoked"])]
    for row in rows:
        assert row["api_key_id"] == first
        assert row["organization_id"] == ORG
        assert row["who"].startswith("owner")
        assert near(row["at"])
        assert "hash" not in json.dumps(row)
    assert rows[0]["before"] is None
    assert rows[1]["after"]["rate"] == "5/s"
    assert rows[1]["id"] < rows[2]["id"]
    whole = store.json("key", "changes")
    assert [r["what"] for r in whole] == [
        "insert plans", "insert organizations", "insert api_keys",
        "insert api_keys", "update api_keys", "update api_keys"]
    assert whole[0]["plan"] == "gold"
    assert second in [r["api_key_id"] for r in whole]
    lines = store.ok("key", "changes", first).stdout.splitlines()
    assert lines[0].split() == ["AT", "WHO", "WHAT", "PLAN",
                                "ORGANIZATION", "KEY", "CHANGED"]
    assert ORG in lines[1]
    assert lines[2].endswith("name rate")
    got = list(csv.DictReader(io.StringIO(
        store.ok("key", "changes", first, "--format", "csv").stdout)))
    assert json.loads(got[1]["after"])["name"] == "x"
    assert store.json("key", "changes", NOBODY) == []


def test_changes_are_the_newest_so_many(postgres):
    store = PgStore(postgres)
    first, second = (store.create()[1]["id"] for _ in range(2))
    whole = store.json("key", "changes")
    for limit in (1, 2):
        done = store.ok("key", "changes", "--limit", str(limit),
                        "--format", "json")
        assert json.loads(done.stdout) == whole[-limit:]
        assert f"older changes than these {limit};" in done.stderr
    done = store.ok("key", "changes", "--limit", "3")
    assert done.stderr == "" and len(done.stdout.splitlines()) == 4
    store.ok("key", "set", first, "--name", "x")
    assert store.json("key", "changes", first, "--limit", "1")[0]["changed"] \
        == ["name"]
    done = store.ok("key", "changes", second, "--limit", "1")
    assert done.stderr == ""
    store.db.psql("UPDATE api_keys SET name = n::text FROM "
                  f"generate_series(1, 1) n WHERE id = '{second}'; "
                  "INSERT INTO plans (name) SELECT 'p' || n FROM "
                  "generate_series(1, 1200) n")
    rows = store.json("key", "changes")
    assert len(rows) == 1000
    assert [r["id"] for r in rows] == sorted(r["id"] for r in rows)
    assert len(store.json("key", "changes", "--limit", "999999999")) == 1205


# --- many --------------------------------------------------------------------

MANY = 20000


@pytest.fixture
def many(postgres):
    """Keys of a few organizations. Some pages on, one is much longer."""
    store = PgStore(postgres)
    store.db.psql(f"""
        INSERT INTO organizations (id, name) SELECT gen_random_uuid(), 'o'
            FROM generate_series(1, 10);
        INSERT INTO api_keys (id, organization_id, hash, name)
            SELECT gen_random_uuid(), o.id, 'sha256:' || encode(sha256(
                (o.id::text || n)::bytea), 'hex'),
                CASE n WHEN {MANY // 10} THEN repeat('x', 150) ELSE 'n' END
            FROM organizations o, generate_series(1, {MANY // 10}) n""")
    return store


def little_memory():
    """All of it at once would be twice that."""
    resource.setrlimit(resource.RLIMIT_DATA, (24 << 20, 24 << 20))


@pytest.mark.parametrize("what", ["key list", "key changes"])
def test_memory_of_long_lists(many, what):
    """It doesn't grow with what is listed, of which all is."""
    args = what.split()
    if what == "key changes":
        args += ["--limit", "999999999"]
    ids = [r["id"] for r in many.json(*args)]
    assert len(ids) == len(set(ids)) == MANY + 10 * (what == "key changes")
    if what == "key list":
        assert ids == many.db.psql(
            "SELECT k.id FROM api_keys k JOIN organizations o ON o.id = "
            "k.organization_id ORDER BY o.created, o.id, k.created, k.id"
        ).split()
    for form in ("table", "json", "csv"):
        out = many.dir / form
        with open(out, "w", encoding="utf-8") as f:
            done = many.ctl(*args, "--format", form, stdout=f,
                            preexec_fn=None if ASAN else little_memory)
        assert done.returncode == 0, done.stderr
    assert len((many.dir / "csv").read_text().splitlines()) == len(ids) + 1
    lines = (many.dir / "table").read_text().splitlines()
    assert len(lines) == len(ids) + 1
    if what == "key list":  # the long ones move no others
        assert len({len(l) for l in lines[1:] if "xxx" not in l}) == 1


def test_a_long_list_ends_when_nobody_reads_it(many):
    mark = many.db.mark()
    done = gone_reader(["key", "list", "--format", "json"], many)
    assert done.returncode == 1
    assert done.stderr.count("standard output can't be written") == 1
    assert len(many.db.queries("FETCH", mark, "owner")) < 5


def test_a_list_that_breaks_off_does_not_look_whole(many):
    read, write = os.pipe()
    proc = start(many, "key", "list", "--format", "json", stdout=write)
    os.close(write)
    wait_for_write(proc)
    many.db.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                 f"WHERE datname = '{many.db}' AND usename = 'owner'")
    with os.fdopen(read) as f:
        text = f.read()
    [(status, _, err)] = finish([proc])
    assert (status, text.count("organization_id") < MANY) == (3, True), err
    assert not text.rstrip().endswith("]")


# --- what the database says --------------------------------------------------

def test_a_refusal_of_the_database_is_told(postgres):
    store = PgStore(postgres)
    old = store.create()[1]["id"]
    store.db.psql("REVOKE INSERT ON plans FROM owner; "
                  "REVOKE UPDATE ON api_keys FROM owner")
    store.refused("plan", "create", "gold",
                  says="the database refused it: user owner has no right to "
                       "(permission denied for table plans); usagectl works "
                       "as the tables' owner")
    store.refused("key", "revoke", old,
                  says="permission denied for table api_keys")


def test_a_refusal_that_repeats_a_hash_is_not(postgres):
    """A trigger of somebody's own says what it likes. (That no hash is told
    is looked at with each command.)"""
    store = PgStore(postgres)
    store.create()
    store.db.psql("""
        CREATE FUNCTION say() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'no % please', NEW.hash; END $$;
        CREATE TRIGGER a_say BEFORE INSERT ON api_keys
            FOR EACH ROW EXECUTE FUNCTION say()""")
    store.refused("key", "create", "--org", ORG,
                  says="the database refused it (SQLSTATE P0001)")


def test_a_refused_command_leaves_no_history(postgres):
    store = PgStore(postgres)
    old = store.create()[1]["id"]
    before = store.json("key", "changes")
    full_out(["key", "rotate", old], store)
    store.ctl("key", "set", old, "--plan", "none")
    assert store.json("key", "changes") == before


# --- the database ------------------------------------------------------------

def test_group_is_of_files(postgres):
    store = PgStore(postgres)
    for args in (["key", "create", "--org", ORG], ["plan", "create", "gold"],
                 ["org", "create", "--id", ORG, "--name", "x"]):
        store.refused(*args, "--group", "root", says="--group is of a new",
                      status=2)


def test_each_command_is_one_transaction(postgres):
    store = PgStore(postgres)
    old = store.create()[1]["id"]
    mark = store.db.mark()
    store.new_key("key", "rotate", old)
    sent = [q for q in store.db.queries("", mark, "owner")
            if re.match("BEGIN|COMMIT|ROLLBACK|INSERT|UPDATE", q)]
    assert [q.split()[0] for q in sent] == ["BEGIN", "INSERT", "UPDATE",
                                            "COMMIT"]
    # values are parameters
    assert not [q for q in sent if old in q]


@pytest.mark.parametrize("command", [
    "plan create x", "plan list", "plan show x", "plan set x --rate 1/s",
    "plan delete x", f"org create --id {ORG} --name x", "org list",
    f"org show {ORG}", f"org set {ORG} --name x", f"key create --org {ORG}",
    "key list", f"key show {ORG}", f"key set {ORG} --name x",
    f"key revoke {ORG}", f"key rotate {ORG}", "key changes"])
def test_a_database_out_of_reach(command):
    store = Store()
    store.secrets = ["s3cretpw"]
    with socket.socket() as s:  # bound, but nobody listens
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
        done = store.ctl(*command.split(), url=f"postgresql://owner:s3cretpw@"
                                               f"127.0.0.1:{port}/x")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("usagectl ")
