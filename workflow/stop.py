"""Being asked to stop: by a signal, or by a file named `stop` in the run's folder."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from workflow.errors import Stopped, WorkflowError

if TYPE_CHECKING:  # slow, and signals are to be handled from the start
    from workflow.lock import RunLock
    from workflow.world import World

STOP_FILE = "stop"
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
LOOK_SECONDS = 1.0
"""Between looks at the file and at what other processes call out."""


class Stop:
    """Whether the job is asked to stop; one for each process.

    While `expected`, a signal is only noted, for the run asks at every step and every batch; before
    and after, it ends the process at once. So does a second SIGINT at any time.
    """

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._heard: str | None = None
        self._expected = False
        self._file: Path | None = None
        self._world: World | None = None
        self._lock: RunLock | None = None
        self._looked = 0.0

    def listen(self) -> None:
        """Handle the signals, but for those that are ignored, as SIGHUP under nohup."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        again = number == signal.SIGINT == self._signal
        self._signal = self._signal or signal.Signals(number)
        if again or not self._expected:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            sys.exit(Stopped.exit_status)

    @contextmanager
    def expected(self, run: Path, world: "World", lock: "RunLock") -> Iterator[None]:
        """The run looks at signals, at the stop file in its folder, and at other processes."""
        self._file, self._world, self._lock = run / STOP_FILE, world, lock
        self._expected = True
        try:
            yield
        finally:
            self._expected = False

    def requested(self) -> str | None:
        """Who asks this process to stop; once somebody has, for good."""
        if self._heard is None and self._signal is not None:
            self._heard = self._signal.name
            if self._world is not None:
                self._world.call_out()
        if self._heard is None and time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            if self._file is not None and self._file.exists():
                self._heard = f"the file {self._file}"
            elif self._world is not None and self._world.called_out():
                self._heard = "another process"
        return self._heard

    def check(self) -> None:
        """Raise on all processes what ends the run; all must call this.

        Raises:
            Stopped: where any is asked to stop.
            RunFailed: where the run is not ours any more.
        """
        error: WorkflowError | None = self._lock.loss if self._lock else None
        if error is None and (who := self.requested()):
            error = Stopped(who)
        found = self._world.agree(error) if self._world is not None else error
        if found is not None:
            raise found
