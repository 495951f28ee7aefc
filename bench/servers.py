# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""The servers that are measured: httpd in front of nginx, on loopback, in six
flavours that differ in one thing each.

bare    mod_proxy alone
log     the same and one CustomLog line in the combined format
usage   the same and mod_usage_events, defaults, a key found in its cache, and
        an event file
limit   the same as usage, with a rate limit that is never reached
kafka   the same as usage with Kafka in place of the file: librdkafka's mock
        broker, in a process of its own
spool   the same as kafka, with UsageSpool

and one that needs a Database:

database  the same as usage, with the key in PostgreSQL
"""
import contextlib
import os
import pathlib
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time

REPO = pathlib.Path(__file__).resolve().parent.parent
HTTPD = os.environ.get("HTTPD", "/usr/sbin/apache2")
MODULES = os.environ.get("UE_HTTPD_MODULES", "/usr/lib/apache2/modules")
MODULE = REPO / ".libs/mod_usage_events.so"
FLAVOURS = ("bare", "log", "usage", "limit", "kafka", "spool")
TOPIC = "usage-events"
PARTITIONS = 12
PATH = "/v1/charges/latest"
TICK = 1e6 / os.sysconf("SC_CLK_TCK")

CONF = """
ServerRoot "{dir}"
ServerName bench
PidFile "{dir}/{flavour}.pid"
ErrorLog "{dir}/error.log"
LogLevel warn
Listen 127.0.0.1:{port}
{user}
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule proxy_module {modules}/mod_proxy.so
LoadModule proxy_http_module {modules}/mod_proxy_http.so
StartServers 2
ServerLimit 2
ThreadsPerChild 25
MaxRequestWorkers 50
MaxKeepAliveRequests 0
MaxConnectionsPerChild 0
ProxyPass / http://127.0.0.1:{backend}/
"""
LOG = ('CustomLog "{dir}/access.log" '
       '"%h %l %u %t \\"%r\\" %>s %b '
       '\\"%{{Referer}}i\\" \\"%{{User-Agent}}i\\""\n')
USAGE = """
LoadModule usage_events_module {module}
UsageEvents On
"""
KEY_FILE = """
UsageKeyStore file:{dir}/keys.json
"""
# The URL holds a password: it is told by the environment.
FILE = """
UsageEventFile {dir}/events.jsonl
"""
LIMIT = """
UsageRateLimit 1000000/s by=org
"""
KAFKA = """
UsageKafkaBrokers {brokers}
UsageKafkaTopic {topic}
"""
SPOOL = """
UsageSpool {dir}/spool
"""
NGINX = """
worker_processes 1;
pid {dir}/nginx.pid;
error_log {dir}/nginx.log;
daemon off;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 100000000;
    client_body_temp_path {dir}/b; proxy_temp_path {dir}/p;
    fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
    server {{
        listen 127.0.0.1:{backend};
        location / {{ return 200 "hello, world\\n"; }}
    }}
}}
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.05)
    raise SystemExit(f"bench: nothing listens on port {port}")


def end(proc, sig=signal.SIGTERM, seconds=30):
    if proc.poll() is None:
        proc.send_signal(sig)
        try:
            proc.wait(seconds)
        except subprocess.TimeoutExpired:
            proc.kill()
            proc.wait()


def cpu(parent):
    """Microseconds of CPU of a process's children, of all their threads."""
    used = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii",
                      errors="replace") as f:
                fields = f.read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            used += (int(fields[11]) + int(fields[12])) * TICK
    return used


def program(name):
    """Build a program of this directory. Its path."""
    target = REPO / "build/bench" / name
    subprocess.run(["make", "-s", "-C", REPO, target.relative_to(REPO)],
                   check=True)
    return target


class Mock:
    """librdkafka's mock broker. A round trip is given in milliseconds."""

    def __init__(self, partitions=PARTITIONS, rtt=0):
        self.proc = subprocess.Popen(
            [program("kafka_mock"), str(partitions), str(rtt), TOPIC],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.brokers = self.proc.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.proc.kill()
        self.proc.wait()
        self.proc.stdin.close()
        self.proc.stdout.close()

    def stored(self):
        """The end of it: how many messages it was given."""
        self.proc.stdin.close()
        return int(self.proc.stdout.readline())


class Database:
    """PostgreSQL in a directory of its own, with our schema."""

    SERVICE = REPO / "t/services/postgresql"

    def __init__(self, path):
        self.path, self.port = path, free_port()
        self.password = secrets.token_hex(11)
        self.env = {**os.environ, "POSTGRES_PASSWORD": self.password,
                    "PGPASSWORD": self.password}
        self.url = (f"postgresql://postgres:{self.password}@127.0.0.1:"
                    f"{self.port}/postgres?sslmode=disable")

    def __enter__(self):
        self.path.mkdir(exist_ok=True)
        # As a server in use has it, but for what tests want to be told.
        (self.path / "extra.conf").write_text("log_statement = none\n")
        subprocess.run([self.SERVICE / "postgres-start.sh", self.path,
                        str(self.port)], check=True, env=self.env)
        self.sql((REPO / "conf/schema.sql").read_text())
        return self

    def __exit__(self, *exc):
        subprocess.run([self.SERVICE / "postgres-stop.sh", self.path],
                       check=False, env=self.env)

    def sql(self, text):
        return subprocess.run(
            ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p",
             str(self.port), "-U", "postgres"], input=text, env=self.env,
            check=True, capture_output=True, text=True).stdout.strip()

    def wait_listening(self):
        """Until a gateway has made its connection, which is work of its own
        (SCRAM hashes 4,096 times)."""
        for _ in range(600):
            if self.sql("SELECT count(*) FROM pg_stat_activity WHERE "
                        "application_name = 'mod_usage_events' "
                        "AND state = 'idle'") != "0":
                return
            time.sleep(0.1)
        raise SystemExit("bench: no gateway has come to the database")


class Bench:
    """A directory with a backend and a key; start() gives a server."""

    def __enter__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="ue-bench-"))
        self.backend = free_port()
        os.chmod(self.dir, 0o755)
        self.nginx = None
        self.stored = 0
        self.env = dict(os.environ)  # of what is started
        self.conf = ""               # more directives
        self.settled = lambda: None  # waits until there is no work at start
        if os.getuid() == 0:
            owner = pwd.getpwnam("www-data")
            os.chown(self.dir, owner.pw_uid, owner.pw_gid)
        (self.dir / "nginx.conf").write_text(
            NGINX.format(dir=self.dir, backend=self.backend))
        self.nginx = subprocess.Popen(
            ["nginx", "-c", self.dir / "nginx.conf", "-p", self.dir],
            stderr=subprocess.DEVNULL)
        self.key = subprocess.run(
            [REPO / "usagectl", "key", "create", "--store",
             f"file:{self.dir}/keys.json", "--org",
             "0f000000-0000-7000-8000-000000000001"],
            check=True, capture_output=True, text=True).stdout.strip()
        wait_for(self.backend)
        return self

    def __exit__(self, *exc):
        if self.nginx:
            end(self.nginx)
        shutil.rmtree(self.dir, ignore_errors=True)

    @contextlib.contextmanager
    def start(self, flavour, before=(), one_process=False):
        """Run a flavour, in front of it a tool such as valgrind. Yields
        (port, process)."""
        port = free_port()
        mock = Mock() if flavour in ("kafka", "spool") else None
        values = {"dir": self.dir, "port": port, "backend": self.backend,
                  "flavour": flavour,
                  "modules": MODULES, "module": MODULE, "user": "",
                  "topic": TOPIC, "brokers": mock.brokers if mock else ""}
        command = list(before)
        if os.getuid() == 0 and one_process:
            # The tool writes its results as whoever the server becomes.
            command = ["setpriv", "--reuid=www-data", "--regid=www-data",
                       "--clear-groups", *command]
        elif os.getuid() == 0:
            values["user"] = "User www-data\nGroup www-data"
        conf = CONF.format(**values)
        conf += {"bare": "", "log": LOG, "usage": USAGE + KEY_FILE + FILE,
                 "limit": USAGE + KEY_FILE + FILE + LIMIT,
                 "kafka": USAGE + KEY_FILE + KAFKA,
                 "spool": USAGE + KEY_FILE + KAFKA + SPOOL,
                 "database": USAGE + FILE}[flavour].format(**values) + self.conf
        self.make_spool()
        path = self.dir / f"{flavour}.conf"
        path.write_text(conf)
        old = {"log": "access.log", "usage": "events.jsonl",
               "limit": "events.jsonl",
               "database": "events.jsonl"}.get(flavour)
        # Whoever runs this one may be another user.
        for name in (old, f"{flavour}.pid", "error.log"):
            if name:
                (self.dir / name).unlink(missing_ok=True)
        proc = subprocess.Popen(
            [*command, HTTPD, "-X" if one_process else "-DFOREGROUND",
             "-f", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=self.env)
        try:
            wait_for(port)
            yield port, proc
        finally:
            end(proc, signal.SIGTERM)
            self.stored = self.count(flavour, mock)

    def make_spool(self):
        """An empty directory, for children alone."""
        spool = self.dir / "spool"
        shutil.rmtree(spool, ignore_errors=True)
        spool.mkdir(mode=0o700)
        if os.getuid() == 0:
            shutil.chown(spool, "www-data", "www-data")

    def load(self, port, requests, clients):
        """Send requests with h2load, HTTP/1.1 kept alive. Requests a second."""
        out = subprocess.run(
            ["h2load", "--h1", "-n", str(requests), "-c", str(clients), "-t",
             "1", "-H", f"X-API-Key: {self.key}",
             f"http://127.0.0.1:{port}{PATH}"],
            check=True, capture_output=True, text=True).stdout
        if f" {requests} 2xx" not in out:
            raise SystemExit(f"bench: not all requests were answered:\n{out}")
        line = next(s for s in out.splitlines() if s.startswith("finished in"))
        return float(line.split(",")[1].split()[0])

    def count(self, flavour, mock):
        """How many events a server that has ended left behind."""
        if mock:
            with mock:
                return mock.stored()
        if flavour in ("usage", "limit", "database"):
            with open(self.dir / "events.jsonl", "rb") as f:
                return sum(1 for _ in f)
        return 0
