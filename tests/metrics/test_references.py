"""References are post-processed like predictions."""

import random
import time
from typing import Any

import pytest
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from workflow.data.text_ids import decode_texts, special_remover
from workflow.metrics.references import processed, references_in
from workflow.models.tokenizers.vocabulary import grow_tokenizer

WORDS = ["the", "a", "word", ".", ",", "in the house", "1"]


@pytest.fixture(scope="session")
def byte_level() -> Any:
    """A tokenizer that keeps every space, like BART's and LED's."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        [" ".join(WORDS)] * 9, vocab_size=300, special_tokens=["<pad>", "</s>", "<mask>"]
    )
    special = {"pad_token": "<pad>", "eos_token": "</s>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, **special)


@pytest.fixture
def tokenizers(tokenizer: Any, byte_level: Any) -> dict[str, Any]:
    return {"t5": tokenizer, "grown": grow_tokenizer(tokenizer, ["{"]), "byte-level": byte_level}


@pytest.mark.parametrize("name", ["t5", "grown", "byte-level"])
def test_special_tokens_are_removed_as_in_decoding(name: str, tokenizers: dict[str, Any]) -> None:
    used = tokenizers[name]
    special = [used.eos_token, used.pad_token, used.all_special_tokens[-1]]
    without, draw = special_remover(used), random.Random(0)
    words = WORDS + ["{", "{ x"] * (name != "t5")
    for _ in range(150):
        parts = draw.choices(words, k=3) + draw.choices(special, k=3)
        draw.shuffle(parts)
        blanks = draw.choices(["", " "], k=len(parts) - 1)
        text = parts[0] + "".join(b + part for b, part in zip(blanks, parts[1:], strict=True))
        ids = used(text_target=text, add_special_tokens=False)["input_ids"]
        written = decode_texts(used, [ids], skip_special_tokens=True)[0]
        plain = decode_texts(used, [ids], skip_special_tokens=False)[0]
        if plain.replace(" ", "") == text.replace(" ", ""):
            assert processed(without(text), ()) == processed(written, ()), text


def test_missing_characters_stay_in_references(tokenizer: Any) -> None:
    without = special_remover(tokenizer)
    for text in ["{a}", "one\ntwo", "two  spaces", "中文", " ends ", "<extra_id_x>", ""]:
        assert without(text) == text
    assert processed(without("<extra_id_0> {a}\n b <extra_id_1> "), ()) == "{a}\n b"
    assert without("{</s>中") == "{ 中"  # its neighbours cannot be written either
    assert processed(without("one </s> two"), ()) == "one two"


def test_long_white_space_is_fast(tokenizer: Any) -> None:
    began = time.perf_counter()
    special_remover(tokenizer)(" " * 200_000 + "<" * 200_000)
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    ("item", "reference"),
    [
        ({"demonstration": None}, None),
        ({"demonstration": " a b END\n"}, ("a b",)),
        ({"demonstration": "<x> a END", "reference": "a"}, ("a",)),
        ({"demonstration": "END", "reference": ""}, ("",)),
        ({"demonstration": "a", "reference": ["a", "b"]}, ("a", "b")),
    ],
)
def test_the_references_of_an_item(item: dict[str, Any], reference: tuple[str, ...] | None) -> None:
    assert references_in(item, [" END", "END"]) == reference
