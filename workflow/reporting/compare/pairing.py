"""The same records in the answers of several evaluations."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from workflow.core.errors import BadInput, Problem
from workflow.metrics.references import reference_of
from workflow.reporting.compare.selectors import Named

Told = str | float
"""What is answered: a text, or a score in the range of the targets."""


def as_text(told: Told) -> str:
    return told if isinstance(told, str) else f"{told:.4g}"


@dataclass(frozen=True)
class Pair:
    """A record, and what each evaluation answered to it first.

    Attributes:
        key: tells it from all others, whatever else stands beside it in the data.
        place: its index in the first evaluation's data, from 0 on.
        expected: a completion or a target.
        answers: one for each evaluation.
        references: what each of them is compared with.
    """

    key: bytes
    place: int
    prompt: str
    expected: Told
    answers: tuple[Told, ...]
    references: tuple[Told, ...]

    @property
    def shown(self) -> Told:
        """What is shown beside the answers."""
        return self.references[0] if len(set(self.references)) == 1 else self.expected


@dataclass(frozen=True)
class Pairs:
    """The records that can be compared, by place.

    Attributes:
        left_out: how many records each evaluation has besides.
        alike: whether all evaluations are of the very same records, judged or not.
    """

    pairs: Sequence[Pair]
    left_out: tuple[int, ...]
    alike: bool


@dataclass(frozen=True)
class _Item:
    """What counts of an item of a file; None stands for what there is not."""

    place: int
    prompt: str
    expected: Told | None
    reference: Told | None
    answer: Told | None


def pair(named: Sequence[Named]) -> Pairs:
    """The records that all evaluations have, with an expected answer and one that was given.

    Raises:
        BadInput: answers that are gone or damaged, or no records in common.
    """
    problems, of_all = [], []
    for one in named:
        try:
            of_all.append(_items(one))
        except BadInput as error:
            problems += error.problems
    if problems:
        raise BadInput(problems)
    base = of_all[0]
    common = [key for key in base if all(key in items for items in of_all)]
    if not common:
        raise BadInput([_nothing_common(named, of_all)])
    pairs = list(_judged(common, of_all))
    if not pairs:
        expected = any(base[key].expected is not None for key in common)
        raise BadInput([_nothing_answered(named) if expected else _nothing_judged(named)])
    left_out = tuple(len(items) - len(pairs) for items in of_all)
    return Pairs(pairs, left_out, all(items.keys() == base.keys() for items in of_all))


def _items(named: Named) -> dict[bytes, _Item]:
    """The items of an evaluation by what they are, and their number among equal ones."""
    path = named.evaluation.items
    if not path.exists():
        found, expected = f"no {path.name}", "what was answered then"
        mend = "name another step, or evaluate its checkpoint again (--no_train)"
        raise BadInput([Problem(f"{named.run}@{named.step}", found, expected, mend)])
    stops = [str(stop) for stop in named.spec.get("stop") or ()]
    read = _read_scored if named.spec.get("task") == "clf" else partial(_read_answered, stops)
    items: dict[bytes, _Item] = {}
    seen: Counter[bytes] = Counter()
    try:
        for place, raw in enumerate(named.evaluation.answers()):
            item = read(place, raw)
            digest = _digest([item.prompt, item.expected])
            items[_digest([digest.hex(), seen[digest]])] = item
            seen[digest] += 1
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError):
        found, mend = "an item of another form", "get it back from a copy, or evaluate again"
        raise BadInput([Problem(str(path), found, "what a run writes", mend)]) from None
    return items


def _digest(value: object) -> bytes:
    text = json.dumps(value)  # in ASCII, so that half a surrogate pair will do
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _read_answered(stops: Sequence[str], place: int, raw: dict[str, Any]) -> _Item:
    answer, expected = raw["generations"][0]["lm_postprocess"], raw["demonstration"]
    expected = None if expected is None else _text(expected)
    return _Item(place, _text(raw["prompt"]), expected, reference_of(raw, stops), _text(answer))


def _read_scored(place: int, raw: dict[str, Any]) -> _Item:
    record = raw["orig_d"]
    target = _number(record.get("target"))
    return _Item(place, _text(record["input"]), target, target, _number(raw["pred_score"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _number(value: Any) -> float | None:
    """A finite number; None where there is none."""
    number = None if value is None else float(value)
    if number is not None and not math.isfinite(number):
        raise ValueError("no finite number")
    return number


def _judged(common: Sequence[bytes], of_all: Sequence[dict[bytes, _Item]]) -> Iterator[Pair]:
    for key in common:
        items = [of_one[key] for of_one in of_all]
        answers = tuple(item.answer for item in items if item.answer is not None)
        references = tuple(item.reference for item in items if item.reference is not None)
        first = items[0]
        if first.expected is not None and len(answers) == len(references) == len(items):
            yield Pair(key, first.place, first.prompt, first.expected, answers, references)


def _nothing_common(named: Sequence[Named], of_all: Sequence[dict[bytes, _Item]]) -> Problem:
    shared = set.intersection(*({item.prompt for item in items.values()} for items in of_all))
    if shared:
        return _other_expected(named, of_all, shared)
    counted = ", ".join(
        f"{len(items)} of {one.label}" for one, items in zip(named, of_all, strict=True)
    )
    mend = "evaluate them on the same data (--no_train with a checkpoint)"
    found = f"no record that all have ({counted})"
    return Problem(_names(named), found, "the same records", mend)


def _other_expected(
    named: Sequence[Named], of_all: Sequence[dict[bytes, _Item]], prompts: set[str]
) -> Problem:
    """For records that ask the same, and of which no two expect the same."""
    asks, tells = _told_in_data(named)
    lacking = [
        one
        for one, items in zip(named, of_all, strict=True)
        if all(item.expected is None for item in items.values() if item.prompt in prompts)
    ]
    which, found = _names(lacking or named), f"the same {asks}s, but other {tells}s"
    mend = f"evaluate {which} on the same data (--no_train with a checkpoint)"
    if lacking:
        found = f"the same {asks}s, but no {tells}s in {which}"
        mend = f"evaluate {which} on data with {tells}s (--no_train with a checkpoint)"
    return Problem(_names(named), found, f"the same {tells}s in all", mend)


def _names(named: Sequence[Named]) -> str:
    return " and ".join(one.label for one in named)


def _told_in_data(named: Sequence[Named]) -> tuple[str, str]:
    """What of a record is called that asks, and what that answers."""
    return ("input", "target") if named[0].spec.get("task") == "clf" else ("prompt", "completion")


def _nothing_answered(named: Sequence[Named]) -> Problem:
    found, expected = "no record to which all gave a score", "scores that are numbers"
    return Problem(_names(named), found, expected, "name other steps: these have diverged")


def _nothing_judged(named: Sequence[Named]) -> Problem:
    where, expected = _names(named), f"{_told_in_data(named)[1]}s"
    found = f"no record that all have with {expected}"
    mend = f"evaluate them on data with {expected}"
    return Problem(where, found, f"{expected} to judge by", mend)
