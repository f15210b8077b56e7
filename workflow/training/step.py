"""One optimizer step: the same gradient for any micro-batches and number of processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Self

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from workflow.core.errors import RunFailed
from workflow.data.example_lengths import ExampleLengths, Indexes
from workflow.data.example_order import seed_from, step_examples
from workflow.data.step_planner import MicroBatch, StepPlan, plan_step
from workflow.distributed.world import World, shared
from workflow.models.batch import Batch, shared_prefix
from workflow.models.families import family_of
from workflow.training.engines.single import Engine
from workflow.training.oom import Shape, oom_context
from workflow.training.prepare import Job


@dataclass(frozen=True)
class StepPlanner:
    """Which examples form a step, and how they are split, by seed and step alone.

    Attributes:
        packs: whether a row may hold several examples.
        joins: whether source and target of an example are one text.
        shares: whether the examples of a row hold what their sources begin with once.
        world_size: how many processes share a step.
    """

    job: Job
    packs: bool
    joins: bool
    shares: bool
    world_size: int

    @classmethod
    def of(cls, job: Job, model: PreTrainedModel, world: World) -> "StepPlanner":
        family = family_of(model.config)
        packs, shares = family.supports_packing(model), family.shares_prefixes(model.config)
        return cls(job, packs, family.joins_texts, packs and shares, world.size)

    @cached_property
    def lengths(self) -> ExampleLengths:
        """Of the train records' sources and targets, after truncation."""
        examples = self.job.train_examples
        return ExampleLengths(examples.sources.lengths, examples.targets.lengths)

    def examples(self, step: int) -> Indexes:
        spec = self.job.spec
        examples = self.job.train_examples
        return examples.of_drawn(step_examples(step, spec.batch_size, examples.drawn, spec.seed))

    def plan(self, step: int) -> StepPlan:
        examples = self.examples(step)
        lengths = self.lengths.of(examples)
        if self.joins:
            sources = (self.job.train_examples.sources[index] for index in examples)
            lengths = lengths.joined(shared_prefix(sources) if self.shares else 0)
        bound = self.job.spec.micro_batch_tokens
        return plan_step(examples, lengths, bound, self.packs, self.world_size)


@dataclass(frozen=True)
class PlannedStep:
    """A step that can start at once: a process's first micro-batch is collated, others when due.

    Attributes:
        step: its number.
        micro_batches: rows of this process; () where it has none, and computes a filler.
        batches: the same as tensors, which can be read once.
        loss_denominator: what the step's summed loss is divided by.
    """

    step: int
    plan: StepPlan
    micro_batches: tuple[MicroBatch, ...]
    batches: Iterator[Batch]
    loss_denominator: int

    @classmethod
    def of(cls, job: Job, plan: StepPlan, step: int, config: PreTrainedConfig, rank: int) -> Self:
        examples, rows = job.train_examples.in_step(step), plan.of_rank(rank)
        targets = examples.targets.lengths_of(plan.examples)
        batches = (job.task.collate(examples, of_one or plan.filler, config) for of_one in rows)
        return cls(step, plan, rows, chain([next(batches)], batches), int(targets.sum()))


@dataclass(frozen=True)
class StepOutcome:
    """The result of a step: the summed loss, its denominator, and the update's figures."""

    loss: float
    loss_denominator: int
    gradient_norm: float
    learning_rate: float


def add_gradients(job: Job, engine: Engine, planned: PlannedStep, world: World) -> torch.Tensor:
    """Add a step's gradient, which does not depend on micro-batches or processes, to the engine's.

    All processes compute equally many micro-batches, if need be fillers with weight zero. On a GPU
    this only launches the work, and collates the next micro-batch meanwhile.

    Returns:
        The losses of this process's micro-batches (micro-batches,), on the device.
    """
    # Dropout depends on seed, step and rank, not on earlier steps.
    torch.manual_seed(seed_from(job.spec.seed, planned.step, world.rank))
    losses: list[torch.Tensor] = []
    for rows, batch in zip(planned.micro_batches, planned.batches, strict=True):
        weight = 1 / planned.loss_denominator if rows else 0.0
        last = len(losses) == len(planned.micro_batches) - 1
        with oom_context(job, world, f"step {planned.step}", Shape.of(batch)):
            loss = engine.add_gradient(batch, weight, last)
        losses.append(loss if rows else torch.zeros_like(loss))
    return torch.stack(losses)


def finish_step(
    job: Job, engine: Engine, planned: PlannedStep, losses: torch.Tensor, world: World
) -> StepOutcome:
    """Wait for a step's gradient, and update the model.

    Raises:
        RunFailed: if loss or gradient is not finite, before the model is updated.
    """
    step, learning_rate = planned.step, engine.learning_rate
    with oom_context(job, world, f"update of step {step}"):
        figures = engine.update(losses)
    if not np.isfinite(figures.loss):
        bad = [rows for rows, loss in zip(planned.micro_batches, figures.losses, strict=True)
               if not np.isfinite(loss)]  # fmt: skip
        of_all = [rows for of_rank in world.gather(bad) for rows in of_rank]
        raise _non_finite_error(job, step, "loss", of_all)
    if not np.isfinite(figures.gradient_norm):
        of_all = [rows for ranks in planned.plan.micro_steps for rows in ranks]
        raise _non_finite_error(job, step, "gradient norm", of_all)
    return StepOutcome(figures.loss, planned.loss_denominator, figures.gradient_norm, learning_rate)


def _non_finite_error(
    job: Job, step: int, what: str, micro_batches: Sequence[MicroBatch]
) -> RunFailed:
    examples = np.concatenate([row for rows in micro_batches for row in rows])
    records = np.unique(job.train_examples.records_of(examples))
    named = ", ".join(f"train[{i}]" for i in records[:20])
    more = f" and {len(records) - 20} more" if len(records) > 20 else ""
    message = (
        f"step {step}: non-finite {what} on records {named}{more}; the model was not updated. "
        "Hint: check those records, reduce --learning_rate, or set --bf16 false"
    )
    return shared(RunFailed(message))
