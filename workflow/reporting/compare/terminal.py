"""A comparison as text for a terminal."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
from rich.text import Text

from workflow.core.errors import shorten
from workflow.core.tables import Part, table
from workflow.metrics.bootstrap import RESAMPLES
from workflow.reporting.compare.comparison import Comparison, how_many
from workflow.reporting.compare.config_diff import TRAIN_LOSS, field_rows
from workflow.reporting.compare.metrics import RECORDS_NEEDED
from workflow.reporting.compare.pairing import LOSS, PLURALS, WIN
from workflow.reporting.compare.verdict import has_width, judged
from workflow.reporting.record import Output, as_text
from workflow.reporting.report.blocks import Chart
from workflow.reporting.report.summary import OF_A_CLASS

SHOWN = 3
"""Example records of wins and of losses."""
TEXT = 72
"""Characters shown of a text."""
BLOCKS = "▁▂▃▄▅▆▇█"
WIDEST = 40
_STEEP = 20
"""Curves that span more than this factor have a logarithmic axis."""


def describe(found: Comparison, draws: bool) -> list[Part]:
    """A comparison as texts and tables.

    Args:
        draws: whether the terminal can show block characters.
    """
    others = range(1, len(found.named))
    sections: list[Sequence[Part]] = [
        found.verdicts(),
        compared_records(found),
        *(list(_metrics(found, index)) for index in others),
        *(list(_wins_and_losses(found, index)) for index in others),
        list(_fields(found)),
        list(_curves(found, draws)),
    ]
    parts: list[Part] = []
    for section in filter(None, sections):
        parts += ["", *section] if parts else section
    return parts


def figure(value: float | None, sign: str = "") -> str:
    """A number with four decimals, or two from 10 on."""
    if value is None:
        return "-"
    return f"{value:{sign}.4f}" if abs(value) < 10 else f"{value:{sign}.2f}"


def compared_records(found: Comparison) -> list[str]:
    """The compared steps and records."""
    steps = ", ".join(f"{one.run} at step {one.step}" for one in found.named)
    left_out = [
        f"{how_many(number)} of {label}"
        for label, number in zip(found.labels, found.pairs.left_out, strict=True)
        if number
    ]
    if not left_out:
        return [f"{steps}; {how_many(len(found.pairs.pairs))}"]
    lines = [f"{steps}; on {found.some}", f"excluded: {', '.join(left_out)}"]
    if not found.pairs.alike:
        lines[-1] += ", and metrics that need the model, e.g. loss"
    return lines


def metric_rows(found: Comparison, indexes: Sequence[int]) -> list[list[str]]:
    """A header and a row for each metric, for the base and some other evaluations."""
    head = ["metric", found.labels[0]]
    for index in indexes:
        head += [found.labels[index], "difference", "95% CI", ""]
    rows = [head]
    for metric in found.metrics:
        row = [metric.name, figure(metric.values[0])]
        for index in indexes:
            interval = metric.intervals[index - 1]
            ends = interval if interval and has_width(interval) else ()
            row += [figure(metric.values[index]), figure(metric.differences[index - 1], "+")]
            row += [" to ".join(figure(end, "+") for end in ends), judged(metric, index)]
        rows.append(row)
    return rows


def legend(found: Comparison) -> str:
    what = f"95% CI of the difference: paired bootstrap, {RESAMPLES:,} resamples"
    if len(found.pairs.pairs) < RECORDS_NEEDED:
        return f"{what}; too few records for better/worse"
    return f"{what}; better/worse: CI excludes 0"


def _metrics(found: Comparison, index: int) -> Iterator[Part]:
    rows = [[Text(as_cell(cell)) for cell in row] for row in metric_rows(found, [index])]
    rows = [row for row in rows if not OF_A_CLASS.match(row[0].plain)]
    for row in rows:
        row[-1].highlight_words(["better"], "green")
        row[-1].highlight_words(["worse"], "red")
    yield table(rows, left=1)
    if index == len(found.named) - 1:
        yield legend(found)


def _wins_and_losses(found: Comparison, index: int) -> Iterator[Part]:
    base, label = found.labels[0], found.labels[index]
    counts = ", ".join(f"{PLURALS[name]} {n:,}" for name, n in found.counted(index).items())
    yield f"records, {label} vs {base}: {counts}"
    if index == 1:
        yield f"  win: {found.outputs.won_by}"
    skipped = _common_prefix(found)
    for result in (WIN, LOSS):
        shown = [pair for pair in found.pairs.pairs if pair.result(index) == result]
        shown.sort(key=lambda pair: (-abs(pair.gain(index)), pair.place))
        if shown:
            yield f"  largest {PLURALS[result]}:"
        for pair in shown[:SHOWN]:
            yield f"    eval[{pair.place}] {'…' * (skipped > 0)}{_text(pair.prompt[skipped:])}"
            rows = [["reference", _text(pair.shown), ""]]
            for i in (0, index):
                quality = f"{pair.scores[i]:.2f}" if isinstance(pair.predictions[i], str) else ""
                rows.append([found.labels[i], _text(pair.predictions[i]), quality])
            yield table(rows, left=2, head=False, indent=6)


def _common_prefix(found: Comparison) -> int:
    """Length of the prompts' common prefix, up to its last blank; 0 if it is short."""
    prompts = [one.prompt for one in found.pairs.pairs]
    common = os.path.commonprefix([min(prompts), max(prompts)])  # noqa: RUF071 (of texts)
    end = max(common.rfind(blank) for blank in " \n\t") + 1 if min(prompts) < max(prompts) else 0
    return end if end > TEXT // 4 else 0


def _text(output: Output) -> str:
    """An output on one line; a text is quoted."""
    line = " ".join(as_text(output).split())
    return shorten(line, TEXT) if type(output) in (str, tuple) else as_cell(line)


def _fields(found: Comparison) -> Iterator[Part]:
    rows = field_rows(found.fields, found.named)
    if len(rows) == 1:
        yield "no config differences"
    elif rows:
        yield "config differences"
        yield table([[as_cell(cell) for cell in row] for row in rows], indent=2)


def as_cell(text: str) -> str:
    """A text of a run's file, shortened; escaped if it is not printable."""
    if not text.isprintable():
        return shorten(text, TEXT)
    return text if len(text) <= TEXT else text[: TEXT - 1] + "…"


def _curves(found: Comparison, draws: bool) -> Iterator[Part]:
    for name in dict.fromkeys((TRAIN_LOSS, "loss", found.main.name)):
        chart = found.curves.get(name)
        if chart is None or not any(len(one.points) > 1 for one in chart.series):
            continue
        yield f"{chart.title} by step"
        lines = sparklines(chart)
        rows = []
        for one in chart.series:
            if one.points:
                (first, start), (last, end) = one.points[0], one.points[-1]
                ends = f"{figure(start)} at step {first:g}, {figure(end)} at step {last:g}"
                rows.append([one.name, *([lines[one.name]] if draws else []), ends])
        yield table(rows, head=False, indent=2)


def sparklines(chart: Chart) -> dict[str, str]:
    """A line of block characters for each series, all on the same axes."""
    drawn = {one.name: np.array(one.points) for one in chart.series if one.points}
    if not drawn:
        return {}
    every = np.concatenate(list(drawn.values()))
    (start, low), (end, high) = every.min(axis=0), every.max(axis=0)
    height = np.log if low > 0 and high / low > _STEEP else np.asarray
    columns = np.linspace(
        start, end, min(WIDEST, max(2 * len(points) for points in drawn.values()))
    )
    half = (columns[1] - columns[0]) / 2
    lines = {}
    for run, points in drawn.items():
        heights = np.interp(columns, points[:, 0], height(points[:, 1])) - height(low)
        span = height(high) - height(low)
        levels = np.minimum(heights / (span or 1) * len(BLOCKS), len(BLOCKS) - 1).astype(int)
        there = (points[0, 0] - half <= columns) & (columns <= points[-1, 0] + half)
        lines[run] = "".join(np.where(there, np.array(list(BLOCKS))[levels], " "))
    return lines
