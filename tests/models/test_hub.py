"""A hub model by a real HTTP client: from a local server, then from the cache."""

import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
import torch
from conftest import make_t5, write_hub_folder
from hub_server import NAME, SECOND, Hub, close, serve
from huggingface_hub import constants

from workflow.core.errors import BadInput
from workflow.models.hub import fetch_settings, fetch_weights, load_config, load_tokenizer
from workflow.models.loading import load_model

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])  # and no other


@pytest.fixture(params=["safetensors", "sharded-bin"])
def hub(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Hub, ThreadingHTTPServer]]:
    """A reachable hub and an empty cache; tests may close the server."""
    made = Hub(write_hub_folder(make_t5(), tmp_path / "hub", request.param))
    server = serve(made, monkeypatch, tmp_path / "cache")
    yield made, server
    close(server)


def load() -> None:
    """Load all parts of a model."""
    folder = fetch_settings(NAME)
    load_config(folder, len(load_tokenizer(folder)))
    assert fetch_weights(NAME) == folder
    loaded, original = load_model(folder), make_t5()
    assert torch.equal(loaded.lm_head.weight, original.lm_head.weight)


def test_cached_files_are_not_requested(hub: tuple[Hub, ThreadingHTTPServer]) -> None:
    made, _ = hub
    load()
    assert sorted(made.fetched()) == sorted(made.files())
    made.asked.clear()
    load()
    assert made.asked == []


@pytest.mark.parametrize("offline", [True, False])
def test_cached_files_load_without_the_hub(
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


def test_missing_files_are_fetched_and_reported_offline(
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
    with pytest.raises(BadInput, match=f"model {NAME}: no local folder, and the download failed: "):
        fetch_weights(NAME)


def test_a_broken_connection_is_reported(
    hub: tuple[Hub, ThreadingHTTPServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: object, **__: object) -> None:
        raise httpx2.RemoteProtocolError("peer closed connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(BadInput, match="the download failed: peer closed connection"):
        fetch_settings(NAME)
