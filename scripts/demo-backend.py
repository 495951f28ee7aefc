#!/usr/bin/env python3
# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""The API behind the demo's gateway: it says hello, takes a charge, and has one
path that breaks. It writes its port, a free one, into the file it is given."""
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body):
        data = (json.dumps(body) + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def serve(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        if path == "/v1/hello":
            # all that a backend learns of its caller
            self.answer(200, {
                "hello": self.headers.get("X-Organization-Id"),
                "key_id": self.headers.get("X-Api-Key-Id"),
                "key_seen": "X-API-Key" in self.headers
                or "Authorization" in self.headers})
        elif path == "/v1/charge" and self.command == "POST":
            self.answer(201, {"charged": True})
        elif path == "/v1/broken":
            self.answer(500, {"error": "this one is always broken"})
        else:
            self.answer(404, {"error": "there is no such path"})

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = serve

    def log_message(self, *args):
        pass


def main():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    with open(sys.argv[1] + ".new", "w", encoding="ascii") as f:
        f.write(f"{server.server_port}\n")
    os.rename(sys.argv[1] + ".new", sys.argv[1])
    server.serve_forever()


if __name__ == "__main__":
    main()
