"""The log of a job, and progress bars in a terminal."""

import logging
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, TextIO

from rich.text import Text
from tqdm import tqdm

from workflow.core.tables import Part, as_lines, render

log = logging.getLogger("workflow")
_silent = False


class _AboveBars(logging.Handler):
    """Writes log lines above progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        if has_colors(sys.stderr):
            time, _, message = line.partition(" ")
            style = "yellow" if record.levelno >= logging.WARNING else ""
            line = _colored([Text.assemble((time, "dim"), " ", (message, style))])
        _write_above_bars(line)


def _write_above_bars(text: str) -> None:
    with suppress(OSError):  # a closed log must not end the run
        # the line's end in the same write: other processes write to the same file
        tqdm.write(text + "\n", file=sys.stderr, end="")


def has_colors(stream: TextIO) -> bool:
    """Whether a stream is a terminal that shows colors, and NO_COLOR is not set."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not plain


def _colored(parts: Iterable[Part]) -> str:
    return render(parts, shutil.get_terminal_size().columns, colors=True)


def show(parts: Iterable[Part], stream: TextIO | None = None) -> None:
    """Print texts and tables to standard output: in color on a terminal, else as plain lines."""
    stream = stream or sys.stdout
    text = _colored(parts) if has_colors(stream) else "\n".join(as_lines(parts))
    write(text + "\n", stream)


def write(text: str, stream: TextIO) -> None:
    """Write text, with ? for characters that the stream's encoding lacks."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding))


def show_error(message: str) -> None:
    """Print an error to standard error, with its hints in color on a terminal."""
    text = Text(message)
    text.highlight_regex("Hint: .*", "green")
    show([text], sys.stderr)


def log_parts(parts: Iterable[Part]) -> None:
    """Log texts and tables: each line by itself, or in color on a terminal."""
    if not _silent and has_colors(sys.stderr):
        _write_above_bars(_colored(parts))
    else:
        for line in as_lines(parts):
            log.info("%s", line)


def start_log(silent: bool = False) -> None:
    """Send the log to standard error; called once, by the command line.

    Args:
        silent: whether another process of the job logs instead.
    """
    global _silent  # noqa: PLW0603 (one state per process)
    _silent = silent
    if silent:
        log.addHandler(logging.NullHandler())
        log.propagate = False
    elif not log.handlers:
        handler = _AboveBars()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False


@contextmanager
def warnings_only() -> Iterator[None]:
    """Log warnings and errors alone while the block runs."""
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


def on_terminal() -> bool:
    """Whether standard error is a terminal that shows bars and tables."""
    return not _silent and sys.stderr.isatty()


@cache
def warn_once(message: str) -> None:
    """Log a warning once per process."""
    log.warning(message)


@cache
def inform_once(message: str) -> None:
    """Log a line once per process."""
    log.info(message)


def progress_bar(
    total: int, label: str, unit: str = "record", leave: bool = False, initial: int = 0
) -> "tqdm[Any]":
    """A progress bar on standard error, kept at the end if `leave`; none if that is a file."""
    disable = True if _silent else None
    return tqdm(
        total=total, desc=label, unit=unit, unit_scale=unit == "B", leave=leave, disable=disable,
        initial=initial, dynamic_ncols=True,
    )  # fmt: skip
