"""The texts of requests, token by token: how each is chosen, and when it ends."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from workflow.data.text_ids import decode_texts
from workflow.inference.decoding import Decoding
from workflow.inference.sampling import adjusted, argmax, draw, uniform_row, warpers_of

LEAST = -9999.0
"""The log probability of what cannot be, as in OpenAI's API."""


@dataclass(frozen=True)
class Choosing:
    """How the tokens of a text are chosen, and what is reported of them.

    Attributes:
        decoding: its seed, with the number of the text among those of its request, decides samples.
        logprobs: how many of the most likely tokens to report; None for none.
        reads_prompt: whether to report those of the prompt's tokens too.
    """

    decoding: Decoding
    logprobs: int | None = None
    reads_prompt: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether each token is the most likely one."""
        return self.decoding.greedy and not self.decoding.adjusts


@dataclass(frozen=True)
class Logprob:
    """The log probability of a token, and of the most likely ones at its position.

    The first token of a prompt has none.
    """

    token: int
    value: float | None
    top: tuple[tuple[int, float], ...]


@dataclass(eq=False)
class Text:
    """A text that is being written.

    Attributes:
        prompt: its ids.
        number: among the texts of its request.
        streams: whether what is written is read before the end.
        tokens: so far, without the end token.
        prompt_logprobs: of the prompt's tokens, if asked for.
        written: the text so far that cannot change any more; if nobody reads it before, at the end.
        finish_reason: "stop" at an end token or stop string, "length" at the limit, "cancelled" if
            nobody waits for it; None while it goes on.
        tell: called at the end, and after each token if `streams`, in the engine's thread.
    """

    prompt: Sequence[int]
    number: int
    choosing: Choosing
    tell: Callable[[], object]
    streams: bool = False
    tokens: list[int] = field(default_factory=list)
    prompt_logprobs: list[Logprob] = field(default_factory=list)
    logprobs: list[Logprob] = field(default_factory=list)
    written: str = ""
    finish_reason: str | None = None
    error: Exception | None = None

    def __post_init__(self) -> None:
        decoding = self.choosing.decoding
        self._uniforms = None if decoding.greedy else uniform_row(decoding, 0, self.number)
        self._warpers = [] if decoding.greedy else list(warpers_of(decoding))

    def end(self, reason: str = "cancelled") -> None:
        """End the text: its place is free from the next token on."""
        self.finish_reason = self.finish_reason or reason

    def choose(self, logits: torch.Tensor) -> int:
        """The next token, from its logits (vocabulary,) in float32."""
        scores: Any = logits[None]
        if self.choosing.decoding.adjusts:
            written = torch.tensor([self.tokens], dtype=torch.int64, device=logits.device)
            positions = torch.tensor([len(self.tokens)], device=logits.device)
            scores = adjusted(scores, written, positions, self.choosing.decoding)
        if self._uniforms is None:
            return int(argmax(scores)[0])
        for warp in self._warpers:
            scores = warp(None, scores)
        return int(draw(scores, self._uniforms[len(self.tokens)][None].to(scores.device))[0])

    def read(self, logits: torch.Tensor) -> None:
        """Keep the log probabilities of the prompt, from its logits (ids, vocabulary)."""
        count, (first, *others) = self.choosing.logprobs or 0, self.prompt
        read = [_logprob(one, row, count) for one, row in zip(others, logits, strict=False)]
        known = [Logprob(first, None, ()), *read]
        self.prompt_logprobs = [one for one in known if one.token >= 0]  # others are virtual

    def is_sibling_of(self, other: "Text") -> bool:
        """Whether both are texts of the same prompt in a request."""
        return self.prompt is other.prompt and self.choosing is other.choosing

    def add(
        self, token: int, logits: torch.Tensor | None, ends: Sequence[int], tokenizer: Any
    ) -> None:
        """Append a token, and find out whether the text ends with it.

        Args:
            logits: (vocabulary,), for log probabilities.
        """
        choosing, decoding = self.choosing, self.choosing.decoding
        if choosing.logprobs is not None and logits is not None:
            self.logprobs.append(_logprob(token, logits, choosing.logprobs))
        reason = "stop" if token in ends else None
        if reason is None:
            self.tokens.append(token)
            if len(self.tokens) >= decoding.max_new_tokens:
                reason = "length"
        if reason or self.streams or decoding.stop:
            self._write(tokenizer, reason)
        if reason or self.streams or self.finish_reason:
            self.tell()

    def _write(self, tokenizer: Any, reason: str | None) -> None:
        """Extend what is written, up to a stop string, or what may become one."""
        (text,) = decode_texts(tokenizer, [self.tokens], skip_special_tokens=True)
        stops = self.choosing.decoding.stop
        found = [text.find(stop) for stop in stops if stop in text]
        if found:
            text, reason = text[: min(found)], "stop"
        elif reason is None:
            text = text.rstrip("\ufffd")  # the start of a character
            held = max((_overlap(text, stop) for stop in stops), default=0)
            text = text[: len(text) - held]
        # A later token may change how an earlier one is shown, which a stream cannot take back.
        if not self.streams or text.startswith(self.written):
            self.written = text
        # Last: another thread reads the text as soon as it has ended.
        self.finish_reason = self.finish_reason or reason


def _overlap(text: str, stop: str) -> int:
    """The length of the longest start of a stop string that a text ends with."""
    sizes = range(min(len(text), len(stop) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)


def _logprob(token: int, logits: torch.Tensor, count: int) -> Logprob:
    logprobs = logits.log_softmax(-1).nan_to_num(LEAST, neginf=LEAST)  # JSON has neither
    values, tokens = logprobs.topk(count)
    top = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
    return Logprob(token, float(logprobs[token]), top)
