"""What a cluster says of a job."""

from dataclasses import dataclass

from workflow.core.errors import BadInput


class OutOfReach(BadInput):
    """A cluster that cannot be asked from here; whatever it would say of a job is not known."""


@dataclass(frozen=True)
class State:
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
