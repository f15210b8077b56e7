"""Tests over seeds and records err as often as their p says, and find differences."""

import numpy as np
import pytest
from scipy import stats

from workflow.metrics.bootstrap import Floats, resampled_counts
from workflow.metrics.significance import Difference, holm, mean_difference, shared_variance

RECORDS = 60
TRIALS = 800
NOISE = {
    "records": (0.0, 1.0, 0.0),
    "seeds": (1.0, 0.0, 0.1),
    "both alike": (RECORDS**-0.5, 1.0, 0.0),
    "each record in each seed": (0.0, 0.0, 1.0),
    "all": (0.3, 1.0, 1.0),
}
"""Standard deviations of seeds, of records, and of a record in a seed."""


def significant(
    seeds: int, noise: tuple[float, float, float], true: float = 0.0, own_records: bool = False
) -> float:
    """The share of p below 0.05 among repeated experiments.

    Args:
        true: the true difference.
        own_records: each seed has other records.
    """
    draw = np.random.default_rng(0).standard_normal
    counts = np.concatenate([*resampled_counts(RECORDS, 0)])[:200].astype(np.float64)
    found = 0
    for _ in range(TRIALS):
        of_seeds, of_records, of_both = (
            scale * draw(shape)
            for scale, shape in zip(
                noise, [(seeds, 1), (seeds if own_records else 1, RECORDS), (seeds, RECORDS)],
                strict=True,
            )
        )  # fmt: skip
        differences = true + of_seeds + of_records + of_both
        resampled = differences @ counts.T / RECORDS
        shared = shared_variance(resampled, share=0.0 if own_records else 1.0)
        p = mean_difference(differences.mean(axis=1), shared, RECORDS).p
        found += p is not None and p < 0.05
    return found / TRIALS


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_equal_settings_seldom_differ(seeds: int, noise: str) -> None:
    rate = significant(seeds, NOISE[noise])
    assert 0.005 <= rate <= 0.075
    if noise in ("records", "seeds"):
        assert rate == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize("noise", ["records", "seeds"])
def test_equal_settings_on_other_records_for_each_seed(noise: str) -> None:
    rate = significant(5, NOISE[noise], own_records=True)
    assert rate == pytest.approx(0.05, abs=0.02)


def test_one_seed_tests_records() -> None:
    assert significant(1, NOISE["records"]) == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize(("noise", "true"), [("records", 0.5), ("seeds", 2.0), ("all", 1.0)])
def test_a_difference_is_found(noise: str, true: float) -> None:
    assert significant(5, NOISE[noise], true) > 0.85


def test_without_records_it_is_the_paired_t_test() -> None:
    differences = np.array([0.1, 0.2, 0.15, -0.02])
    expected = stats.ttest_1samp(differences, 0)
    found = mean_difference(differences)
    assert found.difference == pytest.approx(0.1075)
    assert found.interval == pytest.approx(expected.confidence_interval())
    assert found.p == pytest.approx(expected.pvalue)
    assert mean_difference(-differences).p == pytest.approx(expected.pvalue)


def test_the_critical_value_is_a_weighted_mean() -> None:
    """By hand: s²/n = 0.01 with 2 degrees of freedom, B = 0.03 with 99."""
    differences = np.array([-(0.03**0.5), 0, 0.03**0.5]) + 0.5
    found = mean_difference(differences, 0.03, 100)
    half = 0.2 * (0.25 * 4.302653 + 0.75 * 1.984217)
    assert found.interval == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)
    assert found.p is not None
    critical = 0.25 * stats.t.isf(found.p / 2, 2) + 0.75 * stats.t.isf(found.p / 2, 99)
    assert critical == pytest.approx(0.5 / 0.2)


def test_one_seed_has_the_degrees_of_freedom_of_records() -> None:
    assert mean_difference(np.array([0.1]), 0.0025, 21).p == pytest.approx(2 * stats.t.sf(2, 20))


def test_nothing_varies() -> None:
    same = np.full(3, 0.1)
    assert mean_difference(same) == Difference(pytest.approx(0.1))
    assert mean_difference(same[:1]) == Difference(pytest.approx(0.1))
    assert mean_difference(same, 0.0, 11) == Difference(pytest.approx(0.1), None, 2**-10)
    assert mean_difference(same * 0, 0.0, 11) == Difference(0, None, 1)


def test_a_huge_ratio_has_a_tiny_p() -> None:
    p = mean_difference(np.array([1.0]), 1e-9, 1_000).p
    assert p is not None and 0 < p < 1e-11


def of_records(records: Floats) -> Floats:
    """Resampled means of (seeds, records)."""
    counts = np.concatenate([*resampled_counts(records.shape[1], 0)])
    return records @ counts.T / records.shape[1]


def test_the_shared_variance() -> None:
    draw = np.random.default_rng(1).standard_normal
    common = draw((1, 400))
    resampled = of_records(common + draw((4, 400)))
    assert shared_variance(resampled) == pytest.approx(common.var() / 400, rel=0.2)
    assert shared_variance(resampled[:1]) == pytest.approx(resampled[0].var(ddof=1))
    whole = resampled.var(axis=1, ddof=1).mean()
    assert shared_variance(resampled, 0.25) == pytest.approx(whole / 4)
    assert shared_variance(np.array([[1.0, 2.0], [2.0, 1.0]])) == 0


def test_holm() -> None:
    """By hand: 4 × 0.005, 3 × 0.01, 2 × 0.03, and 0.04, which is at least the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005], 4) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, 0.6], 10) == pytest.approx([0.1, 1.0])
    assert holm([], 0) == []
