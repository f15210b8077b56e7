"""The server's paths: OpenAI's completions and chats, predictions, scores, health and metrics."""

import asyncio
import html
import json
import time
import uuid
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
from workflow.serving.schemas import (
    Asked,
    ChatRequest,
    CompletionRequest,
    PredictRequest,
    ScoreRequest,
)
from workflow.serving.server import Server, Written
from workflow.serving.texts import Choosing, Text

PAGE = Path(__file__).with_name("page.html")


def make_app(server: Server) -> FastAPI:
    """The application that serves a model."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if server.engine is not None:
            server.engine.close()

    app = FastAPI(title=f"workflow: {server.model.name}", lifespan=lifespan)
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
        log.error("a request failed: %s", type(error).__name__)
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
        prompts: Sequence[Any], choosing: Choosing, request: Request
    ) -> tuple[list[list[int]], list[Text]]:
        ids = [server.ids_of(prompt) for prompt in prompts]
        with Written(server) as written:
            written.submit([one for i in ids for one in server.texts(i, choosing, written.tell)])
            texts = await written.done(request)
        server.tally.texts(texts)
        return ids, texts

    def streamed(
        answer: answers.Answer, prompt: Any, choosing: Choosing, request: Request
    ) -> StreamingResponse:
        ids = server.ids_of(prompt)
        written = Written(server)
        written.submit(server.texts(ids, choosing, written.tell))

        async def events() -> AsyncIterator[str]:
            with written:
                stream = answers.Stream(answer, written.texts, ids, server.model.job.tokenizer)
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
                server.tally.texts(written.texts)

        return StreamingResponse(events(), media_type="text/event-stream")

    def answer_to(kind: str, prefix: str, asked: CompletionRequest | ChatRequest) -> answers.Answer:
        options = asked.stream_options
        counts = options is not None and options.include_usage
        return answers.Answer(kind, f"{prefix}-{uuid.uuid4().hex}", server.model.name, counts)

    @app.post("/v1/completions")
    async def completions(asked: CompletionRequest, request: Request) -> Any:
        server.check_model(asked.model)
        count = max(asked.n, asked.best_of or 1)
        if asked.echo and not server.model.joins_texts:
            raise Refused(400, "echo is for models that read and write one text", "echo")
        if asked.stream and (count > asked.n or len(asked.prompts) > 1 or asked.echo):
            raise Refused(
                400, "stream goes with a single prompt, without best_of and echo", "stream"
            )
        choosing = server.choosing(asked, count, asked.logprobs)
        if count > asked.n and choosing.logprobs is None:  # to rank them
            choosing = server.choosing(asked, count, 0)
        answer = answer_to("text_completion", "cmpl", asked)
        if asked.stream:
            return streamed(answer, asked.prompts[0], choosing, request)
        ids, texts = await write(asked.prompts, choosing, request)
        return answers.completion(answer, asked, ids, texts, server.model.job.tokenizer)

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatRequest, request: Request) -> Any:
        server.check_model(asked.model)
        logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
        choosing = server.choosing(asked, asked.n, logprobs, asked.max_completion_tokens)
        answer = answer_to("chat.completion", "chatcmpl", asked)
        if asked.stream:
            return streamed(answer, asked.prompt, choosing, request)
        ids, texts = await write([asked.prompt], choosing, request)
        return answers.chat_completion(answer, ids[0], texts, server.model.job.tokenizer)

    @app.post("/predict")
    async def predict(asked: PredictRequest, request: Request) -> Any:
        try:
            prompt = asked.asked()
        except ValueError as error:
            raise Refused(400, str(error), "prompt") from None
        usual = Asked.model_validate(
            asked.model_dump(include={"temperature", "max_tokens", "seed", "stop"})
        )
        choosing = server.choosing(usual, 1)
        _, (text,) = await write([prompt], choosing, request)
        return {"answer": processed(text.written, usual.stops)}


def _event(chunk: Any) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


def _add_others(app: FastAPI, server: Server) -> None:
    scoring = asyncio.Lock()

    @app.post("/score")
    async def score(asked: ScoreRequest) -> Any:
        if server.model.writes:
            raise Refused(400, "this model writes texts and gives no scores", code="no_scores")
        async with scoring:
            try:
                items = await asyncio.to_thread(server.model.scores, asked.records)
            except BadInput as error:
                raise Refused(400, str(error.problems[0]), "records") from None
        return {"scores": items}

    @app.get("/v1/models")
    async def models() -> Any:
        model = {"id": server.model.name, "object": "model", "created": 0, "owned_by": "workflow"}
        return {"object": "list", "data": [model]}

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
            "name": html.escape(server.model.name),
            "kind": "texts" if server.model.writes else "scores",
            "tokens": str(min(128, server.limits.tokens)),
        }
        text = PAGE.read_text(encoding="utf-8")
        for name, value in values.items():
            text = text.replace(f"{{{{{name}}}}}", value)
        return text
