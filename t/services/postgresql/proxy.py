#!/usr/bin/python3
# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""proxy.py LISTEN-PORT TARGET-PORT CONTROL-FILE [STATS-FILE [QUERY-FILE]]

A TCP proxy on 127.0.0.1 between PostgreSQL's clients and a server, that behaves
as CONTROL-FILE says, which is looked at every 20 ms:

    pass          forwards (also where the file is missing)
    delay MS      each answer of the server comes MS later
    stall         keeps the connections open and forwards nothing
    stall-back    forwards questions but no answers
    refuse        cuts all connections (RST), and new ones at once
    cut MS        cuts all connections (RST) every MS
    deaf          forwards all but NotificationResponse, so that no client hears
                  of a NOTIFY

STATS-FILE is one JSON object, renewed when something changed: mode (as it is in
force), connections (made so far), open (now), dropped (notifications).

QUERY-FILE gets a line of JSON for each question as it is forwarded: at (seconds
of CLOCK_MONOTONIC), connection (a number), kind ("query" for a simple one,
"execute" for one with parameters), sql (as sent, where it is known) and hashes
(of keys, 64 hex digits, in its parameters).

Messages are told apart on connections without TLS alone (sslmode=disable): of
the others nothing is counted but connections, and they aren't deaf.
"""
import asyncio
import collections
import json
import os
import re
import socket
import struct
import sys
import time

TICK = 0.02
HELD_MAX = 16 << 20
HASH = re.compile(rb"[0-9a-f]{64}")
# What may stand in place of a StartupMessage's version.
CANCEL, SSL, GSS = 80877102, 80877103, 80877104


class State:
    def __init__(self, queries):
        self.text, self.mode, self.arg = "pass", "pass", 0
        self.cuts = set()
        self.connections = self.dropped = 0
        self.queries = open(queries, "a") if queries else None
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

    def delay(self, forward):
        return self.arg / 1000 if self.mode == "delay" and not forward else 0

    def blocked(self, forward):
        return self.mode == "stall" or (self.mode == "stall-back"
                                        and not forward)

    def cut_all(self):
        for cut in list(self.cuts):
            if not cut.done():
                cut.set_result(True)

    def write_stats(self, path):
        text = json.dumps({"mode": self.text, "connections": self.connections,
                           "open": len(self.cuts), "dropped": self.dropped})
        if text != self.written:
            with open(path + ".new", "w") as f:
                f.write(text + "\n")
            os.rename(path + ".new", path)
            self.written = text

    def write_query(self, **query):
        if self.queries:
            self.queries.write(json.dumps(query) + "\n")
            self.queries.flush()


class Talk:
    """What both ways of a connection know of it."""

    def __init__(self, state, number):
        self.state, self.number = state, number
        self.begun = False     # the StartupMessage came
        self.plain = True      # messages can be told apart
        self.asked = 0         # single bytes that the server owes
        self.sql = {}          # of prepared statements
        self.bound = ("", [])  # sql and hashes of what was bound last


class Questions:
    """The client's messages. All is forwarded as it came."""

    def __init__(self, talk):
        self.talk, self.buf = talk, b""

    def feed(self, data):
        if self.talk.plain:
            self.buf += data
            while self._one():
                pass
        return data

    def _one(self):
        head = 5 if self.talk.begun else 4
        if len(self.buf) < head:
            return False
        [size] = struct.unpack(">i", self.buf[head - 4:head])
        end = head - 4 + size
        if size < 4 or len(self.buf) < end:
            return False
        kind, body = self.buf[:head - 4], self.buf[head:end]
        self.buf = self.buf[end:]
        if self.talk.begun:
            self._message(kind, body)
        else:
            [code] = struct.unpack(">i", body[:4])
            self.talk.asked += code in (SSL, GSS)
            self.talk.begun = code not in (CANCEL, SSL, GSS)
        return True

    def _message(self, kind, body):
        talk = self.talk
        if kind == b"Q":
            self._tell("query", body.rstrip(b"\0"), HASH.findall(body))
        elif kind == b"P":
            name, sql, _ = body.split(b"\0", 2)
            talk.sql[name] = sql
        elif kind == b"B":
            _, name, parameters = body.split(b"\0", 2)
            talk.bound = (talk.sql.get(name, b""), HASH.findall(parameters))
        elif kind == b"E":
            self._tell("execute", *talk.bound)

    def _tell(self, kind, sql, hashes):
        self.talk.state.write_query(
            at=time.monotonic(), connection=self.talk.number, kind=kind,
            sql=sql.decode(errors="replace"),
            hashes=[h.decode() for h in hashes])


class Answers:
    """The server's messages, whole ones, without those that are dropped."""

    def __init__(self, talk):
        self.talk, self.buf = talk, b""

    def feed(self, data):
        if not self.talk.plain:
            return data
        self.buf += data
        passed = b""
        while self.talk.asked and self.buf and self.talk.plain:
            self.talk.plain = self.buf[:1] == b"N"
            passed, self.buf = passed + self.buf[:1], self.buf[1:]
            self.talk.asked -= 1
        if not self.talk.plain:
            passed, self.buf = passed + self.buf, b""
        while len(self.buf) >= 5:
            end = 1 + struct.unpack(">i", self.buf[1:5])[0]
            if len(self.buf) < end:
                break
            if self.talk.state.mode == "deaf" and self.buf[:1] == b"A":
                self.talk.state.dropped += 1
            else:
                passed += self.buf[:end]
            self.buf = self.buf[end:]
        return passed


class Way:
    """One direction of a connection: what was read waits in line until its
    time has come."""

    def __init__(self, state, reader, writer, forward, messages):
        self.state, self.reader, self.writer = state, reader, writer
        self.forward, self.messages = forward, messages
        self.line, self.held = collections.deque(), 0
        self.filled = asyncio.Event()

    async def take(self):
        loop = asyncio.get_running_loop()
        while True:
            while self.held > HELD_MAX:
                await asyncio.sleep(0.005)
            data = await self.reader.read(65536)
            self.line.append((loop.time() + self.state.delay(self.forward),
                              data))
            self.held += len(data)
            self.filled.set()
            if not data:
                return await asyncio.Event().wait()  # until give() is through

    async def give(self):
        """Returns when the end of the stream was reached."""
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
                return
            self.writer.write(self.messages.feed(data))
            await self.writer.drain()


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
    talk = Talk(state, state.connections)
    ways = [Way(state, reader, far_writer, True, Questions(talk)),
            Way(state, far_reader, writer, False, Answers(talk))]
    tasks = [asyncio.ensure_future(do) for way in ways
             for do in (way.take(), way.give())]
    cut = asyncio.get_running_loop().create_future()
    state.cuts.add(cut)
    done, _ = await asyncio.wait(tasks + [cut],
                                 return_when=asyncio.FIRST_COMPLETED)
    state.cuts.discard(cut)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    hard = cut in done or any(t.exception() for t in done if t is not cut)
    for end in (writer, far_writer):
        if hard:
            reset(end)
        else:
            end.close()


async def main(listen, target, control, stats=None, queries=None):
    state = State(queries)
    state.read_control(control)

    async def accept(reader, writer):
        await handle(state, int(target), reader, writer)

    server = await asyncio.start_server(accept, "127.0.0.1", int(listen))
    last = time.monotonic()
    async with server:
        while True:
            state.read_control(control)
            due = time.monotonic() - last >= state.arg / 1000
            if state.mode == "refuse" or (state.mode == "cut" and due):
                state.cut_all()
                last = time.monotonic()
            if stats:
                state.write_stats(stats)
            await asyncio.sleep(TICK)


if __name__ == "__main__":
    if not 4 <= len(sys.argv) <= 6:
        sys.exit(__doc__)
    try:
        asyncio.run(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        pass
