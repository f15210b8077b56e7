"""Answers in OpenAI's shape, whole or as a stream of chunks."""

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from workflow.data.text_ids import decode_texts
from workflow.serving.schemas import CompletionRequest
from workflow.serving.texts import Logprob, Text


@dataclass(frozen=True)
class Answer:
    """What all parts of an answer have.

    Attributes:
        kind: "text_completion" or "chat.completion".
        counts: whether a stream ends with the tokens that were used.
    """

    kind: str
    id: str
    model: str
    counts: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def new(cls, kind: str, prefix: str, model: str, counts: bool) -> "Answer":
        """An answer with an id of its own."""
        return cls(kind, f"{prefix}-{uuid.uuid4().hex}", model, counts)

    @property
    def is_chat(self) -> bool:
        return self.kind == "chat.completion"

    def of(self, choices: Sequence[Any], chunk: bool = False) -> dict[str, Any]:
        kind = f"{self.kind}.chunk" if chunk and self.is_chat else self.kind
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return head | {"choices": list(choices)}


def completion(
    answer: Answer,
    asked: CompletionRequest,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[Text],
    tokenizer: Any,
) -> dict[str, Any]:
    """The answer to `POST /v1/completions`: of each prompt the best n texts.

    Args:
        texts: of all prompts, prompt after prompt.
    """
    choices: list[Any] = []
    count = len(texts) // len(prompts)
    for number, prompt in enumerate(asked.prompts):
        of_prompt = list(texts[number * count : (number + 1) * count])
        if count > asked.n:
            of_prompt.sort(key=mean_logprob, reverse=True)
        for text in of_prompt[: asked.n]:
            shown = f"{prompt}{text.written}" if asked.echo else text.written
            logprobs = None
            if asked.logprobs is not None:
                of_all = [*text.prompt_logprobs, *text.logprobs]
                logprobs = _logprobs(of_all, tokenizer, asked.logprobs)
            choices.append(
                {"index": len(choices), "text": shown, "logprobs": logprobs,
                 "finish_reason": text.finish_reason}
            )  # fmt: skip
    return answer.of(choices) | {"usage": usage(prompts, texts)}


def chat_completion(
    answer: Answer, prompt: Sequence[int], texts: Sequence[Text], tokenizer: Any
) -> dict[str, Any]:
    """The answer to `POST /v1/chat/completions`."""
    choices = [
        {
            "index": number,
            "message": {"role": "assistant", "content": text.written},
            "logprobs": _chat_logprobs(text, 0, tokenizer),
            "finish_reason": text.finish_reason,
        }
        for number, text in enumerate(texts)
    ]
    return answer.of(choices) | {"usage": usage([prompt], texts)}


def usage(prompts: Sequence[Sequence[int]], texts: Sequence[Text]) -> dict[str, int]:
    """The tokens that a request used; end tokens are not counted."""
    read, written = sum(map(len, prompts)), sum(len(text.tokens) for text in texts)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def mean_logprob(text: Text) -> float:
    """The mean log probability of a text's tokens."""
    return sum(one.value or 0.0 for one in text.logprobs) / max(1, len(text.logprobs))


def _shown(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
    return decode_texts(tokenizer, [[token] for token in tokens], skip_special_tokens=False)


def _logprobs(logprobs: Sequence[Logprob], tokenizer: Any, most: int) -> dict[str, Any]:
    shown = _shown(tokenizer, [one.token for one in logprobs])
    offsets, at = [], 0
    for text in shown:
        offsets.append(at)
        at += len(text)
    top = [
        None
        if one.value is None
        else dict(
            zip(_shown(tokenizer, [t for t, _ in one.top]), [v for _, v in one.top], strict=True)
        )
        for one in logprobs
    ]
    return {
        "tokens": shown,
        "token_logprobs": [one.value for one in logprobs],
        "top_logprobs": top if most else None,
        "text_offset": offsets,
    }


def _chat_logprobs(text: Text, first: int, tokenizer: Any) -> dict[str, Any] | None:
    """The log probabilities of the tokens from `first` on."""
    if text.choosing.logprobs is None:
        return None

    def entry(token: int, value: float | None) -> dict[str, Any]:
        (shown,) = _shown(tokenizer, [token])
        return {"token": shown, "logprob": value, "bytes": list(shown.encode())}

    content = [
        entry(one.token, one.value) | {"top_logprobs": [entry(*pair) for pair in one.top]}
        for one in text.logprobs[first:]
    ]
    return {"content": content, "refusal": None}


class Stream:
    """The chunks of an answer, as its texts grow."""

    def __init__(
        self, answer: Answer, texts: Sequence[Text], prompt: Sequence[int], tokenizer: Any
    ):
        self._answer, self._texts, self._prompt = answer, texts, prompt
        self._tokenizer = tokenizer
        self._sent = [0] * len(texts)
        self._told = [0] * len(texts)

    def first(self) -> Iterator[dict[str, Any]]:
        """What comes before the first token."""
        if self._answer.is_chat:
            for number in range(len(self._texts)):
                delta = {"role": "assistant", "content": ""}
                yield self._chunk(number, {"delta": delta, "logprobs": None}, None)

    def new(self) -> Iterator[dict[str, Any]]:
        """What has been written since the last call."""
        for number, text in enumerate(self._texts):
            grown, told = text.written, len(text.logprobs)
            if len(grown) > self._sent[number]:
                part = self._part(number, grown[self._sent[number] :])
                self._sent[number], self._told[number] = len(grown), told
                yield self._chunk(number, part, None)

    def last(self) -> Iterator[dict[str, Any]]:
        """How each text ended, and what was used."""
        yield from self.new()
        for number, text in enumerate(self._texts):
            part: dict[str, Any] = {"delta": {}} if self._answer.is_chat else {"text": ""}
            yield self._chunk(number, part | {"logprobs": None}, text.finish_reason)
        if self._answer.counts:
            yield self._answer.of([], chunk=True) | {"usage": usage([self._prompt], self._texts)}

    def _part(self, number: int, grown: str) -> dict[str, Any]:
        text, first = self._texts[number], self._told[number]
        if self._answer.is_chat:
            logprobs = _chat_logprobs(text, first, self._tokenizer)
            return {"delta": {"content": grown}, "logprobs": logprobs}
        most = text.choosing.logprobs
        of_part = None
        if most is not None:
            of_part = _logprobs(text.logprobs[first:], self._tokenizer, most)
        return {"text": grown, "logprobs": of_part}

    def _chunk(self, number: int, part: dict[str, Any], finish: str | None) -> dict[str, Any]:
        choice = {"index": number, **part, "finish_reason": finish}
        return self._answer.of([choice], chunk=True)
