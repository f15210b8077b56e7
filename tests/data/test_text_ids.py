"""Texts become the tokenizer's ids; truncation keeps special tokens."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import T5_TINY
from tiny_models import make_multilingual
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from vocabularies import KINDS, LINES

from workflow.data.text_ids import (
    decode_texts,
    encode_texts,
    fingerprint,
    frame_of,
    keeps_its_settings,
    many_words_kept,
    source_ids,
    target_ids,
)
from workflow.data.token_cache import Ragged
from workflow.models.hub import load_tokenizer
from workflow.models.languages import set_languages


def make_words(**special: str) -> Any:
    """A word tokenizer that, like Gemma's, adds <bos> but no <eos>."""
    words = {word: i for i, word in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "yes", "no"])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", **special}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **names)


def test_targets_end_with_eos_and_have_one_start() -> None:
    words = make_words()
    assert source_ids(words, ["yes no"]) == [[2, 4, 5]]
    assert target_ids(words, ["yes no", ""], start=2) == [[4, 5, 1], [1]]
    assert target_ids(words, ["yes"], start=0) == [[2, 4, 1]]


def test_targets_of_other_tokenizers_are_unchanged(tokenizer: Any) -> None:
    assert target_ids(tokenizer, ["yes", ""], start=0) == tokenizer(["yes", ""])["input_ids"]


def test_truncation_keeps_special_tokens(tmp_path: Path) -> None:
    make_multilingual("mbart50", tmp_path / "mbart50")
    make_multilingual("mbart25", tmp_path / "mbart25")
    long = "The licence of the work is the licence of the work"
    for kind, frame in (("mbart50", (1, 1)), ("mbart25", (0, 2))):
        tokenizer = load_tokenizer(tmp_path / kind)
        assert set_languages(tokenizer, "en_XX", "fr_XX", target_needed=True) == []
        ids = target_ids(tokenizer, ["", "a", long], start=2)
        assert frame_of(*ids[:2]) == frame
        rows = Ragged(np.array(ids[2], np.int32), np.array([0, len(ids[2])]), frame)
        for longest in (3, 6, len(ids[2])):
            for side in ("right", "left", "middle"):
                row = rows.row(0, longest, side).tolist()
                assert len(row) == longest
                assert row[: frame[0]] == ids[2][: frame[0]]
                assert row[-frame[1] :] == ids[2][-frame[1] :]
        kept = rows.row(0, 6, "middle").tolist()
        assert kept == ids[2][:3] + ids[2][-3:]


@pytest.mark.parametrize("longest", [2, 3, 5])
def test_truncation_without_a_frame_is_unchanged(longest: int) -> None:
    row = np.arange(9, dtype=np.int32)
    rows = Ragged(row, np.array([0, 9]))
    assert rows.row(0, longest).tolist() == [*range(longest - 1), 8]
    assert rows.row(0, longest, "left").tolist() == [*range(9 - longest, 9)]
    half = longest // 2
    assert rows.row(0, longest, "middle").tolist() == [*range(half), *range(9 - longest + half, 9)]


def test_whatever_changes_the_ids_changes_the_fingerprint(tmp_path: Path) -> None:
    def changed(change: Any) -> str:
        tokenizer = AutoTokenizer.from_pretrained(T5_TINY)
        change(tokenizer)
        return fingerprint(tokenizer)

    kinds = [
        changed(lambda tokenizer: None),
        changed(lambda tokenizer: tokenizer.add_tokens(["dd on"])),
        changed(lambda tokenizer: setattr(tokenizer, "chat_template", "{{ messages }}")),
        changed(lambda tokenizer: setattr(tokenizer, "unk_token", "<pad>")),
        fingerprint(make_words()),
        fingerprint(make_words(eos_token="yes")),
    ]
    for kind, first, second in (
        ("mbart50", "en_XX", "fr_XX"), ("nllb", "eng_Latn", "fra_Latn"), ("m2m100", "en", "fr"),
    ):  # fmt: skip
        make_multilingual(kind, tmp_path / kind)
        for source, target in ((first, first), (first, second), (second, first)):
            tokenizer = load_tokenizer(tmp_path / kind)
            assert set_languages(tokenizer, source, target, target_needed=True) == []
            kinds.append(fingerprint(tokenizer))
    assert len(set(kinds)) == len(kinds)
    assert fingerprint(load_tokenizer(T5_TINY)) == kinds[0]


TEXTS = [
    *LINES, "", " ", "a", "two  spaces\tand\nlines\r\n", "</s> it <pad> <extra_id_0>",
    "\u00e9 e\u0301 \ufb01 \U0001f642", "word " * 3000,
]  # fmt: skip


def check_ids_and_texts(tokenizer: Any) -> None:
    """That ids and texts are those which transformers' own methods give."""
    for special in (True, False):
        for kind in ("text", "text_target"):
            expected = tokenizer(**{kind: TEXTS}, add_special_tokens=special)["input_ids"]
            as_targets = kind == "text_target"
            assert encode_texts(tokenizer, TEXTS, special, as_targets) == expected
            with many_words_kept(tokenizer):
                assert encode_texts(tokenizer, TEXTS, special, as_targets) == expected
            assert tokenizer(TEXTS[-2])["input_ids"] == encode_texts(tokenizer, TEXTS[-2:-1])[0]
            arrays = [np.array(row, np.int32) for row in expected]
            for skipped in (True, False):
                texts = tokenizer.batch_decode(
                    expected, skip_special_tokens=skipped, clean_up_tokenization_spaces=False
                )
                assert decode_texts(tokenizer, arrays, skipped) == texts
    assert encode_texts(tokenizer, []) == []


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_texts_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    tokenizer = KINDS[kind](tmp_path / kind)
    check_ids_and_texts(tokenizer)
    assert keeps_its_settings(tokenizer) == (kind not in ("mbart50", "nllb"))


@pytest.mark.parametrize("kind", ["mbart50", "mbart25", "nllb", "m2m100"])
def test_targets_are_in_their_own_language(kind: str, tmp_path: Path) -> None:
    make_multilingual(kind, tmp_path / kind)
    codes = ["eng_Latn", "fra_Latn"] if kind == "nllb" else ["en_XX", "fr_XX"]
    codes = ["en", "fr"] if kind == "m2m100" else codes
    tokenizer = load_tokenizer(tmp_path / kind)
    assert set_languages(tokenizer, *codes, target_needed=True) == []
    assert encode_texts(tokenizer, ["a"]) != encode_texts(tokenizer, ["a"], as_targets=True)
    check_ids_and_texts(tokenizer)


def test_settings_for_other_uses_do_not_cut_or_pad(tokenizer: Any) -> None:
    expected = [tokenizer(text)["input_ids"] for text in TEXTS]
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=8)
    assert encode_texts(tokenizer, TEXTS) == expected


def test_a_class_with_methods_of_its_own_is_called(tmp_path: Path) -> None:
    class Reversing(PreTrainedTokenizerFast):
        def _encode_plus(self, text: Any, **others: Any) -> Any:
            return super()._encode_plus([one[::-1] for one in text], **others)

        def _decode(self, token_ids: Any, **others: Any) -> Any:
            return super()._decode(token_ids, **others)[::-1]

    words = Reversing(tokenizer_object=make_words().backend_tokenizer)
    assert encode_texts(words, ["on sey"], special=False) == [[4, 5]]
    assert decode_texts(words, [np.array([4, 5])], skip_special_tokens=True) == ["on sey"]
