"""The metrics of an evaluation as a table for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from workflow.core.tables import Part, table
from workflow.metrics.names import interval_of, is_better

Line = Mapping[str, Any]
"""A line of metrics.jsonl."""

HEAD = ("", "now", "95% CI", "previous", "best", "at step")


def metrics_table(
    earlier: Sequence[Line],
    now: Line,
    names: Sequence[str],
    max_steps: int | None,
    own: Sequence[str] = (),
) -> list[Part]:
    """A title and a table that compares an evaluation with earlier ones, metric by metric.

    Empty columns are omitted; without any value the list is empty.

    Args:
        names: metrics, in this order.
        own: the user's own metrics, whose best value is unknown.
    """
    there = [name for name in (*names, *own) if now.get(name) is not None]
    if not there:
        return []
    rows = [HEAD, *(_cells(earlier, now, name, name in own) for name in there)]
    kept = [i for i in range(len(HEAD)) if i == 0 or any(row[i] for row in rows[1:])]
    head = f"step {now['step']}" + (f" of {max_steps}" if max_steps else "")
    return [head, table([[row[i] for i in kept] for row in rows], left=1)]


def _cells(earlier: Sequence[Line], now: Line, name: str, own: bool) -> tuple[str, ...]:
    interval = interval_of(now, name)
    shown = "" if interval is None else f"{_digits(interval[0])} to {_digits(interval[1])}"
    cells = (name, _digits(now[name]), shown)
    if not earlier:
        return *cells, "", "", ""
    before = _digits(earlier[-1].get(name))
    best: Line = {}
    for line in () if own else (*earlier, now):
        if is_better(name, line.get(name), best.get(name)):
            best = line
    return *cells, before, _digits(best.get(name)), str(best.get("step", ""))


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
