"""The metrics of answers that a job asks for by --metric, except those that models judge."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from workflow.config.metric_kinds import AskedMetric
from workflow.core.files import text_lines
from workflow.metrics import copying, forms
from workflow.metrics.measured import Answer, Measured


@lru_cache(maxsize=1)
def _labels(path: str) -> tuple[str, ...]:
    return text_lines(path, f"--metric choice:{path}")


_FUNCTIONS: dict[str, tuple[Callable[..., dict[str, Measured]], Callable[[str], Any]]] = {
    "diversity": (copying.diversity, str),
    "copying": (copying.copying, str),
    "ibleu": (copying.ibleu, float),
    "same_script": (copying.same_script, str),
    "ter": (forms.ter, str),
    "squad": (forms.squad, str),
    "json": (forms.as_json, str),
    "number_close": (forms.number_close, float),
    "choice": (forms.choice, _labels),
}
"""The function of each kind of metric, and what its argument is."""


def check_files(asked: AskedMetric) -> None:
    """Raise BadInput if a metric's file cannot be read."""
    if asked.name == "choice":
        _labels(asked.arguments[0])


def measure_answers(asked: Sequence[str], answers: Sequence[Answer]) -> dict[str, Measured]:
    """The metrics of answers by name; there must be an answer.

    Args:
        asked: metrics as in --metric; others are ignored.
    """
    measured: dict[str, Measured] = {}
    for one in map(AskedMetric, asked):
        if one.name in _FUNCTIONS:
            function, converted = _FUNCTIONS[one.name]
            measured |= function(answers, *map(converted, one.arguments))
    return measured
