"""Whatever the tokenizer, whatever the texts: what was grown gives every text back."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer
from vocabularies import KINDS

from workflow.audit.damage import Damage
from workflow.audit.parts import PARTS, PartAudit, Report
from workflow.hub import load_tokenizer
from workflow.missing import grow_until_nothing_is_missing
from workflow.tokens import Ragged

NONE = Ragged(np.zeros(0, np.int32), np.zeros(1, np.int64))
WHITE = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2003\u2009\u2028\u2029\u202f\u205f\u3000"
)
MARKS = "\u0300\u0301\u0303\u0308\u0323\u0327\u0328\u0331\u031b\u0345\u05b8\u064b\u093c\u093f\u0e31\u3099"
JOINING = (
    "\u200b\u200c\u200d\u2060\ufe0e\ufe0f\u034f\u202a\u202b\u202c\u202d\u202e\u2066\u2069\ufeff\xad"
)
OTHERS = (
    "ﬁ½①Ω\u212b\u1e9e\u0130İıΣς\ufffd\ufffe\U0001f468\U0001f3fd\U0001f1e9\U0001f1ea\u2581#<>'.,!?_"
)
JAMO = "\u1100\u1112\u1161\u1175\u11a8\u11ab\uac00\ud55c\ua960\ud7b0\ud7cb\u3131"
RESERVED = "\ue000\ue001\uf8ff\U000f0000\U0010fffd\U00017000"
WORDS = [
    "the",
    "yes",
    " no ",
    "é",
    "ệ",
    "ngữ",
    "Add One",
    "你好",
    "да",
    "  x",
    "don't",
    "\r\n",
    "e",
]

characters = st.one_of(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    *(st.sampled_from(of) for of in (WHITE, MARKS, JOINING, OTHERS, JAMO, RESERVED)),
    st.sampled_from("aeiou bcdn AEIU 019"),
    st.sampled_from(WORDS),
)
texts = st.lists(st.lists(characters, max_size=12).map("".join), min_size=1, max_size=4)


def report_on(tokenizer: Any, some: Sequence[str]) -> Report:
    """The audit's report on texts that stand by themselves."""
    part = PartAudit(Damage(tokenizer))
    rows = [np.array(tokenizer(text)["input_ids"], np.int32) for text in some]
    part.add([(str(i), text, ids) for i, (text, ids) in enumerate(zip(some, rows, strict=True))])
    return {"splits": {"train": dict.fromkeys(PARTS, part.report("train", NONE, 100))}}


def grow(tokenizer: Any, some: Sequence[str]) -> tuple[Any, Report]:
    grown, _, report = grow_until_nothing_is_missing(
        tokenizer, {}, lambda _: {}, lambda tokenizer, _: report_on(tokenizer, some)
    )
    return grown, report


def assert_exact(tokenizer: Any, some: Sequence[str]) -> None:
    special = tokenizer.all_special_tokens
    for text in some:
        if any(token in text for token in special):
            continue
        for side in ("text", "text_target"):
            ids = tokenizer(**{side: text})["input_ids"]
            back = tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            assert back == text, tokenizer.convert_ids_to_tokens(ids)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("tokenizers")
    return {kind: make(folder / kind) for kind, make in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(first=texts, second=texts)
def test_every_text_comes_back(
    made: dict[str, Any], kind: str, first: list[str], second: list[str]
) -> None:
    tokenizer = made[kind]
    grown, report = grow(tokenizer, first)
    assert_exact(grown, first)
    assert grow(grown, first)[0] is grown
    again, report = grow(grown, second)
    assert_exact(again, [*first, *second])
    assert report["splits"]["train"]["prompts"]["not_surviving"]["count"] == 0
