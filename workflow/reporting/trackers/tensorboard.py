"""TensorBoard: event files in the run's folder."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from workflow.reporting.trackers.base import Sample, Start, cut, numbers_of

FOLDER = "tensorboard"
_SPECIAL = re.compile(r"""[^\w ,.;:?!'"=%/+-]|_""")
"""Characters with a meaning in Markdown or HTML, and line ends."""


class TensorBoard:
    """Logs metrics as scalars, and config and samples as tables."""

    def __init__(self, start: Start):
        """Start or resume: readers purge later steps that an earlier start logged."""
        purged = start.step + 1 if start.step else None
        self._writer = SummaryWriter(str(start.folder / FOLDER), purge_step=purged)
        job = [{"flag": name, "value": json.dumps(value, ensure_ascii=False)}
               for name, value in start.config.items()]  # fmt: skip
        self._writer.add_text("config", markdown_table(job), start.step)
        self._writer.flush()

    def log_step(self, line: Mapping[str, Any]) -> None:
        self._add(numbers_of(line, "train"), line["step"], line["time"])

    def log_evaluation(
        self, step: int, metrics: Mapping[str, Any], samples: Sequence[Sample]
    ) -> None:
        if samples:
            self._writer.add_text("eval/samples", markdown_table(samples), step)
        self._add(numbers_of(metrics, "eval"), step, metrics["time"])

    def close(self) -> None:
        self._writer.close()

    def _add(self, numbers: Mapping[str, float], step: int, when: float) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step, walltime=when)
        self._writer.flush()  # before a checkpoint of these steps is saved


def markdown_table(rows: Sequence[Sample]) -> str:
    """Rows as a Markdown table with escaped texts."""
    head = list(rows[0])
    cells = [head, *([row[name] for name in head] for row in rows)]
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + " --- |" * len(head), *lines[1:]])


def _cell(value: object) -> str:
    text = "" if value is None else str(cut(value))
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", text)
