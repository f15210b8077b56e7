"""A page as one HTML file: it needs no network, and no text in it can run as a script.

Texts of data and model reach the page as escaped HTML, or as data that its script sets as text.
Beside that the page's content security policy lets only this very script run (by its SHA-256),
and no request leave.
"""

import base64
import dataclasses
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

from workflow.reporting.report.blocks import Chart, Item, Items, Page, Series, rounded

_HERE = Path(__file__).parent


def render(page: Page) -> str:
    """The page as HTML."""
    import jinja2  # here, as the import takes a moment

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    script, style = _joined("page.js", "charts.js", "records.js"), _joined("page.css")
    policy = (
        f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template("page.html").render(
        page=page, script=script, style=style, policy=policy, chart=_chart_json, packed=_packed
    )


def _joined(*names: str) -> str:
    return "\n".join((_HERE / name).read_text(encoding="utf-8").strip() for name in names)


def _source(text: str) -> str:
    """What a content security policy calls an inline script or style of this text."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _chart_json(chart: Chart) -> dict[str, Any]:
    """A chart for the page's script."""
    return dataclasses.asdict(chart) | {"series": [_series_json(one) for one in chart.series]}


def _series_json(series: Series) -> dict[str, Any]:
    points, intervals = (
        [[rounded(value, 6) for value in pair] for pair in pairs]
        for pairs in (series.points, series.low_high)
    )
    return {"name": series.name, "style": series.style, "points": points, "low_high": intervals}


def _packed(items: Items) -> str:
    """The records for the page's script: JSON, gzip, base64."""
    content = {
        "asked": items.asked,
        "score": items.score,
        "numbers": list(items.numbers),
        "tags": list(items.tags),
        "begin": items.begin,
        "items": [_item_json(item, items) for item in items.items],
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # Half a surrogate pair, which JSON can hold, has no place in UTF-8.
    packed = gzip.compress(text.encode("utf-8", "replace"), compresslevel=6, mtime=0)
    return base64.b64encode(packed).decode()


def _item_json(item: Item, items: Items) -> list[Any]:
    answers = [[one.by, one.text, rounded(one.score, 3), int(one.compared)] for one in item.answers]
    tags = [place for place, tag in enumerate(items.tags) if tag in item.tags]
    numbers = [rounded(number) for number in item.numbers]
    return [item.place, item.prompt, item.expected, answers, list(item.facts), numbers, tags]
