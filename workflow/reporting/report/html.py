"""A page as one HTML file: it needs no network, and no text in it can run as a script.

Texts of data and model reach the page as escaped HTML, or as data that its script sets as text.
Beside that the page's content security policy lets only this very script run (by its SHA-256),
and no request leave.
"""

import base64
import gzip
import hashlib
import json
from pathlib import Path

from workflow.reporting.report.blocks import Items, Page

_HERE = Path(__file__).parent


def render(page: Page) -> str:
    """The page as HTML."""
    import jinja2  # here, as the import takes a moment

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"default": vars}  # of dataclasses
    script, style = _joined("page.js", "charts.js", "records.js"), _joined("page.css")
    policy = (
        f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template("page.html").render(
        page=page, script=script, style=style, policy=policy, packed=_packed
    )


def _joined(*names: str) -> str:
    return "\n".join((_HERE / name).read_text(encoding="utf-8").strip() for name in names)


def _source(text: str) -> str:
    """What a content security policy calls an inline script or style of this text."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _packed(items: Items) -> str:
    """The records for the page's script: JSON, gzip, base64."""
    text = json.dumps(vars(items), ensure_ascii=False, default=vars, allow_nan=False)
    # Half a surrogate pair, which JSON can hold, has no place in UTF-8.
    packed = gzip.compress(text.encode("utf-8", "replace"), compresslevel=6, mtime=0)
    return base64.b64encode(packed).decode()
