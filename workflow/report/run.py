"""A run's report: everything of its folder that is worth a look, as one page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workflow.answers import Evaluation, evaluations, read_lines
from workflow.console import log
from workflow.files import whole_file
from workflow.report import job, verdict
from workflow.report.blocks import Block, Charts, Page, Section
from workflow.report.curves import curves
from workflow.report.page import render
from workflow.report.records import sampled, scored
from workflow.status import AUDIT, REPORT, STARTS, TRAIN_LOG, read_object, read_spec, read_status


def keep_report(run: Path) -> None:
    """Bring a run's report up to date; what is wrong with that is told, and ends no run."""
    try:
        write_report(run)
    except Exception as error:
        log.warning(
            "%s is not up to date (%s: %s); `python3 -m workflow report %s` makes it again",
            run / REPORT, type(error).__name__, error, run.name,
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
    """A run's page, of the parts that there is something to say of."""
    spec, status, evals = read_spec(run), read_status(run), evaluations(run)
    task, starts = spec.get("task", ""), list(read_lines(run / STARTS))
    charts = curves(task, list(read_lines(run / TRAIN_LOG)), evals)
    parts: list[tuple[str, Sequence[Block]]] = [
        ("Verdict", [verdict.summary(spec, evals)] if evals else []),
        ("Curves", charts),
        ("Metrics", [verdict.all_metrics(task, evals)] if evals else []),
        ("Scores" if task == "clf" else "Answers", _of_records(spec, evals)),
        ("Data", job.data_blocks(read_object(run / AUDIT))),
        ("Job", job.job_blocks(spec, starts)),
        ("Starts and machine", job.starts_blocks(starts)),
    ]
    return Page(
        title=str(spec.get("training_run_name") or run.name),
        subtitle=f"{task}: {_model(spec)} on {spec.get('data_name')}; {verdict.standing(status)}",
        verdict=verdict.sentences(spec, evals),
        sections=[Section(title, blocks) for title, blocks in parts if blocks],
    )


def _model(spec: dict[str, Any]) -> str:
    names = (spec.get(f"model_{kind}") for kind in ("init_name", "init_path", "pretrain_name"))
    return str(next(filter(None, names), None))


def _of_records(spec: dict[str, Any], evals: Sequence[Evaluation]) -> list[Block]:
    """The records of the last evaluation, and for clf what their scores show together."""
    if not evals or not evals[-1].items.exists():
        return []
    last, before = evals[-1], evals[-2] if len(evals) > 1 else None
    if spec.get("task") != "clf":
        return [sampled(last, before)]
    from workflow.report import scores  # here, as scikit-learn's import takes long

    unit = scores.unit_of(spec)
    charts = scores.score_charts(scores.scores_of(last, unit))
    return [*([Charts(charts)] if charts else []), scored(last, before, unit)]
