"""What the data holds that the user should know before training: lengths, losses, repetitions.

A text is damaged where the tokenizer does not give it back: T5's vocabulary has no newline, no
braces and few letters that are not Latin, and its normalizer writes some characters another way.
"""

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from typing import Any

import numpy as np
import numpy.typing as npt

from workflow.console import progress_bar
from workflow.errors import shorten
from workflow.records import Schema
from workflow.tokens import Ragged, TokenizedSplit

Report = dict[str, Any]
Keys = npt.NDArray[np.uint64]
Row = npt.NDArray[np.int32]
CHUNK = 1024
"""Records decoded at once."""
EXAMPLES = 3
SHORTEST_PREFIX = 10
"""Characters that all prompts must begin with before it is worth a word."""
CHARACTERS_SHOWN = 8
LONGEST_LINE = 200
_SEVERAL_SPACES = re.compile(r"\s{2,}")


def audit_splits(
    splits: Mapping[str, TokenizedSplit],
    schema: Schema,
    tokenizer: Any,
    max_source_length: int,
    max_target_length: int,
) -> Report:
    """Look at every record once; of its texts nothing is held but 16 bytes.

    Returns:
        What can be written as JSON: for each split its findings, those of its prompts and those of
        its completions (the answers that are texts), and findings over train and eval. A finding
        is {"count": records, "examples": ["train[12] 'text'", …]}; lengths are in tokens, before
        any cut, with the end mark.
    """
    damage = Damage(tokenizer)
    limits = {"prompts": max_source_length, "completions": max_target_length}
    audits = {}
    with progress_bar(sum(map(len, splits.values())), "audit") as bar:
        for name, split in splits.items():
            audits[name] = SplitAudit(name, split, schema, damage)
            for start in range(0, len(split), CHUNK):
                bar.update(audits[name].add_chunk(start))
    report: Report = {
        "limits": limits,
        "splits": {name: audit.report(limits) for name, audit in audits.items()},
    }
    if {"train", "eval"} <= audits.keys():
        report |= _repeated_from_train(audits["train"], audits["eval"])
    return report


def lost_characters(report: Report, part: str) -> dict[str, int]:
    """The characters that no token can stand for, with their counts over all splits.

    Surplus spaces are left out: a space can be represented, only a run of them cannot.

    Args:
        part: "prompts" or "completions".
    """
    counts: Counter[str] = Counter()
    for split in report["splits"].values():
        counts.update(split[part]["lost"]["characters"])
    del counts[" "]
    return _by_count(counts)


def _by_count(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


# --- texts ---------------------------------------------------------------------------------------


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


def _excerpt(text: str, found: Collection[str] = ()) -> str:
    """The text, or the part of it where the first of what was found stands, safe to print."""
    text = text.strip()
    places = [text.find(one) for one in found if one != " "]
    if " " in found and (spaces := _SEVERAL_SPACES.search(text)):
        places.append(spaces.start())
    start = max(0, min(places, default=0) - 15)
    return shorten(text[start : start + 40], 40)


# --- what is gathered ----------------------------------------------------------------------------


@dataclass
class Finding:
    """In how many records something was found, the first few of them, and which characters."""

    count: int = 0
    examples: list[str] = field(default_factory=list)
    characters: Counter[str] = field(default_factory=Counter)

    def add(self, place: str, text: str = "", characters: Collection[str] = ()) -> None:
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{place} {_excerpt(text, characters)}" if text else place)

    def report(self) -> Report:
        return {"count": self.count, "examples": self.examples}


class PartAudit:
    """The prompts of a split, or its completions."""

    def __init__(self, damage: Damage):
        self._damage = damage
        self._not_surviving = Finding()
        self._kinds = {kind: Finding() for kind in ("lost", "changed", "special")}

    def add(self, texts: Sequence[tuple[str, str, Row]]) -> None:
        """Take in texts, each with its place and its ids."""
        decoded_texts = self._damage.decode([ids for _, _, ids in texts])
        for (place, text, _), decoded in zip(texts, decoded_texts, strict=True):
            found = self._damage.find(text, decoded)
            if found:
                characters = [one for counts in found.values() for one in counts]
                self._not_surviving.add(place, text, characters)
            for kind, counts in found.items():
                self._kinds[kind].add(place, text, counts)
                self._kinds[kind].characters.update(counts)

    def report(self, name: str, ids: Ragged, longest: int) -> Report:
        lengths = np.diff(ids.offsets)
        cut = Finding(ids.count_cut(longest))
        for i in np.flatnonzero(lengths > longest)[:EXAMPLES]:
            cut.examples.append(f"{name}[{i}] {lengths[i]:,} tokens")
        return {
            "tokens": _distribution(lengths[lengths > 0]),
            "cut": cut.report(),
            "unknown_tokens": int((ids.values == self._damage.tokenizer.unk_token_id).sum()),
            "not_surviving": self._not_surviving.report(),
        } | {
            kind: finding.report() | {"characters": _by_count(finding.characters)}
            for kind, finding in self._kinds.items()
        }


def _distribution(lengths: npt.NDArray[np.int64]) -> Report | None:
    """Of lengths in tokens; None where there are none."""
    if len(lengths) == 0:
        return None
    percents = {"min": 0, "median": 50, "p90": 90, "p99": 99, "max": 100}
    values = np.percentile(lengths, list(percents.values()), method="inverted_cdf")
    shares = dict(zip(percents, map(int, values), strict=True))
    return shares | {"mean": round(float(lengths.mean()), 1)}


class SplitAudit:
    """One split, gathered chunk by chunk.

    Attributes:
        prompts, pairs: for each record a digest of its prompt, and of its prompt and answer. Of
            a million records some two share one by chance in one of forty million data sets.
        answered: which records have an answer, a text or not.
    """

    def __init__(self, name: str, split: TokenizedSplit, schema: Schema, damage: Damage):
        self.name, self.split, self._schema, self._damage = name, split, schema, damage
        self._parts = {part: PartAudit(damage) for part in ("prompts", "completions")}
        self._empty = Finding()
        self._prefix: str | None = None
        self.prompts: Keys = np.zeros(len(split), np.uint64)
        self.pairs: Keys = np.zeros(len(split), np.uint64)
        self.answered = np.zeros(len(split), np.bool_)

    def add_chunk(self, start: int) -> int:
        """Take in the records from `start`; returns how many they were."""
        end = min(start + CHUNK, len(self.split))
        sources = _rows(self.split.sources, start, end)
        targets = _rows(self.split.targets, start, end)
        prompts, completions = [], []
        for i, source, target in zip(range(start, end), sources, targets, strict=True):
            record = self.split.record(i)
            prompt = record[self._schema.source_key]
            answer = [record[key] for key in (self._schema.answer_key,) if key in record]
            prompts.append((f"{self.name}[{i}]", prompt, source))
            if len(target) and answer and isinstance(answer[0], str):
                completions.append((f"{self.name}[{i}]", answer[0], target))
            self.prompts[i], self.pairs[i] = _digest([prompt]), _digest([prompt, *answer])
            self.answered[i] = bool(answer)
            if not prompt.strip():
                self._empty.add(f"{self.name}[{i}]")
            if self._prefix is None or not prompt.startswith(self._prefix):
                self._prefix = _common_start(prompt, self._prefix or prompt)
        self._parts["prompts"].add(prompts)
        if completions:
            self._parts["completions"].add(completions)
        return end - start

    def report(self, limits: Mapping[str, int]) -> Report:
        ids = {"prompts": self.split.sources, "completions": self.split.targets}
        report: Report = {"records": len(self.split)}
        for part, audit in self._parts.items():
            report[part] = audit.report(self.name, ids[part], limits[part])
        return report | {
            "empty_prompts": self._empty.report(),
            "duplicates": self._duplicates(),
            "contradictions": self._contradictions(),
            "common_prefix": self._common_prefix(),
        }

    def example(self, index: int) -> str:
        return f"{self.name}[{index}] {_excerpt(self.split.record(index)[self._schema.source_key])}"

    def _duplicates(self) -> Report:
        """The records that an earlier one equals in prompt and answer."""
        first = np.unique(self.pairs, return_index=True)[1]
        again = np.setdiff1d(np.arange(len(self.pairs)), first)
        return Finding(len(again), [self.example(i) for i in again[:EXAMPLES]]).report()

    def _contradictions(self) -> Report:
        """The records whose prompt has several answers, and the number of such prompts."""
        rows = np.flatnonzero(self.answered)
        different = rows[np.unique(self.pairs[rows], return_index=True)[1]]
        prompts, answers = np.unique(self.prompts[different], return_counts=True)
        against = rows[np.isin(self.prompts[rows], prompts[answers > 1])]
        first = np.unique(self.prompts[against], return_index=True)[1]
        examples = [self.example(i) for i in against[np.sort(first)][:EXAMPLES]]
        return Finding(len(against), examples).report() | {"prompts": len(first)}

    def _common_prefix(self) -> Report | None:
        """The whole words that all prompts begin with, and the tokens they cost a record."""
        words = re.match(r"(?s).*\s", self._prefix or "")
        text = words.group().rstrip() if words else ""
        if len(text) < SHORTEST_PREFIX or len(np.unique(self.prompts)) < 2:
            return None
        ids = self._damage.tokenizer(text, add_special_tokens=False)["input_ids"]
        return {"text": text, "tokens": len(ids)}


def _common_start(one: str, other: str) -> str:
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return one[: sum(1 for _ in alike)]


def _rows(ids: Ragged, start: int, end: int) -> list[Row]:
    """Rows `start` to `end`, uncut."""
    bounds = ids.offsets[start : end + 1].tolist()
    return [ids.values[begin:stop] for begin, stop in pairwise(bounds)]


def _digest(values: list[Any]) -> int:
    """64 bits that differ where JSON values do."""
    content = json.dumps(values, sort_keys=True).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())


def _repeated_from_train(train: SplitAudit, evaluation: SplitAudit) -> Report:
    """Eval records, and eval prompts with whatever answer, that train holds too."""
    report = {}
    for name in ("pairs", "prompts"):
        ours, theirs = getattr(evaluation, name), getattr(train, name)
        rows = np.flatnonzero(np.isin(ours, theirs))
        examples = [
            f"train[{np.flatnonzero(theirs == ours[i])[0]}] = {evaluation.example(i)}"
            for i in rows[:EXAMPLES]
        ]
        report[f"eval_{name}_in_train"] = Finding(len(rows), examples).report()
    return {
        "eval_records_in_train": report["eval_pairs_in_train"],
        "eval_prompts_in_train": report["eval_prompts_in_train"],
    }


# --- what is told --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Warning:
    """Something to know before training; the higher the severity, the worse."""

    severity: int
    text: str
    example: str
    remedy: str


_ADD_TOKENS = "add --add_missing_tokens"
_RULES = (
    (12, "completions", "lost", "completions that cannot be written back", _ADD_TOKENS),
    (11, "completions", "special", "completions that spell special tokens", "take them out"),
    (8, "", "contradictions", "records that contradict another", "keep one of each"),
    (
        7,
        "completions",
        "cut",
        "completions that are cut",
        "raise --max_target_length or shorten them",
    ),
    (6, "prompts", "cut", "prompts that are cut", "raise --max_source_length or shorten them"),
    (5, "prompts", "lost", "prompts with what the model cannot see", _ADD_TOKENS),
    (5, "prompts", "special", "prompts that spell special tokens", "take them out"),
    (4, "", "empty_prompts", "empty prompts", "write or remove them"),
    (
        3,
        "",
        "duplicates",
        "records that repeat an earlier one",
        "remove them, unless they are to weigh",
    ),
    (
        1,
        "completions",
        "changed",
        "completions that come back written another way",
        "look if it matters",
    ),
    (1, "prompts", "changed", "prompts that are read written another way", "look if it matters"),
)
"""Severity, part (none: the split), finding, its name, and what to do about it."""


def warnings_of(report: Report) -> list[Warning]:
    """What is worth a line, the worst first."""
    warnings = _warnings_across(report)
    for name, split in report["splits"].items():
        for severity, part, kind, what, remedy in _RULES:
            finding = (split[part] if part else split)[kind]
            if finding["count"]:
                text = f"{name}: {what}: {finding['count']:,}{_what_of(finding)}"
                warnings.append(Warning(severity, text, finding["examples"][0], remedy))
        if split["common_prefix"]:
            text = (
                f"{name}: all prompts begin alike, {split['common_prefix']['tokens']} tokens each"
            )
            example = shorten(split["common_prefix"]["text"], 40)
            warnings.append(Warning(2, text, example, "leave it out if the model need not be told"))
    return sorted(warnings, key=lambda warning: -warning.severity)


def _warnings_across(report: Report) -> list[Warning]:
    if "eval_records_in_train" not in report:
        return []
    records, prompts = report["eval_records_in_train"], report["eval_prompts_in_train"]
    warnings, remedy = [], "remove them from train or eval"
    if records["count"]:
        text = f"eval: records that occur in train: {records['count']:,}"
        warnings.append(Warning(10, text, records["examples"][0], remedy))
    if prompts["count"] > records["count"]:
        text = f"eval: prompts that occur in train, with whatever answer: {prompts['count']:,}"
        warnings.append(Warning(9, text, prompts["examples"][0], remedy))
    return warnings


def _what_of(finding: Report) -> str:
    """What more a finding knows: its characters, or its prompts."""
    if "prompts" in finding:
        return f" (prompts: {finding['prompts']:,})"
    characters = finding.get("characters", {})
    shown = [f"{_name(c)} ×{n:,}" for c, n in list(characters.items())[:CHARACTERS_SHOWN]]
    more = len(characters) - len(shown)
    told = ", ".join(shown) + (f" and {more:,} more kinds" if more else "")
    return f" ({told})" if told else ""


def _name(character: str) -> str:
    """A character as it can be read in a list."""
    names = {"\n": "newline", "\r": "carriage return", "\t": "tab", " ": "surplus space"}
    alone = character.isprintable() and not unicodedata.category(character[0]).startswith("M")
    return names.get(character) or (character if alone else f"U+{ord(character):04X}")


def render(report: Report) -> list[str]:
    """A table with a line for each split, then the warnings, each on one line."""
    rows = [
        ["", "records", "prompt tokens", "completion tokens", "cut", "characters lost"],
        ["", "", *["median / p99 / max"] * 2, *["prompts / completions"] * 2],
    ]
    for name, split in report["splits"].items():
        parts = [split["prompts"], split["completions"]]
        lengths = [
            " / ".join(f"{part['tokens'][share]:,}" for share in ("median", "p99", "max"))
            if part["tokens"] else "none" for part in parts
        ]  # fmt: skip
        cut = " / ".join(f"{part['cut']['count']:,}" for part in parts)
        lost = " / ".join(f"{sum(part['lost']['characters'].values()):,}" for part in parts)
        rows.append([name, f"{split['records']:,}", *lengths, cut, lost])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    return lines + [_line(warning) for warning in warnings_of(report)]


def _line(warning: Warning) -> str:
    """A warning on a line that is not too long: its example gives way first."""
    what, remedy = warning.text, f"; {warning.remedy}"
    room = LONGEST_LINE - len(what) - len(remedy) - len("; as ")
    example = warning.example if len(warning.example) <= room else warning.example.split(" ")[0]
    if len(example) <= room:
        return f"{what}; as {example}{remedy}"
    return what[: LONGEST_LINE - len(remedy) - 1] + "…" + remedy
