"""The likelihood of given texts under a model."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from workflow.core.console import progress_bar
from workflow.data.example_lengths import Indexes
from workflow.data.step_planner import MicroBatch, batches_by_positions
from workflow.data.token_cache import Rows
from workflow.inference.eval_shard import EvalShard
from workflow.models.batch import Batch, Example
from workflow.models.families import family_of

Texts = Rows | Sequence[Any]
"""The ids of each text."""
POSITIONS = 2_048
"""Padded positions of a batch: their logits take 260 MB at 32,000 tokens."""


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
    batches = batches_by_positions(given, lengths, POSITIONS, world_size=shard.world.size)
    costs = [int((given + lengths)[batch].sum()) for batch in batches]

    def collate(chosen: Indexes) -> Batch:
        return batch_of_targets(sources, targets, tuple(chosen[:, None]), model.config)

    def launch(batch: Batch) -> torch.Tensor:
        batch = batch.to(model.device)
        logits = family_of(model.config).target_logits(model, batch)
        return torch.nn.functional.cross_entropy(logits.float(), batch.targets, reduction="none")

    with progress_bar(len(lengths), "likelihood") as bar, torch.no_grad():
        for chosen, counts, losses in shard.computed(batches, costs, collate, launch):
            if counts:
                of_rows = losses.cpu().split(lengths[chosen].tolist())
                yield from zip(chosen.tolist(), (-float(x.mean()) for x in of_rows), strict=True)
            bar.update(len(chosen) * shard.world.size)
