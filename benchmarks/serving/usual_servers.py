"""The servers that users write around `model.generate`: one request at a time, or static batches.

`python3 -m benchmarks.serving.usual_servers one|static FOLDER PORT`
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from benchmarks.peer import load_peer

ROWS = 16
"""Requests in a batch."""


def main() -> None:
    """Serve `POST /v1/completions`: a prompt, and max_tokens."""
    import uvicorn
    from fastapi import FastAPI

    kind, folder, port = sys.argv[1:]
    model, tokenizer = load_peer(Path(folder))
    app = FastAPI()
    queue: asyncio.Queue[tuple[dict[str, Any], asyncio.Future[str]]] = asyncio.Queue()
    turn = asyncio.Lock()

    def generate(asked: list[dict[str, Any]]) -> list[str]:
        batch = tokenizer([one["prompt"] for one in asked], padding=True, return_tensors="pt")
        most = max(one["max_tokens"] for one in asked)
        ids = model.generate(**batch, do_sample=False, max_new_tokens=most)
        rows = [row[: 1 + one["max_tokens"]] for row, one in zip(ids, asked, strict=True)]
        texts: list[str] = tokenizer.batch_decode(rows, skip_special_tokens=True)
        return texts

    async def batches() -> None:
        """Whoever waits is served together; others wait until these are done."""
        while True:
            waiting = [await queue.get()]
            while len(waiting) < ROWS and not queue.empty():
                waiting.append(queue.get_nowait())
            texts = await asyncio.to_thread(generate, [asked for asked, _ in waiting])
            for (_, answer), text in zip(waiting, texts, strict=True):
                answer.set_result(text)

    @app.post("/v1/completions")
    async def complete(asked: dict[str, Any]) -> dict[str, Any]:
        if kind == "one":
            async with turn:
                (text,) = await asyncio.to_thread(generate, [asked])
        else:
            answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            queue.put_nowait((asked, answer))
            text = await answer
        return {"choices": [{"text": text}]}

    @app.get("/health")
    async def health() -> dict[str, bool]:
        if kind == "static" and not hasattr(app.state, "batches"):
            app.state.batches = asyncio.create_task(batches())
        return {"ready": True}

    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
