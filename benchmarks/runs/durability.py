"""Duration of saves and stops, and disk space against the minimum; about 5 minutes."""

import argparse
import os
import re
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import T5_TINY
from benchmarks.processes import seq2seq
from benchmarks.publish import publish, spread
from benchmarks.synthetic import FLAN_T5, add_one, make_model, write_data
from workflow.runs.predictions import read_lines

SAVES = 5
WAYS = [
    ("plain torch, fp32", ["--bf16", "false"]),
    ("plain torch, bf16", ["--bf16", "true"]),
    ("2 processes, ZeRO 1, bf16", ["--bf16", "true", "--num_processes", "2", "--zero_stage", "1"]),
    ("2 processes, ZeRO 3, bf16", ["--bf16", "true", "--num_processes", "2", "--zero_stage", "3"]),
]
SAVED = re.compile(r"saved checkpoint-\d+ \([\d.]+ MB in ([\d.]+) s\)")


@dataclass(frozen=True)
class Found:
    """Seconds of each save, of a step, and from SIGTERM to the exit; bytes of a checkpoint."""

    way: str
    saves: list[float]
    step: float
    stop: float
    bytes: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokenizer", type=Path, default=T5_TINY, help="folder of a tokenizer")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        mount = Path(folder)
        make_model(mount / "models" / "m", FLAN_T5["small"], arguments.tokenizer)
        records = [add_one(number) for number in range(1000, 1064)]
        write_data(mount / "data" / "sums.json", records, records[:2])
        weights = (mount / "models" / "m" / "model.safetensors").stat().st_size
        found = []
        for way, words in WAYS:
            found.append(trial(mount, way, words))
            print(found[-1], flush=True)
        plain = [plain_write(mount, 3 * weights) for _ in range(SAVES)]
    publish("benchmarks durability", report(found, weights, plain))


def trial(mount: Path, way: str, words: list[str]) -> Found:
    """A job that saves every other step until it is asked to stop, in the middle of a step."""
    run_path = mount / "models" / "run"
    command = seq2seq(
        mount, "m", "sums", "--max_steps", "1000", "--eval_on_start", "false",
        "--eval_steps", "1000", "--save_steps", "2", "--logging_steps", "1", *words,
    )  # fmt: skip
    saves: list[float] = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as job:
        assert job.stderr is not None
        for line in job.stderr:
            if (saved := SAVED.search(line)) is not None:
                saves.append(float(saved[1]))
            if len(saves) == SAVES:
                break
        log = list(read_lines(run_path / "train_log.jsonl"))
        step = sum(16 / line["examples_per_second"] for line in log) / len(log)
        time.sleep(step / 2)
        began = time.perf_counter()
        job.send_signal(signal.SIGTERM)
        told = job.stderr.read()
        job.wait()
        stop = time.perf_counter() - began
    if job.returncode != 75:
        raise SystemExit(told)
    newest = max(run_path.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    size = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
    return Found(way, saves, step, stop, size)


def plain_write(folder: Path, size: int) -> float:
    """Seconds to write so many bytes into a file and onto the disk."""
    block = os.urandom(1 << 24)
    began = time.perf_counter()
    with open(folder / "plain", "wb") as file:
        for _ in range(size >> 24):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - began
    (folder / "plain").unlink()
    return seconds


def report(found: list[Found], weights: int, plain: list[float]) -> str:
    """The table; the minimum is 12 bytes a parameter: float32 weights and two moments."""
    least = 3 * weights
    lines = [
        f"A random model in flan-t5-small's layout ({weights / 4e6:.0f} million parameters), "
        f"{SAVES} saves each, SIGTERM amid a step. Writing {least / 1e9:.2f} GB plainly, "
        f"into one file and onto this disk, takes {spread(plain)} s.",
        "",
        "| | a save holds up training for, s | a step, s | SIGTERM to exit, s | GB on disk | "
        "over the minimum |",
        "|---|---|---|---|---|---|",
    ]
    for one in found:
        lines.append(
            f"| {one.way} | {spread(one.saves)} | {one.step:.2f} | {one.stop:.1f} | "
            f"{one.bytes / 1e9:.3f} | {one.bytes / least:.4f} |"
        )
    return "\n".join(lines) + "\n"
