"""Files and folders appear whole or not at all."""

import os
from pathlib import Path

import pytest

from workflow.files import discard_folder, remove_partials, whole_file, whole_folder, write_json


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]


def test_a_folder_that_fails_half_way_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "run") as partial:
        (partial / "half").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_writers_of_a_folder_wins(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "cache") as partial:
        (partial / "mine").write_text("")
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "theirs").write_text("")
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["theirs"]
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"text": "käse\u2028"})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": float("nan")})
    assert path.read_text() == '{\n  "text": "käse\u2028"\n}\n'


def test_only_old_leftovers_are_removed(tmp_path: Path) -> None:
    old = tmp_path / ".cache.partial-host-1"
    new = tmp_path / ".cache.partial-host-2"
    kept = tmp_path / "cache"
    for folder in (old, new, kept):
        folder.mkdir()
    os.utime(old, (0, 0))
    remove_partials(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".cache.partial-host-2", "cache"]


def test_a_discarded_folder_is_gone(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "file").write_text("")
    discard_folder(tmp_path / "checkpoint-1")
    assert list(tmp_path.iterdir()) == []
