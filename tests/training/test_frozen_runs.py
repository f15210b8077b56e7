"""Runs of 20 steps reproduce the recorded digits, until a change is meant to change them.

Digits depend on processor and libraries: `golden/frozen_runs.json` has those of each kind that was
available; others are skipped. Run as a script with PYTHONPATH=tests, this file writes those of this
machine.
"""

import hashlib
import json
import sys
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
import transformers
from conftest import ROOT, make_mount
from forks import Fork, finish, places, run_script

GOLDEN = ROOT / "tests" / "golden" / "frozen_runs.json"
FLAGS = {
    "task": "seq2seq", "model_init_name": "small", "data_name": "sums", "max_steps": 20,
    "train_batch_size": 6, "learning_rate": 1e-3, "dropout_rate": 0.1, "logging_steps": 1,
    "eval_steps": 20, "save_steps": 20, "max_new_tokens": 5,
}  # fmt: skip
RUNS: dict[int, dict[str, dict[str, Any]]] = {
    1: {"plain": {"bf16": False}, "plain_bf16": {"bf16": True}},
    2: {
        f"zero{stage}{'_bf16' if bf16 else ''}": {"bf16": bf16, "zero_stage": stage}
        for bf16 in (False, True)
        for stage in (1, 2, 3)
    },
}
"""By the number of processes."""


def kind_of_machine() -> str:
    """What the digits are known to depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    found = dict(line.split("\t:", 1) for line in lines if "\t:" in line.replace("\t\t", "\t"))
    names = {name.strip(): value.strip() for name, value in found.items()}
    processor = (
        names.get("model name", "unknown"),
        names.get("model", ""),
        names.get("stepping", ""),
    )
    return " ".join(
        [*processor, "torch", torch.__version__, "transformers", transformers.__version__]
    )


def run_all(root: Path) -> dict[str, str]:
    """A digest of each run's losses, norms and saved weights."""
    mount = make_mount(root / "mount")
    for processes, runs in RUNS.items():
        jobs = [FLAGS | flags | {"training_run_name": name} for name, flags in runs.items()]
        listed = root / f"jobs{processes}.json"
        listed.write_text(json.dumps(jobs))
        script = [ROOT / "benchmarks" / "several_jobs.py", str(mount.root), str(listed)]
        world = places(processes) if processes > 1 else [None]
        for done in finish([Fork(run_script, *script, environment=place) for place in world]):
            assert done.returncode == 0, done.stderr[-9000:]
    return {name: _digest(mount.models / name) for runs in RUNS.values() for name in runs}


def _digest(run: Path) -> str:
    lines = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
    numbers = [[line["loss"], line["grad_norm"], line["learning_rate"]] for line in lines]
    weights = (run / "checkpoint-20" / "model.safetensors").read_bytes()
    return hashlib.sha256(json.dumps(numbers).encode() + weights).hexdigest()


def test_runs_are_unchanged_bit_for_bit(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    if kind_of_machine() not in golden:
        pytest.skip(f"no digests of {kind_of_machine()}")
    assert run_all(tmp_path) == golden[kind_of_machine()]


if __name__ == "__main__":
    known = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    known[kind_of_machine()] = run_all(Path(mkdtemp()))
    GOLDEN.write_text(json.dumps(known, indent=2) + "\n")
    sys.exit(0)
