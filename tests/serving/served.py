"""A server in this process, on a free port of this machine."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import uvicorn
from forks import free_port

from workflow.runs.mount import Mount
from workflow.serving.app import make_app
from workflow.serving.limits import Limits
from workflow.serving.model import ServedModel, load_adapters, load_served
from workflow.serving.server import Server

LIMITS = Limits(
    rows=4, queue=32, tokens=64, prompt=200, body=1 << 20, seconds=60, api_key=None
)  # fmt: skip


@dataclass(frozen=True)
class Running:
    """A running server."""

    url: str
    server: Server

    @property
    def model(self) -> ServedModel:
        """The first model."""
        return self.server.models[self.server.name]

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, timeout=60, **options)


@contextmanager
def serving(
    mount: Mount, name: str, adapters: Mapping[str, str] | None = None, **limits: Any
) -> Iterator[Running]:
    """Serve a model of a mount, and adapters of it by name, while the block runs."""
    bound = replace(LIMITS, **limits)
    model = load_served(name, mount, bf16=False)
    server = Server.of([model, *load_adapters(adapters or {}, model, mount)], bound)
    port = free_port()
    config = uvicorn.Config(make_app(server), host="127.0.0.1", port=port, log_level="warning")
    web = uvicorn.Server(config)
    thread = threading.Thread(target=web.run, daemon=True)
    thread.start()
    while not web.started:
        assert thread.is_alive()
        time.sleep(0.02)
    try:
        yield Running(f"http://127.0.0.1:{port}", server)
    finally:
        web.should_exit = True
        thread.join()
