"""How a run was started: machine, versions and command."""

import os
import platform
import socket
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch

from workflow import __version__

PACKAGES = ("torch", "transformers", "deepspeed", "tokenizers", "numpy")


def describe_start(step: int, processes: int, command: Sequence[str]) -> dict[str, Any]:
    """A line of starts.jsonl, for a start at `step`.

    Args:
        command: the command line; empty if a program started the run.
    """
    return {
        "step": step,
        "time": time.time(),
        "command": [word.encode("utf-8", "backslashreplace").decode() for word in command],
        "host": socket.gethostname(),
        "job_id": os.environ.get("SLURM_JOB_ID"),
        "processes": processes,
        "device": _device(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "workflow": __version__,
        **{name: version(name) for name in PACKAGES},
    }


def _device() -> str:
    """The GPUs of this machine, e.g. 8 × NVIDIA H100, else its processor."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    return _processor() or platform.machine()


def _processor() -> str | None:
    """The processor's name by Linux; None elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, None)
