"""The SHA-256 of each file of a checkpoint, so that none is loaded truncated or with a bit flipped.

Weight files are hashed while they are written, by several processes; small files are read back.
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
_MEND = "get a whole copy of the folder; if you changed the file on purpose, remove checksums.json"


def digest(path: Path) -> str:
    """The SHA-256 of a file, which may be larger than memory, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: Path, known: Mapping[str, str]) -> None:
    """List every file that stands directly in `folder`, but for hidden ones and the list itself.

    Args:
        known: digests, by name, of files that were hashed as they were written. All are listed: a
            shared file system may show other processes' files late.
    """
    present = {path.name for path in folder.iterdir() if path.is_file()}
    names = sorted(filter(_is_listed, present | known.keys()))
    listed = {name: known.get(name) or digest(folder / name) for name in names}
    text = json.dumps(listed, indent=2, ensure_ascii=False)
    (folder / CHECKSUM_FILE).write_text(text + "\n", encoding="utf-8")


def has_checksums(folder: Path) -> bool:
    """Whether a folder has a list, be it one that cannot be read."""
    return os.path.lexists(folder / CHECKSUM_FILE)


def find_damage(
    folder: Path, mine: Callable[[int], bool] = lambda number: True, weights: bool = True
) -> list[Problem]:
    """What disagrees with a folder's list, if it has one; other files there are the user's own.

    Args:
        mine: whether this process looks at a file, by its number: several share the reading. A
            list that is broken is told by each of them.
        weights: whether to look at files of weights, too, which takes long.
    """
    path = folder / CHECKSUM_FILE
    try:
        listed = _read_list(path) if has_checksums(folder) else {}
    except (OSError, ValueError, RecursionError) as error:
        found = _unreadable(error) if isinstance(error, OSError) else "a broken list of checksums"
        return [Problem(str(path), found, "the checksums of this folder's files", _MEND)]
    files = [folder / name for number, name in enumerate(sorted(listed)) if mine(number)]
    files = [file for file in files if weights or file.suffix != ".safetensors"]
    damage = [(str(file), _damage(file, listed[file.name])) for file in files]
    expected = f"the content that {CHECKSUM_FILE} lists"
    return [Problem(where, found, expected, _MEND) for where, found in damage if found is not None]


def _damage(path: Path, expected: str) -> str | None:
    try:
        if not path.is_file():  # a pipe would be waited for
            return "no such file"
        if digest(path) == expected:
            return None
        size = path.stat().st_size
    except OSError as error:
        return _unreadable(error)
    return f"{size:,} bytes of another content than when it was written (truncated or changed)"


def _unreadable(error: OSError) -> str:
    return f"unreadable ({error.strerror or error})"


def _read_list(path: Path) -> dict[str, str]:
    """The digests by name; raises OSError, or ValueError or RecursionError where they are none."""
    listed = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(listed, dict) or not listed or not all(map(_is_listed, listed)):
        raise ValueError("no names of files")
    if not all(isinstance(text, str) and _DIGEST.fullmatch(text) for text in listed.values()):
        raise ValueError("no digests")
    return listed


def _is_listed(name: str) -> bool:
    """Whether a file of this name is listed: in the folder itself, not hidden, fit to be told."""
    return name.isprintable() and _NAME.fullmatch(name) is not None and name != CHECKSUM_FILE
