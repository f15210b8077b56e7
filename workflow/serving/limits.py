"""What a server allows, and how it says no."""

import asyncio
import hmac
import math
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from fastapi.responses import JSONResponse

from workflow.core.console import log
from workflow.serving.tally import Tally

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
OPEN_PATHS = ("/health", "/", "/favicon.ico", "/docs", "/openapi.json")
"""Paths that need no key: they say nothing of requests."""
GONE = 499
"""The status of a request whose client went away."""


@dataclass(frozen=True)
class Limits:
    """What one server allows.

    Attributes:
        rows: texts of a model written together.
        queue: texts that may wait for a place.
        tokens: of one text.
        prompt: tokens of a prompt.
        body: bytes of a request.
        seconds: until a request is given up.
        api_key: that requests must have; None for none.
        log_prompts: whether the log has prompts, answers, and tracebacks.
    """

    rows: int
    queue: int
    tokens: int
    prompt: int
    body: int
    seconds: float
    api_key: str | None
    log_prompts: bool = False


class Refused(Exception):
    """A request that gets an error in OpenAI's shape."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def body(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, kind)
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        headers = {"Retry-After": "1"} if self.status in (429, 503) else {}
        return JSONResponse(self.body, self.status, headers)


class Guard:
    """Around the application: refuses requests without the key and large bodies before they are
    read, answers those that fail, and counts all.
    """

    def __init__(self, app: Any, limits: Limits, tally: Tally):
        self._app, self._limits, self._tally = app, limits, tally

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), GONE

        async def sent(message: Scope) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        refused = self._refusal(scope)
        try:
            if refused is None:
                await self._run(scope, receive, sent)
            else:
                await refused.response()(scope, receive, sent)
        except asyncio.CancelledError:  # the server ends, and its time of grace is over
            status = 503
        except Exception as error:
            traceback = error if self._limits.log_prompts else None
            log.error("a request failed: %s", type(error).__name__, exc_info=traceback)
            if status == GONE:
                failed = Refused(500, "the server failed on this request", code="internal_error")
                await failed.response()(scope, receive, sent)
        path = getattr(scope.get("route"), "path", "other")
        self._tally.request(path, status, time.perf_counter() - began)

    def _refusal(self, scope: Scope) -> Refused | None:
        """Why a request is refused by its headers alone."""
        headers = {name.lower(): value for name, value in scope["headers"]}
        key, given = self._limits.api_key, headers.get(b"authorization", b"")
        is_open = key is None or scope["path"] in OPEN_PATHS
        if not is_open and not hmac.compare_digest(given, f"Bearer {key}".encode()):
            return Refused(401, "the API key is missing or wrong", code="invalid_api_key")
        length = headers.get(b"content-length", b"0")
        digits = length.isdigit() and len(length) < 20
        if (int(length) if digits else math.inf) > self._limits.body:
            return self._too_large()
        return None

    def _too_large(self) -> Refused:
        message = f"the body is larger than {self._limits.body:,} bytes"
        return Refused(413, message, code="body_too_large")

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the bytes of a body, which in chunks has no length in its header."""
        size = 0

        async def counted() -> Scope:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            return message if size <= self._limits.body else {"type": "http.disconnect"}

        async def sent(message: Scope) -> None:
            if size <= self._limits.body:
                await send(message)

        await self._app(scope, counted, sent)
        if size > self._limits.body:
            await self._too_large().response()(scope, receive, send)
