"""Tasks: the only places that know what a record means, what is learned, and what is answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from workflow.batching import Indexes
from workflow.config import JobSpec
from workflow.models import Model
from workflow.records import Record, Schema
from workflow.tokens import TokenizedSplit


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


class Task(Protocol):
    """One kind of job. Everything else in the package is the same for all tasks."""

    name: str
    schema: Schema

    def encode(
        self, tokenizer: Any, records: Sequence[Record]
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Token ids of sources and of targets; an empty target where the answer is missing."""

    def collate(self, split: TokenizedSplit, indexes: Indexes, spec: JobSpec, pad_id: int) -> Batch:
        """The examples at `indexes` as tensors."""

    def weight(self, split: TokenizedSplit, indexes: Indexes, spec: JobSpec) -> int:
        """What the summed losses of these examples are divided by."""

    def loss(self, model: Model, batch: Batch, label_smoothing: float) -> torch.Tensor:
        """The float32 sum of the losses of a batch."""

    def evaluate(
        self, model: Model, tokenizer: Any, split: TokenizedSplit, spec: JobSpec, step: int
    ) -> Evaluation:
        """Metrics and answers for every record."""

    def items_file(self, spec: JobSpec, step: int) -> str:
        """The name of the file that holds an evaluation's items."""


def get_task(name: str) -> Task:
    """The task of an entry script, by its name."""
    from workflow.tasks.seq2seq import Seq2Seq

    tasks: dict[str, type[Task]] = {"seq2seq": Seq2Seq}
    return tasks[name]()
