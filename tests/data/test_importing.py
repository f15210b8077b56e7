"""Files with other layouts become data files that the program reads."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workflow.cli.main import main
from workflow.data.reading import check_records
from workflow.data.schema import Record
from workflow.data.source import DataSource
from workflow.runs.mount import Mount, find_data
from workflow.tasks import task_for

CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "Thanks"},
]
SHARED = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]
ARENA = {"id": 7, "model_a": "x", "model_b": "y", "winner_model_a": 0}
ARENA |= {"winner_model_b": 1, "winner_tie": 0}
LAYOUTS: dict[str, tuple[Record, Record]] = {
    "Alpaca": (
        {"instruction": "Add.", "input": "2 + 2", "output": "4"},
        {"prompt": "Add.\n\n2 + 2", "completion": "4"},
    ),
    "Alpaca without input": (
        {"instruction": "Name a prime.", "input": "", "output": "7"},
        {"prompt": "Name a prime.", "completion": "7"},
    ),
    "ShareGPT": ({"id": "a", "conversations": SHARED}, {"prompt": "Hello", "completion": "Hi"}),
    "OpenAI chat": (
        {"messages": CHAT},
        {
            "prompt": "system: Be short.\nuser: Hello\nassistant: Hi\nuser: 2 + 2?",
            "completion": "4",
        },
    ),
    "OpenAI completions": (
        {"prompt": "Is it so?\n\n###\n\n", "completion": " yes END"},
        {"prompt": "Is it so?", "completion": "yes"},
    ),
    "Chatbot Arena": (
        ARENA | {"prompt": "[\"2?\", \"3?\"]", "response_a": "[\"4\", null]"}
        | {"response_b": "[\"two\", \"three\"]"},
        {"prompt": "2?\n\n3?", "response_a": "4\n\n", "response_b": "two\n\nthree", "label": "b"},
    ),
    "Chatbot Arena, lists": (
        ARENA | {"prompt": ["2?"], "response_a": ["4"], "response_b": ["two"]},
        {"prompt": "2?", "response_a": "4", "response_b": "two", "label": "b"},
    ),
    "SQuAD": (
        {"context": "It rains.", "question": "What?", "answers": {"text": ["rain", "it"]}},
        {"prompt": "It rains.\n\nWhat?", "completion": "rain"},
    ),
    "SAMSum": (
        {"id": "1", "dialogue": "A: Hi\r\nB: Hi", "summary": "They greet."},
        {"prompt": "A: Hi\r\nB: Hi", "completion": "They greet."},
    ),
    "translation": (
        {"translation": {"en": "cheese", "de": "Käse"}},
        {"prompt": "cheese", "completion": "Käse"},
    ),
    "preferences": (
        {"prompt": "2?", "chosen": "4", "rejected": "5", "source": "x"},
        {"prompt": "2?", "chosen": "4", "rejected": "5"},
    ),
    "text, label": ({"text": "Buy!", "label": 1}, {"input": "Buy!", "label": "1"}),
    "input, label": ({"input": "Buy!", "label": "spam"}, {"input": "Buy!", "label": "spam"}),
    "input, target": ({"input": "So?", "target": "0.5"}, {"input": "So?", "target": 0.5}),
    "pairs": (
        {"prompt": "2?", "response_a": "4", "response_b": "", "label": "a"},
        {"prompt": "2?", "response_a": "4", "response_b": "", "label": "a"},
    ),
    "question, answer": (
        {"question": "2?", "answer": "4"},
        {"prompt": "2?", "completion": "4"},
    ),
}  # fmt: skip


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    made = Mount(tmp_path / "mount")
    made.data.mkdir(parents=True)
    return made


Import = Callable[..., dict[str, Any]]


@pytest.fixture
def imported(mount: Mount, tmp_path: Path) -> Import:
    """Import files of these contents, and return what is written."""

    def run(content: bytes | str, *words: str, name: str = "given.csv") -> dict[str, Any]:
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        command = ["import", str(file), "new", "--mount", str(mount.root), "--overwrite", *words]
        assert main(command) == 0
        return read_as_a_job(mount)

    return run


def read_as_a_job(mount: Mount, name: str = "new") -> dict[str, list[Record]]:
    """The records that the program reads from an imported file, which must be all of them."""
    files, problems = find_data(mount, name)
    assert not problems
    written = json.loads(files[""].read_text())
    first = next(part[0] for part in written.values() if part)
    task = task_for("seq2seq" if "completion" in first else "clf", first)
    found: dict[str, list[Record]] = {}
    splits = [split for split in ("train", "eval") if written.get(split)]
    check_records(
        DataSource(files, splits), task.schema,
        lambda name, record: found.setdefault(name, []).append(record),
    )  # fmt: skip
    assert found == {name: part for name, part in written.items() if part}
    return found


def dropped(mount: Mount) -> list[tuple[str, str]]:
    """The place and reason of each dropped record."""
    path = mount.data / "new.dropped.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [(line["place"], line["reason"]) for line in lines]
