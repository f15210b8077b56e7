"""The parts of a page: tables, charts, texts and a searchable list of records."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

Point = tuple[float, float]


@dataclass(frozen=True)
class Table:
    """Rows of texts under a header; the first column has names, the others numbers.

    Further lines of a cell have a smaller font.

    Attributes:
        note: a line below.
        strong: indexes of highlighted rows.
        folded: the summary of a collapsed table; empty if it is not collapsed.
    """

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    strong: frozenset[int] = frozenset()
    folded: str = ""


@dataclass(frozen=True)
class Text:
    """Paragraphs, or lines of `code` to copy."""

    kind: ClassVar[str] = "text"
    lines: Sequence[str]
    code: bool = False


@dataclass(frozen=True)
class Series:
    """Points of a chart, by x.

    Attributes:
        style: line, dots (a line through marked points), faint (in the color of an earlier series
            of the same name), bars (each up to the next x), or guide (dashed, without a name).
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
        x_range, y_range: of the axes; None fits the points.
        log: whether y may have a logarithmic axis if its range is large.
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
    """A grid of charts; `folded` as in a table."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[Chart]
    folded: str = ""


@dataclass(frozen=True)
class Prediction:
    """A prediction for a record.

    Attributes:
        by: its label, e.g. a run or a step.
        score: quality, 0..1; None if unknown.
        compared: whether differences from the reference are marked.
    """

    by: str
    text: str
    score: float | None = None
    compared: bool = True


@dataclass(frozen=True)
class Item:
    """A record in the list.

    Attributes:
        place: 0-based index in the data file, shown as eval[0].
        facts: further short texts.
        numbers: sort keys, one for each of `Items.numbers`.
        tags: keys to filter by.
    """

    place: int
    prompt: str
    expected: str | None
    predictions: Sequence[Prediction] = ()
    facts: Sequence[str] = ()
    numbers: Sequence[float | None] = ()
    tags: Sequence[str] = ()


@dataclass(frozen=True)
class Items:
    """A list of records to search, sort and filter.

    Attributes:
        prompt_label: label of the prompts.
        score: label of the predictions' scores.
        numbers: names of the sort keys.
        begin: the initial order: "TAG first" for the first tag, "NUMBER, lowest first",
            "NUMBER, highest first" or "file order".
        tags: tags to filter by, with their definitions; records with the first can come first.
    """

    kind: ClassVar[str] = "items"
    items: Sequence[Item]
    prompt_label: str = "prompt"
    score: str = "word F1"
    numbers: Sequence[str] = ()
    tags: dict[str, str] = field(default_factory=dict)
    begin: str = "file order"
    note: str = ""


Block = Table | Text | Charts | Items


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        subtitle: a line under the title.
        verdict: sentences that summarize the result.
        warnings: problems of the data that affect the verdict.
    """

    title: str
    subtitle: str
    verdict: Sequence[str]
    sections: Sequence[Section]
    warnings: Sequence[str] = ()


def shown(value: Any) -> str:
    """The value of a flag: a text unchanged, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
