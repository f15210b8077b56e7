"""Add tokens for characters missing in a vocabulary: exactly reversible, saved with the model.

T5's tokenizer drops newlines and extra spaces, reads braces and most non-Latin letters as `<unk>`,
and joins letters with the combining marks behind them. An extended tokenizer replaces each such
character by a token before its normalizer runs; the text between two of these tokens is tokenized
separately. A space between words is unchanged. A space next to a new token, in a run or (if the
space is requested) at either end of a text becomes a token, too; any other space next to a new
token was added by the decoder and is removed.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

from workflow.core.code_points import POOL, find_reserved, joins
from workflow.core.errors import BadInput, Problem
from workflow.models.tokenizers.grown import (
    Grown,
    Json,
    decoder_of,
    normalizer_of,
    not_grown,
    original_steps,
    parse_grown,
)
from workflow.models.tokenizers.two_sided import rewrap


def grow_tokenizer(
    tokenizer: PreTrainedTokenizerBase, characters: Iterable[str], in_use: Iterable[str] = ()
) -> PreTrainedTokenizerBase:
    """Extend a tokenizer so that `characters` and the space round-trip exactly.

    Existing ids stay; new ids follow the last. The result saves and loads as any fast tokenizer and
    can be extended again. A character that has a token and is requested again gets a new token that
    stands alone in any context. If nothing changes, the same tokenizer is returned.

    Args:
        in_use: reserved code points that occur in the texts.

    Raises:
        BadInput: the tokenizer cannot be extended this way.
    """
    if not can_grow(tokenizer):
        raise BadInput([_cannot_grow(tokenizer, "runs in Python, outside the tokenizers library")])
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    before = parse_grown(state) or not_grown(state, tokenizer)
    wanted, in_use = set(characters), set(in_use) | set(characters)
    free = _free_tokens(state, before, in_use)
    try:
        tokens = _token_of_each(wanted, before, state, free, in_use)
    except StopIteration:
        reason = "normalizes every code point that could be a new token"
        raise BadInput([_cannot_grow(tokenizer, reason)]) from None
    now = replace(before, tokens=tokens, ends=before.ends or " " in wanted)
    if now == before:
        return tokenizer
    now = replace(now, known=before.known | set(find_reserved("".join(in_use - tokens.keys()))))
    state |= {"normalizer": normalizer_of(now), "decoder": decoder_of(now)}
    state["added_tokens"] = _renamed(
        state, {before.tokens[one]: tokens[one] for one in before.tokens}
    )
    backend = Tokenizer.from_str(json.dumps(state))
    backend.add_tokens([AddedToken(token, normalized=True) for token in tokens.values()])
    return rewrap(tokenizer, backend)


def can_grow(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer is based on the `tokenizers` library."""
    return bool(tokenizer.is_fast)


def count_ids(tokenizer: PreTrainedTokenizerBase) -> int:
    """The embedding rows that a tokenizer needs; its ids may have gaps."""
    return int(max(tokenizer.get_vocab().values())) + 1


def needed_ids(tokenizer: PreTrainedTokenizerBase) -> int:
    """The embedding rows that a model must have.

    That excludes the mask token, the last one, for which BART's summarization models have no row.
    Texts do not use it; `VocabExtension` adds its row.
    """
    ids = set(tokenizer.get_vocab().values()) - {tokenizer.mask_token_id}
    return int(max(ids)) + 1


def _cannot_grow(tokenizer: PreTrainedTokenizerBase, reason: str) -> Problem:
    found = f"the model's {type(tokenizer).__name__}, which {reason}"
    expected = "an extensible tokenizer, e.g. from tokenizer.json or spiece.model"
    return Problem("--add_missing_tokens", found, expected, "remove --add_missing_tokens")


def _renamed(state: Json, names: dict[str, str]) -> list[Json]:
    """The added tokens under their new names; a renamed vocabulary piece is no longer added."""
    vocabulary = state["model"]["vocab"]
    pieces = set(vocabulary if isinstance(vocabulary, dict) else dict(vocabulary))
    return [
        token | {"content": names.get(token["content"], token["content"])}
        for token in state["added_tokens"]
        if names.get(token["content"], "") in ("", token["content"])
        or token["content"] not in pieces
    ]


def _free_tokens(state: Json, before: Grown, in_use: set[str]) -> Iterator[str]:
    """Reserved code points that texts and tokenizer do not use and that normalizing keeps."""
    known = in_use | before.known | set(find_reserved(json.dumps(state, ensure_ascii=False)))
    write, read = original_steps(before)
    for codes in POOL:
        for token in map(chr, codes):
            if token in known:
                continue
            between = f"a{token}a"
            if write(token) != token or write(between) != write("aba").replace("b", token):
                break  # normalizers treat all code points of a range alike
            if read(token) == between:
                yield token


def _token_of_each(
    wanted: set[str], before: Grown, state: Json, free: Iterator[str], in_use: set[str]
) -> dict[str, str]:
    """Each character's token: itself if it stands alone, else a reserved code point.

    A token whose code point occurs in a text is renamed.
    """
    tokens = {
        char: next(free) if char != token and token in in_use else token
        for char, token in (before.tokens or {" ": ""}).items()
    }
    tokens[" "] = tokens[" "] or next(free)
    write, read = original_steps(before)
    inside = _within_pieces(state)

    def stands_alone(char: str) -> bool:
        written = write(char).strip(), write(f"a{char}a").replace(" ", "")
        plain = char.isprintable() and not char.isspace() and char not in inside
        between = f"a{char}a"
        return plain and not joins(char) and written == (char, between) and read(char) == between

    for char in sorted(wanted - {" "}):
        if char not in tokens:
            tokens[char] = char if stands_alone(char) else next(free)
        elif tokens[char] == char:
            tokens[char] = next(free)
    return tokens


def _within_pieces(state: Json) -> set[str]:
    """Characters in longer pieces, with which the model may generate them, too."""
    vocabulary = state["model"]["vocab"]
    pieces = vocabulary if isinstance(vocabulary, dict) else [piece for piece, _ in vocabulary]
    prefix = state["model"].get("continuing_subword_prefix") or ""
    added = {token["content"] for token in state["added_tokens"]}
    bare = (piece.removeprefix(prefix) for piece in pieces if piece not in added)
    return set(chain.from_iterable(piece for piece in bare if len(piece) > 1))
