"""What a server allows, and how it says no."""

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from fastapi.responses import JSONResponse

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
OPEN_PATHS = ("/health", "/", "/favicon.ico")
"""Paths that need no key: they say nothing of requests."""


@dataclass(frozen=True)
class Limits:
    """What one server allows.

    Attributes:
        rows: texts written together.
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

    def __init__(self, status: int, message: str, param: str | None = None, code: str = ""):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def response(self) -> JSONResponse:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, kind)
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        headers = {"Retry-After": "1"} if self.status in (429, 503) else {}
        return JSONResponse({"error": error}, self.status, headers)


class Guard:
    """Refuses requests without the key, and bodies that are too large, before they are read."""

    def __init__(self, app: Any, limits: Limits):
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        if not self._may_enter(scope["path"], headers.get(b"authorization", b"")):
            refused = Refused(401, "the API key is missing or wrong", code="invalid_api_key")
            await refused.response()(scope, receive, send)
            return
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._limits.body:
            await self._too_large().response()(scope, receive, send)
            return
        await self._count(scope, receive, send)

    def _may_enter(self, path: str, given: bytes) -> bool:
        key = self._limits.api_key
        return (
            key is None
            or path in OPEN_PATHS
            or hmac.compare_digest(given, f"Bearer {key}".encode())
        )

    def _too_large(self) -> Refused:
        message = f"the body is larger than {self._limits.body:,} bytes"
        return Refused(413, message, code="body_too_large")

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
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
