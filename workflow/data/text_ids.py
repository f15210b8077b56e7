"""Convert texts to the token ids of sources and targets, and ids back to texts."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import regex

Frame = tuple[int, int]
"""The number of special tokens that the tokenizer adds at the start and the end of every text."""

WORDS_KEPT = 1 << 17
"""Most words whose ids a tokenizer keeps while it works on a split; about 25 MB."""

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
"""Texts that show differences between tokenizers with similar vocabularies."""


def encode_texts(
    tokenizer: Any, texts: Sequence[str], special: bool = True, as_targets: bool = False
) -> list[list[int]]:
    """The token ids that calling the tokenizer gives for each of these texts.

    A call also finds where in its text each token is and keeps that for all of them, which takes
    a quarter more time. Both use all cores, unless the tokenizer is written in Python.

    Args:
        special: whether to add special tokens.
        as_targets: whether the texts are what a model writes.
    """
    if not texts:
        return []
    if not _calls_backend(tokenizer):
        kind = "text_target" if as_targets else "text"
        options = {"add_special_tokens": special, "return_attention_mask": False}
        called: list[list[int]] = tokenizer(**{kind: list(texts)}, **options)["input_ids"]
        return called
    # Calling it for one text sets what the backend does with special tokens and long texts.
    tokenizer("a")
    if as_targets and hasattr(tokenizer, "_switch_to_target_mode"):
        tokenizer._switch_to_target_mode()
    found = tokenizer.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=special)
    if as_targets and hasattr(tokenizer, "_switch_to_input_mode"):
        tokenizer._switch_to_input_mode()
    return [one.ids for one in found]


@contextmanager
def many_words_kept(tokenizer: Any) -> Iterator[None]:
    """Let the backend keep the ids of more words than its own 10,000, which long texts exceed.

    Words that are not kept are split again wherever they occur: a fifth of the time for T5.
    """
    model = tokenizer.backend_tokenizer.model if tokenizer.is_fast else None
    resize = getattr(model, "_resize_cache", lambda capacity: None)  # only some models have it
    resize(WORDS_KEPT)
    try:
        yield
    finally:
        resize(10_000)


def keeps_its_settings(tokenizer: Any) -> bool:
    """Whether a tokenizer that has been called can be called by several threads at once."""
    return _calls_backend(tokenizer) and not hasattr(tokenizer, "_switch_to_target_mode")


def _calls_backend(tokenizer: Any) -> bool:
    """Whether calling this tokenizer, and decoding, is what its backend does."""
    from transformers import TokenizersBackend

    kind, changed = (
        type(tokenizer),
        ("__call__", "_encode_plus", "batch_decode", "decode", "_decode"),
    )
    return issubclass(kind, TokenizersBackend) and all(
        getattr(kind, name) is getattr(TokenizersBackend, name) for name in changed
    )


def source_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of texts for the encoder."""
    return encode_texts(tokenizer, texts)


def target_ids(tokenizer: Any, texts: Sequence[str], start: int | None) -> list[list[int]]:
    """The token ids of target texts.

    Gemma's tokenizer adds a bos token to every text but no eos token. Here targets always end with
    eos, or the model would never learn to stop; bos is removed if decoding starts with it, or it
    would occur twice.
    """
    frame, *ids = encode_texts(tokenizer, ["", *texts], as_targets=True)
    if tokenizer.eos_token_id not in frame:
        ids = [[*row, tokenizer.eos_token_id] for row in ids]
    if frame and frame[0] == start == tokenizer.bos_token_id:
        ids = [row[1:] for row in ids]
    return ids


def decode_texts(tokenizer: Any, ids: Iterable[Any], skip_special_tokens: bool) -> list[str]:
    """Decode rows of ids, without any clean-up of spaces."""
    if _calls_backend(tokenizer):
        rows = [row if isinstance(row, list) else row.tolist() for row in ids]
        decoded: list[str] = tokenizer.backend_tokenizer.decode_batch(rows, skip_special_tokens)
        return decoded
    texts: list[str] = tokenizer.batch_decode(
        ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
    )
    return texts


def ids_ending_in_whitespace(tokenizer: Any) -> tuple[int, ...]:
    """The ids of a vocabulary whose texts end with whitespace."""
    ids = sorted(tokenizer.get_vocab().values())
    texts = decode_texts(tokenizer, [[index] for index in ids], skip_special_tokens=False)
    return tuple(index for index, text in zip(ids, texts, strict=True) if text[-1:].isspace())


def special_remover(tokenizer: Any) -> Callable[[str], str]:
    """A function that removes special tokens written as text, as decoding does.

    The whitespace around them becomes what decoding leaves between the same neighbors.
    """
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    special = {*added, *tokenizer.all_special_tokens}
    # Possessive quantifiers: backtracking would take quadratic time on long whitespace.
    pattern = regex.compile(r"(?<!\s)\s*+(?:\L<special>\s*+)++", special=special)

    @lru_cache(maxsize=1_000)
    def left(before: str, found: str, after: str) -> str:
        for start, end in ((before, after), ("a", "b")):  # the vocabulary may lack the former
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
    """The number of special tokens at each end of a text, from the ids of "" and of a text."""
    same = zip(empty, filled, strict=False)
    before = next((i for i, (one, other) in enumerate(same) if one != other), len(empty))
    return before, len(empty) - before


def fingerprint(tokenizer: Any) -> str:
    """A digest that differs for tokenizers that could give different ids.

    It covers the tokenizer's contents and its ids of some texts, since settings outside the
    vocabulary, e.g. the target language, show only there.
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
