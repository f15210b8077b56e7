"""Hooks of mkdocs: pages from files outside of docs/, and links that fit the site.

Links are written for readers of the repository. In the site, a file that has a page is linked
there, and any other file outside of docs/ is only named.
"""

import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "ARCHITECTURE.md": "develop/architecture.md",
    "CHANGELOG.md": "changelog.md",
    "containers/README.md": "operate/containers.md",
}
"""The pages made of files outside of docs/."""
_LINK = re.compile(r"\[([^\]]+)\]\((?!https?://|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of files outside of docs/."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        content = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite the links of a page."""
    here = page.file.src_uri
    source = next((name for name, made in PAGES.items() if made == here), f"docs/{here}")

    def rewrite(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        path = posixpath.normpath(PurePosixPath(source).parent / target)
        to = {"README.md": "index.md"}.get(path) or PAGES.get(path)
        if to is None and not path.startswith("docs/"):
            return text
        to = to or path.removeprefix("docs/")
        return f"[{text}]({posixpath.relpath(to, posixpath.dirname(here))}{anchor})"

    return _LINK.sub(rewrite, markdown)
