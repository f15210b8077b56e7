"""Peak memory of processes: predicted by the plan and measured; about 20 minutes."""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.processes import run_jobs
from benchmarks.publish import publish
from benchmarks.synthetic import LEAST, even_record, make_model, write_data

SOURCE, TARGET = 128, 64
"""Tokens of every record, so that micro-batches are as large as their bound."""
EVAL_RECORDS, NEW_TOKENS = 4, 4
MICRO_BATCHES = 2
"""Of each process in each of the two steps."""
SMALL_BUCKET = 40_000_000
"""Elements: of a larger model the default holds as small a part."""
AIM = 0.15

SHAPES: dict[str, dict[str, int]] = {
    "least": LEAST,
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
    parser.add_argument("--only", help="run only trials whose name contains this; write no file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure every trial and the same job with a tiny model; print, and write the table."""
    chosen = [trial for trial in trials() if (arguments.only or "") in str(trial)]
    baselines: dict[tuple[str, int], list[float]] = {}
    found = []
    with tempfile.TemporaryDirectory() as folder:
        record = even_record(SOURCE, TARGET)
        write_data(Path(folder) / "data" / "even.json", [record] * 64, [record] * EVAL_RECORDS)
        for shape in dict.fromkeys(["least", *[trial.shape for trial in chosen]]):
            make_model(Path(folder) / "models" / shape, SHAPES[shape])
        for trial in chosen:
            kind = trial.precision, 2 if trial.stage else 0
            if kind not in baselines:
                baselines[kind] = peaks(Path(folder), Trial("least", *kind))
            found.append(compare(Path(folder), trial, baselines[kind]))
            print(line(found[-1]), found[-1].phase, flush=True)
    if not arguments.only:
        publish("benchmarks memory", report(found, baselines.values()))


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
    return run_jobs(mount, [flags], trial.processes, threads=2 // trial.processes)


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
    """The section of docs/operate/performance.md that this benchmark writes."""
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
