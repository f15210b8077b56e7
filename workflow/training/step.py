"""One optimizer step: the same gradient for any micro-batches and number of processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from transformers import PreTrainedModel

from workflow.core.errors import RunFailed
from workflow.data.step_planner import (
    Indexes,
    Lengths,
    MicroBatch,
    StepPlan,
    plan_step,
    seed_from,
    step_examples,
)
from workflow.distributed.world import World, shared
from workflow.models.families import family_of
from workflow.tasks.base import Examples
from workflow.training.engines.single import Engine
from workflow.training.oom import Shape, oom_context
from workflow.training.prepare import Job


@dataclass(frozen=True)
class StepPlanner:
    """Which examples form a step, and how they are split, by seed and step alone.

    Attributes:
        packs: whether a row may hold several examples.
        world_size: how many processes share a step.
    """

    job: Job
    packs: bool
    world_size: int

    @classmethod
    def of(cls, job: Job, model: PreTrainedModel, world: World) -> "StepPlanner":
        return cls(job, family_of(model.config).supports_packing(model), world.size)

    @cached_property
    def lengths(self) -> tuple[Lengths, Lengths]:
        """Of the train records' sources and targets, after truncation."""
        spec, split = self.job.spec, self.job.splits["train"]
        return (
            split.sources.lengths(spec.max_source_length),
            split.targets.lengths(spec.max_target_length),
        )

    def examples(self, step: int) -> Indexes:
        spec = self.job.spec
        return step_examples(step, spec.batch_size, len(self.job.splits["train"]), spec.seed)

    def plan(self, step: int) -> StepPlan:
        bound = self.job.spec.micro_batch_tokens
        return plan_step(self.examples(step), self.lengths, bound, self.packs, self.world_size)


@dataclass(frozen=True)
class StepOutcome:
    """The result of a step: the summed loss, its denominator, and the update's figures."""

    loss: float
    loss_denominator: int
    gradient_norm: float
    learning_rate: float


def train_step(job: Job, engine: Engine, plan: StepPlan, step: int, world: World) -> StepOutcome:
    """Do one optimizer step; its gradient does not depend on micro-batches or processes.

    All processes compute equally many micro-batches, if need be fillers with weight zero.

    Raises:
        RunFailed: if loss or gradient is not finite, before the model is updated.
    """
    spec, split = job.spec, job.splits["train"]
    examples = Examples.of(split, spec)
    loss_denominator = int(split.targets.lengths(spec.max_target_length, plan.examples).sum())
    # Dropout depends on seed, step and rank, not on earlier steps.
    torch.manual_seed(seed_from(spec.seed, step, world.rank))
    # () if this rank has no work: it takes part in every reduction all the same.
    micro_batches = plan.of_rank(world.rank)
    losses = []
    for number, rows in enumerate(micro_batches, start=1):
        batch = job.task.collate(examples, rows or plan.filler, engine.model.config)
        weight = 1 / loss_denominator if rows else 0.0
        with oom_context(job, world, f"step {step}", Shape.of(batch)):
            loss = engine.add_gradient(batch, weight, last=number == len(micro_batches))
        losses.append(loss if rows else torch.zeros_like(loss))
    by_micro_batch = torch.stack(losses).tolist()  # one device synchronization per step
    summed_loss = world.sum(sum(by_micro_batch))
    if not np.isfinite(summed_loss):
        bad = [rows for rows, loss in zip(micro_batches, by_micro_batch, strict=True)
               if not np.isfinite(loss)]  # fmt: skip
        of_all = [rows for of_rank in world.gather(bad) for rows in of_rank]
        raise _non_finite_error(step, "loss", of_all)
    learning_rate = engine.learning_rate
    with oom_context(job, world, f"update of step {step}"):
        gradient_norm = engine.update()
    if not np.isfinite(gradient_norm):
        of_all = [rows for ranks in plan.micro_steps for rows in ranks]
        raise _non_finite_error(step, "gradient norm", of_all)
    return StepOutcome(summed_loss, loss_denominator, gradient_norm, learning_rate)


def _non_finite_error(step: int, what: str, micro_batches: Sequence[MicroBatch]) -> RunFailed:
    records = np.sort(np.concatenate([row for rows in micro_batches for row in rows]))
    named = ", ".join(f"train[{i}]" for i in records[:20])
    more = f" and {len(records) - 20} more" if len(records) > 20 else ""
    message = (
        f"step {step}: non-finite {what} on records {named}{more}; the model was not updated. "
        "Hint: check those records, reduce --learning_rate, or set --bf16 false"
    )
    return shared(RunFailed(message))
