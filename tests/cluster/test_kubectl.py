"""Commands sent to kubectl and the parsing of its output, with a shell script in its place."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from workflow.cluster.job_record import JobRecord
from workflow.cluster.kubernetes.client import Kubernetes, kubectl, newest_pods, read_state
from workflow.cluster.scheduler import JobState, NotChecked
from workflow.core.errors import BadInput

NO_PODS = json.dumps({"apiVersion": "v1", "kind": "List", "items": []})


def record(namespace: str | None = None) -> JobRecord:
    return JobRecord("sums", "kubernetes", "sums", namespace=namespace)


def condition(kind: str, reason: str = "", message: str = "", status: str = "True") -> Any:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def job(*conditions: Any, completions: int = 2, **status: Any) -> str:
    """A Job as the API returns it, with the fields that are read and some others."""
    return json.dumps(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "sums", "namespace": "nlp"},
            "spec": {"completions": completions, "parallelism": completions},
            "status": {"conditions": list(conditions), "uncountedTerminatedPods": {}} | status,
        }
    )


def pod(
    index: int, phase: str, second: int = 0, node: str | None = None, **status: Any
) -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"sums-{index}-{second:05}",
            "creationTimestamp": f"2026-11-22T13:40:{second:02}Z",
            "annotations": {"batch.kubernetes.io/job-completion-index": str(index)},
        },
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": phase} | status,
    }


def pods(*items: dict[str, Any]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(items)})


def container(**state: Any) -> list[dict[str, Any]]:
    return [{"name": "workflow", "state": state}]


BOTH_RUN = pods(pod(1, "Running", 1, "b"), pod(0, "Running", 0, "a"))
UNSCHEDULED = condition("PodScheduled", "Unschedulable", "0/4 nodes have it", "False")


@pytest.mark.parametrize(
    ("job", "pods", "state"),
    [
        ("", NO_PODS, JobState("gone", "job not found in the cluster")),
        (job(), NO_PODS, JobState("pending", "pod 0 not created yet")),
        (
            job(condition("Suspended", "JobSuspended", "Job suspended")),
            NO_PODS,
            JobState("pending", "JobSuspended: Job suspended"),
        ),
        (
            job(condition("Suspended", "JobResumed", "Job resumed", "False")),
            BOTH_RUN,
            JobState("running", "", ("a", "b")),
        ),
        (
            job(),
            pods(pod(0, "Running", 0, "a"), pod(1, "Pending", conditions=[UNSCHEDULED])),
            JobState("pending", "pod 1: Unschedulable: 0/4 nodes have it", ("a",)),
        ),
        (
            job(completions=1),
            pods(
                pod(
                    0,
                    "Pending",
                    0,
                    "a",
                    conditions=[condition("PodScheduled")],
                    containerStatuses=container(
                        waiting={"reason": "ImagePullBackOff", "message": "Back-off pulling x"}
                    ),
                )
            ),
            JobState("pending", "pod 0: ImagePullBackOff: Back-off pulling x", ("a",)),
        ),
        (job(completions=1), pods(pod(0, "Pending")), JobState("pending", "pod 0: Pending")),
        (
            job(failed=1, completions=1),
            pods(
                pod(
                    0,
                    "Failed",
                    0,
                    "a",
                    containerStatuses=container(terminated={"reason": "Error", "exitCode": 75}),
                )
            ),
            JobState("pending", "pod 0: Error, exit status 75", ("a",), 1),
        ),
        (
            job(failed=1, completions=1),
            pods(pod(0, "Failed", 0, "a", reason="Evicted", message="The node was low on disk")),
            JobState("pending", "pod 0: Evicted: The node was low on disk", ("a",), 1),
        ),
        (
            job(failed=3),
            pods(
                pod(0, "Running", 40, "c"),
                pod(1, "Running", 41, "b"),
                pod(0, "Failed", 0, "a"),
                pod(1, "Failed", 1, "b"),
                pod(0, "Failed", 20, "a"),
            ),
            JobState("running", "", ("c", "b"), 2),
        ),
        (
            job(succeeded=1),
            pods(pod(0, "Succeeded", 0, "a"), pod(1, "Running", 0, "a")),
            JobState("running", "", ("a",)),
        ),
        (
            job(condition("SuccessCriteriaMet", "SuccessPolicy", "Matched rules at index 0")),
            BOTH_RUN,
            JobState("done", "SuccessPolicy: Matched rules at index 0", ("a", "b")),
        ),
        (
            job(
                condition("SuccessCriteriaMet", "SuccessPolicy", "Matched rules at index 0"),
                condition("Complete", "SuccessPolicy", "Matched rules at index 0"),
            ),
            NO_PODS,
            JobState("done", "SuccessPolicy: Matched rules at index 0"),
        ),
        (
            job(
                condition("FailureTarget", "PodFailurePolicy", "exit code 2 matching FailJob rule"),
                failed=2,
            ),
            BOTH_RUN,
            JobState(
                "failed", "PodFailurePolicy: exit code 2 matching FailJob rule", ("a", "b"), 1
            ),
        ),
        (
            job(
                condition("FailureTarget", "BackoffLimitExceeded", "Job has reached its limit"),
                condition("Failed", "BackoffLimitExceeded", "Job has reached its limit"),
                failed=42,
            ),
            NO_PODS,
            JobState("failed", "BackoffLimitExceeded: Job has reached its limit", (), 21),
        ),
    ],
)
def test_the_state_of_a_job(job: str, pods: str, state: JobState) -> None:
    assert read_state(job, pods) == state


def test_a_fresh_job_has_no_status_yet() -> None:
    assert read_state('{"spec": {"completions": 1}, "status": {}}', NO_PODS).word == "pending"


def test_the_newest_pod_of_each_index() -> None:
    names = newest_pods(pods(pod(1, "Failed", 3), pod(1, "Running", 12), pod(0, "Failed", 4)))
    assert {index: pod["metadata"]["name"] for index, pod in names.items()} == {
        0: "sums-0-00004",
        1: "sums-1-00012",
    }


FAKE = """#!/bin/bash
printf '%s\\n' "$*" >> "$0.asked"
if [[ $1 == apply ]]; then cat > "$0.given"; fi
for word in "$@"; do if [[ -f $0.$word ]]; then cat "$0.$word"; exit; fi; done
if [[ -f $0.refusal ]]; then cat "$0.refusal" >&2; exit 1; fi
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kubectl that prints the file kubectl.WORD, or fails with the text of kubectl.refusal."""
    path = tmp_path / "kubectl"
    path.write_text(FAKE)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return path


def asked(fake: Path) -> list[str]:
    return Path(f"{fake}.asked").read_text().splitlines()


def test_a_manifest_is_applied(fake: Path) -> None:
    kubectl(["apply", "-f", "-"], "nlp", "kind: Job\n")
    assert asked(fake) == ["apply -f - --namespace=nlp --request-timeout=30s"]
    assert Path(f"{fake}.given").read_text() == "kind: Job\n"


def test_cancelling_deletes_the_job_and_its_service(fake: Path) -> None:
    Kubernetes().cancel(record())
    deletion = "delete job,service sums --ignore-not-found --wait=false --request-timeout=30s"
    assert asked(fake) == [deletion]


def test_state_asks_for_the_job_and_its_pods(fake: Path) -> None:
    Path(f"{fake}.job").write_text(job())
    Path(f"{fake}.pods").write_text(BOTH_RUN)
    assert Kubernetes().state(record("nlp")) == JobState("running", "", ("a", "b"))
    assert asked(fake) == [
        "get job sums --ignore-not-found -o json --namespace=nlp --request-timeout=30s",
        "get pods -l batch.kubernetes.io/job-name=sums -o json --namespace=nlp"
        " --request-timeout=30s",
    ]


@pytest.mark.parametrize(
    ("follow", "namespace", "more"),
    [(False, None, []), (True, "nlp", ["--follow", "--namespace=nlp"])],
)
def test_logs_are_those_of_the_newest_pod_0(
    fake: Path,
    monkeypatch: pytest.MonkeyPatch,
    follow: bool,
    namespace: str | None,
    more: list[str],
) -> None:
    items = pods(pod(0, "Failed", 1), pod(0, "Running", 2), pod(1, "Running", 3))
    Path(f"{fake}.pods").write_text(items)
    executed: list[Any] = []
    monkeypatch.setattr(os, "execvp", lambda *command: executed.append(command))
    Kubernetes().show_log(record(namespace), Path(), follow)
    assert executed == [("kubectl", ["kubectl", "logs", "sums-0-00002", *more])]


def test_logs_of_a_job_without_pods(fake: Path) -> None:
    Path(f"{fake}.pods").write_text(NO_PODS)
    with pytest.raises(BadInput) as raised:
        Kubernetes().show_log(record(), Path(), follow=True)
    assert str(raised.value) == (
        "job sums: has no pod 0 (expected a pod). Hint: wait until the job starts; finished pods"
        " are kept as long as their job."
    )


def test_a_refusal_is_reported_by_its_first_lines(fake: Path) -> None:
    refusal = "\n".join(f"line {number}" for number in range(1, 9))
    Path(f"{fake}.refusal").write_text(refusal)
    with pytest.raises(BadInput) as raised:
        kubectl(["apply", "-f", "-"], None)
    assert str(raised.value) == (
        "kubectl apply: exit status 1: line 1; line 2; line 3 (expected exit status 0). Hint:"
        " fix the error, then rerun the command."
    )


@pytest.mark.parametrize(
    "last",
    [
        "The connection to the server localhost:8080 was refused - did you specify the right host "
        "or port?",
        "Unable to connect to the server: dial tcp: lookup api.lab: no such host",
        "error: current-context is not set",
    ],
)
def test_an_unreachable_cluster_is_not_a_refusal(fake: Path, last: str) -> None:
    Path(f"{fake}.refusal").write_text(f"E1129 10:37:31.7 memcache.go:265] tried\n{last}\n")
    with pytest.raises(BadInput) as raised:
        kubectl(["apply", "-f", "-"], None)
    assert str(raised.value) == (
        f"kubectl: cannot reach a cluster: {last} (expected a reachable cluster). Hint: make "
        "`kubectl get jobs` work here, or remove --apply to print the manifest."
    )
    assert isinstance(raised.value.problems[0], NotChecked)


def test_missing_kubectl_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput) as raised:
        Kubernetes().cancel(record())
    assert str(raised.value) == (
        "kubectl: No such file or directory (expected an executable command). Hint: install it,"
        " and configure it so that `kubectl get jobs` works."
    )
