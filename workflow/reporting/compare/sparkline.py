"""Curves as lines of block characters."""

import math
from collections.abc import Sequence

import numpy as np

from workflow.metrics.bootstrap import Floats
from workflow.reporting.compare.config_diff import Curves
from workflow.reporting.report.blocks import Point

BLOCKS = "▁▂▃▄▅▆▇█"
WIDEST = 40
_STEEP = 20
"""Curves that span more than this factor are drawn by their logarithms."""


def sparklines(curves: Curves) -> dict[str, str]:
    """A line of blocks for each run, over the same steps and between the same values."""
    drawn = {run: points for run, points in curves.by_run.items() if points}
    if not drawn:
        return {}
    values = [value for points in drawn.values() for _, value in points]
    steep = min(values) > 0 and max(values) / min(values) > _STEEP
    low, high = (_height(of_all(values), steep) for of_all in (min, max))
    steps = [step for points in drawn.values() for step, _ in points]
    width = min(WIDEST, max(2 * len(points) for points in drawn.values()))
    columns = np.linspace(min(steps), max(steps), width)
    return {run: _line(points, columns, low, high, steep) for run, points in drawn.items()}


def _height(value: float, steep: bool) -> float:
    return math.log(value) if steep else value


def _line(points: Sequence[Point], columns: Floats, low: float, high: float, steep: bool) -> str:
    steps = [step for step, _ in points]
    heights = np.interp(columns, steps, [_height(value, steep) for _, value in points])
    half = float(columns[1] - columns[0]) / 2 if len(columns) > 1 else 0.0
    line = ""
    for column, height in zip(columns.tolist(), heights.tolist(), strict=True):
        share = (height - low) / (high - low) if high > low else 0.0
        there = steps[0] - half <= column <= steps[-1] + half
        line += BLOCKS[min(int(share * len(BLOCKS)), len(BLOCKS) - 1)] if there else " "
    return line
