# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""scripts/gateway: a whole gateway from the environment; and the demo."""
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import termios
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from clients.http1 import Closed, Conn, poll
from processes import (REPO, Server, end_process, free_port, new_dir,
                       register_secret, run, session_members)

HTTPD = os.environ.get("HTTPD", "/usr/sbin/apache2")
HTTPD_MODULES = os.environ.get("UE_HTTPD_MODULES", "/usr/lib/apache2/modules")
GATEWAY = REPO / "scripts/gateway"
USAGECTL = os.environ.get("USAGECTL", str(REPO / "usagectl"))
ORG = "0198a6f2-5c1e-7d3a-9b40-3f2c81d7e605"
OWN = re.compile("GATEWAY_|KAFKA_|BACKEND_URLS$|LOG_LEVEL$|DATABASE_URL$")


def clean_env(**env):
    return {**{k: v for k, v in os.environ.items() if not OWN.match(k)}, **env}


class Backend:
    """Says its name and the path that it got; echoes an upgraded connection."""

    def __init__(self, name):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                if self.headers.get("Upgrade") == "websocket":
                    self.send_response(101)
                    self.send_header("Upgrade", "websocket")
                    self.send_header("Connection", "Upgrade")
                    self.end_headers()
                    self.wfile.write(self.rfile.read(4)[::-1])
                    self.close_connection = True
                    return
                body = f"{name} {self.path}".encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever,
                         daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Gateway(Server):
    def __init__(self, name="gateway", **env):
        super().__init__(name)
        self.env = clean_env(GATEWAY_ADDRESS="127.0.0.1",
                             GATEWAY_PORT=str(self.port), **env)
        self.files = Path(env.get("GATEWAY_DIR") or self.dir / "gateway")

    def start(self):
        self.spawn([GATEWAY], env=self.env)
        self.sid = self.proc.pid
        return self

    def ready(self):
        """Not only listening: its children are there, so the parent has read
        the keys."""
        try:
            return self.get("/healthz").status == 200
        except (OSError, Closed):
            return False

    def key(self, store=None):
        """Make a key, and wait until every child knows it."""
        store = store or f"file:{self.files / 'keys.json'}"
        key = run([USAGECTL, "key", "create", "--org", ORG, "--store",
                   store]).stdout.strip()
        register_secret(key)

        def taken_up():
            numbers = self.get("/usage-status?format=json").json()["metrics"]
            return numbers["usage_keystore_changes_total"]["taken-up"] >= \
                numbers["usage_children"] > 0
        poll(taken_up, 10, what="all children take up the key")
        return key

    def get(self, target, key=None, method="GET"):
        headers = [("X-API-Key", key)] if key else []
        with Conn(self.port) as conn:
            return conn.request(method, target, headers)

    def events(self, n, path=None):
        path = path or self.files / "events.jsonl"
        poll(lambda: path.read_text().count("\n") >= n, 10,
             what=f"{n} events")
        return [json.loads(line) for line in path.read_text().splitlines()]

    def stop(self):
        if self.proc:
            assert end_process(self.proc), "the gateway had to be killed"
            assert self.proc.returncode == 0
            poll(lambda: not session_members(self.sid), 10,
                 what="no process is left")


@pytest.fixture
def start(servers):
    def start_gateway(**env):
        return servers.add(Gateway(**env)).start()
    return start_gateway


@pytest.fixture
def two():
    backends = [Backend(name) for name in ("one", "two")]
    yield backends
    for backend in backends:
        backend.stop()


# --- what it serves ----------------------------------------------------------

def test_gateway_from_key_to_event(start, two):
    gw = start(BACKEND_URLS=f"one={two[0].url},two={two[1].url}/base")
    assert gw.get("/x").status == 401
    key = gw.key()
    for target, body in (("/x?q=1", "one /x?q=1"),
                         ("/one/x", "one /x"),
                         ("/two/x", "two /base/x"),
                         ("/a%2Fb", "one /a%2Fb"),
                         ("/healthzz", "one /healthzz")):
        answer = gw.get(target, key)
        assert (answer.status, answer.body.decode()) == (200, body)
    events = gw.events(5)
    # children don't wait for one another
    assert sorted(e["endpoint"] for e in events) == \
        ["/a%2Fb", "/healthzz", "/one/x", "/two/x", "/x"]
    assert {e["organization_id"] for e in events} == {ORG}


def test_gateway_is_healthy_by_itself(start):
    # nobody listens there
    gw = start(BACKEND_URLS=f"x=http://127.0.0.1:{free_port()}")
    for target in ("/healthz", "/healthz?x=1"):
        answer = gw.get(target)
        assert (answer.status, answer.body) == (200, b"ok")
    assert gw.get("/healthz", method="HEAD").status == 200
    numbers = gw.get("/usage-status?format=prometheus")
    assert numbers.status == 200
    assert b'usage_requests_total{decision="exempt"} ' in numbers.body
    # what is below them is not theirs
    for target in ("/healthz/x", "/usage-status/x", "/healthz/"):
        assert gw.get(target).status == 401
    key = gw.key()
    assert gw.get("/x", key).status == 503
    assert gw.events(1)[0]["status_code"] == 503


def test_gateway_passes_a_websocket(start, two):
    gw = start(BACKEND_URLS=f"one={two[0].url}")
    key = gw.key()
    with Conn(gw.port) as conn:
        conn.send(f"GET /ws HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n"
                  "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n".encode())
        assert conn.answer(interim=True).status == 101
        conn.send(b"abcd")
        data = b""
        while len(data) < 4:
            data += conn._take(1)
        assert data == b"dcba"
    [event] = gw.events(1)
    assert (event["status_code"], event["endpoint"]) == (101, "/ws")


def test_gateway_takes_its_settings_from_the_environment(start, two):
    home = new_dir("gateway with blanks")
    gw = start(BACKEND_URLS=f"one={two[0].url}", LOG_LEVEL="debug",
               GATEWAY_DIR=str(home), KAFKA_BATCH_SIZE="7",
               KAFKA_FLUSH_INTERVAL="50ms", KAFKA_BUFFER_SIZE="90",
               GATEWAY_LOG=str(home / "the.log"),
               GATEWAY_EVENTS=str(home / "the events"))
    key = gw.key()
    assert gw.get("/x", key).status == 200
    assert len(gw.events(1, home / "the events")) == 1
    log = (home / "the.log").read_text()
    assert "Started (batch_size=7, flush_interval=50ms, buffer=90)" in log
    poll(lambda: "Batch sent: 1 events" in (home / "the.log").read_text(),
         what="a line of level debug")
    assert stat.S_IMODE((home / "keys.json").stat().st_mode) == 0o640


def test_gateway_log_level_warn_is_quiet(start, two):
    gw = start(BACKEND_URLS=f"one={two[0].url}", LOG_LEVEL="WARN")
    gw.key()
    assert "usage_events:" not in (gw.files / "error.log").read_text()


def test_gateway_log_on_standard_error(start, two):
    gw = start(BACKEND_URLS=f"one={two[0].url}", GATEWAY_LOG="-")
    poll(lambda: "[EventProducer] Started" in gw.logs(), what="a log line")
    assert not (gw.files / "error.log").exists()


def test_gateway_with_a_named_key_store(start, two):
    home = new_dir("store")
    store = f"file:{home / 'mine.json'}"
    run([USAGECTL, "org", "create", "--id", ORG, "--name", "Acme", "--store",
         store])
    gw = start(BACKEND_URLS=f"one={two[0].url}", DATABASE_URL=store)
    assert gw.get("/x", gw.key(store)).status == 200
    assert not (gw.files / "keys.json").exists()


def test_gateway_with_a_database(postgres, start, two):
    """Its own role can't make a key there."""
    db = postgres.new_database()
    gw = start(BACKEND_URLS=f"one={two[0].url}", DATABASE_URL=db.url("gateway"))
    said = (gw.dir / "output.log").read_text()
    assert "the database of DATABASE_URL; make one, as the owner of its " \
        "tables, by\n" in said
    assert postgres.passwords["gateway"] not in said


def test_gateway_starts_again_with_its_keys_and_events(servers, two):
    gw = servers.add(Gateway(BACKEND_URLS=f"one={two[0].url}")).start()
    key = gw.key()
    assert gw.get("/1", key).status == 200
    gw.stop()
    gw.start()
    assert gw.get("/2", key).status == 200
    assert [e["endpoint"] for e in gw.events(2)] == ["/1", "/2"]


# --- what it refuses ---------------------------------------------------------

WRONG = [
    ("GATEWAY_PORT", "http", "GATEWAY_PORT=http is no port"),
    ("GATEWAY_PORT", "0", "GATEWAY_PORT=0 is no port"),
    ("GATEWAY_PORT", "65536", "is no port; 8080 would be one"),
    ("GATEWAY_PORT", "80 81", "is no port"),
    ("GATEWAY_ADDRESS", "a b", "is no address"),
    ("LOG_LEVEL", "loud", "LOG_LEVEL=loud: debug, info, warn or error"),
    ("BACKEND_URLS", "http://x", "'http://x' is not NAME=URL"),
    ("BACKEND_URLS", "a=x:80", "the URL of a can't be used"),
    ("BACKEND_URLS", "a=ftp://x", "the URL of a can't be used"),
    ("BACKEND_URLS", "a=http://", "the URL of a can't be used"),
    ("BACKEND_URLS", "a=http://x:port", "the URL of a can't be used"),
    ("BACKEND_URLS", "a=http://u:p@x", "the URL of a can't be used"),
    ("BACKEND_URLS", 'a=http://x/"', "the URL of a can't be used"),
    ("BACKEND_URLS", "a=http://x/${PATH}", "the URL of a can't be used"),
    ("BACKEND_URLS", "=http://x", "the name '' can't be used"),
    ("BACKEND_URLS", "a/b=http://x", "the name 'a/b' can't be used"),
    ("BACKEND_URLS", "..=http://x", "the name '..' can't be used"),
    ("BACKEND_URLS", "healthz=http://x", "has a /healthz of its own"),
    ("BACKEND_URLS", "a=http://x,a=http://y", "a is there twice"),
    ("BACKEND_URLS", "a=http://x,,b=http://y", "'' is not NAME=URL"),
    ("DATABASE_URL", "mysql://u:pw@h/d", "in file:PATH or postgresql://"),
    ("DATABASE_URL", "file:/nowhere/keys.json", "/nowhere/keys.json is not"),
    ("GATEWAY_DIR", 'a"b', "a path without quotes"),
    ("GATEWAY_EVENTS", "a$b", "GATEWAY_EVENTS=a$b: a path without"),
    ("GATEWAY_HTTPD", "/nowhere", "GATEWAY_HTTPD=/nowhere is no program"),
    ("GATEWAY_MODULES", "/nowhere", "GATEWAY_MODULES=/nowhere has no"),
    ("GATEWAY_MODULE", "/nowhere", "GATEWAY_MODULE=/nowhere is not there"),
]


def gateway_says(*args, cwd=None, **env):
    return subprocess.run([GATEWAY, *args], env=clean_env(**env), text=True,
                          capture_output=True, timeout=30,
                          cwd=cwd or new_dir("refused"))


@pytest.mark.parametrize("name,value,says", WRONG, ids=range(len(WRONG)))
def test_gateway_refuses(name, value, says):
    done = gateway_says(**{name: value})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gateway: ") and says in done.stderr
    assert done.stderr.count("\n") == 1
    assert "pw" not in done.stderr


def test_gateway_takes_keys_from_a_database_and_shows_no_password():
    done = gateway_says("-t", DATABASE_URL="postgresql://u:pw@h/d")
    assert done.returncode == 0, done.stderr
    assert "pw" not in done.stdout + done.stderr


@pytest.mark.parametrize("name,value", [
    ("KAFKA_BATCH_SIZE", "many"), ("KAFKA_ENABLED", "maybe"),
    ("KAFKA_ENABLED", "true"), ("KAFKA_BROKERS", "a:b")])
def test_gateway_passes_on_what_httpd_refuses(name, value):
    done = gateway_says(**{name: value})
    assert done.returncode == 1
    assert name in done.stderr or "UsageKafkaBrokers" in done.stderr


@pytest.mark.parametrize("env,file", [
    ({}, "gateway/events.jsonl"),
    ({"KAFKA_BROKERS": "a:1"}, None),
    ({"KAFKA_BROKERS": "a:1", "KAFKA_ENABLED": "TRUE"}, None),
    ({"KAFKA_BROKERS": "a:1", "KAFKA_ENABLED": "No"}, "gateway/events.jsonl"),
    ({"KAFKA_ENABLED": "off"}, "gateway/events.jsonl"),
    ({"GATEWAY_EVENTS": "x"}, "x"),
    ({"KAFKA_BROKERS": "a:1", "GATEWAY_EVENTS": "x"}, "x"),
])
def test_gateway_writes_to_kafka_or_a_file_or_both(env, file):
    home = new_dir("places")
    done = gateway_says("-t", cwd=home, **env)
    assert done.returncode == 0, done.stderr
    text = (home / "gateway/modules.conf").read_text()
    assert re.findall(r"^UsageEventFile (.*)$", text, re.M) == \
        ([f'"{home / file}"'] if file else [])


def test_gateway_says_where_events_go(start, two):
    broker = f"127.0.0.1:{free_port()}"  # nobody listens there
    gw = start(BACKEND_URLS=f"one={two[0].url}", KAFKA_BROKERS=broker,
               KAFKA_TOPIC="mine")
    assert f"events in topic mine at {broker}, log in" in gw.logs()
    assert gw.get("/x", gw.key()).status == 200
    assert not (gw.files / "events.jsonl").exists()


@pytest.mark.parametrize("value", [
    "a=http://localhost", "a=http://[::1]:80/base/", "a=https://x.example",
    " a = http://x , b-2.c_d=http://y:1/z/ ,", ""])
def test_gateway_checks_what_is_right(value):
    home = new_dir("checked")
    done = gateway_says("-t", BACKEND_URLS=value, cwd=home)
    assert (done.returncode, done.stderr) == \
        (0, "gateway: the configuration is right\n")
    lines = (home / "gateway/backends.conf").read_text()
    assert 'ProxyPass "/" ' in lines and '//" ' not in lines


def test_gateway_holds_https_backends_to_their_certificates():
    home = new_dir("https")
    gateway_says("-t", BACKEND_URLS="a=https://x.example", cwd=home)
    text = (home / "gateway/modules.conf").read_text()
    assert "SSLProxyVerify require" in text


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_gateway_says_whom_it_must_let_in():
    home = new_dir("closed")
    home.chmod(0o700)
    done = gateway_says(cwd=home)
    assert done.returncode == 2
    assert "www-data, whom httpd runs as, can't read" in done.stderr


def test_gateway_help():
    done = gateway_says("--help")
    assert done.returncode == 0
    for name in ("GATEWAY_PORT", "BACKEND_URLS", "LOG_LEVEL", "GATEWAY_DIR"):
        assert f"\n{name} " in done.stdout
    assert gateway_says("--frob").returncode == 2


# --- the configuration that Debian gets --------------------------------------

def test_every_directive_of_the_example_can_be_used():
    """conf/usage_events.conf, with nothing commented out any more."""
    home = new_dir("example")
    text = (REPO / "conf/usage_events.conf").read_text()
    text = re.sub(r"(?m)^( *)#(?=\S|    )", r"\1", text)
    text = text.replace("/etc/apache2/usage-keys.json", str(home / "keys"))
    text = text.replace("/etc/apache2/usage-keys.secret",
                        str(home / "secret"))
    (home / "secret").write_bytes(os.urandom(32))
    (home / "secret").chmod(0o600)
    text = text.replace("/var/spool/apache2/usage", str(home))
    shown = set(re.findall(r"(?m)^ *(Usage\w+) ", text))
    page = (REPO / "docs/directives.md").read_text()
    assert shown == set(re.findall(r"(?m)^## (Usage\w+)$", page))
    (home / "keys").write_text('{"version": 1, "organizations": []}')
    (home / "modules.conf").write_text("\n".join(
        f"LoadModule {name}_module {HTTPD_MODULES}/mod_{name}.so"
        for name in ("mpm_event", "authz_core", "authz_host")) + "\n")
    (home / "httpd.conf").write_text(
        f"ServerRoot {home}\nServerName x\nInclude modules.conf\n"
        f"LoadModule usage_events_module {REPO}/.libs/mod_usage_events.so\n"
        f"ErrorLog {home}/error.log\nListen 127.0.0.1:{free_port()}\n" + text)
    run([HTTPD, "-t", "-f", home / "httpd.conf"],
        env=clean_env(APACHE_LOG_DIR=str(home)))


def test_module_is_loaded_after_mod_proxy():
    """Debian includes *.load in the order of their names."""
    [load] = (REPO / "conf").glob("*.load")
    assert load.name > "proxy_wstunnel.load"
    text = load.read_text()
    assert re.findall(r"(?m)^[^#\n].*", text) == [
        "LoadModule usage_events_module "
        "/usr/lib/apache2/modules/mod_usage_events.so"]


# --- the demo ----------------------------------------------------------------

def test_demo_ends_well_and_leaves_nothing():
    tmp = new_dir("demo")
    demo = subprocess.Popen([REPO / "scripts/demo"], text=True,
                            env=clean_env(TMPDIR=str(tmp)),
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, start_new_session=True)
    shown = demo.communicate(timeout=120)[0]
    assert demo.returncode == 0, shown
    assert shown.count('"request_id":') == 3
    assert "\033" not in shown
    assert list(tmp.iterdir()) == []
    assert session_members(demo.pid) == []


def test_demo_fails_and_keeps_what_it_wrote():
    tmp = new_dir("demo")
    done = subprocess.run([REPO / "scripts/demo"], text=True, timeout=120,
                          env=clean_env(TMPDIR=str(tmp), GATEWAY_HTTPD="/no"),
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    assert done.returncode == 1
    assert "GATEWAY_HTTPD=/no is no program" in done.stdout
    [kept] = tmp.iterdir()
    assert f"what it wrote is in {kept}" in done.stdout


def test_demo_can_be_interrupted():
    tmp = new_dir("demo")
    demo = subprocess.Popen([REPO / "scripts/demo"], text=True,
                            env=clean_env(TMPDIR=str(tmp)),
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, start_new_session=True)
    for line in demo.stdout:
        if "is httpd with mod_usage_events" in line:
            break
    demo.send_signal(signal.SIGTERM)
    demo.stdout.read()
    assert demo.wait(30) == 130
    assert session_members(demo.pid) == []


NOBODY = 65534
UIDS = [0, NOBODY] if os.geteuid() == 0 else [os.geteuid()]


@pytest.mark.parametrize("uid", UIDS)
def test_demo_runs_on_at_a_terminal_until_ctrl_c(uid):
    """As root or not: it stays after the tour, and Ctrl-C ends all of it."""
    tmp = new_dir("demo")
    tmp.chmod(0o777)
    copy = new_dir("checkout")  # one that everybody may read
    for name in ("scripts", "conf", ".libs"):
        shutil.copytree(REPO / name, copy / name)
    shutil.copy(REPO / "usagectl", copy / "usagectl")
    master, slave = pty.openpty()
    demo = subprocess.Popen([copy / "scripts/demo"], user=uid,
                            env=clean_env(TMPDIR=str(tmp)), stdin=slave,
                            stdout=slave, stderr=slave,
                            preexec_fn=lambda: (os.setsid(), fcntl.ioctl(
                                0, termios.TIOCSCTTY, 0)))
    os.close(slave)
    seen = b""
    while b"Ctrl-C" not in seen:
        ready, _, _ = select.select([master], [], [], 60)
        assert ready, seen
        seen += os.read(master, 65536)
    assert b"usage_events_delivered_total 4" in seen
    assert demo.poll() is None
    os.write(master, b"\x03")
    with contextlib.suppress(OSError):  # the terminal's end
        while os.read(master, 65536):
            pass
    assert demo.wait(30) == 0
    os.close(master)
    assert session_members(demo.pid) == []


def test_ports_are_on_the_address_that_was_named(start, two):
    gw = start(BACKEND_URLS=f"one={two[0].url}")
    with socket.socket() as s:
        s.settimeout(2)
        assert s.connect_ex(("127.0.0.2", gw.port)) != 0
