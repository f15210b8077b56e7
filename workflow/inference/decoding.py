"""Decoding settings, prompts as ids, and completions as ids."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from workflow.config.job import JobSpec
from workflow.config.request import GREEDY_BELOW
from workflow.inference.choices import Trie, read_choices


@dataclass(frozen=True)
class Decoding:
    """Decoding settings, named as in `transformers.GenerationConfig`.

    Attributes:
        n_samples: completions per prompt; with beams, the best ones.
        num_beam_groups, diversity_penalty: groups of beams, and what is subtracted from a token's
            log probability for each beam of an earlier group that took it at the same step.
        stop: texts that end a completion.
        seed: of sampling.
        batch_size: prompts per batch; None: by their tokens.
        presence_penalty, frequency_penalty: subtracted from the logit of each token that the text
            has already, once and for each time, as in OpenAI's API.
        logit_bias: what is added to the logits of some tokens, by id.
        best_of: completions to draw, of which those `n_samples` are kept whose tokens have the
            highest mean log probability; None for no more than these.
        choices: the only texts that may be written; () for any.
    """

    max_new_tokens: int
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    n_samples: int = 1
    num_beams: int = 1
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    stop: tuple[str, ...] = ()
    seed: int = 0
    batch_size: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    best_of: int | None = None
    choices: tuple[str, ...] = ()
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0

    @classmethod
    def of(cls, spec: JobSpec) -> "Decoding":
        """The settings of a job."""
        return cls(
            max_new_tokens=spec.max_new_tokens,
            min_new_tokens=spec.min_new_tokens,
            temperature=spec.temperature,
            top_k=spec.top_k,
            top_p=spec.top_p,
            n_samples=spec.n_samples,
            num_beams=spec.num_beams,
            num_beam_groups=spec.num_beam_groups,
            diversity_penalty=spec.diversity_penalty,
            repetition_penalty=spec.repetition_penalty,
            no_repeat_ngram_size=spec.no_repeat_ngram_size,
            stop=spec.stop,
            seed=spec.seed,
            batch_size=spec.eval_batch_size,
            min_p=spec.min_p,
            typical_p=spec.typical_p,
            presence_penalty=spec.presence_penalty,
            frequency_penalty=spec.frequency_penalty,
            best_of=spec.best_of,
            choices=read_choices(spec.choices) if spec.choices else (),
            logit_bias=tuple((int(name), bias) for name, bias in (spec.logit_bias or {}).items()),
        )

    def __str__(self) -> str:
        how = f"greedy decoding (temperature below {GREEDY_BELOW})"
        if self.num_beams > 1:
            how = f"beam search with {self.num_beams} beams"
            how += f" in {self.num_beam_groups} groups" * (self.num_beam_groups > 1)
        if not self.greedy:
            samples = f"{self.n_samples} sample{'s' * (self.n_samples > 1)} per prompt"
            samples += f", the best of {self.best_of}," * (self.best_of is not None)
            how = f"{samples} at temperature {self.temperature:g}"
        what = f"one of {len(self.choices):,} texts" if self.choices else ""
        return ", ".join(filter(None, (what, f"at most {self.max_new_tokens} tokens", how)))

    @property
    def greedy(self) -> bool:
        """Whether decoding does not sample: greedy decoding or beam search."""
        return self.temperature < GREEDY_BELOW

    @property
    def beams_of_group(self) -> int:
        """Beams of each group; of all, if there is only one."""
        return self.num_beams // self.num_beam_groups

    @property
    def adjusts(self) -> bool:
        """Whether penalties or biases change the logits."""
        return bool(self.presence_penalty or self.frequency_penalty or self.logit_bias)


@dataclass(frozen=True)
class PromptBatch:
    """Prompts whose completions are generated together.

    Attributes:
        ids: of each prompt.
        indexes: of their records, which seed sampling.
        scored_ids: ids whose logits at the first position are returned.
        trie: of the texts that may be written, if not any.
        roots: where each prompt's completions begin in it.
    """

    ids: Sequence[Sequence[int]]
    indexes: Sequence[int]
    scored_ids: Sequence[int] = ()
    trie: Trie | None = None
    roots: Sequence[int] = ()


def end_ids(model: PreTrainedModel) -> list[int]:
    """The tokens at which generation stops."""
    own = model.generation_config.eos_token_id
    return own if isinstance(own, list) else [own]


@dataclass(frozen=True)
class GeneratedIds:
    """The generated ids of a batch of prompts.

    Attributes:
        sequences: ids of each completion, sample after sample, including the end token.
        ended: whether each has an end token.
        first_logits: raw, of the scored ids at the first position, (prompts, ids), float32.
        logprobs: the sum of each completion's log probabilities, for `best_of`.
    """

    sequences: list[list[int]]
    ended: list[bool]
    first_logits: torch.Tensor
    logprobs: list[float] | None = None

    def best(self, kept: int) -> "GeneratedIds":
        """Of each prompt the completions with the highest mean log probability of a token."""
        if self.logprobs is None:
            return self
        means = [total / len(ids) for total, ids in zip(self.logprobs, self.sequences, strict=True)]
        drawn, chosen = len(means) // len(self.first_logits), []
        for first in range(0, len(means), drawn):
            of_prompt = range(first, first + drawn)
            chosen += sorted(of_prompt, key=means.__getitem__, reverse=True)[:kept]
        sequences, ended = self.sequences, self.ended
        return GeneratedIds(
            [sequences[i] for i in chosen], [ended[i] for i in chosen], self.first_logits
        )

    @classmethod
    def of(cls, ids: torch.Tensor, ends: set[int], first_logits: torch.Tensor) -> "GeneratedIds":
        """Cut rows of ids behind the first of `ends`."""
        rows = ids.tolist()
        lengths = [next((i for i, one in enumerate(row, 1) if one in ends), None) for row in rows]
        sequences = [row[:length] for row, length in zip(rows, lengths, strict=True)]
        return cls(sequences, [length is not None for length in lengths], first_logits)
