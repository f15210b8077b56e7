"""How a prompt and two answers become one row of ids."""

from collections.abc import Mapping, Sequence
from typing import Any

from workflow.data.pair_rows import PART_END, PairFrame
from workflow.data.text_format import TextFormat, render
from workflow.data.text_ids import frame_of

_PLACE = "\ue000"
"""Stands for a part where a template is tried: a code point that no text uses."""


def pair_ids(
    tokenizer: Any, format: TextFormat, pairs: Sequence[tuple[str, ...]]
) -> list[list[int]]:
    """The ids of prompts, answers a and answers b, with PART_END between them."""
    spaced = [
        (prompt, *(_behind_colon(text) if format.writes else text for text in answers))
        for prompt, *answers in pairs
    ]
    parts = format.parts(tokenizer, [text for texts in spaced for text in texts])
    triples = zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    return [[*prompt, PART_END, *a, PART_END, *b] for prompt, a, b in triples]


def _behind_colon(answer: str) -> str:
    """An answer with the space that belongs to its first token."""
    return f" {answer}" if answer and not answer[0].isspace() else answer


def pair_frame(
    tokenizer: Any, format: TextFormat, words: Mapping[str, str], second: int
) -> PairFrame:
    """What surrounds the parts of a pair.

    An encoder has its tokenizer's separators and token types of two texts, and another separator
    between the answers. A model that writes reads a question about the answers.

    Args:
        words: of each class.
        second: added to ids with the token type 1.
    """
    if not format.writes:
        return _of_two_texts(tokenizer, second)
    a, b, tie = words["a"], words["b"], words.get("tie")
    options = f"{a} or {b}" if tie is None else f"{a}, {b}, or {tie} for a tie"
    text = (
        f"{_PLACE}\n\nResponse {a}:{_PLACE}\n\nResponse {b}:{_PLACE}\n\n"
        f"Better response ({options}):"
    )
    pieces = render(tokenizer, format.template, text).split(_PLACE)
    begin, before_one, before_other, end = format.around(tokenizer, pieces)
    return PairFrame((begin, before_one, before_other, end))


def _of_two_texts(tokenizer: Any, second: int) -> PairFrame:
    empty, one = tokenizer(["", "a"])["input_ids"]
    before, after = frame_of(empty, one)
    length = len(one) - before - after
    both = tokenizer("a", "a", return_token_type_ids=True)
    ids, types = both["input_ids"], both["token_type_ids"]
    between = ids[before + length : len(ids) - after - length]
    typed = any(types)
    frame = ids[:before], between, between, ids[len(ids) - after :]
    return PairFrame(frame, second if typed else 0)
