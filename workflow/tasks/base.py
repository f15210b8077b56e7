"""What every task is: what training and evaluation ask of it, and what they hand over."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self

import torch

from workflow.config.job import JobSpec
from workflow.data.schema import Record
from workflow.data.step_planner import Indexes, MicroBatch
from workflow.data.token_cache import Encoder, TokenizedSplit
from workflow.inference.eval_shard import EvalShard
from workflow.models.batch import Batch
from workflow.models.state_dict import Model

Tell = Callable[[Record, Any, dict[str, Any]], None]
"""Takes what a model was found to do with a record: the record, what a user's own metric is given
for it, and what is to be written of it."""


class Task(Encoder, Protocol):
    """One kind of job. Everything else in the package is the same for all tasks."""

    @property
    def shown(self) -> tuple[str, ...]:
        """The metrics that the log shows, in this order."""

    def bind_tokenizer(self, tokenizer: Any, start: int) -> Self:
        """The task with what it must know of a model; raises BadInput where that lacks it.

        Args:
            start: the id that the model's decoding starts with.
        """

    def optimize_for_task(self, model: Model) -> None:
        """Let the model compute what this task asks of it faster; its results stay the same."""

    def check(self, tokenizer: Any, split: TokenizedSplit, spec: JobSpec) -> None:
        """Raise BadInput where the best checkpoint is to be chosen by what these eval records
        cannot tell."""

    def describe(self, spec: JobSpec) -> str:
        """What an evaluation will do, in a line."""

    def collate(self, split: TokenizedSplit, rows: MicroBatch, spec: JobSpec, config: Any) -> Batch:
        """The examples of `rows` as tensors, for a model of this configuration."""

    def loss_denominator(self, split: TokenizedSplit, indexes: Indexes, spec: JobSpec) -> int:
        """What the summed losses of these examples are divided by."""

    def loss(self, model: Model, batch: Batch, label_smoothing: float) -> torch.Tensor:
        """The float32 sum of the losses of a batch."""

    def evaluate(
        self,
        model: Model,
        tokenizer: Any,
        split: TokenizedSplit,
        spec: JobSpec,
        shard: EvalShard,
        tell: Tell,
    ) -> dict[str, Any] | None:
        """Metrics by name: numbers, intervals as [low, high], and signatures.

        They come on the main process, None on the others; there `tell` hears of every record once,
        in the order of the data file.
        """

    def sample(self, record: Record, prediction: Any) -> Mapping[str, Any]:
        """What a person is shown of a record: texts and numbers, by the names of columns.

        Args:
            prediction: what a user's own metric is given for it.
        """

    def prediction_files(self, spec: JobSpec, step: int) -> Sequence[str]:
        """The names of the files that hold an evaluation's items."""
