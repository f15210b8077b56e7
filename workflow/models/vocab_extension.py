"""Embedding rows for tokens added to a tokenizer."""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class VocabExtension:
    """The number of tokens that a model was trained with, and the number it needs."""

    old_tokens: int
    new_tokens: int

    def rows(self, weight: torch.Tensor) -> torch.Tensor:
        """Extend an embedding or a head (tokens, width) with a row for each new token.

        Spare rows (T5 has 32,128 for 32,100 tokens) are used first. Each new row is the mean of the
        trained rows plus a little noise.
        """
        known = weight[: self.old_tokens].float()
        shape = self.new_tokens - self.old_tokens, weight.shape[1]
        # Not torch's generator: in deepspeed.zero.Init its numbers are on the device and rounded.
        drawn = np.random.default_rng(0).standard_normal(shape, np.float32)
        noise = torch.from_numpy(drawn)
        new = known.mean(0) + 0.1 * known.std(0) * noise
        return torch.cat([known, new, weight[self.new_tokens :].float()])
