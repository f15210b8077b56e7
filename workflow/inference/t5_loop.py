"""Own decoding loop for models of T5's kind: other texts replace finished ones."""

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from workflow.distributed.stop import Stop
from workflow.inference.decoding import Decoding, GeneratedIds, PromptBatch
from workflow.inference.sampling import token_choice
from workflow.inference.t5_decoder import T5Decoder
from workflow.models.families import family_of
from workflow.models.families.t5 import T5
from workflow.models.generation_settings import restricted

LEAVING = 1 / 16
"""The share of finished texts at which others replace them."""


def can_decode(model: PreTrainedModel, decoding: Decoding) -> bool:
    """Whether `t5_generate` applies: a model of T5's kind, no beams, penalties or restrictions."""
    settings = model.generation_config
    return (
        isinstance(family_of(model.config), T5)
        and decoding.num_beams == 1
        and decoding.repetition_penalty == 1
        and decoding.no_repeat_ngram_size == 0
        and isinstance(settings.eos_token_id, int)
        and not restricted(settings)
    )


def t5_generate(
    decoder: T5Decoder,
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
    model, samples, limit = decoder.model, decoding.n_samples, decoding.max_new_tokens
    end = model.generation_config.eos_token_id
    choose = token_choice(decoding, prompts.indexes, model.device)
    sequences = torch.full((len(prompts.ids) * samples, limit), end, device=model.device)
    scored_ids = list(prompts.scored_ids)
    first_logits = torch.zeros(len(prompts.ids), len(scored_ids), device=model.device)
    ids = sequences.new_empty(0)
    going = torch.empty(0, dtype=torch.bool, device=model.device)
    while not stop.requested():
        added = decoder.add()
        ids = torch.cat([ids, ids.new_full((added,), model.config.decoder_start_token_id)])
        going = torch.cat([going, going.new_ones(added)])
        if len(ids) == 0:
            break
        while True:
            logits, texts, positions = decoder.step(ids)
            if added:
                of_prompts = slice(len(ids) - added, None, samples)
                first_logits[texts[of_prompts] // samples] = logits[of_prompts][:, scored_ids]
                added = 0
            logits[:, end].masked_fill_(positions < decoding.min_new_tokens, -torch.inf)
            chosen = choose(logits, texts, positions)
            ids = torch.where(going, chosen, sequences[texts, positions])  # finished texts stay
            sequences[texts, positions] = ids
            going &= (ids != end) & (positions < limit - 1)
            if int(going.sum()) <= (1 - LEAVING) * len(going) or stop.requested():
                break
        before, finished = decoder.keep(going)
        ids, going = ids[before], going[before]
        tick(finished)
    return GeneratedIds.of(sequences, {end}, first_logits)
