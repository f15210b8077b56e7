"""Decoding with `model.generate`: other families, beams, penalties, partitioned models."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from workflow.distributed.stop import Stop
from workflow.inference.beam_groups import search_groups
from workflow.inference.decoding import Decoding, GeneratedIds, PromptBatch, end_ids
from workflow.inference.eval_shard import EvalShard
from workflow.inference.sampling import adjusted, draw, uniform_numbers, warpers_of
from workflow.models.families import GeneratingFamily, family_of
from workflow.models.generation_settings import kept_settings


def hf_generate(
    model: PreTrainedModel, prompts: PromptBatch, decoding: Decoding, shard: EvalShard
) -> GeneratedIds:
    """Completions of prompts; in lockstep, it continues until all processes have theirs."""
    samples = 1 if decoding.greedy else decoding.n_samples
    family = family_of(model.config)
    if not isinstance(family, GeneratingFamily):
        raise TypeError(f"models of type {model.config.model_type} do not generate texts")
    start = family.start_generation(model, prompts.ids, samples)
    first_logits = start.first_logits[:, list(prompts.scored_ids)].float()
    ends = end_ids(model)
    generator: Any = model  # its type has no `generate`

    def search(
        penalties: Sequence[LogitsProcessor], records: Sequence[StoppingCriteria]
    ) -> GeneratedIds:
        logprobs = KeepLogprobs()
        own = _processors(prompts, decoding, start.skipped, model.device)
        kept = [logprobs] if decoding.best_of else []
        sequences = generator.generate(
            **{name: copy(given) for name, given in start.inputs.items()},  # some are changed
            generation_config=_generation_config(decoding),
            logits_processor=LogitsProcessorList([*kept, *own, *penalties]),
            stopping_criteria=StoppingCriteriaList([EndEarly(shard.stop), *records]),
            synced_gpus=shard.lockstep,
        )
        found = GeneratedIds.of(sequences[:, start.skipped :], {*ends}, first_logits)
        if not decoding.best_of:
            return found
        return replace(found, logprobs=logprobs.of(sequences, found.sequences))

    with _kept_settings_of(model):
        if decoding.num_beam_groups == 1:
            generated = search([], [])
        else:
            generated = search_groups(search, decoding, len(prompts.ids), start.skipped, ends)
    if model.generation_config.forced_eos_token_id is None:
        return generated
    # An end token at the limit may be forced: then the limit ended the text.
    ended = [len(sequence) < decoding.max_new_tokens for sequence in generated.sequences]
    return replace(generated, ended=ended)


def _processors(
    prompts: PromptBatch, decoding: Decoding, skipped: int, device: torch.device
) -> Iterator[LogitsProcessor]:
    rows = decoding.beams_of_group if decoding.greedy else decoding.n_samples  # of a prompt
    if prompts.trie is not None:
        yield Constrain(prompts, skipped, rows)
    if decoding.adjusts:
        yield Adjust(decoding, skipped)
    if not decoding.greedy:
        yield from warpers_of(decoding)
        yield DrawToken(uniform_numbers(decoding, prompts.indexes).to(device), skipped)


def _generation_config(decoding: Decoding) -> GenerationConfig:
    of_group = decoding.n_samples if decoding.num_beam_groups == 1 else decoding.beams_of_group
    return GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        min_new_tokens=decoding.min_new_tokens,
        do_sample=False,
        num_beams=decoding.beams_of_group,
        num_return_sequences=of_group if decoding.num_beams > 1 else 1,
        repetition_penalty=decoding.repetition_penalty,
        no_repeat_ngram_size=decoding.no_repeat_ngram_size,
    )


@contextmanager
def _kept_settings_of(model: PreTrainedModel) -> Iterator[None]:
    """Let `generate` use only those of the model's settings that are part of the model.

    It would fill in whatever the job leaves open: beams, penalties, length limits.
    """
    own = model.generation_config
    kept = kept_settings(own)
    if model.config.is_encoder_decoder:  # as in training
        kept["decoder_start_token_id"] = model.config.decoder_start_token_id
    else:
        kept.setdefault("pad_token_id", end_ids(model)[0])
    model.generation_config = GenerationConfig(**kept)
    try:
        yield
    finally:
        model.generation_config = own


class Adjust(LogitsProcessor):
    """Penalties and biases, of which `generate` has none."""

    def __init__(self, decoding: Decoding, skipped: int):
        self._decoding, self._skipped = decoding, skipped

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        written = input_ids[:, self._skipped :]
        positions = torch.full_like(input_ids[:, 0], written.shape[1])
        return adjusted(scores, written, positions, self._decoding)


class Constrain(LogitsProcessor):
    """Allows what a trie does.

    transformers' PrefixConstrainedLogitsProcessor sees no prompt's number where each has samples.
    """

    def __init__(self, prompts: PromptBatch, skipped: int, rows: int):
        self._prompts, self._skipped, self._rows = prompts, skipped, rows  # of a prompt

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        trie, roots = self._prompts.trie, self._prompts.roots
        assert trie is not None
        mask = torch.full_like(scores, -torch.inf)
        for row, ids in enumerate(input_ids[:, self._skipped :].tolist()):
            mask[row, trie.following(roots[row // self._rows], ids)] = 0
        return scores + mask


class KeepLogprobs(LogitsProcessor):
    """Keeps the log probabilities of tokens, each when it is read."""

    def __init__(self) -> None:
        self._last: torch.Tensor | None = None
        self._kept: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._keep(input_ids)
        self._last = scores.log_softmax(-1)
        return scores

    def _keep(self, input_ids: torch.Tensor) -> None:
        if self._last is not None:
            self._kept.append(self._last.gather(1, input_ids[:, -1:]))

    def of(self, input_ids: torch.Tensor, sequences: list[list[int]]) -> list[float]:
        """The sum of each sequence's log probabilities."""
        self._keep(input_ids)
        by_row = torch.cat(self._kept, 1).tolist()
        return [sum(row[: len(ids)]) for row, ids in zip(by_row, sequences, strict=True)]


class DrawToken(LogitsProcessor):
    """Turns greedy decoding into sampling: keeps only the token of each row that `draw` gives."""

    def __init__(self, uniforms: torch.Tensor, skipped: int):
        self._uniforms = uniforms  # in [0, 1), float64 (rows, positions)
        self._skipped = skipped

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        drawn = draw(scores, self._uniforms[:, input_ids.shape[1] - self._skipped])
        return torch.full_like(scores, -torch.inf).scatter(1, drawn[:, None], 0.0)


class EndEarly(StoppingCriteria):
    """Ends the generation of all rows on a request to stop."""

    def __init__(self, stop: Stop):
        self._stop = stop

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        ends = self._stop.requested() is not None
        return torch.full((len(input_ids),), ends, device=input_ids.device)
