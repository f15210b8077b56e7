"""Work in another thread, ahead of the caller."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def made_ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[tuple[Item, Made]]:
    """Each item with what is made of it, in another thread while the caller uses the one before.

    This pays if most of the making is done by a library that lets Python run meanwhile, as
    tokenizers does. Up to three items are kept at a time. Errors are raised here.
    """
    with ThreadPoolExecutor(1) as other:
        before: tuple[Item, Future[Made]] | None = None
        for item in items:
            after = item, other.submit(make, item)
            if before:
                yield before[0], before[1].result()
            before = after
        if before:
            yield before[0], before[1].result()
