"""Training memory without states against Seq2SeqTrainer; about 10 minutes."""

import argparse
import subprocess
import tempfile
from pathlib import Path

from benchmarks import ROOT
from benchmarks.peer import load_peer, make_trainer
from benchmarks.processes import Failed, watch
from benchmarks.publish import publish, ratios, spread
from benchmarks.side_by_side import add_trial_arguments, trial_command
from benchmarks.synthetic import FLAN_T5, LEAST, even_record, make_model, write_data

SOURCE, TARGET = 128, 64
ROWS = 8
"""Examples of a micro-batch, all of one length, so that both have the same tokens."""
STEPS = 3
STATES = 16
"""Bytes a parameter of weights, gradients and AdamW's state in float32."""

KINDS = {
    "peer": "`Seq2SeqTrainer`, fp32",
    "fp32": "workflow, `--bf16 false`",
    "checkpointing": "workflow, `--bf16 false --gradient_checkpointing`",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_trial_arguments(parser, list(KINDS))
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """One trial where --trial names it (a process of its own), else all of them."""
    if arguments.trial is not None:
        trial = _train_peer if arguments.trial == "peer" else _train_ours
        trial(arguments)
        print(_peak_of_gpu())
        return
    above: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        mount = Path(folder)
        record = even_record(SOURCE, TARGET)
        write_data(mount / "data" / "even.json", [record] * 64, [record] * 4)
        make_model(mount / "models" / "least", LEAST)
        states = STATES * make_model(mount / "models" / "small", FLAN_T5["small"])
        for _ in range(arguments.rounds):
            for kind, found in above.items():
                more = _peak(mount, kind, "small") - _peak(mount, kind, "least")
                found.append((more - states) / 1e9)
                print(kind, f"{found[-1]:.3f} GB", flush=True)
    publish("benchmarks train_memory", _report(above, states))


def _peak(mount: Path, kind: str, model: str) -> float:
    """The most bytes that a training process held: of its GPU, else anonymous ones of the host."""
    command = trial_command("train_memory", kind, mount, ["--model", model])
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        (peak,) = watch([process])
        assert process.stdout is not None
        told = process.stdout.read().split()
    if process.returncode:
        raise Failed(f"{' '.join(command)} ended with {process.returncode}")
    return float(told[-1]) or peak


def _peak_of_gpu() -> int:
    """0 where there is none."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def _train_ours(arguments: argparse.Namespace) -> None:
    from workflow import find_mount, make_job, run_job

    job = make_job(
        "seq2seq", model_init_name=arguments.model, data_name="even", training_run_name="measured",
        overwrite_output_dir=True, max_steps=STEPS, bf16=False, train_batch_size=2 * ROWS,
        micro_batch_tokens=ROWS * (SOURCE + TARGET), max_source_length=SOURCE,
        max_target_length=TARGET, max_new_tokens=1, eval_on_start=False,
        gradient_checkpointing=arguments.trial == "checkpointing",
    )  # fmt: skip
    run_job(job, find_mount(str(arguments.folder)))


def _train_peer(arguments: argparse.Namespace) -> None:
    model, tokenizer = load_peer(arguments.folder / "models" / arguments.model)
    examples = [{"input_ids": [5] * SOURCE, "labels": [6] * TARGET}] * 64
    settings = {
        "output_dir": str(arguments.folder / "peer"),
        "per_device_train_batch_size": ROWS,
        "gradient_accumulation_steps": 2,
        "max_steps": STEPS,
        "save_strategy": "no",
    }
    trainer = make_trainer(model, tokenizer, settings, train_dataset=examples)
    trainer.train()
    trainer.save_model(str(arguments.folder / "peer"))


def _report(above: dict[str, list[float]], states: float) -> str:
    """The section of docs/operate/performance.md that this benchmark writes."""
    rows = []
    for kind, found in above.items():
        against = ratios(found, above["peer"])
        rows.append(f"| {KINDS[kind]} | {spread(found, 3)} | {against} |")
    return "\n".join(
        [
            f"A random model in flan-t5-small's layout; micro-batches of {ROWS} examples, "
            f"{SOURCE} and {TARGET} tokens,",
            f"two a step, AdamW in float32; {len(above['peer'])} rounds in turn, medians, with the",
            "least and the greatest in brackets. The peak of anonymous memory, less that of the",
            f"same job with a tiny model, less {states / 1e9:.2f} GB of weights, gradients and "
            "optimizer state.",
            "",
            "| what | GB besides | against the peer |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )
