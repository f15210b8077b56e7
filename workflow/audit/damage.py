"""What a tokenizer does to a text: characters lost, changed, or read as special tokens."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from workflow.errors import shorten

Row = npt.NDArray[np.int32]
_SEVERAL_SPACES = re.compile(r"\s{2,}")


class Damage:
    """What a tokenizer does to characters; each is tried once, between two letters."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self._special = re.compile("|".join(map(re.escape, tokenizer.all_special_tokens)) or "(?!)")
        self._kept: set[str] = set()
        self._tried: dict[str, tuple[str, str]] = {}

    def decode(self, rows: Sequence[Row]) -> list[str]:
        """The texts of rows of ids."""
        texts: list[str] = self.tokenizer.batch_decode(
            rows, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return texts

    def find(self, text: str, decoded: str) -> dict[str, Counter[str]]:
        """What `text` holds that `decoded`, the same text out of the tokenizer, does not.

        Returns:
            Counts under "lost" (nothing stands for the character; a space: one more than a run of
            spaces leaves), "changed" (other characters stand for it) and "special" (special tokens
            written out, which are read as such). "changed" may be there with no count: the text
            comes back in another way.
        """
        text = text.strip()
        if text == decoded.strip():
            return {}
        found: dict[str, Counter[str]] = {"lost": Counter(), "changed": Counter()}
        for piece in self._special.split(text):
            self._find_in_piece(piece.strip(), found)
        found["special"] = Counter(self._special.findall(text))
        return {kind: counts for kind, counts in found.items() if counts} or {
            "changed": Counter(text) - Counter(decoded)
        }

    def _find_in_piece(self, text: str, found: dict[str, Counter[str]]) -> None:
        strange = {c for c in set(text) - self._kept if self._fate(c) != "kept"}
        marks = {c for c in strange if unicodedata.category(c).startswith("M")}
        for character in strange - marks:
            found[self._fate(character)][character] += text.count(character)
        if marks:  # the normalizer joins a mark with the letter before it
            of_marks = f"[{re.escape(''.join(marks))}]"
            for unit in re.findall(f"(?s).?{of_marks}+", text):
                if (fate := self._fate(unit)) != "kept":
                    found[fate].update(character for character in unit if character in marks)
        for spaces in _SEVERAL_SPACES.findall(text):
            surplus = spaces.count(" ") - self._try(spaces)[1].count(" ")
            if surplus > 0:
                found["lost"][" "] += surplus

    def _fate(self, unit: str) -> str:
        """What becomes of a character (with its marks): "kept", "changed" or "lost"."""
        fate = self._try(unit)[0]
        if fate == "kept" and len(unit) == 1:
            self._kept.add(unit)
        return fate

    def _try(self, unit: str) -> tuple[str, str]:
        """The fate of a unit, and what comes back between the two letters."""
        if unit not in self._tried:
            ids = np.array(self.tokenizer(f"a{unit}b")["input_ids"], np.int32)
            decoded = self.decode([ids])[0]
            middle = decoded.removeprefix("a").removesuffix("b")
            # A space for a newline is a loss; for a space of another width it is not.
            nothing = not middle.strip() and middle != unicodedata.normalize("NFKC", unit)
            fate = "kept" if decoded == f"a{unit}b" else "changed"
            if fate != "kept" and (nothing or self.tokenizer.unk_token_id in ids):
                fate = "lost"
            self._tried[unit] = fate, middle
        return self._tried[unit]


def excerpt(text: str, found: Collection[str] = ()) -> str:
    """The text, or the part of it where the first of what was found stands, safe to print."""
    text = text.strip()
    places = [text.find(one) for one in found if one != " "]
    if " " in found and (spaces := _SEVERAL_SPACES.search(text)):
        places.append(spaces.start())
    start = max(0, min(places, default=0) - 15)
    return shorten(text[start : start + 40], 40)
