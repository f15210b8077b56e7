"""What a run came to, in a few sentences and a table: before training, at its best, at its end."""

import time
from collections.abc import Sequence
from typing import Any

from workflow.answers import Evaluation
from workflow.metrics import LOWER_IS_BETTER, SHOWN, interval_of, is_better, is_number
from workflow.report.blocks import Table

NO_METRICS = frozenset({"step", "time"})
"""What else a line of metrics.jsonl holds."""


def readable(value: Any) -> str:
    """A metric with four digits; a dash where it has no value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def with_interval(metrics: dict[str, Any], name: str) -> str:
    """A metric's value and, where it has one, its 95% interval."""
    around = _interval(metrics, name)
    return readable(metrics.get(name)) + (f" ({around})" if around else "")


def cell(metrics: dict[str, Any], name: str, more: str = "") -> str:
    """The same in a table, with the interval on a line of its own."""
    return f"{readable(metrics.get(name))}{more}\n{_interval(metrics, name)}".rstrip()


def _interval(metrics: dict[str, Any], name: str) -> str:
    ends = interval_of(metrics, name)
    # Where all records are alike, resamples tell nothing.
    return "" if ends is None or ends[0] == ends[1] else f"{ends[0]:.3g} to {ends[1]:.3g}"


def metric_names(task: str, evaluations: Sequence[Evaluation]) -> list[str]:
    """The metrics that have a value at some evaluation, those told first of a task first."""
    names: dict[str, None] = dict.fromkeys(SHOWN.get(task, ()))
    for one in evaluations:
        names |= dict.fromkeys(one.metrics)
    return [
        name
        for name in names
        if name not in NO_METRICS and any(is_number(one.metrics.get(name)) for one in evaluations)
    ]


def best_of(name: str, evaluations: Sequence[Evaluation]) -> Evaluation | None:
    """The evaluation with the best value of a metric, the first of several; None without any."""
    best = None
    for one in evaluations:
        value = one.metrics.get(name)
        if is_better(name, value, None if best is None else best.metrics[name]):
            best = one
    return best


def standing(status: dict[str, Any]) -> str:
    """How far a run is, as its status says it."""
    state, step, steps = status.get("state"), status.get("step"), status.get("max_steps")
    far = f"step {step} of {steps}" if steps else "evaluated, not trained"
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(status.get("time") or 0))
    return f"{state}, {far}, {when} on {status.get('host')}"


def sentences(spec: dict[str, Any], evaluations: Sequence[Evaluation]) -> list[str]:
    """What came of the metric that says what is best, against the first evaluation."""
    if not evaluations:
        return ["It has not been evaluated yet."]
    name = spec.get("metric_for_best_model") or "loss"
    best = best_of(name, evaluations)
    if best is None:
        return ["No record has an answer to compare with, so there are no metrics."]
    first, last = evaluations[0], evaluations[-1]
    if len(evaluations) == 1:
        return [f"At step {last.step}, {name} is {with_interval(last.metrics, name)}."]
    told = f"The best {name} is {with_interval(best.metrics, name)}, at step {best.step}"
    if first is best:
        return [f"{told}: no later evaluation is better."]
    told += f", from {with_interval(first.metrics, name)} at step {first.step}"
    if last is best:
        return [f"{told}; that is the last evaluation."]
    return [f"{told}. The last, at step {last.step}, has {with_interval(last.metrics, name)}."]


def summary(spec: dict[str, Any], evaluations: Sequence[Evaluation]) -> Table:
    """The metrics told first: at the first evaluation, at the best of each, at the last."""
    first, last = evaluations[0], evaluations[-1]
    task, chief = spec.get("task", ""), spec.get("metric_for_best_model")
    told = [*SHOWN.get(task, ()), chief]
    names = [name for name in metric_names(task, evaluations) if name in told]
    if first is last:
        rows = [[name, cell(last.metrics, name)] for name in names]
        return Table(["", f"step {last.step}"], rows, note=_intervals_note(last))
    rows = []
    for name in names:
        best = best_of(name, evaluations)
        at_best = "–" if best is None else cell(best.metrics, name, f" at {best.step}")
        lower = " (lower is better)" if name in LOWER_IS_BETTER else ""
        ends = [cell(one.metrics, name) for one in (first, last)]
        rows.append([name + lower, ends[0], at_best, ends[1]])
    head = ["", f"step {first.step}", "best, at step", f"last, step {last.step}"]
    strong = frozenset(i for i, name in enumerate(names) if name == chief)
    return Table(head, rows, note=_intervals_note(last), strong=strong)


def _intervals_note(evaluation: Evaluation) -> str:
    if not any(name.endswith("_ci95") for name in evaluation.metrics):
        return ""
    return "Below each value its 95% bootstrap interval over the eval records."


def all_metrics(task: str, evaluations: Sequence[Evaluation]) -> Table:
    """Every metric at every evaluation, the last first."""
    names = metric_names(task, evaluations)
    steps = list(reversed(evaluations))
    rows = [[name, *(cell(one.metrics, name) for one in steps)] for name in names]
    signatures = {
        f"{name.removesuffix('_signature')}: {value}"
        for name, value in steps[0].metrics.items() if name.endswith("_signature")
    }  # fmt: skip
    head = ["", *(f"step {one.step}" for one in steps)]
    return Table(head, rows, note="; ".join(sorted(signatures)), folded="all metrics by step")
