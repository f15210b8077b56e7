"""Training and scoring of an encoder against Trainer and CrossEncoder; about 20 minutes."""

import argparse
import importlib.util
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ours import ONLY_STEPS, in_our_order, run_ours, seconds_of_steps
from benchmarks.peer import (
    TRAINING,
    check_packages,
    has_cuda,
    load_peer,
    make_trainer,
    time_training,
    usual_settings,
)
from benchmarks.publish import machine, publish, ratios, spread
from benchmarks.side_by_side import (
    WARM_UP,
    Trials,
    add_model_arguments,
    add_steps_argument,
    add_trial_arguments,
    check_model,
    link_model,
    measure,
)
from benchmarks.synthetic import write_data
from workflow.runs.predictions import evaluations

BATCH = 32
KINDS = {
    "peer": "`Trainer`, fp32 (its default)",
    "cross": "sentence-transformers' `CrossEncoder`, fp32 (its default)",
    "fp32": "workflow, `--bf16 false`",
    "default": "workflow, as it comes",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_trial_arguments(parser, list(KINDS))
    content = "inputs and targets from 0 to 1; targets of records without one alternate"
    add_model_arguments(parser, content, "minilm-l6")
    add_steps_argument(parser, 30)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """One trial where --trial names it (a process of its own), else all of them."""
    if arguments.trial is not None:
        print(json.dumps(TRIALS[arguments.trial](arguments)))
        return
    check_packages()
    check_model(arguments.model)

    def write(mount: Path) -> None:
        link_model(mount, arguments.model)
        data = json.loads(arguments.data.read_text(encoding="utf-8"))
        train, evaluated = _labelled(data["train"]), _labelled(data["eval"])
        write_data(mount / "data" / "data.json", train, evaluated)

    installed = importlib.util.find_spec("sentence_transformers") is not None
    kinds = [kind for kind in KINDS if installed or kind != "cross"]
    words = ["--steps", str(arguments.steps)]
    trials, rates = measure("encoder", kinds, arguments, write, words)
    publish("benchmarks encoder", _report(trials, rates, arguments))


def _labelled(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"input": r.get("input") or r["prompt"], "target": round(r.get("target", index % 2))}
        for index, r in enumerate(records)
    ]


def _ours(arguments: argparse.Namespace) -> dict[str, float]:
    folder = run_ours(
        "clf", arguments, **ONLY_STEPS, max_steps=arguments.steps, train_batch_size=BATCH
    )
    metrics = evaluations(folder)[-1].metrics
    count = len(_records(arguments)["eval"])
    return {
        "examples_per_second": _speed(arguments, seconds_of_steps(folder, BATCH)),
        "records_per_second": count / metrics["score_seconds"],
        "accuracy": metrics["accuracy"],
    }


def _trainer(arguments: argparse.Namespace) -> dict[str, float]:
    from transformers import DataCollatorWithPadding

    folder = arguments.folder / "models" / "m"
    model, tokenizer = load_peer(folder, "SequenceClassification", num_labels=2)
    train, evaluated = (
        [
            {**tokenizer(record["input"], truncation=True), "labels": record["target"]}
            for record in records
        ]
        for records in _splits(arguments)
    )
    trainer = make_trainer(
        model,
        tokenizer,
        _settings(arguments),
        train_dataset=train,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    seconds = time_training(trainer, WARM_UP)
    began = time.perf_counter()
    logits = trainer.predict(evaluated).predictions
    return _found(arguments, seconds, time.perf_counter() - began, logits)


def _cross_encoder(arguments: argparse.Namespace) -> dict[str, float]:
    """With an empty second text."""
    from datasets import Dataset
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import (
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
    )
    from sentence_transformers.cross_encoder.losses import CrossEntropyLoss

    folder, device = arguments.folder / "models" / "m", "cuda" if has_cuda() else "cpu"
    model = CrossEncoder(str(folder), num_labels=2, device=device)
    train, evaluated = _splits(arguments)
    columns = {
        "sentence1": [record["input"] for record in train],
        "sentence2": [""] * len(train),
        "label": [record["target"] for record in train],
    }
    trainer = CrossEncoderTrainer(
        model=model,
        args=CrossEncoderTrainingArguments(**usual_settings(), **_settings(arguments)),
        train_dataset=Dataset.from_dict(columns),
        loss=CrossEntropyLoss(model),
    )
    seconds = time_training(trainer, WARM_UP)
    pairs = [(record["input"], "") for record in evaluated]
    began = time.perf_counter()
    logits = model.predict(pairs, batch_size=BATCH, show_progress_bar=False)
    return _found(arguments, seconds, time.perf_counter() - began, logits)


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    return TRAINING | {
        "output_dir": str(arguments.folder / "peer"),
        "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": BATCH,
        "max_steps": arguments.steps,
        "logging_strategy": "no",
    }


def _records(arguments: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    path = arguments.folder / "data" / "data.json"
    records: dict[str, list[dict[str, Any]]] = json.loads(path.read_text(encoding="utf-8"))
    return records


def _splits(arguments: argparse.Namespace) -> tuple[list[Any], list[Any]]:
    """The records that our steps train on, and those that are scored."""
    data = _records(arguments)
    return in_our_order(data["train"], arguments.steps, BATCH), data["eval"]


def _speed(arguments: argparse.Namespace, seconds: float) -> float:
    speed: float = BATCH * (arguments.steps - WARM_UP) / seconds
    return speed


def _found(
    arguments: argparse.Namespace, trained: float, scored: float, logits: Any
) -> dict[str, float]:
    targets = [record["target"] for record in _records(arguments)["eval"]]
    right = sum(int(a) == b for a, b in zip(logits.argmax(-1), targets, strict=True))
    return {
        "examples_per_second": _speed(arguments, trained),
        "records_per_second": len(targets) / scored,
        "accuracy": right / len(targets),
    }


TRIALS = {"peer": _trainer, "cross": _cross_encoder, "fp32": _ours, "default": _ours}


def _report(trials: Trials, rates: dict[str, float], arguments: argparse.Namespace) -> str:
    """The section of docs/operate/performance.md that this benchmark writes."""
    scored = len(json.loads(arguments.data.read_text(encoding="utf-8"))["eval"])
    missing = "`CrossEncoder` is left out: sentence-transformers is not installed."
    return "\n".join(
        [
            f"`python3 -m benchmarks encoder` trains `{arguments.model.name}` with a new head on "
            f"`{arguments.data.name}`:",
            f"{arguments.steps} steps of {BATCH} examples, the first {WARM_UP} not timed; then the "
            f"{scored} eval records are scored, by the peers in",
            f"batches of {BATCH}; tokens are ready before the clock starts, but `CrossEncoder` "
            "makes them.",
            f"{arguments.rounds} rounds in turn: medians, with the least and the greatest in "
            "brackets; ratios are of each round's pair.",
            "",
            "| what | training: examples/s | against `Trainer` | scoring: records/s "
            "| against `Trainer` | accuracy |",
            "|---|---|---|---|---|---|",
            *(_row(trials, kind) for kind in trials),
            "",
            *([] if "cross" in trials else [missing, ""]),
            machine(rates),
            "",
        ]
    )


def _row(trials: Trials, kind: str) -> str:
    cells = [KINDS[kind]]
    for name in ("examples_per_second", "records_per_second"):
        speeds = [trial[name] for trial in trials[kind]]
        peers = [trial[name] for trial in trials["peer"]]
        cells += [spread(speeds, 1), ratios(speeds, peers)]
    cells.append(spread([trial["accuracy"] for trial in trials[kind]], 3))
    return f"| {' | '.join(cells)} |"
