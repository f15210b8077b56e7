"""Unicode code points: a pool of unused ones, character classes, and combining characters."""

import re
from collections.abc import Iterable
from functools import cache
from itertools import pairwise

import regex

POOL = (
    range(0xE000, 0xF900),
    range(0xF0000, 0xFFFFE),
    range(0x100000, 0x10FFFE),
    range(0x17000, 0x187F8),
)
"""Code points that hardly any text uses, to replace characters that a normalizer would change.
All are private use except the last range (Tangut): BERT's normalizer drops private use."""
OF_POOL = "".join(f"{chr(codes[0])}-{chr(codes[-1])}" for codes in POOL)


def find_reserved(text: str) -> list[str]:
    """The code points of a text that are in the pool."""
    return re.findall(f"[{OF_POOL}]", text)


@cache
def joins(character: str) -> bool:
    """Whether a character can combine with the one before it (marks, Hangul parts, flags)."""
    before = ("a", "\u1100", "\uac00", "\U0001f1e6")
    return any(regex.fullmatch(r"\X", one + character) for one in before)


def as_class(tokens: Iterable[str]) -> str:
    """Characters as the ranges of a regular expression's character class."""
    codes = sorted(map(ord, tokens))
    gaps = [i for i in range(1, len(codes)) if codes[i] - codes[i - 1] > 1]
    runs = pairwise([0, *gaps, len(codes)])
    bounds = [(codes[start], codes[end - 1]) for start, end in runs]
    return "".join(f"\\x{{{first:X}}}-\\x{{{last:X}}}" for first, last in bounds)


def of_class(members: str) -> list[str]:
    """The characters of a class made by `as_class`, or of one that lists each."""
    bounds = re.findall(r"\\x\{(\w+)\}(?:-\\x\{(\w+)\})?", members)
    ranges = (range(int(first, 16), int(last or first, 16) + 1) for first, last in bounds)
    return [chr(code) for codes in ranges for code in codes]
