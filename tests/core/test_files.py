"""Files and folders appear whole or not at all."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from workflow.core.files import (
    WholeList,
    discard_folder,
    json_item,
    lock,
    locked,
    remove_partials,
    whole_file,
    whole_folder,
    write_json,
)


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


@pytest.mark.parametrize(
    "items",
    [
        [],
        [{}],
        [[], {}, [[]], {"a": []}],
        [{"käse": '\u2028\n"\\ \x00 😀', "n": [1, [2.5, {"x": None}]]}, "a\nb", 1e-300, True],
        [[{"deep": [{"deeper": ["\n  "]}]}]] * 3,
    ],
)
def test_a_list_written_item_by_item_is_that_written_at_once(
    tmp_path: Path, items: list[Any]
) -> None:
    write_json(tmp_path / "at_once.json", items)
    written = WholeList(tmp_path / "items.json")
    for item in items:
        written.add(json_item(item))
    assert not (tmp_path / "items.json").exists()
    written.finish()
    written.discard()
    assert (tmp_path / "items.json").read_bytes() == (tmp_path / "at_once.json").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_list_that_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    written = WholeList(tmp_path / "items.json")
    written.add(json_item("x" * 100_000))
    with pytest.raises(ValueError, match="Out of range"):
        json_item(float("nan"))
    written.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "of" / "its own"
    with locked(path) as first, locked(path, wait=False) as second:
        assert (first, second) == (True, False)
    with locked(path, wait=False) as free:
        assert free


def test_a_lock_may_be_shared_by_those_who_do(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with open(path, "rb") as one, open(path, "rb") as another, open(path, "r+b") as alone:
        assert lock(one, shared=True)
        assert lock(another, shared=True)
        assert not lock(alone, wait=False)


def test_where_there_are_no_locks_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*given: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("workflow.core.files.fcntl.flock", flock)
    with locked(tmp_path / "lock") as first, locked(tmp_path / "lock") as second:
        assert first
        assert second
