"""Tensors written by all processes: readable by others, each gathered once and in step."""

import errno
import gc
import json
import warnings
import weakref
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from conftest import make_t5
from safetensors import safe_open
from safetensors.torch import load_file
from test_state_dict import INDEX, logits
from transformers import AutoModelForSeq2SeqLM

from workflow.core.checksums import digest
from workflow.models.loading import load_model, save_model
from workflow.models.safetensors_writer import Files, Whole, plan_files, write_index, write_tensors
from workflow.models.state_dict import file_tensors

SIZES = [1, 2, 3, 50]


def random_tensors(count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Of 0 to 3 dimensions, some empty, some not contiguous, in several precisions."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for number in range(count):
        dimensions = int(torch.randint(4, (), generator=generator))
        shape = torch.randint(6, (dimensions,), generator=generator).tolist()
        values = torch.randn(shape, generator=generator)
        values = values.to((torch.float32, torch.bfloat16, torch.float64)[number % 3])
        tensors[f"layer.{number}.weight"] = values.mT if dimensions > 1 else values
    return tensors


def equal_tensors(count: int, elements: int) -> dict[str, torch.Tensor]:
    return {f"weight{number}": torch.full((elements,), float(number)) for number in range(count)}


def shapes_of(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


class Process:
    """One process of several, which records the tensors it gathers and holds."""

    def __init__(self, tensors: dict[str, torch.Tensor], rank: int = 0, size: int = 1):
        self.taken: list[str] = []
        self.held: list[int] = []
        self._tensors = {
            name: Whole(tensor.shape, partial(self._take, name, tensor))
            for name, tensor in tensors.items()
        }
        self._rank, self._size = rank, size
        self._given: list[weakref.ref[Any]] = []

    def _take(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        self.taken.append(name)
        self.held.append(sum(values() is not None for values in self._given))
        bits = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
        values = bits.numpy().copy()  # lives as long as the memory of the tensor that is given
        self._given.append(weakref.ref(values))
        return torch.from_numpy(values).view(tensor.dtype)

    def write(self, folder: Path, files: Files) -> dict[str, str]:
        folder.mkdir(exist_ok=True)
        return write_tensors(folder, files, self._tensors, self._rank, self._size)


def plan(tensors: dict[str, torch.Tensor], *most_bytes: int) -> dict[str, list[str]]:
    wholes = {name: Whole(tensor.shape, tensor.detach) for name, tensor in tensors.items()}
    return plan_files("model", wholes, 1, *most_bytes)


def write(folder: Path, tensors: dict[str, torch.Tensor], *most_bytes: int) -> dict[str, str]:
    """Write tensors and their index as one process."""
    files = plan(tensors, *most_bytes)
    digests = Process(tensors).write(folder, files)
    wholes = {name: Whole(tensor.shape, tensor.detach) for name, tensor in tensors.items()}
    write_index(folder, "model", files, wholes)
    return digests


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def digests_of(folder: Path) -> dict[str, str]:
    return {path.name: digest(path) for path in folder.iterdir()}


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_written_files_are_read_by_safetensors(tmp_path: Path, seed: int) -> None:
    tensors = random_tensors(1 + 7 * seed, seed)
    digests = write(tmp_path, tensors)
    assert digests == digests_of(tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == "model.safetensors"
    read = load_file(path)
    assert set(read) == set(tensors)
    for name, tensor in tensors.items():
        assert read[name].dtype == torch.float32
        assert torch.equal(read[name], tensor.float()), name
    assert {name: tensor.shape for name, tensor in file_tensors(tmp_path)} == shapes_of(tensors)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0  # values are aligned


@pytest.mark.parametrize("staged", [1, 7, 1000])
def test_tensors_of_a_gpu_pass_through_one_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, staged: int
) -> None:
    """The same files, whether a tensor is smaller or larger than the buffer."""
    tensors = random_tensors(30)
    expected = write(tmp_path, tensors)
    buffers = []

    def allocate(size: int, pin_memory: bool) -> torch.Tensor:
        assert pin_memory
        buffers.append(torch.full((staged,), float("nan")))
        return buffers[-1]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", allocate)
    assert write(tmp_path, tensors) == expected == digests_of(tmp_path)
    (buffer,) = buffers
    assert not buffer[0].isnan()


@pytest.mark.parametrize("most_bytes", [1, 400, 4_000, 1_000_000])
@pytest.mark.parametrize("seed", range(3))
def test_shards_are_small_and_their_index_is_complete(
    tmp_path: Path, seed: int, most_bytes: int
) -> None:
    tensors = random_tensors(30, seed)
    write(tmp_path, tensors, most_bytes)
    sizes = {name: 4 * tensor.numel() for name, tensor in tensors.items()}
    if sum(sizes.values()) <= most_bytes:
        assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
        return
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"] == {"total_size": sum(sizes.values())}
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{n:05d}-of-{len(files):05d}.safetensors"
                     for n in range(1, len(files) + 1)]  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {INDEX, *files}
    assert index["weight_map"].keys() == tensors.keys()
    for name in files:
        read = load_file(tmp_path / name)
        assert {key for key, file in index["weight_map"].items() if file == name} == set(read)
        held = [sizes[key] for key in read]
        assert sum(held) <= most_bytes or sum(map(bool, held)) == 1
        assert all(torch.equal(read[key], tensors[key].float()) for key in read)


def test_files_are_named_by_their_stem_and_hold_the_tensors_in_their_order() -> None:
    tensors = {name: Whole(torch.Size([3]), torch.Tensor) for name in "dbcae"}
    assert plan_files("optimizer", tensors) == {"optimizer.safetensors": list("dbcae")}
    assert plan_files("optimizer", tensors, 1, 24) == {
        "optimizer-00001-of-00003.safetensors": ["d", "b"],
        "optimizer-00002-of-00003.safetensors": ["c", "a"],
        "optimizer-00003-of-00003.safetensors": ["e"],
    }


@pytest.mark.parametrize("most_bytes", [10_000, 30_000, 10**9])
@pytest.mark.parametrize("processes", [2, 3, 8])
def test_files_are_a_multiple_of_the_processes_and_alike(processes: int, most_bytes: int) -> None:
    generator = torch.Generator().manual_seed(processes)
    elements = torch.randint(1, 500, (200,), generator=generator).tolist()
    wholes = {str(n): Whole(torch.Size([size]), torch.Tensor) for n, size in enumerate(elements)}
    files = plan_files("model", wholes, processes, most_bytes)
    assert [name for names in files.values() for name in names] == list(wholes)
    held = [sum(wholes[name].bytes for name in names) for names in files.values()]
    assert len(held) % processes == 0
    assert len(held) < sum(held) / most_bytes + processes + 1
    assert max(held) <= min(most_bytes, sum(held) / len(held) + 4 * max(elements))


def test_too_few_tensors_are_one_in_a_file() -> None:
    wholes = {name: Whole(torch.Size([9 - n]), torch.Tensor) for n, name in enumerate("abc")}
    assert list(plan_files("model", wholes, 8).values()) == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize("own_head", [True, False])
@pytest.mark.parametrize("most_bytes", [10**9, 60_000])
def test_a_saved_model_is_the_same_to_transformers(
    tmp_path: Path, tokenizer: Any, own_head: bool, most_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    cut = partial(plan_files, most_bytes=most_bytes)
    monkeypatch.setattr("workflow.models.loading.plan_files", cut)
    original = make_t5(own_head=own_head)
    save_model(original, tokenizer, tmp_path)
    assert (tmp_path / INDEX).is_file() is (most_bytes < 10**9)
    for loaded in (AutoModelForSeq2SeqLM.from_pretrained(tmp_path), load_model(tmp_path)):
        for name, tensor in original.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name
        assert torch.equal(logits(loaded), logits(original))


# --- processes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("most_bytes", [1, 100, 400, 4_000, 10**9])
@pytest.mark.parametrize("size", SIZES)
def test_several_processes_write_the_same_files_as_one(
    tmp_path: Path, size: int, most_bytes: int
) -> None:
    tensors = random_tensors(30, seed=1)
    files = plan(tensors, most_bytes)
    Process(tensors).write(tmp_path / "alone", files)
    parts = []
    for rank in range(size):
        folder = tmp_path / str(rank)
        assert Process(tensors, rank, size).write(folder, files) == digests_of(folder)
        parts.append(contents(folder))
    by_file = Counter(name for part in parts for name in part)
    assert by_file == dict.fromkeys(files, 1)  # none is written twice
    together = {name: data for part in parts for name, data in part.items()}
    assert together == contents(tmp_path / "alone")
    assert max(map(len, parts)) == -(-len(files) // size)  # they share the work


@pytest.mark.parametrize("most_bytes", [1, 100, 400, 4_000, 10**9])
@pytest.mark.parametrize("size", SIZES)
def test_processes_gather_every_tensor_once_and_in_step(
    tmp_path: Path, size: int, most_bytes: int
) -> None:
    """Gathering a partitioned tensor is a collective of all processes."""
    tensors = random_tensors(30, seed=1)
    orders = []
    for rank in range(size):
        process = Process(tensors, rank, size)
        process.write(tmp_path, plan(tensors, most_bytes))
        orders.append(process.taken)
    assert sorted(orders[0]) == sorted(tensors)
    assert orders == [orders[0]] * size


@pytest.mark.parametrize("most_bytes", [1, 100, 400, 4_000, 10**9])
@pytest.mark.parametrize("size", SIZES)
def test_a_process_holds_at_most_one_tensor_when_it_gathers_another(
    tmp_path: Path, size: int, most_bytes: int
) -> None:
    """None for a single process, which writes each tensor before gathering the next."""
    tensors = random_tensors(30, seed=1)
    files = plan(tensors, most_bytes)
    for rank in range(size):
        process = Process(tensors, rank, size)
        process.write(tmp_path, files)
        assert max(process.held) <= (1 if size > 1 else 0)


def test_a_process_writes_its_file_while_others_are_gathered(tmp_path: Path) -> None:
    """The files differ in length, and no process blocks another."""
    tensors = equal_tensors(6, 1)
    files = {"a": ["weight0"], "b": ["weight1", "weight2", "weight3"], "c": ["weight4", "weight5"]}
    orders = []
    for rank in range(3):
        process = Process(tensors, rank, 3)
        assert process.write(tmp_path, files).keys() == {"abc"[rank]}
        orders.append([name.removeprefix("weight") for name in process.taken])
    assert orders == [["0", "1", "4", "2", "5", "3"]] * 3
    for name, held in files.items():
        assert set(load_file(tmp_path / name)) == set(held)


# --- failures ------------------------------------------------------------------------------------


def write_well(
    tensors: dict[str, torch.Tensor], files: Files, size: int, folder: Path
) -> tuple[list[str], dict[str, str]]:
    """The order of gathering without failures, and the digests of all files."""
    processes = [Process(tensors, rank, size) for rank in range(size)]
    parts = [process.write(folder, files) for process in processes]
    assert sorted(processes[0].taken) == sorted(tensors)
    return processes[0].taken, {name: digest for part in parts for name, digest in part.items()}


@pytest.mark.parametrize("full", ["first", "middle", "last"])
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("elements", [1, 100_000])
def test_a_full_disk_is_reported_after_the_last_tensor(
    tmp_path: Path, full: str, size: int, elements: int
) -> None:
    """The error may occur when values are written or when the file is closed."""
    tensors = equal_tensors(6, elements)
    files = plan(tensors, 2 * 4 * elements)
    order, expected = write_well(tensors, files, size, tmp_path / "other")
    number = {"first": 0, "middle": 1, "last": 2}[full]
    run = tmp_path / "run"
    run.mkdir()
    (run / list(files)[number]).symlink_to("/dev/full")
    for rank in range(size):
        process = Process(tensors, rank, size)
        if rank == number % size:
            with pytest.raises(OSError, match="No space left on device") as raised:
                process.write(run, files)
            assert raised.value.errno == errno.ENOSPC
            assert "/dev/full" not in open_files()
        else:
            mine = list(files)[rank::size]
            assert process.write(run, files) == {name: expected[name] for name in mine}
            assert {name: digest(run / name) for name in mine} == {n: expected[n] for n in mine}
        assert process.taken == order


def open_files() -> set[str]:
    links = list(Path("/proc/self/fd").iterdir())
    return {str(link.readlink()) for link in links if link.is_symlink()}


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_file_that_cannot_be_opened_is_reported_after_the_last_tensor(
    tmp_path: Path, number: int, size: int
) -> None:
    tensors = equal_tensors(6, 1)
    files = plan(tensors, 8)
    order, _ = write_well(tensors, files, size, tmp_path / "other")
    blocked = list(files)[number]
    (tmp_path / "run" / blocked).mkdir(parents=True)
    for rank in range(size):
        process = Process(tensors, rank, size)
        if rank == number % size:
            with pytest.raises(IsADirectoryError, match=blocked):
                process.write(tmp_path / "run", files)
        else:
            assert list(process.write(tmp_path / "run", files)) == list(files)[rank::size]
        assert process.taken == order


@pytest.mark.parametrize("size", [1, 2])
def test_an_error_on_sync_is_reported_after_the_last_tensor(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E.g. quotas on some network file systems."""

    def fsync(descriptor: int) -> NoReturn:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr("workflow.models.safetensors_writer.os.fsync", fsync)
    tensors = equal_tensors(6, 1)
    for rank in range(size):
        process = Process(tensors, rank, size)
        with pytest.raises(OSError, match="Disk quota exceeded"):
            process.write(tmp_path, plan(tensors, 8))
        assert sorted(process.taken) == sorted(tensors)
        assert not any(str(tmp_path) in name for name in open_files())


def test_a_file_without_space_for_its_header_is_reported_after_the_last_tensor(
    tmp_path: Path,
) -> None:
    """A header of hundreds of names exceeds a file's buffer, so it is written immediately."""
    tensors = equal_tensors(600, 1)
    files = plan(tensors, 4 * 300)
    process = Process(tensors)
    (tmp_path / next(iter(files))).symlink_to("/dev/full")
    number, left_open = None, False
    try:
        process.write(tmp_path, files)
    except OSError as error:
        number, left_open = error.errno, "/dev/full" in open_files()
    with warnings.catch_warnings(action="ignore"):  # an open file that is let go of warns
        gc.collect()
    assert number == errno.ENOSPC
    assert process.taken == list(tensors)
    assert not left_open


@pytest.mark.parametrize("elements", [1, 100_000])
@pytest.mark.parametrize("rank", range(3))
def test_a_process_that_cannot_write_holds_one_tensor_more(
    tmp_path: Path, rank: int, elements: int
) -> None:
    """The one being written, which the error keeps alive."""
    tensors = equal_tensors(30, elements)
    files = plan(tensors, 5 * 4 * elements)
    assert len(files) == 6
    (tmp_path / list(files)[rank]).symlink_to("/dev/full")
    process = Process(tensors, rank, 3)
    with pytest.raises(OSError, match="No space left on device"):
        process.write(tmp_path, files)
    assert len(process.held) == 30
    assert max(process.held) <= 2
