# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""usagectl on a key file and on PostgreSQL: what the tests of its commands
share. What is in a store they read without usagectl.

    @pytest.fixture(params=STORES)
    def store(request):
        return new_store(request)
"""
import contextlib
import datetime
import hashlib
import itertools
import json
import os
import re
import subprocess
from pathlib import Path

from clients.http1 import poll
from processes import new_dir, register_secret

REPO = Path(__file__).resolve().parents[2]
USAGECTL = os.environ.get("USAGECTL", str(REPO / "usagectl"))

ORG = "0198a6f2-5c1e-7d3a-9b40-3f2c81d7e605"
OTHER = "0198a6f2-5c1e-7d3a-9b40-3f2c81d7e606"
NOBODY = "ee7e159c-fbfe-49ba-92e6-27b1e2785138"
#: Every attribute: the options that set it, what is stored, the one that takes
#: it away.
ATTRIBUTES = {
    "rate": (["--rate", "100/s burst=200"], "100/s burst=200", "--no-rate"),
    "quota": (["--quota", "10000/month"], "10000/month", "--no-quota"),
    "networks": (["--network", "192.0.2.0/24", "--network=2001:db8::/32"],
                 ["192.0.2.0/24", "2001:db8::/32"], "--no-networks"),
    "paths": (["--path", "/v1/", "--path", "/v2/charge"],
              ["/v1/", "/v2/charge"], "--no-paths"),
    "methods": (["--method", "GET", "--method", "POST"], ["GET", "POST"],
                "--no-methods"),
}
ALL = list(itertools.chain(*(a[0] for a in ATTRIBUTES.values())))
WANT = {name: a[1] for name, a in ATTRIBUTES.items()}


class Store:
    """A key file or a database. What is in it is read without usagectl."""

    url = None
    secrets = ()

    def ctl(self, *args, url=None, **kw):
        env = {k: v for k, v in os.environ.items()
               if k != "DATABASE_URL" and not k.startswith("PG")}
        env["DATABASE_URL"] = url or self.url
        kw.setdefault("stdout", subprocess.PIPE)
        done = subprocess.run([USAGECTL, *args], env=env, timeout=60,
                              stderr=subprocess.PIPE, encoding="utf-8", **kw)
        for secret in self.secrets:
            assert secret not in (done.stdout or "") + done.stderr
        assert not re.search(r"sha256:[0-9a-f]", done.stderr)
        assert not re.search(r"sk_(live|test)_\w{20}", done.stderr)
        return done

    def ok(self, *args, **kw):
        done = self.ctl(*args, **kw)
        assert done.returncode == 0, done.stderr
        return done

    def fails(self, *args, says, status=1):
        done = self.ctl(*args)
        assert (done.returncode, done.stdout) == (status, ""), done.stderr
        assert says in done.stderr
        return done

    def refused(self, *args, **kw):
        """It fails, says why, and leaves everything as it was."""
        before = self.everything()
        done = self.fails(*args, **kw)
        assert self.everything() == before
        return done

    def wrong(self, *args, says):
        """It fails before it looks at the store, which the fixture checks."""
        return self.fails(*args, says=says, status=2)

    def json(self, *args):
        return json.loads(self.ok(*args, "--format", "json").stdout)

    def new_key(self, *args):
        """The key, and its entry in the store."""
        before = {k["id"] for k in self.keys()}
        key = self.ok(*args).stdout.rstrip("\n")
        register_secret(key)
        [entry] = [k for k in self.keys() if k["id"] not in before]
        return key, entry

    def create(self, *args, org=ORG):
        return self.new_key("key", "create", "--org", org, *args)

    def key(self, key_id):
        [entry] = [k for k in self.keys() if k["id"] == key_id]
        return entry

    def of(self, kind, name):
        """A plan, organization or key as it is stored, without nulls."""
        if kind == "plan":
            found = self.plans()[name]
        elif kind == "org":
            found = self.organizations()[name]
        else:
            found = self.key(name)
        return {k: v for k, v in found.items() if v is not None}


class FileStore(Store):
    kind = "file"

    def __init__(self):
        self.dir = new_dir("usagectl")
        self.path = self.dir / "keys.json"
        self.path.write_text('{"version": 1, "organizations": []}')
        self.url = f"file:{self.path}"

    def everything(self):
        return self.path.read_bytes(), sorted(
            p.name for p in self.dir.iterdir() if p.name != "keys.json.lock")

    def read(self):
        return json.loads(self.path.read_text(encoding="utf-8"))

    def plans(self):
        return {name: {**plan, "name": name}
                for name, plan in self.read().get("plans", {}).items()}

    def organizations(self):
        return {o["id"]: o for o in self.read()["organizations"]}

    def keys(self):
        return [{**k, "organization_id": o["id"]}
                for o in self.read()["organizations"] for k in o["keys"]]

    def edit(self, key_id, **members):
        doc = self.read()
        for org in doc["organizations"]:
            for key in org["keys"]:
                if key["id"] == key_id:
                    key.update(members)
        self.path.write_text(json.dumps(doc), encoding="utf-8")


class PgStore(Store):
    kind = "postgresql"

    def __init__(self, server):
        self.dir = new_dir("usagectl")
        self.db = server.new_database()
        self.url = self.db.url("owner")
        self.secrets = [server.passwords["owner"]]

    def rows(self, table):
        text = self.db.psql(
            f"SET timezone = 'UTC'; SELECT to_jsonb(t) FROM {table} t "
            "ORDER BY created")
        rows = [json.loads(line) for line in text.splitlines()]
        for row in rows:
            for name in ("created", "expires", "revoked"):
                if row.get(name):
                    row[name] = row[name].replace("+00:00", "Z")
        return rows

    def everything(self):
        return self.db.psql("; ".join(
            f"SELECT to_jsonb(t) FROM {t} t ORDER BY 1"
            for t in ("plans", "organizations", "api_keys")))

    def plans(self):
        return {p["name"]: p for p in self.rows("plans")}

    def organizations(self):
        return {o["id"]: o for o in self.rows("organizations")}

    def keys(self):
        return self.rows("api_keys")

    def edit(self, key_id, **members):
        for name, value in members.items():
            self.db.psql(f"UPDATE api_keys SET {name} = '{value}' "
                         f"WHERE id = '{key_id}'")


#: What the fixture named store is parametrized over.
STORES = ["file", "postgresql"]


def new_store(request):
    if request.param == "file":
        return FileStore()
    return PgStore(request.getfixturevalue("postgres"))


def makers(store):
    """Functions that make a plan, organization and key. Each returns what
    names it."""
    def plan(*args):
        store.ok("plan", "create", "gold", *args)
        return "gold"

    def org(*args):
        store.ok("org", "create", "--id", OTHER, "--name", "Acme", *args)
        return OTHER

    def key(*args):
        return store.create(*args)[1]["id"]
    return {"plan": plan, "org": org, "key": key}


KINDS = ["plan", "org", "key"]


def sha256(key):
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def when(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def near(text, **delta):
    now = datetime.datetime.now(datetime.timezone.utc)
    return abs(when(text) - now - datetime.timedelta(**delta)) < \
        datetime.timedelta(seconds=60)


def wait_for_write(proc):
    """Until it waits in a write to standard output."""
    call = Path(f"/proc/{proc.pid}/syscall")
    poll(lambda: call.read_text().startswith("1 0x1 "), 20, every=0.01,
         what="usagectl writes the key")


def open_files(proc):
    for fd in Path(f"/proc/{proc.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            yield os.readlink(fd)


def full_pipe():
    """(reading, writing) end of a pipe that takes nothing more."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"x" * 4096)
    os.set_blocking(write, True)
    return read, write


def start(store, *args, stdout=subprocess.PIPE):
    env = {**os.environ, "DATABASE_URL": store.url}
    return subprocess.Popen([USAGECTL, *args], env=env, encoding="utf-8",
                            stdout=stdout, stderr=subprocess.PIPE)


def finish(running):
    """(exit status, standard output, standard error) of each."""
    return [(p.returncode, out, err) for p, (out, err) in
            [(p, p.communicate(timeout=60)) for p in running]]
