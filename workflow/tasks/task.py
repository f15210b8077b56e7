"""What every task is: what training and evaluation ask of it, and what they hand over."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from workflow.batching import Indexes, MicroBatch
from workflow.config import JobSpec
from workflow.models import Model
from workflow.records import Record
from workflow.tokens import Encoder, TokenizedSplit


@dataclass(frozen=True)
class Batch:
    """Examples computed together, in rows padded at the end.

    A row may hold several examples, one after the other. Segments number them from 1 on; 0 is
    padding. Shapes: input_ids, source_segments (rows, source length); labels, target_segments
    (rows, target length); labels are -100 where padded.
    """

    input_ids: torch.Tensor
    source_segments: torch.Tensor
    labels: torch.Tensor
    target_segments: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(getattr(self, f.name).to(device) for f in dataclasses.fields(self)))


@dataclass(frozen=True)
class Evaluation:
    """What a model was found to do; all lists in the order of the data file.

    Attributes:
        metrics: numbers, intervals as [low, high], and signatures, by name.
        items: what is written of each record.
        records: the records themselves, and `predictions` what a user's metric is given for them.
    """

    metrics: dict[str, Any]
    items: list[dict[str, Any]]
    records: list[Record]
    predictions: list[Any]


class Task(Encoder, Protocol):
    """One kind of job. Everything else in the package is the same for all tasks.

    Attributes:
        shown: the metrics that the log shows, in this order.
    """

    shown: tuple[str, ...]

    def collate(self, split: TokenizedSplit, rows: MicroBatch, spec: JobSpec, pad_id: int) -> Batch:
        """The examples of `rows` as tensors."""

    def normalizer(self, split: TokenizedSplit, indexes: Indexes, spec: JobSpec) -> int:
        """What the summed losses of these examples are divided by."""

    def loss(self, model: Model, batch: Batch, label_smoothing: float) -> torch.Tensor:
        """The float32 sum of the losses of a batch."""

    def evaluate(
        self, model: Model, tokenizer: Any, split: TokenizedSplit, spec: JobSpec, step: int
    ) -> Evaluation:
        """Metrics and answers for every record."""

    def items_file(self, spec: JobSpec, step: int) -> str:
        """The name of the file that holds an evaluation's items."""
