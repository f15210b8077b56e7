"""Problems of records, with one line for a problem that many records share."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from workflow.core.errors import Problem

SHOWN_SINGLY = 3
"""Most records that share a problem and still get a line each."""


@dataclass
class _Alike:
    """Problems that differ only in their place and values."""

    inside: str
    found: str
    records: int = 0
    same_value: bool = True
    numbered: list[tuple[int, Problem]] = field(default_factory=list)


class Tally:
    """The problems of all records of a file or split at the place `whole`."""

    def __init__(self, whole: str):
        self._whole = whole
        self._records = 0
        self._kinds: dict[tuple[str, ...], _Alike] = {}

    def add(self, place: str, problems: Sequence[Problem]) -> None:
        """Add a record at `place` with its problems."""
        self._records += 1
        counted = set()
        for problem in problems:
            kind = _kind(place, problem)
            inside = problem.where.removeprefix(place)
            alike = self._kinds.setdefault(kind, _Alike(inside, problem.found))
            alike.records += kind not in counted
            alike.same_value &= problem.found == alike.found
            counted.add(kind)
            if alike.records <= SHOWN_SINGLY:
                alike.numbered.append((self._records, problem))

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def problems(self) -> list[Problem]:
        """All problems, in the order of the records."""
        numbered = [one for alike in self._kinds.values() for one in self._lines(alike)]
        return [problem for _, problem in sorted(numbered, key=lambda one: one[0])]

    def _lines(self, alike: _Alike) -> Iterator[tuple[int, Problem]]:
        if alike.records <= SHOWN_SINGLY:
            yield from alike.numbered
            return
        number, first = alike.numbered[0]
        if alike.records < self._records:
            found = f"{alike.found}; first of {alike.records:,} records"
            yield number, replace(first, found=found)
        else:
            others = "" if alike.same_value else " and similar"
            found = f"{alike.found}{others} in all {self._records:,} records"
            key = f": {alike.inside[1:]}" if alike.inside.startswith(".") else ""
            yield number, replace(first, where=self._whole + key, found=found)


def _kind(place: str, problem: Problem) -> tuple[str, ...]:
    """A key that is equal for problems that differ only in their place and values."""
    inside = re.sub(r"\d+", "", problem.where.removeprefix(place))
    words = re.match(r"[^'\"(\d\\]*", problem.found)
    assert words is not None  # it also matches the empty string
    return inside, words[0], problem.expected, problem.hint
