"""What an audit found, said on lines that one can read: the worst first, with a remedy."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from workflow.core.errors import shorten
from workflow.core.tables import aligned
from workflow.data.audit.parts import PARTS, AuditReport

CHARACTERS_SHOWN = 8
LONGEST_LINE = 200


@dataclass(frozen=True)
class AuditWarning:
    """Something to know before training; the higher the severity, the worse."""

    severity: int
    text: str
    example: str
    remedy: str


_IF_MEANT = "fine where that is meant; else write them"
_LOOK = "look if it matters"
_RULES = (
    (12, "completions.lost", "completions that cannot be written back", "{hint}"),
    (11, "completions.special", "completions that spell special tokens", "take them out"),
    (8, "contradictions", "records that contradict another", "keep one of each"),
    (7, "completions.cut", "completions that are cut", "raise --max_target_length or shorten them"),
    (6, "prompts.cut", "prompts that lose {cut}", "raise --max_source_length or shorten them"),
    (5, "prompts.lost", "prompts with what the model cannot see", "{hint}"),
    (5, "prompts.special", "prompts that spell special tokens", "take them out"),
    (4, "empty_prompts", "empty prompts", "write or remove them"),
    (4, "empty_completions", "empty completions, whose answer is nothing", _IF_MEANT),
    (
        3,
        "duplicates",
        "records that repeat an earlier one",
        "remove them, unless they are to weigh",
    ),
    (3, "completions.ends", "completions that lose white space at an end", "strip it{or_add}"),
    (1, "completions.changed", "completions that come back written another way", _LOOK),
    (1, "prompts.changed", "prompts that are read written another way", _LOOK),
    (1, "prompts.ends", "prompts that lose white space at an end", _LOOK),
)
"""Severity, finding of a split or of a part of it, its name, and what to do about it."""


_CUT = {
    "right": "their end",
    "left": "their beginning",
    "middle": "some of their middle",
}
RARE = 0.05
"""Share of one kind of target below which it is worth a word."""


def warnings_of(report: AuditReport) -> list[AuditWarning]:
    """What is worth a line, the worst first."""
    warnings, hints = _warnings_across(report), _hints(report)
    for name, split in report["splits"].items():
        for severity, path, what, remedy in _RULES:
            part, _, kind = path.rpartition(".")
            finding = (split[part] if part else split).get(kind)  # not in an older audit.json
            if finding and finding["count"]:
                said = what.format(cut=_CUT[report["truncation_side"]])
                text = f"{name}: {said}: {finding['count']:,}{_what_of(finding)}"
                example = finding["examples"][0]
                warnings.append(AuditWarning(severity, text, example, remedy.format(**hints)))
        warnings += _warnings_of_targets(name, split["targets"])
        if split["common_prefix"]:
            tokens, text = split["common_prefix"]["tokens"], split["common_prefix"]["text"]
            said = f"{name}: all prompts begin alike, {tokens} tokens each"
            remedy = "leave it out if the model need not be told"
            warnings.append(AuditWarning(2, said, shorten(text, 40), remedy))
    return sorted(warnings, key=lambda warning: -warning.severity)


def _hints(report: AuditReport) -> dict[str, str]:
    """What to do about characters that do not come back: no flag that is refused, or given."""
    if report.get("can_grow", True) and "added_tokens" not in report:
        return {"hint": "add --add_missing_tokens", "or_add": ", or add --add_missing_tokens"}
    return {"hint": "write them another way", "or_add": ""}


def _warnings_across(report: AuditReport) -> list[AuditWarning]:
    if "eval_records_in_train" not in report:
        return []
    records, prompts = report["eval_records_in_train"], report["eval_prompts_in_train"]
    warnings, remedy = [], "remove them from train or eval"
    if records["count"]:
        text = f"eval: records that occur in train: {records['count']:,}"
        warnings.append(AuditWarning(10, text, records["examples"][0], remedy))
    if prompts["count"] > records["count"]:
        text = f"eval: prompts that occur in train, with whatever answer: {prompts['count']:,}"
        warnings.append(AuditWarning(9, text, prompts["examples"][0], remedy))
    return warnings


def _warnings_of_targets(name: str, targets: AuditReport | None) -> list[AuditWarning]:
    """One kind of target missing, or rare."""
    if targets is None:
        return []
    rarer = min(("yes", "no"), key=lambda kind: targets[kind])
    share = targets[rarer] / (targets["yes"] + targets["no"])
    if share >= RARE:
        return []
    text = f"{name}: targets nearer to {rarer}: {targets[rarer]:,} ({share:.1%})"
    if targets[rarer] == 0:
        return [AuditWarning(10, text, "none at all", "add such records, or scores mean nothing")]
    return [AuditWarning(2, text, "one in a lot", "look at auc and f1 more than at accuracy")]


def _what_of(finding: AuditReport) -> str:
    """What more a finding knows: its characters, or its prompts."""
    if "prompts" in finding:
        return f" (prompts: {finding['prompts']:,})"
    characters = finding.get("characters", {})
    return f" ({_names(characters)})" if characters else ""


def _names(characters: Mapping[str, int | None]) -> str:
    """The first of some characters, with their counts where these are known."""
    first = list(characters.items())[:CHARACTERS_SHOWN]
    shown = [f"{_name(c)} ×{n:,}" if n is not None else _name(c) for c, n in first]
    more = len(characters) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more kinds" if more else "")


def _name(character: str) -> str:
    """A character as it can be read in a list."""
    names = {"\n": "newline", "\r": "carriage return", "\t": "tab", " ": "surplus space"}
    alone = character.isprintable() and not unicodedata.category(character[0]).startswith("M")
    return names.get(character) or (character if alone else f"U+{ord(character):04X}")


def render(report: AuditReport) -> list[str]:
    """A table with a line for each split, then the warnings, each on one line."""
    return figures(report) + [_line(warning) for warning in warnings_of(report)]


def figures(report: AuditReport) -> list[str]:
    """The table, and the targets of each split."""
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
        lost = " / ".join(f"{_lost(part):,}" for part in parts)
        rows.append([name, f"{split['records']:,}", *lengths, cut, lost])
    lines = aligned(rows, left=1)
    balances = [_balance(n, s["targets"]) for n, s in report["splits"].items() if s["targets"]]
    return lines + balances + _tell_added(report)


def _lost(part: AuditReport) -> int:
    """How many characters are lost, in a text or at its ends."""
    kinds = [part[kind]["characters"] for kind in ("lost", "ends") if kind in part]
    return sum(sum(characters.values()) for characters in kinds)


def _tell_added(report: AuditReport) -> list[str]:
    """The characters that were given tokens, and how the texts come back now."""
    added = report.get("added_tokens")
    if not added:
        return []
    left = sum(
        split[part]["not_surviving"]["count"]
        for split in report["splits"].values()
        for part in PARTS
    )
    rest = "all texts come back exactly"
    if left:
        rest = f"texts that do not come back exactly: {left:,}"
    names = _names(dict.fromkeys(added))
    return [f"characters given tokens: {len(added):,} ({names}); {rest}"]


def _balance(name: str, targets: AuditReport) -> str:
    """The targets of a split on a line: its halves, and its tenths in percent."""
    tenths = " ".join(f"{share:.0%}" for share in targets["tenths"])
    halves = f"{targets['no']:,} nearer to no, {targets['yes']:,} to yes"
    return f"{name} targets: {halves}; mean {targets['mean']:.3g}; by tenth {tenths}"


def _line(warning: AuditWarning) -> str:
    """A warning on a line that is not too long: its example gives way first."""
    what, remedy = warning.text, f"; {warning.remedy}"
    room = LONGEST_LINE - len(what) - len(remedy) - len("; as ")
    example = warning.example if len(warning.example) <= room else warning.example.split(" ")[0]
    if len(example) <= room:
        return f"{what}; as {example}{remedy}"
    return what[: LONGEST_LINE - len(remedy) - 1] + "…" + remedy
