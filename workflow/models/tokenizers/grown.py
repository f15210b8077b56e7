"""Build and parse the normalizer and decoder steps of an extended tokenizer."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from workflow.core.code_points import OF_POOL, as_class, of_class

_BESIDE = re.compile(r"\(\?<=\[((\\x\{[0-9A-F]+\}-?)+)\]\) ")
"""The start of a pattern that only the decoder of an extended tokenizer has."""
_AT_START = r"\A "
_NEVER = "(?!)"
"""Makes a pattern match nothing, so that it only stores information."""
Json = dict[str, Any]


@dataclass(frozen=True)
class Grown:
    """The difference between an extended tokenizer and the original one.

    Attributes:
        tokens: the token of each character.
        ends: whether a space at either end of a text is a token.
        spaced: whether the original decoder adds a space before every text.
        keeps_spaces: whether the original tokenizer keeps all spaces and adds none.
        known: reserved code points that occur in texts and are in the vocabulary.
        normalizer, decoder: those of the original tokenizer.
    """

    tokens: dict[str, str]
    ends: bool
    spaced: bool
    keeps_spaces: bool
    known: frozenset[str]
    normalizer: Json | None
    decoder: Json | None


def not_grown(state: Json, tokenizer: PreTrainedTokenizerBase) -> Grown:
    """The description of a tokenizer that is not extended yet."""
    texts = ["a", " a", "a ", "a  a"]
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    shown = tokenizer.batch_decode(rows, clean_up_tokenization_spaces=False)
    spaced, normalizer = shown[0].startswith(" "), _guarded(state["normalizer"])
    return Grown({}, False, spaced, shown == texts, frozenset(), normalizer, state["decoder"])


def parse_grown(state: Json) -> Grown | None:
    """Parse the state of an extended tokenizer; None if it is not extended."""
    steps = (state["decoder"] or {}).get("decoders", [])
    patterns = [step.get("pattern", {}).get("Regex", "") for step in steps]
    at = next((i for i, one in enumerate(patterns) if _BESIDE.match(one)), None)
    if at is None:
        return None
    class_ = patterns[at].removeprefix("(?<=[").split("]")[0]
    back = {step["pattern"]["String"]: step["content"] for step in steps if _is_replacing(step)}
    tokens = of_class(class_)
    normalizers = state["normalizer"]["normalizers"]
    rules = [i for i, step in enumerate(normalizers) if class_ in str(_regex_of(step))]
    ends = _regex_of(normalizers[rules[-1]]).startswith("(?<!")
    normalizer, decoder = normalizers[rules[-1] + 1 :], steps[: at - 1]
    return Grown(
        {back.get(token, token): token for token in tokens},
        ends,
        _AT_START in patterns,
        patterns[at].endswith(_NEVER),
        frozenset(
            token
            for step in normalizers
            if _regex_of(step).startswith(_NEVER)
            for token in of_class(_regex_of(step))
        ),
        normalizer[0] if normalizer else None,
        decoder[0] if decoder else None,
    )


def _regex_of(step: Json) -> str:
    pattern: str = step.get("pattern", {}).get("Regex", "")
    return pattern


def _is_replacing(step: Json) -> bool:
    return step["type"] == "Replace" and "String" in step["pattern"]


def _guarded(normalizer: Json | None) -> Json | None:
    """A normalizer that does not prepend its mark to a text that starts with a new token.

    The library searches added tokens in their normalized form, i.e. with that mark.
    """
    if normalizer is None or normalizer["type"] not in ("Prepend", "Sequence"):
        return normalizer
    if normalizer["type"] == "Sequence":
        return normalizer | {"normalizers": [_guarded(step) for step in normalizer["normalizers"]]}
    return _replace({"Regex": rf"\A(?=[^{OF_POOL}])"}, normalizer["prepend"])


def _replace(pattern: Json, content: str) -> Json:
    return {"type": "Replace", "pattern": pattern, "content": content}


def normalizer_of(grown: Grown) -> Json:
    renamed = [(char, token) for char, token in grown.tokens.items() if char != token]
    space = grown.tokens[" "]
    beside = f" {as_class(grown.tokens.values())}"
    spaces = f"(?<=[{beside}]) | (?=[{beside}])"
    if grown.keeps_spaces:
        spaces = f"(?<=[{beside}]) {_NEVER}"
    elif grown.ends:
        spaces = f"(?<![^{beside}]) | (?![^{beside}])"
    steps = [
        *(_replace({"String": char}, token) for char, token in renamed if char != " "),
        *([_replace({"Regex": f"{_NEVER}[{as_class(grown.known)}]"}, "")] if grown.known else []),
        _replace({"Regex": spaces}, space),
        *([grown.normalizer] if grown.normalizer else []),
    ]
    return {"type": "Sequence", "normalizers": steps}


def decoder_of(grown: Grown) -> Json:
    members = as_class(grown.tokens.values())
    inserted = f"(?<=[{members}]) +| +(?=[{members}])"  # two for BERT: one by its normalizer
    if grown.keeps_spaces:
        inserted = f"(?<=[{members}]) {_NEVER}"
    # Without a decoder the library adds a space between any two tokens.
    spacing = {"type": "WordPiece", "prefix": grown.tokens[" "], "cleanup": False}
    steps = [
        grown.decoder or spacing,
        {"type": "Fuse"},
        _replace({"Regex": inserted}, ""),
        *([_replace({"Regex": _AT_START}, "")] if grown.spaced else []),
        *(
            _replace({"String": token}, char)
            for char, token in grown.tokens.items()
            if char != token
        ),
    ]
    return {"type": "Sequence", "decoders": steps}


def original_steps(before: Grown) -> tuple[Callable[[str], str], Callable[[str], str]]:
    """Functions by which the original tokenizer normalizes a text and decodes a single token."""
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
