"""A job over two hosts without any help: machines made of network namespaces (Linux, root).

As on Debian, each machine's own name is a loopback address there.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from own_network import OwnNetwork
from test_processes import job, run_world

from workflow.distributed.network import LONGEST_MEETING
from workflow.runs.mount import Mount

Lines = Callable[[Path], list[dict[str, Any]]]
FIRST, SECOND = "first", "second"
NODE = str(ROOT / "workflow/cluster/slurm/node.py")
FLAGS = ("--model_init_name", "t5-tiny", "--data_name", "sums")
STEP = {
    "SLURM_JOB_ID": 7, "SLURM_STEP_ID": 0, "SLURM_STEP_NUM_TASKS": 2, "SLURM_NTASKS": 2,
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_STEP_NODELIST": f"{FIRST},{SECOND}",
    "SLURM_LOCALID": 0, "MASTER_PORT": 19417,
}  # fmt: skip
"""Variables of a step of one task a host, whose names are those of Slurm."""
SEQ2SEQ = str(ROOT / "seq2seq.py")
JOBS = str(ROOT / "benchmarks" / "several_jobs.py")
IN_SECONDS = 4
LESS_PATIENT = f"""
import runpy, sys
from workflow.distributed import network
network.LONGEST_MEETING = {IN_SECONDS}
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script that waits less."""
Words = tuple[str, ...]
Started = "subprocess.Popen[str]"


class Hosts:
    """Two machines on one network, and their processes."""

    def __init__(self, folder: Path):
        self.network = OwnNetwork([FIRST, SECOND])
        self._files: dict[str, Path] = {}
        for name in self.network.addresses:
            known = self.network.addresses | {name: "127.0.1.1", "localhost": "127.0.0.1"}
            self._files[name] = folder / f"hosts of {name}"
            self._files[name].write_text("".join(f"{at} {one}\n" for one, at in known.items()))

    def run(self, name: str, line: str) -> None:
        subprocess.run(self.network.on(name, line, self._files[name]), check=True)

    def start(self, name: str, words: Words, **variables: object) -> Started:
        """Python, with only these variables of a launcher."""
        line = shlex.join([sys.executable, *words])
        return subprocess.Popen(
            self.network.on(name, f"exec {line}", self._files[name]),
            env=os.environ | {"OMP_NUM_THREADS": "1"} | {k: str(v) for k, v in variables.items()},
            cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "nsenter", "unshare"))):
        pytest.skip("needs root, ip of iproute2, nsenter and unshare of util-linux")
    made = Hosts(tmp_path)
    try:
        made.network.make()
    except AssertionError as error:
        made.network.remove()
        pytest.skip(f"no network namespaces here: {error}")
    yield made
    made.network.remove()


def by_torchrun(hosts: Hosts, words: Words) -> list[Started]:
    """As the batch script starts them, two processes a host, which meet at the first's name."""
    options = (FIRST, "19417", "--nnodes=2", "--nproc-per-node=2", "--rdzv-id=two-hosts")
    return [
        hosts.start(name, (NODE, *options, *words), SLURM_NODEID=rank)
        for rank, name in enumerate((FIRST, SECOND))
    ]


def by_srun(hosts: Hosts, words: Words) -> list[Started]:
    return [
        hosts.start(name, words, **STEP, SLURM_PROCID=rank, SLURM_NODEID=rank)
        for rank, name in enumerate((FIRST, SECOND))
    ]


@pytest.mark.parametrize("start", [pytest.param(by_torchrun, marks=pytest.mark.slow), by_srun])
def test_two_hosts_train_as_one_process_does(
    mount: Mount, hosts: Hosts, read_lines: Lines, start: Callable[[Hosts, Words], list[Started]]
) -> None:
    names = {1: "near-1", 3: "near-3"}
    jobs = [job("seq2seq", name, zero_stage=stage) for stage, name in names.items()]
    (mount.root / "jobs.json").write_text(json.dumps(jobs))
    started = start(hosts, (JOBS, str(mount.root), str(mount.root / "jobs.json")))
    told = [process.communicate(timeout=250)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], told
    run_world(mount, 1, [job("seq2seq", "plain")])
    wanted = read_lines(mount.models / "plain" / "train_log.jsonl")
    for name in names.values():
        found = read_lines(mount.models / name / "train_log.jsonl")
        for figure in ("loss", "grad_norm"):
            assert [line[figure] for line in found] == pytest.approx(
                [line[figure] for line in wanted], rel=2e-6
            )


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        ((NODE, FIRST, "19417", "--nnodes=2", JOBS), {"SLURM_NODEID": 1}),
        pytest.param(
            (SEQ2SEQ, *FLAGS),
            STEP | {"SLURM_PROCID": 1, "SLURM_NODEID": 1},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_host_that_cannot_reach_the_first_says_so(
    hosts: Hosts, words: Words, variables: dict[str, object]
) -> None:
    hosts.network.connect(FIRST, up=False)
    process = hosts.start(SECOND, ("-c", LESS_PATIENT, *words), **variables)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert f"{SECOND} cannot reach {FIRST}:19417 within {IN_SECONDS} s: No route to host" in told
    assert "Hint: look for errors of the job's other processes, and for a firewall" in told
    assert "Traceback" not in told
    assert LONGEST_MEETING < 120


def test_hosts_that_do_not_accept_each_others_connections_say_so(hosts: Hosts) -> None:
    """The second only lets packets for the store pass: gloo would wait for hours."""
    rule = "ip rule add ipproto tcp dport 20000-65534 unreachable"
    hosts.run(SECOND, rule)
    started = by_srun(hosts, (SEQ2SEQ, *FLAGS))
    told = [process.communicate(timeout=100)[1] for process in started]
    assert [process.returncode for process in started] == [1, 1], told
    address = re.escape(hosts.network.addresses[SECOND])
    assert re.search(rf"{FIRST} cannot reach {address}:\d+ within 10 s: timed out", told[0])
    assert "cannot reach" not in told[1]  # once is enough
    assert "Traceback" not in "".join(told)
