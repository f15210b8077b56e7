"""The world of a process, in environments recorded from torchrun, deepspeed and Slurm 22.05."""

import os
import re

import pytest

from workflow.core.errors import BadInput
from workflow.distributed.rendezvous import (
    FIRST_PORT,
    PORTS,
    Membership,
    find_world,
    first_host,
    join,
    tasks_by_node,
)

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
PLACE = Membership(3, 4, 1, 2, "node1", 29500)
DEEPSPEED = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_SIZE": "2",
    "CROSS_RANK": "1",
    "CROSS_SIZE": "2",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
}
POD = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"}

SALLOC = {  # a plain shell: no ranks
    "SLURM_JOB_ID": "2",
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_NNODES": "2",
    "SLURM_NTASKS": "3",
    "SLURM_TASKS_PER_NODE": "2,1",
}
BATCH = SALLOC | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
TASK = {  # srun of three tasks on two nodes, seen by the last
    "SLURM_JOB_ID": "1",
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "3",
    "SLURM_PROCID": "2",
    "SLURM_STEP_ID": "1",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
    "SLURM_TASKS_PER_NODE": "2,1",
}
ONE_TASK = TASK | {
    "SLURM_NODEID": "0",
    "SLURM_NTASKS": "1",
    "SLURM_PROCID": "0",
    "SLURM_STEP_NODELIST": "node1",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_STEP_TASKS_PER_NODE": "1",
    "SLURM_TASKS_PER_NODE": "1",
}
INTERACTIVE = ONE_TASK | {  # salloc with LaunchParameters=use_interactive_step
    "SLURM_NTASKS": "3",
    "SLURM_PTY_PORT": "43449",
    "SLURM_STEP_ID": "4294967290",
    "SLURM_TASKS_PER_NODE": "2,1",
}
# sbatch called by a task of a step of three: the step's own variables are in the new job too
BATCH_OF_A_TASK = TASK | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_NODEID": "0"}


@pytest.mark.parametrize("environment", [TORCHRUN, DEEPSPEED, TASK | TORCHRUN])
def test_a_launchers_variables_come_first(environment: dict[str, str]) -> None:
    assert find_world(environment) == PLACE


def test_one_process_a_pod_is_alone_on_its_machine() -> None:
    assert find_world(POD) == Membership(1, 2, 0, 1, "job-master-0", 23456)


def test_a_launchers_world_of_one_stays_one() -> None:
    one = TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    assert find_world(one) == Membership(0, 1, 0, 1, "node1", 29500)


@pytest.mark.parametrize(
    "environment", [{}, {"WORLD_SIZE": "1"}, {"RANK": ""}, SALLOC, BATCH, ONE_TASK, INTERACTIVE]
)
def test_no_launcher_no_world(environment: dict[str, str]) -> None:
    assert find_world(environment) is None


def test_the_tasks_of_a_slurm_step_are_a_world() -> None:
    worlds = [
        find_world(TASK | {"SLURM_PROCID": rank, "SLURM_LOCALID": local, "SLURM_NODEID": node})
        for rank, local, node in [("0", "0", "0"), ("1", "1", "0"), ("2", "0", "1")]
    ]
    port = FIRST_PORT + 102
    assert worlds == [
        Membership(0, 3, 0, 2, "node1", port),
        Membership(1, 3, 1, 2, "node1", port),
        Membership(2, 3, 0, 1, "node1", port),
    ]


def test_a_given_master_address_is_used() -> None:
    world = find_world(TASK | {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "4000"})
    assert world == Membership(2, 3, 0, 1, "10.0.0.7", 4000)


def test_steps_meet_at_ports_of_their_own() -> None:
    ports = []
    for job in range(67_000_000, 67_000_050):
        for step in range(4):
            names = {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}
            world = find_world(TASK | names)
            assert world is not None
            ports.append(world.master_port)
    assert len(set(ports)) == len(ports)
    assert min(ports) >= FIRST_PORT
    assert max(ports) < FIRST_PORT + PORTS <= 30_000


@pytest.mark.parametrize(
    ("environment", "wrong"),
    [
        (TORCHRUN | {"RANK": "x"}, ["RANK: 'x' (expected an integer from 0 to"]),
        (TORCHRUN | {"RANK": "-1"}, ["RANK: '-1' (expected an integer from 0 to"]),
        (TORCHRUN | {"RANK": "4"}, ["RANK: '4' (expected less than 4, the value of WORLD_SIZE"]),
        (TORCHRUN | {"LOCAL_RANK": "2"}, ["LOCAL_RANK: '2' (expected at most 1"]),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "5"}, ["LOCAL_WORLD_SIZE: '5' (expected at most"]),
        (TORCHRUN | {"MASTER_PORT": "70000"}, ["MASTER_PORT: '70000' (expected"]),
        (POD | {"LOCAL_RANK": "0"}, ["LOCAL_WORLD_SIZE: not set (expected"]),
        (
            {"RANK": "0"},
            [f"{name}: not set" for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")],
        ),
        ({"WORLD_SIZE": "4"}, ["WORLD_SIZE: '4' (expected RANK, MASTER_ADDR and MASTER_"]),
        (TASK | {"WORLD_SIZE": "2"}, ["WORLD_SIZE: '2' (expected 3, as SLURM_STEP_NUM_TASKS"]),
        (TASK | {"SLURM_PROCID": "3"}, ["SLURM_PROCID: '3' (expected"]),
        (TASK | {"SLURM_NODEID": "2"}, ["SLURM_NODEID: '2' (expected"]),
        (TASK | {"SLURM_STEP_TASKS_PER_NODE": "2;1"}, ["SLURM_STEP_TASKS_PER_NODE: '2;1'"]),
        (TASK | {"SLURM_STEP_NODELIST": ""}, ["MASTER_ADDR: not set (expected"]),
        (BATCH_OF_A_TASK, ["SLURM_NTASKS: '1' (expected 3, as SLURM_STEP_NUM_TASKS"]),
    ],
)
def test_invalid_or_contradictory_variables_are_reported(
    environment: dict[str, str], wrong: list[str]
) -> None:
    with pytest.raises(BadInput) as raised:
        find_world(environment)
    lines = [str(problem) for problem in raised.value.problems]
    assert len(lines) == len(wrong)
    for line, start in zip(lines, wrong, strict=True):
        assert re.match(re.escape(f"environment variable {start}"), line)


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("node[01-03,07],other5", "node01"),
        ("node[7,9-11]", "node7"),
        ("rack[1-2]-node[003-004].local,b", "rack1-node003.local"),
        ("other5,node[01-03]", "other5"),
        ("", ""),
    ],
)
def test_the_first_host(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


@pytest.mark.parametrize(
    ("counts", "tasks"),
    [("3", [3]), ("2(x3),1", [2, 2, 2, 1]), ("4,2(x2)", [4, 2, 2]), ("", None), ("2(3)", None)],
)
def test_tasks_by_node(counts: str, tasks: list[int] | None) -> None:
    assert tasks_by_node(counts) == tasks


def test_joining_gives_the_names_that_torch_reads() -> None:
    environment = dict(TASK)
    join(PLACE, environment)
    assert find_world(environment) == PLACE
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    assert {name: environment[name] for name in names} == {name: TORCHRUN[name] for name in names}


@pytest.mark.parametrize(
    ("given", "threads"),
    [
        ({}, "3"),
        ({"OMP_NUM_THREADS": "7"}, "7"),
        ({"OMP_NUM_THREADS": "1"}, "1"),
        ({"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "x"}, "3"),  # torchrun's own default
        ({"OMP_NUM_THREADS": "2", "TORCHELASTIC_RUN_ID": "x"}, "2"),
        # srun has divided them, but not among torchrun's processes of a task.
        ({"SLURM_CPU_BIND_TYPE": "mask_cpu:"}, str(3 * PLACE.local_size)),
        ({"SLURM_CPU_BIND_TYPE": "none"}, "3"),
        ({"SLURM_CPU_BIND_TYPE": "mask_cpu:", "RANK": "1"}, "3"),
    ],
)
def test_the_cores_are_divided_among_the_processes_of_a_machine(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], threads: str
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(3 * PLACE.local_size))
    environment = dict(given)
    join(PLACE, environment)
    assert environment["OMP_NUM_THREADS"] == threads
