"""The server's paths: OpenAI's completions and chats, predictions, scores, health and metrics."""

import asyncio
import html
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException

from workflow.core.console import log
from workflow.core.errors import BadInput
from workflow.metrics.references import processed
from workflow.serving import answers
from workflow.serving.limits import Guard, Refused
from workflow.serving.model import ServedModel
from workflow.serving.schemas import (
    Asked,
    ChatRequest,
    CompletionRequest,
    PredictRequest,
    ScoreRequest,
    TextRequest,
)
from workflow.serving.server import Server, Written
from workflow.serving.texts import Text

PAGE = Path(__file__).with_name("page.html")


def make_app(server: Server) -> FastAPI:
    """The application that serves a model."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if server.engine is not None:
            server.engine.close()

    app = FastAPI(title=f"workflow: {', '.join(server.models)}", lifespan=lifespan)
    app.add_middleware(Guard, limits=server.limits)

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
        return Refused(error.status_code, str(error.detail), code="").response()

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        traceback = error if server.limits.log_prompts else None
        log.error("a request failed: %s", type(error).__name__, exc_info=traceback)
        return Refused(500, "the server failed on this request", code="internal_error").response()

    @app.middleware("http")
    async def counted(request: Request, call: Any) -> Response:
        began = time.perf_counter()
        response: Response = await call(request)
        route = request.scope.get("route")
        path = getattr(route, "path", "other")
        server.tally.request(path, response.status_code, time.perf_counter() - began)
        return response

    _add_texts(app, server)
    _add_others(app, server)
    return app


def _add_texts(app: FastAPI, server: Server) -> None:
    async def write(
        model: ServedModel, prompts: Sequence[Any], asked: Asked, request: Request
    ) -> tuple[list[list[int]], list[Text]]:
        """The ids of prompts and their texts, prompt after prompt."""
        ids = [server.ids_of(model, prompt) for prompt in prompts]
        choosing = server.choosing(model, asked)
        with Written(server, model) as written:
            written.submit(ids, choosing)
            texts = await written.done(request)
        server.record(prompts, texts)
        return ids, texts

    def streamed(
        answer: answers.Answer,
        model: ServedModel,
        prompt: Any,
        asked: TextRequest,
        request: Request,
    ) -> StreamingResponse:
        ids, choosing = server.ids_of(model, prompt), server.choosing(model, asked)
        written = Written(server, model)
        written.submit([ids], choosing, streams=True)

        async def events() -> AsyncIterator[str]:
            with written:
                stream = answers.Stream(answer, written.texts, ids, model.job.tokenizer)
                try:
                    for chunk in stream.first():
                        yield _event(chunk)
                    async for _ in written.changes(request):
                        for chunk in stream.new():
                            yield _event(chunk)
                    for chunk in stream.last():
                        yield _event(chunk)
                    yield "data: [DONE]\n\n"
                except Refused as error:
                    yield _event(json.loads(bytes(error.response().body)))
                server.record([prompt], written.texts)

        return StreamingResponse(events(), media_type="text/event-stream")

    @app.post("/v1/completions")
    async def completions(asked: CompletionRequest, request: Request) -> Any:
        model = server.model(asked.model, writes=True)
        if asked.echo and not model.joins_texts:
            raise Refused(400, "echo is for models that read and write one text", "echo")
        if asked.max_tokens == 0 and not asked.echo:
            raise Refused(400, "max_tokens: 0 is for echo, which shows the prompt", "max_tokens")
        answer = answers.Answer.new("text_completion", "cmpl", model.name, asked.counts_usage)
        if asked.stream:
            if asked.count > asked.n or len(asked.prompts) > 1 or asked.echo:
                message = "stream goes with a single prompt, without best_of and echo"
                raise Refused(400, message, "stream")
            return streamed(answer, model, asked.prompts[0], asked, request)
        ids, texts = await write(model, asked.prompts, asked, request)
        return answers.completion(answer, asked, ids, texts, model.job.tokenizer)

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatRequest, request: Request) -> Any:
        model = server.model(asked.model, writes=True)
        answer = answers.Answer.new("chat.completion", "chatcmpl", model.name, asked.counts_usage)
        if asked.stream:
            return streamed(answer, model, asked.prompt, asked, request)
        ids, texts = await write(model, [asked.prompt], asked, request)
        return answers.chat_completion(answer, ids[0], texts, model.job.tokenizer)

    @app.post("/predict")
    async def predict(asked: PredictRequest, request: Request) -> Any:
        model = server.model(asked.model, writes=True)
        try:
            prompt = asked.asked()
        except ValueError as error:
            raise Refused(400, str(error), "prompt") from None
        _, (text,) = await write(model, [prompt], asked, request)
        return {"answer": processed(text.written, asked.stops)}


def _event(chunk: Any) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


def _add_others(app: FastAPI, server: Server) -> None:
    scoring = asyncio.Lock()

    @app.post("/score")
    async def score(asked: ScoreRequest) -> Any:
        model = server.model(asked.model, writes=False)
        async with scoring:
            try:
                items = await asyncio.to_thread(model.scores, asked.records)
            except BadInput as error:
                raise Refused(400, str(error.problems[0]), "records") from None
        return {"scores": items}

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
