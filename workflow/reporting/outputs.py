"""Predictions of a record, i.e. texts, scores or classes: how each is read, scored and listed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from workflow.config.task_specs import task_of
from workflow.metrics.references import references_in
from workflow.metrics.rouge import word_f1
from workflow.reporting.record import Choice, Record, as_text, number_of, pair_text, text_of
from workflow.reporting.report.blocks import Block, Charts, Item, Prediction, Text
from workflow.runs.predictions import PastEvaluation

MOST_SAMPLES = 8
"""Distinct samples listed for a record."""
MOSTLY_WRONG = 0.05
"""Up to this exact_match, rougeL is more informative."""


class Texts:
    """Reads and scores the texts of a run's evaluations; `Scores` and `Classes` are alike.

    Attributes:
        title: of the report's section.
        needed: what a record must have for a comparison.
        won_by: definition of a win in a comparison, by more than `margin` in quality.
        changed: definition of the tag "changed", before a step.
        verdicts: the tags of records with a reference, with their definitions.
        of_tokens: metrics that depend on the tokenizer.
    """

    title = "Predictions"
    needed = "completions"
    won_by = "higher word F1 (ROUGE-L F1 over words), or equal word F1 and the only exact match"
    margin = 0.0
    changed = "the prediction (first sample) differs from that of step"
    verdicts: ClassVar = {
        "wrong": "the prediction (first sample) is not equal to the reference",
        "right": "the prediction (first sample) is equal to the reference",
    }
    of_tokens: tuple[str, ...] = ("loss", "perplexity", "token_accuracy", "mean_length")

    def __init__(self, spec: Mapping[str, Any]):
        self.task = task_of(spec)
        self._stops = [str(stop) for stop in spec.get("stop") or ()]

    def read(self, place: int, item: dict[str, Any]) -> Record:
        """A record of a prediction file; raises one of `MALFORMED` if it is malformed."""
        expected, references = item["demonstration"], references_in(item, self._stops)
        texts = tuple(text_of(one["lm_postprocess"]) for one in item["generations"])
        logits = item["generations"][0].get("scores")
        if expected is not None:
            text_of(expected)
        prompt, metrics = text_of(item["prompt"]), item.get("metrics") or {}
        return Record(place, prompt, expected, references, texts, logits, metrics=metrics)

    def usual_metrics(self, exact_match: float) -> list[str]:
        """The metrics of quality, the most informative first; `exact_match`: the highest, 0..1."""
        return [*["exact_match"] * (exact_match > MOSTLY_WRONG), "rougeL", "rougeL_unicode"]

    def quality(self, output: Any, reference: Any) -> float:
        """The quality of an output, 0..1, with the closest of several references."""
        return max(word_f1(output, one) for one in reference)

    def is_right(self, output: Any, reference: Any) -> bool:
        """Whether an output is an exact match; always False for scores."""
        return output.strip() in reference

    def item(self, record: Record, before: Record | None, step: int | None) -> Item:
        """A record for the list, with its output `before`, in the evaluation at `step`."""
        first, references = record.outputs[0], record.reference
        expected = None if references is None else as_text(references)
        times = Counter(record.outputs)

        def prediction(by: str, text: str) -> Prediction:
            known = references is not None
            return Prediction(by, text, self.quality(text, references) if known else None)

        predictions = [prediction(_by(n, len(record.outputs)), text) for text, n in times.items()]
        numbers = [predictions[0].score]
        if len(record.outputs) > 1:
            numbers.append(None if expected is None else max(p.score or 0.0 for p in predictions))
        more, tags, facts = len(predictions[MOST_SAMPLES:]), [], _logits(record)
        predictions = predictions[:MOST_SAMPLES]
        if before is not None and before.outputs[0] != first:
            tags.append("changed")
            predictions.append(prediction(f"step {step}", before.outputs[0]))
        if more:
            facts.append(f"{more} more distinct samples")
        if expected is not None:
            tags.append("right" if self.is_right(first, references) else "wrong")
            if references[0] != record.expected.strip():
                facts.append("reference without special tokens, up to a stop string")
        return Item(record.place, record.prompt, expected, predictions, facts, numbers, tags)

    def order(
        self, items: Sequence[Item], is_judged: bool, has_before: bool
    ) -> tuple[Sequence[str], str]:
        """The names of the sort keys, and the initial order."""
        several = any(len(item.numbers) > 1 and item.numbers[1] is not None for item in items)
        numbers = ["word F1", *["best word F1 of all samples"] * several] if is_judged else []
        by_quality = "word F1, lowest first" if is_judged else "file order"
        return numbers, "changed first" if has_before else by_quality

    def charts(self, evaluation: PastEvaluation) -> list[Block]:
        """Charts of all outputs of an evaluation."""
        return []


def _by(times: int, samples: int) -> str:
    return "prediction" if samples == 1 else f"{times} of {samples} samples"


class Scores:
    """Reads and compares scores; `target_range` is the range of scores and targets."""

    title = "Scores"
    needed = "targets and scores"
    won_by = "closer to the target by more than 1% of the target range"
    margin = 0.01
    changed = "the predicted class differs from that of step"
    verdicts: ClassVar = {
        "wrong": "the predicted class is not the target's (threshold: middle of the target range)"
    }
    of_tokens: tuple[str, ...] = ()

    def __init__(self, spec: Mapping[str, Any]):
        self.task = task_of(spec)
        self.target_range = target_range(spec)

    def unit(self, value: float) -> float:
        """A score or target scaled to 0..1 and clipped."""
        low, high = self.target_range
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def read(self, place: int, item: dict[str, Any]) -> Record:
        record = item["orig_d"]
        target, score = number_of(record.get("target")), number_of(item["pred_score"])
        return Record(place, text_of(record["input"]), target, target, (score,), item.get("logits"))

    def usual_metrics(self, exact_match: float) -> list[str]:
        return ["auc", "spearman", "rmse"]

    def quality(self, output: Any, reference: Any) -> float:
        return 1 - abs(self.unit(output) - self.unit(reference))

    def is_right(self, output: Any, reference: Any) -> bool:
        return False

    def item(self, record: Record, before: Record | None, step: int | None) -> Item:
        score, target = record.outputs[0], record.expected
        former = None if before is None else before.outputs[0]
        facts = ["score not finite" if score is None else f"score {score:.4g}"]
        if target is not None:
            facts.append(f"target {target:g}")
        error, tags = None, []
        if score is not None and target is not None:
            error = abs(self.unit(score) - self.unit(target))
            tags += ["wrong"] * (self._is_yes(score) != self._is_yes(target))
        if score is not None and former is not None:
            facts.append(f"step {step}: {former:.4g}")
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
        from workflow.reporting.report import scores  # lazy: imports scikit-learn

        found = scores.scores_of(evaluation, self)
        charts, sentences = scores.score_charts(found), scores.baseline(found)
        blocks: list[Block] = [Text(sentences)] if sentences else []
        return blocks + ([Charts(charts)] if charts else [])


class Classes:
    """Reads and compares classes; `names` are the job's, in the order of its logits."""

    title = "Classes"
    needed = "labels and predictions"
    won_by = (
        "probability of the label (of a map: the share in common) higher by more than 0.01, or "
        "about equal and the only right class"
    )
    margin = 0.01
    changed = "the predicted class differs from that of step"
    verdicts: ClassVar = {
        "wrong": "the predicted class is not the label (of a map: its most likely class)",
        "right": "the predicted class is the label",
        "inconsistent": "the two orders of the pair have different predicted classes",
    }
    of_tokens: tuple[str, ...] = ()

    def __init__(self, spec: Mapping[str, Any]):
        self.task = task_of(spec)
        self.names = tuple(map(str, spec["classes"]))

    def read(self, place: int, item: dict[str, Any]) -> Record:
        record, shares = item["orig_d"], item["pred_probs"]
        label = item.get("chosen_as", record.get("label"))
        if label is not None:
            label = self._choice(label if isinstance(label, dict) else {label: 1.0})
        output = None if shares is None else self._choice(shares, item["pred_label"])
        keys = ("pred_label_as_given", "pred_label_swapped")
        orders = tuple(text_of(item[key]) for key in keys if item.get(key) is not None)
        return Record(place, pair_text(item), label, label, (output,), None, orders)

    def _choice(self, shares: Mapping[str, Any], label: str | None = None) -> Choice:
        """A class, by default the most likely, with the probabilities in `shares`."""
        found = tuple(number_of(shares.get(name)) or 0.0 for name in self.names)
        if not shares.keys() <= set(self.names) or min(found) < 0 or abs(sum(found) - 1) > 1e-3:
            raise ValueError("not probabilities of the classes")
        chosen = self.names.index(label) if label else found.index(max(found))
        return Choice(self.names[chosen], found, self.names)

    def usual_metrics(self, exact_match: float) -> list[str]:
        return ["accuracy", "macro_f1", "log_loss"]

    def quality(self, output: Any, reference: Any) -> float:
        """The probability of the label; of a map, what both distributions have in common."""
        return float(sum(map(min, output.probabilities, reference.probabilities)))

    def is_right(self, output: Any, reference: Any) -> bool:
        return bool(output.label == reference.label)

    def item(self, record: Record, before: Record | None, step: int | None) -> Item:
        output, label = record.outputs[0], record.expected
        former = None if before is None else before.outputs[0]
        expected = None if label is None else str(label)
        if output is None:
            facts = ["logits not finite"]
            return Item(record.place, record.prompt, expected, (), facts, [None, None])
        predictions = [Prediction("prediction", str(output), None, False)]
        quality = None if label is None else self.quality(output, label)
        tags = [] if label is None else ["right" if self.is_right(output, label) else "wrong"]
        if former is not None and former.label != output.label:
            tags.append("changed")
            predictions.append(Prediction(f"step {step}", str(former), None, False))
        facts = ["a first: {}, b first: {}".format(*record.orders)] if record.orders else []
        tags += ["inconsistent"] * (len(set(record.orders)) > 1)
        numbers = [quality, max(output.probabilities)]
        return Item(record.place, record.prompt, expected, predictions, facts, numbers, tags)

    def order(
        self, items: Sequence[Item], is_judged: bool, has_before: bool
    ) -> tuple[Sequence[str], str]:
        numbers = ["probability of the label", "probability of the prediction"]
        return numbers, f"{numbers[not is_judged]}, lowest first"

    def charts(self, evaluation: PastEvaluation) -> list[Block]:
        from workflow.reporting.report import scores  # lazy: imports this module

        return scores.class_blocks(evaluation, self)


Outputs = Texts | Scores | Classes


def outputs_of(spec: Mapping[str, Any]) -> Outputs:
    """The reader for a run with this training_args.json."""
    kinds: dict[str, type[Outputs]] = {"texts": Texts, "scores": Scores, "classes": Classes}
    return kinds[task_of(spec).output](spec)


def target_range(spec: Mapping[str, Any]) -> tuple[float, float]:
    return float(spec.get("target_min", 0)), float(spec.get("target_max", 1))


def _logits(record: Record) -> list[str]:
    if not record.logits or None in record.logits:
        return []
    no, yes = record.logits
    return [f"logits: no {no:.2f}, yes {yes:.2f}"]
