"""Running out of memory: for real under a limit, and as a GPU would report it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, addition_records, make_t5, write_data, write_hub_folder
from forks import Fork, finish, run_script
from test_processes import ONE_THREAD, flag_words, job

import workflow.training.loop
from workflow import RunFailed, make_job, run_job
from workflow.runs.mount import Mount
from workflow.runs.status import read_status
from workflow.training.engines.single import SingleProcessEngine

GPU_SAYS = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 15.9 GiB"
LIMITED = """
import resource, sys
sys.path.insert(0, {root!r})
import workflow.training.loop

def probe_memory(*arguments, begin=workflow.training.loop.probe_memory):
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * resource.getpagesize() + 150_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    begin(*arguments)

workflow.training.loop.probe_memory = probe_memory
from workflow.cli.run import main
sys.exit(main("seq2seq", ""))
"""
ONE_RANK = """
import os, sys
sys.path.insert(0, {root!r})
if os.environ.get("RANK") == "1":
    import torch
    from workflow.training.engines.deepspeed import ZeroEngine
    steps = 0

    def add_gradient(self, batch, weight, last, compute=ZeroEngine.add_gradient):
        global steps
        steps += bool(weight) and last
        if steps == 3:
            raise torch.OutOfMemoryError({told!r})
        return compute(self, batch, weight, last)

    ZeroEngine.add_gradient = add_gradient
from workflow.cli.run import main
sys.exit(main("seq2seq", ""))
"""
SIZE = r"\d+(?:\.\d)? [GM]B"
LEFT = rf"{SIZE} of host memory free"


def start_here(mount: Mount, name: str, **flags: Any) -> Path:
    values = {"save_steps": 1, "eval_steps": 6, "max_steps": 6} | flags
    return run_job(make_job(**job("seq2seq", name, **values)), mount)


def fail_at(monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    """Let memory run out in a step of this start, beginning with 1."""
    steps, compute = 0, SingleProcessEngine.add_gradient

    def add_gradient(self: Any, batch: Any, weight: float, last: bool) -> torch.Tensor:
        nonlocal steps
        steps += weight > 0 and last
        if steps == failing:
            raise torch.OutOfMemoryError(GPU_SAYS)
        return compute(self, batch, weight, last)

    monkeypatch.setattr(SingleProcessEngine, "add_gradient", add_gradient)


def failure(mount: Mount, name: str, **flags: Any) -> str:
    """The message of a run that fails, which is in status.json too."""
    with pytest.raises(RunFailed) as raised:
        start_here(mount, name, **flags)
    status = read_status(mount.models / name)
    assert (status["state"], status["error"]) == ("failed", str(raised.value))
    return str(raised.value)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_out_of_memory_is_reported_and_halves_the_bound_of_the_next_start(mount: Mount) -> None:
    """16 examples of 400 tokens, for which the attention of 32 heads takes 20 MB each."""
    write_hub_folder(make_t5(num_heads=32), mount.models / "wide", "safetensors")
    long = [r | {"prompt": " ".join("1234567890" * 60)} for r in addition_records(16)]
    write_data(mount, "long", long, addition_records(1))
    script = mount.root / "scarce.py"
    script.write_text(LIMITED.format(root=str(ROOT)))
    flags = {
        "model_init_name": "wide", "data_name": "long", "max_steps": 2, "train_batch_size": 16,
        "max_source_length": 400, "eval_steps": 2, "max_new_tokens": 2,
    }  # fmt: skip
    words = flag_words(job("seq2seq", "auto", **flags))
    (done,) = finish([Fork(run_script, script, "--mount", str(mount.root), *words)])
    assert done.returncode == 1, done.stderr[-5000:]
    assert "Traceback" not in done.stderr
    told = done.stderr.splitlines()[-1]
    status = read_status(mount.models / "auto")
    assert (status["state"], status["step"], status["error"]) == ("failed", 0, told)
    found = re.fullmatch(
        r"memory probe before step 1: out of memory on \d+ rows of 400 source and \d+ target "
        rf"positions \({SIZE} requested, {LEFT}, limit {SIZE} per process by ulimit -v\); the next "
        r"start limits micro-batches to (\d+) positions \(was (\d+)\). Hint: if that is not "
        r"enough, add --gradient_checkpointing, or use more processes, each with its own memory; "
        r"then rerun the same command, which starts over",
        told,
    )
    assert found, told
    half = status["micro_batch_tokens"]
    assert (int(found[1]), int(found[2]) // 2) == (half, half)
    run = run_job(make_job(**job("seq2seq", "auto", **flags)), mount)
    status = read_status(run)
    assert (status["state"], status["micro_batch_tokens"]) == ("done", half)
    assert json.loads((run / "training_args.json").read_text())["micro_batch_tokens"] == half


def test_an_automatic_bound_is_halved_until_it_is_enough(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The bound does not make a different job, with or without a checkpoint; a new run drops it."""
    monkeypatch.setattr("workflow.core.console.log.propagate", True)
    caplog.set_level("INFO")
    monkeypatch.setattr("workflow.memory.search.MOST_ON_CPU", 900)
    with monkeypatch.context() as patched:
        fail_at(patched, 1)
        told = failure(mount, "auto")
        assert told.endswith("; then rerun the same command, which starts over")
        assert read_status(mount.models / "auto")["micro_batch_tokens"] == 450
    with monkeypatch.context() as patched:
        fail_at(patched, 3)
        told = failure(mount, "auto")
        assert re.fullmatch(
            r"step 3: out of memory on \d+ rows? of \d+ source and \d+ target positions \(2.7 GB "
            rf"requested, {LEFT}\); the next start limits micro-batches to 256 positions \(was "
            r"450\). Hint: if that is not enough, add --gradient_checkpointing, or use more "
            r"processes, each with its own memory; then rerun the same command, which resumes from "
            r"checkpoint-2",
            told,
        ), told
    with monkeypatch.context() as patched:
        fail_at(patched, 3)
        told = failure(mount, "auto")
        assert re.fullmatch(
            r"step 5: .*\). Hint: add --gradient_checkpointing, or use more processes, each with "
            r"its own memory, or reduce --max_source_length or --max_target_length \(micro-batches "
            r"of 256 positions are the smallest\); then rerun the same command, which resumes from "
            r"checkpoint-4",
            told,
        ), told
    assert read_status(mount.models / "auto")["micro_batch_tokens"] == 256
    assert "limited to 256 positions after an earlier start ran out of memory" in caplog.text
    run = start_here(mount, "auto")
    assert read_status(run) | {"state": "done", "step": 6} == read_status(run)
    assert json.loads((run / "training_args.json").read_text())["micro_batch_tokens"] == 256
    run = start_here(mount, "auto", overwrite_output_dir=True)
    assert "micro_batch_tokens" not in read_status(run)
    assert json.loads((run / "training_args.json").read_text())["micro_batch_tokens"] == 900


def test_a_given_bound_is_left_to_the_user(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_at(monkeypatch, 3)
    told = failure(mount, "given", micro_batch_tokens=128, gradient_checkpointing=True)
    assert ". Hint: set --micro_batch_tokens 64 (now 128), or use more processes, " in told
    assert "micro_batch_tokens" not in read_status(mount.models / "given")
    told = failure(mount, "least", micro_batch_tokens=1)
    assert "(micro-batches of 1 positions are the smallest); then rerun" in told


def test_an_evaluation_without_memory_names_its_own_flag(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(*arguments: Any) -> Any:
        if arguments[0].progress.step == 0:
            return {}
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 8000000000 bytes. Error code 12 (Cannot allocate memory)"
        )

    monkeypatch.setattr(workflow.training.loop, "evaluate", evaluate)
    for rows, named in ((None, 8), (5, 2)):
        told = failure(mount, f"by{rows}", eval_batch_size=rows, eval_steps=2)
        assert re.fullmatch(
            rf"evaluation at step 2: out of memory \(8.0 GB requested, {LEFT}\). Hint: set "
            rf"--eval_batch_size {named}, or use a machine with more memory; then rerun the "
            r"same command, which resumes from checkpoint-1",
            told,
        ), told
        status = read_status(mount.models / f"by{rows}")
        assert "micro_batch_tokens" not in status  # that of training would not help


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: out of memory",
        'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/CUDACachingAllocator.cpp":'
        "1165, please report a bug to PyTorch.",  # of a MIG device
    ],
)
def test_what_gpus_report_is_out_of_memory(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    def add_gradient(*_: Any, last: bool) -> torch.Tensor:
        raise RuntimeError(message)

    monkeypatch.setattr(SingleProcessEngine, "add_gradient", add_gradient)
    told = failure(mount, "gpu")
    assert told.startswith("memory probe before step 1: out of memory on ")
    assert "(size of the request unknown, " in told


def test_other_errors_are_not_taken_for_out_of_memory(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(*arguments: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(workflow.training.loop, "evaluate", evaluate)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        start_here(mount, "other")


def test_out_of_memory_on_one_process_ends_all_and_is_reported(mount: Mount) -> None:
    """In the middle of a step, where the others wait for it."""
    script = mount.root / "scarce.py"
    script.write_text(ONE_RANK.format(root=str(ROOT), told=GPU_SAYS))
    words = flag_words(job("seq2seq", "two", zero_stage=2, save_steps=1, max_steps=6))
    done = subprocess.run(
        [sys.executable, str(script), "--mount", str(mount.root), *words, "--num_processes", "2"],
        check=False, env=ONE_THREAD, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr[-5000:]
    assert "Traceback" not in done.stderr
    (told,) = [line for line in done.stderr.splitlines() if "out of memory" in line]
    who, _, told = told.partition(": ")
    assert who == "rank 1 of 2"
    assert re.fullmatch(
        r"step 3: out of memory on \d+ rows? of \d+ source and \d+ target positions \(2.7 GB "
        rf"requested, {LEFT}\); the next start limits micro-batches to \d+ positions \(was \d+\). "
        r"Hint: if that is not enough, add --gradient_checkpointing, or set --zero_stage 3, or use "
        r"more processes, each with its own memory; then rerun the same command, which resumes "
        r"from checkpoint-2",
        told,
    ), told
    status = read_status(mount.models / "two")
    assert (status["state"], status["error"]) == ("failed", told)
    assert f"limits micro-batches to {status['micro_batch_tokens']} positions" in told
