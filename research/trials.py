"""What proofs share: a tiny model, and trials of the peer and of this project in processes.

`python3 -m research.trials MODULE FUNCTION …` is one process of a peer's trial; a trial's first
process writes the results to a JSON file.
"""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peer import load_peer, make_trainer, tokenized
from benchmarks.processes import Failed, environments, run_together, seq2seq
from benchmarks.synthetic import add_one, make_model, write_data

SHAPE = {"vocab_size": 1024, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4,
         "num_layers": 2, "dropout_rate": 0.0}  # fmt: skip
TRAINED = [add_one(5**power) for power in range(1, 9)]
"""Of unlike lengths: 37 target tokens, so that halves never have as many."""
EVALUATED = [add_one(7**power) for power in range(1, 6)]
LEARNING_RATE = 1e-6
LIMIT = 600
"""Seconds for one trial or command."""

PeerTrial = Callable[[Path, int], dict[str, Any]]
"""Takes the model's folder and how many batches an optimizer step is cut into."""


@dataclass
class Row:
    """A line of the table."""

    defect: str
    right: str
    peer: str
    peer_is_right: bool
    ours: str
    ours_is_right: bool


def make_mount(mount: Path) -> None:
    """A tiny random model without dropout, `m`, and the data `sums`."""
    make_model(mount / "models" / "m", SHAPE)
    write_data(mount / "data" / "sums.json", TRAINED, EVALUATED)


def try_peer(
    mount: Path, trial: PeerTrial, processes: int = 1, accumulation: int = 1
) -> dict[str, Any]:
    """What a trial finds, in processes of its own."""
    result = mount / "found.json"
    result.unlink(missing_ok=True)
    command = [
        sys.executable, "-m", "research.trials", trial.__module__, trial.__name__,
        str(mount / "models" / "m"), str(accumulation), str(result),
    ]  # fmt: skip
    run_together(command, environments(processes), LIMIT)
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def try_ours(measure: Callable[[], tuple[str, bool]]) -> tuple[str, bool]:
    """What this project gives and whether it is right, or how it failed."""
    try:
        return measure()
    except Failed as error:
        return f"failed: {_last_words(str(error))}", False


def _last_words(text: str) -> str:
    """The line that tells an error best: the first of a refusal, else the last of all."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "; expected " in line), lines[-1] if lines else "")


def run_ours(mount: Path, *words: str) -> Path:
    """Run this project's command on the model and the data of the mount: the run's folder."""
    command = seq2seq(mount, "m", "sums", "--bf16", "false", *words)
    run_together(command, environments(1), LIMIT)
    return mount / "models" / "run"


def one_step(processes: int, accumulation: int) -> list[str]:
    """Flags for one step over all train records; 64 positions hold about half of them."""
    words = {
        "num_processes": processes,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": len(TRAINED) // accumulation,
        "micro_batch_tokens": 1024 if accumulation == 1 else 64,
        "max_steps": 1,
        "warmup_steps": 0,
        "logging_steps": 1,
        "eval_on_start": "false",
        "max_new_tokens": 1,
    }
    if processes == 1:
        del words["num_processes"]
    return [text for name, value in words.items() for text in (f"--{name}", str(value))]


def peer_trainer(folder: Path, train: bool, **settings: Any) -> Any:
    """A Seq2SeqTrainer on the CPU, in a world of as many processes as were started."""
    model, tokenizer = load_peer(folder)
    backend = "gloo" if world_size() > 1 else None
    common = {"output_dir": str(folder / "peer"), "ddp_backend": backend, "seed": 0}
    examples = tokenized(tokenizer, TRAINED) if train else None
    trainer = make_trainer(model, tokenizer, common | settings, train_dataset=examples)
    assert_world(trainer.args.world_size)
    return trainer


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def assert_world(found: int) -> None:
    """Each process alone would train a world of its own, and look right."""
    if found != world_size():
        raise RuntimeError(f"a world of {found} processes; {world_size()} were started")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m research.trials", description=__doc__)
    parser.add_argument("module")
    parser.add_argument("function", help="a PeerTrial")
    parser.add_argument("folder", type=Path, help="the model folder")
    parser.add_argument("accumulation", type=int, help="batches per optimizer step")
    parser.add_argument("result", type=Path, help="file for the results")
    arguments = parser.parse_args()
    trial: PeerTrial = getattr(importlib.import_module(arguments.module), arguments.function)
    found = trial(arguments.folder, arguments.accumulation)
    if os.environ.get("RANK", "0") == "0":
        arguments.result.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
