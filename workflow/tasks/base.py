"""The interface of tasks to training and evaluation."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from workflow.config.job import JobSpec, PlannedSpec
from workflow.config.metric_kinds import names_given
from workflow.config.request import JobRequest
from workflow.config.task_specs import TaskSpec
from workflow.core.errors import BadInput, Problem
from workflow.data.example_lengths import Indexes
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
        records: the record of each example; None if each record is one.
        blocks: block i has the examples blocks[i] to blocks[i + 1], which a step draws together;
            None if it draws each by itself.
        at_step: the examples of a step, if what they read is drawn in each.
    """

    split: TokenizedSplit
    sources: Rows
    targets: Rows
    records: Indexes | None = None
    blocks: Indexes | None = None
    at_step: "Callable[[int], Examples] | None" = None

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def drawn(self) -> int:
        """The number of examples, or of blocks of them, of which a step draws some."""
        return len(self) if self.blocks is None else len(self.blocks) - 1

    def of_drawn(self, chosen: Indexes) -> Indexes:
        """The examples that are drawn with these examples, or blocks of examples."""
        if self.blocks is None:
            return chosen
        return np.concatenate([np.arange(*self.blocks[one : one + 2]) for one in chosen])

    def in_step(self, step: int) -> "Examples":
        """The examples as a step of training reads them."""
        return self if self.at_step is None else self.at_step(step)

    def records_of(self, examples: Indexes) -> Indexes:
        """The records of some examples."""
        return examples if self.records is None else self.records[examples]


def cut_sources(split: TokenizedSplit, spec: JobRequest) -> CutRows:
    """The sources of a split, one for each record."""
    side, virtual = spec.truncation_side, spec.virtual_ids
    return CutRows(split.sources, spec.max_source_length, side, virtual)


def one_for_each(split: TokenizedSplit, spec: JobRequest) -> Examples:
    """An example for each record."""
    return Examples(split, cut_sources(split, spec), CutRows(split.targets, spec.max_target_length))


def check_metric(request: JobRequest, known: TaskSpec, records: str) -> None:
    """Raise BadInput if such records have no metric of the name for the best checkpoint."""
    name = request.metric_for_best_model
    if name not in (*known.best_metrics, *names_given(request.metric)):
        expected = f"for {records} one of {', '.join(known.best_metrics)}"
        problem = Problem("--metric_for_best_model", name, expected, "choose one of them")
        raise BadInput([problem])


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
        count: the number of results of all processes.
        results: the index and JSON-serializable result of each record of this process's share, in
            any order.
    """

    timing: str
    count: int
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

    def limits(self, request: JobRequest) -> Mapping[str, int | None]:
        """The most stored ids of a record that are not cut off, None for any number."""
        # Stored pairs have two separators in place of what surrounds their parts.
        longest = request.max_source_length - max(0, self.framing - 2)
        return {"prompts": longest, "completions": request.max_target_length}

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
