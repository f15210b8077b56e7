"""What evaluations write of a record, texts or scores: how each is read, judged and listed."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from workflow.config.task_specs import task_of
from workflow.metrics.references import reference_of
from workflow.metrics.rouge import word_f1
from workflow.reporting.report.blocks import Answer, Block, Charts, Item, Text
from workflow.runs.predictions import PastEvaluation

MOST_ANSWERS = 8
"""Different samples of a record that are listed."""
MOSTLY_WRONG = 0.05
"""Where no more answers than this are exactly right, rougeL says more."""
MALFORMED = (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError)
"""What reading a record raises that is not as a run writes it."""

Output = str | float
"""A text, or a score in the range of the targets."""


@dataclass(frozen=True)
class Record:
    """A record as an evaluation's file holds it; None stands for what there is not.

    Attributes:
        place: its index in the data file, from 0 on.
        expected: its completion or target.
        reference: what outputs are compared with.
        outputs: texts, one a sample, or a single score.
        logits: of no and yes, before the first token of the answer.
    """

    place: int
    prompt: str
    expected: Any
    reference: Any
    outputs: tuple[Any, ...]
    logits: Sequence[float] | None


class Texts:
    """How the texts that a run's evaluations wrote are read and judged; of `Scores` alike.

    Attributes:
        title: of their part of a report.
        needed: what a record has that can be compared.
        won_by: what a record is won by in a comparison, and `margin` how far apart they have to be.
        changed: what is said of a record of which an evaluation before has something else.
        verdicts: the tags of records that can be judged, and what each means.
        of_tokens: metrics that cannot be compared where the runs' tokenizers give the same texts
            other tokens.
    """

    title = "Answers"
    needed = "completions"
    won_by = (
        "a higher word F1 (the share of words that are the expected ones, in order), "
        "or the same and the exact text"
    )
    margin = 0.0
    changed = "the first answer is another than at step"
    verdicts: ClassVar = {
        "wrong": "the first answer is not the expected text",
        "right": "the first answer is the expected text",
    }
    of_tokens: tuple[str, ...] = ("loss", "perplexity", "token_accuracy", "mean_length")

    def __init__(self, spec: Mapping[str, Any]):
        self.task = task_of(spec)
        self._stops = [str(stop) for stop in spec.get("stop") or ()]

    def read(self, place: int, item: dict[str, Any]) -> Record:
        """A record of an evaluation's file; raises one of `MALFORMED` where it is none."""
        expected, reference = item["demonstration"], reference_of(item, self._stops)
        texts = tuple(_text(one["lm_postprocess"]) for one in item["generations"])
        logits = item["generations"][0].get("scores")
        if expected is not None:
            _text(expected)
        return Record(place, _text(item["prompt"]), expected, reference, texts, logits)

    def usual_metrics(self, exact_match: float) -> list[str]:
        """Those that say how good outputs are, the best first; `exact_match`: the highest, 0..1."""
        return [*["exact_match"] * (exact_match > MOSTLY_WRONG), "rougeL", "rougeL_unicode"]

    def quality(self, output: Any, reference: Any) -> float:
        """How good an output is, 0..1."""
        return word_f1(output, reference)

    def is_right(self, output: Any, reference: Any) -> bool:
        """Whether it is the very text that is expected; no score is."""
        return bool(output.strip() == reference)

    def item(self, record: Record, before: Record | None, step: int | None) -> Item:
        """A record in a list, beside what an evaluation before has of it, at that step."""
        first, expected = record.outputs[0], record.reference
        times = Counter(record.outputs)

        def answer(by: str, text: str) -> Answer:
            return Answer(by, text, None if expected is None else self.quality(text, expected))

        answers = [answer(_by(n, len(record.outputs)), text) for text, n in times.items()]
        numbers = [answers[0].score]
        if len(record.outputs) > 1:
            numbers.append(None if expected is None else max(one.score or 0.0 for one in answers))
        more, tags, facts = len(answers[MOST_ANSWERS:]), [], _logits(record)
        answers = answers[:MOST_ANSWERS]
        if before is not None and before.outputs[0] != first:
            tags.append("changed")
            answers.append(answer(f"step {step}", before.outputs[0]))
        if more:
            facts.append(f"{more} more different samples")
        if expected is not None:
            tags.append("right" if self.is_right(first, expected) else "wrong")
            if expected != record.expected.strip():
                facts.append("compared without special tokens, and up to a stop string")
        return Item(record.place, record.prompt, expected, answers, facts, numbers, tags)

    def order(
        self, items: Sequence[Item], is_judged: bool, has_before: bool
    ) -> tuple[Sequence[str], str]:
        """The names of what items can be sorted by, and the order at the beginning."""
        several = any(len(item.numbers) > 1 and item.numbers[1] is not None for item in items)
        numbers = ["word F1", *["best word F1 of the samples"] * several] if is_judged else []
        by_quality = "word F1, lowest first" if is_judged else "as in the file"
        return numbers, "changed first" if has_before else by_quality

    def charts(self, evaluation: PastEvaluation) -> list[Block]:
        """What the outputs of an evaluation show together."""
        return []


def _by(times: int, samples: int) -> str:
    if samples == 1:
        return "answer"
    return "a sample" if times == 1 else f"{times} of {samples} samples"


class Scores:
    """The same for scores; `target_range` is that of them and of the targets."""

    title = "Scores"
    needed = "targets and scores"
    won_by = "nearer to the target by more than a hundredth of the range"
    margin = 0.01
    changed = "the score has crossed the middle since step"
    verdicts: ClassVar = {"wrong": "score and target lie on two sides of the middle"}
    of_tokens: tuple[str, ...] = ()

    def __init__(self, spec: Mapping[str, Any]):
        self.task = task_of(spec)
        self.target_range = target_range(spec)

    def unit(self, value: float) -> float:
        """A score or target of the range as one of 0..1; those outside it as its ends."""
        low, high = self.target_range
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def read(self, place: int, item: dict[str, Any]) -> Record:
        record = item["orig_d"]
        target, score = _number(record.get("target")), _number(item["pred_score"])
        return Record(place, _text(record["input"]), target, target, (score,), item.get("logits"))

    def usual_metrics(self, exact_match: float) -> list[str]:
        return ["auc", "spearman", "rmse"]

    def quality(self, output: Any, reference: Any) -> float:
        return 1 - abs(self.unit(output) - self.unit(reference))

    def is_right(self, output: Any, reference: Any) -> bool:
        return False

    def item(self, record: Record, before: Record | None, step: int | None) -> Item:
        score, target = record.outputs[0], record.expected
        former = None if before is None else before.outputs[0]
        facts = ["no number" if score is None else f"score {score:.4g}"]
        if target is not None:
            facts.append(f"target {target:g}")
        error, tags = None, []
        if score is not None and target is not None:
            error = abs(self.unit(score) - self.unit(target))
            tags += ["wrong"] * (self._is_yes(score) != self._is_yes(target))
        if score is not None and former is not None:
            facts.append(f"at step {step} {former:.4g}")
            tags += ["changed"] * (self._is_yes(score) != self._is_yes(former))
        facts += _logits(record)
        return Item(record.place, record.prompt, None, (), facts, [error, score], tags)

    def _is_yes(self, value: float) -> bool:
        return self.unit(value) >= 0.5

    def order(
        self, items: Sequence[Item], is_judged: bool, has_before: bool
    ) -> tuple[Sequence[str], str]:
        return ["error", "score"], f"{'error' if is_judged else 'score'}, highest first"

    def charts(self, evaluation: PastEvaluation) -> list[Block]:
        from workflow.reporting.report import scores  # here, as scikit-learn's import takes long

        found = scores.scores_of(evaluation, self)
        charts, sentences = scores.score_charts(found), scores.baseline(found)
        blocks: list[Block] = [Text(sentences)] if sentences else []
        return blocks + ([Charts(charts)] if charts else [])


Outputs = Texts | Scores


def outputs_of(spec: Mapping[str, Any]) -> Outputs:
    """How those of a run are read, whose training_args.json that is."""
    return Texts(spec) if task_of(spec).output == "texts" else Scores(spec)


def target_range(spec: Mapping[str, Any]) -> tuple[float, float]:
    return float(spec.get("target_min", 0)), float(spec.get("target_max", 1))


def _logits(record: Record) -> list[str]:
    if not record.logits or None in record.logits:
        return []
    no, yes = record.logits
    return [f"logits of no {no:.2f}, yes {yes:.2f}"]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _number(value: Any) -> float | None:
    """A finite number; None where there is none."""
    number = None if value is None else float(value)
    if number is not None and not math.isfinite(number):
        raise ValueError("no finite number")
    return number
