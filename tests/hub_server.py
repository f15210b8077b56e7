"""A local hub with one model, for a real HTTP client; it can be made to fail."""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.utils.sha import git_hash

NAME = "google/flan-t5-xl"
FIRST, SECOND = "0123abcd" * 5, "4567cdef" * 5
LARGE = (".safetensors", ".bin", ".msgpack")
"""Files that a hub keeps outside git, by their SHA-256."""

Headers = dict[str, str]


@dataclass
class Hub:
    """A hub of one model, and what was asked of it.

    Attributes:
        commit: what the hub's main branch is.
        refused: the status, and the hub's word for it, of all that is asked for.
        refused_files: the same for files only, which can be listed nevertheless.
        flipped: a file whose last byte arrives changed.
        broken: a file in whose middle the connection breaks; then the hub has an error.
    """

    folder: Path
    commit: str = FIRST
    asked: list[str] = field(default_factory=list)
    refused: tuple[int, str] | None = None
    refused_files: tuple[int, str] | None = None
    flipped: str | None = None
    broken: str | None = None

    def files(self) -> dict[str, Path]:
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path for path in sorted(found)}

    def fetched(self) -> list[str]:
        """The names of the files whose content was asked for."""
        return [
            line.rpartition("/")[2]
            for line in self.asked
            if line.startswith("GET") and "/resolve/" in line
        ]

    def answer(self, path: str) -> tuple[int, bytes, Headers]:
        """The status, the body and the headers of an answer."""
        where = path.split("?")[0].removeprefix("/")
        refused = self.refused or (self.refused_files if "/resolve/" in where else None)
        if refused:
            return refused[0], b"", {"X-Error-Code": refused[1]}
        commit = next((known for known in (FIRST, SECOND) if f"/{known}" in where), FIRST)
        files = self.files()
        if where == f"api/models/{NAME}/revision/main":
            siblings = [_sibling(name, file.read_bytes()) for name, file in files.items()]
            return _json({"id": NAME, "sha": self.commit, "siblings": siblings})
        if where == f"api/models/{NAME}/tree/{commit}":
            return _json([_entry(name, file.read_bytes()) for name, file in files.items()])
        name = where.removeprefix(f"{NAME}/resolve/{commit}/")
        if name not in files:
            return 404, b"", {"X-Error-Code": "EntryNotFound"}
        body = files[name].read_bytes()
        headers = {"ETag": f'"{_digest(name, body)}"', "X-Repo-Commit": commit}
        return 200, _flip(body) if name == self.flipped else body, headers

    def breaks(self, path: str) -> bool:
        return self.broken is not None and path.endswith(f"/{self.broken}")


def _json(value: Any) -> tuple[int, bytes, Headers]:
    return 200, json.dumps(value).encode(), {"Content-Type": "application/json"}


def _digest(name: str, body: bytes) -> str:
    return hashlib.sha256(body).hexdigest() if name.endswith(LARGE) else git_hash(body)


def _sibling(name: str, body: bytes) -> dict[str, Any]:
    """A file as a model's description has it."""
    found = {"rfilename": name, "size": len(body), "blobId": git_hash(body)}
    if name.endswith(LARGE):
        found["lfs"] = {"sha256": _digest(name, body), "size": len(body), "pointerSize": 135}
    return found


def _entry(name: str, body: bytes) -> dict[str, Any]:
    """A file as a folder's listing has it."""
    found = {"type": "file", "path": name, "size": len(body), "oid": git_hash(body)}
    if name.endswith(LARGE):
        found["lfs"] = {"oid": _digest(name, body), "size": len(body), "pointerSize": 135}
    return found


def _flip(body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1])


def serve(hub: Hub, monkeypatch: pytest.MonkeyPatch, cache: Path) -> ThreadingHTTPServer:
    """Start a hub, and let the hub's library reach it, with a cache of its own."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            status, body, headers = hub.answer(self.path)
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                if hub.breaks(self.path):
                    hub.refused = (500, "Broken")
                    body = body[: len(body) // 2]
                self.wfile.write(body)

        do_GET = do_HEAD = answer  # noqa: N815 - the names that http.server calls

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    address = f"http://127.0.0.1:{server.server_port}"
    template = address + constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    return server


def close(server: ThreadingHTTPServer) -> None:
    server.shutdown()
    server.server_close()
