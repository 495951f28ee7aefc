# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""The kin of CGI as backends: FastCGI, SCGI, uwsgi; and AJP, which is none but
has no fixups hook either."""
import struct

from backends.trap_base import OWN_ID, Seen, Trap, cgi_answer, take


def seen_of(env):
    named = dict(env)
    return Seen(named.get("REQUEST_METHOD", ""), named.get("REQUEST_URI", ""),
                env)


class TrapFcgi(Trap):
    """https://fastcgi-archives.github.io/FastCGI_Specification.html"""

    scheme = "fcgi"
    BEGIN, END, PARAMS, STDIN, STDOUT = 1, 3, 4, 5, 6

    @staticmethod
    def length(data, at):
        if data[at] < 128:
            return data[at], at + 1
        return struct.unpack_from(">I", data, at)[0] & 0x7fffffff, at + 4

    def params(self, data):
        env, at = [], 0
        while at < len(data):
            n, at = self.length(data, at)
            m, at = self.length(data, at)
            env.append((data[at:at + n].decode("latin-1"),
                        data[at + n:at + n + m].decode("latin-1")))
            at += n + m
        return env

    def serve(self, sock):
        params = b""
        while True:
            _, kind, ident, size, padding, _ = struct.unpack(
                ">BBHHBB", take(sock, 8))
            content = take(sock, size)
            take(sock, padding)
            if kind == self.PARAMS:
                params += content
            elif kind == self.STDIN and not content:
                self.seen.append(seen_of(self.params(params)))
                for what, data in ((self.STDOUT, cgi_answer()),
                                   (self.STDOUT, b""),
                                   (self.END, bytes(8))):
                    sock.sendall(struct.pack(">BBHHBB", 1, what, ident,
                                             len(data), 0, 0) + data)
                params = b""


class TrapScgi(Trap):
    """https://python.ca/scgi/protocol.txt"""

    scheme = "scgi"

    def serve(self, sock):
        size = b""
        while not size.endswith(b":"):
            size += take(sock, 1)
        words = take(sock, int(size[:-1])).decode("latin-1").split("\0")
        take(sock, 1)
        env = list(zip(words[::2], words[1::2]))
        self.seen.append(seen_of(env))
        sock.sendall(cgi_answer())


class TrapUwsgi(Trap):
    """https://uwsgi-docs.readthedocs.io/en/latest/Protocol.html"""

    scheme = "uwsgi"

    def serve(self, sock):
        _, size, _ = struct.unpack("<BHB", take(sock, 4))
        data, at, words = take(sock, size), 0, []
        while at < size:
            n = struct.unpack_from("<H", data, at)[0]
            words.append(data[at + 2:at + 2 + n].decode("latin-1"))
            at += 2 + n
        self.seen.append(seen_of(list(zip(words[::2], words[1::2]))))
        # mod_proxy_uwsgi wants a status line where the others want Status.
        sock.sendall(cgi_answer().replace(b"Status:", b"HTTP/1.0", 1))


class TrapAjp(Trap):
    """https://tomcat.apache.org/connectors-doc/ajp/ajpv13a.html"""

    scheme = "ajp"
    NAMES = ["accept", "accept-charset", "accept-encoding", "accept-language",
             "authorization", "connection", "content-type", "content-length",
             "cookie", "cookie2", "host", "pragma", "referer", "user-agent"]
    ATTRIBUTE, END = 0x0a, 0xff

    def serve(self, sock):
        while True:
            _, size = struct.unpack(">HH", take(sock, 4))
            self.data, self.at = take(sock, size), 0
            if self.data[0] == 2:
                self.seen.append(self.request())
                sock.sendall(self.answer())
            elif self.data[0] == 10:  # a ping
                sock.sendall(b"AB\0\1\x09")

    def number(self, form):
        value = struct.unpack_from(form, self.data, self.at)[0]
        self.at += struct.calcsize(form)
        return value

    def text(self):
        n = self.number(">H")
        if n == 0xffff:
            return ""
        value = self.data[self.at:self.at + n].decode("latin-1")
        self.at += n + 1
        return value

    def request(self):
        self.at = 2  # behind the code and the method
        _, target, _, _, _ = (self.text() for _ in range(5))
        self.at += 3  # port, is_ssl
        fields = []
        for _ in range(self.number(">H")):
            if self.data[self.at] == 0xa0:
                name = self.NAMES[(self.number(">H") & 0xff) - 1]
            else:
                name = self.text()
            fields.append((name, self.text()))
        while (kind := self.number(">B")) != self.END:
            if kind == self.ATTRIBUTE:
                fields.append((self.text(), self.text()))
            elif kind == 0x0b:  # the length of a key
                self.at += 2
            else:
                fields.append((f"attribute {kind}", self.text()))
        return Seen("", target, fields)

    @staticmethod
    def answer():
        def packet(data):
            return b"AB" + struct.pack(">H", len(data)) + data

        def text(s):
            return struct.pack(">H", len(s)) + s + b"\0"

        body = b"trap\n"
        fields = [(b"X-Request-Id", OWN_ID.encode()),
                  (b"Content-Length", str(len(body)).encode())]
        head = b"\4" + struct.pack(">H", 200) + text(b"OK") + struct.pack(
            ">H", len(fields)) + b"".join(text(n) + text(v)
                                          for n, v in fields)
        return (packet(head) + packet(b"\3" + text(body))
                + packet(b"\5\1"))
