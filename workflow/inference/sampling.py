"""Choose the next token: greedily, or by sampling that depends on the seed alone."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import (
    LogitsProcessor,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from workflow.inference.decoding import Decoding
from workflow.models.lm_head import on_device

BLOCK = 128
"""Tokens per block of the vocabulary: a block is chosen first, then a token in it."""

Choice = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""From float32 scores (rows, vocabulary), each row's text and its number of tokens so far, to the
next token of each row."""


def token_choice(decoding: Decoding, indexes: Sequence[int], device: torch.device) -> Choice:
    """How tokens are chosen for the samples of these records, sample after sample."""
    if decoding.greedy:
        return lambda scores, rows, positions: argmax(scores)
    uniforms = uniform_numbers(decoding, indexes).to(device)
    warpers = list(warpers_of(decoding))

    def drawn(scores: torch.Tensor, rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        for warp in warpers:
            scores = warp(None, scores)  # they do not read the ids
        return draw(scores, uniforms[rows, positions])

    return drawn


def warpers_of(decoding: Decoding) -> Iterator[LogitsProcessor]:
    """The processors of scores before sampling, in the order of transformers."""
    yield TemperatureLogitsWarper(decoding.temperature)
    if decoding.top_k is not None:
        yield TopKLogitsWarper(decoding.top_k)
    if decoding.top_p is not None:
        yield TopPLogitsWarper(decoding.top_p)
    if decoding.min_p is not None:
        yield MinPLogitsWarper(decoding.min_p)
    if decoding.typical_p is not None:
        yield TypicalTokens(decoding.typical_p)


class TypicalTokens(LogitsProcessor):
    """Keeps tokens whose information is nearest to the expected one, up to a total probability.

    Locally typical sampling (Meister et al. 2022, arXiv:2202.00666). Unlike in transformers, equal
    distances in steps of 1e-4 nats are ordered by token: rounding, which depends on the batch,
    would order them differently.
    """

    def __init__(self, mass: float):
        self._mass = mass

    def __call__(self, input_ids: Any, scores: torch.Tensor) -> torch.Tensor:
        information = -scores.log_softmax(-1)
        probabilities = torch.exp(-information)
        expected = (information * probabilities).nansum(-1, keepdim=True)
        distances = ((information - expected).abs() * 1e4).round()
        order = distances.sort(stable=True).indices
        before = probabilities.gather(1, order).cumsum(-1) - probabilities.gather(1, order)
        kept = torch.zeros_like(scores, dtype=torch.bool).scatter(1, order, before < self._mass)
        return scores.masked_fill(~kept, -torch.inf)


def adjusted(
    scores: torch.Tensor, written: torch.Tensor, positions: torch.Tensor, decoding: Decoding
) -> torch.Tensor:
    """Scores with penalties on the tokens of their texts, and with biases; reads no value.

    https://platform.openai.com/docs/api-reference/completions/create

    Args:
        scores: (rows, vocabulary), float32.
        written: the ids of each row's text (rows, tokens).
        positions: how many of them there are already, (rows,).
    """
    if decoding.presence_penalty or decoding.frequency_penalty:
        numbers = torch.arange(written.shape[1], device=written.device)
        counted = (numbers < positions[:, None]).to(scores.dtype)
        counts = torch.zeros_like(scores).scatter_add_(1, written, counted)
        penalties = decoding.frequency_penalty * counts
        scores = scores - penalties - decoding.presence_penalty * (counts > 0)
    if decoding.logit_bias:
        ids, biases = zip(*decoding.logit_bias, strict=True)
        bias = on_device(biases, scores.device).expand(len(scores), -1)
        scores = scores.index_add(1, on_device(ids, scores.device), bias)
    return scores


def uniform_numbers(decoding: Decoding, indexes: Sequence[int]) -> torch.Tensor:
    """Numbers in [0, 1), float64 (records × samples, new tokens).

    They depend on the seed, the record and the sample's number alone.
    """
    rows = [
        uniform_row(decoding, index, sample)
        for index in indexes
        for sample in range(decoding.n_samples)
    ]
    return torch.stack(rows)


def uniform_row(decoding: Decoding, index: int, sample: int) -> torch.Tensor:
    """The numbers of a record's sample, float64 (new tokens,)."""
    generator = np.random.default_rng([decoding.seed, index, sample])
    return torch.from_numpy(generator.random(decoding.max_new_tokens))


def argmax(scores: torch.Tensor) -> torch.Tensor:
    """The index of the highest score of each row, the first if tied; of (rows, vocabulary).

    By blocks, which is six to ten times as fast as torch's argmax on a CPU.
    """
    blocks = _in_blocks(scores, -torch.inf)
    block = blocks.amax(-1).argmax(-1)
    return block * BLOCK + _rows_at(blocks, block).argmax(-1)


def draw(scores: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """A token of each row, drawn from the softmax of its scores by inverse transform sampling.

    That is where the cumulative probability exceeds the row's uniform number, so that a token
    depends on its row alone. First its block of the vocabulary is found, then the token in it, so
    that few sums need float64. With non-finite scores the token is arbitrary.

    Args:
        scores: (rows, vocabulary), float32.
        uniforms: (rows,), float64, in [0, 1).
    """
    weights = _in_blocks(torch.exp(scores - scores.amax(-1, keepdim=True)), 0.0)
    sums = weights.sum(-1).double().cumsum(-1)
    wanted = uniforms[:, None] * sums[:, -1:]
    block = _first_above(sums, wanted)
    before = sums.gather(1, (block - 1).clamp(min=0)).masked_fill(block == 0, 0.0)
    inside = _rows_at(weights, block[:, 0]).double().cumsum(-1)
    drawn = (block * BLOCK + _first_above(inside, wanted - before))[:, 0]
    return drawn.clamp(max=scores.shape[1] - 1)


def _in_blocks(values: torch.Tensor, padding: float) -> torch.Tensor:
    """(rows, vocabulary) as (rows, blocks, BLOCK)."""
    if missing := -values.shape[1] % BLOCK:
        values = F.pad(values, (0, missing), value=padding)
    return values.view(len(values), -1, BLOCK)


def _rows_at(blocks: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """One block of each row: (rows, BLOCK)."""
    return blocks[torch.arange(len(chosen), device=chosen.device), chosen]


def _first_above(cumulated: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The first index of each row above `wanted`: never one of weight 0.

    The last index if sums are NaN.
    """
    most = cumulated[:, -1:]
    below = torch.minimum(wanted, torch.nextafter(most, torch.zeros_like(most)))
    return torch.searchsorted(cumulated, below, right=True).clamp(max=cumulated.shape[1] - 1)
