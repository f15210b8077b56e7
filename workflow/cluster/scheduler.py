"""The interface of all schedulers, and the job states they report."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from workflow.cluster.job_record import LOG, JobRecord
from workflow.cluster.resources import Submission
from workflow.core.errors import BadInput, Problem


class NotChecked(Problem):
    """A possible problem that cannot be ruled out here, e.g. with the scheduler unreachable."""


@dataclass(frozen=True)
class JobState:
    """A job's state as its scheduler reports it.

    Attributes:
        word: pending, running, done, failed or cancelled; gone if the scheduler does not know the
            job (any more); unknown if the scheduler is unreachable.
        reason: the scheduler's own reason.
        nodes: the nodes it runs on, in the scheduler's notation.
        restarts: number of restarts by the scheduler.
    """

    word: str
    reason: str = ""
    nodes: tuple[str, ...] = ()
    restarts: int = 0

    @property
    def may_live(self) -> bool:
        """Whether the job is, or may be, pending or running."""
        return self.word in ("pending", "running", "unknown")


class Scheduler(ABC):
    """Submits, queries and cancels jobs."""

    @abstractmethod
    def render(self, submission: Submission, reads: Sequence[Path]) -> tuple[str, list[Problem]]:
        """Return the job's script or manifest (empty if it cannot be rendered) and its problems.

        Args:
            reads: the files and folders that the job reads, if visible here.
        """

    def problems_of_text(self, text: str) -> list[Problem]:
        """Let the scheduler validate the text without queueing it, if it can."""
        return []

    @abstractmethod
    def queue(self, text: str, submission: Submission) -> JobRecord:
        """Submit the job; raises BadInput if the scheduler rejects it."""

    @abstractmethod
    def state(self, record: JobRecord) -> JobState:
        """Query the job's state; never raises."""

    @abstractmethod
    def cancel(self, record: JobRecord) -> None:
        """Cancel the job, which saves if its grace period allows; may raise BadInput."""

    def show_log(self, record: JobRecord, folder: Path, follow: bool) -> NoReturn:
        """Replace this process by one that prints the job's log; may raise BadInput.

        `tail` also follows the file across restarts, which append to it.
        """
        log = folder / LOG
        if not log.exists() and not follow:
            hint = "wait until the job starts, or add -f"
            raise BadInput([Problem(str(log), "does not exist yet", "a started job", hint)])
        following = ["--follow=name", "--retry"] if follow else []
        os.execvp("tail", ["tail", "--lines=+1", *following, str(log)])
