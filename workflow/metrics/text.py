"""Metrics of generated texts against references."""

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
"""Metrics that only use a-z and 0-9."""
TEXTS_REMEMBERED = 1_000
"""Records after which sacrebleu's caches of texts are cleared."""

_SAMPLED = ("exact_match", "normalized_exact_match", "rougeL", "rougeL_unicode")
"""Metrics of every sample; the others are of the first sample only."""
_MEANS = (*_SAMPLED, "rouge1", "rouge2", "rougeLsum")
_KINDS = ("text", "seen", "paired", "long")
"""Kinds of references: non-empty, usable for ROUGE, long enough for rouge2, and for BLEU."""
_NEEDED = dict.fromkeys(ROUGE, "seen") | {"rouge2": "paired", "bleu": "long", "chrf": "text"}
"""The kind of reference that a metric needs. ROUGE is also defined if all references are empty."""
_COLUMNS = (*((name, 1) for name in (*_MEANS, *_KINDS)), ("bleu", 10), ("chrf", 18))
"""A record's numbers and their widths; the last two are the statistics that sacrebleu's own
bootstrap resamples."""
_REFERENCE_LENGTH = 1
"""Index of the reference's length in sacrebleu's statistics."""
BLEU_TOKENS = 4
"""Least tokens of a reference for BLEU, which counts 4-grams."""
_MOST = 0.9
"""Share of references usable for ROUGE below which a note is logged."""

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """Lower case, without ASCII punctuation and articles (a, an, the), whitespace collapsed.

    As in the evaluation of SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250). The result may be
    empty, e.g. for "A" or "+".
    """
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", bare).split())


class TextMetrics:
    """Metrics of predictions against references, added one record at a time.

    Of the first prediction of each record, each with "<name>_ci95", [low, high]:

    - exact_match, 0..1: share equal to the reference after stripping; normalized_exact_match,
      0..1: share equal after `normalized`.
    - rouge1, rouge2, rougeL, rougeLsum, 0..1: mean F-measures of rouge-score without stemming
      (Lin 2004). Its words are runs of a-z and 0-9; the metrics are None if these are less than
      half the letters of every reference (`is_seen`), rouge2 also if none has two words. For
      rougeLsum each line is a sentence. Only the first 2,000 words count (`ROUGE_WORDS`).
    - rougeL_unicode, 0..1: the same as rougeL for words of all scripts (`word_f1`).
    - bleu (Papineni et al. 2002) and chrf (Popović 2015), 0..100: corpus scores of sacrebleu with
      its defaults except for BLEU's tokenizer, see "bleu_signature" and "chrf_signature". BLEU is
      None if no reference has four tokens, both are if all references are empty.

    With several references, a record counts as with the one that gives the best value, except in
    bleu and chrf, which are defined for several: sacrebleu counts the n-grams of all, or the best.

    With an empty reference, an empty prediction counts 1 in all means and any other 0. In bleu, the
    tokens of the latter count as wrong; chrf ignores both.

    Intervals are 95% percentile bootstrap intervals (Efron 1979) over records: 1,000 resamples,
    the same for all metrics. With several predictions per record, exact_match,
    normalized_exact_match, rougeL and rougeL_unicode also have "<name>_best_of_n" (mean over
    records of the best prediction) and "<name>_mean_of_n" (mean over all predictions);
    distinct_samples is the mean share of distinct texts among a record's predictions.

    Only a record's terms of the sums over records are kept in memory.
    """

    def __init__(self, seed: int = 0, tokenize: str = "13a"):
        """Start without records.

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

    def add(self, texts: Sequence[str], references: Sequence[str]) -> None:
        """Add one record's sampled texts and its references, at least one of each.

        Raises:
            ValueError: the number of samples differs from earlier records.
        """
        self._samples = self._samples or len(texts)
        if not texts or len(texts) != self._samples:
            raise ValueError("every record needs the same number of predictions, at least one")
        scored = {text: self._scores(text, references) for text in set(texts)}
        self._first.add(self._row(texts[0], references, scored[texts[0]]))
        if self._samples > 1:
            of_samples = list(zip(*(scored[text] for text in texts), strict=True))
            self._best.add(map(max, of_samples))
            self._total.add(map(sum, of_samples))
            self._distinct += len(scored) / self._samples
        if self._first.rows % TEXTS_REMEMBERED == 0:
            forget_tokenized_texts(self._corpus["bleu"])

    def add_like(self, other: "TextMetrics") -> None:
        """Add the last record of `other`, of one sample."""
        self._samples = 1
        self._first.add(other._first.latest())

    def result(self) -> dict[str, Any]:
        """The metrics of all records so far; {} without records."""
        records = self._first.rows
        if records == 0:
            return {}
        forget_tokenized_texts(self._corpus["bleu"])
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
        """Notes about metrics that ignore or lack suitable references."""
        notes, references = [], self._references()
        texts, seen = int(references["text"]), int(references["seen"])
        few = "ROUGE only uses a-z and 0-9, less than half of the letters in"
        hint = "Hint: use rougeL_unicode or chrf"
        if texts and not seen:
            names = ", ".join(ROUGE)
            notes.append(f"{few} all {texts:,} references; {names} are null. {hint}")
        elif seen < _MOST * texts:
            share = f"{texts - seen:,} of {texts:,} references ({1 - seen / texts:.0%})"
            notes.append(f"{few} {share}. {hint}")
        if seen and not references["paired"]:
            notes.append("no reference has two words; rouge2 is null")
        if self._first.rows and not references["long"]:
            notes.append("no reference has four tokens; bleu is null")
        if self._first.rows and not texts:
            notes.append("all references are empty; chrf is null")
        return notes

    def _references(self) -> dict[str, float]:
        """The number of references of each kind in `_KINDS`."""
        sums = self._first.sums()[len(_MEANS) :]
        return dict(zip(_KINDS, sums, strict=False))

    def _scores(self, text: str, references: Sequence[str]) -> tuple[float, ...]:
        """The metrics named in `_SAMPLED`."""
        return _best(
            (
                _same(text, reference),
                same_normalized(text, reference),
                self._rouge_l(text, reference)["rougeL"],
                word_f1(text, reference),
            )
            for reference in references
        )

    def _row(
        self, text: str, references: Sequence[str], scores: tuple[float, ...]
    ) -> Iterator[float]:
        """A record's terms of the sums, in the order of `_COLUMNS`.

        sacrebleu's statistics are computed per record, so that only one record's n-grams are in
        memory.
        """
        yield from scores
        yield from _best(self._other_rouge(text, one).values() for one in references)
        several = any("\n" in one for one in (text, *references))
        rouge_l = scores[_SAMPLED.index("rougeL")]
        of_lines = (self._rouge_lines(text, one)["rougeLsum"] for one in references)
        yield max(of_lines) if several else rouge_l
        yield any(map(_has_text, references))
        yield any(map(is_seen, references))
        yield any(map(has_pair, references))
        statistics = [
            metric._extract_corpus_statistics([text], [[one] for one in references])[0]
            for metric in self._corpus.values()
        ]
        yield statistics[0][_REFERENCE_LENGTH] >= BLEU_TOKENS
        for of_metric in statistics:
            yield from of_metric

    def points(self) -> dict[str, float | None]:
        """Each metric of the first predictions, None if undefined; there must be a record."""
        return as_points(dict(self._values(np.array([self._first.sums()]))))

    def resampled(self) -> dict[str, Floats]:
        """Each of `points` in every resample, (resamples,); NaN if undefined.

        Resamples depend only on seed and number of records, so that for the same records in the
        same order the values of two models can be subtracted.
        """
        counted = resampled_counts(self._first.rows, self._seed)
        sums = [weighted_sums(counts, self._first.blocks()) for counts in counted]
        return dict(self._values(np.vstack(sums)))

    def _values(self, sums: Floats) -> Iterator[tuple[str, Floats]]:
        """Each metric, with a value for each row of sums over records; NaN if undefined."""
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


def forget_tokenized_texts(bleu: Any) -> None:
    """Clear sacrebleu's caches, which keep up to 65,536 texts until the process ends."""
    from sacrebleu.tokenizers.tokenizer_re import TokenizerRegexp

    for tokenizer in (type(bleu.tokenizer), TokenizerRegexp):
        tokenizer.__call__.cache_clear()  # type: ignore[union-attr]


def can_measure(metric: str, references: Iterable[str], tokenize: str) -> bool:
    """Whether `TextMetrics` defines this metric for these references.

    Args:
        tokenize: sacrebleu's tokenizer, for bleu only.
    """
    if metric == "bleu":
        from sacrebleu.metrics.bleu import BLEU

        cut = BLEU(tokenize=tokenize)._preprocess_segment
        return any(len(cut(text).split()) >= BLEU_TOKENS for text in references)
    if metric not in _NEEDED:
        return True
    serves = {"seen": is_seen, "paired": has_pair, "text": _has_text}[_NEEDED[metric]]
    all_empty = True
    for reference in references:
        if serves(reference):
            return True
        all_empty &= not _has_text(reference)
    return metric in ROUGE and all_empty


def _best(rows: Iterable[Iterable[float]]) -> tuple[float, ...]:
    """The greatest value in each column of rows."""
    return tuple(map(max, zip(*rows, strict=True)))


def _has_text(reference: str) -> bool:
    return bool(reference.strip())


def _same(text: str, reference: str) -> bool:
    return text.strip() == reference.strip()


def same_normalized(text: str, reference: str) -> bool:
    """Whether two texts are equal after `normalized` or, if that is empty, in their words."""
    if normalized(text) != normalized(reference):
        return False
    return bool(normalized(text)) or word_f1(text, reference) == 1
