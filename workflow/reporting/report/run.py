"""A run's report: everything of its folder that is worth a look, as one page."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from workflow.core.console import log
from workflow.core.files import whole_file
from workflow.reporting.report import job
from workflow.reporting.report import summary as verdict
from workflow.reporting.report.blocks import Block, Charts, Page, Section, Text
from workflow.reporting.report.curves import curves
from workflow.reporting.report.html import render
from workflow.reporting.report.records import sampled, scored
from workflow.runs.predictions import Evaluation, evaluations, read_lines
from workflow.runs.status import (
    AUDIT,
    REPORT,
    STARTS,
    TRAIN_LOG,
    read_object,
    read_spec,
    read_status,
)


def keep_report(run: Path) -> None:
    """Bring a run's report up to date; what is wrong with that is told, and ends no run."""
    try:
        write_report(run)
    except Exception as error:
        root, name = job.place_of(run)
        mount = "" if root is None else f" --mount {root}"
        log.warning(
            "%s is not up to date (%s: %s); `python3 -m workflow report %s%s` makes it again",
            run / REPORT, type(error).__name__, error, name, mount,
        )  # fmt: skip


def write_report(run: Path) -> Path:
    """Make report.html of what a run's folder holds now, and return its path.

    Raises:
        BadInput: where the answers of its last evaluations cannot be read.
        OSError: where the page cannot be written.
    """
    with whole_file(run / REPORT) as partial:
        partial.write_text(render(page_of(run)), encoding="utf-8", errors="replace")
    return run / REPORT


def page_of(run: Path) -> Page:
    """A run's page, of the parts that there is something to say of.

    A part that cannot be made, as of a file that is damaged, says so in its place.
    """
    spec, status, evals = read_spec(run), read_status(run), evaluations(run)
    task, audit = spec.get("task", ""), read_object(run / AUDIT)
    starts = list(read_lines(run / STARTS))
    parts: list[tuple[str, Callable[[], Sequence[Block]]]] = [
        ("Verdict", lambda: verdict.tables(spec, evals) if evals else []),
        ("Curves", lambda: curves(task, list(read_lines(run / TRAIN_LOG)), evals)),
        ("Scores" if task == "clf" else "Answers", lambda: _of_records(spec, evals)),
        ("Data", lambda: job.data_blocks(audit)),
        ("Job", lambda: job.job_blocks(run, spec, starts)),
        ("Starts and machine", lambda: job.starts_blocks(starts)),
    ]
    made = [(title, _made(make)) for title, make in parts]
    return Page(
        title=job.place_of(run)[1],
        subtitle=f"{task}: {_model(spec)} on {spec.get('data_name')}; {verdict.standing(status)}",
        verdict=verdict.sentences(spec, status, evals),
        sections=[Section(title, blocks) for title, blocks in made if blocks],
        warnings=job.warnings(audit),
    )


def _made(make: Callable[[], Sequence[Block]]) -> Sequence[Block]:
    try:
        return make()
    except Exception as error:
        return [Text([f"This could not be made ({type(error).__name__}: {error})."])]


def _model(spec: dict[str, Any]) -> str:
    names = (spec.get(f"model_{kind}") for kind in ("init_name", "init_path", "pretrain_name"))
    return str(next(filter(None, names), None))


def _of_records(spec: dict[str, Any], evals: Sequence[Evaluation]) -> list[Block]:
    """The records of the last evaluation, and for clf what their scores show together."""
    if not evals or not evals[-1].items.exists():
        return []
    last, before = evals[-1], evals[-2] if len(evals) > 1 else None
    if spec.get("task") != "clf":
        return [sampled(last, before, spec.get("stop") or ())]
    from workflow.reporting.report import scores  # here, as scikit-learn's import takes long

    found = scores.scores_of(last, spec)
    charts, said = scores.score_charts(found), scores.baseline(found)
    return [
        *([Text(said)] if said else []),
        *([Charts(charts)] if charts else []),
        scored(last, before, scores.unit_of(spec)),
    ]
