"""Bad inputs, each with its complete message; {mount} stands for the path of the mount."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from conftest import addition_records

from workflow.runs.mount import Mount

GOOD = addition_records(3)
BASE = {"model_init_name": "small", "data_name": "bad", "max_steps": "2"}


@dataclass(frozen=True)
class BadInput:
    """One bad input: the data file or command line, and the message."""

    name: str
    message: str
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


def _flag(name: str, message: str, value: str | None = None, **flags: str | None) -> BadInput:
    given = flags if value is None else {name: value}
    return BadInput(f"--{name} {value or ''}".strip(), message, _train(GOOD[2]), given)


def _clf(name: str, message: str, record: object = None, **flags: str) -> BadInput:
    """Data for clf whose second train record is `record`."""
    good = {"input": "is it so?", "target": 1}
    data = {"train": [good, record or good, good], "eval": [good]}
    return BadInput(name, message, data, flags, task="clf")


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
        (
            "--data_name sum: no such data (expected one of {mount}/data/sum.json, "
            "{mount}/data/sum.jsonl, {mount}/data/sum, sum). Hint: did you mean sums?"
        ),
        flags={"data_name": "sum"},
    ),
    BadInput(
        "no such file, no near name",
        (
            "--data_name zebra: no such data (expected one of {mount}/data/zebra.json, "
            "{mount}/data/zebra.jsonl, {mount}/data/zebra, zebra). Hint: put zebra.json into "
            "{mount}/data."
        ),
        flags={"data_name": "zebra"},
    ),
    BadInput(
        "an empty file",
        ("{mount}/data/bad.json: an empty file (expected records). Hint: add records."),
        b" \n",
    ),
    BadInput(
        "not JSON",
        (
            "{mount}/data/bad.json: line 2, column 18: invalid JSON: Expecting ',' delimiter "
            "(expected valid JSON). Hint: correct it."
        ),
        '{"train": [\n  {"prompt": "a" "completion": "b"}\n]}',
    ),
    BadInput(
        "JSON cut off",
        (
            "{mount}/data/bad.json: line 1, column 318: invalid JSON: Unterminated string starting "
            "at "
            "(expected valid JSON). Hint: write the file again, it may be truncated."
        ),
        json.dumps(_train(GOOD[2]))[:-40],
    ),
    BadInput(
        "not UTF-8",
        (
            "{mount}/data/bad.json: line 2: the byte 0xe9 (expected UTF-8). Hint: save the file as "
            "UTF-8."
        ),
        b'{"train": [\n{"prompt": "caf\xe9"}]}',
    ),
    BadInput(
        "a list at the top",
        (
            '{mount}/data/bad.json: a list at the top level (expected {"train": [{"prompt": '
            '…, "completion": …}, …], "eval": […]}). Hint: move the list to the keys "train" and '
            '"eval".'
        ),
        GOOD,
    ),
    BadInput(
        "a string at the top",
        (
            '{mount}/data/bad.json: a string at the top level (expected {"train": [{"prompt": '
            '…, "completion": …}, …], "eval": […]}). Hint: write an object.'
        ),
        '"train"',
    ),
    BadInput(
        "no train",
        (
            '{mount}/data/bad.json: no key "train" (keys: \'eval\') (expected "train": a '
            'list of {"prompt": …, "completion": …}). Hint: add it.'
        ),
        {"eval": GOOD},
    ),
    BadInput(
        "no eval",
        (
            '{mount}/data/bad.json: the key "Eval" (expected the key "eval"). Hint: rename it '
            'to "eval".'
        ),
        {"train": GOOD, "Eval": GOOD},
    ),
    BadInput(
        "a split that is not a list",
        ("{mount}/data/bad.json: train: an object (expected a list). Hint: make it a list."),
        {"train": {"0": GOOD[0]}, "eval": GOOD},
    ),
    BadInput(
        "an empty split",
        (
            "{mount}/data/bad.json: eval: an empty list (expected at least one record). "
            "Hint: add records, or --eval_fraction 0.1."
        ),
        {"train": GOOD, "eval": []},
    ),
    BadInput(
        "an empty split without training",
        (
            "{mount}/data/bad.json: eval: an empty list (expected at least one record). "
            "Hint: add records."
        ),
        {"train": GOOD, "eval": []},
        {"no_train": "true"},
    ),
    BadInput(
        "two possible eval splits and an empty one",
        (
            "{mount}/data/bad.json: an empty list under \"eval\", but the keys 'dev' and 'val' "
            '(expected one eval split). Hint: rename one of them to "eval".'
        ),
        {"train": GOOD, "eval": [], "val": GOOD, "dev": GOOD},
    ),
    BadInput(
        "a split given twice",
        (
            "{mount}/data/bad.json: the duplicate key 'eval' (expected unique keys). Hint: keep "
            "one "
            "of them.\n"
            "{mount}/data/bad.json: eval: an empty list (expected at least one record). "
            "Hint: add records, or --eval_fraction 0.1.\n"
            "(2 problems in all)"
        ),
        json.dumps(_train(GOOD[2]))[:-1] + ', "eval": []}',
    ),
    BadInput(
        "too deep nesting",
        (
            "{mount}/data/bad.json: too deeply nested (expected at most 100 levels). Hint: flatten "
            "it."
        ),
        "[" * 100_000,
    ),
    BadInput(
        "a number of 5,000 digits",
        (
            "{mount}/data/bad.json: an integer with more than 4,300 digits (expected a shorter "
            "number). Hint: quote it."
        ),
        _raw('{"n": ' + "1" * 5000 + "}"),
    ),
    # --- records
    BadInput(
        "a record that is not an object",
        (
            '{mount}/data/bad.json: train[1]: a string (expected {"prompt": …, '
            '"completion": …}). Hint: write an object.'
        ),
        _train("add one: 1"),
    ),
    BadInput(
        "a missing key",
        (
            "{mount}/data/bad.json: train[1]: no key \"prompt\" (keys: 'completion') "
            '(expected "prompt": text). Hint: add it.'
        ),
        _train({"completion": "2"}),
    ),
    BadInput(
        "a mis-cased key",
        (
            '{mount}/data/bad.json: train[1]: the key "Prompt" (expected the key '
            '"prompt"). Hint: rename it to "prompt".'
        ),
        _train({"Prompt": "add one: 1", "completion": "2"}),
    ),
    BadInput(
        "a misspelt key",
        (
            '{mount}/data/bad.json: train[1]: the key "completions" (expected the key '
            '"completion"). Hint: rename it to "completion".'
        ),
        _train({"prompt": "add one: 1", "completions": "2"}),
    ),
    BadInput(
        "a null prompt",
        (
            "{mount}/data/bad.json: train[1].prompt: null (expected text). Hint: write it, or "
            "remove the record."
        ),
        _train({"prompt": None, "completion": "2"}),
    ),
    BadInput(
        "a number as completion",
        (
            "{mount}/data/bad.json: train[1].completion: the number 2 (expected text). Hint: write "
            "the completion in quotes."
        ),
        _train({"prompt": "add one: 1", "completion": 2}),
    ),
    BadInput(
        "a list as prompt",
        (
            "{mount}/data/bad.json: train[1].prompt: a list (expected text). Hint: write it as a "
            "string."
        ),
        _train({"prompt": ["add", "one"], "completion": "2"}),
    ),
    BadInput(
        "a null completion",
        (
            "{mount}/data/bad.json: train[1].completion: null (expected text). Hint: write it, or "
            "remove the record (with --no_train: remove the key)."
        ),
        _train({"prompt": "add one: 1", "completion": None}),
    ),
    BadInput(
        "several completions",
        (
            "{mount}/data/bad.json: train[1].completion: a list (expected text). Hint: write "
            "one text."
        ),
        _train({"prompt": "add one: 1", "completion": ["2"]}),
    ),
    BadInput(
        "nothing but empty completions",
        (
            "{mount}/data/bad.json: train: an empty completion in every record (expected at least "
            "one non-empty completion). Hint: write the completions."
        ),
        {
            "train": [{"prompt": "a", "completion": ""}, {"prompt": "b", "completion": " \n"}],
            "eval": GOOD,
        },
    ),
    BadInput(
        "a lone surrogate",
        (
            "{mount}/data/bad.json: train[1].prompt: the lone surrogate \\ud83d "
            "(expected valid Unicode). Hint: fix the text's encoding."
        ),
        _raw(r'{"prompt": "a \ud83d", "completion": "2"}'),
    ),
    BadInput(
        "a NUL byte",
        (
            "{mount}/data/bad.json: train[1].prompt: a NUL byte (expected text). Hint: remove "
            "the byte."
        ),
        _train({"prompt": "a\0b", "completion": "2"}),
    ),
    BadInput(
        "a key given twice",
        (
            "{mount}/data/bad.json: train[1]: the duplicate key 'prompt' (expected unique keys). "
            "Hint: keep one of them."
        ),
        _raw('{"prompt": "a", "prompt": "b", "completion": "c"}'),
    ),
    BadInput(
        "NaN",
        (
            "{mount}/data/bad.json: train[1].weight[1]: NaN (expected a finite number). "
            "Hint: use null or remove it."
        ),
        _raw('{"prompt": "a", "completion": "b", "weight": [1, NaN]}'),
    ),
    BadInput(
        "infinity",
        (
            "{mount}/data/bad.json: train[1].weight: 1e999 (expected a finite number). "
            "Hint: use null or remove it."
        ),
        _raw('{"prompt": "a", "completion": "b", "weight": 1e999}'),
    ),
    BadInput(
        "deep nesting in an extra key",
        (
            "{mount}/data/bad.json: train[1].tree: too deeply nested (expected at most 100 "
            "levels). "
            "Hint: flatten it."
        ),
        _raw('{"prompt": "a", "completion": "b", "tree": ' + "[" * 200 + "]" * 200 + "}"),
    ),
    BadInput(
        "data of clf.py",
        (
            "{mount}/data/bad.json: train[0]: no key \"prompt\" (keys: 'input', "
            "'target') (expected \"prompt\": text). Hint: add it.\n"
            "{mount}/data/bad.json: train[0]: no key \"completion\" (keys: 'input', "
            "'target') (expected \"completion\": the answer). Hint: add it.\n"
            "(2 problems in all)"
        ),
        {"train": [{"input": "a", "target": 1}], "eval": GOOD},
    ),
    # --- JSON Lines
    BadInput(
        "a broken last line",
        (
            "{mount}/data/bad/train.jsonl: line 3, column 26: invalid JSON: Unterminated string "
            "starting at (expected valid JSON). Hint: write the file again, it may be truncated."
        ),
        prepare=_lines(LINE * 2 + LINE[:30], LINE),
    ),
    BadInput(
        "an empty line",
        (
            "{mount}/data/bad/train.jsonl: line 2: an empty line (expected a record). "
            "Hint: remove the line."
        ),
        prepare=_lines(LINE + b"\n" + LINE, LINE),
    ),
    BadInput(
        "no eval.jsonl",
        (
            '{mount}/data/bad: no eval.jsonl (expected eval.jsonl with {"prompt": …, "completion": '
            "…} "
            "per line). Hint: add the file, or --eval_fraction 0.1."
        ),
        prepare=_lines(LINE),
    ),
    BadInput(
        "a folder without data",
        (
            "{mount}/data/bad: a folder without train.jsonl and eval.jsonl (expected "
            "one record a line in each of the two files). Hint: add the files."
        ),
        prepare=lambda m: (m.data / "bad").mkdir(),
    ),
    # --- flags
    BadInput(
        "an unknown flag",
        (
            "--lerning_rate: an unknown flag (expected a known one). Hint: did you mean "
            "--learning_rate?"
        ),
        _train(GOOD[2]),
        extra=("--lerning_rate", "0.1"),
    ),
    BadInput(
        "a word without a flag",
        ("command line: 'train' (expected flags only). Hint: put a --flag before it."),
        _train(GOOD[2]),
        extra=("train",),
    ),
    BadInput(
        "fp16",
        (
            "--fp16: a flag this tool does not take (expected bf16 or fp32: T5 "
            "overflows in fp16 from the large size up). Hint: use --bf16 true, or --bf16 false for "
            "fp32."
        ),
        _train(GOOD[2]),
        extra=("--fp16",),
    ),
    BadInput(
        "a flag without a value",
        (
            "--learning_rate: no value (expected a number above 0). Hint: write it as "
            "--learning_rate X."
        ),
        _train(GOOD[2]),
        extra=("--learning_rate",),
    ),
    BadInput(
        "the same flag twice",
        ("--max_steps: several values (expected one value). Hint: give the flag once."),
        _train(GOOD[2]),
        extra=("--max_steps", "3"),
    ),
    BadInput(
        "a flag of another tool",
        (
            "--output_dir: a flag this tool does not take (expected a name inside "
            "mount/models). Hint: use --training_run_name."
        ),
        _train(GOOD[2]),
        extra=("--output_dir", "here"),
    ),
    BadInput(
        "flags of transformers' own scripts",
        (
            "--do_train: a flag this tool does not take (expected a run that trains unless "
            "it is told --no_train). Hint: leave it out.\n"
            "--train_file: a flag this tool does not take (expected one name for the data "
            "of all splits). Hint: use --data_name.\n"
            "--generation_max_length: a flag this tool does not take (expected a limit of "
            "what is generated). Hint: use --max_new_tokens.\n"
            "--early_stopping_patience: a flag this tool does not take (expected a run of "
            "the length that was asked for). Hint: leave it out: there is no early stopping; the "
            "checkpoint that is best by --metric_for_best_model is kept.\n"
            "--use-lora: a flag this tool does not take (expected training of all weights). "
            "Hint: leave it out: there are no adapters; see --dry_run.\n"
            "(5 problems in all)"
        ),
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
        (
            "--learning-rate: an unknown flag (expected a known one). Hint: did you mean "
            "--learning_rate?\n"
            "--frobnicate: an unknown flag (expected a known one). Hint: see -h for all flags.\n"
            "(2 problems in all)"
        ),
        _train(GOOD[2]),
        extra=("--learning-rate", "0.1", "--frobnicate"),
    ),
    _flag(
        "train_batch_size",
        (
            "--train_batch_size: '0' (expected a whole number of at least 1). Hint: write it "
            "as --train_batch_size N."
        ),
        "0",
    ),
    _flag(
        "max_steps",
        (
            "--max_steps: '1.5' (expected a whole number of at least 1). Hint: write it as "
            "--max_steps N."
        ),
        "1.5",
    ),
    _flag(
        "learning_rate",
        (
            "--learning_rate: 'nan' (expected a number above 0). Hint: write it as --learning_rate "
            "X."
        ),
        "nan",
    ),
    _flag(
        "bf16",
        (
            "--bf16: 'maybe' (expected auto or true or false). Hint: write it as --bf16 "
            "auto|true|false."
        ),
        "maybe",
    ),
    _flag(
        "optim",
        ("--optim: 'adam' (expected one of adamw_torch, adafactor). Hint: choose one of them."),
        "adam",
    ),
    _flag(
        "lr_scheduler_type",
        (
            "--lr_scheduler_type: 'exponential' (expected one of linear, cosine, "
            "cosine_with_restarts, polynomial, constant, constant_with_warmup, inverse_sqrt, "
            "cosine_with_min_lr, cosine_warmup_with_min_lr, warmup_stable_decay). Hint: choose one "
            "of them."
        ),
        "exponential",
    ),
    _flag(
        "max_grad_norm",
        (
            "--max_grad_norm: '-1' (expected a number of at least 0). Hint: write it as "
            "--max_grad_norm X."
        ),
        "-1",
    ),
    BadInput(
        "samples of one greedy answer",
        (
            "--n_samples: 8 at temperature 0.001 (expected 1 where decoding is greedy "
            "(temperature below 0.01)). Hint: raise --temperature, or every sample would be the "
            "same."
        ),
        _train(GOOD[2]),
        {"n_samples": "8"},
    ),
    BadInput(
        "beams that are drawn",
        (
            "--num_beams: 4 at temperature 1 (expected a temperature below 0.01 with beams). "
            "Hint: keep one of the two: beams are not drawn."
        ),
        _train(GOOD[2]),
        {"num_beams": "4", "temperature": "1"},
    ),
    BadInput(
        "more samples than beams",
        ("--n_samples: 5 of 4 beams (expected at most --num_beams). Hint: raise --num_beams."),
        _train(GOOD[2]),
        {"num_beams": "4", "n_samples": "5"},
    ),
    BadInput(
        "a choice among tokens where none is drawn",
        (
            "--top_k: 5 at temperature 0.001 (expected nothing where decoding is greedy "
            "(temperature below 0.01)). Hint: leave it out, or raise --temperature.\n"
            "--top_p: 0.9 at temperature 0.001 (expected nothing where decoding is greedy "
            "(temperature below 0.01)). Hint: leave it out, or raise --temperature.\n"
            "(2 problems in all)"
        ),
        _train(GOOD[2]),
        {"top_k": "5", "top_p": "0.9"},
    ),
    BadInput(
        "answers longer than they may be",
        (
            "--min_new_tokens: 9 with --max_new_tokens 5 (expected no more than that). Hint: lower "
            "it, or raise --max_new_tokens."
        ),
        _train(GOOD[2]),
        {"min_new_tokens": "9", "max_new_tokens": "5"},
    ),
    _flag(
        "stop",
        (
            "--stop: '[1]' (expected a text, or a JSON list of texts). Hint: write it as --stop "
            "TEXT."
        ),
        "[1]",
    ),
    BadInput(
        "steps and epochs",
        (
            "--max_steps: 2 together with --num_train_epochs 2 (expected one length of "
            "the run). Hint: keep one of the two."
        ),
        _train(GOOD[2]),
        {"num_train_epochs": "2"},
    ),
    BadInput(
        "a warm-up that the schedule ignores",
        (
            "--warmup_steps: 10.0 (expected nothing with the constant schedule, which "
            "ignores it). Hint: leave it out, or choose --lr_scheduler_type constant_with_warmup "
            "or "
            "another."
        ),
        _train(GOOD[2]),
        {"optim": "adafactor", "warmup_steps": "10"},
    ),
    BadInput(
        "keys that the schedule does not take",
        (
            "--lr_scheduler_kwargs: {'cycles': 2} (get_linear_schedule_with_warmup() "
            "got an unexpected keyword argument 'cycles') (expected what the schedule linear "
            "of transformers takes). Hint: correct the keys."
        ),
        _train(GOOD[2]),
        {"lr_scheduler_kwargs": '{"cycles": 2}'},
    ),
    # --- names
    BadInput(
        "two names for the model",
        (
            "model: --model_init_name and --model_init_path (expected exactly one of "
            "--model_init_name, --model_init_path, --model_pretrain_name). Hint: keep one of them."
        ),
        _train(GOOD[2]),
        {"model_init_path": "t5-small"},
    ),
    BadInput(
        "no name for the model",
        (
            "model: no name of a model (expected exactly one of --model_init_name, "
            "--model_init_path, --model_pretrain_name). Hint: add --model_init_name "
            "FOLDER_IN_MOUNT_MODELS."
        ),
        _train(GOOD[2]),
        {"model_init_name": None},
    ),
    BadInput(
        "no name for the data",
        ("data: no --data_name (expected the name of a data file). Hint: add --data_name NAME."),
        flags={"data_name": None},
    ),
    BadInput(
        "no such model",
        (
            "--model_init_name smal: no such folder (expected {mount}/models/smal). Hint: did "
            "you mean small?"
        ),
        _train(GOOD[2]),
        {"model_init_name": "smal"},
    ),
    BadInput(
        "no such path of a model",
        (
            "--model_init_path '/no/such/model': no such folder, and no name the hub "
            "could have (expected a local folder or a name like google/flan-t5-xl). Hint: correct "
            "the path."
        ),
        _train(GOOD[2]),
        {"model_init_name": None, "model_init_path": "/no/such/model"},
    ),
    BadInput(
        "a hub name while offline",
        (
            "model google/flan-t5-xl: no local folder, and the download failed: Cannot find an "
            "appropriate cached snapshot folder for the specified revision on the local disk and "
            "outgoing traffic has been disabled. To enable repo look-ups… (expected a local folder "
            "or a model of the hub). Hint: correct the name, or copy the model's folder to "
            "mount/models."
        ),
        _train(GOOD[2]),
        {"model_init_name": None, "model_pretrain_name": "google/flan-t5-xl"},
    ),
    BadInput(
        "a run that leaves the mount",
        (
            "--training_run_name '../x': a name that leaves mount/models, is hidden, "
            "cannot be printed or has over 120 bytes (expected a folder name inside "
            "{mount}/models). Hint: choose another name."
        ),
        _train(GOOD[2]),
        {"training_run_name": "../x"},
    ),
    BadInput(
        "an absolute run",
        (
            "--training_run_name '/tmp/x': a name that leaves mount/models, is hidden, "
            "cannot be printed or has over 120 bytes (expected a folder name inside "
            "{mount}/models). Hint: choose another name."
        ),
        _train(GOOD[2]),
        {"training_run_name": "/tmp/x"},
    ),
    BadInput(
        "a run named as a model",
        (
            "{mount}/models/small: something that is no run folder (expected a free "
            "name). Hint: choose another --training_run_name."
        ),
        _train(GOOD[2]),
        {"training_run_name": "small"},
    ),
    # --- models
    BadInput(
        "a model that only decodes",
        (
            "{mount}/models/other/config.json: the model type gpt2 (expected an "
            "encoder-decoder language model, e.g. t5, mt5 or bart). Hint: choose another model."
        ),
        _train(GOOD[2]),
        {"model_init_name": "other"},
        prepare=_model("other", lambda f: (f / "config.json").write_text('{"model_type": "gpt2"}')),
    ),
    BadInput(
        "a model without weights",
        (
            "{mount}/models/other: no model.safetensors or pytorch_model.bin, single or sharded "
            "(expected loadable weights). Hint: check the folder or download the model again."
        ),
        _train(GOOD[2]),
        {"model_init_name": "other"},
        prepare=_model("other", lambda f: (f / "model.safetensors").unlink()),
    ),
    BadInput(
        "weights cut off",
        (
            "{mount}/models/other: Error while deserializing header: invalid JSON in "
            "header: EOF while parsing a value at line 1 column 0 (expected loadable weights). "
            "Hint: "
            "check the folder or download the model again."
        ),
        _train(GOOD[2]),
        {"model_init_name": "other"},
        prepare=_model("other", lambda f: (f / "model.safetensors").write_bytes(b"\0" * 100)),
    ),
    BadInput(
        "a model without a tokenizer",
        (
            "{mount}/models/other: no spiece.model or tokenizer.json (expected a tokenizer). Hint: "
            "copy the tokenizer's files to the folder."
        ),
        _train(GOOD[2]),
        {"model_init_name": "other"},
        prepare=_model(
            "other", lambda f: [p.unlink() for p in [*f.glob("*token*"), f / "spiece.model"]]
        ),
    ),
    BadInput(
        "an adapter as the model",
        (
            "{mount}/models/other: an adapter of google/flan-t5-small (expected an encoder-decoder "
            "model with config.json). Hint: merge it into its model with peft (merge_and_unload, "
            "then save_pretrained)."
        ),
        _train(GOOD[2]),
        {"model_init_name": "other"},
        prepare=_model("other", _make_adapter),
    ),
    # --- several at once
    BadInput(
        "a share for evaluation without training",
        (
            "--eval_fraction: 0.5 (expected no share where all records are evaluated "
            "(--no_train)). Hint: leave it out."
        ),
        {"eval": GOOD},
        {"eval_fraction": "0.5", "no_train": "true"},
    ),
    BadInput(
        "a share for evaluation of data with eval records",
        (
            "--eval_fraction: 0.5, but the data has eval records in validation (expected data "
            "without "
            "eval records). Hint: remove the flag or these records."
        ),
        {"train": GOOD, "eval": [], "validation": GOOD},
        {"eval_fraction": "0.5"},
    ),
    BadInput(
        "a share for evaluation of data with a misspelt eval key",
        (
            '{mount}/data/bad.json: the key "Validation" (expected the key "eval"). Hint: rename '
            "it "
            'to "eval".'
        ),
        {"train": GOOD, "Validation": GOOD},
        {"eval_fraction": "0.5"},
    ),
    BadInput(
        "a share without training, of data without a clear eval split",
        (
            "--eval_fraction: 0.5 (expected no share where all records are evaluated "
            "(--no_train)). Hint: leave it out.\n"
            "{mount}/data/bad.json: no key \"eval\", but the keys 'Dev' and 'evaluation' "
            '(expected one eval split). Hint: rename one of them to "eval".\n'
            "(2 problems in all)"
        ),
        {"Dev": GOOD, "evaluation": GOOD},
        {"eval_fraction": "0.5", "no_train": "true"},
    ),
    BadInput(
        "only train without training",
        (
            '{mount}/data/bad.json: no key "eval" (keys: \'train\') (expected "eval": a list '
            'of {"prompt": …, "completion": …}). Hint: add it, or rename "train" to "eval".'
        ),
        {"train": GOOD},
        {"no_train": "true"},
    ),
    BadInput(
        "only train.jsonl without training",
        (
            '{mount}/data/bad: no eval.jsonl (expected eval.jsonl with {"prompt": …, "completion": '
            "…} "
            "per line). Hint: add the file, or rename train.jsonl to eval.jsonl."
        ),
        flags={"no_train": "true"},
        prepare=_lines(LINE),
    ),
    BadInput(
        "problems everywhere",
        (
            "--bf16: '2' (expected auto or true or false). Hint: write it as --bf16 "
            "auto|true|false.\n"
            "--training_run_name '../x': a name that leaves mount/models, is hidden, "
            "cannot be printed or has over 120 bytes (expected a folder name inside "
            "{mount}/models). Hint: choose another name.\n"
            "--model_init_name smal: no such folder (expected {mount}/models/smal). Hint: did "
            "you mean small?\n"
            "{mount}/data/bad.json: train[1].prompt: the number 1 (expected text). "
            "Hint: write it as a string.\n"
            "{mount}/data/bad.json: train[1]: no key \"completion\" (keys: 'prompt') "
            '(expected "completion": the answer). Hint: add it.\n'
            "(5 problems in all)"
        ),
        _train({"prompt": 1}),
        {"model_init_name": "smal", "bf16": "2", "training_run_name": "../x"},
    ),
    # --- clf
    _clf(
        "a target above the range",
        (
            "{mount}/data/bad.json: train[1].target: the number 1.5 (expected a number "
            "from 0 to 1, true or false). Hint: correct it, or set --target_min and --target_max "
            "to the "
            "range of all targets."
        ),
        {"input": "a", "target": 1.5},
    ),
    _clf(
        "a target in words",
        (
            "{mount}/data/bad.json: train[1].target: 'yes' (expected a number from 0 to 1, "
            "true or false). Hint: write a number, without quotes; clf.py knows two classes: for "
            "more "
            "take seq2seq.py, with the class's name as completion."
        ),
        {"input": "a", "target": "yes"},
    ),
    _clf(
        "a target that is NaN",
        (
            "{mount}/data/bad.json: train[1].target: NaN (expected a number from 0 to 1, "
            "true or false). Hint: correct it."
        ),
        {"input": "a", "target": float("nan")},
    ),
    _clf(
        "a target that is null",
        (
            "{mount}/data/bad.json: train[1].target: null (expected a number from 0 to 1, "
            "true or false). Hint: write it, or remove the record (with --no_train: remove the "
            "key)."
        ),
        {"input": "a", "target": None},
    ),
    _clf(
        "a third class",
        (
            "{mount}/data/bad.json: train[1].target: the number 2 (expected a number from 0 "
            "to 1, true or false). Hint: clf.py knows two classes: for more take seq2seq.py, with "
            "the "
            "class's name as completion; grades want --target_min and --target_max."
        ),
        {"input": "a", "target": 2},
    ),
    _clf(
        "one of several classes",
        (
            "{mount}/data/bad.json: train[1].target: a list (expected a number from 0 to 1, "
            "true or false). Hint: clf.py knows two classes: for more take seq2seq.py, with the "
            "class's "
            "name as completion."
        ),
        {"input": "a", "target": [0, 0, 1]},
    ),
    _clf(
        "no target",
        (
            "{mount}/data/bad.json: train[1]: no key \"target\" (keys: 'input') (expected "
            '"target": the answer). Hint: add it.'
        ),
        {"input": "a"},
    ),
    _clf(
        "a target outside the requested range",
        (
            "{mount}/data/bad.json: train[1].target: the number 6 (expected a number from 1 "
            "to 5). Hint: correct it, or set --target_min and --target_max to the range of all "
            "targets."
        ),
        {"input": "a", "target": 6},
        target_min="1",
        target_max="5",
    ),
    _clf(
        "true in another range",
        (
            "{mount}/data/bad.json: train[1].target: a boolean (expected a number from "
            "-1 to 1). Hint: correct it."
        ),
        {"input": "a", "target": True},
        target_min="-1",
    ),
    _clf(
        "a range that is none",
        "--target_max: 1 with --target_min 1 (expected more than that). Hint: raise it.",
        target_min="1",
    ),
    _clf(
        "a template without a place for the input",
        (
            "--template: 'is it so?' (expected a text with {{input}} in it, or a file that "
            "holds one). Hint: write it as --template FILE|TEXT."
        )
        .replace("{{", "{")
        .replace("}}", "}"),
        template="is it so?",
    ),
    _clf(
        "a flag of the other task",
        "--n_samples: 4 (expected a flag of clf.py). Hint: leave it out: it is for seq2seq.py.",
        n_samples="4",
    ),
    _clf(
        "a metric of the other task",
        (
            "--metric_for_best_model: bleu (expected one of loss, accuracy, "
            "balanced_accuracy, f1, auc, average_precision, brier, log_loss, ece, rmse, mae, "
            "pearson, spearman). Hint: choose one of them."
        ),
        metric_for_best_model="bleu",
    ),
    BadInput(
        "label words that are no single pieces, and a record",
        (
            "--label_words incomprehensible: 13 pieces of this vocabulary: ▁in c o m p r e "
            "h en s i b le (expected a word that is one piece, known to the model). Hint: choose "
            "two "
            "other words, or a model whose vocabulary has them.\n"
            "--label_words ☃: 2 pieces of this vocabulary: ▁ <unk> (expected a word that is "
            "one piece, known to the model). Hint: choose two other words, or a model whose "
            "vocabulary "
            "has them.\n"
            "{mount}/data/bad.json: train[0]: no key \"target\" (keys: 'input') (expected "
            '"target": the answer). Hint: add it.\n'
            "(3 problems in all)"
        ),
        {"train": [{"input": "a"}], "eval": [{"input": "a", "target": 1}]},
        extra=("--label_words", "incomprehensible", "☃"),
        task="clf",
    ),
    BadInput(
        "one label word",
        "--label_words: ['no'] (expected 2 different texts). Hint: write it as --label_words WORD "
        "WORD.",
        {"train": [{"input": "a", "target": 1}], "eval": [{"input": "a", "target": 1}]},
        extra=("--label_words", "no"),
        task="clf",
    ),
]
