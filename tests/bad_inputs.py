"""Bad inputs; tests/golden/bad_input.txt has the complete message of each."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from conftest import ROOT, addition_records

from workflow.runs.mount import Mount

GOOD = addition_records(3)
BASE = {"model_init_name": "small", "data_name": "bad", "max_steps": "2"}


@dataclass(frozen=True)
class BadInput:
    """One bad input: what is in the data file or on the command line."""

    name: str
    data: object = None
    flags: dict[str, str | None] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    prepare: Callable[[Mount], None] | None = None
    task: str = "seq2seq"

    def write(self, mount: Mount) -> None:
        path = mount.data / "bad.json"
        if isinstance(self.data, bytes):
            path.write_bytes(self.data)
        elif self.data is not None:
            path.write_text(self.data if isinstance(self.data, str) else json.dumps(self.data))
        if self.prepare is not None:
            self.prepare(mount)

    def argv(self, mount: Mount) -> list[str]:
        flags = {**BASE, "mount": str(mount.root)} | self.flags
        named = [word for name, value in flags.items() if value is not None
                 for word in (f"--{name}", value)]  # fmt: skip
        return named + list(self.extra)


def _train(record: object) -> dict[str, object]:
    """Data whose second train record is `record`."""
    return {"train": [GOOD[0], record, GOOD[1]], "eval": GOOD}


def _flag(name: str, value: str | None = None, **flags: str | None) -> BadInput:
    given = flags if value is None else {name: value}
    return BadInput(f"--{name} {value or ''}".strip(), _train(GOOD[2]), given)


def _clf(name: str, record: object = None, **flags: str) -> BadInput:
    """Data for clf whose second train record is `record`."""
    good = {"input": "is it so?", "target": 1}
    data = {"train": [good, record or good, good], "eval": [good]}
    return BadInput(name, data, flags, task="clf")


def _raw(text: str) -> str:
    """A data file whose second train record is written as `text`."""
    return json.dumps(_train("@")).replace('"@"', text)


def _lines(train: bytes, evaluation: bytes | None = None) -> Callable[[Mount], None]:
    def prepare(mount: Mount) -> None:
        folder = mount.data / "bad"
        folder.mkdir()
        (folder / "train.jsonl").write_bytes(train)
        if evaluation is not None:
            (folder / "eval.jsonl").write_bytes(evaluation)

    return prepare


def _model(name: str, change: Callable[[Path], object]) -> Callable[[Mount], None]:
    """Copy the good model to `name`, then change its folder."""

    def prepare(mount: Mount) -> None:
        shutil.copytree(mount.models / "small", mount.models / name)
        change(mount.models / name)

    return prepare


def _make_adapter(folder: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    base = {"base_model_name_or_path": "google/flan-t5-small"}
    (folder / "adapter_config.json").write_text(json.dumps(base))


LINE = json.dumps(GOOD[0]).encode() + b"\n"

CASES = [
    # --- files
    BadInput(
        "no such file",
        flags={"data_name": "sum"},
    ),
    BadInput(
        "no such file, no near name",
        flags={"data_name": "zebra"},
    ),
    BadInput(
        "an empty file",
        b" \n",
    ),
    BadInput(
        "not JSON",
        '{"train": [\n  {"prompt": "a" "completion": "b"}\n]}',
    ),
    BadInput(
        "JSON cut off",
        json.dumps(_train(GOOD[2]))[:-40],
    ),
    BadInput(
        "not UTF-8",
        b'{"train": [\n{"prompt": "caf\xe9"}]}',
    ),
    BadInput(
        "a list at the top",
        GOOD,
    ),
    BadInput(
        "a string at the top",
        '"train"',
    ),
    BadInput(
        "no train",
        {"eval": GOOD},
    ),
    BadInput(
        "no eval",
        {"train": GOOD, "Eval": GOOD},
    ),
    BadInput(
        "a split that is not a list",
        {"train": {"0": GOOD[0]}, "eval": GOOD},
    ),
    BadInput(
        "an empty split",
        {"train": GOOD, "eval": []},
    ),
    BadInput(
        "an empty split without training",
        {"train": GOOD, "eval": []},
        {"no_train": "true"},
    ),
    BadInput(
        "two possible eval splits and an empty one",
        {"train": GOOD, "eval": [], "val": GOOD, "dev": GOOD},
    ),
    BadInput(
        "a split given twice",
        json.dumps(_train(GOOD[2]))[:-1] + ', "eval": []}',
    ),
    BadInput(
        "too deep nesting",
        "[" * 100_000,
    ),
    BadInput(
        "a number of 5,000 digits",
        _raw('{"n": ' + "1" * 5000 + "}"),
    ),
    # --- records
    BadInput(
        "a record that is not an object",
        _train("add one: 1"),
    ),
    BadInput(
        "a missing key",
        _train({"completion": "2"}),
    ),
    BadInput(
        "a mis-cased key",
        _train({"Prompt": "add one: 1", "completion": "2"}),
    ),
    BadInput(
        "a misspelt key",
        _train({"prompt": "add one: 1", "completions": "2"}),
    ),
    BadInput(
        "a null prompt",
        _train({"prompt": None, "completion": "2"}),
    ),
    BadInput(
        "a number as completion",
        _train({"prompt": "add one: 1", "completion": 2}),
    ),
    BadInput(
        "a list as prompt",
        _train({"prompt": ["add", "one"], "completion": "2"}),
    ),
    BadInput(
        "a null completion",
        _train({"prompt": "add one: 1", "completion": None}),
    ),
    BadInput(
        "several completions",
        _train({"prompt": "add one: 1", "completion": ["2"]}),
    ),
    BadInput(
        "nothing but empty completions",
        {
            "train": [{"prompt": "a", "completion": ""}, {"prompt": "b", "completion": " \n"}],
            "eval": GOOD,
        },
    ),
    BadInput(
        "a lone surrogate",
        _raw(r'{"prompt": "a \ud83d", "completion": "2"}'),
    ),
    BadInput(
        "a NUL byte",
        _train({"prompt": "a\0b", "completion": "2"}),
    ),
    BadInput(
        "a key given twice",
        _raw('{"prompt": "a", "prompt": "b", "completion": "c"}'),
    ),
    BadInput(
        "NaN",
        _raw('{"prompt": "a", "completion": "b", "weight": [1, NaN]}'),
    ),
    BadInput(
        "infinity",
        _raw('{"prompt": "a", "completion": "b", "weight": 1e999}'),
    ),
    BadInput(
        "deep nesting in an extra key",
        _raw('{"prompt": "a", "completion": "b", "tree": ' + "[" * 200 + "]" * 200 + "}"),
    ),
    BadInput(
        "data of clf.py",
        {"train": [{"input": "a", "target": 1}], "eval": GOOD},
    ),
    # --- JSON Lines
    BadInput(
        "a broken last line",
        prepare=_lines(LINE * 2 + LINE[:30], LINE),
    ),
    BadInput(
        "an empty line",
        prepare=_lines(LINE + b"\n" + LINE, LINE),
    ),
    BadInput(
        "no eval.jsonl",
        prepare=_lines(LINE),
    ),
    BadInput(
        "a folder without data",
        prepare=lambda m: (m.data / "bad").mkdir(),
    ),
    # --- flags
    BadInput(
        "an unknown flag",
        _train(GOOD[2]),
        extra=("--lerning_rate", "0.1"),
    ),
    BadInput(
        "a word without a flag",
        _train(GOOD[2]),
        extra=("train",),
    ),
    BadInput(
        "fp16",
        _train(GOOD[2]),
        extra=("--fp16",),
    ),
    BadInput(
        "a flag without a value",
        _train(GOOD[2]),
        extra=("--learning_rate",),
    ),
    BadInput(
        "the same flag twice",
        _train(GOOD[2]),
        extra=("--max_steps", "3"),
    ),
    BadInput(
        "a flag of another tool",
        _train(GOOD[2]),
        extra=("--output_dir", "here"),
    ),
    BadInput(
        "flags of transformers' own scripts",
        _train(GOOD[2]),
        extra=(
            "--do_train",
            "--train_file",
            "x.json",
            "--generation_max_length=64",
            "--early_stopping_patience",
            "3",
            "--use-lora",
        ),
    ),
    BadInput(
        "dashes, and a flag like none",
        _train(GOOD[2]),
        extra=("--learning-rate", "0.1", "--frobnicate"),
    ),
    _flag(
        "train_batch_size",
        "0",
    ),
    _flag(
        "max_steps",
        "1.5",
    ),
    _flag(
        "learning_rate",
        "nan",
    ),
    _flag(
        "bf16",
        "maybe",
    ),
    _flag(
        "optim",
        "adam",
    ),
    _flag(
        "lr_scheduler_type",
        "exponential",
    ),
    _flag(
        "max_grad_norm",
        "-1",
    ),
    BadInput(
        "samples of one greedy answer",
        _train(GOOD[2]),
        {"n_samples": "8"},
    ),
    BadInput(
        "beams that are drawn",
        _train(GOOD[2]),
        {"num_beams": "4", "temperature": "1"},
    ),
    BadInput(
        "more samples than beams",
        _train(GOOD[2]),
        {"num_beams": "4", "n_samples": "5"},
    ),
    BadInput(
        "groups of beams that are no groups",
        _train(GOOD[2]),
        {"num_beams": "6", "n_samples": "4", "num_beam_groups": "4"},
    ),
    BadInput(
        "more groups of beams than samples",
        _train(GOOD[2]),
        {"num_beams": "6", "num_beam_groups": "3", "diversity_penalty": "0.5"},
    ),
    BadInput(
        "a penalty without groups of beams",
        _train(GOOD[2]),
        {"num_beams": "6", "diversity_penalty": "0.5"},
    ),
    _flag("num_beam_groups", "0"),
    _flag("diversity_penalty", "-1"),
    BadInput(
        "a choice among tokens where none is drawn",
        _train(GOOD[2]),
        {"top_k": "5", "top_p": "0.9", "min_p": "0.1", "typical_p": "0.9"},
    ),
    _flag("choices", "nowhere.txt"),
    _flag("metric", "bleurt"),
    _flag("metric", "blurtscore:small"),
    _flag("metric", "bartscore"),
    _flag("metric", "bartscore:none"),
    _flag("metric", "bertscore:small:x"),
    _flag("metric", "bertscore:small"),
    _flag("metric", "ibleu:2"),
    _flag("metric", "squad:1"),
    _flag("metric", "choice:nowhere.txt"),
    _flag("metric_for_best_model", "bartscore"),
    _flag("metric_for_best_model", "copied_run"),
    _flag("metric_for_best_model", "blue"),
    BadInput(
        "two judges of one name",
        _train(GOOD[2]),
        extra=("--metric", "perplexity:small", "perplexity:small", "json", "bertscore"),
    ),
    BadInput(
        "references that are no texts",
        {"train": [GOOD[0]], "eval": [{"prompt": "a", "completion": ["b", 3]}, *GOOD]},
    ),
    BadInput(
        "an empty list of references",
        {"train": [GOOD[0]], "eval": [{"prompt": "a", "completion": []}, *GOOD]},
    ),
    BadInput(
        "several completions to train on",
        _train({"prompt": "a", "completion": ["b", "c"]}),
    ),
    BadInput(
        "choices that are longer than an answer",
        _train(GOOD[2]),
        {"choices": str(ROOT / "README.md"), "max_new_tokens": "2"},
    ),
    BadInput(
        "the best of fewer samples than are kept",
        _train(GOOD[2]),
        {
            "best_of": "3",
            "n_samples": "4",
            "temperature": "1",
            "choices": "x",
            "min_new_tokens": "2",
        },
    ),
    _flag("logit_bias", "yes=1"),
    _flag("logit_bias", "5=much"),
    _flag("logit_bias", "99999=1"),
    BadInput(
        "answers longer than they may be",
        _train(GOOD[2]),
        {"min_new_tokens": "9", "max_new_tokens": "5"},
    ),
    _flag(
        "stop",
        "[1]",
    ),
    BadInput(
        "steps and epochs",
        _train(GOOD[2]),
        {"num_train_epochs": "2"},
    ),
    BadInput(
        "a warmup that the schedule ignores",
        _train(GOOD[2]),
        {"optim": "adafactor", "warmup_steps": "10"},
    ),
    BadInput(
        "keys that the schedule does not take",
        _train(GOOD[2]),
        {"lr_scheduler_kwargs": '{"cycles": 2}'},
    ),
    # --- names
    BadInput(
        "two names for the model",
        _train(GOOD[2]),
        {"model_init_path": "t5-small"},
    ),
    BadInput(
        "no name for the model",
        _train(GOOD[2]),
        {"model_init_name": None},
    ),
    BadInput(
        "no name for the data",
        flags={"data_name": None},
    ),
    BadInput(
        "no such model",
        _train(GOOD[2]),
        {"model_init_name": "smal"},
    ),
    BadInput(
        "no such path of a model",
        _train(GOOD[2]),
        {"model_init_name": None, "model_init_path": "/no/such/model"},
    ),
    BadInput(
        "a hub name while offline",
        _train(GOOD[2]),
        {"model_init_name": None, "model_pretrain_name": "google/flan-t5-xl"},
    ),
    BadInput(
        "a run that leaves the mount",
        _train(GOOD[2]),
        {"training_run_name": "../x"},
    ),
    BadInput(
        "an absolute run",
        _train(GOOD[2]),
        {"training_run_name": "/tmp/x"},
    ),
    BadInput(
        "a run named as a model",
        _train(GOOD[2]),
        {"training_run_name": "small"},
    ),
    # --- models
    BadInput(
        "a model of another kind",
        _train(GOOD[2]),
        {"model_init_name": "other"},
        prepare=_model("other", lambda f: (f / "config.json").write_text('{"model_type": "vit"}')),
    ),
    BadInput(
        "a model without weights",
        _train(GOOD[2]),
        {"model_init_name": "other"},
        prepare=_model("other", lambda f: (f / "model.safetensors").unlink()),
    ),
    BadInput(
        "weights cut off",
        _train(GOOD[2]),
        {"model_init_name": "other"},
        prepare=_model("other", lambda f: (f / "model.safetensors").write_bytes(b"\0" * 100)),
    ),
    BadInput(
        "a model without a tokenizer",
        _train(GOOD[2]),
        {"model_init_name": "other"},
        prepare=_model(
            "other", lambda f: [p.unlink() for p in [*f.glob("*token*"), f / "spiece.model"]]
        ),
    ),
    BadInput(
        "an adapter as the model",
        _train(GOOD[2]),
        {"model_init_name": "other"},
        prepare=_model("other", _make_adapter),
    ),
    # --- several at once
    BadInput(
        "a share for evaluation without training",
        {"eval": GOOD},
        {"eval_fraction": "0.5", "no_train": "true"},
    ),
    BadInput(
        "a share for evaluation of data with eval records",
        {"train": GOOD, "eval": [], "validation": GOOD},
        {"eval_fraction": "0.5"},
    ),
    BadInput(
        "a share for evaluation of data with a misspelt eval key",
        {"train": GOOD, "Validation": GOOD},
        {"eval_fraction": "0.5"},
    ),
    BadInput(
        "a share without training, of data without a clear eval split",
        {"Dev": GOOD, "evaluation": GOOD},
        {"eval_fraction": "0.5", "no_train": "true"},
    ),
    BadInput(
        "only train without training",
        {"train": GOOD},
        {"no_train": "true"},
    ),
    BadInput(
        "only train.jsonl without training",
        flags={"no_train": "true"},
        prepare=_lines(LINE),
    ),
    BadInput(
        "problems everywhere",
        _train({"prompt": 1}),
        {"model_init_name": "smal", "bf16": "2", "training_run_name": "../x"},
    ),
    # --- clf
    _clf(
        "a target above the range",
        {"input": "a", "target": 1.5},
    ),
    _clf(
        "a target in words",
        {"input": "a", "target": "yes"},
    ),
    _clf(
        "a target that is NaN",
        {"input": "a", "target": float("nan")},
    ),
    _clf(
        "a target that is null",
        {"input": "a", "target": None},
    ),
    _clf(
        "a third class",
        {"input": "a", "target": 2},
    ),
    _clf(
        "one of several classes",
        {"input": "a", "target": [0, 0, 1]},
    ),
    _clf(
        "no target",
        {"input": "a"},
    ),
    _clf(
        "a target outside the requested range",
        {"input": "a", "target": 6},
        target_min="1",
        target_max="5",
    ),
    _clf(
        "true in another range",
        {"input": "a", "target": True},
        target_min="-1",
    ),
    _clf(
        "a range that is none",
        target_min="1",
    ),
    _clf(
        "a template without a place for the input",
        template="is it so?",
    ),
    _clf(
        "a flag of the other task",
        n_samples="4",
    ),
    _clf(
        "a metric of the other task",
        metric_for_best_model="bleu",
    ),
    _clf(
        "answers like SQuAD's for scores",
        metric="squad",
    ),
    BadInput(
        "label words that are no single pieces, and a record",
        {"train": [{"input": "a"}], "eval": [{"input": "a", "target": 1}]},
        extra=("--label_words", "incomprehensible", "☃"),
        task="clf",
    ),
    BadInput(
        "one label word",
        {"train": [{"input": "a", "target": 1}], "eval": [{"input": "a", "target": 1}]},
        extra=("--label_words", "no"),
        task="clf",
    ),
]
