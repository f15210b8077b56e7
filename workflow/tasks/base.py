"""What every task is: what training and evaluation ask of it, and what they hand over."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from workflow.config.job import JobSpec, PlannedSpec
from workflow.config.request import JobRequest
from workflow.data.schema import Record
from workflow.data.step_planner import MicroBatch
from workflow.data.token_cache import CutRows, Encoder, TokenizedSplit
from workflow.inference.eval_shard import EvalShard
from workflow.models.batch import Batch


@dataclass(frozen=True)
class Examples:
    """The records of a split, and their ids as a model is given them: cut at a job's lengths."""

    split: TokenizedSplit
    sources: CutRows
    targets: CutRows

    @classmethod
    def of(cls, split: TokenizedSplit, spec: JobSpec) -> "Examples":
        return cls(
            split,
            CutRows(split.sources, spec.max_source_length, spec.truncation_side),
            CutRows(split.targets, spec.max_target_length),
        )


@dataclass(frozen=True)
class EvalContext:
    """What is evaluated, in evaluation mode, on which records, and this process's share of it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    examples: Examples
    shard: EvalShard


@dataclass(frozen=True)
class Prediction:
    """What a model makes of a record.

    Attributes:
        value: what a user's own metric is given for it.
        item: what is written of it.
    """

    record: Record
    value: Any
    item: dict[str, Any]


class Evaluation(Protocol):
    """One evaluation: all processes compute results, the main one judges them.

    Attributes:
        timing: the name of the metric that says how long the results took.
        results: for each record of this process's share its index and what the model gives for it,
            as JSON can hold it; in any order.
    """

    timing: str
    results: Iterator[tuple[int, Any]]

    def judge(self, indexes: range, results: Iterator[Any]) -> Iterator[Prediction]:
        """Take the results of some neighbouring records, in the order of the data file."""

    def metrics(self) -> dict[str, Any]:
        """Of all that was judged, by name: numbers, intervals as [low, high], and signatures."""


class Task(Encoder, Protocol):
    """One kind of job. Everything else in the package is the same for all tasks."""

    def bind_tokenizer(self, tokenizer: PreTrainedTokenizerBase, start: int) -> Self:
        """The task with what it must know of a model; raises BadInput where that lacks it.

        Args:
            start: the id that the model's decoding starts with.
        """

    def optimize_for_task(self, model: PreTrainedModel) -> None:
        """Let the model compute what this task asks of it faster; its results stay the same."""

    def check(
        self, tokenizer: PreTrainedTokenizerBase, split: TokenizedSplit, request: JobRequest
    ) -> None:
        """Raise BadInput where the best checkpoint is to be chosen by what these eval records
        cannot tell."""

    def describe(self, spec: JobSpec) -> str:
        """What an evaluation will do, in a line."""

    def collate(self, examples: Examples, rows: MicroBatch, config: PreTrainedConfig) -> Batch:
        """The examples of `rows` as tensors, for a model of this configuration."""

    def loss(self, model: PreTrainedModel, batch: Batch, label_smoothing: float) -> torch.Tensor:
        """The float32 sum of the losses of a batch's targets."""

    def evaluation(self, context: EvalContext, spec: PlannedSpec) -> Evaluation:
        """Begin to evaluate a model; all processes call alike."""

    def sample(self, record: Record, prediction: Any) -> Mapping[str, Any]:
        """What a person is shown of a record: texts and numbers, by the names of columns.

        Args:
            prediction: what a user's own metric is given for it.
        """
