"""Characters that a vocabulary lacks, made tokens: exactly reversible, and saved with the model.

T5's tokenizer drops newlines and surplus spaces, and reads braces and most non-Latin letters as
`<unk>`. A tokenizer grown here gives each such character a token of its own. Between words a space
remains what it was, the mark `▁` of the word that follows. Beside one of the new tokens, where
that mark is always put and says nothing, a space becomes a token too, and the mark is taken away in
decoding.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers
from transformers import PreTrainedTokenizerFast

from workflow.errors import BadInput, Problem

PRIVATE_USE = range(0xE000, 0xF900)
"""Code points that no text holds: they stand for what a normalizer would change or drop."""


def grow_tokenizer(tokenizer: Any, characters: Iterable[str]) -> Any:
    """A tokenizer in which each of `characters`, and the space, can be written and read exactly.

    Existing ids stay; new ones follow the last. It saves and loads as any fast tokenizer.

    Raises:
        BadInput: for a tokenizer that is not of the `tokenizers` library, which cannot be extended
            this way.
    """
    if not tokenizer.is_fast:
        found = f"the slow tokenizer {type(tokenizer).__name__}"
        expected = "a model with a tokenizer.json or spiece.model"
        mend = "leave --add_missing_tokens out"
        raise BadInput([Problem("--add_missing_tokens", found, expected, mend)])
    grown = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    tokens = _token_of_each([" ", *sorted(set(characters) - {" "})], grown.normalizer)
    new = "[" + "".join(f"\\x{{{ord(token):X}}}" for token in tokens.values()) + "]"
    renamed = {char: token for char, token in tokens.items() if char != token}
    space = renamed.pop(" ")
    grown.normalizer = normalizers.Sequence(
        [
            *(normalizers.Replace(char, token) for char, token in renamed.items()),
            normalizers.Replace(Regex(" (?= )"), space),
            normalizers.Replace(Regex(f" (?={new})"), space),
            normalizers.Replace(Regex(f"(?<={new}) "), space),
            *([grown.normalizer] if grown.normalizer is not None else []),
        ]
    )
    grown.add_tokens([AddedToken(token, normalized=True) for token in tokens.values()])
    grown.decoder = decoders.Sequence(
        [
            *([grown.decoder] if grown.decoder is not None else []),
            decoders.Fuse(),
            decoders.Replace(Regex(f"(?<={new}) "), ""),
            *(decoders.Replace(token, char) for char, token in {**renamed, " ": space}.items()),
        ]
    )
    return _wrap(tokenizer, grown)


def _token_of_each(characters: list[str], normalizer: Any) -> dict[str, str]:
    """Each character's token: itself where the normalizer leaves it, else a private code point."""
    free = iter(PRIVATE_USE)
    tokens = {}
    for char in characters:
        kept = normalizer is None or normalizer.normalize_str(char) == char
        tokens[char] = (
            char if kept and char.isprintable() and not char.isspace() else chr(next(free))
        )
    return tokens


def _wrap(tokenizer: Any, grown: Tokenizer) -> Any:
    """As transformers saves and loads it: the class of its own would build itself anew."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=grown,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        unk_token=tokenizer.unk_token,
        extra_special_tokens=tokenizer.extra_special_tokens,
        model_max_length=tokenizer.model_max_length,
    )
    for name in ("bos_token", "cls_token", "sep_token", "mask_token"):
        if getattr(tokenizer, name, None) is not None:
            setattr(wrapped, name, getattr(tokenizer, name))
    return wrapped


@dataclass(frozen=True)
class Growth:
    """Tokens that a model learned, and how many it is to have."""

    old_tokens: int
    new_tokens: int

    def rows(self, weight: torch.Tensor) -> torch.Tensor:
        """An embedding or a head (tokens, width) with a row for each of the new tokens.

        Rows that the model has to spare (T5 has 32,128 for 32,100 tokens) are used first. Each new
        row is the mean of the known ones and a little noise, so that it begins where words are.
        """
        known = weight[: self.old_tokens].float()
        shape = self.new_tokens - self.old_tokens, weight.shape[1]
        # Not torch's numbers: within deepspeed.zero.Init those are made on its device and rounded.
        drawn = np.random.default_rng(0).standard_normal(shape, np.float32)
        noise = torch.from_numpy(drawn)
        new = known.mean(0) + 0.1 * known.std(0) * noise
        return torch.cat([known, new, weight[self.new_tokens :].float()])
