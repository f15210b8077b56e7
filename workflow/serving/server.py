"""A server's model and engine, and the texts that a request waits for."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fastapi import Request

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
    """A served model, the engine that writes its texts, and what is counted."""

    model: ServedModel
    engine: TextEngine | None
    limits: Limits
    tally: Tally

    @classmethod
    def of(cls, model: ServedModel, limits: Limits) -> "Server":
        """A server of a model, with an engine if it writes texts."""
        engine = None
        if model.writes:
            most = Shapes(limits.rows, limits.tokens, limits.rows, limits.prompt)
            engine = TextEngine(model.model, model.job.tokenizer, most)
        return cls(model, engine, limits, Tally())

    def check_model(self, name: str | None) -> None:
        if name not in (None, self.model.name):
            raise Refused(404, f"the model {name!r} is not served here", "model", "model_not_found")

    def writer(self) -> TextEngine:
        if self.engine is None:
            raise Refused(400, "this model scores and writes no texts; use /score", code="no_texts")
        return self.engine

    def ids_of(self, prompt: Any) -> list[int]:
        try:
            str(prompt).encode()
            ids = self.model.prompt_ids(prompt)
        except UnicodeEncodeError:
            raise Refused(400, "the prompt is no valid Unicode", "prompt") from None
        except BadInput as error:
            raise Refused(400, error.problems[0].found, "messages") from None
        if len(ids) > self.limits.prompt:
            message = f"the prompt has {len(ids):,} tokens; at most {self.limits.prompt:,} fit"
            raise Refused(400, message, "prompt", "context_length_exceeded")
        return ids

    def texts(
        self, ids: Sequence[int], choosing: Choosing, tell: Callable[[Text], object]
    ) -> list[Text]:
        count = choosing.decoding.n_samples
        return [Text(ids, number, choosing, tell) for number in range(count)]

    def submit(self, texts: Sequence[Text]) -> None:
        engine = self.writer()
        if len(engine.waiting) + len(texts) > self.limits.queue:
            raise Refused(429, "too many requests are waiting; try again later", code="queue_full")
        engine.add(texts)

    def choosing(
        self, asked: Asked, count: int, logprobs: int | None = None, most: int | None = None
    ) -> Choosing:
        tokens = most or asked.max_tokens or min(DEFAULT_TOKENS, self.limits.tokens)
        if tokens > self.limits.tokens:
            message = f"{tokens:,} tokens are asked for; at most {self.limits.tokens:,} are written"
            raise Refused(400, message, "max_tokens", "max_tokens_exceeded")
        decoding = Decoding(
            max_new_tokens=tokens,
            temperature=asked.temperature,
            top_p=asked.top_p if asked.top_p < 1 else None,
            n_samples=count,
            stop=asked.stops,
            seed=asked.seed,
        )
        return Choosing(
            decoding, asked.presence_penalty, asked.frequency_penalty, self._bias(asked), logprobs
        )

    def _bias(self, asked: Asked) -> dict[int, float]:
        vocabulary, bias = self.model.vocabulary, {}
        for name, value in (asked.logit_bias or {}).items():
            if not name.isdecimal() or int(name) >= vocabulary:
                message = f"logit_bias: {name!r} is no token id below {vocabulary:,}"
                raise Refused(400, message, "logit_bias")
            bias[int(name)] = value
        return bias


class Written:
    """Texts that a request waits for; leaving the block cancels those that go on."""

    def __init__(self, server: Server):
        self._server, self._until = server, time.monotonic() + server.limits.seconds
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.texts: list[Text] = []

    def tell(self, text: Text) -> None:
        """Wake the request; called in the engine's thread."""
        self._loop.call_soon_threadsafe(self._changed.set)

    def submit(self, texts: Sequence[Text]) -> None:
        self._server.submit(texts)
        self.texts.extend(texts)

    def __enter__(self) -> "Written":
        return self

    def __exit__(self, *_: object) -> None:
        for text in self.texts:
            text.cancel()

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
