"""Audit of a split's prompts or completions: token lengths, and texts that do not round-trip."""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from workflow.core.code_points import find_reserved
from workflow.data.audit.round_trip import Damage, Row, excerpt, excerpt_of_ends
from workflow.data.token_cache import Ragged

AuditReport = dict[str, Any]
Text = tuple[str, str, Row]
"""The place of a text, the text and its ids."""
PARTS = ("prompts", "completions")
EXAMPLES = 3
_NONE: Mapping[str, int] = {}


_as_json = json.JSONEncoder(sort_keys=True).encode


def digest(values: list[Any]) -> int:
    """A 64-bit digest of JSON values."""
    content = f"[{', '.join(map(_as_json, values))}]".encode()  # a list at once takes twice as long
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())


def _by_count(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


@dataclass
class Finding:
    """A count of records, with the first few as examples and the characters concerned."""

    count: int = 0
    examples: list[str] = field(default_factory=list)
    characters: Counter[str] = field(default_factory=Counter)

    def add(
        self, place: str, show: Callable[[], str] = str, characters: Mapping[str, int] = _NONE
    ) -> None:
        """Count a record; `show` gives its excerpt if it is an example."""
        self.count += 1
        self.characters.update(characters)
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{place} {show()}".rstrip())

    def report(self) -> AuditReport:
        return {"count": self.count, "examples": self.examples}


@dataclass(frozen=True)
class AuditWarning:
    """A problem of the data; the higher the severity, the worse. The example may be empty."""

    severity: int
    text: str
    example: str
    remedy: str

    def __str__(self) -> str:
        example = f", e.g. {self.example}" if self.example else ""
        return f"{self.text}{example}. Hint: {self.remedy}"


class PartAudit:
    """Findings in the prompts of a split, or in its completions."""

    def __init__(self, damage: Damage):
        self._damage = damage
        unknown, end = damage.tokenizer.unk_token_id, damage.tokenizer.eos_token_id
        self._unknown_id = None if unknown == end else unknown  # GPT-2 names one token both
        self._unknown = 0
        self._not_surviving = Finding()
        self._kinds = {kind: Finding() for kind in ("lost", "ends", "changed", "special")}
        self._reserved: set[str] = set()

    def add(self, texts: Sequence[Text], decoded_texts: Sequence[str]) -> None:
        """Add texts, and what their ids are decoded to."""
        rows = [ids for _, _, ids in texts]
        self._unknown += int((np.concatenate(rows) == self._unknown_id).sum())
        for (place, text, _), decoded in zip(texts, decoded_texts, strict=True):
            found = self._damage.find(text, decoded)
            if found:
                characters = [one for counts in found.values() for one in counts]
                self._not_surviving.add(place, partial(excerpt, text, characters))
            for kind, counts in found.items():
                show = partial(excerpt_of_ends, text)
                show = show if kind == "ends" else partial(excerpt, text, counts)
                self._kinds[kind].add(place, show, counts)
            if not text.isascii():
                self._reserved.update(find_reserved(text))

    def report(self, name: str, ids: Ragged, longest: int | None) -> AuditReport:
        lengths = np.diff(ids.offsets)
        longest = sys.maxsize if longest is None else longest
        cut = Finding(ids.count_cut(longest))
        for i in np.flatnonzero(lengths > longest)[:EXAMPLES]:
            cut.examples.append(f"{name}[{i}] {lengths[i]:,} tokens")
        return {
            "tokens": _distribution(lengths[lengths > 0]),
            "cut": cut.report(),
            "unknown_tokens": self._unknown,
            "not_surviving": self._not_surviving.report(),
            "reserved": sorted(self._reserved),
        } | {
            kind: finding.report() | {"characters": _by_count(finding.characters)}
            for kind, finding in self._kinds.items()
        }


def _distribution(lengths: npt.NDArray[np.int64]) -> AuditReport | None:
    """Percentiles and mean of lengths in tokens; None without lengths."""
    if len(lengths) == 0:
        return None
    percents = {"min": 0, "median": 50, "p90": 90, "p99": 99, "max": 100}
    values = np.percentile(lengths, list(percents.values()), method="inverted_cdf")
    shares = dict(zip(percents, map(int, values), strict=True))
    return shares | {"mean": round(float(lengths.mean()), 1)}
