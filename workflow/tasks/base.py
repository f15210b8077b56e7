"""The interface of tasks to training and evaluation."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from workflow.config.job import JobSpec, PlannedSpec
from workflow.config.request import JobRequest
from workflow.data.records import Record
from workflow.data.step_planner import MicroBatch
from workflow.data.text_format import TextFormat
from workflow.data.token_cache import CutRows, Encoder, Rows, TokenizedSplit
from workflow.inference.eval_shard import EvalShard
from workflow.models.batch import Batch


@dataclass(frozen=True)
class Examples:
    """The examples that a split's records are for a job, with their ids.

    Attributes:
        sources: truncated to the job's lengths.
        targets: of length 0 for an example without an answer.
    """

    split: TokenizedSplit
    sources: Rows
    targets: Rows

    def __len__(self) -> int:
        return len(self.sources)


def cut_sources(split: TokenizedSplit, spec: JobRequest) -> CutRows:
    """The sources of a split, one for each record."""
    side, virtual = spec.truncation_side, spec.virtual_ids
    return CutRows(split.sources, spec.max_source_length, side, virtual)


def one_for_each(split: TokenizedSplit, spec: JobRequest) -> Examples:
    """An example for each record."""
    return Examples(split, cut_sources(split, spec), CutRows(split.targets, spec.max_target_length))


@dataclass(frozen=True)
class EvalContext:
    """The model (in evaluation mode), the records, and this process's share of them.

    Attributes:
        untrained: whether training has not begun yet, so that equal predictions say nothing.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    examples: Examples
    shard: EvalShard
    untrained: bool = False


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for a record.

    Attributes:
        value: the prediction that a user metric receives.
        item: the record's item in the prediction files.
    """

    record: Record
    value: Any
    item: dict[str, Any]


class Evaluation(Protocol):
    """One evaluation: all processes compute results, rank 0 judges them.

    Attributes:
        timing: the name of the metric for the seconds that the results took.
        results: the index and JSON-serializable result of each record of this process's share, in
            any order.
    """

    timing: str
    results: Iterator[tuple[int, Any]]

    def judge(self, indexes: range, results: Iterator[Any]) -> Iterator[Prediction]:
        """Judge the results of consecutive records, in the order of the data file."""

    def metrics(self) -> dict[str, Any]:
        """The metrics of all judged records: numbers, intervals as [low, high], signatures."""


class Task(Encoder, Protocol):
    """A kind of job; everything else in the package is independent of the task.

    Attributes:
        format: how texts become ids; set by `bind_tokenizer`.
        classes: the names of a classifier's outputs, if they have names.
        unused: flags that records of this kind have no use for.
        framing: ids around the parts of a source, which are not stored and never truncated.
    """

    classes: tuple[str, ...] = ()

    @property
    def unused(self) -> tuple[str, ...]:
        return ()

    @property
    def framing(self) -> int:
        return 0

    @property
    def format(self) -> TextFormat: ...

    def bind_tokenizer(self, tokenizer: PreTrainedTokenizerBase, format: TextFormat) -> Self:
        """The task bound to a model's tokenizer; raises BadInput if that lacks what it needs.

        Args:
            format: how the model reads and writes texts.
        """

    def bind_data(self, splits: Mapping[str, TokenizedSplit], request: JobRequest) -> Self:
        """The task with what it learns from the records; raises BadInput if they do not fit."""
        return self

    def examples(self, split: TokenizedSplit, spec: JobRequest, trains: bool) -> Examples:
        """The examples of a split, to train on or to evaluate."""
        return one_for_each(split, spec)

    def optimize_for_task(self, model: PreTrainedModel) -> None:
        """Make the model faster for this task, with the same results."""
        return

    def check(
        self, tokenizer: PreTrainedTokenizerBase, split: TokenizedSplit, request: JobRequest
    ) -> None:
        """Raise BadInput if the metric for the best checkpoint is undefined on these records."""
        return

    def describe(self, spec: JobSpec) -> str:
        """What an evaluation does, in one line."""

    def collate(self, examples: Examples, rows: MicroBatch, config: PreTrainedConfig) -> Batch:
        """The examples of `rows` as tensors for a model of this configuration."""

    def loss(self, model: PreTrainedModel, batch: Batch, label_smoothing: float) -> torch.Tensor:
        """The float32 sum of the losses of a batch's targets."""

    def evaluation(self, context: EvalContext, spec: PlannedSpec) -> Evaluation:
        """Start evaluating a model; all processes must call this."""

    def sample(self, record: Record, prediction: Any) -> Mapping[str, Any]:
        """A record's row in a table of samples: texts and numbers by column.

        Args:
            prediction: its `Prediction.value`.
        """
