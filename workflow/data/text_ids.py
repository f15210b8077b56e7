"""Texts to token ids as a model wants them, to be read or to be written; and back to texts."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import regex

Frame = tuple[int, int]
"""How many ids of every text are the tokenizer's own, at its beginning and at its end."""

_PROBES = (
    "",
    "a",
    "Translate it: yes, no. The 1,234.5 quick brown foxes (don't) jump — over; lazy dogs?",
    "Çà et là, l'été est passé; Ünïcödé, naïveté, Straße, ñandú, Đà Nẵng",
    "быстрая лиса · σοφός · שלום · سلام · नमस्ते · สวัสดี · 狐狸跳过 · こんにちは · 안녕하세요",
    "def f(x):\n\treturn {x: [1,  2]} \\ ~ ^ ` ½ ① 🙂 <extra_id_0> </s> <unk> <pad> >>fra<<",
    " space before and after ",
    "internationalization antidisestablishmentarianism unbelievably wordpieces",
)
"""Texts in which two tokenizers that are alike in their vocabulary show how they differ."""


def source_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The ids of texts that a model reads."""
    ids: list[list[int]] = tokenizer(list(texts), return_attention_mask=False)["input_ids"]
    return ids


def target_ids(tokenizer: Any, texts: Sequence[str], start: int | None) -> list[list[int]]:
    """The ids of texts that a model learns to write.

    Gemma's tokenizer begins every text with its bos token and ends none. Targets end with the end
    mark all the same, or the model would never learn to stop; and bos is taken away where decoding
    starts with it, or it would stand there twice.
    """
    ids: list[list[int]]
    frame, *ids = tokenizer(text_target=["", *texts], return_attention_mask=False)["input_ids"]
    if tokenizer.eos_token_id not in frame:
        ids = [[*row, tokenizer.eos_token_id] for row in ids]
    if frame and frame[0] == start == tokenizer.bos_token_id:
        ids = [row[1:] for row in ids]
    return ids


def decode_texts(tokenizer: Any, ids: Iterable[Any], skip_special_tokens: bool) -> list[str]:
    """The texts of rows of ids, with nothing tidied up in them."""
    texts: list[str] = tokenizer.batch_decode(
        ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
    )
    return texts


def special_remover(tokenizer: Any) -> Callable[[str], str]:
    """A function that takes from a text the special tokens spelled out in it, as decoding does.

    The white space around them becomes what decoding leaves there between the same neighbours.
    """
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    special = {*added, *tokenizer.all_special_tokens}
    # White space is taken as a whole: so the time does not grow with its square.
    pattern = regex.compile(r"(?<!\s)\s*+(?:\L<special>\s*+)++", special=special)

    @lru_cache(maxsize=1_000)
    def left(before: str, found: str, after: str) -> str:
        for start, end in ((before, after), ("a", "b")):  # a vocabulary may not have the first
            ids = tokenizer(text_target=f"{start}{found}{end}")["input_ids"]
            text = decode_texts(tokenizer, [ids], skip_special_tokens=True)[0].strip()
            if len(text) > 1 and text[0] == start and text[-1] == end:
                return text[1:-1]
        return " "

    def without(text: str) -> str:
        def replaced(found: Any) -> str:
            start, end = found.span()
            return left(text[start - 1 : start] or "a", found[0], text[end : end + 1] or "b")

        left_over: str = pattern.sub(replaced, text)
        return left_over

    return without


def frame_of(empty: Sequence[int], filled: Sequence[int]) -> Frame:
    """Compare the ids of "" with those of a text: how many at each end are the tokenizer's own."""
    same = zip(empty, filled, strict=False)
    before = next((i for i, (one, other) in enumerate(same) if one != other), len(empty))
    return before, len(empty) - before


def fingerprint(tokenizer: Any) -> str:
    """A digest that differs where two tokenizers could give different ids.

    Of its contents, and of what it gives: settings that are no part of a vocabulary, as the
    language of the targets, show in the ids.
    """
    if tokenizer.is_fast:
        content = tokenizer.backend_tokenizer.to_str()
    else:
        content = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    found = [
        content,
        source_ids(tokenizer, _PROBES),
        tokenizer(text_target=list(_PROBES))["input_ids"],
        tokenizer.special_tokens_map,
        {index: repr(token) for index, token in tokenizer.added_tokens_decoder.items()},
        tokenizer.chat_template,
    ]
    return hashlib.sha256(json.dumps(found, sort_keys=True, default=str).encode()).hexdigest()
