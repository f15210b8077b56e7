"""What every cluster is asked about jobs, and what it answers."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from workflow.cluster.job_record import LOG, JobRecord
from workflow.cluster.resources import Submission
from workflow.core.errors import BadInput, Problem


class NotAsked(Problem):
    """What a cluster would have to rule out, which cannot be asked from here."""


@dataclass(frozen=True)
class JobState:
    """A job as its cluster sees it.

    Attributes:
        word: pending, running, done, failed, cancelled; gone where the cluster knows no such job
            (any more); unknown where it cannot be asked.
        reason: why, in the cluster's own words.
        nodes: the machines it runs on, as the cluster writes them.
        restarts: how often the cluster has started it again.
    """

    word: str
    reason: str = ""
    nodes: tuple[str, ...] = ()
    restarts: int = 0

    @property
    def may_live(self) -> bool:
        """Whether the job waits or runs, as far as one knows."""
        return self.word in ("pending", "running", "unknown")


class Scheduler(ABC):
    """What starts a job, knows how it is doing, and ends it."""

    @abstractmethod
    def render(self, submission: Submission, reads: Sequence[Path]) -> tuple[str, list[Problem]]:
        """The job as a text; empty, with what speaks against it, where it cannot be one.

        Args:
            reads: the files and folders that the job reads, where they are seen from here.
        """

    def problems_of_text(self, text: str) -> list[Problem]:
        """What the cluster itself says against it, where it can be asked without queueing it."""
        return []

    @abstractmethod
    def queue(self, text: str, submission: Submission) -> JobRecord:
        """Hand the job over; raises BadInput where the cluster does not take it."""

    @abstractmethod
    def state(self, record: JobRecord) -> JobState:
        """How the job is doing; never raises."""

    @abstractmethod
    def cancel(self, record: JobRecord) -> None:
        """End the job, which saves as far as its cluster gives it the time; may raise BadInput."""

    def show_log(self, record: JobRecord, folder: Path, follow: bool) -> NoReturn:
        """Become the program that shows what the job says; may raise BadInput.

        `tail` follows a file as long as anybody wants, across restarts, which add to it.
        """
        log = folder / LOG
        if not log.exists() and not follow:
            hint = "wait until the job has begun, or follow it with -f"
            raise BadInput([Problem(str(log), "no log yet", "a job that has begun", hint)])
        following = ["--follow=name", "--retry"] if follow else []
        os.execvp("tail", ["tail", "--lines=+1", *following, str(log)])
