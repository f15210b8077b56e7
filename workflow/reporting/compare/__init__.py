"""`python3 -m workflow compare RUN RUN…`: evaluations set against each other, record by record.

Nothing here imports torch.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from workflow.core.errors import BadInput, Problem
from workflow.core.files import whole_file
from workflow.reporting.compare.comparison import compare_named
from workflow.reporting.compare.selectors import find_named
from workflow.reporting.compare.terminal import tell
from workflow.runs.mount import Mount


def compare(mount: Mount, words: Sequence[str], html: str | None, as_json: str | None) -> int:
    """Compare what is named, and print and write what is found; returns the exit status.

    Args:
        html: the file of a page to write.
        as_json: the file of the numbers; "-" for standard output, which then has nothing else.
    """
    problems = _problems_of_files({"--html": html, "--json": as_json if as_json != "-" else None})
    try:
        named = find_named(mount, words)
    except BadInput as error:
        problems = error.problems + problems
    if problems:
        raise BadInput(problems)
    found = compare_named(named)
    if html:
        from workflow.reporting.compare.html import page  # here, as it is seldom needed
        from workflow.reporting.report.html import render

        _write(html, render(page(found)))
    numbers = json.dumps(found.as_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if as_json == "-":
        _print(numbers)
        return 0
    if as_json:
        _write(as_json, numbers)
    draws = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    _print("\n".join(tell(found, draws)) + "\n")
    return 0


def _problems_of_files(files: Mapping[str, str | None]) -> list[Problem]:
    problems = []
    for flag, name in files.items():
        path = Path(name).expanduser() if name else None
        if path and (path.is_dir() or not path.parent.is_dir()):
            found = "a folder" if path.is_dir() else "no such folder"
            expected = "a file in one that exists"
            problems.append(Problem(f"{flag} {name}", found, expected, "correct the path"))
    return problems


def _write(name: str, text: str) -> None:
    with whole_file(Path(name).expanduser()) as partial:
        # Half a surrogate pair, which JSON can hold, has no place in UTF-8.
        partial.write_text(text, encoding="utf-8", errors="replace")


def _print(text: str) -> None:
    """Write to standard output what it can hold."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
