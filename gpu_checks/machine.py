"""The machine: its GPUs, its driver, the packages, and how fast it multiplies matrices."""

import os
import platform
import shutil
import subprocess
from importlib import metadata

from benchmarks import ROOT
from benchmarks.publish import matrix_rates
from gpu_checks.place import Failed, Place

PACKAGES = ("torch", "transformers", "deepspeed", "accelerate", "numpy", "triton")
ASKED = "name,driver_version,memory.total,memory.used,power.limit,clocks.max.sm"
"""Of nvidia-smi."""


def machine(place: Place) -> str:
    """What the other figures depend on; fails where CUDA cannot use the GPUs that are there."""
    import torch

    from workflow.distributed.device import problems_of_gpus, usable_gpus

    place.note(
        device=place.device,
        python=platform.python_version(),
        system=platform.platform(),
        cores=os.cpu_count(),
        host_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        disk_gb=round(shutil.disk_usage(place.folder).free / 1e9, 1),
        commit=_told(["git", "rev-parse", "HEAD"]),
        nvidia_smi=_told(["nvidia-smi", f"--query-gpu={ASKED}", "--format=csv,noheader"]),
        cuda=torch.version.cuda,
        **{name: _version(name) for name in PACKAGES},
    )
    if problems := problems_of_gpus(None):
        raise Failed(str(problems[0]))
    if place.device == "cpu":
        return f"no CUDA device, {os.cpu_count()} cores; torch {torch.__version__}"
    if usable_gpus() < place.processes:
        raise Failed(f"--processes: {place.processes} on {usable_gpus()} visible GPUs")
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    rates = {name: round(rate / 1e3, 1) for name, rate in matrix_rates().items()}
    place.note(
        gpus=[
            {"name": gpu.name, "gb": gpu.total_memory / 1e9, "capability": [gpu.major, gpu.minor]}
            for gpu in gpus
        ],
        cudnn=torch.backends.cudnn.version(),
        nccl=list(torch.cuda.nccl.version()),
        teraflops=rates,
    )
    return (
        f"{len(gpus)} × {gpus[0].name}; matrix rate {rates['fp32']} TFLOP/s in fp32, "
        f"{rates['bf16']} in bf16; torch {torch.__version__}"
    )


def _told(words: list[str]) -> str | None:
    """What a command prints; None where it fails or is missing."""
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
