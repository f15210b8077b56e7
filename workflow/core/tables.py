"""Texts in columns."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], left: int | None = None) -> list[str]:
    """A line for each row, its cells under each other.

    Args:
        left: how many columns stand to the left; the others, of numbers, to the right. All where
            None.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = [str.ljust if left is None or i < left else str.rjust for i in range(len(widths))]
    return [
        "  ".join(
            put(cell, width) for put, cell, width in zip(sides, row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
