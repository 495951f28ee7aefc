# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""usagectl on a key file: what it prints, what it writes, how it fails."""
import csv
import grp
import hashlib
import io
import json
import os
import re
import resource
import signal
import stat
import string
import subprocess
import sys
import uuid
import zlib
from pathlib import Path

import pytest

from processes import new_dir, register_secret

REPO = Path(__file__).resolve().parents[2]
USAGECTL = os.environ.get("USAGECTL", str(REPO / "usagectl"))

ORG = "0198a6f2-5c1e-7d3a-9b40-3f2c81d7e605"
OTHER = "0198a6f2-5c1e-7d3a-9b40-3f2c81d7e606"
BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


class Store:
    def __init__(self, directory):
        self.dir = directory
        self.path = directory / "keys.json"

    def ctl(self, *args, store=True, env=None, **kw):
        """Run usagectl with DATABASE_URL naming the store."""
        full = {k: v for k, v in os.environ.items() if k != "DATABASE_URL"}
        if store:
            full["DATABASE_URL"] = f"file:{self.path}"
        kw.setdefault("stdout", subprocess.PIPE)
        return subprocess.run([USAGECTL, *args], env={**full, **(env or {})},
                              stderr=subprocess.PIPE, timeout=60,
                              encoding="utf-8", **kw)

    def ok(self, *args, **kw):
        done = self.ctl(*args, **kw)
        assert done.returncode == 0, done.stderr
        return done

    def create(self, *args, org=ORG):
        key = self.ok("key", "create", "--org", org, *args).stdout.rstrip()
        register_secret(key)
        return key

    def read(self):
        return json.loads(self.path.read_text(encoding="utf-8"))

    def organizations(self):
        return {o["id"]: o for o in self.read()["organizations"]}

    def keys(self):
        return [k for o in self.read()["organizations"] for k in o["keys"]]

    def files(self):
        return sorted(p.name for p in self.dir.iterdir())


@pytest.fixture
def tmp_path():
    """Where the search for keys at the end of the suite looks, too."""
    return new_dir("usagectl")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def checksum(text):
    n, digits = zlib.crc32(text.encode()), ""
    for _ in range(6):
        n, d = divmod(n, 62)
        digits = BASE62[d] + digits
    return digits


# --- key create --------------------------------------------------------------

def test_key_create_writes_the_key_alone_and_once(store):
    done = store.ok("key", "create", "--org", ORG, "--name", "ci",
                    "--org-name", "Acme Łtd")
    key = done.stdout.rstrip("\n")
    assert done.stdout == key + "\n"
    assert re.fullmatch(r"sk_live_[0-9A-Za-z]{36}", key)
    assert key[-6:] == checksum(key[:-6])
    [org] = store.read()["organizations"]
    assert (org["id"], org["name"], org["billable"]) == \
        (ORG, "Acme Łtd", True)
    [entry] = org["keys"]
    assert list(entry) == ["id", "name", "prefix", "hash", "created",
                           "expires", "revoked", "billable"]
    digest = hashlib.sha256(key.encode()).hexdigest()
    assert entry["hash"] == "sha256:" + digest
    assert entry["prefix"] == key[:12]
    assert entry["name"] == "ci"
    assert TIME.fullmatch(entry["created"])
    assert (entry["expires"], entry["revoked"], entry["billable"]) == \
        (None, None, True)
    assert uuid.UUID(entry["id"]).version == 4
    # its id and where it is are told, the key is not
    assert entry["id"] in done.stderr and str(store.path) in done.stderr
    assert key not in done.stderr


def test_key_is_nowhere_but_on_standard_output(store):
    keys = [store.create("--env", env) for env in ("live", "test")]
    store.ok("key", "list")
    for path in store.dir.iterdir():
        for key in keys:
            assert key[12:] not in path.read_text(encoding="utf-8"), path


def test_key_create_options(store):
    key = store.create("--env", "test", "--not-billable",
                       "--expires", "2030-01-31T13:30:00+01:30")
    assert key.startswith("sk_test_")
    [entry] = store.keys()
    assert entry["billable"] is False
    assert entry["expires"] == "2030-01-31T12:00:00Z"
    assert entry["name"] == ""


def test_key_create_takes_the_organization_that_is_there(store):
    store.ok("org", "create", "--id", ORG, "--name", "Acme")
    store.create("--name", "a")
    done = store.ok("key", "create", "--org", ORG.upper(), "--name", "b",
                    "--org-name", "Other")
    assert "keeps its name" in done.stderr
    store.create("--name", "c", org=OTHER)
    orgs = store.organizations()
    assert [k["name"] for k in orgs[ORG]["keys"]] == ["a", "b"]
    assert [k["name"] for k in orgs[OTHER]["keys"]] == ["c"]
    assert orgs[ORG]["name"] == "Acme"
    assert len({k["id"] for k in store.keys()}) == 3
    assert len({k["hash"] for k in store.keys()}) == 3


def test_key_create_says_that_a_key_has_expired(store):
    done = store.ok("key", "create", "--org", ORG, "--expires",
                    "2020-01-01T00:00:00Z")
    assert "expired already" in done.stderr


def test_key_create_keeps_what_it_does_not_know(store):
    store.path.write_text(json.dumps({
        "version": 1, "mine": [1, {"x": "é/ü"}], "plans": {"p": {}},
        "organizations": [{"id": OTHER, "rate": "5/s", "keys": [
            {"id": str(uuid.uuid4()), "hash": "sha256:" + "a" * 64,
             "networks": ["10.0.0.0/8"], "note": None}]}]}),
        encoding="utf-8")
    before = store.read()
    store.create()
    after = store.read()
    assert after["organizations"].pop()["id"] == ORG
    assert after == before


# --- a key that nobody has must not work -------------------------------------

def lost(store, done):
    assert done.returncode == 1
    assert "standard output can't be written" in done.stderr
    assert "no key was made" in done.stderr
    assert store.keys() == []
    assert store.files() == ["keys.json", "keys.json.lock"]


def test_key_create_without_room_on_standard_output(store):
    store.ok("org", "create", "--id", ORG, "--name", "Acme")
    with open("/dev/full", "w", encoding="utf-8") as full:
        lost(store, store.ctl("key", "create", "--org", ORG, stdout=full))


def test_key_create_with_standard_output_closed(store):
    """Its number must not be given to a file that the key then goes to."""
    store.ok("org", "create", "--id", ORG, "--name", "Acme")
    lost(store, store.ctl("key", "create", "--org", ORG, stdout=None,
                          preexec_fn=lambda: os.close(1)))


def test_key_create_with_all_files_closed(store):
    store.ok("org", "create", "--id", ORG, "--name", "Acme")
    subprocess.run(["/bin/sh", "-c", f'"{USAGECTL}" key create --org {ORG} '
                    f'--store "file:{store.path}" <&- >&- 2>&-; [ $? = 1 ]'],
                   check=True, timeout=60)
    assert store.keys() == []


def test_key_create_with_a_reader_that_has_gone(store):
    store.ok("org", "create", "--id", ORG, "--name", "Acme")
    read, write = os.pipe()
    os.close(read)
    try:
        lost(store, store.ctl("key", "create", "--org", ORG, stdout=write))
    finally:
        os.close(write)


def test_key_create_without_room_for_the_file(store):
    """All that can fail comes before the key is shown."""
    store.ok("org", "create", "--id", ORG, "--name", "Acme")
    before = store.path.read_bytes()

    def no_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    done = store.ctl("key", "create", "--org", ORG, preexec_fn=no_files)
    assert (done.returncode, done.stdout) == (1, "")
    assert "keys.json.new: can't be written" in done.stderr
    assert store.path.read_bytes() == before
    assert store.files() == ["keys.json", "keys.json.lock"]


def test_lists_say_when_they_cannot_be_written(store):
    store.create()
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = store.ctl("key", "list", stdout=full)
    assert done.returncode == 1
    assert "standard output can't be written" in done.stderr


# --- who may read it ---------------------------------------------------------

def test_new_file_is_for_owner_and_group(store):
    old = os.umask(0)
    try:
        store.create()
    finally:
        os.umask(old)
    st = store.path.stat()
    assert stat.S_IMODE(st.st_mode) == 0o640
    if os.geteuid() == 0:
        assert st.st_gid == grp.getgrnam("www-data").gr_gid


def test_group_is_the_one_that_was_named(store):
    gid = os.getgid()
    store.create("--group", grp.getgrgid(gid).gr_name)
    assert store.path.stat().st_gid == gid
    done = store.ctl("key", "create", "--org", ORG, "--group", "no-such-group",
                     "--store", f"file:{store.dir / 'new.json'}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no group no-such-group" in done.stderr


def test_old_file_keeps_mode_and_place(store):
    real = store.dir / "real.json"
    store.ok("org", "create", "--id", ORG, "--name", "Acme", "--store",
             f"file:{real}")
    real.chmod(0o600)
    store.path.symlink_to("real.json")
    store.create()
    assert store.path.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert len(store.keys()) == 1


def test_many_at_once_lose_nothing(store):
    full = {**os.environ, "DATABASE_URL": f"file:{store.path}"}
    running = [subprocess.Popen([USAGECTL, "key", "create", "--org", ORG],
                                env=full, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE) for _ in range(16)]
    shown = [p.communicate(timeout=60)[0].strip() for p in running]
    assert [p.returncode for p in running] == [0] * 16
    assert {"sha256:" + hashlib.sha256(k).hexdigest() for k in shown} == \
        {k["hash"] for k in store.keys()}
    assert len(store.keys()) == 16


# --- key list ----------------------------------------------------------------

@pytest.fixture
def three(store):
    """A key that works, one that has expired, and one of another organization,
    which isn't billed."""
    store.create("--name", 'a "quoted", name', "--org-name", "Acme")
    store.create("--expires", "2020-01-01T00:00:00Z")
    store.ok("org", "create", "--id", OTHER, "--name", "Zoë", "--not-billable")
    store.create(org=OTHER)
    return store


def test_key_list_json(three):
    rows = json.loads(three.ok("key", "list", "--format", "json").stdout)
    entries = three.keys()
    assert [r["id"] for r in rows] == [e["id"] for e in entries]
    for row, entry in zip(rows, entries):
        assert "hash" not in row
        for name in ("name", "prefix", "created", "expires", "revoked"):
            assert row[name] == entry[name]
    assert [r["organization_id"] for r in rows] == [ORG, ORG, OTHER]
    assert [r["organization_name"] for r in rows] == ["Acme", "Acme", "Zoë"]
    assert [r["state"] for r in rows] == ["active", "expired", "active"]
    assert [r["billable"] for r in rows] == [True, True, False]


def test_key_list_csv(three):
    text = three.ok("key", "list", "--format", "csv").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [r["id"] for r in rows] == [e["id"] for e in three.keys()]
    assert rows[0]["name"] == 'a "quoted", name'
    assert rows[1]["expires"] == "2020-01-01T00:00:00Z"
    assert rows[2]["organization_name"] == "Zoë"


def test_key_list_table(three):
    lines = three.ok("key", "list").stdout.splitlines()
    assert len(lines) == 4
    assert lines[0].split() == ["ID", "ORGANIZATION", "NAME", "PREFIX",
                                "CREATED", "EXPIRES", "BILLABLE", "STATE"]
    for line, entry in zip(lines[1:], three.keys()):
        assert line.startswith(entry["id"] + "  ")
        assert entry["prefix"] in line
    state = lines[0].index("STATE")
    assert [line[state:] for line in lines[1:]] == \
        ["active", "expired", "active"]
    assert three.ok("key", "list", "--format", "table").stdout == \
        "".join(line + "\n" for line in lines)


def test_key_list_of_one_organization(three):
    def ids(org):
        out = three.ok("key", "list", "--org", org, "--format", "json").stdout
        return [r["id"] for r in json.loads(out)]

    all_ids = [e["id"] for e in three.keys()]
    assert ids(ORG.upper()) == all_ids[:2]
    assert ids(OTHER) == all_ids[2:]
    assert ids(str(uuid.uuid4())) == []


def test_table_keeps_control_characters_from_a_terminal(store):
    store.path.write_text(json.dumps({"version": 1, "organizations": [
        {"id": ORG, "name": "a\x1b[2Jb\x9bc\u00e9\u00a0"}]}), encoding="utf-8")
    out = store.ok("org", "list").stdout
    assert "a?[2Jb??cé\u00a0" in out
    assert not [c for c in out if ord(c) < 32 and c != "\n" or
                0x7F <= ord(c) < 0xA0]


def test_empty_lists(store):
    store.path.write_text('{"version":1,"organizations":[]}', encoding="utf-8")
    assert json.loads(store.ok("key", "list", "--format", "json").stdout) == []
    assert len(store.ok("key", "list").stdout.splitlines()) == 1
    assert len(store.ok("org", "list", "--format",
                        "csv").stdout.splitlines()) == 1


# --- key revoke --------------------------------------------------------------

def test_key_revoke(store):
    store.create()
    store.create()
    first, second = store.keys()
    done = store.ok("key", "revoke", first["id"].upper())
    assert done.stdout == ""
    revoked = store.keys()[0]["revoked"]
    assert TIME.fullmatch(revoked)
    assert store.keys() == [{**first, "revoked": revoked}, second]
    rows = json.loads(store.ok("key", "list", "--format", "json").stdout)
    assert [r["state"] for r in rows] == ["revoked", "active"]


def test_key_revoke_twice_keeps_the_first_time(store):
    store.create()
    [entry] = store.keys()
    data = store.read()
    data["organizations"][0]["keys"][0]["revoked"] = "2021-02-03T04:05:06Z"
    store.path.write_text(json.dumps(data), encoding="utf-8")
    before = store.path.read_bytes()
    done = store.ok("key", "revoke", entry["id"])
    assert "revoked before, at 2021-02-03T04:05:06Z" in done.stderr
    assert store.path.read_bytes() == before


def test_key_revoke_of_an_unknown_key(store):
    store.create()
    before = store.path.read_bytes()
    unknown = str(uuid.uuid4())
    done = store.ctl("key", "revoke", unknown)
    assert done.returncode == 1
    assert f"there is no key {unknown}" in done.stderr
    assert store.path.read_bytes() == before


def test_key_revoke_does_not_repeat_a_key(store):
    key = store.create()
    done = store.ctl("key", "revoke", key)
    assert done.returncode == 2
    assert key not in done.stderr
    assert "there is a key among the arguments" in done.stderr


# --- key check ---------------------------------------------------------------

def test_key_check(store):
    key = store.create()
    mistyped = key[:20] + ("a" if key[20] != "a" else "b") + key[21:]
    for given, status, says in (
            (key, 0, "form and checksum are right"),
            (key + "\n", 0, "form and checksum are right"),
            (key + "\r\n", 0, "form and checksum are right"),
            (mistyped, 1, "mistyped"),
            ("sk_test_123", 1, "hasn't the form"),
            ("", 1, "can't be a key"),
            (key + " ", 1, "can't be a key"),
            ("x" * 300, 1, "can't be a key")):
        done = store.ctl("key", "check", input=given, store=False)
        assert (done.returncode, done.stderr) == (status, "")
        assert says in done.stdout and (not given or given not in done.stdout)


# --- org ---------------------------------------------------------------------

def test_org_create_and_list(store):
    store.ok("org", "create", "--id", ORG.upper(), "--name", "Acme")
    store.ok("org", "create", "--id", OTHER, "--name", "Zoë",
             "--not-billable")
    store.create()
    rows = json.loads(store.ok("org", "list", "--format", "json").stdout)
    assert rows == [
        {"id": ORG, "name": "Acme", "billable": True, "keys": 1},
        {"id": OTHER, "name": "Zoë", "billable": False, "keys": 0}]
    done = store.ctl("org", "create", "--id", ORG, "--name", "Again")
    assert done.returncode == 1 and "is there already" in done.stderr
    assert store.organizations()[ORG]["name"] == "Acme"


# --- wrong use ---------------------------------------------------------------

KEY_ID = "ee7e159c-fbfe-49ba-92e6-27b1e2785138"
WRONG = [
    ([], "usagectl key create"),
    (["frob"], "no such command"),
    (["key"], "usagectl key create"),
    (["key", "frob"], "no such command"),
    (["key", "create"], "--org UUID is missing"),
    (["key", "create", "--org"], "--org needs a value: UUID"),
    (["key", "create", "--org="], "--org needs a value: UUID"),
    (["key", "create", "--org", "acme"], "--org must be a UUID, like"),
    (["key", "create", "--org", ORG, "--org", ORG], "--org is there twice"),
    (["key", "create", "--org", ORG, "--env", "prod"], "live or test"),
    (["key", "create", "--org", ORG, "--expires", "tomorrow"],
     "--expires must be a time with a zone, after 1970, like 2030-01-31T12:00"),
    (["key", "create", "--org", ORG, "--expires", "2030-01-31"], "a time"),
    (["key", "create", "--org", ORG, "--name", "a\nb"], "--name must be"),
    (["key", "create", "--org", ORG, "--name", b"\xff"], "--name must be"),
    (["key", "create", "--org", ORG, "--name", "x" * 201], "--name must be"),
    (["key", "create", "--org", ORG, "--org-name", "\t"], "--org-name must"),
    (["key", "create", "--org", ORG, "--not-billable=yes"], "takes no value"),
    (["key", "create", "--org", ORG, "--frob"], "there is no option --frob"),
    (["key", "create", "--org", ORG, "--id", ORG], "there is no option --id"),
    (["key", "create", "--org", ORG, "extra"], "an argument too many"),
    (["key", "create", "--org", ORG, "--store", "x.json"], "file:PATH, like"),
    (["key", "create", "--org", ORG, "--store", "file:"], "file:PATH, like"),
    (["key", "create", "--org", ORG, "--store", "mysql://u:pw@h/d"],
     "file:/etc/apache2/usage-keys.json, or postgresql://HOST/NAME"),
    (["key", "list", "--format", "xml"], "table, json or csv"),
    (["key", "list", "--org", "acme"], "--org must be a UUID"),
    (["key", "revoke"], "ID is missing"),
    (["key", "revoke", KEY_ID, KEY_ID], "an argument too many"),
    (["key", "check", "sk_live_x"], "an argument too many"),
    (["org", "create", "--id", ORG], "--name NAME is missing"),
    (["org", "create", "--name", "Acme"], "--id UUID is missing"),
    (["org", "create", "--id", "1", "--name", "Acme"], "--id must be a UUID"),
]


@pytest.mark.parametrize("args,says", WRONG, ids=range(len(WRONG)))
def test_wrong_use(store, args, says):
    store.ok("org", "create", "--id", OTHER, "--name", "Other")
    before = store.path.read_bytes()
    done = store.ctl(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert "pw" not in done.stderr
    assert store.path.read_bytes() == before


def test_no_store_is_wrong_use(store):
    for env in ({}, {"DATABASE_URL": ""}):
        done = store.ctl("key", "list", store=False, env=env)
        assert done.returncode == 2
        assert "--store file:PATH" in done.stderr


def test_store_comes_before_the_environment(store):
    other = store.dir / "other.json"
    store.ok("key", "create", "--org", ORG, f"--store=file:{other}")
    assert not store.path.exists() and other.exists()


# --- refused -----------------------------------------------------------------

@pytest.mark.parametrize("text,says", [
    ("", "is empty"),
    ("{", "line 1, column 2: not JSON"),
    ('{"version":2,"organizations":[]}', "version: must be 1"),
    ('{"version":1,"organizations":[{}]}', "organizations[0].id: is missing"),
])
def test_broken_file_is_left_alone(store, text, says):
    store.path.write_text(text, encoding="utf-8")
    for args in (["key", "create", "--org", ORG], ["key", "list"],
                 ["key", "revoke", KEY_ID], ["org", "list"],
                 ["org", "create", "--id", ORG, "--name", "Acme"]):
        done = store.ctl(*args)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"{store.path}: " in done.stderr and says in done.stderr
    assert store.path.read_text(encoding="utf-8") == text


def test_missing_file(store):
    for args in (["key", "list"], ["org", "list"], ["key", "revoke", KEY_ID]):
        done = store.ctl(*args)
        assert (done.returncode, done.stdout) == (1, "")
        assert "No such file" in done.stderr
    assert not store.path.exists()
    done = store.ctl("key", "create", "--org", ORG, "--store",
                     f"file:{store.dir}/no/keys.json")
    assert (done.returncode, done.stdout) == (1, "")
    assert "No such file" in done.stderr


# --- help --------------------------------------------------------------------

def test_help_names_every_command(store):
    text = store.ok("--help", store=False).stdout
    commands = re.findall(r"^  usagectl ([a-z]+ [a-z]+)", text, re.M)
    assert sorted(commands) == [
        "key changes", "key check", "key create", "key list", "key revoke",
        "key rotate", "key set", "key show", "org create", "org list",
        "org set", "org show", "plan create", "plan delete", "plan list",
        "plan set", "plan show", "spool dump", "spool ls", "spool verify"]
    for command in commands:
        one = store.ok(*command.split(), "--help", store=False).stdout
        assert one.startswith(f"usagectl {command}")
        assert store.ok("help", *command.split(), store=False).stdout == one
        # one short phrase
        assert re.search(rf"(?m)^  usagectl {command}( [A-Z|\[\]]+)?  +\S.+$",
                         text)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "--expires TIME" in store.ok("key", "create", "-h").stdout
    assert store.files() == []


@pytest.mark.parametrize("noun", ["plan", "org", "key", "spool"])
def test_a_noun_lists_its_commands(store, noun):
    text = store.ok(noun, "--help", store=False).stdout
    assert set(re.findall(r"(?m)^  usagectl ([a-z]+) [a-z]+ ", text)) == {noun}
    assert set(text.splitlines()) - {"  usagectl COMMAND --help says more of "
                                     "one.", ""} < set(
        store.ok("--help", store=False).stdout.splitlines())
    for args in ([noun, "-h"], ["help", noun]):
        assert store.ok(*args, store=False).stdout == text
    done = store.ctl(noun, store=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", text)
    for args in ([noun, "frob"], ["help", noun, "frob"]):
        done = store.ctl(*args, store=False)
        assert (done.returncode, done.stdout, done.stderr) == \
            (2, "", f"usagectl: there is no such command\n\n{text}")


def test_version(store):
    header = (REPO / "src/version.h").read_text(encoding="utf-8")
    version = re.search(r'UE_VERSION "(.*)"', header).group(1)
    assert store.ok("--version", store=False).stdout == f"usagectl {version}\n"


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
