"""Answers in a form, against hand computations, SQuAD's rules and sacrebleu."""

import math
from pathlib import Path

import pytest
import sacrebleu

from workflow.config.metric_kinds import AskedMetric
from workflow.core.errors import BadInput
from workflow.metrics.asked import check_files, measure_answers
from workflow.metrics.forms import as_json, choice, last_number, number_close, squad, ter
from workflow.metrics.measured import Answer, points, resampled


def answers(*pairs: tuple[str, str | tuple[str, ...]]) -> list[Answer]:
    """Answers with their reference or references."""
    return [
        Answer("", (text,), (references,) if isinstance(references, str) else references)
        for text, references in pairs
    ]


@pytest.mark.parametrize(
    ("text", "references", "equal", "f1"),
    [
        ("The Cat!", "cat", 1, 1),
        ("a black cat", ("cat", "black cat"), 1, 1),
        ("black cat sat", "the black dog", 0, 2 / 5),
        ("cat cat", "cat", 0, 2 / 3),
        ("dog", "cat", 0, 0),
        ("", "", 1, 1),
        ("the", "", 0, 0),
        ("cat", "", 0, 0),
    ],
)
def test_squad(text: str, references: str | tuple[str, ...], equal: int, f1: float) -> None:
    assert points(squad(answers((text, references)))) == {
        "squad_exact_match": equal,
        "squad_f1": pytest.approx(f1),
    }


@pytest.mark.parametrize(
    ("text", "reference", "valid", "exact"),
    [
        ('{"a": 1, "b": [2]}', '{"b": [2.0], "a": 1}', 1, 1),
        ('{"a": 1, "b": [2, 3]}', '{"b": [3, 2], "a": 1}', 1, 0),
        ("true", "1", 1, 0),
        ("[1, true]", "[1, true]", 1, 1),
        ("1e2", "100", 1, 1),
        ("0.1", "0.10000000000000000001", 1, 0),
        ("{'a': 1}", '{"a": 1}', 0, 0),
        ("NaN", "1", 0, 0),
        ("1e99999999999999999999", "1", 0, 0),
        ("[" * 100_000, "1", 0, 0),
        ("null", "no JSON", 1, None),
        ('```json\n{"a": 1}\n```', '{"a": 1}', 0, 0),
    ],
)
def test_json(text: str, reference: str, valid: int, exact: int | None) -> None:
    found = points(as_json(answers((text, reference))))
    assert found == {"json_valid": valid, "json_exact": exact}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so it is 1,234.5 in all", 1234.5),
        ("from 3 to -4", -4),
        ("3-4", 4),
        ("x−1 or −1", -1),
        ("1e3", 1000),
        ("a.b v2", None),
        ("no number", None),
        (".5", 0.5),
        ("costs $5.", 5),
        ("1e999", None),
    ],
)
def test_the_last_number(text: str, number: float | None) -> None:
    assert last_number(text) == number


def test_numbers_that_are_close() -> None:
    found = number_close(
        answers(("it is 100.5", "100"), ("99", "100"), ("0", "0"), ("none", "1"), ("1", "none")),
        tolerance=0.006,
    )
    assert list(found["number_close"].of_each) == [1, 0, 1, 0, None]
    assert points(found) == {"number_close": 0.5}
    assert points(number_close(answers(("100.009", "100")))) == {"number_close": 1}


def test_the_first_of_some_labels() -> None:
    found = choice(
        answers(
            ("It is Positive, not negative", "positive"),
            ("very positive", "very positive"),
            ("very positive", "positive"),
            ("unpositive", "positive"),
            ("positive", "something else"),
        ),
        ("positive", "negative", "very positive"),
    )
    assert list(found["choice"].of_each) == [1, 1, 0, 0, None]


def test_ter_of_several_references_is_sacrebleus() -> None:
    texts = ["a b c d", "e f g", ""]
    streams = [["a c b d", "e f", "h"], ["d c b a", "f g e h", "i j"]]
    rows = zip(texts, zip(*streams, strict=True), strict=True)
    found = ter([*answers(*rows), Answer("", ("without a reference",))])
    assert points(found)["ter"] == pytest.approx(sacrebleu.corpus_ter(texts, streams).score)
    assert points(ter([Answer("", ("a",))])) == {"ter": None}


def test_each_record_has_its_value_with_and_without_references(tmp_path: Path) -> None:
    """All metrics have terms of each answer, in order, so that they can be resampled together."""
    (tmp_path / "labels.txt").write_text("a\nb\n")
    asked = ["diversity", "copying", "ibleu", "ter", "squad", "json", "number_close", "same_script"]
    asked.append(f"choice:{tmp_path / 'labels.txt'}")
    mixed = [Answer("p", ("a 1",)), Answer("p q", ("",), ("a 1", "")), Answer("", ("{}",), ("",))]
    for some in (mixed, mixed[:1], mixed[1:]):
        measured = measure_answers(asked, some)
        for name, one in measured.items():
            assert len(one.terms) == len(some), name
            assert len(one.of_each) in (0, len(some)), name
        assert resampled(measured, seed=0).keys() == points(measured).keys()
    assert measure_answers(["same_script"], mixed)["same_script"].of_each[0] is None


def test_metrics_by_their_names(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("yes\nno\n")
    asked = ["number_close:0.5", f"choice:{labels}", "ibleu:0.5", "bartscore:m", "own.py:f"]
    found = points(measure_answers(asked, answers(("yes 3", "Yes, 4"))))
    assert found.keys() == {"number_close", "choice", "ibleu"}
    assert (found["number_close"], found["choice"]) == (1, 1)
    assert math.isfinite(found["ibleu"] or 0)
    with pytest.raises(BadInput) as caught:
        check_files(AskedMetric(f"choice:{tmp_path / 'none.txt'}"))
    where = f"--metric choice:{tmp_path / 'none.txt'}"
    assert str(caught.value) == (
        f"{where}: No such file or directory (expected a file with a text in each line). "
        "Hint: correct the path or the file."
    )
