"""How good answers are."""

import itertools
import math
import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from workflow.bootstrap import Columns, Floats, interval, resampled_counts, weighted_sums

SHOWN = {
    "seq2seq": ("loss", "token_accuracy", "exact_match", "rougeL", "bleu", "chrf"),
    "clf": ("loss", "accuracy", "auc", "brier", "ece", "spearman"),
}
"""The metrics of each task that are told first, in this order."""
LOWER_IS_BETTER = frozenset({"loss", "perplexity", "brier", "log_loss", "ece", "rmse", "mae"})

ROUGE_WORDS = 2_000
"""Words of a text that ROUGE is given: the time of rougeL grows with their square."""
TEXTS_REMEMBERED = 1_000
"""Records after which sacrebleu is to forget the texts that it has seen."""

_SAMPLED = ("exact_match", "normalized_exact_match", "rougeL")
"""What is said of every sample; of the first one also the others."""
_MEANS = (*_SAMPLED, "rouge1", "rouge2", "rougeLsum")
_CORPUS_WIDTHS = {"bleu": 10, "chrf": 18}
"""The statistics of a record that sacrebleu's own bootstrap resamples."""

_ROUGE_WORD = re.compile("[a-z0-9]+")
# A character of Chinese or Japanese is a word, for such texts have no spaces between words.
_ALONE = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+")
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def interval_of(metrics: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """The interval of a metric in a line of metrics.jsonl, where it has one.

    A number that a user's own metric calls so is none.
    """
    ends = metrics.get(f"{name}_ci95")
    if not isinstance(ends, list) or len(ends) != 2 or not all(map(is_number, ends)):
        return None
    return ends[0], ends[1]


def is_number(value: object) -> bool:
    """Whether a value of a log is a finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]


def perplexity(loss: float | None) -> float | None:
    """exp of a mean token loss in nats; None where that is no number that can be written."""
    if loss is None or not loss < 700:
        return None
    return math.exp(loss)


def is_better(metric: str, value: float | None, best: float | None) -> bool:
    """Whether `value` beats `best` in `metric`; None is never better, anything beats None."""
    if value is None or math.isnan(value):
        return False
    if best is None:
        return True
    return value < best if metric in LOWER_IS_BETTER else value > best


def normalized(text: str) -> str:
    """Lower case, without ASCII punctuation and articles (a, an, the), white space collapsed.

    As in the evaluation of SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250). Of a text that holds
    nothing else, as "A" or "+", nothing is left.
    """
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", bare).split())


def word_f1(text: str, reference: str) -> float:
    """0..1, the F1 of the words that two texts share in the same order.

    A quick score of one record. It is ROUGE-L (Lin 2004) for words of all scripts; the longest
    common subsequence is found with a bit for each word of the reference (Hyyrö 2004). Case and
    punctuation do not count; texts without any word score 1 where they are equal.
    """
    words, expected = _WORD.findall(text.lower()), _WORD.findall(reference.lower())
    if not words and not expected:
        return float(_same(text, reference))
    places: dict[str, int] = {}
    for place, word in enumerate(expected):
        places[word] = places.get(word, 0) | 1 << place
    left = everything = (1 << len(expected)) - 1
    for word in words:
        matches = left & places.get(word, 0)
        left = (left + matches | left - matches) & everything
    shared = len(expected) - left.bit_count()
    return 2 * shared / (len(words) + len(expected))


class TextMetrics:
    """How near answers come to one reference a record, taken one record at a time.

    The first answer of a record gives, each with "<name>_ci95", [low, high]:

    - exact_match, 0..1: share equal to the reference, ends stripped; normalized_exact_match,
      0..1: share equal after `normalized`.
    - rouge1, rouge2, rougeL, rougeLsum, 0..1: mean F-measures of rouge-score without stemming
      (Lin 2004). Its words are runs of a-z and 0-9, so other scripts score 0; for rougeLsum each
      line is a sentence. Of longer texts it gets the first 2,000 words (`ROUGE_WORDS`).
    - bleu (Papineni et al. 2002) and chrf (Popović 2015), 0..100: corpus scores of sacrebleu with
      its defaults, which "bleu_signature" and "chrf_signature" say.

    Intervals are 95% percentile bootstrap intervals (Efron 1979) over records: 1,000 resamples,
    the same for all metrics. With several answers a record there are, for exact_match,
    normalized_exact_match and rougeL, also "<name>_best_of_n" (mean over records of the best
    answer's score), "<name>_mean_of_n" (mean over all answers), and distinct_samples (mean share
    of different texts among a record's answers).

    Of a record only numbers are kept: what it adds to the sums that a metric is a formula of.
    """

    def __init__(self, seed: int = 0):
        """Begin with no records; `seed` is that of the resamples."""
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF

        self._seed = seed
        self._samples = 0
        self._rouge_l = _rouge_scorer("rougeL")
        self._other_rouge = _rouge_scorer("rouge1", "rouge2")
        self._rouge_lines = _rouge_scorer("rougeLsum")
        self._corpus = {"bleu": BLEU(), "chrf": CHRF()}
        width = len(_MEANS) + sum(_CORPUS_WIDTHS.values())
        self._first = Columns(width)
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
            _forget_tokenized_texts()

    def add_like(self, other: "TextMetrics") -> None:
        """Take the record that `other` took last, of one sample, with the same text."""
        self._samples = 1
        self._first.add(other._first.latest())

    def result(self) -> dict[str, Any]:
        """The metrics of all records so far; {} for none."""
        records = self._first.rows
        if records == 0:
            return {}
        _forget_tokenized_texts()
        measured = self._with_intervals()
        for name, metric in self._corpus.items():
            measured[f"{name}_signature"] = str(metric.get_signature())
        if self._samples > 1:
            sums = zip(_SAMPLED, self._best.sums(), self._total.sums(), strict=True)
            for name, best, total in sums:
                measured[f"{name}_best_of_n"] = best / records
                measured[f"{name}_mean_of_n"] = total / (records * self._samples)
            measured["distinct_samples"] = self._distinct / records
        return measured

    def _scores(self, text: str, reference: str) -> tuple[float, ...]:
        """Those named in `_SAMPLED`."""
        rouge_l = self._rouge_l(text, reference)["rougeL"]
        return _same(text, reference), _same_normalized(text, reference), rouge_l

    def _row(self, text: str, reference: str, scores: tuple[float, ...]) -> Iterator[float]:
        """What a text adds to the sums: its scores named in `_MEANS`, then sacrebleu's statistics.

        Those are asked for record by record, so that only one record's n-grams are held.
        """
        yield from scores
        yield from self._other_rouge(text, reference).values()
        several = "\n" in text or "\n" in reference
        yield self._rouge_lines(text, reference)["rougeLsum"] if several else scores[-1]
        for metric in self._corpus.values():
            yield from metric._extract_corpus_statistics([text], [[reference]])[0]

    def points(self) -> dict[str, float]:
        """The value of each metric of the first answers; there must be a record."""
        return {name: value for name, (value,) in self._values(np.array([self._first.sums()]))}

    def resampled(self) -> dict[str, Floats]:
        """Each of `points` in every resample, (resamples,).

        As many records draw the same resamples from the same seed, whatever is answered: of the
        same records in the same order, the values of two models can be subtracted.
        """
        counted = resampled_counts(self._first.rows, self._seed)
        sums = [weighted_sums(counts, self._first.blocks()) for counts in counted]
        return {name: np.array(values) for name, values in self._values(np.vstack(sums))}

    def _with_intervals(self) -> dict[str, Any]:
        """Each metric's value, and as "<name>_ci95" its interval."""
        measured: dict[str, Any] = {}
        resampled = self.resampled()
        for name, value in self.points().items():
            measured[name] = value
            measured[f"{name}_ci95"] = interval(resampled[name])
        return measured

    def _values(self, sums: Floats) -> Iterator[tuple[str, list[float]]]:
        """Each metric, with a value for each row of sums over records."""
        names = [*_MEANS, *_CORPUS_WIDTHS]
        widths = [1] * len(_MEANS) + [*_CORPUS_WIDTHS.values()]
        for name, of_metric in zip(
            names, np.split(sums, np.cumsum(widths)[:-1], axis=1), strict=True
        ):
            rows = of_metric.tolist()
            if name in _MEANS:
                yield name, [total / self._first.rows for (total,) in rows]
            else:
                score = self._corpus[name]._compute_score_from_stats
                yield name, [float(score(row).score) for row in rows]


def _forget_tokenized_texts() -> None:
    """Empty sacrebleu's caches, which would keep 65,536 texts for as long as the process lives."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    from sacrebleu.tokenizers.tokenizer_re import TokenizerRegexp

    Tokenizer13a.__call__.cache_clear()
    TokenizerRegexp.__call__.cache_clear()


def _same(text: str, reference: str) -> bool:
    return text.strip() == reference.strip()


def _same_normalized(text: str, reference: str) -> bool:
    return normalized(text) == normalized(reference)


def _rouge_scorer(*names: str) -> Callable[[str, str], dict[str, float]]:
    """A function of a text and its reference to the F-measure of each kind of ROUGE named.

    The tokenizer is the scorer's default; where it makes that itself, it also sets up Python's
    root logger.
    """
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]
    from rouge_score.tokenizers import DefaultTokenizer  # type: ignore[import-untyped]

    scorer = RougeScorer(names, tokenizer=DefaultTokenizer(use_stemmer=False))

    def score(text: str, reference: str) -> dict[str, float]:
        found = scorer.score(_for_rouge(reference), _for_rouge(text))
        return {name: found[name].fmeasure for name in names}

    return score


def _for_rouge(text: str) -> str:
    """The text up to its 2,000th word, in lower case, without lines that hold no word.

    Neither case nor such lines count in ROUGE, but its time grows with the square of the lines.
    """
    text = text.lower()
    if len(text) >= 2 * ROUGE_WORDS:
        words = itertools.islice(_ROUGE_WORD.finditer(text), ROUGE_WORDS)
        text = text[: max((word.end() for word in words), default=0)]
    return "\n".join(line for line in text.split("\n") if _ROUGE_WORD.search(line))
