"""The example data of the tutorial on prompt tuning, and the metric that its page shows."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from workflow.metrics.user import apply_user_metric, load_user_metric

FILE = ROOT / "mount" / "data" / "paraphrases.json"
PAGE = ROOT / "docs" / "tutorial_soft_prompt.md"
START = "Paraphrase: "


@pytest.fixture(scope="module")
def data() -> dict[str, list[dict[str, str]]]:
    read: dict[str, list[dict[str, str]]] = json.loads(FILE.read_text(encoding="utf-8"))
    return read


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def test_remaking_gives_the_same_file(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "make_paraphrases.py"
    subprocess.run([sys.executable, script, "--output", tmp_path / "made.json"], check=True)
    assert (tmp_path / "made.json").read_bytes() == FILE.read_bytes()
    assert FILE.stat().st_size < 150_000


def test_no_text_occurs_twice(data: dict[str, list[dict[str, str]]]) -> None:
    assert {split: len(records) for split, records in data.items()} == {"train": 360, "eval": 60}
    records = data["train"] + data["eval"]
    texts = [record["prompt"].removeprefix(START) for record in records]
    texts += [record["completion"] for record in records]
    assert len(set(texts)) == len(texts) == 2 * 420


def test_paraphrases_reword_and_keep_the_numbers(data: dict[str, list[dict[str, str]]]) -> None:
    for record in data["train"] + data["eval"]:
        assert record["prompt"].startswith(START)
        sentence = words(record["prompt"].removeprefix(START))
        paraphrase = words(record["completion"])
        assert sentence != paraphrase
        numbers = [sorted(filter(str.isdigit, text)) for text in (sentence, paraphrase)]
        assert numbers[0] == numbers[1], record
        assert not re.search(r"[{}|]|\s\s", record["prompt"] + record["completion"])
        assert record["completion"][-1] in ".?"


def test_eval_records_have_words_that_train_lacks(
    data: dict[str, list[dict[str, str]]],
) -> None:
    seen = {word for record in data["train"] for word in words(record["prompt"])}
    assert not [record for record in data["eval"] if seen.issuperset(words(record["prompt"]))]
    patterns = [record["pattern"] for record in data["eval"]]
    assert patterns == ["known"] * 30 + ["new"] * 30


def test_the_metric_of_the_page(tmp_path: Path) -> None:
    block = re.search(r'```python title="copies.py"\n(.*?)```', PAGE.read_text(), re.DOTALL)
    assert block is not None
    (tmp_path / "copies.py").write_text(block[1])
    share = load_user_metric(f"{tmp_path / 'copies.py'}:share")
    records: list[dict[str, Any]] = [
        {"prompt": "Paraphrase: It rained for 3 days.", "completion": "X", "pattern": pattern}
        for pattern in ("known", "known", "new", "new")
    ]
    answers = [["it rained for 3 days"], ["It rained for days."], ["X"], ["3 days of rain."]]
    assert apply_user_metric(share, "share", records, answers) == {
        "share_copied": 0.25, "share_numbers_kept": 0.5, "share_known": 0, "share_new": 0.5,
    }  # fmt: skip
