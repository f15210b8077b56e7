"""Golden files: real output of the program, section by section, under tests/golden.

`UPDATE_GOLDEN=1 scripts/test tests/test_messages.py tests/cli` rewrites them; read the diff.
"""

import os
import re
from pathlib import Path
from tempfile import gettempdir

from workflow.core.files import locked

GOLDEN = Path(__file__).resolve().parent / "golden"
_TITLE = re.compile(r"^== (.*)\n", re.MULTILINE)


def sections(name: str) -> dict[str, str]:
    """The texts of a golden file by their titles."""
    path = GOLDEN / name
    if not path.exists():
        return {}
    parts = _TITLE.split(path.read_text(encoding="utf-8"))
    texts = (part.removesuffix("\n").removesuffix("\n") for part in parts[2::2])
    return dict(zip(parts[1::2], texts, strict=True))


def check(name: str, title: str, text: str) -> None:
    """Compare a text with its section of a golden file, or write it there."""
    if os.environ.get("UPDATE_GOLDEN"):
        with locked(Path(gettempdir()) / "workflow-golden.lock"):  # of xdist's processes
            texts = sections(name) | {title: text}
            whole = "\n".join(f"== {one}\n{shown}\n" for one, shown in texts.items())
            (GOLDEN / name).write_text(whole, encoding="utf-8")
    assert text == sections(name).get(title)
