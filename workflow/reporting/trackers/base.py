"""Trackers, which log the content of train_log.jsonl and metrics.jsonl.

A tracker must not fail, stop or delay a run. Each works in its own thread; the run waits for it a
bounded time at start and end, and never in between. The first error disables it.
"""

import importlib.util
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psutil  # type: ignore[import-untyped]

from workflow.core.console import log
from workflow.core.errors import Problem
from workflow.metrics.names import interval_of, is_number

Sample = Mapping[str, Any]
"""A record as shown in a tracker, by column name."""

SAMPLES = 8
"""Records logged for an evaluation: the first ones."""
LONGEST_TEXT = 1_000
OPEN_SECONDS = 30.0
"""Longest wait at the start of a run. (Concurrent imports of two threads can fail in either.)"""
CLOSE_SECONDS = 15.0
TIDY_SECONDS = 2.0
"""Longest wait for a tracker after its service was killed."""
MOST_WAITING = 10_000
"""Calls that a tracker may be behind."""
WANDB_SERVICE = "wandb-core"
"""wandb's own process, for which wandb waits without limit at exit."""

Result = TypeVar("Result")


class Tracker(Protocol):
    """Logs a run; any method may raise."""

    def log_step(self, line: Mapping[str, Any]) -> None:
        """Log a line of train_log.jsonl."""

    def log_evaluation(
        self, step: int, metrics: Mapping[str, Any], samples: Sequence[Sample]
    ) -> None:
        """Log a line of metrics.jsonl, and some of its records."""

    def close(self) -> None:
        """Flush everything within a bounded time."""


@dataclass(frozen=True)
class Start:
    """The start of a run, to open a tracker with.

    Attributes:
        folder: the run's.
        config: the job with resolved defaults.
        step: the step after which the run starts or resumes.
    """

    folder: Path
    config: Mapping[str, Any]
    step: int


def _open_tensorboard(start: Start) -> Tracker:
    from workflow.reporting.trackers.tensorboard import TensorBoard

    return TensorBoard(start)


def _open_wandb(start: Start) -> Tracker:
    from workflow.reporting.trackers.wandb import WeightsAndBiases

    return WeightsAndBiases(start)


OPENED_BY: dict[str, Callable[[Start], Tracker]] = {
    "tensorboard": _open_tensorboard,
    "wandb": _open_wandb,
}


def problems_of_trackers(names: Iterable[str]) -> list[Problem]:
    """The trackers without an installed package of the same name."""
    hint = "run scripts/setup --extra {}, or remove the tracker"
    return [
        Problem(f"--report_to {name}", "not installed", f"the package {name}", hint.format(name))
        for name in names
        if not _is_installed(name)
    ]


def _is_installed(package: str) -> bool:
    """Whether a package is installed; a folder of that name, e.g. wandb's, is not a package."""
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None


def numbers_of(line: Mapping[str, Any], group: str) -> dict[str, float]:
    """The numbers of a line as `group/name`; intervals as `group_ci95/name_low` and `_high`."""
    found: dict[str, float] = {}
    for name, value in line.items():
        bare = name.removesuffix("_ci95")
        if is_number(value) and name not in ("step", "time"):
            found[f"{group}/{name}"] = value
        elif interval := interval_of(line, bare):
            ends = zip(("low", "high"), interval, strict=True)
            found |= {f"{group}_ci95/{bare}_{end}": number for end, number in ends}
    return found


def cut(value: Any) -> Any:
    """A value, with texts truncated to 1,000 characters."""
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return value[: LONGEST_TEXT - 1] + "…"
    return value


class Shielded:
    """A tracker in its own thread, disabled at the first error."""

    def __init__(self, name: str, make: Callable[[], Tracker]):
        self._name = name
        self._calls: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue(MOST_WAITING)
        self._opened = threading.Event()
        self._disabled = threading.Lock()  # held by the first to notice, who logs it
        self._thread = threading.Thread(target=self._work, args=(make,), name=name, daemon=True)
        self._thread.start()

    def wait_until_open(self, seconds: float) -> None:
        self._opened.wait(seconds)

    def call(self, call: Callable[[Tracker], None] | None) -> None:
        """Queue a call for the tracker; None closes it."""
        if self._disabled.locked():
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._disable(f"{MOST_WAITING:,} calls behind")

    def wait_for_end(self, seconds: float) -> None:
        """Wait until the tracker is closed; disable it if it takes longer."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._disable(f"not closed within {CLOSE_SECONDS:g} s")
            for child in psutil.Process().children():
                if child.name() == WANDB_SERVICE:
                    child.kill()
                    self._thread.join(TIDY_SECONDS)

    def _work(self, make: Callable[[], Tracker]) -> None:
        tracker = self._shield(make)
        self._opened.set()
        if tracker is None:
            return
        while not self._disabled.locked() and (call := self._calls.get()) is not None:
            self._shield(partial(call, tracker))
        self._shield(tracker.close)

    def _shield(self, action: Callable[[], Result]) -> Result | None:
        try:
            return action()
        except BaseException as error:  # libraries may exit, too
            self._disable(f"{type(error).__name__}: {error}".rstrip(": "))
            return None

    def _disable(self, reason: str) -> None:
        if self._disabled.acquire(blocking=False):
            reason = " ".join(reason.split())
            log.warning("disabled %s logging (%s); the run continues", self._name, reason)


class Trackers:
    """All trackers of a run as one tracker that never fails."""

    def __init__(self, trackers: Sequence[Shielded] = ()):
        self._trackers = trackers

    def __bool__(self) -> bool:
        return bool(self._trackers)

    def log_step(self, line: Mapping[str, Any]) -> None:
        self._send(lambda tracker: tracker.log_step(line))

    def log_evaluation(
        self, step: int, metrics: Mapping[str, Any], samples: Sequence[Sample]
    ) -> None:
        shown = [{name: cut(value) for name, value in sample.items()} for sample in samples]
        self._send(lambda tracker: tracker.log_evaluation(step, metrics, shown))

    def close(self) -> None:
        self._send(None)
        ends = time.monotonic() + CLOSE_SECONDS
        for tracker in self._trackers:
            tracker.wait_for_end(max(0.0, ends - time.monotonic()))

    def _send(self, call: Callable[[Tracker], None] | None) -> None:
        for tracker in self._trackers:
            tracker.call(call)


NO_TRACKERS = Trackers()


@contextmanager
def tracking(names: Sequence[str], start: Start) -> Iterator[Trackers]:
    """Open trackers by name, and close them at the end."""
    trackers = []
    for name in names:
        trackers.append(Shielded(name, partial(OPENED_BY[name], start)))
        trackers[-1].wait_until_open(OPEN_SECONDS)
    followed = Trackers(trackers)
    try:
        yield followed
    finally:
        followed.close()
