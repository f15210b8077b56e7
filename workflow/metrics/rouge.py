"""ROUGE: rouge-score's, which sees a-z and 0-9 alone, and ROUGE-L for words of all scripts."""

import itertools
import re
from collections.abc import Callable

from workflow.metrics.scripts import words

ROUGE_WORDS = 2_000
"""Words of a text that rouge-score is given: the time of rougeL grows with their square."""

_ROUGE_WORD = re.compile("[a-z0-9]+")


def word_f1(text: str, reference: str) -> float:
    """0..1, the F1 of the words that two texts share in the same order.

    It is ROUGE-L (Lin 2004) for words of all scripts; the longest common subsequence is found with
    a bit for each word of the reference (Hyyrö 2004). Case and punctuation do not count; texts
    without any word score 1 where they are equal.
    """
    found, expected = words(text), words(reference)
    if not found and not expected:
        return float(text.strip() == reference.strip())
    places: dict[str, int] = {}
    for place, word in enumerate(expected):
        places[word] = places.get(word, 0) | 1 << place
    left = everything = (1 << len(expected)) - 1
    for word in found:
        matches = left & places.get(word, 0)
        left = (left + matches | left - matches) & everything
    shared = len(expected) - left.bit_count()
    return 2 * shared / (len(found) + len(expected))


def is_seen(reference: str) -> bool:
    """Whether rouge-score sees at least half of the letters and digits, and one of them."""
    seen = sum(map(len, _ROUGE_WORD.findall(reference.lower())))
    return seen > 0 and 2 * seen >= sum(map(len, words(reference)))


def has_pair(reference: str) -> bool:
    """Whether rouge-score sees it, and two words, of which rouge2 counts pairs."""
    return is_seen(reference) and len(_ROUGE_WORD.findall(reference.lower())) > 1


def rouge_scorer(*names: str) -> Callable[[str, str], dict[str, float]]:
    """A function of a text and its reference to the F-measure of each kind of ROUGE named.

    Of an empty reference all are 1 for an empty text and else 0, as SQuAD 2 has it. The tokenizer
    is the scorer's default; where it makes that itself, it also sets up Python's root logger.
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
    """The text up to its 2,000th word, in lower case, without lines that hold no word.

    Neither case nor such lines count in ROUGE, but its time grows with the square of the lines.
    """
    text = text.lower()
    if len(text) >= 2 * ROUGE_WORDS:
        found = itertools.islice(_ROUGE_WORD.finditer(text), ROUGE_WORDS)
        text = text[: max((word.end() for word in found), default=0)]
    return "\n".join(line for line in text.split("\n") if _ROUGE_WORD.search(line))
