# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""HTTP backends: 1.1 with WebSockets, and 2 in clear text (h2c)."""
import ssl
import subprocess
import tempfile

import h2.config
import h2.connection
import h2.events

from backends.trap_base import OWN_ID, Seen, Trap, take


class TrapHttp(Trap):
    """Answers by the path: /status/N gives that status, /cached what a cache
    may keep, /ws/ a WebSocket that echoes raw bytes until 0xFF, else 200.
    The body of a 200 names the organization that was told."""

    def __init__(self, status=None):
        super().__init__()
        self.status = status  # answers everything so

    def serve(self, sock):
        while True:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += take(sock, 1)
            first, *lines = head.decode("latin-1")[:-4].split("\r\n")
            method, target, _ = first.split(" ", 2)
            fields = [(n, v.strip()) for n, _, v in
                      (line.partition(":") for line in lines)]
            seen = Seen(method, target, fields)
            self.seen.append(seen)
            if seen.values("Expect"):
                sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.body(sock, seen)
            if target.startswith("/ws"):
                return self.websocket(sock)
            sock.sendall(self.answer(seen))

    @staticmethod
    def body(sock, seen):
        for size in seen.values("Content-Length"):
            take(sock, int(size))
        if seen.values("Transfer-Encoding"):
            while True:
                size = b""
                while not size.endswith(b"\r\n"):
                    size += take(sock, 1)
                take(sock, int(size, 16) + 2)
                if not int(size, 16):
                    return

    def answer(self, seen):
        status = self.status or 200
        if seen.target.startswith("/status/"):
            status = int(seen.target.split("?")[0].split("/")[2])
        body = f"for {','.join(seen.values('X-Organization-Id'))}\n".encode()
        lines = [f"HTTP/1.1 {status} Trap", f"X-Request-Id: {OWN_ID}",
                 f"x-request-id: {OWN_ID}", f"X-REQUEST-ID: {OWN_ID}"]
        if seen.target.startswith("/cached"):
            lines.append("Cache-Control: public, max-age=600")
            lines.append("ETag: \"same\"")
        if status not in (204, 304):
            lines.append(f"Content-Length: {len(body)}")
        if status in (204, 304) or seen.method == "HEAD":
            body = b""
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def websocket(self, sock):
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n"
                     b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
                     b"Sec-WebSocket-Accept: x\r\n\r\n")
        while True:
            data = take(sock, 1)
            if data == b"\xff":
                return
            sock.sendall(data)


class Tls:
    """A mixin: the same over TLS, with a certificate made for the occasion."""

    alpn = "http/1.1"

    def start(self, path=None):
        with tempfile.TemporaryDirectory() as d:
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                 "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
                 "/CN=localhost", "-keyout", f"{d}/key", "-out", f"{d}/cert"],
                check=True, capture_output=True)
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(f"{d}/cert", f"{d}/key")
        self.context.set_alpn_protocols([self.alpn])
        return super().start(path)

    def wrap(self, sock):
        return self.context.wrap_socket(sock, server_side=True)


class TrapHttps(Tls, TrapHttp):
    scheme = "https"


class TrapH2c(Trap):
    scheme = "h2c"

    def serve(self, sock):
        conn = h2.connection.H2Connection(
            config=h2.config.H2Configuration(client_side=False))
        conn.initiate_connection()
        sock.sendall(conn.data_to_send())
        open_ = {}
        while True:
            data = sock.recv(65536)
            if not data:
                return
            for event in conn.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    open_[event.stream_id] = [
                        (n.decode("latin-1") if isinstance(n, bytes) else n,
                         v.decode("latin-1") if isinstance(v, bytes) else v)
                        for n, v in event.headers]
                elif isinstance(event, h2.events.DataReceived):
                    conn.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    self.answer(conn, event.stream_id,
                                open_.pop(event.stream_id))
            sock.sendall(conn.data_to_send())

    def answer(self, conn, stream, fields):
        named = dict(fields)
        self.seen.append(Seen(named[":method"], named[":path"], fields))
        conn.send_headers(stream, [(":status", "200"),
                                   ("x-request-id", OWN_ID),
                                   ("content-length", "5")])
        conn.send_data(stream, b"trap\n", end_stream=True)


class TrapH2(Tls, TrapH2c):
    scheme = "h2"
    alpn = "h2"
