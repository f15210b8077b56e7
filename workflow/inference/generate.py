"""Decoding: prompts to completions, with the yes and no logits of the first position."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from workflow.config.job import JobSpec
from workflow.core.console import progress_bar, warn_once
from workflow.data.step_planner import LOGITS_AT_ONCE, POSITIONS_AT_ONCE, batches_by_positions
from workflow.data.token_cache import CutRows
from workflow.inference.eval_shard import EvalShard
from workflow.inference.hf_generate import write_by_transformers
from workflow.inference.t5_loop import Written, can_decode, write_texts
from workflow.metrics.references import decoded, processed
from workflow.models.families import family_of
from workflow.models.state_dict import Model

STREAMED = 8
"""Batches of our own loop that are one: where texts end, others take their places."""


@dataclass(frozen=True)
class Generation:
    """One completion.

    Attributes:
        text: without special tokens, cut at the first stop string and stripped.
        full_text: with special tokens.
        scores: [no, yes] raw logits of the first position, where they are known.
        tokens: how many were generated, the end mark included.
        at_limit: whether `max_new_tokens` ended it.
        finite: whether the first position's logits are finite numbers, as far as they are known.
    """

    text: str
    full_text: str
    scores: list[float] | None
    tokens: int
    at_limit: bool
    finite: bool


def generate(
    model: Model, tokenizer: Any, sources: CutRows, spec: JobSpec, shard: EvalShard
) -> Iterator[tuple[int, list[Generation]]]:
    """`spec.n_samples` completions for each row of source ids in this process's share.

    The encoder runs once a prompt. Batches hold prompts of similar length. How they are cut changes
    neither greedy texts nor samples: what is drawn for a sample depends on the seed, the row and
    the sample's number alone. (With `model.generate`, where that is used, in float32 only.)

    Yields:
        A row's index and its completions, in no order of the rows.
    """
    answer_ids = _answer_ids(tokenizer)
    ours = can_decode(model, spec) and not shard.lockstep
    streamed = STREAMED if ours else 1
    lengths = sources.lengths
    # A text counts for so many positions at least that a batch's logits keep to their bound.
    least = (
        POSITIONS_AT_ONCE * family_of(model.config).vocabulary_size(model.config) // LOGITS_AT_ONCE
    )
    counted = np.full_like(lengths, max(spec.max_new_tokens, least))
    positions_at_once = POSITIONS_AT_ONCE // max(spec.n_samples, spec.num_beams)
    rows = None if spec.eval_batch_size is None else streamed * spec.eval_batch_size
    batches = batches_by_positions(
        lengths, counted, streamed * positions_at_once, rows, shard.world.size
    )
    costs = [int((lengths[batch] + counted[batch]).sum()) for batch in batches]
    with progress_bar(len(sources), "generate") as bar:
        for batch, counts in shard.of(batches, costs):
            prompts = [sources[i].tolist() for i in batch]
            # Without these pieces the end mark's logit tells whether a model gives numbers.
            words, indexes = answer_ids or [tokenizer.eos_token_id], batch.tolist()
            with torch.no_grad():
                if ours:
                    longest = int((lengths[batch] + counted[batch]).max())
                    at_once = spec.eval_batch_size or max(1, positions_at_once // longest)
                    written = write_texts(
                        model, prompts, indexes, spec, words, shard.stop, at_once,
                        tick=lambda finished: bar.update(finished * shard.world.size),
                    )  # fmt: skip
                else:
                    written = write_by_transformers(model, prompts, indexes, spec, words, shard)
                    bar.update(len(batch) * shard.world.size)
            if counts:
                answers = _answers(written, tokenizer, spec, known=answer_ids is not None)
                yield from zip(indexes, answers, strict=True)


def _answer_ids(tokenizer: Any) -> list[int] | None:
    """The ids of the pieces `▁no` and `▁yes`; None, with a warning, where one is no piece."""
    ids = [tokenizer.convert_tokens_to_ids(piece) for piece in ("▁no", "▁yes")]
    if any(i is None or i == tokenizer.unk_token_id for i in ids):
        warn_once("the vocabulary has no ▁yes or no ▁no: scores are null")
        return None
    return ids


def _answers(
    written: Written, tokenizer: Any, spec: JobSpec, known: bool
) -> list[list[Generation]]:
    """The completions of each prompt.

    Args:
        known: whether the first position's logits are those of no and yes.
    """
    texts = decoded(tokenizer, written.texts, skip_special_tokens=True)
    full_texts = decoded(tokenizer, written.texts, skip_special_tokens=False)
    # JSON cannot hold what is not finite.
    finite = torch.isfinite(written.first).all(dim=-1).tolist()
    scores = [
        pair if known and is_finite else None
        for pair, is_finite in zip(written.first.tolist(), finite, strict=True)
    ]
    answers = [
        Generation(
            text=processed(texts[i], spec.stop),
            full_text=full_texts[i],
            scores=scores[i // spec.n_samples],
            tokens=len(ids),
            at_limit=len(ids) >= spec.max_new_tokens and not written.ended[i],
            finite=finite[i // spec.n_samples],
        )
        for i, ids in enumerate(written.texts)
    ]
    return [answers[i : i + spec.n_samples] for i in range(0, len(answers), spec.n_samples)]
