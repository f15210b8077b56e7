"""`python3 -m workflow submit … -- serve RUN`: the texts, what is refused, and a server here.

test_slurm_servers.py submits to a real Slurm.
"""

import shutil
import sys
from pathlib import Path

import httpx
import pytest
from conftest import GPT_TINY, ROOT
from forks import free_port
from test_slurm_script import complaints
from test_submit import refused, submitted, wait_for, workflow

from workflow.cluster.containers import Runtime
from workflow.cluster.job_record import folder_of, read_record
from workflow.cluster.local import background
from workflow.cluster.registry import state_of
from workflow.cluster.resources import Cluster
from workflow.cluster.served import Server
from workflow.cluster.slurm.server_script import server_script
from workflow.runs.mount import Mount

GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mount:
    """A mount with a run of one checkpoint."""
    made = Mount(tmp_path)
    made.models.mkdir()
    shutil.copytree(GPT_TINY, made.models / "gpt" / "checkpoint-7")
    monkeypatch.setenv("WORKFLOW_MOUNT", str(tmp_path))
    monkeypatch.setenv("SERVED_KEY", "sesame")
    monkeypatch.chdir(ROOT)
    return made


SERVER = Server(
    task="serve",
    arguments=("a run/checkpoint-7", "--host=0.0.0.0", "--api_key_env=SERVED_KEY", "--grace=60"),
    run_name="serve-a-run-checkpoint-7",
    processes=1,
    folder=Path("/home/u/workflow"),
    project=Path("/home/u/workflow"),
    mount=Mount(Path("/shared/mount")),
    margin=75,
    cluster=Cluster(
        gpus_per_node=1, cpus_per_task=8, time=12 * 3600, container="IMAGE",
        envs={"SERVED_KEY": None}, setup=("module load cuda",), slurm={"partition": "gpu"},
    ),
)  # fmt: skip


def test_the_golden_script() -> None:
    text = server_script(SERVER, Runtime("docker", "x/y:1"))
    assert text == (GOLDEN / "slurm_server.sh").read_text(encoding="utf-8")
    assert complaints(text) == ""


def test_the_local_script() -> None:
    assert background.script(SERVER).splitlines()[-1] == (
        f"exec {sys.executable} -m workflow serve 'a run/checkpoint-7' --host=0.0.0.0 "
        "--api_key_env=SERVED_KEY --grace=60"
    )


@pytest.mark.parametrize(
    ("kind", "flags", "words", "last"),
    [
        ("slurm", [], ["--no_auth"], "gpt --host=0.0.0.0 --no_auth &"),
        ("slurm", [], ["--host", "127.0.0.1"], "gpt --host=127.0.0.1 &"),
        ("local", [], ["--adapter", "a=gpt", "--adapter", "b=gpt"],
         "gpt --adapter=a=gpt --adapter=b=gpt"),
        ("kubernetes", ["--container", "x", "--kubernetes", "pvc=m"],
         ["--no_auth", "--port", "80"], "gpt --host=0.0.0.0 --port=80 --no_auth &"),
    ],
)  # fmt: skip
def test_the_command_of_a_server(
    mount: Mount,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    flags: list[str],
    words: list[str],
    last: str,
) -> None:
    submitted(["--dry_run", *flags, "--", "serve", "gpt", *words], kind)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.endswith(f" {last}")]
    assert [line for line in lines if "serve-gpt" in line] or kind == "local"
    assert not mount.jobs.exists()


CANNOT_WORK: dict[str, tuple[str, list[str], list[str], str]] = {
    "no key": ("slurm", [], ["gpt"], "--host: 0.0.0.0, which other machines reach (expected a key "
        "that requests must have). Hint: add --api_key_env NAME, or --no_auth to serve anyone."),
    "no value": ("slurm", [], ["gpt", "--api_key_env", "NO_KEY"], "--envs 'NO_KEY': not set in "
        "this shell (expected an exported variable). Hint: export NO_KEY, or write NO_KEY=VALUE if "
        "it is not a secret."),
    "no secret": ("kubernetes", ["--container", "x", "--kubernetes", "pvc=m"],
        ["gpt", "--api_key_env", "SERVED_KEY"], "--envs SERVED_KEY: names without values (expected "
        "a Secret with these keys). Hint: add --kubernetes secret=NAME."),
    "nodes": ("slurm", ["--num_nodes", "2"], ["gpt", "--no_auth"], "--num_nodes: not supported by "
        "`submit slurm -- serve` (expected no value). Hint: remove it; a server is one process on "
        "one node."),
    "GPUs": ("slurm", ["--gpus_per_node", "4"], ["gpt", "--no_auth"], "--gpus_per_node: 4 "
        "(expected at most one GPU). Hint: write --gpus_per_node 1; a server is one process on one "
        "GPU."),
    "memory of a GPU": ("local", ["--gpu_memory", "80GB"], ["gpt"], "--gpu_memory: not supported "
        "by `submit local -- serve` (expected no value). Hint: remove it; the memory of servers is "
        "not planned."),
    "restarts": ("kubernetes", ["--container", "x", "--max_restarts", "3"], ["gpt", "--no_auth"],
        "--max_restarts: not supported by `submit kubernetes -- serve` (expected no value). Hint: "
        "remove it; a Deployment restarts its pod without a limit."),
    "dependency": ("kubernetes", ["--container", "x", "--dependency", "run"],
        ["gpt", "--no_auth"], "--dependency: not supported by `submit kubernetes` (expected no "
        "value). Hint: remove it, and submit this job when the other is done."),
    "loopback": ("kubernetes", ["--container", "x"], ["gpt", "--host", "127.0.0.1"], "--host: "
        "127.0.0.1, which only the pod itself reaches (expected an address of the pod). Hint: "
        "remove it."),
    "model": ("local", [], ["gtp"], "serve gtp: does not exist (expected the folder "
        "MODELS/gtp). Hint: did you mean gpt?"),
    "hub model": ("local", [], ["google/flan-t5-xl"], "serve google/flan-t5-xl: does not exist "
        "(expected the folder MODELS/google/flan-t5-xl). Hint: copy the model's folder to "
        "MODELS, or download it with `python3 -m workflow prefetch ORGANIZATION/MODEL`."),
    "adapter": ("local", [], ["gpt", "--adapter", "a=gtp"], "--adapter a=gtp: does not exist "
        "(expected the folder MODELS/gtp). Hint: did you mean gpt?"),
    "adapter without a name": ("local", [], ["gpt", "--adapter", "gpt"], "--adapter: gpt "
        "(expected NAME=RUN or NAME=RUN/checkpoint-N). Hint: name the adapter for requests."),
}  # fmt: skip
"""The scheduler, cluster flags, words after serve, and the problem."""


@pytest.mark.parametrize("name", CANNOT_WORK)
def test_a_server_that_cannot_work_is_refused(mount: Mount, name: str) -> None:
    kind, flags, words, line = CANNOT_WORK[name]
    found = refused(kind, [*flags, "--", "serve", *words])
    assert line.replace("MODELS", str(mount.models)) in found
    assert not mount.jobs.exists()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], "the following arguments are required: RUN"),
        (["gpt", "--prot", "80"], "unrecognized arguments: --prot 80"),
        (
            ["gpt", "--port", "70000"],
            "argument --port: '70000' (expected an integer of at least 1 and at most 65535)",
        ),
    ],
)
def test_wrong_flags_of_a_server(mount: Mount, words: list[str], found: str) -> None:
    assert refused("slurm", ["--gpus", "1", "--", "serve", *words]) == [
        "--gpus: unknown flag (expected a documented flag). Hint: did you mean --gpu?",
        f"-- serve: {found} (expected a RUN and flags of serve). Hint: `python3 -m workflow serve "
        "-h` lists them.",
    ]


def test_a_server_of_a_run_that_comes_later(
    mount: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dry_run", "--dependency", "afterok:7", "--", "serve", "later", "--no_auth"]
    submitted(words, "slurm")
    assert "#SBATCH --dependency=afterok:7\n" in capsys.readouterr().out


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_a_server_in_the_background(mount: Mount) -> None:
    port = str(free_port())
    serve = ["--", "serve", "gpt", "--port", port, "--api_key_env", "SERVED_KEY"]
    submitted(["--name", "a server/1", *serve])
    record = read_record(folder_of(mount, "a-server-1"))
    assert record is not None
    log = folder_of(mount, "a-server-1") / "log"
    line = f"serving gpt/checkpoint-7 on http://127.0.0.1:{port}"
    wait_for(lambda: log.exists() and line in log.read_text())
    url = f"http://127.0.0.1:{port}/v1/models"
    wait_for(lambda: answers(url, {}) == 401)
    assert answers(url, {"Authorization": "Bearer sesame"}) == 200
    assert refused("local", ["--name", "a-server-1", *serve]) == [
        f"server a-server-1: already running as {record.title} (expected a server without an "
        "active job). Hint: wait for it, cancel it with `python3 -m workflow cancel a-server-1`, "
        "or choose another --name."
    ]
    shown = workflow("status", "a-server-1").stdout.splitlines()
    assert shown[:2] == ["a-server-1: running", f"  {record.title}"]
    assert line in shown[-1]
    assert workflow("list").stdout.splitlines()[1].split()[:3] == ["a-server-1", "running", "-"]
    assert workflow("cancel", "a-server-1").stdout == f"cancelling {record.title}\n"
    wait_for(lambda: not state_of(record).may_live)
    assert workflow("status", "a-server-1").stdout.startswith("a-server-1: ended\n")
    assert workflow("logs", "a-server-1").stdout == log.read_text()
    assert "Traceback" not in log.read_text()


def answers(url: str, headers: dict[str, str]) -> int:
    try:
        return httpx.get(url, headers=headers, timeout=10).status_code
    except httpx.HTTPError:
        return 0
