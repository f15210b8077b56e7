"""How completions are generated, whoever wants them; prompts as ids, and completions as ids."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from workflow.config.job import JobSpec
from workflow.config.request import GREEDY_BELOW


@dataclass(frozen=True)
class Decoding:
    """How completions are generated; the words are those of `transformers.GenerationConfig`.

    Attributes:
        n_samples: completions of each prompt; with beams the best so many.
        stop: texts that end a completion.
        seed: of what is drawn.
        batch_size: prompts computed at once; None: by their tokens.
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

    @classmethod
    def of(cls, spec: JobSpec) -> "Decoding":
        """That of a job."""
        return cls(
            max_new_tokens=spec.max_new_tokens,
            min_new_tokens=spec.min_new_tokens,
            temperature=spec.temperature,
            top_k=spec.top_k,
            top_p=spec.top_p,
            n_samples=spec.n_samples,
            num_beams=spec.num_beams,
            repetition_penalty=spec.repetition_penalty,
            no_repeat_ngram_size=spec.no_repeat_ngram_size,
            stop=spec.stop,
            seed=spec.seed,
            batch_size=spec.eval_batch_size,
        )

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn: the likeliest token, or the best beam, is taken."""
        return self.temperature < GREEDY_BELOW


@dataclass(frozen=True)
class PromptBatch:
    """Prompts whose completions are generated together.

    Attributes:
        ids: of each prompt.
        indexes: of their records, which decide what is drawn.
        scored_ids: ids whose logits at the first position are wanted.
    """

    ids: Sequence[Sequence[int]]
    indexes: Sequence[int]
    scored_ids: Sequence[int] = ()


@dataclass(frozen=True)
class GeneratedIds:
    """What was generated for a batch of prompts.

    Attributes:
        sequences: ids of each completion, sample after sample, the end mark included.
        ended: which have one.
        first_logits: raw, of the scored ids at the first position, (prompts, ids), float32.
    """

    sequences: list[list[int]]
    ended: list[bool]
    first_logits: torch.Tensor

    @classmethod
    def of(cls, ids: torch.Tensor, ends: set[int], first_logits: torch.Tensor) -> "GeneratedIds":
        """Of rows of ids that may go on behind the first of `ends`."""
        rows = ids.tolist()
        lengths = [next((i for i, one in enumerate(row, 1) if one in ends), None) for row in rows]
        sequences = [row[:length] for row, length in zip(rows, lengths, strict=True)]
        return cls(sequences, [length is not None for length in lengths], first_logits)
