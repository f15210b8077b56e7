"""What a server survives: clients of all kinds, signals, and what it does not serve."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import GPT_TINY, ROOT, make_mount, write_data
from forks import free_port
from served import serving

from workflow import make_job, run_job
from workflow.cli.main import main
from workflow.runs.mount import Mount

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
ASKED = {"prompt": "add one: 4", "max_tokens": 60, "temperature": 0, "logit_bias": {"2": -100}}
"""An answer of 60 tokens: the end token is not taken."""


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Mount:
    mount = make_mount(tmp_path_factory.mktemp("served"))
    shutil.copytree(GPT_TINY, mount.models / "gpt")
    return mount


@contextlib.contextmanager
def command(mount: Mount, port: int, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`serve` as a process, from when it is ready."""
    line = [sys.executable, "-m", "workflow", "serve", "gpt", "--mount", str(mount.root),
            "--port", str(port), *words]  # fmt: skip
    with subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            for _ in range(600):
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                        break
                assert process.poll() is None
                time.sleep(0.1)
            else:
                raise AssertionError("the server is not ready")
            yield process
        finally:
            process.kill()


def test_clients_that_hang_up_change_no_other_answer(mount: Mount) -> None:
    with serving(mount, "gpt") as running:
        url = f"{running.url}/v1/completions"
        expected = {
            seed: httpx.post(url, json=ASKED | {"seed": seed, "temperature": 1}).json()
            for seed in range(6)
        }

        def leave(number: int) -> None:
            body = ASKED | {"stream": True, "seed": number}
            with httpx.stream("POST", url, json=body, timeout=60) as response:
                lines = response.iter_lines()
                for _ in range(random.Random(number).randrange(1, 9)):
                    next(lines)

        def ask(seed: int) -> Any:
            return httpx.post(url, json=ASKED | {"seed": seed, "temperature": 1}, timeout=60).json()

        with ThreadPoolExecutor(8) as threads:
            leaving = [threads.submit(leave, number) for number in range(20)]
            found = {seed: threads.submit(ask, seed) for seed in expected}
            for one in leaving:
                one.result()
            for seed, answer in expected.items():
                assert found[seed].result()["choices"] == answer["choices"]
        engine = running.server.engine
        assert engine is not None
        last = time.monotonic() + 30
        while engine.running or engine.waiting:
            assert time.monotonic() < last
            time.sleep(0.02)


def test_a_thousand_connections_and_slow_clients_keep_nobody_waiting(mount: Mount) -> None:
    """Idle ones, half a request, and a stream that is not read."""
    with serving(mount, "gpt") as running, contextlib.ExitStack() as stack:
        address = ("127.0.0.1", int(running.url.rpartition(":")[2]))

        def connect(sent: bytes) -> socket.socket:
            one = stack.enter_context(socket.create_connection(address))
            one.sendall(sent)
            return one

        for _ in range(1000):
            connect(b"")
        head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        for part in (b"POST /pre", head, head + b"Content-Length: 999\r\n\r\n{"):
            connect(part)
        body = json.dumps(ASKED | {"stream": True}).encode()
        connect(head.replace(b"/predict", b"/v1/completions")
                + b"Content-Length: %d\r\n\r\n" % len(body) + body)  # fmt: skip
        began = time.monotonic()
        assert running.post("/predict", {"prompt": "a", "max_tokens": 2}).status_code == 200
        assert time.monotonic() - began < 10


def test_bodies_that_are_no_requests_are_refused(mount: Mount) -> None:
    with serving(mount, "gpt", body=10 << 20) as running:
        large = json.dumps({"prompt": "a" * (10 << 20)})
        deep = "[" * 100_000 + "]" * 100_000
        for body, status in (
            (large, 413), (large[: 9 << 20] + '"}', 400), (deep, 400), (b"\xff\xfe{", 400),
            ("", 400),
            ('{"prompt": "a", "max_tokens": 1e999}', 400), ('{"prompt": "a", "seed": 0.5}', 400),
            ('{"prompt": []}', 400), ('{"prompt": "a", "logit_bias": {"x": 1}}', 400),
        ):  # fmt: skip
            found = httpx.post(
                f"{running.url}/v1/completions", content=body, timeout=60,
                headers={"Content-Type": "application/json"},
            )  # fmt: skip
            assert found.status_code == status, body[:80]
            assert {*found.json()["error"]} == {"message", "type", "param", "code"}
            assert "Traceback" not in found.text and "site-packages" not in found.text
        assert running.post("/predict", {"prompt": "a", "max_tokens": 2}).status_code == 200


def test_a_killed_server_starts_again_and_a_signal_ends_it_in_its_grace_time(mount: Mount) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with command(mount, port) as process:
        os.kill(process.pid, signal.SIGKILL)
    with command(mount, port, "--grace", "2", "--max_tokens", "400", "--batch", "2") as process:
        cut = []

        def read() -> None:
            body, lines = ASKED | {"max_tokens": 400, "stream": True}, []
            with (
                contextlib.suppress(httpx.HTTPError),
                httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as response,
            ):
                lines = [line for line in response.iter_lines() if line]
            cut.append(lines[-1:] != ["data: [DONE]"])

        readers = [threading.Thread(target=read) for _ in range(40)]
        for reader in readers:
            reader.start()
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, errors = process.communicate(timeout=60)
        assert time.monotonic() - began < 20  # all would take longer
        for reader in readers:
            reader.join(30)
            assert not reader.is_alive()
        assert "Traceback" not in errors and "add one" not in errors
        assert len(cut) == 40 and any(cut)


def test_a_damaged_checkpoint_is_not_served(
    mount: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(
        mount,
        "data",
        [{"prompt": "a", "completion": "b"}] * 9,
        [{"prompt": "c", "completion": "b"}],
    )
    job = make_job(
        "seq2seq", model_init_name="gpt", data_name="data", training_run_name="run", max_steps=1,
        save_steps=1, eval_on_start=False, max_new_tokens=4,
    )  # fmt: skip
    run_job(job, mount)
    capsys.readouterr()
    weights: Path = mount.models / "run/checkpoint-1/model.safetensors"
    held = bytearray(weights.read_bytes())
    held[-100] ^= 1
    weights.write_bytes(held)
    assert main(["serve", "run", "--mount", str(mount.root)]) == 2
    said = capsys.readouterr().err
    assert "model.safetensors" in said and "Traceback" not in said
