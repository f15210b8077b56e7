"""The audit finds texts that lack what most have, and eval prompts that are nearly in train."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_audit import audit
from transformers import ByT5Tokenizer

from workflow.core.tables import as_lines
from workflow.data.audit import figures, render, warnings_of
from workflow.data.audit.habits import LONGEST, _ending
from workflow.data.audit.near import FEWEST, NEAR, WINDOW, NearPrompts, loose_hash
from workflow.data.records import Record
from workflow.data.shapes.texts import Instructions
from workflow.data.token_cache import Ragged
from workflow.tasks.language_modeling import LanguageModeling
from workflow.tasks.seq2seq import Seq2Seq

WORDS = [
    "add",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "and",
    "the",
    "of",
    "a",
]


def texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [f"{number} " + " ".join(draw.choices(WORDS, k=9)) for number in range(count)]


def records(count: int, prompt: str = "{}", completion: str = "{}", seed: int = 0) -> list[Record]:
    pairs = zip(texts(count, seed), texts(count, seed + 1), strict=True)
    return [{"prompt": prompt.format(a), "completion": completion.format(b)} for a, b in pairs]


@pytest.fixture(scope="module")
def byte_tokenizer() -> Any:
    """A tokenizer that loses nothing."""
    return ByT5Tokenizer()


def found(report: Any) -> list[str]:
    """The warnings about habits and near prompts; those about damaged characters are for others."""
    words = ("without the", "whitespace at the start", "nearly in")
    return [str(one) for one in warnings_of(report) if any(word in one.text for word in words)]


# --- habits --------------------------------------------------------------------------------------


def test_separators_and_stops_that_some_texts_lack(tmp_path: Path, tokenizer: Any) -> None:
    train = records(97, "{} ->", "{} END") + records(3, "{}", "{} END", seed=2)
    train += records(2, "{} ->", "{}", seed=4)
    evaluation = records(5, seed=6)
    report = audit(tmp_path, tokenizer, {"train": train, "eval": evaluation})
    ends = report["splits"]["train"]["habits"]
    assert ends["prompt_ends"] == {
        "mark": " ->", "having": 99, "count": 3,
        "examples": [f"train[{i}] {train[i]['prompt'][-20:]!r}" for i in (97, 98, 99)],
    }  # fmt: skip
    assert ends["completion_ends"] == {
        "mark": " END", "having": 100, "count": 2,
        "examples": [f"train[{i}] {train[i]['completion'][-20:]!r}" for i in (100, 101)],
    }  # fmt: skip
    shown = {
        (i, key): f"e.g. train[{i}] {train[i][key][-20:]!r}" for i in (97, 100) for key in train[0]
    }
    lacks = (
        f"e.g. eval[0] {evaluation[0]['prompt'][-20:]!r}",
        f"e.g. eval[0] {evaluation[0]['completion'][-20:]!r}",
    )
    assert found(report) == [  # that all of eval lack it is worse
        "eval: 5 prompts without the ending ' ->' that 97.1% of train have, "
        f"{lacks[0]}. Hint: add it, or let no prompt have one",
        "eval: 5 completions without the ending ' END' that 98.0% of train have, "
        f"{lacks[1]}. Hint: add it, or remove it from all",
        "train: 3 prompts without the ending ' ->' that 97.1% of train have, "
        f"{shown[97, 'prompt']}. Hint: add it, or let no prompt have one",
        "train: 2 completions without the ending ' END' that 98.0% of train have, "
        f"{shown[100, 'completion']}. Hint: add it, or remove it from all",
    ]


def test_starts_of_completions(tmp_path: Path, byte_tokenizer: Any) -> None:
    for most, other, line in (
        (" {}", "{}", "1 completion without the start ' ' that 97.5% of train have"),
        (" {}", "\n{}", "1 completion without the start ' ' that 97.5% of train have"),
        ("{}", " {}", "1 completion with whitespace at the start, unlike 97.5% of train"),
    ):
        train = records(39, completion=most) + records(1, completion=other, seed=2)
        report = audit(tmp_path, byte_tokenizer, {"train": train})
        shown = f"e.g. train[39] {train[39]['completion'][:20]!r}"
        assert found(report) == [f"train: {line}, {shown}. Hint: begin all completions alike"]


def test_lost_whitespace_has_one_warning(tmp_path: Path, tokenizer: Any) -> None:
    train = records(39) + records(1, completion=" {}", seed=2)
    report = audit(tmp_path, tokenizer, {"train": train})
    assert report["splits"]["train"]["habits"]["completion_starts"]["count"] == 1
    assert found(report) == []
    assert any("lost leading or trailing" in one.text for one in warnings_of(report))


NO_HABITS: dict[str, list[Record]] = {
    "none": records(100),
    "all": records(100, "{}\n###\n", " {} END"),
    "few": records(18, "{} ->", "{} END") + records(1, seed=2),
    "too many exceptions": records(79, "{} ->", " {} END") + records(21, seed=2),
    "sentences": records(90, "{}?", "{}.") + records(10, "{}", "{}!", seed=2),
    "classes": [{"prompt": t, "completion": "no" if t[0] == "1" else "yes"} for t in texts(99)],
    "one answer": [
        {"prompt": t, "completion": t if t[0] == "1" else "Sorry, I do not know that."}
        for t in texts(99)
    ],
    "parts of words": records(90, "{}like", "{}ing") + records(10, "{}ly", "{}ed", seed=2),
    "empty": records(50, "{} ->", "{} END") + [{"prompt": "", "completion": ""}] * 3,
}


@pytest.mark.parametrize("name", NO_HABITS)
def test_no_habit_no_warning(tmp_path: Path, byte_tokenizer: Any, name: str) -> None:
    assert found(audit(tmp_path, byte_tokenizer, {"train": NO_HABITS[name]})) == []


def test_a_habit_of_a_sorted_file(tmp_path: Path, tokenizer: Any) -> None:
    """The records that are exceptions come first, and are more than a chunk."""
    train = records(1500, "{}") + records(8500, "{} ->", seed=2)
    report = audit(tmp_path, tokenizer, {"train": train})
    assert report["splits"]["train"]["habits"]["prompt_ends"]["count"] == 1500
    assert report["splits"]["train"]["habits"]["prompt_ends"]["mark"] == " ->"


@given(st.lists(st.text(alphabet="ab ->.", max_size=6).map(lambda t: t + " ->"), min_size=20),
       st.lists(st.text(alphabet="ab ->.", max_size=6), max_size=9))  # fmt: skip
def test_an_ending_is_one_of_most_texts(having: list[str], others: list[str]) -> None:
    ending = _ending(having + others)
    count = sum(text.endswith(ending) for text in having + others)
    assert not ending or (count >= 0.8 * len(having + others) and len(ending) <= LONGEST)


# --- near prompts --------------------------------------------------------------------------------


def test_near_prompts(tmp_path: Path, tokenizer: Any) -> None:
    question = " ".join(texts(6, seed=9))
    train = [
        {"prompt": text, "completion": "yes"}
        for text in (*texts(30), question, "Is 1.5 < 2?", "Who was it?")
    ]
    prompts = [
        texts(30)[4],  # the same
        "Is  1,5 < 2 ?!",  # the same words
        "is 1.5 > 2?",
        question.replace("two", "six", 1),  # one word of many changed
        f"Well: {question} Say it.",
        question.replace("two", "six").replace("the", "a").replace("one", "ten"),
        "Who was he?",  # too short to tell
    ]
    report = audit(
        tmp_path, tokenizer,
        {"train": train, "eval": [{"prompt": text, "completion": "no"} for text in prompts]},
    )  # fmt: skip
    assert report["eval_prompts_in_train"]["count"] == 1
    near = report["eval_prompts_near_train"]
    assert near["count"] == 3
    assert [example.split(" '")[0] for example in near["examples"]] == [
        "train[31] ~ eval[1]", "train[30] ~ eval[3]", "train[30] ~ eval[4]",
    ]  # fmt: skip
    (line,) = found(report)
    assert line == (
        "eval: 3 records nearly in train (the same words, or 80% of the 8-token windows), "
        "e.g. train[31] ~ eval[1] 'Is  1,5 < 2 ?!'. Hint: check whether one gives away another"
    )


def test_near_texts_without_prompts(tmp_path: Path, tokenizer: Any) -> None:
    story = " ".join(texts(9, seed=9))
    train = [{"text": text} for text in (*texts(5), story)]
    data = {"train": train, "eval": [{"text": story + " So it ends."}, {"text": story[:20]}]}
    report = audit(tmp_path, tokenizer, data, LanguageModeling(before=(1,)))
    assert report["shape"] == "text"
    (example,) = report["eval_prompts_near_train"]["examples"]
    assert example.startswith("train[5] ~ eval[0] ")


def test_a_template_is_not_near(tmp_path: Path, tokenizer: Any) -> None:
    """Prompts that share a long text, and differ in a few words."""
    shared = " ".join(texts(9, seed=7))
    data = {
        name: [
            {"prompt": f"{shared} question: {a * 7} plus {b}?", "completion": "so"}
            for a, b in zip(range(start, start + count), texts(count, start), strict=True)
        ]
        for name, start, count in (("train", 0, 60), ("eval", 90, 5))
    }
    report = audit(tmp_path, tokenizer, data)
    assert report["eval_prompts_near_train"]["count"] == 0


def test_words_decide_not_their_form() -> None:
    same = ("Is it: 'so'?", "is it so", " IS (it) — so…\n", "is\u00a0it\tSo")
    assert len({loose_hash(text) for text in same}) == 1
    others = ("2 + 3", "2 - 3", "23", "2 3", "2.3", "?", "!", "")
    assert len({loose_hash(text) for text in others}) == len(others) - 1  # 2.3 is 2 3


def ragged(rows: list[list[int]]) -> Ragged:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return Ragged(np.array([i for row in rows for i in row], np.int32), offsets)


@pytest.mark.parametrize("seed", range(5))
def test_near_prompts_are_those_of_a_plain_comparison(seed: int) -> None:
    draw = random.Random(seed)
    train = [[draw.randrange(500) for _ in range(draw.choice([0, 5, 20, 60]))] for _ in range(300)]
    evaluation = []
    for number in range(80):
        row = list(draw.choice(train))
        for _ in range(draw.randrange(4) if number % 2 else 0):
            row[draw.randrange(len(row)) if row else 0 :][:1] = [draw.randrange(500)]
        evaluation.append(row[: draw.choice([None, 15, 30])])
    near = NearPrompts(ragged(train), ragged(evaluation))
    for start in range(0, 300, 64):
        near.add(start, min(start + 64, 300))

    def windows(row: list[int]) -> set[tuple[int, ...]]:
        return {tuple(row[i : i + WINDOW]) for i in range(len(row) - WINDOW + 1)}

    each = [windows(row) for row in evaluation]
    for index, ours in enumerate(each):
        mine = {w for w in ours if sum(w in other for other in each) <= 3}
        mine = {w for w in mine if sum(w in windows(row) for row in train) <= 3}
        alike = [i for i, row in enumerate(train) if len(mine & windows(row)) >= NEAR * len(mine)]
        assert near.found.get(index) == (alike[0] if alike and len(mine) >= FEWEST else None)


# --- shapes --------------------------------------------------------------------------------------


def test_the_shape_of_the_records_is_reported(tmp_path: Path, tokenizer: Any) -> None:
    instruction = {"instruction": "Add.", "output": "4"}
    report = audit(tmp_path, tokenizer, {"train": [instruction]}, Seq2Seq(shape=Instructions()))
    assert report["shape"] == "instruction"
    assert as_lines(figures(report))[-1] == "shape of the records: instruction"
    report = audit(tmp_path, tokenizer, {"train": records(2)})
    assert "shape of the records: completion" in as_lines(render(report))
