#!/usr/bin/python3
# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""A backend that misbehaves, for what nginx would not do.

    odd.py PORT LOGFILE

What a request gets is in its path:
    /echo            JSON of what arrived: method, target, raw header fields
    /slow/MS         200 after that many milliseconds
    /hang            no answer until the client leaves
    /drop            the connection closed without an answer
    /half            a Content-Length of 1000, ten bytes, and closed
    /stream/N        N bytes, chunked
    /trickle/N/MS    N bytes, one every MS milliseconds
    /refuse          413 before the body is read, and closed
    /continue        100 Continue as soon as asked for, then 200
    /own-id          an X-Request-Id of its own, in two spellings
    /answer          200 with what the X-Answer-* fields of the request say,
                     as fields of the answer
    /ws              101 and an echo of raw bytes, ended by the byte 0xFF
    anything else    200
Each request is one line of JSON in LOGFILE, with the same members as nginx's.
"""
import asyncio
import json
import sys
import time

LOG = None


async def body_of(reader, headers):
    fields = {n.lower(): v for n, v in headers}
    if "chunked" in fields.get("transfer-encoding", ""):
        body = b""
        while True:
            size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
            if not size:
                while await reader.readuntil(b"\r\n") != b"\r\n":
                    pass
                return body
            body += await reader.readexactly(size)
            await reader.readexactly(2)
    return await reader.readexactly(int(fields.get("content-length", 0)))


def response(status, body=b"", headers=(), reason="Odd"):
    lines = [f"HTTP/1.1 {status} {reason}"]
    lines += [f"{n}: {v}" for n, v in headers]
    lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def log(method, target, headers, status, begin):
    fields = {}
    for n, v in headers:
        fields.setdefault(n.lower(), v)
    line = {"id": fields.get("x-request-id", ""),
            "org": fields.get("x-organization-id", ""),
            "key_id": fields.get("x-api-key-id", ""),
            "authorization": fields.get("authorization", ""),
            "x_api_key": fields.get("x-api-key", ""),
            "method": method, "uri": target, "host": fields.get("host", ""),
            "status": status, "time": time.time() - begin,
            "msec": time.time(), "headers": headers}
    LOG.write(json.dumps(line) + "\n")
    LOG.flush()


async def chunked(writer, n):
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b"x" * 65536
    while n > 0:
        size = min(n, len(piece))
        writer.write(b"%x\r\n" % size + piece[:size] + b"\r\n")
        await writer.drain()
        n -= size
    writer.write(b"0\r\n\r\n")


async def trickle(writer, n, ms):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % n)
    for _ in range(n):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(ms / 1000)


async def websocket(reader, writer):
    """Enough of RFC 6455 for a proxy to open the tunnel; then an echo."""
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                 b"Connection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n")
    while data := await reader.read(4096):
        if b"\xff" in data:
            return
        writer.write(data)
        await writer.drain()


async def special(parts, reader, writer, method, target, headers):
    """What is answered before or without reading a body. Returns the status
    (0 where it is logged already), or None where it is not one of these."""
    name = parts[0]
    if name == "refuse":
        writer.write(response(413, b"too much\n", [("Connection", "close")]))
        return 413
    if name == "hang":
        log(method, target, headers, 499, time.time())
        while await reader.read(4096):
            pass
        return 0
    if name == "drop":
        return 444
    if name == "half":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
                     b"0123456789")
        return 200
    if name == "ws":
        await websocket(reader, writer)
        return 101
    return None


async def ordinary(parts, writer, method, target, headers, body):
    name = parts[0]
    if name == "slow":
        await asyncio.sleep(int(parts[1]) / 1000)
    if name == "stream":
        await chunked(writer, int(parts[1]))
        return
    if name == "trickle":
        await trickle(writer, int(parts[1]), int(parts[2]))
        return
    extra, out = [], b"odd\n"
    if name == "echo":
        out = json.dumps({"method": method, "target": target,
                          "headers": headers, "body": len(body)}).encode()
        extra = [("Content-Type", "application/json")]
    if name == "own-id":
        extra = [("X-Request-Id", "backend-1"), ("x-request-id", "backend-2")]
    if name == "answer":
        extra = [(n[9:], v) for n, v in headers
                 if n.lower().startswith("x-answer-")]
    answer = response(200, out, extra)
    writer.write(answer[:-len(out)] if method == "HEAD" else answer)


async def one_request(reader, writer):
    """Serve one request. Returns whether the connection may go on."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    begin = time.time()
    lines = head[:-4].split("\r\n")
    method, target, _ = lines[0].split(" ", 2)
    headers = [(n, v.strip()) for n, _, v in
               (line.partition(":") for line in lines[1:])]
    parts = target.split("?")[0].lstrip("/").split("/")
    status = await special(parts, reader, writer, method, target, headers)
    if status:
        log(method, target, headers, status, begin)
    if status is not None:
        return False
    if any(n.lower() == "expect" for n, _ in headers):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await body_of(reader, headers)
    try:
        await ordinary(parts, writer, method, target, headers, body)
        await writer.drain()
    finally:
        log(method, target, headers, 200, begin)
    return True


async def serve(reader, writer):
    try:
        while await one_request(reader, writer):
            pass
        await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main():
    global LOG
    LOG = open(sys.argv[2], "a", encoding="utf-8")
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]),
                                        limit=1 << 20, backlog=512)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
