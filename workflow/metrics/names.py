"""Properties of metrics: which are better if lower, what counts as a number."""

import math
from collections.abc import Mapping
from typing import Any

from workflow.config.metric_kinds import KINDS

LOWER_IS_BETTER = frozenset({
    "loss", "perplexity", "byte_perplexity", "brier", "log_loss", "ece", "rmse", "mae",
    "answer_perplexity", "self_bleu", "ter",
})  # fmt: skip
CHANCE = {n: f"frequencies_{n}" for n in ("log_loss", "brier")} | {"accuracy": "majority_accuracy"}
"""Metrics of classes, with those of chance on the same records."""
NO_BEST = frozenset({
    *CHANCE.values(), "first_place_share",
    *(name for kind in KINDS.values() if kind.no_best for name in kind.gives),
})  # fmt: skip
"""Metrics without a best value: of chance, a bias, or what may be right to copy."""


def interval_of(metrics: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """The interval of a metric in a line of metrics.jsonl; None without one.

    A user metric may have a number under that name, which is not an interval.
    """
    ends = metrics.get(f"{name}_ci95")
    if not isinstance(ends, list) or len(ends) != 2 or not all(map(is_number, ends)):
        return None
    return ends[0], ends[1]


def is_number(value: object) -> bool:
    """Whether a value of a log is a finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]


def perplexity(loss: float | None) -> float | None:
    """exp of a mean token loss in nats; None for NaN and overflow."""
    if loss is None or not loss < 700:
        return None
    return math.exp(loss)


def is_better(metric: str, value: float | None, best: float | None) -> bool:
    """Whether `value` beats `best` in `metric`; None is never better, anything beats None."""
    if value is None or math.isnan(value) or metric in NO_BEST:
        return False
    if best is None:
        return True
    return value < best if metric in LOWER_IS_BETTER else value > best
