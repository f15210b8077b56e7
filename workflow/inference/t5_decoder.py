"""T5's decoder, one token per call, with a static key-value cache that finished texts leave."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from workflow.inference.decoder import Decoder, padded_lengths
from workflow.inference.rows import Moves, Shapes, send
from workflow.models.families import family_of

ENCODED_AT_ONCE = 4096
"""Padded positions per encoder batch."""

MULTIPLE = 8
"""Prompts are padded to a multiple of this number of tokens."""


class T5Decoder(Decoder):
    """The texts that a model of T5's kind is generating.

    A prompt's samples share its encoding and the cross-attention keys and values.
    """

    multiple = MULTIPLE

    def _make_room(self, most: Shapes) -> None:
        model, device, new_tokens = self.model, self.model.device, most.length
        self._layers = list(model.get_decoder().block)
        self._self_layers = [layer.layer[0] for layer in self._layers]
        self._cross_layers = [layer.layer[1] for layer in self._layers]
        self._heads, width = model.config.num_heads, model.config.d_kv
        self._keys = self._room(most.rows, width, new_tokens)
        self._values = self._room(most.rows, new_tokens, width)
        self._cross_keys = self._room(most.prompts, width, most.source)
        self._cross_values = self._room(most.prompts, most.source, width)
        self._cross_mask = torch.zeros(most.prompts, 1, 1, most.source, device=device)
        attention = self._self_layers[0].SelfAttention
        farthest_first = attention.compute_bias(1, new_tokens, past_seen_tokens=new_tokens - 1)
        # By distance from -(new_tokens - 1), which nothing sees, to new_tokens - 1.
        self._bias = F.pad(
            farthest_first[0, :, 0].flip(-1).float(), (new_tokens - 1, 0), value=-torch.inf
        )
        self._nearest_last = torch.arange(new_tokens - 1, -1, -1, device=device)

    def _room(self, rows: int, *sizes: int) -> torch.Tensor:
        """Zeros (layers, rows, heads, *sizes): entries not yet written are read with weight 0."""
        shape = len(self._layers), rows, self._heads, *sizes
        return torch.zeros(shape, dtype=self.model.dtype, device=self.model.device)

    def _read(self, prompts: Sequence[Any], rows: slice) -> int:
        for chosen, hidden, mask in encode(self.model, prompts):
            self._store_encodings(self.rows.prompts + chosen, hidden, mask)
        self._keys[:, rows] = 0  # texts that left may have been NaN
        self._values[:, rows] = 0
        start: int = self.model.config.decoder_start_token_id
        return start

    def _store_encodings(
        self, places: torch.Tensor, hidden: torch.Tensor, mask: torch.Tensor
    ) -> None:
        """Store cross-attention keys and values of some encodings (prompts, length, width)."""
        length = hidden.shape[1]
        seen = F.pad(mask, (0, self._cross_mask.shape[-1] - length))[:, None, None]
        self._cross_mask[places] = torch.zeros_like(seen, dtype=torch.float32).masked_fill_(
            ~seen, -torch.inf
        )
        for layer, cross in enumerate(self._cross_layers):
            attention = cross.EncDecAttention
            keys, values = self._by_head(attention.k(hidden)), self._by_head(attention.v(hidden))
            self._cross_keys[layer, places] = 0
            self._cross_values[layer, places] = 0
            self._cross_keys[layer, places, ..., :length] = keys.permute(0, 2, 3, 1)
            self._cross_values[layer, places, :, :length] = values.transpose(1, 2)

    def _by_head(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.view(*hidden.shape[:-1], self._heads, -1)

    def logits(self, shapes: Shapes) -> torch.Tensor:
        model, rows = self.model, self.rows
        distances = rows.positions[: shapes.rows, None] + self._nearest_last[: shapes.length]
        bias = self._bias[:, distances].transpose(0, 1).unsqueeze(2)
        hidden = model.get_input_embeddings()(rows.ids[: shapes.rows])
        for number, layer in enumerate(self._layers):
            normed = self._self_layers[number].layer_norm(hidden)
            hidden = hidden + self._self_attention(number, normed, bias)
            normed = self._cross_layers[number].layer_norm(hidden)
            hidden = hidden + self._cross_attention(number, normed, shapes)
            hidden = layer.layer[2](hidden)
        hidden = model.get_decoder().final_layer_norm(hidden)
        if model.config.model_type == "t5" and model.config.scale_decoder_outputs:
            hidden = hidden * model.config.d_model**-0.5
        logits: torch.Tensor = model.get_output_embeddings()(hidden).float()
        return logits

    def _self_attention(self, layer: int, hidden: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Self-attention, from (rows, width) to the same.

        Args:
            bias: (rows, heads, 1, positions).
        """
        attention = self._self_layers[layer].SelfAttention
        count, length = len(hidden), bias.shape[-1]
        rows, positions = self.rows.numbers[:count], self.rows.positions[:count]
        keys, values = self._keys[layer], self._values[layer]
        keys[rows, :, :, positions] = self._by_head(attention.k(hidden))
        values[rows, :, positions] = self._by_head(attention.v(hidden))
        queries = self._by_head(attention.q(hidden)).unsqueeze(2)
        seen = attend(queries, keys[:count, ..., :length], values[:count, :, :length], bias)
        output: torch.Tensor = attention.o(seen.flatten(1))
        return output

    def _cross_attention(self, layer: int, hidden: torch.Tensor, shapes: Shapes) -> torch.Tensor:
        """Attention to the encodings, from (rows, width) to the same; a prompt's texts together."""
        attention, samples = self._cross_layers[layer].EncDecAttention, self._samples
        prompts, source = shapes.prompts, shapes.source
        queries = self._by_head(attention.q(hidden))
        if samples > 1:  # else rows and prompts have the same order
            queries = queries[self.rows.row_of_cell[: prompts * samples]]
        seen = attend(
            queries.unflatten(0, (-1, samples)).transpose(1, 2),
            self._cross_keys[layer, :prompts, ..., :source],
            self._cross_values[layer, :prompts, :, :source],
            self._cross_mask[:prompts, ..., :source],
        )
        seen = seen.transpose(1, 2).flatten(2).flatten(0, 1)
        if samples > 1:
            seen = seen[self.rows.cells[: len(hidden)]]
        output: torch.Tensor = attention.o(seen)
        return output

    def _move(self, moved: Moves) -> None:
        holes, movers, length = moved.holes, moved.movers, moved.length
        self._keys[:, holes, ..., :length] = self._keys[:, movers, ..., :length]
        self._values[:, holes, :, :length] = self._values[:, movers, :, :length]
        for kept in (self._cross_keys, self._cross_values):
            kept[:, moved.prompt_holes] = kept[:, moved.prompt_movers]
        self._cross_mask[moved.prompt_holes] = self._cross_mask[moved.prompt_movers]


def attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """T5's attention, without scaling: (rows, heads, queries, width of a head).

    For a few queries: torch's fused attention takes two to three times as long for these on a CPU,
    and other layouts of the keys take longer too.

    Args:
        keys: (rows, heads, width of a head, positions).
        values: (rows, heads, positions, width of a head).
        bias: added to the scores, float32 (rows or 1, heads or 1, queries or 1, positions).
    """
    scores = queries @ keys + bias
    return scores.softmax(-1).to(values.dtype) @ values


def encode(
    model: PreTrainedModel, prompts: Sequence[Any]
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Encode prompts in batches of similar length, so that little padding is computed.

    A prompt's padded length depends on its own length alone: in bfloat16, attention rounds
    differently with another, and texts would depend on their batch.

    Yields:
        Which prompts, their encodings (prompts, length, width) and masks (prompts, length).
    """
    device = model.device
    # transformers waits for a GPU to see whether a mask of (prompts, length) masks anything.
    by_position = family_of(model.config).supports_packing(model)
    lengths = np.array([len(prompt) for prompt in prompts])
    padded = padded_lengths(prompts, MULTIPLE)
    for width in np.unique(padded).tolist():
        alike = np.flatnonzero(padded == width)
        at_once = max(1, ENCODED_AT_ONCE // width)
        for chosen in np.split(alike, range(at_once, len(alike), at_once)):
            ids = np.full((len(chosen), width), model.config.pad_token_id)
            for row, index in zip(ids, chosen, strict=True):
                row[: lengths[index]] = prompts[index]
            sent = send(np.concatenate([ids.ravel(), lengths[chosen], chosen]), device)
            of_ids, ends, which = sent.split([ids.size, len(chosen), len(chosen)])
            mask = torch.arange(width, device=device) < ends[:, None]
            encoded = model.get_encoder()(
                input_ids=of_ids.view(ids.shape),
                attention_mask=mask[:, None, None] if by_position else mask.long(),
            )
            yield which, encoded.last_hidden_state, mask
