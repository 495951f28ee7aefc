#!/usr/bin/python3
# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""proxy.py LISTEN-PORT TARGET-PORT CONTROL-FILE [STATS-FILE]

A TCP proxy on 127.0.0.1 between Kafka's clients and a broker, that behaves as
CONTROL-FILE says, which is looked at every 20 ms:

    pass          forwards (also where the file is missing)
    rtt MS        forwards, a round trip takes MS longer; what is under way
                  is not held up by it, as on a long line
    delay MS      the same, MS each way
    rate BYTES    client to broker at BYTES a second
    stall         keeps the connections open and forwards nothing
    stall-back    forwards requests but no answers: written, never confirmed
    refuse        cuts all connections (RST), and new ones at once
    cut BYTES     cuts each connection after BYTES from the client

The broker must tell its clients the proxy's port (ADVPORT of kafka-start.sh),
or they go round it.

STATS-FILE is one JSON object, renewed when something changed: mode (as it is in
force), connections (made so far), bytes_out (client to broker), bytes_back,
and requests: by Kafka's API key (0 is Produce) how many and their bytes. Of a
TLS connection only the bytes are known.
"""
import asyncio
import collections
import json
import os
import socket
import struct
import sys

TICK = 0.02
HELD_MAX = 64 << 20   # bytes under way on a long line
STALLED_MAX = 256 << 10  # and in front of one that is shut


class State:
    def __init__(self):
        self.text, self.mode, self.arg = "pass", "pass", 0
        self.ways = set()
        self.connections = 0
        self.bytes = {True: 0, False: 0}
        self.requests = {}
        self.written = None

    def read_control(self, path):
        try:
            with open(path) as f:
                words = f.read().split()
        except OSError:
            words = []
        words = words or ["pass"]
        try:
            arg = float(words[1]) if len(words) > 1 else 0
        except ValueError:
            return
        self.text, self.mode, self.arg = " ".join(words), words[0], arg

    @property
    def delay(self):
        return {"rtt": self.arg / 2000, "delay": self.arg / 1000}.get(
            self.mode, 0)

    def blocked(self, forward):
        return self.mode == "stall" or (self.mode == "stall-back"
                                        and not forward)

    def write_stats(self, path):
        stats = {"mode": self.text, "connections": self.connections,
                 "bytes_out": self.bytes[True],
                 "bytes_back": self.bytes[False],
                 "requests": {str(k): {"count": c, "bytes": b} for k, (c, b)
                              in sorted(self.requests.items())}}
        text = json.dumps(stats)
        if text != self.written:
            with open(path + ".new", "w") as f:
                f.write(text + "\n")
            os.rename(path + ".new", path)
            self.written = text


class Requests:
    """Counts Kafka's requests in a stream: each begins with its size, four
    bytes, and its API key, two."""

    def __init__(self, state):
        self.state, self.head, self.left, self.on = state, b"", 0, True

    def feed(self, data):
        at = 0
        while self.on and at < len(data):
            if self.left:
                step = min(self.left, len(data) - at)
                self.left -= step
                at += step
                continue
            step = min(6 - len(self.head), len(data) - at)
            self.head += data[at:at + step]
            at += step
            if len(self.head) == 6:
                size, key = struct.unpack(">ih", self.head)
                if not (2 <= size < 1 << 28 and 0 <= key < 1000):
                    self.on = False  # TLS, or not Kafka at all
                    return
                self.left, self.head = size - 2, b""
                n, total = self.state.requests.get(key, (0, 0))
                self.state.requests[key] = (n + 1, total + size + 4)


class Way:
    """One direction of a connection: what was read waits in line until its
    time has come."""

    def __init__(self, state, reader, writer, forward):
        self.state, self.reader, self.writer = state, reader, writer
        self.forward, self.line, self.held = forward, collections.deque(), 0
        self.filled, self.sent = asyncio.Event(), 0
        self.requests = Requests(state) if forward else None

    async def take(self):
        loop = asyncio.get_running_loop()
        while True:
            while self.held > (STALLED_MAX if not self.state.delay
                               else HELD_MAX):
                await asyncio.sleep(0.005)
            data = await self.reader.read(65536)
            self.line.append((loop.time() + self.state.delay, data))
            self.held += len(data)
            self.filled.set()
            if not data:
                return await asyncio.Event().wait()  # until give() is through

    async def give(self):
        """Returns True where the connection is to be cut, not closed."""
        loop = asyncio.get_running_loop()
        while True:
            while not self.line:
                self.filled.clear()
                await self.filled.wait()
            at, data = self.line.popleft()
            if at > loop.time():
                await asyncio.sleep(at - loop.time())
            while self.state.blocked(self.forward):
                await asyncio.sleep(TICK)
            self.held -= len(data)
            if not data:
                return False
            if self.forward and self.state.mode == "cut":
                data = data[:max(0, int(self.state.arg) - self.sent)]
            await self.send(data)
            if self.forward and self.state.mode == "cut" and \
                    self.sent >= self.state.arg:
                return True

    async def send(self, data):
        rate = self.state.arg if self.state.mode == "rate" and self.forward \
            else 0
        step = max(1, int(rate * TICK)) if rate else len(data) or 1
        for i in range(0, len(data), step):
            part = data[i:i + step]
            self.writer.write(part)
            await self.writer.drain()
            self.sent += len(part)
            self.state.bytes[self.forward] += len(part)
            if self.requests:
                self.requests.feed(part)
            if rate:
                await asyncio.sleep(len(part) / rate)


def reset(writer):
    sock = writer.get_extra_info("socket")
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                        struct.pack("ii", 1, 0))
    except (AttributeError, OSError):
        pass
    writer.transport.abort()


async def handle(state, target, reader, writer):
    if state.mode == "refuse":
        return reset(writer)
    try:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1",
                                                               target)
    except OSError:
        return reset(writer)
    state.connections += 1
    ways = [Way(state, reader, far_writer, True),
            Way(state, far_reader, writer, False)]
    tasks = [asyncio.ensure_future(do) for way in ways
             for do in (way.take(), way.give())]
    cut = asyncio.get_running_loop().create_future()
    state.ways.add(cut)
    done, _ = await asyncio.wait(tasks + [cut],
                                 return_when=asyncio.FIRST_COMPLETED)
    state.ways.discard(cut)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    hard = cut in done or any(t.exception() or t.result()
                              for t in done if t is not cut)
    for end in (writer, far_writer):
        if hard:
            reset(end)
        else:
            end.close()


async def main(listen, target, control, stats=None):
    state = State()
    state.read_control(control)

    async def accept(reader, writer):
        await handle(state, int(target), reader, writer)

    server = await asyncio.start_server(accept, "127.0.0.1", int(listen))
    async with server:
        while True:
            state.read_control(control)
            if state.mode == "refuse":
                for cut in list(state.ways):
                    if not cut.done():
                        cut.set_result(True)
            if stats:
                state.write_stats(stats)
            await asyncio.sleep(TICK)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    try:
        asyncio.run(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        pass
