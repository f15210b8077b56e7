"""What decoders of one token per call have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from workflow.inference.decoding import Decoding
from workflow.inference.rows import Going, Ints, Moves, Pace, Rows, Shapes


class Decoder(ABC):
    """The texts that a model is generating.

    Use it without gradients, on a model in evaluation mode. Finished texts leave by `keep`; others
    move into their places, so that little is copied. Then `add` takes more prompts.

    Attributes:
        multiple: of the lengths to which prompts are padded.
    """

    multiple = 1

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Any],
        decoding: Decoding,
        at_once: int,
        pace: Pace | None = None,
    ):
        """Take prompts as ids, `at_once` of them at a time.

        Args:
            pace: by default that of the model's device.
        """
        self.model, device = model, model.device
        self._prompts, self._taken, self._samples = prompts, 0, decoding.n_samples
        self._at_once = at_once = min(at_once, len(prompts))
        longest = int(padded_lengths(prompts, self.multiple).max())
        most = Shapes(at_once * self._samples, decoding.max_new_tokens, at_once, longest)
        self.rows = Rows(most, pace or Pace.of(device), device)
        self._make_room(most)

    @abstractmethod
    def _make_room(self, most: Shapes) -> None:
        """Make room for so many rows and positions."""

    def add(self) -> int:
        """Take as many of the next prompts as fit; returns how many rows there are now."""
        prompts = self._prompts[self._taken : self._taken + self._at_once - self.rows.prompts]
        if prompts:
            first_row = len(self.rows)
            inputs = self._read(prompts, slice(first_row, first_row + len(prompts) * self._samples))
            self.rows.add(self._taken, padded_lengths(prompts, self.multiple), inputs)
            self._taken += len(prompts)
        return len(self.rows)

    @abstractmethod
    def _read(self, prompts: Sequence[Any], rows: slice) -> int | torch.Tensor:
        """Read prompts that get these rows; returns the first input, of all rows or of each."""

    @abstractmethod
    def logits(self, shapes: Shapes) -> torch.Tensor:
        """Append each row's next input; reads only tensors, at addresses that never change.

        Returns:
            Logits (rows, vocabulary) in float32.
        """

    def keep(self, going: Going) -> int:
        """Remove finished rows; returns how many prompts have no text left.

        Args:
            going: (rows,), whether each stays.
        """
        prompts = self.rows.prompts
        self._move(self.rows.keep(going))
        return prompts - self.rows.prompts

    @abstractmethod
    def _move(self, moved: Moves) -> None:
        """Move what is kept of rows and prompts."""


def padded_lengths(prompts: Sequence[Any], multiple: int) -> Ints:
    """The length of each prompt, rounded up to a multiple."""
    lengths = np.array([len(prompt) for prompt in prompts])
    return -(-lengths // multiple) * multiple
