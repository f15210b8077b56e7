"""Damaged, incomplete and foreign files of a run: reported, or removed, and never run."""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_resume import start

from workflow import BadInput, RunFailed
from workflow.runs.mount import Mount
from workflow.runs.status import read_status


def test_a_half_copied_state_is_refused(mount: Mount) -> None:
    assert not start(mount, "first", stop_after=3)
    copied = shutil.copytree(mount.models / "first" / "checkpoint-2", mount.root / "copied")
    for name in ("checksums.json", "optimizer.safetensors"):
        (copied / "resume" / name).unlink()
    with pytest.raises(BadInput, match="has no optimizer state"):
        start(mount, "second", resume_from_checkpoint=str(copied))


def test_a_finished_run_without_checkpoints_is_not_thrown_away(mount: Mount) -> None:
    assert start(mount, "done")
    run = mount.models / "done"
    for checkpoint in run.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    with pytest.raises(BadInput, match="a run done at step 9, without checkpoints"):
        start(mount, "done", max_steps=12)
    assert start(mount, "done")
    with pytest.raises(BadInput, match=r"unreadable training_args\.json"):
        (run / "training_args.json").write_text("")
        start(mount, "done")


def test_an_interrupted_rotation_is_completed(mount: Mount) -> None:
    assert not start(mount, "cut", stop_after=4)
    run = mount.models / "cut"
    for older in (1, 2):
        shutil.copytree(run / "checkpoint-3", run / f"checkpoint-{older}")
    assert not start(mount, "cut", stop_after=-1)
    assert sorted(path.name for path in run.glob("checkpoint-*")) == [
        "checkpoint-1", "checkpoint-2", "checkpoint-3",
    ]  # fmt: skip
    assert [path.parent.name for path in run.glob("*/resume")] == ["checkpoint-3"]
    assert not start(mount, "cut", stop_after=-1, save_total_limit=1)
    assert sorted(path.name for path in run.glob("checkpoint-*")) == [
        "checkpoint-2", "checkpoint-3",
    ]  # fmt: skip


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def damages(path: Path, bomb: bytes) -> dict[str, bytes]:
    """Kinds of damage to a file."""
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    return {"truncated": content[:-2], "empty": b"", "flipped": flipped, "pickle": bomb}


def test_no_damaged_file_of_a_checkpoint_is_loaded(mount: Mount) -> None:
    """Neither to resume nor to evaluate; a pickle in its place is never run."""
    assert not start(mount, "cut", stop_after=3)
    checkpoint = mount.models / "cut" / "checkpoint-2"
    exploded = mount.root / "exploded"
    bomb = pickle.dumps(Bomb(exploded))
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    assert len(files) == 11
    for file in files:
        whole = file.read_bytes()
        for kind, content in damages(file, bomb).items():
            if content == whole:
                continue
            file.write_bytes(content)
            with pytest.raises(BadInput) as raised:
                start(mount, "cut")
            assert file.name in str(raised.value), kind
            if file.parent == checkpoint:
                with pytest.raises(BadInput) as raised:
                    start(mount, "other", model_init_name="cut/checkpoint-2")
                assert not (mount.models / "other").exists()
        file.write_bytes(whole)
    assert not exploded.exists()
    assert start(mount, "cut")


def test_a_pickle_in_place_of_any_file_that_is_read_is_not_run(mount: Mount) -> None:
    """Of the model, the data, the run and the cache; derived files are recreated."""
    assert not start(mount, "cut", stop_after=3)
    exploded = mount.root / "exploded"
    bomb = pickle.dumps(Bomb(exploded))
    pickle.loads(bomb)  # it does work
    exploded.rmdir()
    for file in sorted(path for path in mount.root.rglob("*") if path.is_file()):
        if "checkpoint-2" in file.parts:
            continue
        whole = file.read_bytes()
        file.write_bytes(bomb)
        try:
            start(mount, "cut", stop_after=0)
            if "cut" not in file.parts:
                start(mount, "new", stop_after=0, overwrite_output_dir=True)
        except (BadInput, RunFailed):
            pass
        file.write_bytes(whole)
        assert not exploded.exists(), file


def test_a_newest_checkpoint_without_optimizer_state_is_reported(mount: Mount) -> None:
    assert start(mount, "done")
    run = mount.models / "done"
    shutil.rmtree(run / "checkpoint-9")
    (run / "status.json").write_text(json.dumps(read_status(run) | {"state": "failed"}))
    with pytest.raises(BadInput) as raised:
        start(mount, "done")
    assert str(raised.value) == (
        f"{run}: the newest checkpoint, checkpoint-5, has no optimizer state (expected a "
        "checkpoint to resume from). Hint: start another run from its weights "
        "(--model_init_name done/checkpoint-5), or add --overwrite_output_dir to start over."
    )


def test_leftovers_of_a_killed_save_are_removed(mount: Mount) -> None:
    assert not start(mount, "cut", stop_after=4)
    run = mount.models / "cut"
    left = run / ".checkpoint-7.partial-elsewhere-123" / "resume"
    left.mkdir(parents=True)
    (left / "optimizer.safetensors").write_bytes(b"half")
    (run / "checkpoint-3" / ".resume.partial-elsewhere-123").mkdir()
    with open(run / "train_log.jsonl", "a") as file:
        file.write('{"step": 4, "loss": 1}\n{"step": 6, "lo')
    assert start(mount, "cut")
    assert not list(run.rglob(".*"))
    lines = (run / "train_log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6, 8, 9]
