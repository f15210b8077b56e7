"""Jobs of two nodes with two processes each on a real Slurm, undisturbed and stopped by it.

Whatever stops a job, its final weights equal those of the undisturbed job, bit for bit.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import addition_records
from slurm_cluster import SlurmCluster
from slurm_site import WORLD, Site, assert_same_weights, make_site_mount, newest, samples

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

TWO_NODES = ("--num_nodes", "2")
HEAD = "run    state    step"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    mount = make_site_mount(tmp_path_factory.mktemp("nodes") / "mount")
    with SlurmCluster() as cluster:
        yield Site(cluster, mount)


@dataclass(frozen=True)
class Output:
    """The output of the commands for a run at one moment."""

    status: str
    listed: str
    logs: str


@dataclass(frozen=True)
class Plain:
    """An undisturbed run, and the output of the commands at its stages."""

    run: Path
    number: str
    pending: Output
    running: Output
    done: Output


def job(site: Site) -> dict[str, Any]:
    return site.lasting(100) | {"num_processes": 2, "zero_stage": 2}


def look(site: Site, has_log: bool = True) -> Output:
    logs = site.call("logs", "plain", status=0 if has_log else 2)
    said = logs.stdout if has_log else logs.stderr
    return Output(site.call("status", "plain").stdout, site.call("list").stdout, said)


@pytest.fixture(scope="module")
def plain(site: Site) -> Plain:
    number = site.submit("plain", *TWO_NODES, "--slurm", "hold", **job(site))
    pending = look(site, has_log=False)
    site.cluster.run("scontrol", "release", number)
    site.wait_for_steps("plain")
    running = look(site)
    site.wait_for_end("plain", number)
    return Plain(site.run("plain"), number, pending, running, look(site))


def test_one_command_leads_from_the_queue_to_samples(site: Site, plain: Plain) -> None:
    site.assert_done("plain", restarts=0)
    answered = [item["orig_d"] for item in samples(plain.run)]
    assert answered == addition_records(7, start=5)
    shown = site.cluster.job(plain.number)
    assert {key: shown[key] for key in ("NodeList", "NumTasks", "Restarts", "ExitCode")} == {
        "NodeList": "node[1-2]", "NumTasks": "2", "Restarts": "0", "ExitCode": "0:0",
    }  # fmt: skip


def test_commands_show_the_state_of_a_job(plain: Plain) -> None:
    title, run = f"slurm job {plain.number}", plain.run
    head = "run    state    step  loss  examples/s  time left  restarts  job\n"
    assert plain.pending == Output(
        f"plain: pending\n  JobHeldUser\n  {title}\n  {run}\n",
        f"{head}plain  pending  -     -     -           -          0         {title}\n",
        f"{run.parent}/.jobs/plain/log: does not exist yet (expected a started job). "
        "Hint: wait until the job starts, or add -f.\n",
    )
    number = r"[\d.e+]+"
    assert re.fullmatch(
        rf"plain: running, step \d+/100\n  loss {number}, {number} examples/s, about \d+ \w+ left "
        rf"without evaluations\n  {title} on node\[1-2\]\n  {run}\n  end of its log:\n(    .+\n)+",
        plain.running.status,
    ), plain.running.status
    assert re.search(
        rf"\nplain  running  \d+/100 +{number} +{number} +\d+ \w+ +0 +{title} on node\[1-2\]\n",
        plain.running.listed,
    ), plain.running.listed
    assert plain.done.status.startswith("plain: done, step 100/100\n  loss ")
    assert re.search(rf"\nplain  done   100/100 +{number} +- +- +0 +{title}\n", plain.done.listed)
    assert plain.done.logs.startswith(plain.running.logs)


def test_a_preempted_job_resumes(site: Site, plain: Plain) -> None:
    number = site.submit("preempted", *TWO_NODES, **job(site))
    site.wait_for_steps("preempted")
    site.cluster.queue("sleep 1", "--partition=high", "--nodes=2", "--exclusive")
    site.wait_for_end("preempted", number)
    assert re.search(r"stopped by SIGTERM at step \d+", site.log("preempted"))
    site.assert_done("preempted", restarts=1)
    assert_same_weights(site.run("preempted"), plain.run)


def test_a_preempted_adapter_resumes(site: Site) -> None:
    """LoRA under ZeRO-3, with one process on each of the nodes."""
    flags = site.lasting(100) | {"num_processes": 1, "zero_stage": 3, "tuning": "lora"}
    number = site.submit("adapter", *TWO_NODES, **flags)
    site.wait_for_end("adapter", number)
    site.assert_done("adapter", restarts=0)
    assert (newest(site.run("adapter")) / "adapter_config.json").is_file()
    number = site.submit("cut", *TWO_NODES, **flags)
    site.wait_for_steps("cut")
    site.cluster.queue("sleep 1", "--partition=high", "--nodes=2", "--exclusive")
    site.wait_for_end("cut", number)
    assert re.search(r"stopped by SIGTERM at step \d+", site.log("cut"))
    site.assert_done("cut", restarts=1)
    assert_same_weights(site.run("cut"), site.run("adapter"))


def test_a_job_requeued_by_hand_resumes(site: Site, plain: Plain) -> None:
    number = site.submit("requeued", *TWO_NODES, **job(site))
    site.wait_for_steps("requeued")
    site.cluster.run("scontrol", "requeue", number)
    site.wait_for_end("requeued", number)
    site.assert_done("requeued", restarts=1)
    assert_same_weights(site.run("requeued"), plain.run)


def test_a_job_outlives_a_node(site: Site, plain: Plain) -> None:
    """A short outage of slurmd does no harm; a lost node costs some steps."""
    number = site.submit("lost", *TWO_NODES, **(job(site) | {"save_steps": 50}))
    site.wait_for_steps("lost")
    site.cluster.kill_slurmd("node2")
    site.cluster.start_slurmd("node2")
    checkpoint = site.run("lost") / "checkpoint-50"
    site.cluster.wait_for(checkpoint.exists, WORLD)
    site.cluster.lose("node2")
    site.wait_for_end("lost", number, "PENDING")
    site.cluster.start_slurmd("node2")
    site.wait_for_end("lost", number)
    assert site.cluster.job(number)["Restarts"] == "1"
    assert f"resuming from {checkpoint} at step 50/100" in site.log("lost")
    site.assert_done("lost", restarts=1)
    assert_same_weights(site.run("lost"), plain.run)
