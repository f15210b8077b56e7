"""Our own decoding loop: texts of T5's kind of model, those that end making room for others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from workflow.config.job import JobSpec
from workflow.distributed.stop import Stop
from workflow.inference.sampling import choice
from workflow.inference.t5_decoder import Decoder
from workflow.models.generation_settings import restricted
from workflow.models.state_dict import Model

LEAVING = 1 / 16
"""Share of the texts that are finished, at which they leave and others come."""


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
    """Whether `write_texts` can: a model of T5's kind, free to write, no beams or penalties."""
    settings = model.generation_config
    return (
        model.config.model_type in ("t5", "mt5")
        and spec.num_beams == 1
        and spec.repetition_penalty == 1
        and spec.no_repeat_ngram_size == 0
        and isinstance(settings.eos_token_id, int)
        and not restricted(settings)
    )


def write_texts(
    model: Model,
    prompts: Sequence[Any],
    indexes: Sequence[int],
    spec: JobSpec,
    words: list[int],
    stop: Stop,
    at_once: int,
    tick: Callable[[int], object],
) -> Written:
    """The texts of some prompts, token by token, until each has its end or is long enough.

    To be called without gradients, on a model in evaluation mode. Where texts have ended others
    take their places, so prompts had better be sorted by length.

    Args:
        prompts: ids of each.
        indexes: of the prompts' records, which decide what is drawn.
        words: ids whose logits at the first position are wanted.
        stop: where it is asked for, texts end early.
        at_once: prompts whose texts are written at the same time.
        tick: is told of how many more prompts all texts are written.
    """
    end, samples, most = model.generation_config.eos_token_id, spec.n_samples, spec.max_new_tokens
    decoder = Decoder(model, prompts, samples, most, min(at_once, len(prompts)))
    choose = choice(spec, indexes, model.device)
    written = torch.full((len(prompts) * samples, most), end, device=model.device)
    first = torch.zeros(len(prompts), len(words), device=model.device)
    ids = written.new_empty(0)
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
                first[texts[of_prompts] // samples] = logits[of_prompts][:, words]
                added = 0
            logits[:, end].masked_fill_(positions < spec.min_new_tokens, -torch.inf)
            chosen = choose(logits, texts, positions)
            ids = torch.where(going, chosen, written[texts, positions])  # else it is finished
            written[texts, positions] = ids
            going &= (ids != end) & (positions < most - 1)
            if int(going.sum()) <= (1 - LEAVING) * len(going) or stop.requested():
                break
        before, finished = decoder.keep(going)
        ids, going = ids[before], going[before]
        tick(finished)
    return Written.of(written, {end}, first)
