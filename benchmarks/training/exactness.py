"""Losses and logits in any world against plain torch, by stage and offload; about 15 minutes."""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import T5_TINY
from benchmarks.processes import run_jobs
from benchmarks.publish import publish
from benchmarks.synthetic import write_data
from workflow.runs.predictions import read_lines

WORLDS = (1, 2, 4)
SETTINGS = (
    (1, "none"), (1, "optimizer"), (2, "none"), (2, "optimizer"), (3, "none"), (3, "optimizer"),
    (3, "all"),
)  # fmt: skip
CUTS = (10_000, 96)
"""Padded positions of a micro-batch: all of a step at once, and a few examples at a time."""
STEPS = 20


class Kind(NamedTuple):
    """A way to train; stage 0 is plain torch."""

    task: str
    precision: str
    stage: int = 0
    offload: str = "none"


KINDS = [
    *[Kind("seq2seq", "fp32", *setting) for setting in SETTINGS],
    *[Kind("clf", "fp32", stage) for stage in (1, 2, 3)],
    *[Kind("seq2seq", "bf16", stage) for stage in (1, 2, 3)],
]
"""What is tried in each world: bf16 and clf in fewer ways."""
PLAIN = {(kind.task, kind.precision): Kind(kind.task, kind.precision) for kind in KINDS}
"""What the others are compared with."""

Differences = dict[tuple[Kind, int], tuple[float, float]]
"""Of losses and of logits, by kind and number of processes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Train a small model in every way, and compare with one process in plain torch."""
    differences: Differences = {}
    with tempfile.TemporaryDirectory() as folder:
        mount = Path(folder)
        make_mount(mount)
        run_jobs(mount, [job(kind, 1, CUTS[0]) for kind in PLAIN.values()])
        for world in WORLDS:
            run_jobs(mount, [job(kind, world, cut) for kind in KINDS for cut in CUTS], world)
            for kind in KINDS:
                plain = name_of(PLAIN[kind.task, kind.precision], 1, CUTS[0])
                names = [name_of(kind, world, cut) for cut in CUTS]
                compared = [compare(mount, name, plain, kind.task) for name in names]
                losses, logits = (max(each) for each in zip(*compared, strict=True))
                differences[kind, world] = losses, logits
                print(world, *kind, losses, logits, flush=True)
    publish("benchmarks exactness", table(differences))


def job(kind: Kind, world: int, cut: int) -> dict[str, Any]:
    """The flags of a run."""
    flags = {"zero_stage": kind.stage, "offload": kind.offload} if kind.stage else {}
    return flags | {
        "task": kind.task, "model_init_name": "m", "data_name": kind.task, "max_steps": STEPS,
        "train_batch_size": 8, "gradient_accumulation_steps": 2,
        "dropout_rate": 0, "bf16": kind.precision == "bf16", "micro_batch_tokens": cut,
        "logging_steps": 1, "eval_steps": STEPS, "eval_on_start": False, "save_steps": STEPS,
        "training_run_name": name_of(kind, world, cut),
    }  # fmt: skip


def name_of(kind: Kind, world: int, cut: int) -> str:
    return "_".join(map(str, (*kind, world, cut)))


def make_mount(mount: Path) -> None:
    """The embedded model, and records of many lengths for both tasks."""
    (mount / "models").mkdir()
    (mount / "models" / "m").symlink_to(T5_TINY)
    numbers = [(17 * i % 89 + 2) ** (i % 5 + 1) for i in range(96)]
    texts = [" ".join(str(number)) for number in numbers]
    pairs = [{"prompt": f"add one: {text} {'. ' * (i % 7)}", "completion": text[: 3 + i % 11]}
             for i, text in enumerate(texts)]  # fmt: skip
    scored = [{"input": pair["prompt"], "target": i % 4 / 3} for i, pair in enumerate(pairs)]
    for task, records in (("seq2seq", pairs), ("clf", scored)):
        write_data(mount / "data" / f"{task}.json", records, records[:7])


def compare(mount: Path, name: str, plain: str, task: str) -> tuple[float, float]:
    """The largest relative difference of a run's losses from the plain one's, and of its logits.

    Logits are those of the last checkpoint for the eval records, relative to the largest of them.
    """
    runs = [mount / "models" / run for run in (name, plain)]
    losses = [[line["loss"] for line in read_lines(run / "train_log.jsonl")] for run in runs]
    assert len(losses[0]) == len(losses[1]) == STEPS
    of_losses = max(abs(one / two - 1) for one, two in zip(*losses, strict=True))
    one, two = (_logits(run / f"checkpoint-{STEPS}", mount / "data" / f"{task}.json")
                for run in runs)  # fmt: skip
    return of_losses, float((one - two).abs().max() / two.abs().max())


def _logits(checkpoint: Path, data: Path) -> Any:
    """The logits of a checkpoint, in float32, at the first positions for the eval records."""
    import torch
    from transformers import AutoTokenizer

    from workflow import load_model

    texts = [record.get("prompt", record.get("input"))
             for record in json.loads(data.read_text())["eval"]]  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    starts = torch.arange(6).repeat(len(texts), 1)
    with torch.no_grad():
        return load_model(checkpoint)(**batch, decoder_input_ids=starts).logits


def table(differences: Differences) -> str:
    """Differences by way of computing, a column a world."""
    import deepspeed
    import torch

    lines = [
        f"torch {torch.__version__}, DeepSpeed {deepspeed.__version__}, gloo on a CPU; {STEPS} "
        f"steps of 16 examples; of {len(CUTS)} cuts into micro-batches the larger difference.",
        "",
        "| task, precision | ZeRO | offload | " + " | ".join(
            f"{world} process{'es' * (world > 1)}: losses, logits" for world in WORLDS) + " |",
        "|---|---|---|" + "---|" * len(WORLDS),
    ]  # fmt: skip
    for kind in KINDS:
        found = [differences[kind, world] for world in WORLDS]
        cells = " | ".join(f"{losses:.0e}, {logits:.0e}" for losses, logits in found)
        lines.append(f"| {kind.task}, {kind.precision} | {kind.stage} | {kind.offload} | {cells} |")
    return "\n".join(lines) + "\n"
