"""A model with rows for the tokens that its tokenizer was given besides."""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class VocabExtension:
    """Tokens that a model learned, and how many it is to have."""

    old_tokens: int
    new_tokens: int

    def rows(self, weight: torch.Tensor) -> torch.Tensor:
        """An embedding or a head (tokens, width) with a row for each of the new tokens.

        Rows that the model has to spare (T5 has 32,128 for 32,100 tokens) are used first. Each new
        row is the mean of the known ones and a little noise, so that it begins where words are.
        """
        known = weight[: self.old_tokens].float()
        shape = self.new_tokens - self.old_tokens, weight.shape[1]
        # Not torch's numbers: within deepspeed.zero.Init those are made on its device and rounded.
        drawn = np.random.default_rng(0).standard_normal(shape, np.float32)
        noise = torch.from_numpy(drawn)
        new = known.mean(0) + 0.1 * known.std(0) * noise
        return torch.cat([known, new, weight[self.new_tokens :].float()])
