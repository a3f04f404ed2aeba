"""A bucket of Google Cloud Storage on this machine: what of its JSON API gcsfs and tensorstore use.

As exact as they need it: generations and conditions on them, ranges, listings by prefix, uploads of all
three kinds, batches of deletions. In memory, in a process of its own; every bucket but "bucket" is not there.
"""

import argparse
import base64
import contextlib
import hashlib
import itertools
import json
import re
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

SECONDS = 60.0  # for the server to answer
NAME = "bucket"
LOCK = threading.RLock()
OBJECTS: dict[str, tuple[bytes, int]] = {}  # name to content and generation
UPLOADS: dict[str, tuple[str, bytes]] = {}  # resumable: id to name and what has come
COUNT = itertools.count(1)


@contextlib.contextmanager
def running():
    """Yields the environment under which gcsfs and tensorstore find the bucket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, __file__, f"--port={port}"])
    try:
        _wait(port)
        address = f"http://127.0.0.1:{port}"
        yield {
            "STORAGE_EMULATOR_HOST": address,  # gcsfs
            "TENSORSTORE_GCS_HTTP_URL": address,
            "NO_GCE_CHECK": "true",  # this is not a machine of that cloud: do not look for its credentials
            "GCE_METADATA_ROOT": "127.0.0.1:1",
        }
    finally:
        server.kill()
        server.wait()


def _wait(port):
    end = time.monotonic() + SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        assert time.monotonic() < end, "the bucket does not answer"
        time.sleep(0.1)


class Failure(Exception):
    """An answer other than success."""

    def __init__(self, status, reason):
        super().__init__(reason)
        self.status, self.reason = status, reason


def put(name, content, query):
    with LOCK:
        now = OBJECTS.get(name, (b"", 0))[1]
        if query.get("ifGenerationMatch", str(now)) != str(now):
            raise Failure(412, "conditionNotMet")
        OBJECTS[name] = (content, next(COUNT))
        return describe(name)


def get(name, query):
    with LOCK:
        if name not in OBJECTS:
            raise Failure(404, f"No such object: {NAME}/{name}")
        content, generation = OBJECTS[name]
    if query.get("ifGenerationMatch", str(generation)) != str(generation):
        raise Failure(412, "conditionNotMet")
    if query.get("ifGenerationNotMatch") == str(generation):
        raise Failure(304, "notModified")
    return content, generation


def delete(name, query):
    with LOCK:
        get(name, query)
        del OBJECTS[name]


def describe(name):
    content, generation = OBJECTS[name]
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    return {
        "kind": "storage#object",
        "name": name,
        "bucket": NAME,
        "size": str(len(content)),
        "generation": str(generation),
        "metageneration": "1",
        "timeCreated": now,
        "updated": now,
        "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
        "etag": str(generation),
    }


def listing(query):
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
    items, prefixes = [], set()
    with LOCK:
        for name in sorted(OBJECTS):
            rest = name.removeprefix(prefix)
            if not name.startswith(prefix):
                continue
            if name < query.get("startOffset", "") or name >= query.get("endOffset", "\U0010ffff"):
                continue
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                items.append(describe(name))
    return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle_any(self):
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        try:
            self._route(url.path, query, body)
        except Failure as failure:
            error = {"error": {"code": failure.status, "message": failure.reason}}
            self._answer(
                failure.status, b"" if failure.status == 304 else json.dumps(error).encode()
            )

    do_GET = do_POST = do_PUT = do_DELETE = handle_any

    def _chunks(self):
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _route(self, path, query, body):
        if path == "/batch/storage/v1":
            return self._batch(body)
        found = re.fullmatch(
            r"(/upload|/download)?/storage/v1/b(?:/([^/]+)(?:/o(?:/(.+))?)?)?", path
        )
        if found is None:
            raise Failure(404, f"no such path {path}")
        way, bucket, name = found[1], found[2], found[3]
        if bucket != NAME:
            raise Failure(404, f"The specified bucket does not exist: {bucket}")
        if way == "/upload":
            return self._upload(query, body)
        if name is None:
            whole = path.endswith("/o")
            return self._json(listing(query) if whole else {"kind": "storage#bucket", "name": NAME})
        if "/rewriteTo/" in name or "/copyTo/" in name:
            source, target = re.split(r"/(?:rewriteTo|copyTo)/b/[^/]+/o/", name)
            made = put(unquote(target), get(unquote(source), {})[0], {})
            return self._json({"done": True, "resource": made} if "/rewriteTo/" in name else made)
        name = unquote(name)
        if self.command == "DELETE":
            delete(name, query)
            return self._answer(204, b"")
        content, generation = get(name, query)
        if query.get("alt") == "media" or way == "/download":
            return self._media(content, generation)
        return self._json(describe(name))

    def _media(self, content, generation):
        headers = {"x-goog-generation": str(generation), "Content-Type": "application/octet-stream"}
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if span is None:
            return self._answer(200, content, headers)
        if span[1]:
            first, last = int(span[1]), min(int(span[2] or len(content)), len(content) - 1)
        else:
            first, last = max(0, len(content) - int(span[2])), len(content) - 1
        if first > last:
            raise Failure(416, "range not satisfiable")
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return self._answer(206, content[first : last + 1], headers)

    def _upload(self, query, body):
        kind = query["uploadType"]
        if kind == "media":
            return self._json(put(query["name"], body, query))
        if kind == "multipart":
            mark = (
                b"--" + re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
            )
            _, about, content = body.split(mark, 2)
            content = content[: content.rindex(b"\n" + mark)].removesuffix(b"\r")
            blank = re.compile(rb"\r?\n\r?\n")
            name = json.loads(blank.split(about, maxsplit=1)[1])["name"]
            return self._json(put(name, blank.split(content, maxsplit=1)[1], query))
        if "upload_id" not in query:
            made = str(next(COUNT))
            UPLOADS[made] = (json.loads(body)["name"], b"")
            where = f"http://{self.headers['Host']}{self.path}&upload_id={made}"
            return self._answer(200, b"{}", {"Location": where})
        name, content = UPLOADS[query["upload_id"]]
        content += body
        UPLOADS[query["upload_id"]] = (name, content)
        if (self.headers.get("Content-Range") or "").endswith("*"):
            return self._answer(308, b"", {"Range": f"bytes=0-{len(content) - 1}"})
        return self._json(put(name, content, query))

    def _batch(self, body):
        parts = []
        for path in re.findall(rb"DELETE /storage/v1/b/[^/]+/o/(\S+) HTTP", body):
            try:
                delete(unquote(path.decode().split("?")[0]), {})
                status = "204 No Content"
            except Failure as failure:
                status = f"{failure.status} Failed"
            parts.append(f"Content-Type: application/http\r\n\r\nHTTP/1.1 {status}\r\n\r\n")
        text = "".join(f"--batch\r\n{part}" for part in parts) + "--batch--"
        return self._answer(200, text.encode(), {"Content-Type": "multipart/mixed; boundary=batch"})

    def _json(self, value):
        return self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status, content, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        if not isinstance(
            sys.exception(), ConnectionError
        ):  # a client that has gone, or was killed
            super().handle_error(*_)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    Server(("127.0.0.1", parser.parse_args().port), Handler).serve_forever()
