"""what memory a process takes at its peak, predicted and measured, under every setting"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.peer_defects import bare_environment, free_port
from benchmarks.side_by_side import ROOT, make_model, write_section

TOKENIZER = ROOT / "mount" / "models" / "t5-tiny"
SOURCE, TARGET = 128, 64
"""Tokens of every record, so that micro-batches are as large as their bound."""
EVAL_RECORDS, NEW_TOKENS = 4, 4
MICRO_BATCHES = 2
"""Of each process in each of the two steps."""
SMALL_BUCKET = 40_000_000
"""Elements: of a larger model the default holds as small a part."""
AIM = 0.15
EVERY = 0.004
"""Seconds between two looks at the processes."""

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"vocab_size": 1024, "d_model": 4, "d_kv": 2, "d_ff": 4, "num_heads": 2,
             "num_layers": 1},
    "wide": {"vocab_size": 32128, "d_model": 1024, "d_kv": 64, "d_ff": 2816, "num_heads": 16,
             "num_layers": 2},
    "deep": {"vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_heads": 8,
             "num_layers": 20},
}  # fmt: skip
"""Random models in Flan-T5's layout, with as many decoder layers as encoder layers."""


@dataclass(frozen=True)
class Trial:
    """A job that is measured; stage 0 is plain torch.

    Attributes:
        bucket: elements that are reduced at once, where not the default.
    """

    shape: str
    precision: str
    stage: int
    offload: str = "none"
    positions: int = 384
    bucket: int | None = None

    @property
    def processes(self) -> int:
        return 2 if self.stage else 1

    def __str__(self) -> str:
        strategy = f"zero{self.stage} {self.offload}" if self.stage else "plain"
        bucket = f" {self.bucket}" if self.bucket else ""
        return f"{self.shape} {self.precision} {strategy} {self.positions}{bucket}"

    @property
    def users(self) -> dict[str, Any]:
        """What is asked of DeepSpeed besides."""
        if self.bucket is None:
            return {}
        return {"zero_optimization": {"stage": self.stage, "reduce_bucket_size": self.bucket}}


@dataclass(frozen=True)
class Found:
    """Bytes of the greatest process, and the parameters of its model."""

    trial: Trial
    parameters: int
    predicted: float
    phase: str
    measured: float

    @property
    def ratio(self) -> float:
        return self.predicted / self.measured


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", help="trials whose name has this in it; writes no file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure every trial and the same job with a tiny model; print, and write the table."""
    chosen = [trial for trial in trials() if (arguments.only or "") in str(trial)]
    baselines: dict[tuple[str, int], list[float]] = {}
    found = []
    with tempfile.TemporaryDirectory() as folder:
        write_even(Path(folder) / "data")
        for shape in dict.fromkeys(["tiny", *[trial.shape for trial in chosen]]):
            make_model(Path(folder) / "models" / shape, SHAPES[shape], TOKENIZER)
        for trial in chosen:
            kind = trial.precision, 2 if trial.stage else 0
            if kind not in baselines:
                baselines[kind] = peaks(Path(folder), Trial("tiny", *kind))
            found.append(compare(Path(folder), trial, baselines[kind]))
            print(line(found[-1]), found[-1].phase, flush=True)
    if not arguments.only:
        write_section("memory", report(found, baselines.values()))


def trials() -> list[Trial]:
    """All settings in float32 and all stages in bf16; then what another shape changes, a larger
    micro-batch, and buckets that hold a small part of the model."""
    every = [(0, "none"), (1, "none"), (2, "none"), (3, "none"), (2, "optimizer"),
             (3, "optimizer"), (3, "all")]  # fmt: skip
    return [
        *[Trial("wide", "fp32", *strategy) for strategy in every],
        *[Trial("wide", "bf16", stage) for stage in (0, 1, 2, 3)],
        Trial("wide", "fp32", 1, bucket=SMALL_BUCKET),
        Trial("wide", "bf16", 3, bucket=SMALL_BUCKET),
        Trial("deep", "fp32", 1),
        *[Trial("deep", "bf16", stage) for stage in (0, 2, 3)],
        Trial("deep", "bf16", 3, positions=1152),
    ]


def write_even(data: Path) -> None:
    """Records of one length, as `even` in a mount's data folder."""
    data.mkdir(exist_ok=True)
    record = {"prompt": "1 " * SOURCE, "completion": "2 " * TARGET}
    (data / "even.json").write_text(
        json.dumps({"train": [record] * 64, "eval": [record] * EVAL_RECORDS})
    )


def compare(mount: Path, trial: Trial, baseline: Sequence[float]) -> Found:
    parameters, predicted, phase = prediction(mount, trial)
    more = [peak - tiny for peak, tiny in zip(peaks(mount, trial), baseline, strict=True)]
    return Found(trial, parameters, predicted, phase, max(more))


def prediction(mount: Path, trial: Trial) -> tuple[int, float, str]:
    """The parameters of a trial's model, the bytes its processes need, and in which phase."""
    from workflow.distributed.strategy import ShardingStrategy
    from workflow.memory.activations import Work
    from workflow.memory.estimate import predict
    from workflow.memory.model_dims import sizes_of
    from workflow.memory.search import on_cpu

    sizes = sizes_of(mount / "models" / trial.shape)
    work = Work(
        bf16=trial.precision == "bf16",
        source_length=SOURCE,
        target_length=TARGET,
        positions=trial.positions,
        processes=trial.processes,
        on_gpu=False,
        generated=EVAL_RECORDS * (SOURCE + NEW_TOKENS),
    )
    strategy = (
        ShardingStrategy(trial.stage, trial.offload, users=trial.users) if trial.stage else None
    )
    need = predict(sizes, work, strategy)
    both = {phase.name: sum(phase.device.values()) + sum(phase.host.values())
            for phase in need.phases}  # fmt: skip
    return sizes.parameters, on_cpu(need, strategy), max(both, key=both.__getitem__)


def peaks(mount: Path, trial: Trial) -> list[float]:
    """The peak of each of a job's processes: anonymous and shared bytes, without mapped files."""
    flags = job(trial)
    if trial.users:
        flags["deepspeed"] = str(mount / "deepspeed.json")
        (mount / "deepspeed.json").write_text(json.dumps(trial.users))
    (mount / "jobs.json").write_text(json.dumps([flags]))
    command = [sys.executable, str(ROOT / "benchmarks" / "several_jobs.py"), str(mount),
               str(mount / "jobs.json")]  # fmt: skip
    port = free_port()
    running = []
    with (mount / "words").open("w+") as words:
        for rank in range(trial.processes):
            environment = bare_environment() | {"OMP_NUM_THREADS": str(2 // trial.processes)}
            if trial.processes > 1:
                environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                environment |= {f"{name}WORLD_SIZE": str(trial.processes)
                                for name in ("", "LOCAL_")}  # fmt: skip
                environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            started = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=words,
                                       stderr=words)  # fmt: skip
            running.append(started)
        try:
            found = watch(running)
        finally:
            for process in running:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        words.seek(0)
        if any(process.returncode for process in running):
            raise SystemExit(f"{trial}: {words.read()[-4000:]}")
    return found


def job(trial: Trial) -> dict[str, Any]:
    """Flags of a job of two steps, with evaluations before and after them and a checkpoint."""
    flags: dict[str, Any] = {}
    if trial.stage:
        flags = {"zero_stage": trial.stage, "offload": trial.offload}
    rows = trial.positions // (SOURCE + TARGET)
    return flags | {
        "task": "seq2seq", "model_init_name": trial.shape, "data_name": "even",
        "training_run_name": "measured", "overwrite_output_dir": True, "max_steps": 2,
        "bf16": trial.precision == "bf16", "max_source_length": SOURCE,
        "max_target_length": TARGET, "max_new_tokens": NEW_TOKENS,
        "micro_batch_tokens": trial.positions,
        "train_batch_size": rows * MICRO_BATCHES * trial.processes, "eval_steps": 2,
        "save_steps": 2,
    }  # fmt: skip


def watch(running: Sequence[subprocess.Popen[bytes]]) -> list[float]:
    """The peak of each process; returns when all have ended, or one of them badly."""
    most = [0.0] * len(running)
    while None in (states := [process.poll() for process in running]) and not any(states):
        most = [
            max(peak, held_by(process.pid)) for peak, process in zip(most, running, strict=True)
        ]
        time.sleep(EVERY)
    return most


def held_by(process: int) -> float:
    """Bytes of a process that no file backs; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return sum(1024.0 * int(text.split()[1]) for text in lines
               if text.startswith(("RssAnon", "RssShmem")))  # fmt: skip


def line(found: Found) -> str:
    trial = found.trial
    strategy = f"ZeRO {trial.stage}" if trial.stage else "plain torch"
    strategy += f", offload {trial.offload}" * (trial.offload != "none")
    strategy += f", buckets of {trial.bucket / 1e6:.0f} million" if trial.bucket else ""
    ratio = f"{found.ratio:.2f}"
    if abs(found.ratio - 1) > AIM:
        ratio = f"**{ratio}**"
    return (
        f"| {trial.shape} | {trial.precision} | {trial.processes} | {strategy} | "
        f"{trial.positions:,} | {found.predicted / 1e9:.2f} | {found.measured / 1e9:.2f} | "
        f"{ratio} |"
    )


def report(found: Sequence[Found], baselines: Any) -> str:
    """The section of docs/PERFORMANCE.md that this benchmark writes."""
    import torch

    counts = {one.trial.shape: one.parameters for one in found}
    shapes = "; ".join(
        f"`{name}`: {count / 1e6:.0f} million parameters, {SHAPES[name]['num_layers']} + "
        f"{SHAPES[name]['num_layers']} layers, {SHAPES[name]['d_model']} wide"
        for name, count in counts.items()
    )
    held = [max(peaks) for peaks in baselines]
    inside = sum(abs(one.ratio - 1) <= AIM for one in found)
    text = [
        f"{shapes}; vocabulary 32,128. Of the tiny model {min(held) / 1e9:.2f} to "
        f"{max(held) / 1e9:.2f} GB were subtracted. {inside} of {len(found)} are within {AIM:.0%}. "
        f"torch {torch.__version__}, DeepSpeed {metadata.version('deepspeed')}.",
        "",
        "| model | precision | processes | setting | positions | predicted GB | measured GB | "
        "predicted / measured |",
        "|---|---|---|---|---|---|---|---|",
        *map(line, found),
    ]
    return "\n".join(text) + "\n"
