# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""HTTP/1.1 over a plain socket, so that a test decides on every byte sent and
sees every byte received. http.client would repair what we want to send broken.
"""
import json
import socket
import time


class Answer:
    """One response: status, reason, headers in their order, body."""

    def __init__(self, version, status, reason, headers, body=b"", head=b""):
        self.version, self.status, self.reason = version, status, reason
        self.headers, self.body, self.head = headers, body, head

    def all(self, name):
        return [v for n, v in self.headers if n.lower() == name.lower()]

    def header(self, name):
        """The one value of a field, or None; two of it fail the test."""
        values = self.all(name)
        assert len(values) < 2, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None

    def json(self):
        return json.loads(self.body)

    @property
    def request_id(self):
        return self.header("X-Request-Id")

    def __repr__(self):
        return f"<Answer {self.status} {self.headers} {self.body[:200]!r}>"


class Closed(Exception):
    """The server closed the connection before a whole response came."""


class Conn:
    """A connection to 127.0.0.1:port; source is an address of ours to make it
    from, such as 127.0.0.2."""

    def __init__(self, port, timeout=20, rcvbuf=None, host="127.0.0.1",
                 source=None):
        self.sock = socket.socket(
            socket.AF_INET6 if ":" in host else socket.AF_INET)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(timeout)
        if source:
            self.sock.bind((source, 0))
        self.sock.connect((host, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buf = b""

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        self.sock.close()

    def reset(self):
        """Leave at once: RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                             b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def _fill(self):
        data = self.sock.recv(65536)
        if not data:
            raise Closed(self.buf[:500])
        self.buf += data

    def _until(self, mark):
        while mark not in self.buf:
            self._fill()
        part, _, self.buf = self.buf.partition(mark)
        return part

    def _take(self, n):
        while len(self.buf) < n:
            self._fill()
        part, self.buf = self.buf[:n], self.buf[n:]
        return part

    def at_end(self, timeout=5):
        """Does the server close the connection (without a further byte)?"""
        self.sock.settimeout(timeout)
        try:
            return not self.buf and self.sock.recv(1) == b""
        except ConnectionResetError:
            return True
        except socket.timeout:
            return False

    def head(self):
        """Read a status line and header fields, and no body."""
        raw = self._until(b"\r\n\r\n")
        lines = raw.decode("latin-1").split("\r\n")
        version, status, *reason = lines[0].split(" ", 2)
        headers = []
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers.append((name, value.strip()))
        return Answer(version, int(status), "".join(reason), headers,
                      head=raw)

    def _chunked(self):
        body = b""
        while True:
            size = int(self._until(b"\r\n").split(b";")[0], 16)
            if size == 0:
                while self._until(b"\r\n"):
                    pass
                return body
            body += self._take(size)
            self._until(b"\r\n")

    def _rest(self):
        try:
            while True:
                self._fill()
        except (Closed, ConnectionResetError):
            body, self.buf = self.buf, b""
            return body

    def answer(self, method="GET", interim=False):
        """Read one response. 1xx but 101 are passed over unless asked for."""
        a = self.head()
        while 100 <= a.status < 200 and a.status != 101 and not interim:
            a = self.head()
        if method == "HEAD" or a.status < 200 or a.status in (204, 304):
            return a
        if "chunked" in (a.header("Transfer-Encoding") or "").lower():
            a.body = self._chunked()
        elif a.header("Content-Length") is not None:
            a.body = self._take(int(a.header("Content-Length")))
        else:
            a.body = self._rest()
        return a

    def request(self, method, target, headers=(), body=None, version="1.1",
                host="gateway.test"):
        """Send a request and read its answer."""
        self.send(render(method, target, headers, body, version, host))
        return self.answer(method)


def render(method, target, headers=(), body=None, version="1.1",
           host="gateway.test"):
    """A request as bytes. Headers are a dict or a list of pairs; text is sent
    as Latin-1, so that "\\xff" is the byte 255."""
    def raw(x):
        return x if isinstance(x, bytes) else str(x).encode("latin-1")

    pairs = list(headers.items() if isinstance(headers, dict) else headers)
    lines = [b"%s %s HTTP/%s" % (raw(method), raw(target), raw(version))]
    names = [raw(n).lower() for n, _ in pairs]
    if host is not None and b"host" not in names:
        lines.append(b"Host: " + raw(host))
    lines += [raw(n) + b": " + raw(v) for n, v in pairs]
    if body is not None and not {b"content-length",
                                 b"transfer-encoding"} & set(names):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


def poll(check, timeout=10, every=0.02, what="condition"):
    """Call check() until it returns something true, at most timeout seconds."""
    end = time.monotonic() + timeout
    while True:
        got = check()
        if got:
            return got
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(every)
