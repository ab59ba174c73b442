"""A stand-in of the hub's HTTP endpoints on this machine: what pushing and pulling a model needs.

Endpoints and bodies as ``huggingface_hub`` sends them: repositories, pre-upload, LFS batches,
commits as lines of JSON, model info, trees and files with their ETags.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_tests"
LFS_FROM = 1000
"""Files of this size and more go through LFS, as weights do."""


class Hub:
    """What the hub holds: for each repository whether it is private, and its commits."""

    def __init__(self) -> None:
        self.private: dict[str, bool] = {}
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.failing = False
        self.fault: tuple[int, int | str] | None = None
        """The request of this number fails: by a status, or "disconnect"."""
        self.url = ""

    def files(self, repository: str) -> dict[str, bytes]:
        """Content of the last commit."""
        return self.commits[repository][-1][1]

    def add(self, repository: str, files: dict[str, bytes], *, private: bool = False) -> str:
        """A new commit on top of what is there; returns its hash."""
        self.private.setdefault(repository, private)
        history = self.commits.setdefault(repository, [])
        content = {**(history[-1][1] if history else {}), **files}
        digest = hashlib.sha1(repr((len(history), sorted(content))).encode()).hexdigest()
        history.append((digest, content))
        return digest


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def _answer(self, status: int, value: Any = None, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value or {}).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _work(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self._body()
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.fault is not None and len(self.hub.requests) == self.hub.fault[0] + 1:
            self._fail(self.hub.fault[1])
            return
        if self.hub.failing:
            self._answer(500, {"error": "the machine is tired"})
            return
        for method, pattern, work in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found and method in (self.command, "GET" if self.command == "HEAD" else ""):
                work(self, body, **found.groupdict())
                return
        self._answer(404, {"error": "no such page"})

    def _fail(self, kind: int | str) -> None:
        if isinstance(kind, int):
            self._answer(kind, {"error": "not now"})
            return
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_POST = do_PUT = _work  # noqa: N815

    def _allowed(self, repository: str, *, write: bool = False) -> bool:
        """Whether the request may go on; answers it where it may not."""
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if write and not known:
            self._answer(401, {"error": "Invalid username or password."})
            return False
        if repository not in self.hub.private or (self.hub.private[repository] and not known):
            self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return False
        return True

    def _at(self, repository: str, revision: str | None) -> tuple[str, dict[str, bytes]] | None:
        for digest, files in reversed(self.hub.commits.get(repository, [])):
            if revision in (None, "main", digest):
                return digest, files
        self._answer(404, {"error": "no such revision"}, X_Error_Code="RevisionNotFound")
        return None

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
            return
        private = asked.get("private")
        self.hub.private[name] = (
            asked.get("visibility") == "private" if private is None else private
        )
        self.hub.commits[name] = [("0" * 40, {})]
        self._answer(200, {"url": f"{self.hub.url}/{name}", "id": name, "name": name})

    def _info(self, body: bytes, repository: str, revision: str | None = None) -> None:
        if self._allowed(repository) and (found := self._at(repository, revision)):
            digest, files = found
            self._answer(
                200,
                {
                    "id": repository,
                    "modelId": repository,
                    "sha": digest,
                    "private": self.hub.private[repository],
                    "siblings": [{"rfilename": name} for name in sorted(files)],
                },
            )

    def _tree(self, body: bytes, repository: str, revision: str) -> None:
        if self._allowed(repository) and (found := self._at(repository, revision)):
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": _blob(data)}
                for name, data in sorted(found[1].items())
            ]
            self._answer(200, json.dumps(entries).encode())

    def _preupload(self, body: bytes, repository: str, revision: str) -> None:
        if self._allowed(repository, write=True):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] >= LFS_FROM else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})

    def _batch(self, body: bytes, repository: str) -> None:
        if self._allowed(repository, write=True):
            objects = [
                {**wanted, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}}
                for wanted in json.loads(body)["objects"]
            ]
            self._answer(200, {"transfer": "basic", "objects": objects})

    def _store(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.objects[oid] = body
        self._answer(200)

    def _commit(self, body: bytes, repository: str, revision: str) -> None:
        if not self._allowed(repository, write=True):
            return
        files = {}
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        digest = self.hub.add(repository, files)
        url = f"{self.hub.url}/{repository}/commit/{digest}"
        self._answer(200, {"commitUrl": url, "commitOid": digest, "success": True})

    def _file(self, body: bytes, repository: str, revision: str, name: str) -> None:
        if not (self._allowed(repository) and (found := self._at(repository, revision))):
            return
        digest, files = found
        if name not in files:
            self._answer(404, {"error": "no such file"}, X_Error_Code="EntryNotFound")
            return
        etag = f'"{hashlib.sha256(files[name]).hexdigest()}"'
        self._answer(200, files[name], ETag=etag, X_Repo_Commit=digest)

    def _validate(self, body: bytes) -> None:
        self._answer(200, {"errors": [], "warnings": []})


_REPO = r"(?P<repository>[\w.-]+/[\w.-]+)"
_ROUTES = [
    ("POST", "/api/repos/create", _Handler._create),
    ("POST", "/api/validate-yaml", _Handler._validate),
    ("POST", rf"/api/models/{_REPO}/preupload/(?P<revision>[^/]+)", _Handler._preupload),
    ("POST", rf"/api/models/{_REPO}/commit/(?P<revision>[^/]+)", _Handler._commit),
    ("GET", rf"/api/models/{_REPO}/tree/(?P<revision>[^/]+)/?", _Handler._tree),
    ("GET", rf"/api/models/{_REPO}/revision/(?P<revision>[^/]+)", _Handler._info),
    ("GET", rf"/api/models/{_REPO}", _Handler._info),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler._batch),
    ("PUT", r"/lfs/(?P<oid>\w+)", _Handler._store),
    ("GET", rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", _Handler._file),
]


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def serve() -> Iterator[Hub]:
    """The stand-in on a free port of this machine, for as long as the block runs."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
