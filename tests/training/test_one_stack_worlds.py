"""Decoder-only models and encoders on several processes: equal runs, resumed bit for bit."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from forks import Fork, finish, places, run_script
from safetensors.torch import load_file
from test_processes import assert_same_run, curve, flag_words, job, run_world, write_scored
from test_resume import FLAGS, assert_identical
from tiny_models import add_one_stack, make_one_stack

from workflow.runs.mount import Mount
from workflow.runs.status import read_status

Lines = Callable[[Path], list[dict[str, Any]]]
ENCODERS = ("bert", "deberta-v2")
STAGES = {"gpt": (1, 2, 3), "llama": (2,), "opt": (3,), "bert": (1, 2, 3), "deberta-v2": (3,)}
IN_BF16 = (("gpt", 3), ("bert", 2))
RESUMED = (("gpt", 2, False), ("gpt", 3, True), ("bert", 2, True), ("bert", 3, False))
"""Model, stage, and whether in bf16."""


def job_of(model: str, name: str, **flags: Any) -> dict[str, Any]:
    """Odd counts of records and bounded micro-batches: ranks have unequal parts, or none."""
    bounds = {"micro_batch_tokens": 40, "max_source_length": 64, "dropout_rate": 0}
    task = "clf" if model in ENCODERS else "seq2seq"
    return job(task, name, **({"model_init_name": model} | bounds | flags))


def test_two_processes_give_the_runs_of_one_and_resume_bit_for_bit(
    mount: Mount, read_lines: Lines
) -> None:
    """All in one world, since starting one takes longer than a job."""
    write_scored(mount)
    add_one_stack(mount)
    for kind in STAGES.keys() - {"gpt", "bert"}:
        make_one_stack(kind, mount.models / kind)
    run_world(mount, 1, [job_of(model, f"{model}-plain") for model in STAGES])
    jobs = [
        job_of(model, f"{model}-{stage}", zero_stage=stage)
        for model, stages in STAGES.items()
        for stage in stages
    ]
    jobs += [job_of(m, f"{m}-{z}-bf16", zero_stage=z, bf16=True) for m, z in IN_BF16]
    for model, stage, bf16 in RESUMED:
        flags = FLAGS | {"zero_stage": stage, "bf16": bf16}
        cut = job_of(model, f"{model}-cut-{stage}", **flags)
        jobs += [job_of(model, f"{model}-whole-{stage}", **flags), cut | {"stop_after": 6}, cut]
    run_world(mount, 2, jobs)
    runs = mount.models
    for model, stages in STAGES.items():
        for stage in stages:
            run, plain = runs / f"{model}-{stage}", runs / f"{model}-plain"
            assert_same_run(run, plain, read_lines, rel=1e-5)
    for model, stage in IN_BF16:
        assert_close_in_bf16(runs / f"{model}-{stage}-bf16", runs / f"{model}-plain", read_lines)
    for model, stage, _ in RESUMED:
        cut_run = runs / f"{model}-cut-{stage}"
        assert read_status(cut_run)["restarts"] == 1
        assert_identical(cut_run, runs / f"{model}-whole-{stage}", read_lines)


def assert_close_in_bf16(run: Path, plain: Path, read_lines: Lines) -> None:
    """Losses and norms are close, and the saved weights are the float32 masters."""
    assert curve(run, read_lines) == pytest.approx(curve(plain, read_lines), rel=0.05)
    weights = load_file(run / "checkpoint-4" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert not any(torch.equal(one, one.bfloat16().float()) for one in weights.values())


def start_all(mount: Mount, flags: dict[str, Any], processes: int) -> list[Fork]:
    script = ROOT / f"{flags['task']}.py"
    words = ["--mount", str(mount.root), *flag_words(flags)]
    world = places(processes) if processes > 1 else [None]
    return [Fork(run_script, script, *words, environment=place) for place in world]


@pytest.mark.parametrize(
    ("model", "processes"),
    [
        ("gpt", 1),
        pytest.param("bert", 2, marks=pytest.mark.slow),
        pytest.param("gpt", 2, marks=pytest.mark.slow),
        pytest.param("bert", 1, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_ends_as_one_left_alone(
    mount: Mount, read_lines: Lines, model: str, processes: int
) -> None:
    """SIGKILL between two checkpoints, with two processes under ZeRO-3; then the same command."""
    write_scored(mount)
    add_one_stack(mount)
    flags = {"max_steps": 30, "save_steps": 10, "eval_steps": 30, "dropout_rate": 0.1}
    if processes > 1:
        flags["zero_stage"] = 3
    finish(start_all(mount, job_of(model, "whole", **flags), processes))
    cut = start_all(mount, job_of(model, "cut", **flags), processes)
    log = mount.models / "cut" / "train_log.jsonl"
    while not log.exists() or log.read_text().count("\n") < 13:
        assert not any(fork.returncode for fork in cut)
        time.sleep(0.01)
    for fork in cut:
        fork.kill()
    assert [done.returncode for done in finish(cut)] == [-signal.SIGKILL] * processes
    for done in finish(start_all(mount, job_of(model, "cut", **flags), processes)):
        assert done.returncode == 0, done.stderr
    assert read_lines(mount.models / "cut" / "starts.jsonl")[1]["step"] in (10, 20)
    assert_identical(mount.models / "cut", mount.models / "whole", read_lines, step=30)
