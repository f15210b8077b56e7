"""Decoding: prompts to completions, with the yes and no logits of the first position."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from workflow.batching import batches_by_positions
from workflow.config import JobSpec
from workflow.console import log, progress_bar
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
    positions = (lengths + settings.max_new_tokens) * spec.n_samples
    answers: list[list[Generation]] = [[] for _ in sources]
    with progress_bar(len(sources), "generate") as bar, torch.no_grad():
        for batch in batches_by_positions(positions, POSITIONS_AT_ONCE, spec.eval_batch_size):
            found = _generate_batch(
                model, tokenizer, [sources[i] for i in batch], settings, answer_ids
            )
            for index, generations in zip(batch, found, strict=True):
                answers[index] = generations
            bar.update(len(batch))
    return answers


def seed_from(*parts: int) -> int:
    """One 64-bit seed from several numbers, such that near numbers give unrelated seeds."""
    return int(np.random.SeedSequence(list(parts)).generate_state(1, np.uint64)[0])


def _generation_config(spec: JobSpec) -> GenerationConfig:
    """All that decides the text is said here: what is left out would be taken from the model."""
    sampling = {} if spec.greedy else {"temperature": spec.temperature}
    return GenerationConfig(
        max_new_tokens=spec.max_new_tokens,
        min_length=0,
        do_sample=not spec.greedy,
        top_k=0,
        top_p=1.0,
        num_beams=1,
        num_return_sequences=spec.n_samples,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        encoder_no_repeat_ngram_size=0,
        length_penalty=1.0,
        **sampling,
    )


def _answer_ids(tokenizer: Any) -> list[int] | None:
    """The ids of the pieces `▁no` and `▁yes`; None, with a warning, where one is no piece."""
    ids = [tokenizer.convert_tokens_to_ids(piece) for piece in ("▁no", "▁yes")]
    if any(i is None or i == tokenizer.unk_token_id for i in ids):
        log.warning("the vocabulary has no ▁yes or no ▁no: scores are null")
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
    texts = tokenizer.batch_decode(generated, skip_special_tokens=True)
    full_texts = tokenizer.batch_decode(generated, skip_special_tokens=False)
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
    """Raw logits of `answer_ids` at the first generated position, a pair a row."""
    if answer_ids is None:
        return [None] * len(mask)
    start = torch.full((len(mask), 1), model.config.decoder_start_token_id, device=model.device)
    output = model(
        encoder_outputs=encoded, attention_mask=mask, decoder_input_ids=start, use_cache=False
    )
    pairs: list[list[float] | None] = output.logits[:, 0, answer_ids].float().tolist()
    return pairs


def _until_end(ids: list[int], end: int | None) -> list[int]:
    """The ids up to the first end of text, that included; what follows is padding."""
    return ids[: ids.index(end) + 1] if end in ids else ids
