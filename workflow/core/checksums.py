"""SHA-256 checksums of a checkpoint's files, so that no truncated or changed file is loaded.

Weight files are hashed while several processes write them; small files are read back.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from workflow.core.errors import Problem

CHECKSUM_FILE = "checksums.json"

_NAME = re.compile("[^./][^/]*")
_DIGEST = re.compile("[0-9a-f]{64}")
_HINT = (
    "get a complete copy of the folder; if you changed the file on purpose, remove checksums.json"
)


def digest(path: Path) -> str:
    """The SHA-256 of a file in hex; the file may be larger than memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: Path, known: Mapping[str, str]) -> None:
    """Write the checksums of all files directly in `folder`, except hidden ones.

    Args:
        known: digests, by name, of files that were hashed while written. All are listed: a shared
            file system may show the files of other processes late.
    """
    present = {path.name for path in folder.iterdir() if path.is_file()}
    names = sorted(filter(_is_listed, present | known.keys()))
    listed = {name: known.get(name) or digest(folder / name) for name in names}
    text = json.dumps(listed, indent=2, ensure_ascii=False)
    (folder / CHECKSUM_FILE).write_text(text + "\n", encoding="utf-8")


def has_checksums(folder: Path) -> bool:
    """Whether a folder has a list of checksums, readable or not."""
    return os.path.lexists(folder / CHECKSUM_FILE)


def find_damage(
    folder: Path, mine: Callable[[int], bool] = lambda number: True, weights: bool = True
) -> list[Problem]:
    """Problems of a folder's files against its list, if it has one; other files are ignored.

    Args:
        mine: whether this process checks a file, by its number; processes share the reading. All
            of them report a broken list.
        weights: whether to check weight files too, which takes long.
    """
    path = folder / CHECKSUM_FILE
    try:
        listed = _read_list(path) if has_checksums(folder) else {}
    except (OSError, ValueError, RecursionError) as error:
        found = _unreadable(error) if isinstance(error, OSError) else "an invalid list of checksums"
        return [Problem(str(path), found, "the checksums of this folder's files", _HINT)]
    files = [folder / name for number, name in enumerate(sorted(listed)) if mine(number)]
    files = [file for file in files if weights or file.suffix != ".safetensors"]
    damage = [(str(file), _damage(file, listed[file.name])) for file in files]
    expected = f"the content listed in {CHECKSUM_FILE}"
    return [Problem(where, found, expected, _HINT) for where, found in damage if found is not None]


def _damage(path: Path, expected: str) -> str | None:
    try:
        if not path.is_file():  # reading a pipe would block
            return "is missing"
        if digest(path) == expected:
            return None
        size = path.stat().st_size
    except OSError as error:
        return _unreadable(error)
    return f"{size:,} bytes that changed since they were written (truncated or modified)"


def _unreadable(error: OSError) -> str:
    return f"unreadable: {error.strerror or error}"


def _read_list(path: Path) -> dict[str, str]:
    """Read the digests by name; raises OSError, ValueError or RecursionError."""
    listed = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(listed, dict) or not listed or not all(map(_is_listed, listed)):
        raise ValueError("no names of files")
    if not all(isinstance(text, str) and _DIGEST.fullmatch(text) for text in listed.values()):
        raise ValueError("no digests")
    return listed


def _is_listed(name: str) -> bool:
    """Whether a file of this name is listed: directly in the folder, not hidden, printable."""
    return name.isprintable() and _NAME.fullmatch(name) is not None and name != CHECKSUM_FILE
