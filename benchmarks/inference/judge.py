"""BARTScore of answers against plain transformers calls, one by one and in batches; 5 minutes."""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.peer import load_peer
from benchmarks.publish import machine, publish, ratios, spread
from benchmarks.side_by_side import Trials, add_data_arguments, add_trial_arguments, measure
from benchmarks.synthetic import FLAN_T5, make_model

KINDS = {
    "peer": "`model(input_ids, labels=…)`, fp32, one text after the other",
    "peer batches": "the same in padded batches of 4, as in BARTScore's code",
    "fp32": "`--metric bartscore:MODEL`, fp32",
}
Pairs = Sequence[tuple[str, str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_trial_arguments(parser, list(KINDS))
    add_data_arguments(parser, "prompts, which stand for answers, and completions")
    parser.set_defaults(run=run, data=ROOT / "mount" / "data" / "paraphrases.json")
    parser.add_argument("--records", type=int, default=200, help="answers to score")


def run(arguments: argparse.Namespace) -> None:
    """One trial where --trial names it (a process of its own), else all of them."""
    if arguments.trial is not None:
        print(json.dumps(_trial(arguments)))
        return

    def write(mount: Path) -> None:
        make_model(mount / "models" / "m", FLAN_T5["small"], arguments.tokenizer)
        data = json.loads(arguments.data.read_text(encoding="utf-8"))
        records = [*data["train"], *data["eval"]][: arguments.records]
        texts = [(one["completion"], one["prompt"]) for one in records]
        pairs = [pair for text in texts for pair in (text, text[::-1])]
        (mount / "data" / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")

    trials, rates = measure("judge", list(KINDS), arguments, write)
    publish("benchmarks judge", _report(trials, rates, arguments))


def _trial(arguments: argparse.Namespace) -> dict[str, Any]:
    folder = arguments.folder / "models" / "m"
    pairs = [tuple(pair) for pair in json.loads((arguments.folder / "data/pairs.json").read_text())]
    score = _ours(folder) if arguments.trial == "fp32" else _as_usual(folder, arguments.trial)
    score(pairs[:8])  # what is made once
    began = time.perf_counter()
    scores = score(pairs)
    return {"seconds": time.perf_counter() - began, "scores": scores}


def _ours(folder: Path) -> Any:
    from workflow.config.metric_kinds import AskedMetric
    from workflow.distributed.world import World
    from workflow.inference.eval_shard import EvalShard
    from workflow.training.judges import judge_of, load_judge

    judge = judge_of(AskedMetric("bartscore:m"), folder)
    model = load_judge(judge, bf16=False)

    def score(pairs: Pairs) -> list[float]:
        found = dict(judge.scorer.scores(model, pairs, EvalShard(World())))
        return [found[index][0] for index in range(len(pairs))]

    return score


def _as_usual(folder: Path, kind: str) -> Any:
    import torch

    model, tokenizer = load_peer(folder)
    at_once = 1 if kind == "peer" else 4

    def score(pairs: Pairs) -> list[float]:
        scores: list[float] = []
        for start in range(0, len(pairs), at_once):
            given, texts = zip(*pairs[start : start + at_once], strict=True)
            source, target = (
                tokenizer(list(one), return_tensors="pt", padding=True).to(model.device)
                for one in (given, texts)
            )
            labels = target["input_ids"]
            with torch.no_grad():
                logits = model(**source, labels=labels).logits
            losses = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2),
                labels,
                reduction="none",
                ignore_index=model.config.pad_token_id,
            )
            scores += (-losses.sum(1) / target["attention_mask"].sum(1)).tolist()
        return scores

    return score


def _report(trials: Trials, rates: dict[str, float], arguments: argparse.Namespace) -> str:
    """The section of docs/operate/performance.md that this benchmark writes."""
    rows, wanted = [], trials["peer"][0]["scores"]
    for kind, found in trials.items():
        seconds = [trial["seconds"] for trial in found]
        slow = [trial["seconds"] for trial in trials["peer"]]
        apart = max(abs(a - b) for a, b in zip(found[0]["scores"], wanted, strict=True))
        rows.append(
            f"| {KINDS[kind]} | {spread(seconds, 1)} | {ratios(slow, seconds)} | {apart:.1e} |"
        )
    return "\n".join(
        [
            "`python3 -m benchmarks judge` computes BARTScore, in both directions, by a random",
            f"model in flan-t5-small's layout: {len(wanted) // 2} prompts of "
            f"`{arguments.data.name}` as answers,",
            f"{arguments.rounds} rounds in turn. Medians, with the least and the greatest in",
            "brackets; ratios are of each round's pair; the last column is the greatest difference",
            "of a score.",
            "",
            "| what | seconds | speed against one by one | scores differ by |",
            "|---|---|---|---|",
            *rows,
            "",
            machine(rates),
            "",
        ]
    )
