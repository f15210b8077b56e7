"""The label scorer: logits of a few words as the first output token."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from workflow.core.console import progress_bar
from workflow.data.example_lengths import Indexes
from workflow.data.step_planner import batches_by_positions
from workflow.data.token_cache import Rows
from workflow.inference.eval_shard import EvalShard
from workflow.models.batch import Batch, Example
from workflow.models.families import family_of
from workflow.models.lm_head import on_device


@dataclass(frozen=True)
class LabelIds:
    """The ids of the words as the first output token.

    Attributes:
        plain: of each word.
        spaced: the same for prompts that end with whitespace; empty if they do not differ.
        spaces: the ids that end with whitespace, if they do.
    """

    plain: tuple[int, ...]
    spaced: tuple[int, ...] = ()
    spaces: tuple[int, ...] = ()

    def logits(self, model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        """The float32 logits (examples, words), of the form that each prompt's end asks for.

        Args:
            batch: on the model's device; with `spaced`, each text ends where its logits are.
        """
        words = (*self.plain, *self.spaced)
        logits = family_of(model.config).target_logits(model, batch, words)
        if not self.spaced:
            return logits
        last = batch.input_ids.flatten()[batch.target_positions]
        is_spaced = torch.isin(last, on_device(self.spaces, last.device))[:, None]
        plain, spaced = logits.chunk(2, dim=1)
        return torch.where(is_spaced, spaced, plain)


@dataclass(frozen=True)
class Scoring:
    """How rows are scored.

    Attributes:
        label_ids: the ids of the words.
        max_positions: padded positions per batch.
        batch_size: rows per batch; None: by `max_positions`.
    """

    label_ids: LabelIds
    max_positions: int
    batch_size: int | None = None


def score_labels(
    model: PreTrainedModel, sources: Rows, scoring: Scoring, shard: EvalShard
) -> Iterator[tuple[int, list[float]]]:
    """The float32 logits of the label words for each row of source ids in this process's share.

    Yields:
        A row's index and its logits, in any order.
    """
    family = family_of(model.config)
    lengths = sources.lengths
    batches = batches_by_positions(
        lengths, np.ones_like(lengths), scoring.max_positions, scoring.batch_size, shard.world.size
    )
    costs = [int(lengths[batch].sum()) for batch in batches]

    def collate(chosen: Indexes) -> Batch:
        rows = [[Example(sources[index])] for index in chosen]
        return family.collate(model.config, rows, torch.empty(0))

    def launch(batch: Batch) -> torch.Tensor:
        return scoring.label_ids.logits(model, batch.to(model.device))

    with progress_bar(len(sources), "score") as bar, torch.no_grad():
        for chosen, counts, logits in shard.computed(batches, costs, collate, launch):
            if counts:
                yield from zip(chosen.tolist(), logits.tolist(), strict=True)
            bar.update(len(chosen) * shard.world.size)


def label_probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The softmax of logits (rows, words) over the words; NaN in rows where one is infinite."""
    probabilities = torch.from_numpy(logits).double().softmax(-1).numpy()
    return np.where(np.isfinite(logits).all(-1, keepdims=True), probabilities, np.nan)
