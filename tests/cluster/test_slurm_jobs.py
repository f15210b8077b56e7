"""Jobs of one process on a real Slurm: stopped in every way, and waiting for each other."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, addition_records
from slurm_cluster import SlurmCluster, missing
from slurm_site import Site, assert_same_weights, make_site_mount, samples

from workflow.cluster.job_record import folder_of, read_record
from workflow.runs.status import read_status

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LONG = {"max_steps": 100_000, "save_steps": 100_000}
BEFORE = "job ended before the run started; see its log"
EVALUATE = {"no_train": "true", "data_name": "sums", "max_new_tokens": 5, "bf16": "false"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    mount = make_site_mount(tmp_path_factory.mktemp("jobs") / "mount")
    with SlurmCluster() as cluster:
        yield Site(cluster, mount)


def assert_saved(site: Site, name: str, by: str) -> None:
    """The run saved at a training step, and was not restarted."""
    status = read_status(site.run(name))
    assert {key: status[key] for key in ("state", "restarts")} == {"state": "saved", "restarts": 0}
    line = f"stopped by {by} at step {status['step']}; the same command resumes from checkpoint-"
    assert line in site.log(name)


def test_a_job_at_its_time_limit_resumes(site: Site) -> None:
    """Slurm may send the signal half a minute early, more than once in a run."""
    numbers = {
        name: site.submit(name, *words, **site.lasting(600))
        for name, words in (("timed", ("--time", "2m")), ("plain", ()))
    }
    for name, number in numbers.items():
        site.wait_for_end(name, number)
    restarts = int(site.cluster.job(numbers["timed"])["Restarts"])
    assert restarts > 0
    assert (
        site.log("timed").count("received USR1 from Slurm: saving, then requeueing the job")
        == restarts
    )
    site.assert_done("timed", restarts)
    site.assert_done("plain", restarts=0)
    assert_same_weights(site.run("timed"), site.run("plain"))


def test_a_job_preempted_before_its_run_started_is_requeued(site: Site) -> None:
    number = site.submit("early", max_steps=20, save_steps=100_000)
    site.cluster.wait_for_state(number, "RUNNING", 60)
    site.cluster.wait_for((site.mount.jobs / "early" / "started").exists, 20)
    time.sleep(2)  # Python starts
    site.cluster.queue("sleep 1", "--partition=high", "--nodes=2", "--exclusive")
    site.wait_for_end("early", number)
    assert site.cluster.job(number)["Restarts"] == "1"
    site.assert_done("early", restarts=0)


def test_a_cancelled_job_saves_and_stays_cancelled(site: Site) -> None:
    number = site.submit("cancelled", **LONG)
    site.wait_for_steps("cancelled")
    assert site.call("cancel", "cancelled").stdout == f"cancelling slurm job {number}\n"
    site.wait_for_end("cancelled", number, "CANCELLED")
    assert_saved(site, "cancelled", "SIGTERM")
    time.sleep(15)  # longer than a requeued job waits
    job = site.cluster.job(number)
    assert (job["JobState"], job["Restarts"]) == ("CANCELLED", "0")
    assert (
        site.call("cancel", "cancelled").stdout
        == "cancelled has no active job; nothing to cancel\n"
    )
    step = read_status(site.run("cancelled"))["step"]
    shown = site.call("status", "cancelled").stdout
    assert shown.startswith(f"cancelled: saved, step {step}/100000\n")


def test_a_stopped_job_is_not_done(site: Site) -> None:
    """Stopped by the user's file `stop`: a dependent job does not start."""
    number = site.submit("stopped", **LONG)
    model = {"model_init_name": "stopped/checkpoint-100000"}
    after = site.submit("after", "--dependency", "stopped", **EVALUATE, **model)
    site.wait_for_steps("stopped")
    (site.run("stopped") / "stop").touch()
    site.wait_for_end("stopped", number, "FAILED")
    assert site.cluster.job(number)["ExitCode"] == "75:0"
    assert_saved(site, "stopped", f"the file {site.run('stopped') / 'stop'}")
    site.wait_for_end("after", after, "CANCELLED")
    assert site.call("status", "after").stdout == (
        "after: cancelled\n  CANCELLED, DependencyNeverSatisfied\n"
        f"  slurm job {after}\n  {site.run('after')}\n"
    )


def test_a_job_waits_for_another(site: Site) -> None:
    first = site.submit("trained", **site.lasting(200))  # until the other one was inspected
    setup = ("--gpus_per_node", "1", "--setup", "echo sees $CUDA_VISIBLE_DEVICES")
    model = {"model_init_name": "trained/checkpoint-200", "device": "cpu"}
    second = site.submit("judged", "--dependency", "trained", *setup, **EVALUATE, **model)
    shown = site.call("status", "judged").stdout
    assert shown.startswith("judged: pending\n  Dependency\n")
    site.wait_for_end("trained", first)
    site.wait_for_end("judged", second)
    site.assert_done("judged", restarts=0)
    answers = samples(site.run("judged"))
    assert [item["orig_d"] for item in answers] == addition_records(7, start=5)
    assert answers == samples(site.run("trained"))
    assert site.log("judged").startswith("sees 0\n")


def test_an_earlier_command_line(site: Site) -> None:
    """A command line of another tool: `data` is the shared folder, here the project's parent."""
    command = (
        f'bash -c "export OMP_NUM_THREADS=1; cd data/{ROOT.name}; python3 seq2seq.py '
        "--model_init_name t5-tiny --data_name sums --training_run_name original --max_steps 2 "
        '--device cpu"'
    )
    site.call(
        "submit", "slurm", "--name", "0216synexplain", "--shared-host-dir", str(ROOT.parent),
        "--gpu", "1", "--command", command,
    )  # fmt: skip
    record = read_record(folder_of(site.mount, "original"))
    assert record is not None
    assert site.cluster.job(record.identity)["JobName"] == "0216synexplain"
    site.wait_for_end("original", record.identity)
    site.assert_done("original", restarts=0)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--slurm", "partition=nowhere"), "sbatch: invalid partition specified: "
         "nowhere; allocation failure: Invalid partition name specified (expected a job that "
         "Slurm accepts). Hint: correct the cluster flags (sinfo lists partitions)."),
        (("--num_nodes", "3"), "sbatch: allocation failure: Requested node configuration is "
         "not available (expected a job that Slurm accepts). Hint: correct the cluster flags "
         "(sinfo lists partitions)."),
        (("--dependency", "99999"), "--dependency '99999': slurm job 99999 is neither queued nor "
         "running, but gone (expected a run whose job is queued, running or done, or a job ID). "
         "Hint: resubmit that job first, or remove --dependency if it succeeded."),
    ],
)  # fmt: skip
def test_what_slurm_would_refuse_is_not_queued(
    site: Site, words: tuple[str, ...], line: str
) -> None:
    job = ("--", "seq2seq.py", "--model_init_name", "t5-tiny", "--data_name", "sums")
    done = site.call("submit", "slurm", *words, *job, status=2)
    assert [shown for shown in done.stderr.splitlines() if "). Hint: " in shown] == [line]
    assert not folder_of(site.mount, "t5-tiny_sums_0").exists()


@pytest.mark.parametrize("by", ["Slurm", "hand"])
def test_requeues_are_limited(site: Site, by: str) -> None:
    number = site.submit(by, "--max_restarts", "0", **LONG)
    site.wait_for_steps(by)
    if by == "Slurm":
        site.cluster.queue("sleep 1", "--partition=high", "--nodes=2", "--exclusive")
    else:
        site.cluster.run("scontrol", "requeue", number)
    site.wait_for_end(by, number, "FAILED")
    assert site.cluster.job(number)["Restarts"] == ("0" if by == "Slurm" else "1")
    assert_saved(site, by, "SIGTERM")
    fact = "not requeued" if by == "Slurm" else "not restarted"
    reason = "reached the limit of 0 restarts (--max_restarts)"
    assert site.log(by).endswith(f"{fact}: {reason}\n")


@pytest.mark.parametrize("accounting", [False, True])
def test_a_job_that_the_controller_has_forgotten(tmp_path: Path, accounting: bool) -> None:
    """A job that failed before its run started, and a job cancelled before it started."""
    mount = make_site_mount(tmp_path / "mount")
    with SlurmCluster(accounting, min_job_age=2) as cluster:
        site = Site(cluster, mount)
        failed = site.submit("failed", "--setup", "echo about to fail; exit 3", max_steps=1)
        never = site.submit("never", "--slurm", "hold", max_steps=1)
        site.call("cancel", "never")
        site.cluster.wait_for(lambda: not cluster.job(failed) and not cluster.job(never), 150)
        assert (mount.jobs / "failed" / "log").read_text() == "about to fail\n"
        title = f"slurm job {failed}{' on node1' if accounting else ''}"
        assert site.call("status", "failed").stdout == (
            f"failed: failed\n  {'FAILED' if accounting else BEFORE}\n  {title}\n"
            f"  {site.run('failed')}\n  end of its log:\n    about to fail\n"
        )
        state = "cancelled\n  CANCELLED by 0" if accounting else f"failed\n  {BEFORE}"
        assert site.call("status", "never").stdout == (
            f"never: {state}\n  slurm job {never}\n  {site.run('never')}\n"
        )
        assert site.call("logs", "failed").stdout == "about to fail\n"


def test_missing_slurm_commands_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing() == missing(accounting=True) == ""
    monkeypatch.setattr("slurm_cluster.PACKAGES", {"no-such-command": "its-package"})
    message = "no-such-command not found: apt-get install --no-install-recommends its-package"
    assert missing() == message
    with pytest.raises(RuntimeError, match=message), SlurmCluster():
        pass
