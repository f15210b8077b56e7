"""LoRA and prompt tuning against peft and Trainer, frozen layers against none; about two hours."""

import argparse
import json
import shutil
import statistics
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.ours import ONLY_STEPS, MemoryOfSteps, in_our_order, run_ours, seconds_of_steps
from benchmarks.peer import (
    TRAINING,
    chat_example,
    check_packages,
    load_peer,
    make_trainer,
    mean_token_loss,
    time_training,
)
from benchmarks.processes import OwnMemory
from benchmarks.publish import machine, publish, ratios, spread
from benchmarks.side_by_side import (
    WARM_UP,
    Trials,
    add_model_arguments,
    add_steps_argument,
    add_trial_arguments,
    check_model,
    link_model,
    measure,
    read_records,
)
from workflow.runs.predictions import evaluations, read_lines

BATCH = 16
R, ALPHA, MODULES = 8, 16, ("q_proj", "v_proj")
VIRTUAL_TOKENS = 20
WARM_UP_SHARE = 0.05
"""Of the steps, in which the learning rate grows."""
LEARNING_RATES = {"lora": 5e-4, "prompt": 1e-2, "full": 1e-4, "freeze": 1e-4}
"""High enough that the loss falls by a quarter in 60 steps: equal losses then mean something."""
OURS: dict[str, dict[str, Any]] = {
    "lora": {
        "tuning": "lora", "lora_r": R, "lora_alpha": ALPHA, "lora_target_modules": MODULES,
    },
    "prompt": {"tuning": "prompt", "num_virtual_tokens": VIRTUAL_TOKENS},
    "full": {},
    "freeze": {"freeze": ("embeddings", "bottom:15")},
}  # fmt: skip
"""Flags of ours, by tuning; `--lora_dropout` besides."""
PEERS = {
    "peer": "`peft` and `Trainer`, fp32",
    "bf16": "`peft` and `Trainer`, weights in bf16",
    "fp32": "workflow, `--bf16 false`",
    "default": "workflow, as it comes",
}
"""Trainer computes in the precision of the weights, by default that of their file: fp32 or bf16."""
CASES = {
    "lora": {f"{name}_lora": told for name, told in PEERS.items()},
    "prompt": {f"{name}_prompt": told for name, told in PEERS.items()},
    "freeze": {
        "fp32_full": "full tuning, `--bf16 false`",
        "fp32_freeze": "`--freeze embeddings bottom:15 --bf16 false`",
        "default_full": "full tuning, as it comes",
        "default_freeze": "`--freeze embeddings bottom:15`",
    },
}
"""The trials of each table; a trial is a way to compute and a tuning."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_trial_arguments(parser, _kinds(CASES))
    parser.set_defaults(rounds=3)
    content = "prompts and completions; the model has a chat template"
    add_model_arguments(parser, content, "smollm2-135m-instruct")
    add_steps_argument(parser, 60)
    parser.add_argument("--lora_dropout", type=float, default=0.0, help="of both LoRAs [0]")
    parser.add_argument("--only", choices=list(CASES), help="run one table; write no file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """One trial where --trial names it (a process of its own), else all of them."""
    if arguments.trial is not None:
        trial = _peer if arguments.trial.startswith(("peer", "bf16")) else _ours
        print(json.dumps(trial(arguments)))
        return
    check_packages("peft")
    check_model(arguments.model)

    def write(mount: Path) -> None:
        link_model(mount, arguments.model)
        shutil.copy(arguments.data, mount / "data" / "data.json")

    cases = [arguments.only] if arguments.only else list(CASES)
    words = ["--steps", str(arguments.steps), "--lora_dropout", str(arguments.lora_dropout)]
    trials, rates = measure("adapters", _kinds(cases), arguments, write, words)
    text = _report(trials, rates, arguments, cases)
    if arguments.only:
        print(text)
    else:
        publish("benchmarks adapters", text)


def _kinds(cases: Iterable[str]) -> list[str]:
    return [kind for case in cases for kind in CASES[case]]


def _ours(arguments: argparse.Namespace) -> dict[str, float]:
    tuning = _tuning(arguments)
    flags = ONLY_STEPS | OURS[tuning] | {
        "seed": arguments.round, "max_steps": arguments.steps, "train_batch_size": BATCH,
        "learning_rate": LEARNING_RATES[tuning], "warmup_steps": WARM_UP_SHARE,
        "max_new_tokens": 1, "training_run_name": "run",
    }  # fmt: skip
    if tuning == "lora":
        flags["lora_dropout"] = arguments.lora_dropout
    memory = MemoryOfSteps(arguments.steps)
    folder = run_ours("seq2seq", arguments, memory, **flags)
    return {
        "examples_per_second": _speed(arguments, seconds_of_steps(folder, BATCH)),
        "first_loss": next(read_lines(folder / "train_log.jsonl"))["loss"],
        "eval_loss": evaluations(folder)[-1].metrics["loss"],
        "step_gb": memory.more_gb,
    }


def _peer(arguments: argparse.Namespace) -> dict[str, float]:
    import torch
    from peft import get_peft_model

    dtype = torch.bfloat16 if arguments.trial.startswith("bf16") else torch.float32
    model, tokenizer = load_peer(arguments.folder / "models" / "m", "CausalLM", dtype=dtype)
    torch.manual_seed(arguments.round)
    model = get_peft_model(model, _adapter(arguments))
    train, evaluated = (read_records(arguments, "data", split) for split in ("train", "eval"))
    settings = TRAINING | {
        "output_dir": str(arguments.folder / "peer"),
        "per_device_train_batch_size": BATCH,
        "max_steps": arguments.steps,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "learning_rate": LEARNING_RATES[_tuning(arguments)],
        "warmup_steps": WARM_UP_SHARE,
        "seed": arguments.round,
    }
    records = in_our_order(train, arguments.steps, BATCH, arguments.round)
    examples = [chat_example(tokenizer, record) for record in records]
    trainer = make_trainer(model, tokenizer, settings, train_dataset=examples)
    memory = OwnMemory()
    seconds = time_training(trainer, WARM_UP)
    step_gb = memory.more_gb()
    examples = [chat_example(tokenizer, record) for record in evaluated]
    return {
        "examples_per_second": _speed(arguments, seconds),
        "first_loss": trainer.state.log_history[0]["loss"],
        "eval_loss": mean_token_loss(model, tokenizer, examples, BATCH),
        "step_gb": step_gb,
    }


def _adapter(arguments: argparse.Namespace) -> Any:
    """Virtual tokens start as embeddings of random tokens."""
    from peft import LoraConfig, PromptTuningConfig

    if _tuning(arguments) == "lora":
        return LoraConfig(
            task_type="CAUSAL_LM", r=R, lora_alpha=ALPHA, target_modules=list(MODULES),
            lora_dropout=arguments.lora_dropout,
        )  # fmt: skip
    return PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL_TOKENS, prompt_tuning_init="SAMPLE_VOCAB"
    )


def _tuning(arguments: argparse.Namespace) -> str:
    return str(arguments.trial).split("_")[1]


def _speed(arguments: argparse.Namespace, seconds: float) -> float:
    speed: float = BATCH * (arguments.steps - WARM_UP) / seconds
    return speed


def _report(
    trials: Trials, rates: dict[str, float], arguments: argparse.Namespace, cases: Iterable[str]
) -> str:
    """The section of docs/operate/performance.md that this benchmark writes."""
    dropout = f"dropout {arguments.lora_dropout:g}"
    heads = {
        "lora": f"LoRA, r {R}, alpha {ALPHA}, {dropout}, {' and '.join(MODULES)} | examples/s",
        "prompt": f"prompt tuning, {VIRTUAL_TOKENS} virtual tokens | examples/s",
        "freeze": "layers | seconds a step",
    }
    lines = [
        f"`python3 -m benchmarks adapters` trains `{arguments.model.name}` on the",
        f"completions of `{arguments.data.name}`: {arguments.steps} steps of {BATCH} examples, the "
        f"first {WARM_UP} not timed, with the same",
        f"examples in each step; AdamW, {WARM_UP_SHARE:.0%} warm-up, then a linear schedule. "
        f"{arguments.rounds} rounds in turn, each with its own seed:",
        "medians, with the least and the greatest in brackets; ratios are of each round's pair to",
        "the table's first line (of the same precision where layers are frozen). Eval losses, per",
        "target token, are means of the rounds. Step GB: the peak of resident memory until the end",
        "of the last step, less what the process held with the model loaded.",
        "",
    ]
    for case in cases:
        rows = [_row(trials, kind, told) for kind, told in CASES[case].items()]
        lines += [f"| {heads[case]} | ratio | eval loss | apart | step GB | ratio |"]
        lines += ["|---|---|---|---|---|---|---|", *rows, ""]
    if "lora" in cases:  # it begins as the model itself
        pairs = zip(trials["peer_lora"], trials["fp32_lora"], strict=True)
        apart = max(abs(one["first_loss"] - two["first_loss"]) for one, two in pairs)
        lines += [f"With LoRA, the losses of step 1 differ by {apart:.0e} at most in fp32.", ""]
    return "\n".join([*lines, f"{machine(rates)[:-1]}, peft {metadata.version('peft')}.", ""])


def _row(trials: Trials, kind: str, told: str) -> str:
    """A line of a table."""
    way, tuning = kind.split("_")
    frozen = kind in CASES["freeze"]
    base = f"{way}_full" if frozen else f"peer_{tuning}"

    def both(name: str) -> list[list[float]]:
        return [[one[name] for one in trials[which]] for which in (kind, base)]

    paces = both("examples_per_second")
    if frozen:
        paces = [[BATCH / speed for speed in speeds] for speeds in paces]
    loss, peers = map(statistics.fmean, both("eval_loss"))
    memory = both("step_gb")
    return (
        f"| {told} | {spread(paces[0])} | {ratios(*paces)} | {loss:.4f} | {loss / peers - 1:+.2%} "
        f"| {spread(memory[0], 3)} | {ratios(*memory)} |"
    )
