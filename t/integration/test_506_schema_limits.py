# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Rates and quotas of plans, organizations and keys: what the view gives
gateways and `usagectl key show` shows, that their changes are told, and the way
of a database from version 1 of the schema, which gave none of it, to 2."""
import hashlib
import itertools
import json
import re
import uuid

import pytest

from clients.http1 import poll
from pg_helpers import Keys as GatewayKeys
from pg_helpers import Everywhere, local
from postgres import SCHEMA
from processes import new_dir
from schema_helpers import APPLIED, NOTHING, Keys, ctl, hash_of, init
from trap_helpers import is_problem
from usagectl_stores import STORES, new_store

TEXT = SCHEMA.read_text()
HEAD, TAIL = TEXT.index("\n-- version 1"), TEXT.index("\n-- always")
VERSION_1 = TEXT[HEAD:TEXT.index("\n-- version 2")]

#: A version that was published is never changed.
PUBLISHED = "d0db2f2ed025d2986502709ad24f7942" \
    "2237b9eac9a0d26a9bd51f1c6d10f15d"


# --- who is limited ----------------------------------------------------------

#: (rate, quota) of each that may have them.
OWN = {"key": ("1/s", "5/hour"), "org": ("2/m burst=20", "6/day"),
       "key_plan": ("3/h", "7/month"), "org_plan": ("4/s burst=9", "8/day")}

#: Who has a rate and who a quota, each by itself; who names a plan.
CASES = [(rates, rates[1:] + rates[:1], *named) for rates, named in
         itertools.product(itertools.product([True, False], repeat=4),
                           itertools.product([True, False], repeat=2))]


def limits_of(which, have):
    """Of one of the four: {"rate": …, "quota": …}, what it hasn't left out."""
    n = list(OWN).index(which)
    rates, quotas = have[:2]
    return {name: OWN[which][i] for i, name in enumerate(("rate", "quota"))
            if (rates, quotas)[i][n]}


def wanted(have):
    """What must be left for a key and for its organization."""
    _, _, key_plan, org_plan = have
    return {"key": {**(limits_of("key_plan", have) if key_plan else {}),
                    **limits_of("key", have)},
            "org": {**(limits_of("org_plan", have)
                       if org_plan and not key_plan else {}),
                    **limits_of("org", have)}}


def plan_names(n, have):
    return (f"k{n}" if have[2] else None), (f"o{n}" if have[3] else None)


def ids(n):
    return str(uuid.UUID(int=1000 + n)), str(uuid.UUID(int=2000 + n))


def file_of_cases():
    plans, organizations = {}, []
    for n, have in enumerate(CASES):
        plans[f"k{n}"] = limits_of("key_plan", have)
        plans[f"o{n}"] = limits_of("org_plan", have)
        (key_plan, org_plan), (org, key) = plan_names(n, have), ids(n)
        organizations.append({
            "id": org, "plan": org_plan, **limits_of("org", have),
            "keys": [{"id": key, "hash": f"sha256:{hash_of(n)}",
                      "plan": key_plan, **limits_of("key", have)}]})
    return {"version": 1, "plans": plans, "organizations": organizations}


def sql_of_cases():
    doc, found = file_of_cases(), []

    def insert(table, **columns):
        values = ", ".join("NULL" if v is None else f"'{v}'"
                           for v in columns.values())
        found.append(f"INSERT INTO {table} ({', '.join(columns)}) "
                     f"VALUES ({values});")

    for name, limits in doc["plans"].items():
        insert("plans", name=name, **limits)
    for org in doc["organizations"]:
        [key] = org.pop("keys")
        insert("organizations", name="x", **org)
        insert("api_keys", organization_id=org["id"], **key)
    return "\n".join(found)


def limits_in_view(db):
    """By key, without nulls."""
    rows = json.loads(db.psql(
        "SELECT json_object_agg(api_key_id, json_strip_nulls(limits)) "
        "FROM usage_gateway_keys", user="gateway"))
    return rows


@pytest.mark.parametrize("kind", STORES)
def test_key_show_has_what_limits_a_key_and_its_organization(request, kind):
    request.param = kind
    store = new_store(request)
    if kind == "file":
        store.path.write_text(json.dumps(file_of_cases()))
    else:
        store.db.psql(sql_of_cases())
    for n, have in enumerate(CASES):
        shown = store.json("key", "show", ids(n)[1])
        assert {name: value for name, value in shown.items()
                if re.match("effective_.*(rate|quota)", name)} == {
            f"effective_{whose}_{name}": value
            for whose, limits in wanted(have).items()
            for name, value in limits.items()}, have
    table = store.ok("key", "show", ids(0)[1]).stdout
    assert re.search(r"^effective_org_rate +2/m burst=20$", table, re.M)


def test_the_view_has_what_limits_a_key_and_its_organization(postgres):
    db = postgres.new_database()
    db.psql(sql_of_cases())
    seen = limits_in_view(db)
    assert len(seen) == len(CASES)
    for n, have in enumerate(CASES):
        want = wanted(have)
        assert seen[ids(n)[1]] == (want if any(want.values()) else None), have
    nulls = json.loads(db.psql(
        "SELECT limits FROM usage_gateway_keys WHERE limits IS NOT NULL "
        "LIMIT 1", user="gateway"))
    assert {whose: set(nulls[whose]) for whose in nulls} == {
        "key": {"rate", "quota"}, "org": {"rate", "quota"}}


@pytest.mark.parametrize("change", ["rate = '1/s'", "quota = '1/day'"])
def test_changes_of_limits_are_told(postgres, change):
    db = postgres.new_database()
    rows = Keys(db)
    db.psql("INSERT INTO plans (name) VALUES ('of_key'), ('of_org'); "
            "UPDATE organizations SET plan = 'of_org'")
    rows.add(1, plan="of_key"), rows.add(2)
    with db.listener(user="gateway") as listener:
        for sql, told in (
                (f"api_keys SET {change} WHERE plan IS NOT NULL", [1]),
                (f"organizations SET {change}", [1, 2]),
                (f"plans SET {change} WHERE name = 'of_key'", [1]),
                (f"plans SET {change} WHERE name = 'of_org'", [2])):
            for again in (sql, re.sub("= '[^']*'", "= NULL", sql, count=1)):
                db.psql(f"UPDATE {again}")
                assert sorted(listener.notes()) == [hash_of(n) for n in told]


@pytest.mark.parametrize("column, what", [
    ("rate", "limits: org.rate must be like 100/s"),
    ("quota", "limits: org.quota must be like 1000/hour")])
def test_limits_that_cannot_be_read_let_nobody_in(keys, gateway, column, what):
    """Somebody has written to the tables by hand, past their checks."""
    gw = gateway(**keys.to(children=1))
    key, key_id, org = gw.key()
    gw.start()
    assert local(gw, key).status == 200
    keys.sql(f"ALTER TABLE organizations DROP CONSTRAINT "
             f"organizations_{column}_check")
    keys.set_org(org, **{column: "as much as you like"})
    poll(lambda: local(gw, key).status == 403, 2)
    is_problem(local(gw, key), 403, "not-allowed")
    [line] = gw.wait_log("UE0112")
    assert (f"what key {key_id} may be used for can't be read, so it may be "
            f"used for nothing: {what}") in line
    keys.set_org(org, **{column: None})
    poll(lambda: local(gw, key).status == 200, 2)


# --- from version 1 to version 2 ---------------------------------------------

def test_version_1_is_as_it_was_published():
    assert hashlib.sha256(VERSION_1.encode()).hexdigest() == PUBLISHED


@pytest.fixture
def old(postgres):
    """A database as the first version made it, with keys in it."""
    postgres._template()  # so that the role is there
    db = postgres.new_database(schema=False)
    path = new_dir("schema") / "version-1.sql"
    path.write_text(VERSION_1 + TEXT[TAIL:])
    done = db.psql_file(path)
    assert done.returncode == 0, done.stderr
    assert db.psql("SELECT version FROM usage_schema_version") == "1"
    db.psql(sql_of_cases())
    db.psql("UPDATE api_keys SET expires = '2030-01-31T12:00:00.123456Z', "
            "networks = '{10.0.0.0/8}' WHERE rate IS NULL;"
            "UPDATE api_keys SET revoked = now() WHERE quota IS NULL;"
            "UPDATE plans SET billable = false WHERE name ~ '7'")
    return db


#: What a gateway of before asks.
ASKED = ("SELECT hash, api_key_id, organization_id, expires, revoked, "
         "billable, access FROM usage_gateway_keys ORDER BY hash")
TABLES = ("plans", "organizations", "api_keys", "api_key_changes")
GRANTED = ("SELECT relname, relacl, relowner::regrole FROM pg_class "
           "WHERE relnamespace = 'public'::regnamespace ORDER BY relname")
VIEW = ("SELECT pg_get_viewdef('usage_gateway_keys'), string_agg(attname || "
        "':' || atttypid::regtype || ' ' || "
        "coalesce(col_description(attrelid, attnum), '-'), ', ' "
        "ORDER BY attnum), obj_description('usage_gateway_keys'::regclass) "
        "FROM pg_attribute WHERE attrelid = 'usage_gateway_keys'::regclass "
        "AND attnum > 0 GROUP BY attrelid")


def everything(db):
    return [db.psql(f"SELECT to_jsonb(t) FROM {t} t ORDER BY 1")
            for t in TABLES] + [db.psql(ASKED, user="gateway"),
                                db.psql(GRANTED)]


def test_a_database_of_version_1_is_brought_to_2(old, postgres):
    fresh = postgres.new_database(schema=False)
    assert init(fresh).stderr == APPLIED
    old.psql("CREATE VIEW ours AS SELECT hash, access FROM usage_gateway_keys;"
             "GRANT SELECT ON usage_gateway_keys TO owner WITH GRANT OPTION")
    before = everything(old)
    assert len(before[-2].splitlines()) == len(CASES)
    with old.listener(user="gateway") as listener:
        done = init(old)
        assert (done.returncode, done.stdout, done.stderr) == (
            0, "", "usagectl: version 2 applied\n")
        assert listener.notes() == []
    assert everything(old) == before
    assert old.psql(VIEW) == fresh.psql(VIEW)
    assert old.psql("SELECT count(*) FROM ours") == str(len(CASES))
    seen = limits_in_view(old)
    for n, have in enumerate(CASES):
        want = wanted(have)
        assert seen[ids(n)[1]] == (want if any(want.values()) else None), have
    assert init(old).stderr == NOTHING
    assert everything(old) == before
    # and what is made from then on is told as ever
    with old.listener(user="gateway") as listener:
        Keys(old).add(9999, rate="1/s")
        assert listener.notes() == [hash_of(9999)]


def test_usagectl_asks_for_init_db(old):
    before = everything(old)
    for args in (("key", "list"), ("org", "set", ids(0)[0], "--rate", "9/s")):
        done = ctl(*args, "--store", old.url())
        assert (done.returncode, done.stdout, done.stderr) == (
            1, "", f"usagectl {' '.join(args[:2])}: the database has version 1 "
            "of the tables, not 2: run usagectl init-db\n")
    assert everything(old) == before
    init(old)
    assert ctl("org", "set", ids(0)[0], "--rate", "9/s", "--store",
               old.url()).returncode == 0
    assert limits_in_view(old)[ids(0)[1]]["org"]["rate"] == "9/s"


@pytest.mark.parametrize("user, spoil, says", [
    ("modest", "GRANT SELECT ON usage_schema_version TO modest",
     "has no right to|must be owner of view"),
    ("owner", "CREATE OR REPLACE VIEW usage_gateway_keys AS SELECT *, 1 AS "
     "mine FROM (SELECT hash, api_key_id, organization_id, expires, revoked, "
     "billable, access FROM usage_gateway_keys_of_before) AS x",
     'cannot change name of view column "mine"')])
def test_what_can_not_be_replaced_is_left_alone(old, user, spoil, says):
    """The view belongs to somebody else, or somebody has added to it."""
    if user == "modest":
        user = f"modest_{uuid.uuid4().hex[:8]}"
        old.server.role(user)
        old.psql(spoil.replace("modest", user))
    else:
        old.psql("ALTER VIEW usage_gateway_keys RENAME TO "
                 f"usage_gateway_keys_of_before; {spoil};"
                 "ALTER VIEW usage_gateway_keys OWNER TO owner;"
                 "GRANT SELECT ON usage_gateway_keys TO usage_gateway")
    before = everything(old)
    done = init(old, user=user) if user == "owner" else ctl(
        "init-db", "--store", old.url(user))
    assert done.returncode == 1
    assert re.search(says, done.stderr), done.stderr
    assert done.stderr.endswith(
        "usagectl: version 2 could not be applied, so nothing was changed\n")
    assert everything(old) == before
    assert old.psql("SELECT max(version) FROM usage_schema_version") == "1"


def test_a_schema_that_comes_first_by_now(old):
    """search_path begins with the user's own schema, once there is one."""
    old.psql("CREATE SCHEMA owner AUTHORIZATION owner")
    assert init(old).returncode == 0
    assert old.psql("SELECT count(*) FROM pg_class WHERE relnamespace = "
                    "'owner'::regnamespace") == "0"
    assert limits_in_view(old)
    assert old.psql("SELECT nspacl FROM pg_namespace WHERE nspname = 'owner'"
                    ) == ""
    assert init(old).stderr == NOTHING


@pytest.mark.parametrize("what", ["version 1", "nothing"])
def test_a_gateway_says_what_the_database_lacks(request, postgres, gateway,
                                                what):
    if what == "nothing":
        postgres._template()
        db = postgres.new_database(schema=False)
    else:
        db = request.getfixturevalue("old")
    rows = GatewayKeys(db)
    gw = gateway(**rows.to(children=2)).start()
    poll(lambda: local(gw, "a-key-of-another-form").status == 503, 10)
    [line] = gw.wait_log("UE0110")
    assert "does not exist" in line
    assert ("its tables lack, or are older than this gateway: run usagectl "
            "init-db; keys that are known go on working") in line
    assert init(db).returncode == 0
    key, _, _ = gw.key()
    with Everywhere(gw) as all_:
        all_.until(key, 200)
        all_.until("a-key-of-another-form", 401)
