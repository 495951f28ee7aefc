# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Load that is known to the request: wrk and h2load, and what they saw.

A request is planned before it is sent: Planned(method, path, key, body), with
what must come of it. So a test can hold events against what was sent.
"""
import collections
import json
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from clients.http1 import poll
from processes import end_process, new_dir, secret_file, tool

Planned = collections.namedtuple(
    "Planned", "method path key key_id org status body local",
    defaults=["", False])

LUA = Path(__file__).parent / "plan.lua"


def wrk(gw, plan, threads=2, connections=4, depth=1, timeout=120):
    """Send a plan, divided among threads. Returns [(status, request id)], one
    of each response."""
    assert len(plan) % (threads * depth) == 0
    source, out = secret_file("wrk-plan"), new_dir("client-wrk") / "seen"
    for t in range(threads):
        with open(f"{source}.{t + 1}", "w", encoding="latin-1") as f:
            for p in plan[t::threads]:
                f.write(f"{p.method}\t{p.path}\t{p.key}\t{p.body}\n")
    outs = [Path(f"{out}.{t + 1}") for t in range(threads)]
    # Its duration is only a bound: we end it when all responses have come.
    proc = subprocess.Popen(
        [tool("wrk"), "-t", str(threads), "-c", str(connections),
         "-d", f"{timeout}s", "--timeout", f"{timeout}s", "-s", LUA, gw.url,
         "--", source, out, str(depth)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def finished():
        return proc.poll() is not None or all(
            p.exists() and p.read_text().endswith("end\n") for p in outs)
    try:
        poll(finished, timeout, every=0.1, what="all responses to wrk")
    finally:
        end_process(proc, signal.SIGINT)
    text = proc.stdout.read().decode()
    assert "Socket errors" not in text, text
    seen = []
    for p in outs:
        lines = p.read_text().splitlines()
        assert lines[-1:] == ["end"], text
        seen += [(int(s), i) for s, _, i in
                 (line.partition("\t") for line in lines[:-1])]
    assert len(seen) == len(plan)
    return seen


class Recorder:
    """wrk that runs until it is stopped, whatever happens to its connections.
    answered() is what it got: [(status, request id)]."""

    def __init__(self, gw, targets, threads=2, connections=16, bound=1200):
        keys, self.out = secret_file("wrk-keys"), new_dir("client-wrk") / "seen"
        keys.write_text("".join(f"{path}\t{key}\n" for path, key in targets))
        self.threads = threads
        self.proc = subprocess.Popen(
            [tool("wrk"), "-t", str(threads), "-c", str(connections),
             "-d", f"{bound}s", "--timeout", "10s", "-s",
             LUA.with_name("record.lua"), gw.url, "--", keys, self.out],
            stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        end_process(self.proc, signal.SIGINT)

    def answered(self):
        found = []
        for t in range(self.threads):
            path = Path(f"{self.out}.{t + 1}")
            if path.exists():
                for line in path.read_text().rpartition("\n")[0].split("\n"):
                    if line:
                        status, _, request_id = line.partition("\t")
                        found.append((int(status), request_id))
        return found

    def wait(self, n, timeout=30):
        """Until n more responses have come."""
        n += len(self.answered())
        poll(lambda: len(self.answered()) >= n, timeout, every=0.05,
             what=f"{n} responses to wrk")


class H2load:
    """What one run of h2load saw: of each request (start, status, seconds)."""

    def __init__(self, gw, plan, h1=False, connections=2, streams=8,
                 timeout=120, exact=True):
        """The plan's requests share method, key and body."""
        first = plan[0]
        assert {(p.method, p.key, p.body) for p in plan} == {
            (first.method, first.key, first.body)}
        assert len(plan) % connections == 0
        uris = secret_file("h2load-uris")
        # Each connection goes through the list from its begin.
        self.uris = plan[:len(plan) // connections]
        uris.write_text("".join(f"{gw.url}{p.path}\n" for p in self.uris))
        log = new_dir("client-h2load") / "seen"
        args = [tool("h2load"), "-t", "1", "-n", str(len(plan)),
                "-c", str(connections), "-m", "1" if h1 else str(streams),
                "-i", uris, f"--log-file={log}"]
        args += ["--h1"] if h1 else []
        if first.key:
            args += ["-H", f"authorization: Bearer {first.key}"]
        if first.body:
            body = secret_file("h2load-body")
            body.write_text(first.body)
            args += ["-d", body]
        if first.method not in ("GET", "POST"):
            args += ["-H", f":method: {first.method}"]
        done = subprocess.run([str(a) for a in args], capture_output=True,
                              text=True, timeout=timeout)
        self.output = done.stdout + done.stderr
        self.seen = []
        for line in log.read_text().splitlines():
            start, status, spent = line.split("\t")
            self.seen.append((int(start) / 1e6, int(status),
                              int(spent) / 1e6))
        if exact:
            assert done.returncode == 0, self.output
            assert len(self.seen) == len(plan), self.output

    def planned(self):
        """What was sent, in numbers: the list, once for each connection."""
        return self.uris * (len(self.seen) // len(self.uris))


def h2load_all(gw, plans, parallel=5, **kw):
    """A run of h2load for each plan, several at a time."""
    with ThreadPoolExecutor(parallel) as pool:
        return list(pool.map(lambda plan: H2load(gw, plan, **kw), plans))


class H2Loop:
    """One h2load after the other until it is stopped: HTTP/2 through restarts,
    which h2load's connections don't outlive."""

    def __init__(self, gw, plan):
        self.gw, self.plan, self.runs = gw, plan, []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.work)

    def work(self):
        while not self.ended.is_set():
            self.runs.append(H2load(self.gw, self.plan, exact=False))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.ended.set()
        self.thread.join(60)
        assert not self.thread.is_alive()

    def answered(self):
        return sum(1 for run in self.runs for _, status, _ in run.seen
                   if status == self.plan[0].status)


class Paced:
    """wrk at a steady rate (requests a second), each with another key: of a
    list, in turn, or made up, of which there is never one twice: new is what
    they begin with. stop() gives its account: {"status": {200: n, …}, "p50":
    microseconds, "p99", "max", "failed"}."""

    def __init__(self, gw, keys=(), new=None, rate=0, path="/local/hello.txt",
                 threads=1, connections=16, seconds=600):
        source = f"new:{new}"
        if new is None:
            source = secret_file("paced-keys")
            source.write_text("\n".join(keys) + "\n")
        self.proc = subprocess.Popen(
            [tool("wrk"), "-t", str(threads), "-c", str(connections),
             "-d", f"{seconds}s", "--timeout", "20s",
             "-s", LUA.with_name("paced.lua"), gw.url, "--",
             str(rate / threads), path, source],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.account = None

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()

    def stop(self):
        """Ends it, or waits for an end that comes by itself: wait()."""
        return self.wait(signal.SIGINT)

    def wait(self, sig=0, timeout=60):
        if self.account is None:
            self.proc.send_signal(sig)
            text = self.proc.communicate(timeout=timeout)[0]
            assert self.proc.returncode == 0, text
            self.account = json.loads(text.splitlines()[-1])
            self.account["status"] = {
                int(k): n for k, n in self.account["status"].items()}
        return self.account
