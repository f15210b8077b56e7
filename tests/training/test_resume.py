"""Stopped runs resume as if never stopped, or the reason against it is reported."""

import json
import math
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_data
from safetensors.torch import load_file
from test_processes import job, run_world, write_scored
from tiny_models import add_one_stack

from benchmarks.several_jobs import StopAfter
from workflow import BadInput, RunFailed, make_job, run_job
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
    files = [folder / "model.safetensors", *sorted(folder.glob("resume/optimizer*"))]
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
        (1, "none", False), (2, "none", False), (3, "none", False), (1, "none", True),
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


def test_another_job_is_refused_with_all_that_differs(mount: Mount) -> None:
    assert not start(mount, "cut", stop_after=3)
    run = mount.models / "cut"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(BadInput) as raised:
        start(mount, "cut", learning_rate=2e-3, train_batch_size=5, max_steps=8)
    assert str(raised.value) == (
        f"{run}: a run of a different job: max_steps was 9, now 8; train_batch_size was 6, now "
        "5; learning_rate was 0.001, now 0.002 (expected the same job). Hint: choose another "
        "--training_run_name, or add --overwrite_output_dir to start over."
    )
    write_data(mount, "sums", *[[{"prompt": "a", "completion": "b"}]] * 2)
    with pytest.raises(BadInput, match="data or tokenizer differ"):
        start(mount, "cut")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


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


def test_a_run_can_resume_from_another_run_s_checkpoint(mount: Mount, read_lines: Lines) -> None:
    assert start(mount, "plain")
    assert not start(mount, "first", stop_after=3)
    shutil.copytree(mount.models / "first" / "checkpoint-2", mount.root / "copied")
    asked = str(mount.root / "copied")
    assert not start(mount, "second", stop_after=2, resume_from_checkpoint=asked)
    assert start(mount, "second", resume_from_checkpoint=asked)  # from its own newest by now
    run, plain = mount.models / "second", mount.models / "plain"
    (last, wanted) = (read_lines(r / "train_log.jsonl")[-1]["loss"] for r in (run, plain))
    assert last == wanted
    assert read_status(run)["restarts"] == 1
    with pytest.raises(BadInput, match=r"checkpoint of a different job: learning_rate was 0.001"):
        start(mount, "third", resume_from_checkpoint="first/checkpoint-2", learning_rate=1.0)
    with pytest.raises(BadInput, match=r"does not exist .*: name a run or its newest checkpoint"):
        start(mount, "third", resume_from_checkpoint="first/checkpoint-7")
    with pytest.raises(BadInput, match="has no optimizer state"):
        start(mount, "third", resume_from_checkpoint="plain/checkpoint-5")
    assert not (mount.models / "third").exists()


def test_evaluations_of_another_run_are_repeated_in_this_one(
    mount: Mount, read_lines: Lines
) -> None:
    flags = {"eval_steps": 3, "save_steps": 3, "max_steps": 6, "eval_on_start": False}
    assert start(mount, "first", **(flags | {"max_steps": 3}))
    asked = {"resume_from_checkpoint": "first"}
    with pytest.raises(BadInput, match=r"already at step 3/3 \(expected a checkpoint with st"):
        start(mount, "same", **(flags | {"max_steps": 3}), **asked)
    assert start(mount, "second", **flags, **asked)
    run = mount.models / "second"
    assert [line["step"] for line in read_lines(run / "metrics.jsonl")] == [3, 6]
    assert read_status(run)["best_step"] == 6  # there is no checkpoint-3


def test_a_run_starts_over_only_on_request(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not start(mount, "cut", stop_after=4)
    run = mount.models / "cut"
    with pytest.raises(BadInput, match="remove --resume_from_checkpoint none, or add --overw"):
        start(mount, "cut", resume_from_checkpoint="none")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert not start(mount, "cut", stop_after=2, overwrite_output_dir=True)
    assert read_status(run) | {"step": 1, "restarts": 0, "job_id": "7"} == read_status(run)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # requeued: what it did is not to be lost
    assert not start(mount, "cut", stop_after=2, overwrite_output_dir=True)
    assert read_status(run) | {"step": 4, "restarts": 1} == read_status(run)
    for name in ("model.safetensors", "notes.txt"):
        (mount.models / "mine").mkdir(exist_ok=True)
        (mount.models / "mine" / name).write_text("mine")
    with pytest.raises(BadInput, match="exists, but is not a run folder"):
        start(mount, "mine", overwrite_output_dir=True)
    assert (mount.models / "mine" / "notes.txt").read_text() == "mine"


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


def test_a_checkpoint_of_another_job_is_refused_in_a_started_run(mount: Mount) -> None:
    assert not start(mount, "first", stop_after=3)
    assert not start(mount, "second", stop_after=0, seed=1)
    asked = {"resume_from_checkpoint": "first/checkpoint-2"}
    with pytest.raises(BadInput, match=r"a checkpoint of a different job: seed was 0, now 1"):
        start(mount, "second", seed=1, **asked)
    with pytest.raises(BadInput, match="a checkpoint of the run that --overwrite_output_dir"):
        start(mount, "first", overwrite_output_dir=True, **asked)
    (mount.models / "alias").symlink_to(mount.models / "first")
    asked = {"resume_from_checkpoint": "alias/checkpoint-2"}
    with pytest.raises(BadInput, match="a checkpoint of the run that --overwrite_output_dir"):
        start(mount, "first", overwrite_output_dir=True, **asked)
    assert start(mount, "first", **asked)


def test_a_half_copied_state_is_refused(mount: Mount) -> None:
    assert not start(mount, "first", stop_after=3)
    copied = shutil.copytree(mount.models / "first" / "checkpoint-2", mount.root / "copied")
    for name in ("checksums.json", "optimizer.safetensors"):
        (copied / "resume" / name).unlink()
    with pytest.raises(BadInput, match="has no optimizer state"):
        start(mount, "second", resume_from_checkpoint=str(copied))


def test_a_requeued_job_resumes_though_its_source_is_gone(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not start(mount, "first", stop_after=3)
    asked = {"resume_from_checkpoint": "first/checkpoint-2"}
    assert not start(mount, "second", stop_after=2, **asked)
    shutil.rmtree(mount.models / "first")
    assert start(mount, "second", **asked)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert not start(mount, "third", stop_after=4, resume_from_checkpoint="none")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert start(mount, "third", resume_from_checkpoint="none")
    assert read_status(mount.models / "third")["restarts"] == 1


def test_a_finished_run_without_checkpoints_is_not_thrown_away(mount: Mount) -> None:
    assert start(mount, "done")
    run = mount.models / "done"
    for checkpoint in run.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    with pytest.raises(BadInput, match="a run done at step 9, without checkpoints"):
        start(mount, "done", max_steps=12)
    assert start(mount, "done")
    with pytest.raises(BadInput, match=r"unreadable training_args\.json"):
        (run / "training_args.json").write_text("")
        start(mount, "done")


def test_an_interrupted_rotation_is_completed(mount: Mount) -> None:
    assert not start(mount, "cut", stop_after=4)
    run = mount.models / "cut"
    for older in (1, 2):
        shutil.copytree(run / "checkpoint-3", run / f"checkpoint-{older}")
    assert not start(mount, "cut", stop_after=-1)
    assert sorted(path.name for path in run.glob("checkpoint-*")) == [
        "checkpoint-1", "checkpoint-2", "checkpoint-3",
    ]  # fmt: skip
    assert [path.parent.name for path in run.glob("*/resume")] == ["checkpoint-3"]
    assert not start(mount, "cut", stop_after=-1, save_total_limit=1)
    assert sorted(path.name for path in run.glob("checkpoint-*")) == [
        "checkpoint-2", "checkpoint-3",
    ]  # fmt: skip


def test_open_settings_stay_as_they_were() -> None:
    """Stage and offload belong together: earlier ones may not suit the present request."""
    earlier = ComputedWith(processes=2, stage=3, offload="all", positions=500)
    assert _as_earlier(PlanRequest(), earlier) == PlanRequest(stage=3, offload="all", positions=500)
    assert _as_earlier(PlanRequest(stage=1), earlier) == PlanRequest(stage=1, positions=500)
    assert _as_earlier(PlanRequest(positions=9), earlier).positions == 9


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def damages(path: Path, bomb: bytes) -> dict[str, bytes]:
    """Kinds of damage to a file."""
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    return {"truncated": content[:-2], "empty": b"", "flipped": flipped, "pickle": bomb}


def test_no_damaged_file_of_a_checkpoint_is_loaded(mount: Mount) -> None:
    """Neither to resume nor to evaluate; a pickle in its place is never run."""
    assert not start(mount, "cut", stop_after=3)
    checkpoint = mount.models / "cut" / "checkpoint-2"
    exploded = mount.root / "exploded"
    bomb = pickle.dumps(Bomb(exploded))
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    assert len(files) == 11
    for file in files:
        whole = file.read_bytes()
        for kind, content in damages(file, bomb).items():
            if content == whole:
                continue
            file.write_bytes(content)
            with pytest.raises(BadInput) as raised:
                start(mount, "cut")
            assert file.name in str(raised.value), kind
            if file.parent == checkpoint:
                with pytest.raises(BadInput) as raised:
                    start(mount, "other", model_init_name="cut/checkpoint-2")
                assert not (mount.models / "other").exists()
        file.write_bytes(whole)
    assert not exploded.exists()
    assert start(mount, "cut")


def test_a_pickle_in_place_of_any_file_that_is_read_is_not_run(mount: Mount) -> None:
    """Of the model, the data, the run and the cache; derived files are recreated."""
    assert not start(mount, "cut", stop_after=3)
    exploded = mount.root / "exploded"
    bomb = pickle.dumps(Bomb(exploded))
    pickle.loads(bomb)  # it does work
    exploded.rmdir()
    for file in sorted(path for path in mount.root.rglob("*") if path.is_file()):
        if "checkpoint-2" in file.parts:
            continue
        whole = file.read_bytes()
        file.write_bytes(bomb)
        try:
            start(mount, "cut", stop_after=0)
            if "cut" not in file.parts:
                start(mount, "new", stop_after=0, overwrite_output_dir=True)
        except (BadInput, RunFailed):
            pass
        file.write_bytes(whole)
        assert not exploded.exists(), file


def test_a_newest_checkpoint_without_optimizer_state_is_reported(mount: Mount) -> None:
    assert start(mount, "done")
    run = mount.models / "done"
    shutil.rmtree(run / "checkpoint-9")
    (run / "status.json").write_text(json.dumps(read_status(run) | {"state": "failed"}))
    with pytest.raises(BadInput) as raised:
        start(mount, "done")
    assert str(raised.value) == (
        f"{run}: the newest checkpoint, checkpoint-5, has no optimizer state (expected a "
        "checkpoint to resume from). Hint: start another run from its weights "
        "(--model_init_name done/checkpoint-5), or add --overwrite_output_dir to start over."
    )


def test_leftovers_of_a_killed_save_are_removed(mount: Mount) -> None:
    assert not start(mount, "cut", stop_after=4)
    run = mount.models / "cut"
    left = run / ".checkpoint-7.partial-elsewhere-123" / "resume"
    left.mkdir(parents=True)
    (left / "optimizer.safetensors").write_bytes(b"half")
    (run / "checkpoint-3" / ".resume.partial-elsewhere-123").mkdir()
    with open(run / "train_log.jsonl", "a") as file:
        file.write('{"step": 4, "loss": 1}\n{"step": 6, "lo')
    assert start(mount, "cut")
    assert not list(run.rglob(".*"))
    lines = (run / "train_log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6, 8, 9]
