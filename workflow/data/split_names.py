"""Names of the splits in data files: train and eval, or another name of eval."""

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from workflow.core.errors import Problem, shorten
from workflow.data.records import DuplicateKeys
from workflow.data.schema import duplicate_keys, missing_key
from workflow.data.shapes.base import Shape

Outline = Mapping[str, list[object] | str]
"""The keys of a JSON file, each with the first item of its list, or the name of its type."""
HOLD_OUT = "--eval_fraction 0.1"

TEXT_SUFFIX = ".txt"
"""Of plain text files, which hold documents."""
LINES = "lines"
"""The key of a single file of JSON Lines or of text; "" is the key of a JSON file of all splits."""
VALIDATION_NAMES = ("validation", "valid", "dev", "val")
OTHER_NAMES = (*VALIDATION_NAMES, "test")
"""Names that are read as eval if there is no eval."""
_NEAR = ("eval", "evaluation", "development", *OTHER_NAMES)
_NEARLY = re.compile(rf"({'|'.join(_NEAR)})[\W_\d]*(s|set|split|data|records|examples)?")


def eval_names(found: Collection[str]) -> list[str]:
    """The names in `found` that could be eval: eval itself, else validation's, else test."""
    for names in (("eval",), VALIDATION_NAMES, ("test",)):
        if present := [name for name in names if name in found]:
            return present
    return []


def eval_name(found: Collection[str]) -> str:
    """The name of the eval split; "eval" if that is ambiguous."""
    names = eval_names(found)
    return names[0] if len(names) == 1 else "eval"


def eval_key(data: Mapping[str, object]) -> str:
    """The key of the eval records in JSON data; "eval" if that is ambiguous.

    An empty list counts as missing unless there is no other candidate.
    """
    names = eval_names(filled(data)) or eval_names(data)[:1]
    return names[0] if len(names) == 1 else "eval"


def filled(data: Mapping[str, object]) -> list[str]:
    """The keys of JSON data except those of empty lists."""
    return [key for key, value in data.items() if value != []]


def near_eval_names(data: Mapping[str, object]) -> list[str]:
    """The keys of records with a name close to eval's: Validation, evaluation, test_set.

    Args:
        data: lists may be reduced to their first items.
    """
    return [
        key for key, value in data.items()
        if isinstance(value, list) and value and isinstance(value[0], dict)
        and key != "train" and _is_near(key.strip().lower())
    ]  # fmt: skip


def _is_near(name: str) -> bool:
    return bool(_NEARLY.fullmatch(name) or difflib.get_close_matches(name, _NEAR, 1, cutoff=0.85))


def find_splits(
    path: Path, outline: Outline, splits: Sequence[str], shape: Shape
) -> tuple[dict[str, str], list[Problem]]:
    """The key of each split in a JSON file, and the problems of splits that cannot be read."""
    names = {split: eval_key(outline) if split == "eval" else split for split in splits}
    problems = [duplicate_keys(str(path), outline)] if isinstance(outline, DuplicateKeys) else []
    holds_out = "train" in splits and isinstance(outline.get("train"), list)
    for split, name in names.items():
        records = outline.get(name)
        if split == "eval" and (misnamed := misnamed_eval(path, outline)):
            problems += misnamed
        elif records is None:
            problems.append(_missing_split(path, split, outline, shape, holds_out))
        elif isinstance(records, str):
            problems.append(Problem(f"{path}: {name}", records, "a list", "make it a list"))
        elif not records:
            hint = "add records" + (f", or {HOLD_OUT}" if split == "eval" and holds_out else "")
            expected = "at least one record"
            problems.append(Problem(f"{path}: {name}", "an empty list", expected, hint))
    return names, problems


def misnamed_eval(path: Path, outline: Outline) -> list[Problem]:
    """The problem of eval records under a misspelt name or under several names."""
    names = eval_names(filled(outline))
    if len(names) == 1:
        return []
    names = names or near_eval_names(outline)
    if len(names) == 1:
        found = f'the key "{names[0]}"'
        return [Problem(str(path), found, 'the key "eval"', 'rename it to "eval"')]
    if not names:
        return []
    no_eval = 'an empty list under "eval"' if "eval" in outline else 'no key "eval"'
    found = f"{no_eval}, but the keys {' and '.join(map(shorten, names))}"
    return [Problem(str(path), found, "one eval split", 'rename one of them to "eval"')]


def _missing_split(
    path: Path, split: str, outline: Outline, shape: Shape, holds_out: bool
) -> Problem:
    missing = missing_key(str(path), split, outline, f"a list of {shape.example}")
    if split != "eval" or missing.hint != "add it" or not isinstance(outline.get("train"), list):
        return missing
    hint = 'add it, or rename "train" to "eval"'
    return replace(missing, hint=f"add it, or {HOLD_OUT}" if holds_out else hint)
