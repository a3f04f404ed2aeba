"""A server on loopback that answers as the Hugging Face Hub does, for the calls that a download makes."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serving(repo, folder, revisions=("main",)):
    """Serves the files of `folder` as `repo`; yields (endpoint, list of requests)."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def log_message(self, *_):
            pass

        def answer(self, *, body):
            requests.append((self.command, self.path))
            path = self.path.split("?")[0]
            api = f"/api/models/{repo}"
            if path in (api, *(f"{api}/revision/{r}" for r in (*revisions, COMMIT))):
                names = sorted(file.name for file in folder.iterdir())
                info = {"id": repo, "modelId": repo, "sha": COMMIT, "private": False}
                info |= {"siblings": [{"rfilename": name} for name in names], "tags": []}
                return self.send(json.dumps(info).encode(), "application/json", body)
            start = f"/{repo}/resolve/{COMMIT}/"
            file = folder / path.removeprefix(start)
            if path.startswith(start) and file.is_file():
                return self.send(file.read_bytes(), "application/octet-stream", body)
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound" if api in path else "EntryNotFound")
            self.send_header("X-Error-Message", "not here")
            self.send_header("Content-Length", "0")
            return self.end_headers()

        def send(self, data, kind, body):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
