"""Checkpoints are found, rotated, and whole or not there."""

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_t5

import workflow.checkpoint
from workflow import make_job
from workflow.checkpoint import find_checkpoints, rotate_checkpoints, write_checkpoint
from workflow.config import complete
from workflow.engine import SingleProcessEngine
from workflow.errors import RunFailed
from workflow.world import World


def make_checkpoints(run: Path, steps: list[int]) -> None:
    for step in steps:
        (run / f"checkpoint-{step}").mkdir()


def test_checkpoints_are_found_in_the_order_of_their_steps(tmp_path: Path) -> None:
    make_checkpoints(tmp_path, [100, 20, 3])
    for other in ("checkpoint-x", ".checkpoint-7.partial-host-1", "checkpoint-20-preds.json"):
        (tmp_path / other).mkdir()
    assert find_checkpoints(tmp_path) == [3, 20, 100]


@pytest.mark.parametrize(
    ("keep", "best", "kept"),
    [(2, None, [4, 5]), (2, 1, [1, 4, 5]), (2, 5, [4, 5]), (1, 3, [3, 5]), (9, 2, [1, 2, 3, 4, 5])],
)
def test_the_newest_and_the_best_are_kept(
    tmp_path: Path, keep: int, best: int | None, kept: list[int]
) -> None:
    make_checkpoints(tmp_path, [1, 2, 3, 4, 5])
    rotate_checkpoints(tmp_path, keep, best)
    assert find_checkpoints(tmp_path) == kept
    assert len(list(tmp_path.iterdir())) == len(kept)


@pytest.mark.parametrize("failing", ["write_weights", "save_settings", "finish_folder"])
def test_a_save_that_fails_leaves_nothing_half_made(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    spec = make_job("seq2seq", model_init_name="m", data_name="d", max_steps=9, bf16=False)
    spec = complete(spec, "run", 10, 5, fast_bf16=False)
    engine = SingleProcessEngine(make_t5(), spec, lambda model, batch: torch.zeros(()))
    write_checkpoint(tmp_path, 1, engine, tokenizer, World.alone())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fill_the_disk(*given: Any) -> None:
        folder = next(value for value in given if isinstance(value, Path))
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(workflow.checkpoint, failing, fill_the_disk)
    with pytest.raises(RunFailed) as raised:
        write_checkpoint(tmp_path, 2, engine, tokenizer, World.alone())
    assert str(raised.value) == (
        f"step 2: {tmp_path}/checkpoint-2 could not be written ([Errno 28] No space left on "
        "device); earlier checkpoints are whole; free space, or mend the folder's permissions, "
        "and start again"
    )
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert find_checkpoints(tmp_path) == [1]
