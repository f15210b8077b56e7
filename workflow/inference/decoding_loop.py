"""Own decoding loop: other texts replace finished ones."""

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from workflow.distributed.stop import Stop
from workflow.inference.causal_decoder import CausalDecoder, can_decode_rows
from workflow.inference.decoder import Decoder
from workflow.inference.decoding import Decoding, GeneratedIds, PromptBatch, end_ids
from workflow.inference.rows import Shapes
from workflow.inference.sampling import token_choice
from workflow.inference.step_graphs import StepGraphs, run_each
from workflow.inference.t5_decoder import T5Decoder
from workflow.models.families import family_of
from workflow.models.families.t5 import T5
from workflow.models.generation_settings import restricted

LEAVING = 1 / 16
"""The share of finished texts at which others replace them."""


def own_decoder(model: PreTrainedModel, decoding: Decoding, longest: int) -> type[Decoder] | None:
    """The decoder for `generate_rows`; None with beams, penalties or restrictions, or without one.

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
    writer = Writer(decoder, prompts, decoding)
    run = StepGraphs().run if decoder.model.device.type == "cuda" else run_each
    taken = 0
    while not stop.requested():
        more = prompts.ids[taken : taken + decoder.free]
        decoder.add(taken, more)
        taken += len(more)
        if not len(decoder.rows):
            break
        while True:
            shapes, steps = decoder.rows.ahead()
            run(writer.write, shapes, steps)
            going = decoder.rows.look()
            if going.sum() <= (1 - LEAVING) * len(going) or stop.requested():
                break
        tick(decoder.keep(going))
    return writer.written()


class Writer:
    """Writes a decoder's texts on its device, one token of each row at a time."""

    def __init__(self, decoder: Decoder, prompts: PromptBatch, decoding: Decoding):
        device, texts = decoder.model.device, len(prompts.ids) * decoding.n_samples
        self._decoder, self._decoding = decoder, decoding
        self.ends = end_ids(decoder.model)
        self._choose = token_choice(decoding, prompts.indexes, device)
        self._scored_ids = torch.tensor(prompts.scored_ids, dtype=torch.int64, device=device)
        # Of each text; rows whose text has ended write to the last.
        self._sequences = torch.full(
            (texts + 1, decoding.max_new_tokens), self.ends[0], device=device
        )
        self._nowhere = torch.tensor(texts, device=device)
        # Of each text: of the first position, then of the last.
        self._scores = torch.zeros(texts + 1, 2, len(self._scored_ids), device=device)

    def write(self, shapes: Shapes) -> None:
        """Write a token of each row's text that goes on: no value is read on the host."""
        of_all, decoding = self._decoder.rows, self._decoding
        rows = slice(shapes.rows)
        ids, going, positions = of_all.ids[rows], of_all.going[rows], of_all.positions[rows]
        texts = of_all.texts[rows]
        logits = self._decoder.logits(shapes)
        to = torch.where(going, texts, self._nowhere)
        self._scores[to, positions.clamp(max=1)] = logits.index_select(1, self._scored_ids)
        if decoding.min_new_tokens:
            too_short = positions < decoding.min_new_tokens
            for end in self.ends:
                logits[:, end].masked_fill_(too_short, -torch.inf)
        ids.copy_(self._choose(logits, texts, positions))
        self._sequences[to, positions] = ids
        going &= positions < decoding.max_new_tokens - 1
        for end in self.ends:
            going &= ids != end
        positions += going

    def written(self) -> GeneratedIds:
        """The texts so far."""
        samples = self._decoding.n_samples
        return GeneratedIds.of(self._sequences[:-1], set(self.ends), self._scores[:-1:samples, 0])
