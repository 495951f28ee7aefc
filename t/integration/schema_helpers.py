# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""usagectl on databases, and rows that it didn't write."""
import re
import subprocess
import uuid

from harness import USAGECTL
from postgres import SCHEMA, clean_env

#: Those of conf/schema.sql.
VERSIONS = [int(n) for n in re.findall(r"^-- version (\d+):",
                                       SCHEMA.read_text(), re.M)]
#: What init-db says of a new database, and of one that needs nothing.
APPLIED = "".join(f"usagectl: version {n} applied\n" for n in VERSIONS)
NOTHING = f"usagectl: nothing to do, version {VERSIONS[-1]}\n"


def start_ctl(*args, env=None):
    return subprocess.Popen([USAGECTL, *map(str, args)],
                            env=clean_env(**(env or {})), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ctl(*args, env=None):
    proc = start_ctl(*args, env=env)
    out, err = proc.communicate(timeout=60)
    return subprocess.CompletedProcess(args, proc.returncode, out, err)


def init(db, **params):
    return ctl("init-db", "--store", db.url(**params))


def hash_of(n):
    return f"{n:064x}"


class Keys:
    """Rows by plain SQL, as anybody may write them."""

    def __init__(self, db):
        self.db, self.org = db, str(uuid.uuid4())
        db.psql(f"INSERT INTO organizations (id, name) VALUES ('{self.org}', "
                "'Acme')", user="owner")

    def add(self, n, **columns):
        columns = {"id": uuid.UUID(int=n), "organization_id": self.org,
                   "hash": f"sha256:{hash_of(n)}", **columns}
        values = ", ".join("NULL" if v is None else f"'{v}'"
                           for v in columns.values())
        self.db.psql(f"INSERT INTO api_keys ({', '.join(columns)}) "
                     f"VALUES ({values})", user="owner")
        return str(columns["id"])
