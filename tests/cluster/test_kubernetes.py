"""Manifests against golden files and the API's schema, and the behaviour of the pods' script.

The schema covers fields and types only; no API server has validated these manifests.
"""

import dataclasses
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from conftest import ROOT

from workflow.cluster.kubernetes import manifest as kubernetes
from workflow.cluster.kubernetes.manifest import LONGEST_NAME
from workflow.cluster.kubernetes.settings import Settings
from workflow.cluster.resources import Cluster, Submission
from workflow.core.errors import Problem
from workflow.runs.mount import Mount

GOLDEN = ROOT / "tests" / "golden"
SHELLCHECK = Path(sysconfig.get_path("scripts")) / "shellcheck"
NEWEST = kubernetes_validate.latest_version()
SECRET = "hf_not-to-be-seen"

SMALL = Submission(
    task="seq2seq",
    arguments=("--data", "sums", "--max_steps", "100"),
    run_name="sums-100",
    processes=1,
    folder=Path("/home/me"),
    project=Path("/home/me/workflow"),
    mount=Mount(Path("/home/me/mount")),
    margin=120,
)
ONE_NODE = Cluster(container="registry.example/workflow:2", kubernetes={"pvc": "models"})
LARGE = dataclasses.replace(
    SMALL,
    task="clf",
    arguments=("--data", "pairs", "--template", "Is it so?\n{input} $(HOME) $$ it's"),
    run_name="0216_Pairs/large",
    processes=4,
    margin=900,
)
TWO_NODES = Cluster(
    num_nodes=2,
    gpus_per_node=4,
    gpu_type="NVIDIA-H100-80GB-HBM3",
    cpus_per_task=48,
    memory=512e9,
    container="docker:registry.example:5000/nlp/workflow:2",
    mounts=("/scratch/data:/extra", "/opt/certificates"),
    envs={"HF_TOKEN": None, "WANDB_API_KEY": None, "HF_HUB_OFFLINE": 0, "COMMIT": "12e4567"},
    setup=("export PATH=/opt/python/bin:$PATH", "ulimit -n 65536"),
    max_restarts=5,
    kubernetes={
        "pvc": "shared",
        "pvc_path": "me/mount",
        "namespace": "nlp",
        "queue": "gpus",
        "priority_class": "research",
        "service_account": "trainer",
        "image_pull_secret": "registry",
        "secret": "tokens",
        "project": "/opt/my workflow",
        "shm": "64Gi",
        "run_as_user": "1000",
        "node_selector": {"disk": "nvme"},
        "tolerations": '[{"key": "nvidia.com/gpu", "operator": "Exists"}]',
        "labels": '{"team": "nlp", "cost-center": "0815"}',
        "annotations": {"sidecar.istio.io/inject": "false"},
    },
)
JOBS = {"small": (SMALL, ONE_NODE), "large": (LARGE, TWO_NODES)}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, SECRET)


def manifest(submission: Submission, cluster: Cluster) -> str:
    return kubernetes.manifest(dataclasses.replace(submission, cluster=cluster))


def problems(submission: Submission, cluster: Cluster) -> list[Problem]:
    return kubernetes.problems(dataclasses.replace(submission, cluster=cluster))


def job_name(submission: Submission, cluster: Cluster) -> str:
    return kubernetes.job_name(dataclasses.replace(submission, cluster=cluster))


def documents(submission: Submission, cluster: Cluster) -> tuple[dict[str, Any], dict[str, Any]]:
    service, job = yaml.safe_load_all(manifest(submission, cluster))
    return service, job


def pod_of(submission: Submission, cluster: Cluster) -> dict[str, Any]:
    pod: dict[str, Any] = documents(submission, cluster)[1]["spec"]["template"]["spec"]
    return pod


def expand(text: str, value: str = "EXPANDED") -> str:
    """Expand `text` like Kubernetes does for a container; each variable has this value."""
    return re.sub(r"\$(?:(\$)|\([^)]*\))", lambda found: found[1] or value, text)


def script_of(submission: Submission, cluster: Cluster) -> str:
    bash, flag, script = pod_of(submission, cluster)["containers"][0]["command"]
    assert (bash, flag) == ("/bin/bash", "-c")
    return expand(script)


def with_settings(cluster: Cluster, **changes: Any) -> Cluster:
    return dataclasses.replace(cluster, kubernetes=(cluster.kubernetes or {}) | changes)


# Manifests


@pytest.mark.parametrize("size", JOBS)
def test_manifests_equal_their_golden_files(size: str) -> None:
    assert problems(*JOBS[size]) == []
    assert manifest(*JOBS[size]) == (GOLDEN / f"kubernetes_{size}.yaml").read_text()


@pytest.mark.parametrize("version", ["1.31", NEWEST])
@pytest.mark.parametrize("size", JOBS)
def test_the_schema_accepts_it(size: str, version: str) -> None:
    for document in documents(*JOBS[size]):
        kubernetes_validate.validate(document, version, strict=True)


def objects_in(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from objects_in(one)


def test_the_schema_rejects_an_unknown_field_wherever_it_is() -> None:
    """The test above can fail. Labels and amounts may have any name."""
    free = ("labels", "annotations", "selector", "nodeSelector", "requests", "limits")
    tried = 0
    for document in documents(LARGE, TWO_NODES):
        named = [id(one[name]) for one in objects_in(document) for name in free if name in one]
        for one in objects_in(document):
            if id(one) in named:
                continue
            one["misspelt"] = "x"
            with pytest.raises(kubernetes_validate.ValidationError, match="misspelt"):
                kubernetes_validate.validate(document, NEWEST, strict=True)
            del one["misspelt"]
            tried += 1
    assert tried > 40


@pytest.mark.parametrize("size", JOBS)
def test_no_secret_goes_by_value(size: str) -> None:
    assert SECRET not in manifest(*JOBS[size])


def test_strings_are_strings_to_any_yaml_parser() -> None:
    """Kubernetes' parser reads 12e4567 as a number and y as a boolean, Python's does not."""
    odd = ["12e4567", "0o17", "1_000", "y", "N", "on", "null", "0815", "", "1:30", "~", ".5"]
    cluster = dataclasses.replace(ONE_NODE, envs={f"E{n}": text for n, text in enumerate(odd)})
    written = manifest(SMALL, cluster)
    assert [text for text in odd if f"value: '{text}'\n" not in written] == []
    env = pod_of(SMALL, cluster)["containers"][0]["env"]
    assert [variable["value"] for variable in env][-len(odd) :] == odd


def test_what_kubernetes_would_expand_is_escaped() -> None:
    draw = random.Random(0)
    for _ in range(2000):
        text = "".join(draw.choices("$$$(())A ", k=draw.randint(0, 8)))
        assert expand(kubernetes._escape(text)) == text


def test_addresses_fit_each_other() -> None:
    service, job = documents(LARGE, TWO_NODES)
    name = job["metadata"]["name"]
    assert service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"] == name
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert f"--rdzv-endpoint={name}-0.{name}:29400 " in script_of(LARGE, TWO_NODES)
    assert "--rdzv-endpoint=127.0.0.1:29400 " in script_of(SMALL, ONE_NODE)


@pytest.mark.parametrize(("cores", "threads"), [(None, []), (48, ["12"]), (7, ["1"]), (2, ["1"])])
def test_processes_share_the_cores(cores: int | None, threads: list[str]) -> None:
    cluster = dataclasses.replace(TWO_NODES, cpus_per_task=cores)
    env = pod_of(LARGE, cluster)["containers"][0]["env"]
    assert [one["value"] for one in env if one["name"] == "OMP_NUM_THREADS"] == threads


def test_the_mount_may_be_a_folder_of_each_node() -> None:
    cluster = dataclasses.replace(ONE_NODE, kubernetes={"host_path": "/srv/mount"})
    assert problems(SMALL, cluster) == []
    assert pod_of(SMALL, cluster)["volumes"][0] == {
        "name": "mount",
        "hostPath": {"path": "/srv/mount", "type": "Directory"},
    }


def test_gpus_may_have_another_name() -> None:
    cluster = with_settings(TWO_NODES, gpu_resource="amd.com/gpu")
    amounts = {"amd.com/gpu": 4, "cpu": 48, "memory": "488281Mi"}
    resources = pod_of(LARGE, cluster)["containers"][0]["resources"]
    assert resources == {"requests": amounts, "limits": amounts}


# Names


def random_names(count: int) -> list[str]:
    draw = random.Random(0)
    letters = "aAbB09-_./ é"
    names = {"".join(draw.choices(letters, k=draw.randint(1, 70))) for _ in range(count)}
    return sorted(names)


def test_every_run_has_a_unique_valid_name_for_pods_and_services() -> None:
    names = random_names(3000)
    labels = [job_name(dataclasses.replace(SMALL, run_name=name), ONE_NODE) for name in names]
    assert len(set(labels)) == len(names)
    for label in labels:
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", label)
        assert len(label) <= LONGEST_NAME
        assert len(f"{label}-9999-xxxxx") <= 63


@pytest.mark.parametrize(
    ("run", "label"),
    [
        ("sums-100", "sums-100"),
        ("a" * 52, "a" * 52),
        ("a" * 53, "a" * 43 + "-abe346a7"),
        ("Sums 100", "sums-100-bebf7281"),
        ("0216syn_explain", "run-0216syn-explain-208a091e"),
        ("…", "run-b4935894"),
    ],
)
def test_invalid_names_are_changed(run: str, label: str) -> None:
    assert job_name(dataclasses.replace(SMALL, run_name=run), ONE_NODE) == label


def test_a_name_of_the_user_is_made_unique_per_run() -> None:
    named = dataclasses.replace(ONE_NODE, name="mine")
    first = job_name(SMALL, named)
    assert first.startswith("mine-")
    assert first == job_name(SMALL, named)
    assert first != job_name(dataclasses.replace(SMALL, run_name="other"), named)


# Problems


def problem_lines(submission: Submission, cluster: Cluster) -> list[str]:
    return [str(problem) for problem in problems(submission, cluster)]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"container": None},
            "--container: not set (expected an image that the nodes can pull). Hint: set"
            " --container REGISTRY/IMAGE:TAG.",
        ),
        (
            {"container": "pyxis:nvcr.io#nvidia/pytorch"},
            "--container: 'pyxis:nvcr.io#nvidia/pytorch' (expected an image that the nodes"
            " can pull). Hint: set --container REGISTRY/IMAGE:TAG.",
        ),
        (
            {"time": 3600},
            "--time: not supported by `submit kubernetes` (expected no value). Hint: remove it;"
            " pods have no time limit, and the run resumes after an eviction.",
        ),
        (
            {"dependency": "other"},
            "--dependency: not supported by `submit kubernetes` (expected no value). Hint: remove"
            " it, and submit this job when the other is done.",
        ),
        (
            {"slurm": {"partition": "gpu"}},
            "--slurm: not supported by `submit kubernetes` (expected no value). Hint: remove it,"
            " and use --kubernetes for Kubernetes settings.",
        ),
        (
            {"high_priority": True},
            "--high-priority: not supported by `submit kubernetes` (expected no value). Hint:"
            " remove it, and set --kubernetes priority_class=NAME.",
        ),
        (
            {"kubernetes": None},
            "--kubernetes: neither pvc nor host_path (expected one location of the mount). Hint:"
            " set --kubernetes pvc=CLAIM, or host_path=FOLDER if every node has that folder.",
        ),
        (
            {"kubernetes": {"pvc": "a", "host_path": "/b"}},
            "--kubernetes: pvc and host_path (expected one location of the mount). Hint: set"
            " --kubernetes pvc=CLAIM, or host_path=FOLDER if every node has that folder.",
        ),
        (
            {"kubernetes": {"pvc_path": "a", "host_path": "/b"}},
            "--kubernetes pvc_path: set without pvc (expected pvc=CLAIM). Hint: remove it, and set"
            " host_path to the full path.",
        ),
        (
            {"kubernetes": {"host_path": "b"}},
            "--kubernetes host_path: 'b' (expected an absolute path). Hint: write --kubernetes"
            " host_path=FOLDER.",
        ),
        (
            {"kubernetes": {"pvc": "a", "nmaespace": "b"}},
            "--kubernetes nmaespace: unknown setting (expected a setting of --kubernetes). Hint:"
            " did you mean namespace?",
        ),
        (
            {"kubernetes": {"pvc": "a", "xyzzy": "b"}},
            "--kubernetes xyzzy: unknown setting (expected a setting of --kubernetes). Hint: choose"
            " from pvc, pvc_path, host_path, namespace, queue, priority_class, service_account,"
            " image_pull_secret, secret, project, gpu_resource, shm, run_as_user, node_selector,"
            " tolerations, labels, annotations.",
        ),
        (
            {"kubernetes": {"pvc": "a", "labels": "team=nlp"}},
            "--kubernetes labels: 'team=nlp' (expected a JSON object of strings). Hint: write"
            """ --kubernetes labels='{"NAME": "TEXT"}'.""",
        ),
        (
            {"envs": {"HF_TOKEN": None, "HF_HOME": "/x", "WANDB_API_KEY": None}},
            "--envs HF_TOKEN WANDB_API_KEY: names without values (expected a Secret with these"
            " keys). Hint: add --kubernetes secret=NAME.",
        ),
        (
            {"envs": {"WORKFLOW_MOUNT": "/x"}},
            "--envs WORKFLOW_MOUNT: reserved in pods (expected the mount at /model_mount). Hint:"
            " remove it.",
        ),
    ],
)
def test_a_problem_is_one_line(changes: dict[str, Any], line: str) -> None:
    assert problem_lines(SMALL, dataclasses.replace(ONE_NODE, **changes)) == [line]


@pytest.mark.parametrize("flags", [("--overwrite_output_dir",), ("--overwrite_output_dir=true",)])
def test_a_job_that_overwrites_its_run_is_refused(flags: tuple[str, ...]) -> None:
    assert problem_lines(dataclasses.replace(SMALL, arguments=flags), ONE_NODE) == [
        "--overwrite_output_dir: would delete the run at each restart of its pods (expected a run"
        " that resumes). Hint: remove the flag, and delete /home/me/mount/models/sums-100 or choose"
        " another --training_run_name."
    ]


def test_all_problems_are_reported_at_once() -> None:
    settings = {"namespac": "a", "tolerations": "{}", "run_as_user": "root", "shm": "much"}
    assert len(problem_lines(SMALL, Cluster(time=60, kubernetes=settings))) == 7


def test_every_setting_is_used() -> None:
    """No known setting is silently ignored by the manifest."""
    written = manifest(LARGE, TWO_NODES)
    for name in Settings.model_fields:
        if name == "host_path":
            continue
        assert name in (TWO_NODES.kubernetes or {}) or name == "gpu_resource"
        if name not in ("pvc", "secret", "gpu_resource"):  # those are needed, or have a default
            kept = {key: value for key, value in TWO_NODES.kubernetes.items() if key != name}
            without = dataclasses.replace(TWO_NODES, kubernetes=kept)
            assert manifest(LARGE, without) != written


# The script

STATES = {
    "done": {"state": "done", "step": 100},
    "saved": {"state": "saved", "step": 40},
    "running": {"state": "running", "data": {"": "12"}},
    "failed": {"state": "failed", "error": 'a full disk, "state": "done" or not'},
    "crashed": {"state": "failed", "exit_status": 21},
    "refused": {"state": "failed", "error": "no such data", "exit_status": 2},
}


@dataclasses.dataclass(frozen=True)
class Pod:
    """The script of a job with a given shell script as python3, in place of torchrun."""

    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "mount" / "models" / "my run"

    @property
    def started(self) -> Path:
        return self.folder / "started_job"

    @property
    def words(self) -> list[str]:
        return (self.folder / "words").read_text().split("\0")[:-1]

    def write(self, state: str) -> str:
        """Return a shell line that writes status.json like a run does."""
        written = self.folder / f"{state}.json"
        written.write_text(json.dumps(STATES[state], indent=2))
        return f"sleep 0.05; cp '{written}' '{self.run}/status.json'"  # times have a grain

    def start(self, python: str, cluster: Cluster = ONE_NODE, **changes: Any) -> Any:
        for folder in (self.folder / "bin", self.folder / "project", self.folder / "tmp", self.run):
            folder.mkdir(parents=True, exist_ok=True)
        fake = self.folder / "bin" / "python3"
        words = f"printf '%s\\0' \"$@\" > '{self.folder}/words'"
        fake.write_text(f"#!/bin/bash\n{words}\ntouch '{self.started}'\n{python}\n")
        fake.chmod(0o755)
        cluster = with_settings(cluster, project=str(self.folder / "project"))
        submission = dataclasses.replace(SMALL, run_name="my run", **changes)
        names = {
            "PATH": f"{fake.parent}:{os.environ['PATH']}",
            "TMPDIR": str(self.folder / "tmp"),
            "WORKFLOW_MOUNT": str(self.folder / "mount"),
            "JOB_COMPLETION_INDEX": "1",
        }
        return subprocess.Popen(
            ["/bin/bash", "-c", script_of(submission, cluster)],
            env=os.environ | names,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ends(self, python: str, cluster: Cluster = ONE_NODE, **changes: Any) -> int:
        process = self.start(python, cluster, **changes)
        out, _ = process.communicate(timeout=30)
        assert out == ""
        status: int = process.returncode
        return status


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path)


@pytest.mark.parametrize(
    ("state", "torchrun", "status"),
    [
        ("done", 0, 0),
        ("done", 1, 0),  # e.g. SIGTERM arrived after the end
        ("saved", 0, 75),
        ("saved", 1, 75),
        ("refused", 1, 2),
        ("failed", 1, 1),
        ("crashed", 1, 1),
        ("failed", 0, 1),
        ("failed", 137, 137),
        ("running", 0, 1),
        ("running", 137, 137),
    ],
)
def test_the_status_of_a_pod_is_that_of_the_run(
    pod: Pod, state: str, torchrun: int, status: int
) -> None:
    assert pod.ends(f"{pod.write(state)}; exit {torchrun}") == status


@pytest.mark.parametrize("torchrun", [0, 1, 2, 137])
@pytest.mark.parametrize("earlier", [None, "done", "refused", "saved"])
def test_what_an_earlier_start_wrote_does_not_count(
    pod: Pod, torchrun: int, earlier: str | None
) -> None:
    if earlier is not None:
        pod.run.mkdir(parents=True)
        (pod.run / "status.json").write_text(json.dumps(STATES[earlier], indent=2))
        os.utime(pod.run / "status.json", (1e9, 1e9))
    assert pod.ends(f"exit {torchrun}") == torchrun


def wait_for(condition: Callable[[], bool]) -> None:
    last = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < last, "this took too long"
        time.sleep(0.02)


@pytest.mark.parametrize("times", [1, 2])
def test_sigterm_is_forwarded_and_the_run_waited_for(pod: Pod, times: int) -> None:
    stop = f"trap '' TERM; sleep 0.3; {pod.write('saved')}; exit 1"
    body = f"trap {shlex.quote(stop)} TERM\nwhile :; do sleep 0.05; done"
    process = pod.start(body)
    wait_for(pod.started.exists)
    for _ in range(times):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    assert process.communicate(timeout=30) == ("", None)
    assert process.returncode == 75


def test_sigterm_before_the_job_ends_the_pod(pod: Pod, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    process = pod.start("", dataclasses.replace(ONE_NODE, setup=(f"touch {ready}; sleep 0.5",)))
    wait_for(ready.exists)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30) == ("", None)
    assert process.returncode == 75
    assert not pod.started.exists()


def test_arguments_arrive_unchanged(pod: Pod) -> None:
    arguments = ("--template", "a 'b' \"c\"\n$HOME $(ls) $$ `ls` \\ é *", "--data", "-")
    assert pod.ends("exit 0", arguments=arguments) == 0
    assert pod.words == [
        "-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=1", "--rdzv-backend=c10d",
        "--rdzv-endpoint=127.0.0.1:29400", "--rdzv-id=my-run-d33e7609", "--shutdown-timeout=120",
        "seq2seq.py", *arguments,
    ]  # fmt: skip


@pytest.mark.parametrize(("index", "is_host"), [(0, 1), (1, 0), (10, 0)])
def test_pod_0_hosts_the_rendezvous(pod: Pod, index: int, is_host: int) -> None:
    setup = (f"JOB_COMPLETION_INDEX={index}",)
    cluster = dataclasses.replace(ONE_NODE, num_nodes=2, setup=setup)
    assert pod.ends("exit 0", cluster) == 0
    assert f"--rdzv-conf=is_host={is_host},read_timeout=600" in pod.words


@pytest.mark.parametrize("setup", [("set -euo pipefail", "false || true"), ("cd /", "false")])
def test_setup_lines_may_do_what_they_like(pod: Pod, setup: tuple[str, ...]) -> None:
    cluster = dataclasses.replace(ONE_NODE, setup=setup)
    assert pod.ends(f"{pod.write('saved')}; exit 1", cluster) == 75


@pytest.mark.parametrize(("submission", "cluster"), JOBS.values())
def test_shellcheck_finds_nothing(submission: Submission, cluster: Cluster) -> None:
    script = script_of(submission, dataclasses.replace(cluster, setup=()))
    checked = subprocess.run(
        [SHELLCHECK, "--shell=bash", "--exclude=SC2016", "-"],  # a user's own $ stays in quotes
        input=script, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (checked.stdout, checked.returncode) == ("", 0)
