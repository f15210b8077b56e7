"""The clusters that a job can be handed to."""

from workflow.cluster.job_record import Record
from workflow.cluster.kubernetes.client import Kubernetes
from workflow.cluster.local.background import Background
from workflow.cluster.scheduler import Scheduler, State
from workflow.cluster.slurm.client import Slurm

SCHEDULERS: dict[str, Scheduler] = {
    "slurm": Slurm(),
    "kubernetes": Kubernetes(),
    "local": Background(),
}


def state_of(record: Record) -> State:
    scheduler = SCHEDULERS.get(record.cluster)
    return scheduler.state(record) if scheduler else State("unknown", "an unknown cluster")
