"""Files over HTTP on this machine: ranges, etags, a delay, and the failures that real servers have.

A path may begin with failures, each once per object unless it is "always": "/fail=503,503/x.tar" answers
503 twice and then serves x.tar; "/fail=always-404/x.tar" never does. "cut" stops in the middle of the body,
"short" sends half and says so, "whole" ignores the range.
"""

import argparse
import asyncio
import collections
import contextlib
import hashlib
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

REASONS = {200: "OK", 206: "Partial Content", 404: "Not Found", 416: "Range Not Satisfiable"}
SEEN: collections.Counter[str] = collections.Counter()


@contextlib.contextmanager
def running(folder, *, delay=0.0):
    """Yields the address under which the files of `folder` are; each answer waits `delay` seconds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, __file__, f"--port={port}", f"--folder={folder}", f"--delay={delay}"]
    server = subprocess.Popen(command)
    try:
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def failure(path):
    """The failure that is due for a path, and the path of the file."""
    found = re.match(r"/fail=([^/]+)(/.*)", path)
    if found is None:
        return None, path
    plan = found[1].split(",")
    if plan[0].startswith("always-"):
        return plan[0].removeprefix("always-"), found[2]
    SEEN[path] += 1
    return (plan[SEEN[path] - 1] if SEEN[path] <= len(plan) else None), found[2]


def answer(folder, method, path, headers):
    """Status, headers and body; the body may be shorter than its length says."""
    path = path.partition("?")[0]
    wrong, path = failure(path) if method == "GET" else (None, re.sub("^/fail=[^/]+", "", path))
    if wrong and wrong.isdigit():
        return int(wrong), {"Content-Length": "0", "Retry-After": "0"}, b""
    file = Path(folder, unquote(path).lstrip("/"))
    if not file.is_file():
        return 404, {"Content-Length": "0"}, b""
    size = file.stat().st_size
    etag = hashlib.md5(f"{size}/{file.stat().st_mtime_ns}".encode()).hexdigest()
    common = {"Accept-Ranges": "bytes", "ETag": f'"{etag}"'}
    span = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
    if span is None or wrong == "whole" or method == "HEAD":
        body = file.read_bytes() if method == "GET" else b""
        return 200, {**common, "Content-Length": str(size)}, body
    first, last = int(span[1]), min(int(span[2] or size), size - 1)
    if first > last:
        return 416, {"Content-Length": "0"}, b""
    with file.open("rb") as opened:
        body = os.pread(opened.fileno(), last - first + 1, first)
    if wrong == "short":
        body = body[: len(body) // 2]
    common["Content-Range"] = f"bytes {first}-{last}/{size}"
    common["Content-Length"] = str(len(body))
    return 206, common, body[: len(body) // 2] if wrong == "cut" else body


def make_handler(folder, delay):
    """Serves one connection, one request after the other."""

    async def handle(reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                method, path, _ = lines[0].split(" ")
                pairs = (line.partition(":") for line in lines[1:] if line)
                headers = {name.lower(): value.strip() for name, _, value in pairs}
                status, about, body = answer(folder, method, path, headers)
                if delay:
                    await asyncio.sleep(delay)
                first = f"HTTP/1.1 {status} {REASONS.get(status, 'No')}\r\n"
                said = "".join(f"{name}: {value}\r\n" for name, value in about.items())
                writer.write((first + said + "\r\n").encode() + body)
                await writer.drain()
                if method == "GET" and int(about["Content-Length"]) != len(body):
                    break  # stopped in the middle
        writer.close()

    return handle


async def serve(port, folder, delay):
    server = await asyncio.start_server(make_handler(folder, delay), "127.0.0.1", port, backlog=512)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--delay", type=float, default=0.0)
    args = parser.parse_args()
    asyncio.run(serve(args.port, args.folder, args.delay))
