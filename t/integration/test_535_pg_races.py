# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Many threads look keys up while the database changes them, notifies of one
or of all, and ends connections: nobody gets another key's identity or limits,
and no valid key is refused. (t/races/race_keystore_pg.c, without httpd, so that
there are enough look-ups for what happens once in a million.)
"""
import hashlib
import hmac
import json
import os
import secrets
import subprocess
import time
from pathlib import Path

import pytest
from harness import ORG
from processes import REPO, new_dir

RACE = Path(os.environ.get("UE_RACES", REPO / "build/races"))
FAULTS = bool(os.environ.get("UE_FAULTS"))
SECONDS = 60 if FAULTS else 8
KEYS = 2500


def limits(n):
    """As race_keystore_pg.c knows them."""
    rate, quota = f"'{n + 1}/m burst={n + 7}'", f"'{n + 3}/day'"
    return [("NULL", "NULL"), (rate, "NULL"), (rate, quota)][n % 3]


#: All counts of a key have the same added to them.
OTHER_LIMITS = """
UPDATE api_keys SET name = md5(random()::text),
    rate = regexp_replace(rate, '^.*$', n + 1 || '/m burst=' || n + 7),
    quota = regexp_replace(quota, '^.*$', n + 3 || '/day')
FROM (SELECT id AS it, right(id::text, 12)::int + (random() * 9)::int * 10000
      AS n FROM api_keys ORDER BY random() LIMIT 200) AS k
WHERE id = it"""


def load(db, secret):
    """Valid keys; with a secret, half of them are stored under it."""
    rows = []
    for n in range(KEYS):
        key = f"race-key-{n}".encode()
        if secret and n % 2:
            kept = "hmac-sha256:" + hmac.new(secret, key, "sha256").hexdigest()
        else:
            kept = "sha256:" + hashlib.sha256(key).hexdigest()
        rows.append(f"('00000000-0000-7000-8000-{n:012d}', '{ORG}', '{kept}', "
                    + ", ".join(limits(n)) + ")")
    db.psql(f"INSERT INTO organizations (id, name) VALUES ('{ORG}', 'races');"
            "INSERT INTO api_keys (id, organization_id, hash, rate, quota) "
            "VALUES " + ", ".join(rows))


def disturb(db, round_no):
    """What a database does to gateways."""
    sql = ["NOTIFY usage_keys, '*'", OTHER_LIMITS]
    if round_no % 7 == 6:
        sql.append("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                   "WHERE application_name = 'mod_usage_events' "
                   "AND datname = current_database()")
    db.psql("; ".join(sql))


@pytest.mark.parametrize("with_secret, size", [
    (False, 100000), (True, 100000), (False, KEYS * 4 // 5)],
    ids=["plain", "secret", "little-room"])
def test_answers_in_a_race(postgres, with_secret, size):
    db = postgres.new_database()
    secret = secrets.token_hex(32).encode() if with_secret else None
    load(db, secret)
    args = [RACE / "race_keystore_pg", db.url(), str(SECONDS), str(KEYS),
            str(size)]
    if secret:
        path = new_dir("race") / "secret"
        path.touch(mode=0o600)
        path.write_bytes(secret)
        args.append(path)
    race = subprocess.Popen(args, stdout=subprocess.PIPE, text=True,
                            env=dict(os.environ, PGCONNECT_TIMEOUT="5"))
    try:
        rounds, end = 0, time.monotonic() + SECONDS - 1
        while time.monotonic() < end:
            disturb(db, rounds)
            rounds += 1
        out, _ = race.communicate(timeout=SECONDS + 60)
    finally:
        race.kill()
        race.wait()
    assert race.returncode == 0
    found = json.loads(out)
    print(rounds, found)
    assert rounds >= 8
    assert found["wrong"] == 0
    assert found["refused"] == 0
    assert found["right"] > 20 * KEYS
