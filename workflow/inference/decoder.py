"""What decoders of one token per call have in common."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from transformers import PreTrainedModel

from workflow.inference.decoding import Decoding
from workflow.inference.rows import Going, Ints, Moves, Pace, Rows, Shapes


class Decoder(ABC):
    """The texts that a model is generating.

    Use it without gradients, on a model in evaluation mode. Finished texts leave by `keep`; others
    move into their places, so that little is copied. Then there is room to `add` more prompts.

    Attributes:
        multiple: of the lengths to which prompts are padded.
    """

    multiple = 1

    def __init__(
        self,
        model: PreTrainedModel,
        most: Shapes,
        pace: Pace | None = None,
    ):
        """Make room for rows, their new tokens, their prompts, and tokens of a prompt.

        Args:
            pace: by default that of the model's device.
        """
        self.model, device = model, model.device
        self._samples, self._at_once = most.rows // most.prompts, most.prompts
        longest = -(-most.source // self.multiple) * self.multiple
        most = dataclasses.replace(most, source=longest)
        self.rows = Rows(most, pace or Pace.of(device), device)
        self._make_room(most)

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        prompts: Sequence[Any],
        decoding: Decoding,
        at_once: int,
        pace: Pace | None = None,
    ) -> Self:
        """A decoder with room for `at_once` of these prompts, given as ids."""
        at_once, longest = min(at_once, len(prompts)), max(map(len, prompts))
        samples = decoding.n_samples
        most = Shapes(at_once * samples, decoding.max_new_tokens, at_once, longest)
        return cls(model, most, pace)

    @abstractmethod
    def _make_room(self, most: Shapes) -> None:
        """Make room for so many rows and positions."""

    @property
    def free(self) -> int:
        """How many more prompts there is room for."""
        return self._at_once - self.rows.prompts

    def add(self, first: int, prompts: Sequence[Any]) -> None:
        """Add prompts, numbered from `first` on; there must be room."""
        if prompts:
            first_row = len(self.rows)
            inputs = self._read(prompts, slice(first_row, first_row + len(prompts) * self._samples))
            self.rows.add(first, padded_lengths(prompts, self.multiple), inputs)

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
