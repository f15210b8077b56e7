"""Compute a run's largest micro-batch before its first step, to fail early if it does not fit."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from workflow.core.console import log
from workflow.data.example_lengths import ExampleLengths, Indexes
from workflow.data.step_planner import MicroBatch, StepPlan
from workflow.distributed.world import World
from workflow.memory.activations import Work, activation_bytes
from workflow.memory.model_dims import sizes_of_model
from workflow.models.batch import Batch, Example
from workflow.models.families import family_of
from workflow.training.engines.single import Engine
from workflow.training.oom import Shape, oom_context
from workflow.training.prepare import Job
from workflow.training.step import StepPlanner

PLANNED_EXAMPLES = 2048
"""Steps are planned up to this number of examples: about a second's work."""
MOST_EXAMINED = 20_000
"""Maximum number of steps, evenly spaced, whose lengths are examined: about a second's work."""
FEWEST_STEPS = 4
"""Minimum number of planned steps: one for each measure of `heaviest_steps`."""
HEADROOM = 1.25
"""Factor on the largest micro-batch found if only some of the steps were planned."""
QUIET_SECONDS = 10.0
"""A probe that takes longer is logged."""


def probe_memory(job: Job, engine: Engine, done: int, world: World) -> None:
    """Compute the largest micro-batch of the remaining steps, without changing the model.

    Allocates the optimizer state, as for a first step.

    Raises:
        OutOfMemory: if it does not fit.
    """
    if done == job.spec.max_steps:  # only the last evaluation remains
        steps = range(done, done + 1)
    else:
        steps = range(done + 1, job.spec.max_steps + 1)
    began = time.perf_counter()
    planner = StepPlanner.of(job, engine.model, world)
    shape = largest_of(planner, engine.model, steps)
    lengths = planner.lengths
    shortest = int(np.argmin(lengths.sources + lengths.targets))  # it is computed twice
    config = engine.model.config
    first = job.task.collate(job.train_examples, (np.array([shortest]),), config)
    largest = enlarged(first, shape, config)
    shape = Shape.of(largest)
    with oom_context(job, world, f"memory probe before step {done + 1}", shape):
        engine.probe(first, largest)
    seconds = time.perf_counter() - began
    if seconds > QUIET_SECONDS:
        log.info("the largest micro-batch (%s) fits in memory; probed in %.0f s", shape, seconds)


def largest_of(planner: StepPlanner, model: PreTrainedModel, steps: range) -> Shape:
    """The micro-batch of these steps with the highest predicted memory."""
    spec, sizes = planner.job.spec, sizes_of_model(model)

    def predicted(shape: Shape) -> float:
        work = Work(
            bool(spec.bf16), shape.source, shape.target, shape.positions,
            on_gpu=model.device.type == "cuda",
            gradient_checkpointing=spec.gradient_checkpointing,
        )  # fmt: skip
        return sum(activation_bytes(sizes, work).values())

    count = max(FEWEST_STEPS, PLANNED_EXAMPLES // spec.batch_size)
    planned = heaviest_steps(steps, planner.examples, planner.lengths, count)
    plans = map(planner.plan, planned)
    largest = largest_shape(plans, planner.lengths, predicted, planner.joins)
    if len(planned) == len(steps):
        return largest
    return filled_up(largest, spec.micro_batch_tokens, int(planner.lengths.targets.max()))


def heaviest_steps(
    steps: range, examples: Callable[[int], Indexes], lengths: ExampleLengths, count: int
) -> Sequence[int]:
    """The `count` heaviest steps: planning all would take long.

    A quarter each are those with the most positions, the most targets (and so logits), the longest
    source and the longest target (whose attention takes the most memory per position).
    """
    if len(steps) <= count:
        return steps
    steps = steps[:: -(-len(steps) // MOST_EXAMINED)]
    sources, targets = lengths.sources, lengths.targets
    measured = np.array([
        (sources[of_step].sum() + targets[of_step].sum(), targets[of_step].sum(),
         sources[of_step].max(), targets[of_step].max())
        for of_step in map(examples, steps)
    ])  # fmt: skip
    found = np.argsort(-measured, axis=0, kind="stable")[: count // measured.shape[1]]
    return [steps[index] for index in np.unique(found)]


def largest_shape(
    plans: Iterable[StepPlan],
    lengths: ExampleLengths,
    predicted: Callable[[Shape], float],
    joins: bool = False,
) -> Shape:
    """The micro-batch of these steps, on any rank, with the highest predicted memory.

    Taken from the real plans, not from the bound: how full a micro-batch gets depends on the
    examples' lengths, and a shape that never occurs could fail needlessly.

    Args:
        joins: whether source and target of an example are one text.
    """
    shapes = {
        _shape_of(rows, lengths, plan.shared if joins else None)
        for plan in plans
        for ranks in plan.micro_steps
        for rows in ranks
        if rows
    }
    return max(shapes, key=predicted)


def _shape_of(rows: MicroBatch, lengths: ExampleLengths, shared: int | None) -> Shape:
    """The shape of a micro-batch; `shared` is that of joined texts, None where they are separate.

    The positions of a joined text are divided so that `enlarged` makes as many labels.
    """
    source, target = (int(of_rows.max()) for of_rows in lengths.of_rows(rows))
    if shared is not None:
        texts = (lengths.of(row).joined(shared).sources.sum() for row in rows)
        source = int(max(texts)) + shared - target + 1
    return Shape(len(rows), source, target)


def filled_up(shape: Shape, max_positions: int, longest_target: int) -> Shape:
    """A shape enlarged for the steps not planned: more rows within the bound, then targets."""
    bound = int(min(max_positions, HEADROOM * shape.positions))
    rows = max(shape.rows, bound // (shape.source + shape.target))
    target = min(longest_target, bound // rows - shape.source)
    return Shape(rows, shape.source, max(shape.target, target))


def enlarged(batch: Batch, shape: Shape, config: PreTrainedConfig) -> Batch:
    """A batch of this shape without padding, filled with the repeated ids of another.

    A row that is longer than the model has positions holds several examples, which begin with
    different ids, so that they share none. The ids of virtual tokens, which are negative, are no
    target.
    """
    family, ids = family_of(config), batch.input_ids.flatten().numpy()
    source, read = np.resize(ids, shape.source), np.resize(ids, shape.target - 1).clip(0)
    positions = family.max_positions(config)[0] if family.joins_texts else math.inf
    count = math.ceil((len(source) + len(read)) / positions) or 1
    parts = zip(np.array_split(source, count), np.array_split(read, count), strict=True)
    row = [Example(part, labels) for part, labels in parts]
    for number, example in enumerate(row if row[1:] else ()):
        example.source[0] = number
    filled = family.collate(config, [row] * shape.rows, batch.targets)
    repeated = torch.arange(len(filled.target_positions)) % len(batch.targets)
    return replace(filled, targets=batch.targets[repeated])
