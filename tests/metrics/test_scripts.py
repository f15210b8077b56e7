"""Texts in all scripts: their words, and the metrics that support them."""

from typing import Any

import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.tokenizers.tokenizer_re import TokenizerRegexp

from workflow.core.console import inform_once
from workflow.metrics import scripts
from workflow.metrics.text import ROUGE, TextMetrics, can_measure

METRICS = {
    "exact_match", "normalized_exact_match", *ROUGE, "rougeL_unicode", "bleu", "chrf",
}  # fmt: skip


@pytest.fixture(autouse=True)
def without_mecab(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the extras `ja` and `ko`, which an environment may have."""
    monkeypatch.setattr(scripts, "find_spec", lambda name: None)


@pytest.mark.parametrize(
    ("text", "unseen", "tokenize"),
    [
        ("भारत की राजधानी नई दिल्ली है", {*ROUGE}, "13a"),
        ("Москва — столица России.", {*ROUGE}, "13a"),
        ("Η Αθήνα είναι πρωτεύουσα", {*ROUGE}, "13a"),
        ("القاهرة هي عاصمة مصر", {*ROUGE}, "13a"),
        ("ירושלים היא עיר הבירה", {*ROUGE}, "13a"),
        ("서울은 대한민국의 수도 이다", {*ROUGE}, "13a"),
        ("北京是中国的首都。", {*ROUGE}, "zh"),
        ("東京は日本の首都です。", {*ROUGE}, "char"),
        ("กรุงเทพเป็นเมืองหลวง", {*ROUGE}, "char"),
        ("བོད་ཀྱི་རྒྱལ་ས་ལྷ་ས།", {*ROUGE}, "char"),
        ("मॉडल 2024 में आया था", {*ROUGE}, "13a"),
        ("Python 是一种编程语言", {*ROUGE}, "zh"),
        ("Python and numpy 是语言 too", set(), "13a"),
        ("12 34 56 78", set(), "13a"),
        ("the cat sat down", set(), "13a"),
        ("yes", {"rouge2", "bleu"}, "13a"),
        ("😀😀", {*ROUGE, "bleu"}, "13a"),
        ("!?", {*ROUGE, "bleu"}, "13a"),
        ("", {"bleu", "chrf"}, "13a"),
    ],
)
def test_correct_predictions_have_the_best_score_or_none(
    text: str, unseen: set[str], tokenize: str
) -> None:
    assert scripts.bleu_tokenizer([text]) == tokenize
    judged = TextMetrics(tokenize=tokenize)
    judged.add([text], [text])
    measured = judged.result()
    assert {name for name in METRICS if measured[name] is None} == unseen
    assert {name for name in METRICS if measured[f"{name}_ci95"] is None} == unseen
    for name in METRICS - unseen:
        assert measured[name] == pytest.approx(100 if name in ("bleu", "chrf") else 1), name
    for name in METRICS:
        assert can_measure(name, [text], tokenize) is (name not in unseen)
    notes = " ".join(judged.unseen())
    assert ("ROUGE only uses a-z" in notes) is ("rougeL" in unseen)
    assert ("rouge2 is null" in notes) is (unseen & {*ROUGE} == {"rouge2"})
    assert ("bleu is null" in notes) is ("bleu" in unseen)
    assert ("chrf is null" in notes) is ("chrf" in unseen)


def test_references_that_rouge_ignores_are_reported_with_their_share() -> None:
    for unseen, notes in [(1, []), (2, ["2 of 11 references (18%)"])]:
        judged = TextMetrics()
        for reference in ["one two three four"] * (11 - unseen) + ["दिल्ली"] * unseen:
            judged.add([reference], [reference])
        assert [notes[0] in one for one in judged.unseen()] == [True] * len(notes)
        assert judged.points()["rougeL"] == pytest.approx(1 - unseen / 11)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("नई दिल्ली, हिन्दी!", ["नई", "दिल्ली", "हिन्दी"]),
        ("Zürich's a_b 3.5", ["zürich", "s", "a_b", "3", "5"]),
        ("中文 and日本語ー", ["中", "文", "and", "日", "本", "語", "ー"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("❤\ufe0f 👩\u200d🚀", []),
        ("e\u0301t\u00e9", ["e\u0301t\u00e9"]),
    ],
)
def test_words_in_every_script(text: str, expected: list[str]) -> None:
    assert scripts.words(text) == expected


@pytest.mark.parametrize("tokenize", ["13a", "zh", "char"])
def test_the_caches_of_every_tokenizer_are_cleared(tokenize: str) -> None:
    judged = TextMetrics(tokenize=tokenize)
    judged.add(["东 a"], ["东 b"])
    judged.result()
    tokenizer: Any = type(BLEU(tokenize=tokenize).tokenizer)
    for cached in (tokenizer.__call__, TokenizerRegexp.__call__):
        assert cached.cache_info().currsize == 0


@pytest.mark.parametrize(
    ("references", "tokenizer"),
    [
        ([], "13a"),
        (["東京タワー", "京都"], "ja-mecab"),
        (["日本", "中国", "北京是中国的首都の"], "zh"),
        (["서울은 수도"], "ko-mecab"),
        (["one two three 中文", "four"], "13a"),
    ],
)
def test_an_installed_tokenizer_is_chosen(
    references: list[str], tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "find_spec", lambda name: name)
    assert scripts.bleu_tokenizer(references) == tokenizer


def test_the_extra_of_a_tokenizer_that_is_not_installed_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inform_once.cache_clear()
    with caplog.at_level("INFO", "workflow"):
        assert scripts.bleu_tokenizer(["서울은 수도"]) == "13a"
    assert caplog.messages == [
        "bleu: ko-mecab is not installed, using 13a. Hint: run scripts/setup --extra ko"
    ]


@pytest.mark.parametrize("count", [0, 1, 999, 1_000, 1_001, 54_321])
def test_references_are_sampled_evenly(count: int) -> None:
    places = scripts.inspected(count)
    assert min(count, 500) <= len(places) <= 1_000
    assert len(places) == count or places[-1] > count - 2 * places.step
