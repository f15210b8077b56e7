"""Characters that a vocabulary lacks, made tokens: exactly reversible, and saved with the model.

T5's tokenizer drops newlines and surplus spaces, reads braces and most non-Latin letters as
`<unk>`, and joins letters with the marks behind them. A tokenizer grown here gives each such
character a token of its own before its normalizer sees it; what stands between two of them is read
as a text of its own. Between words a space remains what it was. Beside one of the new tokens, in a
run, and (where the space was asked for) at the ends of a text it becomes a token too; any other
space beside a new token is one that the decoder puts there, and is taken away.
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
    grown_before,
    normalizer_of,
    not_grown,
    ways_of,
)
from workflow.models.tokenizers.two_sided import rewrap


def grow_tokenizer(
    tokenizer: PreTrainedTokenizerBase, characters: Iterable[str], in_use: Iterable[str] = ()
) -> PreTrainedTokenizerBase:
    """A tokenizer in which each of `characters`, and the space, can be written and read exactly.

    Existing ids stay; new ones follow the last. It saves and loads as any fast tokenizer, and can
    be grown again. A character that has a token and is asked for again gets another one, which
    stands alone in any context. Where nothing is to be done the tokenizer itself is returned.

    Args:
        in_use: reserved code points that the texts hold.

    Raises:
        BadInput: for a tokenizer that cannot be extended this way.
    """
    if not can_grow(tokenizer):
        raise BadInput([_cannot_grow(tokenizer, "runs in Python, outside the tokenizers library")])
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    before = grown_before(state) or not_grown(state, tokenizer)
    wanted, in_use = set(characters), set(in_use) | set(characters)
    free = _free_tokens(state, before, in_use)
    try:
        tokens = _token_of_each(wanted, before, state, free, in_use)
    except StopIteration:
        reason = "changes every code point that could stand for a character"
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
    """Whether a tokenizer is of the `tokenizers` library, and says what it does in its file."""
    return bool(tokenizer.is_fast)


def count_ids(tokenizer: PreTrainedTokenizerBase) -> int:
    """The rows that a model needs for a tokenizer: some leave ids out."""
    return int(max(tokenizer.get_vocab().values())) + 1


def needed_ids(tokenizer: PreTrainedTokenizerBase) -> int:
    """The rows that a model must have: BART's for summaries have none for the mask, which is last.

    No text is written with it; `VocabExtension` gives it a row.
    """
    ids = set(tokenizer.get_vocab().values()) - {tokenizer.mask_token_id}
    return int(max(ids)) + 1


def _cannot_grow(tokenizer: PreTrainedTokenizerBase, reason: str) -> Problem:
    found = f"the model's {type(tokenizer).__name__}, which {reason}"
    expected = "a tokenizer that can be extended, as that of a tokenizer.json or spiece.model"
    return Problem("--add_missing_tokens", found, expected, "leave --add_missing_tokens out")


def _renamed(state: Json, names: dict[str, str]) -> list[Json]:
    """The added tokens by other names; a piece of the vocabulary keeps its own, and is none."""
    vocabulary = state["model"]["vocab"]
    pieces = set(vocabulary if isinstance(vocabulary, dict) else dict(vocabulary))
    return [
        token | {"content": names.get(token["content"], token["content"])}
        for token in state["added_tokens"]
        if names.get(token["content"], "") in ("", token["content"])
        or token["content"] not in pieces
    ]


def _free_tokens(state: Json, before: Grown, in_use: set[str]) -> Iterator[str]:
    """Reserved code points that neither texts nor the tokenizer know, and that it leaves alone."""
    known = in_use | before.known | set(find_reserved(json.dumps(state, ensure_ascii=False)))
    write, read = ways_of(before)
    for codes in POOL:
        for token in map(chr, codes):
            if token in known:
                continue
            between = f"a{token}a"
            if write(token) != token or write(between) != write("aba").replace("b", token):
                break  # no normalizer treats some of a range in another way
            if read(token) == between:
                yield token


def _token_of_each(
    wanted: set[str], before: Grown, state: Json, free: Iterator[str], in_use: set[str]
) -> dict[str, str]:
    """Each character's token: itself where that stands alone, else a reserved code point.

    One that turns up in a text is so no more, and its character's token gets another name.
    """
    tokens = {
        char: next(free) if char != token and token in in_use else token
        for char, token in (before.tokens or {" ": ""}).items()
    }
    tokens[" "] = tokens[" "] or next(free)
    write, read = ways_of(before)
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
    """Characters of pieces that hold more than one, as which the model may write them too."""
    vocabulary = state["model"]["vocab"]
    pieces = vocabulary if isinstance(vocabulary, dict) else [piece for piece, _ in vocabulary]
    prefix = state["model"].get("continuing_subword_prefix") or ""
    added = {token["content"] for token in state["added_tokens"]}
    bare = (piece.removeprefix(prefix) for piece in pieces if piece not in added)
    return set(chain.from_iterable(piece for piece in bare if len(piece) > 1))
