"""What every task is: what training and evaluation ask of it, and what they hand over."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch

from workflow.batching import Indexes, MicroBatch
from workflow.config import JobSpec
from workflow.records import Record
from workflow.share import Share
from workflow.tokens import Encoder, TokenizedSplit
from workflow.weights import Model


@dataclass(frozen=True)
class Batch:
    """Examples computed together, in rows padded at the end.

    A row may hold several examples, one after the other. Segments number them from 1 on; 0 is
    padding. Shapes: input_ids, source_segments (rows, source length); decoder_input_ids,
    target_segments (rows, target length); targets (real target positions): what the model is to
    say there, row after row.
    """

    input_ids: torch.Tensor
    source_segments: torch.Tensor
    decoder_input_ids: torch.Tensor
    target_segments: torch.Tensor
    targets: torch.Tensor

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
    """One kind of job. Everything else in the package is the same for all tasks."""

    @property
    def shown(self) -> tuple[str, ...]:
        """The metrics that the log shows, in this order."""

    def fitted(self, tokenizer: Any) -> Self:
        """The task with what it must know of the tokenizer; raises BadInput where that lacks it."""

    def adapt(self, model: Model) -> None:
        """Let the model compute what this task asks of it faster; its results stay the same."""

    def describe(self, spec: JobSpec) -> str:
        """What an evaluation will do, in a line."""

    def collate(self, split: TokenizedSplit, rows: MicroBatch, spec: JobSpec, config: Any) -> Batch:
        """The examples of `rows` as tensors, for a model of this configuration."""

    def normalizer(self, split: TokenizedSplit, indexes: Indexes, spec: JobSpec) -> int:
        """What the summed losses of these examples are divided by."""

    def loss(self, model: Model, batch: Batch, label_smoothing: float) -> torch.Tensor:
        """The float32 sum of the losses of a batch."""

    def evaluate(
        self, model: Model, tokenizer: Any, split: TokenizedSplit, spec: JobSpec, share: Share
    ) -> Evaluation | None:
        """Metrics and answers for every record, on the main process; None on the others."""

    def items_files(self, spec: JobSpec, step: int) -> Sequence[str]:
        """The names of the files that hold an evaluation's items."""
