"""Sweeps as job arrays on a real Slurm: each task is the job of its run."""

import json
from collections.abc import Iterator

import pytest
from slurm_cluster import SlurmCluster
from slurm_site import TRAIN, WORLD, Site, make_site_mount

from workflow.cluster.job_record import folder_of, read_record
from workflow.runs.status import read_spec, read_status

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    mount = make_site_mount(tmp_path_factory.mktemp("arrays") / "mount")
    with SlurmCluster() as cluster:
        yield Site(cluster, mount)


def numbers(site: Site, *runs: str) -> list[str]:
    records = [read_record(folder_of(site.mount, run)) for run in runs]
    return [record.identity for record in records if record is not None]


def sweep(site: Site, name: str, *words: str, time: str = "10m", **flags: object) -> list[str]:
    """Submit a sweep; returns the lines of its log, without times."""
    path = site.mount.root / f"{name}.json"
    path.write_text(json.dumps({"task": "seq2seq", **TRAIN, **flags}))
    submit = ("--", "submit", "slurm", "--envs", "OMP_NUM_THREADS=1", "--time", time)
    done = site.call("sweep", "--config", str(path), *words, *submit)
    return [line.partition(" ")[2] for line in done.stderr.splitlines()]


def test_each_task_is_the_job_of_its_run(site: Site) -> None:
    """One task fails and is submitted again; those that are done or active are not."""
    grid = ("--grid", "learning_rate=1e-3,1e-2", "--seeds", "2", "--at_once", "2")
    runs = [f"rates/learning_rate={rate},seed={n}" for rate in ("1e-3", "1e-2") for n in (0, 1)]
    blocked = site.run(runs[1])
    lines = sweep(site, "rates", *grid, max_steps=4)
    found = numbers(site, *runs)
    array = found[0].removesuffix("_0")
    assert found == [f"{array}_{index}" for index in range(4)]
    assert lines[-1] == f"submitted 4 runs as slurm job {array}, an array"
    assert sweep(site, "rates", *grid, max_steps=4)[-1].startswith(f"{runs[3]} is pending already")
    site.call("cancel", runs[3])
    for run, number in zip(runs[:3], found, strict=False):
        site.wait_for_end(run, number)
        site.assert_done(run, restarts=0)
        assert "smoke" not in site.log(run) and "step 4/4" in site.log(run)
        assert read_spec(site.run(run))["training_run_name"] == run
    assert "step 4/4" not in site.log(runs[3])
    listed = site.call("list").stdout
    assert [run in listed for run in runs] == [True] * 4
    assert f"slurm job {array}_2" in site.call("status", runs[2]).stdout
    lines = sweep(site, "rates", *grid, max_steps=4)
    assert lines[0] == "3 of 4 runs are done already"
    (number,) = numbers(site, runs[3])
    assert lines[-1] == f"submitted 1 runs as slurm job {number[:-2]}, an array"
    site.wait_for_end(runs[3], number)
    assert not blocked.is_symlink()
    table = site.call("compare", "rates", "--by_seed").stdout.splitlines()
    assert [row.split()[1] for row in table[1:3]] == ["2", "2"]


def test_a_task_at_its_time_limit_is_requeued_alone(site: Site) -> None:
    """Also the task that has the number of the whole array."""
    lasting = site.lasting(300)
    sweep(site, "timed", "--grid", "max_steps=4,300", "--seeds", "1", time="2m", **lasting)
    short, long = (f"timed/max_steps={steps},seed=0" for steps in (4, 300))
    of_short, of_long = numbers(site, short, long)
    site.wait_for_end(short, of_short)
    site.cluster.wait_for(
        lambda: read_status(site.run(long)).get("state") == "done", 2 * WORLD, "not done"
    )
    site.wait_for_end(long, of_long)
    restarts = read_status(site.run(long))["restarts"]
    assert restarts > 0
    site.assert_done(short, restarts=0)
    site.assert_done(long, restarts)
    assert site.log(long).count("saving, then requeueing the job") == restarts
