"""How good answers are."""

import re
import string
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from workflow.metrics.bootstrap import (
    Columns,
    Floats,
    as_points,
    resampled_counts,
    weighted_sums,
    with_intervals,
)
from workflow.metrics.rouge import has_pair, is_seen, rouge_scorer, word_f1

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
"""What sees a-z and 0-9 alone."""
TEXTS_REMEMBERED = 1_000
"""Records after which sacrebleu is to forget the texts that it has seen."""

_SAMPLED = ("exact_match", "normalized_exact_match", "rougeL", "rougeL_unicode")
"""What is said of every sample; of the first one also the others."""
_MEANS = (*_SAMPLED, "rouge1", "rouge2", "rougeLsum")
_KINDS = ("text", "seen", "paired", "long")
"""Kinds of references: with a text, with one that ROUGE sees, with one that is long enough for
rouge2, and for BLEU."""
_NEEDED = dict.fromkeys(ROUGE, "seen") | {"rouge2": "paired", "bleu": "long", "chrf": "text"}
"""The kind of which a metric needs a reference. ROUGE is defined where none has a text, too."""
_COLUMNS = (*((name, 1) for name in (*_MEANS, *_KINDS)), ("bleu", 10), ("chrf", 18))
"""The numbers of a record, and how many each takes; the last two are the statistics that
sacrebleu's own bootstrap resamples."""
_REFERENCE_LENGTH = 1
"""The place of the reference's length among those."""
BLEU_TOKENS = 4
"""A reference that has less can share no such run of tokens with an answer as BLEU counts."""
_MOST = 0.9
"""Share of the references that ROUGE is to see, else that is told."""

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """Lower case, without ASCII punctuation and articles (a, an, the), white space collapsed.

    As in the evaluation of SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250). Of a text that holds
    nothing else, as "A" or "+", nothing is left.
    """
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", bare).split())


class TextMetrics:
    """How near answers come to one reference a record, taken one record at a time.

    The first answer of a record gives, each with "<name>_ci95", [low, high]:

    - exact_match, 0..1: share equal to the reference, ends stripped; normalized_exact_match,
      0..1: share equal after `normalized`.
    - rouge1, rouge2, rougeL, rougeLsum, 0..1: mean F-measures of rouge-score without stemming
      (Lin 2004). Its words are runs of a-z and 0-9: they are None where those are half the letters
      of no reference (`is_seen`), rouge2 where none has two. For rougeLsum each line is a
      sentence. Of longer texts it gets the first 2,000 words (`ROUGE_WORDS`).
    - rougeL_unicode, 0..1: the same as rougeL for words of all scripts (`word_f1`).
    - bleu (Papineni et al. 2002) and chrf (Popović 2015), 0..100: corpus scores of sacrebleu with
      its defaults but for BLEU's tokenizer, which "bleu_signature" and "chrf_signature" say. BLEU
      is None where no reference has four tokens, both are where no reference has any.

    Of an empty reference an empty answer is worth 1 in all means, any other 0. To bleu an empty
    answer adds nothing then, any other tokens that are wrong; to chrf neither does.

    Intervals are 95% percentile bootstrap intervals (Efron 1979) over records: 1,000 resamples,
    the same for all metrics. With several answers a record there are, for exact_match,
    normalized_exact_match, rougeL and rougeL_unicode, also "<name>_best_of_n" (mean over records of
    the best answer's score), "<name>_mean_of_n" (mean over all answers), and distinct_samples (mean
    share of different texts among a record's answers).

    Of a record only numbers are kept: what it adds to the sums that a metric is a formula of.
    """

    def __init__(self, seed: int = 0, tokenize: str = "13a"):
        """Begin with no records.

        Args:
            seed: of the resamples.
            tokenize: sacrebleu's name of the tokenizer for BLEU.
        """
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF

        self._seed = seed
        self._samples = 0
        self._rouge_l = rouge_scorer("rougeL")
        self._other_rouge = rouge_scorer("rouge1", "rouge2")
        self._rouge_lines = rouge_scorer("rougeLsum")
        self._corpus = {"bleu": BLEU(tokenize=tokenize), "chrf": CHRF()}
        self._first = Columns(sum(width for _, width in _COLUMNS))
        self._best, self._total = Columns(len(_SAMPLED)), Columns(len(_SAMPLED))
        self._distinct = 0.0

    def add(self, texts: Sequence[str], reference: str) -> None:
        """Take one record's sampled texts: at least one, and as many as of every record.

        Raises:
            ValueError: the record differs from those before it in its samples.
        """
        self._samples = self._samples or len(texts)
        if not texts or len(texts) != self._samples:
            raise ValueError("each reference needs its answers, as many for every record")
        scored = {text: self._scores(text, reference) for text in set(texts)}
        self._first.add(self._row(texts[0], reference, scored[texts[0]]))
        if self._samples > 1:
            of_samples = list(zip(*(scored[text] for text in texts), strict=True))
            self._best.add(map(max, of_samples))
            self._total.add(map(sum, of_samples))
            self._distinct += len(scored) / self._samples
        if self._first.rows % TEXTS_REMEMBERED == 0:
            self._forget_tokenized_texts()

    def add_like(self, other: "TextMetrics") -> None:
        """Take the record that `other` took last, of one sample, with text and reference."""
        self._samples = 1
        self._first.add(other._first.latest())

    def result(self) -> dict[str, Any]:
        """The metrics of all records so far; {} for none."""
        records = self._first.rows
        if records == 0:
            return {}
        self._forget_tokenized_texts()
        measured = with_intervals(self.points(), self.resampled())
        for name, metric in self._corpus.items():
            measured[f"{name}_signature"] = str(metric.get_signature())
        if self._samples > 1:
            sums = zip(_SAMPLED, self._best.sums(), self._total.sums(), strict=True)
            for name, best, total in sums:
                known = measured[name] is not None
                measured[f"{name}_best_of_n"] = best / records if known else None
                of_all = records * self._samples
                measured[f"{name}_mean_of_n"] = total / of_all if known else None
            measured["distinct_samples"] = self._distinct / records
        return measured

    def unseen(self) -> list[str]:
        """What some metrics do not see of the references, in sentences."""
        notes, references = [], self._references()
        texts, seen = int(references["text"]), int(references["seen"])
        others = "rougeL_unicode and chrf see all scripts"
        if texts and not seen:
            notes.append(
                "ROUGE sees a-z and 0-9 only, which are half the letters of none of "
                f"{texts:,} references: {', '.join(ROUGE)} are null; {others}"
            )
        elif seen < _MOST * texts:
            notes.append(
                "ROUGE sees a-z and 0-9 only, which are less than half the letters of "
                f"{texts - seen:,} of {texts:,} references ({1 - seen / texts:.0%}); {others}"
            )
        if seen and not references["paired"]:
            notes.append("rouge2 counts two words in a row, which no reference has: rouge2 is null")
        if self._first.rows and not references["long"]:
            notes.append("BLEU counts four tokens in a row, which no reference has: bleu is null")
        if self._first.rows and not texts:
            notes.append("chrF counts characters, which no reference has: chrf is null")
        return notes

    def _references(self) -> dict[str, float]:
        """How many references there are of each kind named in `_KINDS`."""
        sums = self._first.sums()[len(_MEANS) :]
        return dict(zip(_KINDS, sums, strict=False))

    def _scores(self, text: str, reference: str) -> tuple[float, ...]:
        """Those named in `_SAMPLED`."""
        return (
            _same(text, reference),
            _same_normalized(text, reference),
            self._rouge_l(text, reference)["rougeL"],
            word_f1(text, reference),
        )

    def _row(self, text: str, reference: str, scores: tuple[float, ...]) -> Iterator[float]:
        """What a text adds to the sums, in the order of `_COLUMNS`.

        sacrebleu's statistics are asked for record by record, so that only one record's n-grams
        are held.
        """
        yield from scores
        yield from self._other_rouge(text, reference).values()
        several = "\n" in text or "\n" in reference
        rouge_l = scores[_SAMPLED.index("rougeL")]
        yield self._rouge_lines(text, reference)["rougeLsum"] if several else rouge_l
        yield _has_text(reference)
        yield is_seen(reference)
        yield has_pair(reference)
        statistics = [
            metric._extract_corpus_statistics([text], [[reference]])[0]
            for metric in self._corpus.values()
        ]
        yield statistics[0][_REFERENCE_LENGTH] >= BLEU_TOKENS
        for of_metric in statistics:
            yield from of_metric

    def points(self) -> dict[str, float | None]:
        """The value of each metric of the first answers, None where undefined.

        There must be a record.
        """
        return as_points(dict(self._values(np.array([self._first.sums()]))))

    def resampled(self) -> dict[str, Floats]:
        """Each of `points` in every resample, (resamples,); NaN where it is undefined.

        As many records draw the same resamples from the same seed, whatever is answered: of the
        same records in the same order, the values of two models can be subtracted.
        """
        counted = resampled_counts(self._first.rows, self._seed)
        sums = [weighted_sums(counts, self._first.blocks()) for counts in counted]
        return dict(self._values(np.vstack(sums)))

    def _values(self, sums: Floats) -> Iterator[tuple[str, Floats]]:
        """Each metric, with a value for each row of sums over records; NaN where undefined."""
        ends = np.cumsum([width for _, width in _COLUMNS])[:-1]
        names = [name for name, _ in _COLUMNS]
        parts = dict(zip(names, np.split(sums, ends, axis=1), strict=True))
        there_are = {kind: parts[kind][:, 0] > 0 for kind in _KINDS}
        for name in _MEANS:
            means = parts[name][:, 0] / self._first.rows
            known = there_are[_NEEDED[name]] | ~there_are["text"] if name in ROUGE else True
            yield name, np.where(known, means, np.nan)
        for name, metric in self._corpus.items():
            rows = parts[name].tolist()
            scores = np.array([float(metric._compute_score_from_stats(row).score) for row in rows])
            yield name, np.where(there_are[_NEEDED[name]], scores, np.nan)

    def _forget_tokenized_texts(self) -> None:
        """Empty sacrebleu's caches, which would keep 65,536 texts as long as the process lives."""
        from sacrebleu.tokenizers.tokenizer_re import TokenizerRegexp

        of_bleu: Any = self._corpus["bleu"]
        for tokenizer in (type(of_bleu.tokenizer), TokenizerRegexp):
            tokenizer.__call__.cache_clear()  # type: ignore[union-attr]


def can_measure(metric: str, references: Iterable[str], tokenize: str) -> bool:
    """Whether `TextMetrics` has a value of this metric for these references.

    Args:
        tokenize: as there; of no account where the metric is not bleu.
    """
    if metric == "bleu":
        from sacrebleu.metrics.bleu import BLEU

        cut = BLEU(tokenize=tokenize)._preprocess_segment
        return any(len(cut(one).split()) >= BLEU_TOKENS for one in references)
    if metric not in _NEEDED:
        return True
    serves = {"seen": is_seen, "paired": has_pair, "text": _has_text}[_NEEDED[metric]]
    all_empty = True
    for one in references:
        if serves(one):
            return True
        all_empty &= not _has_text(one)
    return metric in ROUGE and all_empty


def _has_text(reference: str) -> bool:
    return bool(reference.strip())


def _same(text: str, reference: str) -> bool:
    return text.strip() == reference.strip()


def _same_normalized(text: str, reference: str) -> bool:
    """Whether two texts are equal after `normalized`; where that leaves nothing, in their words."""
    if normalized(text) != normalized(reference):
        return False
    return bool(normalized(text)) or word_f1(text, reference) == 1
