"""Complete runs of the real script on a small model."""

import copy
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, addition_records, make_t5, write_data, write_hub_folder
from forks import Fork, finish, run_script
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import workflow.training.loop
from workflow import RunFailed, make_job, run_job
from workflow.config.job import JobSpec, resolve_defaults
from workflow.runs.mount import Mount
from workflow.runs.train_state import Progress, memory_figures
from workflow.training.checkpointer import scheduled
from workflow.training.engines.single import Figures, SingleProcessEngine
from workflow.training.loop import evaluation_due

Lines = Callable[[Path], list[dict[str, Any]]]


def seq2seq(mount: Mount, command: str) -> subprocess.CompletedProcess[str]:
    """Run `python3 seq2seq.py …` as a user does."""
    words = [sys.executable, *command.split()[1:], "--mount", str(mount.root)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


def run(mount: Mount, **values: Any) -> Path:
    values = {"max_steps": 4, "train_batch_size": 4, "max_new_tokens": 4} | values
    values = {"model_init_name": "small", "data_name": "sums"} | values
    return run_job(make_job("seq2seq", **values), mount)


def test_the_contract_s_commands(mount: Mount, read_lines: Lines) -> None:
    """The first and the third command of the design with fewer steps."""
    write_hub_folder(make_t5(), mount.models / "flan-t5-xxl", "sharded-bin")
    records = addition_records(24)
    write_data(mount, "synthetic_explain", records, records[:5])
    trained = seq2seq(
        mount,
        "python3 seq2seq.py --model_init_name flan-t5-xxl --training_run_name 0216syn_explain "
        "--gradient_accumulation_steps 2 --train_batch_size 8 --max_steps 61 "
        "--data synthetic_explain --eval_steps 2000 --temperature 0.001 --n_samples 1",
    )
    assert trained.returncode == 0, trained.stderr
    folder = mount.models / "0216syn_explain"
    assert sorted(path.name for path in folder.iterdir()) == [
        "audit.json",
        "checkpoint-48",
        "checkpoint-61",
        "metrics.jsonl",
        "report.html",
        "starts.jsonl",
        "status.json",
        "temperature=0.00_n=1_step=0.json",
        "temperature=0.00_n=1_step=61.json",
        "train_log.jsonl",
        "training_args.json",
    ]
    metrics = read_lines(folder / "metrics.jsonl")
    assert [line["step"] for line in metrics] == [0, 61]
    headlines = [
        "exact_match", "normalized_exact_match", "rouge1", "rouge2", "rougeL", "rougeLsum",
        "rougeL_unicode", "bleu", "chrf",
    ]  # fmt: skip
    assert sorted(metrics[0]) == sorted([
        "step", "loss", "perplexity", "token_accuracy", *headlines,
        *(f"{name}_ci95" for name in headlines), "bleu_signature", "chrf_signature",
        "mean_length", "at_limit", "empty", "eval_seconds", "generate_seconds", "time",
    ])  # fmt: skip
    assert metrics[1]["loss"] < metrics[0]["loss"]
    logged = read_lines(folder / "train_log.jsonl")
    assert [line["step"] for line in logged] == [10, 20, 30, 40, 50, 60, 61]
    assert list(logged[0]) == [
        "step", "loss", "learning_rate", "grad_norm", "examples_per_second", "tokens_per_second",
        "padding_ratio", "imbalance", "time", "memory_gb",
    ]  # fmt: skip
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["step"], status["max_steps"]) == ("done", 61, 61)
    items = json.loads((folder / "temperature=0.00_n=1_step=61.json").read_text())
    assert [item["orig_d"] for item in items] == records[:5]

    evaluated = seq2seq(
        mount,
        "python3 seq2seq.py --model_init_name 0216syn_explain/checkpoint-61 "
        "--data_name synthetic_explain --no_train",
    )
    assert evaluated.returncode == 0, evaluated.stderr
    folder = mount.models / "0216syn_explain_checkpoint-61_synthetic_explain_eval"
    assert sorted(path.name for path in folder.iterdir()) == [
        "audit.json",
        "metrics.jsonl",
        "report.html",
        "starts.jsonl",
        "status.json",
        "temperature=0.00_n=1_step=61.json",
        "training_args.json",
    ]
    again = json.loads((folder / "temperature=0.00_n=1_step=61.json").read_text())
    assert again == items
    (line,) = read_lines(folder / "metrics.jsonl")
    assert line["step"] == 61
    assert line["loss"] == metrics[1]["loss"]


@pytest.mark.parametrize("own_head", [True, False])
def test_a_checkpoint_is_the_trained_model(mount: Mount, own_head: bool, read_lines: Lines) -> None:
    """It loads with plain transformers, and gives the loss that was measured."""
    write_hub_folder(make_t5(own_head=own_head), mount.models / "model", "bin")
    folder = run(mount, model_init_name="model", bf16=False, learning_rate=1e-2)
    checkpoint = folder / "checkpoint-4"
    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert (model.lm_head.weight is model.shared.weight) is not own_head
    assert {path.name for path in checkpoint.iterdir()} == {
        "checksums.json", "config.json", "generation_config.json", "model.safetensors", "resume",
        "spiece.model", "tokenizer.json", "tokenizer_config.json", "task.json",
    }  # fmt: skip
    records = addition_records(7, start=5)
    sources = tokenizer([r["prompt"] for r in records], padding=True, return_tensors="pt")
    labels = tokenizer([r["completion"] for r in records], padding=True, return_tensors="pt")
    labels = labels["input_ids"].masked_fill(labels["input_ids"] == 0, -100)
    with torch.no_grad():
        loss = float(model.eval()(**sources, labels=labels).loss)
    assert read_lines(folder / "metrics.jsonl")[-1]["loss"] == pytest.approx(loss, rel=1e-5)


def test_the_cut_into_micro_batches_changes_no_result(mount: Mount, read_lines: Lines) -> None:
    losses = []
    for tokens in (1, 40, 10_000):
        folder = run(
            mount, training_run_name=f"cut{tokens}", micro_batch_tokens=tokens, bf16=False,
            learning_rate=1e-3, logging_steps=1, max_steps=6,
        )  # fmt: skip
        losses.append([line["loss"] for line in read_lines(folder / "train_log.jsonl")])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-5)


def test_the_same_job_gives_the_same_result(mount: Mount) -> None:
    def weights(name: str) -> bytes:
        folder = run(mount, training_run_name=name, dropout_rate=0.1)
        return (folder / "checkpoint-4" / "model.safetensors").read_bytes()

    assert weights("one") == weights("other")


def test_a_finished_job_says_so_and_another_needs_another_name(
    mount: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    from workflow.cli.run import main

    argv = ["--mount", str(mount.root), "--model_init_name", "small", "--data", "sums"]
    argv += ["--max_steps", "2", "--max_new_tokens", "2", "--train_batch_size", "2"]
    assert main("seq2seq", "", argv) == 0
    folder = mount.models / "small_sums_0"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert main("seq2seq", "", argv) == 0
    assert "this job is done already" in capsys.readouterr().err
    as_file = ["--mount", str(mount.root), "--config", str(folder / "training_args.json")]
    assert main("seq2seq", "", as_file) == 0
    assert main("seq2seq", "", [*argv, "--max_steps=2", "--temperature", "0.5"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"{folder}: a run of a different job: temperature was 0.001, now 0.5 (expected the same "
        "job). Hint: choose another --training_run_name, or add --overwrite_output_dir to start "
        "over."
    )
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert main("seq2seq", "", [*argv, "--temperature", "0.5", "--overwrite_output_dir"]) == 0
    assert (folder / "temperature=0.50_n=1_step=2.json").exists()
    assert not (folder / "temperature=0.00_n=1_step=2.json").exists()


def test_changed_data_are_another_job(mount: Mount) -> None:
    folder = run(mount)
    write_data(mount, "sums", addition_records(24), addition_records(3))
    with pytest.raises(workflow.BadInput) as raised:
        run(mount)
    assert str(raised.value) == (
        f"{folder}: a run of a different job: data or tokenizer differ (expected the same job). "
        "Hint: choose another --training_run_name, or add --overwrite_output_dir to start over."
    )


def test_a_checkpoint_generates_as_its_run_did(mount: Mount) -> None:
    """The eval completions alone would allow fewer tokens than the train completions need."""
    write_data(mount, "short", addition_records(24, start=12345), addition_records(1, start=5))
    folder = run(mount, data_name="short", max_new_tokens=None)
    again = run(
        mount, data_name="short", model_init_name=f"{folder.name}/checkpoint-4", no_train=True,
        max_new_tokens=None, max_steps=None,
    )  # fmt: skip
    name = "temperature=0.00_n=1_step=4.json"
    assert (again / name).read_text() == (folder / name).read_text()
    spec = json.loads((again / "training_args.json").read_text())
    assert spec["max_new_tokens"] == 6


def test_the_model_to_begin_with_is_not_overwritten(mount: Mount) -> None:
    folder = run(mount)
    with pytest.raises(workflow.BadInput, match="the run that contains the initial model"):
        run(
            mount, model_init_name=f"{folder.name}/checkpoint-4", training_run_name=folder.name,
            overwrite_output_dir=True,
        )  # fmt: skip
    assert (folder / "checkpoint-4" / "model.safetensors").is_file()


def test_two_jobs_that_claim_one_name_at_once_do_not_share_it(mount: Mount) -> None:
    words = (
        f"--mount {mount.root} --model_init_name small --data sums --max_steps 300 "
        "--train_batch_size 4 --eval_steps 300 --max_new_tokens 4"
    )
    jobs = finish([Fork(run_script, ROOT / "seq2seq.py", *words.split()) for _ in range(2)])
    told = [job.stderr for job in jobs]
    statuses = [job.returncode for job in jobs]
    assert sorted(statuses) in ([0, 2], [0, 0])  # the second refused, or just too late
    if 2 in statuses:
        assert "in use by a running job" in told[statuses.index(2)]
    status = json.loads((mount.models / "small_sums_0" / "status.json").read_text())
    assert (status["state"], status["step"]) == ("done", 300)


def test_a_loss_that_is_not_finite_stops_before_the_update(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Infinite weights of one token make the loss of the records with it not finite."""
    model = make_t5()
    folder = write_hub_folder(model, mount.models / "broken", "safetensors")
    records = [*addition_records(7), {"prompt": "the question", "completion": "yes"}]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model.shared.weight.data[tokenizer.convert_tokens_to_ids("▁question")] = math.inf
    write_hub_folder(model, mount.models / "infinite", "safetensors")
    write_data(mount, "some", records, records[:1])
    unchanged = []
    update = SingleProcessEngine.update

    def noting(self: SingleProcessEngine, losses: torch.Tensor) -> Figures:
        before = copy.deepcopy(self.master.state_dict())
        figures = update(self, losses)
        after = self.master.state_dict()
        unchanged.append(all(torch.equal(tensor, after[name]) for name, tensor in before.items()))
        return figures

    monkeypatch.setattr(SingleProcessEngine, "update", noting)
    with pytest.raises(RunFailed) as raised:
        run(
            mount, model_init_name="infinite", data_name="some", train_batch_size=8,
            micro_batch_tokens=1, bf16=False,
        )  # fmt: skip
    assert str(raised.value) == (
        "step 1: non-finite loss on records train[7]; the model was not updated. Hint: check those "
        "records, reduce --learning_rate, or set --bf16 false"
    )
    assert unchanged == [True]
    status = json.loads((mount.models / "infinite_some_0" / "status.json").read_text())
    assert (status["state"], status["step"]) == ("failed", 0)
    assert status["error"] == f"RunFailed: {raised.value}"


def test_the_newest_and_the_best_checkpoints_are_kept(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = dict(zip(range(7), [9, 5, 1, 5, 4, 6, 7], strict=True))
    monkeypatch.setattr(
        workflow.training.loop,
        "evaluate",
        lambda *args: {"loss": float(losses[args[0].progress.step])},
    )
    folder = run(mount, max_steps=6, eval_steps=1, save_steps=1, save_total_limit=2)
    kept = sorted(path.name for path in folder.glob("checkpoint-*"))
    assert kept == ["checkpoint-2", "checkpoint-5", "checkpoint-6"]
    status = json.loads((folder / "status.json").read_text())
    assert (status["best_step"], status["best_value"]) == (2, 1.0)


@pytest.mark.parametrize(
    ("max_steps", "eval_steps", "evaluated", "saved"),
    [
        (6001, 2000, [2000, 4000, 6001], [1501, 3002, 4503, 6001]),
        (2001, 2000, [2001], [501, 1002, 1503, 2001]),
        (2020, 2000, [2000, 2020], [505, 1010, 1515, 2020]),
        (61, 2000, [61], [16, 32, 48, 61]),
        (8, None, [2, 4, 6, 8], [2, 4, 6, 8]),
        (3, None, [1, 2, 3], [1, 2, 3]),
        (1, None, [1], [1]),
    ],
)
def test_when_evaluations_and_checkpoints_are_due(
    max_steps: int, eval_steps: int | None, evaluated: list[int], saved: list[int]
) -> None:
    spec = make_job("seq2seq", model_init_name="m", data_name="d", max_steps=max_steps,
                    eval_steps=eval_steps)  # fmt: skip
    spec = resolve_defaults(spec, "r", 10, 5, fast_bf16=False)
    steps = range(1, max_steps + 1)
    assert [step for step in steps if evaluation_due(Progress(step), spec)] == evaluated
    assert [step for step in steps if scheduled(step, spec)] == saved


def test_on_a_gpu_the_log_has_the_figures_of_its_allocator(
    mount: Mount, read_lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured() -> dict[str, float]:
        with monkeypatch.context() as gpu:
            gpu.setattr(torch.cuda, "is_available", lambda: True)
            gpu.setattr(torch.cuda, "max_memory_allocated", lambda: 12_345_678_901)
            gpu.setattr(torch.cuda, "max_memory_reserved", lambda: 23_456_789_012)
            gpu.setattr(torch.cuda, "memory_stats", lambda: {"num_alloc_retries": 3, "other": 1})
            return memory_figures()

    monkeypatch.setattr(workflow.training.loop, "memory_figures", measured)
    folder = run(mount, training_run_name="gpu", max_steps=1)
    (logged,) = read_lines(folder / "train_log.jsonl")
    assert list(logged.items())[-3:] == [
        ("memory_gb", 12.346), ("memory_reserved_gb", 23.457), ("alloc_retries", 3),
    ]  # fmt: skip
    assert "12.3" in (folder / "report.html").read_text()


def test_epochs_become_steps() -> None:
    def steps(**values: Any) -> int:
        spec: JobSpec = make_job("seq2seq", model_init_name="m", data_name="d", **values)
        return resolve_defaults(spec, "r", 100, 5, fast_bf16=False).max_steps

    assert steps() == 25
    assert steps(num_train_epochs=1) == 7
    assert steps(num_train_epochs=0.5, train_batch_size=10) == 5
    assert steps(train_batch_size=10, gradient_accumulation_steps=2) == 20
    assert steps(num_train_epochs=0.001) == 1


def test_eval_on_start_can_be_disabled(mount: Mount, read_lines: Lines) -> None:
    folder = run(mount, eval_on_start=False, eval_steps=3)
    assert [line["step"] for line in read_lines(folder / "metrics.jsonl")] == [3, 4]


def test_training_works_in_float32_and_in_bf16(mount: Mount, read_lines: Lines) -> None:
    for optim in ("adamw_torch", "adafactor"):
        for bf16 in (False, True):
            folder = run(
                mount, max_steps=40, bf16=bf16, optim=optim, learning_rate=5e-3, logging_steps=20,
                training_run_name=f"{optim}-{bf16}",
            )  # fmt: skip
            first, last = read_lines(folder / "train_log.jsonl")
            assert last["loss"] < 0.6 * first["loss"], (optim, bf16)
            model = AutoModelForSeq2SeqLM.from_pretrained(folder / "checkpoint-40")
            assert model.dtype == torch.float32
