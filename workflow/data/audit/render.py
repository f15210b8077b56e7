"""The audit's findings as text: a table, then warnings with remedies, the worst first."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rich.text import Text

from workflow.core.errors import shorten
from workflow.core.tables import Part, table
from workflow.data.audit.habits import habit_warnings
from workflow.data.audit.near import NEAR, WINDOW
from workflow.data.audit.parts import PARTS, AuditReport, AuditWarning

CHARACTERS_SHOWN = 8
LONGEST_LINE = 200


_CHECK = "check whether this matters"
_CHANGED = "with changed characters"
_ENDS = "with lost leading or trailing whitespace"
_RULES = (
    (12, "completions.lost", "completion{s} with lost characters", "{hint}"),
    (11, "completions.special", "completion{s} with special tokens as text", "remove them"),
    (8, "contradictions", "contradicting record{s}", "keep one per prompt"),
    (7, "completions.cut", "truncated completion{s}", "increase --max_target_length"),
    (6, "prompts.cut", "truncated prompt{s} ({cut} removed)", "increase --max_source_length"),
    (5, "prompts.lost", "prompt{s} with lost characters", "{hint}"),
    (5, "prompts.special", "prompt{s} with special tokens as text", "remove them"),
    (4, "empty_prompts", "empty prompt{s}", "add text, or remove the records"),
    (4, "empty_completions", "empty completion{s}", "add text, unless intended"),
    (3, "duplicates", "duplicate record{s}", "remove them, unless intended"),
    (3, "completions.ends", f"completion{{s}} {_ENDS}", "strip it{or_add}"),
    (1, "completions.changed", f"completion{{s}} {_CHANGED}", _CHECK),
    (1, "prompts.changed", f"prompt{{s}} {_CHANGED}", _CHECK),
    (1, "prompts.ends", f"prompt{{s}} {_ENDS}", _CHECK),
)
"""Severity, finding of a split or of one of its parts, text behind the count, and remedy."""


_CUT = {"right": "end", "left": "start", "middle": "middle"}
RARE = 0.05
"""Share below which a half of the targets counts as rare; of classes, two over their number."""
LENGTH_BIAS, FEWEST_DECIDED = 0.6, 50
"""Share of pairs that prefer the longer answer, of at least so many, that is worth a warning."""
CLASSES_SHOWN = 8


def warnings_of(report: AuditReport) -> list[AuditWarning]:
    """The warnings, the worst first."""
    warnings, hints = _overlap_warnings(report), _hints(report)
    warnings += _of_one_split(report["splits"]) + habit_warnings(report["splits"])
    for name, split in report["splits"].items():
        for severity, path, phrase, remedy in _RULES:
            part, _, kind = path.rpartition(".")
            finding = (split[part] if part else split).get(kind)  # not in an older audit.json
            if finding and finding["count"]:
                what = phrase.format(s=_s(finding["count"]), cut=_CUT[report["truncation_side"]])
                what = _of_shape(report, what)
                text = f"{name}: {finding['count']:,} {what}{_details(finding)}"
                example = finding["examples"][0]
                warnings.append(AuditWarning(severity, text, example, remedy.format(**hints)))
        warnings += _target_warnings(name, split["targets"])
        warnings += _class_warnings(name, split.get("classes"))
        if split["common_prefix"]:
            tokens, prefix = split["common_prefix"]["tokens"], split["common_prefix"]["text"]
            what = _of_shape(report, "prompts")
            text = f"{name}: all {what} share a prefix: {shorten(prefix, 40)} ({tokens} tokens)"
            warnings.append(AuditWarning(2, text, "", "remove it if the model does not need it"))
    return sorted(warnings, key=lambda warning: -warning.severity)


def _of_shape(report: AuditReport, words: str) -> str:
    """The words for prompts and completions, which plain text does not have."""
    if report.get("shape") != "text":
        return words
    return words.replace("prompt", "text").replace("completion", "text")


def _class_warnings(name: str, classes: AuditReport | None) -> list[AuditWarning]:
    """Warn of rare classes, and of what pairs repeat or give away."""
    if classes is None:
        return []
    warnings, counts = [], classes["counts"]
    total = sum(counts.values())
    fewest = 2 * RARE * total / len(counts)
    if rare := [one for one, count in counts.items() if count < fewest]:
        text = f"{name}: rare class{'es' * (len(rare) > 1)}: {_few(rare)}"
        remedy = "prefer macro_f1 to accuracy, or set --class_weight balanced"
        warnings.append(AuditWarning(2, text, "", remedy))
    if count := classes["swapped"]["count"]:
        text = f"{name}: {count:,} record{_s(count)} with the answers of an earlier one swapped"
        example = classes["swapped"]["examples"][0]
        warnings.append(AuditWarning(3, text, example, "remove them, unless intended"))
    longer = classes["longer_preferred"]
    if longer is not None and classes["decided"] >= FEWEST_DECIDED and longer >= LENGTH_BIAS:
        text = f"{name}: the longer answer is the better one in {longer:.0%} of decided pairs"
        warnings.append(AuditWarning(2, text, "", "a judge can learn length alone"))
    return warnings


def _of_one_split(splits: AuditReport) -> list[AuditWarning]:
    """Warn of classes that only train has, or only eval."""
    if not all((splits.get(name) or {}).get("classes") for name in ("train", "eval")):
        return []
    train, evaluated = (splits[name]["classes"]["counts"] for name in ("train", "eval"))
    warnings = []
    for severity, only, other, names in (
        (9, "eval", "train", [one for one in evaluated if one not in train]),
        (2, "train", "eval", [one for one in train if one not in evaluated]),
    ):
        if names:
            text = f"{only}: class{'es' * (len(names) > 1)} that {other} lacks: {_few(names)}"
            warnings.append(AuditWarning(severity, text, "", f"add such records to {other}"))
    return warnings


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(shorten(name, 30)[1:-1] for name in names[:CLASSES_SHOWN])
    return shown + ", …" * (len(names) > CLASSES_SHOWN)


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _hints(report: AuditReport) -> dict[str, str]:
    """Remedies for lost characters; none suggests a flag that is refused or already set."""
    if report.get("can_grow", True) and "added_tokens" not in report:
        return {"hint": "add --add_missing_tokens", "or_add": ", or add --add_missing_tokens"}
    return {"hint": "replace them", "or_add": ""}


def _overlap_warnings(report: AuditReport) -> list[AuditWarning]:
    if "eval_records_in_train" not in report:
        return []
    records, prompts = report["eval_records_in_train"], report["eval_prompts_in_train"]
    warnings, remedy = [], "remove them from train or eval"
    if count := records["count"]:
        what = "also in train (train/eval overlap, inflates metrics)"
        text = f"eval: {count:,} record{_s(count)} {what}"
        warnings.append(AuditWarning(10, text, records["examples"][0], remedy))
    if (count := prompts["count"]) > records["count"]:
        text = f"eval: {count:,} prompt{_s(count)} also in train (train/eval overlap, any target)"
        warnings.append(AuditWarning(9, text, prompts["examples"][0], remedy))
    near = report.get("eval_prompts_near_train")  # not in an older audit.json
    if near and (count := near["count"]):
        text = f"eval: {count:,} record{_s(count)} nearly in train (the same words, or"
        text += f" {NEAR:.0%} of the {WINDOW}-token windows)"
        warnings.append(
            AuditWarning(8, text, near["examples"][0], "check whether one gives away another")
        )
    return warnings


def _target_warnings(name: str, targets: AuditReport | None) -> list[AuditWarning]:
    """Warn if one half of the targets is missing or rare."""
    if targets is None:
        return []
    rarer = min(("yes", "no"), key=lambda kind: targets[kind])
    count = targets["yes"] + targets["no"]
    share = targets[rarer] / count
    if targets[rarer] == 0:
        text = f"{name}: none of {count:,} targets is closer to {rarer}; auc and f1 are undefined"
        return [AuditWarning(10, text, "", "add records of that class")]
    if share >= RARE:
        return []
    ratio = f"{targets[rarer]:,} of {count:,} ({share:.1%})"
    text = f"{name}: imbalanced targets: {ratio} closer to {rarer}"
    return [AuditWarning(2, text, "", "prefer auc and f1 to accuracy")]


def _details(finding: AuditReport) -> str:
    """The characters of a finding, or the number of its prompts."""
    if count := finding.get("prompts"):
        return f" ({count:,} prompt{_s(count)} with different targets)"
    characters = finding.get("characters", {})
    return f" ({_names(characters)})" if characters else ""


def _names(characters: Mapping[str, int | None]) -> str:
    """The first few characters, with their counts if known."""
    first = list(characters.items())[:CHARACTERS_SHOWN]
    shown = [f"{_name(c)} ×{n:,}" if n is not None else _name(c) for c, n in first]
    more = len(characters) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def _name(character: str) -> str:
    """A readable name of a character."""
    names = {"\n": "newline", "\r": "carriage return", "\t": "tab", " ": "extra space"}
    alone = character.isprintable() and not unicodedata.category(character[0]).startswith("M")
    return names.get(character) or (character if alone else f"U+{ord(character):04X}")


def render(report: AuditReport) -> list[Part]:
    """The table, then one line per warning."""
    warnings = [Text(_line(warning), "yellow") for warning in warnings_of(report)]
    return [*figures(report), *warnings]


def figures(report: AuditReport) -> list[Part]:
    """A table with a row per split and part, at most 100 columns wide; then the targets."""
    lengths = ("median", "p99", "max")
    rows = [["split", "field", "records", *(f"{name} tokens" for name in lengths),
             "truncated", "lost characters"]]  # fmt: skip
    for name, split in report["splits"].items():
        for part in (split[key] | {"name": key} for key in PARTS if split[key]["tokens"]):
            counts = [split["records"], *(part["tokens"][key] for key in lengths),
                      part["cut"]["count"], _count_lost(part)]  # fmt: skip
            rows.append(
                [name, _of_shape(report, part["name"]), *(f"{count:,}" for count in counts)]
            )
    balances = [_balance(n, s["targets"]) for n, s in report["splits"].items() if s["targets"]]
    classes = [_classes(n, s["classes"]) for n, s in report["splits"].items() if s.get("classes")]
    shape = [f"shape of the records: {report['shape']}"] if "shape" in report else []
    return [table(rows, left=2), *shape, *balances, *classes, *_added_tokens(report)]


def _count_lost(part: AuditReport) -> int:
    """The number of lost characters, within texts and at their ends."""
    kinds = [part[kind]["characters"] for kind in ("lost", "ends") if kind in part]
    return sum(sum(characters.values()) for characters in kinds)


def _added_tokens(report: AuditReport) -> list[str]:
    """The characters that got tokens, and how many texts still do not round-trip."""
    added = report.get("added_tokens")
    if not added:
        return []
    left = sum(
        split[part]["not_surviving"]["count"]
        for split in report["splits"].values()
        for part in PARTS
    )
    rest = f"texts that do not round-trip exactly: {left:,}" if left else "all texts round-trip"
    return [f"added tokens: {len(added):,} ({_names(dict.fromkeys(added))}); {rest}"]


def _balance(name: str, targets: AuditReport) -> str:
    """The targets of a split on one line: both halves, mean and histogram."""
    histogram = " ".join(f"{share:.0%}" for share in targets["tenths"])
    halves = f"{targets['no']:,} closer to no, {targets['yes']:,} closer to yes"
    return f"{name} targets: {halves}; mean {targets['mean']:.3g}; 10-bin histogram {histogram}"


def _classes(name: str, classes: AuditReport) -> str:
    """The classes of a split on one line, and whether pairs prefer the longer answer."""
    counts = classes["counts"]
    total = sum(counts.values())
    named = list(counts.items())[:CLASSES_SHOWN]
    shown = ", ".join(f"{one} {count:,} ({count / total:.0%})" for one, count in named)
    shown += f" and {len(counts) - len(named):,} more" if len(counts) > len(named) else ""
    soft = f"; {classes['soft']:,} soft labels" if classes["soft"] else ""
    longer = classes["longer_preferred"]
    bias = "" if longer is None else f"; the longer answer is the better one in {longer:.0%}"
    return f"{name} classes: {shown}{soft}{bias}"


def _line(warning: AuditWarning) -> str:
    """The warning on at most LONGEST_LINE characters: shortens its example first, then its text."""
    for example in (warning.example, warning.example.split(" ")[0], ""):
        line = str(replace(warning, example=example))
        if len(line) <= LONGEST_LINE:
            return line
    text = warning.text[: LONGEST_LINE - len(line) - 1] + "…"
    return str(replace(warning, text=text, example=""))
