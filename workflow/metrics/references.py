"""What an answer is compared with: the completion, put through what answers are put through.

An answer is decoded without special tokens (`data.text_ids.special_remover`) and ends before a stop
string; so does its reference. What a vocabulary cannot write stays, and counts as wrong.
"""

from collections.abc import Sequence
from typing import Any


def processed(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stop strings that it holds, stripped."""
    found = [text.find(stop) for stop in stops if stop in text]
    return (text[: min(found)] if found else text).strip()


def reference_of(item: dict[str, Any], stops: Sequence[str]) -> str | None:
    """What the answers of an item of a samples file are compared with; None where it has none."""
    reference = item.get("reference", item["demonstration"])
    return None if reference is None else processed(reference, stops)
