"""Tell classes apart: of a text, or which of two answers to a prompt is better."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from workflow.config.job import JobSpec, PlannedSpec
from workflow.config.request import JobRequest
from workflow.config.task_specs import CLASSES
from workflow.config.templates import CHAT, PLAIN
from workflow.core.errors import BadInput, Problem
from workflow.data.pair_rows import Orders, PairFrame, PairRows
from workflow.data.pair_text import pair_frame, pair_ids
from workflow.data.records import Record
from workflow.data.shapes.classes import ClassShape, Labels
from workflow.data.step_planner import MicroBatch
from workflow.data.text_format import SeparateTexts, TextFormat
from workflow.data.text_ids import Frame
from workflow.data.token_cache import TokenizedSplit
from workflow.inference.scorer import LabelIds
from workflow.models.batch import SECOND, Batch, Example
from workflow.models.families import family_of
from workflow.models.lm_head import on_device
from workflow.tasks.base import EvalContext, Examples, Task, check_metric, cut_sources
from workflow.tasks.class_evaluation import ClassEvaluation
from workflow.tasks.class_targets import ClassTargets, class_weights, encoded, find_classes
from workflow.tasks.label_words import label_ids, smoothed, soft_cross_entropy

_WORDS_OF_PAIRS = {"a": "A", "b": "B", "tie": "C"}
"""Words for the classes of pairs: single tokens in most vocabularies."""


@dataclass(frozen=True)
class Classification(Task):
    """The task of clf.py for records with classes.

    A stored target is the record's label as text (`encoded`), so that token ids do not depend on
    the classes, which the train records name.

    Attributes:
        request: the job.
        shape: of the records.
        format: how texts become ids; set by `bind_tokenizer`.
        tokenizer: the model's; set by `bind_tokenizer`.
        classes: in the order of logits; set by `bind_data`, like the following.
        label_ids: the ids of their words, or of the outputs of a model's own head.
        frame: what surrounds the parts of a pair.
        weights: of the classes in the loss; None for equal ones.
    """

    request: JobRequest
    shape: ClassShape = Labels()
    format: TextFormat = SeparateTexts(None)
    tokenizer: Any = None
    classes: tuple[str, ...] = ()
    label_ids: LabelIds = LabelIds(())
    frame: PairFrame | None = None
    weights: tuple[float, ...] | None = None

    @classmethod
    def of(cls, request: JobRequest, shape: type[ClassShape]) -> "Classification":
        """The task of a job on records of this shape."""
        if not issubclass(shape, Labels):
            return cls(request, shape())
        template = PLAIN if request.template == CHAT else request.template
        return cls(request, shape(request.classes or (), template or PLAIN))

    @property
    def unused(self) -> tuple[str, ...]:
        of_shape = ["truncation_side"] if self.shape.is_pair else ["pair_shares", "both_orders"]
        return "target_min", "target_max", *of_shape

    @property
    def encoding(self) -> str:
        kind = [self.shape.name, self.format.writes]
        template = "" if self.shape.is_pair else self.request.template
        return json.dumps(["classes", *kind, template, *self.format.key[1:]])

    @property
    def framing(self) -> int:
        return 0 if self.frame is None else len(self.frame)

    def bind_tokenizer(
        self, tokenizer: PreTrainedTokenizerBase, format: TextFormat
    ) -> "Classification":
        return dataclasses.replace(self, tokenizer=tokenizer, format=format)

    def bind_data(
        self, splits: Mapping[str, TokenizedSplit], request: JobRequest
    ) -> "Classification":
        classes = find_classes(splits, request, self.shape.is_pair)
        ids, words = LabelIds(tuple(range(len(classes)))), self._words(classes)
        if self.format.writes:
            if len(words) != len(classes):
                found = f"{len(words)} words for {len(classes)} classes: {', '.join(classes)}"
                hint = "give a word for each class, in this order"
                raise BadInput([Problem("--label_words", found, "a word for each class", hint)])
            ids = label_ids(self.tokenizer, words, self.format)
        frame = self._frame(classes, words, request) if self.shape.is_pair else None
        weights = None
        if request.class_weight is not None and "train" in splits:
            weights = class_weights(request.class_weight, splits["train"], classes)
        return dataclasses.replace(
            self, classes=classes, label_ids=ids, frame=frame, weights=weights
        )

    def _frame(
        self, classes: Sequence[str], words: Sequence[str], request: JobRequest
    ) -> PairFrame:
        """What surrounds pairs; raises BadInput if there is no room, or a template is not used."""
        frame = pair_frame(
            self.tokenizer, self.format, dict(zip(classes, words, strict=False)), SECOND
        )
        problems = []
        if not self.format.writes and self.format.template != PLAIN:
            found = "a template for an encoder, which reads pairs as they are"
            problems.append(Problem("--template", found, "no template", "remove it"))
        if request.max_source_length < len(frame) + 3:
            expected = f"at least {len(frame) + 3}: {len(frame)} tokens surround prompt and answers"
            found = str(request.max_source_length)
            problems.append(Problem("--max_source_length", found, expected, "increase it"))
        if problems:
            raise BadInput(problems)
        return frame

    def _words(self, classes: Sequence[str]) -> tuple[str, ...]:
        """The words of the classes: those of the job, or else the names themselves."""
        if self.request.label_words != ("no", "yes"):
            return self.request.label_words
        named = _WORDS_OF_PAIRS if self.shape.is_pair else {}
        return tuple(named.get(name, name) for name in classes)

    def examples(self, split: TokenizedSplit, spec: JobRequest, trains: bool) -> Examples:
        """Of pairs, in training, each once in a drawn order or in both; in evaluation in both."""
        count = len(split)
        if self.frame is None:
            orders = Orders(np.arange(count), np.zeros(count, np.bool_))
            return Examples(
                split, cut_sources(split, spec), ClassTargets(split.targets, self.classes, orders)
            )
        if trains and not spec.both_orders:
            orders = Orders.drawn(count, spec.seed)
        else:
            orders = Orders.both(count)
        begin, before_one, before_other, end = self.frame.ids
        virtual = [*range(-spec.virtual_ids, 0)]
        frame = dataclasses.replace(
            self.frame, ids=([*virtual, *begin], before_one, before_other, end)
        )
        longest = spec.max_source_length + spec.virtual_ids
        sources = PairRows(split.sources, frame, longest, spec.pair_shares, orders)
        targets = ClassTargets(split.targets, self.classes, orders)
        return Examples(split, sources, targets, records=orders.records)

    def optimize_for_task(self, model: PreTrainedModel) -> None:
        family_of(model.config).optimize_for_scoring(model)

    def check(
        self, tokenizer: PreTrainedTokenizerBase, split: TokenizedSplit, request: JobRequest
    ) -> None:
        check_metric(request, CLASSES, "records with classes")

    def describe(self, spec: JobSpec) -> str:
        of_what = {
            "label": "a text",
            "pair": "the better of two answers",
            "chosen": "the better of two answers, on drawn sides",
        }[self.shape.name]
        by = "the classification head"
        if self.format.writes:
            by = f"the words {', '.join(self._words(self.classes))} as the first output token"
        return f"classes of {of_what}: {', '.join(self.classes)}, by {by}"

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, records: Sequence[Record]
    ) -> tuple[list[list[int]], list[list[int]]]:
        texts = [self.shape.texts(record) for record in records]
        labels = [encoded(self.shape.answer(record)) for record in records]
        if self.shape.is_pair:
            return pair_ids(tokenizer, self.format, texts), labels
        return self.format.sources(tokenizer, [text for (text,) in texts]), labels

    def frames(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Frame]:
        return self.format.frames(tokenizer) | {"target": (0, 0)}

    def collate(self, examples: Examples, rows: MicroBatch, config: PreTrainedConfig) -> Batch:
        targets = [examples.targets[index] for row in rows for index in row]
        read = [[Example(examples.sources[index]) for index in row] for row in rows]
        return family_of(config).collate(config, read, torch.from_numpy(np.stack(targets)))

    def loss(self, model: PreTrainedModel, batch: Batch, label_smoothing: float) -> torch.Tensor:
        batch = batch.to(model.device)
        targets = smoothed(batch.targets, label_smoothing)
        if self.weights is not None:
            targets = targets * on_device(self.weights, targets.device)
        return soft_cross_entropy(self.label_ids.logits(model, batch), targets).sum()

    def evaluation(self, context: EvalContext, spec: PlannedSpec) -> ClassEvaluation:
        return ClassEvaluation(self.shape, self.classes, self.label_ids, context, spec)

    def sample(self, record: Record, prediction: Any) -> Mapping[str, Any]:
        texts = {key: record[key] for key in self.shape.source_keys}
        return texts | {"label": record.get("label"), "predicted": prediction}
