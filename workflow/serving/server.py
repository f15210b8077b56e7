"""A server's models and engine, and the texts that a request waits for."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from workflow.core.console import log
from workflow.core.errors import BadInput
from workflow.data.records import Record
from workflow.inference.decoding import Decoding
from workflow.inference.rows import Shapes
from workflow.serving.engine import TextEngine
from workflow.serving.limits import GONE, Limits, Refused
from workflow.serving.model import ServedModel
from workflow.serving.schemas import Asked
from workflow.serving.tally import Tally
from workflow.serving.texts import Choosing, Text

DEFAULT_TOKENS = 256
"""Most tokens of an answer whose request does not say."""


@dataclass
class Server:
    """Served models by name, the engine that writes their texts, and what is counted.

    Requests that name no model get the first one. Used by the event loop alone.

    Attributes:
        texts, scorings: how many texts and scorings requests wait for.
    """

    models: Mapping[str, ServedModel]
    engine: TextEngine | None
    limits: Limits
    tally: Tally
    texts: int = 0
    scorings: int = 0

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

    async def pending(
        self, model: ServedModel, prompts: Sequence[Any], asked: Asked, streams: bool = False
    ) -> "Pending":
        """The texts of a request, which are written once its block is entered.

        Raises:
            Refused: they are not what this server or the model writes, or too many wait.
        """
        self.check_places(len(prompts) * asked.count)
        if asked.most_logprobs is not None and not self.writer().decodes(model.name):
            raise Refused(400, "this model is served without log probabilities", "logprobs")
        # Not in the event loop: a prompt may have megabytes.
        ids = await asyncio.to_thread(lambda: [self._ids_of(model, prompt) for prompt in prompts])
        choosing = self._choosing(model, asked, max(map(len, ids)))
        return Pending(self, model, [*zip(prompts, ids, strict=True)], choosing, streams)

    def check_places(self, count: int) -> None:
        """Raise Refused if there are no places for so many more texts."""
        places = self.limits.rows + self.limits.queue
        if count > places:
            raise Refused(400, f"{count:,} texts are asked for; at most {places:,} at once")
        if self.texts + count > places:
            raise Refused(429, "too many requests are waiting; try again later", code="queue_full")

    def writer(self) -> TextEngine:
        """The engine; raises Refused if it has failed."""
        if self.engine is None or not self.engine.alive:
            raise Refused(503, "the server writes no texts any more", code="engine_failed")
        return self.engine

    def _ids_of(self, model: ServedModel, prompt: Any) -> list[int]:
        """The ids of a prompt; raises Refused if it is none, or too long."""
        try:
            str(prompt).encode()
            ids = model.prompt_ids(prompt)
        except UnicodeEncodeError:
            raise Refused(400, "the prompt is no valid Unicode", "prompt") from None
        except BadInput as error:
            raise Refused(400, error.problems[0].found, "prompt") from None
        if len(ids) > self.limits.prompt:
            message = f"the prompt has {len(ids):,} tokens; at most {self.limits.prompt:,} fit"
            raise Refused(400, message, "prompt", "context_length_exceeded")
        return ids

    def _choosing(self, model: ServedModel, asked: Asked, prompt: int) -> Choosing:
        """How the texts of a request are chosen.

        Args:
            prompt: tokens of the longest one.

        Raises:
            Refused: something of it is out of range.
        """
        room = model.most_tokens(prompt)
        tokens = min(DEFAULT_TOKENS, self.limits.tokens, max(1, room))
        if asked.most_tokens is not None:
            tokens = asked.most_tokens
        if tokens > self.limits.tokens:
            message = f"{tokens:,} tokens are asked for; at most {self.limits.tokens:,} are written"
            raise Refused(400, message, "max_tokens", "max_tokens_exceeded")
        if tokens > room:
            message = f"after {prompt:,} tokens of the prompt the model writes at most {room:,}"
            raise Refused(400, message, "max_tokens", "context_length_exceeded")
        seed = secrets.randbits(32) if asked.seed is None else asked.seed % 2**64
        decoding = Decoding(
            max_new_tokens=tokens,
            temperature=asked.temperature,
            top_p=asked.top_p if asked.top_p < 1 else None,
            n_samples=asked.count,
            stop=asked.stops,
            seed=seed,
            presence_penalty=asked.presence_penalty,
            frequency_penalty=asked.frequency_penalty,
            logit_bias=_bias(model.vocabulary, asked),
        )
        return Choosing(decoding, asked.most_logprobs, asked.reads_prompt)

    async def scores(self, model: ServedModel, records: Sequence[Record]) -> list[dict[str, Any]]:
        """The scores of a request's records; raises Refused."""
        if self.scorings >= self.limits.queue:
            raise Refused(429, "too many requests are waiting; try again later", code="queue_full")
        self.scorings += 1
        try:
            computed = asyncio.to_thread(model.scores, records)
            return await asyncio.wait_for(computed, self.limits.seconds)
        except BadInput as error:
            raise Refused(400, str(error.problems[0]), "records") from None
        except TimeoutError:
            raise _too_late() from None
        finally:
            self.scorings -= 1


def _bias(vocabulary: int, asked: Asked) -> tuple[tuple[int, float], ...]:
    """What is added to logits, by token."""
    for name in asked.logit_bias or {}:
        if not name.isdecimal() or len(name) > 9 or int(name) >= vocabulary:
            message = f"logit_bias: {name[:20]!r} is no token id below {vocabulary:,}"
            raise Refused(400, message, "logit_bias")
    return tuple((int(name), value) for name, value in (asked.logit_bias or {}).items())


def _too_late() -> Refused:
    return Refused(504, "the request took too long", code="deadline")


class Pending:
    """Texts that a request waits for while it is in the block; leaving ends those that go on.

    Attributes:
        texts: prompt after prompt.
        ids: of the prompts.
    """

    def __init__(
        self,
        server: Server,
        model: ServedModel,
        prompts: Sequence[tuple[Any, list[int]]],
        choosing: Choosing,
        streams: bool,
    ):
        """Take prompts, each with its ids."""
        self._server, self._model, self._prompts = server, model, prompts
        self.ids = [ids for _, ids in prompts]
        self._changed, self._loop = asyncio.Event(), asyncio.get_running_loop()
        self._until = time.monotonic() + server.limits.seconds
        self.texts = [
            Text(row, number, choosing, self._tell, streams)
            for row in self.ids
            for number in range(choosing.decoding.n_samples)
        ]

    def _tell(self) -> None:
        """Wake the request; called in the engine's thread."""
        with suppress(RuntimeError):  # the loop is closed: the server ends
            self._loop.call_soon_threadsafe(self._changed.set)

    def __enter__(self) -> "Pending":
        self._server.check_places(len(self.texts))  # others may have come meanwhile
        self._server.writer().add(self._model.name, self.texts)
        self._server.texts += len(self.texts)
        return self

    def __exit__(self, *_: object) -> None:
        for text in self.texts:
            text.end()
        self._server.texts -= len(self.texts)
        self._server.tally.texts(self.texts)
        if self._server.limits.log_prompts:
            prompts = [prompt for prompt, _ in self._prompts]
            log.info("%s: %s", prompts, [text.written for text in self.texts])

    async def changes(self, request: Request) -> AsyncIterator[None]:
        """Yield after each token of a stream, until all texts have ended.

        Raises:
            Refused: the time is over, the client is gone, or the engine failed.
        """
        while not all(text.finish_reason for text in self.texts):
            left = self._until - time.monotonic()
            if left <= 0:
                raise _too_late()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(left, 1.0))
            self._changed.clear()
            if await request.is_disconnected():
                raise Refused(GONE, "the client went away")
            yield
        if any(text.error for text in self.texts):
            raise Refused(500, "the text could not be written", code="internal_error")

    async def done(self, request: Request) -> list[Text]:
        """The texts once all have ended; raises Refused as `changes` does."""
        async for _ in self.changes(request):
            pass
        return self.texts
