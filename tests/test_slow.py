"""Checks that take minutes or gigabytes; scripts/test_slow runs them and shows their figures."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chaos import run_chaos
from conftest import ROOT, SHARED_DATA, make_t5

from workflow import make_job, run_job
from workflow.models.loading import save_model
from workflow.runs.mount import Mount

pytestmark = pytest.mark.slow

WORDS = ["book", "city", "doctor", "garden", "house", "island"]
MEASURED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9)
"""


def write_records(path: Path, count: int) -> None:
    """Records of 60 tokens, end marks included."""
    rng = random.Random(0)
    with open(path, "w") as file:
        file.write('{"train": [\n')
        for index in range(count):
            record = {
                "prompt": " ".join(rng.choice("0123456789") for _ in range(43)),
                "completion": " ".join(rng.choice("0123456789") for _ in range(15)),
                "note": rng.choice(WORDS),
            }
            file.write(json.dumps(record) + (",\n" if index < count - 1 else "\n"))
        file.write('], "eval": [{"prompt": "0", "completion": "1"}]}\n')


def peak_memory_gb(command: list[str]) -> float:
    """What a command takes; a small process starts it, for what starts counts for what is started.

    A fork has the pages of its parent until it becomes the command.
    """
    measured = [sys.executable, "-c", MEASURED, *command]
    done = subprocess.run(measured, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


def test_a_million_records_take_the_memory_of_ten_thousand_and_start_again_within_seconds(
    mount: Mount,
) -> None:
    peaks, seconds = {}, {}
    for count in (10_000, 1_000_000):
        write_records(mount.data / f"{count}.json", count)
        for start in ("cold", "warm"):
            command = [
                sys.executable, "seq2seq.py", "--mount", str(mount.root), "--model_init_name",
                "small", "--data_name", str(count), "--max_steps", "1", "--eval_on_start", "false",
                "--training_run_name", f"{count}-{start}",
            ]  # fmt: skip
            began = time.perf_counter()
            peaks[count, start] = peak_memory_gb(command)
            seconds[count, start] = time.perf_counter() - began
            print(f"{count:,} records, {start}: {seconds[count, start]:.1f} s to the end of a run "
                  f"of one step; peak memory {peaks[count, start]:.3f} GB")  # fmt: skip
    for start in ("cold", "warm"):
        assert peaks[1_000_000, start] < 1.3 * peaks[10_000, start]
    assert seconds[1_000_000, "warm"] < seconds[10_000, "warm"] + 15


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs the real data beside the repository")
def test_real_instructions_are_learned(
    mount: Mount, read_lines: Callable[[Path], list[dict[str, Any]]]
) -> None:
    """The real vocabulary, a small random model, 300 steps: the loss falls."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(SHARED_DATA / "t5_tokenizer")
    sizes = {"vocab_size": 32128, "d_model": 256, "d_kv": 32, "d_ff": 512, "num_heads": 8}
    model = make_t5(**sizes, num_layers=4)
    model.lm_head.weight.data *= 256**-0.5
    save_model(model, tokenizer, mount.models / "real")
    (mount.data / "instruct.json").symlink_to(SHARED_DATA / "instruct.json")
    spec = make_job(
        "seq2seq", model_init_name="real", data_name="instruct", max_steps=300, eval_steps=100,
        learning_rate=1e-3, save_steps=150, logging_steps=50,
    )  # fmt: skip
    began = time.perf_counter()
    run = run_job(spec, mount)
    log = read_lines(run / "train_log.jsonl")
    metrics = read_lines(run / "metrics.jsonl")
    print([round(line["loss"], 3) for line in log], f"{time.perf_counter() - began:.0f} s")
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    assert metrics[-1]["loss"] < 0.6 * metrics[0]["loss"]
    assert [line["step"] for line in metrics] == [0, 100, 200, 300]
    assert sorted(path.name for path in run.iterdir()) == sorted(
        ["audit.json", "checkpoint-150", "checkpoint-300", "metrics.jsonl", "status.json",
         "train_log.jsonl", "training_args.json"]
        + [f"temperature=0.00_n=1_step={step}.json" for step in (0, 100, 200, 300)]
    )  # fmt: skip
    records = json.loads((SHARED_DATA / "instruct.json").read_text())["eval"]
    items = json.loads((run / "temperature=0.00_n=1_step=300.json").read_text())
    assert [item["orig_d"] for item in items] == records


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs the real data beside the repository")
def test_sports_articles_are_told_apart_by_a_model_trained_from_scratch(mount: Mount) -> None:
    from transformers import AutoTokenizer

    (mount.data / "sports.json").symlink_to(SHARED_DATA / "sports.json")
    model = make_t5(
        vocab_size=32128, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4,
        dropout_rate=0.1,
    )  # fmt: skip
    save_model(model, AutoTokenizer.from_pretrained(SHARED_DATA / "t5_tokenizer"),
               mount.models / "random")  # fmt: skip
    began = time.perf_counter()
    run = run_job(
        make_job("clf", model_init_name="random", data_name="sports", learning_rate=1e-3), mount
    )
    seconds = time.perf_counter() - began
    metrics = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    print(f"sports: {metrics['step']} steps in {seconds:.0f} s; auc {metrics['auc']:.3f} "
          f"{metrics['auc_ci95']}, accuracy {metrics['accuracy']:.3f}")  # fmt: skip
    assert metrics["auc"] >= 0.9
    assert seconds < 600


@pytest.mark.parametrize(
    ("rounds", "processes", "zero_stage"), [(20, 1, None), (5, 2, 1), (5, 2, 3)]
)
def test_a_job_that_is_killed_again_and_again_ends_as_one_that_is_not(
    tmp_path: Path, rounds: int, processes: int, zero_stage: int | None
) -> None:
    print(run_chaos(tmp_path, rounds, random.SystemRandom().randrange(1000), processes, zero_stage))
