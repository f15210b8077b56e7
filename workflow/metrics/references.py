"""What an answer is compared with: the completion, put through what answers are put through.

An answer is decoded without special tokens and ends before a stop string; so does its reference.
What a vocabulary cannot write stays in the reference, and counts as wrong.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import regex


def processed(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stop strings that it holds, stripped."""
    found = [text.find(stop) for stop in stops if stop in text]
    return (text[: min(found)] if found else text).strip()


def special_remover(tokenizer: Any) -> Callable[[str], str]:
    """A function that takes from a text the special tokens spelled out in it, as decoding does.

    The white space around them becomes what decoding leaves there between the same neighbours.
    """
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    special = {*added, *tokenizer.all_special_tokens}
    # White space is taken as a whole: so the time does not grow with its square.
    pattern = regex.compile(r"(?<!\s)\s*+(?:\L<special>\s*+)++", special=special)

    @lru_cache(maxsize=1_000)
    def left(before: str, found: str, after: str) -> str:
        for start, end in ((before, after), ("a", "b")):  # a vocabulary may not have the first
            ids = tokenizer(text_target=f"{start}{found}{end}")["input_ids"]
            text = decoded(tokenizer, [ids], skip_special_tokens=True)[0].strip()
            if len(text) > 1 and text[0] == start and text[-1] == end:
                return text[1:-1]
        return " "

    def without(text: str) -> str:
        def replaced(found: Any) -> str:
            start, end = found.span()
            return left(text[start - 1 : start] or "a", found[0], text[end : end + 1] or "b")

        left_over: str = pattern.sub(replaced, text)
        return left_over

    return without


def decoded(tokenizer: Any, ids: list[list[int]], skip_special_tokens: bool) -> list[str]:
    """The texts of rows of ids, with nothing tidied up in them."""
    texts: list[str] = tokenizer.batch_decode(
        ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
    )
    return texts


def reference_of(item: dict[str, Any], stops: Sequence[str]) -> str | None:
    """What the answers of an item of a samples file are compared with; None where it has none."""
    reference = item.get("reference", item["demonstration"])
    return None if reference is None else processed(reference, stops)
