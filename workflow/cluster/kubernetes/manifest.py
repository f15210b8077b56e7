"""A job as a Kubernetes Indexed Job, which needs no operator.

Each node of the job is a pod that runs torchrun. If a pod is lost, all pods of the job end and the
Job controller recreates them: the run resumes from its newest checkpoint.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import yaml

from workflow.cluster.kubernetes.pod_script import JOB_LABEL, PORT, pod_script
from workflow.cluster.kubernetes.settings import Settings, read_settings
from workflow.cluster.resources import Cluster, Submission, parts_of_mount, problems_of
from workflow.core.errors import Problem, shorten
from workflow.runs.mount import CONTAINER_MOUNT

CONTAINER = "workflow"
LONGEST_NAME = 52  # of 63 characters; the rest is for a pod's -INDEX-xxxxx

_HINTS = {
    "time": "remove it; pods have no time limit, and the run resumes after an eviction",
    "dependency": "remove it, and submit this job when the other is done",
    "slurm": "remove it, and use --kubernetes for Kubernetes settings",
    "high_priority": "remove it, and set --kubernetes priority_class=NAME",
}


def problems(submission: Submission) -> list[Problem]:
    """Return what prevents this job from running on Kubernetes."""
    cluster, envs = submission.cluster, submission.cluster.envs or {}
    settings, problems_of_settings = read_settings(cluster.kubernetes or {})
    found = problems_of(cluster, "kubernetes", _HINTS)
    if cluster.container is None or cluster.container.startswith(("pyxis:", "apptainer:")):
        image = "not set" if cluster.container is None else shorten(cluster.container)
        hint = "set --container REGISTRY/IMAGE:TAG"
        found.append(Problem("--container", image, "an image that the nodes can pull", hint))
    found += problems_of_settings
    if "WORKFLOW_MOUNT" in envs:
        where, expected = "--envs WORKFLOW_MOUNT", f"the mount at {CONTAINER_MOUNT}"
        found.append(Problem(where, "reserved in pods", expected, "remove it"))
    by_name = [name for name, value in envs.items() if value is None]
    if by_name and not settings.secret:
        where, expected = f"--envs {' '.join(by_name)}", "a Secret with these keys"
        hint = "add --kubernetes secret=NAME"
        found.append(Problem(where, "names without values", expected, hint))
    flag = "--overwrite_output_dir"
    if any(word.split("=")[0] == flag for word in submission.arguments):
        # a recreated pod cannot see that it replaces another, whose output it would remove
        hint = f"remove the flag, and delete {submission.run} or choose another --training_run_name"
        fact = "would delete the run at each restart of its pods"
        found.append(Problem(flag, fact, "a run that resumes", hint))
    return found


def job_name(submission: Submission) -> str:
    """Return the name of the Job and its Service, different for each run.

    A Service's name must start with a letter.
    """
    mine = submission.run_name
    wanted = submission.cluster.name or mine
    plain = re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", wanted) and len(wanted) <= LONGEST_NAME
    if wanted == mine and plain:
        return wanted
    label = re.sub(r"[^a-z0-9]+", "-", wanted.lower()).strip("-")
    label = label if label[:1].isalpha() else f"run-{label}"
    marked = mine if wanted == mine else f"{mine} {wanted}"  # two runs may have the same --name
    mark = hashlib.sha256(marked.encode()).hexdigest()[:8]
    return f"{label[: LONGEST_NAME - len('-') - len(mark)].rstrip('-')}-{mark}"


def manifest(submission: Submission) -> str:
    """Return a headless Service and an Indexed Job as YAML; requires no `problems`."""
    settings, _ = read_settings(submission.cluster.kubernetes or {})
    name = job_name(submission)
    metadata, marks = metadata_of(submission, settings)
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,  # rendezvous precedes readiness
            "selector": {JOB_LABEL: name},
            "ports": [{"name": "rendezvous", "port": PORT}],
        },
    }
    of_job = {"restartPolicy": "Never", "subdomain": name}  # of the Service: pod 0's address
    pod = of_job | pod_of(submission, settings, pod_script(submission, settings.project, name))
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": queued(metadata, settings),
        "spec": given({"suspend": True if settings.queue else None})  # until the queue admits it
        | _policy(submission.cluster)
        | {"template": {"metadata": marks, "spec": pod}},
    }
    return as_yaml([service, job])


def metadata_of(
    submission: Submission, settings: Settings, **more: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the metadata of objects, and of their pods; `more` are labels."""
    labels = settings.labels | {"app.kubernetes.io/name": "workflow"} | more
    annotations = settings.annotations | {"workflow/run": submission.run_name}
    marks = {"labels": labels, "annotations": annotations}
    named = given({"name": job_name(submission), "namespace": settings.namespace})
    return named | marks, marks


def queued(metadata: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the metadata of an object that Kueue admits, if a queue is set."""
    queue = given({"kueue.x-k8s.io/queue-name": settings.queue})
    return metadata | {"labels": metadata["labels"] | queue}


def as_yaml(objects: Sequence[dict[str, Any]]) -> str:
    text: str = yaml.dump_all(
        objects, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000
    )
    return text


def _policy(cluster: Cluster) -> dict[str, Any]:
    """Return the number of pods and the policies for their success and failure."""
    bad_input = {"containerName": CONTAINER, "operator": "In", "values": [2]}
    rules = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": bad_input},
    ]
    policy = {
        "completions": cluster.num_nodes,
        "parallelism": cluster.num_nodes,
        "completionMode": "Indexed",
        # all pods of a job fail together, and each counts
        "backoffLimit": cluster.max_restarts * cluster.num_nodes,
        "podFailurePolicy": {"rules": rules},
    }
    if cluster.num_nodes > 1:
        # a pod lost after pod 0 succeeded would be recreated and wait for it forever
        policy["successPolicy"] = {"rules": [{"succeededIndexes": "0"}]}
    return policy


def pod_of(submission: Submission, settings: Settings, script: str) -> dict[str, Any]:
    """Return what pods of jobs and servers have in common."""
    cluster = submission.cluster
    volumes, mounts = _volumes(cluster, settings)
    gpu_type = given({"nvidia.com/gpu.product": cluster.gpu_type})
    pull_secret = given({"name": settings.image_pull_secret})
    user = given({"runAsUser": settings.run_as_user, "fsGroup": settings.run_as_user})
    if user:  # else each start changes the group of every file in the mount
        user["fsGroupChangePolicy"] = "OnRootMismatch"
    container = {
        "name": CONTAINER,
        "image": (cluster.container or "").removeprefix("docker:").removeprefix("//"),
        "command": ["/bin/bash", "-c", _escape(script)],
        "env": _env(submission, settings),
        "resources": _resources(cluster, settings),
        "volumeMounts": mounts,
    }
    pod = {
        "terminationGracePeriodSeconds": submission.margin,
        "priorityClassName": settings.priority_class,
        "serviceAccountName": settings.service_account,
        "imagePullSecrets": [pull_secret] if pull_secret else None,
        "securityContext": user,
        "nodeSelector": gpu_type | settings.node_selector,
        "tolerations": settings.tolerations,
        "containers": [given(container)],
        "volumes": volumes,
    }
    return given(pod)


def _env(submission: Submission, settings: Settings) -> list[dict[str, Any]]:
    """Return the environment; variables without a value refer to the Secret."""
    values: dict[str, Any] = {"HF_HUB_OFFLINE": "1", "WORKFLOW_MOUNT": str(CONTAINER_MOUNT)}
    if submission.threads is not None:
        values["OMP_NUM_THREADS"] = submission.threads
    env: list[dict[str, Any]] = []
    for name, value in (values | (submission.cluster.envs or {})).items():
        if value is None:
            reference = {"name": settings.secret, "key": name}
            env.append({"name": name, "valueFrom": {"secretKeyRef": reference}})
        else:
            env.append({"name": name, "value": _escape(str(value))})
    return env


def _resources(cluster: Cluster, settings: Settings) -> dict[str, Any]:
    amounts = given(
        {
            settings.gpu_resource: cluster.gpus_per_node or None,
            "cpu": cluster.cpus_per_task,
            "memory": None if cluster.memory is None else _mebibytes(cluster.memory),
        }
    )
    return {"requests": amounts, "limits": amounts} if amounts else {}


def _volumes(
    cluster: Cluster, settings: Settings
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the pod's volumes and the container's volume mounts."""
    if settings.pvc:
        source: dict[str, Any] = {"persistentVolumeClaim": {"claimName": settings.pvc}}
    else:
        source = _folder_of_node(settings.host_path)
    memory = {"medium": "Memory", "sizeLimit": _mebibytes(settings.shm)}
    volumes = [{"name": "mount"} | source, {"name": "shm", "emptyDir": memory}]
    mounts = [
        {"name": "mount", "mountPath": str(CONTAINER_MOUNT)}
        | given({"subPath": settings.pvc_path}),
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    for number, mount in enumerate(cluster.mounts):
        folder, target = parts_of_mount(mount)
        volumes.append({"name": f"folder-{number}"} | _folder_of_node(folder))
        mounts.append({"name": f"folder-{number}", "mountPath": target})
    return volumes, mounts


def _folder_of_node(path: str) -> dict[str, Any]:
    return {"hostPath": {"path": path, "type": "Directory"}}  # fails without it


def given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, "", {}, [])}


def _mebibytes(size: float) -> str:
    return f"{max(1, int(size / 1024**2))}Mi"


def _escape(text: str) -> str:
    """Escape $(NAME) and $$, which Kubernetes would expand."""
    return re.sub(r"\$(?=[$(])", "$$", text)


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes readable YAML that parses alike under YAML 1.1 and 1.2."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_text(self, text: str) -> Any:
        """Write scripts as blocks, and quote what a parser may read as a number, e.g. 1e3."""
        style = "|" if "\n" in text else None if re.match(r"[A-Za-z/].", text) else "'"
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)
