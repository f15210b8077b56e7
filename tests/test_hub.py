"""A hub's model by a real HTTP client: from a server on this machine, then from the disk."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from conftest import make_t5, write_hub_folder
from huggingface_hub import constants

from workflow.errors import BadInput
from workflow.hub import fetch_settings, fetch_weights, load_config, load_tokenizer
from workflow.models import load_model

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])  # and no other

NAME = "google/flan-t5-xl"
FIRST, SECOND = "0123abcd" * 5, "4567cdef" * 5


@dataclass
class Hub:
    """A hub of one model, and what was asked of it.

    Attributes:
        commit: what the hub's main branch is.
    """

    folder: Path
    commit: str = FIRST
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[bytes, dict[str, str]] | None:
        """The body and the headers of an answer; None where there is no such page."""
        files = {file.name: file for file in self.folder.iterdir()}
        where = path.split("?")[0].removeprefix("/")
        if where == f"api/models/{NAME}/revision/main":
            return json.dumps({"id": NAME, "sha": self.commit}).encode(), {}
        commit = next((known for known in (FIRST, SECOND) if f"/{known}" in where), FIRST)
        if where == f"api/models/{NAME}/tree/{commit}":
            listed = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": f"{name}-1"}
                for name, file in files.items()
            ]
            return json.dumps(listed).encode(), {"Content-Type": "application/json"}
        name = where.removeprefix(f"{NAME}/resolve/{commit}/")
        if name in files:
            return files[name].read_bytes(), {"ETag": f'"{name}-1"', "X-Repo-Commit": commit}
        return None


def serve(hub: Hub) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            body, headers = hub.answer(self.path) or (b"", {"X-Error-Code": "EntryNotFound"})
            self.send_response(200 if body else 404)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_GET = do_HEAD = answer  # noqa: N815 - the names that http.server calls

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(params=["safetensors", "sharded-bin"])
def hub(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Hub, ThreadingHTTPServer]]:
    """A hub that is reached, and an empty cache; the server may be closed meanwhile."""
    made = Hub(write_hub_folder(make_t5(), tmp_path / "hub", request.param))
    server = serve(made)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    address = f"http://127.0.0.1:{server.server_port}"
    template = address + constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    yield made, server
    close(server)


def close(server: ThreadingHTTPServer) -> None:
    server.shutdown()
    server.server_close()


def load() -> None:
    """All that a job loads of a model."""
    folder = fetch_settings(NAME)
    load_config(folder, len(load_tokenizer(folder)))
    assert fetch_weights(NAME) == folder
    loaded, original = load_model(folder), make_t5()
    assert torch.equal(loaded.lm_head.weight, original.lm_head.weight)


def test_what_is_on_disk_is_not_asked_for(hub: tuple[Hub, ThreadingHTTPServer]) -> None:
    made, _ = hub
    load()
    bodies = [line for line in made.asked if line.startswith("GET") and "/resolve/" in line]
    assert len(bodies) == len(set(bodies)) == len(list(made.folder.iterdir()))
    made.asked.clear()
    load()
    assert made.asked == []


@pytest.mark.parametrize("offline", [True, False])
def test_with_the_hub_gone_what_is_on_disk_loads(
    hub: tuple[Hub, ThreadingHTTPServer], offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, server = hub
    load()
    close(server)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    began = time.perf_counter()
    load()
    assert time.perf_counter() - began < 3


def test_weights_are_of_the_settings_commit(hub: tuple[Hub, ThreadingHTTPServer]) -> None:
    made, _ = hub
    settings = fetch_settings(NAME)
    made.commit = SECOND
    assert fetch_weights(NAME) == settings
    assert list(settings.glob("*.safetensors")) or list(settings.glob("*.bin"))


def test_what_is_lacking_is_fetched_and_offline_told(
    hub: tuple[Hub, ThreadingHTTPServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = hub
    folder = fetch_settings(NAME)
    (folder / "config.json").unlink()
    made.asked.clear()
    assert fetch_settings(NAME) == folder
    assert (folder / "config.json").is_file()
    assert [line for line in made.asked if "/resolve/" in line and "config.json" not in line] == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BadInput, match=f"model {NAME}: found no such local folder, and the hub"):
        fetch_weights(NAME)
