"""A server on the loopback interface that answers as the hub does: what a model is, its files, redirects, refusals.

Small files are sent by the server itself behind a relative redirect, those of LFS by another origin, as the hub does
it. A body can be broken off or held, and every request is noted.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

REFUSED = f"[Errno {errno.ECONNREFUSED}] {os.strerror(errno.ECONNREFUSED)}"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LFS = (".safetensors", ".bin", "tokenizer.model")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a client asked: `what` is a file's name, or "info" or "tree"."""

    method: str
    what: str
    start: int = 0
    """Where the range begins."""
    has_token: bool = False


@dataclass(kw_only=True)
class Repository:
    files: dict[str, bytes]
    revisions: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    """Commits by their branches and tags."""
    is_gated: bool = False


@dataclass(kw_only=True)
class Hub:
    port: int = 0
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    breaks: dict[str, int] = field(default_factory=dict)
    """At which byte the bodies of files break off, each time."""
    holds: dict[str, int] = field(default_factory=dict)
    """At which byte the bodies of files stand still, as long as the hub lives."""
    mangled: dict[str, bytes] = field(default_factory=dict)
    """What is sent in the place of files."""
    hang_ups: set[str] = field(default_factory=set)
    """Files whose next HEAD is answered by a closed connection."""
    status: int = 0
    """Answered to everything, unless 0."""
    has_ranges: bool = True
    is_silent: bool = False
    """Requests are taken and never answered."""
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What sends a process here."""
        return {"HF_ENDPOINT": self.url, "HF_HUB_OFFLINE": "0"}

    def add(self, model: str, folder: Path, *, is_gated: bool = False, without: tuple[str, ...] = ()) -> Repository:
        """Offers the files of a folder under a model's name."""
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name not in without}
        self.repositories[model] = Repository(files=files, is_gated=is_gated)
        return self.repositories[model]

    def bodies(self) -> list[tuple[str, int]]:
        """(name, first byte) of each file that was asked for since the last call."""
        asked = [(each.what, each.start) for each in self.requests if each.method == "GET" and "." in each.what]
        self.requests.clear()
        return asked


@contextmanager
def open_hub() -> Iterator[Hub]:
    """A hub without any model, in threads of its own."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield hub
    finally:
        hub.over.set()
        server.shutdown()
        server.server_close()


def etag_of(name: str, body: bytes) -> str:
    """SHA-256 for what LFS keeps, git's own for the rest."""
    if name.endswith(LFS):
        return hashlib.sha256(body).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.hub.is_silent:
            self.hub.over.wait()
        elif self.hub.status:
            self._send(self.hub.status, b"{}")
        else:
            self._answer(unquote(urlsplit(self.path).path))

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, path: str) -> None:
        if found := re.fullmatch(r"/(cdn|api/resolve-cache)/(.+)/([0-9a-f]+)/([^/]+)", path):
            self._send_file(found[2], found[4])
        elif found := re.fullmatch(r"/api/models/(.+?)(?:/(revision|tree)/(.+))?", path):
            self._describe(found[1], found[2], found[3] or "main")
        elif found := re.fullmatch(r"/(.+)/resolve/(.+)/([^/]+)", path):
            self._resolve(found[1], found[2], found[3])
        else:
            self._refuse(404, "RepoNotFound")

    def _describe(self, model: str, kind: str | None, revision: str) -> None:
        self._note("tree" if kind == "tree" else "info")
        repository, commit = self._found(model, revision)
        if not repository or not commit:
            return
        if kind == "tree":
            told: object = [_entry(name, body) for name, body in repository.files.items()]
        else:
            siblings = [{"rfilename": name} for name in repository.files]
            told = {"id": model, "sha": commit, "gated": repository.is_gated and "manual", "siblings": siblings}
        # What the hub says to whoever has no token:
        self._send(200, json.dumps(told).encode(), X_HF_Warning="unauthenticated; Please set a HF_TOKEN")

    def _resolve(self, model: str, revision: str, name: str) -> None:
        """Where a file is; its size and ETag come along."""
        if self.command == "HEAD" and name in self.hub.hang_ups:
            self.hub.hang_ups.remove(name)
            self.close_connection = True
            return
        if self.command == "HEAD":
            self._note(name)
        repository, commit = self._found(model, revision)
        if not repository or not commit:
            return
        if repository.is_gated:
            self._refuse(401, "GatedRepo")
            return
        body = repository.files.get(name)
        if body is None:
            self._refuse(404, "EntryNotFound", X_Repo_Commit=commit)
            return
        is_lfs = name.endswith(LFS)
        linked = {"X_Linked_Etag": f'"{etag_of(name, body)}"', "X_Linked_Size": str(len(body))}
        origin = f"http://localhost:{self.hub.port}/cdn" if is_lfs else "/api/resolve-cache"
        self._send(
            302 if is_lfs else 307,
            b"",
            X_Repo_Commit=commit,
            Location=f"{origin}/{model}/{commit}/{name}",
            **(linked if is_lfs else {}),
        )

    def _send_file(self, model: str, name: str) -> None:
        right = self.hub.repositories[model].files[name]
        body = self.hub.mangled.get(name, right)
        start = 0
        if self.hub.has_ranges and (found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))):
            start = int(found[1])
        if self.command == "GET":
            self._note(name, start)
        headers = {"ETag": f'"{etag_of(name, right)}"', "X_Repo_Commit": COMMIT}
        if start:
            headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        end = self.hub.breaks.get(name, self.hub.holds.get(name))
        most = None if end is None else max(0, end - start)
        self._send(206 if start else 200, body[start:], most=most, **headers)
        if name in self.hub.breaks and self.command == "GET":
            self.close_connection = True
        elif name in self.hub.holds and self.command == "GET":
            self.hub.over.wait()

    def _found(self, model: str, revision: str) -> tuple[Repository | None, str | None]:
        repository = self.hub.repositories.get(model)
        if repository is None:
            self._refuse(401, "RepoNotFound")
            return None, None
        revisions = repository.revisions
        commit = revision if revision in revisions.values() else revisions.get(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound")
        return repository, commit

    def _refuse(self, status: int, code: str, **headers: str) -> None:
        self._send(status, b'{"error": "No."}', X_Error_Code=code, **headers)

    def _send(self, status: int, body: bytes, *, most: int | None = None, **headers: str) -> None:
        """Answers, with at most so many bytes of the body."""
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:most])
            self.wfile.flush()

    def _note(self, what: str, start: int = 0) -> None:
        has_token = "Authorization" in self.headers
        self.hub.requests.append(Request(method=self.command, what=what, start=start, has_token=has_token))


def _entry(name: str, body: bytes) -> dict[str, object]:
    """As the hub lists a file."""
    lfs = {"lfs": {"oid": etag_of(name, body), "size": len(body), "pointerSize": 134}} if name.endswith(LFS) else {}
    return {"type": "file", "path": name, "size": len(body), "oid": "0" * 40 if lfs else etag_of(name, body), **lfs}


def put_into(cache: Path, model: str, files: dict[str, str]) -> Path:
    """Lays files into the cache as the hub's own library does."""
    repository = cache / f"models--{model.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for name, text in files.items():
        (snapshot / name).write_text(text)
    return snapshot
