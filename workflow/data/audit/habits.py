"""Habits: how most prompts end, and how most completions begin and end.

A separator after the prompt, a stop after the completion or a space before it are learned as parts
of the texts. They work only if all texts have them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from workflow.core.errors import shorten
from workflow.data.audit.parts import AuditReport, AuditWarning, Finding
from workflow.data.shapes.base import Shape
from workflow.data.token_cache import TokenizedSplit

MOST = 0.8
"""Share of the texts that makes something a habit; the others are exceptions."""
SAMPLE, FEWEST = 1000, 20
"""Records in which habits are looked for, and texts that show none if they are fewer."""
LONGEST = 32
_REPEATED = 0.9
"""A text that is so large a share of those with an ending says nothing about endings."""
_STOPS = set(".!?…。！？")
"""Ends of sentences, which are no marks."""
_RULES = {
    "prompt_ends": ("prompt{s} without the ending", "add it, or let no prompt have one"),
    "completion_ends": ("completion{s} without the ending", "add it, or remove it from all"),
    "completion_starts": ("completion{s} without the start", "begin all completions alike"),
}
Marks = Mapping[str, str]
"""What most texts begin or end with, by the keys of `_RULES`."""


def find_habits(split: TokenizedSplit, shape: Shape) -> Marks:
    """The marks of most texts in a random sample of the records."""
    if shape.name != "completion":
        return {}
    order = np.random.default_rng(0).permutation(len(split))[:SAMPLE]
    records = [split.record(i) for i in np.sort(order)]
    prompts = [shape.text(record) for record in records if shape.text(record).strip()]
    completions = [record for record in map(shape.answer, records) if record and record.strip()]
    ends = {"prompt_ends": _ending(prompts), "completion_ends": _ending(completions)}
    found = {kind: ending for kind, ending in ends.items() if ending}
    starts = Counter(map(_start, completions)).most_common(1)
    if len(completions) >= FEWEST and starts[0][1] >= MOST * len(completions):
        found["completion_starts"] = starts[0][0]
    return found


def _start(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]


def _ending(texts: Sequence[str]) -> str:
    """The mark that most texts end with; empty if there is none."""
    ending, left = "", list(texts)
    while len(ending) < LONGEST and len(texts) >= FEWEST:
        before = Counter(text[-len(ending) - 1] for text in left if len(text) > len(ending))
        character, count = before.most_common(1)[0] if before else ("", 0)
        if count < MOST * len(texts) or (ending and count < 0.98 * len(left)):
            break
        ending = character + ending
        left = [text for text in left if text.endswith(ending)]
    if not ending or Counter(left).most_common(1)[0][1] > _REPEATED * len(left):
        return ""
    if any(text[-len(ending) - 1 : -len(ending)].isalnum() for text in left):
        while ending[:1].isalnum():  # a part of a word
            ending = ending[1:]
    return "" if set(ending) <= _STOPS else ending


class HabitAudit:
    """Counts the texts of a split that have the marks, and finds those that do not."""

    def __init__(self, marks: Marks):
        self._marks, self._having = marks, Counter[str]()
        self._lacking = {kind: Finding() for kind in marks}

    def add(self, place: str, prompt: str, completion: str | None) -> None:
        """Add a record; blank texts have no habits."""
        for kind, mark in self._marks.items():
            text = prompt if kind == "prompt_ends" else completion
            if not text or text.isspace():
                continue
            at_start = kind == "completion_starts"
            if _start(text) == mark if at_start else text.endswith(mark):
                self._having[kind] += 1
            else:
                shown = text[:20] if at_start else text[-20:]
                self._lacking[kind].add(place, partial(shorten, shown, 40))

    def report(self) -> AuditReport:
        return {
            kind: self._lacking[kind].report() | {"mark": mark, "having": self._having[kind]}
            for kind, mark in self._marks.items()
        }


def habit_warnings(splits: AuditReport) -> list[AuditWarning]:
    """Warn of the texts that lack what most of the first split have."""
    warnings: list[AuditWarning] = []
    first = next(iter(splits), "")
    habits = splits.get(first, {}).get("habits", {})  # not in an older audit.json
    for kind, habit in habits.items():
        share = habit["having"] / max(1, habit["having"] + habit["count"])
        what, remedy = _RULES[kind]
        most = f"{min(share, 0.999):.1%} of {first}"
        have = f" {shorten(habit['mark'])} that {most} have"
        if habit["mark"] == "":
            what, have = "completion{s} with whitespace at the start", f", unlike {most}"
        for name, split in splits.items() if share >= MOST else ():
            found = split["habits"][kind]
            count, severity = found["count"], 4 if found["having"] else 9
            is_lost = split[f"{kind.split('_')[0]}s"]["ends"]["count"] and not habit["mark"].strip()
            if count and not is_lost:  # of lost whitespace there is another warning
                text = f"{name}: {count:,} {what.format(s='s' * (count > 1))}{have}"
                warnings.append(AuditWarning(severity, text, found["examples"][0], remedy))
    return warnings
