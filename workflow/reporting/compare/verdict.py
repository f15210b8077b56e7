"""The verdict of a comparison in a sentence."""

import math
from collections.abc import Sequence

from workflow.metrics.names import LOWER_IS_BETTER, NO_BEST
from workflow.reporting.compare.metrics import RECORDS_NEEDED, Interval, Metric

_SHARES = frozenset({
    "exact_match", "normalized_exact_match", "rouge1", "rouge2", "rougeL", "rougeLsum",
    "rougeL_unicode", "accuracy", "macro_f1",
    "balanced_accuracy", "f1", "auc", "average_precision", "brier", "ece",
    "distinct_1", "distinct_2", "distinct_3", "copied_words", "copied_run", "squad_exact_match",
    "squad_f1", "json_valid", "json_exact", "number_close", "choice", "same_script",
})  # fmt: skip
"""Metrics from 0 to 1, reported in percentage points."""
_POINTS = frozenset({"bleu", "chrf", "ibleu", "self_bleu", "ter"})
"""Metrics from 0 to 100."""
_NOTHING = 1e-12
"""Rounding error."""


def sentence(metric: Metric, index: int, labels: Sequence[str], alike: bool, some: str) -> str:
    """The verdict on an evaluation against the base in a metric.

    Args:
        index: of the evaluation, from 1 on.
        alike: whether all predictions are the same.
        some: the compared records; empty if they are all records of every evaluation.
    """
    base, other, name = labels[0], labels[index], metric.name
    on = f" on {some}" if some else ""
    if alike:
        return f"{other} and {base} have identical predictions{on or ' on all records'}"
    difference, interval = metric.differences[index - 1], metric.intervals[index - 1]
    if difference is None or interval is None:
        return f"{other} vs {base}: {name} is undefined{on or ' on these records'}"
    if abs(difference) < _NOTHING and not has_width(interval):
        same = f"{other} and {base} have the same {name}{on}"
        return same if metric.can_rank(index) else f"{same}; {_too_few(metric)}"
    by = f"{name} {_figure(name, difference)}{_unit(name)}"
    if not metric.can_rank(index):
        return f"{other} vs {base}: {by}{on}; {_too_few(metric)}"
    ci = "no CI: all resamples agree"
    if has_width(interval):
        ci = "95% CI " + " to ".join(_figure(name, end) for end in interval)
    result = judged(metric, index)
    if not result:
        return f"no significant difference between {other} and {base}: {by} ({ci}){on}"
    lower = "; lower is better" if name in LOWER_IS_BETTER else ""
    return f"{other} is {result} than {base}: {by} ({ci}{lower}){on}"


def _too_few(metric: Metric) -> str:
    """The reason for no verdict."""
    if metric.records < RECORDS_NEEDED:
        return f"too few records for a verdict (at least {RECORDS_NEEDED} needed)"
    return "undefined in many resamples, too few relevant records for a verdict"


def has_width(interval: Interval) -> bool:
    """Whether resamples differ; if not, they say nothing about other records."""
    return not math.isclose(*interval, rel_tol=1e-9, abs_tol=_NOTHING)


def judged(metric: Metric, index: int) -> str:
    """Better or worse than the base if the difference is significant, else empty."""
    if metric.name in NO_BEST:
        return ""
    interval = metric.intervals[index - 1]
    if interval is None or interval[0] <= 0 <= interval[1] or not metric.can_rank(index):
        return ""
    return "better" if (interval[1] < 0) == (metric.name in LOWER_IS_BETTER) else "worse"


def _unit(name: str) -> str:
    return " points" if name in _SHARES or name in _POINTS else ""


def _figure(name: str, value: float) -> str:
    if not _unit(name):
        return f"{value:+.3g}"
    points = value * 100 if name in _SHARES else value
    if points == 0:
        return "0"
    return f"{points:+.1f}" if abs(points) >= 0.1 else f"{points:+.1g}"
