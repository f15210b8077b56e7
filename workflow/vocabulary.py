"""Characters that a vocabulary lacks, made tokens: exactly reversible, and saved with the model.

T5's tokenizer drops newlines and surplus spaces, reads braces and most non-Latin letters as
`<unk>`, and joins letters with the marks behind them. A tokenizer grown here gives each such
character a token of its own before its normalizer sees it; what stands between two of them is read
as a text of its own. Between words a space remains what it was. Beside one of the new tokens, in a
run, and (where the space was asked for) at the ends of a text it becomes a token too; any other
space beside a new token is one that the decoder puts there, and is taken away.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from typing import Any

import regex
from tokenizers import AddedToken, Tokenizer

from workflow.errors import BadInput, Problem
from workflow.two_sided import rewrap

_POOL = (
    range(0xE000, 0xF900),
    range(0xF0000, 0xFFFFE),
    range(0x100000, 0x10FFFE),
    range(0x17000, 0x187F8),
)
"""Code points that hardly any text holds: they stand for what a normalizer would change or drop.
All are for private use but the last, of Tangut, for BERT's normalizer drops those others."""
_OF_POOL = "".join(f"{chr(codes[0])}-{chr(codes[-1])}" for codes in _POOL)
_BESIDE = re.compile(r"\(\?<=\[(\\x\{[0-9A-F]+\})+\]\) ")
"""How the pattern of a grown decoder begins, and none else."""
_AT_START = "^ "
_NEVER = "(?!)"
"""Ends the pattern of a rule for spaces where none is needed."""
Json = dict[str, Any]


@dataclass(frozen=True)
class _Grown:
    """What tells a grown tokenizer from the one it was.

    Attributes:
        tokens: the token of each character, in the order in which they came.
        ends: whether a space at an end of a text is a token.
        spaced: whether the decoder would put a space before every text.
        keeps_spaces: whether each space comes back by itself, and no other.
        known: reserved code points that texts hold and the vocabulary can write.
        normalizer, decoder: those of the tokenizer before.
    """

    tokens: dict[str, str]
    ends: bool
    spaced: bool
    keeps_spaces: bool
    known: frozenset[str]
    normalizer: Json | None
    decoder: Json | None


def grow_tokenizer(tokenizer: Any, characters: Iterable[str], in_use: Iterable[str] = ()) -> Any:
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
    before = _grown_before(state) or _not_grown(state, tokenizer)
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
    state |= {"normalizer": _normalizer_of(now), "decoder": _decoder_of(now)}
    state["added_tokens"] = _renamed(
        state, {before.tokens[one]: tokens[one] for one in before.tokens}
    )
    backend = Tokenizer.from_str(json.dumps(state))
    backend.add_tokens([AddedToken(token, normalized=True) for token in tokens.values()])
    return rewrap(tokenizer, backend)


def can_grow(tokenizer: Any) -> bool:
    """Whether a tokenizer is of the `tokenizers` library, and says what it does in its file."""
    return bool(tokenizer.is_fast)


def count_ids(tokenizer: Any) -> int:
    """The rows that a model needs for a tokenizer: some leave ids out."""
    return int(max(tokenizer.get_vocab().values())) + 1


def _cannot_grow(tokenizer: Any, reason: str) -> Problem:
    found = f"the model's {type(tokenizer).__name__}, which {reason}"
    expected = "a tokenizer that can be extended, as that of a tokenizer.json or spiece.model"
    return Problem("--add_missing_tokens", found, expected, "leave --add_missing_tokens out")


def _not_grown(state: Json, tokenizer: Any) -> _Grown:
    texts = ["a", " a", "a ", "a  a"]
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    shown = tokenizer.batch_decode(rows, clean_up_tokenization_spaces=False)
    spaced, normalizer = shown[0].startswith(" "), _guarded(state["normalizer"])
    return _Grown({}, False, spaced, shown == texts, frozenset(), normalizer, state["decoder"])


def _grown_before(state: Json) -> _Grown | None:
    """What a tokenizer.json tells of an earlier growth, and of the tokenizer before it."""
    steps = (state["decoder"] or {}).get("decoders", [])
    patterns = [step.get("pattern", {}).get("Regex", "") for step in steps]
    at = next((i for i, one in enumerate(patterns) if _BESIDE.match(one)), None)
    if at is None:
        return None
    class_ = patterns[at].removeprefix("(?<=[").split("]")[0]
    back = {step["pattern"]["String"]: step["content"] for step in steps if _is_replacing(step)}
    tokens = [chr(int(digits, 16)) for digits in re.findall(r"\\x\{(\w+)\}", class_)]
    normalizers = state["normalizer"]["normalizers"]
    rules = [i for i, step in enumerate(normalizers) if class_ in str(_regex_of(step))]
    ends = _regex_of(normalizers[rules[-1]]).startswith("(?<!")
    normalizer, decoder = normalizers[rules[-1] + 1 :], steps[: at - 1]
    return _Grown(
        {back.get(token, token): token for token in tokens},
        ends,
        _AT_START in patterns,
        patterns[at].endswith(_NEVER),
        frozenset(step["content"] for step in normalizers if step.get("pattern") == _itself(step)),
        normalizer[0] if normalizer else None,
        decoder[0] if decoder else None,
    )


def _regex_of(step: Json) -> str:
    pattern: str = step.get("pattern", {}).get("Regex", "")
    return pattern


def _itself(step: Json) -> Json:
    """The pattern of a step that changes nothing: it says that a text holds its code point."""
    return {"String": step.get("content")}


def _is_replacing(step: Json) -> bool:
    return step["type"] == "Replace" and "String" in step["pattern"]


def _guarded(normalizer: Json | None) -> Json | None:
    """A normalizer that puts its mark before a text, but before none that begins with a token.

    The library looks for an added token as the normalizer writes it: with that mark before it.
    """
    if normalizer is None or normalizer["type"] not in ("Prepend", "Sequence"):
        return normalizer
    if normalizer["type"] == "Sequence":
        return normalizer | {"normalizers": [_guarded(step) for step in normalizer["normalizers"]]}
    return _replace({"Regex": f"^(?=[^{_OF_POOL}])"}, normalizer["prepend"])


def _replace(pattern: Json, content: str) -> Json:
    return {"type": "Replace", "pattern": pattern, "content": content}


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


def _normalizer_of(grown: _Grown) -> Json:
    renamed = [(char, token) for char, token in grown.tokens.items() if char != token]
    space = grown.tokens[" "]
    beside = f" {_members(grown)}"
    spaces = f"(?<=[{beside}]) | (?=[{beside}])"
    if grown.keeps_spaces:
        spaces = f"(?<=[{beside}]) {_NEVER}"
    elif grown.ends:
        spaces = f"(?<![^{beside}]) | (?![^{beside}])"
    steps = [
        *(_replace({"String": char}, token) for char, token in renamed if char != " "),
        *(_replace({"String": one}, one) for one in sorted(grown.known)),
        _replace({"Regex": spaces}, space),
        *([grown.normalizer] if grown.normalizer else []),
    ]
    return {"type": "Sequence", "normalizers": steps}


def _decoder_of(grown: _Grown) -> Json:
    members = _members(grown)
    put_there = f"(?<=[{members}]) | (?=[{members}])"
    if grown.keeps_spaces:
        put_there = f"(?<=[{members}]) {_NEVER}"
    # Without a decoder the library puts a space between any two tokens.
    spacing = {"type": "WordPiece", "prefix": grown.tokens[" "], "cleanup": False}
    steps = [
        grown.decoder or spacing,
        {"type": "Fuse"},
        _replace({"Regex": put_there}, ""),
        *([_replace({"Regex": _AT_START}, "")] if grown.spaced else []),
        *(
            _replace({"String": token}, char)
            for char, token in grown.tokens.items()
            if char != token
        ),
    ]
    return {"type": "Sequence", "decoders": steps}


def _members(grown: _Grown) -> str:
    """The tokens, as a class of a regular expression holds them."""
    return "".join(f"\\x{{{ord(token):X}}}" for token in grown.tokens.values())


def _free_tokens(state: Json, before: _Grown, in_use: set[str]) -> Iterator[str]:
    """Reserved code points that neither texts nor the tokenizer know, and that it leaves alone."""
    known = in_use | set(find_reserved(json.dumps(state, ensure_ascii=False)))
    write, read = _ways(before)
    for codes in _POOL:
        for token in map(chr, codes):
            if token in known:
                continue
            between = f"a{token}a"
            if write(token) != token or write(between) != write("aba").replace("b", token):
                break  # no normalizer treats some of a range in another way
            if read(token) == between:
                yield token


def _ways(before: _Grown) -> tuple[Callable[[str], str], Callable[[str], str]]:
    """How the tokenizer before normalizes a text, and how it shows a token between two others."""
    model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    parts: Json = dict.fromkeys(("truncation", "padding", "pre_tokenizer", "post_processor"))
    parts |= {"version": "1.0", "added_tokens": [], "model": model}
    parts |= {"normalizer": before.normalizer, "decoder": before.decoder}
    bare = Tokenizer.from_str(json.dumps(parts))

    def write(text: str) -> str:
        return text if bare.normalizer is None else bare.normalizer.normalize_str(text)

    def read(token: str) -> str:
        shown = "".join if bare.decoder is None else bare.decoder.decode
        return shown(["a", token, "a"]).replace(" ", "")

    return write, read


def _token_of_each(
    wanted: set[str], before: _Grown, state: Json, free: Iterator[str], in_use: set[str]
) -> dict[str, str]:
    """Each character's token: itself where that stands alone, else a reserved code point.

    One that turns up in a text is so no more, and its character's token gets another name.
    """
    tokens = {
        char: next(free) if char != token and token in in_use else token
        for char, token in (before.tokens or {" ": ""}).items()
    }
    tokens[" "] = tokens[" "] or next(free)
    write, read = _ways(before)
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


def find_reserved(text: str) -> list[str]:
    """The code points of a text that could be given out as tokens."""
    return re.findall(f"[{_OF_POOL}]", text)


@cache
def joins(character: str) -> bool:
    """Whether a character can be one with what stands before it, as a mark, or a part of Hangul."""
    before = ("a", "\u1100", "\uac00", "\U0001f1e6", "\r")
    return any(regex.fullmatch(r"\X", one + character) for one in before)
