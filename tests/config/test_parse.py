"""The job that a command line, a job file or keywords ask for; flags and defaults are frozen."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType

from workflow import BadInput, make_job
from workflow.config.foreign_flags import FOREIGN
from workflow.config.job import JOB_FLAGS, JobSpec, flags_deciding, resolve_defaults, written
from workflow.config.launch import LaunchOptions
from workflow.config.parse import as_arguments, parse_command_line
from workflow.config.request import SCHEDULES, JobRequest

BASE = ["--model_init_name", "m", "--data_name", "d"]

# What users rely on: a change here is a change of the tool's contract.
DEFAULTS = {
    "model_init_name": None,
    "model_init_path": None,
    "model_pretrain_name": None,
    "init": "pretrained",
    "dropout_rate": None,
    "data_name": None,
    "eval_fraction": None,
    "truncation_side": "right",
    "template": None,
    "train_on": "last_turn",
    "block_packing": None,
    "document_separator": None,
    "label_words": ("no", "yes"),
    "classes": None,
    "pair_shares": (0.4, 0.3, 0.3),
    "both_orders": False,
    "class_weight": None,
    "target_min": 0.0,
    "target_max": 1.0,
    "source_lang": None,
    "target_lang": None,
    "add_missing_tokens": False,
    "max_source_length": 1024,
    "max_target_length": 512,
    "training_run_name": None,
    "no_train": False,
    "smoke": False,
    "audit": False,
    "overwrite_output_dir": False,
    "resume_from_checkpoint": None,
    "seed": 0,
    "max_steps": None,
    "num_train_epochs": None,
    "train_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "micro_batch_tokens": None,
    "label_smoothing_factor": 0.0,
    "bf16": None,
    "full_determinism": False,
    "gradient_checkpointing": False,
    "torch_compile": False,
    "tuning": None,
    "freeze": (),
    "lora_r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "lora_target_modules": (),
    "use_dora": False,
    "modules_to_save": (),
    "num_virtual_tokens": 20,
    "prompt_tuning_init_text": None,
    "load_in_8bit": False,
    "load_in_4bit": False,
    "zero_stage": None,
    "offload": None,
    "deepspeed": None,
    "optim": "adamw_torch",
    "learning_rate": None,
    "lr_scheduler_type": None,
    "lr_scheduler_kwargs": None,
    "warmup_steps": None,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "eval_steps": None,
    "eval_on_start": True,
    "metric": (),
    "eval_batch_size": None,
    "temperature": 0.001,
    "max_new_tokens": None,
    "min_new_tokens": 0,
    "n_samples": 1,
    "top_k": None,
    "top_p": None,
    "min_p": None,
    "typical_p": None,
    "num_beams": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "logit_bias": None,
    "best_of": None,
    "choices": None,
    "no_repeat_ngram_size": 0,
    "stop": (),
    "save_steps": None,
    "save_seconds": None,
    "save_total_limit": 2,
    "metric_for_best_model": "loss",
    "logging_steps": 10,
    "report_to": (),
}

PLACE = {
    "num_processes": None,
    "device": None,
    "local_rank": None,
    "dry_run": False,
    "plan_gpus": None,
    "plan_gpu_memory": None,
    "plan_host_memory": None,
    "plan_nodes": None,
    "mount": None,
    "config": None,
}

COMPLETED = {
    "training_run_name": "run",
    "max_steps": 625,
    "micro_batch_tokens": 2048,
    "bf16": True,
    "learning_rate": 1e-4,
    "lr_scheduler_type": "linear",
    "warmup_steps": 32,
    "eval_steps": 157,
    "max_new_tokens": 33,
    "save_steps": 157,
}


def parse(*argv: str) -> tuple[JobRequest, list[str]]:
    spec, _, problems = parse_command_line("seq2seq", "", argv)
    return spec, [str(problem) for problem in problems]


def completed(spec: JobRequest) -> JobSpec:
    spec = resolve_defaults(spec, "run", 2500, 33, fast_bf16=True)
    return dataclasses.replace(spec, micro_batch_tokens=spec.micro_batch_tokens or 2048)


def test_flags_and_defaults_are_frozen() -> None:
    spec, problems = parse(*BASE)
    assert problems == []
    expected = DEFAULTS | {"task": "seq2seq", "model_init_name": "m", "data_name": "d"}
    assert vars(spec) == expected
    assert vars(completed(spec)) == expected | COMPLETED
    assert vars(LaunchOptions()) == PLACE


def test_what_flags_decide_is_frozen() -> None:
    """A run goes on under other flags where they decide its course alone."""
    assert flags_deciding("name") == {"training_run_name", "report_to"}
    assert flags_deciding("start") == {"audit", "overwrite_output_dir", "resume_from_checkpoint"}
    assert flags_deciding("course") == {
        "micro_batch_tokens", "eval_batch_size", "gradient_checkpointing", "zero_stage", "offload",
            "full_determinism", "torch_compile",
        "deepspeed", "logging_steps", "save_steps", "save_seconds", "save_total_limit",
    }  # fmt: skip


def test_a_resolved_job_is_written_as_it_was_asked_for() -> None:
    """In the order of the flags, without what a start alone decides."""
    request = parse(*BASE)[0]
    spec = resolve_defaults(request, "run", 2500, 33, fast_bf16=True).planned(2048)
    assert list(written(spec)) == list(written(request))
    assert written(request).keys() == DEFAULTS.keys() - flags_deciding("start") | {"task"}
    assert vars(spec) == vars(completed(request))


def test_flags_of_one_task_are_refused_in_the_other() -> None:
    """Every one of them; those of decoding are as long a list as the group in the help."""
    only = {name: flag.only_for for name, flag in JOB_FLAGS.items() if flag.only_for}
    assert [name for name, task in only.items() if task == "clf"] == [
        "label_words", "classes", "pair_shares", "both_orders", "class_weight",
        "target_min", "target_max",
    ]  # fmt: skip
    decoding = {name for name, flag in JOB_FLAGS.items() if flag.group == "decoding"}
    of_texts = {name for name, task in only.items() if task == "seq2seq"}
    of_documents = {"block_packing", "document_separator"}
    assert of_texts - decoding == {"max_target_length", "target_lang", "train_on"} | of_documents
    assert decoding - of_texts == set()


def test_adafactor_has_its_own_defaults() -> None:
    spec = completed(make_job("seq2seq", model_init_name="m", data_name="d", optim="adafactor"))
    found = spec.learning_rate, spec.lr_scheduler_type, spec.warmup_steps
    assert found == (1e-3, "constant", 0)


def test_names_are_those_of_training_arguments() -> None:
    """Where transformers has a flag of this name, it takes the same kind of value."""
    theirs = TrainingArguments.__dataclass_fields__
    ours = DEFAULTS.keys() & theirs.keys()
    assert ours >= {
        "max_steps", "num_train_epochs", "learning_rate", "optim", "lr_scheduler_type",
        "warmup_steps", "weight_decay", "max_grad_norm", "bf16", "gradient_checkpointing", "seed",
        "logging_steps", "save_total_limit", "label_smoothing_factor", "eval_on_start",
        "eval_steps", "save_steps", "metric_for_best_model", "gradient_accumulation_steps",
        "lr_scheduler_kwargs", "report_to", "torch_compile",
    }  # fmt: skip
    assert set(SCHEDULES) == {s.value for s in SchedulerType} - {"reduce_lr_on_plateau", "greedy"}


def test_true_false_flags_stand_alone_or_take_a_word() -> None:
    assert parse(*BASE, "--no_train")[0].no_train is True
    assert parse(*BASE, "--no_train", "--seed", "3")[0].no_train is True
    assert parse(*BASE, "--eval_on_start", "false")[0].eval_on_start is False
    assert parse(*BASE, "--bf16")[0].bf16 is True
    assert parse(*BASE, "--bf16", "auto")[0].bf16 is None
    assert parse(*BASE, "--bf16=False")[0].bf16 is False


def test_trackers_are_words_or_a_json_list(tmp_path: Path) -> None:
    both = ("tensorboard", "wandb")
    path = tmp_path / "job.json"
    for words, wanted in (
        (("none",), ()),
        (("wandb",), ("wandb",)),
        (("wandb", "tensorboard"), both),
        (("wandb", "--report_to", "tensorboard"), both),
    ):
        spec, problems = parse(*BASE, "--report_to", *words)
        assert (problems, spec.report_to) == ([], wanted)
        assert parse(*as_arguments(spec)) == (spec, [])
        path.write_text(json.dumps({"report_to": wanted}))
        assert parse(*BASE, "--config", str(path)) == (spec, [])
    for words, found in (
        ((), "no value"),
        (("tensorboards",), "['tensorboards']"),
        (("none", "wandb"), "['none', 'wandb']"),
    ):
        assert parse(*BASE, "--report_to", *words)[1] == [
            f"--report_to: {found} (expected none or some of tensorboard, wandb). Hint: choose one "
            "of them."
        ]


def test_data_is_a_spelling_of_data_name() -> None:
    assert parse("--model_init_name", "m", "--data", "d")[0].data_name == "d"


def test_a_job_file_is_overridden_by_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    job = {"model_init_name": "m", "data": "d", "max_steps": 7, "bf16": None, "temperature": 1}
    path.write_text(json.dumps(job))
    spec, problems = parse("--config", str(path))
    assert (problems, spec.max_steps, spec.temperature) == ([], 7, 1.0)
    spec, problems = parse("--config", str(path), "--num_train_epochs", "2", "--temperature", "0")
    assert (problems, spec.max_steps, spec.num_train_epochs) == ([], None, 2.0)
    spec, problems = parse("--config", str(path), "--model_init_path", "/other")
    assert (problems, spec.model_init_name, spec.model) == ([], None, "/other")


def test_a_written_spec_is_a_job_file(tmp_path: Path) -> None:
    spec = completed(
        parse(*BASE, "--optim", "adafactor", "--n_samples", "2", "--temperature", "1")[0]
    )
    path = tmp_path / "training_args.json"
    path.write_text(json.dumps(vars(spec)))
    again, problems = parse("--config", str(path))
    assert problems == []
    assert completed(again) == spec


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "--config {path}: Expecting property name enclosed in double"),
        ("[]", "--config {path}: list (expected a JSON object"),
        ('{"max_step": 2}', "--config {path}: max_step: unknown flag (expected a documented flag). "
            "Hint: did you mean max_steps?"),
        ('{"max_steps": 2.5}', "--config {path}: max_steps: 2.5 (expected an integer"),
        ('{"max_steps": true}', "--config {path}: max_steps: True (expected an integer"),
        ('{"task": "clf"}', "--config {path}: task: 'clf' (expected one of seq2seq"),
        ('{"fp16": true}', "--config {path}: fp16: unknown flag"),
    ],
)  # fmt: skip
def test_problems_of_a_job_file_name_it(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "job.json"
    path.write_text(content)
    _, problems = parse("--config", str(path), *BASE)
    assert len(problems) == 1
    assert problems[0].startswith(message.format(path=path))


def test_a_run_of_one_step_is_not_spent_on_warming_up() -> None:
    for max_steps, warmup in ((1, 0), (2, 1), (20, 1), (100, 5)):
        spec = make_job("seq2seq", model_init_name="m", data_name="d", max_steps=max_steps)
        assert completed(spec).warmup_steps == warmup


def test_keywords_are_checked_as_flags_are() -> None:
    with pytest.raises(BadInput) as raised:
        make_job("seq2seq", model_init_name="m", data_name="d", max_step=2, temperature=-1)
    assert str(raised.value).splitlines() == [
        "max_step: unknown flag (expected a documented flag). Hint: did you mean max_steps?",
        "temperature: -1 (expected a number of at least 0). Hint: correct the value.",
        "(2 problems in all)",
    ]


@pytest.mark.parametrize("task", ["seq2seq", "clf"])
@pytest.mark.parametrize("asked_for", ["-h", "--help_all"])
def test_help_fits_a_terminal(
    task: str, asked_for: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for columns in (80, 100, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as raised:
            parse_command_line(task, "", [asked_for])
        shown = capsys.readouterr().out
        assert raised.value.code == 0
        assert max(map(len, shown.splitlines())) <= min(columns, 100)
        assert (asked_for == "--help_all") or shown.count("\n  --") == 14 + (task == "seq2seq")


def test_help_explains_every_flag_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help_all")
    shown = " ".join(capsys.readouterr().out.split())
    of_others = {name for name, flag in JOB_FLAGS.items() if flag.only_for == "clf"}
    for name in DEFAULTS | PLACE:
        assert (f"--{name}" in shown) == (name not in of_others)
    for group in (
        "model",
        "data",
        "run",
        "training",
        "processes",
        "optimizer",
        "evaluation",
        "checkpoints",
    ):
        assert re.search(rf" {group}[\w ()]*: --", shown), group
    assert "[a quarter of the run]" in shown
    assert "[1024]" in shown


def test_an_evaluation_job_leaves_training_open() -> None:
    values: dict[str, Any] = {"model_init_name": "m", "data_name": "d", "no_train": True}
    spec = completed(make_job("seq2seq", **values))
    assert (spec.max_steps, spec.eval_steps, spec.max_new_tokens) == (None, None, 33)


def test_what_is_said_of_foreign_flags_names_real_ones() -> None:
    known = {
        field.name for of_all in (JobRequest, LaunchOptions) for field in dataclasses.fields(of_all)
    }
    assert known.isdisjoint(FOREIGN)
    for name, hint in FOREIGN.items():
        assert set(re.findall(r"--(\w+)", hint)) <= known, name


def test_a_stop_string_may_look_like_a_list() -> None:
    for given, expected in (
        ("[END]", ("[END]",)), ('["[END]", " ."]', ("[END]", " .")), ("[/INST]", ("[/INST]",)),
    ):  # fmt: skip
        spec, problems = parse(*BASE, "--stop", given)
        assert problems == []
        assert spec.stop == expected
