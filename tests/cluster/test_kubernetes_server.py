"""A server on Kubernetes: its manifest, its pod's script, and what kubectl is asked."""

import dataclasses
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from test_kubectl import asked, fake  # noqa: F401 (a fixture)
from test_kubernetes import GOLDEN, NEWEST, SHELLCHECK, expand, wait_for
from test_served import SERVER

from workflow.cluster.job_record import JobRecord
from workflow.cluster.kubernetes.client import Kubernetes, read_server
from workflow.cluster.kubernetes.deployment import deployment
from workflow.cluster.kubernetes.manifest import problems
from workflow.cluster.resources import Cluster
from workflow.cluster.scheduler import JobState
from workflow.cluster.served import Server

CLUSTER = Cluster(
    gpus_per_node=1, cpus_per_task=8, memory=64e9, container="registry.example/workflow:2",
    envs={"SERVED_KEY": None}, setup=("ulimit -n 65536",),
    kubernetes={"pvc": "shared", "secret": "keys", "namespace": "nlp", "run_as_user": "1000",
                "labels": '{"team": "nlp"}', "queue": "gpus"},
)  # fmt: skip
PLAIN = Cluster(container="registry.example/workflow:2", kubernetes={"host_path": "/srv/mount"})
SERVERS = {name: dataclasses.replace(SERVER, cluster=cluster, port=9000)
           for name, cluster in (("large", CLUSTER), ("small", PLAIN))}  # fmt: skip


def documents(server: Server) -> tuple[dict[str, Any], dict[str, Any]]:
    service, deployed = yaml.safe_load_all(deployment(server))
    return service, deployed


def test_the_golden_manifest() -> None:
    server = SERVERS["large"]
    assert problems(server) == []
    assert deployment(server) == (GOLDEN / "kubernetes_server.yaml").read_text()


@pytest.mark.parametrize("version", ["1.31", NEWEST])
@pytest.mark.parametrize("size", SERVERS)
def test_the_schema_accepts_it(size: str, version: str) -> None:
    for document in documents(SERVERS[size]):
        kubernetes_validate.validate(document, version, strict=True)


def test_names_fit_each_other() -> None:
    service, deployed = documents(SERVERS["large"])
    template = deployed["spec"]["template"]
    for selector in (service["spec"]["selector"], deployed["spec"]["selector"]["matchLabels"]):
        assert selector.items() <= template["metadata"]["labels"].items()
    (container,) = template["spec"]["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": 9000}]
    assert service["spec"]["ports"] == [{"name": "http", "port": 80, "targetPort": "http"}]
    assert template["spec"]["terminationGracePeriodSeconds"] > 60  # of --grace


def test_only_a_server_with_a_gpu_ends_before_the_next_starts() -> None:
    found = {size: documents(server)[1]["spec"].get("strategy") for size, server in SERVERS.items()}
    assert found == {"large": {"type": "Recreate"}, "small": None}


def script_of(server: Server) -> str:
    command = documents(server)[1]["spec"]["template"]["spec"]["containers"][0]["command"]
    return expand(command[2])


def test_shellcheck_finds_nothing() -> None:
    checked = subprocess.run(
        [SHELLCHECK, "--shell=bash", "-"], input=script_of(SERVERS["large"]),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (checked.stdout, checked.returncode) == ("", 0)


def test_sigterm_is_forwarded_and_the_server_waited_for(tmp_path: Path) -> None:
    """With a shell script as python3, which ends a moment after the signal."""
    python = tmp_path / "python3"
    python.write_text(
        f"#!/bin/bash\ntrap 'sleep 0.3; touch {tmp_path}/ended; exit 7' TERM\n"
        f"printf '%s\\n' \"$@\" >{tmp_path}/words\nwhile :; do sleep 0.05; done\n"
    )
    python.chmod(0o755)
    settings = (PLAIN.kubernetes or {}) | {"project": str(tmp_path)}
    cluster = dataclasses.replace(PLAIN, kubernetes=settings)
    server = dataclasses.replace(SERVER, cluster=cluster)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with subprocess.Popen(["/bin/bash", "-c", script_of(server)], env=environment) as process:
        wait_for((tmp_path / "words").exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 7
    assert (tmp_path / "ended").exists()
    words = (tmp_path / "words").read_text().splitlines()
    assert words == ["-m", "workflow", "serve", *SERVER.arguments]


def deployed(**status: Any) -> str:
    return json.dumps({"kind": "Deployment", "status": status})


def pods(*states: dict[str, Any], restarts: int = 0, **status: Any) -> str:
    """The list of one pod with these states of its container."""
    containers = [{"state": state, "restartCount": restarts} for state in states]
    pod = {
        "metadata": {"creationTimestamp": "2026-11-22T13:40:00Z"}, "spec": {"nodeName": "a"},
        "status": {"phase": "Running", "containerStatuses": containers} | status,
    }  # fmt: skip
    return json.dumps({"items": [pod]})


RUNS: dict[str, Any] = {"running": {"startedAt": "2026-11-22T13:40:01Z"}}
CRASHED = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
NO_QUOTA = {
    "type": "ReplicaFailure",
    "status": "True",
    "reason": "FailedCreate",
    "message": "quota",
}


@pytest.mark.parametrize(
    ("shown", "of_pods", "state"),
    [
        ("", '{"items": []}', JobState("gone", "server not found in the cluster")),
        (deployed(), '{"items": []}', JobState("pending", "pod not created yet")),
        (deployed(conditions=[NO_QUOTA]), '{"items": []}',
         JobState("pending", "FailedCreate: quota")),
        (deployed(), pods(RUNS), JobState("pending", "loading", ("a",))),
        (deployed(), pods(CRASHED, restarts=3),
         JobState("pending", "CrashLoopBackOff: back-off 10s", ("a",), 3)),
        (deployed(readyReplicas=1), pods(RUNS, restarts=1), JobState("running", "", ("a",), 1)),
    ],
)  # fmt: skip
def test_the_state_of_a_server(shown: str, of_pods: str, state: JobState) -> None:
    assert read_server(shown, of_pods) == state


RECORD = JobRecord("serve-a", "kubernetes", "serve-a", namespace="nlp", serves=True)


def test_what_kubectl_is_asked(
    fake: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path(f"{fake}.deployment").write_text(deployed(readyReplicas=1))
    Path(f"{fake}.pods").write_text(pods(RUNS))
    assert Kubernetes().state(RECORD).word == "running"
    Kubernetes().cancel(RECORD)
    executed: list[Any] = []
    monkeypatch.setattr(os, "execvp", lambda *command: executed.append(command))
    Kubernetes().show_log(RECORD, Path(), follow=True)
    last = "--namespace=nlp --request-timeout=30s"
    assert asked(fake) == [
        f"get deployment serve-a --ignore-not-found -o json {last}",
        f"get pods -l app.kubernetes.io/instance=serve-a -o json {last}",
        f"delete deployment,service serve-a --ignore-not-found --wait=false {last}",
    ]
    words = ["kubectl", "logs", "deployment/serve-a", "--follow", "--namespace=nlp"]
    assert executed == [("kubectl", words)]


def test_a_server_is_applied_and_recorded(fake: Path) -> None:  # noqa: F811
    record = Kubernetes().queue("kind: Deployment\n", SERVERS["large"])
    assert (record.identity, record.serves) == ("serve-a-run-checkpoint-7", True)
    assert asked(fake) == ["apply -f - --namespace=nlp --request-timeout=30s"]
