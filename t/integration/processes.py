# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Processes, ports and places: what gateway and backends have in common.

Every run lives below one base directory, which conftest.py makes and removes:

    BASE/runs/…     one directory a server: configuration, logs, events
    BASE/secret/    what holds keys in plain text: the list of all of them, and
                    the input of load generators. Nothing else may hold one.
"""
import fcntl
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from clients.http1 import poll

REPO = Path(__file__).resolve().parents[2]


def base_dir():
    base = os.environ.get("UE_TEST_BASE")
    if not base:  # outside of pytest: an interactive session
        base = tempfile.mkdtemp(prefix="ue-test-")
        os.environ["UE_TEST_BASE"] = base
    base = Path(base)
    os.chmod(base, 0o755)  # httpd's children must get to their document root
    for name in ("runs", "secret"):
        (base / name).mkdir(exist_ok=True)
    return base


def new_dir(name):
    """A directory of its own for a server."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:80]
    path = tempfile.mkdtemp(prefix=name + "-", dir=base_dir() / "runs")
    os.chmod(path, 0o755)
    return Path(path)


def secret_file(name):
    """A file that may hold keys: a load generator's input."""
    fd, path = tempfile.mkstemp(prefix=name + "-", dir=base_dir() / "secret")
    os.close(fd)
    os.chmod(path, 0o644)
    return Path(path)


# --- ports -------------------------------------------------------------------

def free_port():
    """A port that nobody listens on. Not from the range that the system gives
    to outgoing connections, and in a stretch of each pytest-xdist worker's
    own, so that nobody is likely to take it before it is used."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]
    first = 15000 + 2000 * (int(worker) % 8)
    for _ in range(1000):
        port = random.randrange(first, first + 2000)
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise RuntimeError("no free port")


def answers(port):
    with socket.socket() as s:
        s.settimeout(1)
        return s.connect_ex(("127.0.0.1", port)) == 0


def connections(port):
    """How many connections of a server still hold one of its threads, or may:
    all but those that are closed on both sides."""
    over = {"06", "07", "09", "0A"}  # TIME_WAIT, CLOSE, LAST_ACK, LISTEN
    n = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        n += (int(fields[1].split(":")[1], 16) == port
              and fields[3] not in over)
    return n


# --- processes ---------------------------------------------------------------

def session_members(sid):
    """Living processes of a session, by /proc."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path("/proc", entry, "stat").read_text()
            except OSError:
                continue
            fields = stat.rpartition(")")[2].split()
            if int(fields[3]) == sid and fields[0] != "Z":
                found.append(int(entry))
    return found


def children_of(pid):
    """Living children of a process."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path("/proc", entry, "stat").read_text()
            except OSError:
                continue
            fields = stat.rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(entry))
    return sorted(found)


def end_process(proc, sig=signal.SIGTERM, timeout=15):
    """End a process of ours. True if it ended without being killed."""
    if proc is None or proc.poll() is not None:
        return True
    proc.send_signal(sig)
    try:
        proc.wait(timeout)
        return True
    except subprocess.TimeoutExpired:
        proc.kill()
        proc.wait(10)
        return False


def run(args, timeout=120, check=True, **kw):
    """Run a program to its end; its output is in the failure."""
    done = subprocess.run([str(a) for a in args], capture_output=True,
                          text=True, timeout=timeout, **kw)
    if check and done.returncode:
        raise AssertionError(f"{Path(str(args[0])).name} ended with "
                             f"{done.returncode}: {done.stdout}{done.stderr}")
    return done


def tool(name):
    """The path of a program that a test needs. Missing, it skips the test on a
    developer's own run, and fails it in CI."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if path is None:
        need(False, f"{name} is not installed: make deps")
    return path


def need(there, why):
    import pytest
    if not there:
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)


class Server:
    """A process with a directory and a port."""

    def __init__(self, name):
        self.dir = new_dir(name)
        self.port = free_port()
        self.proc = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def spawn(self, args, env=None, timeout=10):
        out = open(self.dir / "output.log", "ab")
        self.proc = subprocess.Popen([str(a) for a in args], env=env,
                                     cwd=self.dir, stdout=out, stderr=out,
                                     stdin=subprocess.DEVNULL,
                                     start_new_session=True)
        out.close()
        try:
            poll(lambda: self.proc.poll() is not None or self.ready(), timeout,
                 what=f"{args[0]} answers on port {self.port}")
        except AssertionError:
            end_process(self.proc)
            self.proc = None
            raise
        if self.proc.poll() is not None:
            self.proc = None
            raise AssertionError(f"{args[0]} did not start:\n{self.logs()}")

    def ready(self):
        return answers(self.port)

    def logs(self, tail=6000):
        text = ""
        for path in sorted(self.dir.rglob("*.log")):
            text += f"--- {path.name}\n{path.read_text(errors='replace')}"
        return text[-tail:]

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.stop()


# --- keys in plain text ------------------------------------------------------

def register_secret(text, backend_may_see=False):
    """Name a key that no log and no answer may show. With backend_may_see it is
    expected in the directory of a backend (UsageKeyHide Off), and nowhere
    else."""
    with open(base_dir() / "secret" / "keys", "a", encoding="latin-1") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        f.write(f"{int(backend_may_see)} {text}\n")


def registered(base=None):
    """All keys: {text that gives it away: backend_may_see}. Of a key of our
    own form that is what follows the prefix, which lists may show."""
    path = (Path(base) if base else base_dir()) / "secret" / "keys"
    found = {}
    if path.exists():
        for line in path.read_text(encoding="latin-1").splitlines():
            seen, _, key = line.partition(" ")
            if len(key) >= 8:
                found[key[12:] if len(key) >= 24 else key] = seen == "1"
    return found


def find_secrets(base=None):
    """Search every file of every run for every key ever made. Returns lines
    that name file and key (by its first characters) and never the key."""
    base = Path(base) if base else base_dir()
    secrets = registered(base)
    if not secrets or not (base / "runs").is_dir():
        return []
    with tempfile.NamedTemporaryFile("w", dir=base / "secret",
                                     encoding="latin-1") as patterns:
        patterns.write("\n".join(secrets) + "\n")
        patterns.flush()
        done = subprocess.run(
            ["grep", "-raoFf", patterns.name, "--exclude-dir=size",
             str(base / "runs")],
            capture_output=True, env={**os.environ, "LC_ALL": "C"})
    if done.returncode > 1:
        return [f"grep failed: {done.stderr.decode(errors='replace')}"]
    found = {}
    for line in done.stdout.decode("latin-1").splitlines():
        path, _, secret = line.partition(":")
        where = os.path.relpath(path, base / "runs")
        if not (secrets.get(secret) and where.startswith("backend")):
            found[where, secret] = found.get((where, secret), 0) + 1
    return [f"{where}: a key ({secret[:4]}…) {n} times"
            for (where, secret), n in sorted(found.items())]
