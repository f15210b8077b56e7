"""Time until data is ready: read, checked, tokenized, audited; 2 minutes for a million records."""

import argparse
import json
import multiprocessing
import random
import re
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks import T5_TINY
from benchmarks.publish import machine, matrix_rates, publish, spread

PROMPT_WORDS, MOST_ANSWER_WORDS = 12, 16
"""Fewest words of a prompt, most of a completion; both are whole sentences."""
EVALUATED = 1_000
STAGES = {
    "read": ("workflow.data.token_cache.check_records", "reading and checking"),
    "tokenize": ("workflow.data.token_cache.SplitWriter.write", "tokenizing"),
    "audit": ("workflow.data.audit.audit_splits", "auditing"),
}
"""What is called for each stage, and its name in the table."""


@dataclass(frozen=True)
class Found:
    """One start without a cache.

    Attributes:
        seconds: of each stage, of "all" and of a start with a cache, "again".
        cores: used on average, by stage and in "all".
        tokens: of a record.
        gigabytes: at the peak, and before.
    """

    seconds: dict[str, float]
    cores: dict[str, float]
    tokens: float
    gigabytes: tuple[float, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    example = T5_TINY.parent.parent / "data" / "data.json"
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3, help="starts without a cache")
    parser.add_argument(
        "--data", type=Path, nargs="+", default=[example], help="JSON files to draw sentences from"
    )
    parser.add_argument(
        "--tokenizer", type=Path, nargs="+", default=[T5_TINY], help="folders of tokenizers"
    )
    parser.add_argument("--lines", action="store_true", help="JSON Lines, not one JSON file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    found: dict[Path, list[Found]] = {tokenizer: [] for tokenizer in arguments.tokenizer}
    with tempfile.TemporaryDirectory() as folder:
        files = write_data(Path(folder), arguments)
        for _ in range(arguments.rounds):
            for tokenizer, trials in found.items():
                # In a process of its own, whose memory is that of one start.
                context = multiprocessing.get_context("spawn")
                with ProcessPoolExecutor(1, mp_context=context) as other:
                    trials.append(other.submit(start, files, tokenizer).result())
                print(tokenizer, trials[-1], flush=True)
    publish("benchmarks prepare", report(arguments, found))


def write_data(folder: Path, arguments: argparse.Namespace) -> dict[str, Path]:
    """The data file, or one of JSON Lines for each split."""
    counts = {"train": arguments.records, "eval": EVALUATED}
    drawn = records(sentences(arguments.data), random.Random(0))
    if arguments.lines:
        files = {split: folder / f"{split}.jsonl" for split in counts}
        for split, path in files.items():
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(f"{json.dumps(next(drawn))}\n" for _ in range(counts[split]))
        return files
    path = folder / "data.json"
    with open(path, "w", encoding="utf-8") as file:
        for split, count in counts.items():
            file.write("{" if split == "train" else ", ")
            file.write(f'"{split}": [{json.dumps(next(drawn))}')
            file.writelines(f", {json.dumps(next(drawn))}" for _ in range(count - 1))
            file.write("]")
        file.write("}")
    return {"": path}


def sentences(paths: Sequence[Path]) -> list[str]:
    """All sentences and lines in the records of data files."""
    found: set[str] = set()
    for path in paths:
        for split in json.loads(path.read_text(encoding="utf-8")).values():
            texts = (text for record in split for text in record.values() if isinstance(text, str))
            found.update(part.strip() for text in texts for part in _parts_of(text))
    return sorted(found - {""})


def _parts_of(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+|\n+", text)


def records(texts: Sequence[str], draw: random.Random) -> Iterator[dict[str, Any]]:
    answers = [text for text in texts if len(text.split()) <= MOST_ANSWER_WORDS]
    number = 0
    while True:
        parts: list[str] = []
        while sum(len(part.split()) for part in parts) < PROMPT_WORDS:
            parts.append(draw.choice(texts))
        yield {"prompt": " ".join(parts), "completion": draw.choice(answers), "id": number}
        number += 1


def start(files: dict[str, Path], tokenizer_folder: Path) -> Found:
    """Prepare the data as a job does, first without a cache, then with it."""
    from workflow.config.templates import PLAIN
    from workflow.data.text_format import ContinuedText, SeparateTexts, TextFormat
    from workflow.models.hub import load_tokenizer
    from workflow.tasks.seq2seq import Seq2Seq

    tokenizer = load_tokenizer(tokenizer_folder)
    ended = tokenizer.eos_token_id in tokenizer("a")["input_ids"]  # as encoder-decoders' are
    format: TextFormat = SeparateTexts(0) if ended else ContinuedText.of(tokenizer, PLAIN)
    task = Seq2Seq().bind_tokenizer(tokenizer, format)
    with tempfile.TemporaryDirectory() as cache, ExitStack() as stack:
        spent = {name: [0.0, 0.0] for name in (*STAGES, "all", "again")}
        for stage, (called, _) in STAGES.items():
            stack.enter_context(_timed_calls(called, spent[stage]))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        with _timed(spent["all"]):
            splits = _prepare(files, task, tokenizer, Path(cache), audit=True)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        with _timed(spent["again"]):
            _prepare(files, task, tokenizer, Path(cache), audit=False)
        train = splits["train"]
        tokens = len(train.sources.values) + len(train.targets.values)
        return Found(
            {name: wall for name, (wall, _) in spent.items()},
            {name: computing / wall for name, (wall, computing) in spent.items()},
            tokens / len(train),
            (peak, before),
        )


def _prepare(
    files: dict[str, Path], task: Any, tokenizer: Any, cache: Path, audit: bool
) -> dict[str, Any]:
    from workflow.data import audit as auditing
    from workflow.data.source import DataSource
    from workflow.data.token_cache import prepare_splits

    splits = prepare_splits(DataSource(files, ["train", "eval"]), task, tokenizer, cache)
    if audit:  # its report is cached as well
        limits = {"prompts": 512, "completions": 128}
        auditing.audit_splits(splits, task.shape, auditing.Damage(tokenizer), limits)
    return dict(splits)


@contextmanager
def _timed(spent: list[float]) -> Iterator[None]:
    """Add the seconds, and those that all threads computed, to `spent`."""
    wall, computing = time.perf_counter(), time.process_time()
    yield
    spent[0] += time.perf_counter() - wall
    spent[1] += time.process_time() - computing


def _timed_calls(name: str, spent: list[float]) -> Any:
    """A patch of a function that times its calls."""
    patch = mock.patch(name, autospec=True)
    original: Callable[..., Any] = patch.get_original()[0]

    def timed(*given: Any, **named: Any) -> Any:
        with _timed(spent):
            return original(*given, **named)

    return mock.patch(name, timed)


def report(arguments: argparse.Namespace, found: dict[Path, list[Found]]) -> str:
    """The section of docs/operate/performance.md that this benchmark writes."""
    tokens = " and ".join(f"{trials[0].tokens:.0f}" for trials in found.values())
    names = {name: told for name, (_, told) in STAGES.items()}
    names |= {"all": "**ready**", "again": "a second start"}
    lines = [
        f"`python3 -m benchmarks prepare` makes {arguments.records:,} records of whole sentences,",
        f"{tokens} tokens each, in {'JSON Lines' if arguments.lines else 'one JSON file'}, and "
        "prepares them as the first start of a job",
        f"does. Rounds in turn: {arguments.rounds}; medians in seconds, with the least and the "
        "greatest in brackets,",
        "and the cores that computed on average.",
        "",
        "| | " + " | cores | ".join(f"`{path.name}`" for path in found) + " | cores |",
        "|---|" + "---|---|" * len(found),
    ]
    for name, told in names.items():
        cells = [
            f"{spread([one.seconds[name] for one in trials])} | {trials[-1].cores[name]:.1f}"
            for trials in found.values()
        ]
        lines.append(f"| {told} | {' | '.join(cells)} |")
    lines.append("")
    for path, trials in found.items():
        peak, before = (
            max(sizes) for sizes in zip(*(one.gigabytes for one in trials), strict=True)
        )
        lines.append(f"Memory with `{path.name}`: {peak:.2f} GB, {before:.2f} GB before the start.")
    return "\n".join([*lines, "", machine(matrix_rates()), ""])
