"""Decoding: prompts to completions, with the yes and no logits of the first position."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from workflow.batching import batches_by_positions, seed_from
from workflow.config import JobSpec
from workflow.console import progress_bar, warn_once
from workflow.models import Model

POSITIONS_AT_ONCE = 16_384
"""Padded positions (source + new tokens, of every sample) of an automatic batch."""


@dataclass(frozen=True)
class Generation:
    """One completion: without special tokens and stripped, with them, and [no, yes] raw logits."""

    text: str
    full_text: str
    scores: list[float] | None


def generate(
    model: Model, tokenizer: Any, sources: Sequence[Any], spec: JobSpec, seed: Iterable[int]
) -> list[list[Generation]]:
    """`spec.n_samples` completions for each row of source ids, in the order given.

    The encoder runs once a prompt. Batches hold prompts of similar length; greedy texts in
    float32 do not depend on how they are cut.
    """
    torch.manual_seed(seed_from(*seed))
    settings = _generation_config(spec)
    answer_ids = _answer_ids(tokenizer)
    lengths = np.array([len(row) for row in sources])
    new_tokens = np.full_like(lengths, settings.max_new_tokens)
    positions_at_once = POSITIONS_AT_ONCE // spec.n_samples
    answers: list[list[Generation]] = [[] for _ in sources]
    batches = batches_by_positions(lengths, new_tokens, positions_at_once, spec.eval_batch_size)
    with (
        progress_bar(len(sources), "generate") as bar,
        torch.no_grad(),
        _only_ids_of(model),
    ):
        for batch in batches:
            found = _generate_batch(
                model, tokenizer, [sources[i] for i in batch], settings, answer_ids
            )
            for index, generations in zip(batch, found, strict=True):
                answers[index] = generations
            bar.update(len(batch))
    return answers


@contextmanager
def _only_ids_of(model: Model) -> Iterator[None]:
    """Let `generate` take nothing but token ids from the model's own generation settings.

    It fills in whatever the job leaves open: beams, penalties, length limits, forced tokens.
    """
    own = model.generation_config
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    ids = {name: getattr(own, name) for name in (*names, "forced_bos_token_id")}
    model.generation_config = GenerationConfig(**ids)
    try:
        yield
    finally:
        model.generation_config = own


def _generation_config(spec: JobSpec) -> GenerationConfig:
    sampling = {} if spec.greedy else {"temperature": spec.temperature}
    return GenerationConfig(
        max_new_tokens=spec.max_new_tokens,
        do_sample=not spec.greedy,
        top_k=0,
        num_beams=1,
        num_return_sequences=spec.n_samples,
        **sampling,
    )


def _answer_ids(tokenizer: Any) -> list[int] | None:
    """The ids of the pieces `▁no` and `▁yes`; None, with a warning, where one is no piece."""
    ids = [tokenizer.convert_tokens_to_ids(piece) for piece in ("▁no", "▁yes")]
    if any(i is None or i == tokenizer.unk_token_id for i in ids):
        warn_once("the vocabulary has no ▁yes or no ▁no: scores are null")
        return None
    return ids


def _generate_batch(
    model: Model,
    tokenizer: Any,
    sources: Sequence[Any],
    settings: GenerationConfig,
    answer_ids: list[int] | None,
) -> list[list[Generation]]:
    padded = tokenizer.pad(
        {"input_ids": [row.tolist() for row in sources]}, padding_side="right", return_tensors="pt"
    ).to(model.device)
    mask = padded["attention_mask"]
    encoded = model.get_encoder()(input_ids=padded["input_ids"], attention_mask=mask)
    scores = _first_scores(model, encoded, mask, answer_ids)
    ids = model.generate(encoder_outputs=encoded, attention_mask=mask, generation_config=settings)
    end = tokenizer.eos_token_id
    generated = [_until_end(row, end) for row in ids[:, 1:].tolist()]
    texts = tokenizer.batch_decode(
        generated, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    full_texts = tokenizer.batch_decode(
        generated, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    samples = len(generated) // len(sources)
    return [
        [
            Generation(texts[i].strip(), full_texts[i], scores[row])
            for i in range(row * samples, (row + 1) * samples)
        ]
        for row in range(len(sources))
    ]


def _first_scores(
    model: Model, encoded: Any, mask: torch.Tensor, answer_ids: list[int] | None
) -> list[list[float] | None]:
    """Raw logits of `answer_ids` at the first generated position, a pair a row.

    None stands where they are unknown or not finite, which JSON could not hold.
    """
    if answer_ids is None:
        return [None] * len(mask)
    start = torch.full((len(mask), 1), model.config.decoder_start_token_id, device=model.device)
    output = model(
        encoder_outputs=encoded, attention_mask=mask, decoder_input_ids=start, use_cache=False
    )
    logits = output.logits[:, 0, answer_ids].float()
    finite = torch.isfinite(logits).all(dim=-1).tolist()
    return [pair if known else None for pair, known in zip(logits.tolist(), finite, strict=True)]


def _until_end(ids: list[int], end: int | None) -> list[int]:
    """The ids up to the first end of text, that included; what follows is padding."""
    return ids[: ids.index(end) + 1] if end in ids else ids
