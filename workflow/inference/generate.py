"""Generate completions for prompts, with the first position's logits of yes and no."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workflow.core.console import inform_once, progress_bar, warn_once
from workflow.data.example_lengths import Indexes
from workflow.data.step_planner import LOGITS_AT_ONCE, POSITIONS_AT_ONCE, batches_by_positions
from workflow.data.text_format import Texts
from workflow.data.text_ids import decode_texts
from workflow.data.token_cache import Rows
from workflow.distributed.device import any_kernels
from workflow.inference.causal_decoder import by_rows
from workflow.inference.choices import Trie, ids_of_choices
from workflow.inference.decoder import Decoder
from workflow.inference.decoding import Decoding, GeneratedIds, PromptBatch
from workflow.inference.decoding_loop import generate_rows, own_decoder
from workflow.inference.eval_shard import EvalShard
from workflow.inference.free_memory import positions_at_once
from workflow.inference.hf_generate import hf_generate
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

    @property
    def item(self) -> dict[str, Any]:
        """The completion in a prediction file."""
        return {
            "lm_postprocess": self.text,
            "full_generated": self.full_text,
            "scores": self.scores,
        }


def generate(
    model: PreTrainedModel,
    texts: Texts,
    sources: Rows,
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
    drawn = replace(decoding, n_samples=decoding.best_of or decoding.n_samples)
    tokenizer, yes_no = texts.tokenizer, _yes_no_ids(texts)
    trie = _trie_of(texts, decoding.choices, model.device)
    # Without these tokens the end token's logit shows whether logits are finite.
    scored_ids = [*yes_no[False], *yes_no[True]] if yes_no else [tokenizer.eos_token_id]
    plan = _plan(model, sources.lengths, drawn, shard)
    with progress_bar(len(sources), "generate") as bar:

        def tick(finished: int) -> None:
            bar.update(finished * shard.world.size)

        for batch, counts in shard.of(plan.batches, plan.costs):
            rows = [sources[i].tolist() for i in batch]
            roots = _spaced(tokenizer, rows) if trie else []
            prompts = PromptBatch(rows, batch.tolist(), scored_ids, trie, roots)
            with torch.no_grad(), any_kernels():
                if plan.decoder:
                    with by_rows(model):
                        start = plan.decoder.of(model, rows, drawn, plan.at_once(batch))
                        generated = generate_rows(start, prompts, drawn, shard.stop, tick)
                else:
                    generated = hf_generate(model, prompts, drawn, shard)
                    tick(len(batch))
            if counts:
                scores = None if yes_no is None else _scores_of(generated, prompts, tokenizer)
                kept = generated.best(decoding.n_samples)
                completions = _completions(kept, tokenizer, decoding, scores)
                yield from zip(prompts.indexes, completions, strict=True)


@dataclass(frozen=True)
class _Plan:
    """How prompts are divided into batches.

    Attributes:
        decoder: of our own loop; None for `model.generate`.
        costs: of each batch, in positions.
        positions: of each prompt with its completion.
        most_positions: of the prompts that are decoded together.
        most_prompts: of these; None for any number.
    """

    decoder: type[Decoder] | None
    batches: Sequence[Indexes]
    costs: list[int]
    positions: Indexes
    most_positions: int
    most_prompts: int | None

    def at_once(self, batch: Indexes) -> int:
        """How many prompts of a batch are decoded together."""
        return self.most_prompts or max(1, self.most_positions // int(self.positions[batch].max()))


def _plan(model: PreTrainedModel, lengths: Indexes, decoding: Decoding, shard: EvalShard) -> _Plan:
    decoder = None if shard.lockstep else own_decoder(model, decoding, int(lengths.max()))
    streamed = STREAMED if decoder else 1
    # A text counts as enough positions to keep a batch's logits within their bound.
    vocabulary = family_of(model.config).vocabulary_size(model.config)
    least = POSITIONS_AT_ONCE * vocabulary // LOGITS_AT_ONCE
    new_tokens = np.full_like(lengths, max(decoding.max_new_tokens, least))
    positions = lengths + new_tokens
    at_once = positions_at_once(model, shard.world) if decoder else POSITIONS_AT_ONCE
    most_positions = at_once // max(decoding.n_samples, decoding.num_beams)
    most = None if decoding.batch_size is None else streamed * decoding.batch_size
    batches = batches_by_positions(
        lengths, new_tokens, streamed * most_positions, most, shard.world.size
    )
    costs = [int(positions[batch].sum()) for batch in batches]
    return _Plan(decoder, batches, costs, positions, most_positions, decoding.batch_size)


def _yes_no_ids(texts: Texts) -> dict[bool, list[int]] | None:
    """The ids of no and yes as first tokens, by whether the prompt ends with whitespace.

    None, with a warning, if one is not a token.
    """
    tokenizer, pairs = texts.tokenizer, {}
    for spaced, prompt in ((False, "a"), (True, "a\n")):
        rows = [texts.format.word_ids(tokenizer, word, prompt) for word in ("no", "yes")]
        if any(len(row) != 1 or row[0] == tokenizer.unk_token_id for row in rows):
            warn_once("the vocabulary lacks yes or no as one token; scores are null")
            return None
        pairs[spaced] = [index for (index,) in rows]
    shown = [" and ".join(tokenizer.convert_ids_to_tokens(pair)) for pair in pairs.values()]
    if shown[0] != shown[1]:
        inform_once(f"scores: first-token logits of {shown[0]}; after whitespace {shown[1]}")
    return pairs


def _trie_of(texts: Texts, choices: Sequence[str], device: torch.device) -> Trie | None:
    """The trie of texts as completions; None without any."""
    return Trie.of(*ids_of_choices(texts, choices), device) if choices else None


def _spaced(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]]) -> list[bool]:
    """Whether each prompt ends with whitespace."""
    ends = decode_texts(tokenizer, [ids[-1:] for ids in prompts], skip_special_tokens=False)
    return [end[-1:].isspace() for end in ends]


def _scores_of(
    generated: GeneratedIds, prompts: PromptBatch, tokenizer: PreTrainedTokenizerBase
) -> torch.Tensor:
    """The logits of no and yes of each prompt (prompts, 2), in the form that its end asks for."""
    spaced = torch.tensor(_spaced(tokenizer, prompts.ids))[:, None]
    logits = generated.first_logits.cpu()
    return torch.where(spaced, logits[:, 2:], logits[:, :2])


def _completions(
    generated: GeneratedIds,
    tokenizer: PreTrainedTokenizerBase,
    decoding: Decoding,
    yes_no: torch.Tensor | None,
) -> list[list[Generation]]:
    """The completions of each prompt.

    Args:
        yes_no: the logits of no and yes (prompts, 2), if known.
    """
    texts = decode_texts(tokenizer, generated.sequences, skip_special_tokens=True)
    full_texts = decode_texts(tokenizer, generated.sequences, skip_special_tokens=False)
    logits = generated.first_logits if yes_no is None else yes_no
    samples, known = decoding.n_samples, yes_no is not None
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
