# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""usagectl's connection to PostgreSQL: every way to it, and servers that do not
answer."""
import os
import re
import signal
import time
import uuid
from pathlib import Path

import pytest

from broker import make_certs
from clients.http1 import poll
from harness import REPO
from processes import free_port, new_dir, secret_file
from schema_helpers import APPLIED, ctl, init, start_ctl

#: Ten seconds are promised; the machine takes its time, too.
BOUND = 12


@pytest.fixture
def db(postgres):
    return postgres.new_database()


@pytest.fixture
def empty(postgres):
    postgres._template()  # so that the role is there
    return postgres.new_database(schema=False)


# --- ways to connect ---------------------------------------------------------

PIECES = ("hunter", "secret2", "s3cr")


@pytest.mark.parametrize("url", [
    "postgresql://user:hunter@secret2@localhost/db",
    "postgresql://user:hunter/secret2@localhost/db",
    "postgresql://user:hunter?secret2@localhost/db",
    "postgresql://user:hunter?x/secret2@localhost/db",
    "postgresql://user:hunter%zzsecret2@localhost/db",
    "postgresql://user:hunter%secret2@localhost/db",
    "postgresql://user:hunter", "postgresql://user:hunter/db",
    "postgresql://user:99999/db", "postgresql://localhost/db?hunter",
    "postgresql://localhost/db?password=hunter&secret2=1",
    "postgresql://?password=hunter@secret2",
    "postgresql://user:hunter@localhost:s3cr/db"])
def test_a_url_that_can_not_be_read_is_not_repeated(url):
    done = ctl("init-db", "--store", url)
    assert done.returncode == 2, done.stderr
    assert "can't be read: it is postgresql://" in done.stderr
    assert "NAME is one of libpq's parameters" in done.stderr
    assert not any(p in done.stderr + done.stdout for p in PIECES)


def test_passwords_are_not_repeated(db):
    """Whatever is wrong with the rest."""
    port, password = free_port(), db.server.passwords["owner"]
    for url in (db.url(port=port), db.url(host="nowhere.invalid"),
                db.url(sslmode="require"), db.url(sslmode="nonsense"),
                db.url(password="wr0ng-password"), db.url() + "x",
                db.url().replace("owner", "nobody", 1)):
        done = ctl("init-db", "--store", url)
        assert done.returncode == 3, done.stderr
        assert "the database can't be reached: " in done.stderr
        assert done.stderr.count("\n") == 1
        assert password not in done.stderr
        assert "wr0ng-password" not in done.stderr


def test_everything_from_the_environment(db):
    env = db.env()
    for url in ("postgresql://", "postgres://"):
        done = ctl("org", "list", "--store", url, env=env)
        assert done.returncode == 0, done.stderr
    done = ctl("org", "list", env={**env, "DATABASE_URL": "postgresql://"})
    assert done.returncode == 0, done.stderr
    # what the URL says wins
    done = ctl("org", "list", "--store", "postgresql:///nowhere", env=env)
    assert done.returncode == 3 and "nowhere" in done.stderr
    done = ctl("org", "list", env={**env, "PGPASSWORD": "wrong",
                                   "DATABASE_URL": "postgresql://"})
    assert done.returncode == 3, done.stderr
    assert 'password authentication failed for user "owner"' in done.stderr


def test_pgpass(db):
    path = secret_file("pgpass")
    path.write_text(f"127.0.0.1:{db.server.port}:*:owner:"
                    f"{db.server.passwords['owner']}\n")
    path.chmod(0o600)
    url = db.url(password=False)
    done = ctl("org", "list", "--store", url, env={"PGPASSFILE": path})
    assert done.returncode == 0, done.stderr
    done = ctl("org", "list", "--store", url)
    assert done.returncode == 3 and "no password supplied" in done.stderr


def test_service(db):
    path = secret_file("service")
    path.write_text(f"[usage]\nhost=127.0.0.1\nport={db.server.port}\n"
                    f"user=owner\ndbname={db}\n"
                    f"password={db.server.passwords['owner']}\n")
    env = {"PGSERVICEFILE": path}
    done = ctl("org", "list", "--store", "postgresql://?service=usage",
               env=env)
    assert done.returncode == 0, done.stderr
    done = ctl("org", "list", "--store", "postgresql://",
               env={**env, "PGSERVICE": "usage"})
    assert done.returncode == 0, done.stderr
    done = ctl("org", "list", "--store", "postgresql://?service=other",
               env=env)
    assert done.returncode == 3 and "other" in done.stderr


def test_tls(postgres_own):
    certs = make_certs(new_dir("postgres-certs"))
    db = postgres_own(tls=True, certs=certs).new_database()

    def asked(env=None, **params):
        return ctl("org", "list", "--store", db.url(**params), env=env)

    right = {"sslmode": "verify-full", "sslrootcert": certs / "ca.pem"}
    assert asked(**right).returncode == 0
    assert asked(host="localhost", **right).returncode == 0
    assert asked(env={"PGSSLMODE": "verify-full",
                      "PGSSLROOTCERT": certs / "ca.pem"}).returncode == 0
    done = asked(sslmode="verify-full", sslrootcert=certs / "other-ca.pem")
    assert done.returncode == 3 and "certificate verify failed" in done.stderr
    done = asked(sslmode="disable")
    assert done.returncode == 3 and "no encryption" in done.stderr
    old = postgres_own(name="postgres-expired", tls=True, certs=certs,
                       cert="expired").new_database()
    done = ctl("org", "list", "--store", old.url(**right))
    assert done.returncode == 3 and "certificate verify failed" in done.stderr
    assert ctl("org", "list", "--store", old.url(
        sslmode="require")).returncode == 0


def test_of_several_servers_the_one_that_can_be_changed(postgres_own):
    first = postgres_own()
    db = first.new_database()
    second = postgres_own(name="postgres-second", replica_of=first)
    url = db.url(host=f"127.0.0.1:{second.port},127.0.0.1")

    def create(n, url=url):
        return ctl("org", "create", "--id", uuid.UUID(int=n), "--name", "x",
                   "--store", url)

    done = create(1)
    assert done.returncode == 0, done.stderr
    second.wait_caught_up()
    alone = second.database(db).url()
    done = create(2, alone)
    assert done.returncode == 1 and re.search("read-only|recovery",
                                               done.stderr), done.stderr
    assert ctl("org", "list", "--store", alone).returncode == 0
    first.pause()
    try:  # and one that hangs is passed by
        began = time.monotonic()
        second.promote()
        assert create(3).returncode == 0
        assert time.monotonic() - began < BOUND
    finally:
        first.resume()


# --- a server that does not answer -------------------------------------------

def test_out_of_reach(postgres_own):
    db = postgres_own().new_database()
    db.server.pause()
    try:
        began = time.monotonic()
        done = init(db)
        took = time.monotonic() - began
        assert done.returncode == 3 and "timeout expired" in done.stderr
        assert 4 < took < BOUND
        began = time.monotonic()
        assert ctl("init-db", "--store", db.url(),
                   env={"PGCONNECT_TIMEOUT": 2}).returncode == 3
        assert time.monotonic() - began < 4
    finally:
        db.server.resume()
    assert init(db).returncode == 0
    db.server.stop()
    done = init(db)
    assert done.returncode == 3 and "Connection refused" in done.stderr


class Held:
    """Holds init-db up behind a lock."""

    def __init__(self, db, lock="LOCK usage_schema_version"):
        self.db = db
        self.holder = db.listener(sql=f"BEGIN; {lock}")
        self.began = time.monotonic()
        self.proc = start_ctl("init-db", "--store", db.url())
        poll(lambda: self.backend(), 10, what="init-db waits")

    def backend(self):
        found = self.db.psql("SELECT pid FROM pg_stat_activity WHERE "
                             "application_name = 'usagectl' AND "
                             "wait_event_type = 'Lock'")
        return int(found) if found else None

    def end(self):
        err = self.proc.communicate(timeout=60)[1]
        return self.proc.returncode, err, time.monotonic() - self.began


INIT_LOCK = re.search(
    r"SELECT pg_advisory\w+\(\d+\)",
    (REPO / "src/usagectl/init_db.c").read_text())[0]


@pytest.mark.parametrize("lock, said", [
    ("LOCK usage_schema_version", "the database refused it: somebody else is "
     "changing the same (waited 7 s); try again"),
    (INIT_LOCK, "another init-db runs (waited 7 s); try again")])
def test_somebody_elses_lock(db, lock, said):
    held = Held(db, lock)
    with held.holder:
        status, err, took = held.end()
    assert (status, err) == (1, f"usagectl init-db: {said}\n")
    assert took < BOUND


def test_a_script_may_take_its_time(empty):
    """Longer than a server may be silent otherwise."""
    empty.psql("CREATE FUNCTION slow() RETURNS event_trigger LANGUAGE plpgsql "
               "AS 'BEGIN PERFORM pg_sleep(9); END'; "
               "CREATE EVENT TRIGGER slow ON ddl_command_start "
               "WHEN TAG IN ('CREATE VIEW') EXECUTE FUNCTION slow()")
    done = init(empty)
    assert (done.returncode, done.stderr) == (0, APPLIED)


def keepalive(pid):
    """In how many seconds TCP asks whether the other side is still there, of
    the one connection that a process has."""
    inodes = {os.readlink(fd)[8:-1] for fd in Path(f"/proc/{pid}/fd").iterdir()
              if os.readlink(fd).startswith("socket:")}
    rows = [line.split() for line in open("/proc/net/tcp")]
    timers = [row[5].split(":") for row in rows if row[9] in inodes]
    assert len(timers) == 1, timers
    kind, ticks = timers[0]
    return int(ticks, 16) / os.sysconf("SC_CLK_TCK") if kind == "02" else None


def test_tcp_notices_a_server_that_is_gone(db):
    """While usagectl waits for a script, nothing else does."""
    held = Held(db)
    with held.holder:
        # not in two hours, as Linux has it
        poll(lambda: (keepalive(held.proc.pid) or 99) <= 10, 5,
             what="TCP looks after an idle connection")
        held.db.psql(f"SELECT pg_terminate_backend({held.backend()})")
        held.end()


def test_who_has_no_right_is_told_so(db):
    done = ctl("org", "list", "--store", db.url("gateway"))
    assert (done.returncode, done.stderr) == (
        1, "usagectl org list: the tables of the database can't be read: user "
        "gateway has no right to (permission denied for table "
        "usage_schema_version); usagectl works as the tables' owner\n")


def test_a_server_that_stalls(db):
    held = Held(db)
    backend = held.backend()
    with held.holder:
        os.kill(backend, signal.SIGSTOP)
        try:
            status, err, took = held.end()
        finally:
            os.kill(backend, signal.SIGCONT)
    assert (status, err) == (
        3, "usagectl init-db: the database does not answer\n")
    assert took < BOUND
    assert init(db).returncode == 0


def test_a_commit_that_is_not_answered(db):
    """It may have been done or not, which is said."""
    db.psql("CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN PERFORM pg_sleep(30); RETURN NULL; END'; "
            "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON organizations "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
            "EXECUTE FUNCTION slow()")
    began = time.monotonic()
    done = ctl("org", "create", "--id", uuid.UUID(int=5), "--name", "x",
               "--store", db.url())
    assert time.monotonic() - began < BOUND
    assert (done.returncode, done.stderr) == (
        3, "usagectl org create: the database does not answer; it isn't known "
        "whether it was done: look before you do it again\n")


@pytest.mark.parametrize("how", ["terminated", "stopped", "killed"])
def test_a_connection_that_is_lost(postgres_own, how):
    held = Held(postgres_own().new_database())
    if how == "terminated":
        held.db.psql(f"SELECT pg_terminate_backend({held.backend()})")
    elif how == "stopped":
        held.db.server.stop()
    else:
        held.db.server.kill()
    status, err, took = held.end()
    held.holder.proc.kill()
    held.holder.proc.wait()
    assert status == 3, err
    assert ("connection was lost" if how == "killed" else
            "terminating connection") in err
    assert took < BOUND
    if how != "terminated":
        held.db.server.start()
    assert init(held.db).returncode == 0
