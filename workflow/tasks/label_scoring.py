"""Score a text by the probability of yes against no as the first output token."""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from workflow.config.job import JobSpec, PlannedSpec
from workflow.config.request import JobRequest
from workflow.config.templates import CHAT, PLAIN
from workflow.data.records import Record
from workflow.data.shapes.targets import Targets
from workflow.data.step_planner import MicroBatch
from workflow.data.text_format import SeparateTexts, TextFormat
from workflow.data.text_ids import Frame
from workflow.inference.scorer import LabelIds, Scoring, label_probabilities, score_labels
from workflow.metrics.scores import in_range, score_metrics
from workflow.models.batch import Batch, Example
from workflow.models.families import family_of
from workflow.tasks.base import EvalContext, Examples, Prediction, Task
from workflow.tasks.label_words import label_ids, smoothed, soft_cross_entropy
from workflow.tasks.sameness import Sameness, warn_of_non_finite

Floats = npt.NDArray[np.float64]
SCORED_AT_ONCE = 2
"""Positions of a scoring batch over those of a micro-batch: no activations are kept."""


@dataclass(frozen=True)
class LabelScoring(Task):
    """The task of clf.py.

    Internally a target is a number in [0, 1]: 0 is `target_min`, 1 is `target_max`. It is stored
    as the 32 bits of a float in place of a token id.

    Attributes:
        label_ids: the ids of the words for no and yes, or of the outputs of a model's own head;
            set by `bind_tokenizer`.
        format: how texts become ids; set by `bind_tokenizer`.
    """

    template: str
    label_words: tuple[str, ...]
    target_min: float
    target_max: float
    label_ids: LabelIds = LabelIds(())
    format: TextFormat = SeparateTexts(None)

    @property
    def unused(self) -> tuple[str, ...]:
        return "classes", "pair_shares", "both_orders", "class_weight"

    @classmethod
    def of(cls, request: JobRequest) -> "LabelScoring":
        assert request.template is not None
        return cls(request.template, request.label_words, request.target_min, request.target_max)

    @property
    def encoding(self) -> str:
        of_format = self.format.key[1:]
        return json.dumps(["clf", self.template, self.target_min, self.target_max, *of_format])

    @property
    def shape(self) -> Targets:
        template = PLAIN if self.template == CHAT else self.template
        return Targets(self.target_min, self.target_max, template)

    def bind_tokenizer(
        self, tokenizer: PreTrainedTokenizerBase, format: TextFormat
    ) -> "LabelScoring":
        ids = LabelIds((0, 1))
        if format.writes:
            ids = label_ids(tokenizer, self.label_words, format)
        return dataclasses.replace(self, label_ids=ids, format=format)

    def optimize_for_task(self, model: PreTrainedModel) -> None:
        family_of(model.config).optimize_for_scoring(model)

    def describe(self, spec: JobSpec) -> str:
        if not self.format.writes:
            return f"score: probability of {self.label_words[1]} by the classification head"
        forms = []
        for ids in filter(None, (self.label_ids.plain, self.label_ids.spaced)):
            no, yes = (f"{word} ({i})" for word, i in zip(self.label_words, ids, strict=True))
            forms.append(f"{yes} against {no}")
        shown = " (after whitespace: ".join(forms) + ")" * (len(forms) - 1)
        return f"score: probability of {shown} as the first output token"

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, records: Sequence[Record]
    ) -> tuple[list[list[int]], list[list[int]]]:
        texts = [record["input"] for record in records]
        return self.format.sources(tokenizer, texts), [
            [_bits(self.from_range(record["target"]))] if "target" in record else []
            for record in records
        ]

    def frames(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Frame]:
        return self.format.frames(tokenizer) | {"target": (0, 0)}

    def from_range(self, target: float) -> float:
        """Scale a target to [0, 1]."""
        return (float(target) - self.target_min) / (self.target_max - self.target_min)

    def to_range(self, scores: Floats) -> list[float | None]:
        """Scale scores to the user's range; None for non-finite ones."""
        scaled = self.target_min + scores * (self.target_max - self.target_min)
        scaled = np.minimum(scaled, self.target_max)  # rounding may exceed it
        return [score if math.isfinite(score) else None for score in scaled.tolist()]

    def collate(self, examples: Examples, rows: MicroBatch, config: PreTrainedConfig) -> Batch:
        targets = [examples.targets[index] for row in rows for index in row]
        read = [[Example(examples.sources[index]) for index in row] for row in rows]
        labels = torch.from_numpy(np.concatenate(targets).view(np.float32))
        return family_of(config).collate(config, read, labels)

    def loss(self, model: PreTrainedModel, batch: Batch, label_smoothing: float) -> torch.Tensor:
        batch = batch.to(model.device)
        targets = smoothed(_of_both(batch.targets), label_smoothing)
        return soft_cross_entropy(self.label_ids.logits(model, batch), targets).sum()

    def evaluation(self, context: EvalContext, spec: PlannedSpec) -> "LabelEvaluation":
        return LabelEvaluation(self, context, spec)

    def sample(self, record: Record, prediction: float | None) -> Mapping[str, Any]:
        return {"input": record["input"], "target": record.get("target"), "score": prediction}


class LabelEvaluation:
    """One evaluation of a label scorer."""

    timing = "score_seconds"

    def __init__(self, task: LabelScoring, context: EvalContext, spec: PlannedSpec):
        """Rows are scored lazily, as `results` is consumed."""
        self._task, self._split, self._seed = task, context.examples.split, spec.seed
        # The logits of no and yes, and the targets in [0, 1], NaN for records without one.
        self.count = len(self._split)
        self._logits = np.zeros((self.count, 2), np.float32)
        self._targets = np.full(len(self._split), np.nan)
        self._sameness = None if context.untrained else Sameness()
        max_positions = SCORED_AT_ONCE * spec.micro_batch_tokens
        scoring = Scoring(task.label_ids, max_positions, spec.eval_batch_size)
        self.results: Iterator[tuple[int, Any]] = score_labels(
            context.model, context.examples.sources, scoring, context.shard
        )

    def judge(self, indexes: range, results: Iterator[Any]) -> Iterator[Prediction]:
        here = slice(indexes.start, indexes.stop)
        self._logits[here] = list(results)
        logits = self._logits[here]
        scores = self._task.to_range(label_probabilities(logits)[:, 1])
        for index, pair, score in zip(indexes, logits.tolist(), scores, strict=True):
            record = self._split.record(index)
            if "target" in record:
                self._targets[index] = self._task.from_range(record["target"])
            if self._sameness and score is not None:
                self._sameness.add(record["input"], record.get("target"), score)
            item = {"orig_d": record, "pred_score": score}
            yield Prediction(record, score, item | {"logits": None if score is None else pair})

    def metrics(self) -> dict[str, Any]:
        """The metrics of records with a target; errors are in the user's range."""
        scores = label_probabilities(self._logits)[:, 1]
        answered, finite = ~np.isnan(self._targets), np.isfinite(scores)
        warn_of_non_finite(finite)
        if self._sameness:
            self._sameness.warn()
        if not answered.any():
            return {}
        measured = answered & finite
        if not measured.any():
            return {"loss": None}
        scores, targets = scores[measured], self._targets[measured]
        of_both = _of_both(torch.from_numpy(targets.astype(np.float32)))
        losses = soft_cross_entropy(torch.from_numpy(self._logits[measured]), of_both)
        metrics = {"loss": float(losses.mean()), **score_metrics(scores, targets, self._seed)}
        return in_range(metrics, self._task.target_min, self._task.target_max)


def _of_both(targets: torch.Tensor) -> torch.Tensor:
    """Targets in [0, 1] (examples,) as probabilities of no and yes (examples, 2)."""
    return torch.stack([1 - targets, targets], dim=1)


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.int32))
