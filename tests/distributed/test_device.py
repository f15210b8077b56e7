"""GPUs that cannot be used are refused, and the right ones are. No test needs a GPU."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_mount
from forks import Fork

from workflow.cli.run import _of_communication, main
from workflow.distributed import device as devices
from workflow.distributed.device import pick_device, problems_of_gpus, usable_gpus
from workflow.distributed.world import World

VERSION = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n"
    "GCC version:  gcc version 12.2.0\n"
)
EXPECTED = "(expected GPUs that CUDA can use). Hint: "


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with two GPUs, whose driver CUDA cannot use."""
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    (tmp_path / "version").write_text(VERSION)
    monkeypatch.setattr(devices, "DEVICES", tmp_path)
    monkeypatch.setattr(devices, "DRIVER", tmp_path / "version")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # by NVML
    return tmp_path


def lines(device: str | None) -> list[str]:
    return [str(problem) for problem in problems_of_gpus(device)]


def test_an_unusable_driver_is_reported(node: Path) -> None:
    assert usable_gpus() == 0
    found = f"--device: GPUs that CUDA cannot use: driver 535.104.05, PyTorch {torch.__version__} "
    assert (
        lines(None)
        == lines("cuda")
        == [
            f"{found}built for CUDA 13.0 {EXPECTED}update the driver, run scripts/setup on this "
            "machine, or set --device cpu."
        ]
    )
    (node / "version").unlink()
    assert "cannot use: no driver loaded, PyTorch" in lines(None)[0]


def test_a_cpu_build_on_a_node_with_gpus_is_reported(
    node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert lines(None) == [
        f"--device: GPUs, but PyTorch {torch.__version__} is a CPU build {EXPECTED}run "
        "scripts/setup on this machine, or set --device cpu."
    ]


def test_a_machine_without_gpus_is_fine_unless_they_are_requested(
    node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lines("cpu") == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert lines(None) == []
    assert lines("cuda") == [
        f"--device: no NVIDIA GPU on this machine {EXPECTED}choose a machine with GPUs, or remove "
        "it."
    ]


def test_usable_gpus_are_fine(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert lines(None) == lines("cuda") == []
    assert usable_gpus() == 2


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_job_meant_for_gpus_does_not_start_on_cpus(
    node: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], processes: str
) -> None:
    mount = make_mount(tmp_path / "mount")
    argv = ["--mount", str(mount.root), "--model_init_name", "small", "--data", "sums"]
    assert main("seq2seq", "", [*argv, "--max_steps", "1", "--num_processes", processes]) == 2
    assert "--device: GPUs that CUDA cannot use: driver 535" in capsys.readouterr().err
    assert not (mount.models / "small_sums_0").exists()


@pytest.mark.parametrize(
    ("own", "used"),
    [
        ({}, "expandable_segments:True"),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, "max_split_size_mb:64"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, "max_split_size_mb:64"),
        ({"PYTORCH_ALLOC_CONF": "expandable_segments:False"}, "expandable_segments:False"),
    ],
)
def test_memory_of_gpus_grows_in_segments_unless_the_user_sets_another_way(
    own: dict[str, str], used: str
) -> None:
    names = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"}
    environment = {name: value for name, value in os.environ.items() if name not in names}
    with Fork(print_allocator_settings, environment=environment | own) as process:
        printed, _ = process.communicate(timeout=60)
    assert printed == f"{used}\n"


def print_allocator_settings() -> None:
    """As torch reads them in a process of ours."""
    assert main("seq2seq", "", ["--data", "nowhere"]) == 2
    print(torch._C._accelerator_getAllocatorSettings())


def test_device_cpu_runs_on_the_cpu(
    node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # restored afterwards
    mount = make_mount(tmp_path / "mount")
    argv = ["--mount", str(mount.root), "--model_init_name", "small", "--data", "sums"]
    flags = ["--no_train", "--max_new_tokens", "2", "--device", "cpu"]
    assert main("seq2seq", "", [*argv, *flags]) == 0
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("gpus", "rank", "index"),
    [(8, 3, 3), (1, 3, 0)],  # all GPUs visible; --gpus-per-task=1
)
def test_a_process_and_deepspeed_use_the_same_gpu(
    monkeypatch: pytest.MonkeyPatch, gpus: int, rank: int, index: int
) -> None:
    started: dict[str, Any] = {}
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda chosen: started.update(set=chosen))
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda *_, **given: started.update(given)
    )
    device = pick_device()
    World(rank=rank, size=4, local_size=4).begin(device)
    assert device == started["set"] == started["device_id"] == torch.device("cuda", index)
    assert os.environ["LOCAL_RANK"] == str(index)
    World().begin(device, alone_too=True)  # DeepSpeed on one GPU
    assert started["world_size"] == 1
    assert started["device_id"] is None


def test_errors_of_nccl_are_shown_completely() -> None:
    from torch.distributed import DistBackendError, DistNetworkError

    nccl = "NCCL error in: x.cpp:94, unhandled cuda error\nLast error:\nCuda failure 2 'oom'"
    assert _of_communication(DistBackendError(nccl)) == f"communication between GPUs failed: {nccl}"
    for error in (
        DistBackendError("NCCL error\nncclRemoteError: A call failed possibly due to a network "
                         "error or a remote process exited prematurely."),
        DistNetworkError("Connection reset by peer"),
        RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1"),
    ):  # fmt: skip
        message = _of_communication(error)
        assert message == f"lost the connection to another process ({str(error).splitlines()[0]})"
    assert _of_communication(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


def test_full_determinism_changes_nothing_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    mount = make_mount(tmp_path / "mount")
    argv = ["--mount", str(mount.root), "--model_init_name", "small", "--data", "sums"]
    argv += ["--max_steps", "3", "--max_new_tokens", "2", "--dropout_rate", "0.1"]
    seen = []
    try:
        for name, full in (("a", "true"), ("b", "false")):
            flags = ["--training_run_name", name, "--full_determinism", full]
            assert main("seq2seq", "", [*argv, *flags]) == 0
            assert torch.are_deterministic_algorithms_enabled() == (full == "true")
            weights = mount.models / name / "checkpoint-3" / "model.safetensors"
            seen.append(weights.read_bytes())
    finally:
        torch.use_deterministic_algorithms(False)
    assert seen[0] == seen[1]
    assert os.environ.pop("CUBLAS_WORKSPACE_CONFIG") == ":4096:8"
