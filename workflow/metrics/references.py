"""References: completions, post-processed like predictions.

Predictions are decoded without special tokens (`data.text_ids.special_remover`) and end before a
stop string; so do their references. Characters missing in the vocabulary stay and count as wrong.
"""

from collections.abc import Sequence
from typing import Any


def processed(text: str, stops: Sequence[str]) -> str:
    """The text before its first stop string, stripped."""
    found = [text.find(stop) for stop in stops if stop in text]
    return (text[: min(found)] if found else text).strip()


def references_in(item: dict[str, Any], stops: Sequence[str]) -> tuple[str, ...] | None:
    """The references of an item of a samples file, post-processed; None without one."""
    reference = item.get("reference", item["demonstration"])
    if reference is None:
        return None
    several = [reference] if isinstance(reference, str) else list(reference)
    return tuple(processed(one, stops) for one in several)
