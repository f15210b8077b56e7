"""The source and target language of a multilingual tokenizer, which write codes into the ids."""

import difflib
from typing import Any

from workflow.errors import Problem, shorten

_ATTRIBUTE = {"source_lang": "src_lang", "target_lang": "tgt_lang"}


def language_codes(tokenizer: Any) -> list[str]:
    """The languages a tokenizer knows by code, as fr_XX; none for one without such codes."""
    codes = getattr(tokenizer, "lang_code_to_id", None)
    if codes is None and getattr(tokenizer, "src_lang", None) is None:
        return []
    if codes is None:  # NLLB's are special tokens among others
        codes = set(map(str, tokenizer.extra_special_tokens))
        codes -= set(tokenizer.special_tokens_map.values()) | {"<mask>"}
    return sorted(codes)


def language_ids(tokenizer: Any) -> set[int]:
    """The ids that stand for languages."""
    by_code = getattr(tokenizer, "lang_code_to_id", None)
    if by_code:
        return set(by_code.values())
    return set(tokenizer.convert_tokens_to_ids(language_codes(tokenizer)))


def settings_for_codes(tokenizer: Any) -> dict[str, Any]:
    """What NLLB's tokenizer has to be loaded with besides, where its folder has no tokenizer.json.

    Of the SentencePiece model alone transformers 5.23 makes one that reads every code as unknown.
    Behind the pieces stand the codes, then the mask (as in the models that Meta published).
    """
    if type(tokenizer).__name__ != "NllbTokenizer":
        return {}
    from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES

    known = tokenizer.get_vocab()
    if any(code in known for code in FAIRSEQ_LANGUAGE_CODES):
        return {}
    return {"mask_token": None, "extra_special_tokens": [*FAIRSEQ_LANGUAGE_CODES, "<mask>"]}


def set_languages(
    tokenizer: Any, source: str | None, target: str | None, target_needed: bool
) -> list[Problem]:
    """Let a tokenizer write these languages, or those that its folder names; else say why not.

    Args:
        target_needed: whether texts are written, too.
    """
    codes = language_codes(tokenizer)
    problems = []
    for name, asked in (("source_lang", source), ("target_lang", target)):
        code = asked or tokenizer.init_kwargs.get(_ATTRIBUTE[name])
        if not codes:
            if asked is not None:
                expected = "no such flag: this model's tokenizer has no codes of languages"
                problems.append(Problem(f"--{name}", shorten(asked), expected, "leave it out"))
        elif code in codes:
            setattr(tokenizer, _ATTRIBUTE[name], code)
        elif code is not None or name == "source_lang" or target_needed:
            problems.append(_unknown(name, code, codes))
    return problems


def _unknown(name: str, code: str | None, codes: list[str]) -> Problem:
    """No language where one is needed, or one that the tokenizer does not know."""
    shown = ", ".join(codes[:4])
    expected = f"one of the {len(codes)} languages of this tokenizer ({shown}, …)"
    if code is None:
        return Problem(f"--{name}", "no language", expected, f"add --{name} CODE")
    near = [known for known in codes if known.startswith(code[:2].lower())][:3]
    near = near or difflib.get_close_matches(code, codes, n=3)
    mend = f"did you mean {' or '.join(near)}?" if near else "choose one of them"
    return Problem(f"--{name}", shorten(code), expected, mend)
