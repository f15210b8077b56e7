"""Pure functions over lists: how good answers are."""

import itertools
import math
import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

LOWER_IS_BETTER = frozenset({"loss", "perplexity", "brier", "log_loss", "ece", "rmse", "mae"})

RESAMPLES = 1_000
"""Bootstrap resamples behind an interval."""
ROUGE_WORDS = 2_000
"""Words of a text that ROUGE is given: the time of rougeL grows with their square."""

COUNTS_AT_ONCE = 4_000_000
"""Numbers held at once while resampling (32 MB)."""

Floats = npt.NDArray[np.float64]
_ROUGE_WORD = re.compile("[a-z0-9]+")
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def mean(values: Sequence[float]) -> float | None:
    """The mean (of flags: the share that is true); None for none."""
    return sum(values) / len(values) if values else None


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> float | None:
    """Share of predictions equal to their reference, ends stripped; None for none."""
    return mean([_same(*pair) for pair in zip(predictions, references, strict=True)])


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


def text_metrics(
    answers: Sequence[Sequence[str]], references: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """How near answers come to one reference a record; {} for no references.

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

    Args:
        answers: for each record its sampled texts: at least one, and as many for every record.
        seed: of the resamples.

    Raises:
        ValueError: answers and references do not pair up, or records differ in their samples.
    """
    if not references:
        return {}
    samples = len(answers[0]) if answers else 0
    if len(answers) != len(references) or samples == 0 or any(len(a) != samples for a in answers):
        raise ValueError("each reference needs its answers, as many for every record")
    sampled = {
        "exact_match": _scores_of_samples(_same, answers, references),
        "normalized_exact_match": _scores_of_samples(_same_normalized, answers, references),
        "rougeL": _scores_of_samples(_rouge_l(), answers, references),
    }
    headlines, signatures = _headlines([texts[0] for texts in answers], references, sampled)
    measured = _with_intervals(headlines, seed) | signatures
    if samples > 1:
        for name, scores in sampled.items():
            measured[f"{name}_best_of_n"] = float(scores.max(axis=1).mean())
            measured[f"{name}_mean_of_n"] = float(scores.mean())
        measured["distinct_samples"] = mean([len(set(texts)) / samples for texts in answers])
    return measured


@dataclass(frozen=True)
class _Metric:
    """A metric that is a formula of the sums, over records, of some numbers of each record.

    Attributes:
        statistics: those numbers, (records, numbers of one record).
        formula: their sums over records to the metric.
    """

    statistics: Floats
    formula: Callable[[list[float]], float]


def _headlines(
    texts: Sequence[str], references: Sequence[str], sampled: dict[str, Floats]
) -> tuple[dict[str, _Metric], dict[str, str]]:
    """The metrics of one text a record, and the signatures of BLEU and chrF.

    Args:
        sampled: scores that are known already, (records, samples), the texts' own first.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    means = {name: scores[:, 0] for name, scores in sampled.items()}
    means |= _other_rouge(texts, references, means["rougeL"])
    headlines = {name: _mean_of(scores) for name, scores in means.items()}
    signatures = {}
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        headlines[name] = _corpus_metric(metric, texts, references)
        signatures[f"{name}_signature"] = str(metric.get_signature())
    _forget_tokenized_texts()
    return headlines, signatures


def _forget_tokenized_texts() -> None:
    """Empty sacrebleu's caches, which would keep 65,536 texts for as long as the process lives."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    from sacrebleu.tokenizers.tokenizer_re import TokenizerRegexp

    Tokenizer13a.__call__.cache_clear()
    TokenizerRegexp.__call__.cache_clear()


def _mean_of(scores: Floats) -> _Metric:
    count = len(scores)
    return _Metric(scores[:, np.newaxis], lambda sums: sums[0] / count)


def _corpus_metric(metric: Any, texts: Sequence[str], references: Sequence[str]) -> _Metric:
    """One of sacrebleu's corpus metrics, from the statistics that its own bootstrap resamples.

    They are asked for record by record, so that only one record's n-grams are held.
    """
    statistics = [
        metric._extract_corpus_statistics([text], [[reference]])[0]
        for text, reference in zip(texts, references, strict=True)
    ]
    return _Metric(
        np.array(statistics, np.float64),
        lambda sums: float(metric._compute_score_from_stats(sums).score),
    )


def _with_intervals(metrics: dict[str, _Metric], seed: int) -> dict[str, Any]:
    """Each metric's value, and as "<name>_ci95" its 95% percentile bootstrap interval."""
    statistics = np.hstack([metric.statistics for metric in metrics.values()])
    widths = [metric.statistics.shape[1] for metric in metrics.values()]
    resampled = np.split(_resampled_sums(statistics, seed), np.cumsum(widths)[:-1], axis=1)
    measured: dict[str, Any] = {}
    for (name, metric), sums in zip(metrics.items(), resampled, strict=True):
        measured[name] = metric.formula(metric.statistics.sum(axis=0).tolist())
        values = [metric.formula(row) for row in sums.tolist()]
        measured[f"{name}_ci95"] = np.percentile(values, [2.5, 97.5]).tolist()
    return measured


def resampled_counts(records: int, seed: int) -> Iterator[Floats]:
    """How often each record is drawn in `RESAMPLES` resamples with replacement, block by block.

    Args:
        records: at least 1; a resample draws as many.

    Yields:
        Blocks of (resamples of this block, records), of at most `COUNTS_AT_ONCE` numbers or of
        one resample.
    """
    generator = np.random.default_rng(seed)
    at_once = max(1, COUNTS_AT_ONCE // records)
    for start in range(0, RESAMPLES, at_once):
        counts = [
            np.bincount(generator.integers(records, size=records), minlength=records)
            for _ in range(min(at_once, RESAMPLES - start))
        ]
        yield np.array(counts, np.float64)


def _resampled_sums(statistics: Floats, seed: int) -> Floats:
    """Column sums of as many rows, drawn with replacement: (resamples, columns)."""
    return np.vstack([counts @ statistics for counts in resampled_counts(len(statistics), seed)])


def _scores_of_samples(
    score: Callable[[str, str], float], answers: Iterable[Sequence[str]], references: Sequence[str]
) -> Floats:
    """`score(text, reference)` of each sample, (records, samples); equal texts are scored once."""
    rows = []
    for texts, reference in zip(answers, references, strict=True):
        known = {text: score(text, reference) for text in set(texts)}
        rows.append([known[text] for text in texts])
    return np.array(rows, np.float64)


def _same(text: str, reference: str) -> bool:
    return text.strip() == reference.strip()


def _same_normalized(text: str, reference: str) -> bool:
    return normalized(text) == normalized(reference)


def _rouge_l() -> Callable[[str, str], float]:
    score = _rouge_scorer("rougeL")
    return lambda text, reference: score(text, reference)["rougeL"]


def _other_rouge(
    texts: Sequence[str], references: Sequence[str], rouge_l: Floats
) -> dict[str, Floats]:
    """rouge1, rouge2 and rougeLsum of each text; that of two single lines is their rougeL."""
    of_pairs = _rouge_scorer("rouge1", "rouge2")
    of_lines = _rouge_scorer("rougeLsum")
    scores: dict[str, list[float]] = {"rouge1": [], "rouge2": [], "rougeLsum": []}
    for text, reference, whole in zip(texts, references, rouge_l, strict=True):
        found = of_pairs(text, reference)
        several = "\n" in text or "\n" in reference
        found |= of_lines(text, reference) if several else {"rougeLsum": whole}
        for name, value in found.items():
            scores[name].append(value)
    return {name: np.array(values, np.float64) for name, values in scores.items()}


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
