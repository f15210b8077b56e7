"""--smoke: a small run of a whole job, which never touches the job's own run."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, addition_records, write_data
from forks import Fork, finish, places, run_script

from workflow import BadInput, make_job, run_job
from workflow.cli.run import main
from workflow.config.parse import as_arguments, parse_command_line
from workflow.runs.mount import Mount
from workflow.runs.status import read_spec, read_status

Lines = Callable[[Path], list[dict[str, Any]]]
BASE = {"model_init_name": "small", "data_name": "sums"}
LARGE = {
    "max_steps": 9000, "train_batch_size": 256, "gradient_accumulation_steps": 8, "n_samples": 50,
    "temperature": 1.0, "max_new_tokens": 400, "min_new_tokens": 30, "warmup_steps": 500,
}  # fmt: skip


def test_a_smoke_test_is_small_whatever_the_job(mount: Mount, read_lines: Lines) -> None:
    folder = run_job(
        make_job("seq2seq", **BASE, **LARGE, training_run_name="big", smoke=True), mount
    )
    assert folder == mount.models / "big_smoke"
    spec = read_spec(folder)
    names = (*LARGE, "smoke", "training_run_name")
    assert {name: spec[name] for name in names} == {
        "max_steps": 2, "train_batch_size": 8, "gradient_accumulation_steps": 2, "n_samples": 2,
        "temperature": 1.0, "max_new_tokens": 16, "min_new_tokens": 16, "warmup_steps": 1,
        "smoke": True, "training_run_name": "big_smoke",
    }  # fmt: skip
    assert read_status(folder)["state"] == "done"
    assert [line["step"] for line in read_lines(folder / "metrics.jsonl")] == [0, 2]
    samples = json.loads((folder / "temperature=1.00_n=2_step=2.json").read_text())
    assert [item["orig_d"] for item in samples] == addition_records(7, start=5)
    assert (folder / "checkpoint-2" / "model.safetensors").exists()
    assert (folder / "report.html").exists()


def test_a_smoke_test_beside_its_run(mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    """Each replaces the last; neither is taken for the other."""
    argv = ["--model_init_name", "small", "--data_name", "sums", "--max_steps", "3",
            "--max_new_tokens", "2", "--bf16", "false", "--mount", str(mount.root)]  # fmt: skip
    assert main("seq2seq", "", [*argv, "--smoke"]) == 0
    first = capsys.readouterr().err
    smoke, run = mount.models / "small_sums_0_smoke", mount.models / "small_sums_0"
    assert "smoke test on at most 8 records of each split, 2 steps, 16 new tokens; " in first
    assert first.endswith(f"smoke test passed: its results are in {smoke}; see report.html\n")
    assert not run.exists()
    assert main("seq2seq", "", argv) == 0
    assert "records: train 24, eval 7" in capsys.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    (smoke / "of_the_last").touch()
    assert main("seq2seq", "", [*argv, "--smoke", "--overwrite_output_dir"]) == 0
    assert "records: train 8, eval 7" in capsys.readouterr().err
    assert not (smoke / "of_the_last").exists()
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    named = ["--training_run_name", smoke.name]
    assert main("seq2seq", "", [*argv, *named]) == 2
    assert "a run of a different job: " in (found := capsys.readouterr().err)
    assert "smoke was True, now False" in found
    run.rename(mount.models / "x_smoke")
    assert main("seq2seq", "", [*argv, "--training_run_name", "x", "--smoke"]) == 2
    assert capsys.readouterr().err.endswith(
        f"{mount.models / 'x_smoke'}: a run, not a smoke test (expected an earlier smoke test). "
        "Hint: rename it, or choose another --training_run_name.\n"
    )


@pytest.mark.parametrize("changes", [
    {"no_train": True, "eval_fraction": None}, {"tuning": "lora"}, {"tuning": "prompt"},
    {"freeze": ("encoder",)}, {"num_train_epochs": 5.0}, {"eval_fraction": 0.3},
])  # fmt: skip
def test_kinds_of_jobs(mount: Mount, changes: dict[str, Any]) -> None:
    if changes.get("eval_fraction"):
        (mount.data / "sums.json").write_text(json.dumps({"train": addition_records(24)}))
    folder = run_job(make_job("seq2seq", **BASE, **changes, smoke=True), mount)
    assert folder.name == (
        "small_sums_eval_smoke" if "no_train" in changes else "small_sums_0_smoke"
    )
    assert read_status(folder)["state"] == "done"
    assert (folder / "checkpoint-2").exists() == ("no_train" not in changes)


def test_scores(mount: Mount) -> None:
    records = [{"input": f"{n}", "target": float(n % 2)} for n in range(50)]
    write_data(mount, "marks", records, records)
    folder = run_job(make_job("clf", model_init_name="small", data_name="marks", smoke=True), mount)
    assert len(json.loads((folder / "preds.json").read_text())) == 8
    assert read_spec(folder)["max_new_tokens"] is None


def test_only_the_first_records_are_read(mount: Mount) -> None:
    """The rest of JSON Lines is not even parsed; the caches of the whole data stay apart."""
    good = [json.dumps(record) for record in addition_records(8)]
    (mount.data / "lines").mkdir()
    for split in ("train", "eval"):
        (mount.data / "lines" / f"{split}.jsonl").write_text("\n".join([*good, "{broken"]))
    job = {"model_init_name": "small", "data_name": "lines", "max_new_tokens": 2, "max_steps": 1}
    folder = run_job(make_job("seq2seq", **job, smoke=True), mount)
    assert len(read_status(folder)["data"]) == 2
    with pytest.raises(BadInput, match="line 9"):
        run_job(make_job("seq2seq", **job), mount)


def test_a_smoke_test_survives_being_passed_on() -> None:
    """The flags of a submitted job describe the same job."""
    job = make_job("seq2seq", **BASE, **LARGE, smoke=True)
    again, _, problems = parse_command_line("seq2seq", "", as_arguments(job))
    assert (again, problems) == (job, [])
    assert dataclasses.replace(job, smoke=False) == make_job(
        "seq2seq", **{k: v for k, v in vars(job).items() if k not in ("task", "smoke")}
    )


def test_two_processes(mount: Mount) -> None:
    argv = ["--model_init_name", "small", "--data_name", "sums", "--smoke", "--mount",
            str(mount.root), "--device", "cpu"]  # fmt: skip
    script = (run_script, ROOT / "seq2seq.py", *argv)
    first, second = finish([Fork(*script, environment=place) for place in places(2)])
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert (first.stderr + second.stderr).count("smoke test passed") == 1
    assert read_status(mount.models / "small_sums_0_smoke")["state"] == "done"
