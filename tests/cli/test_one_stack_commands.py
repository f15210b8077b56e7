"""The commands of a user with a decoder-only model and an encoder: from a data file to a plan."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, make_mount
from forks import Fork, finish, run_script
from test_processes import answers, flag_words, job, write_scored
from tiny_models import add_one_stack

from workflow.cli.main import main
from workflow.runs.mount import Mount

MODELS = {"gpt": "seq2seq", "bert": "clf"}


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Mount:
    """Two trained runs of each model, and an evaluation of the first, by the scripts."""
    made = make_mount(tmp_path_factory.mktemp("commands") / "mount")
    write_scored(made)
    add_one_stack(made)
    finish_well(
        start(made, job(task, f"{model}-{seed}", model_init_name=model, seed=seed)
              | {"report_to": "tensorboard"})
        for model, task in MODELS.items()
        for seed in (1, 2)
    )  # fmt: skip
    finish_well(
        start(made, {
            "task": task, "model_init_name": f"{model}-1/checkpoint-4", "bf16": False,
            "no_train": True, "data_name": job(task, "")["data_name"],
            "training_run_name": f"{model}-again",
        })
        for model, task in MODELS.items()
    )  # fmt: skip
    return made


def start(mount: Mount, flags: dict[str, Any]) -> Fork:
    words = flag_words(flags)
    return Fork(run_script, ROOT / f"{flags['task']}.py", "--mount", str(mount.root), *words)


def finish_well(forks: Any) -> None:
    for done in finish(forks):
        assert done.returncode == 0, done.stderr


def last_evaluation(run: Path) -> dict[str, Any]:
    line: dict[str, Any] = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return line


@pytest.mark.parametrize("model", MODELS)
def test_a_checkpoint_is_evaluated_as_in_training(mount: Mount, model: str) -> None:
    trained, again = (last_evaluation(mount.models / f"{model}-{run}") for run in ("1", "again"))
    assert again["loss"] == pytest.approx(trained["loss"], rel=1e-6)
    texts = [answers(mount.models / f"{model}-{run}") for run in ("1", "again")]
    if MODELS[model] == "seq2seq":
        texts = [[item["generations"][0]["full_generated"] for item in items] for items in texts]
        assert texts[0] == texts[1]
    else:
        scores = [[item["pred_score"] for item in items] for items in texts]
        assert scores[1] == pytest.approx(scores[0], rel=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_tensorboard_has_the_losses(mount: Mount, model: str) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = mount.models / f"{model}-1"
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert events.Scalars("eval/loss")[-1].value == pytest.approx(last_evaluation(run)["loss"])


@pytest.mark.parametrize("model", MODELS)
def test_runs_are_reported_and_compared(
    mount: Mount, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = mount.models / f"{model}-1" / "report.html"
    page.unlink()
    assert main(["report", f"{model}-1", "--mount", str(mount.root)]) == 0
    text = page.read_text(encoding="utf-8")
    shown = "Predictions" if MODELS[model] == "seq2seq" else "Scores"
    assert re.findall(r"<h2[^>]*>([^<]+)", text)[:3] == ["Metrics", "Learning curves", shown]
    assert main(["compare", f"{model}-1", f"{model}-2", "--mount", str(mount.root)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^loss ", shown, re.M), shown
    assert "7 records" in shown


@pytest.mark.parametrize("model", MODELS)
def test_a_job_on_slurm_is_planned(
    mount: Mount, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("WORKFLOW_MOUNT", str(mount.root))
    monkeypatch.setenv("PATH", str(mount.root))
    task = MODELS[model]
    words = flag_words(job(task, "planned", model_init_name=model))
    asked = ["--dry_run", "--gpus_per_node", "4", "--gpu_memory", "80GB", "--memory", "500GB"]
    assert main(["submit", "slurm", *asked, "--", f"{task}.py", *words]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("#!/bin/bash\n")
    assert f"{task}.py --model_init_name={model} " in shown.out
    assert "chosen: " in shown.out + shown.err
    assert not (mount.models / "planned").exists()
