"""A hub on this machine: as much of its HTTP interface as it takes to create, fill and read a model repository."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

COMMIT = "5" * 40


class Hub(ThreadingHTTPServer):
    """Repositories in memory.

    Fields:
        files: by repository and path, once they are committed.
        private: whether each repository is.
        asked: methods and paths in the order of the requests.
        tokens: that came along.
        refuses: answers 403 to whoever writes.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}  # by sha256, before they are committed
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        self.refuses = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self._body()
        if self.server.refuses:
            self._json({"error": "You have read access only."}, 403)
            return
        path = urlparse(self.path).path
        if path == "/api/repos/create":
            asked = json.loads(body)
            repository = f"{asked['organization']}/{asked['name']}"
            self.server.files[repository] = {}
            self.server.private[repository] = asked.get("visibility") == "private" or bool(asked.get("private"))
            self._json({"url": f"{self.server.url}/{repository}", "name": repository})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in files}
            answer = [{"path": name, "uploadMode": modes[name], "shouldIgnore": False} for name in files]
            self._json({"files": answer})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for wanted in objects:
                wanted["actions"] = {"upload": {"href": f"{self.server.url}/large/{wanted['oid']}"}}
            self._json({"transfer": "basic", "objects": objects})
        elif "/commit/" in path:
            repository = path.removeprefix("/api/models/").partition("/commit/")[0]
            self._commit(self.server.files[repository], [json.loads(line) for line in body.splitlines()])
            self._json({"commitUrl": f"{self.server.url}/{repository}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self._json({"error": f"unknown: {path}"}, 404)

    def do_PUT(self) -> None:
        body = self._body()
        self.server.large[hashlib.sha256(body).hexdigest()] = body
        self._json({})

    def do_HEAD(self) -> None:
        self._file(with_body=False)

    def do_GET(self) -> None:
        path = urlparse(self.path).path
        if "/resolve/" in path:
            self._file(with_body=True)
            return
        self._note()
        repository = path.removeprefix("/api/models/").partition("/revision/")[0].partition("/tree/")[0]
        if not path.startswith("/api/models/") or repository not in self.server.files:
            self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return
        files = self.server.files[repository]
        if "/tree/" in path:
            self._json(
                [{"type": "file", "path": name, "size": len(data), "oid": _name(data)} for name, data in files.items()]
            )
        else:
            self._json({"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]})

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def _commit(self, files: dict[str, bytes], lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]

    def _file(self, with_body: bool) -> None:
        self._note()
        repository, _, rest = unquote(urlparse(self.path).path).lstrip("/").partition("/resolve/")
        data = self.server.files.get(repository, {}).get(rest.partition("/")[2])
        if data is None:
            self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        self.send_response(200)
        self._headers({"ETag": f'"{_name(data)}"', "X-Repo-Commit": COMMIT, "Content-Length": str(len(data))})
        if with_body:
            self.wfile.write(data)

    def _json(self, answer: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self._headers({"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(data)

    def _headers(self, headers: dict[str, str]) -> None:
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _body(self) -> bytes:
        self._note()
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _note(self) -> None:
        self.server.asked.append(f"{self.command} {urlparse(self.path).path}")
        self.server.tokens.add(self.headers.get("Authorization"))


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def hub_server() -> Iterator[Hub]:
    """One that runs until the context ends."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
