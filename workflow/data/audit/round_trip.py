"""Damage of a text by tokenizing and decoding: characters lost, changed, or read as specials."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import takewhile
from threading import RLock
from typing import Any

import numpy as np
import numpy.typing as npt
import regex

from workflow.core.code_points import joins
from workflow.core.errors import shorten
from workflow.data.text_ids import decode_texts

Row = npt.NDArray[np.int32]
_SEVERAL_SPACES = re.compile(r"\s{2,}")
_LETTERS = (
    "ab",
    "12",
    "\u0430\u0431",
    "\u03b1\u03b2",
    "\u4e00\u4e8c",
    "\u0627\u0628",
    "\u0915\u0916",
)
"""Two letters each of scripts, for a vocabulary that has only one of them."""


class Damage:
    """Finds the characters that a tokenizer damages; each is tested once, between two letters.

    A combining character, e.g. an accent, is also tested together with its base character.
    """

    def __init__(self, tokenizer: Any, writes: bool = True):
        """Take a tokenizer.

        Args:
            writes: whether the model writes texts; a model that only reads them needs neither
                upper case nor spaces, which word pieces do not keep.
        """
        self.tokenizer, self._writes = tokenizer, writes
        self._in_use = RLock()  # of the tokenizer, whose settings change where it is called
        self._special = re.compile("|".join(map(re.escape, tokenizer.all_special_tokens)) or "(?!)")
        self._before = self._after = self._added = ""
        self._tried: dict[str, tuple[str, str]] = {}
        self._blamed: dict[str, list[tuple[str, str]]] = {}
        self._kept: set[str] = set()
        self._alone: set[str] = set()  # characters that do not combine with the one before
        known = (two for two in _LETTERS if self._there_and_back(two).strip() == two)
        self._before, self._after = tuple(next(known, _LETTERS[0]))
        if self._there_and_back(self._before) == f" {self._before}":
            self._added = " "  # some tokenizers decode every text with a leading space

    def decode(self, rows: Sequence[Row]) -> list[str]:
        """Decode rows of token ids; another thread may do so while this one compares."""
        with self._in_use:
            texts = decode_texts(self.tokenizer, rows, skip_special_tokens=True)
        return [text.removeprefix(self._added) for text in texts]

    def find(self, text: str, decoded: str) -> dict[str, Counter[str]]:
        """Compare `text` with `decoded`, the same text after the tokenizer's round trip.

        Returns:
            Counts of characters: "lost" (dropped; extra spaces of a run included), "ends" (lost
            whitespace at either end), "changed" (replaced by others) and "special" (special tokens
            as text, which are read as special tokens). "changed" may be empty: the text differs,
            but no single character explains it.
        """
        if text in decoded or self._alike(text, decoded):  # a template may surround it
            return {}
        found: dict[str, Counter[str]] = {
            "lost": Counter(), "ends": self._find_at_ends(text), "changed": Counter()
        }  # fmt: skip
        for piece in self._special.split(text.strip()):
            self._find_in_piece(piece.strip(), found)
        found["special"] = Counter(self._special.findall(text))
        return {kind: counts for kind, counts in found.items() if counts} or {
            "changed": _differing(text, decoded)
        }

    def _find_at_ends(self, text: str) -> Counter[str]:
        """Whitespace that is lost at either end of a text."""
        inner = text.strip()
        if not self._writes or inner == text:
            return Counter()
        before, after = text.split(inner, 1) if inner else (text, "")
        kept = Counter(self._try(before, begins=True)[1]) + Counter(self._try(after, ends=True)[1])
        return Counter(before + after) - kept

    def _find_in_piece(self, text: str, found: dict[str, Counter[str]]) -> None:
        characters = set(text)
        joining = {one for one in characters - self._alone if joins(one)}
        self._alone |= characters - joining
        units = {one: text.count(one) for one in characters - self._kept}
        if joining or "\r\n" in text:
            units = Counter(regex.findall(r"\X", text))
        for unit, count in units.items():
            if unit not in self._blamed:
                self._blamed[unit] = self._blame(unit)
                self._kept |= set() if self._blamed[unit] else {unit}
            for character, fate in self._blamed[unit]:
                found[fate][character] += count
        for spaces in _SEVERAL_SPACES.findall(text):
            surplus = spaces.count(" ") - self._try(spaces)[1].count(" ")
            if surplus > 0 and self._writes:
                found["lost"][" "] += surplus

    def _blame(self, unit: str) -> list[tuple[str, str]]:
        """The damaged characters of a unit, each with "lost" or "changed"."""
        fate, _ = self._try(unit)
        if fate == "kept":
            return []
        first, rest = unit[0], unit[1:]
        blamed = [(first, self._try(first)[0])]
        base = ""  # a character with a token of its own does not combine with later ones
        if blamed[0][1] == "kept":
            blamed, base = [], first
        for character in rest:
            one, back = self._try(base + character)
            if one != "kept":
                blamed.append((character, "lost" if back == base else one))
        return blamed or [(character, fate) for character in rest]

    def _try(self, unit: str, begins: bool = False, ends: bool = False) -> tuple[str, str]:
        """Whether a unit is "kept", "changed" or "lost", and what it is decoded to.

        It is tested between two letters, or at the start or the end of a text.
        """
        before, after = "" if begins else self._before, "" if ends else self._after
        text = before + unit + after
        if text not in self._tried:
            with self._in_use:
                ids = np.array(self.tokenizer(text)["input_ids"], np.int32)
            decoded = self.decode([ids])[0]
            middle = decoded.removeprefix(before).removesuffix(after)
            # A newline that becomes a space is lost; a space of another width is not.
            nothing = not middle.strip() and middle != unicodedata.normalize("NFKC", unit)
            fate = "kept" if self._alike(text, decoded) else "changed"
            if fate != "kept" and (nothing or self.tokenizer.unk_token_id in ids):
                fate = "lost"
            self._tried[text] = fate, middle
        return self._tried[text]

    def _alike(self, text: str, decoded: str) -> bool:
        if self._writes:
            return text == decoded
        return "".join(text.lower().split()) == "".join(decoded.lower().split())

    def _there_and_back(self, text: str) -> str:
        return self.decode([np.array(self.tokenizer(text)["input_ids"], np.int32)])[0]


def _differing(text: str, decoded: str) -> Counter[str]:
    """The non-alphanumeric characters in the part of a text that differs after decoding."""
    start = len(common_start(text, decoded))
    room = min(len(text), len(decoded)) - start
    end = len(common_start(text[::-1][:room], decoded[::-1][:room]))
    part = text[max(0, start - 1) : len(text) - max(0, end - 1)]
    return Counter(character for character in part if not character.isalnum())


def common_start(one: str, other: str) -> str:
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return one[: sum(1 for _ in alike)]


def excerpt(text: str, found: Collection[str] = ()) -> str:
    """The text around the first occurrence of the `found` characters, safe to print."""
    text = text if found else text.strip()
    places = [text.find(one) for one in found if one != " "]
    if " " in found and (spaces := _SEVERAL_SPACES.search(text)):
        places.append(spaces.start())
    start = max(0, min(places, default=0) - 15)
    return shorten(text[start : start + 40], 40)


def excerpt_of_ends(text: str) -> str:
    """The end of a text that has whitespace, safe to print."""
    return shorten(text[:20] if text[:1].isspace() else text[-20:], 40)
