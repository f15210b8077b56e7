"""Serving against servers around `model.generate`; 15 minutes, and --minutes of random load."""

import argparse
import asyncio
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from benchmarks import ROOT
from benchmarks.processes import environment_alone, free_port, status_bytes
from benchmarks.publish import machine, matrix_rates, publish, ratios, spread
from benchmarks.serving.load import Asked, Served, ask_always, ask_at_random, first_tokens
from benchmarks.side_by_side import add_data_arguments
from benchmarks.synthetic import FLAN_T5, make_model

TOKENS, MOST_TOKENS = 32, 128
"""Tokens of each answer, and the most of answers as long as those in the data."""
CLIENTS = 16
HANG_UP = 0.1
"""The share of clients that go away under random load."""
LOAD = 0.7
"""Random load, as a share of what the server can do."""
KINDS = {
    "one": "`model.generate`, one request at a time",
    "static": "`model.generate`, up to 16 requests that wait together",
    "ours": "`python3 -m workflow serve`",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_arguments(parser, "prompts and completions")
    parser.add_argument("--rounds", type=int, default=3, help="of each server, in turn")
    parser.add_argument("--records", type=int, default=64, help="requests in each measurement")
    parser.add_argument("--minutes", type=float, default=10, help="of random load")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    trials: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        mount = Path(folder)
        make_model(mount / "models" / "m", FLAN_T5["small"], arguments.tokenizer)
        (mount / "data").mkdir()
        alike, as_data = requests(arguments)
        for _ in range(arguments.rounds):
            for kind, found in trials.items():
                with served(kind, mount) as (url, _):
                    found.append(asyncio.run(measure(url, kind, alike, as_data)))
                    figures = {n: v for n, v in found[-1].items() if isinstance(v, float)}
                    print(kind, figures, flush=True)
        rate = LOAD * statistics.median(one["alike"] for one in trials["ours"])
        with served("ours", mount) as (url, process):
            soak = asyncio.run(under_load(url, process.pid, alike, rate, arguments.minutes))
    publish("benchmarks serve", report(arguments, trials, soak))


def requests(arguments: argparse.Namespace) -> tuple[list[Asked], list[Asked]]:
    """Requests for the prompts of the data: of equal length, and as long as their completions."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    data = json.loads(arguments.data.read_text(encoding="utf-8"))
    records = [*data["eval"], *data["train"]]
    records = [one for one in records if len(tokenizer(one["prompt"])["input_ids"]) <= 512]
    records = records[: arguments.records]
    lengths = [len(tokenizer(one["completion"])["input_ids"]) for one in records]
    common = [{"prompt": one["prompt"], "temperature": 0} for one in records]
    alike: list[Asked] = [one | {"max_tokens": TOKENS} for one in common]
    as_data: list[Asked] = [
        one | {"max_tokens": min(MOST_TOKENS, length)}
        for one, length in zip(common, lengths, strict=True)
    ]
    return alike, as_data


@contextmanager
def served(kind: str, mount: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server in a process of its own, with all cores; its address."""
    port = free_port()
    if kind == "ours":
        words = ["-m", "workflow", "serve", "m", "--mount", str(mount), "--port", str(port),
                 "--fp32", "--queue", "1000"]  # fmt: skip
    else:
        model = str(mount / "models" / "m")
        words = ["-m", "benchmarks.serving.usual_servers", kind, model, str(port)]
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, env=environment_alone())
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            with suppress(httpx.HTTPError):
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            if process.poll() is not None:
                raise SystemExit(f"{kind}: the server ended with status {process.returncode}")
            time.sleep(0.1)
        yield url, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


async def measure(url: str, kind: str, alike: list[Asked], as_data: list[Asked]) -> dict[str, Any]:
    """Requests a second with 16 clients, and the seconds of an answer with one."""
    await ask_always(url, alike[:CLIENTS], CLIENTS)  # warm
    of_one = await ask_always(url, alike[:CLIENTS], 1)
    together = await ask_always(url, alike, CLIENTS)
    varied = await ask_always(url, as_data, CLIENTS)
    shares = await first_tokens(url, alike[:CLIENTS]) if kind == "ours" else [0.0]
    for found in (of_one, together, varied):
        if found.failures:
            raise SystemExit(f"{kind}: {found.failures[0]}")
    return {
        "alike": len(alike) / together.seconds,
        "as_data": len(as_data) / varied.seconds,
        "one": statistics.median(of_one.latencies),
        "first": statistics.median(shares),
        "texts": [together.texts[number] for number in range(len(alike))],
    }


async def under_load(
    url: str, process: int, asked: list[Asked], rate: float, minutes: float
) -> tuple[Served, float, float]:
    """Random load: what clients got, and the server's GB after the first tenth and at the end."""
    expected = (await ask_always(url, asked, CLIENTS)).texts
    tenth = await ask_at_random(url, asked, rate, 6 * minutes, HANG_UP)
    before = status_bytes(process, "RssAnon") / 1e9
    rest = await ask_at_random(url, asked, rate, 54 * minutes, HANG_UP)
    after = status_bytes(process, "RssAnon") / 1e9
    for found in (tenth, rest):
        for number, text in found.texts.items():
            if text is not None and text != expected[number % len(asked)]:
                found.failures.append(f"request {number} got another text than alone")
    rest.failures += tenth.failures
    return rest, before, after


def report(
    arguments: argparse.Namespace,
    trials: dict[str, list[dict[str, Any]]],
    soak: tuple[Served, float, float],
) -> str:
    """The section of docs/operate/performance.md that this benchmark writes."""
    lines = [
        f"`python3 -m benchmarks serve`: Flan-T5-small's layout in fp32, prompts of "
        f"{arguments.data.name}, medians of {arguments.rounds} rounds in turn (least–greatest).",
        "",
        f"| server | {CLIENTS} clients, {TOKENS} tokens each: requests/s | times the first | "
        "answers as long as the data's: requests/s | times the first | one client: s an answer |",
        "|---|---|---|---|---|---|",
    ]
    first = trials["one"]
    for kind, found in trials.items():
        cells = [KINDS[kind]]
        for name in ("alike", "as_data"):
            speeds = [one[name] for one in found]
            cells += [spread(speeds), ratios(speeds, [one[name] for one in first])]
        cells.append(spread([one["one"] for one in found], 3))
        lines.append(f"| {' | '.join(cells)} |")
    ours = trials["ours"]
    same = sum(a == b for a, b in zip(ours[0]["texts"], first[0]["texts"], strict=True))
    slower = ratios([one["one"] for one in ours], [one["one"] for one in first])
    faster = ratios([one["as_data"] for one in ours], [one["as_data"] for one in trials["static"]])
    share = spread([one["first"] for one in ours])
    lines += [
        "",
        f"Equal texts: {same} of {len(ours[0]['texts'])}. With one client an answer takes {slower} "
        f"of the first's time; answers as long as the data's are {faster} the static batches'. The "
        f"first token of a stream comes after {share} of the whole answer's time.",
        "",
        *_of_load(arguments, soak),
        "",
        machine(matrix_rates()),
        "",
    ]
    return "\n".join(lines)


def _of_load(arguments: argparse.Namespace, soak: tuple[Served, float, float]) -> list[str]:
    found, before, after = soak
    latencies = sorted(found.latencies)
    middle, late = statistics.median(latencies), latencies[int(0.99 * len(latencies))]
    left = sum(text is None for text in found.texts.values())
    return [
        f"{arguments.minutes:g} minutes of clients at random times, {LOAD:.0%} of what the server "
        f"can do, of which {HANG_UP:.0%} go away: {len(latencies)} answers, each that of a quiet "
        f"server, {left} gone, {len(found.failures)} failures; half within {middle:.2f} s, 99% "
        f"within {late:.2f} s ({late / middle:.1f} ×); memory {before:.2f} GB after the first "
        f"tenth, {after:.2f} GB at the end.",
    ]
