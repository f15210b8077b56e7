"""How data files name their splits: train and eval, or another word for eval."""

import difflib
import re
from collections.abc import Collection, Mapping
from pathlib import Path

LINES = "lines"
"""The key of a file of JSON Lines that is all there is; "" is that of a JSON file of all splits."""
VALIDATION_NAMES = ("validation", "valid", "dev", "val")
OTHER_NAMES = (*VALIDATION_NAMES, "test")
"""What is read as eval where there is no eval."""
_NEAR = ("eval", "evaluation", "development", *OTHER_NAMES)
_NEARLY = re.compile(rf"({'|'.join(_NEAR)})[\W_\d]*(s|set|split|data|records|examples)?")


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


def eval_key(data: Mapping[str, object]) -> str:
    """The key that holds the eval records of JSON data; eval's own where that is not clear.

    An empty list counts as absent, unless there is nothing else.
    """
    names = eval_names(filled(data)) or eval_names(data)[:1]
    return names[0] if len(names) == 1 else "eval"


def filled(data: Mapping[str, object]) -> list[str]:
    """The keys of JSON data but those of empty lists."""
    return [key for key, value in data.items() if value != []]


def near_eval_names(data: Mapping[str, object]) -> list[str]:
    """Which keys hold records, and have nearly a name of eval's: Validation, evaluation, test_set.

    Args:
        data: of the lists, the first items may be all there is.
    """
    return [
        key for key, value in data.items()
        if isinstance(value, list) and value and isinstance(value[0], dict)
        and key != "train" and _is_near(key.strip().lower())
    ]  # fmt: skip


def _is_near(name: str) -> bool:
    return bool(_NEARLY.fullmatch(name) or difflib.get_close_matches(name, _NEAR, 1, cutoff=0.85))


def file_of(files: Mapping[str, Path], split: str) -> Path | None:
    """The file in which a split stands."""
    return files.get(split) or files.get("") or files.get(LINES)
