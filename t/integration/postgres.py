# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Real PostgreSQL for tests: servers, databases, roles, and what they were
asked.

    def test_something(postgres, gateway):      # one server for all tests
        db = postgres.new_database()            # new, with conf/schema.sql
        gw = gateway(key_store=db.url("gateway"))
        mark = db.mark()
        …
        assert len(db.queries("usage_gateway_keys", mark)) == 1
        db.psql("UPDATE api_keys SET revoked = now()")

    def test_an_outage(postgres_own, gateway):  # a server to break
        server = postgres_own()                 # before gateway()
        db = server.new_database()
        server.pause(); …; server.resume()
        server.kill(); server.start()           # the data is still there

    def test_a_failover(postgres_own):
        first = postgres_own()
        second = postgres_own(replica_of=first) # has all databases of first
        db = first.new_database()
        second.wait_caught_up()
        first.kill(); second.promote()
        second.database(db).psql("SELECT …")

Fixtures (conftest.py imports them):
    postgres            the server that a pytest worker shares among its tests.
                        Use databases of your own from new_database(); they are
                        dropped after the test, behind its gateways' end. Leave
                        the server as it is.
    postgres_own(**kw)  makes and starts a Postgres, stopped after the test.
                        Call it before gateway(), so that httpd ends first.

Postgres(name, tls=False, certs=None, cert="server", extra=None,
         replica_of=None)
    tls    takes TLS only; .certs is the directory of ca.pem, other-ca.pem, …
    certs  a directory of certificates made already: share one, it is slow
    cert   "expired": the server shows a certificate that is over
    extra  settings: {"max_connections": 20}; they are read at each start()

Life: start(), stop(mode="fast"; "smart", "immediate"), kill() (SIGKILL to all
its processes), pause(), resume() (SIGSTOP, SIGCONT, likewise), restart(),
promote(). .pid, .port, .log (path; it has every statement).

Users: postgres (superuser), owner (owns the databases and their tables, may
make roles: usagectl's user), gateway (in usage_gateway, and no more), and what
role(name, attributes) makes. .passwords[user] is what they log in with; they
are registered as secrets. Neither logs nor command lines have them.

new_database(schema=True) -> Database; database(name_or_Database) -> the one of
that name on this server.
Database:
    name
    url(user="owner", password=True, **params)  of --store and UsageKeyStore;
        host= and port= for a proxy before it, password=False leaves it to
        .pgpass and the like, a text is used instead; others are libpq's
        (sslmode="verify-full")
    env(user)                  PGHOST and all else that libpq reads from the
                               environment, to go with postgresql://
    psql(sql, user="postgres", check=True)      its output, a line a row, |
                               between columns; with check=False the
                               CompletedProcess
    listener(user="owner", sql="LISTEN usage_keys")   a Listener: notes() are
                               the payloads that came since it was asked last;
                               it sees all of what was committed before
    mark(), queries(pattern, since=0, user=None)      statements on it that
                               match a regular expression; server.mark(),
                               server.queries() of all databases
    connections(user=None)     how many there are
    wait_connections(n, user)  until there are n
    drop()

Each server has its directory below runs/ with its log. Its data lies elsewhere,
in BASE/postgres, where nobody searches for keys.
"""
import os
import re
import secrets
import signal
import subprocess
import urllib.parse
import uuid
from pathlib import Path

import pytest

from clients.http1 import poll
from processes import (REPO, Server, base_dir, children_of, end_process, need,
                       register_secret, run, tool)

SERVICES = REPO / "t/services/postgresql"
SCHEMA = REPO / "conf/schema.sql"

STOP = {"fast": "INT", "smart": "TERM", "immediate": "QUIT", "kill": "KILL"}

#: A statement in the log: user, database, statement.
STATEMENT = re.compile(r"(?m)^\S+ \S+ \S+ \[\d+\] (\S+)@(\S+) LOG:  "
                       r"(?:statement|execute [^:]*): (.*(?:\n\t.*)*)")


def clean_env(**more):
    """The environment without anything that libpq reads."""
    kept = {k: v for k, v in os.environ.items()
            if not k.startswith("PG") and k != "DATABASE_URL"}
    # nor what is at home
    kept.update(PGPASSFILE="/nonexistent", PGSERVICEFILE="/nonexistent",
                PGSYSCONFDIR="/nonexistent")
    return {**kept, **{k: str(v) for k, v in more.items()}}


class Database:
    """See above."""

    def __init__(self, server, name):
        self.server, self.name = server, name
        self.dir, self.logs = server.dir, server.logs  # for a failed test

    def __str__(self):
        return self.name

    def url(self, user="owner", password=True, host="127.0.0.1", port=None,
            **params):
        if password is True:
            password = self.server.passwords[user]
        login = urllib.parse.quote(user, safe="")
        if password:
            login += ":" + urllib.parse.quote(password, safe="")
        url = f"postgresql://{login}@{host}:{port or self.server.port}/{self}"
        return url + ("?" + urllib.parse.urlencode(
            params, quote_via=urllib.parse.quote) if params else "")

    def env(self, user="owner"):
        env = {"PGHOST": "127.0.0.1", "PGPORT": str(self.server.port),
               "PGUSER": user, "PGPASSWORD": self.server.passwords[user],
               "PGDATABASE": self.name}
        if self.server.tls:
            env["PGSSLMODE"] = "require"
        return env

    def _psql(self, user, *args):
        return [tool("psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", *args], \
            clean_env(**self.env(user), PGCONNECT_TIMEOUT=10,
                      PGCLIENTENCODING="UTF8")

    def psql(self, sql, user="postgres", check=True, timeout=120,
             on_error_stop=1):
        args, env = self._psql(user, "-v", f"ON_ERROR_STOP={on_error_stop}")
        done = subprocess.run(args, input=sql, env=env, capture_output=True,
                              encoding="utf-8", timeout=timeout)
        if not check:
            return done
        assert done.returncode == 0, f"psql: {done.stderr}"
        return done.stdout.rstrip("\n")

    def psql_file(self, path, user="owner", check=True):
        args, env = self._psql(user, "-f", path)
        return run(args, env=env, check=check)

    def listener(self, user="owner", sql="LISTEN usage_keys"):
        return Listener(*self._psql(user), sql)

    def mark(self):
        return self.server.mark()

    def queries(self, pattern="", since=0, user=None):
        return self.server.queries(pattern, since, self.name, user)

    def connections(self, user=None):
        """Of programs, the one that counts left out."""
        return int(self.psql(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = "
            f"'{self}' AND pid <> pg_backend_pid() AND backend_type = "
            "'client backend'" + (f" AND usename = '{user}'" if user else "")))

    def wait_connections(self, n, user=None, timeout=20):
        poll(lambda: self.connections(user) == n, timeout,
             what=f"{n} connections to {self}")

    def drop(self):
        self.server.database("postgres").psql(
            f'DROP DATABASE IF EXISTS "{self}" WITH (FORCE)')

    stop = drop  # for conftest.Servers


class Listener:
    """psql that listens. It tells what came when it has run something."""

    def __init__(self, args, env, sql):
        self.proc = subprocess.Popen(
            args, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, encoding="utf-8",
            start_new_session=True)
        self.run(sql)

    def run(self, sql):
        """Run statements of its own. Returns the lines of their output."""
        mark = uuid.uuid4().hex
        self.proc.stdin.write(f"{sql};\n\\echo {mark}\n")
        self.proc.stdin.flush()
        lines = []
        for line in self.proc.stdout:
            if line.strip() == mark:
                return lines
            lines.append(line.rstrip("\n"))
        raise AssertionError(f"psql ended: {lines}")

    def notes(self):
        """Payloads, in the order they came in."""
        text = "\n".join(self.run("SELECT"))
        return re.findall(r'notification "\w+" with payload "(.*)" received',
                          text)

    def close(self):
        self.proc.stdin.close()
        self.proc.stdout.read()
        assert end_process(self.proc), "psql does not end"

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


class Postgres(Server):
    """See above."""

    def __init__(self, name="postgres", tls=False, certs=None, cert="server",
                 extra=None, replica_of=None):
        super().__init__(name)
        need(any(Path("/usr/lib/postgresql").glob("*/bin/initdb")),
             "no PostgreSQL server: scripts/deps.sh test")
        self.source = self.primary = replica_of
        self.tls, self.cert = tls, cert
        self.certs = Path(certs) if certs else self.dir / "certs"
        self.data = base_dir() / "postgres" / self.dir.name
        self.extra = extra or {}
        self.dropped_by = None  # conftest.Servers, for a shared one
        self.has_template = False
        if replica_of:
            self.passwords = replica_of.passwords
            self.tls = replica_of.tls
            self.has_template = replica_of.has_template
        else:
            self.passwords = {}
            self._password("postgres")

    def _password(self, user):
        password = secrets.token_hex(11)
        register_secret(password)
        self.passwords[user] = password
        return password

    @property
    def log(self):
        return self.dir / "postgresql.log"

    @property
    def pid(self):
        """None where it doesn't run."""
        path = self.dir / "pid"
        return int(path.read_text()) if path.exists() else None

    # -- life --

    def start(self):
        tool("psql")
        self.data.parent.mkdir(exist_ok=True)
        self.data.parent.chmod(0o755)
        (self.dir / "extra.conf").write_text("".join(
            f"{k} = '{v}'\n" for k, v in self.extra.items()))
        env = {**os.environ, "POSTGRES_PASSWORD": self.passwords["postgres"],
               "POSTGRES_DATA": str(self.data), "CERTS": str(self.certs),
               "CERT": self.cert}
        if self.source:  # whatever it has become since
            run([SERVICES / "postgres-replica.sh", self.dir, self.port,
                 self.source.port], env=env)
        else:
            run([SERVICES / "postgres-start.sh", self.dir, self.port,
                 *(["tls"] if self.tls else [])], env=env)
        if "owner" not in self.passwords:
            self.role("owner", "CREATEDB CREATEROLE")
        return self

    def stop(self, mode="fast"):
        run([SERVICES / "postgres-stop.sh", self.dir, STOP[mode]])

    def kill(self):
        self.stop("kill")

    def restart(self, mode="fast"):
        self.stop(mode)
        return self.start()

    def _signal_all(self, sig):
        pid = self.pid
        if sig == signal.SIGSTOP:
            os.kill(pid, sig)  # first, so that it makes no more of them
        for child in children_of(pid):
            try:
                os.kill(child, sig)
            except ProcessLookupError:
                pass
        os.kill(pid, sig)

    def pause(self):
        self._signal_all(signal.SIGSTOP)

    def resume(self):
        self._signal_all(signal.SIGCONT)

    def promote(self):
        db = self.database("postgres")
        assert db.psql("SELECT pg_promote()") == "t"
        self.primary = None

    def wait_caught_up(self, timeout=20):
        """Until this replica has all that its primary has now."""
        at = self.primary.database("postgres").psql(
            "SELECT pg_current_wal_lsn()")
        poll(lambda: self.database("postgres").psql(
            f"SELECT pg_last_wal_replay_lsn() >= '{at}'") == "t", timeout,
            what="the replica has caught up")

    # -- roles and databases --

    def role(self, name, attributes=""):
        """Make a role that logs in with a new password. The log has no
        statement with it."""
        password = self._password(name)
        self.database("postgres").psql(
            "SET log_statement = none; SET log_min_error_statement = panic;\n"
            f"CREATE ROLE \"{name}\" LOGIN {attributes} PASSWORD "
            f"'{password}'")

    def database(self, name):
        return Database(self, str(name))

    def _template(self):
        """Made once; from then on a database with tables is a copy."""
        admin = self.database("postgres")
        if not self.has_template:
            admin.psql("CREATE DATABASE usage_template OWNER owner")
            self.database("usage_template").psql_file(SCHEMA)
            self.role("gateway", "IN ROLE usage_gateway")
            self.has_template = True
        return "usage_template"

    def new_database(self, schema=True):
        name = f"usage_{uuid.uuid4().hex[:12]}"
        template = self._template() if schema else "template1"
        self.database("postgres").psql(
            f"CREATE DATABASE {name} OWNER owner TEMPLATE {template}")
        db = self.database(name)
        return self.dropped_by.add(db) if self.dropped_by else db

    # -- what it was asked --

    def mark(self):
        """Now, for queries(since=…)."""
        return self.log.stat().st_size

    def queries(self, pattern="", since=0, dbname=None, user=None):
        with open(self.log, errors="replace") as f:
            f.seek(since)
            text = f.read()
        return [sql.replace("\n\t", "\n")
                for who, where, sql in STATEMENT.findall(text)
                if re.search(pattern, sql) and user in (None, who)
                and dbname in (None, where)]


# --- fixtures ----------------------------------------------------------------

@pytest.fixture(scope="session")
def postgres_server():
    server = Postgres("postgres-shared")
    try:
        yield server.start()
    finally:
        server.stop("immediate")


@pytest.fixture
def postgres(postgres_server, servers):
    """The server that all tests share."""
    postgres_server.dropped_by = servers
    return postgres_server


@pytest.fixture
def postgres_own(servers):
    """postgres_own(**kw): a server of the test's own, started."""
    return lambda name="postgres-own", **kw: servers.add(
        Postgres(name, **kw)).start()
