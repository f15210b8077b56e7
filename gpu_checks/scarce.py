"""seq2seq.py with little memory left when the largest micro-batch is tried."""

import resource
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import workflow.training.loop
from workflow.cli.run import main

LOOP: Any = workflow.training.loop

LEFT = 100_000_000
"""Bytes that the process may still take."""


def limit_memory() -> None:
    """Let this process take LEFT bytes more of its device than it has."""
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + LEFT) / total)
    else:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + LEFT
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def probe_memory(*arguments: Any, probe: Any = LOOP.probe_memory) -> None:
    """Limit the memory, then try the largest micro-batch."""
    limit_memory()
    probe(*arguments)


if __name__ == "__main__":
    LOOP.probe_memory = probe_memory
    sys.exit(main("seq2seq", ""))
