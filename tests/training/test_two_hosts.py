"""A job over two hosts: network namespaces joined by a pair of virtual interfaces (root only)."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from test_processes import job, run_world

from workflow.runs.mount import Mount

Lines = Callable[[Path], list[dict[str, Any]]]
ADDRESSES = ("10.213.7.1", "10.213.7.2")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[list[tuple[str, str]]]:
    """Two hosts that see nothing but each other: the name and the interface of each."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root, and ip of iproute2")
    unique = os.getpid()
    names = [f"workflow{unique}{letter}" for letter in "ab"]
    links = [f"wf{unique}{letter}" for letter in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr!r}")
    try:
        ip("link", "add", links[0], "type", "veth", "peer", "name", links[1])
        for name, link, address in zip(names, links, ADDRESSES, strict=True):
            ip("link", "set", link, "netns", name)
            ip("-n", name, "address", "add", f"{address}/24", "dev", link)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", link, "up")
        yield list(zip(names, links, strict=True))
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def test_two_hosts_train_as_one_process_does(
    mount: Mount, hosts: list[tuple[str, str]], read_lines: Lines
) -> None:
    """Two processes a host under torchrun, which meet at the first host's address."""
    names = {1: "near-1", 3: "near-3"}
    jobs = [job("seq2seq", name, zero_stage=stage) for stage, name in names.items()]
    (mount.root / "jobs.json").write_text(json.dumps(jobs))
    script = [str(ROOT / "benchmarks" / "several_jobs.py"), str(mount.root)]
    started = []
    for rank, (name, link) in enumerate(hosts):
        launcher = [
            "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2",
            "--rdzv-backend=c10d", f"--rdzv-endpoint={ADDRESSES[0]}:29417",
            f"--rdzv-conf=is_host={int(rank == 0)}", "--rdzv-id=two-hosts",
            f"--local-addr={ADDRESSES[rank]}",
        ]  # fmt: skip
        command = [sys.executable, *launcher, *script, str(mount.root / "jobs.json")]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": link}
        started.append(
            subprocess.Popen(
                ["ip", "netns", "exec", name, *command], env=environment, text=True,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )
        )  # fmt: skip
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
