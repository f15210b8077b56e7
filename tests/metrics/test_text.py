"""Metrics have known values; those of texts equal the libraries'."""

import json
import logging
import math
import random
import string
import time
import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import sacrebleu
from conftest import SHARED_DATA
from rouge_score.rouge_scorer import RougeScorer

from workflow.metrics import bootstrap, rouge
from workflow.metrics import text as judging
from workflow.metrics.names import is_better, perplexity
from workflow.metrics.text import TextMetrics, normalized

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
HEADLINES = {"exact_match", "normalized_exact_match", *ROUGE, "rougeL_unicode", "bleu", "chrf"}
REFERENCES = [
    "The capital of France is Paris.",
    "45 kilometers is 45000 meters.",
    "Although it was raining, they went for a walk.",
    "First, boil the water.\nThen add the noodles & wait.\n\nServe hot.",
    "Zürich liegt an der Limmat – „schön“, nicht wahr?",
    "東京は日本の首都です。",
    "He goes to the park every day; she doesn't.",
    "yes",
]
ANSWERS = [
    "The capital of France is Paris.",
    "45 kilometers are 45,000 meters",
    "They went for a walk although it was raining .",
    "Boil water.\nAdd noodles &amp; wait.\nThen serve the noodles hot.",
    "Zürich liegt an der Aare",
    "東京は日本の都市です。",
    "",
    "no",
]


def damaged(text: str, seed: int) -> str:
    """The text with some words removed and some swapped."""
    draw = random.Random(seed)
    words = [word for word in text.split(" ") if draw.random() > 0.1]
    for i in range(len(words) - 1):
        if draw.random() < 0.1:
            words[i], words[i + 1] = words[i + 1], words[i]
    return " ".join(words)


def single(texts: Sequence[str]) -> list[list[str]]:
    return [[text] for text in texts]


def text_metrics(
    answers: Sequence[Sequence[str]], references: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    judged = TextMetrics(seed)
    for texts, reference in zip(answers, references, strict=True):
        judged.add(texts, [reference])
    return judged.result()


def expected_metrics(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """The libraries' own values, computed as documented."""
    scorer = RougeScorer(ROUGE, use_stemmer=False)
    scores = [scorer.score(r, t) for t, r in zip(texts, references, strict=True)]
    rouge = {name: float(np.mean([s[name].fmeasure for s in scores])) for name in ROUGE}
    return rouge | {
        "bleu": sacrebleu.corpus_bleu(texts, [references]).score,
        "chrf": sacrebleu.corpus_chrf(texts, [references]).score,
    }


def assert_equal_metrics(texts: Sequence[str], references: Sequence[str]) -> None:
    measured = text_metrics(single(texts), references)
    expected = expected_metrics(texts, references)
    for name in ROUGE:
        assert measured[name] in (None, pytest.approx(expected[name], rel=1e-12))
    assert measured["bleu"] in (None, expected["bleu"])
    assert measured["chrf"] == expected["chrf"]
    same = [text.strip() == r.strip() for text, r in zip(texts, references, strict=True)]
    assert measured["exact_match"] == sum(same) / len(same)


def test_exact_match_counts_equal_texts() -> None:
    measured = text_metrics([["a"], [" b "], ["c"]], ["a", "b", "C"])
    assert measured["exact_match"] == pytest.approx(2 / 3)


def test_perplexity_is_exp_of_the_loss_or_none() -> None:
    assert perplexity(math.log(7)) == pytest.approx(7)
    assert perplexity(None) is None
    assert perplexity(1e6) is None
    assert perplexity(math.nan) is None


@pytest.mark.parametrize(
    ("metric", "value", "best", "better"),
    [
        ("loss", 1.0, 2.0, True),
        ("loss", 2.0, 1.0, False),
        ("exact_match", 0.5, 0.4, True),
        ("exact_match", 0.4, 0.4, False),
        ("loss", 5.0, None, True),
        ("loss", None, None, False),
        ("loss", math.nan, 1.0, False),
    ],
)
def test_better_depends_on_the_metric(
    metric: str, value: float | None, best: float | None, better: bool
) -> None:
    assert is_better(metric, value, best) is better


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Eiffel\n Tower!", "eiffel tower"),
        ("an apple, a pear and theory", "apple pear and theory"),
        ("U.S.A.", "usa"),
        ("don't", "dont"),
        ("a-team", "ateam"),
        ("1,000.5", "10005"),
        ("Zürich – schön", "zürich – schön"),
        ("THE", ""),
        ("", ""),
    ],
)
def test_normalized_equals_squad(text: str, expected: str) -> None:
    assert normalized(text) == expected


def test_text_metrics_equal_the_libraries() -> None:
    assert_equal_metrics(ANSWERS, REFERENCES)


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared example data is missing")
def test_text_metrics_of_damaged_completions_equal_the_libraries() -> None:
    records = json.loads((SHARED_DATA / "instruct.json").read_text())["train"][:150]
    references = [record["completion"] for record in records]
    assert_equal_metrics([damaged(r, seed) for seed, r in enumerate(references)], references)


@pytest.mark.parametrize("index", range(len(REFERENCES)))
def test_one_record_has_an_interval_of_width_0(index: int) -> None:
    text, reference = ANSWERS[index], REFERENCES[index]
    assert_equal_metrics([text], [reference])
    measured = text_metrics([[text]], [reference])
    for name in HEADLINES:
        none = measured[name] is None
        assert measured[f"{name}_ci95"] == (None if none else [measured[name], measured[name]])


def test_the_fields_of_one_sample() -> None:
    measured = text_metrics(single(ANSWERS), REFERENCES)
    intervals = {f"{name}_ci95" for name in HEADLINES}
    assert set(measured) == HEADLINES | intervals | {"bleu_signature", "chrf_signature"}
    assert measured["exact_match"] == 1 / 8
    assert measured["normalized_exact_match"] == 1 / 8
    assert measured["bleu_signature"] == (
        "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"
    )
    assert measured["chrf_signature"] == (
        "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0"
    )
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured


def test_several_samples_add_the_best_and_the_mean() -> None:
    answers = [["Four.", "four", "a four"], ["x y", "x z", "x z"]]
    measured = text_metrics(answers, ["four", "x z"])
    assert measured["exact_match"] == 0
    assert measured["exact_match_best_of_n"] == 1
    assert measured["exact_match_mean_of_n"] == pytest.approx(3 / 6)
    assert measured["normalized_exact_match"] == 0.5
    assert measured["normalized_exact_match_best_of_n"] == 1
    assert measured["normalized_exact_match_mean_of_n"] == pytest.approx(5 / 6)
    assert measured["rougeL"] == pytest.approx((1 + 1 / 2) / 2)
    assert measured["rougeL_best_of_n"] == 1
    assert measured["rougeL_mean_of_n"] == pytest.approx((1 + 1 + 2 / 3 + 1 / 2 + 1 + 1) / 6)
    assert measured["distinct_samples"] == pytest.approx((1 + 2 / 3) / 2)


def test_more_samples_do_not_change_the_headlines() -> None:
    first = text_metrics(single(ANSWERS), REFERENCES)
    more = text_metrics([[text, "other"] for text in ANSWERS], REFERENCES)
    assert {name: more[name] for name in first} == first


def test_intervals_are_seeded_and_hold_the_value() -> None:
    answers = single([damaged(r, 3) for r in REFERENCES * 4])
    measured = text_metrics(answers, REFERENCES * 4)
    assert text_metrics(answers, REFERENCES * 4) == measured
    other = text_metrics(answers, REFERENCES * 4, seed=1)
    for name in HEADLINES:
        low, high = measured[f"{name}_ci95"]
        assert low < measured[name] < high
        assert other[name] == measured[name]
    assert other["bleu_ci95"] != measured["bleu_ci95"]


def test_intervals_shrink_with_the_root_of_the_records() -> None:
    few = text_metrics(single(ANSWERS) * 5, REFERENCES * 5)
    many = text_metrics(single(ANSWERS) * 45, REFERENCES * 45)
    for name in HEADLINES:
        widths = [high - low for low, high in (few[f"{name}_ci95"], many[f"{name}_ci95"])]
        assert 2.4 < widths[0] / widths[1] < 3.6, name


def test_intervals_equal_those_of_explicit_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 60)
    monkeypatch.setattr(bootstrap, "COUNTS_AT_ONCE", 100)
    measured = text_metrics(single(ANSWERS), REFERENCES, seed=5)
    generator = np.random.default_rng(5)
    values = []
    for _ in range(60):
        drawn = generator.integers(len(REFERENCES), size=len(REFERENCES))
        texts, references = [ANSWERS[i] for i in drawn], [REFERENCES[i] for i in drawn]
        same = float(np.mean([a == b for a, b in zip(texts, references, strict=True)]))
        values.append(expected_metrics(texts, references) | {"exact_match": same})
    for name in values[0]:
        expected = np.percentile([value[name] for value in values], [2.5, 97.5]).tolist()
        assert measured[f"{name}_ci95"] == pytest.approx(expected, rel=1e-9, abs=1e-12), name


def test_the_interval_of_a_share_is_nearly_normal() -> None:
    answers = single(["right"] * 300 + ["wrong"] * 700)
    low, high = text_metrics(answers, ["right"] * 1_000)["exact_match_ci95"]
    half = 1.96 * math.sqrt(0.3 * 0.7 / 1_000)
    assert (low, high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.004)


def test_no_references_give_no_metrics() -> None:
    assert text_metrics([], []) == {}


@pytest.mark.parametrize(
    "answers", [[["a"], []], [[], []], [["a"], ["b", "c"]], [["a", "b"], ["c"]]]
)
def test_different_numbers_of_predictions_are_refused(answers: list[list[str]]) -> None:
    with pytest.raises(
        ValueError, match="every record needs the same number of predictions, at least"
    ):
        text_metrics(answers, ["a", "b"])


def test_an_empty_prediction_matches_an_empty_reference() -> None:
    texts = ["one two three four", "", "", "a"]
    references = ["one two three four", "", " ", ""]
    measured = text_metrics(single(texts), references)
    for name in HEADLINES - {"bleu", "chrf"}:
        assert measured[name] == 3 / 4, name
    assert measured["bleu"] == sacrebleu.corpus_bleu(texts, [references]).score < 100
    assert measured["chrf"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("text", "reference", "same"),
    [("+", "-", 0), ("+", "+", 1), ("", "?", 0), ("A.", "a", 1), ("", "A", 0), ("the", "A", 0)],
)
def test_texts_that_normalize_to_nothing_are_compared_by_words(
    text: str, reference: str, same: int
) -> None:
    assert text_metrics([[text]], [reference])["normalized_exact_match"] == same


@pytest.mark.parametrize(
    ("texts", "references"),
    [
        (["", ""], ["some words", "more of the words"]),
        (["!", "\n\n"], ["? ! . ,", "…"]),
        (["😀 \u200d", "\ud800"], ["😀", "İstanbul"]),
    ],
)
def test_texts_without_words(texts: list[str], references: list[str]) -> None:
    assert_equal_metrics(texts, references)


def test_correct_predictions_have_the_best_scores() -> None:
    texts = ["one two three four five", "six seven eight nine"]
    measured = text_metrics(single(texts), texts)
    for name in HEADLINES:
        full = 100 if name in ("bleu", "chrf") else 1
        assert measured[name] == pytest.approx(full)
        assert measured[f"{name}_ci95"] == pytest.approx([full, full])


def test_rouge_uses_the_first_words_of_long_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rouge, "ROUGE_WORDS", 5)
    text, reference = "a-b\n\nC d;e!f g h i j k", "a b c d e x y z x y z x y z"
    measured = text_metrics([[text]], [reference])
    scorer = RougeScorer(ROUGE)
    for name, score in scorer.score("a b c d e", "a-b\n\nC d;e").items():
        assert measured[name] == score.fmeasure
    assert measured["bleu"] == sacrebleu.corpus_bleu([text], [[reference]]).score


@pytest.mark.parametrize("piece", ["word ", "a-", "x", "!\n", "é ", "\n", "中"])
def test_long_texts_are_fast(piece: str) -> None:
    text = piece * (100_000 // len(piece))
    began = time.perf_counter()
    text_metrics([[text]], [text[::-1]])
    assert time.perf_counter() - began < 30


def test_the_users_logging_is_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.Logger("root")
    monkeypatch.setattr(logging, "root", root)
    text_metrics([["a"]], [string.printable])
    assert root.handlers == []


def peak_of_judging(records: int) -> int:
    """Peak memory of the metrics of `records` records, in bytes."""
    text_metrics(single(ANSWERS), REFERENCES)  # what is loaded once
    tracemalloc.start()
    judged = TextMetrics()
    judged.add(["a"], ["b"])
    for i in range(records):
        judged._first.add(float(value) for value in judged_row(i))
    judged.result()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def judged_row(index: int) -> list[float]:
    """Memory per record of a few hundred characters: flags, F-measures, counts."""
    counts = [*([index % 90] * 10), *([index % 400] * 18)]
    return [index % 2, 0, *([1 / (index + 3)] * 5), 1, 1, 1, 1, *counts]


def test_a_record_takes_few_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 2)
    monkeypatch.setattr(bootstrap, "ROWS_AT_ONCE", 256)
    few, many = peak_of_judging(2_000), peak_of_judging(20_000)
    assert many - few < 120 * 18_000


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 20])
def test_columns_hold_every_number_exactly(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "ROWS_AT_ONCE", 8)
    generator = np.random.default_rng(rows)
    table = np.column_stack(
        [
            generator.integers(2, size=rows),
            generator.integers(254, 258, size=rows),
            generator.integers(65_530, 65_540, size=rows),
            generator.integers(2**32 - 2, 2**32 + 2, size=rows),
            generator.random(rows),
            generator.integers(-3, 3, size=rows),
        ]
    ).astype(np.float64)
    columns = bootstrap.Columns(6)
    for row in table.tolist():
        columns.add(row)
    assert columns.rows == rows
    assert np.array_equal(np.vstack(list(columns.blocks())), table)
    assert columns.sums() == [float(column.copy().sum()) for column in table.T]
    counts = generator.integers(5, size=(3, rows)).astype(np.uint8)
    sums = bootstrap.weighted_sums(counts, columns.blocks())
    np.testing.assert_allclose(sums, counts.astype(np.float64) @ table, rtol=1e-12)


def test_many_blocks_give_the_metrics_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [[damaged(r, seed), damaged(r, seed + 1)] for seed, r in enumerate(REFERENCES * 6)]
    monkeypatch.setattr(bootstrap, "RESAMPLES", 50)
    whole = text_metrics(answers, REFERENCES * 6)
    monkeypatch.setattr(bootstrap, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(judging, "TEXTS_REMEMBERED", 5)
    in_blocks = text_metrics(answers, REFERENCES * 6)
    assert list(in_blocks) == list(whole)
    for name, value in whole.items():
        if name.endswith("_ci95"):
            assert in_blocks[name] == pytest.approx(value, rel=1e-12)
        else:
            assert in_blocks[name] == value, name


def test_of_several_references_the_best_counts() -> None:
    """BLEU and chrF are sacrebleu's own of several; records may have different numbers."""
    texts = ["a small cat sat here now", "it went away quickly then", "x"]
    references = [
        ("the small cat sat down there", "a small cat was here now"),
        ("it went away", "then it quickly went away"),
        ("y", "X"),
    ]
    judged = TextMetrics()
    alone = [TextMetrics(), TextMetrics()]
    for text, own in zip(texts, references, strict=True):
        judged.add([text], own)
        for metrics, reference in zip(alone, own, strict=True):
            metrics.add([text], [reference])
    found = judged.result()
    streams = [list(stream) for stream in zip(*references, strict=True)]
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(texts, streams).score)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(texts, streams).score)
    assert (found["exact_match"], found["normalized_exact_match"]) == (0, 1 / 3)
    scorer = RougeScorer(ROUGE)
    for name in ROUGE:
        best = [
            max(scorer.score(reference, text)[name].fmeasure for reference in own)
            for text, own in zip(texts, references, strict=True)
        ]
        assert found[name] == pytest.approx(sum(best) / 3)
    judged.add(["a b c d"], ["a b c d"])
    assert judged.result()["exact_match"] == 1 / 4
