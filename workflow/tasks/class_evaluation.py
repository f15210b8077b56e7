"""The evaluation of a classifier: probabilities of classes, of pairs in both orders."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from workflow.config.job import PlannedSpec
from workflow.data.shapes.classes import SWAPPED, ClassShape
from workflow.inference.scorer import LabelIds, Scoring, label_probabilities, score_labels
from workflow.metrics.classes import class_metrics, pair_metrics
from workflow.tasks.base import EvalContext, Prediction
from workflow.tasks.label_scoring import SCORED_AT_ONCE
from workflow.tasks.label_words import soft_cross_entropy
from workflow.tasks.sameness import Sameness, warn_of_non_finite

Floats = npt.NDArray[np.float64]


class ClassEvaluation:
    """One evaluation of a classifier.

    A pair is answered in both orders; its probabilities are the mean of both.
    """

    timing = "score_seconds"

    def __init__(
        self,
        shape: ClassShape,
        classes: tuple[str, ...],
        label_ids: LabelIds,
        context: EvalContext,
        spec: PlannedSpec,
    ):
        """Rows are scored lazily, as `results` is consumed."""
        self._shape, self._classes, self._context = shape, classes, context
        self._seed = spec.seed
        self._orders = 2 if shape.is_pair else 1
        # Of each record and order, as the record has its answers.
        self.count, count = len(context.examples), len(context.examples.split)
        self._logits = np.zeros((count, self._orders, len(classes)), np.float32)
        # Columns of a swapped pair's logits, so that a and b are the record's own answers.
        self._swapped = (
            [classes.index(SWAPPED.get(name, name)) for name in classes] if shape.is_pair else []
        )
        self._sameness = None if context.untrained else Sameness()
        max_positions = SCORED_AT_ONCE * spec.micro_batch_tokens
        scoring = Scoring(label_ids, max_positions, spec.eval_batch_size)
        self.results: Iterator[tuple[int, Any]] = score_labels(
            context.model, context.examples.sources, scoring, context.shard
        )

    def judge(self, indexes: range, results: Iterator[Any]) -> Iterator[Prediction]:
        orders = self._orders
        records = range(indexes.start // orders, indexes.stop // orders)
        here = slice(records.start, records.stop)
        found = np.array(list(results), np.float32).reshape(len(records), orders, -1)
        if orders == 2:
            found[:, 1] = found[:, 1][:, self._swapped]
        self._logits[here] = found
        of_orders = self._probabilities(here)
        for index, probabilities, logits in zip(records, of_orders, found.tolist(), strict=True):
            record = self._context.examples.split.record(index)
            yield self._prediction(record, probabilities, logits)

    def _probabilities(self, records: slice) -> Floats:
        """Of each record and order, (records, orders, classes)."""
        logits = self._logits[records]
        flat = label_probabilities(logits.reshape(-1, logits.shape[-1]))
        return flat.reshape(logits.shape)

    def _prediction(self, record: Any, of_orders: Floats, logits: list[Any]) -> Prediction:
        mean = of_orders.mean(axis=0)
        if not np.isfinite(mean).all():
            nothing = {"pred_label": None, "pred_probs": None, "logits": None}
            return Prediction(record, None, {"orig_d": record} | nothing)
        label = self._named(mean)
        item = {
            "orig_d": record,
            "pred_label": label,
            "pred_probs": dict(zip(self._classes, mean.tolist(), strict=True)),
            "logits": logits[0],
        }
        if self._shape.name == "chosen":
            item["chosen_as"] = next(iter(self._shape.answer(record) or ()))
        if self._orders == 2:
            item |= {
                "logits_swapped": logits[1],
                "pred_label_as_given": self._named(of_orders[0]),
                "pred_label_swapped": self._named(of_orders[1]),
            }
        if self._sameness:
            answer = self._shape.answer(record)
            text = "\n".join(self._shape.texts(record))
            self._sameness.add(text, answer and max(answer, key=answer.__getitem__), label)
        return Prediction(record, label, item)

    def _named(self, probabilities: Floats) -> str:
        return self._classes[int(probabilities.argmax())]

    def metrics(self) -> dict[str, Any]:
        """The metrics of records with a label, and how the order of pairs matters."""
        everything = self._probabilities(slice(None))
        probabilities = everything.mean(axis=1)
        finite = np.isfinite(probabilities).all(axis=1)
        warn_of_non_finite(finite)
        if self._sameness:
            self._sameness.warn()
        orders = {}
        if self._orders == 2 and finite.any():
            orders = pair_metrics(everything[finite, 0], everything[finite, 1], self._classes)
        targets = self._context.examples.targets
        labeled = np.flatnonzero(targets.lengths[:: self._orders].astype(bool) & finite)
        if not targets.lengths.any():
            return orders
        if not len(labeled):
            return {"loss": None}
        wanted = np.stack([targets[index * self._orders] for index in labeled])
        losses = [
            soft_cross_entropy(torch.from_numpy(logits), torch.from_numpy(wanted)).numpy()
            for logits in self._logits[labeled].swapaxes(0, 1)
        ]
        measured = class_metrics(
            probabilities[labeled], wanted.astype(np.float64), self._classes, self._seed
        )
        return {"loss": float(np.mean(losses)), **measured, **orders}
