"""Known defects of the public peer, measured: what it gives, and what this project gives."""

import argparse
import importlib.util
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import ROOT, write_section

NEEDED = {"accelerate": "1.15.0", "deepspeed": "0.19.8"}
TOKENIZER = ROOT / "mount" / "models" / "t5-tiny"
EXAMPLES = 8
"""Train records, all of them in the one step."""
EVAL_RECORDS = 5
CUTS = ((1, 1), (1, 2), (2, 1), (2, 2))
"""Processes and accumulation steps of the same optimizer step."""
LEARNING_RATE = 1e-6
TOLERANCE = 1e-3
"""Relative; the peer rounds what it logs."""
LIMIT = 600
"""Seconds for one trial or command."""


class Failed(Exception):
    """A process ended badly; its last words."""


@dataclass
class Row:
    """A line of the table."""

    defect: str
    right: str
    peer: str
    peer_is_right: bool
    ours: str
    ours_is_right: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=list(DEFECTS), help="one defect; writes no file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print, and write the table; status 1 where this project is not right."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        names = " ".join(f"{name}=={NEEDED[name]}" for name in missing)
        raise SystemExit(f"the peer needs more packages: .venv/bin/pip install {names}")
    os.environ["DS_ACCELERATOR"] = "cpu"  # else DeepSpeed says which it found
    chosen = [arguments.only] if arguments.only else list(DEFECTS)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_mount(Path(folder))
        for name in chosen:
            print(f"{name} …", file=sys.stderr, flush=True)
            rows.append(DEFECTS[name](Path(folder)))
    text = report(rows)
    print(text)
    if any(row.ours.startswith("failed") for row in rows):
        print("not written: this project failed to give some of it", file=sys.stderr)
    elif not arguments.only:
        write_section("peer_defects", text)
    if not all(row.ours_is_right for row in rows):
        raise SystemExit(1)


def compare_head(mount: Path) -> Row:
    """The head after loading under ZeRO-3, against the file's."""
    peer = try_peer(mount, "load_in_parts", processes=2)
    right = peer["head_off_by"] == peer["embedding_off_by"] == 0
    found = f"differs by {peer['head_off_by']:.2g}"
    if peer["head_is_embedding"]:
        found += ", and equals the embedding"

    def ours() -> tuple[str, bool]:
        from safetensors.torch import load_file

        results = run_ours(
            mount, "parts", *step_words(2, 1), "--zero_stage", "3",
            "--learning_rate", str(LEARNING_RATE),
        )  # fmt: skip
        before = load_file(mount / "models" / "m" / "model.safetensors")
        after = load_file(results / "checkpoint-1" / "model.safetensors")
        off_by = float((after["lm_head.weight"] - before["lm_head.weight"]).abs().max())
        tied = after["lm_head.weight"].equal(after["shared.weight"])
        text = f"differs by {off_by:.2g} after a step of {LEARNING_RATE:g}"
        text += ", and equals the embedding" if tied else ""
        return text, 0 < off_by < 10 * LEARNING_RATE and not tied

    return Row(
        "The own head of a model loaded under ZeRO-3 by 2 processes, against its file",
        "equal", found, right, *try_ours(ours),
    )  # fmt: skip


def compare_step(mount: Path) -> Row:
    """Loss and gradient norm of the same step, in several cuts."""
    right = try_peer(mount, "plain_step")
    peer = [try_peer(mount, "train_step", processes, steps) for processes, steps in CUTS]

    def ours() -> tuple[str, bool]:
        found = []
        for processes, steps in CUTS:
            words = step_words(processes, steps)
            results = run_ours(mount, f"step-{processes}-{steps}", *words)
            line = (results / "train_log.jsonl").read_text(encoding="utf-8").splitlines()[0]
            found.append(json.loads(line))
        return losses_and_norms(found), all(is_step(logged, right) for logged in found)

    cuts = ", ".join(f"{processes} × {steps}" for processes, steps in CUTS)
    return Row(
        f"Loss and gradient norm logged for one step of the same examples, cut into processes × "
        f"accumulation steps: {cuts}",
        f"{losses_and_norms([right])} each time",
        losses_and_norms(peer), all(is_step(logged, right) for logged in peer), *try_ours(ours),
    )  # fmt: skip


def compare_rows(mount: Path) -> Row:
    """How many predictions come out of 2 processes."""
    peer = try_peer(mount, "predict", processes=2)["predictions"]

    def ours() -> tuple[str, bool]:
        results = run_ours(mount, "rows", "--no_train", "--num_processes", "2")
        items = json.loads((results / "temperature=0.00_n=1_step=0.json").read_text("utf-8"))
        prompts = [item["prompt"] for item in items]
        expected = [record["prompt"] for record in make_records()["eval"]]
        return str(len(items)), prompts == expected

    return Row(
        f"Answers to {EVAL_RECORDS} eval records on 2 processes, the peer's with batches of 2",
        str(EVAL_RECORDS), str(peer), peer == EVAL_RECORDS, *try_ours(ours),
    )  # fmt: skip


def compare_saved(mount: Path) -> Row:
    """What config.json of a saved model says about its own head."""
    peer = try_peer(mount, "save")["tie_word_embeddings"]

    def ours() -> tuple[str, bool]:
        results = run_ours(mount, "saved", *step_words(1, 1))
        config = json.loads((results / "checkpoint-1" / "config.json").read_text("utf-8"))
        tied = config.get("tie_word_embeddings")
        return json.dumps(tied), tied is False

    return Row(
        "`tie_word_embeddings` in config.json, after saving a model with an own head",
        "false", json.dumps(peer), peer is False, *try_ours(ours),
    )  # fmt: skip


DEFECTS: dict[str, Callable[[Path], Row]] = {
    "head": compare_head,
    "step": compare_step,
    "rows": compare_rows,
    "saved": compare_saved,
}


def losses_and_norms(found: Sequence[dict[str, Any]]) -> str:
    """The losses, then the gradient norms, in the order of the cuts."""
    losses = ", ".join(f"{logged['loss']:.3f}" for logged in found)
    norms = ", ".join(f"{logged['grad_norm']:.3f}" for logged in found)
    return f"loss {losses}; norm {norms}"


def is_step(logged: dict[str, Any], right: dict[str, Any]) -> bool:
    return all(
        abs(logged[name] - right[name]) <= TOLERANCE * right[name] for name in ("loss", "grad_norm")
    )


def step_words(processes: int, accumulation: int) -> list[str]:
    """Flags for one step over all train records; 64 positions hold about half of them."""
    words = {
        "num_processes": processes,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": EXAMPLES // accumulation,
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


def run_ours(mount: Path, name: str, *words: str) -> Path:
    """Run this project's command on the model and the data of the mount: its results."""
    command = [
        sys.executable, str(ROOT / "seq2seq.py"), "--mount", str(mount), "--model_init_name", "m",
        "--data_name", "sums", "--bf16", "false", "--training_run_name", name, *words,
    ]  # fmt: skip
    start([command], [bare_environment()])
    return mount / "models" / name


def try_ours(measure: Callable[[], tuple[str, bool]]) -> tuple[str, bool]:
    """What this project gives and whether it is right, or how it failed."""
    try:
        return measure()
    except Failed as error:
        return f"failed: {error}", False


def try_peer(mount: Path, name: str, processes: int = 1, accumulation: int = 1) -> dict[str, Any]:
    """What a trial of benchmarks.peer_trials found, in processes of its own."""
    result = mount / "found.json"
    result.unlink(missing_ok=True)
    command = [
        sys.executable, "-m", "benchmarks.peer_trials", name, str(mount / "models" / "m"),
        str(accumulation), str(result),
    ]  # fmt: skip
    environments = [bare_environment() for _ in range(processes)]
    if processes > 1:
        port = free_port()
        for rank, environment in enumerate(environments):
            environment |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
    start([command] * processes, environments)
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def bare_environment() -> dict[str, str]:
    """This environment on the CPU, offline, with one thread a process and no world."""
    world = ("RANK", "WORLD_SIZE", "MASTER_", "LOCAL_", "ACCELERATE_", "WORKFLOW_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(world)}
    return kept | {
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def start(commands: list[list[str]], environments: list[dict[str, str]]) -> None:
    """Run commands at once, silently; where one fails, end the others and raise Failed."""
    with ExitStack() as stack:
        words = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in commands]
        running = [
            subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True
            )
            for command, environment, file in zip(commands, environments, words, strict=True)
        ]
        end = time.monotonic() + LIMIT
        try:
            while None in (states := [process.poll() for process in running]):
                if any(states) or time.monotonic() > end:
                    break
                time.sleep(0.1)
        finally:
            for process in running:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        for state, file in zip(states, words, strict=True):
            if state != 0:
                file.seek(0)
                raise Failed(last_words(file.read()) if state else f"no end in {LIMIT} s")


def last_words(text: str) -> str:
    """The line that tells an error best: the first of a refusal, else the last of all."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "; expected " in line), lines[-1] if lines else "")


def make_mount(mount: Path) -> None:
    """A tiny random model in Flan-T5's layout without dropout, `m`, and the data `sums`."""
    import torch
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

    from workflow.models.loading import save_model

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=1024, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0,
        feed_forward_proj="gated-gelu", decoder_start_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    model.lm_head.weight = torch.nn.Parameter(torch.randn(config.vocab_size, config.d_model))
    save_model(model, AutoTokenizer.from_pretrained(TOKENIZER), mount / "models" / "m")
    (mount / "data").mkdir()
    (mount / "data" / "sums.json").write_text(json.dumps(make_records()), encoding="utf-8")


def make_records() -> dict[str, list[dict[str, str]]]:
    """Add one to numbers of unlike lengths: 37 target tokens, so that halves never have as many."""

    def record(number: int) -> dict[str, str]:
        prompt = f"add one: {' '.join(str(number))}"
        return {"prompt": prompt, "completion": " ".join(str(number + 1))}

    return {
        "train": [record(5**power) for power in range(1, EXAMPLES + 1)],
        "eval": [record(7**power) for power in range(1, EVAL_RECORDS + 1)],
    }


def report(rows: Sequence[Row]) -> str:
    """The section of docs/PERFORMANCE.md that this benchmark writes."""
    lines = []
    for row in rows:
        verdict = "gone" if row.peer_is_right else "there"
        ours = row.ours if row.ours_is_right else f"**{row.ours}**"
        lines.append(f"| {row.defect} | {row.right} | {row.peer} | {ours} | {verdict} |")
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("torch", "transformers", *NEEDED)
    )
    return "\n".join(
        [
            "| defect | right | peer | this project | peer's verdict |",
            "|---|---|---|---|---|",
            *lines,
            "",
            f"A tiny random model in Flan-T5's layout, in fp32 on a CPU. Python "
            f"{platform.python_version()}, {versions}.",
            "",
        ]
    )
