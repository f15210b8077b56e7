"""Submit, query and cancel Kubernetes Jobs with kubectl."""

import dataclasses
import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from workflow.cluster.containers import problems_of_paths
from workflow.cluster.job_record import JobRecord
from workflow.cluster.kubernetes.pod_script import JOB_LABEL, SERVER_LABEL
from workflow.cluster.resources import Submission
from workflow.cluster.scheduler import JobState, NotChecked, Scheduler
from workflow.cluster.served import Server
from workflow.core.errors import BadInput, Problem

INDEX = "batch.kubernetes.io/job-completion-index"
LINES_SHOWN = 3
_UNREACHABLE = re.compile(
    r"unable to connect|connection to the server|current server api group list|no such host|"
    r"i/o timeout|no configuration has been provided|context .*(not set|does not exist)",
    re.IGNORECASE,
)
"""Errors of kubectl if no cluster answers."""
_WORDS = {
    "Complete": "done",
    "SuccessCriteriaMet": "done",  # while the last pods terminate
    "Failed": "failed",
    "FailureTarget": "failed",  # likewise
    "Suspended": "pending",
}
"""Our states by the Job's conditions."""


class Kubernetes(Scheduler):
    """Never validates a manifest: a server-side dry run needs the permission to create jobs."""

    def render(self, submission: Submission, reads: Sequence[Path]) -> tuple[str, list[Problem]]:
        from workflow.cluster.kubernetes.deployment import deployment  # slow: pydantic
        from workflow.cluster.kubernetes.manifest import manifest, problems

        own = dataclasses.replace(submission.cluster, shared_host_dir=None)
        root = submission.mount.root
        only_mount = dataclasses.replace(submission, project=root, folder=root, cluster=own)
        found = [*problems(submission), *problems_of_paths(reads, only_mount)]
        if found:
            return "", found
        if isinstance(submission, Server):
            return deployment(submission), []
        return manifest(submission), []

    def queue(self, text: str, submission: Submission) -> JobRecord:
        from workflow.cluster.kubernetes.manifest import job_name

        namespace = (submission.cluster.kubernetes or {}).get("namespace")
        name = job_name(submission)
        serves = isinstance(submission, Server)
        record = JobRecord(
            submission.run_name, "kubernetes", name, namespace=namespace, serves=serves
        )
        if not serves and self.state(record).word in ("done", "failed"):
            _delete(record, wait=True)  # a finished job cannot be changed
        kubectl(["apply", "-f", "-"], namespace, text)
        return record

    def state(self, record: JobRecord) -> JobState:
        kind, read = ("deployment", read_server) if record.serves else ("job", read_state)
        command = ["get", kind, record.identity, "--ignore-not-found", "-o", "json"]
        try:
            return read(kubectl(command, record.namespace), _pods(record))
        except BadInput as error:
            return JobState("unknown", error.problems[0].found)

    def cancel(self, record: JobRecord) -> None:
        _delete(record, wait=False)

    def show_log(self, record: JobRecord, folder: Path, follow: bool) -> NoReturn:
        """Replace this process by `kubectl logs` of a server, or of the newest pod 0 of a job."""
        if record.serves:
            shown = f"deployment/{record.identity}"
        elif pod := newest_pods(_pods(record)).get(0):
            shown = pod["metadata"]["name"]
        else:
            hint = "wait until the job starts; finished pods are kept as long as their job"
            raise BadInput([Problem(f"job {record.identity}", "has no pod 0", "a pod", hint)])
        command = ["logs", shown, *(["--follow"] if follow else [])]
        os.execvp("kubectl", ["kubectl", *command, *_in(record.namespace)])


def _delete(record: JobRecord, wait: bool) -> None:
    """Delete a job and its service; its pods save in their grace period, with or without `wait`."""
    waits = f"--wait={str(wait).lower()}"
    kinds = "deployment,service" if record.serves else "job,service"
    command = ["delete", kinds, record.identity, "--ignore-not-found", waits]
    kubectl(command, record.namespace)


def _pods(record: JobRecord) -> str:
    label = SERVER_LABEL if record.serves else JOB_LABEL
    command = ["get", "pods", "-l", f"{label}={record.identity}", "-o", "json"]
    return kubectl(command, record.namespace)


def _in(namespace: str | None) -> list[str]:
    return [] if namespace is None else [f"--namespace={namespace}"]


def kubectl(command: list[str], namespace: str | None, given: str | None = None) -> str:
    """Return kubectl's output; raises BadInput if it is missing, unreachable or fails."""
    try:
        done = subprocess.run(
            ["kubectl", *command, *_in(namespace), "--request-timeout=30s"],
            input=given, capture_output=True, text=True, check=False,
        )  # fmt: skip
    except OSError as error:
        hint = "install it, and configure it so that `kubectl get jobs` works"
        found = error.strerror or str(error)
        raise BadInput([Problem("kubectl", found, "an executable command", hint)]) from error
    if done.returncode == 0:
        return done.stdout
    lines = done.stderr.strip().splitlines()
    if _UNREACHABLE.search(done.stderr):
        found = f"cannot reach a cluster: {lines[-1]}"
        hint = "make `kubectl get jobs` work here, or remove --apply to print the manifest"
        raise BadInput([NotChecked("kubectl", found, "a reachable cluster", hint)])
    reason = "; ".join(lines[:LINES_SHOWN]) or "no error message"
    found = f"exit status {done.returncode}: {reason}"
    hint = "fix the error, then rerun the command"
    raise BadInput([Problem(f"kubectl {command[0]}", found, "exit status 0", hint)])


def read_state(job: str, pods: str) -> JobState:
    """Parse a job's state.

    Args:
        job: the Job as JSON; empty if it does not exist.
        pods: the list of its pods as JSON.
    """
    if not job.strip():
        return JobState("gone", "job not found in the cluster")
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


def read_server(deployment: str, pods: str) -> JobState:
    """Parse a server's state from its Deployment and the list of its pods, as JSON."""
    if not deployment.strip():
        return JobState("gone", "server not found in the cluster")
    status = json.loads(deployment).get("status", {})
    items = json.loads(pods)["items"]
    if not items:
        missing = [c for c in status.get("conditions", []) if c["type"] == "ReplicaFailure"]
        return JobState("pending", _reason(missing[0]) if missing else "pod not created yet")
    newest = max(items, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    node, ready = newest["spec"].get("nodeName"), status.get("readyReplicas")
    of_pod = newest["status"]
    return JobState(
        "running" if ready else "pending",
        "" if ready else "loading" if _runs(of_pod) else _why(of_pod),
        nodes=() if node is None else (node,),
        restarts=sum(one.get("restartCount", 0) for one in of_pod.get("containerStatuses", [])),
    )


def _runs(status: dict[str, Any]) -> bool:
    """Return whether a pod's container runs."""
    states = [one.get("state", {}) for one in status.get("containerStatuses", [])]
    return any("running" in state for state in states)


def _word(status: dict[str, Any], pods: list[dict[str, Any] | None]) -> tuple[str, str]:
    conditions = {c["type"]: c for c in status.get("conditions", []) if _holds(c)}
    for name, word in _WORDS.items():
        if name in conditions:
            return word, _reason(conditions[name])
    for index, pod in enumerate(pods):
        if pod is None:
            return "pending", f"pod {index} not created yet"
        if pod["status"].get("phase") not in ("Running", "Succeeded"):
            return "pending", f"pod {index}: {_why(pod['status'])}"
    return "running", ""


def _holds(condition: dict[str, Any]) -> bool:
    return bool(condition["status"] == "True")


def _why(status: dict[str, Any]) -> str:
    """Return why a pod does not run."""
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and not _holds(condition):
            return _reason(condition)
    for container in status.get("containerStatuses", []):
        for name in ("waiting", "terminated"):
            if state := container.get("state", {}).get(name):
                code = state.get("exitCode")
                return _reason(state) + (f", exit status {code}" if code is not None else "")
    return _reason(status) or str(status.get("phase"))


def _reason(status: dict[str, Any]) -> str:
    """Join Kubernetes' reason and message, if any."""
    return ": ".join(status[part] for part in ("reason", "message") if status.get(part))


def newest_pods(pods: str) -> dict[int, dict[str, Any]]:
    """Return the newest pod of each index; earlier ones have failed."""
    items = sorted(json.loads(pods)["items"], key=lambda pod: pod["metadata"]["creationTimestamp"])
    return {int(pod["metadata"]["annotations"][INDEX]): pod for pod in items}
