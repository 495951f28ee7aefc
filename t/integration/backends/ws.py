#!/usr/bin/python3
# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""A WebSocket backend: echoes messages; "bye" makes it close.

    ws.py PORT LOGFILE

Each connection is one line of JSON in LOGFILE, written when it opens.
"""
import asyncio
import json
import sys

import websockets


async def echo(ws):
    fields = ws.request_headers
    with open(sys.argv[2], "a", encoding="utf-8") as f:
        f.write(json.dumps({
            "id": fields.get("X-Request-Id", ""),
            "org": fields.get("X-Organization-Id", ""),
            "key_id": fields.get("X-Api-Key-Id", ""),
            "authorization": fields.get("Authorization", ""),
            "x_api_key": fields.get("X-Api-Key", ""),
            "method": "GET", "uri": ws.path, "status": 101,
            "headers": list(fields.raw_items())}) + "\n")
    async for message in ws:
        if message == "bye":
            return
        await ws.send(message)


async def main():
    async with websockets.serve(echo, "127.0.0.1", int(sys.argv[1])):
        await asyncio.Future()


if __name__ == "__main__":
    asyncio.run(main())
