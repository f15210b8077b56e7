"""A page as a single HTML file that needs no network and cannot run a text as a script.

Texts of data and model are escaped HTML, or data that the script sets as text. In addition, the
content security policy allows only the page's own script (by its SHA-256), and no requests.
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
    import jinja2  # lazy: slow import

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
    """The source expression of an inline script or style in a content security policy."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _packed(items: Items) -> str:
    """The records for the page's script: JSON, gzip, base64."""
    text = json.dumps(vars(items), ensure_ascii=False, default=vars, allow_nan=False)
    # JSON can hold lone surrogates, which UTF-8 cannot encode.
    packed = gzip.compress(text.encode("utf-8", "replace"), compresslevel=6, mtime=0)
    return base64.b64encode(packed).decode()
