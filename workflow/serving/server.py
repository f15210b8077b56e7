"""A server's model and engine, and the texts that a request waits for."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from workflow.core.console import log
from workflow.core.errors import BadInput
from workflow.inference.decoding import Decoding
from workflow.inference.rows import Shapes
from workflow.serving.engine import TextEngine
from workflow.serving.limits import Limits, Refused
from workflow.serving.model import ServedModel
from workflow.serving.schemas import Asked
from workflow.serving.tally import Tally
from workflow.serving.texts import Choosing, Text

DEFAULT_TOKENS = 256
"""Most tokens of an answer whose request does not say."""


@dataclass
class Server:
    """Served models by name, the engine that writes their texts, and what is counted.

    Requests that name no model get the first one.
    """

    models: Mapping[str, ServedModel]
    engine: TextEngine | None
    limits: Limits
    tally: Tally

    @classmethod
    def of(cls, models: Sequence[ServedModel], limits: Limits) -> "Server":
        """A server of models, with an engine for those that write texts."""
        by_name = {model.name: model for model in models}
        writing = {name: model for name, model in by_name.items() if model.writes}
        most = Shapes(limits.rows, limits.tokens, limits.rows, limits.prompt)
        engine = TextEngine(writing, most, limits.log_prompts) if writing else None
        return cls(by_name, engine, limits, Tally())

    @property
    def name(self) -> str:
        """The name of the first model."""
        return next(iter(self.models))

    def model(self, name: str | None, writes: bool) -> ServedModel:
        """The model that a request names.

        Raises:
            Refused: it is not served, or does the other of writing and scoring.
        """
        name = self.name if name is None else name
        if name not in self.models:
            message = f"the model {name!r} is not served here; served: {', '.join(self.models)}"
            raise Refused(404, message, "model", "model_not_found")
        model = self.models[name]
        if writes and not model.writes:
            raise Refused(400, "this model scores and writes no texts; use /score", code="no_texts")
        if model.writes and not writes:
            raise Refused(400, "this model writes texts and gives no scores", code="no_scores")
        return model

    def ids_of(self, model: ServedModel, prompt: Any) -> list[int]:
        """The ids of a prompt; raises Refused if it is none, or too long."""
        try:
            str(prompt).encode()
            ids = model.prompt_ids(prompt)
        except UnicodeEncodeError:
            raise Refused(400, "the prompt is no valid Unicode", "prompt") from None
        except BadInput as error:
            raise Refused(400, error.problems[0].found, "messages") from None
        if len(ids) > self.limits.prompt:
            message = f"the prompt has {len(ids):,} tokens; at most {self.limits.prompt:,} fit"
            raise Refused(400, message, "prompt", "context_length_exceeded")
        return ids

    def submit(self, model: ServedModel, texts: Sequence[Text]) -> None:
        """Let the engine write texts; raises Refused if too many wait."""
        engine = self.engine
        assert engine is not None
        if engine.waiting + len(texts) > self.limits.queue:
            raise Refused(429, "too many requests are waiting; try again later", code="queue_full")
        engine.add(model.name, texts)

    def choosing(self, model: ServedModel, asked: Asked) -> Choosing:
        """How the texts of a request are chosen.

        Raises:
            Refused: something of it is out of range.
        """
        tokens = min(DEFAULT_TOKENS, self.limits.tokens)
        if asked.most_tokens is not None:
            tokens = asked.most_tokens
        if tokens > self.limits.tokens:
            message = f"{tokens:,} tokens are asked for; at most {self.limits.tokens:,} are written"
            raise Refused(400, message, "max_tokens", "max_tokens_exceeded")
        decoding = Decoding(
            max_new_tokens=tokens,
            temperature=asked.temperature,
            top_p=asked.top_p if asked.top_p < 1 else None,
            n_samples=asked.count,
            stop=asked.stops,
            seed=asked.seed,
            presence_penalty=asked.presence_penalty,
            frequency_penalty=asked.frequency_penalty,
            logit_bias=tuple(_bias(model.vocabulary, asked).items()),
        )
        return Choosing(decoding, asked.most_logprobs, asked.reads_prompt)

    def record(self, prompts: Sequence[Any], texts: Sequence[Text]) -> None:
        """Count the texts of a request, and log them if that is wanted."""
        self.tally.texts(texts)
        if self.limits.log_prompts:
            log.info("%s: %s", list(prompts), [text.written for text in texts])


def _bias(vocabulary: int, asked: Asked) -> dict[int, float]:
    """The bias of logits by token."""
    bias = {}
    for name, value in (asked.logit_bias or {}).items():
        if not name.isdecimal() or int(name) >= vocabulary:
            message = f"logit_bias: {name!r} is no token id below {vocabulary:,}"
            raise Refused(400, message, "logit_bias")
        bias[int(name)] = value
    return bias


class Written:
    """Texts that a request waits for; leaving the block cancels those that go on."""

    def __init__(self, server: Server, model: ServedModel):
        self._server, self._model = server, model
        self._until = time.monotonic() + server.limits.seconds
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.texts: list[Text] = []

    def tell(self, text: Text) -> None:
        """Wake the request; called in the engine's thread."""
        self._loop.call_soon_threadsafe(self._changed.set)

    def submit(
        self, prompts: Sequence[Sequence[int]], choosing: Choosing, streams: bool = False
    ) -> None:
        """Let texts of prompts be written; raises Refused if too many wait."""
        numbers = range(choosing.decoding.n_samples)
        texts = [
            Text(ids, number, choosing, self.tell, streams) for ids in prompts for number in numbers
        ]
        self._server.submit(self._model, texts)
        self.texts.extend(texts)

    def __enter__(self) -> "Written":
        return self

    def __exit__(self, *_: object) -> None:
        for text in self.texts:
            text.end()

    async def changes(self, request: Request) -> AsyncIterator[None]:
        """Yield after each token, until all texts have ended.

        Raises:
            Refused: the time is over, or the engine failed.
        """
        while not all(text.finish_reason for text in self.texts):
            left = self._until - time.monotonic()
            if left <= 0:
                raise Refused(504, "the request took too long", code="deadline")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(left, 1.0))
            self._changed.clear()
            if await request.is_disconnected():
                raise asyncio.CancelledError
            yield
        if any(text.error for text in self.texts):
            raise Refused(500, "the text could not be written", code="internal_error")

    async def done(self, request: Request) -> list[Text]:
        async for _ in self.changes(request):
            pass
        return self.texts
