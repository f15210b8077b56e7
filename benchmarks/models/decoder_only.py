"""Training and generation of a decoder-only model against transformers; about an hour."""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.ours import ONLY_STEPS, in_our_order, run_ours, seconds_of_steps
from benchmarks.peer import (
    TRAINING,
    chat_example,
    chat_prompt,
    check_packages,
    load_peer,
    make_trainer,
    time_training,
)
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
from benchmarks.synthetic import write_data
from workflow.runs.predictions import evaluations, read_lines

BATCH = 16
TRAINED = {
    "peer": "`Trainer`, fp32 (its default), batch 16",
    "fp32": "workflow, `--bf16 false`",
    "default": "workflow, as it comes",
}
ANSWERED = {
    "peer_answers": "`model.generate`, left padding, fp32, batch 16",
    "fp32_answers": "workflow, `--bf16 false`",
    "default_answers": "workflow, as it comes",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_trial_arguments(parser, [*TRAINED, *ANSWERED])
    content = "prompts and completions; the model has a chat template"
    add_model_arguments(parser, content, "smollm2-135m-instruct")
    add_steps_argument(parser, 10)
    parser.add_argument("--records", type=int, default=200, help="prompts, of eval, then of train")
    parser.add_argument("--new_tokens", type=int, default=128, help="most tokens of an answer")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """One trial where --trial names it (a process of its own), else all of them."""
    if arguments.trial is not None:
        print(json.dumps(TRIALS[arguments.trial](arguments)))
        return
    check_packages()
    check_model(arguments.model)

    def write(mount: Path) -> None:
        link_model(mount, arguments.model)
        data = json.loads(arguments.data.read_text(encoding="utf-8"))
        asked = [*data["eval"], *data["train"]][: arguments.records]
        write_data(mount / "data" / "data.json", data["train"], asked[:1])
        write_data(mount / "data" / "asked.json", [], asked)

    words = ["--steps", str(arguments.steps), "--new_tokens", str(arguments.new_tokens)]
    trials, rates = measure("decoder_only", [*TRAINED, *ANSWERED], arguments, write, words)
    publish("benchmarks decoder_only", _report(trials, rates, arguments))


def _train_ours(arguments: argparse.Namespace) -> dict[str, float]:
    folder = run_ours(
        "seq2seq", arguments, **ONLY_STEPS, max_steps=arguments.steps, train_batch_size=BATCH,
        max_new_tokens=1,
    )  # fmt: skip
    first = next(read_lines(folder / "train_log.jsonl"))
    return _trained(arguments, seconds_of_steps(folder, BATCH), first["loss"])


def _train_peer(arguments: argparse.Namespace) -> dict[str, float]:
    model, tokenizer = load_peer(arguments.folder / "models" / "m", "CausalLM")
    records = in_our_order(read_records(arguments, "data", "train"), arguments.steps, BATCH)
    settings = TRAINING | {
        "output_dir": str(arguments.folder / "peer"),
        "per_device_train_batch_size": BATCH,
        "max_steps": arguments.steps,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
    }
    examples = [chat_example(tokenizer, record) for record in records]
    trainer = make_trainer(model, tokenizer, settings, train_dataset=examples)
    seconds = time_training(trainer, WARM_UP)
    return _trained(arguments, seconds, trainer.state.log_history[0]["loss"])


def _trained(arguments: argparse.Namespace, seconds: float, first_loss: float) -> dict[str, float]:
    speed = BATCH * (arguments.steps - WARM_UP) / seconds
    return {"examples_per_second": speed, "first_loss": first_loss}


def _answer_ours(arguments: argparse.Namespace) -> dict[str, Any]:
    folder = run_ours(
        "seq2seq", arguments, data_name="asked", no_train=True,
        max_new_tokens=arguments.new_tokens,
    )  # fmt: skip
    (evaluation,) = evaluations(folder)
    texts = [item["generations"][0]["lm_postprocess"] for item in evaluation.predictions()]
    return _answered(evaluation.metrics["generate_seconds"], texts)


def _answer_as_usual(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prompts in the order of the file; tokens are ready."""
    model, tokenizer = load_peer(arguments.folder / "models" / "m", "CausalLM")
    rows = [chat_prompt(tokenizer, record) for record in read_records(arguments, "asked", "eval")]
    answers: list[list[int]] = []
    began = time.perf_counter()
    for start in range(0, len(rows), BATCH):
        chosen = {"input_ids": rows[start : start + BATCH]}
        batch = tokenizer.pad(chosen, padding_side="left", return_tensors="pt").to(model.device)
        ids = model.generate(**batch, do_sample=False, max_new_tokens=arguments.new_tokens)
        answers += ids[:, batch["input_ids"].shape[1] :].tolist()
    seconds = time.perf_counter() - began
    return _answered(seconds, tokenizer.batch_decode(answers, skip_special_tokens=True))


def _answered(seconds: float, texts: Sequence[str]) -> dict[str, Any]:
    return {"seconds": seconds, "texts": [text.strip() for text in texts]}


TRIALS = {
    "peer": _train_peer, "fp32": _train_ours, "default": _train_ours,
    "peer_answers": _answer_as_usual, "fp32_answers": _answer_ours,
    "default_answers": _answer_ours,
}  # fmt: skip


def _report(trials: Trials, rates: dict[str, float], arguments: argparse.Namespace) -> str:
    """The section of docs/operate/performance.md that this benchmark writes."""
    first = [trial["first_loss"] for trial in trials["peer"]]
    apart = max(abs(a - b["first_loss"]) for a, b in zip(first, trials["fp32"], strict=True))
    count = len(trials["peer_answers"][0]["texts"])
    return "\n".join(
        [
            f"`python3 -m benchmarks decoder_only` trains `{arguments.model.name}` on the",
            f"completions of `{arguments.data.name}`: {arguments.steps} steps of {BATCH} examples, "
            f"the first {WARM_UP} not timed, each step with the same",
            f"examples. Then the untrained one answers {count} prompts greedily with at most "
            f"{arguments.new_tokens} tokens;",
            f"tokens are ready before the clock starts. {arguments.rounds} rounds in turn: "
            "medians, with the least and the",
            "greatest in brackets; ratios are of each round's pair, above 1 where workflow is",
            "faster.",
            "",
            "| training | examples/s | against the peer |",
            "|---|---|---|",
            *_rows_of_training(trials),
            "",
            f"The loss of step 1, before any update, is {first[0]:.4f}; in fp32 ours differs by "
            f"{apart:.0e} at most.",
            "",
            "| generation | seconds | against the peer | same texts |",
            "|---|---|---|---|",
            *_rows_of_answers(trials),
            "",
            machine(rates),
            "",
        ]
    )


def _rows_of_training(trials: Trials) -> list[str]:
    speeds = {kind: [one["examples_per_second"] for one in trials[kind]] for kind in TRAINED}
    return [
        f"| {TRAINED[kind]} | {spread(found)} | {ratios(found, speeds['peer'])} |"
        for kind, found in speeds.items()
    ]


def _rows_of_answers(trials: Trials) -> list[str]:
    rows = []
    peer = trials["peer_answers"]
    for kind, told in ANSWERED.items():
        seconds = [one["seconds"] for one in trials[kind]]
        faster = ratios([one["seconds"] for one in peer], seconds)
        pairs = zip(trials[kind][0]["texts"], peer[0]["texts"], strict=True)
        same = sum(a == b for a, b in pairs)
        texts = len(peer[0]["texts"])
        rows.append(f"| {told} | {spread(seconds)} | {faster} | {same} of {texts} |")
    return rows
