"""Source and target language of multilingual tokenizers, which add language codes to the ids."""

import re
from typing import Any

from transformers import PreTrainedTokenizerBase

from workflow.core.errors import Problem, shorten

_CODE = re.compile(r"[a-z]{2,3}_[A-Z][A-Za-z]+")
"""E.g. fr_XX of mBART, fra_Latn of NLLB."""
_ATTRIBUTE = {"source_lang": "src_lang", "target_lang": "tgt_lang"}


def language_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The id of each language code of a tokenizer, e.g. fr_XX; empty without codes."""
    ids: dict[str, int] | None = getattr(tokenizer, "lang_code_to_id", None)
    if ids is None and getattr(tokenizer, "src_lang", None) is not None:
        known = tokenizer.get_vocab()
        special = map(str, tokenizer.extra_special_tokens)  # with others besides the codes
        ids = {code: known[code] for code in filter(_CODE.fullmatch, special)}
    return ids or {}


def settings_for_codes(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Extra arguments for loading a tokenizer whose folder does not list its language codes.

    From NLLB's SentencePiece model alone, transformers 5.23 creates a tokenizer that reads every
    code as unknown. (Its pieces are followed by the codes, then the mask, as in Meta's published
    models.) M2M100's codes are not special tokens, so decoding leaves them in the text.
    """
    if type(tokenizer).__name__ == "M2M100Tokenizer":
        codes = list(tokenizer.lang_code_to_token.values())
        listed = set(codes) <= set(tokenizer.all_special_tokens)
        return {} if listed else {"additional_special_tokens": codes}
    if type(tokenizer).__name__ != "NllbTokenizer":
        return {}
    from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES

    known = tokenizer.get_vocab()
    if any(code in known for code in FAIRSEQ_LANGUAGE_CODES):
        return {}
    return {"mask_token": None, "extra_special_tokens": [*FAIRSEQ_LANGUAGE_CODES, "<mask>"]}


def set_languages(
    tokenizer: PreTrainedTokenizerBase, source: str | None, target: str | None, target_needed: bool
) -> list[Problem]:
    """Set a tokenizer's languages to these, or else to those in its folder.

    Args:
        target_needed: True for tasks that generate text.

    Returns:
        The problems of invalid languages; valid ones are set anyway.
    """
    codes = sorted(language_ids(tokenizer))
    problems = []
    for name, language in (("source_lang", source), ("target_lang", target)):
        code = language or tokenizer.init_kwargs.get(_ATTRIBUTE[name])
        if not codes:
            if language is not None:
                expected = "no value, since the tokenizer has no language codes"
                problems.append(Problem(f"--{name}", shorten(language), expected, "remove it"))
        elif code in codes:
            setattr(tokenizer, _ATTRIBUTE[name], code)
        elif code is not None or name == "source_lang" or target_needed:
            problems.append(_unknown(name, code, codes))
    return problems


def _unknown(name: str, code: str | None, codes: list[str]) -> Problem:
    """The problem of a missing or unknown language code."""
    expected = f"one of the tokenizer's {len(codes)} languages: {', '.join(codes)}"
    if code is None:
        return Problem(f"--{name}", "not set", expected, f"add --{name} CODE")
    near = [one for one in codes if re.split("[_-]", one)[0] == re.split("[_-]", code.lower())[0]]
    hint = f"did you mean {' or '.join(near)}?" if near else "choose one of them"
    return Problem(f"--{name}", shorten(code), expected, hint)
