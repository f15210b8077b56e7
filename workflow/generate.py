"""Decoding: prompts to completions, with the yes and no logits of the first position."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.modeling_outputs import BaseModelOutput

from workflow.batching import batches_by_positions
from workflow.config import JobSpec
from workflow.console import progress_bar, warn_once
from workflow.share import Share
from workflow.stop import Stop
from workflow.tokens import CutRows
from workflow.weights import Model

POSITIONS_AT_ONCE = 16_384
"""Padded positions (source + new tokens, of every sample and beam) of an automatic batch."""


@dataclass(frozen=True)
class Generation:
    """One completion.

    Attributes:
        text: without special tokens, cut at the first stop string and stripped.
        full_text: with special tokens.
        scores: [no, yes] raw logits of the first position, where they are known.
        tokens: how many were generated, the end mark included.
        at_limit: whether `max_new_tokens` ended it.
    """

    text: str
    full_text: str
    scores: list[float] | None
    tokens: int
    at_limit: bool


def generate(
    model: Model, tokenizer: Any, sources: CutRows, spec: JobSpec, share: Share
) -> Iterator[tuple[int, list[Generation]]]:
    """`spec.n_samples` completions for each row of source ids in this process's share.

    The encoder runs once a prompt. Batches hold prompts of similar length. How they are cut changes
    neither greedy texts in float32 nor samples: what is drawn for a sample depends on the seed, the
    row and the sample's number alone.

    Yields:
        A row's index and its completions, in no order of the rows.
    """
    answer_ids = _answer_ids(tokenizer)
    lengths = sources.lengths
    new_tokens = np.full_like(lengths, spec.max_new_tokens)
    positions_at_once = POSITIONS_AT_ONCE // max(spec.n_samples, spec.num_beams)
    batches = batches_by_positions(
        lengths, new_tokens, positions_at_once, spec.eval_batch_size, share.world.size
    )
    costs = [int((lengths[batch] + new_tokens[batch]).sum()) for batch in batches]
    with progress_bar(len(sources), "generate") as bar, _only_ids_of(model):
        for batch, counts in share.of(batches, costs):
            rows = [sources[i].tolist() for i in batch]
            found = _generate_batch(model, tokenizer, rows, batch.tolist(), spec, answer_ids, share)
            if counts:
                yield from zip(batch.tolist(), found, strict=True)
            bar.update(len(batch) * share.world.size)


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


def _answer_ids(tokenizer: Any) -> list[int] | None:
    """The ids of the pieces `▁no` and `▁yes`; None, with a warning, where one is no piece."""
    ids = [tokenizer.convert_tokens_to_ids(piece) for piece in ("▁no", "▁yes")]
    if any(i is None or i == tokenizer.unk_token_id for i in ids):
        warn_once("the vocabulary has no ▁yes or no ▁no: scores are null")
        return None
    return ids


@torch.no_grad()
def _generate_batch(
    model: Model,
    tokenizer: Any,
    rows: list[list[int]],
    indexes: list[int],
    spec: JobSpec,
    answer_ids: list[int] | None,
    share: Share,
) -> list[list[Generation]]:
    padded = tokenizer.pad({"input_ids": rows}, padding_side="right", return_tensors="pt")
    padded = padded.to(model.device)
    mask = padded["attention_mask"]
    encoded = model.get_encoder()(input_ids=padded["input_ids"], attention_mask=mask)
    scores = _first_scores(model, encoded, mask, answer_ids)
    ids = _decode(model, encoded.last_hidden_state, mask, indexes, spec, share)
    end = tokenizer.eos_token_id
    generated = [_until_end(row, end) for row in ids[:, 1:].tolist()]
    texts = _texts(tokenizer, generated, skip_special_tokens=True)
    full_texts = _texts(tokenizer, generated, skip_special_tokens=False)
    answers = [
        Generation(
            text=cut_at_stop(texts[i], spec.stop).strip(),
            full_text=full_texts[i],
            scores=scores[i // spec.n_samples],
            tokens=len(generated[i]),
            at_limit=len(generated[i]) >= spec.max_new_tokens and generated[i][-1] != end,
        )
        for i in range(len(generated))
    ]
    return [answers[i : i + spec.n_samples] for i in range(0, len(answers), spec.n_samples)]


def _decode(
    model: Model,
    hidden: torch.Tensor,
    mask: torch.Tensor,
    indexes: list[int],
    spec: JobSpec,
    share: Share,
) -> torch.Tensor:
    """Token ids (rows × samples, 1 + new tokens), the start token first.

    Where the process is asked to stop they end early; then the share's results are never used.
    Where processes keep step, it goes on until none has more to write.
    """
    settings = GenerationConfig(
        max_new_tokens=spec.max_new_tokens,
        min_new_tokens=spec.min_new_tokens,
        do_sample=False,
        num_beams=spec.num_beams,
        num_return_sequences=spec.n_samples if spec.num_beams > 1 else 1,
        repetition_penalty=spec.repetition_penalty,
        no_repeat_ngram_size=spec.no_repeat_ngram_size,
    )
    processors = LogitsProcessorList()
    if not spec.greedy:
        hidden = hidden.repeat_interleave(spec.n_samples, dim=0)
        mask = mask.repeat_interleave(spec.n_samples, dim=0)
        processors.extend(_sampling(spec, indexes, model.device))
    encoded = BaseModelOutput(last_hidden_state=hidden)
    ids: torch.Tensor = model.generate(
        encoder_outputs=encoded,
        attention_mask=mask,
        generation_config=settings,
        logits_processor=processors,
        stopping_criteria=StoppingCriteriaList([EndEarly(share.stop)]),
        synced_gpus=share.in_step,
    )
    return ids


def _sampling(spec: JobSpec, indexes: list[int], device: torch.device) -> Iterator[LogitsProcessor]:
    """What makes greedy decoding a sampling one, in the order in which transformers warps."""
    yield TemperatureLogitsWarper(spec.temperature)
    if spec.top_k is not None:
        yield TopKLogitsWarper(spec.top_k)
    if spec.top_p is not None:
        yield TopPLogitsWarper(spec.top_p)
    uniforms = [
        np.random.default_rng([spec.seed, index, sample]).random(spec.max_new_tokens)
        for index in indexes
        for sample in range(spec.n_samples)
    ]
    yield DrawToken(torch.from_numpy(np.stack(uniforms)).to(device))


class DrawToken(LogitsProcessor):
    """Leaves one token of each row, drawn from the softmax of its scores.

    The token is the one at which the cumulated probability passes the row's uniform number of this
    position (inverse transform sampling), so that a row's text does not depend on its batch.
    """

    def __init__(self, uniforms: torch.Tensor):
        """Take uniform numbers in [0, 1) of shape (rows, positions), in float64."""
        self._uniforms = uniforms

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        cumulated = torch.softmax(scores.double(), dim=-1).cumsum(dim=-1)
        threshold = self._uniforms[:, input_ids.shape[1] - 1 : input_ids.shape[1]]
        threshold = threshold * cumulated[:, -1:]
        drawn = torch.searchsorted(cumulated, threshold, right=True)
        drawn = drawn.clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)


class EndEarly(StoppingCriteria):
    """Ends the generation of all rows when the process is asked to stop."""

    def __init__(self, stop: Stop):
        """Look at `stop` after every token."""
        self._stop = stop

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        ends = self._stop.requested() is not None
        return torch.full((len(input_ids),), ends, device=input_ids.device)


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


def _texts(tokenizer: Any, ids: list[list[int]], skip_special_tokens: bool) -> list[str]:
    decoded: list[str] = tokenizer.batch_decode(
        ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
    )
    return decoded


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stop strings that it holds."""
    found = [text.find(stop) for stop in stops if stop in text]
    return text[: min(found)] if found else text
