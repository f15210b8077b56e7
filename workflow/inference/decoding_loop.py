"""Own decoding loop: other texts replace finished ones."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from workflow.distributed.stop import Stop
from workflow.inference.causal_decoder import CausalDecoder, can_decode_rows
from workflow.inference.decoder import Decoder
from workflow.inference.decoding import Decoding, GeneratedIds, PromptBatch, end_ids
from workflow.inference.rows import Going, Shapes
from workflow.inference.sampling import adjusted, token_choice
from workflow.inference.step_graphs import StepGraphs, run_each
from workflow.inference.t5_decoder import T5Decoder
from workflow.models.families import family_of
from workflow.models.families.t5 import T5
from workflow.models.generation_settings import restricted

LEAVING = 1 / 16
"""The share of finished texts at which others replace them."""

Run = Callable[[Callable[[Shapes], None], Shapes, int], Any]
"""Calls a step with its shapes several times."""


def own_decoder(model: PreTrainedModel, decoding: Decoding, longest: int) -> type[Decoder] | None:
    """The decoder of a model's texts; None with beams, penalties or restrictions, or without one.

    Args:
        longest: tokens of the longest prompt.
    """
    settings = model.generation_config
    plain = decoding.num_beams == 1 and decoding.repetition_penalty == 1
    if not plain or decoding.no_repeat_ngram_size or restricted(settings):
        return None
    if isinstance(family_of(model.config), T5) and isinstance(settings.eos_token_id, int):
        return T5Decoder
    if can_decode_rows(model, longest + decoding.max_new_tokens):
        return CausalDecoder
    return None


class Writer(Protocol):
    """The texts of a decoder: which join, which token each gets next, and which leave."""

    def join(self) -> bool:
        """Add prompts where there is room; returns whether any text goes on."""

    def write(self, shapes: Shapes) -> None:
        """Write a token of each row's text that goes on."""

    def leave(self, going: Going) -> None:
        """Let ended texts leave.

        Args:
            going: (rows,), whether each goes on.
        """


def advance(decoder: Decoder, writer: Writer, run: Run = run_each) -> bool:
    """Write the next tokens of all texts; returns False if there are none.

    All texts of the project are written by this: those of evaluations and those of requests. Call
    it without gradients.
    """
    if not writer.join():
        return False
    shapes, steps = decoder.rows.ahead()
    run(writer.write, shapes, steps)
    writer.leave(decoder.rows.look())
    return True


def generate_rows(
    decoder: Decoder,
    prompts: PromptBatch,
    decoding: Decoding,
    stop: Stop,
    tick: Callable[[int], object],
) -> GeneratedIds:
    """Completions of a decoder's prompts, token by token, until each ends or reaches the limit.

    Call it without gradients. Other texts replace finished ones, so prompts should be sorted by
    length.

    Args:
        stop: a request to stop ends texts early.
        tick: called with the number of prompts completed since the last call.
    """
    writer = PromptWriter(decoder, prompts, decoding, stop, tick)
    run = StepGraphs().run if decoder.model.device.type == "cuda" else run_each
    while advance(decoder, writer, run):
        pass
    return writer.written()


class PromptWriter:
    """Writes the texts of given prompts on the decoder's device, all with the same settings."""

    def __init__(
        self,
        decoder: Decoder,
        prompts: PromptBatch,
        decoding: Decoding,
        stop: Stop,
        tick: Callable[[int], object],
    ):
        device, texts = decoder.model.device, len(prompts.ids) * decoding.n_samples
        self._decoder, self._decoding, self._prompts = decoder, decoding, prompts
        self._stop, self._tick, self._taken = stop, tick, 0
        self.ends = end_ids(decoder.model)
        self._choose = token_choice(decoding, prompts.indexes, device)
        self._scored_ids = torch.tensor(prompts.scored_ids, dtype=torch.int64, device=device)
        # Of each text; rows whose text has ended write to the last.
        self._sequences = torch.full(
            (texts + 1, decoding.max_new_tokens), self.ends[0], device=device
        )
        self._nowhere = torch.tensor(texts, device=device)
        self._trie = prompts.trie
        roots = [root for root in prompts.roots for _ in range(decoding.n_samples)]
        self._beginnings = torch.tensor([*roots, 0], device=device)
        self._logprobs = torch.zeros(texts + 1, device=device)
        # Of each text: of the first position, then of the last.
        self._scores = torch.zeros(texts + 1, 2, len(self._scored_ids), device=device)

    def join(self) -> bool:
        if self._stop.requested():
            return False
        more = self._prompts.ids[self._taken : self._taken + self._decoder.free]
        self._decoder.add(self._taken, more)
        self._taken += len(more)
        return len(self._decoder.rows) > 0

    def leave(self, going: Going) -> None:
        """Let texts leave once enough have ended."""
        if going.sum() <= (1 - LEAVING) * len(going) or self._stop.requested():
            self._tick(self._decoder.keep(going))

    def write(self, shapes: Shapes) -> None:
        """Write a token of each row's text that goes on; reads no value on the host."""
        of_all, decoding = self._decoder.rows, self._decoding
        rows = slice(shapes.rows)
        ids, going, positions = of_all.ids[rows], of_all.going[rows], of_all.positions[rows]
        texts = of_all.texts[rows]
        logits = self._decoder.logits(shapes)
        to = torch.where(going, texts, self._nowhere)
        self._scores[to, positions.clamp(max=1)] = logits.index_select(1, self._scored_ids)
        logprobs = logits.log_softmax(-1) if decoding.best_of else None
        if decoding.adjusts:
            logits = adjusted(logits, self._sequences[texts], positions, decoding)
        if decoding.min_new_tokens:
            too_short = positions < decoding.min_new_tokens
            for end in self.ends:
                logits[:, end].masked_fill_(too_short, -torch.inf)
        if self._trie is not None:
            logits = self._trie.allowed(logits, self._beginnings[texts])
        ids.copy_(self._choose(logits, texts, positions))
        if self._trie is not None:
            self._beginnings[to] = self._trie.after(self._beginnings[texts], ids)
        if logprobs is not None:
            self._logprobs[to] += logprobs.gather(1, ids[:, None])[:, 0]
        self._sequences[to, positions] = ids
        going &= positions < decoding.max_new_tokens - 1
        for end in self.ends:
            going &= ids != end
        positions += going

    def written(self) -> GeneratedIds:
        """The texts so far."""
        samples = self._decoding.n_samples
        first_logits = self._scores[:-1:samples, 0]
        found = GeneratedIds.of(self._sequences[:-1], set(self.ends), first_logits)
        logprobs = self._logprobs[:-1].tolist() if self._decoding.best_of else None
        return replace(found, logprobs=logprobs)
