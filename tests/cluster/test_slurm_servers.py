"""Servers on a real Slurm, asked from the other node."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from conftest import GPT_TINY
from slurm_cluster import SlurmCluster
from slurm_site import Site, make_site_mount

from workflow.cluster.job_record import folder_of, read_record

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

LOADED = 120
"""Seconds until a server has loaded its model on two shared cores."""
KEY = "sesame"
ASK = """
import json, sys, urllib.error, urllib.request
url, key, prompts = sys.argv[1], sys.argv[2], int(sys.argv[3])
asked = {"prompt": ["add one: 4"] * prompts, "max_tokens": 100, "temperature": 1}
body = json.dumps(asked).encode()
head = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
print("asking", flush=True)
try:
    request = urllib.request.Request(f"{url}/v1/completions", body, head)
    with urllib.request.urlopen(request, timeout=60) as answer:
        print(answer.status, len(json.load(answer)["choices"]))
except urllib.error.HTTPError as error:
    print(error.status, json.load(error)["error"]["code"])
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    mount = make_site_mount(tmp_path_factory.mktemp("servers") / "mount")
    (mount.models / "gpt").symlink_to(GPT_TINY)
    with SlurmCluster() as cluster:
        yield Site(cluster, mount)


def submit(site: Site, name: str, port: int, *flags: str) -> str:
    """Submit a server to node1; returns its number once it serves."""
    words = ("--envs", "OMP_NUM_THREADS=1", "--slurm", "nodelist=node1", "--name", name)
    site.call("submit", "slurm", *words, "--", "serve", "gpt", "--port", str(port), *flags)
    record = read_record(folder_of(site.mount, name))
    assert record is not None
    wait_for_start(site, name, 1)
    return record.identity


def wait_for_start(site: Site, name: str, starts: int) -> None:
    line = "serving gpt on http://machine-of-node1:"
    site.cluster.wait_for(
        lambda: site.log(name).count(line) == starts, LOADED, f"{name}: {site.log(name)}"
    )


def asking(site: Site, port: int, key: str, prompts: int = 1) -> "subprocess.Popen[str]":
    """Ask from the other node."""
    url = f"http://machine-of-node1:{port}"
    command = ["srun", "--nodelist=node2", "--nodes=1", "--ntasks=1", sys.executable, "-c", ASK,
               url, key, str(prompts)]  # fmt: skip
    return subprocess.Popen(
        command, env=site.cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def answer(site: Site, port: int, key: str) -> str:
    with asking(site, port, key) as asked:
        return asked.communicate(timeout=60)[0]


def test_a_server_answers_other_nodes_and_ends_with_its_requests(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVED_KEY", KEY)
    number = submit(site, "keyed", 8001, "--api_key_env", "SERVED_KEY")
    job = site.cluster.job(number)
    assert (job["JobName"], job["NumTasks"]) == ("keyed", "1")
    assert KEY not in (folder_of(site.mount, "keyed") / "submitted").read_text()
    assert answer(site, 8001, KEY) == "asking\n200 1\n"
    assert answer(site, 8001, "guessed") == "asking\n401 invalid_api_key\n"
    shown = site.call("status", "keyed").stdout.splitlines()
    assert shown[:3] == ["keyed: running", f"  slurm job {number} on node1", "  end of its log:"]
    with asking(site, 8001, KEY, prompts=60) as asked:
        assert asked.stdout is not None
        assert asked.stdout.readline() == "asking\n"
        assert site.call("cancel", "keyed").stdout == f"cancelling slurm job {number}\n"
        assert asked.poll() is None, "the answer came before the signal"
        assert asked.communicate(timeout=60)[0] == "200 60\n"
    site.cluster.wait_for_state(number, "CANCELLED", 60)
    assert "Traceback" not in site.log("keyed")
    listed = site.call("list").stdout
    assert listed.splitlines()[1].split()[:3] == ["keyed", "cancelled", "-"]


def test_a_preempted_server_is_requeued_and_serves_again(site: Site) -> None:
    number = submit(site, "preempted", 8002, "--no_auth")
    site.cluster.queue("sleep 1", "--partition=high", "--nodes=2", "--exclusive")
    wait_for_start(site, "preempted", 2)
    assert site.cluster.job(number)["Restarts"] == "1"
    assert answer(site, 8002, "") == "asking\n200 1\n"
    site.call("cancel", "preempted")
    site.cluster.wait_for_state(number, "CANCELLED", 60)


def test_a_server_at_its_time_limit_is_requeued_and_serves_again(site: Site) -> None:
    number = submit(site, "timed", 8003, "--no_auth")
    site.cluster.run("scancel", "--batch", "--signal=USR1", number)  # as at the time limit
    wait_for_start(site, "timed", 2)
    assert (
        site.log("timed").count(
            " received USR1 from Slurm: ending the server, then requeueing the job\n"
        )
        == 1
    )
    site.call("cancel", "timed")
    site.cluster.wait_for_state(number, "CANCELLED", 60)


def test_a_port_in_use_ends_the_job(site: Site) -> None:
    first = submit(site, "first", 8004, "--no_auth")
    words = ("--slurm", "nodelist=node1", "--name", "second")
    site.call("submit", "slurm", *words, "--", "serve", "gpt", "--port", "8004", "--no_auth")
    record = read_record(folder_of(site.mount, "second"))
    assert record is not None
    site.cluster.wait_for_state(record.identity, "FAILED", 60)
    assert site.cluster.job(record.identity)["ExitCode"] == "2:0"
    line = (
        "--port 8004: address already in use on 0.0.0.0 (expected a free port). Hint: stop what "
        "listens there, or choose another --port or --host."
    )
    assert line in site.log("second").splitlines()
    assert "Traceback" not in site.log("second")
    site.call("cancel", "first")
    site.cluster.wait_for_state(first, "CANCELLED", 60)
