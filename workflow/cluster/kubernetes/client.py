"""Jobs of Kubernetes handed over, asked about and ended, by its command line."""

import json
import os
import re
import subprocess
from typing import Any, NoReturn

from workflow.cluster.job_state import OutOfReach, State
from workflow.cluster.kubernetes.manifest import JOB_LABEL
from workflow.core.errors import BadInput, Problem

INDEX = "batch.kubernetes.io/job-completion-index"
LINES_SHOWN = 3
_OUT_OF_REACH = re.compile(
    r"unable to connect|connection to the server|current server api group list|no such host|"
    r"i/o timeout|no configuration has been provided|context .*(not set|does not exist)",
    re.IGNORECASE,
)
"""What kubectl says where no cluster answers it."""
_PATIENCE = "--request-timeout=30s"


def apply(text: str, namespace: str | None) -> None:
    """Make what the YAML says; raises BadInput where the cluster does not take it."""
    _kubectl(["apply", "-f", "-"], namespace, text)


def cancel(name: str, namespace: str | None, wait: bool = False) -> None:
    """End a job and forget it; its pods have their time to save, for which this need not `wait`."""
    waits = f"--wait={str(wait).lower()}"
    command = ["delete", "job,service", name, "--ignore-not-found", waits]
    _kubectl(command, namespace)


def state(name: str, namespace: str | None) -> State:
    job = _kubectl(["get", "job", name, "--ignore-not-found", "-o", "json"], namespace)
    return read_state(job, _pods(name, namespace))


def pod_logs(name: str, namespace: str | None, follow: bool) -> NoReturn:
    """Become `kubectl logs` of the newest pod 0, which speaks for all; BadInput without one."""
    pods = newest_pods(_pods(name, namespace))
    if 0 not in pods:
        mend = "wait until it has started; pods that have ended are kept as long as their job"
        raise BadInput([Problem(f"job {name}", "no pod", "its pod 0", mend)])
    command = ["logs", pods[0]["metadata"]["name"], *(["--follow"] if follow else [])]
    os.execvp("kubectl", ["kubectl", *command, *_in(namespace)])


def _pods(name: str, namespace: str | None) -> str:
    return _kubectl(["get", "pods", "-l", f"{JOB_LABEL}={name}", "-o", "json"], namespace)


def _in(namespace: str | None) -> list[str]:
    return [] if namespace is None else [f"--namespace={namespace}"]


def _kubectl(command: list[str], namespace: str | None, given: str | None = None) -> str:
    """What kubectl prints; raises BadInput where it is missing, reaches nobody or is refused."""
    try:
        done = subprocess.run(
            ["kubectl", *command, *_in(namespace), _PATIENCE],
            input=given, capture_output=True, text=True, check=False,
        )  # fmt: skip
    except OSError as error:
        mend = "install it, and let `kubectl get jobs` work here"
        found = error.strerror or str(error)
        raise BadInput([Problem("kubectl", found, "Kubernetes' command line", mend)]) from error
    if _OUT_OF_REACH.search(done.stderr) and done.returncode:
        found = f"no cluster within reach ({done.stderr.strip().splitlines()[-1]})"
        mend = "see whether `kubectl get jobs` works here; without --apply the manifest is printed"
        raise OutOfReach([Problem("kubectl", found, "a cluster that answers", mend)])
    if done.returncode:
        told = "; ".join(done.stderr.strip().splitlines()[:LINES_SHOWN]) or "no word"
        found = f"exit status {done.returncode} ({told})"
        mend = f"mend that, and see whether `kubectl {command[0]}` works here by itself"
        raise BadInput([Problem(f"kubectl {command[0]}", found, "a cluster that does it", mend)])
    return done.stdout


def read_state(job: str, pods: str) -> State:
    """Where a job stands.

    Args:
        job: the Job as JSON; empty where there is none.
        pods: the list of its pods as JSON.
    """
    if not job.strip():
        return State("gone", "the cluster has no such job")
    parsed = json.loads(job)
    newest = newest_pods(pods)
    of_all = [newest.get(index) for index in range(parsed["spec"]["completions"])]
    word, reason = _word(parsed["status"], of_all)
    nodes = [pod["spec"].get("nodeName") for pod in of_all if pod is not None]
    failed = parsed["status"].get("failed", 0)
    return State(
        word,
        reason,
        nodes=tuple(dict.fromkeys(node for node in nodes if node is not None)),
        restarts=-(-failed // len(of_all)),  # the pods of a group fail together
    )


def _word(status: dict[str, Any], pods: list[dict[str, Any] | None]) -> tuple[str, str]:
    conditions = _true_conditions(status)
    # the second of each pair comes first, while the last pods end
    for names, word in [
        (("Complete", "SuccessCriteriaMet"), "done"),
        (("Failed", "FailureTarget"), "failed"),
        (("Suspended",), "pending"),
    ]:
        for name in names:
            if name in conditions:
                return word, _told(conditions[name])
    for index, pod in enumerate(pods):
        if pod is None:
            return "pending", f"pod {index} is not made yet"
        if pod["status"].get("phase") not in ("Running", "Succeeded"):
            return "pending", f"pod {index}: {_why(pod['status'])}"
    return "running", ""


def _true_conditions(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    conditions = status.get("conditions", [])
    return {condition["type"]: condition for condition in conditions if _holds(condition)}


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
    items = sorted(json.loads(pods)["items"], key=_created)
    return {int(pod["metadata"]["annotations"][INDEX]): pod for pod in items}


def _created(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["creationTimestamp"])
