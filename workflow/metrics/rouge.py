"""ROUGE: rouge-score's, which only uses a-z and 0-9, and ROUGE-L for words of all scripts."""

import itertools
import re
from collections.abc import Callable, Sequence

from workflow.metrics.scripts import words

ROUGE_WORDS = 2_000
"""Words of a text passed to rouge-score at most, since the time of rougeL is quadratic."""

_ROUGE_WORD = re.compile("[a-z0-9]+")


def word_f1(text: str, reference: str) -> float:
    """0..1, the F1 of the longest common subsequence of words.

    It is ROUGE-L (Lin 2004) for words of all scripts. Case and punctuation are ignored; texts
    without words score 1 if they are equal.
    """
    found, expected = words(text), words(reference)
    if not found and not expected:
        return float(text.strip() == reference.strip())
    return 2 * words_in_common(found, expected) / (len(found) + len(expected))


def words_in_common(found: Sequence[str], expected: Sequence[str]) -> int:
    """The length of the longest common subsequence, bit-parallel (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for place, word in enumerate(expected):
        places[word] = places.get(word, 0) | 1 << place
    left = everything = (1 << len(expected)) - 1
    for word in found:
        matches = left & places.get(word, 0)
        left = (left + matches | left - matches) & everything
    return len(expected) - left.bit_count()


def is_seen(reference: str) -> bool:
    """Whether rouge-score uses at least half of the letters and digits, and at least one."""
    seen = sum(map(len, _ROUGE_WORD.findall(reference.lower())))
    return seen > 0 and 2 * seen >= sum(map(len, words(reference)))


def has_pair(reference: str) -> bool:
    """Whether `is_seen`, with at least two words for rouge2."""
    return is_seen(reference) and len(_ROUGE_WORD.findall(reference.lower())) > 1


def rouge_scorer(*names: str) -> Callable[[str, str], dict[str, float]]:
    """A function that scores a text against its reference: the F-measure of each named ROUGE.

    For an empty reference all are 1 for an empty text and else 0, as in SQuAD 2. The tokenizer is
    the scorer's default; it is passed since the scorer's own setup configures the root logger.
    """
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]
    from rouge_score.tokenizers import DefaultTokenizer  # type: ignore[import-untyped]

    scorer = RougeScorer(names, tokenizer=DefaultTokenizer(use_stemmer=False))

    def score(text: str, reference: str) -> dict[str, float]:
        if not reference.strip():
            return dict.fromkeys(names, float(not text.strip()))
        found = scorer.score(_for_rouge(reference), _for_rouge(text))
        return {name: found[name].fmeasure for name in names}

    return score


def _for_rouge(text: str) -> str:
    """The text up to its 2,000th word, in lower case, without lines that have no word.

    Case and these lines do not change ROUGE, but its time is quadratic in the lines.
    """
    text = text.lower()
    if len(text) >= 2 * ROUGE_WORDS:
        found = itertools.islice(_ROUGE_WORD.finditer(text), ROUGE_WORDS)
        text = text[: max((word.end() for word in found), default=0)]
    return "\n".join(line for line in text.split("\n") if _ROUGE_WORD.search(line))
