"""Every text round-trips with every extended tokenizer."""

import json
import re
import tempfile
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_t5
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer
from vocabularies import KINDS, LINES

from workflow.core.code_points import find_reserved
from workflow.data.audit.parts import PARTS, AuditReport, PartAudit
from workflow.data.audit.round_trip import Damage
from workflow.data.token_cache import Ragged
from workflow.models.hub import load_tokenizer
from workflow.models.loading import save_model
from workflow.training.grow_vocabulary import grow_until_nothing_is_missing

NONE = Ragged(np.zeros(0, np.int32), np.zeros(1, np.int64))
WHITE = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2003\u2009\u2028\u2029\u202f\u205f\u3000"
)
MARKS = "\u0300\u0301\u0303\u0308\u0323\u0328\u0331\u031b\u0345\u05b8\u064b\u093c\u093f\u0e31\u3099"
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


def report_on(tokenizer: Any, some: Sequence[str]) -> AuditReport:
    """The audit's report on plain texts."""
    damage = Damage(tokenizer)
    part = PartAudit(damage)
    rows = [np.array(tokenizer(text)["input_ids"], np.int32) for text in some]
    texts = [(str(i), text, ids) for i, (text, ids) in enumerate(zip(some, rows, strict=True))]
    part.add(texts, damage.decode(rows))
    return {"splits": {"train": dict.fromkeys(PARTS, part.report("train", NONE, 100))}}


def grow(tokenizer: Any, some: Sequence[str]) -> tuple[Any, AuditReport]:
    grown, _, report = grow_until_nothing_is_missing(
        tokenizer, {}, lambda _: {}, lambda tokenizer, _: report_on(tokenizer, some)
    )
    return grown, report


def assert_exact(tokenizer: Any, some: Sequence[str]) -> None:
    special, damage = tokenizer.all_special_tokens, Damage(tokenizer)
    for text in some:
        if any(token in text for token in special):
            continue
        for side in ("text", "text_target"):
            ids = tokenizer(**{side: text})["input_ids"]
            (back,) = damage.decode([np.array(ids)])
            assert back == text, tokenizer.convert_ids_to_tokens(ids)


def written_as_before(tokenizer: Any, grown: Any, some: Sequence[str], added: set[str]) -> None:
    """The ids of texts that the original vocabulary covers are unchanged."""
    damage = Damage(tokenizer)
    puts_space = tokenizer.decode(tokenizer("a")["input_ids"], skip_special_tokens=True) == " a"
    for text in some:
        ids = tokenizer(text)["input_ids"]
        requested = (added - {" "}) & set(text) or find_reserved(text)
        spaces = not re.fullmatch(r"(?s)(?!.*  )\S(.*\S)?", text) and (" " in added or puts_space)
        if damage.decode([np.array(ids)]) == [text] and not requested and not spaces:
            assert grown(text)["input_ids"] == ids


@cache
def made(kind: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return KINDS[kind](Path(folder) / kind)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "real_t5"])
@settings(
    max_examples=15, derandomize=True, deadline=None, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(first=texts, second=texts)
def test_every_text_round_trips_extended_once_and_twice(
    kind: str, first: list[str], second: list[str]
) -> None:
    tokenizer = made(kind)
    grown, report = grow(tokenizer, first)
    assert_exact(grown, first)
    written_as_before(tokenizer, grown, [*LINES[:7], *second], set(report["added_tokens"]))
    assert grow(grown, first)[0] is grown
    again, report = grow(grown, second)
    assert_exact(again, second)
    if grown is not tokenizer:
        assert_exact(again, first)
        written_as_before(grown, again, first, set(report["added_tokens"]))


TEXTS = [
    "  if x:\n\treturn {y}  # done\r\n",
    unicodedata.normalize(
        "NFD", "Tiếng Việt, Ọ̀rọ̀ Yorùbá, zażółć gęślą jaźń, Ἀθῆναι, 한국어, ñandũ"
    ),
    "\u1112\u1161\u11ab\u1100\u1173\u11af 中文，世界！ half ½ \u00a0 \ue000\ue001 👨‍👩‍👧 ☺️ \ufeffx",
    " ONE two.",
    "\u202eright\u202c to left\u200b▁ ## I don't know , \u3000",
]
MORE = ["row\tcol\x0bpage", "ﬁne\ue002 Ω\u0345 \U00017000", "x "]


@pytest.mark.parametrize("kind", KINDS)
def test_an_extended_tokenizer_is_saved_and_loads_anywhere(kind: str, tmp_path: Path) -> None:
    tokenizer, folder = made(kind), tmp_path / "once"
    grown, _ = grow(tokenizer, TEXTS)
    save_model(make_t5(), grown, folder)
    loaded, plain = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    for one in (grown, loaded):
        assert_exact(one, TEXTS)
    for text in (*TEXTS, *LINES[:7]):
        assert loaded(text)["input_ids"] == plain(text)["input_ids"] == grown(text)["input_ids"]
        shown = plain.decode(plain(text)["input_ids"], skip_special_tokens=True)
        assert text not in TEXTS or shown.removeprefix(" ") == text.removeprefix(" ")
        target = grown(text_target=text)["input_ids"]
        assert loaded(text_target=text)["input_ids"] == target
        assert text not in TEXTS or grown.unk_token_id not in target
    again, _ = grow(loaded, MORE)
    save_model(make_t5(), again, tmp_path / "twice")
    assert_exact(again, [*TEXTS, *MORE])
    assert_exact(load_tokenizer(tmp_path / "twice"), [*TEXTS, *MORE])
    written_as_before(grown, again, TEXTS, set(MORE[0] + MORE[1]))
    ids = grown.get_vocab()
    assert len(again) >= len(grown) == len(ids)


def test_characters_that_the_vocabulary_has_keep_their_tokens() -> None:
    """BERT adds spaces around punctuation and Chinese letters; no new tokens are needed."""
    tokenizer = made("wordpiece")
    text = "add one: 4 7, (你好世界。我们去) yes. no"
    grown, _ = grow(tokenizer, [text])
    assert_exact(grown, [text])
    space = grown.convert_tokens_to_ids("\U00017000")
    ids = [one for one in grown(text)["input_ids"] if one != space]
    assert ids == tokenizer(text)["input_ids"]
    assert len(grown) == len(tokenizer) + 1


@pytest.mark.parametrize("kind", ["mbart50", "nllb"])
def test_languages_and_settings_stay(kind: str, tmp_path: Path) -> None:
    """The language token around a text is that of source or target."""
    tokenizer = made(kind)
    grown, _ = grow(tokenizer, TEXTS)
    save_model(make_t5(), grown, tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    again, _ = grow(load_tokenizer(tmp_path), MORE)
    for one in (grown, load_tokenizer(tmp_path), again):
        for line in LINES[:3]:
            both = {"text": line, "text_target": line}
            assert one(**both)["labels"] == tokenizer(**both)["labels"]
            assert one(**both)["input_ids"] == tokenizer(**both)["input_ids"]
        for name in ("src_lang", "tgt_lang", "model_max_length", "truncation_side", "mask_token"):
            assert getattr(one, name) == getattr(tokenizer, name)
        assert set(one.all_special_tokens) == set(tokenizer.all_special_tokens)
        source, target = one.src_lang, one.tgt_lang
        one.src_lang, one.tgt_lang = target, source
        assert one("a")["input_ids"] == tokenizer(text_target="a")["input_ids"]
        assert one(text_target="a")["input_ids"] == tokenizer("a")["input_ids"]
