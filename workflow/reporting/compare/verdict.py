"""Who is better, in a sentence."""

import math
from collections.abc import Sequence

from workflow.metrics.names import LOWER_IS_BETTER
from workflow.reporting.compare.metrics import RECORDS_NEEDED, Interval, Metric

_SHARES = frozenset({
    "exact_match", "normalized_exact_match", "rouge1", "rouge2", "rougeL", "rougeLsum",
    "rougeL_unicode", "accuracy",
    "balanced_accuracy", "f1", "auc", "average_precision", "brier", "ece",
})  # fmt: skip
"""Metrics from 0 to 1 that are told in points of a hundred."""
_POINTS = frozenset({"bleu", "chrf"})
"""Metrics that are such points."""
_NOTHING = 1e-12
"""What rounding alone may make."""


def sentence(metric: Metric, index: int, labels: Sequence[str], alike: bool, some: str) -> str:
    """How one evaluation does against the first in a metric, as far as the records tell.

    Args:
        index: of the evaluation, from 1 on.
        alike: whether all answers are the same.
        some: which records these are; empty where they are all that each evaluation has.
    """
    base, other, name = labels[0], labels[index], metric.name
    if alike:
        each = f"each of {some}" if some else "every record"
        return f"{other} and {base} gave the same answer to {each}"
    difference, interval = metric.differences[index - 1], metric.intervals[index - 1]
    if difference is None or interval is None:
        return f"{other} against {base}: {name} is undefined on {some or 'these records'}"
    on = f", on {some}" if some else ""
    by = _told(name, difference, "+") + _unit(name)
    if abs(difference) < _NOTHING and not has_width(interval):
        sentence = f"{other} and {base} have the same {name}{on}"
        return sentence if metric.can_tell(index) else f"{sentence}; {_too_few(metric)}"
    if not metric.can_tell(index):
        return f"{other} against {base}: {name} {by}{on}; {_too_few(metric)}"
    low, high = interval
    result = judged(metric, index)
    if not result:
        ends = f"{_told(name, low, '+')} to {_told(name, high, '+')}"
        return (
            f"no difference between {other} and {base} that these records could show: "
            f"{name} {by}, 95% {ends}{on}"
        )
    verb = "beats" if result == "better" else "loses to"
    lower = " (lower is better)" if name in LOWER_IS_BETTER else ""
    least, most = (_told(name, end) for end in sorted((abs(low), abs(high))))
    by = by.lstrip("+-")
    around = f", 95% {least} to {most}{on}"
    if not has_width(interval):
        around = f"{on}; all resamples of these records agree, so there is no interval"
    return f"{other} {verb} {base} in {name}{lower} by {by}{around}"


def _too_few(metric: Metric) -> str:
    """Why nobody is called better."""
    if metric.records < RECORDS_NEEDED:
        return f"{RECORDS_NEEDED} records at least are needed to tell which is better"
    return "it is undefined in many resamples: too few records decide it to tell which is better"


def has_width(interval: Interval) -> bool:
    """Whether resamples differ; where they do not, they tell nothing of other records."""
    return not math.isclose(*interval, rel_tol=1e-9, abs_tol=_NOTHING)


def judged(metric: Metric, index: int) -> str:
    """Better or worse than the first, where the records could show a difference."""
    interval = metric.intervals[index - 1]
    if interval is None or interval[0] <= 0 <= interval[1] or not metric.can_tell(index):
        return ""
    return "better" if (interval[1] < 0) == (metric.name in LOWER_IS_BETTER) else "worse"


def _unit(name: str) -> str:
    return " points" if name in _SHARES or name in _POINTS else ""


def _told(name: str, value: float, sign: str = "") -> str:
    if not _unit(name):
        return f"{value:{sign}.3g}"
    points = value * 100 if name in _SHARES else value
    if points == 0:
        return "0"
    return f"{points:{sign}.1f}" if abs(points) >= 0.1 else f"{points:{sign}.1g}"
