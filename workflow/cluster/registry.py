"""The schedulers that jobs can be submitted to."""

from workflow.cluster.job_record import JobRecord
from workflow.cluster.kubernetes.client import Kubernetes
from workflow.cluster.local.background import Background
from workflow.cluster.scheduler import JobState, Scheduler
from workflow.cluster.slurm.client import Slurm

SCHEDULERS: dict[str, Scheduler] = {
    "slurm": Slurm(),
    "kubernetes": Kubernetes(),
    "local": Background(),
}


def state_of(record: JobRecord) -> JobState:
    scheduler = SCHEDULERS.get(record.cluster)
    return scheduler.state(record) if scheduler else JobState("unknown", "unknown scheduler")
