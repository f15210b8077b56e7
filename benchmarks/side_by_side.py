"""This project and the public peer in turn, each trial in its own process."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ROOT, T5_TINY
from benchmarks.publish import matrix_rates

REAL_MODELS = ROOT / "build" / "real_models"
"""Where scripts/real_models puts models for the tests, and for these."""

WARM_UP = 3
"""Steps that are not timed: memory is new, and the optimizer's state is made."""

Trials = dict[str, list[dict[str, Any]]]
"""What each trial found, by kind."""


def add_trial_arguments(parser: argparse.ArgumentParser, kinds: Sequence[str]) -> None:
    """How often to measure; what is hidden is for a benchmark's own processes."""
    parser.add_argument("--rounds", type=int, default=5, help="runs of each, in turn")
    parser.add_argument("--trial", choices=list(kinds), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--round", type=int, default=0, help=argparse.SUPPRESS)


def add_steps_argument(parser: argparse.ArgumentParser, steps: int) -> None:
    told = f"optimizer steps; the first {WARM_UP} are not timed"
    parser.add_argument("--steps", type=int, default=steps, help=told)


def add_data_arguments(parser: argparse.ArgumentParser, content: str) -> None:
    """Which data, and whose vocabulary.

    Args:
        content: what the data file holds.
    """
    _add_data(parser, content)
    parser.add_argument("--tokenizer", type=Path, default=T5_TINY, help="folder of a T5 tokenizer")


def add_model_arguments(parser: argparse.ArgumentParser, content: str, model: str) -> None:
    """Which data, and which pretrained model.

    Args:
        content: what the data file holds.
        model: of scripts/real_models.
    """
    _add_data(parser, content)
    parser.add_argument(
        "--model", type=Path, default=REAL_MODELS / model, help=f"the model's folder [{model}]"
    )


def _add_data(parser: argparse.ArgumentParser, content: str) -> None:
    example = ROOT / "mount" / "data" / "data.json"
    parser.add_argument("--data", type=Path, default=example, help=f"JSON file of {content}")


def link_model(mount: Path, model: Path) -> None:
    """Let the model `m` of a mount be that of a folder."""
    (mount / "models").mkdir()
    (mount / "models" / "m").symlink_to(model.resolve())


def check_model(model: Path) -> None:
    """Exit with the remedy if the folder is missing."""
    if not model.is_dir():
        hint = f"run scripts/real_models {REAL_MODELS}, or name another folder by --model"
        raise SystemExit(f"{model} is missing. Hint: {hint}")


def read_records(arguments: argparse.Namespace, data: str, split: str) -> list[dict[str, str]]:
    """The records of a data file in a trial's mount."""
    path = arguments.folder / "data" / f"{data}.json"
    records: list[dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))[split]
    return records


def measure(
    name: str,
    kinds: Sequence[str],
    arguments: argparse.Namespace,
    write: Callable[[Path], None],
    words: Sequence[str] = (),
) -> tuple[Trials, dict[str, float]]:
    """All kinds in turn, as many rounds as asked for; with the machine's matrix rates.

    Args:
        write: puts the model `m` and the data into a mount, whose data folder is there.
        words: flags for the trials.
    """
    trials: Trials = {kind: [] for kind in kinds}
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").mkdir()
        write(Path(folder))
        for number in range(arguments.rounds):
            rates.append(matrix_rates())
            for kind, found in trials.items():
                in_round = [*words, "--round", str(number)]
                found.append(_start_trial(name, kind, Path(folder), in_round))
                figures = {n: v for n, v in found[-1].items() if isinstance(v, float)}
                print(kind, figures, flush=True)
    return trials, {name: statistics.median(found[name] for found in rates) for name in rates[0]}


def trial_command(name: str, kind: str, folder: Path, words: Sequence[str]) -> list[str]:
    """What runs one trial of a benchmark on a mount."""
    command = [sys.executable, "-m", "benchmarks", name, "--trial", kind, "--folder", str(folder)]
    return [*command, *words]


def _start_trial(name: str, kind: str, folder: Path, words: Sequence[str]) -> dict[str, Any]:
    """The JSON of a trial's last line."""
    command = trial_command(name, kind, folder, words)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
