"""The device of this process, and whether bfloat16 is fast on it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from workflow.core.errors import Problem

DEVICES = Path("/dev")
DRIVER = Path("/proc/driver/nvidia/version")


def usable_gpus() -> int:
    """The number of GPUs that CUDA can use; torch counts GPUs of an unusable driver as well."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def pick_device() -> torch.device:
    """This process's GPU, by its local rank; else the CPU.

    If each task sees one GPU (srun --gpus-per-task=1), all use GPU 0.
    """
    if not usable_gpus():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % usable_gpus())


def free_memory() -> float:
    """Bytes that this process can have of its GPU; infinite without one.

    Creates a CUDA context, which takes memory itself. An earlier job's cache counts as free.
    """
    if not usable_gpus():
        return float("inf")
    device = pick_device()
    return float(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))


def set_determinism(full: bool) -> None:
    """Choose between deterministic and faster kernels, before CUDA is first used.

    CPU kernels are deterministic. On CUDA some add in changing order, e.g. the backward pass of
    memory-efficient attention (docs.pytorch.org/docs/stable/notes/randomness.html).
    """
    if full:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(full)


@contextmanager
def any_kernels() -> Iterator[None]:
    """Allow all kernels, for computing without gradients.

    In full determinism torch refuses cumulative sums on CUDA, which sampling needs, and takes
    sorting kernels to write the keys and values of a token.
    """
    full = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(full)


def problems_of_gpus(device: str | None) -> list[Problem]:
    """The problem of a job that is meant for GPUs, on a machine whose GPUs CUDA cannot use.

    Args:
        device: "cpu", "cuda", or None for GPUs if there are some.
    """
    present = os.environ.get("CUDA_VISIBLE_DEVICES") != "" and any(DEVICES.glob("nvidia[0-9]*"))
    if device == "cpu" or usable_gpus() or not (present or device == "cuda"):
        return []
    pytorch, cuda = f"PyTorch {torch.__version__}", torch.version.cuda
    hint = "run scripts/setup on this machine, or set --device cpu"
    if not present:
        found, hint = "no NVIDIA GPU on this machine", "choose a machine with GPUs, or remove it"
    elif cuda is None:
        found = f"GPUs, but {pytorch} is a CPU build"
    else:
        found = f"GPUs that CUDA cannot use: {_driver()}, {pytorch} built for CUDA {cuda}"
        hint = f"update the driver, {hint}"
    return [Problem("--device", found, "GPUs that CUDA can use", hint)]


def _driver() -> str:
    """The NVIDIA driver's version, as the kernel module reports it."""
    try:
        words = DRIVER.read_text().split("Module", 1)[1].split()
    except (OSError, IndexError):
        return "no driver loaded"
    return f"driver {next((word for word in words if word[0].isdigit()), 'unknown')}"


def fast_bf16() -> bool:
    """Whether this machine multiplies bfloat16 matrices faster than float32 ones."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_capability() >= (8, 0)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
