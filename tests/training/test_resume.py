"""Stopped runs resume as if never stopped, or the reason against it is reported."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_processes import job, run_world, write_scored
from tiny_models import add_one_stack

from benchmarks.several_jobs import StopAfter
from workflow import make_job, run_job
from workflow.core.errors import Stopped
from workflow.memory.search import PlanRequest
from workflow.runs.mount import Mount
from workflow.runs.resume_state import ComputedWith
from workflow.runs.status import read_status
from workflow.training.context import Invocation
from workflow.training.plan import _as_earlier

Lines = Callable[[Path], list[dict[str, Any]]]
FLAGS = {
    "max_steps": 9, "eval_steps": 4, "save_steps": 5, "logging_steps": 2, "dropout_rate": 0.1,
}  # fmt: skip
CHANGING = {"time", "examples_per_second", "tokens_per_second", "memory_gb", "eval_seconds",
            "generate_seconds", "score_seconds"}  # fmt: skip


def start(mount: Mount, name: str, stop_after: float = math.inf, **flags: Any) -> bool:
    """Run or resume a job here; returns whether it was done rather than stopped."""
    values = job(flags.pop("task", "seq2seq"), name, **(FLAGS | flags))
    try:
        run_job(make_job(**values), mount, Invocation(stop=StopAfter(stop_after)))
    except Stopped:
        return False
    return True


def kept_in(run: Path, step: int) -> dict[str, torch.Tensor]:
    """The weights and optimizer state of a checkpoint."""
    folder = run / f"checkpoint-{step}"
    files = [*folder.glob("*model.safetensors"), *sorted(folder.glob("resume/optimizer*"))]
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def assert_identical(run: Path, plain: Path, read_lines: Lines, step: int = 9) -> None:
    """Logs have the same line for each step; weights and optimizer state are equal bit for bit."""
    for name in ("train_log.jsonl", "metrics.jsonl"):
        found, wanted = (
            [{k: v for k, v in line.items() if k not in CHANGING} for line in read_lines(r / name)]
            for r in (run, plain)
        )
        assert found == wanted
    assert sorted(p.name for p in run.iterdir()) == sorted(p.name for p in plain.iterdir())
    kept, wanted_kept = kept_in(run, step), kept_in(plain, step)
    assert kept.keys() == wanted_kept.keys()
    for name, tensor in wanted_kept.items():
        assert torch.equal(kept[name], tensor), name
    for path in [*plain.glob("temperature*"), *plain.glob("*preds.json")]:
        assert (run / path.name).read_text() == path.read_text()
    for name in ("state", "step", "best_step", "best_value"):
        assert read_status(run)[name] == read_status(plain)[name]


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"bf16": True},
        {"optim": "adafactor"},
        {"bf16": True, "optim": "adafactor", "gradient_checkpointing": True},
        {"lr_scheduler_type": "cosine", "save_total_limit": 1, "temperature": 1.0, "n_samples": 2},
        {"model_init_name": "gpt", "temperature": 1.0, "n_samples": 2},
        {"model_init_name": "gpt", "bf16": True},
        {"task": "clf", "model_init_name": "bert"},
        {"task": "clf", "model_init_name": "bert", "bf16": True, "optim": "adafactor"},
    ],
)
def test_a_stopped_run_resumes_as_if_it_had_not_stopped(
    mount: Mount, read_lines: Lines, flags: dict[str, Any]
) -> None:
    """Stopped in the middle of logged steps, and in evaluations."""
    write_scored(mount)
    add_one_stack(mount)
    assert start(mount, "plain", **flags)
    stops = 0
    while not start(mount, "cut", stop_after=2, **flags):
        stops += 1
        assert read_status(mount.models / "cut")["state"] == "saved"
        assert stops < 20
    assert stops > 3
    assert read_status(mount.models / "cut")["restarts"] == stops
    starts = read_lines(mount.models / "cut" / "starts.jsonl")
    assert len(starts) == stops + 1
    steps = [one["step"] for one in starts]
    assert (steps[0], steps) == (0, sorted(steps))
    assert_identical(mount.models / "cut", mount.models / "plain", read_lines)


def test_a_stopped_run_resumes_in_every_stage(mount: Mount, read_lines: Lines) -> None:
    """Two processes; of ZeRO-1 in bf16 it is another optimizer, and offload another memory."""
    settings = [
        (1, "none", False), (3, "none", False), (1, "none", True),
        (2, "optimizer", True), (3, "none", True),
    ]  # fmt: skip
    jobs = []
    names = []
    for stage, offload, bf16 in settings:
        flags = FLAGS | {"bf16": bf16, "zero_stage": stage, "offload": offload}
        flags |= {"micro_batch_tokens": 40}
        names.append(f"{stage}-{offload}-{bf16}")
        cut = job("seq2seq", f"cut-{names[-1]}", **flags)
        jobs += [job("seq2seq", f"plain-{names[-1]}", **flags), cut | {"stop_after": 6}, cut]
    run_world(mount, 2, jobs)
    losses = {}
    for name in names:
        cut_run, plain = (mount.models / f"{kind}-{name}" for kind in ("cut", "plain"))
        assert read_status(cut_run)["restarts"] == 1
        assert_identical(cut_run, plain, read_lines)
        losses[name] = read_lines(plain / "metrics.jsonl")[0]["loss"]
    for name, loss in losses.items():  # evaluated without dropout in every stage
        assert loss == pytest.approx(losses["1-none-False"], rel=1e-6 if "False" in name else 2e-3)


def test_a_run_moves_between_worlds_and_stages(mount: Mount, read_lines: Lines) -> None:
    """1 → 2 → 1 → 4 processes; plain torch, ZeRO 3, plain torch, ZeRO 1."""
    flags = {"dropout_rate": 0.0, "logging_steps": 1}
    assert start(mount, "plain", **flags)
    moved = job("seq2seq", "moved", **(FLAGS | flags))
    assert not start(mount, "moved", stop_after=2, **flags)
    heard = {"report_to": ["tensorboard"]}
    run_world(mount, 2, [moved | {"zero_stage": 3, "stop_after": 3} | heard])
    assert not start(mount, "moved", stop_after=2, **flags)
    run_world(mount, 4, [moved | {"zero_stage": 1}])
    run, plain = mount.models / "moved", mount.models / "plain"
    assert len(list((run / "tensorboard").iterdir())) == 1  # one process of two, one start of four
    for name in ("loss", "grad_norm", "learning_rate"):
        found, wanted = (
            [line[name] for line in read_lines(r / "train_log.jsonl")] for r in (run, plain)
        )
        assert found == pytest.approx(wanted, rel=2e-6)
    assert [line["step"] for line in read_lines(run / "metrics.jsonl")] == [0, 4, 8, 9]
    kept, wanted_kept = kept_in(run, 9), kept_in(plain, 9)
    assert kept.keys() == wanted_kept.keys()
    for name, tensor in wanted_kept.items():
        torch.testing.assert_close(kept[name], tensor, rtol=1e-4, atol=1e-6)


def test_the_state_of_a_stop_is_reported(mount: Mount, read_lines: Lines) -> None:
    with pytest.raises(Stopped) as raised:
        run_job(make_job(**job("seq2seq", "cut", **FLAGS)), mount, Invocation(stop=StopAfter(3)))
    assert str(raised.value) == (
        "stopped by the test at step 2; the same command resumes from checkpoint-2"
    )
    with pytest.raises(Stopped) as raised:
        run_job(make_job(**job("seq2seq", "early", **FLAGS)), mount, Invocation(stop=StopAfter(0)))
    assert str(raised.value) == "stopped by the test at step 0; the same command starts over"
    early = mount.models / "early"
    assert "Stopped at step 0; rerun the same command to resume." in (
        (early / "report.html").read_text(encoding="utf-8")
    )
    with open(early / "starts.jsonl", "a") as file:
        file.write('{"step": 0, "ti')  # as of a start that was killed
    assert not start(mount, "early", stop_after=1)
    assert [one["step"] for one in read_lines(early / "starts.jsonl")] == [0, 0]
    evaluation = make_job("seq2seq", model_init_name="small", data_name="sums", no_train=True)
    with pytest.raises(Stopped) as raised:
        run_job(evaluation, mount, Invocation(stop=StopAfter(0)))
    assert str(raised.value) == "stopped by the test at step 0; the same command starts over"
    evaluated = run_job(evaluation, mount)
    assert read_status(evaluated)["state"] == "done"


def test_flags_that_change_no_result_may_differ(mount: Mount, read_lines: Lines) -> None:
    assert start(mount, "plain", logging_steps=3, dropout_rate=0.0)
    flags = {"dropout_rate": 0.0}
    assert not start(mount, "cut", stop_after=4, **flags)
    changed = {
        "logging_steps": 3, "save_steps": 2, "save_seconds": 1000.0, "micro_batch_tokens": 40,
        "gradient_checkpointing": True, "eval_batch_size": 2, "save_total_limit": 5,
    }  # fmt: skip
    assert start(mount, "cut", **flags, **changed)
    run = mount.models / "cut"
    written = json.loads((run / "training_args.json").read_text())
    assert written["save_steps"] == 2
    assert sorted(path.name for path in run.glob("checkpoint-*")) == [
        f"checkpoint-{step}" for step in (4, 6, 8, 9)
    ]
    losses = [line["loss"] for line in read_lines(run / "train_log.jsonl")]
    last = read_lines(mount.models / "plain" / "train_log.jsonl")[-1]["loss"]
    assert losses[-1] == pytest.approx(last, rel=2e-6)


def test_a_longer_run_resumes_from_a_finished_one(
    mount: Mount,
    read_lines: Lines,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is derived from the number of steps may differ with it: evaluations, warmup."""
    monkeypatch.setattr("workflow.core.console.log.propagate", True)
    caplog.set_level("INFO")
    flags = {"eval_steps": None, "save_steps": None, "logging_steps": 1}
    assert start(mount, "long", max_steps=8, **flags)
    assert start(mount, "long", max_steps=8, **flags)
    assert "this job is done already" in caplog.text
    assert start(mount, "long", max_steps=12, **flags)
    assert (
        "max_steps is now 12 (was 8); the learning rate continues on the new schedule "
        "(linear, 1 warmup steps)"
    ) in caplog.text
    run = mount.models / "long"
    lines = read_lines(run / "train_log.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 13))
    rates = [line["learning_rate"] for line in lines]
    assert rates[7:] == pytest.approx([1e-3 / 7, 5e-3 / 11 - 1e-3 / 11, *[3e-3 / 11, 2e-3 / 11],
                                       1e-3 / 11][:5])  # fmt: skip
    assert [line["step"] for line in read_lines(run / "metrics.jsonl")] == [0, 2, 4, 6, 8, 9, 12]
    assert read_status(run) | {"state": "done", "step": 12, "max_steps": 12} == read_status(run)


def test_saves_by_the_clock(mount: Mount, read_lines: Lines) -> None:
    assert start(mount, "clock", save_seconds=1e-6, save_steps=9, max_steps=3)
    log = (mount.models / "clock" / "train_log.jsonl").read_text()
    assert log
    assert [path.name for path in (mount.models / "clock").glob("checkpoint-*")] == ["checkpoint-3"]


def test_a_stop_file_stops_and_is_gone_at_the_next_start(mount: Mount) -> None:
    assert not start(mount, "cut", stop_after=3)
    run = mount.models / "cut"
    (run / "stop").touch()
    (run / "lock.json").write_text(json.dumps({"killed": "just before the end"}))
    os.utime(run / "lock.json", (0, 0))
    assert start(mount, "cut")  # what asked the last start to stop does not ask this one
    assert not (run / "lock.json").exists()
    (run / "lock.json").write_text("{}")
    os.utime(run / "lock.json", (0, 0))
    assert start(mount, "cut")
    assert not (run / "lock.json").exists()
    assert not (run / "stop").exists()


def test_a_run_is_done_only_when_its_steps_are(mount: Mount) -> None:
    """Killed before it recorded that it continues beyond its end."""
    assert start(mount, "long", max_steps=4)
    run = mount.models / "long"
    spec = json.loads((run / "training_args.json").read_text())
    (run / "training_args.json").write_text(json.dumps(spec | {"max_steps": 8}))
    assert start(mount, "long", max_steps=8)
    assert read_status(run)["step"] == 8


def test_an_evaluation_after_a_stop_at_the_end_is_kept_on_extension(
    mount: Mount, read_lines: Lines
) -> None:
    flags = {"eval_steps": None, "save_steps": 3, "eval_on_start": False}
    assert not start(mount, "long", stop_after=12, max_steps=9, **flags)
    run = mount.models / "long"
    assert read_status(run)["step"] == 9
    assert start(mount, "long", max_steps=9, **flags)
    best = read_status(run)["best_step"], read_status(run)["best_value"]
    assert start(mount, "long", max_steps=14, **(flags | {"learning_rate": 1e-3}))
    assert [line["step"] for line in read_lines(run / "metrics.jsonl")] == [3, 6, 9, 12, 14]
    losses = {line["step"]: line["loss"] for line in read_lines(run / "metrics.jsonl")}
    assert read_status(run)["best_value"] == min(losses[step] for step in (3, 6, 9, 12, 14))
    assert best[0] == 9


def test_open_settings_stay_as_they_were() -> None:
    """Stage and offload belong together: earlier ones may not suit the present request."""
    earlier = ComputedWith(processes=2, stage=3, offload="all", positions=500)
    assert _as_earlier(PlanRequest(), earlier) == PlanRequest(stage=3, offload="all", positions=500)
    assert _as_earlier(PlanRequest(stage=1), earlier) == PlanRequest(stage=1, positions=500)
    assert _as_earlier(PlanRequest(positions=9), earlier).positions == 9
