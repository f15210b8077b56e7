"""Time and memory by records, lengths, model size and processes; about 30 minutes."""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import run_jobs
from benchmarks.publish import machine, matrix_rates, publish, usual_rate
from benchmarks.synthetic import (
    FLAN_T5,
    TINY,
    even_record,
    make_model,
    training_gflop,
    write_data,
)
from workflow.runs.predictions import read_lines

SIZES = ("small", "base", "large")
SOURCE, TARGET = 43, 15
"""Tokens of a record, without end marks."""


@dataclass(frozen=True)
class Measured:
    """A job: its seconds, the seconds of its last step, the peak of its greatest process."""

    seconds: float
    step: float
    peak: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--most", type=int, default=1_000_000, help="maximum number of records")
    parser.add_argument("--only", help="run only curves whose name contains this; write no file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        mount = Path(folder)
        (mount / "data").mkdir()
        make_model(mount / "models" / "tiny", TINY)
        parameters = {name: make_model(mount / "models" / name, FLAN_T5[name]) for name in SIZES}
        curves: dict[str, Callable[[], list[str]]] = {
            "records": lambda: by_records(mount, arguments.most),
            "lengths": lambda: by_lengths(mount),
            "sizes": lambda: by_sizes(mount, parameters),
            "processes": lambda: by_processes(mount),
        }
        found: list[str] = []
        for name, curve in curves.items():
            if (arguments.only or "") in name:
                found += [*curve(), ""]
    if arguments.only:
        print("\n".join(found))
    else:
        publish("benchmarks growth", "\n".join([*found, machine(matrix_rates()), ""]))


def by_records(mount: Path, most: int) -> list[str]:
    lines = [
        "Records of 60 tokens, a model of 0.3 million parameters: one training step, the second "
        "time with tokens cached; scores of all records; answers of 4 tokens to all, up "
        "to 100,000 records.",
        "",
        "| records | start, tokenizing, s | again, s | GB | scoring, s | GB | answering, s | GB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for count in (1_000, 10_000, 100_000, 1_000_000):
        if count > most:
            break
        write_records(mount / "data" / "sums.json", count, "prompt", "completion")
        write_records(mount / "data" / "scored.json", count, "input", "target")
        train: dict[str, Any] = {"data_name": "sums", "max_steps": 1, "eval_on_start": False}
        cold, warm = measure(mount, train), measure(mount, train)
        score = measure(mount, {"task": "clf", "data_name": "scored", "no_train": True})
        cells = [
            f"{count:,}",
            f"{cold.seconds:.0f}",
            f"{warm.seconds:.1f}",
            f"{max(cold.peak, warm.peak):.2f}",
            f"{score.seconds:.0f}",
            f"{score.peak:.2f}",
        ]
        if count <= 100_000:
            write_records(mount / "data" / "asked.json", count, "prompt", "completion", "eval")
            asked = {"data_name": "asked", "no_train": True, "max_new_tokens": 4}
            answer = measure(mount, asked)
            cells += [f"{answer.seconds:.0f}", f"{answer.peak:.2f}"]
        else:
            cells += ["–", "–"]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


def write_records(
    path: Path, count: int, source: str, answer: str, only: str | None = None
) -> None:
    """Records of 60 tokens for training and one to evaluate; scored ones, or `only` eval, alone."""
    rng = random.Random(0)

    def records() -> Iterator[dict[str, Any]]:
        for _ in range(count):
            text = " ".join(rng.choices("0123456789", k=SOURCE))
            answered = " ".join(rng.choices("0123456789", k=TARGET))
            yield {source: text, answer: answered if source == "prompt" else rng.randrange(2)}

    many = only or ("train" if source == "prompt" else "eval")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'{{"{many}": [\n')
        for index, record in enumerate(records()):
            file.write(("" if index == 0 else ",\n") + json.dumps(record))
        other = "eval" if many == "train" else "train"
        file.write(f'], "{other}": [{json.dumps({source: "0", answer: "1"})}]}}\n')


def by_lengths(mount: Path) -> list[str]:
    lines = [
        "flan-t5-small's layout, as it comes, a step of 8,192 positions in micro-batches of 2,048:",
        "",
        "| source + target tokens of each record | a step, s | tokens/s | GB |",
        "|---|---|---|---|",
    ]
    for length in (64, 128, 256, 512, 1024):
        batch = 8192 // length
        write_even(mount, length, batch)
        flags = steps_of("small", batch) | {"micro_batch_tokens": 2048}
        found = measure(mount, flags)
        row = f"| {length * 3 // 4} + {length // 4} | {found.step:.2f} "
        lines.append(f"{row}| {8192 / found.step:,.0f} | {found.peak:.2f} |")
        print(lines[-1], flush=True)
    return lines


def by_sizes(mount: Path, parameters: dict[str, int]) -> list[str]:
    lines = [
        "Steps of 2,048 positions (96 + 32 tokens a record) in one micro-batch, as it comes:",
        "",
        "| layout | million parameters | a step, s | tokens/s | of the matrix rate | GB |",
        "|---|---|---|---|---|---|",
    ]
    write_even(mount, 128, 16)
    rate = usual_rate(matrix_rates())
    for name, count in parameters.items():
        found = measure(mount, steps_of(name, 16) | {"micro_batch_tokens": 2048})
        work = training_gflop(FLAN_T5[name], 16 * 96, 16 * 32)
        lines.append(
            f"| {name} | {count / 1e6:.0f} | {found.step:.2f} "
            f"| {2048 / found.step:,.0f} | {work / found.step / rate:.0%} | {found.peak:.2f} |"
        )
        print(lines[-1], flush=True)
    return lines


def by_processes(mount: Path) -> list[str]:
    lines = [
        "flan-t5-small's layout in bf16, steps of 8,192 positions, micro-batches of at most 1,024; "
        "all processes share the cores of one machine, so that this shows what dividing costs and "
        "saves, not how much faster more machines are:",
        "",
        "| processes | setting | a step, s | GB of the greatest |",
        "|---|---|---|---|",
    ]
    write_even(mount, 128, 64)
    for processes, stage in ((1, None), (2, 1), (2, 3), (4, 1), (4, 3)):
        flags = steps_of("small", 64) | {"micro_batch_tokens": 1024, "zero_stage": stage}
        found = measure(mount, flags, processes=processes)
        strategy = "plain torch" if stage is None else f"ZeRO {stage}"
        lines.append(f"| {processes} | {strategy} | {found.step:.2f} | {found.peak:.2f} |")
        print(lines[-1], flush=True)
    return lines


def write_even(mount: Path, length: int, batch: int) -> None:
    """Records of one length, three quarters of it source, as `even`."""
    record = even_record(length * 3 // 4, length // 4)
    evaluated = [{"prompt": "1", "completion": "2"}]
    write_data(mount / "data" / "even.json", [record] * (4 * batch), evaluated)


def steps_of(model: str, batch: int) -> dict[str, Any]:
    return {
        "data_name": "even", "model_init_name": model, "max_steps": 4, "train_batch_size": batch,
        "eval_on_start": False, "logging_steps": 1,
    }  # fmt: skip


def measure(mount: Path, flags: dict[str, Any], processes: int = 1) -> Measured:
    """Run a job from its start to its end; nothing of an earlier one is used but the caches."""
    flags = {
        "task": "seq2seq", "model_init_name": "tiny", "training_run_name": "measured",
        "overwrite_output_dir": True,
    } | flags  # fmt: skip
    began = time.time()
    peaks = run_jobs(mount, [flags], processes)
    return Measured(time.time() - began, _last_step(mount, flags), max(peaks) / 1e9)


def _last_step(mount: Path, flags: dict[str, Any]) -> float:
    """Seconds a step: the median of those after the first."""
    if flags.get("no_train") or flags["max_steps"] == 1:
        return 0.0
    log = list(read_lines(mount / "models" / "measured" / "train_log.jsonl"))
    seconds = sorted(flags["train_batch_size"] / line["examples_per_second"] for line in log[1:])
    return float(seconds[len(seconds) // 2])
