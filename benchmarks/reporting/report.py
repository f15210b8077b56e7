"""Report of a large run: time to make and open it, and its size; about a minute."""

import argparse
import json
import multiprocessing
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.publish import machine, matrix_rates, publish, spread
from workflow.reporting.report.run import write_report
from workflow.runs.predictions import prediction_files

WORDS = 20_000
PROMPT_WORDS, ANSWER_WORDS = 120, 40
JOB = {"task": "seq2seq", "data_name": "made", "model_init_name": "none", "temperature": 1.0}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5, help="times to make and open the report")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        # In a process of its own, whose memory does not count.
        given = (made, arguments.records, arguments.samples)
        making = multiprocessing.get_context("spawn").Process(target=_make_run, args=given)
        making.start()
        making.join()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        times: dict[str, list[float]] = {"made": []}
        for _ in range(arguments.rounds):
            began = time.perf_counter()
            page = write_report(made)
            times["made"].append(time.perf_counter() - began)
            for name, seconds in _open(page).items():
                times.setdefault(name, []).append(seconds)
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        items = sum(path.stat().st_size for path in made.glob("temperature=*"))
        publish("benchmarks report", report(arguments, times, page.stat().st_size, items, more))


def _make_run(folder: Path, records: int, samples: int) -> None:
    """A run's folder with two evaluations, whose answers are like the expected texts."""
    draw = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 9))) for _ in range(WORDS)]
    shares = [1 / (place + 1) for place in range(WORDS)]

    def text(count: int) -> list[str]:
        return draw.choices(words, shares, k=count)

    spec = JOB | {"n_samples": samples, "training_run_name": folder.name}
    (folder / "training_args.json").write_text(json.dumps(spec))
    status = {"state": "done", "step": 2, "max_steps": 2, "host": "here", "time": time.time()}
    (folder / "status.json").write_text(json.dumps(status))
    lines = [json.dumps({"step": step, "loss": 2.0 - step, "exact_match": 0.5}) for step in (1, 2)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    asked = [(" ".join(text(PROMPT_WORDS)), text(ANSWER_WORDS)) for _ in range(records)]
    for step in (1, 2):
        found = [
            _item(prompt, expected, list(_changed(expected, samples, draw, words)))
            for prompt, expected in asked
        ]
        (folder / prediction_files(spec, step)[0]).write_text(json.dumps(found, indent=2))


def _changed(
    expected: list[str], samples: int, draw: random.Random, words: list[str]
) -> Iterator[str]:
    """The text with every fifth word or so another one."""
    for _ in range(samples):
        yield " ".join(draw.choice(words) if draw.random() < 0.2 else word for word in expected)


def _item(prompt: str, expected: list[str], answers: list[str]) -> dict[str, Any]:
    record = {"prompt": prompt, "completion": " ".join(expected)}
    generations = [
        {"lm_postprocess": one, "full_generated": f"{one}</s>", "scores": [-1.25, 0.5]}
        for one in answers
    ]
    return {
        "prompt": prompt,
        "generations": generations,
        "demonstration": record["completion"],
        "orig_d": record,
    }


def _open(page: Path) -> dict[str, float]:
    """Seconds until the records are there, and until a search has found its own; {} without."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return {}
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        shown = started.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page()
        began = time.perf_counter()
        shown.goto(page.as_uri())
        shown.wait_for_selector("article", timeout=120_000)
        opened = time.perf_counter()
        shown.fill("input[type=search]", "no such text")
        shown.locator("article").first.wait_for(state="detached", timeout=120_000)
        return {"opened": opened - began, "searched": time.perf_counter() - opened}


def report(
    arguments: argparse.Namespace,
    times: dict[str, list[float]],
    size: int,
    items: int,
    more: int,
) -> str:
    """The section of docs/operate/performance.md that this benchmark writes."""
    named = {
        "made": "to make it, of the files of two evaluations",
        "opened": "from opening it in headless Chromium to the first records",
        "searched": "from the last letter of a search to its result",
    }
    return "\n".join(
        [
            f"`python3 -m benchmarks report` makes and opens the report of {arguments.records:,} "
            "records with",
            f"{arguments.samples} samples each, prompts of {PROMPT_WORDS} and answers of "
            f"{ANSWER_WORDS} words,",
            f"of a run with two evaluations. {arguments.rounds} rounds; medians, with the least "
            "and the greatest",
            "in brackets.",
            "",
            "| what | seconds |",
            "|---|---|",
            *(f"| {told} | {spread(times[name])} |" for name, told in named.items()
              if name in times),
            "",
            f"The page has {size / 1e6:.1f} MB, the two files of answers {items / 1e6:,.0f} MB. "
            f"Making it took {more / 1e6:,.0f} MB of memory.",
            "",
            machine(matrix_rates()),
            "",
        ]
    )  # fmt: skip
