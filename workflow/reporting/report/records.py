"""The list of an evaluation's records: predictions, references, and changed predictions."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from workflow.core.errors import BadInput
from workflow.reporting.outputs import Outputs
from workflow.reporting.report.blocks import Item, Items
from workflow.runs.predictions import PastEvaluation

MOST_RECORDS = 10_000
"""Records of a page; of more, it shows 1 in 2, 1 in 4 and so on."""
MOST_CHARACTERS = 32_000_000
"""Characters of all texts of a page, about 11 MB of HTML."""
_CUTS = (20_000, 8_000, 4_000, 2_000, 1_000, 500, 250, 100)


def record_list(outputs: Outputs, last: PastEvaluation, before: PastEvaluation | None) -> Items:
    """The records of an evaluation, or an even selection; changed predictions come first.

    Args:
        before: the previous evaluation.
    """
    step = None if before is None else before.step
    items: list[Item] = []
    every, count, judged = 1, 0, 0
    former = _readable(before)
    for raw in last.predictions():
        record, raw_before = outputs.read(count, raw), next(former, None)
        judged += record.expected is not None
        if count % every == 0:
            earlier = None if raw_before is None else outputs.read(count, raw_before)
            items.append(_cut_item(outputs.item(record, earlier, step), _CUTS[0]))
        count += 1
        if len(items) > MOST_RECORDS:
            items, every = items[::2], every * 2
    has_before = before is not None and before.items.exists()
    numbers, begin = outputs.order(items, judged > 0, has_before)
    tags = {"changed": f"{outputs.changed} {step}"} if has_before else {}
    occurring = {tag for item in items for tag in item.tags}
    tags |= {tag: what for tag, what in outputs.verdicts.items() if tag in occurring}
    note = f"Step {last.step}: {count:,} records"
    if judged < count:
        note += f", {judged:,} with a {outputs.task.answer_key}"
    if every > 1:
        note += f", 1 in {every} shown"
    note += f". All predictions are in {last.items.name}."
    return fit(Items(items, outputs.task.source_key, "word F1", numbers, tags, begin, note))


def _readable(before: PastEvaluation | None) -> Iterator[dict[str, Any]]:
    """The predictions of the previous evaluation, up to damage of the file."""
    if before is not None:
        with suppress(BadInput):
            yield from before.predictions()


def fit(items: Items) -> Items:
    """The records, with truncated texts and fewer records if their page would be large."""
    shown, note = items.items, items.note
    lengths = Counter(len(text) for item in shown for text in _texts(item))
    total = {cut: sum(min(size, cut) * n for size, n in lengths.items()) for cut in _CUTS}
    longest = next((cut for cut in _CUTS if total[cut] <= MOST_CHARACTERS), _CUTS[-1])
    if lengths and max(lengths) > longest:
        shown = [_cut_item(item, longest) for item in shown]
        note += f" Texts are truncated to {longest:,} characters."
    every = -(-total[longest] // MOST_CHARACTERS)
    if every > 1:
        shown = shown[::every]
        note += f" 1 in {every} of these records is shown."
    return replace(items, items=shown, note=note.strip())


def _texts(item: Item) -> Sequence[str]:
    return [item.prompt, item.expected or "", *(prediction.text for prediction in item.predictions)]


def _cut_item(item: Item, longest: int) -> Item:
    if max(map(len, _texts(item))) <= longest:
        return item
    predictions = [replace(one, text=_cut(one.text, longest)) for one in item.predictions]
    expected = None if item.expected is None else _cut(item.expected, longest)
    return replace(
        item, prompt=_cut(item.prompt, longest), expected=expected, predictions=predictions
    )


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}… (truncated)"
