"""Tables by rich: in color on terminals, as plain lines elsewhere."""

from collections.abc import Iterable, Sequence
from io import StringIO

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

Part = str | Text | Padding
"""What can be printed: a line of text, or a table."""

_UNBOUNDED = 100_000
"""Columns of output that is not wrapped."""


def table(
    rows: Sequence[Sequence[str | Text]],
    left: int | None = None,
    head: bool = True,
    indent: int = 0,
) -> Padding:
    """A table without borders and without empty columns, two spaces between columns.

    Args:
        rows: with the headings first if `head`.
        left: number of columns aligned to the left, the others to the right. None: all to the left.
    """
    made = Table(
        box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=head, header_style="bold"
    )
    filled = [i for i in range(len(rows[0])) if any(row[i] for row in rows)]
    body = rows[1:] if head else rows
    widths = {i: max((_as_text(row[i]).cell_len for row in body), default=0) for i in filled}
    heads = {i: _as_text(rows[0][i] if head else "") for i in filled}
    widest = max(widths, key=widths.__getitem__, default=0)
    # A narrow terminal folds, if it can, between words: of long headings and of the widest column.
    folds = {i for i in filled if " " in str(heads[i]) and heads[i].cell_len > widths[i]}
    if not folds or any(" " in str(row[widest]) for row in body):
        folds.add(widest)
    for index in filled:
        made.add_column(
            heads[index],
            justify="left" if left is None or index < left else "right",
            overflow="fold",
            no_wrap=index not in folds,
        )
    for row in body:
        made.add_row(*(_as_text(row[i]) for i in filled))
    return Padding(made, (0, 0, 0, indent), expand=False)


def _as_text(cell: str | Text) -> Text:
    return Text(cell) if isinstance(cell, str) else cell  # a str would be read as markup


def as_lines(parts: Iterable[Part]) -> list[str]:
    """The parts as plain lines, as wide as they need."""
    return render(parts, _UNBOUNDED, colors=False).split("\n")


def render(parts: Iterable[Part], width: int, colors: bool) -> str:
    """The parts as text for a terminal of this width, with its control codes if `colors`."""
    output = StringIO()
    console = Console(
        file=output,
        width=width,
        color_system="standard" if colors else None,
        force_terminal=colors,
        markup=False,
        emoji=False,
        highlight=False,
    )
    for part in parts:
        is_text = isinstance(part, str | Text)
        console.print(Text(part) if isinstance(part, str) else part, soft_wrap=is_text)
    return "\n".join(line.rstrip() for line in output.getvalue().removesuffix("\n").split("\n"))
