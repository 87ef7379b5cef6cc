"""An HTTP server that answers like the hub: repositories at commits, listings, files with their digests, and refusals.

Point ``HF_ENDPOINT`` at ``url``. What it was asked for is in ``asked``.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

LARGE_FILES = (".safetensors", ".bin")


@dataclass(kw_only=True)
class Repository:
    """One repository of the hub."""

    files: dict[str, bytes]
    gated: bool = False
    """The listing is public, the files are not."""
    forbidden: bool = False
    """Even the listing is refused, with 403."""
    sent: dict[str, bytes] = field(default_factory=dict)
    """What is sent in place of a file's bytes: damage on the way."""
    broken: bool = False
    """Every answer is 500."""

    @classmethod
    def of_folder(cls, folder: Path) -> Repository:
        paths = [path for path in folder.rglob("*") if path.is_file()]
        return cls(files={path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})

    @property
    def commit(self) -> str:
        """Changes with the files."""
        digest = hashlib.sha1(usedforsecurity=False)
        for name, content in sorted(self.files.items()):
            digest.update(name.encode() + b"\0" + content)
        return digest.hexdigest()

    def listing(self) -> list[dict[str, object]]:
        return [self._listed(name, content) for name, content in sorted(self.files.items())]

    def _listed(self, name: str, content: bytes) -> dict[str, object]:
        entry: dict[str, object] = {"type": "file", "path": name, "size": len(content), "oid": git_digest(content)}
        if name.endswith(LARGE_FILES):
            entry["lfs"] = {"oid": etag(name, content), "size": len(content), "pointerSize": 130}
        return entry


def git_digest(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def etag(name: str, content: bytes) -> str:
    """SHA-256 for large files, git's digest for the others."""
    return hashlib.sha256(content).hexdigest() if name.endswith(LARGE_FILES) else git_digest(content)


@dataclass
class HubServer:
    """The running server's address, its repositories by ``org/name``, and what was asked."""

    url: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@contextmanager
def running_hub() -> Iterator[HubServer]:
    """A hub on a free port of this machine, until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = HubServer(f"http://127.0.0.1:{server.server_address[1]}")
    _Handler.hubs[server.server_address[1]] = hub
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        del _Handler.hubs[server.server_address[1]]


class _Handler(BaseHTTPRequestHandler):
    hubs: ClassVar[dict[int, HubServer]] = {}
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name is the library's)
        pass

    @property
    def _hub(self) -> HubServer:
        return self.hubs[self.server.server_address[1]]  # type: ignore[index]  # of a TCP server it is (host, port)

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self._hub.asked.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            self._api("/".join(parts[2:4]), parts[4:])
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._refuse(404, "", "no such page")

    def _repository(self, name: str) -> Repository | None:
        repository = self._hub.repositories.get(name)
        if repository is None:
            # The hub says 401 to whoever did not log in, as if the repository might be there.
            self._refuse(401, "RepoNotFound", "Invalid username or password.")
        elif repository.broken:
            self._refuse(500, "", "internal error")
        elif repository.forbidden:
            self._refuse(403, "", "not for you")
        else:
            return repository
        return None

    def _api(self, name: str, rest: list[str]) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in {"main", repository.commit}:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif rest[:1] == ["tree"]:
            self._send_json(repository.listing())
        else:
            self._send_json({"id": name, "sha": repository.commit, "private": False, "siblings": []})

    def _file(self, name: str, revision: str, file: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        if repository.gated:
            self._refuse(403, "GatedRepo", f"Access to model {name} is restricted")
        elif revision not in {"main", repository.commit}:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif file not in repository.files:
            self._refuse(404, "EntryNotFound", "Entry not found")
        else:
            content = repository.files[file]
            sent = content if self.command == "HEAD" else repository.sent.get(file, content)
            headers = {"ETag": f'"{etag(file, content)}"', "X-Repo-Commit": repository.commit}
            self._send(200, sent, headers)

    def _refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
