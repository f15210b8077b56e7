"""`python3 -m workflow compare RUN RUN…`: a paired comparison of evaluations. Imports no torch."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from workflow.core.console import show, write
from workflow.core.errors import BadInput, Problem
from workflow.core.files import whole_file
from workflow.reporting.compare.comparison import compare_named
from workflow.reporting.compare.selectors import find_named
from workflow.reporting.compare.terminal import describe
from workflow.runs.mount import Mount


def compare(mount: Mount, words: Sequence[str], html: str | None, as_json: str | None) -> int:
    """Compare evaluations, print and write the result, and return the exit status.

    Args:
        words: evaluations as RUN, RUN@STEP, RUN@best or RUN@last.
        html: path of the page to write.
        as_json: path of the JSON file; "-" prints JSON alone to standard output.
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
        from workflow.reporting.compare.html import page  # lazy: seldom needed
        from workflow.reporting.report.html import render

        _write(html, render(page(found)))
    numbers = json.dumps(found.as_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if as_json == "-":
        write(numbers, sys.stdout)
        return 0
    if as_json:
        _write(as_json, numbers)
    draws = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    show(describe(found, draws))
    return 0


def _problems_of_files(files: Mapping[str, str | None]) -> list[Problem]:
    problems = []
    for flag, name in files.items():
        path = Path(name).expanduser() if name else None
        if path and (path.is_dir() or not path.parent.is_dir()):
            found = "a folder" if path.is_dir() else "its folder does not exist"
            problems.append(Problem(f"{flag} {name}", found, "a file path", "correct the path"))
    return problems


def _write(name: str, text: str) -> None:
    with whole_file(Path(name).expanduser()) as partial:
        # JSON can hold lone surrogates, which UTF-8 cannot encode.
        partial.write_text(text, encoding="utf-8", errors="replace")
