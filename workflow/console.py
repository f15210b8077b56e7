"""What the user sees while a job runs: a calm log, and bars where the output is a terminal."""

import logging
import sys
from typing import Any

from tqdm import tqdm

log = logging.getLogger("workflow")


class _AboveBars(logging.Handler):
    """Writes log lines so that they do not tear a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def start_log() -> None:
    """Send the log to standard error; called once, by the command line."""
    if not log.handlers:
        handler = _AboveBars()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False


def progress_bar(total: int, label: str, **options: Any) -> "tqdm[Any]":
    """A bar on standard error; nothing where that is a file."""
    return tqdm(total=total, desc=label, disable=None, dynamic_ncols=True, leave=False, **options)
