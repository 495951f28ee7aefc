# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""The database: what conf/schema.sql makes, what it tells gateways and writes
down, and usagectl init-db, on real PostgreSQL."""
import json
import os
import re
import subprocess
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from clients.http1 import poll
from harness import REPO
from postgres import SCHEMA, clean_env
from processes import new_dir, run, tool
from schema_helpers import (APPLIED, NOTHING, VERSIONS, Keys, ctl, hash_of,
                            init, start_ctl)

#: A million in make test-faults.
MANY = 1000000 if os.environ.get("UE_FAULTS") else 100000

OBJECTS = """
SELECT string_agg(x, E'\\n' ORDER BY x) FROM (
    SELECT relkind::text || ' ' || relname || coalesce(relacl::text, '')
    FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'column ' || attrelid::regclass || '.' || attname FROM pg_attribute
        JOIN pg_class ON pg_class.oid = attrelid
    WHERE relnamespace = 'public'::regnamespace AND attnum > 0
    UNION ALL
    SELECT 'function ' || proname || coalesce(proconfig::text, '')
        || coalesce(proacl::text, '')
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'trigger ' || pg_get_triggerdef(t.oid) FROM pg_trigger t
        JOIN pg_class c ON c.oid = tgrelid
    WHERE relnamespace = 'public'::regnamespace AND NOT tgisinternal
) AS all_of_it (x)"""


@pytest.fixture
def db(postgres):
    return postgres.new_database()


@pytest.fixture
def empty(postgres):
    postgres._template()  # so that the role is there
    return postgres.new_database(schema=False)


@pytest.fixture
def keys(db):
    return Keys(db)


# --- init-db -----------------------------------------------------------------

def test_init_db_and_again(empty):
    done = init(empty)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", APPLIED)
    before = empty.psql(OBJECTS)
    assert "usage_gateway_keys" in before
    assert empty.psql("SELECT version FROM usage_schema_version ORDER BY 1"
                      ).split() == [str(n) for n in VERSIONS]
    for _ in range(2):
        done = init(empty)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", NOTHING)
    assert empty.psql(OBJECTS) == before


def test_psql_makes_the_same_once(empty, postgres):
    other = postgres.new_database(schema=False)
    init(other)
    empty.psql_file(SCHEMA)
    made = empty.psql(OBJECTS)
    assert made == other.psql(OBJECTS)
    # and init-db finds it done
    assert init(empty).stderr == NOTHING
    assert "already exists" in empty.psql_file(SCHEMA, check=False).stderr
    assert empty.psql(OBJECTS) == made


def test_five_at_once(empty):
    running = [start_ctl("init-db", "--store", empty.url()) for _ in range(5)]
    said = sorted(proc.communicate(timeout=60)[1] for proc in running)
    assert [proc.returncode for proc in running] == [0] * 5, said
    assert said == 4 * [NOTHING] + [APPLIED]


def test_a_newer_database_is_refused(db):
    db.psql("INSERT INTO usage_schema_version VALUES (99)")
    before = db.psql(OBJECTS)
    done = init(db)
    assert done.returncode == 1
    assert done.stderr == (
        "usagectl init-db: the database has version 99, this usagectl knows "
        f"version {VERSIONS[-1]}: use a newer one\n")
    assert db.psql(OBJECTS) == before
    done = ctl("org", "list", "--store", db.url())
    assert done.returncode == 1 and "version 99" in done.stderr


def test_a_database_without_tables(empty):
    done = ctl("org", "list", "--store", empty.url())
    assert done.returncode == 1
    assert done.stderr == ("usagectl org list: the database has none of the "
                           "tables: run usagectl init-db\n")


COMMENTS = """
SELECT string_agg(c.relname || '.' || a.attname, ' ')
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
    AND a.attnum > 0 AND col_description(c.oid, a.attnum) IS NULL"""


def test_every_column_has_a_comment(db):
    assert db.psql(COMMENTS) == ""


def test_names_and_hashes_are_compared_byte_by_byte(db):
    found = db.psql(
        "SELECT c.relname || '.' || a.attname FROM pg_class c "
        "JOIN pg_attribute a ON a.attrelid = c.oid "
        "WHERE a.attcollation = 'pg_catalog.\"C\"'::regcollation "
        "AND c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' "
        "ORDER BY 1").split()
    assert found == ["api_key_changes.plan", "api_keys.hash", "api_keys.plan",
                     "organizations.plan", "plans.name"]


#: Tables that others might have under our names.
OURS = "name text PRIMARY KEY, rate text, quota text, networks text[], " \
    "paths text[], methods text[], billable boolean, created timestamptz"


@pytest.mark.parametrize("table, columns", [
    ("plans", OURS), ("plans", "id int, price numeric"),
    ("organizations", "id uuid PRIMARY KEY, name text, plan text"),
    ("api_keys", "mine text"), ("api_key_changes", "id bigint"),
    ("usage_schema_version", "version integer PRIMARY KEY, applied date")])
def test_somebody_elses_table_is_left_alone(empty, table, columns):
    empty.psql(f"CREATE TABLE {table} ({columns})", user="owner")
    before = empty.psql(OBJECTS)
    done = init(empty)
    assert (done.returncode, done.stderr) == (
        1, "usagectl init-db: the database refused it: there is a table "
        f'"{table}" already that isn\'t ours: use a database of its own, or a '
        "schema (?options=-csearch_path%3Dusage)\n"
        "usagectl: version 1 could not be applied, so nothing was changed\n")
    assert empty.psql(OBJECTS) == before
    # what it says helps
    empty.psql("CREATE SCHEMA usage", user="owner")
    done = ctl("init-db", "--store",
               empty.url() + "?options=-csearch_path%3Dusage")
    assert done.returncode == 0, done.stderr
    assert empty.psql(OBJECTS) == before


NO_ROLE = ("usagectl: the database says: no right to make the role "
           "usage_gateway: let somebody who has it run CREATE ROLE "
           "usage_gateway, and init-db again\n")
NO_GRANT = ("usagectl: the database says: no right to grant what the role "
            "usage_gateway needs: let the owner run init-db\n")
NOT_COMPLETE = ("usagectl init-db: not complete: no gateway can read keys "
                "until that is done\n")


def test_without_the_right_to_make_roles(postgres_own):
    server = postgres_own()
    db = server.new_database(schema=False)
    server.role("modest")
    db.psql(f"ALTER DATABASE {db} OWNER TO modest")
    for said in (APPLIED, NOTHING):
        done = init(db, user="modest")
        assert (done.returncode, done.stderr) == (
            1, f"{NO_ROLE}{said}{NOT_COMPLETE}")
    db.psql("CREATE ROLE usage_gateway")
    server.role("gateway", "IN ROLE usage_gateway")
    select = "SELECT count(*) FROM usage_gateway_keys"
    assert "permission denied" in db.psql(select, user="gateway",
                                          check=False).stderr
    done = init(db, user="modest")
    assert (done.returncode, done.stderr) == (0, NOTHING)
    assert db.psql(select, user="gateway") == "0"
    # somebody else than the owner may find all in order, too
    assert init(db, user="postgres").returncode == 0
    db.psql("GRANT SELECT ON usage_schema_version TO gateway")
    done = init(db, user="gateway")
    assert (done.returncode, done.stderr) == (0, NOTHING)
    db.psql("REVOKE SELECT ON usage_gateway_keys FROM usage_gateway")
    done = init(db, user="gateway")
    assert (done.returncode, done.stderr) == (
        1, f"{NO_GRANT}{NOTHING}{NOT_COMPLETE}")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_gateway_needs_nothing_of_everybody(empty, when):
    def harden():
        empty.psql("REVOKE ALL ON SCHEMA public FROM PUBLIC;"
                   f"REVOKE ALL ON DATABASE {empty} FROM PUBLIC")

    if when == "before":
        harden()
    assert init(empty).returncode == 0
    harden()
    assert empty.psql("SELECT count(*) FROM usage_gateway_keys",
                      user="gateway") == "0"
    with empty.listener(user="gateway") as listener:
        Keys(empty).add(1)
        assert listener.notes() == [hash_of(1)]
    # whoever took it away altogether gets it back
    empty.psql("REVOKE ALL ON SCHEMA public FROM usage_gateway;"
               f"REVOKE ALL ON DATABASE {empty} FROM usage_gateway")
    assert empty.psql("SELECT", user="gateway", check=False).returncode != 0
    assert init(empty).stderr == NOTHING
    assert empty.psql("SELECT count(*) FROM usage_gateway_keys",
                      user="gateway") == "1"


def test_another_schema_than_public(empty):
    """All lands where search_path says, and works whatever it says later."""
    empty.psql("CREATE SCHEMA metering AUTHORIZATION owner", user="postgres")
    url = empty.url(options="-csearch_path=metering")
    assert ctl("init-db", "--store", url).returncode == 0
    assert ctl("org", "create", "--id", uuid.UUID(int=7), "--name", "a",
               "--store", url).returncode == 0
    assert empty.psql("SELECT count(*) FROM pg_class WHERE relnamespace = "
                      "'public'::regnamespace") == "0"
    assert empty.psql("SELECT name FROM metering.organizations",
                      user="owner") == "a"
    # a writer with tables of the same names before ours
    empty.psql("CREATE SCHEMA bait; CREATE TABLE bait.api_key_changes (x int);"
               "CREATE TABLE bait.api_keys (hash text);"
               "SET search_path = bait, metering;"
               "UPDATE metering.organizations SET name = 'b'")
    assert empty.psql("SELECT count(*) FROM metering.api_key_changes") == "2"
    assert empty.psql("SET search_path = metering; SELECT count(*) FROM "
                      "usage_gateway_keys", user="gateway") == "0"


@pytest.mark.parametrize("args, env", [
    ((), {}), (("--store", "file:/tmp/keys.json"), {}),
    ((), {"DATABASE_URL": "file:/tmp/keys.json"}), ((), {"DATABASE_URL": ""}),
    (("--store", "mysql://localhost"), {}),
    (("--store", "postgresql://h", "more"), {}),
    (("--org", "x"), {})])
def test_wrong_use(args, env):
    done = ctl("init-db", *args, env=env)
    assert done.returncode == 2 and done.stderr and not done.stdout


def test_help():
    done = ctl("init-db", "--help")
    assert done.returncode == 0 and "PostgreSQL" in done.stdout
    assert "init-db" in ctl("--help").stdout


# --- what is written down ----------------------------------------------------

CHANGES = ("SELECT who, what, plan, organization_id, api_key_id, before, after "
           "FROM api_key_changes ORDER BY id")


def changes(db):
    return json.loads(db.psql(
        f"SELECT coalesce(json_agg(c), '[]') FROM ({CHANGES}) AS c"))


def test_changes_of_a_key(keys, db):
    key = keys.add(1, name="ci")
    db.psql("SET usage.who = 'alice@desk'; UPDATE api_keys SET revoked = "
            "'2026-01-31T12:00:00Z'; UPDATE api_keys SET name = name",
            user="owner")
    db.psql("DELETE FROM api_keys")
    seen = changes(db)
    assert [(c["who"], c["what"], c["api_key_id"]) for c in seen] == [
        ("owner", "insert organizations", None),
        ("owner", "insert api_keys", key),
        ("owner (alice@desk)", "update api_keys", key),
        ("postgres", "delete api_keys", key)]
    assert {c["organization_id"] for c in seen} == {keys.org}
    _, insert, update, delete = seen
    assert insert["before"] is None and insert["after"]["name"] == "ci"
    assert update["before"] == insert["after"]
    assert {k for k in update["after"]
            if update["after"][k] != update["before"][k]} == {"revoked"}
    assert delete["before"] == update["after"] and delete["after"] is None


def test_changes_of_plans_and_organizations(db):
    org = str(uuid.uuid4())
    db.psql("INSERT INTO plans (name, rate) VALUES ('gold', '1/s');"
            f"INSERT INTO organizations (id, name) VALUES ('{org}', 'a');"
            "UPDATE plans SET rate = '2/s';"
            "UPDATE organizations SET plan = 'gold';"
            "DELETE FROM organizations; UPDATE plans SET name = 'old';"
            "DELETE FROM plans")
    seen = [(c["what"], c["plan"], c["organization_id"], c["api_key_id"])
            for c in changes(db)]
    assert seen[:5] == [
        ("insert plans", "gold", None, None),
        ("insert organizations", None, org, None),
        ("update plans", "gold", None, None),
        ("update organizations", "gold", org, None),
        ("delete organizations", "gold", org, None)]
    # a plan that is called otherwise: under either name
    assert sorted(seen[5:7]) == [("update plans", "gold", None, None),
                                 ("update plans", "old", None, None)]
    assert seen[7:] == [("delete plans", "old", None, None)]


def test_changes_say_when(keys, db):
    before = float(db.psql("SELECT extract(epoch FROM clock_timestamp())"))
    db.psql("BEGIN; SELECT pg_sleep(0.2); UPDATE organizations SET name = 'b';"
            "COMMIT")
    at = float(db.psql("SELECT extract(epoch FROM at) FROM api_key_changes "
                       "ORDER BY id DESC LIMIT 1"))
    assert before + 0.2 <= at <= before + 60


def test_hashes_are_not_written_down(keys, db):
    keys.add(1)
    db.psql(f"UPDATE api_keys SET hash = 'hmac-sha256:{hash_of(2)}';"
            "DELETE FROM api_keys")
    text = db.psql(CHANGES)
    assert text.count("api_keys") == 3 and "update api_keys" in text
    assert hash_of(1) not in text and hash_of(2) not in text
    assert "sha256" not in text
    # but that it was another one
    _, insert, update, delete = changes(db)
    assert update["after"] == {**update["before"], "hash": "changed"}
    assert not any("hash" in (c[when] or {}) for c, when in (
        (insert, "after"), (update, "before"), (delete, "before")))


def test_truncate_is_written_down(keys, db):
    keys.add(1)
    db.psql("TRUNCATE plans, organizations, api_keys")
    assert [c["what"] for c in changes(db)][2:] == [
        "truncate plans", "truncate organizations", "truncate api_keys"]


def test_usagectl_says_who(db):
    assert ctl("org", "create", "--id", uuid.UUID(int=5), "--name", "x",
               "--store", db.url()).returncode == 0
    assert re.fullmatch(r"owner \(\w+@[^ ]+\)", changes(db)[0]["who"])


# --- what gateways are told --------------------------------------------------

@pytest.fixture
def listener(db):
    with db.listener(user="gateway") as it:
        yield it


def test_notes_of_keys(keys, db, listener):
    assert listener.notes() == []
    keys.add(1)
    assert listener.notes() == [hash_of(1)]
    keys.add(2, hash=f"hmac-sha256:{hash_of(2)}")
    assert listener.notes() == [hash_of(2)]
    for change in ("revoked = now()", "expires = now()", "billable = false",
                   "paths = '{/v1/}'", "name = 'x'"):
        db.psql(f"UPDATE api_keys SET {change} WHERE hash ~ '^sha256'")
        assert listener.notes() == [hash_of(1)]
    # one that gets another hash: both
    db.psql(f"UPDATE api_keys SET hash = 'sha256:{hash_of(3)}' "
            "WHERE hash ~ '^sha256'")
    assert sorted(listener.notes()) == [hash_of(1), hash_of(3)]
    # rotated: the new one, and the old one, which gets an end
    keys.add(4, replaces=uuid.UUID(int=1))
    db.psql("UPDATE api_keys SET expires = now() + interval '1 day' WHERE "
            f"id = '{uuid.UUID(int=1)}'")
    assert listener.notes() == [hash_of(4), hash_of(3)]
    db.psql(f"DELETE FROM api_keys WHERE id = '{uuid.UUID(int=2)}'")
    assert listener.notes() == [hash_of(2)]
    db.psql("DELETE FROM api_keys WHERE false; "
            "UPDATE api_keys SET name = 'y' WHERE false")
    assert listener.notes() == []


def test_no_note_of_what_was_rolled_back(keys, db, listener):
    db.psql("BEGIN; INSERT INTO api_keys (id, organization_id, hash) VALUES "
            f"('{uuid.uuid4()}', '{keys.org}', 'sha256:{hash_of(1)}'); "
            "ROLLBACK")
    assert listener.notes() == []


def test_notes_of_organizations(keys, db, listener):
    other = Keys(db)
    keys.add(1), keys.add(2), other.add(3)
    listener.notes()
    db.psql(f"UPDATE organizations SET billable = false WHERE id = "
            f"'{keys.org}'")
    assert sorted(listener.notes()) == [hash_of(1), hash_of(2)]


def test_notes_of_plans(keys, db, listener):
    """Those that have it, by themselves or by their organization."""
    other = Keys(db)
    db.psql("INSERT INTO plans (name) VALUES ('gold'), ('lead'); "
            f"UPDATE organizations SET plan = 'gold' WHERE id = '{keys.org}'")
    keys.add(1), keys.add(2, plan="lead"), other.add(3, plan="gold")
    other.add(4)
    listener.notes()
    db.psql("UPDATE plans SET billable = false WHERE name = 'gold'")
    assert sorted(listener.notes()) == [hash_of(1), hash_of(3)]
    db.psql("UPDATE plans SET billable = false WHERE name = 'lead'")
    assert listener.notes() == [hash_of(2)]


def many(keys, n):
    keys.db.psql(
        "INSERT INTO api_keys (id, organization_id, hash) SELECT "
        f"gen_random_uuid(), '{keys.org}', 'sha256:' || "
        f"lpad(to_hex(i), 64, '0') FROM generate_series(1, {n}) AS i",
        timeout=600)


def test_of_many_only_that_there_are_many(keys, db, listener):
    many(keys, 1000)
    assert sorted(listener.notes()) == [hash_of(n) for n in range(1, 1001)]
    keys.add(1001)
    assert listener.notes() == [hash_of(1001)]
    for sql in ("UPDATE api_keys SET billable = false",
                "UPDATE organizations SET billable = false",
                "INSERT INTO plans (name) VALUES ('p'); "
                "UPDATE organizations SET plan = 'p'",
                "UPDATE plans SET billable = false",
                "TRUNCATE api_keys"):
        db.psql(sql)
        assert listener.notes() == ["*"], sql
    many(keys, 1001)
    assert listener.notes() == ["*"]
    db.psql("DELETE FROM api_keys")
    assert listener.notes() == ["*"]
    # of an empty table as well: who knows what was in it
    db.psql("TRUNCATE organizations CASCADE")
    assert listener.notes() == ["*"]


# --- two at once -------------------------------------------------------------

INSERT = "INSERT INTO api_keys (id, organization_id, hash, plan) VALUES " \
    "(gen_random_uuid(), '{org}', 'sha256:" + hash_of(2) + "', "
ORG = "UPDATE organizations SET billable = false WHERE id = '{org}'"
PLAN = "UPDATE plans SET billable = false WHERE name = "
MOVED = "UPDATE api_keys SET "


def waiting(db):
    return db.psql("SELECT count(*) FROM pg_stat_activity WHERE datname = "
                   f"'{db}' AND wait_event_type = 'Lock'") == "1"


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("one, other, of", [
    (INSERT + "NULL)", ORG, 2),
    (INSERT + "'lead')", ORG, 2),
    (INSERT + "'lead')", PLAN + "'lead'", 2),
    (INSERT + "NULL)", PLAN + "'gold'", 2),
    (MOVED + "organization_id = '{org}', plan = NULL", ORG, 1),
    (MOVED + "organization_id = '{org}', plan = NULL", PLAN + "'gold'", 1),
    (MOVED + "plan = 'lead'", PLAN + "'lead'", 1),
    (MOVED + f"hash = 'sha256:{hash_of(3)}' WHERE plan = 'tin'",
     PLAN + "'tin'", 3),
    ("UPDATE organizations SET plan = 'lead'; " + MOVED + "plan = NULL",
     PLAN + "'lead'", 1),
    ("UPDATE organizations SET plan = 'lead' WHERE id <> '{org}'",
     PLAN + "'lead'", 4)])
def test_what_one_can_not_see_of_the_other(keys, db, listener, one, other, of,
                                           turned):
    """A key is told of when all that bears on it is committed, whoever is
    done last."""
    old = Keys(db)
    db.psql("INSERT INTO plans (name) VALUES ('gold'), ('lead'), ('tin');"
            f"UPDATE organizations SET plan = 'gold' WHERE id = '{keys.org}'")
    old.add(1, plan="tin"), old.add(4)
    first, second = [sql.replace("{org}", keys.org) for sql in
                     ((other, one) if turned else (one, other))]
    with db.listener(sql="BEGIN") as a, db.listener(sql="BEGIN") as b, \
            ThreadPoolExecutor() as pool:
        a.run(first)
        done = pool.submit(b.run, second)
        poll(lambda: done.done() or waiting(db), 20, what="the other waits")
        # who needn't wait may be done before who began earlier
        early, late = (b, a) if done.done() else (a, b)
        early.run("COMMIT")
        done.result()
        listener.notes()
        late.run("COMMIT")
    assert hash_of(of) in listener.notes()


def test_the_end_of_a_key_waits_for_nobody(keys, db, listener):
    db.psql("INSERT INTO plans (name) VALUES ('gold')")
    keys.add(1, plan="gold")
    with db.listener(sql="BEGIN") as a:
        a.run(f"{PLAN} 'gold'; UPDATE organizations SET billable = false")
        listener.notes()
        db.psql("SET lock_timeout = '2s'; UPDATE api_keys SET revoked = now(), "
                "expires = now(), name = 'x', billable = false")
        assert listener.notes() == [hash_of(1)]
        a.run("ROLLBACK")


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("sql", [ORG, PLAN + "'gold'"])
def test_who_sees_what_was_tells_of_everything(keys, db, listener, level, sql):
    db.psql("INSERT INTO plans (name) VALUES ('gold')")
    with db.listener(sql=f"BEGIN ISOLATION LEVEL {level}; SELECT 1") as a:
        keys.add(1, plan="gold")
        assert listener.notes() == [hash_of(1)]
        a.run(sql.replace("{org}", keys.org) + "; COMMIT")
        assert listener.notes() == ["*"]
        a.run(f"BEGIN ISOLATION LEVEL {level}; {sql} AND false; COMMIT"
              .replace("{org}", keys.org))
        assert listener.notes() == []


def test_nobody_waits_in_a_circle(keys, db):
    """Single statements, on the same rows."""
    others = [keys, Keys(db), Keys(db)]
    db.psql("INSERT INTO plans (name) VALUES ('gold'), ('lead')")
    rows = ", ".join(f"(gen_random_uuid(), '{k.org}', 'sha256:' || "
                     f"encode(sha256(random()::text::bytea), 'hex'), {plan})"
                     for k in others for plan in ("'lead'", "NULL", "'gold'"))
    insert = f"INSERT INTO api_keys (id, organization_id, hash, plan) " \
        f"VALUES {rows};"
    move = "".join(f"UPDATE api_keys SET plan = '{plan}' WHERE "
                   f"organization_id = '{keys.org}';"
                   for plan in ("gold", "lead"))
    change = "".join(
        f"UPDATE organizations SET plan = '{plan}', billable = NOT billable "
        f"WHERE id = '{k.org}'; UPDATE plans SET billable = NOT billable "
        f"WHERE name = '{plan}';" for k in others for plan in ("gold", "lead"))
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(db.psql, sql * 15, check=False) for sql in
                     (insert, insert, change, change, move)]:
            assert done.result().stderr == ""


# --- what gateways see -------------------------------------------------------

def row(db, n=1):
    return json.loads(db.psql(
        "SELECT row_to_json(k) FROM usage_gateway_keys AS k WHERE hash = "
        f"'sha256:{hash_of(n)}'", user="gateway"))


def test_a_row(keys, db):
    key = keys.add(1)
    assert row(db) == {
        "hash": f"sha256:{hash_of(1)}", "api_key_id": key,
        "organization_id": keys.org, "expires": None, "revoked": False,
        "billable": True, "access": None, "limits": None}
    keys.add(2, expires="2030-01-31T12:00:00.123456Z",
             revoked="2001-01-01T00:00:00Z")
    assert row(db, 2)["expires"] == 1896091200123456
    assert row(db, 2)["revoked"] is True


def test_billable_is_what_all_say(keys, db):
    db.psql("INSERT INTO plans (name) VALUES ('p')")
    keys.add(1, plan="p")
    for table in ("plans", "organizations", "api_keys"):
        assert row(db)["billable"] is True
        db.psql(f"UPDATE {table} SET billable = false")
        assert row(db)["billable"] is False
        db.psql(f"UPDATE {table} SET billable = true")


def test_lists_of_the_three(keys, db):
    none = {"networks": None, "paths": None, "methods": None}
    db.psql("INSERT INTO plans (name, methods) VALUES ('p', '{GET,POST}'), "
            "('q', '{PUT}'); UPDATE organizations SET plan = 'q'")
    keys.add(1, plan="p")
    assert row(db)["access"] == [{**none, "methods": ["GET", "POST"]},
                                 none, none]
    db.psql("UPDATE organizations SET networks = '{192.0.2.0/24,2001:db8::1}';"
            "UPDATE api_keys SET paths = '{/v1/,\"/a b,c\"}'")
    assert row(db)["access"] == [
        {**none, "methods": ["GET", "POST"]},
        {**none, "networks": ["192.0.2.0/24", "2001:db8::1"]},
        {**none, "paths": ["/v1/", "/a b,c"]}]
    # a key without a plan has its organization's
    db.psql("UPDATE api_keys SET plan = NULL")
    assert row(db)["access"][0] == {**none, "methods": ["PUT"]}


@pytest.mark.parametrize("table, change", [
    *[("api_keys", f"expires = '{t}'")
      for t in ("infinity", "-infinity", "1970-01-01T00:00:00Z",
                "10000-01-01T00:00:00Z", "294276-12-31T00:00:00Z")],
    ("api_keys", "revoked = 'infinity'"), ("api_keys", "created = 'infinity'"),
    *[(table, f"{column} = '{value}'")
      for table in ("plans", "organizations", "api_keys")
      for column in ("networks", "paths", "methods")
      for value in ("{}", "{NULL}", "{a,NULL}", "{{a,b},{c,d}}")],
    *[("api_keys", f"hash = '{h}'")
      for h in ("", "0" * 64, "sha256:" + "A" * 64, "md5:" + "0" * 64,
                "sha256:" + "0" * 63, "sha256:" + "0" * 65,
                "x-sha256:" + "0" * 64, "sha256:" + "0" * 64 + "\n")],
    ("organizations", "name = ''"), ("plans", "name = 'a b'"),
    ("plans", "name = ''"), ("api_keys", "plan = 'none'")])
def test_what_could_not_be_read_is_not_taken(keys, db, table, change):
    db.psql("INSERT INTO plans (name) VALUES ('p')")
    keys.add(1)
    done = db.psql(f"UPDATE {table} SET {change}", check=False)
    assert done.returncode != 0, change
    assert row(db)["expires"] is None


RATES = (REPO / "t/unit/test_rate.c").read_text()


@pytest.mark.parametrize("column", ["rate", "quota"])
@pytest.mark.parametrize("table", ["plans", "organizations", "api_keys"])
def test_rates_and_quotas_are_those_of_rate_c(keys, db, table, column):
    """Its unit test has the list."""
    db.psql("INSERT INTO plans (name) VALUES ('p')")
    keys.add(1)
    for good, test in ((True, f"test_{column}_reads"),
                       (False, f"test_{column}_refuses")):
        body = RATES[RATES.index(f"static void {test}"):]
        text = re.search(r"\] = \{\n(.*?)\n    \};", body, re.S)[1]
        values = [v.replace("\\t", "\t") for v in
                  re.findall(r'"(.*?)"', text)]
        assert len(values) > 2 and not any("\\" in v for v in values)
        taken = db.psql("".join(
            f"UPDATE {table} SET {column} = '{v}' RETURNING '<{v}>';"
            for v in values), on_error_stop=0).splitlines()
        assert taken == ([f"<{v}>" for v in values] if good else [])
    assert db.psql(f"UPDATE {table} SET {column} = E'1/s\\n'",
                   check=False).returncode != 0


# --- the role of gateways ----------------------------------------------------

def test_a_gateway_may_read_and_listen_and_nothing_else(keys, db):
    keys.add(1)
    db.psql("INSERT INTO plans (name) VALUES ('p')")
    assert row(db)
    tables = db.psql("SELECT tablename FROM pg_tables WHERE schemaname = "
                     "'public'").split()
    assert sorted(tables) == ["api_key_changes", "api_keys", "organizations",
                              "plans", "usage_schema_version"]
    tried = [f"SELECT count(*) FROM {t}" for t in tables]
    tried += [f"DELETE FROM {t}" for t in tables + ["usage_gateway_keys"]]
    tried += [f"TRUNCATE {t}" for t in tables]
    tried += ["INSERT INTO plans (name) VALUES ('x')",
              "INSERT INTO usage_gateway_keys (hash) VALUES ('x')",
              "UPDATE usage_gateway_keys SET revoked = false",
              "UPDATE api_keys SET revoked = NULL",
              "SELECT usage_notify_hashes('{sha256:00}')",
              "CREATE TABLE mine (x int)", "CREATE SCHEMA mine",
              "CREATE ROLE mine", "DROP VIEW usage_gateway_keys",
              "SELECT rolpassword FROM pg_authid", "SET ROLE owner"]
    for sql in tried:
        done = db.psql(sql, user="gateway", check=False)
        assert done.returncode != 0, sql
        assert re.search("permission denied|must be owner|"
                         "cannot (delete|insert|update)", done.stderr), sql
    with db.listener(user="gateway") as listener:
        keys.add(2)
        assert listener.notes() == [hash_of(2)]


def test_who_may_change_one_table_needs_no_more(keys, db):
    """What follows from a change is done with the owner's rights."""
    db.server.role(name := f"clerk_{uuid.uuid4().hex[:8]}")
    db.psql(f"GRANT SELECT, UPDATE ON organizations TO {name}")
    keys.add(1)
    with db.listener() as listener:
        db.psql("UPDATE organizations SET billable = false", user=name)
        assert listener.notes() == [hash_of(1)]
    assert changes(db)[-1]["who"] == name
    done = db.psql("SELECT * FROM api_key_changes", user=name, check=False)
    assert "permission denied" in done.stderr


# --- what the page says ------------------------------------------------------

PAGE = (REPO / "docs/postgresql.md").read_text()


ROLE = re.findall(r"```sql\n(.*?)```", PAGE, re.S)
STEPS = [block for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S)
         if "--pwprompt" in block]


def test_the_role_of_the_page(db):
    sql = ROLE
    assert len(sql) == 1
    name = f"gateway1_{uuid.uuid4().hex[:8]}"
    db.psql(sql[0].replace("gateway1", name), user="owner")
    db.server.passwords[name] = "a long one"
    assert db.psql("SELECT count(*) FROM usage_gateway_keys", user=name) == "0"
    assert "permission denied" in db.psql("SELECT * FROM api_keys", user=name,
                                          check=False).stderr


@pytest.mark.parametrize("steps", STEPS)
def test_the_steps_of_the_page(postgres_own, steps):
    """Both ways to a database in which a gateway can read."""
    assert len(STEPS) == 2
    server = postgres_own()
    server.passwords["usage_admin"] = "a longer one"
    for step in steps.splitlines():
        # without a terminal it asks standard input
        done = subprocess.run(
            step.split(), env=clean_env(**server.database("postgres").env(
                "postgres"), PATH=os.environ["PATH"]), start_new_session=True,
            input="a longer one\n" * 2, capture_output=True, text=True,
            timeout=60)
        assert done.returncode == 0, done.stderr
    db = server.database("usage")
    done = init(db, user="usage_admin")
    assert (done.returncode, done.stderr) == (0, APPLIED)
    db.psql(ROLE[0], user="usage_admin" if "--createrole" in steps
            else "postgres")
    server.passwords["gateway1"] = "a long one"
    assert db.psql("SELECT count(*) FROM usage_gateway_keys",
                   user="gateway1") == "0"


def test_old_changes_can_be_deleted(keys, db):
    line = re.search(r'^psql "\$DATABASE_URL" .*', PAGE, re.M)[0]
    db.psql("UPDATE api_key_changes SET at = '2001-01-01'")
    keys.add(1)
    run(["sh", "-c", line], env=clean_env(
        DATABASE_URL=db.url(), PATH=os.environ["PATH"]))
    assert [c["what"] for c in changes(db)] == ["insert api_keys"]


def test_a_backup_can_be_restored(keys, db, postgres):
    db.psql("INSERT INTO plans (name, paths) VALUES ('p', '{/v1/}')")
    keys.add(1, plan="p")
    keys.add(2, replaces=uuid.UUID(int=1))
    other = postgres.new_database(schema=False)
    dump = new_dir("dump") / "usage.dump"
    run([tool("pg_dump"), "--format=custom", f"--file={dump}"],
        env=clean_env(**db.env()))
    run([tool("pg_restore"), f"--dbname={other}", dump],
        env=clean_env(**other.env()))
    for what in (OBJECTS, "SELECT * FROM usage_gateway_keys ORDER BY hash",
                 CHANGES):
        assert other.psql(what) == db.psql(what)
    assert init(other).stderr == NOTHING
    with other.listener(user="gateway") as listener:
        other.psql("UPDATE plans SET billable = false")
        assert listener.notes() == [hash_of(1)]


# --- a million ---------------------------------------------------------------

def test_a_million_keys(keys, db, listener):
    began = time.monotonic()
    many(keys, MANY)
    assert time.monotonic() - began < 300
    assert listener.notes() == ["*"]
    db.psql("ANALYZE")
    ask = ("SELECT * FROM usage_gateway_keys WHERE hash = ANY (ARRAY(SELECT "
           "'sha256:' || lpad(to_hex(i), 64, '0') "
           "FROM generate_series(1, 500) AS i))")
    plan = db.psql(f"EXPLAIN (ANALYZE) {ask}")
    assert "api_keys_hash_key" in plan and "Seq Scan on api_keys" not in plan
    assert float(re.search(r"Execution Time: (\S+)", plan)[1]) < 1000
    assert db.psql(f"SELECT count(*) FROM ({ask}) AS k", user="gateway") == (
        "500")
    began = time.monotonic()
    db.psql("UPDATE plans SET billable = true; "
            "UPDATE organizations SET billable = true")
    assert time.monotonic() - began < 10
    assert listener.notes() == ["*"]
