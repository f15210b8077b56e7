"""Diverse beam search: groups of beams, each unlike those before it.

Vijayakumar et al. 2016, arXiv:1610.02424, with the Hamming distance. No group depends on a later
one, so each is a beam search of its own, which follows those of the earlier groups.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from workflow.inference.decoding import Decoding, GeneratedIds


def search_groups(
    search: Callable[[list[LogitsProcessor], list[StoppingCriteria]], GeneratedIds],
    decoding: Decoding,
    prompts: int,
    skipped: int,
    ends: Sequence[int],
) -> GeneratedIds:
    """Of each prompt the best completion of each group, then the second of each, and so on.

    Args:
        search: a beam search of one group, which uses these and returns a text of each beam.
    """
    penalties, groups = PenalizeTaken(decoding.diversity_penalty, skipped), []
    for _ in range(decoding.num_beam_groups):
        taken = RecordTaken(prompts, decoding.beams_of_group, ends)
        groups.append(search([penalties], [taken]))
        penalties.add(taken, groups[-1])
    dealt = [
        (groups[place % len(groups)], prompt * decoding.beams_of_group + place // len(groups))
        for prompt in range(prompts)
        for place in range(decoding.n_samples)
    ]
    sequences = [group.sequences[row] for group, row in dealt]
    ended = [group.ended[row] for group, row in dealt]
    return GeneratedIds(sequences, ended, groups[0].first_logits)


class RecordTaken(StoppingCriteria):
    """Records the tokens with which a group's beams continue, and never stops them.

    Attributes:
        steps: of each, the ids and whether they count (prompts, beams). End tokens do not: a text
            may end where another did.
    """

    def __init__(self, prompts: int, beams: int, ends: Sequence[int]):
        self._prompts, self._beams, self._ends = prompts, beams, ends
        self.steps: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        # A prompt's candidates, the likeliest first: as many as beams, and those in place of ends.
        ids = input_ids[:, -1].unflatten(0, (self._prompts, -1))
        ended = torch.isin(ids, torch.tensor(self._ends, device=ids.device))
        beams = ended.int().argsort(dim=1, stable=True)[:, : self._beams]
        self.steps.append((ids.gather(1, beams), ~ended.gather(1, beams)))
        return torch.zeros(len(input_ids), dtype=torch.bool, device=ids.device)


class PenalizeTaken(LogitsProcessor):
    """Subtracts a penalty from a token's score for each beam of earlier groups that took it."""

    def __init__(self, penalty: float, skipped: int):
        self._penalty, self._skipped = penalty, skipped
        self._taken: defaultdict[int, list[tuple[torch.Tensor, torch.Tensor]]] = defaultdict(list)

    def add(self, taken: RecordTaken, texts: GeneratedIds) -> None:
        """Add a group's beams: of each prompt, up to the length of its longest text.

        How long `generate` moves them after that depends on the other prompts of the batch.
        """
        lengths = torch.tensor([len(ids) for ids in texts.sequences])
        longest = lengths.view(len(texts.first_logits), -1).amax(1, keepdim=True)
        for step, (ids, counts) in enumerate(taken.steps):
            penalties = self._penalty * (counts & (step < longest).to(ids.device))
            self._taken[step].append((ids, penalties))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        for ids, penalties in self._taken[input_ids.shape[1] - self._skipped]:
            of_prompts = scores.new_zeros(len(ids), scores.shape[1])
            of_prompts.scatter_add_(1, ids, penalties.to(scores))
            scores = scores - of_prompts.repeat_interleave(len(scores) // len(ids), dim=0)
        return scores
