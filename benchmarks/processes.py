"""Commands in separate processes: runs, worlds of jobs, and their memory."""

import ctypes
import gc
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import ROOT

EVERY = 0.004
"""Seconds between two looks at the processes."""


class Failed(SystemExit):
    """A process ended badly: what it said at last, which is printed where nobody catches this."""


def seq2seq(mount: Path, model: str, data: str, *words: str) -> list[str]:
    """The command of a run named `run`."""
    return [
        sys.executable, str(ROOT / "seq2seq.py"), "--mount", str(mount), "--model_init_name", model,
        "--data_name", data, "--training_run_name", "run", "--overwrite_output_dir", *words,
    ]  # fmt: skip


def run_jobs(
    mount: Path, jobs: Sequence[Mapping[str, Any]], processes: int = 1, threads: int = 1
) -> list[float]:
    """Run jobs, one after the other, in one world on this machine's CPU: as run_together."""
    listed = mount / "jobs.json"
    listed.write_text(json.dumps(jobs))
    script = ROOT / "benchmarks" / "several_jobs.py"
    command = [sys.executable, str(script), str(mount), str(listed)]
    return run_together(command, environments(processes, threads))


def environments(processes: int, threads: int = 1) -> list[dict[str, str]]:
    """One for each process of a world on the CPU, offline; a single process is in no world."""
    alone = environment_alone() | {
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": str(threads),
    }
    if processes == 1:
        return [alone]
    shared = alone | {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def environment_alone() -> dict[str, str]:
    """This process's environment, offline and outside of any world."""
    world = ("RANK", "WORLD_SIZE", "MASTER_", "LOCAL_", "ACCELERATE_", "WORKFLOW_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(world)}
    return kept | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def run_together(
    command: Sequence[str], places: Sequence[Mapping[str, str]], limit: float = math.inf
) -> list[float]:
    """Run a command once in each environment, all at once and silently, until all have ended.

    Returns:
        The peak of each process, as watch finds it.

    Raises:
        Failed: one ended badly, or not within the limit in seconds; the others are ended, too.
    """
    with ExitStack() as stack:
        words = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in places]
        running = [
            subprocess.Popen(
                command, cwd=ROOT, env=place, stdout=file, stderr=file, start_new_session=True
            )
            for place, file in zip(places, words, strict=True)
        ]
        try:
            peaks = watch(running, limit)
            states = [process.poll() for process in running]
        finally:
            for process in running:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        if bad := [file for state, file in zip(states, words, strict=True) if state]:
            bad[0].seek(0)
            raise Failed(bad[0].read()[-4000:])
    if None in states:
        raise Failed(f"no end in {limit:g} s")
    return peaks


def watch(running: Sequence[subprocess.Popen[Any]], limit: float = math.inf) -> list[float]:
    """The most bytes each process held; returns when all have ended, one badly, or too late."""
    most = [0.0] * len(running)
    end = time.monotonic() + limit
    while None in (states := [process.poll() for process in running]):
        if any(states) or time.monotonic() > end:
            break
        most = [max(peak, _held(process.pid)) for peak, process in zip(most, running, strict=True)]
        time.sleep(EVERY)
    return most


def _held(process: int) -> float:
    """Bytes of a process that no file backs; 0 where it has ended."""
    try:
        return status_bytes(process, "RssAnon", "RssShmem")
    except OSError:
        return 0.0


def status_bytes(process: int | str, *names: str) -> float:
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return sum(1024.0 * int(text.split()[1]) for text in lines if text.startswith(names))


class OwnMemory:
    """The peak of this process's memory above what it held when this was made.

    That of the GPU where there is one, else resident memory, whose peak Linux can reset (proc(5)).
    """

    def __init__(self) -> None:
        import torch

        self._gpu = torch.cuda if torch.cuda.is_available() else None
        gc.collect()
        if self._gpu is not None:
            self._gpu.reset_peak_memory_stats()
            self._before = float(self._gpu.memory_allocated())
            return
        ctypes.CDLL(None).malloc_trim(0)  # memory that is freed but kept would hide what is new
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._before = status_bytes("self", "VmRSS")

    def more_gb(self) -> float:
        gpu = self._gpu
        held = float(gpu.max_memory_allocated()) if gpu else status_bytes("self", "VmHWM")
        return (held - self._before) / 1e9
