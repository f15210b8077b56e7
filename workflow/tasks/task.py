"""What every task is: what training and evaluation ask of it, and what they hand over."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from workflow.batching import Indexes
from workflow.config import JobSpec
from workflow.models import Model
from workflow.tokens import Encoder, TokenizedSplit


@dataclass(frozen=True)
class Batch:
    """Examples computed together, padded at the end.

    Shapes: input_ids, attention_mask (rows, source length); labels (rows, target length), -100
    where padded.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Evaluation:
    """What a model was found to do: metrics by name, and one item a record in the file's order."""

    metrics: dict[str, float | None]
    items: list[dict[str, Any]]


class Task(Encoder, Protocol):
    """One kind of job. Everything else in the package is the same for all tasks."""

    def collate(self, split: TokenizedSplit, indexes: Indexes, spec: JobSpec, pad_id: int) -> Batch:
        """The examples at `indexes` as tensors."""

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
