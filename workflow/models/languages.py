"""Source and target language of a multilingual tokenizer: codes that it writes into the ids."""

import re
from typing import Any

from transformers import PreTrainedTokenizerBase

from workflow.core.errors import Problem, shorten

_CODE = re.compile(r"[a-z]{2,3}_[A-Z][A-Za-z]+")
"""As fr_XX of mBART, and fra_Latn of NLLB."""
_ATTRIBUTE = {"source_lang": "src_lang", "target_lang": "tgt_lang"}


def language_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The id of each language a tokenizer knows by code, as fr_XX; none for one without codes."""
    ids: dict[str, int] | None = getattr(tokenizer, "lang_code_to_id", None)
    if ids is None and getattr(tokenizer, "src_lang", None) is not None:
        known = tokenizer.get_vocab()
        special = map(str, tokenizer.extra_special_tokens)  # NLLB's are among others
        ids = {code: known[code] for code in filter(_CODE.fullmatch, special)}
    return ids or {}


def settings_for_codes(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What a tokenizer has to be loaded with besides, where its folder does not list its codes.

    transformers 5.23 makes of NLLB's SentencePiece model alone a tokenizer that reads every code as
    unknown. (Behind the pieces stand the codes, then the mask, as in the models that Meta
    published.) M2M100's writes codes into the answers, for they are no special tokens to it.
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
    """Set a tokenizer's languages to these, else to those that its folder names.

    Args:
        target_needed: True where the model learns to write, as in seq2seq.

    Returns:
        What is wrong with them; a language that is right is set all the same.
    """
    codes = sorted(language_ids(tokenizer))
    problems = []
    for name, language in (("source_lang", source), ("target_lang", target)):
        code = language or tokenizer.init_kwargs.get(_ATTRIBUTE[name])
        if not codes:
            if language is not None:
                expected = "no such flag: this model's tokenizer has no codes of languages"
                problems.append(Problem(f"--{name}", shorten(language), expected, "leave it out"))
        elif code in codes:
            setattr(tokenizer, _ATTRIBUTE[name], code)
        elif code is not None or name == "source_lang" or target_needed:
            problems.append(_unknown(name, code, codes))
    return problems


def _unknown(name: str, code: str | None, codes: list[str]) -> Problem:
    """No language where one is needed, or one that the tokenizer does not know."""
    expected = f"one of the {len(codes)} languages of this tokenizer ({', '.join(codes)})"
    if code is None:
        return Problem(f"--{name}", "no language", expected, f"add --{name} CODE")
    near = [one for one in codes if re.split("[_-]", one)[0] == re.split("[_-]", code.lower())[0]]
    hint = f"did you mean {' or '.join(near)}?" if near else "choose one of them"
    return Problem(f"--{name}", shorten(code), expected, hint)
