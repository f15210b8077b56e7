"""Training speed against Seq2SeqTrainer: same model, records and steps; about 10 minutes."""

import argparse
import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ours import ONLY_STEPS, run_ours, seconds_of_steps
from benchmarks.peer import TRAINING, load_peer, make_trainer, time_training, tokenized
from benchmarks.publish import machine, publish, ratios, spread, usual_rate
from benchmarks.side_by_side import (
    WARM_UP,
    Trials,
    add_data_arguments,
    add_steps_argument,
    add_trial_arguments,
    measure,
)
from benchmarks.synthetic import FLAN_T5, make_model, training_gflop

BATCH = 64
KINDS = {
    "peer": "`Seq2SeqTrainer`, fp32 (its default), batch 16 × 4",
    "fp32": "workflow, `--bf16 false`",
    "default": "workflow, as it comes",
    "compiled": "workflow, `--torch_compile`",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_trial_arguments(parser, list(KINDS))
    add_data_arguments(parser, "prompts and completions")
    add_steps_argument(parser, 10)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """One trial where --trial names it (a process of its own), else all of them."""
    if arguments.trial is not None:
        print(json.dumps(run_trial(arguments)))
        return

    def write(mount: Path) -> None:
        make_model(mount / "models" / "m", FLAN_T5["small"], arguments.tokenizer)
        shutil.copy(arguments.data, mount / "data" / "data.json")

    words = ["--steps", str(arguments.steps)]
    trials, rates = measure("train", list(KINDS), arguments, write, words)
    publish("benchmarks train", report(trials, rates, arguments))


def run_trial(arguments: argparse.Namespace) -> dict[str, float]:
    """Train, then judge the model that was saved; speed is that of the steps after the warm-up."""
    from workflow.runs.train_state import peak_memory_gb

    train = _train_peer if arguments.trial == "peer" else _train_ours
    checkpoint, seconds = train(arguments)
    memory = peak_memory_gb()
    return {
        "examples_per_second": BATCH * (arguments.steps - WARM_UP) / seconds,
        "eval_loss": _eval_loss(checkpoint, arguments.folder),
        "peak_memory_gb": memory,
    }


def _train_ours(arguments: argparse.Namespace) -> tuple[Path, float]:
    run = run_ours(
        "seq2seq", arguments, **ONLY_STEPS, max_steps=arguments.steps, train_batch_size=16,
        gradient_accumulation_steps=4, max_new_tokens=1,
        torch_compile=arguments.trial == "compiled",
    )  # fmt: skip
    return run / f"checkpoint-{arguments.steps}", seconds_of_steps(run, BATCH)


def _train_peer(arguments: argparse.Namespace) -> tuple[Path, float]:
    """As transformers' own translation and summarization examples use it."""
    from transformers import AutoTokenizer

    folder = arguments.folder / "models" / "m"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    records = json.loads((arguments.folder / "data" / "data.json").read_text())["train"]
    output = arguments.folder / "peer"
    settings = {
        "output_dir": str(output),
        "per_device_train_batch_size": 16,
        "gradient_accumulation_steps": 4,
        "max_steps": arguments.steps,
    }
    trainer, seconds = time_peer(folder, tokenized(tokenizer, records), settings, WARM_UP)
    trainer.save_model(str(output))
    tokenizer.save_pretrained(output)
    return output, seconds


def time_peer(
    folder: Path, examples: Sequence[Any], settings: Mapping[str, Any], warm_up: int
) -> tuple[Any, float]:
    """Train the model of a folder by Seq2SeqTrainer.

    Returns:
        The trainer, and the seconds of the steps after the warm-up.
    """
    model, tokenizer = load_peer(folder)
    trainer = make_trainer(model, tokenizer, {**TRAINING, **settings}, train_dataset=examples)
    return trainer, time_training(trainer, warm_up)


def _eval_loss(checkpoint: Path, folder: Path) -> float:
    """Mean token loss of the eval records, by plain transformers calls in fp32."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    records = json.loads((folder / "data" / "data.json").read_text())["eval"]
    loss, tokens = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(records), 16):
            chosen = records[start : start + 16]
            sources = tokenizer([r["prompt"] for r in chosen], padding=True, return_tensors="pt")
            labels = tokenizer([r["completion"] for r in chosen], padding=True, return_tensors="pt")
            labels = labels["input_ids"].masked_fill(labels["input_ids"] == 0, -100)
            count = int((labels != -100).sum())
            loss += float(model(**sources, labels=labels).loss) * count
            tokens += count
    return loss / tokens


def gflop_per_example(arguments: argparse.Namespace) -> float:
    """Matrix products of training on an average example, of its real tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    records = json.loads(arguments.data.read_text())["train"]
    source = sum(map(len, tokenizer([r["prompt"] for r in records])["input_ids"]))
    target = sum(map(len, tokenizer([r["completion"] for r in records])["input_ids"]))
    return training_gflop(FLAN_T5["small"], source / len(records), target / len(records))


def report(trials: Trials, rates: dict[str, float], arguments: argparse.Namespace) -> str:
    """The section of docs/operate/performance.md that this benchmark writes."""
    work = gflop_per_example(arguments)
    rows = []
    for kind, found in trials.items():
        speeds = [trial["examples_per_second"] for trial in found]
        peers = [trial["examples_per_second"] for trial in trials["peer"]]
        speed = statistics.median(speeds)
        in_bf16 = kind in ("default", "compiled")
        rate = usual_rate(rates) if in_bf16 else rates["fp32"]
        loss = statistics.median(trial["eval_loss"] for trial in found)
        memory = statistics.median(trial["peak_memory_gb"] for trial in found)
        rows.append(
            f"| {KINDS[kind]} | {spread(speeds)} | {ratios(speeds, peers)} "
            f"| {work * speed / rate:.0%} | {loss:.3f} | {memory:.2f} |"
        )
    return "\n".join(
        [
            "`python3 -m benchmarks train` trains a random model in flan-t5-small's layout on the",
            f"records of `{arguments.data.name}`: {arguments.rounds} rounds in turn, "
            f"{arguments.steps} steps of {BATCH} examples each, the first {WARM_UP}",
            "not timed. Medians, with the least and the greatest in brackets; ratios are of each",
            "round's pair. The matrix rate counts real tokens only (6 × parameters × tokens).",
            "",
            "| what | examples/s | against the peer | of the matrix rate | eval loss | peak GB |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            machine(rates),
            "",
        ]
    )
