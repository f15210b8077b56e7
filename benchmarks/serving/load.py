"""Clients of a server: a few that always ask, or many that come at random and may hang up."""

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

Asked = Mapping[str, Any]
"""The body of a request for a completion."""
SECONDS = 120.0


@dataclass
class Served:
    """What clients got.

    Attributes:
        latencies: seconds of each answer.
        texts: of each request; None if its client hung up.
        failures: what went wrong.
        seconds: in all.
    """

    latencies: list[float] = field(default_factory=list)
    texts: dict[int, str | None] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


async def ask_always(url: str, asked: Sequence[Asked], clients: int) -> Served:
    """Each client asks again as soon as it has its answer, until all is asked."""
    served, numbers = Served(), iter(range(len(asked)))
    async with httpx.AsyncClient(timeout=SECONDS) as http:

        async def ask() -> None:
            for number in numbers:
                await _ask(http, url, number, asked[number], served)

        began = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(clients)))
        served.seconds = time.perf_counter() - began
    return served


async def ask_at_random(
    url: str, asked: Sequence[Asked], rate: float, seconds: float, hang_up: float
) -> Served:
    """Clients come at random times.

    Args:
        rate: clients a second (exponential times between them).
        hang_up: the share of clients that read one part of a stream and go away.
    """
    served, drawn, tasks = Served(), random.Random(0), []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=SECONDS, limits=limits) as http:
        began, number, next_at = time.perf_counter(), 0, 0.0
        while next_at < seconds:
            await asyncio.sleep(max(0.0, next_at - (time.perf_counter() - began)))
            body = asked[number % len(asked)]
            leaves = drawn.random() < hang_up
            ask = (
                _leave(http, url, number, body, served)
                if leaves
                else _ask(http, url, number, body, served)
            )
            tasks.append(asyncio.create_task(ask))
            number += 1
            next_at += drawn.expovariate(rate)
        await asyncio.gather(*tasks)
        served.seconds = time.perf_counter() - began
    return served


async def first_tokens(url: str, asked: Sequence[Asked]) -> list[float]:
    """The time to the first token of streams, as a share of the whole answer's."""
    shares = []
    async with httpx.AsyncClient(timeout=SECONDS) as http:
        for body in asked:
            began, first = time.perf_counter(), 0.0
            stream = http.stream("POST", f"{url}/v1/completions", json={**body, "stream": True})
            async with stream as response:
                async for line in response.aiter_lines():
                    if not first and '"text": ""' not in line and line:
                        first = time.perf_counter() - began
            shares.append(first / (time.perf_counter() - began))
    return shares


async def _ask(http: httpx.AsyncClient, url: str, number: int, body: Asked, served: Served) -> None:
    began = time.perf_counter()
    try:
        response = await http.post(f"{url}/v1/completions", json=body)
        text = response.raise_for_status().json()["choices"][0]["text"]
    except (httpx.HTTPError, json.JSONDecodeError, KeyError) as error:
        served.failures.append(f"{type(error).__name__}: {error}")
        return
    served.latencies.append(time.perf_counter() - began)
    if number in served.texts:
        served.failures.append(f"request {number} was answered twice")
    served.texts[number] = text


async def _leave(
    http: httpx.AsyncClient, url: str, number: int, body: Asked, served: Served
) -> None:
    stream = http.stream("POST", f"{url}/v1/completions", json={**body, "stream": True})
    try:
        async with stream as response:
            response.raise_for_status()
            await anext(response.aiter_lines(), None)
    except httpx.HTTPError as error:
        served.failures.append(f"{type(error).__name__}: {error}")
    served.texts[number] = None
