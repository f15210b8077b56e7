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

from workflow.data.text_ids import fingerprint, frame_of, source_ids, target_ids
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
