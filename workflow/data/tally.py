"""Problems of records, gathered: what very many records share is told once."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from workflow.core.errors import Problem

SHOWN_SINGLY = 3
"""Records that may share a problem, each with a line of its own."""


@dataclass
class _Alike:
    """Problems that differ in their place and in values alone."""

    inside: str
    found: str
    records: int = 0
    one_value: bool = True
    numbered: list[tuple[int, Problem]] = field(default_factory=list)


class Tally:
    """The problems of the records of a file or split, which stands at `whole`."""

    def __init__(self, whole: str):
        self._whole = whole
        self._records = 0
        self._kinds: dict[tuple[str, ...], _Alike] = {}

    def add(self, place: str, problems: Sequence[Problem]) -> None:
        """Take in a record, which stands at `place`, with what is wrong with it."""
        self._records += 1
        counted = set()
        for problem in problems:
            kind = _kind(place, problem)
            inside = problem.where.removeprefix(place)
            alike = self._kinds.setdefault(kind, _Alike(inside, problem.found))
            alike.records += kind not in counted
            alike.one_value &= problem.found == alike.found
            counted.add(kind)
            if alike.records <= SHOWN_SINGLY:
                alike.numbered.append((self._records, problem))

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def problems(self) -> list[Problem]:
        """In the order of the records."""
        numbered = [one for alike in self._kinds.values() for one in self._told(alike)]
        return [problem for _, problem in sorted(numbered, key=lambda one: one[0])]

    def _told(self, alike: _Alike) -> Iterator[tuple[int, Problem]]:
        if alike.records <= SHOWN_SINGLY:
            yield from alike.numbered
            return
        number, first = alike.numbered[0]
        if alike.records < self._records:
            found = f"{alike.found} (the first of {alike.records:,} such records)"
            yield number, replace(first, found=found)
        else:
            others = "" if alike.one_value else " and the like"
            found = f"{alike.found}{others} in all {self._records:,} records"
            key = alike.inside if alike.inside.startswith(".") else ""
            yield number, replace(first, where=self._whole + key, found=found)


def _kind(place: str, problem: Problem) -> tuple[str, ...]:
    """The same for problems that differ in their place and in values alone."""
    inside = re.sub(r"\d+", "", problem.where.removeprefix(place))
    words = re.match(r"[^'\"(\d\\]*", problem.found)
    assert words is not None  # it matches nothing too
    return inside, words[0], problem.expected, problem.hint
