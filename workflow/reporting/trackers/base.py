"""Trackers, which draw a run's numbers: told what train_log.jsonl and metrics.jsonl are told.

A tracker may neither fail nor stop nor delay a run. Each works in a thread of its own, for which
the run waits a bounded time where it begins and ends, and never in between; at the first thing that
goes wrong it is left alone.
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
"""What a person is shown of a record, by the names of columns."""

SAMPLES = 8
"""Records of an evaluation that trackers are shown: the first ones."""
LONGEST_TEXT = 1_000
OPEN_SECONDS = 30.0
"""What a run waits for at its begin. (Imports of two threads at a time can fail in either.)"""
CLOSE_SECONDS = 15.0
TIDY_SECONDS = 2.0
"""What a tracker has to end in, once what it waited for is killed."""
MOST_WAITING = 10_000
"""Calls that a tracker may lag behind."""
WANDB_SERVICE = "wandb-core"
"""wandb's own process, which wandb waits for without bound as this one ends."""

Result = TypeVar("Result")


class Tracker(Protocol):
    """What is told of a run as it goes on; any method may raise."""

    def log_step(self, line: Mapping[str, Any]) -> None:
        """Take a line of train_log.jsonl."""

    def log_evaluation(
        self, step: int, metrics: Mapping[str, Any], samples: Sequence[Sample]
    ) -> None:
        """Take a line of metrics.jsonl, and some of the records it is about."""

    def close(self) -> None:
        """Let all that was told be kept, within a bounded time."""


@dataclass(frozen=True)
class Start:
    """What a tracker is opened with.

    Attributes:
        folder: the run's.
        config: the job, with every default filled in.
        step: after which the run begins or goes on.
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
    """Whether there is such a package; a mere folder of that name, as wandb leaves, is none."""
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None


def numbers_of(line: Mapping[str, Any], group: str) -> dict[str, float]:
    """The numbers of a line as `group/name`; of an interval, in a group of its own, its ends."""
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
    """A value as it is shown: of a text its first 1,000 characters."""
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return value[: LONGEST_TEXT - 1] + "…"
    return value


class Shielded:
    """A tracker in a thread of its own, left alone from the first thing on that goes wrong."""

    def __init__(self, name: str, make: Callable[[], Tracker]):
        self._name = name
        self._calls: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue(MOST_WAITING)
        self._opened = threading.Event()
        self._disabled = threading.Lock()  # taken by whoever notices first, and says so
        self._thread = threading.Thread(target=self._work, args=(make,), name=name, daemon=True)
        self._thread.start()

    def wait_until_open(self, seconds: float) -> None:
        self._opened.wait(seconds)

    def call(self, call: Callable[[Tracker], None] | None) -> None:
        """Let the tracker take a call in its time; None ends it."""
        if self._disabled.locked():
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._disable(f"it is {MOST_WAITING:,} calls behind")

    def wait_for_end(self, seconds: float) -> None:
        """Wait until all is kept; what hangs for longer is given up."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._disable(f"it did not end within {CLOSE_SECONDS:g} seconds")
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
            log.warning("%s is told nothing from here on, and the run goes on: %s",
                        self._name, " ".join(reason.split()))  # fmt: skip


class Trackers:
    """All trackers of a run, as one that never fails."""

    def __init__(self, trackers: Sequence[Shielded] = ()):
        self._trackers = trackers

    def __bool__(self) -> bool:
        return bool(self._trackers)

    def log_step(self, line: Mapping[str, Any]) -> None:
        self._tell(lambda tracker: tracker.log_step(line))

    def log_evaluation(
        self, step: int, metrics: Mapping[str, Any], samples: Sequence[Sample]
    ) -> None:
        shown = [{name: cut(value) for name, value in sample.items()} for sample in samples]
        self._tell(lambda tracker: tracker.log_evaluation(step, metrics, shown))

    def close(self) -> None:
        self._tell(None)
        ends = time.monotonic() + CLOSE_SECONDS
        for tracker in self._trackers:
            tracker.wait_for_end(max(0.0, ends - time.monotonic()))

    def _tell(self, call: Callable[[Tracker], None] | None) -> None:
        for tracker in self._trackers:
            tracker.call(call)


NO_TRACKERS = Trackers()


@contextmanager
def tracking(names: Sequence[str], start: Start) -> Iterator[Trackers]:
    """The trackers of these names, closed at the end whatever happens."""
    trackers = []
    for name in names:
        trackers.append(Shielded(name, partial(OPENED_BY[name], start)))
        trackers[-1].wait_until_open(OPEN_SECONDS)
    followed = Trackers(trackers)
    try:
        yield followed
    finally:
        followed.close()
