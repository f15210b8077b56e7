"""T5's decoder, one token per call, with a static key-value cache that finished texts leave."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

ENCODED_AT_ONCE = 4096
"""Padded positions per encoder batch."""

MULTIPLE = 8
"""Prompts are padded to a multiple of this number of tokens."""


class T5Decoder:
    """The texts that a model of T5's kind is generating.

    Use it without gradients, on a model in evaluation mode. Each prompt has `samples` texts, which
    share its encoding and the cross-attention keys and values. Finished texts leave by `keep`;
    others move into their places, so that little is copied. Then `add` takes more prompts.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Any],
        samples: int,
        new_tokens: int,
        at_once: int,
    ):
        """Take prompts as ids, `at_once` of them at a time.

        Args:
            new_tokens: the maximum number of tokens of a text.
        """
        self.model, self._samples = model, samples
        self._at_once = at_once = min(at_once, len(prompts))
        self._prompts, self._taken, self._new_tokens = prompts, 0, new_tokens
        self._layers = list(model.get_decoder().block)
        self._self_layers = [layer.layer[0] for layer in self._layers]
        self._cross_layers = [layer.layer[1] for layer in self._layers]
        self._heads, width = model.config.num_heads, model.config.d_kv
        longest = padded_length(max(map(len, prompts)))
        # Of the rows of `step`: their texts (prompt × samples + sample), their places in the grid
        # of remaining prompts × samples, and their numbers of tokens.
        self._texts = self._slots = self._positions = torch.empty(
            0, dtype=torch.int64, device=model.device
        )
        self._length = 0  # of the longest of them
        self._keys = self._room(at_once * samples, width, new_tokens)
        self._values = self._room(at_once * samples, new_tokens, width)
        # Of the remaining prompts: padded lengths, and the cross-attention cache.
        self._lengths = self._texts
        self._cross_keys = self._room(at_once, width, longest)
        self._cross_values = self._room(at_once, longest, width)
        self._cross_mask = torch.full((at_once, 1, 1, longest), -torch.inf, device=model.device)
        attention = self._self_layers[0].SelfAttention
        farthest_first = attention.compute_bias(1, new_tokens, past_seen_tokens=new_tokens - 1)
        self._bias_by_distance = farthest_first[0, :, 0].flip(-1)

    def _room(self, rows: int, *sizes: int) -> torch.Tensor:
        """Zeros (layers, rows, heads, *sizes): entries not yet written are read with weight 0."""
        shape = len(self._layers), rows, self._heads, *sizes
        return torch.zeros(shape, dtype=self.model.dtype, device=self.model.device)

    def add(self) -> int:
        """Take as many of the next prompts as fit; returns how many rows they add."""
        here = len(self._lengths)
        prompts = self._prompts[self._taken : self._taken + self._at_once - here]
        if not prompts:
            return 0
        for chosen, hidden, mask in encode(self.model, prompts):
            self._store_encodings(here + chosen, hidden, mask)
        lengths = self._lengths.new_tensor([padded_length(len(prompt)) for prompt in prompts])
        self._lengths = torch.cat([self._lengths, lengths])
        new = torch.arange(len(prompts) * self._samples, device=lengths.device)
        rows = len(self._texts)
        self._keys[:, rows : rows + len(new)] = 0  # texts that left may have been NaN
        self._values[:, rows : rows + len(new)] = 0
        self._texts = torch.cat([self._texts, self._taken * self._samples + new])
        self._slots = torch.cat([self._slots, here * self._samples + new])
        self._positions = torch.cat([self._positions, torch.zeros_like(new)])
        self._taken += len(prompts)
        self._longest = int(self._lengths.max())
        return len(new)

    def _store_encodings(
        self, places: torch.Tensor, hidden: torch.Tensor, mask: torch.Tensor
    ) -> None:
        """Store cross-attention keys and values of some encodings (prompts, length, width)."""
        length = hidden.shape[1]
        self._cross_mask[places] = -torch.inf
        self._cross_mask[places, 0, 0, :length] = torch.where(mask, 0.0, -torch.inf)
        for layer, cross in enumerate(self._cross_layers):
            attention = cross.EncDecAttention
            keys, values = self._by_head(attention.k(hidden)), self._by_head(attention.v(hidden))
            self._cross_keys[layer, places] = 0
            self._cross_values[layer, places] = 0
            self._cross_keys[layer, places, ..., :length] = keys.permute(0, 2, 3, 1)
            self._cross_values[layer, places, :, :length] = values.transpose(1, 2)

    def _by_head(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.view(*hidden.shape[:-1], self._heads, -1)

    def step(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Append these ids (rows,).

        Returns:
            Logits (rows, vocabulary) in float32; each row's text (prompt × samples + sample), and
            its number of tokens so far.
        """
        model, positions = self.model, self._positions
        self._length = min(self._length + 1, self._new_tokens)
        distance = positions[:, None] - torch.arange(self._length, device=ids.device)
        bias = self._bias_by_distance[:, distance.clamp(min=0)].transpose(0, 1).unsqueeze(2)
        bias = bias.float().masked_fill((distance < 0)[:, None, None], -torch.inf)
        hidden = model.get_input_embeddings()(ids)
        for number, layer in enumerate(self._layers):
            normed = self._self_layers[number].layer_norm(hidden)
            hidden = hidden + self._self_attention(number, normed, bias)
            normed = self._cross_layers[number].layer_norm(hidden)
            hidden = hidden + self._cross_attention(number, normed)
            hidden = layer.layer[2](hidden)
        self._positions = (positions + 1).clamp(max=self._new_tokens - 1)  # while it waits to leave
        hidden = model.get_decoder().final_layer_norm(hidden)
        if model.config.model_type == "t5" and model.config.scale_decoder_outputs:
            hidden = hidden * model.config.d_model**-0.5
        return model.get_output_embeddings()(hidden).float(), self._texts, positions

    def _self_attention(self, layer: int, hidden: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Self-attention, from (rows, width) to the same."""
        attention, count = self._self_layers[layer].SelfAttention, len(hidden)
        rows, positions = torch.arange(count, device=hidden.device), self._positions
        keys, values = self._keys[layer], self._values[layer]
        keys[rows, :, :, positions] = self._by_head(attention.k(hidden))
        values[rows, :, positions] = self._by_head(attention.v(hidden))
        seen = attend(
            self._by_head(attention.q(hidden)).unsqueeze(2),
            keys[:count, ..., : self._length],
            values[:count, :, : self._length],
            bias,
        )
        output: torch.Tensor = attention.o(seen.flatten(1))
        return output

    def _cross_attention(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """Attention to the encodings, from (rows, width) to the same; a prompt's texts together."""
        attention, samples = self._cross_layers[layer].EncDecAttention, self._samples
        prompts, longest = len(self._lengths), self._longest
        queries = self._by_head(attention.q(hidden))
        if samples > 1:  # else rows and prompts have the same order
            of_rows = queries
            queries = of_rows.new_zeros(prompts * samples, *of_rows.shape[1:])
            queries[self._slots] = of_rows
        seen = attend(
            queries.unflatten(0, (-1, samples)).transpose(1, 2),
            self._cross_keys[layer, :prompts, ..., :longest],
            self._cross_values[layer, :prompts, :, :longest],
            self._cross_mask[:prompts, ..., :longest],
        )
        seen = seen.transpose(1, 2).flatten(2).flatten(0, 1)
        output: torch.Tensor = attention.o(seen[self._slots] if samples > 1 else seen)
        return output

    def keep(self, going: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Remove finished rows.

        Args:
            going: (rows,), whether each stays.

        Returns:
            Where each row that stays was before, and how many prompts have no text left.
        """
        prompts = len(self._lengths)
        holes, movers, left = moves(going)
        length = self._length
        self._keys[:, holes, ..., :length] = self._keys[:, movers, ..., :length]
        self._values[:, holes, :, :length] = self._values[:, movers, :, :length]
        before = _order(len(going), holes, movers)[:left]
        self._texts, self._slots = self._texts[before], self._slots[before]
        self._positions = self._positions[before]
        self._length = int(self._positions.max()) if left else 0
        self._keep_prompts()
        return before, prompts - len(self._lengths)

    def _keep_prompts(self) -> None:
        """Remove prompts whose texts have all left."""
        prompt, sample = self._slots // self._samples, self._slots % self._samples
        going = torch.zeros(len(self._lengths), dtype=torch.bool, device=prompt.device)
        going[prompt] = True
        holes, movers, left = moves(going)
        for kept in (self._cross_keys, self._cross_values):
            kept[:, holes] = kept[:, movers]
        self._cross_mask[holes] = self._cross_mask[movers]
        self._lengths = self._lengths[_order(len(going), holes, movers)[:left]]
        self._longest = int(self._lengths.max()) if left else 0
        now = torch.arange(len(going), device=prompt.device)
        now[movers] = holes
        self._slots = now[prompt] * self._samples + sample


def attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """T5's attention, without scaling: (rows, heads, queries, width of a head).

    For a few queries: torch's fused attention takes two to three times as long for these on a CPU,
    and other layouts of the keys take longer too.

    Args:
        keys: (rows, heads, width of a head, positions).
        values: (rows, heads, positions, width of a head).
        bias: added to the scores, (rows or 1, heads or 1, queries or 1, positions).
    """
    scores = (queries @ keys).float() + bias
    return scores.softmax(-1).to(values.dtype) @ values


def moves(going: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """How to compact the rows that stay: places to fill, the rows to move there, and the count."""
    left = int(going.sum())
    return (~going[:left]).nonzero()[:, 0], left + going[left:].nonzero()[:, 0], left


def padded_length(length: int) -> int:
    return -(-length // MULTIPLE) * MULTIPLE


def _order(count: int, holes: torch.Tensor, movers: torch.Tensor) -> torch.Tensor:
    """Where each row was before movers filled the holes."""
    before = torch.arange(count, device=holes.device)
    before[holes] = before[movers]
    return before


def encode(
    model: PreTrainedModel, prompts: Sequence[Any]
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Encode prompts in batches of similar length, so that little padding is computed.

    A prompt's padded length depends on its own length alone: in bfloat16, attention rounds
    differently with another, and texts would depend on their batch.

    Yields:
        Which prompts, their encodings (prompts, length, width) and masks (prompts, length).
    """
    lengths = np.array([len(prompt) for prompt in prompts])
    padded = np.array([padded_length(length) for length in lengths])
    for width in np.unique(padded).tolist():
        alike = np.flatnonzero(padded == width)
        at_once = max(1, ENCODED_AT_ONCE // width)
        for chosen in np.split(alike, range(at_once, len(alike), at_once)):
            ids = torch.full((len(chosen), width), model.config.pad_token_id)
            for row, index in zip(ids, chosen, strict=True):
                row[: lengths[index]] = torch.tensor(prompts[index])
            mask = torch.arange(width) < torch.from_numpy(lengths[chosen])[:, None]
            ids, mask = ids.to(model.device), mask.to(model.device)
            encoded = model.get_encoder()(input_ids=ids, attention_mask=mask.long())
            which = torch.from_numpy(chosen).to(model.device)
            yield which, encoded.last_hidden_state, mask
