"""Warnings of predictions that say nothing: the same for all records, or not finite."""

from typing import Any

import numpy as np
import numpy.typing as npt

from workflow.core.console import log
from workflow.core.errors import shorten

EQUAL_SCORES = 1e-6
"""Scores that differ less are equal: rounding depends on the batch."""


def warn_of_non_finite(finite: npt.NDArray[np.bool_]) -> None:
    """Warn of records whose scores are not finite numbers, if any."""
    if not finite.all():
        log.warning(
            "%d of %d records have non-finite scores and are excluded from the metrics",
            (~finite).sum(), len(finite),
        )  # fmt: skip


class Sameness:
    """Compares the predictions of an evaluation, of which it keeps the first alone."""

    def __init__(self) -> None:
        self._records = 0
        self._first: tuple[str, Any] | None = None
        self._answer: Any = None
        self._texts_differ = self._answers_differ = self._predictions_differ = False

    def add(self, text: str, answer: Any, prediction: str | float) -> None:
        """Add a record's text, its answer (None if unknown) and its prediction."""
        self._records += 1
        if self._first is None:
            self._first = (text, prediction)
        first_text, first = self._first
        self._texts_differ |= text != first_text
        if answer is not None:
            self._answer = answer if self._answer is None else self._answer
            self._answers_differ |= answer != self._answer
        if isinstance(prediction, str):
            self._predictions_differ |= prediction != first
        else:
            self._predictions_differ |= abs(prediction - float(first)) > EQUAL_SCORES

    def warn(self) -> None:
        """Warn if all predictions are equal, but neither all texts nor all answers."""
        same_is_right = self._answer is not None and not self._answers_differ
        if self._first is None or not self._texts_differ or same_is_right:
            return
        if not self._predictions_differ:
            prediction = self._first[1]
            shown = shorten(prediction) if isinstance(prediction, str) else f"{prediction:.4g}"
            log.warning(
                "all %d records have the same prediction, %s, although their texts differ. Hint: "
                "if this lasts, train longer or with a lower --learning_rate; check that "
                "--max_source_length keeps what differs",
                self._records, shown,
            )  # fmt: skip
