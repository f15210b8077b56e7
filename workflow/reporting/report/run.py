"""The report of a run: the content of its folder as one page."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from workflow.config.task_specs import task_of
from workflow.core.console import log
from workflow.core.files import read_object, whole_file
from workflow.reporting.outputs import Outputs, outputs_of
from workflow.reporting.report import job, summary
from workflow.reporting.report.blocks import Block, Page, Section, Table, Text
from workflow.reporting.report.curves import curves
from workflow.reporting.report.html import render
from workflow.reporting.report.records import record_list
from workflow.runs.predictions import PastEvaluation, evaluations, read_lines
from workflow.runs.status import (
    AUDIT,
    REPORT,
    STARTS,
    TRAIN_LOG,
    read_spec,
    read_status,
)


def keep_report(run: Path) -> None:
    """Update a run's report; errors are logged and do not end the run."""
    try:
        write_report(run)
    except Exception as error:
        root, name = job.place_of(run)
        mount = "" if root is None else f" --mount {root}"
        log.warning(
            "could not update %s (%s: %s). Hint: run `python3 -m workflow report %s%s`",
            run / REPORT, type(error).__name__, error, name, mount,
        )  # fmt: skip


def write_report(run: Path) -> Path:
    """Write a run's report.html and return its path.

    Raises:
        OSError: the page cannot be written.
    """
    with whole_file(run / REPORT) as partial:
        partial.write_text(render(page_of(run)), encoding="utf-8", errors="replace")
    return run / REPORT


def page_of(run: Path) -> Page:
    """The page of a run, without empty sections.

    A section that cannot be built, e.g. from a damaged file, reports its error.
    """
    spec, status, evals = read_spec(run), read_status(run), evaluations(run)
    outputs, audit = outputs_of(spec), read_object(run / AUDIT)
    starts = list(read_lines(run / STARTS))
    parts: list[tuple[str, Callable[[], Sequence[Block]]]] = [
        ("Metrics", lambda: _of_metrics(spec, evals)),
        ("Learning curves", lambda: curves(outputs.task, list(read_lines(run / TRAIN_LOG)), evals)),
        (outputs.title, lambda: _of_records(outputs, evals)),
        ("Data", lambda: job.data_blocks(audit)),
        ("Config", lambda: job.job_blocks(run, spec, starts)),
        ("Starts and environment", lambda: job.starts_blocks(starts)),
    ]
    made = [(title, _made(make)) for title, make in parts]
    names = (spec.get(f"model_{kind}") for kind in ("init_name", "init_path", "pretrain_name"))
    model = next(filter(None, names), None)
    of_what = f"{outputs.task.name}: {model} on {spec.get('data_name')}"
    return Page(
        title=job.place_of(run)[1],
        subtitle=f"{of_what}; {summary.standing(status)}",
        verdict=summary.sentences(spec, status, evals),
        sections=[Section(title, blocks) for title, blocks in made if blocks],
        warnings=job.warnings(audit),
    )


def _made(make: Callable[[], Sequence[Block]]) -> Sequence[Block]:
    try:
        return make()
    except Exception as error:
        return [Text([f"This section could not be built: {type(error).__name__}: {error}"])]


def _of_metrics(spec: dict[str, Any], evals: Sequence[PastEvaluation]) -> list[Table]:
    if not evals:
        return []
    return [*summary.summary(spec, evals), *summary.all_metrics(task_of(spec), evals)]


def _of_records(outputs: Outputs, evals: Sequence[PastEvaluation]) -> list[Block]:
    """The predictions of the last evaluation: charts, and a list of records."""
    if not evals or not evals[-1].items.exists():
        return []
    before = evals[-2] if len(evals) > 1 else None
    return [*outputs.charts(evals[-1]), record_list(outputs, evals[-1], before)]
