"""What a page is made of: tiles, tables, charts, texts and a list of records to search."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

Point = tuple[float, float]


@dataclass(frozen=True)
class Table:
    """Rows of texts under a head; a first column of names, the others are numbers.

    Further lines of a cell are set smaller.

    Attributes:
        note: a line below.
        strong: the numbers of rows to stand out.
        folded: what is to be clicked on to see it; seen at once where empty.
    """

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    strong: frozenset[int] = frozenset()
    folded: str = ""


@dataclass(frozen=True)
class Text:
    """Lines as they stand; `code` in a fixed width, to be copied."""

    kind: ClassVar[str] = "text"
    lines: Sequence[str]
    code: bool = False


@dataclass(frozen=True)
class Series:
    """Points of a chart, by x.

    Attributes:
        style: line, dots (a line through marked points), faint (of the color of an earlier series
            of the same name), bars (each as wide as to the next x), or guide (dashed, without a
            name).
        low_high: an interval around each point.
    """

    name: str
    points: Sequence[Point]
    style: str = "line"
    low_high: Sequence[Point] = ()


@dataclass(frozen=True)
class Chart:
    """Series over the same x.

    Attributes:
        x_range, y_range: what is to be seen; as far as the points go where None.
        log: whether y may be shown by its logarithm, where it spans a lot.
    """

    title: str
    x: str
    series: Sequence[Series]
    x_range: Point | None = None
    y_range: Point | None = None
    log: bool = False
    note: str = ""


@dataclass(frozen=True)
class Charts:
    """Charts side by side, as many as have room; `folded` as in a table."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[Chart]
    folded: str = ""


@dataclass(frozen=True)
class Answer:
    """What was said to a record.

    Attributes:
        by: who or which one.
        score: how good it is, 0..1; None where that is not known.
        compared: whether its differences from the expected text are to be marked.
    """

    by: str
    text: str
    score: float | None = None
    compared: bool = True


@dataclass(frozen=True)
class Item:
    """A record in the list.

    Attributes:
        place: its index in the data file, from 0 on, as eval[0].
        facts: more about it, in a few words each.
        numbers: what it can be sorted by, one for each of `Items.numbers`.
        tags: what it can be chosen by.
    """

    place: int
    prompt: str
    expected: str | None
    answers: Sequence[Answer] = ()
    facts: Sequence[str] = ()
    numbers: Sequence[float | None] = ()
    tags: Sequence[str] = ()


@dataclass(frozen=True)
class Items:
    """Records to search and to sort.

    Attributes:
        asked: what a prompt is called.
        score: what the score of an answer is called.
        numbers: the names of what they can be sorted by.
        begin: the order at the beginning: "TAG first" of the first tag, "NUMBER, lowest first",
            "NUMBER, highest first" or "as in the file".
        tags: of records that can be shown alone, with what each means; those with the first
            can come first.
    """

    kind: ClassVar[str] = "items"
    items: Sequence[Item]
    asked: str = "prompt"
    score: str = "word F1"
    numbers: Sequence[str] = ()
    tags: dict[str, str] = field(default_factory=dict)
    begin: str = "as in the file"
    note: str = ""


Block = Table | Text | Charts | Items


@dataclass(frozen=True)
class Section:
    """A part of a page under a heading."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        subtitle: a line under the title.
        verdict: sentences that say what came of it.
        warnings: what is to be minded of the verdict.
    """

    title: str
    subtitle: str
    verdict: Sequence[str]
    sections: Sequence[Section]
    warnings: Sequence[str] = ()


def shown(value: Any) -> str:
    """A flag's value: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
