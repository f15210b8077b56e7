"""A job as an Indexed Job of Kubernetes, which every cluster has: no operator is needed.

Each node of the job is a pod with torchrun in it. Where a pod is lost its group ends, and the Job
makes the pods again: the run goes on from its newest checkpoint.
"""

import hashlib
import re
from typing import Any

import yaml

from workflow.cluster.kubernetes.client import JOB_LABEL
from workflow.cluster.kubernetes.pod_script import PORT, pod_script
from workflow.cluster.kubernetes.settings import Settings, read_settings
from workflow.cluster.resources import Cluster, Submission, parts_of_mount, problems_of
from workflow.core.errors import Problem, shorten
from workflow.runs.mount import CONTAINER_MOUNT

CONTAINER = "workflow"
LONGEST_NAME = 52  # of 63 letters; the rest is for a pod's -INDEX-xxxxx

_MENDS = {
    "time": "leave it out: a pod runs until it ends or is evicted, and then goes on",
    "dependency": "leave it out, and submit this job when that one is done",
    "slurm": "leave it out; Kubernetes' own settings are words of --kubernetes",
    "high_priority": "leave it out; name a class instead: --kubernetes priority_class=NAME",
}


def problems(submission: Submission) -> list[Problem]:
    """What keeps this job from being one of Kubernetes."""
    cluster, envs = submission.cluster, submission.cluster.envs or {}
    settings, problems_of_settings = read_settings(cluster.kubernetes or {})
    found = problems_of(cluster, "kubernetes", _MENDS)
    if cluster.container is None or cluster.container.startswith(("pyxis:", "apptainer:")):
        image = "none" if cluster.container is None else shorten(cluster.container)
        hint = "write --container REGISTRY/IMAGE:TAG"
        found.append(Problem("--container", image, "an image that the nodes can fetch", hint))
    found += problems_of_settings
    if "WORKFLOW_MOUNT" in envs:
        expected = f"none: pods have the mount at {CONTAINER_MOUNT}"
        found.append(Problem("--envs WORKFLOW_MOUNT", "a variable", expected, "leave it out"))
    by_name = [name for name, value in envs.items() if value is None]
    if by_name and not settings.secret:
        expected = "a Secret of the cluster that holds what they are"
        hint = "add --kubernetes secret=NAME, whose keys are the variables' names"
        found.append(Problem(f"--envs {' '.join(by_name)}", "names alone", expected, hint))
    flag = "--overwrite_output_dir"
    if any(word.split("=")[0] == flag for word in submission.arguments):
        # a pod does not know that it was made again, and would remove what the one before wrote
        hint = f"leave it out, and remove {submission.run} or choose another --training_run_name"
        begins = "a flag by which a pod that is made again would remove the run"
        found.append(Problem(flag, begins, "a run that goes on", hint))
    return found


def job_name(submission: Submission) -> str:
    """The name of the Job and of its Service; two runs never share one.

    A Service's begins with a letter.
    """
    mine = submission.run_name
    wanted = submission.cluster.name or mine
    plain = re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", wanted) and len(wanted) <= LONGEST_NAME
    if wanted == mine and plain:
        return wanted
    label = re.sub(r"[^a-z0-9]+", "-", wanted.lower()).strip("-")
    label = label if label[:1].isalpha() else f"run-{label}"
    marked = mine if wanted == mine else f"{mine} {wanted}"  # two runs may be given one name
    mark = hashlib.sha256(marked.encode()).hexdigest()[:8]
    return f"{label[: LONGEST_NAME - len('-') - len(mark)].rstrip('-')}-{mark}"


def manifest(submission: Submission) -> str:
    """A headless Service and an Indexed Job, as YAML, where there are no `problems`."""
    settings, _ = read_settings(submission.cluster.kubernetes or {})
    name = job_name(submission)
    labels = settings.labels | {"app.kubernetes.io/name": "workflow"}
    annotations = settings.annotations | {"workflow/run": submission.run_name}
    marks = {"labels": labels, "annotations": annotations}
    metadata = _given({"name": name, "namespace": settings.namespace}) | marks
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,  # pods meet before any is ready
            "selector": {JOB_LABEL: name},
            "ports": [{"name": "rendezvous", "port": PORT}],
        },
    }
    queue = _given({"kueue.x-k8s.io/queue-name": settings.queue})
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata | {"labels": labels | queue},
        "spec": _given({"suspend": True if queue else None})  # until the queue lets it start
        | _policy(submission.cluster)
        | {"template": {"metadata": marks, "spec": _pod(submission, settings)}},
    }
    text: str = yaml.dump_all(
        [service, job], Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000
    )
    return text


def _policy(cluster: Cluster) -> dict[str, Any]:
    """How many pods there are, and what their ends mean."""
    bad_input = {"containerName": CONTAINER, "operator": "In", "values": [2]}
    rules = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": bad_input},
    ]
    policy = {
        "completions": cluster.num_nodes,
        "parallelism": cluster.num_nodes,
        "completionMode": "Indexed",
        # all pods of a group fail together, and each counts
        "backoffLimit": cluster.max_restarts * cluster.num_nodes,
        "podFailurePolicy": {"rules": rules},
    }
    if cluster.num_nodes > 1:
        # a pod that is lost after pod 0 has ended well would wait for it in vain
        policy["successPolicy"] = {"rules": [{"succeededIndexes": "0"}]}
    return policy


def _pod(submission: Submission, settings: Settings) -> dict[str, Any]:
    cluster, name = submission.cluster, job_name(submission)
    volumes, mounts = _volumes(cluster, settings)
    gpu_type = _given({"nvidia.com/gpu.product": cluster.gpu_type})
    pull_secret = _given({"name": settings.image_pull_secret})
    script = pod_script(submission, settings.project, name)
    user = _given({"runAsUser": settings.run_as_user, "fsGroup": settings.run_as_user})
    if user:  # else every file of the mount is given to the group, at each start
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
        "restartPolicy": "Never",
        "subdomain": name,  # the Service's, so that pod 0 has an address
        "terminationGracePeriodSeconds": submission.margin,
        "priorityClassName": settings.priority_class,
        "serviceAccountName": settings.service_account,
        "imagePullSecrets": [pull_secret] if pull_secret else None,
        "securityContext": user,
        "nodeSelector": gpu_type | settings.node_selector,
        "tolerations": settings.tolerations,
        "containers": [_given(container)],
        "volumes": volumes,
    }
    return _given(pod)


def _env(submission: Submission, settings: Settings) -> list[dict[str, Any]]:
    """The variables; those that go by name alone come from a Secret, and are never read here."""
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
    amounts = _given(
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
    """The pod's volumes, and where its container has them."""
    if settings.pvc:
        source: dict[str, Any] = {"persistentVolumeClaim": {"claimName": settings.pvc}}
    else:
        source = _folder_of_node(settings.host_path)
    memory = {"medium": "Memory", "sizeLimit": _mebibytes(settings.shm)}
    volumes = [{"name": "mount"} | source, {"name": "shm", "emptyDir": memory}]
    mounts = [
        {"name": "mount", "mountPath": str(CONTAINER_MOUNT)}
        | _given({"subPath": settings.pvc_path}),
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    for number, mount in enumerate(cluster.mounts):
        folder, target = parts_of_mount(mount)
        volumes.append({"name": f"folder-{number}"} | _folder_of_node(folder))
        mounts.append({"name": f"folder-{number}", "mountPath": target})
    return volumes, mounts


def _folder_of_node(path: str) -> dict[str, Any]:
    return {"hostPath": {"path": path, "type": "Directory"}}  # a node without it is told of


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, "", {}, [])}


def _mebibytes(size: float) -> str:
    return f"{max(1, int(size / 1024**2))}Mi"


def _escape(text: str) -> str:
    """Keep Kubernetes from putting variables in place of $(NAME), and $ in place of $$."""
    return re.sub(r"\$(?=[$(])", "$$", text)


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes YAML that people read, and that any version of YAML reads alike."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_text(self, text: str) -> Any:
        """Scripts as lines; in quotes what another parser may take for a number, as 1e3."""
        style = "|" if "\n" in text else None if re.match(r"[A-Za-z/].", text) else "'"
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)
