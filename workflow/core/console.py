"""The log of a job, and progress bars in a terminal."""

import logging
import sys
from contextlib import suppress
from functools import cache
from typing import Any

from tqdm import tqdm

log = logging.getLogger("workflow")
_silent = False


class _AboveBars(logging.Handler):
    """Writes log lines above progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # a closed log must not end the run
            tqdm.write(self.format(record), file=sys.stderr)


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
