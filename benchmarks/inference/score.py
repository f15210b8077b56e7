"""Scoring speed and differences against plain transformers calls; about 5 minutes."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.ours import run_ours
from benchmarks.peer import load_peer
from benchmarks.publish import machine, publish, ratios, spread
from benchmarks.side_by_side import Trials, add_data_arguments, add_trial_arguments, measure
from benchmarks.synthetic import FLAN_T5, make_model
from workflow.runs.predictions import evaluations

KINDS = {
    "peer": "`model(input_ids, decoder_input_ids)`, fp32, random batches of 16",
    "fp32": "clf.py, `--bf16 false`",
    "default": "clf.py, as it comes",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_trial_arguments(parser, list(KINDS))
    add_data_arguments(parser, "inputs or prompts")
    parser.add_argument("--records", type=int, default=800, help="records to score")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """One trial where --trial names it (a process of its own), else all of them."""
    if arguments.trial is not None:
        trial = _score_as_usual if arguments.trial == "peer" else _score_ours
        print(json.dumps(trial(arguments)))
        return

    def write(mount: Path) -> None:
        make_model(mount / "models" / "m", FLAN_T5["small"], arguments.tokenizer)
        data = json.loads(arguments.data.read_text(encoding="utf-8"))
        texts = [r.get("input", r.get("prompt")) for r in [*data["eval"], *data["train"]]]
        records = [{"input": text} for text in texts[: arguments.records]]
        (mount / "data" / "data.json").write_text(json.dumps({"eval": records}), encoding="utf-8")

    trials, rates = measure("score", list(KINDS), arguments, write)
    publish("benchmarks score", _report(trials, rates, arguments))


def _score_ours(arguments: argparse.Namespace) -> dict[str, Any]:
    (evaluation,) = evaluations(run_ours("clf", arguments, no_train=True))
    scores = [item["pred_score"] for item in evaluation.predictions()]
    speed = len(scores) / evaluation.metrics["score_seconds"]
    return {"records_per_second": speed, "scores": scores}


def _score_as_usual(arguments: argparse.Namespace) -> dict[str, Any]:
    """All logits of the vocabulary in random batches, then two of them; tokens are ready before."""
    import torch

    model, tokenizer = load_peer(arguments.folder / "models" / "m")
    records = json.loads((arguments.folder / "data" / "data.json").read_text())["eval"]
    texts = [record["input"] for record in records]
    rows = tokenizer(texts, max_length=1024, truncation=True)["input_ids"]
    words = tokenizer.convert_tokens_to_ids(["▁no", "▁yes"])
    torch.manual_seed(0)
    order = torch.randperm(len(rows)).tolist()
    scores = torch.empty(len(rows))
    began = time.perf_counter()
    with torch.no_grad():
        for start in range(0, len(rows), 16):
            chosen = order[start : start + 16]
            batch = tokenizer.pad({"input_ids": [rows[i] for i in chosen]}, return_tensors="pt")
            first = torch.full((len(chosen), 1), model.config.decoder_start_token_id)
            logits = model(
                **batch.to(model.device), decoder_input_ids=first.to(model.device)
            ).logits
            scores[chosen] = logits[:, 0, words].softmax(-1)[:, 1].cpu()
    seconds = time.perf_counter() - began
    return {"records_per_second": len(rows) / seconds, "scores": scores.tolist()}


def _report(trials: Trials, rates: dict[str, float], arguments: argparse.Namespace) -> str:
    """The section of docs/operate/performance.md that this benchmark writes."""
    rows = []
    for kind, found in trials.items():
        speeds = [trial["records_per_second"] for trial in found]
        peers = [trial["records_per_second"] for trial in trials["peer"]]
        wanted = trials["peer"][0]["scores"]
        apart = max(abs(a - b) for a, b in zip(found[0]["scores"], wanted, strict=True))
        rows.append(
            f"| {KINDS[kind]} | {spread(speeds, 1)} | {ratios(speeds, peers)} | {apart:.1e} |"
        )
    count = len(trials["peer"][0]["scores"])
    return "\n".join(
        [
            "`python3 -m benchmarks score` scores records with a random model in flan-t5-small's",
            f"layout: {count} records of `{arguments.data.name}`, {arguments.rounds} rounds in "
            "turn; tokens are ready before",
            "the clock starts. Medians, with the least and the greatest in brackets; ratios are of",
            "each round's pair; the last column is the greatest difference of a score.",
            "",
            "| what | records/s | against the usual way | scores differ by |",
            "|---|---|---|---|",
            *rows,
            "",
            machine(rates),
            "",
        ]
    )
