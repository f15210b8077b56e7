"""The rows of a decoder: which texts and prompts they hold, on the host and on the device."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Ints = npt.NDArray[np.int64]
Going = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Pace:
    """How often the host looks for ended texts, and how the shapes of a step are rounded up.

    Attributes:
        tokens: between two looks; for these, ended texts are computed in vain.
        multiple: of rounded lengths, in tokens.
        doubles: whether rows and prompts are rounded up to powers of two.
    """

    tokens: int
    multiple: int
    doubles: bool

    @classmethod
    def of(cls, device: torch.device) -> "Pace":
        return ON_GPU if device.type == "cuda" else ON_CPU

    def rows(self, count: int, most: int) -> int:
        """The rows to compute for `count` of them."""
        return min(most, 1 << (count - 1).bit_length()) if self.doubles else count

    def length(self, count: int, most: int) -> int:
        """The positions to compute for `count` of them."""
        return min(most, -(-count // self.multiple) * self.multiple)


ON_CPU = Pace(tokens=1, multiple=1, doubles=False)
"""On a CPU a look takes no time, and what is computed in vain does."""

ON_GPU = Pace(tokens=8, multiple=64, doubles=True)
"""A look waits for the GPU, and few shapes can be captured as CUDA graphs."""


@dataclass(frozen=True)
class Shapes:
    """The shapes of a step: rows, their positions, their prompts, and positions of these."""

    rows: int
    length: int
    prompts: int
    source: int


@dataclass(frozen=True)
class Moves:
    """Rows and prompts to move into the places of others that leave, on the device.

    Attributes:
        length: the positions that rows have used.
    """

    length: int
    holes: torch.Tensor
    movers: torch.Tensor
    prompt_holes: torch.Tensor
    prompt_movers: torch.Tensor


class Rows:
    """The rows of a decoder, each a text.

    The host knows all of them but which texts have ended: it decides what moves, and sends it
    without waiting. The tensors have constant addresses, so that a CUDA graph can use them.

    Attributes:
        ids: each row's next input, (rows,); as all tensors, with room for all rows.
        going: whether each row's text goes on.
        texts: each row's text: prompt × samples + sample.
        positions: each row's number of tokens.
        cells: each row's place in the grid of remaining prompts × samples.
        row_of_cell: the row of each place in that grid, any if it has none.
        numbers: 0, 1, …
    """

    def __init__(self, most: Shapes, pace: Pace, device: torch.device):
        """Make room for `most`."""
        self._most, self._pace, self._device = most, pace, device
        self._samples = most.rows // most.prompts
        self._texts = self._positions = self._cells = np.empty(0, np.int64)
        self._lengths = self._texts  # of the remaining prompts, padded
        self._length = 0
        self._state = torch.zeros(4, most.rows, dtype=torch.int64, device=device)
        self.texts, self.positions, self.cells, self.row_of_cell = self._state
        self.ids = torch.zeros_like(self.texts)
        self.going = torch.zeros_like(self.texts, dtype=torch.bool)
        self.numbers = torch.arange(most.rows, device=device)

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def numbers_of_texts(self) -> Ints:
        """The number of each row's text, (rows,)."""
        return self._texts

    @property
    def prompts(self) -> int:
        """The number of prompts that have a row."""
        return len(self._lengths)

    def add(self, prompt: int, lengths: Ints, start: int | torch.Tensor) -> None:
        """Add the texts of some consecutive prompts.

        Args:
            prompt: the number of the first.
            lengths: their padded lengths.
            start: the first input, of all rows or of each.
        """
        samples, here, rows = self._samples, self.prompts, len(self)
        new = np.arange(len(lengths) * samples)
        self._texts = np.concatenate([self._texts, prompt * samples + new])
        self._cells = np.concatenate([self._cells, here * samples + new])
        self._positions = np.concatenate([self._positions, np.zeros_like(new)])
        self._lengths = np.concatenate([self._lengths, lengths])
        self.ids[rows : len(self)] = start
        self._send()

    def ahead(self) -> tuple[Shapes, int]:
        """The shapes of the next steps, and how many there are before the next look."""
        most, pace = self._most, self._pace
        steps = min(pace.tokens, most.length - int(self._positions.min()))
        self._positions = self._positions + steps  # of those that go on
        self._length = pace.length(int(self._positions.max()), most.length)
        shapes = Shapes(
            pace.rows(len(self), most.rows),
            self._length,
            pace.rows(self.prompts, most.prompts),
            pace.length(int(self._lengths.max()), most.source),
        )
        return shapes, steps

    def look(self) -> Going:
        """Whether each row's text goes on; waits for the device."""
        found: Going = self.going[: len(self)].cpu().numpy()
        return found

    def keep(self, going: Going) -> Moves:
        """Remove rows whose texts have ended, and prompts without any row.

        Args:
            going: (rows,), whether each stays.
        """
        before, *indexes = moves(going)
        prompt, sample = np.divmod(self._cells[before], self._samples)
        prompts = np.zeros(self.prompts, np.bool_)
        prompts[prompt] = True
        prompts_before, *of_prompts = moves(prompts)
        now = np.empty_like(self._lengths)
        now[prompts_before] = np.arange(len(prompts_before))
        self._texts, self._positions = self._texts[before], self._positions[before]
        self._cells = now[prompt] * self._samples + sample
        self._lengths = self._lengths[prompts_before]
        moved = Moves(self._length, *self._send(*indexes, *of_prompts))
        self.ids[moved.holes] = self.ids[moved.movers]
        return moved

    def _send(self, *indexes: Ints) -> tuple[torch.Tensor, ...]:
        """Copy what the host knows of the rows to the device, and some indexes."""
        state = np.zeros(self._state.shape, np.int64)
        state[:3, : len(self)] = self._texts, self._positions, self._cells
        state[3, self._cells] = np.arange(len(self))
        sent = send(np.concatenate([state.ravel(), *indexes]), self._device)
        of_rows, *others = sent.split([state.size, *map(len, indexes)])
        self._state.copy_(of_rows.view_as(self._state))
        torch.lt(self.numbers, len(self), out=self.going)
        return tuple(others)


def moves(going: Going) -> tuple[Ints, Ints, Ints]:
    """How to compact the rows that stay, by as few moves as there are holes.

    Returns:
        Where each was before, the places to fill, and the rows to move there.
    """
    left = int(going.sum())
    holes, movers = np.flatnonzero(~going[:left]), left + np.flatnonzero(going[left:])
    before = np.arange(left)
    before[holes] = movers
    return before, holes, movers


def send(numbers: Ints, device: torch.device) -> torch.Tensor:
    """Numbers on a device; to a GPU the copy goes on behind the caller."""
    here = torch.from_numpy(numbers)
    if device.type == "cuda":
        here = here.pin_memory()
    return here.to(device, non_blocking=True)
