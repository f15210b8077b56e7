"""How data files name their splits: train and eval, or another word for eval."""

from collections.abc import Collection, Mapping
from pathlib import Path

LINES = "lines"
"""The key of a file of JSON Lines that is all there is; "" is that of a JSON file of all splits."""
VALIDATION_NAMES = ("validation", "valid", "dev", "val")
OTHER_NAMES = (*VALIDATION_NAMES, "test")
"""What is read as eval where there is no eval."""


def eval_names(found: Collection[str]) -> list[str]:
    """Which of the names in `found` could be eval's: itself, else any for validation, else test."""
    for names in (("eval",), VALIDATION_NAMES, ("test",)):
        if present := [name for name in names if name in found]:
            return present
    return []


def eval_name(found: Collection[str]) -> str:
    """The name that eval goes by; its own where that is not clear."""
    names = eval_names(found)
    return names[0] if len(names) == 1 else "eval"


def file_of(files: Mapping[str, Path], split: str) -> Path | None:
    """The file in which a split stands."""
    return files.get(split) or files.get("") or files.get(LINES)
