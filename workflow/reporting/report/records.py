"""The records of an evaluation in a list to search: what was answered, and what has changed."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from workflow.core.errors import BadInput
from workflow.metrics.references import reference_of
from workflow.metrics.rouge import word_f1
from workflow.reporting.report.blocks import Answer, Item, Items
from workflow.runs.predictions import Evaluation

MOST_RECORDS = 10_000
"""Records of a page; of more, it shows every second, fourth and so on."""
MOST_CHARACTERS = 32_000_000
"""Characters of all texts of a page: some 11 MB of it."""
MOST_ANSWERS = 8
"""Different samples of a record."""
_CUTS = (20_000, 8_000, 4_000, 2_000, 1_000, 500, 250, 100)

Read = Callable[[int, dict[str, Any], dict[str, Any] | None], Item]
"""Makes an item of a record's place, what was found of it, and what an evaluation before found."""


@dataclass(frozen=True)
class Listed:
    """Records of an evaluation, or some, spread evenly.

    Attributes:
        every: of how many records they are each.
        count: how many records there are.
        judged: how many of all have an answer or target to compare with.
    """

    items: Sequence[Item]
    every: int
    count: int
    judged: int


def listed(
    last: Evaluation, before: Evaluation | None, read: Read, is_judged: Callable[[Any], bool]
) -> Listed:
    """The records of an evaluation, or some, beside what was found of them before."""
    found: list[Item] = []
    every, count, judged = 1, 0, 0
    former = _as_far_as_they_go(before)
    for item in last.answers():
        earlier = next(former, None)
        judged += is_judged(item)
        if count % every == 0:
            found.append(_cut_item(read(count, item, earlier), _CUTS[0]))
        count += 1
        if len(found) > MOST_RECORDS:
            found, every = found[::2], every * 2
    return Listed(found, every, count, judged)


def _as_far_as_they_go(before: Evaluation | None) -> Iterator[dict[str, Any]]:
    """What was answered before; a damaged file ends it."""
    if before is not None:
        with suppress(BadInput):
            yield from before.answers()


def fit(items: Items) -> Items:
    """The records, with texts cut and some left out where their page would be large."""
    shown, note = items.items, items.note
    lengths = Counter(len(text) for item in shown for text in _texts(item))
    total = {cut: sum(min(size, cut) * n for size, n in lengths.items()) for cut in _CUTS}
    longest = next((cut for cut in _CUTS if total[cut] <= MOST_CHARACTERS), _CUTS[-1])
    if lengths and max(lengths) > longest:
        shown = [_cut_item(item, longest) for item in shown]
        note += f" Texts are cut after {longest:,} characters."
    every = -(-total[longest] // MOST_CHARACTERS)
    if every > 1:
        shown = shown[::every]
        note += f" Of these one in {every} is here."
    return replace(items, items=shown, note=note.strip())


def _texts(item: Item) -> Iterator[str]:
    yield item.prompt
    yield item.expected or ""
    for answer in item.answers:
        yield answer.text


def _cut_item(item: Item, longest: int) -> Item:
    if max(map(len, _texts(item))) <= longest:
        return item
    answers = [replace(one, text=_cut(one.text, longest)) for one in item.answers]
    expected = None if item.expected is None else _cut(item.expected, longest)
    return replace(item, prompt=_cut(item.prompt, longest), expected=expected, answers=answers)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}… (cut here)"


def sampled(last: Evaluation, before: Evaluation | None, stops: Sequence[str] = ()) -> Items:
    """What seq2seq answered, beside what was expected; what has changed first.

    Args:
        before: the evaluation before, where there is one.
        stops: the job's stop strings.
    """
    step = None if before is None else before.step
    found = listed(
        last, before, lambda *told: _answered(step, stops, *told),
        lambda item: item["demonstration"] is not None,
    )  # fmt: skip
    several = any(len(item.numbers) > 1 and item.numbers[1] is not None for item in found.items)
    changed = {"changed": f"the first answer is another than at step {step}"}
    judged = {
        "wrong": "the first answer is not the expected text",
        "right": "the first answer is the expected text",
    }
    has_before = before is not None and before.items.exists()
    tags = (changed if has_before else {}) | (judged if found.judged else {})
    numbers = ["word F1", *["best word F1 of the samples"] * several]
    begin = "word F1, lowest first" if found.judged else "as in the file"
    return fit(
        Items(
            found.items,
            numbers=numbers if found.judged else [],
            tags=tags,
            begin="changed first" if has_before else begin,
            note=_which(last, found, "completion"),
        )
    )


def _which(last: Evaluation, found: Listed, answer: str) -> str:
    told = f"Step {last.step}: {found.count:,} records"
    if found.judged < found.count:
        told += f", {found.judged:,} of them with a {answer} to compare with"
    if found.every > 1:
        told += f". One in {found.every} is here"
    return f"{told}; all of it is in {last.items.name}."


def _answered(
    step: int | None,
    stops: Sequence[str],
    place: int,
    item: dict[str, Any],
    former: dict[str, Any] | None,
) -> Item:
    expected = reference_of(item, stops)
    texts = [one["lm_postprocess"] for one in item["generations"]]
    times = Counter(texts)
    scores = {text: None if expected is None else word_f1(text, expected) for text in times}
    answers = [
        Answer(_by(n, len(texts)), text, scores[text])
        for text, n in islice(times.items(), MOST_ANSWERS)
    ]
    tags = []
    first_before = None if former is None else former["generations"][0]["lm_postprocess"]
    if first_before is not None and first_before != texts[0]:
        tags.append("changed")
        of_before = None if expected is None else word_f1(first_before, expected)
        answers.append(Answer(f"step {step}", first_before, of_before))
    if expected is not None:
        tags.append("right" if texts[0].strip() == expected else "wrong")
    best = max((s for s in scores.values() if s is not None), default=None)
    numbers = [scores[texts[0]], *([best] if len(texts) > 1 else [])]
    more = len(times) - MOST_ANSWERS
    facts = _facts(item) + ([f"{more} more different samples"] if more > 0 else [])
    if expected is not None and expected != item["demonstration"].strip():
        facts.append("compared without special tokens, and up to a stop string")
    return Item(place, item["prompt"], expected, answers, facts, numbers, tags)


def _by(times: int, samples: int) -> str:
    if samples == 1:
        return "answer"
    return "a sample" if times == 1 else f"{times} of {samples} samples"


def _facts(item: dict[str, Any]) -> list[str]:
    """The logits of no and yes, before the first token of the answer."""
    scores = item["generations"][0]["scores"]
    if not scores or None in scores:
        return []
    return [f"logits of no {scores[0]:.2f}, yes {scores[1]:.2f}"]


def scored(last: Evaluation, before: Evaluation | None, unit: Callable[[Any], Any]) -> Items:
    """What clf scored, the worst mistakes first.

    Args:
        unit: a score or target of the job's range to one of 0..1; None to None.
    """
    step = None if before is None else before.step
    found = listed(
        last, before, lambda *told: _scored(step, unit, *told),
        lambda item: "target" in item["orig_d"],
    )  # fmt: skip
    changed = {"changed": f"the score has crossed the middle since step {step}"}
    wrong = {"wrong": "score and target lie on two sides of the middle"}
    has_before = before is not None and before.items.exists()
    return fit(
        Items(
            found.items,
            asked="input",
            numbers=["error", "score"],
            tags=(changed if has_before else {}) | (wrong if found.judged else {}),
            begin="error, highest first" if found.judged else "score, highest first",
            note=_which(last, found, "target"),
        )
    )


def _scored(
    step: int | None,
    unit: Callable[[Any], Any],
    place: int,
    item: dict[str, Any],
    former: dict[str, Any] | None,
) -> Item:
    record, score = item["orig_d"], item["pred_score"]
    target, was = record.get("target"), None if former is None else former["pred_score"]
    facts = ["no number" if score is None else f"score {score:.4g}"]
    facts += [] if target is None else [f"target {target:g}"]
    error, tags = None, []
    if score is not None and target is not None:
        error = abs(unit(score) - unit(target))
        tags += ["wrong"] if (unit(score) >= 0.5) != (unit(target) >= 0.5) else []
    if score is not None and was is not None:
        facts.append(f"at step {step} {was:.4g}")
        tags += ["changed"] if (unit(score) >= 0.5) != (unit(was) >= 0.5) else []
    if item["logits"]:
        no, yes = item["logits"]
        facts.append(f"logits of no {no:.2f}, yes {yes:.2f}")
    return Item(place, record["input"], None, (), facts, [error, score], tags)
