"""Communication of processes: a single one without torch.distributed, and several over gloo."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Fork, finish, run_script

from workflow.core.errors import BadInput, Problem, RunFailed
from workflow.distributed.world import World

# What each process of a real world does; its last line is what it found.
MEMBER = """
import json, sys, time
import torch
import torch.distributed as dist
from torch.distributed import FileStore, PrefixStore
from workflow.core.errors import BadInput, Problem, RunFailed
from workflow.distributed.world import World

rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
store = FileStore(folder + "/store", size)
world = World(rank, size, size, store)
found, prepared = {}, []

def record(name, function):
    try:
        found[name] = function()
    except Exception as error:
        problems = [str(problem) for problem in getattr(error, "problems", [])]
        found[name] = [type(error).__name__, str(error), problems]

def refuse(kind):
    def raising():
        problem = Problem("--" + str(rank), "x", "y", "z")
        raise kind([problem, problem]) if kind is BadInput else kind("of rank %d" % rank)
    return raising

def make_slowly():
    if rank == 0:
        time.sleep(0.5)
    return rank, time.monotonic()

def refuse_to_prepare():
    prepared.append(rank)
    raise BadInput([Problem("--max_steps", "0", "more", "raise it")] * 2)

record("prepared", lambda: world.rank_zero_first(make_slowly))
record("decided", lambda: world.rank_zero_first(
    lambda: [rank, world.decided_by_rank_zero(lambda: ["by", rank])]
))
unprepared = World(rank, size, size, PrefixStore("another job", store))
record("refused", lambda: unprepared.rank_zero_first(refuse_to_prepare))
assert prepared == [0] * world.is_rank_zero  # the others do not even try
assert not dist.is_initialized()  # before it begins, the main one may take its time
world.begin(torch.device("cpu"))
world.begin(torch.device("cpu"))  # again: nothing
found["backend"] = dist.get_backend()
record("gather", lambda: world.gather({"rank": rank}))
record("on main", lambda: world.gather_on_rank_zero("x" * rank))
record("sum", lambda: world.sum(0.1 * 3 ** rank))
record("by main", lambda: world.on_rank_zero(lambda: ["of", rank]))
record("nothing", lambda: world.on_rank_zero(lambda: None))
for kind in (BadInput, RunFailed, FileExistsError):
    record(kind.__name__, lambda: world.on_rank_zero(refuse(kind)))
failure = BadInput([Problem("rank", str(rank), "y", "z")]) if rank > 0 else None
record("agree", lambda: [type(world.agree(failure)).__name__, str(world.agree(failure))])
record("agreed", lambda: world.agree(None))
record("still there", lambda: world.sum(rank))
found["files"] = [number for number in range(7) if world.has_file(number)]
world.end()
world.end()
assert not dist.is_initialized()
print(json.dumps(found))
"""


def run_world(body: str, size: int, folder: Path) -> list[Any]:
    """What each process of a world of `size` prints last, by rank."""
    script = folder / "member.py"
    script.write_text(body)
    members = finish(
        Fork(run_script, script, str(rank), str(size), str(folder)) for rank in range(size)
    )
    assert [member.returncode for member in members] == [0] * size, members
    return [json.loads(member.stdout.splitlines()[-1]) for member in members]


@pytest.mark.parametrize("size", [2, 3])
def test_a_real_world_of_processes(tmp_path: Path, size: int) -> None:
    found = run_world(MEMBER, size, tmp_path)
    prepared = [one.pop("prepared") for one in found]
    assert [rank for rank, _ in prepared] == list(range(size))
    assert prepared[0][1] == min(time for _, time in prepared)  # the others wait for the main one
    decided = [one.pop("decided") for one in found]
    assert decided == [[rank, ["by", 0]] for rank in range(size)]
    files = [one.pop("files") for one in found]
    assert sorted(number for numbers in files for number in numbers) == list(range(7))
    assert max(map(len, files)) - min(map(len, files)) <= 1
    problem = "--max_steps: 0 (expected more). Hint: raise it."
    refused = [one.pop("refused") for one in found]
    assert refused[0] == ["BadInput", f"{problem}\n{problem}\n(2 problems in all)", [problem] * 2]
    for name, told, _ in refused[1:]:
        assert name == "BadInput"
        assert problem in told
    of_main = found[0].pop("on main")
    assert of_main == ["x" * rank for rank in range(size)]
    assert [one.pop("on main") for one in found[1:]] == [None] * (size - 1)
    problem = "--0: x (expected y). Hint: z."
    expected = {
        "backend": "gloo",
        "gather": [{"rank": rank} for rank in range(size)],
        "sum": sum(0.1 * 3**rank for rank in range(size)),
        "by main": ["of", 0],
        "nothing": None,
        "BadInput": [
            "BadInput", f"{problem}\n{problem}\n(2 problems in all)", [problem, problem],
        ],
        "RunFailed": ["RunFailed", "of rank 0", []],
        "FileExistsError": ["FileExistsError", "of rank 0", []],
        "agree": ["BadInput", "rank: 1 (expected y). Hint: z."],
        "agreed": None,
        "still there": size * (size - 1) / 2,
    }  # fmt: skip
    assert found == [expected] * size


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> World:
    """A world of one, which must not use torch.distributed."""

    def touched(*_: Any, **__: Any) -> None:
        raise AssertionError("torch.distributed was used")

    for name in ("init_process_group", "all_gather_object", "gather_object",
                 "broadcast_object_list"):  # fmt: skip
        monkeypatch.setattr(torch.distributed, name, touched)
    return World()


def test_alone_there_is_nothing_to_set_up(alone: World) -> None:
    alone.begin(torch.device("cpu"))
    assert (alone.rank, alone.size, alone.local_size, alone.is_rank_zero) == (0, 1, 1, True)
    assert alone.rank_zero_first(lambda: "prepared") == "prepared"
    assert alone.decided_by_rank_zero(lambda: "decided") == "decided"
    assert alone.gather({"a": 1}) == alone.gather_on_rank_zero({"a": 1}) == [{"a": 1}]
    assert alone.sum(0.3) == 0.3
    assert alone.on_rank_zero(lambda: "made") == "made"
    assert alone.agree(None) is None
    assert all(map(alone.has_file, range(5)))
    error = RunFailed("stopped")
    assert alone.agree(error) is error
    alone.end()
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    "error", [BadInput([Problem("a", "b", "c", "d")]), OSError(28, "full"), ZeroDivisionError()]
)
def test_alone_errors_come_as_they_are(alone: World, error: Exception) -> None:
    def fail() -> None:
        raise error

    for function in (alone.on_rank_zero, alone.rank_zero_first, alone.decided_by_rank_zero):
        with pytest.raises(type(error)) as raised:
            function(fail)
        assert raised.value is error


def test_a_world_of_one_can_talk_to_itself_where_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed needs a process group for a single process too."""
    monkeypatch.setenv("LOCAL_RANK", "0")  # which it would set for good
    world = World()
    world.begin(torch.device("cpu"), alone_too=True)
    try:
        assert torch.distributed.get_world_size() == 1
        assert world.gather("x") == ["x"]
    finally:
        world.end()
    assert not torch.distributed.is_initialized()
