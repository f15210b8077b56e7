"""Answers in OpenAI's shape, whole or as a stream of chunks."""

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from workflow.data.text_ids import decode_texts
from workflow.serving.model import ServedModel
from workflow.serving.schemas import CompletionRequest
from workflow.serving.texts import Logprob, Text


@dataclass(frozen=True)
class Answer:
    """What all parts of an answer have.

    Attributes:
        kind: "text_completion" or "chat.completion".
        includes_usage: whether a stream ends with the tokens that were used.
    """

    kind: str
    id: str
    model: ServedModel
    includes_usage: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def new(cls, kind: str, prefix: str, model: ServedModel, includes_usage: bool) -> "Answer":
        """An answer with an id of its own."""
        return cls(kind, f"{prefix}-{uuid.uuid4().hex}", model, includes_usage)

    @property
    def is_chat(self) -> bool:
        return self.kind == "chat.completion"

    def of(self, choices: Sequence[Any], chunk: bool = False) -> dict[str, Any]:
        kind = f"{self.kind}.chunk" if chunk and self.is_chat else self.kind
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model.name}
        return head | {"choices": list(choices)}

    def shown(self, tokens: Sequence[int]) -> list[str]:
        """Each token as a text, with the space that it has after another one."""
        tokenizer: Any = self.model.job.tokenizer
        anchor = tokenizer("a", add_special_tokens=False)["input_ids"]
        rows = [anchor, *([*anchor, token] for token in tokens)]
        before, *texts = decode_texts(tokenizer, rows, skip_special_tokens=False)
        return [text.removeprefix(before) for text in texts]


def completion(
    answer: Answer,
    asked: CompletionRequest,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[Text],
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
        before = ""
        if asked.echo:
            ids = [prompt] if isinstance(prompt, list) else []
            (before,) = decode_texts(answer.model.job.tokenizer, ids, True) or (prompt,)
        for text in of_prompt[: asked.n]:
            logprobs = None
            if asked.logprobs is not None:
                of_all = [*text.prompt_logprobs, *_of_tokens(text)]
                logprobs = _logprobs(answer, of_all, bool(asked.logprobs), 0)
            choices.append(
                {"index": len(choices), "text": f"{before}{text.written}", "logprobs": logprobs,
                 "finish_reason": text.finish_reason}
            )  # fmt: skip
    return answer.of(choices) | {"usage": usage(prompts, texts)}


def chat_completion(
    answer: Answer, prompts: Sequence[Sequence[int]], texts: Sequence[Text]
) -> dict[str, Any]:
    """The answer to `POST /v1/chat/completions`."""
    choices = [
        {
            "index": number,
            "message": {"role": "assistant", "content": text.written},
            "logprobs": _chat_logprobs(answer, text, _of_tokens(text)),
            "finish_reason": text.finish_reason,
        }
        for number, text in enumerate(texts)
    ]
    return answer.of(choices) | {"usage": usage(prompts, texts)}


def usage(prompts: Sequence[Sequence[int]], texts: Sequence[Text]) -> dict[str, int]:
    """The tokens that a request used; end tokens are not counted."""
    read, written = sum(map(len, prompts)), sum(len(text.tokens) for text in texts)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def mean_logprob(text: Text) -> float:
    """The mean log probability of a text's tokens, with the end token."""
    return sum(one.value or 0.0 for one in text.logprobs) / max(1, len(text.logprobs))


def _of_tokens(text: Text) -> list[Logprob]:
    """The log probabilities of a text's tokens, without that of the end token."""
    return text.logprobs[: len(text.tokens)]


def _logprobs(
    answer: Answer, logprobs: Sequence[Logprob], with_top: bool, offset: int
) -> dict[str, Any]:
    """The log probabilities of tokens, of which the first is at an offset of the text."""
    shown, offsets = answer.shown([one.token for one in logprobs]), []
    for text in shown:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": shown,
        "token_logprobs": [one.value for one in logprobs],
        "top_logprobs": [_top(answer, one) for one in logprobs] if with_top else None,
        "text_offset": offsets,
    }


def _top(answer: Answer, one: Logprob) -> dict[str, float] | None:
    """The most likely tokens; of several that look alike the likeliest."""
    if one.value is None:
        return None
    shown = answer.shown([token for token, _ in one.top])
    likeliest_last = reversed([*zip(shown, one.top, strict=True)])
    return {text: value for text, (_, value) in likeliest_last}


def _chat_logprobs(
    answer: Answer, text: Text, logprobs: Sequence[Logprob]
) -> dict[str, Any] | None:
    """Some log probabilities of a text, if they were asked for."""
    if text.choosing.logprobs is None:
        return None

    def entries(pairs: Sequence[tuple[int, float | None]]) -> list[dict[str, Any]]:
        shown = answer.shown([token for token, _ in pairs])
        return [
            {"token": part, "logprob": value, "bytes": list(part.encode())}
            for part, (_, value) in zip(shown, pairs, strict=True)
        ]

    content = [
        entry | {"top_logprobs": entries(one.top)}
        for entry, one in zip(
            entries([(one.token, one.value) for one in logprobs]), logprobs, strict=True
        )
    ]
    return {"content": content, "refusal": None}


@dataclass
class _Sent:
    """What has been sent of a text: characters, log probabilities, and the offset of the next."""

    characters: int = 0
    logprobs: int = 0
    offset: int = 0


class Stream:
    """The chunks of an answer, as its texts grow."""

    def __init__(self, answer: Answer, texts: Sequence[Text], prompts: Sequence[Sequence[int]]):
        self._answer, self._texts, self._prompts = answer, texts, prompts
        self._sent = [_Sent() for _ in texts]

    def first(self) -> Iterator[dict[str, Any]]:
        """What comes before the first token."""
        if self._answer.is_chat:
            for number in range(len(self._texts)):
                delta = {"role": "assistant", "content": ""}
                yield self._chunk(number, {"delta": delta, "logprobs": None}, None)

    def new(self) -> Iterator[dict[str, Any]]:
        """What has been written since the last call."""
        for number, text in enumerate(self._texts):
            if len(text.written) > self._sent[number].characters:
                yield self._chunk(number, self._part(number), None)

    def last(self) -> Iterator[dict[str, Any]]:
        """How each text ended, with what is left of it, and what was used."""
        yield from self.new()
        for number, text in enumerate(self._texts):
            yield self._chunk(number, self._part(number), text.finish_reason)
        if self._answer.includes_usage:
            yield self._answer.of([], chunk=True) | {"usage": usage(self._prompts, self._texts)}

    def _part(self, number: int) -> dict[str, Any]:
        """What has not been sent of a text, whose thread may go on meanwhile."""
        text, sent = self._texts[number], self._sent[number]
        written, known = text.written, _of_tokens(text)
        grown, new = written[sent.characters :], known[sent.logprobs :]
        sent.characters, sent.logprobs = len(written), len(known)
        if self._answer.is_chat:
            delta = {"content": grown} if grown else {}
            logprobs = _chat_logprobs(self._answer, text, new)
            return {"delta": delta, "logprobs": logprobs if grown or new else None}
        most, of_part = text.choosing.logprobs, None
        if most is not None and (grown or new):
            of_part = _logprobs(self._answer, new, bool(most), sent.offset)
            sent.offset += sum(map(len, of_part["tokens"]))
        return {"text": grown, "logprobs": of_part}

    def _chunk(self, number: int, part: dict[str, Any], finish: str | None) -> dict[str, Any]:
        choice = {"index": number, **part, "finish_reason": finish}
        return self._answer.of([choice], chunk=True)
