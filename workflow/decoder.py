"""T5's decoder, a token a call: keys and values stay where they are, finished texts leave."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from workflow.config import JobSpec
from workflow.sampling import choice
from workflow.stop import Stop
from workflow.weights import Model

ENCODED_AT_ONCE = 4096
"""Padded positions that the encoder is given at once."""

MULTIPLE = 8
"""Prompts are padded to multiples of so many tokens, and no further."""

LEAVING = 1 / 16
"""Share of a batch's texts that are finished, at which they leave it."""


@dataclass(frozen=True)
class Written:
    """What was written for some prompts.

    Attributes:
        texts: ids of each text, sample after sample, the end mark included.
        ended: which have one.
        first: raw logits of the words asked for at the first position, (prompts, words), float32.
    """

    texts: list[list[int]]
    ended: list[bool]
    first: torch.Tensor

    @classmethod
    def of(cls, ids: torch.Tensor, ends: set[int], first: torch.Tensor) -> "Written":
        """Of rows of ids that may go on behind the first of `ends`."""
        rows = ids.tolist()
        lengths = [next((i for i, one in enumerate(row, 1) if one in ends), None) for row in rows]
        texts = [row[:length] for row, length in zip(rows, lengths, strict=True)]
        return cls(texts, [length is not None for length in lengths], first)


def can_decode(model: Model, spec: JobSpec) -> bool:
    """Whether `write_texts` can: a model of T5's kind, neither beams nor penalties."""
    settings = model.generation_config
    return (
        model.config.model_type in ("t5", "mt5")
        and spec.num_beams == 1
        and spec.repetition_penalty == 1
        and spec.no_repeat_ngram_size == 0
        and isinstance(settings.eos_token_id, int)
        and settings.forced_bos_token_id is None
    )


def write_texts(
    model: Model,
    prompts: Sequence[Any],
    indexes: Sequence[int],
    spec: JobSpec,
    words: list[int],
    stop: Stop,
) -> Written:
    """The texts of some prompts, token by token, until each has its end or is long enough.

    To be called without gradients, on a model in evaluation mode.

    Args:
        indexes: of the prompts' records, which decide what is drawn.
        words: ids whose logits at the first position are wanted.
        stop: where it is asked for, texts end early.
    """
    end = model.generation_config.eos_token_id
    decoder = Decoder(model, prompts, spec.n_samples, spec.max_new_tokens)
    choose = choice(spec, indexes, model.device)
    count = len(prompts) * spec.n_samples
    ids = torch.full((count,), model.config.decoder_start_token_id, device=model.device)
    going = torch.ones(count, dtype=torch.bool, device=model.device)
    written = torch.full((count, spec.max_new_tokens), end, device=model.device)
    for position in range(spec.max_new_tokens):
        logits = decoder.step(ids).float()
        if position == 0:
            first = logits[:: spec.n_samples, words]
        if position < spec.min_new_tokens:
            logits[:, end] = -torch.inf
        ids = choose(logits, decoder.text_of_row, position)
        written[decoder.text_of_row, position] = ids
        going &= ids != end
        left = int(going.sum())
        if left == 0 or stop.requested():
            break
        if left <= (1 - LEAVING) * len(going):
            before = decoder.keep(going)
            ids, going = ids[before], going[before]
    return Written.of(written, {end}, first)


class Decoder:
    """The texts that a model of T5's kind is writing, all of them equally long so far.

    To be used without gradients, on a model in evaluation mode. Each prompt has `samples` texts,
    which share its encoding and the keys and values made of that. A text that is finished leaves by
    `keep`; another moves into its place, so that little is copied.

    Attributes:
        text_of_row: for each row of `step`, which text it is: prompt × samples + sample.
    """

    def __init__(self, model: Model, prompts: Sequence[Any], samples: int, new_tokens: int):
        """Encode prompts, given as ids; texts may come to have `new_tokens` tokens."""
        self._model, self._samples = model, samples
        self._layers = list(model.get_decoder().block)
        self._self_layers = [layer.layer[0] for layer in self._layers]
        self._cross_layers = [layer.layer[1] for layer in self._layers]
        self._heads = model.config.num_heads
        self._position = 0
        longest, count = padded_length(max(map(len, prompts))), len(prompts) * samples
        self.text_of_row = torch.arange(count, device=model.device)
        self._slots = self.text_of_row  # of each row, in the grid of prompts left × samples
        width = model.config.d_kv
        self._keys = self._room(count, width, new_tokens)
        self._values = self._room(count, new_tokens, width)
        # Padding is read, with weight zero, and must be finite.
        self._cross_keys = self._room(len(prompts), width, longest).zero_()
        self._cross_values = self._room(len(prompts), longest, width).zero_()
        self._cross_mask = torch.full(
            (len(prompts), 1, 1, longest), -torch.inf, device=model.device
        )
        for chosen, hidden, mask in encode(model, prompts):
            self._store_encodings(chosen, hidden, mask)
        attention = self._self_layers[0].SelfAttention
        self._bias = attention.compute_bias(1, new_tokens, past_seen_tokens=new_tokens - 1)

    def _room(self, rows: int, *sizes: int) -> torch.Tensor:
        """An empty (layers, rows, heads, *sizes)."""
        shape = len(self._layers), rows, self._heads, *sizes
        return torch.empty(shape, dtype=self._model.dtype, device=self._model.device)

    def _store_encodings(
        self, chosen: torch.Tensor, hidden: torch.Tensor, mask: torch.Tensor
    ) -> None:
        """Keep what the layers look back at of the encodings (prompts, length, width) of some."""
        length = hidden.shape[1]
        self._cross_mask[chosen, 0, 0, :length] = torch.where(mask, 0.0, -torch.inf)
        for layer, cross in enumerate(self._cross_layers):
            attention = cross.EncDecAttention
            keys, values = self._by_head(attention.k(hidden)), self._by_head(attention.v(hidden))
            self._cross_keys[layer, chosen, ..., :length] = keys.permute(0, 2, 3, 1)
            self._cross_values[layer, chosen, :, :length] = values.transpose(1, 2)

    def _by_head(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.view(*hidden.shape[:-1], self._heads, -1)

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits (rows, vocabulary) of what follows when these ids (rows,) are next."""
        model = self._model
        hidden = model.get_input_embeddings()(ids)
        for number, layer in enumerate(self._layers):
            hidden = hidden + self._self_attention(
                number, self._self_layers[number].layer_norm(hidden)
            )
            hidden = hidden + self._cross_attention(
                number, self._cross_layers[number].layer_norm(hidden)
            )
            hidden = layer.layer[2](hidden)
        self._position += 1
        hidden = model.get_decoder().final_layer_norm(hidden)
        if model.config.model_type == "t5" and model.config.scale_decoder_outputs:
            hidden = hidden * model.config.d_model**-0.5
        logits: torch.Tensor = model.get_output_embeddings()(hidden)
        return logits

    def _self_attention(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """Self-attention, from (rows, width) to the same."""
        attention, position = self._self_layers[layer].SelfAttention, self._position
        self._keys[layer, ..., position] = self._by_head(attention.k(hidden))
        self._values[layer, :, :, position] = self._by_head(attention.v(hidden))
        seen = attend(
            self._by_head(attention.q(hidden)).unsqueeze(2),
            self._keys[layer, ..., : position + 1],
            self._values[layer, :, :, : position + 1],
            self._bias[..., -position - 1 :],
        )
        output: torch.Tensor = attention.o(seen.flatten(1))
        return output

    def _cross_attention(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """Attention to the encodings, from (rows, width) to the same; a prompt's texts together."""
        attention, samples = self._cross_layers[layer].EncDecAttention, self._samples
        queries = self._by_head(attention.q(hidden))
        if samples > 1:  # else rows and prompts leave alike, and lie in the same order
            asked = queries
            queries = asked.new_zeros(len(self._cross_mask) * samples, *asked.shape[1:])
            queries[self._slots] = asked
        seen = attend(
            queries.unflatten(0, (-1, samples)).transpose(1, 2),
            self._cross_keys[layer],
            self._cross_values[layer],
            self._cross_mask,
        )
        seen = seen.transpose(1, 2).flatten(2).flatten(0, 1)
        output: torch.Tensor = attention.o(seen[self._slots] if samples > 1 else seen)
        return output

    def keep(self, going: torch.Tensor) -> torch.Tensor:
        """Let rows leave; returns where each row that stays was before.

        Args:
            going: (rows,), which stay.
        """
        holes, movers, left = moves(going)
        position = self._position
        self._keys[:, holes, ..., :position] = self._keys[:, movers, ..., :position]
        self._values[:, holes, :, :position] = self._values[:, movers, :, :position]
        self._keys, self._values = self._keys[:, :left], self._values[:, :left]
        before = torch.arange(len(going), device=going.device)
        before[holes] = before[movers]
        before = before[:left]
        self.text_of_row, self._slots = self.text_of_row[before], self._slots[before]
        self._keep_prompts()
        return before

    def _keep_prompts(self) -> None:
        """Let prompts leave whose texts have all left."""
        prompt, sample = self._slots // self._samples, self._slots % self._samples
        going = torch.zeros(len(self._cross_mask), dtype=torch.bool, device=prompt.device)
        going[prompt] = True
        holes, movers, left = moves(going)
        for kept in (self._cross_keys, self._cross_values):
            kept[:, holes] = kept[:, movers]
        self._cross_keys, self._cross_values = (
            self._cross_keys[:, :left],
            self._cross_values[:, :left],
        )
        self._cross_mask[holes] = self._cross_mask[movers]
        self._cross_mask = self._cross_mask[:left]
        now = torch.arange(len(going), device=prompt.device)
        now[movers] = holes
        self._slots = now[prompt] * self._samples + sample


def attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """T5's attention, which does not scale: (rows, heads, queries, width of a head).

    For a query or a few: torch's fused attention takes two to three times as long for these on a
    CPU, and other layouts of the keys take longer too.

    Args:
        keys: (rows, heads, width of a head, positions).
        values: (rows, heads, positions, width of a head).
        bias: added to the scores, (rows or 1, heads or 1, queries or 1, positions).
    """
    scores = (queries @ keys).float() + bias
    return scores.softmax(-1).to(values.dtype) @ values


def moves(going: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """How rows that stay close up: places to be filled, by which rows, and how many there are."""
    left = int(going.sum())
    return (~going[:left]).nonzero()[:, 0], left + going[left:].nonzero()[:, 0], left


def padded_length(length: int) -> int:
    return -(-length // MULTIPLE) * MULTIPLE


def encode(
    model: Model, prompts: Sequence[Any]
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Encodings of prompts of like lengths together, so that little padding is computed.

    A prompt's padded length depends on its own alone: in bfloat16 attention rounds another way
    with another, and texts would depend on their batch.

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
