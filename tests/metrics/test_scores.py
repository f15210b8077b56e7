"""Metrics of scores equal scikit-learn's and scipy's; undefined ones are None."""

import itertools
import json
import time
import tracemalloc

import numpy as np
import pytest
import sklearn.metrics as sk
from scipy import stats

from workflow.metrics import bootstrap
from workflow.metrics import ranking as ranked
from workflow.metrics.bootstrap import Floats, resampled_counts
from workflow.metrics.scores import score_metrics

WITH_INTERVALS = (
    "accuracy",
    "balanced_accuracy",
    "f1",
    "auc",
    "average_precision",
    "brier",
    "log_loss",
    "ece",
    "rmse",
)
NAMES = {
    *WITH_INTERVALS,
    "mae",
    "pearson",
    "spearman",
    "best_threshold",
    "best_threshold_accuracy",
}
OF_BOTH_CLASSES = {"balanced_accuracy", "auc"}
OF_YES = {"f1", "average_precision"}
CORRELATIONS = {"pearson", "spearman"}


def array(*values: float) -> Floats:
    return np.array(values, np.float64)


def drawn(records: int, seed: int, hard: bool = False, digits: int = 9) -> tuple[Floats, Floats]:
    """Weakly correlated scores and targets; few digits give many ties."""
    generator = np.random.default_rng(seed)
    targets = np.round(generator.beta(0.6, 0.8, records), digits)
    scores = np.clip(0.6 * targets + 0.4 * generator.random(records), 0, 1)
    scores[:2], targets[:2] = (0, 1), (1, 0)
    return np.round(scores, digits), np.round(targets) if hard else targets


def from_greatest(scores: Floats, targets: Floats) -> tuple[Floats, Floats]:
    order = np.lexsort((targets, scores))[::-1]
    return scores[order], targets[order]


def expected_of_classes(scores: Floats, targets: Floats, weights: Floats) -> dict[str, float]:
    """scikit-learn's metrics of classes, with records weighted."""
    yes, chosen = targets >= 0.5, scores >= 0.5
    weighted = {"sample_weight": weights}
    return {
        "accuracy": sk.accuracy_score(yes, chosen, **weighted),
        "balanced_accuracy": sk.balanced_accuracy_score(yes, chosen, **weighted),
        "f1": sk.f1_score(yes, chosen, **weighted),
        "auc": sk.roc_auc_score(yes, scores, **weighted),
        "average_precision": sk.average_precision_score(yes, scores, **weighted),
    }


def expected_of_labels(scores: Floats, targets: Floats, weights: Floats) -> dict[str, float]:
    """scikit-learn's scores of labels: each record is a yes and a no, weighted by its target."""
    labels = np.repeat([1, 0], len(scores))
    both = np.concatenate([scores, scores])
    shares = np.concatenate([targets * weights, (1 - targets) * weights])
    return {
        "brier": sk.brier_score_loss(labels, both, sample_weight=shares),
        "log_loss": sk.log_loss(labels, both, sample_weight=shares),
    }


def expected_ece(scores: Floats, targets: Floats, weights: Floats) -> float:
    error = 0.0
    for number in range(15):
        inside = (scores > number / 15) & (scores <= (number + 1) / 15)
        inside |= (scores == 0) & (number == 0)
        share = weights[inside].sum() / weights.sum()
        if share:
            means = [
                np.average(values[inside], weights=weights[inside]) for values in (scores, targets)
            ]
            error += share * abs(means[0] - means[1])
    return error


def expected_metrics(scores: Floats, targets: Floats, weights: Floats) -> dict[str, float]:
    return (
        expected_of_classes(scores, targets, weights)
        | expected_of_labels(scores, targets, weights)
        | {
            "ece": expected_ece(scores, targets, weights),
            "rmse": sk.root_mean_squared_error(targets, scores, sample_weight=weights),
        }
    )


def accuracy_at(threshold: float, scores: Floats, targets: Floats) -> float:
    return float(np.mean((scores >= threshold) == (targets >= 0.5)))


SAMPLES = pytest.mark.parametrize(
    ("hard", "digits", "records"),
    [
        (True, 9, 400),
        (True, 1, 400),
        (False, 9, 400),
        (False, 1, 401),
        (True, 1, 7),
        (False, 0, 50),
    ],
)


@SAMPLES
def test_values_equal_the_libraries(
    hard: bool, digits: int, records: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 1)
    for seed in range(5):
        scores, targets = drawn(records, seed, hard, digits)
        measured = score_metrics(scores, targets)
        expected = expected_metrics(scores, targets, np.ones(records)) | {
            "mae": sk.mean_absolute_error(targets, scores),
            "pearson": stats.pearsonr(scores, targets).statistic,
            "spearman": stats.spearmanr(scores, targets).statistic,
        }
        assert {n: measured[n] for n in expected} == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_hard_targets_give_scikit_learns_scores_of_labels() -> None:
    scores, targets = drawn(300, 0, hard=True, digits=2)
    measured = score_metrics(scores, targets)
    assert {0.0, 1.0} <= set(scores)
    assert measured["brier"] == pytest.approx(sk.brier_score_loss(targets, scores), rel=1e-12)
    assert measured["log_loss"] == pytest.approx(sk.log_loss(targets, scores), rel=1e-12)


@SAMPLES
def test_a_single_resample_equals_the_libraries(
    hard: bool, digits: int, records: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 1)
    scores, targets = from_greatest(*drawn(records, 3, hard, digits))
    judged = 0
    for seed in range(6):
        measured = score_metrics(scores, targets, seed)
        (counts,) = (block[0] for block in resampled_counts(records, seed))
        if len(set((targets >= 0.5)[counts > 0])) < 2:
            continue
        judged += 1
        for name, value in expected_metrics(scores, targets, counts).items():
            interval = measured[f"{name}_ci95"]
            assert interval == pytest.approx([value, value], rel=1e-9, abs=1e-12), name
    assert judged > 2


def test_intervals_are_percentiles_of_all_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 60)
    monkeypatch.setattr(bootstrap, "COUNTS_AT_ONCE", 500)
    scores, targets = from_greatest(*drawn(40, 1, digits=1))
    blocks = list(resampled_counts(40, 5))
    assert [len(block) for block in blocks] == [12] * 5
    values = [expected_metrics(scores, targets, counts) for counts in np.vstack(blocks)]
    measured = score_metrics(scores, targets, seed=5)
    for name in WITH_INTERVALS:
        expected = np.percentile([value[name] for value in values], [2.5, 97.5]).tolist()
        assert measured[f"{name}_ci95"] == pytest.approx(expected, rel=1e-9, abs=1e-12), name


def test_the_metrics_are_valid_json() -> None:
    measured = score_metrics(*drawn(30, 0))
    assert set(measured) == NAMES | {f"{name}_ci95" for name in WITH_INTERVALS}
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured
    assert {type(measured[name]) for name in NAMES} == {float}


@pytest.mark.parametrize("digits", [1, 9])
def test_the_order_of_the_records_changes_nothing(digits: int) -> None:
    scores, targets = drawn(200, 2, digits=digits)
    order = np.random.default_rng(0).permutation(200)
    assert score_metrics(scores[order], targets[order]) == score_metrics(scores, targets)


def test_intervals_are_seeded_and_hold_the_value() -> None:
    scores, targets = drawn(500, 4)
    measured = score_metrics(scores, targets)
    assert score_metrics(scores, targets) == measured
    other = score_metrics(scores, targets, seed=1)
    for name in WITH_INTERVALS:
        low, high = measured[f"{name}_ci95"]
        assert low < measured[name] < high, name
        assert other[name] == measured[name]
        assert other[f"{name}_ci95"] != measured[f"{name}_ci95"], name


def test_intervals_shrink_with_the_root_of_the_records() -> None:
    scores, targets = drawn(100, 4)
    few = score_metrics(scores, targets)
    many = score_metrics(np.tile(scores, 9), np.tile(targets, 9))
    for name in WITH_INTERVALS:
        widths = [high - low for low, high in (few[f"{name}_ci95"], many[f"{name}_ci95"])]
        # Chance lifts the ece of few records, so its interval shrinks otherwise.
        assert (1.2 if name == "ece" else 2.4) < widths[0] / widths[1] < 3.8, name


def test_the_truth_is_in_most_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 200)
    generator = np.random.default_rng(7)
    held = 0
    for seed in range(60):
        scores = generator.random(150)
        targets = (generator.random(150) < 0.7) == (scores >= 0.5)
        low, high = score_metrics(scores, targets.astype(np.float64), seed)["accuracy_ci95"]
        held += low <= 0.7 <= high
    assert held >= 50


def test_correct_and_certain_scores_are_optimal() -> None:
    targets = np.repeat(array(0, 1), 10)
    measured = score_metrics(targets, targets)
    for name in ("accuracy", "balanced_accuracy", "f1", "auc", "average_precision"):
        assert measured[name] == 1
        assert measured[f"{name}_ci95"] == [1, 1]
    for name in ("brier", "ece", "rmse"):
        assert measured[name] == 0
        assert measured[f"{name}_ci95"] == [0, 0]
    assert measured["log_loss"] == pytest.approx(0, abs=1e-15)
    assert measured["mae"] == 0
    assert [measured["pearson"], measured["spearman"]] == pytest.approx([1, 1])
    assert (measured["best_threshold"], measured["best_threshold_accuracy"]) == (0.5, 1)


def test_wrong_and_certain_scores_are_the_worst() -> None:
    measured = score_metrics(array(1, 0), array(0, 1))
    for name in ("accuracy", "balanced_accuracy", "f1", "auc"):
        assert measured[name] == 0
    assert measured["brier"] == measured["ece"] == measured["rmse"] == measured["mae"] == 1
    assert measured["log_loss"] == pytest.approx(-np.log(np.finfo(np.float64).eps))


def test_a_perfect_ranking_has_auc_1() -> None:
    measured = score_metrics(array(0.1, 0.15, 0.2, 0.3), array(0, 0.4, 0.5, 1))
    assert measured["auc"] == measured["average_precision"] == 1
    assert measured["f1"] == 0
    assert measured["accuracy"] == 0.5
    assert measured["best_threshold"] == pytest.approx(0.175)
    assert measured["best_threshold_accuracy"] == 1


def test_calibrated_groups_have_no_calibration_error() -> None:
    scores = np.repeat(array(0.1, 0.5, 0.8), 10)
    targets = np.concatenate([np.arange(10) < yes for yes in (1, 5, 8)]).astype(np.float64)
    assert score_metrics(scores, targets)["ece"] == pytest.approx(0, abs=1e-15)
    assert score_metrics(scores, 1 - targets)["ece"] == pytest.approx((0.8 + 0 + 0.6) / 3)


def test_bins_are_closed_at_their_upper_ends() -> None:
    # Together in a bin, the two errors cancel out.
    assert score_metrics(array(0.35, 0.4), array(0.36, 0.39))["ece"] == pytest.approx(0, abs=1e-15)
    assert score_metrics(array(0.4, 0.45), array(0.41, 0.44))["ece"] == pytest.approx(0.01)
    assert score_metrics(array(0.0, 0.05), array(0.01, 0.04))["ece"] == pytest.approx(0, abs=1e-15)
    assert score_metrics(array(0.95, 1.0), array(0.96, 0.99))["ece"] == pytest.approx(0, abs=1e-15)


def test_exact_scores_of_soft_targets_still_have_a_loss() -> None:
    measured = score_metrics(array(0.2, 0.7), array(0.2, 0.7))
    assert measured["brier"] == pytest.approx((0.16 + 0.21) / 2)
    assert measured["log_loss"] == pytest.approx(stats.entropy([[0.2, 0.7], [0.8, 0.3]]).mean())
    assert measured["ece"] == measured["rmse"] == 0


@pytest.mark.parametrize(
    ("scores", "targets", "undefined"),
    [
        ([0.7], [1], OF_BOTH_CLASSES | CORRELATIONS),
        ([0.7], [0], OF_BOTH_CLASSES | OF_YES | CORRELATIONS),
        ([0.0], [0.3], OF_BOTH_CLASSES | OF_YES | CORRELATIONS),
        ([0.2, 0.9, 0.4], [1, 1, 1], OF_BOTH_CLASSES | CORRELATIONS),
        ([0.2, 0.9, 0.4], [0, 0, 0], OF_BOTH_CLASSES | OF_YES | CORRELATIONS),
        ([0.2, 0.9, 0.4], [0.1, 0.2, 0.3], OF_BOTH_CLASSES | OF_YES),
        ([0.2, 0.9, 0.4], [0.5, 0.6, 0.7], OF_BOTH_CLASSES),
        ([0.5, 0.5, 0.5], [0, 1, 1], CORRELATIONS),
        ([1, 1], [0, 1], CORRELATIONS),
        ([0, 0], [0, 1], CORRELATIONS),
        ([0.5, 0.5], [0.5, 0.5], OF_BOTH_CLASSES | CORRELATIONS),
        ([0.5, np.nextafter(0.5, 1)], [0, 1], set()),
        ([0.1, 0.2], [0, 1], set()),
    ],
)
def test_undefined_metrics_are_none(
    scores: list[float], targets: list[float], undefined: set[str]
) -> None:
    measured = score_metrics(array(*scores), array(*targets))
    assert {name for name in NAMES if measured[name] is None} == undefined
    for name in WITH_INTERVALS:
        assert (measured[f"{name}_ci95"] is None) == (name in undefined), name
    json.dumps(measured, allow_nan=False)


def test_nearly_constant_values_do_not_crash() -> None:
    least = np.nextafter(0.0, 1.0)
    for scores in (array(0, least), array(0.3, np.nextafter(0.3, 0)), array(1, 1 - 2**-53)):
        for targets in (array(0, 1), array(1, 0), array(least, 0), array(0.5, 0.5 - 2**-54)):
            measured = score_metrics(scores, targets)
            json.dumps(measured, allow_nan=False)
            threshold, best = measured["best_threshold"], measured["best_threshold_accuracy"]
            assert accuracy_at(threshold, scores, targets) == best


def test_f1_is_0_if_no_yes_is_found() -> None:
    measured = score_metrics(array(0.1, 0.2, 0.3), array(1, 0, 1))
    assert measured["f1"] == 0
    assert measured["f1_ci95"] == [0, 0]


def test_resamples_without_the_metric_are_ignored() -> None:
    # A third of the resamples holds no yes or no no.
    measured = score_metrics(array(0.1, 0.2, 0.9), array(0, 0, 1))
    assert measured["auc_ci95"] == measured["average_precision_ci95"] == [1, 1]


@pytest.mark.parametrize("digits", [0, 1, 2, 9])
def test_the_best_threshold_is_the_best_of_all(
    digits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 1)
    for seed in range(25):
        scores, targets = drawn(2 + seed, seed, digits=digits)
        measured = score_metrics(scores, targets)
        levels = sorted(set(scores.tolist()))
        midpoints = [(low + high) / 2 for low, high in itertools.pairwise(levels)]
        candidates = [0.0, *midpoints, np.nextafter(1.0, 2.0)]
        accuracies = [accuracy_at(threshold, scores, targets) for threshold in candidates]
        assert measured["best_threshold_accuracy"] == max(accuracies)
        assert max(accuracies) >= measured["accuracy"]
        assert accuracy_at(measured["best_threshold"], scores, targets) == max(accuracies)
        assert abs(measured["best_threshold"] - 0.5) == min(
            abs(threshold - 0.5)
            for threshold, accuracy in zip(candidates, accuracies, strict=True)
            if accuracy == max(accuracies)
        )


@pytest.mark.parametrize(
    ("scores", "targets", "threshold"),
    [
        ([0.2, 0.6], [1, 1], 0.0),
        ([0.2, 0.6], [0, 0], 1.0),
        ([0.2, 1.0], [0, 0], np.nextafter(1.0, 2.0)),
        ([0.3, 0.3], [0, 1], 1.0),
        ([0.125, 0.375, 0.625, 0.875], [0, 1, 0, 1], 0.75),
        ([0.1, 0.3, 0.6, 0.8], [0, 1, 0, 1], 0.7),
    ],
)
def test_the_best_threshold_nearest_to_a_half_is_chosen(
    scores: list[float], targets: list[float], threshold: float
) -> None:
    measured = score_metrics(array(*scores), array(*targets))
    assert measured["best_threshold"] == pytest.approx(threshold, rel=1e-15)


def test_no_records_give_no_metrics() -> None:
    assert score_metrics(array(), array()) == {}


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (array(0.5), array(), "vectors of the same length"),
        (array(0.5, 0.6), array(1), "vectors of the same length"),
        (np.ones((2, 1)), np.ones((2, 1)), "vectors of the same length"),
        (array(0.5, 1.1), array(1, 1), "numbers from 0 to 1"),
        (array(0.5, 0.5), array(-0.1, 1), "numbers from 0 to 1"),
        (array(0.5, np.nan), array(1, 1), "numbers from 0 to 1"),
    ],
)
def test_invalid_scores_and_targets_are_refused(
    scores: Floats, targets: Floats, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        score_metrics(scores, targets)


@pytest.mark.parametrize("digits", [1, 9])
def test_many_records_are_fast(digits: int) -> None:
    scores, targets = drawn(10_000, 0, digits=digits)
    began = time.perf_counter()
    score_metrics(scores, targets)
    assert time.perf_counter() - began < 10


def test_blocks_of_records_and_scores_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 50)
    for digits in (1, 9):
        scores, targets = drawn(300, 2, digits=digits)
        whole = score_metrics(scores, targets)
        monkeypatch.setattr(ranked, "LEVELS_AT_ONCE", 7)
        in_blocks = score_metrics(scores, targets)
        monkeypatch.undo()
        monkeypatch.setattr(bootstrap, "RESAMPLES", 50)
        for name, value in whole.items():
            assert in_blocks[name] == pytest.approx(value, rel=1e-12, abs=1e-15), name


def test_a_score_takes_few_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 2)
    monkeypatch.setattr(ranked, "LEVELS_AT_ONCE", 1_000)
    peaks = []
    for records in (2_000, 20_000):
        scores, targets = drawn(records, 0)
        score_metrics(scores[:99], targets[:99])  # what is loaded once
        tracemalloc.start()
        score_metrics(scores, targets)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 110 * 18_000
