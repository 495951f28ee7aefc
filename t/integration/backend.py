# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""The backends behind a gateway, each a process of its own. What they answer is
in the request's path; what they saw, in requests()."""
import json
import os
from pathlib import Path

from clients.http1 import poll
from processes import Server, end_process, tool

#: What nginx answers below /status/.
STATUSES = (200, 201, 204, 301, 302, 304, 400, 403, 404, 409, 410, 422, 429,
            500, 501, 502, 503, 504)


class Backend(Server):
    """Writes one JSON line a request into requests.jsonl: id, org, key_id,
    authorization, x_api_key, method, uri, host, status, time (seconds it
    took), msec (the time of its end); nginx also path, as it reads the uri."""

    @property
    def log(self):
        return self.dir / "requests.jsonl"

    def requests(self):
        if not self.log.exists():
            return []
        text = self.log.read_text(encoding="utf-8", errors="surrogateescape")
        return [json.loads(line)
                for line in text.rpartition("\n")[0].split("\n") if line]

    def forget(self):
        """Begin a new log. Only while nobody sends requests."""
        if self.log.exists():
            os.truncate(self.log, 0)  # both backends append

    def wait_requests(self, n, timeout=10):
        """Exactly n requests, all there are after n were seen."""
        poll(lambda: len(self.requests()) >= n, timeout, every=0.05,
             what=f"{n} requests at the backend, saw {len(self.requests())}")
        seen = self.requests()
        assert len(seen) == n, seen[-3:]
        return seen

    def stop(self):
        end_process(self.proc, timeout=5)
        self.proc = None


class Nginx(Backend):
    """/status/404/any/thing, /size/10m, /small (413 over 1 kB), /fresh
    (cacheable, names the organization), anything else 200. Any method."""

    def __init__(self, name="backend"):
        super().__init__(name)
        sizes = self.dir / "size"
        sizes.mkdir()
        for label, size in (("1k", 1 << 10), ("100k", 100 << 10),
                            ("1m", 1 << 20), ("10m", 10 << 20),
                            ("1g", 1 << 30)):
            with open(sizes / label, "wb") as f:
                f.truncate(size)  # holes: takes no disk
        statuses = "".join(
            f"        location /status/{s} {{ return {s}"
            + (' "http://gateway.test/elsewhere"' if s in (301, 302) else
               "" if s in (204, 304) else f' "status {s}\\n"')
            + "; }\n" for s in STATUSES)
        text = (Path(__file__).parent / "backends/nginx.conf.in").read_text()
        for name, value in (("DIR", self.dir), ("PORT", self.port),
                            ("STATUSES", statuses),
                            ("USER", "user www-data;"
                             if os.geteuid() == 0 else "")):
            text = text.replace(f"@{name}@", str(value))
        (self.dir / "nginx.conf").write_text(text)

    def start(self):
        self.spawn([tool("nginx"), "-p", self.dir, "-e",
                    self.dir / "error.log", "-c", self.dir / "nginx.conf"])
        return self


class Odd(Backend):
    """backends/odd.py: echoes, hangs, drops, trickles, upgrades."""

    def __init__(self, name="backend-odd"):
        super().__init__(name)

    def start(self):
        script = Path(__file__).parent / "backends/odd.py"
        self.spawn(["/usr/bin/python3", script, self.port, self.log])
        return self


class WebSockets(Backend):
    """backends/ws.py: echoes messages, closes at "bye"."""

    def __init__(self, name="backend-ws"):
        super().__init__(name)

    def start(self):
        script = Path(__file__).parent / "backends/ws.py"
        self.spawn(["/usr/bin/python3", script, self.port, self.log])
        return self
