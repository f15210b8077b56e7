"""Requests to stop: by a signal, or by a file named `stop` in the run's folder."""

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from workflow.core.errors import Stopped, WorkflowError

if TYPE_CHECKING:  # a slow import, and signals must be handled from the start
    from workflow.distributed.world import World

STOP_FILE = "stop"
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
LOOK_SECONDS = 1.0
"""Interval between checks of the file and of other processes' requests."""


class Held(Protocol):
    """The part of the run's lock that matters for stopping."""

    @property
    def loss(self) -> WorkflowError | None:
        """Why the folder is no longer ours; None while it is."""


class Stop:
    """Requests to stop the job; each process has one instance.

    Before a run, a signal ends the process at once. After `defer` it is only recorded, and the run
    checks at every step and batch. Launchers send some signals twice. A second SIGINT always ends
    the process.
    """

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._reason: str | None = None
        self._interrupts = 0
        self._deferred = False
        self._file: Path | None = None
        self._world: World | None = None
        self._lock: Held | None = None
        self._looked = 0.0

    def listen(self) -> None:
        """Handle the signals, except those that are ignored, e.g. SIGHUP under nohup."""
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
            again = "; Ctrl-C again aborts" * (number == signal.SIGINT)
            message = f"{name}: finishing this step, then saving{again}\n"
            with suppress(OSError):
                os.write(sys.stderr.fileno(), message.encode())

    def defer(self, run: Path, world: "World", lock: Held) -> None:
        """From now on, only record requests: signals, the stop file, and other processes'."""
        self._file = run / STOP_FILE if world.is_rank_zero else None  # rank 0 informs the others
        self._world, self._lock = world, lock
        self._deferred = True

    def requested(self) -> str | None:
        """Who requested the stop, or None; a request is permanent and sent to all processes."""
        if self._reason is None:
            self._reason = self._look()
        return self._reason

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
            self._world.send_request(found)
        return found or self._world.received_request()

    def check(self, failure: OSError | None = None) -> None:
        """Raise on all processes what ends the run; all must call this.

        Args:
            failure: the error of this process, if any.

        Raises:
            Stopped: if any process was asked to stop.
            RunFailed: if another job has taken the run over.
            OSError: the failure of any process.
        """
        loss = self._lock.loss if self._lock else None
        error: WorkflowError | OSError | None = failure or loss
        if error is None and (who := self.requested()):
            error = Stopped(who)
        found = self._world.agree(error) if self._world is not None else error
        if found is not None:
            raise found
