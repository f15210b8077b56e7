"""A checkpoint whose files changed after it was written is reported, never loaded."""

import hashlib
import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workflow.core.checksums import (
    CHECKSUM_FILE,
    digest,
    find_damage,
    has_checksums,
    write_checksums,
)
from workflow.core.errors import BadInput

FILES = {
    "config.json": b'{\n  "model_type": "t5",\n  "d_model": 32\n}\n',
    "model.safetensors": random.Random(0).randbytes(1_000_000),
    "spiece.model": random.Random(1).randbytes(7_001),
    "tokenizer.json": json.dumps({"vocab": [["▁", 0.5], ["käse", -1]]}).encode() * 40,
}
DIGESTS = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
CHANGED = "that changed since they were written (truncated or modified)"
LISTED = " (expected the content listed in checksums.json"
HINT = (
    "). Hint: get a complete copy of the folder; if you changed the file on purpose, remove "
    "checksums.json."
)
BROKEN = f"an invalid list of checksums (expected the checksums of this folder's files{HINT}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small checkpoint with its list."""
    made = tmp_path / "checkpoint-20"
    made.mkdir()
    for name, content in FILES.items():
        (made / name).write_bytes(content)
    write_checksums(made, {})
    return made


def told(folder: Path, **options: Any) -> list[str]:
    return [str(problem) for problem in find_damage(folder, **options)]


def flip(content: bytes, position: int, mask: int = 1) -> bytes:
    changed = bytearray(content)
    changed[position] ^= mask
    return bytes(changed)


# --- writing -------------------------------------------------------------------------------------


def test_the_list_has_what_sha256sum_says(folder: Path) -> None:
    assert CHECKSUM_FILE == "checksums.json"
    text = (folder / CHECKSUM_FILE).read_text(encoding="utf-8")
    assert text == json.dumps(DIGESTS, indent=2, sort_keys=True) + "\n"
    assert {name: digest(folder / name) for name in FILES} == DIGESTS
    assert find_damage(folder) == []


def test_the_list_does_not_depend_on_how_often_or_by_whom_it_is_written(folder: Path) -> None:
    before = (folder / CHECKSUM_FILE).read_bytes()
    for known in ({}, DIGESTS, {"tokenizer.json": DIGESTS["tokenizer.json"]}):
        write_checksums(folder, known)
        assert (folder / CHECKSUM_FILE).read_bytes() == before


def test_only_files_of_the_folder_itself_are_listed(folder: Path) -> None:
    before = (folder / CHECKSUM_FILE).read_bytes()
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / ".model.safetensors.partial-host-1").write_text("half")
    (folder / ".gitattributes").write_text("")
    (folder / "two\nlines.txt").write_text("")
    os.mkfifo(folder / "pipe")
    write_checksums(folder, {})
    assert (folder / CHECKSUM_FILE).read_bytes() == before


@pytest.mark.parametrize("name", ["añadido 模型.txt", 'a "name".txt', "a\\b", "-", "~", "C:"])
def test_a_list_is_accepted_whatever_the_names(folder: Path, name: str) -> None:
    (folder / name).write_text("content")
    write_checksums(folder, {})
    assert find_damage(folder) == []
    (folder / name).write_text("Content")
    assert told(folder) == [f"{folder / name}: 7 bytes {CHANGED}{LISTED}{HINT}"]


def test_known_digests_are_taken_as_they_are(folder: Path) -> None:
    write_checksums(folder, {"model.safetensors": "0" * 64})
    listed = json.loads((folder / CHECKSUM_FILE).read_text())
    assert listed == DIGESTS | {"model.safetensors": "0" * 64}
    assert told(folder) == [f"{folder}/model.safetensors: 1,000,000 bytes {CHANGED}{LISTED}{HINT}"]


def test_a_known_file_is_not_read_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr("workflow.core.checksums.digest", lambda path: read.append(path.name) or "")
    write_checksums(folder, {"model.safetensors": DIGESTS["model.safetensors"]})
    assert read == ["config.json", "spiece.model", "tokenizer.json"]


def test_a_known_file_that_is_not_seen_is_listed(folder: Path) -> None:
    """Another process has written it, and a shared file system may show it late."""
    (folder / "model.safetensors").rename(folder.parent / "late")
    write_checksums(folder, {"model.safetensors": DIGESTS["model.safetensors"]})
    assert told(folder) == [f"{folder}/model.safetensors: is missing{LISTED}{HINT}"]
    (folder.parent / "late").rename(folder / "model.safetensors")
    assert find_damage(folder) == []


# --- damaged files -------------------------------------------------------------------------------

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[:-1],
    "emptied": lambda content: b"",
    "extended": lambda content: content + b"\0",
    "first bit": lambda content: flip(content, 0),
    "middle bit": lambda content: flip(content, len(content) // 2, 0x10),
    "last bit": lambda content: flip(content, -1, 0x80),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_told(folder: Path, name: str, damage: str) -> None:
    content = DAMAGES[damage](FILES[name])
    (folder / name).write_bytes(content)
    assert told(folder) == [f"{folder}/{name}: {len(content):,} bytes {CHANGED}{LISTED}{HINT}"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("instead", ["nothing", "folder", "pipe", "link to nothing"])
def test_a_file_that_is_not_there_is_told(folder: Path, name: str, instead: str) -> None:
    path = folder / name
    path.unlink()
    if instead == "folder":
        path.mkdir()
    elif instead == "pipe":
        os.mkfifo(path)
    elif instead == "link to nothing":
        path.symlink_to("nothing")
    assert told(folder) == [f"{path}: is missing{LISTED}{HINT}"]


def test_a_file_that_cannot_be_read_is_told(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.unlink()
    path.symlink_to("/proc/self/mem")  # whose first page is not there
    assert told(folder) == [f"{path}: unreadable (Input/output error){LISTED}{HINT}"]


def test_a_name_that_no_file_can_have_is_told(folder: Path) -> None:
    name = 300 * "a"
    write_checksums(folder, {name: "0" * 64})
    assert told(folder) == [f"{folder}/{name}: unreadable (File name too long){LISTED}{HINT}"]


def test_a_file_behind_a_link_is_looked_at(folder: Path) -> None:
    path = folder / "model.safetensors"
    blob = path.rename(folder.parent / "blob")
    path.symlink_to(blob)
    assert find_damage(folder) == []
    blob.write_bytes(b"other")
    assert told(folder) == [f"{path}: 5 bytes {CHANGED}{LISTED}{HINT}"]


def test_files_that_are_not_listed_are_the_users(folder: Path) -> None:
    (folder / "notes.txt").write_text("best so far")
    (folder / "plots").mkdir()
    assert find_damage(folder) == []


def test_all_that_is_damaged_is_told_at_once(folder: Path) -> None:
    for name in FILES:
        (folder / name).write_bytes(b"")
    assert str(BadInput(find_damage(folder))).splitlines() == [
        *(f"{folder}/{name}: 0 bytes {CHANGED}{LISTED}{HINT}" for name in FILES),
        "(4 problems in all)",
    ]


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 9])
def test_processes_share_the_reading(
    folder: Path, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "config.json").unlink()
    (folder / "spiece.model").write_bytes(b"")
    (folder / "tokenizer.json").write_bytes(b"{}")
    alone = told(folder)
    assert len(alone) == 3
    read: list[str] = []

    def counted(path: Path) -> str:
        read.append(path.name)
        return digest(path)

    monkeypatch.setattr("workflow.core.checksums.digest", counted)
    parts = [
        told(folder, mine=lambda number, rank=rank: number % processes == rank)
        for rank in range(processes)
    ]
    assert sorted(line for part in parts for line in part) == alone
    assert max(map(len, parts)) <= -(-len(FILES) // processes)
    assert sorted(read) == ["model.safetensors", "spiece.model", "tokenizer.json"]


def test_files_are_numbered_by_name_however_they_are_listed(folder: Path) -> None:
    (folder / CHECKSUM_FILE).write_text(json.dumps(dict(reversed(DIGESTS.items()))))
    for number, name in enumerate(sorted(FILES)):
        (folder / name).unlink()
        (line,) = told(folder, mine=lambda other, number=number: other == number)
        assert line.startswith(f"{folder}/{name}: is missing (expected")


# --- the list itself -----------------------------------------------------------------------------


def test_a_folder_without_a_list_is_not_judged(folder: Path) -> None:
    assert has_checksums(folder)
    (folder / CHECKSUM_FILE).unlink()
    (folder / "model.safetensors").write_bytes(b"")
    for other in (folder, folder / "gone", folder / "config.json"):
        assert not has_checksums(other)
        assert find_damage(other) == []


def says_the_same(content: bytes) -> bool:
    try:
        return bool(json.loads(content.decode()) == DIGESTS)
    except ValueError:
        return False


@pytest.mark.parametrize("mask", [0x01, 0x80])
def test_any_flipped_bit_of_the_list_is_told(folder: Path, mask: int) -> None:
    path = folder / CHECKSUM_FILE
    whole = path.read_bytes()
    for position in range(len(whole)):
        changed = flip(whole, position, mask)
        path.write_bytes(changed)
        damage = told(folder)
        if not says_the_same(changed):
            assert len(damage) == 1, changed
        else:
            assert damage == [], changed


def test_the_list_cut_anywhere_is_told(folder: Path) -> None:
    path = folder / CHECKSUM_FILE
    whole = path.read_bytes()
    for length in range(len(whole) - 1):
        path.write_bytes(whole[:length])
        assert told(folder) == [f"{path}: {BROKEN}"], length
    path.write_bytes(whole[:-1])  # all but the end of the last line
    assert says_the_same(whole[:-1])
    assert find_damage(folder) == []


def listing(**entries: object) -> str:
    return json.dumps(DIGESTS | entries)


BROKEN_LISTS = {
    "empty": "",
    "spaces": " \n",
    "no JSON": "checksums",
    "list": json.dumps(list(DIGESTS.items())),
    "no object": json.dumps("config.json"),
    "null": "null",
    "no names": "{}",
    "short digest": listing(**{"config.json": DIGESTS["config.json"][:-1]}),
    "long digest": listing(**{"config.json": DIGESTS["config.json"] + "\n"}),
    "capital digest": listing(**{"config.json": "A" * 64}),
    "other digits": listing(**{"config.json": "٣" * 64}),
    "number": listing(**{"config.json": int("1" * 64)}),
    "no digest": listing(**{"config.json": None}),
    "digests": listing(**{"config.json": [DIGESTS["config.json"]]}),
    "object": listing(**{"config.json": DIGESTS}),
    "subfolder": listing(**{"onnx/config.json": "0" * 64}),
    "other folder": listing(**{"../config.json": "0" * 64}),
    "absolute": listing(**{"/etc/hostname": "0" * 64}),
    "this folder": listing(**{".": "0" * 64}),
    "folder above": listing(**{"..": "0" * 64}),
    "empty name": listing(**{"": "0" * 64}),
    "itself": listing(**{CHECKSUM_FILE: "0" * 64}),
    "NUL": listing(**{"config\0.json": "0" * 64}),
    "escape": listing(**{"\x1b[2J": "0" * 64}),
    "half a character": listing(**{"\ud800": "0" * 64}),
    "two": 2 * listing(),
    "in a list": f"[{listing()}]",
    "in an object": f'{{"config.json": {listing()}}}',
    "nested": "[" * 100_000,
    "nested objects": '{"config.json":' * 100_000,
    "nested and closed": '{"a":' * 100_000 + "0" + "}" * 100_000,
    "long number": "1" * 5_000,
    "no number": '{"config.json": NaN}',
}


@pytest.mark.parametrize("content", BROKEN_LISTS.values(), ids=BROKEN_LISTS)
def test_a_broken_list_is_told_by_every_process(folder: Path, content: str) -> None:
    (folder / CHECKSUM_FILE).write_text(content, encoding="utf-8")
    for mine in (lambda number: True, lambda number: False):
        assert told(folder, mine=mine) == [f"{folder}/{CHECKSUM_FILE}: {BROKEN}"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le"])
def test_a_list_in_another_encoding_is_told(folder: Path, encoding: str) -> None:
    (folder / CHECKSUM_FILE).write_text(listing(), encoding=encoding)
    assert told(folder) == [f"{folder}/{CHECKSUM_FILE}: {BROKEN}"]


@pytest.mark.parametrize(
    ("instead", "reason"),
    [
        ("folder", "Is a directory"),
        ("link to nothing", "No such file or directory"),
        ("link to itself", "Too many levels of symbolic links"),
        ("link to what cannot be read", "Input/output error"),
    ],
)
def test_a_list_that_cannot_be_read_is_told(folder: Path, instead: str, reason: str) -> None:
    path = folder / CHECKSUM_FILE
    path.unlink()
    if instead == "folder":
        path.mkdir()
    else:
        targets = {"link to nothing": "nothing", "link to itself": CHECKSUM_FILE}
        path.symlink_to(targets.get(instead, "/proc/self/mem"))
    assert has_checksums(folder)
    expected = f" (expected the checksums of this folder's files{HINT}"
    assert told(folder) == [f"{path}: unreadable ({reason}){expected}"]


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_in_place_of_the_list_is_told_and_not_loaded(
    folder: Path, tmp_path: Path, protocol: int
) -> None:
    trapped = pickle.dumps(Trap(tmp_path / "trapped"), protocol)
    (folder / CHECKSUM_FILE).write_bytes(trapped)
    assert told(folder) == [f"{folder}/{CHECKSUM_FILE}: {BROKEN}"]
    assert not (tmp_path / "trapped").exists()
    pickle.loads(trapped)
    assert (tmp_path / "trapped").exists()
