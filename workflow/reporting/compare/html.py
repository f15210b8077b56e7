"""A comparison as an HTML page."""

from collections.abc import Sequence

from workflow.reporting.compare.comparison import Comparison
from workflow.reporting.compare.config_diff import TRAIN_LOSS, field_rows
from workflow.reporting.compare.pairing import LOSS, PLURALS, TIE, WIN, Pair
from workflow.reporting.compare.terminal import compared_records, legend, metric_rows
from workflow.reporting.record import as_text
from workflow.reporting.report.blocks import (
    Block,
    Item,
    Items,
    Page,
    Prediction,
    Section,
    Table,
    Text,
)
from workflow.reporting.report.curves import charts_blocks
from workflow.reporting.report.records import MOST_RECORDS, fit

_MEANINGS = {WIN: "better than", LOSS: "worse than", TIE: "tied with"}


def page(found: Comparison) -> Page:
    sections = [
        Section("Metrics", [_metrics(found)]),
        Section("Config differences", [_jobs(found)]),
        *([Section("Learning curves", _curves(found))] if found.curves else []),
        Section("Records", [_counts(found), _items(found)]),
    ]
    heading = " vs ".join([", ".join(found.labels[1:]), found.labels[0]])
    return Page(heading, "; ".join(compared_records(found)), found.verdicts(), sections)


def _metrics(found: Comparison) -> Table:
    head, *rows = metric_rows(found, range(1, len(found.named)))
    return Table(head, rows, legend(found), frozenset({found.metrics.index(found.main)}))


def _curves(found: Comparison) -> Sequence[Block]:
    """The task's main curves, then the others, folded."""
    first = (TRAIN_LOSS, *found.outputs.task.shown_metrics, found.main.name)
    shown = [chart for name, chart in found.curves.items() if name in first]
    others = [chart for name, chart in found.curves.items() if name not in first]
    return charts_blocks(shown, others)


def _counts(found: Comparison) -> Block:
    rows = [
        [label, *(str(found.counted(index)[result]) for result in PLURALS)]
        for index, label in enumerate(found.labels)
        if index
    ]
    head = [f"vs {found.labels[0]}", *PLURALS.values()]
    return Table(head, rows, f"Win: {found.outputs.won_by}.")


def _items(found: Comparison) -> Items:
    base, *others = found.labels
    indexes = range(1, len(found.named))
    numbers = [f"{label} - {base}" for label in others]
    tags = {
        _tag(found, index, result): f"{label} is {_MEANINGS[result]} {base}"
        for result in PLURALS
        for index, label in enumerate(others, 1)
    }
    ranked = sorted(found.pairs.pairs, key=lambda one: -max(abs(one.gain(i)) for i in indexes))
    shown = sorted(ranked[:MOST_RECORDS], key=lambda one: one.place)
    note = f"The {len(shown):,} of {len(ranked):,} records that differ most."
    note *= len(shown) < len(ranked)
    items = [_item(found, one) for one in shown]
    begin = f"{numbers[0]}, highest first"
    return fit(Items(items, numbers=numbers, tags=tags, begin=begin, note=note))


def _tag(found: Comparison, index: int, result: str) -> str:
    return result if len(found.named) == 2 else f"{found.labels[index]} {result}"


def _item(found: Comparison, pair: Pair) -> Item:
    others = range(1, len(found.named))
    predictions = [
        Prediction(label, output, score, True) if isinstance(output, str)
        else Prediction(label, as_text(output), None, False)
        for label, output, score in zip(found.labels, pair.predictions, pair.scores, strict=True)
    ]  # fmt: skip
    numbers = [pair.gain(index) for index in others]
    tags = [_tag(found, index, pair.result(index)) for index in others]
    expected = as_text(pair.shown)
    return Item(pair.place, pair.prompt, expected, predictions, numbers=numbers, tags=tags)


def _jobs(found: Comparison) -> Block:
    rows = field_rows(found.fields, found.named)
    if not rows:
        return Text(["All evaluations are of one run."])
    return Table(rows[0], rows[1:]) if len(rows) > 1 else Text(["No config differences."])
