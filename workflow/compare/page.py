"""A comparison as a page."""

from workflow.compare.comparison import Comparison
from workflow.compare.jobs import TRAIN_LOSS
from workflow.compare.outcomes import EVEN, LOST, WON, Outcome
from workflow.compare.telling import judged_by, legend, metric_rows, records_told, title
from workflow.compare.verdict import judged
from workflow.report.blocks import (
    Answer,
    Block,
    Chart,
    Charts,
    Item,
    Items,
    Page,
    Section,
    Series,
    Table,
    Text,
)

_LOGARITHMIC = frozenset({TRAIN_LOSS, "loss", "perplexity"})


def page(found: Comparison) -> Page:
    sections = [Section("Metrics", [_metrics(found)])]
    if found.curves:
        sections.append(Section("Curves", [_curves(found)]))
    sections.append(Section("Records", [_counts(found), _items(found)]))
    sections.append(Section("What differs in the jobs", [_jobs(found)]))
    heading = " against ".join([", ".join(found.labels[1:]), found.labels[0]])
    return Page(heading, "; ".join(records_told(found)), found.verdicts(), sections)


def _metrics(found: Comparison) -> Table:
    head, *rows = metric_rows(found)
    clear = {
        place
        for place, metric in enumerate(found.metrics)
        if any(judged(metric.name, interval) for interval in metric.intervals)
    }
    return Table(head, rows, legend(), frozenset(clear))


def _curves(found: Comparison) -> Charts:
    charts = []
    for curves in found.curves:
        style = "line" if curves.name == TRAIN_LOSS else "dots"
        series = [Series(run, points, style) for run, points in curves.by_run.items() if points]
        charts.append(Chart(title(curves.name), "step", series, log=curves.name in _LOGARITHMIC))
    return Charts(charts)


def _counts(found: Comparison) -> Block:
    rows = [
        [label, *(str(found.counted(index)[result]) for result in (WON, LOST, EVEN))]
        for index, label in enumerate(found.labels)
        if index
    ]
    return Table([f"against {found.labels[0]}", WON, LOST, EVEN], rows, f"Won: {judged_by(found)}.")


def _items(found: Comparison) -> Items:
    others = found.labels[1:]
    numbers = [f"{label} - {found.labels[0]}" for label in others]
    tags = {
        _tag(found, index, result): f"{label}: {result} against {found.labels[0]}"
        for result in (WON, LOST, EVEN)
        for index, label in enumerate(others, 1)
    }
    return Items([_item(found, one) for one in found.outcomes], numbers, tags)


def _tag(found: Comparison, index: int, result: str) -> str:
    return result if len(found.named) == 2 else f"{found.labels[index]} {result}"


def _item(found: Comparison, outcome: Outcome) -> Item:
    others = range(1, len(found.named))
    pair = outcome.pair
    answers = [
        Answer(label, _told(answer), score, compared=not found.is_scored)
        for label, answer, score in zip(found.labels, pair.answers, outcome.scores, strict=True)
    ]
    return Item(
        pair.place,
        pair.prompt,
        _told(pair.expected),
        answers,
        numbers=[outcome.gain(index) for index in others],
        tags=[_tag(found, index, outcome.result(index)) for index in others],
    )


def _told(answer: str | float) -> str:
    return answer if isinstance(answer, str) else f"{answer:.4g}"


def _jobs(found: Comparison) -> Block:
    runs = {one.run: place for place, one in enumerate(found.named)}
    if len(runs) == 1:
        return Text(["All are steps of one run."])
    if not found.fields:
        return Text(["The jobs do not differ."])
    rows = [[n, *(values[place] for place in runs.values())] for n, values in found.fields.items()]
    return Table(["field", *runs], rows)
