# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""What the tests of traps, configuration and hostile input share."""
import contextlib
import functools
import json
import re
import signal
import socket
import stat
import tempfile

import h2.config
import h2.connection
import h2.events

from backends.trap_base import OWN_ID, Seen
from backends.trap_cgi import TrapAjp, TrapFcgi, TrapScgi, TrapUwsgi
from backends.trap_http import TrapH2, TrapH2c, TrapHttp, TrapHttps
from clients.http1 import Answer

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-"
                   r"[0-9a-f]{12}")
EVIL = "99999999-9999-4999-8999-999999999999"

#: Every name of ours in every spelling that some server takes for it.
SPELLINGS = [f(name) for name in ("X-Organization-Id", "X-Api-Key-Id",
                                  "X-Request-Id")
             for f in (str, str.lower, str.upper,
                       lambda n: n.replace("-", "_"),
                       lambda n: n.replace("-", "_").upper(),
                       lambda n: n.replace("-", "_", 1),
                       lambda n: "_".join(n.rsplit("-", 1)),
                       lambda n: n.swapcase())]


def spoofs():
    return [(name, EVIL) for name in SPELLINGS]


def our_id(answer):
    """The answer's one request id, made by the gateway."""
    assert UUID7.fullmatch(answer.request_id or ""), answer
    return answer.request_id


# --- routes: ways for a request to be answered --------------------------------

class Route:
    """A way through the gateway: what has to be configured, and what whoever
    answers was told about a request."""

    trap = None
    modules = ()
    conf = ""

    def __init__(self, gateway, servers, server_conf="", mpm="event", **kw):
        self.backend = self.listen(servers.add(self.trap())) if self.trap \
            else None
        self.gw = gateway(
            mpm=mpm, modules=list(self.modules), backend=self.proxied(),
            server_conf=self.fill(self.conf) + "\n" + server_conf, **kw)
        self.prepare()

    def listen(self, trap):
        return trap.start()

    def proxied(self):
        return self.backend

    def fill(self, conf):
        if self.backend:
            conf = conf.replace("{backend}", f"127.0.0.1:{self.backend.port}")
        return conf

    def prepare(self):
        pass

    def ask(self, path="/ask", key=None, headers=(), **kw):
        """(answer, Seen) of one request."""
        before = len(self.backend.seen)
        a = self.gw.get(path, key=key, headers=list(headers), **kw)
        assert len(self.backend.seen) == before + 1, self.backend.logs()
        return a, self.backend.seen[-1]


class Http(Route):
    trap = TrapHttp


class RewriteProxy(Http):
    conf = ("RewriteEngine On\n"
            "RewriteRule ^/ask(.*) http://{backend}/ask$1 [P]\n")

    def proxied(self):
        return None


TLS = "SSLProxyEngine On\nSSLProxyVerify none\nSSLProxyCheckPeerName Off\n"


class Https(Route):
    trap = TrapHttps
    modules = ("socache_shmcb", "ssl")
    conf = TLS


class H2c(Route):
    trap = TrapH2c
    modules = ("http2", "proxy_http2")


class H2(Route):
    trap = TrapH2
    modules = ("socache_shmcb", "ssl", "http2", "proxy_http2")
    conf = TLS


# CGIPassAuth, or httpd itself would keep Authorization from all kin of CGI.
PASS = '<Location "/">\nCGIPassAuth On\n</Location>\n'


class Fcgi(Route):
    trap = TrapFcgi
    modules = ("proxy_fcgi",)
    conf = PASS


class FcgiHandler(Route):
    trap = TrapFcgi
    modules = ("proxy_fcgi",)
    conf = PASS + ('<Location "/ask">\n'
                   'SetHandler "proxy:fcgi://{backend}"\n</Location>\n')

    def proxied(self):
        return None


class OnUnixSocket:
    """A mixin: the backend listens on a Unix socket, as php-fpm does."""

    def listen(self, trap):
        self.socket = tempfile.mktemp(prefix="ue-trap-")
        return trap.start(self.socket)

    def fill(self, conf):
        return conf.replace("{socket}", self.socket)

    def proxied(self):
        return None


class FcgiUnix(OnUnixSocket, Fcgi):
    conf = PASS + ('<Location "/ask">\n'
                   'SetHandler "proxy:unix:{socket}|fcgi://localhost"\n'
                   '</Location>\n')


class HttpUnix(OnUnixSocket, Http):
    conf = "ProxyPass /ask unix:{socket}|http://localhost/ask\n"


class Scgi(Route):
    trap = TrapScgi
    modules = ("proxy_scgi",)
    conf = PASS


class Uwsgi(Route):
    trap = TrapUwsgi
    modules = ("proxy_uwsgi",)
    conf = PASS


class Ajp(Route):
    trap = TrapAjp
    modules = ("proxy_ajp",)


CGI_SCRIPT = """#!/usr/bin/python3
import json, os
print("Status: 200 OK")
print("X-Request-Id: %s")
print("Content-Type: application/json")
print()
print(json.dumps(sorted(os.environ.items())))
""" % OWN_ID


class Cgi(Route):
    """A local handler: a script in a process of its own."""

    modules = ("cgid",)
    conf = PASS + ('ScriptSock {dir}/cgisock\n'
                   'ScriptAlias /ask {htdocs}/ask.py\n')

    def prepare(self):
        script = self.gw.htdocs / "ask.py"
        script.write_text(CGI_SCRIPT)
        script.chmod(script.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP
                     | stat.S_IXOTH)

    def ask(self, path="/ask", key=None, headers=(), **kw):
        a = self.gw.get(path, key=key, headers=list(headers), **kw)
        env = [tuple(pair) for pair in json.loads(a.body)]
        return a, Seen("GET", dict(env)["REQUEST_URI"], env)


class Action(Cgi):
    """A script behind an internal redirect."""

    modules = ("cgid", "actions")
    conf = PASS + ('ScriptSock {dir}/cgisock\n'
                   'ScriptAlias /script {htdocs}/ask.py\n'
                   'Action run-it /script virtual\n'
                   '<Location "/ask">\nSetHandler run-it\n</Location>\n')


class Ssi(Cgi):
    """A script in a subrequest."""

    modules = ("cgid", "include")
    conf = PASS + ('ScriptSock {dir}/cgisock\n'
                   'ScriptAlias /script {htdocs}/ask.py\n'
                   'AliasMatch ^/ask {htdocs}/ask.shtml\n'
                   '<Files "*.shtml">\nOptions +Includes\n'
                   'SetOutputFilter INCLUDES\n</Files>\n')

    def prepare(self):
        super().prepare()
        (self.gw.htdocs / "ask.shtml").write_text(
            '<!--#include virtual="/script"-->')


class Ws(Route):
    """mod_proxy_http's own upgrade, as mod_proxy_wstunnel is no more needed
    since 2.4.47."""

    trap = TrapHttp
    conf = "ProxyPass /ws/ http://{backend}/ws/ upgrade=websocket\n"

    def prepare(self):
        # Bare httpd often hangs in SIGTERM for nine seconds behind a tunnel,
        # even behind one that has ended; SIGWINCH is the graceful stop.
        self.gw.stop = functools.partial(self.gw.stop, sig=signal.SIGWINCH)

    def ask(self, path="/ws/ask", key=None, headers=(), **kw):
        before = len(self.backend.seen)
        if not path.startswith("/ws/"):
            path = "/ws" + path
        headers = [(n, v) for n, v in headers if n.lower() != "connection"] + [
            ("Connection", ", ".join(["Upgrade"] + [
                v for n, v in headers if n.lower() == "connection"])),
            ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")]
        if key:
            headers.append(("Authorization", f"Bearer {key}"))
        with self.gw.conn() as c:
            a = c.request("GET", path, headers)
            if a.status == 101:
                c.send(b"ping")
                assert c._take(4) == b"ping"
                c.send(b"\xff")
                assert c.at_end()
        assert len(self.backend.seen) == before + 1, self.backend.logs()
        return a, self.backend.seen[-1]


class WsTunnel(Ws):
    modules = ("proxy_wstunnel",)
    conf = "ProxyPass /ws/ ws://{backend}/ws/\n"


ROUTES = {"http": Http, "h2c": H2c, "fcgi": Fcgi, "fcgi-handler": FcgiHandler,
          "fcgi-unix": FcgiUnix, "scgi": Scgi, "uwsgi": Uwsgi, "ajp": Ajp,
          "cgi": Cgi, "action": Action, "ssi": Ssi, "https": Https, "h2": H2,
          "http-unix": HttpUnix, "rewrite": RewriteProxy, "ws": Ws,
          "wstunnel": WsTunnel}


# --- HTTP/2 -------------------------------------------------------------------

class H2Client:
    """HTTP/2 in clear text, by prior knowledge. One request at a time."""

    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.conn = h2.connection.H2Connection(
            config=h2.config.H2Configuration(header_encoding="latin-1"))
        self.conn.initiate_connection()
        self.flush()

    def flush(self):
        self.sock.sendall(self.conn.data_to_send())

    def close(self):
        self.sock.close()

    def request(self, method, target, headers=(), body=b"", end=True):
        stream = self.conn.get_next_available_stream_id()
        self.conn.send_headers(stream, [
            (":method", method), (":scheme", "http"),
            (":authority", "gateway.test"), (":path", target)]
            + [(n.lower(), v) for n, v in headers], end_stream=not body)
        for at in range(0, len(body), 16384):
            self.conn.send_data(stream, body[at:at + 16384],
                                end_stream=end and at + 16384 >= len(body))
        self.flush()
        status, fields, data = None, [], b""
        while True:
            received = self.sock.recv(65536)
            assert received, "connection closed"
            for event in self.conn.receive_data(received):
                if getattr(event, "stream_id", None) != stream:
                    continue
                if isinstance(event, h2.events.ResponseReceived):
                    status = int(dict(event.headers)[":status"])
                    fields = [(n, v) for n, v in event.headers
                              if not n.startswith(":")]
                elif isinstance(event, h2.events.DataReceived):
                    data += event.data
                    self.conn.acknowledge_received_data(
                        event.flow_controlled_length, stream)
                elif isinstance(event, h2.events.StreamReset):
                    # NO_ERROR behind an answer: the rest isn't wanted.
                    assert status and not event.error_code, event
                    return Answer("HTTP/2", status, "", fields, data)
                elif isinstance(event, h2.events.StreamEnded):
                    self.flush()
                    return Answer("HTTP/2", status, "", fields, data)
            self.flush()


@contextlib.contextmanager
def http2(gw):
    """gw needs modules=["http2"] and "Protocols h2c http/1.1"."""
    client = H2Client(gw.port)
    try:
        yield client
    finally:
        client.close()


# --- problems -----------------------------------------------------------------

def is_problem(answer, status, kind):
    """Is it our answer to somebody who is turned away? (RFC 9457)"""
    assert answer.status == status, answer
    assert answer.header("Content-Type") == "application/problem+json", answer
    problem = answer.json()
    assert problem["type"] == f"urn:usage-events:problem:{kind}", problem
    assert problem["status"] == status
    assert problem["title"] and problem["detail"]
    assert problem["instance"] == f"urn:uuid:{our_id(answer)}"
    return problem
