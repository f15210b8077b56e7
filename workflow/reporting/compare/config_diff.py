"""What differs in the jobs of several runs, and how the runs went."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from workflow.reporting.compare.selectors import Named
from workflow.reporting.report.blocks import Point, shown
from workflow.reporting.report.curves import intervals_of, points_of, thinned
from workflow.runs.predictions import evaluations, read_lines
from workflow.runs.status import TRAIN_LOG, read_status

TRAIN_LOSS = "train_loss"

_CHANGE_NOTHING = frozenset({"training_run_name", "report_to"})
"""Fields that say what a run is called, and whom it tells."""


@dataclass(frozen=True)
class Curves:
    """A number by step, of each run in which it was noted.

    Attributes:
        intervals: of each point; empty where a run has none.
    """

    name: str
    by_run: dict[str, list[Point]]
    intervals: dict[str, list[Point]] = field(default_factory=dict)


def differing_fields(named: Sequence[Named]) -> dict[str, tuple[Any, ...]]:
    """The fields of the jobs that differ, and what was read where its keys do.

    Such a key differs where the whole file does, the tokenizer or the task, not the split alone.
    """
    jobs = []
    for one in named:
        data = read_status(one.folder).get("data")
        keys = data.items() if isinstance(data, dict) else ()
        read = {f"data file or tokenizer ({split})": str(key)[:8] for split, key in keys}
        jobs.append(one.spec | read)
    fields = dict.fromkeys(field for job in jobs for field in job if field not in _CHANGE_NOTHING)
    values = {field: tuple(job.get(field) for job in jobs) for field in fields}
    return {
        field: of_all
        for field, of_all in values.items()
        if any(value != of_all[0] for value in of_all)
    }


def field_rows(fields: dict[str, tuple[Any, ...]], named: Sequence[Named]) -> list[list[str]]:
    """A table of the differing fields: a head, and a row each; none where all are of one run."""
    places = {one.run: place for place, one in enumerate(named)}
    rows = [
        [name, *(_shown(values[i]) for i in places.values())] for name, values in fields.items()
    ]
    return [["field", *places], *rows] if len(places) > 1 else []


def _shown(value: Any) -> str:
    return "-" if value is None else shown(value)


def curves(named: Sequence[Named], metrics: Iterable[str]) -> list[Curves]:
    """The loss in training, and these metrics as they were noted; of each run once."""
    runs = {one.run: one.folder for one in named}
    lines = {run: [one.metrics for one in evaluations(folder)] for run, folder in runs.items()}
    logged = {
        run: thinned(points_of(read_lines(folder / TRAIN_LOG), "loss"))
        for run, folder in runs.items()
    }
    found = [Curves(TRAIN_LOSS, logged)]
    for name in metrics:
        by_run = {run: points_of(of_run, name) for run, of_run in lines.items()}
        around = {run: intervals_of(of_run, name) for run, of_run in lines.items()}
        found.append(Curves(name, by_run, around))
    return [one for one in found if any(one.by_run.values())]
