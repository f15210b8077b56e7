"""Where a run begins: at a checkpoint of its own or of another run, or anew."""

import shutil

import pytest
from conftest import write_data
from test_resume import Lines, start

from workflow import BadInput
from workflow.runs.mount import Mount
from workflow.runs.status import read_status


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
