"""Atomic files and folders: written under another name, synced, then renamed."""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from workflow.core.errors import BadInput, Problem

STALE_AFTER_SECONDS = 24 * 3600


def _partial_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial-{os.uname().nodename}-{os.getpid()}")


def sync(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write, which replaces `path` if the block succeeds."""
    partial = _partial_path(path)
    try:
        yield partial
        sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder, which becomes `path` if the block succeeds.

    If `path` exists by then (another process was first), it is kept and ours is removed.
    """
    partial = begin_folder(path)
    try:
        yield partial
        finish_folder(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def begin_folder(path: Path) -> Path:
    """Make an empty temporary folder next to `path`, for several processes to fill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_path(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    return partial


def finish_folder(partial: Path, path: Path) -> None:
    """Rename a filled folder to `path`, unless that exists.

    Raises:
        OSError: the rename failed; the filled folder stays.
    """
    for file in (*partial.rglob("*"), partial):
        sync(file)
    try:
        partial.rename(path)
    except OSError:
        if not path.is_dir():
            raise
    sync(path.parent)


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, atomically."""
    with whole_file(path) as partial:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")


class WholeList:
    """A JSON list written item by item; the file appears when it is finished.

    Its bytes equal those of `write_json`.
    """

    def __init__(self, path: Path):
        self._path, self._partial = path, _partial_path(path)
        self._file = open(self._partial, "w", encoding="utf-8")  # noqa: SIM115
        self._empty = True

    def add(self, text: str) -> None:
        """Write an item made by `json_item`."""
        self._file.write(("[" if self._empty else ",") + text)
        self._empty = False

    def finish(self) -> None:
        self._file.write("[]\n" if self._empty else "\n]\n")
        self._file.close()
        sync(self._partial)
        self._partial.replace(self._path)

    def discard(self) -> None:
        """Remove the unfinished file, ignoring errors of the disk."""
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._partial.unlink(missing_ok=True)


def json_item(value: object) -> str:
    """The text of an item in a list written by `write_json`."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return ("\n" + text).replace("\n", "\n  ")


def append_json_line(path: Path, value: dict[str, object]) -> None:
    """Add one line to a JSON Lines file, in a single write."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
    with open(path, "a", encoding="utf-8") as file:
        file.write(line)


def keep_json_lines(path: Path, keep: Callable[[Any], bool]) -> None:
    """Remove lines of a JSON Lines file that `keep` refuses, and an incomplete last line."""
    if not path.exists():
        return
    kept = []
    lines = path.read_bytes().splitlines(keepends=True)
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):  # invalid line
            if line.endswith(b"\n") and keep(json.loads(line)):
                kept.append(line)
    if kept != lines:
        with whole_file(path) as partial:
            partial.write_bytes(b"".join(kept))


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file, created if missing. Yields what `lock` returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        yield lock(file, wait=wait)


def lock(file: IO[Any], shared: bool = False, wait: bool = True) -> bool:
    """Lock an open file until it is closed; does nothing on file systems without locks.

    Args:
        shared: whether other shared locks may be held at the same time.
        wait: whether to wait for other processes.

    Returns:
        False if another process holds the lock and `wait` is False.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems have no locks
        pass
    return True


def remove_partials(folder: Path, older_than: float = STALE_AFTER_SECONDS) -> None:
    """Remove temporary files that killed jobs left in `folder` over `older_than` seconds ago.

    0 removes all of them, whatever their time: clocks of machines differ.
    """
    for partial in folder.glob(".*.partial-*"):
        try:
            if older_than and time.time() - partial.stat().st_mtime < older_than:
                continue
        except FileNotFoundError:
            continue
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def discard_folder(path: Path) -> None:
    """Remove a folder; no part of it is ever visible under its name."""
    shutil.rmtree(put_aside(path), ignore_errors=True)


def put_aside(path: Path) -> Path:
    """Rename a folder that is to be removed, and return its new path."""
    doomed = _partial_path(path)
    shutil.rmtree(doomed, ignore_errors=True)
    return path.rename(doomed)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def text_lines(path: str, where: str) -> tuple[str, ...]:
    """The different lines of a file that are not blank, stripped.

    Args:
        where: for errors: the flag that names the file.

    Raises:
        BadInput: it cannot be read, or has none.
    """
    expected = "a file with a text in each line"
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        found = getattr(error, "strerror", None) or "not UTF-8"
        raise BadInput([Problem(where, found, expected, "correct the path or the file")]) from None
    texts = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not texts:
        raise BadInput([Problem(where, "no text", expected, "write the texts, one in each line")])
    return texts
