"""Processes that start instantly: forks of one that has imported what every job imports.

Importing torch, transformers and DeepSpeed takes three to five seconds, longer than most tests
need. A fork is still a separate process, with its own environment, signals and output, but it does
not start like a command: tests of that use real ones.
"""

import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from multiprocessing import connection, forkserver
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from tempfile import mkdtemp
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent
CONTEXT = multiprocessing.get_context("forkserver")


class Fork:
    """A call in a process of its own, on one thread, and in this process's environment if no other.

    As a subprocess.Popen whose output is text; it is all there once the process has ended.
    """

    def __init__(
        self, function: Callable[..., object], *given: Any, folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ):  # fmt: skip
        self.args = given
        self._output = Path(mkdtemp(prefix="fork-"))
        self._said: tuple[str, str] | None = None
        names = dict(os.environ if environment is None else environment)
        start_server()
        self._process = CONTEXT.Process(
            target=_call, args=(function, given, names, folder or Path.cwd(), self._output)
        )
        self._process.start()

    def __enter__(self) -> "Fork":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.communicate()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float = 60) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise TimeoutExpired(str(self.args), timeout)
        return self.returncode

    def communicate(self, timeout: float = 60) -> tuple[str, str]:
        self.wait(timeout)
        if self._said is None:
            self._said = ((self._output / "out").read_text(), (self._output / "err").read_text())
            shutil.rmtree(self._output)
        return self._said

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def finish(forks: Iterable[Fork], seconds: float = 250) -> list[CompletedProcess[str]]:
    """What forks ended with, and said; the first that fails has the others a while to end too."""
    forks = list(forks)
    last = time.monotonic() + seconds
    while live := [fork for fork in forks if fork.poll() is None]:
        if any(fork.poll() for fork in forks):
            last = min(last, time.monotonic() + 20)
        if not connection.wait([fork._process.sentinel for fork in live], last - time.monotonic()):
            for fork in live:
                fork.kill()
                fork.wait()
    return [CompletedProcess(fork.args, fork.wait(), *fork.communicate()) for fork in forks]


def places(size: int) -> list[dict[str, str]]:
    """The environments that make a world of so many processes."""
    port = str(free_port())
    return [
        {
            **os.environ, "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }
        for rank in range(size)
    ]  # fmt: skip


def free_port() -> int:
    """Of a fork, for this process may open no socket."""
    fork = Fork(_tell_free_port)
    return int(fork.communicate()[0])


def run_script(path: Path | str, *words: str) -> None:
    """Run a script as `python3 path words` does."""
    sys.argv[:] = [str(path), *words]
    sys.path.insert(0, str(Path(path).parent))
    runpy.run_path(str(path), run_name="__main__")


def start_server() -> None:
    """Start the process that forks, where there is none yet; on a CPU, for CUDA does not fork."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CUDA_VISIBLE_DEVICES", "")
        patched.setenv("OMP_NUM_THREADS", "1")
        patched.setenv("PYTHONPATH", os.pathsep.join((str(TESTS), str(TESTS.parent))))
        CONTEXT.set_forkserver_preload(["forks_imports"])
        forkserver.ensure_running()


def _call(
    function: Callable[..., object], given: tuple[Any, ...], names: dict[str, str], folder: Path,
    output: Path,
) -> None:  # fmt: skip
    assert "forks_imports" in sys.modules, "the server could not import what it is for"
    os.environ.clear()
    os.environ.update(names)
    os.chdir(folder)
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(output / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    function(*given)


def _tell_free_port() -> None:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        print(found.getsockname()[1])
