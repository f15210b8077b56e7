"""Answers in a form: JSON, a number, one of some labels, or as in SQuAD; and edits of them."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from workflow.core.console import progress_bar
from workflow.metrics.bootstrap import Floats
from workflow.metrics.measured import Answer, Measured, mean_of, ratio
from workflow.metrics.text import normalized, same_normalized

TOLERANCE = 1e-4
"""Of number_close, relative."""
_NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")
_NOT_JSON = object()


def best_of(answers: Sequence[Answer], score: Callable[[str, str], float | None]) -> Measured:
    """The mean over records of the score with the reference that gives the best one.

    Args:
        score: of a text and a reference; None if it is undefined for the reference.
    """

    def best(answer: Answer) -> float | None:
        scores = [score(answer.texts[0], reference) for reference in answer.references]
        return max((one for one in scores if one is not None), default=None)

    return mean_of(map(best, answers))


def squad(answers: Sequence[Answer]) -> dict[str, Measured]:
    """squad_exact_match and squad_f1, 0..1, with the best of several references.

    As in SQuAD's evaluation (Rajpurkar et al. 2016, arXiv:1606.05250): after `normalized`, equal
    texts, and the F1 of the bags of words; without words on either side, equal or not.
    """
    return {
        "squad_exact_match": best_of(answers, same_normalized),
        "squad_f1": best_of(answers, _bag_f1),
    }


def _bag_f1(text: str, reference: str) -> float:
    found, expected = normalized(text).split(), normalized(reference).split()
    if not found or not expected:
        return float(same_normalized(text, reference))
    shared = sum((Counter(found) & Counter(expected)).values())
    return 2 * shared / (len(found) + len(expected))


def as_json(answers: Sequence[Answer]) -> dict[str, Measured]:
    """json_valid: the share of answers that are JSON (RFC 8259). json_exact: the same value.

    The order of keys and the way that a number is written do not count; true is not 1.
    """
    read = [_read(answer.texts[0]) for answer in answers]

    def same(text: str, reference: str) -> float | None:
        expected = _read(reference)
        return None if expected is _NOT_JSON else float(_read(text) == expected)

    return {
        "json_valid": mean_of(float(value is not _NOT_JSON) for value in read),
        "json_exact": best_of(answers, same),
    }


def _read(text: str) -> Any:
    """A JSON value, with numbers as exact decimals; `_NOT_JSON` for another text."""
    try:
        value = json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=_refuse)
        return _typed(value)
    except (ValueError, ArithmeticError, RecursionError):
        return _NOT_JSON


def _refuse(text: str) -> None:
    raise ValueError(text)


def _typed(value: Any) -> Any:
    """The value with booleans that are equal to no number."""
    if isinstance(value, dict):
        return {key: _typed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_typed(one) for one in value]
    return ("boolean", value) if isinstance(value, bool) else value


def number_close(answers: Sequence[Answer], tolerance: float = TOLERANCE) -> dict[str, Measured]:
    """number_close: the share of answers whose last number is about the reference's last one.

    Args:
        tolerance: the greatest difference, as a share of the reference's number.
    """

    def close(text: str, reference: str) -> float | None:
        found, expected = last_number(text), last_number(reference)
        if expected is None:
            return None
        return float(found is not None and abs(found - expected) <= tolerance * abs(expected))

    return {"number_close": best_of(answers, close)}


def last_number(text: str) -> float | None:
    """The last number of a text, which may have commas between thousands."""
    numbers = _NUMBER.findall(text)
    if not numbers:
        return None
    value = float(numbers[-1].replace(",", "").replace("−", "-"))
    return value if math.isfinite(value) else None


def choice(answers: Sequence[Answer], labels: Sequence[str]) -> dict[str, Measured]:
    """choice: the share of answers whose first label, as whole words in any case, is the
    reference's; records are left out whose reference has none.
    """
    longest_first = sorted(labels, key=len, reverse=True)
    pattern = re.compile(
        rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE
    )

    def same(text: str, reference: str) -> float | None:
        found, expected = pattern.search(text), pattern.search(reference)
        if expected is None:
            return None
        return float(found is not None and found[0].casefold() == expected[0].casefold())

    return {"choice": best_of(answers, same)}


def ter(answers: Sequence[Answer]) -> dict[str, Measured]:
    """ter: edits per word of the references, in percent (Snover et al. 2006), as in sacrebleu.

    Its time grows with the third power of the words: seconds for 150 that differ.
    """
    from sacrebleu.metrics.ter import TER

    metric: Any = TER()

    def edits(answer: Answer) -> Sequence[float]:
        """The edits, and the mean number of words of the references."""
        if not answer.references:
            return 0.0, 0.0
        streams = [[one] for one in answer.references]
        found: Sequence[float] = metric._extract_corpus_statistics([answer.texts[0]], streams)[0]
        return found

    with progress_bar(len(answers), "ter") as bar:
        terms = [edits(answer) for answer in answers if not bar.update()]

    def percent(sums: Floats) -> Floats:
        return 100 * ratio(sums)

    return {"ter": Measured(np.array(terms, np.float64).reshape(-1, 2), percent)}
