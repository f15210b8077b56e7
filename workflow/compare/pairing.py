"""The same records in the answers of several evaluations."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from workflow.compare.naming import Named
from workflow.errors import BadInput, Problem

Told = str | float
"""What is answered: a text, or a score in the range of the targets."""


@dataclass(frozen=True)
class Pair:
    """A record, and what each evaluation answered to it first.

    Attributes:
        key: tells it from all others, whatever else stands beside it in the data.
        place: its number in the first evaluation's data, from 1 on.
        expected: a completion or a target.
        answers: one for each evaluation.
    """

    key: bytes
    place: int
    prompt: str
    expected: Told
    answers: tuple[Told, ...]


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
        raise BadInput([_nothing_judged(named)])
    left_out = tuple(len(items) - len(pairs) for items in of_all)
    return Pairs(pairs, left_out, all(items.keys() == base.keys() for items in of_all))


def _items(named: Named) -> dict[bytes, _Item]:
    """The items of an evaluation by what they are, and their number among equal ones."""
    path = named.evaluation.items
    if not path.exists():
        found, expected = f"no {path.name}", "what was answered then"
        mend = "name another step, or evaluate its checkpoint again (--no_train)"
        raise BadInput([Problem(f"{named.run}@{named.step}", found, expected, mend)])
    read = _read_scored if named.spec.get("task") == "clf" else _read_answered
    items: dict[bytes, _Item] = {}
    seen: Counter[bytes] = Counter()
    try:
        for place, raw in enumerate(named.evaluation.answers(), 1):
            item = read(place, raw)
            digest = _digest([item.prompt, item.expected])
            items[_digest([digest.hex(), seen[digest]])] = item
            seen[digest] += 1
    except (KeyError, TypeError, IndexError, AttributeError):
        found, mend = "an item of another form", "get it back from a copy, or evaluate again"
        raise BadInput([Problem(str(path), found, "what a run writes", mend)]) from None
    return items


def _digest(value: object) -> bytes:
    text = json.dumps(value)  # in ASCII, so that half a surrogate pair will do
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _read_answered(place: int, raw: dict[str, Any]) -> _Item:
    return _Item(
        place, raw["prompt"], raw["demonstration"], raw["generations"][0]["lm_postprocess"]
    )


def _read_scored(place: int, raw: dict[str, Any]) -> _Item:
    record = raw["orig_d"]
    target = record.get("target")
    expected = None if target is None else float(target)
    return _Item(place, record["input"], expected, raw["pred_score"])


def _judged(common: Sequence[bytes], of_all: Sequence[dict[bytes, _Item]]) -> Iterator[Pair]:
    for key in common:
        items = [of_one[key] for of_one in of_all]
        answers = tuple(item.answer for item in items if item.answer is not None)
        first = items[0]
        if first.expected is not None and len(answers) == len(items):
            yield Pair(key, first.place, first.prompt, first.expected, answers)


def _nothing_common(named: Sequence[Named], of_all: Sequence[dict[bytes, _Item]]) -> Problem:
    counted = ", ".join(
        f"{len(items)} of {one.label}" for one, items in zip(named, of_all, strict=True)
    )
    where = " and ".join(one.label for one in named)
    mend = "evaluate them on the same data (--no_train with a checkpoint)"
    return Problem(where, f"no record that all have ({counted})", "the same records", mend)


def _nothing_judged(named: Sequence[Named]) -> Problem:
    where = " and ".join(one.label for one in named)
    expected = "targets" if named[0].spec.get("task") == "clf" else "completions"
    found = "no record with an expected answer that all have answered"
    mend = f"evaluate them on data with {expected}"
    return Problem(where, found, f"{expected} to judge by", mend)
