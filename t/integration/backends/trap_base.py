# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Backends in a thread of the test itself, which keep what they saw.

Each speaks one protocol of mod_proxy's, answers 200 with an X-Request-Id of its
own (which must never reach a client), and appends a Seen to .seen. A test adds
one with servers.add(TrapFcgi()).start().
"""
import os
import socket
import threading

OWN_ID = "00000000-bad0-4000-8000-00000000bad0"


class Seen:
    """A request as it came: its fields in their order, as (name, value), with
    the names that the protocol uses (HTTP_X_ORGANIZATION_ID in CGI's kin)."""

    def __init__(self, method, target, fields):
        self.method, self.target, self.fields = method, target, fields

    def values(self, name):
        """All values of a field by any spelling that some server takes for it:
        letters' case, minus and underscore and CGI's HTTP_ make no
        difference."""
        def plain(text):
            text = text.lower().replace("_", "-")
            return text[5:] if text.startswith("http-") else text
        return [v for n, v in self.fields if plain(n) == plain(name)]

    def one(self, name):
        values = self.values(name)
        assert len(values) == 1, f"{name}: {values} in {self.fields}"
        return values[0]

    def holds(self, text):
        """Is this text anywhere in what came?"""
        return any(text in n or text in v for n, v in self.fields) \
            or text in self.target


class Trap:
    """A threaded TCP server; subclasses have serve(sock) and scheme."""

    scheme = "http"

    def __init__(self):
        self.seen = []
        self.failures = []
        self.listener = self.port = self.path = None
        self.dir = type("Dir", (), {"name": type(self).__name__})

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def start(self, path=None):
        """On a port, or on a Unix socket that everybody may use."""
        self.path = path
        if path:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(str(path))
            self.listener.listen(64)
            os.chmod(path, 0o666)
        else:
            self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
            self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def stop(self):
        if self.listener:
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
            self.listener = None
        if self.path:
            os.unlink(self.path)
            self.path = None
        assert not self.failures, self.failures

    def logs(self):
        return "".join(f"{s.method} {s.target} {s.fields}\n"
                       for s in self.seen)

    def _accept(self):
        listener = self.listener
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,),
                             daemon=True).start()

    def _serve(self, sock):
        try:
            sock.settimeout(30)
            with self.wrap(sock) as sock:
                self.serve(sock)
        except (EOFError, OSError):
            pass  # the gateway closed the connection
        except Exception as e:  # noqa: BLE001 - the test's thread must see it
            self.failures.append(repr(e))

    def wrap(self, sock):
        return sock

    def serve(self, sock):
        raise NotImplementedError


def take(sock, n):
    data = b""
    while len(data) < n:
        piece = sock.recv(n - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def cgi_answer():
    """What the kin of CGI answer with."""
    body = b"trap\n"
    return (f"Status: 200 OK\r\nX-Request-Id: {OWN_ID}\r\n"
            f"x-request-id: {OWN_ID}\r\n"
            f"Content-Type: text/plain\r\nContent-Length: {len(body)}"
            "\r\n\r\n").encode() + body
