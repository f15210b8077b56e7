"""The similarity of texts by the hidden states of an encoder: BERTScore."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from workflow.core.console import progress_bar
from workflow.data.step_planner import batches_by_positions
from workflow.inference.eval_shard import EvalShard
from workflow.inference.likelihood import POSITIONS
from workflow.models.batch import pad_rows


def similarities(
    model: PreTrainedModel,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    layer: int,
    edges: Sequence[int],
    shard: EvalShard,
) -> Iterator[tuple[int, tuple[float, float]]]:
    """BERTScore's precision and recall of pairs, of this process's share.

    Each token of the first text is matched with the most similar one of the second, and the mean of
    the cosines is the precision; the other way round is the recall (Zhang et al. 2020,
    arXiv:1904.09675, without idf). Both are 0 if either text is without tokens.

    Args:
        pairs: the ids of both texts, with the tokenizer's special tokens.
        layer: whose hidden states are compared; 0 has the embeddings.
        edges: ids that do not count themselves, but that others may match.

    Yields:
        A pair's index and its precision and recall, in any order.
    """
    first, second = (np.array([len(pair[side]) for pair in pairs]) for side in (0, 1))
    batches = batches_by_positions(first, second, POSITIONS, world_size=shard.world.size)
    costs = [int((first + second)[batch].sum()) for batch in batches]
    body: Any = getattr(model, "base_model", model)
    with progress_bar(len(pairs), "similarity") as bar, torch.no_grad():
        for chosen, counts in shard.of(batches, costs):
            rows = [[pairs[index][side] for index in chosen] for side in (0, 1)]
            sides = [_Side.of(body, one, layer, edges) for one in rows]
            cosines = sides[0].states @ sides[1].states.transpose(1, 2)
            reached = sides[0].present[:, :, None] & sides[1].present[:, None]
            cosines = cosines.masked_fill(~reached, -1.0)
            known = sides[0].weights.any(1) & sides[1].weights.any(1)
            found = [(sides[i].mean(cosines.amax(2 - i)) * known).tolist() for i in (0, 1)]
            if counts:
                yield from zip(chosen.tolist(), zip(*found, strict=True), strict=True)
            bar.update(len(chosen) * shard.world.size)


class _Side:
    """One text of each pair.

    Attributes:
        states: normalized hidden states, (texts, tokens, width).
        present: whether there is a token, (texts, tokens).
        weights: whether it counts, (texts, tokens).
    """

    def __init__(self, states: torch.Tensor, present: torch.Tensor, weights: torch.Tensor):
        self.states, self.present, self.weights = states, present, weights

    @classmethod
    def of(
        cls, body: Any, rows: Sequence[Sequence[int]], layer: int, edges: Sequence[int]
    ) -> "_Side":
        ids = pad_rows(rows, 0)
        lengths = torch.tensor([len(row) for row in rows])
        present = torch.arange(ids.shape[1]) < lengths[:, None]
        weights = present & ~torch.isin(ids, torch.tensor(list(edges)))
        ids, present, weights = (one.to(body.device) for one in (ids, present, weights))
        found = body(input_ids=ids, attention_mask=present.long(), output_hidden_states=True)
        states = torch.nn.functional.normalize(found.hidden_states[layer].float(), dim=-1)
        return cls(states, present, weights)

    def mean(self, best: torch.Tensor) -> torch.Tensor:
        """The mean of each text's tokens that count, (texts, tokens): 0 without any."""
        return (best * self.weights).sum(1) / self.weights.sum(1).clamp(min=1)
