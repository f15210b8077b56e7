"""Tokens that a model learns to write: their batches, their loss and their metrics."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from workflow.config.job import PlannedSpec
from workflow.core.console import log, progress_bar
from workflow.data.example_lengths import Indexes, Lengths
from workflow.data.step_planner import MicroBatch, batches_by_positions
from workflow.inference.likelihood import batch_of_targets
from workflow.inference.sampling import argmax
from workflow.metrics.names import perplexity
from workflow.models.batch import Batch
from workflow.models.families import family_of
from workflow.models.losses import summed_cross_entropy
from workflow.tasks.base import EvalContext, Examples


def collate_tokens(examples: Examples, rows: MicroBatch, config: PreTrainedConfig) -> Batch:
    """The examples of `rows` as tensors, with each target token as a label."""
    return batch_of_targets(examples.sources, examples.targets, rows, config)


def loss_of_tokens(model: PreTrainedModel, batch: Batch, label_smoothing: float) -> torch.Tensor:
    """The sum of the losses of a batch's target tokens."""
    batch = batch.to(model.device)
    logits = family_of(model.config).target_logits(model, batch)
    return summed_cross_entropy(logits, batch.targets, label_smoothing)


@dataclass(frozen=True)
class TokenMetrics:
    """Metrics of some target tokens.

    Attributes:
        loss: the mean; None if it is not finite, or there are no tokens.
        accuracy: share of the tokens that are the most likely ones.
        tokens: their number.
    """

    loss: float | None
    accuracy: float | None
    tokens: int

    def named(self) -> dict[str, Any]:
        """The metrics by name."""
        return {
            "loss": self.loss,
            "perplexity": perplexity(self.loss),
            "token_accuracy": self.accuracy,
        }


def token_metrics(context: EvalContext, spec: PlannedSpec) -> TokenMetrics:
    """The metrics of all target tokens, without padding."""
    model, examples, shard = context.model, context.examples, context.shard
    family = family_of(model.config)
    collate = partial(collate_tokens, examples, config=model.config)
    answered = np.flatnonzero(examples.targets.lengths)
    if len(answered) == 0:
        return TokenMetrics(None, None, 0)
    sources, targets = examples.sources.lengths[answered], examples.targets.lengths[answered]
    batches = batches_by_positions(
        sources, targets, spec.micro_batch_tokens, spec.eval_batch_size, shard.world.size
    )
    costs = [int(targets[batch].sum()) for batch in batches]

    def collate_answered(chosen: Indexes) -> Batch:
        return collate(rows=tuple(answered[chosen][:, None]))

    def launch(batch: Batch) -> tuple[Batch, torch.Tensor, torch.Tensor]:
        batch = batch.to(model.device)
        logits = family.target_logits(model, batch)
        figures = [
            summed_cross_entropy(logits, batch.targets),
            (argmax(logits) == batch.targets).sum(),
        ]
        return batch, logits, torch.stack([figure.double() for figure in figures])

    losses, right, tokens, lost = 0.0, 0, 0, 0
    with progress_bar(len(answered), "eval loss") as bar, torch.no_grad():
        for chosen, counts, (batch, logits, figures) in shard.computed(
            batches, costs, collate_answered, launch
        ):
            if counts:
                loss, right_here = figures.tolist()
                losses += loss
                lost += 0 if math.isfinite(loss) else _count_lost(logits, batch, targets[chosen])
                right += int(right_here)
                tokens += len(batch.targets)
            bar.update(len(chosen) * shard.world.size)
    all_losses, all_right, all_tokens, all_lost = shard.total([losses, right, tokens, lost])
    loss = all_losses / all_tokens
    if all_lost and shard.world.is_rank_zero:
        log.warning(
            "%d of %d records have a non-finite loss; loss is null",
            all_lost, len(answered),
        )  # fmt: skip
    known = loss if math.isfinite(loss) else None
    return TokenMetrics(known, all_right / all_tokens, int(all_tokens))


def _count_lost(logits: torch.Tensor, batch: Batch, lengths: Lengths) -> int:
    """The number of a batch's records, with targets of these lengths, whose loss is not finite."""
    of_each = lengths.tolist()
    rows = zip(logits.split(of_each), batch.targets.split(of_each), strict=True)
    return sum(not math.isfinite(summed_cross_entropy(*row)) for row in rows)
