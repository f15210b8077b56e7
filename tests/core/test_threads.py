"""Work ahead of the caller keeps its order, and its errors reach the caller."""

import threading
from collections.abc import Iterator

import pytest

from workflow.core.threads import made_ahead


def test_the_next_is_made_while_one_is_used() -> None:
    begun = {number: threading.Event() for number in range(4)}
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for number in range(3):
            drawn.append(number)
            yield number

    def make(number: int) -> str:
        begun[number].set()
        return str(number)

    begun[3].set()
    for item, made in made_ahead(make, items()):
        assert made == str(item)
        assert begun[item + 1].wait(timeout=30)
        assert len(drawn) <= item + 2  # no further ahead
    assert drawn == [0, 1, 2]
    assert list(made_ahead(make, [])) == []


def test_several_threads_keep_the_order() -> None:
    second = threading.Event()

    def make(number: int) -> int:
        if number == 0:
            assert second.wait(timeout=30)
        if number == 1:
            second.set()
        return -number

    assert list(made_ahead(make, range(9), threads=2)) == [(i, -i) for i in range(9)]


def test_an_error_is_raised_in_its_turn() -> None:
    def make(number: int) -> float:
        return 1 / number

    found = made_ahead(make, [2, 1, 0, 4])
    assert next(found) == (2, 0.5)
    assert next(found) == (1, 1.0)
    with pytest.raises(ZeroDivisionError):
        next(found)
