"""Config differences and learning curves of several runs."""

from collections.abc import Collection, Sequence
from typing import Any

from workflow.config.job import flags_deciding
from workflow.reporting.compare.selectors import Named
from workflow.reporting.report.blocks import Chart, Series, shown
from workflow.reporting.report.curves import metric_series, points_of, thinned
from workflow.runs.predictions import evaluations, read_lines
from workflow.runs.status import TRAIN_LOG, read_status

TRAIN_LOSS = "train_loss"
_TITLES = {TRAIN_LOSS: "train loss", "loss": "eval loss"}
_LOGARITHMIC = (TRAIN_LOSS, "loss", "perplexity")


def differing_fields(named: Sequence[Named]) -> dict[str, tuple[Any, ...]]:
    """The config fields that differ, and the data keys that differ.

    A data key depends on the complete data file, the tokenizer and the task, not only on the split.
    """
    jobs = []
    for evaluation in named:
        data = read_status(evaluation.folder).get("data")
        keys = data.items() if isinstance(data, dict) else ()
        read = {f"data file or tokenizer ({split})": str(key)[:8] for split, key in keys}
        jobs.append(evaluation.spec | read)
    names = flags_deciding("name")
    fields = dict.fromkeys(field for job in jobs for field in job if field not in names)
    values = {field: tuple(job.get(field) for job in jobs) for field in fields}
    return {
        field: of_all for field, of_all in values.items() if any(v != of_all[0] for v in of_all)
    }


def field_rows(fields: dict[str, tuple[Any, ...]], named: Sequence[Named]) -> list[list[str]]:
    """A header and a row for each differing field; empty if all evaluations are of one run."""
    places = {one.run: place for place, one in enumerate(named)}
    rows = [["field", *places]]
    for name, values in fields.items():
        rows.append([name, *("-" if values[i] is None else shown(values[i])
                             for i in places.values())])  # fmt: skip
    return rows if len(places) > 1 else []


def curves(named: Sequence[Named], metrics: Collection[str]) -> dict[str, Chart]:
    """Charts of the train loss and of the logged metrics, by name, with one series for each run."""
    series: dict[str, list[Series]] = {name: [] for name in (TRAIN_LOSS, *metrics)}
    for run, folder in {one.run: one.folder for one in named}.items():
        losses = points_of(read_lines(folder / TRAIN_LOG), "loss")
        series[TRAIN_LOSS].append(Series(run, thinned(losses)))
        lines = [one.metrics for one in evaluations(folder)]
        for name in metrics:
            series[name].append(metric_series(lines, name, run))
    return {
        name: Chart(_TITLES.get(name, name), "step", of_runs, log=name in _LOGARITHMIC)
        for name, of_runs in series.items()
        if any(one.points for one in of_runs)
    }
