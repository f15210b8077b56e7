"""Diversity, copying, iBLEU and scripts, against hand computations and sacrebleu."""

import json
from pathlib import Path

import pytest
import sacrebleu

from workflow.metrics.copying import (
    copying,
    diversity,
    ibleu,
    main_script,
    same_script,
    without_instruction,
)
from workflow.metrics.measured import Answer, Measured, points, resampled

PROMPT = "Paraphrase: the cat sat on the red mat today"


def values(measured: dict[str, Measured]) -> dict[str, float | None]:
    return points(measured)


def test_distinct_counts_the_sequences_of_all_samples_of_a_record() -> None:
    answers = [Answer("", ("a b a b", "a b c")), Answer("", ("x", "x"))]
    found = values(diversity(answers))
    # Of the first record: 3 of 7 words, {ab, ba, bc} of 5 pairs, {aba, bab, abc} of 3 triples.
    assert found["distinct_1"] == pytest.approx((3 / 7 + 1 / 2) / 2)
    assert found["distinct_2"] == pytest.approx(3 / 5)
    assert found["distinct_3"] == pytest.approx(1)


def test_self_bleu_is_the_mean_of_each_sample_against_the_others() -> None:
    texts = ("the cat sat on the mat", "the cat sat on a mat", "a dog ran")
    expected = [
        sacrebleu.sentence_bleu(text, [other for other in texts if other != text]).score
        for text in texts
    ]
    found = values(diversity([Answer("", texts)]))
    assert found["self_bleu"] == pytest.approx(sum(expected) / 3)
    assert values(diversity([Answer("", ("a b c",))]))["self_bleu"] is None
    same = values(diversity([Answer("", ("one two three four",) * 2)]))
    assert same["self_bleu"] == pytest.approx(100)


def test_what_is_copied_from_the_prompt() -> None:
    answer = "today the red cat sat on the mat"  # in order: the cat sat on the mat; in a row: 4
    found = copying([Answer(PROMPT, (answer,), ("one two three four",))])
    assert values(found) == {
        "copied_words": pytest.approx(6 / 8),
        "copied_run": pytest.approx(4 / 8),
        "length_ratio": pytest.approx(8 / 4),
    }
    assert found["copied_run"].of_each == [0.5]
    none = values(copying([Answer(PROMPT, ("",))]))
    assert none == {"copied_words": None, "copied_run": None, "length_ratio": None}


def test_ibleu_against_sacrebleu(tmp_path: Path) -> None:
    prompts = [f"Say it otherwise: {text}" for text in ("a b c d e f", "g h i j k", "l m n o")]
    texts = ["a b c d x f", "g h i j k", "o n m l"]
    references = [("f e d c b a", "a b c d f"), ("k g h i j",), ("l m n o",)]
    answers = [
        Answer(prompt, (text,), own)
        for prompt, text, own in zip(prompts, texts, references, strict=True)
    ]
    streams = [[own[0] for own in references], [own[-1] for own in references]]
    good = sacrebleu.corpus_bleu(texts, streams).score
    copied = sacrebleu.corpus_bleu(texts, [["a b c d e f", "g h i j k", "l m n o"]]).score
    for alpha in (0.7, 0.8):
        found = ibleu([*answers, Answer(prompts[0], ("z",))], alpha)  # one without a reference
        assert values(found)["ibleu"] == pytest.approx(alpha * good - (1 - alpha) * copied)
    assert resampled(found, seed=0)["ibleu"].shape == (1000,)
    assert values(ibleu([Answer("p", ("a",))]))["ibleu"] is None


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        (["Do: a b\nNow", "Do: c d\nNow"], ["a b", "c d"]),
        (["Do: apple", "Do: apricot"], ["apple", "apricot"]),
        (["a", "b"], ["a", "b"]),
        (["only one prompt"], ["only one prompt"]),
        (["same", "same"], ["same", "same"]),
        (["x y", "x"], ["x y", "x"]),
    ],
)
def test_an_instruction_is_what_all_prompts_have(prompts: list[str], expected: list[str]) -> None:
    assert without_instruction(prompts) == expected


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Hallo, Welt 1", "LATIN"),
        ("привет, world", "CYRILLIC"),
        ("こんにちは世界", "CJK"),
        ("カタカナ", "CJK"),
        ("안녕 hi", "HANGUL"),
        ("12 !", ""),
    ],
)
def test_the_script_of_most_letters(text: str, script: str) -> None:
    assert main_script(text) == script


def test_answers_in_another_script_than_the_reference() -> None:
    answers = [
        Answer("", ("hello",), ("привет",)),
        Answer("", ("да",), ("привет",)),
        Answer("", ("x",), ("12",)),  # its script is unknown
        Answer("", ("x",)),
    ]
    assert values(same_script(answers)) == {"same_script": 0.5}


def test_the_values_are_json() -> None:
    found = diversity([Answer("", ("a b",))])
    json.dumps({name: list(one.of_each) for name, one in found.items()}, allow_nan=False)
