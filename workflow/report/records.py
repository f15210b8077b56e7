"""The records of an evaluation in a list to search: what was answered, and what has changed."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, repeat
from typing import Any

from workflow.answers import Evaluation
from workflow.metrics import word_f1
from workflow.report.blocks import Answer, Item, Items

MOST_RECORDS = 10_000
"""Records of a page; of more, it shows every second, fourth and so on."""
MOST_CHARACTERS = 32_000_000
"""Characters of all texts of a page: some 11 MB of it."""
_CUTS = (20_000, 8_000, 4_000, 2_000, 1_000, 500, 250, 100)

Read = Callable[[int, dict[str, Any], dict[str, Any] | None], Item]
"""Makes an item of a record's place, what was found of it, and what an evaluation before found."""


def listed(last: Evaluation, before: Evaluation | None, read: Read) -> tuple[list[Item], int, int]:
    """The records of an evaluation, or some, spread evenly.

    Returns:
        Them, of how many records they are each, and how many records there are.
    """
    earlier: Iterator[dict[str, Any] | None] = iter(()) if before is None else before.answers()
    found: list[Item] = []
    every, count = 1, 0
    for item, former in zip(last.answers(), chain(earlier, repeat(None))):  # noqa: B905 (endless)
        count += 1
        if (count - 1) % every:
            continue
        found.append(_cut_item(read(count, item, former), _CUTS[0]))
        if len(found) > MOST_RECORDS:
            found, every = found[::2], every * 2
    return found, every, count


def fit(items: Items) -> Items:
    """The records with texts cut so that their page stays small, and a note that says so."""
    lengths = Counter(len(text) for item in items.items for text in _texts(item))
    total = {cut: sum(min(size, cut) * n for size, n in lengths.items()) for cut in _CUTS}
    longest = next((cut for cut in _CUTS if total[cut] <= MOST_CHARACTERS), _CUTS[-1])
    if not lengths or max(lengths) <= longest:
        return items
    note = f"{items.note} Texts are cut after {longest:,} characters.".strip()
    return replace(items, items=[_cut_item(item, longest) for item in items.items], note=note)


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


def sampled(last: Evaluation, before: Evaluation | None) -> Items:
    """What seq2seq answered, beside what was expected; what has changed first.

    Args:
        before: the evaluation before, where there is one.
    """
    step = None if before is None else before.step
    found, every, count = listed(last, before, lambda *told: _answered(step, *told))
    several = any(len(item.numbers) > 1 and item.numbers[1] is not None for item in found)
    changed = {"changed": f"the first answer is another than at step {step}"}
    tags = {
        **(changed if before is not None and before.items.exists() else {}),
        "wrong": "the first answer is not the expected text",
        "right": "it is, but for blanks around it",
    }
    items = Items(
        found,
        numbers=["word F1", *(["best word F1 of the samples"] if several else [])],
        tags=tags,
        begin="changed first" if "changed" in tags else "word F1, lowest first",
        note=_which(last, every, count),
    )
    return fit(items)


def _which(last: Evaluation, every: int, count: int) -> str:
    shown = f"every {every}th of {count:,} records" if every > 1 else f"all {count:,} records"
    return f"Step {last.step}, {shown}; whole in {last.items.name}."


def _answered(
    step: int | None, place: int, item: dict[str, Any], former: dict[str, Any] | None
) -> Item:
    expected = item["demonstration"]
    texts = [one["lm_postprocess"] for one in item["generations"]]
    scores = {text: None if expected is None else word_f1(text, expected) for text in set(texts)}
    answers = [Answer(_by(n, len(texts)), text, scores[text]) for text, n in Counter(texts).items()]
    tags = []
    first_before = None if former is None else former["generations"][0]["lm_postprocess"]
    if first_before is not None and first_before != texts[0]:
        tags.append("changed")
        of_before = None if expected is None else word_f1(first_before, expected)
        answers.append(Answer(f"step {step}", first_before, of_before))
    if expected is not None:
        tags.append("right" if texts[0].strip() == expected.strip() else "wrong")
    best = max((s for s in scores.values() if s is not None), default=None)
    numbers = [scores[texts[0]], *([best] if len(texts) > 1 else [])]
    return Item(place, item["prompt"], expected, answers, _facts(item), numbers, tags)


def _by(times: int, samples: int) -> str:
    if samples == 1:
        return "answer"
    return "a sample" if times == 1 else f"{times} of {samples} samples"


def _facts(item: dict[str, Any]) -> list[str]:
    """The logits of no and yes, before the first token of the answer."""
    scores = item["generations"][0]["scores"]
    if not scores or None in scores:
        return []
    return [f"no {scores[0]:.2f}, yes {scores[1]:.2f}"]


def scored(last: Evaluation, before: Evaluation | None, unit: Callable[[Any], Any]) -> Items:
    """What clf scored, the worst mistakes first.

    Args:
        unit: a score or target of the job's range to one of 0..1; None to None.
    """
    step = None if before is None else before.step
    found, every, count = listed(last, before, lambda *told: _scored(step, unit, *told))
    changed = {"changed": f"the score has crossed the middle since step {step}"}
    items = Items(
        found,
        numbers=["error", "score"],
        tags={
            **(changed if before is not None and before.items.exists() else {}),
            "wrong": "score and target lie on two sides of the middle",
        },
        begin="error, highest first",
        note=_which(last, every, count),
    )
    return fit(items)


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
        facts.append(f"logits {no:.2f} and {yes:.2f}")
    return Item(place, record["input"], None, (), facts, [error, score], tags)
