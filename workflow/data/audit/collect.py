"""Collect the audit's findings: lengths, damage, duplicates, contradictions, train/eval overlap."""

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from workflow.core.console import progress_bar
from workflow.core.threads import made_ahead
from workflow.data.audit.classes import ClassAudit
from workflow.data.audit.habits import HabitAudit, Marks, find_habits
from workflow.data.audit.near import NearPrompts, loose_hash
from workflow.data.audit.parts import EXAMPLES, PARTS, AuditReport, Finding, PartAudit, Text, digest
from workflow.data.audit.round_trip import Damage, Row, common_start, excerpt
from workflow.data.pair_rows import PART_END
from workflow.data.shapes.base import Shape
from workflow.data.shapes.targets import Targets
from workflow.data.token_cache import Ragged, TokenizedSplit

Keys = npt.NDArray[np.int64]
Texts = Mapping[str, list[Text]]
"""The texts of each part."""
_NO_IDS = Ragged(np.zeros(0, np.int32), np.zeros(1, np.int64))
SHORTEST_PREFIX = 10
"""Shortest common prefix of all prompts that is reported, in characters."""


def audit_splits(
    splits: Mapping[str, TokenizedSplit],
    shape: Shape,
    damage: Damage,
    limits: Mapping[str, int | None],
    truncation_side: str = "right",
) -> AuditReport:
    """Audit every record once, keeping 24 bytes of each.

    Args:
        limits: maximum length of "prompts" and "completions", in tokens; None for any length.

    Returns:
        A JSON object: for each split its findings, with those of its prompts and of its completions
        (if these are texts), and findings about train and eval together. A finding is {"count":
        records, "examples": ["train[12] 'text'", …]}; lengths are in tokens before truncation,
        including the end-of-text token.
    """
    audits = {}
    both = [splits[name] for name in ("train", "eval") if name in splits]
    rows = [split.targets if shape.name == "text" else split.sources for split in both]
    near = NearPrompts(*rows) if len(rows) == 2 else None
    marks = find_habits(next(iter(splits.values())), shape)
    with progress_bar(sum(map(len, splits.values())), "audit") as bar:
        for name, split in splits.items():
            audit = audits[name] = SplitAudit(name, split, shape, damage, marks)
            watched = near if name == "train" else None
            for texts, decoded in made_ahead(partial(_decode, damage), audit.read(bar, watched)):
                audit.add_texts(texts, decoded)
    report: AuditReport = {
        "shape": shape.name,
        "limits": dict(limits),
        "truncation_side": truncation_side,
        "splits": {name: audit.report(limits) for name, audit in audits.items()},
    }
    if near:
        report |= _overlap(audits["train"], audits["eval"], near)
    return report


def missing_characters(report: AuditReport) -> set[str]:
    """The characters of all prompts and completions that do not survive a round trip."""
    return {
        character
        for split in report["splits"].values()
        for part in PARTS
        for kind in ("lost", "ends", "changed")
        for character in split[part][kind]["characters"]
    }


def reserved_characters(report: AuditReport) -> set[str]:
    """The code points in texts that the tool would otherwise use as new tokens."""
    splits = report["splits"].values()
    return {code for split in splits for part in PARTS for code in split[part]["reserved"]}


class SplitAudit:
    """The audit of one split, chunk by chunk.

    Attributes:
        prompts, loose, pairs: a 64-bit hash of each record's prompt, of its words, and of prompt
            and target, by this process's secret key. A million records have a collision with a
            probability of 1 in 40 million.
    """

    def __init__(
        self, name: str, split: TokenizedSplit, shape: Shape, damage: Damage, marks: Marks
    ):
        self.name, self.split, self._shape, self._damage = name, split, shape, damage
        self._parts = {part: PartAudit(damage) for part in PARTS}
        self._empty = {part: Finding() for part in PARTS}
        self._prefix: str | None = None
        self._values = array("d")
        self._classes = ClassAudit()
        self._habits = HabitAudit(marks)
        self.prompts, self.loose, self.pairs = np.zeros((3, len(split)), np.int64)

    def read(self, bar: Any, near: NearPrompts | None) -> Iterator[Texts]:
        """Add all records, except what becomes of their texts, which are returned in chunks.

        Args:
            near: compares the prompts with those of eval.
        """
        for start, end in self.split.chunks():
            yield self._read_chunk(start, end)
            if near is not None:
                near.add(start, end)
            bar.update(end - start)

    def _read_chunk(self, start: int, end: int) -> Texts:
        prompts: list[Text] = []
        completions: list[Text] = []
        rows = self.split.sources.rows(start, end), self.split.targets.rows(start, end)
        several = any(PART_END in np.concatenate(ids) for ids in rows)  # finding them takes long
        records = self.split.records(start, end)
        for i, record, ids, of_target in zip(range(start, end), records, *rows, strict=True):
            place, prompt = f"{self.name}[{i}]", self._shape.text(record)
            answer, blank = self._shape.answer(record), self._shape.is_blank(record)
            prompts += _parts(place, self._shape.reads(record), ids, several)
            of_class = self._shape.answer_kind == "a class"
            if of_class:
                self._classes.add(place, self._shape.texts(record), answer)
            elif answer is not None and self._shape.answer_kind == "a number":
                self._values.append(answer)
            elif answer is not None:
                completions += _parts(place, ("" if blank else answer,), of_target, several)
            self._habits.add(place, prompt, answer)
            self.prompts[i], self.loose[i] = hash(prompt), loose_hash(prompt)
            self.pairs[i] = hash((prompt, digest([answer]) if of_class else answer))
            if not prompt.strip() and self._shape.reads(record):
                self._empty["prompts"].add(place)
            if blank:
                self._empty["completions"].add(place, partial(excerpt, prompt))
            if self._prefix is None or not prompt.startswith(self._prefix):
                self._prefix = common_start(prompt, self._prefix or prompt)
        return {"prompts": prompts, "completions": completions}

    def add_texts(self, texts: Texts, decoded: Mapping[str, Sequence[str]]) -> None:
        """Add texts of each part, and what their ids are decoded to."""
        for part, of_part in texts.items():
            if of_part:
                self._parts[part].add(of_part, decoded[part])

    def report(self, limits: Mapping[str, int | None]) -> AuditReport:
        ids = {"prompts": self.split.sources, "completions": _NO_IDS}
        if self._shape.answer_kind == "text":
            ids["completions"] = self.split.targets
        report: AuditReport = {"records": len(self.split)}
        for part, audit in self._parts.items():
            report[part] = audit.report(self.name, ids[part], limits[part])
        return report | {
            "empty_prompts": self._empty["prompts"].report(),
            "empty_completions": self._empty["completions"].report(),
            "duplicates": self._duplicates(),
            "contradictions": self._contradictions(),
            "common_prefix": self._common_prefix(),
            "targets": self._targets(),
            "classes": self._classes.report(),
            "habits": self._habits.report(),
        }

    def example(self, index: int) -> str:
        return f"{self.name}[{index}] {excerpt(self._shape.text(self.split.record(index)))}"

    def _duplicates(self) -> AuditReport:
        """Records with the prompt and target of an earlier record."""
        is_first = np.zeros(len(self.pairs), np.bool_)
        is_first[np.unique(self.pairs, return_index=True)[1]] = True
        again = np.flatnonzero(~is_first)
        return Finding(len(again), [self.example(i) for i in again[:EXAMPLES]]).report()

    def _contradictions(self) -> AuditReport:
        """Records whose prompt has several targets, and the number of these prompts."""
        rows = np.flatnonzero(self.split.answered)
        different = rows[np.unique(self.pairs[rows], return_index=True)[1]]
        prompts, answers = np.unique(self.prompts[different], return_counts=True)
        against = rows[_are_in(self.prompts[rows], prompts[answers > 1])]
        first = np.unique(self.prompts[against], return_index=True)[1]
        examples = [self.example(i) for i in against[np.sort(first)][:EXAMPLES]]
        return Finding(len(against), examples).report() | {"prompts": len(first)}

    def _targets(self) -> AuditReport | None:
        """Histograms of numeric targets: shares of 10 bins, counts of both halves, and the mean."""
        if not self._values or not isinstance(self._shape, Targets):
            return None
        least, greatest = self._shape.least, self._shape.greatest
        values = np.array(self._values)
        tenths = np.histogram(values, bins=10, range=(least, greatest))[0]
        yes = int((values >= (least + greatest) / 2).sum())
        return {
            "yes": yes,
            "no": len(values) - yes,
            "mean": float(values.mean()),
            "tenths": (tenths / len(values)).tolist(),
        }

    def _common_prefix(self) -> AuditReport | None:
        """The complete words that all prompts start with, and their number of tokens."""
        words = re.match(r"(?s).*\s", self._prefix or "")
        text = words.group().rstrip() if words else ""
        if len(text) < SHORTEST_PREFIX or (self.prompts == self.prompts[0]).all():
            return None
        ids = self._damage.tokenizer(text, add_special_tokens=False)["input_ids"]
        return {"text": text, "tokens": len(ids)}


def _decode(damage: Damage, texts: Texts) -> dict[str, list[str]]:
    return {part: damage.decode([ids for _, _, ids in one]) for part, one in texts.items()}


def _parts(place: str, texts: Sequence[str], ids: Row, several: bool) -> list[Text]:
    """Texts with their ids, of which there are those of other texts before, if `several`."""
    if not several:
        return [(place, text, ids) for text in texts]
    if not texts:
        return []
    parts = np.split(ids, np.flatnonzero(ids == PART_END))[-len(texts) :]
    return [(place, text, part[part != PART_END]) for text, part in zip(texts, parts, strict=True)]


def _are_in(keys: Keys, known: Keys) -> npt.NDArray[np.bool_]:
    """Whether each key is in `known`; uses less memory than np.isin, which sorts both together."""
    known = np.sort(known)
    begin, end = np.searchsorted(known, keys, "left"), np.searchsorted(known, keys, "right")
    return begin < end


def _overlap(train: SplitAudit, evaluation: SplitAudit, near: NearPrompts) -> AuditReport:
    """Train/eval overlap: eval records, eval prompts with any target, and near ones in train."""
    known = _are_in(evaluation.prompts, train.prompts)
    alike = _are_in(evaluation.loose, train.loose)
    alike[list(near.found)] = True
    report = {}
    for name, is_in, ours, theirs in (
        ("records_in", _are_in(evaluation.pairs, train.pairs), evaluation.pairs, train.pairs),
        ("prompts_in", known, evaluation.prompts, train.prompts),
        ("prompts_near", alike & ~known, evaluation.loose, train.loose),
    ):
        rows, examples = np.flatnonzero(is_in), []
        for i in rows[:EXAMPLES]:
            same = np.flatnonzero(theirs == ours[i])
            other = same[0] if len(same) else near.found[i]
            sign = "~" if name == "prompts_near" else "="
            examples.append(f"train[{other}] {sign} {evaluation.example(i)}")
        report[f"eval_{name}_train"] = Finding(len(rows), examples).report()
    return report
