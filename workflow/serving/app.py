"""The server's paths: OpenAI's completions and chats, predictions, scores, health and metrics."""

import asyncio
import html
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException

from workflow.metrics.references import processed
from workflow.serving import answers
from workflow.serving.limits import Guard, Refused
from workflow.serving.schemas import ChatRequest, CompletionRequest, PredictRequest, ScoreRequest
from workflow.serving.server import Pending, Server

PAGE = Path(__file__).with_name("page.html")


def make_app(server: Server) -> FastAPI:
    """The application that serves a model."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if server.engine is not None:
            await asyncio.to_thread(server.engine.close)

    app = FastAPI(title=f"workflow: {', '.join(server.models)}", lifespan=lifespan)
    app.add_middleware(Guard, limits=server.limits, tally=server.tally)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return Refused(400, f"{where}: {first['msg']}".strip(": "), where or None).response()

    @app.exception_handler(HTTPException)
    async def unknown(_: Request, error: HTTPException) -> JSONResponse:
        return Refused(error.status_code, str(error.detail)).response()

    _add_texts(app, server)
    _add_others(app, server)
    return app


class TextStream(StreamingResponse):
    """Events of texts, which end with it, also where the client leaves before it begins."""

    def __init__(self, pending: Pending, events: AsyncIterator[str]):
        super().__init__(events, media_type="text/event-stream")
        self._pending = pending

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        with self._pending:
            await super().__call__(scope, receive, send)


async def _events(stream: answers.Stream, pending: Pending, request: Request) -> AsyncIterator[str]:
    try:
        for chunk in stream.first():
            yield _event(chunk)
        async for _ in pending.changes(request):
            for chunk in stream.new():
                yield _event(chunk)
        for chunk in stream.last():
            yield _event(chunk)
        yield "data: [DONE]\n\n"
    except Refused as error:
        yield _event(error.body)


def _event(chunk: Any) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


def _add_texts(app: FastAPI, server: Server) -> None:
    def streamed(answer: answers.Answer, pending: Pending, request: Request) -> TextStream:
        stream = answers.Stream(answer, pending.texts, pending.ids)
        return TextStream(pending, _events(stream, pending, request))

    @app.post("/v1/completions")
    async def completions(asked: CompletionRequest, request: Request) -> Any:
        model = server.model(asked.model, writes=True)
        if asked.echo and not model.joins_texts:
            raise Refused(400, "echo is for models that read and write one text", "echo")
        if asked.max_tokens == 0 and not asked.echo:
            raise Refused(400, "max_tokens: 0 is for echo, which shows the prompt", "max_tokens")
        answer = answers.Answer.new("text_completion", "cmpl", model, asked.includes_usage)
        if asked.stream and (asked.count > asked.n or len(asked.prompts) > 1 or asked.echo):
            message = "stream goes with a single prompt, without best_of and echo"
            raise Refused(400, message, "stream")
        pending = await server.pending(model, asked.prompts, asked, asked.stream)
        if asked.stream:
            return streamed(answer, pending, request)
        with pending:
            return answers.completion(answer, asked, pending.ids, await pending.done(request))

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatRequest, request: Request) -> Any:
        model = server.model(asked.model, writes=True)
        answer = answers.Answer.new("chat.completion", "chatcmpl", model, asked.includes_usage)
        pending = await server.pending(model, [asked.prompt], asked, asked.stream)
        if asked.stream:
            return streamed(answer, pending, request)
        with pending:
            return answers.chat_completion(answer, pending.ids, await pending.done(request))

    @app.post("/predict")
    async def predict(asked: PredictRequest, request: Request) -> Any:
        model = server.model(asked.model, writes=True)
        try:
            prompt = asked.asked()
        except ValueError as error:
            raise Refused(400, str(error), "prompt") from None
        with await server.pending(model, [prompt], asked) as pending:
            (text,) = await pending.done(request)
        return {"answer": processed(text.written, asked.stops)}


def _add_others(app: FastAPI, server: Server) -> None:
    @app.post("/score")
    async def score(asked: ScoreRequest) -> Any:
        model = server.model(asked.model, writes=False)
        return {"scores": await server.scores(model, asked.records)}

    @app.get("/v1/models")
    async def models() -> Any:
        common = {"object": "model", "created": 0, "owned_by": "workflow"}
        return {"object": "list", "data": [{"id": name, **common} for name in server.models]}

    @app.get("/health")
    async def health() -> Any:
        ready = server.engine is None or server.engine.alive
        return JSONResponse({"live": True, "ready": ready}, 200 if ready else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        return server.tally.exposition(server.engine)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> str:
        values = {
            "name": html.escape(server.name),
            "kind": "texts" if server.models[server.name].writes else "scores",
            "tokens": str(min(128, server.limits.tokens)),
        }
        text = PAGE.read_text(encoding="utf-8")
        for name, value in values.items():
            text = text.replace(f"{{{{{name}}}}}", value)
        return text
