"""Time from a command to its first step, and of its imports; about 3 minutes."""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import ROOT, T5_TINY
from benchmarks.processes import seq2seq
from benchmarks.publish import machine, matrix_rates, publish, spread
from workflow.runs.predictions import read_lines

TRANSFORMERS = "import torch, transformers; transformers.AutoModelForSeq2SeqLM"
T5 = "import torch; from transformers import T5ForConditionalGeneration"
PLAIN = ["--num_processes", "1"]
TWO = ["--num_processes", "2"]
NO_EVALUATION = ["--eval_on_start", "false"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5, help="runs of each, in turn")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        mount = Path(folder)
        shutil.copytree(ROOT / "mount" / "data", mount / "data")
        shutil.copytree(T5_TINY, mount / "models" / "t5-tiny")
        timed: dict[str, Callable[[], float]] = {
            "`seq2seq.py -h`": lambda: _whole(["seq2seq.py", "-h"]),
            "`import torch`": lambda: _whole(["-c", "import torch"]),
            f"`{TRANSFORMERS}`": lambda: _whole(["-c", TRANSFORMERS]),
            f"`{T5}`": lambda: _whole(["-c", T5]),
            "first step": lambda: _first_step(mount, PLAIN + NO_EVALUATION),
            "first step, after the evaluation at step 0": lambda: _first_step(mount, PLAIN),
            "first step of two processes": lambda: _first_step(mount, TWO + NO_EVALUATION),
        }
        for measure in timed.values():  # fills the caches
            measure()
        seconds: dict[str, list[float]] = {name: [] for name in timed}
        for _ in range(arguments.rounds):
            for name, measure in timed.items():
                seconds[name].append(measure())
                print(name, f"{seconds[name][-1]:.2f}", flush=True)
    publish("benchmarks startup", report(seconds, arguments.rounds))


def _whole(words: list[str]) -> float:
    """Seconds that Python takes for this, from its start to its end."""
    began = time.time()
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.time() - began


def _first_step(mount: Path, words: list[str]) -> float:
    """Seconds from the command to the line that the log gets after the first step."""
    command = seq2seq(mount, "t5-tiny", "data", "--max_steps", "1", "--logging_steps", "1", *words)
    began = time.time()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    first = next(read_lines(mount / "models" / "run" / "train_log.jsonl"))
    return float(first["time"]) - began


def report(seconds: dict[str, list[float]], rounds: int) -> str:
    """The section of docs/operate/performance.md that this benchmark writes."""
    return "\n".join(
        [
            "`python3 -m benchmarks startup` times commands from their start, for imports and help",
            "to their end, for jobs to the log's line of the first step: t5-tiny with the example",
            f"data, steps of 16 examples, tokens and audit cached. {rounds} rounds in turn after "
            "one that is not",
            "counted; medians, with the least and the greatest in brackets.",
            "",
            "| what | seconds |",
            "|---|---|",
            *(f"| {name} | {spread(found)} |" for name, found in seconds.items()),
            "",
            machine(matrix_rates()),
            "",
        ]
    )
