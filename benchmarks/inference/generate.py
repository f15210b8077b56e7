"""Generation speed against Seq2SeqTrainer.predict and model.generate; about 10 minutes."""

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ours import run_ours
from benchmarks.peer import load_peer, make_trainer
from benchmarks.publish import machine, publish, ratios, spread, usual_rate
from benchmarks.side_by_side import Trials, add_data_arguments, add_trial_arguments, measure
from benchmarks.synthetic import FLAN_T5, make_model
from workflow.runs.predictions import evaluations

SAMPLES = 8
PEER_ROWS = 128
"""Texts that `model.generate` samples at once: 16 prompts."""

KINDS = {
    "peer": "`Seq2SeqTrainer.predict`, fp32 (its default), batch 16",
    "fp32": "seq2seq.py, `--bf16 false`",
    "default": "seq2seq.py, as it comes",
    "peer_samples": "`model.generate`, 8 samples a prompt, fp32, batch 128",
    "samples": "seq2seq.py `--n_samples 8 --temperature 1`, as it comes",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_trial_arguments(parser, list(KINDS))
    add_data_arguments(parser, "prompts and completions")
    parser.add_argument("--records", type=int, help="prompts to complete [all of eval]")
    parser.add_argument("--sampled", type=int, default=96, help="prompts to sample for, of these")
    parser.add_argument("--steps", type=int, default=100, help="training steps, so that texts end")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """One trial where --trial names it (a process of its own), else all of them."""
    if arguments.trial is not None:
        found = _as_usual(arguments) if "peer" in arguments.trial else _ours(arguments)
        print(json.dumps(found))
        return

    def write(mount: Path) -> None:
        make_model(mount / "models" / "m", FLAN_T5["small"], arguments.tokenizer)
        data = json.loads(arguments.data.read_text(encoding="utf-8"))
        records = [*data["eval"], *data["train"]][: arguments.records or len(data["eval"])]
        for name, asked in (("data", records), ("sampled", records[: arguments.sampled])):
            data["eval"] = asked
            (mount / "data" / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")
        _train(mount, arguments.steps)

    trials, rates = measure("generate", list(KINDS), arguments, write)
    publish("benchmarks generate", _report(trials, rates, arguments))


def _train(mount: Path, steps: int) -> None:
    """Let the model `m` be one that has learned when an answer ends."""
    from workflow import find_mount, make_job, run_job

    job = make_job(
        "seq2seq", model_init_name="m", data_name="data", training_run_name="trained",
        max_steps=steps, train_batch_size=64, learning_rate=1e-3, eval_on_start=False,
        eval_steps=steps, save_steps=steps, max_new_tokens=1,
    )  # fmt: skip
    run_job(job, find_mount(str(mount)))
    shutil.rmtree(mount / "models" / "m")
    shutil.move(mount / "models" / "trained" / f"checkpoint-{steps}", mount / "models" / "m")


def _ours(arguments: argparse.Namespace) -> dict[str, Any]:
    sampling: dict[str, Any] = {}
    if arguments.trial == "samples":
        sampling = {"n_samples": SAMPLES, "temperature": 1.0}
    run = run_ours("seq2seq", arguments, data_name=_data(arguments), no_train=True, **sampling)
    (evaluation,) = evaluations(run)
    texts = [g["full_generated"] for item in evaluation.predictions() for g in item["generations"]]
    return _found(arguments, evaluation.metrics["generate_seconds"], texts)


def _found(arguments: argparse.Namespace, seconds: float, texts: Sequence[str]) -> dict[str, Any]:
    """Texts, and what their matrix products take at least: encoder once a prompt, decoder a token.

    Two operations a weight and token; keys and values of the encoder's output once a prompt.
    """
    from transformers import AutoConfig, AutoTokenizer

    folder = arguments.folder / "models" / "m"
    tokenizer, c = AutoTokenizer.from_pretrained(folder), AutoConfig.from_pretrained(folder)
    texts = [_clean(text) for text in texts]
    prompts = [record["prompt"] for record in _records(arguments)]
    source = sum(map(len, tokenizer(prompts)["input_ids"]))
    written = sum(len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"])
    attention, feed_forward = 2 * c.d_model * c.num_heads * c.d_kv, 3 * c.d_model * c.d_ff
    encoder = c.num_layers * (2 * attention + feed_forward) + c.num_decoder_layers * attention
    decoder = c.num_decoder_layers * (3 * attention + feed_forward) + c.vocab_size * c.d_model
    return {
        "seconds": seconds,
        "gflop": 2 * (source * encoder + written * decoder) / 1e9,
        "tokens": float(written),
        "texts": texts,
    }


def _clean(text: str) -> str:
    """A text with its special tokens as far as its end, without the start and padding."""
    text = text.replace("<pad>", "").strip()
    return text[: text.index("</s>") + 4] if "</s>" in text else text


def _data(arguments: argparse.Namespace) -> str:
    return "sampled" if "samples" in arguments.trial else "data"


def _records(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    data = json.loads((arguments.folder / "data" / f"{_data(arguments)}.json").read_text())
    records: list[dict[str, Any]] = data["eval"]
    return records


def _as_usual(arguments: argparse.Namespace) -> dict[str, Any]:
    """As transformers' own examples do it, prompts in the order of the file; tokens are ready."""
    model, tokenizer = load_peer(arguments.folder / "models" / "m")
    records = _records(arguments)
    rows = tokenizer([record["prompt"] for record in records])["input_ids"]
    answers = tokenizer([record["completion"] for record in records])["input_ids"]
    new_tokens = max(map(len, answers))
    make = _sampler if arguments.trial == "peer_samples" else _predictor
    answer = make(model, tokenizer, rows, new_tokens, arguments.folder)
    began = time.perf_counter()
    ids = answer()
    seconds = time.perf_counter() - began
    return _found(
        arguments, seconds, tokenizer.batch_decode(ids, clean_up_tokenization_spaces=False)
    )


def _predictor(
    model: Any, tokenizer: Any, rows: Any, new_tokens: int, folder: Path
) -> Callable[[], Any]:
    from transformers import GenerationConfig

    ids = {name: getattr(model.generation_config, name)
           for name in ("eos_token_id", "pad_token_id", "decoder_start_token_id")}  # fmt: skip
    settings = {
        "output_dir": str(folder / "peer"),
        "per_device_eval_batch_size": 16,
        "predict_with_generate": True,
        "generation_config": GenerationConfig(max_new_tokens=new_tokens, **ids),
    }
    trainer = make_trainer(model, tokenizer, settings)
    examples = [{"input_ids": row} for row in rows]
    return lambda: trainer.predict(examples).predictions.clip(min=0)


def _sampler(
    model: Any, tokenizer: Any, rows: Any, new_tokens: int, folder: Path
) -> Callable[[], Any]:
    import torch

    torch.manual_seed(0)

    def answer() -> list[list[int]]:
        found: list[list[int]] = []
        for start in range(0, len(rows), PEER_ROWS // SAMPLES):
            chosen = {"input_ids": rows[start : start + PEER_ROWS // SAMPLES]}
            batch = tokenizer.pad(chosen, return_tensors="pt").to(model.device)
            ids = model.generate(
                **batch, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=new_tokens,
                num_return_sequences=SAMPLES,
            )  # fmt: skip
            found += ids.tolist()
        return found

    return answer


def _report(trials: Trials, rates: dict[str, float], arguments: argparse.Namespace) -> str:
    """The section of docs/operate/performance.md that this benchmark writes."""
    rows = []
    for kind, found in trials.items():
        peer = trials["peer_samples" if "samples" in kind else "peer"]
        speeds = [one["tokens"] / one["seconds"] for one in found]
        peers = [one["tokens"] / one["seconds"] for one in peer]
        rate = rates["fp32"] if "peer" in kind or kind == "fp32" else usual_rate(rates)
        share = statistics.median(one["gflop"] / one["seconds"] for one in found) / rate
        same = sum(a == b for a, b in zip(found[0]["texts"], peer[0]["texts"], strict=True))
        told = "–" if "samples" in kind else f"{same} of {len(peer[0]['texts'])}"
        seconds = [one["seconds"] for one in found]
        rows.append(
            f"| {KINDS[kind]} | {spread(seconds)} | {spread(speeds, 0)} "
            f"| {ratios(speeds, peers)} | {share:.0%} | {told} |"
        )
    few = len(trials["samples"][0]["texts"]) // SAMPLES
    greedy = trials["peer"][0]
    count = len(greedy["texts"])
    return "\n".join(
        [
            "`python3 -m benchmarks generate` answers prompts with a model in flan-t5-small's",
            f"layout that was trained for {arguments.steps} steps, so that its answers end:",
            f"{count} records of `{arguments.data.name}`, "
            f"whose greedy answers have {greedy['tokens'] / count:.1f} tokens on average; "
            f"{arguments.rounds} rounds in turn; tokens are ready before",
            f"the clock starts. {SAMPLES} samples a prompt are of the first {few} records.",
            "Medians, with the least and the greatest in brackets; ratios are of each",
            "round's pair, by tokens. The matrix rate counts real tokens only.",
            "",
            "| what | seconds | tokens/s | against the usual way | of the rate | same texts |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            machine(rates),
            "",
        ]
    )
