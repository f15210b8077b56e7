"""Work in other threads, ahead of the caller."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def made_ahead(
    make: Callable[[Item], Made], items: Iterable[Item], threads: int = 1
) -> Iterator[tuple[Item, Made]]:
    """Each item with what is made of it, in other threads while the caller uses those before.

    This pays if most of the making is done by a library that lets Python run meanwhile, as
    tokenizers does. Besides the caller's item, one more than there are threads is kept. Errors are
    raised here.
    """
    with ThreadPoolExecutor(threads) as others:
        ahead: deque[tuple[Item, Future[Made]]] = deque()
        for item in items:
            ahead.append((item, others.submit(make, item)))
            if len(ahead) > threads:
                first, made = ahead.popleft()
                yield first, made.result()
        for last, made in ahead:
            yield last, made.result()
