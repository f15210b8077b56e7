"""How answers differ from each other and from their prompts: diversity, copying, script."""

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import cache
from typing import Any

import numpy as np

from workflow.metrics.bootstrap import Floats
from workflow.metrics.measured import Answer, Measured, mean_of
from workflow.metrics.rouge import words_in_common
from workflow.metrics.scripts import bleu_tokenizer, inspected, words
from workflow.metrics.text import forget_tokenized_texts

ALPHA = 0.8
"""The weight of BLEU in iBLEU, within the 0.7 to 0.9 of Sun and Zhou (2012)."""
_STATISTICS = 10
"""Of sacrebleu's BLEU."""
_JAPANESE = {"HIRAGANA": "CJK", "KATAKANA": "CJK"}
"""Scripts that are written together."""


def diversity(answers: Sequence[Answer]) -> dict[str, Measured]:
    """Diversity of a record's samples.

    distinct_1, distinct_2, distinct_3: different sequences of so many words, divided by all (Li et
    al. 2016, arXiv:1510.03055), of all samples together. self_bleu, 0..100: the mean BLEU of each
    sample against the others (Zhu et al. 2018, arXiv:1802.01886), sacrebleu's for sentences;
    undefined with one sample.
    """
    measured = {
        f"distinct_{n}": mean_of(_distinct(answer.texts, n) for answer in answers)
        for n in (1, 2, 3)
    }
    bleu = _bleu(answers, effective_order=True)
    measured["self_bleu"] = mean_of(_self_bleu(bleu, answer.texts) for answer in answers)
    forget_tokenized_texts(bleu)
    return measured


def _distinct(texts: Sequence[str], n: int) -> float | None:
    cut = [words(text) for text in texts]
    grams = [tuple(row[i : i + n]) for row in cut for i in range(len(row) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def _self_bleu(bleu: Any, texts: tuple[str, ...]) -> float | None:
    if len(texts) == 1:
        return None
    others = (texts[:i] + texts[i + 1 :] for i in range(len(texts)))
    scores = [bleu.sentence_score(*one).score for one in zip(texts, others, strict=True)]
    return float(np.mean(scores))


def copying(answers: Sequence[Answer]) -> dict[str, Measured]:
    """What answers copy from their prompts, in shares of their words, and their length.

    copied_words: the longest common subsequence with the prompt, ROUGE-L's precision. copied_run:
    the longest run of words that the prompt has too. length_ratio: words of all answers divided by
    those of the (first) references.
    """
    rows = [(words(answer.texts[0]), words(answer.prompt)) for answer in answers]
    lengths = [
        (len(written), len(words(answer.references[0]))) if answer.references else (0, 0)
        for answer, (written, _) in zip(answers, rows, strict=True)
    ]
    return {
        "copied_words": mean_of(
            words_in_common(*row) / len(row[0]) if row[0] else None for row in rows
        ),
        "copied_run": mean_of(_longest_run(*row) / len(row[0]) if row[0] else None for row in rows),
        "length_ratio": Measured(np.array(lengths, np.float64).reshape(-1, 2)),
    }


def _longest_run(written: list[str], read: list[str]) -> int:
    matcher = SequenceMatcher(None, written, read, autojunk=False)
    return matcher.find_longest_match().size


def ibleu(answers: Sequence[Answer], alpha: float = ALPHA) -> dict[str, Measured]:
    """alpha BLEU(answers, references) - (1 - alpha) BLEU(answers, prompts), up to 100.

    Sun and Zhou 2012 (aclanthology.org/P12-2008), of the whole corpus. What all prompts begin or
    end with is an instruction and left out; so are records without references.
    """
    bleu = _bleu(answers)
    prompts = without_instruction([answer.prompt for answer in answers])
    none = [0.0] * (2 * _STATISTICS)
    terms = [
        [*_statistics(bleu, answer.texts[0], answer.references),
         *_statistics(bleu, answer.texts[0], (prompt,))] if answer.references else none
        for answer, prompt in zip(answers, prompts, strict=True)
    ]  # fmt: skip

    def value(sums: Floats) -> Floats:
        good, copied = (
            np.array([float(bleu._compute_score_from_stats(row).score) for row in half.tolist()])
            for half in np.split(sums, 2, axis=1)
        )
        known = sums[:, 1] > 0  # words of references
        return np.where(known, alpha * good - (1 - alpha) * copied, np.nan)

    forget_tokenized_texts(bleu)
    return {"ibleu": Measured(np.array(terms, np.float64).reshape(-1, 2 * _STATISTICS), value)}


def _bleu(answers: Sequence[Answer], **options: Any) -> Any:
    """sacrebleu's BLEU with the tokenizer for the texts' script."""
    from sacrebleu.metrics.bleu import BLEU

    texts = [(*answer.references, *answer.texts)[0] for answer in answers]
    tokenize = bleu_tokenizer([texts[i] for i in inspected(len(texts))])
    return BLEU(tokenize=tokenize, **options)


def _statistics(bleu: Any, text: str, references: Sequence[str]) -> list[float]:
    found: list[float] = bleu._extract_corpus_statistics([text], [[one] for one in references])[0]
    return found


def without_instruction(prompts: Sequence[str]) -> list[str]:
    """Prompts without the words that all of them begin and end with."""
    if len(set(prompts)) < 2:
        return list(prompts)
    start = _common(prompts)
    rest = [prompt[start:] for prompt in prompts]
    end = _common([prompt[::-1] for prompt in rest])
    return [prompt[: len(prompt) - end] for prompt in rest]


def _common(texts: Sequence[str]) -> int:
    """The length of what all texts begin with, up to its last blank or mark."""
    common = os.path.commonprefix([min(texts), max(texts)])  # noqa: RUF071 (of texts)
    return next((end for end in range(len(common), 0, -1) if not common[end - 1].isalnum()), 0)


def same_script(answers: Sequence[Answer]) -> dict[str, Measured]:
    """same_script: the share of answers whose most frequent script is the first reference's.

    It shows answers in another language where that has another script.
    """

    def same(answer: Answer) -> float | None:
        expected = main_script(answer.references[0]) if answer.references else ""
        return float(main_script(answer.texts[0]) == expected) if expected else None

    return {"same_script": mean_of(map(same, answers))}


def main_script(text: str) -> str:
    """The script of most letters, as Unicode names it; "" without letters."""
    counted = Counter(map(_script, filter(str.isalpha, text)))
    return max(counted, key=lambda name: counted[name], default="")


@cache
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "?").partition(" ")[0]
    return _JAPANESE.get(name, name)
