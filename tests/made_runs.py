"""Handwritten run folders, for tests that only read them."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workflow.runs.predictions import prediction_files


def write_run(
    folder: Path,
    spec: dict[str, Any],
    evaluations: dict[int, tuple[dict[str, Any], Sequence[dict[str, Any]] | None]],
    losses: Sequence[float] = (),
) -> Path:
    """A run's folder as workflow leaves it, but for checkpoints.

    Args:
        spec: what of the job differs from a small one.
        evaluations: metrics and items by step; None for items that are gone.
        losses: of training, one logged step each.
    """
    folder.mkdir(parents=True)
    spec = {
        "training_run_name": folder.name, "model_init_name": "small", "data_name": "sums",
        "max_steps": 4, "metric_for_best_model": "loss", "seed": 0, **spec,
    }  # fmt: skip
    _write(folder / "training_args.json", json.dumps(spec))
    status = {"state": "done", "step": 4, "max_steps": 4, "host": "here", "time": 1e9}
    _write(folder / "status.json", json.dumps(status))
    lines = [{"step": step, **metrics, "time": 1e9} for step, (metrics, _) in evaluations.items()]
    _write(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    logged = [
        {"step": step, "loss": loss, "learning_rate": 1e-3, "grad_norm": 1.0,
         "examples_per_second": 10.0, "memory_gb": 1.5, "time": time.time()}
        for step, loss in enumerate(losses, start=1)
    ]  # fmt: skip
    _write(folder / "train_log.jsonl", "".join(json.dumps(line) + "\n" for line in logged))
    for step, (_, items) in evaluations.items():
        if items is not None:
            _write(folder / prediction_files(spec, step)[0], json.dumps(items))
    return folder


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def answered(prompt: str, expected: str | None, *answers: str) -> dict[str, Any]:
    """An item of seq2seq."""
    record = {"prompt": prompt} | ({} if expected is None else {"completion": expected})
    generations = [
        {"lm_postprocess": text, "full_generated": f"{text}</s>", "scores": [-1.0, 0.5]}
        for text in answers
    ]
    return {
        "prompt": prompt, "generations": generations, "demonstration": expected, "orig_d": record,
    }  # fmt: skip


def scored(text: str, target: float | None, score: float | None) -> dict[str, Any]:
    """An item of clf."""
    record: dict[str, Any] = {"input": text} | ({} if target is None else {"target": target})
    logits = None if score is None else [0.0, 1.0]
    return {"orig_d": record, "pred_score": score, "logits": logits}


def classified(
    record: dict[str, Any],
    names: Sequence[str],
    given: Sequence[float] | None,
    swapped: Sequence[float] | None = None,
) -> dict[str, Any]:
    """An item of clf with several classes, from the probabilities of each order of a pair."""
    if given is None:
        return {"orig_d": record, "pred_label": None, "pred_probs": None, "logits": None}
    orders = [given] if swapped is None else [given, swapped]
    shares = [sum(values) / len(orders) for values in zip(*orders, strict=True)]
    labels = [names[list(values).index(max(values))] for values in (shares, *orders)]
    item = {
        "orig_d": record, "pred_label": labels[0],
        "pred_probs": dict(zip(names, shares, strict=True)), "logits": list(given),
    }  # fmt: skip
    if swapped is not None:
        item |= {"pred_label_as_given": labels[1], "pred_label_swapped": labels[2],
                 "logits_swapped": list(swapped)}  # fmt: skip
    return item
