"""Being asked to stop: by a signal, or by a file named `stop` in the run's folder."""

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from workflow.core.errors import Stopped, WorkflowError

if TYPE_CHECKING:  # slow, and signals are to be handled from the start
    from workflow.distributed.world import World

STOP_FILE = "stop"
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
LOOK_SECONDS = 1.0
"""Between looks at the file and at what other processes call out."""


class Held(Protocol):
    """A lock of the run's folder, as far as stopping asks for it."""

    @property
    def loss(self) -> WorkflowError | None:
        """Why the folder is not ours any more; None while it is."""


class Stop:
    """Whether the job is asked to stop; one for each process.

    Before a run a signal ends the process at once. From `defer` on it is only noted: the run asks
    at every step and batch, and launchers send some twice. A second SIGINT ends it at any time.
    """

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._heard: str | None = None
        self._interrupts = 0
        self._deferred = False
        self._file: Path | None = None
        self._world: World | None = None
        self._lock: Held | None = None
        self._looked = 0.0

    def listen(self) -> None:
        """Handle the signals, but for those that are ignored, as SIGHUP under nohup."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        is_first = self._signal is None
        self._signal = self._signal or signal.Signals(number)
        self._interrupts += number == signal.SIGINT
        if number == signal.SIGINT and (self._interrupts > 1 or not self._deferred):
            raise KeyboardInterrupt
        if not self._deferred:
            sys.exit(Stopped.exit_status)
        if is_first and self._world is not None and self._world.is_rank_zero:
            name = signal.Signals(number).name
            message = f"{name}: the run ends its step and saves (a second Ctrl-C ends it)\n"
            with suppress(OSError):
                os.write(sys.stderr.fileno(), message.encode())

    def defer(self, run: Path, world: "World", lock: Held) -> None:
        """From now on the run looks at signals, its folder's stop file, and other processes."""
        self._file = run / STOP_FILE if world.is_rank_zero else None  # which tells the others
        self._world, self._lock = world, lock
        self._deferred = True

    def requested(self) -> str | None:
        """Who asks the job to stop; once somebody has, for good. Other processes hear of it."""
        if self._heard is None:
            self._heard = self._look()
        return self._heard

    def _look(self) -> str | None:
        found = self._signal.name if self._signal else None
        if found is None:
            if time.monotonic() - self._looked < LOOK_SECONDS:
                return None
            self._looked = time.monotonic()
            if self._file is not None and self._file.exists():
                found = f"the file {self._file}"
        if self._world is None:
            return found
        if found is not None:
            self._world.call_out(found)
        return found or self._world.called_out()

    def check(self, failure: OSError | None = None) -> None:
        """Raise on all processes what ends the run; all must call this.

        Args:
            failure: what this process failed of.

        Raises:
            Stopped: where any is asked to stop.
            RunFailed: where the run is not ours any more.
            OSError: the failure of any.
        """
        loss = self._lock.loss if self._lock else None
        error: WorkflowError | OSError | None = failure or loss
        if error is None and (who := self.requested()):
            error = Stopped(who)
        found = self._world.agree(error) if self._world is not None else error
        if found is not None:
            raise found
