"""Training and scoring of an encoder against Trainer and CrossEncoder; about 20 minutes.

On texts with targets, or on pairs of answers, which are scored in both orders.
"""

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
    content = (
        "inputs and targets from 0 to 1 (those of records without one alternate), or pairs of "
        "answers with labels (scripts/make_pairs.py)"
    )
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
    are_pairs = "response_a" in json.loads(arguments.data.read_text(encoding="utf-8"))["eval"][0]
    command = "benchmarks encoder --data PAIRS" if are_pairs else "benchmarks encoder"
    publish(command, _report(trials, rates, arguments))


def _labelled(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if "response_a" in records[0]:
        return [dict(record) for record in records]
    return [
        {"input": r.get("input") or r["prompt"], "target": round(r.get("target", index % 2))}
        for index, r in enumerate(records)
    ]


def _texts(record: Mapping[str, Any], separator: str, swapped: bool = False) -> tuple[str, str]:
    """The two texts of a record, as the peers read them: an input, or a prompt and two answers."""
    if "input" in record:
        return record["input"], ""
    answers = record["response_a"], record["response_b"]
    return record["prompt"], f" {separator} ".join(answers[::-1] if swapped else answers)


def _class(record: Mapping[str, Any], swapped: bool = False) -> int:
    if "input" in record:
        return int(record["target"])
    return "abt".index(record["label"][0]) ^ (swapped and record["label"] != "tie")


def _orders(record: Mapping[str, Any]) -> tuple[bool, ...]:
    """Whether the answers are swapped, for each time that a record is scored."""
    return (False,) if "input" in record else (False, True)


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
    train, evaluated = _splits(arguments)
    count = len({_class(record, one) for record in train for one in _orders(record)})
    model, tokenizer = load_peer(folder, "SequenceClassification", num_labels=count)

    def example(record: Mapping[str, Any], swapped: bool = False) -> dict[str, Any]:
        first, second = _texts(record, tokenizer.sep_token, swapped)
        texts = (first, second) if second else (first,)
        return {**tokenizer(*texts, truncation=True), "labels": _class(record, swapped)}

    shown = [example(record, one) for record in evaluated for one in _orders(record)]
    trainer = make_trainer(
        model,
        tokenizer,
        _settings(arguments),
        train_dataset=[example(record) for record in train],
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    seconds = time_training(trainer, WARM_UP)
    began = time.perf_counter()
    logits = trainer.predict(shown).predictions
    return _found(arguments, seconds, time.perf_counter() - began, logits)


def _cross_encoder(arguments: argparse.Namespace) -> dict[str, float]:
    """A text alone has an empty second one."""
    from datasets import Dataset
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import (
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
    )
    from sentence_transformers.cross_encoder.losses import CrossEntropyLoss

    folder, device = arguments.folder / "models" / "m", "cuda" if has_cuda() else "cpu"
    train, evaluated = _splits(arguments)
    count = len({_class(record, one) for record in train for one in _orders(record)})
    model = CrossEncoder(str(folder), num_labels=count, device=device)
    texts = [_texts(record, model.tokenizer.sep_token) for record in train]
    columns = {
        "sentence1": [first for first, _ in texts],
        "sentence2": [second for _, second in texts],
        "label": [_class(record) for record in train],
    }
    trainer = CrossEncoderTrainer(
        model=model,
        args=CrossEncoderTrainingArguments(**usual_settings(), **_settings(arguments)),
        train_dataset=Dataset.from_dict(columns),
        loss=CrossEntropyLoss(model),
    )
    seconds = time_training(trainer, WARM_UP)
    separator = model.tokenizer.sep_token
    pairs = [_texts(record, separator, one) for record in evaluated for one in _orders(record)]
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
    """What a peer's trial found; its accuracy is that of both orders, ours of their mean."""
    records = _records(arguments)["eval"]
    classes = [_class(record, one) for record in records for one in _orders(record)]
    right = sum(int(a) == b for a, b in zip(logits.argmax(-1), classes, strict=True))
    return {
        "examples_per_second": _speed(arguments, trained),
        "records_per_second": len(records) / scored,
        "accuracy": right / len(classes),
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
