"""Texts in columns."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], to_the_right: bool = False) -> list[str]:
    """A line for each row, its cells under each other; the first is always to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rest = str.rjust if to_the_right else str.ljust
    return [
        "  ".join([row[0].ljust(widths[0]), *map(rest, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
