# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Starts real servers for a test, each in a directory of its own, and sees to
it that they end cleanly.

    from harness import Conn, ORG, poll

    def test_something(gateway, backend):           # fixtures of conftest.py
        gw = gateway(server_conf="UsageExempt /free/")      # nginx behind it
        key, key_id, org = gw.key()                 # before start()
        gw.start()
        a = gw.get("/status/404", key=key)          # an Answer (clients/http1)
        assert a.status == 404
        [event] = gw.wait_events(1)                 # exactly one, not 1 or more
        assert event["organization_id"] == org
        assert backend.wait_requests(1)[0]["id"] == a.request_id

Fixtures: `gateway(**kw)` makes a Gateway, stopped and checked at the test's
end; its backend is the fixture `backend` (nginx) unless backend=… says
otherwise: an object with .url, a URL, or None for no ProxyPass. `odd` is the
backend that misbehaves (backends/odd.py says what it can). `mpm` runs the test
on each MPM (restrict it by @pytest.mark.mpms("event", "worker")). All may be
used outside of pytest: Gateway(dir_name, …), Nginx(), Odd(), with start() and
stop(), or as context managers.

Gateway(name, mpm=, modules=, server_conf=, vhost_conf=, env=, children=,
threads=, module=, usage=, backend=, server_limit=, preload=, key_store=,
ctl_store=)
    modules      LoadModule for these beside MODULES: ["http2", "cache", …]
    server_conf  directives of the server, ahead of our ProxyPass /; {dir},
                 {port} and {htdocs} are replaced
    vhost_conf   directives of a <VirtualHost> that all requests go to
    env          environment variables for httpd
    children     how many, constant (threads each; 1 with prefork)
    module=False bare httpd, to compare with
    usage=False  our module is loaded, but nothing of it configured; else:
                 UsageEvents On, UsageKeyStore, UsageEventFile, /usage-status;
                 usage={"UsageEventFile": None} leaves one out or changes it
    server_limit more than children, where restarts need room for the old ones
    preload=False without the sanitizer, where the others run with it
    key_store    a database's URL, in place of the key file; it is told by the
                 environment, for it may hold a password
    ctl_store    usagectl's URL, where it is another: the owner's

Paths below /local/ are files of {htdocs}/local, the rest goes to the backend.
start() waits until httpd answers. stop() ends it and fails the test if a child
died by a signal (but those named by allow_signal()), had to be killed, left a
process behind, wrote a torn or unreadable event, or a sanitizer complained.
stop(check=False) doesn't.

Every key goes through key(), add_key() or register_secret(), so that at the
end of the session all files of all runs can be searched for all keys. Input of
load generators that holds keys belongs into secret_file(). Tests run in
parallel (pytest -n 2): no fixed ports or paths.

Environment: HTTPD (/usr/sbin/apache2), UE_MODULE, USAGECTL, UE_HTTPD_MODULES;
UE_PRELOAD=/path/libasan.so runs httpd under the sanitizers.
"""
import datetime
import hashlib
import json
import os
import re
import secrets as random_secrets
import signal
import string
import subprocess
import time
import uuid
import zlib
from pathlib import Path

from backend import (STATUSES, Backend, Nginx, Odd,  # noqa: F401
                     WebSockets)
from clients.http1 import Answer, Closed, Conn, poll, render  # noqa: F401
from processes import (REPO, Server, answers, base_dir,  # noqa: F401
                       children_of, connections, end_process, find_secrets,
                       free_port, need, new_dir, register_secret, run,
                       secret_file, session_members, tool)

HTTPD = os.environ.get("HTTPD", "/usr/sbin/apache2")
HTTPD_MODULES = os.environ.get("UE_HTTPD_MODULES", "/usr/lib/apache2/modules")
MODULE = os.environ.get("UE_MODULE", str(REPO / ".libs/mod_usage_events.so"))
USAGECTL = os.environ.get("USAGECTL", str(REPO / "usagectl"))
PRELOAD = os.environ.get("UE_PRELOAD")

MPMS = ("event", "worker", "prefork")
MODULES = ("authz_core", "mime", "dir", "alias", "env", "setenvif", "headers",
           "rewrite", "proxy", "proxy_http")

#: Organizations, as many as a test wants: ORGS[0] is ORG.
ORGS = [str(uuid.UUID(int=(0x0f << 120) | (7 << 76) | (8 << 60) | n))
        for n in range(1, 101)]
ORG, ORG2 = ORGS[:2]

#: The nine fields of an event, in their order.
FIELDS = ["request_id", "organization_id", "api_key_id", "endpoint", "method",
          "status_code", "response_time_ms", "timestamp", "billable"]


def billable(status):
    """The default rule: 101,200-499."""
    return status == 101 or 200 <= status <= 499


def when(text):
    """An event's timestamp as seconds; its form is checked."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text), text
    return datetime.datetime.fromisoformat(text[:-1] + "+00:00").timestamp()


def make_key(env="live"):
    """A key of our form, by an implementation of its own."""
    alphabet = string.digits + string.ascii_uppercase + string.ascii_lowercase
    key = f"sk_{env}_" + "".join(random_secrets.choice(alphabet)
                                 for _ in range(30))
    crc, check = zlib.crc32(key.encode()), ""
    for _ in range(6):
        crc, digit = divmod(crc, 62)
        check = alphabet[digit] + check
    return key + check


# --- the gateway -------------------------------------------------------------

MPM_CONF = {
    "event": """
StartServers {c}
ServerLimit {limit}
ThreadsPerChild {t}
ThreadLimit {t}
MaxRequestWorkers {workers}
MinSpareThreads 1
MaxSpareThreads {workers}
""",
    "prefork": """
StartServers {c}
ServerLimit {limit}
MaxRequestWorkers {c}
MinSpareServers 1
MaxSpareServers {c}
"""}
MPM_CONF["worker"] = MPM_CONF["event"]

CONF = """
ServerRoot "{dir}"
DefaultRuntimeDir "{dir}"
ServerName gateway.test
PidFile "{dir}/httpd.pid"
Listen 127.0.0.1:{port}
{user}
{load}
{mpm}
ErrorLog "{dir}/error.log"
LogLevel notice proxy:error{loglevel}
TypesConfig /dev/null
DocumentRoot "{dir}/htdocs"
<Directory "{dir}/htdocs">
    Require all granted
</Directory>
KeepAlive On
MaxKeepAliveRequests 0
KeepAliveTimeout 60
Timeout 30
GracefulShutdownTimeout 20
{usage}
{server_conf}
{proxy}
{vhost}
"""


class Gateway(Server):
    def __init__(self, name="gateway", mpm="event", modules=(),
                 server_conf="", vhost_conf=None, env=None, children=4,
                 threads=16, module=True, usage=True, backend=None,
                 server_limit=None, preload=True, key_store=None,
                 ctl_store=None):
        super().__init__(name)
        self.mpm, self.modules, self.module = mpm, tuple(modules), module
        self.server_conf, self.vhost_conf = server_conf, vhost_conf
        self.env = dict(env or {})
        self.count, self.threads = children, threads
        self.server_limit = server_limit or children
        self.usage, self.backend = usage, backend
        self.preload = PRELOAD if preload and module else None
        self.allowed, self.secrets, self.sid = set(), set(), None
        self.keyfile = self.dir / "keys.json"
        self.event_file = self.dir / "events.jsonl"
        self.error_file = self.dir / "error.log"
        self.key_store, self.ctl_store = key_store, ctl_store or key_store
        if key_store:
            self.env["DATABASE_URL"] = key_store
        self.conf_file = self.dir / "httpd.conf"
        self.htdocs = self.dir / "htdocs"
        (self.htdocs / "local").mkdir(parents=True)
        (self.htdocs / "local" / "hello.txt").write_text("hello\n")
        (self.dir / "san").mkdir()
        (self.dir / "san").chmod(0o777)
        self._write_keys({"version": 1, "organizations": []})

    # -- configuration --

    def _load(self):
        names = [f"mpm_{self.mpm}", *MODULES]
        names += [m for m in self.modules if m not in names]
        lines = [f"LoadModule {n}_module {HTTPD_MODULES}/mod_{n}.so"
                 for n in names]
        if self.module:
            assert os.path.exists(MODULE), f"{MODULE} is not built: make"
            lines.append(f"LoadModule usage_events_module {MODULE}")
        return "\n".join(lines)

    def _usage(self):
        if not self.module or self.usage is False:
            return ""
        set_ = {"UsageEvents": "On",
                "UsageKeyStore": None if self.key_store
                else f"file:{self.keyfile}",
                "UsageEventFile": self.event_file,
                "UsageExempt": "/usage-status"}
        set_.update(self.usage if isinstance(self.usage, dict) else {})
        lines = [f"{k} {v}" for k, v in set_.items() if v is not None]
        return "\n".join(lines) + """
<Location "/usage-status">
    SetHandler usage-status
</Location>"""

    def _proxy(self):
        if self.backend is None:
            return ""
        url = getattr(self.backend, "url", self.backend)
        return (f"ProxyPass /usage-status !\nProxyPass /local/ !\n"
                f"ProxyPass / {url}/\n")

    def fill(self, text):
        for name, value in (("dir", self.dir), ("port", self.port),
                            ("htdocs", self.htdocs)):
            text = text.replace("{%s}" % name, str(value))
        return text

    def write_conf(self):
        """Write httpd.conf; start(), configtest() and graceful() do."""
        vhost = ""
        if self.vhost_conf is not None:
            vhost = (f"<VirtualHost *:{self.port}>\nServerName gateway.test\n"
                     f"{self.fill(self.vhost_conf)}\n</VirtualHost>")
        mpm = MPM_CONF[self.mpm].format(
            c=self.count, t=self.threads, workers=self.count * self.threads,
            limit=self.server_limit)
        self.conf_file.write_text(CONF.format(
            dir=self.dir, port=self.port, mpm=mpm, load=self._load(),
            user="User www-data\nGroup www-data" if os.geteuid() == 0 else "",
            loglevel=" usage_events:info" if self.module else "",
            usage=self._usage(), server_conf=self.fill(self.server_conf),
            proxy=self._proxy(), vhost=vhost))

    def _env(self):
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C", **self.env}
        if self.preload:
            where = f"log_path={self.dir}/san/report"
            env["LD_PRELOAD"] = self.preload
            env["ASAN_OPTIONS"] = (f"detect_leaks=0:abort_on_error=1:{where}:"
                                   "handle_segv=1:detect_odr_violation=0")
            env["UBSAN_OPTIONS"] = (f"print_stacktrace=1:halt_on_error=1:"
                                    f"abort_on_error=1:{where}")
        return env

    # -- life --

    def start(self, timeout=30):
        for attempt in range(3):
            self.write_conf()
            try:
                self.spawn([HTTPD, "-d", self.dir, "-f", self.conf_file,
                            "-D", "FOREGROUND"], env=self._env(),
                           timeout=timeout)
                break
            except AssertionError:
                if attempt == 2 or "ould not bind" not in self.logs():
                    raise
                self.port = free_port()
        self.sid = self.proc.pid
        poll(lambda: self.resumed(), timeout, what="httpd resumes operations")
        return self

    def ready(self):
        """Is it our httpd that answers?"""
        try:
            pid = int((self.dir / "httpd.pid").read_text())
        except (OSError, ValueError):
            return False
        return pid == self.proc.pid and answers(self.port)

    def resumed(self):
        """How often httpd said that it is up."""
        return self.error_log().count("resuming normal operations")

    def graceful(self, timeout=30, sig=signal.SIGUSR1):
        """Restart gracefully; returns when the new generation is started."""
        self.write_conf()
        before = self.resumed()
        self.proc.send_signal(sig)
        poll(lambda: self.resumed() > before, timeout, what="the restart")

    def restart(self):
        self.graceful(sig=signal.SIGHUP)

    def quiet(self, timeout=1):
        """Wait until the last connection is gone, at most a second. On SIGTERM
        event and worker MPM close the sockets of their threads from outside,
        and crash now and then where a thread is closing its own at the same
        moment (close_worker_sockets). That is httpd's, so we don't tempt it.
        """
        try:
            poll(lambda: not connections(self.port), timeout, every=0.005)
        except AssertionError:
            pass
        time.sleep(0.01)  # from the closed socket to the thread's next round

    def stop(self, sig=signal.SIGTERM, timeout=25, check=True, quiet=True):
        if self.proc is None:
            return
        if sig == signal.SIGTERM and quiet:
            self.quiet()
        ended = end_process(self.proc, sig, timeout)
        rc, self.proc = self.proc.returncode, None
        try:
            poll(lambda: not session_members(self.sid), 10)
        except AssertionError:
            pass
        left = session_members(self.sid)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        if check:
            wrong = self.complaints()
            if not ended:
                wrong.append(f"httpd didn't end within {timeout} s")
            if left:
                wrong.append(f"processes left: {left}")
            if rc:
                wrong.append(f"httpd ended with {rc}")
            assert not wrong, "\n".join(wrong) + "\n" + self.logs()
            self.events()

    def allow_signal(self, *numbers):
        """Children may die by these: a test kills them itself."""
        self.allowed.update(int(n) for n in numbers)

    def complaints(self):
        """What in the logs must never be there."""
        log, wrong = self.error_log(), []
        for line in log.splitlines():
            dead = re.search(r"exit signal .*\((\d+)\)", line)
            if dead and int(dead[1]) not in self.allowed:
                wrong.append(line)
            if "AH00046" in line and signal.SIGKILL not in self.allowed:
                wrong.append(line)
            if re.search(r"AddressSanitizer|runtime error:|UndefinedBehavior",
                         line):
                wrong.append(line)
        for report in sorted((self.dir / "san").iterdir()):
            wrong.append(report.read_text(errors="replace")[:4000])
        return wrong

    def configtest(self):
        """apachectl configtest: (exit status, output)."""
        self.write_conf()
        done = subprocess.run(
            [HTTPD, "-d", self.dir, "-f", self.conf_file, "-t"],
            env=self._env(), capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    def error_log(self):
        if not self.error_file.exists():
            return ""
        return self.error_file.read_text(errors="replace")

    def wait_log(self, text, timeout=10):
        """Wait for a line; returns the lines that hold the text."""
        poll(lambda: text in self.error_log(), timeout, what=f"log: {text}")
        return [x for x in self.error_log().splitlines() if text in x]

    def children(self):
        """The children's process ids."""
        return children_of(self.proc.pid)

    def our_threads(self, pid):
        """Thread ids of a child that are ours: those named usage-…"""
        found = []
        for task in Path(f"/proc/{pid}/task").iterdir():
            if (task / "comm").read_text().startswith("usage-"):
                found.append(int(task.name))
        return found

    # -- keys --

    def ctl(self, *args, check=True):
        """Run usagectl on our keys: what it did, see processes.run()."""
        return run([USAGECTL, *args], timeout=30, check=check,
                   env={**os.environ, "DATABASE_URL":
                        self.ctl_store or f"file:{self.keyfile}"})

    def key(self, org=None, name=None, env=None, options=(), **change):
        """Make a key through usagectl: (key, key id, organization id). Make it
        before start(), else it takes up to a second. What is in change goes
        into its entry of the key file: revoked=…, expires=…, billable=…; and
        org_billable= into its organization's. options are usagectl's."""
        org = org or ORG
        args = ["--org", org, *options]
        args += ["--name", name] if name else []
        args += ["--env", env] if env else []
        key = self.ctl("key", "create", *args).stdout.strip()
        if self.key_store:
            assert not change, "there is no entry to change"
            return self._listed(key, org)
        return self._known(key, change)

    def _listed(self, key, org):
        register_secret(key)
        self.secrets.add(key)
        rows = json.loads(self.ctl("key", "list", "--org", org, "--format",
                                   "json").stdout)
        [found] = [row["id"] for row in rows if row["prefix"] == key[:12]]
        return key, found, org

    def add_key(self, key=None, org=None, **change):
        """Put a key into the file by hand: any text, made up where not given.
        Faster than key(), and independent of usagectl."""
        key = make_key() if key is None else key
        change.setdefault("name", "made by the test")
        entry = {"id": str(uuid.uuid4()), "prefix": key[:12]
                 if len(key) >= 24 else "", "hash": self.hash_of(key),
                 "created": "2025-01-01T00:00:00Z", "expires": None,
                 "revoked": None, "billable": True}

        def add(doc):
            for o in doc["organizations"]:
                if o["id"] == (org or ORG):
                    o["keys"].append(entry)
                    return
            doc["organizations"].append(
                {"id": org or ORG, "name": "Test", "billable": True,
                 "keys": [entry]})
        self.edit_keys(add)
        return self._known(key, change)

    @staticmethod
    def hash_of(key):
        raw = key.encode("latin-1") if isinstance(key, str) else key
        return "sha256:" + hashlib.sha256(raw).hexdigest()

    def _known(self, key, change):
        register_secret(key)
        self.secrets.add(key)
        found = []

        def look(doc):
            for o in doc["organizations"]:
                for k in o["keys"]:
                    if k["hash"] == self.hash_of(key):
                        if "org_billable" in change:
                            o["billable"] = change.pop("org_billable")
                        k.update(change)
                        found.append((key, k["id"], o["id"]))
        if change:
            self.edit_keys(look)
        else:
            look(json.loads(self.keyfile.read_text()))
        assert len(found) == 1, f"{len(found)} entries for a key"
        return found[0]

    def edit_keys(self, change):
        """Change the key file's document in place, as usagectl would."""
        doc = json.loads(self.keyfile.read_text())
        change(doc)
        self._write_keys(doc)

    def _write_keys(self, doc):
        new = self.keyfile.with_suffix(".new")
        new.write_text(json.dumps(doc))
        new.chmod(0o644)
        new.rename(self.keyfile)

    # -- requests --

    def path_url(self, path="/"):
        return self.url + path

    def conn(self, **kw):
        return Conn(self.port, **kw)

    def request(self, method, target, key=None, headers=(), body=None,
                show_keys=False, **kw):
        """One request on a connection of its own. An answer that shows a key
        fails the test, unless the backend echoes (show_keys)."""
        headers = list(headers.items() if isinstance(headers, dict)
                       else headers)
        if key is not None:
            headers.append(("Authorization", f"Bearer {key}"))
        with self.conn() as c:
            answer = c.request(method, target, headers, body, **kw)
        if not show_keys:
            self.no_key_in(answer)
        return answer

    def no_key_in(self, answer):
        for key in self.secrets:
            raw = key.encode("latin-1", "replace")
            assert len(raw) < 8 or (raw not in answer.head
                                    and raw not in answer.body), "shows a key"

    def get(self, target, key=None, headers=(), **kw):
        return self.request("GET", target, key, headers, **kw)

    # -- what came of it --

    def status(self):
        """usage-status as JSON; kept in the run's directory, for the search
        for keys at the end."""
        a = self.get("/usage-status?format=json")
        assert a.status == 200, a
        (self.dir / "status.json").write_bytes(a.body)
        return a.json()

    def metrics(self):
        return self.status()["metrics"]

    def prometheus(self):
        a = self.get("/usage-status?format=prometheus")
        assert a.status == 200, a
        (self.dir / "status.prom").write_bytes(a.body)
        return a.body.decode()

    def lost(self, metrics=None):
        """Lost events by cause, without the zeros."""
        m = metrics or self.metrics()
        return {k: n for k, n in m["usage_events_lost_total"].items() if n}

    def settled(self, timeout=15):
        """Wait until no event waits: admitted = delivered + lost. Returns the
        metrics. What was admitted before the call is in the file after it."""
        state = {}

        def look():
            m = state["m"] = self.metrics()
            return (m["usage_events_admitted_total"]
                    == m["usage_events_delivered_total"]
                    + sum(m["usage_events_lost_total"].values()))
        try:
            poll(look, timeout, every=0.05)
        except AssertionError:
            raise AssertionError(f"events wait still: {state['m']}") from None
        return state["m"]

    def events(self, path=None):
        """All events of the file. Every line must be an event: nine keys in
        their order, no spaces. While httpd runs, the last line may still be
        growing; afterwards it may not."""
        path = Path(path or self.event_file)
        if not path.exists():
            return []
        raw = path.read_bytes()
        if self.proc is not None:
            raw = raw[:raw.rfind(b"\n") + 1]
        assert raw == b"" or raw.endswith(b"\n"), f"torn: {raw[-300:]!r}"
        found = []
        for line in raw.split(b"\n")[:-1]:
            event = json.loads(line.decode("utf-8"))
            assert list(event) == FIELDS, line
            found.append(event)
        return found

    def wait_events(self, n, timeout=15):
        """Exactly n events, all there are once none waits."""
        poll(lambda: len(self.events()) >= n, timeout, every=0.05,
             what=f"{n} events; {len(self.events())} are there")
        self.settled(timeout)
        found = self.events()
        assert len(found) == n, found[-5:]
        return found
