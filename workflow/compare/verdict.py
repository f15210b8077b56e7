"""Who is better, in a sentence."""

from collections.abc import Sequence

from workflow.compare.measuring import Interval, Metric
from workflow.metrics import LOWER_IS_BETTER

_SHARES = frozenset({
    "exact_match", "normalized_exact_match", "rouge1", "rouge2", "rougeL", "rougeLsum", "accuracy",
    "balanced_accuracy", "f1", "auc", "average_precision", "brier", "ece",
})  # fmt: skip
"""Metrics from 0 to 1 that are told in points of a hundred."""
_POINTS = frozenset({"bleu", "chrf"})
"""Metrics that are such points."""


def sentence(metric: Metric, index: int, labels: Sequence[str], alike: bool) -> str:
    """How one evaluation does against the first in a metric, as far as the records tell.

    Args:
        index: of the evaluation, from 1 on.
        alike: whether all answers are the same.
    """
    base, other = labels[0], labels[index]
    if alike:
        return f"{other} and {base} gave the same answer to every record"
    difference, interval = metric.differences[index - 1], metric.intervals[index - 1]
    if difference is None or interval is None:
        return f"{other} against {base}: {metric.name} is undefined on these records"
    low, high = interval
    result = judged(metric.name, interval)
    if not result:
        told = (_told(metric.name, value, "+") for value in (difference, low, high))
        difference_told, low_told, high_told = told
        return (
            f"no difference between {other} and {base} that these records could show: "
            f"{metric.name} {difference_told}{_unit(metric.name)}, 95% {low_told} to {high_told}"
        )
    verb = "beats" if result == "better" else "loses to"
    least, most = sorted((abs(low), abs(high)))
    by = _told(metric.name, abs(difference)) + _unit(metric.name)
    lower = " (lower is better)" if metric.name in LOWER_IS_BETTER else ""
    return (
        f"{other} {verb} {base} in {metric.name}{lower} by {by}, "
        f"95% {_told(metric.name, least)} to {_told(metric.name, most)}"
    )


def judged(name: str, interval: Interval | None) -> str:
    """Better or worse, where the records could show a difference."""
    if interval is None or interval[0] <= 0 <= interval[1]:
        return ""
    return "better" if (interval[1] < 0) == (name in LOWER_IS_BETTER) else "worse"


def _unit(name: str) -> str:
    return " points" if name in _SHARES or name in _POINTS else ""


def _told(name: str, value: float, sign: str = "") -> str:
    if not _unit(name):
        return f"{value:{sign}.3g}"
    points = value * 100 if name in _SHARES else value
    if points == 0:
        return "0"
    return f"{points:{sign}.1f}" if abs(points) >= 0.1 else f"{points:{sign}.1g}"
