"""`python3 -m workflow serve` as a command: what it refuses, and that a signal ends it."""

import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest
from conftest import GPT_TINY, ROOT
from forks import free_port

from workflow.cli.main import main
from workflow.runs.mount import Mount


def test_other_machines_need_a_key(
    mount: Mount, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["serve", "--mount", str(mount.root), "small", "--host", "0.0.0.0"]
    assert main(words) == 2
    assert capsys.readouterr().err == (
        "--host: 0.0.0.0, which other machines reach (expected a key that requests must have). "
        "Hint: add --api_key_env NAME, or --no_auth to serve anyone.\n"
    )
    monkeypatch.delenv("KEY", raising=False)
    assert main([*words, "--api_key_env", "KEY"]) == 2
    assert "--api_key_env KEY: not set" in capsys.readouterr().err


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_a_model_that_does_not_exist_is_reported(
    mount: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--mount", str(mount.root), "./nothing"]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_a_port_in_use_is_reported_before_the_model_is_loaded(
    mount: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        assert main(["serve", "--mount", str(mount.root), "nothing", "--port", str(port)]) == 2
    assert capsys.readouterr().err == (
        f"--port {port}: address already in use on 127.0.0.1 (expected a free port). Hint: stop "
        "what listens there, or choose another --port or --host.\n"
    )


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_a_served_model_answers_until_a_signal_ends_it(mount: Mount) -> None:
    (mount.models / "gpt").symlink_to(GPT_TINY)
    port = free_port()
    command = [sys.executable, "-m", "workflow", "serve", "gpt", "--mount", str(mount.root),
               "--port", str(port)]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(600):
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.1)
        asked = {"prompt": "add one: 4", "max_tokens": 4}
        answer = httpx.post(f"http://127.0.0.1:{port}/predict", json=asked, timeout=60)
        assert list(answer.json()) == ["answer"]
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGTERM)
        assert "add one" not in errors and "Traceback" not in errors
