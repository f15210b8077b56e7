"""The clusters that a job can be handed to, each by the same five verbs."""

import dataclasses
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, Protocol

from workflow.cluster.containers import Runtime, find_runtime, problems_of_sight, what_is_here
from workflow.cluster.job_record import LOG, Record
from workflow.cluster.job_state import State
from workflow.cluster.kubernetes import client as kubectl
from workflow.cluster.kubernetes import manifest as kubernetes
from workflow.cluster.local import background as detached
from workflow.cluster.resources import Cluster, Submission
from workflow.cluster.slurm import client as slurm_queue
from workflow.cluster.slurm import script as slurm
from workflow.core.errors import BadInput, Problem


class Scheduler(Protocol):
    """What starts a job, knows how it is doing, and ends it."""

    def render(
        self, submission: Submission, cluster: Cluster, folder: Path, reads: Sequence[Path]
    ) -> tuple[str, list[Problem]]:
        """The job as a text; empty, with what speaks against it, where it cannot be one.

        Args:
            folder: where the log goes.
            reads: the files and folders that the job reads, where they are seen from here.
        """

    def problems_of_text(self, text: str) -> list[Problem]:
        """What the cluster itself says against it."""

    def queue(self, text: str, submission: Submission, cluster: Cluster, folder: Path) -> Record:
        """Hand the job over; raises BadInput where the cluster does not take it."""

    def state(self, record: Record) -> State:
        """How the job is doing; never raises."""

    def cancel(self, record: Record) -> None:
        """End the job, which saves as far as its cluster gives it the time; may raise BadInput."""

    def show_log(self, record: Record, folder: Path, follow: bool) -> NoReturn:
        """Become the program that shows what the job says; may raise BadInput."""


class Slurm:
    def render(
        self, submission: Submission, cluster: Cluster, folder: Path, reads: Sequence[Path]
    ) -> tuple[str, list[Problem]]:
        problems = slurm.problems(cluster)
        runtime: Runtime | None = None
        if cluster.container is not None:
            problems += problems_of_sight(reads, submission, cluster)
            found = find_runtime(cluster.container, *what_is_here())
            if isinstance(found, Problem):
                problems.append(found)
            else:
                runtime = found
        if problems:
            return "", problems
        return slurm.script(submission, cluster, folder, runtime), []

    def problems_of_text(self, text: str) -> list[Problem]:
        return slurm_queue.problems_of_script(text)

    def queue(self, text: str, submission: Submission, cluster: Cluster, folder: Path) -> Record:
        return Record(submission.run_name, "slurm", slurm_queue.queue(text))

    def state(self, record: Record) -> State:
        return slurm_queue.state(record.identity)

    def cancel(self, record: Record) -> None:
        slurm_queue.cancel(record.identity)

    def show_log(self, record: Record, folder: Path, follow: bool) -> NoReturn:
        _show_file(folder / LOG, follow)


class Kubernetes:
    def render(
        self, submission: Submission, cluster: Cluster, folder: Path, reads: Sequence[Path]
    ) -> tuple[str, list[Problem]]:
        problems = kubernetes.problems(submission, cluster)
        only_mount = dataclasses.replace(
            submission, project=submission.mount, folder=submission.mount
        )
        own = dataclasses.replace(cluster, shared_host_dir=None)
        problems += problems_of_sight(reads, only_mount, own)
        return ("" if problems else kubernetes.manifest(submission, cluster)), problems

    def problems_of_text(self, text: str) -> list[Problem]:
        return []  # kubectl cannot try a manifest without a cluster's leave to make it

    def queue(self, text: str, submission: Submission, cluster: Cluster, folder: Path) -> Record:
        namespace = (cluster.kubernetes or {}).get("namespace")
        name = kubernetes.job_name(submission, cluster)
        if kubectl.state(name, namespace).word in ("done", "failed"):
            kubectl.cancel(name, namespace, wait=True)  # an ended job takes no change
        kubectl.apply(text, namespace)
        return Record(submission.run_name, "kubernetes", name, namespace=namespace)

    def state(self, record: Record) -> State:
        try:
            return kubectl.state(record.identity, record.namespace)
        except BadInput as error:
            return State("unknown", error.problems[0].found)

    def cancel(self, record: Record) -> None:
        kubectl.cancel(record.identity, record.namespace)

    def show_log(self, record: Record, folder: Path, follow: bool) -> NoReturn:
        kubectl.pod_logs(record.identity, record.namespace, follow)


class ThisMachine:
    def render(
        self, submission: Submission, cluster: Cluster, folder: Path, reads: Sequence[Path]
    ) -> tuple[str, list[Problem]]:
        problems = detached.problems(cluster)
        return ("" if problems else detached.script(submission, cluster)), problems

    def problems_of_text(self, text: str) -> list[Problem]:
        return []

    def queue(self, text: str, submission: Submission, cluster: Cluster, folder: Path) -> Record:
        pid, started = detached.start(text, folder / LOG)
        return Record(submission.run_name, "local", str(pid), started=started)

    def state(self, record: Record) -> State:
        if record.host != socket.gethostname():
            return State("unknown", f"only {record.host} can tell")
        return detached.state(int(record.identity), record.started)

    def cancel(self, record: Record) -> None:
        if record.host != socket.gethostname():
            found, expected = f"a job of {record.host}", "one of this machine"
            mend = "cancel it there, or write a file `stop` into the run's folder"
            raise BadInput([Problem(f"cancel {record.run_name}", found, expected, mend)])
        detached.cancel(int(record.identity), record.started)

    def show_log(self, record: Record, folder: Path, follow: bool) -> NoReturn:
        _show_file(folder / LOG, follow)


SCHEDULERS: dict[str, Scheduler] = {
    "slurm": Slurm(), "kubernetes": Kubernetes(), "local": ThisMachine()
}  # fmt: skip


def state_of(record: Record) -> State:
    scheduler = SCHEDULERS.get(record.cluster)
    return scheduler.state(record) if scheduler else State("unknown", "an unknown cluster")


def _show_file(log: Path, follow: bool) -> NoReturn:
    """`tail` follows a file as long as anybody wants, across restarts, which add to it."""
    if not log.exists() and not follow:
        mend = "wait until the job has begun, or follow it with -f"
        raise BadInput([Problem(str(log), "no log yet", "a job that has begun", mend)])
    following = ["--follow=name", "--retry"] if follow else []
    os.execvp("tail", ["tail", "--lines=+1", *following, str(log)])
