"""Jobs of Kubernetes handed over, asked about and ended, by its command line."""

import dataclasses
import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from workflow.cluster.containers import problems_of_sight
from workflow.cluster.job_record import JobRecord
from workflow.cluster.resources import Submission
from workflow.cluster.scheduler import JobState, NotAsked, Scheduler
from workflow.core.errors import BadInput, Problem

INDEX = "batch.kubernetes.io/job-completion-index"
LINES_SHOWN = 3
_OUT_OF_REACH = re.compile(
    r"unable to connect|connection to the server|current server api group list|no such host|"
    r"i/o timeout|no configuration has been provided|context .*(not set|does not exist)",
    re.IGNORECASE,
)
"""What kubectl says where no cluster answers it."""
_ENDS = {
    "Complete": "done",
    "SuccessCriteriaMet": "done",  # while the last pods end
    "Failed": "failed",
    "FailureTarget": "failed",  # likewise
    "Suspended": "pending",
}


JOB_LABEL = "batch.kubernetes.io/job-name"  # of the pods, set by the Job controller


class Kubernetes(Scheduler):
    """No manifest is tried beforehand: kubectl cannot without a cluster's leave to make it."""

    def render(self, submission: Submission, reads: Sequence[Path]) -> tuple[str, list[Problem]]:
        from workflow.cluster.kubernetes.manifest import manifest, problems  # slow: pydantic

        own = dataclasses.replace(submission.cluster, shared_host_dir=None)
        root = submission.mount.root
        only_mount = dataclasses.replace(submission, project=root, folder=root, cluster=own)
        found = [*problems(submission), *problems_of_sight(reads, only_mount)]
        return ("" if found else manifest(submission)), found

    def queue(self, text: str, submission: Submission) -> JobRecord:
        from workflow.cluster.kubernetes.manifest import job_name

        namespace = (submission.cluster.kubernetes or {}).get("namespace")
        name = job_name(submission)
        record = JobRecord(submission.run_name, "kubernetes", name, namespace=namespace)
        if self.state(record).word in ("done", "failed"):
            _end(record, wait=True)  # an ended job takes no change
        kubectl(["apply", "-f", "-"], namespace, text)
        return record

    def state(self, record: JobRecord) -> JobState:
        command = ["get", "job", record.identity, "--ignore-not-found", "-o", "json"]
        try:
            return read_state(kubectl(command, record.namespace), _pods(record))
        except BadInput as error:
            return JobState("unknown", error.problems[0].found)

    def cancel(self, record: JobRecord) -> None:
        _end(record, wait=False)

    def show_log(self, record: JobRecord, folder: Path, follow: bool) -> NoReturn:
        """Become `kubectl logs` of the newest pod 0, which speaks for all."""
        pods = newest_pods(_pods(record))
        if 0 not in pods:
            hint = "wait until it has started; pods that have ended are kept as long as their job"
            raise BadInput([Problem(f"job {record.identity}", "no pod", "its pod 0", hint)])
        command = ["logs", pods[0]["metadata"]["name"], *(["--follow"] if follow else [])]
        os.execvp("kubectl", ["kubectl", *command, *_in(record.namespace)])


def _end(record: JobRecord, wait: bool) -> None:
    """End a job and forget it; its pods have their time to save, for which this need not `wait`."""
    waits = f"--wait={str(wait).lower()}"
    command = ["delete", "job,service", record.identity, "--ignore-not-found", waits]
    kubectl(command, record.namespace)


def _pods(record: JobRecord) -> str:
    command = ["get", "pods", "-l", f"{JOB_LABEL}={record.identity}", "-o", "json"]
    return kubectl(command, record.namespace)


def _in(namespace: str | None) -> list[str]:
    return [] if namespace is None else [f"--namespace={namespace}"]


def kubectl(command: list[str], namespace: str | None, given: str | None = None) -> str:
    """What kubectl prints; raises BadInput where it is missing, reaches nobody or is refused."""
    try:
        done = subprocess.run(
            ["kubectl", *command, *_in(namespace), "--request-timeout=30s"],
            input=given, capture_output=True, text=True, check=False,
        )  # fmt: skip
    except OSError as error:
        hint = "install it, and let `kubectl get jobs` work here"
        found = error.strerror or str(error)
        raise BadInput([Problem("kubectl", found, "Kubernetes' command line", hint)]) from error
    if done.returncode == 0:
        return done.stdout
    lines = done.stderr.strip().splitlines()
    if _OUT_OF_REACH.search(done.stderr):
        found = f"no cluster within reach ({lines[-1]})"
        hint = "see whether `kubectl get jobs` works here; without --apply the manifest is printed"
        raise BadInput([NotAsked("kubectl", found, "a cluster that answers", hint)])
    found = f"exit status {done.returncode} ({'; '.join(lines[:LINES_SHOWN]) or 'no word'})"
    hint = f"mend that, and see whether `kubectl {command[0]}` works here by itself"
    raise BadInput([Problem(f"kubectl {command[0]}", found, "a cluster that does it", hint)])


def read_state(job: str, pods: str) -> JobState:
    """Where a job stands.

    Args:
        job: the Job as JSON; empty where there is none.
        pods: the list of its pods as JSON.
    """
    if not job.strip():
        return JobState("gone", "the cluster has no such job")
    parsed = json.loads(job)
    newest = newest_pods(pods)
    of_all = [newest.get(index) for index in range(parsed["spec"]["completions"])]
    word, reason = _word(parsed["status"], of_all)
    nodes = [pod["spec"].get("nodeName") for pod in of_all if pod is not None]
    failed = parsed["status"].get("failed", 0)
    return JobState(
        word,
        reason,
        nodes=tuple(dict.fromkeys(node for node in nodes if node is not None)),
        restarts=-(-failed // len(of_all)),  # the pods of a group fail together
    )


def _word(status: dict[str, Any], pods: list[dict[str, Any] | None]) -> tuple[str, str]:
    conditions = {one["type"]: one for one in status.get("conditions", []) if _holds(one)}
    for name, word in _ENDS.items():
        if name in conditions:
            return word, _told(conditions[name])
    for index, pod in enumerate(pods):
        if pod is None:
            return "pending", f"pod {index} is not made yet"
        if pod["status"].get("phase") not in ("Running", "Succeeded"):
            return "pending", f"pod {index}: {_why(pod['status'])}"
    return "running", ""


def _holds(condition: dict[str, Any]) -> bool:
    return bool(condition["status"] == "True")


def _why(status: dict[str, Any]) -> str:
    """Why a pod does not run."""
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and not _holds(condition):
            return _told(condition)
    for container in status.get("containerStatuses", []):
        for what in ("waiting", "terminated"):
            if told := container.get("state", {}).get(what):
                code = told.get("exitCode")
                return _told(told) + (f", exit status {code}" if code is not None else "")
    return _told(status) or str(status.get("phase"))


def _told(said: dict[str, Any]) -> str:
    """What Kubernetes says of something: a word, and where it has one, a sentence."""
    return ": ".join(said[part] for part in ("reason", "message") if said.get(part))


def newest_pods(pods: str) -> dict[int, dict[str, Any]]:
    """The last pod of each index; those before it have failed."""
    items = sorted(json.loads(pods)["items"], key=lambda pod: pod["metadata"]["creationTimestamp"])
    return {int(pod["metadata"]["annotations"][INDEX]): pod for pod in items}
