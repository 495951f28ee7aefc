# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Gateways whose keys are in PostgreSQL: a proxy for faults, all children of a
gateway asked at once, and load whose every answer is known.

    def test_something(keys, gateway):      # a database with the schema
        gw = gateway(**keys.to())           # reads it as the role gateway
        key, key_id, org = gw.key()         # by usagectl, as the owner
        more = keys.insert(1000)            # by SQL
        keys.set_key(key_id, paths="{/v1/}")

    proxy = servers.add(PgProxy(keys)).start()
    gw = gateway(**keys.to(proxy))
    proxy.mode("stall"); …; proxy.mode("pass")
    before = proxy.mark(); …; assert len(proxy.queries(before)) == 1

    with Everywhere(gw) as all_:            # connections to every child
        assert all_.ask(key) == {200}
        seconds = all_.until(key, 401)      # how long it took

    with Steady(gw, keys) as load:          # 200 requests a second
        …
    load.check()                            # each was answered by 200
"""
import collections
import contextlib
import hashlib
import hmac
import json
import os
import secrets
import shutil
import threading
import time
import uuid
from pathlib import Path

import pytest

from clients.http1 import Closed, Conn, poll, render
from harness import ORG, make_key
from postgres import SERVICES
from processes import Server, register_secret, secret_file

TARGET = "/local/hello.txt"

#: As the gateway's connections name themselves.
APPLICATION = "mod_usage_events"

Answered = collections.namedtuple("Answered", "at status took key")
Query = collections.namedtuple("Query", "at connection kind sql hashes")


# --- keys in a database ------------------------------------------------------

def literal(value):
    """As SQL has it."""
    if value is None or isinstance(value, bool):
        return {None: "NULL", True: "true", False: "false"}[value]
    return "'" + str(value).replace("'", "''") + "'"


def sha256_of(key):
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


class Keys:
    """A database with the schema, and what a test does to it."""

    def __init__(self, db):
        self.db, self.sql = db, db.psql

    def url(self, at=None, user="gateway", **params):
        """at: what is in between, such as a PgProxy."""
        params.setdefault("sslmode", "disable")
        return self.db.url(user, port=at.port if at else None, **params)

    def to(self, at=None, conf="", **kw):
        """Arguments for gateway(): files of its own alone are served."""
        return {"backend": None, "key_store": self.url(at),
                "ctl_store": self.db.url("owner"), "server_conf": conf, **kw}

    def _set(self, table, column, value, change):
        what = ", ".join(f"{k} = {literal(v)}" for k, v in change.items())
        self.sql(f"UPDATE {table} SET {what} WHERE {column} = "
                 f"{literal(value)}")

    def set_key(self, key_id, **change):
        self._set("api_keys", "id", key_id, change)

    def set_org(self, org, **change):
        self._set("organizations", "id", org, change)

    def set_plan(self, name, **change):
        self._set("plans", "name", name, change)

    def revoke(self, key):
        self._set("api_keys", "hash", sha256_of(key), {"revoked": "now"})

    def insert(self, keys, org=ORG, hash_of=sha256_of, **columns):
        """Make keys, all in one statement: so many, or these. Returns them."""
        keys = [make_key() for _ in range(keys)] if isinstance(keys, int) \
            else list(keys)
        for key in keys:
            register_secret(key)
        more = "".join(f", {literal(v)}" for v in columns.values())
        rows = ",\n".join(
            f"('{uuid.uuid4()}', '{org}', '{hash_of(k)}', '{k[:12]}'{more})"
            for k in keys)
        names = "".join(f", {name}" for name in columns)
        self.sql(f"INSERT INTO organizations (id, name) VALUES ('{org}', 'T') "
                 "ON CONFLICT DO NOTHING;\n"
                 "INSERT INTO api_keys (id, organization_id, hash, prefix"
                 f"{names}) VALUES\n{rows}")
        return keys

    def bulk(self, prefix, n, org=ORG):
        """Make n keys, PREFIX-0 and so on, without a log of their changes."""
        self.sql(f"""
SET log_statement = none;
SET session_replication_role = replica;
INSERT INTO api_keys (id, organization_id, hash)
SELECT gen_random_uuid(), '{org}',
       'sha256:' || encode(sha256(('{prefix}-' || n)::bytea), 'hex')
FROM generate_series(0, {n - 1}) AS n;
ANALYZE api_keys""", timeout=600)

    def connections(self):
        """The gateways'."""
        return self.db.connections("gateway")

    def wait_connections(self, n, timeout=20):
        self.db.wait_connections(n, "gateway", timeout)


@pytest.fixture
def keys(postgres):
    """In the server that all tests share."""
    return Keys(postgres.new_database())


def pgpass(line):
    """A password file that httpd's children can read, and nobody else."""
    path = secret_file("pgpass")
    path.write_text(line + "\n")
    path.chmod(0o600)
    if os.geteuid() == 0:
        shutil.chown(path, "www-data", "www-data")
    return path


class Secret:
    """A file for UsageKeySecret, and hashes as it makes them."""

    def __init__(self):
        self.text = secrets.token_hex(20)
        register_secret(self.text)
        self.path = secret_file("key-secret")
        self.path.write_text(self.text + "\n")
        self.path.chmod(0o600)

    def hash_of(self, key):
        return "hmac-sha256:" + hmac.new(
            self.text.encode(), key.encode(), "sha256").hexdigest()


# --- the proxy ---------------------------------------------------------------

class PgProxy(Server):
    """t/services/postgresql/proxy.py, which says what it can."""

    def __init__(self, keys):
        super().__init__("pg-proxy")
        self.target = keys.db.server.port
        self.control = self.dir / "control"
        self.query_file = self.dir / "queries"
        self.query_file.touch()

    def start(self):
        self.spawn(["/usr/bin/python3", SERVICES / "proxy.py", self.port,
                    self.target, self.control, self.dir / "stats",
                    self.query_file])
        return self

    def ready(self):
        return (self.dir / "stats").exists() and super().ready()

    def stop(self):
        if self.proc:
            self.proc.kill()
            self.proc.wait()
            self.proc = None

    def mode(self, text):
        """Returns when it is in force."""
        new = self.dir / "control.new"
        new.write_text(text + "\n")
        new.rename(self.control)
        poll(lambda: self.stats()["mode"] == text, 5, what=f"proxy: {text}")

    def stats(self):
        return json.loads((self.dir / "stats").read_text())

    def mark(self):
        return len(self.query_file.read_text().splitlines())

    def queries(self, after=0):
        """Questions after a mark, but LISTEN and what belongs to
        connecting: those that look keys up."""
        lines = self.query_file.read_text().splitlines()[after:]
        found = [Query(**json.loads(line)) for line in lines]
        return [q for q in found if "usage_gateway_keys" in q.sql]


# --- all children ------------------------------------------------------------

def _inodes(pid):
    """Inodes of a process's sockets."""
    found = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            link = os.readlink(fd)
        except OSError:
            continue
        if link.startswith("socket:["):
            found.add(link[8:-1])
    return found


def served_by(gw, conns):
    """The children that have accepted connections, in the same order."""
    owner = {inode: pid for pid in gw.children() for inode in _inodes(pid)}
    found = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        here, there = (int(f.split(":")[1], 16) for f in fields[1:3])
        if here == gw.port and fields[9] in owner:
            found[there] = owner[fields[9]]
    return [found.get(c.sock.getsockname()[1]) for c in conns]


def wait_connected(gw):
    """Until all children are connected, and none doubts what it finds."""
    poll(lambda: gw.metrics()["usage_keystore_connected"] == gw.count, 20,
         what="children to be connected")


class Everywhere:
    """Kept-alive connections to each child of a gateway, or of several: a
    connection stays with the child that accepted it. httpd ends such ones when
    all threads of the child are busy; then there is another to that child."""

    def __init__(self, *gws, each=2, target=TARGET):
        self.gws, self.target = gws, target
        self.conns, self.homes = [], []  # of the same connections
        for gw in gws:
            poll(lambda gw=gw: len(gw.children()) >= gw.count, 10,
                 what="all children")
            for conn, pid in self._connect(gw, dict.fromkeys(gw.children(),
                                                             each)):
                self.conns.append(conn)
                self.homes.append((gw, pid))

    @staticmethod
    def _connect(gw, wanted):
        """So many connections to each child."""
        wanted, found = dict(wanted), []
        for _ in range(40):
            conns = [Conn(gw.port) for _ in range(8)]
            for conn in conns:  # all at once, or one child may take them all
                conn.send(render("GET", TARGET))
            assert {conn.answer().status for conn in conns} == {401}
            for conn, pid in zip(conns, served_by(gw, conns)):
                if wanted.get(pid):
                    wanted[pid] -= 1
                    found.append((conn, pid))
                else:
                    conn.close()
            if not any(wanted.values()):
                return found
        raise AssertionError(f"children that accept nothing: {wanted}")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for conn in self.conns:
            conn.close()

    def _answer(self, n, request, method):
        try:
            return self.conns[n].answer(method)
        except (Closed, ConnectionError):
            gw, pid = self.homes[n]
            self.conns[n].close()
            [(self.conns[n], _)] = self._connect(gw, {pid: 1})
            self.conns[n].send(request)
            return self.conns[n].answer(method)

    def answers(self, key, target=None, method="GET"):
        """What each says to a key, all of them at the same time."""
        request = render(method, target or self.target, {"X-API-Key": key})
        for conn in self.conns:
            with contextlib.suppress(ConnectionError):  # seen at the answer
                conn.send(request)
        return [self._answer(n, request, method)
                for n in range(len(self.conns))]

    def ask(self, key, target=None, method="GET"):
        """The statuses of these."""
        return {a.status for a in self.answers(key, target, method)}

    def until(self, key, status, timeout=10, **kw):
        """Ask until all say so. Returns how long that took, in seconds."""
        begin = time.monotonic()
        poll(lambda: self.ask(key, **kw) == {status}, timeout, every=0,
             what=f"{status} from all children")
        return time.monotonic() - begin


def local(gw, key, **kw):
    """Ask for a file of the gateway's own."""
    return gw.get(TARGET, key=key, **kw)


def at_once(gw, key, n, target=TARGET, timeout=30):
    """n requests on n connections, sent at the same moment. Returns their
    answers and how long the last took."""
    conns = [Conn(gw.port, timeout=timeout) for _ in range(n)]
    begin = time.monotonic()
    keys = key if isinstance(key, list) else [key] * n
    try:
        for conn, one in zip(conns, keys):
            conn.send(render("GET", target, {"X-API-Key": one,
                                             "Connection": "close"}))
        return [c.answer() for c in conns], time.monotonic() - begin
    finally:
        for conn in conns:
            conn.close()


def warm(gw, keys, timeout=30):
    """Ask until each was let in once, so that all are in the cache."""
    end = time.monotonic() + timeout
    while keys:
        assert time.monotonic() < end, f"{len(keys)} keys are not let in"
        answers = [a for n in range(0, len(keys), 50)
                   for a in at_once(gw, keys[n:n + 50], len(keys[n:n + 50]))[0]]
        assert {a.status for a in answers} <= {200, 503}
        keys = [k for k, a in zip(keys, answers) if a.status == 503]


# --- load --------------------------------------------------------------------

class Steady:
    """Requests at a steady rate (a second), with keys in turn. Each client has
    a connection for some requests, then another; one that httpd closes, as in
    a restart, is made anew and the request sent again. seen: an Answered for
    each. cut: requests that were not answered, but for those on a connection
    that was used before: httpd ends such ones when all threads of a child are
    busy, perhaps just when the next request is sent."""

    def __init__(self, gw, keys, rate=200, clients=8, connection=16,
                 timeout=20):
        self.gw, self.keys, self.timeout = gw, list(keys), timeout
        self.period, self.connection = clients / rate, connection
        self.seen, self.wrong, self.cut = [], [], 0
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self._client, args=(n,))
                        for n in range(clients)]

    def _client(self, number):
        try:
            start = time.monotonic() \
                + self.period * number / len(self.threads)
            n = 0
            while not self.ended.is_set():
                with Conn(self.gw.port, timeout=self.timeout) as conn:
                    for used in range(self.connection):
                        late = start + self.period * n - time.monotonic()
                        if self.ended.wait(max(0, late)):
                            return
                        if not self._one(conn, number + n * 7, used > 0):
                            break
                        n += 1
        except Exception as e:
            self.wrong.append(e)

    def _one(self, conn, n, is_used):
        key = self.keys[n % len(self.keys)]
        begin = time.monotonic()
        try:
            conn.send(render("GET", TARGET, {"X-API-Key": key}))
            answer = conn.answer()
        except (Closed, ConnectionError):
            self.cut += not is_used
            return False
        now = time.monotonic()
        self.seen.append(Answered(now, answer.status, now - begin, key))
        return answer.header("Connection") != "close"

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self.ended.set()
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive(), "a client hangs"
        assert not self.wrong, self.wrong[0]

    def statuses(self, since=0.0):
        return collections.Counter(a.status for a in self.seen
                                   if a.at >= since)

    def check(self, status=200, longest=1.2, least=1):
        """All were answered so, within a time."""
        assert set(self.statuses()) == {status}, self.statuses()
        assert len(self.seen) >= least
        took = max(a.took for a in self.seen)
        assert took < longest, f"the longest took {took:.3f} s"


def key_metrics(gw):
    """What came of look-ups, without the zeros."""
    return {k: n for k, n in
            gw.metrics()["usage_key_lookups_total"].items() if n}
