"""Errors by who can fix them.

WorkflowError
├── BadInput    flags, data or a model that the user can correct; nothing was started (exit 2)
├── RunFailed   a run that could not continue; what it wrote is kept (exit 1)
│   └── OutOfMemory   in one process only
└── Stopped     a run that stopped on request; the same command resumes it (exit 75)
"""

import difflib
from dataclasses import dataclass

PROBLEMS_SHOWN = 20


class WorkflowError(Exception):
    """An error that is shown as a message, without a traceback."""

    exit_status = 1


@dataclass(frozen=True)
class Problem:
    """One problem of the user's input, printed on one line."""

    where: str
    found: str
    expected: str
    hint: str

    def __str__(self) -> str:
        line = f"{self.where}: {self.found} (expected {self.expected}). Hint: {self.hint}"
        line = " ".join(line.split())
        return line if line.endswith((".", "?", "!")) else f"{line}."


class BadInput(WorkflowError):
    """All problems of a job; the message shows the first 20 and their number."""

    exit_status = 2

    def __init__(self, problems: list[Problem]):
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems[:PROBLEMS_SHOWN]]
        count = len(self.problems)
        if count > PROBLEMS_SHOWN:
            lines.append(f"… and {count - PROBLEMS_SHOWN} more ({count} problems in all)")
        elif count > 1:
            lines.append(f"({count} problems in all)")
        return "\n".join(lines)


class RunFailed(WorkflowError):
    """A run that could not continue."""


class OutOfMemory(RunFailed):
    """A process that ran out of memory; the other processes may still wait for it.

    Attributes:
        positions: bound of padded positions per micro-batch for the next start; None: unchanged.
    """

    def __init__(self, message: str, positions: int | None = None):
        super().__init__(message)
        self.positions = positions


class Stopped(WorkflowError):
    """A run that stopped on request."""

    exit_status = 75  # EX_TEMPFAIL of sysexits.h: try again


def shorten(value: object, limit: int = 60) -> str:
    """`repr` of a value, safe to print, cut to about `limit` characters."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= limit else text[: limit - 1] + "…"


def nearest(name: str, known: list[str], otherwise: str) -> str:
    """A hint for a name that does not exist."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else otherwise
