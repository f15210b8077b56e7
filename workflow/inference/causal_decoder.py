"""A decoder-only model's decoder, one token per call, with a static cache that texts leave."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from workflow.inference.decoder import Decoder
from workflow.inference.rows import Moves, Shapes, send
from workflow.models.batch import pad_rows
from workflow.models.families import family_of
from workflow.models.families.decoder_only import DecoderOnly
from workflow.models.kernels.attention import attention_of
from workflow.models.kernels.prefix import with_prefix

PREFILLED_AT_ONCE = 4096
"""Padded positions per batch of prompts."""

ATTENTION = "workflow_rows"
"""The name of `attention` in transformers."""


def can_decode_rows(model: PreTrainedModel, longest: int) -> bool:
    """Whether `CausalDecoder` applies: positions given by ids, and all earlier ones attended to.

    Args:
        longest: the most tokens of a text with its prompt.
    """
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    return (
        isinstance(family_of(config), DecoderOnly)
        and family_of(config).supports_packing(model)
        and attention_of(config) == "sdpa"
        and getattr(config, "attn_logit_softcapping", None) is None
        and kinds <= {"full_attention", "sliding_attention"}
        and (window is None or longest <= window)
    )


@contextmanager
def by_rows(model: PreTrainedModel) -> Iterator[None]:
    """Let a decoder-only model attend by `attention`."""
    usual = model.config._attn_implementation
    if attention_of(model.config) == "sdpa" and isinstance(family_of(model.config), DecoderOnly):
        model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        if model.config._attn_implementation != usual:
            model.set_attn_implementation(usual)


class CausalDecoder(Decoder):
    """The texts that a decoder-only model is generating.

    All of a prompt but its last token is read when it is added; that token is the first input. Each
    row has its own positions, so texts need no padding at the start, and do not depend on their
    batch.
    """

    def _make_room(self, most: Shapes) -> None:
        device, positions = self.model.device, most.source + most.length
        self._cache = RowCache(most.rows, positions)
        # Of each row: the position of its prompt's last token.
        self._starts = torch.zeros(most.rows, dtype=torch.int64, device=device)
        self._numbers = torch.arange(positions, device=device)

    def _read(self, prompts: Sequence[Any], rows: slice) -> torch.Tensor:
        """Read all but the last token of prompts, in batches of similar length."""
        self._cache.clear(rows)
        lengths = np.array([len(prompt) - 1 for prompt in prompts])
        self._starts[rows] = send(np.repeat(lengths, self._samples), self.model.device)
        order = np.argsort(lengths, kind="stable")
        order = order[lengths[order] > 0]
        while len(order):
            padded = np.arange(1, len(order) + 1) * lengths[order]
            fits = max(1, int(padded.searchsorted(PREFILLED_AT_ONCE, side="right")))
            chosen, order = order[:fits], order[fits:]
            ids = pad_rows([prompts[index][:-1] for index in chosen], 0).to(self.model.device)
            of_each = rows.start + chosen[:, None] * self._samples + np.arange(self._samples)
            with self._cache.filling(send(of_each, self.model.device)):
                positions = torch.arange(ids.shape[1], device=ids.device)[None]
                self.model(
                    input_ids=ids, position_ids=positions, past_key_values=self._cache,
                    use_cache=True, logits_to_keep=1,
                )  # fmt: skip
        last = np.repeat([prompt[-1] for prompt in prompts], self._samples)
        return send(last, self.model.device)

    def logits(self, shapes: Shapes) -> torch.Tensor:
        rows = slice(shapes.rows)
        positions = self._starts[rows] + self.rows.positions[rows]
        length = shapes.source + shapes.length
        seen = self._numbers[:length] <= positions[:, None]
        self._cache.append_at(self.rows.numbers[rows], positions, length)
        output = self.model(
            input_ids=self.rows.ids[rows, None],
            position_ids=positions[:, None],
            attention_mask=seen[:, None, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        logits: torch.Tensor = output.logits[:, 0].float()
        return logits

    def _move(self, moved: Moves) -> None:
        self._cache.move(moved.movers, moved.holes)
        self._starts[moved.holes] = self._starts[moved.movers]


class RowCache(Cache):
    """Keys and values of rows, each at its own positions: (rows, heads, positions, width)."""

    def __init__(self, rows: int, length: int):
        super().__init__(layers=[])
        self._shape = rows, length
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._filled: torch.Tensor | None = None
        self._rows = self._positions = torch.empty(0)
        self._length = 0

    @contextmanager
    def filling(self, rows: torch.Tensor) -> Iterator[None]:
        """Store keys and values of prompts from position 0 on, in rows (prompts, samples)."""
        self._filled = rows
        try:
            yield
        finally:
            self._filled = None

    def append_at(self, rows: torch.Tensor, positions: torch.Tensor, length: int) -> None:
        """Store the next token of these rows at these positions; attention reads up to `length`."""
        self._rows, self._positions, self._length = rows, positions, length

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_: Any,
        **__: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        new = key_states, value_states
        if layer_idx == len(self._layers):
            rows, length = self._shape
            shapes = [(rows, one.shape[1], length, one.shape[-1]) for one in new]
            keys, values = (one.new_zeros(shape) for one, shape in zip(new, shapes, strict=True))
            self._layers.append((keys, values))
        held = self._layers[layer_idx]
        if self._filled is not None:
            for kept, one in zip(held, new, strict=True):
                kept[self._filled, :, : one.shape[2]] = one[:, None]
            return new
        for kept, one in zip(held, new, strict=True):
            kept[self._rows, :, self._positions] = one[:, :, 0]
        keys, values = (kept[: len(self._rows), :, : self._length] for kept in held)
        return keys, values

    def clear(self, rows: slice) -> None:
        """Zero rows: texts that left may have been NaN, which no weight hides."""
        for kept in self._tensors():
            kept[rows] = 0

    def move(self, movers: torch.Tensor, holes: torch.Tensor) -> None:
        for kept in self._tensors():
            kept[holes] = kept[movers]

    def _tensors(self) -> Iterator[torch.Tensor]:
        for layer in self._layers:
            yield from layer

    # Masks and positions are given, and prompts are read from position 0 on.

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return query_length, 0


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one query per row; of several, torch's.

    Heads that share keys are the queries of one product. Torch's fused attention takes two to three
    times as long for these on a CPU.
    """
    key, value, attention_mask = with_prefix(module, query, key, value, attention_mask)
    if query.shape[2] > 1 or attention_mask is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    rows, heads, _, width = query.shape
    scale = options.get("scaling") or width**-0.5
    scores = (query.view(rows, key.shape[1], -1, width) @ key.transpose(2, 3)).float() * scale
    weights = scores.masked_fill_(~attention_mask, -torch.inf).softmax(-1).to(value.dtype)
    return (weights @ value).reshape(rows, 1, heads, -1), None


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
