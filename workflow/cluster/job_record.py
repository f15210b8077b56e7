"""Submitted jobs: each run has a folder in mount/models/.jobs with record, script and log."""

import dataclasses
import json
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from workflow.core.files import write_json
from workflow.runs.mount import Mount

RECORD, LOG, TEXT = "job.json", "log", "submitted"


@dataclass(frozen=True)
class JobRecord:
    """A submitted job.

    Attributes:
        run_name: its folder in mount/models.
        cluster: slurm, kubernetes or local.
        identity: the Slurm job ID, the name of the Kubernetes Job, or the pid of a local job.
        host: the submitting host; a local job runs there.
        submitted: seconds since 1970.
        started: start time of a local job's process, as `lock.start_of` returns it.
        namespace: of the Kubernetes Job.
        serves: whether it is a server, which has no run.
    """

    run_name: str
    cluster: str
    identity: str
    host: str = dataclasses.field(default_factory=socket.gethostname)
    submitted: float = dataclasses.field(default_factory=time.time)
    started: float = 0.0
    namespace: str | None = None
    serves: bool = False

    @property
    def title(self) -> str:
        """The job's name in messages."""
        if self.cluster == "local":
            return f"pid {self.identity} on {self.host}"
        return f"{self.cluster} job {self.identity}"


def folder_of(mount: Mount, run_name: str) -> Path:
    return mount.jobs / run_name


def write_record(folder: Path, record: JobRecord) -> None:
    write_json(folder / RECORD, dataclasses.asdict(record))


def read_record(folder: Path) -> JobRecord | None:
    """Read the run's last submission; None if there is none or the record is unreadable."""
    try:
        return JobRecord(**json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def read_records(mount: Mount) -> dict[str, JobRecord]:
    """Read the last submission of every run, by run name."""
    paths = [*mount.jobs.glob(f"*/{RECORD}"), *mount.jobs.glob(f"*/*/{RECORD}")]
    found = [read_record(path.parent) for path in paths]
    return {record.run_name: record for record in found if record is not None}
