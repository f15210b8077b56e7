"""The result of a run in sentences and tables: first, best and last evaluation."""

import re
import time
from collections.abc import Sequence
from typing import Any

from workflow.config.metric_kinds import asked_in, names_given
from workflow.config.task_specs import BEST_METRICS, TaskSpec, task_of
from workflow.metrics.names import CHANCE, LOWER_IS_BETTER, interval_of, is_better, is_number
from workflow.reporting.outputs import outputs_of
from workflow.reporting.report.blocks import Table
from workflow.runs.predictions import PastEvaluation, spread

MOST_COLUMNS = 12
"""Evaluations shown in a table."""
OF_SAMPLES = re.compile("_(best|mean)_of_n$")
"""The suffix of metrics over several samples."""
OF_A_CLASS = re.compile("(precision|recall|f1)/")
"""The beginning of metrics of one class."""
_OTHERS = frozenset({
    "mean_length", "at_limit", "empty", "distinct_samples", "best_threshold",
    "best_threshold_accuracy", "eval_seconds", "generate_seconds", "score_seconds",
    "swap_consistency", "first_place_share", *CHANCE.values(),
})  # fmt: skip
NO_METRICS = frozenset({"step", "time"})
"""Keys of metrics.jsonl that are no metrics."""


def readable(value: Any) -> str:
    """A metric with four digits; a dash without a value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def with_interval(metrics: dict[str, Any], name: str) -> str:
    """The value of a metric, with its 95% confidence interval if it has one."""
    around = _interval(metrics, name)
    return readable(metrics.get(name)) + (f" (95% CI {around})" if around else "")


def cell(metrics: dict[str, Any], name: str, more: str = "") -> str:
    """The same for a table, with the interval on a second line."""
    return f"{readable(metrics.get(name))}{more}\n{_interval(metrics, name)}".rstrip()


def _interval(metrics: dict[str, Any], name: str) -> str:
    ends = interval_of(metrics, name)
    # If all records are alike, resamples carry no information.
    return "" if ends is None or ends[0] == ends[1] else f"{ends[0]:.3g} to {ends[1]:.3g}"


def metric_names(task: TaskSpec, evaluations: Sequence[PastEvaluation]) -> list[str]:
    """The metrics with a value in any evaluation, the task's main metrics first."""
    names = dict.fromkeys(task.shown_metrics)
    for evaluation in evaluations:
        names |= dict.fromkeys(evaluation.metrics)
    return [
        name
        for name in names
        if name not in NO_METRICS and any(is_number(one.metrics.get(name)) for one in evaluations)
    ]


def best_of(name: str, evaluations: Sequence[PastEvaluation]) -> PastEvaluation | None:
    """The first evaluation with the best value of a metric; None without values."""
    best = None
    for evaluation in evaluations:
        value = evaluation.metrics.get(name)
        if is_better(name, value, None if best is None else best.metrics[name]):
            best = evaluation
    return best


def _of_parameters(spec: dict[str, Any], status: dict[str, Any]) -> list[str]:
    """How much of the model is trained, unless all of it is or none."""
    count, trained = status.get("parameters"), status.get("trained_parameters")
    if not count or not trained or count == trained:
        return []
    share = f"{trained:,} of {count:,} parameters ({100 * trained / count:.2g}%)"
    return [f"Trains {share}: --tuning {spec.get('tuning')}."]


def standing(status: dict[str, Any]) -> str:
    """The state of a run: status, step, time and host."""
    step, steps = status.get("step"), status.get("max_steps")
    far = f"step {step} of {steps}" if steps else "evaluated, not trained"
    return f"{status.get('state')}, {far}, {moment(status.get('time'))} on {status.get('host')}"


def moment(seconds: Any) -> str:
    """A local date and time; a dash for an invalid time."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (TypeError, ValueError, OverflowError):
        return "–"


def sentences(
    spec: dict[str, Any], status: dict[str, Any], evaluations: Sequence[PastEvaluation]
) -> list[str]:
    """The error or stop of a run, and its results in two metrics.

    These are the metric that selects the best checkpoint, and a metric of output quality.
    """
    lines, step = _of_parameters(spec, status), status.get("step")
    if status.get("state") == "failed":
        lines.append(f"Failed at step {step}: {status.get('error')}")
    if status.get("state") == "saved":
        lines.append(f"Stopped at step {step}; rerun the same command to resume.")
    if not evaluations:
        return [*lines, "No evaluation yet."]
    outputs = outputs_of(spec)
    exact_match = max(one.metrics.get("exact_match") or 0.0 for one in evaluations)
    of_outputs = [name for name in outputs.usual_metrics(exact_match) if best_of(name, evaluations)]
    names = [spec.get("metric_for_best_model") or "loss", *of_outputs[:1]]
    main = dict.fromkeys(reversed(names) if spec.get("no_train") else names)
    results = [_result(name, evaluations) for name in main if best_of(name, evaluations)]
    nothing = f"No eval record has a {outputs.task.answer_key}: no metrics."
    return lines + (results or [nothing])


def _result(name: str, evaluations: Sequence[PastEvaluation]) -> str:
    """The best, first and last value of a metric."""
    best, first, last = best_of(name, evaluations), evaluations[0], evaluations[-1]
    assert best is not None

    def at(one: PastEvaluation) -> str:
        return f"{with_interval(one.metrics, name)} at step {one.step}"

    if first is last:
        return f"{name}: {at(last)}."
    ends = {"first": first, "last": last}
    which = "".join(f" ({end} evaluation)" for end, one in ends.items() if one is best)
    others = [f"; {end}: {at(one)}" for end, one in ends.items() if one is not best]
    return f"Best {name}: {at(best)}{which}{''.join(others)}."


def summary(spec: dict[str, Any], evaluations: Sequence[PastEvaluation]) -> list[Table]:
    """The main metrics at the first evaluation, at the best of each metric, and at the last."""
    first, last = evaluations[0], evaluations[-1]
    task, main = task_of(spec), spec.get("metric_for_best_model")
    own = own_metrics(spec, evaluations)
    wanted = {*task.shown_metrics, main, *asked_of(spec), *own} - {*CHANCE.values()}
    if (spec.get("target_min"), spec.get("target_max")) != (0, 1):
        wanted |= {"rmse", "mae"}
    names = [name for name in metric_names(task, evaluations) if name in wanted]
    head, rows = ["metric", f"step {first.step}", "best", f"last (step {last.step})"], []
    for name in names:
        best = None if name in own else best_of(name, evaluations)
        at_best = "–" if best is None else cell(best.metrics, name, f" at step {best.step}")
        rows.append([_headed(name), cell(first.metrics, name), at_best, cell(last.metrics, name)])
    if first is last:
        head, rows = head[:2], [row[:2] for row in rows]
    chance = [last.metrics.get(CHANCE.get(name, "")) for name in names]
    if any(is_number(value) for value in chance):
        head.append("chance")
        rows = [[*row, readable(value)] for row, value in zip(rows, chance, strict=True)]
    strong = frozenset(i for i, name in enumerate(names) if name == main)
    return [Table(head, rows, _notes(names, last), strong)] if rows else []


def own_metrics(spec: dict[str, Any], evaluations: Sequence[PastEvaluation]) -> list[str]:
    """The metrics of the user's own function, whose best value is unknown."""
    if not spec.get("metric"):
        return []
    known = {*BEST_METRICS, *_OTHERS, *asked_of(spec)}
    names = metric_names(task_of(spec), evaluations)
    names = [name for name in names if not OF_SAMPLES.search(name) and not OF_A_CLASS.match(name)]
    return [name for name in names if name not in known]


def asked_of(spec: dict[str, Any]) -> list[str]:
    """The metrics that --metric adds, without the user's own."""
    return names_given(asked_in(spec))


def _headed(name: str) -> str:
    return f"{name} ↓" if name in LOWER_IS_BETTER else name


def _notes(names: Sequence[str], evaluation: PastEvaluation) -> str:
    lower = any(name in LOWER_IS_BETTER for name in names)
    intervals = any(_interval(evaluation.metrics, name) for name in names)
    notes = ["↓: lower is better."] * lower
    notes += ["Below each value: 95% bootstrap confidence interval over eval records."] * intervals
    if any(CHANCE.get(name) in evaluation.metrics for name in names):
        notes.append("Chance: always the most frequent class, or the class frequencies.")
    return " ".join(notes)


def all_metrics(task: TaskSpec, evaluations: Sequence[PastEvaluation]) -> list[Table]:
    """All metrics at up to `MOST_COLUMNS` evaluations, the last first; folded."""
    names = metric_names(task, evaluations)
    steps = list(reversed(spread(evaluations, MOST_COLUMNS)))
    rows = [[_headed(name), *(cell(one.metrics, name) for one in steps)] for name in names]
    signatures = sorted(
        f"{name.removesuffix('_signature')}: {value}"
        for name, value in steps[0].metrics.items() if name.endswith("_signature")
    )  # fmt: skip
    head = ["metric", *(f"step {one.step}" for one in steps)]
    note = "; ".join(signatures)
    return [Table(head, rows, note, folded="all metrics by step")] if rows else []
