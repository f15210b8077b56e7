"""Generate completions for prompts, with the first position's logits of yes and no."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workflow.core.console import progress_bar, warn_once
from workflow.data.step_planner import LOGITS_AT_ONCE, POSITIONS_AT_ONCE, batches_by_positions
from workflow.data.text_ids import decode_texts
from workflow.data.token_cache import CutRows
from workflow.distributed.device import any_kernels
from workflow.inference.decoding import Decoding, GeneratedIds, PromptBatch
from workflow.inference.eval_shard import EvalShard
from workflow.inference.free_memory import positions_at_once
from workflow.inference.hf_generate import hf_generate
from workflow.inference.t5_decoder import T5Decoder
from workflow.inference.t5_loop import can_decode, t5_generate
from workflow.metrics.references import processed
from workflow.models.families import family_of

STREAMED = 8
"""Batches that our own loop merges into one: other texts replace finished ones."""


@dataclass(frozen=True)
class Generation:
    """One completion.

    Attributes:
        text: without special tokens, cut at the first stop string and stripped.
        full_text: with special tokens.
        scores: [no, yes] raw logits of the first position, if known.
        tokens: how many were generated, including the end token.
        at_limit: whether `max_new_tokens` ended it.
        finite: whether the known logits of the first position are finite.
    """

    text: str
    full_text: str
    scores: list[float] | None
    tokens: int
    at_limit: bool
    finite: bool


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: CutRows,
    decoding: Decoding,
    shard: EvalShard,
) -> Iterator[tuple[int, list[Generation]]]:
    """`n_samples` completions for each row of source ids in this process's share.

    The encoder runs once per prompt. Batches hold prompts of similar length, and do not change the
    texts: a sample depends on the seed, the row and the sample's number alone. (With
    `model.generate` in float32 only. On a GPU, products of matrices may be rounded differently for
    another number of rows, so a text can differ where two tokens are almost equally likely.)

    Yields:
        A row's index and its completions, in any order.
    """
    yes_no_ids = _yes_no_ids(tokenizer)
    # Without these tokens the end token's logit shows whether logits are finite.
    scored_ids = yes_no_ids or [tokenizer.eos_token_id]
    by_t5_loop = can_decode(model, decoding) and not shard.lockstep
    streamed = STREAMED if by_t5_loop else 1
    lengths = sources.lengths
    # A text counts as enough positions to keep a batch's logits within their bound.
    vocabulary = family_of(model.config).vocabulary_size(model.config)
    least = POSITIONS_AT_ONCE * vocabulary // LOGITS_AT_ONCE
    new_tokens = np.full_like(lengths, max(decoding.max_new_tokens, least))
    positions = lengths + new_tokens
    at_once = positions_at_once(model, shard.world) if by_t5_loop else POSITIONS_AT_ONCE
    max_positions = at_once // max(decoding.n_samples, decoding.num_beams)
    most = None if decoding.batch_size is None else streamed * decoding.batch_size
    batches = batches_by_positions(
        lengths, new_tokens, streamed * max_positions, most, shard.world.size
    )
    costs = [int(positions[batch].sum()) for batch in batches]
    with progress_bar(len(sources), "generate") as bar:

        def tick(finished: int) -> None:
            bar.update(finished * shard.world.size)

        for batch, counts in shard.of(batches, costs):
            prompts = PromptBatch([sources[i].tolist() for i in batch], batch.tolist(), scored_ids)
            with torch.no_grad(), any_kernels():
                if by_t5_loop:
                    longest = int(positions[batch].max())
                    rows = decoding.batch_size or max(1, max_positions // longest)
                    decoder = T5Decoder(model, prompts.ids, decoding, rows)
                    generated = t5_generate(decoder, prompts, decoding, shard.stop, tick)
                else:
                    generated = hf_generate(model, prompts, decoding, shard)
                    tick(len(batch))
            if counts:
                completions = _completions(generated, tokenizer, decoding, yes_no_ids is not None)
                yield from zip(prompts.indexes, completions, strict=True)


def _yes_no_ids(tokenizer: PreTrainedTokenizerBase) -> list[int] | None:
    """The ids of the tokens `▁no` and `▁yes`; None, with a warning, if one is missing."""
    ids: list[Any] = [tokenizer.convert_tokens_to_ids(piece) for piece in ("▁no", "▁yes")]
    if any(i is None or i == tokenizer.unk_token_id for i in ids):
        warn_once("the vocabulary lacks ▁yes or ▁no; scores are null")
        return None
    return ids


def _completions(
    generated: GeneratedIds, tokenizer: PreTrainedTokenizerBase, decoding: Decoding, known: bool
) -> list[list[Generation]]:
    """The completions of each prompt.

    Args:
        known: whether the first position's logits are those of no and yes.
    """
    texts = decode_texts(tokenizer, generated.sequences, skip_special_tokens=True)
    full_texts = decode_texts(tokenizer, generated.sequences, skip_special_tokens=False)
    logits, samples = generated.first_logits, decoding.n_samples
    finite = torch.isfinite(logits).all(dim=-1).tolist()
    # JSON has no non-finite numbers.
    scores = [
        pair if known and is_finite else None
        for pair, is_finite in zip(logits.tolist(), finite, strict=True)
    ]
    completions = [
        Generation(
            text=processed(texts[i], decoding.stop),
            full_text=full_texts[i],
            scores=scores[i // samples],
            tokens=len(ids),
            at_limit=len(ids) >= decoding.max_new_tokens and not generated.ended[i],
            finite=finite[i // samples],
        )
        for i, ids in enumerate(generated.sequences)
    ]
    return [completions[i : i + samples] for i in range(0, len(completions), samples)]
