"""The likelihood of given texts under a model."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from workflow.core.console import progress_bar
from workflow.data.example_lengths import ExampleLengths
from workflow.data.step_planner import LOGITS_AT_ONCE, MicroBatch, plan_step
from workflow.data.token_cache import Rows
from workflow.inference.eval_shard import EvalShard
from workflow.models.batch import Batch, Example
from workflow.models.families import family_of

Texts = Rows | Sequence[Any]
"""The ids of each text."""
POSITIONS = 2_048
"""Padded positions of a batch, with few words: their logits take 260 MB at 32,000 words."""


def batch_of_targets(
    sources: Texts, targets: Texts, rows: MicroBatch, config: PreTrainedConfig
) -> Batch:
    """Sources with their targets as tensors, with each target token as a label."""
    of_rows = [[targets[index] for index in row] for row in rows]
    labels = np.concatenate([ids for row in of_rows for ids in row]).astype(np.int64)
    # The label of a position is what the model reads at the next.
    read = [
        [Example(sources[index], ids[:-1]) for index, ids in zip(*row, strict=True)]
        for row in zip(rows, of_rows, strict=True)
    ]
    return family_of(config).collate(config, read, torch.from_numpy(labels))


def mean_logprobs(
    model: PreTrainedModel, sources: Sequence[Any], targets: Sequence[Any], shard: EvalShard
) -> Iterator[tuple[int, float]]:
    """The mean log probability of each row's target tokens, of this process's share.

    Yields:
        A row's index and its mean in nats, in any order.
    """
    given, lengths = (np.array(list(map(len, rows))) for rows in (sources, targets))
    family, of_each = family_of(model.config), ExampleLengths(given, lengths)
    if family.joins_texts:
        of_each = of_each.joined()
    packs = family.supports_packing(model)
    most = min(POSITIONS, 2 * LOGITS_AT_ONCE // family.vocabulary_size(model.config))
    plan = plan_step(np.arange(len(given)), of_each, most, packs)
    batches = [rows for (rows,) in plan.micro_steps]
    costs = [int((given + lengths)[np.concatenate(rows)].sum()) for rows in batches]

    def collate(rows: MicroBatch) -> Batch:
        return batch_of_targets(sources, targets, rows, model.config)

    def launch(batch: Batch) -> torch.Tensor:
        batch = batch.to(model.device)
        logits = family.target_logits(model, batch)
        return torch.nn.functional.cross_entropy(logits.float(), batch.targets, reduction="none")

    with progress_bar(len(lengths), "likelihood") as bar, torch.no_grad():
        for rows, counts, losses in shard.computed(batches, costs, collate, launch):
            chosen = np.concatenate(rows)
            if counts:
                of_texts = losses.cpu().split(lengths[chosen].tolist())
                yield from zip(chosen.tolist(), (-float(x.mean()) for x in of_texts), strict=True)
            bar.update(len(chosen) * shard.world.size)
