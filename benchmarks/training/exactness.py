"""the same losses and logits in any world, under any ZeRO stage, for any cut and offload"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import ROOT, write_section

WORLDS = (1, 2, 4)
SETTINGS = (
    (1, "none"), (1, "optimizer"), (2, "none"), (2, "optimizer"), (3, "none"), (3, "optimizer"),
    (3, "all"),
)  # fmt: skip
CUTS = (10_000, 96)
"""Padded positions of a micro-batch: all of a step at once, and a few examples at a time."""
STEPS = 20

Jobs = list[dict[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Train a small model in every way, and compare with one process in plain torch."""
    with tempfile.TemporaryDirectory() as folder:
        mount = Path(folder)
        make_mount(mount)
        differences: dict[tuple[str, str, int, int, str], tuple[float, float]] = {}
        for world in (0, *WORLDS):
            start_world(mount, max(1, world), jobs_of(world))
            if world == 0:
                continue
            for task, precision, stage, offload in kinds():
                names = [name_of(task, precision, world, stage, offload, cut) for cut in CUTS]
                plain = name_of(task, precision, 0, 0, "none", CUTS[0])
                compared = [compare(mount, name, plain, task) for name in names]
                losses, logits = (max(each) for each in zip(*compared, strict=True))
                differences[task, precision, world, stage, offload] = losses, logits
                print(task, precision, world, stage, offload, losses, logits, flush=True)
    write_section("exactness", table(differences))


def kinds() -> list[tuple[str, str, int, str]]:
    """What is tried in each world: bf16 and clf in fewer ways."""
    found = [("seq2seq", "fp32", *strategy) for strategy in SETTINGS]
    found += [("clf", "fp32", stage, "none") for stage in (1, 2, 3)]
    return found + [("seq2seq", "bf16", stage, "none") for stage in (1, 2, 3)]


def jobs_of(world: int) -> Jobs:
    """All jobs of a world; of world 0 those in plain torch that the others are compared with."""
    if world == 0:
        return [job(task, precision, 0, 0, "none", CUTS[0])
                for task, precision in (("seq2seq", "fp32"), ("clf", "fp32"), ("seq2seq", "bf16"))
                ]  # fmt: skip
    return [job(task, precision, world, stage, offload, cut)
            for task, precision, stage, offload in kinds() for cut in CUTS]  # fmt: skip


def job(
    task: str, precision: str, world: int, stage: int, offload: str, cut: int
) -> dict[str, Any]:
    flags: dict[str, Any] = {"zero_stage": stage, "offload": offload} if stage else {}
    return flags | {
        "task": task, "model_init_name": "m", "data_name": task, "max_steps": STEPS,
        "train_batch_size": 8, "gradient_accumulation_steps": 2,
        "dropout_rate": 0, "bf16": precision == "bf16", "micro_batch_tokens": cut,
        "logging_steps": 1, "eval_steps": STEPS, "eval_on_start": False, "save_steps": STEPS,
        "training_run_name": name_of(task, precision, world, stage, offload, cut),
    }  # fmt: skip


def name_of(task: str, precision: str, world: int, stage: int, offload: str, cut: int) -> str:
    return f"{task}_{precision}_{world}_{stage}_{offload}_{cut}"


def make_mount(mount: Path) -> None:
    """The embedded model's architecture with its vocabulary, and records of many lengths."""
    (mount / "models").mkdir()
    (mount / "data").mkdir()
    (mount / "models" / "m").symlink_to(ROOT / "mount" / "models" / "t5-tiny")
    numbers = [(17 * i % 89 + 2) ** (i % 5 + 1) for i in range(96)]
    texts = [" ".join(str(number)) for number in numbers]
    pairs = [{"prompt": f"add one: {text} {'. ' * (i % 7)}", "completion": text[: 3 + i % 11]}
             for i, text in enumerate(texts)]  # fmt: skip
    scored = [{"input": pair["prompt"], "target": i % 4 / 3} for i, pair in enumerate(pairs)]
    for task, records in (("seq2seq", pairs), ("clf", scored)):
        data = {"train": records, "eval": records[:7]}
        (mount / "data" / f"{task}.json").write_text(json.dumps(data))


def start_world(mount: Path, processes: int, jobs: Jobs) -> None:
    """Run jobs in a world of so many processes, under torchrun where they are several."""
    (mount / "jobs.json").write_text(json.dumps(jobs))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    script = [str(ROOT / "benchmarks" / "several_jobs.py"), str(mount), str(mount / "jobs.json")]
    started = [sys.executable, *(launcher if processes > 1 else []), *script]
    done = subprocess.run(started, check=False, stderr=subprocess.PIPE, cwd=mount, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])


def compare(mount: Path, name: str, plain: str, task: str) -> tuple[float, float]:
    """The largest relative difference of a run's losses from the plain one's, and of its logits.

    Logits are those of the last checkpoint for the eval records, relative to the largest of them.
    """

    runs = [mount / "models" / run for run in (name, plain)]
    losses = [
        [json.loads(line)["loss"] for line in (run / "train_log.jsonl").read_text().splitlines()]
        for run in runs
    ]
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


def table(differences: dict[tuple[str, str, int, int, str], tuple[float, float]]) -> str:
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
    for task, precision, stage, offload in kinds():
        found = [differences[task, precision, world, stage, offload] for world in WORLDS]
        cells = " | ".join(f"{losses:.0e}, {logits:.0e}" for losses, logits in found)
        lines.append(f"| {task}, {precision} | {stage} | {offload} | {cells} |")
    return "\n".join(lines) + "\n"
