"""Checkpoints are found, rotated, and atomic, whoever writes or reads them."""

import errno
import gc
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch
from conftest import ROOT, make_t5, rows_of
from safetensors.torch import load_file
from transformers import PreTrainedModel

import workflow.runs.checkpoint
from workflow import make_job
from workflow.config.job import resolve_defaults
from workflow.core.checksums import CHECKSUM_FILE, find_damage, write_checksums
from workflow.core.console import log
from workflow.core.errors import RunFailed
from workflow.core.files import discard_folder
from workflow.distributed.world import World
from workflow.models.batch import make_batch
from workflow.models.loading import load_model, save_settings
from workflow.models.safetensors_writer import Files, Tensors, plan_files, write_tensors
from workflow.runs.checkpoint import (
    CheckpointContents,
    can_resume,
    find_checkpoints,
    hold_for_reading,
    remove_leftovers,
    rotate_checkpoints,
    write_checkpoint,
)
from workflow.tasks.seq2seq import Seq2Seq
from workflow.training.engines.single import SingleProcessEngine

STATE = {
    "format": 1,
    "progress": {"step": 2, "best_value": None, "note": "käse\u2028"},
    "rates": [0.1],
}
MOMENTS = ("optimizer.safetensors", "state.json")
WEIGHTS = (
    "config.json", "generation_config.json", "model.safetensors", "spiece.model", "tokenizer.json",
    "tokenizer_config.json", "task.json",
)  # fmt: skip
FILES = (*WEIGHTS, *(f"resume/{name}" for name in MOMENTS))
LISTS = (CHECKSUM_FILE, f"resume/{CHECKSUM_FILE}")
TOLD = (
    "step 2: {run}/checkpoint-2 could not be written: {error}. Hint: fix the cause, then rerun "
    "the same command, which {left}"
)
LEFT = "resumes from checkpoint-1"
FULL = "[Errno 28] No space left on device"


def make_engine(**flags: Any) -> SingleProcessEngine:
    """An engine on a small model that was trained on one batch."""
    flags = {"max_steps": 9, "warmup_steps": 0, "learning_rate": 0.01, "bf16": False} | flags
    spec = make_job("seq2seq", model_init_name="m", data_name="d", **flags)
    spec = resolve_defaults(spec, "run", 10, 5, fast_bf16=False)
    task = Seq2Seq()
    engine = SingleProcessEngine(make_t5(), spec, lambda model, batch: task.loss(model, batch, 0.0))
    rows = rows_of([[[3, 4, 5, 1]], [[6, 1]]], [[[0, 7]], [[0]]])
    batch = make_batch(rows, torch.tensor([7, 1, 8]), 0)
    loss = engine.add_gradient(batch, 1 / 3, last=True)
    assert engine.update(loss[None]).gradient_norm > 0
    return engine


@pytest.fixture(scope="module")
def engine() -> SingleProcessEngine:
    return make_engine()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    made = tmp_path / "run"
    made.mkdir()
    return made


def save(run: Path, step: int, engine: Any, tokenizer: Any, world: World | None = None) -> int:
    written = CheckpointContents(
        stem="model",
        tensors=engine.tensors(),
        optimizer_state=engine.optimizer_state(),
        write_settings=partial(save_settings, engine.model, tokenizer),
        state=STATE,
        task={"task": "seq2seq"},
    )
    return write_checkpoint(run, step, written, world or World())


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file and (as None) every folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def tensors_of(tensors: Tensors) -> dict[str, torch.Tensor]:
    return {name: tensor.take().clone() for name, tensor in tensors.items()}


def assert_equal(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], tensor), name


# --- writing -------------------------------------------------------------------------------------


def test_a_checkpoint_has_these_files_and_no_others(
    run: Path, engine: SingleProcessEngine, tokenizer: Any
) -> None:
    save(run, 2, engine, tokenizer)
    assert [path.name for path in run.iterdir()] == ["checkpoint-2"]
    folder = run / "checkpoint-2"
    assert contents(folder).keys() == {*FILES, *LISTS, "resume"}
    assert find_checkpoints(run) == [2]
    assert can_resume(folder)
    assert json.loads((folder / "resume" / "state.json").read_text()) == STATE
    for part, names in ((folder, WEIGHTS), (folder / "resume", MOMENTS)):
        assert json.loads((part / CHECKSUM_FILE).read_text()).keys() == set(names)
        assert find_damage(part) == []


@pytest.mark.parametrize("optim", ["adamw_torch", "adafactor"])
@pytest.mark.parametrize("bf16", [False, True])
def test_a_checkpoint_holds_the_weights_and_the_moments_in_float32(
    run: Path, tokenizer: Any, optim: str, bf16: bool
) -> None:
    engine = make_engine(optim=optim, bf16=bf16)
    size = save(run, 2, engine, tokenizer)
    weights = load_file(run / "checkpoint-2" / "model.safetensors")
    optimizer_state = load_file(run / "checkpoint-2" / "resume" / "optimizer.safetensors")
    assert size == 4 * sum(
        tensor.numel() for tensor in (*weights.values(), *optimizer_state.values())
    )
    assert_equal(weights, tensors_of(engine.tensors()))
    assert_equal(optimizer_state, tensors_of(engine.optimizer_state()))
    assert_equal(load_model(run / "checkpoint-2").state_dict(), engine.master.state_dict())
    assert {name.rpartition(".")[0] for name in optimizer_state} == weights.keys()
    assert all(tensor.any() for name, tensor in optimizer_state.items() if name.endswith("exp_avg"))


def test_a_checkpoint_in_shards_is_whole_too(
    run: Path, engine: SingleProcessEngine, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(stem: str, tensors: Tensors, processes: int = 1) -> dict[str, list[str]]:
        return plan_files(stem, tensors, processes, 60_000)

    monkeypatch.setattr("workflow.runs.checkpoint.plan_files", cut)
    save(run, 2, engine, tokenizer)
    folder = run / "checkpoint-2"
    shards = {*cut("model", engine.tensors())}
    of_moments = {f"resume/{name}" for name in cut("optimizer", engine.optimizer_state())}
    assert min(len(shards), len(of_moments)) > 2
    whole = {*FILES, *LISTS, "resume"} - {"model.safetensors", "resume/optimizer.safetensors"}
    assert contents(folder).keys() == {*whole, *shards, *of_moments, "model.safetensors.index.json"}
    assert_equal(load_model(folder).state_dict(), engine.master.state_dict())
    for part in (folder, folder / "resume"):
        listed = json.loads((part / CHECKSUM_FILE).read_text())
        names = {path.name for path in part.iterdir() if path.is_file()}
        assert listed.keys() == names - {CHECKSUM_FILE}
        assert find_damage(part) == []


@pytest.mark.parametrize("most_bytes", [100_000, 10**9])
def test_large_weights_have_a_file_for_each_process(
    run: Path, engine: SingleProcessEngine, tokenizer: Any, monkeypatch: pytest.MonkeyPatch,
    most_bytes: int,
) -> None:  # fmt: skip
    weights = sum(tensor.bytes for tensor in engine.tensors().values())
    monkeypatch.setattr("workflow.runs.checkpoint.SHARD_BYTES", most_bytes)
    save_together(2, run, engine, tokenizer)
    files = sorted(path.name for path in (run / "checkpoint-2").glob("model*.safetensors"))
    large = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    assert files == (large if weights > most_bytes else ["model.safetensors"])
    assert_equal(load_model(run / "checkpoint-2").state_dict(), engine.master.state_dict())


# --- damage --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(
    engine: SingleProcessEngine, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A checkpoint that no test changes."""
    run = tmp_path_factory.mktemp("saved")
    save(run, 2, engine, tokenizer)
    return run / "checkpoint-2"


def test_a_changed_file_of_a_checkpoint_is_found(saved: Path, tmp_path: Path) -> None:
    """Core's tests of checksums cover the kinds of damage."""
    folder = tmp_path / "checkpoint-2"
    shutil.copytree(saved, folder)
    for name in FILES:
        with open(folder / name, "r+b") as file:
            last = file.seek(-1, os.SEEK_END)
            changed = bytes([file.read(1)[0] ^ 1])
            file.seek(last)
            file.write(changed)
    found = [problem.where for part in (folder, folder / "resume") for problem in find_damage(part)]
    assert sorted(found) == sorted(str(folder / name) for name in FILES)


# --- failures ------------------------------------------------------------------------------------

STAGES = [
    ("write_tensors", 1),
    ("write_tensors", 2),
    ("write_index", 1),
    ("write_checksums", 1),
    ("write_checksums", 2),
    ("finish_folder", 1),
]


def failing(stage: str, call: int, fail: Callable[[Path], object]) -> Callable[..., Any]:
    """A stage of a save that leaves half a file at its n-th call, and fails."""
    whole = getattr(workflow.runs.checkpoint, stage)
    calls = []

    def called(*given: Any) -> Any:
        calls.append(stage)
        if len(calls) != call:
            return whole(*given)
        folder = next(value for value in given if isinstance(value, Path))
        (folder / "model.safetensors").write_bytes(b"half")
        return fail(folder)

    return called


def no_space(folder: Path) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("stage", "call"), STAGES)
def test_a_save_that_fails_leaves_nothing_half_made(
    run: Path, engine: SingleProcessEngine, tokenizer: Any, stage: str, call: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    save(run, 1, engine, tokenizer)
    before = contents(run)
    with monkeypatch.context() as patched:
        patched.setattr(workflow.runs.checkpoint, stage, failing(stage, call, no_space))
        with pytest.raises(RunFailed) as raised:
            save(run, 2, engine, tokenizer)
    assert str(raised.value) == TOLD.format(run=run, error=FULL, left=LEFT)
    assert contents(run) == before
    assert find_checkpoints(run) == [1]
    save(run, 2, engine, tokenizer)  # once there is room
    assert find_damage(run / "checkpoint-2") == find_damage(run / "checkpoint-2" / "resume") == []
    assert contents(run / "checkpoint-2") == contents(run / "checkpoint-1")


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize(("stage", "call"), STAGES)
def test_a_save_that_is_broken_off_leaves_nothing_half_made(
    run: Path, engine: SingleProcessEngine, tokenizer: Any, stage: str, call: int,
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def fail(folder: Path) -> NoReturn:
        raise error

    monkeypatch.setattr(workflow.runs.checkpoint, stage, failing(stage, call, fail))
    with pytest.raises(error):
        save(run, 2, engine, tokenizer)
    assert contents(run) == {}


@pytest.mark.parametrize("name", [*FILES, *LISTS])
def test_a_full_disk_is_reported_for_every_file(
    run: Path, engine: SingleProcessEngine, tokenizer: Any, name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    save(run, 1, engine, tokenizer)
    before = contents(run)
    met = []

    def write(folder: Path, *given: Any) -> dict[str, str]:
        if (folder.name == "resume") is name.startswith("resume/"):
            (folder / Path(name).name).symlink_to("/dev/full")
            met.append(folder)
        return write_tensors(folder, *given)

    monkeypatch.setattr("workflow.runs.checkpoint.write_tensors", write)
    with pytest.raises(RunFailed, match=r"checkpoint-2 could not be written: .*No space left on"):
        save(run, 2, engine, tokenizer)
    if name.endswith(".safetensors"):
        gc.collect()  # a file that was left open is told here
    assert len(met) == 1
    assert contents(run) == before


@pytest.mark.parametrize("short", [1, 10_000_000])
def test_too_little_space_is_reported_before_anything_is_written(
    run: Path, engine: SingleProcessEngine, tokenizer: Any, short: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    size = save(run, 1, engine, tokenizer)
    before = contents(run)
    free = size + 20_000_000 - short

    def usage(path: Path) -> SimpleNamespace:
        assert path == run
        return SimpleNamespace(free=free)

    def begin(*given: Any) -> NoReturn:
        raise AssertionError("something was written")

    with monkeypatch.context() as patched:
        patched.setattr("workflow.runs.checkpoint.shutil.disk_usage", usage)
        patched.setattr("workflow.runs.checkpoint.begin_folder", begin)
        with pytest.raises(RunFailed) as raised:
            save(run, 2, engine, tokenizer)
        error = f"21 MB needed, {21 if short == 1 else 11} MB free"
        assert str(raised.value) == TOLD.format(run=run, error=error, left=LEFT)
        assert contents(run) == before
    free += short
    monkeypatch.setattr("workflow.runs.checkpoint.shutil.disk_usage", usage)
    save(run, 2, engine, tokenizer)
    assert find_checkpoints(run) == [1, 2]


def test_a_missing_run_folder_is_reported(
    run: Path, engine: SingleProcessEngine, tokenizer: Any
) -> None:
    run.rmdir()
    with pytest.raises(RunFailed) as raised:
        save(run, 2, engine, tokenizer)
    error = f"[Errno 2] No such file or directory: '{run}'"
    assert str(raised.value) == TOLD.format(run=run, error=error, left="starts over")
    assert not run.exists()


# --- several processes ---------------------------------------------------------------------------


class Meeting:
    """Where the threads of a world meet; a missing one is reported, not waited for."""

    def __init__(self, size: int):
        self.barrier = threading.Barrier(size, timeout=5)
        self.said: list[Any] = [None] * size


class OneOfThreads(World):
    """A process of a world whose processes are threads."""

    def __init__(self, rank: int, meeting: Meeting):
        super().__init__(rank, len(meeting.said), len(meeting.said))
        self._meeting = meeting

    def gather(self, value: Any) -> list[Any]:
        self._meeting.said[self.rank] = value
        self._meeting.barrier.wait()
        found = list(self._meeting.said)
        self._meeting.barrier.wait()
        return found

    def on_rank_zero(self, function: Callable[[], Any]) -> Any:
        result, failure = None, None
        if self.is_rank_zero:
            try:
                result = function()
            except Exception as error:
                failure = error
        result, failure = self.gather((result, failure))[0]
        if failure is not None:
            raise failure
        return result


class InStep:
    """An engine of which each tensor is taken by all processes at the same time."""

    def __init__(self, engine: SingleProcessEngine, world: World):
        self.model: PreTrainedModel = engine.model
        self._engine, self._world = engine, world

    def tensors(self) -> Tensors:
        return self._in_step(self._engine.tensors())

    def optimizer_state(self) -> Tensors:
        return self._in_step(self._engine.optimizer_state())

    def _in_step(self, tensors: Tensors) -> Tensors:
        return {
            name: replace(tensor, take=partial(self._take, name, tensor.take))
            for name, tensor in tensors.items()
        }

    def _take(self, name: str, take: Callable[[], torch.Tensor]) -> torch.Tensor:
        assert self._world.gather(name) == [name] * self._world.size
        return take()


def save_together(size: int, run: Path, engine: SingleProcessEngine, tokenizer: Any) -> list[Any]:
    """What writing checkpoint-2 returns or raises on each of several processes."""
    meeting = Meeting(size)

    def one(rank: int) -> Any:
        threading.current_thread().name = f"rank {rank}"
        world = OneOfThreads(rank, meeting)
        try:
            return save(run, 2, InStep(engine, world), tokenizer, world)
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))


@pytest.mark.parametrize("size", [2, 3, 5])
def test_processes_write_together_the_checkpoint_of_one(
    run: Path, engine: SingleProcessEngine, tokenizer: Any, saved: Path, size: int
) -> None:
    wanted = engine.tensors(), engine.optimizer_state()
    bytes_written = sum(tensor.bytes for tensors in wanted for tensor in tensors.values())
    assert save_together(size, run, engine, tokenizer) == [bytes_written] * size
    found, alone = contents(run / "checkpoint-2"), contents(saved)
    cut = {name for name in found if name.startswith("resume/optimizer-")}
    assert len(cut) == size  # so that all write at the same time
    assert found.keys() - cut == alone.keys() - {"resume/optimizer.safetensors"}
    differing = {name for name in found.keys() & alone.keys() if found[name] != alone[name]}
    assert differing == {f"resume/{CHECKSUM_FILE}"}
    optimizer_state = [load_file(run / "checkpoint-2" / name) for name in sorted(cut)]
    assert_equal(
        {name: t for part in optimizer_state for name, t in part.items()}, tensors_of(wanted[1])
    )
    listed = json.loads((run / "checkpoint-2" / "resume" / CHECKSUM_FILE).read_text())
    assert {f"resume/{name}" for name in listed} == {"resume/state.json", *cut}
    assert find_damage(run / "checkpoint-2") == find_damage(run / "checkpoint-2" / "resume") == []


@pytest.mark.parametrize("rank", [0, 2])
def test_a_write_error_of_one_process_is_raised_on_all(
    run: Path, engine: SingleProcessEngine, tokenizer: Any, rank: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    save(run, 1, engine, tokenizer)
    before = contents(run)

    def write(
        folder: Path, files: Files, tensors: Tensors, of_rank: int, size: int
    ) -> dict[str, str]:
        if folder.name == "resume" and of_rank == rank:
            (folder / list(files)[rank]).symlink_to("/dev/full")
        return write_tensors(folder, files, tensors, of_rank, size)

    monkeypatch.setattr("workflow.runs.checkpoint.write_tensors", write)
    raised = [(type(e), str(e)) for e in save_together(3, run, engine, tokenizer)]
    gc.collect()  # a file that was left open is told here
    assert raised == [(RunFailed, TOLD.format(run=run, error=FULL, left=LEFT))] * 3
    assert contents(run) == before


def test_a_folder_that_one_process_cannot_create_is_raised_on_all_or_created_by_another(
    run: Path, engine: SingleProcessEngine, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shared file system may show one process late what another has made."""
    whole = Path.mkdir

    def mkdir(path: Path, *given: Any, **options: Any) -> None:
        if path.name == "resume" and threading.current_thread().name == "rank 1":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        whole(path, *given, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    found = [type(told) for told in save_together(2, run, engine, tokenizer)]
    assert found in ([RunFailed, RunFailed], [int, int])
    assert find_checkpoints(run) == ([] if RunFailed in found else [2])


# --- finding and tidying -------------------------------------------------------------------------


def make_checkpoints(run: Path, steps: list[int]) -> None:
    """Small folders like checkpoints, each of which can be resumed."""
    for step in steps:
        folder = run / f"checkpoint-{step}"
        (folder / "resume").mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_text(f"weights {step}")
        (folder / "resume" / "optimizer.safetensors").write_text(f"moments {step}")
        (folder / "resume" / "state.json").write_text("{}")
        write_checksums(folder / "resume", {})


def can_go_on_from(run: Path) -> list[int]:
    return [step for step in find_checkpoints(run) if can_resume(run / f"checkpoint-{step}")]


def test_checkpoints_are_found_in_the_order_of_their_steps(run: Path) -> None:
    make_checkpoints(run, [100, 20, 3])
    for other in ("checkpoint-x", ".checkpoint-7.partial-host-1", "checkpoint-20-preds.json"):
        (run / other).mkdir()
    assert find_checkpoints(run) == [3, 20, 100]
    assert find_checkpoints(run / "nothing") == []


def test_a_checkpoint_without_its_state_cannot_be_resumed(run: Path) -> None:
    make_checkpoints(run, [1, 2, 3])
    (run / "checkpoint-1" / "resume" / "state.json").unlink()
    shutil.rmtree(run / "checkpoint-2" / "resume")
    assert can_go_on_from(run) == [3]
    assert not can_resume(run / "checkpoint-4")


@pytest.mark.parametrize(
    ("keep", "best", "kept"),
    [
        (2, None, [4, 5]),
        (2, 1, [1, 4, 5]),
        (2, 5, [4, 5]),
        (1, None, [5]),
        (1, 3, [3, 5]),
        (1, 5, [5]),
        (9, 2, [1, 2, 3, 4, 5]),
    ],
)
def test_the_newest_and_the_best_are_kept_and_only_the_newest_can_be_resumed(
    run: Path, keep: int, best: int | None, kept: list[int]
) -> None:
    make_checkpoints(run, [1, 2, 3, 4, 5])
    before = contents(run)
    for _ in range(2):
        rotate_checkpoints(run, keep, best)
        assert find_checkpoints(run) == kept
        assert can_go_on_from(run) == [5]
        folders = tuple(f"checkpoint-{step}" for step in kept)
        assert contents(run) == {
            name: content
            for name, content in before.items()
            if name.startswith(folders) and ("resume" not in name or name.startswith(folders[-1]))
        }


@pytest.mark.parametrize(
    ("steps", "best", "kept"),
    [
        ([2, 4, 5, 6, 7], None, [4, 6, 7]),
        ([2, 4, 5, 6, 7], 5, [4, 5, 6, 7]),
        ([2, 4, 5, 6, 7, 8], None, [6, 8]),
        ([4, 5], None, [4, 5]),
        ([5, 7], None, [7]),
        ([5], None, [5]),
        ([], None, []),
    ],
)
def test_a_checkpoint_out_of_turn_stays_until_there_is_a_newer_one(
    run: Path, steps: list[int], best: int | None, kept: list[int]
) -> None:
    """And does not count, lest those of a run that is often stopped replace all others."""
    make_checkpoints(run, steps)
    rotate_checkpoints(run, 2, best, ephemeral=[step for step in steps if step % 2])
    assert find_checkpoints(run) == kept
    assert can_go_on_from(run) == steps[-1:]


def test_a_checkpoint_that_cannot_be_removed_keeps_no_other(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_checkpoints(run, [1, 2, 3, 4])

    def discard(folder: Path) -> None:
        if folder.name == "checkpoint-2":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        discard_folder(folder)

    monkeypatch.setattr("workflow.runs.checkpoint.discard_folder", discard)
    monkeypatch.setattr(log, "propagate", True)
    rotate_checkpoints(run, 1, None)
    assert find_checkpoints(run) == [2, 4]
    assert set(caplog.messages) == {
        f"could not remove an old checkpoint: [Errno 13] Permission denied: '{run}/checkpoint-2'"
    }


# --- reading -------------------------------------------------------------------------------------


def test_a_checkpoint_that_is_read_is_kept_whole_until_it_was_read(run: Path) -> None:
    make_checkpoints(run, [1, 2, 3, 4])
    before = contents(run)
    with hold_for_reading(run / "checkpoint-1"), hold_for_reading(run / "checkpoint-3"):
        with hold_for_reading(str(run / "checkpoint-1")):
            rotate_checkpoints(run, 2, None)
        rotate_checkpoints(run, 2, None)
        assert contents(run) == {
            name: content for name, content in before.items() if "checkpoint-2" not in name
        }
    rotate_checkpoints(run, 2, None)
    assert find_checkpoints(run) == [3, 4]
    assert can_go_on_from(run) == [4]


READER = """
import sys
from workflow.runs.checkpoint import hold_for_reading
with hold_for_reading(sys.argv[1]):
    with hold_for_reading(sys.argv[2]):
        print("reading", flush=True)
        sys.stdin.readline()
    print("read", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module", autouse=True)
def reader(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, "subprocess.Popen[str]"]]:
    """A process that reads checkpoints 1 and 3 of a run; it starts slowly."""
    run = tmp_path_factory.mktemp("run")
    make_checkpoints(run, [1, 2, 3, 4])
    names = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    folders = [str(run / f"checkpoint-{step}") for step in (1, 3)]
    command = [sys.executable, "-c", READER, *folders]
    with subprocess.Popen(
        command, env=names, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield run, process
        finally:
            process.kill()


def test_a_checkpoint_that_another_process_reads_is_kept_until_that_ends(
    reader: tuple[Path, "subprocess.Popen[str]"],
) -> None:
    run, process = reader
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "reading\n"
    rotate_checkpoints(run, 1, None)
    assert find_checkpoints(run) == [1, 3, 4]
    assert can_go_on_from(run) == [1, 3, 4]
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "read\n"
    rotate_checkpoints(run, 1, None)
    assert find_checkpoints(run) == [1, 4]
    process.kill()
    process.wait()
    rotate_checkpoints(run, 1, None)
    assert find_checkpoints(run) == [4]
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint-4"]


@pytest.mark.parametrize("name", ["google/flan-t5-small", "empty", "empty/config.json", "gone"])
def test_a_folder_without_a_model_is_read_without_a_lock(
    run: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    Path("empty").mkdir()
    for folder in (name, Path(name)):
        done = []
        with hold_for_reading(folder):
            done.append(folder)
        assert done == [folder]


@pytest.mark.parametrize("name", ["checkpoint-1", "gone", "google/flan-t5-small"])
def test_an_error_of_reading_is_not_swallowed(run: Path, name: str) -> None:
    make_checkpoints(run, [1, 2])
    with pytest.raises(OSError, match="stale") as raised, hold_for_reading(run / name):
        raise OSError(errno.ESTALE, "stale")
    assert raised.value.errno == errno.ESTALE
    rotate_checkpoints(run, 1, None)  # which is not read any more
    assert find_checkpoints(run) == [2]


def test_reading_and_rotation_work_without_locks(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*given: Any) -> NoReturn:
        raise OSError(errno.ENOLCK, "No locks available")

    make_checkpoints(run, [1, 2])
    monkeypatch.setattr("workflow.core.files.fcntl.flock", flock)
    with hold_for_reading(run / "checkpoint-2"):
        rotate_checkpoints(run, 1, None)
    assert find_checkpoints(run) == [2]


# --- leftovers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "call"), STAGES)
def test_leftovers_of_a_killed_save_are_no_checkpoint_and_removed(
    run: Path, engine: SingleProcessEngine, tokenizer: Any, stage: str, call: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    save(run, 1, engine, tokenizer)
    before = contents(run)
    left = run / ".checkpoint-2.partial-node8-4711"

    def kill(folder: Path) -> NoReturn:
        """Keep the leftovers, which a process that is not killed would remove."""
        shutil.copytree(folder.parent if folder.name == "resume" else folder, left)
        raise KeyboardInterrupt

    monkeypatch.setattr(workflow.runs.checkpoint, stage, failing(stage, call, kill))
    with pytest.raises(KeyboardInterrupt):
        save(run, 2, engine, tokenizer)
    assert any(left.iterdir())
    assert find_checkpoints(run) == [1]
    remove_leftovers(run)
    assert contents(run) == before


def test_leftovers_of_a_killed_process_are_removed(run: Path) -> None:
    make_checkpoints(run, [1, 2])
    (run / "status.json").write_text("{}")
    before = contents(run)
    (run / ".status.json.partial-node8-4711").write_text("{")
    (run / "checkpoint-1" / ".config.json.partial-node8-4711").write_text("{")
    for folder in (".checkpoint-0.partial-node8-4711", "checkpoint-1/.resume.partial-node8-4711"):
        shutil.copytree(run / "checkpoint-2" / "resume", run / folder)
    assert find_checkpoints(run) == [1, 2]
    remove_leftovers(run)
    assert contents(run) == before


def test_nothing_else_is_a_leftover(run: Path) -> None:
    make_checkpoints(run, [1, 2])
    for name in (".hidden", "notes.partial", "checkpoint-1/.gitattributes", ".cache/partial"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("")
    before = contents(run)
    remove_leftovers(run)
    assert contents(run) == before
